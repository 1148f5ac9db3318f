//! Which writer gave out which change ids: how copies of a file, and old states of it, are told apart.
//!
//! Two files that began as one give out the same ids for different changes. So each engine that writes a replica begins
//! a *segment*, with its first captured transaction and in that transaction: the id of its first change, and a random
//! *token*. The segments of a file, its *lineage*, say for every change id who gave it out. Where two lineages
//! agree the changes are the same; from the first id on where they do not, each file has changes of its own.
//!
//! The remote knows the lineage of what it has acknowledged: rows among the watermarks, written in the transaction that
//! raises the watermark. A token is drawn once, so who knows the newest segment shares all before it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::log::{self, STATE_TABLE, WATERMARK_TABLE};
use crate::error::{Error, Result};

/// Beginning of names in [`STATE_TABLE`]; the token follows, the value is the first change id.
pub const MARK: &str = "lineage ";

/// Segments that are kept; older ones become a single one with the token [`FORGOTTEN`].
const KEPT: usize = 256;

/// Stands for segments that nobody remembers one by one.
const FORGOTTEN: i64 = 0;

/// Change ids that one writer gave out: from `first` to the beginning of the next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its first change id.
    pub first: i64,
    /// Names the writer; random, not 0.
    pub token: i64,
}

/// The segments of a file, or of what a remote has, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage(Vec<Segment>);

/// How far two lineages are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// They agree up to this id and no further.
    UpTo(i64),
    /// They agree up to this id; who gave out the next one is forgotten.
    Unknown(i64),
}

impl Lineage {
    /// Of these segments, in any order.
    pub fn new(mut segments: Vec<Segment>) -> Self {
        segments.sort_by_key(|segment| segment.first);
        Lineage(segments)
    }

    /// That of a replica.
    pub fn read(conn: &Connection) -> Result<Self> {
        let sql = format!("SELECT substr(name, ?1), value FROM {STATE_TABLE} WHERE name > ?2 AND name < ?3");
        let mut statement = conn.prepare(&sql)?;
        let rows = statement.query_map((MARK.len() as i64 + 1, MARK, "lineage!"), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })?;
        let segments = rows.map(|row| {
            let (token, first) = row?;
            let token = token.parse();
            let token = token.map_err(|_| Error::corrupt(format!("{STATE_TABLE} has a damaged lineage")))?;
            Ok(Segment { first, token })
        });
        Ok(Self::new(segments.collect::<Result<_>>()?))
    }

    /// Writes it into a replica that has none.
    pub fn write(&self, conn: &Connection) -> Result<()> {
        let mut statement = conn.prepare(&format!("INSERT OR REPLACE INTO {STATE_TABLE} VALUES (?1, ?2)"))?;
        for segment in &self.0 {
            statement.execute((format!("{MARK}{}", segment.token), segment.first))?;
        }
        Ok(())
    }

    /// Notes in a replica that ids from `segment.first` on are given out by another writer than before.
    pub fn begin_in(conn: &Connection, segment: Segment) -> Result<()> {
        let mut lineage = Lineage::read(conn)?;
        lineage.begin(segment);
        let sql = format!("DELETE FROM {STATE_TABLE} WHERE name > ?1 AND name < ?2");
        conn.execute(&sql, (MARK, "lineage!"))?;
        lineage.write(conn)
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Those from the one on that holds the change `id`.
    pub fn since(&self, id: i64) -> Self {
        let holds = self.0.iter().rposition(|segment| segment.first <= id);
        Lineage(self.0.get(holds.unwrap_or(0)..).unwrap_or_default().to_vec())
    }

    /// Those that hold changes up to `id`.
    pub fn until(&self, id: i64) -> Self {
        Lineage(self.0.iter().filter(|s| s.first <= id).copied().collect())
    }

    /// Begins a segment; one that holds nothing is replaced.
    pub fn begin(&mut self, segment: Segment) {
        self.0
            .retain(|s| s.first < segment.first && s.token != segment.token);
        self.0.push(segment);
    }

    /// The same with a bounded number of segments.
    pub fn bounded(mut self) -> Self {
        let excess = self.0.len().saturating_sub(KEPT);
        if let (1.., Some(oldest)) = (excess, self.0.first().copied()) {
            let forgotten = Segment {
                token: FORGOTTEN,
                ..oldest
            };
            self.0.splice(..excess, [forgotten]);
        }
        self
    }

    /// The segment that stands for those that are forgotten, if there is one, and the first change id behind it.
    pub fn forgotten(&self) -> Option<(Segment, i64)> {
        match self.0.as_slice() {
            [oldest, next, ..] if oldest.token == FORGOTTEN => Some((*oldest, next.first)),
            _ => None,
        }
    }

    /// Who gave out `id`, if it is known.
    pub fn token(&self, id: i64) -> Option<i64> {
        let holds = self.0.iter().rev().find(|segment| segment.first <= id);
        holds.map(|segment| segment.token)
    }

    /// How far this lineage and `other` agree, up to the change `last`. Up to `known` they do where it is forgotten.
    pub fn agreement(&self, other: &Lineage, known: i64, last: i64) -> Agreement {
        // A token is drawn once: before a segment that both have, they are the same.
        let common = |s: &&Segment| s.token != FORGOTTEN && other.0.contains(s);
        let begin = self.0.iter().rev().find(common).map_or(1, |s| s.first);
        let mut begins: Vec<i64> = [&self.0, &other.0]
            .into_iter()
            .flatten()
            .map(|s| s.first)
            .collect();
        begins.push(begin);
        begins.push(known.saturating_add(1));
        begins.sort_unstable();
        for id in begins.into_iter().filter(|id| (begin..=last).contains(id)) {
            let (ours, theirs) = (self.token(id), other.token(id));
            if ours == theirs {
                continue;
            }
            let forgotten = [ours, theirs].contains(&Some(FORGOTTEN));
            match forgotten {
                true if id <= known => {}
                true => return Agreement::Unknown(id - 1),
                false => return Agreement::UpTo(id - 1),
            }
        }
        Agreement::UpTo(last)
    }

    /// True if all changes up to `last` are in this lineage, if `newest` is the token of the last of them; 0 if it has
    /// none.
    pub fn includes(&self, newest: i64, last: i64) -> bool {
        self.until(last).0.last().map_or(0, |s| s.token) == newest
    }
}

/// What a database that has the watermarks says about a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// What was acknowledged to it: (pull_gen, change_id).
    pub watermark: Option<(i64, i64)>,
    /// Who gave those ids out.
    pub lineage: Lineage,
}

impl Claim {
    /// Reads what `conn` says about `client_id`. Whatever else a remote keeps under these names is an error.
    pub fn read(conn: &Connection, client_id: &str) -> Result<Self> {
        if !log::has_table(conn, WATERMARK_TABLE)? {
            return Ok(Claim::default());
        }
        let prefix = format!("{}/", lineage_id(client_id));
        let end = format!("{}0", lineage_id(client_id));
        let sql = format!(
            "SELECT client_id, change_id FROM {WATERMARK_TABLE} WHERE client_id > ?1 AND client_id < ?2
             ORDER BY change_id DESC LIMIT {}",
            2 * KEPT
        );
        let mut statement = conn.prepare(&sql)?;
        let rows = statement.query_map((&prefix, &end), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })?;
        let mut segments = Vec::new();
        for row in rows {
            let (id, first) = row?;
            let token = id.strip_prefix(&prefix).and_then(|token| token.parse().ok());
            let token =
                token.ok_or_else(|| Error::protocol("the remote's lineage of this replica is malformed"))?;
            segments.push(Segment { first, token });
        }
        Ok(Claim {
            watermark: super::state::read_watermark(conn, client_id)?,
            lineage: Lineage::new(segments),
        })
    }
}

/// Under which the token of the newest segment lies among the watermarks; those of the segments follow behind a `/`.
pub fn lineage_id(client_id: &str) -> String {
    format!("{client_id}/lineage")
}

/// An engine as a writer: gives its connections the token of the segment that they write.
pub struct Writer {
    draw: Box<dyn Fn() -> i64 + Send + Sync>,
    now: Mutex<Option<Writing>>,
}

struct Writing {
    token: i64,
    /// The last change that was committed.
    last: i64,
}

impl Writer {
    /// `draw` gives a random number each time.
    pub fn new(draw: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Writer {
            draw: Box::new(draw),
            now: Mutex::new(None),
        }
    }

    /// A token that nobody has, not 0.
    pub fn new_token(&self) -> i64 {
        ((self.draw)() & i64::MAX).max(1)
    }

    /// The token for changes behind the change `last` of the file. Another one than before if the file has lost changes:
    /// somebody has put back an old state of it.
    pub(super) fn token(&self, last: i64) -> i64 {
        let mut now = self.lock();
        match &*now {
            Some(writing) if writing.last <= last => writing.token,
            _ => {
                let token = self.new_token();
                *now = Some(Writing { token, last });
                token
            }
        }
    }

    /// Changes up to `last` are committed.
    pub(super) fn committed(&self, last: i64) {
        if let Some(writing) = &mut *self.lock() {
            writing.last = writing.last.max(last);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writing>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(segments: &[(i64, i64)]) -> Lineage {
        Lineage::new(
            segments
                .iter()
                .map(|&(first, token)| Segment { first, token })
                .collect(),
        )
    }

    #[test]
    fn lineages_agree_up_to_the_first_difference() {
        let ours = lineage(&[(1, 11), (4, 12), (9, 13)]);
        for (theirs, last, agreed) in [
            (&[(1, 11), (4, 12)][..], 8, 8),
            (&[(1, 11), (4, 12)], 10, 8),
            (&[(1, 11), (4, 12), (9, 13)], 10, 10),
            (&[(1, 11), (6, 14)], 7, 3),
            (&[(1, 11), (4, 14)], 7, 3),
            (&[(1, 15)], 7, 0),
            (&[], 7, 0),
            (&[], 0, 0),
        ] {
            let theirs = lineage(theirs);
            assert_eq!(ours.agreement(&theirs, 0, last), Agreement::UpTo(agreed));
            assert_eq!(theirs.agreement(&ours, 0, last), Agreement::UpTo(agreed));
            let newest = theirs.segments().last().map_or(0, |s| s.token);
            assert_eq!(ours.includes(newest, last), agreed == last);
        }
    }

    #[test]
    fn what_is_forgotten_agrees_only_as_far_as_it_is_known() {
        let mut long = Lineage::default();
        for i in 0..KEPT as i64 + 10 {
            long.begin(Segment {
                first: 1 + 2 * i,
                token: 100 + i,
            });
        }
        let bounded = long.clone().bounded();
        assert_eq!(bounded.segments().len(), KEPT + 1);
        assert_eq!(bounded.clone().bounded().segments().len(), KEPT + 1);
        // Whoever has one of the segments that are kept has had all before it.
        assert_eq!(long.agreement(&bounded, 0, 500), Agreement::UpTo(500));
        assert_eq!(bounded.agreement(&bounded, 0, 500), Agreement::UpTo(500));
        let old = long.until(9);
        assert_eq!(old.agreement(&bounded, 7, 500), Agreement::Unknown(7));
        assert_eq!(old.agreement(&bounded, 20, 500), Agreement::UpTo(20));
        // A difference before what is forgotten is known all the same.
        assert_eq!(lineage(&[(1, 5)]).agreement(&long, 0, 9), Agreement::UpTo(0));
    }

    #[test]
    fn segments_without_changes_are_replaced() {
        let mut l = lineage(&[(1, 11), (4, 12)]);
        l.begin(Segment { first: 4, token: 13 });
        assert_eq!(l, lineage(&[(1, 11), (4, 13)]));
        assert_eq!(l.since(3), l);
        assert_eq!(l.since(4), lineage(&[(4, 13)]));
        assert_eq!(l.until(3), lineage(&[(1, 11)]));
    }

    #[test]
    fn a_writer_begins_anew_when_changes_are_gone() {
        let drawn = Mutex::new(0);
        let writer = Writer::new(move || {
            let mut drawn = drawn.lock().unwrap();
            *drawn += 1;
            *drawn
        });
        assert_eq!(writer.token(3), 1);
        writer.committed(5);
        assert_eq!(writer.token(5), 1);
        assert_eq!(writer.token(9), 1);
        assert_eq!(writer.token(4), 2);
        assert_eq!(writer.token(4), 2);
    }
}

//! At which revision each page last changed: a small SQLite file next to the database.
//!
//! Every revision is a number that only grows, under an identity made once. What the file does not know, it
//! treats as changed: a delta may be larger than needed, never smaller.
//!
//! Numbers jump to the time of day whenever the history is opened. So when a backup of the database and this file is
//! put back, the numbers given out after the backup are never given out again, and clients that have them are
//! told that their revision is unknown, instead of being sent deltas that do not fit.

use std::path::Path;

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::wal::{Position, Scan};
use crate::error::{Category, Code, Error, Result};

/// The current layout of the side file.
const LAYOUT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE state (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        identity TEXT NOT NULL,        -- random, names this history
        revision INTEGER NOT NULL,     -- the newest
        floor INTEGER NOT NULL,        -- pages without a row in page count as changed here
        pages INTEGER NOT NULL,        -- database size at revision
        wal_salts INTEGER NOT NULL,    -- everything in the write-ahead log up to here is recorded
        wal_frames INTEGER NOT NULL,
        wal_sum1 INTEGER NOT NULL,
        wal_sum2 INTEGER NOT NULL,
        stamp TEXT NOT NULL            -- of the database file, after our last complete checkpoint
    );
    CREATE TABLE page (no INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
    CREATE INDEX page_by_revision ON page (revision);
    CREATE TABLE run (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);   -- numbers given out
    CREATE TABLE size (revision INTEGER PRIMARY KEY, pages INTEGER NOT NULL);
    PRAGMA user_version = 1;";

/// Sizes of this many revisions back are remembered for pinned requests.
const SIZES_KEPT: i64 = 100_000;

/// Runs of numbers remembered: clients with older ones have to fetch the database again.
const RUNS_KEPT: i64 = 100_000;

/// The page history of one database. One process at a time: the side file stays locked.
pub struct History {
    db: Connection,
    state: State,
    /// The next revision has at least this number.
    jump: i64,
}

#[derive(Debug, Clone, PartialEq)]
struct State {
    identity: String,
    revision: i64,
    floor: i64,
    pages: u32,
    position: Position,
    stamp: String,
}

impl History {
    /// Opens the side file, or begins a new history with the given identity. `now_us` is the time in microseconds.
    pub fn open(path: &Path, new_identity: &str, now_us: i64) -> Result<Self> {
        let name = path.display();
        let fail = |e: Error| match e.code {
            Code::Busy => Error::busy(format!(
                "{name} is locked: another server already serves this database"
            )),
            _ => e.context(format!(
                "{name} (if it is damaged, delete it: clients will then have to fetch the database again)"
            )),
        };
        let mut db = Connection::open(path).map_err(|e| fail(e.into()))?;
        let state = Self::prepare(&mut db, new_identity).map_err(fail)?;
        Ok(History {
            db,
            state,
            jump: now_us,
        })
    }

    fn prepare(db: &mut Connection, new_identity: &str) -> Result<State> {
        db.busy_timeout(std::time::Duration::from_secs(1))?;
        db.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")?;
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
        match tx.query_row("PRAGMA user_version", [], |r| r.get(0))? {
            0 => {
                tx.execute_batch(SCHEMA)?;
                // Revision 0 is nothing: the first scan cannot continue it and makes all pages changed.
                tx.execute(
                    "INSERT INTO state VALUES (1, ?, 0, 0, 0, 0, 0, 0, 0, '')",
                    [new_identity],
                )?;
            }
            LAYOUT => {}
            other => {
                let text = format!("layout {other} was written by a newer version");
                return Err(Error::new(Category::Storage, Code::Error, text));
            }
        }
        let state = tx.query_row("SELECT * FROM state", [], |r| {
            Ok(State {
                identity: r.get(1)?,
                revision: r.get(2)?,
                floor: r.get(3)?,
                pages: r.get(4)?,
                position: Position {
                    salts: r.get::<_, i64>(5)? as u64,
                    frames: r.get::<_, i64>(6)? as u64,
                    checksum: (r.get(7)?, r.get(8)?),
                },
                stamp: r.get(9)?,
            })
        })?;
        tx.commit()?;
        Ok(state)
    }

    /// Up to where the write-ahead log is recorded.
    pub fn position(&self) -> Position {
        self.state.position
    }

    /// Number of the newest revision.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }

    /// The revision `number` as clients see it.
    pub fn name(&self, number: i64) -> String {
        format!("{}:{number}", self.state.identity)
    }

    /// The number in a client's revision, if it is one of this history.
    pub fn number(&self, name: &str) -> Result<Option<i64>> {
        let text = name
            .strip_prefix(self.state.identity.as_str())
            .and_then(|rest| rest.strip_prefix(':'));
        let Some(number) = text.and_then(|text| text.parse::<i64>().ok()) else {
            return Ok(None);
        };
        let sql = "SELECT last FROM run WHERE first <= ? ORDER BY first DESC LIMIT 1";
        let last: Option<i64> = self
            .db
            .prepare_cached(sql)?
            .query_row([number], |r| r.get(0))
            .optional()?;
        Ok(last.filter(|last| number <= *last).map(|_| number))
    }

    /// Records what `scan` found in the log after [`position`](Self::position). `pages` is the database's size
    /// and `stamp` its file's, both taken under the write lock under which the log was scanned.
    pub fn record(&mut self, scan: &Scan, pages: u32, stamp: &str) -> Result<()> {
        let old = &self.state;
        // A log that has started over is complete if nobody moved anything into the file since our checkpoint.
        let complete = scan.continued || (!stamp.is_empty() && stamp == old.stamp);
        let mut new = State {
            position: scan.position,
            pages,
            ..old.clone()
        };
        if !complete || !scan.pages.is_empty() || pages != old.pages {
            new.revision = self.jump.max(old.revision + 1);
        }
        if !complete {
            new.floor = new.revision;
        }
        if new == *old {
            return Ok(());
        }
        let tx = self.db.transaction()?;
        if new.floor != old.floor {
            tx.execute("DELETE FROM page", [])?;
        } else if new.revision != old.revision {
            // Pages that a grown database did not write (free ones) are new to the client all the same.
            let grown = scan.smallest.unwrap_or(old.pages).min(old.pages) + 1..=pages;
            mark(&tx, scan.pages.iter().chain(grown), new.revision)?;
        }
        if new.pages != old.pages || new.floor != old.floor {
            tx.execute(
                "INSERT OR REPLACE INTO size VALUES (?, ?)",
                params![new.revision, pages],
            )?;
            tx.execute("DELETE FROM size WHERE revision < ?", [new.revision - SIZES_KEPT])?;
        }
        if new.revision == old.revision + 1 && old.revision > 0 {
            tx.execute(
                "UPDATE run SET last = ? WHERE last = ?",
                [new.revision, old.revision],
            )?;
        } else if new.revision != old.revision {
            tx.execute("INSERT INTO run VALUES (?, ?)", [new.revision; 2])?;
            // One for each time that the database was opened and then written.
            tx.execute(
                "DELETE FROM run WHERE first < (SELECT first FROM run ORDER BY first DESC LIMIT 1 OFFSET ?)",
                [RUNS_KEPT],
            )?;
        }
        save(&tx, &new)?;
        tx.commit()?;
        self.state = new;
        Ok(())
    }

    /// Records that a complete checkpoint left the database's file with this stamp.
    pub fn record_checkpoint(&mut self, stamp: &str) -> Result<()> {
        let new = State {
            stamp: stamp.to_owned(),
            ..self.state.clone()
        };
        let tx = self.db.transaction()?;
        save(&tx, &new)?;
        tx.commit()?;
        self.state = new;
        Ok(())
    }

    /// Pages up to `size` that changed after revision `since`; page 1 is among them whenever anything changed.
    pub fn changed_since(&self, since: i64, size: u32) -> Result<RoaringBitmap> {
        let mut pages = RoaringBitmap::new();
        if since == self.state.revision || size == 0 {
            return Ok(pages);
        }
        if since < self.state.floor {
            pages.insert_range(1..=size);
            return Ok(pages);
        }
        let mut query = self
            .db
            .prepare_cached("SELECT no FROM page WHERE revision > ? AND no <= ?")?;
        for no in query.query_map([since, size.into()], |r| r.get::<_, u32>(0))? {
            pages.insert(no?);
        }
        pages.insert(1);
        Ok(pages)
    }

    /// Newest revision, its size in pages, and pages of which it is known when they changed.
    pub fn figures(&self) -> Result<(i64, u32, u64)> {
        let sql = "SELECT count(*) FROM page";
        let known: i64 = self.db.prepare_cached(sql)?.query_row([], |r| r.get(0))?;
        Ok((self.state.revision, self.state.pages, known.unsigned_abs()))
    }

    /// Database size in pages at revision `number`, if it is still known.
    pub fn size_at(&self, number: i64) -> Result<Option<u32>> {
        let sql = "SELECT pages FROM size WHERE revision <= ? ORDER BY revision DESC LIMIT 1";
        Ok(self
            .db
            .prepare_cached(sql)?
            .query_row([number], |r| r.get(0))
            .optional()?)
    }
}

fn mark(tx: &Transaction<'_>, pages: impl Iterator<Item = u32>, revision: i64) -> Result<()> {
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO page VALUES (?, ?)")?;
    for no in pages {
        statement.execute(params![no, revision])?;
    }
    Ok(())
}

fn save(tx: &Transaction<'_>, state: &State) -> Result<()> {
    tx.execute(
        "UPDATE state SET revision=?, floor=?, pages=?, wal_salts=?, wal_frames=?, wal_sum1=?, wal_sum2=?, stamp=?",
        params![
            state.revision,
            state.floor,
            state.pages,
            state.position.salts as i64,
            state.position.frames as i64,
            state.position.checksum.0,
            state.position.checksum.1,
            state.stamp
        ],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(continued: bool, pages: &[u32]) -> Scan {
        Scan {
            continued,
            position: Position {
                salts: u64::MAX,
                frames: 7,
                checksum: (1, u32::MAX),
            },
            pages: pages.iter().collect(),
            smallest: None,
        }
    }

    fn history(dir: &tempfile::TempDir) -> History {
        History::open(&dir.path().join("side"), "id", 0).unwrap()
    }

    #[test]
    fn remembers_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut h = history(&dir);
        h.record(&scan(true, &[]), 9, "").unwrap();
        let base = h.revision();
        h.record(&scan(true, &[3]), 9, "").unwrap();
        h.record(&scan(true, &[4, 12]), 9, "").unwrap();
        let state = h.state.clone();
        drop(h);
        let h = history(&dir);
        assert_eq!(h.state, state);
        assert_eq!(h.revision(), base + 2);
        assert_eq!(h.changed_since(base, 9).unwrap(), RoaringBitmap::from([1, 3, 4]));
        assert_eq!(h.changed_since(base + 1, 9).unwrap(), RoaringBitmap::from([1, 4]));
        assert!(h.changed_since(base + 2, 9).unwrap().is_empty());
        assert_eq!(h.changed_since(0, 9).unwrap().len(), 9);
    }

    #[test]
    fn the_unknown_counts_as_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut h = history(&dir);
        h.record(&scan(true, &[]), 9, "a").unwrap();
        h.record_checkpoint("a").unwrap();
        let base = h.revision();
        h.record(&scan(false, &[5]), 9, "a").unwrap();
        assert_eq!(h.changed_since(base, 9).unwrap(), RoaringBitmap::from([1, 5]));
        h.record(&scan(false, &[6]), 9, "b").unwrap();
        assert_eq!(h.changed_since(base + 1, 9).unwrap().len(), 9);
    }

    #[test]
    fn growth_includes_pages_that_were_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut h = history(&dir);
        h.record(&scan(true, &[]), 9, "").unwrap();
        let base = h.revision();
        h.record(
            &Scan {
                smallest: Some(5),
                ..scan(true, &[2])
            },
            10,
            "",
        )
        .unwrap();
        assert_eq!(
            h.changed_since(base, 10).unwrap(),
            RoaringBitmap::from([1, 2, 6, 7, 8, 9, 10])
        );
        assert_eq!(
            (h.size_at(base).unwrap(), h.size_at(base + 1).unwrap()),
            (Some(9), Some(10))
        );
    }

    #[test]
    fn names() {
        let dir = tempfile::tempdir().unwrap();
        let mut h = history(&dir);
        h.record(&scan(true, &[]), 9, "").unwrap();
        let current = h.revision();
        assert_eq!(h.number(&h.name(current)).unwrap(), Some(current));
        for foreign in [
            "",
            "id",
            "id:",
            "id:0",
            "id:-1",
            "id:x",
            "other:1",
            &h.name(current + 1),
        ] {
            assert_eq!(h.number(foreign).unwrap(), None, "{foreign}");
        }
    }

    #[test]
    fn numbers_are_not_given_out_again_after_a_backup_was_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let open = |now| History::open(&dir.path().join("side"), "id", now).unwrap();
        let mut h = open(1000);
        h.record(&scan(true, &[]), 9, "").unwrap();
        let saved = h.revision();
        drop(h);
        let backup = std::fs::read(dir.path().join("side")).unwrap();
        let mut h = open(2000);
        h.record(&scan(true, &[3]), 9, "").unwrap();
        let lost = h.revision();
        drop(h);
        std::fs::write(dir.path().join("side"), backup).unwrap();
        let mut h = open(3000);
        for page in 1..5 {
            h.record(&scan(true, &[page]), 9, "").unwrap();
        }
        assert!(h.revision() > lost);
        assert_eq!(h.number(&h.name(lost)).unwrap(), None);
        assert_eq!(h.number(&h.name(saved)).unwrap(), Some(saved));
        assert_eq!(
            h.number(&h.name(h.revision() - 1)).unwrap(),
            Some(h.revision() - 1)
        );
    }

    #[test]
    fn one_server_at_a_time_and_only_known_layouts() {
        let dir = tempfile::tempdir().unwrap();
        let h = history(&dir);
        let path = dir.path().join("side");
        assert!(
            History::open(&path, "x", 0)
                .err()
                .unwrap()
                .message
                .contains("another server")
        );
        drop(h);
        Connection::open(&path)
            .unwrap()
            .execute_batch("PRAGMA user_version=9")
            .unwrap();
        assert!(
            History::open(&path, "x", 0)
                .err()
                .unwrap()
                .message
                .contains("newer version")
        );
        std::fs::write(&path, [7; 5000]).unwrap();
        assert!(
            History::open(&path, "x", 0)
                .err()
                .unwrap()
                .message
                .contains("delete it")
        );
    }
}

//! The pages of a pull while they are downloaded: in requests of bounded size, and again from where it stopped after an
//! interruption, also one by the end of the process.
//!
//! Both need a remote that sends pages in ascending order and says how many are still missing, as our server does: then what
//! has arrived tells up to which page the remote's state is known. A download is a sequence of passes. Each brings the pages
//! from the first to the last one up to a revision, its target, that is the newest one when the pass begins. Who goes
//! on with an interrupted download, or learns that the remote no longer serves the target, begins a new pass: for the pages that
//! had arrived, only what has changed since is asked for. So a download always ends at the newest revision, and brings hardly
//! anything twice.
//!
//! In `<db>-changes` a pass is a note of its target and the pages that have arrived. The title says to what state of the replica
//! they belong. A remote that does not promise the order is asked once, and its answer goes with the process.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Category, Code, Error, Result};
use crate::pages::{Changes, ChangesWriter, Left, PAGE_SIZE, Page};
use crate::protocol::pull::{PullHeader, PullUpdatesRequest};
use crate::protocol::selector;

/// So often a pass begins anew within an operation before everything is asked for at once.
const NEW_PASSES: u32 = 3;
/// Records of a file per page of the database, and beside them, from which on it is worth beginning again.
const MAX_RECORDS: (u64, u64) = (2, 1024);

/// Most ids in a question: what a remote claims about its size must not cost memory, and a URL must not be too long.
const IDS_AT_ONCE: u32 = 1 << 23;

/// What a download is about: it is of no use for anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Title {
    /// The replica and its base.
    pub client_id: String,
    /// Counts the bases.
    pub epoch: i64,
    /// Revision of the base.
    pub base: String,
    /// The pages are a difference to this revision; empty: all pages.
    pub from: String,
    /// The revision that is wanted; empty: the newest.
    pub to: String,
    /// No two files have the same.
    pub id: String,
}

/// Where a pass leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Target {
    revision: String,
    pages: u32,
}

/// The ids below `end`, and not below that of the one before, are known as of `revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    end: u32,
    revision: String,
}

/// Which pages are known as of which revision.
#[derive(Debug, PartialEq, Eq)]
struct Extent {
    /// As of before the pass; never empty, and the last one has no end.
    before: Vec<Known>,
    /// Of the pass; not known before its first answer.
    target: Option<Target>,
    /// Ids below this one are as in the target.
    done: u32,
}

impl Extent {
    fn new(from: &str) -> Self {
        let all = Known {
            end: u32::MAX,
            revision: from.to_owned(),
        };
        Extent {
            before: vec![all],
            target: None,
            done: 0,
        }
    }

    /// What has arrived in this pass is what the next one begins with.
    fn next_pass(&mut self) {
        let done = std::mem::take(&mut self.done);
        let Some(target) = self.target.take().filter(|_| done > 0) else {
            return;
        };
        self.before.retain(|known| known.end > done);
        let same = self.before.first().is_some_and(|k| k.revision == target.revision);
        if !same {
            let known = Known {
                end: done,
                revision: target.revision,
            };
            self.before.insert(0, known);
        }
    }

    /// The next ids to ask for, and as of which revision they are known. `None` if there are none.
    fn next(&self) -> Option<(Range<u32>, &str)> {
        let known = self.before.iter().find(|known| known.end > self.done)?;
        let end = match &self.target {
            None if self.before.len() == 1 => u32::MAX,
            None => known.end.min(IDS_AT_ONCE),
            Some(target) if self.done >= target.pages => return None,
            Some(target) => {
                let most = self.done.saturating_add(IDS_AT_ONCE);
                known.end.min(target.pages).min(most)
            }
        };
        Some((self.done..end, known.revision.as_str()))
    }

    /// Leaves out what is known as of the target already.
    fn skip(&mut self) {
        let target = self.target.as_ref().map(|target| target.revision.as_str());
        while let Some((ids, known)) = self.next()
            && Some(known) == target
        {
            self.done = ids.end;
        }
    }

    /// Nothing has arrived.
    fn is_empty(&self) -> bool {
        self.before.len() == 1 && self.done == 0
    }
}

/// The answer that is arriving.
#[derive(Default)]
struct Answer {
    ids: Range<u32>,
    /// It is to a question for everything, from a remote that is not known to keep an order.
    alone: bool,
    header: bool,
    remaining: u64,
}

/// What a download has brought.
pub struct Delivery {
    /// Revision of the remote.
    pub revision: String,
    /// Size of the remote in pages.
    pub pages: u32,
    /// The remote counts what it sends: where nothing came, there was nothing.
    pub counted: bool,
    /// The pages; `None` if there were none.
    pub changes: Option<Changes>,
}

/// See the module's description. Memory: a few bytes per page.
pub struct Delta {
    path: PathBuf,
    title: Title,
    /// Most pages of an answer, 0 = no limit.
    limit: u32,
    extent: Extent,
    /// Made for the first page: who waits for news has no file.
    writer: Option<ChangesWriter>,
    answer: Answer,
    counted: bool,
    /// Passes that have begun anew in this operation.
    again: u32,
    /// What failed contradicted what was there, which is gone now.
    contradicted: bool,
}

impl Delta {
    /// Goes on with what was left at `path` under this title, or begins. `limit` is for the pages of an answer, 0 = no limit.
    pub fn resume(path: &Path, title: Title, limit: u32) -> Result<Self> {
        let mut extent = Extent::new(&title.from);
        let mut entitled = false;
        let writer = ChangesWriter::resume(path, &mut |left| {
            match left {
                Left::Note(note) if !entitled => entitled = is_about(note, &title),
                Left::Note(note) => {
                    extent.next_pass();
                    extent.target = parse(note);
                }
                Left::Page(page_no) => extent.done = page_no,
            }
            Ok(entitled && (extent.done == 0 || extent.target.is_some()))
        })?;
        let mut delta = Delta {
            path: path.to_owned(),
            title,
            limit,
            extent,
            writer,
            answer: Answer::default(),
            counted: false,
            again: 0,
            contradicted: false,
        };
        delta.next_pass();
        match &delta.writer {
            Some(writer) if !delta.extent.is_empty() => {
                tracing::debug!(records = writer.records(), "an interrupted download goes on");
            }
            _ => delta.clear(),
        }
        Ok(delta)
    }

    /// Everything up to the newest revision is asked for again, beginning with what has changed in what is there. A file in
    /// which most is out of date is not worth that.
    fn next_pass(&mut self) {
        self.extent.next_pass();
        let pages = self
            .extent
            .before
            .iter()
            .rev()
            .nth(1)
            .map_or(0, |known| known.end);
        let most = u64::from(pages) * MAX_RECORDS.0 + MAX_RECORDS.1;
        if self.writer.as_ref().is_some_and(|writer| writer.records() > most) {
            self.clear();
        }
    }

    /// What to ask the remote for; `None` if everything is there. `wait_ms`: how long it may hold an empty answer.
    pub fn next_request(&mut self, wait_ms: u32) -> Result<Option<PullUpdatesRequest>> {
        self.extent.skip();
        let Some((ids, known)) = self.extent.next() else {
            return Ok(None);
        };
        let target = self.extent.target.as_ref().map(|target| target.revision.clone());
        let everything = ids == (0..u32::MAX);
        let limit = match self.again {
            ..NEW_PASSES => self.limit,
            _ => 0,
        };
        let newest = target.is_none() && self.title.to.is_empty();
        let request = PullUpdatesRequest {
            client_revision: known.to_owned(),
            long_poll_timeout_ms: match everything && newest && !known.is_empty() {
                true => wait_ms,
                false => 0,
            },
            server_pages_selector: match everything {
                true => Vec::new(),
                false => selector::encode_range(ids.clone())?,
            },
            max_pages: match (everything, limit) {
                // Says that this is a part.
                (false, 0) => u32::MAX,
                _ => limit,
            },
            server_revision: target.unwrap_or_else(|| self.title.to.clone()),
            ..Default::default()
        };
        self.answer = Answer {
            ids,
            ..Answer::default()
        };
        Ok(Some(request))
    }

    /// The header of an answer.
    pub fn header(&mut self, header: &PullHeader) -> Result<()> {
        let pages = u32::try_from(header.db_size);
        let target = Target {
            revision: header.server_revision.clone(),
            pages: pages.map_err(|_| Error::protocol("the remote database is too large"))?,
        };
        if !self.title.to.is_empty() && target.revision != self.title.to {
            let text = "the remote sent another revision than it was asked for";
            return Err(Error::new(Category::Remote, Code::Error, text));
        }
        self.answer.header = true;
        self.counted = header.page_count.is_some();
        let ordered = header.remaining.filter(|_| self.counted);
        let begun = !self.extent.is_empty() || self.extent.target.is_some();
        if (begun && ordered.is_none()) || self.extent.target.as_ref().is_some_and(|begun| *begun != target) {
            return Err(self.contradiction("the remote changed in the middle of a download"));
        }
        self.answer.remaining = ordered.unwrap_or(0);
        self.answer.alone = ordered.is_none();
        if self.extent.target.is_none() {
            self.extent.target = Some(target);
            if self.writer.is_some() {
                self.note_target()?;
            }
        }
        Ok(())
    }

    /// Page `page_no` (from 1) of the answer; each may come once.
    pub fn page(&mut self, page_no: u32, data: &Page) -> Result<()> {
        let id = page_no.wrapping_sub(1);
        if !self.answer.ids.contains(&id) {
            return Err(self.contradiction("the remote sent a page that it was not asked for"));
        }
        if self.writer.is_none() {
            self.begin_file()?;
        }
        let writer = self.writer.as_mut();
        writer
            .ok_or_else(|| Error::internal("a download without a file"))?
            .page(page_no, data)?;
        if !self.answer.alone {
            self.extent.done = page_no;
        }
        Ok(())
    }

    /// The remote is not the one any more that has sent what is there: it has to be asked for everything.
    fn contradiction(&mut self, what: &str) -> Error {
        self.clear();
        self.contradicted = true;
        Error::protocol(what).retry()
    }

    fn begin_file(&mut self) -> Result<()> {
        let title = serde_json::to_vec(&self.title).map_err(unwritable)?;
        let named = !self.answer.alone && title.len() <= PAGE_SIZE;
        self.writer = Some(match named {
            true => ChangesWriter::create_named(&self.path, &title)?,
            false => ChangesWriter::create(&self.path)?,
        });
        self.note_target()
    }

    fn note_target(&mut self) -> Result<()> {
        let (Some(writer), Some(target)) = (&mut self.writer, &self.extent.target) else {
            return Ok(());
        };
        let note = serde_json::to_vec(target).map_err(unwritable)?;
        match note.len() <= PAGE_SIZE {
            true => writer.note(&note)?,
            // Nobody could tell of which revision the pages are.
            false => writer.remove_name(),
        }
        Ok(())
    }

    /// The answer is complete.
    pub fn answered(&mut self) {
        if self.answer.remaining == 0 {
            let size = self.extent.target.as_ref().map_or(0, |target| target.pages);
            self.extent.done = self.answer.ids.end.min(size);
        }
    }

    /// The request failed. True if there is another way to go on at once.
    pub fn recovers(&mut self, e: &Error) -> bool {
        let refused = e.http_status == Some(409);
        let recovers = match refused && self.title.to.is_empty() {
            true => self.revision_is_gone(),
            false => std::mem::take(&mut self.contradicted),
        };
        // Nothing of a remote is to be kept that has broken the protocol, and a full disk needs the space.
        let broken = e.category == Category::Protocol && !e.retryable && self.answer.header;
        if broken || e.category == Category::Storage || (refused && !recovers) {
            self.clear();
        }
        if !recovers || self.again > 2 * NEW_PASSES {
            return false;
        }
        self.again += 1;
        if self.again == NEW_PASSES {
            // The remote does not keep a revision for as long as the requests take.
            self.clear();
        }
        true
    }

    /// The remote does not have the revision that was asked for. True if others were asked for than the base's.
    fn revision_is_gone(&mut self) -> bool {
        if self.extent.target.is_some() {
            self.next_pass();
            return true;
        }
        let begun = !self.extent.is_empty();
        self.clear();
        begun
    }

    /// Forgets everything.
    fn clear(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.remove_name();
        }
        self.extent = Extent::new(&self.title.from);
    }

    /// Ends a download of which nothing is missing.
    pub fn finish(self) -> Result<Delivery> {
        let target = self.extent.target;
        let target = target.ok_or_else(|| Error::internal("a download ended without an answer"))?;
        let changes = self
            .writer
            .map(|writer| writer.finish(target.pages))
            .transpose()?;
        Ok(Delivery {
            changes,
            revision: target.revision,
            pages: target.pages,
            counted: self.counted,
        })
    }
}

/// Removes what was left at `path` unless it is of use for `is_ours`, or somebody else is at it.
pub fn remove_foreign(path: &Path, is_ours: impl Fn(&Title) -> bool) -> Result<()> {
    ChangesWriter::remove_unless(path, &|title| parse(title).is_some_and(|title| is_ours(&title)))
}

/// Whether `note` is this title, but for the id.
fn is_about(note: &[u8], title: &Title) -> bool {
    parse(note).is_some_and(|found: Title| {
        let id = title.id.clone();
        Title { id, ..found } == *title
    })
}

fn parse<T: for<'a> Deserialize<'a>>(note: &[u8]) -> Option<T> {
    let end = note
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    serde_json::from_slice(note.get(..end)?).ok()
}

fn unwritable(e: serde_json::Error) -> Error {
    Error::internal(format!("a note about a download: {e}"))
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;

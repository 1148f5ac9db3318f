//! Checkpoint: moves the write-ahead log into the main file, after saving the base images that this overwrites.

use std::time::Duration;

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::pages::main_file::{self, Snapshot, Stamp};
use crate::pages::revert::{Revert, Slot};
use crate::pages::{BaseState, LOCK_PAGE, PAGE_SIZE, PageStore, base_lost, fault};

/// Entries below which compacting the revert file is not worth while; few in tests, so that they see it often.
const COMPACT_FROM: u64 = if cfg!(test) { 4 } else { 64 };

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckpointReport {
    /// Frames in the log when it began.
    pub log_frames: u32,
    /// Frames of the log that the main file holds now; fewer than `log_frames` if readers still need old pages.
    pub copied_frames: u32,
    /// Base images added to the revert file.
    pub saved_pages: u64,
    /// Base images dropped from the revert file, because the main file holds them again.
    pub dropped_pages: u64,
    /// The log is empty now.
    pub truncated: bool,
}

impl CheckpointReport {
    /// True if nothing is left in the log that the main file does not hold.
    pub fn complete(&self) -> bool {
        self.copied_frames == self.log_frames
    }
}

impl PageStore {
    /// Moves as much of the log into the main file as open read transactions allow, and empties the log if none of
    /// them needs it. Holds the write lock meanwhile; waits for it up to `busy_timeout`.
    pub fn checkpoint(&self, state: &BaseState, busy_timeout: Duration) -> Result<CheckpointReport> {
        let mut cache = self.lock();
        let writer = Snapshot::write(&self.main, busy_timeout)?;
        let mut revert = self.open_base(cache.take(), state, &writer)?.map_err(base_lost)?;
        self.check_strangers(&writer, revert.slot().saved)?;
        let before = revert.len();
        save_overwritten(&mut revert, &writer, state)?;
        let saved_pages = revert.len() - before;
        fault::point("checkpoint:after-save")?;

        let copier = main_file::open(&self.main, Duration::ZERO)?;
        self.check_unchanged(revert.slot().stamp)?;
        let copied = copy(&copier, "PASSIVE")
            .and_then(|frames| fault::point("checkpoint:after-copy").map(|()| frames));
        if !copied.as_ref().is_ok_and(|(log, copied)| copied == log) {
            // SQLite syncs the main file only when it has copied everything.
            writer.sync_file()?;
        }
        // A copy that failed halfway is ours, too, and all that it has overwritten is saved. When the log has grown,
        // nobody could tell any more.
        revert.publish(Slot {
            stamp: Stamp::of(&self.main)?,
            ..revert.slot()
        })?;
        let (log_frames, copied_frames) = copied?;
        let mut report = CheckpointReport {
            log_frames,
            copied_frames,
            saved_pages,
            ..Default::default()
        };
        fault::point("checkpoint:after-stamp")?;
        if report.complete() {
            (revert, report.dropped_pages) = compact(revert, &writer, state, &self.revert)?;
            report.truncated = empty_log(writer, &copier, &self.main)?;
        }
        *cache = Some(revert);
        Ok(report)
    }

    /// Moves the log into the main file when the base is lost, so that there is nothing to save: the log must not
    /// grow for ever while the base cannot be fetched.
    pub fn checkpoint_without_base(&self, busy_timeout: Duration) -> Result<()> {
        let _cache = self.lock();
        copy(&main_file::open(&self.main, busy_timeout)?, "PASSIVE")?;
        Ok(())
    }
}

/// Saves the base image of every page that copying the log overwrites or cuts off, and records that this is done.
fn save_overwritten(revert: &mut Revert, writer: &Snapshot, state: &BaseState) -> Result<()> {
    let log = writer.log()?;
    let mut pages = log.pages;
    pages.extend(writer.pages()?.saturating_add(1)..=state.base_pages);
    pages.remove_range(state.base_pages.saturating_add(1)..=u32::MAX);
    pages.remove(LOCK_PAGE);
    let halfway = pages.len() / 2;
    let mut page = [0; PAGE_SIZE];
    for (at, page_no) in pages.iter().enumerate() {
        if at as u64 == halfway {
            fault::point("checkpoint:mid-save")?;
        }
        if revert.contains(page_no) {
            continue;
        }
        if !writer.file_page(page_no, &mut page)? {
            return Err(Error::corrupt(format!(
                "base page {page_no} is neither saved nor in the main file"
            )));
        }
        revert.append(page_no, state.epoch, &page)?;
    }
    // The slot must not promise entries that are not on the disk.
    revert.sync()?;
    revert.publish(Slot {
        saved: log.mark,
        ..revert.slot()
    })
}

/// Runs a checkpoint: frames in the log, frames copied. Nothing is copied if somebody else is at it.
fn copy(copier: &Connection, mode: &str) -> Result<(u32, u32)> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    let (log, copied): (i64, i64) = copier.query_row(&sql, [], |row| Ok((row.get(1)?, row.get(2)?)))?;
    match (u32::try_from(log), u32::try_from(copied)) {
        (Ok(log), Ok(copied)) => Ok((log, copied)),
        // -1: somebody else is checkpointing, or it is not a database in WAL mode.
        _ => Err(Error::busy("another program is checkpointing the database")),
    }
}

/// Drops the entries that the main file makes superfluous, when there are enough of them to pay for the work: the
/// file is written anew when it has doubled since the last time. The log must be copied completely.
fn compact(
    revert: Revert,
    writer: &Snapshot,
    state: &BaseState,
    path: &std::path::Path,
) -> Result<(Revert, u64)> {
    let slot = revert.slot();
    if revert.len() < COMPACT_FROM.max(slot.compacted.saturating_mul(2)) {
        return Ok((revert, 0));
    }
    let mut compacted = Revert::create(path, slot.sequence)?;
    let pages = revert.page_numbers().filter(|p| *p <= state.base_pages);
    let (mut page, mut raw) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    for page_no in pages {
        revert.read(page_no, &mut page)?;
        let in_file = writer.file_page(page_no, &mut raw)? && raw == page;
        if !in_file {
            compacted.append(page_no, state.epoch, &page)?;
        }
    }
    compacted.sync()?;
    compacted.publish(Slot {
        compacted: compacted.len(),
        ..slot
    })?;
    let dropped = revert.len() - compacted.len();
    Ok((compacted, dropped))
}

/// Releases the write lock and empties the log, so that a stranger who opens and closes the database has nothing to
/// copy into the main file. Not possible while others read from the log: then the next writer starts it anew.
///
/// A writer can come in between, and its pages have not been saved. `pin` keeps SQLite from copying them: it began
/// when all frames were copied, so it reads the main file alone, under the lock that whoever copies frames needs
/// (read mark 0 in <https://sqlite.org/walformat.html>).
fn empty_log(writer: Snapshot, copier: &Connection, main: &std::path::Path) -> Result<bool> {
    fault::point("checkpoint:before-truncate")?;
    let pin = Snapshot::read(main)?;
    drop(writer);
    let busy: bool = copier.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    drop(pin);
    Ok(!busy)
}

//! The base, the overlay, injection and checkpoint: how pages of a remote come below local changes.
//!
//! The *base* is the remote's database at the revision that was last applied. Its page p is the one in the revert
//! file, or else the one in the main file, whatever the write-ahead log says: for p up to `base_pages`. So the main
//! file may only be changed by [`PageStore::checkpoint`], which saves base images before it overwrites them.
//!
//! [`PageStore::apply`] makes the new state on a scratch connection that sees the new base and keeps its writes for
//! itself, and then injects every page that differs from the current state into the main database, in one
//! transaction, with SQLite's `sqlite_dbpage`.
//!
//! The *epoch* counts applied pulls. It is recorded in the main database, in the transaction that changes it, and
//! decides which entries of the revert file count; so an apply happened entirely or not at all.

mod apply;
mod changes;
mod checkpoint;
pub mod fault;
mod header;
mod main_file;
mod overlay;
mod page_map;
mod revert;
mod spool;
mod strangers;
mod vfs;
mod wal;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard};

use rusqlite::Connection;

use crate::error::{Category, Code, Error, Result};
pub use apply::{ApplyContext, ApplyReport};
pub use changes::{Changes, ChangesWriter, Left};
pub use checkpoint::CheckpointReport;
pub use header::{check_first_page, reserved_bytes};
pub use main_file::reserve_bytes;
use main_file::{Snapshot, Stamp};
use overlay::{BaseView, Overlay};
use revert::{Opened, Revert, Slot};
use vfs::Scratch;
pub use wal::WalMark;

/// Bytes of a page; databases with other pages are refused.
pub const PAGE_SIZE: usize = 4096;

/// The image of a page.
pub type Page = [u8; PAGE_SIZE];

/// The page that SQLite never uses, because its locks are on these bytes.
const LOCK_PAGE: u32 = 0x4000_0000 / PAGE_SIZE as u32 + 1;

/// Pages that a scratch connection may write before they go to a temporary file (4 MiB).
const OVERLAY_MEMORY_PAGES: usize = 1024;

/// What the main database says about its base; the engine reads it from `turso_sync_local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseState {
    /// Number of the last applied pull.
    pub epoch: i64,
    /// Pages of the base.
    pub base_pages: u32,
}

/// The base that an apply starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The changes are a difference to this base.
    Known(BaseState),
    /// There is no base, or it is lost: the changes are the whole remote database.
    Lost {
        /// The epoch that the main database records all the same; 0 if none.
        epoch: i64,
    },
}

/// Whether the base can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseHealth {
    /// Every page of the base can be read.
    Intact,
    /// The base must be fetched again and applied with [`Base::Lost`]. Pending changes are not concerned.
    Lost {
        /// What happened, for a log.
        reason: String,
        /// Somebody else has changed the main file.
        written: bool,
    },
}

/// The base of one replica. Shared between threads: operations wait for each other. Between processes the caller
/// sees to it that there is one operation at a time; readers and writers of the main file need not care.
pub struct PageStore {
    main: PathBuf,
    revert: PathBuf,
    overlay_memory_pages: usize,
    /// The revert file as the last operation left it; taken out by an operation and put back when it succeeds.
    cache: Mutex<Option<Revert>>,
    /// Behind this mark nothing is known of who wrote the log; `None` if nobody cares.
    known: Mutex<Option<WalMark>>,
}

impl PageStore {
    /// The base of the database at `main` with the revert file `revert`. Does no IO.
    pub fn new(main: &Path, revert: &Path) -> Self {
        PageStore {
            main: main.to_owned(),
            revert: revert.to_owned(),
            overlay_memory_pages: OVERLAY_MEMORY_PAGES,
            cache: Mutex::new(None),
            known: Mutex::new(None),
        }
    }

    /// The same with another limit for the pages that a scratch connection keeps in memory.
    pub fn overlay_memory_pages(mut self, pages: usize) -> Self {
        self.overlay_memory_pages = pages;
        self
    }

    /// Declares the main file, without its log, to be the base: after it was put in place as downloaded. It may be
    /// longer than the base, because SQLite gives an empty database a first page.
    pub fn initialize(&self, state: &BaseState) -> Result<()> {
        let mut cache = self.lock();
        *cache = None;
        let stamp = Stamp::of(&self.main)?;
        if stamp.size < u64::from(state.base_pages) * PAGE_SIZE as u64 {
            return Err(Error::misuse(format!(
                "the main file has {} bytes, a base of {} pages was declared",
                stamp.size, state.base_pages
            )));
        }
        let sequence = Revert::slot_of(&self.revert).sequence;
        let mut revert = Revert::create(&self.revert, sequence)?;
        revert.publish(Slot {
            epoch: state.epoch,
            stamp,
            ..Slot::default()
        })?;
        *cache = Some(revert);
        Ok(())
    }

    /// Drops what an apply left behind that never committed, and tells whether the base is intact. To be called at
    /// open and before each operation; the other methods do it again for themselves.
    pub fn recover(&self, state: &BaseState) -> Result<BaseHealth> {
        let mut cache = self.lock();
        let snapshot = Snapshot::read(&self.main)?;
        match self.open_base(cache.take(), state, &snapshot)? {
            Ok(revert) => {
                *cache = Some(revert);
                Ok(BaseHealth::Intact)
            }
            Err(reason) => {
                let written = reason == WRITTEN;
                Ok(BaseHealth::Lost { reason, written })
            }
        }
    }

    /// From now on apply and checkpoint refuse (BUSY) what another program has written into the log behind `known`.
    pub fn refuse_strangers(&self, known: WalMark) {
        *self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(known);
    }

    /// Number of transactions in the log that another program has written, behind what is known of it; 0 if nobody cares.
    /// What was moved into the main file before anybody looked at it may count, whoever wrote it: see [`Self::own_log`].
    pub fn strangers(&self) -> Result<u32> {
        let snapshot = Snapshot::read(&self.main)?;
        self.count_strangers(&snapshot, Revert::slot_of(&self.revert).saved)
    }

    /// The log as it is now, if another program has written nothing of it: to be declared known before it is moved
    /// into the main file without a base. Behind that, nobody can tell any more what was there before.
    pub fn own_log(&self) -> Result<Option<WalMark>> {
        let snapshot = Snapshot::read(&self.main)?;
        let strangers = self.count_strangers(&snapshot, Revert::slot_of(&self.revert).saved)?;
        let log = snapshot.log()?.mark;
        Ok((strangers == 0).then_some(log))
    }

    fn count_strangers(&self, snapshot: &Snapshot, saved: WalMark) -> Result<u32> {
        let known = *self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match known {
            // What a checkpoint has saved was looked at before.
            Some(known) => strangers::count(snapshot, &[known, saved]),
            None => Ok(0),
        }
    }

    fn check_strangers(&self, snapshot: &Snapshot, saved: WalMark) -> Result<()> {
        match self.count_strangers(snapshot, saved)? {
            0 => Ok(()),
            _ => Err(Error::busy(
                "another program has written the database meanwhile; repeat this to see what it was",
            )),
        }
    }

    /// Runs `f` on a connection that sees the base and cannot change it. `f` must not call this store.
    pub fn with_base<R>(&self, state: &BaseState, f: impl FnOnce(&Connection) -> Result<R>) -> Result<R> {
        self.with_base_view(state, |base| {
            let overlay = Overlay::new(base, None, &self.main, self.overlay_memory_pages);
            let scratch = Scratch::open(Rc::new(overlay))?;
            let result = scratch
                .connection()
                .execute_batch("PRAGMA query_only=ON")
                .map_err(Error::from);
            scratch.explain(result.and_then(|()| f(scratch.connection())))
        })
    }

    /// The image of base page `page_no`; for tests.
    #[doc(hidden)]
    pub fn base_image(&self, state: &BaseState, page_no: u32) -> Result<Page> {
        self.with_base_view(state, |base| {
            let mut page = [0; PAGE_SIZE];
            base.read(page_no, &mut page)?;
            Ok(page)
        })
    }

    /// Bytes of the revert file.
    pub fn revert_size(&self) -> u64 {
        std::fs::metadata(&self.revert).map_or(0, |meta| meta.len())
    }

    /// Bytes of the write-ahead log.
    pub fn wal_size(&self) -> u64 {
        let mut name = self.main.as_os_str().to_owned();
        name.push("-wal");
        std::fs::metadata(name).map_or(0, |meta| meta.len())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Revert>> {
        // A panic leaves the cache empty, which is always valid.
        self.cache.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn with_base_view<R>(&self, state: &BaseState, f: impl FnOnce(Rc<BaseView>) -> Result<R>) -> Result<R> {
        let mut cache = self.lock();
        let snapshot = Snapshot::read(&self.main)?;
        let revert = self
            .open_base(cache.take(), state, &snapshot)?
            .map_err(base_lost)?;
        let stamp = revert.slot().stamp;
        let base = Rc::new(BaseView {
            snapshot,
            revert: Some(revert),
            pages: state.base_pages,
        });
        let result = f(Rc::clone(&base));
        self.check_unchanged(stamp)?;
        *cache = Rc::into_inner(base).and_then(|base| base.revert);
        result
    }

    /// The revert file if the base is intact, else the reason why it is not. `snapshot` is one of the main file.
    fn open_base(&self, cached: Option<Revert>, state: &BaseState, snapshot: &Snapshot) -> Result<Opened> {
        let mut revert = match cached.filter(|revert| revert.is_current(state.epoch)) {
            Some(revert) => revert,
            None => match Revert::open(&self.revert, state.epoch)? {
                Ok(revert) => revert,
                lost => return Ok(lost),
            },
        };
        let slot = revert.slot();
        let stamp = Stamp::of(&self.main)?;
        if stamp != slot.stamp {
            // Whoever copied the log into the main file, it does not matter if all it replaced had been saved.
            let log = snapshot.log()?.mark;
            if log.frames == 0 || log != slot.saved {
                let reason = match stamp.inode == slot.stamp.inode {
                    true => WRITTEN,
                    // Whoever writes a database leaves it the file that it is.
                    false => COPIED,
                };
                return Ok(Err(reason.into()));
            }
            // The stamp must outlive a power loss, when the log has grown and proves nothing any more.
            snapshot.sync_file()?;
            revert.publish(Slot { stamp, ..slot })?;
        }
        Ok(Ok(revert))
    }

    /// Fails if somebody changed the main file while an operation used it.
    fn check_unchanged(&self, stamp: Stamp) -> Result<()> {
        if Stamp::of(&self.main)? == stamp {
            Ok(())
        } else {
            Err(base_lost(WRITTEN.into()))
        }
    }
}

/// Why a base is lost whose main file is a copy, or was put back.
const COPIED: &str = "the main file is another file than it was";
/// Why a base is lost whose main file has another stamp.
const WRITTEN: &str = "the main file was changed by somebody else";

/// An operation has found out on its way: the next one fetches the base, and knows what to ask.
fn base_lost(reason: String) -> Error {
    Error::new(
        Category::Database,
        Code::BusySnapshot,
        format!("the base is lost and must be fetched again: {reason}; repeat the operation"),
    )
    .retry()
}

//! Apply: the new state is made on an overlay and injected into the main database.

use std::rc::Rc;
use std::time::Duration;

use roaring::RoaringBitmap;
use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::pages::changes::Changes;
use crate::pages::main_file::{self, Snapshot, Stamp};
use crate::pages::overlay::{BaseView, Overlay};
use crate::pages::revert::{Revert, Slot};
use crate::pages::vfs::Scratch;
use crate::pages::{Base, LOCK_PAGE, PAGE_SIZE, Page, PageStore, WalMark, base_lost, fault, header};

/// What the caller of [`PageStore::apply`] works on between old and new base.
pub struct ApplyContext<'a> {
    /// The main database as it is; nobody can change it now. For reading only.
    pub current: &'a Connection,
    /// The new base, writable, inside a transaction that apply commits.
    pub scratch: &'a Connection,
    /// Number of this pull; to be recorded in the scratch database.
    pub new_epoch: i64,
    /// Pages of the new base; to be recorded in the scratch database.
    pub base_pages: u32,
    /// What the log of the main database holds; nobody adds to it now.
    pub log: WalMark,
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyReport {
    /// Number of this pull.
    pub epoch: i64,
    /// Pages of the new base.
    pub base_pages: u32,
    /// Pages of the main database afterwards.
    pub db_pages: u32,
    /// Pages written into the main database.
    pub injected_pages: u64,
    /// Base images added to the revert file.
    pub saved_pages: u64,
}

impl PageStore {
    /// Replaces the base by `changes` over it, and the main database by what `prepare` makes of the new base: it
    /// recreates the local tables, replays the pending changes, and records epoch, base size and revision.
    ///
    /// Holds the main file's write lock from beginning to end; waits for it up to `busy_timeout`. Readers see the old
    /// state or the new one. After an error, of `prepare` too, the main database and its base are as they were.
    /// `prepare` must not call this store.
    pub fn apply(
        &self,
        base: Base,
        changes: &Changes,
        busy_timeout: Duration,
        prepare: impl FnOnce(&ApplyContext<'_>) -> Result<()>,
    ) -> Result<ApplyReport> {
        changes.validate(match base {
            Base::Known(state) => Some(state.base_pages),
            Base::Lost { .. } => None,
        })?;
        let mut cache = self.lock();
        let writer = main_file::open(&self.main, busy_timeout)?;
        writer.execute_batch("BEGIN IMMEDIATE")?;
        fault::point("apply:after-lock")?;
        let (view, new_epoch) = self.view_for_apply(cache.take(), base)?;
        // Also if the base is lost: what was saved of the log was looked at, and may be in the main file.
        self.check_strangers(&view.snapshot, Revert::slot_of(&self.revert).saved)?;
        let stamp = match &view.revert {
            Some(revert) => revert.slot().stamp,
            None => Stamp::of(&self.main)?,
        };
        let overlay = Overlay::new(
            Rc::new(view),
            Some(changes.clone()),
            &self.main,
            self.overlay_memory_pages,
        );
        let overlay = Rc::new(overlay);
        build(&overlay, changes, new_epoch, prepare)?;
        fault::point("apply:after-prepare")?;

        let overlay =
            Rc::into_inner(overlay).ok_or_else(|| Error::internal("the overlay is still in use"))?;
        let image = Image::new(overlay)?;
        let injected_pages = inject(&writer, &image, changes)?;
        let pages = image.pages;
        let mut view = image.into_base()?;
        let old = view.revert.take();
        let rebuilt = old.is_none();
        let mut revert = match old {
            Some(revert) => revert,
            None => Revert::create(&self.revert, Revert::slot_of(&self.revert).sequence)?,
        };
        let before = revert.len();
        save_base(&mut revert, &view.snapshot, changes, new_epoch)?;
        revert.announce(
            Slot {
                epoch: new_epoch,
                stamp,
                rebuilt,
                ..revert.slot()
            },
            before,
        )?;
        fault::point("apply:after-save")?;
        fault::point("apply:before-commit")?;
        self.check_unchanged(stamp)?;
        writer.execute_batch("COMMIT")?;
        fault::point("apply:after-commit")?;
        let revert_len = revert.len();
        *cache = Some(revert);
        Ok(ApplyReport {
            epoch: new_epoch,
            base_pages: changes.db_pages(),
            db_pages: pages,
            injected_pages,
            saved_pages: revert_len - before,
        })
    }

    /// Shows `f` the same as [`Self::apply`] shows `prepare`, and in addition a connection in a write transaction of the main
    /// database, which is committed if `f` succeeds. Nothing is injected, and the base stays as it is.
    pub fn compare<R>(
        &self,
        base: Base,
        changes: &Changes,
        busy_timeout: Duration,
        f: impl FnOnce(&ApplyContext<'_>, &Connection) -> Result<R>,
    ) -> Result<R> {
        let mut cache = self.lock();
        let writer = main_file::open(&self.main, busy_timeout)?;
        writer.execute_batch("BEGIN IMMEDIATE")?;
        let (view, new_epoch) = self.view_for_apply(cache.take(), base)?;
        let overlay = Overlay::new(
            Rc::new(view),
            Some(changes.clone()),
            &self.main,
            self.overlay_memory_pages,
        );
        let mut found = None;
        build(&Rc::new(overlay), changes, new_epoch, |context| {
            found = Some(f(context, &writer)?);
            Ok(())
        })?;
        writer.execute_batch("COMMIT")?;
        found.ok_or_else(|| Error::internal("nothing was compared"))
    }

    /// The old base and the new epoch.
    fn view_for_apply(&self, cached: Option<Revert>, base: Base) -> Result<(BaseView, i64)> {
        let snapshot = Snapshot::read(&self.main)?;
        let (revert, pages, epoch) = match base {
            Base::Known(state) => {
                let revert = self.open_base(cached, &state, &snapshot)?.map_err(base_lost)?;
                (Some(revert), state.base_pages, state.epoch)
            }
            // An epoch that the lost base never had, whatever is left of its revert file.
            Base::Lost { epoch } => (None, 0, epoch.max(Revert::slot_of(&self.revert).epoch)),
        };
        let new_epoch = epoch
            .checked_add(1)
            .ok_or_else(|| Error::corrupt("the epoch is out of range"))?;
        Ok((
            BaseView {
                snapshot,
                revert,
                pages,
            },
            new_epoch,
        ))
    }
}

/// Runs `prepare` on the new base.
fn build(
    overlay: &Rc<Overlay>,
    changes: &Changes,
    new_epoch: i64,
    prepare: impl FnOnce(&ApplyContext<'_>) -> Result<()>,
) -> Result<()> {
    let scratch = Scratch::open(Rc::clone(overlay))?;
    let conn = scratch.connection();
    let context = ApplyContext {
        current: overlay.base.snapshot.connection(),
        scratch: conn,
        new_epoch,
        base_pages: changes.db_pages(),
        log: overlay.base.snapshot.log()?.mark,
    };
    let begun = conn.execute_batch("BEGIN").map_err(Error::from);
    let prepared = begun.and_then(|()| prepare(&context));
    let committed = prepared.and_then(|()| Ok(conn.execute_batch("COMMIT")?));
    scratch.explain(committed)
}

/// The new state beside the current one.
struct Image {
    overlay: Overlay,
    /// Pages of the new state.
    pages: u32,
    /// Pages of the current state.
    current_pages: u32,
}

impl Image {
    fn new(overlay: Overlay) -> Result<Self> {
        let pages = overlay.pages();
        if pages == 0 {
            return Err(Error::internal("nothing was written into an empty base"));
        }
        let current_pages = overlay.base.snapshot.pages()?;
        Ok(Image {
            overlay,
            pages,
            current_pages,
        })
    }

    /// Every page that can differ between current and new state. A page that is in none of these sets is the main
    /// file's in both.
    fn candidates(&self, changes: &Changes) -> Result<RoaringBitmap> {
        let base = &self.overlay.base;
        let mut pages = base.snapshot.log()?.pages;
        pages.extend(changes.page_numbers());
        self.overlay.add_written_pages(&mut pages);
        pages.extend(base.revert.iter().flat_map(Revert::page_numbers));
        pages.extend(self.current_pages.min(changes.db_pages()).saturating_add(1)..=self.pages);
        pages.remove_range(self.pages.saturating_add(1)..=u32::MAX);
        pages.remove(LOCK_PAGE);
        pages.remove(0);
        Ok(pages)
    }

    /// Reads page `page_no` of the new state; false if the current one is the same.
    fn differs(&self, page_no: u32, page: &mut Page, current: &mut Page) -> Result<bool> {
        self.overlay.read(page_no, page)?;
        if page_no > self.current_pages {
            return Ok(true);
        }
        if !self.overlay.base.snapshot.page(page_no, current)? {
            return Err(Error::internal(format!(
                "page {page_no} vanished from the main database"
            )));
        }
        if page_no == 1 {
            header::finish(page, current, self.pages);
        }
        Ok(page != current)
    }

    /// Gives the base back.
    fn into_base(self) -> Result<BaseView> {
        Rc::into_inner(self.overlay.base).ok_or_else(|| Error::internal("the base is still in use"))
    }
}

/// Writes every page that differs into the transaction of `writer`, which can be used for nothing else afterwards
/// but to end it: its parsed b-tree pages are stale.
///
/// Page 1 comes last. It changes the schema cookie, and the next statement would make SQLite read the schema again,
/// from pages that it believes to know. For the same reason the truncation is in one statement with page 1.
fn inject(writer: &Connection, image: &Image, changes: &Changes) -> Result<u64> {
    // In full auto-vacuum mode, which the connection knows from the old first page, the commit would move the pages of the new
    // state into those that are free there. In a file without auto-vacuum this does nothing.
    writer.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    let mut candidates = image.candidates(changes)?;
    candidates.remove(1);
    let halfway = candidates.len() / 2;
    let mut insert = writer.prepare("INSERT INTO sqlite_dbpage (pgno, data) VALUES (?1, ?2)")?;
    let mut finish = writer.prepare(if image.pages < image.current_pages {
        // A row without data is SQLite's word for "this page and all behind it are gone"; it must come last.
        "INSERT INTO sqlite_dbpage (pgno, data) VALUES (1, ?1), (?2 + 1, NULL)"
    } else {
        "INSERT INTO sqlite_dbpage (pgno, data) SELECT 1, ?1 WHERE ?2 > 0"
    })?;
    let (mut page, mut current) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    let mut injected = 1;
    for (at, page_no) in candidates.iter().enumerate() {
        if image.differs(page_no, &mut page, &mut current)? {
            insert.execute((page_no, &page[..]))?;
            injected += 1;
        }
        if at as u64 == halfway {
            fault::point("apply:mid-inject")?;
        }
    }
    image.differs(1, &mut page, &mut current)?;
    finish.execute((&page[..], image.pages))?;
    Ok(injected)
}

/// Appends to the revert file what will be the base under `epoch` and is not what the main file holds.
fn save_base(revert: &mut Revert, snapshot: &Snapshot, changes: &Changes, epoch: i64) -> Result<()> {
    let halfway = changes.len() / 2;
    let pulled = changes.page_numbers().filter(|p| *p != LOCK_PAGE);
    let (mut page, mut raw) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    for (at, page_no) in pulled.enumerate() {
        if at == halfway {
            fault::point("apply:mid-save")?;
        }
        changes.read(page_no, &mut page)?;
        let in_file = snapshot.file_page(page_no, &mut raw)? && raw == page;
        if !in_file || revert.contains(page_no) {
            revert.append(page_no, epoch, &page)?;
        }
    }
    Ok(())
}

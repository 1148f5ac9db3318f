//! What the scratch connection sees and changes: base, downloaded pages over it, its own writes over both.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::pages::changes::Changes;
use crate::pages::main_file::Snapshot;
use crate::pages::page_map::PageMap;
use crate::pages::revert::Revert;
use crate::pages::spool::temporary_file;
use crate::pages::{LOCK_PAGE, PAGE_SIZE, Page};

/// The base of a replica, readable while `snapshot` lives.
pub(super) struct BaseView {
    pub snapshot: Snapshot,
    /// `None` if the base is lost.
    pub revert: Option<Revert>,
    /// Pages of the base.
    pub pages: u32,
}

impl BaseView {
    /// Reads base page `page_no`.
    pub fn read(&self, page_no: u32, page: &mut Page) -> Result<()> {
        if page_no == 0 || page_no > self.pages {
            return Err(Error::internal(format!("page {page_no} is not in the base")));
        }
        if let Some(revert) = &self.revert
            && revert.read(page_no, page)?
        {
            return Ok(());
        }
        if page_no == LOCK_PAGE {
            page.fill(0);
        } else if !self.snapshot.file_page(page_no, page)? {
            return Err(Error::corrupt(format!(
                "base page {page_no} is neither saved nor in the main file"
            )));
        }
        Ok(())
    }
}

/// A database made of layers. Used by one thread; errors of reads and writes that SQLite asked for are kept for
/// [`Overlay::take_error`].
pub(super) struct Overlay {
    pub base: Rc<BaseView>,
    changes: Option<Changes>,
    top: RefCell<Top>,
    error: RefCell<Option<Error>>,
}

struct Top {
    /// Pages of the database as the scratch connection sees it.
    pages: u32,
    /// Pages of base and download that have not been cut off by a truncation.
    below: u32,
    written: Written,
}

impl Overlay {
    /// The base as it is, or with `changes` over it. The scratch connection's writes stay in memory up to
    /// `memory_pages`; more go to an unlinked temporary file beside `main`.
    pub fn new(base: Rc<BaseView>, changes: Option<Changes>, main: &Path, memory_pages: usize) -> Self {
        let pages = changes.as_ref().map_or(base.pages, Changes::db_pages);
        let written = Written {
            memory_pages,
            beside: main.to_owned(),
            slots: PageMap::default(),
            memory: Vec::new(),
            spill: None,
            used: 0,
        };
        let top = RefCell::new(Top {
            pages,
            below: pages,
            written,
        });
        Overlay {
            base,
            changes,
            top,
            error: RefCell::new(None),
        }
    }

    /// Pages of the database.
    pub fn pages(&self) -> u32 {
        self.top.borrow().pages
    }

    /// Adds the pages that were written to `pages`.
    pub fn add_written_pages(&self, pages: &mut RoaringBitmap) {
        pages.extend(self.top.borrow().written.slots.pages());
    }

    /// Where temporary files go.
    pub fn beside(&self) -> PathBuf {
        self.top.borrow().written.beside.clone()
    }

    /// Reads page `page_no`; pages that nobody ever wrote are zero.
    pub fn read(&self, page_no: u32, page: &mut Page) -> Result<()> {
        let top = self.top.borrow();
        if top.written.read(page_no, page)? {
            return Ok(());
        }
        if page_no > top.below {
            page.fill(0);
            return Ok(());
        }
        match &self.changes {
            Some(changes) if changes.read(page_no, page)? => Ok(()),
            _ => self.base.read(page_no, page),
        }
    }

    /// Writes page `page_no`, behind the end too.
    pub fn write(&self, page_no: u32, page: &Page) -> Result<()> {
        let mut top = self.top.borrow_mut();
        top.pages = top.pages.max(page_no);
        top.written.write(page_no, page)
    }

    /// Cuts the database to `pages` pages, or extends it with zeros.
    pub fn truncate(&self, pages: u32) {
        let mut top = self.top.borrow_mut();
        top.pages = pages;
        top.below = top.below.min(pages);
        top.written.slots.truncate(pages);
    }

    /// Keeps `error` for whoever asked SQLite to do something.
    pub fn set_error(&self, error: Error) {
        self.error.borrow_mut().get_or_insert(error);
    }

    /// The first error since the last call.
    pub fn take_error(&self) -> Option<Error> {
        self.error.borrow_mut().take()
    }
}

/// The written pages. Memory: `memory_pages` of them, and a few bytes for each of the others.
struct Written {
    memory_pages: usize,
    beside: PathBuf,
    /// The first `memory_pages` slots are in memory, the rest in `spill`.
    slots: PageMap,
    memory: Vec<Box<Page>>,
    spill: Option<File>,
    used: u64,
}

impl Written {
    fn read(&self, page_no: u32, page: &mut Page) -> Result<bool> {
        let Some(slot) = self.slots.get(page_no) else {
            return Ok(false);
        };
        match (self.memory.get(slot as usize), &self.spill) {
            (Some(written), _) => page.copy_from_slice(&written[..]),
            (None, Some(spill)) => spill
                .read_exact_at(page, self.offset(slot))
                .map_err(|e| Error::io("read the overlay's temporary file", &e))?,
            (None, None) => return Err(Error::internal("the overlay lost its file")),
        }
        Ok(true)
    }

    fn write(&mut self, page_no: u32, page: &Page) -> Result<()> {
        let known = self.slots.get(page_no);
        let slot = known.unwrap_or(self.used);
        if let Some(written) = self.memory.get_mut(slot as usize) {
            written.copy_from_slice(page);
        } else if slot < self.memory_pages as u64 {
            self.memory.push(Box::new(*page));
        } else {
            if self.spill.is_none() {
                self.spill = Some(temporary_file(&self.beside)?);
            }
            let offset = self.offset(slot);
            let spill = self
                .spill
                .as_ref()
                .ok_or_else(|| Error::internal("the overlay lost its file"))?;
            spill
                .write_all_at(page, offset)
                .map_err(|e| Error::io("write the overlay's temporary file", &e))?;
        }
        if known.is_none() {
            self.slots.insert(page_no, slot)?;
            self.used += 1;
        }
        Ok(())
    }

    fn offset(&self, slot: u64) -> u64 {
        slot.saturating_sub(self.memory_pages as u64) * PAGE_SIZE as u64
    }
}

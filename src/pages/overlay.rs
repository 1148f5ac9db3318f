//! What the scratch connection sees and changes: base, downloaded pages over it, its own writes over both.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::pages::changes::Changes;
use crate::pages::main_file::Snapshot;
use crate::pages::revert::Revert;
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
            places: HashMap::new(),
            spill: None,
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

    /// The pages that were written, in no order.
    pub fn written_pages(&self) -> Vec<u32> {
        self.top.borrow().written.places.keys().copied().collect()
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
        top.written.places.retain(|page_no, _| *page_no <= pages);
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

/// The written pages.
struct Written {
    memory_pages: usize,
    beside: PathBuf,
    places: HashMap<u32, Place>,
    spill: Option<Spill>,
}

enum Place {
    Memory(Box<Page>),
    /// Slot in the spill file.
    Spilled(u64),
}

struct Spill {
    file: File,
    slots: u64,
}

impl Written {
    fn read(&self, page_no: u32, page: &mut Page) -> Result<bool> {
        match (self.places.get(&page_no), &self.spill) {
            (None, _) => return Ok(false),
            (Some(Place::Memory(written)), _) => page.copy_from_slice(&written[..]),
            (Some(Place::Spilled(slot)), Some(spill)) => spill
                .file
                .read_exact_at(page, slot * PAGE_SIZE as u64)
                .map_err(|e| Error::io("read the overlay's temporary file", &e))?,
            (Some(Place::Spilled(_)), None) => return Err(Error::internal("the overlay lost its file")),
        }
        Ok(true)
    }

    fn write(&mut self, page_no: u32, page: &Page) -> Result<()> {
        let in_memory = self.places.len() < self.memory_pages;
        let slot = match self.places.get_mut(&page_no) {
            Some(Place::Memory(written)) => {
                written.copy_from_slice(page);
                return Ok(());
            }
            Some(Place::Spilled(slot)) => Some(*slot),
            None if in_memory => {
                self.places.insert(page_no, Place::Memory(Box::new(*page)));
                return Ok(());
            }
            None => None,
        };
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill {
                file: temporary_file(&self.beside)?,
                slots: 0,
            }),
        };
        let slot = slot.unwrap_or(spill.slots);
        spill
            .file
            .write_all_at(page, slot * PAGE_SIZE as u64)
            .map_err(|e| Error::io("write the overlay's temporary file", &e))?;
        spill.slots = spill.slots.max(slot + 1);
        self.places.insert(page_no, Place::Spilled(slot));
        Ok(())
    }
}

/// Creates a file in the folder of `beside` that has no name and goes away with its descriptor.
fn temporary_file(beside: &Path) -> Result<File> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = beside.as_os_str().to_owned();
    name.push(format!("-overlay-{}-{number}", std::process::id()));
    let path = PathBuf::from(name);
    let describe = |e| Error::io(format_args!("create {}", path.display()), &e);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path);
    let file = file.map_err(describe)?;
    std::fs::remove_file(&path).map_err(describe)?;
    Ok(file)
}

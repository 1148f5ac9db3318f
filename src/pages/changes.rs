//! Downloaded pages: the file `<db>-changes`.
//!
//! The file is nothing but page images in the order of their arrival; which page is where is only kept in memory,
//! because a download that was not applied by the process that made it is worth nothing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::pages::page_map::PageMap;
use crate::pages::spool::temporary_file;
use crate::pages::{LOCK_PAGE, PAGE_SIZE, Page, header};

/// Writes a download piece by piece. Memory: a few bytes per page.
pub struct ChangesWriter {
    file: BufWriter<File>,
    slots: PageMap,
}

impl ChangesWriter {
    /// Starts a download into a file of its own beside `path`. It is unlinked at once: the download belongs to whoever
    /// has it open, and goes with its owner.
    pub fn create(path: &Path) -> Result<Self> {
        let file = temporary_file(path)?;
        Ok(ChangesWriter {
            file: BufWriter::with_capacity(64 * PAGE_SIZE, file),
            slots: PageMap::default(),
        })
    }

    /// Adds the image of page `page_no` (the first page is 1). Page 0 and a page sent twice are protocol errors.
    pub fn page(&mut self, page_no: u32, data: &Page) -> Result<()> {
        if page_no == 0 {
            return Err(Error::protocol("the remote sent page number 0"));
        }
        if self.slots.insert(page_no, self.slots.len() as u64)?.is_some() {
            return Err(Error::protocol(format!("the remote sent page {page_no} twice")));
        }
        self.file
            .write_all(data)
            .map_err(|e| Error::io("write downloaded pages", &e))
    }

    /// Ends the download of a database of `db_pages` pages and makes it durable. A page behind the end of the
    /// database is a protocol error.
    pub fn finish(self, db_pages: u32) -> Result<Changes> {
        if let Some(page_no) = self.slots.pages().find(|p| *p > db_pages) {
            return Err(Error::protocol(format!(
                "the remote sent page {page_no} of a database of {db_pages} pages"
            )));
        }
        let file = self
            .file
            .into_inner()
            .map_err(|e| Error::io("write downloaded pages", e.error()))?;
        file.sync_all()
            .map_err(|e| Error::io("sync downloaded pages", &e))?;
        Ok(Changes(Arc::new(Inner {
            file,
            slots: self.slots,
            db_pages,
        })))
    }
}

/// A finished download. Clones share the file.
#[derive(Clone)]
pub struct Changes(Arc<Inner>);

struct Inner {
    file: File,
    slots: PageMap,
    db_pages: u32,
}

impl Changes {
    /// Pages of the remote database at the revision that was downloaded.
    pub fn db_pages(&self) -> u32 {
        self.0.db_pages
    }

    /// Number of downloaded pages.
    pub fn len(&self) -> usize {
        self.0.slots.len()
    }

    /// True if no page was downloaded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if page `page_no` was downloaded.
    pub fn contains(&self, page_no: u32) -> bool {
        self.0.slots.get(page_no).is_some()
    }

    /// The downloaded page numbers, in ascending order.
    pub fn page_numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.slots.pages()
    }

    /// Reads page `page_no`; false (and `page` untouched) if it was not downloaded.
    pub fn read(&self, page_no: u32, page: &mut Page) -> Result<bool> {
        let Some(slot) = self.0.slots.get(page_no) else {
            return Ok(false);
        };
        let offset = slot * PAGE_SIZE as u64;
        self.0
            .file
            .read_exact_at(page, offset)
            .map_err(|e| Error::io("read downloaded pages", &e))?;
        Ok(true)
    }

    /// Checks everything that can be checked before the pages are used: that those which must be there are there,
    /// and that page 1 is the header of a database of this size. `old_base_pages` is the size of the base that the
    /// pages are a difference to; `None` if they must be the whole database.
    ///
    /// Page 1 may be missing from a difference: SQLite in WAL mode writes it only when size, free list or schema
    /// change. The format of the header: <https://sqlite.org/fileformat2.html#the_database_header>.
    pub fn validate(&self, old_base_pages: Option<u32>) -> Result<()> {
        let old = old_base_pages.unwrap_or(0);
        let mut needed = old.saturating_add(1)..=self.db_pages();
        if let Some(missing) = needed.find(|p| *p != LOCK_PAGE && !self.contains(*p)) {
            return Err(Error::protocol(format!(
                "the remote did not send page {missing} of a database of {} pages (the base has {old})",
                self.db_pages()
            )));
        }
        let mut first = [0; PAGE_SIZE];
        if !self.read(1, &mut first)? {
            return match old_base_pages {
                Some(old) if old != self.db_pages() && self.db_pages() > 0 => Err(Error::protocol(format!(
                    "the remote's size changed from {old} to {} pages, but it did not send page 1",
                    self.db_pages()
                ))),
                _ => Ok(()),
            };
        }
        header::check_first_page(&first, Some(self.db_pages()))
    }
}

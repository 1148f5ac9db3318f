//! Downloaded pages: the file `<db>-changes`.
//!
//! ```text
//! file   = record*
//! record = number crc data     number: of a page, 0 = a note; crc: CRC32C; data: 4096 bytes: the page, or the note and zeros
//! ```
//!
//! Number and checksum are little endian, of four bytes. The first record is a note, the title; the checksums of the others
//! go on from that of the title, and cover the place in the file: what is left of another download never counts as part of
//! this one. Nothing is synced before the end. What does not fit its checksum was not written, and nor was what is behind it.
//!
//! Which page is where is kept in memory. The file belongs to whoever has locked it; who does not get it makes one
//! without a name, which goes with its owner.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::pages::page_map::PageMap;
use crate::pages::spool::temporary_file;
use crate::pages::{LOCK_PAGE, PAGE_SIZE, Page, header};

/// Bytes of a record before its data.
const HEAD: usize = 8;
/// Bytes of a record.
const RECORD: usize = HEAD + PAGE_SIZE;
/// Records that are written at once; as many are lost with the process.
const RECORDS_AT_ONCE: usize = 32;

/// A file, locked if it has a name.
struct Held {
    file: File,
    /// Away once the file shall not be found by others.
    name: Mutex<Option<PathBuf>>,
}

impl Held {
    fn without_name(beside: &Path) -> Result<Self> {
        Ok(Held {
            file: temporary_file(beside)?,
            name: Mutex::new(None),
        })
    }

    /// Opens and locks the file at `path`; `None` if it is not there or somebody else has it.
    fn open(path: &Path, create: bool) -> Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let file = match options.read(true).write(true).create(create).open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound && !create => return Ok(None),
            file => file.map_err(|e| Error::io(format_args!("open {}", path.display()), &e))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Held {
                file,
                name: Mutex::new(Some(path.to_owned())),
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io(format_args!("lock {}", path.display()), &e)),
        }
    }

    /// Removes the file's name. Best effort: who finds the file sees by its title that it is not for him.
    fn remove_name(&self) {
        if let Some(path) = self.name.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing is not enough while a child that was just forked has the file, too.
        let _ = self.file.unlock();
    }
}

/// What an interrupted download has left.
#[derive(Debug, PartialEq, Eq)]
pub enum Left<'a> {
    /// The data of a note. The first one is the title.
    Note(&'a [u8]),
    /// The image of this page is there.
    Page(u32),
}

/// Writes a download piece by piece. Memory: a few bytes per page. Dropped, it leaves what it has written, if it has a name.
pub struct ChangesWriter {
    file: BufWriter<Held>,
    /// Records by page number.
    slots: PageMap,
    records: u64,
    /// Checksum of the title.
    seed: u32,
}

impl ChangesWriter {
    /// Starts a download into a file without a name beside `path`: it belongs to whoever has it open, and goes with its
    /// owner.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self::begin(Held::without_name(path)?))
    }

    /// Starts a download into `path`, so that it can be taken up again; what was there is lost. If somebody else has that
    /// file, into one without a name. `title` is a note.
    pub fn create_named(path: &Path, title: &[u8]) -> Result<Self> {
        let Some(held) = Held::open(path, true)? else {
            return Self::create(path);
        };
        let emptied = held.file.set_len(0);
        emptied.map_err(|e| Error::io(format_args!("truncate {}", path.display()), &e))?;
        let mut writer = Self::begin(held);
        writer.note(title)?;
        Ok(writer)
    }

    /// Takes up the download that was left at `path`: tells `on` what is there, in the order in which it was written. If `on`
    /// says no, the file is removed. `None` then, and if there is none, or somebody else has it.
    pub fn resume(path: &Path, on: &mut dyn FnMut(Left<'_>) -> Result<bool>) -> Result<Option<Self>> {
        let Some(held) = Held::open(path, false)? else {
            return Ok(None);
        };
        let mut reader = BufReader::with_capacity(RECORDS_AT_ONCE * RECORD, &held.file);
        let (mut record, mut wanted) = ([0; RECORD], false);
        let (mut slots, mut records, mut seed) = (PageMap::default(), 0, 0);
        while let Some((number, data)) = next_record(&mut reader, &mut record, seed, records)? {
            if records == 0 {
                seed = checksum(0, 0, number, data);
            }
            wanted = match number {
                0 => on(Left::Note(data))?,
                page_no => {
                    slots.insert(page_no, records)?;
                    on(Left::Page(page_no))?
                }
            };
            if !wanted {
                break;
            }
            records += 1;
        }
        if !wanted {
            held.remove_name();
            return Ok(None);
        }
        let end = records * RECORD as u64;
        let cut = held.file.set_len(end);
        cut.and_then(|()| (&held.file).seek(SeekFrom::Start(end)))
            .map_err(|e| Error::io(format_args!("go on with {}", path.display()), &e))?;
        Ok(Some(ChangesWriter {
            slots,
            records,
            seed,
            ..Self::begin(held)
        }))
    }

    /// Removes the download that was left at `path` unless `wanted` says yes to its title, or somebody else has it.
    pub fn remove_unless(path: &Path, wanted: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        if let Some(held) = Held::open(path, false)? {
            let mut record = [0; RECORD];
            let title = next_record(&mut &held.file, &mut record, 0, 0)?;
            if !title.is_some_and(|(number, title)| number == 0 && wanted(title)) {
                held.remove_name();
            }
        }
        Ok(())
    }

    fn begin(held: Held) -> Self {
        ChangesWriter {
            file: BufWriter::with_capacity(RECORDS_AT_ONCE * RECORD, held),
            slots: PageMap::default(),
            records: 0,
            seed: 0,
        }
    }

    /// Adds the image of page `page_no` (the first page is 1); of several images the last one counts. Page 0 is a protocol
    /// error.
    pub fn page(&mut self, page_no: u32, data: &Page) -> Result<()> {
        if page_no == 0 {
            return Err(Error::protocol("the remote sent page number 0"));
        }
        self.slots.insert(page_no, self.records)?;
        self.record(page_no, data).map(drop)
    }

    /// Adds a note, of at most 4096 bytes.
    pub fn note(&mut self, note: &[u8]) -> Result<()> {
        let mut data = [0; PAGE_SIZE];
        match data.get_mut(..note.len()) {
            Some(start) => start.copy_from_slice(note),
            None => return Err(Error::internal("a note about a download is too long")),
        }
        let sum = self.record(0, &data)?;
        if self.records == 1 {
            self.seed = sum;
        }
        Ok(())
    }

    fn record(&mut self, number: u32, data: &Page) -> Result<u32> {
        let sum = checksum(self.seed, self.records, number, data);
        let mut record = [0; RECORD];
        record[..4].copy_from_slice(&number.to_le_bytes());
        record[4..HEAD].copy_from_slice(&sum.to_le_bytes());
        record[HEAD..].copy_from_slice(data);
        self.records += 1;
        self.file
            .write_all(&record)
            .map_err(|e| Error::io("write downloaded pages", &e))?;
        Ok(sum)
    }

    /// Number of records so far, notes and pages that came again among them.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// From now on the download goes with its owner.
    pub fn remove_name(&self) {
        self.file.get_ref().remove_name();
    }

    /// Ends the download of a database of `db_pages` pages and makes it durable. Pages behind the end of the database are left
    /// out.
    pub fn finish(mut self, db_pages: u32) -> Result<Changes> {
        self.slots.truncate(db_pages);
        let file = self
            .file
            .into_inner()
            .map_err(|e| Error::io("write downloaded pages", e.error()))?;
        file.file
            .sync_all()
            .map_err(|e| Error::io("sync downloaded pages", &e))?;
        Ok(Changes(Arc::new(Inner {
            file,
            slots: self.slots,
            db_pages,
        })))
    }
}

/// The next record, its number and data; `None` behind the last one that was written whole.
fn next_record<'a>(
    records: &mut impl Read,
    record: &'a mut [u8; RECORD],
    seed: u32,
    place: u64,
) -> Result<Option<(u32, &'a [u8])>> {
    match records.read_exact(record) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read.map_err(|e| Error::io("read downloaded pages", &e))?,
    }
    let word = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    let (number, sum) = (word(0), word(4));
    let data = &record[HEAD..];
    Ok((checksum(seed, place, number, data) == sum).then_some((number, data)))
}

fn checksum(seed: u32, place: u64, number: u32, data: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(seed, &place.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(sum, &number.to_le_bytes()), data)
}

/// A finished download. Clones share the file.
#[derive(Clone)]
pub struct Changes(Arc<Inner>);

struct Inner {
    file: Held,
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

    /// Nobody shall go on with this download any more.
    pub fn discard(&self) {
        self.0.file.remove_name();
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
        let offset = slot * RECORD as u64 + HEAD as u64;
        let file = &self.0.file.file;
        file.read_exact_at(page, offset)
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

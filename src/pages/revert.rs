//! The revert file `<db>-wal-revert`: base images of pages whose copy in the main file is no longer the base.
//!
//! | bytes | content |
//! |---|---|
//! | 0..32 | magic number and version |
//! | 512.., 1024.. | two slots; the valid one with the higher sequence number counts, the other is the next to be written |
//! | 4096.. | entries of 4112 bytes: page number u32, epoch i64, crc32c of number, epoch and image u32, image |
//!
//! All numbers are little-endian. Which entries count is decided by the slot and by the epoch that the main database
//! records: an apply writes its entries and a slot that names both counts, the one with them and the one without,
//! before it commits its epoch in the main database.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::pages::main_file::Stamp;
use crate::pages::page_map::PageMap;
use crate::pages::wal::WalMark;
use crate::pages::{PAGE_SIZE, Page, fault};

const MAGIC: &[u8; 32] = b"turso-sync revert file, format 1";
const SLOTS_AT: [u64; 2] = [512, 1024];
const SLOT: usize = 112;
const ENTRIES_AT: u64 = 4096;
const ENTRY_HEADER: usize = 16;
const ENTRY: usize = ENTRY_HEADER + PAGE_SIZE;

/// What the file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Slot {
    /// Counts the slots ever written.
    pub sequence: u64,
    /// The epoch that `count` belongs to.
    pub epoch: i64,
    /// Number of valid entries once the main database has recorded `epoch`.
    pub count: u64,
    /// Number of valid entries while it still records the epoch before.
    pub previous_count: u64,
    /// The base of the epoch before was lost, so that `previous_count` means nothing.
    pub rebuilt: bool,
    /// Entries that were left when the file was last compacted.
    pub compacted: u64,
    /// The main file after our last change of it.
    pub stamp: Stamp,
    /// The base images of all pages that the log holds up to this mark are saved.
    pub saved: WalMark,
}

impl Slot {
    fn encode(&self) -> [u8; SLOT] {
        let words = [
            self.sequence,
            self.epoch as u64,
            self.count,
            self.previous_count,
            u64::from(self.rebuilt),
            self.compacted,
            self.stamp.size,
            self.stamp.mtime_s as u64,
            self.stamp.mtime_ns as u64,
            self.stamp.inode,
            self.saved.salts,
            u64::from(self.saved.frames),
        ];
        let mut bytes = [0; SLOT];
        for (at, word) in words.iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..SLOT - 4]);
        bytes[SLOT - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT]) -> Option<Self> {
        let crc = crc32c::crc32c(&bytes[..SLOT - 4]).to_le_bytes();
        if bytes[SLOT - 4..] != crc {
            return None;
        }
        let mut words = bytes
            .chunks_exact(8)
            .map(|w| w.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next().unwrap_or(0);
        // Nobody has counted that far; there must be a next one.
        let sequence = Some(next()).filter(|sequence| *sequence < u64::MAX / 2)?;
        Some(Slot {
            sequence,
            epoch: next() as i64,
            count: next(),
            previous_count: next(),
            rebuilt: next() != 0,
            compacted: next(),
            stamp: Stamp {
                size: next(),
                mtime_s: next() as i64,
                mtime_ns: next() as i64,
                inode: next(),
            },
            saved: WalMark {
                salts: next(),
                frames: next() as u32,
            },
        })
    }

    /// The newest valid slot of `file`.
    fn read(file: &File) -> Option<Self> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0).ok()?;
        let slots = SLOTS_AT.iter().filter_map(|at| {
            let mut bytes = [0; SLOT];
            file.read_exact_at(&mut bytes, *at).ok()?;
            Slot::decode(&bytes)
        });
        if &magic == MAGIC {
            slots.max_by_key(|slot| slot.sequence)
        } else {
            None
        }
    }
}

/// An open revert file with its index. Memory: a few bytes per page.
pub(super) struct Revert {
    file: File,
    path: PathBuf,
    /// Where the file is while it is not in use yet.
    unpublished: Option<PathBuf>,
    slot: Slot,
    /// Number of entries in the file, with those that the slot does not know yet.
    len: u64,
    /// The newest valid entry of each page.
    index: PageMap,
}

/// An opened revert file, or why it cannot be used.
pub(super) type Opened = std::result::Result<Revert, String>;

impl Revert {
    /// Starts a new file that will replace the one at `path` when it is published. `sequence` is that of the slot
    /// to continue after.
    pub fn create(path: &Path, sequence: u64) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push("-new");
        let temporary = PathBuf::from(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary);
        let file = file.map_err(|e| Error::io(format_args!("create {}", temporary.display()), &e))?;
        file.write_all_at(MAGIC, 0).map_err(write_error)?;
        file.set_len(ENTRIES_AT).map_err(write_error)?;
        Ok(Revert {
            file,
            path: path.to_owned(),
            unpublished: Some(temporary),
            slot: Slot {
                sequence,
                ..Slot::default()
            },
            len: 0,
            index: PageMap::default(),
        })
    }

    /// Opens the file at `path` for a main database that records `epoch`, and cuts off what an apply left behind
    /// that never committed.
    pub fn open(path: &Path, epoch: i64) -> Result<Opened> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Err("the revert file is missing".into())),
            Err(e) => return Err(Error::io(format_args!("open {}", path.display()), &e)),
        };
        let Some(slot) = Slot::read(&file) else {
            return Ok(Err("the header of the revert file is damaged".into()));
        };
        let aborted = !slot.rebuilt && epoch.checked_add(1) == Some(slot.epoch);
        if epoch != slot.epoch && !aborted {
            return Ok(Err(format!(
                "the revert file belongs to epoch {}, the main database to epoch {epoch}",
                slot.epoch
            )));
        }
        let len = if aborted { slot.previous_count } else { slot.count };
        let mut revert = Revert {
            file,
            path: path.to_owned(),
            unpublished: None,
            slot,
            len,
            index: PageMap::default(),
        };
        if let Some(reason) = revert.load()? {
            return Ok(Err(reason));
        }
        revert.cut()?;
        if aborted {
            revert.publish(Slot { epoch, ..slot })?;
        }
        Ok(Ok(revert))
    }

    /// The slot of the file at `path`, all zero if there is none.
    pub fn slot_of(path: &Path) -> Slot {
        File::open(path)
            .ok()
            .and_then(|file| Slot::read(&file))
            .unwrap_or_default()
    }

    /// True if the file at the path is still this one, as this value knows it, and belongs to `epoch`.
    pub fn is_current(&self, epoch: i64) -> bool {
        let same_file = match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(mine), Ok(there)) => (mine.ino(), mine.dev()) == (there.ino(), there.dev()),
            _ => false,
        };
        same_file && self.slot.epoch == epoch && Slot::read(&self.file) == Some(self.slot)
    }

    /// Reads and checks all entries; the reason if the file cannot be used.
    fn load(&mut self) -> Result<Option<String>> {
        let read_error = |e: std::io::Error| Error::io("read the revert file", &e);
        let size = self.file.metadata().map_err(read_error)?.len();
        if self.len > size.saturating_sub(ENTRIES_AT) / ENTRY as u64 {
            return Ok(Some("the revert file is too short".into()));
        }
        let mut reader = BufReader::with_capacity(64 * ENTRY, &self.file);
        reader.seek(SeekFrom::Start(ENTRIES_AT)).map_err(read_error)?;
        let mut entry = vec![0u8; ENTRY];
        for number in 0..self.len {
            reader.read_exact(&mut entry).map_err(read_error)?;
            match entry_page_no(&entry) {
                Some(page_no) => self.index.insert(page_no, number)?,
                None => return Ok(Some(format!("entry {number} of the revert file is damaged"))),
            };
        }
        Ok(None)
    }

    /// Cuts off whatever lies behind the entries.
    fn cut(&self) -> Result<()> {
        let end = ENTRIES_AT + self.len * ENTRY as u64;
        if self.file.metadata().map_err(write_error)?.len() > end {
            self.file.set_len(end).map_err(write_error)?;
        }
        Ok(())
    }

    /// The slot in force.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Number of entries in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if a base image of page `page_no` is saved.
    pub fn contains(&self, page_no: u32) -> bool {
        self.index.get(page_no).is_some()
    }

    /// The saved pages, in ascending order.
    pub fn page_numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.index.pages()
    }

    /// Reads the saved image of page `page_no`; false if there is none.
    pub fn read(&self, page_no: u32, page: &mut Page) -> Result<bool> {
        let Some(number) = self.index.get(page_no) else {
            return Ok(false);
        };
        let mut entry = [0u8; ENTRY];
        self.file
            .read_exact_at(&mut entry, ENTRIES_AT + number * ENTRY as u64)
            .map_err(|e| Error::io("read the revert file", &e))?;
        if entry_page_no(&entry) != Some(page_no) {
            return Err(Error::corrupt(format!(
                "the saved image of page {page_no} is damaged"
            )));
        }
        page.copy_from_slice(&entry[ENTRY_HEADER..]);
        Ok(true)
    }

    /// Writes an entry. It counts for this value at once, for others when a slot with [`Revert::len`] is published.
    pub fn append(&mut self, page_no: u32, epoch: i64, page: &Page) -> Result<()> {
        let mut entry = [0u8; ENTRY];
        entry[..4].copy_from_slice(&page_no.to_le_bytes());
        entry[4..12].copy_from_slice(&epoch.to_le_bytes());
        entry[ENTRY_HEADER..].copy_from_slice(page);
        let crc = entry_crc(&entry).to_le_bytes();
        entry[12..ENTRY_HEADER].copy_from_slice(&crc);
        self.file
            .write_all_at(&entry, ENTRIES_AT + self.len * ENTRY as u64)
            .map_err(write_error)?;
        self.index.insert(page_no, self.len)?;
        self.len += 1;
        Ok(())
    }

    /// Makes the entries durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(write_error)
    }

    /// Makes `slot` count, with all entries; they must be durable already.
    pub fn publish(&mut self, slot: Slot) -> Result<()> {
        self.write_slot(Slot {
            previous_count: self.len,
            rebuilt: false,
            ..slot
        })
    }

    /// Announces the epoch of `slot`: all entries count as soon as the main database records it, `previous_count`
    /// of them until then. One sync for entries and slot, because before the commit the order does not matter.
    pub fn announce(&mut self, slot: Slot, previous_count: u64) -> Result<()> {
        self.write_slot(Slot {
            previous_count,
            ..slot
        })
    }

    fn write_slot(&mut self, slot: Slot) -> Result<()> {
        let sequence = self.slot.sequence + 1;
        let slot = Slot {
            sequence,
            count: self.len,
            ..slot
        };
        let at = SLOTS_AT[(sequence % 2) as usize];
        self.file.write_all_at(&slot.encode(), at).map_err(write_error)?;
        fault::point("revert:before-sync")?;
        self.sync()?;
        if let Some(temporary) = &self.unpublished {
            fault::point("revert:before-rename")?;
            std::fs::rename(temporary, &self.path).map_err(write_error)?;
            sync_folder_of(&self.path)?;
            fault::point("revert:after-rename")?;
            self.unpublished = None;
        }
        self.slot = slot;
        Ok(())
    }
}

fn write_error(e: std::io::Error) -> Error {
    Error::io("write the revert file", &e)
}

fn entry_crc(entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&entry[..12]), &entry[ENTRY_HEADER..])
}

/// The page of an entry, `None` if the entry is damaged.
fn entry_page_no(entry: &[u8]) -> Option<u32> {
    let number = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    (entry_crc(entry) == number(12) && number(0) != 0).then(|| number(0))
}

fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| Error::io(format_args!("sync {}", folder.display()), &e))
}

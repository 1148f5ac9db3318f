//! Connections to the main file, and its raw bytes.
//!
//! POSIX drops all locks of a process on a file when it closes any descriptor of that file. So the main file and its
//! log are never opened a second time: raw reads go through the handles of a SQLite connection.

use std::ffi::c_void;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, ffi};

use crate::error::{Error, Result};
use crate::pages::wal::{self, WalCommits, WalIndex};
use crate::pages::{PAGE_SIZE, Page, header};

/// Largest size in bytes that the log keeps after it was reset.
const LOG_SIZE_LIMIT: u32 = 4 << 20;

/// Opens the main file so that nothing is ever checkpointed behind our back, and makes sure that it is what sync
/// works on.
pub(super) fn open(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(busy_timeout)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.execute_batch(&format!(
        "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=FULL; PRAGMA foreign_keys=OFF; PRAGMA mmap_size=0;
         PRAGMA journal_size_limit={LOG_SIZE_LIMIT}"
    ))?;
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Error::misuse(format!(
            "the main file must be in WAL mode, its journal mode is {mode}"
        )));
    }
    let page_size: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    if page_size as usize != PAGE_SIZE {
        return Err(Error::misuse(format!(
            "the main file must have pages of {PAGE_SIZE} bytes, not {page_size}"
        )));
    }
    Ok(conn)
}

/// Has the database of `conn`, which is empty yet, reserve `count` bytes at the end of each page.
pub fn reserve_bytes(conn: &Connection, count: u8) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let sql = "SELECT data FROM sqlite_dbpage WHERE pgno = 1";
    let first: Option<Vec<u8>> = conn.query_row(sql, [], |row| row.get(0)).optional()?;
    if let Some(first) = first {
        let there = first.get(header::RESERVED_AT).copied().unwrap_or_default();
        return match there == count {
            true => Ok(()),
            false => Err(Error::misuse(format!(
                "there is an empty database that reserves {there} bytes per page already, not {count}; remove it first"
            ))),
        };
    }
    let mut wanted = i32::from(count);
    // SAFETY: the connection is open, and this file control reads and writes one int.
    let rc = unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_RESERVE_BYTES,
            (&raw mut wanted).cast::<c_void>(),
        )
    };
    check(Some(rc))
}

/// A connection inside a transaction, with access to the raw bytes of the main file and its log.
pub(super) struct Snapshot {
    conn: Connection,
}

impl Snapshot {
    /// Begins a read transaction.
    pub fn read(path: &Path) -> Result<Self> {
        let conn = open(path, Duration::from_secs(5))?;
        conn.execute_batch("PRAGMA query_only=ON; BEGIN")?;
        let snapshot = Snapshot { conn };
        snapshot.pages()?;
        Ok(snapshot)
    }

    /// Begins a write transaction: nobody else can write while it lives.
    pub fn write(path: &Path, busy_timeout: Duration) -> Result<Self> {
        let conn = open(path, busy_timeout)?;
        conn.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Snapshot { conn })
    }

    /// The connection, for SQL.
    pub fn connection(&self) -> &Connection {
        &self.conn
    }

    /// Pages of the database in this snapshot.
    pub fn pages(&self) -> Result<u32> {
        Ok(self.conn.query_row("PRAGMA page_count", [], |row| row.get(0))?)
    }

    /// Image of page `page_no` in this snapshot; false if the database is shorter.
    pub fn page(&self, page_no: u32, page: &mut Page) -> Result<bool> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
        let mut rows = statement.query([page_no])?;
        let Some(row) = rows.next()? else {
            return Ok(false);
        };
        let data = row.get_ref(0)?.as_blob().unwrap_or_default();
        if data.len() != PAGE_SIZE {
            return Err(Error::corrupt(format!(
                "page {page_no} of the main file cannot be read"
            )));
        }
        page.copy_from_slice(data);
        Ok(true)
    }

    /// Bytes that this snapshot reserves at the end of each page.
    pub fn reserved_bytes(&self) -> Result<u8> {
        let mut first = [0; PAGE_SIZE];
        self.page(1, &mut first)?;
        Ok(header::reserved_bytes(&first))
    }

    /// Image of page `page_no` in the main file itself; false if the file is shorter.
    pub fn file_page(&self, page_no: u32, page: &mut Page) -> Result<bool> {
        let offset = (u64::from(page_no) - 1) * PAGE_SIZE as u64;
        self.handle(ffi::SQLITE_FCNTL_FILE_POINTER)?.read(page, offset)
    }

    /// Makes what was written into the main file durable.
    pub fn sync_file(&self) -> Result<()> {
        self.handle(ffi::SQLITE_FCNTL_FILE_POINTER)?.sync()
    }

    /// Which pages the log holds.
    pub fn log(&self) -> Result<WalIndex> {
        let log = self.handle(ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
        wal::scan(&log, self.committed_frames()?)
    }

    /// The transactions that the log holds.
    pub fn commits(&self) -> Result<WalCommits> {
        let log = self.handle(ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
        wal::commits(&log, self.committed_frames()?)
    }

    /// Frames of the log up to the last commit that SQLite knows of. What follows may be a commit that failed, all of
    /// whose frames are there: nobody sees it, and the next one writes over it.
    fn committed_frames(&self) -> Result<u32> {
        // `mxFrame`: <https://sqlite.org/walformat.html#the_wal_index_header>.
        self.handle(ffi::SQLITE_FCNTL_FILE_POINTER)?.index_word(16)
    }

    /// Image of the page in frame `frame` of the log; false if there is no such frame.
    pub fn frame_page(&self, frame: u32, page: &mut Page) -> Result<bool> {
        self.handle(ffi::SQLITE_FCNTL_JOURNAL_POINTER)?
            .read(&mut page[..], wal::image_offset(frame))
    }

    fn handle(&self, which: i32) -> Result<RawFile<'_>> {
        let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
        // SAFETY: the connection is open, and both file controls store a `sqlite3_file*` where the last argument
        // points to.
        let rc = unsafe {
            ffi::sqlite3_file_control(
                self.conn.handle(),
                c"main".as_ptr(),
                which,
                (&raw mut file).cast::<c_void>(),
            )
        };
        // SAFETY: a non-null pointer from SQLite points to a file that lives as long as its connection.
        let methods = unsafe { file.as_ref() }.map_or(std::ptr::null(), |file| file.pMethods);
        // SAFETY: the methods of an open file are a static table; null means that the file is not open.
        match unsafe { methods.as_ref() } {
            Some(methods) if rc == ffi::SQLITE_OK => Ok(RawFile {
                file,
                methods,
                _conn: &self.conn,
            }),
            _ => Err(Error::internal("SQLite does not give its file handle")),
        }
    }
}

/// A file that SQLite has open. Not Send: the connection it belongs to is used by this thread.
pub(super) struct RawFile<'a> {
    file: *mut ffi::sqlite3_file,
    methods: &'a ffi::sqlite3_io_methods,
    _conn: &'a Connection,
}

impl RawFile<'_> {
    /// Size in bytes.
    pub fn size(&self) -> Result<u64> {
        let mut size = 0i64;
        // SAFETY: `file` is open while `_conn` is borrowed, and no statement of that connection is running now.
        let rc = self
            .methods
            .xFileSize
            .map(|call| unsafe { call(self.file, &mut size) });
        check(rc)?;
        Ok(size.max(0) as u64)
    }

    /// Fills `bytes` from `offset`; false if the file ends before.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Result<bool> {
        let (Ok(len), Ok(offset)) = (i32::try_from(bytes.len()), i64::try_from(offset)) else {
            return Err(Error::internal("a raw read out of range"));
        };
        // SAFETY: as in `size`; `bytes` is writable for `len` bytes.
        let rc = self
            .methods
            .xRead
            .map(|call| unsafe { call(self.file, bytes.as_mut_ptr().cast::<c_void>(), len, offset) });
        if rc == Some(ffi::SQLITE_IOERR_SHORT_READ) {
            return Ok(false);
        }
        check(rc)?;
        Ok(true)
    }

    /// The number at byte `at` of the header of the log's index, which is in memory that all processes share. The file must
    /// be a database in WAL mode.
    fn index_word(&self, at: usize) -> Result<u32> {
        const REGION: i32 = 32 << 10;
        let mut index = std::ptr::null_mut();
        // SAFETY: as in `size`. The connection is inside a transaction, so that the region is mapped already, and stays.
        let rc = self
            .methods
            .xShmMap
            .map(|call| unsafe { call(self.file, 0, REGION, 0, &raw mut index) });
        check(rc)?;
        if index.is_null() || !at.is_multiple_of(4) || at >= 48 {
            return Err(Error::internal("the log has no index"));
        }
        // SAFETY: the region is longer than the header and begins at a page; others may write it at the same time.
        Ok(unsafe { index.cast::<u8>().add(at).cast::<u32>().read_volatile() })
    }

    fn sync(&self) -> Result<()> {
        // SAFETY: as in `size`.
        let rc = self
            .methods
            .xSync
            .map(|call| unsafe { call(self.file, ffi::SQLITE_SYNC_NORMAL) });
        check(rc)
    }
}

fn check(rc: Option<i32>) -> Result<()> {
    match rc {
        Some(ffi::SQLITE_OK) => Ok(()),
        Some(rc) => Err(Error::sqlite(rc, "I/O error on the main file or its log")),
        None => Err(Error::internal("SQLite's file handle lacks a method")),
    }
}

/// Tells whether somebody changed the main file: nobody but our checkpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    pub size: u64,
    pub mtime_s: i64,
    pub mtime_ns: i64,
    pub inode: u64,
}

impl Stamp {
    /// The stamp of the file at `path`, without opening it.
    pub fn of(path: &Path) -> Result<Self> {
        let meta =
            std::fs::metadata(path).map_err(|e| Error::io(format_args!("stat {}", path.display()), &e))?;
        Ok(Stamp {
            size: meta.size(),
            mtime_s: meta.mtime(),
            mtime_ns: meta.mtime_nsec(),
            inode: meta.ino(),
        })
    }
}

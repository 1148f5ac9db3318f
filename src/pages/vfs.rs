//! The overlay as a SQLite file: a VFS that knows one kind of file, an [`Overlay`].
//!
//! A scratch connection is opened and used by one thread only ([`Scratch`] is not Send), so the overlay is handed to
//! the VFS through a thread-local cell and shared by reference count.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::rc::Rc;
use std::sync::OnceLock;

use rusqlite::{Connection, OpenFlags, ffi};

use crate::error::{Error, Result};
use crate::pages::main_file::reserve_bytes;
use crate::pages::overlay::Overlay;
use crate::pages::spool::Spool;
use crate::pages::{PAGE_SIZE, Page, header};

const NAME: &CStr = c"turso-overlay";
/// Page cache of a scratch connection in KiB; what does not fit is written to the overlay. A sorter takes as much.
const CACHE_KIB: u32 = 8 << 10;

thread_local! {
    /// The overlay of the scratch connection that lives in this thread.
    static CURRENT: RefCell<Option<Rc<Overlay>>> = const { RefCell::new(None) };
}

/// A connection on an overlay. It shares nothing with connections to the main file.
pub(super) struct Scratch {
    conn: Connection,
    overlay: Rc<Overlay>,
    _current: Current,
}

/// Lets the files that SQLite opens in this thread belong to an overlay; when dropped, to the one before.
struct Current(Option<Rc<Overlay>>);

impl Current {
    fn set(overlay: &Rc<Overlay>) -> Self {
        Current(CURRENT.replace(Some(Rc::clone(overlay))))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl Scratch {
    /// Opens a connection on `overlay`. Memory: what SQLite caches; its journal and temporary tables go to files.
    pub fn open(overlay: Rc<Overlay>) -> Result<Self> {
        register()?;
        let current = Current::set(&overlay);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let scratch = Scratch {
            conn: Connection::open_with_flags_and_vfs("scratch", flags, NAME)?,
            overlay,
            _current: current,
        };
        // The journal is needed although nothing here must survive: statements that fail are rolled back with it.
        let setup = format!(
            "PRAGMA page_size={PAGE_SIZE}; PRAGMA journal_mode=TRUNCATE; PRAGMA locking_mode=EXCLUSIVE;
             PRAGMA temp_store=FILE; PRAGMA synchronous=OFF; PRAGMA foreign_keys=OFF;
             PRAGMA cache_size=-{CACHE_KIB}"
        );
        let done = scratch.conn.execute_batch(&setup);
        scratch.explain(done.map_err(Error::from))?;
        if scratch.overlay.pages() == 0 {
            // There is no first page that would say so.
            let reserved = scratch.overlay.base.snapshot.reserved_bytes()?;
            scratch.explain(reserve_bytes(&scratch.conn, reserved))?;
        }
        Ok(scratch)
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.conn
    }

    /// `result`, or instead of SQLite's "disk I/O error" what really went wrong below it.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        let cause = self.overlay.take_error();
        result.map_err(|e| cause.unwrap_or(e))
    }
}

fn register() -> Result<()> {
    static REGISTERED: OnceLock<i32> = OnceLock::new();
    let rc = *REGISTERED.get_or_init(|| {
        // SAFETY: finding the default VFS initializes SQLite; the pointer lives as long as the process.
        let default = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()).as_ref() };
        let Some(default) = default else {
            return ffi::SQLITE_ERROR;
        };
        // Clock, randomness and sleep are the default's; version 2 leaves out the system call table.
        let vfs = Box::new(ffi::sqlite3_vfs {
            iVersion: default.iVersion.min(2),
            szOsFile: size_of::<OverlayFile>() as c_int,
            pNext: std::ptr::null_mut(),
            zName: NAME.as_ptr(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            ..*default
        });
        // SAFETY: the VFS is leaked, so that it lives as long as SQLite can use it.
        unsafe { ffi::sqlite3_vfs_register(Box::leak(vfs), 0) }
    });
    match rc {
        ffi::SQLITE_OK => Ok(()),
        rc => Err(Error::sqlite(rc, "cannot register the overlay with SQLite")),
    }
}

/// The file structure that SQLite allocates for us.
#[repr(C)]
struct OverlayFile {
    base: ffi::sqlite3_file,
    /// Owned, given back in `close`.
    opened: *mut Opened,
}

/// What an open file is: the database itself, or a temporary file.
struct Opened {
    overlay: Rc<Overlay>,
    temporary: Option<RefCell<Spool>>,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(ignore),
    xFileSize: Some(file_size),
    xLock: Some(ignore),
    xUnlock: Some(ignore),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Runs `work` on `file`; an error is kept and becomes `code`.
///
/// # Safety
/// `file` must have been opened by [`open`] and not been closed.
unsafe fn with(
    file: *mut ffi::sqlite3_file,
    code: c_int,
    work: impl FnOnce(&Opened) -> Result<c_int>,
) -> c_int {
    // SAFETY: per contract `file` is an OverlayFile that owns what it points to until `close`.
    let opened = unsafe { &*(*file.cast::<OverlayFile>()).opened };
    work(opened).unwrap_or_else(|e| {
        opened.overlay.set_error(e);
        code
    })
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    _name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes szOsFile writable bytes; null methods say that there is nothing to close.
    unsafe { (*file).pMethods = std::ptr::null() };
    let Some(overlay) = CURRENT.with_borrow(Clone::clone) else {
        return ffi::SQLITE_CANTOPEN;
    };
    let is_database = flags & ffi::SQLITE_OPEN_MAIN_DB != 0;
    let temporary = (!is_database).then(|| RefCell::new(Spool::new(&overlay.beside())));
    let opened = Box::new(Opened { overlay, temporary });
    // SAFETY: as above; `out_flags` may be null.
    unsafe {
        (*file.cast::<OverlayFile>()).opened = Box::into_raw(opened);
        (*file).pMethods = &raw const METHODS;
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the pointer came from Box::into_raw in `open`, and SQLite closes a file once.
    drop(unsafe { Box::from_raw((*file.cast::<OverlayFile>()).opened) });
    ffi::SQLITE_OK
}

/// Splits a byte range of the database into page number and range in that page; SQLite never asks across a page.
fn locate(offset: u64, len: usize) -> Result<(u32, std::ops::Range<usize>)> {
    let outside = || Error::internal(format!("an overlay access of {len} bytes at {offset}"));
    let page_no = u32::try_from(offset / PAGE_SIZE as u64 + 1).map_err(|_| outside())?;
    let start = (offset % PAGE_SIZE as u64) as usize;
    if start + len > PAGE_SIZE {
        return Err(outside());
    }
    Ok((page_no, start..start + len))
}

impl Opened {
    /// Fills `to` from `offset`; false if the file ends before.
    fn read(&self, to: &mut [u8], offset: u64) -> Result<bool> {
        if let Some(spool) = &self.temporary {
            return spool.borrow().read(to, offset);
        }
        let (page_no, range) = locate(offset, to.len())?;
        let mut page: Page = [0; PAGE_SIZE];
        let inside = page_no <= self.overlay.pages();
        if inside {
            self.overlay.read(page_no, &mut page)?;
        }
        if page_no == 1 && inside {
            // With the version of WAL mode SQLite would want a log and shared memory from this VFS.
            header::set_version(&mut page, header::ROLLBACK);
        }
        to.copy_from_slice(&page[range]);
        Ok(inside)
    }

    fn write(&self, from: &[u8], offset: u64) -> Result<()> {
        if let Some(spool) = &self.temporary {
            return spool.borrow_mut().write(from, offset);
        }
        let (page_no, range) = locate(offset, from.len())?;
        let mut page: Page = [0; PAGE_SIZE];
        if range.len() < PAGE_SIZE && page_no <= self.overlay.pages() {
            self.overlay.read(page_no, &mut page)?;
        }
        page[range].copy_from_slice(from);
        self.overlay.write(page_no, &page)
    }

    fn truncate(&self, size: u64) -> Result<()> {
        match &self.temporary {
            Some(spool) => spool.borrow_mut().truncate(size)?,
            None => self.overlay.truncate(unsigned(size / PAGE_SIZE as u64)?),
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        match &self.temporary {
            Some(spool) => spool.borrow().len(),
            None => u64::from(self.overlay.pages()) * PAGE_SIZE as u64,
        }
    }
}

/// A number that SQLite gives us, which is never negative or too large.
fn unsigned<T, N: TryFrom<T>>(number: T) -> Result<N> {
    N::try_from(number).map_err(|_| Error::internal("SQLite named an impossible size or offset"))
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, len: c_int, offset: i64) -> c_int {
    let work = |opened: &Opened| {
        let len = unsigned(len)?;
        // SAFETY: SQLite passes a buffer of `len` bytes, which are initialized here.
        let to = unsafe {
            std::ptr::write_bytes(to.cast::<u8>(), 0, len);
            std::slice::from_raw_parts_mut(to.cast::<u8>(), len)
        };
        match opened.read(to, unsigned(offset)?)? {
            true => Ok(ffi::SQLITE_OK),
            false => Ok(ffi::SQLITE_IOERR_SHORT_READ),
        }
    };
    // SAFETY: SQLite calls file methods on open files only.
    unsafe { with(file, ffi::SQLITE_IOERR_READ, work) }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    let work = |opened: &Opened| {
        // SAFETY: SQLite passes `len` readable bytes.
        let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), unsigned(len)?) };
        opened.write(from, unsigned(offset)?)?;
        Ok(ffi::SQLITE_OK)
    };
    // SAFETY: SQLite calls file methods on open files only.
    unsafe { with(file, ffi::SQLITE_IOERR_WRITE, work) }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let work = |opened: &Opened| {
        opened.truncate(unsigned(size)?)?;
        Ok(ffi::SQLITE_OK)
    };
    // SAFETY: SQLite calls file methods on open files only.
    unsafe { with(file, ffi::SQLITE_IOERR_TRUNCATE, work) }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    let work = |opened: &Opened| {
        // SAFETY: SQLite passes a valid pointer.
        unsafe { *size = unsigned(opened.size())? };
        Ok(ffi::SQLITE_OK)
    };
    // SAFETY: SQLite calls file methods on open files only.
    unsafe { with(file, ffi::SQLITE_IOERR_FSTAT, work) }
}

unsafe extern "C" fn ignore(_file: *mut ffi::sqlite3_file, _argument: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_file: *mut ffi::sqlite3_file, reserved: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a valid pointer.
    unsafe { *reserved = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(
    _file: *mut ffi::sqlite3_file,
    _op: c_int,
    _argument: *mut c_void,
) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    PAGE_SIZE as c_int
}

unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, _name: *const c_char, _sync: c_int) -> c_int {
    ffi::SQLITE_IOERR_DELETE
}

unsafe extern "C" fn access(
    _vfs: *mut ffi::sqlite3_vfs,
    _name: *const c_char,
    _flags: c_int,
    result: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a valid pointer. There are no other files.
    unsafe { *result = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    to: *mut c_char,
) -> c_int {
    // SAFETY: `name` is a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if usize::try_from(len).is_ok_and(|len| name.len() <= len) {
        // SAFETY: `to` has room for `len` bytes, and the string fits.
        unsafe { std::ptr::copy_nonoverlapping(name.as_ptr().cast::<c_char>(), to, name.len()) };
        ffi::SQLITE_OK
    } else {
        ffi::SQLITE_CANTOPEN
    }
}

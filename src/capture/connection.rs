//! A connection to a local database.

use std::cell::UnsafeCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::ffi;

use crate::capture::Statement;
use crate::capture::hooks::{self, HookState};
use crate::capture::ignored::{self, IgnoredTables};
use crate::capture::lineage::Writer;
use crate::capture::log::LOCAL_TABLES;
use crate::capture::session::Session;
use crate::capture::sqlite::Db;
use crate::error::{Category, Code, Error, Result};

/// Told about events on a connection. Calls come in the thread that uses the connection, while no statement of it
/// runs, so that the observer may open connections of its own.
pub trait Observer: Send + Sync {
    /// A transaction committed and the write-ahead log now holds `frames` frames.
    fn committed(&self, frames: u32);
    /// The connection is closed.
    fn closed(&self);
}

/// How to open a connection.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Capture every change into the change log; the file must be a replica (see [`crate::capture::log`]).
    pub capture: bool,
    /// Tables of which nothing is captured. Every capturing connection of a replica must have the same.
    pub ignored: IgnoredTables,
    /// Refuse all writes.
    pub read_only: bool,
    /// Whose changes they are, if copies of the file are to be told apart from it.
    pub writer: Option<Arc<Writer>>,
    /// Who wants to know about commits (of capturing connections only) and closing.
    pub observer: Option<Arc<dyn Observer>>,
}

/// How long a capturing connection waits for locks unless told otherwise.
const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The write-ahead log shrinks to this size when it starts anew.
const WAL_SIZE_LIMIT_BYTES: u32 = 4 << 20;

/// A connection; clones are the same connection. Use it, and the statements of it, from one thread at a time:
/// concurrent use is detected and answered with MISUSE. The last of all clones and statements closes it.
///
/// In autocommit mode a capturing connection refuses a second write statement, and BEGIN, while another one is half way:
/// SQLite (3.53) allows it, but loses count of their statement transactions, and one that fails may undo finished ones.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

impl Connection {
    /// Opens the database at `path`; `:memory:` without capture only. A missing file is created, unless `read_only`
    /// or `capture` is set: a replica is created by the sync engine.
    pub fn open(path: &str, options: OpenOptions) -> Result<Connection> {
        if options.capture && !std::path::Path::new(path).exists() {
            return Err(refused(
                "there is no such replica; create it through the sync engine",
            ));
        }
        // Without CREATE, ATTACH could not create databases either.
        let access = match options.read_only {
            true => ffi::SQLITE_OPEN_READONLY,
            false => ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE,
        };
        let db = Db::open(path, access | ffi::SQLITE_OPEN_FULLMUTEX)?;
        // Kept here until the connection is closed or has taken it over: callbacks point to it.
        let state = Rc::new(HookState {
            ignored: options.ignored.clone(),
            ..Default::default()
        });
        let session = match set_up(db, &options, &state) {
            Ok(session) => session,
            Err(error) => {
                let _ = db.close();
                return Err(error);
            }
        };
        let shared = Shared {
            busy: AtomicBool::new(false),
            session: UnsafeCell::new(Some(session)),
            interrupt: Mutex::new(Some(Interruptible(db))),
            dropped: Mutex::new(Vec::new()),
            has_dropped: AtomicBool::new(false),
            observer: options.observer,
        };
        Ok(Connection {
            shared: Arc::new(shared),
        })
    }

    /// Prepares the first statement of `sql`: the statement and the byte offset behind it, or `None` if there is
    /// none left (white space and comments).
    pub fn prepare(&self, sql: &str) -> Result<Option<(Statement, usize)>> {
        let prepared = self.shared.with(|session| session.prepare(sql))?;
        Ok(prepared.map(|(slot, used)| (Statement::new(Arc::clone(&self.shared), slot), used)))
    }

    /// Runs all statements of `sql`, discarding rows.
    pub fn execute_batch(&self, sql: &str) -> Result<()> {
        let mut rest = sql;
        while let Some((mut statement, used)) = self.prepare(rest)? {
            statement.execute()?;
            rest = rest.get(used..).unwrap_or("");
        }
        Ok(())
    }

    /// How long statements wait for a lock.
    pub fn set_busy_timeout(&self, timeout: Duration) {
        let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let _ = self.shared.with(|session| {
            session.db().set_busy_timeout(ms);
            Ok(())
        });
    }

    /// True outside a transaction that the user began; false when closed.
    pub fn is_autocommit(&self) -> bool {
        self.shared
            .with(|session| Ok(session.is_autocommit()))
            .unwrap_or(false)
    }

    /// Rowid of the last row that the user's statements inserted.
    pub fn last_insert_rowid(&self) -> i64 {
        self.shared
            .with(|session| Ok(session.db().last_insert_rowid()))
            .unwrap_or(0)
    }

    /// Interrupts the statement that runs in another thread. Allowed from any thread at any time.
    pub fn interrupt(&self) {
        if let Some(Interruptible(db)) = &*lock(&self.shared.interrupt) {
            // SAFETY: closing takes the handle out under this lock first, so it is open; SQLite allows this call
            // from any thread.
            unsafe { ffi::sqlite3_interrupt(db.0) };
        }
    }

    /// Finalizes all statements and closes; later use is the error `Connection closed`. Closing twice is fine. An
    /// open transaction is rolled back.
    pub fn close(&self) -> Result<()> {
        self.shared.close()
    }
}

fn set_up(db: Db, options: &OpenOptions, state: &Rc<HookState>) -> Result<Session> {
    // rusqlite's build of SQLite has them on.
    db.configure(ffi::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    if options.capture {
        db.set_busy_timeout(DEFAULT_BUSY_TIMEOUT.as_millis() as i32);
        check_is_replica(db)?;
        ignored::check_kinds(db, &options.ignored)?;
        if !options.read_only && pragma(db, "PRAGMA main.journal_mode = wal")? != "wal" {
            return Err(refused(
                "the file cannot be switched to WAL mode, which sync needs",
            ));
        }
        db.configure(ffi::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        db.execute("PRAGMA synchronous = NORMAL")?;
        db.execute("PRAGMA wal_autocheckpoint = 0")?;
        db.execute(&format!("PRAGMA journal_size_limit = {WAL_SIZE_LIMIT_BYTES}"))?;
        // SAFETY: the session and the caller keep `state` until the connection is closed.
        unsafe { hooks::install(db, Rc::as_ptr(state)) }?;
    }
    Session::new(db, Rc::clone(state), options.capture, options.writer.clone())
}

fn check_is_replica(db: Db) -> Result<()> {
    let names = LOCAL_TABLES.map(|name| format!("'{name}'")).join(", ");
    let sql = format!("SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name IN ({names})");
    let mut count = db.prepare(&sql)?;
    if !count.step()? || count.integer(0) != LOCAL_TABLES.len() as i64 {
        return Err(refused(
            "the file is not a replica; open it through the sync engine",
        ));
    }
    drop(count);
    if pragma(db, "PRAGMA encoding")? != "UTF-8" {
        return Err(refused("only databases with UTF-8 text can be synced"));
    }
    Ok(())
}

fn pragma(db: Db, sql: &str) -> Result<String> {
    let mut statement = db.prepare(sql)?;
    Ok(if statement.step()? {
        statement.text(0)
    } else {
        String::new()
    })
}

fn refused(reason: &str) -> Error {
    Error::new(Category::Usage, Code::Error, reason)
}

fn closed() -> Error {
    Error::new(Category::Usage, Code::Error, "Connection closed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle that may be interrupted.
struct Interruptible(Db);

// SAFETY: only `sqlite3_interrupt` is called through it, which SQLite allows from any thread.
unsafe impl Send for Interruptible {}

/// What all handles of one connection share.
pub(super) struct Shared {
    /// Set while a thread uses the session.
    busy: AtomicBool,
    /// `None` once closed.
    session: UnsafeCell<Option<Session>>,
    /// `None` once closing begins.
    interrupt: Mutex<Option<Interruptible>>,
    /// Slots of statements that were dropped while another thread used the session.
    dropped: Mutex<Vec<usize>>,
    has_dropped: AtomicBool,
    observer: Option<Arc<dyn Observer>>,
}

// SAFETY: the session is reached only by the thread that set `busy`, and SQLite's handles are opened with FULLMUTEX,
// so they may move between threads. The rest is Send and Sync.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The right to use the session; given back on drop.
struct Guard<'a>(&'a Shared);

impl Guard<'_> {
    fn session(&mut self) -> &mut Option<Session> {
        // SAFETY: there is one guard at a time, and it is borrowed exclusively.
        unsafe { &mut *self.0.session.get() }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    /// Never waits: `None` if another thread uses the connection.
    fn try_lock(&self) -> Option<Guard<'_>> {
        let free = self
            .busy
            .compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst);
        // Not `then_some`: a guard that is made and dropped gives the lock back, which is somebody else's.
        free.is_ok().then(|| Guard(self))
    }

    fn guard(&self) -> Result<Guard<'_>> {
        self.try_lock()
            .ok_or_else(|| Error::misuse("concurrent use forbidden"))
    }

    /// Runs `f` on the session, and tells the observer afterwards.
    pub fn with<T>(&self, f: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        let mut guard = self.guard()?;
        let session = guard.session().as_mut().ok_or_else(closed)?;
        let result = f(session);
        let commit = session.take_commit();
        drop(guard);
        self.release_dropped();
        self.tell(commit);
        result
    }

    fn tell(&self, commit: Option<u32>) {
        if let (Some(frames), Some(observer)) = (commit, &self.observer) {
            observer.committed(frames);
        }
    }

    /// Finalizes the statement in `slot`, now or as soon as the thread that uses the connection is done.
    pub fn drop_statement(&self, slot: usize) {
        lock(&self.dropped).push(slot);
        self.has_dropped.store(true, Ordering::SeqCst);
        self.release_dropped();
    }

    fn release_dropped(&self) {
        while self.has_dropped.load(Ordering::SeqCst) {
            // Whoever holds the lock comes here after giving it back.
            let Some(mut guard) = self.try_lock() else {
                return;
            };
            self.has_dropped.store(false, Ordering::SeqCst);
            let slots = std::mem::take(&mut *lock(&self.dropped));
            let Some(session) = guard.session() else {
                return;
            };
            for slot in slots {
                session.release_slot(slot);
            }
            let commit = session.take_commit();
            drop(guard);
            self.tell(commit);
        }
    }

    fn close(&self) -> Result<()> {
        let mut guard = self.guard()?;
        let Some(session) = guard.session().take() else {
            return Ok(());
        };
        lock(&self.interrupt).take();
        let result = session.close();
        drop(guard);
        if let Some(observer) = &self.observer {
            observer.closed();
        }
        result
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_late_does_not_give_the_lock_back() {
        let options = OpenOptions {
            capture: false,
            read_only: false,
            observer: None,
            writer: None,
            ignored: Default::default(),
        };
        let connection = Connection::open(":memory:", options).unwrap();
        let holder = connection.shared.try_lock().unwrap();
        for _ in 0..3 {
            let e = connection.shared.guard().map(drop).unwrap_err();
            assert_eq!(e.code, Code::Misuse);
        }
        drop(holder);
        connection.execute_batch("SELECT 1").unwrap();
    }
}

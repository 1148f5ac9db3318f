//! The served database: its connections, its revisions and snapshots of them.
//!
//! A revision is taken under SQLite's write lock: the write-ahead log is scanned, what changed is recorded, and
//! a reader's snapshot is opened before the lock is released, so that the snapshot is exactly that revision.
//! Only this module checkpoints, and only what has been recorded.

use std::fs::{File, Metadata, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use roaring::RoaringBitmap;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

use super::history::History;
use super::wal;
use crate::error::{Category, Code, Error, Result};
use crate::protocol::PAGE_SIZE;

/// How long a statement of a push waits for the write lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long taking a revision waits for the write lock: longer than a large push takes.
const REVISION_TIMEOUT: Duration = Duration::from_secs(30);
/// Snapshots kept open for pinned requests.
const MAX_KEPT: usize = 8;
/// How long a snapshot is kept without being used.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// How long a snapshot is kept at all: meanwhile the log cannot start over.
const KEEP_LIMIT: Duration = Duration::from_secs(900);
/// The log is checkpointed when it is longer than this, in bytes.
const CHECKPOINT_LEN: u64 = 16 << 20;
/// To this length the file is cut when the log starts over. Were it above the one before, the file would stay too long, and ask
/// for a checkpoint after every commit.
const LOG_FILE_LEN: u64 = CHECKPOINT_LEN / 2;

/// One open read transaction on the database.
pub struct Snapshot {
    conn: Connection,
}

impl Snapshot {
    /// Reads page `no` (from 1) into `page`.
    pub fn read(&self, no: u32, page: &mut [u8; PAGE_SIZE]) -> Result<()> {
        let mut query = self
            .conn
            .prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?")?;
        let mut rows = query.query([no])?;
        let row = rows
            .next()?
            .ok_or_else(|| Error::corrupt(format!("page {no} is missing")))?;
        let data = row
            .get_ref(0)?
            .as_blob()
            .map_err(|e| Error::internal(e.to_string()))?;
        *page = data
            .try_into()
            .map_err(|_| Error::corrupt(format!("page {no} has {} bytes", data.len())))?;
        if no == 1 {
            // Replicas work in WAL mode whatever this file says.
            page[18..20].copy_from_slice(&[2, 2]);
        }
        Ok(())
    }
}

/// A snapshot and the revision it is.
#[derive(Clone)]
pub struct Revision {
    /// Its number in the history.
    pub number: i64,
    /// Its name for clients.
    pub name: String,
    /// Database size in pages.
    pub pages: u32,
    /// Shared because requests for the same kept revision read from one connection.
    pub snapshot: Arc<Mutex<Snapshot>>,
}

struct Kept {
    revision: Revision,
    since: Instant,
    used: Instant,
    /// Downloads in parts that have begun with it and not ended, as far as that is known.
    downloads: u32,
}

/// Everything that changes together when a revision is taken.
struct Inner {
    history: History,
    /// Takes the write lock; never writes.
    lock: Connection,
    kept: Vec<Kept>,
}

/// The served database.
pub struct Store {
    path: PathBuf,
    inner: Mutex<Inner>,
    /// What the log looked like when all of it had been moved into the file.
    moved: Mutex<Option<(u64, SystemTime)>>,
    /// As they were asked for last.
    figures: Mutex<(i64, u32, u64)>,
    /// Never closed while a connection is open: closing any handle of the file drops SQLite's POSIX locks.
    file: File,
    /// Removed at the end, if the database is a temporary one.
    _temporary: Option<TemporaryDir>,
}

impl Store {
    /// Opens or creates the database at `path`, or a temporary one.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let (path, temporary) = match path {
            Some(path) => (path.to_owned(), None),
            None => {
                let dir = TemporaryDir::new()?;
                (dir.0.join("temporary.db"), Some(dir))
            }
        };
        // Before anything touches it: a file that is not ours to serve must not get a side file either.
        let lock = open_database(&path)?;
        lock.busy_timeout(REVISION_TIMEOUT)?;
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|e| Error::io(format!("open {}", path.display()), &e))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_us = i64::try_from(now.as_micros()).unwrap_or_default();
        let identity = uuid::Uuid::new_v4().simple().to_string();
        let history = History::open(&suffixed(&path, "-sync"), &identity, now_us)?;
        let inner = Inner {
            history,
            lock,
            kept: Vec::new(),
        };
        let store = Store {
            path,
            inner: Mutex::new(inner),
            moved: Mutex::default(),
            figures: Mutex::default(),
            file,
            _temporary: temporary,
        };
        store.checkpoint()?;
        Ok(store)
    }

    /// A new connection for statements of clients.
    pub fn connect(&self) -> Result<Connection> {
        open_connection(&self.path)
    }

    /// The newest revision, recorded and with a snapshot of it.
    pub fn newest(&self) -> Result<Revision> {
        let conn = self.connect()?;
        self.with_lock(|store, inner| {
            let pages = store.record(inner, &conn)?;
            conn.execute_batch("BEGIN")?;
            // The snapshot begins with the first read, not with BEGIN.
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            let number = inner.history.revision();
            let name = inner.history.name(number);
            Ok(Revision {
                number,
                name,
                pages,
                snapshot: Arc::new(Mutex::new(Snapshot { conn })),
            })
        })
    }

    /// Keeps `revision` readable for later requests that pin it: a download in parts has begun with it.
    pub fn keep(&self, revision: &Revision) {
        let kept = &mut self.inner().kept;
        if let Some(k) = kept.iter_mut().find(|k| k.revision.number == revision.number) {
            k.used = Instant::now();
            k.downloads += 1;
            return;
        }
        if kept.len() >= MAX_KEPT {
            let oldest = kept
                .iter()
                .enumerate()
                .min_by_key(|(_, k)| k.used)
                .map(|(i, _)| i);
            oldest.map(|i| kept.swap_remove(i));
        }
        let now = Instant::now();
        kept.push(Kept {
            revision: revision.clone(),
            since: now,
            used: now,
            downloads: 1,
        });
    }

    /// The last part of a download of revision `number` goes out. Without other downloads its snapshot is closed: as long
    /// as it is open, the log cannot start over.
    pub fn done_with(&self, number: i64) {
        self.inner().kept.retain_mut(|k| {
            k.downloads -= u32::from(k.revision.number == number && k.downloads > 0);
            k.downloads > 0
        });
    }

    /// The kept snapshot of revision `number`.
    pub fn kept(&self, number: i64) -> Option<Revision> {
        let mut inner = self.inner();
        let kept = inner.kept.iter_mut().find(|k| k.revision.number == number)?;
        kept.used = Instant::now();
        Some(kept.revision.clone())
    }

    /// Closes kept snapshots that are idle or old.
    pub fn drop_stale(&self) {
        self.inner()
            .kept
            .retain(|k| k.used.elapsed() < KEEP_IDLE && k.since.elapsed() < KEEP_LIMIT);
    }

    /// Number of a revision that a client named, if it is one of this database.
    pub fn number(&self, name: &str) -> Result<Option<i64>> {
        self.inner().history.number(name)
    }

    /// Pages (from 1) up to `size` that changed after revision `since`.
    pub fn changed_since(&self, since: i64, size: u32) -> Result<RoaringBitmap> {
        self.inner().history.changed_since(since, size)
    }

    /// Database size at revision `number`, if it is still known.
    pub fn size_at(&self, number: i64) -> Result<Option<u32>> {
        self.inner().history.size_at(number)
    }

    /// Newest revision, its size in pages, and pages in the history; those of the last time if somebody works on them.
    pub fn figures(&self) -> (i64, u32, u64) {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(inner) = self.inner.try_lock()
            && let Ok(now) = inner.history.figures()
        {
            *figures = now;
        }
        *figures
    }

    /// Reads the database.
    pub fn check(&self) -> Result<()> {
        let conn = self.connect()?;
        Ok(conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?)
    }

    /// Length and age of the log, to notice writers that are not ours.
    pub fn log_stamp(&self) -> Option<(u64, SystemTime)> {
        let meta = std::fs::metadata(suffixed(&self.path, "-wal")).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    }

    /// Whether the log has grown long enough for a checkpoint, and one would move anything.
    pub fn wants_checkpoint(&self) -> bool {
        let stamp = self.log_stamp();
        // The file gets shorter only when the next writer starts it over.
        stamp.is_some_and(|(len, _)| len > CHECKPOINT_LEN) && stamp != *self.moved()
    }

    fn moved(&self) -> MutexGuard<'_, Option<(u64, SystemTime)>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what is in the log, then moves as much of it into the file as readers allow.
    pub fn checkpoint(&self) -> Result<()> {
        let mover = self.connect()?;
        self.with_lock(|store, inner| {
            store.record(inner, &mover)?;
            // PASSIVE needs no write lock, so it can run while `lock` holds it and nobody adds frames.
            let (busy, log, moved): (i64, i64, i64) =
                mover.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |r| {
                    Ok((r.get(0)?, r.get(1)?, r.get(2)?))
                })?;
            if busy == 0 && log == moved {
                let stamp = store.stamp_file()?;
                inner.history.record_checkpoint(&stamp)?;
                *store.moved() = store.log_stamp();
            }
            Ok(())
        })
    }

    /// Scans the log and records it; returns the database's size in pages. The write lock is held; `idle` is a connection
    /// outside a transaction.
    fn record(&self, inner: &mut Inner, idle: &Connection) -> Result<u32> {
        // Moves nothing, but tells how many frames are committed.
        let committed: i64 = idle.query_row("PRAGMA wal_checkpoint(NOOP)", [], |r| r.get(1))?;
        let committed = u64::try_from(committed).unwrap_or_default();
        let scan = wal::scan(&suffixed(&self.path, "-wal"), inner.history.position(), committed)?;
        let pages = inner.lock.query_row("PRAGMA page_count", [], |r| r.get(0))?;
        let stamp = stamp_of(&self.metadata()?);
        inner.history.record(&scan, pages, &stamp)?;
        Ok(pages)
    }

    /// Runs `f` while holding SQLite's write lock.
    fn with_lock<T>(&self, f: impl FnOnce(&Self, &mut Inner) -> Result<T>) -> Result<T> {
        let mut inner = self.inner();
        inner.lock.execute_batch("BEGIN IMMEDIATE")?;
        let result = f(self, &mut inner);
        inner.lock.execute_batch("ROLLBACK")?;
        result
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave a half-recorded revision: the side file is transactional.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metadata(&self) -> Result<Metadata> {
        std::fs::metadata(&self.path).map_err(|e| Error::io("look at the database file", &e))
    }

    /// Gives the file a modification time that no later write can have by chance: clocks of file systems tick
    /// too slowly to tell two writes apart.
    fn stamp_file(&self) -> Result<String> {
        let fail = |e| Error::io("mark the database file", &e);
        let random = Duration::from_nanos(uuid::Uuid::new_v4().as_u64_pair().1 % 1_000_000_000);
        self.file
            .set_modified(SystemTime::now() - Duration::from_secs(2) + random)
            .map_err(fail)?;
        Ok(stamp_of(&self.metadata()?))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Best effort: whatever is not moved now is found in the log at the next start.
        self.inner().kept.clear();
        let _ = self.checkpoint();
    }
}

struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("turso-sync-server-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).map_err(|e| Error::io("create a temporary directory", &e))?;
        Ok(TemporaryDir(dir))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What tells that a file was not written since: which file it is, its length and its modification time.
fn stamp_of(meta: &Metadata) -> String {
    let modified = meta
        .modified()
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    format!("{}:{}:{}", inode(meta), meta.len(), modified.as_nanos())
}

#[cfg(unix)]
fn inode(meta: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens the database, checks that it can be served, and puts it into WAL mode.
fn open_database(path: &Path) -> Result<Connection> {
    let fail = |e: Error| e.context(path.display());
    let not_served = |text: String| fail(Error::new(Category::Storage, Code::NotADb, text));
    if std::fs::metadata(path).is_ok_and(|m| m.is_dir()) {
        return Err(not_served("is a directory".to_owned()));
    }
    let conn = open_connection(path).map_err(fail)?;
    let number = |sql| {
        conn.query_row(sql, [], |r| r.get::<_, i64>(0))
            .map_err(|e| fail(e.into()))
    };
    // PRAGMA page_size alone does not read the file; only a query tells whether it is a database.
    number("SELECT count(*) FROM sqlite_schema")?;
    let page_size = number("PRAGMA page_size")?;
    if page_size != PAGE_SIZE as i64 {
        return Err(not_served(format!(
            "has pages of {page_size} bytes, but only {PAGE_SIZE} can be synced; convert a copy with \
             PRAGMA journal_mode=DELETE; PRAGMA page_size={PAGE_SIZE}; VACUUM;"
        )));
    }
    let mode: Option<String> = conn
        .query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))
        .optional()
        .map_err(|e| fail(e.into()))?;
    if mode.as_deref() != Some("wal") {
        return Err(not_served("cannot be put into WAL mode".to_owned()));
    }
    Ok(conn)
}

/// A connection that never checkpoints by itself.
fn open_connection(path: &Path) -> Result<Connection> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.execute_batch(&format!(
        "PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = OFF; PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = {LOG_FILE_LEN}"
    ))?;
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_started_over_asks_for_no_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("a.db"))).unwrap();
        let conn = store.connect().unwrap();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(!store.wants_checkpoint());
        conn.execute_batch("INSERT INTO t VALUES (zeroblob(30000000))")
            .unwrap();
        assert!(store.wants_checkpoint());
        store.checkpoint().unwrap();
        assert!(!store.wants_checkpoint());
        // Each of these changes the file of the log.
        for i in 0..10 {
            conn.execute("INSERT INTO t VALUES (?)", [i]).unwrap();
            assert!(!store.wants_checkpoint(), "{i}");
        }
        let (len, _) = store.log_stamp().unwrap();
        assert_eq!(len, LOG_FILE_LEN);
    }

    /// The files of `from`, as they are after a crash.
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if !path.to_str().unwrap().ends_with("-shm") {
                std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    }

    #[test]
    fn frames_of_a_failed_commit_that_a_restart_finds_are_a_new_revision() {
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [dir, copied, restarted] = dirs.each_ref().map(tempfile::TempDir::path);
        let store = Store::open(Some(&dir.join("a.db"))).unwrap();
        let conn = store.connect().unwrap();
        conn.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
            .unwrap();
        let before = store.newest().unwrap();
        // A commit of which the frames are written and the sync fails leaves the same behind.
        copy(dir, copied);
        open_connection(&copied.join("a.db"))
            .unwrap()
            .execute_batch("UPDATE t SET x = 2")
            .unwrap();
        std::fs::copy(copied.join("a.db-wal"), dir.join("a.db-wal")).unwrap();
        let failed = store.newest().unwrap();
        assert_eq!(failed.number, before.number);
        copy(dir, restarted);
        let store = Store::open(Some(&restarted.join("a.db"))).unwrap();
        let x: i64 = store
            .connect()
            .unwrap()
            .query_row("SELECT x FROM t", [], |r| r.get(0))
            .unwrap();
        assert_eq!(x, 2, "the restart finds the frames");
        let found = store.newest().unwrap();
        assert!(found.number > failed.number);
        let changed = store.changed_since(failed.number, found.pages).unwrap();
        assert!(changed.contains(2), "{changed:?}");
    }
}

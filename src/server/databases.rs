//! The databases that are served: one file, or those of a folder, opened when somebody asks for them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;

use super::http::Refusal;
use super::limits::Limits;
use super::metrics::DatabaseFigures;
use super::sql::Pool;
use super::store::Store;
use crate::error::{Category, Code, Error, Result};
use crate::protocol::PAGE_SIZE;

/// Longest name of a database.
const MAX_NAME_LEN: usize = 64;
/// First parts of paths that belong to the server itself, or may do so one day.
const RESERVED: [&str; 6] = ["health", "metrics", "pull-updates", "push-changes", "v1", "v2"];

/// Whether `name` can name a database: lower-case letters, digits, `-` and `_`, beginning with a letter or digit.
/// Lower case only, because some file systems do not tell the cases apart, and host names do not either.
pub fn valid_name(name: &str) -> bool {
    let first = name.as_bytes().first();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    first.is_some_and(|b| plain(*b))
        && name.bytes().all(|b| plain(b) || b == b'-' || b == b'_')
        && name.len() <= MAX_NAME_LEN
        && !RESERVED.contains(&name)
}

/// An open database, with what its requests share.
pub struct Database {
    /// Empty if it is the only one.
    pub name: String,
    /// Sessions of clients that may write. Before the store: its handle keeps SQLite's locks alive until the end.
    pub pool: Pool,
    /// Sessions of clients that may only read.
    pub readers: Pool,
    /// The file.
    pub store: Store,
    /// Counts commits; long polls wait on it.
    pub commits: watch::Sender<u64>,
    used: Mutex<Instant>,
    /// Length and age of the log when it was looked at last. Locked by whoever looks.
    house: Arc<tokio::sync::Mutex<Option<(u64, SystemTime)>>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Database {
    fn open(
        name: String,
        path: Option<&Path>,
        limits: &Limits,
        cut: &Arc<AtomicBool>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Self> {
        let store = Store::open(path)?;
        let house = Arc::new(tokio::sync::Mutex::new(store.log_stamp()));
        Ok(Database {
            name,
            pool: Pool::writing(limits, cut),
            readers: Pool::reading(limits, cut),
            store,
            commits: watch::Sender::new(0),
            used: Mutex::new(Instant::now()),
            house,
            _place: place,
        })
    }

    /// Wakes the long polls.
    pub fn committed(&self) {
        self.commits.send_modify(|n| *n += 1);
    }

    /// What can be said about it without waiting for anybody.
    pub fn figures(&self) -> DatabaseFigures {
        let (revision, pages, history_pages) = self.store.figures();
        DatabaseFigures {
            name: self.name.clone(),
            revision,
            bytes: u64::from(pages) * PAGE_SIZE as u64,
            history_pages,
            log_bytes: self.store.log_stamp().map_or(0, |(len, _)| len),
        }
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what is idle, moves a long log into the file, and notices writers that are not the server's. Returns
    /// what went wrong.
    async fn keep_house(self: Arc<Self>) -> Option<Error> {
        // If the last look still goes on, that is enough.
        let mut stamp = self.house.clone().try_lock_owned().ok()?;
        let database = self.clone();
        let work = spawn_blocking(move || {
            database.store.drop_stale();
            database.pool.drop_idle();
            database.readers.drop_idle();
            let checkpointed = match database.store.wants_checkpoint() {
                true => database.store.checkpoint(),
                false => Ok(()),
            };
            let now = database.store.log_stamp();
            let changed = std::mem::replace(&mut *stamp, now) != now;
            (changed, checkpointed.err())
        });
        let (changed, failed) = work.await.ok()?;
        if changed {
            self.committed();
        }
        failed
    }
}

/// Locked while it is opened or closed.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Database>>>>;

enum Source {
    /// `None` after the end.
    One(Mutex<Option<Arc<Database>>>),
    Folder {
        path: PathBuf,
        create: bool,
        slots: Mutex<HashMap<String, Slot>>,
    },
}

/// All databases of a server.
pub struct Databases {
    source: Source,
    limits: Limits,
    cut: Arc<AtomicBool>,
    /// One permit for each database of a folder that may be open.
    places: Arc<Semaphore>,
    /// Databases that are being looked after or closed: they may become free in a moment.
    tended: Arc<watch::Sender<usize>>,
}

/// One database is tended, until this is dropped.
struct Tended(Arc<watch::Sender<usize>>);

impl Drop for Tended {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Databases {
    /// Serves the file at `path`, or a temporary one. Statements end early when `cut` becomes true.
    pub fn one(path: Option<&Path>, limits: &Limits, cut: Arc<AtomicBool>) -> Result<Self> {
        let database = Database::open(String::new(), path, limits, &cut, None)?;
        Ok(Self::new(
            Source::One(Mutex::new(Some(Arc::new(database)))),
            limits,
            cut,
        ))
    }

    /// Serves `path/NAME.db` as `NAME`; makes them on request if `create`.
    pub fn folder(path: &Path, create: bool, limits: &Limits, cut: Arc<AtomicBool>) -> Result<Self> {
        if !std::fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
            let text = format!("{} is not a folder", path.display());
            return Err(Error::new(Category::Storage, Code::Misuse, text));
        }
        let source = Source::Folder {
            path: path.to_owned(),
            create,
            slots: Mutex::default(),
        };
        Ok(Self::new(source, limits, cut))
    }

    fn new(source: Source, limits: &Limits, cut: Arc<AtomicBool>) -> Self {
        Databases {
            source,
            limits: limits.clone(),
            cut,
            places: Arc::new(Semaphore::new(limits.databases)),
            tended: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Whether databases have names.
    pub fn named(&self) -> bool {
        matches!(self.source, Source::Folder { .. })
    }

    /// The database `name` (empty for the only one), opened if necessary. One that does not exist is made if the
    /// server does that and the caller `may_create`.
    pub async fn get(
        self: &Arc<Self>,
        name: &str,
        may_create: bool,
    ) -> std::result::Result<Arc<Database>, Refusal> {
        let unknown = || Refusal::not_found("there is no such database");
        let (path, create, slots) = match &self.source {
            Source::One(one) => {
                let one = one.lock().unwrap_or_else(PoisonError::into_inner);
                return one.clone().filter(|_| name.is_empty()).ok_or_else(unknown);
            }
            Source::Folder { path, create, slots } => (path, *create && may_create, slots),
        };
        if !valid_name(name) {
            return Err(unknown());
        }
        let path = path.join(format!("{name}.db"));
        let slot = lock(slots).entry(name.to_owned()).or_default().clone();
        let guard = slot.clone().lock_owned().await;
        if let Some(database) = &*guard {
            database.touch();
            return Ok(database.clone());
        }
        // In a task of its own: a client that goes away in between must not leave it half open.
        let (this, name) = (self.clone(), name.to_owned());
        let opening = tokio::spawn(async move {
            let opened = this.open(&name, path, create, guard).await;
            this.forget_unused(&name);
            opened
        });
        drop(slot);
        opening.await.map_err(Refusal::internal)?
    }

    async fn open(
        &self,
        name: &str,
        path: PathBuf,
        create: bool,
        mut slot: OwnedMutexGuard<Option<Arc<Database>>>,
    ) -> std::result::Result<Arc<Database>, Refusal> {
        if !create && !std::fs::metadata(&path).is_ok_and(|meta| meta.is_file()) {
            return Err(Refusal::not_found("there is no such database"));
        }
        let place = self.place().await?;
        let (name, limits, cut) = (name.to_owned(), self.limits.clone(), self.cut.clone());
        let opened = spawn_blocking(move || {
            let database = Arc::new(Database::open(name, Some(&path), &limits, &cut, Some(place))?);
            *slot = Some(database.clone());
            Ok::<_, Error>(database)
        });
        Ok(opened.await.map_err(Refusal::internal)??)
    }

    /// Room for one more open database; closes the one that was unused for the longest time, if necessary.
    async fn place(&self) -> std::result::Result<OwnedSemaphorePermit, Refusal> {
        let mut tended = self.tended.subscribe();
        loop {
            tended.mark_unchanged();
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return Ok(place);
            }
            let unused = |slot: &OwnedMutexGuard<_>| idle(slot);
            let oldest = self.slots().into_iter().filter_map(|(name, slot)| {
                let slot = slot.try_lock_owned().ok()?;
                unused(&slot).map(|used| (used, name, slot))
            });
            match oldest.min_by_key(|(used, _, _)| *used) {
                Some((_, name, slot)) => self.close(&name, slot).await,
                None => {
                    let all_in_use = || Refusal::busy("too many databases are in use; try again later");
                    if *tended.borrow() == 0 {
                        return Err(all_in_use());
                    }
                    let changed = tokio::time::timeout(self.limits.queue_time, tended.changed());
                    changed
                        .await
                        .map_err(|_| all_in_use())?
                        .map_err(Refusal::internal)?;
                }
            }
        }
    }

    async fn close(&self, name: &str, mut slot: OwnedMutexGuard<Option<Arc<Database>>>) {
        let tended = self.tend();
        let closing = spawn_blocking(move || {
            drop(slot.take());
            drop((slot, tended));
        });
        let _ = closing.await;
        self.forget_unused(name);
    }

    fn tend(&self) -> Tended {
        self.tended.send_modify(|n| *n += 1);
        Tended(self.tended.clone())
    }

    /// Forgets the slot of a database that is not open, unless somebody is about to open it.
    fn forget_unused(&self, name: &str) {
        if let Source::Folder { slots, .. } = &self.source {
            let mut slots = lock(slots);
            let unused = slots.get(name).is_some_and(|slot| {
                Arc::strong_count(slot) == 1 && slot.try_lock().is_ok_and(|database| database.is_none())
            });
            if unused {
                slots.remove(name);
            }
        }
    }

    fn slots(&self) -> Vec<(String, Slot)> {
        match &self.source {
            Source::One(_) => Vec::new(),
            Source::Folder { slots, .. } => {
                let slots = lock(slots);
                slots
                    .iter()
                    .map(|(name, slot)| (name.clone(), slot.clone()))
                    .collect()
            }
        }
    }

    /// Those that are open and neither being opened nor closed.
    pub fn open_ones(&self) -> Vec<Arc<Database>> {
        match &self.source {
            Source::One(one) => lock(one).iter().cloned().collect(),
            Source::Folder { .. } => {
                let slots = self.slots().into_iter();
                slots
                    .filter_map(|(_, slot)| slot.try_lock().ok()?.clone())
                    .collect()
            }
        }
    }

    /// Whether the files can be read; blocks.
    pub fn check(&self) -> Result<()> {
        match &self.source {
            Source::One(one) => {
                let one = lock(one).clone();
                one.map_or_else(|| Err(Error::busy("the server stops")), |one| one.store.check())
            }
            Source::Folder { path, .. } => std::fs::read_dir(path)
                .map(drop)
                .map_err(|e| Error::io("read the folder of databases", &e)),
        }
    }

    /// To be called now and then: looks after every open database, and closes those that nobody uses. `on_error` is
    /// told what went wrong, and with which one.
    pub async fn keep_house(&self, on_error: impl Fn(&str, &Error) + Clone + Send + 'static) {
        for (name, slot) in self.slots() {
            let Ok(slot) = slot.try_lock_owned() else { continue };
            match idle(&slot) {
                Some(used) if used.elapsed() > self.limits.idle_time => self.close(&name, slot).await,
                _ => {
                    drop(slot);
                    self.forget_unused(&name);
                }
            }
        }
        for database in self.open_ones() {
            let on_error = on_error.clone();
            let tended = self.tend();
            // Not one after the other: one that waits for a lock must not keep the others waiting.
            tokio::spawn(async move {
                let name = database.name.clone();
                let failed = database.keep_house().await;
                drop(tended);
                if let Some(e) = failed {
                    on_error(&name, &e);
                }
            });
        }
    }

    /// Closes everything; requests that still run keep what they use.
    pub fn close_all(&self) {
        match &self.source {
            Source::One(one) => drop(lock(one).take()),
            Source::Folder { slots, .. } => lock(slots).clear(),
        }
    }
}

/// Since when the database in `slot` has been unused, if it is open and nobody has it.
fn idle(slot: &OwnedMutexGuard<Option<Arc<Database>>>) -> Option<Instant> {
    let database = slot.as_ref()?;
    (Arc::strong_count(database) == 1).then(|| database.used())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0", "notes", "a-b_c", "2026", &"x".repeat(64)] {
            assert!(valid_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a.b",
            "a/b",
            "a\\b",
            "A",
            "ä",
            "-a",
            "_a",
            "a b",
            "a\0",
            "%2e",
            "~",
            "health",
            "metrics",
            "v2",
            "pull-updates",
            &"x".repeat(65),
        ] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}

//! The use-cases: create, pull, push, checkpoint.
//!
//! Each is an [`Operation`] that the host drives (see [`crate::io`]). What a replica consists of:
//!
//! * the main file with the local tables, where [`ReplicaState`](crate::capture::state::ReplicaState) says which
//!   revision its base is,
//! * the base below the local changes, kept by [`PageStore`],
//! * the metadata, which the host stores for us and which is repaired from the state when it is behind.
//!
//! Push, apply, checkpoint and the making of a replica exclude each other through the lock file. Opening what is there,
//! and the download of a wait, do not need it, so that a long poll never blocks a push.

mod adopt;
mod bootstrap;
mod conflicts;
mod delta;
mod dialect;
mod foreign;
mod identity;
mod image;
mod lock;
mod maintenance;
mod metadata;
mod opts;
mod pull;
mod push;
mod rebuild;
mod remote;
mod transform;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

pub use dialect::ProtocolVersion;
pub use maintenance::{DatabaseSyncEngineStats, ReplicaStatus};
pub use metadata::{BootstrapMark, DatabaseMetadata, Own, Revision, SavedConfiguration};
pub use opts::{DatabaseSyncEngineOpts, ForeignPolicy};
pub use pull::DbChangesStatus;

pub use crate::transform::{
    DatabaseChangeType, DatabaseRowMutation, DatabaseRowTransformResult, DatabaseStatementReplay,
};

pub use crate::replay::{
    Conflict, ConflictKind, ConflictOperation, ConflictPolicy, ConflictState, Resolution,
};

use crate::capture::lineage::Writer;
use crate::capture::state::{self, ReplicaState};
use crate::capture::{Connection, IgnoredTables};
use crate::error::{Error, Result};
use crate::io::{Control, Operation, SyncEngineIo, SyncEngineIoQueue};
use crate::pages::{BaseHealth, BaseState, PageStore, WalMark};
use lock::{SyncGuard, SyncLock};

/// How long the library's own statements wait for another writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A replica. Share it between threads as you like; clones are the same replica.
#[derive(Clone)]
pub struct DatabaseSyncEngine {
    inner: Arc<Inner>,
}

/// See [`DatabaseSyncEngine::watch`].
pub type Watcher = dyn Fn() + Send + Sync;

/// Time and chance, as inputs: a test gives its own.
pub trait Environment: Send + Sync {
    /// Unix seconds.
    fn unix_time(&self) -> i64;
    /// A UUID that nobody else has.
    fn unique_id(&self) -> String;
}

/// Time and chance of the operating system.
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn unix_time(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_secs() as i64)
    }

    fn unique_id(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }
}

struct Inner {
    opts: DatabaseSyncEngineOpts,
    ignored: IgnoredTables,
    files: Files,
    environment: Arc<dyn Environment>,
    /// What this engine's connections write is its.
    writer: Arc<Writer>,
    queue: SyncEngineIoQueue,
    lock: SyncLock,
    store: PageStore,
    /// Present once the replica is open.
    metadata: Mutex<Option<DatabaseMetadata>>,
    /// A download exists that has been neither applied nor dropped.
    download_taken: Arc<AtomicBool>,
    /// The epoch of a base that was found lost, and how: for those who must not take the lock to look.
    lost_base: Mutex<Option<(i64, BaseHealth)>>,
    /// The remote has announced the direct dialect.
    direct_known: AtomicBool,
    connections: AtomicUsize,
    /// Tables in which the last look has found changes of another program.
    foreign_tables: Mutex<Vec<String>>,
    /// Who wants to know when there may be something to sync.
    watchers: Mutex<Vec<Weak<Watcher>>>,
    /// Frames in the write-ahead log from which on a commit tries a checkpoint.
    checkpoint_at: AtomicU32,
}

/// An operation under way on a replica.
struct Task {
    replica: Arc<Inner>,
    /// Where its requests go.
    queue: SyncEngineIoQueue,
    /// What the host may know of it, and how it stops it.
    control: Arc<Control>,
}

impl Deref for Task {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.replica
    }
}

struct Files {
    main: PathBuf,
    info: String,
    changes: PathBuf,
    download: PathBuf,
}

impl Files {
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.main.clone().into_os_string();
        path.push(suffix);
        path.into()
    }
}

impl DatabaseSyncEngine {
    /// Checks the configuration; does no IO.
    pub fn new(opts: DatabaseSyncEngineOpts) -> Result<Self> {
        Self::with_environment(opts, Box::new(SystemEnvironment))
    }

    /// Like [`new`](Self::new), with time and chance of the caller's making.
    pub fn with_environment(
        mut opts: DatabaseSyncEngineOpts,
        environment: Box<dyn Environment>,
    ) -> Result<Self> {
        opts.validate()?;
        // A path is a path: this prefix keeps SQLite from reading it as a URI.
        if opts.path.starts_with("file:") {
            opts.path.insert_str(0, "./");
        }
        let ignored = IgnoredTables::new(&opts.tables_ignore)?;
        let main = PathBuf::from(&opts.path);
        let files = Files {
            info: format!("{}-info", opts.path),
            changes: PathBuf::from(format!("{}-changes", opts.path)),
            download: PathBuf::from(format!("{}-download", opts.path)),
            main,
        };
        let environment: Arc<dyn Environment> = environment.into();
        let inner = Inner {
            writer: Arc::new(identity::writer(environment.clone())),
            lock: SyncLock::new(files.beside("-lock")),
            store: PageStore::new(&files.main, &files.beside("-wal-revert")),
            opts,
            ignored,
            files,
            environment,
            queue: SyncEngineIoQueue::default(),
            metadata: Mutex::new(None),
            download_taken: Arc::default(),
            lost_base: Mutex::default(),
            direct_known: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            foreign_tables: Mutex::default(),
            watchers: Mutex::default(),
            checkpoint_at: AtomicU32::new(maintenance::CHECKPOINT_FRAMES),
        };
        Ok(DatabaseSyncEngine {
            inner: Arc::new(inner),
        })
    }

    /// Where the requests of this replica's operations go.
    pub fn io(&self) -> &SyncEngineIoQueue {
        &self.inner.queue
    }

    /// Opens the replica, creating it if it does not exist: by downloading the remote, or empty and offline if
    /// `bootstrap_if_empty` is off.
    pub fn create_db(&self) -> Operation<()> {
        self.operation("create", |task| async move { task.open_or_create(true).await })
    }

    /// Opens an existing replica; fails with `metadata not found` if there is none.
    pub fn open(&self) -> Operation<()> {
        self.operation("open", |task| async move { task.open_or_create(false).await })
    }

    /// Opens the replica, downloading the remote if it does not exist, whatever `bootstrap_if_empty` says.
    pub fn bootstrap_db(&self) -> Operation<()> {
        self.operation("bootstrap", |task| async move { task.bootstrap_or_open().await })
    }

    /// Opens a connection whose changes are captured.
    pub fn connect_rw(&self) -> Operation<Connection> {
        self.operation("connect", |task| async move { task.replica.connect() })
    }

    /// Downloads what is new on the remote; `None` if nothing is.
    pub fn wait_changes_from_remote(&self) -> Operation<Option<DbChangesStatus>> {
        self.wait_within(self.inner.opts.long_poll_timeout_ms)
    }

    /// The same with another limit to the time that the remote may hold an empty answer, in milliseconds.
    pub fn wait_within(&self, long_poll_timeout_ms: u32) -> Operation<Option<DbChangesStatus>> {
        self.operation("wait", move |task| async move {
            task.wait(long_poll_timeout_ms).await
        })
    }

    /// Longest time the remote may hold an empty answer of a wait, as configured, in milliseconds.
    pub fn long_poll_timeout_ms(&self) -> u32 {
        self.inner.opts.long_poll_timeout_ms
    }

    /// Applies downloaded changes below the pending local ones. The changes are gone afterwards, also on failure.
    pub fn apply_changes_from_remote(&self, changes: DbChangesStatus) -> Operation<()> {
        self.operation("apply", |task| async move {
            let guard = task.lock()?;
            let applied = task.apply(changes, &guard).await;
            task.leave(guard);
            applied
        })
    }

    /// Sends the pending changes. Needs the write lock of the database for a moment per request.
    pub fn push_changes_to_remote(&self) -> Operation<()> {
        self.operation("push", |task| async move {
            let guard = task.lock()?;
            let pushed = task.push(&guard).await;
            task.leave(guard);
            pushed
        })
    }

    /// Downloads and applies what is new on the remote; true if something was.
    pub fn pull_changes_from_remote(&self) -> Operation<bool> {
        self.operation("pull", |task| async move { task.pull().await })
    }

    /// Pushes, then pulls; true if something was new on the remote (one's own changes count).
    pub fn sync(&self) -> Operation<bool> {
        self.operation("sync", |task| async move {
            let guard = task.lock()?;
            let pushed = task.push(&guard).await;
            task.leave(guard);
            pushed?;
            task.pull().await
        })
    }

    /// Moves the write-ahead log into the main file, as far as readers allow.
    pub fn checkpoint(&self) -> Operation<()> {
        self.operation("checkpoint", |task| async move {
            let guard = task.lock()?;
            task.settle(task.opts.foreign_policy, &guard)?;
            task.checkpoint(BUSY_TIMEOUT, &guard)
        })
    }

    /// The conflicts of this replica, oldest transaction first: those that the last sync stopped at, and those that were
    /// set aside. Reads the local database; also possible while an operation runs.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        self.inner.conflicts()
    }

    /// Resolves the conflict `txn_id`. Needs no network unless the base was lost. An error of category `Conflict` if a transaction that was set
    /// aside still does not fit; it stays set aside then.
    pub fn resolve_conflict(&self, txn_id: i64, resolution: Resolution) -> Operation<()> {
        self.operation("resolve", move |task| async move {
            let guard = task.lock()?;
            task.settle(task.opts.foreign_policy, &guard)?;
            let resolved = task.resolve_conflict(txn_id, resolution, &guard).await;
            task.leave(guard);
            resolved?;
            task.tell_watchers();
            Ok(())
        })
    }

    /// Decides what becomes of changes that another program has written into the file: [`ForeignPolicy::Adopt`] makes them
    /// pending, [`ForeignPolicy::Discard`] undoes them, [`ForeignPolicy::Stop`] only looks. Needs the network if the base
    /// was lost with them.
    pub fn settle_foreign_changes(&self, policy: ForeignPolicy) -> Operation<()> {
        self.operation("settle", move |task| async move {
            let guard = task.lock()?;
            let settled = task.settle_now(policy, &guard).await;
            task.leave(guard);
            settled?;
            task.tell_watchers();
            Ok(())
        })
    }

    /// Goes on with a remote that is not the one that this replica knows: another one, or one that was restored from a backup,
    /// which all other operations refuse (category `Identity`). Downloads it whole. Pending changes stay pending. What else is
    /// here and not on the remote, acknowledged before or made by others, becomes pending with [`ForeignPolicy::Adopt`], where
    /// rows that differ are overwritten by those here and nothing is removed; it goes with [`ForeignPolicy::Discard`]. With
    /// [`ForeignPolicy::Stop`] the operation ends with an error of category `Foreign` if there is anything.
    pub fn accept_remote(&self, policy: ForeignPolicy) -> Operation<()> {
        self.operation("accept remote", move |task| async move {
            let guard = task.lock()?;
            let accepted = task.accept_remote(policy, &guard).await;
            task.leave(guard);
            accepted?;
            task.tell_watchers();
            Ok(())
        })
    }

    /// The tables in which the last operation has found changes of another program that nobody has decided about.
    pub fn foreign_tables(&self) -> Vec<String> {
        self.inner.foreign_tables().clone()
    }

    /// Calls `watcher` after every commit of a connection of this engine, and after a conflict was resolved: there may be
    /// something to push. It is called in the thread that did it, and must return at once. It is forgotten when it is
    /// dropped.
    pub fn watch(&self, watcher: &Arc<Watcher>) {
        self.inner.watchers().push(Arc::downgrade(watcher));
    }

    /// URL of the remote: the configured one, or the one that was saved; `None` if only the host knows it. Without a trailing
    /// slash, as `http` or `https`.
    pub fn remote_url(&self) -> Result<Option<String>> {
        self.inner.remote_url()
    }

    /// What a user wants to know: is everything uploaded, is anything in conflict, when was the last sync. Reads the local
    /// database; also possible while an operation runs.
    pub fn status(&self) -> Result<ReplicaStatus> {
        self.inner.status()
    }

    /// Figures about the replica.
    pub fn stats(&self) -> Operation<DatabaseSyncEngineStats> {
        self.operation("stats", |task| async move { task.stats() })
    }

    fn operation<T, F>(
        &self,
        name: &'static str,
        start: impl FnOnce(Task) -> F + Send + 'static,
    ) -> Operation<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: 'static,
    {
        let control = Arc::<Control>::default();
        let task = Task {
            replica: self.inner.clone(),
            queue: self.inner.queue.of(&control),
            control: control.clone(),
        };
        Operation::controlled(control, async move {
            tracing::debug!("{name} begins");
            let result = start(task).await;
            match &result {
                Ok(_) => tracing::debug!("{name} has ended"),
                Err(e) => tracing::debug!(code = ?e.code, category = ?e.category, "{name} failed: {e}"),
            }
            result
        })
    }
}

impl Inner {
    /// Takes the right to sync; BUSY if somebody has it.
    fn lock(&self) -> Result<SyncGuard> {
        self.require_open()?;
        self.lock.acquire()
    }

    fn require_open(&self) -> Result<()> {
        if self.metadata().is_none() {
            return Err(Error::misuse(
                "sync engine must be initialized: finish create or open first",
            ));
        }
        Ok(())
    }

    fn metadata(&self) -> MutexGuard<'_, Option<DatabaseMetadata>> {
        self.metadata.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn foreign_tables(&self) -> MutexGuard<'_, Vec<String>> {
        self.foreign_tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost_base(&self) -> MutexGuard<'_, Option<(i64, BaseHealth)>> {
        self.lost_base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Weak<Watcher>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_watchers(&self) {
        let living: Vec<_> = {
            let mut watchers = self.watchers();
            watchers.retain(|watcher| watcher.strong_count() > 0);
            watchers.iter().filter_map(Weak::upgrade).collect()
        };
        living.iter().for_each(|watcher| watcher());
    }

    fn remote_url(&self) -> Result<Option<String>> {
        let saved = self
            .metadata()
            .as_ref()
            .and_then(|m| m.saved_url().map(str::to_owned));
        match self.opts.remote_url.as_deref().or(saved.as_deref()) {
            Some(url) => Ok(Some(crate::protocol::url::normalize(url)?)),
            None => Ok(None),
        }
    }

    fn path(&self) -> &Path {
        &self.files.main
    }

    /// Reads the state and checks whether the base is what the state says.
    fn base(&self, _guard: &SyncGuard) -> Result<(ReplicaState, BaseHealth)> {
        let (state, (salts, frames)) = state::read_state_and_settled(self.path(), BUSY_TIMEOUT)?;
        self.store.refuse_strangers(WalMark { salts, frames });
        let health = self.store.recover(&base_state(&state))?;
        *self.lost_base() = (health != BaseHealth::Intact).then(|| (state.epoch, health.clone()));
        Ok((state, health))
    }

    fn read_state(&self) -> Result<ReplicaState> {
        state::read_state(self.path(), BUSY_TIMEOUT)
    }

    /// Ends a sync operation, also one that failed. If no connection is open that would checkpoint when it is closed, what
    /// the operation has written is moved now: a plain SQLite must find nothing to move.
    fn leave(&self, guard: SyncGuard) {
        if self.connections.load(Ordering::SeqCst) == 0 {
            self.checkpoint_postponed(&guard);
        }
    }

    fn connect(self: &Arc<Self>) -> Result<Connection> {
        self.require_open()?;
        let options = crate::capture::OpenOptions {
            capture: true,
            ignored: self.ignored.clone(),
            read_only: false,
            writer: Some(self.writer.clone()),
            observer: Some(Arc::new(maintenance::ConnectionWatch(self.clone()))),
        };
        self.connections.fetch_add(1, Ordering::SeqCst);
        let opened = Connection::open(&self.opts.path, options);
        if opened.is_err() {
            self.connections.fetch_sub(1, Ordering::SeqCst);
        }
        opened
    }
}

impl Task {
    /// Changes the metadata and has the host store them.
    async fn update_metadata(&self, change: impl FnOnce(&mut DatabaseMetadata)) -> Result<()> {
        let content = {
            let mut guard = self.metadata();
            let metadata = guard
                .as_mut()
                .ok_or_else(|| Error::internal("the replica is not open"))?;
            change(metadata);
            self.record_dialects(metadata);
            metadata.encode()?
        };
        self.write_info(content).await
    }

    async fn write_info(&self, content: Vec<u8>) -> Result<()> {
        self.queue.full_write(&self.files.info, content).await?;
        Ok(())
    }
}

fn base_state(state: &ReplicaState) -> BaseState {
    BaseState {
        epoch: state.epoch,
        base_pages: state.base_pages,
    }
}

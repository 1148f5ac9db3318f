//! `turso_sync_database_t`: a replica.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use super::boundary::{Handle, Out, status};
use super::changes::turso_sync_changes_t;
use super::database::{DatabaseSettings, not_supported};
use super::io_item::turso_sync_io_item_t;
use super::operation::{Work, turso_sync_operation_t};
use super::options;
use super::sync_types::{turso_sync_database_config_t, turso_sync_options_t};
use super::types::{turso_database_config_t, turso_status_code_t};
use crate::engine::DatabaseSyncEngine as Engine;
use crate::error::{Error, Result};
use crate::io::Operation;

/// A replica: a local database that syncs with a remote. It may be shared between threads; one sync operation at a time
/// runs on it, a second one is BUSY. Connections, operations, items and change sets may outlive the handle.
pub struct turso_sync_database_t {
    pub(super) engine: Engine,
    pub(super) long_poll_timeout_ms: u32,
    pub(super) origin: Origin,
}

/// Tells by which database changes were downloaded.
#[derive(Clone, Default)]
pub(super) struct Origin(Arc<()>);

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Handle for turso_sync_database_t {}

/// Creates a handle for a replica. Does no IO; both configurations are copied.
///
/// Of `db_config` the features, encryption and flags are checked as in turso_database_new; READONLY and memory are not
/// possible. The path that counts is the one in `sync_config`; pass the same in both. `*database` is released with
/// turso_sync_database_deinit.
///
/// Errors: MISUSE for NULL pointers (`config pointer must be not null`), text that is not UTF-8 and numbers out of range;
/// ERROR for what is not supported. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_new(
    db_config: *const turso_database_config_t,
    sync_config: *const turso_sync_database_config_t,
    database: *mut *const turso_sync_database_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let options = ptr::null();
    // SAFETY: the pointer rules of the header.
    unsafe { turso_sync_database_new_with_options(db_config, sync_config, options, database, error_opt_out) }
}

/// Creates a handle for a replica, as turso_sync_database_new does, with more settings. Not part of the SDK kit of Turso.
///
/// `options` may be NULL for the defaults; they are copied. Errors: in addition MISUSE if `options->size` is not set, or
/// if a setting is not known to this library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_new_with_options(
    db_config: *const turso_database_config_t,
    sync_config: *const turso_sync_database_config_t,
    options: *const turso_sync_options_t,
    database: *mut *const turso_sync_database_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (out, settings) = unsafe { (Out::new(database)?, DatabaseSettings::read(db_config)?) };
        // SAFETY: the pointer rules of the header.
        let opts = unsafe { options::read(sync_config, options) }?;
        if settings.in_memory || opts.path == ":memory:" {
            return Err(not_supported("a replica in memory"));
        }
        if settings.read_only {
            return Err(not_supported("opening a replica READONLY"));
        }
        let long_poll_timeout_ms = opts.long_poll_timeout_ms;
        let handle = turso_sync_database_t {
            engine: Engine::new(opts)?,
            long_poll_timeout_ms,
            origin: Origin::default(),
        };
        out.put(handle.hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Hands out the operation that `start` makes.
///
/// # Safety
/// All pointers follow the rules of the header.
pub(super) unsafe fn begin(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
    start: impl FnOnce(&turso_sync_database_t) -> Result<Work>,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the same contract.
        let (database, out) = unsafe { (turso_sync_database_t::borrow(database)?, Out::new(operation)?) };
        out.put(turso_sync_operation_t::new(start(database)?).hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the same contract.
    unsafe { status(error_opt_out, body) }
}

/// As [`begin`], for an operation that needs nothing but the engine.
///
/// # Safety
/// All pointers follow the rules of the header.
unsafe fn simple<T>(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
    start: fn(&Engine) -> Operation<T>,
) -> turso_status_code_t
where
    Work: From<Operation<T>>,
{
    // SAFETY: the same contract.
    unsafe {
        begin(database, operation, error_opt_out, |db| {
            Ok(start(&db.engine).into())
        })
    }
}

/// Begins to open an existing replica; it fails with `metadata not found` if there is none. Result: none.
///
/// Like all functions that begin an operation it does no work and no IO: see turso_sync_operation_resume. `*operation`
/// is released with turso_sync_operation_deinit. Errors of the call itself: MISUSE for NULL pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_open(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { simple(database, operation, error_opt_out, Engine::open) }
}

/// Begins to open a replica, creating it if there is none: by download if `bootstrap_if_empty` is set, otherwise empty
/// and offline. Running it again on an open replica is fine. Result: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_create(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { simple(database, operation, error_opt_out, Engine::create_db) }
}

/// Begins to open a connection whose changes will be pushed. Result: a connection. Before the replica is open it fails
/// with `sync engine must be initialized`, as do the operations below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_connect(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { simple(database, operation, error_opt_out, Engine::connect_rw) }
}

/// Begins to collect figures about the replica. Result: stats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_stats(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { simple(database, operation, error_opt_out, Engine::stats) }
}

/// Begins to move the write-ahead log into the main file. The library does this by itself when the log grows; use it
/// to choose the moment. Result: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_checkpoint(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { simple(database, operation, error_opt_out, Engine::checkpoint) }
}

/// Begins to send the pending local changes to the remote. Repeating it after a failure, also after a lost answer, never
/// applies a change twice and never loses one. Result: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_push_changes(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { simple(database, operation, error_opt_out, Engine::push_changes_to_remote) }
}

/// Begins to download what is new on the remote, without applying it. Local reads and writes go on meanwhile. Result:
/// changes, or NULL if nothing is new.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_wait_changes(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let start = |db: &turso_sync_database_t| {
        let changes = db.engine.wait_changes_from_remote();
        Ok(Work::Changes(changes, db.origin.clone()))
    };
    // SAFETY: the pointer rules of the header.
    unsafe { begin(database, operation, error_opt_out, start) }
}

/// Begins to apply downloaded changes beneath the pending local ones. Readers see the old or the new state, never a
/// mixture. Result: none.
///
/// Takes ownership of `changes` in every case, also if the call or the operation fails: do not use or release it
/// afterwards. Changes that another handle downloaded are MISUSE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_apply_changes(
    database: *const turso_sync_database_t,
    changes: *const turso_sync_changes_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // First of all, so that it is released whatever happens next.
    // SAFETY: the pointer rules of the header.
    let changes = unsafe { turso_sync_changes_t::take_back(changes) };
    let start = move |db: &turso_sync_database_t| {
        let changes = changes.ok_or_else(|| Error::misuse("got null pointer"))?;
        Ok(db.engine.apply_changes_from_remote(changes.of(db)?).into())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { begin(database, operation, error_opt_out, start) }
}

/// Takes the next request from the queue: `*item` is NULL if there is none, otherwise it is released with
/// turso_sync_database_io_item_deinit. Items may be served in any thread, in any order and at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_take_item(
    database: *const turso_sync_database_t,
    item: *mut *const turso_sync_io_item_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (database, out) = unsafe { (turso_sync_database_t::borrow(database)?, Out::new(item)?) };
        let item = database.engine.io().take_item();
        out.put(item.map_or(ptr::null(), |item| turso_sync_io_item_t::new(item).hand_out()));
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Call it after requests were served, and when the queue was empty. It has nothing to do for full replicas and returns
/// OK; partial replicas will need it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_step_callbacks(
    database: *const turso_sync_database_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_sync_database_t::borrow(database) }?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Releases the handle; NULL is fine. Connections and operations stay usable; release them as well.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_deinit(database: *const turso_sync_database_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_sync_database_t::release(database) }
}

//! `turso_sync_database_t`: a replica.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use super::boundary::{Handle, Out, optional_string_in, status, string_in};
use super::changes::turso_sync_changes_t;
use super::database::{DatabaseSettings, not_supported};
use super::io_item::turso_sync_io_item_t;
use super::operation::{Work, turso_sync_operation_t};
use super::sync_types::turso_sync_database_config_t;
use super::types::{turso_database_config_t, turso_status_code_t};
use crate::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts};
use crate::error::{Error, Result};

/// A replica: a local database that syncs with a remote. It may be shared between threads; one sync operation at a time
/// runs on it, a second one is BUSY. Connections, operations, items and change sets may outlive the handle.
pub struct turso_sync_database_t {
    pub(super) engine: DatabaseSyncEngine,
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

/// Reserved bytes per page of the ciphers of Turso Cloud: nonce and tag.
fn reserved_bytes_of(cipher: &str) -> Result<u8> {
    let plain: String = cipher.chars().filter(char::is_ascii_alphanumeric).collect();
    match plain.to_ascii_lowercase().as_str() {
        "aes128gcm" | "aes256gcm" | "chacha20poly1305" => Ok(28),
        "aegis128l" | "aegis128x2" | "aegis128x4" => Ok(32),
        "aegis256" | "aegis256x2" | "aegis256x4" => Ok(48),
        _ => Err(not_supported(&format!("remote_encryption_cipher {cipher:?}"))),
    }
}

/// A number that must not be negative.
fn unsigned<T: TryFrom<i32>>(name: &str, value: i32) -> Result<T> {
    T::try_from(value).map_err(|_| Error::misuse(format!("{name} is out of range: {value}")))
}

/// # Safety
/// `config` is NULL or follows the pointer rules of the header.
unsafe fn read_options(config: *const turso_sync_database_config_t) -> Result<DatabaseSyncEngineOpts> {
    // SAFETY: NULL or readable by the contract.
    let config = unsafe { config.as_ref() };
    let config = config.ok_or_else(|| Error::misuse("config pointer must be not null"))?;
    // SAFETY: the same contract, for the strings inside.
    let (path, client_name) = unsafe { (string_in(config.path)?, string_in(config.client_name)?) };
    let optional = |s| {
        // SAFETY: as above.
        unsafe { optional_string_in(s) }.map(|s| s.map(str::to_owned))
    };
    if config.logical_mvcc_pull {
        return Err(not_supported("logical_mvcc_pull"));
    }
    let partial_prefix = unsigned::<u32>(
        "partial_bootstrap_strategy_prefix",
        config.partial_bootstrap_strategy_prefix,
    )?;
    let query = optional(config.partial_bootstrap_strategy_query)?;
    let of_cipher =
        optional(config.remote_encryption_cipher)?.map_or(Ok(0), |name| reserved_bytes_of(&name))?;
    let reserved_bytes = match unsigned::<u8>("reserved_bytes", config.reserved_bytes)? {
        // A downloaded database has its pages from the remote, as they are.
        _ if config.bootstrap_if_empty => 0,
        0 => of_cipher,
        given => given,
    };
    Ok(DatabaseSyncEngineOpts {
        path: path.to_owned(),
        remote_url: optional(config.remote_url)?,
        client_name: client_name.to_owned(),
        long_poll_timeout_ms: unsigned("long_poll_timeout_ms", config.long_poll_timeout_ms)?,
        bootstrap_if_empty: config.bootstrap_if_empty,
        reserved_bytes,
        partial_prefix_bytes: u64::from(partial_prefix),
        partial_query: query.filter(|_| partial_prefix == 0),
        remote_encryption_key: optional(config.remote_encryption_key)?,
        push_operations_threshold: config.push_operations_threshold as u64,
        pull_bytes_threshold: config.pull_bytes_threshold as u64,
        ..Default::default()
    })
}

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
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (out, settings) = unsafe { (Out::new(database)?, DatabaseSettings::read(db_config)?) };
        // SAFETY: the pointer rules of the header.
        let options = unsafe { read_options(sync_config) }?;
        if settings.in_memory || options.path == ":memory:" {
            return Err(not_supported("a replica in memory"));
        }
        if settings.read_only {
            return Err(not_supported("opening a replica READONLY"));
        }
        let long_poll_timeout_ms = options.long_poll_timeout_ms;
        let handle = turso_sync_database_t {
            engine: DatabaseSyncEngine::new(options)?,
            long_poll_timeout_ms,
            origin: Origin::default(),
        };
        out.put(handle.hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Hands out the operation that `begin` makes.
///
/// # Safety
/// All pointers follow the rules of the header.
unsafe fn operation(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
    begin: impl FnOnce(&turso_sync_database_t) -> Work,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the same contract.
        let (database, out) = unsafe { (turso_sync_database_t::borrow(database)?, Out::new(operation)?) };
        out.put(turso_sync_operation_t::new(begin(database)).hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the same contract.
    unsafe { status(error_opt_out, body) }
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
    unsafe {
        self::operation(database, operation, error_opt_out, |db| {
            Work::Void(db.engine.open())
        })
    }
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
    unsafe {
        self::operation(database, operation, error_opt_out, |db| {
            Work::Void(db.engine.create_db())
        })
    }
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
    unsafe {
        self::operation(database, operation, error_opt_out, |db| {
            Work::Connection(db.engine.connect_rw())
        })
    }
}

/// Begins to collect figures about the replica. Result: stats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_stats(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe {
        self::operation(database, operation, error_opt_out, |db| {
            Work::Stats(db.engine.stats())
        })
    }
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
    unsafe {
        self::operation(database, operation, error_opt_out, |db| {
            Work::Void(db.engine.checkpoint())
        })
    }
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
    unsafe {
        self::operation(database, operation, error_opt_out, |db| {
            Work::Void(db.engine.push_changes_to_remote())
        })
    }
}

/// Begins to download what is new on the remote, without applying it. Local reads and writes go on meanwhile. Result:
/// changes, or NULL if nothing is new.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_wait_changes(
    database: *const turso_sync_database_t,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe {
        self::operation(database, operation, error_opt_out, |db| {
            Work::Changes(db.engine.wait_changes_from_remote(), db.origin.clone())
        })
    }
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
    let body = || {
        // First of all, so that it is released whatever happens next.
        // SAFETY: the pointer rules of the header.
        let changes = unsafe { turso_sync_changes_t::take_back(changes) };
        let changes = changes.ok_or_else(|| Error::misuse("got null pointer"))?;
        // SAFETY: the pointer rules of the header.
        let (database, out) = unsafe { (turso_sync_database_t::borrow(database)?, Out::new(operation)?) };
        let changes = changes.of(database)?;
        let work = Work::Void(database.engine.apply_changes_from_remote(changes));
        out.put(turso_sync_operation_t::new(work).hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
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

//! `turso_sync_operation_t`: a sync operation in progress.

use std::ffi::c_char;
use std::ptr;
use std::sync::{Arc, Mutex};

use super::boundary::{Handle, Out, exclusive, slice_out, status, value};
use super::changes::turso_sync_changes_t;
use super::connection::turso_connection_t;
use super::sync_database::Origin;
use super::sync_types::{turso_sync_operation_result_type_t, turso_sync_stats_t};
use super::types::turso_status_code_t;
use crate::capture::Connection;
use crate::engine::{DatabaseSyncEngineStats, DbChangesStatus};
use crate::error::{Error, Result};
use crate::io::{Control, Operation, OperationStatus};

/// A sync operation. Use it from one thread at a time; concurrent use is MISUSE.
pub struct turso_sync_operation_t {
    running: Mutex<Running>,
    control: Arc<Control>,
}

impl Handle for turso_sync_operation_t {}

/// An operation by what it produces.
pub(super) enum Work {
    Void(Operation<()>),
    Connection(Operation<Connection>),
    Changes(Operation<Option<DbChangesStatus>>, Origin),
    Stats(Operation<DatabaseSyncEngineStats>),
}

impl From<Operation<()>> for Work {
    fn from(operation: Operation<()>) -> Self {
        Work::Void(operation)
    }
}

impl From<Operation<Connection>> for Work {
    fn from(operation: Operation<Connection>) -> Self {
        Work::Connection(operation)
    }
}

impl From<Operation<DatabaseSyncEngineStats>> for Work {
    fn from(operation: Operation<DatabaseSyncEngineStats>) -> Self {
        Work::Stats(operation)
    }
}

struct Running {
    work: Work,
    /// Somebody asked for a result of the wrong type: it is gone.
    lost: bool,
}

impl turso_sync_operation_t {
    pub(super) fn new(work: Work) -> Self {
        turso_sync_operation_t {
            control: work.control().clone(),
            running: Mutex::new(Running { work, lost: false }),
        }
    }

    /// For those who watch the operation or stop it.
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Drives the operation with `drive` while no other thread can use it.
    pub(super) fn exclusively<T>(&self, drive: impl FnOnce(&mut Work) -> Result<T>) -> Result<T> {
        drive(&mut exclusive(&self.running)?.work)
    }
}

impl Work {
    fn control(&self) -> &Arc<Control> {
        match self {
            Work::Void(op) => op.control(),
            Work::Connection(op) => op.control(),
            Work::Changes(op, _) => op.control(),
            Work::Stats(op) => op.control(),
        }
    }

    /// Why it failed; `None` if it has not.
    pub(super) fn error(&self) -> Option<&Error> {
        match self {
            Work::Void(op) => op.error(),
            Work::Connection(op) => op.error(),
            Work::Changes(op, _) => op.error(),
            Work::Stats(op) => op.error(),
        }
    }

    pub(super) fn resume(&mut self) -> Result<OperationStatus> {
        let result = match self {
            Work::Void(op) => op.resume(),
            Work::Connection(op) => op.resume(),
            Work::Changes(op, _) => op.resume(),
            Work::Stats(op) => op.resume(),
        };
        result.map_err(|e| e.context("sync engine operation failed"))
    }
}

impl Running {
    fn kind(&self) -> turso_sync_operation_result_type_t {
        match &self.work {
            _ if self.lost => turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_NONE,
            Work::Connection(op) if op.result().is_some() => {
                turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_CONNECTION
            }
            Work::Changes(op, _) if op.result().is_some() => {
                turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_CHANGES
            }
            Work::Stats(op) if op.result().is_some() => {
                turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_STATS
            }
            _ => turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_NONE,
        }
    }

    /// The error for a result that is not there, or not of the type that was asked for; in the latter case it is lost.
    fn no_result(&mut self, wanted: turso_sync_operation_result_type_t) -> Error {
        let kind = self.kind();
        if kind == wanted || kind == turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_NONE {
            return Error::misuse("the operation has no result of this type to extract");
        }
        self.lost = true;
        match &mut self.work {
            Work::Connection(op) => drop(op.take_result()),
            Work::Changes(op, _) => drop(op.take_result()),
            // Slices handed out earlier point into the stats, which therefore stay until the operation is released.
            Work::Void(_) | Work::Stats(_) => {}
        }
        Error::misuse("the operation has a result of another type, which is lost now")
    }
}

/// Works on the operation until it ends or needs IO.
///
/// IO: serve the requests in the queue (turso_sync_database_io_take_item), then resume again. Resuming while a request is
/// under way returns IO again; a push makes its next request meanwhile. DONE: the operation has ended; extract its result.
/// Otherwise it has failed, with a message that begins with `sync engine operation failed: `, and the code of the cause:
/// CONSTRAINT for a conflict, BUSY if another operation runs on the replica, and so on. After its end an operation repeats
/// its answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_resume(
    operation: *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let operation = unsafe { turso_sync_operation_t::borrow(operation) }?;
        Ok(match operation.exclusively(Work::resume)? {
            OperationStatus::Io => turso_status_code_t::TURSO_IO,
            OperationStatus::Done => turso_status_code_t::TURSO_DONE,
        })
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Type of the result that can be extracted now; NONE for NULL as well.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_result_kind(
    operation: *const turso_sync_operation_t,
) -> turso_sync_operation_result_type_t {
    value(
        turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_NONE,
        || {
            // SAFETY: the pointer rules of the header.
            let operation = unsafe { turso_sync_operation_t::borrow(operation) }?;
            Ok(Some(exclusive(&operation.running)?.kind()))
        },
    )
}

/// Runs `extract` on the operation, with a place for the result.
///
/// # Safety
/// Both pointers follow the rules of the header.
unsafe fn extract<T>(
    operation: *const turso_sync_operation_t,
    out: *mut T,
    extract: impl FnOnce(&mut Running) -> Result<T>,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the same contract.
        let (operation, out) = unsafe { (turso_sync_operation_t::borrow(operation)?, Out::new(out)?) };
        out.put(extract(&mut *exclusive(&operation.running)?)?);
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Takes the connection out of an operation that has ended. Once: later calls are MISUSE. `*connection` is released with
/// turso_connection_deinit.
///
/// Extracting a result with the function for another type is MISUSE, and the result is lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_result_extract_connection(
    operation: *const turso_sync_operation_t,
    connection: *mut *const turso_connection_t,
) -> turso_status_code_t {
    let take = |running: &mut Running| {
        let taken = match &mut running.work {
            Work::Connection(op) => op.take_result(),
            _ => None,
        };
        match taken {
            Some(connection) => Ok(turso_connection_t::new(connection).hand_out().cast_const()),
            None => Err(running.no_result(turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_CONNECTION)),
        }
    };
    // SAFETY: the pointer rules of the header.
    unsafe { extract(operation, connection, take) }
}

/// Takes the changes out of an operation that has ended; OK with `*changes` NULL if there were none. Once: later calls
/// are MISUSE. `*changes` is given to turso_sync_database_apply_changes or released with turso_sync_changes_deinit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_result_extract_changes(
    operation: *const turso_sync_operation_t,
    changes: *mut *const turso_sync_changes_t,
) -> turso_status_code_t {
    let take = |running: &mut Running| {
        let taken = match &mut running.work {
            Work::Changes(op, origin) => op.take_result().map(|changes| (changes, origin.clone())),
            _ => None,
        };
        match taken {
            Some((Some(changes), origin)) => {
                Ok(turso_sync_changes_t::new(changes, origin).hand_out().cast_const())
            }
            Some((None, _)) => Ok(ptr::null()),
            None => Err(running.no_result(turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_CHANGES)),
        }
    };
    // SAFETY: the pointer rules of the header.
    unsafe { extract(operation, changes, take) }
}

/// Copies the figures out of an operation that has ended; any number of times. `stats->revision` points into the
/// operation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_result_extract_stats(
    operation: *const turso_sync_operation_t,
    stats: *mut turso_sync_stats_t,
) -> turso_status_code_t {
    let copy = |running: &mut Running| {
        let found = match &running.work {
            Work::Stats(op) if !running.lost => op.result().map(stats_out),
            _ => None,
        };
        found.ok_or_else(|| running.no_result(turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_STATS))
    };
    // SAFETY: the pointer rules of the header.
    unsafe { extract(operation, stats, copy) }
}

fn stats_out(stats: &DatabaseSyncEngineStats) -> turso_sync_stats_t {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    turso_sync_stats_t {
        cdc_operations: stats.cdc_operations,
        main_wal_size: signed(stats.main_wal_size),
        revert_wal_size: signed(stats.revert_wal_size),
        last_pull_unix_time: stats.last_pull_unix_time,
        last_push_unix_time: stats.last_push_unix_time,
        network_sent_bytes: signed(stats.network_sent_bytes),
        network_received_bytes: signed(stats.network_received_bytes),
        revision: slice_out(stats.revision.as_bytes()),
    }
}

/// Releases the operation with its result; NULL is fine. An operation that has not ended is cancelled: the database
/// stays valid, requests still being served are ignored, and the next operation can begin.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_deinit(operation: *const turso_sync_operation_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_sync_operation_t::release(operation) }
}

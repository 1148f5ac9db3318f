//! Watching and stopping: progress, cancellation, the last error, the status of a replica.

use std::ffi::c_char;
use std::ptr;

use super::boundary::{Handle, VersionedOut, status, with_last_error};
use super::observe_types::{turso_sync_error_t, turso_sync_progress_t, turso_sync_status_t};
use super::operation::turso_sync_operation_t;
use super::sync_database::turso_sync_database_t;
use super::types::turso_status_code_t;

/// Tells how far an operation has come. From any thread, also while another one runs the operation; it never waits. Not
/// part of the SDK kit of Turso.
///
/// Errors: MISUSE for NULL pointers and a wrong size; nothing is written then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_progress(
    operation: *const turso_sync_operation_t,
    progress: *mut turso_sync_progress_t,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let operation = unsafe { turso_sync_operation_t::borrow(operation) }?;
        // SAFETY: the pointer rules of the header.
        let out = unsafe { VersionedOut::new(progress) }?;
        out.put(operation.control().progress().into());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Asks an operation to stop, from any thread, also while another one runs it. Not part of the SDK kit of Turso.
///
/// The operation ends with INTERRUPT: at its next resume, in the middle of a download or of a replay, and
/// turso_sync_operation_run returns at once although a request may still be under way. The database is valid, and what
/// was finished stays: requests that the remote has answered, chunks that were downloaded. An operation that has ended is
/// left as it is. Errors: MISUSE for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_cancel(
    operation: *const turso_sync_operation_t,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_sync_operation_t::borrow(operation) }?
            .control()
            .cancel();
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Describes why an operation has failed; `error->code` is OK if it has not. The message lives as long as the operation.
/// Not part of the SDK kit of Turso.
///
/// Errors: MISUSE for NULL pointers, a wrong size, and while another thread runs the operation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_error(
    operation: *const turso_sync_operation_t,
    error: *mut turso_sync_error_t,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let operation = unsafe { turso_sync_operation_t::borrow(operation) }?;
        // SAFETY: the pointer rules of the header.
        let out = unsafe { VersionedOut::new(error) }?;
        // Once it is there, the error of an operation never changes or moves.
        operation.exclusively(|work| {
            out.put(turso_sync_error_t::of(work.error()));
            Ok(())
        })?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Describes the last error of this thread, of any function of the library that returns a status; `error->code` is OK if there
/// was none. Successful calls leave it as it is, and so does a failure of this function. The message lives until the
/// next failure in this thread. Not part of the SDK kit of Turso.
///
/// Errors: MISUSE for NULL and a wrong size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_last_error(error: *mut turso_sync_error_t) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    match unsafe { VersionedOut::new(error) } {
        Ok(out) => {
            let shown = with_last_error(|last| out.put(turso_sync_error_t::of(last)));
            shown.map_or(turso_status_code_t::TURSO_ERROR, |()| {
                turso_status_code_t::TURSO_OK
            })
        }
        Err(e) => e.code.into(),
    }
}

/// Tells what a user wants to know about a replica that is open: is everything uploaded, is anything in conflict, when
/// was the last sync. Reads the local database at once; it is no operation and asks for no IO. Not part of the SDK kit of
/// Turso.
///
/// Errors: MISUSE for NULL pointers, a wrong size, and before the replica is open; BUSY and others of the local database.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_status(
    database: *const turso_sync_database_t,
    replica_status: *mut turso_sync_status_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let database = unsafe { turso_sync_database_t::borrow(database) }?;
        // SAFETY: the pointer rules of the header.
        let out = unsafe { VersionedOut::new(replica_status) }?;
        out.put(database.engine.status()?.into());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

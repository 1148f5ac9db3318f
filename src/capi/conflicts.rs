//! `turso_sync_conflicts_t`: the conflicts of a replica, and what is done about them.

use std::ffi::c_char;
use std::ptr;

use super::boundary::{Handle, Out, VersionedOut, slice_out, status, value};
use super::conflict_types::{turso_sync_conflict_resolution_t, turso_sync_conflict_t};
use super::operation::turso_sync_operation_t;
use super::sync_database::{begin, turso_sync_database_t};
use super::types::turso_status_code_t;
use crate::engine::Conflict;
use crate::error::Error;

/// The conflicts of a replica at one moment. A list never changes and may be read by several threads at once; it may
/// outlive the replica's handle.
pub struct turso_sync_conflicts_t {
    conflicts: Vec<Conflict>,
}

impl Handle for turso_sync_conflicts_t {}

impl turso_sync_conflicts_t {
    pub(super) fn new(conflicts: Vec<Conflict>) -> Self {
        turso_sync_conflicts_t { conflicts }
    }
}

fn conflict_out(conflict: &Conflict) -> turso_sync_conflict_t {
    turso_sync_conflict_t {
        size: size_of::<turso_sync_conflict_t>(),
        id: conflict.txn_id,
        change_id: conflict.change_id,
        state: conflict.state.into(),
        kind: conflict.kind.into(),
        operation: conflict.operation.into(),
        sqlite_code: conflict.sqlite_code.unwrap_or(0),
        changes: i64::try_from(conflict.changes).unwrap_or(i64::MAX),
        unix_time: conflict.unix_time,
        table: slice_out(conflict.table.as_bytes()),
        key: slice_out(conflict.key.as_bytes()),
        constraint: slice_out(conflict.constraint.as_bytes()),
        message: slice_out(conflict.message.as_bytes()),
    }
}

/// Lists the conflicts of a replica that is open: blocked transactions, and those that were set aside. Reads the local
/// database at once; it is no operation and asks for no IO. Not part of the SDK kit of Turso.
///
/// `*conflicts` is released with turso_sync_conflicts_deinit. Errors: MISUSE for NULL pointers and before the replica is
/// open; BUSY and others of the local database.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_conflicts(
    database: *const turso_sync_database_t,
    conflicts: *mut *const turso_sync_conflicts_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (database, out) = unsafe { (turso_sync_database_t::borrow(database)?, Out::new(conflicts)?) };
        let conflicts = database.engine.conflicts()?;
        out.put(turso_sync_conflicts_t::new(conflicts).hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Number of conflicts in the list; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_conflicts_count(conflicts: *const turso_sync_conflicts_t) -> usize {
    value(0, || {
        // SAFETY: the pointer rules of the header.
        let list = unsafe { turso_sync_conflicts_t::borrow(conflicts) }?;
        Ok(Some(list.conflicts.len()))
    })
}

/// Fills `conflict` with the conflict at `index` (from 0). Set `conflict->size` before the call.
///
/// Errors: MISUSE for NULL pointers, an index out of range and a wrong size; nothing is written then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_conflicts_get(
    conflicts: *const turso_sync_conflicts_t,
    index: usize,
    conflict: *mut turso_sync_conflict_t,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let list = unsafe { turso_sync_conflicts_t::borrow(conflicts) }?;
        // SAFETY: the pointer rules of the header.
        let out = unsafe { VersionedOut::new(conflict) }?;
        let found = list.conflicts.get(index);
        out.put(conflict_out(
            found.ok_or_else(|| Error::misuse("index is out of range"))?,
        ));
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Releases the list; NULL is fine. Slices of its conflicts are not valid any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_conflicts_deinit(conflicts: *const turso_sync_conflicts_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_sync_conflicts_t::release(conflicts) }
}

/// Begins to resolve the conflict with the number `conflict`. Needs the network only if the
/// replica's base was lost (somebody else wrote its files). Result: none. Not part of the SDK kit
/// of Turso.
///
/// `resolution` is a value of `turso_sync_conflict_resolution_t`; the call itself is MISUSE for others. The operation
/// fails with ERROR if there is no such conflict: list them again, a sync may have settled or renumbered it. It fails
/// with CONSTRAINT if a transaction that was set aside still does not fit: it stays set aside then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_resolve_conflict(
    database: *const turso_sync_database_t,
    conflict: i64,
    resolution: u32,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let start = |db: &turso_sync_database_t| {
        let resolution = turso_sync_conflict_resolution_t::read(resolution)?;
        Ok(db.engine.resolve_conflict(conflict, resolution).into())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { begin(database, operation, error_opt_out, start) }
}

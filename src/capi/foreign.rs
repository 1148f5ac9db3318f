//! What another program has written into a replica's file, and remotes that are not the replica's own: which tables differ,
//! and what becomes of that.

use std::ffi::c_char;

use super::boundary::{Handle, Out, status, string_out};
use super::conflict_types::by_number;
use super::operation::turso_sync_operation_t;
use super::sync_database::{begin, turso_sync_database_t};
use super::types::turso_status_code_t;
use crate::engine::ForeignPolicy;
use crate::error::Result;

/// What becomes of changes that were not captured, because another program has written them into the file.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_foreign_policy_t {
    /// The operation ends with ERROR of category FOREIGN and changes nothing. They stay in the tables.
    TURSO_SYNC_FOREIGN_POLICY_STOP = 0,
    /// They become pending changes, as one transaction, and are pushed like others.
    TURSO_SYNC_FOREIGN_POLICY_ADOPT = 1,
    /// They are undone.
    TURSO_SYNC_FOREIGN_POLICY_DISCARD = 2,
}

impl turso_sync_foreign_policy_t {
    pub(super) fn read(number: u32) -> Result<ForeignPolicy> {
        let known = [
            (Self::TURSO_SYNC_FOREIGN_POLICY_STOP as u32, ForeignPolicy::Stop),
            (Self::TURSO_SYNC_FOREIGN_POLICY_ADOPT as u32, ForeignPolicy::Adopt),
            (
                Self::TURSO_SYNC_FOREIGN_POLICY_DISCARD as u32,
                ForeignPolicy::Discard,
            ),
        ];
        by_number("foreign_policy", known, number)
    }
}

/// Lists the tables in which the last operation of this handle has found changes of another program that nobody has decided
/// about: a JSON array of their names, `[]` if there are none. Asks for no IO. Not part of the SDK kit of Turso.
///
/// `*tables` is freed with turso_str_deinit. Errors: MISUSE for NULL pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_foreign_tables(
    database: *const turso_sync_database_t,
    tables: *mut *const c_char,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (database, out) = unsafe { (turso_sync_database_t::borrow(database)?, Out::new(tables)?) };
        let names = serde_json::Value::from(database.engine.foreign_tables());
        out.put(string_out(&names.to_string()));
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Begins to decide what becomes of changes that another program has written into the file. Needs the network only if the
/// replica's base was lost with them (the other program has checkpointed). Result: none. Not part of the SDK kit of Turso.
///
/// `policy` is a value of `turso_sync_foreign_policy_t`; the call itself is MISUSE for others. With STOP the operation only
/// looks: it fails with ERROR of category FOREIGN if there are such changes. If the remote no longer has the revision of a
/// lost base, ADOPT takes all that differs from the newest one, but removes nothing that only the remote has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_settle_foreign_changes(
    database: *const turso_sync_database_t,
    policy: u32,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let start = |db: &turso_sync_database_t| {
        let policy = turso_sync_foreign_policy_t::read(policy)?;
        Ok(db.engine.settle_foreign_changes(policy).into())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { begin(database, operation, error_opt_out, start) }
}

/// Begins to go on with a remote that is not the one that this replica knows: another one, or one that was restored from a
/// backup. All other operations refuse it with ERROR of category IDENTITY. Downloads it whole. Result: none. Not part of the
/// SDK kit of Turso.
///
/// Pending changes stay pending. `policy`, a value of `turso_sync_foreign_policy_t`, says what becomes of everything else
/// that is here and not on the remote: with ADOPT it becomes pending, where rows that differ are overwritten by those
/// here and nothing is removed; with DISCARD it goes; with STOP the operation fails with ERROR of category FOREIGN, and
/// turso_sync_database_foreign_tables tells the tables. The call itself is MISUSE for other values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_accept_remote(
    database: *const turso_sync_database_t,
    policy: u32,
    operation: *mut *const turso_sync_operation_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let start = |db: &turso_sync_database_t| {
        let policy = turso_sync_foreign_policy_t::read(policy)?;
        Ok(db.engine.accept_remote(policy).into())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { begin(database, operation, error_opt_out, start) }
}

//! `turso_statement_t`: running statements. Values of rows are in `row.rs`, parameters in `binding.rs`.

use std::ffi::c_char;
use std::sync::Mutex;

use super::boundary::{Handle, exclusive, status, value};
use super::types::turso_status_code_t;
use crate::capture::{Statement, Step};
use crate::error::Result;

/// A prepared statement. Use it from one thread at a time; concurrent use is MISUSE (`concurrent use forbidden`).
/// It keeps its connection open.
pub struct turso_statement_t {
    statement: Mutex<Statement>,
}

impl Handle for turso_statement_t {}

impl turso_statement_t {
    pub(super) fn new(statement: Statement) -> Self {
        turso_statement_t {
            statement: Mutex::new(statement),
        }
    }
}

/// Runs `body` on the statement behind `handle`.
///
/// # Safety
/// `handle` follows the pointer rules of the header.
pub(super) unsafe fn with<T>(
    handle: *const turso_statement_t,
    body: impl FnOnce(&mut Statement) -> Result<T>,
) -> Result<T> {
    // SAFETY: the same contract.
    let handle = unsafe { turso_statement_t::borrow(handle) }?;
    body(&mut *exclusive(&handle.statement)?)
}

/// Runs the statement to its end and discards its rows. Returns DONE.
///
/// `rows_changed` may be NULL; otherwise it receives the number of rows that the statement inserted, updated or
/// deleted itself (not those of triggers), 0 for statements that change none.
///
/// Errors: CONSTRAINT, BUSY, READONLY and others as SQLite reports them. After an error the statement can be reset
/// and run again. After DONE, executing again runs it again with the same parameters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_execute(
    statement: *const turso_statement_t,
    rows_changed: *mut u64,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let changed = unsafe { with(statement, Statement::execute) }?;
        // SAFETY: the pointer rules of the header; NULL is allowed here.
        if let Some(rows_changed) = unsafe { rows_changed.as_mut() } {
            *rows_changed = changed;
        }
        Ok(turso_status_code_t::TURSO_DONE)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Runs the statement to its next row (ROW) or to its end (DONE).
///
/// Errors: as turso_statement_execute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_step(
    statement: *const turso_statement_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        Ok(match unsafe { with(statement, Statement::step) }? {
            Step::Row => turso_status_code_t::TURSO_ROW,
            Step::Done => turso_status_code_t::TURSO_DONE,
        })
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Does nothing and returns OK: statements of this library never wait for the caller's IO. It exists for programs
/// written for the SDK kit of Turso.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_run_io(
    statement: *const turso_statement_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_statement_t::borrow(statement) }?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Takes the statement back to its start, so that it can run again, and clears its parameters (they become NULL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_reset(
    statement: *const turso_statement_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, |s| s.reset(true)) }?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Ends the statement and returns DONE. What it has changed stays. Later use is an error; the handle still has to be
/// released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_finalize(
    statement: *const turso_statement_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, Statement::finalize) }?;
        Ok(turso_status_code_t::TURSO_DONE)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Number of rows that the last run of the statement inserted, updated or deleted; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_n_change(statement: *const turso_statement_t) -> i64 {
    value(0, || {
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, |s| Ok(Some(s.changes()))) }
    })
}

/// Releases the handle, ending the statement if it still runs; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_deinit(statement: *const turso_statement_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_statement_t::release(statement) }
}

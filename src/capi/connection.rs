//! `turso_connection_t`.

use std::ffi::c_char;
use std::time::Duration;

use super::boundary::{Handle, Out, status, string_in, value};
use super::statement::turso_statement_t;
use super::types::turso_status_code_t;
use crate::capture::{Connection, Statement};
use crate::error::{Error, Result};

/// A connection to a database. Use it, and the statements made from it, from one thread at a time; which thread
/// does not matter. Concurrent use is MISUSE (`concurrent use forbidden`).
pub struct turso_connection_t {
    connection: Connection,
}

impl Handle for turso_connection_t {}

impl turso_connection_t {
    pub(super) fn new(connection: Connection) -> Self {
        turso_connection_t { connection }
    }

    /// The only statement of `sql`. Running a part of what was given would lose the rest silently.
    fn prepare_single(&self, sql: &str) -> Result<Statement> {
        let Some((statement, tail)) = self.connection.prepare(sql)? else {
            return Err(Error::misuse("the SQL text contains no statement"));
        };
        let rest = sql.get(tail..).unwrap_or_default();
        let nothing_left = rest.trim().is_empty() || matches!(self.connection.prepare(rest), Ok(None));
        if !nothing_left {
            return Err(Error::misuse(
                "the SQL text contains more than one statement: use turso_connection_prepare_first",
            ));
        }
        Ok(statement)
    }
}

/// How long statements wait for a lock held by another connection or process, in milliseconds; 0 = not at all.
/// Negative values and a NULL connection are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_connection_set_busy_timeout_ms(
    connection: *const turso_connection_t,
    timeout_ms: i64,
) {
    value((), || {
        // SAFETY: the pointer rules of the header.
        let handle = unsafe { turso_connection_t::borrow(connection) }?;
        if let Ok(timeout_ms) = u64::try_from(timeout_ms) {
            handle
                .connection
                .set_busy_timeout(Duration::from_millis(timeout_ms));
        }
        Ok(None)
    })
}

/// True outside of a transaction. False inside of one, after turso_connection_close, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_connection_get_autocommit(connection: *const turso_connection_t) -> bool {
    value(false, || {
        // SAFETY: the pointer rules of the header.
        let handle = unsafe { turso_connection_t::borrow(connection) }?;
        Ok(Some(handle.connection.is_autocommit()))
    })
}

/// Rowid of the last row inserted through this connection; 0 if there was none, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_connection_last_insert_rowid(connection: *const turso_connection_t) -> i64 {
    value(0, || {
        // SAFETY: the pointer rules of the header.
        let handle = unsafe { turso_connection_t::borrow(connection) }?;
        Ok(Some(handle.connection.last_insert_rowid()))
    })
}

/// Prepares the one statement of `sql`. `*statement` is released with turso_statement_deinit.
///
/// Errors: MISUSE if `sql` is NULL, is not UTF-8, or contains no statement or more than one; ERROR with SQLite's
/// message for wrong SQL; ERROR `Connection closed` after turso_connection_close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_connection_prepare_single(
    connection: *const turso_connection_t,
    sql: *const c_char,
    statement: *mut *mut turso_statement_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (handle, sql) = unsafe { (turso_connection_t::borrow(connection)?, string_in(sql)?) };
        // SAFETY: the pointer rules of the header.
        let out = unsafe { Out::new(statement) }?;
        out.put(turso_statement_t::new(handle.prepare_single(sql)?).hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Prepares the first statement of `sql`, for running a script statement by statement: go on at `sql + *tail_idx`.
///
/// If no statement is left (only white space and comments), the result is OK with `*statement` NULL and `*tail_idx`
/// unchanged. Otherwise `*statement` is released with turso_statement_deinit and `*tail_idx` is the number of bytes
/// that were used. `tail_idx` may be NULL.
///
/// Errors: as turso_connection_prepare_single.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_connection_prepare_first(
    connection: *const turso_connection_t,
    sql: *const c_char,
    statement: *mut *mut turso_statement_t,
    tail_idx: *mut usize,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (handle, sql) = unsafe { (turso_connection_t::borrow(connection)?, string_in(sql)?) };
        // SAFETY: the pointer rules of the header.
        let out = unsafe { Out::new(statement) }?;
        match handle.connection.prepare(sql)? {
            None => out.put(std::ptr::null_mut()),
            Some((prepared, tail)) => {
                // SAFETY: the pointer rules of the header; NULL is allowed here.
                if let Some(tail_idx) = unsafe { tail_idx.as_mut() } {
                    *tail_idx = tail;
                }
                out.put(turso_statement_t::new(prepared).hand_out());
            }
        }
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Closes the connection: ends its statements and rolls back an open transaction. Later use of the connection or of
/// its statements is ERROR `Connection closed`; their handles still have to be released. Closing twice is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_connection_close(
    connection: *const turso_connection_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_connection_t::borrow(connection) }?
            .connection
            .close()?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Releases the handle; NULL is fine. Statements made from it stay usable; the connection itself closes when the
/// last of them is released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_connection_deinit(connection: *const turso_connection_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_connection_t::release(connection) }
}

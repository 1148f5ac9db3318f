//! Parameters of `turso_statement_t`.

use std::ffi::c_char;
use std::ptr;

use super::boundary::{bytes_in, status, string_in, string_out, value};
use super::row::count;
use super::statement::{turso_statement_t, with};
use super::types::turso_status_code_t;
use crate::capture::Statement;
use crate::error::{Error, Result};

/// Position (from 1) of the parameter `name`, which includes its prefix (`:`, `@`, `$` or `?`); -1 if there is no such
/// parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_named_position(
    statement: *const turso_statement_t,
    name: *const c_char,
) -> i64 {
    value(-1, || {
        // SAFETY: the pointer rules of the header.
        let name = unsafe { string_in(name) }?;
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, |s| Ok(s.parameter_index(name).map(count))) }
    })
}

/// Number of parameters (the largest position); -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_parameters_count(statement: *const turso_statement_t) -> i64 {
    value(-1, || {
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, |s| Ok(Some(count(s.parameter_count())))) }
    })
}

/// Name of the parameter at position `index` (from 1) with its prefix, to be freed with turso_str_deinit; NULL if it
/// has none or does not exist.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_parameter_name(
    statement: *const turso_statement_t,
    index: i64,
) -> *const c_char {
    value(ptr::null(), || {
        let Ok(index) = usize::try_from(index) else {
            return Ok(None);
        };
        // SAFETY: the pointer rules of the header.
        let name = unsafe { with(statement, |s| Ok(s.parameter_name(index))) }?;
        Ok(name.map(|name| string_out(&name)))
    })
}

/// Runs `bind` on the statement; there is no way to report a message.
///
/// # Safety
/// `statement` follows the pointer rules of the header.
unsafe fn bind(
    statement: *const turso_statement_t,
    bind: impl FnOnce(&mut Statement) -> Result<()>,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the same contract.
        unsafe { with(statement, bind) }?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Binds NULL to the parameter at `position` (from 1).
///
/// Errors, as in all functions that bind: MISUSE for a NULL statement, a position out of range, and a statement that is
/// running (reset it first).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_bind_positional_null(
    statement: *const turso_statement_t,
    position: usize,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { bind(statement, |s| s.bind_null(position)) }
}

/// Binds an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_bind_positional_int(
    statement: *const turso_statement_t,
    position: usize,
    value: i64,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { bind(statement, |s| s.bind_integer(position, value)) }
}

/// Binds a real number. NaN becomes NULL, as always in SQLite.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_bind_positional_double(
    statement: *const turso_statement_t,
    position: usize,
    value: f64,
) -> turso_status_code_t {
    // SAFETY: the pointer rules of the header.
    unsafe { bind(statement, |s| s.bind_real(position, value)) }
}

/// Binds a copy of `len` bytes at `data` as a blob; (NULL, 0) is an empty blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_bind_positional_blob(
    statement: *const turso_statement_t,
    position: usize,
    data: *const c_char,
    len: usize,
) -> turso_status_code_t {
    let body = |s: &mut Statement| {
        // SAFETY: the pointer rules of the header.
        let bytes = unsafe { bytes_in(data.cast(), len) }?;
        s.bind_blob(position, bytes)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { bind(statement, body) }
}

/// Binds a copy of `len` bytes of UTF-8 at `text`, which need no terminating zero; (NULL, 0) is an empty text. Text that
/// is not UTF-8 is MISUSE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_bind_positional_text(
    statement: *const turso_statement_t,
    position: usize,
    text: *const c_char,
    len: usize,
) -> turso_status_code_t {
    let body = |s: &mut Statement| {
        // SAFETY: the pointer rules of the header.
        let bytes = unsafe { bytes_in(text.cast(), len) }?;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::misuse("expected a UTF-8 string"))?;
        s.bind_text(position, text)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { bind(statement, body) }
}

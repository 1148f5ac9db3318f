//! Columns and values of `turso_statement_t`.

use std::ffi::c_char;
use std::ptr;

use super::boundary::{address_of, string_out, value};
use super::statement::{turso_statement_t, with};
use super::types::turso_type_t;
use crate::capture::{Statement, ValueType};

/// Number of columns of the statement's rows; 0 for statements without rows and after turso_statement_finalize, -1 for
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_column_count(statement: *const turso_statement_t) -> i64 {
    value(-1, || {
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, |s| Ok(Some(count(s.column_count())))) }
    })
}

/// Name of column `index` (from 0), to be freed with turso_str_deinit; NULL if there is no such column.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_column_name(
    statement: *const turso_statement_t,
    index: usize,
) -> *const c_char {
    value(ptr::null(), || {
        // SAFETY: the pointer rules of the header.
        let name = unsafe { with(statement, |s| Ok(s.column_name(index))) }?;
        Ok(name.map(|name| string_out(&name)))
    })
}

/// Type of column `index` as written in CREATE TABLE, to be freed with turso_str_deinit; NULL if it has none, is not
/// a table's column, or does not exist.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_column_decltype(
    statement: *const turso_statement_t,
    index: usize,
) -> *const c_char {
    value(ptr::null(), || {
        // SAFETY: the pointer rules of the header.
        let name = unsafe { with(statement, |s| Ok(s.column_decltype(index))) }?;
        Ok(name.map(|name| string_out(&name)))
    })
}

/// Type of the value in column `index` of the current row; UNKNOWN if there is no row or no such column.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_row_value_kind(
    statement: *const turso_statement_t,
    index: usize,
) -> turso_type_t {
    value(turso_type_t::TURSO_TYPE_UNKNOWN, || {
        // SAFETY: the pointer rules of the header.
        let kind = unsafe { with(statement, |s| Ok(s.value_type(index))) }?;
        Ok(kind.map(|kind| match kind {
            ValueType::Integer => turso_type_t::TURSO_TYPE_INTEGER,
            ValueType::Real => turso_type_t::TURSO_TYPE_REAL,
            ValueType::Text => turso_type_t::TURSO_TYPE_TEXT,
            ValueType::Blob => turso_type_t::TURSO_TYPE_BLOB,
            ValueType::Null => turso_type_t::TURSO_TYPE_NULL,
        }))
    })
}

/// Number of bytes of the text or blob in column `index`; -1 for another type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_row_value_bytes_count(
    statement: *const turso_statement_t,
    index: usize,
) -> i64 {
    value(-1, || {
        // SAFETY: the pointer rules of the header.
        unsafe {
            with(statement, |s| {
                Ok(s.value_bytes(index).map(|bytes| count(bytes.len())))
            })
        }
    })
}

/// First byte of the text or blob in column `index`, valid until the next call that steps, executes, resets,
/// finalizes or releases the statement; NULL for another type. Not zero-terminated. An empty value has a pointer that is
/// not NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_row_value_bytes_ptr(
    statement: *const turso_statement_t,
    index: usize,
) -> *const c_char {
    value(ptr::null(), || {
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, |s| Ok(s.value_bytes(index).map(address_of))) }
    })
}

/// The integer in column `index`; 0 for another type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_row_value_int(
    statement: *const turso_statement_t,
    index: usize,
) -> i64 {
    value(0, || {
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, |s: &mut Statement| Ok(Some(s.value_integer(index)))) }
    })
}

/// The real number in column `index`; 0.0 for another type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_statement_row_value_double(
    statement: *const turso_statement_t,
    index: usize,
) -> f64 {
    value(0.0, || {
        // SAFETY: the pointer rules of the header.
        unsafe { with(statement, |s: &mut Statement| Ok(Some(s.value_real(index)))) }
    })
}

/// A count as C shows it.
pub(super) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

//! A prepared statement.

use std::ffi::{CStr, c_char, c_int};
use std::sync::{Arc, OnceLock};

use rusqlite::ffi;

use crate::capture::connection::Shared;
use crate::capture::sqlite::RawStatement;
use crate::error::{Error, Result};
use crate::record::Value;

/// What a step led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A row is available.
    Row,
    /// The statement has ended.
    Done,
}

/// Type of a value in a row; the numbers are those of SQLite and of `turso_type_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    Integer = 1,
    Real = 2,
    Text = 3,
    Blob = 4,
    Null = 5,
}

/// A prepared statement; it keeps its connection alive. Dropping it finalizes it.
pub struct Statement {
    shared: Arc<Shared>,
    slot: usize,
    /// Bytes handed out for the current row. Copies, because closing the connection frees SQLite's.
    bytes: Vec<OnceLock<Box<[u8]>>>,
}

impl Statement {
    pub(super) fn new(shared: Arc<Shared>, slot: usize) -> Statement {
        Statement {
            shared,
            slot,
            bytes: Vec::new(),
        }
    }

    /// Runs to the next row or to the end. A step after the end starts anew.
    pub fn step(&mut self) -> Result<Step> {
        self.bytes.clear();
        let slot = self.slot;
        let (step, columns) = self.shared.with(|session| {
            let step = session.step(slot)?;
            let columns = if step == Step::Row {
                session.statement(slot)?.column_count()
            } else {
                0
            };
            Ok((step, usize::try_from(columns).unwrap_or(0)))
        })?;
        self.bytes.resize_with(columns, OnceLock::new);
        Ok(step)
    }

    /// Runs to the end, discarding rows; returns the number of changed rows (0 for statements that change none).
    pub fn execute(&mut self) -> Result<u64> {
        while self.step()? == Step::Row {}
        Ok(u64::try_from(self.changes()).unwrap_or(0))
    }

    /// Back to the start; clears the bindings if asked to.
    pub fn reset(&mut self, clear_bindings: bool) -> Result<()> {
        self.bytes.clear();
        let slot = self.slot;
        self.shared.with(|session| {
            let result = session.reset(slot);
            if clear_bindings {
                session.statement(slot)?.clear_bindings();
            }
            result
        })
    }

    /// Ends the statement; later use is an error. What a half-read statement has already changed stays.
    pub fn finalize(&mut self) -> Result<()> {
        self.bytes.clear();
        let slot = self.slot;
        self.shared.with(|session| session.finalize(slot))
    }

    /// Rows that the last run changed.
    pub fn changes(&self) -> i64 {
        self.shared
            .with(|session| Ok(session.changes(self.slot)))
            .unwrap_or(0)
    }

    /// Number of columns; 0 after finalize.
    pub fn column_count(&self) -> usize {
        self.read(|statement| usize::try_from(statement.column_count()).ok())
            .unwrap_or(0)
    }

    /// Name of column `i` (from 0).
    pub fn column_name(&self, i: usize) -> Option<String> {
        let i = c_int::try_from(i).ok()?;
        // SAFETY: the statement is alive; SQLite answers NULL for a wrong index.
        self.read(|statement| unsafe { copied(ffi::sqlite3_column_name(statement.raw(), i)) })
    }

    /// Declared type of column `i`, if it is a table's column.
    pub fn column_decltype(&self, i: usize) -> Option<String> {
        let i = c_int::try_from(i).ok()?;
        // SAFETY: the statement is alive; SQLite answers NULL for a wrong index.
        self.read(|statement| unsafe { copied(ffi::sqlite3_column_decltype(statement.raw(), i)) })
    }

    /// Type of the value in column `i`; `None` without a row or out of range.
    pub fn value_type(&self, i: usize) -> Option<ValueType> {
        self.read_value(i, |statement, i| {
            Some(match statement.column_type(i) {
                ffi::SQLITE_INTEGER => ValueType::Integer,
                ffi::SQLITE_FLOAT => ValueType::Real,
                ffi::SQLITE_TEXT => ValueType::Text,
                ffi::SQLITE_BLOB => ValueType::Blob,
                _ => ValueType::Null,
            })
        })
    }

    /// The integer in column `i`; 0 for another type.
    pub fn value_integer(&self, i: usize) -> i64 {
        let value = self.read_value(i, |statement, i| match statement.column_type(i) {
            ffi::SQLITE_INTEGER => Some(statement.integer(i)),
            _ => None,
        });
        value.unwrap_or(0)
    }

    /// The real in column `i`; 0 for another type.
    pub fn value_real(&self, i: usize) -> f64 {
        let value = self.read_value(i, |statement, i| match statement.column_type(i) {
            ffi::SQLITE_FLOAT => Some(statement.real(i)),
            _ => None,
        });
        value.unwrap_or(0.0)
    }

    /// The bytes of the text or blob in column `i`, valid until the next call on the statement; `None` for
    /// another type.
    pub fn value_bytes(&self, i: usize) -> Option<&[u8]> {
        let place = self.bytes.get(i);
        if let Some(bytes) = place.and_then(OnceLock::get) {
            return Some(bytes);
        }
        let bytes: Box<[u8]> = self.read_value(i, |statement, i| match statement.column_type(i) {
            ffi::SQLITE_TEXT | ffi::SQLITE_BLOB => Some(statement.bytes(i).into()),
            _ => None,
        })?;
        place.map(|place| &**place.get_or_init(|| bytes))
    }

    /// Number of parameters (the largest index).
    pub fn parameter_count(&self) -> usize {
        // SAFETY: the statement is alive.
        let count =
            self.read(|s| usize::try_from(unsafe { ffi::sqlite3_bind_parameter_count(s.raw()) }).ok());
        count.unwrap_or(0)
    }

    /// Name of parameter `i` (from 1) with its prefix; `None` if it has none.
    pub fn parameter_name(&self, i: usize) -> Option<String> {
        let i = c_int::try_from(i).ok()?;
        // SAFETY: the statement is alive; SQLite answers NULL for a wrong index.
        self.read(|statement| unsafe { copied(ffi::sqlite3_bind_parameter_name(statement.raw(), i)) })
    }

    /// Index (from 1) of the parameter `name`, given with its prefix `: @ $ ?`.
    pub fn parameter_index(&self, name: &str) -> Option<usize> {
        let name = std::ffi::CString::new(name).ok()?;
        self.read(|statement| {
            // SAFETY: the statement is alive and the name NUL-terminated.
            let index = unsafe { ffi::sqlite3_bind_parameter_index(statement.raw(), name.as_ptr()) };
            usize::try_from(index).ok().filter(|&i| i > 0)
        })
    }

    /// Binds NULL to parameter `i` (from 1); out of range is MISUSE, as in all `bind_` functions.
    pub fn bind_null(&mut self, i: usize) -> Result<()> {
        self.bind(i, &Value::Null)
    }

    /// Binds an integer.
    pub fn bind_integer(&mut self, i: usize, v: i64) -> Result<()> {
        self.bind(i, &Value::Integer(v))
    }

    /// Binds a real.
    pub fn bind_real(&mut self, i: usize, v: f64) -> Result<()> {
        self.bind(i, &Value::Real(v))
    }

    /// Binds a copy of text.
    pub fn bind_text(&mut self, i: usize, v: &str) -> Result<()> {
        self.bind_with(i, |statement, i| statement.bind_text(i, v.as_bytes()))
    }

    /// Binds a copy of a blob.
    pub fn bind_blob(&mut self, i: usize, v: &[u8]) -> Result<()> {
        self.bind_with(i, |statement, i| statement.bind_blob(i, v))
    }

    fn bind(&mut self, i: usize, v: &Value) -> Result<()> {
        self.bind_with(i, |statement, i| statement.bind(i, v))
    }

    fn bind_with(&mut self, i: usize, f: impl FnOnce(&mut RawStatement, c_int) -> Result<()>) -> Result<()> {
        let i = c_int::try_from(i).map_err(|_| Error::misuse("parameter index out of range"))?;
        let slot = self.slot;
        self.shared.with(|session| f(session.statement(slot)?, i))
    }

    /// `None` if the statement is gone or another thread uses the connection.
    fn read<T>(&self, f: impl FnOnce(&RawStatement) -> Option<T>) -> Option<T> {
        self.shared
            .with(|session| Ok(f(session.statement(self.slot)?)))
            .ok()
            .flatten()
    }

    fn read_value<T>(&self, i: usize, f: impl FnOnce(&RawStatement, c_int) -> Option<T>) -> Option<T> {
        let i = c_int::try_from(i).ok()?;
        let value = self.shared.with(|session| {
            if !session.has_row(self.slot) {
                return Ok(None);
            }
            let statement = session.statement(self.slot)?;
            Ok(if i < statement.column_count() {
                f(statement, i)
            } else {
                None
            })
        });
        value.ok().flatten()
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.shared.drop_statement(self.slot);
    }
}

/// # Safety
/// `text` must be NULL or NUL-terminated.
unsafe fn copied(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

//! A prepared statement.

use crate::error::{Error, Result};

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
pub struct Statement {}

impl Statement {
    /// Runs to the next row or to the end.
    pub fn step(&mut self) -> Result<Step> {
        Err(Error::internal("stub"))
    }
    /// Runs to the end, discarding rows; returns the number of changed rows (0 for statements that change none).
    pub fn execute(&mut self) -> Result<u64> {
        Err(Error::internal("stub"))
    }
    /// Back to the start; clears the bindings if asked to.
    pub fn reset(&mut self, _clear_bindings: bool) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Ends the statement; later use is an error. What a half-read statement has already changed stays.
    pub fn finalize(&mut self) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Rows that the last run changed.
    pub fn changes(&self) -> i64 {
        0
    }
    /// Number of columns; 0 after finalize.
    pub fn column_count(&self) -> usize {
        0
    }
    /// Name of column `i` (from 0).
    pub fn column_name(&self, _i: usize) -> Option<String> {
        None
    }
    /// Declared type of column `i`, if it is a table's column.
    pub fn column_decltype(&self, _i: usize) -> Option<String> {
        None
    }
    /// Type of the value in column `i`; `None` without a row or out of range.
    pub fn value_type(&self, _i: usize) -> Option<ValueType> {
        None
    }
    /// The integer in column `i`; 0 for another type.
    pub fn value_integer(&self, _i: usize) -> i64 {
        0
    }
    /// The real in column `i`; 0 for another type.
    pub fn value_real(&self, _i: usize) -> f64 {
        0.0
    }
    /// The bytes of the text or blob in column `i`, valid until the next call on the statement; `None` for
    /// another type.
    pub fn value_bytes(&self, _i: usize) -> Option<&[u8]> {
        None
    }
    /// Number of parameters (the largest index).
    pub fn parameter_count(&self) -> usize {
        0
    }
    /// Name of parameter `i` (from 1) with its prefix; `None` if it has none.
    pub fn parameter_name(&self, _i: usize) -> Option<String> {
        None
    }
    /// Index (from 1) of the parameter `name`, given with its prefix `: @ $ ?`.
    pub fn parameter_index(&self, _name: &str) -> Option<usize> {
        None
    }
    /// Binds NULL to parameter `i` (from 1); out of range is MISUSE, as in all `bind_` functions.
    pub fn bind_null(&mut self, _i: usize) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Binds an integer.
    pub fn bind_integer(&mut self, _i: usize, _v: i64) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Binds a real.
    pub fn bind_real(&mut self, _i: usize, _v: f64) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Binds a copy of text.
    pub fn bind_text(&mut self, _i: usize, _v: &str) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Binds a copy of a blob.
    pub fn bind_blob(&mut self, _i: usize, _v: &[u8]) -> Result<()> {
        Err(Error::internal("stub"))
    }
}

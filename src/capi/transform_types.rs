//! Enumerations and structures of transform requests.

use super::boundary::Versioned;
use super::types::{turso_slice_ref_t, turso_type_t};

/// What happened to a row.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_mutation_type_t {
    /// It is new.
    TURSO_SYNC_MUTATION_INSERT = 1,
    /// Some of its columns were set.
    TURSO_SYNC_MUTATION_UPDATE = 2,
    /// It is gone.
    TURSO_SYNC_MUTATION_DELETE = 3,
}

/// A captured row change that is about to be pushed. It is content of the database: do not log it. Set `size` before the
/// call. New fields are only ever appended. The slice is UTF-8, not zero-terminated, and lives as long as the item.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_mutation_t {
    /// `sizeof(turso_sync_mutation_t)`.
    pub size: usize,
    /// Number of the change (`change_id` in `turso_cdc`).
    pub change_id: i64,
    /// The local transaction it belongs to (`change_txn_id` in `turso_cdc`).
    pub transaction_id: i64,
    /// When it was made, in unix seconds.
    pub unix_time: i64,
    /// Rowid of the row, before the change if it changed; 0 where there is none.
    pub rowid: i64,
    /// Table, as spelled in its declaration.
    pub table: turso_slice_ref_t,
    /// Number of columns; see turso_sync_database_io_transform_column. Generated columns do not count.
    pub columns: usize,
    /// What happened.
    pub mutation_type: turso_sync_mutation_type_t,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_mutation_t {
    const NAME: &str = "turso_sync_mutation_t";
}

/// A value with its type.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_value_t {
    /// A value of `turso_type_t`; `TURSO_TYPE_UNKNOWN` if there is no value.
    pub value_type: u32,
    /// Of an INTEGER.
    pub integer: i64,
    /// Of a REAL.
    pub real: f64,
    /// Of a TEXT (UTF-8, not zero-terminated) or BLOB. From the library it lives as long as the item.
    pub bytes: turso_slice_ref_t,
}

/// One column of a row change. Set `size` before the call. New fields are only ever appended.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_mutation_column_t {
    /// `sizeof(turso_sync_mutation_column_t)`.
    pub size: usize,
    /// Name in UTF-8, not zero-terminated; lives as long as the item.
    pub name: turso_slice_ref_t,
    /// Value in the old row; none for an insert.
    pub before: turso_sync_value_t,
    /// Value in the new row; none for a delete.
    pub after: turso_sync_value_t,
    /// What an update sets; none for a column that it leaves alone.
    pub update: turso_sync_value_t,
    /// 1 if the column is part of the primary key, otherwise 0.
    pub is_key: u32,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_mutation_column_t {
    const NAME: &str = "turso_sync_mutation_column_t";
}

impl turso_sync_value_t {
    /// The value that is none.
    pub(super) fn none() -> Self {
        turso_sync_value_t {
            value_type: turso_type_t::TURSO_TYPE_UNKNOWN as u32,
            integer: 0,
            real: 0.0,
            bytes: super::boundary::no_slice(),
        }
    }
}

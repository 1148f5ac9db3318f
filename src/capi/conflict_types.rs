//! Enumerations and structures of conflicts.

use super::boundary::Versioned;
use super::types::turso_slice_ref_t;
use crate::engine::{ConflictKind, ConflictOperation, ConflictPolicy, ConflictState, Resolution};
use crate::error::{Error, Result};

/// What push and apply do about a transaction that the remote's state does not admit.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_conflict_policy_t {
    /// The operation ends with CONSTRAINT and changes nothing; everything stays pending.
    TURSO_SYNC_CONFLICT_POLICY_STOP = 0,
    /// The last push wins: rows that stand in the way of a UNIQUE constraint are removed, as `REPLACE` removes them
    /// (no delete triggers, no foreign-key actions). What even that cannot carry over stops the operation.
    TURSO_SYNC_CONFLICT_POLICY_OVERWRITE = 1,
    /// The transaction moves whole out of the database into the local table `turso_sync_conflicts`, together with those
    /// that build on it, and the operation goes on.
    TURSO_SYNC_CONFLICT_POLICY_SET_ASIDE = 2,
}

/// What to do about one conflict.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_conflict_resolution_t {
    /// A blocked transaction is tried again by the next sync. One that was set aside is applied at once as a new
    /// transaction; if it does not fit, the operation ends with CONSTRAINT and it stays set aside.
    TURSO_SYNC_CONFLICT_RESOLUTION_RETRY = 1,
    /// Likewise, and rows in the way are overwritten as with TURSO_SYNC_CONFLICT_POLICY_OVERWRITE.
    TURSO_SYNC_CONFLICT_RESOLUTION_OVERWRITE = 2,
    /// The changes of a blocked transaction leave the database now and are kept in `turso_sync_conflicts`.
    TURSO_SYNC_CONFLICT_RESOLUTION_SET_ASIDE = 3,
    /// The changes of a blocked transaction leave the database now and are lost; one that was set aside is deleted.
    TURSO_SYNC_CONFLICT_RESOLUTION_DROP = 4,
}

/// Where a conflict stands.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_conflict_state_t {
    /// The transaction is pending, and the last sync stopped at it.
    TURSO_SYNC_CONFLICT_STATE_BLOCKED = 1,
    /// The transaction is pending; the next push overwrites what is in its way.
    TURSO_SYNC_CONFLICT_STATE_OVERWRITE = 2,
    /// The transaction is out of the database and lies in `turso_sync_conflicts`.
    TURSO_SYNC_CONFLICT_STATE_SET_ASIDE = 3,
}

/// What stands in the way of a change. Numbers that are not listed are to be treated as OTHER.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_conflict_kind_t {
    /// Anything else that the remote refuses.
    TURSO_SYNC_CONFLICT_KIND_OTHER = 0,
    /// A UNIQUE or PRIMARY KEY constraint: another row has the value.
    TURSO_SYNC_CONFLICT_KIND_UNIQUE = 1,
    /// NOT NULL.
    TURSO_SYNC_CONFLICT_KIND_NOT_NULL = 2,
    /// CHECK.
    TURSO_SYNC_CONFLICT_KIND_CHECK = 3,
    /// FOREIGN KEY, on a remote that enforces them.
    TURSO_SYNC_CONFLICT_KIND_FOREIGN_KEY = 4,
    /// A trigger said no (`RAISE`).
    TURSO_SYNC_CONFLICT_KIND_TRIGGER = 5,
    /// A STRICT column does not take the type.
    TURSO_SYNC_CONFLICT_KIND_DATATYPE = 6,
    /// A table, column or other schema object is gone, or is there in another form.
    TURSO_SYNC_CONFLICT_KIND_SCHEMA = 7,
    /// The transaction builds on one that was set aside.
    TURSO_SYNC_CONFLICT_KIND_DEPENDENCY = 8,
}

/// What the change that is in conflict does.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_conflict_operation_t {
    /// Inserts a row.
    TURSO_SYNC_CONFLICT_OPERATION_INSERT = 1,
    /// Updates a row.
    TURSO_SYNC_CONFLICT_OPERATION_UPDATE = 2,
    /// Deletes a row.
    TURSO_SYNC_CONFLICT_OPERATION_DELETE = 3,
    /// Changes the schema.
    TURSO_SYNC_CONFLICT_OPERATION_SCHEMA = 4,
}

/// One conflict. Set `size` before the call. New fields are only ever appended; `size` tells the library which ones the
/// caller knows. The slices are UTF-8, not zero-terminated, and live as long as the list.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_conflict_t {
    /// `sizeof(turso_sync_conflict_t)`.
    pub size: usize,
    /// Number of the conflict, for turso_sync_database_resolve_conflict; that of the transaction (`change_txn_id` in
    /// `turso_cdc`).
    pub id: i64,
    /// The change that failed (`change_id` in `turso_cdc`).
    pub change_id: i64,
    /// Where the conflict stands.
    pub state: turso_sync_conflict_state_t,
    /// What stands in the way.
    pub kind: turso_sync_conflict_kind_t,
    /// What the change does.
    pub operation: turso_sync_conflict_operation_t,
    /// Extended result code of SQLite; 0 = unknown.
    pub sqlite_code: i32,
    /// Number of row and schema changes of the transaction.
    pub changes: i64,
    /// When it was noticed, in unix seconds.
    pub unix_time: i64,
    /// Table of the change; for a schema change the table of the schema object.
    pub table: turso_slice_ref_t,
    /// Key of the row as a JSON object, such as `{"id":5}`, or `{"rowid":5}` for a row without a key; empty for schema
    /// changes. This is content of the database: do not log it.
    pub key: turso_slice_ref_t,
    /// What the constraint is on, in SQLite's words, such as `users.email`; may be empty.
    pub constraint: turso_slice_ref_t,
    /// The error as the operation reported it, without row contents.
    pub message: turso_slice_ref_t,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_conflict_t {
    const NAME: &str = "turso_sync_conflict_t";
}

/// The value whose number a caller gave. C passes any number where an enumeration is expected.
pub(super) fn by_number<T>(name: &str, known: impl IntoIterator<Item = (u32, T)>, number: u32) -> Result<T> {
    let found = known.into_iter().find(|(of_known, _)| *of_known == number);
    let unknown = || Error::misuse(format!("unknown {name}: {number}"));
    found.map(|(_, value)| value).ok_or_else(unknown)
}

impl turso_sync_conflict_policy_t {
    pub(super) fn read(number: u32) -> Result<ConflictPolicy> {
        let known = [
            (Self::TURSO_SYNC_CONFLICT_POLICY_STOP as u32, ConflictPolicy::Stop),
            (
                Self::TURSO_SYNC_CONFLICT_POLICY_OVERWRITE as u32,
                ConflictPolicy::Overwrite,
            ),
            (
                Self::TURSO_SYNC_CONFLICT_POLICY_SET_ASIDE as u32,
                ConflictPolicy::SetAside,
            ),
        ];
        by_number("conflict_policy", known, number)
    }
}

impl turso_sync_conflict_resolution_t {
    pub(super) fn read(number: u32) -> Result<Resolution> {
        let known = [
            (
                Self::TURSO_SYNC_CONFLICT_RESOLUTION_RETRY as u32,
                Resolution::Retry,
            ),
            (
                Self::TURSO_SYNC_CONFLICT_RESOLUTION_OVERWRITE as u32,
                Resolution::Overwrite,
            ),
            (
                Self::TURSO_SYNC_CONFLICT_RESOLUTION_SET_ASIDE as u32,
                Resolution::SetAside,
            ),
            (Self::TURSO_SYNC_CONFLICT_RESOLUTION_DROP as u32, Resolution::Drop),
        ];
        by_number("resolution", known, number)
    }
}

impl From<ConflictState> for turso_sync_conflict_state_t {
    fn from(state: ConflictState) -> Self {
        match state {
            ConflictState::Blocked => Self::TURSO_SYNC_CONFLICT_STATE_BLOCKED,
            ConflictState::Overwrite => Self::TURSO_SYNC_CONFLICT_STATE_OVERWRITE,
            ConflictState::SetAside => Self::TURSO_SYNC_CONFLICT_STATE_SET_ASIDE,
        }
    }
}

impl From<ConflictKind> for turso_sync_conflict_kind_t {
    fn from(kind: ConflictKind) -> Self {
        match kind {
            ConflictKind::Unique => Self::TURSO_SYNC_CONFLICT_KIND_UNIQUE,
            ConflictKind::NotNull => Self::TURSO_SYNC_CONFLICT_KIND_NOT_NULL,
            ConflictKind::Check => Self::TURSO_SYNC_CONFLICT_KIND_CHECK,
            ConflictKind::ForeignKey => Self::TURSO_SYNC_CONFLICT_KIND_FOREIGN_KEY,
            ConflictKind::Trigger => Self::TURSO_SYNC_CONFLICT_KIND_TRIGGER,
            ConflictKind::DataType => Self::TURSO_SYNC_CONFLICT_KIND_DATATYPE,
            ConflictKind::Schema => Self::TURSO_SYNC_CONFLICT_KIND_SCHEMA,
            ConflictKind::Dependency => Self::TURSO_SYNC_CONFLICT_KIND_DEPENDENCY,
            ConflictKind::Other => Self::TURSO_SYNC_CONFLICT_KIND_OTHER,
        }
    }
}

impl From<ConflictOperation> for turso_sync_conflict_operation_t {
    fn from(operation: ConflictOperation) -> Self {
        match operation {
            ConflictOperation::Insert => Self::TURSO_SYNC_CONFLICT_OPERATION_INSERT,
            ConflictOperation::Update => Self::TURSO_SYNC_CONFLICT_OPERATION_UPDATE,
            ConflictOperation::Delete => Self::TURSO_SYNC_CONFLICT_OPERATION_DELETE,
            ConflictOperation::Schema => Self::TURSO_SYNC_CONFLICT_OPERATION_SCHEMA,
        }
    }
}

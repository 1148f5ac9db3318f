//! Conflicts: what they are, and how errors of SQLite and of remotes become them.

use rusqlite::ffi;

use crate::capture::log::{ChangeType, LogEntry};
use crate::error::{Category, Code, Error};

/// What a sync operation does about a transaction that the other side does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConflictPolicy {
    /// The operation ends with an error of category `Conflict` and changes nothing; everything stays pending.
    #[default]
    Stop,
    /// The last push wins, also over rows that stand in the way of a UNIQUE constraint: they are removed, as `REPLACE`
    /// does it. What even that cannot carry over stops the operation.
    Overwrite,
    /// The transaction moves whole into the local table `turso_sync_conflicts`, with those that build on it, and the
    /// operation goes on.
    SetAside,
}

/// What to do about one conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Try again: a blocked transaction with the next sync, one that was set aside at once, as a new transaction.
    Retry,
    /// Like `Retry`, and with [`ConflictPolicy::Overwrite`] for this transaction.
    Overwrite,
    /// Move the transaction into `turso_sync_conflicts`; its changes leave the database.
    SetAside,
    /// Throw the transaction away; its changes leave the database.
    Drop,
}

/// Where a conflict stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictState {
    /// The transaction is pending, and the last sync stopped at it.
    Blocked,
    /// The transaction is pending; the next push overwrites what is in its way.
    Overwrite,
    /// The transaction is out of the database and lies in `turso_sync_conflicts`.
    SetAside,
}

impl ConflictState {
    /// As in column `state` of `turso_sync_conflicts`.
    pub const fn name(self) -> &'static str {
        match self {
            ConflictState::Blocked => "blocked",
            ConflictState::Overwrite => "overwrite",
            ConflictState::SetAside => "set aside",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Blocked, Self::Overwrite, Self::SetAside]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// What stands in the way of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// A UNIQUE or PRIMARY KEY constraint: another row has the value.
    Unique,
    /// NOT NULL.
    NotNull,
    /// CHECK.
    Check,
    /// FOREIGN KEY, on a remote that enforces them.
    ForeignKey,
    /// A trigger said no (`RAISE`).
    Trigger,
    /// A STRICT column does not take the type.
    DataType,
    /// A table, column or other schema object is gone, or is there in another form.
    Schema,
    /// The transaction builds on one that was set aside.
    Dependency,
    /// Anything else that the remote refuses.
    Other,
}

impl ConflictKind {
    const ALL: [(ConflictKind, &'static str); 9] = [
        (Self::Unique, "UNIQUE"),
        (Self::NotNull, "NOT NULL"),
        (Self::Check, "CHECK"),
        (Self::ForeignKey, "FOREIGN KEY"),
        (Self::Trigger, "TRIGGER"),
        (Self::DataType, "DATATYPE"),
        (Self::Schema, "SCHEMA"),
        (Self::Dependency, "DEPENDENCY"),
        (Self::Other, "OTHER"),
    ];

    /// As in column `kind` of `turso_sync_conflicts`.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(kind, _)| *kind == self);
        found.map_or("OTHER", |(_, name)| name)
    }

    pub(super) fn parse(name: &str) -> Self {
        let found = Self::ALL.iter().find(|(_, n)| *n == name);
        found.map_or(Self::Other, |(kind, _)| *kind)
    }

    /// What kind of conflict `error` is, by SQLite's code where there is one, otherwise by SQLite's words, which
    /// remotes pass on.
    pub fn of(error: &Error) -> Self {
        match error.sqlite_code {
            Some(ffi::SQLITE_CONSTRAINT_UNIQUE)
            | Some(ffi::SQLITE_CONSTRAINT_PRIMARYKEY)
            | Some(ffi::SQLITE_CONSTRAINT_ROWID) => return Self::Unique,
            Some(ffi::SQLITE_CONSTRAINT_NOTNULL) => return Self::NotNull,
            Some(ffi::SQLITE_CONSTRAINT_CHECK) => return Self::Check,
            Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => return Self::ForeignKey,
            Some(ffi::SQLITE_CONSTRAINT_TRIGGER) => return Self::Trigger,
            Some(ffi::SQLITE_CONSTRAINT_DATATYPE) => return Self::DataType,
            _ => {}
        }
        let words = [
            ("UNIQUE constraint failed", Self::Unique),
            ("PRIMARY KEY constraint failed", Self::Unique),
            ("NOT NULL constraint failed", Self::NotNull),
            ("CHECK constraint failed", Self::Check),
            ("FOREIGN KEY constraint failed", Self::ForeignKey),
            ("cannot store ", Self::DataType),
            ("no such ", Self::Schema),
            ("no longer exists", Self::Schema),
            ("already exists", Self::Schema),
            ("already another", Self::Schema),
            ("has no column", Self::Schema),
            ("duplicate column", Self::Schema),
            ("the remote has ", Self::Schema),
        ];
        let found = words.iter().find(|(words, _)| error.message.contains(words));
        found.map_or(Self::Other, |(_, kind)| *kind)
    }
}

/// What the change that is in conflict does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictOperation {
    /// Inserts a row.
    Insert,
    /// Updates a row.
    Update,
    /// Deletes a row.
    Delete,
    /// Changes the schema.
    Schema,
}

impl ConflictOperation {
    const ALL: [(ConflictOperation, &'static str); 4] = [
        (Self::Insert, "insert"),
        (Self::Update, "update"),
        (Self::Delete, "delete"),
        (Self::Schema, "schema"),
    ];

    /// As in column `operation` of `turso_sync_conflicts`.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(operation, _)| *operation == self);
        found.map_or("", |(_, name)| name)
    }

    pub(super) fn parse(name: &str) -> Self {
        let found = Self::ALL.iter().find(|(_, n)| *n == name);
        found.map_or(Self::Schema, |(operation, _)| *operation)
    }

    pub(super) fn of(table: &str, change_type: ChangeType) -> Self {
        match change_type {
            _ if table == super::ddl::SCHEMA_TABLE => Self::Schema,
            ChangeType::Insert => Self::Insert,
            ChangeType::Update => Self::Update,
            ChangeType::Delete => Self::Delete,
        }
    }
}

/// A transaction that the other side does not take.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// The transaction (`change_txn_id` in the change log), which is also the conflict's number.
    pub txn_id: i64,
    /// The change that failed (`change_id` in the change log).
    pub change_id: i64,
    /// Where the conflict stands.
    pub state: ConflictState,
    /// What stands in the way.
    pub kind: ConflictKind,
    /// Table of the change; for a schema change the table of the schema object.
    pub table: String,
    /// What the change does.
    pub operation: ConflictOperation,
    /// The row's key as a JSON object, such as `{"id":5}`, or `{"rowid":5}` for a row without a key; empty for schema
    /// changes. This is row content: keep it out of logs.
    pub key: String,
    /// What the constraint is on, in SQLite's words, such as `users.email`; may be empty.
    pub constraint: String,
    /// Extended result code of SQLite, if known.
    pub sqlite_code: Option<i32>,
    /// The error as the operation reported it.
    pub message: String,
    /// Row and schema changes of the transaction.
    pub changes: u64,
    /// When it was noticed, in unix seconds.
    pub unix_time: i64,
}

/// A change that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The transaction.
    pub txn_id: i64,
    /// The change.
    pub change_id: i64,
    /// Table of the change.
    pub table: String,
    /// What it does in the log.
    pub change_type: ChangeType,
    /// What it does.
    pub operation: ConflictOperation,
    /// Its key as in [`Conflict::key`].
    pub key: String,
    /// What stands in the way.
    pub kind: ConflictKind,
    /// Why.
    pub error: Error,
}

impl Failure {
    /// The failure of `entry`, which is about the row `key` (may be empty) of `table`.
    pub(super) fn of(entry: &LogEntry, table: String, key: String, error: Error) -> Self {
        Failure {
            txn_id: entry.txn_id,
            change_id: entry.change_id,
            table,
            change_type: entry.change_type,
            operation: ConflictOperation::of(&entry.table, entry.change_type),
            key,
            kind: ConflictKind::of(&error),
            error,
        }
    }
}

/// The part of SQLite's message that names columns or a constraint.
pub(super) fn constraint_of(message: &str) -> &str {
    message.split_once("constraint failed: ").map_or("", |(_, rest)| {
        rest.split([';', '\n']).next().unwrap_or("").trim()
    })
}

/// True if SQLite has judged the statement, which it will do again: nothing is wrong with the database or the machine.
pub(super) fn is_verdict(error: &Error) -> bool {
    let judged = |code| {
        matches!(
            code & 0xff,
            ffi::SQLITE_ERROR | ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH | ffi::SQLITE_TOOBIG
        )
    };
    error.sqlite_code.is_some_and(judged)
}

/// `error` as a conflict, if SQLite has judged the statement.
pub(super) fn judged(error: Error) -> Error {
    match is_verdict(&error) {
        true => Error {
            code: Code::Constraint,
            ..error.categorized(Category::Conflict)
        },
        false => error,
    }
}

/// True if repeating the request later may help: the remote is busy, full or broken, and did not judge the change.
/// `error` must be in the remote's own words: a table may be named `busy`.
pub fn is_transient(error: &Error) -> bool {
    if error.retryable || error.code == Code::Busy {
        return true;
    }
    if let Some(code) = error.sqlite_code {
        return matches!(
            code & 0xff,
            ffi::SQLITE_BUSY
                | ffi::SQLITE_LOCKED
                | ffi::SQLITE_NOMEM
                | ffi::SQLITE_READONLY
                | ffi::SQLITE_INTERRUPT
                | ffi::SQLITE_IOERR
                | ffi::SQLITE_CORRUPT
                | ffi::SQLITE_FULL
                | ffi::SQLITE_CANTOPEN
                | ffi::SQLITE_PROTOCOL
                | ffi::SQLITE_INTERNAL
                | ffi::SQLITE_PERM
                | ffi::SQLITE_ABORT
                | ffi::SQLITE_NOTADB
        );
    }
    if ConflictKind::of(error) != ConflictKind::Other {
        return false;
    }
    let message = error.message.to_ascii_lowercase();
    let words = [
        "locked",
        "busy",
        "out of memory",
        "readonly",
        "read-only",
        "interrupted",
        "i/o error",
        "is full",
        "no space left",
        "timeout",
        "timed out",
        "timed-out",
        "not a database",
    ];
    words.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_sqlite_has_judged_is_a_conflict() {
        let sqlite = |code| judged(Error::sqlite(code, "duplicate column name: c"));
        for code in [ffi::SQLITE_ERROR, ffi::SQLITE_CONSTRAINT_CHECK] {
            let e = sqlite(code);
            assert_eq!((e.category, e.code), (Category::Conflict, Code::Constraint));
        }
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_READ, ffi::SQLITE_NOMEM] {
            assert_eq!(sqlite(code).category, Category::Database);
        }
    }
}

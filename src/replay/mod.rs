//! Turns the change log into SQL: one generator, two executors.
//!
//! * [`rebase`] (pull) carries the pending changes over to a new base and executes them there; where that is in
//!   conflict, [`rebase_net`] tries their net effect;
//! * [`PushGenerator`] makes the statements of one local transaction for the remote.
//!
//! Both run the very same SQL text, so that a pull predicts what a push will do. The rules:
//!
//! | row | insert | update | delete |
//! |---|---|---|---|
//! | with a key | upsert: the last push wins | sets the changed columns; re-creates a row that is gone | by key |
//! | without a key | at its rowid, which must be free | by rowid, if the row there is the one meant | likewise |
//!
//! A row has a key if its table declares a PRIMARY KEY and no part of it is NULL in the row. Rows without a key are
//! known by their rowid *and* content. Where those do not fit the other side, a pull decides: a taken rowid is
//! replaced by a fresh one, an update whose row is gone or was changed becomes an insert of the new image (no row of
//! anybody else is touched, and nothing is lost), a delete of such a row is dropped. What was decided is written into
//! the log that the new base carries. Rows that triggers add have other rowids there if anybody else has added some: a
//! pull looks for them among those that it sees triggers add (see `moved`). A push cannot decide anything, because later
//! changes may refer to the row: it sends *guards* ([`Purpose::Guard`]) that fail the transaction, and the engine pulls
//! before it pushes again.
//!
//! A row of a virtual table (full text, R*Tree) is known by its number alone: inserts and updates replace the whole row,
//! the last push wins. See [`LogEntry`] for what the log has of them.
//!
//! Changes that triggers made are not replayed, because the triggers of the other side redo them; changes that
//! foreign-key actions made are, because foreign keys are off in both executors. So that the other side's triggers fire as
//! they fired here, a REPLACE travels as one where it fired no DELETE triggers, and an update names the columns that
//! UPDATE OF triggers look for. So that their bodies do what they did here, the conflict clause of the statement travels
//! with the row (see `clause`). What is not exact:
//!
//! * With `PRAGMA recursive_triggers` on, a REPLACE fires DELETE triggers here behind BEFORE INSERT triggers, there
//!   before them. What a trigger did inside itself, or to a row that a REPLACE in a trigger removed, is replayed as changes
//!   of its own, behind what the other side's trigger has done by then: where both change one row, the order differs.
//!   The bodies of those DELETE triggers run under REPLACE here; a DELETE has no such clause, so that one that meets a
//!   constraint there is a conflict.
//! * Foreign-key actions, and the triggers they fire, run here before AFTER triggers of the row, there behind them.
//! * A BEFORE trigger that changes rows of its own table and then leaves the row alone, whose nested firing SQLite
//!   suppresses here, fires there.
//! * A trigger with several UPDATE steps of one table is taken to assign all their columns in each, where its changes
//!   are replayed as a statement's own. Likewise an UPDATE whose foreign-key actions write its own table.
//! * An `UPDATE OR REPLACE`, and an update of a table with `ON CONFLICT REPLACE` or `ROLLBACK`, carries no conflict clause
//!   (see `clause`), so that the bodies of its triggers have their own, or OR ABORT: if there is a UNIQUE index on
//!   expressions or generated columns, or columns hide all names of the rowid; or if a BEFORE trigger has to make room
//!   for the row.
//! * A row that a constraint with `ON CONFLICT REPLACE` has replaced without firing DELETE triggers travels as OR REPLACE,
//!   for the bodies of its triggers, too, if the table has constraints with `IGNORE` or `ROLLBACK` as well.
//! * Where FAIL has ended a statement in a trigger (`RAISE(FAIL)`, OR FAIL in its body or as the clause of the statement), the
//!   row is there and the trigger fails again: a conflict. If its body says OR REPLACE or IGNORE, or a constraint of what it
//!   writes ON CONFLICT, which OR FAIL of the statement overrode here, that is what happens there.
//! * An AUTOINCREMENT id that a row did not get because of IGNORE is used up here and not there; one of a statement that FAIL has
//!   ended is used up there and not here. A row that a trigger adds next gets another id there.
//! * A BEFORE INSERT trigger sees -1 here in place of a rowid that SQLite is about to choose, there the rowid; likewise
//!   what is generated from it. And it sees NULL here where OR REPLACE is about to put the default of a NOT NULL column, there
//!   the default.
//! * A row with a key (other than its rowid) gets whatever rowid is next there, even if it was given one here. One that a
//!   REPLACE removed here for its rowid alone is deleted there, which fires DELETE triggers.
//! * An UPDATE that copies a whole number from a VIRTUAL column of type REAL to a column without REAL affinity stores an
//!   integer, but SQLite (3.53) computes STORED columns, and index entries of generated ones, from the real: 2.0 here is 2 there,
//!   which computes them from what is stored. An index that does not fit its table so is damaged here, for SQLite itself.
//! * Where columns hide all names of the rowid and there is no key, an update of one of several equal rows is a conflict.
//! * A row that moves to another rowid, and has no key, is deleted and inserted.
//! * A trigger that cannot run, because what it writes to is gone, keeps a change from travelling only if the change needs it
//!   there: where others have inserted its row, deleted it, or changed what it replaces. The change is then a conflict.

mod clause;
mod conflict;
pub mod conflicts;
mod ddl;
pub mod diff;
mod generator;
mod local;
mod moved;
mod net;
mod push;
mod rebase;
mod replaced;
mod resolve;
mod table;
mod text;
mod touched;
mod transactions;
mod values;
mod virtual_table;

use std::sync::Arc;

pub use conflict::{
    Conflict, ConflictKind, ConflictOperation, ConflictPolicy, ConflictState, Failure, Resolution,
    is_transient,
};
pub use generator::Generator;
pub use local::LocalTables;
pub use push::PushGenerator;
pub use rebase::{RebaseReport, rebase, rebase_fitting, rebase_net, rebase_unmoved};
pub use resolve::{Plan, Removal, Restoring, rebase_resolving};
pub use transactions::{Transaction, Transactions};

use crate::capture::log::{LOCAL_TABLES, LogEntry, WATERMARK_TABLE};
use crate::error::{Category, Code, Error};
use crate::record::Value;

/// How far the remote has come with the changes of this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The new base holds the changes up to this id.
    pub acknowledged: i64,
    /// Changes up to this id were put into a request: the remote may hold them, although the base does not.
    pub sent: i64,
    /// The largest id that was given out.
    pub last: i64,
}

/// What a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Carries the change; if it fails, the change is in conflict with the other side.
    Change,
    /// Fails (integer overflow) if rows without a key are not where the log says; pull, then push again.
    Guard,
    /// Fails (integer overflow) if the other side has changed the row so that the change needs a trigger that cannot run;
    /// the change is then in conflict.
    Check,
}

/// One SQL statement that carries a captured change, or a part of it, to another database.
///
/// Arguments are safe for JSON: text is UTF-8 and reals are finite (what is not travels in the SQL text).
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayStatement {
    /// The text, shared by all statements of the same shape.
    pub sql: Arc<str>,
    /// Values of the `?` in `sql`, in order.
    pub args: Vec<Value>,
    /// What it is for.
    pub purpose: Purpose,
    /// The change it belongs to.
    pub change_id: i64,
    /// The local transaction it belongs to.
    pub txn_id: i64,
    /// The table it changes; for DDL the table of the schema object.
    pub table: String,
    /// Names of the columns that identify the row, for messages; empty for DDL.
    pub key: Arc<[String]>,
}

impl ReplayStatement {
    /// Describes a failure of this statement. If SQLite has judged it (a constraint, a missing table) it becomes an error
    /// of category `Conflict`; other errors keep their category. The message names transaction, change, table and key columns, never row contents.
    pub fn failed(&self, cause: Error) -> Error {
        let key = match self.key.as_ref() {
            [] => String::new(),
            names => format!(", key ({})", names.join(", ")),
        };
        let context = format!(
            "transaction {}, change {}, table {}{key}",
            self.txn_id, self.change_id, self.table
        );
        let cause = match self.purpose {
            Purpose::Check if conflict::is_verdict(&cause) => Error {
                message:
                    "the row was changed elsewhere, and the triggers that this change now needs cannot run"
                        .into(),
                ..cause
            },
            _ => cause,
        };
        let failed = conflict::judged(cause.context(context));
        match failed.code {
            Code::Constraint => failed.categorized(Category::Conflict),
            _ => failed,
        }
    }
}

/// A contradiction between `entry` and the other side that is not a failed constraint.
fn conflict(entry: &LogEntry, what: impl std::fmt::Display) -> Error {
    let message = format!(
        "transaction {}, change {}, table {}: {what}",
        entry.txn_id, entry.change_id, entry.table
    );
    Error::new(Category::Conflict, Code::Constraint, message)
}

/// True for tables that are never replayed: local ones, acknowledgements, and what SQLite keeps by itself.
fn is_internal(table: &str) -> bool {
    let starts = |prefix: &str| {
        table
            .get(..prefix.len())
            .is_some_and(|p| p.eq_ignore_ascii_case(prefix))
    };
    starts("sqlite_")
        || starts("__turso_internal_")
        || table.eq_ignore_ascii_case(WATERMARK_TABLE)
        || LOCAL_TABLES.iter().any(|local| table.eq_ignore_ascii_case(local))
}

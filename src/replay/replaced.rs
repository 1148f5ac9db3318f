//! Rows that a REPLACE removed.
//!
//! Without `PRAGMA recursive_triggers` SQLite fires no DELETE triggers for them, so on a table that has some they must
//! not travel as DELETE statements. The insert or update that follows them in the log becomes OR REPLACE, which is as
//! silent over there, and DELETE statements behind it see to the rows that are no longer in its way.

use std::sync::Arc;

use crate::capture::log::LogEntry;
use crate::record::Value;
use crate::replay::clause::Or;
use crate::replay::generator::{Kind, RowChange, Statements};
use crate::replay::table::{Identity, Table};
use crate::replay::values::Slots;

/// Why a row was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The statement is a REPLACE.
    Statement,
    /// It has no conflict clause, the constraint has.
    Constraint,
}

impl By {
    /// The reason with this number in the change log.
    pub(super) fn of(number: i64) -> By {
        if number == 2 {
            By::Constraint
        } else {
            By::Statement
        }
    }

    /// The number in the change log.
    pub(super) fn number(self) -> i64 {
        match self {
            By::Statement => 1,
            By::Constraint => 2,
        }
    }
}

/// A row that a REPLACE removed without firing triggers.
#[derive(Debug)]
pub(super) struct Replaced {
    pub table: Arc<Table>,
    pub entry: LogEntry,
    pub change: RowChange,
}

impl Statements<'_> {
    /// What is replaced must be what was replaced here, unless a key says which row is meant.
    pub(super) fn guard_replaced(&mut self) {
        let replaced = std::mem::take(&mut self.replaced);
        for Replaced { change, .. } in &replaced {
            let identity = self.table.identity(&change.before);
            if identity != Identity::Key {
                self.guard_present(identity, change);
            }
        }
        self.replaced = replaced;
    }

    /// Removes those of the replaced rows that `change` has left, because the other side has given them other values.
    pub(super) fn delete_replaced(&mut self, change: &RowChange) {
        self.or = Or::Strict;
        let has_key = self.table.identity(&change.after) == Identity::Key;
        for Replaced {
            entry,
            change: replaced,
            ..
        } in std::mem::take(&mut self.replaced)
        {
            let identity = self.table.identity(&replaced.before);
            let mut slots = Slots::default();
            let kind = match identity {
                Identity::Key => {
                    // The same row under one key: nothing else has this key.
                    if self
                        .table
                        .key_values(&replaced.before)
                        .eq(self.table.key_values(&change.after))
                    {
                        continue;
                    }
                    slots.extend(self.table.key_values(&replaced.before));
                    slots.extend(self.table.key_values(&change.after));
                    Kind::DeleteReplaced(identity)
                }
                // What has a key now was not put at a certain rowid, and does not look like what had none.
                Identity::Rowid(_) if replaced.rowid != change.rowid || has_key => {
                    slots.push(&Value::Integer(replaced.rowid));
                    slots.extend(&replaced.before);
                    Kind::DeleteReplaced(identity)
                }
                // The new row may look the same.
                _ => continue,
            };
            self.add(kind, &[], slots);
            if let Some(statement) = self.done.last_mut() {
                statement.change_id = entry.change_id;
            }
        }
    }
}

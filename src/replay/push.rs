//! Push: the statements of one local transaction.

use std::sync::Arc;

use rusqlite::Connection;

use crate::capture::log::{ChangeType, LogEntry};
use crate::error::{Error, Result};
use crate::record::Value;
use crate::replay::conflict::Failure;
use crate::replay::conflicts::key_json;
use crate::replay::ddl::{Ddl, SCHEMA_TABLE, mirror};
use crate::replay::generator::{Generator, RowChange, Set};
use crate::replay::table::{Table, no_such_table};
use crate::replay::{Purpose, ReplayStatement, Transaction, is_internal};
use crate::transform::{
    DatabaseChangeType, DatabaseRowMutation, DatabaseRowTransformResult, DatabaseStatementReplay, Decisions,
};

/// Makes the statements of a push.
///
/// It follows the schema through the log, beginning at the base's, in an in-memory database without rows, so that
/// changes before a schema change name the right columns. After an error it must not be used any more.
pub struct PushGenerator {
    mirror: Connection,
    generator: Generator,
    /// What the host wants of the changes to come.
    decisions: Decisions,
}

impl PushGenerator {
    /// Starts with the schema of `base`, the state below all entries of the log. `base` is only read, and only here.
    pub fn new(base: &Connection) -> Result<Self> {
        Ok(PushGenerator {
            mirror: mirror(base)?,
            generator: Generator::new(),
            decisions: Decisions::new(),
        })
    }

    /// Adds what was decided about changes that are still to come.
    pub fn decide(&mut self, decisions: Decisions) {
        self.decisions.extend(decisions);
    }

    /// Passes over an entry that the remote has acknowledged.
    pub fn skip(&mut self, entry: &LogEntry) -> Result<()> {
        if entry.table == SCHEMA_TABLE {
            self.ddl(entry, false)?;
        }
        Ok(())
    }

    /// All statements of a transaction at once; see [`Self::each_statement`].
    pub fn transaction(
        &mut self,
        transaction: &Transaction<'_>,
        overwrite: bool,
    ) -> Result<Vec<ReplayStatement>> {
        let mut statements = Vec::new();
        self.each_statement(transaction, overwrite, &mut |statement| {
            statements.push(statement);
            Ok(())
        })?;
        Ok(statements)
    }

    /// Gives `on` the statements that carry one whole local transaction, in order. There may be none. With `overwrite`
    /// they remove what is in their way. Returns the number of the transaction's entries.
    pub fn each_statement(
        &mut self,
        transaction: &Transaction<'_>,
        overwrite: bool,
        on: &mut dyn FnMut(ReplayStatement) -> Result<()>,
    ) -> Result<u64> {
        let mut entries = 0;
        self.generator.set_overwrite(overwrite);
        for entry in transaction.entries() {
            let entry = entry?;
            entries += 1;
            let statements = if entry.table == SCHEMA_TABLE {
                self.ddl(&entry, overwrite)?
            } else if !is_internal(&entry.table) && entry.is_replayed() {
                self.row(&entry)?
            } else {
                continue;
            };
            statements.into_iter().try_for_each(&mut *on)?;
        }
        self.generator
            .finish(&self.mirror)?
            .into_iter()
            .try_for_each(on)?;
        Ok(entries)
    }

    /// The statements of a row change, as was decided.
    fn row(&mut self, entry: &LogEntry) -> Result<Vec<ReplayStatement>> {
        let Some(decision) = self.decisions.remove(&entry.change_id) else {
            return self.generator.change(&self.mirror, entry);
        };
        // Rows that were removed to make room for this one go by themselves, if it does not come.
        let mut statements = match decision {
            DatabaseRowTransformResult::Keep => return self.generator.change(&self.mirror, entry),
            _ => self.generator.finish(&self.mirror)?,
        };
        if let DatabaseRowTransformResult::Rewrite(DatabaseStatementReplay { sql, values }) = decision {
            let table = self.table_of(entry)?;
            statements.push(ReplayStatement {
                sql: sql.into(),
                args: values,
                purpose: Purpose::Change,
                change_id: entry.change_id,
                txn_id: entry.txn_id,
                table: table.name.clone(),
                key: table.key_names.clone(),
            });
        }
        Ok(statements)
    }

    fn table_of(&mut self, entry: &LogEntry) -> Result<Arc<Table>> {
        let found = self.generator.find_table(&self.mirror, &entry.table)?;
        found.ok_or_else(|| no_such_table(&entry.table))
    }

    /// What the host is shown of an entry; `None` if it carries no row to the remote.
    pub fn mutation(&mut self, entry: &LogEntry) -> Result<Option<DatabaseRowMutation>> {
        if entry.table == SCHEMA_TABLE {
            self.ddl(entry, false)?;
            return Ok(None);
        }
        if is_internal(&entry.table) || !entry.is_replayed() {
            return Ok(None);
        }
        let table = self.table_of(entry)?;
        let change = RowChange::decode(&table, entry)?;
        Ok(Some(shown(&table, entry, change)))
    }

    /// What a refused statement was about. `entry` is its change.
    pub fn failure(&mut self, entry: &LogEntry, statement: &ReplayStatement, error: Error) -> Failure {
        let table = self
            .generator
            .find_table(&self.mirror, &entry.table)
            .ok()
            .flatten();
        let change = table
            .as_ref()
            .and_then(|table| RowChange::decode(table, entry).ok());
        let key = match (&table, &change) {
            (Some(table), Some(change)) => key_json(table, change),
            _ => String::new(),
        };
        Failure::of(entry, statement.table.clone(), key, error)
    }

    fn ddl(&mut self, entry: &LogEntry, overwrite: bool) -> Result<Vec<ReplayStatement>> {
        let Some(ddl) = Ddl::decode(entry)? else {
            return Ok(Vec::new());
        };
        self.generator.invalidate();
        let statement = ReplayStatement {
            sql: ddl.sql().into(),
            args: Vec::new(),
            purpose: Purpose::Change,
            change_id: entry.change_id,
            txn_id: entry.txn_id,
            table: ddl.row().table.clone(),
            key: [].into(),
        };
        // The replica has executed it, and the mirror follows: whether the remote takes it, the remote says.
        let executed = ddl.execute(&self.mirror, true).map_err(|e| statement.failed(e))?;
        let own = |sql: &String| overwrite || **sql == *statement.sql;
        let sent = |sql: String| ReplayStatement {
            sql: sql.into(),
            ..statement.clone()
        };
        Ok(executed.into_iter().filter(own).map(sent).collect())
    }
}

fn shown(table: &Table, entry: &LogEntry, change: RowChange) -> DatabaseRowMutation {
    let updates = change.mask.iter().zip(&change.after);
    let updates = updates.map(|(set, value)| (*set == Set::New).then(|| value.clone()));
    DatabaseRowMutation {
        change_id: entry.change_id,
        txn_id: entry.txn_id,
        change_time: entry.change_time,
        change_type: match entry.change_type {
            ChangeType::Insert => DatabaseChangeType::Insert,
            ChangeType::Update => DatabaseChangeType::Update,
            ChangeType::Delete => DatabaseChangeType::Delete,
        },
        table_name: entry.table.clone(),
        id: entry.rowid,
        columns: table.column_names.clone(),
        key: table.key.as_slice().into(),
        updates: (!change.mask.is_empty()).then(|| updates.collect()),
        before: image(change.before),
        after: image(change.after),
    }
}

/// A row, if it is known and there is one.
fn image(values: Vec<Value>) -> Option<Vec<Value>> {
    (!values.is_empty()).then_some(values)
}

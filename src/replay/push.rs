//! Push: the statements of one local transaction.

use rusqlite::Connection;

use crate::capture::log::LogEntry;
use crate::error::{Error, Result};
use crate::replay::conflict::Failure;
use crate::replay::conflicts::key_json;
use crate::replay::ddl::{Ddl, SCHEMA_TABLE, mirror};
use crate::replay::generator::{Generator, RowChange};
use crate::replay::{Purpose, ReplayStatement, Transaction, is_internal};

/// Makes the statements of a push.
///
/// It follows the schema through the log, beginning at the base's, in an in-memory database without rows, so that
/// changes before a schema change name the right columns. After an error it must not be used any more.
pub struct PushGenerator {
    mirror: Connection,
    generator: Generator,
}

impl PushGenerator {
    /// Starts with the schema of `base`, the state below all entries of the log. `base` is only read, and only here.
    pub fn new(base: &Connection) -> Result<Self> {
        Ok(PushGenerator {
            mirror: mirror(base)?,
            generator: Generator::new(),
        })
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
                self.generator.change(&self.mirror, &entry)?
            } else {
                continue;
            };
            statements.into_iter().try_for_each(&mut *on)?;
        }
        self.generator.finish()?.into_iter().try_for_each(on)?;
        Ok(entries)
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

//! Push: the statements of one local transaction.

use rusqlite::Connection;

use crate::capture::log::LogEntry;
use crate::error::Result;
use crate::replay::cascade::Cascades;
use crate::replay::ddl::{Applied, Ddl, SCHEMA_TABLE, mirror};
use crate::replay::generator::Generator;
use crate::replay::{Purpose, ReplayStatement, is_internal};

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
            self.ddl(entry)?;
        }
        Ok(())
    }

    /// The statements that carry one whole local transaction, in order. May be empty.
    pub fn transaction(&mut self, entries: &[LogEntry]) -> Result<Vec<ReplayStatement>> {
        let mut statements = Vec::with_capacity(entries.len());
        let mut cascades = Cascades::default();
        for entry in entries {
            if entry.table == SCHEMA_TABLE {
                statements.extend(self.ddl(entry)?);
            } else if !is_internal(&entry.table)
                && cascades.replays(&mut self.generator, &self.mirror, entry)?
            {
                statements.extend(self.generator.change(&self.mirror, entry)?);
            }
        }
        statements.extend(self.generator.finish()?);
        Ok(statements)
    }

    fn ddl(&mut self, entry: &LogEntry) -> Result<Option<ReplayStatement>> {
        let Some(ddl) = Ddl::decode(entry)? else {
            return Ok(None);
        };
        self.generator.invalidate();
        let statement = ReplayStatement {
            sql: ddl.sql()?.into(),
            args: Vec::new(),
            purpose: Purpose::Change,
            change_id: entry.change_id,
            txn_id: entry.txn_id,
            table: ddl.row().table.clone(),
            key: [].into(),
        };
        match ddl.apply(&self.mirror).map_err(|e| statement.failed(e))? {
            Applied::Executed => Ok(Some(statement)),
            Applied::Unneeded => Ok(None),
        }
    }
}

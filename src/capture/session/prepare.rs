//! What is learnt of a statement when it is prepared, and what is refused then.

use rusqlite::ffi;

use super::{Kind, Session, Slot, refused};
use crate::capture::authorizer::{
    Ddl, DdlKind, Purpose, Vacuum, Written, changes_schema, check_new_name, vacuum,
};
use crate::capture::sqlite::{RawStatement, quoted};
use crate::error::{Error, Result};

impl Session {
    /// Prepares the first statement of `sql`; returns its slot and the offset behind it.
    pub fn prepare(&mut self, sql: &str) -> Result<Option<(usize, usize)>> {
        let Some((slot, used)) = self.compile(sql)? else {
            return Ok(None);
        };
        let free = self.slots.iter().position(Option::is_none);
        let id = free.unwrap_or(self.slots.len());
        match self.slots.get_mut(id) {
            Some(place) => *place = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        Ok(Some((id, used)))
    }

    fn compile(&mut self, sql: &str) -> Result<Option<(Slot, usize)>> {
        self.hooks.purpose.replace(Purpose::default());
        let prepared = self.db.prepare_first(sql, 0).map_err(|e| self.explained(e));
        let mut purpose = self.hooks.purpose.take();
        let (Some(statement), used) = prepared? else {
            return Ok(None);
        };
        purpose.work.read_clause(sql);
        self.check_writes(&purpose)?;
        let kind = self.kind(&statement, &purpose)?;
        if purpose.recursive_triggers {
            // Setting it takes no step.
            self.read_recursion()?;
        }
        // Of tables and views SQLite tells before it looks whether they are there (IF NOT EXISTS).
        let is_there = |ddl: &Ddl| match (ddl.kind, ddl.object) {
            (DdlKind::CreateTable, _) | (DdlKind::Create, "view") => self.is_there(&ddl.name),
            _ => false,
        };
        purpose.ddl = purpose.ddl.filter(|ddl| !is_there(ddl));
        let to_check = kind == Kind::Write && purpose.ddl.is_none() && !purpose.written.is_empty();
        // In a transaction that has not read yet, reading the schema would fix its snapshot.
        let postponed = to_check && !self.db.autocommit() && !self.db.is_reading();
        if to_check && !postponed {
            self.check_virtual(&purpose.written)?;
        }
        // SQLite ignores this PRAGMA inside transactions, but the user knows nothing of an implicit one.
        if let (Some(on), true) = (
            purpose.foreign_keys,
            self.capture.as_ref().is_some_and(|c| c.implicit),
        ) {
            self.db.configure(ffi::SQLITE_DBCONFIG_ENABLE_FKEY, on)?;
        }
        // A virtual table that is used first prepares writes of its own, also for a SELECT.
        let writes = purpose.counts_changes && !statement.is_readonly();
        let is_unknown = purpose.ddl.is_none();
        let captures = self.capture.is_some() && !statement.is_explain();
        let slot = Slot {
            statement: Some(statement),
            kind,
            counts_changes: writes && purpose.ddl.is_none(),
            ddl: purpose.ddl,
            guarded: matches!(kind, Kind::Write | Kind::Read if captures)
                && is_unknown
                && changes_schema(sql),
            work: purpose.work,
            sets_recursion: purpose.recursive_triggers,
            recursive: false,
            written: purpose.written,
            unchecked: postponed,
            schema: None,
            active: false,
            has_row: false,
            changes: 0,
        };
        Ok(Some((slot, used)))
    }

    /// True if the main schema has such a table, or a view that works, as far as this connection knows.
    fn is_there(&self, name: &str) -> bool {
        let select = || self.db.prepare(&format!("SELECT 1 FROM main.{}", quoted(name)));
        self.db.has_table("main", name) || self.hooks.as_internal(select).is_ok()
    }

    fn kind(&self, statement: &RawStatement, purpose: &Purpose) -> Result<Kind> {
        if self.capture.is_none() || statement.is_explain() {
            return Ok(Kind::Read);
        }
        match (purpose.transaction.as_deref(), purpose.savepoint.as_deref()) {
            (Some("BEGIN"), _) => return Ok(Kind::Begin),
            (Some("ROLLBACK"), _) => return Ok(Kind::Rollback),
            (Some(_), _) => return Ok(Kind::Commit),
            (_, Some("RELEASE")) => return Ok(Kind::Release),
            (_, Some("ROLLBACK")) => return Ok(Kind::RollbackTo),
            (_, Some(_)) => return Ok(Kind::Read),
            _ => {}
        }
        if purpose.attaches {
            return Ok(Kind::Attach);
        }
        if statement.is_readonly() {
            return Ok(Kind::Read);
        }
        if let Some(ddl) = purpose.ddl.as_ref().filter(|ddl| ddl.kind == DdlKind::Alter) {
            check_new_name(&statement.sql(), &ddl.name, &self.hooks.ignored).map_err(refused)?;
        }
        match vacuum(&statement.sql()) {
            None => Ok(Kind::Write),
            Some(Vacuum::Into) => Ok(Kind::Read),
            Some(Vacuum::InPlace) => Err(refused(
                "VACUUM is not allowed on a replica: it may renumber rows and bypasses change capture; vacuum the \
                 remote database, or use VACUUM INTO for a compact copy",
            )),
        }
    }

    /// Refuses writes of virtual tables that could not be captured.
    fn check_virtual(&mut self, written: &[Written]) -> Result<()> {
        let Some(capture) = self.capture.as_mut() else {
            return Ok(());
        };
        match self.hooks.as_internal(|| capture.log.refusal(written))? {
            Some(reason) => Err(refused(reason)),
            None => Ok(()),
        }
    }

    pub(super) fn check_postponed(&mut self, id: usize) -> Result<()> {
        let slot = self.slot(id)?;
        if !std::mem::take(&mut slot.unchecked) {
            return Ok(());
        }
        let written = slot.written.clone();
        self.check_virtual(&written)
    }

    /// Refuses what a statement must not do to ignored tables.
    pub(super) fn check_writes(&self, purpose: &Purpose) -> Result<()> {
        if purpose.writes.is_empty() {
            return Ok(());
        }
        let check = || purpose.writes.check(self.db, &self.hooks.ignored);
        self.hooks.as_internal(|| self.db.reading_between(check))
    }

    /// An error of SQLite with the authorizer's reason, if it was the authorizer.
    pub(super) fn explained(&self, error: Error) -> Error {
        match self.hooks.refusal.take() {
            Some(reason) if is_denial(&error) => Error {
                sqlite_code: error.sqlite_code,
                ..refused(reason)
            },
            _ => error,
        }
    }

    /// True if it writes a view whose triggers may write the main schema.
    pub(super) fn writes_view(&mut self, id: usize) -> Result<bool> {
        let db = self.db;
        let slot = self.slot(id)?;
        let is_ddl = slot.ddl.is_some() || slot.guarded;
        let Some(step) = slot.work.step.as_ref().filter(|_| !is_ddl) else {
            return Ok(false);
        };
        if db.has_table(step.schema.as_deref().unwrap_or("main"), &step.table) {
            return Ok(false);
        }
        if !step.in_main() {
            // The view may have got its TEMP triggers since.
            self.prepare_again(id)?;
        }
        Ok(self.slot(id)?.written.iter().any(|w| w.in_main))
    }

    /// Prepares a write of a view anew, under the write lock. If SQLite does it while it steps the statement, it does
    /// not tell about triggers until one of them opens a table to write (3.53), and those of a view would be missed.
    pub(super) fn prepare_again(&mut self, id: usize) -> Result<()> {
        let sql = self.statement(id)?.sql();
        self.hooks.purpose.replace(Purpose::default());
        let prepared = self.db.prepare_first(&sql, 0).map_err(|e| self.explained(e));
        let mut purpose = self.hooks.purpose.take();
        let (Some(mut fresh), _) = prepared? else {
            return Err(Error::internal("a statement has lost its text"));
        };
        purpose.work.read_clause(&sql);
        self.check_writes(&purpose)?;
        fresh.take_bindings(self.statement(id)?)?;
        let slot = self.slot(id)?;
        slot.statement = Some(fresh);
        slot.work = purpose.work;
        slot.written = purpose.written;
        Ok(())
    }

    /// Prepares a guarded statement anew, which has something to do now.
    pub(super) fn compile_again(&mut self, id: usize) -> Result<()> {
        let sql = self.statement(id)?.sql();
        let Some((mut fresh, _)) = self.compile(&sql)? else {
            return Err(Error::internal("a statement has lost its text"));
        };
        if let Some(statement) = &mut fresh.statement {
            statement.take_bindings(self.statement(id)?)?;
        }
        *self.slot(id)? = fresh;
        Ok(())
    }
}

/// True if the authorizer has refused something. Of a function SQLite has no code of its own for that.
fn is_denial(error: &Error) -> bool {
    error.sqlite_code.is_some_and(|c| c & 0xff == ffi::SQLITE_AUTH)
        || error.message.starts_with("not authorized to use function")
}

//! Pull: carries the pending changes over to a new base. The schema here, the rows in [`row`].

mod row;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use rusqlite::Connection;

use crate::capture::log::{ChangeType, LogEntry, read_entries, write_entry};
use crate::error::{Category, Code, Error, Result};
use crate::replay::conflict::{ConflictKind, Failure};
use crate::replay::conflicts::{self, Kept, key_json, row_json};
use crate::replay::ddl::{Ddl, SCHEMA_TABLE, SchemaRow, mirror_of};
use crate::replay::generator::{Generator, RowChange};
use crate::replay::moved::Moved;
use crate::replay::net::net_effect;
use crate::replay::table::{no_such_table, quote};
use crate::replay::touched::Touched;
use crate::replay::{Progress, Transaction, Transactions, conflict, is_internal};

/// What a rebase did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebaseReport {
    /// Entries that the new log holds.
    pub replayed_changes: u64,
    /// Transactions of which it holds an entry.
    pub replayed_transactions: u64,
    /// The last change id of the old log; `acknowledged` if nothing was pending.
    pub last_change_id: i64,
}

impl RebaseReport {
    pub(super) fn new(acknowledged: i64) -> Self {
        RebaseReport {
            replayed_changes: 0,
            replayed_transactions: 0,
            last_change_id: acknowledged,
        }
    }

    pub(super) fn add(&mut self, transaction: &Transaction<'_>, replayed: u64) {
        self.replayed_changes += replayed;
        self.replayed_transactions += u64::from(replayed > 0);
        self.last_change_id = transaction.last_change_id();
    }
}

/// Executes the changes of `current`'s log that are not acknowledged on `scratch`, in order, and writes them
/// into `scratch`'s log.
///
/// `current` is the replica as it is now, and only read. `scratch` is the new base with empty local tables, in a
/// transaction, with foreign keys off; after an error the caller rolls it back.
///
/// The new log holds the changes as they were executed: re-assigned rowids, records in the layout that tables have
/// on the new base, and nothing of what triggers or the base have done already. Change ids stay.
///
/// A constraint failure, and a change whose table or column is gone, is an error of category `Conflict`.
pub fn rebase(current: &Connection, scratch: &Connection, progress: Progress) -> Result<RebaseReport> {
    replay_log(
        Rebase::new(current, scratch, progress.acknowledged)?,
        current,
        progress,
    )
}

/// Like [`rebase`], over the base that the changes were made on: what tables they know is taken from there, not from what
/// another program has made of them in `current`.
pub fn rebase_unmoved(
    current: &Connection,
    scratch: &Connection,
    progress: Progress,
) -> Result<RebaseReport> {
    replay_log(Rebase::new(scratch, scratch, i64::MAX)?, current, progress)
}

/// Like [`rebase_unmoved`], up to the first transaction that fails with an error that is `about_content`: it builds on what
/// another program has written. Returns the last change before it.
pub fn rebase_fitting(
    current: &Connection,
    scratch: &Connection,
    progress: Progress,
    about_content: impl Fn(&Error) -> bool,
) -> Result<i64> {
    let overwriting = conflicts::overwriting(current)?;
    let mut rebase = Rebase::new(scratch, scratch, i64::MAX)?;
    let mut last = progress.acknowledged;
    let mut transactions = Transactions::new(current, progress.acknowledged);
    while let Some(transaction) = transactions.next_transaction()? {
        rebase.begin()?;
        match rebase.transaction(&transaction, overwriting.contains(&transaction.txn_id())) {
            Ok(_) => rebase.keep()?,
            Err(failure) if about_content(&failure.error) => {
                rebase.undo()?;
                break;
            }
            Err(failure) => return Err(failure.error),
        }
        last = transaction.last_change_id();
    }
    Ok(last)
}

fn replay_log(mut rebase: Rebase<'_>, current: &Connection, progress: Progress) -> Result<RebaseReport> {
    let overwriting = conflicts::overwriting(current)?;
    let mut report = RebaseReport::new(progress.acknowledged);
    let mut transactions = Transactions::new(current, progress.acknowledged);
    while let Some(transaction) = transactions.next_transaction()? {
        let overwrite = overwriting.contains(&transaction.txn_id());
        let replayed = rebase.transaction(&transaction, overwrite).map_err(|f| f.error)?;
        report.add(&transaction, replayed);
    }
    Ok(report)
}

/// Like [`rebase`], with the net effect of the pending changes, which become one transaction. Where one change after
/// the other is in conflict this may succeed, because what the user has repaired since is gone. Transactions that overwrite,
/// and those before them, stay as they are.
pub fn rebase_net(current: &Connection, scratch: &Connection, progress: Progress) -> Result<RebaseReport> {
    let overwriting = conflicts::overwriting(current)?;
    let kept = conflicts::last_overwriting(current, progress.acknowledged)?;
    let progress = Progress {
        sent: progress.sent.max(kept),
        ..progress
    };
    let mut rebase = Rebase::new(current, scratch, progress.acknowledged)?;
    let local = local_schema(current, progress.acknowledged)?;
    let mut transactions = net_effect(current, scratch, local, progress)?;
    let mut report = RebaseReport::new(progress.acknowledged);
    while let Some(transaction) = transactions.next_transaction()? {
        let overwrite = overwriting.contains(&transaction.txn_id());
        let replayed = rebase.transaction(&transaction, overwrite).map_err(|f| f.error)?;
        report.add(&transaction, replayed);
    }
    Ok(report)
}

/// The tables of `current` as they were before the pending changes: the present ones, with the pending schema
/// changes undone.
fn local_schema(current: &Connection, acknowledged: i64) -> Result<Connection> {
    // The storage of virtual tables comes and goes, and is renamed, with them.
    let mut statement = current.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT IN
           (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow')",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(SchemaRow {
            kind: row.get(0)?,
            name: row.get(1)?,
            table: row.get(2)?,
            sql: row.get(3)?,
        })
    })?;
    let mut tables: HashMap<String, SchemaRow> = HashMap::new();
    for row in rows {
        let row = row?;
        if !is_internal(&row.name) {
            tables.insert(row.name.clone(), row);
        }
    }
    let mut statement = current.prepare(
        "SELECT change_id FROM turso_cdc WHERE change_id > ?1 AND table_name = ?2 ORDER BY change_id DESC",
    )?;
    let mut ids = statement.query((acknowledged, SCHEMA_TABLE))?;
    while let Some(id) = ids.next()? {
        for entry in read_entries(current, id.get::<_, i64>(0)? - 1, 1)? {
            match Ddl::decode(&entry)? {
                Some(Ddl::Create(row)) if row.kind == "table" => {
                    tables.remove(&row.name);
                }
                Some(Ddl::Drop(row)) if row.kind == "table" => {
                    tables.insert(row.name.clone(), row);
                }
                Some(Ddl::Alter { before, after, .. }) => {
                    tables.remove(&after.name);
                    tables.insert(before.name.clone(), before);
                }
                _ => {}
            }
        }
    }
    let is_virtual = |row: &&SchemaRow| row.sql.starts_with("CREATE VIRTUAL");
    let (virtual_tables, rest): (Vec<_>, Vec<_>) = tables.values().partition(is_virtual);
    mirror_of(rest.into_iter().chain(virtual_tables))
}

/// What triggers of the changes that are acknowledged have added in the replica, by table.
fn fired_before(current: &Connection, acknowledged: i64) -> Result<HashMap<String, Moved>> {
    let mut statement = current.prepare(
        "SELECT table_name, id FROM turso_cdc WHERE change_id <= ?1 AND change_type = 1 AND depth > 0",
    )?;
    let mut rows = statement.query([acknowledged])?;
    let mut moved: HashMap<String, Moved> = HashMap::new();
    while let Some(row) = rows.next()? {
        let table = moved.entry(row.get(0)?).or_default();
        table.add_fired_before(row.get::<_, Option<i64>>(1)?.unwrap_or(0));
    }
    Ok(moved)
}

pub(super) struct Rebase<'a> {
    scratch: &'a Connection,
    /// The replica's tables as of the change, without rows.
    local: Connection,
    local_tables: Generator,
    generator: Generator,
    moved: HashMap<String, Moved>,
    /// `moved` at the begin of an attempt.
    moved_before: Option<HashMap<String, Moved>>,
    /// Names of virtual tables that the attempt has made.
    made_virtual: Vec<String>,
    /// An insert is in conflict with a row that has its key, unless the transaction has had to do with it: table in lower
    /// case and key are here then. `None`: it takes the place of that row.
    seen: Option<HashSet<(String, Vec<u8>)>>,
}

impl<'a> Rebase<'a> {
    pub(super) fn new(current: &Connection, scratch: &'a Connection, acknowledged: i64) -> Result<Self> {
        if scratch.query_row("PRAGMA foreign_keys", [], |row| row.get::<_, bool>(0))? {
            return Err(Error::misuse("replay needs foreign keys off"));
        }
        scratch.set_prepared_statement_cache_capacity(256);
        Ok(Rebase {
            scratch,
            local: local_schema(current, acknowledged)?,
            local_tables: Generator::new(),
            generator: Generator::new(),
            moved: fired_before(current, acknowledged)?,
            moved_before: None,
            made_virtual: Vec::new(),
            seen: None,
        })
    }

    /// Begins an attempt that ends with [`Self::keep`] or [`Self::undo`].
    pub(super) fn begin(&mut self) -> Result<()> {
        self.scratch.execute_batch("SAVEPOINT attempt")?;
        self.local.execute_batch("SAVEPOINT attempt")?;
        self.moved_before = Some(self.moved.clone());
        self.made_virtual.clear();
        Ok(())
    }

    /// The attempt has succeeded.
    pub(super) fn keep(&mut self) -> Result<()> {
        self.scratch.execute_batch("RELEASE attempt")?;
        self.local.execute_batch("RELEASE attempt")?;
        self.moved_before = None;
        Ok(())
    }

    /// The attempt has failed: everything is as before it.
    pub(super) fn undo(&mut self) -> Result<()> {
        // SQLite asks a virtual table to take part in later savepoints although its creation was rolled back, which FTS5
        // cannot (SQL logic error). One that was dropped is not asked.
        for name in self.made_virtual.drain(..) {
            let drop = format!("DROP TABLE IF EXISTS main.{}", quote(&name));
            // Perhaps the creation failed, and the name is that of a view.
            let _ = self.scratch.execute_batch(&drop);
            let _ = self.local.execute_batch(&drop);
        }
        let back = "ROLLBACK TO attempt; RELEASE attempt";
        self.scratch.execute_batch(back)?;
        self.local.execute_batch(back)?;
        if let Some(moved) = self.moved_before.take() {
            self.moved = moved;
        }
        self.local_tables.invalidate();
        self.generator.invalidate();
        let _ = self.generator.finish(self.scratch);
        Ok(())
    }

    /// From now on the tables are those that `changes` were made on, each given by its CREATE statement. What they
    /// create or rename themselves comes when they are executed.
    pub(super) fn set_local_tables(&mut self, changes: &[(LogEntry, Option<String>)]) -> Result<()> {
        self.local = Connection::open_in_memory()?;
        self.local.execute_batch("PRAGMA foreign_keys = OFF")?;
        self.local_tables.invalidate();
        let mut known = HashSet::new();
        for (entry, sql) in changes {
            let (name, made) = match Ddl::decode(entry) {
                Ok(Some(Ddl::Create(row))) if entry.table == SCHEMA_TABLE => (row.name, None),
                Ok(Some(Ddl::Drop(row))) if entry.table == SCHEMA_TABLE => (row.name, None),
                Ok(Some(Ddl::Alter { before, after, .. })) if entry.table == SCHEMA_TABLE => {
                    (before.name, Some(after.name))
                }
                _ => (entry.table.clone(), None),
            };
            if known.insert(name.to_lowercase())
                && let Some(sql) = sql
            {
                // One that needs something of the application only is left out.
                let _ = self.local.execute_batch(sql);
            }
            known.extend(made.map(|name| name.to_lowercase()));
        }
        Ok(())
    }

    /// From now on an insert is in conflict with a row that has its key, and that came from elsewhere.
    pub(super) fn respect_keys(&mut self) {
        self.seen = Some(HashSet::new());
    }

    /// Replays a transaction; returns the number of entries written.
    pub(super) fn transaction(
        &mut self,
        transaction: &Transaction<'_>,
        overwrite: bool,
    ) -> std::result::Result<u64, Box<Failure>> {
        let mut written = 0;
        self.generator.set_overwrite(overwrite);
        let mut last = transaction.first().clone();
        for entry in transaction.entries() {
            let entry = entry.map_err(|e| Box::new(self.failure(&last, e)))?;
            let replayed = self.entry(&entry, overwrite);
            let replayed = replayed.map_err(|e| Box::new(self.failure(&entry, e)))?;
            if let Some(entry) = replayed {
                write_entry(self.scratch, &entry).map_err(|e| Box::new(self.failure(&entry, e)))?;
                written += 1;
            }
            last = entry;
        }
        let left = self.generator.finish(self.scratch);
        if let Err(e) = left.and_then(|left| self.run(&left)) {
            return Err(Box::new(self.failure(&last, e)));
        }
        Ok(written)
    }

    fn entry(&mut self, entry: &LogEntry, overwrite: bool) -> Result<Option<LogEntry>> {
        if entry.table == SCHEMA_TABLE {
            return self.ddl(entry, overwrite);
        }
        if is_internal(&entry.table) || !entry.is_replayed() {
            return Ok(None);
        }
        self.row(entry)
    }

    /// The failure of `entry`, with what the replica's schema says about its row.
    fn failure(&mut self, entry: &LogEntry, error: Error) -> Failure {
        let (table, key) = match Ddl::decode(entry) {
            Ok(Some(ddl)) if entry.table == SCHEMA_TABLE => (ddl.row().table.clone(), String::new()),
            _ => (entry.table.clone(), self.key_of(entry).unwrap_or_default()),
        };
        Failure::of(entry, table, key, error)
    }

    fn key_of(&mut self, entry: &LogEntry) -> Option<String> {
        let table = self.local_tables.find_table(&self.local, &entry.table).ok()??;
        let change = RowChange::decode(&table, entry).ok()?;
        Some(key_json(&table, &change))
    }

    /// Follows the schema through a transaction that is not replayed. Returns the changes that would have been, and
    /// notes what they touch.
    pub(super) fn pass_over(
        &mut self,
        transaction: &Transaction<'_>,
        touched: &mut Touched,
    ) -> Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for entry in transaction.entries() {
            let entry = entry?;
            if entry.table == SCHEMA_TABLE {
                kept.extend(self.pass_over_ddl(&entry, touched)?);
            } else if !is_internal(&entry.table) && entry.is_replayed() {
                let table = self.local_tables.find_table(&self.local, &entry.table)?;
                let table = table.ok_or_else(|| no_such_table(&entry.table))?;
                let change = RowChange::decode(&table, &entry)?;
                touched.add_row(&table, &change);
                kept.push(Kept {
                    entry: LogEntry {
                        depth: 0,
                        ..LogEntry::clone(&entry)
                    },
                    table_sql: SchemaRow::find(&self.local, &entry.table)?.map(|row| row.sql),
                    old: row_json(&table, &change.before),
                    new: row_json(&table, &change.after),
                    key: key_json(&table, &change),
                });
            } else if !is_internal(&entry.table) && entry.change_type == ChangeType::Insert {
                // A row that a trigger has added goes with the transaction, although it is not a change of its own.
                if let Some(table) = self.local_tables.find_table(&self.local, &entry.table)? {
                    touched.add_row(&table, &RowChange::decode(&table, &entry)?);
                }
            }
        }
        Ok(kept)
    }

    fn pass_over_ddl(&mut self, entry: &LogEntry, touched: &mut Touched) -> Result<Option<Kept>> {
        let Some(ddl) = Ddl::decode(entry)? else {
            return Ok(None);
        };
        let row = ddl.row();
        let (old, new) = match &ddl {
            Ddl::Create(row) => (None, Some(row.sql.clone())),
            Ddl::Drop(row) => (Some(row.sql.clone()), None),
            Ddl::Alter {
                before, statement, ..
            } => (Some(before.sql.clone()), Some(statement.clone())),
        };
        if row.kind == "table" {
            touched.add_table(&row.name);
            if let Ddl::Alter { after, .. } = &ddl {
                touched.add_table(&after.name);
            }
        }
        self.follow(entry, &ddl)?;
        Ok(Some(Kept {
            entry: entry.clone(),
            table_sql: old.clone().filter(|_| row.kind == "table"),
            old,
            new,
            key: String::new(),
        }))
    }

    /// Why `transaction` builds on what was taken out, if it does.
    pub(super) fn dependency(
        &mut self,
        transaction: &Transaction<'_>,
        touched: &Touched,
    ) -> Result<Option<Failure>> {
        self.begin()?;
        let found = self.find_dependency(transaction, touched);
        self.undo()?;
        let Some(entry) = found? else { return Ok(None) };
        let text = format!(
            "transaction {}, change {}, table {}: it builds on a transaction that was taken out",
            entry.txn_id, entry.change_id, entry.table
        );
        let error = Error::new(Category::Conflict, Code::Constraint, text);
        Ok(Some(Failure {
            kind: ConflictKind::Dependency,
            ..self.failure(&entry, error)
        }))
    }

    fn find_dependency(
        &mut self,
        transaction: &Transaction<'_>,
        touched: &Touched,
    ) -> Result<Option<Rc<LogEntry>>> {
        for entry in transaction.entries() {
            let entry = entry?;
            if entry.table == SCHEMA_TABLE {
                let Some(ddl) = Ddl::decode(&entry)? else { continue };
                if touched.has_table(&ddl.row().name) || touched.has_table(&ddl.row().table) {
                    return Ok(Some(entry));
                }
                self.follow(&entry, &ddl)?;
            } else if !is_internal(&entry.table) && entry.is_replayed() {
                let table = self.local_tables.find_table(&self.local, &entry.table)?;
                let table = table.ok_or_else(|| no_such_table(&entry.table))?;
                if touched.has_table(&table.name)
                    || touched.has_row(&table, &RowChange::decode(&table, &entry)?)?
                {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    /// Executes a schema change on the replica's schema.
    fn follow(&mut self, entry: &LogEntry, ddl: &Ddl) -> Result<()> {
        self.local_tables.invalidate();
        if ddl.row().sql.starts_with("CREATE VIRTUAL") {
            self.made_virtual.push(ddl.row().name.clone());
            if let Ddl::Alter { after, .. } = ddl {
                self.made_virtual.push(after.name.clone());
            }
        }
        if ddl.row().kind == "table" {
            // What was executed in the replica once is no conflict here.
            let failed = |e: Error| {
                let e = Error {
                    code: Code::Error,
                    ..e
                };
                ddl_failed(entry, ddl, e.categorized(Category::Internal))
            };
            ddl.apply(&self.local).map_err(failed)?;
        }
        Ok(())
    }

    fn ddl(&mut self, entry: &LogEntry, overwrite: bool) -> Result<Option<LogEntry>> {
        let Some(ddl) = Ddl::decode(entry)? else {
            return Ok(None);
        };
        self.generator.invalidate();
        self.follow(entry, &ddl)?;
        let row = ddl.row();
        if row.kind == "table" {
            let moved = self.moved.remove(&row.name);
            if let (Ddl::Alter { after, .. }, Some(moved)) = (&ddl, moved) {
                self.moved.insert(after.name.clone(), moved);
            }
        }
        let there = SchemaRow::find(self.scratch, &row.name)?;
        match (&ddl, &there) {
            (Ddl::Create(row), Some(there)) if row.is_same_as(there) => return Ok(None),
            (Ddl::Create(_), Some(there)) if !(overwrite && there.can_be_replaced()) => {
                let what = format!("the remote has another {} named {}", there.kind, row.name);
                return Err(conflict(entry, what));
            }
            // Somebody else has done it. Were it in the new log, the next pull would take it for ours.
            (Ddl::Drop(_), None) => return Ok(None),
            _ => {}
        }
        if ddl
            .execute(self.scratch, overwrite)
            .map_err(|e| ddl_failed(entry, &ddl, e))?
            .is_empty()
        {
            return Ok(None);
        }
        // The next pull undoes the entry on the schema that is here.
        let mut entry = entry.clone();
        match &ddl {
            Ddl::Create(_) => {}
            Ddl::Drop(_) => entry.before = there.map(|row| row.encode()),
            Ddl::Alter { after, .. } => {
                entry.before = there.map(|row| row.encode());
                entry.after = SchemaRow::find(self.scratch, &after.name)?.map(|row| row.encode());
            }
        }
        Ok(Some(entry))
    }
}

/// A schema change that could not be executed.
fn ddl_failed(entry: &LogEntry, ddl: &Ddl, e: Error) -> Error {
    e.context(format!(
        "transaction {}, change {}, table {}",
        entry.txn_id,
        entry.change_id,
        ddl.row().table
    ))
}

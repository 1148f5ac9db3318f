//! Pull: carries the pending changes over to a new base.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::capture::log::{ChangeType, LogEntry, read_entries, write_entry};
use crate::error::{Category, Code, Error, Result};
use crate::record::{Value, encode};
use crate::replay::conflict::{ConflictKind, Failure};
use crate::replay::conflicts::{self, Kept, key_json, row_json};
use crate::replay::ddl::{Ddl, SCHEMA_TABLE, SchemaRow, mirror_of};
use crate::replay::generator::{Generator, RowChange, Set, count_rows};
use crate::replay::moved::{Moved, free_rowid, inserted_by};
use crate::replay::net::net_effect;
use crate::replay::table::{Identity, Table, no_such_table, quote};
use crate::replay::touched::Touched;
use crate::replay::values::{Bound, from_column};
use crate::replay::{
    Progress, Purpose, ReplayStatement, Transaction, Transactions, conflict, is_internal, virtual_table,
};

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
/// the other is in conflict this may succeed, because what the user has repaired since is gone.
pub fn rebase_net(current: &Connection, scratch: &Connection, progress: Progress) -> Result<RebaseReport> {
    if !conflicts::overwriting(current)?.is_empty() {
        let text = "pending transactions that overwrite have no net effect";
        return Err(Error::new(Category::Conflict, Code::Constraint, text));
    }
    let mut rebase = Rebase::new(current, scratch, progress.acknowledged)?;
    let local = local_schema(current, progress.acknowledged)?;
    let mut transactions = net_effect(current, scratch, local, progress)?;
    let mut report = RebaseReport::new(progress.acknowledged);
    while let Some(transaction) = transactions.next_transaction()? {
        let replayed = rebase.transaction(&transaction, false).map_err(|f| f.error)?;
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

    /// Executes a row change; returns the entry for the new log.
    fn row(&mut self, entry: &LogEntry) -> Result<Option<LogEntry>> {
        let local = self.local_tables.find_table(&self.local, &entry.table)?;
        let local = local.ok_or_else(|| no_such_table(&entry.table))?;
        let table = self.generator.find_table(self.scratch, &entry.table)?;
        let table = table.ok_or_else(|| conflict(entry, "the table no longer exists on the remote"))?;
        if virtual_table::replay(self.scratch, &local, &table, entry)? {
            return Ok(Some(entry.clone()));
        }
        let original = RowChange::decode(&local, entry)?;
        let mut change = original.clone();
        if !local.same_layout(&table) {
            change = self.translate(entry, &local, &table, change)?;
        }
        let identity = table.identity(change.target());
        if identity != Identity::Key && !self.place(entry, &table, identity, &mut change)? {
            return Ok(None);
        }
        self.execute(entry, &table, &mut change)?;
        if change == original {
            return Ok(Some(entry.clone()));
        }
        Ok(Some(encoded(entry, &change)))
    }

    fn run(&self, statements: &[ReplayStatement]) -> Result<()> {
        for statement in statements {
            // What guards look for has been seen to.
            if statement.purpose != Purpose::Guard {
                let run = || -> rusqlite::Result<()> {
                    let args = params_from_iter(statement.args.iter().map(Bound));
                    let mut prepared = self.scratch.prepare_cached(&statement.sql)?;
                    prepared.query(args)?.next().map(drop)
                };
                run().map_err(|e| statement.failed(e.into()))?;
            }
        }
        Ok(())
    }

    fn execute(&mut self, entry: &LogEntry, table: &Arc<Table>, change: &mut RowChange) -> Result<()> {
        let loses_key = change.change_type == ChangeType::Update
            && table.identity(&change.before) == Identity::Key
            && table.identity(&change.after) != Identity::Key;
        let known = if loses_key {
            self.rowid_of(table, &change.before)?
        } else {
            None
        };
        let statements = self.generator.row_change(self.scratch, table, entry, change)?;
        if table.has_triggers {
            let inserted = inserted_by(self.scratch, || self.run(&statements))?;
            self.note_fired(table, change, inserted)?;
        } else {
            self.run(&statements)?;
        }
        if loses_key {
            // From here on its rowid tells the row from others.
            change.rowid = known.unwrap_or_else(|| self.scratch.last_insert_rowid());
            let moved = self.moved.entry(table.name.clone()).or_default();
            moved.set(entry.rowid, change.rowid);
        }
        Ok(())
    }

    /// Of the rows that were `inserted` while `change` was executed, those of triggers may be without a key.
    fn note_fired(&mut self, table: &Table, change: &RowChange, inserted: Vec<(String, i64)>) -> Result<()> {
        for (name, rowid) in inserted {
            let own = name == table.name && rowid == change.rowid;
            let known = self.generator.find_table(self.scratch, &name)?;
            if !own && known.is_some_and(|table| !table.integer_key) {
                self.moved.entry(name).or_default().add_fired(rowid);
            }
        }
        Ok(())
    }

    /// Decides where a change of a row without a key goes; false if there is nothing to do.
    fn place(
        &mut self,
        entry: &LogEntry,
        table: &Arc<Table>,
        identity: Identity,
        change: &mut RowChange,
    ) -> Result<bool> {
        let moved = self.moved.entry(table.name.clone()).or_default();
        if change.change_type != ChangeType::Insert {
            let mut found = match moved.find(entry.rowid) {
                Some(rowid) => {
                    change.rowid = rowid;
                    if let (Identity::Rowid(alias), true) = (identity, moved.made.contains(&entry.rowid)) {
                        change.before = row_at(self.scratch, table, alias, rowid)?.unwrap_or_default();
                    }
                    match change.before.as_slice() {
                        [] => 0,
                        before => count_rows(self.scratch, table, identity, rowid, before)?,
                    }
                }
                None => 0,
            };
            if let (0, Identity::Rowid(alias)) = (found, identity)
                && !change.before.is_empty()
                && let Some(rowid) =
                    moved.find_fired(self.scratch, table, alias, (entry.rowid, &change.before))?
            {
                (found, change.rowid) = (1, rowid);
            }
            match (found, change.change_type) {
                // The row that replaces it may need to know where it is.
                (1, ChangeType::Delete) if change.replaced.is_some() && table.delete_triggers => {}
                (1, ChangeType::Delete) => moved.forget(entry.rowid),
                (1, _) => {}
                (0, ChangeType::Delete) => {
                    moved.forget(entry.rowid);
                    return Ok(false);
                }
                // Nothing changed, so there is nothing to bring back.
                (0, _) if !change.changes_values() => return Ok(false),
                (0, _) => {
                    change.change_type = ChangeType::Insert;
                    change.before.clear();
                    change.mask.clear();
                }
                _ => return Err(conflict(entry, "several equal rows, and no key tells them apart")),
            }
        }
        if let (ChangeType::Insert, Identity::Rowid(alias)) =
            (change.change_type, table.identity(&change.after))
        {
            change.rowid = match self.generator.replaced_rowid(table, entry.rowid) {
                Some(rowid) => rowid,
                None => free_rowid(self.scratch, table, alias, entry.rowid)?,
            };
            moved.set(entry.rowid, change.rowid);
            moved.made.insert(entry.rowid);
        }
        Ok(true)
    }

    /// Puts the values of `change` into the layout that the table has on the scratch, because somebody else has
    /// changed its columns. Columns that the replica does not know keep their value, or get their default.
    fn translate(
        &mut self,
        entry: &LogEntry,
        local: &Table,
        table: &Arc<Table>,
        change: RowChange,
    ) -> Result<RowChange> {
        for (i, column) in local.columns.iter().enumerate() {
            let set = match change.change_type {
                ChangeType::Insert => change.after.get(i).is_some_and(|v| *v != Value::Null),
                ChangeType::Update => change.mask.get(i) == Some(&Set::New),
                ChangeType::Delete => false,
            };
            if set && table.position(&column.name).is_none() {
                let what = format!("column {} no longer exists on the remote", column.name);
                return Err(conflict(entry, what));
            }
        }
        let from: Vec<Option<usize>> = table.columns.iter().map(|c| local.position(&c.name)).collect();
        let fill = self.unknown_values(entry, table, &from, change.target())?;
        let row = |values: &[Value]| -> Vec<Value> {
            if values.is_empty() {
                return Vec::new();
            }
            let value = |(from, fill): (&Option<usize>, &Value)| {
                from.and_then(|i| values.get(i)).unwrap_or(fill).clone()
            };
            from.iter().zip(&fill).map(value).collect()
        };
        let mask = match change.mask.as_slice() {
            [] => Vec::new(),
            mask => from
                .iter()
                .map(|from| from.and_then(|i| mask.get(i)).copied().unwrap_or(Set::Kept))
                .collect(),
        };
        Ok(RowChange {
            before: row(&change.before),
            after: row(&change.after),
            mask,
            ..change
        })
    }

    /// For each column: the value that the row has on the scratch, otherwise the default.
    fn unknown_values(
        &mut self,
        entry: &LogEntry,
        table: &Arc<Table>,
        from: &[Option<usize>],
        local_image: &[Value],
    ) -> Result<Vec<Value>> {
        let known: Vec<Value> = from
            .iter()
            .map(|from| {
                from.and_then(|i| local_image.get(i))
                    .cloned()
                    .unwrap_or(Value::Null)
            })
            .collect();
        let (found, args) = match (table.identity(&known), table.rowid) {
            (Identity::Key, _) => (key_condition(table), table.key_values(&known).cloned().collect()),
            (_, Some(alias)) if entry.change_type != ChangeType::Insert => {
                let rowid = self
                    .moved
                    .entry(table.name.clone())
                    .or_default()
                    .find(entry.rowid);
                (
                    format!("{alias} = ?"),
                    vec![rowid.map_or(Value::Null, Value::Integer)],
                )
            }
            _ => ("FALSE".to_owned(), Vec::new()),
        };
        let names: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
        let count = names.len();
        let read = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Vec<Value>> {
            (0..count).map(|i| Ok(from_column(row.get_ref(i)?))).collect()
        };
        let sql = format!(
            "SELECT {} FROM {} WHERE {found}",
            names.join(", "),
            quote(&table.name)
        );
        let mut statement = self.scratch.prepare_cached(&sql)?;
        if let Some(row) = statement
            .query_row(params_from_iter(args.iter().map(Bound)), read)
            .optional()?
        {
            return Ok(row);
        }
        let defaults: Vec<&str> = table
            .columns
            .iter()
            .map(|c| c.default.as_deref().unwrap_or("NULL"))
            .collect();
        Ok(self
            .scratch
            .prepare_cached(&format!("SELECT ({})", defaults.join("), (")))?
            .query_row([], read)?)
    }

    /// Rowid on the scratch of the row with the key in `values`.
    fn rowid_of(&self, table: &Table, values: &[Value]) -> Result<Option<i64>> {
        let Some(alias) = table.rowid else {
            return Ok(None);
        };
        let sql = format!(
            "SELECT {alias} FROM {} WHERE {}",
            quote(&table.name),
            key_condition(table)
        );
        let args = params_from_iter(table.key_values(values).map(Bound));
        Ok(self
            .scratch
            .prepare_cached(&sql)?
            .query_row(args, |row| row.get(0))
            .optional()?)
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

/// The row at `rowid`.
fn row_at(conn: &Connection, table: &Table, alias: &str, rowid: i64) -> Result<Option<Vec<Value>>> {
    let names: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {alias} = ?",
        names.join(", "),
        quote(&table.name)
    );
    let read = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Vec<Value>> {
        (0..names.len())
            .map(|i| Ok(from_column(row.get_ref(i)?)))
            .collect()
    };
    Ok(conn.prepare_cached(&sql)?.query_row([rowid], read).optional()?)
}

fn key_condition(table: &Table) -> String {
    let terms: Vec<String> = table
        .key_names
        .iter()
        .map(|name| format!("{} IS ?", quote(name)))
        .collect();
    terms.join(" AND ")
}

/// `entry` with the content of `change`, as a change that nothing else redoes.
pub(super) fn encoded(entry: &LogEntry, change: &RowChange) -> LogEntry {
    let row = |values: &Vec<Value>| (!values.is_empty()).then(|| encode(values));
    let clause = change.clause.number().map(Value::Integer);
    let updates = (change.change_type == ChangeType::Update).then(|| {
        let flags = change.mask.iter().map(|set| match set {
            Set::Kept => Value::Integer(0),
            Set::New => Value::Integer(1),
            Set::Same => Value::Integer(2),
        });
        let value = |(v, set): (&Value, &Set)| match set {
            Set::New => v.clone(),
            _ => Value::Null,
        };
        let values = change.after.iter().zip(&change.mask).map(value);
        encode(&flags.chain(values).chain(clause.clone()).collect::<Vec<_>>())
    });
    let more = || match change.replaced {
        Some(by) => Some(encode(&[Value::Integer(by.number())])),
        None => clause.clone().map(|clause| encode(&[clause])),
    };
    LogEntry {
        change_type: change.change_type,
        rowid: change.rowid,
        before: row(&change.before),
        after: row(&change.after),
        updates: updates.or_else(more),
        ..entry.clone()
    }
}

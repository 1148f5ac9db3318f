//! Rows on their way to the new base: where each goes, and what it looks like there.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::Rebase;
use crate::capture::log::{ChangeType, LogEntry};
use crate::error::Result;
use crate::record::{Value, encode};
use crate::replay::generator::{RowChange, Set, count_rows};
use crate::replay::moved::{free_rowid, inserted_by};
use crate::replay::table::{Identity, Table, no_such_table, quote};
use crate::replay::text::all_of;
use crate::replay::values::{Bound, from_column};
use crate::replay::{Purpose, ReplayStatement, conflict, virtual_table};

impl Rebase<'_> {
    /// Executes a row change; returns the entry for the new log.
    pub(super) fn row(&mut self, entry: &LogEntry) -> Result<Option<LogEntry>> {
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
        let had_key = local.identity(original.target()) == Identity::Key;
        self.check_key(entry, &table, &change, had_key)?;
        if identity != Identity::Key && !self.place(entry, &table, identity, &mut change)? {
            return Ok(None);
        }
        self.execute(entry, &table, &mut change)?;
        if change == original {
            return Ok(Some(entry.clone()));
        }
        Ok(Some(change.encode(entry)))
    }

    /// Sees to it that an insert takes no row's place, if that is asked for, or if its row `had_key` not: the table was made
    /// without one here.
    fn check_key(
        &mut self,
        entry: &LogEntry,
        table: &Table,
        change: &RowChange,
        had_key: bool,
    ) -> Result<()> {
        let is_insert = change.change_type == ChangeType::Insert;
        let mut respects = is_insert && !had_key && !self.generator.overwrites();
        if let Some(seen) = &mut self.seen {
            let mut keys = Vec::new();
            for image in [&change.before, &change.after] {
                if !image.is_empty() && table.identity(image) == Identity::Key {
                    let key: Vec<Value> = table.key_values(image).cloned().collect();
                    keys.push((table.name.to_lowercase(), encode(&key)));
                }
            }
            respects |= is_insert && keys.iter().any(|key| !seen.contains(key));
            seen.extend(keys);
        }
        if respects && table.identity(&change.after) == Identity::Key && self.has_key(table, &change.after)? {
            let what = format!(
                "UNIQUE constraint failed: {}.{}; another row has this key",
                table.name,
                table.key_names.join(", ")
            );
            return Err(conflict(entry, what));
        }
        Ok(())
    }

    pub(super) fn run(&self, statements: &[ReplayStatement]) -> Result<()> {
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

    fn has_key(&self, table: &Table, values: &[Value]) -> Result<bool> {
        Ok(self.find_key(table, "1", values)?.is_some())
    }

    /// Rowid on the scratch of the row with the key in `values`.
    fn rowid_of(&self, table: &Table, values: &[Value]) -> Result<Option<i64>> {
        match table.rowid {
            Some(alias) => self.find_key(table, alias, values),
            None => Ok(None),
        }
    }

    /// The number `what` of the row on the scratch with the key in `values`.
    fn find_key(&self, table: &Table, what: &str, values: &[Value]) -> Result<Option<i64>> {
        let sql = format!(
            "SELECT {what} FROM {} WHERE {}",
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
    let names: Vec<String> = table.key_names.iter().map(|name| quote(name)).collect();
    all_of(&table.key_terms(names.iter(), std::iter::repeat("?")))
}

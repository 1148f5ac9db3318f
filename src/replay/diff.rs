//! The difference between two databases, as changes that a log could hold.
//!
//! Replayed over the one database they make the other: objects of the schema are compared by name and text, rows by
//! primary key, or by rowid where they have none. Uses: what another program has written without capture, and the
//! content of a database that becomes a replica (the difference to an empty one).
//!
//! * A table whose text differs is altered where `ALTER TABLE` leads to the other text, else dropped and made anew. A
//!   renamed table is a dropped one and a new one.
//! * Triggers have done their part already: those of a table with differing rows are dropped before, and made again
//!   behind the rows.
//! * Full-text indexes with external content are rebuilt behind all rows; of those without content only the text is
//!   compared.
//! * Where a row's new value in a secondary UNIQUE index may be that of another row, the row is deleted and inserted: values
//!   may have swapped.
//!
//! Memory: the schema, and two rows.

mod rows;

use std::collections::{BTreeSet, HashSet};

use rusqlite::Connection;

use crate::capture::log::{ChangeType, LogEntry};
use crate::capture::module::{Content, VirtualKind};
use crate::error::{Error, Result};
use crate::record::{Value, encode};
use crate::replay::ddl::{Ddl, SCHEMA_TABLE, SchemaRow};
use crate::replay::is_internal;
use crate::replay::table::{Table, quote};

/// How the changes of a difference are numbered.
#[derive(Debug, Clone, Copy)]
pub struct Numbering {
    /// Id of the first change, and of the transaction that they are.
    pub first_change_id: i64,
    /// Unix seconds.
    pub change_time: i64,
}

/// What a difference consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Tables, and views, with other rows or another schema, in order of their names.
    pub tables: Vec<String>,
    /// Number of changes.
    pub changes: u64,
}

impl Difference {
    /// True if both databases are the same.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }
}

/// Gives the changes that make `to` out of `from` to `sink`, one after the other, as one transaction.
///
/// Both are only read, and must not change meanwhile: the caller holds transactions. Tables that belong to SQLite or to
/// the sync engine, and those that `is_local` names, are passed over, with all that belongs to them. An error of `sink`
/// ends it.
pub fn diff(
    from: &Connection,
    to: &Connection,
    is_local: &dyn Fn(&str) -> bool,
    numbering: Numbering,
    sink: &mut dyn FnMut(LogEntry) -> Result<()>,
) -> Result<Difference> {
    compare(Origin::Common, (from, to), is_local, numbering, sink)
}

/// The same for databases of which nobody knows what they have in common: rowids mean nothing, and rows without a key are
/// the same if they look the same. Memory: some forty bytes per row without a key of `from` besides.
pub fn diff_of_strangers(
    from: &Connection,
    to: &Connection,
    is_local: &dyn Fn(&str) -> bool,
    numbering: Numbering,
    sink: &mut dyn FnMut(LogEntry) -> Result<()>,
) -> Result<Difference> {
    compare(Origin::Unknown, (from, to), is_local, numbering, sink)
}

/// What is known about two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The second one was the first one.
    Common,
    Unknown,
}

fn compare(
    origin: Origin,
    (from, to): (&Connection, &Connection),
    is_local: &dyn Fn(&str) -> bool,
    numbering: Numbering,
    sink: &mut dyn FnMut(LogEntry) -> Result<()>,
) -> Result<Difference> {
    let mut out = Output {
        numbering,
        sink,
        changes: 0,
        tables: BTreeSet::new(),
    };
    let (old, new) = (schema(from, is_local)?, schema(to, is_local)?);
    let mut dropped = drop_others(&old, &new, &mut out)?;
    let altered = alter_tables(&old, &new, &mut dropped, &mut out)?;
    for row in new.iter().filter(|row| row.kind == "table") {
        if !old.contains(row) && !altered.contains(&row.name) {
            out.schema(ChangeType::Insert, row)?;
        }
    }
    let before_rows = out.changes;
    for row in new.iter().filter(|row| row.kind == "table") {
        let there = old.iter().any(|o| o.name == row.name) && !dropped.contains(&row.name);
        let triggers: Vec<&SchemaRow> = old
            .iter()
            .filter(|o| o.kind == "trigger" && same_name(&o.table, &row.name) && !dropped.contains(&o.name))
            .collect();
        let mut first = true;
        rows::compare(origin, there.then_some(from), to, &row.name, &mut |change| {
            if std::mem::take(&mut first) {
                for trigger in &triggers {
                    out.schema(ChangeType::Delete, trigger)?;
                    dropped.insert(trigger.name.clone());
                }
            }
            out.row(&row.name, change)
        })?;
    }
    if out.changes > before_rows {
        rebuild_indexes(&new, &mut out)?;
    }
    for kind in ["index", "view", "trigger"] {
        for row in new.iter().filter(|row| row.kind == kind) {
            if !old.contains(row) || dropped.contains(&row.name) {
                out.schema(ChangeType::Insert, row)?;
            }
        }
    }
    Ok(Difference {
        changes: out.changes as u64,
        tables: out.tables.into_iter().collect(),
    })
}

/// [`diff`] to an empty database: all that `of` holds.
pub fn content(
    of: &Connection,
    is_local: &dyn Fn(&str) -> bool,
    numbering: Numbering,
    sink: &mut dyn FnMut(LogEntry) -> Result<()>,
) -> Result<Difference> {
    diff(&Connection::open_in_memory()?, of, is_local, numbering, sink)
}

/// True if `entry`, a part of the difference that leads to `to`, takes nothing away that only the other side has. A trigger
/// that is dropped comes back if `to` has it.
pub fn keeps_everything(entry: &LogEntry, to: &Connection) -> Result<bool> {
    if entry.change_type != ChangeType::Delete {
        return Ok(true);
    }
    match entry.table == SCHEMA_TABLE {
        true => match Ddl::decode(entry)? {
            Some(Ddl::Drop(row)) if row.kind != "table" => Ok(SchemaRow::find(to, &row.name)?.is_some()),
            _ => Ok(false),
        },
        false => Ok(false),
    }
}

/// Numbers the changes and passes them on.
struct Output<'a> {
    numbering: Numbering,
    sink: &'a mut dyn FnMut(LogEntry) -> Result<()>,
    changes: i64,
    tables: BTreeSet<String>,
}

/// A changed row.
struct RowDifference {
    change_type: ChangeType,
    rowid: i64,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    updates: Option<Vec<u8>>,
}

impl Output<'_> {
    fn entry(&mut self, table: &str, change: RowDifference) -> Result<()> {
        let change_id = self.numbering.first_change_id.checked_add(self.changes);
        self.changes += 1;
        (self.sink)(LogEntry {
            change_id: change_id.ok_or_else(|| Error::corrupt("the change ids are used up"))?,
            change_time: self.numbering.change_time,
            txn_id: self.numbering.first_change_id,
            change_type: change.change_type,
            table: table.to_owned(),
            rowid: change.rowid,
            before: change.before,
            after: change.after,
            updates: change.updates,
            depth: 0,
        })
    }

    fn row(&mut self, table: &str, change: RowDifference) -> Result<()> {
        self.note(table);
        self.entry(table, change)
    }

    /// The creation or the end of `row`.
    fn schema(&mut self, change_type: ChangeType, row: &SchemaRow) -> Result<()> {
        self.note(&row.table);
        let record = Some(row.clone().encode());
        let (before, after) = match change_type {
            ChangeType::Insert => (None, record),
            _ => (record, None),
        };
        let change = RowDifference {
            change_type,
            rowid: 0,
            before,
            after,
            updates: None,
        };
        self.entry(SCHEMA_TABLE, change)
    }

    fn alter(&mut self, before: &SchemaRow, after: &SchemaRow, statement: &str) -> Result<()> {
        self.note(&after.table);
        let mut updates: Vec<Value> = [0, 0, 0, 0, 1].map(Value::Integer).to_vec();
        updates.extend([Value::Null, Value::Null, Value::Null, Value::Null]);
        updates.push(Value::Text(statement.as_bytes().to_vec()));
        let change = RowDifference {
            change_type: ChangeType::Update,
            rowid: 0,
            before: Some(before.clone().encode()),
            after: Some(after.clone().encode()),
            updates: Some(encode(&updates)),
        };
        self.entry(SCHEMA_TABLE, change)
    }

    fn note(&mut self, table: &str) {
        if !self.tables.contains(table) {
            self.tables.insert(table.to_owned());
        }
    }
}

fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// What travels of the schema, in an order in which it can be created.
fn schema(conn: &Connection, is_local: &dyn Fn(&str) -> bool) -> Result<Vec<SchemaRow>> {
    let mut statement = conn.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT IN
           (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow')
         ORDER BY type <> 'table', sql LIKE 'CREATE VIRTUAL%', type <> 'index', type <> 'view', rowid",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(SchemaRow {
            kind: row.get(0)?,
            name: row.get(1)?,
            table: row.get(2)?,
            sql: row.get(3)?,
        })
    })?;
    let mut found: Vec<SchemaRow> = rows.collect::<rusqlite::Result<_>>()?;
    found.retain(|row| !is_internal(&row.name) && !is_internal(&row.table) && !is_local(&row.table));
    Ok(found)
}

/// Drops the views, triggers and indexes that are others in `new`, or not there. Returns their names.
fn drop_others(old: &[SchemaRow], new: &[SchemaRow], out: &mut Output<'_>) -> Result<HashSet<String>> {
    let mut dropped = HashSet::new();
    for kind in ["trigger", "view", "index"] {
        for row in old.iter().filter(|row| row.kind == kind && !new.contains(row)) {
            out.schema(ChangeType::Delete, row)?;
            dropped.insert(row.name.clone());
        }
    }
    Ok(dropped)
}

/// Alters the tables that are others in `new`, or drops them, with all that belongs to them. Returns the altered ones,
/// and adds to `dropped`.
fn alter_tables(
    old: &[SchemaRow],
    new: &[SchemaRow],
    dropped: &mut HashSet<String>,
    out: &mut Output<'_>,
) -> Result<HashSet<String>> {
    let mut altered = HashSet::new();
    // A virtual table goes before what it may read.
    for row in old
        .iter()
        .rev()
        .filter(|row| row.kind == "table" && !new.contains(row))
    {
        let there = new.iter().find(|n| n.kind == "table" && n.name == row.name);
        if let Some(steps) = there.and_then(|there| alter_steps(row, there)) {
            for (before, after, statement) in &steps {
                out.alter(before, after, statement)?;
            }
            altered.insert(row.name.clone());
            continue;
        }
        out.schema(ChangeType::Delete, row)?;
        dropped.insert(row.name.clone());
        let belongs =
            |o: &&SchemaRow| o.kind != "table" && o.kind != "view" && same_name(&o.table, &row.name);
        dropped.extend(old.iter().filter(belongs).map(|o| o.name.clone()));
    }
    Ok(altered)
}

type Step = (SchemaRow, SchemaRow, String);

/// The ALTER statements that lead from one text of a table to the other, if they do. They are tried.
fn alter_steps(from: &SchemaRow, to: &SchemaRow) -> Option<Vec<Step>> {
    if [from, to].iter().any(|row| row.sql.starts_with("CREATE VIRTUAL")) {
        return None;
    }
    let conn = Connection::open_in_memory().ok()?;
    conn.execute_batch("PRAGMA foreign_keys = OFF").ok()?;
    conn.execute_batch(&from.sql).ok()?;
    let mut trial = Trial {
        conn,
        now: from.clone(),
        steps: Vec::new(),
    };
    let columns = |sql: &str| -> Option<Vec<String>> {
        let conn = Connection::open_in_memory().ok()?;
        conn.execute_batch(sql).ok()?;
        let mut names = conn
            .prepare("SELECT name FROM pragma_table_xinfo(?1) ORDER BY cid")
            .ok()?;
        let names = names.query_map([&to.name], |row| row.get(0)).ok()?;
        names.collect::<rusqlite::Result<_>>().ok()
    };
    let (old, new) = (columns(&from.sql)?, columns(&to.sql)?);
    let removed: Vec<&String> = old.iter().filter(|c| !new.contains(c)).collect();
    if old.len() == new.len() {
        for (a, b) in old.iter().zip(&new).filter(|(a, b)| a != b) {
            // SQLite writes the new name as the statement does.
            let name = match to.sql.contains(&quote(b)) {
                true => quote(b),
                false => b.clone(),
            };
            trial.alter(&format!("RENAME COLUMN {} TO {name}", quote(a)))?;
        }
    } else {
        for column in removed {
            trial.alter(&format!("DROP COLUMN {}", quote(column)))?;
        }
        trial.add_columns(&to.sql)?;
    }
    (trial.now.sql == to.sql && !trial.steps.is_empty()).then_some(trial.steps)
}

/// A table that is altered without rows.
struct Trial {
    conn: Connection,
    now: SchemaRow,
    steps: Vec<Step>,
}

impl Trial {
    fn alter(&mut self, what: &str) -> Option<()> {
        let statement = format!("ALTER TABLE {} {what}", quote(&self.now.name));
        self.conn.execute_batch(&statement).ok()?;
        let after = SchemaRow::find(&self.conn, &self.now.name).ok()??;
        let before = std::mem::replace(&mut self.now, after.clone());
        self.steps.push((before, after, statement));
        Some(())
    }

    /// SQLite writes the text of a new column, behind a comma, before what follows the last column.
    fn add_columns(&mut self, wanted: &str) -> Option<()> {
        let now = self.now.sql.clone();
        let same = now
            .bytes()
            .zip(wanted.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        let rest = now.get(same..)?;
        let mut added = wanted.get(same..)?.strip_suffix(rest)?;
        while let Some(text) = added.strip_prefix(", ") {
            // A comma may also be part of the column.
            let ends = text.match_indices(", ").map(|(at, _)| at).chain([text.len()]);
            let column = ends.into_iter().find_map(|end| {
                let column = text.get(..end)?;
                self.alter(&format!("ADD COLUMN {column}")).map(|()| column)
            })?;
            added = &text[column.len()..];
        }
        Some(())
    }
}

/// Full-text tables with external content have no rows of their own: what belongs to them is made anew.
fn rebuild_indexes(new: &[SchemaRow], out: &mut Output<'_>) -> Result<()> {
    for row in new.iter().filter(|row| row.kind == "table") {
        if VirtualKind::parse(&row.sql).is_some_and(|kind| kind.content == Content::External) {
            let command = [Value::Text(b"rebuild".to_vec()), Value::Null];
            let change = RowDifference {
                change_type: ChangeType::Update,
                rowid: 0,
                before: None,
                after: None,
                updates: Some(encode(&command)),
            };
            out.row(&row.name, change)?;
        }
    }
    Ok(())
}

//! Changes of virtual tables.
//!
//! A row is known by its number, which applications use to join it with others: it is never re-assigned, and the last
//! push wins. Modules know no upsert; `INSERT OR REPLACE` is what they all do right.

use std::sync::Arc;

use rusqlite::{Connection, params_from_iter};

use crate::capture::log::{ChangeType, LogEntry};
use crate::capture::module::{Module, VirtualKind};
use crate::error::{Error, Result};
use crate::record::{Value, decode};
use crate::replay::clause::Unique;
use crate::replay::table::{Column, Table, quote};
use crate::replay::values::{Bound, Slots};
use crate::replay::{Purpose, ReplayStatement, conflict};

/// Reads the virtual table `name` from the schema of `conn`.
pub(super) fn load(conn: &Connection, name: String, kind: VirtualKind) -> Result<Table> {
    let mut statement =
        conn.prepare_cached("SELECT name, hidden <> 0 FROM pragma_table_xinfo(?1, 'main') ORDER BY cid")?;
    let all: Vec<(String, bool)> = statement
        .query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let columns = kind.columns(all.into_iter());
    let key = kind.key(&columns).to_owned();
    let column = |name| Column { name, default: None };
    Ok(Table {
        name,
        column_names: columns.as_slice().into(),
        columns: columns.into_iter().map(column).collect(),
        key: Vec::new(),
        key_names: [key].into(),
        key_collations: Vec::new(),
        integer_key: false,
        rowid: Some("rowid"),
        has_triggers: false,
        in_triggers: false,
        delete_triggers: false,
        assignment_triggers: false,
        own_conflict_clause: false,
        own_replace: false,
        unique: Unique::default(),
        foreign_keys: Vec::new(),
        virtual_kind: Some(kind),
    })
}

/// The statements that carry `entry`, a change of the virtual table `table`.
pub(super) fn statements(table: &Table, kind: VirtualKind, entry: &LogEntry) -> Result<Vec<ReplayStatement>> {
    let name = quote(&table.name);
    let key = table.key_names.first().map(|key| quote(key)).unwrap_or_default();
    let number = Value::Integer(entry.rowid);
    let mut slots = Slots::default();
    let sql = match (entry.change_type, &entry.after, &entry.updates) {
        (ChangeType::Delete, ..) => {
            slots.push(&number);
            format!("DELETE FROM {name} WHERE {key} = ?")
        }
        (_, Some(row), _) => {
            let row = decode(row)?;
            if row.len() != table.columns.len() {
                return Err(malformed(entry));
            }
            let mut columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
            // The number of an R*Tree's row is its first column.
            if kind.module != Module::Rtree {
                columns.insert(0, key);
                slots.push(&number);
            }
            slots.extend(&row);
            let columns = columns.join(", ");
            let (marks, args) = slots.into_parts();
            let sql = format!(
                "INSERT OR REPLACE INTO {name} ({columns}) VALUES ({})",
                marks.join(", ")
            );
            return Ok(vec![statement(table, entry, sql, args)]);
        }
        (ChangeType::Update, None, Some(command)) => match decode(command)?.as_slice() {
            [command, Value::Null] => {
                slots.push(command);
                format!("INSERT INTO {name} ({name}) VALUES (?)")
            }
            [setting, value] => {
                slots.push(setting);
                slots.push(value);
                format!("INSERT INTO {name} ({name}, rank) VALUES (?, ?)")
            }
            _ => return Err(malformed(entry)),
        },
        _ => return Err(malformed(entry)),
    };
    Ok(vec![statement(table, entry, sql, slots.into_parts().1)])
}

fn statement(table: &Table, entry: &LogEntry, sql: String, args: Vec<Value>) -> ReplayStatement {
    ReplayStatement {
        sql: sql.into(),
        args,
        purpose: Purpose::Change,
        change_id: entry.change_id,
        txn_id: entry.txn_id,
        table: table.name.clone(),
        key: Arc::clone(&table.key_names),
    }
}

fn malformed(entry: &LogEntry) -> Error {
    Error::corrupt(format!(
        "change {} of table {} in the change log does not fit the table",
        entry.change_id, entry.table
    ))
}

/// Executes `entry`, a change of the replica's table `local`, on `scratch`, which has `table` under that name, if one
/// of them is virtual. False if none is.
pub(super) fn replay(scratch: &Connection, local: &Table, table: &Table, entry: &LogEntry) -> Result<bool> {
    let kind = match (local.virtual_kind, table.virtual_kind) {
        (None, None) => return Ok(false),
        (Some(here), Some(there)) if here == there && local.same_layout(table) => there,
        _ => return Err(conflict(entry, "the remote has a different table of this name")),
    };
    for statement in statements(table, kind, entry)? {
        let run = || -> rusqlite::Result<usize> {
            let args = params_from_iter(statement.args.iter().map(Bound));
            scratch.prepare_cached(&statement.sql)?.execute(args)
        };
        run().map_err(|e| statement.failed(e.into()))?;
    }
    Ok(true)
}

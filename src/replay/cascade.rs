//! Tells what foreign-key actions did from what triggers did.
//!
//! Both are captured with a depth above 0. The other side redoes its triggers but, with foreign keys off, not the
//! actions: these must be replayed. An action runs right behind the change of the parent row, one level deeper, and
//! what it does follows from the foreign key; a change that looks like that is taken for one. A trigger that does
//! the same by itself is thereby done twice, which makes no difference: actions delete or set absolute values.

use std::rc::Rc;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::capture::log::{ChangeType, LogEntry};
use crate::error::{Error, Result};
use crate::record::Value;
use crate::replay::generator::{Generator, RowChange};
use crate::replay::table::{Column, ForeignKey, Table};

/// SQLite nests triggers up to `SQLITE_MAX_TRIGGER_DEPTH`, 1000 unless it was built otherwise.
const DEPTH_MAX: usize = 100_000;

/// Goes through the entries of one transaction.
#[derive(Default)]
pub(super) struct Cascades {
    /// The latest entry per depth, down to the depth of the last entry.
    path: Vec<Option<Rc<LogEntry>>>,
}

impl Cascades {
    /// True if `entry` must be replayed: it was made by a statement itself, or by a foreign-key action. To be asked
    /// for every entry in order, while `conn` has the schema as of the entry.
    pub(super) fn replays(
        &mut self,
        generator: &mut Generator,
        conn: &Connection,
        entry: &Rc<LogEntry>,
    ) -> Result<bool> {
        let depth = usize::try_from(entry.depth)
            .ok()
            .filter(|depth| *depth <= DEPTH_MAX);
        let depth = depth.ok_or_else(|| Error::corrupt("impossible trigger depth in the change log"))?;
        self.path.resize(depth, None);
        let parent = self.path.last().cloned().flatten();
        self.path.push(Some(entry.clone()));
        match parent {
            _ if depth == 0 => Ok(true),
            Some(parent) => is_action(generator, conn, &parent, entry),
            None => Ok(false),
        }
    }
}

fn is_action(
    generator: &mut Generator,
    conn: &Connection,
    parent: &LogEntry,
    child: &LogEntry,
) -> Result<bool> {
    if parent.change_type == ChangeType::Insert || child.change_type == ChangeType::Insert {
        return Ok(false);
    }
    let Some(child_table) = generator.find_table(conn, &child.table)? else {
        return Ok(false);
    };
    let refers = |key: &&ForeignKey| key.parent.eq_ignore_ascii_case(&parent.table);
    if !child_table.foreign_keys.iter().any(|key| refers(&key)) {
        return Ok(false);
    }
    let Some(parent_table) = generator
        .find_table(conn, &parent.table)?
        .filter(|table| table.virtual_kind.is_none())
    else {
        return Ok(false);
    };
    let parent = RowChange::decode(&parent_table, parent)?;
    let child = RowChange::decode(&child_table, child)?;
    Ok(child_table.foreign_keys.iter().filter(refers).any(|key| {
        let is_default = |at: usize, value: &Value| {
            let column = child_table.columns.get(at);
            column.is_some_and(|column| is_default(conn, column, value))
        };
        follows(key, &parent_table, &parent, &child, is_default)
    }))
}

/// True if `value` may be the default of `column`: it is not known for those that are not constant.
fn is_default(conn: &Connection, column: &Column, value: &Value) -> bool {
    let Some(default) = &column.default else {
        return *value == Value::Null;
    };
    let compare = |default: ValueRef<'_>| match default {
        ValueRef::Null => *value == Value::Null,
        ValueRef::Integer(i) => alike(&Value::Integer(i), value),
        ValueRef::Real(r) => alike(&Value::Real(r), value),
        ValueRef::Text(t) | ValueRef::Blob(t) => alike(&Value::Text(t.to_vec()), value),
    };
    let lower = default.to_ascii_lowercase();
    let constant = !["current_", "random", "date", "time", "(select"]
        .iter()
        .any(|word| lower.contains(word));
    let sql = format!("SELECT {default}");
    let same = || conn.query_row(&sql, [], |row| Ok(compare(row.get_ref(0)?)));
    !constant || same().unwrap_or(true)
}

/// True if the change `child` is what the foreign key makes of the change `parent`.
fn follows(
    key: &ForeignKey,
    parent_table: &Table,
    parent: &RowChange,
    child: &RowChange,
    is_default: impl Fn(usize, &Value) -> bool,
) -> bool {
    let to: Option<Vec<usize>> = match key.to.as_slice() {
        [] => Some(parent_table.key.clone()),
        names => names.iter().map(|name| parent_table.position(name)).collect(),
    };
    let Some(to) = to.filter(|to| to.len() == key.from.len()) else {
        return false;
    };
    let pick = |row: &[Value], positions: &[usize]| -> Option<Vec<Value>> {
        positions.iter().map(|&p| row.get(p).cloned()).collect()
    };
    let (Some(old), Some(held)) = (pick(&parent.before, &to), pick(&child.before, &key.from)) else {
        return false;
    };
    if !old.iter().zip(&held).all(|(a, b)| alike(a, b)) {
        return false;
    }
    let new = pick(&parent.after, &to);
    let set = pick(&child.after, &key.from);
    let action = match parent.change_type {
        ChangeType::Delete => &key.on_delete,
        _ if new.as_ref() == Some(&old) => return false,
        _ => &key.on_update,
    };
    match (action.as_str(), set) {
        ("CASCADE", None) => parent.change_type == ChangeType::Delete,
        ("CASCADE", Some(set)) => new.is_some_and(|new| {
            new.iter()
                .zip(&set)
                .all(|(a, b)| *a == Value::Null || alike(a, b))
        }),
        ("SET NULL", Some(set)) => set.iter().all(|v| *v == Value::Null),
        ("SET DEFAULT", Some(set)) => key
            .from
            .iter()
            .zip(&set)
            .all(|(&at, value)| is_default(at, value)),
        _ => false,
    }
}

/// True if a child's value may refer to a parent's: the columns may differ in affinity and collation.
fn alike(a: &Value, b: &Value) -> bool {
    let plain = |v: &Value| match v {
        Value::Null => None,
        Value::Integer(i) => Some(i.to_string().into_bytes()),
        Value::Real(r) => Some(r.to_string().into_bytes()),
        Value::Text(t) | Value::Blob(t) => Some(t.trim_ascii_end().to_ascii_lowercase()),
    };
    let number = |v: &Value| match v {
        Value::Integer(i) => Some(*i as f64),
        Value::Real(r) => Some(*r),
        Value::Text(t) => std::str::from_utf8(t).ok()?.trim().parse().ok(),
        Value::Null | Value::Blob(_) => None,
    };
    matches!((plain(a), plain(b)), (Some(a), Some(b)) if a == b)
        || matches!((number(a), number(b)), (Some(a), Some(b)) if a == b)
}

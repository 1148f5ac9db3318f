//! The rows of one table in two databases.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use rusqlite::{Connection, Rows, Statement, params_from_iter};

use super::{Origin, RowDifference, Table};
use crate::capture::log::ChangeType;
use crate::capture::module::Content;
use crate::error::{Error, Result};
use crate::record::{Value, encode};
use crate::replay::table::{Column, Identity, quote};
use crate::replay::text::all_of;
use crate::replay::values::{Bound, from_column};

type Sink<'a> = dyn FnMut(RowDifference) -> Result<()> + 'a;

/// A row: its rowid (0 if it has none) and its values in the layout of the wanted table.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    rowid: i64,
    values: Vec<Value>,
}

/// Which part of the difference is wanted now. What a UNIQUE index keeps apart has to make room first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Removals,
    Rest,
    Everything,
}

/// The secondary UNIQUE indexes of a table.
enum UniqueColumns {
    None,
    /// Each of a single column: their positions in the record.
    Single(Vec<usize>),
    /// Also several columns, expressions, conditions, or generated columns.
    Any,
}

/// Compares the rows of the table `name`; without `from` all are new.
pub(super) fn compare(
    origin: Origin,
    from: Option<&Connection>,
    to: &Connection,
    name: &str,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let table =
        Table::load(to, name)?.ok_or_else(|| Error::internal("a table of the schema is not there"))?;
    if table
        .virtual_kind
        .is_some_and(|kind| kind.content != Content::Own)
    {
        return Ok(());
    }
    let new = Side::new(to, &table, &table)?;
    let Some(from) = from else {
        let mut select = new.all()?;
        let mut rows = select.query([])?;
        while let Some(row) = new.next(&mut rows)? {
            sink(pair(&table, None, Some(row)))?;
        }
        return Ok(());
    };
    let there =
        Table::load(from, name)?.ok_or_else(|| Error::internal("a table of the schema is not there"))?;
    let old = Side::new(from, &there, &table)?;
    let unique = UniqueColumns::load(to, &table)?;
    let compared = Compared {
        table: &table,
        old,
        new,
        unique,
    };
    if origin == Origin::Unknown && table.virtual_kind.is_none() {
        return compared.by_content(sink);
    }
    let by_rowid = table.virtual_kind.is_some() || table.integer_key || table.key.is_empty();
    match (by_rowid, compared.new.has_rowid) {
        (true, true) => compared.in_order(sink),
        (true, false) => compared.at_all(sink),
        (false, _) => compared.by_key(sink),
    }
}

/// A database as it is read.
struct Side<'a> {
    conn: &'a Connection,
    /// Rowid and columns of the wanted table, as expressions.
    list: String,
    columns: Vec<String>,
    name: String,
    /// Columns of the primary key, as they are named here.
    key: Vec<String>,
    rowid: String,
    has_rowid: bool,
    width: usize,
}

impl<'a> Side<'a> {
    /// Reads `there` in the layout of `wanted`: what it lacks has its default, and a column of another name at the same
    /// place is the same one, renamed.
    fn new(conn: &'a Connection, there: &Table, wanted: &Table) -> Result<Side<'a>> {
        let same_width = there.columns.len() == wanted.columns.len();
        let column =
            |(i, column): (usize, &Column)| match (there.position(&column.name), there.columns.get(i)) {
                (None, Some(renamed)) if same_width => quote(&renamed.name),
                (None, _) => format!("({})", column.default.as_deref().unwrap_or("NULL")),
                _ => quote(&column.name),
            };
        let columns: Vec<String> = wanted.columns.iter().enumerate().map(column).collect();
        let key = |table: &Table| table.key_names.first().map(|key| quote(key));
        let rowid = match (there.virtual_kind, there.rowid) {
            (Some(_), _) => key(there),
            (None, Some(alias)) => Some(alias.to_owned()),
            (None, None) if there.integer_key => key(there),
            (None, None) => None,
        };
        let has_rowid = rowid.is_some();
        let rowid = rowid.unwrap_or_else(|| "0".to_owned());
        Ok(Side {
            conn,
            list: format!("{rowid}, {}", columns.join(", ")),
            name: quote(&there.name),
            key: there.key_names.iter().map(|name| quote(name)).collect(),
            rowid,
            has_rowid,
            width: columns.len(),
            columns,
        })
    }

    fn all(&self) -> Result<Statement<'_>> {
        let sql = format!("SELECT {} FROM main.{}", self.list, self.name);
        Ok(self.conn.prepare(&sql)?)
    }

    fn ordered(&self) -> Result<Statement<'_>> {
        let sql = format!(
            "SELECT {} FROM main.{} ORDER BY {}",
            self.list, self.name, self.rowid
        );
        Ok(self.conn.prepare(&sql)?)
    }

    fn next(&self, rows: &mut Rows<'_>) -> Result<Option<Row>> {
        let Some(row) = rows.next()? else { return Ok(None) };
        let values = (1..=self.width).map(|i| Ok(from_column(row.get_ref(i)?)));
        Ok(Some(Row {
            rowid: row.get(0)?,
            values: values.collect::<rusqlite::Result<_>>()?,
        }))
    }

    /// Whether a row has `value` in column `position`.
    fn has(&self, position: usize, value: &Value) -> Result<bool> {
        let Some(column) = self.columns.get(position) else {
            return Ok(true);
        };
        let sql = format!("SELECT count(*) > 0 FROM main.{} WHERE {column} = ?", self.name);
        let mut select = self.conn.prepare_cached(&sql)?;
        Ok(select.query_row([Bound(value)], |row| row.get(0))?)
    }

    /// The row that `row`, one of the other side, is here.
    fn find(&self, table: &Table, row: &Row) -> Result<Option<Row>> {
        let identity = table.identity(&row.values);
        let (condition, args) = match identity {
            Identity::Key => (
                all_of(&table.key_terms(self.key.iter(), std::iter::repeat("?"))),
                table.key_values(&row.values).cloned().collect(),
            ),
            Identity::Rowid(_) => (format!("{} = ?", self.rowid), vec![Value::Integer(row.rowid)]),
            Identity::Content => return Ok(None),
        };
        let sql = format!("SELECT {} FROM main.{} WHERE {condition}", self.list, self.name);
        let mut select = self.conn.prepare_cached(&sql)?;
        let mut rows = select.query(params_from_iter(args.iter().map(Bound)))?;
        let found = self.next(&mut rows)?;
        // A row with a key may have the rowid of one without.
        Ok(found.filter(|found| table.identity(&found.values) == identity))
    }
}

struct Compared<'a> {
    /// As it is wanted.
    table: &'a Table,
    old: Side<'a>,
    new: Side<'a>,
    unique: UniqueColumns,
}

impl Compared<'_> {
    /// By rowid: both sides are read once in its order, or twice if removals come first.
    fn in_order(&self, sink: &mut Sink<'_>) -> Result<()> {
        let phases: &[Phase] = match self.unique {
            UniqueColumns::None => &[Phase::Everything],
            _ => &[Phase::Removals, Phase::Rest],
        };
        for phase in phases {
            let (mut old, mut new) = (self.old.ordered()?, self.new.ordered()?);
            let (mut old_rows, mut new_rows) = (old.query([])?, new.query([])?);
            let (mut a, mut b) = (self.old.next(&mut old_rows)?, self.new.next(&mut new_rows)?);
            loop {
                let order = match (&a, &b) {
                    (None, None) => break,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some(a), Some(b)) => a.rowid.cmp(&b.rowid),
                };
                let before = if order.is_le() { a.take() } else { None };
                let after = if order.is_ge() { b.take() } else { None };
                self.emit(*phase, before, after, sink)?;
                if order.is_le() {
                    a = self.old.next(&mut old_rows)?;
                }
                if order.is_ge() {
                    b = self.new.next(&mut new_rows)?;
                }
            }
        }
        Ok(())
    }

    /// By primary key: each row is looked up on the other side. Rows whose key has NULL come first, because rows with a key
    /// get whatever rowid is free.
    fn by_key(&self, sink: &mut Sink<'_>) -> Result<()> {
        let mut select = self.old.all()?;
        let mut rows = select.query([])?;
        while let Some(row) = self.old.next(&mut rows)? {
            let there = self.new.find(self.table, &row)?;
            self.emit(Phase::Removals, Some(row), there, sink)?;
        }
        for with_key in [false, true] {
            if !with_key && !self.new.has_rowid {
                continue;
            }
            let mut select = self.new.all()?;
            let mut rows = select.query([])?;
            while let Some(row) = self.new.next(&mut rows)? {
                if (self.table.identity(&row.values) == Identity::Key) == with_key {
                    let there = self.old.find(self.table, &row)?;
                    self.emit(Phase::Rest, there, Some(row), sink)?;
                }
            }
        }
        Ok(())
    }

    /// Rows with a key by it; others are the same if they look the same.
    fn by_content(&self, sink: &mut Sink<'_>) -> Result<()> {
        let has_key = |row: &Row| self.table.identity(&row.values) == Identity::Key;
        let mut counts = HashMap::new();
        let mut select = self.old.all()?;
        let mut rows = select.query([])?;
        while let Some(row) = self.old.next(&mut rows)? {
            match has_key(&row) {
                true if self.new.find(self.table, &row)?.is_some() => {}
                true => sink(pair(self.table, Some(row), None))?,
                false => *counts.entry(fingerprint(&row)).or_insert(0u64) += 1,
            }
        }
        let mut select = self.new.all()?;
        let mut rows = select.query([])?;
        while let Some(row) = self.new.next(&mut rows)? {
            if has_key(&row) {
                let there = self.old.find(self.table, &row)?;
                self.emit(Phase::Rest, there, Some(row), sink)?;
            } else {
                match counts.get_mut(&fingerprint(&row)) {
                    Some(count @ 1..) => *count -= 1,
                    _ => sink(pair(self.table, None, Some(row)))?,
                }
            }
        }
        drop(rows);
        self.leftover(&mut counts, sink)
    }

    /// The rows without a key of the old side that the new one has not.
    fn leftover(&self, counts: &mut HashMap<u128, u64>, sink: &mut Sink<'_>) -> Result<()> {
        if counts.values().all(|count| *count == 0) {
            return Ok(());
        }
        let mut select = self.old.all()?;
        let mut rows = select.query([])?;
        while let Some(row) = self.old.next(&mut rows)? {
            let alone = match counts.get_mut(&fingerprint(&row)) {
                Some(count @ 1..) => {
                    *count -= 1;
                    self.table.identity(&row.values) != Identity::Key
                }
                _ => false,
            };
            if alone {
                sink(pair(self.table, Some(row), None))?;
            }
        }
        Ok(())
    }

    /// Nothing tells the rows apart: all of them or none.
    fn at_all(&self, sink: &mut Sink<'_>) -> Result<()> {
        let (mut old, mut new) = (self.old.all()?, self.new.all()?);
        let (mut old_rows, mut new_rows) = (old.query([])?, new.query([])?);
        loop {
            let (a, b) = (self.old.next(&mut old_rows)?, self.new.next(&mut new_rows)?);
            match (a, b) {
                (None, None) => return Ok(()),
                (Some(a), Some(b)) if same(&a.values, &b.values) => {}
                _ => break,
            }
        }
        drop((old_rows, new_rows));
        let mut rows = old.query([])?;
        while let Some(row) = self.old.next(&mut rows)? {
            sink(pair(self.table, Some(row), None))?;
        }
        let mut rows = new.query([])?;
        while let Some(row) = self.new.next(&mut rows)? {
            sink(pair(self.table, None, Some(row)))?;
        }
        Ok(())
    }

    /// Whether the row has to leave its place before others can change: its new value in a UNIQUE index may be that of
    /// another row.
    fn moves(&self, before: &Row, after: &Row) -> Result<bool> {
        let UniqueColumns::Single(positions) = &self.unique else {
            return Ok(matches!(self.unique, UniqueColumns::Any));
        };
        for i in positions {
            let (Some(a), Some(b)) = (before.values.get(*i), after.values.get(*i)) else {
                return Ok(true);
            };
            if !same_value(a, b) && self.old.has(*i, b)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn emit(&self, phase: Phase, before: Option<Row>, after: Option<Row>, sink: &mut Sink<'_>) -> Result<()> {
        let moves = match (&before, &after) {
            (Some(a), Some(b)) if same(&a.values, &b.values) => return Ok(()),
            (Some(a), Some(b)) => self.moves(a, b)?,
            _ => false,
        };
        let is_removal = after.is_none() || moves;
        if is_removal && phase != Phase::Rest {
            sink(pair(self.table, before.clone(), None))?;
        }
        if after.is_some() && phase != Phase::Removals {
            sink(pair(self.table, before.filter(|_| !moves), after))?;
        }
        Ok(())
    }
}

impl UniqueColumns {
    fn load(conn: &Connection, table: &Table) -> Result<UniqueColumns> {
        if table.virtual_kind.is_some() {
            return Ok(UniqueColumns::None);
        }
        let mut statement = conn.prepare(
            "SELECT l.partial OR count(*) > 1, i.name
             FROM pragma_index_list(?1, 'main') AS l, pragma_index_info(l.name, 'main') AS i
             WHERE l.\"unique\" AND l.origin <> 'pk' GROUP BY l.name",
        )?;
        let mut rows = statement.query([&table.name])?;
        let mut positions = Vec::new();
        while let Some(row) = rows.next()? {
            let (special, column): (bool, Option<String>) = (row.get(0)?, row.get(1)?);
            match column.and_then(|name| table.position(&name)) {
                Some(position) if !special => positions.push(position),
                _ => return Ok(UniqueColumns::Any),
            }
        }
        Ok(match positions.is_empty() {
            true => UniqueColumns::None,
            false => UniqueColumns::Single(positions),
        })
    }
}

/// Different for different rows, but for one chance in 10^38.
fn fingerprint(row: &Row) -> u128 {
    let record = encode(&row.values);
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &record).hash(&mut hasher);
        hasher.finish()
    };
    u128::from(half(0)) << 64 | u128::from(half(1))
}

/// The same bits: `0.0` is not `-0.0`.
fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

fn same(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
}

/// What makes `after` out of `before`; at least one of them is there.
fn pair(table: &Table, before: Option<Row>, after: Option<Row>) -> RowDifference {
    let rowid = before.as_ref().or(after.as_ref()).map_or(0, |row| row.rowid);
    let change_type = match (&before, &after) {
        (Some(_), Some(_)) => ChangeType::Update,
        (None, _) => ChangeType::Insert,
        (_, None) => ChangeType::Delete,
    };
    let is_virtual = table.virtual_kind.is_some();
    let updates = match (&before, &after) {
        (Some(a), Some(b)) if !is_virtual => Some(updates(&a.values, &b.values)),
        _ => None,
    };
    let record = |row: Option<Row>| row.map(|row| encode(&row.values));
    RowDifference {
        change_type,
        rowid,
        before: record(before),
        after: record(after),
        updates,
    }
}

fn updates(before: &[Value], after: &[Value]) -> Vec<u8> {
    let changed: Vec<bool> = before.iter().zip(after).map(|(a, b)| !same_value(a, b)).collect();
    let flags = changed.iter().map(|changed| Value::Integer(i64::from(*changed)));
    let values = after.iter().zip(&changed).map(|(value, changed)| match changed {
        true => value.clone(),
        false => Value::Null,
    });
    encode(&flags.chain(values).collect::<Vec<_>>())
}

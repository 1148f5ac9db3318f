//! What SQLite stores of reals that it keeps as integers.
//!
//! A whole number in a VIRTUAL column of type REAL is an integer with a mark that says real. An UPDATE that copies it to
//! a column without REAL affinity stores the integer and loses the mark, but the preupdate hook reports a real (seen in
//! 3.53; it reports the new row of an INSERT as stored). What was stored is in the old row of the next change of the
//! same row, or else in the table.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::capture::buffer::{Buffer, Cell, RowChange, RowOp};
use crate::capture::outcome::spelled;
use crate::capture::sqlite::{Db, quoted};
use crate::capture::table::TableInfo;
use crate::error::Result;
use crate::record::{self, RecordBuilder, Value};

/// Larger integers take as many bytes as a real, and SQLite stores the real instead.
const STORED_AS_INTEGER: f64 = (1u64 << 47) as f64;

/// Corrects the new rows of updates in `buffer`, whose tables `infos` describes by index; `None` are left alone. The
/// statement that made the changes must have ended.
pub(super) fn correct(db: Db, buffer: &mut Buffer, infos: &[Option<Arc<TableInfo>>]) -> Result<()> {
    let info_of = |change: &RowChange| infos.get(change.table).and_then(Option::as_deref);
    let doubtful = |buffer: &Buffer, change: &RowChange| {
        info_of(change).map_or(Vec::new(), |info| doubtful_cells(buffer, info, change))
    };
    if buffer
        .changes()
        .iter()
        .all(|change| doubtful(buffer, change).is_empty())
    {
        return Ok(());
    }
    // Rows as the changes behind the current one found them.
    let mut found: HashMap<(usize, Vec<u8>), Range<usize>> = HashMap::new();
    for i in (0..buffer.changes().len()).rev() {
        let Some(change) = buffer.changes().get(i).cloned() else {
            continue;
        };
        let Some(info) = info_of(&change) else { continue };
        let cells = doubtful(buffer, &change);
        if let Some(new) = change.new.clone().filter(|_| !cells.is_empty()) {
            let key = key(buffer, info, &new, change.new_rowid);
            let stored = match found.get(&(change.table, key.clone())) {
                Some(old) => integers(buffer.cells(old)),
                None => read_integers(db, info, buffer.table(change.table), &key)?,
            };
            for at in cells {
                if let Some(&Some(integer)) = stored.get(at) {
                    buffer.set_cell(new.start + at, Cell::Integer(integer));
                }
            }
        }
        if let Some(old) = change.old {
            let key = key(buffer, info, &old, change.old_rowid);
            found.insert((change.table, key), old);
        }
    }
    Ok(())
}

/// Positions in the new row of an update where a reported real may be an integer.
fn doubtful_cells(buffer: &Buffer, info: &TableInfo, change: &RowChange) -> Vec<usize> {
    let (RowOp::Update, Some(new)) = (change.op, &change.new) else {
        return Vec::new();
    };
    let columns = info.columns.iter().zip(buffer.cells(new)).enumerate();
    let doubtful = columns.filter(|(_, (column, cell))| {
        !column.real && !column.generated && matches!(cell, Cell::Real(bits) if whole(*bits).is_some())
    });
    doubtful.map(|(at, _)| at).collect()
}

/// The record `row` with whole reals as integers, for comparing.
pub(super) fn with_integers(row: &[u8]) -> Result<Vec<u8>> {
    let mut values = record::decode(row)?;
    for value in &mut values {
        if let Value::Real(real) = value
            && let Some(integer) = whole(real.to_bits())
        {
            *value = Value::Integer(integer);
        }
    }
    Ok(record::encode(&values))
}

/// `cell` as an integer if it is a whole real.
pub(super) fn as_integer(cell: Cell) -> Cell {
    match cell {
        Cell::Real(bits) => whole(bits).map_or(cell, Cell::Integer),
        _ => cell,
    }
}

fn whole(bits: u64) -> Option<i64> {
    let real = f64::from_bits(bits);
    (real.fract() == 0.0 && real.abs() <= STORED_AS_INTEGER).then_some(real as i64)
}

/// What names the row: a record of its rowid or primary key, with whole reals as integers.
fn key(buffer: &Buffer, info: &TableInfo, row: &Range<usize>, rowid: i64) -> Vec<u8> {
    let mut builder = RecordBuilder::default();
    if !info.without_rowid {
        builder.integer(rowid);
    } else {
        for (column, &cell) in info.columns.iter().zip(buffer.cells(row)) {
            match cell {
                _ if column.key == 0 => {}
                Cell::Real(bits) if whole(bits).is_some() => builder.integer(whole(bits).unwrap_or(0)),
                _ => buffer.encode(cell, &mut builder),
            }
        }
    }
    let mut key = Vec::new();
    builder.finish_into(&mut key);
    key
}

fn integers(row: &[Cell]) -> Vec<Option<i64>> {
    let integer = |cell: &Cell| match cell {
        Cell::Integer(integer) => Some(*integer),
        _ => None,
    };
    row.iter().map(integer).collect()
}

/// The integers in the row with this `key`; none if SQL cannot reach it because columns hide the rowid.
fn read_integers(db: Db, info: &TableInfo, table: &str, key: &[u8]) -> Result<Vec<Option<i64>>> {
    let names: Vec<String> = match info.without_rowid {
        true => info
            .columns
            .iter()
            .filter(|c| c.key > 0)
            .map(|c| quoted(&c.name))
            .collect(),
        false => info.rowid_name().into_iter().collect(),
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let columns: Vec<String> = info.columns.iter().map(|c| quoted(&c.name)).collect();
    let terms: Vec<String> = (1..).zip(&names).map(|(i, name)| spelled(name, i)).collect();
    let mut select = db.prepare(&format!(
        "SELECT {} FROM main.{} WHERE {}",
        columns.join(", "),
        quoted(table),
        terms.join(" AND ")
    ))?;
    for (i, value) in (1..).zip(&record::decode(key)?) {
        select.bind(i, value)?;
    }
    if !select.step()? {
        return Ok(Vec::new());
    }
    let integer = |value: &Value| match value {
        Value::Integer(integer) => Some(*integer),
        _ => None,
    };
    Ok(select.row().iter().map(integer).collect())
}

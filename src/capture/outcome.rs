//! Did SQLite keep or drop what a failed statement had done?
//!
//! ABORT drops it and FAIL keeps it, but no interface tells which of them ended a statement. The data does: take a row
//! on which all the statement's changes together had an effect and look whether the database now shows the row as
//! it was before or as it was after.

use std::collections::BTreeMap;

use rusqlite::ffi;

use crate::capture::buffer::{Buffer, Cell, RowChange, RowOp};
use crate::capture::reals;
use crate::capture::sqlite::{Db, quoted};
use crate::capture::table::{TableCache, TableInfo};
use crate::error::{Error, Result};
use crate::record::{self, RecordBuilder, Value};

/// First state before, last state after; `None` where the row did not exist.
#[derive(Default)]
struct Net {
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

/// What names a row: its rowid, or the record of its primary key.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Rowid(i64),
    Primary(Vec<u8>),
}

/// True if SQLite, in autocommit mode, may commit what a statement with this error has done: only FAIL does that, and FAIL
/// applies to constraints other than datatypes and foreign keys. After all other errors autocommit mode rolls back,
/// whereas a transaction may keep rows, if SQLite thought that the statement could not fail.
pub(super) fn stays_in_autocommit(error: &Error) -> bool {
    error.sqlite_code.is_some_and(|code| {
        code & 0xff == ffi::SQLITE_CONSTRAINT
            && code != ffi::SQLITE_CONSTRAINT_DATATYPE
            && code != ffi::SQLITE_CONSTRAINT_FOREIGNKEY
    })
}

/// A statement that has failed.
pub(super) struct Ended<'a> {
    pub error: &'a Error,
    pub sql: String,
    /// `sqlite3_changes()`, if the statement sets it.
    pub counted: Option<i64>,
    pub verb: Option<RowOp>,
}

impl Ended<'_> {
    /// Like [`was_kept`] without looking at rows; `None` also where only triggers have changed any, and some FAIL may be
    /// the reason.
    pub fn was_kept(&self, db: Db, buffer: &Buffer) -> Result<Option<bool>> {
        // SQLite counts the statement's own rows if they stay, but not those that a REPLACE removes.
        let counts =
            |c: &RowChange| c.depth == 0 && (c.op != RowOp::Delete || self.verb == Some(RowOp::Delete));
        match self.counted {
            Some(1..) => return Ok(Some(true)),
            Some(_) if buffer.changes().iter().any(counts) => return Ok(Some(false)),
            _ => {}
        }
        let mut fails = db.prepare(
            "SELECT 1 WHERE upper(?1) LIKE '%FAIL%'
               OR EXISTS (SELECT 1 FROM main.sqlite_schema WHERE upper(sql) LIKE '%FAIL%')",
        )?;
        fails.bind_text(1, self.sql.as_bytes())?;
        Ok((stays_in_autocommit(self.error) && !fails.step()?).then_some(false))
    }
}

/// Takes the last change of a failed statement back if it is a delete and the row is there. Before a REPLACE writes over a row in
/// place, SQLite (3.53) tells that it deletes it, and takes it out of the indexes; only then it may find that the new row has
/// a value of the wrong type. It leaves the row where it was and the indexes without it, in which case they are made anew.
pub(super) fn forget_pending_delete(db: Db, tables: &mut TableCache, buffer: &mut Buffer) -> Result<()> {
    let Some(last) = buffer.changes().last().filter(|c| c.op == RowOp::Delete) else {
        return Ok(());
    };
    let table = buffer.table(last.table);
    let info = tables.get(db, table)?;
    if let (Some(key), _) = keys(buffer, &info, last)
        && let Some(Some(_)) = current(db, &info, table, &key)?
    {
        db.execute(&format!("REINDEX main.{}", quoted(table)))?;
        buffer.pop_change();
    }
    Ok(())
}

/// True if the changes in `buffer` are still in the database. If they cancel each other out either answer is right.
/// `None` if the database does not tell: where columns hide all names of the rowid, SQL cannot reach a row by it.
pub(super) fn was_kept(db: Db, tables: &mut TableCache, buffer: &Buffer) -> Result<Option<bool>> {
    // See `reals`: what the hook reported as a real may be stored as an integer.
    let doubtful = tables.has_virtual_reals(db)?;
    let comparable = |record: Option<Vec<u8>>| match record {
        Some(record) if doubtful => reals::with_integers(&record).map(Some),
        record => Ok(record),
    };
    // Ordered, so that the same statement always asks for the same rows.
    let mut rows: BTreeMap<(usize, Key), Net> = BTreeMap::new();
    for change in buffer.changes() {
        let info = tables.get(db, buffer.table(change.table))?;
        let before = comparable(image(buffer, &info, &change.old))?;
        let after = comparable(image(buffer, &info, &change.new))?;
        let (old_key, new_key) = keys(buffer, &info, change);
        if let Some(key) = old_key {
            let net = rows
                .entry((change.table, key))
                .or_insert_with(|| Net { before, after: None });
            net.after = None;
        }
        if let Some(key) = new_key {
            rows.entry((change.table, key)).or_default().after = after;
        }
    }
    let mut cancelled_out = true;
    for ((table, key), net) in rows {
        if net.before == net.after {
            continue;
        }
        cancelled_out = false;
        let name = buffer.table(table);
        let info = tables.get(db, name)?;
        let Some(now) = current(db, &info, name, &key)? else {
            continue;
        };
        match comparable(now)? {
            now if now == net.after => return Ok(Some(true)),
            now if now == net.before => return Ok(Some(false)),
            _ => {}
        }
    }
    Ok((cancelled_out && !doubtful).then_some(false))
}

fn image(buffer: &Buffer, info: &TableInfo, row: &Option<std::ops::Range<usize>>) -> Option<Vec<u8>> {
    let row = row.as_ref()?;
    let mut out = Vec::new();
    info.record(buffer, buffer.cells(row), &mut RecordBuilder::default(), &mut out);
    Some(out)
}

/// Keys of the row before and after a change.
fn keys(buffer: &Buffer, info: &TableInfo, change: &RowChange) -> (Option<Key>, Option<Key>) {
    if !info.without_rowid {
        let old = (change.op != RowOp::Insert).then_some(Key::Rowid(change.old_rowid));
        let new = (change.op != RowOp::Delete).then_some(Key::Rowid(change.new_rowid));
        return (old, new);
    }
    let primary = |row: &std::ops::Range<usize>| {
        let cells: &[Cell] = buffer.cells(row);
        let mut builder = RecordBuilder::default();
        for (column, cell) in info.columns.iter().zip(info.real_cells(cells)) {
            if column.key > 0 {
                buffer.encode(reals::as_integer(cell), &mut builder);
            }
        }
        let mut out = Vec::new();
        builder.finish_into(&mut out);
        Key::Primary(out)
    };
    (change.old.as_ref().map(primary), change.new.as_ref().map(primary))
}

/// The row's present image: `None` if SQL cannot reach it, `Some(None)` if there is no such row.
fn current(db: Db, info: &TableInfo, table: &str, key: &Key) -> Result<Option<Option<Vec<u8>>>> {
    let keys = info
        .columns
        .iter()
        .filter(|c| c.key > 0)
        .map(|c| quoted(&c.name))
        .collect::<Vec<_>>();
    let (names, values) = match key {
        Key::Rowid(rowid) => match info.rowid_name() {
            Some(name) => (vec![name], vec![Value::Integer(*rowid)]),
            None => return Ok(None),
        },
        Key::Primary(record) => (keys, record::decode(record)?),
    };
    let looked_for = reals::with_integers(&record::encode(&values))?;
    let terms = (1..).zip(&names).map(|(i, name)| spelled(name, i));
    let sql = format!(
        "SELECT {}, {} FROM main.{} WHERE {}",
        names.join(", "),
        info.select_list(),
        quoted(table),
        terms.collect::<Vec<_>>().join(" AND ")
    );
    let mut select = db.prepare(&sql)?;
    for (i, value) in (1..).zip(&values) {
        select.bind(i, value)?;
    }
    if !select.step()? {
        return Ok(Some(None));
    }
    let mut row = select.row();
    let image = row.split_off(names.len().min(row.len()));
    let same_key = reals::with_integers(&record::encode(&row))? == looked_for;
    Ok(Some(same_key.then(|| record::encode(&image))))
}

/// The condition that a column has the value of parameter `i`, spelled like that: what its collation holds for equal is another
/// row. Both terms, because either may be the one that an index knows.
pub(super) fn spelled(name: &str, i: usize) -> String {
    format!("{name} = ?{i} AND {name} = ?{i} COLLATE BINARY")
}

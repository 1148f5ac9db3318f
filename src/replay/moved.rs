//! Rows without a key on their way to another base: which rowid they get there.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use roaring::RoaringTreemap;
use rusqlite::hooks::Action;
use rusqlite::{Connection, params_from_iter};

use crate::error::Result;
use crate::record::Value;
use crate::replay::generator::count_rows;
use crate::replay::table::{Identity, Table, quote};
use crate::replay::text::condition;
use crate::replay::values::{Bound, Slots};

/// Where rows without a key have got to. Rows that kept their rowid are not in here.
#[derive(Clone, Default)]
pub(super) struct Moved {
    /// Rowid in the replica -> rowid on the scratch.
    to: HashMap<i64, i64>,
    /// The values of `to`: rows at these rowids are never the ones that the replica means by the same number.
    taken: HashSet<i64>,
    /// Rowids in the replica of rows that the replay has made. Whatever triggers have written into them, they are meant.
    pub made: HashSet<i64>,
    /// Rowids on the scratch of rows that triggers of replayed changes have added, and that no change has asked for yet.
    /// In the replica they are others if anybody else has added rows.
    fired: RoaringTreemap,
    /// Rowids in the replica of rows that triggers added when changes were made that the base has by now: they are
    /// somewhere there.
    fired_before: RoaringTreemap,
    /// By how much the rowid of the row that was found there last was greater than in the replica.
    shift: i64,
}

impl Moved {
    /// Rowid on the scratch of the row that the replica calls `rowid`; `None` if it cannot be there.
    pub fn find(&self, rowid: i64) -> Option<i64> {
        match self.to.get(&rowid) {
            Some(moved) => Some(*moved),
            None => (!self.taken.contains(&rowid)).then_some(rowid),
        }
    }

    pub fn set(&mut self, rowid: i64, moved: i64) {
        self.forget(rowid);
        self.fired.remove(moved as u64);
        if moved != rowid {
            self.to.insert(rowid, moved);
            self.taken.insert(moved);
        }
    }

    pub fn forget(&mut self, rowid: i64) {
        if let Some(moved) = self.to.remove(&rowid) {
            self.taken.remove(&moved);
        }
        self.made.remove(&rowid);
        self.fired_before.remove(rowid as u64);
    }

    /// A trigger has added the row at `rowid` of the scratch.
    pub fn add_fired(&mut self, rowid: i64) {
        self.fired.insert(rowid as u64);
    }

    /// A trigger had added the row that the replica has at `rowid`, and the base has it, too.
    pub fn add_fired_before(&mut self, rowid: i64) {
        self.fired_before.insert(rowid as u64);
    }

    /// The row `image` that the replica has at `rowid`, if a trigger has added it on the other side: its rowid there.
    pub fn find_fired(
        &mut self,
        conn: &Connection,
        table: &Table,
        alias: &'static str,
        (rowid, image): (i64, &[Value]),
    ) -> Result<Option<i64>> {
        let before = self.fired_before.contains(rowid as u64);
        if self.fired.is_empty() && !before {
            return Ok(None);
        }
        // Most are as far away as the one before.
        let likely = rowid.wrapping_add(self.shift);
        let may_be = |rowid: i64| match before {
            true => !self.taken.contains(&rowid),
            false => self.fired.contains(rowid as u64),
        };
        let found = match may_be(likely) && is_at(conn, table, alias, likely, image)? {
            true => Some(likely),
            false => search(conn, table, alias, image, may_be)?,
        };
        if let Some(found) = found {
            self.shift = found.wrapping_sub(rowid);
            self.set(rowid, found);
            self.made.insert(rowid);
        }
        Ok(found)
    }
}

fn is_at(conn: &Connection, table: &Table, alias: &'static str, rowid: i64, image: &[Value]) -> Result<bool> {
    Ok(count_rows(conn, table, Identity::Rowid(alias), rowid, image)? == 1)
}

/// The first row that looks like `image` and may be the one.
fn search(
    conn: &Connection,
    table: &Table,
    alias: &str,
    image: &[Value],
    may_be: impl Fn(i64) -> bool,
) -> Result<Option<i64>> {
    let names: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    let mut slots = Slots::default();
    slots.extend(image);
    let (marks, args) = slots.into_parts();
    let alike = condition(table, &names, Identity::Content, &marks);
    let sql = format!(
        "SELECT {alias} FROM {} WHERE {alike} ORDER BY {alias}",
        quote(&table.name)
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(args.iter().map(Bound)))?;
    while let Some(row) = rows.next()? {
        let rowid = row.get(0)?;
        if may_be(rowid) {
            return Ok(Some(rowid));
        }
    }
    Ok(None)
}

/// Runs `write`; returns table and rowid of each row that it has inserted, itself or through triggers. Tables WITHOUT
/// ROWID are left out.
pub(super) fn inserted_by(
    conn: &Connection,
    write: impl FnOnce() -> Result<()>,
) -> Result<Vec<(String, i64)>> {
    let rows = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&rows);
    conn.update_hook(Some(move |action, schema: &str, table: &str, rowid| {
        if action == Action::SQLITE_INSERT
            && schema == "main"
            && let Ok(mut rows) = seen.lock()
        {
            rows.push((table.to_owned(), rowid));
        }
    }))?;
    let written = write();
    conn.update_hook(None::<fn(Action, &str, &str, i64)>)?;
    written?;
    Ok(rows
        .lock()
        .map(|mut rows| std::mem::take(&mut *rows))
        .unwrap_or_default())
}

/// `wanted` if no row has it, otherwise the rowid that SQLite would take, or one in a gap.
pub(super) fn free_rowid(conn: &Connection, table: &Table, alias: &str, wanted: i64) -> Result<i64> {
    let name = quote(&table.name);
    let taken = format!("SELECT EXISTS (SELECT 1 FROM {name} WHERE {alias} = ?1)");
    if !conn
        .prepare_cached(&taken)?
        .query_row([wanted], |row| row.get(0))?
    {
        return Ok(wanted);
    }
    let last: i64 = conn
        .prepare_cached(&format!("SELECT max({alias}) FROM {name}"))?
        .query_row([], |row| row.get(0))?;
    if let Some(next) = last.checked_add(1) {
        return Ok(next);
    }
    let gap = format!(
        "SELECT a.{alias} - 1 FROM {name} a
         WHERE NOT EXISTS (SELECT 1 FROM {name} b WHERE b.{alias} = a.{alias} - 1)
         ORDER BY a.{alias} DESC LIMIT 1"
    );
    Ok(conn.query_row(&gap, [], |row| row.get(0))?)
}

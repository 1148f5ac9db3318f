//! Rows without a key on their way to another base: which rowid they get there.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;

use crate::error::Result;
use crate::replay::table::{Table, quote};

/// Where rows without a key have got to. Rows that kept their rowid are not in here.
#[derive(Clone, Default)]
pub(super) struct Moved {
    /// Rowid in the replica -> rowid on the scratch.
    to: HashMap<i64, i64>,
    /// The values of `to`: rows at these rowids are never the ones that the replica means by the same number.
    taken: HashSet<i64>,
    /// Rowids in the replica of rows that the replay has made. Whatever triggers have written into them, they are meant.
    pub made: HashSet<i64>,
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
    }
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

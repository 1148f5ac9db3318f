//! The net effect of pending changes: at most one change per row, as far as nobody can tell the difference.
//!
//! Replay goes change by change, so a value that was in conflict for a moment stays in conflict although the user
//! has repaired it since. The net effect knows only the repaired row. It is what a rebase falls back to, because it
//! must hold all pending changes in memory and turns their transactions into one.
//!
//! A change that was sent may be on the remote and acknowledged at any time. It stays as it is, in its transaction.
//! The others get new ids: whatever a late request makes the remote acknowledge, they are not taken for it.
//!
//! A later change of a row moves up to where the row was changed first. That is invisible to the changes of other
//! rows in between, unless a trigger looks: tables that a trigger mentions are left as they are. A constraint may
//! look as well (a value is freed and taken again); then the net effect fails and the changes stay as they are.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::capture::clause::Clause;
use crate::capture::log::{ChangeType, LogEntry};
use crate::error::Result;
use crate::record::{Value, encode};
use crate::replay::cascade::Cascades;
use crate::replay::ddl::{Ddl, SCHEMA_TABLE};
use crate::replay::generator::{Generator, RowChange, Set};
use crate::replay::rebase::encoded;
use crate::replay::table::{Identity, Table, no_such_table};
use crate::replay::{Progress, Transactions, is_internal};

/// The changes of `current`'s log that are not acknowledged; those that were never sent as one transaction. `local` is the replica's schema before
/// them, and is changed; `scratch` the new base.
pub(super) fn net_effect(
    current: &Connection,
    scratch: &Connection,
    local: Connection,
    progress: Progress,
) -> Result<Vec<LogEntry>> {
    let mut triggers = trigger_texts(current)?;
    triggers.extend(trigger_texts(scratch)?);
    let mut net = Net {
        local,
        tables: Generator::new(),
        triggers,
        slots: Vec::new(),
        kept: 0,
        places: HashMap::new(),
    };
    let mut transactions = Transactions::new(current, progress.acknowledged);
    while let Some(entries) = transactions.next_transaction()? {
        net.transaction(&entries)?;
        if entries.last().is_some_and(|last| last.change_id <= progress.sent) {
            net.keep_so_far();
        }
    }
    Ok(net.finish(progress.last))
}

/// Texts of all triggers, and of the views through which they may look.
fn trigger_texts(conn: &Connection) -> Result<Vec<String>> {
    let mut statement =
        conn.prepare("SELECT lower(sql) FROM sqlite_schema WHERE type IN ('trigger', 'view')")?;
    let texts = statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(texts)
}

struct Slot {
    entry: LogEntry,
    /// What the entry has become, if it can be merged with later ones.
    change: Option<RowChange>,
}

struct Net {
    local: Connection,
    tables: Generator,
    /// Texts of all triggers and views, in lower case.
    triggers: Vec<String>,
    slots: Vec<Slot>,
    /// Slots before this one keep their transactions.
    kept: usize,
    /// (table, key) -> the slot with the latest change of that row, since the last schema change.
    places: HashMap<(String, Vec<u8>), usize>,
}

impl Net {
    fn transaction(&mut self, entries: &[LogEntry]) -> Result<()> {
        let mut cascades = Cascades::default();
        for entry in entries {
            if entry.table == SCHEMA_TABLE {
                self.ddl(entry)?;
            } else if !is_internal(&entry.table) && cascades.replays(&mut self.tables, &self.local, entry)? {
                self.row(entry)?;
            }
        }
        Ok(())
    }

    fn ddl(&mut self, entry: &LogEntry) -> Result<()> {
        // Records before and behind it have different layouts.
        self.places.clear();
        self.tables.invalidate();
        if let Some(ddl) = Ddl::decode(entry)? {
            match ddl.row().kind.as_str() {
                "table" => {
                    ddl.apply(&self.local)?;
                }
                "trigger" | "view" => self.triggers.push(ddl.row().sql.to_ascii_lowercase()),
                _ => {}
            }
        }
        self.slots.push(Slot {
            entry: entry.clone(),
            change: None,
        });
        Ok(())
    }

    fn row(&mut self, entry: &LogEntry) -> Result<()> {
        let table = self.tables.find_table(&self.local, &entry.table)?;
        let table = table.ok_or_else(|| no_such_table(&entry.table))?;
        if table.virtual_kind.is_some() {
            let entry = entry.clone();
            self.slots.push(Slot { entry, change: None });
            return Ok(());
        }
        let change = RowChange::decode(&table, entry)?;
        // By a foreign-key action, which nothing redoes: as if the user had done it.
        let entry = LogEntry {
            depth: 0,
            ..entry.clone()
        };
        let old = self.place(&table, &change.before);
        let new = self.place(&table, &change.after);
        let place = match (change.change_type, old, new) {
            (ChangeType::Insert, _, Some(new)) => new,
            (ChangeType::Delete, Some(old), _) => old,
            (ChangeType::Update, Some(old), Some(new)) if old == new => old,
            (_, old, new) => {
                // A row that moves, or has no key: later changes come after it.
                for place in [old, new].into_iter().flatten() {
                    self.places.remove(&place);
                }
                self.slots.push(Slot { entry, change: None });
                return Ok(());
            }
        };
        if self.is_seen_by_triggers(&table) {
            self.slots.push(Slot { entry, change: None });
            return Ok(());
        }
        let latest = self.places.get(&place).and_then(|&slot| self.slots.get_mut(slot));
        if !latest
            .and_then(|slot| slot.change.as_mut())
            .is_some_and(|latest| merge(latest, &change))
        {
            self.places.insert(place, self.slots.len());
            self.slots.push(Slot {
                entry,
                change: Some(change),
            });
        }
        Ok(())
    }

    /// What identifies the row with `values`; `None` if it has no key.
    fn place(&self, table: &Table, values: &[Value]) -> Option<(String, Vec<u8>)> {
        let key: Vec<Value> = table.key_values(values).cloned().collect();
        (table.identity(values) == Identity::Key).then(|| (table.name.clone(), encode(&key)))
    }

    /// True if a trigger may be on the table or use it: its name is in a trigger's text.
    fn is_seen_by_triggers(&self, table: &Table) -> bool {
        let name = table.name.to_ascii_lowercase();
        // Quotes are doubled in some spellings of such a name.
        let odd = name.contains(['"', '\'', '`', ']']);
        self.triggers.iter().any(|text| odd || text.contains(&name))
    }

    /// Nothing merges with what is there.
    fn keep_so_far(&mut self) {
        self.kept = self.slots.len();
        self.places.clear();
    }

    /// The entries; those that may have merged are one transaction with ids after `last`.
    fn finish(self, last: i64) -> Vec<LogEntry> {
        let kept = self.kept;
        let entry = |(at, slot): (usize, Slot)| {
            let entry = match &slot.change {
                Some(change) => encoded(&slot.entry, change),
                None => slot.entry,
            };
            match at.checked_sub(kept) {
                None => entry,
                Some(new) => LogEntry {
                    txn_id: last + 1,
                    change_id: last + 1 + new as i64,
                    ..entry
                },
            }
        };
        self.slots.into_iter().enumerate().map(entry).collect()
    }
}

/// Makes `earlier` do what both do to the same row; false if one change cannot.
fn merge(earlier: &mut RowChange, later: &RowChange) -> bool {
    match (earlier.change_type, later.change_type) {
        (ChangeType::Insert, ChangeType::Update) => earlier.after = later.after.clone(),
        (ChangeType::Update, ChangeType::Update) => {
            earlier.after = later.after.clone();
            earlier
                .mask
                .iter_mut()
                .zip(&later.mask)
                .filter(|(_, b)| **b == Set::New)
                .for_each(|(a, _)| *a = Set::New);
        }
        (ChangeType::Insert | ChangeType::Update, ChangeType::Delete) => {
            if earlier.change_type == ChangeType::Insert {
                earlier.before = later.before.clone();
                earlier.rowid = later.rowid;
            }
            earlier.change_type = ChangeType::Delete;
            earlier.clause = Clause::None;
            earlier.after.clear();
            earlier.mask.clear();
        }
        // A deleted row that comes back is a new row: columns that others added get their default.
        _ => return false,
    }
    true
}

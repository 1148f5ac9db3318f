//! The net effect of pending changes: at most one change per row, as far as nobody can tell the difference.
//!
//! Replay goes change by change, so a value that was in conflict for a moment stays in conflict although the user
//! has repaired it since. The net effect knows only the repaired row. It is what a rebase falls back to, because it
//! goes through all pending changes twice, and turns their transactions into one.
//!
//! A change that was sent may be on the remote and acknowledged at any time. It stays as it is, in its transaction.
//! The others get new ids: whatever a late request makes the remote acknowledge, they are not taken for it.
//!
//! A later change of a row moves up to where the row was changed first. That is invisible to the changes of other
//! rows in between, unless a trigger looks: tables that a trigger mentions are left as they are. A constraint may
//! look as well (a value is freed and taken again); then the net effect fails and the changes stay as they are.

use rusqlite::{Connection, OptionalExtension};

use crate::capture::clause::Clause;
use crate::capture::log::{ChangeType, LogEntry, read_entries_of, write_entry_to};
use crate::error::Result;
use crate::record::{Value, encode};
use crate::replay::ddl::{Ddl, SCHEMA_TABLE};
use crate::replay::generator::{Generator, RowChange, Set};
use crate::replay::table::{Identity, Table, no_such_table};
use crate::replay::{Progress, Transaction, Transactions, is_internal};

/// The net effect while it grows, in the layout of the change log. It lies in the scratch's temporary database, so that
/// it may be of any size.
const CHANGES: &str = "temp.__turso_internal_net";
const CREATE: &str = "
CREATE TABLE temp.__turso_internal_net (change_id INTEGER PRIMARY KEY, change_time, change_txn_id, change_type,
  table_name, id, \"before\", \"after\", updates, depth);
CREATE TABLE temp.__turso_internal_places (name TEXT, \"key\" BLOB, change_id INTEGER NOT NULL, PRIMARY KEY (name, \"key\"))
  WITHOUT ROWID;
";

/// The changes of `current`'s log that are not acknowledged; those that were never sent as one transaction. `local` is
/// the replica's schema before them, and is changed; `scratch` the new base.
pub(super) fn net_effect<'a>(
    current: &Connection,
    scratch: &'a Connection,
    local: Connection,
    progress: Progress,
) -> Result<Transactions<'a>> {
    scratch.execute_batch(CREATE)?;
    let mut triggers = trigger_texts(current)?;
    triggers.extend(trigger_texts(scratch)?);
    let mut net = Net {
        scratch,
        local,
        tables: Generator::new(),
        triggers,
        new_txn: progress.last + 1,
        new_changes: 0,
    };
    let mut transactions = Transactions::new(current, progress.acknowledged);
    while let Some(transaction) = transactions.next_transaction()? {
        let sent = transaction.last_change_id() <= progress.sent;
        net.transaction(&transaction, sent)?;
    }
    Ok(Transactions::of_table(scratch, CHANGES, progress.acknowledged))
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

struct Net<'a> {
    scratch: &'a Connection,
    local: Connection,
    tables: Generator,
    /// Texts of all triggers and views, in lower case.
    triggers: Vec<String>,
    /// Id of the transaction that the changes become which were never sent; the ids of the changes begin there, too.
    new_txn: i64,
    new_changes: i64,
}

impl Net<'_> {
    fn transaction(&mut self, transaction: &Transaction<'_>, sent: bool) -> Result<()> {
        for entry in transaction.entries() {
            let entry = entry?;
            if entry.table == SCHEMA_TABLE {
                self.ddl(&entry, sent)?;
            } else if !is_internal(&entry.table) && entry.is_replayed() {
                self.row(&entry, sent)?;
            }
        }
        if sent {
            // Nothing merges with what is there.
            self.forget_places()?;
        }
        Ok(())
    }

    fn ddl(&mut self, entry: &LogEntry, sent: bool) -> Result<()> {
        // Records before and behind it have different layouts.
        self.forget_places()?;
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
        self.add(entry.clone(), sent)?;
        Ok(())
    }

    fn row(&mut self, entry: &LogEntry, sent: bool) -> Result<()> {
        let table = self.tables.find_table(&self.local, &entry.table)?;
        let table = table.ok_or_else(|| no_such_table(&entry.table))?;
        if table.virtual_kind.is_some() {
            self.add(entry.clone(), sent)?;
            return Ok(());
        }
        let change = RowChange::decode(&table, entry)?;
        let old = place(&table, &change.before);
        let new = place(&table, &change.after);
        let place = match (change.change_type, old, new) {
            (ChangeType::Insert, _, Some(new)) => new,
            (ChangeType::Delete, Some(old), _) => old,
            (ChangeType::Update, Some(old), Some(new)) if old == new => old,
            (_, old, new) => {
                // A row that moves, or has no key: later changes come after it.
                for place in [old, new].into_iter().flatten() {
                    self.forget_place(&table, &place)?;
                }
                self.add(entry.clone(), sent)?;
                return Ok(());
            }
        };
        if self.is_seen_by_triggers(&table) {
            self.add(entry.clone(), sent)?;
            return Ok(());
        }
        if let Some(earlier) = self.latest(&table, &place)? {
            let mut merged = RowChange::decode(&table, &earlier)?;
            if merge(&mut merged, &change) {
                return write_entry_to(self.scratch, CHANGES, &merged.encode(&earlier));
            }
        }
        let change_id = self.add(entry.clone(), sent)?;
        self.set_place(&table, &place, change_id)
    }

    /// Appends a change; its id.
    fn add(&mut self, mut entry: LogEntry, sent: bool) -> Result<i64> {
        if !sent {
            entry.txn_id = self.new_txn;
            entry.change_id = self.new_txn + self.new_changes;
            self.new_changes += 1;
        }
        write_entry_to(self.scratch, CHANGES, &entry)?;
        Ok(entry.change_id)
    }

    /// The latest change of a row, since the last schema change, that others may merge with.
    fn latest(&self, table: &Table, key: &[u8]) -> Result<Option<LogEntry>> {
        let sql = "SELECT change_id FROM temp.__turso_internal_places WHERE name = ?1 AND \"key\" = ?2";
        let mut statement = self.scratch.prepare_cached(sql)?;
        let id: Option<i64> = statement
            .query_row((&table.name, key), |row| row.get(0))
            .optional()?;
        let Some(id) = id else { return Ok(None) };
        Ok(read_entries_of(self.scratch, CHANGES, id - 1, 1)?.pop())
    }

    fn set_place(&self, table: &Table, key: &[u8], change_id: i64) -> Result<()> {
        let sql = "REPLACE INTO temp.__turso_internal_places VALUES (?1, ?2, ?3)";
        self.scratch
            .prepare_cached(sql)?
            .execute((&table.name, key, change_id))?;
        Ok(())
    }

    fn forget_place(&self, table: &Table, key: &[u8]) -> Result<()> {
        let sql = "DELETE FROM temp.__turso_internal_places WHERE name = ?1 AND \"key\" = ?2";
        self.scratch.prepare_cached(sql)?.execute((&table.name, key))?;
        Ok(())
    }

    fn forget_places(&self) -> Result<()> {
        self.scratch
            .prepare_cached("DELETE FROM temp.__turso_internal_places")?
            .execute([])?;
        Ok(())
    }

    /// True if a trigger may be on the table or use it: its name is in a trigger's text.
    fn is_seen_by_triggers(&self, table: &Table) -> bool {
        let name = table.name.to_ascii_lowercase();
        // Quotes are doubled in some spellings of such a name.
        let odd = name.contains(['"', '\'', '`', ']']);
        self.triggers.iter().any(|text| odd || text.contains(&name))
    }
}

/// What identifies the row of `table` with `values`; `None` if it has no key.
fn place(table: &Table, values: &[Value]) -> Option<Vec<u8>> {
    let key: Vec<Value> = table.key_values(values).cloned().collect();
    (table.identity(values) == Identity::Key).then(|| encode(&key))
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

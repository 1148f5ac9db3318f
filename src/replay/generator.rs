//! From a row change to the statements that carry it.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode};

use crate::capture::clause::Clause;
use crate::capture::log::{ChangeType, LogEntry};
use crate::error::{Error, Result};
use crate::record::{Value, decode, encode};
use crate::replay::clause::Or;
use crate::replay::replaced::{By, Replaced};
use crate::replay::table::{Identity, Table, no_such_table, quote};
use crate::replay::text::{check_text, condition, text};
use crate::replay::values::Slots;
use crate::replay::{Purpose, ReplayStatement, virtual_table};

/// Statement texts kept per table; more than that (many different masks) and they are made anew.
const TEXTS_PER_TABLE: usize = 256;

/// What an update does to a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Set {
    /// It does not name the column.
    Kept,
    /// It sets the column to a new value.
    New,
    /// It assigns the value that is there, which only triggers notice.
    Same,
}

/// A log entry of a row, decoded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowChange {
    pub change_type: ChangeType,
    pub rowid: i64,
    /// The old row; empty for an insert.
    pub before: Vec<Value>,
    /// The new row; empty for a delete.
    pub after: Vec<Value>,
    /// What an update does to each column; empty for the others.
    pub mask: Vec<Set>,
    /// A delete by a REPLACE that fired no trigger.
    pub replaced: Option<By>,
    /// The conflict clause that overrode those in the bodies of the change's triggers.
    pub clause: Clause,
}

impl RowChange {
    /// Decodes `entry`, whose records have the layout of `table`. Of a virtual table's row the images may be unknown,
    /// and there is no mask.
    pub(super) fn decode(table: &Table, entry: &LogEntry) -> Result<RowChange> {
        let width = table.columns.len();
        let is_virtual = table.virtual_kind.is_some();
        let bad = |what: &str| {
            Error::corrupt(format!(
                "change {} of table {} in the change log: {what}",
                entry.change_id, entry.table
            ))
        };
        let row = |record: &Option<Vec<u8>>, wanted: bool| -> Result<Vec<Value>> {
            let values = match record {
                Some(record) if wanted => decode(record)?,
                None if wanted && !is_virtual => return Err(bad("a row image is missing")),
                _ => return Ok(Vec::new()),
            };
            if values.len() != width {
                return Err(bad(&format!("{} values for {width} columns", values.len())));
            }
            Ok(values)
        };
        let before = row(&entry.before, entry.change_type != ChangeType::Insert)?;
        let after = row(&entry.after, entry.change_type != ChangeType::Delete)?;
        let updates = match &entry.updates {
            Some(updates) if !is_virtual => Some(decode(updates)?),
            _ => None,
        };
        let is_update = entry.change_type == ChangeType::Update;
        let extra = updates.as_deref().and_then(|updates| match is_update {
            true => updates.get(2 * width),
            false => updates.first(),
        });
        let extra = match extra {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        };
        let mask = match &updates {
            _ if is_virtual || !is_update => Vec::new(),
            None => vec![Set::New; width],
            Some(updates) => {
                if updates.len() != 2 * width + usize::from(extra.is_some()) {
                    return Err(bad("the mask does not fit the table"));
                }
                updates
                    .iter()
                    .take(width)
                    .map(|flag| match flag {
                        Value::Integer(1) => Set::New,
                        Value::Integer(2) => Set::Same,
                        _ => Set::Kept,
                    })
                    .collect()
            }
        };
        let is_delete = entry.change_type == ChangeType::Delete;
        Ok(RowChange {
            change_type: entry.change_type,
            rowid: entry.rowid,
            before,
            after,
            mask,
            replaced: extra.filter(|_| is_delete).map(By::of),
            clause: extra.filter(|_| !is_delete).map_or(Clause::None, Clause::of),
        })
    }

    /// `entry` with the content of this change, as one that nothing else redoes.
    pub(super) fn encode(&self, entry: &LogEntry) -> LogEntry {
        let row = |values: &Vec<Value>| (!values.is_empty()).then(|| encode(values));
        let clause = self.clause.number().map(Value::Integer);
        let updates = (self.change_type == ChangeType::Update).then(|| {
            let flags = self.mask.iter().map(|set| match set {
                Set::Kept => Value::Integer(0),
                Set::New => Value::Integer(1),
                Set::Same => Value::Integer(2),
            });
            let value = |(v, set): (&Value, &Set)| match set {
                Set::New => v.clone(),
                _ => Value::Null,
            };
            let values = self.after.iter().zip(&self.mask).map(value);
            encode(&flags.chain(values).chain(clause.clone()).collect::<Vec<_>>())
        });
        let more = || match self.replaced {
            Some(by) => Some(encode(&[Value::Integer(by.number())])),
            None => clause.clone().map(|clause| encode(&[clause])),
        };
        LogEntry {
            change_type: self.change_type,
            rowid: self.rowid,
            before: row(&self.before),
            after: row(&self.after),
            updates: updates.or_else(more),
            ..entry.clone()
        }
    }

    /// The image that tells which row is meant.
    pub(super) fn target(&self) -> &[Value] {
        if self.change_type == ChangeType::Insert {
            &self.after
        } else {
            &self.before
        }
    }

    /// True for an update that gives a column another value.
    pub(super) fn changes_values(&self) -> bool {
        self.mask.contains(&Set::New)
    }
}

/// The different texts of a table's statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Upsert,
    Insert(Identity),
    Update(Identity),
    Recreate {
        key_changed: bool,
        null_key: bool,
    },
    /// An insert of a row without a key that its clause has left undone.
    InsertAgain(Identity),
    /// Like `Recreate`, before the update.
    RecreateFirst {
        key_changed: bool,
        null_key: bool,
    },
    /// An update under a clause of its own, unless the statement before has made the row.
    CarriedUpdate(Identity),
    /// The same where no statement could make the row.
    CarriedUpdateOnly(Identity),
    /// What it has left undone.
    UpdateAgain(Identity),
    Delete(Identity),
    GuardFree,
    GuardPresent(Identity),
    GuardSingle,
    /// What a REPLACE has not removed over there, unless it is the new row itself.
    DeleteReplaced(Identity),
    /// A row with this key may not be there.
    CheckAbsent,
}

impl Kind {
    /// What other sides have done may call for it, where it needs triggers that the change itself did not.
    fn is_repair(self) -> bool {
        matches!(
            self,
            Kind::Recreate { .. } | Kind::RecreateFirst { .. } | Kind::DeleteReplaced(_)
        )
    }
}

/// Kind, conflict clause, mask, marks that are not all `?`.
type TextKey = (Kind, Or, Vec<Set>, Vec<&'static str>);

#[derive(Debug, Clone)]
struct Text {
    sql: Arc<str>,
    purpose: Purpose,
    /// False if a trigger that cannot run keeps SQLite from compiling what the statement is meant to do.
    compiles: bool,
}

/// Makes statements from row changes, for a connection that has the schema as of the change.
///
/// Caches what it knows about tables; call [`Generator::invalidate`] after every DDL statement.
#[derive(Debug, Default)]
pub struct Generator {
    tables: HashMap<String, Known>,
    /// Deletes by a REPLACE whose insert or update is still to come.
    replaced: Vec<Replaced>,
    /// Statements remove rows that stand in the way of a UNIQUE constraint.
    overwrite: bool,
}

#[derive(Debug)]
struct Known {
    table: Arc<Table>,
    texts: HashMap<TextKey, Text>,
}

impl Generator {
    /// A generator that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the statements from now on remove rows that stand in the way of a UNIQUE constraint.
    /// True if other rows give way.
    pub(super) fn overwrites(&self) -> bool {
        self.overwrite
    }

    pub(super) fn set_overwrite(&mut self, overwrite: bool) {
        self.overwrite = overwrite;
    }

    /// Forgets all tables.
    pub fn invalidate(&mut self) {
        self.tables.clear();
    }

    /// The table `name` of `conn`, if it exists.
    pub(super) fn find_table(&mut self, conn: &Connection, name: &str) -> Result<Option<Arc<Table>>> {
        if let Some(known) = self.tables.get(name) {
            return Ok(Some(known.table.clone()));
        }
        let Some(table) = Table::load(conn, name)? else {
            return Ok(None);
        };
        let table = Arc::new(table);
        self.tables.insert(
            name.to_owned(),
            Known {
                table: table.clone(),
                texts: HashMap::new(),
            },
        );
        Ok(Some(table))
    }

    /// The statements that carry the row change `entry` (not DDL), in order; none if nothing is to be done. `conn`
    /// has the schema that the entry's records follow.
    pub fn change(&mut self, conn: &Connection, entry: &LogEntry) -> Result<Vec<ReplayStatement>> {
        let table = self
            .find_table(conn, &entry.table)?
            .ok_or_else(|| no_such_table(&entry.table))?;
        if let Some(kind) = table.virtual_kind {
            return virtual_table::statements(&table, kind, entry);
        }
        let change = RowChange::decode(&table, entry)?;
        self.row_change(conn, &table, entry, &change)
    }

    pub(super) fn row_change(
        &mut self,
        conn: &Connection,
        table: &Arc<Table>,
        entry: &LogEntry,
        change: &RowChange,
    ) -> Result<Vec<ReplayStatement>> {
        let known = match self.tables.get_mut(&entry.table) {
            Some(known) => known,
            None => self.tables.entry(entry.table.clone()).or_insert_with(|| Known {
                table: table.clone(),
                texts: HashMap::new(),
            }),
        };
        let of_table = |r: &Replaced| r.table.name == table.name;
        let replaced = match change.change_type {
            ChangeType::Delete if change.replaced.is_some() && table.delete_triggers => {
                self.replaced.push(Replaced {
                    table: table.clone(),
                    entry: entry.clone(),
                    change: change.clone(),
                });
                return Ok(Vec::new());
            }
            ChangeType::Insert | ChangeType::Update if entry.depth == 0 => {
                self.replaced.extract_if(.., |r| of_table(r)).collect()
            }
            _ => Vec::new(),
        };
        let mut out = Statements {
            conn,
            table,
            texts: &mut known.texts,
            entry,
            overwrite: self.overwrite,
            or: Or::for_change(table, change, &replaced, self.overwrite),
            replaced,
            done: Vec::new(),
        };
        let identity = table.identity(change.target());
        out.guard_replaced();
        match change.change_type {
            ChangeType::Insert => out.insert(identity, change),
            ChangeType::Update => out.update(identity, change),
            ChangeType::Delete => out.delete(identity, change),
        }
        out.delete_replaced(change);
        Ok(out.done)
    }

    /// Rowid on the executing side of the row at `rowid` in the log, if a REPLACE is about to remove it.
    pub(super) fn replaced_rowid(&self, table: &Table, rowid: i64) -> Option<i64> {
        let found = |r: &&Replaced| r.table.name == table.name && r.entry.rowid == rowid;
        self.replaced.iter().find(found).map(|r| r.change.rowid)
    }

    /// To be called at the end of a transaction: statements for deletes that nothing has followed.
    pub(super) fn finish(&mut self, conn: &Connection) -> Result<Vec<ReplayStatement>> {
        let mut statements = Vec::new();
        for Replaced { table, entry, change } in std::mem::take(&mut self.replaced) {
            let change = RowChange {
                replaced: None,
                ..change
            };
            statements.extend(self.row_change(conn, &table, &entry, &change)?);
        }
        Ok(statements)
    }
}

/// The statements of one change under construction.
pub(super) struct Statements<'a> {
    /// Has the schema, with the triggers.
    conn: &'a Connection,
    pub(super) table: &'a Table,
    texts: &'a mut HashMap<TextKey, Text>,
    /// Rows that stand in the way of a UNIQUE constraint are removed.
    overwrite: bool,
    entry: &'a LogEntry,
    /// Rows that the change replaces.
    pub(super) replaced: Vec<Replaced>,
    /// The conflict clause of the statements.
    pub(super) or: Or,
    pub(super) done: Vec<ReplayStatement>,
}

impl Statements<'_> {
    fn insert(&mut self, identity: Identity, change: &RowChange) {
        let mut slots = Slots::default();
        match identity {
            Identity::Key => self.insert_keyed(change),
            Identity::Rowid(_) => {
                let rowid = Value::Integer(change.rowid);
                self.guard_free(change.rowid);
                slots.push(&rowid);
                slots.extend(&change.after);
                self.add(Kind::Insert(identity), &[], slots);
            }
            Identity::Content => {
                slots.extend(&change.after);
                self.add(Kind::Insert(identity), &[], slots);
            }
        }
        if let Or::Carried(_) = self.or {
            self.insert_again(identity, change);
        }
    }

    /// Inserts a row with a key, or sets the one that is there.
    fn insert_keyed(&mut self, change: &RowChange) {
        let mut slots = Slots::default();
        slots.extend(&change.after);
        // The update of an upsert never replaces neighbours, a plain one does.
        if self.overwrite && self.replaced.is_empty() {
            let own_key = |i: usize| self.table.key.contains(&i);
            let set = |i| if own_key(i) { Set::Kept } else { Set::New };
            let mut mask: Vec<Set> = (0..change.after.len()).map(set).collect();
            if !mask.contains(&Set::New) {
                mask.fill(Set::New);
            }
            let mut update = changed_values(&mask, change);
            update.extend(self.table.key_values(&change.after));
            if self.compiles(Kind::Update(Identity::Key), &mask, &update) {
                return self.update_by_key(&mask, &change.after, change);
            }
        }
        // SQLite compiles UPDATE triggers for an upsert. One that cannot run was not needed here, and must not be there
        // as long as the row is new.
        if self.compiles(Kind::Upsert, &[], &slots) {
            return self.add(Kind::Upsert, &[], slots);
        }
        if let Or::Carried(_) = self.or {
            let mut key = Slots::default();
            key.extend(self.table.key_values(&change.after));
            self.add(Kind::CheckAbsent, &[], key);
        }
        self.add(Kind::Insert(Identity::Key), &[], slots);
    }

    pub(super) fn update(&mut self, identity: Identity, change: &RowChange) {
        let mut mask = change.mask.clone();
        if !change.changes_values() {
            // Nobody can see such an update but a trigger.
            if !self.table.has_triggers {
                return;
            }
            // If the log names no column, it was the rowid that was set to itself, or no trigger minds which it is.
            let rowid = self.table.assignment_triggers && self.table.rowid.is_some();
            if !rowid && !mask.contains(&Set::Same) {
                match self.table.key.first().or(Some(&0)).and_then(|&k| mask.get_mut(k)) {
                    Some(set) => *set = Set::Same,
                    None => return,
                }
            }
        }
        if let Or::Carried(clause) = self.or {
            return self.carried_update(clause, identity, &mask, change);
        }
        if identity == Identity::Key {
            return self.update_by_key(&mask, &change.before, change);
        }
        self.guard_present(identity, change);
        let mut slots = changed_values(&mask, change);
        match identity {
            Identity::Key => slots.extend(self.table.key_values(&change.before)),
            // The guard has seen to the content.
            Identity::Rowid(_) => slots.push(&Value::Integer(change.rowid)),
            Identity::Content => slots.extend(&change.before),
        }
        self.add(Kind::Update(identity), &mask, slots);
    }

    /// Gives the row with the key of `old` the new values of the columns in `mask`, or makes it anew.
    fn update_by_key(&mut self, mask: &[Set], old: &[Value], change: &RowChange) {
        let mut slots = changed_values(mask, change);
        slots.extend(self.table.key_values(old));
        self.add(Kind::Update(Identity::Key), mask, slots);
        self.recreate(mask, old, change);
    }

    /// Inserts the new image of an updated row that was deleted on the other side.
    pub(super) fn recreate(&mut self, mask: &[Set], old: &[Value], change: &RowChange) {
        let table = self.table;
        let null_key = table.key_values(&change.after).any(|v| *v == Value::Null);
        let key_changed = table.key_values(&change.after).ne(table.key_values(old));
        let mut slots = Slots::default();
        slots.extend(&change.after);
        if !key_changed {
            slots.extend(table.key_values(&change.after));
        }
        self.add(
            Kind::Recreate {
                key_changed,
                null_key,
            },
            mask,
            slots,
        );
    }

    fn delete(&mut self, identity: Identity, change: &RowChange) {
        if identity != Identity::Key && (!self.table.key.is_empty() || self.table.in_triggers) {
            // The row may have had a key before, or be one that a trigger added, and with that another rowid than here.
            self.guard_present(identity, change);
        }
        let mut slots = Slots::default();
        match identity {
            Identity::Key => slots.extend(self.table.key_values(&change.before)),
            Identity::Rowid(_) => {
                slots.push(&Value::Integer(change.rowid));
                slots.extend(&change.before);
            }
            Identity::Content => {
                // One of several equal rows cannot be told from the others.
                let mut guard = Slots::default();
                guard.extend(&change.before);
                self.add(Kind::GuardSingle, &[], guard);
                slots.extend(&change.before);
            }
        }
        self.add(Kind::Delete(identity), &[], slots);
    }

    /// Nobody else's row may be at `rowid`.
    fn guard_free(&mut self, rowid: i64) {
        // Then it is one that the change replaces.
        if self.replaced.iter().any(|r| r.change.rowid == rowid) {
            return;
        }
        let mut guard = Slots::default();
        guard.push(&Value::Integer(rowid));
        self.add(Kind::GuardFree, &[], guard);
    }

    pub(super) fn guard_present(&mut self, identity: Identity, change: &RowChange) {
        let mut slots = Slots::default();
        if let Identity::Rowid(_) = identity {
            slots.push(&Value::Integer(change.rowid));
        }
        slots.extend(&change.before);
        self.add(Kind::GuardPresent(identity), &[], slots);
    }

    pub(super) fn add(&mut self, kind: Kind, mask: &[Set], slots: Slots) {
        let text = self.text(kind, mask, &slots);
        let (_, args) = slots.into_parts();
        self.done.push(ReplayStatement {
            sql: text.sql,
            args,
            purpose: text.purpose,
            change_id: self.entry.change_id,
            txn_id: self.entry.txn_id,
            table: self.table.name.clone(),
            key: self.table.key_names.clone(),
        });
    }

    /// True if all triggers that SQLite compiles for the statement can run.
    pub(super) fn compiles(&mut self, kind: Kind, mask: &[Set], slots: &Slots) -> bool {
        !self.table.has_triggers || self.text(kind, mask, slots).compiles
    }

    fn text(&mut self, kind: Kind, mask: &[Set], slots: &Slots) -> Text {
        let key = (kind, self.or, mask.to_vec(), slots.shape());
        if let Some(text) = self.texts.get(&key) {
            return text.clone();
        }
        let text = self.new_text(kind, mask, slots.marks());
        if self.texts.len() >= TEXTS_PER_TABLE {
            self.texts.clear();
        }
        self.texts.insert(key, text.clone());
        text
    }

    fn new_text(&self, kind: Kind, mask: &[Set], marks: &[&'static str]) -> Text {
        let sql = text(self.table, kind, self.or, mask, marks);
        let compiles = !self.table.has_triggers || compiles(self.conn, &sql);
        if !compiles && kind.is_repair() {
            return Text {
                sql: check_text(self.table, kind, self.or, mask, marks).into(),
                purpose: Purpose::Check,
                compiles,
            };
        }
        let purpose = match kind {
            Kind::GuardFree | Kind::GuardPresent(_) | Kind::GuardSingle => Purpose::Guard,
            Kind::CheckAbsent => Purpose::Check,
            _ => Purpose::Change,
        };
        Text {
            sql: sql.into(),
            purpose,
            compiles,
        }
    }
}

/// False if SQLite says that `sql` does not fit the schema. Other errors come again when it runs.
fn compiles(conn: &Connection, sql: &str) -> bool {
    let result = conn.prepare(sql).map(drop);
    !result.is_err_and(|e| e.sqlite_error_code() == Some(ErrorCode::Unknown))
}

/// The new values of the columns in `mask`.
pub(super) fn changed_values(mask: &[Set], change: &RowChange) -> Slots {
    let mut slots = Slots::default();
    let changed = change.after.iter().zip(mask).filter(|(_, set)| **set == Set::New);
    slots.extend(changed.map(|(value, _)| value));
    slots
}

/// Number of rows on `conn` that may be the one meant: at `rowid` if rows have one, and with the content `image`;
/// 2 = several.
pub(super) fn count_rows(
    conn: &Connection,
    table: &Table,
    identity: Identity,
    rowid: i64,
    image: &[Value],
) -> Result<i64> {
    let names: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    let mut slots = Slots::default();
    match identity {
        Identity::Key => slots.extend(table.key_values(image)),
        Identity::Rowid(_) => {
            slots.push(&Value::Integer(rowid));
            slots.extend(image);
        }
        Identity::Content => slots.extend(image),
    }
    let (marks, args) = slots.into_parts();
    let found = condition(table, &names, identity, &marks);
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM {} WHERE {found} LIMIT 2)",
        quote(&table.name)
    );
    let args = rusqlite::params_from_iter(args.iter().map(crate::replay::values::Bound));
    Ok(conn.prepare_cached(&sql)?.query_row(args, |row| row.get(0))?)
}

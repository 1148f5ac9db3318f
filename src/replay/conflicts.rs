//! The local table `turso_sync_conflicts`, made for reading with plain SQL.
//!
//! | state | rows | the transaction |
//! |---|---|---|
//! | `blocked` | the change that failed | is pending; the last sync stopped at it |
//! | `overwrite` | the change that failed | is pending; the next push overwrites what is in its way |
//! | `set aside` | every change, in order | is out of the database, and kept only here |
//!
//! `conflict` is the transaction's id; `kind`, `constraint`, `sqlite_code` and `message` are set in the row of the
//! change that failed. `key`, `old` and `new` are JSON objects by column name: blobs as `x'00ff'`, infinities as text.
//! What is exact is in the columns that the change log has as well, in the layout of `table_sql`.
//!
//! Without `message` a transaction that overwrites is acknowledged, but not in the base: whoever replays it must overwrite,
//! and nobody else is told.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use serde_json::{Map, Value as Json, json};

use crate::capture::log::{CONFLICT_TABLE, ChangeType, LogEntry};
use crate::error::{Category, Code, Error, Result};
use crate::record::Value;
use crate::replay::conflict::{
    Conflict, ConflictKind, ConflictOperation, ConflictState, Failure, constraint_of,
};
use crate::replay::generator::RowChange;
use crate::replay::table::{Identity, Table};
use crate::replay::values::{Bound, from_column};

/// A change of a transaction that is set aside.
pub(super) struct Kept {
    /// The change as in the log, of depth 0.
    pub entry: LogEntry,
    /// CREATE statement of the table whose layout the records have; `None` for the creation of something.
    pub table_sql: Option<String>,
    /// Old and new row for readers.
    pub old: Option<String>,
    pub new: Option<String>,
    /// The row's key for readers.
    pub key: String,
}

/// All conflicts, oldest transaction first.
pub fn list(conn: &Connection) -> Result<Vec<Conflict>> {
    let mut statement = conn.prepare(
        "SELECT conflict, change_id, state, noticed, kind, \"constraint\", sqlite_code, message, table_name, operation,
           \"key\", CASE state WHEN 'set aside' THEN (SELECT count(*) FROM turso_sync_conflicts b WHERE b.conflict = a.conflict)
             ELSE (SELECT count(*) FROM turso_cdc WHERE change_txn_id = conflict AND depth <= 0) END
         FROM turso_sync_conflicts a WHERE message IS NOT NULL ORDER BY conflict",
    )?;
    let mut rows = statement.query([])?;
    let mut conflicts = Vec::new();
    while let Some(row) = rows.next()? {
        let text =
            |i| -> rusqlite::Result<String> { Ok(row.get::<_, Option<String>>(i)?.unwrap_or_default()) };
        let state = text(2)?;
        conflicts.push(Conflict {
            txn_id: row.get(0)?,
            change_id: row.get(1)?,
            state: ConflictState::parse(&state)
                .ok_or_else(|| Error::corrupt(format!("{CONFLICT_TABLE} has the unknown state {state:?}")))?,
            unix_time: row.get(3)?,
            kind: ConflictKind::parse(&text(4)?),
            constraint: text(5)?,
            sqlite_code: row.get(6)?,
            message: text(7)?,
            table: text(8)?,
            operation: ConflictOperation::parse(&text(9)?),
            key: text(10)?,
            changes: u64::try_from(row.get::<_, i64>(11)?).unwrap_or(0),
        });
    }
    Ok(conflicts)
}

/// Where the conflict `txn_id` stands; `None` if there is no such conflict.
pub fn state_of(conn: &Connection, txn_id: i64) -> Result<Option<ConflictState>> {
    let sql = "SELECT state FROM turso_sync_conflicts WHERE conflict = ?1 AND message IS NOT NULL LIMIT 1";
    let state: Option<String> = conn.query_row(sql, [txn_id], |row| row.get(0)).optional()?;
    Ok(state.as_deref().and_then(ConflictState::parse))
}

/// What was noted about the pending transaction `txn_id`; `None` if it is not pending, or nothing was noted.
pub fn failure_of(conn: &Connection, txn_id: i64) -> Result<Option<Failure>> {
    let sql = "SELECT change_id, change_type, kind, sqlite_code, message, table_name, operation, \"key\" FROM turso_sync_conflicts
               WHERE conflict = ?1 AND message IS NOT NULL AND conflict IN (SELECT change_txn_id FROM turso_cdc)";
    let read = |row: &rusqlite::Row<'_>| {
        let mut error = Error::new(Category::Conflict, Code::Constraint, row.get::<_, String>(4)?);
        error.sqlite_code = row.get(3)?;
        Ok((
            row.get(1)?,
            Failure {
                txn_id,
                change_id: row.get(0)?,
                table: row.get(5)?,
                change_type: ChangeType::Update,
                operation: ConflictOperation::parse(&row.get::<_, String>(6)?),
                key: row.get(7)?,
                kind: ConflictKind::parse(&row.get::<_, Option<String>>(2)?.unwrap_or_default()),
                error,
            },
        ))
    };
    let Some((number, failure)) = conn.query_row(sql, [txn_id], read).optional()? else {
        return Ok(None);
    };
    Ok(Some(Failure {
        change_type: ChangeType::of(number)?,
        ..failure
    }))
}

/// Transactions that overwrite what is in their way, pending or not.
pub fn overwriting(conn: &Connection) -> Result<HashSet<i64>> {
    let sql = "SELECT conflict FROM turso_sync_conflicts WHERE state = 'overwrite'";
    let mut statement = conn.prepare(sql)?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// The last change above `acknowledged` of a transaction that overwrites; `acknowledged` if there is none.
pub(super) fn last_overwriting(conn: &Connection, acknowledged: i64) -> Result<i64> {
    let sql = "SELECT max(change_id) FROM turso_cdc WHERE change_id > ?1
               AND change_txn_id IN (SELECT conflict FROM turso_sync_conflicts WHERE state = 'overwrite')";
    let last: Option<i64> = conn.query_row(sql, [acknowledged], |row| row.get(0))?;
    Ok(last.unwrap_or(acknowledged))
}

/// Notes a pending transaction that failed. Replaces what was noted about it.
pub fn note(conn: &Connection, failure: &Failure, state: ConflictState, unix_time: i64) -> Result<()> {
    remove(conn, failure.txn_id)?;
    let sql = "INSERT INTO turso_sync_conflicts(conflict, change_id, state, noticed, table_name, operation, \"key\", change_type)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    conn.prepare_cached(sql)?.execute(params![
        failure.txn_id,
        failure.change_id,
        state.name(),
        unix_time,
        failure.table,
        failure.operation.name(),
        failure.key,
        failure.change_type as i64,
    ])?;
    explain(conn, failure)
}

/// Writes why a change failed into its row.
fn explain(conn: &Connection, failure: &Failure) -> Result<()> {
    let sql = "UPDATE turso_sync_conflicts SET kind = ?3, \"constraint\" = ?4, sqlite_code = ?5, message = ?6
               WHERE conflict = ?1 AND change_id = ?2";
    let explained = conn.prepare_cached(sql)?.execute(params![
        failure.txn_id,
        failure.change_id,
        failure.kind.name(),
        constraint_of(&failure.error.message),
        failure.error.sqlite_code,
        failure.error.message,
    ])?;
    match explained {
        1 => Ok(()),
        _ => Err(Error::internal(
            "a conflict has no row for the change that failed",
        )),
    }
}

/// Replaces the blocked transactions by `failures`. Writes nothing if they are noted already: a sync that fails again
/// and again must not fill the disk.
pub fn note_blocked(conn: &Connection, failures: &[Failure], unix_time: i64) -> Result<()> {
    let known = list(conn)?
        .into_iter()
        .filter(|c| c.state == ConflictState::Blocked);
    let same = |c: &Conflict, f: &Failure| c.change_id == f.change_id && c.message == f.error.message;
    let known: Vec<Conflict> = known.collect();
    if known.len() == failures.len() && known.iter().zip(failures).all(|(c, f)| same(c, f)) {
        return Ok(());
    }
    conn.execute("DELETE FROM turso_sync_conflicts WHERE state = 'blocked'", [])?;
    failures
        .iter()
        .try_for_each(|failure| note(conn, failure, ConflictState::Blocked, unix_time))
}

/// Writes the changes of a transaction that is set aside because of `failure`, which is one of them.
pub(super) fn set_aside(
    conn: &Connection,
    changes: &[Kept],
    failure: &Failure,
    unix_time: i64,
) -> Result<()> {
    let sql = "INSERT INTO turso_sync_conflicts(conflict, change_id, state, noticed, table_name, operation, \"key\", old, new,
                 change_time, change_type, id, \"before\", \"after\", updates, table_sql)
               VALUES (?1, ?2, 'set aside', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    let mut statement = conn.prepare_cached(sql)?;
    for change in changes {
        let entry = &change.entry;
        let operation = ConflictOperation::of(&entry.table, entry.change_type);
        statement.execute(params![
            entry.txn_id,
            entry.change_id,
            unix_time,
            entry.table,
            operation.name(),
            change.key,
            change.old,
            change.new,
            entry.change_time,
            entry.change_type as i64,
            entry.rowid,
            entry.before,
            entry.after,
            entry.updates,
            change.table_sql,
        ])?;
    }
    explain(conn, failure)
}

/// The changes of a transaction that was set aside, each with the CREATE statement of its table.
pub(super) fn read_changes(conn: &Connection, txn_id: i64) -> Result<Vec<(LogEntry, Option<String>)>> {
    let mut statement = conn.prepare(
        "SELECT change_id, change_time, change_type, table_name, id, \"before\", \"after\", updates, table_sql
         FROM turso_sync_conflicts WHERE conflict = ?1 AND state = 'set aside' ORDER BY change_id",
    )?;
    let mut rows = statement.query([txn_id])?;
    let mut changes = Vec::new();
    while let Some(row) = rows.next()? {
        let entry = LogEntry {
            change_id: row.get(0)?,
            change_time: row.get::<_, Option<i64>>(1)?.unwrap_or(0),
            txn_id,
            change_type: ChangeType::of(row.get(2)?)?,
            table: row.get(3)?,
            rowid: row.get::<_, Option<i64>>(4)?.unwrap_or(0),
            before: row.get(5)?,
            after: row.get(6)?,
            updates: row.get(7)?,
            depth: 0,
        };
        changes.push((entry, row.get(8)?));
    }
    Ok(changes)
}

/// Forgets the conflict `txn_id`.
pub fn remove(conn: &Connection, txn_id: i64) -> Result<()> {
    conn.execute("DELETE FROM turso_sync_conflicts WHERE conflict = ?1", [txn_id])?;
    Ok(())
}

/// There is nothing to decide any more about transactions that the remote has acknowledged. Those that overwrite are still
/// replayed, and must overwrite, until the base has them.
pub fn settle(conn: &Connection, acknowledged: i64) -> Result<()> {
    let settled =
        "turso_sync_conflicts WHERE state <> 'set aside' AND message IS NOT NULL AND conflict <= ?1";
    let count: i64 = conn.query_row(
        &format!("SELECT count(*) FROM {settled}"),
        [acknowledged],
        |row| row.get(0),
    )?;
    if count > 0 {
        conn.execute(
            &format!("DELETE FROM {settled} AND state = 'blocked'"),
            [acknowledged],
        )?;
        let silence = "kind = NULL, \"constraint\" = NULL, sqlite_code = NULL, message = NULL";
        let update = settled.replacen("WHERE", &format!("SET {silence} WHERE"), 1);
        conn.execute(&format!("UPDATE {update}"), [acknowledged])?;
    }
    Ok(())
}

/// Copies what outlives a rebase: transactions that are set aside, and decisions about pending ones. What blocks is
/// found anew, unless it is the `same_base`, over which nothing needs to be in the way.
pub fn carry_over(
    current: &Connection,
    scratch: &Connection,
    acknowledged: i64,
    same_base: bool,
) -> Result<()> {
    let blocked = if same_base { "blocked" } else { "" };
    let mut from = current.prepare(
        "SELECT * FROM turso_sync_conflicts
         WHERE state = 'set aside' OR (state IN ('overwrite', ?2) AND conflict > ?1)",
    )?;
    let count = from.column_count();
    let marks = vec!["?"; count].join(", ");
    let mut to = scratch.prepare(&format!("INSERT INTO turso_sync_conflicts VALUES ({marks})"))?;
    let mut rows = from.query((acknowledged, blocked))?;
    while let Some(row) = rows.next()? {
        let values: Vec<Value> = (0..count)
            .map(|i| Ok(from_column(row.get_ref(i)?)))
            .collect::<rusqlite::Result<_>>()?;
        to.execute(params_from_iter(values.iter().map(Bound)))?;
    }
    Ok(())
}

/// The row's key as JSON.
pub(super) fn key_json(table: &Table, change: &RowChange) -> String {
    let values = change.target();
    if table.identity(values) != Identity::Key {
        return json!({ "rowid": change.rowid }).to_string();
    }
    let name = |k: &usize| table.columns.get(*k).map(|c| c.name.clone());
    let key = table.key.iter().filter_map(name).zip(table.key_values(values));
    Json::Object(key.map(|(name, value)| (name, readable(value))).collect()).to_string()
}

/// A row as a JSON object; `None` if there is no row.
pub(super) fn row_json(table: &Table, values: &[Value]) -> Option<String> {
    if values.is_empty() {
        return None;
    }
    let columns = table.columns.iter().map(|c| c.name.clone());
    let row: Map<String, Json> = columns.zip(values.iter().map(readable)).collect();
    Some(Json::Object(row).to_string())
}

/// A value for people; what is exact is in the records.
fn readable(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(i) => json!(i),
        // JSON has no infinities.
        Value::Real(r) if r.is_finite() => json!(r),
        Value::Real(r) => json!(r.to_string()),
        Value::Text(t) => json!(String::from_utf8_lossy(t)),
        Value::Blob(b) => {
            let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
            json!(format!("x'{hex}'"))
        }
    }
}

/// There is no conflict of this number.
pub fn unknown(txn_id: i64) -> Error {
    let text = format!(
        "there is no conflict {txn_id}; list the conflicts again, a sync may have settled or renumbered it"
    );
    Error::new(Category::Usage, Code::Error, text)
}

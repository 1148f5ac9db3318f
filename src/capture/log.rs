//! The change log: table `turso_cdc` in the main file, and the other tables that exist only locally.
//!
//! The columns are those of the official client's version v2, so that tools that read it keep working, plus
//! `depth`. One row per captured row change or DDL statement; `change_txn_id` groups a local transaction.

use rusqlite::Connection;

use crate::error::{Error, Result};

/// The change log.
pub const LOG_TABLE: &str = "turso_cdc";
/// Says which layout the change log has.
pub const LOG_VERSION_TABLE: &str = "turso_cdc_version";
/// What the replica knows about itself and its base: (name, value) pairs, see [`crate::engine`].
pub const STATE_TABLE: &str = "turso_sync_local";
/// Conflicts: changes that were set aside, and notes about transactions that wait; see [`crate::replay`].
pub const CONFLICT_TABLE: &str = "turso_sync_conflicts";
/// Acknowledgements of all clients; lives on the remote and arrives through pages.
pub const WATERMARK_TABLE: &str = "turso_sync_last_change_id";
/// Name in [`STATE_TABLE`] below which change ids are used up, although their rows may be gone.
pub const CHANGE_FLOOR: &str = "change_floor";

/// Beginning of names in [`STATE_TABLE`]; the name of a table follows that was ignored when it was made or last pulled.
pub const IGNORED_MARK: &str = "ignored table ";

/// Tables that exist only in the replica and never travel.
pub const LOCAL_TABLES: [&str; 4] = [LOG_TABLE, LOG_VERSION_TABLE, STATE_TABLE, CONFLICT_TABLE];

const CREATE: &str = "
CREATE TABLE turso_cdc (change_id INTEGER PRIMARY KEY, change_time INTEGER, change_txn_id INTEGER,
  change_type INTEGER, table_name TEXT, id, \"before\" BLOB, \"after\" BLOB, updates BLOB, depth INTEGER);
CREATE TABLE turso_cdc_version (table_name TEXT PRIMARY KEY, version TEXT NOT NULL);
INSERT INTO turso_cdc_version VALUES ('turso_cdc', 'v2');
CREATE TABLE turso_sync_local (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE turso_sync_conflicts (conflict INTEGER, change_id INTEGER, state TEXT NOT NULL, noticed INTEGER NOT NULL,
  kind TEXT, \"constraint\" TEXT, sqlite_code INTEGER, message TEXT,
  table_name TEXT NOT NULL, operation TEXT NOT NULL, \"key\" TEXT NOT NULL, old TEXT, new TEXT,
  change_time INTEGER, change_type INTEGER NOT NULL, id INTEGER, \"before\" BLOB, \"after\" BLOB, updates BLOB,
  table_sql TEXT, PRIMARY KEY (conflict, change_id)) WITHOUT ROWID;
";

/// Creates the local tables, replacing whatever a remote may have under their names.
pub fn create_local_tables(conn: &Connection) -> Result<()> {
    for table in LOCAL_TABLES {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    Ok(conn.execute_batch(CREATE)?)
}

/// True if there is a table of this name.
pub(super) fn has_table(conn: &Connection, name: &str) -> Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(conn.query_row(sql, [name], |row| row.get::<_, i64>(0))? > 0)
}

/// True if the local tables exist, that is, if the file is a replica.
pub fn has_local_tables(conn: &Connection) -> Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN (?1, ?2)";
    Ok(conn.query_row(sql, [LOG_TABLE, STATE_TABLE], |row| row.get::<_, i64>(0))? == 2)
}

/// What happened to a row or to the schema; the numbers are those of `change_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    /// A row (or schema object) is new.
    Insert = 1,
    /// A row changed, or an `ALTER TABLE` ran.
    Update = 0,
    /// A row (or schema object) is gone.
    Delete = -1,
}

impl ChangeType {
    /// The change with this number.
    pub fn of(number: i64) -> Result<Self> {
        match number {
            1 => Ok(ChangeType::Insert),
            0 => Ok(ChangeType::Update),
            -1 => Ok(ChangeType::Delete),
            other => Err(Error::corrupt(format!(
                "unknown change type {other} in the change log"
            ))),
        }
    }
}

/// One row of the change log.
///
/// | change | `before` | `after` | `updates` |
/// |---|---|---|---|
/// | insert | | new row | nothing, or the statement's conflict clause (1 = OR IGNORE, 2 = OR REPLACE) if triggers fired |
/// | update | old row | new row | N flags (1 = the value changed, 2 = it was assigned again, noted where a trigger may care), then N values (NULL where the flag is not 1), then the conflict clause as above, if there is one |
/// | delete | old row | | |
/// | delete by a REPLACE that did not fire the table's DELETE triggers | old row | | the single value 1; 2 if not the statement has a clause but the constraint |
/// | CREATE (table `sqlite_schema`) | | (type, name, tbl_name, rootpage, sql) | |
/// | DROP (table `sqlite_schema`) | (type, name, tbl_name, rootpage, sql) | | |
/// | ALTER (table `sqlite_schema`) | old schema row | new schema row | flags 0,0,0,0,1, then NULL x 4 and the text of the ALTER statement |
///
/// | row of a virtual table | old row, if FTS5 keeps it | new row | |
/// | command to a virtual table | | | its text and argument, both as written with `INSERT INTO x(x, rank)` |
///
/// Of virtual tables (full text, R*Tree, Geopoly) each row that a statement has changed has one entry; what they are
/// stored in has none, nor has what triggers did to them. Statements on a full-text table with external content have
/// the command `rebuild` (`delete-all` if nothing is left) in place of rows; settings of FTS5 are commands, too.
///
/// Records hold all columns of `SELECT *` order except generated ones (virtual *and* stored); an INTEGER PRIMARY
/// KEY holds its value. A record of an FTS4 table with `languageid` has the language as the last column.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Strictly increasing, never reused once it has been committed, not dense.
    pub change_id: i64,
    /// Unix seconds.
    pub change_time: i64,
    /// Equal for all changes of one local transaction; the id of its first change.
    pub txn_id: i64,
    /// What happened.
    pub change_type: ChangeType,
    /// Table of the main schema as spelled in its CREATE statement, or `sqlite_schema` for DDL.
    pub table: String,
    /// Rowid before the change (after it, for an insert); 0 for tables WITHOUT ROWID and DDL.
    pub rowid: i64,
    /// Record of the old row.
    pub before: Option<Vec<u8>>,
    /// Record of the new row.
    pub after: Option<Vec<u8>>,
    /// Mask and values, see above.
    pub updates: Option<Vec<u8>>,
    /// 0 for what a statement did itself, and for what triggers did that nothing else makes fire (those of a view, and
    /// BEFORE triggers of a row that was then left alone); [`ACTION_DEPTH`] for what foreign-key actions did; more for what
    /// triggers did that are redone by whoever replays the change that caused them.
    pub depth: i64,
}

/// Depth of what foreign-key actions did. It is replayed, too, because foreign keys are off there.
pub const ACTION_DEPTH: i64 = -1;

/// SQLite nests triggers up to `SQLITE_MAX_TRIGGER_DEPTH`, 1000 unless it was built otherwise.
const DEPTH_MAX: i64 = 100_000;

impl LogEntry {
    /// True if whoever replays the log must do it: no other change brings it about.
    pub fn is_replayed(&self) -> bool {
        self.depth <= 0
    }

    /// Bytes of its row images.
    pub fn image_bytes(&self) -> usize {
        let images = [&self.before, &self.after, &self.updates];
        images.into_iter().flatten().map(Vec::len).sum()
    }
}

/// Bytes of row images after which [`read_entries`] stops.
const READ_BYTES: usize = 1 << 20;

/// Reads up to `limit` entries with `change_id > after`, in order; fewer if they are large, but one if there is one.
pub fn read_entries(conn: &Connection, after: i64, limit: usize) -> Result<Vec<LogEntry>> {
    read_entries_of(conn, LOG_TABLE, after, limit)
}

/// Like [`read_entries`], from another table of the same layout.
pub fn read_entries_of(conn: &Connection, table: &str, after: i64, limit: usize) -> Result<Vec<LogEntry>> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT change_id, change_time, change_txn_id, change_type, table_name, id, \"before\", \"after\", updates, depth
         FROM {table} WHERE change_id > ?1 ORDER BY change_id LIMIT ?2",
    ))?;
    let mut rows = statement.query((after, limit as i64))?;
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut bytes = 0;
    while bytes < READ_BYTES
        && let Some(row) = rows.next()?
    {
        entries.push(LogEntry {
            change_id: row.get(0)?,
            change_time: row.get(1)?,
            txn_id: row.get(2)?,
            change_type: ChangeType::of(row.get(3)?)?,
            table: row.get(4)?,
            rowid: row.get::<_, Option<i64>>(5)?.unwrap_or(0),
            before: row.get(6)?,
            after: row.get(7)?,
            updates: row.get(8)?,
            depth: depth(row.get::<_, Option<i64>>(9)?)?,
        });
        bytes += entries.last().map_or(0, LogEntry::image_bytes);
    }
    Ok(entries)
}

fn depth(number: Option<i64>) -> Result<i64> {
    match number.unwrap_or(0) {
        depth @ ACTION_DEPTH..=DEPTH_MAX => Ok(depth),
        _ => Err(Error::corrupt("impossible trigger depth in the change log")),
    }
}

/// Writes an entry as it is; used when a pull carries the pending changes over to the new base.
pub fn write_entry(conn: &Connection, e: &LogEntry) -> Result<()> {
    write_entry_to(conn, LOG_TABLE, e)
}

/// Like [`write_entry`], into another table of the same layout, where it replaces the entry with its id.
pub fn write_entry_to(conn: &Connection, table: &str, e: &LogEntry) -> Result<()> {
    let verb = if table == LOG_TABLE { "INSERT" } else { "REPLACE" };
    conn.prepare_cached(&format!(
        "{verb} INTO {table} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    ))?
    .execute((
        e.change_id,
        e.change_time,
        e.txn_id,
        e.change_type as i64,
        &e.table,
        e.rowid,
        &e.before,
        &e.after,
        &e.updates,
        e.depth,
    ))?;
    Ok(())
}

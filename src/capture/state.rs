//! What the main file says about itself: table `turso_sync_local`, written in the same transaction as the pages
//! it describes. It decides; `<db>-info` follows.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, ToSql, TransactionBehavior};

use super::log::{self, CHANGE_FLOOR, STATE_TABLE, WATERMARK_TABLE};
use crate::error::{Category, Code, Error, Result};

/// State of a replica, as stored in its main file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaState {
    /// Name of this replica on the remote.
    pub client_id: String,
    /// Number of bases this file has had; decides which entries of the revert file are valid.
    pub epoch: i64,
    /// Revision of the base; empty before the first contact.
    pub revision: String,
    /// Pages of the base.
    pub base_pages: u32,
    /// Change ids up to this one are used up, although their rows may be gone.
    pub change_floor: i64,
    /// The largest change id that was ever put into a request. Whatever is not above it may be on the remote.
    pub sent: i64,
    /// Change id up to which the remote has the changes, as far as is known; the base may be older.
    pub acknowledged: i64,
    /// What the remote holds, as far as is known; the database's own values differ if the app has set them since.
    pub header: HeaderValues,
}

/// The numbers that SQLite keeps for applications in the database header. They are no rows, so no hook sees them;
/// a change is found by comparing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeaderValues {
    /// `PRAGMA user_version`.
    pub user_version: i64,
    /// `PRAGMA application_id`.
    pub application_id: i64,
}

impl HeaderValues {
    /// Reads the numbers of a database.
    pub fn read(conn: &Connection) -> Result<Self> {
        let number = |sql| -> Result<i64> { Ok(conn.query_row(sql, [], |row| row.get(0))?) };
        Ok(HeaderValues {
            user_version: number("PRAGMA user_version")?,
            application_id: number("PRAGMA application_id")?,
        })
    }

    /// The statements that make a database with the numbers `other` have these.
    pub fn changes_from(&self, other: &HeaderValues) -> Vec<String> {
        let mut statements = Vec::new();
        if self.user_version != other.user_version {
            statements.push(format!("PRAGMA user_version = {}", self.user_version));
        }
        if self.application_id != other.application_id {
            statements.push(format!("PRAGMA application_id = {}", self.application_id));
        }
        statements
    }
}

/// Carries what the app has set in the header over to `scratch`; returns what the remote holds. The new base may be `behind`
/// the last push, and not have yet what that has set.
pub fn rebase_header(
    current: &Connection,
    scratch: &Connection,
    state: &ReplicaState,
    behind: bool,
) -> Result<HeaderValues> {
    let base = HeaderValues::read(scratch)?;
    let before = if behind { base } else { state.header };
    for statement in HeaderValues::read(current)?.changes_from(&before) {
        scratch.execute_batch(&statement)?;
    }
    Ok(if behind { state.header } else { base })
}

const SENT: &str = "sent";
const ACKNOWLEDGED: &str = "acknowledged";

/// What kind of file lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// No file, or a database without a single table and without anything else that somebody has put there.
    Nothing,
    /// A SQLite database that is not a replica.
    PlainDatabase,
    /// A replica.
    Replica(ReplicaState),
}

impl ReplicaState {
    /// Reads the state from the local tables.
    pub fn read(conn: &Connection) -> Result<Self> {
        Ok(ReplicaState {
            client_id: value(conn, "client_id")?,
            epoch: value(conn, "epoch")?,
            revision: value(conn, "revision")?,
            base_pages: value(conn, "base_pages")?,
            change_floor: value(conn, CHANGE_FLOOR)?,
            sent: value(conn, SENT)?,
            acknowledged: value(conn, ACKNOWLEDGED)?,
            header: HeaderValues {
                user_version: value(conn, "user_version")?,
                application_id: value(conn, "application_id")?,
            },
        })
    }

    /// Writes the state; the caller's transaction decides when it counts.
    pub fn write(&self, conn: &Connection) -> Result<()> {
        let mut statement = conn.prepare(&format!("INSERT OR REPLACE INTO {STATE_TABLE} VALUES (?1, ?2)"))?;
        statement.execute(("client_id", &self.client_id))?;
        statement.execute(("epoch", self.epoch))?;
        statement.execute(("revision", &self.revision))?;
        statement.execute(("base_pages", self.base_pages))?;
        statement.execute((CHANGE_FLOOR, self.change_floor))?;
        statement.execute((SENT, self.sent))?;
        statement.execute((ACKNOWLEDGED, self.acknowledged))?;
        statement.execute(("user_version", self.header.user_version))?;
        statement.execute(("application_id", self.header.application_id))?;
        Ok(())
    }
}

fn value<T: rusqlite::types::FromSql>(conn: &Connection, name: &str) -> Result<T> {
    let sql = format!("SELECT value FROM {STATE_TABLE} WHERE name = ?1");
    let value = conn.query_row(&sql, [name], |row| row.get(0)).optional()?;
    value.ok_or_else(|| {
        Error::corrupt(format!(
            "the replica's own state is incomplete: {STATE_TABLE} has no {name}"
        ))
    })
}

const FORMER_CLIENT_ID: &str = "former_client_id";

/// The client id that the replica had before it was found to be a copy or an old state; empty if there was none.
pub fn former_client_id(conn: &Connection) -> Result<String> {
    let sql = format!("SELECT value FROM {STATE_TABLE} WHERE name = ?1");
    let former = conn.query_row(&sql, [FORMER_CLIENT_ID], |row| row.get(0));
    Ok(former.optional()?.unwrap_or_default())
}

/// Writes it; the caller's transaction decides when it counts.
pub fn write_former_client_id(conn: &Connection, client_id: &str) -> Result<()> {
    let sql = format!("INSERT OR REPLACE INTO {STATE_TABLE} VALUES (?1, ?2)");
    conn.execute(&sql, (FORMER_CLIENT_ID, client_id))?;
    Ok(())
}

/// Opens a connection for the library's own small reads and writes. It captures nothing and never checkpoints.
pub fn open_internal(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE, busy_timeout)
}

fn open_with(path: &Path, flags: OpenFlags, busy_timeout: Duration) -> Result<Connection> {
    let conn = Connection::open_with_flags(path, flags)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    conn.busy_timeout(busy_timeout)?;
    conn.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL")?;
    Ok(conn)
}

/// Looks at the file at `path` without changing it.
pub fn inspect(path: &Path, busy_timeout: Duration) -> Result<FileKind> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(FileKind::Nothing),
        Err(e) => return Err(Error::io(format!("look at {}", path.display()), &e)),
        Ok(m) if !m.is_file() => {
            let text = format!(
                "{} is not a file; give the path of a database file",
                path.display()
            );
            return Err(Error::new(Category::Usage, Code::Misuse, text));
        }
        Ok(_) => {}
    }
    let mut conn = open_internal(path, busy_timeout)?;
    let conn = conn.transaction()?;
    let objects: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    if objects == 0 && pages <= 1 && HeaderValues::read(&conn)? == HeaderValues::default() {
        return Ok(FileKind::Nothing);
    }
    let is_replica = log::has_local_tables(&conn)?;
    Ok(if is_replica {
        FileKind::Replica(ReplicaState::read(&conn)?)
    } else {
        FileKind::PlainDatabase
    })
}

/// What is to be known of a database that is not a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainDatabase {
    /// Bytes per page.
    pub page_size: i64,
    /// As SQLite names it.
    pub encoding: String,
    /// It has tables that only replicas have, but not all of ours: another implementation's.
    pub has_log: bool,
    /// Bytes that each page reserves at its end.
    pub reserved_bytes: u8,
}

/// Describes the database at `path` without changing it.
pub fn describe_plain(path: &Path, busy_timeout: Duration) -> Result<PlainDatabase> {
    let conn = open_internal(path, busy_timeout)?;
    Ok(PlainDatabase {
        page_size: conn.query_row("PRAGMA page_size", [], |row| row.get(0))?,
        encoding: conn.query_row("PRAGMA encoding", [], |row| row.get(0))?,
        has_log: has_log(&conn)?,
        // <https://sqlite.org/fileformat2.html#the_database_header>
        reserved_bytes: conn.query_row("SELECT data FROM sqlite_dbpage WHERE pgno = 1", [], |row| {
            Ok(row.get_ref(0)?.as_blob()?.get(20).copied().unwrap_or_default())
        })?,
    })
}

fn has_log(conn: &Connection) -> Result<bool> {
    for table in log::LOCAL_TABLES.into_iter().chain([WATERMARK_TABLE]) {
        if log::has_table(conn, table)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Creates a database without tables at `path`. SQLite writes its first page straight into the main file; `prepare` can
/// determine before how.
pub fn create_empty(
    path: &Path,
    busy_timeout: Duration,
    prepare: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let conn = open_with(path, flags, busy_timeout)?;
    prepare(&conn)?;
    switch_to_wal(&conn, path)
}

/// Turns the database at `path` (a fresh base) into a replica with `state`, whose header values are taken from the
/// base; only the log is written.
pub fn initialize(path: &Path, state: &ReplicaState, busy_timeout: Duration) -> Result<()> {
    let mut conn = open_internal(path, busy_timeout)?;
    switch_to_wal(&conn, path)?;
    let txn = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    log::create_local_tables(&txn)?;
    let header = HeaderValues::read(&txn)?;
    ReplicaState {
        header,
        ..state.clone()
    }
    .write(&txn)?;
    Ok(txn.commit()?)
}

/// Turns the database at `path`, which never was a replica, into one with an empty base and the state `state`. `log` writes
/// its content into the change log, and knows which writer that is. All of it is in the log then, and nothing in the
/// main file is touched before. BUSY if another program has it open.
pub fn adopt(
    path: &Path,
    state: &ReplicaState,
    busy_timeout: Duration,
    log: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let mut conn = open_internal(path, busy_timeout)?;
    let txn = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    log::create_local_tables(&txn)?;
    state.write(&txn)?;
    log(&txn)?;
    Ok(txn.commit()?)
}

/// Makes the database at `path` one in WAL mode whose log is empty. BUSY if another program reads from the log.
pub fn empty_log(path: &Path, busy_timeout: Duration) -> Result<()> {
    let conn = open_internal(path, busy_timeout)?;
    switch_to_wal(&conn, path)?;
    let busy: bool = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    match busy {
        true => Err(Error::busy(format!(
            "another program has {} open; close it first",
            path.display()
        ))),
        false => Ok(()),
    }
}

fn switch_to_wal(conn: &Connection, path: &Path) -> Result<()> {
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let text = format!(
            "{} cannot use write-ahead logging (journal mode {mode})",
            path.display()
        );
        return Err(Error::new(Category::Storage, Code::Error, text));
    }
    Ok(())
}

/// Reads the state of the replica at `path`.
pub fn read_state(path: &Path, busy_timeout: Duration) -> Result<ReplicaState> {
    let mut conn = open_internal(path, busy_timeout)?;
    // In one transaction: somebody may apply a pull between two values.
    let txn = conn.transaction()?;
    ReplicaState::read(&txn)
}

/// Records that the base equals `revision` as well (an empty answer moved the remote on).
pub fn set_revision(path: &Path, state: &ReplicaState, revision: &str, busy_timeout: Duration) -> Result<()> {
    set(path, state, &[("revision", &revision)], busy_timeout)
}

/// Records that the remote has the header values `header` now.
pub fn set_header(
    path: &Path,
    state: &ReplicaState,
    header: HeaderValues,
    busy_timeout: Duration,
) -> Result<()> {
    let values: [(&str, &dyn ToSql); 2] = [
        ("user_version", &header.user_version),
        ("application_id", &header.application_id),
    ];
    set(path, state, &values, busy_timeout)
}

/// Records, before a request is sent, that it contains changes up to `change_id`.
///
/// Durable on return, and with it everything that was committed before: a remote must never know a change that a
/// power failure can still take back here.
pub fn note_sent(path: &Path, state: &ReplicaState, change_id: i64, busy_timeout: Duration) -> Result<()> {
    set(path, state, &[(SENT, &change_id)], busy_timeout)
}

/// Records what the remote has said that it has.
pub fn note_acknowledged(
    path: &Path,
    state: &ReplicaState,
    change_id: i64,
    busy_timeout: Duration,
) -> Result<()> {
    set(path, state, &[(ACKNOWLEDGED, &change_id)], busy_timeout)
}

/// Runs `write` in a write transaction of its own, durable on return.
pub fn write(
    path: &Path,
    busy_timeout: Duration,
    write: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let mut conn = open_internal(path, busy_timeout)?;
    let txn = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    write(&txn)?;
    Ok(txn.commit()?)
}

/// Changes parts of the state, unless somebody has applied a pull since `state` was read.
fn set(
    path: &Path,
    state: &ReplicaState,
    values: &[(&str, &dyn ToSql)],
    busy_timeout: Duration,
) -> Result<()> {
    self::write(path, busy_timeout, |conn| {
        if ReplicaState::read(conn)?.epoch == state.epoch {
            let sql = format!("UPDATE {STATE_TABLE} SET value = ?2 WHERE name = ?1");
            for (name, value) in values {
                conn.execute(&sql, (name, value))?;
            }
        }
        Ok(())
    })
}

/// Name of the mark in the log up to which it is known who wrote it.
const SETTLED: &str = "settled";

/// The mark in the write-ahead log (salts, frames) up to which it is settled what becomes of what other programs have
/// written.
pub fn settled(conn: &Connection) -> Result<(u64, u32)> {
    let sql = format!("SELECT value FROM {STATE_TABLE} WHERE name = ?1");
    let mark: Option<String> = conn.query_row(&sql, [SETTLED], |row| row.get(0)).optional()?;
    let parts = mark.as_deref().and_then(|mark| mark.split_once(' '));
    let numbers = parts.and_then(|(salts, frames)| Some((salts.parse().ok()?, frames.parse().ok()?)));
    Ok(numbers.unwrap_or_default())
}

/// Writes what [`settled`] reads; the caller's transaction decides when it counts.
pub fn set_settled(conn: &Connection, (salts, frames): (u64, u32)) -> Result<()> {
    let sql = format!("INSERT OR REPLACE INTO {STATE_TABLE} VALUES (?1, ?2)");
    conn.execute(&sql, (SETTLED, format!("{salts} {frames}")))?;
    Ok(())
}

/// Reads the state of the replica at `path`, and what is [`settled`].
pub fn read_state_and_settled(path: &Path, busy_timeout: Duration) -> Result<(ReplicaState, (u64, u32))> {
    let mut conn = open_internal(path, busy_timeout)?;
    let txn = conn.transaction()?;
    Ok((ReplicaState::read(&txn)?, settled(&txn)?))
}

/// What the remote acknowledged to `client_id`, as far as this database knows: (pull_gen, change_id).
pub fn read_watermark(conn: &Connection, client_id: &str) -> Result<Option<(i64, i64)>> {
    if !log::has_table(conn, WATERMARK_TABLE)? {
        return Ok(None);
    }
    let sql = format!("SELECT pull_gen, change_id FROM {WATERMARK_TABLE} WHERE client_id = ?1");
    Ok(conn
        .query_row(&sql, [client_id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

/// Largest change id that was ever given out.
pub fn last_change_id(conn: &Connection) -> Result<i64> {
    let floor: i64 = value(conn, CHANGE_FLOOR)?;
    let last: Option<i64> = conn.query_row("SELECT max(change_id) FROM turso_cdc", [], |row| row.get(0))?;
    Ok(last.unwrap_or(0).max(floor))
}

/// Takes the changes behind `last` out of the log of `conn`, with what was noted about them. Their ids are not given out
/// again.
pub fn cut_log(conn: &Connection, last: i64) -> Result<()> {
    let floor = last_change_id(conn)?;
    let sql = format!("INSERT OR REPLACE INTO {STATE_TABLE} VALUES (?1, ?2)");
    conn.execute(&sql, (CHANGE_FLOOR, floor))?;
    conn.execute("DELETE FROM turso_cdc WHERE change_id > ?1", [last])?;
    let noted = "DELETE FROM turso_sync_conflicts WHERE conflict > ?1 AND state <> 'set aside'";
    conn.execute(noted, [last])?;
    Ok(())
}

/// Number of pending changes: captured changes after `acknowledged` that a push would send.
pub fn count_pending(conn: &Connection, acknowledged: i64) -> Result<i64> {
    let sql = "SELECT count(*) FROM turso_cdc WHERE change_id > ?1 AND depth <= 0";
    Ok(conn.query_row(sql, [acknowledged], |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    #[test]
    fn a_replica_is_recognised_by_its_local_tables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.db");
        assert_eq!(inspect(&path, WAIT).unwrap(), FileKind::Nothing);
        let state = ReplicaState {
            client_id: "c".into(),
            epoch: 1,
            revision: "r".into(),
            base_pages: 0,
            change_floor: 0,
            sent: 0,
            acknowledged: 0,
            header: HeaderValues::default(),
        };
        create_empty(&path, WAIT, |_| Ok(())).unwrap();
        assert_eq!(inspect(&path, WAIT).unwrap(), FileKind::Nothing);
        initialize(&path, &state, WAIT).unwrap();
        assert_eq!(inspect(&path, WAIT).unwrap(), FileKind::Replica(state.clone()));
        set_revision(&path, &state, "s", WAIT).unwrap();
        assert_eq!(read_state(&path, WAIT).unwrap().revision, "s");
        // Another process has applied a pull in the meantime: its revision stays.
        set_revision(&path, &ReplicaState { epoch: 0, ..state }, "t", WAIT).unwrap();
        assert_eq!(read_state(&path, WAIT).unwrap().revision, "s");

        let plain = dir.path().join("p.db");
        Connection::open(&plain)
            .unwrap()
            .execute_batch("CREATE TABLE t(x)")
            .unwrap();
        assert_eq!(inspect(&plain, WAIT).unwrap(), FileKind::PlainDatabase);
        assert!(
            inspect(dir.path(), WAIT)
                .unwrap_err()
                .message
                .contains("not a file")
        );
        std::fs::write(dir.path().join("g"), [7u8; 8192]).unwrap();
        assert_eq!(
            inspect(&dir.path().join("g"), WAIT).unwrap_err().code,
            Code::NotADb
        );
    }
}

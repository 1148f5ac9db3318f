//! A small capture of its own for the replay tests: runs SQL on a plain connection and derives log entries.
#![allow(dead_code, clippy::result_large_err)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi, params_from_iter};
use turso_sync::capture::log::{ACTION_DEPTH, ChangeType, LogEntry, create_local_tables, write_entry};
use turso_sync::error::{Error, Result};
use turso_sync::record::{Value, encode};
use turso_sync::replay::{Progress, PushGenerator, RebaseReport, ReplayStatement, Transactions, rebase};

/// `rebase` or `rebase_net`.
pub type RebaseFn = fn(&Connection, &Connection, Progress) -> Result<RebaseReport>;

type Hook = unsafe extern "C" fn(
    *mut c_void,
    *mut ffi::sqlite3,
    c_int,
    *const c_char,
    *const c_char,
    ffi::sqlite3_int64,
    ffi::sqlite3_int64,
);

unsafe extern "C" {
    fn sqlite3_preupdate_hook(db: *mut ffi::sqlite3, hook: Option<Hook>, arg: *mut c_void) -> *mut c_void;
    fn sqlite3_preupdate_old(db: *mut ffi::sqlite3, i: c_int, v: *mut *mut ffi::sqlite3_value) -> c_int;
    fn sqlite3_preupdate_new(db: *mut ffi::sqlite3, i: c_int, v: *mut *mut ffi::sqlite3_value) -> c_int;
    fn sqlite3_preupdate_depth(db: *mut ffi::sqlite3) -> c_int;
    fn sqlite3_preupdate_count(db: *mut ffi::sqlite3) -> c_int;
}

struct Raw {
    change_type: ChangeType,
    table: String,
    rowid: i64,
    before: Vec<Value>,
    after: Vec<Value>,
    depth: i64,
}

#[derive(Default)]
struct State {
    raw: Vec<Raw>,
    widths: HashMap<String, c_int>,
}

unsafe fn value(v: *mut ffi::sqlite3_value) -> Value {
    // SAFETY: `v` is a value that SQLite handed out for the duration of the hook.
    unsafe {
        let bytes = |p: *const u8| {
            let len = ffi::sqlite3_value_bytes(v) as usize;
            if len == 0 {
                Vec::new()
            } else {
                std::slice::from_raw_parts(p, len).to_vec()
            }
        };
        match ffi::sqlite3_value_type(v) {
            ffi::SQLITE_INTEGER => Value::Integer(ffi::sqlite3_value_int64(v)),
            ffi::SQLITE_FLOAT => Value::Real(ffi::sqlite3_value_double(v)),
            ffi::SQLITE_TEXT => Value::Text(bytes(ffi::sqlite3_value_text(v))),
            ffi::SQLITE_BLOB => Value::Blob(bytes(ffi::sqlite3_value_blob(v).cast())),
            _ => Value::Null,
        }
    }
}

unsafe extern "C" fn hook(
    arg: *mut c_void,
    db: *mut ffi::sqlite3,
    op: c_int,
    schema: *const c_char,
    table: *const c_char,
    old_rowid: i64,
    new_rowid: i64,
) {
    // SAFETY: `arg` is the box of the replica that owns the connection; the other pointers are SQLite's.
    unsafe {
        let schema = CStr::from_ptr(schema).to_str().unwrap();
        let table = CStr::from_ptr(table).to_str().unwrap().to_owned();
        if schema != "main" || table.starts_with("turso_") || table.starts_with("sqlite_") {
            return;
        }
        let state = &mut *arg.cast::<State>();
        let row =
            |get: unsafe extern "C" fn(*mut ffi::sqlite3, c_int, *mut *mut ffi::sqlite3_value) -> c_int| {
                // Columns are numbered as in the table, but virtual ones have no value.
                let width = state.widths.get(&table).copied();
                (0..width.unwrap_or_else(|| sqlite3_preupdate_count(db)))
                    .map(|i| {
                        let mut v = std::ptr::null_mut();
                        if get(db, i, &mut v) == ffi::SQLITE_OK {
                            value(v)
                        } else {
                            Value::Null
                        }
                    })
                    .collect::<Vec<_>>()
            };
        let (change_type, before, after) = match op {
            ffi::SQLITE_INSERT => (ChangeType::Insert, Vec::new(), row(sqlite3_preupdate_new)),
            ffi::SQLITE_DELETE => (ChangeType::Delete, row(sqlite3_preupdate_old), Vec::new()),
            _ => (
                ChangeType::Update,
                row(sqlite3_preupdate_old),
                row(sqlite3_preupdate_new),
            ),
        };
        let rowid = if op == ffi::SQLITE_INSERT {
            new_rowid
        } else {
            old_rowid
        };
        let depth = sqlite3_preupdate_depth(db).into();
        state.raw.push(Raw {
            change_type,
            table,
            rowid,
            before,
            after,
            depth,
        });
    }
}

/// A plain connection: foreign keys off.
pub fn plain(sql: &str) -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    conn.execute_batch(sql).unwrap_or_else(|e| panic!("{e}: {sql}"));
    conn
}

/// A capturing connection.
pub struct Replica {
    pub conn: Connection,
    state: Box<State>,
    next: i64,
}

type Schema = Vec<(String, String, String, i64, Option<String>)>;

impl Replica {
    /// A replica whose base is the result of `base`; its changes count from `first`.
    pub fn new(base: &str, first: i64) -> Replica {
        let conn = plain(base);
        create_local_tables(&conn).unwrap();
        Replica::adopt(conn, first)
    }

    /// Goes on with a rebased scratch.
    pub fn adopt(conn: Connection, first: i64) -> Replica {
        let mut state = Box::new(State::default());
        let arg: *mut State = &mut *state;
        // SAFETY: the box lives as long as the connection.
        unsafe { sqlite3_preupdate_hook(conn.handle(), Some(hook), arg.cast()) };
        Replica {
            conn,
            state,
            next: first,
        }
    }

    fn schema(&self) -> Schema {
        let mut s = self
            .conn
            .prepare("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE tbl_name NOT LIKE 'turso!_%' ESCAPE '!' ORDER BY rowid")
            .unwrap();
        s.query_map([], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))
        })
        .unwrap()
        .map(|r| r.unwrap())
        .collect()
    }

    /// Runs `statements` as one transaction and logs it.
    pub fn txn(&mut self, statements: &[&str]) {
        let failed = self.try_txn(statements);
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// The same, but statements that fail are skipped; returns them.
    pub fn try_txn(&mut self, statements: &[&str]) -> Vec<String> {
        let mut failed = Vec::new();
        let txn_id = self.next;
        self.conn.execute_batch("BEGIN").unwrap();
        for sql in statements {
            self.state.raw.clear();
            let widths = "SELECT t.name, count(*) FROM sqlite_schema t, pragma_table_xinfo(t.name) WHERE t.type = 'table' GROUP BY 1";
            let mut s = self.conn.prepare(widths).unwrap();
            let widths = s
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
                .unwrap()
                .map(|r| r.unwrap())
                .collect();
            drop(s);
            self.state.widths = widths;
            let before = self.schema();
            self.conn.execute_batch("SAVEPOINT one").unwrap();
            if let Err(e) = self.conn.execute_batch(sql) {
                failed.push(format!("{sql}: {e}"));
                self.conn.execute_batch("ROLLBACK TO one").unwrap();
                self.state.raw.clear();
            }
            // FTS5 keeps writes in memory until a savepoint or the commit.
            self.conn
                .execute_batch("RELEASE one; SAVEPOINT flush; RELEASE flush")
                .unwrap();
            let after = self.schema();
            for mut entry in schema_changes(sql, &before, &after) {
                entry.txn_id = txn_id;
                self.log(entry);
            }
            for raw in std::mem::take(&mut self.state.raw) {
                // This capture knows nothing of virtual tables.
                if self.is_storage(&raw.table) {
                    continue;
                }
                let entry = self.entry(&raw, txn_id);
                self.log(entry);
            }
        }
        self.conn.execute_batch("COMMIT").unwrap();
        failed
    }

    /// Each statement is a transaction.
    pub fn each(&mut self, statements: &[&str]) {
        for sql in statements {
            self.txn(&[sql]);
        }
    }

    fn is_storage(&self, table: &str) -> bool {
        let sql = "SELECT count(*) FROM pragma_table_list(?1) WHERE schema = 'main' AND type = 'shadow'";
        self.conn.query_row(sql, [table], |r| r.get(0)).unwrap()
    }

    fn entry(&self, raw: &Raw, txn_id: i64) -> LogEntry {
        let mut s = self
            .conn
            .prepare("SELECT cid FROM pragma_table_xinfo(?1) WHERE hidden = 0")
            .unwrap();
        let columns: Vec<usize> = s
            .query_map([&raw.table], |r| r.get::<_, i64>(0))
            .unwrap()
            .map(|r| r.unwrap() as usize)
            .collect();
        let pick = |row: &[Value]| columns.iter().map(|&i| row[i].clone()).collect::<Vec<_>>();
        let record = |row: &[Value]| (!row.is_empty()).then(|| encode(&pick(row)));
        let updates = (raw.change_type == ChangeType::Update).then(|| {
            let (before, after) = (pick(&raw.before), pick(&raw.after));
            let flags = before
                .iter()
                .zip(&after)
                .map(|(b, a)| Value::Integer((a != b).into()));
            let values = before
                .iter()
                .zip(&after)
                .map(|(b, a)| if a != b { a.clone() } else { Value::Null });
            encode(&flags.chain(values).collect::<Vec<_>>())
        });
        let sql = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1";
        let wr: bool = self.conn.query_row(sql, [&raw.table], |r| r.get(0)).unwrap();
        LogEntry {
            change_id: 0,
            change_time: 1,
            txn_id,
            change_type: raw.change_type,
            table: raw.table.clone(),
            rowid: if wr { 0 } else { raw.rowid },
            before: record(&raw.before),
            after: record(&raw.after),
            updates,
            depth: match raw.depth > 0 && self.is_child(&raw.table) {
                true => ACTION_DEPTH,
                false => raw.depth,
            },
        }
    }

    /// Below depth 0, only foreign-key actions change children: no trigger of these tests does.
    fn is_child(&self, table: &str) -> bool {
        let sql = "SELECT count(*) FROM pragma_foreign_key_list(?1)";
        self.conn.query_row(sql, [table], |r| r.get(0)).unwrap()
    }

    fn log(&mut self, mut entry: LogEntry) {
        entry.change_id = self.next;
        self.next += 1;
        write_entry(&self.conn, &entry).unwrap();
    }

    pub fn next_id(&self) -> i64 {
        self.next
    }
}

fn schema_changes(sql: &str, before: &Schema, after: &Schema) -> Vec<LogEntry> {
    let record = |row: &(String, String, String, i64, Option<String>)| {
        let text = |t: &String| Value::Text(t.clone().into_bytes());
        let sql = row.4.as_ref().map_or(Value::Null, text);
        encode(&[
            text(&row.0),
            text(&row.1),
            text(&row.2),
            Value::Integer(row.3),
            sql,
        ])
    };
    let entry = |change_type, b: Option<Vec<u8>>, a: Option<Vec<u8>>, updates| LogEntry {
        change_id: 0,
        change_time: 1,
        txn_id: 0,
        change_type,
        table: "sqlite_schema".into(),
        rowid: 0,
        before: b,
        after: a,
        updates,
        depth: 0,
    };
    if sql.trim_start().to_ascii_uppercase().starts_with("ALTER") {
        return before
            .iter()
            .filter(|b| b.0 == "table")
            .filter_map(|b| Some((b, after.iter().find(|a| a.0 == "table" && a.3 == b.3 && *a != b)?)))
            .map(|(b, a)| {
                let mut mask: Vec<Value> = [0, 0, 0, 0, 1].map(Value::Integer).to_vec();
                mask.extend([Value::Null, Value::Null, Value::Null, Value::Null]);
                mask.push(Value::Text(sql.as_bytes().to_vec()));
                entry(
                    ChangeType::Update,
                    Some(record(b)),
                    Some(record(a)),
                    Some(encode(&mask)),
                )
            })
            // Other tables change with it, but there is one statement.
            .take(1)
            .collect();
    }
    let gone = before.iter().filter(|b| !after.contains(b));
    let new = after.iter().filter(|a| !before.contains(a));
    let gone = gone.map(|b| entry(ChangeType::Delete, Some(record(b)), None, None));
    gone.chain(new.map(|a| entry(ChangeType::Insert, None, Some(record(a)), None)))
        .collect()
}

/// The new base from `sql` with the pending changes of `local` on it.
pub fn rebased(local: &Connection, sql: &str, acknowledged: i64) -> Result<Connection> {
    rebased_with(rebase, local, sql, acknowledged)
}

/// The same by the way `replay`.
pub fn rebased_with(
    replay: RebaseFn,
    local: &Connection,
    sql: &str,
    acknowledged: i64,
) -> Result<Connection> {
    let scratch = plain(sql);
    create_local_tables(&scratch)?;
    scratch.execute_batch("BEGIN")?;
    replay(
        local,
        &scratch,
        Progress {
            acknowledged,
            sent: acknowledged,
            last: 1_000_000,
        },
    )?;
    scratch.execute_batch("COMMIT")?;
    Ok(scratch)
}

/// All statements for the log of `local` over the schema of `base`.
pub fn push_statements(local: &Connection, base: &Connection) -> Result<Vec<ReplayStatement>> {
    let mut generator = PushGenerator::new(base)?;
    let mut transactions = Transactions::new(local, 0);
    let mut out = Vec::new();
    while let Some(entries) = transactions.next_transaction()? {
        out.extend(generator.transaction(&entries, false)?);
    }
    for statement in &out {
        for arg in &statement.args {
            match arg {
                Value::Real(r) => assert!(r.is_finite()),
                Value::Text(t) => assert!(std::str::from_utf8(t).is_ok()),
                _ => {}
            }
        }
    }
    Ok(out)
}

fn run(remote: &Connection, statement: &ReplayStatement) -> rusqlite::Result<()> {
    struct Arg<'a>(&'a Value);
    impl rusqlite::ToSql for Arg<'_> {
        fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
            Ok(rusqlite::types::ToSqlOutput::Borrowed(match self.0 {
                Value::Null => ValueRef::Null,
                Value::Integer(i) => ValueRef::Integer(*i),
                Value::Real(r) => ValueRef::Real(*r),
                Value::Text(t) => ValueRef::Text(t),
                Value::Blob(b) => ValueRef::Blob(b),
            }))
        }
    }
    let mut s = remote.prepare(&statement.sql)?;
    let mut rows = s.query(params_from_iter(statement.args.iter().map(Arg)))?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Executes a push as a remote does: all or nothing.
pub fn push(
    remote: &Connection,
    statements: &[ReplayStatement],
) -> std::result::Result<(), (ReplayStatement, Error)> {
    remote.execute_batch("BEGIN IMMEDIATE").unwrap();
    for statement in statements {
        if let Err(e) = run(remote, statement) {
            if !remote.is_autocommit() {
                remote.execute_batch("ROLLBACK").unwrap();
            }
            return Err((statement.clone(), statement.failed(e.into())));
        }
    }
    remote.execute_batch("COMMIT").unwrap();
    Ok(())
}

/// Schema and rows of everything but the local tables. Rows of tables without a key come with their rowid.
pub fn dump(conn: &Connection) -> Vec<String> {
    let mut out = Vec::new();
    let mut s = conn
        .prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema WHERE tbl_name NOT LIKE 'turso!_%' ESCAPE '!' AND name NOT LIKE 'sqlite!_stat%' ESCAPE '!' ORDER BY type, name")
        .unwrap();
    let objects: Vec<(String, String, String)> = s
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .unwrap()
        .map(|r| r.unwrap())
        .collect();
    for (kind, name, sql) in objects {
        out.push(format!("{kind} {name}: {sql}"));
        if kind != "table" || sql.starts_with("CREATE VIRTUAL") {
            continue;
        }
        let names: Vec<String> = conn
            .prepare("SELECT name FROM pragma_table_xinfo(?1)")
            .unwrap()
            .query_map([&name], |r| r.get(0))
            .unwrap()
            .map(|r| r.unwrap())
            .collect();
        let keyless: bool = conn
            .query_row("SELECT max(pk) = 0 FROM pragma_table_xinfo(?1)", [&name], |r| {
                r.get(0)
            })
            .unwrap();
        let alias = ["rowid", "_rowid_", "oid"]
            .into_iter()
            .find(|a| !names.iter().any(|n| n == a));
        let quoted: Vec<String> = names
            .iter()
            .map(|n| format!("\"{}\"", n.replace('"', "\"\"")))
            .collect();
        let rowid = if keyless {
            alias.map(|a| format!("{a}, ")).unwrap_or_default()
        } else {
            String::new()
        };
        let sql = format!(
            "SELECT {rowid}{} FROM \"{}\"",
            quoted.join(", "),
            name.replace('"', "\"\"")
        );
        let mut s = conn.prepare(&sql).unwrap();
        let n = s.column_count();
        let mut rows: Vec<String> = s
            .query_map([], |r| {
                Ok((0..n)
                    .map(|i| format!("{:?}", r.get_ref(i).unwrap()))
                    .collect::<Vec<_>>()
                    .join("|"))
            })
            .unwrap()
            .map(|r| r.unwrap())
            .collect();
        rows.sort();
        out.extend(rows.into_iter().map(|r| format!("  {name}: {r}")));
    }
    out
}

//! Handles, threads, observers, and what a capturing connection refuses.

mod capture_support;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use capture_support::*;
use turso_sync::capture::{Connection, Observer, OpenOptions, Step};
use turso_sync::error::{Category, Code};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a);";

#[test]
fn handles_cross_threads() {
    fn sendable<T: Send + Sync>() {}
    sendable::<Connection>();
    sendable::<turso_sync::capture::Statement>();
}

#[test]
fn defaults_are_those_of_sqlite_and_of_sync() {
    let r = Replica::new(T);
    let c = r.open();
    for (pragma, expected) in [
        ("foreign_keys", "0"),
        ("journal_mode", "'wal'"),
        ("synchronous", "1"),
        ("busy_timeout", "5000"),
        ("wal_autocheckpoint", "0"),
        ("journal_size_limit", "4194304"),
    ] {
        assert_eq!(one(&c, &format!("PRAGMA {pragma}")), expected, "{pragma}");
    }
    let plain = Connection::open(":memory:", OpenOptions::default()).unwrap();
    assert_eq!(one(&plain, "PRAGMA journal_mode"), "'memory'");
    assert_eq!(one(&plain, "PRAGMA foreign_keys"), "0");
}

#[test]
fn close_ends_everything() {
    let r = Replica::new(T);
    let c = r.open();
    run(&c, "BEGIN; INSERT INTO t VALUES (1, 1)");
    let mut s = prepare(&c, "SELECT 'text'");
    assert_eq!(s.step(), Ok(Step::Row));
    let kept = s.value_bytes(0).unwrap();
    c.close().unwrap();
    assert_eq!(kept, b"text");
    c.close().unwrap();
    c.interrupt();
    for e in [
        s.step().unwrap_err(),
        c.execute_batch("SELECT 1").unwrap_err(),
        s.bind_null(1).unwrap_err(),
    ] {
        assert_eq!((e.code, e.message.as_str()), (Code::Error, "Connection closed"));
    }
    assert_eq!(
        (s.column_count(), s.value_type(0), c.is_autocommit()),
        (0, None, false)
    );
    assert!(r.log().is_empty(), "rolled back");
}

#[test]
fn a_statement_keeps_its_connection_and_finalize_ends_it() {
    let r = Replica::new(T);
    let c = r.open();
    let mut s = prepare(&c, "INSERT INTO t(a) VALUES (:a) RETURNING id AS key, a");
    drop(c);
    s.bind_text(1, "x").unwrap();
    assert_eq!(s.step(), Ok(Step::Row));
    assert_eq!((s.value_integer(0), s.value_bytes(1)), (1, Some(&b"x"[..])));
    assert_eq!(
        (s.value_bytes(0), s.value_real(1), s.value_type(2)),
        (None, 0.0, None)
    );
    assert_eq!(
        (s.column_name(0).as_deref(), s.column_name(9)),
        (Some("key"), None)
    );
    assert_eq!(
        (
            s.parameter_count(),
            s.parameter_index(":a"),
            s.parameter_name(1).as_deref()
        ),
        (1, Some(1), Some(":a"))
    );
    assert_eq!(s.bind_integer(1, 1).unwrap_err().code, Code::Misuse, "running");
    s.reset(true).unwrap();
    assert_eq!(
        s.bind_integer(2, 1).unwrap_err().code,
        Code::Misuse,
        "out of range"
    );
    s.finalize().unwrap();
    s.finalize().unwrap();
    assert_eq!(s.step().unwrap_err().code, Code::Misuse);
    assert_eq!(r.log(), ["+t#1>1,'x'"]);
}

/// Uses the connection from inside, which is as forbidden as from another thread.
#[test]
fn concurrent_use_is_misuse() {
    let r = Replica::new(T);
    let c = r.open();
    let mut long = prepare(
        &c,
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Either thread may be the one that comes too late and gets MISUSE; the statement must run in the end.
        let runner = scope.spawn(|| {
            loop {
                match long.step() {
                    Err(e) if e.code == Code::Misuse => std::thread::yield_now(),
                    result => break result,
                }
            }
        });
        // The other thread gets MISUSE once the statement runs; then it is interrupted until it has ended.
        let e = loop {
            match c.execute_batch("SELECT 1") {
                Err(e) => break e,
                Ok(()) => std::thread::yield_now(),
            }
        };
        assert_eq!(
            (e.code, e.message.as_str()),
            (Code::Misuse, "concurrent use forbidden")
        );
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                c.interrupt();
                std::thread::yield_now();
            }
        });
        assert!(matches!(runner.join().unwrap(), Err(e) if e.code == Code::Interrupt));
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_write_that_is_interrupted_at_its_start_has_counted_nothing() {
    for capture in [false, true] {
        let r = Replica::new("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2);");
        let options = OpenOptions {
            capture,
            ..Default::default()
        };
        let c = Connection::open(&r.path, options).unwrap();
        c.execute_batch("UPDATE t SET a = a + 1").unwrap();
        let mut reading = c.prepare("SELECT * FROM t").unwrap().unwrap().0;
        reading.step().unwrap();
        let mut writing = c.prepare("DELETE FROM t").unwrap().unwrap().0;
        c.interrupt();
        assert_eq!(writing.step().unwrap_err().code, Code::Interrupt);
        assert_eq!(reading.step().unwrap_err().code, Code::Interrupt);
        assert_eq!(
            one(&c, "SELECT changes() || ' ' || total_changes()"),
            "'0 2'",
            "{capture}"
        );
    }
}

#[test]
fn an_interrupted_write_leaves_no_trace() {
    let r = Replica::new(T);
    let c = r.open();
    let mut long = prepare(
        &c,
        "INSERT INTO t(a) WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
    );
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let result = long.step();
            done.store(true, Ordering::SeqCst);
            result
        });
        while !done.load(Ordering::SeqCst) {
            c.interrupt();
            std::thread::yield_now();
        }
        assert_eq!(runner.join().unwrap().unwrap_err().code, Code::Interrupt);
    });
    run(&c, "INSERT INTO t VALUES (1, 1)");
    assert_eq!(r.log(), ["+t#1>1,1"]);
}

#[derive(Default)]
struct Events {
    frames: Mutex<Vec<u32>>,
    closed: AtomicU32,
}

impl Observer for Events {
    fn committed(&self, frames: u32) {
        self.frames.lock().unwrap().push(frames);
    }
    fn closed(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_observer_hears_of_commits_and_of_closing() {
    let r = Replica::new(T);
    let events = Arc::new(Events::default());
    let observer: Arc<dyn Observer> = events.clone();
    let options = OpenOptions {
        capture: true,
        observer: Some(observer),
        ..Default::default()
    };
    let c = Connection::open(&r.path, options).unwrap();
    let count = || events.frames.lock().unwrap().len();
    run(
        &c,
        "SELECT * FROM t; BEGIN; INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 1)",
    );
    assert_eq!(count(), 0);
    run(&c, "COMMIT");
    assert_eq!(count(), 1);
    let mut reader = prepare(&c, "SELECT * FROM t");
    assert_eq!(reader.step(), Ok(Step::Row));
    run(&c, "INSERT INTO t VALUES (3, 1)");
    assert_eq!(count(), 1, "a statement is still running");
    reader.reset(false).unwrap();
    assert_eq!(count(), 2);
    assert!(events.frames.lock().unwrap().is_sorted());
    drop(c);
    assert_eq!(
        events.closed.load(Ordering::SeqCst),
        0,
        "the statement keeps the connection"
    );
    drop(reader);
    assert_eq!(events.closed.load(Ordering::SeqCst), 1);
}

#[test]
fn the_last_close_leaves_the_wal_alone() {
    let r = Replica::new(T);
    let size = || std::fs::metadata(format!("{}-wal", r.path)).map_or(0, |m| m.len());
    let c = r.open();
    run(&c, "INSERT INTO t VALUES (1, 1)");
    c.close().unwrap();
    assert!(size() > 0);
}

#[test]
fn paths_are_never_uris() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file:a.db?mode=memory");
    let c = Connection::open(path.to_str().unwrap(), OpenOptions::default()).unwrap();
    run(&c, "CREATE TABLE t(a)");
    assert!(path.exists());
    assert_eq!(
        Connection::open("a\0b", OpenOptions::default())
            .err()
            .unwrap()
            .code,
        Code::Misuse
    );
}

#[test]
fn only_replicas_are_captured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db").to_str().unwrap().to_owned();
    let capture = || OpenOptions {
        capture: true,
        ..Default::default()
    };
    assert_eq!(
        Connection::open(&path, capture()).err().unwrap().category,
        Category::Usage
    );
    assert!(!std::path::Path::new(&path).exists());
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t(a)")
        .unwrap();
    assert!(
        Connection::open(&path, capture())
            .err()
            .unwrap()
            .message
            .contains("not a replica")
    );
    assert!(Connection::open(":memory:", capture()).is_err());
}

#[test]
fn what_would_break_the_replica_is_refused_with_a_reason() {
    let r = Replica::new(&format!(
        "{T} CREATE TABLE turso_sync_last_change_id(client_id TEXT PRIMARY KEY, pull_gen, change_id);"
    ));
    let c = r.open();
    for (sql, reason) in [
        ("PRAGMA journal_mode = DELETE", "WAL"),
        ("PRAGMA wal_checkpoint(TRUNCATE)", "checkpoint"),
        ("PRAGMA writable_schema = ON", "CREATE"),
        ("PRAGMA legacy_alter_table = 1", "views"),
        ("VACUUM", "VACUUM INTO"),
        ("/* */ vacuum main", "VACUUM INTO"),
        (
            "INSERT INTO sqlite_dbpage VALUES (1, zeroblob(4096))",
            "sqlite_dbpage",
        ),
        ("DELETE FROM turso_cdc", "read-only"),
        ("UPDATE turso_sync_local SET value = 1", "read-only"),
        ("DELETE FROM turso_sync_last_change_id", "read-only"),
        ("DROP TABLE turso_cdc_version", "read-only"),
        ("ALTER TABLE turso_cdc ADD COLUMN x", "read-only"),
        ("CREATE INDEX i ON turso_cdc(id)", "read-only"),
        (
            "CREATE TRIGGER x AFTER INSERT ON turso_cdc BEGIN SELECT 1; END",
            "read-only",
        ),
        (
            "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
            "TEMP",
        ),
        (&format!("ATTACH '{}' AS self", r.path), "itself"),
    ] {
        let e = fails(&c, sql);
        assert_eq!((e.code, e.category), (Code::Error, Category::Usage), "{sql}: {e}");
        assert!(e.message.contains(reason), "{sql}: {e}");
    }
    assert_eq!(
        one(
            &c,
            "SELECT count(*) FROM pragma_database_list WHERE name = 'self'"
        ),
        "0"
    );
    let copy = r.dir.path().join("copy.db");
    run(&c, &format!("SELECT * FROM turso_cdc; SELECT * FROM turso_sync_local; PRAGMA journal_mode; PRAGMA synchronous = FULL;
        PRAGMA user_version = 5; CREATE TEMP TABLE tt(a); CREATE TEMP TRIGGER x AFTER INSERT ON tt BEGIN SELECT 1; END;
        VACUUM INTO '{}'", copy.display()));
    assert!(copy.exists());
    assert!(r.log().is_empty());
}

/// No function of the application, or of the sqlite3 shell, can write behind the back of a statement.
#[test]
fn no_function_of_others_gets_onto_the_connection() {
    let r = Replica::new(T);
    let c = r.open();
    let e = fails(&c, "SELECT load_extension('libm')");
    assert!(e.message.contains("not authorized"), "{e}");
    for sql in [
        "SELECT writefile('x', 'y')",
        "SELECT edit('x')",
        "SELECT fts3_tokenizer('a', x'00')",
    ] {
        fails(&c, sql);
    }
    assert!(r.log().is_empty());
}

#[test]
fn reserved_names_are_refused_even_where_no_such_table_exists() {
    let r = Replica::new(T);
    let c = r.open();
    for name in [
        "turso_cdc",
        "turso_cdc_version",
        "turso_sync_local",
        "turso_sync_conflicts",
        "Turso_Sync_Last_Change_Id",
    ] {
        for sql in [
            format!("CREATE TABLE {name}(a)"),
            format!("CREATE TABLE main.{name} AS SELECT 1 AS a"),
            format!("CREATE VIEW {name} AS SELECT 1"),
            format!("ALTER TABLE t RENAME TO {name}"),
            format!("ALTER TABLE main.t RENAME TO /* */ [{name}];"),
        ] {
            let e = fails(&c, &sql);
            // SQLite itself refuses some statements when there is such a table.
            let exists = e.message.contains("there is already");
            assert_eq!(exists, e.category == Category::Database, "{sql}: {e}");
            assert!(exists || e.message.contains("sync engine"), "{sql}: {e}");
            assert!(!exists || !name.contains("Last"), "{sql}: {e}");
        }
    }
    let e = fails(&c, "CREATE VIRTUAL TABLE turso_sync_last_change_id USING fts5(a)");
    assert!(e.message.contains("sync engine"), "{e}");
    run(&c, "ALTER TABLE t RENAME COLUMN a TO turso_cdc");
    assert_eq!(r.log().len(), 1);
}

#[test]
fn two_threads_write_one_table() {
    let r = Replica::new(T);
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (r, start) = (&r, &start);
            scope.spawn(move || {
                let c = r.open();
                c.set_busy_timeout(std::time::Duration::from_secs(60));
                start.wait();
                for i in 0..100 {
                    if i % 10 == 0 {
                        run(&c, &format!("BEGIN IMMEDIATE; INSERT INTO t(a) VALUES ({thread}); INSERT INTO t(a) VALUES (-1); COMMIT"));
                    } else {
                        run(&c, &format!("INSERT INTO t(a) VALUES ({thread})"));
                    }
                }
            });
        }
    });
    let entries = r.entries();
    assert_eq!(entries.len(), 220);
    for (e, rowid) in entries.iter().zip(1..) {
        assert_eq!(e.rowid, rowid, "in the order of the commits");
        assert!(e.txn_id <= e.change_id);
    }
    assert!(
        entries
            .windows(2)
            .all(|w| w[0].change_id < w[1].change_id && w[0].txn_id <= w[1].txn_id)
    );
}

#[test]
fn a_write_holds_no_other_database_that_it_does_not_use() {
    let r = Replica::new(T);
    let c = r.open();
    run(&c, "INSERT INTO t VALUES (1, 1)");
    let c = r.open();
    run(&c, "ATTACH ':memory:' AS aux");
    let mut half_way = prepare(&c, "SELECT * FROM t");
    assert_eq!(half_way.step().unwrap(), Step::Row);
    run(&c, "INSERT INTO t VALUES (2, 2)");
    run(&c, "DETACH aux");
}

#[test]
fn a_statement_that_finds_the_database_locked_counts_nothing() {
    let r = Replica::new(T);
    let (c, other) = (r.open(), r.open());
    run(&c, "INSERT INTO t VALUES (1, 1), (2, 2)");
    run(&other, "BEGIN IMMEDIATE");
    let mut waits = prepare(&c, "DELETE FROM t");
    assert!(waits.step().is_err());
    assert_eq!(one(&c, "SELECT changes()"), "2");
    run(&other, "COMMIT");
    assert_eq!(waits.execute().unwrap(), 2);
    assert_eq!(one(&c, "SELECT changes()"), "2");
}

#[test]
fn a_statement_that_cannot_be_prepared_anew_counts_nothing() {
    let r = Replica::new("CREATE TABLE t (a INTEGER REFERENCES gone (a), b)");
    let c = r.open();
    let mut update = prepare(&c, "UPDATE t SET a = a + 1");
    run(&c, "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)");
    // SQLite prepares all statements anew now, and looks for the parent table.
    run(&c, "PRAGMA foreign_keys = ON");
    assert!(update.step().is_err());
    assert_eq!(one(&c, "SELECT changes() || ' ' || total_changes()"), "'3 3'");
}

#[test]
fn a_replace_that_fails_before_it_overwrites_keeps_what_it_did_and_nothing_else() {
    for (rows, left, logged) in [
        ("(5, 1), (4, 'text')", "'4=4,5=1'", "+h#5>5,1"),
        ("(5, 1), (5, 'text')", "'4=4,5=1'", "+h#5>5,1"),
        ("(4, 1), (4, 'text')", "'4=1'", "-h#4<4,4 +h#4>4,1"),
        ("(4, 'text')", "'4=4'", ""),
        (
            "(4, 1), (5, 1), (6, 'text')",
            "'4=1,5=1'",
            "-h#4<4,4 +h#4>4,1 +h#5>5,1",
        ),
    ] {
        // With a VIRTUAL column of type REAL somewhere, what the data tells is not always clear.
        let r = Replica::new(
            "CREATE TABLE h (k INTEGER PRIMARY KEY, d INTEGER) STRICT; CREATE TABLE v (a, b REAL AS (a))",
        );
        let c = r.open();
        run(&c, "INSERT INTO h VALUES (4, 4)");
        run(&c, "BEGIN");
        // SQLite keeps the rows before in a transaction.
        let failed = c.execute_batch(&format!("INSERT OR REPLACE INTO h VALUES {rows}"));
        assert_eq!(failed.unwrap_err().code, Code::Constraint, "{rows}");
        run(&c, "COMMIT");
        assert_eq!(
            one(&c, "SELECT group_concat(k || '=' || d) FROM h"),
            left,
            "{rows}"
        );
        c.close().unwrap();
        assert_eq!(r.log()[1..].join(" "), logged, "{rows}");
    }
}

#[test]
fn a_replace_that_fails_before_it_overwrites_leaves_the_row_in_its_indexes() {
    let r = Replica::new("CREATE TABLE h (k INTEGER PRIMARY KEY, d INTEGER UNIQUE) STRICT");
    let c = r.open();
    run(&c, "INSERT INTO h VALUES (4, 4), (5, 5)");
    let mut reader = prepare(&c, "SELECT d FROM h ORDER BY d");
    assert_eq!(reader.step(), Ok(Step::Row));
    run(&c, "BEGIN");
    let failed = c.execute_batch("INSERT OR REPLACE INTO h VALUES (6, 6), (5, 'text')");
    assert_eq!(failed.unwrap_err().code, Code::Constraint);
    assert_eq!(reader.step(), Ok(Step::Row));
    reader.reset(false).unwrap();
    // Plain SQLite (3.53) finds no row here, and its integrity check fails.
    assert_eq!(one(&c, "SELECT k FROM h WHERE d = 5"), "5");
    run(&c, "COMMIT");
    assert_eq!(one(&c, "PRAGMA integrity_check"), "'ok'");
    c.close().unwrap();
    assert_eq!(r.log()[2..], ["+h#6>6,6"]);
}

#[test]
fn foreign_keys_are_switched_while_a_write_is_half_way_as_sqlite_reads_the_value() {
    for value in [
        "1", "on", "FULL", "extra", "'1x'", "-1", "256", "257", "yes", "nonsense", "TRUE",
    ] {
        let seen = [false, true].map(|capture| {
            let r = Replica::new(T);
            let options = OpenOptions {
                capture,
                ..Default::default()
            };
            let c = Connection::open(&r.path, options).unwrap();
            let mut half_way = prepare(&c, "INSERT INTO t VALUES (1, 1) RETURNING id");
            assert_eq!(half_way.step(), Ok(Step::Row));
            run(&c, &format!("PRAGMA foreign_keys = {value}"));
            half_way.reset(false).unwrap();
            one(&c, "PRAGMA foreign_keys")
        });
        assert_eq!(seen[0], seen[1], "{value}");
    }
}

unsafe extern "C" fn interrupt_here(
    context: *mut rusqlite::ffi::sqlite3_context,
    _count: std::ffi::c_int,
    _arguments: *mut *mut rusqlite::ffi::sqlite3_value,
) {
    // SAFETY: called by SQLite with its own context.
    unsafe {
        rusqlite::ffi::sqlite3_interrupt(rusqlite::ffi::sqlite3_context_db_handle(context));
        rusqlite::ffi::sqlite3_result_int(context, 7);
    }
}

unsafe extern "C" fn add_interrupt_here(
    db: *mut rusqlite::ffi::sqlite3,
    _message: *mut *mut std::ffi::c_char,
    _routines: *const rusqlite::ffi::sqlite3_api_routines,
) -> std::ffi::c_int {
    use rusqlite::ffi;
    let (name, utf8) = (c"interrupt_here".as_ptr(), ffi::SQLITE_UTF8);
    let nothing = std::ptr::null_mut();
    // SAFETY: the connection is being opened; the name is a literal.
    unsafe {
        ffi::sqlite3_create_function_v2(db, name, 0, utf8, nothing, Some(interrupt_here), None, None, None)
    }
}

/// The interrupt meets what the library does after the user's statement, and stays in force while the reader is half way.
#[test]
fn an_interrupt_between_a_write_and_its_log_undoes_the_write() {
    // SAFETY: the function has the form that SQLite asks for. Other tests may have the SQL function, too.
    unsafe { rusqlite::ffi::sqlite3_auto_extension(Some(add_interrupt_here)) };
    for first in ["SELECT 1", "INSERT INTO t VALUES (1, 1)"] {
        for begin in ["SELECT 1", "BEGIN", "BEGIN; INSERT INTO t VALUES (2, 2)"] {
            let r = Replica::new(&format!("{T} CREATE TABLE u(a); INSERT INTO u VALUES (1), (2);"));
            let c = r.open();
            run(&c, first);
            let mut reader = prepare(&c, "SELECT * FROM u");
            reader.step().unwrap();
            run(&c, begin);
            let e = fails(&c, "INSERT INTO t VALUES (3, interrupt_here())");
            assert_eq!(e.code, Code::Interrupt);
            assert!(c.is_autocommit());
            reader.reset(false).unwrap();
            run(&c, "INSERT INTO t VALUES (4, 4)");
            let shown: Vec<String> = rows(&c, "SELECT id, a FROM t").unwrap();
            let logged: Vec<String> = r
                .log()
                .iter()
                .map(|l| l.split_once('>').unwrap().1.to_owned())
                .collect();
            assert_eq!(shown, logged, "{first}; {begin}");
            assert_eq!(shown.last().unwrap(), "4,4");
            assert!(!shown.contains(&"3,7".to_owned()));
        }
    }
}

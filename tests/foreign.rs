//! Other programs at the replica's file: what they write, checkpoint and read with a SQLite of their own.
#![cfg(feature = "server")]

mod process;
mod support;

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use process::run_child;
use rusqlite::ffi;
use support::*;
use turso_sync::engine::{DatabaseSyncEngineOpts, ForeignPolicy};
use turso_sync::error::{Category, Error};

const SHOP: &str = "
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL);
CREATE TABLE note (text);
CREATE TABLE log (what);
CREATE TRIGGER priced AFTER UPDATE OF price ON item BEGIN INSERT INTO log VALUES (new.name || new.price); END;
INSERT INTO item VALUES (1, 'pen', 1.5), (2, 'ink', 7.25), (3, 'pad', 3);
INSERT INTO note VALUES ('first');
";

/// Does nothing as a test. As a child: another program, which runs some SQL on a file and closes it, or dies.
#[test]
fn stranger() {
    let Ok(path) = std::env::var("STRANGER_PATH") else {
        return;
    };
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    let sql = std::env::var("STRANGER_SQL").unwrap();
    conn.execute_batch(&sql).unwrap();
    if let Ok(bytes) = std::env::var("STRANGER_BLOB") {
        write_blob(&conn, c"raw", c"data", 1, bytes.as_bytes());
    }
    if std::env::var("STRANGER_DIES").is_ok() {
        // SAFETY: ends the process at once, as a kill would.
        unsafe { libc::_exit(0) };
    }
}

/// Writes over the beginning of a value, without any statement.
fn write_blob(conn: &rusqlite::Connection, table: &CStr, column: &CStr, rowid: i64, bytes: &[u8]) {
    let mut blob = std::ptr::null_mut();
    // SAFETY: the connection is open, the names end with NUL, and `bytes` has the length that is given.
    unsafe {
        let opened = ffi::sqlite3_blob_open(
            conn.handle(),
            c"main".as_ptr(),
            table.as_ptr(),
            column.as_ptr(),
            rowid,
            1,
            &mut blob,
        );
        assert_eq!(opened, ffi::SQLITE_OK);
        let written = ffi::sqlite3_blob_write(blob, bytes.as_ptr().cast(), bytes.len() as i32, 0);
        assert_eq!(
            (written, ffi::sqlite3_blob_close(blob)),
            (ffi::SQLITE_OK, ffi::SQLITE_OK)
        );
    }
}

/// Another program runs `sql`, and closes the file as SQLite does.
fn foreign(path: &Path, sql: &str) {
    run_child(
        "stranger",
        &[("STRANGER_PATH", path.to_str().unwrap()), ("STRANGER_SQL", sql)],
    );
}

/// Another program runs `sql`, and dies.
fn foreign_that_dies(path: &Path, sql: &str) {
    let variables = [
        ("STRANGER_PATH", path.to_str().unwrap()),
        ("STRANGER_SQL", sql),
        ("STRANGER_DIES", "1"),
    ];
    run_child("stranger", &variables);
}

struct Scene {
    remote: Remote,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene {
            remote: Remote::start(SHOP),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn options(&self, name: &str) -> DatabaseSyncEngineOpts {
        options(&self.dir.path().join(name), &self.remote.url)
    }

    fn open(&self, name: &str) -> Replica {
        Replica::open_with(self.options(name)).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All replicas and the remote have the same in the end.
    fn converge(&self, replicas: &[&Replica]) {
        for _ in 0..2 {
            replicas
                .iter()
                .for_each(|replica| replica.sync().map(drop).unwrap());
        }
        for replica in replicas {
            assert_eq!(replica.tables(), self.remote.tables());
            assert_eq!(replica.pending(), 0);
        }
    }
}

fn settle(replica: &Replica, policy: ForeignPolicy) -> Result<(), Error> {
    run(&replica.engine, replica.engine.settle_foreign_changes(policy))
}

fn checkpoint(replica: &Replica) -> Result<(), Error> {
    run(&replica.engine, replica.engine.checkpoint())
}

/// Every operation stops with an error that names exactly `tables`, and changes nothing.
fn assert_stops(replica: &Replica, tables: &[&str]) {
    let before = replica.tables();
    let all = [
        replica.pull().map(drop),
        replica.push(),
        replica.sync().map(drop),
        settle(replica, ForeignPolicy::Stop),
    ];
    for result in all {
        let e = result.unwrap_err();
        assert_eq!(e.category, Category::Foreign, "{e}");
        assert!(!e.retryable);
        tables
            .iter()
            .for_each(|table| assert!(e.message.contains(table), "{e}"));
        assert_eq!(replica.engine.foreign_tables(), tables);
    }
    assert_eq!(replica.tables(), before);
}

/// What another program may write, and the tables that it concerns.
const WRITES: [(&str, &[&str]); 7] = [
    ("INSERT INTO note VALUES ('theirs'), ('too')", &["note"]),
    ("UPDATE item SET price = price + 1 WHERE id < 3", &["item", "log"]),
    ("DELETE FROM item WHERE id = 2", &["item"]),
    (
        "CREATE TABLE extra (id INTEGER PRIMARY KEY, x UNIQUE); INSERT INTO extra VALUES (1, 'x')",
        &["extra"],
    ),
    ("ALTER TABLE note ADD COLUMN size DEFAULT 5", &["note"]),
    ("DROP TABLE log", &["log"]),
    (
        "BEGIN; CREATE INDEX by_price ON item(price); UPDATE item SET name = 'swap' WHERE id = 1;
         UPDATE item SET name = 'pen' WHERE id = 2; UPDATE item SET name = 'ink' WHERE id = 1; COMMIT",
        &["item"],
    ),
];

#[test]
fn every_write_is_seen_by_every_operation_and_adopted() {
    for (sql, tables) in WRITES {
        for pending in [false, true] {
            let scene = Scene::new();
            let (a, b) = (scene.open("a"), scene.open("b"));
            if pending {
                a.sql("INSERT INTO note VALUES ('ours'); UPDATE item SET price = 9 WHERE id = 3");
            }
            foreign(&a.path, sql);
            assert_stops(&a, tables);
            let e = checkpoint(&a).unwrap_err();
            assert_eq!(e.category, Category::Foreign);
            let seen = a.tables();
            settle(&a, ForeignPolicy::Adopt).unwrap();
            assert_eq!((a.tables(), a.engine.foreign_tables().len()), (seen.clone(), 0));
            assert!(a.pending() > 0);
            checkpoint(&a).unwrap();
            a.push().unwrap();
            assert_eq!(scene.remote.tables(), seen, "{sql}");
            scene.converge(&[&a, &b]);
            assert_eq!(a.tables(), seen);
        }
    }
}

#[test]
fn every_write_can_be_discarded() {
    for (sql, tables) in WRITES {
        let scene = Scene::new();
        let (a, b) = (scene.open("a"), scene.open("b"));
        a.sql("INSERT INTO note VALUES ('ours')");
        let before = a.tables();
        foreign(&a.path, sql);
        assert_stops(&a, tables);
        settle(&a, ForeignPolicy::Discard).unwrap();
        assert_eq!(a.tables(), before, "{sql}");
        assert_eq!(a.pending(), 1);
        scene.converge(&[&a, &b]);
        assert_eq!(a.tables(), before);
    }
}

#[test]
fn others_may_have_pushed_meanwhile() {
    for policy in [ForeignPolicy::Adopt, ForeignPolicy::Discard] {
        let scene = Scene::new();
        let (a, b) = (scene.open("a"), scene.open("b"));
        a.sql("INSERT INTO note VALUES ('ours')");
        foreign(
            &a.path,
            "UPDATE item SET name = 'biro' WHERE id = 1; DELETE FROM item WHERE id = 2",
        );
        b.sql("UPDATE item SET price = 2 WHERE id = 1; INSERT INTO item VALUES (4, 'nib', 1)");
        b.push().unwrap();
        assert_stops(&a, &["item"]);
        settle(&a, policy).unwrap();
        scene.converge(&[&a, &b]);
        let adopted = policy == ForeignPolicy::Adopt;
        let items =
            a.text("SELECT group_concat(id || name || price, ' ') FROM (SELECT * FROM item ORDER BY id)");
        let expected = match adopted {
            true => "1biro2.0 3pad3.0 4nib1.0",
            false => "1pen2.0 2ink7.25 3pad3.0 4nib1.0",
        };
        assert_eq!(items, expected);
        assert_eq!(a.text("SELECT count(*) FROM note"), "2");
    }
}

#[test]
fn a_policy_decides_without_being_asked() {
    for (policy, expected) in [(ForeignPolicy::Adopt, "2"), (ForeignPolicy::Discard, "1")] {
        let scene = Scene::new();
        let opts = DatabaseSyncEngineOpts {
            foreign_policy: policy,
            ..scene.options("a")
        };
        let a = Replica::open_with(opts).unwrap();
        foreign(&a.path, "INSERT INTO note VALUES ('theirs')");
        a.sync().unwrap();
        assert_eq!(a.text("SELECT count(*) FROM note"), expected);
        assert_eq!(a.tables(), scene.remote.tables());
        foreign(&a.path, "DELETE FROM note");
        checkpoint(&a).unwrap();
        let expected = if policy == ForeignPolicy::Adopt { "0" } else { "1" };
        assert_eq!(a.text("SELECT count(*) FROM note"), expected);
        scene.converge(&[&a]);
    }
}

#[test]
fn what_is_captured_afterwards_builds_on_it() {
    let scene = Scene::new();
    let a = scene.open("a");
    foreign(
        &a.path,
        "INSERT INTO item VALUES (5, 'five', 5); UPDATE item SET price = 0 WHERE id = 1",
    );
    a.sql("UPDATE item SET name = 'FIVE' WHERE id = 5; UPDATE item SET name = 'PEN' WHERE id = 1");
    assert_stops(&a, &["item", "log"]);
    let seen = a.tables();
    settle(&a, ForeignPolicy::Adopt).unwrap();
    scene.converge(&[&a]);
    assert_eq!(a.tables(), seen);
}

/// Nobody could replay it without what the other program has written.
#[test]
fn what_is_captured_afterwards_and_fits_nothing_else_is_adopted_with_it() {
    for (theirs, ours) in [
        (
            "DELETE FROM item WHERE id = 1",
            "INSERT INTO item VALUES (4, 'pen', 2)",
        ),
        (
            "CREATE TABLE x (id INTEGER PRIMARY KEY)",
            "INSERT INTO x VALUES (1)",
        ),
        ("CREATE TABLE x (id)", "ALTER TABLE x RENAME TO y"),
        ("ALTER TABLE item ADD COLUMN z", "UPDATE item SET z = 1"),
        (
            "ALTER TABLE item ADD COLUMN z",
            "INSERT INTO item(z, id, name, price) VALUES (4, 4, 'four', 4)",
        ),
        (
            "UPDATE item SET id = 9 WHERE id = 1",
            "UPDATE item SET price = 9 WHERE id = 9",
        ),
    ] {
        let scene = Scene::new();
        let (a, b) = (scene.open("a"), scene.open("b"));
        a.sql("INSERT INTO note VALUES ('before')");
        foreign(&a.path, theirs);
        a.sql(ours);
        a.sql("INSERT INTO note VALUES ('behind'); DELETE FROM note WHERE rowid = 1");
        b.sql("INSERT INTO note VALUES ('of b'); UPDATE item SET price = 77 WHERE id = 2");
        b.push().unwrap();
        let seen = a.tables();
        for operation in [Replica::push, |a: &Replica| a.sync().map(drop)] {
            let e = operation(&a).unwrap_err();
            assert_eq!(e.category, Category::Foreign, "{ours}: {e}");
            assert!(!a.engine.foreign_tables().is_empty(), "{ours}");
        }
        let e = settle(&a, ForeignPolicy::Discard).unwrap_err();
        assert_eq!(e.category, Category::Foreign, "{ours}: {e}");
        assert!(e.message.contains("adopt both"), "{e}");
        assert_eq!(a.tables(), seen, "{ours}");
        settle(&a, ForeignPolicy::Adopt).unwrap();
        assert_eq!(a.tables(), seen, "{ours}");
        scene.converge(&[&a, &b]);
        let notes = "SELECT group_concat(text) FROM (SELECT text FROM note ORDER BY text)";
        assert_eq!(a.text(notes), "before,behind,of b", "{ours}");
        assert_eq!(a.text("SELECT price FROM item WHERE id = 2"), "77.0", "{ours}");
    }
}

#[test]
fn a_foreign_checkpoint_alone_is_no_foreign_write() {
    let scene = Scene::new();
    let a = scene.open("a");
    a.sql("UPDATE item SET price = 100 WHERE id = 1; INSERT INTO note VALUES ('pending')");
    let seen = a.tables();
    foreign(&a.path, "PRAGMA wal_checkpoint(TRUNCATE)");
    a.pull().unwrap();
    assert_eq!(a.tables(), seen);
    scene.converge(&[&a]);
    assert_eq!(a.tables(), seen);
}

/// As one that comes before it: what costs a download must not look like a damaged file.
#[test]
fn a_foreign_checkpoint_in_the_middle_of_an_operation_asks_for_another_one() {
    for request in 0..3 {
        let scene = Scene::new();
        let a = scene.open("a");
        a.sql("UPDATE item SET price = 100 WHERE id = 1; INSERT INTO note VALUES ('pending')");
        let mut count = 0;
        let pushed = drive(&a.engine, a.engine.push_changes_to_remote(), &mut |_, perform| {
            if count == request {
                foreign(&a.path, "PRAGMA wal_checkpoint(TRUNCATE)");
            }
            count += 1;
            Ok(perform())
        });
        if let Err(e) = pushed {
            assert_eq!((e.category, e.retryable), (Category::Database, true), "{e}");
        }
        a.push().unwrap();
        scene.converge(&[&a]);
        assert_eq!(a.text("SELECT price FROM item WHERE id = 1"), "100.0");
    }
}

#[test]
fn reading_is_always_fine() {
    let scene = Scene::new();
    let read = "SELECT * FROM item; SELECT count(*) FROM note; PRAGMA integrity_check; BEGIN; SELECT * FROM turso_cdc; COMMIT";
    let (a, b) = (scene.open("a"), scene.open("b"));
    a.sql("INSERT INTO note VALUES ('pending')");
    foreign(&a.path, read);
    a.push().unwrap();
    foreign_that_dies(&a.path, read);
    b.sql("INSERT INTO note VALUES ('b')");
    b.push().unwrap();
    a.pull().unwrap();
    let (path, seen) = (a.path.clone(), a.tables());
    drop(a);
    foreign(&path, read);
    b.sql("DELETE FROM note WHERE text = 'b'");
    b.push().unwrap();
    let a = scene.open("a");
    assert_eq!(a.tables(), seen);
    scene.converge(&[&a, &b]);
}

#[test]
fn written_and_checkpointed_while_the_replica_is_closed() {
    for (sql, tables) in WRITES {
        for policy in [ForeignPolicy::Adopt, ForeignPolicy::Discard] {
            let scene = Scene::new();
            let a = scene.open("a");
            a.sql("INSERT INTO note VALUES ('ours')");
            let before = a.tables();
            drop(a);
            // Who closes the file last moves the log into it.
            foreign(&scene.path("a"), sql);
            let a = scene.open("a");
            let seen = a.tables();
            assert_ne!(seen, before);
            assert_stops(&a, tables);
            settle(&a, policy).unwrap();
            let adopted = policy == ForeignPolicy::Adopt;
            assert_eq!(&a.tables(), if adopted { &seen } else { &before }, "{sql}");
            scene.converge(&[&a]);
            assert_eq!(a.tables(), if adopted { seen } else { before });
        }
    }
}

#[test]
fn written_while_the_replica_is_closed_by_a_program_that_dies() {
    let scene = Scene::new();
    let a = scene.open("a");
    a.sql("INSERT INTO note VALUES ('ours')");
    drop(a);
    foreign_that_dies(&scene.path("a"), "INSERT INTO note VALUES ('theirs')");
    let a = scene.open("a");
    assert_stops(&a, &["note"]);
    let seen = a.tables();
    settle(&a, ForeignPolicy::Adopt).unwrap();
    scene.converge(&[&a]);
    assert_eq!(a.tables(), seen);
}

#[test]
fn written_and_checkpointed_while_the_replica_is_open() {
    let scene = Scene::new();
    let a = scene.open("a");
    a.sql("INSERT INTO note VALUES ('ours')");
    foreign(
        &a.path,
        "INSERT INTO note VALUES ('theirs'); PRAGMA wal_checkpoint(TRUNCATE)",
    );
    a.sql("INSERT INTO note VALUES ('ours again')");
    assert_stops(&a, &["note"]);
    let seen = a.tables();
    settle(&a, ForeignPolicy::Adopt).unwrap();
    scene.converge(&[&a]);
    assert_eq!(a.tables(), seen);
}

#[test]
fn a_base_that_is_lost_while_the_remote_moves_on_needs_a_decision() {
    for policy in [ForeignPolicy::Adopt, ForeignPolicy::Discard] {
        let scene = Scene::new();
        let (a, b) = (scene.open("a"), scene.open("b"));
        a.sql("INSERT INTO log VALUES ('ours')");
        drop(a);
        foreign(
            &scene.path("a"),
            "INSERT INTO note VALUES ('theirs'); UPDATE item SET price = 0 WHERE id = 1",
        );
        b.sql("INSERT INTO item VALUES (9, 'nine', 9); INSERT INTO note VALUES ('b')");
        b.push().unwrap();
        let a = scene.open("a");
        let before = a.tables();
        for _ in 0..2 {
            let e = a.sync().unwrap_err();
            assert_eq!(e.category, Category::Foreign, "{e}");
            assert!(e.message.contains("no longer has the revision"), "{e}");
            assert_eq!(a.engine.foreign_tables(), ["item", "log", "note"]);
            assert_eq!(a.tables(), before);
        }
        settle(&a, policy).unwrap();
        scene.converge(&[&a, &b]);
        let adopted = policy == ForeignPolicy::Adopt;
        let (price, theirs) = if adopted { ("0.0", "1") } else { ("1.5", "0") };
        assert_eq!(a.text("SELECT price FROM item WHERE id = 1"), price);
        assert_eq!(a.text("SELECT count(*) FROM note WHERE text = 'theirs'"), theirs);
        // What is captured, and what only the remote has, stays in any case.
        assert_eq!(a.text("SELECT count(*) FROM item WHERE id = 9"), "1");
        assert_eq!(a.text("SELECT count(*) FROM note WHERE text = 'b'"), "1");
        assert_eq!(a.text("SELECT count(*) FROM log WHERE what = 'ours'"), "1");
    }
}

#[test]
fn the_change_log_is_not_believed_blindly() {
    let forged =
        "INSERT INTO turso_cdc SELECT 1000, 0, 1000, 1, 'note', 77, NULL, x'0219666f72676564', NULL, 0";
    for (sql, tables) in [
        (forged, vec!["note"]),
        ("DELETE FROM turso_cdc", vec!["note"]),
        (
            "DELETE FROM turso_cdc; INSERT INTO note VALUES ('theirs')",
            vec!["note"],
        ),
    ] {
        let scene = Scene::new();
        let a = scene.open("a");
        a.sql("INSERT INTO note VALUES ('ours')");
        foreign(&a.path, sql);
        assert_stops(&a, &tables);
        let seen = a.tables();
        settle(&a, ForeignPolicy::Adopt).unwrap();
        assert_eq!(a.tables(), seen);
        scene.converge(&[&a]);
        assert_eq!(a.tables(), seen, "{sql}");
    }
}

#[test]
fn many_rows_are_adopted() {
    let scene = Scene::new();
    let a = scene.open("a");
    foreign(
        &a.path,
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
         INSERT INTO item SELECT i, 'item ' || i, i FROM n; UPDATE item SET name = name || '!' WHERE id % 2",
    );
    let e = a.push().unwrap_err();
    assert_eq!(e.category, Category::Foreign, "{e}");
    let seen = a.tables();
    settle(&a, ForeignPolicy::Adopt).unwrap();
    a.push().unwrap();
    assert_eq!(scene.remote.tables(), seen);
    scene.converge(&[&a]);
}

#[test]
fn nothing_that_this_library_does_raises_an_alarm() {
    let scene = Scene::new();
    let opts = DatabaseSyncEngineOpts {
        tables_ignore: vec!["cache".into()],
        ..scene.options("a")
    };
    let a = Replica::open_with(opts).unwrap();
    for sql in [
        "CREATE TABLE cache (k, v)",
        "INSERT INTO cache VALUES (1, 2)",
        "BEGIN; UPDATE cache SET v = 3; COMMIT",
        "CREATE INDEX cached ON cache(k)",
        "ANALYZE",
        "REINDEX",
        "PRAGMA user_version = 7",
        "CREATE VIEW v AS SELECT 1",
        "DROP VIEW v",
        "CREATE VIRTUAL TABLE words USING fts5(x)",
        "INSERT INTO words VALUES ('some words')",
        "INSERT INTO words(words) VALUES ('optimize')",
        "INSERT INTO words(words) VALUES ('integrity-check')",
        "SAVEPOINT s; INSERT INTO note VALUES ('x'); ROLLBACK TO s; INSERT INTO cache VALUES (5, 5); RELEASE s",
        "BEGIN; INSERT INTO note VALUES ('y'); ROLLBACK",
        "UPDATE note SET text = text",
        "DROP TABLE cache",
    ] {
        a.sql(sql);
        a.push().unwrap_or_else(|e| panic!("{sql}: {e}"));
        a.pull().unwrap_or_else(|e| panic!("{sql}: {e}"));
        checkpoint(&a).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    assert_eq!(a.tables(), scene.remote.tables());
}

/// Connections of the library give nobody SQLite's handle, so only a connection of another program can write a value without a
/// statement (incremental blob I/O), or with functions of its own.
#[test]
fn a_value_that_was_written_without_a_statement_is_noticed_and_adopted() {
    let scene = Scene::new();
    let replica = scene.open("a.db");
    replica.sql("UPDATE note SET text = 'mine'");
    let path = scene.path("a.db");
    replica
        .sql("CREATE TABLE raw (id INTEGER PRIMARY KEY, data); INSERT INTO raw VALUES (1, zeroblob(10000))");
    replica.push().unwrap();
    run_child(
        "stranger",
        &[
            ("STRANGER_PATH", path.to_str().unwrap()),
            ("STRANGER_SQL", "SELECT 1"),
            ("STRANGER_BLOB", "in pieces"),
        ],
    );
    assert_stops(&replica, &["raw"]);
    settle(&replica, ForeignPolicy::Adopt).unwrap();
    scene.converge(&[&replica]);
    let written = replica.text("SELECT CAST(substr(data, 1, 9) AS TEXT) || length(data) FROM raw");
    assert_eq!(written, "in pieces10000");
}

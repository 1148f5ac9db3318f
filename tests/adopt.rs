//! An ordinary SQLite database becomes a replica, in place.
#![cfg(feature = "server")]

mod support;

use std::path::{Path, PathBuf};

use support::*;
use turso_sync::engine::DatabaseSyncEngineOpts;
use turso_sync::error::{Category, Code, Result};

/// Some of everything that a database may hold.
const CONTENT: &str = "
CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE COLLATE NOCASE, price REAL CHECK (price >= 0));
CREATE TABLE tag (item REFERENCES item ON DELETE CASCADE, tag TEXT, PRIMARY KEY (item, tag)) WITHOUT ROWID;
CREATE TABLE note (text, size AS (length(text)) STORED);
CREATE TABLE strict (id INTEGER PRIMARY KEY, v ANY) STRICT;
CREATE TABLE \"odd \"\"name\" (\"select\" BLOB);
CREATE TABLE log (what);
CREATE INDEX by_price ON item (price) WHERE price > 2;
CREATE VIEW cheap AS SELECT * FROM item WHERE price < 3;
CREATE TRIGGER priced AFTER INSERT ON item BEGIN INSERT INTO log VALUES ('new ' || new.name); END;
CREATE VIRTUAL TABLE doc USING fts5 (title, body);
CREATE VIRTUAL TABLE place USING rtree (id, x0, x1);
INSERT INTO item VALUES (7, 'pen', 1.5), (8, 'ink', 7.25), (9, 'deleted', 0);
DELETE FROM item WHERE id = 9;
INSERT INTO tag VALUES (7, 'blue'), (8, ''), (8, x'00ff');
INSERT INTO note (text) VALUES ('first'), ('first'), (NULL), (x'01'), (9e999);
INSERT INTO strict VALUES (1, 5), (2, 5.0), (3, '5');
INSERT INTO \"odd \"\"name\" VALUES (zeroblob(20000));
INSERT INTO doc VALUES ('greeting', 'hello world');
INSERT INTO place VALUES (1, 0.5, 1.5);
PRAGMA user_version = 42;
PRAGMA application_id = 77;
";

struct Scene {
    remote: Remote,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(remote: &str) -> Scene {
        Scene {
            remote: Remote::start(remote),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// An ordinary database with `sql` in it.
    fn database(&self, sql: &str) -> PathBuf {
        let path = self.dir.path().join("mine.db");
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        path
    }

    fn adopting(&self, path: &Path) -> DatabaseSyncEngineOpts {
        DatabaseSyncEngineOpts {
            adopt_database: true,
            ..options(path, &self.remote.url)
        }
    }

    fn adopt(&self, path: &Path) -> Result<Replica> {
        Replica::open_with(self.adopting(path))
    }
}

#[test]
fn all_of_a_database_reaches_the_remote_and_others() {
    for journal_mode in ["DELETE", "WAL"] {
        let scene = Scene::new("");
        let path = scene.database(&format!("PRAGMA journal_mode = {journal_mode}; {CONTENT}"));
        let before = tables(&path);
        let a = scene.adopt(&path).unwrap();
        assert_eq!(a.tables(), before);
        assert!(a.pending() > 0);
        // At work before the first contact.
        a.sql("INSERT INTO item (name, price) VALUES ('later', 3); DELETE FROM note WHERE text IS NULL");
        assert_eq!(a.text("SELECT max(id) FROM item"), "10", "AUTOINCREMENT goes on");
        a.sync().unwrap();
        assert_eq!(a.tables(), scene.remote.tables());
        assert_eq!(
            a.text("SELECT group_concat(what) FROM log"),
            "new pen,new ink,new deleted,new later"
        );
        let b = Replica::open(&scene.dir.path().join("b.db"), &scene.remote.url);
        assert_eq!(b.tables(), a.tables());
        assert_eq!(
            b.text("SELECT title FROM doc WHERE doc MATCH 'world'"),
            "greeting"
        );
        assert_eq!(b.text("SELECT id FROM place WHERE x0 < 1 AND x1 > 1"), "1");
        assert_eq!(b.text("SELECT user_version FROM pragma_user_version"), "42");
        assert_eq!(b.text("SELECT application_id FROM pragma_application_id"), "77");
        b.sql("UPDATE item SET price = 2 WHERE id = 7");
        b.sync().unwrap();
        a.sync().unwrap();
        assert_eq!(a.tables(), scene.remote.tables());
        assert_eq!(a.text("SELECT integrity_check FROM pragma_integrity_check"), "ok");
        // Once a replica, the option means nothing.
        drop(a);
        assert_eq!(scene.adopt(&path).unwrap().pending(), 0);
    }
}

#[test]
fn it_merges_with_what_the_remote_has() {
    let table = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE note (text);";
    let scene = Scene::new(&format!(
        "{table} INSERT INTO item VALUES (1, 'theirs'), (2, 'only theirs'); INSERT INTO note VALUES ('theirs')"
    ));
    let path = scene.database(&format!(
        "{table} INSERT INTO item VALUES (1, 'ours'), (3, 'only ours'); INSERT INTO note VALUES ('ours')"
    ));
    let a = scene.adopt(&path).unwrap();
    a.sync().unwrap();
    assert_eq!(a.tables(), scene.remote.tables());
    assert_eq!(
        a.text("SELECT group_concat(name) FROM item"),
        "ours,only theirs,only ours"
    );
    assert_eq!(a.text("SELECT count(*) FROM note"), "2");
}

#[test]
fn a_table_of_another_definition_is_a_conflict_and_nothing_is_lost() {
    let scene = Scene::new("CREATE TABLE item (id INTEGER PRIMARY KEY, colour TEXT NOT NULL);");
    let path = scene.database(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO item VALUES (1, 'ours')",
    );
    let a = scene.adopt(&path).unwrap();
    let before = a.tables();
    assert_eq!(a.sync().unwrap_err().category, Category::Conflict);
    assert_eq!(a.tables(), before);
    let conflicts = a.engine.conflicts().unwrap();
    assert_eq!((conflicts.len(), conflicts[0].table.as_str()), (1, "item"));
}

#[test]
fn local_tables_stay_local() {
    let scene = Scene::new("");
    let path = scene.database("CREATE TABLE item (x); INSERT INTO item VALUES (1); CREATE TABLE cache (y); INSERT INTO cache VALUES (2)");
    let a = Replica::open_with(DatabaseSyncEngineOpts {
        tables_ignore: vec!["cache".into()],
        ..scene.adopting(&path)
    });
    let a = a.unwrap();
    a.sync().unwrap();
    assert!(!scene.remote.tables().contains_key("cache"));
    assert_eq!(a.text("SELECT y FROM cache"), "2");
}

/// Many rows are many transactions: a push sends each of them whole.
#[test]
fn a_large_database_travels_in_parts() {
    let scene = Scene::new("");
    let path = scene.database(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000)
         INSERT INTO t SELECT i, hex(randomblob(20)) FROM n",
    );
    let a = scene.adopt(&path).unwrap();
    let transactions: i64 = a
        .text("SELECT count(DISTINCT change_txn_id) FROM turso_cdc")
        .parse()
        .unwrap();
    assert_eq!(transactions, 26);
    a.sync().unwrap();
    assert_eq!(a.tables(), scene.remote.tables());
}

#[test]
fn what_cannot_be_adopted_is_left_as_it_is() {
    let scene = Scene::new("");
    for (sql, reason) in [
        (
            "PRAGMA page_size = 8192; CREATE TABLE t (x)",
            "pages of 8192 bytes",
        ),
        ("PRAGMA encoding = 'UTF-16'; CREATE TABLE t (x)", "UTF-16"),
        (
            "CREATE TABLE turso_sync_last_change_id (x)",
            "another implementation",
        ),
        (
            "CREATE TABLE turso_sync_conflicts (precious)",
            "another implementation",
        ),
    ] {
        let path = scene.database(sql);
        let before = std::fs::read(&path).unwrap();
        let e = scene.adopt(&path).err().unwrap();
        assert_eq!(e.category, Category::Identity, "{e}");
        assert!(e.message.contains(reason), "{e}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::remove_file(&path).unwrap();
    }
    // Not asked for, or in use.
    let path = scene.database("CREATE TABLE t (x); INSERT INTO t VALUES ('precious')");
    let e = Replica::open_with(options(&path, &scene.remote.url))
        .err()
        .unwrap();
    assert!(
        e.category == Category::Identity && e.message.contains("adopt_database"),
        "{e}"
    );
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch("PRAGMA journal_mode = WAL; BEGIN; SELECT * FROM t; INSERT INTO t VALUES ('theirs')")
        .unwrap();
    let e = scene.adopt(&path).err().unwrap();
    assert_eq!(e.code, Code::Busy, "{e}");
    other.execute_batch("COMMIT").unwrap();
    let a = scene.adopt(&path).unwrap();
    a.sync().unwrap();
    assert_eq!(scene.remote.tables()["t"].len(), 2);
}

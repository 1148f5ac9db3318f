//! Tables that a replica keeps to itself (`tables_ignore`).

mod support;

use std::path::Path;

use support::{Remote, Replica, options, plain};
use turso_sync::engine::{ConflictPolicy, DatabaseSyncEngine, DatabaseSyncEngineOpts};
use turso_sync::error::{Category, Code, Error, Result};

const ITEM: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    INSERT INTO item VALUES (1, 'one'), (2, 'two');";

fn ignoring(path: &Path, url: &str, names: &[&str]) -> DatabaseSyncEngineOpts {
    DatabaseSyncEngineOpts {
        tables_ignore: names.iter().map(|n| (*n).to_owned()).collect(),
        ..options(path, url)
    }
}

/// A replica that keeps `names` to itself, another that does not, and their remote.
struct Setup {
    remote: Remote,
    a: Replica,
    b: Replica,
    _dir: tempfile::TempDir,
    names: Vec<String>,
}

impl Setup {
    fn new(schema: &str, names: &[&str]) -> Setup {
        let remote = Remote::start(schema);
        let dir = tempfile::tempdir().unwrap();
        let a = Replica::open_with(ignoring(&dir.path().join("a.db"), &remote.url, names)).unwrap();
        let b = Replica::open(&dir.path().join("b.db"), &remote.url);
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        Setup {
            remote,
            a,
            b,
            _dir: dir,
            names,
        }
    }

    /// Something new on the remote arrives at `a`.
    fn news(&self) {
        self.b.sql("INSERT INTO item (name) VALUES ('news' || random())");
        self.b.sync().unwrap();
        assert!(self.a.pull().unwrap());
    }

    fn restart(self) -> Setup {
        let Setup { a, names, .. } = self;
        let opts = DatabaseSyncEngineOpts {
            tables_ignore: names.clone(),
            ..options(&a.path, &self.remote.url)
        };
        drop(a);
        let a = Replica::open_with(opts).unwrap();
        Setup { a, names, ..self }
    }

    /// `a` and the remote are equal except for the ignored tables.
    fn check_equal(&self) {
        let (mut here, mut there) = (self.a.tables(), self.remote.tables());
        for tables in [&mut here, &mut there] {
            tables.retain(|table, _| !self.names.iter().any(|name| name.eq_ignore_ascii_case(table)));
        }
        assert_eq!(here, there);
    }
}

/// Everything about the table `name`: the schema of all that belongs to it, and the rows with their rowids, as bytes.
fn content(path: &Path, name: &str) -> Vec<String> {
    let conn = plain(path);
    conn.execute_batch("PRAGMA ignore_check_constraints = ON")
        .unwrap();
    let list = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns)
                .map(|i| row.get_ref(i).map(|v| format!("{v:?}")))
                .collect::<rusqlite::Result<Vec<_>>>()
        });
        rows.unwrap().map(|row| row.unwrap().join("|")).collect()
    };
    let mut all = list(&format!(
        "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name = '{name}' ORDER BY type, name"
    ));
    let quoted = name.replace('"', "\"\"");
    let rowid = format!("SELECT rowid, * FROM \"{quoted}\" ORDER BY rowid");
    all.extend(list(&match conn.prepare(&rowid) {
        Ok(_) => rowid,
        Err(_) => format!("SELECT * FROM \"{quoted}\""),
    }));
    if conn.prepare("SELECT * FROM sqlite_sequence").is_ok() {
        all.extend(list(&format!(
            "SELECT seq FROM sqlite_sequence WHERE name = '{name}'"
        )));
    }
    assert_eq!(
        list("SELECT * FROM pragma_integrity_check WHERE integrity_check <> 'ok'"),
        [""; 0]
    );
    all
}

fn fails(replica: &Replica, sql: &str) -> Error {
    let e = replica.conn.execute_batch(sql).err();
    e.unwrap_or_else(|| panic!("no error: {sql}"))
}

fn file_contains(path: &Path, needle: &[u8]) -> bool {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    [path, Path::new(&wal)].iter().any(|file| {
        let bytes = std::fs::read(file).unwrap_or_default();
        bytes.windows(needle.len()).any(|w| w == needle)
    })
}

#[test]
fn a_local_table_is_never_captured_and_survives_everything() {
    let s = Setup::new(ITEM, &["Secret"]);
    s.a.sql(
        "CREATE TABLE secret (x, y DEFAULT 'kept-to-myself');
         CREATE INDEX secret_x ON secret (x);
         CREATE TRIGGER secret_t AFTER INSERT ON secret BEGIN UPDATE secret SET y = y || '!' WHERE x = new.x; END;
         INSERT INTO secret (rowid, x) VALUES (7, 'kept-to-myself-too'), (-3, 2);
         UPDATE secret SET x = 3 WHERE rowid = -3;
         INSERT INTO item VALUES (3, 'three');",
    );
    assert_eq!(s.a.pending(), 1);
    assert_eq!(s.a.text("SELECT count(*) FROM turso_cdc"), "1");
    let before = content(&s.a.path, "secret");
    s.news();
    assert_eq!(content(&s.a.path, "secret"), before);
    assert_eq!(s.a.pending(), 1);
    s.a.sync().unwrap();
    assert_eq!(content(&s.a.path, "secret"), before);
    s.check_equal();
    let s = s.restart();
    assert_eq!(content(&s.a.path, "secret"), before);
    s.news();
    assert_eq!(content(&s.a.path, "secret"), before);
    // The index and the trigger work on.
    s.a.sql("INSERT INTO secret VALUES ('p', 'q')");
    assert_eq!(
        s.a.text("SELECT y FROM secret INDEXED BY secret_x WHERE x = 'p'"),
        "q!"
    );
    assert!(file_contains(&s.a.path, b"kept-to-myself"));
    assert!(!file_contains(&s.remote.path, b"kept-to-myself") && !file_contains(&s.remote.path, b"secret"));
    assert!(!s.remote.tables().contains_key("secret"));
}

#[test]
fn every_kind_of_table_is_carried_over_bit_for_bit() {
    let names = [
        "auto",
        "bare",
        "keyed",
        "strict_one",
        "gen",
        "hidden",
        "a \"q\"",
        "big",
    ];
    let s = Setup::new(ITEM, &names);
    s.a.sql(
        r#"CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT, v);
         INSERT INTO auto VALUES (5, 'x'), (900, 'gone'); DELETE FROM auto WHERE id = 900;
         CREATE TABLE bare (a, b REAL, c TEXT COLLATE NOCASE, d INT UNIQUE ON CONFLICT REPLACE, CHECK (d <> 13));
         INSERT INTO bare (rowid, a, b, c, d) VALUES (10, 9e999, -9e999, 'n' || char(0) || 'l', 1),
           (-9223372036854775808, CAST(x'ff00fe' AS TEXT), -0.0, NULL, 2), (20, -0.0, 3, '4', '5'),
           (9223372036854775807, x'', 1e300, CAST(x'80' AS TEXT), 6), (30, x'00ff', 0.1, 'ä', 9223372036854775807);
         PRAGMA ignore_check_constraints = ON; INSERT INTO bare (d) VALUES (13); PRAGMA ignore_check_constraints = OFF;
         CREATE UNIQUE INDEX bare_e ON bare (lower(c), a) WHERE a IS NOT NULL;
         CREATE TABLE keyed (k TEXT COLLATE NOCASE, n INTEGER, v, PRIMARY KEY (n DESC, k)) WITHOUT ROWID;
         INSERT INTO keyed VALUES ('b', 1, 1.5), ('a', 2, NULL), ('A', 3, x'01');
         CREATE TABLE strict_one (i INTEGER PRIMARY KEY, a ANY, t TEXT) STRICT;
         INSERT INTO strict_one VALUES (1, '007', 't'), (-1, 7.0, NULL);
         CREATE TABLE gen (a INT, v AS (a * 2) VIRTUAL, s TEXT AS (a || '!') STORED, b);
         CREATE INDEX gen_v ON gen (v); INSERT INTO gen (a, b) VALUES (1, 2), (3, 4);
         CREATE TABLE hidden (rowid, _rowid_, oid); INSERT INTO hidden VALUES (3, 2, 1);
         CREATE TABLE "a ""q""" (x INTEGER PRIMARY KEY DESC, y); INSERT INTO "a ""q""" VALUES (4, 5);
         CREATE TABLE big (id INTEGER PRIMARY KEY, v TEXT, b BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
           INSERT INTO big SELECT i * 7, hex(i * i), zeroblob(i % 300) FROM n;"#,
    );
    let all = |s: &Setup| names.map(|name| content(&s.a.path, name));
    let before = all(&s);
    assert!(before.iter().all(|c| c.len() > 1) && before[7].len() > 10_000);
    for _ in 0..2 {
        s.a.sql("UPDATE item SET name = name || '.'");
        s.news();
        assert_eq!(all(&s), before);
    }
    let s = s.restart();
    s.a.sync().unwrap();
    assert_eq!(all(&s), before);
    s.a.sql("DELETE FROM bare WHERE d = 13");
    s.check_equal();
    s.a.sql("INSERT INTO auto (v) VALUES ('next')");
    assert_eq!(s.a.text("SELECT max(id) FROM auto"), "901");
}

#[test]
fn ddl_on_a_local_table_stays_local() {
    let s = Setup::new(ITEM, &["t", "u"]);
    s.a.sql(
        "CREATE TABLE t (a); INSERT INTO t VALUES (1);
         ALTER TABLE t ADD COLUMN b DEFAULT 5; ALTER TABLE t RENAME COLUMN a TO c;
         CREATE INDEX t_c ON t (c); CREATE TRIGGER t_t AFTER DELETE ON t BEGIN SELECT 1; END;
         CREATE TABLE u AS SELECT * FROM item; ALTER TABLE u DROP COLUMN name;",
    );
    assert_eq!(s.a.pending(), 0);
    s.news();
    assert_eq!(s.a.text("SELECT c || b FROM t"), "15");
    assert_eq!(s.a.text("SELECT count(*) FROM u"), "2");
    s.a.sql("DROP INDEX t_c; DROP TRIGGER t_t; DROP TABLE u; ALTER TABLE t RENAME TO U");
    s.news();
    assert_eq!(
        s.a.text("SELECT sql FROM sqlite_schema WHERE tbl_name = 'U'"),
        "CREATE TABLE \"U\" (c, b DEFAULT 5)"
    );
    assert_eq!(
        s.a.text("SELECT count(*) FROM sqlite_schema WHERE tbl_name IN ('t', 'u')"),
        "0"
    );
    s.a.sql("DROP TABLE u");
    s.news();
    s.a.push().unwrap();
    assert_eq!(s.a.tables(), s.remote.tables());
    assert_eq!(s.a.text("SELECT count(*) FROM turso_cdc"), "0");
}

#[test]
fn renames_between_local_and_synced_are_refused() {
    let s = Setup::new(ITEM, &["cache"]);
    s.a.sql("CREATE TABLE Cache (x)");
    for sql in [
        "ALTER TABLE cache RENAME TO other",
        "DROP TABLE cache; ALTER TABLE main.item RENAME TO \"cachE\"",
    ] {
        let e = fails(&s.a, sql);
        assert!(
            e.message.contains("cannot be renamed") && e.category == Category::Usage,
            "{e}"
        );
    }
    for sql in [
        "CREATE VIEW IF NOT EXISTS cache AS SELECT 1",
        "CREATE VIRTUAL TABLE cache USING fts5(x)",
    ] {
        let e = fails(&s.a, sql);
        assert!(e.message.contains("ordinary table"), "{e}");
    }
}

#[test]
fn a_renamed_column_that_synced_objects_mention_is_refused() {
    let s = Setup::new(ITEM, &["cache"]);
    s.a.sql("CREATE TABLE cache (x); CREATE VIEW v AS SELECT x FROM cache");
    let e = fails(&s.a, "ALTER TABLE cache RENAME COLUMN x TO y");
    assert!(e.message.contains("view v mentions what changes in cache"), "{e}");
    assert_eq!(s.a.text("SELECT count(*) FROM cache WHERE x = 1"), "0");
    s.a.sql("DROP VIEW v; ALTER TABLE cache RENAME COLUMN x TO y");
}

#[test]
fn a_trigger_on_a_local_table_may_not_write_a_synced_one() {
    let s = Setup::new(ITEM, &["cache", "cache2"]);
    s.a.sql(
        "CREATE TABLE cache (x); CREATE TABLE cache2 (x);
         CREATE TRIGGER fine AFTER INSERT ON cache BEGIN INSERT INTO cache2 VALUES (new.x); END;
         INSERT INTO cache VALUES (1)",
    );
    assert_eq!(s.a.text("SELECT count(*) FROM cache2"), "1");
    let mut early =
        s.a.conn
            .prepare("INSERT INTO cache VALUES (2)")
            .unwrap()
            .unwrap()
            .0;
    s.a.sql("CREATE TRIGGER bad AFTER INSERT ON cache2 BEGIN UPDATE item SET name = 'x' WHERE id = 1; END");
    for sql in ["INSERT INTO cache2 VALUES (1)", "INSERT INTO cache VALUES (1)"] {
        let e = fails(&s.a, sql);
        assert!(
            e.message.contains("trigger bad on table cache2 writes item"),
            "{e}"
        );
    }
    // Prepared before the trigger existed.
    let e = early.execute().unwrap_err();
    assert!(
        e.message.contains("trigger bad on table cache2 writes item"),
        "{e}"
    );
    drop(early);
    assert_eq!(s.a.text("SELECT count(*) FROM cache"), "1");
    assert_eq!(s.a.text("SELECT name FROM item WHERE id = 1"), "one");
    assert_eq!(s.a.pending(), 0);
    // What the trigger does not fire on goes on.
    s.a.sql("DELETE FROM cache2; UPDATE item SET name = 'uno' WHERE id = 1; DROP TRIGGER bad; INSERT INTO cache VALUES (3)");
    s.news();
    s.a.push().unwrap();
    s.a.pull().unwrap();
    s.check_equal();
}

#[test]
fn a_foreign_key_action_from_local_to_synced_is_refused() {
    let schema = "CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE item (id INTEGER PRIMARY KEY, name, p REFERENCES parent ON DELETE CASCADE);
        INSERT INTO parent VALUES (1); INSERT INTO item VALUES (1, 'a', 1), (2, 'b', NULL);";
    let s = Setup::new(schema, &["parent", "kid"]);
    s.a.sql("PRAGMA foreign_keys = ON");
    for sql in [
        "DELETE FROM parent",
        "DROP TABLE parent",
        "REPLACE INTO parent VALUES (1)",
    ] {
        let e = fails(&s.a, sql);
        assert!(e.message.contains("foreign key of table item"), "{e}");
    }
    // The other way round is fine.
    s.a.sql(
        "CREATE TABLE kid (i REFERENCES item ON DELETE CASCADE); INSERT INTO kid VALUES (1), (2);
         DELETE FROM item WHERE id = 1",
    );
    assert_eq!(s.a.text("SELECT count(*) FROM kid"), "1");
    assert_eq!(s.a.pending(), 1);
    s.a.sql("PRAGMA foreign_keys = OFF; DELETE FROM parent");
    s.a.sync().unwrap();
    s.check_equal();
    assert_eq!(
        (
            s.a.text("SELECT count(*) FROM parent"),
            s.remote.tables()["parent"].len()
        ),
        ("0".into(), 1)
    );
}

#[test]
fn a_trigger_of_a_synced_table_may_write_a_local_one() {
    let s = Setup::new(ITEM, &["log"]);
    s.a.sql(
        "CREATE TABLE log (id PRIMARY KEY, n DEFAULT 0);
         CREATE TRIGGER item_log AFTER INSERT ON item BEGIN INSERT INTO log (id) VALUES (new.id); END;
         INSERT INTO item VALUES (50, 'fifty'); UPDATE log SET n = 1; INSERT INTO item VALUES (51, 'x')",
    );
    let before = content(&s.a.path, "log");
    assert_eq!(s.a.pending(), 3);
    // The replay fires the trigger again; the log must not show it.
    for _ in 0..2 {
        s.news();
        assert_eq!(content(&s.a.path, "log"), before);
        assert_eq!(s.a.pending(), 3);
    }
    // The remote has no such table.
    let e = s.a.push().unwrap_err();
    assert!(
        e.message.contains("no such table: main.log") && e.message.contains("table item"),
        "{e}"
    );
    assert_eq!(content(&s.a.path, "log"), before);
    s.a.sql("DROP TRIGGER item_log");
}

#[test]
fn the_remote_may_have_a_table_of_that_name_before() {
    let schema = format!(
        "{ITEM} CREATE TABLE mine (x); INSERT INTO mine VALUES ('theirs');
        CREATE INDEX mine_x ON mine (x);"
    );
    let s = Setup::new(&schema, &["mine"]);
    assert_eq!(s.a.text("SELECT x FROM mine"), "theirs");
    s.a.sql("INSERT INTO mine VALUES ('ours'); ALTER TABLE mine ADD COLUMN more; INSERT INTO item VALUES (7, 'seven')");
    let before = content(&s.a.path, "mine");
    s.b.sql("UPDATE mine SET x = 'changed'; ALTER TABLE mine ADD COLUMN different");
    s.news();
    assert_eq!(content(&s.a.path, "mine"), before);
    s.a.sync().unwrap();
    assert_eq!(content(&s.a.path, "mine"), before);
    s.check_equal();
    assert_eq!(s.remote.tables()["mine"].len(), 1);
    // Dropped here, it is gone here.
    s.a.sql("DROP TABLE mine");
    s.news();
    assert!(!s.a.tables().contains_key("mine") && s.remote.tables().contains_key("mine"));
}

#[test]
fn the_remote_may_get_something_of_that_name_later() {
    for theirs in [
        "CREATE TABLE mine (other); INSERT INTO mine VALUES (1)",
        "CREATE VIEW mine AS SELECT * FROM item",
        "CREATE VIRTUAL TABLE mine USING fts5(x)",
    ] {
        let s = Setup::new(ITEM, &["mine"]);
        s.a.sql("CREATE TABLE mine (x INTEGER PRIMARY KEY); INSERT INTO mine VALUES (5); INSERT INTO item VALUES (9, 'n')");
        let before = content(&s.a.path, "mine");
        s.b.sql(theirs);
        s.news();
        assert_eq!(content(&s.a.path, "mine"), before, "{theirs}");
        let s = s.restart();
        s.a.sync().unwrap();
        s.news();
        assert_eq!(content(&s.a.path, "mine"), before, "{theirs}");
    }
    // Without a table here, theirs does not appear.
    let s = Setup::new(ITEM, &["mine"]);
    s.b.sql("CREATE TABLE mine (other); INSERT INTO mine VALUES (1)");
    s.news();
    assert_eq!(
        s.a.text("SELECT count(*) FROM sqlite_schema WHERE name = 'mine'"),
        "0"
    );
}

#[test]
fn names_that_collide_with_the_remote_are_a_clear_conflict() {
    let s = Setup::new(ITEM, &["mine"]);
    s.a.sql("CREATE TABLE mine (x); CREATE INDEX shared ON mine (x)");
    s.b.sql("CREATE INDEX shared ON item (name)");
    s.b.sync().unwrap();
    let e = s.a.pull().unwrap_err();
    assert!(
        e.category == Category::Conflict && e.message.contains("its index shared"),
        "{e}"
    );
    s.a.sql("DROP INDEX shared");
    assert!(s.a.pull().unwrap());
    s.b.sql("CREATE INDEX mine ON item (name)");
    s.b.sync().unwrap();
    let e = s.a.pull().unwrap_err();
    assert!(
        e.category == Category::Conflict && e.message.contains("an index named mine"),
        "{e}"
    );
}

#[test]
fn a_conflict_leaves_local_tables_untouched() {
    let s = Setup::new(ITEM, &["mine"]);
    s.a.sql("CREATE TABLE mine (x); INSERT INTO mine VALUES (5); INSERT INTO item VALUES (9, 'same')");
    let before = content(&s.a.path, "mine");
    s.b.sql("INSERT INTO item VALUES (10, 'same')");
    s.b.sync().unwrap();
    assert_eq!(s.a.pull().unwrap_err().code, Code::Constraint);
    assert_eq!(content(&s.a.path, "mine"), before);
    s.a.sql("UPDATE item SET name = 'other' WHERE id = 9; INSERT INTO mine VALUES (6)");
    assert!(s.a.pull().unwrap());
    assert_eq!(s.a.text("SELECT group_concat(x) FROM mine"), "5,6");
    s.a.push().unwrap();
    s.a.pull().unwrap();
    s.check_equal();
}

#[test]
fn setting_conflicts_aside_leaves_local_tables_untouched() {
    let s = Setup::new(ITEM, &["log"]);
    let path = s.a.path.clone();
    drop(s.a);
    let opts = DatabaseSyncEngineOpts {
        conflict_policy: ConflictPolicy::SetAside,
        ..ignoring(&path, &s.remote.url, &["log"])
    };
    let a = Replica::open_with(opts).unwrap();
    a.sql(
        "CREATE TABLE log (id UNIQUE); CREATE TRIGGER t AFTER INSERT ON item BEGIN INSERT INTO log VALUES (new.id); END;
         INSERT INTO item VALUES (9, 'same'); INSERT INTO item VALUES (11, 'fine')",
    );
    let before = content(&path, "log");
    s.b.sql("INSERT INTO item VALUES (10, 'same')");
    s.b.sync().unwrap();
    assert!(a.pull().unwrap());
    assert_eq!(content(&path, "log"), before);
    assert_eq!(
        a.text("SELECT group_concat(id) FROM (SELECT id FROM item ORDER BY id)"),
        "1,2,10,11"
    );
}

#[test]
fn failed_statements_leave_what_sqlite_leaves() {
    let s = Setup::new(ITEM, &["mine"]);
    s.a.sql("CREATE TABLE mine (x UNIQUE)");
    fails(&s.a, "INSERT OR FAIL INTO mine VALUES (1), (2), (1), (3)");
    assert_eq!(s.a.text("SELECT count(*) FROM mine"), "2");
    fails(&s.a, "INSERT INTO mine VALUES (4), (5), (4)");
    assert_eq!(s.a.text("SELECT count(*) FROM mine"), "2");
    s.a.sql("BEGIN");
    fails(&s.a, "INSERT OR FAIL INTO mine VALUES (6), (6)");
    fails(&s.a, "INSERT INTO mine VALUES (7), (7)");
    s.a.sql("COMMIT; BEGIN; INSERT INTO mine VALUES (8)");
    fails(&s.a, "INSERT OR ROLLBACK INTO mine VALUES (9), (9)");
    assert_eq!(s.a.text("SELECT group_concat(x) FROM mine"), "1,2,6");
    s.a.sql("BEGIN; INSERT INTO mine VALUES (10); INSERT INTO item VALUES (70, 'z'); ROLLBACK");
    assert_eq!(s.a.pending(), 0);
    assert_eq!(s.a.text("SELECT count(*) FROM mine"), "3");
}

#[test]
fn changes_from_before_the_choice_are_still_pushed() {
    let remote = Remote::start(ITEM);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let a = Replica::open(&path, &remote.url);
    a.sql("CREATE TABLE late (x); INSERT INTO late VALUES (1)");
    drop(a);
    let a = Replica::open_with(ignoring(&path, &remote.url, &["late"])).unwrap();
    a.sql("INSERT INTO late VALUES (2)");
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    b.sql("INSERT INTO item VALUES (8, 'b')");
    b.sync().unwrap();
    a.pull().unwrap();
    assert_eq!(a.pending(), 2);
    assert_eq!(a.text("SELECT group_concat(x) FROM late"), "1,2");
    a.sync().unwrap();
    assert_eq!(remote.tables()["late"], [["Ok(Integer(1))"]]);
    assert_eq!(a.text("SELECT group_concat(x) FROM late"), "1,2");
}

#[test]
fn a_table_that_is_no_longer_listed_is_not_lost() {
    let s = Setup::new(&format!("{ITEM} CREATE TABLE theirs (x)"), &["Mine", "theirs"]);
    s.a.sql("CREATE TABLE mINE (x); INSERT INTO mine VALUES (1)");
    s.news();
    let (remote, path) = (s.remote, s.a.path.clone());
    drop(s.a);
    for names in [&["theirs"][..], &["mine"]] {
        let a = Replica::open_with(ignoring(&path, &remote.url, names)).unwrap();
        s.b.sql("UPDATE item SET name = name || '.'");
        s.b.sync().unwrap();
        let e = a.pull().unwrap_err();
        assert!(
            e.message.contains("no longer listed") && e.category == Category::Usage,
            "{e}"
        );
        assert_eq!(a.text("SELECT x FROM mine"), "1");
    }
    let a = Replica::open_with(ignoring(&path, &remote.url, &["MINE", "theirs"])).unwrap();
    assert!(a.pull().unwrap());
    drop(a);
    // Given up for good, the names are free.
    let a = Replica::open(&path, &remote.url);
    a.sql("DROP TABLE mine; CREATE TABLE mine (y); INSERT INTO mine VALUES (2); DROP TABLE theirs");
    a.sync().unwrap();
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(a.text("SELECT y FROM mine"), "2");
}

#[test]
fn wrong_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for names in [&["a", "A"][..], &[""], &["sqlite_stat1"], &["turso_cdc"]] {
        let opts = ignoring(&dir.path().join("a.db"), "http://127.0.0.1:9", names);
        let result: Result<_> = DatabaseSyncEngine::new(opts);
        let e = result.err().unwrap();
        assert!(
            e.code == Code::Misuse && e.message.contains("tables_ignore"),
            "{e}"
        );
    }
    let remote = Remote::start("CREATE VIRTUAL TABLE f USING fts5(x); CREATE VIEW v AS SELECT 1");
    for (i, name) in ["f", "V", "f_data"].into_iter().enumerate() {
        let path = dir.path().join(format!("{i}.db"));
        let e = Replica::open_with(ignoring(&path, &remote.url, &[name]))
            .err()
            .unwrap();
        assert!(e.message.contains("only ordinary tables"), "{e}");
    }
}

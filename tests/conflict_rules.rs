//! The tables of docs/conflicts.md, a test per line that no other file tests: two replicas change the same things and
//! meet on the bundled server.
#![cfg(feature = "server")]

mod support;

use support::*;
use turso_sync::engine::{Conflict, ConflictKind, ConflictPolicy, ConflictState, Resolution};
use turso_sync::error::{Category, Code, Error};

const DOCUMENT: &str = include_str!("../docs/conflicts.md");

const KEYED: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b);
    INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2');";
const UNIQUE: &str = "CREATE TABLE u (id INTEGER PRIMARY KEY, mail UNIQUE, n);
    INSERT INTO u VALUES (1, 'one', 0), (2, 'two', 0);";
const KEYLESS: &str = "CREATE TABLE l (a, b); INSERT INTO l VALUES ('a1', 'b1'), ('a2', 'b2');";
const FAMILY: &str = "CREATE TABLE parent (id INTEGER PRIMARY KEY, name);
    CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent(id) ON DELETE CASCADE);
    INSERT INTO parent VALUES (1, 'p1'), (2, 'p2'); INSERT INTO child VALUES (10, 1), (20, 2);";

const T: &str = "SELECT group_concat(id || a || b, ' ') FROM (SELECT * FROM t ORDER BY id)";
const U: &str = "SELECT group_concat(id || mail || n, ' ') FROM (SELECT * FROM u ORDER BY id)";
const L: &str = "SELECT group_concat(a || b, ' ') FROM (SELECT * FROM l ORDER BY a, b)";

/// Two replicas of one remote. The first has pushed what it wrote, the second has only written.
struct Meeting {
    remote: Remote,
    first: Replica,
    second: Replica,
    _dir: tempfile::TempDir,
}

impl Meeting {
    fn new(schema: &str, first: &str, second: &str, policy: ConflictPolicy) -> Meeting {
        let remote = Remote::start(schema);
        let dir = tempfile::tempdir().unwrap();
        let mut opts = options(&dir.path().join("second.db"), &remote.url);
        opts.conflict_policy = policy;
        let meeting = Meeting {
            first: Replica::open(&dir.path().join("first.db"), &remote.url),
            second: Replica::open_with(opts).unwrap(),
            remote,
            _dir: dir,
        };
        meeting.first.sql(first);
        meeting.second.sql(second);
        meeting.first.push().unwrap();
        meeting
    }

    /// Everybody holds what the remote holds.
    fn check_equal(&self) {
        self.second.pull().unwrap();
        self.first.pull().unwrap();
        assert_eq!(self.first.pending() + self.second.pending(), 0);
        assert_eq!(self.first.tables(), self.remote.tables());
        assert_eq!(self.second.tables(), self.remote.tables());
        assert_eq!(schema(&self.first.path), schema(&self.remote.path));
        assert_eq!(schema(&self.second.path), schema(&self.remote.path));
    }

    fn on_remote(&self, query: &str) -> String {
        text(&self.remote.path, query)
    }

    fn conflicts(&self) -> Vec<Conflict> {
        self.second.engine.conflicts().unwrap()
    }

    fn resolve(&self, conflict: &Conflict, resolution: Resolution) -> Result<(), Error> {
        let engine = &self.second.engine;
        run(engine, engine.resolve_conflict(conflict.txn_id, resolution))
    }
}

fn text(path: &std::path::Path, query: &str) -> String {
    let sql = format!("SELECT coalesce(CAST(({query}) AS TEXT), 'NULL')");
    plain(path).query_row(&sql, [], |row| row.get(0)).unwrap()
}

/// Everything in the schema that belongs to the user.
fn schema(path: &std::path::Path) -> String {
    let query = "SELECT group_concat(sql, char(10)) FROM (SELECT sql FROM sqlite_schema
        WHERE tbl_name NOT LIKE 'turso\\_%' ESCAPE '\\' AND tbl_name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, name)";
    text(path, query)
}

type Sync = fn(&Replica) -> Result<(), Error>;

/// The ways in which the second replica may sync.
const WAYS: [Sync; 2] = [
    |r| r.push(),
    |r| {
        r.pull()?;
        r.push()
    },
];

/// What `query` finds in the end if `first` arrives before `second`, whether or not the second pulls before it pushes.
fn meet(schema: &str, first: &str, second: &str, query: &str) -> String {
    let [pushed, pulled] = WAYS.map(|sync| {
        let meeting = Meeting::new(schema, first, second, ConflictPolicy::Stop);
        sync(&meeting.second).unwrap();
        assert_eq!(meeting.conflicts(), []);
        meeting.check_equal();
        meeting.on_remote(query)
    });
    assert_eq!(pushed, pulled, "push, and pull before push");
    pushed
}

/// What becomes of a conflict.
#[derive(Debug)]
struct Clash {
    /// As the policy `Stop` lists it.
    kind: ConflictKind,
    constraint: String,
    key: String,
    /// What `query` finds after the policy `Overwrite`; `None` if that stops, too.
    overwritten: Option<String>,
    /// What `query` finds after the policy `SetAside`.
    set_aside: String,
}

impl Clash {
    /// (kind, after overwriting or "stops", after setting aside)
    fn told(&self) -> (ConflictKind, &str, &str) {
        let overwritten = self.overwritten.as_deref().unwrap_or("stops");
        (self.kind, overwritten, &self.set_aside)
    }
}

fn clash(schema: &str, first: &str, second: &str, query: &str) -> Clash {
    let [pushed, pulled] = WAYS.map(|sync| {
        let conflict = stops(&Meeting::new(schema, first, second, ConflictPolicy::Stop), sync);
        Clash {
            overwritten: overwrites(schema, first, second, query, sync),
            set_aside: sets_aside(schema, first, second, query, sync),
            kind: conflict.kind,
            constraint: conflict.constraint,
            key: conflict.key,
        }
    });
    assert_eq!(pushed.told(), pulled.told(), "push, and pull before push");
    pushed
}

/// The sync fails, changes nothing, and lists the conflict; without the transaction it goes on.
fn stops(meeting: &Meeting, sync: Sync) -> Conflict {
    let before = (
        meeting.second.tables(),
        meeting.remote.tables(),
        meeting.second.pending(),
    );
    let e = sync(&meeting.second).unwrap_err();
    assert_eq!(
        (e.category, e.code),
        (Category::Conflict, Code::Constraint),
        "{e}"
    );
    let after = (
        meeting.second.tables(),
        meeting.remote.tables(),
        meeting.second.pending(),
    );
    assert_eq!(before, after, "{e}");
    let conflict = meeting.conflicts().remove(0);
    assert_eq!(conflict.state, ConflictState::Blocked);
    while let Some(next) = meeting.conflicts().first() {
        meeting.resolve(next, Resolution::Drop).unwrap();
        let _ = sync(&meeting.second);
    }
    meeting.check_equal();
    conflict
}

fn overwrites(schema: &str, first: &str, second: &str, query: &str, sync: Sync) -> Option<String> {
    let meeting = Meeting::new(schema, first, second, ConflictPolicy::Overwrite);
    let (local, remote) = (meeting.second.tables(), meeting.remote.tables());
    if let Err(e) = sync(&meeting.second) {
        assert_eq!(e.category, Category::Conflict, "{e}");
        assert_eq!(meeting.second.tables(), local);
        assert_eq!(meeting.remote.tables(), remote);
        return None;
    }
    meeting.check_equal();
    assert_eq!(meeting.conflicts(), []);
    Some(meeting.on_remote(query))
}

fn sets_aside(schema: &str, first: &str, second: &str, query: &str, sync: Sync) -> String {
    let meeting = Meeting::new(schema, first, second, ConflictPolicy::SetAside);
    sync(&meeting.second).unwrap();
    meeting.check_equal();
    assert!(
        meeting
            .conflicts()
            .iter()
            .all(|c| c.state == ConflictState::SetAside)
    );
    meeting.on_remote(query)
}

// Rows with a key.

#[test]
fn insert_of_the_same_key() {
    let (a, b) = (
        "INSERT INTO t VALUES (3, 'x', 'x')",
        "INSERT INTO t VALUES (3, 'y', 'y')",
    );
    assert_eq!(meet(KEYED, a, b, T), "1a1b1 2a2b2 3yy");
    assert_eq!(meet(KEYED, b, a, T), "1a1b1 2a2b2 3xx");
}

#[test]
fn auto_assigned_keys_of_two_devices_are_the_same_key() {
    let (a, b) = (
        "INSERT INTO t(a, b) VALUES ('x', 'x')",
        "INSERT INTO t(a, b) VALUES ('y', 'y')",
    );
    assert_eq!(meet(KEYED, a, b, T), "1a1b1 2a2b2 3yy");
}

#[test]
fn insert_of_the_same_unique_value() {
    let (a, b) = (
        "INSERT INTO u VALUES (10, 'm', 'a')",
        "INSERT INTO u VALUES (20, 'm', 'b')",
    );
    let c = clash(UNIQUE, a, b, U);
    assert_eq!(
        (c.constraint.as_str(), c.key.as_str()),
        ("u.mail", r#"{"id":20}"#)
    );
    assert_eq!(
        c.told(),
        (ConflictKind::Unique, "1one0 2two0 20mb", "1one0 2two0 10ma")
    );
    let c = clash(UNIQUE, b, a, U);
    assert_eq!(
        c.told(),
        (ConflictKind::Unique, "1one0 2two0 10ma", "1one0 2two0 20mb")
    );
}

#[test]
fn update_to_the_same_unique_value() {
    let (a, b) = (
        "UPDATE u SET mail = 'm' WHERE id = 1",
        "UPDATE u SET mail = 'm' WHERE id = 2",
    );
    let c = clash(UNIQUE, a, b, U);
    assert_eq!(c.told(), (ConflictKind::Unique, "2m0", "1m0 2two0"));
}

#[test]
fn updates_of_different_columns() {
    let (a, b) = (
        "UPDATE t SET a = 'x' WHERE id = 1",
        "UPDATE t SET b = 'y' WHERE id = 1",
    );
    assert_eq!(meet(KEYED, a, b, T), "1xy 2a2b2");
    assert_eq!(meet(KEYED, b, a, T), "1xy 2a2b2");
}

#[test]
fn updates_of_the_same_column() {
    let (a, b) = (
        "UPDATE t SET a = 'x' WHERE id = 1",
        "UPDATE t SET a = 'y' WHERE id = 1",
    );
    assert_eq!(meet(KEYED, a, b, T), "1yb1 2a2b2");
    assert_eq!(meet(KEYED, b, a, T), "1xb1 2a2b2");
}

#[test]
fn values_travel_and_not_expressions() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 10, 0)";
    let (a, b) = ("UPDATE t SET a = a + 1", "UPDATE t SET a = a + 5");
    assert_eq!(meet(schema, a, b, T), "1150");
    assert_eq!(meet(schema, b, a, T), "1110");
}

#[test]
fn a_condition_meets_the_rows_that_were_there() {
    let (a, b) = ("INSERT INTO t VALUES (3, 'new', 0)", "DELETE FROM t WHERE id > 1");
    assert_eq!(meet(KEYED, a, b, T), "1a1b1 3new0");
    assert_eq!(meet(KEYED, b, a, T), "1a1b1 3new0");
}

#[test]
fn update_against_delete() {
    let (update, delete) = ("UPDATE t SET a = 'x' WHERE id = 1", "DELETE FROM t WHERE id = 1");
    assert_eq!(meet(KEYED, delete, update, T), "1xb1 2a2b2");
    assert_eq!(meet(KEYED, update, delete, T), "2a2b2");
}

#[test]
fn delete_against_delete() {
    let delete = "DELETE FROM t WHERE id = 1";
    assert_eq!(meet(KEYED, delete, delete, T), "2a2b2");
}

#[test]
fn a_row_made_anew_against_an_update() {
    let anew = "BEGIN; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'n', 'n'); COMMIT";
    let update = "UPDATE t SET a = 'x' WHERE id = 1";
    assert_eq!(meet(KEYED, update, anew, T), "1nn 2a2b2");
    assert_eq!(meet(KEYED, anew, update, T), "1xn 2a2b2");
}

#[test]
fn replace_takes_the_whole_row_and_an_upsert_its_columns() {
    let update = "UPDATE t SET b = 'x' WHERE id = 1";
    let replace = "REPLACE INTO t(id, a) VALUES (1, 'r')";
    let nulls = "SELECT group_concat(id || a || coalesce(b, '-'), ' ') FROM (SELECT * FROM t ORDER BY id)";
    assert_eq!(meet(KEYED, update, replace, nulls), "1r- 2a2b2");
    assert_eq!(meet(KEYED, replace, update, nulls), "1rx 2a2b2");
    let upsert = "INSERT INTO t VALUES (1, 'r', 0) ON CONFLICT DO UPDATE SET a = excluded.a";
    assert_eq!(meet(KEYED, update, upsert, T), "1rx 2a2b2");
    assert_eq!(meet(KEYED, upsert, update, T), "1rx 2a2b2");
}

#[test]
fn replace_against_an_insert_of_the_same_unique_value() {
    let insert = "INSERT INTO u VALUES (10, 'm', 'a')";
    let replace = "REPLACE INTO u VALUES (20, 'm', 'b')";
    let told = (ConflictKind::Unique, "1one0 2two0 20mb", "1one0 2two0 10ma");
    assert_eq!(clash(UNIQUE, insert, replace, U).told(), told);
    // Also where it has replaced a row here.
    let replace = "REPLACE INTO u VALUES (1, 'm', 'b')";
    let told = (ConflictKind::Unique, "1mb 2two0", "1one0 2two0 10ma");
    assert_eq!(clash(UNIQUE, insert, replace, U).told(), told);
}

#[test]
fn a_key_that_moved_against_an_update() {
    let (moved, update) = (
        "UPDATE t SET id = 7 WHERE id = 1",
        "UPDATE t SET b = 'x' WHERE id = 1",
    );
    assert_eq!(meet(KEYED, update, moved, T), "2a2b2 7a1x");
    // The row that the update means is gone, so it comes back under its old key.
    assert_eq!(meet(KEYED, moved, update, T), "1a1x 2a2b2 7a1b1");
}

#[test]
fn a_key_that_moved_twice() {
    let (a, b) = (
        "UPDATE t SET id = 7 WHERE id = 1",
        "UPDATE t SET id = 8 WHERE id = 1",
    );
    assert_eq!(meet(KEYED, a, b, T), "2a2b2 7a1b1 8a1b1");
}

#[test]
fn a_key_that_moved_to_a_taken_place() {
    let (insert, moved) = (
        "INSERT INTO t VALUES (7, 'n', 'n')",
        "UPDATE t SET id = 7 WHERE id = 1",
    );
    let c = clash(KEYED, insert, moved, T);
    assert_eq!(c.told(), (ConflictKind::Unique, "2a2b2 7a1b1", "1a1b1 2a2b2 7nn"));
    assert_eq!(meet(KEYED, moved, insert, T), "2a2b2 7nn");
}

#[test]
fn keys_that_swap_against_an_update() {
    let swap = "BEGIN; UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1; COMMIT";
    let update = "UPDATE t SET b = 'x' WHERE id = 1";
    assert_eq!(meet(KEYED, update, swap, T), "1a2b2 2a1x");
    assert_eq!(meet(KEYED, swap, update, T), "1a2x 2a1b1");
}

// Rows without a key.

#[test]
fn inserts_without_a_key() {
    let (a, b) = ("INSERT INTO l VALUES ('n', 1)", "INSERT INTO l VALUES ('n', 2)");
    assert_eq!(meet(KEYLESS, a, b, L), "a1b1 a2b2 n1 n2");
    assert_eq!(meet(KEYLESS, a, a, L), "a1b1 a2b2 n1 n1");
}

#[test]
fn updates_without_a_key() {
    let (a, b) = (
        "UPDATE l SET b = 'x' WHERE a = 'a1'",
        "UPDATE l SET b = 'y' WHERE a = 'a1'",
    );
    assert_eq!(meet(KEYLESS, a, b, L), "a1x a1y a2b2");
    assert_eq!(meet(KEYLESS, b, a, L), "a1x a1y a2b2");
}

#[test]
fn update_against_delete_without_a_key() {
    let (update, delete) = (
        "UPDATE l SET b = 'x' WHERE a = 'a1'",
        "DELETE FROM l WHERE a = 'a1'",
    );
    assert_eq!(meet(KEYLESS, delete, update, L), "a1x a2b2");
    assert_eq!(meet(KEYLESS, update, delete, L), "a1x a2b2");
}

#[test]
fn deletes_without_a_key() {
    let delete = "DELETE FROM l WHERE a = 'a1'";
    assert_eq!(meet(KEYLESS, delete, delete, L), "a2b2");
    let equal = "CREATE TABLE l (a, b); INSERT INTO l VALUES ('e', 1), ('e', 1), ('e', 1)";
    let (one, another) = ("DELETE FROM l WHERE rowid = 1", "DELETE FROM l WHERE rowid = 2");
    assert_eq!(meet(equal, one, another, L), "e1");
    assert_eq!(meet(equal, one, one, L), "e1 e1");
}

#[test]
fn a_key_with_null_is_no_key() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, a, b); INSERT INTO t VALUES (NULL, 'a1', 'b1'), ('k', 'a2', 'b2')";
    let query =
        "SELECT group_concat(coalesce(id, '-') || a || b, ' ') FROM (SELECT * FROM t ORDER BY id, a, b)";
    let (a, b) = (
        "INSERT INTO t VALUES (NULL, 'n', 1)",
        "INSERT INTO t VALUES (NULL, 'n', 2)",
    );
    assert_eq!(meet(schema, a, b, query), "-a1b1 -n1 -n2 ka2b2");
    let (a, b) = (
        "UPDATE t SET a = 'x' WHERE id IS NULL",
        "UPDATE t SET b = 'y' WHERE id IS NULL",
    );
    assert_eq!(meet(schema, a, b, query), "-a1y -xb1 ka2b2");
}

// Parents and children.

const ORPHANS: &str = "SELECT group_concat(p.id || ':' || coalesce(c, '-'), ' ') FROM
    (SELECT 0 AS id UNION ALL SELECT id FROM parent) p LEFT JOIN (SELECT coalesce((SELECT id FROM parent WHERE id = parent), 0) AS of,
        group_concat(id) AS c FROM (SELECT * FROM child ORDER BY id) GROUP BY 1) ON of = p.id";

#[test]
fn delete_of_a_parent_against_insert_of_a_child() {
    let (delete, insert) = (
        "DELETE FROM parent WHERE id = 1",
        "INSERT INTO child VALUES (11, 1)",
    );
    // Foreign keys are off, as SQLite has them: nothing follows the parent.
    assert_eq!(meet(FAMILY, delete, insert, ORPHANS), "0:10,11 2:20");
    assert_eq!(meet(FAMILY, insert, delete, ORPHANS), "0:10,11 2:20");
    // With them on, the children that were there follow; the one that nobody there knew stays.
    let delete = "PRAGMA foreign_keys = ON; DELETE FROM parent WHERE id = 1";
    assert_eq!(meet(FAMILY, delete, insert, ORPHANS), "0:11 2:20");
    assert_eq!(meet(FAMILY, insert, delete, ORPHANS), "0:11 2:20");
}

#[test]
fn foreign_key_check_finds_children_without_a_parent() {
    let (delete, insert) = (
        "DELETE FROM parent WHERE id = 1",
        "INSERT INTO child VALUES (11, 1)",
    );
    let broken = "SELECT group_concat(\"table\" || rowid || parent) FROM pragma_foreign_key_check";
    assert_eq!(
        meet(FAMILY, delete, insert, broken),
        "child10parent,child11parent"
    );
}

#[test]
fn a_cascade_against_an_update_of_the_child() {
    let delete = "PRAGMA foreign_keys = ON; DELETE FROM parent WHERE id = 1";
    let update = "UPDATE child SET parent = 2 WHERE id = 10";
    assert_eq!(meet(FAMILY, delete, update, ORPHANS), "0:- 2:10,20");
    assert_eq!(meet(FAMILY, update, delete, ORPHANS), "0:- 2:20");
}

// Schema against data.

#[test]
fn a_column_that_was_added_elsewhere() {
    let (add, insert) = (
        "ALTER TABLE t ADD COLUMN c DEFAULT 'd'; UPDATE t SET c = 'set' WHERE id = 1",
        "INSERT INTO t VALUES (3, 'n', 'n'); UPDATE t SET a = 'x' WHERE id = 1",
    );
    let query = "SELECT group_concat(id || a || b || c, ' ') FROM (SELECT * FROM t ORDER BY id)";
    assert_eq!(meet(KEYED, add, insert, query), "1xb1set 2a2b2d 3nnd");
    assert_eq!(meet(KEYED, insert, add, query), "1xb1set 2a2b2d 3nnd");
}

#[test]
fn a_column_that_was_dropped_elsewhere() {
    let drop = "ALTER TABLE t DROP COLUMN b";
    let query = "SELECT group_concat(id || a, ' ') FROM (SELECT * FROM t ORDER BY id)";
    let other = "UPDATE t SET a = 'x' WHERE id = 1";
    assert_eq!(meet(KEYED, drop, other, query), "1x 2a2");
    let value = "UPDATE t SET b = 'x' WHERE id = 1";
    assert_eq!(
        clash(KEYED, drop, value, query).told(),
        (ConflictKind::Schema, "stops", "1a1 2a2")
    );
    assert_eq!(meet(KEYED, value, drop, query), "1a1 2a2");
}

#[test]
fn a_column_that_was_renamed_elsewhere() {
    let rename = "ALTER TABLE t RENAME COLUMN b TO c";
    let query = "SELECT group_concat(id || a || c, ' ') FROM (SELECT * FROM t ORDER BY id)";
    let other = "UPDATE t SET a = 'x' WHERE id = 1";
    assert_eq!(meet(KEYED, rename, other, query), "1xb1 2a2b2");
    let value = "UPDATE t SET b = 'x' WHERE id = 1";
    assert_eq!(
        clash(KEYED, rename, value, query).told(),
        (ConflictKind::Schema, "stops", "1a1b1 2a2b2")
    );
    assert_eq!(meet(KEYED, value, rename, query), "1a1x 2a2b2");
}

#[test]
fn a_table_that_was_renamed_elsewhere() {
    let (rename, write) = ("ALTER TABLE t RENAME TO s", "INSERT INTO t VALUES (3, 'n', 'n')");
    let query = "SELECT count(*) FROM s";
    assert_eq!(
        clash(KEYED, rename, write, query).told(),
        (ConflictKind::Schema, "stops", "2")
    );
    assert_eq!(meet(KEYED, write, rename, query), "3");
}

#[test]
fn a_table_that_was_dropped_elsewhere() {
    let (drop, write) = ("DROP TABLE t", "INSERT INTO t VALUES (3, 'n', 'n')");
    let query = "SELECT count(*) FROM sqlite_schema WHERE name = 't'";
    assert_eq!(
        clash(KEYED, drop, write, query).told(),
        (ConflictKind::Schema, "stops", "0")
    );
    assert_eq!(meet(KEYED, write, drop, query), "0");
    assert_eq!(meet(KEYED, drop, drop, query), "0");
}

#[test]
fn the_same_table_made_twice() {
    let a = "CREATE TABLE n (id INTEGER PRIMARY KEY, v); INSERT INTO n VALUES (1, 'a')";
    let b = "CREATE TABLE n (id INTEGER PRIMARY KEY, v); INSERT INTO n VALUES (2, 'b')";
    let query = "SELECT group_concat(id || v, ' ') FROM (SELECT * FROM n ORDER BY id)";
    assert_eq!(meet("", a, b, query), "1a 2b");
    // In another version of the program it may have other columns; the first form stays.
    let b = "CREATE TABLE n (v, id INTEGER PRIMARY KEY); INSERT INTO n VALUES ('b', 2)";
    assert_eq!(meet("", a, b, query), "1a 2b");
    let b = "CREATE TABLE n (id INTEGER PRIMARY KEY, v, w); INSERT INTO n VALUES (2, 'b', 'value')";
    assert_eq!(
        clash("", a, b, query).told(),
        (ConflictKind::Schema, "stops", "1a")
    );
}

#[test]
fn the_same_table_made_twice_once_without_a_key() {
    let keyed = "CREATE TABLE n (id INTEGER PRIMARY KEY, v); INSERT INTO n VALUES (1, 'a')";
    let query = "SELECT group_concat(id || v, ' ') FROM (SELECT * FROM n ORDER BY id)";
    let keyless = "CREATE TABLE n (id, v); INSERT INTO n VALUES (2, 'b'), (3, 'c')";
    assert_eq!(meet("", keyed, keyless, query), "1a 2b 3c");
    // Two rows that the key takes for one: neither is lost.
    for rows in ["(1, 'b')", "(2, 'b'), (2, 'c')"] {
        let keyless = format!("CREATE TABLE n (id, v); INSERT INTO n VALUES {rows}");
        let c = clash("", keyed, &keyless, query);
        assert_eq!(
            (c.kind, c.set_aside.as_str()),
            (ConflictKind::Unique, "1a"),
            "{rows}"
        );
    }
}

#[test]
fn the_version_of_a_migration_that_is_set_aside_stays() {
    let rows = "INSERT INTO t VALUES (8, 'same', 1), (9, 'same', 2)";
    let migration = "BEGIN; CREATE UNIQUE INDEX u ON t(a); PRAGMA user_version = 2; COMMIT";
    let query = "SELECT (SELECT user_version FROM pragma_user_version) || ' ' || count(*) FROM sqlite_schema WHERE name = 'u'";
    let c = clash(KEYED, rows, migration, query);
    assert_eq!((c.kind, c.set_aside.as_str()), (ConflictKind::Unique, "2 0"));
}

#[test]
fn a_table_and_a_view_of_one_name() {
    let (table, view) = ("CREATE TABLE n (v)", "CREATE VIEW n AS SELECT a FROM t");
    let query = "SELECT type FROM sqlite_schema WHERE name = 'n'";
    assert_eq!(
        clash(KEYED, table, view, query).told(),
        (ConflictKind::Schema, "stops", "table")
    );
    assert_eq!(
        clash(KEYED, view, table, query).told(),
        (ConflictKind::Schema, "table", "view")
    );
}

#[test]
fn an_index_view_or_trigger_made_twice() {
    let forms = [
        ["CREATE INDEX o ON t(a)", "CREATE INDEX o ON t(b)"],
        [
            "CREATE VIEW o AS SELECT a FROM t",
            "CREATE VIEW o AS SELECT b FROM t",
        ],
        [
            "CREATE TRIGGER o AFTER INSERT ON t BEGIN SELECT 1; END",
            "CREATE TRIGGER o AFTER INSERT ON t BEGIN SELECT 2; END",
        ],
    ];
    let query = "SELECT sql FROM sqlite_schema WHERE name = 'o'";
    for [a, b] in forms {
        assert_eq!(meet(KEYED, a, a, query), a);
        assert_eq!(clash(KEYED, a, b, query).told(), (ConflictKind::Schema, b, a));
    }
}

#[test]
fn a_column_added_twice() {
    let (a, b) = (
        "ALTER TABLE t ADD COLUMN c INT DEFAULT 5",
        "ALTER TABLE t ADD COLUMN c TEXT",
    );
    let query = "SELECT sql FROM sqlite_schema WHERE name = 't'";
    assert!(meet(KEYED, a, a, query).ends_with("c INT DEFAULT 5)"));
    let c = clash(KEYED, a, b, query);
    assert!(c.set_aside.ends_with("c INT DEFAULT 5)"));
    assert_eq!((c.kind, c.overwritten), (ConflictKind::Schema, None));
}

// Other constraints.

#[test]
fn columns_that_merge_into_a_row_that_a_check_refuses() {
    let schema =
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, CHECK (a + b < 10)); INSERT INTO t VALUES (1, 0, 0)";
    let (a, b) = ("UPDATE t SET a = 8", "UPDATE t SET b = 9");
    assert_eq!(
        clash(schema, a, b, T).told(),
        (ConflictKind::Check, "stops", "180")
    );
}

#[test]
fn not_null_and_datatype() {
    let null = "INSERT INTO t VALUES (3, NULL, 'b')";
    let stricter = "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a NOT NULL, b)";
    assert_eq!(
        clash(KEYED, stricter, null, T).told(),
        (ConflictKind::NotNull, "stops", "NULL")
    );
    // Overwriting takes the default.
    let defaulting = "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a NOT NULL DEFAULT 'd', b)";
    assert_eq!(
        clash(KEYED, defaulting, null, T).told(),
        (ConflictKind::NotNull, "3db", "NULL")
    );
    let strict = "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b INT) STRICT";
    let words = "INSERT INTO t VALUES (3, 'words', 0)";
    assert_eq!(
        clash(KEYED, strict, words, T).told(),
        (ConflictKind::DataType, "stops", "NULL")
    );
}

#[test]
fn a_trigger_that_refuses() {
    let trigger = "CREATE TRIGGER guard BEFORE INSERT ON t WHEN new.a = 'bad' BEGIN SELECT raise(ABORT, 'not this'); END";
    let bad = "INSERT INTO t VALUES (3, 'bad', '')";
    assert_eq!(
        clash(KEYED, trigger, bad, T).told(),
        (ConflictKind::Trigger, "stops", "1a1b1 2a2b2")
    );
    // What is there already stays.
    assert_eq!(meet(KEYED, bad, trigger, T), "1a1b1 2a2b2 3bad");
}

// Triggers that write.

const COUNTED: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b); CREATE TABLE n (id INTEGER PRIMARY KEY, n);
    INSERT INTO n VALUES (1, 0); CREATE TABLE log (what);
    CREATE TRIGGER count_t AFTER INSERT ON t BEGIN UPDATE n SET n = n + 1; INSERT INTO log VALUES ('in ' || new.id); END;
    CREATE TRIGGER gone_t AFTER DELETE ON t BEGIN INSERT INTO log VALUES ('out ' || old.id); END;";
const COUNT: &str =
    "SELECT (SELECT n FROM n) || ': ' || group_concat(what, ', ') FROM (SELECT * FROM log ORDER BY what)";

#[test]
fn keys_that_triggers_leave_to_sqlite_are_known_after_a_pull() {
    let schema = |key: &str| {
        format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE audit ({key}what, note);
             CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO audit (what) VALUES (new.id); END;"
        )
    };
    let a = "INSERT INTO t VALUES (8)";
    let b = "INSERT INTO t VALUES (9); UPDATE audit SET note = 'seen'";
    let audit =
        "SELECT group_concat(what || ifnull(note, '-'), ' ') FROM (SELECT * FROM audit ORDER BY what)";
    let chosen = schema("id INTEGER PRIMARY KEY AUTOINCREMENT, ");
    assert_eq!(meet(&chosen, a, b, audit), "8seen 9-");
    assert_eq!(meet(&schema(""), a, b, audit), "8- 9seen");
}

#[test]
fn keys_that_triggers_draw_are_known_after_a_pull() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE audit (id TEXT PRIMARY KEY, what, note);
         CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (hex(randomblob(9)), new.id, NULL); END;";
    let audit = "SELECT group_concat(ifnull(note, '-'), ' ') FROM (SELECT * FROM audit ORDER BY note)";
    let changed = "INSERT INTO t VALUES (9); UPDATE audit SET note = 'seen'";
    assert_eq!(meet(schema, "", changed, audit), "- seen");
}

#[test]
fn a_change_of_what_a_trigger_added_reaches_it_after_a_push() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE audit (what, note);
         CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO audit (what) VALUES (new.id); END;";
    let [first, second] = ["INSERT INTO t VALUES (8)", "INSERT INTO t VALUES (9)"];
    let meeting = Meeting::new(schema, first, second, ConflictPolicy::Stop);
    meeting.second.push().unwrap();
    meeting.second.sql("UPDATE audit SET note = 'seen'");
    meeting.second.push().unwrap();
    let audit =
        "SELECT group_concat(what || ifnull(note, '-'), ' ') FROM (SELECT * FROM audit ORDER BY what)";
    assert_eq!(meeting.on_remote(audit), "8- 9seen");
    meeting.check_equal();
}

#[test]
fn triggers_count_every_row_once() {
    let a = "INSERT INTO t VALUES (1, 0, 0); INSERT INTO t VALUES (2, 0, 0)";
    let b = "INSERT INTO t VALUES (3, 0, 0); DELETE FROM t WHERE id = 3";
    assert_eq!(meet(COUNTED, a, b, COUNT), "3: in 1, in 2, in 3, out 3");
    assert_eq!(meet(COUNTED, b, a, COUNT), "3: in 1, in 2, in 3, out 3");
}

#[test]
fn a_trigger_made_elsewhere_sees_what_arrives_after_it() {
    let trigger =
        "CREATE TRIGGER more AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('more ' || new.id); END";
    let insert = "INSERT INTO t VALUES (1, 0, 0)";
    assert_eq!(meet(COUNTED, trigger, insert, COUNT), "1: in 1, more 1");
    assert_eq!(meet(COUNTED, insert, trigger, COUNT), "1: in 1");
}

#[test]
fn overwriting_runs_no_delete_triggers_and_no_actions_of_the_removed_row() {
    let schema = "CREATE TABLE u (id INTEGER PRIMARY KEY, mail UNIQUE, n); CREATE TABLE log (what);
        CREATE TABLE child (id INTEGER PRIMARY KEY, u REFERENCES u(id) ON DELETE CASCADE);
        CREATE TRIGGER gone_u AFTER DELETE ON u BEGIN INSERT INTO log VALUES (old.id); END";
    let a = "INSERT INTO u VALUES (10, 'm', 'a'); INSERT INTO child VALUES (1, 10)";
    let b = "INSERT INTO u VALUES (20, 'm', 'b')";
    let query = "SELECT (SELECT group_concat(id) FROM u) || ' ' || (SELECT count(*) FROM log) || ' ' || (SELECT u FROM child)";
    assert_eq!(
        clash(schema, a, b, query).told(),
        (ConflictKind::Unique, "20 0 10", "10 0 10")
    );
}

const INDEXES: [&str; 2] = ["CREATE INDEX i ON t(a)", "CREATE INDEX i ON t(b)"];

#[test]
fn a_push_goes_on_after_one_that_replaced_an_index() {
    let m = Meeting::new(KEYED, INDEXES[0], INDEXES[1], ConflictPolicy::Overwrite);
    m.second.push().unwrap();
    // What is acknowledged stays in the log until the next pull.
    m.second.sql("INSERT INTO t VALUES (3, 'n', 'n')");
    m.second.push().unwrap();
    m.check_equal();
    assert_eq!(
        m.on_remote("SELECT sql FROM sqlite_schema WHERE name = 'i'"),
        INDEXES[1]
    );
}

#[test]
fn a_decision_to_overwrite_can_be_taken_back() {
    for (schema, first, second) in [
        (KEYED, INDEXES[0], INDEXES[1]),
        (
            UNIQUE,
            "INSERT INTO u VALUES (10, 'm', 'a')",
            "INSERT INTO u VALUES (20, 'm', 'b')",
        ),
    ] {
        let m = Meeting::new(schema, first, second, ConflictPolicy::Stop);
        m.second.sync().unwrap_err();
        m.resolve(&m.conflicts()[0], Resolution::Overwrite).unwrap();
        m.second.pull().unwrap();
        m.resolve(&m.conflicts()[0], Resolution::Retry).unwrap();
        let before = m.remote.tables();
        assert_eq!(m.second.push().unwrap_err().category, Category::Conflict);
        assert_eq!(m.remote.tables(), before);
        assert_eq!(m.conflicts()[0].state, ConflictState::Blocked);
        m.resolve(&m.conflicts()[0], Resolution::Drop).unwrap();
        m.check_equal();
        assert_eq!(m.remote.tables(), before);
    }
}

#[test]
fn a_transaction_that_was_to_overwrite_can_be_dropped_or_set_aside() {
    for resolution in [Resolution::Drop, Resolution::SetAside] {
        let (a, b) = (
            "INSERT INTO u VALUES (10, 'm', 'a')",
            "INSERT INTO u VALUES (20, 'm', 'b')",
        );
        let m = Meeting::new(UNIQUE, a, b, ConflictPolicy::Stop);
        m.second.sync().unwrap_err();
        m.resolve(&m.conflicts()[0], Resolution::Overwrite).unwrap();
        m.second.pull().unwrap();
        m.resolve(&m.conflicts()[0], resolution).unwrap();
        let left: Vec<ConflictState> = m.conflicts().iter().map(|c| c.state).collect();
        let kept = resolution == Resolution::SetAside;
        assert_eq!(left, vec![ConflictState::SetAside; usize::from(kept)]);
        m.check_equal();
        assert_eq!(m.on_remote(U), "1one0 2two0 10ma");
    }
}

// Transactions, and what may be on its way.

#[test]
fn a_transaction_in_conflict_is_whole_under_every_policy() {
    let a = "INSERT INTO u VALUES (50, 'm', 'a')";
    let b = "BEGIN; INSERT INTO u VALUES (60, 'x', 'b'); INSERT INTO u VALUES (61, 'm', 'b');
        UPDATE u SET n = 'b' WHERE id = 1; DELETE FROM u WHERE id = 2; COMMIT";
    assert_eq!(
        clash(UNIQUE, a, b, U).told(),
        (ConflictKind::Unique, "1oneb 60xb 61mb", "1one0 2two0 50ma")
    );
}

#[test]
fn what_may_be_on_its_way_is_not_taken_out() {
    for policy in [ConflictPolicy::Stop, ConflictPolicy::SetAside] {
        let nothing = "SELECT 1";
        let m = Meeting::new(UNIQUE, nothing, "INSERT INTO u VALUES (20, 'm', 'b')", policy);
        // The request that holds the change is lost, or only its answer is: nobody knows.
        let engine = &m.second.engine;
        drive(engine, engine.push_changes_to_remote(), &mut |http, _| {
            if is_push(http) {
                Err("connection reset".into())
            } else {
                forward(http)
            }
        })
        .unwrap_err();
        m.first.sql("INSERT INTO u VALUES (10, 'm', 'a')");
        m.first.push().unwrap();
        let mut e = m.second.pull().unwrap_err();
        if policy == ConflictPolicy::Stop {
            let conflict = m.conflicts().remove(0);
            e = m.resolve(&conflict, Resolution::SetAside).unwrap_err();
        }
        assert!(
            e.message.contains("may be on its way to the remote, push first"),
            "{e}"
        );
        assert!(e.retryable, "{e}");
        // The push finds out.
        let pushed = m.second.push();
        if policy == ConflictPolicy::Stop {
            assert_eq!(pushed.unwrap_err().category, Category::Conflict);
            m.resolve(&m.conflicts()[0], Resolution::SetAside).unwrap();
        } else {
            pushed.unwrap();
        }
        m.second.sync().unwrap();
        m.check_equal();
        assert_eq!(m.on_remote(U), "1one0 2two0 10ma");
        assert_eq!(m.conflicts()[0].state, ConflictState::SetAside);
    }
}

#[test]
fn a_remote_that_enforces_foreign_keys() {
    let m = Meeting::new(
        FAMILY,
        "SELECT 1",
        "INSERT INTO child VALUES (11, 99)",
        ConflictPolicy::Stop,
    );
    let engine = &m.second.engine;
    let e = drive(engine, engine.push_changes_to_remote(), &mut |http, _| {
        // Bundled servers do not enforce them; this is what one that does answers.
        match written(http).contains("child") {
            true => Ok(refuse(
                http,
                LAST_CHANGE,
                "FOREIGN KEY constraint failed",
                "SQLITE_CONSTRAINT",
            )),
            false => forward(http),
        }
    })
    .unwrap_err();
    assert_eq!(e.category, Category::Conflict, "{e}");
    assert_eq!(m.conflicts()[0].kind, ConflictKind::ForeignKey);
    m.second.sql("DELETE FROM child WHERE id = 11");
    m.second.push().unwrap();
    m.check_equal();
}

// The table of conflicts.

/// The statements of docs/conflicts.md that look into the table of conflicts and begin with `verb`.
fn documented(verb: &str) -> Vec<&'static str> {
    let blocks = DOCUMENT.split("```sql\n").skip(1);
    let code = blocks.filter_map(|rest| rest.split("```").next());
    let code = code.filter(|code| code.contains("turso_sync_conflicts"));
    let statements = code.flat_map(|code| code.split(';')).map(str::trim);
    statements
        .filter(|statement| statement.starts_with(verb))
        .collect()
}

#[test]
fn what_was_set_aside_can_be_applied_with_sql() {
    let a = "INSERT INTO u VALUES (50, 'm', 'a')";
    let b = "BEGIN; INSERT INTO u VALUES (60, 'x', 'b'); INSERT INTO u VALUES (61, 'm', 'b'); COMMIT";
    let m = Meeting::new(UNIQUE, a, b, ConflictPolicy::SetAside);
    m.second.sync().unwrap();
    assert_eq!(m.on_remote(U), "1one0 2two0 50ma");
    let statements = documented("INSERT");
    assert_eq!(statements.len(), 1);
    m.second.sql(statements[0]);
    m.second.sync().unwrap();
    m.resolve(&m.conflicts()[0], Resolution::Drop).unwrap();
    assert!(m.conflicts().is_empty());
    m.check_equal();
    assert_eq!(m.on_remote(U), "1one0 2two0 50ma 60x.2b 61m.2b");
}

#[test]
fn the_statements_on_the_table_of_conflicts_work() {
    let a = "INSERT INTO u VALUES (50, 'm', 'a')";
    let b = "BEGIN; INSERT INTO u VALUES (60, 'x', 'b'); INSERT INTO u VALUES (61, 'm', 'b'); COMMIT";
    let statements = documented("SELECT");
    assert!(statements.len() >= 3, "{statements:?}");
    for policy in [ConflictPolicy::Stop, ConflictPolicy::SetAside] {
        let m = Meeting::new(UNIQUE, a, b, policy);
        let _ = m.second.sync();
        let found = |statement: &str| {
            let conn = plain(&m.second.path);
            let mut statement = conn.prepare(statement).unwrap();
            let mut rows = statement.query([]).unwrap();
            let mut count = 0;
            while rows.next().unwrap().is_some() {
                count += 1;
            }
            count
        };
        let counts: Vec<usize> = statements.iter().map(|s| found(s)).collect();
        let expected: &[usize] = match policy {
            ConflictPolicy::SetAside => &[1, 2, 1],
            _ => &[1, 0, 0],
        };
        assert_eq!(counts, expected, "{policy:?}");
    }
    // Every column of the table is explained.
    let m = Meeting::new(UNIQUE, a, b, ConflictPolicy::Stop);
    let conn = plain(&m.second.path);
    let mut columns = conn
        .prepare("SELECT name FROM pragma_table_info('turso_sync_conflicts')")
        .unwrap();
    for name in columns.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        let name = name.unwrap();
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
    }
}

//! Conflicts at the edges: what was found by reading the code with suspicion.

mod support;

use support::*;
use turso_sync::engine::{Conflict, ConflictPolicy, ConflictState, Resolution};
use turso_sync::error::{Category, Error};

struct Two {
    remote: Remote,
    ours: Replica,
    theirs: Replica,
    dir: tempfile::TempDir,
}

fn two(schema: &str, policy: ConflictPolicy) -> Two {
    let remote = Remote::start(schema);
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(&dir.path().join("a.db"), &remote.url);
    opts.conflict_policy = policy;
    Two {
        ours: Replica::open_with(opts).unwrap(),
        theirs: Replica::open(&dir.path().join("b.db"), &remote.url),
        remote,
        dir,
    }
}

impl Two {
    fn conflicts(&self) -> Vec<Conflict> {
        self.ours.engine.conflicts().unwrap()
    }

    fn resolve(&self, txn_id: i64, resolution: Resolution) -> Result<(), Error> {
        let op = self.ours.engine.resolve_conflict(txn_id, resolution);
        run(&self.ours.engine, op)
    }

    fn settle(&self) {
        self.ours.sync().unwrap();
        self.ours.sync().unwrap();
        assert_eq!(self.ours.pending(), 0);
        assert_eq!(self.ours.tables(), self.remote.tables());
    }
}

const U: &str = "CREATE TABLE u (id INTEGER PRIMARY KEY, e TEXT UNIQUE, n); CREATE TABLE busy (id INTEGER PRIMARY KEY, v);
    CREATE TABLE k (a, b); INSERT INTO k VALUES (1, 2);";

fn set_aside_and_back(program: &str) {
    let two = two(U, ConflictPolicy::SetAside);
    two.theirs.sql("INSERT INTO u VALUES (50, 'taken', 0)");
    two.theirs.push().unwrap();
    two.ours.sql(&format!(
        "BEGIN; {program}; INSERT INTO u VALUES (60, 'taken', 1); COMMIT"
    ));
    let before = two.ours.tables();
    two.ours.sync().unwrap();
    let conflicts = two.conflicts();
    assert_eq!(conflicts.len(), 1, "{conflicts:#?}");
    assert_eq!(conflicts[0].state, ConflictState::SetAside);
    two.ours.sql("DELETE FROM u WHERE id = 50");
    two.resolve(conflicts[0].txn_id, Resolution::Retry)
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert_eq!(two.ours.tables(), before, "{program}");
    two.settle();
}

#[test]
fn a_table_that_was_created_and_filled_comes_back() {
    set_aside_and_back("CREATE TABLE x (id INTEGER PRIMARY KEY, v); INSERT INTO x VALUES (1, 'a')");
}

#[test]
fn a_table_that_was_renamed_and_filled_comes_back() {
    set_aside_and_back("ALTER TABLE busy RENAME TO x; INSERT INTO x VALUES (1, 'a')");
}

#[test]
fn a_table_that_was_filled_altered_and_filled_comes_back() {
    set_aside_and_back(
        "INSERT INTO busy VALUES (1, 'a'); ALTER TABLE busy ADD COLUMN w; INSERT INTO busy VALUES (2, 'b', 'c');
         ALTER TABLE busy RENAME TO x; INSERT INTO x VALUES (3, 'b', 'c')",
    );
}

#[test]
fn a_table_that_was_made_anew_comes_back() {
    set_aside_and_back(
        "INSERT INTO busy VALUES (1, 'a'); DROP TABLE busy; CREATE TABLE busy (k TEXT PRIMARY KEY, id, v);
         INSERT INTO busy VALUES ('x', 2, 'b')",
    );
}

#[test]
fn a_virtual_table_that_was_created_and_filled_comes_back() {
    set_aside_and_back("CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('hello')");
}

#[test]
fn a_trigger_that_writes_something_else_everywhere_blocks_nobody_without_a_key() {
    let schema = "CREATE TABLE k (a, stamp);
        CREATE TRIGGER k_stamp AFTER INSERT ON k BEGIN UPDATE k SET stamp = random() WHERE rowid = new.rowid; END;";
    let two = two(schema, ConflictPolicy::Stop);
    two.ours.sql("INSERT INTO k(a) VALUES (1)");
    two.ours.sql("UPDATE k SET a = 2");
    let e = two.ours.push().unwrap_err();
    assert_eq!(e.category, Category::Conflict, "{e}");
    let conflicts = two.conflicts();
    assert_eq!(conflicts.len(), 1, "{e}");
    two.resolve(conflicts[0].txn_id, Resolution::Drop).unwrap();
    two.settle();
    assert_eq!(two.ours.text("SELECT group_concat(a) FROM k"), "1");
}

fn push_refused(two: &Two, from_end: usize, message: &str, code: &str) -> Error {
    let engine = &two.ours.engine;
    drive(engine, engine.push_changes_to_remote(), &mut |http, _| {
        let text = written(http);
        // Without changes it raises a fence.
        if !["\"u\"", "\"busy\"", "u\\\"", "busy\\\""]
            .iter()
            .any(|table| text.contains(table))
        {
            return forward(http);
        }
        Ok(refuse(http, from_end, message, code))
    })
    .unwrap_err()
}

#[test]
fn a_table_with_a_busy_name_can_be_in_conflict() {
    for message in ["no such function: f", "CHECK constraint failed: busy"] {
        let two = two(U, ConflictPolicy::Stop);
        two.ours.sql("INSERT INTO busy VALUES (1, 'x')");
        let e = push_refused(&two, LAST_CHANGE, message, "BATCH_STEP_ERROR");
        assert_eq!(e.category, Category::Conflict, "{e}");
        assert_eq!(two.conflicts().len(), 1);
        two.settle();
    }
}

#[test]
fn trouble_of_the_remote_sets_nothing_aside() {
    for (message, code) in [
        ("Transaction timed-out", "TRANSACTION_TIMEOUT"),
        ("database or disk is full", "SQLITE_FULL"),
        ("abort due to ROLLBACK", "SQLITE_ABORT"),
        ("access permission denied", "SQLITE_PERM"),
        ("internal logic error", "SQLITE_INTERNAL"),
        ("file is not a database", "SQLITE_NOTADB"),
        ("no space left on device", "BATCH_STEP_ERROR"),
    ] {
        let two = two(U, ConflictPolicy::SetAside);
        two.ours.sql("INSERT INTO u VALUES (1, 'x', 1)");
        let e = push_refused(&two, LAST_CHANGE, message, code);
        assert_ne!(e.category, Category::Conflict, "{e}");
        assert_eq!(two.conflicts(), [], "{message}");
        assert_eq!(two.ours.pending(), 1, "{message}");
        two.settle();
    }
}

#[test]
fn a_commit_that_the_remote_refuses_can_be_resolved() {
    let two = two(U, ConflictPolicy::Stop);
    two.ours.sql("INSERT INTO u VALUES (1, 'x', 1)");
    let e = push_refused(&two, 2, "FOREIGN KEY constraint failed", "SQLITE_CONSTRAINT");
    assert_eq!(e.category, Category::Conflict, "{e}");
    assert_eq!(two.conflicts().len(), 1);
}

#[test]
fn a_conflict_over_a_lost_base_has_a_way_out() {
    let two = two(U, ConflictPolicy::Stop);
    two.theirs.sql("INSERT INTO u VALUES (50, 'taken', 0)");
    two.theirs.push().unwrap();
    two.ours.sql("INSERT INTO u VALUES (60, 'taken', 1)");
    std::fs::remove_file(two.dir.path().join("a.db-wal-revert")).unwrap();
    two.ours.sync().unwrap_err();
    let id = two.conflicts()[0].txn_id;
    two.resolve(id, Resolution::Drop).unwrap();
    two.settle();
}

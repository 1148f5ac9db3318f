//! Conflicts at the edges: what was found by reading the code with suspicion.

mod support;

use support::*;
use turso_sync::engine::{Conflict, ConflictPolicy, ConflictState, ForeignPolicy, Resolution};
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

impl Two {
    fn theirs(&self, sql: &str) {
        self.theirs.pull().unwrap();
        self.theirs.sql(sql);
        self.theirs.push().unwrap();
    }

    fn states(&self) -> Vec<(i64, ConflictState)> {
        self.conflicts().iter().map(|c| (c.txn_id, c.state)).collect()
    }
}

/// A replica whose transaction 1 has overwritten a row of the base on the remote, and which has not pulled since.
fn overwritten_and_not_pulled(policy: ConflictPolicy) -> Two {
    let two = two(U, policy);
    two.theirs("INSERT INTO u VALUES (50, 'taken', 'theirs')");
    two.ours.sql("INSERT INTO u VALUES (60, 'taken', 'ours')");
    if policy == ConflictPolicy::Stop {
        two.ours.pull().unwrap_err();
        two.resolve(1, Resolution::Overwrite).unwrap();
    }
    two.ours.pull().unwrap();
    two.ours.push().unwrap();
    assert_eq!(two.conflicts(), []);
    assert_eq!(
        two.resolve(1, Resolution::Retry).unwrap_err().category,
        Category::Usage
    );
    two
}

/// The base still has the row that was removed: whoever replays the transaction must remove it again.
#[test]
fn what_has_overwritten_is_replayed_so_until_it_is_pulled() {
    for resolution in [Resolution::Drop, Resolution::SetAside] {
        let two = overwritten_and_not_pulled(ConflictPolicy::Stop);
        two.theirs("INSERT INTO u VALUES (51, 'too', 'theirs')");
        two.ours.sql("INSERT INTO u VALUES (61, 'too', 'ours')");
        two.ours.sync().unwrap_err();
        assert_eq!(two.states(), [(2, ConflictState::Blocked)]);
        two.resolve(2, resolution).unwrap();
        two.settle();
        assert_eq!(
            two.ours.text("SELECT group_concat(id || n) FROM u"),
            "51theirs,60ours"
        );
    }
}

#[test]
fn a_foreign_write_behind_what_has_overwritten_can_be_settled() {
    for policy in [ConflictPolicy::Stop, ConflictPolicy::Overwrite] {
        for foreign in [ForeignPolicy::Adopt, ForeignPolicy::Discard] {
            let two = overwritten_and_not_pulled(policy);
            plain(&two.ours.path)
                .execute_batch("INSERT INTO busy VALUES (7, 'foreign')")
                .unwrap();
            let engine = &two.ours.engine;
            run(engine, engine.settle_foreign_changes(foreign)).unwrap();
            two.settle();
            let kept = i64::from(foreign == ForeignPolicy::Adopt);
            assert_eq!(two.ours.text("SELECT count(*) FROM busy"), kept.to_string());
            assert_eq!(two.ours.text("SELECT group_concat(id || n) FROM u"), "60ours");
        }
    }
}

#[test]
fn a_conflict_behind_one_that_overwrites_can_be_repaired() {
    for pushed in [false, true] {
        let two = match pushed {
            true => overwritten_and_not_pulled(ConflictPolicy::Stop),
            false => {
                let two = two(U, ConflictPolicy::Stop);
                two.theirs("INSERT INTO u VALUES (50, 'taken', 'theirs')");
                two.ours.sql("INSERT INTO u VALUES (60, 'taken', 'ours')");
                two.ours.sync().unwrap_err();
                two.resolve(1, Resolution::Overwrite).unwrap();
                two
            }
        };
        two.theirs("INSERT INTO u VALUES (51, 'too', 'theirs')");
        two.ours.sql("INSERT INTO u VALUES (61, 'too', 'ours')");
        two.ours.sync().unwrap_err();
        two.ours.sql("UPDATE u SET e = 'free' WHERE id = 61");
        two.settle();
        assert_eq!(
            two.ours.text("SELECT group_concat(id || n) FROM u"),
            "51theirs,60ours,61ours"
        );
    }
}

#[test]
fn all_conflicts_of_a_list_can_be_resolved_one_after_the_other() {
    for resolution in [Resolution::SetAside, Resolution::Drop] {
        let two = two(U, ConflictPolicy::Stop);
        two.theirs("INSERT INTO u VALUES (50, 'a', 0), (51, 'b', 0), (52, 'c', 0)");
        two.ours.sql("INSERT INTO u VALUES (60, 'a', 1)");
        two.ours.sql("INSERT INTO u VALUES (61, 'b', 1)");
        two.ours.sql("INSERT INTO u VALUES (62, 'c', 1)");
        two.ours.sync().unwrap_err();
        let conflicts = two.conflicts();
        assert_eq!(conflicts.len(), 3);
        two.resolve(conflicts[0].txn_id, resolution).unwrap();
        let blocked = two.states();
        assert_eq!(
            blocked.iter().filter(|c| c.1 == ConflictState::Blocked).count(),
            2
        );
        two.resolve(conflicts[1].txn_id, resolution).unwrap();
        two.resolve(conflicts[2].txn_id, resolution).unwrap();
        two.settle();
        let left = two.states();
        assert!(left.iter().all(|c| c.1 == ConflictState::SetAside), "{left:?}");
        assert_eq!(two.ours.text("SELECT group_concat(id) FROM u"), "50,51,52");
    }
}

/// The second transaction stays, so that the third finds the first's row under another name.
#[test]
fn what_builds_on_a_row_of_a_table_that_was_renamed_since_goes_with_it() {
    let two = two(U, ConflictPolicy::SetAside);
    two.theirs("INSERT INTO u VALUES (50, 'taken', 0)");
    two.ours
        .sql("BEGIN; INSERT INTO u VALUES (60, 'taken', 1); INSERT INTO busy VALUES (1, 'one'); COMMIT");
    two.ours.sql("ALTER TABLE busy RENAME TO idle");
    two.ours.sql("UPDATE idle SET v = 'two' WHERE id = 1");
    two.ours.sync().unwrap();
    assert_eq!(
        two.states(),
        [(1, ConflictState::SetAside), (4, ConflictState::SetAside)]
    );
    two.settle();
    assert_eq!(two.ours.text("SELECT count(*) FROM idle"), "0");
}

#[test]
fn what_builds_on_a_row_that_a_trigger_has_added_goes_with_its_transaction() {
    let schema = "CREATE TABLE u (id INTEGER PRIMARY KEY, e TEXT UNIQUE, n); CREATE TABLE log (what, seen);
        CREATE TRIGGER t AFTER INSERT ON u BEGIN INSERT INTO log(what) VALUES (new.e || new.n); END;";
    let two = two(schema, ConflictPolicy::SetAside);
    two.theirs("INSERT INTO u VALUES (50, 'taken', 'theirs')");
    two.ours.sql("INSERT INTO u VALUES (60, 'taken', 'ours')");
    two.ours.sql("UPDATE log SET seen = 'yes'");
    let log = "SELECT group_concat(what || ifnull(seen, '')) FROM (SELECT * FROM log ORDER BY what DESC)";
    two.ours.sync().unwrap();
    assert_eq!(two.conflicts().len(), 2);
    two.settle();
    assert_eq!(two.ours.text(log), "takentheirs");
    two.ours.sql("DELETE FROM u");
    for conflict in two.conflicts() {
        two.resolve(conflict.txn_id, Resolution::Retry).unwrap();
    }
    two.settle();
    assert_eq!(two.ours.text(log), "takentheirs,takenoursyes");
}

/// While a transaction is away, SQLite gives the keys of its rows to others.
#[test]
fn a_retry_does_not_take_the_place_of_a_row_that_has_come_since() {
    let two = two(U, ConflictPolicy::SetAside);
    two.theirs("INSERT INTO u VALUES (1, 'one', 0)");
    two.ours.pull().unwrap();
    two.theirs("UPDATE u SET e = 'taken'");
    two.ours.sql("INSERT INTO u(e, n) VALUES ('taken', 'aside')");
    two.ours.sync().unwrap();
    two.ours.sql("INSERT INTO u(e, n) VALUES ('new', 'since')");
    two.theirs("UPDATE u SET e = 'one'");
    two.settle();
    let rows = "SELECT group_concat(id || n) FROM u";
    assert_eq!(two.ours.text(rows), "10,2since");
    let id = two.conflicts()[0].txn_id;
    let e = two.resolve(id, Resolution::Retry).unwrap_err();
    assert_eq!(e.category, Category::Conflict);
    assert!(e.message.contains("UNIQUE constraint failed: u.id"), "{e}");
    assert_eq!(two.states(), [(id, ConflictState::SetAside)]);
    assert_eq!(two.ours.text(rows), "10,2since");
    // Who says so gets it.
    two.resolve(id, Resolution::Overwrite).unwrap();
    two.settle();
    assert_eq!(two.ours.text(rows), "10,2aside");
}

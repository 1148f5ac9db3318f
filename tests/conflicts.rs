//! Conflicts: what stops, what goes on, and every way out of one, against the bundled server.

mod support;

use support::*;
use turso_sync::engine::{
    Conflict, ConflictKind, ConflictOperation, ConflictPolicy, ConflictState, Resolution,
};
use turso_sync::error::{Category, Code, Error};
use turso_sync::io::HttpRequest;

const SCHEMA: &str = "
CREATE TABLE u (id INTEGER PRIMARY KEY, e TEXT UNIQUE, n);
CREATE TABLE child (id INTEGER PRIMARY KEY, u REFERENCES u(id), x);
CREATE TABLE other (id INTEGER PRIMARY KEY, v);
INSERT INTO u VALUES (1, 'one', 0), (2, 'two', 0);
INSERT INTO other VALUES (1, 'a');
";

/// A replica with `policy` and another client of the same remote.
struct Two {
    remote: Remote,
    ours: Replica,
    theirs: Replica,
    _dir: tempfile::TempDir,
}

fn two_with(schema: &str, policy: ConflictPolicy) -> Two {
    let remote = Remote::start(schema);
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(&dir.path().join("a.db"), &remote.url);
    opts.conflict_policy = policy;
    Two {
        ours: Replica::open_with(opts).unwrap(),
        theirs: Replica::open(&dir.path().join("b.db"), &remote.url),
        remote,
        _dir: dir,
    }
}

fn two(policy: ConflictPolicy) -> Two {
    two_with(SCHEMA, policy)
}

impl Two {
    fn theirs(&self, sql: &str) {
        self.theirs.pull().unwrap();
        self.theirs.sql(sql);
        self.theirs.push().unwrap();
    }

    fn conflicts(&self) -> Vec<Conflict> {
        self.ours.engine.conflicts().unwrap()
    }

    fn only_conflict(&self) -> Conflict {
        let mut conflicts = self.conflicts();
        assert_eq!(conflicts.len(), 1, "{conflicts:#?}");
        conflicts.remove(0)
    }

    fn resolve(&self, conflict: &Conflict, resolution: Resolution) -> Result<(), Error> {
        let op = self.ours.engine.resolve_conflict(conflict.txn_id, resolution);
        run(&self.ours.engine, op)
    }

    /// Syncs ours until nothing is pending; then replica and remote are equal.
    fn settle(&self) {
        self.ours.sync().unwrap();
        self.ours.sync().unwrap();
        assert_eq!(self.ours.pending(), 0);
        assert_eq!(self.ours.tables(), self.remote.tables());
        self.theirs.sync().unwrap();
        assert_eq!(self.theirs.tables(), self.remote.tables());
    }

    fn remote_text(&self, sql: &str) -> String {
        let conn = plain(&self.remote.path);
        conn.query_row(&format!("SELECT CAST(({sql}) AS TEXT)"), [], |row| {
            row.get::<_, Option<String>>(0)
        })
        .unwrap()
        .unwrap_or_else(|| "NULL".into())
    }
}

/// Three rows in one transaction, the middle one in conflict, between unrelated transactions.
fn three_rows(policy: ConflictPolicy) -> Two {
    let two = two(policy);
    two.theirs("INSERT INTO u VALUES (50, 'taken', 'theirs')");
    two.ours.sql("UPDATE other SET v = 'before' WHERE id = 1");
    two.ours.sql(
        "BEGIN; INSERT INTO u VALUES (10, 'x10', 'ours'); INSERT INTO u VALUES (11, 'taken', 'ours');
         INSERT INTO u VALUES (12, 'x12', 'ours'); COMMIT",
    );
    two.ours.sql("INSERT INTO other VALUES (2, 'after')");
    two
}

fn assert_unique(conflict: &Conflict, state: ConflictState) {
    assert_eq!(conflict.state, state);
    assert_eq!(conflict.kind, ConflictKind::Unique);
    assert_eq!(conflict.operation, ConflictOperation::Insert);
    assert_eq!(
        (
            conflict.table.as_str(),
            conflict.key.as_str(),
            conflict.constraint.as_str()
        ),
        ("u", r#"{"id":11}"#, "u.e")
    );
    assert_eq!(conflict.changes, 3);
    assert_eq!(conflict.sqlite_code, Some(2067));
    assert!(conflict.unix_time > 1_000_000_000);
}

#[test]
fn stop_names_the_change_and_changes_nothing() {
    let two = three_rows(ConflictPolicy::Stop);
    let (local, remote, pending) = (two.ours.tables(), two.remote.tables(), two.ours.pending());
    for sync in [
        Replica::push as fn(&Replica) -> _,
        |r| r.pull().map(drop),
        |r| r.sync().map(drop),
    ] {
        let e = sync(&two.ours).unwrap_err();
        assert_eq!(
            (e.category, e.code),
            (Category::Conflict, Code::Constraint),
            "{e}"
        );
        for part in [
            "transaction 2",
            "change 3",
            "table u",
            "key (id)",
            "UNIQUE constraint failed: u.e",
        ] {
            assert!(e.message.contains(part), "{part}: {e}");
        }
        assert!(!e.message.contains("taken"), "no row content: {e}");
        assert_eq!(two.ours.tables(), local);
        assert_eq!(two.remote.tables(), remote);
        assert_eq!(two.ours.pending(), pending);
        assert_unique(&two.only_conflict(), ConflictState::Blocked);
    }
    // Also after a restart of the program.
    let again = Replica::open(&two.ours.path, &two.remote.url);
    assert_eq!(again.engine.conflicts().unwrap(), two.conflicts());
}

#[test]
fn a_failing_sync_that_is_repeated_does_not_fill_the_disk() {
    let two = three_rows(ConflictPolicy::Stop);
    two.ours.pull().unwrap_err();
    let size = |r: &Replica| run(&r.engine, r.engine.stats()).unwrap().main_wal_size;
    let before = size(&two.ours);
    for _ in 0..5 {
        two.ours.pull().unwrap_err();
    }
    assert_eq!(size(&two.ours), before);
}

#[test]
fn a_failing_sync_that_is_repeated_does_not_write_to_the_remote() {
    let two = three_rows(ConflictPolicy::Stop);
    two.ours.sync().unwrap_err();
    let engine = &two.ours.engine;
    let mut writes = 0;
    for _ in 0..3 {
        drive(engine, engine.sync(), &mut |http, _| {
            writes += usize::from(is_push(http));
            forward(http)
        })
        .unwrap_err();
    }
    assert_eq!(writes, 0);
    assert_eq!(two.conflicts().len(), 1);
}

#[test]
fn all_conflicts_are_listed_at_once_but_not_what_follows_from_them() {
    let two = two(ConflictPolicy::Stop);
    two.theirs("INSERT INTO u VALUES (50, 'p', 0), (51, 'q', 0)");
    two.ours.sql("INSERT INTO u VALUES (10, 'p', 1)");
    two.ours.sql("INSERT INTO child VALUES (1, 10, 'of the first')");
    two.ours.sql("UPDATE u SET n = 2 WHERE id = 10");
    two.ours.sql("INSERT INTO u VALUES (11, 'q', 1)");
    two.ours.sql("INSERT INTO u VALUES (12, 'r', 1)");
    two.ours.sync().unwrap_err();
    let ids: Vec<i64> = two.conflicts().iter().map(|c| c.txn_id).collect();
    assert_eq!(ids, [1, 4]);
}

#[test]
fn a_conflict_that_is_repaired_is_gone() {
    let two = three_rows(ConflictPolicy::Stop);
    two.ours.sync().unwrap_err();
    two.ours.sql("UPDATE u SET e = 'free' WHERE id = 11");
    two.settle();
    assert_eq!(two.conflicts(), []);
    assert_eq!(two.remote_text("SELECT count(*) FROM u"), "6");
}

#[test]
fn retry_fails_alike_until_the_cause_is_gone() {
    let two = three_rows(ConflictPolicy::Stop);
    two.ours.sync().unwrap_err();
    two.resolve(&two.only_conflict(), Resolution::Retry).unwrap();
    assert_eq!(two.conflicts(), []);
    two.ours.sync().unwrap_err();
    assert_unique(&two.only_conflict(), ConflictState::Blocked);
    two.theirs("DELETE FROM u WHERE e = 'taken'");
    two.settle();
    assert_eq!(two.conflicts(), []);
    assert_eq!(two.remote_text("SELECT count(*) FROM u"), "5");
}

#[test]
fn overwrite_removes_the_neighbour() {
    let two = three_rows(ConflictPolicy::Stop);
    two.ours.sync().unwrap_err();
    two.resolve(&two.only_conflict(), Resolution::Overwrite).unwrap();
    assert_unique(&two.only_conflict(), ConflictState::Overwrite);
    two.settle();
    assert_eq!(two.conflicts(), []);
    assert_eq!(
        two.remote_text("SELECT group_concat(id) FROM u WHERE e = 'taken'"),
        "11"
    );
    assert_eq!(two.remote_text("SELECT v FROM other WHERE id = 2"), "after");
}

#[test]
fn the_overwrite_policy_needs_no_help() {
    let two = three_rows(ConflictPolicy::Overwrite);
    two.settle();
    assert_eq!(two.conflicts(), []);
    assert_eq!(
        two.remote_text("SELECT group_concat(id) FROM u WHERE e = 'taken'"),
        "11"
    );
}

#[test]
fn overwrite_survives_a_pull_between_decision_and_push() {
    let two = three_rows(ConflictPolicy::Stop);
    two.ours.pull().unwrap_err();
    two.resolve(&two.only_conflict(), Resolution::Overwrite).unwrap();
    two.ours.pull().unwrap();
    assert_eq!(
        two.ours.text("SELECT group_concat(id) FROM u WHERE e = 'taken'"),
        "11"
    );
    two.theirs("INSERT INTO other VALUES (77, 'more')");
    two.ours.pull().unwrap();
    let predicted = two.ours.tables();
    two.ours.push().unwrap();
    assert_eq!(two.remote.tables(), predicted);
    two.settle();
}

#[test]
fn set_aside_by_hand_keeps_the_transaction_whole() {
    let two = three_rows(ConflictPolicy::Stop);
    two.ours.sync().unwrap_err();
    two.resolve(&two.only_conflict(), Resolution::SetAside).unwrap();
    check_set_aside(&two);
}

#[test]
fn the_set_aside_policy_lets_everything_else_through() {
    let two = three_rows(ConflictPolicy::SetAside);
    two.ours.sync().unwrap();
    check_set_aside(&two);
}

fn check_set_aside(two: &Two) {
    two.settle();
    assert_unique(&two.only_conflict(), ConflictState::SetAside);
    assert_eq!(two.remote_text("SELECT count(*) FROM u WHERE n = 'ours'"), "0");
    assert_eq!(
        two.remote_text("SELECT group_concat(v) FROM other"),
        "before,after"
    );
    let readable = "SELECT group_concat(operation || ' ' || table_name || ' ' || \"key\" || ' ' || json_extract(new, '$.e'), ', ')
                    FROM turso_sync_conflicts";
    assert_eq!(
        two.ours.text(readable),
        r#"insert u {"id":10} x10, insert u {"id":11} taken, insert u {"id":12} x12"#
    );
    // It stays through pulls and restarts, and does not apply while the cause is there.
    two.theirs("UPDATE other SET v = 'x' WHERE id = 1");
    two.ours.sync().unwrap();
    let local = two.ours.tables();
    let e = two.resolve(&two.only_conflict(), Resolution::Retry).unwrap_err();
    assert_eq!(
        (e.category, e.code),
        (Category::Conflict, Code::Constraint),
        "{e}"
    );
    assert_eq!(two.ours.tables(), local);
    assert_unique(&two.only_conflict(), ConflictState::SetAside);
    // When it is gone, the transaction comes back whole.
    two.theirs("DELETE FROM u WHERE e = 'taken'");
    two.ours.sync().unwrap();
    two.resolve(&two.only_conflict(), Resolution::Retry).unwrap();
    assert_eq!(two.conflicts(), []);
    assert_eq!(two.ours.pending(), 3);
    two.settle();
    assert_eq!(
        two.remote_text("SELECT group_concat(id) FROM u WHERE n = 'ours'"),
        "10,11,12"
    );
}

#[test]
fn what_was_set_aside_can_overwrite() {
    let two = three_rows(ConflictPolicy::SetAside);
    two.ours.sync().unwrap();
    two.resolve(&two.only_conflict(), Resolution::Overwrite).unwrap();
    assert_eq!(
        two.ours.text("SELECT group_concat(id) FROM u WHERE e = 'taken'"),
        "11"
    );
    two.settle();
    assert_eq!(two.conflicts(), []);
    assert_eq!(
        two.remote_text("SELECT group_concat(id) FROM u WHERE n = 'ours'"),
        "10,11,12"
    );
    assert_eq!(two.remote_text("SELECT count(*) FROM u WHERE id = 50"), "0");
}

#[test]
fn drop_throws_one_transaction_away() {
    let two = three_rows(ConflictPolicy::Stop);
    two.ours.sync().unwrap_err();
    two.resolve(&two.only_conflict(), Resolution::Drop).unwrap();
    assert_eq!(two.conflicts(), []);
    two.settle();
    assert_eq!(
        two.remote_text("SELECT group_concat(v) FROM other"),
        "before,after"
    );
    assert_eq!(two.remote_text("SELECT count(*) FROM u WHERE n = 'ours'"), "0");

    let two = three_rows(ConflictPolicy::SetAside);
    two.ours.sync().unwrap();
    two.resolve(&two.only_conflict(), Resolution::Drop).unwrap();
    assert_eq!(two.conflicts(), []);
    two.settle();
}

#[test]
fn what_builds_on_a_transaction_goes_with_it() {
    let two = two(ConflictPolicy::SetAside);
    two.theirs("INSERT INTO u VALUES (50, 'p', 0)");
    two.ours.sql("INSERT INTO u VALUES (10, 'p', 1)");
    two.ours.sql("INSERT INTO child VALUES (1, 10, 'refers')");
    two.ours.sql("UPDATE u SET n = 2 WHERE id = 10");
    two.ours.sql("INSERT INTO child VALUES (2, 1, 'does not')");
    two.ours.sql("UPDATE child SET x = 'touched' WHERE id = 1");
    two.settle();
    let conflicts = two.conflicts();
    let seen: Vec<_> = conflicts.iter().map(|c| (c.txn_id, c.kind)).collect();
    let dependency = ConflictKind::Dependency;
    assert_eq!(
        seen,
        [
            (1, ConflictKind::Unique),
            (2, dependency),
            (3, dependency),
            (5, dependency)
        ]
    );
    assert_eq!(two.remote_text("SELECT group_concat(id) FROM child"), "2");
    // In order they come back.
    two.theirs("DELETE FROM u WHERE e = 'p'");
    two.ours.sync().unwrap();
    for conflict in &conflicts {
        two.resolve(conflict, Resolution::Retry).unwrap();
    }
    two.settle();
    assert_eq!(two.remote_text("SELECT x FROM child WHERE id = 1"), "touched");
    assert_eq!(two.remote_text("SELECT n FROM u WHERE id = 10"), "2");
}

#[test]
fn a_schema_conflict_has_all_ways_out() {
    let setup = |policy| {
        let two = two(policy);
        two.theirs("CREATE INDEX i ON u(n)");
        two.ours.sql("CREATE INDEX i ON other(v)");
        two.ours.sql("INSERT INTO other VALUES (5, 'row')");
        two
    };
    let two = setup(ConflictPolicy::Stop);
    let e = two.ours.sync().unwrap_err();
    assert_eq!(e.category, Category::Conflict, "{e}");
    let conflict = two.only_conflict();
    assert_eq!(
        (conflict.kind, conflict.operation, conflict.table.as_str()),
        (ConflictKind::Schema, ConflictOperation::Schema, "other")
    );
    two.resolve(&conflict, Resolution::Overwrite).unwrap();
    two.settle();
    assert_eq!(
        two.remote_text("SELECT tbl_name FROM sqlite_schema WHERE name = 'i'"),
        "other"
    );

    let two = setup(ConflictPolicy::Overwrite);
    two.settle();
    assert_eq!(
        two.remote_text("SELECT tbl_name FROM sqlite_schema WHERE name = 'i'"),
        "other"
    );

    let two = setup(ConflictPolicy::SetAside);
    two.settle();
    assert_eq!(
        two.remote_text("SELECT tbl_name FROM sqlite_schema WHERE name = 'i'"),
        "u"
    );
    assert_eq!(two.remote_text("SELECT v FROM other WHERE id = 5"), "row");
    two.theirs("DROP INDEX i");
    two.ours.sync().unwrap();
    two.resolve(&two.only_conflict(), Resolution::Retry).unwrap();
    two.settle();
    assert_eq!(
        two.remote_text("SELECT tbl_name FROM sqlite_schema WHERE name = 'i'"),
        "other"
    );
}

#[test]
fn a_dropped_table_takes_rows_for_it_into_conflict() {
    let two = two(ConflictPolicy::SetAside);
    two.theirs("DROP TABLE child");
    two.ours.sql("INSERT INTO child VALUES (7, 1, 'x')");
    two.ours.sql("INSERT INTO other VALUES (5, 'row')");
    two.settle();
    assert_eq!(two.only_conflict().kind, ConflictKind::Schema);
    assert_eq!(two.remote_text("SELECT v FROM other WHERE id = 5"), "row");
    // The table comes back in another form; the row fits by the names of its columns.
    two.theirs("CREATE TABLE child (x, id INTEGER PRIMARY KEY, u, more DEFAULT 9)");
    two.ours.sync().unwrap();
    two.resolve(&two.only_conflict(), Resolution::Retry).unwrap();
    two.settle();
    assert_eq!(two.remote_text("SELECT x || id || u || more FROM child"), "x719");
}

/// A remote that refuses every change which mentions 'bad', for reasons of its own that no pull shows.
fn moody(http: &HttpRequest) -> Result<(u16, Vec<u8>), String> {
    match written(http).contains("\"bad\"") {
        true => forward(&renamed(http, "\"other\"", "missing")),
        false => forward(http),
    }
}

#[test]
fn a_remote_that_refuses_what_no_pull_explains_is_handled_alike() {
    let setup = |policy| {
        let two = two(policy);
        two.ours.sql("INSERT INTO u VALUES (59, 'before', 0)");
        two.ours
            .sql("BEGIN; INSERT INTO u VALUES (58, 'with', 0); INSERT INTO other VALUES (5, 'bad'); COMMIT");
        two.ours.sql("INSERT INTO u VALUES (60, 'good', 0)");
        two
    };
    let push = |two: &Two| {
        let engine = &two.ours.engine;
        drive(engine, engine.push_changes_to_remote(), &mut |http, _| {
            moody(http)
        })
    };
    for policy in [ConflictPolicy::Stop, ConflictPolicy::Overwrite] {
        let two = setup(policy);
        let e = push(&two).unwrap_err();
        assert_eq!(e.category, Category::Conflict, "{e}");
        assert!(
            e.message.contains("table other") && e.message.contains("no such table: missing"),
            "{e}"
        );
        let conflict = two.only_conflict();
        assert_eq!(
            (conflict.kind, conflict.key.as_str()),
            (ConflictKind::Schema, r#"{"id":5}"#)
        );
        assert_eq!(two.ours.pending(), 4);
        assert_eq!(two.remote_text("SELECT count(*) FROM u"), "2");
        two.resolve(&conflict, Resolution::Drop).unwrap();
        push(&two).unwrap();
        assert_eq!(
            two.remote_text("SELECT group_concat(e) FROM (SELECT e FROM u ORDER BY e)"),
            "before,good,one,two"
        );
        two.settle();
    }
    let two = setup(ConflictPolicy::SetAside);
    push(&two).unwrap();
    assert_eq!(two.only_conflict().state, ConflictState::SetAside);
    assert_eq!(
        two.remote_text("SELECT group_concat(e) FROM (SELECT e FROM u ORDER BY e)"),
        "before,good,one,two"
    );
    two.resolve(&two.only_conflict(), Resolution::Retry).unwrap();
    two.settle();
    assert_eq!(two.remote_text("SELECT v FROM other WHERE id = 5"), "bad");
}

#[test]
fn a_remote_that_is_only_busy_is_no_conflict() {
    let two = two(ConflictPolicy::SetAside);
    two.ours.sql("INSERT INTO other VALUES (5, 'x')");
    let engine = &two.ours.engine;
    let e = drive(
        engine,
        engine.push_changes_to_remote(),
        &mut |http, _| match written(http).contains("other") {
            true => Ok(refuse(http, LAST_CHANGE, "database is locked", "SQLITE_BUSY")),
            false => forward(http),
        },
    )
    .unwrap_err();
    assert!(e.retryable, "{e:?}");
    assert_eq!(two.conflicts(), []);
    two.settle();
}

#[test]
fn conflicts_are_numbered_for_good() {
    let two = three_rows(ConflictPolicy::Stop);
    let e = two.resolve_number(99, Resolution::Drop).unwrap_err();
    assert_eq!(e.category, Category::Usage);
    assert!(e.message.contains("there is no conflict 99"), "{e}");
    two.ours.sync().unwrap_err();
    let conflict = two.only_conflict();
    two.resolve(&conflict, Resolution::Drop).unwrap();
    two.resolve(&conflict, Resolution::Drop).unwrap_err();
    two.settle();
}

impl Two {
    fn resolve_number(&self, txn_id: i64, resolution: Resolution) -> Result<(), Error> {
        run(
            &self.ours.engine,
            self.ours.engine.resolve_conflict(txn_id, resolution),
        )
    }
}

/// The request with the changes gets lost on its way; returns it, so that it can arrive later.
fn lose_push(replica: &Replica) -> HttpRequest {
    let mut lost = None;
    let engine = &replica.engine;
    drive(engine, engine.push_changes_to_remote(), &mut |http, _| {
        if !is_push(http) {
            return forward(http);
        }
        lost = Some(http.clone());
        Err("the network is down".into())
    })
    .unwrap_err();
    lost.unwrap()
}

#[test]
fn a_request_that_arrives_late_does_not_bring_back_what_was_decided() {
    let schema = &format!("{SCHEMA} CREATE TABLE bag (x);");
    let two = two_with(schema, ConflictPolicy::SetAside);
    two.ours
        .sql("BEGIN; INSERT INTO bag VALUES ('mine'); INSERT INTO u VALUES (10, 'taken', 'ours'); COMMIT");
    two.ours.sql("INSERT INTO bag VALUES ('second')");
    let late = lose_push(&two.ours);
    two.theirs("INSERT INTO u VALUES (50, 'taken', 'theirs')");
    // Nobody knows what has become of the request: a pull alone must not decide anything.
    let e = two.ours.pull().unwrap_err();
    assert!(e.retryable && e.message.contains("push first"), "{e:?}");
    two.ours.sync().unwrap();
    let conflict = two.only_conflict();
    two.theirs("DELETE FROM u WHERE id = 50");
    let before = two.remote.tables();
    // Now nothing would be in its way.
    forward(&late).unwrap();
    assert_eq!(two.remote.tables(), before);
    two.settle();
    two.resolve(&conflict, Resolution::Retry).unwrap();
    two.settle();
    assert_eq!(
        two.remote_text("SELECT group_concat(x) FROM (SELECT x FROM bag ORDER BY x)"),
        "mine,second"
    );
}

#[test]
fn a_request_that_arrives_between_refusal_and_decision_counts() {
    let schema = &format!("{SCHEMA} CREATE TABLE bag (x);");
    let two = two_with(schema, ConflictPolicy::SetAside);
    two.ours
        .sql("BEGIN; INSERT INTO bag VALUES ('mine'); INSERT INTO u VALUES (10, 'taken', 'ours'); COMMIT");
    let late = lose_push(&two.ours);
    two.theirs("INSERT INTO u VALUES (50, 'taken', 'theirs')");
    let engine = &two.ours.engine;
    let mut requests = 0;
    drive(engine, engine.push_changes_to_remote(), &mut |http, _| {
        let answer = forward(http);
        if is_push(http) {
            requests += 1;
            if requests == 1 {
                two.theirs("DELETE FROM u WHERE id = 50");
                forward(&late).unwrap();
            }
        }
        answer
    })
    .unwrap();
    assert_eq!(two.conflicts(), []);
    two.settle();
    assert_eq!(two.remote_text("SELECT count(*) FROM bag"), "1");
}

#[test]
fn a_guard_that_fails_while_a_request_may_arrive_does_not_stop_everything() {
    let schema = &format!("{SCHEMA} CREATE TABLE bag (x);");
    let two = two_with(schema, ConflictPolicy::SetAside);
    two.ours
        .sql("BEGIN; INSERT INTO bag VALUES ('mine'); INSERT INTO u VALUES (10, 'taken', 'ours'); COMMIT");
    lose_push(&two.ours);
    // The rowid of our row in the bag is taken, so the push never comes to the conflict behind it.
    two.theirs("INSERT INTO bag VALUES ('theirs'); INSERT INTO u VALUES (50, 'taken', 'theirs')");
    two.ours.sync().unwrap();
    two.only_conflict();
    two.settle();
}

#[test]
fn a_refused_request_that_arrives_again_does_not_bring_back_what_was_decided() {
    let schema = &format!("{SCHEMA} CREATE TABLE bag (x);");
    let two = two_with(schema, ConflictPolicy::SetAside);
    two.ours
        .sql("BEGIN; INSERT INTO bag VALUES ('mine'); INSERT INTO u VALUES (10, 'taken', 'ours'); COMMIT");
    two.theirs("INSERT INTO u VALUES (50, 'taken', 'theirs')");
    let mut refused = None;
    let engine = &two.ours.engine;
    drive(engine, engine.push_changes_to_remote(), &mut |http, _| {
        if is_push(http) {
            refused.get_or_insert_with(|| http.clone());
        }
        forward(http)
    })
    .unwrap();
    let conflict = two.only_conflict();
    two.theirs("DELETE FROM u WHERE id = 50");
    let before = two.remote.tables();
    forward(&refused.unwrap()).unwrap();
    assert_eq!(two.remote.tables(), before);
    two.settle();
    two.resolve(&conflict, Resolution::Retry).unwrap();
    two.settle();
    assert_eq!(two.remote_text("SELECT group_concat(x) FROM bag"), "mine");
}

#[test]
fn a_decision_to_overwrite_can_be_taken_back() {
    let two = two(ConflictPolicy::Stop);
    two.ours.sql("INSERT INTO u VALUES (10, 'taken', 'ours')");
    two.theirs("INSERT INTO u VALUES (50, 'taken', 'theirs')");
    two.ours.sync().unwrap_err();
    let conflict = two.only_conflict();
    two.resolve(&conflict, Resolution::Overwrite).unwrap();
    two.resolve(&two.only_conflict(), Resolution::Drop).unwrap();
    assert_eq!(two.conflicts(), []);
    two.settle();
    assert_eq!(two.remote_text("SELECT n FROM u WHERE e = 'taken'"), "theirs");
}

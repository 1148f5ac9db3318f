//! Triggers fire on the other side exactly as they did here: after a capture on a replica and a push to a remote equal
//! to its base both hold the same, rows and counters made by triggers included; and so does a pull.

mod capture_support;
#[allow(unused)]
mod replay_capture;

use capture_support::{Replica, run};
use proptest::prelude::*;
use replay_capture::{dump, plain, push, push_statements, rebased, rebased_with};
use turso_sync::error::Category;
use turso_sync::replay::{Purpose, rebase_net};

fn difference(a: &[String], b: &[String]) -> String {
    let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>();
    format!("{:#?}\n/\n{:#?}", only(a, b), only(b, a))
}

/// What is not as it should be after `statements` on a replica of `base`.
fn trial(base: &str, statements: &[String]) -> Result<(), String> {
    let replica = Replica::new(base);
    let connection = replica.open();
    for sql in statements {
        let _ = connection.execute_batch(sql);
    }
    let _ = connection.execute_batch("COMMIT");
    connection.close().unwrap();
    let local = replica.plain();
    let here = dump(&local);
    let log = || replica.log().join("\n");
    let check = |what: &str, there: Vec<String>| {
        if there == here {
            return Ok(());
        }
        let difference = difference(&here, &there);
        Err(format!("{what}: {difference}\nlog:\n{}", log()))
    };

    let remote = plain(base);
    let sent = push_statements(&local, &remote).map_err(|e| format!("{e}\n{}", log()))?;
    push(&remote, &sent).map_err(|(s, e)| format!("push: {e}: {s:?}\n{}", log()))?;
    check("push", dump(&remote))?;

    let pulled = rebased(&local, base, 0).map_err(|e| format!("pull: {e}\n{}", log()))?;
    check("pull", dump(&pulled))?;
    let net = rebased_with(rebase_net, &local, base, 0).map_err(|e| format!("net: {e}\n{}", log()))?;
    check("net effect", dump(&net))?;
    let remote = plain(base);
    let sent = push_statements(&pulled, &remote).map_err(|e| format!("{e}\n{}", log()))?;
    push(&remote, &sent).map_err(|(s, e)| format!("push after pull: {e}: {s:?}\n{}", log()))?;
    check("push after pull", dump(&remote))
}

fn exact(base: &str, statements: &[&str]) {
    let statements: Vec<String> = statements.iter().map(|s| s.to_string()).collect();
    if let Err(e) = trial(base, &statements) {
        panic!("{e}\n{statements:#?}");
    }
}

const LOG: &str = "CREATE TABLE log(id INTEGER PRIMARY KEY, what);";

#[test]
fn a_replace_fires_no_delete_triggers() {
    for table in [
        "t(id INTEGER PRIMARY KEY, a UNIQUE, b)",
        "t(id TEXT PRIMARY KEY, a UNIQUE, b)",
        "t(id TEXT PRIMARY KEY COLLATE NOCASE, a UNIQUE, b) WITHOUT ROWID",
        "t(id UNIQUE, a UNIQUE, b)",
        "t(id INTEGER PRIMARY KEY ON CONFLICT REPLACE, a UNIQUE ON CONFLICT REPLACE, b)",
        "t(rowid, _rowid_ UNIQUE, oid, id UNIQUE, a UNIQUE, b)",
    ] {
        for recursive in [0, 1] {
            // Where they do fire it is behind BEFORE INSERT triggers here, and before them there.
            let before_insert = match recursive {
                0 => {
                    "CREATE TRIGGER bi BEFORE INSERT ON t BEGIN INSERT INTO log(what) VALUES ('bi' || new.id); END;"
                }
                _ => "",
            };
            let base = format!(
                "{LOG} CREATE TABLE {table}; {before_insert}
                 CREATE TRIGGER bd BEFORE DELETE ON t BEGIN INSERT INTO log(what) VALUES ('bd' || old.id); END;
                 CREATE TRIGGER ad AFTER DELETE ON t BEGIN INSERT INTO log(what) VALUES ('ad' || old.id); END;
                 CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES ('ai' || new.id); END;
                 CREATE TRIGGER au AFTER UPDATE ON t BEGIN INSERT INTO log(what) VALUES ('au' || new.id); END;
                 INSERT INTO t(id, a, b) VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)"
            );
            exact(
                &base,
                &[
                    &format!("PRAGMA recursive_triggers = {recursive}"),
                    "REPLACE INTO t(id, a, b) VALUES (1, 1, 9)",
                    "REPLACE INTO t(id, a, b) VALUES (1, 2, 9)",
                    "INSERT OR REPLACE INTO t(id, a, b) VALUES (5, 5, 5), (5, 3, 6)",
                    "UPDATE OR REPLACE t SET a = 2 WHERE id = 4",
                    "UPDATE OR REPLACE t SET id = 5, a = 7 WHERE id = 4",
                    "DELETE FROM t WHERE id = 5",
                    "INSERT INTO t(id, a, b) VALUES (8, 8, 8)",
                    "INSERT INTO t(id, a, b) VALUES (8, 9, 8)",
                    "UPDATE t SET a = 8",
                    "REPLACE INTO t(id, a, b) VALUES ('x', 20, 1), ('X', 20, 2), ('X', 21, 2)",
                ],
            );
        }
    }
}

#[test]
fn a_replace_in_a_trigger_of_a_view_fires_no_delete_triggers() {
    let base = format!(
        "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE); CREATE VIEW v AS SELECT * FROM t;
         CREATE TRIGGER bd BEFORE DELETE ON t BEGIN INSERT INTO log(what) VALUES ('bd' || old.id); END;
         CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN
           DELETE FROM t WHERE id = new.id + 1; REPLACE INTO t VALUES (new.id, new.a);
           DELETE FROM t WHERE a = 7; INSERT INTO t VALUES (70 + new.id, 7);
         END;
         INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4)"
    );
    exact(
        &base,
        &[
            "INSERT INTO v VALUES (1, 3), (3, 4), (5, 5), (5, 3)",
            "INSERT INTO v VALUES (9, 9)",
        ],
    );
}

#[test]
fn foreign_key_actions_of_a_replace_stay() {
    let base = format!(
        "{LOG} CREATE TABLE p(id INTEGER PRIMARY KEY, a UNIQUE);
         CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE TABLE d(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE SET NULL);
         CREATE TRIGGER pd AFTER DELETE ON p BEGIN INSERT INTO log(what) VALUES ('pd' || old.id); END;
         CREATE TRIGGER cd BEFORE DELETE ON c BEGIN INSERT INTO log(what) VALUES ('cd' || old.id); END;
         CREATE TRIGGER du BEFORE UPDATE ON d BEGIN INSERT INTO log(what) VALUES ('du' || old.id); END;
         INSERT INTO p VALUES (1, 1), (2, 2), (3, 3); INSERT INTO c VALUES (1, 1), (2, 2), (3, 3);
         INSERT INTO d VALUES (1, 1), (2, 1), (3, 3)"
    );
    exact(
        &base,
        &[
            "PRAGMA foreign_keys = ON",
            "REPLACE INTO p VALUES (1, 2)",
            "UPDATE OR REPLACE p SET id = 3 WHERE id = 1",
            "DELETE FROM p",
        ],
    );
}

#[test]
fn update_of_triggers_see_what_was_assigned() {
    for table in [
        "t(id INTEGER PRIMARY KEY, a, b, g AS (a) STORED)",
        "t(id TEXT PRIMARY KEY, a, b, g AS (a)) WITHOUT ROWID",
        "t(id, a, b)",
    ] {
        let base = format!(
            "{LOG} CREATE TABLE {table}; CREATE VIEW v AS SELECT id, a, b FROM t;
             CREATE TRIGGER ta AFTER UPDATE OF a ON t BEGIN INSERT INTO log(what) VALUES ('a' || old.a); END;
             CREATE TRIGGER tb BEFORE UPDATE OF b, id ON t BEGIN INSERT INTO log(what) VALUES ('b' || old.b); END;
             CREATE TRIGGER ti AFTER UPDATE OF id ON t BEGIN INSERT INTO log(what) VALUES ('i' || old.id); END;
             CREATE TRIGGER tu AFTER UPDATE ON t BEGIN INSERT INTO log(what) VALUES ('u' || old.id); END;
             CREATE TRIGGER vu INSTEAD OF UPDATE OF a ON v BEGIN UPDATE t SET a = new.a, id = new.id WHERE id = old.id; END;
             INSERT INTO t(id, a, b) VALUES (1, 1, 1), (2, 2, 2)"
        );
        let mut statements = vec![
            "UPDATE t SET a = a",
            "UPDATE t SET a = 1",
            "UPDATE t SET a = a, b = 5 WHERE id = 1",
            "UPDATE t SET a = 6, b = b WHERE id = 1",
            "UPDATE t SET id = id",
            "UPDATE t SET id = 7, a = a WHERE id = 2",
            "UPDATE t SET (a, b) = (1, 1)",
            "UPDATE v SET a = a",
            "UPDATE v SET a = 4, b = 3",
        ];
        if table.contains("PRIMARY") {
            statements.push("INSERT INTO t(id, a, b) VALUES (1, 1, 1) ON CONFLICT DO UPDATE SET a = a");
            statements
                .push("INSERT INTO t(id, a, b) VALUES (1, 1, 1) ON CONFLICT DO UPDATE SET b = b, a = 9");
        }
        if !table.contains("WITHOUT") {
            statements.push("UPDATE t SET rowid = rowid");
        }
        exact(&base, &statements);
    }
}

#[test]
fn what_before_triggers_wrote_for_rows_that_stayed_arrives() {
    let base = format!(
        "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b NOT NULL CHECK (b <> 9));
         CREATE TABLE n(x); CREATE VIEW v AS SELECT * FROM t;
         CREATE TRIGGER la AFTER INSERT ON log BEGIN INSERT INTO n VALUES (new.what); END;
         CREATE TRIGGER b1 BEFORE INSERT ON t BEGIN INSERT INTO log(what) VALUES ('b1' || new.a); END;
         CREATE TRIGGER b2 BEFORE INSERT ON t BEGIN
           INSERT INTO log(what) VALUES ('b2' || new.a); SELECT RAISE(IGNORE) WHERE new.a % 3 = 0;
           SELECT RAISE(FAIL, 'ten') WHERE new.a = 10; INSERT INTO log(what) VALUES ('late' || new.a);
         END;
         CREATE TRIGGER u1 BEFORE UPDATE ON t BEGIN
           INSERT INTO log(what) VALUES ('u1' || old.a); SELECT RAISE(IGNORE) WHERE new.b = 3; END;
         CREATE TRIGGER d1 BEFORE DELETE ON t BEGIN
           INSERT INTO log(what) VALUES ('d1' || old.a); SELECT RAISE(IGNORE) WHERE old.b = 4; END;
         CREATE TRIGGER a1 AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES ('a1' || new.a); END;
         CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN INSERT OR IGNORE INTO t VALUES (new.id, new.a, new.b);
           UPDATE t SET b = b + 1; END;
         INSERT INTO t VALUES (1, 1, 1), (2, 2, 2); DELETE FROM log; DELETE FROM n"
    );
    exact(
        &base,
        &[
            "INSERT INTO t(a, b) VALUES (3, 1), (4, 1), (6, 1)",
            "INSERT OR IGNORE INTO t(a, b) VALUES (7, 1), (1, 1), (8, NULL), (11, 9), (13, 4)",
            "INSERT OR FAIL INTO t(a, b) VALUES (14, 1), (1, 1)",
            "INSERT INTO t(a, b) VALUES (16, 1), (10, 1)",
            "INSERT INTO t(a, b) VALUES (1, 1) ON CONFLICT (a) DO UPDATE SET b = 5",
            "INSERT INTO t(a, b) VALUES (1, 1), (2, 2), (17, 3) ON CONFLICT DO NOTHING",
            "INSERT INTO t(a, b) VALUES (1, 1), (2, 2) ON CONFLICT (a) DO UPDATE SET b = excluded.b + 1",
            "UPDATE t SET b = b + 1",
            "UPDATE OR IGNORE t SET a = 2, b = b - 1",
            "UPDATE OR FAIL t SET a = 50",
            "DELETE FROM t WHERE a > 1",
            "INSERT INTO v VALUES (1, 1, 1), (20, 20, 2), (21, 21, 5)",
        ],
    );
}

#[test]
fn a_half_way_returning_carries_what_was_done() {
    let base = format!(
        "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, a);
         CREATE TRIGGER b1 BEFORE INSERT ON t BEGIN
           INSERT INTO log(what) VALUES ('b1' || new.a); SELECT RAISE(IGNORE) WHERE new.a % 3 = 0; END;"
    );
    let replica = Replica::new(&base);
    let c = replica.open();
    let mut s = capture_support::prepare(&c, "INSERT INTO t(a) VALUES (1), (3), (4), (6) RETURNING id");
    s.step().unwrap();
    drop(s);
    // A trigger that the statement did not know when it was prepared.
    let mut s = capture_support::prepare(&c, "INSERT INTO t(a) VALUES (10), (11)");
    run(
        &c,
        "CREATE TRIGGER b0 BEFORE INSERT ON t BEGIN INSERT INTO log(what) VALUES ('b0'); SELECT RAISE(IGNORE) WHERE new.a = 10; END",
    );
    s.execute().unwrap();
    drop(s);
    c.close().unwrap();
    let local = replica.plain();
    let remote = plain(&base);
    let sent = push_statements(&local, &remote).unwrap();
    push(&remote, &sent).unwrap();
    assert_eq!(dump(&remote), dump(&local), "{:#?}", replica.log());
}

#[test]
fn nested_triggers_of_the_same_table() {
    let base = format!(
        "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b, m);
         CREATE TRIGGER b1 BEFORE UPDATE ON t BEGIN
           INSERT INTO log(what) VALUES ('b1' || old.id || new.b); SELECT RAISE(IGNORE) WHERE new.b = 3; END;
         CREATE TRIGGER a1 AFTER UPDATE OF b ON t BEGIN UPDATE t SET m = ifnull(m, 0) + 1 WHERE id >= new.id; END;
         INSERT INTO t(id, a, b) VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 1)"
    );
    for recursive in [0, 1] {
        let recursive = format!("PRAGMA recursive_triggers = {recursive}");
        exact(
            &base,
            &[
                &recursive,
                "UPDATE t SET b = b + 1",
                "UPDATE t SET b = 3 WHERE id > 1",
                "UPDATE t SET b = id",
                "UPDATE OR IGNORE t SET a = 3, b = 5",
            ],
        );
    }
}

/// SQLite prepares a statement anew when the schema has changed.
#[test]
fn stale_statements_fire_triggers_like_others() {
    for (returning, target) in [
        ("", "v"),
        (" RETURNING 1", "v"),
        ("", "b"),
        (" RETURNING x", "b"),
        ("", "w"),
    ] {
        for (kind, first) in [
            "",
            "DELETE FROM d; ",
            "SELECT 1; ",
            "INSERT INTO e VALUES (new.x); ",
        ]
        .into_iter()
        .enumerate()
        {
            let base = format!(
                "CREATE TABLE b(x); CREATE TABLE d(k INTEGER PRIMARY KEY, y); CREATE TABLE e(x);
                 CREATE VIEW v AS SELECT x FROM b; CREATE VIEW w AS SELECT x FROM b;
                 CREATE TRIGGER t INSTEAD OF INSERT ON v BEGIN {first}INSERT INTO d(y) VALUES (new.x); END;
                 CREATE TRIGGER wt INSTEAD OF INSERT ON w BEGIN INSERT INTO v VALUES (new.x); END;
                 CREATE TRIGGER bb BEFORE INSERT ON b BEGIN INSERT INTO e VALUES (-new.x); END;
                 CREATE TRIGGER ba AFTER INSERT ON b BEGIN {first}INSERT INTO d(y) VALUES (new.x); END;
                 INSERT INTO d(y) VALUES (0)"
            );
            let replica = Replica::new(&base);
            let (connection, other) = (replica.open(), replica.open());
            let sql = format!("INSERT INTO {target} VALUES (?1), (2){returning}");
            let (mut statement, _) = connection.prepare(&sql).unwrap().unwrap();
            statement.bind_integer(1, 6).unwrap();
            for (i, ddl) in [&connection, &other, &connection].into_iter().enumerate() {
                ddl.execute_batch(&format!("CREATE TABLE other{i}(a)")).unwrap();
                while statement.step().unwrap() == turso_sync::capture::Step::Row {}
                statement.reset(false).unwrap();
            }
            drop(statement);
            let local = replica.plain();
            let remote = plain(&base);
            let sent = push_statements(&local, &remote).unwrap();
            push(&remote, &sent).unwrap();
            let log = replica.log().join("\n");
            assert_eq!(dump(&remote), dump(&local), "{sql} ({kind})\n{log}");
        }
    }
}

#[test]
fn a_constraint_that_fails_leaves_the_clauses_of_triggers_alone() {
    for clause in ["", "ON CONFLICT FAIL", "on conflict\n abort"] {
        let base = format!(
            "CREATE TABLE z(o INTEGER, PRIMARY KEY(o) ON CONFLICT REPLACE) WITHOUT ROWID;
             CREATE TABLE u(x UNIQUE); CREATE TABLE e(d INTEGER PRIMARY KEY DESC {clause}, x);
             CREATE TRIGGER t AFTER INSERT ON e BEGIN INSERT INTO z VALUES (new.x); INSERT OR IGNORE INTO u VALUES (new.x); END;
             CREATE TRIGGER s AFTER UPDATE ON e BEGIN INSERT INTO z VALUES (new.x); INSERT OR IGNORE INTO u VALUES (new.x); END"
        );
        exact(
            &base,
            &[
                "INSERT INTO e VALUES (1, 1), (2, 1), (3, 2)",
                "UPDATE e SET x = 2 WHERE d < 3",
                "INSERT INTO e VALUES (4, 4), (1, 1)",
            ],
        );
    }
}

/// The limits that `src/replay/mod.rs` names.
#[test]
fn known_limits() {
    let limits: [(&str, &[&str]); 7] = [
        (
            "CREATE TRIGGER bi BEFORE INSERT ON t BEGIN INSERT INTO log(what) VALUES (new.id); END;",
            &["INSERT INTO t(a) VALUES (7)"],
        ),
        (
            "CREATE TRIGGER bi BEFORE INSERT ON t BEGIN INSERT INTO log(what) VALUES ('bi' || new.id); END;
             CREATE TRIGGER ad AFTER DELETE ON t BEGIN INSERT INTO log(what) VALUES ('ad' || old.id); END;",
            &["PRAGMA recursive_triggers = ON", "REPLACE INTO t VALUES (1, 5, 5)"],
        ),
        (
            "CREATE TRIGGER td AFTER DELETE ON t BEGIN INSERT INTO log(what) VALUES ('t' || old.id); END;
             CREATE TRIGGER cd AFTER DELETE ON c BEGIN INSERT INTO log(what) VALUES ('c' || old.id); END;",
            &["PRAGMA foreign_keys = ON", "DELETE FROM t WHERE id = 1"],
        ),
        (
            "CREATE TRIGGER bu BEFORE UPDATE ON t BEGIN UPDATE t SET b = new.a WHERE id = old.id; SELECT RAISE(IGNORE); END;",
            &["UPDATE t SET a = 9 WHERE id = 1"],
        ),
        (
            "CREATE VIEW v AS SELECT * FROM t;
             CREATE TRIGGER vi INSTEAD OF UPDATE ON v BEGIN UPDATE t SET a = a; UPDATE t SET b = b; END;
             CREATE TRIGGER ua AFTER UPDATE OF a ON t BEGIN INSERT INTO log(what) VALUES ('a' || old.id); END;",
            &["UPDATE v SET a = 9 WHERE id = 1"],
        ),
        (
            "CREATE UNIQUE INDEX ui ON t(abs(a)); CREATE TABLE o(x UNIQUE);
             CREATE TRIGGER bu BEFORE UPDATE ON t BEGIN INSERT INTO o VALUES (1); END;",
            &["UPDATE OR REPLACE t SET a = a + 10"],
        ),
        (
            "CREATE TABLE m(a); INSERT INTO m VALUES (1);
             CREATE TRIGGER mu AFTER UPDATE ON m BEGIN INSERT INTO log(what) VALUES ('m'); END;",
            &["UPDATE m SET rowid = 5"],
        ),
    ];
    for (triggers, statements) in limits {
        let base = format!(
            "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);
             CREATE TABLE c(id INTEGER PRIMARY KEY, t REFERENCES t ON DELETE CASCADE); {triggers}
             INSERT INTO t VALUES (1, 1, 1), (2, 2, 2); INSERT INTO c VALUES (1, 1)"
        );
        let statements: Vec<String> = statements.iter().map(|s| s.to_string()).collect();
        let difference = trial(&base, &statements).expect_err(triggers);
        assert!(difference.starts_with("push: "), "{difference}");
    }
}

/// FAIL leaves what was done; there the trigger fails again, and nobody is to guess what had been done by then.
#[test]
fn what_fail_in_a_trigger_has_left_is_a_conflict() {
    let triggers = [
        (
            "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES (new.a); SELECT RAISE(FAIL, 'no') WHERE new.a = 2; END",
            "",
        ),
        (
            "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT OR FAIL INTO u VALUES (new.a), (new.a + 1); END",
            "",
        ),
        (
            "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO u VALUES (new.a), (new.a + 1); END",
            "OR FAIL",
        ),
    ];
    for (trigger, clause) in triggers {
        let base = format!(
            "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE u(x UNIQUE CHECK (x <> 3)); {trigger}"
        );
        let replica = Replica::new(&base);
        let connection = replica.open();
        connection
            .execute_batch(&format!("INSERT {clause} INTO t VALUES (1, 0), (2, 2), (3, 3)"))
            .unwrap_err();
        connection.close().unwrap();
        let local = replica.plain();
        let kept: i64 = local
            .query_row("SELECT count(*) FROM t", [], |r| r.get(0))
            .unwrap();
        assert_eq!(kept, 2, "the rows before the failure, and its own");
        let e = rebased(&local, &base, 0).expect_err(trigger);
        assert_eq!(e.category, Category::Conflict, "{e}");
        push(&plain(&base), &push_statements(&local, &plain(&base)).unwrap()).expect_err(trigger);
    }
}

/// With recursive triggers, REPLACE runs DELETE triggers under its own clause; no DELETE has one.
#[test]
fn a_delete_trigger_of_a_replace_that_meets_a_constraint_is_a_conflict() {
    let base = "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE u(x UNIQUE);
        CREATE TRIGGER tr AFTER DELETE ON t BEGIN UPDATE u SET x = 6 WHERE x = old.id; END;
        INSERT INTO t VALUES (1), (2); INSERT INTO u VALUES (1), (2);";
    let replica = Replica::new(base);
    let connection = replica.open();
    connection
        .execute_batch("PRAGMA recursive_triggers = 1; INSERT OR REPLACE INTO t VALUES (1), (2)")
        .unwrap();
    connection.close().unwrap();
    let local = replica.plain();
    let left: i64 = local
        .query_row("SELECT count(*) FROM u", [], |r| r.get(0))
        .unwrap();
    assert_eq!(left, 1, "the second update replaced the row of the first");
    let e = rebased(&local, base, 0).unwrap_err();
    assert_eq!(e.category, Category::Conflict, "{e}");
}

const RANDOM: &str = "
CREATE TABLE log(id INTEGER PRIMARY KEY, what, n);
-- Apart from the log, because actions run behind all triggers there, and before AFTER triggers here.
CREATE TABLE actions(id INTEGER PRIMARY KEY, what, n);
CREATE TABLE count(table_name PRIMARY KEY, n DEFAULT 0) WITHOUT ROWID;
CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b CHECK (b <> 5), g AS (a) STORED);
CREATE TABLE w(k TEXT COLLATE NOCASE PRIMARY KEY, a UNIQUE ON CONFLICT REPLACE, b) WITHOUT ROWID;
CREATE TABLE n(a UNIQUE, b NOT NULL);
CREATE TABLE c(id INTEGER PRIMARY KEY, t REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE, x);
CREATE TABLE d(id INTEGER PRIMARY KEY, t REFERENCES t ON DELETE SET NULL);
CREATE VIEW v AS SELECT a, b FROM n;
CREATE TRIGGER log1 AFTER INSERT ON log BEGIN UPDATE count SET n = n + 1 WHERE table_name = 'log'; END;
CREATE TRIGGER log2 BEFORE INSERT ON log WHEN new.n = 4 BEGIN UPDATE count SET n = n + 10 WHERE table_name = 'log'; SELECT RAISE(IGNORE); END;
CREATE TRIGGER t1 BEFORE INSERT ON t BEGIN INSERT INTO log(what, n) VALUES ('t1', new.b); SELECT RAISE(IGNORE) WHERE new.b = 3; END;
CREATE TRIGGER t2 BEFORE INSERT ON t WHEN new.b > 1 BEGIN UPDATE count SET n = n + new.b WHERE table_name = 't'; SELECT RAISE(FAIL, 'six') WHERE new.b = 6; END;
CREATE TRIGGER t3 AFTER INSERT ON t BEGIN INSERT INTO log(what, n) VALUES ('t3', new.id); END;
CREATE TRIGGER t4 BEFORE UPDATE ON t BEGIN INSERT INTO log(what, n) VALUES ('t4', new.b); SELECT RAISE(IGNORE) WHERE new.b = 2; END;
CREATE TRIGGER t5 AFTER UPDATE OF a ON t BEGIN INSERT INTO log(what, n) VALUES ('t5', new.a); END;
CREATE TRIGGER t6 AFTER UPDATE OF id, b ON t BEGIN INSERT INTO log(what, n) VALUES ('t6', old.id); END;
CREATE TRIGGER t7 BEFORE DELETE ON t BEGIN INSERT INTO log(what, n) VALUES ('t7', old.b); SELECT RAISE(IGNORE) WHERE old.b = 1; END;
CREATE TRIGGER t8 AFTER DELETE ON t BEGIN INSERT INTO log(what, n) VALUES ('t8', old.id); END;
CREATE TRIGGER w1 AFTER DELETE ON w BEGIN INSERT INTO log(what, n) VALUES ('w1', old.a); INSERT OR IGNORE INTO n VALUES (old.a, 1); END;
CREATE TRIGGER w2 BEFORE UPDATE OF b ON w BEGIN INSERT INTO log(what, n) VALUES ('w2', new.a); END;
CREATE TRIGGER n1 BEFORE INSERT ON n BEGIN INSERT INTO log(what, n) VALUES ('n1', new.a); END;
CREATE TRIGGER n2 AFTER DELETE ON n BEGIN INSERT INTO log(what, n) VALUES ('n2', old.a); END;
CREATE TRIGGER n3 AFTER UPDATE ON n BEGIN INSERT INTO log(what, n) VALUES ('n3', old.a); END;
CREATE TRIGGER c1 AFTER DELETE ON c BEGIN INSERT INTO actions(what, n) VALUES ('c1', old.id); END;
CREATE TRIGGER c2 AFTER UPDATE OF x ON c BEGIN INSERT INTO actions(what, n) VALUES ('c2', old.id); END;
CREATE TRIGGER d1 AFTER UPDATE ON d BEGIN INSERT INTO actions(what, n) VALUES ('d1', old.id); END;
CREATE TRIGGER v1 INSTEAD OF INSERT ON v BEGIN INSERT OR REPLACE INTO n VALUES (new.a, new.b);
  INSERT OR IGNORE INTO t(a, b) VALUES (new.a, new.b); UPDATE w SET b = new.b WHERE a = new.a; DELETE FROM n WHERE b = 6; END;
CREATE TRIGGER v2 INSTEAD OF UPDATE OF a ON v BEGIN UPDATE t SET a = a, b = new.b WHERE a = old.a; UPDATE n SET b = new.b; END;
INSERT INTO count VALUES ('log', 0), ('t', 0);
INSERT INTO t(id, a, b) VALUES (1, 1, 1), (2, 2, 2), (4, 4, 4);
INSERT INTO w VALUES ('a', 1, 1), ('b', 2, 2);
INSERT INTO n VALUES (1, 1), (2, 2);
INSERT INTO c VALUES (1, 1, 1), (2, 2, 2), (3, 2, 2);
INSERT INTO d VALUES (1, 1), (2, 2)";

fn statement() -> impl Strategy<Value = String> {
    let or = prop_oneof![
        3 => Just(""), 3 => Just("OR REPLACE"), 2 => Just("OR IGNORE"), 1 => Just("OR FAIL"), 1 => Just("OR ROLLBACK")
    ];
    let key = prop_oneof![Just("'a'"), Just("'A'"), Just("'b'"), Just("'c'")];
    (0..30usize, or, key, 0..8usize, 0..8usize, 0..8usize).prop_map(|(kind, or, key, i, j, k): (usize, &str, &str, usize, usize, usize)| match kind {
        0..3 => format!("INSERT {or} INTO t(id, a, b) VALUES ({i}, {j}, {k}), ({j}, {k}, {i})"),
        3 => format!("INSERT {or} INTO t(a, b) VALUES ({i}, {j}), ({k}, {i}), ({j}, {j})"),
        4 => format!("INSERT INTO t(a, b) VALUES ({i}, {j}), ({k}, {i}) ON CONFLICT (a) DO UPDATE SET a = a, b = excluded.b + 1"),
        5 => format!("INSERT INTO t(id, a, b) VALUES ({i}, {j}, {k}), ({j}, 8, 1) ON CONFLICT DO NOTHING"),
        6 => format!("UPDATE {or} t SET a = {i} WHERE id >= {j}"),
        7 => format!("UPDATE {or} t SET a = a, id = {i} WHERE id = {j}"),
        8 => format!("UPDATE {or} t SET a = a + {i}, b = {j}"),
        9 => format!("UPDATE {or} t SET b = b WHERE id > {i}"),
        10 => "UPDATE t SET rowid = rowid, g = g".replace(", g = g", ""),
        11 | 12 => format!("DELETE FROM t WHERE id >= {i} OR a = {j}"),
        13 | 14 => format!("INSERT {or} INTO w VALUES ({key}, {i}, {j}), ('d', {k}, 1)"),
        15 => format!("UPDATE {or} w SET k = upper(k), a = {i} WHERE a = {j}"),
        16 => format!("UPDATE {or} w SET a = {i}, b = b"),
        17 => format!("DELETE FROM w WHERE a > {i}"),
        18 | 19 => format!("INSERT {or} INTO n VALUES ({i}, {j}), ({k}, nullif({i}, 1))"),
        20 => format!("UPDATE {or} n SET a = {i}, b = {j} WHERE a >= {k}"),
        21 => format!("DELETE FROM n WHERE a > {i}"),
        22 => format!("INSERT {or} INTO v VALUES ({i}, {j}), ({k}, {i})"),
        23 => format!("UPDATE v SET a = a, b = {i}"),
        24 => format!("INSERT {or} INTO c VALUES ({i}, {j}, {k})"),
        25 => format!("UPDATE c SET x = x WHERE id > {i}"),
        26 => format!("INSERT {or} INTO d VALUES ({i}, {j})"),
        27 => ["BEGIN", "COMMIT", "ROLLBACK"][i % 3].into(),
        28 => "BEGIN".into(),
        _ => "COMMIT".into(),
    })
}

/// A push onto what others have made of the base leads where a pull leads, or the pull resolves what stopped it.
fn meet(program: &[String], others: &[String]) -> Result<(), TestCaseError> {
    let replica = Replica::new(RANDOM);
    let connection = replica.open();
    for sql in program {
        let _ = connection.execute_batch(sql);
    }
    let _ = connection.execute_batch("COMMIT");
    connection.close().unwrap();
    let local = replica.plain();
    let mut probe = plain(RANDOM);
    let mut theirs = RANDOM.to_owned();
    for sql in others
        .iter()
        .filter(|sql| !["BEGIN", "COMMIT", "ROLLBACK"].contains(&sql.as_str()))
    {
        if probe.execute_batch(sql).is_ok() {
            theirs = format!("{theirs};\n{sql}");
        } else {
            // It may have left something behind.
            probe = plain(&theirs);
        }
    }
    let direct = plain(&theirs);
    let pushed = push(&direct, &push_statements(&local, &plain(RANDOM)).unwrap());
    let pulled = match rebased(&local, &theirs, 0) {
        Ok(pulled) => pulled,
        Err(e) => {
            prop_assert_eq!(e.category, Category::Conflict);
            prop_assert!(pushed.is_err(), "the pull fails ({}), the push does not", e);
            return Ok(());
        }
    };
    let context = || format!("theirs: {others:#?}\nlog:\n{}", replica.log().join("\n"));
    match pushed {
        Ok(()) => prop_assert!(
            dump(&direct) == dump(&pulled),
            "push, then pull: {}\n{}",
            difference(&dump(&direct), &dump(&pulled)),
            context()
        ),
        Err((statement, e)) => prop_assert!(statement.purpose == Purpose::Guard, "{e}\n{}", context()),
    }
    let remote = plain(&theirs);
    if let Err((statement, e)) = push(&remote, &push_statements(&pulled, &remote).unwrap()) {
        prop_assert!(false, "push after pull: {e} {statement:?}\n{}", context());
    }
    prop_assert!(
        dump(&remote) == dump(&pulled),
        "push after pull: {}\n{}",
        difference(&dump(&remote), &dump(&pulled)),
        context()
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_arrive(foreign_keys: bool, program in proptest::collection::vec(statement(), 0..12)) {
        let mut statements = vec![format!("PRAGMA foreign_keys = {}", u8::from(foreign_keys))];
        statements.extend(program);
        if let Err(e) = trial(RANDOM, &statements) {
            prop_assert!(false, "{}", e);
        }
    }

    #[test]
    fn random_programs_meet_others(
        foreign_keys: bool,
        program in proptest::collection::vec(statement(), 0..8),
        others in proptest::collection::vec(statement(), 0..8),
    ) {
        let mut statements = vec![format!("PRAGMA foreign_keys = {}", u8::from(foreign_keys))];
        statements.extend(program);
        meet(&statements, &others)?;
    }
}

#[test]
fn foreign_key_actions_of_drop_table_are_replayed() {
    let base = format!(
        "{LOG} CREATE TABLE p(id INTEGER PRIMARY KEY);
         CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE SET NULL);
         CREATE TABLE d(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE);
         CREATE TABLE e(id INTEGER PRIMARY KEY, d REFERENCES d ON DELETE CASCADE);
         CREATE TRIGGER cu AFTER UPDATE ON c BEGIN INSERT INTO log(what) VALUES ('cu' || new.id); END;
         CREATE TRIGGER dd BEFORE DELETE ON d BEGIN INSERT INTO log(what) VALUES ('dd' || old.id); END;
         CREATE TRIGGER ed AFTER DELETE ON e BEGIN INSERT INTO log(what) VALUES ('ed' || old.id); END;
         INSERT INTO p VALUES (1), (2), (3);
         INSERT INTO c VALUES (1, 1), (2, NULL), (3, 3); INSERT INTO d VALUES (1, 1), (2, 2), (3, NULL);
         INSERT INTO e VALUES (1, 1), (2, 2), (3, 3)"
    );
    for foreign_keys in [0, 1] {
        let pragma = format!("PRAGMA foreign_keys = {foreign_keys}");
        exact(&base, &[&pragma, "DROP TABLE p"]);
        exact(
            &base,
            &[
                &pragma,
                "BEGIN; INSERT INTO c VALUES (4, 2); DROP TABLE p; DELETE FROM e; COMMIT",
            ],
        );
    }
}

#[test]
fn foreign_key_actions_are_made_effective() {
    let base = format!(
        "{LOG} CREATE TABLE p (id INTEGER PRIMARY KEY, k TEXT COLLATE NOCASE UNIQUE);
         CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE TABLE g (id INTEGER PRIMARY KEY, c REFERENCES c(id) ON DELETE CASCADE, note);
         CREATE TABLE n (id INTEGER PRIMARY KEY, k REFERENCES p(k) ON DELETE SET NULL ON UPDATE SET NULL);
         CREATE TABLE d (x, p DEFAULT 9 REFERENCES p ON DELETE SET DEFAULT ON UPDATE SET DEFAULT);
         CREATE TRIGGER gd AFTER DELETE ON g BEGIN INSERT INTO log(what) VALUES (old.id); END;
         INSERT INTO p VALUES (1, 'A'), (2, 'B'), (9, 'Z'); INSERT INTO c VALUES (1, 1), (2, 1), (3, 2);
         INSERT INTO g VALUES (1, 1, 'x'), (2, 1, 'y'), (3, 3, 'z');
         INSERT INTO n VALUES (1, 'a'), (2, 'B'); INSERT INTO d VALUES (1, 1), (2, 2)"
    );
    let statements = [
        "PRAGMA foreign_keys = 1",
        "UPDATE p SET id = 20 WHERE id = 2",
        "DELETE FROM p WHERE id = 1",
        "UPDATE p SET k = 'q' WHERE id = 20",
    ];
    exact(&base, &statements);
}

/// Two foreign keys on one parent, and a statement that replaces its own rows: which key did it cannot be told from rows.
#[test]
fn actions_of_several_foreign_keys_of_one_child_are_all_replayed() {
    for row in ["('+1.0', ' 1')", "(1, 1)", "(2, 1)", "(1, 2)"] {
        for actions in ["CASCADE ON UPDATE SET NULL", "SET NULL", "SET DEFAULT"] {
            let base = format!(
                "CREATE TABLE p(a INT PRIMARY KEY, b UNIQUE); CREATE TABLE c(x NUMERIC REFERENCES p ON DELETE {actions},
                   y BOOLEAN REFERENCES p(a) ON DELETE SET NULL ON UPDATE NO ACTION);
                 INSERT INTO c VALUES {row}"
            );
            let statements = [
                "PRAGMA foreign_keys = 1",
                "INSERT OR REPLACE INTO p VALUES (1, 1), (2, 3), (1, 4)",
                "ALTER TABLE p RENAME TO q",
                "DELETE FROM q",
            ];
            exact(&base, &statements);
        }
    }
}

/// The new row comes behind the actions, and is what replaces.
#[test]
fn a_replace_in_a_table_that_refers_to_itself_fires_no_delete_triggers() {
    for action in ["CASCADE", "SET NULL", "SET DEFAULT"] {
        // Triggers run behind the actions here, before them there: their order is not what this is about.
        let base = format!(
            "CREATE TABLE n(d, u, i, b); INSERT INTO n VALUES (0, 0, 0, 0);
             CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, up DEFAULT 3 REFERENCES t ON DELETE {action});
             CREATE TRIGGER td AFTER DELETE ON t BEGIN UPDATE n SET d = d + old.id; END;
             CREATE TRIGGER tu AFTER UPDATE ON t BEGIN UPDATE n SET u = u + old.id; END;
             CREATE TRIGGER ti AFTER INSERT ON t BEGIN UPDATE n SET i = i + new.id; END;
             CREATE TRIGGER bd BEFORE DELETE ON t BEGIN UPDATE n SET b = b + old.id; END;
             INSERT INTO t VALUES (1, 1, NULL), (2, 2, 1), (3, 3, 2), (4, 4, 1), (5, 5, 2), (6, 6, 5)"
        );
        let on = "PRAGMA foreign_keys = 1";
        exact(&base, &[on, "REPLACE INTO t VALUES (9, 1, NULL)"]);
        exact(&base, &[on, "REPLACE INTO t VALUES (1, 7, NULL)"]);
        exact(&base, &[on, "DELETE FROM t WHERE id = 1"]);
    }
}

/// The other side has no recursive triggers.
#[test]
fn what_recursive_triggers_did_is_replayed() {
    let base = format!(
        "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, n); CREATE TABLE u(id INTEGER PRIMARY KEY, a UNIQUE);
         CREATE TRIGGER ti AFTER INSERT ON t WHEN new.n > 0 BEGIN INSERT INTO t VALUES (new.id + 10, new.n - 1); END;
         CREATE TRIGGER tu AFTER UPDATE OF n ON t WHEN new.n > 0 BEGIN UPDATE t SET n = new.n - 1 WHERE id = new.id + 10; END;
         CREATE TRIGGER td AFTER DELETE ON t BEGIN DELETE FROM t WHERE id = old.id + 10; END;
         CREATE TABLE w(id INTEGER PRIMARY KEY);
         CREATE TRIGGER wi AFTER INSERT ON w BEGIN REPLACE INTO u VALUES (new.id + 5, 7); END;
         CREATE TRIGGER ud AFTER DELETE ON u BEGIN INSERT INTO log(what) VALUES ('u' || old.id); END;
         INSERT INTO u VALUES (1, 7), (2, 8)"
    );
    exact(
        &base,
        &[
            "PRAGMA recursive_triggers = 1",
            "INSERT INTO t VALUES (1, 5), (2, 1), (3, 0)",
            "UPDATE t SET n = 4 WHERE id < 3",
            "DELETE FROM t WHERE id < 3",
            "INSERT INTO t VALUES (1, 3)",
            "INSERT INTO w VALUES (1), (2)",
            "PRAGMA recursive_triggers = 0",
            "INSERT INTO w VALUES (3)",
            "INSERT INTO t VALUES (2, 3)",
            "DELETE FROM t WHERE id < 3",
        ],
    );
}

/// A trigger that does what a foreign key would do is no foreign-key action.
#[test]
fn a_trigger_that_looks_like_a_foreign_key_action_is_none() {
    let base = format!(
        "{LOG} CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p ON DELETE SET NULL, n DEFAULT 0);
         CREATE TRIGGER pd AFTER DELETE ON p BEGIN UPDATE c SET p = NULL WHERE p = old.id; END;
         CREATE TRIGGER cu AFTER UPDATE OF p ON c BEGIN UPDATE c SET n = n + 1; INSERT INTO log(what) VALUES (old.p); END;
         INSERT INTO p VALUES (1), (2); INSERT INTO c(p) VALUES (1), (1), (2)"
    );
    exact(&base, &["PRAGMA foreign_keys = 0", "DELETE FROM p WHERE id = 1"]);
}

#[test]
fn foreign_key_actions_are_known_whatever_the_types() {
    let base = "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p ON DELETE CASCADE);
         INSERT INTO p VALUES (0), (7); INSERT INTO c VALUES ('0000'), (' 7'), ('7.0'), (x'37')";
    exact(base, &["PRAGMA foreign_keys = 1", "DELETE FROM p"]);
}

#[test]
fn what_a_trigger_did_is_not_taken_for_a_foreign_key_s_default() {
    for default in ["", "DEFAULT 3", "DEFAULT (3 + 1)", "DEFAULT 'x'"] {
        let base = format!(
            "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p {default} REFERENCES p ON DELETE SET DEFAULT);
             CREATE TRIGGER pd AFTER DELETE ON p BEGIN UPDATE c SET p = 'gone' WHERE p = old.id; END;
             INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1), (2)"
        );
        exact(&base, &["DELETE FROM p WHERE id = 1"]);
    }
}

#[test]
fn before_triggers_see_generated_columns_as_they_did() {
    for kind in ["STORED", "VIRTUAL"] {
        let base = format!(
            "{LOG} CREATE TABLE h(id INTEGER PRIMARY KEY, a, c AS (coalesce(b, 0) * 2) {kind}, b);
             CREATE TRIGGER bu BEFORE UPDATE ON h BEGIN INSERT INTO log(what) VALUES (new.c); END;
             INSERT INTO h VALUES (1, 1, 1), (2, 1, 2)"
        );
        exact(
            &base,
            &[
                "UPDATE h SET a = 2, b = b",
                "UPDATE h SET a = 3",
                "UPDATE h SET a = a, b = 5 WHERE id = 1",
                "UPDATE h SET b = b",
                "INSERT INTO h VALUES (1, 7, 7) ON CONFLICT DO UPDATE SET a = 7, b = b",
            ],
        );
    }
}

/// A table with triggers for `events` that cannot run, because what they write to is gone.
fn with_broken(events: &[&str]) -> String {
    let trigger = |event: &&str| {
        format!("CREATE TRIGGER [{event}] AFTER {event} ON t BEGIN INSERT INTO gone VALUES (1); END;")
    };
    format!(
        "{LOG} CREATE TABLE gone(x); CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b);
         INSERT INTO t VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3); {}
         CREATE TRIGGER ok AFTER INSERT ON log BEGIN UPDATE log SET what = what || new.what; END;
         DROP TABLE gone",
        events.iter().map(trigger).collect::<String>()
    )
}

#[test]
fn a_trigger_that_cannot_run_keeps_nothing_else_from_travelling() {
    exact(
        &with_broken(&["UPDATE", "DELETE"]),
        &[
            "INSERT INTO t VALUES (4, 4, 4), (5, 5, 5)",
            "INSERT OR IGNORE INTO t VALUES (6, 6, 6), (7, 6, 7)",
            "INSERT OR REPLACE INTO t VALUES (8, 8, 8)",
            "REPLACE INTO t VALUES (8, 9, 8), (10, 2, 2)",
            "BEGIN",
            "INSERT INTO t VALUES (11, 11, 11)",
            "INSERT INTO t VALUES (12, 12, 12)",
            "COMMIT",
        ],
    );
    exact(
        &with_broken(&["INSERT", "DELETE"]),
        &[
            "UPDATE t SET b = 7 WHERE id = 1",
            "UPDATE t SET id = 9, b = 8 WHERE id = 2",
            "UPDATE OR IGNORE t SET a = 1, b = 9 WHERE id = 3",
            "UPDATE OR IGNORE t SET b = 9 WHERE id = 3",
            "UPDATE OR REPLACE t SET b = 10 WHERE id = 3",
            "UPDATE OR REPLACE t SET a = 1 WHERE id = 3",
        ],
    );
    exact(
        &with_broken(&["UPDATE OF b", "INSERT", "DELETE"]),
        &[
            "UPDATE t SET a = 8 WHERE id = 1",
            "UPDATE OR REPLACE t SET a = 8 WHERE id = 3",
        ],
    );
    exact(
        &with_broken(&["INSERT", "UPDATE"]),
        &["DELETE FROM t WHERE id = 2"],
    );
    // Made later than the trigger, so that it cannot insert (nor could it when it was made).
    exact(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, k) WITHOUT ROWID;
         CREATE TRIGGER u BEFORE UPDATE OF k ON t BEGIN INSERT INTO c(g) VALUES (new.k); END",
        &["CREATE TABLE c(a, g AS (a))", "INSERT INTO t VALUES (1, 1)"],
    );
}

#[test]
fn a_change_that_needs_a_trigger_that_cannot_run_is_a_conflict() {
    let cases = [
        // Somebody else has inserted the row.
        (
            with_broken(&["UPDATE"]),
            "INSERT INTO t VALUES (4, 4, 4)",
            "INSERT INTO t VALUES (4, 44, 44)",
        ),
        (
            with_broken(&["UPDATE"]),
            "INSERT OR IGNORE INTO t VALUES (4, 4, 4)",
            "INSERT INTO t VALUES (4, 44, 44)",
        ),
        // Deleted it.
        (
            with_broken(&["INSERT"]),
            "UPDATE t SET b = 7 WHERE id = 1",
            "DELETE FROM t WHERE id = 1",
        ),
        (
            with_broken(&["INSERT"]),
            "UPDATE OR IGNORE t SET b = 7 WHERE id = 1",
            "DELETE FROM t WHERE id = 1",
        ),
        (
            with_broken(&["INSERT"]),
            "UPDATE t SET id = 7 WHERE id = 1",
            "DELETE FROM t WHERE id = 1",
        ),
        // Changed what was in its way.
        (
            with_broken(&["DELETE"]),
            "REPLACE INTO t VALUES (9, 2, 9)",
            "UPDATE t SET a = 22 WHERE id = 2",
        ),
    ];
    for (base, ours, theirs) in cases {
        let replica = Replica::new(&base);
        let connection = replica.open();
        connection.execute_batch(ours).unwrap();
        connection.close().unwrap();
        let local = replica.plain();
        let theirs = format!("{base}; {theirs}");
        let e = rebased(&local, &theirs, 0).expect_err(ours);
        assert_eq!(e.category, Category::Conflict, "{e}");
        let remote = plain(&theirs);
        let before = dump(&remote);
        let (statement, _) = push(&remote, &push_statements(&local, &plain(&base)).unwrap()).expect_err(ours);
        assert_ne!(statement.purpose, Purpose::Guard, "{statement:?}");
        assert_eq!(dump(&remote), before);
    }
}

#[test]
fn a_row_with_a_key_is_updated_wherever_it_moves() {
    let base = format!(
        "{LOG} CREATE TABLE t(k TEXT PRIMARY KEY, a, b);
         CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES ('ai' || new.k); END;
         CREATE TRIGGER au AFTER UPDATE ON t BEGIN INSERT INTO log(what) VALUES ('au' || old.k || new.k); END;
         CREATE TRIGGER uo AFTER UPDATE OF b ON t BEGIN INSERT INTO log(what) VALUES ('uo' || new.k); END;
         CREATE TRIGGER ad AFTER DELETE ON t BEGIN INSERT INTO log(what) VALUES ('ad' || old.k); END;
         INSERT INTO t VALUES ('x', 1, 1), ('y', 2, 2)"
    );
    let ours = [
        "UPDATE t SET rowid = rowid + 10, a = 7 WHERE k = 'x'",
        "UPDATE t SET rowid = rowid + 10",
        "UPDATE t SET rowid = rowid + 10, k = k || '2', b = b",
    ];
    exact(&base, &ours);
    // Others' columns stay.
    let replica = Replica::new(&base);
    let connection = replica.open();
    connection.execute_batch(ours[0]).unwrap();
    connection.close().unwrap();
    let theirs = format!("{base}; UPDATE t SET b = 8 WHERE k = 'x'");
    let pulled = rebased(&replica.plain(), &theirs, 0).unwrap();
    let row: (i64, i64) = pulled
        .query_row("SELECT a, b FROM t WHERE k = 'x'", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .unwrap();
    assert_eq!(row, (7, 8));
}

/// The clause is carried for the bodies of triggers; it removes no row of somebody else, whatever the index is on.
#[test]
fn an_update_or_replace_replaces_nobody_elses_row() {
    for index in ["abs(a)", "g", "a, abs(b)"] {
        let base = format!(
            "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, a, b DEFAULT 1, g AS (abs(a))); CREATE UNIQUE INDEX i ON t({index});
             CREATE TRIGGER tu AFTER UPDATE ON t BEGIN INSERT INTO log(what) VALUES (new.id); END;
             INSERT INTO t(id, a) VALUES (1, 1), (2, 2)"
        );
        let replica = Replica::new(&base);
        let connection = replica.open();
        connection
            .execute_batch("UPDATE OR REPLACE t SET a = 10 WHERE id = 1")
            .unwrap();
        connection.close().unwrap();
        let theirs = format!("{base}; UPDATE t SET a = 10 WHERE id = 2");
        let local = replica.plain();
        let e = rebased(&local, &theirs, 0).expect_err(index);
        assert_eq!(e.category, Category::Conflict, "{e}");
        push(&plain(&theirs), &push_statements(&local, &plain(&base)).unwrap()).expect_err(index);
    }
}

/// TEMP triggers stand on TEMP tables and views, or on those of attached databases. The other side has none of them.
#[test]
fn what_temp_triggers_do_to_the_main_schema_travels() {
    let base = format!(
        "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE); INSERT INTO t VALUES (1, 1), (2, 2), (3, 3);
         CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES ('i' || new.a); END;
         CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO log(what) VALUES ('d' || old.a); END;
         CREATE TABLE p(id INTEGER PRIMARY KEY, u); CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE);
         INSERT INTO p VALUES (1, 1), (2, 2), (3, 3), (4, 4); INSERT INTO c VALUES (1, 1), (2, 2), (3, 3), (4, 4);
         CREATE TRIGGER cd AFTER DELETE ON c BEGIN INSERT INTO log(what) VALUES ('c' || old.id); END;
         CREATE TRIGGER uo AFTER UPDATE OF u ON p BEGIN INSERT INTO log(what) VALUES ('u' || old.id); END;
         CREATE VIEW pv AS SELECT * FROM p;
         CREATE TRIGGER vi INSTEAD OF INSERT ON pv BEGIN INSERT INTO p VALUES (new.id, new.u); INSERT INTO log(what) VALUES ('v'); END"
    );
    let directory = tempfile::tempdir().unwrap();
    let attach = format!(
        "ATTACH '{}' AS \"o o\"; CREATE TABLE \"o o\".s(a); CREATE VIEW \"o o\".w AS SELECT * FROM s",
        directory.path().join("other.db").display()
    );
    // A trigger of the main schema has the name of a TEMP one.
    exact(
        &base,
        &[
            "CREATE TEMP TABLE tt(a)",
            "CREATE TEMP TRIGGER b BEFORE INSERT ON tt BEGIN INSERT INTO t(a) VALUES ('b' || new.a); END",
            "CREATE TEMP TRIGGER x AFTER INSERT ON tt BEGIN
               DELETE FROM t WHERE id = new.a; UPDATE t SET a = a || 'u' WHERE id > 2; REPLACE INTO t VALUES (50, 'r' || new.a); END",
            "INSERT INTO tt VALUES (1), (2)",
            "BEGIN; INSERT OR IGNORE INTO tt VALUES (3); INSERT OR REPLACE INTO tt VALUES (4); COMMIT",
            "INSERT OR FAIL INTO tt VALUES (7), (7)",
            "CREATE TEMP TRIGGER e BEFORE DELETE ON tt BEGIN DELETE FROM t WHERE a = 'b' || old.a; END",
            "DELETE FROM tt WHERE a < 3",
            "CREATE TEMP VIEW v AS SELECT * FROM t",
            "CREATE TEMP TRIGGER y INSTEAD OF INSERT ON v BEGIN INSERT INTO t(a) VALUES (new.a); INSERT INTO log(what) VALUES ('v'); END",
            "INSERT INTO v VALUES (1, 'one'), (2, 'two')",
            "CREATE TEMP TRIGGER z INSTEAD OF UPDATE ON v BEGIN UPDATE t SET a = new.a WHERE id = old.id; END",
            "UPDATE v SET a = a || 'z' WHERE id > 3",
            &attach,
            "CREATE TEMP TRIGGER o AFTER INSERT ON \"o o\".s BEGIN INSERT INTO t(a) VALUES ('o' || new.a); END",
            "INSERT INTO s VALUES (1)",
            "CREATE TEMP TRIGGER p INSTEAD OF INSERT ON \"o o\".w BEGIN INSERT INTO t(a) VALUES ('w' || new.a); END",
            "INSERT INTO w VALUES (2)",
            "CREATE TEMP TABLE t3(a)",
            "CREATE TEMP TRIGGER vi BEFORE INSERT ON t3 BEGIN
               DELETE FROM p WHERE id = new.a; UPDATE p SET u = u WHERE id = 4; INSERT INTO pv VALUES (new.a + 100, 1); END",
            "PRAGMA foreign_keys = 1",
            "INSERT INTO t3 VALUES (1), (2)",
            "PRAGMA recursive_triggers = 1",
            "CREATE TEMP TRIGGER c AFTER INSERT ON t3 WHEN new.a < 6 BEGIN INSERT INTO t3 VALUES (new.a + 1); END",
            "INSERT INTO t3 VALUES (3)",
        ],
    );
}

#[test]
fn triggers_of_a_temp_view_are_known_although_another_connection_changes_the_schema() {
    let base = format!("{LOG} CREATE TABLE t(a)");
    let replica = Replica::new(&base);
    let (one, two) = (replica.open(), replica.open());
    run(
        &one,
        "CREATE TEMP VIEW v AS SELECT * FROM t;
         CREATE TEMP TRIGGER y INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.a); END",
    );
    let (mut insert, _) = one.prepare("INSERT INTO v VALUES (1)").unwrap().unwrap();
    run(
        &two,
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES (new.a); END",
    );
    insert.execute().unwrap();
    let log = replica.log();
    assert_eq!(log[1..], ["+t#1>1", "+log#1>1,1@1"], "{log:?}");
}

#[test]
fn triggers_are_known_whatever_like_compares() {
    exact(
        &format!(
            "{LOG} CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, b); INSERT INTO t VALUES (1, 1, 1), (2, 2, 2);
             create trigger d after delete on t begin insert into log(what) values ('d' || old.id); end;
             create trigger o after update of b on t begin insert into log(what) values ('u' || old.id); end;
             create table r(a, v real as (a + 0)); INSERT INTO r VALUES (1)"
        ),
        &[
            "PRAGMA case_sensitive_like = 1",
            "REPLACE INTO t VALUES (1, 1, 5), (3, 2, 5)",
            "UPDATE t SET b = b WHERE id = 1",
            "UPDATE t SET u = 9 WHERE id = 1",
            "UPDATE r SET a = v",
        ],
    );
}

#[test]
fn recursive_triggers_are_on_as_soon_as_the_pragma_is_prepared() {
    let base = "CREATE TABLE t(id INTEGER PRIMARY KEY, a);
        CREATE TRIGGER x AFTER INSERT ON t WHEN new.a > 0 BEGIN INSERT INTO t(a) VALUES (new.a - 1); END";
    let replica = Replica::new(base);
    let connection = replica.open();
    drop(connection.prepare("PRAGMA recursive_triggers = 1").unwrap());
    run(&connection, "INSERT INTO t(a) VALUES (2)");
    let remote = plain(base);
    push(&remote, &push_statements(&replica.plain(), &remote).unwrap()).unwrap();
    assert_eq!(dump(&remote), dump(&replica.plain()));
}

//! Under which conflict clause the bodies of triggers run, as SQLite has it; and that a replay keeps to it.

mod capture_support;
#[allow(unused)]
mod replay_capture;

use capture_support::Replica;
use replay_capture::{dump, plain, push, push_statements, rebased, rebased_with};
use turso_sync::error::Category;
use turso_sync::replay::rebase_net;

/// The bodies of these triggers meet a row of `log` that is in their way; the INSERT, UPDATE and DELETE triggers of `t`
/// try to write the same `what` that is there, as does the trigger of the trigger's table `u`.
fn schema(body: &str) -> String {
    let body = |n: usize| format!("BEGIN INSERT {body} INTO log(what, n) VALUES ('x', {n}); END;");
    format!(
        "CREATE TABLE log(id INTEGER PRIMARY KEY, what UNIQUE, n);
         CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b);
         CREATE TABLE own(id INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT IGNORE, b UNIQUE ON CONFLICT REPLACE);
         CREATE TABLE c(id INTEGER PRIMARY KEY, t REFERENCES t ON UPDATE CASCADE ON DELETE CASCADE);
         CREATE TABLE u(x);
         CREATE VIEW v AS SELECT id, a FROM t;
         CREATE TRIGGER ti AFTER INSERT ON t {}
         CREATE TRIGGER tu AFTER UPDATE OF a ON t {}
         CREATE TRIGGER td BEFORE DELETE ON t {}
         CREATE TRIGGER oi BEFORE INSERT ON own {}
         CREATE TRIGGER ou AFTER UPDATE ON own {}
         CREATE TRIGGER cu AFTER UPDATE ON c {}
         CREATE TRIGGER cd AFTER DELETE ON c {}
         CREATE TRIGGER ui AFTER INSERT ON u {}
         CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN INSERT INTO u VALUES (new.id); END;
         CREATE TRIGGER vd INSTEAD OF DELETE ON v BEGIN INSERT INTO u VALUES (old.id); END;
         INSERT INTO log VALUES (1, 'y', 0); INSERT OR REPLACE INTO t VALUES (1, 1, 1);
         INSERT OR REPLACE INTO t VALUES (2, 2, 2); INSERT OR REPLACE INTO own VALUES (1, 1, 1);
         INSERT INTO c VALUES (1, 1), (2, 2); DELETE FROM log; INSERT INTO log VALUES (1, 'x', 0)",
        body(1),
        body(2),
        body(3),
        body(4),
        body(5),
        body(6),
        body(7),
        body(8),
    )
}

/// What came of the bodies' INSERT.
fn outcome(body: &str, statement: &str) -> &'static str {
    let conn = plain(&schema(body));
    let result = conn.execute_batch(statement);
    let n: i64 = conn.query_row("SELECT n FROM log", [], |r| r.get(0)).unwrap();
    match (result, n) {
        (Err(_), 0) => "fails",
        (Err(e), _) => panic!("{statement}: {e}"),
        (Ok(()), 0) => "ignores",
        (Ok(()), _) => "replaces",
    }
}

#[test]
fn the_clause_of_a_statement_overrides_those_of_bodies() {
    let own = ["fails", "ignores", "replaces"];
    let all = |what| [what; 3];
    for (statement, expected) in [
        ("INSERT INTO t VALUES (3, 3, 3)", own),
        ("INSERT OR ABORT INTO t VALUES (3, 3, 3)", all("fails")),
        ("INSERT OR FAIL INTO t VALUES (3, 3, 3)", all("fails")),
        ("INSERT OR ROLLBACK INTO t VALUES (3, 3, 3)", all("fails")),
        ("INSERT OR IGNORE INTO t VALUES (3, 3, 3)", all("ignores")),
        ("INSERT OR REPLACE INTO t VALUES (3, 3, 3)", all("replaces")),
        ("REPLACE INTO t VALUES (3, 3, 3)", all("replaces")),
        ("UPDATE t SET a = 5 WHERE id = 1", own),
        ("UPDATE OR IGNORE t SET a = 5 WHERE id = 1", all("ignores")),
        ("UPDATE OR REPLACE t SET a = 5 WHERE id = 1", all("replaces")),
        // That of a constraint does not.
        ("INSERT INTO own VALUES (3, 3, 3)", own),
        ("UPDATE own SET a = 5", own),
        // Nor does a DELETE hand anything on, except by REPLACE.
        ("DELETE FROM t WHERE id = 1", own),
        (
            "PRAGMA recursive_triggers = 1; UPDATE OR REPLACE t SET id = 1, b = 3 WHERE id = 2",
            all("replaces"),
        ),
        // The clauses of an upsert change nothing for INSERT triggers; its update aborts.
        (
            "INSERT INTO t VALUES (3, 3, 3) ON CONFLICT (id) DO UPDATE SET a = 1 ON CONFLICT DO NOTHING",
            own,
        ),
        (
            "INSERT OR IGNORE INTO t VALUES (3, 3, 3) ON CONFLICT (id) DO UPDATE SET a = 1 ON CONFLICT DO NOTHING",
            all("ignores"),
        ),
        (
            "INSERT OR REPLACE INTO t VALUES (3, 3, 3) ON CONFLICT (id) DO UPDATE SET a = 1 ON CONFLICT DO NOTHING",
            all("replaces"),
        ),
        (
            "INSERT INTO t VALUES (1, 3, 3) ON CONFLICT (id) DO UPDATE SET a = 9",
            all("fails"),
        ),
        (
            "INSERT OR IGNORE INTO t VALUES (1, 3, 3) ON CONFLICT (id) DO UPDATE SET a = 9",
            all("fails"),
        ),
        // Through a trigger, and the one that it fires.
        ("INSERT INTO v VALUES (3, 3)", own),
        ("INSERT OR IGNORE INTO v VALUES (3, 3)", all("ignores")),
        ("INSERT OR REPLACE INTO v VALUES (3, 3)", all("replaces")),
        ("DELETE FROM v WHERE id = 1", own),
        // Foreign-key actions abort.
        (
            "PRAGMA foreign_keys = 1; UPDATE OR IGNORE t SET id = 7 WHERE id = 1",
            all("fails"),
        ),
        (
            "PRAGMA foreign_keys = 1; DROP TRIGGER td; DELETE FROM t WHERE id = 1",
            own,
        ),
    ] {
        let outcomes = ["", "OR IGNORE", "OR REPLACE"].map(|body| outcome(body, statement));
        assert_eq!(outcomes, expected, "{statement}");
    }
}

#[test]
fn the_row_itself_is_never_ignored_or_replaced_by_what_a_replay_sends() {
    let conn = plain(&schema("OR IGNORE"));
    for or in ["", "OR IGNORE", "OR REPLACE"] {
        let sql = format!(
            "INSERT {or} INTO t VALUES (3, 1, 3) ON CONFLICT (id) DO UPDATE SET a = excluded.a ON CONFLICT DO NOTHING"
        );
        assert_eq!(conn.execute(&sql, []).unwrap(), 0);
        let again = "INSERT INTO t SELECT 3, 1, 3 WHERE changes() = 0";
        assert!(
            conn.execute(again, [])
                .unwrap_err()
                .to_string()
                .contains("UNIQUE constraint failed: t.a")
        );
        let sql = format!("INSERT {or} INTO own VALUES (3, 1, 1) ON CONFLICT DO NOTHING");
        assert_eq!(conn.execute(&sql, []).unwrap(), 0);
    }
    let rows: i64 = conn
        .query_row(
            "SELECT (SELECT count(*) FROM t) * 10 + (SELECT count(*) FROM own)",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(rows, 21);
}

fn captured(base: &str, statements: &[&str]) -> (Replica, rusqlite::Connection) {
    let replica = Replica::new(base);
    let connection = replica.open();
    for sql in statements {
        let _ = connection.execute_batch(sql);
    }
    connection.close().unwrap();
    let local = replica.plain();
    (replica, local)
}

/// Push, pull, pull with the net effect, and push after a pull lead to what is here.
fn exact(base: &str, statements: &[&str]) {
    let (replica, local) = captured(base, statements);
    let here = dump(&local);
    let context = || format!("{statements:?}\n{}", replica.log().join("\n"));
    let pushed = |from: &rusqlite::Connection| {
        let remote = plain(base);
        let sent = push_statements(from, &remote).unwrap();
        push(&remote, &sent).unwrap_or_else(|(s, e)| panic!("{e}: {s:?}\n{}", context()));
        dump(&remote)
    };
    assert_eq!(pushed(&local), here, "push {}", context());
    let pulled = rebased(&local, base, 0).unwrap_or_else(|e| panic!("{e} {}", context()));
    assert_eq!(dump(&pulled), here, "pull {}", context());
    let net = rebased_with(rebase_net, &local, base, 0).unwrap_or_else(|e| panic!("{e} {}", context()));
    assert_eq!(dump(&net), here, "net {}", context());
    assert_eq!(pushed(&pulled), here, "push after pull {}", context());
}

/// Tables of all kinds `t`, with triggers whose bodies collide.
fn colliding(table: &str, body: &str) -> String {
    format!(
        "CREATE TABLE log(id INTEGER PRIMARY KEY, what UNIQUE, n); CREATE TABLE {table};
         CREATE TRIGGER bi BEFORE INSERT ON t BEGIN INSERT {body} INTO log(what, n) VALUES (new.b, 'bi' || new.a); END;
         CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT {body} INTO log(what, n) VALUES (new.b, 'ai' || new.a); END;
         CREATE TRIGGER bu BEFORE UPDATE ON t BEGIN INSERT {body} INTO log(what, n) VALUES (new.b, 'bu' || new.a); END;
         CREATE TRIGGER au AFTER UPDATE OF a ON t BEGIN UPDATE {body} log SET what = new.b WHERE id >= 1; END;
         INSERT OR REPLACE INTO t(id, a, b) VALUES (1, 1, 1); INSERT OR REPLACE INTO t(id, a, b) VALUES (2, 2, 2)"
    )
}

const TABLES: [&str; 7] = [
    "t(id INTEGER PRIMARY KEY, a UNIQUE, b)",
    "t(id TEXT PRIMARY KEY COLLATE NOCASE, a UNIQUE, b) WITHOUT ROWID",
    "t(id TEXT PRIMARY KEY, a UNIQUE, b, g AS (a) STORED)",
    "t(id, a UNIQUE, b)",
    "t(rowid, _rowid_, oid, id UNIQUE, a, b)",
    "t(id INTEGER PRIMARY KEY ON CONFLICT IGNORE, a UNIQUE ON CONFLICT REPLACE, b)",
    "t(id UNIQUE ON CONFLICT ROLLBACK, a UNIQUE ON CONFLICT IGNORE, b)",
];

#[test]
fn bodies_run_under_the_clause_that_they_ran_under_here() {
    for table in TABLES {
        for body in ["", "OR IGNORE", "OR REPLACE"] {
            // OR FAIL in a body leaves a row behind whose trigger fails again.
            for or in ["", "OR IGNORE", "OR REPLACE", "OR ABORT", "OR ROLLBACK"] {
                let insert =
                    format!("INSERT {or} INTO t(id, a, b) VALUES (5, 5, 7), (6, 6, 7), (7, 1, 7), (8, 8, 8)");
                let with = format!(
                    "WITH x(i) AS (SELECT 9 UNION SELECT 10) INSERT {or} INTO t(id, a, b) SELECT i, i, 7 FROM x"
                );
                let upsert = format!(
                    "INSERT {or} INTO t(id, a, b) VALUES (1, 11, 7), (12, 12, 7) ON CONFLICT DO UPDATE SET a = 13"
                );
                let update = format!("UPDATE {or} t SET a = a + 20, b = 7");
                let several = format!("UPDATE {or} t SET a = 2, b = 7 WHERE id < 5");
                // A rowid that is chosen by SQLite, and rows that look alike, are not what this is about.
                let mut statements = vec![
                    &*insert,
                    &*with,
                    &*update,
                    "UPDATE t SET a = a + 1, b = b",
                    &*several,
                ];
                if !table.contains("rowid,") {
                    statements.push(&upsert);
                }
                exact(&colliding(table, body), &statements);
            }
        }
    }
}

#[test]
fn bodies_of_views_hand_their_clause_on() {
    for (or, body) in [
        ("", "OR IGNORE"),
        ("OR IGNORE", ""),
        ("OR REPLACE", "OR IGNORE"),
        ("", "OR REPLACE"),
    ] {
        let base = format!(
            "{}; CREATE VIEW v AS SELECT id, a, b FROM t;
             CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN
               INSERT {body} INTO t(id, a, b) VALUES (new.id, new.a, 9); UPDATE {body} t SET a = a + 30, b = 9; END;",
            colliding(TABLES[0], "")
        );
        let insert = format!("INSERT {or} INTO v VALUES (5, 5, 5), (6, 6, 6), (7, 5, 7)");
        exact(&base, &[&insert, "DELETE FROM log", &insert]);
    }
}

#[test]
fn a_constraint_that_replaces_leaves_the_clauses_of_bodies_alone() {
    let base = "CREATE TABLE log(id INTEGER PRIMARY KEY, what UNIQUE, n);
         CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT REPLACE, b);
         CREATE TRIGGER ad AFTER DELETE ON t BEGIN INSERT INTO log(what) VALUES ('ad' || old.id); END;
         CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO log(what, n) VALUES (new.b, new.id); END;
         CREATE TRIGGER au AFTER UPDATE ON t BEGIN INSERT OR IGNORE INTO log(what, n) VALUES (new.b, new.id); END;
         INSERT INTO t VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)";
    exact(
        base,
        &[
            "INSERT INTO t VALUES (4, 1, 7), (5, 2, 7)",
            "UPDATE t SET a = 2, b = 7 WHERE id = 4",
            "INSERT OR REPLACE INTO t VALUES (6, 2, 7)",
            "REPLACE INTO t VALUES (6, 3, 7)",
        ],
    );
}

/// What the row itself does where somebody else is in its way, or has removed it.
#[test]
fn the_row_meets_others_as_without_a_clause() {
    let base = "CREATE TABLE log(id INTEGER PRIMARY KEY, what UNIQUE, n);
         CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b CHECK (b <> a));
         CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO log(what, n) VALUES (new.b, new.id); END;
         CREATE TRIGGER au AFTER UPDATE ON t BEGIN INSERT INTO log(what, n) VALUES (new.b, new.id); END;
         INSERT INTO t VALUES (1, 1, 0)";
    for or in ["OR IGNORE", "OR REPLACE"] {
        let insert = format!("INSERT {or} INTO t VALUES (5, 5, 0)");
        let update = format!("UPDATE {or} t SET a = 5 WHERE id = 1");
        for (mine, theirs, conflicts) in [
            (&insert, "INSERT INTO t VALUES (7, 5, 7)", true),
            (&update, "INSERT INTO t VALUES (7, 5, 7)", true),
            (&update, "UPDATE t SET b = 5", true),
            // An upsert that updates, and a row that is made anew, are not what was done here: no clause is theirs.
            (&insert, "INSERT INTO t VALUES (5, 7, 8)", true),
            (&update, "DELETE FROM t", true),
            (&insert, "INSERT INTO t VALUES (5, 7, 8); DELETE FROM log", false),
            (&update, "DELETE FROM t; DELETE FROM log", false),
        ] {
            let (_replica, local) = captured(base, &[mine]);
            let theirs = format!("{base}; {theirs}");
            let direct = plain(&theirs);
            let pushed = push(&direct, &push_statements(&local, &plain(base)).unwrap());
            let pulled = rebased(&local, &theirs, 0);
            assert_eq!(pushed.is_err(), conflicts, "{mine} {theirs}");
            match (pulled, pushed) {
                (Ok(pulled), Ok(())) => {
                    assert_eq!(dump(&pulled), dump(&direct), "{mine} {theirs}");
                    let row = "SELECT count(*) FROM t WHERE a = 5";
                    assert_eq!(
                        pulled.query_row(row, [], |r| r.get::<_, i64>(0)),
                        Ok(1),
                        "{mine} {theirs}"
                    );
                }
                (Err(pull), Err((_, push))) => {
                    assert_eq!(pull.category, Category::Conflict, "{mine} {theirs}");
                    assert!(push.to_string().contains("constraint failed"), "{push}");
                }
                _ => panic!("{mine} {theirs}: a pull and a push differ"),
            }
        }
    }
}

//! Row changes in the change log: one test per rule.

mod capture_support;

use capture_support::*;
use turso_sync::capture::Step;
use turso_sync::error::Code;

const T: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b);";

fn log_of(schema: &str, sql: &str) -> Vec<String> {
    let r = Replica::new(schema);
    run(&r.open(), sql);
    r.log()
}

#[test]
fn a_failed_statement_keeps_temporary_rows_as_sqlite_does() {
    let replica = Replica::new("");
    let c = replica.open();
    run(&c, "CREATE TEMP TABLE t (x UNIQUE)");
    fails(&c, "INSERT OR FAIL INTO t VALUES (1), (2), (1)");
    fails(&c, "INSERT INTO t VALUES (3), (1)");
    assert_eq!(one(&c, "SELECT group_concat(x) FROM t"), "'1,2'");
}

#[test]
fn insert_update_delete() {
    let log = log_of(
        T,
        "INSERT INTO t VALUES (1, 'x', 2.5); UPDATE t SET a = 'y'; DELETE FROM t",
    );
    assert_eq!(
        log,
        [
            "+t#1>1,'x',2.5",
            "~t#1<1,'x',2.5>1,'y',2.5!0,1,0,NULL,'y',NULL",
            "-t#1<1,'y',2.5"
        ]
    );
}

#[test]
fn an_update_without_effect_is_logged() {
    let log = log_of(
        &format!("{T} INSERT INTO t VALUES (1, 2, 3);"),
        "UPDATE t SET a = 2",
    );
    assert_eq!(log, ["~t#1<1,2,3>1,2,3!0,0,0,NULL,NULL,NULL"]);
}

#[test]
fn delete_of_all_rows_and_insert_from_select_are_captured() {
    let schema = "CREATE TABLE t(a); CREATE TABLE u(a); INSERT INTO u VALUES (1), (2);";
    let log = log_of(schema, "INSERT INTO t SELECT * FROM u; DELETE FROM u");
    assert_eq!(log, ["+t#1>1", "+t#2>2", "-u#1<1", "-u#2<2"]);
}

#[test]
fn transfer_between_equal_tables_without_rowid() {
    let schema =
        "CREATE TABLE t(a PRIMARY KEY, b) WITHOUT ROWID; CREATE TABLE u(a PRIMARY KEY, b) WITHOUT ROWID;
                  INSERT INTO u VALUES (1, 2), (3, 4);";
    assert_eq!(
        log_of(schema, "INSERT INTO t SELECT * FROM u"),
        ["+t#0>1,2", "+t#0>3,4"]
    );
}

#[test]
fn a_changed_integer_key_is_one_update() {
    let log = log_of(
        &format!("{T} INSERT INTO t VALUES (1, 2, 3);"),
        "UPDATE t SET id = 7",
    );
    assert_eq!(log, ["~t#1<1,2,3>7,2,3!1,0,0,7,NULL,NULL"]);
}

#[test]
fn a_changed_rowid_is_delete_and_insert_where_there_is_no_key() {
    let log = log_of(
        "CREATE TABLE t(a); INSERT INTO t VALUES (5);",
        "UPDATE t SET rowid = 9",
    );
    assert_eq!(log, ["-t#1<5", "+t#9>5"]);
    // An INTEGER PRIMARY KEY DESC is an ordinary column with an index.
    let log = log_of(
        "CREATE TABLE t(a INTEGER PRIMARY KEY DESC); INSERT INTO t VALUES (5), (NULL);",
        "UPDATE t SET rowid = 9 WHERE a = 5; UPDATE t SET a = 6 WHERE a = 5; UPDATE t SET rowid = 10 WHERE a IS NULL",
    );
    assert_eq!(
        log,
        ["~t#1<5>5!0,NULL", "~t#9<5>6!1,6", "-t#2<NULL", "+t#10>NULL"]
    );
}

#[test]
fn tables_without_rowid() {
    let schema = "CREATE TABLE t(b INTEGER, k TEXT, r REAL, PRIMARY KEY (k, b)) WITHOUT ROWID;";
    let log = log_of(
        schema,
        "INSERT INTO t VALUES ('1', 'x', 2); UPDATE t SET r = '3'; UPDATE t SET k = 'y', b = '7';
         REPLACE INTO t VALUES (7, 'y', 1); DELETE FROM t",
    );
    assert_eq!(
        log,
        [
            "+t#0>1,'x',2.0",
            "~t#0<1,'x',2.0>1,'x',3.0!0,0,1,NULL,NULL,3.0",
            "~t#0<1,'x',3.0>7,'y',3.0!1,1,0,7,'y',NULL",
            "-t#0<7,'y',3.0",
            "+t#0>7,'y',1.0",
            "-t#0<7,'y',1.0"
        ]
    );
}

#[test]
fn generated_columns_are_left_out() {
    let schema =
        "CREATE TABLE t(g1 AS (a + 1) VIRTUAL, a INTEGER, g2 AS (a * 2) STORED, b, g3 AS (b) VIRTUAL);
      CREATE TABLE w(g1 AS (a + 1) VIRTUAL, a INTEGER PRIMARY KEY, g2 AS (a * 2) STORED, b) WITHOUT ROWID;";
    let log = log_of(
        schema,
        "INSERT INTO t(a, b) VALUES (1, 2); UPDATE t SET b = 3; DELETE FROM t;
         INSERT INTO w(a, b) VALUES (1, 2); UPDATE w SET b = 3, a = 4; DELETE FROM w",
    );
    assert_eq!(
        log,
        [
            "+t#1>1,2",
            "~t#1<1,2>1,3!0,1,NULL,3",
            "-t#1<1,3",
            "+w#0>1,2",
            "~w#0<1,2>4,3!1,1,4,3",
            "-w#0<4,3"
        ]
    );
}

#[test]
fn reals_stored_as_integers_are_reals() {
    let schema = "CREATE TABLE t(a REAL, b DOUBLE, c NUMERIC, d); CREATE TABLE s(a REAL, b ANY) STRICT;";
    let log = log_of(
        schema,
        "INSERT INTO t VALUES (1, '2', 3.0, 4.0); UPDATE t SET b = 5; INSERT INTO s VALUES (1, 1.0);
         ALTER TABLE t ADD COLUMN e REAL DEFAULT 3; UPDATE t SET a = 2",
    );
    assert_eq!(log[0], "+t#1>1.0,2.0,3,4.0");
    assert_eq!(
        log[1],
        "~t#1<1.0,2.0,3,4.0>1.0,5.0,3,4.0!0,1,0,0,NULL,5.0,NULL,NULL"
    );
    assert_eq!(log[2], "+s#1>1.0,1.0");
    assert!(
        log[4].starts_with("~t#1<1.0,5.0,3,4.0,3.0>2.0,5.0,3,4.0,3.0!"),
        "{}",
        log[4]
    );
}

#[test]
fn text_and_blobs_byte_for_byte() {
    let r = Replica::new("CREATE TABLE t(a);");
    run(
        &r.open(),
        "INSERT INTO t VALUES (CAST(x'61ff0062' AS TEXT)), (x''), (''), (zeroblob(3)), (9e999)",
    );
    let after: Vec<_> = r.entries().into_iter().map(|e| e.after.unwrap()).collect();
    assert_eq!(after[0], [2, 21, 0x61, 0xff, 0, 0x62]);
    assert_eq!(after[1], [2, 12]);
    assert_eq!(after[2], [2, 13]);
    assert_eq!(after[3], [2, 18, 0, 0, 0]);
    assert_eq!(after[4], [2, 7, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn triggers_are_deeper_and_foreign_key_actions_marked() {
    let schema = "CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);
      CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE); INSERT INTO c VALUES (5, 1);
      CREATE TABLE l(x); CREATE TRIGGER tc AFTER DELETE ON c BEGIN INSERT INTO l VALUES (old.id); END;";
    assert_eq!(
        log_of(schema, "PRAGMA foreign_keys = ON; DELETE FROM p"),
        ["-p#1<1", "-c#5<5,1@-1", "+l#1>5@1"]
    );
}

#[test]
fn changes_through_a_view_are_the_statements_own() {
    let schema = "CREATE TABLE t(a); CREATE TABLE l(x); CREATE VIEW v AS SELECT a FROM t;
      CREATE TRIGGER tv INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.a); END;
      CREATE TRIGGER tt AFTER INSERT ON t BEGIN INSERT INTO l VALUES (new.a); END;";
    assert_eq!(log_of(schema, "INSERT INTO v VALUES (3)"), ["+t#1>3", "+l#1>3@1"]);
}

#[test]
fn upsert_and_replace() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, 'b');";
    let log = log_of(
        schema,
        "INSERT INTO t VALUES (1, 'z') ON CONFLICT DO UPDATE SET a = 'c'; REPLACE INTO t VALUES (1, 'b')",
    );
    assert_eq!(log[0], "~t#1<1,'a'>1,'c'!0,1,NULL,'c'");
    let mut rest = log[1..].to_vec();
    rest.sort();
    assert_eq!(rest, ["+t#1>1,'b'", "-t#1<1,'c'", "-t#2<2,'b'"]);
}

#[test]
fn returning_logs_at_the_first_row_and_commits_at_the_end() {
    let r = Replica::new(T);
    let c = r.open();
    let mut s = prepare(&c, "INSERT INTO t(a) VALUES (1), (2), (3) RETURNING id");
    assert_eq!(s.step(), Ok(Step::Row));
    assert!(c.is_autocommit());
    assert_eq!(one(&c, "SELECT count(*) FROM turso_cdc"), "3");
    assert_eq!(r.log().len(), 0, "not committed yet");
    s.finalize().unwrap();
    assert_eq!(r.log().len(), 3);
    assert_eq!(one(&c, "SELECT count(*) FROM t"), "3");
}

#[test]
fn interleaved_writers_of_a_transaction_commit_together() {
    let r = Replica::new(T);
    let c = r.open();
    run(&c, "BEGIN");
    let mut first = prepare(&c, "INSERT INTO t VALUES (1, 1, 1) RETURNING id");
    let mut second = prepare(&c, "INSERT INTO t VALUES (2, 1, 1), (3, 1, 1) RETURNING id");
    assert_eq!(first.step(), Ok(Step::Row));
    assert_eq!(second.step(), Ok(Step::Row));
    assert_eq!(first.step(), Ok(Step::Done));
    run(&c, "UPDATE t SET a = 9 WHERE id = 1");
    assert!(r.log().is_empty());
    second.reset(false).unwrap();
    assert!(r.log().is_empty());
    run(&c, "COMMIT");
    assert_eq!(r.log().len(), 4);
    let ids: Vec<_> = r.entries().iter().map(|e| e.txn_id).collect();
    assert_eq!(ids, [1, 1, 1, 1]);
}

#[test]
fn a_second_writer_in_autocommit_mode_is_refused() {
    let r = Replica::new(T);
    let c = r.open();
    let mut first = prepare(&c, "INSERT INTO t VALUES (1, 1, 1) RETURNING id");
    assert_eq!(first.step(), Ok(Step::Row));
    let e = fails(&c, "COMMIT");
    assert_eq!(e.message, "cannot commit - no transaction is active");
    assert_eq!(
        fails(&c, "ROLLBACK").message,
        "cannot rollback - no transaction is active"
    );
    assert_eq!(fails(&c, "SAVEPOINT x").code, Code::Busy);
    for sql in ["BEGIN", "INSERT INTO t VALUES (2, 1, 1)", "CREATE TABLE x(a)"] {
        let e = fails(&c, sql);
        assert_eq!(e.code, Code::Misuse);
        assert!(
            e.message
                .contains("another write statement is half way in autocommit mode"),
            "{e}"
        );
    }
    assert!(c.is_autocommit());
    assert_eq!(one(&c, "SELECT count(*) FROM t"), "1");
    assert_eq!(first.step(), Ok(Step::Done));
    assert_eq!(r.log().len(), 1);
    // Readers half way are in nobody's way.
    let mut reader = prepare(&c, "SELECT * FROM t");
    assert_eq!(reader.step(), Ok(Step::Row));
    run(&c, "INSERT INTO t VALUES (2, 1, 1); BEGIN");
    let mut second = prepare(&c, "INSERT INTO t VALUES (3, 1, 1) RETURNING id");
    assert_eq!(second.step(), Ok(Step::Row));
    run(&c, "INSERT INTO t VALUES (4, 1, 1)");
    second.reset(false).unwrap();
    run(&c, "COMMIT");
    assert_eq!(r.log().len(), 4);
}

#[test]
fn transactions_and_savepoints() {
    let r = Replica::new(T);
    let c = r.open();
    run(
        &c,
        "BEGIN; INSERT INTO t VALUES (1,1,1); SAVEPOINT s; INSERT INTO t VALUES (2,1,1); ROLLBACK TO s;
             INSERT INTO t VALUES (3,1,1); COMMIT; INSERT INTO t VALUES (4,1,1); BEGIN;
             INSERT INTO t VALUES (5,1,1); ROLLBACK; SAVEPOINT s; INSERT INTO t VALUES (6,1,1); RELEASE s",
    );
    let log: Vec<_> = r
        .entries()
        .iter()
        .map(|e| (e.change_id, e.txn_id, e.rowid))
        .collect();
    assert_eq!(log, [(1, 1, 1), (3, 1, 3), (4, 4, 4), (5, 5, 6)]);
}

#[test]
fn change_ids_are_never_reused() {
    let r = Replica::new(T);
    run(&r.open(), "INSERT INTO t VALUES (1,1,1), (2,1,1)");
    r.plain()
        .execute_batch("INSERT INTO turso_sync_local VALUES ('change_floor', 40); DELETE FROM turso_cdc")
        .unwrap();
    run(&r.open(), "INSERT INTO t VALUES (3,1,1)");
    assert_eq!(r.entries()[0].change_id, 41);
}

#[test]
fn failed_statements_keep_or_drop_like_sqlite() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE); INSERT INTO t VALUES (9, 9);";
    for (conflict, kept) in [("ABORT", 0), ("FAIL", 2), ("IGNORE", 3), ("ROLLBACK", 0)] {
        for begin in ["", "BEGIN;"] {
            let r = Replica::new(schema);
            let c = r.open();
            run(&c, begin);
            let result = c.execute_batch(&format!(
                "INSERT OR {conflict} INTO t VALUES (1,1),(2,2),(3,9),(4,4)"
            ));
            assert_eq!(result.is_ok(), conflict == "IGNORE");
            assert_eq!(c.is_autocommit(), begin.is_empty() || conflict == "ROLLBACK");
            if !c.is_autocommit() {
                run(&c, "COMMIT");
            }
            assert_eq!(r.log().len(), kept, "{conflict} {begin}");
            assert_eq!(one(&c, "SELECT count(*) - 1 FROM t"), kept.to_string());
        }
    }
}

#[test]
fn failed_statements_keep_or_drop_where_columns_hide_the_rowid() {
    let schema =
        "CREATE TABLE h(rowid UNIQUE, _rowid_, oid); INSERT INTO h VALUES (9, 9, 9); CREATE TABLE t(a);";
    for (conflict, kept) in [("ABORT", 0), ("FAIL", 1), ("ROLLBACK", 0)] {
        for begin in ["", "BEGIN;"] {
            let r = Replica::new(schema);
            let c = r.open();
            run(&c, &format!("{begin} INSERT INTO t VALUES (1)"));
            for sql in [
                "INTO h VALUES (1, 1, 1), (9, 1, 1)",
                "INTO h VALUES (9, 1, 1), (1, 1, 1)",
            ] {
                let e = fails(&c, &format!("INSERT OR {conflict} {sql}"));
                assert_eq!(e.message, "UNIQUE constraint failed: h.rowid");
            }
            run(&c, "INSERT INTO t VALUES (2)");
            if !c.is_autocommit() {
                run(&c, "COMMIT");
            }
            assert_eq!(
                one(&c, "SELECT count(*) - 1 FROM h"),
                kept.to_string(),
                "{conflict} {begin}"
            );
            let log = r.log();
            let logged = log.iter().filter(|entry| entry.starts_with("+h")).count();
            assert_eq!(logged, kept, "{log:?}");
            assert_eq!(one(&c, "SELECT count(*) FROM t"), (log.len() - kept).to_string());
        }
    }
}

#[test]
fn a_failed_statement_that_cannot_be_examined_rolls_its_transaction_back() {
    let schema =
        "CREATE TABLE h(rowid UNIQUE, _rowid_, oid); INSERT INTO h VALUES (9, 9, 9); CREATE TABLE t(a);
        CREATE VIEW v AS SELECT * FROM t;";
    for (conflict, rolled_back) in [("ABORT", false), ("FAIL", true)] {
        for begin in ["", "BEGIN;"] {
            let trigger = format!(
                "CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN INSERT OR {conflict} INTO h VALUES (new.a, 1, 1); END;"
            );
            let r = Replica::new(&format!("{schema}{trigger}"));
            let c = r.open();
            run(&c, "INSERT INTO t VALUES (1)");
            run(&c, &format!("{begin} INSERT INTO t VALUES (2)"));
            let e = fails(&c, "INSERT INTO v VALUES (1), (9)");
            assert_eq!(e.code, Code::Constraint);
            assert!(e.message.contains("UNIQUE constraint failed: h.rowid"), "{e}");
            assert_eq!(e.message.contains("columns hide the rowid"), rolled_back, "{e}");
            assert_eq!(e.message.contains("rolled back"), rolled_back, "{e}");
            assert_eq!(c.is_autocommit(), rolled_back || begin.is_empty());
            let kept = if rolled_back && !begin.is_empty() { 1 } else { 2 };
            assert_eq!(one(&c, "SELECT count(*) FROM t"), kept.to_string());
            assert_eq!(one(&c, "SELECT count(*) FROM h"), "1");
            if !c.is_autocommit() {
                run(&c, "COMMIT");
            }
            assert_eq!(r.log().len(), kept);
        }
    }
}

#[test]
fn a_table_that_can_be_examined_tells_about_the_whole_statement() {
    let r = Replica::new(
        "CREATE TABLE h(rowid UNIQUE, _rowid_, oid); INSERT INTO h VALUES (9, 9, 9); CREATE TABLE t(a);
         CREATE TRIGGER ht AFTER INSERT ON h BEGIN INSERT INTO t VALUES (new.oid); END",
    );
    let e = fails(&r.open(), "INSERT OR FAIL INTO h VALUES (1, 1, 1), (9, 1, 1)");
    assert_eq!(e.message, "UNIQUE constraint failed: h.rowid");
    assert_eq!(r.log(), ["+h#2>1,1,1", "+t#1>1@1"]);
}

/// What the hook reports of such a column is not what is found in the table, and 2 looks like what was there before.
#[test]
fn statements_that_fail_are_judged_right_beside_virtual_real_columns() {
    for table in [
        "t(a UNIQUE, k REAL AS (abs(a)))",
        "t(a PRIMARY KEY, k REAL AS (abs(a))) WITHOUT ROWID",
    ] {
        let schema =
            format!("CREATE TABLE {table}; INSERT INTO t VALUES (1.0), (2), (3), ('0'), ('x'), ('y');");
        for (or, kept) in [("FAIL", true), ("ABORT", false)] {
            for from in ["a <> ''", "a > 1", "a IN (2, 'x', 'y')"] {
                let r = Replica::new(&schema);
                let c = r.open();
                run(&c, "BEGIN");
                fails(
                    &c,
                    &format!("UPDATE OR {or} t SET a = CASE WHEN a = 'y' THEN 0.0 ELSE k END WHERE {from}"),
                );
                let zero = one(&c, "SELECT count(*) FROM t WHERE a = 0 AND typeof(a) <> 'text'");
                run(&c, "COMMIT");
                assert_eq!(zero, i32::from(kept).to_string(), "{table} {or} {from}");
                let logged = r.log().iter().filter(|entry| entry.contains(">0!")).count();
                assert_eq!(logged, usize::from(kept), "{table} {or} {from} {:?}", r.log());
            }
        }
    }
}

#[test]
fn whole_numbers_from_virtual_real_columns_are_logged_as_stored() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, k REAL AS (a), d, r REAL, n NUMERIC, x TEXT);
        INSERT INTO t(id, a) VALUES (1, 2), (2, 2.5), (3, -0.0), (4, 1e15), (5, -140737488355328), (6, 140737488355327);";
    let r = Replica::new(schema);
    let c = r.open();
    run(&c, "UPDATE t SET d = k, r = k, n = k, x = k");
    let stored = rows(&c, "SELECT id, a, d, r, n, x FROM t").unwrap();
    assert_eq!(stored[0], "1,2,2,2.0,2,'2.0'");
    let after = |entry: &str| entry.split(['>', '!']).nth(1).map(str::to_owned);
    let logged: Vec<_> = r.log().iter().filter_map(|entry| after(entry)).collect();
    assert_eq!(logged, stored);

    // What is there when the statement ends may be something else.
    let trigger =
        "CREATE TRIGGER u AFTER UPDATE OF d ON t BEGIN UPDATE t SET d = 'gone' WHERE id = new.id; END";
    let r = Replica::new(&format!("{schema}{trigger}"));
    run(&r.open(), "UPDATE t SET d = k WHERE id = 1");
    assert_eq!(
        r.log(),
        [
            "~t#1<1,2,NULL,NULL,NULL,NULL>1,2,2,NULL,NULL,NULL!0,0,1,0,0,0,NULL,NULL,2,NULL,NULL,NULL",
            "~t#1<1,2,2,NULL,NULL,NULL>1,2,'gone',NULL,NULL,NULL!0,0,1,0,0,0,NULL,NULL,'gone',NULL,NULL,NULL@1"
        ]
    );

    let log = log_of(
        "CREATE TABLE w(k PRIMARY KEY, a, v REAL AS (a)) WITHOUT ROWID; INSERT INTO w VALUES (5, 7);",
        "UPDATE w SET k = v",
    );
    assert_eq!(log, ["~w#0<5,7>7,7!1,0,7,NULL"]);
}

#[test]
fn a_statement_that_fails_after_begin_undoes_only_itself() {
    let r = Replica::new(T);
    let c = r.open();
    let mut open = prepare(&c, "INSERT INTO t VALUES (1, 1, 1), (2, 1, 1) RETURNING id");
    run(&c, "BEGIN");
    assert_eq!(open.step(), Ok(Step::Row));
    run(&c, "INSERT INTO t VALUES (3, 1, 1)");
    let e = fails(&c, "INSERT INTO t VALUES (4, 1, 1), (1, 1, 1)");
    assert_eq!(e.code, Code::Constraint);
    open.reset(false).unwrap();
    run(&c, "COMMIT");
    assert_eq!(r.log(), ["+t#1>1,1,1", "+t#2>2,1,1", "+t#3>3,1,1"]);
    assert_eq!(one(&c, "SELECT group_concat(id) FROM t"), "'1,2,3'");
}

#[test]
fn failed_trigger_statements_that_touch_other_tables_only() {
    let schema = "CREATE TABLE t(a); CREATE TABLE l(x PRIMARY KEY, y) WITHOUT ROWID;
      CREATE TRIGGER tt BEFORE INSERT ON t BEGIN INSERT INTO l VALUES (new.a, 1);
        SELECT RAISE(FAIL, 'kept') WHERE new.a = 1; SELECT RAISE(ABORT, 'dropped') WHERE new.a = 2;
        SELECT RAISE(ROLLBACK, 'gone') WHERE new.a = 3; SELECT RAISE(IGNORE) WHERE new.a = 4; END;";
    let r = Replica::new(schema);
    let c = r.open();
    assert_eq!(fails(&c, "INSERT INTO t VALUES (1)").message, "kept");
    assert_eq!(fails(&c, "INSERT INTO t VALUES (2)").message, "dropped");
    assert_eq!(fails(&c, "INSERT INTO t VALUES (3)").message, "gone");
    run(&c, "INSERT INTO t VALUES (4)");
    assert_eq!(r.log(), ["+l#0>1,1", "+l#0>4,1"]);
}

#[test]
fn deferred_foreign_keys_fail_at_commit() {
    let schema = "CREATE TABLE p(id INTEGER PRIMARY KEY);
      CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED);";
    let r = Replica::new(schema);
    let c = r.open();
    run(&c, "PRAGMA foreign_keys = ON");
    assert_eq!(
        fails(&c, "INSERT INTO c VALUES (1)").message,
        "FOREIGN KEY constraint failed"
    );
    assert!(c.is_autocommit());
    run(&c, "BEGIN; INSERT INTO c VALUES (1)");
    assert_eq!(fails(&c, "COMMIT").code, Code::Constraint);
    assert!(!c.is_autocommit());
    run(&c, "INSERT INTO p VALUES (1); COMMIT");
    assert_eq!(r.log(), ["+c#1>1", "+p#1>1"]);
    let ids: Vec<_> = r.entries().iter().map(|e| e.txn_id).collect();
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn foreign_keys_that_are_deferred_beforehand_stay_so_until_the_next_transaction_ends() {
    let r = Replica::new("CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p);");
    let c = r.open();
    run(&c, "PRAGMA foreign_keys = ON; PRAGMA defer_foreign_keys = ON");
    // Reading the schema for a first statement is no transaction of the user.
    prepare(&c, "INSERT INTO c VALUES (1)");
    assert_eq!(one(&c, "PRAGMA defer_foreign_keys"), "1");
    run(
        &c,
        "BEGIN; INSERT INTO c VALUES (1); INSERT INTO p VALUES (1); COMMIT",
    );
    assert_eq!(one(&c, "PRAGMA defer_foreign_keys"), "0");
    // SQLite looks at deferred ones behind the rows that RETURNING gives.
    run(&c, "PRAGMA defer_foreign_keys = ON");
    let mut returning = prepare(&c, "INSERT INTO c VALUES (2) RETURNING p");
    assert_eq!(returning.step(), Ok(Step::Row));
    assert_eq!(returning.step().map_err(|e| e.code), Err(Code::Constraint));
    assert_eq!(one(&c, "PRAGMA defer_foreign_keys"), "0");
    assert_eq!(r.log(), ["+c#1>1", "+p#1>1"]);
}

#[test]
fn counters_show_the_users_changes_only() {
    let r = Replica::new("CREATE TABLE t(id INTEGER PRIMARY KEY, a);");
    let c = r.open();
    let mut s = prepare(&c, "INSERT INTO t VALUES (70, 1), (80, 2)");
    assert_eq!(s.execute(), Ok(2));
    assert_eq!(s.changes(), 2);
    assert_eq!(c.last_insert_rowid(), 80);
    assert_eq!(
        one(&c, "SELECT changes(), total_changes(), last_insert_rowid()"),
        "2,2,80"
    );
    run(&c, "UPDATE t SET a = 0 WHERE id = 70");
    assert_eq!(one(&c, "SELECT changes(), total_changes()"), "1,3");
    run(&c, "UPDATE t SET a = 0 WHERE id = 1");
    assert_eq!(one(&c, "SELECT changes(), total_changes()"), "0,3");
    assert_eq!(prepare(&c, "SELECT 1").execute(), Ok(0));
    assert_eq!(prepare(&c, "CREATE TABLE x AS SELECT * FROM t").execute(), Ok(0));
}

#[test]
fn temp_and_attached_tables_are_not_captured() {
    let r = Replica::new("CREATE TABLE t(a);");
    let other = r.dir.path().join("other.db").to_str().unwrap().to_owned();
    let c = r.open();
    run(
        &c,
        &format!(
            "CREATE TEMP TABLE x(a); INSERT INTO x VALUES (1); ATTACH '{other}' AS o; \
                      CREATE TABLE o.t(a); INSERT INTO o.t VALUES (1); DROP TABLE o.t; DROP TABLE temp.x"
        ),
    );
    assert!(r.log().is_empty());
}

#[test]
fn autoincrement_and_statistics_are_not_captured() {
    let log = log_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a); CREATE INDEX i ON t(a);",
        "INSERT INTO t(a) VALUES (1); ANALYZE; UPDATE sqlite_sequence SET seq = 5; ANALYZE; DELETE FROM sqlite_stat1",
    );
    assert_eq!(log, ["+t#1>1,1"]);
}

#[test]
fn outside_a_transaction_only_fail_leaves_rows_behind() {
    let r = Replica::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE s(a INT) STRICT; CREATE TABLE u(a UNIQUE);
         CREATE TABLE p(a REAL UNIQUE); CREATE TABLE c(a TEXT REFERENCES p(a) ON DELETE CASCADE);
         INSERT INTO p VALUES (1); INSERT INTO c VALUES ('1');",
    );
    let c = r.open();
    run(&c, "PRAGMA foreign_keys = 1");
    // SQLite opens no statement transaction for these: within a transaction the first row stays.
    for sql in [
        "INSERT OR IGNORE INTO t VALUES (1), ('x')",
        "INSERT INTO s VALUES (1), ('x')",
        "INSERT OR IGNORE INTO u VALUES (1), (abs(-9223372036854775808))",
        "DELETE FROM p",
    ] {
        fails(&c, sql);
        assert!(r.log().is_empty(), "{sql}");
    }
    assert_eq!(
        one(
            &c,
            "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM s), (SELECT count(*) FROM u), (SELECT count(*) FROM p)"
        ),
        "0,0,0,1"
    );
    run(&c, "BEGIN");
    fails(&c, "INSERT OR IGNORE INTO t VALUES (1), ('x')");
    run(&c, "COMMIT");
    fails(&c, "INSERT OR FAIL INTO u VALUES (1), (1)");
    assert_eq!(r.log(), ["+t#1>1", "+u#1>1"]);
    assert_eq!(one(&c, "SELECT count(*) FROM t"), "1");
}

#[test]
fn a_virtual_column_may_hide_the_rowid() {
    let r = Replica::new("CREATE TABLE t(rowid AS (a), a UNIQUE); INSERT INTO t VALUES (1), (2);");
    let c = r.open();
    let error = fails(&c, "UPDATE t SET a = 3");
    assert_eq!(error.message, "UNIQUE constraint failed: t.a");
    fails(&c, "UPDATE OR FAIL t SET a = 3");
    assert_eq!(r.log(), ["~t#1<1>3!1,3"]);
}

#[test]
fn rows_that_fail_left_are_found_by_their_own_spelling() {
    for (column, key) in [("NOCASE", "BINARY"), ("NOCASE", "NOCASE"), ("BINARY", "NOCASE")] {
        let r = Replica::new(&format!(
            "CREATE TABLE t(a TEXT COLLATE {column}, b UNIQUE, PRIMARY KEY (a COLLATE {key})) WITHOUT ROWID;
             INSERT INTO t VALUES ('A', 1);"
        ));
        let c = r.open();
        let new = if key == "BINARY" { "a" } else { "z" };
        run(&c, "BEGIN");
        fails(
            &c,
            &format!("INSERT OR FAIL INTO t VALUES ('{new}', 2), ('b', 1)"),
        );
        fails(&c, "INSERT INTO t VALUES ('x', 3), ('y', 1)");
        run(&c, "COMMIT");
        assert_eq!(r.log(), [format!("+t#0>'{new}',2")], "{column} {key}");
    }
}

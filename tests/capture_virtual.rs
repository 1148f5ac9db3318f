//! What the log has of virtual tables: their rows, not what they are stored in.

mod capture_support;

use capture_support::{Replica, fails, one, rows, run};

/// The log without schema changes.
fn log(r: &Replica) -> Vec<String> {
    r.log()
        .into_iter()
        .filter(|e| !e.contains("sqlite_schema"))
        .collect()
}

#[test]
fn full_text_rows_are_logged_once_each() {
    let r = Replica::new("CREATE VIRTUAL TABLE f USING fts5(x, y UNINDEXED);");
    let c = r.open();
    run(
        &c,
        "INSERT INTO f VALUES ('one', 1), ('two', x'00'); INSERT INTO f(rowid, x) VALUES (9, 'nine')",
    );
    run(
        &c,
        "UPDATE f SET x = 'uno' WHERE rowid = 1; UPDATE f SET rowid = 5 WHERE rowid = 2; DELETE FROM f WHERE rowid = 9",
    );
    run(
        &c,
        "INSERT OR REPLACE INTO f(rowid, x) VALUES (1, 'eins'); INSERT OR IGNORE INTO f(rowid, x) VALUES (1, 'no')",
    );
    fails(&c, "INSERT INTO f(rowid, x) VALUES (7, 'lost'), (1, 'no')");
    assert_eq!(
        log(&r),
        [
            "+f#1>'one',1",
            "+f#2>'two',x[00]",
            "+f#9>'nine',NULL",
            "~f#1<'one',1>'uno',1",
            "-f#2<'two',x[00]",
            "+f#5>'two',x[00]",
            "-f#9<'nine',NULL",
            "~f#1<'uno',1>'eins',NULL",
        ]
    );
}

#[test]
fn full_text_changes_of_a_transaction_stay_with_what_sqlite_keeps() {
    let r = Replica::new("CREATE VIRTUAL TABLE f USING fts5(x); CREATE TABLE t(a);");
    let c = r.open();
    run(
        &c,
        "BEGIN; INSERT INTO f VALUES ('kept'); INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO f VALUES ('lost');
         ROLLBACK TO s; INSERT INTO f VALUES ('more'); INSERT INTO t VALUES (2); COMMIT;
         BEGIN; INSERT INTO f VALUES ('lost'); ROLLBACK",
    );
    fails(
        &c,
        "INSERT OR FAIL INTO f(rowid, x) VALUES (3, 'three'), (1, 'no')",
    );
    assert_eq!(
        log(&r),
        ["+f#1>'kept'", "+t#1>1", "+f#2>'more'", "+t#2>2", "+f#3>'three'"]
    );
    assert_eq!(
        rows(&c, "SELECT x FROM f('kept OR more OR three OR lost')").unwrap(),
        ["'kept'", "'more'", "'three'"]
    );
    run(&c, "INSERT INTO f(f) VALUES ('integrity-check')");
}

#[test]
fn maintenance_is_not_a_change_but_rebuilding_and_settings_are() {
    let r = Replica::new("CREATE VIRTUAL TABLE f USING fts5(x); CREATE VIRTUAL TABLE o USING fts4(x);");
    let c = r.open();
    run(
        &c,
        "INSERT INTO f VALUES ('one'), ('two'); INSERT INTO o VALUES ('one')",
    );
    let before = log(&r).len();
    run(
        &c,
        "INSERT INTO f(f) VALUES ('optimize'); INSERT INTO f(f, rank) VALUES ('merge', 8);
         INSERT INTO f(f) VALUES ('integrity-check'); INSERT INTO o(o) VALUES ('optimize')",
    );
    assert_eq!(log(&r).len(), before);
    run(
        &c,
        "INSERT INTO f(f, rank) VALUES ('rank', 'bm25(10.0)'); INSERT INTO f(f) VALUES ('rebuild');
         INSERT INTO o(o) VALUES ('rebuild'); INSERT INTO f(f, rank) VALUES ('automerge', 4)",
    );
    assert_eq!(
        log(&r)[before..],
        [
            "~f#0!'rank','bm25(10.0)'",
            "~f#0!'rebuild',NULL",
            "~o#0!'rebuild',NULL",
            "~f#0!'automerge',4"
        ]
    );
}

#[test]
fn fts4_rows_with_languages_and_odd_names() {
    let r = Replica::new("");
    let c = r.open();
    run(
        &c,
        "CREATE VIRTUAL TABLE \"odd _\"\"name\" USING fts4(\"a b\", body, languageid=\"lid\", compress=hex, uncompress=unhex);
         INSERT INTO \"odd _\"\"name\"(docid, \"a b\", body, lid) VALUES (4, 'x', 'y', 2);
         UPDATE \"odd _\"\"name\" SET body = 'z'; DELETE FROM \"odd _\"\"name\";
         CREATE VIRTUAL TABLE plain USING fts3; INSERT INTO plain VALUES ('p')",
    );
    let log = log(&r);
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(log[3], "+plain#1>'p'");
    for (entry, mark) in log
        .iter()
        .zip(["+odd _\"name#4>", "~odd _\"name#4>", "-odd _\"name#4"])
    {
        assert!(entry.starts_with(mark), "{log:?}");
    }
    assert!(log[1].ends_with(",2"), "{log:?}");
}

#[test]
fn rows_of_an_rtree_that_only_move_are_not_changes() {
    let r = Replica::new("CREATE VIRTUAL TABLE b USING rtree(id, x0, x1, y0, y1, +note, +more);");
    let c = r.open();
    for i in 0..400 {
        run(
            &c,
            &format!(
                "INSERT INTO b VALUES ({i}, {i}, {0}, {1}, {1}, 'n{i}', NULL)",
                i + 1,
                i % 7
            ),
        );
    }
    let entries = log(&r);
    assert_eq!(entries.len(), 400);
    assert_eq!(entries[399], "+b#399>399,399.0,400.0,0.0,0.0,'n399',NULL");
    run(
        &c,
        "UPDATE b SET x1 = x1 + 1 WHERE id = 7; UPDATE b SET more = 'm' WHERE id = 8; UPDATE b SET id = 1000 WHERE id = 9",
    );
    run(
        &c,
        "UPDATE b SET note = note WHERE id = 10; INSERT OR REPLACE INTO b VALUES (11, 0, 0.1, 0, 0, NULL, NULL)",
    );
    run(&c, "DELETE FROM b WHERE id BETWEEN 20 AND 379");
    let entries = log(&r);
    assert_eq!(
        entries[400..405],
        [
            "~b#7>7,7.0,9.0,0.0,0.0,'n7',NULL",
            "~b#8>8,8.0,9.0,1.0,1.0,'n8','m'",
            "-b#9",
            "+b#1000>1000,9.0,10.0,2.0,2.0,'n9',NULL",
            "~b#11>11,0.0,0.10000000149011612,0.0,0.0,NULL,NULL",
        ]
    );
    assert_eq!(entries.len(), 405 + 360);
    assert!(entries[405..].iter().all(|e| e.starts_with("-b#")), "{entries:?}");
    assert_eq!(one(&c, "SELECT rtreecheck('b')"), "'ok'");
}

#[test]
fn an_rtree_without_auxiliary_columns() {
    let r = Replica::new("CREATE VIRTUAL TABLE b USING rtree_i32(rowid, x0, x1);");
    let c = r.open();
    run(
        &c,
        "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO b SELECT i, i, i FROM n;
         UPDATE b SET x1 = x1 + 1 WHERE x0 = 150; INSERT INTO b VALUES (NULL, 0, 0)",
    );
    let entries = log(&r);
    assert_eq!(entries.len(), 302);
    assert_eq!(entries[300..], ["~b#150>150,150,151", "+b#301>301,0,0"]);
}

const NOTES: &str = "CREATE TABLE d(id INTEGER PRIMARY KEY, x);
    CREATE VIRTUAL TABLE f USING fts5(x, content = d, content_rowid = id);
    CREATE TRIGGER d1 AFTER INSERT ON d BEGIN INSERT INTO f(rowid, x) VALUES (new.id, new.x); END;
    CREATE TRIGGER d2 AFTER DELETE ON d BEGIN INSERT INTO f(f, rowid, x) VALUES ('delete', old.id, old.x); END;
    CREATE TRIGGER d3 AFTER UPDATE ON d BEGIN INSERT INTO f(f, rowid, x) VALUES ('delete', old.id, old.x);
      INSERT INTO f(rowid, x) VALUES (new.id, new.x); END;
    CREATE VIRTUAL TABLE own USING fts5(x); CREATE VIRTUAL TABLE nowhere USING fts5(x, content = '', columnsize = 0);
    CREATE TRIGGER d4 AFTER INSERT ON d BEGIN INSERT INTO own(rowid, x) VALUES (new.id, new.x);
      INSERT INTO nowhere(rowid, x) VALUES (new.id, new.x); END;";

#[test]
fn what_triggers_do_is_left_to_the_triggers_of_the_other_side() {
    let r = Replica::new(NOTES);
    let c = r.open();
    run(
        &c,
        "INSERT INTO d VALUES (1, 'one'), (2, 'two'); UPDATE d SET x = 'uno' WHERE id = 1; DELETE FROM d WHERE id = 2;
         BEGIN; INSERT INTO d VALUES (3, 'three'); INSERT INTO own VALUES ('direct'); SAVEPOINT s; COMMIT",
    );
    let log = log(&r);
    assert_eq!(
        log,
        [
            "+d#1>1,'one'",
            "+d#2>2,'two'",
            "~d#1<1,'one'>1,'uno'!0,1,NULL,'uno'",
            "-d#2<2,'two'",
            "+d#3>3,'three'",
            "+own#4>'direct'"
        ]
    );
}

#[test]
fn changes_that_no_trigger_redoes_are_the_statements_own() {
    let r = Replica::new(&format!(
        "{NOTES} CREATE TABLE a(x); CREATE VIEW v AS SELECT 1 AS x;
         CREATE TRIGGER v1 INSTEAD OF INSERT ON v BEGIN INSERT INTO a VALUES (new.x); INSERT INTO own(rowid, x) VALUES (50, new.x); END;
         CREATE VIEW w AS SELECT 1 AS x;
         CREATE TRIGGER w1 INSTEAD OF INSERT ON w BEGIN INSERT INTO d(x) VALUES (new.x); END;
         CREATE TABLE i(x); CREATE TRIGGER i1 BEFORE INSERT ON i
           BEGIN INSERT INTO own(rowid, x) VALUES (77, new.x); SELECT RAISE(IGNORE); END;"
    ));
    let c = r.open();
    run(&c, "INSERT INTO v VALUES ('by view')");
    run(&c, "INSERT INTO i VALUES ('only the index')");
    run(&c, "INSERT INTO w VALUES ('deeper')");
    assert_eq!(
        log(&r),
        [
            "+a#1>'by view'",
            "+own#50>'by view'",
            "+own#77>'only the index'",
            "+d#1>1,'deeper'"
        ]
    );
}

#[test]
fn a_direct_write_of_an_index_on_other_content_is_a_rebuild() {
    let r = Replica::new(
        "CREATE TABLE d(x); CREATE VIRTUAL TABLE f USING fts5(x, content = d);
         CREATE TABLE e(x); CREATE VIRTUAL TABLE g USING fts4(content=e, x);",
    );
    let c = r.open();
    run(
        &c,
        "INSERT INTO d VALUES ('a'), ('b'); INSERT INTO f(rowid, x) SELECT rowid, x FROM d",
    );
    run(
        &c,
        "INSERT INTO f(f, rowid, x) VALUES ('delete', 1, 'a'); INSERT INTO f(f) VALUES ('optimize')",
    );
    run(
        &c,
        "INSERT INTO f(f) VALUES ('rebuild'); INSERT INTO f(f) VALUES ('delete-all')",
    );
    run(
        &c,
        "INSERT INTO e VALUES ('a'); INSERT INTO g(g) VALUES ('rebuild')",
    );
    assert_eq!(
        log(&r)[2..],
        [
            "~f#0!'rebuild',NULL",
            "~f#0!'rebuild',NULL",
            "~f#0!'rebuild',NULL",
            "~f#0!'delete-all',NULL",
            "+e#1>'a'",
            "~g#0!'rebuild',NULL",
        ]
    );
}

#[test]
fn what_could_not_be_sent_is_refused() {
    let r = Replica::new(&format!(
        "{NOTES} CREATE VIRTUAL TABLE old USING fts4(x, content=\"\"); CREATE VIRTUAL TABLE f2 USING fts5(x, content = d, columnsize=0);
         CREATE VIRTUAL TABLE loc USING fts5(x, locale = 1); CREATE VIRTUAL TABLE cd USING fts5(x, content='', contentless_delete=1);
         CREATE VIRTUAL TABLE b USING rtree(id, x0, x1);"
    ));
    let c = r.open();
    for sql in [
        "INSERT INTO nowhere(rowid, x) VALUES (1, 'a')",
        "INSERT INTO old(docid, x) VALUES (1, 'a')",
        "INSERT INTO f2(rowid, x) VALUES (1, 'a')",
        "INSERT INTO loc VALUES ('a')",
        "DELETE FROM cd",
        "UPDATE cd SET x = 'b'",
    ] {
        let e = fails(&c, sql);
        assert!(e.message.contains("cannot be written directly"), "{sql}: {e}");
    }
    for sql in [
        "DELETE FROM own_content",
        "UPDATE b_node SET data = NULL",
        "INSERT INTO own_config VALUES (1, 2)",
    ] {
        let e = fails(&c, sql);
        assert!(e.message.contains("is stored in; change"), "{sql}: {e}");
    }
    // The first use of an R*Tree prepares writes of its storage.
    let d = r.open();
    run(&d, "CREATE TEMP TABLE t(x); INSERT INTO t SELECT id FROM b");
    // Nothing is read before the transaction begins, so this shows only when it has.
    for table in ["cd", "nowhere"] {
        run(&c, "BEGIN");
        let e = fails(&c, &format!("INSERT INTO {table}(rowid, x) VALUES (1, 'a')"));
        assert!(e.message.contains("cannot be written directly"), "{e}");
        assert!(c.is_autocommit());
    }
    assert_eq!(log(&r), Vec::<String>::new());
}

#[test]
fn tables_created_and_filled_in_one_transaction() {
    let r = Replica::new("CREATE TABLE t(a);");
    let (one, two) = (r.open(), r.open());
    run(&one, "INSERT INTO t VALUES (1)");
    run(
        &two,
        "BEGIN; CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('a'); CREATE VIRTUAL TABLE b USING rtree(id, x0, x1);
         INSERT INTO b VALUES (1, 2, 3); ALTER TABLE f RENAME TO g; INSERT INTO g VALUES ('b'); DROP TABLE b; COMMIT",
    );
    run(&one, "INSERT INTO g VALUES ('c')");
    assert_eq!(
        log(&r),
        ["+t#1>1", "+f#1>'a'", "+b#1>1,2.0,3.0", "+g#2>'b'", "+g#3>'c'"]
    );
    assert_eq!(r.log().len(), 9);
}

#[test]
fn the_first_use_of_a_module_leaves_the_change_counter_alone() {
    let r = Replica::new("CREATE TABLE t(a); CREATE VIRTUAL TABLE b USING rtree(id, x0, x1);");
    let c = r.open();
    run(&c, "INSERT INTO t VALUES (1), (2), (3)");
    assert_eq!(one(&c, "SELECT count(*) FROM b"), "0");
    assert_eq!(one(&c, "SELECT changes()"), "3");
    run(&c, "INSERT INTO b VALUES (1, 2, 3), (2, 3, 4)");
    assert_eq!(one(&c, "SELECT changes()"), "2");
}

/// Before a commit the library makes full-text tables write what they keep in memory; FTS4 does it by an INSERT into itself.
#[test]
fn writing_out_an_index_leaves_counters_and_the_last_rowid_alone() {
    let r = Replica::new("CREATE VIRTUAL TABLE f USING fts4(x); CREATE VIRTUAL TABLE g USING fts5(x);");
    let c = r.open();
    let seen = |expected: &str| {
        assert_eq!(one(&c, "SELECT changes(), last_insert_rowid()"), expected);
        let last = expected.split(',').next_back().unwrap();
        assert_eq!(c.last_insert_rowid().to_string(), last);
    };
    for table in ["f", "g"] {
        run(
            &c,
            &format!("INSERT INTO {table}(rowid, x) VALUES (6, 'a'), (7, 'b')"),
        );
        seen("2,7");
        run(&c, &format!("BEGIN; INSERT INTO {table} VALUES ('c'); COMMIT"));
        seen("1,8");
        run(
            &c,
            &format!("SAVEPOINT s; INSERT INTO {table} VALUES ('d'); RELEASE s"),
        );
        seen("1,9");
        run(&c, &format!("UPDATE {table} SET x = 'e'"));
        assert_eq!(one(&c, "SELECT changes()"), "4");
    }
}

/// SQLite (3.53) cannot commit this. The transaction is over, as there.
#[test]
fn a_commit_that_a_virtual_table_refuses_rolls_back() {
    for module in ["fts4", "fts5"] {
        let r = Replica::new("CREATE TABLE t(a);");
        let c = r.open();
        run(
            &c,
            &format!(
                "BEGIN; SAVEPOINT s; CREATE VIRTUAL TABLE h USING {module}(a); INSERT INTO h VALUES ('x'); ROLLBACK TO s;
                 INSERT INTO t VALUES (1)"
            ),
        );
        fails(&c, "COMMIT");
        assert!(c.is_autocommit());
        run(&c, "BEGIN; INSERT INTO t VALUES (2); COMMIT");
        assert_eq!(r.log(), ["+t#1>2"]);
    }
}

#[test]
fn a_select_that_writes_is_refused() {
    let r = Replica::new("CREATE VIRTUAL TABLE f USING fts4(x);");
    let c = r.open();
    run(&c, "INSERT INTO f VALUES ('a'); INSERT INTO f VALUES ('b')");
    let e = fails(&c, "SELECT optimize(f) FROM f LIMIT 1");
    assert!(e.message.contains("VALUES ('optimize')"), "{e}");
    run(&c, "INSERT INTO f(f) VALUES ('optimize')");
    assert!(c.is_autocommit());
}

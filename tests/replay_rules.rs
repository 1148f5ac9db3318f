//! Every rule of replay, one test each.

mod replay_capture;

use replay_capture::*;
use rusqlite::Connection;
use turso_sync::capture::log::read_entries;
use turso_sync::error::{Category, Code, Error};
use turso_sync::replay::{Progress, Purpose, PushGenerator, Transactions, rebase};

/// What pull and push make of local changes over a base that others have changed.
struct Outcome {
    /// The replica after the pull.
    pulled: Connection,
    /// The remote after a push that came before the pull, or what failed.
    direct: Result<Connection, (turso_sync::replay::ReplayStatement, Error)>,
    /// The remote after pull and push.
    remote: Connection,
}

/// Runs `local` (transactions) on a copy of `base`, `others` on the remote, and syncs. Checks what always holds:
/// a push after a pull leaves the remote as the pull predicted, and so does a push without one unless a guard stops it.
fn sync(base: &str, local: &[&[&str]], others: &str) -> Outcome {
    let mut replica = Replica::new(base, 1);
    for txn in local {
        replica.txn(txn);
    }
    let theirs = format!("{base};{others}");
    let pulled = rebased(&replica.conn, &theirs, 0).unwrap();
    let remote = plain(&theirs);
    push(&remote, &push_statements(&pulled, &remote).unwrap()).unwrap();
    assert_eq!(
        dump(&pulled),
        dump(&remote),
        "a push did not do what the pull predicted"
    );
    let direct = plain(&theirs);
    let direct = push(&direct, &push_statements(&replica.conn, &plain(base)).unwrap()).map(|()| direct);
    match &direct {
        Ok(direct) => assert_eq!(
            dump(&pulled),
            dump(direct),
            "a push before the pull did something else"
        ),
        Err((statement, e)) => assert_eq!(statement.purpose, Purpose::Guard, "{e}"),
    }
    if others.is_empty() {
        assert_eq!(dump(&replica.conn), dump(&remote), "remote differs from local");
    }
    Outcome {
        pulled,
        direct,
        remote,
    }
}

/// The error of the pull, which is that of a push before the pull too.
fn clash(base: &str, local: &[&[&str]], others: &str) -> Error {
    let mut replica = Replica::new(base, 1);
    for txn in local {
        replica.txn(txn);
    }
    let theirs = format!("{base};{others}");
    let error = rebased(&replica.conn, &theirs, 0).unwrap_err();
    let remote = plain(&theirs);
    let before = dump(&remote);
    push(&remote, &push_statements(&replica.conn, &plain(base)).unwrap()).unwrap_err();
    assert_eq!(dump(&remote), before, "a failed push left something behind");
    error
}

fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    let mut s = conn.prepare(sql).unwrap();
    let n = s.column_count();
    s.query_map([], |r| {
        let value = |i| match r.get_ref(i).unwrap() {
            rusqlite::types::ValueRef::Null => "NULL".to_owned(),
            rusqlite::types::ValueRef::Integer(i) => i.to_string(),
            rusqlite::types::ValueRef::Real(r) => format!("{r:?}"),
            rusqlite::types::ValueRef::Text(t) => String::from_utf8_lossy(t).into_owned(),
            rusqlite::types::ValueRef::Blob(b) => format!("{b:?}"),
        };
        Ok((0..n).map(value).collect::<Vec<_>>().join(","))
    })
    .unwrap()
    .map(|r| r.unwrap())
    .collect()
}

const KEYED: &str =
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2')";
const KEYLESS: &str = "CREATE TABLE t (a, b); INSERT INTO t VALUES ('a1', 'b1'), ('a2', 'b2')";

#[test]
fn inserts_updates_and_deletes_of_keyed_rows_arrive() {
    sync(
        KEYED,
        &[
            &[
                "INSERT INTO t VALUES (3, 'x', NULL)",
                "UPDATE t SET a = 'y' WHERE id = 1",
            ],
            &["DELETE FROM t WHERE id = 2"],
        ],
        "",
    );
}

#[test]
fn the_last_push_wins_for_the_same_key() {
    let o = sync(
        KEYED,
        &[&["INSERT INTO t VALUES (3, 'mine', 1)"]],
        "INSERT INTO t VALUES (3, 'theirs', 2)",
    );
    assert_eq!(rows(&o.remote, "SELECT * FROM t WHERE id = 3"), ["3,mine,1"]);
    assert!(o.direct.is_ok());
}

#[test]
fn an_insert_into_a_table_that_is_only_key_leaves_an_equal_row_alone() {
    let o = sync(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE u (k PRIMARY KEY) WITHOUT ROWID",
        &[&["INSERT INTO t VALUES (1)", "INSERT INTO u VALUES ('k')"]],
        "INSERT INTO t VALUES (1); INSERT INTO u VALUES ('k')",
    );
    assert_eq!(rows(&o.remote, "SELECT id, k FROM t, u"), ["1,k"]);
}

#[test]
fn updates_of_different_columns_merge() {
    let o = sync(
        KEYED,
        &[&["UPDATE t SET a = 'mine' WHERE id = 1"]],
        "UPDATE t SET b = 'theirs' WHERE id = 1",
    );
    assert_eq!(rows(&o.remote, "SELECT * FROM t WHERE id = 1"), ["1,mine,theirs"]);
}

#[test]
fn an_update_recreates_a_row_that_was_deleted_elsewhere() {
    let o = sync(
        KEYED,
        &[&["UPDATE t SET a = 'mine' WHERE id = 1"]],
        "DELETE FROM t WHERE id = 1",
    );
    assert_eq!(rows(&o.remote, "SELECT * FROM t WHERE id = 1"), ["1,mine,b1"]);
}

#[test]
fn an_update_trigger_that_deletes_the_row_is_not_undone() {
    let base = format!(
        "{KEYED}; CREATE TRIGGER done AFTER UPDATE ON t WHEN new.a = 'done' BEGIN DELETE FROM t WHERE id = new.id; END"
    );
    let o = sync(&base, &[&["UPDATE t SET a = 'done' WHERE id = 1"]], "");
    assert_eq!(rows(&o.remote, "SELECT id FROM t"), ["2"]);
}

#[test]
fn deleting_a_row_that_is_gone_is_fine() {
    sync(
        KEYED,
        &[&["DELETE FROM t WHERE id = 1"]],
        "DELETE FROM t WHERE id = 1",
    );
}

#[test]
fn keys_move_and_swap() {
    sync(
        KEYED,
        &[
            &["UPDATE t SET id = id + 10"],
            &[
                "UPDATE t SET id = -1 WHERE id = 11",
                "UPDATE t SET id = 11 WHERE id = 12",
                "UPDATE t SET id = 12 WHERE id = -1",
            ],
        ],
        "",
    );
    let o = sync(
        KEYED,
        &[&["UPDATE t SET id = 7, a = 'm' WHERE id = 1"]],
        "UPDATE t SET b = 'theirs' WHERE id = 1",
    );
    assert_eq!(rows(&o.remote, "SELECT * FROM t WHERE id = 7"), ["7,m,theirs"]);
}

#[test]
fn a_moved_key_whose_old_row_is_gone_merges_into_the_row_at_the_new_key() {
    let o = sync(
        KEYED,
        &[&["UPDATE t SET id = 7, a = 'm' WHERE id = 1"]],
        "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (7, 'x', 'theirs')",
    );
    assert_eq!(rows(&o.remote, "SELECT * FROM t WHERE id = 7"), ["7,m,theirs"]);
    let o = sync(
        KEYED,
        &[&["UPDATE t SET id = 7 WHERE id = 1"]],
        "DELETE FROM t WHERE id = 1",
    );
    assert_eq!(rows(&o.remote, "SELECT * FROM t WHERE id = 7"), ["7,a1,b1"]);
}

#[test]
fn composite_keys_in_declared_order_without_rowid() {
    let base = "CREATE TABLE t (x, b, a TEXT COLLATE NOCASE, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO t VALUES (1, 2, 'k'), (3, 4, 'k')";
    let o = sync(
        base,
        &[&[
            "UPDATE t SET x = 9 WHERE b = 2",
            "INSERT INTO t VALUES (5, 6, 'new')",
            "UPDATE t SET a = 'K' WHERE b = 4",
        ]],
        "UPDATE t SET b = 7 WHERE b = 2",
    );
    assert_eq!(
        rows(&o.remote, "SELECT a, b, x FROM t ORDER BY a, b"),
        ["k,2,9", "K,4,3", "k,7,1", "new,6,5"]
    );
}

#[test]
fn rows_whose_key_has_nulls_are_told_apart() {
    let base = "CREATE TABLE t (k TEXT PRIMARY KEY, v); INSERT INTO t VALUES (NULL, 1), (NULL, 2), ('x', 3), (NULL, 1)";
    sync(
        base,
        &[
            &[
                "DELETE FROM t WHERE rowid = 1",
                "UPDATE t SET v = 'n' WHERE v = 2",
                "INSERT INTO t VALUES (NULL, 7)",
            ],
            &["UPDATE t SET k = NULL WHERE k = 'x'"],
            &[
                "UPDATE t SET v = 33 WHERE v = 3",
                "UPDATE t SET k = 'y' WHERE v = 7",
            ],
        ],
        "",
    );
    let o = sync(
        base,
        &[&["UPDATE t SET v = 9 WHERE rowid = 1"]],
        "INSERT INTO t VALUES (NULL, 4)",
    );
    assert_eq!(
        rows(&o.remote, "SELECT k, v FROM t ORDER BY v"),
        ["NULL,1", "NULL,2", "x,3", "NULL,4", "NULL,9"]
    );
}

#[test]
fn keyless_rows_never_overwrite_each_other() {
    let o = sync(
        KEYLESS,
        &[
            &["INSERT INTO t VALUES ('m1', 1), ('m2', 2)"],
            &["UPDATE t SET b = 'later' WHERE a = 'm1'"],
            &["DELETE FROM t WHERE a = 'm2'"],
        ],
        "INSERT INTO t VALUES ('o1', 1), ('o2', 2)",
    );
    assert_eq!(
        rows(&o.remote, "SELECT rowid, a, b FROM t"),
        ["1,a1,b1", "2,a2,b2", "3,o1,1", "4,o2,2", "5,m1,later"]
    );
    let (statement, e) = o.direct.unwrap_err();
    assert_eq!(statement.purpose, Purpose::Guard);
    assert!(e.message.contains("overflow"), "{e}");
    let log = read_entries(&o.pulled, 0, 100).unwrap();
    assert_eq!(
        log.iter().map(|e| e.rowid).collect::<Vec<_>>(),
        [5, 6, 5, 6],
        "the new log has the new rowids"
    );
}

#[test]
fn a_keyless_row_changed_elsewhere_is_not_touched() {
    let o = sync(
        KEYLESS,
        &[
            &["UPDATE t SET b = 'mine' WHERE a = 'a1'"],
            &["UPDATE t SET b = 'again' WHERE a = 'a1'"],
            &["DELETE FROM t WHERE a = 'a2'"],
        ],
        "UPDATE t SET b = 'theirs'",
    );
    assert_eq!(
        rows(&o.remote, "SELECT a, b FROM t"),
        ["a1,theirs", "a2,theirs", "a1,again"]
    );
}

#[test]
fn a_keyless_row_deleted_elsewhere_comes_back_with_an_update_only() {
    let o = sync(
        KEYLESS,
        &[
            &["UPDATE t SET b = 'mine' WHERE a = 'a1'"],
            &["DELETE FROM t WHERE a = 'a2'"],
        ],
        "DELETE FROM t",
    );
    assert_eq!(rows(&o.remote, "SELECT a, b FROM t"), ["a1,mine"]);
}

#[test]
fn a_reassigned_row_is_not_mistaken_for_an_equal_one() {
    let base = "CREATE TABLE t (a); INSERT INTO t(rowid, a) VALUES (1, 'x'), (7, 'same')";
    let o = sync(
        base,
        &[
            &["INSERT INTO t(rowid, a) VALUES (3, 'same')"],
            &["UPDATE t SET a = 'new' WHERE rowid = 7"],
        ],
        "INSERT INTO t(rowid, a) VALUES (3, 'o'), (6, 'o'); DELETE FROM t WHERE rowid = 7",
    );
    assert_eq!(
        rows(&o.remote, "SELECT a FROM t ORDER BY a"),
        ["new", "o", "o", "same", "x"]
    );
}

#[test]
fn hidden_rowid_names_are_avoided() {
    let base = "CREATE TABLE t (rowid TEXT, a); INSERT INTO t VALUES ('r', 1); CREATE TABLE u (rowid, oid, a); CREATE TABLE w (rowid, _rowid_, oid); INSERT INTO w VALUES (1, 2, 3), (4, 5, 6)";
    sync(
        base,
        &[
            &[
                "INSERT INTO t VALUES ('s', 2)",
                "UPDATE t SET a = 5 WHERE a = 1",
                "INSERT INTO u VALUES (1, 2, 3)",
                "UPDATE u SET a = 4",
            ],
            &[
                "UPDATE w SET oid = 'x' WHERE oid = 3",
                "DELETE FROM w WHERE oid = 6",
                "INSERT INTO w VALUES (7, 8, 9)",
            ],
        ],
        "",
    );
}

#[test]
fn equal_rows_without_any_name_are_a_conflict_not_a_guess() {
    let base = "CREATE TABLE w (rowid, _rowid_, oid); INSERT INTO w VALUES (1, 1, 1)";
    let e = clash(base, &[&["DELETE FROM w"]], "INSERT INTO w VALUES (1, 1, 1)");
    assert_eq!((e.category, e.code), (Category::Conflict, Code::Constraint));
}

#[test]
fn a_full_rowid_range_finds_a_gap() {
    let base = "CREATE TABLE t (a); INSERT INTO t(rowid, a) VALUES (9223372036854775807, 'top')";
    let o = sync(
        base,
        &[&["INSERT INTO t(rowid, a) VALUES (5, 'mine')"]],
        "INSERT INTO t(rowid, a) VALUES (5, 'theirs')",
    );
    assert_eq!(
        rows(&o.remote, "SELECT a FROM t ORDER BY rowid"),
        ["theirs", "mine", "top"]
    );
}

#[test]
fn names_that_need_quotes() {
    let base = "CREATE TABLE \"se\"\"lect ä\" (\"order\" INTEGER PRIMARY KEY, \"a\"\"b\", \"Größe\", [group]); CREATE TABLE \"Where\" (\"from\")";
    sync(
        base,
        &[&[
            "INSERT INTO \"se\"\"lect ä\" VALUES (1, 2, 3, 4)",
            "UPDATE \"se\"\"lect ä\" SET \"a\"\"b\" = 'x', \"group\" = 1",
            "INSERT INTO \"where\" VALUES (1)",
            "UPDATE \"WHERE\" SET \"from\" = 2",
            "DELETE FROM \"where\"",
        ]],
        "",
    );
}

#[test]
fn generated_columns_stay_out() {
    let base = "CREATE TABLE t (g1 AS (a + 1), id INTEGER PRIMARY KEY, g2 AS (a * 2) STORED, a INT, b)";
    sync(
        base,
        &[&[
            "INSERT INTO t(id, a, b) VALUES (1, 5, 'x')",
            "UPDATE t SET a = 6",
            "UPDATE t SET b = 'y'",
        ]],
        "",
    );
}

#[test]
fn strict_tables_and_all_values_bit_for_bit() {
    let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE s (k ANY PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT, WITHOUT ROWID; CREATE TABLE n (v)";
    let values = [
        "9e999",
        "-9e999",
        "-0.0",
        "1e-310",
        "9223372036854775807",
        "-9223372036854775808",
        "x''",
        "''",
        "x'00ff'",
        "CAST(x'ff00fe' AS TEXT)",
        "'a' || char(0) || 'b'",
        "'ä\u{10ffff}'",
        "1.0",
        "'1'",
        "NULL",
    ];
    let mut sql: Vec<String> = Vec::new();
    for (i, v) in values.iter().enumerate() {
        sql.push(format!("INSERT INTO t VALUES ({i}, {v})"));
        sql.push(format!("INSERT INTO t VALUES ({i} + 100, 0)"));
        sql.push(format!("UPDATE t SET v = {v} WHERE id = {i} + 100"));
        sql.push(format!("INSERT INTO n VALUES ({v})"));
        sql.push(format!("UPDATE n SET v = {i} WHERE v IS {v}"));
        sql.push(format!("UPDATE n SET v = {v} WHERE v IS {i}"));
        if *v != "NULL" {
            sql.push(format!("INSERT INTO s VALUES ({v}, {i}, 1, 'x', x'01', {v})"));
            sql.push(format!("UPDATE s SET i = -1, a = 1 WHERE k IS {v}"));
        }
    }
    sql.push("DELETE FROM s WHERE typeof(k) = 'real'".into());
    sql.push("DELETE FROM n WHERE typeof(v) = 'text'".into());
    let sql: Vec<&str> = sql.iter().map(String::as_str).collect();
    sync(base, &[&sql], "");
    for one in &sql {
        assert!(plain(base).execute_batch(one).is_ok(), "{one}");
    }
}

#[test]
fn triggers_of_the_other_side_redo_their_part_once() {
    let base = format!("{KEYED}; CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, what); CREATE TABLE n (id INTEGER PRIMARY KEY, n); INSERT INTO n VALUES (1, 0);
      CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES ('i' || new.id); UPDATE n SET n = n + 1; END;
      CREATE TRIGGER td BEFORE DELETE ON t BEGIN INSERT INTO log(what) VALUES ('d' || old.id); END");
    let o = sync(
        &base,
        &[
            &["INSERT INTO t VALUES (3, 1, 1)"],
            &["DELETE FROM t WHERE id = 1"],
        ],
        "INSERT INTO t VALUES (4, 2, 2)",
    );
    assert_eq!(rows(&o.remote, "SELECT n FROM n"), ["2"]);
    assert_eq!(rows(&o.remote, "SELECT what FROM log"), ["i4", "i3", "d1"]);
    assert!(
        read_entries(&o.pulled, 0, 100)
            .unwrap()
            .iter()
            .all(|e| e.depth == 0)
    );
}

#[test]
fn an_update_that_changes_nothing_matters_only_to_triggers() {
    let o = sync(KEYED, &[&["UPDATE t SET a = a"]], "DELETE FROM t");
    assert_eq!(rows(&o.remote, "SELECT * FROM t"), [""; 0]);
    let base = format!(
        "{KEYED}; CREATE TABLE n (n); INSERT INTO n VALUES (0); CREATE TRIGGER tu AFTER UPDATE ON t BEGIN UPDATE n SET n = n + 1; END"
    );
    let o = sync(&base, &[&["UPDATE t SET id = id"]], "");
    assert_eq!(rows(&o.remote, "SELECT n FROM n"), ["2"]);
}

#[test]
fn another_unique_column_that_collides_is_a_conflict() {
    let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, mail UNIQUE, secret)";
    let e = clash(
        base,
        &[&["INSERT INTO t VALUES (1, 'm@x', 'hidden')"]],
        "INSERT INTO t VALUES (2, 'm@x', 0)",
    );
    assert_eq!((e.category, e.code), (Category::Conflict, Code::Constraint));
    assert_eq!(
        e.message,
        "transaction 1, change 1, table t, key (id): UNIQUE constraint failed: t.mail"
    );
    let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, mail UNIQUE ON CONFLICT REPLACE, n NOT NULL ON CONFLICT IGNORE)";
    let e = clash(
        base,
        &[&["INSERT INTO t VALUES (1, 'm@x', 1)"]],
        "INSERT INTO t VALUES (2, 'm@x', 0)",
    );
    assert_eq!(e.category, Category::Conflict);
}

#[test]
fn checks_and_unique_indexes_of_others_are_conflicts() {
    let e = clash(
        KEYED,
        &[&["INSERT INTO t VALUES (3, 'a1', 1)"]],
        "CREATE UNIQUE INDEX ua ON t(a)",
    );
    assert!(e.message.contains("UNIQUE constraint failed: t.a"), "{e}");
    assert_eq!(e.category, Category::Conflict);
}

#[test]
fn all_ddl_arrives_in_order_with_the_data() {
    sync(
        KEYED,
        &[
            &[
                "CREATE TABLE u (id INTEGER PRIMARY KEY AUTOINCREMENT, x)",
                "INSERT INTO u(x) VALUES (1), (2)",
            ],
            &[
                "CREATE INDEX ux ON u(x)",
                "CREATE UNIQUE INDEX \"u q\" ON t(a) WHERE a IS NOT NULL",
            ],
            &[
                "ALTER TABLE t ADD COLUMN c DEFAULT 'dc'",
                "INSERT INTO t VALUES (3, 4, 5, 6)",
            ],
            &[
                "ALTER TABLE t RENAME COLUMN a TO alpha",
                "UPDATE t SET alpha = 'renamed' WHERE id = 3",
            ],
            &[
                "CREATE VIEW v AS SELECT alpha FROM t",
                "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO u(x) VALUES (new.id); END",
            ],
            &["INSERT INTO t(id) VALUES (10)"],
            &[
                "ALTER TABLE t RENAME TO \"new t\"",
                "INSERT INTO \"new t\"(id) VALUES (11)",
            ],
            &[
                "ALTER TABLE \"new t\" DROP COLUMN b",
                "UPDATE \"new t\" SET c = 7 WHERE id = 10",
            ],
            &["ALTER TABLE \"new t\" ADD COLUMN b", "UPDATE \"new t\" SET b = 8"],
            &[
                "DROP VIEW v",
                "DROP INDEX ux",
                "DROP TRIGGER tr",
                "INSERT INTO \"new t\"(id) VALUES (12)",
            ],
            &[
                "DROP TABLE u",
                "CREATE TABLE u (other TEXT PRIMARY KEY) WITHOUT ROWID",
                "INSERT INTO u VALUES ('k')",
            ],
        ],
        "",
    );
}

#[test]
fn a_column_added_by_both_is_added_once() {
    let theirs =
        format!("{KEYED}; ALTER TABLE t ADD COLUMN theirs; ALTER TABLE t ADD COLUMN c INT DEFAULT 5");
    let mut replica = Replica::new(KEYED, 1);
    replica.each(&[
        "INSERT INTO t VALUES (3, 1, 1)",
        "ALTER TABLE t ADD COLUMN c INT DEFAULT 5",
        "INSERT INTO t VALUES (4, 1, 1, 1)",
    ]);
    let pulled = rebased(&replica.conn, &theirs, 0).unwrap();
    assert_eq!(
        rows(&pulled, "SELECT id, theirs, c FROM t"),
        ["1,NULL,5", "2,NULL,5", "3,NULL,5", "4,NULL,1"]
    );
    let remote = plain(&theirs);
    push(&remote, &push_statements(&pulled, &remote).unwrap()).unwrap();
    assert_eq!(dump(&pulled), dump(&remote));
    // Without the pull the statement fails and says which it was.
    let statements = push_statements(&replica.conn, &plain(KEYED)).unwrap();
    let (statement, e) = push(&plain(&theirs), &statements).unwrap_err();
    assert_eq!(&*statement.sql, "ALTER TABLE t ADD COLUMN c INT DEFAULT 5");
    assert_eq!(
        e.message,
        "transaction 2, change 2, table t: duplicate column name: c"
    );
}

#[test]
fn columns_that_others_added_keep_their_values() {
    let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 1), (2, 2);
      CREATE TABLE k (a); INSERT INTO k VALUES (1), (2); CREATE TABLE w (k PRIMARY KEY, a) WITHOUT ROWID; INSERT INTO w VALUES (1, 1)";
    let others = "ALTER TABLE t ADD COLUMN c DEFAULT 'd'; UPDATE t SET c = 'theirs' WHERE id = 1; ALTER TABLE k ADD COLUMN c DEFAULT 'd'; UPDATE k SET c = 'theirs';
      ALTER TABLE w ADD COLUMN c DEFAULT 'd'; UPDATE w SET c = 'theirs'";
    let sql = [
        "UPDATE t SET a = 10",
        "INSERT INTO t VALUES (3, 30)",
        "UPDATE k SET a = 10 WHERE a = 1",
        "DELETE FROM k WHERE a = 2",
        "INSERT INTO k VALUES (30)",
        "DELETE FROM w",
        "INSERT INTO w VALUES (1, 5)",
    ];
    let mut replica = Replica::new(base, 1);
    replica.each(&sql);
    let theirs = format!("{base};{others}");
    let pulled = rebased(&replica.conn, &theirs, 0).unwrap();
    let remote = plain(&theirs);
    push(&remote, &push_statements(&pulled, &remote).unwrap()).unwrap();
    assert_eq!(dump(&pulled), dump(&remote));
    assert_eq!(
        rows(&remote, "SELECT * FROM t"),
        ["1,10,theirs", "2,10,d", "3,30,d"]
    );
    assert_eq!(rows(&remote, "SELECT * FROM k"), ["10,theirs", "30,d"]);
    assert_eq!(rows(&remote, "SELECT * FROM w"), ["1,5,d"]);
}

#[test]
fn values_for_a_column_or_table_that_is_gone_are_a_conflict() {
    for (others, what) in [
        ("ALTER TABLE t DROP COLUMN b", "column b no longer exists"),
        ("ALTER TABLE t RENAME COLUMN b TO c", "column b no longer exists"),
        ("DROP TABLE t", "the table no longer exists"),
    ] {
        let e = clash(KEYED, &[&["UPDATE t SET b = 1"]], others);
        assert_eq!(e.category, Category::Conflict);
        assert!(e.message.contains(what), "{e}");
    }
    let o = sync_after_pull(
        KEYED,
        &[
            "UPDATE t SET a = 1",
            "INSERT INTO t(id, a) VALUES (5, 5)",
            "DELETE FROM t WHERE id = 2",
        ],
        "ALTER TABLE t DROP COLUMN b",
    );
    assert_eq!(rows(&o, "SELECT * FROM t"), ["1,1", "5,5"]);
}

/// The remote after a pull and a push.
fn sync_after_pull(base: &str, local: &[&str], others: &str) -> Connection {
    let mut replica = Replica::new(base, 1);
    replica.each(local);
    let theirs = format!("{base};{others}");
    let pulled = rebased(&replica.conn, &theirs, 0).unwrap();
    let remote = plain(&theirs);
    push(&remote, &push_statements(&pulled, &remote).unwrap()).unwrap();
    assert_eq!(dump(&pulled), dump(&remote));
    remote
}

#[test]
fn the_same_rename_on_both_sides_is_done_once() {
    let o = sync_after_pull(
        KEYED,
        &["ALTER TABLE t RENAME COLUMN a TO z", "UPDATE t SET z = 'n'"],
        "ALTER TABLE t RENAME COLUMN a TO z",
    );
    assert_eq!(rows(&o, "SELECT z FROM t"), ["n", "n"]);
    sync_after_pull(
        KEYED,
        &["ALTER TABLE t RENAME TO u", "UPDATE u SET a = 'n'"],
        "ALTER TABLE t RENAME TO u",
    );
    sync_after_pull(
        KEYED,
        &["CREATE TABLE n (x)", "INSERT INTO n VALUES (1)", "DROP TABLE t"],
        "CREATE TABLE n (x); INSERT INTO n VALUES (2); DROP TABLE t",
    );
}

#[test]
fn virtual_tables_come_and_go() {
    let base = "CREATE VIRTUAL TABLE ft USING fts5(body); INSERT INTO ft VALUES ('old words'); CREATE VIRTUAL TABLE rt USING rtree(id, x0, x1); INSERT INTO rt VALUES (1, 0, 1)";
    let o = sync(
        base,
        &[
            &[
                "ALTER TABLE ft RENAME TO ft2",
                "CREATE VIRTUAL TABLE f3 USING fts5(a)",
            ],
            &["DROP TABLE rt"],
        ],
        "",
    );
    for conn in [&o.remote, &o.pulled] {
        assert_eq!(rows(conn, "SELECT body FROM ft2('old')"), ["old words"]);
    }
}

#[test]
fn acknowledged_changes_are_skipped_but_their_ddl_counts() {
    let mut replica = Replica::new(KEYED, 1);
    replica.each(&[
        "ALTER TABLE t ADD COLUMN c",
        "INSERT INTO t VALUES (3, 1, 1, 1)",
        "UPDATE t SET c = 5",
        "ALTER TABLE t DROP COLUMN a",
        "UPDATE t SET b = 6 WHERE id = 1",
    ]);
    let remote = plain(&format!(
        "{KEYED}; ALTER TABLE t ADD COLUMN c; INSERT INTO t VALUES (3, 1, 1, 1)"
    ));
    let mut generator = PushGenerator::new(&plain(KEYED)).unwrap();
    let mut transactions = Transactions::new(&replica.conn, 0);
    let mut statements = Vec::new();
    while let Some(entries) = transactions.next_transaction().unwrap() {
        if entries.first().change_id <= 2 {
            entries
                .entries()
                .for_each(|e| generator.skip(&e.unwrap()).unwrap());
        } else {
            statements.extend(generator.transaction(&entries, false).unwrap());
        }
    }
    push(&remote, &statements).unwrap();
    assert_eq!(dump(&remote), dump(&replica.conn));
    let theirs = format!("{KEYED}; ALTER TABLE t ADD COLUMN c; INSERT INTO t VALUES (3, 1, 1, 1)");
    let pulled = rebased(&replica.conn, &theirs, 2).unwrap();
    assert_eq!(dump(&pulled), dump(&remote));
    assert_eq!(
        read_entries(&pulled, 0, 9).unwrap()[0].change_id,
        3,
        "change ids stay"
    );
}

#[test]
fn local_tables_and_statistics_never_travel() {
    let base = format!(
        "{KEYED}; CREATE TABLE turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)"
    );
    let mut replica = Replica::new(&base, 1);
    replica.txn(&["INSERT INTO t VALUES (3, 1, 1)"]);
    let mut entry = read_entries(&replica.conn, 0, 1).unwrap().remove(0);
    for table in [
        "turso_sync_last_change_id",
        "turso_cdc",
        "turso_cdc_version",
        "turso_sync_local",
        "turso_sync_conflicts",
        "sqlite_sequence",
        "sqlite_stat1",
        "SQLITE_STAT4",
    ] {
        entry.change_id += 1;
        entry.table = table.into();
        turso_sync::capture::log::write_entry(&replica.conn, &entry).unwrap();
    }
    assert_eq!(push_statements(&replica.conn, &plain(&base)).unwrap().len(), 1);
    assert_eq!(
        read_entries(&rebased(&replica.conn, &base, 0).unwrap(), 0, 99)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn replay_refuses_foreign_keys() {
    let replica = Replica::new(KEYED, 1);
    let scratch = plain(KEYED);
    turso_sync::capture::log::create_local_tables(&scratch).unwrap();
    scratch.execute_batch("PRAGMA foreign_keys = ON; BEGIN").unwrap();
    assert_eq!(
        rebase(
            &replica.conn,
            &scratch,
            Progress {
                acknowledged: 0,
                sent: 0,
                last: 0
            }
        )
        .unwrap_err()
        .code,
        Code::Misuse
    );
}

#[test]
fn damaged_log_entries_are_errors_not_panics() {
    let mut replica = Replica::new(KEYED, 1);
    replica.txn(&["UPDATE t SET a = 9 WHERE id = 1", "ALTER TABLE t ADD COLUMN c"]);
    let damage = [
        "UPDATE turso_cdc SET \"after\" = x'00'",
        "UPDATE turso_cdc SET \"before\" = NULL",
        "UPDATE turso_cdc SET updates = x'0209'",
        "UPDATE turso_cdc SET \"after\" = x'ff'",
        "UPDATE turso_cdc SET depth = -2",
        "UPDATE turso_cdc SET depth = 9223372036854775807",
        "UPDATE turso_cdc SET table_name = 'nowhere'",
        "UPDATE turso_cdc SET change_type = 7",
    ];
    for sql in damage {
        replica.conn.execute_batch("BEGIN").unwrap();
        replica.conn.execute_batch(sql).unwrap();
        assert!(rebased(&replica.conn, KEYED, 0).is_err(), "{sql}");
        assert!(push_statements(&replica.conn, &plain(KEYED)).is_err(), "{sql}");
        replica.conn.execute_batch("ROLLBACK").unwrap();
    }
}

#[test]
fn a_column_of_another_type_added_by_both_is_a_conflict() {
    let e = clash(
        KEYED,
        &[&["ALTER TABLE t ADD COLUMN c INT"]],
        "ALTER TABLE t ADD COLUMN c TEXT",
    );
    assert_eq!((e.category, e.code), (Category::Conflict, Code::Constraint));
    assert!(e.message.contains("duplicate column name: c"), "{e}");
}

#[test]
fn a_row_that_loses_its_key_is_found_again_by_the_next_pull() {
    let base = "CREATE TABLE m (k TEXT PRIMARY KEY, v); INSERT INTO m VALUES ('a', 1), ('b', 2)";
    let mut replica = Replica::new(base, 1);
    replica.each(&[
        "REPLACE INTO m VALUES ('b', 3)",
        "UPDATE m SET k = NULL WHERE k = 'b'",
        "UPDATE m SET v = 4 WHERE k IS NULL",
    ]);
    let once = rebased(&replica.conn, base, 0).unwrap();
    let twice = rebased(&once, base, 0).unwrap();
    assert_eq!(dump(&once), dump(&replica.conn));
    assert_eq!(dump(&twice), dump(&once));
    assert_eq!(
        read_entries(&once, 0, 99).unwrap(),
        read_entries(&twice, 0, 99).unwrap()
    );
}

#[test]
fn an_update_that_changed_nothing_does_not_bring_a_keyless_row_back() {
    let o = sync(KEYLESS, &[&["UPDATE t SET a = a"]], "UPDATE t SET b = 'theirs'");
    assert_eq!(rows(&o.remote, "SELECT a, b FROM t"), ["a1,theirs", "a2,theirs"]);
    assert!(o.direct.is_ok());
}

#[test]
fn a_column_added_by_others_survives_two_pulls_around_our_own_schema_change() {
    let mut replica = Replica::new(KEYLESS, 1);
    replica.each(&[
        "ALTER TABLE t ADD COLUMN ours DEFAULT 1",
        "UPDATE t SET b = 9 WHERE a = 'a1'",
        "DROP TABLE t",
    ]);
    let theirs = format!("{KEYLESS}; ALTER TABLE t ADD COLUMN theirs DEFAULT 2");
    let once = rebased(&replica.conn, &theirs, 0).unwrap();
    let twice = rebased(&once, &theirs, 0).unwrap();
    assert_eq!(
        read_entries(&once, 0, 99).unwrap(),
        read_entries(&twice, 0, 99).unwrap()
    );
}

#[test]
fn rows_that_triggers_added_are_found_wherever_they_are() {
    let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE TABLE audit (what, note);
      CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO audit VALUES ('i' || new.id, NULL); END";
    let local: &[&[&str]] = &[
        &["INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4)"],
        &["DELETE FROM audit WHERE what = 'i1'"],
        &["UPDATE audit SET note = 'seen' WHERE what = 'i2'"],
        &["UPDATE audit SET note = 'twice' WHERE what = 'i2'"],
        &["DELETE FROM audit WHERE what = 'i4'"],
    ];
    let others = "INSERT INTO t VALUES (7, 7), (8, 8)";
    let wanted = ["i3,NULL", "i7,NULL", "i8,NULL", "i2,twice"];
    let sorted = "SELECT what, note FROM audit ORDER BY note, what";
    let o = sync(base, local, others);
    assert_eq!(rows(&o.remote, sorted), wanted);
    let more = format!("{base}; INSERT INTO t VALUES (9, 9); DELETE FROM audit; {others}");
    let again = rebased(&o.pulled, &more, 0).unwrap();
    assert_eq!(rows(&again, sorted), wanted);
    // The row of somebody else that looks alike stays.
    let alike = sync(
        base,
        &[&["INSERT INTO t VALUES (1, 1)"], &["DELETE FROM audit"]],
        "INSERT INTO audit VALUES (1, 1), ('i1', NULL)",
    );
    assert_eq!(
        rows(&alike.remote, "SELECT rowid, what, note FROM audit"),
        ["1,1,1", "2,i1,NULL"]
    );
}

#[test]
fn rows_that_triggers_added_are_found_after_a_push_that_others_came_before() {
    let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE TABLE audit (what, note);
      CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO audit VALUES ('i' || new.id, NULL); END";
    let mut replica = Replica::new(base, 1);
    replica.each(&["INSERT INTO t VALUES (1, 1), (2, 2)"]);
    let acknowledged = replica.next_id() - 1;
    replica.each(&[
        "DELETE FROM audit WHERE what = 'i1'",
        "UPDATE audit SET note = 'seen'",
        "UPDATE audit SET note = 'twice'",
    ]);
    let theirs = format!("{base}; INSERT INTO t VALUES (8, 8), (9, 9); INSERT INTO t VALUES (1, 1), (2, 2)");
    let pulled = rebased(&replica.conn, &theirs, acknowledged).unwrap();
    let wanted = ["i8,NULL", "i9,NULL", "i2,twice"];
    assert_eq!(
        rows(&pulled, "SELECT what, note FROM audit ORDER BY rowid"),
        wanted
    );
    let again = rebased(&pulled, &theirs, acknowledged).unwrap();
    assert_eq!(dump(&again), dump(&pulled));
}

#[test]
fn a_row_that_a_trigger_of_the_other_side_removed_comes_back_with_an_update() {
    let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE TABLE k (a, b); INSERT INTO t VALUES (1, 'x');
      CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO k VALUES ('fired', 0); DELETE FROM k WHERE a = new.a; END";
    let o = sync(
        base,
        &[
            &["INSERT INTO k VALUES ('y', 1)"],
            &["UPDATE t SET a = 'y' WHERE id = 1"],
            &["UPDATE k SET b = 2 WHERE a = 'y'"],
        ],
        "DELETE FROM t",
    );
    assert_eq!(
        rows(&o.remote, "SELECT a, b FROM k ORDER BY a"),
        ["fired,0", "y,2"]
    );
}

#[test]
fn a_key_that_tells_apart_what_its_column_does_not() {
    for end in ["", " WITHOUT ROWID"] {
        let base = format!(
            "CREATE TABLE t (a TEXT COLLATE NOCASE, b, PRIMARY KEY (a COLLATE BINARY)){end};
             INSERT INTO t VALUES ('a', 1), ('A', 2), ('b', 1), ('B', 2)"
        );
        let local: &[&[&str]] = &[
            &["DELETE FROM t WHERE a = 'a' COLLATE BINARY"],
            &["UPDATE t SET b = 3 WHERE a = 'b' COLLATE BINARY"],
        ];
        sync(&base, local, "");
        let o = sync(&base, local, "DELETE FROM t WHERE a = 'b' COLLATE BINARY");
        let left = rows(&o.remote, "SELECT a, b FROM t ORDER BY a COLLATE BINARY");
        assert_eq!(left, ["A,2", "B,2", "b,3"]);
    }
}

/// SQLite refuses expressions of more than 1000 levels.
#[test]
fn rows_with_very_many_columns_and_no_key() {
    let columns = |from: usize, what: &str| {
        let names = (from..1500).map(|i| what.replace('#', &i.to_string()));
        names.collect::<Vec<_>>().join(", ")
    };
    for hidden in ["c0, c1, c2", "rowid, oid, _rowid_"] {
        let base = format!(
            "CREATE TABLE w ({hidden}, {}); INSERT INTO w (c3) VALUES (1), (2), (3)",
            columns(3, "c#")
        );
        let all = format!("UPDATE w SET {} WHERE c3 = 3", columns(4, "c# = 9"));
        let local: &[&[&str]] = &[
            &["UPDATE w SET c4 = 7 WHERE c3 = 1", "DELETE FROM w WHERE c3 = 2"],
            &["INSERT INTO w (c1499) VALUES (5)", &all],
        ];
        match hidden.starts_with("rowid") {
            true => sync(&base, local, ""),
            false => sync(&base, local, "UPDATE w SET c5 = 1 WHERE c3 = 3"),
        };
    }
}

//! What users of such sync systems are known to suffer from, one test each: it must not happen here.
#![cfg(feature = "server")]

mod support;

use support::*;
use turso_sync::engine::{ConflictState, Resolution};
use turso_sync::error::{Category, Code};

fn two(schema: &str) -> (Remote, Replica, Replica, tempfile::TempDir) {
    let remote = Remote::start(schema);
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| Replica::open(&dir.path().join(name), &remote.url);
    let (a, b) = (open("a.db"), open("b.db"));
    (remote, a, b, dir)
}

/// Everybody syncs until nothing is pending, and then holds the same.
fn settle(remote: &Remote, a: &Replica, b: &Replica) {
    a.sync().unwrap();
    b.sync().unwrap();
    a.pull().unwrap();
    for replica in [a, b] {
        assert_eq!(replica.pending(), 0);
        assert_eq!(replica.tables(), remote.tables());
        let objects = "SELECT group_concat(sql) FROM (SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'turso%' ORDER BY name)";
        let theirs: Option<String> = plain(&remote.path)
            .query_row(objects, [], |row| row.get(0))
            .unwrap();
        assert_eq!(replica.text(objects), theirs.unwrap_or("NULL".into()));
    }
}

const USERS: &str =
    "CREATE TABLE u (id INTEGER PRIMARY KEY, mail TEXT UNIQUE); INSERT INTO u VALUES (1, 'one@x');";

#[test]
fn pain_1_a_failed_push_and_its_retries_lose_nothing() {
    let (remote, a, b, _dir) = two(USERS);
    a.sql("INSERT INTO u VALUES (2, 'taken@x')");
    a.push().unwrap();
    b.sql("INSERT INTO u VALUES (3, 'taken@x'); INSERT INTO u VALUES (4, 'four@x')");
    for _ in 0..3 {
        assert_eq!(b.push().unwrap_err().code, Code::Constraint);
        assert_eq!(b.pull().unwrap_err().code, Code::Constraint);
        assert_eq!(b.text("SELECT group_concat(id) FROM u"), "1,3,4");
        assert_eq!(b.pending(), 2);
        assert_eq!(remote.tables()["u"].len(), 2);
    }
    a.sql("UPDATE u SET mail = 'free@x' WHERE id = 2");
    a.push().unwrap();
    settle(&remote, &a, &b);
    assert_eq!(
        a.text("SELECT group_concat(id || mail) FROM (SELECT * FROM u ORDER BY id)"),
        "1one@x,2free@x,3taken@x,4four@x"
    );
}

#[test]
fn pain_2_a_transaction_is_committed_whole_or_not_at_all() {
    let (remote, a, b, _dir) = two(USERS);
    a.sql("INSERT INTO u VALUES (2, 'taken@x')");
    a.push().unwrap();
    b.sql("BEGIN; INSERT INTO u VALUES (10, 'x@x'); INSERT INTO u VALUES (11, 'taken@x'); INSERT INTO u VALUES (12, 'z@x'); COMMIT");
    for _ in 0..2 {
        b.push().unwrap_err();
        assert_eq!(remote.tables()["u"].len(), 2);
    }
    // A client that was killed and started again goes on where it was.
    let path = b.path.clone();
    drop(b);
    let b = Replica::open(&path, &remote.url);
    b.push().unwrap_err();
    assert_eq!(remote.tables()["u"].len(), 2);
    b.sql("UPDATE u SET mail = 'y@x' WHERE id = 11");
    settle(&remote, &a, &b);
    assert_eq!(remote.tables()["u"].len(), 5);
}

#[test]
fn pain_3_a_conflict_is_not_stuck_for_good() {
    for (resolution, left) in [
        (Resolution::Retry, None),
        (Resolution::Overwrite, Some("11")),
        (Resolution::SetAside, Some("2")),
        (Resolution::Drop, Some("2")),
    ] {
        let (remote, a, b, _dir) = two(USERS);
        a.sql("INSERT INTO u VALUES (2, 'taken@x')");
        a.push().unwrap();
        b.sql("INSERT INTO u VALUES (11, 'taken@x')");
        b.sql("INSERT INTO u VALUES (12, 'behind@x')");
        let e = b.sync().unwrap_err();
        assert_eq!(
            (e.category, e.code),
            (Category::Conflict, Code::Constraint),
            "{e}"
        );
        let conflicts = b.engine.conflicts().unwrap();
        assert_eq!(conflicts.len(), 1);
        assert_eq!(
            (conflicts[0].state, conflicts[0].constraint.as_str()),
            (ConflictState::Blocked, "u.mail")
        );
        run(
            &b.engine,
            b.engine.resolve_conflict(conflicts[0].txn_id, resolution),
        )
        .unwrap();
        match left {
            // The cause is still there.
            None => assert_eq!(b.sync().unwrap_err().category, Category::Conflict),
            Some(id) => {
                settle(&remote, &a, &b);
                assert_eq!(
                    a.text("SELECT group_concat(id) FROM u WHERE mail = 'taken@x'"),
                    id
                );
                assert_eq!(a.text("SELECT id FROM u WHERE mail = 'behind@x'"), "12");
            }
        }
    }
}

#[test]
fn pain_4_the_written_rule_is_the_rule() {
    // An update of a row that was deleted elsewhere brings it back.
    let (remote, a, b, _dir) =
        two("CREATE TABLE t (id INTEGER PRIMARY KEY, x, y); INSERT INTO t VALUES (1, 'x', 'y')");
    a.sql("DELETE FROM t");
    a.push().unwrap();
    b.sql("UPDATE t SET x = 'new'");
    settle(&remote, &a, &b);
    assert_eq!(a.text("SELECT id || x || y FROM t"), "1newy");
    // Keys that SQLite assigns are the same on two devices, and the last push wins the row, whole; rows that no key
    // names, and keys that are unique by themselves, are all kept.
    let schema = "CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT, x, y); CREATE TABLE l (x);
        CREATE TABLE r (id BLOB PRIMARY KEY DEFAULT (randomblob(16)), x)";
    let (remote, a, b, _dir) = two(schema);
    for (replica, name) in [(&a, "a"), (&b, "b")] {
        replica.sql(&format!("INSERT INTO n(x, y) VALUES ('{name}', '{name}')"));
        replica.sql(&format!(
            "INSERT INTO l VALUES ('{name}'); INSERT INTO r(x) VALUES ('{name}')"
        ));
    }
    settle(&remote, &a, &b);
    assert_eq!(a.text("SELECT group_concat(id || x || y) FROM n"), "1bb");
    assert_eq!(
        a.text("SELECT group_concat(x) FROM (SELECT * FROM l ORDER BY x)"),
        "a,b"
    );
    assert_eq!(
        a.text("SELECT group_concat(x) FROM (SELECT * FROM r ORDER BY x)"),
        "a,b"
    );
}

#[test]
fn pain_5_every_schema_change_arrives_in_order_with_the_rows() {
    let (remote, a, b, _dir) = two(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x, y, z); INSERT INTO t VALUES (1, 'x', 'y', 'z'); CREATE TABLE log (what)",
    );
    b.sql("UPDATE t SET z = 'by b' WHERE id = 1");
    a.sql("ALTER TABLE t RENAME TO s; INSERT INTO s VALUES (2, 'after', 'the', 'rename')");
    a.sql("ALTER TABLE s RENAME COLUMN y TO why; UPDATE s SET why = 'renamed' WHERE id = 2");
    a.sql("CREATE VIEW v AS SELECT why FROM s; CREATE TRIGGER tr AFTER INSERT ON s BEGIN INSERT INTO log VALUES (new.id); END");
    a.sql("INSERT INTO s VALUES (3, 'seen', 'by', 'trigger')");
    a.push().unwrap();
    // What b wrote into the table under its old name is a conflict, not a silent loss.
    assert_eq!(b.sync().unwrap_err().category, Category::Conflict);
    let conflict = b.engine.conflicts().unwrap().remove(0);
    run(
        &b.engine,
        b.engine.resolve_conflict(conflict.txn_id, Resolution::Drop),
    )
    .unwrap();
    settle(&remote, &a, &b);
    assert_eq!(
        b.text("SELECT group_concat(why) FROM (SELECT * FROM v ORDER BY 1)"),
        "by,renamed,y"
    );
    assert_eq!(b.text("SELECT group_concat(what) FROM log"), "3");
    // A dropped column and an added one: values stay with the names of their columns, also those of others.
    b.sql("INSERT INTO s(id, why, z) VALUES (4, 'why4', 'z4')");
    b.sql("UPDATE s SET z = 'z1' WHERE id = 1");
    a.sql("ALTER TABLE s DROP COLUMN x; ALTER TABLE s ADD COLUMN w DEFAULT 'w'; UPDATE s SET w = 'w1' WHERE id = 1");
    a.sql("INSERT INTO s(id, why, z, w) VALUES (5, 'why5', 'z5', 'w5')");
    settle(&remote, &a, &b);
    let rows = "SELECT group_concat(id || why || z || w, ' ') FROM (SELECT * FROM s WHERE id IN (1, 4, 5) ORDER BY id)";
    assert_eq!(b.text(rows), "1yz1w1 4why4z4w 5why5z5w5");
    assert_eq!(
        b.text("SELECT group_concat(what) FROM (SELECT * FROM log ORDER BY what)"),
        "3,4,5"
    );
}

#[test]
fn pain_6_rows_are_known_by_what_identifies_them() {
    let schema = "CREATE TABLE n (k TEXT PRIMARY KEY, v); INSERT INTO n VALUES (NULL, 1), (NULL, 2), ('k', 3);
        CREATE TABLE c (a TEXT, b INT, v, PRIMARY KEY (a, b)); INSERT INTO c VALUES ('x', 1, 1), ('x', 2, 2), (NULL, 1, 3), (NULL, 1, 3);
        CREATE TABLE r (rowid TEXT, v); INSERT INTO r VALUES ('r', 1), ('s', 2);
        CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'one'), (2, 'two'), (11, 'eleven')";
    let (remote, a, b, _dir) = two(schema);
    b.sql("INSERT INTO n VALUES (NULL, 'b'); INSERT INTO c VALUES (NULL, 1, 'b'); INSERT INTO r VALUES ('r', 'b')");
    a.sql("UPDATE n SET v = 9 WHERE v = 1; DELETE FROM n WHERE v = 2; UPDATE n SET k = 'K' WHERE k = 'k'");
    a.sql("UPDATE c SET v = 9 WHERE b = 2; UPDATE c SET b = 7 WHERE a = 'x' AND b = 1; DELETE FROM c WHERE rowid = 3");
    a.sql("UPDATE r SET v = 9 WHERE rowid = 'r'; DELETE FROM r WHERE rowid = 's'");
    a.sql("UPDATE t SET id = id + 10 WHERE id > 2; UPDATE t SET id = id + 10 WHERE id < 3");
    a.sql("BEGIN; UPDATE t SET id = -1 WHERE id = 11; UPDATE t SET id = 11 WHERE id = 12; UPDATE t SET id = 12 WHERE id = -1; COMMIT");
    settle(&remote, &a, &b);
    let sorted = |columns: &str, table: &str| {
        b.text(&format!(
            "SELECT group_concat(t, ' ') FROM (SELECT concat_ws(',', {columns}) AS t FROM {table} ORDER BY t)"
        ))
    };
    assert_eq!(sorted("ifnull(k, '-'), v", "n"), "-,9 -,b K,3");
    assert_eq!(sorted("ifnull(a, '-'), b, v", "c"), "-,1,3 -,1,b x,2,9 x,7,1");
    assert_eq!(sorted("rowid, v", "r"), "r,9 r,b");
    assert_eq!(sorted("id, v", "t"), "11,two 12,one 21,eleven");
    // All keys at once, so that each new key is an old one as well.
    let (remote, a, b, _dir) = two("CREATE TABLE t (id INTEGER PRIMARY KEY, v);
        WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 10 FROM n WHERE i < 200) INSERT INTO t SELECT i, 'v' || i FROM n");
    a.sql("UPDATE t SET id = id - 10; UPDATE t SET v = v || '!' WHERE id = 0");
    settle(&remote, &a, &b);
    assert_eq!(
        b.text("SELECT count(*) || min(id) || max(id) FROM t WHERE v GLOB 'v' || (id + 10) || '*'"),
        "200190"
    );
}

#[test]
fn pain_7_triggers_count_exactly_and_log_once() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE n (id INTEGER PRIMARY KEY, n); INSERT INTO n VALUES (1, 0);
        CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, what); CREATE TABLE plain (what);
        CREATE TRIGGER tr AFTER INSERT ON t BEGIN UPDATE n SET n = n + 1; INSERT INTO log(what) VALUES (new.id); INSERT INTO plain VALUES (new.id); END";
    for push_first in [true, false] {
        let (remote, a, b, _dir) = two(schema);
        a.sql("INSERT INTO t VALUES (1)");
        b.sql("INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)");
        if push_first {
            b.push().unwrap();
        }
        a.sync().unwrap();
        b.sync().unwrap();
        settle(&remote, &a, &b);
        for replica in [&a, &b] {
            assert_eq!(replica.text("SELECT n FROM n"), "3");
            for table in ["log", "plain"] {
                let logged =
                    format!("SELECT group_concat(what) FROM (SELECT what FROM {table} ORDER BY what)");
                assert_eq!(replica.text(&logged), "1,2,3");
            }
        }
    }
}

#[test]
fn pain_8_every_value_arrives_bit_for_bit() {
    let (remote, a, b, _dir) = two("CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE l (v)");
    let values = [
        "9e999",
        "-9e999",
        "0.0",
        "-0.0",
        "5e-324",
        "1.7976931348623157e308",
        "0.1",
        "1e15",
        "1.0",
        "1",
        "9223372036854775807",
        "-9223372036854775808",
        "9007199254740993",
        "NULL",
        "''",
        "x''",
        "x'00ff'",
        "zeroblob(5000)",
        "'1'",
        "'a' || char(0) || 'b'",
        "'ä\u{10ffff}'",
        "CAST(x'ff00fe' AS TEXT)",
        "'line' || char(10, 13, 9, 34, 92, 39)",
    ];
    for (i, value) in values.iter().enumerate() {
        a.sql(&format!("INSERT INTO t VALUES ({i}, {value}); INSERT INTO t VALUES ({i} + 100, 'old'); UPDATE t SET v = {value} WHERE id = {i} + 100"));
        a.sql(&format!(
            "INSERT INTO l VALUES ({value}); UPDATE l SET v = v WHERE v IS {value}"
        ));
        b.sql(&format!("INSERT INTO t VALUES ({i} + 200, {value})"));
    }
    let (local, written) = (a.tables(), b.tables());
    settle(&remote, &a, &b);
    let all = remote.tables();
    assert_eq!(all["l"], local["l"]);
    assert_eq!(all["t"].len(), 3 * values.len());
    for row in local["t"].iter().chain(&written["t"]) {
        assert!(all["t"].contains(row), "{row:?}");
    }
}

/// Rows that no key names: 1,000 inserts, updates and deletes by each of two clients at the same time.
#[test]
fn no_primary_key_a_thousand_each() {
    const N: i64 = 1000;
    // Of each kind (alone, and one of many with the same content) N rows to change and N to delete for each client.
    let schema = format!("CREATE TABLE l (who, kind, v);
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {})
        INSERT INTO l SELECT CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END, CASE (i / 2) % 2 WHEN 0 THEN 'change' ELSE 'delete' END,
            CASE i / 4 % 2 WHEN 0 THEN i ELSE 'same' END FROM n", 4 * N - 1);
    for a_first in [true, false] {
        for pull_first in [true, false] {
            let (remote, a, b, _dir) = two(&schema);
            for (replica, who) in [(&a, "a"), (&b, "b")] {
                replica.sql(&format!("INSERT INTO l WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {N})
                    SELECT '{who}', 'new', CASE i % 2 WHEN 0 THEN i ELSE 'same' END FROM n"));
                replica.sql(&format!(
                    "UPDATE l SET v = v || ' by {who}' WHERE who = '{who}' AND kind = 'change'"
                ));
                replica.sql(&format!("DELETE FROM l WHERE who = '{who}' AND kind = 'delete'"));
                assert_eq!(replica.pending(), 3 * N);
            }
            let (first, second) = if a_first { (&a, &b) } else { (&b, &a) };
            first.push().unwrap();
            if pull_first {
                second.pull().unwrap();
            }
            second.push().unwrap();
            settle(&remote, &a, &b);
            let counts = "SELECT group_concat(c, ' ') FROM (SELECT who || ':' || kind || ':' || count(*) || ':' ||
                sum(v GLOB '* by ' || who) || ':' || sum(v GLOB '* by *') || ':' || sum(v GLOB 'same*') || ':' || count(DISTINCT v) AS c
                FROM l GROUP BY who, kind ORDER BY who, kind)";
            // All changed by their owner and by nobody else, half of them equal in content; the new ones untouched.
            assert_eq!(
                a.text(counts),
                "a:change:1000:1000:1000:500:501 a:new:1000:0:0:500:501 b:change:1000:1000:1000:500:501 b:new:1000:0:0:500:501"
            );
        }
    }
}

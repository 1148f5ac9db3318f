//! The prediction property: what a pull makes of the pending changes is what the push does to the remote.

mod replay_capture;

use proptest::prelude::*;
use replay_capture::*;
use rusqlite::Connection;
use turso_sync::capture::log::{create_local_tables, write_entry};
use turso_sync::error::Category;
use turso_sync::replay::diff::{Difference, Numbering, diff};
use turso_sync::replay::{Progress, Purpose, rebase, rebase_net};

const BASE: &str = "
CREATE TABLE k (id INTEGER PRIMARY KEY, a, b);
CREATE TABLE w (v, x TEXT COLLATE NOCASE, y, PRIMARY KEY (y, x)) WITHOUT ROWID;
CREATE TABLE n (a, rowid, b);
CREATE TABLE m (k TEXT PRIMARY KEY, v);
CREATE TABLE p (id INTEGER PRIMARY KEY, g AS (id + 1));
CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE, s REFERENCES p ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE d (c REFERENCES c ON DELETE CASCADE ON UPDATE CASCADE, x);
CREATE TABLE u (id INTEGER PRIMARY KEY, e UNIQUE);
CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, what);
CREATE TRIGGER ki AFTER INSERT ON k BEGIN INSERT INTO log(what) VALUES ('i' || new.id); END;
CREATE TRIGGER ku AFTER UPDATE ON k BEGIN INSERT INTO log(what) VALUES ('u' || new.id); END;
CREATE TRIGGER nd BEFORE DELETE ON n BEGIN INSERT INTO log(what) VALUES (old.a); END;
CREATE TRIGGER dd AFTER DELETE ON d BEGIN INSERT INTO log(what) VALUES ('d' || old.x); END;
INSERT INTO k VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3);
INSERT INTO w VALUES (1, 'a', 1), (2, 'b', 2);
INSERT INTO n VALUES (1, 1, 1), (2, 2, 2), (2, 2, 2);
INSERT INTO m VALUES (NULL, 1), ('a', 2), (NULL, 1), ('b', 3);
INSERT INTO p(id) VALUES (1), (2), (3);
INSERT INTO c VALUES (1, 1, 2), (2, 2, 2), (3, 1, NULL);
INSERT INTO d VALUES (1, 1), (1, 2), (2, 3);
INSERT INTO u VALUES (1, 1), (2, 2);
DELETE FROM log";

const VALUES: [&str; 9] = [
    "NULL",
    "1",
    "2",
    "'a'",
    "'A'",
    "9e999",
    "CAST(x'ff' AS TEXT)",
    "x'00'",
    "-0.5",
];

/// One random statement.
fn statement() -> impl Strategy<Value = String> {
    (0..31, 0..7, 0..7, 0..VALUES.len()).prop_map(|(kind, i, j, v)| {
        let v = VALUES[v];
        match kind {
            0 => format!("INSERT INTO k VALUES ({i}, {v}, {j})"),
            1 => format!("INSERT INTO k(a, b) VALUES ({v}, {j})"),
            2 => format!("UPDATE k SET a = {v} WHERE id = {i}"),
            3 => format!("UPDATE k SET b = {v} WHERE id >= {i}"),
            4 => format!("UPDATE k SET id = {j}, b = {v} WHERE id = {i}"),
            5 => format!("DELETE FROM k WHERE id = {i}"),
            6 => format!("INSERT INTO k VALUES ({i}, {v}, 0) ON CONFLICT (id) DO UPDATE SET b = excluded.a"),
            7 => format!("REPLACE INTO k VALUES ({i}, {v}, {j})"),
            8 => format!("REPLACE INTO w VALUES ({v}, char(97 + {i}), {j})"),
            9 => format!("UPDATE w SET v = {v} WHERE y = {i}"),
            10 => format!("UPDATE w SET x = upper(x), y = y + {j} WHERE y = {i}"),
            11 => format!("DELETE FROM w WHERE y = {i}"),
            12 => format!("INSERT INTO n VALUES ({v}, {i}, {j})"),
            13 => format!("INSERT INTO n SELECT a, rowid, {v} FROM n WHERE _rowid_ = {i}"),
            14 => format!("UPDATE n SET b = {v} WHERE _rowid_ = {i}"),
            15 => format!("UPDATE n SET a = {v}, rowid = {j} WHERE a IS {i}"),
            16 => format!("DELETE FROM n WHERE _rowid_ = {i} OR a IS {v}"),
            17 => format!("INSERT INTO n(_rowid_, a) VALUES ({i}, {v})"),
            18 => format!("INSERT INTO m VALUES (NULL, {v})"),
            19 => format!("REPLACE INTO m VALUES (char(97 + {i}), {v})"),
            20 => format!("UPDATE m SET v = {v} WHERE rowid = {i}"),
            21 => format!("UPDATE m SET k = NULLIF(char(97 + {j}), 'a') WHERE rowid = {i}"),
            22 => format!("DELETE FROM m WHERE rowid = {i}"),
            23 => format!("INSERT OR IGNORE INTO p(id) VALUES ({i})"),
            24 => format!("UPDATE p SET id = {j} WHERE id = {i}"),
            25 => format!("DELETE FROM p WHERE id = {i}"),
            26 => format!("INSERT INTO c VALUES ({i}, {j}, NULL)"),
            27 => format!("INSERT INTO d VALUES ({i}, {j})"),
            28 => format!("UPDATE c SET id = {j} WHERE id = {i}"),
            29 => format!("UPDATE OR IGNORE u SET e = {j} WHERE id = {i}"),
            _ => format!("INSERT INTO u VALUES ({i} + 2, {j})"),
        }
    })
}

fn ddl() -> impl Strategy<Value = String> {
    let name = || prop_oneof![Just("k"), Just("w"), Just("n"), Just("m"), Just("u")];
    prop_oneof![
        (name(), 0..3).prop_map(|(t, i)| format!("ALTER TABLE {t} ADD COLUMN c{i} DEFAULT {i}")),
        (name(), 0..3).prop_map(|(t, i)| format!("CREATE INDEX i{i} ON {t}({t})")
            .replace("(w)", "(v)")
            .replace("(n)", "(a)")
            .replace("(m)", "(k)")
            .replace("(u)", "(id)")
            .replace("(k)", "(rowid)")),
        (0..3).prop_map(|i| format!("CREATE TABLE new{i} (id INTEGER PRIMARY KEY, x)")),
        (0..3, 0..3).prop_map(|(i, j)| format!("REPLACE INTO new{i} VALUES ({j}, {j})")),
        (0..3).prop_map(|i| format!("DROP TABLE new{i}")),
    ]
}

fn script(max: usize) -> impl Strategy<Value = Vec<Vec<String>>> {
    let one = prop_oneof![12 => statement(), 1 => ddl()];
    proptest::collection::vec(proptest::collection::vec(one, 1..4), 0..max)
}

/// The result of those statements of `script` that succeed.
fn after(script: &[Vec<String>]) -> Connection {
    let conn = plain(BASE);
    for one in script.iter().flatten() {
        let _ = conn.execute_batch(one);
    }
    conn
}

/// The difference between two databases, as a log beside `to`.
fn log_difference(from: &Connection, to: &Connection) -> Difference {
    create_local_tables(to).unwrap();
    let numbering = Numbering {
        first_change_id: 1,
        change_time: 0,
    };
    let mut entries = Vec::new();
    let found = diff(from, to, &|_| false, numbering, &mut |entry| {
        entries.push(entry);
        Ok(())
    })
    .unwrap();
    assert_eq!(found.changes, entries.len() as u64);
    entries.iter().for_each(|entry| write_entry(to, entry).unwrap());
    found
}

/// Without what AUTOINCREMENT remembers, which is no row of a table.
fn same_but_sequences(a: &Connection, b: &Connection, what: &str) -> Result<(), TestCaseError> {
    for conn in [a, b] {
        conn.execute_batch("DELETE FROM sqlite_sequence").unwrap();
    }
    same(a, b, what)
}

fn run(replica: &mut Replica, script: &[Vec<String>]) {
    for txn in script {
        replica.try_txn(&txn.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// `BASE` and those statements of `others` that succeed after each other.
fn others_on_base(others: &[String]) -> String {
    let conn = plain(BASE);
    let mut sql = BASE.to_owned();
    for one in others {
        if conn.execute_batch(one).is_ok() {
            sql = format!("{sql};\n{one}");
        }
    }
    sql
}

/// Both hold the same; says what differs.
fn same(a: &Connection, b: &Connection, what: &str) -> Result<(), TestCaseError> {
    let (a, b) = (dump(a), dump(b));
    let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>();
    prop_assert!(a == b, "{}: {:?} / {:?}", what, only(&a, &b), only(&b, &a));
    Ok(())
}

/// The net effect leads where one change after the other leads, and predicts the push of what it leaves pending.
fn check_net_effect(replica: &Connection, theirs: &str) -> Result<(), TestCaseError> {
    let net = match rebased_with(rebase_net, replica, theirs, 0) {
        Ok(net) => net,
        Err(e) => {
            prop_assert_eq!(e.category, Category::Conflict);
            return Ok(());
        }
    };
    if let Ok(pulled) = rebased(replica, theirs, 0) {
        same(&net, &pulled, "net effect and single changes")?;
    }
    let remote = plain(theirs);
    let statements = push_statements(&net, &remote).unwrap();
    if let Err((statement, e)) = push(&remote, &statements) {
        prop_assert!(false, "a push of the net effect succeeds: {} {:?}", e, statement);
    }
    same(&remote, &net, "push of the net effect")
}

fn check(local: &[Vec<String>], others: &[String], later: &[Vec<String>]) -> Result<(), TestCaseError> {
    let mut replica = Replica::new(BASE, 1);
    replica.conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    run(&mut replica, local);
    let theirs = others_on_base(others);
    let statements = push_statements(&replica.conn, &plain(BASE)).unwrap();
    let direct = plain(&theirs);
    let pushed = push(&direct, &statements);
    check_net_effect(&replica.conn, &theirs)?;
    let pulled = match rebased(&replica.conn, &theirs, 0) {
        Ok(pulled) => pulled,
        Err(e) => {
            prop_assert_eq!(e.category, Category::Conflict);
            prop_assert!(!others.is_empty(), "a conflict with nobody: {}", e);
            prop_assert!(pushed.is_err(), "the pull fails ({}), the push does not", e);
            return Ok(());
        }
    };
    if others.is_empty() {
        same(&replica.conn, &pulled, "alone, a pull changes nothing")?;
        if let Err((statement, e)) = &pushed {
            prop_assert!(false, "alone, a push succeeds: {} {:?}", e, statement);
        }
    }
    match pushed {
        Ok(()) => same(&direct, &pulled, "push, then pull")?,
        // What a pull resolves: re-assigned rows, and columns and objects that both have made.
        Err((statement, e)) => prop_assert!(
            statement.purpose == Purpose::Guard
                || e.message.contains("duplicate column")
                || e.message.contains("already exists"),
            "{}",
            e
        ),
    }
    let remote = plain(&theirs);
    let mut replica = Replica::adopt(pulled, replica.next_id());
    run(&mut replica, later);
    let statements = push_statements(&replica.conn, &remote).unwrap();
    if let Err((statement, e)) = push(&remote, &statements) {
        prop_assert!(false, "a push after a pull succeeds: {} {:?}", e, statement);
    }
    same(&remote, &replica.conn, "pull, then push")?;
    let again = rebased(&replica.conn, &theirs, 0).unwrap();
    same(&again, &replica.conn, "a second pull changes nothing")?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_makes_one_database_of_the_other(a in script(8), b in script(8)) {
        let (from, to) = (after(&a), after(&b));
        log_difference(&from, &to);
        let remote = after(&a);
        create_local_tables(&from).unwrap();
        let progress = Progress { acknowledged: 0, sent: 0, last: 1_000_000 };
        rebase(&to, &from, progress).map_err(|e| TestCaseError::fail(e.to_string()))?;
        same_but_sequences(&from, &to, "replayed")?;
        let statements = push_statements(&to, &remote).map_err(|e| TestCaseError::fail(e.to_string()))?;
        match push(&remote, &statements) {
            // A row with a key has taken the rowid of one without; a pull moves that.
            Err((s, _)) if s.purpose == Purpose::Guard => return Ok(()),
            result => result.map_err(|(s, e)| TestCaseError::fail(format!("{}: {e}", s.sql)))?,
        }
        same_but_sequences(&remote, &to, "pushed")?;
        let nothing = log_difference(&remote, &to);
        prop_assert!(nothing.is_empty() && nothing.tables.is_empty());
    }

    #[test]
    fn alone_remote_and_replica_are_equal(local in script(10)) {
        check(&local, &[], &[])?;
    }

    #[test]
    fn a_pull_predicts_the_push(
        local in script(8),
        others in proptest::collection::vec(prop_oneof![12 => statement(), 1 => ddl()], 0..12),
        later in script(5),
    ) {
        check(&local, &others, &later)?;
    }
}

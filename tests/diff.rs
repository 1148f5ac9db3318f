//! The difference between two databases: what changes it consists of. That they lead from one to the other whatever the
//! databases are is `replay_property::a_difference_makes_one_database_of_the_other`.

mod replay_capture;

use replay_capture::*;
use rusqlite::Connection;
use turso_sync::capture::log::{ChangeType, LogEntry, create_local_tables, write_entry};
use turso_sync::error::Error;
use turso_sync::record::{Value, decode};
use turso_sync::replay::diff::{Difference, Numbering, diff, diff_of_strangers, keeps_everything};
use turso_sync::replay::{Progress, rebase};

fn difference(from: &Connection, to: &Connection) -> (Difference, Vec<LogEntry>) {
    let numbering = Numbering {
        first_change_id: 7,
        change_time: 1000,
    };
    let mut entries = Vec::new();
    let is_local = |name: &str| name.eq_ignore_ascii_case("cache");
    let found = diff(from, to, &is_local, numbering, &mut |entry| {
        entries.push(entry);
        Ok(())
    });
    (found.unwrap(), entries)
}

/// Short descriptions of the changes.
fn describe(entries: &[LogEntry]) -> Vec<String> {
    let describe = |entry: &LogEntry| {
        let image = entry.after.as_deref().or(entry.before.as_deref());
        let kind = match entry.change_type {
            ChangeType::Insert => "+",
            ChangeType::Update => "~",
            ChangeType::Delete => "-",
        };
        let values = image.map(|image| decode(image).unwrap()).unwrap_or_default();
        match (entry.table.as_str(), values.as_slice()) {
            ("sqlite_schema", [_, Value::Text(name), ..]) => {
                let statement = entry
                    .updates
                    .as_deref()
                    .map(|u| decode(u).unwrap().pop().unwrap());
                let statement = match statement {
                    Some(Value::Text(text)) => format!(" {}", String::from_utf8(text).unwrap()),
                    _ => String::new(),
                };
                format!("{kind}{}{statement}", String::from_utf8_lossy(name))
            }
            (table, _) => format!("{kind}{table} {}", entry.rowid),
        }
    };
    entries.iter().map(describe).collect()
}

/// The difference between two databases given by SQL, after a check that replaying it leads from one to the other.
fn changes(from: &str, to: &str) -> Vec<String> {
    let (from, to) = (plain(from), plain(to));
    let (found, entries) = difference(&from, &to);
    assert_eq!(found.changes, entries.len() as u64);
    assert!(
        entries
            .iter()
            .all(|e| e.txn_id == 7 && e.change_time == 1000 && e.depth == 0)
    );
    let ids: Vec<i64> = entries.iter().map(|e| e.change_id).collect();
    assert_eq!(ids, (7..7 + entries.len() as i64).collect::<Vec<_>>());
    create_local_tables(&from).unwrap();
    create_local_tables(&to).unwrap();
    entries.iter().for_each(|e| write_entry(&to, e).unwrap());
    let progress = Progress {
        acknowledged: 0,
        sent: 0,
        last: 1000,
    };
    rebase(&to, &from, progress).unwrap();
    assert_eq!(dump(&from), dump(&to));
    describe(&entries)
}

#[test]
fn equal_databases_have_none() {
    let sql = "CREATE TABLE t (id INTEGER PRIMARY KEY, x); CREATE VIEW v AS SELECT 1; CREATE TABLE k (a, b);
               INSERT INTO t VALUES (1, 0.5), (2, NULL); INSERT INTO k VALUES (1, 2), (1, 2)";
    assert_eq!(changes(sql, sql), [""; 0]);
    assert_eq!(changes("", ""), [""; 0]);
    let (found, _) = difference(&plain(sql), &plain(sql));
    assert!(found.is_empty() && found.tables.is_empty());
}

#[test]
fn against_nothing_everything_is_new_and_the_schema_comes_in_an_order_that_works() {
    let to = "CREATE TABLE t (id INTEGER PRIMARY KEY, x UNIQUE); CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM u; END;
              CREATE INDEX i ON t(x); CREATE TABLE u (a); CREATE VIEW v AS SELECT * FROM t; INSERT INTO t VALUES (3, 'x');
              INSERT INTO u VALUES (1)";
    assert_eq!(changes("", to), ["+t", "+u", "+t 3", "+u 1", "+i", "+v", "+g"]);
}

#[test]
fn rows_are_told_apart_by_key_or_rowid() {
    let schema =
        "CREATE TABLE i (id INTEGER PRIMARY KEY, x); CREATE TABLE k (k TEXT PRIMARY KEY COLLATE NOCASE, x);
                  CREATE TABLE w (a, b, x, PRIMARY KEY (b, a)) WITHOUT ROWID; CREATE TABLE n (x)";
    let from = format!(
        "{schema}; INSERT INTO i VALUES (1, 1), (2, 2), (3, 3); INSERT INTO w VALUES (1, 1, 1), (2, 2, 2);
         INSERT INTO k VALUES ('a', 1), ('b', 2), (NULL, 3), (NULL, 4); INSERT INTO n VALUES ('a'), ('a'), ('c')"
    );
    let to = format!(
        "{schema}; INSERT INTO i VALUES (1, 1), (2, 'new'), (4, 4); INSERT INTO w VALUES (1, 1, 'new'), (3, 3, 3);
         INSERT INTO k VALUES ('c', 1), ('B', 2), (NULL, 3), (NULL, 5); INSERT INTO n VALUES ('a'), ('b'), ('c')"
    );
    assert_eq!(
        changes(&from, &to),
        [
            "~i 2", "-i 3", "+i 4", "-k 1", "~k 4", "+k 1", "~k 2", "-w 0", "~w 0", "+w 0", "~n 2"
        ]
    );
}

#[test]
fn a_row_may_get_a_key_and_lose_it() {
    let schema = "CREATE TABLE m (k TEXT PRIMARY KEY, v); INSERT INTO m VALUES (NULL, 1), ('a', 2), (NULL, 1), ('b', 3)";
    let to = |sql: &str| changes(schema, &format!("{schema}; {sql}"));
    assert_eq!(to("UPDATE m SET k = 'c' WHERE rowid = 1"), ["-m 1", "+m 1"]);
    assert_eq!(to("UPDATE m SET k = NULL WHERE rowid = 2"), ["-m 2", "+m 2"]);
}

#[test]
fn values_are_compared_bit_for_bit() {
    let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, x)";
    for (a, b) in [
        ("0.0", "-0.0"),
        ("1", "1.0"),
        ("'1'", "1"),
        ("''", "x''"),
        ("''", "NULL"),
        ("'a'", "'a' || char(0)"),
        ("9e999", "-9e999"),
        ("CAST(x'ff' AS TEXT)", "CAST(x'fe' AS TEXT)"),
    ] {
        let with = |value| format!("{table}; INSERT INTO t VALUES (1, {value})");
        assert_eq!(changes(&with(a), &with(b)), ["~t 1"], "{a} {b}");
    }
}

#[test]
fn values_of_a_unique_index_may_swap() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE, x)";
    let from = format!("{schema}; INSERT INTO t VALUES (1, 1, 0), (2, 2, 0), (3, 3, 0)");
    let to = format!("{schema}; INSERT INTO t VALUES (1, 2, 0), (2, 1, 0), (3, 3, 1)");
    assert_eq!(changes(&from, &to), ["-t 1", "-t 2", "+t 1", "+t 2", "~t 3"]);
    let to = format!("{schema}; INSERT INTO t VALUES (1, 7, 0), (2, 2, 0), (3, NULL, 0)");
    assert_eq!(changes(&from, &to), ["~t 1", "~t 3"]);
}

#[test]
fn triggers_do_not_do_their_part_again() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE log (what); CREATE TABLE other (x);
                  CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END;
                  CREATE TRIGGER h AFTER INSERT ON other BEGIN INSERT INTO log VALUES (new.x); END";
    let to = format!("{schema}; INSERT INTO t VALUES (1), (2)");
    let expected = ["-g", "+t 1", "+t 2", "+log 1", "+log 2", "+g"];
    assert_eq!(changes(schema, &to), expected);
}

#[test]
fn tables_are_altered_where_that_leads_to_the_other_text() {
    let from = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b DEFAULT 'x, y'); INSERT INTO t VALUES (1, 1, 1);
                CREATE INDEX i ON t(a)";
    let altered = |sql: &str| changes(from, &format!("{from}; {sql}"));
    assert_eq!(
        altered(
            "ALTER TABLE t ADD COLUMN c DEFAULT 'p, q'; ALTER TABLE t ADD COLUMN d TEXT CHECK (d IN ('a', 'b'))"
        ),
        [
            "~t ALTER TABLE \"t\" ADD COLUMN c DEFAULT 'p, q'",
            "~t ALTER TABLE \"t\" ADD COLUMN d TEXT CHECK (d IN ('a', 'b'))"
        ]
    );
    assert_eq!(
        altered("ALTER TABLE t DROP COLUMN b; UPDATE t SET a = 2"),
        ["~t ALTER TABLE \"t\" DROP COLUMN \"b\"", "~t 1"]
    );
    assert_eq!(
        altered("ALTER TABLE t RENAME COLUMN a TO z"),
        ["-i", "~t ALTER TABLE \"t\" RENAME COLUMN \"a\" TO z", "+i"]
    );
    assert_eq!(
        altered("ALTER TABLE t RENAME COLUMN b TO \"new\""),
        ["~t ALTER TABLE \"t\" RENAME COLUMN \"b\" TO \"new\""]
    );
    // A new name, a new type, and what ALTER TABLE cannot do.
    assert_eq!(
        altered("ALTER TABLE t RENAME TO s"),
        ["-i", "-t", "+s", "+s 1", "+i"]
    );
    assert_eq!(
        altered(
            "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b); INSERT INTO t VALUES (2, 'a', 'b')"
        ),
        ["-i", "-t", "+t", "+t 2"]
    );
}

#[test]
fn a_table_that_is_made_anew_gets_back_what_belongs_to_it() {
    let from =
        "CREATE TABLE t (a); CREATE INDEX i ON t(a); CREATE TRIGGER g AFTER DELETE ON t BEGIN SELECT 1; END;
                INSERT INTO t VALUES (1)";
    let to = "CREATE TABLE t (a TEXT); CREATE INDEX i ON t(a); CREATE TRIGGER g AFTER DELETE ON t BEGIN SELECT 1; END";
    assert_eq!(changes(from, to), ["-t", "+t", "+i", "+g"]);
}

#[test]
fn full_text_and_rtree_tables_have_rows_and_no_storage() {
    let schema = "CREATE VIRTUAL TABLE f USING fts5(x); CREATE VIRTUAL TABLE r USING rtree(id, a, b);
                  CREATE TABLE src (id INTEGER PRIMARY KEY, x);
                  CREATE VIRTUAL TABLE e USING fts5(x, content='src', content_rowid='id')";
    let to = format!(
        "{schema}; INSERT INTO f(rowid, x) VALUES (5, 'word'); INSERT INTO r VALUES (6, 1, 2);
         INSERT INTO src VALUES (7, 'other'); INSERT INTO e(rowid, x) VALUES (7, 'other')"
    );
    let (from, to) = (plain(schema), plain(&to));
    let (found, entries) = difference(&from, &to);
    assert_eq!(describe(&entries), ["+src 7", "+f 5", "+r 6", "~e 0"]);
    assert_eq!(found.tables, ["e", "f", "r", "src"]);
    create_local_tables(&from).unwrap();
    create_local_tables(&to).unwrap();
    entries.iter().for_each(|e| write_entry(&to, e).unwrap());
    let progress = Progress {
        acknowledged: 0,
        sent: 0,
        last: 1000,
    };
    rebase(&to, &from, progress).unwrap();
    for sql in [
        "SELECT rowid FROM f WHERE f MATCH 'word'",
        "SELECT id FROM r WHERE a >= 1",
        "SELECT rowid FROM e WHERE e MATCH 'other'",
    ] {
        let find = |conn: &Connection| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(find(&from), find(&to), "{sql}");
    }
}

#[test]
fn local_tables_and_the_engines_own_are_passed_over() {
    let from = "CREATE TABLE t (a); CREATE TABLE cache (a)";
    let to = "CREATE TABLE t (a); CREATE TABLE Cache (a, b); INSERT INTO cache VALUES (1, 2); CREATE INDEX i ON cache(a);
              CREATE TABLE turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen, change_id);
              INSERT INTO turso_sync_last_change_id VALUES ('c', 0, 1); ANALYZE";
    let (found, entries) = difference(&plain(from), &plain(to));
    assert!(found.is_empty(), "{:?}", describe(&entries));
}

#[test]
fn an_error_of_the_receiver_ends_it() {
    let (from, to) = (
        plain("CREATE TABLE t (a)"),
        plain("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)"),
    );
    let numbering = Numbering {
        first_change_id: i64::MAX,
        change_time: 0,
    };
    let mut seen = 0;
    let failed = diff(&from, &to, &|_| false, numbering, &mut |_| {
        seen += 1;
        Err(Error::busy("no"))
    });
    assert_eq!((failed.unwrap_err().message.as_str(), seen), ("no", 1));
    let failed = diff(&from, &to, &|_| false, numbering, &mut |_| Ok(()));
    assert!(failed.unwrap_err().message.contains("used up"));
}

/// Rows without a key have moved, and each side has some of its own.
#[test]
fn strangers_share_rows_that_look_the_same() {
    let schema = "CREATE TABLE note (text); CREATE TABLE hidden (rowid, _rowid_, oid);
        CREATE TABLE item (name TEXT PRIMARY KEY, price); CREATE TABLE same (x);";
    let database = |rows: &str| {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!("{schema} {rows}")).unwrap();
        conn
    };
    let from = database(
        "INSERT INTO note VALUES ('theirs'), ('both'), ('twice here'), (NULL), (1), (0.0);
         INSERT INTO hidden VALUES (1, 2, 3), (4, 5, 6); INSERT INTO same VALUES (1), (2);
         INSERT INTO item VALUES ('a', 1), ('only theirs', 2), (NULL, 'both'), (NULL, 'theirs')",
    );
    let to = database(
        "INSERT INTO note VALUES ('twice here'), (-0.0), (NULL), ('twice here'), ('both'), (1.0);
         INSERT INTO hidden VALUES (4, 5, 6), (7, 8, 9); INSERT INTO same VALUES (2), (1);
         INSERT INTO item VALUES (NULL, 'ours'), ('only ours', 3), (NULL, 'both'), ('a', 9)",
    );
    let numbering = Numbering {
        first_change_id: 1,
        change_time: 0,
    };
    let (mut changes, mut kept) = (Vec::new(), 0);
    let found = diff_of_strangers(&from, &to, &|_| false, numbering, &mut |entry| {
        kept += usize::from(keeps_everything(&entry, &to).unwrap());
        changes.push(format!("{} {:?}", entry.table, entry.change_type));
        Ok(())
    })
    .unwrap();
    changes.sort();
    let mut wanted = Vec::new();
    for (count, what) in [
        (1, "hidden Delete"),
        (1, "hidden Insert"),
        (2, "item Delete"),
        (2, "item Insert"),
        (1, "item Update"),
        (3, "note Delete"),
        (3, "note Insert"),
    ] {
        wanted.extend(std::iter::repeat_n(what.to_owned(), count));
    }
    assert_eq!(changes, wanted);
    assert_eq!(
        (kept, found.tables),
        (7, ["hidden", "item", "note"].map(String::from).to_vec())
    );
}

//! Full-text and R*Tree indexes that several replicas change between syncs: every side ends with the same rows and a
//! sound index.

mod support;

use std::path::Path;

use proptest::prelude::*;
use support::{Remote, Replica, drive, forward, options, plain, run};
use turso_sync::engine::{ConflictPolicy, Resolution};
use turso_sync::io::HttpRequest;

/// Indexes that are written directly, and indexes that triggers on a table keep.
const SCHEMA: &str = "
    CREATE VIRTUAL TABLE ft USING fts5(title, body);
    CREATE VIRTUAL TABLE old USING fts4(body);
    CREATE VIRTUAL TABLE box USING rtree(id, x0, x1, y0, y1, +label);
    CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body);
    CREATE VIRTUAL TABLE ext USING fts5(title, body, content = notes, content_rowid = id);
    CREATE VIRTUAL TABLE own USING fts5(title, body);
    CREATE VIRTUAL TABLE bare USING fts5(title, body, content = '');
    CREATE TRIGGER notes_i AFTER INSERT ON notes BEGIN
      INSERT INTO ext(rowid, title, body) VALUES (new.id, new.title, new.body);
      INSERT INTO own(rowid, title, body) VALUES (new.id, new.title, new.body);
      INSERT INTO bare(rowid, title, body) VALUES (new.id, new.title, new.body);
    END;
    CREATE TRIGGER notes_d AFTER DELETE ON notes BEGIN
      INSERT INTO ext(ext, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
      DELETE FROM own WHERE rowid = old.id;
      INSERT INTO bare(bare, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
    END;
    CREATE TRIGGER notes_u AFTER UPDATE ON notes BEGIN
      INSERT INTO ext(ext, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
      INSERT INTO ext(rowid, title, body) VALUES (new.id, new.title, new.body);
      UPDATE own SET title = new.title, body = new.body WHERE rowid = new.id;
      INSERT INTO bare(bare, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
      INSERT INTO bare(rowid, title, body) VALUES (new.id, new.title, new.body);
    END;";

const WORDS: [&str; 8] = ["apple", "bread", "cheese", "date", "egg", "fig", "grape", "honey"];

/// All rows and all answers of a database; fails if an index does not fit its rows.
fn state(path: &Path) -> Vec<String> {
    let conn = plain(path);
    let check: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    conn.execute_batch(
        "BEGIN; INSERT INTO ft(ft) VALUES ('integrity-check'); INSERT INTO own(own) VALUES ('integrity-check');
         INSERT INTO ext(ext, rank) VALUES ('integrity-check', 1); INSERT INTO bare(bare) VALUES ('integrity-check');
         INSERT INTO old(old) VALUES ('integrity-check'); ROLLBACK",
    )
    .unwrap();
    let check: String = conn
        .query_row("SELECT rtreecheck('box')", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    let mut out = Vec::new();
    let mut query = |sql: &str| {
        let mut statement = conn.prepare(sql).unwrap();
        let count = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values = (0..count).map(|i| format!("{:?}", row.get_ref(i).unwrap()));
            out.push(format!("{sql}: {}", values.collect::<Vec<_>>().join(", ")));
        }
    };
    for table in ["ft", "old", "ext", "own", "notes", "box"] {
        query(&format!("SELECT rowid, * FROM {table} ORDER BY rowid"));
    }
    for word in WORDS {
        for index in ["ft", "ext", "own", "bare", "old"] {
            query(&format!(
                "SELECT rowid FROM {index} WHERE {index} MATCH '{word}' ORDER BY rowid"
            ));
        }
    }
    query("SELECT id FROM box WHERE x0 < 3 AND y1 > 2 ORDER BY id");
    out
}

fn replicas(remote: &Remote, dir: &Path, count: usize) -> Vec<Replica> {
    (0..count)
        .map(|i| Replica::open(&dir.join(format!("{i}.db")), &remote.url))
        .collect()
}

/// Syncs all until they have each other's changes, and compares.
fn converge(remote: &Remote, replicas: &[&Replica]) -> Vec<String> {
    for _ in 0..2 {
        replicas.iter().for_each(|r| _ = r.sync().unwrap());
    }
    let there = state(&remote.path);
    for replica in replicas {
        assert_eq!(state(&replica.path), there);
        assert_eq!(replica.pending(), 0);
    }
    there
}

fn rowids(remote: &Remote, sql: &str) -> String {
    let conn = plain(&remote.path);
    let sql = format!("SELECT coalesce(group_concat(r, ' '), '') FROM ({sql})");
    conn.query_row(&sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn concurrent_changes_of_one_index_converge_in_both_orders() {
    for turned in [false, true] {
        let remote = Remote::start(SCHEMA);
        let dir = tempfile::tempdir().unwrap();
        let all = replicas(&remote, dir.path(), 2);
        let [a, b] = [&all[0], &all[1]];
        a.sql(
            "INSERT INTO ft VALUES ('one', 'apple'), ('two', 'bread'), ('three', 'cheese'), ('four', 'date');
             INSERT INTO box VALUES (1, 0, 1, 0, 1, 'a'), (2, 1, 2, 1, 2, 'b'), (3, 2, 3, 2, 3, NULL);
             INSERT INTO notes VALUES (1, 'one', 'apple'), (2, 'two', 'bread'), (3, 'three', 'cheese');
             INSERT INTO old VALUES ('apple'), ('bread')",
        );
        converge(&remote, &[a, b]);
        a.sql(
            "UPDATE ft SET body = 'egg' WHERE rowid = 1; DELETE FROM ft WHERE rowid = 2;
             INSERT INTO ft(rowid, body) VALUES (10, 'fig'); INSERT INTO ft(rowid, body) VALUES (20, 'grape from a');
             UPDATE box SET x1 = 9 WHERE id = 1; DELETE FROM box WHERE id = 2; INSERT INTO box VALUES (10, 1, 2, 3, 4, 'a');
             UPDATE notes SET body = 'egg' WHERE id = 1; DELETE FROM notes WHERE id = 2; INSERT INTO notes VALUES (10, 'ten', 'fig');
             UPDATE old SET body = 'egg' WHERE docid = 1; INSERT INTO old(docid, body) VALUES (5, 'fig')",
        );
        b.sql(
            "UPDATE ft SET title = 'uno' WHERE rowid = 3; DELETE FROM ft WHERE rowid = 4;
             INSERT INTO ft(rowid, body) VALUES (11, 'honey'); INSERT INTO ft(rowid, body) VALUES (20, 'grape from b');
             UPDATE box SET y1 = 9 WHERE id = 3; INSERT INTO box VALUES (11, 1, 2, 3, 4, 'b');
             UPDATE notes SET title = 'uno' WHERE id = 1; DELETE FROM notes WHERE id = 3; INSERT INTO notes VALUES (11, 'elf', 'honey');
             DELETE FROM old WHERE docid = 2; INSERT INTO old(docid, body) VALUES (5, 'honey')",
        );
        let order = if turned { [b, a] } else { [a, b] };
        converge(&remote, &order);
        assert_eq!(
            rowids(&remote, "SELECT rowid AS r FROM ft ORDER BY rowid"),
            "1 3 10 11 20"
        );
        assert_eq!(
            rowids(
                &remote,
                "SELECT rowid AS r FROM ft('egg OR fig OR honey') ORDER BY rowid"
            ),
            "1 10 11"
        );
        let last = if turned { "grape from a" } else { "grape from b" };
        assert_eq!(rowids(&remote, "SELECT body AS r FROM ft WHERE rowid = 20"), last);
        assert_eq!(
            rowids(&remote, "SELECT id AS r FROM box ORDER BY id"),
            "1 3 10 11"
        );
        assert_eq!(
            rowids(&remote, "SELECT title || body AS r FROM notes WHERE id = 1"),
            "unoegg"
        );
        assert_eq!(rowids(&remote, "SELECT rowid AS r FROM ext('uno AND egg')"), "1");
        assert_eq!(
            rowids(&remote, "SELECT rowid AS r FROM ext('apple OR bread OR cheese')"),
            ""
        );
        let (five, other) = if turned {
            ("fig", "honey")
        } else {
            ("honey", "fig")
        };
        assert_eq!(
            rowids(
                &remote,
                &format!("SELECT docid AS r FROM old WHERE old MATCH '{five}'")
            ),
            "5"
        );
        assert_eq!(
            rowids(
                &remote,
                &format!("SELECT docid AS r FROM old WHERE old MATCH '{other}'")
            ),
            ""
        );
    }
}

#[test]
fn an_update_brings_a_deleted_row_back() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let all = replicas(&remote, dir.path(), 2);
    let [a, b] = [&all[0], &all[1]];
    a.sql("INSERT INTO ft VALUES ('one', 'apple'); INSERT INTO box VALUES (1, 0, 1, 0, 1, 'a')");
    converge(&remote, &[a, b]);
    a.sql("DELETE FROM ft; DELETE FROM box");
    b.sql("UPDATE ft SET body = 'egg'; UPDATE box SET x1 = 2");
    converge(&remote, &[a, b]);
    assert_eq!(rowids(&remote, "SELECT title AS r FROM ft('egg')"), "one");
    assert_eq!(rowids(&remote, "SELECT label AS r FROM box WHERE x1 = 2"), "a");
}

#[test]
fn an_index_created_and_filled_offline_arrives_with_its_settings() {
    let remote = Remote::start("CREATE TABLE t(x)");
    let dir = tempfile::tempdir().unwrap();
    let all = replicas(&remote, dir.path(), 2);
    all[0].sql(
        "BEGIN; CREATE VIRTUAL TABLE f USING fts5(x, tokenize = 'porter', prefix = '2 3');
         INSERT INTO f VALUES ('running fast'), (NULL), (x'00ff'), (9e999); COMMIT;
         INSERT INTO f(f, rank) VALUES ('rank', 'bm25(3.0)'); INSERT INTO f(f) VALUES ('optimize');
         CREATE VIRTUAL TABLE b USING rtree(id, x0, x1); INSERT INTO b VALUES (5, 0.1, 1e30), (-5, -9e999, 9e999);
         ALTER TABLE f RENAME TO g; INSERT INTO g VALUES ('runs'); CREATE TABLE d(x); INSERT INTO d VALUES ('apple');
         CREATE VIRTUAL TABLE e USING fts5(x, content = d); INSERT INTO e(e) VALUES ('rebuild')",
    );
    all[0].push().unwrap();
    all[1].pull().unwrap();
    all[0].pull().unwrap();
    for path in [&remote.path, &all[0].path, &all[1].path] {
        let conn = plain(path);
        let text = |sql: &str| -> String { conn.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(text("SELECT group_concat(x) FROM g('run')"), "running fast,runs");
        assert_eq!(
            text("SELECT group_concat(typeof(x)) FROM g"),
            "text,null,blob,real,text"
        );
        assert_eq!(text("SELECT v FROM g_config WHERE k = 'rank'"), "bm25(3.0)");
        assert_eq!(
            text("SELECT group_concat(id) FROM (SELECT id FROM b WHERE x1 >= 1e30 ORDER BY id)"),
            "-5,5"
        );
        assert_eq!(
            text("SELECT hex(quote(x0)) FROM b WHERE id = 5"),
            text("SELECT hex(quote(x0)) FROM b WHERE id = 5")
        );
        assert_eq!(text("SELECT x FROM e('apple')"), "apple");
        conn.execute_batch("INSERT INTO g(g) VALUES ('integrity-check'); INSERT INTO e(e, rank) VALUES ('integrity-check', 1)")
            .unwrap();
    }
    all[1].sql("DROP TABLE g; DROP TABLE b; DROP TABLE e");
    all[1].sync().unwrap();
    all[0].sync().unwrap();
    assert_eq!(
        all[0].text("SELECT count(*) FROM sqlite_schema WHERE sql LIKE '%VIRTUAL%'"),
        "0"
    );
}

#[test]
fn an_index_on_other_content_is_rebuilt_where_no_trigger_keeps_it() {
    let remote = Remote::start(
        "CREATE TABLE d(id INTEGER PRIMARY KEY, x); CREATE VIRTUAL TABLE f USING fts5(x, content = d, content_rowid = id);
         INSERT INTO d VALUES (1, 'apple'), (2, 'bread'); INSERT INTO f(f) VALUES ('rebuild')",
    );
    let dir = tempfile::tempdir().unwrap();
    let all = replicas(&remote, dir.path(), 2);
    all[0].sql(
        "INSERT INTO f(f, rowid, x) VALUES ('delete', 1, 'apple'); UPDATE d SET x = 'fig' WHERE id = 1;
         INSERT INTO f(rowid, x) VALUES (1, 'fig')",
    );
    all[1].sql(
        "INSERT INTO f(f, rowid, x) VALUES ('delete', 1, 'apple'); UPDATE d SET x = 'egg' WHERE id = 1;
         INSERT INTO f(rowid, x) VALUES (1, 'egg'); INSERT INTO d VALUES (3, 'date'); INSERT INTO f(rowid, x) VALUES (3, 'date')",
    );
    for _ in 0..2 {
        all.iter().for_each(|r| _ = r.sync().unwrap());
    }
    for path in [&remote.path, &all[0].path, &all[1].path] {
        let conn = plain(path);
        conn.execute_batch("INSERT INTO f(f, rank) VALUES ('integrity-check', 1)")
            .unwrap();
        let found: String = conn
            .query_row(
                "SELECT group_concat(rowid) FROM f('egg OR date OR bread')",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(found, "1,2,3");
    }
}

#[test]
fn a_local_repair_of_a_damaged_index_reaches_everybody() {
    let remote = Remote::start(
        "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('apple'); UPDATE f_content SET c0 = 'bread'",
    );
    let dir = tempfile::tempdir().unwrap();
    let all = replicas(&remote, dir.path(), 2);
    all[0].sql("INSERT INTO f(f) VALUES ('rebuild')");
    all[0].sync().unwrap();
    all[1].sync().unwrap();
    for path in [&remote.path, &all[0].path, &all[1].path] {
        plain(path)
            .execute_batch("INSERT INTO f(f) VALUES ('integrity-check')")
            .unwrap();
        assert_eq!(
            plain(path).query_row("SELECT count(*) FROM f('bread')", [], |r| r.get::<_, i64>(0)),
            Ok(1)
        );
    }
}

#[test]
fn what_the_remote_cannot_do_is_a_clear_error() {
    let remote = Remote::start("CREATE TABLE t(x)");
    let dir = tempfile::tempdir().unwrap();
    let all = replicas(&remote, dir.path(), 2);
    all[0].sql("CREATE VIRTUAL TABLE f USING fts5(x)");
    all[0].push().unwrap();
    all[1].sql("CREATE VIRTUAL TABLE f USING fts5(x, y); INSERT INTO f VALUES ('a', 'b')");
    let e = all[1].push().unwrap_err();
    assert!(e.message.contains("the remote has another table named f"), "{e}");
    let e = all[1].pull().unwrap_err();
    assert!(e.message.contains("the remote has another table named f"), "{e}");
    assert_eq!(all[1].text("SELECT y FROM f('a')"), "b");
}

#[test]
fn a_remote_without_the_module_is_a_clear_error() {
    let remote = Remote::start("CREATE TABLE t(x)");
    let dir = tempfile::tempdir().unwrap();
    let r = Replica::open(&dir.path().join("r.db"), &remote.url);
    r.sql("CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('apple')");
    let e = drive(&r.engine, r.engine.push_changes_to_remote(), &mut |http, _| {
        let body = String::from_utf8_lossy(&http.body).replace("USING fts5", "USING absent");
        forward(&HttpRequest {
            body: body.into(),
            ..http.clone()
        })
    })
    .unwrap_err();
    assert!(
        e.message
            .contains("table f: the remote refused a statement: no such module"),
        "{e}"
    );
    assert!(e.message.contains("it stays pending"), "{e}");
    assert_eq!(r.text("SELECT x FROM f('apple')"), "apple");
}

#[test]
fn a_conflict_takes_the_rows_of_its_transaction_along_and_back() {
    let remote = Remote::start(&format!(
        "{SCHEMA} CREATE TABLE u(id INTEGER PRIMARY KEY, e UNIQUE)"
    ));
    let dir = tempfile::tempdir().unwrap();
    let theirs = Replica::open(&dir.path().join("theirs.db"), &remote.url);
    let mut opts = options(&dir.path().join("ours.db"), &remote.url);
    opts.conflict_policy = ConflictPolicy::SetAside;
    let ours = Replica::open_with(opts).unwrap();
    ours.sql(
        "INSERT INTO ft(body) VALUES ('apple'), ('bread'); INSERT INTO box VALUES (1, 0, 1, 0, 1, 'a'), (2, 0, 1, 0, 1, 'b');
         INSERT INTO old(body) VALUES ('apple'), ('bread')",
    );
    converge(&remote, &[&ours, &theirs]);
    let before = state(&remote.path);
    theirs.sql("INSERT INTO u VALUES (1, 'taken')");
    theirs.push().unwrap();
    ours.sql(
        "BEGIN; INSERT INTO u VALUES (2, 'taken'); INSERT INTO ft(body) VALUES ('cheese'); UPDATE ft SET body = 'fig' WHERE rowid = 1;
         UPDATE box SET x1 = 5 WHERE id = 1; DELETE FROM box WHERE id = 2; DELETE FROM old WHERE docid = 2;
         INSERT INTO ft(ft) VALUES ('rebuild'); COMMIT;
         UPDATE box SET label = 'builds on it' WHERE id = 1",
    );
    assert_eq!(converge(&remote, &[&ours, &theirs]), before);
    let conflicts = ours.engine.conflicts().unwrap();
    assert_eq!(conflicts.len(), 2, "{conflicts:#?}");
    theirs.sql("DELETE FROM u");
    theirs.push().unwrap();
    ours.sync().unwrap();
    for conflict in conflicts {
        run(
            &ours.engine,
            ours.engine.resolve_conflict(conflict.txn_id, Resolution::Retry),
        )
        .unwrap();
    }
    converge(&remote, &[&ours, &theirs]);
    assert_eq!(
        rowids(&remote, "SELECT rowid AS r FROM ft('fig OR cheese')"),
        "1 3"
    );
    assert_eq!(
        rowids(&remote, "SELECT label AS r FROM box WHERE x1 = 5"),
        "builds on it"
    );
    assert_eq!(rowids(&remote, "SELECT docid AS r FROM old"), "1");
}

/// A step of a history: (client, what, row, word, word).
type Step = (usize, u8, i64, usize, usize);

fn sql(step: Step) -> String {
    let (_, what, id, one, two) = step;
    let (one, two) = (WORDS[one], WORDS[two]);
    match what {
        0 | 1 => {
            format!("INSERT OR REPLACE INTO ft(rowid, title, body) VALUES ({id}, '{one}', '{two} {one}')")
        }
        2 => format!("UPDATE ft SET title = '{one}', body = body || ' {two}' WHERE rowid = {id}"),
        3 => format!("DELETE FROM ft WHERE rowid = {id}"),
        4 => format!("INSERT INTO ft(title) VALUES ('{one}')"),
        5 => format!("INSERT OR REPLACE INTO box VALUES ({id}, {id}, {id} + 2, 1, 4, '{one}')"),
        6 => format!("UPDATE box SET x1 = x1 + 1, label = '{two}' WHERE id <= {id}"),
        7 => format!("DELETE FROM box WHERE id = {id}"),
        8 => format!(
            "WITH n(i) AS (VALUES ({id} * 50) UNION ALL SELECT i + 1 FROM n WHERE i < {id} * 50 + 45)
             INSERT OR REPLACE INTO box SELECT i, i % 13, i % 13 + 1, i % 7, i % 7 + 2, '{one}' FROM n"
        ),
        9 => format!("DELETE FROM box WHERE id > {id} * 30"),
        10 | 11 => format!("INSERT INTO notes VALUES ({id}, '{one}', '{two}') ON CONFLICT DO NOTHING"),
        12 => format!("UPDATE notes SET title = '{one}' WHERE id = {id}"),
        13 => format!("UPDATE notes SET body = '{two}' WHERE id >= {id}"),
        14 => format!("DELETE FROM notes WHERE id = {id}"),
        15 => format!("INSERT OR REPLACE INTO old(docid, body) VALUES ({id}, '{one} {two}')"),
        16 => format!("DELETE FROM old WHERE docid = {id}"),
        17 => "INSERT INTO ft(ft) VALUES ('optimize'); INSERT INTO old(old) VALUES ('optimize')".to_owned(),
        18 => format!(
            "BEGIN; INSERT INTO notes(title, body) VALUES ('{one}', '{two}'); SAVEPOINT s;
             INSERT OR REPLACE INTO ft(rowid, body) VALUES ({id}, 'lost'); ROLLBACK TO s;
             INSERT INTO ft(body) VALUES ('{two}'); DELETE FROM notes WHERE id = {id}; COMMIT"
        ),
        _ => format!(
            "UPDATE ft SET rowid = rowid + 20 WHERE rowid = {id} AND NOT EXISTS (SELECT 1 FROM ft WHERE rowid = {id} + 20)"
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn random_histories_converge(
        clients in 2..4usize,
        steps in prop::collection::vec((0..3usize, 0..26u8, 1..7i64, 0..8usize, 0..8usize), 5..40),
    ) {
        let remote = Remote::start(SCHEMA);
        let dir = tempfile::tempdir().unwrap();
        let all = replicas(&remote, dir.path(), clients);
        for step in steps {
            let replica = &all[step.0 % clients];
            match step.1 {
                20 | 21 => replica.push().unwrap(),
                22 | 23 => _ = replica.pull().unwrap(),
                24 | 25 => _ = replica.sync().unwrap(),
                _ => replica.sql(&sql(step)),
            }
        }
        converge(&remote, &all.iter().collect::<Vec<_>>());
    }
}

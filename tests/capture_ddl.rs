//! Schema changes in the change log.

mod capture_support;

use capture_support::*;
use turso_sync::capture::Step;
use turso_sync::error::Code;

fn log_of(schema: &str, sql: &str) -> Vec<String> {
    let r = Replica::new(schema);
    run(&r.open(), sql);
    let strip = |line: String| match line.split_once("sqlite_schema#0") {
        // Root pages are beside the point.
        Some((sign, rest)) => {
            let is_page = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let parts = rest.split(',').map(|part| if is_page(part) { "_" } else { part });
            format!("{sign}{}", parts.collect::<Vec<_>>().join(","))
        }
        None => line,
    };
    r.log().into_iter().map(strip).collect()
}

const T: &str = "CREATE TABLE t(a, b);";

#[test]
fn create_logs_the_object_alone() {
    let log = log_of(
        "",
        " /* x */ CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b UNIQUE); CREATE INDEX i ON t(b);
        CREATE VIEW v AS SELECT 1; CREATE TRIGGER t AFTER INSERT ON t BEGIN SELECT 1; END",
    );
    assert_eq!(
        log,
        [
            "+>'table','t','t',_,'CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b UNIQUE)'",
            "+>'index','i','t',_,'CREATE INDEX i ON t(b)'",
            "+>'view','v','v',_,'CREATE VIEW v AS SELECT 1'",
            "+>'trigger','t','t',_,'CREATE TRIGGER t AFTER INSERT ON t BEGIN SELECT 1; END'",
        ]
    );
}

#[test]
fn create_as_select_logs_the_rows_once() {
    let log = log_of(
        "CREATE TABLE t(a REAL); INSERT INTO t VALUES (1), (2);",
        "CREATE TABLE x AS SELECT * FROM t",
    );
    assert_eq!(log[0], "+>'table','x','x',_,'CREATE TABLE x(a REAL)'");
    assert_eq!(log[1..], ["+x#1>1.0", "+x#2>2.0"]);
}

/// The rows of such a table have the rowids from 1 on, in the order of the SELECT, which also holds where no name of the
/// rowid is left.
#[test]
fn create_as_select_numbers_its_rows() {
    let select = "SELECT column1 AS a, column2 AS b, column3 AS c FROM (VALUES (7, 1, 1), (9, 1, 1), (8, 1, 1)) ORDER BY 1 DESC";
    let shown = log_of("", &format!("CREATE TABLE x AS {select}"));
    assert_eq!(shown[1..], ["+x#1>9,1,1", "+x#2>8,1,1", "+x#3>7,1,1"]);
    let hidden = select
        .replace("AS a", "AS rowid")
        .replace("AS b", "AS _rowid_")
        .replace("AS c", "AS oid");
    assert_eq!(
        log_of("", &format!("CREATE TABLE x AS {hidden}"))[1..],
        shown[1..]
    );
}

#[test]
fn statements_without_effect_log_nothing() {
    let log = log_of(
        T,
        "CREATE TABLE IF NOT EXISTS t(x); DROP TABLE IF EXISTS u; REINDEX; ANALYZE; \
                         CREATE TEMP VIEW tv AS SELECT 1; DROP VIEW tv",
    );
    assert_eq!(log, [""; 0]);
}

#[test]
fn drop_logs_the_object_alone() {
    let schema = format!(
        "{T} CREATE UNIQUE INDEX i ON t(a); CREATE TRIGGER t AFTER INSERT ON t BEGIN SELECT 1; END;
        INSERT INTO t VALUES (1, 2); CREATE VIEW v AS SELECT 1;"
    );
    let log = log_of(&schema, "DROP VIEW v; DROP TABLE T");
    assert_eq!(
        log,
        [
            "-<'view','v','v',_,'CREATE VIEW v AS SELECT 1'",
            "-<'table','t','t',_,'CREATE TABLE t(a, b)'"
        ]
    );
}

#[test]
fn dropping_a_referenced_table_logs_what_happens_to_other_tables() {
    let schema = "CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);
        CREATE TABLE c(p REFERENCES p ON DELETE CASCADE); INSERT INTO c VALUES (1);";
    let log = log_of(schema, "PRAGMA foreign_keys = ON; DROP TABLE p");
    assert_eq!(
        log,
        [
            "-c#1<1@-1",
            "-<'table','p','p',_,'CREATE TABLE p(id INTEGER PRIMARY KEY)'"
        ]
    );
}

#[test]
fn alter_carries_its_text() {
    let log = log_of(
        &format!("{T} INSERT INTO t VALUES (1, 2);"),
        "-- add\nALTER TABLE t ADD COLUMN c DEFAULT 5 ; ALTER TABLE t RENAME COLUMN a TO z;
         ALTER TABLE main.t DROP COLUMN b; ALTER TABLE t RENAME TO u; UPDATE u SET z = 3",
    );
    let ends = [
        "ALTER TABLE t ADD COLUMN c DEFAULT 5",
        "ALTER TABLE t RENAME COLUMN a TO z",
        "ALTER TABLE main.t DROP COLUMN b",
        "ALTER TABLE t RENAME TO u",
    ];
    for (line, end) in log.iter().zip(ends) {
        assert!(line.starts_with("~<'table','t','t',"), "{line}");
        assert!(
            line.ends_with(&format!("!0,_,_,_,_,NULL,NULL,NULL,NULL,'{end}'")),
            "{line}"
        );
    }
    assert_eq!(log[4], "~u#1<1,5>3,5!1,0,3,NULL");
    assert_eq!(log.len(), 5);
}

#[test]
fn renaming_a_column_to_its_name_is_logged_if_it_spells_something_anew() {
    let schema = "CREATE TABLE t(a, b); CREATE INDEX i ON t([b])";
    assert_eq!(log_of(schema, "ALTER TABLE t RENAME COLUMN b TO b").len(), 1);
    assert_eq!(
        log_of("CREATE TABLE t(a)", "ALTER TABLE t RENAME COLUMN a TO \"a\"").len(),
        1
    );
}

#[test]
fn rolled_back_ddl_leaves_nothing_and_stale_descriptions_are_forgotten() {
    let log = log_of(
        T,
        "BEGIN; ALTER TABLE t ADD COLUMN c REAL; INSERT INTO t VALUES (1, 2, 3); ROLLBACK;
         BEGIN; SAVEPOINT s; DROP TABLE t; CREATE TABLE t(a REAL, b, c AS (1) STORED); INSERT INTO t VALUES (1, 2);
         ROLLBACK TO s; INSERT INTO t VALUES (5, 6); COMMIT",
    );
    assert_eq!(log, ["+t#1>5,6"]);
}

#[test]
fn a_schema_change_of_another_connection_is_noticed() {
    let r = Replica::new("CREATE TABLE t(a);");
    let (one, two) = (r.open(), r.open());
    run(&one, "INSERT INTO t VALUES (1)");
    run(&two, "DROP TABLE t; CREATE TABLE t(a REAL, g AS (a) STORED)");
    run(&one, "INSERT INTO t VALUES (2)");
    assert_eq!(r.log().last().unwrap(), "+t#1>2.0");
}

#[test]
fn full_text_index_changes_reach_the_log_before_the_commit() {
    let r = Replica::new("");
    let c = r.open();
    run(&c, "CREATE VIRTUAL TABLE f USING fts5(x)");
    let created = r.log();
    assert_eq!(created.len(), 1, "{created:?}");
    assert!(
        created[0].starts_with("+sqlite_schema#0>'table','f','f',0,'CREATE VIRTUAL TABLE"),
        "{created:?}"
    );
    run(&c, "INSERT INTO f VALUES ('hello world')");
    assert_eq!(r.log()[1..], ["+f#1>'hello world'"]);
    run(
        &c,
        "BEGIN; INSERT INTO f VALUES ('more'); SAVEPOINT s; INSERT INTO f VALUES ('lost'); ROLLBACK TO s; COMMIT",
    );
    assert_eq!(
        rows(
            &c,
            "SELECT x FROM f WHERE f MATCH 'more OR hello OR lost' ORDER BY rowid"
        )
        .unwrap(),
        ["'hello world'", "'more'"]
    );
    run(
        &c,
        "INSERT INTO f(f) VALUES ('integrity-check'); ALTER TABLE f RENAME TO g; DROP TABLE g",
    );
    let log = r.log();
    assert!(
        log.last().unwrap().starts_with("-sqlite_schema#0<'table','g'"),
        "{log:?}"
    );
    assert!(
        log[log.len() - 2].ends_with("'ALTER TABLE f RENAME TO g'"),
        "{log:?}"
    );
}

#[test]
fn a_failed_schema_change_leaves_running_readers_alone() {
    let r = Replica::new("CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1), (2);");
    let c = r.open();
    let mut reader = prepare(&c, "SELECT a FROM t");
    assert_eq!(reader.step(), Ok(Step::Row));
    assert_eq!(fails(&c, "DROP INDEX i").code, Code::Busy);
    assert!(c.is_autocommit());
    assert_eq!(reader.step(), Ok(Step::Row));
    assert_eq!(reader.value_integer(0), 2);
    reader.reset(false).unwrap();
    run(&c, "DROP INDEX i");
    assert_eq!(r.log().len(), 1);
}

/// SQLite does not tell what such a statement would do while there is nothing to do, and does it all the same if there is
/// when it runs.
#[test]
fn schema_changes_that_become_necessary_only_after_they_were_prepared() {
    let base = "CREATE TABLE t(a); CREATE TABLE x(a); CREATE INDEX i ON t(a); CREATE VIEW v AS SELECT 1;
        CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END; CREATE VIRTUAL TABLE f USING fts5(a);";
    let creates = [
        ("DROP TABLE x", "CREATE TABLE IF NOT EXISTS x AS SELECT 1 AS b"),
        ("DROP INDEX i", "CREATE INDEX IF NOT EXISTS i ON t(a)"),
        ("DROP VIEW v", "CREATE VIEW IF NOT EXISTS v AS SELECT 1"),
        (
            "DROP TRIGGER r",
            "CREATE TRIGGER IF NOT EXISTS r AFTER INSERT ON t BEGIN SELECT 1; END",
        ),
        (
            "DROP TABLE f",
            "CREATE VIRTUAL TABLE IF NOT EXISTS f USING fts5(a)",
        ),
    ];
    let drops = [
        ("CREATE TABLE n(a)", "DROP TABLE IF EXISTS n"),
        ("CREATE INDEX n ON t(a)", "DROP INDEX IF EXISTS n"),
        ("CREATE VIEW n AS SELECT 1", "DROP VIEW IF EXISTS n"),
        (
            "CREATE TRIGGER n AFTER INSERT ON t BEGIN SELECT 1; END",
            "DROP TRIGGER IF EXISTS n",
        ),
    ];
    for (first, then) in creates.into_iter().chain(drops) {
        for (begin, commit) in [("", ""), ("BEGIN", "COMMIT"), ("SAVEPOINT s", "RELEASE s")] {
            // Prepared before another connection, or the same one, has made it necessary; or where nobody knows of it yet.
            for place in 0..3 {
                let r = Replica::new(base);
                let (one, two) = (r.open(), r.open());
                run(&two, "SELECT * FROM t, x; SELECT * FROM f");
                let early = (place < 2).then(|| prepare(&two, then));
                run(if place == 0 { &two } else { &one }, first);
                run(&two, begin);
                early.unwrap_or_else(|| prepare(&two, then)).execute().unwrap();
                run(&two, commit);
                let log = r.log();
                let signs: String = log.iter().map(|line| &line[..1]).collect();
                let expected = match (first, then) {
                    (_, then) if then.contains("AS SELECT 1 AS b") => "-++",
                    (first, _) if first.starts_with("DROP") => "-+",
                    _ => "+-",
                };
                assert_eq!(signs, expected, "{place} {begin} {then}: {log:?}");
                run(&two, then);
                assert_eq!(r.log(), log, "{then}");
            }
        }
    }
}

#[test]
fn a_temp_table_in_front_of_another_one_may_be_gone_when_the_statement_runs() {
    let r = Replica::new("CREATE TABLE t(a); INSERT INTO t VALUES (1);");
    let c = r.open();
    run(&c, "CREATE TEMP TABLE t(b)");
    let (mut alter, mut drop) = (
        prepare(&c, "ALTER TABLE t ADD COLUMN c"),
        prepare(&c, "DROP TABLE t"),
    );
    run(&c, "DROP TABLE temp.t");
    alter.execute().unwrap();
    drop.execute().unwrap();
    let signs: Vec<_> = r.log().iter().map(|line| line[..1].to_owned()).collect();
    assert_eq!(signs, ["~", "-"]);
}

#[test]
fn what_is_there_already_is_not_created_again_and_needs_no_lock() {
    let r = Replica::new("CREATE TABLE t(a); CREATE INDEX i ON t(a); CREATE VIEW v AS SELECT 1;");
    let (one, two) = (r.open(), r.open());
    two.set_busy_timeout(std::time::Duration::ZERO);
    let nothing = "CREATE TABLE IF NOT EXISTS t(a); CREATE TABLE IF NOT EXISTS t AS SELECT 1; CREATE INDEX IF NOT EXISTS i ON t(a);
        CREATE VIEW IF NOT EXISTS v AS SELECT 1; DROP TABLE IF EXISTS x; DROP TRIGGER IF EXISTS x";
    run(&two, "BEGIN; SELECT * FROM t");
    run(&one, "BEGIN; INSERT INTO t VALUES (1)");
    run(&two, nothing);
    run(&one, "COMMIT");
    run(&two, nothing);
    run(&two, "COMMIT; PRAGMA query_only = 1");
    run(&two, nothing);
    assert_eq!(r.log(), ["+t#1>1"]);
}

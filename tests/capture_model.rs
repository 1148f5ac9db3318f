//! Random SQL programs: a capturing connection behaves like plain SQLite, and its log, applied row image by row
//! image to the starting database, gives exactly the final one.

mod capture_support;

use capture_support::*;
use turso_sync::capture::log::{ChangeType, LogEntry};
use turso_sync::capture::{Connection, OpenOptions, Statement, Step};
use turso_sync::record::{self, Value};

const SCHEMA: &str = "
CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b REAL, g AS (a + 1) VIRTUAL, s AS (b * 2) STORED,
  c NOT NULL CHECK (c <> 7));
CREATE TABLE u(a INTEGER UNIQUE, b TEXT);
CREATE TABLE w(k TEXT COLLATE NOCASE, n INTEGER, g AS (n + 1) STORED, v REAL, PRIMARY KEY (k, n)) WITHOUT ROWID;
CREATE TABLE p(id INTEGER PRIMARY KEY);
CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p(id) ON DELETE CASCADE ON UPDATE CASCADE
  DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE d(id INTEGER PRIMARY KEY, p REFERENCES p(id) ON DELETE SET NULL);
CREATE TABLE l(x INTEGER, y);
CREATE VIEW v AS SELECT a, b FROM u;
CREATE TRIGGER t1 AFTER INSERT ON t BEGIN INSERT INTO l VALUES (new.a, 't1'); END;
CREATE TRIGGER t2 BEFORE UPDATE ON t BEGIN INSERT INTO l VALUES (0, 't2');
  SELECT RAISE(ABORT, 'five') WHERE new.c = 5; SELECT RAISE(FAIL, 'six') WHERE new.c = 6; END;
CREATE TRIGGER u1 AFTER INSERT ON u BEGIN SELECT RAISE(FAIL, 'three') WHERE new.a = 3;
  SELECT RAISE(ROLLBACK, 'four') WHERE new.a = 4; SELECT RAISE(IGNORE) WHERE new.a = 5;
  UPDATE w SET v = v + 1 WHERE n = new.a; END;
CREATE TRIGGER l1 AFTER INSERT ON l WHEN new.x > 0 BEGIN INSERT INTO l VALUES (new.x - 1, 'l1'); END;
CREATE TRIGGER w1 AFTER DELETE ON w BEGIN INSERT OR REPLACE INTO u VALUES (old.n, old.k); END;
CREATE TRIGGER t3 AFTER UPDATE OF a, id ON t BEGIN INSERT INTO l VALUES (new.a, 't3'); END;
CREATE TRIGGER u0 BEFORE INSERT ON u WHEN new.b = 'y' BEGIN INSERT INTO l VALUES (2, 'u0'); SELECT RAISE(IGNORE) WHERE new.a = 6; END;
CREATE TRIGGER u2 BEFORE UPDATE OF b ON u BEGIN INSERT INTO l VALUES (-1, 'u2'); SELECT RAISE(IGNORE) WHERE old.a = 2; END;
CREATE TRIGGER u3 AFTER DELETE ON u BEGIN INSERT INTO l VALUES (-1, old.a); END;
CREATE TRIGGER v1 INSTEAD OF INSERT ON v BEGIN INSERT INTO u VALUES (new.a, new.b); DELETE FROM l; END;
CREATE TRIGGER v2 INSTEAD OF DELETE ON v BEGIN DELETE FROM u WHERE a = old.a; END;
INSERT INTO p VALUES (1), (2), (3);
INSERT INTO c VALUES (1, 1), (2, 1), (3, 2);
INSERT INTO d VALUES (1, 3), (2, 2);
INSERT INTO w(k, n, v) VALUES ('a', 1, 1), ('B', 2, 2), ('c', 3, 3.5);
";

/// A small generator; the sequence of a seed never changes.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

fn conflict(r: &mut Random) -> &'static str {
    r.pick(&[
        "",
        "",
        "OR REPLACE",
        "OR IGNORE",
        "OR FAIL",
        "OR ABORT",
        "OR ROLLBACK",
    ])
}

fn write_statement(r: &mut Random) -> String {
    let or = conflict(r);
    let (a, b, c, d) = (r.below(9), r.below(9), r.below(9), r.below(9));
    let key = r.pick(&["'a'", "'A'", "'b'", "'B'", "'c'", "'dd'"]);
    match r.below(30) {
        0 | 1 => format!("INSERT {or} INTO t(id, a, b, c) VALUES ({a}, {b}, {c}, {d}), ({b}, {d}, 1.5, {a})"),
        2 => format!(
            "INSERT {or} INTO t(a, b, c) VALUES ({a}, {b}, {c}), ({b}, 'x', {d}), ({c}, 2, nullif({a}, 2))"
        ),
        3 => format!(
            "INSERT INTO t(id, a, b, c) VALUES ({a}, {b}, 1, {c}) ON CONFLICT(id) DO UPDATE SET a = {d}, c = c + 1"
        ),
        4 => format!("INSERT INTO t(id, a, b, c) VALUES ({a}, {b}, 1, {c}) ON CONFLICT DO NOTHING"),
        5 | 6 => format!("UPDATE {or} t SET a = {a}, c = {b} WHERE id >= {c}"),
        7 => format!("UPDATE {or} t SET id = id + {a}, b = '{b}'"),
        8 => format!("DELETE FROM t WHERE c >= {a}"),
        9 | 10 => {
            format!("INSERT {or} INTO u VALUES ({a}, 'x'), ({b}, x'0041'), ({c}, {d}), (nullif({d}, 1), 'y')")
        }
        11 => format!("UPDATE {or} u SET a = a + {a}, b = b || '{b}'"),
        12 => format!("UPDATE {or} u SET rowid = rowid + {a} WHERE a > {b}"),
        13 => "DELETE FROM u".into(),
        14 | 15 => format!(
            "INSERT {or} INTO w(k, n, v) VALUES ({key}, {a}, {b}), ('z', {c}, 1.5), ({key}, '{d}', 2)"
        ),
        16 => format!("UPDATE {or} w SET n = n + {a}, v = {b} WHERE k < {key}"),
        17 => format!("UPDATE {or} w SET k = upper(k), v = n"),
        18 => format!("DELETE FROM w WHERE n > {a}"),
        19 => format!("INSERT {or} INTO p VALUES ({a}), ({b})"),
        20 => format!("DELETE FROM p WHERE id = {}", 1 + a % 3),
        21 => format!("UPDATE {or} p SET id = id + {a} WHERE id = {b}"),
        22 => format!("INSERT {or} INTO c(p) VALUES ({a}), ({b})"),
        23 => format!("INSERT {or} INTO d(p) VALUES ({a}), ({b})"),
        24 => format!("DELETE FROM {}", r.pick(&["c", "d", "l", "t"])),
        25 => format!("INSERT INTO v VALUES ({a}, 'v'), ({b}, 'w')"),
        26 => format!("DELETE FROM v WHERE a < {a}"),
        27 => format!("INSERT INTO l SELECT x % 3, y FROM l UNION ALL SELECT {a} % 4, {b}"),
        28 => format!("UPDATE l SET x = x, y = abs(-9223372036854775807 - (x > {a}))"),
        _ => format!("UPDATE t SET c = {a}, a = NULL WHERE id <> {b}"),
    }
}

enum Action {
    Run(String),
    Open(String, u64),
    Step(u64),
    Reset(u64),
    Close(u64),
}

fn action(r: &mut Random) -> Action {
    let name = r.pick(&["s1", "s2", "s3"]);
    match r.below(32) {
        0 | 1 => Action::Run("BEGIN".into()),
        2 => Action::Run("COMMIT".into()),
        3 => Action::Run("ROLLBACK".into()),
        4 | 5 => Action::Run(format!("SAVEPOINT {name}")),
        6 => Action::Run(format!("RELEASE {name}")),
        7 => Action::Run(format!("ROLLBACK TO {name}")),
        8 => Action::Run(format!("PRAGMA foreign_keys = {}", r.below(2))),
        9 => Action::Run(format!("PRAGMA recursive_triggers = {}", r.below(2))),
        10 => Action::Run("SELECT changes(), total_changes(), last_insert_rowid()".into()),
        11..=13 => {
            let mut sql = write_statement(r);
            sql += " RETURNING *";
            let steps = r.below(3);
            Action::Open(sql, steps)
        }
        14 => Action::Open("SELECT * FROM t ORDER BY id".into(), 1),
        15 | 16 => Action::Step(r.below(8)),
        17 => Action::Reset(r.below(8)),
        18 => Action::Close(r.below(8)),
        19 => Action::Run(ddl(r)),
        20 => Action::Run(
            r.pick(&["INSERT INTO x(a) VALUES (1), (2)", "UPDATE x SET a = a + 1"])
                .into(),
        ),
        _ => Action::Run(write_statement(r)),
    }
}

fn ddl(r: &mut Random) -> String {
    r.pick(&[
        "CREATE TABLE x(a, b REAL DEFAULT 3)",
        "CREATE TABLE x AS SELECT id AS a, b FROM t",
        "CREATE TABLE IF NOT EXISTS x(a)",
        "DROP TABLE x",
        "DROP TABLE IF EXISTS x",
        "ALTER TABLE x ADD COLUMN n INTEGER DEFAULT 4",
        "ALTER TABLE x DROP COLUMN b",
        "ALTER TABLE x RENAME TO y",
        "ALTER TABLE y RENAME TO x",
        "CREATE INDEX i ON x(a)",
        "CREATE UNIQUE INDEX i ON x(a)",
        "DROP INDEX i",
        "CREATE TRIGGER x1 AFTER INSERT ON x BEGIN UPDATE x SET a = a + 1 WHERE rowid = new.rowid; END",
        "DROP TRIGGER x1",
    ])
    .to_owned()
}

/// Part of the error for what capture refuses and stock SQLite does not.
const REFUSED: &str = "another write statement is half way";

/// One connection with its open statements.
struct Runner {
    connection: Connection,
    /// Statements that stay open between actions.
    open: Vec<Statement>,
}

impl Runner {
    fn step(statement: &mut Statement) -> String {
        match statement.step() {
            Ok(Step::Row) => {
                let values: Vec<Value> = (0..statement.column_count())
                    .map(|i| value(statement, i))
                    .collect();
                show_values(&values)
            }
            Ok(Step::Done) => format!("done {}", statement.changes()),
            Err(e) => format!("{:?} {:?} {}", e.code, e.sqlite_code, e.message),
        }
    }

    fn act(&mut self, action: &Action) -> Vec<String> {
        let mut seen = Vec::new();
        match action {
            Action::Run(sql) | Action::Open(sql, _) => match self.connection.prepare(sql) {
                Err(e) => seen.push(format!("{:?} {}", e.code, e.message)),
                Ok(None) => {}
                Ok(Some((mut statement, _))) => {
                    let limit = if let Action::Open(_, steps) = action {
                        *steps
                    } else {
                        1000
                    };
                    for _ in 0..limit {
                        seen.push(Self::step(&mut statement));
                        if !seen.last().is_some_and(|s| is_row(s)) {
                            break;
                        }
                    }
                    if matches!(action, Action::Open(..)) {
                        self.open.push(statement);
                    }
                }
            },
            Action::Step(i) => {
                let len = self.open.len().max(1);
                if let Some(statement) = self.open.get_mut(*i as usize % len) {
                    seen.push(Self::step(statement));
                }
            }
            Action::Reset(i) => {
                let len = self.open.len().max(1);
                if let Some(statement) = self.open.get_mut(*i as usize % len) {
                    // SQLite's own reset repeats an error that a step reported; only success is compared.
                    let _ = statement.reset(false);
                }
            }
            Action::Close(i) => {
                if !self.open.is_empty() {
                    let i = *i as usize % self.open.len();
                    drop(self.open.remove(i));
                }
            }
        }
        seen.push(format!("{}", self.connection.is_autocommit()));
        seen.push(format!("{}", self.connection.last_insert_rowid()));
        seen
    }

    /// Does not run what the other connection has refused; a new statement is there all the same.
    fn skip(&mut self, action: &Action) {
        if let Action::Open(sql, _) = action {
            self.open.push(self.connection.prepare(sql).unwrap().unwrap().0);
        }
    }
}

/// True if a step that was shown as `result` led to a row.
fn is_row(result: &str) -> bool {
    !result.starts_with("done") && !result.contains("Some(") && !result.contains(REFUSED)
}

fn describe(action: &Action) -> String {
    match action {
        Action::Run(sql) => sql.clone(),
        Action::Open(sql, n) => format!("open {n}: {sql}"),
        Action::Step(i) => format!("step {i}"),
        Action::Reset(i) => format!("reset {i}"),
        Action::Close(i) => format!("close {i}"),
    }
}

/// Everything but the local tables, rowids included.
fn dump(db: &rusqlite::Connection) -> Vec<String> {
    let list = |sql: &str| -> Vec<String> {
        let mut s = db.prepare(sql).unwrap();
        let rows = s.query_map([], |row| row.get(0)).unwrap();
        rows.map(|row| row.unwrap()).collect()
    };
    let mut out = list(
        "SELECT name || ': ' || coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'turso_%'
         AND tbl_name NOT LIKE 'turso_%' ORDER BY type, name",
    );
    for table in list(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'turso_%' AND name NOT LIKE 'sqlite_%' ORDER BY 1",
    ) {
        let rowid = if table == "w" { "0" } else { "rowid" };
        let mut s = db
            .prepare(&format!("SELECT {rowid}, * FROM {table} ORDER BY 1, 2"))
            .unwrap();
        let columns = s.column_count();
        let mut rows = s.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<_> = (0..columns)
                .map(|i| format!("{:?}", row.get_ref(i).unwrap()))
                .collect();
            out.push(format!("{table}: {}", values.join(", ")));
        }
    }
    out
}

fn sql_value(v: &Value) -> rusqlite::types::Value {
    use rusqlite::types::Value as V;
    match v {
        Value::Null => V::Null,
        Value::Integer(v) => V::Integer(*v),
        Value::Real(v) => V::Real(*v),
        Value::Text(v) => V::Text(String::from_utf8(v.clone()).unwrap()),
        Value::Blob(v) => V::Blob(v.clone()),
    }
}

/// Applies one entry as a row image; triggers and foreign keys must be off.
fn apply(db: &rusqlite::Connection, e: &LogEntry) {
    let before = e.before.as_ref().map(|r| record::decode(r).unwrap());
    let after = e.after.as_ref().map(|r| record::decode(r).unwrap());
    if e.table == "sqlite_schema" {
        let text = |v: &Value| match v {
            Value::Text(t) => String::from_utf8(t.clone()).unwrap(),
            other => panic!("{other:?}"),
        };
        let sql = match e.change_type {
            ChangeType::Insert => text(&after.unwrap()[4]),
            ChangeType::Delete => {
                let row = before.unwrap();
                format!("DROP {} {}", text(&row[0]), text(&row[1]))
            }
            ChangeType::Update => text(
                record::decode(e.updates.as_ref().unwrap())
                    .unwrap()
                    .last()
                    .unwrap(),
            ),
        };
        // The rows of CREATE TABLE AS are entries of their own; the schema holds the table's columns only.
        return db
            .execute_batch(&sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let mut s = db
        .prepare("SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid")
        .unwrap();
    let columns: Vec<(String, i64)> = s
        .query_map([&e.table], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
        .map(|r| r.unwrap())
        .collect();
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let without_rowid = e.table == "w";
    let mut parameters = Vec::new();
    let mut bind = |v: &Value| {
        parameters.push(sql_value(v));
        format!("?{}", parameters.len())
    };
    let mut condition = Vec::new();
    if let Some(before) = &before {
        for (name, v) in names.iter().zip(before) {
            condition.push(format!(
                "{name} IS {} AND typeof({name}) = '{}'",
                bind(v),
                type_name(v)
            ));
        }
        if !without_rowid {
            condition.push(format!("rowid = {}", e.rowid));
        }
    }
    let condition = condition.join(" AND ");
    let sql = match (e.change_type, &after) {
        (ChangeType::Delete, _) => format!("DELETE FROM {} WHERE {condition}", e.table),
        (ChangeType::Update, Some(after)) => {
            let set: Vec<_> = names
                .iter()
                .zip(after)
                .map(|(n, v)| format!("{n} = {}", bind(v)))
                .collect();
            format!("UPDATE {} SET {} WHERE {condition}", e.table, set.join(", "))
        }
        (_, after) => {
            let mut values: Vec<_> = after.as_ref().unwrap().iter().map(&mut bind).collect();
            let mut names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
            if !without_rowid {
                names.push("rowid".into());
                values.push(e.rowid.to_string());
            }
            format!(
                "INSERT INTO {}({}) VALUES ({})",
                e.table,
                names.join(", "),
                values.join(", ")
            )
        }
    };
    let changed = db.execute(&sql, rusqlite::params_from_iter(parameters));
    assert_eq!(changed, Ok(1), "{} with {sql}", show(e));
}

fn type_name(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Integer(_) => "integer",
        Value::Real(_) => "real",
        Value::Text(_) => "text",
        Value::Blob(_) => "blob",
    }
}

fn check(seed: u64) {
    let captured = Replica::new(SCHEMA);
    let plain = Replica::new(SCHEMA);
    let copy = Replica::new(SCHEMA);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let plain_connection = Connection::open(&plain.path, OpenOptions::default()).unwrap();
    let mut runners = [captured.open(), plain_connection].map(|connection| Runner {
        connection,
        open: Vec::new(),
    });
    let mut program = Vec::new();
    for _ in 0..60 {
        let action = action(&mut random);
        program.push(describe(&action));
        let [ours, theirs] = &mut runners;
        let seen = ours.act(&action);
        // A second write statement half way in autocommit mode, where stock SQLite miscounts, is refused.
        if seen.iter().any(|s| s.contains(REFUSED)) {
            theirs.skip(&action);
            continue;
        }
        let expected = theirs.act(&action);
        assert_eq!(seen, expected, "seed {seed}, program:\n{}", program.join("\n"));
    }
    let [mut ours, mut theirs] = runners;
    let finish = |r: &mut Runner| {
        r.open.clear();
        let _ = r.connection.execute_batch("COMMIT");
        let _ = r.connection.execute_batch("ROLLBACK");
        r.connection.close().unwrap();
    };
    finish(&mut ours);
    finish(&mut theirs);
    let result = dump(&captured.plain());
    let text = || {
        format!(
            "seed {seed}, program:\n{}\nlog:\n{}",
            program.join("\n"),
            captured.log().join("\n")
        )
    };
    assert_eq!(result, dump(&plain.plain()), "{}", text());

    let db = copy.plain();
    db.pragma_update(None, "foreign_keys", false).unwrap();
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .unwrap();
    let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for e in captured.entries() {
            apply(&db, &e);
        }
    }));
    assert!(applied.is_ok(), "{}", text());
    assert_eq!(dump(&db), result, "{}", text());
    let entries = captured.entries();
    let mut transactions: Vec<_> = entries.iter().map(|e| e.txn_id).collect();
    assert!(entries.iter().all(|e| e.txn_id <= e.change_id));
    transactions.dedup();
    assert!(transactions.is_sorted());
}

#[test]
fn a_captured_connection_behaves_like_plain_sqlite_and_its_log_is_exact() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    let first = number("CAPTURE_SEED", 1);
    for seed in first..first + number("CAPTURE_RUNS", 300) {
        check(seed);
    }
}

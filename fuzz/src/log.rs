//! The change log: rows that no capture would ever write.

use rusqlite::Connection;
use rusqlite::types::Value as Sql;
use turso_sync::capture::log::create_local_tables;
use turso_sync::record::{Value, encode};
use turso_sync::replay::{
    ConflictPolicy, Plan, Progress, PushGenerator, Transactions, rebase, rebase_net, rebase_resolving,
};

use super::input::Input;

const SCHEMA: &str = "
CREATE TABLE keyed (id INTEGER PRIMARY KEY, name TEXT UNIQUE, n INT DEFAULT 5 CHECK (n <> 13));
CREATE TABLE bare (a, b);
CREATE TABLE pair (x TEXT, y INT, z, PRIMARY KEY (x, y)) WITHOUT ROWID;
CREATE TABLE child (id INTEGER PRIMARY KEY, parent INT REFERENCES keyed ON DELETE CASCADE ON UPDATE SET NULL);
CREATE TABLE made (a INT, b INT AS (a + 1) STORED, c INT AS (a * 2));
CREATE TABLE audit (what);
CREATE VIEW seen AS SELECT id, name FROM keyed;
CREATE TRIGGER noted AFTER INSERT ON keyed BEGIN INSERT INTO audit VALUES (new.name); END;
CREATE VIRTUAL TABLE words USING fts5 (body);
CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1);
INSERT INTO keyed VALUES (1, 'one', 1), (2, 'two', 2); INSERT INTO bare VALUES (1, 2);
INSERT INTO pair VALUES ('p', 1, 'q'); INSERT INTO child VALUES (1, 1);";

const TABLES: [&str; 14] = [
    "keyed",
    "bare",
    "pair",
    "child",
    "made",
    "audit",
    "seen",
    "words",
    "boxes",
    "sqlite_schema",
    "KEYED",
    "missing",
    "turso_cdc",
    "sqlite_sequence",
];

const DDL: [&str; 12] = [
    "CREATE TABLE fresh (a PRIMARY KEY, b)",
    "CREATE TABLE keyed (id)",
    "DROP TABLE keyed",
    "ALTER TABLE keyed RENAME TO renamed",
    "ALTER TABLE keyed ADD COLUMN more",
    "ALTER TABLE bare DROP COLUMN b",
    "CREATE INDEX new_index ON keyed (n)",
    "CREATE VIEW new_view AS SELECT * FROM nothing",
    "CREATE TRIGGER new_trigger DELETE ON bare BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE more_words USING fts5 (body)",
    "SELECT",
    "",
];

/// Replays a log of any rows in every way there is.
pub fn change_log(data: &[u8]) {
    CURRENT.with(|current| on(current, |current| replay_all(current, data)));
}

thread_local! {
    // Made once: the schema takes longer than a replay.
    static CURRENT: Connection = database();
    static SCRATCH: Connection = database();
    static BASE: Connection = database();
}

fn replay_all(current: &Connection, data: &[u8]) {
    let mut input = Input::new(data);
    let progress = Progress {
        acknowledged: input.number() as i8 as i64,
        sent: input.number() as i64,
        last: 1 << 40,
    };
    let policy = *input.pick(&[
        ConflictPolicy::Stop,
        ConflictPolicy::Overwrite,
        ConflictPolicy::SetAside,
    ]);
    let mut next = 1;
    for _ in 0..32 {
        if input.is_empty() {
            break;
        }
        insert(current, &mut next, &mut input);
    }
    for replay in [rebase, rebase_net] {
        SCRATCH.with(|scratch| on(scratch, |scratch| drop(replay(current, scratch, progress))));
    }
    let plan = Plan {
        policy,
        ..Plan::default()
    };
    SCRATCH.with(|scratch| {
        on(scratch, |scratch| {
            drop(rebase_resolving(current, scratch, progress, &plan))
        })
    });
    push(current, progress, policy == ConflictPolicy::Overwrite);
}

fn database() -> Connection {
    let conn = Connection::open_in_memory().expect("a database");
    conn.execute_batch("PRAGMA foreign_keys = OFF").expect("a pragma");
    conn.execute_batch(SCHEMA).expect("a schema");
    create_local_tables(&conn).expect("local tables");
    conn
}

/// Runs `work` in a transaction that is rolled back, as the engine does after an error.
fn on(conn: &Connection, work: impl FnOnce(&Connection)) {
    conn.execute_batch("BEGIN").expect("a transaction");
    work(conn);
    assert!(!conn.is_autocommit(), "the transaction is the caller's");
    conn.execute_batch("ROLLBACK").expect("a rollback");
}

fn push(current: &Connection, progress: Progress, overwrite: bool) {
    let Ok(mut generator) = BASE.with(PushGenerator::new) else {
        return;
    };
    let mut log = Transactions::new(current, progress.acknowledged);
    while let Ok(Some(entries)) = log.next_transaction() {
        if generator.transaction(&entries, overwrite).is_err() {
            return;
        }
    }
}

/// Writes one row, mostly of a shape that makes sense.
fn insert(conn: &Connection, next: &mut i64, input: &mut Input<'_>) {
    let change_id = match input.u8() {
        255 => input.number() as i64,
        step => *next + i64::from(step & 3 == 3),
    };
    *next = change_id.saturating_add(1);
    let table = match input.u8() {
        255 => String::from_utf8_lossy(input.bytes()).into_owned(),
        n => TABLES[usize::from(n) % TABLES.len()].to_owned(),
    };
    let is_schema = table == "sqlite_schema";
    let change_type = match input.u8() {
        255 => cell(input),
        n => Sql::Integer(i64::from(n % 3) - 1),
    };
    let txn_id = match input.u8() {
        n @ 0..=199 => change_id.saturating_sub(i64::from(n % 4)),
        n => n.into(),
    };
    let rowid = match input.u8() {
        255 => cell(input),
        254 => Sql::Integer(input.number() as i64),
        n => Sql::Integer(i64::from(n % 8)),
    };
    let (before, after) = match is_schema {
        true => (schema_row(input), schema_row(input)),
        false => (image(input), image(input)),
    };
    let updates = match input.u8() % 4 {
        0 => Sql::Null,
        1 if is_schema => {
            let sql = Value::Text(input.pick(&DDL).as_bytes().to_vec());
            let flags = [0, 0, 0, 0, 1].map(Value::Integer);
            let nulls = [Value::Null, Value::Null, Value::Null, Value::Null];
            Sql::Blob(encode(&[&flags[..], &nulls, &[sql]].concat()))
        }
        1 => {
            let mask = (0..3).map(|_| Value::Integer(i64::from(input.u8() % 3)));
            let mask: Vec<Value> = mask.collect();
            let values: Vec<Value> = (0..3).map(|_| value(input)).collect();
            Sql::Blob(encode(&[mask, values].concat()))
        }
        _ => image(input),
    };
    let row: [Sql; 10] = [
        Sql::Integer(change_id),
        Sql::Integer(0),
        Sql::Integer(txn_id),
        change_type,
        Sql::Text(table),
        rowid,
        before,
        after,
        updates,
        Sql::Integer(i64::from(input.one_in(4))),
    ];
    // A change id that is taken is no row.
    let _ = conn.execute(
        "INSERT INTO turso_cdc VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        rusqlite::params_from_iter(row),
    );
}

/// A row image.
fn image(input: &mut Input<'_>) -> Sql {
    match input.u8() {
        0..=31 => Sql::Null,
        32..=47 => Sql::Blob(input.bytes().to_vec()),
        48..=55 => cell(input),
        n => {
            let values: Vec<Value> = (0..2 + n % 3).map(|_| value(input)).collect();
            Sql::Blob(encode(&values))
        }
    }
}

fn value(input: &mut Input<'_>) -> Value {
    match input.u8() % 8 {
        0 => Value::Null,
        1 | 2 => Value::Integer(i64::from(input.u8() % 16)),
        3 => Value::Integer(input.number() as i64),
        4 => Value::Real(f64::from_bits(input.u64())),
        5 => Value::Text(
            input
                .pick(&["one", "two", "three", "rebuild"])
                .as_bytes()
                .to_vec(),
        ),
        6 => Value::Text(input.bytes().to_vec()),
        _ => Value::Blob(input.bytes().to_vec()),
    }
}

/// A value that the column is not made for.
fn cell(input: &mut Input<'_>) -> Sql {
    match input.u8() % 4 {
        0 => Sql::Null,
        1 => Sql::Integer(input.number() as i64),
        2 => Sql::Real(f64::from(input.u8()) / 2.0),
        _ => Sql::Text(String::from_utf8_lossy(input.bytes()).into_owned()),
    }
}

/// A row of `sqlite_schema`.
fn schema_row(input: &mut Input<'_>) -> Sql {
    let text = |s: &str| Value::Text(s.as_bytes().to_vec());
    match input.u8() {
        0..=63 => Sql::Null,
        64..=79 => image(input),
        _ => {
            let kind = *input.pick(&["table", "index", "view", "trigger", "nothing"]);
            let name = *input.pick(&[
                "keyed",
                "fresh",
                "new_index",
                "new_view",
                "new_trigger",
                "bare",
                "words",
            ]);
            let table = *input.pick(&["keyed", "fresh", "bare", "words"]);
            let root = match input.u8() {
                255 => value(input),
                n => Value::Integer(n.into()),
            };
            let sql = match input.u8() {
                254 => Value::Text(input.bytes().to_vec()),
                255 => Value::Null,
                n => text(DDL[usize::from(n) % DDL.len()]),
            };
            Sql::Blob(encode(&[text(kind), text(name), text(table), root, sql]))
        }
    }
}

//! What capture costs: the same work on plain SQLite and on a capturing connection, in the same run.

use std::time::Instant;

use turso_sync::capture::log::create_local_tables;
use turso_sync::capture::{Connection, OpenOptions, Statement};

const NAMES: [&str; 7] = [
    "bulk insert",
    "autocommit insert",
    "update all",
    "point update",
    "delete half",
    "wide rows",
    "blobs",
];
const REPETITIONS: usize = 5;

fn open(path: &str, capture: bool) -> Connection {
    let plain = rusqlite::Connection::open(path).expect("open");
    plain
        .execute_batch("PRAGMA journal_mode = WAL")
        .expect("WAL mode");
    create_local_tables(&plain).expect("local tables");
    drop(plain);
    let c = Connection::open(
        path,
        OpenOptions {
            capture,
            ..Default::default()
        },
    )
    .expect("open");
    if !capture {
        c.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0")
            .expect("pragmas");
    }
    c
}

fn prepare(c: &Connection, sql: &str) -> Statement {
    c.prepare(sql).expect("prepare").expect("a statement").0
}

fn insert(c: &Connection, rows: i64) {
    let mut s = prepare(
        c,
        "INSERT INTO t(name, email, balance, created, note) VALUES (?1, ?2, ?3, ?4, ?5)",
    );
    for i in 0..rows {
        s.bind_text(1, &format!("user {i}")).expect("bind");
        s.bind_text(2, &format!("user{i}@example.com")).expect("bind");
        s.bind_real(3, i as f64 * 1.5).expect("bind");
        s.bind_integer(4, 1_700_000_000 + i).expect("bind");
        s.bind_text(5, "some longer note text that people write in records")
            .expect("bind");
        s.execute().expect("insert");
        s.reset(false).expect("reset");
    }
}

fn in_transaction(c: &Connection, work: impl FnOnce()) {
    c.execute_batch("BEGIN").expect("begin");
    work();
    c.execute_batch("COMMIT").expect("commit");
}

fn measure(c: &Connection, rows: i64) -> [f64; 7] {
    let wide: Vec<String> = (0..40).map(|i| format!("c{i}")).collect();
    let values: Vec<String> = (0..40).map(|i| format!("?1 + {i}")).collect();
    let schema = format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, email TEXT, balance REAL, created INTEGER, note TEXT);
         CREATE TABLE w(id INTEGER PRIMARY KEY, {}); CREATE TABLE b(id INTEGER PRIMARY KEY, data BLOB)",
        wide.join(", ")
    );
    c.execute_batch(&schema).expect("schema");
    let run = |sql: &str| c.execute_batch(sql).expect("run");
    let timed = |work: &dyn Fn()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let each = |sql: &str, n: i64| {
        in_transaction(c, || {
            let mut s = prepare(c, sql);
            for i in 0..n {
                s.bind_integer(1, 1 + (i * 7919) % rows).expect("bind");
                s.execute().expect("execute");
                s.reset(false).expect("reset");
            }
        });
    };
    let wide_sql = format!("INSERT INTO w VALUES (NULL, {})", values.join(", "));
    [
        timed(&|| in_transaction(c, || insert(c, rows))),
        timed(&|| insert(c, rows / 10)),
        timed(&|| run("UPDATE t SET balance = balance + 1")),
        timed(&|| each("UPDATE t SET balance = balance + 1 WHERE id = ?1", rows)),
        timed(&|| run("DELETE FROM t WHERE id % 2 = 0")),
        timed(&|| each(&wide_sql, rows / 5)),
        timed(&|| {
            each(
                "INSERT INTO b VALUES (NULL, zeroblob(16000 + ?1 % 100))",
                rows / 50,
            )
        }),
    ]
}

fn main() {
    let rows = std::env::var("ROWS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(50_000);
    let mut best = [[f64::MAX; 7]; 2];
    for _ in 0..REPETITIONS {
        for (mode, best) in best.iter_mut().enumerate() {
            let dir = tempfile::tempdir().expect("directory");
            let path = dir.path().join("bench.db");
            let c = open(path.to_str().expect("UTF-8 path"), mode == 1);
            for (best, now) in best.iter_mut().zip(measure(&c, rows)) {
                *best = best.min(now);
            }
        }
    }
    let [plain, captured] = best;
    for ((name, plain), captured) in NAMES.iter().zip(plain).zip(captured) {
        println!(
            "{name:18} {:7.1} ms plain {:7.1} ms captured {:5.2}x",
            plain * 1e3,
            captured * 1e3,
            captured / plain
        );
    }
}

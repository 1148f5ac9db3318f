//! The direct dialect against the compatible one: the same changes, the same server, one run.
//! `cargo bench --features server --bench dialects`; `DIALECTS_ROWS=20000` for another number of changes.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use support::{Remote, Replica, options};
use turso_sync::driver::{self, DriverConfig};
use turso_sync::engine::{DatabaseSyncEngineOpts, ProtocolVersion};
use turso_sync::io::Operation;

const ROUNDS: usize = 3;
const SCHEMA: &str =
    "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, city TEXT, price REAL, note TEXT, at INTEGER);
    CREATE INDEX t_name ON t (name);";

/// What one direction costs.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    /// Of the bodies of requests and answers.
    bytes: u64,
}

/// What an operation costs that the library's driver runs.
fn cost<T>(replica: &Replica, mut op: Operation<T>) -> Cost {
    let control = op.control().clone();
    let network = || {
        let (sent, received) = replica.engine.io().network_bytes();
        sent + received
    };
    let (before, start) = (network(), Instant::now());
    driver::run(replica.engine.io(), &DriverConfig::default(), &control, || {
        op.resume()
    })
    .unwrap();
    Cost {
        time: start.elapsed(),
        bytes: network() - before,
    }
}

/// `sql` on one replica, its push, and the pull of another one.
fn round(dialect: ProtocolVersion, before: &str, sql: &str) -> [Cost; 2] {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::start(&format!("{SCHEMA} {before}"));
    let open = |name: &str| {
        Replica::open_with(DatabaseSyncEngineOpts {
            protocol_version_hint: dialect,
            ..options(&dir.path().join(name), &remote.url)
        })
        .unwrap()
    };
    let (a, b) = (open("a.db"), open("b.db"));
    a.sql(sql);
    let push = cost(&a, a.engine.push_changes_to_remote());
    let pull = cost(&b, b.engine.pull_changes_from_remote());
    assert_eq!(b.tables(), remote.tables());
    [push, pull]
}

/// What plain SQLite takes to insert `rows` rows, as durably as the server, in transactions as large as the requests of the
/// direct dialect: no push can be faster.
fn floor(fill: &str) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let conn = rusqlite::Connection::open(dir.path().join("a.db")).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -16384;
         {SCHEMA} CREATE TEMP TABLE made AS SELECT * FROM t;"
    ))
    .unwrap();
    conn.execute_batch(&fill.replacen("INTO t ", "INTO made ", 1))
        .unwrap();
    let rows: Vec<Vec<rusqlite::types::Value>> = conn
        .prepare("SELECT * FROM made")
        .unwrap()
        .query_map([], |row| (0..6).map(|i| row.get(i)).collect())
        .unwrap()
        .map(|row| row.unwrap())
        .collect();
    let start = Instant::now();
    for rows in rows.chunks(20_000) {
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut insert = conn
            .prepare_cached("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)")
            .unwrap();
        for row in rows {
            insert.execute(rusqlite::params_from_iter(row)).unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
    }
    start.elapsed()
}

fn main() {
    let rows: u32 = std::env::var("DIALECTS_ROWS").map_or(200_000, |n| n.parse().unwrap());
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT i, 'customer ' || (i * 7919 % {rows}), 'city ' || (i % 500), (abs(random()) % 100000) / 100.0,
            'order of ' || i || ', reference ' || hex(randomblob(6)), 1700000000 + i * 37 FROM n;"
    );
    let in_transactions = |sql: &dyn Fn(u32, u32) -> String| -> String {
        let parts = (0..rows).step_by(1000);
        parts
            .map(|from| format!("BEGIN; {}; COMMIT;", sql(from, from + 1000)))
            .collect()
    };
    let loads = [
        (
            "inserts",
            "",
            in_transactions(&|from, to| {
                fill.replace("SELECT 1 UNION", &format!("SELECT {from} + 1 UNION"))
                    .replace(&format!("WHERE i < {rows}"), &format!("WHERE i < {to}"))
                    .trim_end_matches(';')
                    .to_owned()
            }),
        ),
        (
            "updates",
            fill.as_str(),
            in_transactions(&|from, to| {
                format!("UPDATE t SET price = price + 1, note = note || '!' WHERE id > {from} AND id <= {to}")
            }),
        ),
        (
            "deletes",
            fill.as_str(),
            in_transactions(&|from, to| format!("DELETE FROM t WHERE id > {from} AND id <= {to}")),
        ),
    ];
    println!("{rows} changes in transactions of 1000; best of {ROUNDS}\n");
    println!("                     compatible               direct              ratio");
    println!("                     ms       bytes         ms      bytes       time  bytes");
    for (name, before, sql) in &loads {
        let mut best = [[None::<Cost>; 2]; 2];
        for _ in 0..ROUNDS {
            for (which, dialect) in [ProtocolVersion::Compatible, ProtocolVersion::Direct]
                .into_iter()
                .enumerate()
            {
                for (best, cost) in best[which].iter_mut().zip(round(dialect, before, sql)) {
                    if best.is_none_or(|best| cost.time < best.time) {
                        *best = Some(cost);
                    }
                }
            }
        }
        for (direction, what) in ["push", "pull"].iter().enumerate() {
            let (Some(old), Some(new)) = (best[0][direction], best[1][direction]) else {
                continue;
            };
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
            println!(
                "{what} of {name:8} {:8.0} {:11}   {:8.0} {:10}       {:4.1}  {:5.1}",
                ms(old.time),
                old.bytes,
                ms(new.time),
                new.bytes,
                ms(old.time) / ms(new.time),
                old.bytes as f64 / new.bytes as f64
            );
        }
    }
    let floor = (0..ROUNDS).map(|_| floor(&fill)).min().unwrap_or_default();
    println!(
        "\nplain SQLite inserts the rows in {:.0} ms",
        floor.as_secs_f64() * 1e3
    );
}

//! The direct dialect against the compatible one: the same changes, the same server, one run.
//! `cargo bench --features server --bench dialects`; `DIALECTS_ROWS=20000` for another number of changes.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use support::{Remote, Replica, drive, forward, options};
use turso_sync::engine::{DatabaseSyncEngineOpts, ProtocolVersion};
use turso_sync::io::Operation;

const ROUNDS: usize = 3;
const SCHEMA: &str =
    "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, city TEXT, price REAL, note TEXT, at INTEGER);
    CREATE INDEX t_name ON t (name);";

/// What one direction costs.
#[derive(Clone, Copy)]
struct Cost {
    /// Whole time, and the part of it in which the network and the server were at work.
    time: Duration,
    remote: Duration,
    bytes: usize,
    requests: u32,
}

fn cost<T>(replica: &Replica, op: Operation<T>) -> Cost {
    let (mut bytes, mut requests, mut remote) = (0, 0, Duration::ZERO);
    let start = Instant::now();
    drive(&replica.engine, op, &mut |http, _| {
        let asked = Instant::now();
        let answer = forward(http);
        remote += asked.elapsed();
        requests += 1;
        bytes += http.path.len() + http.body.len() + answer.as_ref().map_or(0, |(_, body)| body.len());
        answer
    })
    .unwrap();
    Cost {
        time: start.elapsed(),
        remote,
        bytes,
        requests,
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
    ];
    println!("{rows} changes in transactions of 1000; best of {ROUNDS}\n");
    println!(
        "                 compatible                             direct                             ratio"
    );
    println!(
        "                 ms  (remote)       bytes  requests     ms  (remote)      bytes  requests  time  bytes"
    );
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
                "{what} of {name}  {:8.0} ({:6.0})  {:10}  {:8}  {:6.0} ({:6.0})  {:9}  {:8}  {:4.1}  {:5.1}",
                ms(old.time),
                ms(old.remote),
                old.bytes,
                old.requests,
                ms(new.time),
                ms(new.remote),
                new.bytes,
                new.requests,
                ms(old.time) / ms(new.time),
                old.bytes as f64 / new.bytes as f64
            );
        }
    }
}

//! Memory: peaks of whole processes (driver and SQLite included) that bootstrap, pull, push and rebuild a database which
//! is much larger than what they may use. `make bench-memory` runs it with 1 GB.
#![cfg(all(feature = "server", feature = "driver", target_os = "linux"))]

mod process;

use std::io::Write;

use process::{Server, drive, run_child};
use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts};
use turso_sync::error::Category;

/// Peak of a process in MiB, whatever it does.
const LIMIT_MIB: f64 = 64.0;
/// Size of a row of `big`: about ten fill a page.
const ROW_BYTES: u64 = 400;

/// Sizes of a run, from the environment.
struct Scale {
    /// Size of the remote database in MB.
    mb: u64,
    /// Number of pending rows.
    rows: u64,
}

impl Scale {
    fn read() -> Scale {
        let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
        Scale {
            mb: number("MEMORY_MB", 64),
            rows: number("MEMORY_ROWS", 20_000),
        }
    }

    fn big_rows(&self) -> u64 {
        self.mb * 1_000_000 / (ROW_BYTES + 10)
    }
}

/// What is measured: tasks of child processes on one replica, and what they printed.
struct Bench {
    dir: tempfile::TempDir,
    server: Server,
    failures: Vec<String>,
}

impl Bench {
    fn start(scale: &Scale) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("remote.db");
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch(&format!(
            "CREATE TABLE big (id INTEGER PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0, x BLOB);
             CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b TEXT);
             WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {})
             INSERT INTO big(x) SELECT randomblob({ROW_BYTES}) FROM i",
            scale.big_rows()
        ))
        .unwrap();
        drop(conn);
        let server = Server::start(&path);
        Bench {
            dir,
            server,
            failures: Vec::new(),
        }
    }

    /// Runs a task of [`child`] on the replica and judges its peak.
    fn run(&mut self, task: &str, what: &str) {
        let path = self.dir.path().join("replica.db");
        let text = run_child(&[
            ("MEMORY_TASK", task),
            ("MEMORY_PATH", path.to_str().unwrap()),
            ("MEMORY_URL", &self.server.url),
        ]);
        let peak = text
            .lines()
            .find_map(|line| line.split_once("peak_kib="))
            .unwrap()
            .1;
        let peak = peak.trim().parse::<f64>().unwrap() / 1024.0;
        println!("{what:66} {peak:6.1} MiB");
        if peak > LIMIT_MIB {
            self.failures
                .push(format!("{what}: {peak:.1} of {LIMIT_MIB} MiB"));
        }
    }
}

#[test]
fn a_large_database_needs_little_memory() {
    let scale = Scale::read();
    let (mb, rows) = (scale.mb, scale.rows);
    let mut bench = Bench::start(&scale);
    let half = scale.big_rows() / 2;
    let change_half = format!("UPDATE big SET n = n + 1 WHERE id <= {half}");

    bench.run("open", &format!("bootstrap of {mb} MB"));
    bench.server.sql(&change_half);
    bench.run("pull", &format!("pull of {} MB", mb / 2));

    bench.run("insert", &format!("insert of {rows} rows"));
    bench.run("update", &format!("update of {rows} rows, everywhere"));
    bench.server.sql(&change_half);
    let what = format!("pull of {} MB below these", mb / 2);
    bench.run("pull", &what);

    bench.server.sql("INSERT INTO t VALUES (-1, 'name 77', 'theirs')");
    let what = "pull of a conflict with one of them: net effect, and listing";
    bench.run("conflict", what);
    bench.server.sql("DELETE FROM t WHERE id = -1");
    bench.run("push", "push of them");
    bench.run("pull", "pull of them");

    // What cannot be split: a transaction travels whole.
    let small = rows / 10;
    let what = format!("a transaction of {small} rows");
    bench.run("transaction", &what);
    bench.server.sql("UPDATE big SET n = n + 1 WHERE id = 1");
    bench.run("pull", "pull below it");
    bench.run("push", "push of it");
    bench.run("pull", "pull of it");

    bench.run("cache", &format!("{} MB into a local table", mb / 4));
    bench.server.sql("UPDATE big SET n = n + 1 WHERE id = 1");
    bench.run("pull", "pull beside it");
    assert!(bench.failures.is_empty(), "{:?}", bench.failures);
}

/// The measured process.
#[test]
#[ignore = "a part of the other test"]
fn child() {
    let task = std::env::var("MEMORY_TASK").unwrap();
    let path = std::env::var("MEMORY_PATH").unwrap();
    let opts = DatabaseSyncEngineOpts {
        path,
        remote_url: Some(std::env::var("MEMORY_URL").unwrap()),
        client_name: "memory".to_owned(),
        bootstrap_if_empty: true,
        tables_ignore: vec!["cache".to_owned()],
        ..Default::default()
    };
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    drive(&engine, engine.create_db()).unwrap();
    perform(&engine, &task, &Scale::read());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    println!("\npeak_kib={}", peak.trim().trim_end_matches(" kB"));
    std::io::stdout().flush().unwrap();
}

fn perform(engine: &DatabaseSyncEngine, task: &str, scale: &Scale) {
    let write = |next: &dyn Fn(u64) -> String, transactions: u64| {
        let conn = drive(engine, engine.connect_rw()).unwrap();
        for i in 0..transactions {
            conn.execute_batch(&next(i)).unwrap();
        }
    };
    let rows = scale.rows;
    match task {
        "open" => {}
        "pull" => assert!(drive(engine, engine.pull_changes_from_remote()).unwrap()),
        "push" => drive(engine, engine.push_changes_to_remote()).unwrap(),
        "conflict" => {
            let e = drive(engine, engine.pull_changes_from_remote()).unwrap_err();
            assert_eq!(e.category, Category::Conflict, "{e}");
            assert_eq!(engine.conflicts().unwrap().len(), 1);
        }
        "insert" => write(
            &|i| {
                format!(
                    "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 1000)
                     INSERT INTO t SELECT {i} * 1000 + i, 'name ' || ({i} * 1000 + i), hex(randomblob(40)) FROM i"
                )
            },
            rows / 1000,
        ),
        "transaction" => write(
            &|_| {
                format!(
                    "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {})
                     INSERT INTO t(a, b) SELECT 'one ' || i, hex(randomblob(40)) FROM i",
                    rows / 10
                )
            },
            1,
        ),
        // Rows of different pages, as far as there are enough.
        "update" => write(
            &|i| {
                let (all, part) = (scale.big_rows(), rows / 1000);
                let (from, to, step) = (all * i / part, all * (i + 1) / part, (all / rows).max(1));
                format!("UPDATE big SET n = n + 1 WHERE id > {from} AND id <= {to} AND id % {step} = 0")
            },
            rows / 1000,
        ),
        "cache" => {
            let cached = scale.big_rows() / 4;
            write(
                &|i| match i {
                    0 => "CREATE TABLE cache (id INTEGER PRIMARY KEY, x BLOB, y TEXT)".to_owned(),
                    1 => "CREATE INDEX cache_y ON cache(y, x)".to_owned(),
                    i => format!(
                        "INSERT INTO cache SELECT id, x, hex(x) FROM big WHERE id > {} AND id <= {}",
                        (i - 2) * 1000,
                        ((i - 1) * 1000).min(cached)
                    ),
                },
                cached / 1000 + 2,
            );
        }
        other => panic!("unknown task {other}"),
    }
}

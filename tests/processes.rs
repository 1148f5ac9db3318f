//! Several processes at one replica, and kill -9.
#![cfg(feature = "server")]

mod process;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use process::{Server, drive};
use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts};
use turso_sync::error::{Code, Error};

const WORKERS: u64 = 3;

/// Numbers without rhyme: an LCG, as good as it needs to be.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

fn open(path: &str, url: &str) -> Result<DatabaseSyncEngine, Error> {
    let opts = DatabaseSyncEngineOpts {
        path: path.to_owned(),
        remote_url: Some(url.to_owned()),
        client_name: "processes".into(),
        bootstrap_if_empty: true,
        ..Default::default()
    };
    let engine = DatabaseSyncEngine::new(opts)?;
    drive(&engine, engine.create_db())?;
    Ok(engine)
}

/// Somebody else has the lock, or has just pulled: try again later.
fn passes(result: Result<(), Error>) {
    if let Err(e) = result {
        assert!(matches!(e.code, Code::Busy | Code::BusySnapshot), "{e:?}");
    }
}

/// Does nothing as a test. As a child: writes, pushes, pulls and checkpoints until it is killed, a line per step. What is
/// committed is noted in a file.
#[test]
fn worker() {
    let Ok(name) = std::env::var("WORKER") else { return };
    let variable = |name| std::env::var(name).unwrap();
    let (path, url) = (variable("WORKER_PATH"), variable("WORKER_URL"));
    let mut chance = Chance(variable("WORKER_SEED").parse().unwrap());
    let mut noted = std::fs::File::options()
        .append(true)
        .create(true)
        .open(format!("{path}.{name}"))
        .unwrap();
    let engine = open(&path, &url).unwrap();
    let mut conn = drive(&engine, engine.connect_rw()).unwrap();
    for step in 0.. {
        match chance.below(12) {
            0 => passes(drive(&engine, engine.push_changes_to_remote())),
            1 => passes(drive(&engine, engine.pull_changes_from_remote()).map(drop)),
            2 => passes(drive(&engine, engine.checkpoint())),
            3 => passes(drive(&engine, engine.sync()).map(drop)),
            4 => {
                // Perhaps the last one to close.
                drop(conn);
                conn = drive(&engine, engine.connect_rw()).unwrap();
            }
            _ => {
                let ids: Vec<String> = (0..=chance.below(20))
                    .map(|i| format!("{name}-{step}-{i}"))
                    .collect();
                let values: Vec<String> = ids.iter().map(|id| format!("('{id}', 0)")).collect();
                let sql = format!(
                    "INSERT INTO event VALUES {}; UPDATE event SET n = n + 1 WHERE id LIKE '{name}-{step}-%'",
                    values.join(", ")
                );
                let sql = format!("BEGIN IMMEDIATE; {sql}; COMMIT");
                match conn.execute_batch(&sql) {
                    Ok(_) => noted
                        .write_all(format!("{}\n", ids.join("\n")).as_bytes())
                        .unwrap(),
                    Err(e) => {
                        assert!(matches!(e.code, Code::Busy | Code::BusySnapshot), "{e:?}");
                        let _ = conn.execute_batch("ROLLBACK");
                    }
                }
            }
        }
        println!("step {step}");
    }
}

/// Keeps a worker running and kills it, again and again, until `until`; the number of kills.
fn kill_again_and_again(name: u64, path: &str, url: &str, until: Instant, seed: u64) -> u64 {
    let mut chance = Chance(seed ^ (name << 32));
    let mut kills = 0;
    while Instant::now() < until {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker", "--nocapture"])
            // A name is never used twice: so are ids.
            .env("WORKER", format!("w{name}.{kills}"))
            .env("WORKER_PATH", path)
            .env("WORKER_URL", url)
            .env("WORKER_SEED", chance.below(u64::MAX).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // So many steps, and a bit: death comes while the next ones are under way.
        let steps = chance.below(60);
        let seen = lines
            .by_ref()
            .map_while(Result::ok)
            .filter(|line| line.starts_with("step"));
        let seen = seen.take(steps as usize).count();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (seen as u64, output.status.code()),
            (steps, None),
            "a worker failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        kills += 1;
    }
    kills
}

/// The ids in the table `event` of a file, with their number.
fn ids(path: &Path) -> HashMap<String, i64> {
    let conn = rusqlite::Connection::open(path).unwrap();
    let mut select = conn.prepare("SELECT id, sum(n) FROM event GROUP BY id").unwrap();
    let rows = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn three_processes_that_are_killed_lose_and_double_nothing() {
    let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |v| v.parse().unwrap());
    let (seconds, seed) = (number("PROCESSES_SECONDS", 12), number("SEED", 1));
    let dir = tempfile::tempdir().unwrap();
    let remote = dir.path().join("remote.db");
    rusqlite::Connection::open(&remote)
        .unwrap()
        .execute_batch("CREATE TABLE event (id TEXT, n INTEGER)")
        .unwrap();
    let server = Server::start(&remote);
    let path = dir.path().join("replica.db").to_str().unwrap().to_owned();
    // The first one makes the replica: an interrupted download is another test's business.
    drop(open(&path, &server.url).unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let kills = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for name in 0..WORKERS {
            let (path, url, kills) = (&path, &server.url, &kills);
            scope.spawn(move || {
                kills.fetch_add(
                    kill_again_and_again(name, path, url, until, seed),
                    Ordering::Relaxed,
                );
            });
        }
    });
    // A dead holder blocks nobody.
    let engine = open(&path, &server.url).unwrap();
    drive(&engine, engine.sync()).unwrap();
    drive(&engine, engine.checkpoint()).unwrap();
    assert_eq!(engine.status().unwrap().pending_changes, 0);
    let there = ids(&remote);
    assert_eq!(there, ids(Path::new(&path)));
    let conn = rusqlite::Connection::open(&path).unwrap();
    let sql = "SELECT value FROM turso_sync_local WHERE name = 'former_client_id'";
    let former: String = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(former, "", "one of them took the file for a copy");
    let wrong: Vec<_> = there.iter().filter(|(_, n)| **n != 1).collect();
    assert!(wrong.is_empty(), "not once: {wrong:?}");
    let mut noted = HashSet::new();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap().path();
        if file.to_str().unwrap().contains("replica.db.w") {
            noted.extend(std::fs::read_to_string(file).unwrap().lines().map(str::to_owned));
        }
    }
    let lost: Vec<&String> = noted.iter().filter(|id| !there.contains_key(*id)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(!noted.is_empty());
    println!(
        "{} kills, {} ids noted, {} ids there",
        kills.load(Ordering::Relaxed),
        noted.len(),
        there.len()
    );
}

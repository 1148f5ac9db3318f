//! A first download that is interrupted goes on where it stopped.
#![cfg(feature = "server")]

mod support;

use support::*;
use turso_sync::engine::DatabaseSyncEngine;
use turso_sync::io::{Operation, OperationStatus, SyncEngineIoRequest};

/// A remote of about `megabytes`, of random content that does not compress.
fn remote_of(megabytes: u64) -> Remote {
    let rows = megabytes * 256;
    Remote::start(&format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT i, randomblob(3900) FROM n"
    ))
}

/// Runs `op` until `limit` bytes of answers have arrived; then the connection breaks, or the process ends. The bytes that came,
/// and whether the operation was done by then.
fn run_until<T>(engine: &DatabaseSyncEngine, mut op: Operation<T>, limit: u64) -> (u64, bool) {
    let mut received = 0;
    loop {
        match op.resume() {
            Ok(OperationStatus::Done) => return (received, true),
            Ok(OperationStatus::Io) => {}
            Err(_) => return (received, false),
        }
        while let Some(item) = engine.io().take_item() {
            let SyncEngineIoRequest::Http(http) = item.request() else {
                serve(&item, &mut |_, _| unreachable!());
                continue;
            };
            let (status, body) = forward(http).unwrap();
            item.status(status);
            let room = usize::try_from(limit - received).unwrap().min(body.len());
            body[..room]
                .chunks(5000)
                .for_each(|piece| item.push_buffer(piece));
            received += room as u64;
            if room < body.len() {
                if limit.is_multiple_of(2) {
                    // As if the process had ended: nobody hears of it.
                    std::mem::forget(item);
                    return (received, false);
                }
                item.poison("the connection broke");
            } else {
                item.done();
            }
        }
    }
}

/// `RESUME_MB=500` for a large one.
#[test]
fn ten_interruptions_cost_less_than_a_tenth() {
    let megabytes = std::env::var("RESUME_MB").map_or(32, |mb| mb.parse().unwrap());
    let remote = remote_of(megabytes);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let total = megabytes << 20;
    let mut received = 0;
    let mut cuts = Vec::new();
    let mut seed = 0x9e3779b97f4a7c15u64;
    loop {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        // At random points; at the end without an interruption.
        let limit = if cuts.len() < 10 {
            (seed >> 33) % (total / 12)
        } else {
            u64::MAX
        };
        let mut opts = options(&path, &remote.url);
        opts.pull_bytes_threshold = if cuts.len() % 3 == 0 { 1 << 20 } else { 0 };
        let engine = DatabaseSyncEngine::new(opts).unwrap();
        let (bytes, done) = run_until(&engine, engine.create_db(), limit);
        received += bytes;
        if done {
            break;
        }
        assert!(!path.exists());
        cuts.push(bytes);
    }
    assert_eq!(cuts.len(), 10);
    let file = std::fs::metadata(&remote.path).unwrap().len();
    println!(
        "{} bytes for a database of {file}: {:.3} times; interrupted after {cuts:?}",
        received,
        received as f64 / file as f64
    );
    assert!(received < file + file / 10, "{received} of {file}");
    assert_eq!(tables(&path), remote.tables());
    assert!(!dir.path().join("a.db-download").exists());
}

#[test]
fn a_remote_that_goes_on_meanwhile_is_caught_up_with() {
    let remote = remote_of(4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let writer = Replica::open(&dir.path().join("w.db"), &remote.url);
    for round in 0..6 {
        let engine = DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
        let (_, done) = run_until(&engine, engine.create_db(), 500_001);
        assert!(!done);
        let sql = match round {
            // Changes in what has arrived and in what has not, growth, and in the end the file shrinks.
            0 => "UPDATE t SET v = randomblob(3900) WHERE id IN (5, 900)",
            1 => "INSERT INTO t SELECT id + 100000, v FROM t LIMIT 100",
            2 => "UPDATE t SET v = zeroblob(10) WHERE id % 7 = 0",
            3 => "CREATE TABLE u AS SELECT * FROM t LIMIT 50",
            4 => "DELETE FROM t WHERE id > 600",
            _ => "VACUUM",
        };
        if round == 5 {
            plain(&remote.path).execute_batch(sql).unwrap();
        } else {
            writer.sql(sql);
            writer.push().unwrap();
        }
    }
    let a = Replica::open(&path, &remote.url);
    assert_eq!(a.tables(), remote.tables());
    a.sql("INSERT INTO t VALUES (-1, 'a')");
    a.sync().unwrap();
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn another_remote_is_never_mixed_in() {
    let (first, second) = (remote_of(2), remote_of(2));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, &first.url)).unwrap();
    assert!(!run_until(&engine, engine.create_db(), 1_000_001).1);
    let a = Replica::open(&path, &second.url);
    assert_eq!(a.tables(), second.tables());
}

/// The same address may belong to another database the next time.
#[test]
fn a_remote_that_was_replaced_is_noticed() {
    let mut first = remote_of(2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, "http://remote")).unwrap();
    let through = |url: &str, limit: Option<usize>| {
        let url = url.to_owned();
        move |http: &turso_sync::io::HttpRequest, _: &dyn Fn() -> (u16, Vec<u8>)| {
            let mut http = http.clone();
            http.url = Some(url.clone());
            let (status, mut body) = forward(&http).unwrap();
            body.truncate(limit.unwrap_or(usize::MAX));
            Ok((status, body))
        }
    };
    let cut = drive(
        &engine,
        engine.create_db(),
        &mut through(&first.url, Some(900_000)),
    );
    assert!(cut.unwrap_err().retryable);
    assert!(dir.path().join("a.db-download").exists());
    first.stop();
    let second = remote_of(2);
    drive(&engine, engine.create_db(), &mut through(&second.url, None)).unwrap();
    assert_eq!(tables(&path), second.tables());
}

/// A remote that claims another size for the same revision: what it sent before is not to be trusted.
#[test]
fn a_remote_that_contradicts_itself_costs_one_download() {
    let remote = remote_of(2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
    assert!(!run_until(&engine, engine.create_db(), 1_000_001).1);
    let notes = dir.path().join("a.db-download");
    let content = std::fs::read(&notes).unwrap();
    let end = content.iter().position(|byte| *byte == b'\n').unwrap();
    let mut target: serde_json::Value = serde_json::from_slice(&content[..end]).unwrap();
    target["pages"] = (target["pages"].as_u64().unwrap() - 1).into();
    let content = [target.to_string().as_bytes(), &content[end..]].concat();
    std::fs::write(&notes, content).unwrap();
    let a = Replica::open(&path, &remote.url);
    assert_eq!(a.tables(), remote.tables());
}

/// Everything had arrived but the end of the answer, and then the remote was replaced.
#[test]
fn a_complete_download_is_confirmed_before_it_is_used() {
    let first = remote_of(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, "http://remote")).unwrap();
    let through = |url: &str, more: &'static [u8]| {
        let url = url.to_owned();
        move |http: &turso_sync::io::HttpRequest, _: &dyn Fn() -> (u16, Vec<u8>)| {
            let mut http = http.clone();
            http.url = Some(url.clone());
            let (status, mut body) = forward(&http).unwrap();
            body.extend_from_slice(more);
            Ok((status, body))
        }
    };
    // The length of a message that does not come.
    drive(&engine, engine.create_db(), &mut through(&first.url, &[0x20])).unwrap_err();
    let second = remote_of(1);
    let mut requests = 0;
    let honest = through(&second.url, &[]);
    drive(&engine, engine.create_db(), &mut |http, perform| {
        requests += 1;
        honest(http, perform)
    })
    .unwrap();
    assert!(requests > 0);
    assert_eq!(tables(&path), second.tables());
}

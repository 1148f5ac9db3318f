//! The end of the server: graceful, with a limit, or at once.
#![cfg(all(feature = "server", feature = "driver", unix))]

mod server_support;

use std::net::TcpStream;
use std::path::Path;

use rusqlite::Connection;
use server_support::*;
use turso_sync::protocol::pull::PullUpdatesRequest;

const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

fn value(path: &Path) -> String {
    plain(path)
        .query_row("SELECT b FROM t WHERE id = 1", [], |r| r.get(0))
        .unwrap()
}

/// Returns when somebody else has the write lock.
fn wait_for_a_writer(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    while conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok() {}
}

#[test]
fn long_polls_end_at_once_with_an_ordinary_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let (mut process, client) = spawn(&[
        "127.0.0.1:0",
        path.to_str().unwrap(),
        "--log-level",
        "off",
        "--stop-timeout",
        "3600",
    ]);
    let mut replica = Pages::default();
    replica.pull(&client);
    let held = PullUpdatesRequest {
        client_revision: replica.revision.clone(),
        long_poll_timeout_ms: 60_000,
        ..Default::default()
    };
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let client = Client::new(client.url.clone());
                let held = held.clone();
                scope.spawn(move || client.pull(&held))
            })
            .collect();
        while client.metric("turso_sync_long_polls_waiting") < 5.0 {}
        process.signal("-TERM");
        for answer in waiting {
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, 200);
            let (header, pages) = decode(&answer.body);
            assert_eq!(
                (header.server_revision, pages.len()),
                (replica.revision.clone(), 0)
            );
        }
        assert!(process.0.wait().unwrap().success());
    });
}

#[test]
fn running_batches_end_and_new_connections_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let (mut process, client) = spawn(&[
        "127.0.0.1:0",
        path.to_str().unwrap(),
        "--log-level",
        "off",
        "--stop-timeout",
        "3600",
    ]);
    let steps = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000000) SELECT count(*) FROM n";
    let body = pipeline(&[
        "BEGIN IMMEDIATE",
        "UPDATE t SET b = 'finished' WHERE id = 1",
        steps,
        "COMMIT",
    ]);
    let address = client.url.strip_prefix("http://").unwrap().to_owned();
    std::thread::scope(|scope| {
        let batch = scope.spawn(|| client.post("/v2/pipeline", &body));
        wait_for_a_writer(&path);
        process.signal("-TERM");
        while TcpStream::connect(&address).is_ok() {}
        let answer = batch.join().unwrap();
        assert_eq!(answer.status, 200);
        assert!(!answer.text().contains("error"), "{}", answer.text());
        assert!(process.0.wait().unwrap().success());
    });
    assert_eq!(value(&path), "finished");
    assert!(
        !dir.path().join("served.db-wal").exists(),
        "the log is in the file"
    );
}

#[test]
fn what_takes_too_long_is_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let before = plain(&path)
        .query_row("SELECT hex(b) FROM t WHERE id = 1", [], |r| r.get::<_, String>(0))
        .unwrap();
    let (mut process, client) = spawn(&[
        "127.0.0.1:0",
        path.to_str().unwrap(),
        "--log-level",
        "off",
        "--stop-timeout",
        "0",
    ]);
    let body = pipeline(&[
        "BEGIN IMMEDIATE",
        "UPDATE t SET b = 'half' WHERE id = 1",
        ENDLESS,
        "COMMIT",
        "UPDATE t SET b = 'after' WHERE id = 1",
    ]);
    std::thread::scope(|scope| {
        let batch = scope.spawn(|| client.post("/v2/pipeline", &body).status);
        wait_for_a_writer(&path);
        process.signal("-INT");
        assert_eq!(batch.join().unwrap(), 503);
        assert!(process.0.wait().unwrap().success());
    });
    let after = plain(&path)
        .query_row("SELECT hex(b) FROM t WHERE id = 1", [], |r| r.get::<_, String>(0))
        .unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let (mut process, client) = spawn(&[
        "127.0.0.1:0",
        path.to_str().unwrap(),
        "--log-level",
        "off",
        "--stop-timeout",
        "3600",
    ]);
    client.write(&["UPDATE t SET b = 'kept' WHERE id = 1"]);
    let address = client.url.strip_prefix("http://").unwrap().to_owned();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let body = pipeline(&["BEGIN IMMEDIATE", "UPDATE t SET b = 'half' WHERE id = 1", ENDLESS]);
            // Nobody answers it.
            client.try_post("/v2/pipeline", &body)
        });
        wait_for_a_writer(&path);
        process.signal("-TERM");
        while TcpStream::connect(&address).is_ok() {}
        process.signal("-TERM");
        assert!(!process.0.wait().unwrap().success());
    });
    assert_eq!(value(&path), "kept");
    // The next one goes on.
    let (_process, client) = spawn(&["127.0.0.1:0", path.to_str().unwrap(), "--log-level", "off"]);
    assert_eq!(client.query("SELECT 1 FROM t WHERE b = 'kept'").len(), 1);
}

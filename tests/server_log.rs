//! What the server says about itself: log, health and metrics, and what it never says.
#![cfg(all(feature = "server", feature = "driver", unix))]

mod server_support;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use server_support::*;
use turso_sync::protocol::pull::PullUpdatesRequest;
use turso_sync::server::{Config, Server, TokenSource};

const WRITE: &str = "secret-token-for-writing";
const READ: &str = "secret-token-for-reading";
const WRONG: &str = "secret-token-of-nobody";

/// Everything that a server has written to its error output while `work` ran.
fn log_of(folder: &Path, arguments: &[&str], work: impl FnOnce(&Client)) -> String {
    let tokens = folder.join("tokens");
    std::fs::write(&tokens, format!("read-write {WRITE}\nread-only {READ}\n")).unwrap();
    let mut command = Command::new(SERVER);
    command
        .args([
            "127.0.0.1:0",
            "--dir",
            folder.to_str().unwrap(),
            "--create",
            "--log-level",
            "debug",
        ])
        .args(["--token-file", tokens.to_str().unwrap()])
        .args(arguments)
        .env("TURSO_SYNC_READ_TOKEN", "secret-token-in-a-variable")
        .stderr(Stdio::piped());
    let (mut process, client) = spawn_command(command);
    let mut errors = process.0.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        errors.read_to_string(&mut log).unwrap();
        log
    });
    work(&client);
    process.signal("-HUP");
    process.signal("-TERM");
    assert!(process.0.wait().unwrap().success());
    reading.join().unwrap()
}

fn full_run(client: &Client) {
    let create = pipeline(&["CREATE TABLE t(x UNIQUE)", "INSERT INTO t VALUES ('secret-row')"]);
    let again = pipeline(&[
        "INSERT INTO t VALUES ('secret-row')",
        "SELECT 'secret-literal'",
        "secret-nonsense",
    ]);
    let argument = br#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT ?","args":[{"type":"text","value":"secret-argument"}]}}]}"#;
    for (token, path, body, status) in [
        (WRITE, "/notes/v2/pipeline", &create[..], 200),
        (WRITE, "/notes/v2/pipeline", &again, 200),
        (READ, "/notes/v2/pipeline", argument, 200),
        (READ, "/notes/v2/pipeline", &again, 403),
        (READ, "/notes/pull-updates", b"", 200),
        ("secret-token-in-a-variable", "/notes/pull-updates", b"", 200),
        (WRONG, "/notes/pull-updates", b"", 401),
        (WRITE, "/notes/v2/pipeline", b"{secret-body", 400),
        (WRITE, "/Secret-path/of/somebody", b"", 404),
        (
            WRITE,
            "/notes/pull-updates?authToken=secret-token-in-a-query",
            b"",
            200,
        ),
    ] {
        assert_eq!(client.status_with(token, path, body), status, "{path}");
    }
    assert_eq!(client.get("/health"), 200);
}

#[test]
fn one_line_per_request_and_no_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let text = log_of(dir.path(), &[], full_run);
    let json = log_of(dir.path(), &["--log", "json"], |client| {
        assert_eq!(client.status_with(READ, "/notes/pull-updates", b""), 200);
        assert_eq!(client.status_with(WRONG, "/notes/pull-updates", b""), 401);
    });
    for log in [&text, &json] {
        assert!(!log.to_lowercase().contains("secret"), "{log}");
    }
    let requests: Vec<&str> = text.lines().filter(|l| l.contains(" info request ")).collect();
    assert_eq!(requests.len(), 11, "{text}");
    for (line, words) in [
        (0, "db=notes method=POST path=/v2/pipeline status=200 in="),
        (3, "status=403"),
        (
            6,
            "db=notes method=POST path=/pull-updates status=401 in=0 out=12 ms=",
        ),
        (8, "path=other status=404"),
        (10, "db=\"\" method=GET path=/health status=200 in=0 out=3 ms="),
    ] {
        assert!(requests[line].contains(words), "{words} in {}", requests[line]);
    }
    let lines: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let requests: Vec<&Value> = lines.iter().filter(|l| l["message"] == "request").collect();
    assert_eq!(requests.len(), 2, "{json}");
    assert_eq!(requests[0]["db"], "notes");
    assert_eq!(requests[0]["status"], 200);
    assert!(requests[0]["out"].as_u64().unwrap() > 4096);
    assert_ne!(requests[0]["id"], requests[1]["id"]);
    let messages: Vec<&str> = lines.iter().filter_map(|l| l["message"].as_str()).collect();
    assert_eq!(messages.first(), Some(&"started"));
    assert_eq!(messages.last(), Some(&"stopped"));
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let mut command = Command::new(SERVER);
    command
        .args(["127.0.0.1:0", path.to_str().unwrap()])
        .stderr(Stdio::piped());
    let (mut process, client) = spawn_command(command);
    // More lines than the pipe and the queue can take together.
    for _ in 0..6000 {
        assert_eq!(client.get("/health"), 200);
    }
    process.signal("-TERM");
    assert!(process.0.wait().unwrap().success());
}

#[test]
fn the_level_is_heeded() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |client: &Client| assert_eq!(client.get("/health"), 200);
    let log = log_of(dir.path(), &["--log-level", "warn"], ask);
    assert!(!log.contains("request"), "{log}");
    assert_eq!(log_of(dir.path(), &["--log-level", "off"], ask), "");
}

#[test]
fn metrics_count_what_happens() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let before = client.metric("turso_sync_database_revision{database=\"\"}");
    client.write(&["UPDATE t SET b = 1 WHERE id = 1"]);
    let mut replica = Pages::default();
    replica.pull(&client);
    assert_eq!(client.post("/v2/pipeline", b"{").status, 400);
    assert_eq!(client.post("/nowhere", b"").status, 404);
    for (name, expected) in [
        ("requests_total{route=\"/v2/pipeline\",status=\"200\"}", 1.0),
        ("requests_total{route=\"/v2/pipeline\",status=\"400\"}", 1.0),
        ("requests_total{route=\"/pull-updates\",status=\"200\"}", 1.0),
        ("requests_total{route=\"other\",status=\"404\"}", 1.0),
        ("request_duration_seconds_count{route=\"/v2/pipeline\"}", 2.0),
        ("databases_open", 1.0),
        ("long_polls_waiting", 0.0),
        (
            "database_size_bytes{database=\"\"}",
            f64::from(replica.size) * 4096.0,
        ),
    ] {
        assert_eq!(client.metric(&format!("turso_sync_{name}")), expected, "{name}");
    }
    assert!(client.metric("turso_sync_sent_bytes_total") > f64::from(replica.size) * 4096.0);
    assert!(client.metric("turso_sync_received_bytes_total") > 100.0);
    assert!(client.metric("turso_sync_connections_open") >= 1.0);
    assert!(client.metric("turso_sync_database_log_bytes{database=\"\"}") > 4096.0);
    assert!(client.metric("turso_sync_database_revision{database=\"\"}") > before);
}

#[test]
fn who_may_see_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let metrics = "token-for-the-metrics-only";
    std::fs::write(
        &file,
        format!("metrics {metrics}\nread-write token-for-some-databases notes\n"),
    )
    .unwrap();
    let tokens = TokenSource {
        read: Some(READ.to_owned()),
        file: Some(file),
        ..Default::default()
    };
    let server = Server::start(&Config {
        tokens,
        ..serve_folder(dir.path(), true)
    })
    .unwrap();
    let get = |path: &str, token: &str| {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let request = agent.get(format!("{}{path}", server.url()));
        let answer = request
            .header("authorization", format!("Bearer {token}"))
            .call()
            .unwrap();
        answer.status().as_u16()
    };
    assert_eq!(get("/metrics", metrics), 200);
    assert_eq!(get("/metrics", READ), 200);
    assert_eq!(
        get("/metrics", "token-for-some-databases"),
        403,
        "it would see the names of the others"
    );
    assert_eq!(get("/metrics", ""), 401);
    // Nothing in it that a balancer must not know.
    assert_eq!(get("/health", ""), 200);
    assert_eq!(get("/health/ready", ""), 200);
    drop(dir);
    assert_eq!(get("/health/ready", ""), 500, "the folder is gone");
}

#[test]
fn a_change_reaches_who_waits_in_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&database(&dir, "wal"));
    let client = Client::new(server.url());
    let mut replica = Pages::default();
    replica.pull(&client);
    let held = PullUpdatesRequest {
        client_revision: replica.revision.clone(),
        long_poll_timeout_ms: 60_000,
        ..Default::default()
    };
    let pulls = "turso_sync_requests_total{route=\"/pull-updates\",status=\"200\"}";
    let before = client.metric(pulls);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let answer = client.pull(&held);
            (answer, std::time::Instant::now())
        });
        while client.metric("turso_sync_long_polls_waiting") < 1.0 {}
        let begin = std::time::Instant::now();
        Client::new(server.url()).write(&["UPDATE t SET b = 'news' WHERE id = 1"]);
        let (answer, arrived) = waiting.join().unwrap();
        println!("a push and its arrival: {:?}", arrived - begin);
        assert!(replica.apply(&answer.body) > 0);
    });
    assert_eq!(client.metric(pulls), before + 1.0, "however long it has waited");
}

//! The server as a process and as an HTTP endpoint: arguments, crashes, authorization, malformed input.
#![cfg(all(feature = "server", feature = "driver"))]

mod server_support;

use std::path::Path;
use std::process::{Command, Output};

use server_support::*;
use turso_sync::error::Code;
use turso_sync::protocol::pull::PullUpdatesRequest;
use turso_sync::server::{Config, Server, TokenSource};

fn run(arguments: &[&str]) -> Output {
    Command::new(SERVER).args(arguments).output().unwrap()
}

#[test]
fn nothing_is_lost_when_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let name = path.to_str().unwrap();
    let mut replica = Pages::default();
    for round in 0..4 {
        let (mut process, client) = spawn(&["127.0.0.1:0", name]);
        let pulled = replica.pull(&client);
        assert!(
            round == 0 || (2..8).contains(&pulled),
            "{pulled} pages in round {round}"
        );
        replica.assert_equals(&path);
        client.write(&[&format!("UPDATE t SET b = {round} WHERE id = 1")]);
        if round % 2 == 0 {
            replica.pull(&client);
        }
        // Committed but, in this last case, never recorded as a revision.
        client.write(&[&format!("UPDATE t SET b = {round} WHERE id = 300")]);
        process.0.kill().unwrap();
        process.0.wait().unwrap();
    }
    let (_process, client) = spawn(&["127.0.0.1:0", name]);
    replica.pull(&client);
    replica.assert_equals(&path);
}

#[test]
fn a_killed_server_and_a_writer_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let name = path.to_str().unwrap();
    let mut replica = Pages::default();
    for _ in 0..3 {
        let (mut process, client) = spawn(&["127.0.0.1:0", name]);
        replica.pull(&client);
        replica.assert_equals(&path);
        client.write(&["UPDATE t SET b = hex(randomblob(4)) WHERE id = 1"]);
        process.0.kill().unwrap();
        process.0.wait().unwrap();
        // Its close moves the whole log into the file and deletes it.
        plain(&path)
            .execute_batch("UPDATE t SET b = hex(randomblob(4)) WHERE id = 400")
            .unwrap();
    }
    let (_process, client) = spawn(&["127.0.0.1:0", name]);
    replica.pull(&client);
    replica.assert_equals(&path);
}

#[test]
fn signals_stop_it_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    for name in ["-TERM", "-INT"] {
        let (mut process, client) = spawn(&[path.to_str().unwrap(), "--sync-server", "127.0.0.1:0"]);
        client.write(&["UPDATE t SET b = 1 WHERE id = 1"]);
        process.signal(name);
        assert!(process.0.wait().unwrap().success());
    }
    // Everything is in the file now.
    std::fs::remove_file(dir.path().join("served.db-wal")).unwrap();
    let b: i64 = plain(&path)
        .query_row("SELECT b FROM t WHERE id = 1", [], |r| r.get(0))
        .unwrap();
    assert_eq!(b, 1);
}

#[test]
fn command_lines() {
    let dir = tempfile::tempdir().unwrap();
    let name = database(&dir, "wal").display().to_string();
    for arguments in [
        vec!["--sync-server", "127.0.0.1:0"],
        vec!["--sync-server", "127.0.0.1:0", &name],
        vec![&*name, "--sync-server", "127.0.0.1:0", "--experimental-views"],
        vec!["--experimental-x=1", ":memory:", "--sync-server=127.0.0.1:0"],
        vec!["127.0.0.1:0", &name],
    ] {
        let (_process, client) = spawn(&arguments);
        assert_eq!(client.get("/"), 200);
        assert_eq!(client.get("/health"), 200);
        let has_table = client.query("SELECT 1 FROM sqlite_schema WHERE name = 't'").len() == 1;
        assert_eq!(has_table, arguments.contains(&&*name), "{arguments:?}");
    }
    let help = run(&["--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Usage"));
    for wrong in [
        &[][..],
        &["--sync-server"],
        &["--what"],
        &["127.0.0.1:0", "a", "b"],
        &["nowhere", &name],
    ] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(1), "{wrong:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn files_that_cannot_be_served() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, text: &str| {
        let output = run(&["127.0.0.1:0", path.to_str().unwrap()]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(text), "{error}");
    };
    let small = dir.path().join("small.db");
    plain(&small)
        .execute_batch("PRAGMA page_size=1024; CREATE TABLE t(x)")
        .unwrap();
    refused(&small, "pages of 1024 bytes");
    assert!(!dir.path().join("small.db-sync").exists());
    let text = dir.path().join("text.db");
    std::fs::write(
        &text,
        "this is not a database, it is a text that is longer than a header ".repeat(99),
    )
    .unwrap();
    refused(&text, "not a database");
    refused(dir.path(), "directory");
    refused(&dir.path().join("no/such/directory.db"), "unable to open");
    let served = database(&dir, "wal");
    let _server = serve(&served);
    let error = Server::start(&config(&served)).err().unwrap();
    assert_eq!(error.code, Code::Busy);
    assert!(error.message.contains("another server"));
}

#[test]
fn the_token_is_asked_for() {
    let config = Config {
        address: "127.0.0.1:0".to_owned(),
        tokens: TokenSource {
            write: Some("s3cret".to_owned()),
            ..Default::default()
        },
        ..Default::default()
    };
    let server = Server::start(&config).unwrap();
    let client = Client::new(server.url());
    assert_eq!(client.get("/"), 200);
    for (token, status) in [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("s3cret", 401),
        ("", 401),
    ] {
        assert_eq!(
            client
                .post_with("/pull-updates", &[], "authorization", token)
                .status,
            status,
            "{token}"
        );
    }
    assert_eq!(client.post("/v2/pipeline", br#"{"requests":[]}"#).status, 401);
    assert_eq!(client.post("/push-changes", b"").status, 401);
    assert_eq!(client.get("/pull-updates?encoding=raw"), 401);
}

#[test]
fn malformed_requests() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&database(&dir, "wal"));
    let client = Client::new(server.url());
    for body in [&b"\xff\xff\xff"[..], b"{", &[0x1a, 200, 1]] {
        assert_eq!(client.post("/pull-updates", body).status, 400);
    }
    for body in [
        "",
        "{",
        "[]",
        r#"{"requests":[{"type":"describe"}]}"#,
        r#"{"requests":[{"type":"batch"}]}"#,
    ] {
        let answer = client.post("/v2/pipeline", body.as_bytes());
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text().contains("malformed"));
    }
    assert_eq!(
        client.post("/pull-updates", &vec![0; 4 << 20]).status,
        413,
        "too long"
    );
    assert_eq!(client.post("/nowhere", b"").status, 404);
    assert_eq!(client.get("/v2/pipeline"), 404);
    assert_eq!(client.post("/push-changes", b"").status, 400);
    let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
    let answer = agent
        .options(format!("{}/v2/pipeline", server.url()))
        .call()
        .unwrap();
    assert_eq!(answer.status().as_u16(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_eq!(
        client.pull(&PullUpdatesRequest::default()).status,
        200,
        "still alive"
    );
}

#[test]
fn temporary_databases_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(SERVER);
    command.args(["127.0.0.1:0"]).env("TMPDIR", dir.path());
    let (mut process, _) = spawn_command(command);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    process.signal("-TERM");
    assert!(process.0.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

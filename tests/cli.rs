//! The command-line tool, as a person and as a script use it.
#![cfg(feature = "server")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::*;

const SCHEMA: &str =
    "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT UNIQUE); INSERT INTO note VALUES (1, 'first')";

fn tool(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turso-sync"))
        .args(args)
        .env_remove("TURSO_AUTH_TOKEN")
        .env_remove("TURSO_SYNC_URL")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a command that succeeds prints.
fn prints(args: &[&str]) -> String {
    let output = tool(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

/// The JSON lines that a command prints.
fn json(args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = std::iter::once("--json").chain(args.iter().copied()).collect();
    let printed = prints(&args);
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Exit code and message of a command that fails.
fn fails(args: &[&str]) -> (i32, String) {
    let output = tool(args);
    assert!(!output.status.success(), "{args:?}: {}", text(&output.stdout));
    (output.status.code().unwrap(), text(&output.stderr))
}

fn name(dir: &tempfile::TempDir, file: &str) -> String {
    dir.path().join(file).to_str().unwrap().to_owned()
}

#[test]
fn two_replicas_from_init_to_verify() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (name(&dir, "a.db"), name(&dir, "b.db"));
    assert_eq!(
        prints(&["init", &a, "--url", &remote.url]),
        "everything is on the remote\n"
    );
    prints(&["init", &b, "--url", &remote.url]);
    // The URL is remembered.
    prints(&[
        "sql",
        &a,
        "INSERT INTO note VALUES (2, 'second'); UPDATE note SET text = 'erste' WHERE id = 1",
    ]);
    assert_eq!(json(&["status", &a])[0]["pending_changes"], 2);
    assert!(prints(&["status", &a]).contains("pending changes"));
    assert_eq!(prints(&["push", &a]), "everything is on the remote\n");
    assert!(prints(&["pull", &b]).contains("were applied"));
    assert!(prints(&["pull", &b]).contains("nothing new"));
    assert_eq!(
        json(&["sync", &b]),
        [serde_json::json!({
            "pending_changes": 0, "conflicts_blocked": 0, "conflicts_set_aside": 0, "changed": false
        })]
    );
    let rows = json(&[
        "sql",
        &b,
        "SELECT id, text, x'00ff' AS b, NULL AS n, 9e999 AS r FROM note ORDER BY id",
    ]);
    assert_eq!(
        rows[0],
        serde_json::json!({"id": 1, "text": "erste", "b": "x'00ff'", "n": null, "r": "inf"})
    );
    let table = prints(&["sql", &b, "SELECT * FROM note"]);
    assert!(table.contains("text") && table.contains("second"), "{table}");
    prints(&["checkpoint", &a]);
    assert_eq!(
        json(&["verify", &a]),
        [serde_json::json!({"table": "note", "here": 2, "remote": 2, "result": "equal"})]
    );
    assert_eq!(tables(Path::new(&a)), remote.tables());
}

#[test]
fn verify_finds_what_differs() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let a = name(&dir, "a.db");
    prints(&["init", &a, "--url", &remote.url]);
    prints(&["sql", &a, "UPDATE note SET text = 'other'; CREATE TABLE more (x)"]);
    let output = tool(&["verify", &a]);
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert!(
        printed.contains("different") && printed.contains("more"),
        "{printed}"
    );
    assert!(printed.contains("2 changes are pending"), "{printed}");
}

#[test]
fn a_conflict_is_listed_and_resolved() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (name(&dir, "a.db"), name(&dir, "b.db"));
    for db in [&a, &b] {
        prints(&["init", db, "--url", &remote.url]);
    }
    prints(&["sql", &a, "INSERT INTO note VALUES (5, 'same')"]);
    prints(&["sql", &b, "INSERT INTO note VALUES (6, 'same')"]);
    prints(&["sync", &a]);
    let (code, message) = fails(&["sync", &b]);
    assert_eq!(code, 3, "{message}");
    assert!(
        message.starts_with("turso-sync: ") && message.contains("note"),
        "{message}"
    );
    let listed = json(&["conflicts", &b]);
    assert_eq!(
        (listed.len(), &listed[0]["kind"]),
        (1, &serde_json::json!("Unique"))
    );
    let id = listed[0]["id"].to_string();
    assert!(prints(&["conflicts", &b, "--resolve", &id, "--with", "set-aside"]).contains("1 set aside"));
    assert!(prints(&["sync", &b]).contains("1 set aside"));
    prints(&["conflicts", &b, "--resolve", &id, "--with", "drop"]);
    assert_eq!(prints(&["conflicts", &b]), "there are no conflicts\n");
    // By policy.
    prints(&["sql", &b, "INSERT INTO note VALUES (7, 'again')"]);
    prints(&["sql", &a, "INSERT INTO note VALUES (8, 'again')"]);
    prints(&["sync", &a]);
    prints(&["sync", &b, "--conflicts", "overwrite"]);
    assert_eq!(tables(Path::new(&b)), remote.tables());
}

#[test]
fn what_another_program_has_written_is_listed_and_decided_about() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let a = name(&dir, "a.db");
    prints(&["init", &a, "--url", &remote.url]);
    assert_eq!(
        prints(&["foreign", &a]),
        "no other program has changed the database\n"
    );
    assert!(json(&["foreign", &a]).is_empty());
    let foreign = |sql: &str| {
        rusqlite::Connection::open(&a)
            .unwrap()
            .execute_batch(sql)
            .unwrap()
    };
    foreign("INSERT INTO note VALUES (5, 'theirs')");
    let (code, message) = fails(&["sync", &a]);
    assert!(
        code == 1 && message.contains("note") && message.contains("adopt"),
        "{message}"
    );
    for _ in 0..2 {
        assert_eq!(json(&["foreign", &a]), [serde_json::json!({"table": "note"})]);
    }
    assert!(prints(&["foreign", &a, "--with", "adopt"]).contains("1 changes are pending"));
    prints(&["sync", &a]);
    assert_eq!(tables(Path::new(&a)), remote.tables());
    foreign("DELETE FROM note");
    assert!(prints(&["foreign", &a]).contains("note"));
    assert!(prints(&["foreign", &a, "--with", "discard"]).contains("everything is on the remote"));
    assert_eq!(tables(Path::new(&a)), remote.tables());
    assert_eq!(tables(Path::new(&a))["note"].len(), 2);
}

#[test]
fn an_ordinary_database_is_adopted_and_another_remote_accepted() {
    let (remote, other) = (Remote::start(""), Remote::start(SCHEMA));
    let dir = tempfile::tempdir().unwrap();
    let a = name(&dir, "a.db");
    let sql = format!("{SCHEMA}; INSERT INTO note VALUES (2, 'second')");
    rusqlite::Connection::open(&a)
        .unwrap()
        .execute_batch(&sql)
        .unwrap();
    let (code, message) = fails(&["init", &a, "--url", &remote.url]);
    assert!(code == 1 && message.contains("adopt"), "{message}");
    assert!(prints(&["init", &a, "--url", &remote.url, "--adopt"]).contains("changes are pending"));
    prints(&["sync", &a]);
    assert_eq!(tables(Path::new(&a)), remote.tables());
    let (code, message) = fails(&["sync", &a, "--url", &other.url]);
    assert!(code == 1 && message.contains("accept"), "{code} {message}");
    let (_, message) = fails(&["accept", &a, "--url", &other.url]);
    assert!(message.contains("note"), "{message}");
    prints(&["accept", &a, "--url", &other.url, "--with", "adopt"]);
    prints(&["sync", &a]);
    assert_eq!(tables(Path::new(&a)), other.tables());
    assert_eq!(other.tables()["note"].len(), 2);
}

#[test]
fn an_offline_start_meets_its_remote_later() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let a = name(&dir, "a.db");
    prints(&["init", &a, "--offline"]);
    prints(&["sql", &a, "CREATE TABLE local (x); INSERT INTO local VALUES (1)"]);
    let (code, message) = fails(&["sync", &a]);
    assert!(message.contains("no remote URL") && code == 1, "{code} {message}");
    prints(&["sync", &a, "--url", &remote.url]);
    assert_eq!(tables(Path::new(&a)), remote.tables());
}

#[test]
fn scripts_get_every_column_and_every_error() {
    let dir = tempfile::tempdir().unwrap();
    let a = name(&dir, "a.db");
    prints(&["init", &a, "--offline"]);
    let rows = json(&["sql", &a, r#"SELECT 1 AS id, 2 AS id, 3 AS "id:1", 4 AS id"#]);
    let expected = serde_json::json!([{ "id": 1, "id:2": 2, "id:1": 3, "id:3": 4 }]);
    assert_eq!(Value::Array(rows), expected);
    for wrong in [
        &["--json"][..],
        &["--json", "pull"],
        &["pull", &a, "--json", "--timeout", "x"],
    ] {
        let (code, message) = fails(wrong);
        let error: Value = serde_json::from_str(&message).unwrap();
        assert_eq!((code, &error["error"]["code"]), (2, &serde_json::json!("Misuse")));
    }
    assert!(prints(&["--json", "--help"]).contains("Usage"));
}

#[test]
fn a_transaction_without_its_end_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let a = name(&dir, "a.db");
    prints(&["init", &a, "--offline"]);
    prints(&["sql", &a, "CREATE TABLE t (x)"]);
    for begin in ["BEGIN", "SAVEPOINT s"] {
        let (code, message) = fails(&["sql", &a, &format!("{begin}; INSERT INTO t VALUES (1)")]);
        assert!(code == 1 && message.contains("COMMIT"), "{message}");
    }
    prints(&["sql", &a, "BEGIN; INSERT INTO t VALUES (2); COMMIT"]);
    let rows = json(&["sql", &a, "SELECT x FROM t"]);
    assert_eq!(rows, [serde_json::json!({ "x": 2 })]);
}

#[test]
fn verify_tells_scripts_of_damage() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let a = name(&dir, "a.db");
    prints(&["init", &a, "--url", &remote.url]);
    prints(&["checkpoint", &a]);
    let root = "SELECT rootpage AS root FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'note'";
    let root = json(&["sql", &a, root])[0]["root"].as_u64().unwrap() as usize;
    let mut file = std::fs::read(&a).unwrap();
    let page = &mut file[(root - 1) * 4096..root * 4096];
    let at = page.windows(5).position(|bytes| bytes == b"first").unwrap();
    page[at] = b'F';
    std::fs::write(&a, file).unwrap();
    let (code, message) = fails(&["--json", "verify", &a]);
    let error: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(
        (code, &error["error"]["code"]),
        (1, &serde_json::json!("Corrupt"))
    );
    assert!(message.contains("missing from index"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_path_is_a_path_even_if_it_looks_like_a_uri() {
    let dir = tempfile::tempdir().unwrap();
    let tool = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turso-sync"));
        let output = command.args(args).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    tool(&["init", "file:a.db?mode=memory", "--offline"]);
    tool(&[
        "sql",
        "file:a.db?mode=memory",
        "CREATE TABLE t (x); INSERT INTO t VALUES (7)",
    ]);
    let rows = tool(&["--json", "sql", "file:a.db?mode=memory", "SELECT x FROM t"]);
    assert_eq!(rows.trim(), r#"{"x":7}"#);
    assert!(dir.path().join("file:a.db?mode=memory").exists());
    assert!(!dir.path().join("a.db").exists());
}

/// Whoever reads the messages may have gone.
#[cfg(unix)]
#[test]
fn an_error_that_nobody_reads_keeps_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_turso-sync"))
        .args(["status", &name(&dir, "none.db")])
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn mistakes_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let a = name(&dir, "a.db");
    assert_eq!(fails(&["frobnicate"]).0, 2);
    assert_eq!(fails(&["conflicts", &a, "--resolve", "3"]).0, 2);
    let (code, message) = fails(&["init", &a]);
    assert!(
        code == 1 && message.contains("--url") && message.contains("--offline"),
        "{message}"
    );
    let (code, message) = fails(&["status", &a]);
    assert!(code == 1 && message.contains("metadata not found"), "{message}");
    assert!(!Path::new(&a).exists());
    let (code, message) = fails(&["init", &a, "--url", "http://127.0.0.1:1", "--timeout", "1"]);
    assert!(code == 4 && message.contains("127.0.0.1:1"), "{code} {message}");
    let (code, message) = fails(&["--json", "status", &a]);
    let error: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(
        (code, &error["error"]["category"]),
        (1, &serde_json::json!("Usage"))
    );
    prints(&["init", &a, "--offline"]);
    let (code, message) = fails(&["sql", &a, "SELEC 1"]);
    assert!(code == 1 && message.contains("SELEC"), "{message}");
    let (_, message) = fails(&["status", &a, "--token-file", &name(&dir, "none")]);
    assert!(message.contains("read the token"), "{message}");
    for command in [
        "init",
        "pull",
        "push",
        "sync",
        "status",
        "foreign",
        "accept",
        "conflicts",
        "checkpoint",
        "verify",
        "sql",
    ] {
        assert!(prints(&["--help"]).contains(command) && prints(&[command, "--help"]).contains("--url"));
    }
}

//! Who may do what: tokens for everything, for reading, for one database; reloading; what is read-only.
#![cfg(all(feature = "server", feature = "driver", unix))]

mod server_support;

use std::path::Path;

use server_support::*;
use turso_sync::server::{Config, Server, TokenSource};

const WRITE: &str = "wwwwwwwwwwwwwwwwwwwwwwww";
const READ: &str = "rrrrrrrrrrrrrrrrrrrrrrrr";
const NOTES: &str = "nnnnnnnnnnnnnnnnnnnnnnnn";
const METRICS: &str = "mmmmmmmmmmmmmmmmmmmmmmmm";

fn token_file(dir: &Path, text: &str) -> TokenSource {
    let path = dir.join("tokens");
    std::fs::write(&path, text).unwrap();
    TokenSource {
        file: Some(path),
        ..Default::default()
    }
}

fn folder_with_tokens(dir: &Path) -> Server {
    let text = format!(
        "read-write {WRITE}\nread-only {READ}\nread-write {NOTES} notes,other  # a comment\nmetrics {METRICS}\n"
    );
    let config = Config {
        tokens: token_file(dir, &text),
        ..serve_folder(dir, true)
    };
    Server::start(&config).unwrap()
}

#[test]
fn a_token_opens_what_it_is_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = folder_with_tokens(dir.path());
    let client = Client::new(server.url());
    let (write, read) = (
        pipeline(&["CREATE TABLE IF NOT EXISTS t(x)"]),
        pipeline(&["SELECT 1"]),
    );
    assert_eq!(client.status_with("", "/notes/v2/pipeline", &write), 401);
    assert!(
        !dir.path().join("notes.db").exists(),
        "only who may write makes a database"
    );
    assert_eq!(client.status_with(READ, "/notes/pull-updates", b""), 404);
    assert!(!dir.path().join("notes.db").exists());
    for (token, name, expected_write, expected_read) in [
        (WRITE, "notes", 200, 200),
        (WRITE, "tasks", 200, 200),
        (READ, "notes", 403, 200),
        (READ, "tasks", 403, 200),
        (NOTES, "notes", 200, 200),
        (NOTES, "other", 200, 200),
        (NOTES, "tasks", 403, 403),
        (METRICS, "notes", 403, 403),
        ("wrong", "notes", 401, 401),
        ("wwwwwwwwwwwwwwwwwwwwwww", "notes", 401, 401),
        ("wwwwwwwwwwwwwwwwwwwwwwwww", "notes", 401, 401),
    ] {
        let status = |path: &str, body: &[u8]| client.status_with(token, &format!("/{name}{path}"), body);
        assert_eq!(status("/v2/pipeline", &write), expected_write, "{token} {name}");
        assert_eq!(status("/v2/pipeline", &read), expected_read, "{token} {name}");
        assert_eq!(status("/pull-updates", b""), expected_read, "{token} {name}");
    }
    assert_eq!(client.get("/health"), 200, "needs no token");
}

#[test]
fn reading_is_what_sqlite_says_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let tokens = TokenSource {
        write: Some(WRITE.to_owned()),
        read: Some(READ.to_owned()),
        file: None,
    };
    let server = Server::start(&Config {
        tokens,
        ..config(&path)
    })
    .unwrap();
    let client = Client::new(server.url());
    let answer = |sql: &[&str]| {
        let bearer = format!("Bearer {READ}");
        client.post_with("/v2/pipeline", &pipeline(sql), "authorization", &bearer)
    };
    for sql in [
        "SELECT count(*) FROM t",
        "WITH n AS (SELECT 1 AS x) SELECT * FROM n",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT s",
        "EXPLAIN SELECT * FROM t",
        "PRAGMA table_info(t)",
        "PRAGMA integrity_check",
        "PRAGMA user_version",
        "VALUES (1)",
    ] {
        assert_eq!(answer(&["BEGIN", sql]).status, 200, "{sql}");
    }
    for sql in [
        "INSERT INTO t VALUES (9999, 'x', 'y')",
        "WITH n AS (SELECT 1 AS x) INSERT INTO t SELECT 9999, x, x FROM n",
        "WITH n AS (SELECT 1 AS x) DELETE FROM t WHERE id IN n",
        "UPDATE t SET b = 0",
        "DELETE FROM t",
        "REPLACE INTO t VALUES (1, 2, 3)",
        "BEGIN IMMEDIATE",
        "BEGIN EXCLUSIVE",
        "CREATE TABLE u(x)",
        "CREATE TEMP TABLE u(x)",
        "DROP TABLE t",
        "ALTER TABLE t ADD COLUMN c",
        "VACUUM",
        "REINDEX",
        "ANALYZE",
        "PRAGMA user_version = 7",
        "PRAGMA application_id = 7",
        "INSERT INTO t VALUES (9999, 'x', 'y') RETURNING id",
    ] {
        let alone = answer(&[sql]);
        assert_eq!(alone.status, 403, "{sql}: {}", alone.text());
        assert_eq!(answer(&["SELECT 1", sql, "SELECT 2"]).status, 403, "{sql}");
    }
    // Nobody may do these: an error of the statement, whatever the token.
    for sql in [
        "ATTACH 'x.db' AS x",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA query_only = 0",
    ] {
        for token in [READ, WRITE] {
            let bearer = format!("Bearer {token}");
            let answer = client.post_with("/v2/pipeline", &pipeline(&[sql]), "authorization", &bearer);
            assert!(
                answer.status == 403 || answer.text().contains("error"),
                "{sql}: {}",
                answer.text()
            );
        }
    }
    server.shutdown();
    let conn = plain(&path);
    let (rows, version): (i64, i64) = conn
        .query_row(
            "SELECT count(*), (SELECT user_version FROM pragma_user_version) FROM t",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .unwrap();
    assert_eq!((rows, version), (500, 0), "nothing was written");
}

#[test]
fn a_writer_in_the_way_of_a_reader_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let tokens = TokenSource {
        read: Some(READ.to_owned()),
        ..Default::default()
    };
    let server = Server::start(&Config {
        tokens,
        ..config(&path)
    })
    .unwrap();
    let client = Client::new(server.url());
    // Somebody else holds the write lock for as long as it likes.
    let other = plain(&path);
    other
        .execute_batch("BEGIN IMMEDIATE; UPDATE t SET b = 'uncommitted'")
        .unwrap();
    let body = pipeline(&["SELECT count(*) FROM t WHERE b = 'uncommitted'"]);
    let bearer = format!("Bearer {READ}");
    let answer = client.post_with("/v2/pipeline", &body, "authorization", &bearer);
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains(r#""value":"0""#), "{}", answer.text());
}

#[test]
fn tokens_are_read_again_on_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let served = database(&dir, "wal");
    let file = token_file(dir.path(), &format!("read-write {WRITE}\n"))
        .file
        .unwrap();
    let (process, client) = spawn(&[
        "127.0.0.1:0",
        served.to_str().unwrap(),
        "--token-file",
        file.to_str().unwrap(),
    ]);
    let status = |token: &str| client.status_with(token, "/pull-updates", b"");
    assert_eq!((status(WRITE), status(READ)), (200, 401));
    std::fs::write(&file, format!("read-only {READ}\n")).unwrap();
    assert_eq!((status(WRITE), status(READ)), (200, 401), "not by itself");
    process.signal("-HUP");
    while status(READ) != 200 {}
    assert_eq!(status(WRITE), 401);
    // What cannot be read changes nothing.
    std::fs::write(&file, "nonsense\n").unwrap();
    process.signal("-HUP");
    process.signal("-HUP");
    assert_eq!(status(READ), 200);
}

#[test]
fn tokens_that_would_let_everybody_in_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |tokens: TokenSource, text: &str| {
        let error = Server::start(&Config {
            tokens,
            ..serve_folder(dir.path(), true)
        })
        .err()
        .unwrap();
        assert!(error.message.contains(text), "{}", error.message);
        assert!(!error.message.contains("nnnnnnnn"), "{}", error.message);
    };
    refused(token_file(dir.path(), "# nothing yet\n"), "no token");
    refused(token_file(dir.path(), "read-write short\n"), "line 1");
    refused(token_file(dir.path(), &format!("readwrite {NOTES}\n")), "line 1");
    refused(
        token_file(dir.path(), &format!("read-only {NOTES} ../x\n")),
        "line 1",
    );
    let missing = TokenSource {
        file: Some(dir.path().join("missing")),
        ..Default::default()
    };
    refused(missing, "missing");
    // One database has no name that a token could be for.
    let one = Config {
        tokens: token_file(dir.path(), &format!("read-only {NOTES} notes\n")),
        folder: None,
        ..serve_folder(dir.path(), false)
    };
    assert!(Server::start(&one).err().unwrap().message.contains("only one"));
}

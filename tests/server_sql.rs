//! Pipeline requests: atomic batches, errors, and what is refused.
#![cfg(all(feature = "server", feature = "driver"))]

mod server_support;

use server_support::*;
use turso_sync::protocol::pipeline::{
    BatchBuilder, BatchResult, PipelineResponse, StreamResponse, StreamResult,
};
use turso_sync::record::Value;
use turso_sync::server::Server;

fn setup() -> (tempfile::TempDir, Server, Client) {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    (dir, server, client)
}

/// A batch as deployed clients send it: every step only asks whether a transaction is open.
fn official(client: &Client, sql: &[&str]) -> BatchResult {
    let open = r#"{"type":"not","cond":{"type":"is_autocommit"}}"#;
    let steps: Vec<String> = sql
        .iter()
        .enumerate()
        .map(|(i, sql)| {
            let condition = if i == 0 { "null" } else { open };
            let sql = serde_json::to_string(sql).unwrap();
            format!(r#"{{"condition":{condition},"stmt":{{"sql":{sql},"want_rows":false}}}}"#)
        })
        .collect();
    let body = format!(
        r#"{{"baton":null,"requests":[{{"type":"batch","batch":{{"steps":[{}]}}}}]}}"#,
        steps.join(",")
    );
    client.batch((body.into_bytes(), sql.len()))
}

fn execute(client: &Client, sql: &str) -> StreamResult {
    let sql = serde_json::to_string(sql).unwrap();
    let body = format!(r#"{{"requests":[{{"type":"execute","stmt":{{"sql":{sql}}}}}]}}"#);
    let answer = client.post("/v2/pipeline", body.as_bytes());
    assert_eq!(answer.status, 200);
    PipelineResponse::parse(&answer.body).unwrap().results.remove(0)
}

fn count(client: &Client) -> Value {
    client.query("SELECT count(*) FROM t").remove(0).remove(0)
}

#[test]
fn a_failing_step_ends_the_transaction() {
    let (_dir, _server, client) = setup();
    let result = official(
        &client,
        &[
            "BEGIN IMMEDIATE",
            "INSERT INTO t VALUES (1000, 'new', 1)",
            "INSERT INTO t VALUES (1001, 'row 1', 1)",
            "INSERT INTO t VALUES (1002, 'newer', 1)",
            "COMMIT",
        ],
    );
    let (step, error) = result.first_error().unwrap();
    assert_eq!(
        (step, error.message.as_str()),
        (2, "UNIQUE constraint failed: t.a")
    );
    assert_eq!(error.code.as_deref(), Some("SQLITE_CONSTRAINT_UNIQUE"));
    assert!(result.result(1).is_some());
    assert!((3..5).all(|i| result.result(i).is_none() && result.step_errors[i].is_none()));
    assert_eq!(count(&client), Value::Integer(500));
}

#[test]
fn a_failing_add_column_is_tolerated() {
    let (_dir, _server, client) = setup();
    let result = official(
        &client,
        &[
            "BEGIN IMMEDIATE",
            "ALTER TABLE \"t\" ADD COLUMN b TEXT",
            "INSERT INTO t VALUES (1000, 'new', 1)",
            "COMMIT",
        ],
    );
    assert_eq!(result.first_error().unwrap().0, 1);
    assert!(result.result(3).is_some());
    assert_eq!(count(&client), Value::Integer(501));
}

#[test]
fn transactions_end_with_their_request() {
    let (_dir, _server, client) = setup();
    official(&client, &["BEGIN IMMEDIATE", "DELETE FROM t"]);
    assert_eq!(count(&client), Value::Integer(500));
    // Nobody is left holding the write lock.
    client.write(&["DELETE FROM t WHERE id = 1"]);
    official(&client, &["CREATE TEMP TABLE left_over(x)"]);
    assert!(matches!(
        execute(&client, "SELECT * FROM left_over"),
        StreamResult::Error { .. }
    ));
}

#[test]
fn errors_and_results_look_like_sqlites() {
    let (_dir, _server, client) = setup();
    let mut batch = BatchBuilder::plain();
    batch
        .query(
            "SELECT pull_gen FROM turso_sync_last_change_id WHERE client_id = ?",
            &[Value::Null],
        )
        .unwrap();
    let result = client.batch(batch.finish());
    assert!(
        result
            .first_error()
            .unwrap()
            .1
            .message
            .contains("no such table: turso_sync_last_change_id")
    );
    let mut batch = BatchBuilder::transaction();
    batch
        .step(
            "INSERT INTO t VALUES (?, ?, ?)",
            &[Value::Integer(2000), Value::Null, Value::Blob(vec![9])],
        )
        .unwrap();
    batch
        .query(
            "SELECT id, b, 1.5, NULL, 'a' || char(0) || 'b' FROM t WHERE id = 2000",
            &[],
        )
        .unwrap();
    batch.step("UPDATE t SET b = 0 WHERE id <= 10", &[]).unwrap();
    let result = client.batch(batch.commit().unwrap());
    let inserted = result.result(1).unwrap();
    assert_eq!(
        (inserted.affected_row_count, inserted.last_insert_rowid.as_deref()),
        (1, Some("2000"))
    );
    let read = result.result(2).unwrap();
    let expected = [
        Value::Integer(2000),
        Value::Blob(vec![9]),
        Value::Real(1.5),
        Value::Null,
        Value::Text(b"a\0b".to_vec()),
    ];
    assert_eq!(read.rows, [expected]);
    assert_eq!(read.cols[0].decltype.as_deref(), Some("INTEGER"));
    assert_eq!(read.affected_row_count, 0);
    assert_eq!(result.result(3).unwrap().affected_row_count, 10);
    let StreamResult::Ok {
        response: StreamResponse::Execute { result },
    } = execute(&client, "SELECT 1 AS one")
    else {
        panic!("a plain query failed")
    };
    assert_eq!(result.rows, [[Value::Integer(1)]]);
    for bad in [
        "",
        "SELEC",
        "SELECT 1; SELECT 2",
        "SELECT 9e999",
        "SELECT CAST(x'ff' AS TEXT)",
    ] {
        assert!(
            matches!(execute(&client, bad), StreamResult::Error { .. }),
            "{bad}"
        );
    }
    let body = br#"{"baton":"b","requests":[{"type":"execute","stmt":{"sql":"SELECT :a, @b","named_args":
        [{"name":"a","value":{"type":"integer","value":"1"}},{"name":"@b","value":{"type":"null"}}]}}]}"#;
    let response = PipelineResponse::parse(&client.post("/v2/pipeline", body).body).unwrap();
    assert_eq!(response.baton.as_deref(), Some("b"));
    assert!(matches!(&response.results[0], StreamResult::Ok { .. }));
}

/// The rows are written when the first of them comes back.
#[test]
fn a_statement_whose_result_cannot_be_sent_writes_nothing() {
    let (_dir, _server, client) = setup();
    for sql in [
        "INSERT INTO t (b) VALUES (1), (9e999) RETURNING b",
        "UPDATE t SET b = CAST(x'ff' AS TEXT) WHERE id = 1 RETURNING *",
        "DELETE FROM t WHERE id < 3 RETURNING id, -9e999",
    ] {
        let before = client.query("SELECT count(*), sum(length(b)) FROM t");
        assert!(
            matches!(execute(&client, sql), StreamResult::Error { .. }),
            "{sql}"
        );
        assert_eq!(
            client.query("SELECT count(*), sum(length(b)) FROM t"),
            before,
            "{sql}"
        );
    }
    let StreamResult::Ok {
        response: StreamResponse::Execute { result },
    } = execute(&client, "INSERT INTO t (b) VALUES (1), (2) RETURNING b")
    else {
        panic!("an insert that returns what can be sent failed")
    };
    assert_eq!(result.rows, [[Value::Integer(1)], [Value::Integer(2)]]);
    assert_eq!(result.affected_row_count, 2);
    assert_eq!(result.last_insert_rowid.as_deref(), Some("502"));
    assert_eq!(count(&client), Value::Integer(502));
}

#[test]
fn dangerous_statements_are_refused() {
    let (dir, _server, client) = setup();
    let out = dir.path().join("stolen.db").display().to_string();
    for sql in [
        &format!("ATTACH '{out}' AS x"),
        "ATTACH 'a' || 'b' AS x",
        "DETACH main",
        &format!("VACUUM INTO '{out}'"),
        "PRAGMA journal_mode = DELETE",
        "PRAGMA wal_checkpoint",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA writable_schema = ON",
        "PRAGMA wal_autocheckpoint = 1",
        "SELECT load_extension('x')",
        "DELETE FROM sqlite_dbpage",
        "INSERT INTO sqlite_dbpage(pgno, data) VALUES (1, zeroblob(4096))",
        "UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 2",
        "CREATE VIRTUAL TABLE d USING sqlite_dbpage",
        "DELETE FROM sqlite_schema",
    ] {
        assert!(
            matches!(execute(&client, sql), StreamResult::Error { .. }),
            "{sql}"
        );
    }
    assert!(!std::path::Path::new(&out).exists());
    for sql in [
        "PRAGMA table_info(t)",
        "PRAGMA journal_mode",
        "PRAGMA user_version = 3",
        "VACUUM",
        "ANALYZE",
    ] {
        let result = execute(&client, sql);
        assert!(matches!(result, StreamResult::Ok { .. }), "{sql}: {result:?}");
    }
    assert_eq!(
        client.query("PRAGMA integrity_check"),
        [[Value::Text(b"ok".to_vec())]]
    );
}

#[test]
fn foreign_keys_are_not_enforced_on_pushed_rows() {
    let (_dir, _server, client) = setup();
    client.write(&["CREATE TABLE c(x REFERENCES t(id))", "INSERT INTO c VALUES (-1)"]);
}

#[test]
fn eight_clients_at_once() {
    let (dir, server, client) = setup();
    client.write(&["CREATE TABLE counter(n)", "INSERT INTO counter VALUES (0)"]);
    std::thread::scope(|scope| {
        for id in 0..8 {
            let url = server.url();
            let path = dir.path().join("served.db");
            scope.spawn(move || {
                let client = Client::new(url);
                let mut replica = Pages::default();
                for round in 0..10 {
                    let row = format!("INSERT INTO t VALUES (NULL, 'client {id} round {round}', 1)");
                    client.write(&["UPDATE counter SET n = n + 1", &row]);
                    replica.pull(&client);
                    assert!(replica.size > 1);
                    // Whatever the others are doing, these pages are one revision.
                    let copy = path.with_extension(format!("copy{id}"));
                    std::fs::write(&copy, replica.file()).unwrap();
                    let sound: String = plain(&copy)
                        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
                        .unwrap();
                    assert_eq!(sound, "ok");
                }
            });
        }
    });
    assert_eq!(client.query("SELECT n FROM counter"), [[Value::Integer(80)]]);
    assert_eq!(count(&client), Value::Integer(580));
}

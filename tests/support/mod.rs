//! What the integration tests share: a real server, replicas, a host whose network can be made to misbehave.
#![allow(dead_code)]

pub mod colliding;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::types::Value as Sql;
use turso_sync::capture::Connection;
use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts, ProtocolVersion};
use turso_sync::error::Result;
use turso_sync::io::{HttpRequest, IoItem, Operation, OperationStatus, SyncEngineIoRequest, files};
use turso_sync::protocol::push;
use turso_sync::server::{Config, Server};

/// The bundled server on a database of its own.
pub struct Remote {
    server: Option<Server>,
    pub path: PathBuf,
    pub url: String,
    _dir: tempfile::TempDir,
}

impl Remote {
    /// A server whose database was made by `sql`.
    pub fn start(sql: &str) -> Remote {
        Self::start_prepared(sql, |_| ())
    }

    /// The same; `prepare` has the database before it has a page.
    pub fn start_prepared(sql: &str, prepare: impl FnOnce(&rusqlite::Connection)) -> Remote {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("remote.db");
        let conn = rusqlite::Connection::open(&path).unwrap();
        prepare(&conn);
        conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        conn.execute_batch(sql).unwrap();
        drop(conn);
        let mut remote = Remote {
            server: None,
            path,
            url: String::new(),
            _dir: dir,
        };
        remote.resume();
        remote
    }

    pub fn stop(&mut self) {
        drop(self.server.take());
    }

    /// Starts the server again, on another port.
    pub fn resume(&mut self) {
        let config = Config {
            address: "127.0.0.1:0".into(),
            database: Some(self.path.clone()),
            ..Default::default()
        };
        let server = Server::start(&config).unwrap();
        self.url = server.url();
        self.server = Some(server);
    }

    /// All tables of the server's file, by content.
    pub fn tables(&self) -> Tables {
        tables(&self.path)
    }
}

/// What the network does with a request: performs it with the given function as often as it likes, and answers
/// (status, body) or fails.
pub type Network<'a> = &'a mut dyn FnMut(
    &HttpRequest,
    &dyn Fn() -> (u16, Vec<u8>),
) -> std::result::Result<(u16, Vec<u8>), String>;

/// Performs a request for real.
pub fn forward(http: &HttpRequest) -> std::result::Result<(u16, Vec<u8>), String> {
    let url = format!("{}{}", http.url.as_deref().unwrap_or_default(), http.path);
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = ureq::http::Request::builder().method(http.method).uri(&url);
    for (name, value) in &http.headers {
        request = request.header(name, value);
    }
    let sent = match http.method {
        "GET" => agent.run(request.body(()).unwrap()),
        _ => agent.run(request.body(&http.body[..]).unwrap()),
    };
    let mut response = sent.map_err(|e| e.to_string())?;
    let body = response
        .body_mut()
        .with_config()
        .limit(1 << 30)
        .read_to_vec()
        .map_err(|e| e.to_string())?;
    Ok((response.status().as_u16(), body))
}

/// Serves one item of the queue over `network`.
pub fn serve(item: &IoItem, network: Network<'_>) {
    let SyncEngineIoRequest::Http(http) = item.request() else {
        files::perform(item).unwrap();
        return;
    };
    let answer = network(http, &|| forward(http).unwrap());
    match answer {
        Ok((status, body)) => {
            item.status(status);
            body.chunks(1000).for_each(|piece| item.push_buffer(piece));
            item.done();
        }
        Err(message) => item.poison(&message),
    }
}

/// Drives an operation to its end over `network`.
pub fn drive<T>(engine: &DatabaseSyncEngine, mut op: Operation<T>, network: Network<'_>) -> Result<T> {
    while op.resume()? == OperationStatus::Io {
        while let Some(item) = engine.io().take_item() {
            serve(&item, network);
        }
    }
    Ok(op.take_result().unwrap())
}

/// Drives an operation to its end over a network that works.
pub fn run<T>(engine: &DatabaseSyncEngine, op: Operation<T>) -> Result<T> {
    drive(engine, op, &mut |http, _| forward(http))
}

/// A replica with one open connection.
pub struct Replica {
    pub engine: DatabaseSyncEngine,
    pub conn: Connection,
    pub path: PathBuf,
}

/// The dialect that the replicas of a test binary speak: `direct_suites` runs tests of others in the direct one.
pub const DIALECT: ProtocolVersion = match env!("CARGO_CRATE_NAME").as_bytes() {
    b"direct_suites" => ProtocolVersion::Direct,
    _ => ProtocolVersion::Compatible,
};

/// What a request writes, as text: the SQL with its arguments. Empty if it only asks.
pub fn written(http: &HttpRequest) -> String {
    if http.path == "/push-changes" {
        let push = push::open(http.body.clone(), usize::MAX).unwrap();
        let step = |step: Result<push::Step<'_>>| {
            let step = step.unwrap();
            format!("{} {}", step.sql, in_json(&step.args()))
        };
        return push.steps().map(step).collect::<Vec<_>>().join("; ");
    }
    let text = String::from_utf8_lossy(&http.body);
    match text.contains("COMMIT") {
        true => text.into_owned(),
        false => String::new(),
    }
}

/// Whether a request writes; the others only ask.
pub fn is_push(http: &HttpRequest) -> bool {
    http.path == "/push-changes" || http.body.windows(6).any(|word| word == b"COMMIT")
}

/// A push whose statements name `to` in place of `from`.
pub fn renamed(http: &HttpRequest, from: &str, to: &str) -> HttpRequest {
    let mut changed = http.clone();
    if http.path == "/push-changes" {
        let push = push::open(http.body.clone(), usize::MAX).unwrap();
        let mut builder = push::PushBuilder::default();
        for step in push.steps() {
            let step = step.unwrap();
            builder.begin_transaction(step.txn_id);
            builder.step(&step.sql.replace(from, to), &step.args());
        }
        changed.body = builder.finish().unwrap();
    } else {
        let in_json = from.replace('"', "\\\"");
        changed.body = String::from_utf8_lossy(&http.body)
            .replace(&in_json, to)
            .into_bytes();
    }
    assert!(changed.body != http.body);
    changed
}

/// Place, from the end, of the last change in the first push of a replica that was just opened: behind it are two steps about
/// its lineage, the watermark, COMMIT and ROLLBACK.
pub const LAST_CHANGE: usize = 6;

/// A remote's answer to a push: the step `from_end` from the end (1 is the ROLLBACK) fails.
pub fn refuse(http: &HttpRequest, from_end: usize, message: &str, code: &str) -> (u16, Vec<u8>) {
    if http.path == "/push-changes" {
        let push = push::open(http.body.clone(), usize::MAX).unwrap();
        let conflict = push::PushConflict {
            step: push.count + 3 - from_end as u64,
            sqlite_code: turso_sync::protocol::sqlite_code::code_of(code).unwrap_or(0),
            message: message.into(),
            ..Default::default()
        };
        let answer = push::PushAnswer {
            committed: 0,
            conflicts: vec![conflict],
        };
        return (200, prost::Message::encode_to_vec(&answer));
    }
    let text = String::from_utf8_lossy(&http.body);
    let steps = text.matches("\"stmt\":").count();
    let mut results = vec!["null".to_owned(); steps];
    let mut errors = results.clone();
    for result in &mut results[..steps - from_end] {
        *result = r#"{"cols":[],"rows":[],"affected_row_count":0,"last_insert_rowid":null}"#.into();
    }
    errors[steps - from_end] = format!(r#"{{"message":"{message}","code":"{code}"}}"#);
    let (results, errors) = (results.join(","), errors.join(","));
    let batch = format!(r#"{{"step_results":[{results}],"step_errors":[{errors}]}}"#);
    let answer = format!(
        r#"{{"baton":null,"base_url":null,"results":[{{"type":"ok","response":{{"type":"batch","result":{batch}}}}}]}}"#
    );
    (200, answer.into_bytes())
}

fn in_json(args: &[turso_sync::record::Value]) -> String {
    serde_json::to_string(args).unwrap()
}

pub fn options(path: &Path, url: &str) -> DatabaseSyncEngineOpts {
    DatabaseSyncEngineOpts {
        path: path.to_str().unwrap().to_owned(),
        remote_url: Some(url.to_owned()),
        client_name: "test".to_owned(),
        bootstrap_if_empty: true,
        protocol_version_hint: DIALECT,
        ..Default::default()
    }
}

impl Replica {
    /// Creates or opens a replica of `url` at `path`.
    pub fn open(path: &Path, url: &str) -> Replica {
        Self::open_with(options(path, url)).unwrap()
    }

    pub fn open_with(opts: DatabaseSyncEngineOpts) -> Result<Replica> {
        let path = PathBuf::from(&opts.path);
        let engine = DatabaseSyncEngine::new(opts)?;
        run(&engine, engine.create_db())?;
        let conn = run(&engine, engine.connect_rw())?;
        Ok(Replica { engine, conn, path })
    }

    pub fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap();
    }

    pub fn push(&self) -> Result<()> {
        run(&self.engine, self.engine.push_changes_to_remote())
    }

    pub fn pull(&self) -> Result<bool> {
        run(&self.engine, self.engine.pull_changes_from_remote())
    }

    pub fn sync(&self) -> Result<bool> {
        run(&self.engine, self.engine.sync())
    }

    pub fn tables(&self) -> Tables {
        tables(&self.path)
    }

    pub fn pending(&self) -> i64 {
        run(&self.engine, self.engine.stats()).unwrap().cdc_operations
    }

    /// First column of the first row of a query, as text.
    pub fn text(&self, sql: &str) -> String {
        let conn = plain(&self.path);
        conn.query_row(&format!("SELECT CAST(({sql}) AS TEXT)"), [], |row| {
            row.get::<_, Option<String>>(0)
        })
        .unwrap()
        .unwrap_or_else(|| "NULL".into())
    }
}

/// A connection of plain SQLite that never checkpoints.
pub fn plain(path: &Path) -> rusqlite::Connection {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    conn.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = OFF")
        .unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    conn
}

/// Table name → sorted rows, each value with its type and exact bytes. The tables of the machinery are left out.
pub type Tables = BTreeMap<String, Vec<Vec<String>>>;

pub fn tables(path: &Path) -> Tables {
    let conn = plain(path);
    let check: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok", "{}", path.display());
    let mut names = conn
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
             AND name NOT IN ('turso_cdc', 'turso_cdc_version', 'turso_sync_local', 'turso_sync_conflicts',
                'turso_sync_last_change_id')",
        )
        .unwrap();
    let names: Vec<String> = names
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(|n| n.unwrap())
        .collect();
    names
        .into_iter()
        .map(|name| (name.clone(), rows(&conn, &name)))
        .collect()
}

fn rows(conn: &rusqlite::Connection, table: &str) -> Vec<Vec<String>> {
    let mut statement = conn
        .prepare(&format!("SELECT * FROM \"{}\"", table.replace('"', "\"\"")))
        .unwrap();
    let columns = statement.column_count();
    let mut rows: Vec<Vec<String>> = statement
        .query_map([], |row| {
            (0..columns)
                .map(|i| {
                    Ok(match row.get_ref(i)? {
                        rusqlite::types::ValueRef::Text(t) => format!("text {t:?}"),
                        other => match Sql::try_from(other) {
                            Ok(Sql::Real(r)) => format!("real {:x}", r.to_bits()),
                            value => format!("{value:?}"),
                        },
                    })
                })
                .collect()
        })
        .unwrap()
        .map(|row| row.unwrap())
        .collect();
    rows.sort();
    rows
}

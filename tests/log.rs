//! The logs of a full run, of the library and of the server, hold no secrets at any level, in both dialects.
#![cfg(all(feature = "server", unix))]

mod server_support;
mod support;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use server_support::{Process, SERVER, spawn_command};
use support::{options, tables};
use turso_sync::capture::Connection;
use turso_sync::driver::{self, Auth, DriverConfig, KeepInSync, KeepOptions};
use turso_sync::engine::{
    DatabaseRowTransformResult as Decision, DatabaseStatementReplay, DatabaseSyncEngine, ProtocolVersion,
    Resolution,
};
use turso_sync::error::{Category, Error, Result};
use turso_sync::io::Operation;
use turso_sync::record::Value;

/// Collects everything that is logged, at every level.
struct Everything(Arc<Mutex<String>>);

impl tracing::Subscriber for Everything {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        self.add(&format!("{span:?}"));
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        self.add(&format!("{values:?}"));
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        self.add(&format!("{event:?}"));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

impl Everything {
    fn add(&self, text: &str) {
        let mut log = self.0.lock().unwrap();
        log.push_str(text);
        log.push('\n');
    }
}

/// What is in rows; in names of rows' files and tables there is nothing secret.
const ROW: &str = "row-content-4711";
const TOKEN: &str = "token-4711";
const KEY: &str = "encryption-key-4711";
const PASSWORD: &str = "password-4711";

/// The server as a process, with its token, saying all it can.
fn server(folder: &Path) -> (Process, String) {
    let database = folder.join("remote.db");
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute_batch(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE); INSERT INTO t VALUES (1, '{ROW}-a')"
        ))
        .unwrap();
    let mut command = Command::new(SERVER);
    command
        .args(["127.0.0.1:0", database.to_str().unwrap(), "--log-level", "debug"])
        .env("TURSO_SYNC_AUTH_TOKEN", TOKEN)
        .stderr(Stdio::piped());
    let (process, client) = spawn_command(command);
    (process, client.url)
}

struct Site {
    engine: DatabaseSyncEngine,
    conn: Connection,
    config: DriverConfig,
}

impl Site {
    fn open(path: &Path, url: &str, dialect: ProtocolVersion, transform: bool) -> Site {
        let mut opts = options(path, url);
        opts.protocol_version_hint = dialect;
        opts.remote_encryption_key = Some(KEY.into());
        opts.use_transform = transform;
        let engine = DatabaseSyncEngine::new(opts).unwrap();
        let config = DriverConfig {
            auth: Auth::Fixed(TOKEN.into()),
            transform: Some(driver::transform_with(|mutation| {
                Ok(Decision::Rewrite(DatabaseStatementReplay {
                    sql: format!("INSERT INTO t (v) VALUES ('{ROW}-rewritten' || ?)"),
                    values: vec![Value::Integer(mutation.change_id)],
                }))
            })),
            ..DriverConfig::default()
        };
        run(&engine, &config, engine.create_db()).unwrap();
        let conn = run(&engine, &config, engine.connect_rw()).unwrap();
        Site { engine, conn, config }
    }

    fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap();
    }

    fn push(&self) -> Result<()> {
        run(&self.engine, &self.config, self.engine.push_changes_to_remote())
    }

    fn pull(&self) -> Result<bool> {
        run(&self.engine, &self.config, self.engine.pull_changes_from_remote())
    }
}

fn run<T>(engine: &DatabaseSyncEngine, config: &DriverConfig, mut op: Operation<T>) -> Result<T> {
    let control = op.control().clone();
    driver::run(engine.io(), config, &control, || op.resume())?;
    op.take_result().ok_or_else(|| Error::internal("no result"))
}

/// Bootstrap, writes, push, pull, conflicts with their ways out, refusals, transformed changes, work in the background.
fn full_run(folder: &Path, url: &str, dialect: ProtocolVersion) {
    let open = |name: &str, transform| Site::open(&folder.join(name), url, dialect, transform);
    let (a, b) = (open("a.db", false), open("b.db", false));
    a.sql(&format!(
        "INSERT INTO t VALUES (2, '{ROW}-b'); UPDATE t SET v = '{ROW}-c' WHERE id = 1"
    ));
    let again = format!("INSERT INTO t VALUES (3, '{ROW}-b')");
    assert!(a.conn.execute_batch(&again).is_err());
    b.sql(&format!("INSERT INTO t VALUES (7, '{ROW}-b')"));
    b.push().unwrap();
    let refused = a.push().unwrap_err();
    assert_eq!(refused.category, Category::Conflict);
    assert!(!refused.message.contains("4711"), "{refused}");
    let conflicts = a.engine.conflicts().unwrap();
    let aside = a
        .engine
        .resolve_conflict(conflicts[0].txn_id, Resolution::SetAside);
    run(&a.engine, &a.config, aside).unwrap();
    a.push().unwrap();
    a.pull().unwrap();

    let wrong = DriverConfig {
        auth: Auth::Fixed(format!("wrong-{TOKEN}")),
        ..a.config.clone()
    };
    let e = run(&a.engine, &wrong, a.engine.pull_changes_from_remote()).unwrap_err();
    assert_eq!(e.http_status, Some(401));
    let dead = DriverConfig {
        base_url: Some(format!("http://user:{PASSWORD}@127.0.0.1:1/")),
        attempts: 1,
        ..a.config.clone()
    };
    a.sql(&format!("INSERT INTO t VALUES (8, '{ROW}-d')"));
    let failed = run(&a.engine, &dead, a.engine.push_changes_to_remote()).unwrap_err();
    assert!(!failed.message.contains("password"), "{failed}");

    let c = open("c.db", true);
    c.sql(&format!("INSERT INTO t VALUES (9, '{ROW}-e')"));
    c.push().unwrap();

    let keeper = KeepInSync::start(&a.engine, &a.config, KeepOptions::default()).unwrap();
    a.sql(&format!("UPDATE t SET v = '{ROW}-f' WHERE id = 8"));
    keeper.sync_now().unwrap();
    drop(keeper);
    b.pull().unwrap();
    c.pull().unwrap();
    let remote = tables(&folder.join("remote.db"));
    assert!(format!("{remote:?}").len() > 100);
    for site in ["a.db", "b.db", "c.db"] {
        assert_eq!(tables(&folder.join(site)), remote, "{site}");
    }
}

/// That something appears at all shows that the logs were watched.
#[test]
fn the_logs_hold_no_secrets() {
    let log = Arc::new(Mutex::new(String::new()));
    // For all threads: requests run in their own. This is the only test of its process.
    tracing::subscriber::set_global_default(Everything(log.clone())).unwrap();
    for (dialect, path) in [
        (ProtocolVersion::Compatible, "/v2/pipeline"),
        (ProtocolVersion::Direct, "/push-changes"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut process, url) = server(dir.path());
        let mut errors = process.0.stderr.take().unwrap();
        full_run(dir.path(), &url, dialect);
        process.signal("-TERM");
        let mut said = String::new();
        errors.read_to_string(&mut said).unwrap();
        assert!(said.contains(path) && said.contains("status=401"), "{said}");
        let log = std::mem::take(&mut *log.lock().unwrap());
        assert!(log.contains("push") && log.contains("begins"), "{log}");
        for (whose, log) in [("the library", log), ("the server", said)] {
            for secret in [TOKEN, KEY, PASSWORD, ROW, "4711"] {
                assert!(!log.contains(secret), "{secret} is in the log of {whose}:\n{log}");
            }
        }
    }
}

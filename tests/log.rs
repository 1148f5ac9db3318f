//! The log of a full run, at every level, holds no secrets.
#![cfg(feature = "server")]

mod support;

use std::sync::{Arc, Mutex};

use support::*;
use turso_sync::driver::{self, DriverConfig};
use turso_sync::error::Category;

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

/// A full run at trace level: bootstrap, writes, push, pull, conflicts, refusals. Neither tokens nor keys nor what is in the
/// rows may appear; that something appears at all shows that the log was watched.
#[test]
fn the_log_holds_no_secrets() {
    let log = Arc::new(Mutex::new(String::new()));
    let text = "row-content-4711";
    let subscriber = Everything(log.clone());
    // For all threads: requests run in their own. This is the only test of its process.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    {
        let remote = Remote::start(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE); INSERT INTO t VALUES (1, '{text}-a')"
        ));
        let dir = tempfile::tempdir().unwrap();
        let mut opts = options(&dir.path().join("a.db"), &remote.url);
        opts.remote_encryption_key = Some("encryption-key-4711".into());
        let engine = turso_sync::engine::DatabaseSyncEngine::new(opts).unwrap();
        let config = DriverConfig {
            auth: driver::Auth::Fixed("token-4711".into()),
            base_url: Some(remote.url.clone()),
            ..DriverConfig::default()
        };
        let run = |op: &mut turso_sync::io::Operation<()>| {
            let control = op.control().clone();
            driver::run(engine.io(), &config, &control, || op.resume())
        };
        run(&mut engine.create_db()).unwrap();
        let mut op = engine.connect_rw();
        op.resume().unwrap();
        let conn = op.take_result().unwrap();
        conn.execute_batch(&format!(
            "INSERT INTO t VALUES (2, '{text}-b'); UPDATE t SET v = '{text}-c' WHERE id = 1"
        ))
        .unwrap();
        assert!(
            conn.execute_batch(&format!("INSERT INTO t VALUES (3, '{text}-b')"))
                .is_err()
        );
        let other = Replica::open(&dir.path().join("b.db"), &remote.url);
        other.sql(&format!("INSERT INTO t VALUES (7, '{text}-b')"));
        other.push().unwrap();
        let refused = run(&mut engine.push_changes_to_remote()).unwrap_err();
        assert_eq!(refused.category, Category::Conflict);
        assert!(!refused.message.contains("4711"), "{refused}");
        let dead = DriverConfig {
            base_url: Some("http://user:password-4711@127.0.0.1:1/".into()),
            ..config.clone()
        };
        let mut op = engine.push_changes_to_remote();
        let control = op.control().clone();
        let failed = driver::run(engine.io(), &dead, &control, || op.resume()).unwrap_err();
        assert!(!failed.message.contains("password"), "{failed}");
    }
    let log = log.lock().unwrap();
    assert!(log.contains("push") && log.contains("begins"), "{log}");
    for secret in ["token-4711", "encryption-key-4711", "password-4711", text] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

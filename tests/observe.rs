//! Watching and stopping operations: progress, cancellation, typed errors, status.
#![cfg(feature = "server")]

mod support;

use support::*;
use turso_sync::driver::{self, DriverConfig};
use turso_sync::engine::ReplicaStatus;
use turso_sync::error::{Category, Code};
use turso_sync::io::{OperationStatus, Progress, Stage, SyncEngineIoRequest};

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);";

/// A remote of some 200 pages.
fn large_remote() -> Remote {
    Remote::start(&format!(
        "{TABLE} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO t SELECT i, hex(zeroblob(1800)) FROM n"
    ))
}

#[test]
fn progress_tells_what_was_done_and_what_is_left() {
    let remote = large_remote();
    let dir = tempfile::tempdir().unwrap();
    let engine =
        turso_sync::engine::DatabaseSyncEngine::new(options(&dir.path().join("a.db"), &remote.url)).unwrap();
    let op = engine.create_db();
    let control = op.control().clone();
    assert_eq!(control.progress(), Progress::default());
    let mut seen: Vec<Progress> = Vec::new();
    drive(&engine, op, &mut |http, _| {
        seen.push(control.progress());
        forward(http)
    })
    .unwrap();
    assert_eq!(seen[0].stage, Stage::Waiting);
    let end = control.progress();
    assert_eq!(end.stage, Stage::Ended);
    assert!(
        end.pages_done > 200 && end.pages_done == end.pages_expected,
        "{end:?}"
    );
    assert!(end.received_bytes > 1000, "{end:?}");
    assert_eq!(end.changes_expected, 0);

    // A push in requests of two transactions each.
    let mut opts = options(&dir.path().join("b.db"), &remote.url);
    opts.push_operations_threshold = 2;
    let b = Replica::open_with(opts).unwrap();
    for i in 1000..1010 {
        b.sql(&format!("INSERT INTO t VALUES ({i}, 'x')"));
    }
    let op = b.engine.push_changes_to_remote();
    let control = op.control().clone();
    let mut seen: Vec<Progress> = Vec::new();
    drive(&b.engine, op, &mut |http, _| {
        seen.push(control.progress());
        forward(http)
    })
    .unwrap();
    assert_eq!(control.progress().changes_done, 10);
    assert!(
        seen.windows(2)
            .all(|w| w[0].changes_done <= w[1].changes_done && w[0].sent_bytes < w[1].sent_bytes)
    );
    // The first request asks for the watermark.
    assert_eq!(
        (seen[1].stage, seen[1].changes_done, seen[1].changes_expected),
        (Stage::Uploading, 0, 10)
    );
    assert_eq!(seen[2].changes_done, 2);

    // What one operation did does not count for the next.
    let op = b.engine.pull_changes_from_remote();
    let control = op.control().clone();
    run(&b.engine, op).unwrap();
    let pulled = control.progress();
    assert!(
        pulled.pages_done > 0 && pulled.pages_done < 20 && pulled.changes_done == 0,
        "{pulled:?}"
    );
}

#[test]
fn an_expected_figure_that_the_remote_does_not_tell_is_zero_and_figures_of_a_failed_operation_stay() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = Replica::open(&dir.path().join("a.db"), &remote.url);
    let op = a.engine.push_changes_to_remote();
    let control = op.control().clone();
    drive(&a.engine, op, &mut |_, _| Err("no network".into())).unwrap_err();
    let progress = control.progress();
    assert_eq!(
        (progress.stage, progress.pages_expected, progress.received_bytes),
        (Stage::Ended, 0, 0)
    );
    assert!(progress.sent_bytes > 0);
}

#[test]
fn a_download_stops_in_the_middle_and_the_replica_goes_on() {
    let remote = large_remote();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = turso_sync::engine::DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
    let mut op = engine.create_db();
    let control = op.control().clone();
    let error = loop {
        match op.resume() {
            Ok(OperationStatus::Io) => {}
            Ok(OperationStatus::Done) => panic!("it was not cancelled"),
            Err(e) => break e,
        }
        while let Some(item) = engine.io().take_item() {
            let SyncEngineIoRequest::Http(http) = item.request() else {
                serve(&item, &mut |_, _| unreachable!());
                continue;
            };
            let (status, body) = forward(http).unwrap();
            item.status(status);
            let (first, rest) = body.split_at(body.len() / 2);
            item.push_buffer(first);
            assert!(item.is_wanted());
            control.cancel();
            item.push_buffer(rest);
            assert!(!item.is_wanted());
            item.done();
        }
    };
    assert_eq!((error.code, error.category), (Code::Interrupt, Category::Usage));
    drop(op);
    assert!(!path.exists());
    run(&engine, engine.create_db()).unwrap();
    assert_eq!(tables(&path), remote.tables());
}

#[test]
fn a_push_stops_between_requests_and_what_arrived_counts() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(&dir.path().join("a.db"), &remote.url);
    opts.push_operations_threshold = 1;
    let a = Replica::open_with(opts).unwrap();
    for i in 0..5 {
        a.sql(&format!("INSERT INTO t VALUES ({i}, 'x')"));
    }
    let op = a.engine.push_changes_to_remote();
    let control = op.control().clone();
    let mut requests = 0;
    let error = drive(&a.engine, op, &mut |http, _| {
        requests += 1;
        if requests == 3 {
            control.cancel();
        }
        forward(http)
    })
    .unwrap_err();
    assert_eq!((error.code, requests), (Code::Interrupt, 3));
    assert_eq!(remote.tables()["t"].len(), 2);
    a.sync().unwrap();
    assert_eq!((remote.tables()["t"].len(), a.pending()), (5, 0));
    assert_eq!(remote.tables(), a.tables());
}

/// The replay of pending changes can take long; it must neither finish nor be taken for a conflict.
#[test]
fn a_replay_stops_and_nothing_is_set_aside() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(&dir.path().join("a.db"), &remote.url);
    opts.conflict_policy = turso_sync::engine::ConflictPolicy::SetAside;
    let a = Replica::open_with(opts).unwrap();
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    b.sql("INSERT INTO t VALUES (-1, 'b')");
    b.push().unwrap();
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) INSERT INTO t SELECT i, i FROM n");
    let before = (a.tables(), a.pending());
    let op = a.engine.wait_changes_from_remote();
    let changes = run(&a.engine, op).unwrap().unwrap();
    let mut op = a.engine.apply_changes_from_remote(changes);
    let control = op.control().clone();
    let watcher = std::thread::spawn(move || {
        while control.progress().stage != Stage::Applying {
            std::thread::yield_now();
        }
        control.cancel();
    });
    let error = op.resume().unwrap_err();
    watcher.join().unwrap();
    assert_eq!(
        (error.code, error.category),
        (Code::Interrupt, Category::Usage),
        "{error}"
    );
    drop(op);
    assert_eq!((a.tables(), a.pending()), before);
    assert_eq!(a.engine.conflicts().unwrap(), []);
    a.sync().unwrap();
    assert_eq!(remote.tables(), a.tables());
}

/// A remote that never answers holds nobody who does not want to wait.
#[test]
fn the_driver_returns_at_once_although_the_remote_is_silent() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = Replica::open(&dir.path().join("a.db"), &remote.url);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = DriverConfig {
        base_url: Some(format!("http://{}", silent.local_addr().unwrap())),
        ..DriverConfig::default()
    };
    let mut op = a.engine.push_changes_to_remote();
    let control = op.control().clone();
    let canceller = {
        let control = control.clone();
        std::thread::spawn(move || {
            // The request has been sent.
            let connection = silent.accept().unwrap();
            control.cancel();
            connection
        })
    };
    let error = driver::run(a.engine.io(), &config, &control, || op.resume()).unwrap_err();
    assert_eq!(error.code, Code::Interrupt);
    // The other end is open still: it was not the network that ended the wait.
    drop(canceller.join().unwrap());
    a.sql("INSERT INTO t VALUES (1, 'x')");
    drop(op);
    a.push().unwrap();
}

#[test]
fn an_overloaded_remote_says_when_to_come_back() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = Replica::open(&dir.path().join("a.db"), &remote.url);
    let mut op = a.engine.push_changes_to_remote();
    assert_eq!(op.resume(), Ok(OperationStatus::Io));
    let item = a.engine.io().take_item().unwrap();
    item.status(429);
    item.header("Retry-After", " 12 ");
    item.header("retry-after", "soon");
    item.done();
    let error = op.resume().unwrap_err();
    assert_eq!(
        (error.http_status, error.retryable, error.retry_after_ms),
        (Some(429), true, Some(12_000))
    );
    assert_eq!(op.error(), Some(&error));
}

#[test]
fn status_tells_what_a_user_asks() {
    let remote = Remote::start("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE);");
    let dir = tempfile::tempdir().unwrap();
    let a = Replica::open(&dir.path().join("a.db"), &remote.url);
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    let pulled = a.engine.status().unwrap().last_pull_unix_time;
    assert!(pulled > 0);
    a.sql("INSERT INTO t VALUES (1, 'same')");
    b.sql("INSERT INTO t VALUES (2, 'same'); INSERT INTO t VALUES (3, 'other')");
    let pending = a.engine.status().unwrap();
    assert_eq!(
        pending,
        ReplicaStatus {
            pending_changes: 1,
            last_pull_unix_time: pulled,
            ..Default::default()
        }
    );
    a.push().unwrap();
    assert_eq!(a.engine.status().unwrap().pending_changes, 0);
    assert!(a.engine.status().unwrap().last_push_unix_time > 0);
    b.push().unwrap_err();
    let blocked = b.engine.status().unwrap();
    assert_eq!((blocked.pending_changes, blocked.conflicts_blocked), (2, 1));
    let id = b.engine.conflicts().unwrap()[0].txn_id;
    run(
        &b.engine,
        b.engine
            .resolve_conflict(id, turso_sync::engine::Resolution::SetAside),
    )
    .unwrap();
    let set_aside = b.engine.status().unwrap();
    assert_eq!(
        (
            set_aside.pending_changes,
            set_aside.conflicts_blocked,
            set_aside.conflicts_set_aside
        ),
        (1, 0, 1)
    );
}

//! Keep in sync: the background threads of the driver against the real server.
#![cfg(all(feature = "server", feature = "driver"))]

mod support;

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use support::*;
use turso_sync::driver::{DriverConfig, KeepInSync, KeepOptions, KeepState};
use turso_sync::error::{Category, Code};
use turso_sync::io::OperationStatus;
use turso_sync::server::{Config, Server};

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE);";
const HOUR: Duration = Duration::from_secs(3600);

/// Nothing happens by the clock: a remote holds questions for long, and pauses after failures are longer than any test.
fn patient() -> (DriverConfig, KeepOptions) {
    let config = DriverConfig {
        attempts: 1,
        backoff: HOUR,
        timeout: HOUR,
        ..DriverConfig::default()
    };
    let options = KeepOptions {
        interval: HOUR,
        longest_pause: HOUR,
        ..KeepOptions::default()
    };
    (config, options)
}

fn open(remote: &Remote, dir: &tempfile::TempDir, name: &str) -> Replica {
    let mut opts = options(&dir.path().join(name), &remote.url);
    opts.long_poll_timeout_ms = 3_600_000;
    Replica::open_with(opts).unwrap()
}

fn keep(replica: &Replica) -> KeepInSync {
    let (config, options) = patient();
    KeepInSync::start(&replica.engine, &config, options).unwrap()
}

/// Keeps the replica in sync; the receiver gets one message whenever something was applied.
fn keep_telling(replica: &Replica) -> (KeepInSync, mpsc::Receiver<()>) {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let (config, options) = patient();
    let options = KeepOptions {
        on_change: Some(Arc::new(move || tell.lock().unwrap().send(()).unwrap())),
        ..options
    };
    (
        KeepInSync::start(&replica.engine, &config, options).unwrap(),
        told,
    )
}

/// Waits for what other threads bring about.
fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn rows(replica: &Replica) -> usize {
    replica.tables()["t"].len()
}

#[test]
fn a_change_here_arrives_there_and_back() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(&remote, &dir, "a.db"), open(&remote, &dir, "b.db"));
    let ((keep_a, told_a), (keep_b, told_b)) = (keep_telling(&a), keep_telling(&b));
    for round in 1..=5 {
        a.sql(&format!("INSERT INTO t VALUES ({round}, 'a{round}')"));
        while rows(&b) < 2 * round - 1 {
            told_b.recv().unwrap();
        }
        b.sql(&format!("INSERT INTO t VALUES ({}, 'b{round}')", 100 + round));
        while rows(&a) < 2 * round {
            told_a.recv().unwrap();
        }
    }
    keep_a.sync_now().unwrap();
    keep_b.sync_now().unwrap();
    assert_eq!((a.pending(), b.pending()), (0, 0));
    assert_eq!((a.tables(), b.tables()), (remote.tables(), remote.tables()));
    let status = keep_a.status();
    assert_eq!((status.state, status.error), (KeepState::Running, None));
    assert!((1..=5).contains(&status.pushes) && status.pulls >= 5 && status.failures == 0);
}

#[test]
fn what_was_pending_before_is_pushed_and_other_processes_are_noticed() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = open(&remote, &dir, "a.db");
    a.sql("INSERT INTO t VALUES (1, 'before')");
    let keeper = keep(&a);
    until(|| remote.tables()["t"].len() == 1);
    // Another engine on the same file is as good as another process: no signal comes from it.
    let other = open(&remote, &dir, "a.db");
    other.sql("INSERT INTO t VALUES (2, 'elsewhere')");
    keeper.sync_now().unwrap();
    assert_eq!(remote.tables()["t"].len(), 2);
}

#[test]
fn a_pause_holds_nothing_and_sends_nothing() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = open(&remote, &dir, "a.db");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (config, options) = patient();
    let config = DriverConfig {
        base_url: Some(format!("http://{}", silent.local_addr().unwrap())),
        ..config
    };
    a.sql("INSERT INTO t VALUES (1, 'x')");
    let keeper = KeepInSync::start(&a.engine, &config, options).unwrap();
    // A wait and a push, which holds the lock file.
    let mut connections = [silent.accept().unwrap().0, silent.accept().unwrap().0];
    for _ in 0..2 {
        keeper.pause().unwrap();
        let lock = std::fs::File::open(dir.path().join("a.db-lock")).unwrap();
        lock.try_lock().unwrap();
        a.sql("BEGIN IMMEDIATE; INSERT INTO t VALUES (NULL, NULL); COMMIT");
        keeper.wake();
        assert_eq!(keeper.status().state, KeepState::Paused);
        assert_eq!(keeper.sync_now().unwrap_err().code, Code::Misuse);
    }
    for connection in &mut connections {
        // They have been cut: this ends.
        let _ = connection.read_to_end(&mut Vec::new());
    }
    silent.set_nonblocking(true).unwrap();
    assert_eq!(
        silent.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    assert_eq!(keeper.status().failures, 0);
    silent.set_nonblocking(false).unwrap();
    keeper.resume();
    let again = (silent.accept().unwrap(), silent.accept().unwrap());
    assert_eq!(keeper.status().state, KeepState::Running);
    keeper.stop();
    drop(again);
    // Nothing is lost.
    a.sync().unwrap();
    assert_eq!(remote.tables()["t"].len(), 3);
}

#[test]
fn a_wake_leaves_old_connections() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = open(&remote, &dir, "a.db");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (config, options) = patient();
    let config = DriverConfig {
        base_url: Some(format!("http://{}", silent.local_addr().unwrap())),
        ..config
    };
    a.sql("INSERT INTO t VALUES (1, 'x')");
    let keeper = KeepInSync::start(&a.engine, &config, options).unwrap();
    let mut old = [silent.accept().unwrap().0, silent.accept().unwrap().0];
    // The requests are on their way, not only the connections.
    old.iter_mut().for_each(|old| old.read_exact(&mut [0]).unwrap());
    keeper.wake();
    let _new = [silent.accept().unwrap(), silent.accept().unwrap()];
    for old in &mut old {
        let _ = old.read_to_end(&mut Vec::new());
    }
    assert_eq!(keeper.status().failures, 0);
}

fn serve(remote: &Remote, address: SocketAddr) -> Server {
    Server::start(&Config {
        address: address.to_string(),
        database: Some(remote.path.clone()),
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn a_dead_server_is_a_pause_that_a_wake_ends() {
    let mut remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = open(&remote, &dir, "a.db");
    let address: SocketAddr = remote.url.strip_prefix("http://").unwrap().parse().unwrap();
    let keeper = keep(&a);
    keeper.sync_now().unwrap();
    remote.stop();
    a.sql("INSERT INTO t VALUES (1, 'x')");
    // The push fails; the long poll may have been answered by the server when it stopped.
    until(|| keeper.status().failures >= 1);
    let status = keeper.status();
    let error = status.error.unwrap();
    assert_eq!(status.state, KeepState::Retrying);
    assert!(error.retryable && status.retry_in.is_some(), "{error}");
    let _server = serve(&remote, address);
    // The pauses are of an hour.
    keeper.wake();
    until(|| remote.tables()["t"].len() == 1);
    keeper.sync_now().unwrap();
    let status = keeper.status();
    assert_eq!((status.state, status.error), (KeepState::Running, None));
}

#[test]
fn without_a_wake_it_comes_back_by_itself() {
    let mut remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = open(&remote, &dir, "a.db");
    let address: SocketAddr = remote.url.strip_prefix("http://").unwrap().parse().unwrap();
    let (config, options) = patient();
    let config = DriverConfig {
        backoff: Duration::from_millis(5),
        ..config
    };
    let options = KeepOptions {
        longest_pause: Duration::from_millis(20),
        ..options
    };
    let keeper = KeepInSync::start(&a.engine, &config, options).unwrap();
    remote.stop();
    a.sql("INSERT INTO t VALUES (1, 'x')");
    until(|| keeper.status().failures >= 10);
    let _server = serve(&remote, address);
    until(|| keeper.status().state == KeepState::Running && a.pending() == 0);
    assert_eq!(remote.tables()["t"].len(), 1);
}

#[test]
fn a_conflict_waits_for_a_change_and_a_change_is_enough() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(&remote, &dir, "a.db"), open(&remote, &dir, "b.db"));
    b.sql("INSERT INTO t VALUES (2, 'same')");
    a.sql("INSERT INTO t VALUES (1, 'same')");
    a.push().unwrap();
    let keeper = keep(&b);
    let in_conflict = |e: &turso_sync::error::Error| e.category == Category::Conflict;
    until(|| keeper.status().error.as_ref().is_some_and(in_conflict));
    assert_eq!(keeper.sync_now().unwrap_err().category, Category::Conflict);
    b.sql("UPDATE t SET v = 'other' WHERE id = 2");
    until(|| remote.tables()["t"].len() == 2);
    until(|| keeper.status().error.is_none());

    // Resolving one is a change, too.
    keeper.pause().unwrap();
    b.sql("INSERT INTO t VALUES (4, 'again')");
    a.sql("INSERT INTO t VALUES (3, 'again')");
    a.push().unwrap();
    keeper.resume();
    until(|| keeper.status().error.as_ref().is_some_and(in_conflict));
    let id = loop {
        if let Some(conflict) = b.engine.conflicts().unwrap().first() {
            break conflict.txn_id;
        }
    };
    let drop = turso_sync::engine::Resolution::Drop;
    // The keeper may have the lock for a moment.
    until(|| run(&b.engine, b.engine.resolve_conflict(id, drop)).is_ok());
    until(|| keeper.status().error.is_none() && b.tables() == remote.tables());
    assert_eq!(rows(&b), 3);
}

/// The decision is a change, as resolving a conflict is.
#[test]
fn what_another_program_has_written_waits_for_a_decision() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = open(&remote, &dir, "a.db");
    let other = rusqlite::Connection::open(dir.path().join("a.db")).unwrap();
    other.execute_batch("INSERT INTO t VALUES (1, 'theirs')").unwrap();
    let keeper = keep(&a);
    a.sql("INSERT INTO t VALUES (2, 'ours')");
    let foreign = |e: &turso_sync::error::Error| e.category == Category::Foreign;
    until(|| keeper.status().error.as_ref().is_some_and(foreign));
    assert_eq!(keeper.sync_now().unwrap_err().category, Category::Foreign);
    let adopt = turso_sync::engine::ForeignPolicy::Adopt;
    // The keeper may have the lock for a moment.
    until(|| run(&a.engine, a.engine.settle_foreign_changes(adopt)).is_ok());
    until(|| keeper.status().error.is_none() && remote.tables()["t"].len() == 2);
}

/// Such as a transaction that somebody forgot to end, perhaps the very caller.
#[test]
fn a_lock_that_stays_is_an_error_and_not_a_wait_without_end() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(&remote, &dir, "a.db"), open(&remote, &dir, "b.db"));
    let (keeper, _told) = keep_telling(&b);
    keeper.sync_now().unwrap();
    let writing = run(&b.engine, b.engine.connect_rw()).unwrap();
    writing.execute_batch("BEGIN IMMEDIATE").unwrap();
    a.sql("INSERT INTO t VALUES (1, 'theirs')");
    a.push().unwrap();
    assert_eq!(keeper.sync_now().unwrap_err().code, Code::Busy);
    let status = keeper.status();
    assert_eq!(status.state, KeepState::Retrying);
    assert_eq!(status.error.map(|e| e.code), Some(Code::Busy));
    writing.execute_batch("ROLLBACK").unwrap();
    // No pause as after other failures.
    until(|| keeper.status().error.is_none());
    assert_eq!(rows(&b), 1);
}

/// An operation that its host does not finish is in the way as well.
#[test]
fn an_operation_that_stays_is_an_error_and_not_a_wait_without_end() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let a = open(&remote, &dir, "a.db");
    let keeper = keep(&a);
    keeper.sync_now().unwrap();
    keeper.pause().unwrap();
    a.sql("INSERT INTO t VALUES (1, 'ours')");
    let mut push = a.engine.push_changes_to_remote();
    assert_eq!(push.resume(), Ok(OperationStatus::Io));
    keeper.resume();
    assert_eq!(keeper.sync_now().unwrap_err().code, Code::Busy);
    drop(push);
    until(|| keeper.status().error.is_none() && remote.tables()["t"].len() == 1);
}

#[test]
fn a_push_may_pull_while_a_wait_is_under_way() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(&remote, &dir, "a.db"), open(&remote, &dir, "b.db"));
    let mut wait = b.engine.wait_changes_from_remote();
    assert_eq!(wait.resume(), Ok(OperationStatus::Io));
    let request = b.engine.io().take_item().unwrap();
    b.sql("INSERT INTO t VALUES (2, 'same')");
    a.sql("INSERT INTO t VALUES (1, 'same')");
    a.push().unwrap();
    assert_eq!(b.push().unwrap_err().category, Category::Conflict);
    b.sql("UPDATE t SET v = 'other' WHERE id = 2");
    b.push().unwrap();
    // What the wait brings is older than the base of that push, and says so; another wait goes on from there.
    serve_item(&request);
    assert_eq!(wait.resume(), Ok(OperationStatus::Done));
    if let Some(changes) = wait.take_result().unwrap() {
        let e = run(&b.engine, b.engine.apply_changes_from_remote(changes)).unwrap_err();
        assert_eq!(e.code, Code::BusySnapshot);
    }
    b.sync().unwrap();
    assert_eq!(b.tables(), remote.tables());
}

fn serve_item(item: &turso_sync::io::IoItem) {
    support::serve(item, &mut |http, _| forward(http));
}

#[test]
fn own_threads_must_not_wait_for_themselves() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(&remote, &dir, "a.db"), open(&remote, &dir, "b.db"));
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let keeper: Arc<std::sync::OnceLock<KeepInSync>> = Arc::default();
    let mine = keeper.clone();
    let (config, options) = patient();
    let options = KeepOptions {
        on_change: Some(Arc::new(move || {
            if let Some(keeper) = mine.get() {
                keeper.wake();
                let errors = (keeper.pause().unwrap_err(), keeper.sync_now().unwrap_err());
                tell.lock().unwrap().send((errors.0.code, errors.1.code)).unwrap();
            }
        })),
        ..options
    };
    keeper
        .set(KeepInSync::start(&b.engine, &config, options).unwrap())
        .ok()
        .unwrap();
    keeper.get().unwrap().sync_now().unwrap();
    a.sql("INSERT INTO t VALUES (1, 'x')");
    a.push().unwrap();
    assert_eq!(told.recv().unwrap(), (Code::Misuse, Code::Misuse));
    keeper.get().unwrap().pause().unwrap();
}

#[test]
fn only_an_open_replica_and_a_sound_configuration_can_be_kept() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = turso_sync::engine::DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
    let (config, opts) = patient();
    let refused = |engine, config: &DriverConfig| {
        let started = KeepInSync::start(engine, config, opts.clone());
        started.err().unwrap().code
    };
    assert_eq!(refused(&engine, &config), Code::Misuse);
    let a = open(&remote, &dir, "a.db");
    let config = DriverConfig {
        proxy: Some("nonsense://".into()),
        ..config
    };
    assert_eq!(refused(&a.engine, &config), Code::Misuse);
}

/// Without a long poll the remote is asked again and again; each answer is one that nothing is new.
#[test]
fn without_a_long_poll_it_asks_at_intervals() {
    let remote = Remote::start(TABLE);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        open(&remote, &dir, "a.db"),
        Replica::open(&dir.path().join("b.db"), &remote.url),
    );
    let (config, options) = patient();
    let options = KeepOptions {
        interval: Duration::from_millis(10),
        ..options
    };
    let keeper = KeepInSync::start(&b.engine, &config, options).unwrap();
    keeper.sync_now().unwrap();
    a.sql("INSERT INTO t VALUES (1, 'x')");
    a.push().unwrap();
    until(|| rows(&b) == 1);
    drop(keeper);
}

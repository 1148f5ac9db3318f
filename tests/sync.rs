//! Replicas and the bundled server, over the real protocol.
#![cfg(feature = "server")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use support::*;
use turso_sync::engine::DatabaseSyncEngine;
use turso_sync::error::{Category, Code};
use turso_sync::io::OperationStatus;

const SHOP: &str = "
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL);
CREATE TABLE note (text);
INSERT INTO item VALUES (1, 'pen', 1.5), (2, 'ink', 7.25), (3, 'paper', 3.0);
INSERT INTO note VALUES ('first'), ('second');
";

fn two(remote: &Remote, dir: &tempfile::TempDir) -> (Replica, Replica) {
    let open = |name: &str| Replica::open(&dir.path().join(name), &remote.url);
    (open("a.db"), open("b.db"))
}

#[test]
fn a_new_replica_holds_what_the_remote_holds() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _b) = two(&remote, &dir);
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(a.text("SELECT sum(price) FROM item"), "11.75");
    assert!(!a.pull().unwrap());
}

#[test]
fn two_replicas_work_offline_and_converge() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    a.sql("INSERT INTO item VALUES (10, 'cup', 4); UPDATE item SET price = 2 WHERE id = 1; INSERT INTO note VALUES ('a')");
    b.sql("INSERT INTO item VALUES (20, 'mug', 5); UPDATE item SET name = 'quill' WHERE id = 1; DELETE FROM item WHERE id = 2");
    b.sql("INSERT INTO note VALUES ('b')");
    a.push().unwrap();
    // b pulls below its pending changes: column-level merge of item 1.
    assert!(b.pull().unwrap());
    assert_eq!(
        b.text("SELECT group_concat(id || name || price, ' ') FROM (SELECT * FROM item ORDER BY id)"),
        "1quill2.0 3paper3.0 10cup4.0 20mug5.0"
    );
    assert_eq!(b.text("SELECT count(*) FROM note"), "4");
    let predicted = b.tables();
    b.push().unwrap();
    assert_eq!(remote.tables(), predicted);
    a.pull().unwrap();
    b.pull().unwrap();
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(b.tables(), remote.tables());
    assert_eq!((a.pending(), b.pending()), (0, 0));
}

#[test]
fn a_replica_goes_on_after_a_restart() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let a = Replica::open(&path, &remote.url);
    a.sql("INSERT INTO item VALUES (4, 'brush', 9)");
    drop(a);
    let a = Replica::open(&path, &remote.url);
    assert_eq!(a.pending(), 1);
    a.sync().unwrap();
    drop(a);
    let a = Replica::open(&path, &remote.url);
    assert!(!a.pull().unwrap());
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(a.text("SELECT count(*) FROM turso_cdc"), "0");
}

#[test]
fn the_remote_may_restart_and_checkpoint_between_syncs() {
    let mut remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("a.db"), dir.path().join("b.db"));
    for round in 0..4 {
        let a = Replica::open(&path, &remote.url);
        let b = Replica::open(&other, &remote.url);
        a.sql(&format!("INSERT INTO note VALUES ('a{round}')"));
        b.sql(&format!("INSERT INTO note VALUES ('b{round}')"));
        a.sync().unwrap();
        b.sync().unwrap();
        remote.stop();
        remote.resume();
    }
    let a = Replica::open(&path, &remote.url);
    a.sync().unwrap();
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(a.text("SELECT count(*) FROM note"), "10");
}

#[test]
fn an_empty_remote_and_a_deferred_start_work() {
    let remote = Remote::start("");
    let dir = tempfile::tempdir().unwrap();
    let a = Replica::open(&dir.path().join("a.db"), &remote.url);
    let mut deferred = options(&dir.path().join("b.db"), "http://127.0.0.1:9");
    deferred.bootstrap_if_empty = false;
    let b = Replica::open_with(deferred).unwrap();
    a.sql("CREATE TABLE t (x PRIMARY KEY); INSERT INTO t VALUES (1)");
    b.sql("CREATE TABLE u (y INTEGER PRIMARY KEY); INSERT INTO u VALUES (5)");
    assert!(!a.pull().unwrap());
    a.push().unwrap();
    drop(b);
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    assert!(b.pull().unwrap());
    assert_eq!(b.tables().keys().cloned().collect::<Vec<_>>(), ["t", "u"]);
    b.push().unwrap();
    a.pull().unwrap();
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(b.tables(), remote.tables());
}

#[test]
fn a_failed_transaction_stays_whole_and_pending() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    a.sql("INSERT INTO item VALUES (10, 'cup', 1)");
    a.push().unwrap();
    b.sql("BEGIN; INSERT INTO item VALUES (30, 'x', 1), (31, 'cup', 2), (32, 'y', 3); COMMIT");
    for _ in 0..2 {
        let e = b.push().unwrap_err();
        assert_eq!((e.code, e.category), (Code::Constraint, Category::Conflict));
        assert!(e.message.contains("item"), "{e}");
        assert_eq!(remote.tables()["item"].len(), 4);
        assert_eq!(b.pending(), 3);
    }
    let e = b.pull().unwrap_err();
    assert_eq!(
        (e.code, e.category),
        (Code::Constraint, Category::Conflict),
        "{e}"
    );
    assert_eq!(b.text("SELECT count(*) FROM item"), "6");
}

#[test]
fn a_lost_answer_neither_doubles_nor_drops() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('once')");
    // Executed, but the answer of the push is lost.
    let mut requests = 0;
    let e = drive(
        &a.engine,
        a.engine.push_changes_to_remote(),
        &mut |http, perform| {
            requests += 1;
            let answer = perform();
            if is_push(http) {
                Err("connection reset".into())
            } else {
                Ok(answer)
            }
        },
    )
    .unwrap_err();
    assert!(
        e.retryable && e.category == Category::Network && requests == 2,
        "{e}"
    );
    assert_eq!(a.pending(), 1);
    a.sql("INSERT INTO note VALUES ('twice')");
    a.push().unwrap();
    a.pull().unwrap();
    assert_eq!(remote.tables()["note"].len(), 4);
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn a_request_delivered_twice_counts_once() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('once'); UPDATE item SET price = price + 1");
    drive(&a.engine, a.engine.push_changes_to_remote(), &mut |_, perform| {
        let first = perform();
        perform();
        Ok(first)
    })
    .unwrap();
    a.pull().unwrap();
    assert_eq!(remote.tables()["note"].len(), 3);
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn readers_see_only_whole_states_during_a_pull_with_pending_changes() {
    const ROWS: i64 = 1000;
    let schema = "CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT, amount INTEGER);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
        INSERT INTO account SELECT i, 'owner ' || i, 100 FROM n;";
    let remote = Remote::start(schema);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    // Every transaction, on both sides, keeps the sum.
    for i in 1..=ROWS / 2 {
        a.sql(&format!(
            "BEGIN; UPDATE account SET amount = amount - 1 WHERE id = {i};
            UPDATE account SET amount = amount + 1 WHERE id = {}; COMMIT",
            i + 1000
        ));
        b.sql(&format!(
            "BEGIN; UPDATE account SET amount = amount - 2 WHERE id = {};
            UPDATE account SET amount = amount + 2 WHERE id = {}; COMMIT",
            i + 500,
            i + 1500
        ));
    }
    a.push().unwrap();
    let old = plain(&b.path);
    old.execute_batch("BEGIN").unwrap();
    let sum = "SELECT sum(amount) FROM account";
    let changed = "SELECT count(*) FROM account WHERE amount <> 100";
    let count =
        |conn: &rusqlite::Connection, sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(&old, changed), ROWS);

    let stop = Arc::new(AtomicBool::new(false));
    let (ready, started) = mpsc::channel();
    let reader = std::thread::spawn({
        let (path, stop) = (b.path.clone(), stop.clone());
        move || {
            let conn = plain(&path);
            let (mut reads, mut states) = (0, std::collections::BTreeSet::new());
            while !stop.load(Ordering::Relaxed) {
                conn.execute_batch("BEGIN").unwrap();
                assert_eq!(count(&conn, sum), 200_000);
                states.insert(count(&conn, changed));
                conn.execute_batch("COMMIT").unwrap();
                reads += 1;
                if reads == 1 {
                    ready.send(()).unwrap();
                }
            }
            (reads, states)
        }
    });
    started.recv().unwrap();
    assert!(b.pull().unwrap());
    let after = plain(&b.path);
    assert_eq!((count(&after, sum), count(&after, changed)), (200_000, 2 * ROWS));
    // Let the reader see the new state as well: it has, once its connection reads it.
    stop.store(true, Ordering::Relaxed);
    let (reads, states) = reader.join().unwrap();
    assert!(
        reads > 0 && states.iter().all(|s| *s == ROWS || *s == 2 * ROWS),
        "{reads} reads saw {states:?}"
    );
    // The old snapshot is still what it was.
    assert_eq!((count(&old, sum), count(&old, changed)), (200_000, ROWS));
    old.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&old, changed), 2 * ROWS);
    for conn in [&old, &after] {
        let check: String = conn
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
    }
    b.push().unwrap();
    assert_eq!(b.tables(), remote.tables());
}

#[test]
fn a_bad_remote_is_a_clear_error_and_changes_nothing() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    b.sql("INSERT INTO note VALUES ('theirs')");
    b.push().unwrap();
    a.sql("INSERT INTO note VALUES ('mine')");
    let before = a.tables();

    type Answer = fn() -> Result<(u16, Vec<u8>), String>;
    // What nobody can tell from a cut may be retryable or not.
    let cases: [(&str, Answer, Option<u16>, Option<bool>); 7] = [
        ("not there", || Err("connection refused".into()), None, Some(true)),
        (
            "401",
            || Ok((401, b"who are you".to_vec())),
            Some(401),
            Some(false),
        ),
        ("404", || Ok((404, vec![])), Some(404), Some(false)),
        ("500", || Ok((500, b"oops".to_vec())), Some(500), Some(true)),
        ("garbage", || Ok((200, vec![0xff; 40])), None, None),
        ("empty", || Ok((200, vec![])), None, None),
        (
            "cut short by the host",
            || Err("body was cut short".into()),
            None,
            Some(true),
        ),
    ];
    for (name, answer, status, retryable) in cases {
        for push in [false, true] {
            let result = if push {
                drive(&a.engine, a.engine.push_changes_to_remote(), &mut |_, _| answer())
            } else {
                drive(&a.engine, a.engine.pull_changes_from_remote(), &mut |_, _| {
                    answer()
                })
                .map(|_| ())
            };
            let e = result.expect_err(name);
            assert_eq!(e.http_status, status, "{name}: {e}");
            assert!(retryable.is_none_or(|r| r == e.retryable), "{name}: {e}");
            assert!(!e.message.is_empty());
            assert_eq!(a.tables(), before, "{name}");
        }
    }
    // An answer that lost its tail without anybody noticing.
    let e = drive(
        &a.engine,
        a.engine.pull_changes_from_remote(),
        &mut |_, perform| {
            let (status, mut body) = perform();
            body.truncate(body.len().saturating_sub(4096).max(body.len() / 2));
            Ok((status, body))
        },
    )
    .unwrap_err();
    assert_eq!(e.category, Category::Protocol, "{e}");
    assert_eq!(a.tables(), before);
    a.sql("INSERT INTO note VALUES ('still usable')");
    a.sync().unwrap();
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(a.text("SELECT count(*) FROM note"), "5");
}

#[test]
fn a_bad_bootstrap_leaves_nothing_behind_that_would_be_taken_for_a_replica() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
    for cut in [0, 5, 4096, 8192] {
        let e = drive(&engine, engine.create_db(), &mut |_, perform| {
            let (status, mut body) = perform();
            body.truncate(body.len().saturating_sub(cut + 1));
            Ok((status, body))
        })
        .unwrap_err();
        assert_eq!(e.category, Category::Protocol, "{e}");
        assert!(!path.exists());
    }
    // Cancelled in the middle.
    let mut op = engine.create_db();
    assert_eq!(op.resume().unwrap(), OperationStatus::Io);
    drop(op);
    assert!(!path.exists());
    assert_eq!(
        run(&engine, engine.connect_rw()).err().unwrap().code,
        Code::Misuse
    );
    run(&engine, engine.create_db()).unwrap();
    assert_eq!(tables(&path), remote.tables());
}

#[test]
fn another_database_is_refused() {
    let remote = Remote::start(SHOP);
    let other = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('mine')");
    a.sync().unwrap();
    a.sql("INSERT INTO note VALUES ('pending')");
    let path = a.path.clone();
    drop(a);
    let before = tables(&path);
    let a = Replica::open(&path, &other.url);
    for result in [a.pull().map(|_| ()), a.push()] {
        assert_eq!(result.unwrap_err().category, Category::Identity);
    }
    assert_eq!(a.tables(), before);
    assert_eq!(other.tables()["note"].len(), 2);
    drop(a);
    let a = Replica::open(&path, &remote.url);
    a.sync().unwrap();
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn one_sync_operation_at_a_time() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('x')");
    let mut first = a.engine.push_changes_to_remote();
    assert_eq!(first.resume().unwrap(), OperationStatus::Io);
    for busy in [
        a.push().unwrap_err(),
        a.pull().unwrap_err(),
        run(&a.engine, a.engine.checkpoint()).unwrap_err(),
    ] {
        assert_eq!((busy.code, busy.retryable), (Code::Busy, true), "{busy}");
    }
    // Local work goes on, and so does a second process.
    a.sql("INSERT INTO note VALUES ('y')");
    let other = DatabaseSyncEngine::new(options(&a.path, &remote.url)).unwrap();
    run(&other, other.create_db()).unwrap();
    assert_eq!(run(&other, other.sync()).unwrap_err().code, Code::Busy);
    drop(first);
    run(&other, other.sync()).unwrap();
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(a.text("SELECT count(*) FROM note"), "4");
}

#[test]
fn a_download_that_became_stale_is_refused_not_applied() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    b.sql("INSERT INTO note VALUES ('1')");
    b.push().unwrap();
    let changes = run(&a.engine, a.engine.wait_changes_from_remote())
        .unwrap()
        .unwrap();
    assert_eq!(
        run(&a.engine, a.engine.wait_changes_from_remote())
            .err()
            .unwrap()
            .code,
        Code::Busy
    );
    // Another process pulls in the meantime.
    let other = Replica::open(&a.path, &remote.url);
    other.pull().unwrap();
    let e = run(&a.engine, a.engine.apply_changes_from_remote(changes)).unwrap_err();
    assert_eq!((e.code, e.retryable), (Code::BusySnapshot, true));
    assert!(!a.pull().unwrap());
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn a_foreign_checkpoint_costs_a_download_and_nothing_else() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    a.sql("UPDATE item SET price = 100 WHERE id = 1; INSERT INTO note VALUES ('pending')");
    // What the sqlite3 shell does when it is the last to close.
    let shell = rusqlite::Connection::open(&a.path).unwrap();
    shell
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(shell);
    assert!(a.pull().unwrap());
    b.sql("INSERT INTO note VALUES ('b'); DELETE FROM item WHERE id = 3");
    b.push().unwrap();
    assert!(a.pull().unwrap());
    assert_eq!(a.text("SELECT count(*) FROM note"), "4");
    assert_eq!(a.text("SELECT price FROM item WHERE id = 1"), "100.0");
    let predicted = a.tables();
    a.push().unwrap();
    assert_eq!(remote.tables(), predicted);
}

#[test]
fn a_push_after_a_foreign_checkpoint_fetches_the_base_first() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('pending')");
    let shell = rusqlite::Connection::open(&a.path).unwrap();
    shell
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(shell);
    a.push().unwrap();
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn the_log_stays_short_by_itself() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    for i in 0..300 {
        a.sql(&format!("INSERT INTO note SELECT hex(randomblob(2000)) FROM item, item LIMIT 9; DELETE FROM note WHERE rowid % 7 = {}", i % 7));
    }
    let stats = run(&a.engine, a.engine.stats()).unwrap();
    assert!(stats.main_wal_size < 16 << 20, "{stats:?}");
    a.sync().unwrap();
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn an_existing_database_is_not_taken_over() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE precious (x); INSERT INTO precious VALUES (1)")
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let e = Replica::open_with(options(&path, &remote.url)).err().unwrap();
    assert_eq!(e.category, Category::Identity);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn metadata_that_are_gone_or_behind_are_repaired() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let info = dir.path().join("a.db-info");
    let a = Replica::open(&path, &remote.url);
    let old = std::fs::read(&info).unwrap();
    a.sql("INSERT INTO note VALUES ('x')");
    a.sync().unwrap();
    drop(a);
    std::fs::write(&info, old).unwrap();
    let a = Replica::open(&path, &remote.url);
    a.sql("INSERT INTO note VALUES ('y')");
    a.sync().unwrap();
    drop(a);
    std::fs::remove_file(&info).unwrap();
    let a = Replica::open(&path, &remote.url);
    assert!(!a.pull().unwrap());
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(a.text("SELECT count(*) FROM note"), "4");
}

#[test]
fn a_crash_after_the_download_leads_to_a_replica() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    // Stop before the metadata are written the last time: the rename has happened, the replica is complete or not.
    let engine = DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
    let mut op = engine.create_db();
    let mut writes = 0;
    while op.resume().unwrap() == OperationStatus::Io {
        let item = engine.io().take_item().unwrap();
        if matches!(
            item.request(),
            turso_sync::io::SyncEngineIoRequest::FullWrite { .. }
        ) {
            writes += 1;
            if writes == 2 {
                break;
            }
        }
        serve(&item, &mut |http, _| forward(http));
    }
    drop((op, engine));
    // A replica whose local tables never became durable: only the downloaded pages.
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("a.db{suffix}")));
    }
    let a = Replica::open(&path, "http://127.0.0.1:9");
    assert_eq!(a.tables(), remote.tables());
    drop(a);
    // The same metadata beside another database are refused.
    let other = dir.path().join("b.db");
    rusqlite::Connection::open(&other)
        .unwrap()
        .execute_batch(SHOP)
        .unwrap();
    std::fs::copy(dir.path().join("a.db-info"), dir.path().join("b.db-info")).unwrap();
    assert_eq!(
        Replica::open_with(options(&other, &remote.url))
            .err()
            .unwrap()
            .category,
        Category::Identity
    );
}

#[test]
fn a_large_push_is_split_between_transactions() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    for i in 0..50 {
        a.sql(&format!(
            "BEGIN; INSERT INTO item VALUES ({}, 'n{i}', 0); INSERT INTO note VALUES ('n{i}'); COMMIT",
            100 + i
        ));
    }
    a.sql("INSERT INTO note SELECT value FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 5000) SELECT value FROM n)");
    let engine = pushing_in_steps_of(20, &a, &remote);
    let mut requests = 0;
    drive(&engine, engine.push_changes_to_remote(), &mut |http, _| {
        requests += 1;
        forward(http)
    })
    .unwrap();
    assert!((5..15).contains(&requests), "{requests}");
    b.pull().unwrap();
    assert_eq!(b.tables(), remote.tables());
    assert_eq!(b.tables(), a.tables());
}

/// A replica of `remote` whose requests carry one change, or few more.
fn pushing_in_steps_of(operations: u64, a: &Replica, remote: &Remote) -> DatabaseSyncEngine {
    let mut opts = options(&a.path, &remote.url);
    opts.push_operations_threshold = operations;
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    run(&engine, engine.open()).unwrap();
    engine
}

#[test]
fn a_push_makes_its_next_request_while_one_is_under_way() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _b) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('one'), ('two')");
    a.sql("INSERT INTO note VALUES ('three')");
    let engine = pushing_in_steps_of(2, &a, &remote);
    let mut op = engine.push_changes_to_remote();
    let mut pushes = Vec::new();
    while op.resume().unwrap() == OperationStatus::Io {
        while let Some(item) = engine.io().take_item() {
            if let turso_sync::io::SyncEngineIoRequest::Http(http) = item.request()
                && is_push(http)
            {
                pushes.push(written(http));
                // The host comes back before it has the answer.
                assert_eq!(op.resume().unwrap(), OperationStatus::Io);
                if pushes.len() == 1 {
                    a.sql("INSERT INTO note VALUES ('four')");
                }
            }
            serve(&item, &mut |http, _| forward(http));
        }
    }
    let holds = |word: &str| pushes.iter().position(|push| push.contains(word));
    let [one, two, three, four] = ["one", "two", "three", "four"].map(|word| holds(word).unwrap());
    assert_eq!((one, two, three, four), (0, 0, 1, 2));
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(a.pending(), 0);
}

#[test]
fn what_was_made_behind_a_refused_request_is_forgotten() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    b.sql("INSERT INTO item VALUES (10, 'cup', 1)");
    b.push().unwrap();
    a.sql("INSERT INTO item VALUES (20, 'cup', 2)");
    // The change before is one of a table with other columns.
    a.sql("ALTER TABLE item DROP COLUMN price; ALTER TABLE item RENAME COLUMN id TO number");
    a.sql("INSERT INTO item VALUES (21, 'mug')");
    let engine = pushing_in_steps_of(1, &a, &remote);
    let e = run(&engine, engine.push_changes_to_remote()).unwrap_err();
    assert_eq!(
        (e.category, e.code),
        (Category::Conflict, Code::Constraint),
        "{e}"
    );
    let conflicts = engine.conflicts().unwrap();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].key, r#"{"id":20}"#);
    let aside = engine.resolve_conflict(conflicts[0].txn_id, turso_sync::engine::Resolution::SetAside);
    run(&engine, aside).unwrap();
    run(&engine, engine.sync()).unwrap();
    b.pull().unwrap();
    assert_eq!(a.tables(), remote.tables());
    assert_eq!(b.tables(), remote.tables());
    assert_eq!(
        b.text("SELECT group_concat(name) FROM item WHERE number > 9"),
        "cup,mug"
    );
}

#[test]
fn a_chunked_bootstrap_gives_the_same_database() {
    let remote = Remote::start(&format!(
        "{SHOP} INSERT INTO note SELECT hex(randomblob(3000)) FROM item, item, item, item;"
    ));
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(&dir.path().join("a.db"), &remote.url);
    opts.pull_bytes_threshold = 5 * 4096;
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    let mut requests = 0;
    drive(&engine, engine.create_db(), &mut |http, _| {
        requests += 1;
        forward(http)
    })
    .unwrap();
    assert!(requests > 3);
    assert_eq!(tables(&dir.path().join("a.db")), remote.tables());
}

#[test]
fn a_conflict_that_the_user_has_repaired_is_gone() {
    for repair in [
        "UPDATE item SET name = 'mine' WHERE id = 31",
        "DELETE FROM item WHERE id = 31",
    ] {
        for pull_first in [false, true] {
            let remote = Remote::start(SHOP);
            let dir = tempfile::tempdir().unwrap();
            let (a, b) = two(&remote, &dir);
            a.sql("INSERT INTO item VALUES (10, 'cup', 1)");
            a.push().unwrap();
            b.sql("BEGIN; INSERT INTO item VALUES (30, 'x', 1), (31, 'cup', 2), (32, 'y', 3); COMMIT");
            b.sql("UPDATE item SET price = price + 1 WHERE id >= 30; INSERT INTO note VALUES ('other')");
            assert_eq!(b.push().unwrap_err().category, Category::Conflict);
            b.sql(repair);
            if pull_first {
                b.pull().unwrap();
                // One change per row is left, in one transaction.
                let log = "SELECT count(DISTINCT change_txn_id) || ' ' || count(*) FROM turso_cdc";
                assert_eq!(b.text(log), "1 4");
            }
            let predicted = b.text("SELECT group_concat(id || name || price) FROM (SELECT * FROM item WHERE id >= 30 ORDER BY id)");
            b.push().unwrap();
            b.pull().unwrap();
            a.pull().unwrap();
            assert_eq!(b.tables(), remote.tables());
            assert_eq!(a.tables(), remote.tables());
            assert_eq!(
                b.text("SELECT group_concat(id || name || price) FROM (SELECT * FROM item WHERE id >= 30 ORDER BY id)"),
                predicted
            );
        }
    }
}

#[test]
fn changes_that_change_nothing_do_not_stay_pending() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    a.sql("UPDATE item SET name = 'pen' WHERE id = 1");
    assert_eq!(a.pending(), 1);
    a.push().unwrap();
    assert_eq!(a.pending(), 0);
    a.pull().unwrap();
    assert_eq!(a.text("SELECT count(*) FROM turso_cdc"), "0");
}

#[test]
fn the_numbers_in_the_header_travel_with_the_schema() {
    let remote = Remote::start(&format!(
        "{SHOP} PRAGMA user_version = 3; PRAGMA application_id = 77"
    ));
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    a.sql("CREATE TABLE v4 (x); PRAGMA user_version = 4");
    b.sql("INSERT INTO note VALUES ('b')");
    b.push().unwrap();
    a.pull().unwrap();
    assert_eq!(a.text("SELECT user_version FROM pragma_user_version"), "4");
    a.push().unwrap();
    b.pull().unwrap();
    assert_eq!(b.text("SELECT user_version FROM pragma_user_version"), "4");
    b.sql("PRAGMA user_version = 5; PRAGMA application_id = -2");
    b.push().unwrap();
    // Pushing again does not set it again.
    a.pull().unwrap();
    a.sql("PRAGMA user_version = 6");
    a.push().unwrap();
    b.sql("INSERT INTO note VALUES ('b')");
    b.push().unwrap();
    for r in [&a, &b] {
        r.pull().unwrap();
        assert_eq!(r.text("SELECT user_version FROM pragma_user_version"), "6");
        assert_eq!(r.text("SELECT application_id FROM pragma_application_id"), "-2");
        assert!(!r.sync().unwrap());
    }
}

/// The base may be older than what was pushed last: the numbers of the app must not go back with it.
#[test]
fn user_version_does_not_go_back_where_the_base_is_behind_a_push() {
    const VERSION: &str = "SELECT user_version FROM pragma_user_version";
    let remote = Remote::start("CREATE TABLE u (id INTEGER PRIMARY KEY, e UNIQUE); PRAGMA user_version = 1");
    let dir = tempfile::tempdir().unwrap();
    let a = Replica::open(&dir.path().join("a.db"), &remote.url);
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    b.sql("INSERT INTO u VALUES (1, 'first')");
    b.push().unwrap();
    let older = run(&a.engine, a.engine.wait_changes_from_remote())
        .unwrap()
        .unwrap();
    a.sql("BEGIN; CREATE TABLE v2 (x); PRAGMA user_version = 2; COMMIT");
    a.push().unwrap();
    run(&a.engine, a.engine.apply_changes_from_remote(older)).unwrap();
    assert_eq!(a.text(VERSION), "2");
    a.pull().unwrap();
    assert_eq!(a.text(VERSION), "2");

    a.sql("BEGIN; CREATE TABLE v3 (x); PRAGMA user_version = 3; COMMIT");
    a.push().unwrap();
    b.sync().unwrap();
    b.sql("INSERT INTO u VALUES (2, 'second')");
    b.push().unwrap();
    a.sql("INSERT INTO u VALUES (3, 'second')");
    a.sync().unwrap_err();
    let conflict = a.engine.conflicts().unwrap().remove(0).txn_id;
    run(
        &a.engine,
        a.engine
            .resolve_conflict(conflict, turso_sync::engine::Resolution::Drop),
    )
    .unwrap();
    assert_eq!(a.text(VERSION), "3");
    // What others set meanwhile counts: here nobody has set anything since.
    b.sql("PRAGMA user_version = 4");
    b.sync().unwrap();
    a.sync().unwrap();
    for r in [&a, &b] {
        r.sync().unwrap();
        assert_eq!(r.text(VERSION), "4");
    }
}

#[test]
fn changes_of_another_replica_are_refused() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    b.sql("INSERT INTO note VALUES ('b')");
    b.push().unwrap();
    let changes = run(&a.engine, a.engine.wait_changes_from_remote())
        .unwrap()
        .unwrap();
    let e = run(&b.engine, b.engine.apply_changes_from_remote(changes)).unwrap_err();
    assert_eq!(e.code, Code::Misuse);
    // They are gone; another wait fetches them again.
    assert!(a.pull().unwrap());
}

/// Whoever waits leaves the lock alone, so nobody who syncs meanwhile, in this process or another, is told to come back.
#[test]
fn a_wait_never_makes_a_push_busy() {
    let remote = Remote::start("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let a = Replica::open(&path, &remote.url);
    let other = DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
    run(&other, other.create_db()).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let waiter = std::thread::spawn(move || {
        let mut waits = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            drop(run(&other, other.wait_within(0)).unwrap());
            waits += 1;
        }
        waits
    });
    for id in 0..150 {
        a.sql(&format!("INSERT INTO t VALUES ({id}, 'x')"));
        a.push().unwrap();
    }
    stop.send(()).unwrap();
    assert!(waiter.join().unwrap() > 0);
}

/// The pages that a pull writes are those of the remote as they are: SQLite must not vacuum them by what the file was before.
#[test]
fn a_remote_that_vacuums_by_itself_no_more_is_followed() {
    const FILL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 400)
        INSERT INTO t SELECT i, printf('%.*c', 3000, 'x') || i FROM n";
    for mode in [
        "PRAGMA auto_vacuum = INCREMENTAL",
        "PRAGMA auto_vacuum = NONE; VACUUM",
    ] {
        let remote = Remote::start_prepared(FILL, |conn| {
            conn.execute_batch("PRAGMA auto_vacuum = FULL").unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        let a = Replica::open(&dir.path().join("a.db"), &remote.url);
        plain(&remote.path)
            .execute_batch(&format!("{mode}; DELETE FROM t WHERE id % 3 = 0"))
            .unwrap();
        a.sql("UPDATE t SET v = 'here' WHERE id = 1");
        assert!(a.pull().unwrap(), "{mode}");
        let free = a.text("SELECT freelist_count FROM pragma_freelist_count");
        assert!(free.parse::<i64>().unwrap() > 100, "{mode}: {free} free pages");
        a.push().unwrap();
        assert_eq!(a.tables(), remote.tables(), "{mode}");
        // What comes next is a difference to these pages.
        plain(&remote.path)
            .execute_batch(
                "UPDATE t SET v = v || '!' WHERE id % 7 = 1; INSERT INTO t SELECT id + 1000, v FROM t",
            )
            .unwrap();
        assert!(a.pull().unwrap(), "{mode}");
        assert_eq!(a.tables(), remote.tables(), "{mode}");
    }
}

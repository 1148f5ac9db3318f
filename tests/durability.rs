//! What must not get lost when something dies, is late, or was cut short, at the seams between the parts.
#![cfg(feature = "server")]

mod support;

use std::path::{Path, PathBuf};

use support::*;
use turso_sync::engine::DatabaseSyncEngine;
use turso_sync::error::{Category, Code};
use turso_sync::io::{OperationStatus, SyncEngineIoRequest};
use turso_sync::protocol::pull::{PullDecoder, PullEvent, PullHeader, encode_header};

const SHOP: &str = "
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL);
CREATE TABLE note (text);
INSERT INTO item VALUES (1, 'pen', 1.5), (2, 'ink', 7.25);
INSERT INTO note VALUES ('first');
";

fn two(remote: &Remote, dir: &tempfile::TempDir) -> (Replica, Replica) {
    let open = |name: &str| Replica::open(&dir.path().join(name), &remote.url);
    (open("a.db"), open("b.db"))
}

fn side(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Calls of `strace` would be better evidence, but not every machine may trace: the log's file is what counts, and
/// SQLite writes the frames of a commit at once, synced or not. So the test looks at what the library promises: the
/// state says what was sent before the request leaves, in a commit that SQLite syncs.
#[test]
fn what_is_sent_is_recorded_before_it_leaves() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('1'), ('2')");
    let sent = |path: &Path| -> i64 {
        let sql = "SELECT value FROM turso_sync_local WHERE name = 'sent'";
        plain(path).query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(sent(&a.path), 0);
    let mut seen = Vec::new();
    let e = drive(
        &a.engine,
        a.engine.push_changes_to_remote(),
        &mut |http, perform| {
            seen.push(sent(&a.path));
            if http.body.windows(6).any(|w| w == b"COMMIT") {
                Err("lost".into())
            } else {
                Ok(perform())
            }
        },
    );
    assert!(e.is_err());
    assert_eq!(seen, [0, 2]);
    a.sync().unwrap();
    assert_eq!((sent(&a.path), a.pending()), (2, 0));
}

#[test]
fn a_net_effect_never_hides_a_change_under_one_that_was_sent() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    b.sql("INSERT INTO item VALUES (30, 'x', 1)");
    a.sql("INSERT INTO item VALUES (10, 'cup', 1)");
    a.push().unwrap();
    // Downloaded before b's push, applied after it: the pages know an older watermark than the remote.
    let changes = run(&b.engine, b.engine.wait_changes_from_remote())
        .unwrap()
        .unwrap();
    b.push().unwrap();
    b.sql("INSERT INTO item VALUES (31, 'cup', 2)");
    b.sql("UPDATE item SET price = 99 WHERE id = 30");
    b.sql("UPDATE item SET name = 'mine' WHERE id = 31");
    run(&b.engine, b.engine.apply_changes_from_remote(changes)).unwrap();
    b.pull().unwrap();
    b.push().unwrap();
    b.pull().unwrap();
    assert_eq!(b.text("SELECT price FROM item WHERE id = 30"), "99.0");
    assert_eq!(b.tables(), remote.tables());
}

#[test]
fn a_net_effect_leaves_alone_what_a_trigger_sees_through_a_view() {
    let remote = Remote::start(&format!(
        "{SHOP} CREATE TABLE stock (id INTEGER PRIMARY KEY, n); CREATE TABLE t (id INTEGER PRIMARY KEY);
         CREATE TABLE journal (id INTEGER PRIMARY KEY, s); CREATE VIEW overview AS SELECT sum(n) AS n FROM stock;
         CREATE TRIGGER tr AFTER INSERT ON t BEGIN
           INSERT INTO journal VALUES (new.id, (SELECT n FROM overview)); END;"
    ));
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    a.sql("INSERT INTO item VALUES (10, 'cup', 1)");
    a.push().unwrap();
    b.sql("INSERT INTO stock VALUES (1, 10); INSERT INTO t VALUES (1); UPDATE stock SET n = 20");
    b.sql("INSERT INTO item VALUES (31, 'cup', 1); UPDATE item SET name = 'mug' WHERE id = 31");
    b.pull().unwrap();
    assert_eq!(b.text("SELECT s FROM journal"), "10");
    b.sync().unwrap();
    assert_eq!(b.tables(), remote.tables());
}

#[test]
fn a_download_that_never_became_the_main_file_is_made_again() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
    let mut op = engine.create_db();
    while op.resume().unwrap() == OperationStatus::Io {
        let item = engine.io().take_item().unwrap();
        let announced = matches!(item.request(), SyncEngineIoRequest::FullWrite { .. });
        serve(&item, &mut |http, _| forward(http));
        if announced {
            break;
        }
    }
    drop(op);
    assert!(side(&path, "-info").exists() && !path.exists());
    let e = run(&engine, engine.open()).unwrap_err();
    assert!(e.message.contains("metadata not found"), "{e}");
    let mut offline = options(&path, "http://127.0.0.1:9");
    offline.bootstrap_if_empty = false;
    drop(Replica::open_with(offline).unwrap());
    // Deferred now, and knows it: the first pull brings everything.
    let a = Replica::open(&path, &remote.url);
    assert!(a.pull().unwrap());
    assert_eq!(a.tables(), remote.tables());
}

/// The remote's answer to a pull, cut off behind its header, without the page count that only our server sends.
fn only_the_header(body: &[u8]) -> Vec<u8> {
    let mut header: Option<PullHeader> = None;
    PullDecoder::new()
        .push(body, &mut |event| {
            if let PullEvent::Header(h) = event {
                header = Some(h);
            }
            Ok(())
        })
        .unwrap();
    encode_header(&PullHeader {
        page_count: None,
        ..header.unwrap()
    })
}

#[test]
fn an_answer_cut_off_behind_its_header_does_not_move_the_revision() {
    for sql in [
        "CREATE TABLE more (x); INSERT INTO more VALUES (zeroblob(20000))",
        "UPDATE item SET price = 9",
    ] {
        let remote = Remote::start(SHOP);
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = two(&remote, &dir);
        // So that the remote has the watermark table already, and an update leaves its size alone.
        a.sql("INSERT INTO note VALUES ('a')");
        a.sync().unwrap();
        b.sync().unwrap();
        b.sql(sql);
        b.push().unwrap();
        let _ = drive(
            &a.engine,
            a.engine.pull_changes_from_remote(),
            &mut |_, perform| {
                let (status, body) = perform();
                Ok((status, only_the_header(&body)))
            },
        );
        assert!(a.pull().unwrap(), "{sql}");
        assert_eq!(a.tables(), remote.tables());
    }
}

#[test]
fn a_database_with_only_a_header_is_somebodys() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA user_version = 7")
        .unwrap();
    let e = Replica::open_with(options(&path, &remote.url)).err().unwrap();
    assert_eq!(e.category, Category::Identity);
    assert_eq!(
        plain(&path)
            .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
            .unwrap(),
        7
    );
}

#[test]
fn waiting_in_one_process_does_not_disturb_pulls_in_another() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    let other = Replica::open(&a.path, &remote.url);
    for i in 0..20 {
        b.sql(&format!("INSERT INTO note VALUES ('{i}')"));
        b.push().unwrap();
        // The wait has begun with the old state when the other process applies.
        let mut wait = other.engine.wait_changes_from_remote();
        assert_eq!(wait.resume().unwrap(), OperationStatus::Io);
        assert!(a.pull().unwrap());
        let changes = run(&other.engine, wait).unwrap();
        if let Some(changes) = changes {
            let e = run(&other.engine, other.engine.apply_changes_from_remote(changes)).unwrap_err();
            assert_eq!(e.code, Code::BusySnapshot);
        }
        // Nobody has to download everything again.
        let before = a.engine.io().network_bytes().1;
        b.sql("UPDATE item SET price = price + 1");
        b.push().unwrap();
        a.pull().unwrap();
        assert!(a.engine.io().network_bytes().1 - before < 10 * 4200);
    }
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn a_replica_opens_while_another_process_waits_for_its_network() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('a')");
    let mut push = a.engine.push_changes_to_remote();
    assert_eq!(push.resume().unwrap(), OperationStatus::Io);
    let other = Replica::open(&a.path, &remote.url);
    other.sql("INSERT INTO note VALUES ('b')");
    assert_eq!(other.push().unwrap_err().code, Code::Busy);
    run(&a.engine, push).unwrap();
    other.sync().unwrap();
    assert_eq!(other.tables(), remote.tables());
}

#[test]
fn a_close_during_a_sync_operation_leaves_nothing_to_strangers() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    a.sql("INSERT INTO note VALUES ('a')");
    let mut push = a.engine.push_changes_to_remote();
    assert_eq!(push.resume().unwrap(), OperationStatus::Io);
    a.conn.close().unwrap();
    run(&a.engine, push).unwrap();
    // What a plain shell does: open, read, close.
    let shell = rusqlite::Connection::open(&a.path).unwrap();
    shell
        .query_row("SELECT count(*) FROM note", [], |_| Ok(()))
        .unwrap();
    drop(shell);
    b.sql("INSERT INTO note VALUES ('b')");
    b.push().unwrap();
    let mut revisions = 0;
    drive(&a.engine, a.engine.pull_changes_from_remote(), &mut |http, _| {
        revisions += usize::from(!http.body.is_empty());
        forward(http)
    })
    .unwrap();
    assert_eq!(revisions, 1, "the base was downloaded again");
    assert_eq!(tables(&a.path), remote.tables());
}

#[test]
fn what_is_pending_is_the_same_for_all_who_have_the_replica_open() {
    let remote = Remote::start("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let one = Replica::open(&path, &remote.url);
    let other = Replica::open(&path, &remote.url);
    one.sql("INSERT INTO t VALUES (1)");
    other.sql("INSERT INTO t VALUES (2)");
    assert_eq!((one.pending(), other.pending()), (2, 2));
    one.push().unwrap();
    assert_eq!((one.pending(), other.pending()), (0, 0));
    other.sql("INSERT INTO t VALUES (3)");
    other.sync().unwrap();
    assert_eq!((one.pending(), other.pending()), (0, 0));
}

/// Who opens a replica reads its state, and then waits for its host. Meanwhile another process may have pulled.
#[test]
fn opening_slowly_does_not_take_the_base_of_another_process_away() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(&remote, &dir);
    b.sql("INSERT INTO note VALUES ('from b')");
    b.push().unwrap();
    let slow = DatabaseSyncEngine::new(options(&a.path, &remote.url)).unwrap();
    let mut open = slow.create_db();
    assert_eq!(open.resume().unwrap(), OperationStatus::Io);
    a.pull().unwrap();
    while open.resume().unwrap() == OperationStatus::Io {
        while let Some(item) = slow.io().take_item() {
            turso_sync::io::files::perform(&item).unwrap();
        }
    }
    a.sql("INSERT INTO note VALUES ('from a')");
    let mut known = Vec::new();
    drive(&a.engine, a.engine.sync(), &mut |http, perform| {
        if http.path == "/pull-updates" {
            let request = turso_sync::protocol::pull::decode_request(&http.body).unwrap();
            known.push(!request.client_revision.is_empty());
        }
        Ok(perform())
    })
    .unwrap();
    assert_eq!(known, [true], "the base was lost");
}

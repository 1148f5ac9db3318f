//! Copies, restored backups, other remotes, other files: what is not the replica that it seems to be.
#![cfg(feature = "server")]

#[path = "identity/files.rs"]
mod files;
#[path = "identity/random.rs"]
mod random;
mod support;

use std::sync::Arc;

use files::Backup;
use support::*;
use turso_sync::capture::lineage::Writer;
use turso_sync::capture::{Connection, OpenOptions};
use turso_sync::engine::{ConflictPolicy, ForeignPolicy, Resolution};
use turso_sync::error::{Category, Code, Result};

const SHOP: &str = "
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL);
CREATE TABLE note (text);
INSERT INTO item VALUES (1, 'pen', 1.5), (2, 'ink', 7.25), (3, 'paper', 3.0);
INSERT INTO note VALUES ('first'), ('second');
";

fn note(replica: &Replica, text: &str) {
    replica.sql(&format!("INSERT INTO note VALUES ('{text}')"));
}

fn client_id(replica: &Replica) -> String {
    replica.text("SELECT value FROM turso_sync_local WHERE name = 'client_id'")
}

/// The notes of the remote, without the two that it began with.
fn notes(remote: &Remote) -> Vec<String> {
    let mut notes: Vec<String> = plain(&remote.path)
        .prepare("SELECT text FROM note WHERE text NOT IN ('first', 'second')")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(|text| text.unwrap())
        .collect();
    notes.sort();
    notes
}

fn accept(replica: &Replica, policy: ForeignPolicy) -> Result<()> {
    run(&replica.engine, replica.engine.accept_remote(policy))
}

/// Syncs all, so that each has seen what the others have pushed, and compares.
fn converge(remote: &Remote, replicas: &[&Replica]) {
    for _ in 0..2 {
        for replica in replicas {
            replica.sync().unwrap();
        }
    }
    for replica in replicas {
        assert_eq!(replica.tables(), remote.tables());
        assert_eq!(replica.pending(), 0);
    }
}

/// A replica that has pushed a note `a` and has another one, `b`, pending; and the folder of the files.
fn scene() -> (Remote, tempfile::TempDir, Replica) {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let a = Replica::open(&dir.path().join("a.db"), &remote.url);
    note(&a, "a");
    a.sync().unwrap();
    note(&a, "b");
    (remote, dir, a)
}

#[test]
fn a_copy_and_its_original_both_go_on() {
    for copy_first in [false, true] {
        let (remote, dir, original) = scene();
        let path = original.path.clone();
        drop(original);
        Backup::of(&path).put(&dir.path().join("copy.db"));
        let original = Replica::open(&path, &remote.url);
        let copy = Replica::open(&dir.path().join("copy.db"), &remote.url);
        let name = client_id(&original);
        assert_eq!(client_id(&copy), name);
        note(&original, "of the original");
        note(&copy, "of the copy");
        let (first, second) = match copy_first {
            true => (&copy, &original),
            false => (&original, &copy),
        };
        first.push().unwrap();
        second.push().unwrap();
        assert_eq!(notes(&remote), ["a", "b", "of the copy", "of the original"]);
        converge(&remote, &[&original, &copy]);
        assert_eq!(client_id(first), name);
        assert_ne!(client_id(second), name);
        // The metadata follow.
        let info = std::fs::read_to_string(format!("{}-info", second.path.display())).unwrap();
        assert!(info.contains(&client_id(second)), "{info}");
    }
}

#[test]
fn a_copy_that_was_made_while_the_original_was_at_work_goes_on() {
    let (remote, dir, original) = scene();
    let path = dir.path().join("copy.db");
    // In the midst of what one connection writes.
    Backup::of(&original.path).put(&path);
    note(&original, "of the original");
    original.push().unwrap();
    let copy = Replica::open(&path, &remote.url);
    note(&copy, "of the copy");
    copy.push().unwrap();
    assert_eq!(notes(&remote), ["a", "b", "of the copy", "of the original"]);
    converge(&remote, &[&original, &copy]);
}

#[test]
fn a_copy_that_pulls_first_keeps_what_only_it_has() {
    let (remote, dir, original) = scene();
    let path = dir.path().join("copy.db");
    Backup::of(&original.path).put(&path);
    let copy = Replica::open(&path, &remote.url);
    note(&copy, "of the copy");
    note(&original, "of the original");
    original.push().unwrap();
    copy.pull().unwrap();
    assert_eq!(copy.pending(), 1);
    assert_eq!(copy.text("SELECT count(*) FROM note"), "6");
    converge(&remote, &[&original, &copy]);
    assert_eq!(notes(&remote).len(), 4);
}

/// Its base is lost, so that the log is moved without one. Who wrote what then must not be read off the main file.
#[test]
fn a_copy_may_checkpoint_before_it_pulls() {
    for closes in [false, true] {
        let (remote, dir, original) = scene();
        let path = dir.path().join("copy.db");
        Backup::of(&original.path).put(&path);
        let mut copy = Replica::open(&path, &remote.url);
        for text in ["c", "d"] {
            note(&copy, text);
            run(&copy.engine, copy.engine.checkpoint()).unwrap();
        }
        if closes {
            drop(copy);
            copy = Replica::open(&path, &remote.url);
        }
        note(&original, "e");
        original.push().unwrap();
        copy.pull().unwrap();
        converge(&remote, &[&original, &copy]);
        assert_eq!(notes(&remote), ["a", "b", "c", "d", "e"]);
    }
}

#[test]
fn a_copy_that_changes_nothing_needs_no_new_name() {
    let (remote, dir, original) = scene();
    let path = dir.path().join("copy.db");
    Backup::of(&original.path).put(&path);
    let copy = Replica::open(&path, &remote.url);
    copy.push().unwrap();
    original.push().unwrap();
    assert_eq!(notes(&remote), ["a", "b"]);
    converge(&remote, &[&original, &copy]);
    assert_eq!(client_id(&copy), client_id(&original));
}

#[test]
fn copies_of_copies_go_on() {
    let (remote, dir, original) = scene();
    let mut replicas = vec![original];
    for round in 0..4 {
        let from = &replicas[round / 2];
        let path = dir.path().join(format!("copy{round}.db"));
        Backup::of(&from.path).put(&path);
        replicas.push(Replica::open(&path, &remote.url));
        for (i, replica) in replicas.iter().enumerate() {
            note(replica, &format!("{round}/{i}"));
        }
        replicas[round].push().unwrap();
    }
    converge(&remote, &replicas.iter().collect::<Vec<_>>());
    assert_eq!(notes(&remote).len(), 2 + 2 + 3 + 4 + 5);
    let names: std::collections::BTreeSet<_> = replicas.iter().map(client_id).collect();
    assert_eq!(names.len(), replicas.len());
}

#[test]
fn a_restored_backup_goes_on() {
    for in_place in [false, true] {
        for metadata_too in [false, true] {
            let (remote, _dir, a) = scene();
            let path = a.path.clone();
            drop(a);
            let backup = Backup::of(&path);
            let a = Replica::open(&path, &remote.url);
            note(&a, "lost here, but pushed");
            a.push().unwrap();
            note(&a, "lost");
            drop(a);
            backup.restore(&path, in_place, metadata_too);
            let a = Replica::open(&path, &remote.url);
            let name = client_id(&a);
            note(&a, "new");
            a.push().unwrap();
            assert_eq!(notes(&remote), ["a", "b", "lost here, but pushed", "new"]);
            assert_ne!(client_id(&a), name);
            converge(&remote, &[&a]);
        }
    }
}

#[test]
fn a_restored_backup_with_as_many_changes_as_the_remote_knows_goes_on() {
    let (remote, _dir, a) = scene();
    let path = a.path.clone();
    drop(a);
    let backup = Backup::of(&path);
    let a = Replica::open(&path, &remote.url);
    note(&a, "pushed");
    a.push().unwrap();
    drop(a);
    backup.restore(&path, true, true);
    let a = Replica::open(&path, &remote.url);
    for i in 0..5 {
        note(&a, &format!("new {i}"));
    }
    // The number of the last change is far above the watermark.
    a.pull().unwrap();
    assert_eq!(a.pending(), 5);
    converge(&remote, &[&a]);
    assert_eq!(notes(&remote).len(), 8);
}

#[test]
fn a_restored_backup_that_has_nothing_new_goes_on() {
    let (remote, _dir, a) = scene();
    let path = a.path.clone();
    let backup = Backup::of(&path);
    note(&a, "pushed");
    a.push().unwrap();
    drop(a);
    backup.restore(&path, true, true);
    let a = Replica::open(&path, &remote.url);
    a.push().unwrap();
    a.pull().unwrap();
    note(&a, "new");
    converge(&remote, &[&a]);
    assert_eq!(notes(&remote), ["a", "b", "new", "pushed"]);
}

#[test]
fn a_state_that_is_restored_below_an_open_engine_is_noticed() {
    let (remote, _dir, a) = scene();
    let path = a.path.clone();
    let backup = Backup::of(&path);
    note(&a, "pushed");
    a.push().unwrap();
    // The engine stays; its connection does not.
    a.conn.close().unwrap();
    backup.restore(&path, true, false);
    let a = Replica {
        conn: run(&a.engine, a.engine.connect_rw()).unwrap(),
        ..a
    };
    note(&a, "new");
    a.push().unwrap();
    converge(&remote, &[&a]);
    assert_eq!(notes(&remote), ["a", "b", "new", "pushed"]);
}

#[test]
fn what_a_power_failure_has_taken_back_is_not_mistaken() {
    // The same as a restored backup: the last commits are gone, and their numbers are given out again.
    let (remote, dir, a) = scene();
    let copy = Backup::of(&a.path);
    note(&a, "before the failure");
    a.push().unwrap();
    drop(a);
    let path = dir.path().join("machine2.db");
    copy.put(&path);
    let a = Replica::open(&path, &remote.url);
    a.sql("BEGIN; INSERT INTO note VALUES ('taken back'); ROLLBACK");
    a.sql("BEGIN; SAVEPOINT s; INSERT INTO note VALUES ('taken back'); ROLLBACK TO s; INSERT INTO note VALUES ('after'); COMMIT");
    a.push().unwrap();
    converge(&remote, &[&a]);
    assert_eq!(notes(&remote), ["a", "after", "b", "before the failure"]);
}

#[test]
fn a_conflict_of_a_copy_can_be_resolved() {
    let (remote, dir, original) = scene();
    let path = dir.path().join("copy.db");
    Backup::of(&original.path).put(&path);
    let copy = Replica::open(&path, &remote.url);
    copy.sql("INSERT INTO item VALUES (10, 'cup', 1)");
    // Sent, but never arrived.
    let lost = drive(
        &copy.engine,
        copy.engine.push_changes_to_remote(),
        &mut |http, perform| match written(http).contains("cup") {
            true => Err("lost".into()),
            false => Ok(perform()),
        },
    );
    assert!(lost.is_err());
    note(&copy, "of the copy");
    original.sql("INSERT INTO item VALUES (20, 'cup', 2)");
    original.push().unwrap();
    let conflicts = || -> Result<Vec<_>> { copy.engine.conflicts() };
    assert!(copy.push().is_err());
    assert_eq!(conflicts().unwrap().len(), 1);
    let txn = conflicts().unwrap()[0].txn_id;
    let resolve = copy
        .engine
        .resolve_conflict(txn, turso_sync::engine::Resolution::SetAside);
    run(&copy.engine, resolve).unwrap();
    copy.sql("UPDATE item SET name = 'mug' WHERE id = 20");
    copy.push().unwrap();
    converge(&remote, &[&original, &copy]);
    assert_eq!(notes(&remote), ["a", "b", "of the copy"]);
    assert_ne!(client_id(&copy), client_id(&original));
}

#[test]
fn a_crash_while_the_name_changes_leads_to_one_name() {
    // The new name is in the main file; the metadata never followed.
    let (remote, dir, original) = scene();
    let path = dir.path().join("copy.db");
    Backup::of(&original.path).put(&path);
    note(&original, "of the original");
    original.push().unwrap();
    let mut opts = options(&path, &remote.url);
    let copy = Replica::open_with(opts.clone()).unwrap();
    note(&copy, "of the copy");
    let old = std::fs::read(dir.path().join("copy.db-info")).unwrap();
    copy.pull().unwrap();
    let name = client_id(&copy);
    drop(copy);
    std::fs::write(dir.path().join("copy.db-info"), old).unwrap();
    opts.remote_url = None;
    let copy = Replica::open_with(opts).unwrap();
    assert_eq!(client_id(&copy), name);
    // The URL is the one that the old metadata have.
    copy.push().unwrap();
    let info = std::fs::read_to_string(dir.path().join("copy.db-info")).unwrap();
    assert!(info.contains(&name), "{info}");
    converge(&remote, &[&original, &copy]);
}

#[test]
fn metadata_of_another_replica_do_not_count() {
    let (remote, dir, a) = scene();
    let other = Remote::start(SHOP);
    let b = Replica::open(&dir.path().join("b.db"), &other.url);
    drop(b);
    let (path, name) = (a.path.clone(), client_id(&a));
    drop(a);
    std::fs::copy(dir.path().join("b.db-info"), dir.path().join("a.db-info")).unwrap();
    let mut opts = options(&path, &remote.url);
    opts.remote_url = None;
    let a = Replica::open_with(opts).unwrap();
    assert_eq!(client_id(&a), name);
    assert_eq!(a.engine.remote_url().unwrap(), None);
    drop(a);
    let a = Replica::open(&path, &remote.url);
    converge(&remote, &[&a]);
    assert_eq!(notes(&remote), ["a", "b"]);
    assert_eq!(notes(&other), [""; 0]);
}

#[test]
fn what_the_remote_remembers_stays_bounded() {
    let (remote, _dir, a) = scene();
    let lineage = "SELECT count(*) FROM turso_sync_last_change_id WHERE client_id LIKE '%/lineage/%'";
    for i in 0..300 {
        // As many programs that open the file.
        let options = OpenOptions {
            capture: true,
            writer: Some(Arc::new(Writer::new(move || 1000 + i))),
            ..Default::default()
        };
        let conn = Connection::open(a.path.to_str().unwrap(), options).unwrap();
        conn.execute_batch(&format!("INSERT INTO note VALUES ('session {i}')"))
            .unwrap();
        if i % 70 == 69 {
            a.push().unwrap();
        }
    }
    let name = client_id(&a);
    a.push().unwrap();
    let count: i64 = plain(&remote.path)
        .query_row(lineage, [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 257);
    converge(&remote, &[&a]);
    assert_eq!(client_id(&a), name);
    let local = "SELECT count(*) FROM turso_sync_local WHERE name LIKE 'lineage %'";
    assert_eq!(a.text(local), "257");
    assert_eq!(notes(&remote).len(), 302);
}

#[test]
fn who_takes_the_name_of_another_copy_goes_on_under_it() {
    let (remote, dir, original) = scene();
    Backup::of(&original.path).put(&dir.path().join("b.db"));
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    note(&b, "shared");
    Backup::of(&b.path).put(&dir.path().join("c.db"));
    let c = Replica::open(&dir.path().join("c.db"), &remote.url);
    note(&c, "of the second copy");
    note(&original, "of the original");
    original.push().unwrap();
    b.push().unwrap();
    c.push().unwrap();
    assert_eq!(client_id(&b), client_id(&c));
    converge(&remote, &[&original, &b, &c]);
    assert_eq!(
        notes(&remote),
        ["a", "b", "of the original", "of the second copy", "shared"]
    );
}

/// Opens a file that is not a replica; it stays as it is. Returns the error's text.
fn refused(path: &std::path::Path, url: &str) -> String {
    let before = std::fs::read(path).unwrap();
    let e = Replica::open_with(options(path, url)).err().unwrap();
    assert_eq!(e.category, Category::Identity, "{e:?}");
    assert_eq!(std::fs::read(path).unwrap(), before);
    e.message
}

#[test]
fn an_existing_database_is_refused_and_can_be_copied_into_a_replica() {
    let remote = Remote::start(SHOP);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.db");
    // Whatever the size of its pages.
    for size in [1024, 4096, 16384] {
        let _ = std::fs::remove_file(&path);
        let sql = format!(
            "PRAGMA page_size = {size}; CREATE TABLE mine{size} (x INTEGER PRIMARY KEY, y); \
             INSERT INTO mine{size} VALUES (1, 'precious'), (2, x'00ff')"
        );
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch(&sql)
            .unwrap();
        let text = refused(&path, &remote.url);
        assert!(
            text.contains(&format!("pages of {size} bytes")) && text.contains("ATTACH"),
            "{text}"
        );
        let a = Replica::open(&dir.path().join("a.db"), &remote.url);
        a.sql(&format!(
            "ATTACH '{}' AS old; CREATE TABLE mine{size} (x INTEGER PRIMARY KEY, y);
             INSERT INTO mine{size} SELECT * FROM old.mine{size}; DETACH old",
            path.display()
        ));
        converge(&remote, &[&a]);
        assert_eq!(
            remote.tables()[&format!("mine{size}")],
            tables(&path)[&format!("mine{size}")]
        );
    }
}

#[test]
fn files_of_other_kinds_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:9";
    let make = |name: &str, sql: &str| {
        let path = dir.path().join(name);
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        path
    };
    let utf16 = make("utf16.db", "PRAGMA encoding = 'UTF-16'; CREATE TABLE t (x)");
    let text = refused(&utf16, url);
    assert!(text.contains("UTF-16") && text.contains(".dump"), "{text}");
    // As the official client makes it; its metadata are there, or not.
    let official = make(
        "official.db",
        "CREATE TABLE t (x); CREATE TABLE turso_cdc (change_id INTEGER PRIMARY KEY AUTOINCREMENT, change_time INTEGER,
           change_txn_id INTEGER, change_type INTEGER, table_name TEXT, id, before BLOB, after BLOB, updates BLOB);
         CREATE TABLE turso_cdc_version (table_name TEXT PRIMARY KEY, version TEXT NOT NULL);",
    );
    assert!(refused(&official, url).contains("another implementation"));
    let info = r#"{"version":"v1","client_unique_id":"a","synced_revision":{"type":"v1","revision":"3"},
        "revert_since_wal_salt":null,"revert_since_wal_watermark":0,"saved_configuration":null}"#;
    std::fs::write(dir.path().join("official.db-info"), info).unwrap();
    assert!(refused(&official, url).contains("another implementation"));
    let encrypted = dir.path().join("encrypted.db");
    std::fs::write(&encrypted, [0xa5; 8192]).unwrap();
    let text = refused(&encrypted, url);
    assert!(text.contains("encrypted"), "{text}");
}

#[test]
fn another_remote_and_one_that_was_restored_are_refused_and_nothing_is_lost() {
    let (mut remote, dir, a) = scene();
    a.push().unwrap();
    let old = dir.path().join("remote.backup");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let _ = std::fs::remove_file(to);
        plain(from)
            .execute_batch(&format!("VACUUM INTO '{}'", to.display()))
            .unwrap();
    };
    copy(&remote.path, &old);
    note(&a, "forgotten by the remote");
    a.sync().unwrap();
    note(&a, "pending");
    let path = a.path.clone();
    drop(a);
    let before = tables(&path);
    remote.stop();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", remote.path.display()));
    }
    std::fs::copy(&old, &remote.path).unwrap();
    remote.resume();
    let other = Remote::start(SHOP);
    for url in [&remote.url, &other.url] {
        let a = Replica::open(&path, url);
        for result in [a.push(), a.pull().map(drop)] {
            let e = result.unwrap_err();
            assert_eq!(e.category, Category::Identity, "{e:?}");
        }
        assert_eq!(a.tables(), before);
    }
    // The way on: another replica, to which whatever it lacks is copied.
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    b.sql(&format!("ATTACH '{}' AS old", path.display()));
    b.sql("INSERT INTO note SELECT text FROM old.note WHERE text NOT IN (SELECT text FROM main.note)");
    b.sql("DETACH old");
    converge(&remote, &[&b]);
    assert_eq!(notes(&remote), ["a", "b", "forgotten by the remote", "pending"]);
}

/// Puts the database of the remote back to what `old` holds.
fn restore(remote: &mut Remote, old: &std::path::Path) {
    remote.stop();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", remote.path.display()));
    }
    std::fs::copy(old, &remote.path).unwrap();
    remote.resume();
}

/// A replica `a` with changes that the remote has forgotten, and with pending ones; another one may have forgotten changes,
/// too.
fn forgetful_remote() -> (Remote, tempfile::TempDir, Replica) {
    let (mut remote, dir, a) = scene();
    a.push().unwrap();
    let old = dir.path().join("remote.backup");
    plain(&remote.path)
        .execute_batch(&format!("VACUUM INTO '{}'", old.display()))
        .unwrap();
    a.sql("INSERT INTO note VALUES ('forgotten'); UPDATE item SET price = 9 WHERE id = 1; INSERT INTO item VALUES (4, 'new', 4)");
    a.sync().unwrap();
    note(&a, "pending");
    let path = a.path.clone();
    drop(a);
    restore(&mut remote, &old);
    let a = Replica::open(&path, &remote.url);
    // At the place where `a` has what the remote has forgotten.
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    b.sql("INSERT INTO note VALUES ('of b'); INSERT INTO item VALUES (5, 'of b', 5)");
    b.sync().unwrap();
    (remote, dir, a)
}

#[test]
fn a_remote_that_was_restored_can_be_accepted() {
    for policy in [ForeignPolicy::Adopt, ForeignPolicy::Discard] {
        let (remote, dir, a) = forgetful_remote();
        let before = a.tables();
        assert_eq!(a.sync().unwrap_err().category, Category::Identity);
        let e = accept(&a, ForeignPolicy::Stop).unwrap_err();
        assert_eq!(e.category, Category::Foreign, "{e}");
        assert_eq!(a.engine.foreign_tables(), ["item", "note"]);
        assert_eq!(a.tables(), before);
        accept(&a, policy).unwrap();
        assert_eq!(accept(&a, ForeignPolicy::Stop).err(), None);
        let b = Replica::open(&dir.path().join("b.db"), &remote.url);
        converge(&remote, &[&a, &b]);
        match policy == ForeignPolicy::Adopt {
            true => {
                assert_eq!(notes(&remote), ["a", "b", "forgotten", "of b", "pending"]);
                assert_eq!(
                    a.text("SELECT group_concat(price) FROM item"),
                    "9.0,7.25,3.0,4.0,5.0"
                );
            }
            false => {
                assert_eq!(notes(&remote), ["a", "b", "of b", "pending"]);
                assert_eq!(a.text("SELECT group_concat(price) FROM item"), "1.5,7.25,3.0,5.0");
            }
        }
    }
}

#[test]
fn another_remote_can_be_accepted() {
    let (_remote, dir, a) = scene();
    a.sync().unwrap();
    note(&a, "pending");
    let path = a.path.clone();
    drop(a);
    let other = Remote::start(
        "CREATE TABLE note (text); CREATE TABLE theirs (x PRIMARY KEY, y);
         INSERT INTO note VALUES ('other first'), ('second'), ('other third'); INSERT INTO theirs VALUES (1, 2);",
    );
    let a = Replica::open(&path, &other.url);
    assert!(a.sync().is_err());
    accept(&a, ForeignPolicy::Adopt).unwrap();
    let b = Replica::open(&dir.path().join("b.db"), &other.url);
    converge(&other, &[&a, &b]);
    // Rows without a key that differ are different rows; the same row at the same place is the same one.
    assert_eq!(notes(&other), ["a", "b", "other first", "other third", "pending"]);
    assert_eq!(a.text("SELECT count(*) FROM note WHERE text = 'second'"), "1");
    assert_eq!(a.text("SELECT count(*) FROM note WHERE text = 'first'"), "1");
    assert_eq!(
        (other.tables()["item"].len(), other.tables()["theirs"].len()),
        (3, 1)
    );
}

/// What is pending does not fit the remote that is to be accepted, which is no reason to give up what that lacks.
#[test]
fn a_conflict_with_an_accepted_remote_has_ways_out() {
    const U: &str = "CREATE TABLE u (id INTEGER PRIMARY KEY, e UNIQUE);";
    let rows = |sql: &str| format!("INSERT INTO u VALUES {sql}");
    for policy in [
        ConflictPolicy::Stop,
        ConflictPolicy::Overwrite,
        ConflictPolicy::SetAside,
    ] {
        for way in [
            Some(Resolution::Overwrite),
            Some(Resolution::SetAside),
            Some(Resolution::Drop),
            None,
        ] {
            let remote = Remote::start(U);
            let dir = tempfile::tempdir().unwrap();
            let a = Replica::open(&dir.path().join("a.db"), &remote.url);
            a.sql(&rows("(1, 'only here')"));
            a.sync().unwrap();
            a.sql(&rows("(2, 'taken'), (3, 'beside')"));
            drop(a);
            let other = Remote::start(&format!("{U} {}", rows("(9, 'taken')")));
            let mut opts = options(&dir.path().join("a.db"), &other.url);
            opts.conflict_policy = policy;
            let a = Replica::open_with(opts).unwrap();
            assert_eq!(a.sync().unwrap_err().category, Category::Identity);
            let mut kept = "1only here,2taken,3beside";
            if policy != ConflictPolicy::Overwrite {
                let e = accept(&a, ForeignPolicy::Adopt).unwrap_err();
                assert_eq!(e.category, Category::Conflict, "{e}");
                let conflict = a.engine.conflicts().unwrap().remove(0);
                assert_eq!(conflict.table, "u");
                match way {
                    Some(way) => run(&a.engine, a.engine.resolve_conflict(conflict.txn_id, way)).unwrap(),
                    None => a.sql("UPDATE u SET e = 'free' WHERE id = 2"),
                }
                kept = match way {
                    Some(Resolution::Overwrite) => kept,
                    None => "1only here,2free,3beside,9taken",
                    _ => "1only here,9taken",
                };
            }
            accept(&a, ForeignPolicy::Adopt).unwrap();
            converge(&other, &[&a]);
            assert_eq!(
                a.text("SELECT group_concat(id || e) FROM u"),
                kept,
                "{policy:?} {way:?}"
            );
        }
    }
}

/// The remote is the right one, and nothing is to be decided.
#[test]
fn the_own_remote_is_accepted_without_harm() {
    let (remote, _dir, a) = scene();
    let before = client_id(&a);
    accept(&a, ForeignPolicy::Stop).unwrap();
    assert_eq!(client_id(&a), before);
    converge(&remote, &[&a]);
    assert_eq!(notes(&remote), ["a", "b"]);
}

/// What they adopt has the same numbers in both files.
#[test]
fn copies_that_adopt_different_changes_of_other_programs_keep_them_all() {
    let (remote, dir, a) = scene();
    let path = a.path.clone();
    drop(a);
    let copy = dir.path().join("copy.db");
    Backup::of(&path).put(&copy);
    let mut replicas = Vec::new();
    for (path, name) in [(&path, "theirs in a"), (&copy, "theirs in the copy")] {
        plain(path)
            .execute_batch(&format!(
                "PRAGMA wal_autocheckpoint = 0; INSERT INTO note VALUES ('{name}')"
            ))
            .unwrap();
        let replica = Replica::open(path, &remote.url);
        run(
            &replica.engine,
            replica.engine.settle_foreign_changes(ForeignPolicy::Adopt),
        )
        .unwrap();
        replicas.push(replica);
    }
    converge(&remote, &[&replicas[0], &replicas[1]]);
    assert_eq!(notes(&remote), ["a", "b", "theirs in a", "theirs in the copy"]);
}

/// What a push reads must be one state of the file: changes that are newer than the lineage beside them belong to nobody.
#[test]
fn writers_that_begin_while_a_push_reads_make_no_copy() {
    let (remote, _dir, a) = scene();
    let before = client_id(&a);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let pusher = Replica::open(&a.path, &remote.url);
                    match pusher.push() {
                        Err(e) if e.code != Code::Busy => panic!("{e}"),
                        _ => {}
                    }
                }
            });
        }
        for i in 0..400 {
            let writer = Replica::open(&a.path, &remote.url);
            note(&writer, &format!("writer {i}"));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    converge(&remote, &[&a]);
    assert_eq!(client_id(&a), before);
    assert_eq!(notes(&remote).len(), 402);
}

#[test]
fn copies_and_backups_at_random_lose_nothing_and_double_nothing() {
    random::runs();
}

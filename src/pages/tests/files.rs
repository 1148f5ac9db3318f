//! Downloads, damaged files, and other programs on the main file.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::*;

fn lost(world: &World) -> Option<String> {
    match world.store.recover(&world.state()).unwrap() {
        BaseHealth::Lost { reason, .. } => Some(reason),
        BaseHealth::Intact => None,
    }
}

fn shell(world: &World, sql: &str) {
    let output = Command::new("sqlite3")
        .arg(world.folder.join("main.db"))
        .arg(sql)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn with_header(db_pages: u32) -> Page {
    let mut page = [0; PAGE_SIZE];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16] = 0x10;
    page[18..20].fill(1);
    page[28..32].copy_from_slice(&db_pages.to_be_bytes());
    page
}

#[test]
fn a_download_is_checked() {
    let folder = folder();
    let path = folder.path().join("changes");
    let other = [7; PAGE_SIZE];
    let mut writer = ChangesWriter::create(&path).unwrap();
    assert!(writer.page(0, &other).is_err());
    writer.page(3, &[8; PAGE_SIZE]).unwrap();
    writer.page(2, &other).unwrap();
    writer.page(3, &other).unwrap();
    // The last image counts, and what lies behind the end does not.
    let mut image = [0; PAGE_SIZE];
    let changes = writer.finish(3).unwrap();
    assert!(changes.read(3, &mut image).unwrap() && image == other);
    let mut writer = ChangesWriter::create(&path).unwrap();
    writer.page(3, &other).unwrap();
    assert!(writer.finish(2).unwrap().is_empty());

    let make = |first: Option<Page>, others: &[u32], db_pages| {
        let mut writer = ChangesWriter::create(&path).unwrap();
        if let Some(first) = &first {
            writer.page(1, first).unwrap();
        }
        for page_no in others {
            writer.page(*page_no, &other).unwrap();
        }
        writer.finish(db_pages).unwrap()
    };
    let good = with_header(3);
    let check = |first, others: &[u32], db_pages, old| make(first, others, db_pages).validate(old).is_ok();
    assert!(check(Some(good), &[2, 3], 3, None));
    assert!(check(Some(good), &[3], 3, Some(2)));
    assert!(
        check(None, &[2], 3, Some(3)),
        "SQLite in WAL mode does not write page 1 with every change"
    );
    assert!(check(None, &[], 3, Some(3)));
    assert!(check(None, &[], 0, None));
    assert!(check(None, &[], 0, Some(9)));
    assert!(!check(Some(good), &[2], 3, None), "page 3 is missing");
    assert!(!check(Some(good), &[], 3, Some(2)), "page 3 is missing");
    assert!(!check(None, &[2], 2, Some(3)), "the size changed without page 1");
    assert!(!check(Some(with_header(4)), &[2, 3], 3, None), "the sizes differ");
    assert!(!check(None, &[], u32::MAX, Some(1)));
    for (at, value) in [(0, b'x'), (16, 0x20), (18, 3), (19, 0)] {
        let mut bad = good;
        bad[at] = value;
        assert!(!check(Some(bad), &[2, 3], 3, None), "byte {at}");
    }
    let mut untrusted = with_header(9);
    untrusted[24] = 1;
    assert!(check(Some(untrusted), &[2, 3], 3, None));

    let changes = make(Some(good), &[3], 3);
    let mut page = [0; PAGE_SIZE];
    assert!(!changes.read(2, &mut page).unwrap() && !changes.contains(2));
    assert!(changes.read(3, &mut page).unwrap() && page == other && changes.len() == 2);
    make(None, &[2], 2);
    assert!(
        changes.read(1, &mut page).unwrap() && page == good,
        "a later download disturbs an older one"
    );
}

#[test]
fn initialize_declares_the_main_file_to_be_the_base() {
    let folder = folder();
    let remote = Connection::open(folder.path().join("remote.db")).unwrap();
    remote
        .execute_batch(&format!(
            "{TABLE} PRAGMA journal_mode=WAL; PRAGMA wal_checkpoint(TRUNCATE)"
        ))
        .unwrap();
    let synced = pages_of(&remote);
    std::fs::write(folder.path().join("main.db"), synced.concat()).unwrap();
    let store = open_store(folder.path());
    let state = BaseState {
        epoch: 0,
        base_pages: synced.len() as u32,
    };
    assert!(matches!(store.recover(&state).unwrap(), BaseHealth::Lost { .. }));
    assert!(
        store
            .initialize(&BaseState {
                epoch: 0,
                base_pages: synced.len() as u32 + 1
            })
            .is_err()
    );
    store.initialize(&state).unwrap();
    assert_eq!(store.recover(&state).unwrap(), BaseHealth::Intact);
    let app = open_app(folder.path());
    app.execute_batch(&format!(
        "CREATE TABLE turso_sync_local (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
         INSERT INTO turso_sync_local VALUES ('epoch', 0), ('base_pages', {})",
        synced.len()
    ))
    .unwrap();
    let mut world = World {
        folder: folder.path().to_owned(),
        remote,
        app,
        store,
        pending: Vec::new(),
        pushed: 0,
        synced,
    };
    world.check();
    world.checkpoint().unwrap();
    world.remote.execute_batch("DELETE FROM t WHERE id > 9").unwrap();
    world.pull().unwrap();
    world.check();
}

#[test]
fn a_damaged_or_missing_revert_file_loses_the_base_and_nothing_else() {
    let damages: [fn(&Path); 5] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| std::fs::write(path, b"").unwrap(),
        |path| {
            OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(9000)
                .unwrap()
        },
        |path| {
            OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .write_all_at(b"garbage", 5000)
                .unwrap()
        },
        |path| {
            OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .write_all_at(&[9; 1200], 500)
                .unwrap()
        },
    ];
    for damage in damages {
        let folder = folder();
        let mut world = World::new(folder.path(), TABLE);
        world.local("UPDATE t SET v = 1");
        world.checkpoint().unwrap();
        world.local("UPDATE t SET v = 2 WHERE id < 50");
        damage(&folder.path().join("main.db-wal-revert"));
        world.reopen();
        assert!(lost(&world).is_some());
        assert!(world.pull().is_err() && world.checkpoint().is_err());
        world.refetch().unwrap();
        world.check();
        world.checkpoint().unwrap();
        world.pull().unwrap();
        world.check();
    }
}

#[test]
fn an_older_revert_file_or_database_is_noticed() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    let revert = folder.path().join("main.db-wal-revert");
    let old = std::fs::read(&revert).unwrap();
    world.remote.execute_batch("DELETE FROM t").unwrap();
    world.pull().unwrap();
    let state = world.state();
    for epoch in [state.epoch - 2, state.epoch + 1, i64::MAX] {
        let store = open_store(folder.path());
        assert!(matches!(
            store.recover(&BaseState { epoch, ..state }).unwrap(),
            BaseHealth::Lost { .. }
        ));
    }
    world.check();
    std::fs::write(&revert, old).unwrap();
    world.reopen();
    assert!(lost(&world).unwrap().contains("epoch"));
}

#[test]
fn a_shell_that_reads_after_a_clean_close_does_no_harm() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    world.local("UPDATE t SET v = 'local'");
    assert!(world.checkpoint().unwrap().truncated);
    world.app = Connection::open_in_memory().unwrap();
    shell(&world, "SELECT count(*) FROM t");
    world.reopen();
    world.check();
}

#[test]
fn a_shell_that_copies_unsaved_pages_loses_the_base() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    world.checkpoint().unwrap();
    world.local("UPDATE t SET v = 'local'");
    world.app = Connection::open_in_memory().unwrap();
    shell(&world, "SELECT count(*) FROM t");
    world.reopen();
    assert!(lost(&world).unwrap().contains("somebody else"));
    assert!(world.store.with_base(&world.state(), |_| Ok(())).is_err());
    world.refetch().unwrap();
    world.check();
}

#[test]
fn a_shell_that_writes_loses_the_base() {
    let folder = folder();
    let world = World::new(folder.path(), TABLE);
    world.checkpoint().unwrap();
    shell(
        &world,
        "UPDATE t SET v = 1 WHERE id < 20; PRAGMA wal_checkpoint(TRUNCATE)",
    );
    assert!(lost(&world).is_some());
}

#[test]
fn a_foreign_checkpoint_of_saved_pages_does_no_harm() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    world.checkpoint().unwrap();
    let reader = open_app(folder.path());
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    world.local("UPDATE t SET v = 'local'");
    let report = world.checkpoint().unwrap();
    assert!(!report.complete() && !report.truncated);
    reader.execute_batch("COMMIT").unwrap();
    world.app.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    world.check();
    world.local("UPDATE t SET v = 'again'");
    world.check();
    assert!(world.checkpoint().unwrap().truncated);
    world.check();
}

#[test]
fn a_foreign_checkpoint_during_apply_is_noticed() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    world.local("UPDATE t SET v = 'local'");
    world.remote.execute_batch("DELETE FROM t WHERE id > 9").unwrap();
    let before = dump(&world.app);
    let changes = download(&folder.path().join("c"), &world.synced, &pages_of(&world.remote));
    let result = world
        .store
        .apply(Base::Known(world.state()), &changes, NO_WAIT, |context| {
            world.app.execute_batch("PRAGMA wal_checkpoint(PASSIVE)")?;
            prepare(context, &world.pending)
        });
    assert!(result.unwrap_err().message.contains("somebody else"));
    same(&dump(&world.app), &before);
    assert!(lost(&world).is_some());
    world.refetch().unwrap();
    world.check();
}

#[test]
fn the_revert_file_shrinks_when_the_main_file_has_caught_up() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    for round in 0..5 {
        world
            .remote
            .execute_batch(&format!("UPDATE t SET w = zeroblob(900 + {round})"))
            .unwrap();
        world.pull().unwrap();
        assert!(world.store.revert_size() > 100 * PAGE_SIZE as u64);
        let report = world.checkpoint().unwrap();
        assert!(report.complete() && report.dropped_pages > 100);
        assert!(world.store.revert_size() < 10 * PAGE_SIZE as u64);
        assert_eq!(world.store.wal_size(), 0);
        world.check();
    }
}

#[test]
fn an_error_in_prepare_changes_nothing_and_keeps_its_cause() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    world.local("UPDATE t SET v = 'local'");
    world.remote.execute_batch("DELETE FROM t WHERE id > 9").unwrap();
    let changes = download(&folder.path().join("c"), &world.synced, &pages_of(&world.remote));
    let revert = world.store.revert_size();
    let result = world
        .store
        .apply(Base::Known(world.state()), &changes, NO_WAIT, |context| {
            context
                .scratch
                .execute_batch("DELETE FROM t; UPDATE no_such_table SET x = 1")?;
            Ok(())
        });
    assert!(result.unwrap_err().message.contains("no_such_table"));
    assert_eq!(world.store.revert_size(), revert);
    world.check();
    let locker = open_app(folder.path());
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = world.pull().unwrap_err();
    assert!(error.retryable, "{error:?}");
    assert!(world.checkpoint().unwrap_err().retryable);
    drop(locker);
    world.pull().unwrap();
    world.check();
}

#[test]
fn two_stores_take_turns() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    let other = open_store(folder.path());
    for round in 0..4 {
        assert_eq!(other.recover(&world.state()).unwrap(), BaseHealth::Intact);
        world.local(&format!(
            "UPDATE t SET v = v || '{round}' WHERE id % 3 = {}",
            round % 3
        ));
        world
            .remote
            .execute_batch(&format!("DELETE FROM t WHERE id % 11 = {round}"))
            .unwrap();
        world.pull().unwrap();
        other.checkpoint(&world.state(), NO_WAIT).unwrap();
        world.check();
        assert!(other.base_image(&world.state(), 1).unwrap() == world.synced[0]);
    }
}

#[test]
fn databases_that_cannot_be_synced_are_refused() {
    let folder = folder();
    let path = folder.path().join("main.db");
    let state = BaseState {
        epoch: 0,
        base_pages: 0,
    };
    let store = open_store(folder.path());
    assert!(store.recover(&state).is_err(), "no file");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(store.recover(&state).unwrap_err().message.contains("WAL mode"));
    conn.execute_batch("PRAGMA page_size=8192; VACUUM; PRAGMA journal_mode=WAL")
        .unwrap();
    assert!(store.recover(&state).unwrap_err().message.contains("8192"));
}

//! Facts about SQLite that this module is built on.

use super::*;

fn wal_database(folder: &Path) -> Connection {
    let conn = open_app(folder);
    conn.execute_batch(&format!("PRAGMA journal_mode=WAL; {TABLE}"))
        .unwrap();
    conn
}

/// Makes every page of `target` that of `source`, page 1 last, in one transaction.
fn inject_all(target: &Connection, source: &[Page]) {
    let mut first = source[0];
    let current = pages_of(target)[0];
    header::finish(&mut first, &current, source.len() as u32);
    target.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut insert = target
        .prepare("INSERT INTO sqlite_dbpage (pgno, data) VALUES (?1, ?2)")
        .unwrap();
    for (at, page) in source.iter().enumerate().skip(1) {
        insert.execute((at as u32 + 1, &page[..])).unwrap();
    }
    insert.execute((1, &first[..])).unwrap();
    drop(insert);
    target.execute_batch("COMMIT").unwrap();
}

#[test]
fn other_connections_see_an_injection_like_any_commit() {
    let folder = folder();
    let app = wal_database(folder.path());
    let source = Connection::open_in_memory().unwrap();
    source
        .execute_batch("CREATE TABLE other (x); INSERT INTO other VALUES (7)")
        .unwrap();
    let (reader, injector) = (open_app(folder.path()), open_app(folder.path()));
    reader.execute_batch("BEGIN").unwrap();
    let before = dump(&reader);
    let mut prepared = app.prepare("SELECT count(*) FROM sqlite_schema").unwrap();
    assert_eq!(prepared.query_row([], |row| row.get::<_, i64>(0)).unwrap(), 2);
    inject_all(&injector, &pages_of(&source));
    same(&dump(&reader), &before);
    reader.execute_batch("COMMIT").unwrap();
    for conn in [&reader, &app, &open_app(folder.path())] {
        same(&dump(conn), &dump(&source));
    }
    assert_eq!(prepared.query_row([], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[test]
fn a_statement_after_the_injection_of_page_1_reads_a_stale_schema() {
    let folder = folder();
    let app = open_app(folder.path());
    app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE a (x); CREATE TABLE b (x); CREATE TABLE c (x)")
        .unwrap();
    let source = Connection::open_in_memory().unwrap();
    source.execute_batch(TABLE).unwrap();
    source.execute_batch("CREATE TABLE far_behind (x)").unwrap();
    let source = pages_of(&source);
    let mut first = source[0];
    header::finish(&mut first, &pages_of(&app)[0], source.len() as u32);
    let injector = open_app(folder.path());
    injector.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut insert = injector
        .prepare("INSERT INTO sqlite_dbpage (pgno, data) VALUES (?1, ?2)")
        .unwrap();
    insert.execute((1, &first[..])).unwrap();
    let error = Error::from(insert.execute((2, &source[1][..])).unwrap_err());
    assert_eq!(error.code, crate::error::Code::Corrupt, "{error}");
}

#[test]
fn frames_behind_the_last_commit_do_not_count() {
    let folder = folder();
    let app = wal_database(folder.path());
    let main = folder.path().join("main.db");
    let read = || Snapshot::read(&main).unwrap().log().unwrap();
    let before = read();
    app.execute_batch(
        "PRAGMA cache_size=2; BEGIN; INSERT INTO t (w) SELECT zeroblob(3000) FROM t; ROLLBACK; PRAGMA cache_size=-2000",
    )
    .unwrap();
    let size = std::fs::metadata(folder.path().join("main.db-wal"))
        .unwrap()
        .len();
    assert!(
        size > 32 + u64::from(before.mark.frames) * 4120,
        "the rolled back frames are in the file"
    );
    let after = read();
    assert_eq!((after.mark, &after.pages), (before.mark, &before.pages));
    app.execute_batch("UPDATE t SET v = 'x' WHERE id = 1").unwrap();
    assert!(read().mark.frames > before.mark.frames);
    app.execute_batch("PRAGMA wal_checkpoint(RESTART); UPDATE t SET v = 'y' WHERE id = 1")
        .unwrap();
    let restarted = read();
    assert!(restarted.mark.salts != before.mark.salts && restarted.pages.len() < before.pages.len());
}

/// A commit of which only the sync failed leaves such frames behind.
#[test]
fn frames_of_a_failed_commit_do_not_count_as_long_as_sqlite_does_not_count_them() {
    let [folder, copied] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let conn = wal_database(folder.path());
    let log = || {
        Snapshot::write(&folder.path().join("main.db"), NO_WAIT)
            .unwrap()
            .log()
    };
    let before = log().unwrap();
    for name in ["main.db", "main.db-wal"] {
        std::fs::copy(folder.path().join(name), copied.path().join(name)).unwrap();
    }
    let other = open_app(copied.path());
    other
        .execute_batch("CREATE TABLE u(a); INSERT INTO u VALUES(zeroblob(9000))")
        .unwrap();
    let len = std::fs::copy(
        copied.path().join("main.db-wal"),
        folder.path().join("main.db-wal"),
    )
    .unwrap();
    let failed = log().unwrap();
    assert_eq!((failed.mark, &failed.pages), (before.mark, &before.pages));
    // The next commit writes over them.
    conn.execute_batch("UPDATE t SET v = 'x' WHERE id = 1").unwrap();
    let frames = log().unwrap().mark.frames;
    assert!(frames > before.mark.frames && 32 + u64::from(frames) * 4120 < len);
}

#[test]
fn a_pinned_main_file_is_not_copied_into() {
    let folder = folder();
    let app = wal_database(folder.path());
    let main = folder.path().join("main.db");
    app.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    let stamp = Stamp::of(&main).unwrap();
    let pin = Snapshot::read(&main).unwrap();
    app.execute_batch("UPDATE t SET v = 'slipped in'").unwrap();
    let copier = open_app(folder.path());
    copier.busy_timeout(NO_WAIT).unwrap();
    for mode in ["PASSIVE", "TRUNCATE"] {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let copied: i64 = copier.query_row(&sql, [], |row| row.get(2)).unwrap();
        assert_eq!(copied, 0, "{mode}");
    }
    assert_eq!(Stamp::of(&main).unwrap(), stamp);
    drop(pin);
    let copied: i64 = copier
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2))
        .unwrap();
    assert!(copied > 0);
}

#[test]
fn a_scratch_connection_sees_a_rollback_journal_database() {
    let folder = folder();
    let world = World::new(folder.path(), &format!("PRAGMA journal_mode=WAL; {TABLE}"));
    assert_eq!(world.synced[0][18..20], [2, 2]);
    let first: Vec<u8> = world
        .store
        .with_base(&world.state(), |conn| {
            assert!(
                conn.execute_batch("CREATE TABLE no (x)").is_err(),
                "the base cannot be changed"
            );
            assert_eq!(integrity(conn), "ok");
            Ok(
                conn.query_row("SELECT data FROM sqlite_dbpage WHERE pgno = 1", [], |row| {
                    row.get(0)
                })?,
            )
        })
        .unwrap();
    assert_eq!(first[18..20], [1, 1]);
    assert_eq!(world.store.base_image(&world.state(), 1).unwrap()[18..20], [2, 2]);
    assert_eq!(pages_of(&world.app)[0][18..20], [2, 2]);
}

#[test]
fn the_schema_cookie_passes_both_sides() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    let cookie = |page: &Page| header::schema_cookie(page);
    world.remote.execute_batch("PRAGMA schema_version=900").unwrap();
    world.pull().unwrap();
    let first = cookie(&pages_of(&world.app)[0]);
    assert!(first > 900);
    world.app.execute_batch("PRAGMA schema_version=2000").unwrap();
    world.remote.execute_batch("UPDATE t SET v = 0").unwrap();
    world.pull().unwrap();
    assert_eq!(cookie(&pages_of(&world.app)[0]), 2001);
    world.check();
}

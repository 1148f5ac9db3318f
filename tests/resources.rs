//! What the machine refuses (space, descriptors, rights): a clear error, nothing lost, and everything goes on once the
//! cause is gone. And configurations that cannot work.
#![cfg(all(feature = "server", feature = "driver", target_os = "linux"))]

mod process;
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use process::{Server, drive, remote_sql, run_child};
use support::{options, tables};
use turso_sync::capture::Connection;
use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts};
use turso_sync::error::{Category, Code, Error, Result};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, who TEXT, x BLOB);
    WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 100)
    INSERT INTO t SELECT i, 'remote', randomblob(1000) FROM i";

/// Runs `task` in a process of its own, whose limits are its own: `test` again, which then finds its world made.
fn in_child(test: &str, task: fn(&World)) {
    if let (Ok(folder), Ok(url)) = (std::env::var("RESOURCES_FOLDER"), std::env::var("RESOURCES_URL")) {
        let folder = folder.into();
        return task(&World { folder, url });
    }
    let dir = tempfile::tempdir().unwrap();
    // The child gives up its rights.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let remote = dir.path().join("remote.db");
    let conn = rusqlite::Connection::open(&remote).unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    drop(conn);
    let server = Server::start(&remote);
    let folder = dir.path().to_str().unwrap();
    run_child(
        test,
        &[("RESOURCES_FOLDER", folder), ("RESOURCES_URL", &server.url)],
    );
}

#[test]
fn a_full_disk_at_any_point_loses_nothing() {
    in_child("a_full_disk_at_any_point_loses_nothing", full_disk);
}

#[test]
fn exhausted_file_descriptors_lose_nothing() {
    in_child("exhausted_file_descriptors_lose_nothing", few_descriptors);
}

#[test]
fn what_may_not_be_written_or_read_is_a_clear_error() {
    in_child("what_may_not_be_written_or_read_is_a_clear_error", missing_rights);
}

#[test]
fn a_folder_that_is_gone_for_a_while_does_no_harm() {
    in_child("a_folder_that_is_gone_for_a_while_does_no_harm", missing_folder);
}

struct World {
    folder: PathBuf,
    url: String,
}

/// A replica at `path`, opened anew for each step.
struct Replica {
    engine: DatabaseSyncEngine,
    conn: Connection,
}

impl World {
    fn options(&self, name: &str) -> DatabaseSyncEngineOpts {
        options(&self.folder.join(name).join("a.db"), &self.url)
    }

    fn open(&self, name: &str) -> Result<Replica> {
        let engine = DatabaseSyncEngine::new(self.options(name))?;
        drive(&engine, engine.create_db())?;
        let conn = drive(&engine, engine.connect_rw())?;
        Ok(Replica { engine, conn })
    }

    /// A replica in a new folder, with something pending, something new on the remote, and a log.
    fn busy_replica(&self, name: &str) -> Replica {
        fs::create_dir(self.folder.join(name)).unwrap();
        let replica = self.open(name).unwrap();
        remote_sql(&self.url, "UPDATE t SET x = randomblob(1000)");
        replica.sql(&format!(
            "INSERT INTO t(who, x) SELECT '{name}', randomblob(1000) FROM t WHERE id <= 50"
        ));
        replica
    }

    /// Syncs and checks that the 50 rows of a busy replica are there and that both sides agree.
    fn settle(&self, name: &str, replica: &Replica) {
        replica.perform("push").unwrap();
        replica.perform("pull").unwrap();
        assert_eq!(
            tables(&self.folder.join(name).join("a.db")),
            tables(&self.folder.join("remote.db"))
        );
        let count = remote_sql(
            &self.url,
            &format!("SELECT count(*) || ' rows' FROM t WHERE who = '{name}'"),
        );
        assert!(count.contains("50 rows"), "{name}: {count}");
    }
}

impl Replica {
    fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap();
    }

    fn perform(&self, task: &str) -> Result<()> {
        let engine = &self.engine;
        match task {
            "write" => {
                let done = self.conn.execute_batch(
                    "BEGIN; UPDATE t SET x = zeroblob(900); UPDATE t SET x = randomblob(1000); COMMIT",
                );
                // As everywhere with SQLite: not every failure ends the transaction.
                if done.is_err() && !self.conn.is_autocommit() {
                    self.sql("ROLLBACK");
                }
                done
            }
            "pull" => drive(engine, engine.pull_changes_from_remote()).map(drop),
            "push" => drive(engine, engine.push_changes_to_remote()),
            "checkpoint" => drive(engine, engine.checkpoint()),
            other => panic!("unknown task {other}"),
        }
    }
}

/// Lowers a limit of this process while it lives.
struct Limit {
    resource: libc::__rlimit_resource_t,
    before: libc::rlimit,
}

impl Limit {
    fn set(resource: libc::__rlimit_resource_t, value: u64) -> Limit {
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: plain system calls with valid pointers.
        unsafe {
            assert_eq!(libc::getrlimit(resource, &mut before), 0);
            let lower = libc::rlimit {
                rlim_cur: value,
                ..before
            };
            assert_eq!(libc::setrlimit(resource, &lower), 0);
        }
        Limit { resource, before }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // SAFETY: a plain system call with a valid pointer.
        assert_eq!(unsafe { libc::setrlimit(self.resource, &self.before) }, 0);
    }
}

/// An error that tells a program and a person what to do.
fn assert_clear(what: &str, e: &Error) {
    let codes = [Code::DatabaseFull, Code::IoErr, Code::Readonly, Code::Corrupt];
    assert!(
        codes.contains(&e.code) || e.category == Category::Network,
        "{what}: {e:?}"
    );
    assert!(
        !matches!(
            e.category,
            Category::Internal | Category::Usage | Category::Conflict
        ),
        "{what}: {e:?}"
    );
    assert!(e.message.len() > 10, "{what}: {e:?}");
}

/// Files may only grow up to a limit, which is tried at all points of every operation.
fn full_disk(world: &World) {
    // SAFETY: ignoring the signal makes the write fail instead, with "file too large".
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut failures = 0;
    for task in ["create", "write", "pull", "push", "checkpoint"] {
        for step in 0..16 {
            let limit = 300u64 << step;
            let name = format!("{task}-{limit}");
            let done = match task {
                "create" => {
                    fs::create_dir(world.folder.join(&name)).unwrap();
                    let limited = Limit::set(libc::RLIMIT_FSIZE, limit);
                    let opened = world.open(&name);
                    drop(limited);
                    let replica = world.open(&name).unwrap();
                    let rows = format!("INSERT INTO t(who) SELECT '{name}' FROM t WHERE id <= 50");
                    replica.sql(&rows);
                    world.settle(&name, &replica);
                    opened.map(drop)
                }
                _ => {
                    let replica = world.busy_replica(&name);
                    let limited = Limit::set(libc::RLIMIT_FSIZE, limit);
                    let done = replica.perform(task);
                    drop(limited);
                    if step % 2 == 0 {
                        drop(replica);
                        world.settle(&name, &world.open(&name).unwrap());
                    } else {
                        world.settle(&name, &replica);
                    }
                    done
                }
            };
            if let Err(e) = done {
                assert_clear(&name, &e);
                failures += 1;
            }
        }
    }
    assert!(failures > 20, "{failures}");
}

/// The limit that leaves `left` descriptors. It bounds their numbers, and there are gaps between those in use.
fn limit_for(left: u64) -> u64 {
    let listed = fs::read_dir("/proc/self/fd").unwrap();
    let number = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().to_str()?.parse().ok();
    let mut used: Vec<u64> = listed.filter_map(number).collect();
    // The listing itself had one.
    used.retain(|fd| Path::new(&format!("/proc/self/fd/{fd}")).exists());
    (0..).filter(|fd| !used.contains(fd)).nth(left as usize).unwrap()
}

/// Fewer and fewer descriptors are left, for every operation.
fn few_descriptors(world: &World) {
    let mut failures = 0;
    for task in ["create", "write", "pull", "push", "checkpoint"] {
        for left in 0..16 {
            let name = format!("{task}-{left}");
            let replica = (task != "create").then(|| world.busy_replica(&name));
            let done = match &replica {
                Some(replica) => {
                    let _limit = Limit::set(libc::RLIMIT_NOFILE, limit_for(left));
                    replica.perform(task)
                }
                None => {
                    fs::create_dir(world.folder.join(&name)).unwrap();
                    let _limit = Limit::set(libc::RLIMIT_NOFILE, limit_for(left));
                    world.open(&name).map(drop)
                }
            };
            if let Err(e) = done {
                assert_clear(&name, &e);
                failures += 1;
            }
            match replica {
                Some(replica) => world.settle(&name, &replica),
                None => world.open(&name).unwrap().perform("pull").unwrap(),
            }
        }
    }
    assert!(failures > 15, "{failures}");
}

/// Lets go of the rights that make permissions meaningless.
fn become_nobody(folder: &Path) {
    // SAFETY: plain system calls; other threads of this process only wait.
    unsafe {
        if libc::geteuid() == 0 {
            std::os::unix::fs::chown(folder, Some(65534), Some(65534)).unwrap();
            assert_eq!(libc::setresgid(65534, 65534, 65534), 0);
            assert_eq!(libc::setresuid(65534, 65534, 65534), 0);
        }
    }
}

fn missing_rights(world: &World) {
    become_nobody(&world.folder);
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();

    // A folder where nothing can be created.
    let folder = world.folder.join("new");
    fs::create_dir(&folder).unwrap();
    mode(&folder, 0o555);
    let e = world.open("new").map(drop).unwrap_err();
    assert_eq!(e.code, Code::Readonly, "{e:?}");
    assert!(e.message.contains("a.db-lock"), "{e}");
    mode(&folder, 0o755);
    world.open("new").unwrap();

    // A folder that has become read-only, with a replica in it.
    let replica = world.busy_replica("folder");
    let folder = world.folder.join("folder");
    mode(&folder, 0o555);
    let e = replica.perform("pull").unwrap_err();
    assert_eq!(e.code, Code::Readonly, "{e:?}");
    // The files are there and writable: local work goes on.
    replica.sql("UPDATE t SET x = 1 WHERE id = 1");
    mode(&folder, 0o755);
    world.settle("folder", &replica);

    // Files that may not be written, or not be read, one after the other.
    for (file, bits) in [
        ("a.db", 0o444),
        ("a.db", 0),
        ("a.db-wal-revert", 0o444),
        ("a.db-wal-revert", 0),
        ("a.db-lock", 0),
        ("a.db-info", 0o444),
        ("a.db-info", 0),
    ] {
        let name = format!("{file}-{bits:o}");
        let replica = world.busy_replica(&name);
        let path = world.folder.join(&name).join(file);
        drop(replica);
        mode(&path, bits);
        let done = world.open(&name).and_then(|replica| replica.perform("pull"));
        match &done {
            // A file is replaced, not written.
            Ok(()) => assert_eq!((file, bits), ("a.db-info", 0o444)),
            Err(e) => assert_clear(&name, e),
        }
        mode(&path, 0o644);
        world.settle(&name, &world.open(&name).unwrap());
    }
}

fn missing_folder(world: &World) {
    let replica = world.busy_replica("here");
    let (here, away) = (world.folder.join("here"), world.folder.join("away"));
    fs::rename(&here, &away).unwrap();
    for task in ["pull", "push", "checkpoint"] {
        assert_clear(task, &replica.perform(task).unwrap_err());
    }
    assert!(world.open("here").is_err());
    assert!(!here.join("a.db").exists());
    // Somebody may have made a folder of that name.
    let _ = fs::remove_dir_all(&here);
    fs::rename(&away, &here).unwrap();
    world.settle("here", &replica);
}

#[test]
fn configurations_that_cannot_work_are_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let good = options(&dir.path().join("a.db"), "http://127.0.0.1:1");
    let refused = |what: &str, opts: DatabaseSyncEngineOpts| {
        let e = DatabaseSyncEngine::new(opts).map(drop).unwrap_err();
        assert_eq!(
            (e.code, e.category),
            (Code::Misuse, Category::Usage),
            "{what}: {e:?}"
        );
        assert!(e.message.contains(what), "{what}: {e}");
    };
    let with = |change: &dyn Fn(&mut DatabaseSyncEngineOpts)| {
        let mut opts = good.clone();
        change(&mut opts);
        opts
    };
    refused("path", with(&|o| o.path = String::new()));
    refused("NUL", with(&|o| o.path = "a\0b".into()));
    refused("in-memory", with(&|o| o.path = ":memory:".into()));
    refused("client name", with(&|o| o.client_name = String::new()));
    refused("partial sync", with(&|o| o.partial_prefix_bytes = 1));
    refused("scheme", with(&|o| o.remote_url = Some("ftp://h".into())));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn extreme_numbers_work_or_are_refused() {
    let remote = support::Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    for (i, extreme) in [1u64, 4095, 4097, u64::from(u32::MAX) * 4096 + 1, u64::MAX]
        .into_iter()
        .enumerate()
    {
        let replica = support::Replica::open_with(DatabaseSyncEngineOpts {
            pull_bytes_threshold: extreme,
            push_operations_threshold: extreme,
            ..options(&dir.path().join(format!("{i}.db")), &remote.url)
        })
        .unwrap();
        replica.sql("INSERT INTO t(who) VALUES ('a'); INSERT INTO t(who) VALUES ('b')");
        replica.sync().unwrap();
        assert_eq!(replica.tables(), remote.tables());
    }
    let engine = DatabaseSyncEngine::new(options(&dir.path().join("t.db"), &remote.url)).unwrap();
    let longest = turso_sync::driver::DriverConfig {
        timeout: std::time::Duration::MAX,
        deadline: Some(std::time::Duration::MAX),
        ..Default::default()
    };
    let mut op = engine.create_db();
    let control = op.control().clone();
    turso_sync::driver::run(engine.io(), &longest, &control, || op.resume()).unwrap();
}

//! Processes that die at every fault point, and what is found afterwards.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::*;
use crate::pages::fault::{Action, POINTS, arm};

const CHILD: &str = "pages::tests::faults::child";
const LOCAL: &str = "UPDATE t SET v = 'local' WHERE id % 3 = 0; CREATE TABLE l AS SELECT id FROM t";

/// A replica with a history: local pages over old base images, some of them checkpointed.
fn history(folder: &Path) -> World {
    let mut world = World::new(folder, TABLE);
    world.checkpoint().unwrap();
    world.local(LOCAL);
    world.checkpoint().unwrap();
    world
        .remote
        .execute_batch("UPDATE t SET w = zeroblob(700) WHERE id % 4 = 0")
        .unwrap();
    world.pull().unwrap();
    world.local("DELETE FROM t WHERE id > 500");
    world
        .remote
        .execute_batch("DELETE FROM t WHERE id < 300; VACUUM; CREATE TABLE r (a)")
        .unwrap();
    world
}

/// Run by the other tests of this file in a process of its own: does `TURSO_SYNC_CHILD` (operation, fault point, folder) and dies there.
#[test]
fn child() {
    let Ok(order) = std::env::var("TURSO_SYNC_CHILD") else {
        return;
    };
    let mut parts = order.splitn(3, '|');
    let (operation, point) = (parts.next().unwrap(), parts.next().unwrap());
    let folder = PathBuf::from(parts.next().unwrap());
    let point = POINTS.iter().find(|p| **p == point).unwrap();
    let app = open_app(&folder);
    let state = recorded(&app).unwrap();
    let store = open_store(&folder);
    let reader = open_app(&folder);
    if operation == "partial checkpoint" {
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        app.execute_batch("CREATE TABLE behind_the_reader (x)").unwrap();
    }
    arm(Some((point, Action::Abort)));
    let result = match operation {
        "pull" | "refetch" => {
            let remote = Connection::open(folder.join("remote.db")).unwrap();
            let whole = operation == "refetch";
            let old = if whole { Vec::new() } else { synced_pages(&folder) };
            let changes = download(&folder.join("main.db-changes"), &old, &pages_of(&remote));
            let base = if whole {
                Base::Lost { epoch: state.epoch }
            } else {
                Base::Known(state)
            };
            let pending = [LOCAL.to_owned(), "DELETE FROM t WHERE id > 500".to_owned()];
            store
                .apply(base, &changes, NO_WAIT, |context| prepare(context, &pending))
                .map(drop)
        }
        _ => store.checkpoint(&state, NO_WAIT).map(drop),
    };
    result.unwrap();
}

fn synced_pages(folder: &Path) -> Vec<Page> {
    let bytes = std::fs::read(folder.join("synced")).unwrap();
    bytes
        .chunks_exact(PAGE_SIZE)
        .map(|page| page.try_into().unwrap())
        .collect()
}

/// Lets a child die at `point` of `operation`; false if it did not come there.
fn die(world: &mut World, operation: &str, point: &str) -> bool {
    std::fs::write(world.folder.join("synced"), world.synced.concat()).unwrap();
    world.app = Connection::open_in_memory().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--quiet"])
        .env(
            "TURSO_SYNC_CHILD",
            format!("{operation}|{point}|{}", world.folder.display()),
        )
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    world.reopen();
    let aborted = status.signal() == Some(libc::SIGABRT);
    assert!(aborted || status.success(), "{operation} {point}: {status}");
    aborted
}

#[test]
fn a_pull_that_dies_happened_or_not() {
    let mut died = Vec::new();
    for point in POINTS {
        let folder = folder();
        let mut world = history(folder.path());
        let before = world.state();
        let aborted = die(&mut world, "pull", point);
        let state = world.state();
        if state.epoch > before.epoch {
            assert!(!aborted || point == "apply:after-commit", "{point}");
            world.synced = pages_of(&world.remote);
        }
        world.check();
        world.checkpoint().unwrap();
        world.check();
        world.pull().unwrap();
        world.check();
        if aborted {
            died.push(point);
        }
    }
    let expected: Vec<_> = POINTS
        .into_iter()
        .filter(|p| p.starts_with("apply:") || *p == "revert:before-sync")
        .collect();
    assert_eq!(died, expected);
}

#[test]
fn a_refetch_that_dies_leaves_the_base_lost_or_new() {
    let mut died = 0;
    for point in POINTS {
        let folder = folder();
        let mut world = history(folder.path());
        let before = world.state();
        let aborted = die(&mut world, "refetch", point);
        died += usize::from(aborted);
        let state = world.state();
        if state.epoch > before.epoch {
            world.synced = pages_of(&world.remote);
            world.check();
        } else if let BaseHealth::Lost { reason, .. } = world.store.recover(&state).unwrap() {
            assert!(reason.contains("epoch"), "{reason}");
            world.refetch().unwrap();
        }
        world.check();
    }
    assert_eq!(died, 10);
}

#[test]
fn a_checkpoint_that_dies_loses_nothing() {
    for operation in ["checkpoint", "partial checkpoint"] {
        let mut died = Vec::new();
        for point in POINTS {
            let folder = folder();
            let mut world = history(folder.path());
            world.pull().unwrap();
            world.local("INSERT INTO t (v) VALUES ('new')");
            let aborted = die(&mut world, operation, point);
            if operation == "partial checkpoint" {
                world.pending.push("CREATE TABLE behind_the_reader (x)".into());
            }
            world.check();
            world.local("INSERT INTO t (v) VALUES ('newer')");
            world.check();
            world.checkpoint().unwrap();
            world.check();
            world
                .remote
                .execute_batch("CREATE TABLE IF NOT EXISTS z (a)")
                .unwrap();
            world.pull().unwrap();
            world.check();
            if aborted {
                died.push(point);
            }
        }
        let whole = operation == "checkpoint";
        let expected = POINTS.into_iter().filter(|p| {
            matches!(
                *p,
                "revert:before-sync"
                    | "checkpoint:mid-save"
                    | "checkpoint:after-save"
                    | "checkpoint:after-copy"
                    | "checkpoint:after-stamp"
            ) || whole
                && matches!(
                    *p,
                    "revert:before-rename" | "revert:after-rename" | "checkpoint:before-truncate"
                )
        });
        assert_eq!(died, expected.collect::<Vec<_>>(), "{operation}");
    }
}

#[test]
fn a_failed_operation_changes_nothing() {
    for point in POINTS {
        let folder = folder();
        let mut world = history(folder.path());
        arm(Some((point, Action::Fail)));
        let pulled = world.pull();
        let copied = world.checkpoint();
        arm(None);
        assert!(
            pulled.is_err() || copied.is_err() || point.contains("rename"),
            "{point}"
        );
        // The log grows before anybody looks at the base again.
        world.local("INSERT INTO t (v) VALUES ('after the failure')");
        world.check();
        world.pull().unwrap();
        world.checkpoint().unwrap();
        world.check();
    }
}

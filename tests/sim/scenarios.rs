//! What is going on when somebody dies.

use turso_sync::engine::{ConflictPolicy, Resolution};
use turso_sync::error::Result;

use super::check;
use super::disk::Survival;
use super::rig::{Point, Rig, Victim};
use super::rng::Rng;
use super::support::Tables;

pub struct Scenario {
    pub name: &'static str,
    pub victim: Victim,
    /// What was before.
    pub prepare: fn() -> Rig,
    /// What the victim dies in; repeated when it has risen.
    pub operation: fn(&mut Rig) -> Result<()>,
}

/// The remote of most scenarios.
fn shop() -> Rig {
    Rig::new(&format!(
        "{} {}
         INSERT INTO uniq VALUES (1, 'taken', 'x');
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12)
         INSERT INTO doc SELECT i, i, hex(zeroblob(1500)), 'base' FROM n",
        check::SCHEMA,
        check::accounts(1)
    ))
}

/// With a replica.
fn replica() -> Rig {
    let mut rig = shop();
    rig.create().unwrap();
    rig
}

/// With changes that were not pushed.
fn pending() -> Rig {
    let mut rig = replica();
    rig.transaction(
        "t1",
        &[
            "UPDATE doc SET a = 100 WHERE id < 4",
            "DELETE FROM doc WHERE id = 5",
        ],
    )
    .unwrap();
    rig.transaction(
        "t2",
        &["INSERT INTO doc VALUES (50, 1, hex(zeroblob(5000)), 'mine')"],
    )
    .unwrap();
    rig.transaction(
        "t3",
        &[
            "CREATE TABLE own (id INTEGER PRIMARY KEY, v)",
            "INSERT INTO own VALUES (1, 'x')",
        ],
    )
    .unwrap();
    rig
}

/// Others change some of the same rows.
fn others(rig: &mut Rig) {
    rig.remote(&[
        "UPDATE doc SET b = 'theirs' WHERE id BETWEEN 3 AND 8",
        "INSERT INTO doc VALUES (60, 2, 'new', 'theirs')",
        "INSERT INTO ledger VALUES ('s1a', 's1', 3), ('s1b', 's1', -3)",
        "INSERT INTO event VALUES ('s1')",
    ]);
}

fn pending_and_others() -> Rig {
    let mut rig = pending();
    others(&mut rig);
    rig
}

/// A pending transaction that does not fit what others have written.
fn conflict(policy: ConflictPolicy) -> Rig {
    let mut rig = shop();
    rig.opts.conflict_policy = policy;
    rig.create().unwrap();
    rig.transaction("t1", &["UPDATE doc SET a = 100 WHERE id < 4"])
        .unwrap();
    rig.transaction("u2", &["INSERT INTO uniq VALUES (2, 'wanted', 'u2')"])
        .unwrap();
    rig.transaction("t3", &["UPDATE doc SET a = 7 WHERE id = 9"])
        .unwrap();
    rig.promised.remove("u2");
    rig.remote(&["INSERT INTO uniq VALUES (3, 'wanted', 's')"]);
    others(&mut rig);
    rig
}

/// A conflict that a pull has stopped at.
fn blocked() -> Rig {
    let mut rig = conflict(ConflictPolicy::Stop);
    assert!(rig.pull().is_err());
    rig
}

fn set_aside() -> Rig {
    let mut rig = conflict(ConflictPolicy::SetAside);
    assert!(rig.pull().unwrap());
    rig
}

/// Pages come in numbers that make the revert file worth compacting.
fn many_pulled() -> Rig {
    let mut rig = pending();
    rig.remote(&["INSERT INTO doc VALUES (70, 1, hex(zeroblob(150000)), 'long')"]);
    rig.pull().unwrap();
    rig.remote(&["UPDATE doc SET b = 'x' || b WHERE id < 10"]);
    rig.pull().unwrap();
    rig
}

fn grown() -> Rig {
    let mut rig = pending();
    rig.remote(&[
        "INSERT INTO doc VALUES (70, 1, hex(zeroblob(30000)), 'long')",
        "CREATE TABLE more (x)",
        "INSERT INTO more VALUES (1), (2)",
    ]);
    rig
}

fn shrunk() -> Rig {
    let mut rig = grown();
    rig.pull().unwrap();
    rig.remote(&["DELETE FROM doc WHERE id = 70 OR id < 8", "DROP TABLE more"]);
    rig
}

/// A replica without a remote that anybody has seen.
fn offline() -> Rig {
    let mut rig =
        Rig::new("CREATE TABLE theirs (id INTEGER PRIMARY KEY, v); INSERT INTO theirs VALUES (1, 'x')");
    rig.opts.bootstrap_if_empty = false;
    rig
}

fn started_offline() -> Rig {
    let mut rig = offline();
    rig.create().unwrap();
    let schema = format!("BEGIN; {} {}; COMMIT", check::SCHEMA, check::accounts(1));
    rig.sql(&schema).unwrap();
    rig.transaction("t1", &[]).unwrap();
    rig
}

fn ignoring() -> Rig {
    let mut rig = shop();
    rig.opts.tables_ignore = vec!["cache".into()];
    rig.create().unwrap();
    rig.sql(
        "CREATE TABLE cache (k TEXT PRIMARY KEY, v); INSERT INTO cache VALUES ('a', hex(zeroblob(4000)))",
    )
    .unwrap();
    rig.transaction(
        "t1",
        &[
            "UPDATE doc SET a = 100 WHERE id < 4",
            "INSERT INTO cache VALUES ('b', 2)",
        ],
    )
    .unwrap();
    others(&mut rig);
    rig
}

/// Dies in the middle of `operation`, and loses the power.
fn dead_in(mut rig: Rig, share: (u64, u64), operation: fn(&mut Rig) -> Result<()>, count: u64) -> Rig {
    rig.arm(Victim::Replica, Some(Point::Call(count * share.0 / share.1)));
    let _ = operation(&mut rig);
    assert!(rig.dead(Victim::Replica));
    rig.rise(Victim::Replica, Some(Survival::Chance), &mut Rng::new(3, 0))
        .unwrap();
    rig
}

fn dead_in_pull() -> Rig {
    dead_in(pending_and_others(), (2, 3), pull, 60)
}

fn dead_in_checkpoint() -> Rig {
    dead_in(pending(), (1, 2), checkpoint, 30)
}

fn closed() -> Rig {
    let mut rig = pending();
    rig.close();
    rig
}

fn base_lost() -> Rig {
    let mut rig = pending_and_others();
    rig.close();
    std::fs::remove_file(format!("{}-wal-revert", rig.path.display())).unwrap();
    rig.base_may_be_lost = true;
    rig.create().unwrap();
    rig
}

fn with_reader(mut rig: Rig) -> Rig {
    let reader = super::support::plain(&rig.path);
    reader.execute_batch("BEGIN; SELECT count(*) FROM doc").unwrap();
    rig.reader = Some(reader);
    rig
}

fn open(rig: &mut Rig) -> Result<()> {
    match rig.engine {
        Some(_) => Ok(()),
        None => rig.create(),
    }
}

fn pull(rig: &mut Rig) -> Result<()> {
    rig.pull().map(drop)
}

fn checkpoint(rig: &mut Rig) -> Result<()> {
    rig.checkpoint()
}

fn push(rig: &mut Rig) -> Result<()> {
    rig.push()
}

/// Nobody hears that it succeeded; the second one asks.
fn push_unheard(rig: &mut Rig) -> Result<()> {
    rig.lose_pushes = 1;
    let _ = rig.push();
    rig.lose_pushes = 0;
    rig.transaction("t9", &["UPDATE doc SET a = 101 WHERE id < 4"])?;
    rig.push()
}

fn sync(rig: &mut Rig) -> Result<()> {
    rig.push()?;
    rig.pull().map(drop)
}

fn close(rig: &mut Rig) -> Result<()> {
    rig.close();
    Ok(())
}

fn commits(rig: &mut Rig) -> Result<()> {
    rig.transaction("t5", &["UPDATE doc SET b = 'five' WHERE id < 9"])?;
    rig.transaction(
        "t6",
        &[
            "CREATE TABLE IF NOT EXISTS six (x)",
            "CREATE INDEX IF NOT EXISTS six_x ON six (x)",
        ],
    )?;
    rig.transaction(
        "t7",
        &["INSERT OR REPLACE INTO doc VALUES (80, 1, hex(zeroblob(9000)), 'mine')"],
    )
}

fn resolve_by(rig: &mut Rig, resolution: Resolution) -> Result<()> {
    rig.resolve(resolution)
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let replica_dies = |name, prepare, operation| Scenario {
        name,
        victim: Victim::Replica,
        prepare,
        operation,
    };
    let server_dies = |name, prepare, operation| Scenario {
        name,
        victim: Victim::Server,
        prepare,
        operation,
    };
    let mut scenarios = Vec::new();
    let mut add = |name, prepare: fn() -> Rig, operation: fn(&mut Rig) -> Result<()>| {
        scenarios.push(replica_dies(name, prepare, operation));
    };
    add("create", shop, open);
    add(
        "create in chunks",
        || {
            let mut rig = shop();
            rig.opts.pull_bytes_threshold = 30_000;
            rig
        },
        open,
    );
    add("create offline", offline, open);
    add("first pull after an offline start", started_offline, pull);
    add("first push after an offline start", started_offline, push);
    add("open", closed, open);
    add("open after a death in a pull", dead_in_pull, open);
    add("open after a death in a checkpoint", dead_in_checkpoint, open);
    add("commit", replica, commits);
    add("push", pending, push);
    add("push over others", pending_and_others, push);
    add(
        "push in several requests",
        || {
            let mut rig = pending();
            rig.close();
            rig.opts.push_operations_threshold = 1;
            rig.create().unwrap();
            rig
        },
        push,
    );
    add("push without an answer", pending, push_unheard);
    add("sync", pending_and_others, sync);
    add(
        "pull without pending changes",
        || {
            let mut rig = replica();
            others(&mut rig);
            rig
        },
        pull,
    );
    add("pull", pending_and_others, pull);
    add("pull a second time", many_pulled, |rig| {
        rig.remote(&["UPDATE doc SET c = 'again' WHERE id < 4"]);
        pull(rig)
    });
    add("pull that grows", grown, pull);
    add("pull that shrinks", shrunk, pull);
    add("pull with a reader", || with_reader(pending_and_others()), pull);
    add("pull with ignored tables", ignoring, pull);
    add("pull over a lost base", base_lost, pull);
    add(
        "pull that sets aside",
        || conflict(ConflictPolicy::SetAside),
        pull,
    );
    add(
        "pull that overwrites",
        || conflict(ConflictPolicy::Overwrite),
        pull,
    );
    add(
        "push that sets aside",
        || conflict(ConflictPolicy::SetAside),
        push,
    );
    add("resolve: set aside", blocked, |rig| {
        resolve_by(rig, Resolution::SetAside)
    });
    add("resolve: overwrite", blocked, |rig| {
        resolve_by(rig, Resolution::Overwrite)
    });
    add("resolve: drop", blocked, |rig| resolve_by(rig, Resolution::Drop));
    add("resolve: restore", set_aside, |rig| {
        resolve_by(rig, Resolution::Overwrite)
    });
    add("checkpoint", pending, checkpoint);
    add("checkpoint after a pull", many_pulled, checkpoint);
    add("checkpoint with a reader", || with_reader(pending()), checkpoint);
    add("close", pending, close);
    add("close after a pull", many_pulled, close);
    scenarios.extend([
        server_dies("push", pending, push),
        server_dies("push over others", pending_and_others, push),
        server_dies("pull", pending_and_others, pull),
        server_dies("the server's checkpoint", pending_and_others, Rig::keep_house),
    ]);
    scenarios
}

/// What is different, for people.
pub fn difference(a: &Tables, b: &Tables) -> String {
    let mut out = String::new();
    for (name, rows) in a {
        let theirs = b.get(name).cloned().unwrap_or_default();
        for row in rows.iter().filter(|row| !theirs.contains(row)) {
            out += &format!("\n  {name} - {:.300}", format!("{row:?}"));
        }
        for row in theirs.iter().filter(|row| !rows.contains(row)) {
            out += &format!("\n  {name} + {:.300}", format!("{row:?}"));
        }
    }
    for name in b.keys().filter(|name| !a.contains_key(*name)) {
        out += &format!("\n  + {name}");
    }
    out
}

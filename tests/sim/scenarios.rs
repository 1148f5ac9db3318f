//! What is going on when somebody dies.

use turso_sync::engine::{ConflictPolicy, ForeignPolicy, Resolution};
use turso_sync::error::Result;

use super::check;
use super::copies::Files;
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

/// Others have not changed the size of the database.
fn pending_and_small() -> Rig {
    let mut rig = pending();
    rig.remote(&["UPDATE doc SET c = 'same' WHERE id < 4"]);
    rig
}

fn pending_and_others() -> Rig {
    let mut rig = pending();
    others(&mut rig);
    rig
}

/// What others have written comes page by page.
fn in_parts() -> Rig {
    let mut rig = pending();
    rig.close();
    rig.opts.pull_bytes_threshold = 4096;
    rig.create().unwrap();
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

/// Nothing but a transaction that the remote will refuse.
fn refused() -> Rig {
    let mut rig = shop();
    rig.opts.conflict_policy = ConflictPolicy::SetAside;
    rig.create().unwrap();
    rig.transaction("u2", &["INSERT INTO uniq VALUES (2, 'wanted', 'u2')"])
        .unwrap();
    rig.promised.remove("u2");
    rig.remote(&["INSERT INTO uniq VALUES (3, 'wanted', 's')"]);
    rig
}

/// The same on a server that leaves the transaction open.
fn refused_halfway() -> Rig {
    let mut rig = refused();
    rig.keep_transactions();
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

/// An ordinary database lies where the replica is to be.
fn ordinary() -> Rig {
    let mut rig = offline();
    rig.opts.adopt_database = true;
    let sql = format!(
        "BEGIN; {} {} INSERT INTO event VALUES ('t1');
         INSERT INTO ledger VALUES ('t1a', 't1', 5), ('t1b', 't1', -5);
         INSERT INTO doc VALUES (1, 2, hex(zeroblob(9000)), 'mine'), (2, 3, 'x', 'mine'); COMMIT",
        check::SCHEMA,
        check::accounts(1)
    );
    let conn = rusqlite::Connection::open(&rig.path).unwrap();
    conn.execute_batch(&sql).unwrap();
    drop(conn);
    // SQLite does not make the name of a new database durable.
    let folder = rig.path.parent().unwrap();
    std::fs::File::open(folder).unwrap().sync_all().unwrap();
    rig
}

fn ignoring() -> Rig {
    let mut rig = shop();
    rig.opts.tables_ignore = vec!["shelf".into()];
    rig.create().unwrap();
    rig.sql(
        "CREATE TABLE shelf (k TEXT PRIMARY KEY, v); INSERT INTO shelf VALUES ('a', hex(zeroblob(4000)))",
    )
    .unwrap();
    rig.transaction(
        "t1",
        &[
            "UPDATE doc SET a = 100 WHERE id < 4",
            "INSERT INTO shelf VALUES ('b', 2)",
        ],
    )
    .unwrap();
    others(&mut rig);
    rig
}

/// Dies in call number `call` of `operation`.
fn dead_in(mut rig: Rig, call: u64, operation: fn(&mut Rig) -> Result<()>, loss: Option<Survival>) -> Rig {
    rig.arm(Victim::Replica, Some(Point::Call(call)));
    let _ = operation(&mut rig);
    assert!(rig.dead(Victim::Replica));
    rig.rise(Victim::Replica, loss, &mut Rng::new(3, 0)).unwrap();
    rig
}

fn dead_in_pull() -> Rig {
    dead_in(pending_and_others(), 40, pull, Some(Survival::Chance))
}

fn dead_in_checkpoint() -> Rig {
    dead_in(pending(), 15, checkpoint, Some(Survival::Chance))
}

/// The process died while it copied pages into the main file, which nobody has synced since.
fn killed_in_checkpoint() -> Rig {
    let mut rig = dead_in(pending(), 40, checkpoint, None);
    rig.create().unwrap();
    rig
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

const STRAY: &str = "BEGIN; INSERT INTO event VALUES ('f1'); INSERT INTO stray VALUES ('f1', 1);
     UPDATE doc SET c = 'foreign' WHERE id IN (2, 11); CREATE TABLE foreign1 (x); COMMIT";

/// Another program has written into the log.
fn visited() -> Rig {
    let mut rig = pending();
    rig.foreign(STRAY, true);
    rig
}

/// The same, and it has moved the log, so that the base is lost.
fn visited_and_moved() -> Rig {
    let mut rig = closed();
    rig.foreign(STRAY, false);
    rig.create().unwrap();
    rig
}

/// An old state was put back, which has not heard of `t9`, and has gone on.
fn old_state(in_place: bool) -> Rig {
    let mut rig = closed();
    let files = Files::of(&rig.path);
    rig.create().unwrap();
    rig.transaction("t9", &["UPDATE doc SET a = 9 WHERE id = 9"])
        .unwrap();
    rig.push().unwrap();
    rig.close();
    rig.put_back(&files, in_place);
    rig.promised.remove("t9");
    rig.create().unwrap();
    rig.transaction("t10", &["UPDATE doc SET b = 'ten' WHERE id = 10"])
        .unwrap();
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

/// As over a lost base: who dies in it may have lost it, and fetches it again.
fn accept(rig: &mut Rig) -> Result<()> {
    rig.base_may_be_lost = true;
    rig.accept()
}

fn checkpoint(rig: &mut Rig) -> Result<()> {
    rig.checkpoint()
}

fn checkpoint_and_commit(rig: &mut Rig) -> Result<()> {
    rig.checkpoint()?;
    rig.transaction("t8", &["UPDATE doc SET c = 'eight' WHERE id < 3"])
}

fn checkpoint_and_pull(rig: &mut Rig) -> Result<()> {
    rig.checkpoint()?;
    rig.remote(&["UPDATE doc SET c = 'again' WHERE id < 4"]);
    pull(rig)
}

fn push(rig: &mut Rig) -> Result<()> {
    rig.push()
}

/// The host does not notice that the first answer is cut short.
fn pull_cut(rig: &mut Rig) -> Result<()> {
    rig.cut_pulls = 1;
    let _ = rig.pull();
    rig.cut_pulls = 0;
    pull(rig)
}

/// The first one breaks off, and the remote goes on before the second one.
fn pull_interrupted(rig: &mut Rig) -> Result<()> {
    rig.break_pull_at = 3;
    let _ = rig.pull();
    rig.break_pull_at = 0;
    rig.remote(&["UPDATE doc SET c = 'again' WHERE id < 4 OR id = 12"]);
    pull(rig)
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
    add("create from an ordinary database", ordinary, open);
    add("first pull after an offline start", started_offline, pull);
    add("first push after an offline start", started_offline, push);
    add("open", closed, open);
    add("open after a death in a pull", dead_in_pull, open);
    add("open after a death in a checkpoint", dead_in_checkpoint, open);
    add("push after a death in a checkpoint", killed_in_checkpoint, push);
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
    add(
        "pull of which only the header arrives",
        pending_and_small,
        pull_cut,
    );
    add("pull that grows", grown, pull);
    add("pull that shrinks", shrunk, pull);
    add("pull with a reader", || with_reader(pending_and_others()), pull);
    add("pull with ignored tables", ignoring, pull);
    add("pull over a lost base", base_lost, pull);
    add("pull in parts", in_parts, pull);
    add("pull in parts that is interrupted", in_parts, pull_interrupted);
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
    add("push that is refused", refused, push);
    add("push that is refused halfway", refused_halfway, push);
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
    add("accept the remote", pending_and_others, accept);
    add("checkpoint", pending, checkpoint);
    add("checkpoint after a pull", many_pulled, checkpoint);
    add("checkpoint with a reader", || with_reader(pending()), checkpoint);
    add(
        "checkpoint with a reader and commit",
        || with_reader(pending()),
        checkpoint_and_commit,
    );
    add("checkpoint and pull", many_pulled, checkpoint_and_pull);
    for (name, prepare) in [
        ("adopt", visited as fn() -> Rig),
        ("adopt what was moved", visited_and_moved),
    ] {
        add(name, prepare, |rig| rig.settle_foreign(ForeignPolicy::Adopt));
    }
    for (name, prepare) in [
        ("discard", visited as fn() -> Rig),
        ("discard what was moved", visited_and_moved),
    ] {
        add(name, prepare, |rig| rig.settle_foreign(ForeignPolicy::Discard));
    }
    add("push of an old state", || old_state(true), push);
    add("pull of an old state in new files", || old_state(false), pull);
    add("close", pending, close);
    add("close after a pull", many_pulled, close);
    scenarios.extend([
        server_dies("push", pending, push),
        server_dies("push over others", pending_and_others, push),
        server_dies("pull", pending_and_others, pull),
        server_dies("pull in parts", in_parts, pull),
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

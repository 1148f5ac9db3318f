//! Conflicts beside everything else: three replicas with changing policies and dialects, resolutions, schema changes, another
//! program's writes, a local table, parted wait and apply, lost and repeated requests. Every transaction ends up whole, in
//! exactly one place: on the remote, or set aside by one replica.
//!
//! `SEED=7 RUNS=1 STORY=1` tells one run; `STEPS` sets its length.
#![cfg(feature = "server")]

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use support::colliding::{COLLIDING, Chance};
use support::*;
use turso_sync::engine::{
    ConflictPolicy, ConflictState, DbChangesStatus, ForeignPolicy, ProtocolVersion, Resolution,
};
use turso_sync::error::{Category, Code, Error};
use turso_sync::io::Operation;

/// Each transaction adds a row to `kmark`, where a doubled one shows, and two to `mark`, where a torn one does.
const MARKS: &str = "CREATE TABLE mark (m INTEGER PRIMARY KEY, half); CREATE TABLE kmark (m);";

/// Marks of another program's transactions are that much larger.
const FOREIGN: i64 = 100_000;

fn schema_change(chance: &mut Chance) -> String {
    let n = chance.below(3);
    let t = chance.of(&["k", "c", "bag"]);
    match chance.below(14) {
        0 => format!("CREATE INDEX i{n} ON k(v)"),
        1 => format!("CREATE INDEX i{n} ON c(v)"),
        2 => format!("DROP INDEX i{n}"),
        3 => format!(
            "CREATE TABLE IF NOT EXISTS t{n} (id INTEGER PRIMARY KEY, x); REPLACE INTO t{n}(id,x) VALUES ({n}, 1)"
        ),
        4 => format!("DROP TABLE t{n}"),
        5 => format!("CREATE VIEW i{n} AS SELECT {} AS x", chance.below(2)),
        6 => format!("DROP VIEW i{n}"),
        7 => format!("ALTER TABLE {t} ADD COLUMN z{n} DEFAULT {n}"),
        8 => format!("ALTER TABLE {t} RENAME COLUMN z{n} TO z{}", (n + 1) % 3),
        9 => format!("ALTER TABLE {t} DROP COLUMN z{n}"),
        10 => format!("ALTER TABLE t{n} RENAME TO t{}", (n + 1) % 3),
        11 => format!("UPDATE {t} SET z{n} = {}", chance.below(9)),
        12 => format!("INSERT INTO t{n}(id, x) VALUES ({}, 2)", chance.below(9)),
        _ => format!("UPDATE t{n} SET x = x + 1"),
    }
}

/// The marks of the transactions that `sql` finds in the database.
fn marks(path: &Path, sql: &str) -> Vec<i64> {
    let conn = plain(path);
    let mut statement = conn.prepare(sql).unwrap();
    let marks = statement.query_map([], |row| row.get(0)).unwrap();
    marks.map(Result::unwrap).collect()
}

fn present(path: &Path) -> Vec<i64> {
    marks(path, "SELECT m FROM kmark ORDER BY m")
}

fn set_aside(path: &Path) -> Vec<i64> {
    marks(
        path,
        "SELECT json_extract(new, '$.m') FROM turso_sync_conflicts
         WHERE state = 'set aside' AND table_name = 'kmark' AND operation = 'insert'",
    )
}

fn torn(path: &Path) -> Vec<i64> {
    marks(
        path,
        "SELECT m / 2 FROM mark GROUP BY m / 2 HAVING count(*) <> 2
         UNION SELECT m FROM kmark WHERE m NOT IN (SELECT m / 2 FROM mark)
         UNION SELECT m / 2 FROM mark WHERE m / 2 NOT IN (SELECT m FROM kmark)",
    )
}

/// The schema without what is local.
fn schema(path: &Path) -> Vec<String> {
    let conn = plain(path);
    let sql = "SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema
        WHERE tbl_name NOT LIKE 'turso!_%' ESCAPE '!' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' AND tbl_name <> 'draft' ORDER BY 1";
    let mut statement = conn.prepare(sql).unwrap();
    let objects = statement.query_map([], |row| row.get(0)).unwrap();
    objects.map(Result::unwrap).collect()
}

/// What may go wrong without anything being wrong.
fn is_allowed(e: &Error) -> bool {
    matches!(
        e.category,
        Category::Conflict | Category::Network | Category::Foreign
    ) || matches!(e.code, Code::Busy | Code::BusySnapshot)
}

struct Device {
    path: PathBuf,
    replica: Option<Replica>,
    /// What a wait has returned.
    waited: Option<DbChangesStatus>,
    foreign: ForeignPolicy,
    /// Rows that its local table must have.
    drafts: BTreeSet<i64>,
}

struct World {
    chance: Chance,
    remote: Remote,
    devices: Vec<Device>,
    /// Marks of the transactions that must be somewhere.
    alive: BTreeSet<i64>,
    step: i64,
    lossy: bool,
    enforces: bool,
    story: bool,
    _folder: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Push,
    Pull,
    Sync,
    Checkpoint,
    WaitOrApply,
}

impl World {
    fn new(seed: u64) -> World {
        let folder = tempfile::tempdir().unwrap();
        let device = |i| Device {
            path: folder.path().join(format!("{i}.db")),
            replica: None,
            waited: None,
            foreign: ForeignPolicy::Stop,
            drafts: BTreeSet::new(),
        };
        let mut world = World {
            chance: Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            remote: Remote::start(&format!("{COLLIDING} {MARKS}")),
            devices: (0..3).map(device).collect(),
            alive: BTreeSet::new(),
            step: 0,
            lossy: seed % 2 == 1,
            enforces: seed.is_multiple_of(3),
            story: std::env::var_os("STORY").is_some(),
            _folder: folder,
        };
        for i in 0..3 {
            world.open(i);
            world
                .replica(i)
                .sql("CREATE TABLE draft (id INTEGER PRIMARY KEY, x)");
        }
        world
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.story {
            println!("{} {}", self.step, what());
        }
    }

    fn replica(&self, i: usize) -> &Replica {
        self.devices[i].replica.as_ref().unwrap()
    }

    /// Opens a replica anew, with other options.
    fn open(&mut self, i: usize) {
        self.devices[i].waited = None;
        self.devices[i].replica = None;
        let mut opts = options(&self.devices[i].path, &self.remote.url);
        opts.conflict_policy = self.chance.of(&[
            ConflictPolicy::Stop,
            ConflictPolicy::Overwrite,
            ConflictPolicy::SetAside,
        ]);
        opts.foreign_policy =
            self.chance
                .of(&[ForeignPolicy::Stop, ForeignPolicy::Adopt, ForeignPolicy::Discard]);
        opts.push_operations_threshold = self.chance.of(&[0, 1, 4]);
        opts.pull_bytes_threshold = self.chance.of(&[0, 4096]);
        opts.tables_ignore = vec!["draft".into()];
        opts.protocol_version_hint = self
            .chance
            .of(&[ProtocolVersion::Compatible, ProtocolVersion::Direct]);
        self.tell(|| {
            format!(
                "{i} opens: conflicts {:?}, foreign {:?}, threshold {}, {:?}",
                opts.conflict_policy,
                opts.foreign_policy,
                opts.push_operations_threshold,
                opts.protocol_version_hint
            )
        });
        self.devices[i].foreign = opts.foreign_policy;
        self.devices[i].replica = Some(Replica::open_with(opts).unwrap());
        if self.enforces {
            self.replica(i).sql("PRAGMA foreign_keys = ON");
        }
    }

    fn drive<T>(&mut self, i: usize, op: Operation<T>) -> Result<T, Error> {
        let engine = self.replica(i).engine.clone();
        let lossy = self.lossy;
        let chance = RefCell::new(&mut self.chance);
        drive(&engine, op, &mut |http, _| {
            let fate = if lossy { chance.borrow_mut().below(25) } else { 25 };
            match fate {
                0 => Err("lost request".into()),
                1 => forward(http).and(Err("lost answer".into())),
                2 => forward(http).and_then(|_| forward(http)),
                _ => forward(http),
            }
        })
    }

    fn operate(&mut self, i: usize, op: Op) -> Result<(), Error> {
        let engine = self.replica(i).engine.clone();
        let result = match (op, self.devices[i].waited.take()) {
            (Op::WaitOrApply, Some(changes)) => self.drive(i, engine.apply_changes_from_remote(changes)),
            (Op::WaitOrApply, None) => {
                let changes = self.drive(i, engine.wait_changes_from_remote());
                changes.map(|changes| self.devices[i].waited = changes)
            }
            (op, waited) => {
                self.devices[i].waited = waited;
                match op {
                    Op::Push => self.drive(i, engine.push_changes_to_remote()),
                    Op::Pull => self.drive(i, engine.pull_changes_from_remote()).map(drop),
                    Op::Sync => self.drive(i, engine.sync()).map(drop),
                    _ => self.drive(i, engine.checkpoint()),
                }
            }
        };
        self.tell(|| format!("{i} {op:?}: {:?}", result.as_ref().map_err(ToString::to_string)));
        if let Err(e) = &result {
            assert!(is_allowed(e), "{op:?}: {e:?}");
        }
        result
    }

    /// Everything that a device still has, in its tables or set aside.
    fn kept(&self, i: usize) -> BTreeSet<i64> {
        let path = &self.devices[i].path;
        present(path).into_iter().chain(set_aside(path)).collect()
    }

    /// Resolves one of the conflicts that are `blocked`, or of all.
    fn resolve(&mut self, i: usize, blocked: bool, ways: &[Resolution]) {
        let mut conflicts = self.replica(i).engine.conflicts().unwrap();
        conflicts.retain(|c| !blocked || c.state != ConflictState::SetAside);
        if conflicts.is_empty() {
            return;
        }
        let conflict = &conflicts[self.chance.below(conflicts.len() as u64) as usize];
        let way = self.chance.of(ways);
        let before = self.kept(i);
        let engine = self.replica(i).engine.clone();
        let result = self.drive(i, engine.resolve_conflict(conflict.txn_id, way));
        self.tell(|| {
            let result = result.as_ref().map_err(ToString::to_string);
            format!(
                "{i} resolves {} ({:?}): {way:?}: {result:?}",
                conflict.txn_id, conflict.state
            )
        });
        if let Err(e) = &result {
            assert!(is_allowed(e), "{way:?}: {e:?}");
        }
        if way == Resolution::Drop {
            for gone in before.difference(&self.kept(i)) {
                self.alive.remove(gone);
            }
        }
    }

    /// A transaction with the marks of `m`.
    fn transaction(m: i64, changes: &str) -> String {
        format!(
            "BEGIN; INSERT INTO mark VALUES ({}, 'begin'); {changes}; INSERT INTO mark VALUES ({}, 'end'); COMMIT",
            m * 2,
            m * 2 + 1
        )
    }

    fn write(&mut self, i: usize) {
        let m = self.step;
        let mut changes: Vec<String> = Vec::new();
        for _ in 0..=self.chance.below(4) {
            changes.push(match self.chance.below(5) {
                0 => schema_change(&mut self.chance),
                _ => self.chance.row_change(),
            });
        }
        let at = self.chance.below(changes.len() as u64 + 1) as usize;
        changes.insert(at, format!("INSERT INTO kmark VALUES ({m})"));
        let changes = format!("INSERT INTO draft VALUES ({m}, 'x'); {}", changes.join("; "));
        let written = self
            .replica(i)
            .conn
            .execute_batch(&World::transaction(m, &changes));
        self.tell(|| {
            let written = written.as_ref().map_err(ToString::to_string);
            format!("{i} writes {changes}: {written:?}")
        });
        match written {
            Ok(()) => {
                self.alive.insert(m);
                self.devices[i].drafts.insert(m);
            }
            Err(_) => self.replica(i).sql("ROLLBACK"),
        }
    }

    /// Another program writes, perhaps the app writes behind it, and somebody decides.
    fn write_as_another_program(&mut self, i: usize) {
        let m = FOREIGN + self.step;
        let changes = format!("INSERT INTO kmark VALUES ({m}); {}", self.chance.row_change());
        let conn = plain(&self.devices[i].path);
        let written = conn.execute_batch(&World::transaction(m, &changes));
        drop(conn);
        self.tell(|| format!("{i} another program writes {changes}: {written:?}"));
        if written.is_err() {
            return;
        }
        let policy = match self.devices[i].foreign {
            ForeignPolicy::Stop => self.chance.of(&[ForeignPolicy::Adopt, ForeignPolicy::Discard]),
            policy => policy,
        };
        if policy == ForeignPolicy::Adopt {
            self.alive.insert(m);
        }
        if self.chance.below(3) == 0 {
            self.write(i);
        }
        let engine = self.replica(i).engine.clone();
        let settled = self.drive(i, engine.settle_foreign_changes(policy));
        self.tell(|| format!("{i} {policy:?}: {settled:?}"));
        settled.unwrap();
    }

    fn act(&mut self) {
        use Resolution::{Drop, Overwrite, Retry, SetAside};
        let i = self.chance.below(3) as usize;
        match self.chance.below(24) {
            0..10 => self.write(i),
            10..20 => {
                let op = self
                    .chance
                    .of(&[Op::Push, Op::Pull, Op::Sync, Op::Checkpoint, Op::WaitOrApply]);
                let _ = self.operate(i, op);
            }
            20 | 21 => self.resolve(i, false, &[Retry, Overwrite, SetAside, Drop]),
            22 => self.write_as_another_program(i),
            _ => self.open(i),
        }
        assert!(torn(&self.remote.path).is_empty(), "torn on the remote");
        for device in &self.devices {
            let drafts = marks(&device.path, "SELECT id FROM draft ORDER BY id");
            assert!(drafts.iter().eq(&device.drafts), "local table {drafts:?}");
        }
    }

    /// Syncs and resolves until nobody has anything left to say.
    fn settle(&mut self) {
        use Resolution::{Overwrite, Retry, SetAside};
        const MOST: i64 = 60;
        self.lossy = false;
        for device in &mut self.devices {
            device.waited = None;
        }
        let last = self.step;
        for round in 0.. {
            assert!(round < MOST, "no end");
            self.step = last + 1 + round;
            let mut busy = round < 6;
            for i in 0..3 {
                if self.operate(i, Op::Sync).is_err() {
                    busy = true;
                    self.resolve(i, true, &[Retry, Overwrite, SetAside]);
                }
                if round < 6 {
                    self.resolve(i, false, &[Retry, Overwrite]);
                }
                busy |= self.replica(i).pending() > 0;
            }
            if !busy {
                break;
            }
        }
        for i in [0, 1, 2, 0, 1, 2] {
            self.operate(i, Op::Pull).unwrap();
        }
    }

    fn check(&self) {
        assert!(torn(&self.remote.path).is_empty(), "torn on the remote");
        let mut found: BTreeMap<i64, usize> = BTreeMap::new();
        let aside = self.devices.iter().flat_map(|device| set_aside(&device.path));
        for mark in present(&self.remote.path).into_iter().chain(aside) {
            *found.entry(mark).or_default() += 1;
        }
        let once: BTreeMap<i64, usize> = self.alive.iter().map(|&mark| (mark, 1)).collect();
        assert_eq!(found, once, "lost or doubled");
        for (i, device) in self.devices.iter().enumerate() {
            let mut tables = self.replica(i).tables();
            tables.remove("draft");
            assert_eq!(tables, self.remote.tables(), "device {i}");
            assert_eq!(schema(&device.path), schema(&self.remote.path), "device {i}");
        }
    }
}

#[test]
fn every_transaction_ends_up_whole_in_one_place() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let first = number("SEED", 1);
    for seed in first..first + number("RUNS", 15) {
        println!("SEED={seed}");
        let mut world = World::new(seed);
        for step in 1..=number("STEPS", 60) {
            world.step = step as i64;
            world.act();
        }
        world.settle();
        world.check();
    }
}

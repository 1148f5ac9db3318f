//! Replicas with every policy, under random changes that often collide: everybody ends up with the same, and no
//! transaction is ever torn.
#![cfg(feature = "server")]

mod support;

use support::colliding::{COLLIDING, Chance};
use support::*;
use turso_sync::engine::{ConflictPolicy, Resolution};
use turso_sync::error::Category;

const MARKS: &str = "CREATE TABLE mark (id INTEGER PRIMARY KEY, transact, half);";

fn schema_change(chance: &mut Chance) -> String {
    let n = chance.below(3);
    match chance.below(6) {
        0 => format!("CREATE INDEX IF NOT EXISTS i{n} ON k(v)"),
        1 => format!("CREATE INDEX IF NOT EXISTS i{n} ON c(v)"),
        2 => format!("DROP INDEX IF EXISTS i{n}"),
        3 => format!(
            "CREATE TABLE IF NOT EXISTS t{n} (id INTEGER PRIMARY KEY, x); REPLACE INTO t{n} VALUES ({n}, 1)"
        ),
        4 => format!("DROP TABLE IF EXISTS t{n}"),
        _ => format!(
            "CREATE VIEW IF NOT EXISTS i{n} AS SELECT {} AS x",
            chance.below(2)
        ),
    }
}

fn once(seed: u64) {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let remote = Remote::start(&format!("{COLLIDING} {MARKS}"));
    let dir = tempfile::tempdir().unwrap();
    let policies = [
        ConflictPolicy::Stop,
        ConflictPolicy::Overwrite,
        ConflictPolicy::SetAside,
    ];
    let mut replicas: Vec<Replica> = Vec::new();
    for i in 0..3 {
        let mut opts = options(&dir.path().join(format!("{i}.db")), &remote.url);
        opts.conflict_policy = policies[(i + seed as usize) % 3];
        replicas.push(Replica::open_with(opts).unwrap());
    }
    for step in 0..40 {
        let replica = &replicas[chance.below(3) as usize];
        match chance.below(10) {
            0..6 => {
                let mark = |half| {
                    format!(
                        "INSERT INTO mark VALUES ({}, {step}, '{half}')",
                        step * 2 + usize::from(half == "end")
                    )
                };
                let changes: Vec<String> = (0..=chance.below(4))
                    .map(|_| match chance.below(8) {
                        0 => schema_change(&mut chance),
                        _ => chance.row_change(),
                    })
                    .collect();
                let sql = format!(
                    "BEGIN; {}; {}; {}; COMMIT",
                    mark("begin"),
                    changes.join("; "),
                    mark("end")
                );
                if replica.conn.execute_batch(&sql).is_err() {
                    replica.sql("ROLLBACK");
                }
            }
            6 => drop(replica.push()),
            7 => drop(replica.pull()),
            _ => sync(replica, &mut chance),
        }
        whole(&remote.path);
    }
    for round in 0.. {
        assert!(round < 60, "no end");
        replicas.iter().for_each(|r| sync(r, &mut chance));
        if replicas.iter().all(|r| r.pending() == 0) {
            break;
        }
    }
    for replica in &replicas {
        replica.pull().unwrap();
    }
    for replica in &replicas {
        replica.pull().unwrap();
        assert_eq!(replica.tables(), remote.tables());
        whole(&replica.path);
    }
}

/// Syncs; a conflict that stops it is resolved in some way.
fn sync(replica: &Replica, chance: &mut Chance) {
    let Err(e) = replica.sync() else { return };
    assert_eq!(e.category, Category::Conflict, "{e:?}");
    let conflicts = replica.engine.conflicts().unwrap();
    let ways = [
        Resolution::Retry,
        Resolution::Overwrite,
        Resolution::SetAside,
        Resolution::Drop,
    ];
    let way = ways[chance.below(4) as usize];
    let blocked = conflicts
        .iter()
        .find(|c| c.state != turso_sync::engine::ConflictState::SetAside);
    let number = blocked.unwrap_or_else(|| panic!("{e:?} {conflicts:#?}")).txn_id;
    if let Err(e) = run(&replica.engine, replica.engine.resolve_conflict(number, way)) {
        assert!(e.category == Category::Conflict, "{way:?} {e:?} {conflicts:#?}");
    }
}

/// A transaction is there with both its marks or not at all.
fn whole(path: &std::path::Path) {
    let torn = "SELECT count(*) FROM (SELECT transact FROM mark GROUP BY transact HAVING count(*) <> 2)";
    assert_eq!(
        plain(path)
            .query_row(torn, [], |row| row.get::<_, i64>(0))
            .unwrap(),
        0
    );
}

#[test]
fn every_policy_converges_and_tears_no_transaction() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let first: u64 = number("SEED").unwrap_or(1);
    for seed in first..first + number("RUNS").unwrap_or(20) {
        println!("SEED={seed} RUNS=1");
        once(seed);
    }
}

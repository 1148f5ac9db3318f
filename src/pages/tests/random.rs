//! Random histories of a remote, a replica, its readers, checkpoints, reopenings and failures.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::pages::fault::{Action, POINTS, arm};

#[derive(Debug, Clone)]
enum Op {
    Remote(Sql),
    Local(Sql),
    LocalVacuum,
    RemoteVacuum,
    RolledBack,
    Push,
    Pull,
    Refetch,
    Checkpoint,
    Reopen,
    Reader(usize),
    FailPull(usize),
    FailCheckpoint(usize),
}

#[derive(Debug, Clone)]
enum Sql {
    Insert {
        table: u8,
        from: u16,
        count: u16,
        size: u16,
    },
    Update {
        table: u8,
        modulus: u16,
    },
    Delete {
        table: u8,
        modulus: u16,
    },
    Create(u8),
    Drop(u8),
    Index(u8),
}

impl Sql {
    fn text(&self, side: char) -> String {
        match self {
            Sql::Insert { table, from, count, size } => format!(
                "CREATE TABLE IF NOT EXISTS t{table} (id INTEGER PRIMARY KEY, v TEXT, w BLOB);
                 WITH RECURSIVE c (x) AS (SELECT {from} UNION ALL SELECT x + 1 FROM c WHERE x < {from} + {count})
                 INSERT OR REPLACE INTO t{table} SELECT x, '{side}' || x, zeroblob(x * {size} % 5000) FROM c"
            ),
            Sql::Update { table, modulus } => format!(
                "CREATE TABLE IF NOT EXISTS t{table} (id INTEGER PRIMARY KEY, v TEXT, w BLOB);
                 UPDATE t{table} SET v = v || '{side}' WHERE id % {modulus} = 0"
            ),
            Sql::Delete { table, modulus } => format!(
                "CREATE TABLE IF NOT EXISTS t{table} (id INTEGER PRIMARY KEY, v TEXT, w BLOB);
                 DELETE FROM t{table} WHERE id % {modulus} = 0"
            ),
            Sql::Create(n) => format!("CREATE TABLE IF NOT EXISTS x{n} AS SELECT {n} AS a, hex(zeroblob(900)) AS b"),
            Sql::Drop(n) => format!("DROP TABLE IF EXISTS x{n}; DROP TABLE IF EXISTS t{n}"),
            Sql::Index(table) => format!(
                "CREATE TABLE IF NOT EXISTS t{table} (id INTEGER PRIMARY KEY, v TEXT, w BLOB);
                 CREATE INDEX IF NOT EXISTS i{table} ON t{table} (v)"
            ),
        }
    }
}

fn sql() -> impl Strategy<Value = Sql> {
    prop_oneof![
        4 => (0..3u8, 0..500u16, 0..200u16, 0..2000u16)
            .prop_map(|(table, from, count, size)| Sql::Insert { table, from, count, size }),
        3 => (0..3u8, 1..50u16).prop_map(|(table, modulus)| Sql::Update { table, modulus }),
        3 => (0..3u8, 1..4u16).prop_map(|(table, modulus)| Sql::Delete { table, modulus }),
        1 => (0..3u8).prop_map(Sql::Create),
        1 => (0..3u8).prop_map(Sql::Drop),
        1 => (0..3u8).prop_map(Sql::Index),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => sql().prop_map(Op::Remote),
        6 => sql().prop_map(Op::Local),
        1 => Just(Op::LocalVacuum),
        1 => Just(Op::RemoteVacuum),
        1 => Just(Op::RolledBack),
        2 => Just(Op::Push),
        5 => Just(Op::Pull),
        1 => Just(Op::Refetch),
        4 => Just(Op::Checkpoint),
        2 => Just(Op::Reopen),
        3 => (0..2usize).prop_map(Op::Reader),
        2 => (0..POINTS.len()).prop_map(Op::FailPull),
        2 => (0..POINTS.len()).prop_map(Op::FailCheckpoint),
    ]
}

/// How the remote was created: rollback journal, WAL, automatic vacuum, empty.
const REMOTES: [&str; 5] = [
    TABLE,
    "PRAGMA journal_mode=WAL; CREATE TABLE t0 (id INTEGER PRIMARY KEY, v TEXT, w BLOB)",
    "PRAGMA auto_vacuum=FULL; CREATE TABLE t0 (id INTEGER PRIMARY KEY, v TEXT, w BLOB)",
    "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; CREATE TABLE q (a)",
    "",
];

/// Readers with open transactions, and what they saw when they began.
type Readers = [Option<(Connection, Vec<String>)>; 2];

fn end_reader(world: &World, reader: (Connection, Vec<String>)) {
    let (conn, before) = reader;
    same(&dump(&conn), &before);
    conn.execute_batch("COMMIT").unwrap();
    same(&dump(&conn), &dump(&world.app));
    assert_eq!(integrity(&conn), "ok");
}

fn begin_reader(world: &World) -> (Connection, Vec<String>) {
    let conn = open_app(&world.folder);
    conn.execute_batch("BEGIN").unwrap();
    let before = dump(&conn);
    (conn, before)
}

fn run(world: &mut World, readers: &mut Readers, op: &Op) {
    match op {
        Op::Remote(sql) => world.remote.execute_batch(&sql.text('r')).unwrap(),
        Op::Local(sql) => world.local(&sql.text('l')),
        Op::LocalVacuum => world.app.execute_batch("VACUUM").unwrap(),
        Op::RemoteVacuum => world.remote.execute_batch("VACUUM").unwrap(),
        Op::RolledBack => world
            .app
            .execute_batch(
                "PRAGMA cache_size=2; BEGIN; CREATE TABLE gone AS SELECT hex(zeroblob(60000)); ROLLBACK;
                 PRAGMA cache_size=-2000",
            )
            .unwrap(),
        Op::Push => world.push(),
        Op::Pull => drop(world.pull().unwrap()),
        Op::Refetch => drop(world.refetch().unwrap()),
        Op::Checkpoint => {
            let report = world.checkpoint().unwrap();
            if readers.iter().all(Option::is_none) {
                assert!(report.complete() && report.truncated, "{report:?}");
            }
        }
        Op::Reopen => world.reopen(),
        Op::Reader(n) => match readers[*n].take() {
            Some(reader) => end_reader(world, reader),
            None => readers[*n] = Some(begin_reader(world)),
        },
        Op::FailPull(n) => {
            arm(Some((POINTS[*n], Action::Fail)));
            let before = world.state();
            let (synced, remote) = (world.synced.clone(), pages_of(&world.remote));
            let _ = world.pull();
            arm(None);
            world.synced = if world.state().epoch > before.epoch {
                remote
            } else {
                synced
            };
        }
        Op::FailCheckpoint(n) => {
            arm(Some((POINTS[*n], Action::Fail)));
            let _ = world.checkpoint();
            arm(None);
        }
    }
}

fn history(remote: usize, ops: &[Op]) -> std::result::Result<(), TestCaseError> {
    let folder = folder();
    let mut world = World::new(folder.path(), REMOTES[remote]);
    let mut readers = Readers::default();
    for op in ops {
        run(&mut world, &mut readers, op);
        world.check();
    }
    for reader in readers.into_iter().flatten() {
        end_reader(&world, reader);
    }
    world.push();
    world.pull().unwrap();
    same(&dump(&world.app), &dump(&world.remote));
    world.check();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn any_history_keeps_base_and_content(
        remote in 0..REMOTES.len(),
        ops in prop::collection::vec(op(), 1..25),
    ) {
        history(remote, &ops)?;
    }
}

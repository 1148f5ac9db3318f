//! Everything together: what can happen, one step at a time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use turso_sync::server::LocalServer;

use super::check::{self, Bases, Checked};
use super::copies::Snapshot;
use super::disk::{self, Disk};
use super::net::Network;
use super::node::{Host, Node};
use super::restore::{Backup, Revisions};
use super::rng::Rng;
use super::support::plain;

/// Numbers for replicas that begin as copies.
const SPARE_NUMBERS: usize = 8;

/// Which dangers there are.
#[derive(Clone, Copy, Debug)]
pub struct Dangers {
    pub network: bool,
    pub death: bool,
    pub power: bool,
    pub errors: bool,
    /// The server is restored from backups.
    pub restore: bool,
    /// Replicas are copied, and backups of them put back.
    pub copies: bool,
    /// Other programs write replicas' files, and checkpoint them.
    pub strangers: bool,
}

pub struct World {
    pub dangers: Dangers,
    pub nodes: Vec<Node>,
    /// The first of each node, and then the second ones.
    pub hosts: Vec<Host>,
    pub net: Network,
    pub server: Option<LocalServer>,
    /// A step that fails does not end its transaction on the server.
    pub keeps_transactions: bool,
    pub backups: Vec<Backup>,
    pub revisions: Revisions,
    pub server_machine: usize,
    pub server_path: PathBuf,
    /// Of replicas.
    pub snapshots: Vec<Snapshot>,
    /// What was written in files in whose place others were put.
    pub overwritten: BTreeSet<String>,
    /// And what of it had arrived by then.
    pub arrived: BTreeSet<String>,
    /// The next number for who writes.
    pub next_number: usize,
    pub bases: Bases,
    /// For each number what its clock on the remote has shown.
    pub remote_clock: Vec<i64>,
    /// The node that has just promised durability.
    pub promised: Option<usize>,
    pub clock: Arc<AtomicI64>,
    pub names: Arc<AtomicU64>,
    /// What has happened, for people.
    pub story: Vec<String>,
    pub statistics: Statistics,
    pub folder: tempfile::TempDir,
}

#[derive(Default, Debug, Clone, Copy)]
pub struct Statistics {
    pub steps: u64,
    pub checks: u64,
    pub deaths: u64,
    pub power_losses: u64,
    pub bases_lost: u64,
    pub transactions: u64,
    pub applied: u64,
    pub pushes: u64,
    pub conflicts: u64,
    pub disk_failures: u64,
    pub requests: u64,
    pub restores: u64,
    pub copies: u64,
    pub put_back: u64,
    /// What other programs did with replicas' files.
    pub visits: u64,
    /// Decisions about what they wrote.
    pub adopted: u64,
    pub discarded: u64,
    /// Replicas that were refused in the end: astray, or with a base that a failing disk has spoilt.
    pub refused: u64,
}

impl Statistics {
    pub fn add(&mut self, other: &Statistics) {
        self.steps += other.steps;
        self.deaths += other.deaths;
        self.power_losses += other.power_losses;
        self.bases_lost += other.bases_lost;
        self.transactions += other.transactions;
        self.applied += other.applied;
        self.pushes += other.pushes;
        self.conflicts += other.conflicts;
        self.disk_failures += other.disk_failures;
        self.requests += other.requests;
        self.checks += other.checks;
        self.restores += other.restores;
        self.copies += other.copies;
        self.put_back += other.put_back;
        self.visits += other.visits;
        self.adopted += other.adopted;
        self.discarded += other.discarded;
        self.refused += other.refused;
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed, 0);
        let folder = super::temporary_folder();
        let mut disk = Disk::new(Duration::from_secs(1_000_000_000), Rng::new(seed, u64::MAX));
        let mut machine = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            (disk.add(&path), path)
        };
        let (server_machine, server_folder) = machine("server");
        let count = 1 + rng.below(3);
        let restore = rng.one_in(4);
        let copies = !restore && rng.one_in(3);
        let alone = count == 1 && !copies;
        let nodes = (0..count).map(|number| {
            let (machine, folder) = machine(&format!("node{number}"));
            Node::new(number, machine, folder.join("app.db"), alone, &mut rng)
        });
        let nodes: Vec<Node> = nodes.collect();
        let numbers = count + if copies { SPARE_NUMBERS } else { 0 };
        let second = (0..count).filter(|_| rng.one_in(3));
        let hosts = (0..count).chain(second.collect::<Vec<_>>());
        let hosts: Vec<Host> = hosts.map(Host::of).collect();
        let any = [true, true, true, false];
        let dangers = Dangers {
            network: *rng.pick(&any),
            death: *rng.pick(&any),
            power: rng.one_in(2),
            errors: rng.one_in(3),
            restore,
            copies,
            strangers: rng.one_in(3),
        };
        let keeps_transactions = rng.one_in(2);
        disk::install(Some(disk));
        let processes = hosts.len();
        let mut world = World {
            dangers,
            nodes,
            hosts,
            net: Network::default(),
            server: None,
            keeps_transactions,
            backups: Vec::new(),
            revisions: Revisions::default(),
            server_machine,
            server_path: server_folder.join("remote.db"),
            snapshots: Vec::new(),
            overwritten: BTreeSet::new(),
            arrived: BTreeSet::new(),
            next_number: count,
            bases: Bases::new(),
            remote_clock: vec![0; numbers],
            promised: None,
            clock: Arc::default(),
            names: Arc::default(),
            story: vec![format!(
                "{count} nodes, {processes} hosts, {dangers:?}, transactions are kept: {keeps_transactions}"
            )],
            statistics: Statistics::default(),
            folder,
        };
        let conn = plain(&world.server_path);
        conn.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        conn.execute_batch(&format!(
            "BEGIN; {} {}; COMMIT",
            check::SCHEMA,
            check::accounts(numbers)
        ))
        .unwrap();
        drop(conn);
        world.start_server().unwrap();
        world
    }

    pub fn say(&mut self, what: impl Into<String>) {
        self.story.push(what.into());
    }

    /// Only a disk that fails keeps the server from starting.
    pub fn start_server(&mut self) -> Checked {
        self.server = None;
        let failures = self.server_failures();
        let open = match self.keeps_transactions {
            true => LocalServer::keeping_transactions,
            false => LocalServer::open,
        };
        match open(&self.server_path) {
            Ok(server) => self.server = Some(server),
            Err(e) if self.server_failures() == failures && !self.server_is_dead() => {
                return Err(format!("the server does not start: {e}"));
            }
            Err(e) => self.say(format!("the server does not start: {e}")),
        }
        Ok(())
    }

    pub fn server_is_dead(&self) -> bool {
        disk::with(|disk| disk.is_dead(self.server_machine)).unwrap()
    }

    pub fn server_failures(&self) -> u64 {
        disk::with(|disk| disk.calls(self.server_machine)).unwrap().1
    }

    /// One step. `number` is only for the story.
    pub fn step(&mut self, number: u64, rng: &mut Rng) -> Checked {
        self.time_goes_by(1 + rng.below(5) as i64);
        self.statistics.steps += 1;
        let before = self.story.len();
        self.act(rng)?;
        self.strike(rng);
        self.bury(rng)?;
        self.story[before..]
            .iter_mut()
            .for_each(|line| *line = format!("{number}: {line}"));
        Ok(())
    }

    pub fn time_goes_by(&self, seconds: i64) {
        let now = (seconds + self.clock.fetch_add(seconds, Ordering::Relaxed)) as u64;
        disk::with(|disk| disk.now = Duration::from_secs(1_000_000_000 + now));
    }

    fn act(&mut self, rng: &mut Rng) -> Checked {
        match rng.below(100) {
            0..40 => {
                let at = rng.below(self.hosts.len());
                self.host(at, rng)?;
            }
            40..70 => self.network(rng)?,
            70..75 if self.dangers.strangers => self.stranger(rng)?,
            75..79 if self.dangers.copies => self.copy_event(rng)?,
            70..92 => {
                let at = rng.below(self.hosts.len());
                self.transaction(at, rng)?;
            }
            94 if self.dangers.restore => self.backup_event(rng)?,
            92..95 => self.server_event(rng)?,
            95..98 => self.danger(rng),
            _ => self.look(rng)?,
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.net.flights.clear();
        self.hosts.clear();
        self.server = None;
        disk::install(None);
    }
}

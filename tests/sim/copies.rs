//! Replicas that are copied, and old states of them that are put back.
//!
//! Files that began as one share a client id and what was pending. Each goes on for itself: what they share must arrive
//! once, and what each has written must arrive. Who goes on in a copy, or behind an old state, writes under another number:
//! the rows that only one writer changes are counters, which two would rightly overwrite.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use turso_sync::engine::DatabaseSyncEngineOpts;

use super::check::{self, Checked};
use super::disk;
use super::node::{Committed, Host, Kind, Node, Txn};
use super::rng::Rng;
use super::support::plain;
use super::world::World;

/// What belongs to a replica beside the main file, and decides something.
const SUFFIXES: [&str; 4] = ["", "-wal", "-wal-revert", "-info"];
/// Most replicas, with copies.
const MAX_NODES: usize = 5;
const MAX_SNAPSHOTS: usize = 4;

/// The files of a replica at a moment.
#[derive(Clone)]
pub struct Files(Vec<(&'static str, Vec<u8>, SystemTime)>);

/// The same with what is committed there.
#[derive(Clone)]
pub struct Snapshot {
    node: usize,
    files: Files,
    txns: Vec<Txn>,
    epoch: i64,
    /// Another program may have written what is in them.
    visited: bool,
}

/// How files are put in place.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Into the files that are there.
    pub in_place: bool,
    pub metadata_too: bool,
    pub times_too: bool,
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

impl World {
    pub fn copy_event(&mut self, rng: &mut Rng) -> Checked {
        let n = rng.below(self.nodes.len());
        let kept = self.snapshots.len();
        match rng.below(4) {
            0 if kept > 0 && self.next_number < self.remote_clock.len() => {
                let snapshot = self.snapshots[rng.below(kept)].clone();
                self.come_back(snapshot, rng)
            }
            1 if self.nodes.len() < MAX_NODES && self.next_number < self.remote_clock.len() => {
                let snapshot = match kept > 0 && rng.one_in(3) {
                    true => Some(self.snapshots[rng.below(kept)].clone()),
                    false => self.snapshot(n)?,
                };
                snapshot.map_or(Ok(()), |snapshot| self.copy(snapshot, rng))
            }
            _ => {
                if let Some(snapshot) = self.snapshot(n)? {
                    self.say(format!("node {n} is backed up"));
                    self.snapshots.truncate(MAX_SNAPSHOTS - 1);
                    self.snapshots.push(snapshot);
                }
                Ok(())
            }
        }
    }

    /// The files of a node, whoever is at work there; nothing if it is no replica yet. What another program has written
    /// without anybody's decision is not looked for in copies: see docs/guarantees.md.
    fn snapshot(&self, n: usize) -> Result<Option<Snapshot>, check::Violation> {
        let node = &self.nodes[n];
        let stray = |txn: &Txn| txn.kind == Kind::Stray || txn.kind == Kind::Risky && txn.is_foreign();
        let undecided = node.txns.iter().any(stray);
        if self.dead(n) || undecided {
            return Ok(None);
        }
        let taken = || {
            let Some(conn) = check::replica(&node.path)? else {
                return Ok(None);
            };
            let tags = check::tags(&conn).unwrap_or_default();
            let there = node.txns.iter().filter(|txn| tags.contains(&txn.tag));
            let txns = there.map(|txn| Txn {
                committed: Committed::Durable,
                ..txn.clone()
            });
            Ok(Some(Snapshot {
                node: n,
                files: Files::of(&node.path),
                txns: txns.collect(),
                epoch: check::epoch(&node.path)?,
                visited: node.visited,
            }))
        };
        disk::looking(node.machine, taken)
    }

    /// Another machine gets a copy.
    fn copy(&mut self, snapshot: Snapshot, rng: &mut Rng) -> Checked {
        let n = self.nodes.len();
        let folder = self.folder.path().join(format!("node{n}"));
        fs::create_dir(&folder).unwrap();
        let machine = disk::with(|disk| disk.add(&folder)).unwrap();
        let path = folder.join("app.db");
        let original = &self.nodes[snapshot.node];
        let mut node = Node::new(self.next_number, machine, path.clone(), false, rng);
        node.opts = DatabaseSyncEngineOpts {
            path: node.opts.path,
            conflict_policy: node.opts.conflict_policy,
            foreign_policy: node.opts.foreign_policy,
            protocol_version_hint: node.opts.protocol_version_hint,
            ..original.opts.clone()
        };
        self.say(format!(
            "node {} is copied to node {n}, which writes as {}",
            snapshot.node, node.number
        ));
        self.nodes.push(node);
        self.hosts.push(Host::of(n));
        self.statistics.copies += 1;
        let how = How {
            in_place: false,
            metadata_too: true,
            times_too: rng.one_in(2),
        };
        self.put(n, snapshot, how)
    }

    /// An old state of a node comes back.
    fn come_back(&mut self, snapshot: Snapshot, rng: &mut Rng) -> Checked {
        let n = snapshot.node;
        if self.dead(n) {
            return Ok(());
        }
        let how = How {
            in_place: rng.one_in(2),
            metadata_too: rng.one_in(2),
            times_too: rng.one_in(2),
        };
        for at in 0..self.hosts.len() {
            if self.hosts[at].node == n {
                self.hosts[at].die();
                self.net.forget(at);
            }
        }
        // What closing the replica did may have been the death of its machine.
        if self.dead(n) {
            return Ok(());
        }
        let remote = check::tags(&plain(&self.server_path))?;
        let was_there = self.nodes[n].txns.iter().map(|txn| txn.tag.clone());
        self.overwritten.extend(was_there);
        let arrived = self.overwritten.intersection(&remote).cloned();
        self.arrived.extend(arrived);
        self.statistics.put_back += 1;
        self.nodes[n].number = self.next_number;
        self.say(format!(
            "an old state of node {n} is put back, {how:?}; it writes as {}",
            self.next_number
        ));
        // With another time, it looks as if another program had written the file.
        self.nodes[n].visited |= how.in_place && !how.times_too;
        self.put(n, snapshot, how)
    }

    fn put(&mut self, n: usize, snapshot: Snapshot, how: How) -> Checked {
        self.next_number += 1;
        let node = &mut self.nodes[n];
        disk::looking(node.machine, || snapshot.files.put(&node.path, how));
        node.txns = snapshot.txns;
        (node.clock, node.durable_clock, node.early) = (0, 0, 0);
        node.epoch = snapshot.epoch;
        node.visited |= snapshot.visited;
        (node.base_in_doubt, node.copied) = (true, true);
        self.look_at(n)
    }
}

impl Files {
    pub fn of(path: &Path) -> Files {
        let file = |suffix| {
            let path = beside(path, suffix);
            let time = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
            Some((suffix, fs::read(&path).ok()?, time))
        };
        Files(SUFFIXES.into_iter().filter_map(file).collect())
    }

    /// Puts them in place, durably. Nobody may have the replica open.
    pub fn put(&self, path: &Path, how: How) {
        // What SQLite knows of a log is not true of another one.
        let _ = fs::remove_file(beside(path, "-shm"));
        for suffix in SUFFIXES {
            let to = beside(path, suffix);
            let from = self.0.iter().find(|file| file.0 == suffix);
            if suffix == "-info" && !how.metadata_too && to.exists() {
                continue;
            }
            if to.exists() && (!how.in_place || from.is_none()) {
                fs::remove_file(&to).unwrap();
            }
            if let Some((_, content, time)) = from {
                fs::write(&to, content).unwrap();
                let file = File::options().write(true).open(&to).unwrap();
                if how.times_too {
                    file.set_modified(*time).unwrap();
                }
                file.sync_all().unwrap();
            }
        }
        let folder = path.parent().unwrap();
        File::open(folder).unwrap().sync_all().unwrap();
    }
}

//! Everything together: what can happen, one step at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use turso_sync::engine::{Conflict, DatabaseSyncEngine, Resolution};
use turso_sync::error::{Category, Code, Error};
use turso_sync::io::{SyncEngineIoRequest, files};
use turso_sync::server::LocalServer;

use super::check::{self, Bases, Checked, Violation};
use super::disk::{self, Disk, Fate, Survival};
use super::net::{self, Flight, Mishap, Network};
use super::node::{Committed, Conn, Node, Outcome, VirtualEnvironment};
use super::rng::Rng;
use super::support::plain;

/// Which dangers there are.
#[derive(Clone, Copy, Debug)]
pub struct Dangers {
    pub network: bool,
    pub death: bool,
    pub power: bool,
    pub errors: bool,
}

pub struct World {
    dangers: Dangers,
    pub nodes: Vec<Node>,
    pub net: Network,
    server: Option<LocalServer>,
    server_machine: usize,
    pub server_path: PathBuf,
    pub bases: Bases,
    remote_clock: Vec<i64>,
    /// The node that has just promised durability.
    promised: Option<usize>,
    clock: Arc<AtomicI64>,
    names: Arc<AtomicU64>,
    /// What has happened, for people.
    pub story: Vec<String>,
    pub statistics: Statistics,
    _folder: tempfile::TempDir,
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
        let nodes = (0..count).map(|number| {
            let (machine, folder) = machine(&format!("node{number}"));
            Node::new(number, machine, folder.join("app.db"), &mut rng)
        });
        let nodes = nodes.collect();
        let any = [true, true, true, false];
        let dangers = Dangers {
            network: *rng.pick(&any),
            death: *rng.pick(&any),
            power: rng.one_in(2),
            errors: rng.one_in(3),
        };
        disk::install(Some(disk));
        let mut world = World {
            dangers,
            nodes,
            net: Network::default(),
            server: None,
            server_machine,
            server_path: server_folder.join("remote.db"),
            bases: Bases::new(),
            remote_clock: vec![0; count],
            promised: None,
            clock: Arc::default(),
            names: Arc::default(),
            story: vec![format!("{count} nodes, {dangers:?}")],
            statistics: Statistics::default(),
            _folder: folder,
        };
        let conn = plain(&world.server_path);
        conn.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        conn.execute_batch(&format!(
            "BEGIN; {} {}; COMMIT",
            check::SCHEMA,
            check::accounts(count)
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
    fn start_server(&mut self) -> Checked {
        self.server = None;
        let failures = self.server_failures();
        match LocalServer::open(&self.server_path) {
            Ok(server) => self.server = Some(server),
            Err(e) if self.server_failures() == failures && !self.server_is_dead() => {
                return Err(format!("the server does not start: {e}"));
            }
            Err(e) => self.say(format!("the server does not start: {e}")),
        }
        Ok(())
    }

    fn server_is_dead(&self) -> bool {
        disk::with(|disk| disk.is_dead(self.server_machine)).unwrap()
    }

    fn server_failures(&self) -> u64 {
        disk::with(|disk| disk.calls(self.server_machine)).unwrap().1
    }

    /// One step. `number` is only for the story.
    pub fn step(&mut self, number: u64, rng: &mut Rng) -> Checked {
        self.clock.fetch_add(1 + rng.below(5) as i64, Ordering::Relaxed);
        let seconds = self.clock.load(Ordering::Relaxed) as u64;
        disk::with(|disk| disk.now = Duration::new(1_000_000_000 + seconds, 0));
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

    fn act(&mut self, rng: &mut Rng) -> Checked {
        match rng.below(100) {
            0..40 => {
                let at = rng.below(self.nodes.len());
                self.host(at, rng)?;
            }
            40..70 => self.network(rng)?,
            70..92 => {
                let at = rng.below(self.nodes.len());
                self.transaction(at, rng)?;
            }
            92..95 => self.server_event(rng)?,
            95..98 => self.danger(rng),
            _ => self.look(rng)?,
        }
        Ok(())
    }

    // --- the host -----------------------------------------------------------------------------------------------

    fn host(&mut self, at: usize, rng: &mut Rng) -> Checked {
        if self.nodes[at].engine.is_none() {
            self.open(at);
            return self.resume(at, 0);
        }
        let node = &mut self.nodes[at];
        if !node.items.is_empty() && !rng.one_in(4) {
            let item = node.items.swap_remove(rng.below(node.items.len()));
            let what = match item.request() {
                SyncEngineIoRequest::FullRead { .. } => "reads",
                _ => "writes",
            };
            let done = match rng.one_in(40) {
                true => {
                    node.troubles += 1;
                    item.poison("the host does not want to");
                    "refuses"
                }
                false => match files::perform(&item) {
                    Ok(()) => "done",
                    Err(_) => "failed",
                },
            };
            self.say(format!("node {at} {what} a file: {done}"));
            return self.go_on(at, rng);
        }
        if !node.running.is_empty() && !self.net.flights.is_empty() && !rng.one_in(5) {
            return self.network(rng);
        }
        if !node.running.is_empty() && !rng.one_in(4) {
            let which = rng.below(node.running.len());
            if self.dangers.network && rng.one_in(25) {
                let dropped = node.running.remove(which);
                self.say(format!("node {at} cancels {}", dropped.name));
                if !self.nodes[at].ready && self.nodes[at].running.is_empty() {
                    self.nodes[at].die();
                }
                return Ok(());
            }
            return self.resume(at, which);
        }
        if node.ready && node.running.len() < 2 {
            self.start(at, rng);
            let last = self.nodes[at].running.len().checked_sub(1);
            return last.map_or(Ok(()), |last| self.resume(at, last));
        }
        Ok(())
    }

    fn open(&mut self, at: usize) {
        let environment = VirtualEnvironment {
            clock: self.clock.clone(),
            names: self.names.clone(),
        };
        let node = &mut self.nodes[at];
        let engine = DatabaseSyncEngine::with_environment(node.opts.clone(), Box::new(environment)).unwrap();
        node.start("create", engine.create_db(), |()| Outcome::Done);
        node.engine = Some(engine);
        self.say(format!("node {at} opens"));
    }

    fn start(&mut self, at: usize, rng: &mut Rng) {
        let node = &mut self.nodes[at];
        let Some(engine) = node.engine.clone() else { return };
        let name = match rng.below(12) {
            0 | 1 => {
                node.start("push", engine.push_changes_to_remote(), |()| Outcome::Done);
                "push"
            }
            2 | 3 => {
                node.start("pull", engine.pull_changes_from_remote(), Outcome::Pulled);
                "pull"
            }
            4 | 5 => {
                node.start("sync", engine.sync(), Outcome::Pulled);
                "sync"
            }
            6 => {
                node.start("wait", engine.wait_changes_from_remote(), Outcome::Download);
                "wait"
            }
            7 => match node.download.take() {
                Some(_) if rng.one_in(4) => "drop the download",
                Some(changes) => {
                    node.start("apply", engine.apply_changes_from_remote(changes), |()| {
                        Outcome::Done
                    });
                    "apply"
                }
                None => "nothing",
            },
            8 | 9 => {
                node.start("checkpoint", engine.checkpoint(), |()| Outcome::Done);
                "checkpoint"
            }
            10 => match engine.conflicts() {
                Ok(conflicts) if !conflicts.is_empty() => {
                    let conflict = rng.pick(&conflicts);
                    let resolution = *rng.pick(&[
                        Resolution::Retry,
                        Resolution::Overwrite,
                        Resolution::SetAside,
                        drop_or_not(conflict),
                    ]);
                    let conflict = conflict.txn_id;
                    self.statistics.conflicts += 1;
                    node.start("resolve", engine.resolve_conflict(conflict, resolution), |()| {
                        Outcome::Done
                    });
                    self.say(format!("{resolution:?} for {conflict}"));
                    "resolve"
                }
                _ => "nothing",
            },
            _ if rng.one_in(2) => {
                node.conns.clear();
                "close the connections"
            }
            _ => {
                node.die();
                "close"
            }
        };
        self.say(format!("node {at}: {name}"));
    }

    /// Resumes an operation, and takes its requests.
    fn resume(&mut self, at: usize, which: usize) -> Checked {
        let node = &mut self.nodes[at];
        let answer = node.running[which].resume();
        if let Some(engine) = node.engine.clone() {
            while let Some(item) = engine.io().take_item() {
                match item.request() {
                    SyncEngineIoRequest::Http(_) => self.net.send(at, item),
                    _ => self.nodes[at].items.push(item),
                }
            }
        }
        let finished = match answer {
            Ok(None) => return Ok(()),
            Ok(Some(outcome)) => Ok(outcome),
            Err(e) => Err(e),
        };
        let node = &mut self.nodes[at];
        let ended = node.running.remove(which);
        let durable = match (ended.name, &finished) {
            ("push" | "sync" | "apply" | "checkpoint", Ok(_)) | ("pull", Ok(Outcome::Pulled(true))) => {
                ended.committed
            }
            _ => (0, 0),
        };
        node.durable(durable);
        self.promised = (durable.0 > 0).then_some(at);
        match ended.name {
            "create" => match finished.is_ok() {
                true => node.ready = true,
                false => node.die(),
            },
            "pull" | "apply" => self.statistics.applied += u64::from(durable.0 > 0),
            "push" | "sync" => self.statistics.pushes += u64::from(durable.0 > 0),
            _ => {}
        }
        let said = match finished {
            Ok(Outcome::Download(changes)) => {
                let said = format!("download: {}", changes.is_some());
                self.nodes[at].download = changes;
                said
            }
            Ok(Outcome::Pulled(new)) => format!("new: {new}"),
            Ok(Outcome::Done) => "done".into(),
            Err(e) => {
                self.explain(at, &e, ended.troubles)
                    .map_err(|violation| format!("node {at} {}: {violation}", ended.name))?;
                format!("error: {e}")
            }
        };
        self.say(format!("node {at} {} ends; {said}", ended.name));
        Ok(())
    }

    /// Errors that nothing explains are violations.
    fn explain(&mut self, at: usize, e: &Error, troubles_then: u64) -> Checked {
        if self.dead(at) {
            return Ok(());
        }
        self.count_failures(at);
        let node = &self.nodes[at];
        let troubled = node.troubles > troubles_then;
        let never = match e.category {
            Category::Internal | Category::Identity | Category::Usage => true,
            Category::Protocol => !troubled,
            _ => false,
        };
        let damaged = matches!(e.code, Code::Corrupt | Code::NotADb) && !node.disk_failed;
        match never || damaged {
            true => Err(format!("unexplained error: {:?} {:?} {e}", e.category, e.code)),
            false => Ok(()),
        }
    }

    fn dead(&self, at: usize) -> bool {
        let machine = self.nodes[at].machine;
        disk::with(|disk| disk.is_dead(machine)).unwrap()
    }

    /// Failures of the disk are troubles.
    fn count_failures(&mut self, at: usize) {
        let machine = self.nodes[at].machine;
        let (_, failures) = disk::with(|disk| disk.calls(machine)).unwrap();
        if failures > 0 {
            self.nodes[at].disk_failed = true;
        }
    }

    // --- local SQL ----------------------------------------------------------------------------------------------

    fn transaction(&mut self, at: usize, rng: &mut Rng) -> Checked {
        if !self.nodes[at].ready {
            return self.host(at, rng);
        }
        let count = self.nodes[at].conns.len();
        if count == 0 || (count < 2 && rng.one_in(10)) {
            return self.connect(at, rng);
        }
        let which = rng.below(count);
        let node = &mut self.nodes[at];
        let mut sql = Vec::new();
        let txn = match node.conns[which].open.take() {
            Some(txn) => txn,
            None => {
                sql.push(rng.pick(&["BEGIN", "BEGIN IMMEDIATE"]).to_string());
                super::workload::transaction(node, rng, &mut sql)
            }
        };
        let node = &mut self.nodes[at];
        let conn = node.conns[which].conn.clone();
        for sql in &sql {
            if let Err(e) = conn.execute_batch(sql) {
                let _ = conn.execute_batch("ROLLBACK");
                self.say(format!("node {at} {}: {sql}: {e}", txn.tag));
                return self.explain_sql(at, &e, sql);
            }
        }
        match rng.below(12) {
            0 => {
                self.say(format!("node {at} {}: open", txn.tag));
                self.nodes[at].conns[which].open = Some(txn);
                return Ok(());
            }
            1 => {
                self.say(format!("node {at} {}: rollback", txn.tag));
                let _ = conn.execute_batch("ROLLBACK");
                return Ok(());
            }
            _ => {}
        }
        self.commit(at, which, txn)
    }

    fn commit(&mut self, at: usize, which: usize, mut txn: super::node::Txn) -> Checked {
        let conn = self.nodes[at].conns[which].conn.clone();
        let full = self.nodes[at].conns[which].full;
        match conn.execute_batch("COMMIT") {
            Ok(()) => {
                self.say(format!("node {at} {}: committed, full: {full}", txn.tag));
                self.statistics.transactions += 1;
                // After its death the machine may still say yes to what never reached the disk.
                let dead = self.dead(at);
                txn.committed = if dead { Committed::Unknown } else { Committed::Yes };
                let node = &mut self.nodes[at];
                match txn.tick {
                    true => node.clock += i64::from(!dead),
                    false => node.txns.push(txn),
                }
                if full && !dead {
                    node.durable((node.txns.len(), node.clock));
                    self.promised = Some(at);
                }
                Ok(())
            }
            Err(e) => {
                let _ = conn.execute_batch("ROLLBACK");
                self.say(format!("node {at} {}: commit: {e}", txn.tag));
                txn.committed = Committed::Unknown;
                if !txn.tick {
                    self.nodes[at].txns.push(txn);
                }
                self.explain_sql(at, &e, "COMMIT")
            }
        }
    }

    fn explain_sql(&mut self, at: usize, e: &Error, sql: &str) -> Checked {
        self.count_failures(at);
        let node = &self.nodes[at];
        let expected = matches!(e.code, Code::Busy | Code::BusySnapshot)
            || e.code == Code::Constraint && sql.contains("uniq")
            || node.disk_failed
            || self.dead(at);
        match expected {
            true => Ok(()),
            false => Err(format!("node {at}: {sql}: {:?} {e}", e.code)),
        }
    }

    fn connect(&mut self, at: usize, rng: &mut Rng) -> Checked {
        let Some(engine) = self.nodes[at].engine.clone() else {
            return Ok(());
        };
        let mut op = engine.connect_rw();
        let full = rng.one_in(2);
        let opened = op.resume().map(|_| op.take_result().unwrap());
        let opened = opened.and_then(|conn| {
            if full {
                conn.execute_batch("PRAGMA synchronous = FULL")?;
            }
            Ok(conn)
        });
        match opened {
            Ok(conn) => self.nodes[at].conns.push(Conn {
                conn,
                full,
                open: None,
            }),
            Err(e) => return self.explain_sql(at, &e, "connect"),
        }
        self.say(format!("node {at} connects"));
        Ok(())
    }

    // --- the network --------------------------------------------------------------------------------------------

    fn network(&mut self, rng: &mut Rng) -> Checked {
        if self.net.flights.is_empty() {
            let at = rng.below(self.nodes.len());
            return self.host(at, rng);
        }
        let which = rng.below(self.net.flights.len());
        let flight = self.net.flights.swap_remove(which);
        let trouble = self.dangers.network && rng.one_in(6);
        match flight {
            Flight::Request {
                node,
                item,
                path,
                body,
            } => {
                if trouble {
                    self.nodes[node].troubles += 1;
                    match rng.below(3) {
                        0 => {
                            self.say(format!("request of node {node} to {path} is lost"));
                            if let Some(item) = item {
                                item.poison("no connection");
                            }
                            return Ok(());
                        }
                        1 => {
                            self.say(format!("request of node {node} to {path} will come again"));
                            self.net.flights.push(Flight::Request {
                                node,
                                item: None,
                                path: path.clone(),
                                body: body.clone(),
                            });
                        }
                        _ => {
                            self.say(format!(
                                "request of node {node} to {path} comes, its sender gives up"
                            ));
                            if let Some(item) = &item {
                                item.poison("timeout");
                            }
                        }
                    }
                }
                self.serve(node, item, path, &body)
            }
            Flight::Answer {
                node,
                item,
                status,
                body,
            } => {
                let mishap = match trouble {
                    false => Mishap::None,
                    true => {
                        self.nodes[node].troubles += 1;
                        *rng.pick(&[
                            Mishap::Lost,
                            Mishap::Broken,
                            Mishap::Short,
                            Mishap::Replaced,
                            Mishap::Garbled,
                        ])
                    }
                };
                self.say(format!(
                    "answer {status} to node {node} ({} bytes): {mishap:?}",
                    body.len()
                ));
                net::deliver(&item, status, body, mishap, rng);
                self.go_on(node, rng)
            }
        }
    }

    /// A request of the node was answered: mostly its host resumes at once.
    fn go_on(&mut self, at: usize, rng: &mut Rng) -> Checked {
        if !rng.one_in(4) {
            for which in (0..self.nodes[at].running.len()).rev() {
                self.resume(at, which)?;
            }
        }
        Ok(())
    }

    fn serve(
        &mut self,
        node: usize,
        item: Option<turso_sync::io::IoItem>,
        path: String,
        body: &[u8],
    ) -> Checked {
        let Some(server) = &self.server else {
            self.nodes[node].troubles += 1;
            if let Some(item) = item {
                item.poison("connection refused");
            }
            return Ok(());
        };
        self.statistics.requests += 1;
        let answer = server.answer(&path, body);
        let dead = self.server_is_dead();
        self.say(match &answer {
            Ok((status, answer)) if path == "/v2/pipeline" => {
                let text = String::from_utf8_lossy(answer);
                let error = text.split("\"message\":").nth(1).unwrap_or_default();
                let error: String = error.chars().take(100).collect();
                let kind = match body.windows(6).any(|w| w == b"COMMIT") {
                    true => "a push",
                    false => "a query",
                };
                format!("server answers {kind} of node {node}: {status} {error}")
            }
            Ok((status, body)) => format!(
                "server answers node {node} {path}: {status}, {} bytes",
                body.len()
            ),
            Err(e) => format!("server fails node {node} {path}: {e}"),
        });
        let (status, body) = match answer {
            Ok(answer) if !dead => answer,
            _ => {
                self.nodes[node].troubles += 1;
                if let Some(item) = item {
                    item.poison("connection reset");
                }
                return Ok(());
            }
        };
        if status >= 400 {
            // What the server says about its own troubles is checked where it has none.
            if self.server_failures() == 0 && status >= 500 {
                return Err(format!("server: {status} {}", String::from_utf8_lossy(&body)));
            }
            self.nodes[node].troubles += 1;
        }
        if path == "/pull-updates" && status == 200 {
            self.record(&body)?;
        } else {
            self.remote_clocks()?;
        }
        if let Some(item) = item {
            self.net.flights.push(Flight::Answer {
                node,
                item,
                status,
                body,
            });
        }
        Ok(())
    }

    /// The remote's clocks never go back.
    fn remote_clocks(&mut self) -> Checked {
        let conn = plain(&self.server_path);
        for (owner, before) in self.remote_clock.iter_mut().enumerate() {
            let n = check::clock(&conn, owner)?;
            if n < *before {
                return Err(format!(
                    "remote: the clock of node {owner} went back from {before} to {n}"
                ));
            }
            *before = n;
        }
        Ok(())
    }

    /// Remembers what the remote looks like at the revision of an answer.
    fn record(&mut self, answer: &[u8]) -> Checked {
        let pages = check::pages(&plain(&self.server_path));
        check::remember(&mut self.bases, answer, pages)
    }

    fn server_event(&mut self, rng: &mut Rng) -> Checked {
        match rng.below(3) {
            0 => {
                self.say("server restarts");
                self.start_server()?;
            }
            1 => {
                self.say("server keeps house");
                if let Some(server) = &self.server {
                    let _ = server.keep_house();
                }
            }
            _ => {
                let conn = plain(&self.server_path);
                check::database(&conn).map_err(|violation| format!("remote: {violation}"))?;
                self.remote_tags()?;
            }
        }
        Ok(())
    }

    /// The remote knows nothing that no replica has committed.
    fn remote_tags(&mut self) -> Checked {
        let tags = check::tags(&plain(&self.server_path))?;
        for tag in tags {
            let known = self
                .nodes
                .iter()
                .any(|node| node.txns.iter().any(|txn| txn.tag == tag));
            if !known {
                return Err(format!(
                    "{tag} is on the remote, but its replica has lost it or never had it"
                ));
            }
        }
        Ok(())
    }

    // --- dangers ------------------------------------------------------------------------------------------------

    /// Something will go wrong soon.
    fn danger(&mut self, rng: &mut Rng) {
        let server = rng.one_in(5);
        let at = rng.below(self.nodes.len());
        let (name, machine) = match server {
            true => ("server".to_owned(), self.server_machine),
            false => (format!("node {at}"), self.nodes[at].machine),
        };
        let soon = 1 + rng.below([5, 30, 120][rng.clone().below(3)]) as u64;
        let fate = if self.dangers.errors && rng.one_in(2) {
            Fate::Fail {
                from: soon,
                calls: 1 + rng.below(6) as u64,
                errno: *rng.pick(&[libc::ENOSPC, libc::EIO]),
            }
        } else if self.dangers.death || self.dangers.power {
            Fate::Die(soon)
        } else {
            return;
        };
        self.say(format!("{name} will see {fate:?}"));
        disk::with(|disk| disk.set_fate(machine, Some(fate)));
    }

    /// Death likes to come right after something was promised.
    fn strike(&mut self, rng: &mut Rng) {
        let promised = self.promised.take();
        if let Some(at) = promised
            && (self.dangers.death || self.dangers.power)
            && rng.one_in(15)
        {
            let machine = self.nodes[at].machine;
            disk::with(|disk| disk.kill(machine));
        }
    }

    /// Buries who is dead, and lets them rise again.
    fn bury(&mut self, rng: &mut Rng) -> Checked {
        for at in 0..self.nodes.len() {
            if !self.dead(at) {
                self.count_failures(at);
                continue;
            }
            let node = &mut self.nodes[at];
            node.die();
            self.net.forget(at);
            let power = self.power(rng);
            let machine = self.nodes[at].machine;
            disk::with(|disk| match power {
                true => disk.lose_power(machine, Survival::Chance, rng),
                false => disk.restart(machine),
            });
            self.say(format!("node {at} died, power lost: {power}"));
            check::after_death(&mut self.nodes[at], power)
                .map_err(|v| format!("node {at} after death: {v}"))?;
            self.base(at)?;
        }
        let machine = self.server_machine;
        if self.server_is_dead() {
            self.server = None;
            let power = self.power(rng);
            disk::with(|disk| match power {
                true => disk.lose_power(machine, Survival::Chance, rng),
                false => disk.restart(machine),
            });
            self.say(format!("server died, power lost: {power}"));
            self.start_server()?;
            check::database(&plain(&self.server_path)).map_err(|violation| format!("remote: {violation}"))?;
        }
        Ok(())
    }

    fn power(&mut self, rng: &mut Rng) -> bool {
        let power = self.dangers.power && (!self.dangers.death || rng.one_in(2));
        self.statistics.deaths += 1;
        self.statistics.power_losses += u64::from(power);
        power
    }

    // --- checks -------------------------------------------------------------------------------------------------

    fn look(&mut self, rng: &mut Rng) -> Checked {
        let at = rng.below(self.nodes.len());
        if self.nodes[at].ready && !self.dead(at) {
            check::node(&mut self.nodes[at])?;
            self.base(at)?;
        }
        Ok(())
    }

    fn base(&mut self, at: usize) -> Checked {
        let machine = self.nodes[at].machine;
        // Looking is not what is on trial.
        disk::with(|disk| disk.set_fate(machine, None));
        let intact = check::base(&self.nodes[at].path, &self.bases);
        self.statistics.checks += 1;
        let intact = intact.map_err(|violation| format!("node {at}: {violation}"))?;
        if !intact {
            self.statistics.bases_lost += 1;
            if !self.nodes[at].disk_failed {
                return Err(format!(
                    "node {at}: the base is lost, although the disk never failed"
                ));
            }
        }
        Ok(())
    }

    // --- the end ------------------------------------------------------------------------------------------------

    /// Everything works from now on: everybody must arrive at the same state.
    pub fn converge(&mut self, rng: &mut Rng) -> Checked {
        self.say("everything works from now on");
        self.dangers = Dangers {
            network: false,
            death: false,
            power: false,
            errors: false,
        };
        for machine in (0..self.nodes.len())
            .map(|at| self.nodes[at].machine)
            .chain([self.server_machine])
        {
            disk::with(|disk| disk.set_fate(machine, None));
        }
        self.start_server()?;
        for flight in std::mem::take(&mut self.net.flights) {
            if let Flight::Request { node, path, body, .. } = flight {
                self.serve(node, None, path, &body)?;
            }
        }
        for at in 0..self.nodes.len() {
            self.nodes[at].die();
            self.open(at);
            let opened = self.drive(at)?;
            opened.map_err(|e| format!("node {at} cannot be opened: {e}"))?;
        }
        let mut quiet = 0;
        for round in 0..25 {
            let mut busy = false;
            for at in 0..self.nodes.len() {
                busy |= self.settle(at, rng)?;
            }
            // What the last one pushes in one round it gets back in the next.
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == 2 {
                return self.compare();
            }
            self.say(format!("round {round} ends"));
        }
        Err("no end of syncing".into())
    }

    /// Drives the only operation of a node to its end.
    fn drive(&mut self, at: usize) -> Result<Result<Outcome, Error>, Violation> {
        let mut running = self.nodes[at].running.pop().unwrap();
        let engine = self.nodes[at].engine.clone().unwrap();
        for _ in 0..10_000 {
            match running.resume() {
                Ok(Some(outcome)) => {
                    self.nodes[at].ready = true;
                    return Ok(Ok(outcome));
                }
                Err(e) => {
                    self.say(format!("node {at} {}: {e}", running.name));
                    return Ok(Err(e));
                }
                Ok(None) => {}
            }
            while let Some(item) = engine.io().take_item() {
                match item.request() {
                    SyncEngineIoRequest::Http(http) => {
                        let (path, body) = (http.path.clone(), http.body.clone());
                        self.serve(at, Some(item), path, &body)?;
                        if let Some(Flight::Answer {
                            item, status, body, ..
                        }) = self.net.flights.pop()
                        {
                            net::deliver(&item, status, body, Mishap::None, &mut Rng::new(0, 0));
                        }
                    }
                    _ => files::perform(&item).map_err(|e| format!("node {at}: {e}"))?,
                }
            }
        }
        Err(format!("node {at}: {} never ends", running.name))
    }

    /// Pull, push, pull, as a pull predicts the push; conflicts are resolved. True if something was new.
    fn settle(&mut self, at: usize, rng: &mut Rng) -> Result<bool, Violation> {
        let engine = self.nodes[at].engine.clone().unwrap();
        self.nodes[at].start("pull", engine.pull_changes_from_remote(), Outcome::Pulled);
        let pulled = self.drive(at)?;
        let mut predicted = None;
        if pulled.is_ok() {
            predicted = Some(super::support::tables(&self.nodes[at].path));
        }
        // After a conflict, too: the transaction may be on the remote already.
        self.nodes[at].start("push", engine.push_changes_to_remote(), |()| Outcome::Done);
        let pushed = self.drive(at)?;
        let conflicts = engine.conflicts().map_err(|e| e.to_string())?;
        match pushed {
            Ok(_) => {}
            Err(e) if e.category == Category::Conflict && !conflicts.is_empty() => predicted = None,
            Err(e) => return Err(format!("node {at} cannot sync: {:?} {e}", e.category)),
        }
        if let (true, Some(predicted)) = (conflicts.is_empty(), predicted) {
            let remote = super::support::tables(&self.server_path);
            if remote != predicted {
                return Err(format!(
                    "node {at}: the push was not what the pull predicted: {}",
                    super::scenarios::difference(&predicted, &remote)
                ));
            }
        }
        if !conflicts.is_empty() {
            let conflict = rng.pick(&conflicts);
            let resolution = *rng.pick(&[Resolution::Overwrite, drop_or_not(conflict)]);
            self.say(format!("node {at}: {resolution:?} for {conflict:?}"));
            let op = engine.resolve_conflict(conflict.txn_id, resolution);
            self.nodes[at].start("resolve", op, |()| Outcome::Done);
            if let Err(e) = self.drive(at)?
                && e.category != Category::Conflict
            {
                return Err(format!("node {at} cannot resolve: {e}"));
            }
            return Ok(true);
        }
        Ok(matches!(pulled, Ok(Outcome::Pulled(true))))
    }

    fn compare(&mut self) -> Checked {
        let failures = |machine| disk::with(|disk| disk.calls(machine)).unwrap().1;
        self.statistics.disk_failures = (0..=self.nodes.len()).map(failures).sum();
        let remote = super::support::tables(&self.server_path);
        let conn = plain(&self.server_path);
        check::database(&conn).map_err(|violation| format!("remote: {violation}"))?;
        let tags = check::tags(&conn)?;
        drop(conn);
        self.remote_tags()?;
        for at in 0..self.nodes.len() {
            let local = super::support::tables(&self.nodes[at].path);
            if local != remote {
                return Err(format!(
                    "node {at} is not the remote: {}",
                    super::scenarios::difference(&local, &remote)
                ));
            }
            check::node(&mut self.nodes[at])?;
            self.base(at)?;
            let gone = |t: &&super::node::Txn| {
                !t.risky && t.committed != Committed::Unknown && !tags.contains(&t.tag)
            };
            if let Some(txn) = self.nodes[at].txns.iter().find(gone) {
                return Err(format!("{} never arrived", txn.tag));
            }
            self.nodes[at].die();
            check::quiet(&self.nodes[at].path).map_err(|v| format!("node {at}: {v}"))?;
        }
        Ok(())
    }
}

/// A conflict that was repaired makes one transaction of all that are pending; then dropping it drops innocent ones.
fn drop_or_not(conflict: &Conflict) -> Resolution {
    match conflict.changes <= 8 {
        true => Resolution::Drop,
        false => Resolution::Overwrite,
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.net.flights.clear();
        self.nodes.iter_mut().for_each(Node::die);
        self.server = None;
        disk::install(None);
    }
}

//! What hosts do: open, start operations, resume, answer, close.

use turso_sync::engine::{Conflict, ConflictState, DatabaseSyncEngine, Resolution};
use turso_sync::error::{Category, Code, Error};
use turso_sync::io::{SyncEngineIoRequest, files};

use super::check::{self, Checked};
use super::disk;
use super::node::{Outcome, VirtualEnvironment};
use super::rng::Rng;
use super::world::World;

impl World {
    pub fn host(&mut self, at: usize, rng: &mut Rng) -> Checked {
        if self.hosts[at].engine.is_none() {
            self.open(at);
            return self.resume(at, 0);
        }
        if !self.hosts[at].unanswered.is_empty() && rng.one_in(8) {
            self.say(format!("host {at} closes without having answered"));
            self.hosts[at].die();
            return Ok(());
        }
        if !self.hosts[at].items.is_empty() && !rng.one_in(4) {
            return self.file(at, rng);
        }
        if !self.hosts[at].running.is_empty() && !self.net.flights.is_empty() && !rng.one_in(5) {
            return self.network(rng);
        }
        let host = &mut self.hosts[at];
        if !host.running.is_empty() && !rng.one_in(4) {
            let which = rng.below(host.running.len());
            if self.dangers.network && rng.one_in(25) {
                let dropped = host.running.remove(which);
                self.say(format!("host {at} cancels {}", dropped.name));
                if !self.hosts[at].ready && self.hosts[at].running.is_empty() {
                    self.hosts[at].die();
                }
                return Ok(());
            }
            return self.resume(at, which);
        }
        if host.ready && host.running.len() < 2 {
            self.start(at, rng);
            if let Some(last) = self.hosts[at].running.len().checked_sub(1) {
                self.resume(at, last)?;
            }
            // Without these nothing would ever come to its end between the deaths.
            if rng.one_in(2) {
                return self.hurry(at, rng);
            }
        }
        Ok(())
    }

    /// Goes on with the operations of one host, and with what is under way.
    fn hurry(&mut self, at: usize, rng: &mut Rng) -> Checked {
        for _ in 0..30 {
            let host = &self.hosts[at];
            let stuck = host.items.is_empty() && self.net.flights.is_empty() && !host.unanswered.is_empty();
            if host.running.is_empty() || stuck || self.dead(host.node) {
                break;
            }
            match (host.items.is_empty(), self.net.flights.is_empty()) {
                (false, _) => self.file(at, rng)?,
                (true, false) => self.network(rng)?,
                (true, true) => self.resume(at, 0)?,
            }
        }
        Ok(())
    }

    /// Performs a file request, or not.
    fn file(&mut self, at: usize, rng: &mut Rng) -> Checked {
        let host = &mut self.hosts[at];
        let item = host.items.swap_remove(rng.below(host.items.len()));
        let what = match item.request() {
            SyncEngineIoRequest::FullRead { .. } => "reads",
            _ => "writes",
        };
        let done = match rng.below(80) {
            0 => {
                self.nodes[host.node].troubles += 1;
                item.poison("the host does not want to");
                "refuses"
            }
            1 if self.dangers.network => {
                self.nodes[host.node].troubles += 1;
                host.unanswered.push(item);
                "never answers"
            }
            _ => match files::perform(&item) {
                Ok(()) => "done",
                Err(_) => "failed",
            },
        };
        self.say(format!("host {at} {what} a file: {done}"));
        self.go_on(at, rng)
    }

    pub fn open(&mut self, at: usize) {
        let environment = VirtualEnvironment {
            clock: self.clock.clone(),
            names: self.names.clone(),
        };
        let host = &mut self.hosts[at];
        let node = &self.nodes[host.node];
        let engine = DatabaseSyncEngine::with_environment(node.opts.clone(), Box::new(environment)).unwrap();
        host.start(node, "create", engine.create_db(), |()| Outcome::Done);
        host.engine = Some(engine);
        self.say(format!("host {at} opens"));
    }

    fn start(&mut self, at: usize, rng: &mut Rng) {
        let host = &mut self.hosts[at];
        let node = &self.nodes[host.node];
        let Some(engine) = host.engine.clone() else { return };
        let name = match rng.below(12) {
            0 | 1 => {
                host.start(node, "push", engine.push_changes_to_remote(), |()| Outcome::Done);
                "push"
            }
            2 | 3 => {
                host.start(node, "pull", engine.pull_changes_from_remote(), Outcome::Pulled);
                "pull"
            }
            4 | 5 => {
                host.start(node, "sync", engine.sync(), Outcome::Pulled);
                "sync"
            }
            6 => {
                host.start(node, "wait", engine.wait_changes_from_remote(), Outcome::Download);
                "wait"
            }
            7 => match host.download.take() {
                Some(_) if rng.one_in(4) => "drop the download",
                Some(changes) => {
                    let apply = engine.apply_changes_from_remote(changes);
                    host.start(node, "apply", apply, |()| Outcome::Done);
                    "apply"
                }
                None => "nothing",
            },
            8 | 9 => {
                host.start(node, "checkpoint", engine.checkpoint(), |()| Outcome::Done);
                "checkpoint"
            }
            10 => self.resolve(at, rng),
            _ if rng.one_in(2) => {
                host.conns.clear();
                "close the connections"
            }
            _ => {
                host.die();
                "close"
            }
        };
        self.say(format!("host {at}: {name}"));
    }

    /// What is set aside in one file may be pending in its copy, or set aside there, too: whoever restores it must know.
    pub fn open_conflicts(&self, engine: &DatabaseSyncEngine) -> Result<Vec<Conflict>, Error> {
        let mut conflicts = engine.conflicts()?;
        if self.statistics.copies + self.statistics.put_back > 0 {
            conflicts.retain(|conflict| conflict.state != ConflictState::SetAside);
        }
        Ok(conflicts)
    }

    fn resolve(&mut self, at: usize, rng: &mut Rng) -> &'static str {
        let Some(engine) = self.hosts[at].engine.clone() else {
            return "nothing";
        };
        let conflicts = self.open_conflicts(&engine).unwrap_or_default();
        if conflicts.is_empty() {
            return "nothing";
        }
        let conflict = rng.pick(&conflicts);
        let resolution = *rng.pick(&[
            Resolution::Retry,
            Resolution::Overwrite,
            Resolution::SetAside,
            drop_or_not(conflict),
        ]);
        self.statistics.conflicts += 1;
        let op = engine.resolve_conflict(conflict.txn_id, resolution);
        let host = &mut self.hosts[at];
        host.start(&self.nodes[host.node], "resolve", op, |()| Outcome::Done);
        self.say(format!("{resolution:?} for {}", conflict.txn_id));
        "resolve"
    }

    /// Resumes an operation, and takes its requests.
    pub fn resume(&mut self, at: usize, which: usize) -> Checked {
        let host = &mut self.hosts[at];
        let answer = host.running[which].resume();
        if let Some(engine) = host.engine.clone() {
            while let Some(item) = engine.io().take_item() {
                match item.request() {
                    SyncEngineIoRequest::Http(_) => self.net.send(at, item),
                    _ => self.hosts[at].items.push(item),
                }
            }
        }
        match answer {
            Ok(None) => Ok(()),
            Ok(Some(outcome)) => self.ended(at, which, Ok(outcome)),
            Err(e) => self.ended(at, which, Err(e)),
        }
    }

    fn ended(&mut self, at: usize, which: usize, finished: Result<Outcome, Error>) -> Checked {
        let host = &mut self.hosts[at];
        let ended = host.running.remove(which);
        let promises = matches!(
            (ended.name, &finished),
            ("push" | "sync" | "apply" | "checkpoint", Ok(_)) | ("pull", Ok(Outcome::Pulled(true)))
        );
        let n = host.node;
        if promises {
            self.nodes[n].durable(ended.committed);
            self.promised = Some(n);
        }
        if promises && !self.dead(n) {
            self.base(n)?;
            // Without a base, a checkpoint has nothing to lose.
            if ended.name != "checkpoint" || !self.nodes[n].base_in_doubt {
                self.unnoticed(n, ended.committed.0)
                    .map_err(|violation| format!("host {at} {}: {violation}", ended.name))?;
            }
            let node = &mut self.nodes[n];
            node.epoch = disk::looking(node.machine, || check::epoch(&node.path))?;
        }
        let host = &mut self.hosts[at];
        match ended.name {
            "create" => match finished.is_ok() {
                true => host.ready = true,
                false => host.die(),
            },
            "pull" | "apply" => self.statistics.applied += u64::from(promises),
            "push" | "sync" => self.statistics.pushes += u64::from(promises),
            _ => {}
        }
        let said = match finished {
            Ok(Outcome::Download(changes)) => {
                let said = format!("download: {}", changes.is_some());
                self.hosts[at].download = changes;
                said
            }
            Ok(Outcome::Pulled(new)) => format!("new: {new}"),
            Ok(Outcome::Done) => "done".into(),
            Err(e) => {
                self.explain(n, &e, ended.troubles)
                    .map_err(|violation| format!("host {at} {}: {violation}", ended.name))?;
                format!("error: {e}")
            }
        };
        self.say(format!("host {at} {} ends; {said}", ended.name));
        Ok(())
    }

    /// Errors that nothing explains are violations.
    pub fn explain(&mut self, n: usize, e: &Error, troubles_then: u64) -> Checked {
        if self.dead(n) {
            return Ok(());
        }
        self.count_failures(n);
        let astray = self.astray(n)?;
        let node = &mut self.nodes[n];
        node.was_astray |= astray;
        let troubled = node.troubles > troubles_then;
        let never = match e.category {
            Category::Internal | Category::Usage => true,
            Category::Identity => !node.was_astray,
            Category::Foreign => !node.visited && !node.disk_failed,
            Category::Protocol => !troubled,
            _ => false,
        };
        let damaged = matches!(e.code, Code::Corrupt | Code::NotADb) && !node.disk_failed;
        match never || damaged {
            true => Err(format!("unexplained error: {:?} {:?} {e}", e.category, e.code)),
            false => Ok(()),
        }
    }

    /// The machine of the node is dead.
    pub fn dead(&self, n: usize) -> bool {
        let machine = self.nodes[n].machine;
        disk::with(|disk| disk.is_dead(machine)).unwrap()
    }

    /// Failures of the disk are troubles.
    pub fn count_failures(&mut self, n: usize) {
        let machine = self.nodes[n].machine;
        let (_, failures) = disk::with(|disk| disk.calls(machine)).unwrap();
        if failures > 0 {
            self.nodes[n].disk_failed = true;
        }
    }
}

/// A conflict that was repaired makes one transaction of all that are pending; then dropping it drops innocent ones.
pub fn drop_or_not(conflict: &Conflict) -> Resolution {
    match conflict.changes <= 8 {
        true => Resolution::Drop,
        false => Resolution::Overwrite,
    }
}

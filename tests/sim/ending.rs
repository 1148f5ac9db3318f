//! The end: everything works again, and all arrive at the same state.

use turso_sync::engine::{Conflict, Resolution};
use turso_sync::error::{Category, Error};
use turso_sync::io::{SyncEngineIoRequest, files};

use super::check::{self, Checked, Violation};
use super::disk;
use super::host::drop_or_not;
use super::net::{self, Flight, Mishap};
use super::node::{Host, Outcome};
use super::rng::Rng;
use super::scenarios::difference;
use super::support::{Tables, plain, tables};
use super::world::{Dangers, World};

impl World {
    /// Everything works from now on: everybody must arrive at the same state.
    pub fn converge(&mut self, rng: &mut Rng) -> Checked {
        self.say("everything works from now on");
        self.dangers = Dangers {
            network: false,
            death: false,
            power: false,
            errors: false,
            restore: false,
            copies: false,
            strangers: false,
        };
        for machine in (0..self.nodes.len())
            .map(|at| self.nodes[at].machine)
            .chain([self.server_machine])
        {
            disk::with(|disk| disk.set_fate(machine, None));
        }
        self.start_server()?;
        for flight in std::mem::take(&mut self.net.flights) {
            if let Flight::Request { host, path, body, .. } = flight {
                self.serve(host, None, path, &body)?;
            }
        }
        // From now on each node has one host, with its number.
        self.hosts.iter_mut().for_each(Host::die);
        self.hosts = (0..self.nodes.len()).map(Host::of).collect();
        for at in 0..self.nodes.len() {
            self.open(at);
            let opened = self.drive(at)?;
            opened.map_err(|e| format!("node {at} cannot be opened: {e}"))?;
        }
        let mut quiet = 0;
        for round in 0..25 {
            let mut busy = false;
            for at in 0..self.nodes.len() {
                // Who is refused is refused again and again, and may write to the remote each time.
                if !self.nodes[at].refused {
                    busy |= self.settle(at, rng)?;
                }
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

    /// Drives the newest operation of a host to its end, over a network that works.
    pub fn drive(&mut self, at: usize) -> Result<Result<Outcome, Error>, Violation> {
        let mut running = self.hosts[at].running.pop().unwrap();
        let engine = self.hosts[at].engine.clone().unwrap();
        for _ in 0..10_000 {
            match running.resume() {
                Ok(Some(outcome)) => {
                    self.hosts[at].ready = true;
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
                        let others = self.net.flights.len();
                        self.serve(at, Some(item), path, &body)?;
                        if let Some(Flight::Answer {
                            item, status, body, ..
                        }) = self.net.flights.drain(others..).next()
                        {
                            net::deliver(&item, status, body, Mishap::None, &mut Rng::new(0, 0));
                        }
                    }
                    // If it fails, so does the operation.
                    _ => drop(files::perform(&item)),
                }
            }
        }
        Err(format!("node {at}: {} never ends", running.name))
    }

    /// Pull, push, pull, as a pull predicts the push; conflicts are resolved. True if something was new.
    fn settle(&mut self, at: usize, rng: &mut Rng) -> Result<bool, Violation> {
        let engine = self.hosts[at].engine.clone().unwrap();
        self.hosts[at].start(
            &self.nodes[at],
            "pull",
            engine.pull_changes_from_remote(),
            Outcome::Pulled,
        );
        let pulled = self.drive(at)?;
        let astray = self.astray(at)?;
        match &pulled {
            Ok(_) if astray => return Err(format!("node {at} is astray, and was not told")),
            Err(e) if e.category == Category::Identity && !astray => {
                return Err(format!("node {at} is not astray, but: {e}"));
            }
            _ => {}
        }
        if let Err(e) = &pulled
            && e.category == Category::Foreign
            && !astray
        {
            self.explain(at, e, 0)?;
            self.decide(at, rng)?;
            let conflicts = self.open_conflicts(&engine).map_err(|e| e.to_string())?;
            if !conflicts.is_empty() {
                self.resolve_one(at, &conflicts, rng)?;
            }
            return Ok(true);
        }
        let refused = astray;
        self.nodes[at].refused = refused;
        let mut predicted = None;
        if pulled.is_ok() {
            predicted = Some(self.shared(at));
        }
        // After a conflict, too: the transaction may be on the remote already.
        self.hosts[at].start(&self.nodes[at], "push", engine.push_changes_to_remote(), |()| {
            Outcome::Done
        });
        let pushed = self.drive(at)?;
        let conflicts = self.open_conflicts(&engine).map_err(|e| e.to_string())?;
        match pushed {
            Ok(_) => {}
            // What it has is safe, here or there; it must not go on without its user's word.
            Err(e)
                if refused
                    && matches!(
                        e.category,
                        Category::Identity | Category::Conflict | Category::Foreign
                    ) =>
            {
                return Ok(false);
            }
            Err(e) if e.category == Category::Conflict && !conflicts.is_empty() => predicted = None,
            Err(e) => return Err(format!("node {at} cannot sync: {:?} {e}", e.category)),
        }
        if let (true, Some(predicted)) = (conflicts.is_empty(), predicted) {
            let remote = tables(&self.server_path);
            if remote != predicted {
                return Err(format!(
                    "node {at}: the push was not what the pull predicted: {}",
                    difference(&predicted, &remote)
                ));
            }
        }
        if refused {
            return Ok(false);
        }
        if !conflicts.is_empty() {
            self.resolve_one(at, &conflicts, rng)?;
            return Ok(true);
        }
        Ok(matches!(pulled, Ok(Outcome::Pulled(true))))
    }

    fn resolve_one(&mut self, at: usize, conflicts: &[Conflict], rng: &mut Rng) -> Checked {
        let Some(engine) = self.hosts[at].engine.clone() else {
            return Ok(());
        };
        let conflict = rng.pick(conflicts);
        let resolution = *rng.pick(&[Resolution::Overwrite, drop_or_not(conflict)]);
        self.say(format!("node {at}: {resolution:?} for {conflict:?}"));
        let op = engine.resolve_conflict(conflict.txn_id, resolution);
        self.hosts[at].start(&self.nodes[at], "resolve", op, |()| Outcome::Done);
        match self.drive(at)? {
            // There may be more of them, or something to decide about first.
            Err(e) if !matches!(e.category, Category::Conflict | Category::Foreign) => {
                Err(format!("node {at} cannot resolve: {e}"))
            }
            _ => Ok(()),
        }
    }

    fn compare(&mut self) -> Checked {
        let failures = |machine| disk::with(|disk| disk.calls(machine)).unwrap().1;
        self.statistics.disk_failures = (0..=self.nodes.len()).map(failures).sum();
        let remote = tables(&self.server_path);
        let conn = plain(&self.server_path);
        check::database(&conn).map_err(|violation| format!("remote: {violation}"))?;
        let tags = check::tags(&conn)?;
        for n in 0..self.nodes.len() {
            if !self.nodes[n].refused {
                check::early(&conn, &self.nodes[n])?;
            }
        }
        drop(conn);
        self.remote_tags()?;
        if let Some(gone) = self.arrived.difference(&tags).next() {
            return Err(format!("{gone} had arrived, and is gone"));
        }
        for at in 0..self.nodes.len() {
            let local = self.shared(at);
            let refused = self.nodes[at].refused;
            self.statistics.refused += u64::from(refused);
            if local != remote && !refused {
                return Err(format!(
                    "node {at} is not the remote: {}",
                    difference(&local, &remote)
                ));
            }
            check::node(&mut self.nodes[at])?;
            self.base(at)?;
            if let (false, Some(gone)) = (refused, check::gone(&self.nodes[at], &tags)) {
                return Err(format!("{gone} never arrived"));
            }
            // The next to open tidies up, if it is an hour later.
            self.time_goes_by(3600);
            self.hosts[at].die();
            self.open(at);
            let opened = self.drive(at)?;
            opened.map_err(|e| format!("node {at} cannot be opened again: {e}"))?;
            self.hosts[at].die();
            // What waits for a decision stays in the log.
            if !(self.nodes[at].refused && (self.nodes[at].disk_failed || self.nodes[at].visited)) {
                check::quiet(&self.nodes[at].path).map_err(|v| format!("node {at}: {v}"))?;
            }
        }
        Ok(())
    }

    /// The tables that the node shares with the remote.
    fn shared(&self, at: usize) -> Tables {
        let mut tables = tables(&self.nodes[at].path);
        if self.nodes[at].has_cache() {
            tables.remove("cache");
        }
        tables
    }
}

//! What network and server do.

use turso_sync::io::IoItem;

use super::check::{self, Checked};
use super::net::{self, Flight, Mishap};
use super::node::{Kind, Txn};
use super::rng::Rng;
use super::support::plain;
use super::world::World;

impl World {
    pub fn network(&mut self, rng: &mut Rng) -> Checked {
        if self.net.flights.is_empty() {
            let at = rng.below(self.hosts.len());
            return self.host(at, rng);
        }
        let which = rng.below(self.net.flights.len());
        let flight = self.net.flights.swap_remove(which);
        let trouble = self.dangers.network && rng.one_in(6);
        match flight {
            Flight::Request {
                host,
                item,
                path,
                body,
            } => match trouble {
                true => self.troubled_request(host, item, path, body, rng),
                false => self.serve(host, item, path, &body),
            },
            Flight::Answer {
                host,
                item,
                status,
                body,
            } => {
                let mishap = match trouble {
                    false => Mishap::None,
                    true => self.mishap(host, rng),
                };
                let length = body.len();
                self.say(format!(
                    "answer {status} to host {host} ({length} bytes): {mishap:?}"
                ));
                net::deliver(&item, status, body, mishap, rng);
                self.go_on(host, rng)
            }
        }
    }

    fn mishap(&mut self, host: usize, rng: &mut Rng) -> Mishap {
        self.nodes[self.hosts[host].node].troubles += 1;
        *rng.pick(&[
            Mishap::Lost,
            Mishap::Broken,
            Mishap::Short,
            Mishap::HeaderOnly,
            Mishap::Replaced,
            Mishap::Garbled,
        ])
    }

    fn troubled_request(
        &mut self,
        host: usize,
        item: Option<IoItem>,
        path: String,
        body: Vec<u8>,
        rng: &mut Rng,
    ) -> Checked {
        self.nodes[self.hosts[host].node].troubles += 1;
        let what = rng.below(4);
        let word = [
            "is lost",
            "will come again",
            "comes, its sender gives up",
            "comes, and is never answered",
        ];
        self.say(format!(
            "request of host {host} to {} {}",
            endpoint(&path),
            word[what]
        ));
        match (what, item) {
            (0, Some(item)) => {
                item.poison("no connection");
                Ok(())
            }
            (0, None) => Ok(()),
            (1, item) => {
                let copy = Flight::Request {
                    host,
                    item: None,
                    path: path.clone(),
                    body: body.clone(),
                };
                self.net.flights.push(copy);
                self.serve(host, item, path, &body)
            }
            (2, item) => {
                if let Some(item) = item {
                    item.poison("timeout");
                }
                self.serve(host, None, path, &body)
            }
            (_, item) => {
                self.hosts[host].unanswered.extend(item);
                self.serve(host, None, path, &body)
            }
        }
    }

    /// A request of the host was answered: mostly its host resumes at once.
    pub fn go_on(&mut self, at: usize, rng: &mut Rng) -> Checked {
        if !rng.one_in(4) {
            for which in (0..self.hosts[at].running.len()).rev() {
                self.resume(at, which)?;
            }
        }
        Ok(())
    }

    pub fn serve(&mut self, host: usize, item: Option<IoItem>, path: String, body: &[u8]) -> Checked {
        let n = self.hosts[host].node;
        let answer = match &self.server {
            Some(server) => {
                self.statistics.requests += 1;
                server.answer(&path, body)
            }
            None => {
                self.nodes[n].troubles += 1;
                if let Some(item) = item {
                    item.poison("connection refused");
                }
                return Ok(());
            }
        };
        let is_push = path == "/push-changes" || body.windows(6).any(|w| w == b"COMMIT");
        self.say(format!(
            "server to host {host}, {}: {}",
            endpoint(&path),
            in_short(&answer, is_push)
        ));
        let (status, body) = match answer {
            Ok(answer) if !self.server_is_dead() => answer,
            _ => {
                self.nodes[n].troubles += 1;
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
            self.nodes[n].troubles += 1;
        }
        if path.starts_with("/pull-updates") && status == 200 {
            let pages = check::pages(&plain(&self.server_path));
            let revision = check::remember(&mut self.bases, &body, pages)?;
            self.revisions.given_out(&revision);
            self.say(format!("revision {revision}"));
        } else {
            self.remote_clocks()?;
        }
        if is_push {
            let remote = plain(&self.server_path);
            check::invariants(&remote).map_err(|violation| format!("remote after a push: {violation}"))?;
        }
        if let Some(item) = item {
            self.net.flights.push(Flight::Answer {
                host,
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

    pub fn server_event(&mut self, rng: &mut Rng) -> Checked {
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
    pub fn remote_tags(&mut self) -> Checked {
        let tags = check::tags(&plain(&self.server_path))?;
        for tag in tags {
            let of_a_node = |txn: &Txn| txn.tag == tag && txn.kind != Kind::Discarded;
            let known = self.nodes.iter().any(|node| node.txns.iter().any(of_a_node));
            if !known && !self.overwritten.contains(&tag) {
                return Err(format!(
                    "{tag} is on the remote, but its replica has lost it or never had it"
                ));
            }
        }
        Ok(())
    }
}

/// Without the query, which has the name of a revision in it: another one in each run.
fn endpoint(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// An answer in the story.
fn in_short(answer: &turso_sync::error::Result<(u16, Vec<u8>)>, is_push: bool) -> String {
    match answer {
        Ok((status, body)) if is_push => {
            let text = String::from_utf8_lossy(body);
            let error = text
                .split("\"message\":")
                .nth(1)
                .unwrap_or(match text.starts_with('{') {
                    true => "",
                    false => &text,
                });
            format!("{status} to a push {error:.100}")
        }
        Ok((status, body)) => format!("{status}, {} bytes", body.len()),
        Err(e) => format!("fails: {e}"),
    }
}

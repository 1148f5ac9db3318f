//! A server that is restored from a backup.
//!
//! What the remote had acknowledged since the backup is gone. The base of a replica that has seen any of it is a state
//! that the remote never had, as far as the remote knows; such a replica is *astray*. It must be told so (an identity
//! error), or be given the whole database, and it must not lose anything of its own; all others go on as if nothing had
//! happened, and what they had pushed since, they push again.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};

use super::check::{self, Checked};
use super::disk;
use super::net::Flight;
use super::rng::Rng;
use super::support::plain;
use super::world::World;

/// A consistent copy of the server's files.
pub struct Backup {
    files: Vec<(OsString, Vec<u8>)>,
    revisions: Revisions,
}

/// What the server can say about revisions by their names.
#[derive(Clone, Default)]
pub struct Revisions {
    /// The history beside the database knows them.
    known: BTreeSet<String>,
    /// And what the database is now came from them.
    valid: BTreeSet<String>,
}

impl Revisions {
    pub fn given_out(&mut self, revision: &str) {
        self.known.insert(revision.to_owned());
        self.valid.insert(revision.to_owned());
    }
}

/// What is restored, and what becomes of the history of the pages that the server keeps beside the database.
#[derive(Clone, Copy, Debug)]
enum History {
    /// It is restored, too.
    Restored,
    /// It stays as it is, as when somebody copies only the database.
    Left,
    /// It is gone.
    Gone,
}

impl World {
    /// A backup, or its return.
    pub fn backup_event(&mut self, rng: &mut Rng) -> Checked {
        match self.backups.is_empty() || rng.one_in(3) {
            true => self.back_up(),
            false => self.restore(rng),
        }
    }

    /// The server's files while nobody uses them; what it does then is not what is on trial.
    fn stop_server(&mut self) {
        let machine = self.server_machine;
        disk::with(|disk| disk.set_fate(machine, None));
        self.server = None;
    }

    fn back_up(&mut self) -> Checked {
        self.stop_server();
        let files = self.server_files().into_iter().map(|name| {
            let content = fs::read(self.server_folder().join(&name)).unwrap();
            (name, content)
        });
        let backup = Backup {
            files: files.collect(),
            revisions: self.revisions.clone(),
        };
        self.backups.push(backup);
        self.say("the server is backed up");
        self.start_server()
    }

    fn restore(&mut self, rng: &mut Rng) -> Checked {
        self.stop_server();
        // Nobody keeps a request until the server is there again.
        for flight in std::mem::take(&mut self.net.flights) {
            match flight {
                Flight::Request { host, item, .. } => {
                    self.nodes[self.hosts[host].node].troubles += 1;
                    item.inspect(|item| item.poison("connection reset"));
                }
                answer => self.net.flights.push(answer),
            }
        }
        let history = *rng.pick(&[History::Restored, History::Left, History::Gone]);
        let which = rng.below(self.backups.len());
        self.put_back(which, history);
        self.say(format!(
            "the server is restored from backup {which}, its history: {history:?}"
        ));
        self.statistics.restores += 1;
        let conn = plain(&self.server_path);
        for owner in 0..self.remote_clock.len() {
            self.remote_clock[owner] = check::clock(&conn, owner)?;
        }
        drop(conn);
        let backup = &self.backups[which].revisions;
        self.revisions = match history {
            History::Restored => backup.clone(),
            History::Left => Revisions {
                valid: backup
                    .valid
                    .intersection(&self.revisions.known)
                    .cloned()
                    .collect(),
                known: std::mem::take(&mut self.revisions.known),
            },
            History::Gone => Revisions::default(),
        };
        for n in 0..self.nodes.len() {
            self.nodes[n].was_astray |= self.astray(n)?;
        }
        self.start_server()
    }

    fn put_back(&mut self, which: usize, history: History) {
        let folder = self.server_folder();
        let is_history = |name: &OsString| name.to_string_lossy().contains("-sync");
        let concerned = |name: &OsString| !is_history(name) || !matches!(history, History::Left);
        for name in self.server_files().iter().filter(|name| concerned(name)) {
            fs::remove_file(folder.join(name)).unwrap();
        }
        // What SQLite knows of a log is not true of another one.
        for shared in ["remote.db-shm", "remote.db-sync-shm"] {
            let _ = fs::remove_file(folder.join(shared));
        }
        for (name, content) in &self.backups[which].files {
            if concerned(name) && !(is_history(name) && matches!(history, History::Gone)) {
                fs::write(folder.join(name), content).unwrap();
                File::open(folder.join(name)).unwrap().sync_all().unwrap();
            }
        }
        File::open(folder).unwrap().sync_all().unwrap();
    }

    fn server_folder(&self) -> std::path::PathBuf {
        self.server_path.parent().unwrap().to_owned()
    }

    fn server_files(&self) -> BTreeSet<OsString> {
        let entries = fs::read_dir(self.server_folder()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| !name.to_string_lossy().ends_with("-shm"))
            .collect()
    }

    /// The base of the node is a state that the remote has lost, or does not know by its name any more.
    pub fn astray(&self, n: usize) -> Result<bool, check::Violation> {
        if self.statistics.restores == 0 {
            return Ok(false);
        }
        let node = &self.nodes[n];
        let revision = disk::looking(node.machine, || check::revision(&node.path))?.unwrap_or_default();
        Ok(!revision.is_empty() && !self.revisions.valid.contains(&revision))
    }
}

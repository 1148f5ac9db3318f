//! Other programs at the files of replicas, with a SQLite of their own.
//!
//! They write transactions that nobody captures, checkpoint the file, or only read and close it. Each such write must be noticed
//! before an operation changes anything, and stay until somebody has decided: adopted, it must arrive once; discarded,
//! it must be gone; what was captured stays in any case.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use turso_sync::engine::ForeignPolicy;
use turso_sync::error::{Category, Error};

use super::check::{self, Checked, Violation};
use super::disk;
use super::node::{Committed, Kind, Outcome, Txn};
use super::rng::Rng;
use super::workload;
use super::world::World;

impl World {
    pub fn stranger(&mut self, rng: &mut Rng) -> Checked {
        if rng.one_in(3) {
            let at = rng.below(self.hosts.len());
            return self.decide(at, rng);
        }
        let n = rng.below(self.nodes.len());
        let node = &self.nodes[n];
        if self.dead(n) {
            return Ok(());
        }
        let replica = disk::looking(node.machine, || check::replica(&node.path))?;
        if replica.is_none_or(|conn| check::tags(&conn).is_err()) {
            return Ok(());
        }
        self.visit(n, rng)
    }

    /// Another program opens the file, does something, and closes it or dies.
    fn visit(&mut self, n: usize, rng: &mut Rng) -> Checked {
        let dies = rng.one_in(3);
        let moves = rng.one_in(4);
        let node = &mut self.nodes[n];
        let mut txn = None;
        let mut sql = Vec::new();
        if !rng.one_in(4) {
            txn = Some(workload::stray(node, rng, &mut sql));
        }
        if moves {
            let how = rng.pick(&["PASSIVE", "FULL", "TRUNCATE"]);
            sql.push(format!("PRAGMA wal_checkpoint({how})"));
        }
        node.visited = true;
        node.base_in_doubt = true;
        let path = node.path.clone();
        let mut committed = false;
        let mut run = || -> rusqlite::Result<()> {
            let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, dies)?;
            conn.query_row("SELECT count(*) FROM event", [], |_| Ok(()))?;
            for sql in &sql {
                conn.execute_batch(sql)?;
                committed |= sql == "COMMIT";
            }
            Ok(())
        };
        let result = run();
        self.count_failures(n);
        self.statistics.visits += 1;
        let tag = txn.as_ref().map_or("nothing", |txn| txn.tag.as_str());
        self.say(format!(
            "another program at node {n} writes {tag}, moves the log: {moves}, dies: {dies}; {result:?}"
        ));
        let dead = self.dead(n);
        let node = &mut self.nodes[n];
        if dead {
            disk::with(|disk| disk.keep_times(node.machine));
        }
        if let Some(txn) = txn {
            node.txns.push(Txn {
                // What is written and moved in a copy that has no base yet may go unnoticed: see README.md.
                kind: if node.copied { Kind::Risky } else { txn.kind },
                committed: match committed && !dead {
                    true => Committed::Durable,
                    false => Committed::Unknown,
                },
                ..txn
            });
        }
        match result {
            Err(e) if !dead && !node.disk_failed && !is_busy(&e) => {
                Err(format!("another program at node {n}: {e}"))
            }
            _ => Ok(()),
        }
    }

    /// The user of a host decides about what another program has written, after a look at what it is. Nothing else happens
    /// meanwhile: who adopts what differs from a remote that has moved on writes over what others have pushed, and no
    /// counter would be right any more.
    pub fn decide(&mut self, at: usize, rng: &mut Rng) -> Checked {
        let n = self.hosts[at].node;
        let automatic = self.nodes[n].opts.foreign_policy != ForeignPolicy::Stop;
        if !self.hosts[at].ready || self.dead(n) || automatic && self.dangers.strangers {
            return Ok(());
        }
        let troubles = self.nodes[n].troubles;
        let count = self.nodes[n].txns.len();
        let found = match self.settle_foreign(at, ForeignPolicy::Stop)? {
            Ok(()) => return self.unnoticed(n, count),
            Err(e) if e.category == Category::Foreign => e,
            Err(e) => return self.explain(n, &e, troubles),
        };
        self.explain(n, &found, troubles)?;
        let exact = !["no longer has the revision", "does not fit"]
            .iter()
            .any(|words| found.message.contains(words));
        let policy = match exact && !automatic && rng.one_in(2) {
            true => ForeignPolicy::Adopt,
            false => ForeignPolicy::Discard,
        };
        let decided = self.settle_foreign(at, policy)?;
        let dead = self.dead(n);
        self.say(format!("node {n}: {policy:?}, {decided:?}"));
        let strays = self.nodes[n]
            .txns
            .iter_mut()
            .filter(|txn| txn.kind == Kind::Stray);
        let sure = decided.is_ok() && !dead;
        strays.for_each(|txn| {
            txn.kind = match policy {
                // Nobody knows what has become of them.
                _ if !sure || automatic => Kind::Risky,
                ForeignPolicy::Adopt => Kind::Plain,
                _ => Kind::Discarded,
            }
        });
        match policy {
            ForeignPolicy::Adopt => self.statistics.adopted += u64::from(sure),
            _ => self.statistics.discarded += u64::from(sure),
        }
        match decided {
            Err(e) => self.explain(n, &e, troubles),
            Ok(()) if dead => Ok(()),
            Ok(()) => self.look_at(n),
        }
    }

    fn settle_foreign(&mut self, at: usize, policy: ForeignPolicy) -> Result<Result<(), Error>, Violation> {
        let Some(engine) = self.hosts[at].engine.clone() else {
            return Ok(Ok(()));
        };
        let op = engine.settle_foreign_changes(policy);
        let host = &mut self.hosts[at];
        host.start(&self.nodes[host.node], "settle", op, |()| Outcome::Done);
        Ok(self.drive(at)?.map(drop))
    }

    /// An operation that nobody's decision was asked for has succeeded: then there was nothing to decide about among the
    /// first `count` transactions.
    pub fn unnoticed(&mut self, n: usize, count: usize) -> Checked {
        self.count_failures(n);
        let node = &self.nodes[n];
        let sure = |txn: &&Txn| txn.kind == Kind::Stray && txn.committed != Committed::Unknown;
        let stray = node.txns.iter().take(count).find(sure);
        match stray {
            Some(stray) if node.opts.foreign_policy == ForeignPolicy::Stop && !node.disk_failed => {
                Err(format!(
                    "node {n}: nobody has noticed that another program wrote {}",
                    stray.tag
                ))
            }
            _ => Ok(()),
        }
    }
}

fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

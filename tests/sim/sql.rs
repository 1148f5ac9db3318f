//! Local transactions.

use turso_sync::error::{Code, Error};

use super::check::Checked;
use super::node::{Committed, Conn, Kind, Txn};
use super::rng::Rng;
use super::workload;
use super::world::World;

impl World {
    pub fn transaction(&mut self, at: usize, rng: &mut Rng) -> Checked {
        if !self.hosts[at].ready {
            return self.host(at, rng);
        }
        let count = self.hosts[at].conns.len();
        if count == 0 || (count < 2 && rng.one_in(10)) {
            return self.connect(at, rng);
        }
        let which = rng.below(count);
        for _ in 0..1 + rng.below(3) {
            self.one_transaction(at, which, rng)?;
        }
        Ok(())
    }

    fn one_transaction(&mut self, at: usize, which: usize, rng: &mut Rng) -> Checked {
        let host = &mut self.hosts[at];
        let n = host.node;
        let conn = host.conns[which].conn.clone();
        let mut sql = Vec::new();
        let txn = match host.conns[which].open.take() {
            Some(txn) => txn,
            None => {
                sql.push(rng.pick(&["BEGIN", "BEGIN IMMEDIATE"]).to_string());
                match conn.execute_batch("SELECT 1 FROM event LIMIT 1").is_ok() {
                    true => workload::transaction(&mut self.nodes[n], rng, &mut sql),
                    false => workload::early(&mut self.nodes[n], &mut sql),
                }
            }
        };
        for sql in &sql {
            if let Err(e) = conn.execute_batch(sql) {
                let _ = conn.execute_batch("ROLLBACK");
                self.say(format!("host {at} {}: {sql}: {e}", txn.tag));
                return self.explain_sql(n, &e, sql);
            }
        }
        match rng.below(12) {
            0 => {
                self.say(format!("host {at} {}: open", txn.tag));
                self.hosts[at].conns[which].open = Some(txn);
                return Ok(());
            }
            1 => {
                self.say(format!("host {at} {}: rollback", txn.tag));
                let _ = conn.execute_batch("ROLLBACK");
                return Ok(());
            }
            _ => {}
        }
        self.commit(at, which, txn)
    }

    fn commit(&mut self, at: usize, which: usize, mut txn: Txn) -> Checked {
        let host = &self.hosts[at];
        let (n, full, conn) = (host.node, host.conns[which].full, host.conns[which].conn.clone());
        match conn.execute_batch("COMMIT") {
            Ok(()) => {
                self.say(format!("host {at} {}: committed, full: {full}", txn.tag));
                self.statistics.transactions += 1;
                // After its death the machine may still say yes to what never reached the disk.
                let dead = self.dead(n);
                txn.committed = if dead { Committed::Unknown } else { Committed::Yes };
                let node = &mut self.nodes[n];
                match txn.kind {
                    Kind::Tick => node.clock += i64::from(!dead),
                    Kind::Early => node.early += 2 * i64::from(full && !dead),
                    _ => node.txns.push(txn),
                }
                if full && !dead {
                    node.durable((node.txns.len(), node.clock));
                    self.promised = Some(n);
                }
                Ok(())
            }
            Err(e) => {
                let _ = conn.execute_batch("ROLLBACK");
                self.say(format!("host {at} {}: commit: {e}", txn.tag));
                txn.committed = Committed::Unknown;
                if matches!(txn.kind, Kind::Plain | Kind::Risky) {
                    self.nodes[n].txns.push(txn);
                }
                self.explain_sql(n, &e, "COMMIT")
            }
        }
    }

    fn explain_sql(&mut self, n: usize, e: &Error, sql: &str) -> Checked {
        self.count_failures(n);
        let node = &self.nodes[n];
        let expected = matches!(e.code, Code::Busy | Code::BusySnapshot)
            || e.code == Code::Constraint && sql.contains("uniq")
            || node.disk_failed
            || self.dead(n);
        match expected {
            true => Ok(()),
            false => Err(format!("node {n}: {sql}: {:?} {e}", e.code)),
        }
    }

    fn connect(&mut self, at: usize, rng: &mut Rng) -> Checked {
        let n = self.hosts[at].node;
        let Some(engine) = self.hosts[at].engine.clone() else {
            return Ok(());
        };
        let mut op = engine.connect_rw();
        let full = rng.one_in(2);
        let opened = op.resume().map(|_| op.take_result().unwrap());
        let opened = opened.and_then(|conn| {
            if full {
                conn.execute_batch("PRAGMA synchronous = FULL")?;
            }
            if self.nodes[n].has_cache() {
                conn.execute_batch("CREATE TABLE IF NOT EXISTS cache (tag TEXT)")?;
            }
            Ok(conn)
        });
        match opened {
            Ok(conn) => self.hosts[at].conns.push(Conn {
                conn,
                full,
                open: None,
            }),
            Err(e) => return self.explain_sql(n, &e, "connect"),
        }
        self.say(format!("host {at} connects"));
        Ok(())
    }
}

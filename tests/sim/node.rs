//! A replica on its machine, and the hosts: the processes that have it open.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use turso_sync::capture::Connection;
use turso_sync::engine::{
    ConflictPolicy, DatabaseSyncEngine, DatabaseSyncEngineOpts, DbChangesStatus, Environment, ForeignPolicy,
    ProtocolVersion,
};
use turso_sync::error::Result;
use turso_sync::io::{IoItem, Operation, OperationStatus};

use super::rng::Rng;

/// Virtual time, and names that count.
pub struct VirtualEnvironment {
    pub clock: Arc<AtomicI64>,
    pub names: Arc<AtomicU64>,
}

impl Environment for VirtualEnvironment {
    fn unix_time(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn unique_id(&self) -> String {
        format!("{:04}", self.names.fetch_add(1, Ordering::Relaxed))
    }
}

/// What an operation brought.
pub enum Outcome {
    Done,
    Pulled(bool),
    Download(Option<DbChangesStatus>),
}

/// An operation under way.
pub struct Running {
    pub name: &'static str,
    resume: Box<dyn FnMut() -> Result<Option<Outcome>>>,
    /// Troubles of the node when it began: what happens without a new one cannot be blamed on them.
    pub troubles: u64,
    /// Transactions that were committed when it began, and the clock.
    pub committed: (usize, i64),
}

impl Running {
    pub fn resume(&mut self) -> Result<Option<Outcome>> {
        (self.resume)()
    }
}

/// How sure it is that a transaction is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed {
    /// No power loss can take it back.
    Durable,
    /// Only a power loss can take it back.
    Yes,
    /// The commit failed or was cut short; the next look tells.
    Unknown,
}

/// What kind of transaction it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It leaves its tag.
    Plain,
    /// It leaves its tag, and can come into conflict and be taken out then.
    Risky,
    /// It only moves the clock.
    Tick,
    /// It only adds two rows to the table of what came before the first download.
    Early,
    /// Another program has written it, and nobody has decided about it. It leaves its tag.
    Stray,
    /// The same, and it was undone: it must not be there.
    Discarded,
}

/// A local transaction and the tag that it left.
#[derive(Clone, Debug)]
pub struct Txn {
    pub tag: String,
    pub committed: Committed,
    pub kind: Kind,
}

impl Txn {
    /// Another program has written it.
    pub fn is_foreign(&self) -> bool {
        self.tag.starts_with('f')
    }
}

pub struct Conn {
    pub conn: Connection,
    /// Commits are durable.
    pub full: bool,
    /// The transaction that is open.
    pub open: Option<Txn>,
}

/// A process that has a replica open. It lets go of things in the order of the fields.
#[derive(Default)]
pub struct Host {
    pub node: usize,
    pub running: Vec<Running>,
    /// File requests that the host has not performed yet.
    pub items: Vec<IoItem>,
    /// Requests that it will never answer.
    pub unanswered: Vec<IoItem>,
    pub download: Option<DbChangesStatus>,
    pub conns: Vec<Conn>,
    pub engine: Option<DatabaseSyncEngine>,
    /// The engine is open.
    pub ready: bool,
}

impl Host {
    /// A process that is about to open the replica `node`.
    pub fn of(node: usize) -> Host {
        Host {
            node,
            ..Host::default()
        }
    }

    /// Forgets everything that lives in memory.
    pub fn die(&mut self) {
        *self = Host::of(self.node);
    }

    pub fn start<T: 'static>(
        &mut self,
        node: &Node,
        name: &'static str,
        mut op: Operation<T>,
        outcome: impl Fn(T) -> Outcome + 'static,
    ) {
        let resume = move || match op.resume()? {
            OperationStatus::Io => Ok(None),
            OperationStatus::Done => Ok(Some(outcome(op.take_result().unwrap()))),
        };
        self.running.push(Running {
            name,
            resume: Box::new(resume),
            troubles: node.troubles,
            committed: (node.txns.len(), node.clock),
        });
    }
}

/// A replica, and what it must not forget.
pub struct Node {
    /// Names what it writes: nobody else writes these rows.
    pub number: usize,
    pub machine: usize,
    pub path: PathBuf,
    pub opts: DatabaseSyncEngineOpts,
    /// In the order of their commits.
    pub txns: Vec<Txn>,
    pub next_tag: u64,
    /// The least that its clock must show, and the least after a power loss.
    pub clock: i64,
    pub durable_clock: i64,
    /// The least number of rows that came before the first download.
    pub early: i64,
    /// The number of the base that no power loss can take back.
    pub epoch: i64,
    /// Faults of network and disk so far.
    pub troubles: u64,
    /// A call on the disk has failed, otherwise than by death: the base may have to be fetched again.
    pub disk_failed: bool,
    /// Another program has had the file open: it may have moved the log, and may have to be decided about.
    pub visited: bool,
    /// The file is a copy, or was put back, and no base of its own has been seen since.
    pub copied: bool,
    /// The base may have to be fetched again, as the file was copied, or another program has moved its log.
    pub base_in_doubt: bool,
    /// Its base was a state that the remote had lost.
    pub was_astray: bool,
    /// In the end it must not sync until its user decides.
    pub refused: bool,
}

impl Node {
    pub fn new(number: usize, machine: usize, path: PathBuf, alone: bool, rng: &mut Rng) -> Node {
        let policies = [
            ConflictPolicy::Stop,
            ConflictPolicy::Overwrite,
            ConflictPolicy::SetAside,
        ];
        let opts = DatabaseSyncEngineOpts {
            path: path.to_str().unwrap().to_owned(),
            remote_url: Some("http://remote".into()),
            client_name: format!("node{number}"),
            bootstrap_if_empty: !rng.one_in(4),
            push_operations_threshold: *rng.pick(&[0, 1, 7]),
            pull_bytes_threshold: *rng.pick(&[0, 0, 5000, 20_000]),
            conflict_policy: *rng.pick(&policies),
            foreign_policy: match alone {
                // Over what others have pushed meanwhile, what is adopted wins: no counter would be right then.
                true => *rng.pick(&[ForeignPolicy::Stop, ForeignPolicy::Adopt, ForeignPolicy::Discard]),
                false => *rng.pick(&[ForeignPolicy::Stop, ForeignPolicy::Stop, ForeignPolicy::Discard]),
            },
            protocol_version_hint: *rng.pick(&[
                ProtocolVersion::Auto,
                ProtocolVersion::Compatible,
                ProtocolVersion::Direct,
            ]),
            tables_ignore: match rng.one_in(3) {
                true => vec!["cache".into()],
                false => Vec::new(),
            },
            ..Default::default()
        };
        Node {
            number,
            machine,
            path,
            opts,
            txns: Vec::new(),
            next_tag: 0,
            clock: 0,
            durable_clock: 0,
            early: 0,
            epoch: 0,
            troubles: 0,
            disk_failed: false,
            visited: false,
            copied: false,
            base_in_doubt: false,
            was_astray: false,
            refused: false,
        }
    }

    /// It has a table of its own that is never pushed.
    pub fn has_cache(&self) -> bool {
        !self.opts.tables_ignore.is_empty()
    }

    /// Nobody promises that such a transaction stays.
    pub fn may_take_out(&self, kind: Kind) -> bool {
        match kind {
            Kind::Risky | Kind::Discarded => true,
            Kind::Stray => self.opts.foreign_policy == ForeignPolicy::Discard || self.disk_failed,
            Kind::Plain | Kind::Tick | Kind::Early => false,
        }
    }

    /// The first `count` transactions are durable now, and what the clock showed then.
    pub fn durable(&mut self, (count, clock): (usize, i64)) {
        self.durable_clock = self.durable_clock.max(clock);
        for txn in self.txns.iter_mut().take(count) {
            if txn.committed == Committed::Yes {
                txn.committed = Committed::Durable;
            }
        }
    }
}

//! Has the host decide about the changes of the next push requests (`use_transform`).
//!
//! It is asked ahead of the requests, for whole transactions, in portions. What it decides is kept until the change is
//! sent and no longer: after an error it is asked again. A change that the remote has acknowledged is never shown again,
//! so it does not matter whether the host answers the same then.

use super::push::REQUEST_BYTES;
use super::{BUSY_TIMEOUT, Task, base_state};
use crate::capture::log::{LogEntry, read_entries};
use crate::capture::state::{self, ReplicaState};
use crate::error::Result;
use crate::io::{Stage, SyncEngineIo};
use crate::replay::PushGenerator;
use crate::transform::{DatabaseRowMutation, DatabaseRowTransformResult, Decisions};

/// Most log entries that are looked at for one question to the host.
const ENTRIES: usize = 1000;

/// Follows the log, ahead of the requests.
pub(super) struct Transformer {
    generator: PushGenerator,
    /// The last entry that was looked at.
    position: i64,
    /// The transaction that it belongs to.
    txn_id: i64,
    acknowledged: i64,
}

/// How much was decided about since the last request.
#[derive(Default)]
struct Amount {
    changes: u64,
    bytes: usize,
}

impl Transformer {
    /// Begins at the base; nobody is asked about changes up to `acknowledged`.
    pub fn new(task: &Task, state: &ReplicaState, acknowledged: i64) -> Result<Self> {
        Ok(Transformer {
            generator: task.store.with_base(&base_state(state), PushGenerator::new)?,
            position: 0,
            txn_id: 0,
            acknowledged,
        })
    }

    /// Has the host decide about whole transactions, until they have `operations` changes or there are no more. The
    /// decisions, and up to which change they go.
    pub async fn look_ahead(&mut self, task: &Task, operations: u64) -> Result<(Decisions, i64)> {
        let mut decisions = Decisions::new();
        let mut amount = Amount::default();
        loop {
            let conn = state::open_internal(task.path(), BUSY_TIMEOUT)?;
            let entries = read_entries(&conn, self.position, ENTRIES)?;
            drop(conn);
            let found = entries.len();
            let mut mutations = Vec::new();
            let mut ended = found == 0;
            for entry in entries {
                let enough = amount.changes >= operations || amount.bytes >= REQUEST_BYTES;
                if enough && entry.txn_id != self.txn_id {
                    ended = true;
                    break;
                }
                self.look_at(&entry, &mut amount, &mut mutations)?;
            }
            if !mutations.is_empty() {
                task.ask_host(mutations, &mut decisions).await?;
            }
            if ended {
                return Ok((decisions, self.position));
            }
        }
    }

    fn look_at(
        &mut self,
        entry: &LogEntry,
        amount: &mut Amount,
        mutations: &mut Vec<DatabaseRowMutation>,
    ) -> Result<()> {
        (self.position, self.txn_id) = (entry.change_id, entry.txn_id);
        if entry.change_id <= self.acknowledged {
            return self.generator.skip(entry);
        }
        amount.bytes += entry.image_bytes();
        if let Some(mutation) = self.generator.mutation(entry)? {
            amount.changes += 1;
            mutations.push(mutation);
        }
        Ok(())
    }
}

impl Task {
    async fn ask_host(&self, mutations: Vec<DatabaseRowMutation>, decisions: &mut Decisions) -> Result<()> {
        self.control.check()?;
        self.control.enter(Stage::Working);
        let ids: Vec<i64> = mutations.iter().map(|mutation| mutation.change_id).collect();
        let answer = self.queue.transform(mutations).await;
        let answer = answer.map_err(|e| e.context("push: transform"))?;
        let decided = ids.into_iter().zip(answer.decisions);
        decisions.extend(decided.filter(|(_, decision)| *decision != DatabaseRowTransformResult::Keep));
        self.control.enter(Stage::Uploading);
        Ok(())
    }
}

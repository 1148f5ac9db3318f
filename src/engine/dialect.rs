//! Which of the two dialects a replica speaks, and the requests of a push in both.
//!
//! Both carry the same statements; they differ in clothes only. The remote says in the header of a pull whether it
//! knows the direct one, and the replica remembers it. A remote that does not know it after all says 404 or 405,
//! and the same is said again in the compatible dialect. Should both requests arrive, the guard lets one of them pass.

use std::sync::atomic::Ordering;

use super::Inner;
use super::metadata::DatabaseMetadata;
use super::remote::{PIPELINE_PATH, PUSH_PATH};
use crate::error::{Error, Result};
use crate::protocol::pipeline::{BatchBuilder, BatchResult, StmtError};
use crate::protocol::pull::DIALECT_DIRECT;
use crate::protocol::push::{MAX_PUSH_ANSWER, PushAnswer, PushBuilder};
use crate::record::Value;

/// Which dialect of the protocol a replica speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProtocolVersion {
    /// The direct one with remotes that announce it, the compatible one with all others.
    #[default]
    Auto,
    /// That of Turso Cloud: `POST /pull-updates` and `POST /v2/pipeline`. Every remote knows it.
    Compatible,
    /// `GET /pull-updates` and `POST /push-changes`; where a remote answers them with 404 or 405, the compatible one.
    Direct,
}

/// Longest answer in the compatible dialect, in bytes, and what each step adds to it: results without rows take some two
/// hundred.
const MAX_ANSWER: usize = 64 << 10;
const MAX_ANSWER_PER_STEP: usize = 1 << 10;
/// Statements after which a new request starts, unless configured.
const OPERATIONS: u64 = 2000;
const DIRECT_OPERATIONS: u64 = 20_000;

impl Inner {
    /// Whether requests are made in the direct dialect.
    pub(super) fn speaks_direct(&self) -> bool {
        match self.opts.protocol_version_hint {
            ProtocolVersion::Auto => self.direct_known.load(Ordering::Relaxed),
            ProtocolVersion::Compatible => false,
            ProtocolVersion::Direct => true,
        }
    }

    /// What the remote has said of itself in the header of a pull.
    pub(super) fn note_dialects(&self, dialects: u32) {
        let known = dialects & DIALECT_DIRECT != 0;
        self.direct_known.store(known, Ordering::Relaxed);
    }

    /// True if `status` says that the remote does not know the direct dialect; then it is forgotten.
    pub(super) fn refuses_direct(&self, status: Option<u16>) -> bool {
        let refuses = matches!(status, Some(404 | 405));
        if refuses {
            tracing::debug!("the remote does not know the direct dialect");
            self.direct_known.store(false, Ordering::Relaxed);
        }
        refuses
    }

    /// What an earlier process has learned.
    pub(super) fn recall_dialects(&self, metadata: &DatabaseMetadata) {
        self.direct_known
            .fetch_or(metadata.knows_direct(), Ordering::Relaxed);
    }

    /// Notes it for later ones.
    pub(super) fn record_dialects(&self, metadata: &mut DatabaseMetadata) {
        metadata.set_knows_direct(self.direct_known.load(Ordering::Relaxed));
    }
}

/// A push request in the making. Steps have the same numbers in both dialects: 0 is `BEGIN IMMEDIATE`.
pub(super) enum PushWriter {
    Compatible(BatchBuilder),
    Direct(PushBuilder),
}

/// A finished push request.
pub(super) struct PushBody {
    pub direct: bool,
    pub body: Vec<u8>,
    /// Its steps, with `BEGIN IMMEDIATE`, `COMMIT` and `ROLLBACK`.
    pub steps: usize,
}

/// What the remote made of it.
pub(super) enum PushResult {
    Compatible(BatchResult, usize),
    /// The step that failed, if one did.
    Direct(Option<(usize, StmtError)>),
}

impl PushWriter {
    pub fn new(direct: bool) -> Self {
        match direct {
            true => PushWriter::Direct(PushBuilder::default()),
            false => PushWriter::Compatible(BatchBuilder::transaction()),
        }
    }

    /// The steps from here on belong to a local transaction; 0 = to none.
    pub fn begin_transaction(&mut self, txn_id: i64) {
        if let PushWriter::Direct(push) = self {
            push.begin_transaction(txn_id);
        }
    }

    pub fn step(&mut self, sql: &str, args: &[Value]) -> Result<()> {
        match self {
            PushWriter::Compatible(batch) => batch.step(sql, args).map(drop),
            PushWriter::Direct(push) => {
                push.step(sql, args);
                Ok(())
            }
        }
    }

    /// Number of steps so far.
    pub fn steps(&self) -> usize {
        match self {
            PushWriter::Compatible(batch) => batch.steps(),
            PushWriter::Direct(push) => push.count() as usize + 1,
        }
    }

    /// Bytes so far, uncompressed.
    pub fn len(&self) -> usize {
        match self {
            PushWriter::Compatible(batch) => batch.body_len(),
            PushWriter::Direct(push) => push.len(),
        }
    }

    pub fn commit(self) -> Result<PushBody> {
        let steps = self.steps() + 2;
        let (direct, body) = match self {
            PushWriter::Compatible(batch) => (false, batch.commit()?.0),
            PushWriter::Direct(push) => (true, push.finish()?),
        };
        Ok(PushBody { direct, body, steps })
    }
}

/// Statements after which a new request starts, if the configuration leaves it to the library.
pub(super) fn operations(direct: bool) -> u64 {
    match direct {
        true => DIRECT_OPERATIONS,
        false => OPERATIONS,
    }
}

impl PushBody {
    /// Path and content type.
    pub fn target(&self) -> (&'static str, &'static str) {
        match self.direct {
            true => (PUSH_PATH, "application/protobuf"),
            false => (PIPELINE_PATH, "application/json"),
        }
    }

    /// Longest answer that is taken, in bytes.
    pub fn max_answer(&self) -> usize {
        match self.direct {
            true => MAX_PUSH_ANSWER,
            false => MAX_ANSWER + self.steps.saturating_mul(MAX_ANSWER_PER_STEP),
        }
    }

    /// Reads the answer to it.
    pub fn result(&self, answer: &[u8]) -> Result<PushResult> {
        if !self.direct {
            return Ok(PushResult::Compatible(
                BatchResult::parse(answer, self.steps)?,
                self.steps,
            ));
        }
        let answer = PushAnswer::parse(answer)?;
        // Without BEGIN, COMMIT and ROLLBACK.
        let sent = self.steps as u64 - 3;
        match answer.conflicts.first() {
            None if answer.committed == sent => Ok(PushResult::Direct(None)),
            Some(conflict) if answer.committed == 0 && conflict.step <= sent + 1 => Ok(PushResult::Direct(
                Some((conflict.step as usize, conflict.to_error())),
            )),
            _ => Err(Error::protocol(format!(
                "the remote reports {} of {sent} steps committed, and {} conflicts",
                answer.committed,
                answer.conflicts.len()
            ))
            .retry()),
        }
    }
}

impl PushResult {
    /// The first step that failed.
    pub fn first_error(&self) -> Option<(usize, &StmtError)> {
        match self {
            PushResult::Compatible(result, _) => result.first_error(),
            PushResult::Direct(failed) => failed.as_ref().map(|(step, e)| (*step, e)),
        }
    }

    /// Without a failed step: whether the commit was reached.
    pub fn is_committed(&self) -> bool {
        match self {
            // The commit is the last step but one.
            PushResult::Compatible(result, steps) => result.result(steps.saturating_sub(2)).is_some(),
            PushResult::Direct(failed) => failed.is_none(),
        }
    }
}

//! Push: pending changes become SQL that the remote runs in one transaction, together with the watermark that
//! acknowledges them.
//!
//! A request consists of whole local transactions. Each step depends on the success of the one before, so that
//! after any failure nothing is left but a ROLLBACK. A guard step repeats what this client believes the watermark
//! to be: a request that is delivered twice, or late, changes nothing.
//!
//! A request without an answer may still arrive, and one that was refused may arrive again. Before something else
//! becomes of their changes, they are shut out: the guards compare a *fence* as well, a number that is raised then.
//!
//! While the host sends a request, the next one is made, on the assumption that the first will be committed. If it is not,
//! the second one is thrown away: it has not left this module.
//!
//! A request also tells who gave out the ids that it acknowledges, and the guard compares who did before: a copy of this
//! file, or an old state of it, must not take other changes for its own (see [`super::identity`]).

use std::collections::HashSet;
use std::future::Future;
use std::task::Poll;

use super::dialect::{self, PushBody, PushResult, PushWriter};
use super::identity::check_watermark;
use super::lock::SyncGuard;
use super::remote::{PIPELINE_PATH, Shared, check_status};
use super::transform::Transformer;
use super::{BUSY_TIMEOUT, Task, base_state};
use crate::capture::lineage::{Lineage, Segment, lineage_id};
use crate::capture::log::WATERMARK_TABLE;
use crate::capture::state::{self, HeaderValues, ReplicaState};
use crate::error::{Category, Code, Error, Result};
use crate::io::{BodySink, Stage};
use crate::pages::BaseHealth;
use crate::protocol::pipeline::{BatchBuilder, BatchResult, StmtError};
use crate::record::Value;
use crate::replay::{
    ConflictOperation, Failure, Purpose, PushGenerator, ReplayStatement, Transactions, conflicts,
    is_transient,
};

/// Bytes of a request after which a new one starts.
pub(super) const REQUEST_BYTES: usize = 4 << 20;
/// The next request is made ahead of the answer to one that is shorter than this: a longer one is a large transaction, of
/// which two need not be in memory.
const LOOK_AHEAD_BYTES: usize = 2 * REQUEST_BYTES;
/// Longest answer to the question for the watermark, in bytes.
const MAX_WATERMARK_ANSWER: usize = 65 << 10;
/// How often a push that finds the remote changed under it pulls and tries again.
const MAX_REBASES: u32 = 5;

enum Outcome {
    /// Everything that was pending at the start is on the remote.
    Done,
    /// The remote is not as this replica believes; a pull will tell more.
    RemoteMoved,
    /// The remote does not know the dialect of the request; nothing has happened.
    OtherDialect,
    /// The remote refused the COMMIT of several transactions: which one is to blame?
    CommitRefused,
    /// The remote refused a change, or its row is not the one that the change is about.
    Refused {
        failure: Box<Failure>,
        /// How often in a row the same change must fail until no pull is expected to help.
        patience: u32,
    },
}

/// The remote's answer to a batch.
enum Verdict<'a> {
    Committed,
    Moved,
    Refused(&'a ReplayStatement, &'a StmtError),
    CommitRefused,
}

/// What the remote has of this replica.
#[derive(Clone, Copy)]
struct Known {
    /// The watermark.
    acknowledged: i64,
    /// The fence.
    fence: i64,
    /// Token of the newest segment; 0 if there is none.
    newest: i64,
}

/// What is known for certain.
struct Kept {
    /// What the remote has.
    known: Known,
    /// What its header holds.
    header: HeaderValues,
    /// Changes up to this id were put into a request.
    sent: i64,
}

/// One request: whole transactions, and what to make of an error in one of its steps.
struct Batch {
    body: PushBody,
    /// Its bytes, uncompressed.
    len: usize,
    /// Step number of the first of `statements`; the watermark step follows the last.
    first: usize,
    /// Without their arguments.
    statements: Vec<ReplayStatement>,
    /// Captured changes that it carries.
    changes: u64,
    /// What the remote has once it is committed, and what its header holds then.
    known: Known,
    header: HeaderValues,
}

/// Reads the log once from its beginning and makes batches of it.
struct BatchReader {
    generator: PushGenerator,
    client_id: String,
    /// The last entry that was read.
    position: i64,
    /// What the remote has once all requests that were made are committed.
    known: Known,
    /// Transactions that overwrite what is in their way.
    overwriting: HashSet<i64>,
    /// What the remote's header holds then.
    header: HeaderValues,
    operations: u64,
    /// What is behind this change must wait: the host has not decided about it yet.
    until: i64,
    /// Requests are made in the direct dialect.
    direct: bool,
}

impl Task {
    pub(super) async fn push(&self, guard: &SyncGuard) -> Result<()> {
        self.settle(self.opts.foreign_policy, guard)?;
        let state = self.read_state()?;
        if state.sent <= state.acknowledged && self.has_blocked_conflict()? {
            // If it is there still, a pull sees it, and no request needs to be refused and shut out.
            self.pull_now(guard).await?;
        }
        let mut last = Error::busy("other clients keep changing the remote under this push; repeat it later");
        let mut rebases = 0;
        // The change that stopped the push last, and how often in a row.
        let (mut stopped_at, mut times) = (0, 0);
        let (mut one_at_a_time, mut direct) = (false, self.speaks_direct());
        while rebases < MAX_REBASES {
            let (state, health) = self.base(guard)?;
            let outcome = match health {
                BaseHealth::Intact => self.push_once(&state, one_at_a_time, direct).await?,
                // Without the base, nobody knows the schema that the oldest pending change had.
                _ => Outcome::RemoteMoved,
            };
            match outcome {
                Outcome::Done => return Ok(()),
                Outcome::RemoteMoved => {
                    rebases += 1;
                    self.pull_now(guard).await?;
                }
                Outcome::CommitRefused => one_at_a_time = true,
                Outcome::OtherDialect => direct = false,
                // Over the newest state of the remote it may pass, or be a conflict that a rebase finds.
                Outcome::Refused { failure, patience } => {
                    times = match stopped_at == failure.change_id {
                        true => times + 1,
                        false => 1,
                    };
                    stopped_at = failure.change_id;
                    // What the host has rewritten may be in the way; once it is pushed, a rebase sees it.
                    one_at_a_time |= times > 1 && self.opts.use_transform;
                    if times < patience && self.pull_now(guard).await? {
                        rebases += 1;
                        if patience < u32::MAX {
                            last = failure.error;
                        }
                    } else {
                        self.handle_refusal(*failure, guard).await?;
                        rebases = 0;
                    }
                }
            }
        }
        Err(last)
    }

    async fn push_once(&self, state: &ReplicaState, one_at_a_time: bool, direct: bool) -> Result<Outcome> {
        self.control.enter(Stage::Waiting);
        let Some(known) = self.ask_watermark(state).await? else {
            return Ok(Outcome::RemoteMoved);
        };
        let generator = self.store.with_base(&base_state(state), PushGenerator::new)?;
        let mut reader = BatchReader {
            generator,
            client_id: state.client_id.clone(),
            position: 0,
            known,
            overwriting: HashSet::new(),
            header: state.header,
            operations: match self.opts.push_operations_threshold {
                _ if one_at_a_time => 1,
                0 => dialect::operations(direct),
                n => n,
            },
            until: i64::MAX,
            direct,
        };
        let mut transformer = None;
        if self.opts.use_transform {
            transformer = Some(Transformer::new(self, state, known.acknowledged)?);
            reader.until = 0;
        }
        let mut kept = Kept {
            known,
            header: state.header,
            sent: state.sent,
        };
        self.control.enter(Stage::Uploading);
        self.expect_changes(known.acknowledged)?;
        let mut ahead = None;
        loop {
            let next = match ahead.take() {
                Some(made) => Some(made?),
                None => self.make_batch(&mut reader, &mut transformer).await?,
            };
            let Some(mut batch) = next else { break };
            self.control.check()?;
            if batch.known.acknowledged > kept.sent {
                kept.sent = batch.known.acknowledged;
                state::note_sent(self.path(), state, kept.sent, BUSY_TIMEOUT)?;
            }
            let answer = self.send_push(&mut batch.body)?;
            if transformer.is_none() && batch.len < LOOK_AHEAD_BYTES {
                // The host takes the request now, and may come back before it has the answer.
                give_way().await;
                // If there is nothing more, there may be later.
                ahead = self.make_batch(&mut reader, &mut transformer).await.transpose();
            }
            let result = match answer.await {
                Err(e) if direct && self.refuses_direct(e.http_status) => return Ok(Outcome::OtherDialect),
                answer => batch.body.result(&answer?).map_err(|e| e.context("push"))?,
            };
            if let Some(not_done) = self.judge(state, &batch, &result)? {
                let fence = fence_request(&state.client_id, &kept.known)?;
                return self
                    .not_kept(state, kept.known.acknowledged, not_done, fence)
                    .await;
            }
            kept.known = batch.known;
            self.control.changes_done(batch.changes);
            if batch.header != kept.header {
                state::set_header(self.path(), state, batch.header, BUSY_TIMEOUT)?;
                kept.header = batch.header;
            }
        }
        let acknowledged = kept.known.acknowledged;
        if acknowledged != state.acknowledged {
            state::note_acknowledged(self.path(), state, acknowledged, BUSY_TIMEOUT)?;
        }
        self.settle_conflicts(acknowledged)?;
        let now = self.environment.unix_time();
        self.update_metadata(|m| {
            m.last_push_unix_time = Some(now);
            m.last_pushed_change_id_hint = acknowledged;
        })
        .await?;
        Ok(Outcome::Done)
    }

    /// The next request; `None` if nothing is left.
    async fn make_batch(
        &self,
        reader: &mut BatchReader,
        transformer: &mut Option<Transformer>,
    ) -> Result<Option<Batch>> {
        if let Some(transformer) = transformer.as_mut().filter(|_| reader.position >= reader.until) {
            let (decisions, until) = transformer.look_ahead(self, reader.operations).await?;
            reader.generator.decide(decisions);
            reader.until = until;
        }
        let mut conn = state::open_internal(self.path(), BUSY_TIMEOUT)?;
        // One state of the file: if the changes were newer than the lineage, the remote would take those of a writer who has
        // just begun for another one's, and this file for a copy.
        let conn = conn.transaction()?;
        let header = HeaderValues::read(&conn)?;
        reader.overwriting = conflicts::overwriting(&conn)?;
        let lineage = Lineage::read(&conn)?;
        reader.next_batch(Transactions::new(&conn, reader.position), header, lineage)
    }

    /// What must be done about a request that was not committed; `None` if it was.
    fn judge(&self, state: &ReplicaState, batch: &Batch, result: &PushResult) -> Result<Option<Outcome>> {
        Ok(Some(match batch.check(result)? {
            Verdict::Committed => return Ok(None),
            Verdict::Moved => Outcome::RemoteMoved,
            Verdict::CommitRefused => Outcome::CommitRefused,
            Verdict::Refused(statement, error) => {
                let failure = self.failure(state, statement, error)?;
                Outcome::Refused {
                    patience: match (statement.purpose, failure.operation) {
                        (Purpose::Change | Purpose::Check, _) => 2,
                        // Within one transaction, what the host has rewritten takes it each time.
                        (Purpose::Guard, ConflictOperation::Insert) if self.opts.use_transform => 4,
                        // Others take the rowids; a rebase finds another one each time.
                        (Purpose::Guard, ConflictOperation::Insert) => u32::MAX,
                        // A row that others have changed is an insert after the rebase.
                        (Purpose::Guard, _) => 3,
                    },
                    failure: Box::new(failure),
                }
            }
        }))
    }

    fn expect_changes(&self, acknowledged: i64) -> Result<()> {
        let conn = state::open_internal(self.path(), BUSY_TIMEOUT)?;
        let pending = state::count_pending(&conn, acknowledged)?;
        let done = self.control.progress().changes_done;
        self.control.expect_changes(done + pending.unsigned_abs());
        Ok(())
    }

    /// The remote has not kept a request. Before anything else may become of its changes, it is shut out: a copy of it
    /// may still arrive, and so may an earlier one that had no answer.
    async fn not_kept(
        &self,
        state: &ReplicaState,
        acknowledged: i64,
        outcome: Outcome,
        fence: PushBody,
    ) -> Result<Outcome> {
        if let Outcome::Refused { failure, .. } = &outcome
            && failure.error.retryable
        {
            // Nothing will become of them but another attempt.
            return Ok(outcome);
        }
        if !self.raise_fence(fence).await? {
            return Ok(Outcome::RemoteMoved);
        }
        state::note_acknowledged(self.path(), state, acknowledged, BUSY_TIMEOUT)?;
        state::note_sent(self.path(), state, acknowledged, BUSY_TIMEOUT)?;
        Ok(outcome)
    }

    /// What the remote has of this replica; `None` if that is not what it is here, so that a pull has to find out more.
    async fn ask_watermark(&self, state: &ReplicaState) -> Result<Option<Known>> {
        let mut batch = BatchBuilder::plain();
        let sql = format!(
            "SELECT client_id, pull_gen, change_id FROM {WATERMARK_TABLE} WHERE client_id IN (?, ?, ?)"
        );
        let ids = [
            state.client_id.clone(),
            fence_id(&state.client_id),
            lineage_id(&state.client_id),
        ];
        batch.query(&sql, &ids.each_ref().map(|id| text(id)))?;
        let (body, steps) = batch.finish();
        let target = (PIPELINE_PATH, "application/json");
        let answer = self.send(target, body, MAX_WATERMARK_ANSWER)?.await?;
        let result = BatchResult::parse(&answer, steps).map_err(|e| e.context("push"))?;
        let rows = match (result.first_error(), result.result(0)) {
            (Some((_, e)), _) if e.message.contains("no such table") => &[],
            (Some((_, e)), _) => {
                return Err(Error::from(e.clone()).context("push: cannot read the watermark"));
            }
            (None, Some(result)) => result.rows.as_slice(),
            (None, None) => {
                return Err(Error::protocol(
                    "push: the remote did not answer the watermark query",
                ));
            }
        };
        let mut values = [None; 3];
        for row in rows {
            let [
                Value::Text(id),
                Value::Integer(pull_gen),
                Value::Integer(change_id),
            ] = row.as_slice()
            else {
                return Err(Error::protocol("push: the remote's watermark is malformed"));
            };
            let place = ids.iter().zip(&mut values).find(|(i, _)| i.as_bytes() == id);
            let text = match place {
                Some((_, place @ None)) => {
                    *place = Some((*pull_gen, *change_id));
                    continue;
                }
                Some(_) => "push: the remote has several watermarks for this replica",
                None => "push: the remote answers with the watermark of another replica",
            };
            return Err(Error::protocol(text));
        }
        let conn = state::open_internal(self.path(), BUSY_TIMEOUT)?;
        let before = state::read_watermark(&conn, &state.client_id)?;
        let [now, fence, newest] = values;
        let acknowledged = check_watermark(before, now)?;
        let [fence, newest] = [fence, newest].map(|value| value.map_or(0, |(_, value)| value));
        let ours = acknowledged <= state::last_change_id(&conn)?
            && Lineage::read(&conn)?.includes(newest, acknowledged);
        Ok(ours.then_some(Known {
            acknowledged,
            fence,
            newest,
        }))
    }

    /// Shuts out requests of this replica that may still be on their way. False if one has arrived already.
    async fn raise_fence(&self, mut request: PushBody) -> Result<bool> {
        let answer = self.send_push(&mut request)?.await?;
        let result = request.result(&answer).map_err(|e| e.context("push"))?;
        match result.first_error() {
            None => Ok(true),
            Some((GUARD_STEP, _)) => Ok(false),
            Some((_, e)) => Err(Error::from(e.clone()).context("push: cannot raise the fence")),
        }
    }

    /// A statement that the remote refused.
    fn failure(
        &self,
        state: &ReplicaState,
        statement: &ReplayStatement,
        error: &StmtError,
    ) -> Result<Failure> {
        let error = Error::from(error.clone());
        let transient = is_transient(&error);
        let error = match statement.purpose {
            Purpose::Guard if !transient => Error::new(
                Category::Conflict,
                Code::Constraint,
                "the row is not on the remote as it is here; triggers may write something else there",
            ),
            _ => error,
        };
        let mut refused = statement.failed(error).context("push");
        if transient {
            refused = refused.retry();
        } else {
            (refused.category, refused.code) = (Category::Conflict, Code::Constraint);
        }
        refused
            .message
            .push_str("; nothing of this transaction is on the remote, it stays pending");
        let conn = state::open_internal(self.path(), BUSY_TIMEOUT)?;
        // Its record follows the schema as it was then; the generator of the requests is further on.
        let mut generator = self.store.with_base(&base_state(state), PushGenerator::new)?;
        let mut log = Transactions::new(&conn, 0);
        while let Some(txn) = log.next_transaction()? {
            for entry in txn.entries() {
                let entry = entry?;
                if entry.change_id == statement.change_id {
                    return Ok(generator.failure(&entry, statement, refused));
                }
                generator.skip(&entry)?;
            }
        }
        Err(Error::internal("a change that was sent is not in the log"))
    }

    /// Puts a push into the queue; its body is gone afterwards. The future waits for the answer.
    fn send_push<'a>(
        &'a self,
        request: &mut PushBody,
    ) -> Result<impl Future<Output = Result<Vec<u8>>> + use<'a>> {
        let body = std::mem::take(&mut request.body);
        self.send(request.target(), body, request.max_answer())
    }

    /// Puts a request into the queue; the future waits for its answer, of at most `limit` bytes.
    fn send(
        &self,
        (path, content_type): (&str, &str),
        body: Vec<u8>,
        limit: usize,
    ) -> Result<impl Future<Output = Result<Vec<u8>>> + use<'_>> {
        let http = self.request(path, content_type, body)?;
        let answer = Shared::new(Vec::new());
        let (feed, control) = (answer.clone(), self.control.clone());
        let sink: BodySink = Box::new(move |bytes| {
            control.received(bytes.len());
            feed.with(|answer| match answer.len() + bytes.len() > limit {
                true => Err(Error::protocol(format!(
                    "the answer to a push is longer than {limit} bytes"
                ))),
                false => {
                    answer.extend_from_slice(bytes);
                    Ok(())
                }
            })
        });
        let response = self.exchange("push", http, Some(sink));
        Ok(async move {
            check_status("push", &response.await?)?;
            answer.take()
        })
    }
}

/// Ends once the host has had an opportunity to take what is in the queue.
async fn give_way() {
    let mut come_back = false;
    std::future::poll_fn(|_| match std::mem::replace(&mut come_back, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// Position of the guard in a request of changes.
const GUARD_STEP: usize = 2;

/// Sets a watermark; its values come from [`watermark`].
const UPSERT_WATERMARK: &str = "INSERT INTO turso_sync_last_change_id(client_id, pull_gen, change_id) VALUES (?, ?, ?) \
     ON CONFLICT(client_id) DO UPDATE SET pull_gen=excluded.pull_gen, change_id=excluded.change_id";

fn watermark(client_id: &str, change_id: i64) -> [Value; 3] {
    [text(client_id), Value::Integer(0), Value::Integer(change_id)]
}

fn segment_row(lineage_id: &str, segment: &Segment) -> [Value; 3] {
    watermark(&format!("{lineage_id}/{}", segment.token), segment.first)
}

/// Under which the fence lies among the watermarks.
fn fence_id(client_id: &str) -> String {
    format!("{client_id}/fence")
}

fn text(s: &str) -> Value {
    Value::Text(s.as_bytes().to_vec())
}

impl BatchReader {
    /// The next request, or `None` if nothing is left in `log`. The last one sets the header to `header`: a schema
    /// version must not arrive before the schema.
    fn next_batch(
        &mut self,
        mut log: Transactions<'_>,
        header: HeaderValues,
        lineage: Lineage,
    ) -> Result<Option<Batch>> {
        let before = self.known;
        let mut builder = start(self.direct, &self.client_id, &before)?;
        let first = builder.steps();
        let mut statements = Vec::new();
        let mut last_change_id = before.acknowledged;
        let mut changes = 0;
        let mut batch_header = header;
        while let Some(txn) = log.next_transaction()? {
            if txn.last_change_id() > self.until {
                batch_header = self.header;
                break;
            }
            self.position = txn.last_change_id();
            if self.position <= before.acknowledged {
                for entry in txn.entries() {
                    let entry = entry?;
                    self.generator.skip(&entry)?;
                }
                continue;
            }
            builder.begin_transaction(txn.txn_id());
            let overwrite = self.overwriting.contains(&txn.txn_id());
            changes += self
                .generator
                .each_statement(&txn, overwrite, &mut |mut statement| {
                    builder
                        .step(&statement.sql, &statement.args)
                        .map_err(|e| statement.failed(e))?;
                    // They are in the request now, and need not be in memory twice.
                    statement.args = Vec::new();
                    statements.push(statement);
                    Ok(())
                })?;
            last_change_id = self.position;
            if statements.len() as u64 >= self.operations || builder.len() >= REQUEST_BYTES {
                batch_header = self.header;
                break;
            }
        }
        // Changes that carry nothing to the remote are acknowledged all the same.
        if last_change_id == before.acknowledged && batch_header == self.header {
            return Ok(None);
        }
        builder.begin_transaction(0);
        for statement in batch_header.changes_from(&self.header) {
            builder.step(&statement, &[])?;
        }
        let newest = self.tell_lineage(lineage.until(last_change_id), &mut builder)?;
        builder.step(UPSERT_WATERMARK, &watermark(&self.client_id, last_change_id))?;
        self.known = Known {
            acknowledged: last_change_id,
            newest,
            ..before
        };
        self.header = batch_header;
        Ok(Some(Batch {
            len: builder.len(),
            body: builder.commit()?,
            first,
            statements,
            changes,
            known: self.known,
            header: batch_header,
        }))
    }

    /// The steps that tell the remote the segments of `lineage` that it does not know. Returns the token of the newest.
    fn tell_lineage(&self, lineage: Lineage, builder: &mut PushWriter) -> Result<i64> {
        let lineage = lineage.bounded();
        let segments = lineage.segments();
        let known = segments
            .iter()
            .position(|segment| segment.token == self.known.newest);
        let unknown = known.map_or(segments, |known| segments.get(known + 1..).unwrap_or_default());
        let Some(newest) = unknown.last() else {
            return Ok(self.known.newest);
        };
        let id = lineage_id(&self.client_id);
        if let Some((forgotten, kept)) = lineage.forgotten() {
            let sql = format!(
                "DELETE FROM {WATERMARK_TABLE} WHERE client_id > ? AND client_id < ? AND change_id < ?"
            );
            let (begin, end) = (format!("{id}/"), format!("{id}0"));
            builder.step(&sql, &[text(&begin), text(&end), Value::Integer(kept)])?;
            builder.step(UPSERT_WATERMARK, &segment_row(&id, &forgotten))?;
        }
        for segment in unknown {
            builder.step(UPSERT_WATERMARK, &segment_row(&id, segment))?;
        }
        builder.step(UPSERT_WATERMARK, &watermark(&id, newest.token))?;
        Ok(newest.token)
    }
}

/// A request that carries nothing but a higher fence, for a remote that has what is `known`.
fn fence_request(client_id: &str, known: &Known) -> Result<PushBody> {
    // Every remote knows the compatible dialect.
    let mut builder = start(false, client_id, known)?;
    let fence = known.fence.wrapping_add(1);
    builder.step(UPSERT_WATERMARK, &watermark(&fence_id(client_id), fence))?;
    builder.commit()
}

/// The steps before the changes: the last of them is the guard, which fails unless the remote has what is `known`.
fn start(direct: bool, client_id: &str, known: &Known) -> Result<PushWriter> {
    let mut builder = PushWriter::new(direct);
    builder.step(
        &format!(
            "CREATE TABLE IF NOT EXISTS {WATERMARK_TABLE} \
             (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)"
        ),
        &[],
    )?;
    // abs() of the smallest integer is an error on every server.
    let value = format!("ifnull((SELECT change_id FROM {WATERMARK_TABLE} WHERE client_id = ?), 0) <> ?");
    builder.step(
        &format!("SELECT CASE WHEN {value} OR {value} OR {value} THEN abs(-9223372036854775808) END"),
        &[
            text(client_id),
            Value::Integer(known.acknowledged),
            text(&fence_id(client_id)),
            Value::Integer(known.fence),
            text(&lineage_id(client_id)),
            Value::Integer(known.newest),
        ],
    )?;
    Ok(builder)
}

impl Batch {
    /// What the remote made of the request.
    fn check<'a>(&'a self, result: &'a PushResult) -> Result<Verdict<'a>> {
        let Some((step, error)) = result.first_error() else {
            return match result.is_committed() {
                true => Ok(Verdict::Committed),
                false => {
                    Err(Error::protocol("push: the remote reports neither an error nor a commit").retry())
                }
            };
        };
        if step == 0 {
            let e = Error::from(error.clone()).context("push: the remote cannot begin a transaction");
            return Err(if is_transient(&e) { e.retry() } else { e });
        }
        match step.checked_sub(self.first).and_then(|i| self.statements.get(i)) {
            Some(statement) => Ok(Verdict::Refused(statement, error)),
            None if step + 1 == self.first => Ok(Verdict::Moved),
            // A deferred constraint. Only one transaction can be blamed for it.
            None if step + 2 == self.body.steps && !is_transient(&Error::from(error.clone())) => {
                match (self.statements.first(), self.statements.last()) {
                    (Some(first), Some(last)) if first.txn_id == last.txn_id => {
                        Ok(Verdict::Refused(last, error))
                    }
                    _ => Ok(Verdict::CommitRefused),
                }
            }
            None => Err(Error::from(error.clone()).context("push")),
        }
    }
}

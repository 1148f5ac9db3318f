//! Makes the local state anew: what is only local, and the pending changes, over a base.

use std::cell::{Cell, RefCell};

use super::foreign::Reference;
use super::identity::{Admission, Place, place, standing};
use super::{BUSY_TIMEOUT, Inner, Task};
use crate::capture::lineage::{Claim, Lineage, Segment};
use crate::capture::state::{self, ReplicaState};
use crate::capture::{IgnoredTables, log};
use crate::error::{Category, Error, Result};
use crate::io::Stage;
use crate::pages::{ApplyContext, Base, Changes};
use crate::replay::{self, Failure, LocalTables, Plan, Progress, RebaseReport, conflicts};

/// Carries the pending changes over to the new base.
type Replay<'a> = &'a dyn Fn(&ApplyContext<'_>, Progress) -> Result<RebaseReport>;

/// The same on a scratch that is only compared.
pub(super) type Expected<'a> = &'a dyn Fn(&ApplyContext<'_>, Progress) -> Result<()>;

/// Steps of SQLite's machine after which a replay looks whether it was cancelled: well below a millisecond.
const INTERRUPT_STEPS: i32 = 10_000;

impl Task {
    /// What to do about conflicts, as configured.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            policy: self.opts.conflict_policy,
            unix_time: self.environment.unix_time(),
            ..Plan::default()
        }
    }

    /// Replaces the base by `changes` over it, and the main database by the pending changes over that. After an error
    /// nothing has changed, but the conflicts that are in the way are noted.
    pub(super) fn rebuild(
        &self,
        base: Base,
        state: &ReplicaState,
        changes: &Changes,
        revision: &str,
        plan: &Plan,
    ) -> Result<()> {
        self.rebuild_admitting(Admission::Own, base, state, changes, revision, plan)
    }

    /// The same over a base that may be of a remote that is not the replica's own.
    pub(super) fn rebuild_admitting(
        &self,
        admission: Admission,
        base: Base,
        state: &ReplicaState,
        changes: &Changes,
        revision: &str,
        plan: &Plan,
    ) -> Result<()> {
        self.control.enter(Stage::Applying);
        let identity = Identity {
            replica: self,
            admission,
            displaced_at: Cell::new(None),
        };
        let apply = |replay: Replay<'_>| {
            let make = |context: &ApplyContext<'_>| {
                self.control.check()?;
                let control = self.control.clone();
                let cancelled = move || control.is_cancelled();
                context
                    .scratch
                    .progress_handler(INTERRUPT_STEPS, Some(cancelled))?;
                let local = LocalTables::new(context.current, context.scratch, &self.ignored);
                new_state(context, state, revision, replay, &local, &identity)
            };
            self.store.apply(base, changes, BUSY_TIMEOUT, make).map(drop)
        };
        if plan.remove.is_none() && plan.restore.is_none() {
            let mut result = apply(&|c, progress| match plan.unmoved {
                true => replay::rebase_unmoved(c.current, c.scratch, progress),
                false => replay::rebase(c.current, c.scratch, progress),
            });
            if is_conflict(&result) {
                // Perhaps the user has repaired it since.
                result = apply(&|c, progress| replay::rebase_net(c.current, c.scratch, progress));
            }
            if !is_conflict(&result) {
                return result;
            }
        }
        let blocked = RefCell::new(Vec::new());
        let result = apply(&|c, progress| {
            replay::rebase_resolving(c.current, c.scratch, progress, plan)?
                .map_err(|failures| first_of(failures, &blocked))
        });
        if let (Some(acknowledged), true) = (identity.displaced_at.get(), is_conflict(&result)) {
            // So that what is in conflict may be taken out, although it was sent.
            state::note_sent(self.path(), state, acknowledged, BUSY_TIMEOUT)?;
        }
        let blocked = blocked.into_inner();
        if !blocked.is_empty() && plan.restore.is_none() {
            self.note_blocked(&blocked, plan.unix_time)?;
        }
        result
    }
}

impl Inner {
    /// Notes which transactions are in the way.
    pub(super) fn note_blocked(&self, failures: &[Failure], unix_time: i64) -> Result<()> {
        state::write(self.path(), BUSY_TIMEOUT, |conn| {
            conflicts::note_blocked(conn, failures, unix_time)
        })
    }
}

pub(super) fn is_conflict<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|e| e.category == Category::Conflict)
}

/// The error of the first of `failures`; all of them go to `blocked`.
pub(super) fn first_of(failures: Vec<Failure>, blocked: &RefCell<Vec<Failure>>) -> Error {
    let first = failures.first().map(|failure| failure.error.clone());
    blocked.replace(failures);
    first.unwrap_or_else(|| Error::internal("a conflict without a cause"))
}

/// Replays the pending changes over the base that they were made on, or over another one, without what is only local.
pub(super) fn expected_state(
    context: &ApplyContext<'_>,
    state: &ReplicaState,
    ignored: &IgnoredTables,
    reference: &Reference<'_>,
    replay: Expected<'_>,
) -> Result<()> {
    let (current, scratch) = (context.current, context.scratch);
    let last = state::last_change_id(current)?;
    let before = state::read_watermark(current, &state.client_id)?;
    let claim = Claim::read(scratch, &state.client_id)?;
    let acknowledged = match standing(before, &claim, &Lineage::read(current)?, last) {
        Ok(standing) => standing.acknowledged,
        Err(e) => reference
            .admission
            .or_any(e, || known_acknowledged(before, state))?,
    };
    log::create_local_tables(scratch)?;
    let progress = Progress {
        acknowledged,
        sent: state.sent,
        last,
    };
    LocalTables::new(current, scratch, ignored).prepare(acknowledged)?;
    replay(context, progress)
}

/// The change up to which the remote of old has everything, as far as this file knows.
fn known_acknowledged(before: Option<(i64, i64)>, state: &ReplicaState) -> i64 {
    before.map_or(0, |(_, known)| known).max(state.acknowledged)
}

/// Makes the new local state on the scratch.
fn new_state(
    context: &ApplyContext<'_>,
    state: &ReplicaState,
    revision: &str,
    replay: Replay<'_>,
    local: &LocalTables<'_>,
    identity: &Identity<'_>,
) -> Result<()> {
    let (current, scratch) = (context.current, context.scratch);
    let last = state::last_change_id(current)?;
    let ours = Lineage::read(current)?;
    let place = identity.place(context, state, &ours, last)?;
    let displaced = place.client_id != state.client_id;
    let same_base = revision == state.revision && identity.admission == Admission::Own;
    let behind = same_base || (!displaced && place.has < state.acknowledged);
    let header = state::rebase_header(current, scratch, state, behind)?;
    log::create_local_tables(scratch)?;
    conflicts::carry_over(current, scratch, place.has, same_base)?;
    let sent = match displaced {
        // Under the client id that it had, nothing behind them can ever reach the remote.
        true => place.has,
        // Read again: a push may have sent more since.
        false => ReplicaState::read(current)?.sent,
    };
    let progress = Progress {
        acknowledged: place.has,
        sent,
        last,
    };
    local.prepare(place.has)?;
    let report = replay(context, progress)?;
    local.carry_over()?;
    let mut lineage = ours;
    if report.last_change_id > last {
        lineage.begin(Segment {
            first: last + 1,
            token: identity.replica.writer.new_token(),
        });
    }
    let mut former = state::former_client_id(current)?;
    if displaced {
        former = state.client_id.clone();
        lineage = lineage.since(place.begins);
        tracing::info!(
            from = state.client_id,
            to = place.client_id,
            "the remote knows another file under this client id, or none; this one goes on under another"
        );
    }
    let new = ReplicaState {
        client_id: place.client_id,
        epoch: context.new_epoch,
        revision: revision.to_owned(),
        base_pages: context.base_pages,
        change_floor: last.max(report.last_change_id),
        sent,
        acknowledged: match same_base && !displaced {
            true => place.acknowledged.max(state.acknowledged),
            false => place.acknowledged,
        },
        header,
    };
    // Before this was made, somebody looked who wrote the log.
    state::set_settled(scratch, (context.log.salts, context.log.frames))?;
    state::write_former_client_id(scratch, &former)?;
    lineage.bounded().write(scratch)?;
    new.write(scratch)
}

/// Whether the file still is the one that the remote knows.
struct Identity<'a> {
    replica: &'a Inner,
    admission: Admission,
    /// If it is not: what the remote has of it.
    displaced_at: Cell<Option<i64>>,
}

impl Identity<'_> {
    fn place(
        &self,
        context: &ApplyContext<'_>,
        state: &ReplicaState,
        ours: &Lineage,
        last: i64,
    ) -> Result<Place> {
        let before = state::read_watermark(context.current, &state.client_id)?;
        let claim = |client_id: &str| Claim::read(context.scratch, client_id);
        let new_id = || self.replica.new_client_id();
        let place = place(&state.client_id, before, (ours, last), claim, new_id).or_else(|e| {
            let has = known_acknowledged(before, state);
            self.admission.or_any(e, || Place {
                client_id: self.replica.new_client_id(),
                begins: has + 1,
                has,
                acknowledged: 0,
            })
        })?;
        if place.client_id != state.client_id {
            self.displaced_at.set(Some(place.has));
        }
        Ok(place)
    }
}

//! Makes the local state anew: what is only local, and the pending changes, over a base.

use std::cell::RefCell;

use super::pull::check_watermark;
use super::{BUSY_TIMEOUT, Task};
use crate::capture::state::{self, ReplicaState};
use crate::capture::{IgnoredTables, log};
use crate::error::{Category, Error, Result};
use crate::io::Stage;
use crate::pages::{ApplyContext, Base, Changes};
use crate::replay::{self, Failure, LocalTables, Plan, Progress, RebaseReport, conflicts};

/// Carries the pending changes over to the new base.
type Replay<'a> = &'a dyn Fn(&ApplyContext<'_>, Progress) -> Result<RebaseReport>;

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
        self.control.enter(Stage::Applying);
        let apply = |replay: Replay<'_>| {
            let make = |context: &ApplyContext<'_>| {
                self.control.check()?;
                let control = self.control.clone();
                let cancelled = move || control.is_cancelled();
                context
                    .scratch
                    .progress_handler(INTERRUPT_STEPS, Some(cancelled))?;
                let local = LocalTables::new(context.current, context.scratch, &self.ignored);
                new_state(context, state, revision, replay, &local)
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
            replay::rebase_resolving(c.current, c.scratch, progress, plan)?.map_err(|failures| {
                let first = failures.first().map(|failure| failure.error.clone());
                blocked.replace(failures);
                first.unwrap_or_else(|| Error::internal("a conflict without a cause"))
            })
        });
        let blocked = blocked.into_inner();
        if !blocked.is_empty() && plan.restore.is_none() {
            self.note_blocked(&blocked, plan.unix_time)?;
        }
        result
    }

    /// Notes which transactions are in the way.
    pub(super) fn note_blocked(&self, failures: &[Failure], unix_time: i64) -> Result<()> {
        state::write(self.path(), BUSY_TIMEOUT, |conn| {
            conflicts::note_blocked(conn, failures, unix_time)
        })
    }
}

fn is_conflict(result: &Result<()>) -> bool {
    result.as_ref().is_err_and(|e| e.category == Category::Conflict)
}

/// Replays the pending changes over the base that they were made on (`exact`), or over another one, without what is only
/// local.
pub(super) fn expected_state(
    context: &ApplyContext<'_>,
    state: &ReplicaState,
    ignored: &IgnoredTables,
    exact: bool,
) -> Result<()> {
    let (current, scratch) = (context.current, context.scratch);
    let last = state::last_change_id(current)?;
    let now = state::read_watermark(scratch, &state.client_id)?;
    let acknowledged = check_watermark(None, now, last)?;
    log::create_local_tables(scratch)?;
    let progress = Progress {
        acknowledged,
        sent: state.sent,
        last,
    };
    LocalTables::new(current, scratch, ignored).prepare(acknowledged)?;
    match exact {
        true => replay::rebase_unmoved(current, scratch, progress),
        false => replay::rebase(current, scratch, progress),
    }
    .map(drop)
}

/// Makes the new local state on the scratch.
fn new_state(
    context: &ApplyContext<'_>,
    state: &ReplicaState,
    revision: &str,
    replay: Replay<'_>,
    local: &LocalTables<'_>,
) -> Result<()> {
    let (current, scratch) = (context.current, context.scratch);
    let last = state::last_change_id(current)?;
    let before = state::read_watermark(current, &state.client_id)?;
    let now = state::read_watermark(scratch, &state.client_id)?;
    let acknowledged = check_watermark(before, now, last)?;
    let header = state::rebase_header(current, scratch, state)?;
    log::create_local_tables(scratch)?;
    conflicts::carry_over(current, scratch, acknowledged)?;
    // Read again: a push may have sent more since.
    let sent = ReplicaState::read(current)?.sent;
    let progress = Progress {
        acknowledged,
        sent,
        last,
    };
    local.prepare(acknowledged)?;
    let report = replay(context, progress)?;
    local.carry_over()?;
    let state = ReplicaState {
        client_id: state.client_id.clone(),
        epoch: context.new_epoch,
        revision: revision.to_owned(),
        base_pages: context.base_pages,
        change_floor: last.max(report.last_change_id),
        sent,
        acknowledged,
        header,
    };
    // Before this was made, somebody looked who wrote the log.
    state::set_settled(scratch, (context.log.salts, context.log.frames))?;
    state.write(scratch)
}

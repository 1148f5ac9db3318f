//! Conflicts: listing and resolving.

use super::lock::SyncGuard;
use super::{BUSY_TIMEOUT, Inner, Task, base_state};
use crate::capture::state;
use crate::error::Result;
use crate::pages::{Base, BaseHealth};
use crate::replay::{
    Conflict, ConflictPolicy, ConflictState, Failure, Plan, Removal, Resolution, Restoring, conflicts,
};

impl Inner {
    pub(super) fn conflicts(&self) -> Result<Vec<Conflict>> {
        self.require_open()?;
        conflicts::list(&state::open_internal(self.path(), BUSY_TIMEOUT)?)
    }

    /// True if the last sync stopped at a transaction.
    pub(super) fn has_blocked_conflict(&self) -> Result<bool> {
        Ok(self
            .conflicts()?
            .iter()
            .any(|c| c.state == ConflictState::Blocked))
    }

    /// There is nothing to decide any more about transactions that the remote has acknowledged.
    pub(super) fn settle_conflicts(&self, acknowledged: i64) -> Result<()> {
        let conn = state::open_internal(self.path(), BUSY_TIMEOUT)?;
        conflicts::settle(&conn, acknowledged)
    }
}

impl Task {
    pub(super) async fn resolve_conflict(
        &self,
        txn_id: i64,
        resolution: Resolution,
        guard: &SyncGuard,
    ) -> Result<()> {
        let conn = state::open_internal(self.path(), BUSY_TIMEOUT)?;
        let state = conflicts::state_of(&conn, txn_id)?.ok_or_else(|| conflicts::unknown(txn_id))?;
        if state == ConflictState::SetAside {
            drop(conn);
            return self.resolve_set_aside(txn_id, resolution, guard).await;
        }
        let failure = conflicts::failure_of(&conn, txn_id)?.ok_or_else(|| conflicts::unknown(txn_id))?;
        drop(conn);
        match resolution {
            Resolution::Retry => {
                state::write(self.path(), BUSY_TIMEOUT, |conn| conflicts::remove(conn, txn_id))
            }
            Resolution::Overwrite => self.overwrite(&failure),
            Resolution::SetAside | Resolution::Drop => {
                let keep = resolution == Resolution::SetAside;
                self.take_out(Removal { failure, keep }, guard).await
            }
        }
    }

    async fn resolve_set_aside(&self, txn_id: i64, resolution: Resolution, guard: &SyncGuard) -> Result<()> {
        let overwrite = match resolution {
            Resolution::SetAside => return Ok(()),
            Resolution::Drop => {
                return state::write(self.path(), BUSY_TIMEOUT, |conn| conflicts::remove(conn, txn_id));
            }
            Resolution::Retry => false,
            Resolution::Overwrite => true,
        };
        let restore = Some(Restoring { txn_id, overwrite });
        let plan = self.plan();
        self.rearrange(Plan { restore, ..plan }, guard).await
    }

    /// A change that the remote refuses although the replica has everything that the remote has. `Ok` if the push can
    /// go on.
    pub(super) async fn handle_refusal(&self, failure: Failure, guard: &SyncGuard) -> Result<()> {
        if failure.error.retryable {
            return Err(failure.error);
        }
        let conn = state::open_internal(self.path(), BUSY_TIMEOUT)?;
        let overwrites = conflicts::overwriting(&conn)?.contains(&failure.txn_id);
        drop(conn);
        match self.opts.conflict_policy {
            ConflictPolicy::SetAside => self.take_out(Removal { failure, keep: true }, guard).await,
            ConflictPolicy::Overwrite if !overwrites => self.overwrite(&failure),
            _ => {
                self.note_blocked(std::slice::from_ref(&failure), self.environment.unix_time())?;
                Err(failure.error)
            }
        }
    }

    fn overwrite(&self, failure: &Failure) -> Result<()> {
        let now = self.environment.unix_time();
        state::write(self.path(), BUSY_TIMEOUT, |conn| {
            conflicts::note(conn, failure, ConflictState::Overwrite, now)
        })
    }

    async fn take_out(&self, removal: Removal, guard: &SyncGuard) -> Result<()> {
        let remove = Some(removal);
        let plan = self.plan();
        self.rearrange(Plan { remove, ..plan }, guard).await
    }

    /// Makes the local state anew over the base that is here, or, if it is lost, over a new one.
    async fn rearrange(&self, plan: Plan, guard: &SyncGuard) -> Result<()> {
        let (state, health) = self.base(guard)?;
        if health != BaseHealth::Intact {
            return self.pull_lost_base(guard, plan).await;
        }
        let nothing = self.no_changes(state.base_pages)?;
        let base = Base::Known(base_state(&state));
        self.rebuild(base, &state, &nothing, &state.revision, &plan)?;
        self.checkpoint_if_large(guard);
        Ok(())
    }
}

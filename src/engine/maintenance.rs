//! Checkpoints, and figures about the replica.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lock::SyncGuard;
use super::opts::ForeignPolicy;
use super::{BUSY_TIMEOUT, Inner, base_state};
use crate::capture::{Observer, state};
use crate::error::{Error, Result};
use crate::pages::BaseHealth;
use crate::replay::ConflictState;

/// Frames in the write-ahead log from which on the engine checkpoints by itself; SQLite's own default.
pub(super) const CHECKPOINT_FRAMES: u32 = 1000;

/// Figures about a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseSyncEngineStats {
    /// Captured changes that the remote has not acknowledged, as far as the last push has seen.
    pub cdc_operations: i64,
    /// Bytes of the write-ahead log.
    pub main_wal_size: u64,
    /// Bytes of the revert file.
    pub revert_wal_size: u64,
    /// Unix seconds of the last pull; 0 = never.
    pub last_pull_unix_time: i64,
    /// Unix seconds of the last push; 0 = never.
    pub last_push_unix_time: i64,
    /// Bytes of request bodies since open.
    pub network_sent_bytes: u64,
    /// Bytes of answer bodies since open.
    pub network_received_bytes: u64,
    /// The synced revision; empty if there was never one.
    pub revision: String,
}

/// What a user wants to know about a replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Captured changes that the remote has not acknowledged.
    pub pending_changes: i64,
    /// Transactions that the last sync stopped at.
    pub conflicts_blocked: usize,
    /// Transactions that were set aside.
    pub conflicts_set_aside: usize,
    /// Unix seconds of the last pull; 0 = never.
    pub last_pull_unix_time: i64,
    /// Unix seconds of the last push; 0 = never.
    pub last_push_unix_time: i64,
}

impl Inner {
    pub(super) fn status(&self) -> Result<ReplicaStatus> {
        let stats = self.stats()?;
        let conflicts = self.conflicts()?;
        let count = |state| conflicts.iter().filter(|c| c.state == state).count();
        Ok(ReplicaStatus {
            pending_changes: stats.cdc_operations,
            conflicts_blocked: count(ConflictState::Blocked),
            conflicts_set_aside: count(ConflictState::SetAside),
            last_pull_unix_time: stats.last_pull_unix_time,
            last_push_unix_time: stats.last_push_unix_time,
        })
    }

    pub(super) fn checkpoint(&self, busy_timeout: Duration, guard: &SyncGuard) -> Result<()> {
        let (state, health) = self.base(guard)?;
        if health != BaseHealth::Intact {
            // Nothing to preserve: the next pull fetches the base again. The log must still not grow.
            if let Some(log) = self.store.own_log()? {
                state::write(self.path(), busy_timeout, |conn| {
                    state::set_settled(conn, (log.salts, log.frames))
                })?;
            }
            return self.store.checkpoint_without_base(busy_timeout);
        }
        let report = self.store.checkpoint(&base_state(&state), busy_timeout)?;
        let rest = report.log_frames.saturating_sub(report.copied_frames);
        self.checkpoint_at
            .store(rest.saturating_add(CHECKPOINT_FRAMES), Ordering::Relaxed);
        Ok(())
    }

    /// Checkpoints if the log has grown past the threshold.
    pub(super) fn checkpoint_if_large(&self, guard: &SyncGuard) {
        if self.store.wal_size() / crate::pages::PAGE_SIZE as u64 >= u64::from(CHECKPOINT_FRAMES) {
            self.checkpoint_postponed(guard);
        }
    }

    /// Checkpoints if nobody is in the way; failing to is no failure of what was done before.
    pub(super) fn checkpoint_postponed(&self, guard: &SyncGuard) {
        if let Err(e) = self
            .settle_quietly(guard)
            .and_then(|()| self.checkpoint(Duration::ZERO, guard))
        {
            tracing::debug!(error = %e, "checkpoint postponed");
        }
    }

    /// Before a checkpoint that nobody has asked for. Whoever is to decide about changes of another program is asked by the
    /// next operation; until then they stay in the log.
    fn settle_quietly(&self, guard: &SyncGuard) -> Result<()> {
        if !self.foreign_tables().is_empty() {
            return Err(Error::busy("changes of another program wait for a decision"));
        }
        let policy = match self.opts.foreign_policy {
            ForeignPolicy::Discard => ForeignPolicy::Stop,
            other => other,
        };
        self.examine_log(policy, guard).map(drop)
    }

    fn checkpoint_unless_busy(&self) {
        if let Ok(guard) = self.lock.acquire() {
            self.checkpoint_postponed(&guard);
        }
    }

    pub(super) fn stats(&self) -> Result<DatabaseSyncEngineStats> {
        self.require_open()?;
        let (sent, received) = self.queue.network_bytes();
        let conn = state::open_internal(self.path(), BUSY_TIMEOUT)?;
        let state = state::ReplicaState::read(&conn)?;
        let guard = self.metadata();
        let metadata = guard.as_ref();
        Ok(DatabaseSyncEngineStats {
            cdc_operations: state::count_pending(&conn, state.acknowledged)?,
            main_wal_size: self.store.wal_size(),
            revert_wal_size: self.store.revert_size(),
            last_pull_unix_time: metadata.and_then(|m| m.last_pull_unix_time).unwrap_or(0),
            last_push_unix_time: metadata.and_then(|m| m.last_push_unix_time).unwrap_or(0),
            network_sent_bytes: sent,
            network_received_bytes: received,
            revision: state.revision,
        })
    }
}

/// Tells of commits, and keeps the write-ahead log short: SQLite's own checkpoints are off, because they would overwrite
/// the base.
pub(super) struct ConnectionWatch(pub(super) Arc<Inner>);

impl Observer for ConnectionWatch {
    fn committed(&self, frames: u32) {
        let inner = &self.0;
        inner.tell_watchers();
        if frames < CHECKPOINT_FRAMES {
            // The log started again from its beginning.
            inner.checkpoint_at.store(CHECKPOINT_FRAMES, Ordering::Relaxed);
        } else if frames >= inner.checkpoint_at.load(Ordering::Relaxed) {
            // Readers or a sync operation may be in the way: the next attempt comes with the next frames.
            inner
                .checkpoint_at
                .store(frames.saturating_add(CHECKPOINT_FRAMES), Ordering::Relaxed);
            inner.checkpoint_unless_busy();
        }
    }

    fn closed(&self) {
        if self.0.connections.fetch_sub(1, Ordering::SeqCst) == 1 {
            // A plain SQLite that opens and closes the file later must find nothing to move.
            self.0.checkpoint_unless_busy();
        }
    }
}

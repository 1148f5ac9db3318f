//! Wait and apply: the remote's new pages go below the pending local changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lock::SyncGuard;
use super::remote::{Shared, check_reserved};
use super::{BUSY_TIMEOUT, Task, base_state};
use crate::capture::state::{self, ReplicaState};
use crate::error::{Category, Code, Error, Result};
use crate::pages::{Base, BaseHealth, Changes, ChangesWriter};
use crate::protocol::pull::{PullEvent, PullHeader, PullUpdatesRequest};
use crate::replay::Plan;

/// Changes downloaded by a wait, not yet applied. Dropping them discards the download.
pub struct DbChangesStatus {
    download: Download,
    slot: DownloadSlot,
}

/// What a wait, or the pull inside another operation, has downloaded.
struct Download {
    changes: Changes,
    revision: String,
    /// The replica's epoch when they were downloaded.
    epoch: i64,
    /// They are the whole database, not a difference to the base.
    whole: bool,
}

impl DbChangesStatus {
    /// Revision that the changes lead to.
    pub fn revision(&self) -> &str {
        &self.download.revision
    }

    /// Number of pages downloaded.
    pub fn page_count(&self) -> usize {
        self.download.changes.len()
    }
}

/// The right to hold what a wait has downloaded: one at a time per engine.
struct DownloadSlot(Arc<AtomicBool>);

impl DownloadSlot {
    fn take(flag: &Arc<AtomicBool>) -> Result<Self> {
        if flag.swap(true, Ordering::AcqRel) {
            return Err(Error::busy(
                "the changes of another wait have not been applied yet; apply or drop them, then wait again",
            ));
        }
        Ok(DownloadSlot(flag.clone()))
    }
}

impl Drop for DownloadSlot {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Task {
    /// Downloads what is new. Does not hold the sync lock: local work and pushes go on during a long poll.
    pub(super) async fn wait(&self, long_poll_timeout_ms: u32) -> Result<Option<DbChangesStatus>> {
        self.require_open()?;
        let slot = DownloadSlot::take(&self.download_taken)?;
        let known = match self.lock.acquire() {
            Ok(guard) => self.base(&guard)?,
            // Somebody is at work on the base. If it gets lost, apply will see it.
            Err(e) if e.code == Code::Busy => (self.read_state()?, BaseHealth::Intact),
            Err(e) => return Err(e),
        };
        let download = self.download_changes(known, long_poll_timeout_ms).await?;
        Ok(download.map(|download| DbChangesStatus { download, slot }))
    }

    async fn download_changes(
        &self,
        (state, health): (ReplicaState, BaseHealth),
        long_poll_timeout_ms: u32,
    ) -> Result<Option<Download>> {
        let intact = health == BaseHealth::Intact;
        let client_revision = if intact {
            state.revision.clone()
        } else {
            String::new()
        };
        let request = PullUpdatesRequest {
            long_poll_timeout_ms: if client_revision.is_empty() {
                0
            } else {
                long_poll_timeout_ms
            },
            client_revision,
            ..Default::default()
        };
        let writer = Shared::new(ChangesWriter::create(&self.files.changes)?);
        let (sink, reserved) = (writer.clone(), self.opts.reserved_bytes()?);
        let header = self
            .fetch_pages("pull", &request, move |event| match event {
                PullEvent::Header(_) => Ok(()),
                PullEvent::Page { page_no, data } => {
                    check_reserved(page_no, data, reserved)?;
                    sink.with(|writer| writer.page(page_no, data))
                }
            })
            .await?;
        let pages =
            u32::try_from(header.db_size).map_err(|_| Error::protocol("the remote database is too large"))?;
        let changes = writer.take()?.finish(pages)?;
        if changes.is_empty() && (intact || pages == 0) {
            self.note_empty_pull(&state, &header).await?;
            return Ok(None);
        }
        changes.validate(intact.then_some(state.base_pages))?;
        Ok(Some(Download {
            changes,
            revision: header.server_revision,
            epoch: state.epoch,
            whole: !intact,
        }))
    }

    /// Nothing came. The base is the remote at another revision, too, only if the remote says that it sent nothing:
    /// an answer that was cut off behind its header looks the same.
    async fn note_empty_pull(&self, state: &ReplicaState, header: &PullHeader) -> Result<()> {
        if header.db_size != 0 && header.db_size != u64::from(state.base_pages) {
            return Err(Error::protocol("pull: the remote has another size, but sent no pages").retry());
        }
        let proven = header.page_count == Some(0) && header.server_revision != state.revision;
        if proven {
            state::set_revision(self.path(), state, &header.server_revision, BUSY_TIMEOUT)?;
        }
        let now = self.environment.unix_time();
        self.update_metadata(|m| {
            if proven {
                m.set_revision(&header.server_revision);
            }
            m.last_pull_unix_time = Some(now);
        })
        .await
    }

    /// Wait and apply in one operation.
    pub(super) async fn pull(&self) -> Result<bool> {
        // Somebody who is at work would be in the way of the apply: say so before the download.
        drop(self.lock()?);
        match self.wait(self.opts.long_poll_timeout_ms).await? {
            Some(changes) => {
                let guard = self.lock()?;
                self.apply(changes, &guard).await?;
                self.leave(guard);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The same in the course of an operation that has the lock; never waits for news. A wait may be under way meanwhile;
    /// what it brings will be refused, because the base is another one then.
    pub(super) async fn pull_now(&self, guard: &SyncGuard) -> Result<bool> {
        match self.download_changes(self.base(guard)?, 0).await? {
            Some(download) => self
                .apply_with(&download, guard, self.plan())
                .await
                .map(|()| true),
            None => Ok(false),
        }
    }

    /// The same with another plan, after the base was lost. There is always something to apply then.
    pub(super) async fn pull_lost_base(&self, guard: &SyncGuard, plan: Plan) -> Result<()> {
        match self.download_changes(self.base(guard)?, 0).await? {
            Some(download) => self.apply_with(&download, guard, plan).await,
            None => Err(Error::busy(
                "the remote has nothing to make a base of; repeat this later",
            )),
        }
    }

    pub(super) async fn apply(&self, downloaded: DbChangesStatus, guard: &SyncGuard) -> Result<()> {
        if !Arc::ptr_eq(&downloaded.slot.0, &self.download_taken) {
            return Err(Error::misuse("these changes were downloaded for another replica"));
        }
        self.apply_with(&downloaded.download, guard, self.plan()).await
    }

    async fn apply_with(&self, downloaded: &Download, guard: &SyncGuard, plan: Plan) -> Result<()> {
        let (state, health) = self.base(guard)?;
        if downloaded.epoch != state.epoch || (health != BaseHealth::Intact && !downloaded.whole) {
            return Err(Error::new(
                Category::Database,
                Code::BusySnapshot,
                "the replica's base has changed since these changes were downloaded; wait for changes again",
            )
            .retry());
        }
        let base = match downloaded.whole {
            false => Base::Known(base_state(&state)),
            true => Base::Lost { epoch: state.epoch },
        };
        self.rebuild(base, &state, &downloaded.changes, &downloaded.revision, &plan)?;
        let (revision, now) = (downloaded.revision.clone(), self.environment.unix_time());
        let client_id = self.read_state()?.client_id;
        self.checkpoint_if_large(guard);
        self.update_metadata(|m| {
            m.set_client_id(client_id);
            m.set_revision(&revision);
            m.last_pull_unix_time = Some(now);
        })
        .await
    }
}

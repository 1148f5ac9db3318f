//! Wait and apply: the remote's new pages go below the pending local changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::delta::{Delivery, Delta, Title};
use super::foreign::Reference;
use super::identity::Admission;
use super::lock::SyncGuard;
use super::opts::ForeignPolicy;
use super::remote::{Shared, check_reserved};
use super::{BUSY_TIMEOUT, Task, base_state};
use crate::capture::state::{self, ReplicaState};
use crate::error::{Category, Code, Error, Result};
use crate::pages::{Base, BaseHealth, Changes};
use crate::protocol::pull::PullEvent;
use crate::replay::Plan;

/// Changes downloaded by a wait, not yet applied. If they are dropped, the next wait goes on with them.
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
    /// Another program has written the main file, so that the base is lost.
    written: bool,
    admission: Admission,
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
    /// Downloads what is new. Never takes the sync lock, not even for a moment: local work and pushes go on meanwhile.
    pub(super) async fn wait(&self, long_poll_timeout_ms: u32) -> Result<Option<DbChangesStatus>> {
        self.require_open()?;
        let slot = DownloadSlot::take(&self.download_taken)?;
        let state = self.read_state()?;
        // If the base got lost since somebody looked, apply will see it, and the next wait know it.
        let health = match &*self.lost_base() {
            Some((epoch, health)) if *epoch == state.epoch => health.clone(),
            _ => BaseHealth::Intact,
        };
        let download = self
            .download_changes((state, health), long_poll_timeout_ms)
            .await?;
        Ok(download.map(|download| DbChangesStatus { download, slot }))
    }

    async fn download_changes(
        &self,
        (state, health): (ReplicaState, BaseHealth),
        long_poll_timeout_ms: u32,
    ) -> Result<Option<Download>> {
        let intact = health == BaseHealth::Intact;
        let written = matches!(health, BaseHealth::Lost { written: true, .. });
        if !intact && !state.revision.is_empty() {
            // What other programs have written shows only against the revision that was here.
            let pinned = self.download_revision(&state, &state.revision, written).await;
            match pinned {
                Err(e) if e.category == Category::Remote && !e.retryable => {}
                pinned => return pinned,
            }
        }
        let from = if intact { state.revision.as_str() } else { "" };
        let delivery = self.receive(&state, (from, ""), long_poll_timeout_ms).await?;
        let nothing = delivery.changes.as_ref().is_none_or(Changes::is_empty);
        if nothing && (intact || delivery.pages == 0) {
            self.note_empty_pull(&state, &delivery).await?;
            return Ok(None);
        }
        let old_pages = intact.then_some(state.base_pages);
        self.downloaded(&state, delivery, (old_pages, written)).map(Some)
    }

    /// Downloads the whole remote as it was at `revision`; an error of the remote if it has that no more.
    async fn download_revision(
        &self,
        state: &ReplicaState,
        revision: &str,
        written: bool,
    ) -> Result<Option<Download>> {
        let delivery = self.receive(state, ("", revision), 0).await?;
        self.downloaded(state, delivery, (None, written)).map(Some)
    }

    /// Checks what has come. `old_pages`: the size of the base that it is a difference to, if it is one.
    fn downloaded(
        &self,
        state: &ReplicaState,
        delivery: Delivery,
        (old_pages, written): (Option<u32>, bool),
    ) -> Result<Download> {
        let changes = match delivery.changes {
            Some(changes) => changes,
            None => self.no_changes(delivery.pages)?,
        };
        if let Err(e) = changes.validate(old_pages) {
            changes.discard();
            return Err(e);
        }
        Ok(Download {
            changes,
            revision: delivery.revision,
            epoch: state.epoch,
            whole: old_pages.is_none(),
            written,
            admission: Admission::Own,
        })
    }

    /// Makes the newest state of the remote the base, whatever it knows of this replica. What is here and not pending is
    /// treated as if another program had written it.
    pub(super) async fn accept_remote(&self, policy: ForeignPolicy, guard: &SyncGuard) -> Result<()> {
        self.settle(policy, guard)?;
        let state = self.base(guard)?.0;
        let delivery = self.receive(&state, ("", ""), 0).await?;
        let download = Download {
            admission: Admission::Any,
            ..self.downloaded(&state, delivery, (None, true))?
        };
        self.apply_deciding(&download, guard, self.plan(), policy).await
    }

    /// Downloads the difference between two revisions; "" is nothing and the newest.
    async fn receive(
        &self,
        state: &ReplicaState,
        (from, to): (&str, &str),
        long_poll_timeout_ms: u32,
    ) -> Result<Delivery> {
        let title = Title {
            client_id: state.client_id.clone(),
            epoch: state.epoch,
            base: state.revision.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            id: self.environment.unique_id(),
        };
        let (limit, reserved) = (self.opts.pages_per_request(), self.opts.reserved_bytes()?);
        let delta = Shared::new(Delta::resume(&self.files.changes, title, limit)?);
        while let Some(request) = delta.with(|delta| delta.next_request(long_poll_timeout_ms))? {
            let sink = delta.clone();
            let answer = self
                .fetch_pages("pull", &request, move |event| {
                    sink.with(|delta| match event {
                        PullEvent::Header(header) => delta.header(&header),
                        PullEvent::Page { page_no, data } => {
                            check_reserved(page_no, data, reserved)?;
                            delta.page(page_no, data)
                        }
                    })
                })
                .await;
            match answer {
                Ok(_) => delta.with(|delta| {
                    delta.answered();
                    Ok(())
                })?,
                Err(e) if delta.with(|delta| Ok(delta.recovers(&e)))? => {}
                Err(e) => return Err(e),
            }
        }
        delta.take()?.finish()
    }

    /// Nothing came. The base is the remote at another revision, too, only if the remote says that it sent nothing:
    /// an answer that was cut off behind its header looks the same.
    async fn note_empty_pull(&self, state: &ReplicaState, delivery: &Delivery) -> Result<()> {
        if let Some(changes) = &delivery.changes {
            changes.discard();
        }
        if delivery.pages != 0 && delivery.pages != state.base_pages {
            return Err(Error::protocol("pull: the remote has another size, but sent no pages").retry());
        }
        let proven = delivery.counted && delivery.revision != state.revision;
        if proven {
            state::set_revision(self.path(), state, &delivery.revision, BUSY_TIMEOUT)?;
        }
        let now = self.environment.unix_time();
        self.update_metadata(|m| {
            if proven {
                m.set_revision(&delivery.revision);
            }
            m.last_pull_unix_time = Some(now);
        })
        .await
    }

    /// Wait and apply in one operation.
    pub(super) async fn pull(&self) -> Result<bool> {
        // Somebody who is at work would be in the way of the apply: say so before the download.
        let guard = self.lock()?;
        self.settle(self.opts.foreign_policy, &guard)?;
        let lost = self.base(&guard)?.1 != BaseHealth::Intact;
        drop(guard);
        match self.wait(self.opts.long_poll_timeout_ms).await? {
            Some(changes) => {
                let guard = self.lock()?;
                let mut applied = self.apply(changes, &guard).await;
                if lost && applied.is_ok() {
                    // What came was the old base, if the remote still had it.
                    applied = self.pull_now(&guard).await.map(drop);
                }
                self.leave(guard);
                applied.map(|()| true)
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
        self.pull_lost_base_with(guard, plan, self.opts.foreign_policy)
            .await
    }

    /// The same with another decision about what other programs have written.
    pub(super) async fn pull_lost_base_with(
        &self,
        guard: &SyncGuard,
        plan: Plan,
        policy: ForeignPolicy,
    ) -> Result<()> {
        match self.download_changes(self.base(guard)?, 0).await? {
            Some(download) => self.apply_deciding(&download, guard, plan, policy).await,
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
        self.apply_deciding(downloaded, guard, plan, self.opts.foreign_policy)
            .await
    }

    async fn apply_deciding(
        &self,
        downloaded: &Download,
        guard: &SyncGuard,
        plan: Plan,
        policy: ForeignPolicy,
    ) -> Result<()> {
        let applied = self.apply_to_base(downloaded, guard, plan, policy).await;
        if !applied.as_ref().is_err_and(comes_again) {
            downloaded.changes.discard();
        }
        applied
    }

    async fn apply_to_base(
        &self,
        downloaded: &Download,
        guard: &SyncGuard,
        plan: Plan,
        policy: ForeignPolicy,
    ) -> Result<()> {
        self.settle(policy, guard)?;
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
        let admission = downloaded.admission;
        // Another remote may give its revisions the same names.
        let exact = downloaded.revision == state.revision && admission == Admission::Own;
        // Of a file that is a copy, too.
        let written = downloaded.written || downloaded.whole && self.store.strangers()? > 0;
        let unmoved = downloaded.whole && exact;
        let plan = Plan { unmoved, ..plan };
        if downloaded.whole && (exact || written) {
            let changes = &downloaded.changes;
            let reference = Reference {
                base,
                changes,
                exact,
                admission,
            };
            self.examine(&reference, &state, policy)?;
        }
        let changes = &downloaded.changes;
        self.rebuild_admitting(admission, base, &state, changes, &downloaded.revision, &plan)?;
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

/// True if what was downloaded is as good as before: a decision is needed, or somebody was in the way.
fn comes_again(e: &Error) -> bool {
    matches!(e.category, Category::Conflict | Category::Foreign)
        || matches!(e.code, Code::Busy | Code::Interrupt)
}

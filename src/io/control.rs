//! What others may know of an operation under way, and how they stop it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// What an operation is doing. The numbers are those of `turso_sync_stage_t` and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Stage {
    /// It was never resumed.
    #[default]
    NotStarted = 0,
    /// At work, or waiting for files.
    Working = 1,
    /// Asking the remote; in a long poll, waiting for something new.
    Waiting = 2,
    /// Pages arrive.
    Downloading = 3,
    /// Downloaded pages go below the pending changes.
    Applying = 4,
    /// Pending changes go to the remote.
    Uploading = 5,
    /// It has ended, well or not.
    Ended = 6,
}

const STAGES: [Stage; 7] = [
    Stage::NotStarted,
    Stage::Working,
    Stage::Waiting,
    Stage::Downloading,
    Stage::Applying,
    Stage::Uploading,
    Stage::Ended,
];

/// How far an operation has come. All figures are of this operation alone and only grow; expected ones are 0 while nobody
/// knows them, and may grow when somebody adds to the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Bytes of request bodies.
    pub sent_bytes: u64,
    /// Bytes of answer bodies.
    pub received_bytes: u64,
    /// Pages downloaded.
    pub pages_done: u64,
    /// Pages to download, as far as the remote has told.
    pub pages_expected: u64,
    /// Pending changes that the remote has acknowledged.
    pub changes_done: u64,
    /// Pending changes that were there when the push began.
    pub changes_expected: u64,
}

/// A hook for whoever must be woken by a cancellation.
type Hook = Box<dyn FnOnce() + Send>;

/// Shared by an operation and those who watch it. Any thread may use it at any time.
#[derive(Default)]
pub struct Control {
    cancelled: AtomicBool,
    driven: AtomicBool,
    stage: AtomicU8,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    pages_done: AtomicU64,
    pages_expected: AtomicU64,
    changes_done: AtomicU64,
    changes_expected: AtomicU64,
    on_cancel: Mutex<Option<Hook>>,
}

impl Control {
    /// Asks the operation to stop. It ends with INTERRUPT as soon as it notices: at its next resume, and in the middle of
    /// a download or a replay. What it had finished stays. An operation that has ended is left as it is.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(hook) = self.hook(None) {
            hook();
        }
    }

    /// True after [`cancel`](Self::cancel).
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// A driver serves the requests of this operation: they are not for others until the result is dropped, and the hook of
    /// [`on_cancel`](Self::on_cancel) goes with it.
    pub fn drive(&self) -> Driven<'_> {
        self.driven.store(true, Ordering::Release);
        Driven(self)
    }

    /// True while a [`Driven`] exists.
    pub fn is_driven(&self) -> bool {
        self.driven.load(Ordering::Acquire)
    }

    /// An error after [`cancel`](Self::cancel).
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::cancelled());
        }
        Ok(())
    }

    /// Calls `hook` in the thread that cancels, or at once if that was before. Only the last hook counts.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        self.hook(Some(Box::new(hook)));
        if self.is_cancelled()
            && let Some(hook) = self.hook(None)
        {
            hook();
        }
    }

    fn hook(&self, new: Option<Hook>) -> Option<Hook> {
        std::mem::replace(
            &mut *self.on_cancel.lock().unwrap_or_else(PoisonError::into_inner),
            new,
        )
    }

    /// How far the operation has come.
    pub fn progress(&self) -> Progress {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Progress {
            stage: self.stage(),
            sent_bytes: read(&self.sent_bytes),
            received_bytes: read(&self.received_bytes),
            pages_done: read(&self.pages_done),
            pages_expected: read(&self.pages_expected),
            changes_done: read(&self.changes_done),
            changes_expected: read(&self.changes_expected),
        }
    }

    fn stage(&self) -> Stage {
        let stage = self.stage.load(Ordering::Relaxed);
        STAGES.get(usize::from(stage)).copied().unwrap_or_default()
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// `more` pages are still to come, as far as it is known.
    pub(crate) fn expect_pages(&self, more: u64) {
        let expected = self.pages_done.load(Ordering::Relaxed).saturating_add(more);
        self.pages_expected.fetch_max(expected, Ordering::Relaxed);
    }

    pub(crate) fn page_done(&self) {
        self.pages_done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn expect_changes(&self, changes: u64) {
        self.changes_expected.fetch_max(changes, Ordering::Relaxed);
    }

    pub(crate) fn changes_done(&self, changes: u64) {
        self.changes_done.fetch_add(changes, Ordering::Relaxed);
    }
}

/// See [`Control::drive`].
pub struct Driven<'a>(&'a Control);

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        // A cancellation that comes from now on must not touch what later operations use.
        drop(self.0.hook(None));
        self.0.driven.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use std::sync::Arc;

    #[test]
    fn stages_are_found_by_their_number() {
        let control = Control::default();
        for stage in STAGES {
            control.enter(stage);
            assert_eq!(control.progress().stage, stage);
            assert_eq!(STAGES[stage as usize], stage);
        }
    }

    #[test]
    fn a_hook_is_called_once_whoever_comes_first() {
        let calls = Arc::new(AtomicU64::new(0));
        let hook = |calls: &Arc<AtomicU64>| {
            let calls = calls.clone();
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        let control = Control::default();
        control.on_cancel(hook(&calls));
        control.check().unwrap();
        control.cancel();
        control.cancel();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        control.on_cancel(hook(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        assert_eq!(control.check().unwrap_err().code, Code::Interrupt);
    }
}

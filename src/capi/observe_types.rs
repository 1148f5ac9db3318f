//! Enumerations and structures of progress, errors and status.

use super::boundary::{Versioned, slice_out};
use super::types::{turso_slice_ref_t, turso_status_code_t};
use crate::engine::ReplicaStatus;
use crate::error::{Category, Error};
use crate::io::{Progress, Stage};

/// What an operation is doing. Numbers that are not listed are to be treated as WORKING.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_stage_t {
    /// It was never resumed.
    TURSO_SYNC_STAGE_NOT_STARTED = 0,
    /// At work, or waiting for file requests.
    TURSO_SYNC_STAGE_WORKING = 1,
    /// Asking the remote; in a long poll, waiting for something new.
    TURSO_SYNC_STAGE_WAITING = 2,
    /// Pages arrive.
    TURSO_SYNC_STAGE_DOWNLOADING = 3,
    /// Downloaded pages go below the pending changes.
    TURSO_SYNC_STAGE_APPLYING = 4,
    /// Pending changes go to the remote.
    TURSO_SYNC_STAGE_UPLOADING = 5,
    /// It has ended, well or not.
    TURSO_SYNC_STAGE_ENDED = 6,
}

impl From<Stage> for turso_sync_stage_t {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::NotStarted => Self::TURSO_SYNC_STAGE_NOT_STARTED,
            Stage::Working => Self::TURSO_SYNC_STAGE_WORKING,
            Stage::Waiting => Self::TURSO_SYNC_STAGE_WAITING,
            Stage::Downloading => Self::TURSO_SYNC_STAGE_DOWNLOADING,
            Stage::Applying => Self::TURSO_SYNC_STAGE_APPLYING,
            Stage::Uploading => Self::TURSO_SYNC_STAGE_UPLOADING,
            Stage::Ended => Self::TURSO_SYNC_STAGE_ENDED,
        }
    }
}

/// How far an operation has come. Set `size` before the call; new fields are only ever appended. All figures are of this
/// operation alone and only grow. An expected figure is 0 while nobody knows it, and may grow when somebody adds to the
/// work.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_progress_t {
    /// `sizeof(turso_sync_progress_t)`.
    pub size: usize,
    /// What it is doing.
    pub stage: turso_sync_stage_t,
    /// Bytes of request bodies.
    pub sent_bytes: u64,
    /// Bytes of answer bodies.
    pub received_bytes: u64,
    /// Pages (of 4096 bytes) downloaded.
    pub pages_done: u64,
    /// Pages to download, if the remote has told.
    pub pages_expected: u64,
    /// Pending changes that the remote has acknowledged.
    pub changes_done: u64,
    /// Pending changes when the push began.
    pub changes_expected: u64,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_progress_t {
    const NAME: &str = "turso_sync_progress_t";
}

impl From<Progress> for turso_sync_progress_t {
    fn from(progress: Progress) -> Self {
        turso_sync_progress_t {
            size: size_of::<Self>(),
            stage: progress.stage.into(),
            sent_bytes: progress.sent_bytes,
            received_bytes: progress.received_bytes,
            pages_done: progress.pages_done,
            pages_expected: progress.pages_expected,
            changes_done: progress.changes_done,
            changes_expected: progress.changes_expected,
        }
    }
}

/// Where an error comes from. Numbers that are not listed are to be treated as INTERNAL.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_error_category_t {
    /// There was no error.
    TURSO_SYNC_ERROR_NONE = 0,
    /// Wrong arguments, wrong order of calls, or the host cancelled the operation.
    TURSO_SYNC_ERROR_USAGE = 1,
    /// SQLite refused a statement on the local database.
    TURSO_SYNC_ERROR_DATABASE = 2,
    /// Files of the replica could not be read or written.
    TURSO_SYNC_ERROR_STORAGE = 3,
    /// A request never got a complete answer.
    TURSO_SYNC_ERROR_NETWORK = 4,
    /// The remote answered with an error; see `http_status`.
    TURSO_SYNC_ERROR_REMOTE = 5,
    /// The remote answered with something that is not the protocol.
    TURSO_SYNC_ERROR_PROTOCOL = 6,
    /// Local and remote changes contradict each other; see turso_sync_database_conflicts.
    TURSO_SYNC_ERROR_CONFLICT = 7,
    /// This replica and this remote do not belong together.
    TURSO_SYNC_ERROR_IDENTITY = 8,
    /// A fault of this library; please report it.
    TURSO_SYNC_ERROR_INTERNAL = 9,
    /// Another program has changed the database without capture, and nobody has decided what becomes of that; see
    /// turso_sync_database_foreign_tables and turso_sync_database_settle_foreign_changes.
    TURSO_SYNC_ERROR_FOREIGN = 10,
}

impl From<Category> for turso_sync_error_category_t {
    fn from(category: Category) -> Self {
        match category {
            Category::Usage => Self::TURSO_SYNC_ERROR_USAGE,
            Category::Database => Self::TURSO_SYNC_ERROR_DATABASE,
            Category::Storage => Self::TURSO_SYNC_ERROR_STORAGE,
            Category::Network => Self::TURSO_SYNC_ERROR_NETWORK,
            Category::Remote => Self::TURSO_SYNC_ERROR_REMOTE,
            Category::Protocol => Self::TURSO_SYNC_ERROR_PROTOCOL,
            Category::Conflict => Self::TURSO_SYNC_ERROR_CONFLICT,
            Category::Identity => Self::TURSO_SYNC_ERROR_IDENTITY,
            Category::Foreign => Self::TURSO_SYNC_ERROR_FOREIGN,
            Category::Internal => Self::TURSO_SYNC_ERROR_INTERNAL,
        }
    }
}

/// Everything that is known about an error. Set `size` before the call; new fields are only ever appended.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_error_t {
    /// `sizeof(turso_sync_error_t)`.
    pub size: usize,
    /// The status code that the call returned; OK if there was no error.
    pub code: turso_status_code_t,
    /// Where it comes from.
    pub category: turso_sync_error_category_t,
    /// Extended result code of SQLite; 0 = none.
    pub sqlite_code: i32,
    /// Status of the remote's answer; 0 = none.
    pub http_status: i32,
    /// 1 if repeating the same call later can succeed without anybody changing anything, otherwise 0.
    pub retryable: u32,
    /// How long the remote asked to wait before that, in milliseconds; 0 = it did not say.
    pub retry_after_ms: u64,
    /// What happened and what to do, in UTF-8 and not zero-terminated. Never holds tokens, keys or row contents.
    pub message: turso_slice_ref_t,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_error_t {
    const NAME: &str = "turso_sync_error_t";
}

impl turso_sync_error_t {
    /// The message is borrowed from `error`.
    pub(super) fn of(error: Option<&Error>) -> Self {
        turso_sync_error_t {
            size: size_of::<Self>(),
            code: error.map_or(turso_status_code_t::TURSO_OK, |e| e.code.into()),
            category: error.map_or(turso_sync_error_category_t::TURSO_SYNC_ERROR_NONE, |e| {
                e.category.into()
            }),
            sqlite_code: error.and_then(|e| e.sqlite_code).unwrap_or(0),
            http_status: error.and_then(|e| e.http_status).map_or(0, i32::from),
            retryable: error.is_some_and(|e| e.retryable).into(),
            retry_after_ms: error.and_then(|e| e.retry_after_ms).unwrap_or(0),
            message: slice_out(error.map_or(b"", |e| e.message.as_bytes())),
        }
    }
}

/// What a user wants to know about a replica. Set `size` before the call; new fields are only ever appended.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_status_t {
    /// `sizeof(turso_sync_status_t)`.
    pub size: usize,
    /// Captured local changes that the remote has not acknowledged; 0 = everything is uploaded.
    pub pending_changes: i64,
    /// Local transactions that the last sync stopped at.
    pub conflicts_blocked: i64,
    /// Local transactions that were set aside.
    pub conflicts_set_aside: i64,
    /// Time of the last pull in unix seconds; 0 = never.
    pub last_pull_unix_time: i64,
    /// Time of the last push in unix seconds; 0 = never.
    pub last_push_unix_time: i64,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_status_t {
    const NAME: &str = "turso_sync_status_t";
}

impl From<ReplicaStatus> for turso_sync_status_t {
    fn from(status: ReplicaStatus) -> Self {
        let signed = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        turso_sync_status_t {
            size: size_of::<Self>(),
            pending_changes: status.pending_changes,
            conflicts_blocked: signed(status.conflicts_blocked),
            conflicts_set_aside: signed(status.conflicts_set_aside),
            last_pull_unix_time: status.last_pull_unix_time,
            last_push_unix_time: status.last_push_unix_time,
        }
    }
}

//! `turso_sync_changes_t`: downloaded changes.

use super::boundary::Handle;
use crate::engine::DbChangesStatus;

/// Changes that were downloaded and not yet applied. They may be moved between threads.
pub struct turso_sync_changes_t {
    changes: DbChangesStatus,
}

impl Handle for turso_sync_changes_t {}

impl turso_sync_changes_t {
    pub(super) fn new(changes: DbChangesStatus) -> Self {
        turso_sync_changes_t { changes }
    }

    pub(super) fn into_inner(self) -> DbChangesStatus {
        self.changes
    }
}

/// Releases changes that will not be applied, discarding the download; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_changes_deinit(changes: *const turso_sync_changes_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_sync_changes_t::release(changes) }
}

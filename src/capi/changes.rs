//! `turso_sync_changes_t`: downloaded changes.

use super::boundary::Handle;
use super::sync_database::{Origin, turso_sync_database_t};
use crate::engine::DbChangesStatus;
use crate::error::{Error, Result};

/// Changes that were downloaded and not yet applied. They may be moved between threads.
pub struct turso_sync_changes_t {
    changes: DbChangesStatus,
    origin: Origin,
}

impl Handle for turso_sync_changes_t {}

impl turso_sync_changes_t {
    pub(super) fn new(changes: DbChangesStatus, origin: Origin) -> Self {
        turso_sync_changes_t { changes, origin }
    }

    /// The changes, if `database` downloaded them: pages of one replica would destroy another.
    pub(super) fn of(self, database: &turso_sync_database_t) -> Result<DbChangesStatus> {
        if self.origin != database.origin {
            return Err(Error::misuse("the changes were downloaded by another database"));
        }
        Ok(self.changes)
    }
}

/// Releases changes that will not be applied; the next wait goes on with what was downloaded. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_changes_deinit(changes: *const turso_sync_changes_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_sync_changes_t::release(changes) }
}

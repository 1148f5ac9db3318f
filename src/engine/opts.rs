//! Configuration of a replica.

use crate::error::{Error, Result};
use crate::replay::ConflictPolicy;

/// Longest client name and remote URL, in bytes: they are stored in the metadata.
const MAX_STORED_TEXT: usize = 8 << 10;

/// Configuration of a replica; fixed when the engine is made.
#[derive(Clone, Default)]
pub struct DatabaseSyncEngineOpts {
    /// Path of the main file.
    pub path: String,
    /// URL of the remote (`http`, `https`, `libsql` or `turso` scheme); `None` reuses the one saved in the
    /// metadata, or leaves the URL to the host.
    pub remote_url: Option<String>,
    /// First part of the client id, such as the program's name.
    pub client_name: String,
    /// Longest time the remote may hold an empty answer of a wait, in milliseconds; 0 = answer at once.
    pub long_poll_timeout_ms: u32,
    /// Download the remote when the replica is created; otherwise it starts empty and offline.
    pub bootstrap_if_empty: bool,
    /// Bytes reserved at the end of each page of a database that starts empty; 0 = none.
    pub reserved_bytes: u8,
    /// Partial sync by prefix, in bytes; 0 = off. Not supported yet: a clear error.
    pub partial_prefix_bytes: u64,
    /// Partial sync by query. Not supported yet: a clear error.
    pub partial_query: Option<String>,
    /// Key sent as `x-turso-encryption-key` with every request; only kept in memory.
    pub remote_encryption_key: Option<String>,
    /// Row changes after which a push starts a new request, at the next end of a transaction; 0 = the default.
    pub push_operations_threshold: u64,
    /// Bytes per request of a bootstrap; 0 = everything in one request.
    pub pull_bytes_threshold: u64,
    /// Names of tables that stay local: their rows and schema (with indexes and triggers on them) are never captured
    /// or pushed, and every pull leaves them as they are; a table of that name on the remote is invisible here, except
    /// that a replica made by download starts with its content. Compared without regard to case.
    ///
    /// The choice is for the life of a table: changes captured before it was made are still pushed, and the rows of a
    /// table that is no longer listed stay unknown to the remote. A pull would remove it, so it refuses until the table
    /// is listed again or dropped.
    pub tables_ignore: Vec<String>,
    /// What push and pull do about a transaction that the other side does not take.
    pub conflict_policy: ConflictPolicy,
}

impl std::fmt::Debug for DatabaseSyncEngineOpts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not reach a log, and a URL may carry a password.
        f.debug_struct("DatabaseSyncEngineOpts")
            .field("path", &self.path)
            .field("client_name", &self.client_name)
            .field("long_poll_timeout_ms", &self.long_poll_timeout_ms)
            .field("bootstrap_if_empty", &self.bootstrap_if_empty)
            .field("push_operations_threshold", &self.push_operations_threshold)
            .field("pull_bytes_threshold", &self.pull_bytes_threshold)
            .field("tables_ignore", &self.tables_ignore)
            .finish_non_exhaustive()
    }
}

impl DatabaseSyncEngineOpts {
    /// Refuses what cannot work before anything is touched.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.path.is_empty() {
            return Err(Error::misuse(
                "the path of the replica is empty; give the path of the database file",
            ));
        }
        if self.path.contains('\0') {
            return Err(Error::misuse("the path of the replica contains a NUL byte"));
        }
        if self.path == ":memory:" {
            return Err(Error::misuse(
                "a replica must be a file; in-memory replicas are not supported",
            ));
        }
        if self.client_name.is_empty() {
            return Err(Error::misuse(
                "the client name is empty; give the name of your program",
            ));
        }
        let url = self.remote_url.as_deref().unwrap_or_default();
        if self.client_name.len().max(url.len()) > MAX_STORED_TEXT {
            return Err(Error::misuse(format!(
                "the client name or the remote URL is longer than {MAX_STORED_TEXT} bytes"
            )));
        }
        if self.partial_prefix_bytes > 0 || self.partial_query.is_some() {
            return Err(Error::misuse(
                "partial sync is not supported yet; leave the partial bootstrap options unset",
            ));
        }
        if self.reserved_bytes > 0 {
            return Err(Error::misuse(
                "reserved bytes are not supported yet; create the replica with bootstrap_if_empty, which takes the \
                 reserved bytes of the remote",
            ));
        }
        Ok(())
    }
}

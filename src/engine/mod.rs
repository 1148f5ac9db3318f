//! The use-cases: create, pull, push, checkpoint.

use crate::capture::Connection;
use crate::error::{Error, Result};
use crate::io::{Operation, SyncEngineIoQueue};

/// Configuration of a replica.
#[derive(Debug, Clone, Default)]
pub struct DatabaseSyncEngineOpts {
    /// Path of the main file.
    pub path: String,
    /// URL of the remote; `None` reuses the saved one, or leaves the URL to the host.
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
    /// Key sent as `x-turso-encryption-key` with every request.
    pub remote_encryption_key: Option<String>,
    /// Row changes per push request (a transaction is never split); 0 = the library's default.
    pub push_operations_threshold: u64,
    /// Bytes per pull request of a bootstrap; 0 = one request.
    pub pull_bytes_threshold: u64,
}

/// Figures about a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseSyncEngineStats {
    /// Captured changes that the remote has not acknowledged.
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

/// Changes downloaded by a wait, not yet applied. Dropping them discards the download.
pub struct DbChangesStatus {}

/// A replica. Shared between threads; one sync operation at a time.
pub struct DatabaseSyncEngine {}

impl DatabaseSyncEngine {
    /// Checks the configuration; does no IO.
    pub fn new(_opts: DatabaseSyncEngineOpts) -> Result<Self> {
        Err(Error::internal("stub"))
    }
    /// Where the requests of this replica's operations go.
    pub fn io(&self) -> &SyncEngineIoQueue {
        unimplemented!()
    }
    /// Opens the replica, creating it (by download, or empty) if it does not exist.
    pub fn create_db(&self) -> Operation<()> {
        unimplemented!()
    }
    /// Opens an existing replica.
    pub fn open(&self) -> Operation<()> {
        unimplemented!()
    }
    /// Opens a capturing connection.
    pub fn connect_rw(&self) -> Operation<Connection> {
        unimplemented!()
    }
    /// Downloads what is new on the remote; `None` if nothing is.
    pub fn wait_changes_from_remote(&self) -> Operation<Option<DbChangesStatus>> {
        unimplemented!()
    }
    /// Applies downloaded changes below the pending local ones.
    pub fn apply_changes_from_remote(&self, _changes: DbChangesStatus) -> Operation<()> {
        unimplemented!()
    }
    /// Sends the pending changes.
    pub fn push_changes_to_remote(&self) -> Operation<()> {
        unimplemented!()
    }
    /// Wait and apply; true if something was new.
    pub fn pull_changes_from_remote(&self) -> Operation<bool> {
        unimplemented!()
    }
    /// Push, then pull; true if something was new.
    pub fn sync(&self) -> Operation<bool> {
        unimplemented!()
    }
    /// Moves the write-ahead log into the main file.
    pub fn checkpoint(&self) -> Operation<()> {
        unimplemented!()
    }
    /// Figures about the replica.
    pub fn stats(&self) -> Operation<DatabaseSyncEngineStats> {
        unimplemented!()
    }
}

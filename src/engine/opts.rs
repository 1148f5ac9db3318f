//! Configuration of a replica.

use super::dialect::ProtocolVersion;
use crate::error::{Category, Code, Error, Result};
use crate::protocol::{PAGE_SIZE, url};
use crate::replay::ConflictPolicy;

/// Longest client name and remote URL, in bytes: they are stored in the metadata.
const MAX_STORED_TEXT: usize = 8 << 10;

/// What becomes of changes that were not captured, because another program has written them into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForeignPolicy {
    /// The operation ends with an error of category `Foreign` that names the tables, and changes nothing.
    #[default]
    Stop,
    /// They become pending changes, as one transaction.
    Adopt,
    /// They are undone.
    Discard,
}

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
    /// Make an ordinary SQLite database at the path a replica when it is created: nothing is downloaded, and all that the
    /// database holds is pending. A push merges it with what the remote has: tables of the same definition by their keys,
    /// where the rows here count as newer; rows without a key are added. The log holds a second copy of everything until
    /// then. Otherwise such a database is refused.
    pub adopt_database: bool,
    /// Bytes that the remote reserves at the end of each page: a database that starts empty reserves as many, and a
    /// remote that reserves another number is refused. 0 = whatever the remote has, and none before the first pull.
    pub reserved_bytes: u8,
    /// Partial sync by prefix, in bytes; 0 = off. Not supported yet: a clear error.
    pub partial_prefix_bytes: u64,
    /// Partial sync by query. Not supported yet: a clear error.
    pub partial_query: Option<String>,
    /// Key sent as `x-turso-encryption-key` with every request; only kept in memory.
    pub remote_encryption_key: Option<String>,
    /// Cipher of a remote that is encrypted, such as `aes256gcm`: another way to say `reserved_bytes`.
    pub remote_encryption_cipher: Option<String>,
    /// Row changes after which a push starts a new request, at the next end of a transaction; 0 = the default.
    pub push_operations_threshold: u64,
    /// Bytes of pages that one request of a bootstrap or a pull brings at most, in whole pages; 0 = everything in one request.
    /// Pulls from a remote that does not know the limit come in one answer all the same.
    pub pull_bytes_threshold: u64,
    /// The same in pages; 0 = no limit. The smaller of both counts.
    pub wal_pull_batch_size: u64,
    /// Names of tables that stay local: their rows and schema (with indexes and triggers on them) are never captured
    /// or pushed, and every pull leaves them as they are; a table of that name on the remote is invisible here, except
    /// that a replica made by download starts with its content. Compared without regard to case.
    ///
    /// The choice is for the life of a table: changes captured before it was made are still pushed, and the rows of a
    /// table that is no longer listed stay unknown to the remote. A pull would remove it, so it refuses until the table
    /// is listed again or dropped.
    pub tables_ignore: Vec<String>,
    /// The host decides about every row change before it is pushed: see
    /// [`SyncEngineIoRequest::Transform`](crate::io::SyncEngineIoRequest::Transform). Not about schema changes.
    pub use_transform: bool,
    /// What push and pull do about a transaction that the other side does not take.
    pub conflict_policy: ConflictPolicy,
    /// What push, pull and checkpoint do about changes that another program has written into the file.
    pub foreign_policy: ForeignPolicy,
    /// Which dialect of the protocol is spoken.
    pub protocol_version_hint: ProtocolVersion,
}

impl std::fmt::Debug for DatabaseSyncEngineOpts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not reach a log, and a URL may carry a password.
        f.debug_struct("DatabaseSyncEngineOpts")
            .field("path", &self.path)
            .field("client_name", &self.client_name)
            .field("long_poll_timeout_ms", &self.long_poll_timeout_ms)
            .field("bootstrap_if_empty", &self.bootstrap_if_empty)
            .field("adopt_database", &self.adopt_database)
            .field("push_operations_threshold", &self.push_operations_threshold)
            .field("pull_bytes_threshold", &self.pull_bytes_threshold)
            .field("wal_pull_batch_size", &self.wal_pull_batch_size)
            .field("tables_ignore", &self.tables_ignore)
            .field("use_transform", &self.use_transform)
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
        let remote = self.remote_url.as_deref();
        if self.client_name.len().max(remote.map_or(0, str::len)) > MAX_STORED_TEXT {
            return Err(Error::misuse(format!(
                "the client name or the remote URL is longer than {MAX_STORED_TEXT} bytes"
            )));
        }
        remote.map_or(Ok(String::new()), url::normalize)?;
        // Not repeated: it is a secret.
        let fits_header = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic());
        if !self.remote_encryption_key.as_deref().is_none_or(fits_header) {
            return Err(Error::misuse(
                "remote_encryption_key is not base64: it is empty, or has characters that no HTTP header may have",
            ));
        }
        self.reserved_bytes()?;
        if self.partial_prefix_bytes > 0 || self.partial_query.is_some() {
            return Err(Error::misuse(
                "partial sync is not supported yet; leave the partial bootstrap options unset",
            ));
        }
        Ok(())
    }

    /// Bytes that each page of the remote must reserve; 0 = nobody says.
    pub(crate) fn reserved_bytes(&self) -> Result<u8> {
        let Some(cipher) = &self.remote_encryption_cipher else {
            return Ok(self.reserved_bytes);
        };
        match reserved_bytes_of(cipher)? {
            needed if self.reserved_bytes == 0 || self.reserved_bytes == needed => Ok(needed),
            needed => Err(Error::misuse(format!(
                "remote_encryption_cipher {cipher:?} needs {needed} reserved bytes, but reserved_bytes is {}; leave it 0",
                self.reserved_bytes
            ))),
        }
    }

    /// Pages that one pull request may ask for; 0 = no limit.
    pub(crate) fn pages_per_request(&self) -> u32 {
        let by_bytes = self.pull_bytes_threshold.div_ceil(PAGE_SIZE as u64);
        let limits = [by_bytes, self.wal_pull_batch_size];
        let smallest = limits.into_iter().filter(|pages| *pages > 0).min();
        u32::try_from(smallest.unwrap_or(0)).unwrap_or(u32::MAX)
    }
}

/// Reserved bytes per page of the ciphers of Turso Cloud: nonce and tag.
fn reserved_bytes_of(cipher: &str) -> Result<u8> {
    let plain: String = cipher.chars().filter(char::is_ascii_alphanumeric).collect();
    match plain.to_ascii_lowercase().as_str() {
        "aes128gcm" | "aes256gcm" | "chacha20poly1305" => Ok(28),
        "aegis128l" | "aegis128x2" | "aegis128x4" => Ok(32),
        "aegis256" | "aegis256x2" | "aegis256x4" => Ok(48),
        _ => Err(Error::new(
            Category::Usage,
            Code::Error,
            format!(
                "remote_encryption_cipher {cipher:?} is not supported; use aes128gcm, aes256gcm, chacha20poly1305, \
                 aegis128l, aegis128x2, aegis128x4, aegis256, aegis256x2 or aegis256x4"
            ),
        )),
    }
}

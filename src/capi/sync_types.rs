//! Enumerations and structures of `turso_sync.h`.

use std::ffi::{c_char, c_void};

use super::boundary::Versioned;
use super::io_item::turso_sync_io_item_t;
use super::types::turso_slice_ref_t;

/// What the host is asked to do.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_io_request_type_t {
    /// Nothing (the item is NULL).
    TURSO_SYNC_IO_NONE = 0,
    /// Send an HTTP request: report the status, then the body in any number of pieces, then done. If the connection
    /// breaks before the whole body has arrived (fewer bytes than Content-Length, no final chunk), poison the item:
    /// the library cannot see that a body was cut short.
    TURSO_SYNC_IO_HTTP = 1,
    /// Read a whole file. A missing file is an empty one: push nothing, then done. Every other failure poisons the
    /// item: an empty answer would mean that there is no such file.
    TURSO_SYNC_IO_FULL_READ = 2,
    /// Replace a whole file so that a crash or power loss at any moment leaves the old or the new content: create the
    /// parent directory if needed; create a new file in the same directory, under a name that nobody else uses (two
    /// processes may write at once), with the permissions of the old file if there is one; write the content; fsync
    /// the file; rename it over the path; fsync the directory; only then done. If any step fails, remove the new file
    /// and poison the item. turso_sync_database_io_perform_file does all of this.
    TURSO_SYNC_IO_FULL_WRITE = 3,
    /// Decide about row changes before they are pushed: see turso_sync_database_io_transform_count. Only replicas with the
    /// option `use_transform` ask for this.
    TURSO_SYNC_IO_TRANSFORM = 4,
}

/// What an operation has produced.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_operation_result_type_t {
    /// Nothing: the operation produces nothing, has not ended, has failed, or its result was taken already.
    TURSO_ASYNC_RESULT_NONE = 0,
    /// A connection.
    TURSO_ASYNC_RESULT_CONNECTION = 1,
    /// Downloaded changes, possibly none.
    TURSO_ASYNC_RESULT_CHANGES = 2,
    /// Figures about the replica.
    TURSO_ASYNC_RESULT_STATS = 3,
}

/// How to open a replica. Fill it with zeros first; then set what you need. Negative numbers are MISUSE.
#[repr(C)]
pub struct turso_sync_database_config_t {
    /// Path of the main file. Required. The files beside it are `-wal`, `-shm`, `-info`, `-changes`, `-download`,
    /// `-wal-revert` and `-lock`, appended to this path.
    pub path: *const c_char,
    /// URL of the remote (`http`, `https`, `libsql` or `turso`). NULL takes the one saved in the replica, or leaves it to
    /// the host.
    pub remote_url: *const c_char,
    /// First part of the client id under which the remote knows this replica, such as the program's name. Required.
    pub client_name: *const c_char,
    /// Longest time that the remote may wait for changes before it answers a turso_sync_database_wait_changes, in
    /// milliseconds; 0 = it answers at once.
    pub long_poll_timeout_ms: i32,
    /// Download the remote when the replica is created; otherwise it starts empty and needs no network.
    pub bootstrap_if_empty: bool,
    /// Bytes that the remote reserves at the end of each page, at most 255: a database that starts empty reserves as many,
    /// and a remote that reserves another number is refused. 0 = whatever the remote has, and none before the first pull.
    pub reserved_bytes: i32,
    /// Partial sync: not supported yet, must be 0.
    pub partial_bootstrap_strategy_prefix: i32,
    /// Partial sync: not supported yet, must be NULL.
    pub partial_bootstrap_strategy_query: *const c_char,
    /// Used by partial sync only.
    pub partial_bootstrap_segment_size: usize,
    /// Used by partial sync only.
    pub partial_bootstrap_prefetch: bool,
    /// Key of a remote that is encrypted, in base64; it is sent with every request and stored nowhere. May be NULL.
    pub remote_encryption_key: *const c_char,
    /// Name of the cipher of a remote that is encrypted, such as `"aes256gcm"` or `"aegis256"`. It tells how many bytes
    /// its pages reserve: 28, 32 or 48; `reserved_bytes` must then be 0 or the same. An unknown name is an error. May be NULL.
    pub remote_encryption_cipher: *const c_char,
    /// Row changes per push request; 0 = the library decides. A transaction is never split.
    pub push_operations_threshold: usize,
    /// Bytes of pages per request of a download or pull; 0 = the library decides.
    pub pull_bytes_threshold: usize,
    /// Not supported, must be false.
    pub logical_mvcc_pull: bool,
}

/// Which dialect of the protocol a replica speaks. Not part of the SDK kit of Turso.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_protocol_version_t {
    /// The direct one with remotes that announce it, the compatible one with all others.
    TURSO_SYNC_PROTOCOL_VERSION_AUTO = 0,
    /// That of Turso Cloud, which every remote knows. All requests are POST.
    TURSO_SYNC_PROTOCOL_VERSION_COMPATIBLE = 1,
    /// The smaller and faster one of this library's server; the compatible one where a remote answers 404 or 405. A host
    /// must be able to send GET requests, with a query in the path.
    TURSO_SYNC_PROTOCOL_VERSION_DIRECT = 2,
}

/// More settings of a replica. Fill it with zeros, set `size`, then set what you need. New fields are only ever
/// appended; `size` tells the library which ones the caller knows. A field that the library does not know must be zero.
/// Not part of the SDK kit of Turso.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_options_t {
    /// `sizeof(turso_sync_options_t)`.
    pub size: usize,
    /// A value of `turso_sync_conflict_policy_t`; others are MISUSE.
    pub conflict_policy: u32,
    /// Names of tables that exist only in this replica: their changes are never captured and never pushed, and every
    /// pull keeps them. Upper and lower case do not count. `tables_ignore_count` strings; NULL if there are none.
    pub tables_ignore: *const *const c_char,
    /// Number of names.
    pub tables_ignore_count: usize,
    /// Pages (of 4096 bytes) per request of a download or pull; 0 = no limit. If `pull_bytes_threshold` is set as
    /// well, the smaller of both counts.
    pub wal_pull_batch_size: u64,
    /// 1 = the host decides about every row change before it is pushed, with TURSO_SYNC_IO_TRANSFORM items or the callback
    /// of the driver; 0 = all are pushed as they are. Other values are MISUSE. Schema changes are always pushed.
    pub use_transform: u32,
    /// What operations do about changes that another program has written into the file: a value of
    /// `turso_sync_foreign_policy_t`; others are MISUSE.
    pub foreign_policy: u32,
    /// A value of `turso_sync_protocol_version_t`; others are MISUSE.
    pub protocol_version_hint: u32,
    /// 1 = an ordinary SQLite database at the path becomes the replica when it is created: nothing is downloaded, and all that
    /// it holds is pending; the first push merges it with what the remote has. 0 = such a database is refused. Other values
    /// are MISUSE.
    pub adopt_database: u32,
}

/// An HTTP request. All slices live as long as the item.
#[repr(C)]
pub struct turso_sync_io_http_request_t {
    /// URL of the remote without the path, as `http` or `https`; NULL and 0 if only the host knows it.
    pub url: turso_slice_ref_t,
    /// `GET` or `POST`.
    pub method: turso_slice_ref_t,
    /// Path to append to the URL (whose final slash, if any, is dropped); starts with `/`.
    pub path: turso_slice_ref_t,
    /// Body; NULL and 0 if there is none. A POST without a body is sent with `Content-Length: 0`.
    pub body: turso_slice_ref_t,
    /// Number of headers; see turso_sync_database_io_request_http_header.
    pub headers: i32,
}

/// One header of an HTTP request. Both slices live as long as the item.
#[repr(C)]
pub struct turso_sync_io_http_header_t {
    /// Name, in lower case.
    pub key: turso_slice_ref_t,
    /// Value. May be secret: do not log it.
    pub value: turso_slice_ref_t,
}

/// A file to read.
#[repr(C)]
pub struct turso_sync_io_full_read_request_t {
    /// Path in UTF-8; lives as long as the item.
    pub path: turso_slice_ref_t,
}

/// A file to replace. Both slices live as long as the item.
#[repr(C)]
pub struct turso_sync_io_full_write_request_t {
    /// Path in UTF-8.
    pub path: turso_slice_ref_t,
    /// The new content.
    pub content: turso_slice_ref_t,
}

/// Figures about a replica.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_stats_t {
    /// Captured local changes that the remote has not acknowledged; 0 = everything is uploaded.
    pub cdc_operations: i64,
    /// Bytes of the write-ahead log.
    pub main_wal_size: i64,
    /// Bytes of the revert file.
    pub revert_wal_size: i64,
    /// Time of the last pull in unix seconds; 0 = never.
    pub last_pull_unix_time: i64,
    /// Time of the last push in unix seconds; 0 = never.
    pub last_push_unix_time: i64,
    /// Bytes of request bodies since the replica was opened.
    pub network_sent_bytes: i64,
    /// Bytes of answer bodies since the replica was opened.
    pub network_received_bytes: i64,
    /// The remote's revision that this replica has; empty if it never had one. Valid until the operation is released.
    pub revision: turso_slice_ref_t,
}

/// Settings of the built-in driver. Fill it with zeros, set `size`, then set what you need. New fields are only ever
/// appended; `size` tells the library which ones the caller knows.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_driver_config_t {
    /// `sizeof(turso_sync_driver_config_t)`.
    pub size: usize,
    /// Sent as `Authorization: Bearer <token>`; NULL = none. Read anew on every call, so a token may expire.
    pub auth_token: *const c_char,
    /// Base URL that replaces the replica's own; NULL = use the replica's.
    pub base_url: *const c_char,
    /// Longest silence of the remote in milliseconds, in addition to the replica's `long_poll_timeout_ms`; 0 = 60 seconds.
    pub timeout_ms: u64,
    /// Longest time for the whole operation in milliseconds; 0 = no limit.
    pub deadline_ms: u64,
    /// Asked for the token before every HTTP request, in the thread that runs the operation (that of a keeper: several at
    /// once); NULL = nobody. After a 401 it is asked once more, and the request is sent again if the answer differs. Returns
    /// a zero-terminated string, or NULL for none. The library copies the string at once and does not free it: it must stay
    /// as it is until the same thread calls again or the operation has ended. Set this or `auth_token`, not both.
    pub auth_token_callback: Option<unsafe extern "C" fn(context: *mut c_void) -> *const c_char>,
    /// Passed to `auth_token_callback`. Must be usable until turso_sync_operation_run, or turso_sync_keeper_deinit, has
    /// returned.
    pub auth_token_context: *mut c_void,
    /// URL of a proxy, with user and password if it needs them: `http`, `https`, `socks4`, `socks4a`, `socks5` or
    /// `socks5h` (the proxy resolves names). NULL = none; the variables of the environment are not looked at.
    pub proxy: *const c_char,
    /// File with certificates in PEM that are trusted in place of the built-in ones (those of Mozilla). NULL = the built-in
    /// ones.
    pub ca_file: *const c_char,
    /// How often a request is sent that fails before anything of its answer has been used; 0 = 3, 1 = never again. The
    /// pauses between grow and are random in part, and not shorter than the remote asks for (Retry-After in seconds). A pause
    /// beyond the deadline (without one: a minute) is not begun; the operation fails then, and `retry_after_ms` of its error
    /// tells when to come back.
    pub attempts: u32,
    /// Called with each TURSO_SYNC_IO_TRANSFORM item, in the thread that runs the operation (that of a keeper: one of its
    /// threads, one at a time): it decides about every change of the item with turso_sync_database_io_transform_keep, `_skip`
    /// or `_rewrite`, or poisons the item, and returns. The driver calls done and releases the item, which is not valid any
    /// more then. NULL = a push of a replica with `use_transform` fails with MISUSE.
    pub transform_callback:
        Option<unsafe extern "C" fn(context: *mut c_void, item: *const turso_sync_io_item_t)>,
    /// Passed to `transform_callback`. As `auth_token_context`.
    pub transform_context: *mut c_void,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_driver_config_t {
    const NAME: &str = "turso_sync_driver_config_t";
}

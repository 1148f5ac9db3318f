//! Enumerations and structures of `turso.h`.

use std::ffi::{c_char, c_void};

use crate::error::Code;

/// Outcome of a call. Values below 127 are not errors, except BUSY, INTERRUPT and BUSY_SNAPSHOT.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_status_code_t {
    /// The call succeeded.
    TURSO_OK = 0,
    /// A statement or an operation has ended successfully.
    TURSO_DONE = 1,
    /// A row is available.
    TURSO_ROW = 2,
    /// The operation waits for IO requests: serve them, then resume.
    TURSO_IO = 3,
    /// Somebody else holds a lock; repeating the call later can succeed.
    TURSO_BUSY = 4,
    /// The call was interrupted or cancelled.
    TURSO_INTERRUPT = 5,
    /// The transaction read an old state and cannot write any more; roll it back and start again.
    TURSO_BUSY_SNAPSHOT = 6,
    /// Everything that has no code of its own.
    TURSO_ERROR = 127,
    /// The caller broke a rule of the API.
    TURSO_MISUSE = 128,
    /// A UNIQUE, NOT NULL, CHECK or FOREIGN KEY constraint failed.
    TURSO_CONSTRAINT = 129,
    /// The database cannot be written.
    TURSO_READONLY = 130,
    /// The disk is full.
    TURSO_DATABASE_FULL = 131,
    /// The file is not a database.
    TURSO_NOTADB = 132,
    /// The database or one of its side files is damaged.
    TURSO_CORRUPT = 133,
    /// The operating system reported an IO error.
    TURSO_IOERR = 134,
}

impl From<Code> for turso_status_code_t {
    fn from(code: Code) -> Self {
        match code {
            Code::Busy => Self::TURSO_BUSY,
            Code::Interrupt => Self::TURSO_INTERRUPT,
            Code::BusySnapshot => Self::TURSO_BUSY_SNAPSHOT,
            Code::Error => Self::TURSO_ERROR,
            Code::Misuse => Self::TURSO_MISUSE,
            Code::Constraint => Self::TURSO_CONSTRAINT,
            Code::Readonly => Self::TURSO_READONLY,
            Code::DatabaseFull => Self::TURSO_DATABASE_FULL,
            Code::NotADb => Self::TURSO_NOTADB,
            Code::Corrupt => Self::TURSO_CORRUPT,
            Code::IoErr => Self::TURSO_IOERR,
        }
    }
}

/// Type of a value.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_type_t {
    /// There is no value: no row, or no such column.
    TURSO_TYPE_UNKNOWN = 0,
    /// 64-bit signed integer.
    TURSO_TYPE_INTEGER = 1,
    /// IEEE double.
    TURSO_TYPE_REAL = 2,
    /// Text; UTF-8 unless somebody stored something else. Not zero-terminated, and may contain NUL bytes.
    TURSO_TYPE_TEXT = 3,
    /// Bytes.
    TURSO_TYPE_BLOB = 4,
    /// SQL NULL.
    TURSO_TYPE_NULL = 5,
}

/// How much is logged; each level includes those before it.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_tracing_level_t {
    /// Something failed.
    TURSO_TRACING_LEVEL_ERROR = 1,
    /// Something is strange, but work goes on.
    TURSO_TRACING_LEVEL_WARN = 2,
    /// Few lines per sync operation.
    TURSO_TRACING_LEVEL_INFO = 3,
    /// Every request and answer, without contents.
    TURSO_TRACING_LEVEL_DEBUG = 4,
    /// Everything.
    TURSO_TRACING_LEVEL_TRACE = 5,
}

/// Bits of `turso_database_config_t.open_flags`. Other bits are MISUSE.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_database_open_flags_t {
    /// Read and write; create the file if it does not exist.
    TURSO_DATABASE_OPEN_DEFAULT = 0,
    /// Refuse all writes; the file must exist.
    TURSO_DATABASE_OPEN_READONLY = 1,
}

/// Bytes that somebody else owns: `len` bytes at `ptr`. Passing a slice never transfers ownership.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_slice_ref_t {
    /// First byte. Not zero-terminated.
    pub ptr: *const c_void,
    /// Number of bytes.
    pub len: usize,
}

/// One line of the log. All pointers are valid during the callback only.
#[repr(C)]
pub struct turso_log_t {
    /// The text.
    pub message: *const c_char,
    /// The part of the library that speaks.
    pub target: *const c_char,
    /// Source file; empty if unknown.
    pub file: *const c_char,
    /// Unix time in seconds.
    pub timestamp: u64,
    /// Line in the source file; 0 if unknown.
    pub line: usize,
    /// How important it is.
    pub level: turso_tracing_level_t,
}

/// Receives log lines, in whatever thread produced them, possibly in several threads at once. It must return
/// normally (no exception, no longjmp) and must not call functions of this library.
pub type turso_logger_t = Option<unsafe extern "C" fn(log: *const turso_log_t)>;

/// Settings of the whole process; see `turso_setup`.
#[repr(C)]
pub struct turso_config_t {
    /// Receives the log; NULL for no log.
    pub logger: turso_logger_t,
    /// `"error"`, `"warn"`, `"info"`, `"debug"`, `"trace"` or `"off"`. NULL takes the level from the environment
    /// variable `TURSO_LOG`, and is quiet if there is none.
    pub log_level: *const c_char,
}

/// Reserved: encodes the pages of a database file. Not supported; the pointer to it must be NULL.
pub struct turso_page_codec_v1_t {
    _private: (),
}

/// How to open a database. Fill it with zeros first; then set what you need.
#[repr(C)]
pub struct turso_database_config_t {
    /// Ignored: this library never needs the caller's help for local storage, so no statement returns TURSO_IO.
    pub async_io: u64,
    /// Path of the database file, or `":memory:"` for a database that lives as long as its handles. Required.
    pub path: *const c_char,
    /// Comma-separated names of features; accepted and ignored, SQLite has them all or has no use for them. May be
    /// NULL.
    pub experimental_features: *const c_char,
    /// `"memory"` is the same as the path `":memory:"`; `"syscall"`, `"io_uring"` and `"experimental_win_iocp"` are
    /// accepted and ignored; anything else is an error. May be NULL.
    pub vfs: *const c_char,
    /// Must be NULL: encryption of the local file is not supported.
    pub encryption_cipher: *const c_char,
    /// Must be NULL: encryption of the local file is not supported.
    pub encryption_hexkey: *const c_char,
    /// Must be NULL: page codecs are not supported.
    pub page_codec: *const turso_page_codec_v1_t,
    /// Bits of `turso_database_open_flags_t`.
    pub open_flags: u32,
}

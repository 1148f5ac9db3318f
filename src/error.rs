//! The one error type of the library: what went wrong, in a form a program can act on.

use std::fmt;

/// Status of a failed call. The numbers are those of `turso_status_code_t` in `turso.h` and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The database or the replica is locked by somebody else; try again.
    Busy = 4,
    /// The call was interrupted or cancelled.
    Interrupt = 5,
    /// The read snapshot is too old to write; restart the transaction.
    BusySnapshot = 6,
    /// Everything that has no code of its own.
    Error = 127,
    /// The caller broke a rule of the API.
    Misuse = 128,
    /// A UNIQUE, NOT NULL, CHECK or FOREIGN KEY constraint failed.
    Constraint = 129,
    /// The database cannot be written.
    Readonly = 130,
    /// The disk is full.
    DatabaseFull = 131,
    /// The file is not a database.
    NotADb = 132,
    /// The database or one of its side files is damaged.
    Corrupt = 133,
    /// The operating system reported an IO error.
    IoErr = 134,
}

/// Where an error comes from, so that a host knows whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// Wrong arguments or wrong order of calls.
    Usage,
    /// SQLite refused a statement on the local database.
    Database,
    /// Files of the replica could not be read or written.
    Storage,
    /// The request never got an answer (the host reported a failure).
    Network,
    /// The remote answered with an error.
    Remote,
    /// The remote answered with something that is not the protocol.
    Protocol,
    /// Local and remote changes contradict each other.
    Conflict,
    /// This replica and this remote do not belong together.
    Identity,
    /// Another program has changed the database, and nobody has decided what becomes of that.
    Foreign,
    /// A fault of this library.
    Internal,
}

/// An error with everything that is known about it.
///
/// The message says what happened and, where there is something to do, what to do next. It never contains
/// tokens, keys or row contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Status code over the C ABI.
    pub code: Code,
    /// Where it comes from.
    pub category: Category,
    /// Extended SQLite result code, if SQLite reported one.
    pub sqlite_code: Option<i32>,
    /// HTTP status, if the remote answered.
    pub http_status: Option<u16>,
    /// True if repeating the same call later can succeed without anybody changing anything.
    pub retryable: bool,
    /// How long the remote asked to wait before that, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// Human readable text.
    pub message: String,
}

/// Shorthand used all over the crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `category` with status `code`; not retryable.
    pub fn new(category: Category, code: Code, message: impl Into<String>) -> Self {
        Error {
            code,
            category,
            sqlite_code: None,
            http_status: None,
            retryable: false,
            retry_after_ms: None,
            message: message.into(),
        }
    }

    /// The caller broke a rule.
    pub fn misuse(message: impl Into<String>) -> Self {
        Self::new(Category::Usage, Code::Misuse, message)
    }

    /// Somebody else holds the lock; retryable.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(Category::Database, Code::Busy, message).retry()
    }

    /// The remote sent something that is not the protocol.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new(Category::Protocol, Code::Error, message)
    }

    /// A file of the replica is damaged.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Category::Storage, Code::Corrupt, message)
    }

    /// This replica and this remote do not belong together.
    pub fn identity(message: impl Into<String>) -> Self {
        Self::new(Category::Identity, Code::Error, message)
    }

    /// Another program has changed the database.
    pub fn foreign(message: impl Into<String>) -> Self {
        Self::new(Category::Foreign, Code::Error, message)
    }

    /// The host stopped the operation.
    pub fn cancelled() -> Self {
        Self::new(Category::Usage, Code::Interrupt, "the operation was cancelled")
    }

    /// Something that cannot happen happened.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Category::Internal, Code::Error, message)
    }

    /// Operating-system error `e` while doing `what` (a verb and an object, such as `"open <path>"`).
    pub fn io(what: impl fmt::Display, e: &std::io::Error) -> Self {
        let code = match e.raw_os_error() {
            Some(libc::ENOSPC) | Some(libc::EDQUOT) => Code::DatabaseFull,
            Some(libc::EROFS) | Some(libc::EACCES) | Some(libc::EPERM) => Code::Readonly,
            _ => Code::IoErr,
        };
        Self::new(Category::Storage, code, format!("I/O error ({what}): {e}"))
    }

    /// Error from an extended SQLite result code and SQLite's message.
    pub fn sqlite(extended: i32, message: impl Into<String>) -> Self {
        let (code, retryable) = match extended & 0xff {
            rusqlite::ffi::SQLITE_BUSY if extended == rusqlite::ffi::SQLITE_BUSY_SNAPSHOT => {
                (Code::BusySnapshot, true)
            }
            rusqlite::ffi::SQLITE_BUSY | rusqlite::ffi::SQLITE_LOCKED => (Code::Busy, true),
            rusqlite::ffi::SQLITE_INTERRUPT => (Code::Interrupt, true),
            rusqlite::ffi::SQLITE_MISUSE | rusqlite::ffi::SQLITE_RANGE => (Code::Misuse, false),
            rusqlite::ffi::SQLITE_CONSTRAINT => (Code::Constraint, false),
            rusqlite::ffi::SQLITE_READONLY => (Code::Readonly, false),
            rusqlite::ffi::SQLITE_FULL => (Code::DatabaseFull, false),
            rusqlite::ffi::SQLITE_NOTADB => (Code::NotADb, false),
            rusqlite::ffi::SQLITE_CORRUPT => (Code::Corrupt, false),
            rusqlite::ffi::SQLITE_IOERR | rusqlite::ffi::SQLITE_CANTOPEN => (Code::IoErr, false),
            _ => (Code::Error, false),
        };
        Error {
            code,
            category: Category::Database,
            sqlite_code: Some(extended),
            http_status: None,
            retryable,
            retry_after_ms: None,
            message: message.into(),
        }
    }

    /// The same error, marked as worth repeating.
    pub fn retry(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// The same error with `context: ` in front of its message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The same error attributed to `category`.
    pub fn categorized(mut self, category: Category) -> Self {
        self.category = category;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        match e {
            rusqlite::Error::SqliteFailure(f, message) => {
                Error::sqlite(f.extended_code, message.unwrap_or_else(|| f.to_string()))
            }
            rusqlite::Error::SqlInputError { error, msg, .. } => Error::sqlite(error.extended_code, msg),
            other => Error::new(Category::Database, Code::Error, other.to_string()),
        }
    }
}

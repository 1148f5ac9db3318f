//! A connection to a local database.

use std::sync::Arc;
use std::time::Duration;

use crate::capture::Statement;
use crate::error::{Error, Result};

/// Told about events on a connection. Calls come in the thread that uses the connection, while no statement of it
/// runs, so that the observer may open connections of its own.
pub trait Observer: Send + Sync {
    /// A transaction committed and the write-ahead log now holds `frames` frames.
    fn committed(&self, frames: u32);
    /// The connection is closed.
    fn closed(&self);
}

/// How to open a connection.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Capture every change into the change log; the file must be a replica (see [`crate::capture::log`]).
    pub capture: bool,
    /// Refuse all writes.
    pub read_only: bool,
    /// Who wants to know about commits and closing.
    pub observer: Option<Arc<dyn Observer>>,
}

/// A connection; clones are the same connection. Use it, and the statements of it, from one thread at a time:
/// concurrent use is detected and answered with MISUSE.
#[derive(Clone)]
pub struct Connection {}

impl Connection {
    /// Opens (and creates, unless `read_only`) the database at `path`; `:memory:` without capture only.
    pub fn open(_path: &str, _options: OpenOptions) -> Result<Connection> {
        Err(Error::internal("stub"))
    }

    /// Prepares the first statement of `sql`: the statement and the byte offset behind it, or `None` if there is
    /// none left (white space and comments).
    pub fn prepare(&self, _sql: &str) -> Result<Option<(Statement, usize)>> {
        Err(Error::internal("stub"))
    }

    /// Runs all statements of `sql`, discarding rows.
    pub fn execute_batch(&self, _sql: &str) -> Result<()> {
        Err(Error::internal("stub"))
    }

    /// How long statements wait for a lock.
    pub fn set_busy_timeout(&self, _timeout: Duration) {}

    /// True outside a transaction that the user began; false when closed.
    pub fn is_autocommit(&self) -> bool {
        false
    }

    /// Rowid of the last row that the user's statements inserted.
    pub fn last_insert_rowid(&self) -> i64 {
        0
    }

    /// Interrupts the statement that runs in another thread.
    pub fn interrupt(&self) {}

    /// Finalizes all statements and closes; later use is the error `Connection closed`. Closing twice is fine. An
    /// open transaction is rolled back.
    pub fn close(&self) -> Result<()> {
        Err(Error::internal("stub"))
    }
}

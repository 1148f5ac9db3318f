//! `turso_database_t`: a plain local database.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use super::boundary::{Handle, Out, optional_string_in, status, string_in};
use super::connection::turso_connection_t;
use super::types::{turso_database_config_t, turso_database_open_flags_t, turso_status_code_t};
use crate::capture::{Connection, OpenOptions, Step};
use crate::error::{Category, Code, Error, Result};

/// A database: a file, or memory. It may be shared between threads. Connections outlive it.
pub struct turso_database_t {
    settings: DatabaseSettings,
    state: Mutex<State>,
}

enum State {
    New,
    Open,
    /// Open in memory, with the connection that holds the data until somebody takes it.
    Memory(Option<Connection>),
}

impl Handle for turso_database_t {}

/// A checked `turso_database_config_t`.
pub(super) struct DatabaseSettings {
    pub(super) path: String,
    pub(super) in_memory: bool,
    pub(super) read_only: bool,
}

impl DatabaseSettings {
    /// # Safety
    /// `config` is NULL or follows the pointer rules of the header.
    pub(super) unsafe fn read(config: *const turso_database_config_t) -> Result<Self> {
        // SAFETY: NULL or readable by the contract.
        let config = unsafe { config.as_ref() };
        let config = config.ok_or_else(|| Error::misuse("config pointer must be not null"))?;
        // SAFETY: the same contract, for the strings inside.
        let (path, vfs) = unsafe { (string_in(config.path)?, optional_string_in(config.vfs)?) };
        // SAFETY: as above. The features are checked for being text and otherwise ignored.
        unsafe { optional_string_in(config.experimental_features)? };
        if !config.encryption_cipher.is_null() || !config.encryption_hexkey.is_null() {
            return Err(not_supported("encryption of the local database file"));
        }
        if !config.page_codec.is_null() {
            return Err(not_supported("a page codec"));
        }
        let read_only = turso_database_open_flags_t::TURSO_DATABASE_OPEN_READONLY as u32;
        if config.open_flags & !read_only != 0 {
            let text = format!("unknown bits in open_flags: {:#x}", config.open_flags);
            return Err(Error::misuse(text));
        }
        let in_memory = match vfs {
            None | Some("syscall" | "io_uring" | "experimental_win_iocp") => path == ":memory:",
            Some("memory") => true,
            Some(other) => return Err(not_supported(&format!("vfs {other:?}"))),
        };
        Ok(DatabaseSettings {
            path: if in_memory {
                ":memory:".to_owned()
            } else {
                path.to_owned()
            },
            in_memory,
            read_only: config.open_flags & read_only != 0,
        })
    }
}

pub(super) fn not_supported(what: &str) -> Error {
    Error::new(Category::Usage, Code::Error, format!("{what} is not supported"))
}

impl turso_database_t {
    fn open(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, State::New) {
            return Ok(());
        }
        let connection = self.connection()?;
        self.check(&connection)?;
        *state = match self.settings.in_memory {
            true => State::Memory(Some(connection)),
            false => State::Open,
        };
        Ok(())
    }

    fn connect(&self) -> Result<Connection> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::New => Err(Error::misuse("database must be opened first")),
            State::Open => self.connection(),
            State::Memory(connection) => connection
                .take()
                .ok_or_else(|| not_supported("a second connection to a database in memory")),
        }
    }

    fn connection(&self) -> Result<Connection> {
        let options = OpenOptions {
            read_only: self.settings.read_only,
            ..OpenOptions::default()
        };
        Connection::open(&self.settings.path, options)
    }

    /// Fails for a file that is no database, and for writing to a replica: changes made here would not be captured,
    /// and the next pull would undo them.
    fn check(&self, connection: &Connection) -> Result<()> {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'turso_sync_local'";
        let Some((mut statement, _)) = connection.prepare(sql)? else {
            return Ok(());
        };
        if statement.step()? == Step::Row && !self.settings.read_only {
            return Err(Error::misuse(
                "this file is a replica: open it with turso_sync_database_new, or with TURSO_DATABASE_OPEN_READONLY",
            ));
        }
        statement.finalize()
    }
}

/// Creates a handle for a database. Does no IO; the configuration is copied.
///
/// `*database` is released with turso_database_deinit.
///
/// Errors: MISUSE for NULL pointers, text that is not UTF-8, and unknown open flags; ERROR for what is not
/// supported. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_database_new(
    config: *const turso_database_config_t,
    database: *mut *const turso_database_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (out, settings) = unsafe { (Out::new(database)?, DatabaseSettings::read(config)?) };
        let handle = turso_database_t {
            settings,
            state: Mutex::new(State::New),
        };
        out.put(handle.hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Opens the database, creating the file if it does not exist. Opening an open database is fine.
///
/// Errors: MISUSE for NULL, and for a replica's file (it needs turso_sync_database_new, unless opened READONLY);
/// NOTADB, IOERR, BUSY and others as SQLite reports them. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_database_open(
    database: *const turso_database_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_database_t::borrow(database) }?.open()?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Opens a connection; any number may exist, but only one for a database in memory. `*connection` is released with turso_connection_deinit and may outlive
/// the database handle.
///
/// Errors: MISUSE for NULL and before turso_database_open. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_database_connect(
    database: *const turso_database_t,
    connection: *mut *mut turso_connection_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (database, out) = unsafe { (turso_database_t::borrow(database)?, Out::new(connection)?) };
        out.put(turso_connection_t::new(database.connect()?).hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Releases the handle; NULL is fine. Connections stay usable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_database_deinit(database: *const turso_database_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_database_t::release(database) }
}

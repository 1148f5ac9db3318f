//! The few calls of SQLite's C interface that capture needs, with Rust types around them.
//!
//! [`Db`] is a plain copy of the pointer: whoever holds one guarantees that the connection is open and that no other
//! thread uses it meanwhile (see the lock in [`super::connection`]).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use rusqlite::ffi;

use crate::error::{Error, Result};
use crate::record::Value;

/// Signature of the preupdate hook: context, connection, operation, schema, table, old rowid, new rowid.
pub(super) type PreupdateHook =
    unsafe extern "C" fn(*mut c_void, *mut ffi::sqlite3, c_int, *const c_char, *const c_char, i64, i64);

// Declared here because rusqlite's bindings leave them out without its `preupdate_hook` feature
// (https://www.sqlite.org/c3ref/preupdate_blobwrite.html).
unsafe extern "C" {
    pub(super) fn sqlite3_preupdate_hook(
        db: *mut ffi::sqlite3,
        hook: Option<PreupdateHook>,
        context: *mut c_void,
    ) -> *mut c_void;
    pub(super) fn sqlite3_preupdate_old(
        db: *mut ffi::sqlite3,
        column: c_int,
        value: *mut *mut ffi::sqlite3_value,
    ) -> c_int;
    pub(super) fn sqlite3_preupdate_new(
        db: *mut ffi::sqlite3,
        column: c_int,
        value: *mut *mut ffi::sqlite3_value,
    ) -> c_int;
    pub(super) fn sqlite3_preupdate_count(db: *mut ffi::sqlite3) -> c_int;
    pub(super) fn sqlite3_preupdate_depth(db: *mut ffi::sqlite3) -> c_int;
}

/// An open connection.
#[derive(Clone, Copy)]
pub(super) struct Db(pub *mut ffi::sqlite3);

impl Db {
    /// Opens `path` with `SQLITE_OPEN_*` flags; extended result codes are on.
    pub fn open(path: &str, flags: c_int) -> Result<Db> {
        // A path is a path: this prefix keeps SQLite from reading it as a URI.
        let path = if path.starts_with("file:") {
            format!("./{path}")
        } else {
            path.to_owned()
        };
        let path = CString::new(path).map_err(|_| Error::misuse("path contains a NUL byte"))?;
        let mut raw = ptr::null_mut();
        // SAFETY: `path` is NUL-terminated, `raw` receives the handle, which is closed below if opening failed.
        let rc = unsafe {
            ffi::sqlite3_open_v2(
                path.as_ptr(),
                &mut raw,
                flags | ffi::SQLITE_OPEN_EXRESCODE,
                ptr::null(),
            )
        };
        let db = Db(raw);
        if rc != ffi::SQLITE_OK {
            let error = db.error(rc);
            let _ = db.close();
            return Err(error);
        }
        Ok(db)
    }

    /// Closes the connection; all statements must be finalized.
    pub fn close(self) -> Result<()> {
        // SAFETY: the caller gives the handle up.
        match unsafe { ffi::sqlite3_close(self.0) } {
            ffi::SQLITE_OK => Ok(()),
            rc => Err(self.error(rc)),
        }
    }

    /// The connection's current error as an [`Error`], for result code `rc`.
    pub fn error(self, rc: c_int) -> Error {
        if self.0.is_null() {
            return Error::sqlite(rc, "out of memory");
        }
        // SAFETY: the handle is open; the message is copied before any other call.
        let message = unsafe { CStr::from_ptr(ffi::sqlite3_errmsg(self.0)) };
        Error::sqlite(rc, message.to_string_lossy())
    }

    /// True if no transaction is open, whoever opened it.
    pub fn autocommit(self) -> bool {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_get_autocommit(self.0) != 0 }
    }

    /// True if this connection holds the write lock of the main file.
    pub fn is_writing(self) -> bool {
        self.transaction_state() == ffi::SQLITE_TXN_WRITE
    }

    /// True if this connection holds a snapshot of the main file.
    pub fn is_reading(self) -> bool {
        self.transaction_state() != ffi::SQLITE_TXN_NONE
    }

    fn transaction_state(self) -> c_int {
        // SAFETY: the handle is open and the name a literal.
        unsafe { ffi::sqlite3_txn_state(self.0, c"main".as_ptr()) }
    }

    /// Rows changed by the last statement, SQLite's own figure.
    pub fn changes(self) -> i64 {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_changes64(self.0) }
    }

    /// Rows changed since open, SQLite's own figure.
    pub fn total_changes(self) -> i64 {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_total_changes64(self.0) }
    }

    /// Rowid of the last inserted row.
    pub fn last_insert_rowid(self) -> i64 {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_last_insert_rowid(self.0) }
    }

    /// Sets what [`Self::last_insert_rowid`] reports.
    pub fn set_last_insert_rowid(self, rowid: i64) {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_set_last_insert_rowid(self.0, rowid) }
    }

    /// Waits up to `ms` milliseconds for locks.
    pub fn set_busy_timeout(self, ms: c_int) {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_busy_timeout(self.0, ms) };
    }

    /// Sets one of the boolean `SQLITE_DBCONFIG_*` switches.
    pub fn configure(self, option: c_int, on: bool) -> Result<()> {
        // SAFETY: the boolean options take an int and a pointer that may be NULL.
        let rc = unsafe { ffi::sqlite3_db_config(self.0, option, c_int::from(on), ptr::null_mut::<c_int>()) };
        if rc == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(self.error(rc))
        }
    }

    /// Prepares the first statement of `sql`: the statement, if there is one, and the offset behind it.
    pub fn prepare_first(self, sql: &str, flags: u32) -> Result<(Option<RawStatement>, usize)> {
        let len = c_int::try_from(sql.len()).map_err(|_| Error::misuse("SQL text is too long"))?;
        let (mut raw, mut tail) = (ptr::null_mut(), ptr::null());
        let start = sql.as_ptr().cast::<c_char>();
        // SAFETY: the length is passed, so no terminator is needed; both results are out parameters.
        let rc = unsafe { ffi::sqlite3_prepare_v3(self.0, start, len, flags, &mut raw, &mut tail) };
        if rc != ffi::SQLITE_OK {
            return Err(self.error(rc));
        }
        let used = if tail.is_null() {
            sql.len()
        } else {
            tail as usize - start as usize
        };
        let statement = if raw.is_null() {
            None
        } else {
            Some(RawStatement { db: self, raw })
        };
        Ok((statement, used.min(sql.len())))
    }

    /// True if `name` is a table, not a view, in `schema`, as far as this connection knows.
    pub fn has_table(self, schema: &str, name: &str) -> bool {
        let (Ok(schema), Ok(name)) = (CString::new(schema), CString::new(name)) else {
            return false;
        };
        // SAFETY: the names are NUL-terminated, the column's is absent; what is not wanted may be NULL.
        let rc = unsafe {
            ffi::sqlite3_table_column_metadata(
                self.0,
                schema.as_ptr(),
                name.as_ptr(),
                ptr::null(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        rc == ffi::SQLITE_OK
    }

    /// Prepares one of the library's own statements.
    pub fn prepare(self, sql: &str) -> Result<RawStatement> {
        let (statement, _) = self.prepare_first(sql, ffi::SQLITE_PREPARE_PERSISTENT)?;
        statement.ok_or_else(|| Error::internal("empty SQL text"))
    }

    /// Runs one statement to its end.
    pub fn execute(self, sql: &str) -> Result<()> {
        let mut statement = self.prepare(sql)?;
        while statement.step()? {}
        Ok(())
    }

    /// Reads outside a transaction. SQLite (3.53) takes the end of what reads there for the end of the transaction up to
    /// which the user may have deferred foreign keys.
    pub fn reading_between<T>(self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_deferred = || -> Result<bool> {
            let mut get = self.prepare("PRAGMA defer_foreign_keys")?;
            Ok(get.step()? && get.integer(0) != 0)
        };
        let deferred = self.autocommit() && is_deferred()?;
        let result = read();
        if deferred {
            self.execute("PRAGMA defer_foreign_keys = 1")?;
        }
        result
    }
}

/// A prepared statement, finalized on drop; it must not outlive the connection.
pub(super) struct RawStatement {
    db: Db,
    raw: *mut ffi::sqlite3_stmt,
}

impl RawStatement {
    /// The pointer, valid as long as `self`.
    pub fn raw(&self) -> *mut ffi::sqlite3_stmt {
        self.raw
    }

    /// Runs to the next row (true) or the end (false).
    pub fn step(&mut self) -> Result<bool> {
        // SAFETY: the statement is alive.
        match unsafe { ffi::sqlite3_step(self.raw) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            rc => Err(self.db.error(rc)),
        }
    }

    /// Back to the start; reports what ending the run reported.
    pub fn reset(&mut self) -> Result<()> {
        // SAFETY: the statement is alive.
        match unsafe { ffi::sqlite3_reset(self.raw) } {
            ffi::SQLITE_OK => Ok(()),
            rc => Err(self.db.error(rc)),
        }
    }

    /// Runs a statement that returns no rows, and resets it.
    pub fn run(&mut self) -> Result<()> {
        let result = self.step();
        let reset = self.reset();
        result.and(reset)
    }

    /// True if the statement cannot write the database file.
    pub fn is_readonly(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_readonly(self.raw) != 0 }
    }

    /// True if it has been stepped and neither ended nor been reset; also after BUSY, when it may be stepped again.
    pub fn is_running(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_busy(self.raw) != 0 }
    }

    /// True if SQLite has prepared the statement anew since the last call, because the schema had changed.
    pub fn was_prepared_again(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_status(self.raw, ffi::SQLITE_STMTSTATUS_REPREPARE, 1) != 0 }
    }

    /// Moves the bindings of another statement with the same text here.
    pub fn take_bindings(&mut self, from: &mut RawStatement) -> Result<()> {
        // SAFETY: both statements are alive and of one connection.
        self.check(unsafe { ffi::sqlite3_transfer_bindings(from.raw, self.raw) })
    }

    /// True for EXPLAIN and EXPLAIN QUERY PLAN.
    pub fn is_explain(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_isexplain(self.raw) != 0 }
    }

    /// The text of this statement alone.
    pub fn sql(&self) -> String {
        // SAFETY: the statement is alive; its text is NUL-terminated and is copied.
        let text = unsafe {
            let text = ffi::sqlite3_sql(self.raw);
            if text.is_null() { c"" } else { CStr::from_ptr(text) }
        };
        text.to_string_lossy().into_owned()
    }

    /// Turns the result code of a bind into a result.
    pub fn check(&self, rc: c_int) -> Result<()> {
        if rc == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(self.db.error(rc))
        }
    }

    /// Binds an integer.
    pub fn bind_integer(&mut self, i: c_int, v: i64) -> Result<()> {
        // SAFETY: the statement is alive.
        let rc = unsafe { ffi::sqlite3_bind_int64(self.raw, i, v) };
        self.check(rc)
    }

    /// Binds a copy of any value.
    pub fn bind(&mut self, i: c_int, v: &Value) -> Result<()> {
        // SAFETY: the statement is alive.
        let rc = unsafe {
            match v {
                Value::Null => ffi::sqlite3_bind_null(self.raw, i),
                Value::Integer(v) => ffi::sqlite3_bind_int64(self.raw, i, *v),
                Value::Real(v) => ffi::sqlite3_bind_double(self.raw, i, *v),
                Value::Text(v) => return self.bind_text(i, v),
                Value::Blob(v) => return self.bind_blob(i, v),
            }
        };
        self.check(rc)
    }

    /// Binds a copy of text.
    pub fn bind_text(&mut self, i: c_int, v: &[u8]) -> Result<()> {
        let (start, len, utf8) = (v.as_ptr().cast(), v.len() as u64, ffi::SQLITE_UTF8 as u8);
        // SAFETY: the statement is alive; SQLITE_TRANSIENT makes SQLite copy the bytes.
        let rc = unsafe { ffi::sqlite3_bind_text64(self.raw, i, start, len, ffi::SQLITE_TRANSIENT(), utf8) };
        self.check(rc)
    }

    /// Binds a copy of a blob.
    pub fn bind_blob(&mut self, i: c_int, v: &[u8]) -> Result<()> {
        let (start, len) = (v.as_ptr().cast(), v.len() as u64);
        // SAFETY: the statement is alive; SQLITE_TRANSIENT makes SQLite copy the bytes.
        let rc = unsafe { ffi::sqlite3_bind_blob64(self.raw, i, start, len, ffi::SQLITE_TRANSIENT()) };
        self.check(rc)
    }

    /// Sets all parameters to NULL.
    pub fn clear_bindings(&mut self) {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_clear_bindings(self.raw) };
    }

    /// Binds bytes without copying them, `None` as NULL.
    ///
    /// # Safety
    /// The bytes must stay where they are until the parameter is bound anew or the statement is gone or no longer
    /// stepped.
    pub unsafe fn bind_borrowed_blob(&mut self, i: c_int, v: Option<&[u8]>) -> Result<()> {
        // SAFETY: the statement is alive, the caller keeps the bytes alive.
        let rc = unsafe {
            match v {
                None => ffi::sqlite3_bind_null(self.raw, i),
                Some(v) => ffi::sqlite3_bind_blob64(
                    self.raw,
                    i,
                    v.as_ptr().cast(),
                    v.len() as u64,
                    ffi::SQLITE_STATIC(),
                ),
            }
        };
        self.check(rc)
    }

    /// Binds text without copying it.
    ///
    /// # Safety
    /// As for [`Self::bind_borrowed_blob`].
    pub unsafe fn bind_borrowed_text(&mut self, i: c_int, v: &str) -> Result<()> {
        let (start, len, utf8) = (v.as_ptr().cast(), v.len() as u64, ffi::SQLITE_UTF8 as u8);
        // SAFETY: the statement is alive, the caller keeps the bytes alive.
        let rc = unsafe { ffi::sqlite3_bind_text64(self.raw, i, start, len, ffi::SQLITE_STATIC(), utf8) };
        self.check(rc)
    }

    /// Number of result columns.
    pub fn column_count(&self) -> c_int {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_column_count(self.raw) }
    }

    /// SQLite's type code of column `i`.
    pub fn column_type(&self, i: c_int) -> c_int {
        // SAFETY: the statement is alive; SQLite answers NULL for a wrong index.
        unsafe { ffi::sqlite3_column_type(self.raw, i) }
    }

    /// The integer in column `i`.
    pub fn integer(&self, i: c_int) -> i64 {
        // SAFETY: the statement is alive; SQLite answers 0 for a wrong index.
        unsafe { ffi::sqlite3_column_int64(self.raw, i) }
    }

    /// The real in column `i`.
    pub fn real(&self, i: c_int) -> f64 {
        // SAFETY: the statement is alive; SQLite answers 0 for a wrong index.
        unsafe { ffi::sqlite3_column_double(self.raw, i) }
    }

    /// The text in column `i`, with invalid sequences replaced; empty for NULL.
    pub fn text(&self, i: c_int) -> String {
        String::from_utf8_lossy(self.bytes(i)).into_owned()
    }

    /// The bytes of the text or blob in column `i`, until the next call.
    pub fn bytes(&self, i: c_int) -> &[u8] {
        // SAFETY: the statement is alive; pointer and length belong together because nothing converts in between,
        // and the slice borrows `self`.
        unsafe {
            let start = match ffi::sqlite3_column_type(self.raw, i) {
                ffi::SQLITE_TEXT => ffi::sqlite3_column_text(self.raw, i),
                _ => ffi::sqlite3_column_blob(self.raw, i).cast(),
            };
            let len = ffi::sqlite3_column_bytes(self.raw, i);
            if start.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts(start, len.max(0) as usize)
            }
        }
    }

    /// The value in column `i`.
    pub fn value(&self, i: c_int) -> Value {
        match self.column_type(i) {
            ffi::SQLITE_INTEGER => Value::Integer(self.integer(i)),
            ffi::SQLITE_FLOAT => Value::Real(self.real(i)),
            ffi::SQLITE_TEXT => Value::Text(self.bytes(i).to_vec()),
            ffi::SQLITE_BLOB => Value::Blob(self.bytes(i).to_vec()),
            _ => Value::Null,
        }
    }

    /// All values of the current row.
    pub fn row(&self) -> Vec<Value> {
        (0..self.column_count()).map(|i| self.value(i)).collect()
    }
}

impl Drop for RawStatement {
    fn drop(&mut self) {
        // SAFETY: finalized once, here, and the connection is still open.
        unsafe { ffi::sqlite3_finalize(self.raw) };
    }
}

/// `name` as a quoted SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

//! SQLite's callbacks: preupdate, commit, rollback, WAL and authorizer hooks, and the functions `changes()` and
//! `total_changes()`.
//!
//! They run inside calls of SQLite made under the connection's lock, so all state they share with the rest is in
//! [`HookState`], which is only ever borrowed shared.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::ptr;

use rusqlite::ffi;

use crate::capture::authorizer::{Action, Purpose, refuse_function};
use crate::capture::buffer::{self, Buffer, RowChange, RowOp};
use crate::capture::ignored::IgnoredTables;
use crate::capture::log::LOCAL_TABLES;
use crate::capture::sqlite::{
    Db, sqlite3_preupdate_count, sqlite3_preupdate_depth, sqlite3_preupdate_hook, sqlite3_preupdate_new,
    sqlite3_preupdate_old,
};
use crate::error::Result;

/// What callbacks leave for the code that steps statements, and the other way round.
#[derive(Default)]
pub(super) struct HookState {
    /// Tables of which nothing is captured.
    pub ignored: IgnoredTables,
    /// A row that is not captured changed in the implicit transaction: of an ignored table, or of another schema.
    pub changed_uncaptured: Cell<bool>,
    /// The open transaction has changed an ignored table.
    pub wrote_ignored: Cell<bool>,
    /// The library runs a statement of its own: nothing is captured or refused.
    pub internal: Cell<bool>,
    /// Changes since the last flush.
    pub buffer: RefCell<Buffer>,
    /// What the statement prepared last does.
    pub purpose: RefCell<Purpose>,
    /// Why the authorizer refused.
    pub refusal: RefCell<Option<String>>,
    /// The statement that runs was not known to change the schema: it is stopped if it does after all.
    pub guards_schema: Cell<bool>,
    /// That has happened.
    pub met_ddl: Cell<bool>,
    /// The next commit is to become a rollback.
    pub refuses_commit: Cell<bool>,
    /// A transaction was rolled back.
    pub rolled_back: Cell<bool>,
    /// A commit left this many frames in the write-ahead log.
    pub wal_frames: Cell<Option<u32>>,
    /// A transaction was committed.
    pub committed: Cell<bool>,
    /// The user's write statement that runs.
    pub running: Cell<*mut ffi::sqlite3_stmt>,
    /// What the SQL functions report.
    pub counters: Counters,
}

/// The user's change counters, freed from what log writes add to SQLite's.
#[derive(Default)]
pub(super) struct Counters {
    /// Changes made by log writes.
    internal_total: Cell<i64>,
    /// While SQLite's own `changes` comes from a log write: that value with SQLite's total, and the user's value.
    hidden: Cell<Option<((i64, i64), i64)>>,
}

impl Counters {
    /// The user's `changes()`. Inside a trigger that runs after a log write it may be that of the write, if the
    /// trigger itself has changed rows before; at top level it is exact.
    pub fn changes(&self, db: Db) -> i64 {
        let now = (db.changes(), db.total_changes());
        match self.hidden.get() {
            Some((seen, users)) if seen == now => users,
            _ => now.0,
        }
    }

    /// The user's `total_changes()`.
    pub fn total_changes(&self, db: Db) -> i64 {
        db.total_changes() - self.internal_total.get()
    }

    /// A statement has ended that counts changes: SQLite's figure is the user's.
    pub fn counted(&self) {
        self.hidden.set(None);
    }

    /// The user's figure is `users`, whatever SQLite's is.
    pub fn report(&self, db: Db, users: i64) {
        self.hidden.set(Some(((db.changes(), db.total_changes()), users)));
    }

    /// A statement that had counted `changes` was undone because its commit failed: SQLite reports 0 then.
    pub fn forget(&self, db: Db, changes: i64) {
        self.internal_total.set(self.internal_total.get() + changes);
        self.report(db, 0);
    }

    /// Runs log writes so that the user's counters and last rowid do not show them.
    pub fn hiding<T>(&self, db: Db, write: impl FnOnce() -> T) -> T {
        let (changes, total, rowid) = (self.changes(db), db.total_changes(), db.last_insert_rowid());
        let result = write();
        self.internal_total
            .set(self.internal_total.get() + db.total_changes() - total);
        self.report(db, changes);
        db.set_last_insert_rowid(rowid);
        result
    }
}

impl HookState {
    /// Runs `f` as the library itself.
    pub fn as_internal<T>(&self, f: impl FnOnce() -> T) -> T {
        let before = self.internal.replace(true);
        let result = f();
        self.internal.set(before);
        result
    }
}

/// Installs all callbacks.
///
/// # Safety
/// `state` must stay alive until the connection is closed.
pub(super) unsafe fn install(db: Db, state: *const HookState) -> Result<()> {
    let context = state.cast_mut().cast::<c_void>();
    // SAFETY: all callbacks take `context` for the `HookState` it is; the caller keeps it alive.
    unsafe {
        sqlite3_preupdate_hook(db.0, Some(on_preupdate), context);
        ffi::sqlite3_commit_hook(db.0, Some(on_commit), context);
        ffi::sqlite3_rollback_hook(db.0, Some(on_rollback), context);
        ffi::sqlite3_wal_hook(db.0, Some(on_wal), context);
        ffi::sqlite3_set_authorizer(db.0, Some(on_authorize), context);
        ffi::sqlite3_trace_v2(db.0, ffi::SQLITE_TRACE_STMT, Some(on_trace), context);
    }
    for (name, function) in [
        (c"changes", sql_changes as unsafe extern "C" fn(_, _, _)),
        (c"total_changes", sql_total_changes),
    ] {
        // SAFETY: as above; the name is a literal.
        let rc = unsafe {
            ffi::sqlite3_create_function_v2(
                db.0,
                name.as_ptr(),
                0,
                ffi::SQLITE_UTF8 | ffi::SQLITE_INNOCUOUS,
                context,
                Some(function),
                None,
                None,
                None,
            )
        };
        if rc != ffi::SQLITE_OK {
            return Err(db.error(rc));
        }
    }
    Ok(())
}

/// # Safety
/// `context` must be what [`install`] was given.
unsafe fn state<'a>(context: *mut c_void) -> &'a HookState {
    // SAFETY: the state outlives the connection and is only borrowed shared.
    unsafe { &*context.cast::<HookState>() }
}

/// # Safety
/// `text` must be NULL or NUL-terminated and live for `'a`.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

unsafe extern "C" fn on_authorize(
    context: *mut c_void,
    code: c_int,
    first: *const c_char,
    second: *const c_char,
    schema: *const c_char,
    trigger: *const c_char,
) -> c_int {
    // SAFETY: SQLite passes our context and strings that live during the call.
    let (state, [first, second, schema, trigger]) =
        unsafe { (state(context), [first, second, schema, trigger].map(|t| text(t))) };
    if state.internal.get() {
        return ffi::SQLITE_OK;
    }
    let Ok(mut purpose) = state.purpose.try_borrow_mut() else {
        return ffi::SQLITE_DENY;
    };
    let verdict = match code {
        ffi::SQLITE_FUNCTION => refuse_function(second.unwrap_or("")),
        ffi::SQLITE_READ | ffi::SQLITE_SELECT => Ok(()),
        ffi::SQLITE_ALTER_TABLE => purpose.note_alter(first, second, &state.ignored),
        _ => {
            let action = Action {
                code,
                first,
                second,
                schema,
                trigger,
            };
            purpose.note(action, &state.ignored)
        }
    };
    match verdict {
        Ok(()) if state.guards_schema.get() && purpose.ddl.is_some() => {
            state.met_ddl.set(true);
            ffi::SQLITE_DENY
        }
        Ok(()) => ffi::SQLITE_OK,
        Err(reason) => {
            state.refusal.replace(Some(reason));
            ffi::SQLITE_DENY
        }
    }
}

unsafe extern "C" fn on_trace(
    _event: u32,
    context: *mut c_void,
    statement: *mut c_void,
    trace: *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes our context.
    let state = unsafe { state(context) };
    let statement = statement.cast::<ffi::sqlite3_stmt>();
    // Virtual tables run statements of their own inside the user's.
    if state.internal.get() || statement != state.running.get() {
        return 0;
    }
    let Ok(mut buffer) = state.buffer.try_borrow_mut() else {
        return 0;
    };
    // SAFETY: the statement is alive. The address is only compared.
    let own = unsafe { ffi::sqlite3_sql(statement) };
    let trace = trace.cast::<c_char>().cast_const();
    if trace != own {
        // SAFETY: SQLite passes a string for this event.
        buffer.push_text_mark(trace as usize, || unsafe { text(trace) }.unwrap_or("").to_owned());
    } else if !buffer.is_empty() {
        // With nothing changed it is the start of the statement itself.
        buffer.push_action_mark();
    }
    0
}

unsafe extern "C" fn on_commit(context: *mut c_void) -> c_int {
    // SAFETY: SQLite passes our context.
    let state = unsafe { state(context) };
    // Something would be lost: turn the commit into a rollback.
    let captured = state.buffer.try_borrow().is_ok_and(|buffer| buffer.is_empty());
    c_int::from(!captured || state.refuses_commit.get())
}

unsafe extern "C" fn on_rollback(context: *mut c_void) {
    // SAFETY: SQLite passes our context.
    unsafe { state(context) }.rolled_back.set(true);
}

unsafe extern "C" fn on_wal(
    context: *mut c_void,
    _db: *mut ffi::sqlite3,
    schema: *const c_char,
    frames: c_int,
) -> c_int {
    // SAFETY: SQLite passes our context and a string that lives during the call.
    let (state, schema) = unsafe { (state(context), text(schema)) };
    if schema == Some("main") {
        state.wal_frames.set(u32::try_from(frames).ok());
        state.committed.set(true);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn sql_changes(
    context: *mut ffi::sqlite3_context,
    _count: c_int,
    _arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: called by SQLite with its own context; the user data is our state.
    unsafe {
        let state = state(ffi::sqlite3_user_data(context));
        let db = Db(ffi::sqlite3_context_db_handle(context));
        ffi::sqlite3_result_int64(context, state.counters.changes(db));
    }
}

unsafe extern "C" fn sql_total_changes(
    context: *mut ffi::sqlite3_context,
    _count: c_int,
    _arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: called by SQLite with its own context; the user data is our state.
    unsafe {
        let state = state(ffi::sqlite3_user_data(context));
        let db = Db(ffi::sqlite3_context_db_handle(context));
        ffi::sqlite3_result_int64(context, state.counters.total_changes(db));
    }
}

unsafe extern "C" fn on_preupdate(
    context: *mut c_void,
    db: *mut ffi::sqlite3,
    op: c_int,
    schema: *const c_char,
    table: *const c_char,
    old_rowid: i64,
    new_rowid: i64,
) {
    // SAFETY: SQLite passes our context and strings that live during the call.
    let (state, schema, table) = unsafe { (state(context), CStr::from_ptr(schema), CStr::from_ptr(table)) };
    if state.internal.get() {
        return;
    }
    if schema != c"main" || !is_captured(table.to_bytes()) {
        return state.changed_uncaptured.set(true);
    }
    let Ok(mut buffer) = state.buffer.try_borrow_mut() else {
        return;
    };
    let op = match op {
        ffi::SQLITE_INSERT => RowOp::Insert,
        ffi::SQLITE_UPDATE => RowOp::Update,
        _ => RowOp::Delete,
    };
    let Some(table) = buffer.table_index(table.to_bytes(), |name| !state.ignored.contains_bytes(name)) else {
        state.wrote_ignored.set(true);
        return state.changed_uncaptured.set(true);
    };
    // SAFETY: inside the hook for this operation: an insert has no old row, a delete no new one.
    let (depth, old, new) = unsafe {
        (
            sqlite3_preupdate_depth(db),
            (op != RowOp::Insert).then(|| read_row(db, &mut buffer, sqlite3_preupdate_old)),
            (op != RowOp::Delete).then(|| read_row(db, &mut buffer, sqlite3_preupdate_new)),
        )
    };
    buffer.push_change(RowChange {
        op,
        table,
        depth,
        old_rowid,
        new_rowid,
        old,
        new,
    });
}

/// SQLite's own tables and ours are not captured.
fn is_captured(table: &[u8]) -> bool {
    let starts = |prefix: &[u8]| {
        table
            .get(..prefix.len())
            .is_some_and(|t| t.eq_ignore_ascii_case(prefix))
    };
    if starts(b"sqlite_") {
        return false;
    }
    !(starts(b"turso_")
        && LOCAL_TABLES
            .iter()
            .any(|t| table.eq_ignore_ascii_case(t.as_bytes())))
}

type Getter = unsafe extern "C" fn(*mut ffi::sqlite3, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

/// Copies the row that `get` reads, without virtual columns.
///
/// # Safety
/// Only inside the preupdate hook, with the getter that fits the operation.
unsafe fn read_row(db: *mut ffi::sqlite3, buffer: &mut Buffer, get: Getter) -> Range<usize> {
    let start = buffer.mark();
    // SAFETY: inside the hook.
    let count = unsafe { sqlite3_preupdate_count(db) };
    for i in 0..count {
        let mut value = ptr::null_mut();
        // SAFETY: inside the hook; `value` is an out parameter and valid until the hook returns.
        match unsafe { get(db, i, &mut value) } {
            // SAFETY: SQLite returned a value.
            ffi::SQLITE_OK if !value.is_null() => unsafe { read_value(buffer, value) },
            // A virtual column: the file does not hold it.
            ffi::SQLITE_RANGE => {}
            _ => buffer.fail(),
        }
    }
    start..buffer.mark()
}

/// # Safety
/// `value` must be a live value of SQLite.
unsafe fn read_value(buffer: &mut Buffer, value: *mut ffi::sqlite3_value) {
    // SAFETY: the accessor fits the type. Text of a UTF-8 database is read as a blob, which gives the same bytes
    // without SQLite making room for a terminator.
    unsafe {
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => buffer.push_cell(buffer::Cell::Integer(ffi::sqlite3_value_int64(value))),
            ffi::SQLITE_FLOAT => {
                buffer.push_cell(buffer::Cell::Real(ffi::sqlite3_value_double(value).to_bits()));
            }
            ffi::SQLITE_NULL => buffer.push_cell(buffer::Cell::Null),
            kind => {
                let start = ffi::sqlite3_value_blob(value).cast::<u8>();
                let len = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
                if start.is_null() && len > 0 {
                    return buffer.fail();
                }
                let bytes = if len == 0 {
                    &[]
                } else {
                    std::slice::from_raw_parts(start, len)
                };
                if kind == ffi::SQLITE_TEXT {
                    buffer.push_text(bytes)
                } else {
                    buffer.push_blob(bytes)
                }
            }
        }
    }
}

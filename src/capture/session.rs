//! Stepping statements so that the change log always follows what they do.
//!
//! A write statement outside a transaction runs in an *implicit transaction*, begun here, so that its log rows
//! commit together with it. The user sees autocommit as ever: the transaction commits when the statement ends.

mod failure;
mod prepare;

use std::rc::Rc;
use std::sync::Arc;

use rusqlite::ffi;

use crate::capture::attach;
use crate::capture::authorizer::{Ddl, Purpose, Written};
use crate::capture::ddl::{Finished, Snapshot};
use crate::capture::flush::{Depth, LogWriter};
use crate::capture::hooks::HookState;
use crate::capture::lineage::Writer;
use crate::capture::programs::{Run, Work};
use crate::capture::sqlite::{Db, RawStatement};
use crate::capture::statement::Step;
use crate::capture::virtual_table;
use crate::error::{Category, Code, Error, Result};

/// Counts the transactions that have written ignored tables.
const LOCAL_MARK: &str = "INSERT INTO main.turso_sync_local VALUES ('local writes', 1)
     ON CONFLICT (name) DO UPDATE SET value = value + 1";

/// What a statement means for capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Begin,
    /// COMMIT, END or RELEASE.
    Commit,
    Release,
    Rollback,
    RollbackTo,
    Attach,
}

/// A user's statement.
pub(super) struct Slot {
    /// `None` once finalized.
    statement: Option<RawStatement>,
    kind: Kind,
    ddl: Option<Ddl>,
    written: Vec<Written>,
    /// `written` is to be checked after the first step.
    unchecked: bool,
    counts_changes: bool,
    work: Work,
    /// CREATE, DROP or ALTER that changed nothing in the main schema as that was when it was prepared (IF EXISTS, IF NOT
    /// EXISTS, a TEMP table in front). It is stopped should it do so later.
    guarded: bool,
    /// PRAGMA recursive_triggers.
    sets_recursion: bool,
    /// PRAGMA recursive_triggers was on when the run started.
    recursive: bool,
    /// The schema before a running DDL statement.
    schema: Option<Snapshot>,
    /// Between its first step and its end.
    active: bool,
    /// The last step led to a row.
    has_row: bool,
    changes: i64,
}

/// What a capturing connection has in addition.
struct Capture {
    db: Db,
    log: LogWriter,
    begin: RawStatement,
    commit: RawStatement,
    rollback: RawStatement,
    savepoint: RawStatement,
    release: RawStatement,
    /// Reads PRAGMA recursive_triggers.
    recursion: RawStatement,
    /// What it said.
    recursive: bool,
    /// Takes the write lock and changes nothing.
    lock: RawStatement,
    /// Tells a transaction that logs nothing from one of another program.
    mark: RawStatement,
    /// The open transaction was begun here, not by the user.
    implicit: bool,
    /// Active write statements.
    writers: usize,
}

/// An open connection with its statements; used under the connection's lock only.
pub(super) struct Session {
    slots: Vec<Option<Slot>>,
    active: usize,
    capture: Option<Capture>,
    hooks: Rc<HookState>,
    db: Db,
}

fn closed_statement() -> Error {
    Error::misuse("statement has been finalized")
}

impl Session {
    /// Takes over an open connection. With capture the hooks must be installed with `hooks`; what is captured is `writer`'s.
    pub fn new(db: Db, hooks: Rc<HookState>, capture: bool, writer: Option<Arc<Writer>>) -> Result<Session> {
        let capture = match capture {
            true => Some(hooks.as_internal(|| Capture::new(db, writer))?),
            false => None,
        };
        Ok(Session {
            slots: Vec::new(),
            active: 0,
            capture,
            hooks,
            db,
        })
    }

    /// The connection.
    pub fn db(&self) -> Db {
        self.db
    }

    /// True outside a transaction that the user began.
    pub fn is_autocommit(&self) -> bool {
        self.db.autocommit() || self.capture.as_ref().is_some_and(|c| c.implicit)
    }

    fn slot(&mut self, id: usize) -> Result<&mut Slot> {
        self.slots
            .get_mut(id)
            .and_then(Option::as_mut)
            .ok_or_else(closed_statement)
    }

    /// The statement in slot `id`.
    pub fn statement(&mut self, id: usize) -> Result<&mut RawStatement> {
        self.slot(id)?.statement.as_mut().ok_or_else(closed_statement)
    }

    /// True if the statement in slot `id` stands on a row.
    pub fn has_row(&mut self, id: usize) -> bool {
        self.slot(id).is_ok_and(|slot| slot.has_row)
    }

    /// Rows that the last run of slot `id` changed.
    pub fn changes(&mut self, id: usize) -> i64 {
        self.slot(id).map_or(0, |slot| slot.changes)
    }

    /// Frames in the write-ahead log after a commit that nobody was told about, if nothing is running.
    pub fn take_commit(&mut self) -> Option<u32> {
        if self.active > 0 || !self.db.autocommit() {
            return None;
        }
        self.hooks.wal_frames.take()
    }

    /// Runs the statement in slot `id` to its next row or its end.
    pub fn step(&mut self, id: usize) -> Result<Step> {
        self.statement(id)?;
        let kind = self.slot(id)?.kind;
        self.check_control(kind)?;
        let total = self.db.total_changes();
        let users_changes = self.hooks.counters.changes(self.db);
        let outcome = match self.before_step(id, kind) {
            Ok(()) => self.run(id, kind).map_err(|e| self.explained(e)),
            Err(e) => {
                let error = self.failed(id, kind, e, 0);
                // A statement of ours failed in place of the user's, which would have begun, and counted nothing.
                if error.sqlite_code.is_some() && self.slot(id)?.counts_changes {
                    self.hooks.counters.report(self.db, 0);
                }
                return Err(error);
            }
        };
        let counted = self.counted_since(total);
        // After a change of the schema SQLite prepares statements anew.
        if !self.hooks.purpose.borrow().writes.is_empty() {
            let purpose = self.hooks.purpose.take();
            if let Err(error) = self.check_writes(&purpose) {
                return Err(self.roll_back(id, error));
            }
        }
        let row = match outcome {
            Ok(row) => row,
            Err(error) if self.hooks.met_ddl.take() => {
                self.failed(id, kind, error, counted);
                self.compile_again(id)?;
                return self.step(id);
            }
            Err(error) => return Err(self.failed(id, kind, error, counted)),
        };
        if row {
            // Only the end of a statement counts; triggers leave SQLite's figure in between.
            self.hooks.counters.report(self.db, users_changes);
        } else {
            self.note_counted(id);
        }
        let slot = self.slot(id)?;
        slot.changes = if row || slot.ddl.is_some() { 0 } else { counted };
        self.set_active(id, row)?;
        self.after_step(id, kind, row, counted)?;
        Ok(if row { Step::Row } else { Step::Done })
    }

    fn run(&mut self, id: usize, kind: Kind) -> Result<bool> {
        let hooks = Rc::clone(&self.hooks);
        let guarded = self.slot(id)?.guarded;
        if kind != Kind::Write && !guarded {
            return self.statement(id)?.step();
        }
        hooks.running.set(self.statement(id)?.raw());
        hooks.buffer.borrow_mut().clear_marks();
        hooks.purpose.replace(Purpose::default());
        hooks.guards_schema.set(guarded);
        let result = self.statement(id)?.step();
        hooks.guards_schema.set(false);
        hooks.running.set(std::ptr::null_mut());
        // After a schema change it was prepared anew, and may fire other triggers.
        if self.statement(id)?.was_prepared_again() {
            let mut work = std::mem::take(&mut hooks.purpose.borrow_mut().work);
            work.read_clause(&self.statement(id)?.sql());
            self.slot(id)?.work = work;
        }
        result
    }

    /// Statement `id` has ended: if it counts changes, SQLite's figure is the user's again.
    fn note_counted(&mut self, id: usize) {
        if self.slot(id).is_ok_and(|slot| slot.counts_changes) {
            self.hooks.counters.counted();
        }
    }

    /// Changes that a statement counted when it ended, if it has ended since the total was `total`.
    fn counted_since(&self, total: i64) -> i64 {
        if self.db.total_changes() != total {
            self.db.changes()
        } else {
            0
        }
    }

    fn set_active(&mut self, id: usize, active: bool) -> Result<()> {
        let slot = self.slot(id)?;
        slot.has_row = active;
        let was = std::mem::replace(&mut slot.active, active);
        self.active = self.active + usize::from(active) - usize::from(was);
        Ok(())
    }

    /// Refuses BEGIN, COMMIT and ROLLBACK while a transaction is open that the user knows nothing of.
    fn check_control(&self, kind: Kind) -> Result<()> {
        if !self.capture.as_ref().is_some_and(|c| c.implicit) {
            return Ok(());
        }
        let verb = match kind {
            Kind::Begin => return Err(half_way()),
            Kind::Commit => "commit",
            Kind::Rollback => "rollback",
            _ => return Ok(()),
        };
        // What SQLite says in autocommit mode.
        Err(Error::sqlite(
            ffi::SQLITE_ERROR,
            format!("cannot {verb} - no transaction is active"),
        ))
    }

    fn before_step(&mut self, id: usize, kind: Kind) -> Result<()> {
        if let Some(capture) = &mut self.capture {
            capture.log.doubt_segment();
        }
        match kind {
            Kind::Write if !self.slot(id)?.active => self.start_write(id),
            Kind::Commit | Kind::Release => {
                self.settle_virtual_tables()?;
                self.mark_local_writes()
            }
            _ => Ok(()),
        }
    }

    fn start_write(&mut self, id: usize) -> Result<()> {
        let (db, hooks) = (self.db, Rc::clone(&self.hooks));
        let is_ddl = self.slot(id)?.ddl.is_some();
        let of_view = self.writes_view(id)?;
        let Some(capture) = self.capture.as_mut() else {
            return Ok(());
        };
        let was_autocommit = db.autocommit();
        if capture.writers > 0 && (was_autocommit || capture.implicit) {
            return Err(half_way());
        }
        let snapshot = hooks.as_internal(|| {
            if was_autocommit {
                capture.begin.run()?;
            }
            if !is_ddl && !of_view {
                return Ok(None);
            }
            // The schema is read under the write lock: read before it, somebody else could change it in between.
            hooks.counters.hiding(db, || capture.lock.run())?;
            if is_ddl {
                Snapshot::take(db).map(Some)
            } else {
                Ok(None)
            }
        });
        capture.implicit |= was_autocommit && !db.autocommit();
        if was_autocommit {
            hooks.changed_uncaptured.set(false);
        }
        capture.writers += 1;
        let recursive = capture.recursive;
        self.set_active(id, true)?;
        self.slot(id)?.recursive = recursive;
        self.slot(id)?.schema = snapshot?;
        if of_view { self.prepare_again(id) } else { Ok(()) }
    }

    fn after_step(&mut self, id: usize, kind: Kind, row: bool, counted: i64) -> Result<()> {
        if self.capture.is_none() {
            return Ok(());
        }
        let captured = self.check_postponed(id);
        if let Err(error) = captured.and_then(|()| self.flush(Some(id), !row)) {
            return Err(self.roll_back(id, error));
        }
        match kind {
            Kind::Write if !row => self.writer_ended(true, counted)?,
            Kind::Read if !row && self.slot(id)?.sets_recursion => self.read_recursion()?,
            Kind::Attach if !row => self.hooks.as_internal(|| attach::refuse_own_file(self.db))?,
            Kind::Rollback | Kind::RollbackTo => self.forget_schema(),
            _ => {}
        }
        self.note_transaction_end();
        Ok(())
    }

    fn read_recursion(&mut self) -> Result<()> {
        let hooks = Rc::clone(&self.hooks);
        match self.capture.as_mut() {
            Some(capture) => hooks.as_internal(|| capture.read_recursion()),
            None => Ok(()),
        }
    }

    fn forget_schema(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.log.tables.clear();
        }
    }

    /// Brings the log writer up to date after anything that may have ended a transaction.
    fn note_transaction_end(&mut self) {
        if self.hooks.rolled_back.take() {
            self.forget_schema();
        }
        if let Some(capture) = self.capture.as_mut().filter(|_| self.db.autocommit()) {
            capture.implicit = false;
            capture.log.end_transaction(self.hooks.committed.take());
            self.hooks.wrote_ignored.set(false);
        }
    }

    /// Writes the changes that statement `id` has buffered, and its schema change if it is DDL and `done`. Without
    /// a statement the changes are those that virtual tables have stored late.
    fn flush(&mut self, id: Option<usize>, done: bool) -> Result<()> {
        let slot = id.and_then(|id| self.slots.get_mut(id)).and_then(Option::as_mut);
        let before = slot.filter(|_| done).and_then(|slot| slot.schema.take());
        if before.is_none() && self.hooks.buffer.borrow().is_empty() {
            return Ok(());
        }
        let (db, hooks) = (self.db, Rc::clone(&self.hooks));
        let slot = id.and_then(|id| self.slots.get(id)).and_then(Option::as_ref);
        let Some(capture) = self.capture.as_mut() else {
            return Ok(());
        };
        let mut buffer = hooks.buffer.take();
        let write = || {
            if buffer.has_failed() {
                return Err(Error::sqlite(
                    ffi::SQLITE_NOMEM,
                    "out of memory while capturing a change",
                ));
            }
            match (before, slot) {
                (
                    Some(before),
                    Some(Slot {
                        ddl: Some(ddl),
                        statement: Some(statement),
                        work,
                        recursive,
                        ..
                    }),
                ) => {
                    capture.log.tables.clear();
                    let after = &Snapshot::take(db)?;
                    let sql = &statement.sql();
                    let finished = Finished {
                        ddl,
                        before: &before,
                        after,
                        sql,
                    };
                    let work = &finished.work(work);
                    let recursive = *recursive;
                    let depth = Depth::Redone(Run { work, recursive });
                    let log = &mut capture.log;
                    log.write_changes(&mut buffer, depth, |table| finished.wants_rows_of(table))?;
                    if ddl.ignored {
                        hooks.wrote_ignored.set(true);
                    }
                    finished.write(db, log, &hooks.ignored)
                }
                (
                    _,
                    Some(Slot {
                        kind: Kind::Write,
                        work,
                        recursive,
                        written,
                        ..
                    }),
                ) => {
                    let recursive = *recursive;
                    let depth = Depth::Redone(Run { work, recursive });
                    let log = &mut capture.log;
                    match log.write_changes(&mut buffer, depth, |_| true)? {
                        true => virtual_table::write_changes(db, log, &buffer, written),
                        false => Ok(()),
                    }
                }
                // SAVEPOINT and COMMIT change nothing themselves, but virtual tables store then what they have in
                // memory.
                _ => capture
                    .log
                    .write_changes(&mut buffer, Depth::Exact, |_| true)
                    .map(|_| ()),
            }
        };
        let result = hooks.as_internal(|| hooks.counters.hiding(db, write));
        buffer.clear();
        hooks.buffer.replace(buffer);
        result
    }

    /// Makes virtual tables write what they keep in memory until a commit (full-text indexes do), because what they
    /// write during the commit could no longer be captured. Opening a savepoint makes them do it.
    fn settle_virtual_tables(&mut self) -> Result<()> {
        let Some(capture) = self.capture.as_mut() else {
            return Ok(());
        };
        if capture.writers > 0 || self.db.autocommit() || !self.db.is_writing() {
            return Ok(());
        }
        if !self.hooks.as_internal(|| capture.log.has_virtual_tables())? {
            return Ok(());
        }
        // FTS4 does it by an INSERT that says so.
        let (db, hooks) = (self.db, Rc::clone(&self.hooks));
        let (changes, rowid) = (hooks.counters.changes(db), db.last_insert_rowid());
        let settled = capture.savepoint.run();
        let released = settled.is_ok().then(|| capture.release.run());
        hooks.counters.report(db, changes);
        db.set_last_insert_rowid(rowid);
        match released {
            Some(result) => result.and_then(|()| self.flush(None, false)),
            // The commit meets the same, and rolls back.
            None => Ok(()),
        }
    }

    /// Before a commit: what ignored tables get leaves no trace in the log, so it leaves one in the replica's own state. What
    /// leaves none was written by somebody else.
    fn mark_local_writes(&mut self) -> Result<()> {
        let (db, hooks) = (self.db, Rc::clone(&self.hooks));
        match self.capture.as_mut() {
            Some(capture) if db.is_writing() && hooks.wrote_ignored.take() => {
                hooks.as_internal(|| hooks.counters.hiding(db, || capture.mark.run()))
            }
            _ => Ok(()),
        }
    }

    /// A write statement has ended, having counted some changes; the last one ends the implicit transaction.
    fn writer_ended(&mut self, keep: bool, counted: i64) -> Result<()> {
        let Some(capture) = self.capture.as_mut() else {
            return Ok(());
        };
        capture.writers = capture.writers.saturating_sub(1);
        if !capture.implicit || capture.writers > 0 {
            return Ok(());
        }
        let mut result = if keep {
            self.settle_virtual_tables()
                .and_then(|()| self.mark_local_writes())
        } else {
            Ok(())
        };
        let hooks = Rc::clone(&self.hooks);
        if let Some(capture) = self.capture.as_mut() {
            if keep && result.is_ok() {
                result = hooks.as_internal(|| capture.commit.run());
                if result.is_err() {
                    hooks.counters.forget(self.db, counted);
                }
            }
            let undone = hooks.as_internal(|| capture.undo(&hooks));
            result = result.and(undone);
        }
        self.note_transaction_end();
        result
    }

    /// Back to the start. Ends a run as SQLite does: what it has changed so far stays.
    pub fn reset(&mut self, id: usize) -> Result<()> {
        let was_active = self.slot(id)?.active;
        let waited = !was_active && self.statement(id)?.is_running();
        let total = self.db.total_changes();
        let result = self.statement(id)?.reset();
        let counted = self.counted_since(total);
        self.set_active(id, false)?;
        let slot = self.slot(id)?;
        slot.schema = None;
        let writes = slot.kind == Kind::Write;
        if waited {
            self.note_counted(id);
        }
        if !was_active {
            // SQLite repeats the error of the last step here; it has been reported.
            return Ok(());
        }
        self.note_counted(id);
        let flushed = self.flush(Some(id), false);
        let keep = result.is_ok() && flushed.is_ok();
        let ended = if writes {
            self.writer_ended(keep, counted)
        } else {
            Ok(())
        };
        self.note_transaction_end();
        result.and(flushed).and(ended)
    }

    /// Ends the statement; slot `id` stays taken until [`Self::release_slot`].
    pub fn finalize(&mut self, id: usize) -> Result<()> {
        if self.slot(id)?.statement.is_none() {
            return Ok(());
        }
        let result = self.reset(id);
        self.slot(id)?.statement = None;
        result
    }

    /// Finalizes the statement and frees its slot.
    pub fn release_slot(&mut self, id: usize) {
        let _ = self.finalize(id);
        if let Some(slot) = self.slots.get_mut(id) {
            *slot = None;
        }
    }

    /// Finalizes all statements and closes the connection.
    pub fn close(mut self) -> Result<()> {
        for id in 0..self.slots.len() {
            self.release_slot(id);
        }
        self.capture = None;
        self.db.close()
    }
}

impl Capture {
    fn new(db: Db, writer: Option<Arc<Writer>>) -> Result<Capture> {
        let mut capture = Capture {
            db,
            log: LogWriter::new(db, writer)?,
            begin: db.prepare("BEGIN")?,
            commit: db.prepare("COMMIT")?,
            rollback: db.prepare("ROLLBACK")?,
            savepoint: db.prepare("SAVEPOINT turso_sync_settle")?,
            release: db.prepare("RELEASE turso_sync_settle")?,
            lock: db.prepare("DELETE FROM main.turso_sync_local WHERE name IS NULL")?,
            mark: db.prepare(LOCAL_MARK)?,
            recursion: db.prepare("PRAGMA recursive_triggers")?,
            recursive: false,
            implicit: false,
            writers: 0,
        };
        capture.read_recursion()?;
        Ok(capture)
    }

    fn read_recursion(&mut self) -> Result<()> {
        let row = self.recursion.step();
        self.recursive = self.recursion.integer(0) != 0;
        let reset = self.recursion.reset();
        row.and(reset)
    }

    /// Undoes what is left of an implicit transaction the way SQLite does it in autocommit mode. After a schema change
    /// ROLLBACK would abort running read statements; a commit that the hook refuses does not.
    fn undo(&mut self, hooks: &HookState) -> Result<()> {
        hooks.buffer.borrow_mut().clear();
        if self.db.autocommit() {
            return Ok(());
        }
        hooks.refuses_commit.set(true);
        let _ = self.commit.run();
        hooks.refuses_commit.set(false);
        self.roll_back()
    }

    /// Rolls the open transaction back, also one of the user's. While a statement is half way an interrupt stays in force, and
    /// stops a ROLLBACK; a write that it stops takes the transaction with it.
    fn roll_back(&mut self) -> Result<()> {
        if self.db.autocommit() {
            return Ok(());
        }
        let result = self.rollback.run();
        if self.db.autocommit() {
            return Ok(());
        }
        let _ = self.lock.run();
        if self.db.autocommit() { Ok(()) } else { result }
    }
}

/// The answer to a second write statement, or BEGIN, in autocommit mode. SQLite (3.53) allows it, but loses count of
/// the statement transactions: one that fails may undo finished ones, too.
fn half_way() -> Error {
    Error::misuse(
        "another write statement is half way in autocommit mode: step it to its end, reset or finalize it first, or \
         run both between BEGIN and COMMIT",
    )
}

fn refused(reason: impl Into<String>) -> Error {
    Error::new(Category::Usage, Code::Error, reason)
}

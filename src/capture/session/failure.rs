//! What becomes of the buffered changes of a statement that failed.

use std::rc::Rc;

use super::{Kind, Session};
use crate::capture::outcome::{self, Ended};
use crate::error::{Error, Result};

impl Session {
    /// A step failed: keeps or drops the buffered changes as SQLite did, and returns the error to report.
    pub(super) fn failed(&mut self, id: usize, kind: Kind, error: Error, counted: i64) -> Error {
        let was_active = self.slot(id).is_ok_and(|slot| slot.active);
        let waits = self.statement(id).is_ok_and(|statement| statement.is_running());
        // One that could not even be prepared anew has left SQLite's figure, which may be that of a log write.
        if was_active && !waits && !(counted == 0 && self.db.changes() != 0) {
            self.note_counted(id);
        }
        let _ = self.set_active(id, false);
        let is_ddl = self.slot(id).is_ok_and(|slot| slot.schema.take().is_some());
        if self.capture.is_none() {
            return error;
        }
        let kept = match self.keep_or_drop(id, is_ddl, &error, counted) {
            Ok(Some(kept)) => kept,
            Ok(None) => {
                // SQLite's codes stay: to the user it is the statement that failed.
                let message = format!(
                    "{}; columns hide the rowid, so it is not known which rows the statement left behind",
                    error.message
                );
                return self.roll_back(id, Error { message, ..error });
            }
            Err(error) => return self.roll_back(id, error),
        };
        let ended = if kind == Kind::Write && was_active {
            self.writer_ended(kept, counted)
        } else {
            Ok(())
        };
        self.note_transaction_end();
        ended.err().unwrap_or(error)
    }

    /// True if the statement's changes stayed; they are in the log then. `None` if there is no telling.
    fn keep_or_drop(&mut self, id: usize, is_ddl: bool, error: &Error, counted: i64) -> Result<Option<bool>> {
        let slot = self.slots.get(id).and_then(Option::as_ref);
        let ended = slot.and_then(|slot| {
            Some(Ended {
                error,
                sql: slot.statement.as_ref()?.sql(),
                counted: slot.counts_changes.then_some(counted),
                verb: slot.work.step.as_ref().map(|step| step.verb),
            })
        });
        let (db, hooks) = (self.db, Rc::clone(&self.hooks));
        let Some(capture) = self.capture.as_mut() else {
            return Ok(Some(false));
        };
        // Rows that nobody captured: what SQLite has kept of them is right.
        let uncaptured = Some(hooks.changed_uncaptured.get() && !is_ddl);
        if hooks.buffer.borrow().is_empty() {
            return Ok(uncaptured);
        }
        let mut kept = Some(false);
        // What such a statement has left in the implicit transaction would be gone in autocommit mode.
        let undone = capture.implicit && !outcome::stays_in_autocommit(error);
        if !db.autocommit() && !is_ddl && !undone {
            let mut buffer = hooks.buffer.borrow_mut();
            let decide = || {
                outcome::forget_pending_delete(db, &mut capture.log.tables, &mut buffer)?;
                match buffer.is_empty() {
                    true => Ok(uncaptured),
                    false => outcome::was_kept(db, &mut capture.log.tables, &buffer),
                }
            };
            kept = hooks.as_internal(|| hooks.counters.hiding(db, decide))?;
            if let (None, Some(ended)) = (kept, ended) {
                kept = hooks.as_internal(|| ended.was_kept(db, &buffer))?;
            }
        }
        match kept {
            Some(true) => self.flush(Some(id), false)?,
            Some(false) => hooks.buffer.borrow_mut().clear(),
            None => {}
        }
        Ok(kept)
    }

    /// The log could not be written: the transaction must not go on. Returns the error to report.
    pub(super) fn roll_back(&mut self, id: usize, error: Error) -> Error {
        // One that has just ended was still counted.
        let writes = self.slot(id).is_ok_and(|slot| slot.kind == Kind::Write);
        if let Ok(statement) = self.statement(id) {
            let _ = statement.reset();
        }
        let _ = self.set_active(id, false);
        self.hooks.buffer.borrow_mut().clear();
        let hooks = Rc::clone(&self.hooks);
        if let Some(capture) = &mut self.capture {
            capture.writers = capture.writers.saturating_sub(usize::from(writes));
            let _ = hooks.as_internal(|| capture.roll_back());
        }
        self.note_transaction_end();
        error.context("the change could not be captured and its transaction was rolled back")
    }
}

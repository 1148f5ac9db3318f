//! A rebase that goes on behind a conflict.

use std::collections::HashSet;

use rusqlite::Connection;

use crate::capture::log::LogEntry;
use crate::error::{Category, Error, Result};
use crate::replay::conflict::{ConflictKind, ConflictPolicy, ConflictState, Failure};
use crate::replay::conflicts;
use crate::replay::rebase::{Rebase, RebaseReport};
use crate::replay::touched::Touched;
use crate::replay::{Progress, Transaction, Transactions};

/// What a rebase is to do about conflicts.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// About those that it finds. With `Stop` it looks for all of them.
    pub policy: ConflictPolicy,
    /// A pending transaction that leaves the log.
    pub remove: Option<Removal>,
    /// A transaction that was set aside and is to become the last pending one.
    pub restore: Option<Restoring>,
    /// Unix seconds.
    pub unix_time: i64,
    /// The new base is the one that the pending changes were made on: see [`super::rebase_unmoved`].
    pub unmoved: bool,
}

/// A pending transaction that leaves the log.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Why, and which one.
    pub failure: Failure,
    /// It is set aside; otherwise it is thrown away.
    pub keep: bool,
}

/// A transaction that was set aside and comes back.
#[derive(Debug, Clone, Copy)]
pub struct Restoring {
    /// Its id.
    pub txn_id: i64,
    /// It overwrites what is in its way.
    pub overwrite: bool,
}

/// Like [`super::rebase`], with every conflict handled as `plan` says. `Err` of the inner result: the conflicts that the
/// plan cannot handle, never empty; the caller rolls `scratch` back then.
pub fn rebase_resolving(
    current: &Connection,
    scratch: &Connection,
    progress: Progress,
    plan: &Plan,
) -> Result<std::result::Result<RebaseReport, Vec<Failure>>> {
    let mut resolving = Resolving {
        rebase: Rebase::new(current, scratch, progress.acknowledged)?,
        current,
        scratch,
        progress,
        plan,
        overwriting: conflicts::overwriting(current)?,
        touched: Touched::default(),
        blocked: Vec::new(),
    };
    let mut report = RebaseReport::new(progress.acknowledged);
    let mut transactions = Transactions::new(current, progress.acknowledged);
    while let Some(transaction) = transactions.next_transaction()? {
        let replayed = resolving.transaction(&transaction)?;
        report.add(&transaction, replayed);
    }
    if let Some(restoring) = plan.restore {
        let replayed = resolving.restore(restoring)?;
        report.last_change_id = report.last_change_id.max(progress.last) + replayed as i64;
        report.replayed_changes += replayed;
        report.replayed_transactions += u64::from(replayed > 0);
    }
    Ok(match resolving.blocked {
        blocked if blocked.is_empty() => Ok(report),
        blocked => Err(blocked),
    })
}

struct Resolving<'a> {
    rebase: Rebase<'a>,
    current: &'a Connection,
    scratch: &'a Connection,
    progress: Progress,
    plan: &'a Plan,
    /// Pending transactions that overwrite.
    overwriting: HashSet<i64>,
    /// What was taken out so far.
    touched: Touched,
    /// Conflicts that stay.
    blocked: Vec<Failure>,
}

impl Resolving<'_> {
    /// Returns the number of entries written.
    fn transaction(&mut self, entries: &Transaction<'_>) -> Result<u64> {
        let txn_id = entries.txn_id();
        if let Some(removal) = self.plan.remove.as_ref().filter(|r| r.failure.txn_id == txn_id) {
            return self.take_out(entries, removal.failure.clone(), removal.keep);
        }
        if !self.touched.is_empty()
            && let Some(failure) = self.rebase.dependency(entries, &self.touched)?
        {
            return match self.sets_aside() {
                true => self.take_out(entries, failure, true),
                // It falls with what it builds on; nothing to report.
                false => self.take_out_unlisted(entries),
            };
        }
        let overwrites = self.overwriting.contains(&txn_id);
        let failure = match self.attempt(entries, overwrites)? {
            Ok(written) => {
                self.touched.follow(entries)?;
                return Ok(written);
            }
            Err(failure) => failure,
        };
        if self.sets_aside() {
            return self.take_out(entries, failure, true);
        }
        if self.plan.policy == ConflictPolicy::Overwrite
            && !overwrites
            && let Ok(written) = self.attempt(entries, true)?
        {
            let state = ConflictState::Overwrite;
            conflicts::note(self.scratch, &failure, state, self.plan.unix_time)?;
            self.touched.follow(entries)?;
            return Ok(written);
        }
        self.blocked.push(failure);
        self.take_out_unlisted(entries)
    }

    /// A decision to take one transaction out takes along what builds on it, whatever the policy.
    fn sets_aside(&self) -> bool {
        self.plan.policy == ConflictPolicy::SetAside || self.plan.remove.is_some()
    }

    /// Executes a transaction; after a conflict everything is as before.
    fn attempt(
        &mut self,
        entries: &Transaction<'_>,
        overwrite: bool,
    ) -> Result<std::result::Result<u64, Failure>> {
        self.rebase.begin()?;
        match self.rebase.transaction(entries, overwrite) {
            Ok(written) => {
                self.rebase.keep()?;
                Ok(Ok(written))
            }
            Err(failure) if failure.error.category == Category::Conflict => {
                self.rebase.undo()?;
                Ok(Err(*failure))
            }
            Err(failure) => Err(failure.error),
        }
    }

    fn take_out(&mut self, entries: &Transaction<'_>, mut failure: Failure, keep: bool) -> Result<u64> {
        if entries.first().change_id <= self.progress.sent {
            let hint = "; the transaction may be on its way to the remote, push first";
            failure.error.message.push_str(hint);
            return Err(failure.error.retry());
        }
        let changes = self.rebase.pass_over(entries, &mut self.touched)?;
        // What was decided before, to overwrite for example, has nothing left to be about.
        conflicts::remove(self.scratch, failure.txn_id)?;
        if keep && let Some(first) = changes.first() {
            // What failed may be a change that nobody replays; the first one stands for the transaction then.
            if !changes.iter().any(|c| c.entry.change_id == failure.change_id) {
                failure.change_id = first.entry.change_id;
            }
            conflicts::set_aside(self.scratch, &changes, &failure, self.plan.unix_time)?;
        }
        Ok(0)
    }

    fn take_out_unlisted(&mut self, entries: &Transaction<'_>) -> Result<u64> {
        self.rebase.pass_over(entries, &mut self.touched)?;
        Ok(0)
    }

    /// Executes a transaction that was set aside, under new ids. If it fails again it is what blocks.
    fn restore(&mut self, restoring: Restoring) -> Result<u64> {
        let mut changes = conflicts::read_changes(self.current, restoring.txn_id)?;
        if changes.is_empty() {
            return Err(conflicts::unknown(restoring.txn_id));
        }
        let mut id = self.progress.last;
        let txn_id = id + 1;
        for (entry, _) in &mut changes {
            id += 1;
            entry.txn_id = txn_id;
            entry.change_id = id;
        }
        self.rebase.set_local_tables(&changes)?;
        if !restoring.overwrite {
            // While it was away, its keys may have been given to other rows.
            self.rebase.respect_keys();
        }
        let count = changes.len() as u64;
        let entries = changes.into_iter().map(|(entry, _)| entry);
        let Some(transaction) = Transaction::of(entries) else {
            return Ok(0);
        };
        match self.attempt(&transaction, restoring.overwrite)? {
            Ok(_) => {
                conflicts::remove(self.scratch, restoring.txn_id)?;
                if restoring.overwrite {
                    self.note_overwriting(transaction.first())?;
                }
                Ok(count)
            }
            Err(failure) => {
                self.blocked.push(Failure {
                    error: failure
                        .error
                        .context(format!("conflict {} stays set aside", restoring.txn_id)),
                    ..failure
                });
                Ok(0)
            }
        }
    }

    /// The push must overwrite, too.
    fn note_overwriting(&self, entry: &LogEntry) -> Result<()> {
        let error = Error::new(
            Category::Conflict,
            crate::error::Code::Constraint,
            "applied again, overwriting what is in its way",
        );
        let failure = Failure {
            kind: ConflictKind::Other,
            ..Failure::of(entry, entry.table.clone(), String::new(), error)
        };
        conflicts::note(
            self.scratch,
            &failure,
            ConflictState::Overwrite,
            self.plan.unix_time,
        )
    }
}

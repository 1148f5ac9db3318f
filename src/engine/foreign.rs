//! Changes that another program has written into the file, without capture.
//!
//! They are what the tables hold beyond the base and the pending changes. That another program was there is seen in the
//! write-ahead log, or, if it has moved the log into the main file, by the base that is lost then; what it has written is
//! always found by comparing. If the remote no longer has the revision of a lost base, nobody can tell what it has
//! written from what others have pushed meanwhile: the difference to the newest revision is all that is known.

use std::cell::{Cell, RefCell};

use super::identity::Admission;
use super::lock::SyncGuard;
use super::opts::ForeignPolicy;
use super::rebuild::{Expected, expected_state, first_of, is_conflict};
use super::{BUSY_TIMEOUT, Inner, Task, base_state};
use crate::capture::lineage::{Lineage, Segment};
use crate::capture::log::write_entry;
use crate::capture::state::{self, ReplicaState};
use crate::error::{Category, Code, Error, Result};
use crate::pages::{ApplyContext, Base, BaseHealth, Changes, ChangesWriter};
use crate::replay::diff::{Difference, Numbering, diff, diff_of_strangers, keeps_everything};
use crate::replay::{self, ConflictPolicy, Plan};

/// Tables that an error text names at most.
const NAMED: usize = 10;

/// What the database is compared with.
pub(super) struct Reference<'a> {
    pub base: Base,
    pub changes: &'a Changes,
    /// It is the base that the replica has, or had.
    pub exact: bool,
    pub admission: Admission,
}

impl Inner {
    /// Looks for changes of another program, and does with them what `policy` says; but those that are to be discarded are
    /// only known to the store from now on, as long as nobody asks for the base: a rebuild undoes them, and says so in the
    /// same transaction. Returns what was found. An error of category `Foreign` if nobody has decided, and of category
    /// `Conflict` if what is pending does not fit a base that is another one: what is in the way is noted then.
    pub(super) fn examine(
        &self,
        reference: &Reference<'_>,
        state: &ReplicaState,
        policy: ForeignPolicy,
    ) -> Result<Difference> {
        if reference.exact {
            return self.examine_exactly(reference, state, policy);
        }
        let examine = |replay: Expected<'_>| self.examine_over(reference, state, policy, replay, None);
        // As the rebuild will do it; but nothing is set aside before somebody has decided what is to be adopted.
        let mut result = examine(&|c, progress| replay::rebase(c.current, c.scratch, progress).map(drop));
        if is_conflict(&result) {
            result = examine(&|c, progress| replay::rebase_net(c.current, c.scratch, progress).map(drop));
        }
        if !is_conflict(&result) {
            return result;
        }
        let plan = Plan {
            policy: match self.opts.conflict_policy {
                ConflictPolicy::Overwrite => ConflictPolicy::Overwrite,
                _ => ConflictPolicy::Stop,
            },
            unix_time: self.environment.unix_time(),
            ..Plan::default()
        };
        let blocked = RefCell::new(Vec::new());
        let result = examine(&|c, progress| {
            replay::rebase_resolving(c.current, c.scratch, progress, &plan)?
                .map(drop)
                .map_err(|failures| first_of(failures, &blocked))
        });
        let blocked = blocked.into_inner();
        if !blocked.is_empty() && is_conflict(&result) {
            self.note_blocked(&blocked, plan.unix_time)?;
        }
        result
    }

    /// The same over the base that the replica has. What was captured behind the other program's changes may build on them, so
    /// that it means nothing without them: then it is adopted with them, as one.
    fn examine_exactly(
        &self,
        reference: &Reference<'_>,
        state: &ReplicaState,
        policy: ForeignPolicy,
    ) -> Result<Difference> {
        let unfit = Cell::new(false);
        let result = self.examine_over(
            reference,
            state,
            policy,
            &|c, progress| {
                let replayed = replay::rebase_unmoved(c.current, c.scratch, progress).map(drop);
                replayed.inspect_err(|e| unfit.set(is_about_content(e)))
            },
            None,
        );
        match (unfit.get(), policy) {
            (false, _) => result,
            (true, ForeignPolicy::Discard) => result.map_err(|e| {
                Error::foreign(format!(
                    "{e} - it builds on what the other program has written, which cannot be discarded without it: adopt both"
                ))
            }),
            (true, _) => {
                let fitting = Cell::new(0);
                let replay = |c: &ApplyContext<'_>, progress| {
                    replay::rebase_fitting(c.current, c.scratch, progress, is_about_content)
                        .map(|last| fitting.set(last))
                };
                self.examine_over(reference, state, policy, &replay, Some(&fitting))
            }
        }
    }

    /// The same with one way to replay what is pending; `fitting`: up to this change, and the rest is to be adopted, too.
    fn examine_over(
        &self,
        reference: &Reference<'_>,
        state: &ReplicaState,
        policy: ForeignPolicy,
        replay: Expected<'_>,
        fitting: Option<&Cell<i64>>,
    ) -> Result<Difference> {
        let unix_time = self.environment.unix_time();
        let compared = self.store.compare(
            reference.base,
            reference.changes,
            BUSY_TIMEOUT,
            |context, writer| {
                let mark = context.log;
                match expected_state(context, state, &self.ignored, reference, replay) {
                    // What is pending can be thrown upon the newest state by whoever resolves its conflicts.
                    Err(e)
                        if is_about_content(&e) && !reference.exact && policy == ForeignPolicy::Discard =>
                    {
                        return Ok((Difference::default(), mark));
                    }
                    Err(e) if e.category == Category::Conflict && !reference.exact => return Err(e),
                    Err(e) if is_about_content(&e) => return Err(unexplained(&e)),
                    result => result?,
                }
                let (expected, actual) = (context.scratch, context.current);
                let numbering = Numbering {
                    first_change_id: state::last_change_id(actual)?.saturating_add(1),
                    change_time: unix_time,
                };
                let fitting = fitting.map(Cell::get);
                if let (Some(last), ForeignPolicy::Adopt) = (fitting, policy) {
                    if last < ReplicaState::read(actual)?.sent {
                        return Err(on_its_way());
                    }
                    state::cut_log(writer, last)?;
                }
                let is_local = |name: &str| self.ignored.contains(name);
                let mut to_adopt = false;
                let mut sink = |entry| {
                    if reference.exact || keeps_everything(&entry, actual)? {
                        to_adopt = true;
                        if policy == ForeignPolicy::Adopt {
                            write_entry(writer, &entry)?;
                        }
                    }
                    Ok(())
                };
                let compare = if reference.exact { diff } else { diff_of_strangers };
                let mut found = compare(expected, actual, &is_local, numbering, &mut sink)?;
                if reference.admission == Admission::Any && !to_adopt {
                    // That it has more was to be expected.
                    found = Difference::default();
                }
                if policy == ForeignPolicy::Adopt && to_adopt {
                    // A copy of this file may adopt something else under the same numbers.
                    let segment = Segment {
                        first: numbering.first_change_id,
                        token: self.writer.new_token(),
                    };
                    Lineage::begin_in(writer, segment)?;
                }
                if policy == ForeignPolicy::Stop && (!found.is_empty() || fitting.is_some()) {
                    *self.foreign_tables() = found.tables.clone();
                    return Err(undecided(&found.tables, reference));
                }
                if policy != ForeignPolicy::Discard || found.is_empty() {
                    state::set_settled(writer, (mark.salts, mark.frames))?;
                }
                Ok((found, mark))
            },
        );
        let (found, mark) = compared?;
        self.store.refuse_strangers(mark);
        self.foreign_tables().clear();
        if !found.is_empty() {
            tracing::info!(tables = ?found.tables, changes = found.changes, ?policy, "changes of another program");
        }
        Ok(found)
    }

    /// [`Self::examine`] if the log has transactions of another program; needs no network. `None` if it has none, or if the
    /// base is lost.
    pub(super) fn examine_log(&self, policy: ForeignPolicy, guard: &SyncGuard) -> Result<Option<Difference>> {
        let (state, health) = self.base(guard)?;
        if health != BaseHealth::Intact || self.store.strangers()? == 0 {
            return Ok(None);
        }
        let changes = self.no_changes(state.base_pages)?;
        let reference = Reference {
            base: Base::Known(base_state(&state)),
            changes: &changes,
            exact: true,
            admission: Admission::Own,
        };
        self.examine(&reference, &state, policy).map(Some)
    }

    /// A download that changes nothing.
    pub(super) fn no_changes(&self, db_pages: u32) -> Result<Changes> {
        ChangesWriter::create(&self.files.changes)?.finish(db_pages)
    }
}

impl Task {
    /// Before an operation changes anything: decides about changes of another program that lie in the log.
    pub(super) fn settle(&self, policy: ForeignPolicy, guard: &SyncGuard) -> Result<()> {
        let found = self.examine_log(policy, guard)?;
        if policy == ForeignPolicy::Discard && found.is_some_and(|found| !found.is_empty()) {
            return self.undo_uncaptured();
        }
        Ok(())
    }

    /// The same, also if the base is lost, which needs the remote.
    pub(super) async fn settle_now(&self, policy: ForeignPolicy, guard: &SyncGuard) -> Result<()> {
        self.settle(policy, guard)?;
        if self.base(guard)?.1 != BaseHealth::Intact {
            self.pull_lost_base_with(guard, self.plan(), policy).await?;
        }
        Ok(())
    }

    /// Makes the local state anew from the base and what was captured, behind [`Inner::examine`].
    fn undo_uncaptured(&self) -> Result<()> {
        let state = self.read_state()?;
        let nothing = self.no_changes(state.base_pages)?;
        let base = Base::Known(base_state(&state));
        let plan = Plan {
            unmoved: true,
            ..self.plan()
        };
        self.rebuild(base, &state, &nothing, &state.revision, &plan)
    }
}

/// True if the log or the tables are to blame, and no file, lock or host.
fn is_about_content(e: &Error) -> bool {
    e.category == Category::Conflict || matches!(e.code, Code::Corrupt | Code::Constraint | Code::Error)
}

/// The error if what is pending fits neither the tables nor the base.
fn unexplained(e: &Error) -> Error {
    Error::foreign(format!(
        "another program has changed the database, and what was captured does not fit it: {e}; nothing was synced or lost"
    ))
}

/// The error if what is to be adopted may be on the remote already.
fn on_its_way() -> Error {
    Error::foreign(
        "another program has changed the database, and what was captured behind that does not fit anything else, but may be on its \
         way to the remote already; nothing was synced or lost - make a new replica, and copy into it what is only here",
    )
}

/// The error that asks for a decision.
fn undecided(tables: &[String], reference: &Reference<'_>) -> Error {
    let mut names = tables.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if tables.len() > NAMED {
        names.push_str(&format!(" and {} more", tables.len() - NAMED));
    }
    Error::foreign(match (reference.exact, reference.admission) {
        (true, _) => format!(
            "another program has changed the database without capture: {names}; nothing was synced or lost - adopt \
             these changes (they become pending) or discard them"
        ),
        (false, Admission::Any) => format!(
            "what is here differs from the remote in {names}; nothing was synced or lost - adopt what is here (rows that only \
             the remote has stay) or discard it"
        ),
        (false, Admission::Own) => format!(
            "another program has written the file, and the remote no longer has the revision that it was based on: what \
             differs from the remote now is in {names}, be it theirs or of others; nothing was synced or lost - adopt \
             what is here (rows that only the remote has stay) or discard it"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts};
    use crate::io::{Operation, OperationStatus, files};
    use crate::pages::fault::{Action, arm};

    fn run<T>(engine: &DatabaseSyncEngine, mut op: Operation<T>) -> Result<T> {
        while op.resume()? == OperationStatus::Io {
            while let Some(item) = engine.io().take_item() {
                files::perform(&item)?;
            }
        }
        Ok(op.take_result().unwrap())
    }

    /// Whoever dies between the decision and what it does must be asked again.
    #[test]
    fn changes_that_were_not_undone_yet_are_not_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let opts = DatabaseSyncEngineOpts {
            path: path.to_str().unwrap().to_owned(),
            client_name: "test".into(),
            ..Default::default()
        };
        let engine = DatabaseSyncEngine::new(opts).unwrap();
        run(&engine, engine.create_db()).unwrap();
        let conn = run(&engine, engine.connect_rw()).unwrap();
        conn.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES ('ours')")
            .unwrap();
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("INSERT INTO t VALUES ('theirs')").unwrap();
        let rows = || -> i64 {
            let sql = "SELECT count(*) FROM t";
            other.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let settle = |policy| run(&engine, engine.settle_foreign_changes(policy));
        for point in ["apply:after-prepare", "apply:before-commit"] {
            arm(Some((point, Action::Fail)));
            let failed = settle(ForeignPolicy::Discard);
            arm(None);
            assert!(failed.is_err(), "{point}");
            assert_eq!(rows(), 2, "{point}");
            let e = settle(ForeignPolicy::Stop).unwrap_err();
            assert_eq!(e.category, Category::Foreign, "{point}: {e}");
        }
        settle(ForeignPolicy::Discard).unwrap();
        assert_eq!(rows(), 1);
        settle(ForeignPolicy::Stop).unwrap();
    }
}

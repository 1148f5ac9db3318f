//! Runs the steps of `POST /push-changes`.

use rusqlite::types::ToSqlOutput;
use rusqlite::{CachedStatement, Connection, Statement, ToSql};

use crate::error::{Error, Result};
use crate::protocol::push::{Push, PushAnswer, PushConflict, Step};
use crate::record::ValueRef;

/// Prepared statements that are kept while a request runs; the texts behind them are prepared each time.
const KEPT: usize = 128;

/// Runs `push` in one transaction on `conn`. A failed step is an answer, not an error. `guard` is told when the transaction
/// must not be ended by a statement, and when it may again; `in_time` says before each step whether there is time left. What
/// is left open is the caller's to roll back.
pub fn run(
    conn: &Connection,
    push: &Push,
    guard: impl Fn(bool),
    in_time: impl Fn() -> Result<()>,
) -> Result<PushAnswer> {
    let refused = |txn_id, step, error: &Error| PushAnswer {
        committed: 0,
        conflicts: vec![PushConflict::new(txn_id, step, error)],
    };
    if let Err(e) = conn.execute_batch("BEGIN IMMEDIATE") {
        return Ok(refused(0, 0, &e.into()));
    }
    guard(true);
    let ran = steps(conn, push, in_time);
    guard(false);
    Ok(match ran? {
        Err((step, txn_id, e)) => refused(txn_id, step, &e),
        Ok(()) => match conn.execute_batch("COMMIT") {
            Err(e) => refused(0, push.count + 1, &e.into()),
            Ok(()) => PushAnswer {
                committed: push.count,
                conflicts: Vec::new(),
            },
        },
    })
}

/// The step that failed, its transaction, and why.
type Failed = (u64, i64, Error);

/// Runs all steps; an error if they are not what was announced.
fn steps(
    conn: &Connection,
    push: &Push,
    in_time: impl Fn() -> Result<()>,
) -> Result<std::result::Result<(), Failed>> {
    let mut kept: Vec<Option<CachedStatement<'_>>> = Vec::new();
    let mut count = 0;
    for step in push.steps() {
        let step = step?;
        count += 1;
        if let Err(e) = in_time().and_then(|()| execute(conn, &step, &mut kept)) {
            return Ok(Err((count, step.txn_id, e)));
        }
    }
    match count == push.count && count > 0 {
        true => Ok(Ok(())),
        false => Err(Error::protocol(format!(
            "malformed push: {count} steps where {} were announced",
            push.count
        ))),
    }
}

fn execute<'c>(
    conn: &'c Connection,
    step: &Step<'_>,
    kept: &mut Vec<Option<CachedStatement<'c>>>,
) -> Result<()> {
    let Some(number) = step.number.filter(|number| *number < KEPT) else {
        return step_once(&mut conn.prepare(step.sql)?, step);
    };
    if kept.len() <= number {
        kept.resize_with(number + 1, || None);
    }
    // Prepared when it is due: before, its table may not be there.
    let place = &mut kept[number];
    let statement = match place {
        Some(statement) => statement,
        None => {
            let statement = conn.prepare_cached(step.sql)?;
            if statement.readonly() {
                // What ends transactions is refused when it is prepared, but may lie here since a request that may end them.
                conn.prepare(step.sql)?;
            }
            place.insert(statement)
        }
    };
    step_once(statement, step)
}

fn step_once(statement: &mut Statement<'_>, step: &Step<'_>) -> Result<()> {
    let (mut given, expected) = (0, statement.parameter_count());
    step.each_arg(|value| {
        given += 1;
        match given <= expected {
            true => Ok(statement.raw_bind_parameter(given, Arg(value))?),
            // Counted only.
            false => Ok(()),
        }
    })?;
    if given != expected {
        return Err(Error::misuse(format!(
            "{given} arguments for {expected} parameters"
        )));
    }
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

/// An argument on its way into a statement.
struct Arg<'a>(ValueRef<'a>);

impl ToSql for Arg<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        use rusqlite::types::ValueRef as Sql;
        Ok(ToSqlOutput::Borrowed(match self.0 {
            ValueRef::Null => Sql::Null,
            ValueRef::Integer(i) => Sql::Integer(i),
            ValueRef::Real(r) => Sql::Real(r),
            ValueRef::Text(t) => Sql::Text(t),
            ValueRef::Blob(b) => Sql::Blob(b),
        }))
    }
}

//! What a push and a pull make of a change log.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};
use turso_sync::capture::state::HeaderValues;
use turso_sync::error::{Error, Result};
use turso_sync::record::Value;
use turso_sync::replay::{Progress, Purpose, PushGenerator, RebaseReport, ReplayStatement, Transactions};

use crate::program::Program;

struct Arg<'a>(&'a Value);

impl ToSql for Arg<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(i) => ValueRef::Integer(*i),
            Value::Real(r) => ValueRef::Real(*r),
            Value::Text(t) => ValueRef::Text(t),
            Value::Blob(b) => ValueRef::Blob(b),
        }))
    }
}

/// Why a push ended; the remote is as before the transaction that failed.
pub struct Refusal {
    /// The rows are not where the log says: pull, then push again.
    pub by_guard: bool,
    pub text: String,
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Refusal {
        Refusal {
            by_guard: false,
            text: e.to_string(),
        }
    }
}

/// Executes the log of `replica` on `remote`, which holds its base: each local transaction in one of its own, or
/// `together` all in one.
pub fn push(replica: &Connection, remote: &Connection, together: bool) -> std::result::Result<(), Refusal> {
    let mut generator = PushGenerator::new(remote)?;
    let mut transactions = Transactions::new(replica, 0);
    let mut batches = Vec::new();
    while let Some(entries) = transactions.next_transaction()? {
        batches.push(generator.transaction(&entries, false)?);
    }
    if together {
        batches = vec![batches.concat()];
    }
    for statements in batches {
        remote.execute_batch("BEGIN IMMEDIATE").unwrap();
        for statement in &statements {
            if let Err(e) = execute(remote, statement) {
                if !remote.is_autocommit() {
                    remote.execute_batch("ROLLBACK").unwrap();
                }
                let text = format!("{e}: {} {:?}", statement.sql, statement.args);
                return Err(Refusal {
                    by_guard: statement.purpose == Purpose::Guard,
                    text: statement.failed(e.into()).context(text).to_string(),
                });
            }
        }
        remote.execute_batch("COMMIT").unwrap();
    }
    Ok(())
}

/// Sets on `remote` what `replica` has changed in the header since `base`.
pub fn push_header(replica: &Connection, base: &HeaderValues, remote: &Connection) {
    for sql in HeaderValues::read(replica).unwrap().changes_from(base) {
        remote.execute_batch(&sql).unwrap();
    }
}

fn execute(remote: &Connection, statement: &ReplayStatement) -> rusqlite::Result<()> {
    for arg in &statement.args {
        match arg {
            Value::Real(r) => assert!(r.is_finite(), "not for JSON: {arg:?}"),
            Value::Text(t) => assert!(std::str::from_utf8(t).is_ok(), "not for JSON: {arg:?}"),
            _ => {}
        }
    }
    let mut prepared = remote.prepare_cached(&statement.sql)?;
    let mut rows = prepared.query(params_from_iter(statement.args.iter().map(Arg)))?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// One of the ways to rebase.
pub type RebaseFn = fn(&Connection, &Connection, Progress) -> Result<RebaseReport>;

/// Carries the pending changes of `current` over to `scratch`, which holds the new base and empty local tables.
pub fn rebase(
    replay: RebaseFn,
    current: &Connection,
    scratch: &Connection,
    base: &HeaderValues,
) -> Result<()> {
    scratch.execute_batch("BEGIN")?;
    let progress = Progress {
        acknowledged: 0,
        sent: 0,
        last: i64::MAX >> 1,
    };
    let result = replay(current, scratch, progress);
    if result.is_ok() {
        push_header(current, base, scratch);
    }
    // OR ROLLBACK in a trigger may have ended the transaction.
    if !scratch.is_autocommit() {
        scratch.execute_batch(if result.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    }
    result.map(drop)
}

/// What statements of a program failed with, constraints and `RAISE`.
#[derive(Default)]
pub struct Failed(Vec<String>);

impl Failed {
    pub fn note(&mut self, seen: &[String]) {
        let failed = seen.first().and_then(|seen| seen.strip_prefix("Constraint "));
        self.0.extend(
            failed
                .and_then(|f| f.split_once(' '))
                .map(|(_, text)| text.to_owned()),
        );
    }

    /// True if `failure` may be that of a trigger of `program` that failed here, or had another clause: FAIL left rows behind,
    /// whose trigger then fails there, or does what its own clause says, if that of the statement is OR FAIL.
    pub fn explains(&self, failure: &str, program: &Program) -> bool {
        let actions = [&program.actions, &program.others, &program.later]
            .into_iter()
            .flatten();
        let actions = actions.map(|action| action.to_string());
        let schema = program.base.iter().filter(|sql| !sql.starts_with("INSERT"));
        let all: Vec<String> = schema.cloned().chain(actions).collect();
        let is_trigger = |sql: &str| sql.contains("CREATE TRIGGER");
        let fails = all.iter().any(|sql| sql.contains("FAIL"));
        if fails && self.0.iter().any(|text| failure.ends_with(&format!(": {text}"))) {
            return true;
        }
        // A DELETE that stands for what a REPLACE has removed has no clause for the bodies of its triggers.
        let any = |words: &str| all.iter().any(|sql| sql.contains(words));
        if any("recursive_triggers = 1") && any("REPLACE") && failure.contains("constraint failed") {
            return true;
        }
        let or_fail = all.iter().any(|sql| sql.contains("OR FAIL") && !is_trigger(sql));
        let own_clause = |sql: &String| {
            let clauses = ["REPLACE", "IGNORE", "ON CONFLICT"];
            is_trigger(sql) && clauses.iter().any(|clause| sql.contains(clause))
                || sql.contains("CREATE TABLE") && sql.contains("ON CONFLICT")
        };
        or_fail && !self.0.is_empty() && failure.starts_with("replica < >") && all.iter().any(own_clause)
    }
}

/// Errors of a replay that the library does not avoid.
const KNOWN: [&str; 4] = [
    // In a transaction SQLite may leave rows behind whose trigger failed; they fail there, too.
    "datatype mismatch",
    "cannot store",
    "integer overflow",
    // Columns hide all names of the rowid.
    "several equal rows, and no key tells them apart",
];

/// True if `failure` is about one of these.
pub fn is_known(failure: &str) -> bool {
    KNOWN.iter().any(|known| failure.contains(known))
}

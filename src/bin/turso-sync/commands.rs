//! The commands.

use std::process::ExitCode;

use serde_json::{Value, json};
use turso_sync::capture::{Connection, Statement, Step, ValueType};
use turso_sync::engine::{Conflict, ConflictPolicy, ForeignPolicy, Resolution};
use turso_sync::error::{Category, Error, Result};

use super::args::{Args, Command, Place};
use super::output::Output;
use super::replica::Replica;
use super::verify;

/// Runs the command of `args`.
pub fn run(args: &Args, output: &Output) -> Result<ExitCode> {
    // A script wants its answer, not a picture.
    let quiet = args.quiet || args.json;
    match &args.command {
        Command::Init {
            place,
            offline,
            adopt,
            client_name,
        } => init(place, quiet, (*offline, *adopt), client_name, output),
        Command::Pull { place, conflicts } => {
            let replica = Replica::open(place, quiet, conflicts.policy.into())?;
            let news = replica.run("pull", replica.engine.pull_changes_from_remote())?;
            report(&replica, &[("changed", news)], output)
        }
        Command::Push { place, conflicts } => {
            let replica = Replica::open(place, quiet, conflicts.policy.into())?;
            replica.run("push", replica.engine.push_changes_to_remote())?;
            report(&replica, &[], output)
        }
        Command::Sync { place, conflicts } => {
            let replica = Replica::open(place, quiet, conflicts.policy.into())?;
            let news = replica.run("sync", replica.engine.sync())?;
            report(&replica, &[("changed", news)], output)
        }
        Command::Status { place } => status(place, quiet, output),
        Command::Conflicts { place, resolve, with } => match (resolve, with) {
            (Some(id), Some(how)) => resolve_conflict(place, quiet, *id, (*how).into(), output),
            _ => list_conflicts(place, quiet, output),
        },
        Command::Accept { place, with } => {
            let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
            let policy = with.map_or(ForeignPolicy::Stop, ForeignPolicy::from);
            replica.run("download", replica.engine.accept_remote(policy))?;
            report(&replica, &[], output)
        }
        Command::Foreign { place, with: None } => list_foreign(place, quiet, output),
        Command::Foreign {
            place,
            with: Some(decision),
        } => {
            let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
            replica.run(
                "settle",
                replica.engine.settle_foreign_changes((*decision).into()),
            )?;
            report(&replica, &[], output)
        }
        Command::Checkpoint { place } => {
            let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
            replica.run("checkpoint", replica.engine.checkpoint())?;
            report(&replica, &[], output)
        }
        Command::Verify { place } => verify::run(place, quiet, output),
        Command::Sql { place, sql } => run_sql(place, quiet, sql, output),
    }
}

fn init(
    place: &Place,
    quiet: bool,
    (offline, adopt): (bool, bool),
    client_name: &str,
    output: &Output,
) -> Result<ExitCode> {
    if !offline && place.url.is_none() {
        return Err(Error::misuse(
            "give the URL of the remote with --url, or start without one with --offline",
        ));
    }
    let replica = Replica::new(place, quiet, |opts| {
        opts.bootstrap_if_empty = !offline;
        opts.adopt_database = adopt;
        opts.client_name = client_name.to_owned();
    })?;
    replica.run("download", replica.engine.create_db())?;
    report(&replica, &[], output)
}

/// What is pending, and what else is to be said after a sync.
fn report(replica: &Replica, facts: &[(&str, bool)], output: &Output) -> Result<ExitCode> {
    let status = replica.engine.status()?;
    let mut value = json!({
        "pending_changes": status.pending_changes,
        "conflicts_blocked": status.conflicts_blocked,
        "conflicts_set_aside": status.conflicts_set_aside,
    });
    let mut text = match status.pending_changes {
        0 => "everything is on the remote".to_owned(),
        n => format!("{n} changes are pending"),
    };
    for (name, fact) in facts {
        value[*name] = json!(fact);
        text = match fact {
            true => format!("new changes from the remote were applied; {text}"),
            false => format!("nothing new on the remote; {text}"),
        };
    }
    if status.conflicts_blocked + status.conflicts_set_aside > 0 {
        text = format!(
            "{text}; conflicts: {} blocked, {} set aside (see `turso-sync conflicts`)",
            status.conflicts_blocked, status.conflicts_set_aside
        );
    }
    output.result(&text, &value)?;
    Ok(ExitCode::SUCCESS)
}

fn status(place: &Place, quiet: bool, output: &Output) -> Result<ExitCode> {
    let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
    let status = replica.engine.status()?;
    let stats = replica.run("status", replica.engine.stats())?;
    let facts = [
        ("pending_changes", json!(status.pending_changes)),
        ("conflicts_blocked", json!(status.conflicts_blocked)),
        ("conflicts_set_aside", json!(status.conflicts_set_aside)),
        ("last_push_unix_time", json!(status.last_push_unix_time)),
        ("last_pull_unix_time", json!(status.last_pull_unix_time)),
        ("revision", json!(stats.revision)),
        ("wal_bytes", json!(stats.main_wal_size)),
        ("revert_bytes", json!(stats.revert_wal_size)),
    ];
    if output.json {
        let object = facts.into_iter().map(|(name, fact)| (name.to_owned(), fact));
        output.result("", &Value::Object(object.collect()))?;
    } else {
        let row = |(name, fact): (&str, Value)| vec![json!(name.replace('_', " ")), fact];
        output.rows(&["".into(), "".into()], facts.into_iter().map(row).collect())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list_conflicts(place: &Place, quiet: bool, output: &Output) -> Result<ExitCode> {
    let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
    let names = [
        "id",
        "state",
        "kind",
        "table",
        "operation",
        "key",
        "constraint",
        "changes",
    ];
    let row = |c: Conflict| {
        let word = |value: &dyn std::fmt::Debug| json!(format!("{value:?}"));
        vec![
            json!(c.txn_id),
            word(&c.state),
            word(&c.kind),
            json!(c.table),
            word(&c.operation),
            json!(c.key),
            json!(c.constraint),
            json!(c.changes),
        ]
    };
    let rows: Vec<_> = replica.engine.conflicts()?.into_iter().map(row).collect();
    if rows.is_empty() && !output.json {
        output.result("there are no conflicts", &Value::Null)?;
    } else {
        output.rows(&names.map(String::from), rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn resolve_conflict(
    place: &Place,
    quiet: bool,
    id: i64,
    resolution: Resolution,
    output: &Output,
) -> Result<ExitCode> {
    let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
    replica.run("resolve", replica.engine.resolve_conflict(id, resolution))?;
    report(&replica, &[], output)
}

fn list_foreign(place: &Place, quiet: bool, output: &Output) -> Result<ExitCode> {
    let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
    let look = replica.engine.settle_foreign_changes(ForeignPolicy::Stop);
    match replica.run("looking", look) {
        Err(e) if e.category == Category::Foreign => {}
        result => result?,
    }
    let tables = replica.engine.foreign_tables();
    if tables.is_empty() && !output.json {
        output.result("no other program has changed the database", &Value::Null)?;
    } else {
        let rows = tables.into_iter().map(|table| vec![json!(table)]);
        output.rows(&["table".into()], rows.collect())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_sql(place: &Place, quiet: bool, sql: &str, output: &Output) -> Result<ExitCode> {
    let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
    let conn = replica.run("connect", replica.engine.connect_rw())?;
    let mut rest = sql;
    while let Some((mut statement, used)) = conn.prepare(rest)? {
        show_rows(&mut statement, output)?;
        rest = rest.get(used..).unwrap_or_default();
    }
    if !conn.is_autocommit() {
        return Err(Error::misuse(
            "the SQL begins a transaction and does not end it: nothing of it was kept; add COMMIT",
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn show_rows(statement: &mut Statement, output: &Output) -> Result<()> {
    let names: Vec<String> = (0..statement.column_count())
        .map(|i| statement.column_name(i).unwrap_or_default())
        .collect();
    let mut rows = Vec::new();
    while statement.step()? == Step::Row {
        rows.push((0..names.len()).map(|i| value(statement, i)).collect());
    }
    match names.is_empty() {
        true => Ok(()),
        false => output.rows(&names, rows),
    }
}

/// A value for people and scripts: blobs as SQL writes them, reals that JSON does not know as text.
fn value(statement: &Statement, i: usize) -> Value {
    let bytes = || statement.value_bytes(i).unwrap_or_default();
    match statement.value_type(i) {
        Some(ValueType::Integer) => json!(statement.value_integer(i)),
        Some(ValueType::Real) => match statement.value_real(i) {
            real if real.is_finite() => json!(real),
            real => json!(real.to_string()),
        },
        Some(ValueType::Text) => json!(String::from_utf8_lossy(bytes())),
        Some(ValueType::Blob) => {
            let hex: String = bytes().iter().map(|b| format!("{b:02x}")).collect();
            json!(format!("x'{hex}'"))
        }
        _ => Value::Null,
    }
}

/// The first column of all rows of a query, as text.
pub fn texts(conn: &Connection, sql: &str) -> Result<Vec<String>> {
    let Some((mut statement, _)) = conn.prepare(sql)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    while statement.step()? == Step::Row {
        found.push(String::from_utf8_lossy(statement.value_bytes(0).unwrap_or_default()).into_owned());
    }
    Ok(found)
}

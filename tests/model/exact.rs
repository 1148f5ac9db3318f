//! A replica behaves like plain SQLite, and its log brings another database to the same state.

use turso_sync::capture::state::HeaderValues;
use turso_sync::capture::{Connection, OpenOptions};
use turso_sync::replay::rebase;

use crate::catalog::Catalog;
use crate::compare::{dump, same};
use crate::mode::Mode;
use crate::place::Place;
use crate::program::{Act, Action, Program, action, base_statement};
use crate::random::Random;
use crate::remote::{self, Refusal};
use crate::run::Side;

/// Where the next statement comes from.
pub enum Source<'a> {
    /// It is drawn, and recorded.
    Draw { r: Random, mode: Mode, len: usize },
    /// It was drawn before.
    Replay(&'a Program),
}

impl Source<'_> {
    pub fn draw(seed: u64) -> Source<'static> {
        let r = Random::new(seed);
        let mode = Mode::draw(&r);
        let len = 5 + r.below(40);
        Source::Draw { r, mode, len }
    }

    pub fn base(&mut self, catalog: &Catalog, step: usize) -> Option<String> {
        match self {
            Source::Draw { r, mode, .. } => base_statement(r, mode, catalog, step),
            Source::Replay(program) => program.base.get(step).cloned(),
        }
    }

    pub fn action(&mut self, catalog: &Catalog, step: usize) -> Option<Action> {
        match self {
            Source::Draw { r, mode, len } => (step < *len).then(|| action(r, mode, catalog)),
            Source::Replay(program) => program.actions.get(step).cloned(),
        }
    }
}

/// Makes the database `base`; returns the statements that succeeded.
pub fn make_base(place: &Place, source: &mut Source<'_>) -> Vec<String> {
    place.copy("empty", "base");
    let connection = Connection::open(&place.path("base"), OpenOptions::default()).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let mut done = Vec::new();
    let mut catalog = Catalog::default();
    let mut step = 0;
    while let Some(sql) = source.base(&catalog, step) {
        step += 1;
        if connection.execute_batch(&sql).is_ok() {
            if !sql.starts_with("INSERT") {
                catalog = Catalog::read(&connection);
            }
            done.push(sql);
        }
    }
    connection.close().unwrap();
    done
}

/// Errors of a replay that the library does not avoid.
const KNOWN: [&str; 5] = [
    // A trigger whose table or column is gone: the upsert of a replay may need it where the statement did not.
    "no such table: main.",
    "no such column",
    // In a transaction SQLite may leave rows behind whose trigger failed; they fail there, too.
    "datatype mismatch",
    "cannot store",
    "integer overflow",
];

/// True for statements after which the schema may be another one.
fn changes_schema(sql: &str) -> bool {
    ["CREATE", "DROP", "ALTER", "ROLLBACK"]
        .iter()
        .any(|verb| sql.starts_with(verb))
}

/// How a program ended on both sides.
#[derive(PartialEq)]
pub enum Ended {
    Alike,
    /// The connections got into each other's way on one side only.
    Differently,
}

/// Runs the actions on `replica` and `plain`, both open; returns what was run.
pub fn run_actions(
    source: &mut Source<'_>,
    replica: &mut Side,
    plain: &mut Side,
    done: &mut Vec<Action>,
) -> Result<Ended, String> {
    let mut catalog = plain.catalog(0);
    replica.catalog(0);
    let mut step = 0;
    while let Some(action) = source.action(&catalog, step) {
        step += 1;
        if !replica.allows(&action) {
            continue;
        }
        done.push(action.clone());
        let (ours, theirs) = (replica.act(&action), plain.act(&action));
        let stale = |seen: &[String]| seen.iter().any(|s| s.starts_with("BusySnapshot"));
        if stale(&ours) != stale(&theirs) {
            // SQLite writes no page that stays the same, but the log grew; and it empties a table that is empty.
            return Ok(Ended::Differently);
        }
        if ours != theirs {
            return Err(format!(
                "the replica does not behave like plain SQLite: {action}\n  < {ours:?}\n  > {theirs:?}"
            ));
        }
        match &action.act {
            Act::Run(sql) if changes_schema(sql) => {
                catalog = plain.catalog(action.connection);
                let seen = replica.catalog(action.connection);
                if seen != catalog {
                    return Err(format!(
                        "another schema after {action}\n  < {seen:?}\n  > {catalog:?}"
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(Ended::Alike)
}

/// Runs one program; `done` receives what was run.
pub fn check(place: &Place, mut source: Source<'_>, seed: u64, done: &mut Program) -> Result<(), String> {
    done.base = make_base(place, &mut source);
    for name in ["replica", "plain", "remote", "scratch"] {
        place.copy("base", name);
    }
    let mut replica = Side::open(&place.path("replica"), true, 2);
    let mut plain = Side::open(&place.path("plain"), false, 2);
    if run_actions(&mut source, &mut replica, &mut plain, &mut done.actions)? == Ended::Differently {
        return Ok(());
    }
    if replica.finish() != plain.finish() {
        return Err("the last transaction does not end alike".into());
    }
    let replica = place.connect("replica");
    let state = dump(&replica);
    same("replica < > plain SQLite", &state, &dump(&place.connect("plain")))?;
    match replay_alone(place, &replica, &state, seed) {
        Err(e) if KNOWN.iter().any(|known| e.contains(known)) => Ok(()),
        result => result,
    }
}

/// Nobody else writes: a pull changes nothing, and a push makes the remote equal.
fn replay_alone(
    place: &Place,
    replica: &rusqlite::Connection,
    state: &[String],
    seed: u64,
) -> Result<(), String> {
    let scratch = place.connect("scratch");
    let header = HeaderValues::read(&scratch).unwrap();
    remote::rebase(rebase, replica, &scratch, &header).map_err(|e| format!("rebase on the base: {e}"))?;
    same("replica < > rebased", state, &dump(&scratch))?;

    let remote = place.connect("remote");
    let together = seed.is_multiple_of(2);
    match remote::push(replica, &remote, together) {
        Ok(()) => {}
        // As the engine does: pull, then push again.
        Err(Refusal::Guard(_)) => {
            drop(remote);
            place.copy("base", "remote");
            let remote = place.connect("remote");
            remote::push(&scratch, &remote, together).map_err(|e| format!("push after a pull: {e:?}"))?;
        }
        Err(Refusal::Failed(e)) => return Err(format!("push: {e}")),
    }
    let remote = place.connect("remote");
    remote::push_header(replica, &header, &remote);
    same("replica < > remote", state, &dump(&remote))
}

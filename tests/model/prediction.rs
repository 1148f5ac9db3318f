//! What a pull makes of the pending changes is what the push then does to the remote.

use turso_sync::capture::state::HeaderValues;
use turso_sync::error::Category;
use turso_sync::replay::rebase;

use crate::compare::{dump, same};
use crate::place::Place;
use crate::program::{Act, Phase, Program};
use crate::remote::{self, Failed, is_known};
use crate::run::Side;
use crate::source::{Source, changes_schema, make_base};

/// Runs a phase on the database `name`.
fn run(place: &Place, name: &str, source: &mut Source<'_>, phase: Phase, done: &mut Program) -> Failed {
    let mut failed = Failed::default();
    let mut side = Side::open(&place.path(name), phase != Phase::Others, 2);
    let mut catalog = side.catalog(0);
    let mut step = 0;
    while let Some(action) = source.action(phase, &catalog, step) {
        step += 1;
        if !side.allows(&action) {
            continue;
        }
        failed.note(&side.act(&action));
        match &action.act {
            Act::Run(sql) if changes_schema(sql) => catalog = side.catalog(action.connection),
            _ => {}
        }
        done.actions_mut(phase).push(action);
    }
    side.finish();
    failed
}

/// Runs one program: local changes, those of others, a pull, later changes, a push.
pub fn check(place: &Place, mut source: Source<'_>, seed: u64, done: &mut Program) -> Result<(), String> {
    done.base = make_base(place, &mut source);
    place.copy("base", "replica");
    place.copy("base", "remote");
    let failed = run(place, "replica", &mut source, Phase::Local, done);
    run(place, "remote", &mut source, Phase::Others, done);
    place.copy("remote", "scratch");
    place.copy("remote", "again");
    let base = HeaderValues::read(&place.connect("base")).unwrap();
    let scratch = place.connect("scratch");
    match remote::rebase(rebase, &place.connect("replica"), &scratch, &base) {
        Err(e) if e.category == Category::Conflict && !done.others.is_empty() => return Ok(()),
        Err(e) if is_known(&e.message) || failed.explains(&e.message, done) => return Ok(()),
        result => result.map_err(|e| format!("pull: {e}"))?,
    }
    drop(scratch);
    let failed = run(place, "scratch", &mut source, Phase::Later, done);
    match pull_then_push(place, seed) {
        Err(e) if is_known(&e) || failed.explains(&e, done) => Ok(()),
        result => result,
    }
}

/// The remote has stayed as it was pulled: a push makes it equal to the replica, and another pull changes nothing.
fn pull_then_push(place: &Place, seed: u64) -> Result<(), String> {
    let (replica, remote, again) = (
        place.connect("scratch"),
        place.connect("remote"),
        place.connect("again"),
    );
    let base = HeaderValues::read(&remote).unwrap();
    let state = dump(&replica);
    remote::push(&replica, &remote, seed.is_multiple_of(2))
        .map_err(|e| format!("push after a pull: {}", e.text))?;
    remote::push_header(&replica, &base, &remote);
    same("pulled replica < > remote", &state, &dump(&remote))?;
    remote::rebase(rebase, &replica, &again, &base).map_err(|e| format!("second pull: {e}"))?;
    same("pulled replica < > pulled again", &state, &dump(&again))
}

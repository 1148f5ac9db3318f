//! A replica behaves like plain SQLite, and its log brings another database to the same state.

use turso_sync::capture::state::HeaderValues;
use turso_sync::replay::rebase;

use crate::compare::{DAMAGED, dump, same};
use crate::place::Place;
use crate::program::{Act, Action, Phase, Program};
use crate::remote::{self, Failed, is_known};
use crate::run::Side;
use crate::source::{Source, changes_schema, make_base};

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
    failed: &mut Failed,
) -> Result<Ended, String> {
    let mut catalog = plain.catalog(0);
    replica.catalog(0);
    let mut step = 0;
    while let Some(action) = source.action(Phase::Local, &catalog, step) {
        step += 1;
        if !replica.allows(&action) {
            continue;
        }
        done.push(action.clone());
        let (ours, theirs) = (replica.act(&action), plain.act(&action));
        failed.note(&ours);
        let stale = |seen: &[String]| seen.iter().any(|s| s.starts_with("BusySnapshot"));
        if stale(&ours) != stale(&theirs) {
            // SQLite writes no page that stays the same, but the log grew; and it empties a table that is empty.
            return Ok(Ended::Differently);
        }
        if stale(&ours) && !matches!(action.act, Act::Run(_)) {
            // Until it is reset, such a statement holds its snapshot in SQLite; one that writes a view does not in a replica.
            return Ok(Ended::Differently);
        }
        // SQLite takes an index of another connection for still there if nothing made it look.
        let exists = |seen: &[String]| seen.iter().any(|s| s.ends_with("already exists"));
        // A statement that waits for the write lock is half way; a write of a view asks for it beforehand.
        let in_progress = |seen: &[String]| seen.iter().any(|s| s.ends_with("statements in progress"));
        // Nor does it look, before it compiles a statement, for what another connection has made or dropped.
        let uncompiled = |seen: &[String]| seen.first().is_some_and(|s| s.starts_with("Error 1 "));
        let ddl = |a: &Action| matches!(&a.act, Act::Run(sql) if changes_schema(sql));
        let stale_schema = done.iter().any(|a| a.connection != action.connection && ddl(a));
        let two = done.iter().any(|action| action.connection > 0);
        // DDL that fails because of it has taken the write lock, or has not, and a transaction keeps that.
        let busy = |seen: &[String]| seen.first().is_some_and(|s| s.starts_with("Busy 5 "));
        if stale_schema && busy(&theirs) != busy(&ours) {
            return Ok(Ended::Differently);
        }
        if two
            && (exists(&ours) != exists(&theirs)
                || in_progress(&ours) != in_progress(&theirs)
                || stale_schema && ours != theirs && uncompiled(&theirs)
                || stale_schema && uncompiled(&ours) && theirs.len() == 1)
        {
            return Ok(Ended::Differently);
        }
        // A statement that could not be prepared anew has taken the write lock; if another one reads, SQLite (3.53) keeps that, and
        // an error in a savepoint drops what FAIL has left there.
        if matches!(action.act, Act::Step(_)) && uncompiled(&theirs) {
            return Ok(Ended::Differently);
        }
        // What the interrupt meets may be the replica's own write before one of a view: that ends the transaction.
        let interrupted = |seen: &[String]| seen.first().is_some_and(|s| s.starts_with("Interrupt"));
        if ours != theirs && interrupted(&ours) && interrupted(&theirs) {
            return Ok(Ended::Differently);
        }
        // Whether a stale statement or a lock is noticed first is nobody's promise; either way it did nothing.
        let with = |seen: &[String], how: &str| seen.first().is_some_and(|s| s.starts_with(how));
        let noticed = |a: &[String], b: &[String]| with(a, "Busy 5 ") && with(b, "Error 1 ");
        if noticed(&ours, &theirs) || noticed(&theirs, &ours) {
            continue;
        }
        if ours != theirs && plain.is_damaged() {
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
    let mut failed = Failed::default();
    let ended = run_actions(
        &mut source,
        &mut replica,
        &mut plain,
        &mut done.actions,
        &mut failed,
    )?;
    if ended == Ended::Differently {
        return Ok(());
    }
    if replica.finish() != plain.finish() {
        return Err("the last transaction does not end alike".into());
    }
    let replica = place.connect("replica");
    let state = dump(&replica);
    let plain = place.connect("plain");
    let exact = same("replica < > plain SQLite", &state, &dump(&plain));
    if plain.prepare(DAMAGED).unwrap().exists([]).unwrap() {
        return Ok(());
    }
    exact?;
    match replay_alone(place, &replica, &state, seed) {
        Err(e) if is_known(&e) || failed.explains(&e, done) || has_late_actions(&plain, done) => Ok(()),
        result => result,
    }
}

/// True if foreign-key actions may run behind AFTER triggers of the same row there, but run before them here.
fn has_late_actions(plain: &rusqlite::Connection, program: &Program) -> bool {
    let enforces = |action: &Action| action.to_string().contains("foreign_keys = 1");
    let sql = "SELECT 1 FROM sqlite_schema AS child, pragma_foreign_key_list(child.name) AS key, sqlite_schema AS t
        WHERE child.type = 'table' AND t.type = 'trigger' AND t.sql LIKE '%AFTER%'
          AND t.tbl_name = key.\"table\" COLLATE NOCASE
          AND (key.on_delete NOT IN ('NO ACTION', 'RESTRICT') OR key.on_update NOT IN ('NO ACTION', 'RESTRICT'))";
    program.actions.iter().any(enforces) && plain.prepare(sql).unwrap().exists([]).unwrap()
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
        Err(refusal) if refusal.by_guard => {
            drop(remote);
            place.copy("base", "remote");
            let remote = place.connect("remote");
            remote::push(&scratch, &remote, together)
                .map_err(|e| format!("push after a pull: {}", e.text))?;
        }
        Err(refusal) => return Err(format!("push: {}", refusal.text)),
    }
    let remote = place.connect("remote");
    remote::push_header(replica, &header, &remote);
    same("replica < > remote", state, &dump(&remote))
}

//! Where statements come from, and the bases they make.

use turso_sync::capture::{Connection, OpenOptions};

use crate::catalog::Catalog;
use crate::mode::Mode;
use crate::place::Place;
use crate::program::{Action, Phase, Program, action, base_statement, other_action};
use crate::random::Random;

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

    pub fn action(&mut self, phase: Phase, catalog: &Catalog, step: usize) -> Option<Action> {
        match self {
            Source::Replay(program) => program.actions(phase).get(step).cloned(),
            Source::Draw { r, mode, len } => match phase {
                Phase::Local => (step < *len).then(|| action(r, mode, catalog)),
                Phase::Others => (step < *len / 3).then(|| other_action(r, mode, catalog)),
                Phase::Later => (step < *len / 4).then(|| action(r, mode, catalog)),
            },
        }
    }
}

/// True for statements after which the schema may be another one.
pub fn changes_schema(sql: &str) -> bool {
    ["CREATE", "DROP", "ALTER", "ROLLBACK"]
        .iter()
        .any(|verb| sql.starts_with(verb))
}

/// Makes the database `base`; returns the statements that it is made of.
pub fn make_base(place: &Place, source: &mut Source<'_>) -> Vec<String> {
    place.copy("empty", "base");
    let connection = Connection::open(&place.path("base"), OpenOptions::default()).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let mut done = Vec::new();
    let mut catalog = Catalog::default();
    let mut step = 0;
    while let Some(sql) = source.base(&catalog, step) {
        step += 1;
        let failed = connection.execute_batch(&sql).is_err();
        if sql.starts_with("INSERT") {
            // One that failed may have left rows (OR FAIL).
            done.push(sql);
        } else if !failed {
            catalog = Catalog::read(&connection);
            done.push(sql);
        }
    }
    connection.close().unwrap();
    done
}

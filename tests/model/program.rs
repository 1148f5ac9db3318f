//! Random programs: a starting database, and what two connections do to it.

use std::fmt;

use crate::catalog::Catalog;
use crate::mode::Mode;
use crate::names::quoted;
use crate::random::Random;
use crate::{schema, statement};

/// What a connection does next. Open statements are counted modulo their number.
#[derive(Debug, Clone)]
pub enum Act {
    /// Runs a statement to its end.
    Run(String),
    /// Prepares a statement and leaves it after some steps.
    Open(String, usize),
    Step(usize),
    Reset(usize),
    Close(usize),
    Interrupt,
}

#[derive(Debug, Clone)]
pub struct Action {
    pub connection: usize,
    pub act: Act,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connection > 0 {
            write!(f, "/* connection {} */ ", self.connection + 1)?;
        }
        match &self.act {
            Act::Run(sql) => write!(f, "{sql};"),
            Act::Open(sql, steps) => write!(f, "{sql}; -- left after {steps} steps"),
            Act::Step(i) => write!(f, "-- step open statement {i}"),
            Act::Reset(i) => write!(f, "-- reset open statement {i}"),
            Act::Close(i) => write!(f, "-- finalize open statement {i}"),
            Act::Interrupt => write!(f, "-- interrupt"),
        }
    }
}

/// Statements that make the base (failing ones are skipped), and what happens on it.
#[derive(Debug, Clone, Default)]
pub struct Program {
    pub base: Vec<String>,
    pub actions: Vec<Action>,
    /// What others do to the remote.
    pub others: Vec<Action>,
    /// What happens on the replica after it has pulled that.
    pub later: Vec<Action>,
}

/// A part of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Local,
    Others,
    Later,
}

impl Program {
    pub fn actions(&self, phase: Phase) -> &[Action] {
        match phase {
            Phase::Local => &self.actions,
            Phase::Others => &self.others,
            Phase::Later => &self.later,
        }
    }

    pub fn actions_mut(&mut self, phase: Phase) -> &mut Vec<Action> {
        match phase {
            Phase::Local => &mut self.actions,
            Phase::Others => &mut self.others,
            Phase::Later => &mut self.later,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sql in &self.base {
            writeln!(f, "{sql};")?;
        }
        for (title, phase) in [
            ("base complete", Phase::Local),
            ("others", Phase::Others),
            ("later", Phase::Later),
        ] {
            let actions = self.actions(phase);
            if !actions.is_empty() || phase == Phase::Local {
                writeln!(f, "-- {title}")?;
            }
            actions.iter().try_for_each(|action| writeln!(f, "{action}"))?;
        }
        Ok(())
    }
}

/// The next statement of a base of about `size` objects; `step` counts from 0. `None` = complete.
pub fn base_statement(r: &Random, mode: &Mode, catalog: &Catalog, step: usize) -> Option<String> {
    let name = |r: &Random| crate::names::table(r);
    let table = r.one_of(&catalog.tables);
    Some(match (step, table) {
        (0..3, _) | (_, None) if step < 12 => {
            let name = name(r);
            schema::create_table(r, mode, catalog, &name)
        }
        (3 | 4, Some(table)) => schema::create_index(r, mode, table),
        (5, Some(table)) => schema::create_view(r, table),
        (6..9, _) => schema::create_trigger(r, mode, catalog).unwrap_or_default(),
        (9..16, Some(table)) => statement::insert(r, mode, catalog, table),
        _ => return None,
    })
}

/// What somebody else does to the remote next.
pub fn other_action(r: &Random, mode: &Mode, catalog: &Catalog) -> Action {
    let sql = match r.chance(mode.ddl / 2) {
        true => schema::ddl(r, mode, catalog),
        false => statement::write(r, mode, catalog),
    };
    Action {
        connection: 0,
        act: Act::Run(sql),
    }
}

/// The next action.
pub fn action(r: &Random, mode: &Mode, catalog: &Catalog) -> Action {
    let connection = usize::from(mode.two_connections && r.chance(25));
    let act = match r.below(100) {
        _ if r.chance(mode.ddl) => Act::Run(schema::ddl(r, mode, catalog)),
        0..20 => Act::Run(transaction(r)),
        20..24 => Act::Run(pragma(r, mode)),
        24..32 => {
            let returning = r.pick(&[" RETURNING *", " RETURNING 1", ""]);
            let sql = statement::write(r, mode, catalog) + returning;
            Act::Open(sql, r.below(3))
        }
        32..35 => match r.one_of(&catalog.tables) {
            Some(table) => Act::Open(format!("SELECT * FROM {}", quoted(r, &table.name)), 1),
            None => Act::Interrupt,
        },
        35..41 => Act::Step(r.below(4)),
        41..44 => Act::Reset(r.below(4)),
        44..48 => Act::Close(r.below(4)),
        48 => Act::Interrupt,
        // A prepared statement whose table is gone, or hidden, fails without counting, which is not noticed.
        49 if mode.ddl == 0 && !mode.temporary => {
            Act::Run("SELECT changes(), total_changes(), last_insert_rowid()".into())
        }
        50..56 if mode.temporary => Act::Run(temporary(r, mode, catalog)),
        _ => Act::Run(statement::write(r, mode, catalog)),
    };
    Action { connection, act }
}

fn transaction(r: &Random) -> String {
    let name = r.pick(&["s1", "\"s 2\"", "s1"]);
    match r.below(20) {
        0..4 => "BEGIN".into(),
        4 => "BEGIN IMMEDIATE".into(),
        5 => "BEGIN EXCLUSIVE".into(),
        6..9 => "COMMIT".into(),
        9 => "END".into(),
        10 => "ROLLBACK".into(),
        11..15 => format!("SAVEPOINT {name}"),
        15..18 => format!("RELEASE {name}"),
        _ => format!("ROLLBACK TO {name}"),
    }
}

fn pragma(r: &Random, mode: &Mode) -> String {
    let on = r.below(2);
    match r.below(6) {
        0..3 if mode.foreign_keys => format!("PRAGMA foreign_keys = {on}"),
        3 if mode.foreign_keys => format!("PRAGMA defer_foreign_keys = {on}"),
        4 if mode.recursive => format!("PRAGMA recursive_triggers = {on}"),
        _ => format!("PRAGMA user_version = {}", r.below(9)),
    }
}

/// Statements about databases that are never captured.
fn temporary(r: &Random, mode: &Mode, catalog: &Catalog) -> String {
    let shadowed = r
        .one_of(&catalog.tables)
        .map_or("h".into(), |t| quoted(r, &t.name));
    match r.below(13) {
        0 => "CREATE TEMP TABLE tt (a INTEGER PRIMARY KEY, b)".into(),
        // ALTER TABLE looks at all schemas, and spells names in indexes by what they mean here.
        1 if mode.ddl == 0 => format!("CREATE TEMP TABLE {shadowed} (a, b)"),
        2 => format!("CREATE TEMP TABLE te AS SELECT * FROM {shadowed}"),
        3 => format!("INSERT INTO temp.tt(b) VALUES (1), ({})", r.below(5)),
        4 => "UPDATE tt SET b = b + 1".into(),
        5 => format!("DROP TABLE IF EXISTS temp.{shadowed}"),
        6 => "ATTACH ':memory:' AS aux".into(),
        7 => format!("CREATE TABLE aux.{shadowed} (a, b UNIQUE)"),
        8 => format!("INSERT INTO aux.{shadowed} VALUES (1, {})", r.below(5)),
        9 => format!("DELETE FROM aux.{shadowed}"),
        10 => "DETACH aux".into(),
        11 => format!("CREATE TEMP VIEW tv AS SELECT * FROM {shadowed}"),
        _ => "DROP TABLE tt".into(),
    }
}

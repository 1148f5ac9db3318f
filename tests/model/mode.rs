//! Which constructs a program may use.

use crate::random::Random;

// Constructs that are known to be inexact; a program never combines them. Switch on what has been repaired.
const REPLACE_WITH_DELETE_TRIGGERS: bool = true;
const IGNORE_WITH_BEFORE_TRIGGERS: bool = true;
const UPDATE_OF_TRIGGERS: bool = true;
/// Conflict clauses of a statement or constraint where there are triggers: exact but for the limits in `src/replay/mod.rs`,
/// such as UPDATE OR REPLACE below a UNIQUE index on expressions.
const CLAUSES_WITH_TRIGGERS: bool = false;
/// UPDATE of the rowid of a table with another key: it is captured as a DELETE and an INSERT, which fire other triggers.
const MOVES_WITH_TRIGGERS: bool = false;
/// RAISE(FAIL), and OR FAIL in the body of a trigger, leave rows behind that the remote's trigger refuses.
const RAISE_FAIL: bool = false;
/// The remote runs with recursive triggers off, so what they did here beyond that is lost.
const RECURSIVE_TRIGGERS: bool = false;
/// INSERT with a key and another rowid where there are triggers: the row has another rowid there, and so have rows without a key
/// that triggers add to the table and the log then names by rowid.
pub const ROWIDS_BESIDE_KEYS: bool = false;
/// Rows of sqlite_sequence are compared.
pub const SEQUENCES: bool = false;
/// A write statement starts while another one is half way.
pub const SEVERAL_HALF_WAY_WRITES: bool = false;

/// The constructs of one program.
pub struct Mode {
    /// OR REPLACE and ON CONFLICT REPLACE.
    pub replace: bool,
    pub triggers: bool,
    pub delete_triggers: bool,
    pub raise_fail: bool,
    /// OR FAIL and ON CONFLICT FAIL.
    fail: bool,
    /// UPDATE of a rowid.
    pub moves: bool,
    /// Clauses outside of triggers.
    clauses: bool,
    /// OR IGNORE, ON CONFLICT IGNORE and RAISE(IGNORE).
    pub ignore: bool,
    pub before_triggers: bool,
    /// ON CONFLICT DO.
    pub upsert: bool,
    pub update_of: bool,
    pub recursive: bool,
    pub foreign_keys: bool,
    pub two_connections: bool,
    pub temporary: bool,
    /// Percent of actions that change the schema.
    pub ddl: usize,
}

impl Mode {
    pub fn draw(r: &Random) -> Mode {
        let (replace, ignore, triggers) = (r.chance(50), r.chance(50), r.chance(65));
        Mode {
            replace,
            triggers,
            raise_fail: RAISE_FAIL,
            fail: RAISE_FAIL || !triggers,
            moves: MOVES_WITH_TRIGGERS || !triggers,
            clauses: CLAUSES_WITH_TRIGGERS || !triggers,
            delete_triggers: !replace || REPLACE_WITH_DELETE_TRIGGERS,
            ignore,
            before_triggers: !ignore || IGNORE_WITH_BEFORE_TRIGGERS,
            upsert: !triggers || ignore || IGNORE_WITH_BEFORE_TRIGGERS,
            update_of: UPDATE_OF_TRIGGERS,
            recursive: RECURSIVE_TRIGGERS && r.chance(30),
            foreign_keys: r.chance(50),
            two_connections: r.chance(20),
            temporary: r.chance(20),
            ddl: r.pick(&[0, 5, 15, 40]),
        }
    }

    /// A conflict clause of a statement, with a blank behind it.
    pub fn conflict(&self, r: &Random) -> &'static str {
        if self.clauses { self.body_conflict(r) } else { "" }
    }

    /// The same in a trigger.
    pub fn body_conflict(&self, r: &Random) -> &'static str {
        match r.below(12) {
            0 | 1 if self.replace => "OR REPLACE ",
            2 | 3 if self.ignore => "OR IGNORE ",
            4 if self.fail => "OR FAIL ",
            5 => "OR ABORT ",
            6 => "OR ROLLBACK ",
            _ => "",
        }
    }

    /// The same for a constraint, with a blank before it.
    pub fn constraint_conflict(&self, r: &Random) -> &'static str {
        if !self.clauses {
            return "";
        }
        match r.below(30) {
            0 if self.replace => " ON CONFLICT REPLACE",
            1 if self.ignore => " ON CONFLICT IGNORE",
            2 if self.fail => " ON CONFLICT FAIL",
            3 => " ON CONFLICT ROLLBACK",
            _ => "",
        }
    }
}

//! Which constructs a program may use.

use std::sync::LazyLock;

use crate::random::Random;

/// Constructs that are known to be inexact; a program combines them only if `MODEL_WITH` names them ("moves,recursive").
/// Switch on in [`Mode::draw`] what has been repaired.
fn asked_for(construct: &str) -> bool {
    static WITH: LazyLock<String> = LazyLock::new(|| std::env::var("MODEL_WITH").unwrap_or_default());
    WITH.split(',').any(|with| with == construct)
}

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
    pub raise_fail: bool,
    /// OR FAIL and ON CONFLICT FAIL.
    fail: bool,
    /// UPDATE of a rowid.
    pub moves: bool,
    /// Clauses outside of triggers.
    clauses: bool,
    /// OR IGNORE, ON CONFLICT IGNORE and RAISE(IGNORE).
    pub ignore: bool,
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
        // RAISE(FAIL), and OR FAIL in the body of a trigger, leave rows behind that the remote's trigger refuses.
        let raise_fail = asked_for("fail");
        Mode {
            replace,
            triggers,
            raise_fail,
            fail: raise_fail || !triggers,
            // UPDATE of the rowid of a table with another key: it is captured as a DELETE and an INSERT, which fire other
            // triggers.
            moves: !triggers || asked_for("moves"),
            // Exact but for the limits in `src/replay/mod.rs`.
            clauses: !triggers || asked_for("clauses"),
            ignore,
            // The remote runs with recursive triggers off: what they did beyond that comes behind the rest there.
            recursive: asked_for("recursive") && r.chance(30),
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

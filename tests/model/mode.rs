//! Which constructs a program may use.

use std::sync::LazyLock;

use crate::random::Random;

/// Constructs that are known to be inexact; a program combines them only if `MODEL_WITH` names them ("moves,odd").
fn asked_for(construct: &str) -> bool {
    static WITH: LazyLock<String> = LazyLock::new(|| std::env::var("MODEL_WITH").unwrap_or_default());
    WITH.split(',').any(|with| with == construct)
}

/// Rows of sqlite_sequence are compared.
pub const SEQUENCES: bool = false;
/// A write statement starts while another one is half way.
pub const SEVERAL_HALF_WAY_WRITES: bool = false;

/// The constructs of one program.
pub struct Mode {
    /// OR REPLACE and ON CONFLICT REPLACE.
    pub replace: bool,
    pub triggers: bool,
    /// RAISE(FAIL), OR FAIL and ON CONFLICT FAIL.
    pub fail: bool,
    /// UPDATE of the rowid of a row that may have no key.
    pub moves: bool,
    /// Clauses outside of triggers.
    clauses: bool,
    /// UNIQUE indexes on expressions and generated columns.
    pub odd_unique: bool,
    /// OR IGNORE, ON CONFLICT IGNORE and RAISE(IGNORE).
    pub ignore: bool,
    /// DEFAULT on columns that are NOT NULL.
    pub defaults: bool,
    pub autoincrement: bool,
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
        let clauses = !triggers || r.chance(70);
        // What they leave behind is a conflict; see `Failed`.
        let fail = r.chance(if triggers { 15 } else { 100 });
        Mode {
            replace,
            triggers,
            fail,
            // OR REPLACE puts them in place of NULL, which BEFORE triggers see here, and not there.
            defaults: !(triggers && replace) || asked_for("defaults"),
            // Ids that IGNORE or FAIL has used up, or has not, are the next ones of rows that triggers add.
            autoincrement: !(triggers && (fail || ignore)) || asked_for("autoincrement"),
            // UPDATE of the rowid of a row without a key: it is captured as a DELETE and an INSERT, which fire other
            // triggers.
            moves: !triggers || asked_for("moves"),
            clauses,
            // Of a REPLACE of a table with such an index the bodies of triggers do not get the clause.
            odd_unique: !(triggers && clauses && replace) || asked_for("odd"),
            ignore,
            recursive: r.chance(15),
            foreign_keys: r.chance(50),
            two_connections: r.chance(20),
            temporary: r.chance(20),
            ddl: r.pick(&[0, 5, 15, 40]),
        }
    }

    /// BEFORE INSERT and BEFORE UPDATE triggers: with recursive triggers, a REPLACE fires DELETE triggers behind them here, and
    /// before them there.
    pub fn before_writes(&self) -> bool {
        !(self.recursive && self.replace)
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
        // A row that such a constraint has replaced travels as OR REPLACE, also for the bodies of triggers, if there are others.
        let others = !(self.triggers && self.replace);
        match r.below(30) {
            0 if self.replace => " ON CONFLICT REPLACE",
            1 if self.ignore && others => " ON CONFLICT IGNORE",
            2 if self.fail => " ON CONFLICT FAIL",
            3 if others => " ON CONFLICT ROLLBACK",
            _ => "",
        }
    }
}

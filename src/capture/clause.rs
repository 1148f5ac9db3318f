//! The conflict clause under which a change fires triggers.
//!
//! The clause of a statement (`INSERT OR IGNORE`) overrides those of the steps in the bodies of the triggers that it
//! fires, and of the triggers that these fire. The clause of a constraint (`UNIQUE ON CONFLICT IGNORE`) does not. What
//! exactly happens is not documented; `tests/clauses.rs` shows it for SQLite 3.53.

use crate::capture::authorizer::{identifier, skip_blank, strip_keyword};
use crate::capture::buffer::RowOp;

/// What a statement or step does where a constraint fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Clause {
    /// What the constraints, and the steps of triggers, say themselves.
    #[default]
    None,
    /// `OR ABORT`, `OR FAIL` or `OR ROLLBACK`. The change would not be there if anything had failed, so the log does
    /// not tell them from none.
    Fails,
    /// `OR IGNORE`
    Ignore,
    /// `OR REPLACE`
    Replace,
}

impl Clause {
    /// The number in the change log, for those that are in it.
    pub(crate) fn number(self) -> Option<i64> {
        match self {
            Clause::None | Clause::Fails => None,
            Clause::Ignore => Some(1),
            Clause::Replace => Some(2),
        }
    }

    /// The clause with this number.
    pub(crate) fn of(number: i64) -> Clause {
        match number {
            1 => Clause::Ignore,
            2 => Clause::Replace,
            _ => Clause::None,
        }
    }

    /// Reads the clause, if there is one, behind INSERT or UPDATE; also returns what follows it.
    pub(super) fn parse(sql: &str) -> Option<(Clause, &str)> {
        let Some(rest) = strip_keyword(skip_blank(sql), "OR") else {
            return Some((Clause::None, sql));
        };
        let (word, rest) = identifier(rest)?;
        let clause = match word.to_ascii_uppercase().as_str() {
            "IGNORE" => Clause::Ignore,
            "REPLACE" => Clause::Replace,
            _ => Clause::Fails,
        };
        Some((clause, rest))
    }

    /// What the triggers for `event` run under that a step with this clause and `verb` fires.
    pub(super) fn handed_on(self, verb: RowOp, event: RowOp) -> Clause {
        match (verb, event) {
            (RowOp::Delete, _) => Clause::None,
            (_, RowOp::Delete) => Clause::Replace,
            // ON CONFLICT DO UPDATE
            (RowOp::Insert, RowOp::Update) => Clause::Fails,
            _ => self,
        }
    }
}

/// `sql` behind its WITH clause, if it has one.
pub(super) fn skip_with(sql: &str) -> &str {
    let Some(mut rest) = strip_keyword(skip_blank(sql), "WITH") else {
        return sql;
    };
    let mut depth = 0usize;
    loop {
        rest = skip_blank(rest);
        let verbs = ["INSERT", "REPLACE", "UPDATE", "DELETE", "SELECT"];
        let verb = verbs.iter().find_map(|verb| strip_keyword(rest, verb));
        // REPLACE may be a name: that of a table is followed by AS or its columns.
        let is_name =
            |after| strip_keyword(skip_blank(after), "AS").is_some() || skip_blank(after).starts_with('(');
        if depth == 0 && verb.is_some_and(|after| !is_name(after)) {
            return rest;
        }
        rest = match (rest.chars().next(), identifier(rest)) {
            (None, _) => return rest,
            (_, Some((_, after))) => after,
            (Some(other), None) => {
                match other {
                    '(' => depth += 1,
                    ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                rest.get(other.len_utf8()..).unwrap_or("")
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::skip_with;

    #[test]
    fn the_statement_is_found_behind_with() {
        for (sql, found) in [
            (" INSERT INTO t", " INSERT INTO t"),
            (
                "WITH a AS (SELECT ')' UNION VALUES (1)) INSERT OR IGNORE INTO t",
                "INSERT OR IGNORE INTO t",
            ),
            (
                "with recursive replace(x) as not materialized (select 1), [a b](\"(\") AS (INSERT) replace into t",
                "replace into t",
            ),
            (
                "WITH replace AS (SELECT :update) -- INSERT\n/* ( */ UPDATE OR FAIL t",
                "UPDATE OR FAIL t",
            ),
            ("WITH a AS (SELECT 1)", ""),
        ] {
            assert_eq!(skip_with(sql), found, "{sql}");
        }
    }
}

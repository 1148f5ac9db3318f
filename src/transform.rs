//! Transformation of changes before they are pushed: what the host is shown, and what it decides.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::record::Value;

/// Most parameters of a statement (SQLite's own limit, <https://www.sqlite.org/limits.html>).
const MAX_VALUES: usize = 32_766;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseChangeType {
    /// It is new.
    Insert,
    /// Some of its columns were set.
    Update,
    /// It is gone.
    Delete,
}

/// A captured change of a row that is about to be pushed. It is content of the database: keep it out of logs.
///
/// Rows are in the order of `columns`; generated columns are not among them. Of a virtual table's row the images may be
/// missing.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseRowMutation {
    /// Number of the change (`change_id` in `turso_cdc`).
    pub change_id: i64,
    /// The local transaction it belongs to (`change_txn_id`).
    pub txn_id: i64,
    /// When it was made, in unix seconds.
    pub change_time: i64,
    /// What happened.
    pub change_type: DatabaseChangeType,
    /// The table, as spelled in its declaration.
    pub table_name: String,
    /// Rowid of the row, before the change if it changed; 0 where there is none.
    pub id: i64,
    /// Names of the columns as of the change.
    pub columns: Arc<[String]>,
    /// Which of them are the primary key, in its order; empty if there is none.
    pub key: Arc<[usize]>,
    /// The old row; `None` for an insert.
    pub before: Option<Vec<Value>>,
    /// The new row; `None` for a delete.
    pub after: Option<Vec<Value>>,
    /// For an update: what it set, `None` for columns that it left alone.
    pub updates: Option<Vec<Option<Value>>>,
}

impl DatabaseRowMutation {
    /// Value of `column` (upper and lower case do not count) in the old row.
    pub fn value_before(&self, column: &str) -> Option<&Value> {
        self.before.as_ref()?.get(self.position(column)?)
    }

    /// Value of `column` in the new row.
    pub fn value_after(&self, column: &str) -> Option<&Value> {
        self.after.as_ref()?.get(self.position(column)?)
    }

    fn position(&self, column: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|name| name.eq_ignore_ascii_case(column))
    }
}

/// A statement that is sent in place of a change.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseStatementReplay {
    /// One statement: INSERT, REPLACE, UPDATE, DELETE or SELECT, perhaps behind WITH. Its parameters are all `?`.
    pub sql: String,
    /// The values of the parameters, as many as there are `?`.
    pub values: Vec<Value>,
}

/// What becomes of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum DatabaseRowTransformResult {
    /// It is sent as it is.
    Keep,
    /// It is not sent, and counts as acknowledged with its transaction: with the next pull it is gone here, too.
    Skip,
    /// The statement is sent in its place. With the next pull its outcome on the remote is what is here.
    Rewrite(DatabaseStatementReplay),
}

/// What was decided about changes, by change id; those that are not in it are kept.
pub type Decisions = HashMap<i64, DatabaseRowTransformResult>;

impl DatabaseStatementReplay {
    /// Refuses what could not travel, or would break the transaction that it travels in.
    pub fn check(&self) -> Result<()> {
        let text = Text::scan(&self.sql);
        let verbs = ["INSERT", "REPLACE", "UPDATE", "DELETE", "SELECT", "WITH"];
        if !verbs.iter().any(|verb| text.first.eq_ignore_ascii_case(verb)) {
            return Err(Error::misuse(
                "a rewritten statement must begin with INSERT, REPLACE, UPDATE, DELETE, SELECT or WITH",
            ));
        }
        if !text.whole {
            return Err(Error::misuse(
                "a rewritten statement must be one whole statement: something follows its semicolon, or a quote or \
                 comment has no end",
            ));
        }
        if text.other_parameters || text.marks != self.values.len() || text.marks > MAX_VALUES {
            return Err(Error::misuse(format!(
                "a rewritten statement has {} parameters and {} values; its parameters must be plain question marks, \
                 and as many as values",
                text.marks,
                self.values.len()
            )));
        }
        let travels = |value: &Value| match value {
            Value::Real(number) => number.is_finite(),
            Value::Text(text) => std::str::from_utf8(text).is_ok(),
            _ => true,
        };
        match self.values.iter().all(travels) {
            true => Ok(()),
            false => Err(Error::misuse(
                "the values of a rewritten statement must be finite numbers and UTF-8 text; write others into its SQL",
            )),
        }
    }
}

/// What must be known of a text of SQL.
struct Text<'a> {
    /// The word that it begins with; empty if it begins with something else.
    first: &'a str,
    begun: bool,
    /// Number of `?`.
    marks: usize,
    /// There are numbered or named parameters.
    other_parameters: bool,
    /// It is one statement, and everything that begins in it ends.
    whole: bool,
}

impl<'a> Text<'a> {
    fn scan(sql: &'a str) -> Self {
        let mut text = Text {
            first: "",
            begun: false,
            marks: 0,
            other_parameters: false,
            whole: true,
        };
        let mut ended = false;
        let mut rest = sql;
        while let Some(c) = rest.chars().next() {
            let len = match c {
                '-' if rest.starts_with("--") => Some(rest.find('\n').unwrap_or(rest.len())),
                '/' if rest.starts_with("/*") => rest.get(2..).and_then(|r| r.find("*/")).map(|at| at + 4),
                _ if c.is_ascii_whitespace() => Some(1),
                ';' => {
                    ended = true;
                    Some(1)
                }
                _ => {
                    text.whole &= !ended;
                    text.word(rest, c)
                }
            };
            let Some(after) = len.and_then(|len| rest.get(len..)) else {
                text.whole = false;
                return text;
            };
            rest = after;
        }
        text.whole &= !sql.contains('\0');
        text
    }

    /// Looks at what begins with `c`, which is neither blank nor a comment; its length, `None` if it has no end.
    fn word(&mut self, rest: &'a str, c: char) -> Option<usize> {
        let behind = |quote: char| {
            let end = rest.get(1..)?.find(quote)?;
            Some(end + 1 + quote.len_utf8())
        };
        let in_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let begins = !std::mem::replace(&mut self.begun, true);
        match c {
            // A doubled quote ends one piece and begins the next.
            '\'' | '"' | '`' => behind(c),
            '[' => behind(']'),
            '?' => {
                self.marks += 1;
                self.other_parameters |= rest[1..].starts_with(|c: char| c.is_ascii_digit());
                Some(1)
            }
            ':' | '@' | '$' | '#' => {
                self.other_parameters = true;
                Some(1)
            }
            _ if in_name(c) => {
                let len = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
                if begins {
                    self.first = &rest[..len];
                }
                Some(len)
            }
            _ => Some(c.len_utf8()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, values: usize) -> Result<()> {
        let values = vec![Value::Integer(1); values];
        DatabaseStatementReplay {
            sql: sql.into(),
            values,
        }
        .check()
    }

    #[test]
    fn one_statement_that_changes_rows_is_accepted() {
        for (sql, values) in [
            ("INSERT INTO t VALUES (?, ?)", 2),
            ("  -- why\n /* ; */ update t SET a = ? ;  ", 1),
            ("WITH n AS (SELECT 1) INSERT INTO t SELECT * FROM n;", 0),
            (
                "DELETE FROM \"a;?\" WHERE `b;` = 'it''s ? ;' AND [c;?] = ? -- ;?",
                1,
            ),
            ("SELECT 1", 0),
            ("replace into t values (?)", 1),
        ] {
            check(sql, values).unwrap();
        }
    }

    #[test]
    fn what_would_break_the_transaction_or_lose_values_is_refused() {
        for (sql, values) in [
            ("", 0),
            ("COMMIT", 0),
            ("(SELECT 1)", 0),
            ("PRAGMA user_version = 1", 0),
            ("INSERT INTO t VALUES (1); COMMIT", 0),
            ("SELECT 1;;SELECT 2", 0),
            ("SELECT 'open", 0),
            ("SELECT 1 /* open", 0),
            ("SELECT 1 /*/", 0),
            ("SELECT [open", 0),
            ("SELECT 1\0; COMMIT", 0),
            ("SELECT ?", 0),
            ("SELECT ?", 2),
            ("SELECT ?1", 1),
            ("SELECT :a", 1),
            ("SELECT @a", 0),
        ] {
            assert!(check(sql, values).is_err(), "{sql}");
        }
        for value in [
            Value::Real(f64::INFINITY),
            Value::Real(f64::NAN),
            Value::Text(vec![0xff]),
        ] {
            let replay = DatabaseStatementReplay {
                sql: "SELECT ?".into(),
                values: vec![value],
            };
            assert!(replay.check().is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged(sql in "[-a-z?;'\"`\\[\\]/*\\n ü:]{0,40}") {
            let _ = check(&sql, 1);
        }
    }
}

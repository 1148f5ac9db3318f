//! Tables that a replica keeps to itself.

use std::sync::Arc;

use crate::capture::authorizer::is_reserved;
use crate::capture::sqlite::Db;
use crate::error::{Category, Code, Error, Result};

/// Names of the tables that are local: neither their rows nor their schema are captured, and a pull leaves them as
/// they are. Compared like SQLite compares names, without regard to the case of ASCII letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoredTables {
    names: Arc<[String]>,
}

impl IgnoredTables {
    /// Checks `names`: each may come once, and SQLite's and the library's own tables are no choice. An error is MISUSE.
    pub fn new(names: &[String]) -> Result<Self> {
        for (i, name) in names.iter().enumerate() {
            let why = if name.is_empty() || name.contains('\0') {
                "it is not the name of a table"
            } else if names.iter().take(i).any(|n| n.eq_ignore_ascii_case(name)) {
                "it is listed twice"
            } else if starts_with(name, "sqlite_") {
                "SQLite's own tables never travel"
            } else if is_reserved(name) || starts_with(name, "__turso_internal_") {
                "it belongs to the sync engine"
            } else {
                continue;
            };
            return Err(Error::misuse(format!(
                "tables_ignore: {name:?} cannot be ignored, {why}; list each of your own local tables once"
            )));
        }
        Ok(IgnoredTables { names: names.into() })
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// True if `table` is one of them.
    pub fn contains(&self, table: &str) -> bool {
        self.contains_bytes(table.as_bytes())
    }

    /// [`Self::contains`] for a name as SQLite passes it.
    pub(super) fn contains_bytes(&self, table: &[u8]) -> bool {
        self.names
            .iter()
            .any(|n| table.eq_ignore_ascii_case(n.as_bytes()))
    }

    /// The names as configured.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

fn starts_with(name: &str, prefix: &str) -> bool {
    let start = name.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Refuses a database in which an ignored name is that of something else than an ordinary table.
pub(super) fn check_kinds(db: Db, ignored: &IgnoredTables) -> Result<()> {
    if ignored.is_empty() {
        return Ok(());
    }
    let mut others =
        db.prepare("SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type <> 'table'")?;
    while others.step()? {
        let name = others.text(0);
        if ignored.contains(&name) {
            return Err(not_a_table(&name, &others.text(1)));
        }
    }
    Ok(())
}

/// The error for an ignored name that is a `kind` (as in PRAGMA table_list).
pub fn not_a_table(name: &str, kind: &str) -> Error {
    let kind = match kind {
        "view" => "a view",
        "shadow" => "the storage of a virtual table",
        _ => "a virtual table",
    };
    refused(format!(
        "{name} is {kind} and cannot be ignored: only ordinary tables can; take it out of tables_ignore, or rename it"
    ))
}

/// What the statement being prepared writes in the main schema, as far as that matters to ignored tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Writes {
    /// Ignored tables.
    ignored: Vec<String>,
    /// Other tables and views, with the trigger that writes them.
    by_trigger: Vec<(String, String)>,
}

impl Writes {
    /// True if there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.ignored.is_empty() && self.by_trigger.is_empty()
    }

    /// Takes notice of a write to `table` by the innermost trigger `trigger`.
    pub fn note(&mut self, ignored: &IgnoredTables, table: &str, trigger: Option<&str>) {
        if ignored.is_empty() || starts_with(table, "sqlite_") {
            return;
        }
        if ignored.contains(table) {
            push_new(&mut self.ignored, table.to_owned());
        } else if let Some(trigger) = trigger {
            push_new(&mut self.by_trigger, (trigger.to_owned(), table.to_owned()));
        }
    }

    /// Refuses a statement that makes a change of an ignored table change another table: the log would have the
    /// effect without its cause, so nobody could tell whether the remote redoes it.
    pub fn check(&self, db: Db, ignored: &IgnoredTables) -> Result<()> {
        self.check_triggers(db, ignored)?;
        if self.ignored.is_empty() || !enforces_references(db)? {
            return Ok(());
        }
        self.check_actions(db, ignored)
    }

    fn check_triggers(&self, db: Db, ignored: &IgnoredTables) -> Result<()> {
        if self.by_trigger.is_empty() {
            return Ok(());
        }
        let mut find = db.prepare(
            "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1 COLLATE NOCASE",
        )?;
        for (trigger, table) in &self.by_trigger {
            find.bind_text(1, trigger.as_bytes())?;
            let on = if find.step()? { find.text(0) } else { String::new() };
            find.reset()?;
            if ignored.contains(&on) {
                return Err(refused(format!(
                    "trigger {trigger} on table {on} writes {table}, but {on} is local (tables_ignore) and {table} is \
                     not: such a change could not be synced; let the trigger write local tables only, or change \
                     {table} with a statement of its own"
                )));
            }
        }
        Ok(())
    }

    fn check_actions(&self, db: Db, ignored: &IgnoredTables) -> Result<()> {
        let mut keys = db.prepare(
            "SELECT child.name, key.\"table\"
             FROM main.sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main') AS key
             WHERE child.type = 'table'
               AND (key.on_delete IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
                 OR key.on_update IN ('CASCADE', 'SET NULL', 'SET DEFAULT'))",
        )?;
        while keys.step()? {
            let (child, parent) = (keys.text(0), keys.text(1));
            let written = self.ignored.iter().any(|t| t.eq_ignore_ascii_case(&parent));
            if written && !ignored.contains(&child) {
                return Err(refused(format!(
                    "a foreign key of table {child} has an action on changes of {parent}, but {parent} is local \
                     (tables_ignore) and {child} is not: what the action does could not be synced; declare the key \
                     without actions, or switch PRAGMA foreign_keys off for this statement"
                )));
            }
        }
        Ok(())
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn enforces_references(db: Db) -> Result<bool> {
    let mut pragma = db.prepare("PRAGMA foreign_keys")?;
    Ok(pragma.step()? && pragma.integer(0) != 0)
}

fn refused(reason: String) -> Error {
    Error::new(Category::Usage, Code::Error, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_compared_like_sqlite_does() {
        let new =
            |names: &[&str]| IgnoredTables::new(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let tables = new(&["Cache", "späti"]).unwrap();
        assert!(tables.contains("cACHE") && tables.contains("SPäTI") && !tables.contains("SPÄTI"));
        assert!(!tables.contains("cache2") && !tables.is_empty() && new(&[]).unwrap().is_empty());
        for (names, why) in [
            (&["a", ""][..], "not the name"),
            (&["a\0b"], "not the name"),
            (&["a", "b", "A"], "twice"),
            (&["SQLite_sequence"], "SQLite's own"),
            (&["Turso_CDC"], "sync engine"),
            (&["turso_sync_last_change_id"], "sync engine"),
            (&["turso_sync_local"], "sync engine"),
            (&["__turso_internal_x"], "sync engine"),
        ] {
            let e = new(names).unwrap_err();
            assert_eq!(e.code, Code::Misuse);
            assert!(e.message.contains(why), "{e}");
        }
    }
}

//! What a capturing connection refuses, and what a statement does, both learnt from SQLite's authorizer while a
//! statement is prepared.

use rusqlite::ffi;

use crate::capture::buffer::RowOp;
use crate::capture::clause::Clause;
use crate::capture::ignored::{IgnoredTables, Writes};
use crate::capture::log::{LOCAL_TABLES, WATERMARK_TABLE};
use crate::capture::programs::{Assignment, Step, Work};

/// The strings of an authorizer call (<https://www.sqlite.org/c3ref/c_alter_table.html>); `None` for NULL.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Action<'a> {
    pub code: i32,
    pub first: Option<&'a str>,
    pub second: Option<&'a str>,
    pub schema: Option<&'a str>,
    /// The innermost trigger or view that acts.
    pub trigger: Option<&'a str>,
}

/// How a DDL statement changes the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DdlKind {
    CreateTable,
    Create,
    Drop,
    Alter,
}

/// A DDL statement on the main schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ddl {
    pub kind: DdlKind,
    /// Value of column `type` in `sqlite_schema`.
    pub object: &'static str,
    /// The object that is created, dropped or altered.
    pub name: String,
    /// It belongs to an ignored table and is not captured.
    pub ignored: bool,
}

/// That a statement may change rows of a table or view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub table: String,
    /// It is in the main schema.
    pub in_main: bool,
    /// The trigger that does it; `None` if it is the statement itself.
    pub trigger: Option<String>,
}

/// What the statement being prepared does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Purpose {
    pub ddl: Option<Ddl>,
    /// BEGIN, COMMIT or ROLLBACK.
    pub transaction: Option<String>,
    /// BEGIN, RELEASE or ROLLBACK of a savepoint.
    pub savepoint: Option<String>,
    pub attaches: bool,
    /// PRAGMA foreign_keys with this value.
    pub foreign_keys: Option<bool>,
    /// INSERT, UPDATE or DELETE on whatever table, so that SQLite counts changes.
    pub counts_changes: bool,
    /// PRAGMA recursive_triggers, read or written.
    pub recursive_triggers: bool,
    /// What it does to rows of the main schema.
    pub work: Work,
    /// Tables and views that it writes.
    pub written: Vec<Written>,
    pub writes: Writes,
    temp_trigger: bool,
}

impl Purpose {
    /// Takes notice of `action`; an error is the reason why the statement is refused.
    pub fn note(&mut self, action: Action<'_>, ignored: &IgnoredTables) -> Result<(), String> {
        let first = action.first.unwrap_or("");
        match action.code {
            ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE
                if !is_schema_table(first) && !is_temp_schema_table(first) =>
            {
                self.counts_changes = true;
                self.note_written(first, action);
            }
            ffi::SQLITE_TRANSACTION => self.transaction = action.first.map(str::to_ascii_uppercase),
            ffi::SQLITE_SAVEPOINT => self.savepoint = action.first.map(str::to_ascii_uppercase),
            ffi::SQLITE_ATTACH => self.attaches = true,
            ffi::SQLITE_CREATE_TEMP_TRIGGER => self.temp_trigger = true,
            ffi::SQLITE_PRAGMA if first.eq_ignore_ascii_case("foreign_keys") => {
                self.foreign_keys = action.second.map(is_on);
            }
            ffi::SQLITE_PRAGMA if first.eq_ignore_ascii_case("recursive_triggers") => {
                self.recursive_triggers = true;
            }
            ffi::SQLITE_PRAGMA => return pragma(first, action.second),
            _ => {}
        }
        if !action.schema.is_some_and(|s| s.eq_ignore_ascii_case("main")) {
            // What TEMP triggers there do to the main schema is captured.
            self.note_step(action);
            return Ok(());
        }
        match action.code {
            ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => {
                self.writes.note(ignored, first, action.trigger);
                self.note_work(action);
                self.write(first)
            }
            _ => self.schema_change(action, ignored),
        }
    }

    fn note_work(&mut self, action: Action<'_>) {
        self.note_step(action);
        if let (ffi::SQLITE_UPDATE, Some(column)) = (action.code, action.second) {
            self.work.assigned.push(Assignment {
                trigger: action.trigger.map(str::to_owned),
                table: action.first.unwrap_or("").to_owned(),
                column: column.to_owned(),
            });
        }
    }

    /// Takes notice of what the statement itself does: its first write.
    fn note_step(&mut self, action: Action<'_>) {
        let verb = match action.code {
            ffi::SQLITE_INSERT => RowOp::Insert,
            ffi::SQLITE_UPDATE => RowOp::Update,
            ffi::SQLITE_DELETE => RowOp::Delete,
            _ => return,
        };
        let table = action.first.unwrap_or("");
        let of_schema = is_schema_table(table) || is_temp_schema_table(table);
        if self.work.step.is_none() && action.trigger.is_none() && !of_schema {
            self.work.step = Some(Step {
                verb,
                table: table.to_owned(),
                schema: action.schema.map(str::to_owned),
                clause: Clause::None,
            });
        }
    }

    fn note_written(&mut self, table: &str, action: Action<'_>) {
        let in_main = action.schema.is_some_and(|s| s.eq_ignore_ascii_case("main"));
        let is_known =
            |w: &Written| w.table == table && w.in_main == in_main && w.trigger.as_deref() == action.trigger;
        if !self.written.iter().any(is_known) {
            self.written.push(Written {
                table: table.to_owned(),
                in_main,
                trigger: action.trigger.map(str::to_owned),
            });
        }
    }

    fn write(&self, table: &str) -> Result<(), String> {
        if is_schema_table(table) && self.temp_trigger {
            return Err(
                "TEMP triggers on tables of a replica are not supported, because their effects \
                        could not be reproduced elsewhere; create an ordinary trigger"
                    .into(),
            );
        }
        if table.eq_ignore_ascii_case("sqlite_dbpage") {
            return Err(
                "sqlite_dbpage of a replica cannot be written: page writes bypass change capture; \
                        change the rows with SQL"
                    .into(),
            );
        }
        not_ours(table)
    }

    fn schema_change(&mut self, action: Action<'_>, ignored: &IgnoredTables) -> Result<(), String> {
        let (first, second) = (action.first.unwrap_or(""), action.second.unwrap_or(""));
        let (kind, object, name, table) = match action.code {
            ffi::SQLITE_CREATE_TABLE => (DdlKind::CreateTable, "table", first, first),
            ffi::SQLITE_CREATE_VTABLE => (DdlKind::Create, "table", first, first),
            ffi::SQLITE_CREATE_VIEW => (DdlKind::Create, "view", first, first),
            ffi::SQLITE_CREATE_INDEX => (DdlKind::Create, "index", first, second),
            ffi::SQLITE_CREATE_TRIGGER => (DdlKind::Create, "trigger", first, second),
            ffi::SQLITE_DROP_TABLE | ffi::SQLITE_DROP_VTABLE => (DdlKind::Drop, "table", first, first),
            ffi::SQLITE_DROP_VIEW => (DdlKind::Drop, "view", first, first),
            ffi::SQLITE_DROP_INDEX => (DdlKind::Drop, "index", first, second),
            ffi::SQLITE_DROP_TRIGGER => (DdlKind::Drop, "trigger", first, second),
            _ => return Ok(()),
        };
        not_ours(table)?;
        not_ours(name)?;
        let only_tables = matches!(action.code, ffi::SQLITE_CREATE_VIEW | ffi::SQLITE_CREATE_VTABLE);
        if only_tables && ignored.contains(name) {
            return Err(format!(
                "{name} is the name of a local table (tables_ignore), which must be an ordinary table; choose another \
                 name for a view or virtual table"
            ));
        }
        self.set_ddl(kind, object, name, ignored.contains(table));
        Ok(())
    }

    /// ALTER TABLE comes with its arguments in other places: schema, table.
    pub fn note_alter(
        &mut self,
        schema: Option<&str>,
        table: Option<&str>,
        ignored: &IgnoredTables,
    ) -> Result<(), String> {
        if !schema.is_some_and(|s| s.eq_ignore_ascii_case("main")) {
            return Ok(());
        }
        let table = table.unwrap_or("");
        not_ours(table)?;
        self.set_ddl(DdlKind::Alter, "table", table, ignored.contains(table));
        Ok(())
    }

    /// The first action names the statement; later ones are parts of it.
    fn set_ddl(&mut self, kind: DdlKind, object: &'static str, name: &str, ignored: bool) {
        // ANALYZE creates such tables; they never travel.
        if name
            .get(..7)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case("sqlite_"))
        {
            return;
        }
        self.ddl.get_or_insert_with(|| Ddl {
            kind,
            object,
            name: name.to_owned(),
            ignored,
        });
    }
}

/// True for `sqlite_schema` under all its names.
pub(super) fn is_schema_table(table: &str) -> bool {
    ["sqlite_schema", "sqlite_master"]
        .iter()
        .any(|name| table.eq_ignore_ascii_case(name))
}

/// True for `sqlite_temp_schema` as SQLite calls it here.
fn is_temp_schema_table(table: &str) -> bool {
    table.eq_ignore_ascii_case("sqlite_temp_master")
}

/// True for the tables of the library.
pub(super) fn is_reserved(table: &str) -> bool {
    LOCAL_TABLES
        .iter()
        .chain([&WATERMARK_TABLE])
        .any(|name| table.eq_ignore_ascii_case(name))
}

fn not_ours(table: &str) -> Result<(), String> {
    if is_reserved(table) {
        return Err(format!(
            "table {table} belongs to the sync engine and is read-only; use SELECT on it only"
        ));
    }
    Ok(())
}

/// The reason why a PRAGMA is refused.
fn pragma(name: &str, value: Option<&str>) -> Result<(), String> {
    let name = name.to_ascii_lowercase();
    let value = value.map(str::to_ascii_lowercase);
    let is = |allowed: &[&str]| value.as_deref().is_none_or(|v| allowed.contains(&v));
    let reason = match name.as_str() {
        "journal_mode" if !is(&["wal"]) => "a replica is always in WAL mode",
        "wal_checkpoint" => "the sync engine decides about checkpoints; use its checkpoint operation",
        "wal_autocheckpoint" if value.is_some() => {
            "the sync engine decides about checkpoints; use its checkpoint operation"
        }
        "journal_size_limit" if value.is_some() => "the sync engine keeps the write-ahead log small",
        "locking_mode" if !is(&["normal"]) => "the sync engine uses the file through connections of its own",
        "synchronous" if !is(&["normal", "full", "extra", "1", "2", "3", "on", "yes", "true"]) => {
            "synchronous=OFF could damage the replica after a crash; use NORMAL or FULL"
        }
        "writable_schema" if !is(&["0", "off", "no", "false"]) => {
            "direct schema edits are not captured; use CREATE, ALTER and DROP"
        }
        "legacy_alter_table" if !is(&["0", "off", "no", "false"]) => {
            "ALTER TABLE would leave views, triggers and foreign keys alone here, and not on the remote"
        }
        "page_size" | "auto_vacuum" | "encoding" if value.is_some() => {
            "the layout of the file is that of the remote"
        }
        "incremental_vacuum" => "pages of a replica are those of the remote; vacuum the remote database",
        "schema_version" if value.is_some() => "the schema cookie is kept by SQLite and the sync engine",
        _ => return Ok(()),
    };
    Err(format!(
        "PRAGMA {name} is not allowed like this on a replica: {reason}"
    ))
}

/// Refuses a function that writes.
pub(super) fn refuse_function(name: &str) -> Result<(), String> {
    match name.eq_ignore_ascii_case("optimize") {
        true => Err(
            "the function optimize writes a full-text table within a SELECT, which a replica cannot capture; use INSERT \
             INTO the_table(the_table) VALUES ('optimize')"
                .into(),
        ),
        false => Ok(()),
    }
}

/// How SQLite reads the value of a boolean PRAGMA: one of three words, or the digits that it begins with.
fn is_on(value: &str) -> bool {
    let digits = value.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    let words = ["on", "yes", "true"];
    words.iter().any(|w| value.eq_ignore_ascii_case(w)) || digits.parse::<i32>().is_ok_and(|v| v & 0xff != 0)
}

/// True for statements that are made to change the schema.
pub(super) fn changes_schema(sql: &str) -> bool {
    let sql = skip_blank(sql);
    let verbs = ["CREATE", "DROP", "ALTER"];
    verbs.iter().any(|verb| strip_keyword(sql, verb).is_some())
}

/// `sql` without leading white space, comments and semicolons.
pub(super) fn skip_blank(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';' || c == '\u{feff}');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else {
            return rest;
        }
    }
}

/// What a VACUUM statement is, for which SQLite asks no authorizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vacuum {
    /// It rebuilds a database in place.
    InPlace,
    /// VACUUM INTO: it writes another file.
    Into,
}

/// Recognizes VACUUM statements.
pub(super) fn vacuum(sql: &str) -> Option<Vacuum> {
    let rest = strip_keyword(skip_blank(sql), "VACUUM")?;
    let rest = skip_blank(rest);
    if strip_keyword(rest, "INTO").is_some() {
        return Some(Vacuum::Into);
    }
    // A schema name may stand in between.
    let rest = identifier(rest).map_or(rest, |(_, rest)| rest);
    let into = strip_keyword(skip_blank(rest), "INTO").is_some();
    Some(if into { Vacuum::Into } else { Vacuum::InPlace })
}

/// The reason why ALTER TABLE … RENAME TO … is refused: the authorizer never hears of the new name.
///
/// `table` is the name so far. A rename between ignored tables and others would make a synced table local, or the
/// other way round.
pub(super) fn check_new_name(sql: &str, table: &str, ignored: &IgnoredTables) -> Result<(), String> {
    match new_table_name(sql) {
        Some(name) if is_reserved(&name) => Err(format!(
            "the name {name} is reserved for a table of the sync engine; choose another one"
        )),
        Some(name) if ignored.contains(&name) != ignored.contains(table) => {
            let (local, other) = if ignored.contains(table) {
                (table, name.as_str())
            } else {
                (name.as_str(), table)
            };
            Err(format!(
                "{table} cannot be renamed to {name}: {local} is local (tables_ignore) and {other} is not; create the \
                 other table and copy the rows"
            ))
        }
        _ => Ok(()),
    }
}

/// The new name in an ALTER TABLE … RENAME TO … that SQLite has accepted.
fn new_table_name(sql: &str) -> Option<String> {
    let keyword = |sql, keyword| strip_keyword(skip_blank(sql), keyword);
    let (_, mut rest) = identifier(keyword(keyword(sql, "ALTER")?, "TABLE")?)?;
    if let Some(table) = skip_blank(rest).strip_prefix('.') {
        rest = identifier(table)?.1;
    }
    let (name, _) = identifier(keyword(keyword(rest, "RENAME")?, "TO")?)?;
    Some(name)
}

/// The name at the start of `sql`, quoted or not, and what follows it.
pub(super) fn identifier(sql: &str) -> Option<(String, &str)> {
    let sql = skip_blank(sql);
    let close = match sql.chars().next()? {
        quote @ ('"' | '\'' | '`') => quote,
        '[' => ']',
        _ => {
            let (name, rest) = sql.split_at(sql.find(|c| !is_word(c)).unwrap_or(sql.len()));
            return (!name.is_empty()).then(|| (name.to_owned(), rest));
        }
    };
    let mut name = String::new();
    let mut rest = sql.get(1..)?;
    loop {
        let (part, after) = rest.split_once(close)?;
        name += part;
        // A doubled quote stands for itself.
        match after.strip_prefix(close).filter(|_| close != ']') {
            Some(more) => {
                name.push(close);
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// What follows `keyword` at the start of `sql`.
pub(super) fn strip_keyword<'a>(sql: &'a str, keyword: &str) -> Option<&'a str> {
    let (head, rest) = sql.split_at_checked(keyword.len())?;
    (head.eq_ignore_ascii_case(keyword) && !rest.starts_with(is_word)).then_some(rest)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vacuum_is_recognized_in_all_spellings() {
        for sql in [
            "VACUUM",
            " vacuum;",
            "/* a */ -- b\n Vacuum main",
            "vacuum \"main\" ;",
            "vacuum/**/[main]",
        ] {
            assert_eq!(vacuum(sql), Some(Vacuum::InPlace), "{sql}");
        }
        for sql in [
            "VACUUM INTO 'x'",
            "vacuum main into ?1",
            "vacuum \"a b\"into 'x'",
            "VACUUM/**/INTO 'x'",
        ] {
            assert_eq!(vacuum(sql), Some(Vacuum::Into), "{sql}");
        }
        for sql in ["", "vacuums", "SELECT 'vacuum'", "-- vacuum"] {
            assert_eq!(vacuum(sql), None, "{sql}");
        }
    }

    #[test]
    fn the_new_name_of_a_table_is_found_in_all_spellings() {
        for (sql, name) in [
            ("ALTER TABLE a RENAME TO b", "b"),
            (" -- x\nalter/**/table main . [a b] rename to\n`b``c`;", "b`c"),
            ("ALTER TABLE \"a\".\"x\"\"y\"RENAME TO\"b\"", "b"),
            ("ALTER TABLE rename RENAME TO to", "to"),
            ("ALTER TABLE a RENAME COLUMN b TO c", ""),
            ("ALTER TABLE a ADD COLUMN b", ""),
            ("EXPLAIN ALTER TABLE a RENAME TO b", ""),
        ] {
            assert_eq!(new_table_name(sql).unwrap_or_default(), name, "{sql}");
        }
        let ignored = IgnoredTables::new(&["Local".to_owned(), "cache".to_owned()]).unwrap();
        let check = |table: &str, to: &str| {
            check_new_name(&format!("ALTER TABLE {table} RENAME TO {to}"), table, &ignored)
        };
        assert!(check("a", "\"Turso_CDC\"").is_err());
        assert!(check("a", "turso").is_ok());
        assert!(check("a", "[loCAL]").is_err());
        assert!(check("cache", "a").is_err());
        assert!(check("Cache", "local").is_ok());
    }

    #[test]
    fn pragmas_are_refused_with_a_reason_or_allowed() {
        for (name, value) in [
            ("journal_mode", Some("delete")),
            ("JOURNAL_MODE", Some("OFF")),
            ("wal_checkpoint", None),
            ("wal_autocheckpoint", Some("1000")),
            ("journal_size_limit", Some("1")),
            ("locking_mode", Some("exclusive")),
            ("synchronous", Some("0")),
            ("synchronous", Some("OFF")),
            ("writable_schema", Some("1")),
            ("writable_schema", Some("reset")),
            ("page_size", Some("512")),
            ("schema_version", Some("7")),
            ("incremental_vacuum", None),
        ] {
            let reason = pragma(name, value).unwrap_err();
            assert!(reason.contains(": "), "{reason}");
        }
        for (name, value) in [
            ("journal_mode", None),
            ("journal_mode", Some("WAL")),
            ("synchronous", Some("FULL")),
            ("page_size", None),
            ("schema_version", None),
            ("foreign_keys", Some("on")),
            ("user_version", Some("3")),
        ] {
            assert_eq!(pragma(name, value), Ok(()));
        }
    }
}

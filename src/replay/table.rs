//! What the generator must know about a table.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use crate::capture::module::VirtualKind;
use crate::error::{Category, Code, Error, Result};
use crate::record::Value;
use crate::replay::clause::Unique;
use crate::replay::virtual_table;

/// A column whose values are in the records of the log, that is, one that is not generated.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    pub default: Option<String>,
}

/// A column of any kind as declared, for comparing declarations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Declaration {
    pub name: String,
    pub decl_type: String,
    pub not_null: bool,
    pub default: Option<String>,
    pub hidden: i64,
}

/// A foreign key of a child table.
#[derive(Debug, Clone)]
pub(super) struct ForeignKey {
    /// Name of the parent table.
    pub parent: String,
    /// Child columns, as positions in the record.
    pub from: Vec<usize>,
    /// Parent columns by name; empty = the parent's primary key.
    pub to: Vec<String>,
}

/// How one row is found on another database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// By the values of its primary key.
    Key,
    /// By its rowid under this name, together with its content.
    Rowid(&'static str),
    /// By content: columns hide all three names of the rowid.
    Content,
}

/// A table of the main schema.
#[derive(Debug)]
pub(super) struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub column_names: Arc<[String]>,
    /// Positions of the primary key's columns, in the order of the key; empty = no primary key.
    pub key: Vec<usize>,
    pub key_names: Arc<[String]>,
    /// For each of these columns the collation of the key, if it may be another one than that of the column.
    pub key_collations: Vec<Option<String>>,
    /// The primary key is the rowid.
    pub integer_key: bool,
    /// A name of the rowid that no column hides.
    pub rowid: Option<&'static str>,
    pub has_triggers: bool,
    /// Triggers, perhaps of other tables, mention it, and may add rows.
    pub in_triggers: bool,
    /// What is UNIQUE, for a table with triggers.
    pub unique: Unique,
    /// It may have DELETE triggers.
    pub delete_triggers: bool,
    /// It may have triggers that see which columns an UPDATE assigns: UPDATE OF, and where columns are generated any, because
    /// SQLite (3.53) computes those in `new` from NULL in place of columns that neither the UPDATE nor a trigger names.
    pub assignment_triggers: bool,
    /// The schema may resolve conflicts by itself (`ON CONFLICT REPLACE`) or end the transaction (`ROLLBACK`); statements
    /// must override that.
    pub own_conflict_clause: bool,
    /// No such clause does anything else than REPLACE.
    pub own_replace: bool,
    pub foreign_keys: Vec<ForeignKey>,
    /// Set for a virtual table; its rows are known by their number alone.
    pub virtual_kind: Option<VirtualKind>,
}

impl Table {
    /// Reads the table `name` from the schema of `conn`; `None` if there is none.
    pub(super) fn load(conn: &Connection, name: &str) -> Result<Option<Table>> {
        let Some((name, sql)) = schema_row(conn, name)? else {
            return Ok(None);
        };
        if let Some(kind) = VirtualKind::parse(&sql) {
            return virtual_table::load(conn, name, kind).map(Some);
        }
        let mut columns = Vec::new();
        let mut key = Vec::new();
        let mut names = Vec::new();
        let mut generated = false;
        let mut statement = conn.prepare_cached(
            "SELECT name, dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
        )?;
        let mut rows = statement.query([&name])?;
        while let Some(row) = rows.next()? {
            let column: String = row.get(0)?;
            names.push(column.to_ascii_lowercase());
            generated |= matches!(row.get(3)?, 2 | 3);
            if row.get::<_, i64>(3)? == 0 {
                if let part @ 1.. = row.get::<_, i64>(2)? {
                    key.push((part, columns.len()));
                }
                columns.push(Column {
                    name: column,
                    default: row.get(1)?,
                });
            }
        }
        key.sort_unstable();
        let key: Vec<usize> = key.into_iter().map(|(_, position)| position).collect();
        let flag =
            |sql: &str| -> Result<bool> { Ok(conn.prepare_cached(sql)?.query_row([&name], |r| r.get(0))?) };
        let key_index = flag("SELECT count(*) > 0 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk'")?;
        let without_rowid =
            flag("SELECT coalesce(max(wr), 0) FROM pragma_table_list WHERE schema = 'main' AND name = ?1")?;
        let has_triggers = flag(
            "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE",
        )?;
        // Whatever quotes a name has there.
        let in_triggers = flag(
            "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'trigger'
               AND instr(replace(replace(lower(sql), '\"', ''), '''', ''), replace(replace(lower(?1), '\"', ''), '''', '')) > 0",
        )?;
        let delete_triggers = flag(
            "SELECT ifnull(max(sql LIKE '%DELETE%ON%'), 0) FROM sqlite_schema
             WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE",
        )?;
        let assignment_triggers = flag(match generated {
            false => {
                "SELECT ifnull(max(sql LIKE '%UPDATE%OF%ON%'), 0) FROM sqlite_schema
                 WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE"
            }
            true => {
                "SELECT ifnull(max(sql LIKE '%UPDATE%ON%'), 0) FROM sqlite_schema
                 WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE"
            }
        })?;
        let integer_key = key.len() == 1 && !key_index;
        let rowid = ["rowid", "_rowid_", "oid"]
            .into_iter()
            .find(|alias| !without_rowid && !names.iter().any(|n| n == alias));
        let key_names: Arc<[String]> = key
            .iter()
            .filter_map(|&k| columns.get(k))
            .map(|c: &Column| c.name.clone())
            .collect();
        Ok(Some(Table {
            foreign_keys: foreign_keys(conn, &name, &columns)?,
            key_collations: match sql.to_ascii_lowercase().contains("collate") {
                true => key_collations(conn, &name, &key_names)?,
                false => Vec::new(),
            },
            own_conflict_clause: own_clauses(&sql).next().is_some(),
            own_replace: own_clauses(&sql).all(|word| word == "replace"),
            unique: match has_triggers {
                true => Unique::load(conn, &name, &columns, integer_key.then_some(&key))?,
                false => Unique::default(),
            },
            name,
            column_names: columns.iter().map(|c| c.name.clone()).collect(),
            columns,
            key,
            key_names,
            integer_key,
            rowid,
            has_triggers,
            in_triggers,
            delete_triggers,
            assignment_triggers,
            virtual_kind: None,
        }))
    }

    /// How the row with `values` is found.
    pub(super) fn identity(&self, values: &[Value]) -> Identity {
        let has_key = !self.key.is_empty()
            && self
                .key
                .iter()
                .all(|&k| values.get(k).is_some_and(|v| *v != Value::Null));
        match self.rowid {
            _ if has_key => Identity::Key,
            Some(alias) => Identity::Rowid(alias),
            None => Identity::Content,
        }
    }

    /// What finds the row whose key has the values `marks`; `names` are those of its columns.
    pub(super) fn key_terms<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
        marks: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let term = |((i, name), mark): ((usize, &String), &str)| match self.key_collations.get(i) {
            Some(Some(collation)) => format!("{name} IS {mark} COLLATE {}", quote(collation)),
            _ => format!("{name} IS {mark}"),
        };
        names.enumerate().zip(marks).map(term).collect()
    }

    /// The values of the key in `values`.
    pub(super) fn key_values<'a>(&self, values: &'a [Value]) -> impl Iterator<Item = &'a Value> {
        self.key.iter().filter_map(|&k| values.get(k))
    }

    /// Position of the column `name`.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|c| c.name.eq_ignore_ascii_case(name))
    }

    /// True if records of both tables have the same columns in the same order.
    pub(super) fn same_layout(&self, other: &Table) -> bool {
        self.columns.len() == other.columns.len()
            && self
                .columns
                .iter()
                .zip(&other.columns)
                .all(|(a, b)| a.name.eq_ignore_ascii_case(&b.name))
    }
}

/// The first words of what may be ON CONFLICT clauses in the CREATE TABLE statement `sql`, other than ABORT and FAIL. To
/// a statement of one row these two are the same, and it better has no clause: it would override those in the bodies of
/// triggers.
fn own_clauses(sql: &str) -> impl Iterator<Item = String> {
    let sql = sql.to_ascii_lowercase();
    let word = |rest: &str| {
        let rest = rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphabetic());
        rest.split_at(end.unwrap_or(rest.len())).0.to_owned()
    };
    let words: Vec<String> = sql.split("conflict").skip(1).map(word).collect();
    let fails = |word: &String| ["abort", "fail"].contains(&word.as_str());
    words.into_iter().filter(move |word| !fails(word))
}

/// Name as spelled in the schema, and text, of the table `name`.
fn schema_row(conn: &Connection, name: &str) -> Result<Option<(String, String)>> {
    let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    Ok(conn
        .prepare_cached(sql)?
        .query_row([name], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?)
}

/// The collation of each column in `key` within the primary key of `table`; none if that is the rowid.
fn key_collations(conn: &Connection, table: &str, key: &[String]) -> Result<Vec<Option<String>>> {
    let mut statement = conn.prepare_cached(
        "SELECT x.name, x.coll FROM pragma_index_list(?1, 'main') AS l, pragma_index_xinfo(l.name, 'main') AS x
         WHERE l.origin = 'pk' AND x.key ORDER BY x.seqno",
    )?;
    let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let collations = rows.collect::<rusqlite::Result<Vec<(String, String)>>>()?;
    let of = |name: &String| collations.iter().find(|(column, _)| column == name);
    Ok(key
        .iter()
        .map(|name| of(name).map(|(_, collation)| collation.clone()))
        .collect())
}

fn foreign_keys(conn: &Connection, table: &str, columns: &[Column]) -> Result<Vec<ForeignKey>> {
    let mut statement = conn.prepare_cached(
        "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq",
    )?;
    let mut rows = statement.query([table])?;
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, from, to): (i64, String, Option<String>) = (row.get(0)?, row.get(2)?, row.get(3)?);
        if keys.last().is_none_or(|(last, _)| *last != id) {
            let key = ForeignKey {
                parent: row.get(1)?,
                from: Vec::new(),
                to: Vec::new(),
            };
            keys.push((id, key));
        }
        if let Some((_, key)) = keys.last_mut() {
            // A generated child column is in no record; its key cannot be told from the log.
            key.from.push(
                columns
                    .iter()
                    .position(|c| c.name.eq_ignore_ascii_case(&from))
                    .unwrap_or(usize::MAX),
            );
            key.to.extend(to);
        }
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

/// All columns of a table as declared; empty if there is no such table.
pub(super) fn declarations(conn: &Connection, table: &str) -> Result<Vec<Declaration>> {
    let mut statement = conn.prepare_cached(
        "SELECT name, type, \"notnull\", dflt_value, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
    )?;
    let rows = statement.query_map([table], |row| {
        Ok(Declaration {
            name: row.get::<_, String>(0)?.to_ascii_lowercase(),
            decl_type: row.get::<_, String>(1)?.to_ascii_lowercase(),
            not_null: row.get(2)?,
            default: row.get(3)?,
            hidden: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// True if SQLite regards `name` as part of a virtual table's storage.
pub(super) fn is_shadow(conn: &Connection, name: &str) -> Result<bool> {
    let sql = "SELECT count(*) > 0 FROM pragma_table_list
               WHERE schema = 'main' AND name = ?1 COLLATE NOCASE AND type = 'shadow'";
    Ok(conn.query_row(sql, [name], |row| row.get(0))?)
}

/// The error for a change of a table that is not there.
pub(super) fn no_such_table(name: &str) -> Error {
    Error::new(Category::Database, Code::Error, format!("no such table: {name}"))
}

/// `name` as an SQL identifier.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

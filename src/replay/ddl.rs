//! Schema changes.

use rusqlite::{Connection, OptionalExtension};

use crate::capture::log::{ChangeType, LogEntry};
use crate::error::{Category, Code, Error, Result};
use crate::record::{Value, decode, encode};
use crate::replay::conflict::judged;
use crate::replay::is_internal;
use crate::replay::table::{declarations, is_shadow, quote};

/// Name under which the log holds changes of the schema.
pub(super) const SCHEMA_TABLE: &str = "sqlite_schema";

/// A row of `sqlite_schema`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SchemaRow {
    pub kind: String,
    pub name: String,
    pub table: String,
    pub sql: String,
}

impl SchemaRow {
    /// The object `name` of `conn`.
    pub(super) fn find(conn: &Connection, name: &str) -> Result<Option<SchemaRow>> {
        let sql = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema
                   WHERE name = ?1 COLLATE NOCASE";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(SchemaRow {
                kind: row.get(0)?,
                name: row.get(1)?,
                table: row.get(2)?,
                sql: row.get(3)?,
            })
        };
        Ok(conn.query_row(sql, [name], read).optional()?)
    }

    /// True if this object and `there` need no decision. Tables of the same name are merged by the names of their
    /// columns, so that two devices can create the same table in different versions of an app.
    pub(super) fn is_same_as(&self, there: &SchemaRow) -> bool {
        let is_plain_table = |row: &SchemaRow| row.kind == "table" && !row.sql.starts_with("CREATE VIRTUAL");
        self.kind == there.kind && (self.sql == there.sql || (is_plain_table(self) && is_plain_table(there)))
    }

    /// True if nothing is lost but the object itself when another one takes its place.
    pub(super) fn can_be_replaced(&self) -> bool {
        self.kind != "table"
    }

    fn drop_statement(&self) -> String {
        format!(
            "DROP {} IF EXISTS {}",
            self.kind.to_uppercase(),
            quote(&self.name)
        )
    }

    /// The row as a record; the root page, which is different everywhere, is 0.
    pub(super) fn encode(self) -> Vec<u8> {
        let text = |t: String| Value::Text(t.into_bytes());
        encode(&[
            text(self.kind),
            text(self.name),
            text(self.table),
            Value::Integer(0),
            text(self.sql),
        ])
    }
}

/// A DDL statement as captured.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ddl {
    Create(SchemaRow),
    Drop(SchemaRow),
    Alter {
        before: SchemaRow,
        after: SchemaRow,
        statement: String,
    },
}

/// What executing DDL led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// It was executed.
    Executed,
    /// Its effect was there already, or comes with another statement; it must not be sent.
    Unneeded,
}

impl Ddl {
    /// Decodes a schema change; `None` if it is one that never travels.
    pub(super) fn decode(entry: &LogEntry) -> Result<Option<Ddl>> {
        let row = |record: &Option<Vec<u8>>| -> Result<SchemaRow> {
            let record = record
                .as_deref()
                .ok_or_else(|| Error::corrupt("schema change without a schema row"))?;
            let mut values = decode(record)?.into_iter();
            let mut text = |skip: usize| match values.nth(skip) {
                Some(Value::Text(t)) => {
                    String::from_utf8(t).map_err(|_| Error::corrupt("text in a schema change is not UTF-8"))
                }
                Some(Value::Null) => Ok(String::new()),
                _ => Err(Error::corrupt("malformed schema row in the change log")),
            };
            Ok(SchemaRow {
                kind: text(0)?,
                name: text(0)?,
                table: text(0)?,
                sql: text(1)?,
            })
        };
        let ddl = match entry.change_type {
            ChangeType::Insert => Ddl::Create(row(&entry.after)?),
            ChangeType::Delete => Ddl::Drop(row(&entry.before)?),
            ChangeType::Update => {
                let updates = entry.updates.as_deref().map(decode).transpose()?;
                match updates.and_then(|values| values.into_iter().next_back()) {
                    // Without a statement it is a consequence of another one.
                    None | Some(Value::Null) => return Ok(None),
                    Some(Value::Text(t)) => Ddl::Alter {
                        before: row(&entry.before)?,
                        after: row(&entry.after)?,
                        statement: String::from_utf8(t)
                            .map_err(|_| Error::corrupt("text in a schema change is not UTF-8"))?,
                    },
                    Some(_) => return Err(Error::corrupt("malformed schema change in the change log")),
                }
            }
        };
        let SchemaRow { name, table, sql, .. } = ddl.row();
        // Indexes of constraints have no text: they come and go with their table.
        let own = is_internal(name) || is_internal(table) || sql.is_empty();
        Ok((!own).then_some(ddl))
    }

    /// The schema row that names the object.
    pub(super) fn row(&self) -> &SchemaRow {
        match self {
            Ddl::Create(row) | Ddl::Drop(row) => row,
            Ddl::Alter { before, .. } => before,
        }
    }

    /// The statement to execute.
    pub(super) fn sql(&self) -> String {
        match self {
            Ddl::Create(row) => row.sql.clone(),
            Ddl::Drop(row) => row.drop_statement(),
            Ddl::Alter { statement, .. } => statement.clone(),
        }
    }

    /// Executes the change on `conn`, and returns the statements that did it. None if it is not needed: an `ALTER
    /// TABLE` whose result is there already (somebody else did the same), and what a virtual table does with its own
    /// storage. With `overwrite` a creation replaces an object of the same name.
    pub(super) fn execute(&self, conn: &Connection, overwrite: bool) -> Result<Vec<String>> {
        let mut statements = Vec::new();
        if let (Ddl::Create(row), true) = (self, overwrite)
            && let Some(there) = SchemaRow::find(conn, &row.name)?
            && there.can_be_replaced()
        {
            let sql = there.drop_statement();
            conn.execute_batch(&sql)?;
            statements.push(sql);
        }
        if self.apply(conn)? == Applied::Executed {
            statements.push(self.sql());
        }
        Ok(statements)
    }

    /// Executes the statement on `conn`.
    pub(super) fn apply(&self, conn: &Connection) -> Result<Applied> {
        if is_shadow(conn, &self.row().name)? {
            return Ok(Applied::Unneeded);
        }
        let sql = self.sql();
        match conn.execute_batch(&sql) {
            Ok(()) => Ok(Applied::Executed),
            Err(_) if self.is_there(conn)? => Ok(Applied::Unneeded),
            Err(e) => Err(judged(Error::from(e).context(format!("`{sql}`")))),
        }
    }

    fn is_there(&self, conn: &Connection) -> Result<bool> {
        let Ddl::Alter { before, after, .. } = self else {
            return Ok(false);
        };
        let same = "SELECT count(*) > 0 FROM sqlite_schema WHERE type = ?1 AND name = ?2 AND sql = ?3";
        if conn.query_row(same, [&after.kind, &after.name, &after.sql], |row| row.get(0))? {
            return Ok(true);
        }
        // A column that was added here and there, beside other columns.
        let columns = |row: &SchemaRow| -> Result<_> {
            let other = Connection::open_in_memory()?;
            other.execute_batch(&row.sql)?;
            declarations(&other, &row.name)
        };
        let (old, new, there) = (
            columns(before)?,
            columns(after)?,
            declarations(conn, &after.name)?,
        );
        let added: Vec<_> = new.iter().filter(|c| !old.contains(c)).collect();
        Ok(new.len() == old.len() + 1 && added.len() == 1 && added.iter().all(|c| there.contains(c)))
    }
}

/// SQLite stores the text of every object with one of these beginnings, without IF NOT EXISTS, TEMP or the schema.
const BEGINNINGS: [&str; 6] = [
    "CREATE TABLE ",
    "CREATE INDEX ",
    "CREATE UNIQUE INDEX ",
    "CREATE VIEW ",
    "CREATE TRIGGER ",
    "CREATE VIRTUAL TABLE ",
];

fn create_if_not_exists(sql: &str) -> Result<String> {
    let split = BEGINNINGS.iter().find_map(|b| Some((*b, sql.strip_prefix(b)?)));
    match split {
        Some((beginning, rest)) => Ok(format!("{beginning}IF NOT EXISTS {rest}")),
        None => Err(Error::new(
            Category::Database,
            Code::Error,
            "a schema object has an unknown form",
        )),
    }
}

/// Copies the schema of `from`, without rows, into a new in-memory database.
///
/// What cannot be created here (a module or function that only the application has) is left out: a change that
/// needs it fails later with a clear error.
pub(super) fn mirror(from: &Connection) -> Result<Connection> {
    let mut statement = from.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT IN
           (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow')
         ORDER BY type <> 'table', sql LIKE 'CREATE VIRTUAL%', type <> 'index', type <> 'view', rowid",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(SchemaRow {
            kind: row.get(0)?,
            name: row.get(1)?,
            table: row.get(2)?,
            sql: row.get(3)?,
        })
    })?;
    let rows: Vec<SchemaRow> = rows.collect::<rusqlite::Result<_>>()?;
    mirror_of(
        rows.iter()
            .filter(|row| !is_internal(&row.name) && !is_internal(&row.table)),
    )
}

/// A new in-memory database with the objects `rows`, created in this order: a virtual table may need others. The storage of
/// virtual tables must not be among them.
pub(super) fn mirror_of<'a>(rows: impl Iterator<Item = &'a SchemaRow>) -> Result<Connection> {
    let conn = Connection::open_in_memory()?;
    conn.execute_batch("PRAGMA foreign_keys = OFF")?;
    for row in rows {
        let _ = conn.execute_batch(&create_if_not_exists(&row.sql)?);
    }
    Ok(conn)
}

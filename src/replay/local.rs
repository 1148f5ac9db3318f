//! Pull: tables that the replica keeps to itself (see [`IgnoredTables`]) go over to the new base as they are.
//!
//! They are copied once the pending changes are replayed, so that nothing a trigger does during the replay gets into
//! them. Until then stand-ins without rows take their place, because triggers and views may mention them.

use rusqlite::types::{ToSqlOutput, Value};
use rusqlite::{Connection, OptionalExtension};

use crate::capture::log::{IGNORED_MARK, LogEntry, read_entries};
use crate::capture::{IgnoredTables, not_a_table};
use crate::error::{Category, Code, Error, Result};
use crate::replay::ddl::{Ddl, SCHEMA_TABLE};
use crate::replay::table::{Table, is_shadow, quote};

/// Moves the ignored tables of a replica to a new base.
pub struct LocalTables<'a> {
    current: &'a Connection,
    scratch: &'a Connection,
    ignored: &'a IgnoredTables,
}

/// A table, view or index.
struct Object {
    kind: String,
    /// As spelled in the schema.
    name: String,
    sql: String,
}

impl<'a> LocalTables<'a> {
    /// `current` is the replica as it is now, and only read; `scratch` the new base in a transaction, with foreign keys
    /// off.
    pub fn new(current: &'a Connection, scratch: &'a Connection, ignored: &'a IgnoredTables) -> Self {
        LocalTables {
            current,
            scratch,
            ignored,
        }
    }

    /// Before the replay of the changes above `acknowledged`: makes empty tables where the new base has none. What the
    /// base has stays, and so does a gap that a change captured before the table was ignored will fill.
    pub fn prepare(&self, acknowledged: i64) -> Result<()> {
        self.check_marks()?;
        let mut pending = None;
        for name in self.ignored.iter() {
            let Some(table) = self.own(name)? else { continue };
            if find(self.scratch, name)?.is_some() {
                continue;
            }
            let pending = match &mut pending {
                Some(pending) => pending,
                None => pending.insert(self.pending(acknowledged)?),
            };
            if !pending.iter().any(|p| p.eq_ignore_ascii_case(name)) {
                self.create(name, "table", &table.name, &table.sql)?;
            }
        }
        Ok(())
    }

    /// After the replay: each ignored table is on the scratch what it is in the replica, with rows, rowids, indexes and
    /// triggers, or is not there at all. Memory: one row.
    pub fn carry_over(&self) -> Result<()> {
        if self.ignored.is_empty() {
            return Ok(());
        }
        // They were kept when the rows were written, or switched off then.
        self.scratch
            .execute_batch("PRAGMA ignore_check_constraints = ON")?;
        for name in self.ignored.iter() {
            let table = self.own(name)?;
            self.make_room(name, table.is_some())?;
            if let Some(table) = table {
                self.create(name, "table", &table.name, &table.sql)?;
                self.copy_rows(&table.name)
                    .map_err(|e| e.context(format!("local table {name}")))?;
                self.create_all(name, "index")?;
                self.mark(name)?;
            }
        }
        for name in self.ignored.iter() {
            self.create_all(name, "trigger")?;
        }
        Ok(self
            .scratch
            .execute_batch("PRAGMA ignore_check_constraints = OFF")?)
    }

    /// Refuses to go on if a table that was ignored no longer is: it would be lost.
    fn check_marks(&self) -> Result<()> {
        let mut marks = self.current.prepare(
            "SELECT t.name FROM turso_sync_local AS m, sqlite_schema AS t
             WHERE t.type = 'table' AND m.name = ?1 || lower(t.name)",
        )?;
        let mut names = marks.query([IGNORED_MARK])?;
        while let Some(row) = names.next()? {
            let name: String = row.get(0)?;
            if !self.ignored.contains(&name) {
                return Err(Error::new(
                    Category::Usage,
                    Code::Error,
                    format!(
                        "table {name} was local (tables_ignore) and is no longer listed, so that a pull would remove \
                         it; list it again, or drop it"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn mark(&self, name: &str) -> Result<()> {
        let mark = "INSERT OR IGNORE INTO turso_sync_local VALUES (?1 || lower(?2), NULL)";
        self.scratch.execute(mark, (IGNORED_MARK, name))?;
        Ok(())
    }

    /// The replica's table `name`.
    fn own(&self, name: &str) -> Result<Option<Object>> {
        let Some(object) = find(self.current, name)?.filter(|object| object.kind != "index") else {
            return Ok(None);
        };
        let kind = match object.kind.as_str() {
            "table" if object.sql.starts_with("CREATE VIRTUAL") => "virtual",
            "table" if is_shadow(self.current, name)? => "shadow",
            "table" => return Ok(Some(object)),
            kind => kind,
        };
        Err(not_a_table(&object.name, kind))
    }

    /// Names of the tables of which changes are pending.
    fn pending(&self, acknowledged: i64) -> Result<Vec<String>> {
        let mut tables = self
            .current
            .prepare("SELECT DISTINCT table_name FROM turso_cdc WHERE change_id > ?1")?;
        let mut names = tables
            .query_map([acknowledged], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()?;
        let mut schema = self
            .current
            .prepare("SELECT change_id FROM turso_cdc WHERE change_id > ?1 AND table_name = ?2")?;
        let mut ids = schema.query((acknowledged, SCHEMA_TABLE))?;
        while let Some(id) = ids.next()? {
            for entry in read_entries(self.current, id.get::<_, i64>(0)? - 1, 1)? {
                names.extend(schema_names(&entry)?);
            }
        }
        Ok(names)
    }

    /// Removes what the new base has under the name of an ignored table.
    fn make_room(&self, name: &str, needed: bool) -> Result<()> {
        let Some(there) = find(self.scratch, name)? else {
            return Ok(());
        };
        if is_shadow(self.scratch, name)? || (there.kind == "index" && needed) {
            let kind = if there.kind == "index" {
                "an index"
            } else {
                "the storage of a virtual table"
            };
            return Err(Error::new(
                Category::Conflict,
                Code::Constraint,
                format!(
                    "the remote has {kind} named {}, which is the name of a local table here (tables_ignore); rename \
                     one of them",
                    there.name
                ),
            ));
        }
        if there.kind != "index" {
            let (kind, name) = (there.kind.to_uppercase(), quote(&there.name));
            self.scratch.execute_batch(&format!("DROP {kind} main.{name}"))?;
        }
        Ok(())
    }

    /// Creates all objects of a kind that belong to the table `name`. Those of constraints have no text: they come with
    /// the table.
    fn create_all(&self, name: &str, kind: &str) -> Result<()> {
        let mut objects = self.current.prepare_cached(
            "SELECT name, sql FROM sqlite_schema
             WHERE type = ?1 AND tbl_name = ?2 COLLATE NOCASE AND sql IS NOT NULL ORDER BY rowid",
        )?;
        let mut rows = objects.query([kind, name])?;
        while let Some(row) = rows.next()? {
            let (object, sql): (String, String) = (row.get(0)?, row.get(1)?);
            self.create(name, kind, &object, &sql)?;
        }
        Ok(())
    }

    fn create(&self, table: &str, kind: &str, object: &str, sql: &str) -> Result<()> {
        self.scratch.execute_batch(sql).map_err(|e| {
            Error::from(e)
                .context(format!(
                    "local table {table} (tables_ignore): its {kind} {object} does not fit the remote's schema; drop \
                     or rename one of the two"
                ))
                .categorized(Category::Conflict)
        })
    }

    fn copy_rows(&self, name: &str) -> Result<()> {
        let table = Table::load(self.current, name)?.ok_or_else(|| Error::internal("the table is gone"))?;
        let mut columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
        // A row without INTEGER PRIMARY KEY keeps its rowid, too.
        columns.extend(table.rowid.filter(|_| !table.integer_key).map(str::to_owned));
        let (list, from) = (columns.join(", "), quote(name));
        let marks = vec!["?"; columns.len()].join(", ");
        let mut insert = self.scratch.prepare(&format!(
            "INSERT OR ABORT INTO main.{from} ({list}) VALUES ({marks})"
        ))?;
        let mut select = self
            .current
            .prepare(&format!("SELECT {list} FROM main.{from} NOT INDEXED"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            for i in 0..columns.len() {
                insert.raw_bind_parameter(i + 1, ToSqlOutput::Borrowed(row.get_ref(i)?))?;
            }
            insert.raw_execute()?;
        }
        self.copy_sequence(name)
    }

    /// The highest key that AUTOINCREMENT has given out.
    fn copy_sequence(&self, name: &str) -> Result<()> {
        if find(self.scratch, "sqlite_sequence")?.is_none() {
            return Ok(());
        }
        self.scratch
            .execute("DELETE FROM sqlite_sequence WHERE name = ?1", [name])?;
        if find(self.current, "sqlite_sequence")?.is_none() {
            return Ok(());
        }
        let mut sequence = self
            .current
            .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = ?1")?;
        let seq: Option<Value> = sequence.query_row([name], |row| row.get(0)).optional()?;
        if let Some(seq) = seq {
            self.scratch
                .execute("INSERT INTO sqlite_sequence VALUES (?1, ?2)", (name, seq))?;
        }
        Ok(())
    }
}

/// The object `name` among tables, views and indexes, which share their names.
fn find(conn: &Connection, name: &str) -> Result<Option<Object>> {
    let mut object = conn.prepare_cached(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_schema
         WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view', 'index')",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Object {
            kind: row.get(0)?,
            name: row.get(1)?,
            sql: row.get(2)?,
        })
    };
    Ok(object.query_row([name], read).optional()?)
}

/// Names that a schema change brings or removes.
fn schema_names(entry: &LogEntry) -> Result<Vec<String>> {
    let Some(ddl) = Ddl::decode(entry)? else {
        return Ok(Vec::new());
    };
    let mut names = vec![ddl.row().name.clone()];
    if let Ddl::Alter { after, .. } = ddl {
        names.push(after.name);
    }
    Ok(names)
}

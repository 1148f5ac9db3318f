//! DDL statements as changes of `sqlite_schema`: the schema before and after the statement is compared.

use std::collections::HashMap;

use crate::capture::authorizer::{Ddl, DdlKind, skip_blank};
use crate::capture::buffer::RowOp;
use crate::capture::clause::Clause;
use crate::capture::flush::{LogRow, LogWriter};
use crate::capture::ignored::IgnoredTables;
use crate::capture::log::{ChangeType, IGNORED_MARK};
use crate::capture::programs::{Step, Work};
use crate::capture::sqlite::{Db, quoted};
use crate::error::{Category, Code, Error, Result};
use crate::record::{self, Value};

const SCHEMA_TABLE: &str = "sqlite_schema";

/// One row of `sqlite_schema`.
#[derive(PartialEq)]
struct Object {
    values: Vec<Value>,
}

impl Object {
    fn text(&self, column: usize) -> String {
        match self.values.get(column) {
            Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        }
    }

    fn is(&self, object: &str, name: &str) -> bool {
        self.text(0) == object && self.text(1).eq_ignore_ascii_case(name)
    }
}

/// `sqlite_schema` by its rowid.
#[derive(PartialEq)]
pub(super) struct Snapshot {
    objects: HashMap<i64, Object>,
}

impl Snapshot {
    /// Reads the schema as the connection sees it now.
    pub fn take(db: Db) -> Result<Snapshot> {
        let mut rows =
            db.prepare("SELECT rowid, type, name, tbl_name, rootpage, sql FROM main.sqlite_schema")?;
        let mut objects = HashMap::new();
        while rows.step()? {
            let mut values = rows.row();
            values.remove(0);
            objects.insert(rows.integer(0), Object { values });
        }
        Ok(Snapshot { objects })
    }

    fn find(&self, object: &str, name: &str) -> Option<(i64, &Object)> {
        let mut objects = self.objects.iter();
        objects
            .find(|(_, o)| o.is(object, name))
            .map(|(rowid, o)| (*rowid, o))
    }

    /// The object of `ddl` if `other` does not have it.
    fn only_here(&self, other: &Snapshot, ddl: &Ddl) -> Option<&Object> {
        let (_, object) = self.find(ddl.object, &ddl.name)?;
        other.find(ddl.object, &ddl.name).is_none().then_some(object)
    }
}

/// A finished DDL statement.
pub(super) struct Finished<'a> {
    pub ddl: &'a Ddl,
    pub before: &'a Snapshot,
    pub after: &'a Snapshot,
    /// Text of the statement.
    pub sql: &'a str,
}

impl Finished<'_> {
    /// Row changes of tables that the statement created or dropped go with the statement.
    pub fn wants_rows_of(&self, table: &str) -> bool {
        self.before.find("table", table).is_some() && self.after.find("table", table).is_some()
    }

    /// What DROP TABLE does to rows, where `work` is what the authorizer was told.
    pub fn work(&self, work: &Work) -> Work {
        Work {
            step: Some(Step {
                verb: RowOp::Delete,
                table: self.ddl.name.clone(),
                schema: None,
                clause: Clause::None,
            }),
            assigned: work.assigned.clone(),
        }
    }

    /// Writes the log row of the statement, and those of the rows that CREATE TABLE AS SELECT made.
    pub fn write(&self, db: Db, log: &mut LogWriter, ignored: &IgnoredTables) -> Result<()> {
        if self.ddl.kind == DdlKind::Drop && self.ddl.object == "table" {
            unmark(db, &self.ddl.name)?;
        }
        match self.ddl.kind {
            _ if self.ddl.ignored => {
                self.check_others(ignored)?;
                self.mark_tables(db, ignored)
            }
            DdlKind::Create | DdlKind::CreateTable => {
                let Some(object) = self.after.only_here(self.before, self.ddl) else {
                    return Ok(());
                };
                let record = record::encode(&object.values);
                log.write(&LogRow {
                    after: Some(&record),
                    ..schema_row(ChangeType::Insert)
                })?;
                if self.ddl.kind == DdlKind::CreateTable {
                    write_initial_rows(db, log, &object.text(1))?;
                }
                Ok(())
            }
            DdlKind::Drop => {
                let Some(object) = self.before.only_here(self.after, self.ddl) else {
                    return Ok(());
                };
                let record = record::encode(&object.values);
                log.write(&LogRow {
                    before: Some(&record),
                    ..schema_row(ChangeType::Delete)
                })
            }
            DdlKind::Alter => self.write_alter(log),
        }
    }

    /// SQLite rewrites views, triggers and foreign keys that mention a renamed column. The remote would not.
    fn check_others(&self, ignored: &IgnoredTables) -> Result<()> {
        for (rowid, before) in &self.before.objects {
            let after = self.after.objects.get(rowid);
            let rewritten = after.is_some_and(|after| after.text(4) != before.text(4));
            if rewritten && !ignored.contains(&before.text(2)) {
                return Err(Error::new(
                    Category::Usage,
                    Code::Error,
                    format!(
                        "{} {} mentions what changes in {}, which is local (tables_ignore): the remote's {0} would stay \
                         as it is; drop it first",
                        before.text(0),
                        before.text(1),
                        self.ddl.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Keeps in mind which tables are ignored: without the option, a pull would take them for tables that the remote
    /// has dropped.
    fn mark_tables(&self, db: Db, ignored: &IgnoredTables) -> Result<()> {
        let mut mark = db.prepare(&format!(
            "INSERT OR IGNORE INTO main.turso_sync_local VALUES ('{IGNORED_MARK}' || lower(?1), NULL)"
        ))?;
        for object in self.after.objects.values().filter(|o| o.text(0) == "table") {
            if ignored.contains(&object.text(1)) {
                mark.bind_text(1, object.text(1).as_bytes())?;
                mark.run()?;
            }
        }
        Ok(())
    }

    fn write_alter(&self, log: &mut LogWriter) -> Result<()> {
        let Some((rowid, old)) = self.before.find(self.ddl.object, &self.ddl.name) else {
            return Ok(());
        };
        // Renaming a column to its name leaves the table, but may spell indexes and views anew.
        let Some(new) = self
            .after
            .objects
            .get(&rowid)
            .filter(|_| self.after != self.before)
        else {
            return Ok(());
        };
        let sql = skip_blank(self.sql).trim_end_matches(|c: char| c.is_ascii_whitespace() || c == ';');
        let mut updates: Vec<Value> = [0, 0, 0, 0, 1].map(Value::Integer).to_vec();
        updates.extend([Value::Null, Value::Null, Value::Null, Value::Null]);
        updates.push(Value::Text(sql.as_bytes().to_vec()));
        log.write(&LogRow {
            before: Some(&record::encode(&old.values)),
            after: Some(&record::encode(&new.values)),
            updates: Some(&record::encode(&updates)),
            ..schema_row(ChangeType::Update)
        })
    }
}

/// A table of this name that comes later is not meant.
fn unmark(db: Db, name: &str) -> Result<()> {
    let mut unmark = db.prepare(&format!(
        "DELETE FROM main.turso_sync_local WHERE name = '{IGNORED_MARK}' || lower(?1)"
    ))?;
    unmark.bind_text(1, name.as_bytes())?;
    unmark.run()
}

fn schema_row(change_type: ChangeType) -> LogRow<'static> {
    LogRow {
        change_type,
        table: SCHEMA_TABLE,
        rowid: 0,
        before: None,
        after: None,
        updates: None,
        depth: 0,
    }
}

/// The preupdate hook is silent about the rows of CREATE TABLE AS SELECT.
fn write_initial_rows(db: Db, log: &mut LogWriter, table: &str) -> Result<()> {
    let info = log.tables.get(db, table)?;
    if info.without_rowid {
        return Ok(());
    }
    // Where columns hide the rowid: the rows of a table that was empty have the rowids from 1 on, and are read in their order.
    let rowid = info.rowid_name().unwrap_or_else(|| "row_number() OVER ()".into());
    let mut rows = db.prepare(&format!(
        "SELECT {rowid}, {} FROM main.{}",
        info.select_list(),
        quoted(table)
    ))?;
    while rows.step()? {
        let mut values = rows.row();
        values.remove(0);
        log.write(&LogRow {
            change_type: ChangeType::Insert,
            table,
            rowid: rows.integer(0),
            before: None,
            after: Some(&record::encode(&values)),
            updates: None,
            depth: 0,
        })?;
    }
    Ok(())
}

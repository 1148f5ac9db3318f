//! What the schema holds at a moment, so that statements can be made that fit it.

use turso_sync::capture::{Connection, Step};

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub generated: bool,
    pub not_null: bool,
    /// Place in the primary key from 1; 0 = not in it.
    pub key: i64,
}

/// A table or a view.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub name: String,
    pub is_view: bool,
    pub without_rowid: bool,
    pub columns: Vec<Column>,
}

impl Table {
    /// Names of the columns that can be written.
    pub fn writable(&self) -> Vec<&str> {
        let columns = self.columns.iter().filter(|c| !c.generated);
        columns.map(|c| c.name.as_str()).collect()
    }

    pub fn key(&self) -> Vec<&str> {
        let mut key: Vec<_> = self.columns.iter().filter(|c| c.key > 0).collect();
        key.sort_by_key(|c| c.key);
        key.iter().map(|c| c.name.as_str()).collect()
    }

    /// All rows have a primary key without NULLs.
    pub fn has_keys(&self) -> bool {
        let mut key = self.columns.iter().filter(|c| c.key > 0).peekable();
        key.peek().is_some() && key.all(|c| c.not_null)
    }

    /// A name of the rowid that no column hides.
    pub fn rowid(&self) -> Option<&'static str> {
        let hidden = |alias: &&str| self.columns.iter().any(|c| c.name.eq_ignore_ascii_case(alias));
        let mut aliases = ["rowid", "_rowid_", "oid"].into_iter();
        aliases.find(|alias| !self.without_rowid && !self.is_view && !hidden(alias))
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    pub tables: Vec<Table>,
    pub views: Vec<Table>,
    pub indexes: Vec<String>,
    pub triggers: Vec<String>,
}

impl Catalog {
    /// Reads the main schema as `connection` sees it; what it cannot read is left out.
    pub fn read(connection: &Connection) -> Catalog {
        let mut catalog = Catalog::default();
        let objects = rows(
            connection,
            "SELECT type, name, sql LIKE '%WITHOUT ROWID%' FROM main.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'turso_%'
             AND name NOT LIKE 'sqlite_%' ORDER BY name",
        );
        for object in objects {
            let (kind, name) = (object[0].as_str(), object[1].clone());
            match kind {
                "index" => catalog.indexes.push(name),
                "trigger" => catalog.triggers.push(name),
                _ => {
                    let table = Table {
                        columns: columns(connection, &name),
                        is_view: kind == "view",
                        without_rowid: object[2] == "1",
                        name,
                    };
                    let list = if table.is_view {
                        &mut catalog.views
                    } else {
                        &mut catalog.tables
                    };
                    list.push(table);
                }
            }
        }
        catalog
    }
}

fn columns(connection: &Connection, table: &str) -> Vec<Column> {
    let sql = format!("PRAGMA main.table_xinfo('{}')", table.replace('\'', "''"));
    let rows = rows(connection, &sql).into_iter();
    rows.map(|row| Column {
        name: row[1].clone(),
        not_null: row[3] != "0",
        key: row[5].parse().unwrap_or(0),
        generated: row[6] != "0",
    })
    .collect()
}

/// All rows of a query as text; none if it fails.
fn rows(connection: &Connection, sql: &str) -> Vec<Vec<String>> {
    let Ok(Some((mut statement, _))) = connection.prepare(sql) else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    while let Ok(Step::Row) = statement.step() {
        let text = |i| match statement.value_bytes(i) {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => statement.value_integer(i).to_string(),
        };
        rows.push((0..statement.column_count()).map(text).collect());
    }
    rows
}

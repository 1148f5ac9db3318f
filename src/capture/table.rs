//! What capture must know about a table to turn the hook's values into those of `SELECT *`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::capture::buffer::{Buffer, Cell};
use crate::capture::programs::Triggers;
use crate::capture::sqlite::{Db, quoted};
use crate::capture::virtual_table::VirtualTable;
use crate::error::Result;
use crate::record::{RecordBuilder, Value};

/// A column that the file stores.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    /// GENERATED ALWAYS … STORED: reported by the hook, not part of a record.
    pub generated: bool,
    /// Affinity REAL: whole numbers are stored as integers and must come out as reals.
    pub real: bool,
    /// Position in the primary key from 1, or 0.
    pub key: i64,
}

/// A table of the main schema.
#[derive(Debug, Default)]
pub(super) struct TableInfo {
    pub columns: Vec<Column>,
    /// No column needs any treatment.
    plain: bool,
    pub without_rowid: bool,
    pub has_triggers: bool,
    /// It may have DELETE triggers.
    pub delete_triggers: bool,
    /// It may have triggers that see which columns an UPDATE assigns: UPDATE OF, and where columns are generated any, because
    /// SQLite (3.53) computes those in `new` from NULL in place of columns that neither the UPDATE nor a trigger names.
    pub assignment_triggers: bool,
    /// Set if it is an ordinary table, that is, no view and no virtual table.
    pub ordinary: bool,
    /// Set for a virtual table of a known module, and for what such a table is stored in.
    pub virtual_table: Option<Arc<VirtualTable>>,
    /// The table is what [`Self::virtual_table`] stores under this ending of the name.
    pub storage: Option<String>,
    /// The INTEGER PRIMARY KEY, if there is one.
    pub rowid_column: Option<String>,
    /// A name of the rowid that no column hides, generated ones included.
    rowid_alias: Option<&'static str>,
}

impl TableInfo {
    /// Reads what the schema says about `table`.
    pub fn load(db: Db, table: &str) -> Result<TableInfo> {
        let mut info = TableInfo::default();
        let name = Value::Text(table.as_bytes().to_vec());
        let mut columns =
            db.prepare("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid")?;
        columns.bind(1, &name)?;
        let mut declared_integer = false;
        let mut generated = false;
        let mut aliases = vec!["rowid", "_rowid_", "oid"];
        while columns.step()? {
            aliases.retain(|alias| !columns.text(0).eq_ignore_ascii_case(alias));
            generated |= matches!(columns.integer(3), 2 | 3);
            // Only these are in the file, and known to the hook.
            if !matches!(columns.integer(3), 0 | 3) {
                continue;
            }
            let declared = columns.text(1);
            let column = Column {
                name: columns.text(0),
                generated: columns.integer(3) == 3,
                real: has_real_affinity(&declared),
                key: columns.integer(2),
            };
            declared_integer |= column.key == 1 && declared.eq_ignore_ascii_case("INTEGER");
            info.columns.push(column);
        }
        info.rowid_alias = aliases.first().copied();
        info.plain = info.columns.iter().all(|c| !c.generated && !c.real);
        // Not `pragma_table_list`: it begins to read all attached databases, which cannot be detached then while a
        // statement is half way.
        let mut kind = db.prepare(&format!("PRAGMA main.table_list({})", quoted(table)))?;
        if kind.step()? {
            info.without_rowid = kind.integer(4) != 0;
            let kind_name = kind.text(2);
            info.load_virtual(db, table, &kind_name)?;
            info.ordinary = kind_name == "table" || kind_name == "shadow" && info.storage.is_none();
            let mut key_index =
                db.prepare("SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk'")?;
            key_index.bind(1, &name)?;
            // A rowid table's key that needs no index of its own is an alias of the rowid.
            if declared_integer && !info.without_rowid && !key_index.step()? {
                let key = info.columns.iter().find(|c| c.key == 1);
                info.rowid_column = key.map(|c| c.name.clone());
            }
        }
        // The user may have switched PRAGMA case_sensitive_like on.
        let mut triggers = db.prepare(
            "SELECT ifnull(max(upper(sql) LIKE '%DELETE%ON%'), 0),
               ifnull(max(upper(sql) LIKE iif(?2, '%UPDATE%ON%', '%UPDATE%OF%ON%')), 0), count(*)
             FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE",
        )?;
        triggers.bind(1, &name)?;
        triggers.bind_integer(2, i64::from(generated))?;
        if triggers.step()? {
            info.delete_triggers = triggers.integer(0) != 0;
            info.assignment_triggers = triggers.integer(1) != 0;
            info.has_triggers = triggers.integer(2) != 0;
        }
        Ok(info)
    }

    fn load_virtual(&mut self, db: Db, table: &str, kind: &str) -> Result<()> {
        match (kind, table.rsplit_once('_')) {
            ("virtual", _) => self.virtual_table = VirtualTable::load(db, table)?.map(Arc::new),
            ("shadow", Some((owner, part))) => {
                self.virtual_table = VirtualTable::load(db, owner)?.map(Arc::new);
                // Of modules not known here the stored rows are all there is to capture.
                self.storage = self.virtual_table.as_ref().map(|_| part.to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// True if a primary key without NULLs names `row`.
    pub fn has_key(&self, row: &[Cell]) -> bool {
        let mut key = self.columns.iter().zip(row).filter(|(c, _)| c.key > 0).peekable();
        key.peek().is_some() && key.all(|(_, cell)| !matches!(cell, Cell::Null))
    }

    /// The cells of `row` as `SELECT` would show them, generated columns left out.
    pub fn visible<'a>(&'a self, row: &'a [Cell]) -> impl Iterator<Item = Cell> + 'a {
        let generated = move |i: usize| !self.plain && self.columns.get(i).is_some_and(|c| c.generated);
        let cells = self.real_cells(row).enumerate();
        cells.filter(move |(i, _)| !generated(*i)).map(|(_, cell)| cell)
    }

    /// All stored cells of `row`, generated ones too, with reals as reals.
    pub fn real_cells<'a>(&'a self, row: &'a [Cell]) -> impl Iterator<Item = Cell> + 'a {
        row.iter()
            .enumerate()
            .map(move |(i, &cell)| match (self.columns.get(i), cell) {
                (Some(column), Cell::Integer(v)) if column.real => Cell::Real((v as f64).to_bits()),
                _ => cell,
            })
    }

    /// Appends the record of `row` to `out`.
    pub fn record(&self, buffer: &Buffer, row: &[Cell], builder: &mut RecordBuilder, out: &mut Vec<u8>) {
        for cell in self.visible(row) {
            buffer.encode(cell, builder);
        }
        builder.finish_into(out);
    }

    /// A name under which SQL reaches the rowid, unless columns hide all of them.
    pub fn rowid_name(&self) -> Option<String> {
        if let Some(column) = &self.rowid_column {
            return Some(quoted(column));
        }
        self.rowid_alias.map(str::to_owned)
    }

    /// The columns of a record as a SELECT list.
    pub fn select_list(&self) -> String {
        let names = self
            .columns
            .iter()
            .filter(|c| !c.generated)
            .map(|c| quoted(&c.name));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// SQLite's rule for REAL affinity (<https://www.sqlite.org/datatype3.html#determination_of_column_affinity>).
fn has_real_affinity(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|w| declared.contains(w));
    has(&["REAL", "FLOA", "DOUB"]) && !has(&["INT", "CHAR", "CLOB", "TEXT", "BLOB"])
}

/// Descriptions of tables, valid for one state of the schema.
#[derive(Default)]
pub(super) struct TableCache {
    tables: HashMap<String, Arc<TableInfo>>,
    has_virtual: Option<bool>,
    has_virtual_reals: Option<bool>,
    triggers: Option<Arc<Triggers>>,
    cookie: i64,
}

impl TableCache {
    /// Forgets everything if `cookie` (PRAGMA schema_version) is another one.
    pub fn validate(&mut self, cookie: i64) {
        if self.cookie != cookie {
            self.clear();
            self.cookie = cookie;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.tables.clear();
        self.has_virtual = None;
        self.has_virtual_reals = None;
        self.triggers = None;
        self.cookie = -1;
    }

    /// True if there are virtual tables.
    pub fn has_virtual(&mut self, db: Db) -> Result<bool> {
        if let Some(known) = self.has_virtual {
            return Ok(known);
        }
        // Nothing else of type table lacks a root page.
        let mut any =
            db.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND rootpage = 0 LIMIT 1")?;
        let has_virtual = any.step()?;
        self.has_virtual = Some(has_virtual);
        Ok(has_virtual)
    }

    /// True if a table has a VIRTUAL column of type REAL.
    pub fn has_virtual_reals(&mut self, db: Db) -> Result<bool> {
        if let Some(known) = self.has_virtual_reals {
            return Ok(known);
        }
        let mut columns = db.prepare(
            "SELECT c.type FROM main.sqlite_schema AS t, pragma_table_xinfo(t.name, 'main') AS c
             WHERE t.type = 'table' AND upper(t.sql) LIKE '%AS%(%' AND c.hidden = 2",
        )?;
        let mut any = false;
        while !any && columns.step()? {
            any = has_real_affinity(&columns.text(0));
        }
        self.has_virtual_reals = Some(any);
        Ok(any)
    }

    /// The triggers of the main schema.
    pub fn triggers(&mut self, db: Db) -> Result<Arc<Triggers>> {
        if let Some(triggers) = &self.triggers {
            return Ok(Arc::clone(triggers));
        }
        let triggers = Arc::new(Triggers::load(db)?);
        self.triggers = Some(Arc::clone(&triggers));
        Ok(triggers)
    }

    /// True if `table` is known, and an ordinary table.
    pub fn is_ordinary(&self, table: &str) -> bool {
        self.tables.get(table).is_some_and(|info| info.ordinary)
    }

    /// The description of `table`.
    pub fn get(&mut self, db: Db, table: &str) -> Result<Arc<TableInfo>> {
        if let Some(info) = self.tables.get(table) {
            return Ok(Arc::clone(info));
        }
        let info = Arc::new(TableInfo::load(db, table)?);
        self.tables.insert(table.to_owned(), Arc::clone(&info));
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::has_real_affinity;

    #[test]
    fn affinity_follows_the_declared_type() {
        for real in ["REAL", "double precision", "Float", "floating real"] {
            assert!(has_real_affinity(real), "{real}");
        }
        for other in [
            "",
            "INTEGER",
            "FLOATING POINT",
            "TEXT",
            "NUMERIC",
            "CHARFLOAT",
            "REALBLOB",
        ] {
            assert!(!has_real_affinity(other), "{other}");
        }
    }
}

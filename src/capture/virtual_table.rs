//! Changes of virtual tables (FTS3, FTS4, FTS5, R*Tree, Geopoly), as rows of the tables themselves.
//!
//! SQLite reports what a module writes into the ordinary tables that it stores everything in. Those rows are of no
//! use elsewhere: merged with another replica's they make a damaged index. But one of the stored tables has a row
//! per row of the virtual table, written at once, and tells which rows a statement has touched. Each touched row is
//! read when the statement ends, and logged once.
//!
//! What triggers did is not logged, because the triggers of the other side redo it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::capture::authorizer::Written;
use crate::capture::buffer::{Buffer, Cell, RowChange, RowOp};
use crate::capture::flush::{LogRow, LogWriter};
use crate::capture::log::ChangeType;
use crate::capture::module::{Content, Module, VirtualKind};
use crate::capture::sqlite::{Db, quoted};
use crate::capture::table::{TableCache, TableInfo};
use crate::error::{Category, Code, Error, Result};
use crate::record::{self, RecordBuilder, Value};

/// A virtual table of a known module.
#[derive(Debug)]
pub(super) struct VirtualTable {
    name: String,
    kind: VirtualKind,
    columns: Vec<String>,
}

impl VirtualTable {
    /// Reads what the schema says; `None` if there is no virtual table of this name, or its module is not known.
    pub fn load(db: Db, name: &str) -> Result<Option<VirtualTable>> {
        let argument = Value::Text(name.as_bytes().to_vec());
        let mut schema = db.prepare(
            "SELECT name, sql FROM main.sqlite_schema
             WHERE type = 'table' AND rootpage = 0 AND name = ?1 COLLATE NOCASE",
        )?;
        schema.bind(1, &argument)?;
        if !schema.step()? {
            return Ok(None);
        }
        let Some(kind) = VirtualKind::parse(&schema.text(1)) else {
            return Ok(None);
        };
        let mut all =
            db.prepare("SELECT name, hidden <> 0 FROM pragma_table_xinfo(?1, 'main') ORDER BY cid")?;
        all.bind(1, &argument)?;
        let mut columns = Vec::new();
        while all.step()? {
            columns.push((all.text(0), all.integer(1) != 0));
        }
        Ok(Some(VirtualTable {
            name: schema.text(0),
            kind,
            columns: kind.columns(columns.into_iter()),
        }))
    }

    /// Why changes of this table cannot be captured, if they cannot.
    fn refusal(&self) -> Option<String> {
        let VirtualKind {
            content,
            has_sizes,
            has_locales,
            ..
        } = self.kind;
        let why = match content {
            Content::Nowhere => "SQLite keeps no values of a contentless full-text table",
            Content::External if !has_sizes => {
                "SQLite keeps no trace of single rows in a full-text table with external content and without sizes"
            }
            _ if has_locales => "SQLite does not show the locales of a full-text table's values",
            _ => return None,
        };
        Some(format!(
            "table {} of a replica cannot be written directly: {why}, so there would be nothing to send; let triggers \
             on an ordinary table write it, which work on both sides, or use a full-text table with its own content",
            self.name
        ))
    }

    /// The stored table with a row per row of this one.
    fn key_storage(&self) -> &'static str {
        match self.kind.module {
            Module::Fts5 | Module::Fts4 => "content",
            Module::Rtree | Module::Geopoly => "rowid",
        }
    }
}

/// Why a statement that writes `written` is refused, if it is.
pub(super) fn refusal(db: Db, tables: &mut TableCache, written: &[Written]) -> Result<Option<String>> {
    if !tables.has_virtual(db)? {
        return Ok(None);
    }
    let mut storage = None;
    let mut others = false;
    for write in written.iter().filter(|w| w.trigger.is_none()) {
        if !write.in_main {
            others = true;
            continue;
        }
        let info = tables.get(db, &write.table)?;
        match (&info.virtual_table, &info.storage) {
            (Some(of), Some(_)) => {
                storage = Some(format!(
                    "table {} of a replica cannot be written: it is what the virtual table {} is stored in; change {1}",
                    write.table, of.name
                ));
            }
            (Some(table), None) if table.refusal().is_some() => return Ok(table.refusal()),
            _ => others = true,
        }
    }
    // A module prepares statements of its own when it is used first, which looks like writes of this statement.
    Ok(storage.filter(|_| !others))
}

/// Logs the changes of virtual tables in `buffer`, made by one statement that writes `written`.
pub(super) fn write_changes(db: Db, log: &mut LogWriter, buffer: &Buffer, written: &[Written]) -> Result<()> {
    let mut tables: Vec<(Arc<VirtualTable>, BTreeMap<String, usize>)> = Vec::new();
    let mut is_ordinary = Vec::new();
    for (index, name) in buffer.tables().iter().enumerate() {
        let info = log.tables.get(db, name)?;
        is_ordinary.push(info.storage.is_none());
        let (Some(table), Some(part)) = (&info.virtual_table, &info.storage) else {
            continue;
        };
        match tables.iter_mut().find(|(known, _)| known.name == table.name) {
            Some((_, parts)) => _ = parts.insert(part.clone(), index),
            None => tables.push((Arc::clone(table), [(part.clone(), index)].into())),
        }
    }
    let is_ordinary = |change: &RowChange| is_ordinary.get(change.table) == Some(&true);
    let has_ordinary = buffer.changes().iter().any(is_ordinary);
    for (table, parts) in tables {
        if has_ordinary && !is_direct(db, &mut log.tables, &table, written)? {
            continue;
        }
        let changes = Changes {
            db,
            log,
            buffer,
            table: &table,
            parts,
        };
        changes.write()?;
    }
    Ok(())
}

/// True if nothing on the other side redoes the changes of `table`. What triggers on ordinary tables do is redone;
/// what a view's triggers do, or a temporary table's, are the changes of the statement itself.
fn is_direct(db: Db, tables: &mut TableCache, table: &VirtualTable, written: &[Written]) -> Result<bool> {
    let writes_it = |w: &&Written| w.in_main && w.table.eq_ignore_ascii_case(&table.name);
    for write in written.iter().filter(|w| w.trigger.is_none() && w.in_main) {
        if writes_it(&write) {
            return Ok(true);
        }
        if tables.get(db, &write.table)?.ordinary {
            return Ok(false);
        }
    }
    let mut known = false;
    for write in written.iter().filter(writes_it) {
        known = true;
        let Some(trigger) = &write.trigger else { continue };
        let mut on = db.prepare(
            "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1 COLLATE NOCASE",
        )?;
        on.bind_text(1, trigger.as_bytes())?;
        if !on.step()? || !tables.get(db, &on.text(0))?.ordinary {
            return Ok(true);
        }
    }
    Ok(!known)
}

/// What a statement did to one row.
#[derive(Default)]
struct Touched {
    existed: bool,
    exists: bool,
    /// Stored row before the statement.
    old: Option<Range<usize>>,
    /// Stored row after it.
    new: Option<Range<usize>>,
}

/// What one statement did to one virtual table.
struct Changes<'a> {
    db: Db,
    log: &'a mut LogWriter,
    buffer: &'a Buffer,
    table: &'a VirtualTable,
    /// Index in the buffer of each stored table with changes.
    parts: BTreeMap<String, usize>,
}

impl Changes<'_> {
    fn write(mut self) -> Result<()> {
        let settings = self.settings();
        let rows = self.touched(self.table.key_storage());
        let sizes = self.touched("docsize");
        if let Some(reason) = self.table.refusal() {
            return match rows.is_empty() && sizes.is_empty() && settings.is_empty() {
                true => Ok(()),
                false => Err(Error::new(Category::Usage, Code::Error, reason)),
            };
        }
        for (name, value) in settings {
            self.write_command(&[name, value])?;
        }
        let is_rebuilt = rows.is_empty() && sizes.values().any(|row| row.existed);
        match self.table.kind.content {
            Content::External if !sizes.is_empty() => self.write_external(),
            Content::Own if is_rebuilt => self.write_command(&[text("rebuild"), Value::Null]),
            Content::Own => self.write_rows(rows),
            _ => Ok(()),
        }
    }

    /// Changes of the stored table `part`.
    fn changes(&self, part: &str) -> impl Iterator<Item = &RowChange> {
        let index = self.parts.get(part).copied();
        self.buffer
            .changes()
            .iter()
            .filter(move |c| Some(c.table) == index)
    }

    /// The rows of the stored table `part`, by rowid.
    fn touched(&self, part: &str) -> BTreeMap<i64, Touched> {
        let mut rows: BTreeMap<i64, Touched> = BTreeMap::new();
        for change in self.changes(part) {
            if change.op != RowOp::Insert {
                let row = rows.entry(change.old_rowid).or_insert_with(|| Touched {
                    existed: true,
                    old: change.old.clone(),
                    ..Touched::default()
                });
                row.exists = false;
            }
            if change.op != RowOp::Delete {
                let row = rows.entry(change.new_rowid).or_default();
                row.exists = true;
                row.new = change.new.clone();
            }
        }
        rows
    }

    /// Settings of FTS5 that were changed, as (name, value). Its own marks (`version`) are none.
    fn settings(&self) -> Vec<(Value, Value)> {
        let row = |change: &RowChange| {
            let cells = self.buffer.cells(change.new.as_ref()?);
            let mut builder = RecordBuilder::default();
            cells
                .iter()
                .for_each(|cell| self.buffer.encode(*cell, &mut builder));
            let mut out = Vec::new();
            builder.finish_into(&mut out);
            let mut values = record::decode(&out).ok()?.into_iter();
            Some((values.next()?, values.next()?)).filter(|(name, _)| *name != text("version"))
        };
        self.changes("config").filter_map(row).collect()
    }

    /// With external content the index is to hold what the content says, whatever was written.
    fn write_external(mut self) -> Result<()> {
        let sizes = format!(
            "SELECT 1 FROM main.{} LIMIT 1",
            quoted(&format!("{}_docsize", self.table.name))
        );
        let command = match self.db.prepare(&sizes)?.step()? {
            true => "rebuild",
            false => "delete-all",
        };
        self.write_command(&[text(command), Value::Null])
    }

    fn write_command(&mut self, command: &[Value; 2]) -> Result<()> {
        self.log.write(&LogRow {
            change_type: ChangeType::Update,
            table: &self.table.name,
            rowid: 0,
            before: None,
            after: None,
            updates: Some(&record::encode(command)),
            depth: 0,
        })
    }

    fn write_rows(self, rows: BTreeMap<i64, Touched>) -> Result<()> {
        let names: Vec<String> = self.table.columns.iter().map(|name| quoted(name)).collect();
        let mut select = self.db.prepare(&format!(
            "SELECT {} FROM main.{} WHERE {} = ?1",
            names.join(", "),
            quoted(&self.table.name),
            quoted(self.table.kind.key(&self.table.columns))
        ))?;
        let images = self.node_images();
        for (rowid, row) in rows {
            if row.existed && row.exists && !self.has_changed(rowid, &row, &images) {
                continue;
            }
            let before = row.old.as_ref().and_then(|old| self.old_row(old));
            let mut after = None;
            if row.exists {
                select.bind_integer(1, rowid)?;
                after = select.step()?.then(|| record::encode(&select.row()));
                select.reset()?;
            }
            let change_type = match (row.existed, &after) {
                (true, Some(_)) => ChangeType::Update,
                (false, Some(_)) => ChangeType::Insert,
                (true, None) => ChangeType::Delete,
                (false, None) => continue,
            };
            self.log.write(&LogRow {
                change_type,
                table: &self.table.name,
                rowid,
                before: before.as_deref(),
                after: after.as_deref(),
                updates: None,
                depth: 0,
            })?;
        }
        Ok(())
    }

    /// Record of the row that FTS5 stored as `stored`: the rowid, then the columns.
    fn old_row(&self, stored: &Range<usize>) -> Option<Vec<u8>> {
        if self.table.kind.module != Module::Fts5 {
            return None;
        }
        let cells = self.buffer.cells(stored).get(1..=self.table.columns.len())?;
        let mut out = Vec::new();
        TableInfo::default().record(self.buffer, cells, &mut RecordBuilder::default(), &mut out);
        Some(out)
    }
}

// R*Tree moves rows between nodes when it splits them, and writes them again without a change. The nodes tell.
impl Changes<'_> {
    /// The nodes of an R*Tree that were written.
    fn node_images(&self) -> BTreeMap<i64, Touched> {
        match self.table.kind.module {
            Module::Rtree | Module::Geopoly => self.touched("node"),
            Module::Fts5 | Module::Fts4 => BTreeMap::new(),
        }
    }

    /// False if row `rowid`, which was there before and is there now, has been moved only.
    fn has_changed(&self, rowid: i64, row: &Touched, nodes: &BTreeMap<i64, Touched>) -> bool {
        let stored = |row: &Option<Range<usize>>| row.as_ref().map(|row| self.buffer.cells(row));
        let (Some(old), Some(new)) = (stored(&row.old), stored(&row.new)) else {
            return true;
        };
        // A stored row is (rowid, node, auxiliary columns).
        let auxiliary = |row| <[Cell]>::get(row, 2..).unwrap_or_default();
        let (old_auxiliary, new_auxiliary) = (auxiliary(old), auxiliary(new));
        let coordinates = match self.table.kind.module {
            Module::Fts5 | Module::Fts4 => return true,
            Module::Rtree => self.table.columns.len().saturating_sub(1 + new_auxiliary.len()),
            // A bounding box in two dimensions.
            Module::Geopoly => 4,
        };
        let mut pairs = old_auxiliary.iter().zip(new_auxiliary);
        if pairs.any(|(old, new)| !self.buffer.same(*old, *new)) {
            return true;
        }
        let node = |row: &[Cell]| match row.get(1) {
            Some(Cell::Integer(number)) => nodes.get(number),
            _ => None,
        };
        let entry = |node: &Option<Range<usize>>| {
            let blob = self.buffer.bytes(*self.buffer.cells(node.as_ref()?).get(1)?);
            node_entry(blob, rowid, coordinates)
        };
        let before = node(old).and_then(|node| entry(&node.old));
        let after = node(new).and_then(|node| entry(&node.new));
        before != after
    }
}

/// Coordinates of the row `rowid` in a node: two bytes depth, two bytes number of entries, then the entries, each of
/// eight bytes rowid and four bytes per coordinate (<https://www.sqlite.org/rtree.html#shadow_tables>).
fn node_entry(node: &[u8], rowid: i64, coordinates: usize) -> Option<&[u8]> {
    let (head, entries) = node.split_at_checked(4)?;
    let count = usize::from(u16::from_be_bytes([*head.get(2)?, *head.get(3)?]));
    entries
        .chunks_exact(8 + 4 * coordinates)
        .take(count)
        .find_map(|entry| entry.strip_prefix(&rowid.to_be_bytes()[..]))
}

fn text(s: &str) -> Value {
    Value::Text(s.as_bytes().to_vec())
}

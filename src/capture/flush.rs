//! Writes captured changes into the change log, inside the transaction that made them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::capture::authorizer::Written;
use crate::capture::buffer::{Buffer, RowChange, RowOp};
use crate::capture::clause::Clause;
use crate::capture::lineage::Writer;
use crate::capture::log::ChangeType;
use crate::capture::programs::{Place, Run};
use crate::capture::reals;
use crate::capture::sqlite::{Db, RawStatement};
use crate::capture::table::{TableCache, TableInfo};
use crate::capture::virtual_table;
use crate::error::Result;
use crate::record::RecordBuilder;

/// Ids of the running transaction.
#[derive(Clone, Copy)]
struct Transaction {
    id: i64,
    next_change: i64,
    time: i64,
}

/// A log row that is ready to be written.
#[derive(Clone, Copy)]
pub(super) struct LogRow<'a> {
    pub change_type: ChangeType,
    pub table: &'a str,
    pub rowid: i64,
    pub before: Option<&'a [u8]>,
    pub after: Option<&'a [u8]>,
    pub updates: Option<&'a [u8]>,
    pub depth: i64,
}

/// How the depth of buffered changes becomes that of log rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth<'a> {
    /// By what the replay of the statement's own changes redoes, see [`Run::places`].
    Redone(Run<'a>),
    /// As SQLite reports it.
    Exact,
}

/// The writing side of the change log on one connection.
pub(super) struct LogWriter {
    db: Db,
    insert: RawStatement,
    last_id: RawStatement,
    cookie: RawStatement,
    transaction: Option<Transaction>,
    writer: Option<SegmentWriter>,
    pub tables: TableCache,
    builder: RecordBuilder,
    records: [Vec<u8>; 3],
}

/// Sees to it that what is written is in a segment of its writer.
struct SegmentWriter {
    writer: Arc<Writer>,
    /// The segment is known to be there.
    is_there: bool,
    find: RawStatement,
    /// Segments from an id on, which hold nothing.
    remove: RawStatement,
    insert: RawStatement,
}

impl SegmentWriter {
    fn new(db: Db, writer: Arc<Writer>) -> Result<Self> {
        Ok(SegmentWriter {
            writer,
            is_there: false,
            find: db.prepare(
                "SELECT count(*) FROM main.turso_sync_local WHERE name = 'lineage ' || ?1 AND value <= ?2",
            )?,
            remove: db.prepare(
                "DELETE FROM main.turso_sync_local WHERE name > 'lineage ' AND name < 'lineage!' AND value >= ?1",
            )?,
            insert: db
                .prepare("INSERT OR REPLACE INTO main.turso_sync_local VALUES ('lineage ' || ?1, ?2)")?,
        })
    }

    /// Begins a segment with the next change, unless this writer has one. (If others have begun some since, that is no
    /// matter: all share the file.)
    fn ensure(&mut self, transaction: &Transaction) -> Result<()> {
        if self.is_there {
            return Ok(());
        }
        let token = self.writer.token(transaction.id - 1);
        self.find.bind_integer(1, token)?;
        self.find.bind_integer(2, transaction.next_change)?;
        if read_integer(&mut self.find)? == 0 {
            self.remove.bind_integer(1, transaction.next_change)?;
            self.remove.run()?;
            self.insert.bind_integer(1, token)?;
            self.insert.bind_integer(2, transaction.next_change)?;
            self.insert.run()?;
        }
        self.is_there = true;
        Ok(())
    }
}

impl<'a> Depth<'a> {
    fn run(self) -> Option<Run<'a>> {
        match self {
            Depth::Redone(run) => Some(run),
            Depth::Exact => None,
        }
    }

    /// The place of a change that stands at `place` by the programs that ran, if they are known.
    fn place(self, place: Option<&Place>, change: &RowChange) -> Place {
        let Some(run) = self.run() else {
            return Place {
                depth: i64::from(change.depth),
                ..Place::default()
            };
        };
        place.cloned().unwrap_or_else(|| run.place(change))
    }
}

impl LogWriter {
    /// Prepares the statements; the connection must be that of a replica, and of `writer`.
    pub fn new(db: Db, writer: Option<Arc<Writer>>) -> Result<LogWriter> {
        Ok(LogWriter {
            db,
            insert: db
                .prepare("INSERT INTO main.turso_cdc VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?,
            last_id: db.prepare(
                "SELECT max(ifnull((SELECT max(change_id) FROM main.turso_cdc), 0),
                   ifnull((SELECT value FROM main.turso_sync_local WHERE name = 'change_floor'), 0))",
            )?,
            cookie: db.prepare("PRAGMA main.schema_version")?,
            transaction: None,
            writer: writer.map(|writer| SegmentWriter::new(db, writer)).transpose()?,
            tables: TableCache::default(),
            builder: RecordBuilder::default(),
            records: Default::default(),
        })
    }

    /// To be called when a transaction has ended, by a commit or not.
    pub fn end_transaction(&mut self, committed: bool) {
        if let (Some(transaction), true) = (self.transaction.take(), committed)
            && let Some(segment) = &self.writer
        {
            segment.writer.committed(transaction.next_change - 1);
        }
    }

    /// To be called before each statement: the one before may have taken back what was written.
    pub fn doubt_segment(&mut self) {
        if let Some(segment) = &mut self.writer {
            segment.is_there = false;
        }
    }

    /// Ids of the running transaction; the write lock must be held, so that nobody else hands out ids.
    fn transaction(&mut self) -> Result<Transaction> {
        if let Some(transaction) = self.transaction {
            return Ok(transaction);
        }
        let next_change = read_integer(&mut self.last_id)? + 1;
        let cookie = read_integer(&mut self.cookie)?;
        self.tables.validate(cookie);
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_secs() as i64);
        let transaction = Transaction {
            id: next_change,
            next_change,
            time,
        };
        self.transaction = Some(transaction);
        Ok(transaction)
    }

    /// Why a statement that writes `written` is refused, if it is. To be asked when it is prepared.
    pub fn refusal(&mut self, written: &[Written]) -> Result<Option<String>> {
        let direct = |w: &&Written| w.trigger.is_none() && w.in_main;
        if written
            .iter()
            .filter(direct)
            .all(|w| self.tables.is_ordinary(&w.table))
        {
            return Ok(None);
        }
        self.db.reading_between(|| {
            if self.transaction.is_none() {
                let cookie = read_integer(&mut self.cookie)?;
                self.tables.validate(cookie);
            }
            virtual_table::refusal(self.db, &mut self.tables, written)
        })
    }

    /// True if the main schema has virtual tables; the write lock must be held.
    pub fn has_virtual_tables(&mut self) -> Result<bool> {
        self.transaction()?;
        self.tables.has_virtual(self.db)
    }

    /// Writes one row under the next id.
    pub fn write(&mut self, row: &LogRow<'_>) -> Result<()> {
        let transaction = self.transaction()?;
        if let Some(segment) = &mut self.writer {
            segment.ensure(&transaction)?;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.next_change += 1;
        }
        let insert = &mut self.insert;
        insert.bind_integer(1, transaction.next_change)?;
        insert.bind_integer(2, transaction.time)?;
        insert.bind_integer(3, transaction.id)?;
        insert.bind_integer(4, row.change_type as i64)?;
        insert.bind_integer(6, row.rowid)?;
        insert.bind_integer(10, row.depth)?;
        // SAFETY: `row` outlives the step below, and nothing steps the statement again without binding anew.
        unsafe {
            insert.bind_borrowed_text(5, row.table)?;
            insert.bind_borrowed_blob(7, row.before)?;
            insert.bind_borrowed_blob(8, row.after)?;
            insert.bind_borrowed_blob(9, row.updates)?;
        }
        insert.run()
    }

    /// Writes all changes of `buffer` that `wanted` accepts by their table. True if there are others in what virtual
    /// tables are stored in; those are left to [`super::virtual_table`].
    pub fn write_changes(
        &mut self,
        buffer: &mut Buffer,
        depth: Depth<'_>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<bool> {
        self.transaction()?;
        let mut infos = Vec::new();
        let mut storage = Vec::new();
        for table in buffer.tables() {
            let info = match wanted(table) {
                true => Some(self.tables.get(self.db, table)?),
                false => None,
            };
            let is_storage = info.as_ref().is_some_and(|info| info.storage.is_some());
            storage.push(is_storage);
            infos.push(info.filter(|_| !is_storage));
        }
        if self.tables.has_virtual_reals(self.db)? {
            reals::correct(self.db, buffer, &infos)?;
        }
        let buffer = &*buffer;
        let info_of = |change: &RowChange| infos.get(change.table).and_then(|info| info.as_deref());
        let places = match depth.run() {
            Some(run) if !buffer.marks().is_empty() => {
                let mut triggers = self.tables.triggers(self.db)?;
                if run.work.step.as_ref().is_some_and(|step| !step.in_main()) {
                    triggers = Arc::new(triggers.with_temporary(self.db)?);
                }
                run.places(buffer, &triggers, |table| storage.get(table) == Some(&false))
            }
            _ => Vec::new(),
        };
        for (i, change) in buffer.changes().iter().enumerate() {
            let Some(info) = info_of(change) else { continue };
            let place = depth.place(places.get(i), change);
            self.write_change(buffer, change, info, depth, &place)?;
        }
        Ok(storage.contains(&true))
    }

    fn write_change(
        &mut self,
        buffer: &Buffer,
        change: &RowChange,
        info: &TableInfo,
        depth: Depth<'_>,
        place: &Place,
    ) -> Result<()> {
        let [mut before, mut after, mut updates] = std::mem::take(&mut self.records);
        for (row, out) in [(&change.old, &mut before), (&change.new, &mut after)] {
            out.clear();
            if let Some(row) = row {
                info.record(buffer, buffer.cells(row), &mut self.builder, out);
            }
        }
        let row = LogRow {
            change_type: ChangeType::Insert,
            table: buffer.table(change.table),
            rowid: if info.without_rowid { 0 } else { change.old_rowid },
            before: None,
            after: None,
            updates: None,
            depth: place.depth,
        };
        let has_key = |row: &Option<_>| row.as_ref().is_some_and(|row| info.has_key(buffer.cells(row)));
        // Without another name, the rowid is what the row is known by.
        let moved = change.op == RowOp::Update
            && change.old_rowid != change.new_rowid
            && !info.without_rowid
            && !(has_key(&change.old) && has_key(&change.new));
        // Without a program that has run, or one that runs again, there is nothing to override.
        let overrides = info.has_triggers && place.depth <= 0 && !buffer.marks().is_empty();
        let clause = place.clause.number().filter(|_| overrides);
        let result = match change.op {
            RowOp::Update if moved => self
                .write(&LogRow {
                    change_type: ChangeType::Delete,
                    before: Some(&before),
                    ..row
                })
                .and_then(|()| {
                    self.write(&LogRow {
                        after: Some(&after),
                        rowid: change.new_rowid,
                        ..row
                    })
                }),
            RowOp::Update => {
                updates.clear();
                let assigned = |column: &str| {
                    let run = depth.run();
                    run.is_some_and(|run| run.assigns(&place.maker, row.table, column))
                };
                self.updates_record(buffer, change, info, assigned, clause, &mut updates);
                self.write(&LogRow {
                    change_type: ChangeType::Update,
                    before: Some(&before),
                    after: Some(&after),
                    updates: Some(&updates),
                    ..row
                })
            }
            RowOp::Insert => {
                updates.clear();
                if let Some(clause) = clause {
                    self.builder.integer(clause);
                    self.builder.finish_into(&mut updates);
                }
                self.write(&LogRow {
                    after: Some(&after),
                    rowid: new_rowid(change, info),
                    updates: clause.is_some().then_some(updates.as_slice()),
                    ..row
                })
            }
            RowOp::Delete => {
                let silent = place.replaced && depth.run().is_some_and(|run| !run.recursive);
                updates.clear();
                self.builder
                    .integer(if place.clause == Clause::None { 2 } else { 1 });
                self.builder.finish_into(&mut updates);
                self.write(&LogRow {
                    change_type: ChangeType::Delete,
                    before: Some(&before),
                    updates: (silent && info.delete_triggers).then_some(updates.as_slice()),
                    ..row
                })
            }
        };
        self.records = [before, after, updates];
        result
    }

    fn updates_record(
        &mut self,
        buffer: &Buffer,
        change: &RowChange,
        info: &TableInfo,
        assigned: impl Fn(&str) -> bool,
        clause: Option<i64>,
        out: &mut Vec<u8>,
    ) {
        let (Some(old), Some(new)) = (&change.old, &change.new) else {
            return;
        };
        let pairs = || {
            info.visible(buffer.cells(old))
                .zip(info.visible(buffer.cells(new)))
        };
        let mut columns = info.columns.iter().filter(|c| !c.generated);
        for (old, new) in pairs() {
            let column = columns.next();
            let same = buffer.same(old, new);
            let kept = same && info.assignment_triggers && column.is_some_and(|c| assigned(&c.name));
            self.builder.integer(if kept { 2 } else { i64::from(!same) });
        }
        for (old, new) in pairs() {
            if buffer.same(old, new) {
                self.builder.null();
            } else {
                buffer.encode(new, &mut self.builder);
            }
        }
        if let Some(clause) = clause {
            self.builder.integer(clause);
        }
        self.builder.finish_into(out);
    }
}

fn new_rowid(change: &RowChange, info: &TableInfo) -> i64 {
    if info.without_rowid { 0 } else { change.new_rowid }
}

fn read_integer(statement: &mut RawStatement) -> Result<i64> {
    let row = statement.step();
    let value = statement.integer(0);
    let reset = statement.reset();
    row?;
    reset?;
    Ok(value)
}

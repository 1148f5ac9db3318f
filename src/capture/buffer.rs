//! Row changes of the running statement, as the preupdate hook saw them.
//!
//! Everything lies in a few growing vectors that are reused from statement to statement, so that a change costs no
//! allocation.

use std::ops::Range;

use crate::record::RecordBuilder;

/// One value of a row; text and blobs lie in the buffer's byte vector.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    /// Bits of the double.
    Real(u64),
    Text(usize, usize),
    Blob(usize, usize),
}

/// What the hook reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOp {
    Insert,
    Update,
    Delete,
}

/// One row change.
#[derive(Debug, Clone)]
pub(super) struct RowChange {
    pub op: RowOp,
    /// Index for [`Buffer::table`].
    pub table: usize,
    /// Trigger programs on the stack.
    pub depth: i32,
    pub old_rowid: i64,
    pub new_rowid: i64,
    pub old: Option<Range<usize>>,
    pub new: Option<Range<usize>>,
}

/// What the trace callback reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A trigger, or a step of one, with this text has started.
    Text(usize),
    /// A foreign-key action has started.
    ForeignKey,
}

/// The changes since the last flush.
#[derive(Default)]
pub(super) struct Buffer {
    cells: Vec<Cell>,
    bytes: Vec<u8>,
    tables: Vec<String>,
    changes: Vec<RowChange>,
    /// Each with the number of changes before it.
    marks: Vec<(usize, Mark)>,
    /// Texts of marks with the addresses where SQLite has them while the statement runs.
    texts: Vec<(usize, String)>,
    /// A value could not be read: the transaction must not commit.
    failed: bool,
}

/// Bytes that an emptied buffer keeps for the next statement.
const KEPT_CAPACITY: usize = 1 << 20;

impl Buffer {
    /// True if there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.failed
    }

    /// True if a change could not be read completely.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Notes that a change could not be read.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Forgets everything, keeping a moderate capacity.
    pub fn clear(&mut self) {
        self.clear_marks();
        self.changes.clear();
        self.cells.clear();
        self.bytes.clear();
        self.tables.clear();
        self.failed = false;
        self.bytes.shrink_to(KEPT_CAPACITY);
        self.cells.shrink_to(KEPT_CAPACITY / size_of::<Cell>());
        self.changes.shrink_to(KEPT_CAPACITY / size_of::<RowChange>());
    }

    /// Forgets the marks of a run that is over.
    pub fn clear_marks(&mut self) {
        self.marks.clear();
        self.texts.clear();
    }

    /// Notes that a trigger or a step of one has started; `address` tells its text from others.
    pub fn push_text_mark(&mut self, address: usize, text: impl FnOnce() -> String) {
        let known = self.texts.iter().position(|(at, _)| *at == address);
        let index = known.unwrap_or_else(|| {
            self.texts.push((address, text()));
            self.texts.len() - 1
        });
        self.marks.push((self.changes.len(), Mark::Text(index)));
    }

    /// Notes that a foreign-key action has started.
    pub fn push_action_mark(&mut self) {
        self.marks.push((self.changes.len(), Mark::ForeignKey));
    }

    /// The marks in order, each with the number of changes before it.
    pub fn marks(&self) -> &[(usize, Mark)] {
        &self.marks
    }

    /// Texts of marks by index.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|(_, text)| text.as_str())
    }

    /// Index of table `name`, usually that of the change before; `None` if it is new and not `wanted`.
    pub fn table_index(&mut self, name: &[u8], wanted: impl FnOnce(&[u8]) -> bool) -> Option<usize> {
        let found = self.tables.iter().rposition(|t| t.as_bytes() == name);
        found.or_else(|| {
            wanted(name).then(|| {
                self.tables.push(String::from_utf8_lossy(name).into_owned());
                self.tables.len() - 1
            })
        })
    }

    /// Name of table `index`.
    pub fn table(&self, index: usize) -> &str {
        self.tables.get(index).map_or("", String::as_str)
    }

    /// Names of all tables with changes, by index.
    pub fn tables(&self) -> &[String] {
        &self.tables
    }

    /// Position where the next cell goes; two of them make a row's range.
    pub fn mark(&self) -> usize {
        self.cells.len()
    }

    /// Appends a value without bytes.
    pub fn push_cell(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    /// Puts another value where one without bytes is.
    pub fn set_cell(&mut self, at: usize, cell: Cell) {
        if let Some(place) = self.cells.get_mut(at) {
            *place = cell;
        }
    }

    /// Appends text.
    pub fn push_text(&mut self, bytes: &[u8]) {
        self.cells.push(Cell::Text(self.bytes.len(), bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a blob.
    pub fn push_blob(&mut self, bytes: &[u8]) {
        self.cells.push(Cell::Blob(self.bytes.len(), bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a change whose rows have been pushed.
    pub fn push_change(&mut self, change: RowChange) {
        self.changes.push(change);
    }

    /// Takes the last change back.
    pub fn pop_change(&mut self) {
        self.changes.pop();
    }

    /// The changes in order.
    pub fn changes(&self) -> &[RowChange] {
        &self.changes
    }

    /// The cells of a row.
    pub fn cells(&self, row: &Range<usize>) -> &[Cell] {
        self.cells.get(row.clone()).unwrap_or(&[])
    }

    fn slice(&self, start: usize, len: usize) -> &[u8] {
        self.bytes.get(start..start + len).unwrap_or(&[])
    }

    /// The bytes of a text or blob; none for other values.
    pub fn bytes(&self, cell: Cell) -> &[u8] {
        match cell {
            Cell::Text(start, len) | Cell::Blob(start, len) => self.slice(start, len),
            _ => &[],
        }
    }

    /// Appends `cell` to a record.
    pub fn encode(&self, cell: Cell, record: &mut RecordBuilder) {
        match cell {
            Cell::Null => record.null(),
            Cell::Integer(v) => record.integer(v),
            Cell::Real(bits) => record.real(f64::from_bits(bits)),
            Cell::Text(start, len) => record.text(self.slice(start, len)),
            Cell::Blob(start, len) => record.blob(self.slice(start, len)),
        }
    }

    /// True if type and bytes are equal.
    pub fn same(&self, a: Cell, b: Cell) -> bool {
        match (a, b) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Integer(a), Cell::Integer(b)) => a == b,
            (Cell::Real(a), Cell::Real(b)) => a == b,
            (Cell::Text(a, n), Cell::Text(b, m)) | (Cell::Blob(a, n), Cell::Blob(b, m)) => {
                self.slice(a, n) == self.slice(b, m)
            }
            _ => false,
        }
    }
}

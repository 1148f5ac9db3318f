//! Who wrote the transactions in the write-ahead log?
//!
//! Each transaction of this library that changes what is synced also adds to the change log, or writes a table in which
//! the replica keeps its own state. What does neither was written by another program. Nothing but raw pages is read:
//! the state of the database behind each transaction is what its frames and those before say, over the main file.
//!
//! A transaction that adds to the change log and changes nothing else does not come from here either.
//!
//! Sources: <https://sqlite.org/fileformat2.html#b_tree_pages>, <https://sqlite.org/fileformat2.html#record_format>.

use std::collections::{HashMap, HashSet};

use crate::capture::log::{CONFLICT_TABLE, LOG_TABLE, STATE_TABLE};
use crate::error::Result;
use crate::pages::main_file::Snapshot;
use crate::pages::wal::WalMark;
use crate::pages::{PAGE_SIZE, Page};
use crate::record::get_varint;

/// Deeper than any b-tree can be.
const MAX_DEPTH: usize = 40;
/// Pages of a b-tree that are looked at to find one that was written.
const MAX_PAGES: usize = 100_000;

/// Number of transactions in the log behind all of `known` that this library did not write. `snapshot` holds the write lock, or
/// nothing depends on transactions that come later.
pub(super) fn count(snapshot: &Snapshot, known: &[WalMark]) -> Result<u32> {
    let commits = snapshot.commits()?;
    let of_this_log = known.iter().filter(|mark| mark.salts == commits.salts);
    let known = of_this_log.map(|mark| mark.frames).max().unwrap_or(0);
    let mut view = View {
        snapshot,
        latest: HashMap::new(),
    };
    let mut begin = 0;
    let mut strangers = 0;
    let mut before: Option<Trees> = None;
    for end in commits.ends {
        let written = commits
            .frames
            .get(begin as usize..end as usize)
            .unwrap_or_default();
        if end <= known {
            view.add(begin, written);
            begin = end;
            continue;
        }
        let old = match before.take() {
            Some(trees) => trees,
            None => Trees::read(&view)?.unwrap_or_default(),
        };
        view.add(begin, written);
        let written: HashSet<u32> = written.iter().copied().collect();
        let new = old.behind(&view, &written)?;
        let ours = match &new {
            Some(new) => new.are_ours(&old, &view, &written)?,
            None => false,
        };
        strangers += u32::from(!ours);
        before = Some(new.unwrap_or_default());
        begin = end;
    }
    Ok(strangers)
}

/// The database as of a frame of the log.
struct View<'a> {
    snapshot: &'a Snapshot,
    /// For each page its newest frame.
    latest: HashMap<u32, u32>,
}

impl View<'_> {
    fn add(&mut self, first: u32, pages: &[u32]) {
        self.latest.extend(pages.iter().copied().zip(first..));
    }

    /// The page, or `None` if there is none.
    fn page(&self, page_no: u32) -> Result<Option<Node>> {
        if page_no == 0 {
            return Ok(None);
        }
        let mut page = Box::new([0; PAGE_SIZE]);
        let there = match self.latest.get(&page_no) {
            Some(frame) => self.snapshot.frame_page(*frame, &mut page)?,
            None => self.snapshot.file_page(page_no, &mut page)?,
        };
        let header = if page_no == 1 { 100 } else { 0 };
        Ok(there.then_some(Node { page, header }))
    }
}

/// What is known of the library's tables behind a transaction.
#[derive(Debug, Clone, Default)]
struct Trees {
    /// The pages of the schema.
    schema: HashSet<u32>,
    cookie: u32,
    log: u32,
    state: u32,
    conflicts: u32,
    /// The largest change id in the log; 0 if it is empty.
    last_change_id: i64,
    /// Pages from the root of the log to its last leaf.
    edge: Vec<u32>,
}

impl Trees {
    /// `None` if the pages make no sense.
    fn read(view: &View<'_>) -> Result<Option<Trees>> {
        let mut trees = Trees::default();
        let Some(first) = view.page(1)? else {
            return Ok(Some(trees));
        };
        trees.cookie = first.word(40).unwrap_or_default();
        let complete = each_page(view, 1, &mut |page_no, node| {
            trees.schema.insert(page_no);
            for at in node.leaf_cells() {
                if let Some((name, root)) = node.schema_row(at) {
                    match name {
                        _ if name == LOG_TABLE.as_bytes() => trees.log = root,
                        _ if name == STATE_TABLE.as_bytes() => trees.state = root,
                        _ if name == CONFLICT_TABLE.as_bytes() => trees.conflicts = root,
                        _ => {}
                    }
                }
            }
            false
        })?;
        Ok(match complete.is_some() {
            true => trees.read_edge(view)?,
            false => None,
        })
    }

    /// Follows the log to its last entry.
    fn read_edge(mut self, view: &View<'_>) -> Result<Option<Trees>> {
        self.edge.clear();
        self.last_change_id = 0;
        let mut page_no = self.log;
        if page_no == 0 {
            return Ok(Some(self));
        }
        while self.edge.len() < MAX_DEPTH {
            self.edge.push(page_no);
            let Some(node) = view.page(page_no)? else {
                return Ok(None);
            };
            match node.kind() {
                Some(Kind::TableInterior) => page_no = node.right_child().unwrap_or_default(),
                Some(Kind::TableLeaf) => {
                    let last = node.leaf_cells().last();
                    self.last_change_id = match last.map(|at| node.rowid(at)) {
                        Some(Some(rowid)) => rowid,
                        Some(None) => return Ok(None),
                        None => 0,
                    };
                    return Ok(Some(self));
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The same behind a transaction that has written the pages `written`.
    fn behind(&self, view: &View<'_>, written: &HashSet<u32>) -> Result<Option<Trees>> {
        if written.contains(&1) || self.schema.is_empty() || !self.schema.is_disjoint(written) {
            return Trees::read(view);
        }
        if self.edge.iter().any(|page_no| written.contains(page_no)) {
            return self.clone().read_edge(view);
        }
        Ok(Some(self.clone()))
    }

    /// Whether the transaction that has written the pages `written`, and led from `old` to this, is one of this library.
    fn are_ours(&self, old: &Trees, view: &View<'_>, written: &HashSet<u32>) -> Result<bool> {
        for root in [self.state, self.conflicts] {
            if root != 0 && each_page(view, root, &mut |page_no, _| written.contains(&page_no))? == Some(true)
            {
                return Ok(true);
            }
        }
        if self.last_change_id <= old.last_change_id {
            return Ok(false);
        }
        let other =
            |page_no: &u32| *page_no != 1 && !self.edge.contains(page_no) && !old.edge.contains(page_no);
        Ok(self.cookie != old.cookie || written.iter().any(other))
    }
}

/// Calls `found` for each page of the b-tree at `root`, without overflow pages, until it says true. `Some(true)` if it
/// did; `None` if the pages make no sense.
fn each_page(view: &View<'_>, root: u32, found: &mut dyn FnMut(u32, &Node) -> bool) -> Result<Option<bool>> {
    let mut waiting = vec![root];
    for _ in 0..MAX_PAGES {
        let Some(page_no) = waiting.pop() else {
            return Ok(Some(false));
        };
        let Some(node) = view.page(page_no)? else {
            return Ok(None);
        };
        if found(page_no, &node) {
            return Ok(Some(true));
        }
        match node.kind() {
            Some(Kind::TableInterior | Kind::IndexInterior) => {
                waiting.extend(node.cells().filter_map(|at| node.word(at)));
                waiting.extend(node.right_child());
            }
            Some(_) => {}
            None => return Ok(None),
        }
    }
    Ok(None)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TableInterior,
    TableLeaf,
    IndexInterior,
    IndexLeaf,
}

/// A page of a b-tree. Whatever it holds, nothing behind its end is read.
struct Node {
    page: Box<Page>,
    /// Where the header is.
    header: usize,
}

impl Node {
    fn kind(&self) -> Option<Kind> {
        match self.page.get(self.header)? {
            2 => Some(Kind::IndexInterior),
            5 => Some(Kind::TableInterior),
            10 => Some(Kind::IndexLeaf),
            13 => Some(Kind::TableLeaf),
            _ => None,
        }
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.page.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn short(&self, at: usize) -> Option<usize> {
        let bytes = self.page.get(at..at.checked_add(2)?)?;
        Some(usize::from(u16::from_be_bytes(bytes.try_into().ok()?)))
    }

    fn right_child(&self) -> Option<u32> {
        self.word(self.header + 8)
    }

    /// Where the cells are, in the order of their keys.
    fn cells(&self) -> impl Iterator<Item = usize> + '_ {
        let array = self.header
            + match self.kind() {
                Some(Kind::TableInterior | Kind::IndexInterior) => 12,
                _ => 8,
            };
        let count = self.short(self.header + 3).unwrap_or_default();
        (0..count).filter_map(move |i| self.short(array + 2 * i))
    }

    /// The cells of a leaf of a table; none for other pages.
    fn leaf_cells(&self) -> impl Iterator<Item = usize> + '_ {
        let is_leaf = self.kind() == Some(Kind::TableLeaf);
        self.cells().filter(move |_| is_leaf)
    }

    fn varint(&self, at: &mut usize) -> Option<u64> {
        let (value, len) = get_varint(self.page.get(*at..)?)?;
        *at += len;
        Some(value)
    }

    /// The rowid of the cell at `at` of a leaf.
    fn rowid(&self, mut at: usize) -> Option<i64> {
        self.varint(&mut at)?;
        self.varint(&mut at).map(|rowid| rowid as i64)
    }

    /// Name and root page of the schema's row in the cell at `at`.
    fn schema_row(&self, mut at: usize) -> Option<(&[u8], u32)> {
        self.varint(&mut at)?;
        self.varint(&mut at)?;
        let record = at;
        let mut body = record.checked_add(usize::try_from(self.varint(&mut at)?).ok()?)?;
        let (mut name, mut root) = (None, None);
        for column in 0..4 {
            let serial = self.varint(&mut at)?;
            let len = match serial {
                0 | 8 | 9 => 0,
                1..=4 => serial as usize,
                5 => 6,
                6 | 7 => 8,
                _ => usize::try_from((serial.checked_sub(12)?) / 2).ok()?,
            };
            let end = body.checked_add(len)?;
            let bytes = self.page.get(body..end)?;
            match column {
                1 => name = Some(bytes),
                3 if serial == 9 => root = Some(1),
                3 => root = Some(bytes.iter().fold(0u32, |n, b| n << 8 | u32::from(*b))),
                _ => {}
            }
            body = end;
        }
        Some((name?, root?))
    }
}

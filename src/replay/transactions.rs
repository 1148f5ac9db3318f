//! Reads the change log one local transaction at a time.

use std::collections::VecDeque;

use rusqlite::Connection;

use crate::capture::log::{LogEntry, read_entries};
use crate::error::Result;

const PAGE_ENTRIES: usize = 1000;

/// The transactions of a change log in order. Holds one page of entries, and one transaction whole.
pub struct Transactions<'a> {
    conn: &'a Connection,
    after: i64,
    page: VecDeque<LogEntry>,
    page_entries: usize,
}

impl<'a> Transactions<'a> {
    /// Starts behind the change `after`.
    pub fn new(conn: &'a Connection, after: i64) -> Self {
        Self::with_page(conn, after, PAGE_ENTRIES)
    }

    fn with_page(conn: &'a Connection, after: i64, page_entries: usize) -> Self {
        Transactions {
            conn,
            after,
            page: VecDeque::new(),
            page_entries,
        }
    }

    /// All entries of the next transaction; `None` at the end of the log.
    pub fn next_transaction(&mut self) -> Result<Option<Vec<LogEntry>>> {
        let mut entries: Vec<LogEntry> = Vec::new();
        loop {
            if self.page.is_empty() {
                self.page = read_entries(self.conn, self.after, self.page_entries)?.into();
            }
            let same = |e: &LogEntry| entries.first().is_none_or(|first| first.txn_id == e.txn_id);
            match self.page.pop_front_if(|e| same(e)) {
                Some(entry) => {
                    self.after = entry.change_id;
                    entries.push(entry);
                }
                None if entries.is_empty() => return Ok(None),
                None => return Ok(Some(entries)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::log::{ChangeType, create_local_tables, write_entry};

    #[test]
    fn transactions_come_whole_across_pages() {
        let conn = Connection::open_in_memory().unwrap();
        create_local_tables(&conn).unwrap();
        for (change_id, txn_id) in [(1, 1), (2, 1), (3, 1), (5, 5), (8, 8), (9, 8)] {
            let entry = LogEntry {
                change_id,
                change_time: 0,
                txn_id,
                change_type: ChangeType::Delete,
                table: "t".into(),
                rowid: 1,
                before: None,
                after: None,
                updates: None,
                depth: 0,
            };
            write_entry(&conn, &entry).unwrap();
        }
        for page in 1..8 {
            let mut transactions = Transactions::with_page(&conn, 1, page);
            let mut seen = Vec::new();
            while let Some(entries) = transactions.next_transaction().unwrap() {
                seen.push(entries.iter().map(|e| e.change_id).collect::<Vec<_>>());
            }
            assert_eq!(seen, [vec![2, 3], vec![5], vec![8, 9]]);
        }
    }
}

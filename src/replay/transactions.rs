//! Reads the change log one local transaction at a time.

use std::collections::VecDeque;
use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension};

use crate::capture::log::{LOG_TABLE, LogEntry, read_entries_of};
use crate::error::Result;

const PAGE_ENTRIES: usize = 1000;

/// The transactions of a change log in order. Memory: a page of entries, whatever a transaction holds.
pub struct Transactions<'a> {
    log: Log<'a>,
    after: i64,
    page: VecDeque<LogEntry>,
}

/// A table of the layout of the change log.
#[derive(Clone, Copy)]
struct Log<'a> {
    conn: &'a Connection,
    table: &'static str,
    page_entries: usize,
}

impl Log<'_> {
    fn read(&self, after: i64) -> Result<VecDeque<LogEntry>> {
        Ok(read_entries_of(self.conn, self.table, after, self.page_entries)?.into())
    }

    /// Id of the last entry of the transaction `txn_id`, one of whose entries is `from`.
    fn end_of(&self, txn_id: i64, from: i64) -> Result<i64> {
        let table = self.table;
        let next = format!(
            "SELECT change_id FROM {table} WHERE change_id > ?1 AND change_txn_id <> ?2 ORDER BY change_id LIMIT 1"
        );
        let next: Option<i64> = self
            .conn
            .query_row(&next, (from, txn_id), |row| row.get(0))
            .optional()?;
        // Two texts: with one that does without `next` on some condition, SQLite would not look it up, but search from the end.
        let last = format!("SELECT max(change_id) FROM {table}");
        Ok(match next {
            Some(next) => {
                let last = format!("{last} WHERE change_id < ?1");
                self.conn.query_row(&last, [next], |row| row.get(0))?
            }
            None => self.conn.query_row(&last, [], |row| row.get(0))?,
        })
    }
}

impl<'a> Transactions<'a> {
    /// Starts behind the change `after`.
    pub fn new(conn: &'a Connection, after: i64) -> Self {
        Self::of_table(conn, LOG_TABLE, after)
    }

    /// The same for another table of the same layout.
    pub(super) fn of_table(conn: &'a Connection, table: &'static str, after: i64) -> Self {
        Self::with_page(conn, table, after, PAGE_ENTRIES)
    }

    fn with_page(conn: &'a Connection, table: &'static str, after: i64, page_entries: usize) -> Self {
        Transactions {
            log: Log {
                conn,
                table,
                page_entries,
            },
            after,
            page: VecDeque::new(),
        }
    }

    /// The next transaction; `None` at the end of the log.
    pub fn next_transaction(&mut self) -> Result<Option<Transaction<'a>>> {
        let mut head: Vec<Rc<LogEntry>> = Vec::new();
        loop {
            if self.page.is_empty() {
                self.page = self.log.read(self.after)?;
            }
            let txn_id = match (head.first(), self.page.front()) {
                (Some(first), _) => first.txn_id,
                (None, Some(entry)) => entry.txn_id,
                (None, None) => return Ok(None),
            };
            let read = head.len();
            while let Some(entry) = self.page.pop_front_if(|entry| entry.txn_id == txn_id) {
                self.after = entry.change_id;
                head.push(Rc::new(entry));
            }
            let ended = !self.page.is_empty() || head.len() == read;
            // The second page of it, or the first if there was nothing else on it.
            if !ended && (read > 0 || head.len() >= self.log.page_entries) {
                let rest = Some((self.log, self.after));
                self.after = self.log.end_of(txn_id, self.after)?;
                return Ok(Transaction::new(head, rest, Some(self.after)));
            }
            if ended {
                return Ok(Transaction::new(head, None, None));
            }
        }
    }
}

/// One local transaction. Its entries are read as they are needed, and may be gone through several times.
pub struct Transaction<'a> {
    first: Rc<LogEntry>,
    last_change_id: i64,
    /// All entries, or those before `rest`.
    head: Vec<Rc<LogEntry>>,
    /// Where the other entries are, and behind which id.
    rest: Option<(Log<'a>, i64)>,
}

impl<'a> Transaction<'a> {
    fn new(head: Vec<Rc<LogEntry>>, rest: Option<(Log<'a>, i64)>, last: Option<i64>) -> Option<Self> {
        Some(Transaction {
            first: head.first()?.clone(),
            last_change_id: last.or(head.last().map(|entry| entry.change_id))?,
            head,
            rest,
        })
    }

    /// A transaction of these entries; `None` if there are none.
    pub(super) fn of(entries: impl Iterator<Item = LogEntry>) -> Option<Self> {
        Self::new(entries.map(Rc::new).collect(), None, None)
    }

    /// Its id.
    pub fn txn_id(&self) -> i64 {
        self.first.txn_id
    }

    /// Its first entry.
    pub fn first(&self) -> &Rc<LogEntry> {
        &self.first
    }

    /// Id of its last entry.
    pub fn last_change_id(&self) -> i64 {
        self.last_change_id
    }

    /// The entries in order.
    pub fn entries(&self) -> impl Iterator<Item = Result<Rc<LogEntry>>> + '_ {
        let rest = self.rest.map(|(log, after)| Rest {
            log,
            after,
            last: self.last_change_id,
            page: VecDeque::new(),
        });
        self.head
            .iter()
            .cloned()
            .map(Ok)
            .chain(rest.into_iter().flatten())
    }
}

/// Entries that are not in memory yet.
struct Rest<'a> {
    log: Log<'a>,
    after: i64,
    last: i64,
    page: VecDeque<LogEntry>,
}

impl Iterator for Rest<'_> {
    type Item = Result<Rc<LogEntry>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty() && self.after < self.last {
            match self.log.read(self.after) {
                Ok(page) => self.page = page,
                Err(e) => {
                    self.after = self.last;
                    return Some(Err(e));
                }
            }
        }
        let entry = self.page.pop_front_if(|entry| entry.change_id <= self.last)?;
        self.after = entry.change_id;
        Some(Ok(Rc::new(entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::log::{ChangeType, create_local_tables, write_entry};

    fn write(conn: &Connection, change_id: i64, txn_id: i64) {
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
        write_entry(conn, &entry).unwrap();
    }

    /// SQLite's work for reading a log of `count` transactions, each longer than a page of entries.
    fn work(count: i64) -> u64 {
        let conn = Connection::open_in_memory().unwrap();
        create_local_tables(&conn).unwrap();
        for change_id in 1..=count * 3 {
            write(&conn, change_id, (change_id - 1) / 3 * 3 + 1);
        }
        let steps = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = steps.clone();
        conn.progress_handler(
            1,
            Some(move || counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == u64::MAX),
        )
        .unwrap();
        let mut transactions = Transactions::with_page(&conn, LOG_TABLE, 0, 2);
        let mut found = 0;
        while transactions.next_transaction().unwrap().is_some() {
            found += 1;
        }
        assert_eq!(found, count);
        steps.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn twice_as_many_transactions_are_twice_the_work() {
        let (few, many) = (work(200), work(400));
        assert!(many < few * 5 / 2, "{few} and {many}");
    }

    #[test]
    fn transactions_come_whole_across_pages() {
        let conn = Connection::open_in_memory().unwrap();
        create_local_tables(&conn).unwrap();
        for (change_id, txn_id) in [
            (1, 1),
            (2, 1),
            (3, 1),
            (5, 5),
            (8, 8),
            (9, 8),
            (10, 8),
            (11, 8),
            (12, 8),
            (13, 13),
        ] {
            write(&conn, change_id, txn_id);
        }
        for page in 1..12 {
            let mut transactions = Transactions::with_page(&conn, LOG_TABLE, 1, page);
            let mut seen = Vec::new();
            while let Some(transaction) = transactions.next_transaction().unwrap() {
                let ids = || {
                    transaction
                        .entries()
                        .map(|e| e.unwrap().change_id)
                        .collect::<Vec<_>>()
                };
                seen.push(ids());
                assert_eq!(seen.last(), Some(&ids()));
                assert_eq!(ids().first(), Some(&transaction.first().change_id));
                assert_eq!(ids().last(), Some(&transaction.last_change_id()));
            }
            assert_eq!(seen, [vec![2, 3], vec![5], vec![8, 9, 10, 11, 12], vec![13]]);
        }
    }
}

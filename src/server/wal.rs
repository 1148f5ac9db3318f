//! Which pages a write-ahead log holds (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>).
//!
//! The file is read through its own handle: SQLite holds no POSIX locks on `-wal`, so closing it drops none.
//! Read it only while holding SQLite's write lock; then everything up to the last valid commit frame is final.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::protocol::PAGE_SIZE;

const HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 24;
const FRAME_LEN: u64 = (FRAME_HEADER_LEN + PAGE_SIZE) as u64;
/// Magic number without the lowest bit, which says that checksums are taken over big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// A place in a write-ahead log, right after a commit frame (or after the header).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Salts of the log's header: they change whenever the log starts over.
    pub salts: u64,
    /// Frames before this place.
    pub frames: u64,
    /// Running checksum at this place.
    pub checksum: (u32, u32),
}

/// What a scan found.
#[derive(Debug)]
pub struct Scan {
    /// The log still contains the place where the scan was to begin. If not, it was read from its beginning, and
    /// frames may have come and gone unseen.
    pub continued: bool,
    /// After the last commit frame.
    pub position: Position,
    /// Page numbers (from 1) in committed frames after the start.
    pub pages: RoaringBitmap,
    /// Smallest database size, in pages, after any of these commits.
    pub smallest: Option<u32>,
}

/// Reads the committed frames after `from`, of which SQLite says that they are `committed` with those before. (The frames of
/// a commit that failed may follow. They are none now, but a restart would find them.) A missing or empty log is one that
/// does not continue `from`.
pub fn scan(path: &Path, from: Position, committed: u64) -> Result<Scan> {
    let fail = |e: std::io::Error| Error::io("read the write-ahead log", &e);
    let mut scan = Scan {
        continued: false,
        position: Position::default(),
        pages: RoaringBitmap::new(),
        smallest: None,
    };
    let mut file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(scan),
        other => BufReader::with_capacity(64 << 10, other.map_err(fail)?),
    };
    let mut header = [0; HEADER_LEN];
    if !fill(&mut file, &mut header).map_err(fail)? {
        return Ok(scan);
    }
    let Some((mut at, big_endian)) = parse_header(&header)? else {
        return Ok(scan);
    };
    if at.salts == from.salts && contains(&mut file, from, at).map_err(fail)? {
        scan.continued = true;
        at = from;
    }
    scan.position = at;
    file.seek(SeekFrom::Start(HEADER_LEN as u64 + at.frames * FRAME_LEN))
        .map_err(fail)?;
    let mut frame = [0; FRAME_LEN as usize];
    let mut uncommitted = RoaringBitmap::new();
    while at.frames < committed && fill(&mut file, &mut frame).map_err(fail)? {
        let (head, page) = frame.split_at(FRAME_HEADER_LEN);
        let sum = checksum(checksum(at.checksum, &head[..8], big_endian), page, big_endian);
        if u64_at(head, 8) != at.salts || sum != sum_at(head) {
            break;
        }
        at.frames += 1;
        at.checksum = sum;
        uncommitted.insert(u32_at(head, 0));
        let size = u32_at(head, 4);
        if size != 0 {
            scan.pages |= std::mem::take(&mut uncommitted);
            scan.smallest = Some(scan.smallest.map_or(size, |s| s.min(size)));
            scan.position = at;
        }
    }
    Ok(scan)
}

/// Position after the header and byte order of the checksums; `None` if the header is not valid.
fn parse_header(header: &[u8; HEADER_LEN]) -> Result<Option<(Position, bool)>> {
    let magic = u32_at(header, 0);
    let big_endian = magic & 1 == 1;
    let sum = checksum((0, 0), &header[..24], big_endian);
    if magic & !1 != MAGIC || sum != (u32_at(header, 24), u32_at(header, 28)) {
        return Ok(None);
    }
    let page_size = u32_at(header, 8);
    if page_size as usize != PAGE_SIZE {
        return Err(Error::corrupt(format!(
            "the write-ahead log has pages of {page_size} bytes"
        )));
    }
    Ok(Some((
        Position {
            salts: u64_at(header, 16),
            frames: 0,
            checksum: sum,
        },
        big_endian,
    )))
}

/// Whether the frame before `from` is still the one that was there; `start` is the log's beginning.
fn contains(file: &mut BufReader<File>, from: Position, start: Position) -> std::io::Result<bool> {
    let Some(last) = from.frames.checked_sub(1) else {
        return Ok(from == start);
    };
    let mut head = [0; FRAME_HEADER_LEN];
    file.seek(SeekFrom::Start(HEADER_LEN as u64 + last * FRAME_LEN))?;
    Ok(fill(file, &mut head)? && u64_at(&head, 8) == from.salts && sum_at(&head) == from.checksum)
}

/// Fills `buf`; false if the file ends before.
fn fill(file: &mut impl Read, buf: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(buf) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// SQLite's checksum over pairs of words.
fn checksum((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let word = |w: &[u8]| match (<[u8; 4]>::try_from(w), big_endian) {
        (Ok(w), true) => u32::from_be_bytes(w),
        (Ok(w), false) => u32::from_le_bytes(w),
        (Err(_), _) => 0,
    };
    for pair in bytes.chunks_exact(8) {
        let (x, y) = pair.split_at(4);
        a = a.wrapping_add(word(x)).wrapping_add(b);
        b = b.wrapping_add(word(y)).wrapping_add(a);
    }
    (a, b)
}

fn sum_at(frame_head: &[u8]) -> (u32, u32) {
    (u32_at(frame_head, 16), u32_at(frame_head, 20))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

/// Big-endian word at `at`; callers pass fixed-size buffers.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|w| <[u8; 4]>::try_from(w).ok());
    u32::from_be_bytes(word.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn open(dir: &tempfile::TempDir) -> Connection {
        let conn = Connection::open(dir.path().join("a.db")).unwrap();
        conn.execute_batch("PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0")
            .unwrap();
        conn
    }

    #[test]
    fn finds_what_was_committed_since() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("a.db-wal");
        assert!(!scan(&wal, Position::default(), u64::MAX).unwrap().continued);
        let conn = open(&dir);
        conn.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
            .unwrap();
        let first = scan(&wal, Position::default(), u64::MAX).unwrap();
        assert!(!first.continued);
        assert_eq!(first.pages, RoaringBitmap::from([1, 2]));
        conn.execute_batch("UPDATE t SET x=2").unwrap();
        let second = scan(&wal, first.position, u64::MAX).unwrap();
        assert!(second.continued);
        assert_eq!(second.pages, RoaringBitmap::from([2]));
        assert_eq!(second.smallest, Some(2));
        let third = scan(&wal, second.position, u64::MAX).unwrap();
        assert!(third.continued && third.pages.is_empty());
        assert_eq!(third.position, second.position);
    }

    #[test]
    fn rolled_back_frames_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("a.db-wal");
        let conn = open(&dir);
        conn.execute_batch("CREATE TABLE t(x); PRAGMA cache_size=5; PRAGMA cache_spill=1")
            .unwrap();
        let before = scan(&wal, Position::default(), u64::MAX).unwrap();
        let len = std::fs::metadata(&wal).unwrap().len();
        conn.execute_batch(
            "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 500)
             INSERT INTO t SELECT zeroblob(1000) FROM n; ROLLBACK",
        )
        .unwrap();
        assert!(
            std::fs::metadata(&wal).unwrap().len() > len,
            "the transaction spilled"
        );
        let after = scan(&wal, before.position, u64::MAX).unwrap();
        assert!(after.continued && after.pages.is_empty());
        conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(
            scan(&wal, before.position, u64::MAX).unwrap().pages,
            RoaringBitmap::from([2])
        );
    }

    #[test]
    fn a_log_that_started_over_does_not_continue() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("a.db-wal");
        let conn = open(&dir);
        conn.execute_batch("CREATE TABLE t(x)").unwrap();
        let before = scan(&wal, Position::default(), u64::MAX).unwrap().position;
        conn.execute_batch("PRAGMA wal_checkpoint").unwrap();
        assert!(
            scan(&wal, before, u64::MAX).unwrap().continued,
            "a checkpoint alone keeps the frames"
        );
        conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        let after = scan(&wal, before, u64::MAX).unwrap();
        assert!(!after.continued);
        assert_eq!(after.pages, RoaringBitmap::from([2]));
        std::fs::write(&wal, b"garbage garbage garbage garbage garbage").unwrap();
        assert!(!scan(&wal, before, u64::MAX).unwrap().continued);
    }
}

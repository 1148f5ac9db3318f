//! Which pages a write-ahead log holds, read from its frames: <https://sqlite.org/fileformat2.html#walformat>.

use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::pages::PAGE_SIZE;
use crate::pages::main_file::RawFile;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const FRAME: usize = FRAME_HEADER + PAGE_SIZE;
const FRAMES_PER_READ: usize = 64;
const MAGIC: u32 = 0x377f_0682;

/// Names a state of the write-ahead log: `frames` committed frames after the reset that chose `salts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalMark {
    /// What the log was given when it began anew.
    pub salts: u64,
    /// Frames up to the end of a transaction.
    pub frames: u32,
}

/// What the log holds up to its last commit.
#[derive(Debug, Default)]
pub(super) struct WalIndex {
    pub mark: WalMark,
    /// Page numbers of all committed frames, whether or not they have been checkpointed already.
    pub pages: RoaringBitmap,
}

/// Where the image of frame `frame` (from 0) is in the file.
pub(super) fn image_offset(frame: u32) -> u64 {
    HEADER as u64 + u64::from(frame) * FRAME as u64 + FRAME_HEADER as u64
}

/// Reads up to `committed` frames of the log through SQLite's own file handle. Complete only while the write lock is held.
/// Frames behind the last commit (rolled back, or of an earlier use of the file) end the scan: their salts or checksums do
/// not fit.
pub(super) fn scan(file: &RawFile, committed: u32) -> Result<WalIndex> {
    let mut index = WalIndex::default();
    let mut uncommitted = Vec::new();
    index.mark.salts = each_frame(file, committed, |page_no, ends, frames| {
        uncommitted.push(page_no);
        if ends {
            index.pages.extend(uncommitted.drain(..));
            index.mark.frames = frames;
        }
    })?;
    Ok(index)
}

/// The page numbers of all frames up to the last commit, in order, and for each commit the number of frames up to it.
#[derive(Debug, Default)]
pub(super) struct WalCommits {
    pub salts: u64,
    pub frames: Vec<u32>,
    pub ends: Vec<u32>,
}

/// The transactions in the log; complete as [`scan`] is. Memory: four bytes per frame.
pub(super) fn commits(file: &RawFile, committed: u32) -> Result<WalCommits> {
    let mut commits = WalCommits::default();
    commits.salts = each_frame(file, committed, |page_no, ends, frames| {
        commits.frames.push(page_no);
        if ends {
            commits.ends.push(frames);
        }
    })?;
    commits
        .frames
        .truncate(commits.ends.last().map_or(0, |end| *end as usize));
    Ok(commits)
}

/// Calls `each` with page number, end of a transaction, and number of frames so far, for all valid frames among the first
/// `committed`; the salts of the log.
fn each_frame(file: &RawFile, committed: u32, mut each: impl FnMut(u32, bool, u32)) -> Result<u64> {
    let size = file.size()?;
    let mut header = [0u8; HEADER];
    if size < HEADER as u64 || !file.read(&mut header, 0)? {
        return Ok(0);
    }
    let Some(mut check) = Checksum::of_header(&header) else {
        return Ok(0);
    };
    if word(&header, 8) as usize != PAGE_SIZE {
        return Err(Error::corrupt(
            "the write-ahead log has another page size than 4096",
        ));
    }
    let log_salts = salts(&header, 16);
    let mut frames = 0u32;
    let mut offset = HEADER as u64;
    let mut chunk = vec![0u8; FRAME * FRAMES_PER_READ];
    loop {
        let whole = (size.saturating_sub(offset) / FRAME as u64).min(FRAMES_PER_READ as u64) as usize;
        let chunk = &mut chunk[..whole * FRAME];
        if whole == 0 || !file.read(chunk, offset)? {
            return Ok(log_salts);
        }
        for frame in chunk.chunks_exact(FRAME) {
            if frames == committed || salts(frame, 8) != log_salts || !check.accepts(frame) {
                return Ok(log_salts);
            }
            frames += 1;
            each(word(frame, 0), word(frame, 4) != 0, frames);
        }
        offset += chunk.len() as u64;
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn salts(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) << 32 | u64::from(word(bytes, at + 4))
}

/// The running checksum over header and frames; the magic number says in which byte order it takes its words.
struct Checksum {
    big_endian: bool,
    sums: (u32, u32),
}

impl Checksum {
    fn of_header(header: &[u8; HEADER]) -> Option<Self> {
        let magic = word(header, 0);
        let mut check = Checksum {
            big_endian: magic & 1 == 1,
            sums: (0, 0),
        };
        check.add(&header[..24]);
        let valid = magic & !1 == MAGIC && check.sums == (word(header, 24), word(header, 28));
        valid.then_some(check)
    }

    fn accepts(&mut self, frame: &[u8]) -> bool {
        self.add(&frame[..8]);
        self.add(&frame[FRAME_HEADER..]);
        self.sums == (word(frame, 16), word(frame, 20))
    }

    fn add(&mut self, bytes: &[u8]) {
        let big_endian = self.big_endian;
        let (mut a, mut b) = self.sums;
        let take = |pair: &[u8], at: usize| {
            let value = word(pair, at);
            if big_endian { value } else { value.swap_bytes() }
        };
        for pair in bytes.chunks_exact(8) {
            a = a.wrapping_add(take(pair, 0)).wrapping_add(b);
            b = b.wrapping_add(take(pair, 4)).wrapping_add(a);
        }
        self.sums = (a, b);
    }
}

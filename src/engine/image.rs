//! The main file of a new replica while it is being downloaded: pages at their place in `<db>-changes`, and notes of
//! what has arrived in `<db>-download`, so that an interrupted download goes on where it stopped, also after the end
//! of the process.
//!
//! The notes are a line of JSON and eight bytes per page: its number and a checksum of its image. Nothing is synced before
//! the end; a page whose image does not fit its checksum has not arrived.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::metadata::BootstrapMark;
use crate::error::{Error, Result};
use crate::io::files;
use crate::pages::{PAGE_SIZE, Page, check_first_page};
use crate::protocol::pull::{PullHeader, PullUpdatesRequest};
use crate::protocol::selector;

/// SQLite leaves this page out, for its locks: <https://sqlite.org/fileformat2.html#the_lock_byte_page>.
const LOCK_PAGE: u32 = (1 << 30) / PAGE_SIZE as u32 + 1;
/// Bytes of a note.
const NOTE: usize = 8;
/// Most pages that are asked for at once: what a remote claims about its size must not cost memory.
const PAGES_AT_ONCE: u32 = 1 << 20;
/// Pages that arrive between two writes of notes: as much is fetched again after a crash.
const NOTES_AT_ONCE: usize = 32;

/// What is being downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Target {
    /// URL of the remote: parts of two databases must never be mixed.
    remote: String,
    revision: String,
    pages: u32,
}

/// How the remote is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// For the newest revision.
    Newest,
    /// For what is missing of the revision that has begun.
    Pinned,
    /// For what has changed since: the remote has that revision no more.
    CatchUp,
}

/// Receives the pages of a whole database in any order. Memory: some twenty bytes per page that has arrived.
pub struct Image {
    file: File,
    path: PathBuf,
    notes_path: PathBuf,
    remote: Option<String>,
    mode: Mode,
    target: Option<Target>,
    /// The target is from the notes, and the remote may have become another one since.
    from_notes: bool,
    /// Where a catch-up leads, once the remote has told.
    next_target: Option<Target>,
    /// The remote says that the catch-up needs no page.
    nothing_to_send: bool,
    /// Pages of the target that are there.
    seen: RoaringBitmap,
    /// Pages that the present answer has brought.
    arrived: RoaringBitmap,
    /// No page before this one is missing.
    first_missing: u32,
    /// Checksums of the pages that were written, by page number.
    sums: HashMap<u32, u32>,
    notes: Option<File>,
    unwritten: Vec<u8>,
}

impl Image {
    /// Goes on with the download that was interrupted at `path`, or begins one. Only a download from a `remote` that is
    /// known can go on.
    pub fn resume(path: &Path, notes_path: &Path, remote: Option<&str>) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path);
        let mut image = Image {
            file: file.map_err(|e| Error::io(format!("create {}", path.display()), &e))?,
            path: path.to_owned(),
            notes_path: notes_path.to_owned(),
            remote: remote.map(str::to_owned),
            mode: Mode::Newest,
            target: None,
            from_notes: false,
            next_target: None,
            nothing_to_send: false,
            seen: RoaringBitmap::new(),
            arrived: RoaringBitmap::new(),
            first_missing: 1,
            sums: HashMap::new(),
            notes: None,
            unwritten: Vec::new(),
        };
        if !image.read_notes()? {
            image.clear()?;
        }
        Ok(image)
    }

    /// Takes over what the notes say and the file has. False if there is nothing to go on with.
    fn read_notes(&mut self) -> Result<bool> {
        let failed = |e: std::io::Error| Error::io("read the notes of a download", &e);
        let mut notes = match File::open(&self.notes_path) {
            Ok(file) => BufReader::new(file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        let mut line = Vec::new();
        (&mut notes)
            .take(MAX_TARGET_LEN)
            .read_until(b'\n', &mut line)
            .map_err(failed)?;
        let Ok(target) = serde_json::from_slice::<Target>(&line) else {
            return Ok(false);
        };
        if self.remote.as_deref() != Some(&target.remote) {
            return Ok(false);
        }
        let mut note = [0; NOTE];
        let mut page = [0; PAGE_SIZE];
        // What is cut off at the end was never written whole.
        while notes.read_exact(&mut note).is_ok() {
            let (page_no, sum) = decode_note(note);
            if page_no == 0 || page_no > target.pages {
                continue;
            }
            let there = self.file.read_exact_at(&mut page, offset_of(page_no)).is_ok();
            if there && page_checksum(page_no, &page) == sum {
                self.seen.insert(page_no);
                self.sums.insert(page_no, sum);
            }
        }
        self.target = Some(target);
        self.from_notes = true;
        // Even if nothing is missing: the remote must confirm that the revision is its own.
        self.mode = match self.next_missing() {
            Some(_) => Mode::Pinned,
            None => Mode::CatchUp,
        };
        self.write_notes()?;
        tracing::debug!(pages = self.seen.len(), "an interrupted download goes on");
        Ok(true)
    }

    /// Forgets everything.
    fn clear(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .map_err(|e| Error::io(format!("truncate {}", self.path.display()), &e))?;
        (self.mode, self.target, self.notes) = (Mode::Newest, None, None);
        self.seen.clear();
        self.first_missing = 1;
        self.sums.clear();
        self.unwritten.clear();
        remove_notes(&self.notes_path)
    }

    /// What to ask the remote for, at most `chunk` pages of it (0 = no limit); `None` if everything is there.
    pub fn next_request(&mut self, chunk: u32) -> Result<Option<PullUpdatesRequest>> {
        self.arrived.clear();
        self.next_target = None;
        let mut request = PullUpdatesRequest::default();
        match (&self.target, self.mode) {
            (None, _) if chunk == 0 => {}
            (None, _) => request.server_pages_selector = selector::encode_range(0..chunk.min(PAGES_AT_ONCE))?,
            (Some(target), Mode::CatchUp) => request.client_revision = target.revision.clone(),
            (Some(target), _) => {
                request.server_revision = target.revision.clone();
                let limit = match chunk {
                    0 => PAGES_AT_ONCE,
                    n => n.min(PAGES_AT_ONCE),
                } as usize;
                let pages = target.pages;
                // Ids count from 0, page numbers from 1.
                let mut ids: RoaringBitmap = self
                    .missing(pages)
                    .take(limit)
                    .map(|page_no| page_no - 1)
                    .collect();
                if ids.is_empty() {
                    return Ok(None);
                }
                ids.optimize();
                self.first_missing = ids.min().map_or(1, |id| id + 1);
                request.server_pages_selector = selector::encode(&ids)?;
            }
        }
        Ok(Some(request))
    }

    fn next_missing(&self) -> Option<u32> {
        self.missing(self.target.as_ref().map_or(0, |target| target.pages))
            .next()
    }

    /// The pages up to `pages` that are not there, in order.
    fn missing(&self, pages: u32) -> impl Iterator<Item = u32> + '_ {
        (self.first_missing..=pages).filter(|page_no| !self.seen.contains(*page_no) && *page_no != LOCK_PAGE)
    }

    /// Pages that are there, and pages of the database as far as it is known.
    pub fn extent(&self) -> (u64, u64) {
        let pages = self.target.as_ref().map_or(0, |target| u64::from(target.pages));
        (self.seen.len(), pages)
    }

    /// The header of an answer.
    pub fn header(&mut self, header: &PullHeader) -> Result<()> {
        let pages =
            u32::try_from(header.db_size).map_err(|_| Error::protocol("the remote database is too large"))?;
        let target = Target {
            remote: self.remote.clone().unwrap_or_default(),
            revision: header.server_revision.clone(),
            pages,
        };
        match (&self.target, self.mode) {
            (None, _) => {
                self.target = Some(target);
                self.mode = Mode::Pinned;
                self.write_notes()
            }
            (Some(_), Mode::CatchUp) => {
                self.next_target = Some(target);
                self.nothing_to_send = header.page_count == Some(0);
                Ok(())
            }
            (Some(begun), _) if *begun != target => {
                let from_notes = self.from_notes;
                self.clear()?;
                self.from_notes = from_notes;
                Err(Error::protocol("the remote changed the revision in the middle of a download").retry())
            }
            _ => Ok(()),
        }
    }

    /// Writes page `page_no` (from 1); each page may come once.
    pub fn page(&mut self, page_no: u32, data: &Page) -> Result<()> {
        let target = self.next_target.as_ref().or(self.target.as_ref());
        if target.is_none_or(|target| page_no > target.pages) {
            return Err(Error::protocol(format!(
                "the remote sent page {page_no}, behind the end of the database"
            )));
        }
        let again =
            !self.arrived.insert(page_no) || (self.next_target.is_none() && self.seen.contains(page_no));
        if page_no == 0 || again {
            return Err(Error::protocol(format!("the remote sent page {page_no} twice")));
        }
        let mut data = *data;
        if page_no == 1 {
            check_first_page(&data, None)?;
            // The main file is in WAL mode from its first byte on.
            data[18] = 2;
            data[19] = 2;
        }
        let written = self.file.write_all_at(&data, offset_of(page_no));
        written.map_err(|e| Error::io(format!("write {}", self.path.display()), &e))?;
        let sum = page_checksum(page_no, &data);
        self.sums.insert(page_no, sum);
        if self.next_target.is_some() {
            // It belongs to neither revision before the catch-up is complete.
            self.seen.remove(page_no);
            return Ok(());
        }
        self.seen.insert(page_no);
        self.unwritten.extend_from_slice(&encode_note(page_no, sum));
        if self.unwritten.len() >= NOTES_AT_ONCE * NOTE {
            self.append_notes()?;
        }
        Ok(())
    }

    /// The answer to `request` is complete. An error if it did not bring what was asked for.
    pub fn answered(&mut self, request: &PullUpdatesRequest) -> Result<()> {
        if let Some(target) = self.next_target.take() {
            if !self.leads_to(&target) {
                return self.clear();
            }
            self.seen |= std::mem::take(&mut self.arrived);
            self.seen.remove_range(target.pages.saturating_add(1)..);
            self.first_missing = 1;
            self.target = Some(target);
            self.mode = Mode::Pinned;
            return self.write_notes();
        }
        self.append_notes()?;
        let (_, pages) = self.extent();
        let pages = pages as u32;
        let incomplete = match request.server_pages_selector.as_slice() {
            [] => self.next_missing().is_some(),
            bytes => {
                let mut wanted = selector::decode(bytes)?.into_iter().take_while(|id| *id < pages);
                wanted.any(|id| !self.seen.contains(id + 1) && id + 1 != LOCK_PAGE)
            }
        };
        if incomplete {
            let (there, pages) = self.extent();
            return Err(Error::protocol(format!(
                "the download is incomplete: {there} of {pages} pages arrived; try again"
            ))
            .retry());
        }
        Ok(())
    }

    /// Whether the pages that have arrived can be all that is different in `target`. Behind a header nothing arrives if the
    /// answer was cut off there, and no size changes without the first page.
    fn leads_to(&self, target: &Target) -> bool {
        let old = self.target.as_ref();
        let same_revision = old.is_some_and(|old| old.revision == target.revision);
        let same_size = old.is_some_and(|old| old.pages == target.pages);
        match self.arrived.is_empty() {
            true => same_size && (same_revision || self.nothing_to_send),
            false => same_size || self.arrived.contains(1),
        }
    }

    /// The remote has the revision no more that was asked for. True if there is another way to go on.
    pub fn revision_is_gone(&mut self) -> Result<bool> {
        match self.mode {
            Mode::Newest => return Ok(false),
            Mode::Pinned => self.mode = Mode::CatchUp,
            Mode::CatchUp => self.clear()?,
        }
        Ok(true)
    }

    /// Nothing of a remote is to be kept that has broken the protocol.
    pub fn distrust(&mut self) -> Result<()> {
        self.clear()
    }

    /// True if the remote is not the one of the notes any more, after an error: a download that begins anew may succeed.
    pub fn begins_anew(&mut self) -> bool {
        std::mem::take(&mut self.from_notes) && self.target.is_none()
    }

    /// Makes the file durable; which revision it is, and what it looks like.
    pub fn finish(mut self) -> Result<(String, BootstrapMark)> {
        let target = self.target.take();
        let target = target.ok_or_else(|| Error::internal("a download ended without an answer"))?;
        if target.pages > 0 {
            self.check_first_page(target.pages)?;
        }
        self.file
            .set_len(u64::from(target.pages) * PAGE_SIZE as u64)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| Error::io(format!("sync {}", self.path.display()), &e))?;
        let mut checksum = 0;
        for page_no in 1..=target.pages {
            checksum ^= match self.seen.contains(page_no) {
                true => self.sums.get(&page_no).copied().unwrap_or_default(),
                false => page_checksum(page_no, &[0; PAGE_SIZE]),
            };
        }
        let mark = BootstrapMark {
            pages: target.pages,
            checksum,
        };
        Ok((target.revision, mark))
    }

    /// What the file says of itself must fit what the remote says. If not, the download begins anew.
    fn check_first_page(&mut self, pages: u32) -> Result<()> {
        let mut first = [0; PAGE_SIZE];
        self.file
            .read_exact_at(&mut first, 0)
            .map_err(|e| Error::io(format!("read {}", self.path.display()), &e))?;
        check_first_page(&first, Some(pages)).or_else(|e| self.clear().and(Err(e)))
    }

    /// Writes the notes anew.
    fn write_notes(&mut self) -> Result<()> {
        self.notes = None;
        self.unwritten.clear();
        // Without its remote, the download cannot go on.
        let (Some(_), Some(target)) = (&self.remote, &self.target) else {
            return Ok(());
        };
        let mut content =
            serde_json::to_vec(target).map_err(|e| Error::internal(format!("notes of a download: {e}")))?;
        content.push(b'\n');
        for page_no in &self.seen {
            let sum = self.sums.get(&page_no).copied().unwrap_or_default();
            content.extend_from_slice(&encode_note(page_no, sum));
        }
        files::write_atomic(&self.notes_path, &content)?;
        let file = OpenOptions::new().append(true).open(&self.notes_path);
        self.notes = Some(file.map_err(|e| Error::io(format!("open {}", self.notes_path.display()), &e))?);
        Ok(())
    }

    fn append_notes(&mut self) -> Result<()> {
        if let Some(notes) = &mut self.notes {
            notes
                .write_all(&self.unwritten)
                .map_err(|e| Error::io(format!("write {}", self.notes_path.display()), &e))?;
        }
        self.unwritten.clear();
        Ok(())
    }
}

/// Longest first line of the notes, in bytes.
const MAX_TARGET_LEN: u64 = 64 << 10;

/// Removes the notes of a download that has ended.
pub fn remove_notes(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

fn offset_of(page_no: u32) -> u64 {
    u64::from(page_no.saturating_sub(1)) * PAGE_SIZE as u64
}

fn encode_note(page_no: u32, sum: u32) -> [u8; NOTE] {
    ((u64::from(page_no) << 32) | u64::from(sum)).to_le_bytes()
}

fn decode_note(note: [u8; NOTE]) -> (u32, u32) {
    let note = u64::from_le_bytes(note);
    ((note >> 32) as u32, note as u32)
}

fn page_checksum(page_no: u32, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page_no.to_le_bytes()), data)
}

/// Checksum of a finished image; independent of the order in which its pages came.
pub fn checksum(path: &Path) -> Result<BootstrapMark> {
    let failed = |e: std::io::Error| Error::io(format!("read {}", path.display()), &e);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
    let mut mark = BootstrapMark {
        pages: 0,
        checksum: 0,
    };
    let mut page = [0u8; PAGE_SIZE];
    loop {
        match reader.read_exact(&mut page) {
            Ok(()) => {
                mark.pages = mark
                    .pages
                    .checked_add(1)
                    .ok_or_else(|| Error::corrupt("the file is too long"))?;
                mark.checksum ^= page_checksum(mark.pages, &page);
            }
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(mark),
            Err(e) => return Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_page() -> [u8; PAGE_SIZE] {
        let mut page = [0; PAGE_SIZE];
        page[..16].copy_from_slice(b"SQLite format 3\0");
        page[16..20].copy_from_slice(&[0x10, 0, 2, 2]);
        page
    }

    fn page(page_no: u32, version: u8) -> [u8; PAGE_SIZE] {
        match page_no {
            1 => first_page(),
            _ => [version ^ page_no as u8; PAGE_SIZE],
        }
    }

    fn header(revision: &str, pages: u64) -> PullHeader {
        PullHeader {
            server_revision: revision.into(),
            db_size: pages,
            ..Default::default()
        }
    }

    struct Place {
        _dir: tempfile::TempDir,
        path: PathBuf,
        notes: PathBuf,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            Place {
                path: dir.path().join("i"),
                notes: dir.path().join("n"),
                _dir: dir,
            }
        }

        fn image(&self) -> Image {
            Image::resume(&self.path, &self.notes, Some("http://remote")).unwrap()
        }
    }

    fn ids(request: &PullUpdatesRequest) -> Vec<u32> {
        selector::decode(&request.server_pages_selector)
            .unwrap()
            .iter()
            .collect()
    }

    /// One answer that brings `pages` at `version`.
    fn answer(image: &mut Image, header: &PullHeader, pages: &[u32], version: u8) -> Result<()> {
        image.header(header)?;
        pages.iter().try_for_each(|p| image.page(*p, &page(*p, version)))
    }

    #[test]
    fn pages_in_any_order_give_one_checksum() {
        let mut marks = Vec::new();
        for order in [[1, 2, 3], [3, 1, 2]] {
            let place = Place::new();
            let mut image = place.image();
            let request = image.next_request(0).unwrap().unwrap();
            assert_eq!(request, PullUpdatesRequest::default());
            answer(&mut image, &header("r", 3), &order, 0).unwrap();
            image.answered(&request).unwrap();
            assert_eq!(image.next_request(0).unwrap(), None);
            let (revision, mark) = image.finish().unwrap();
            assert_eq!(revision, "r");
            marks.push(mark);
            assert_eq!(checksum(&place.path).unwrap(), mark);
        }
        assert_eq!(marks[0], marks[1]);
    }

    #[test]
    fn holes_repeats_and_other_page_sizes_are_refused() {
        let place = Place::new();
        let mut image = place.image();
        let request = image.next_request(0).unwrap().unwrap();
        answer(&mut image, &header("r", 2), &[2], 0).unwrap();
        assert!(image.page(2, &page(2, 0)).is_err());
        assert!(image.page(3, &page(3, 0)).is_err());
        assert!(image.page(0, &page(3, 0)).is_err());
        assert!(image.answered(&request).unwrap_err().retryable);
        let mut other = first_page();
        other[16] = 0x04;
        let e = image.page(1, &other).unwrap_err();
        assert!(e.message.contains("1024"), "{e}");
        assert!(image.header(&header("s", 2)).unwrap_err().retryable);
        assert_eq!(
            image.next_request(0).unwrap(),
            Some(PullUpdatesRequest::default())
        );
    }

    #[test]
    fn an_interrupted_download_asks_only_for_what_is_missing() {
        let place = Place::new();
        let mut image = place.image();
        image.next_request(0).unwrap();
        answer(&mut image, &header("r", 100), &(1..=70).collect::<Vec<_>>(), 0).unwrap();
        drop(image);
        // The last notes were not written yet.
        let mut image = place.image();
        let request = image.next_request(10).unwrap().unwrap();
        assert_eq!(request.server_revision, "r");
        assert_eq!(ids(&request), (64..74).collect::<Vec<_>>());
        // One image was lost with the power, and one note is cut off.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&place.path)
            .unwrap()
            .write_all_at(&[9; 100], offset_of(5))
            .unwrap();
        let length = std::fs::metadata(&place.notes).unwrap().len();
        let notes = OpenOptions::new().write(true).open(&place.notes).unwrap();
        notes.set_len(length - 3).unwrap();
        drop(image);
        let mut image = place.image();
        let request = image.next_request(0).unwrap().unwrap();
        let mut missing: Vec<u32> = (63..100).collect();
        missing.insert(0, 4);
        assert_eq!(ids(&request), missing);
        let pages: Vec<u32> = missing.iter().map(|id| id + 1).collect();
        answer(&mut image, &header("r", 100), &pages, 0).unwrap();
        image.answered(&request).unwrap();
        assert_eq!(image.next_request(0).unwrap(), None);
        assert_eq!(checksum(&place.path).unwrap(), image.finish().unwrap().1);
    }

    #[test]
    fn a_remote_that_went_on_is_caught_up_with() {
        let place = Place::new();
        let mut image = place.image();
        image.next_request(0).unwrap();
        answer(&mut image, &header("r", 200), &(1..=96).collect::<Vec<_>>(), 0).unwrap();
        assert!(image.revision_is_gone().unwrap());
        let request = image.next_request(0).unwrap().unwrap();
        assert_eq!(
            (request.client_revision.as_str(), request.server_revision.as_str()),
            ("r", "")
        );
        // Cut off in the middle: what has arrived is of no revision.
        answer(&mut image, &header("s", 150), &[10, 120], 1).unwrap();
        drop(image);
        let mut image = place.image();
        let request = image.next_request(0).unwrap().unwrap();
        assert_eq!(request.server_revision, "r");
        assert_eq!(ids(&request)[..2], [9, 96]);
        assert!(image.revision_is_gone().unwrap());
        let request = image.next_request(0).unwrap().unwrap();
        answer(&mut image, &header("s", 150), &[1, 10, 120], 1).unwrap();
        image.answered(&request).unwrap();
        assert_eq!(image.extent(), (97, 150));
        let request = image.next_request(0).unwrap().unwrap();
        assert_eq!(request.server_revision, "s");
        let missing: Vec<u32> = ids(&request).iter().map(|id| id + 1).collect();
        assert_eq!(missing.len(), 53);
        answer(&mut image, &header("s", 150), &missing, 1).unwrap();
        image.answered(&request).unwrap();
        let (revision, mark) = image.finish().unwrap();
        assert_eq!((revision.as_str(), mark.pages), ("s", 150));
        assert_eq!(checksum(&place.path).unwrap(), mark);
    }

    #[test]
    fn a_catch_up_that_may_have_been_cut_off_is_a_download_anew() {
        let uncounted = |revision, pages| header(revision, pages);
        let nothing = |revision, pages| PullHeader {
            page_count: Some(0),
            ..header(revision, pages)
        };
        for (header, pages, goes_on) in [
            (uncounted("s", 50), &[][..], false),
            (uncounted("s", 60), &[], false),
            (uncounted("s", 60), &[60], false),
            (nothing("s", 60), &[], false),
            (nothing("s", 50), &[], true),
            (uncounted("r", 50), &[], true),
            (uncounted("s", 50), &[7], true),
            (uncounted("s", 60), &[1, 60], true),
        ] {
            let place = Place::new();
            let mut image = place.image();
            image.next_request(0).unwrap();
            answer(
                &mut image,
                &self::header("r", 50),
                &(1..=40).collect::<Vec<_>>(),
                0,
            )
            .unwrap();
            assert!(image.revision_is_gone().unwrap());
            let request = image.next_request(0).unwrap().unwrap();
            answer(&mut image, &header, pages, 1).unwrap();
            image.answered(&request).unwrap();
            let request = image.next_request(0).unwrap().unwrap();
            let expected = if goes_on {
                header.server_revision.as_str()
            } else {
                ""
            };
            assert_eq!(request.server_revision, expected, "{header:?} {pages:?}");
        }
    }

    #[test]
    fn a_remote_without_history_is_downloaded_anew_and_another_one_is_never_mixed_in() {
        let place = Place::new();
        let mut image = place.image();
        image.next_request(0).unwrap();
        answer(&mut image, &header("r", 50), &(1..=40).collect::<Vec<_>>(), 0).unwrap();
        assert!(image.revision_is_gone().unwrap());
        image.next_request(0).unwrap();
        assert!(image.revision_is_gone().unwrap());
        assert_eq!(
            image.next_request(0).unwrap(),
            Some(PullUpdatesRequest::default())
        );
        assert!(!image.revision_is_gone().unwrap());
        answer(&mut image, &header("r", 50), &(1..=40).collect::<Vec<_>>(), 0).unwrap();
        drop(image);
        for remote in [None, Some("http://other")] {
            let mut image = Image::resume(&place.path, &place.notes, remote).unwrap();
            assert_eq!(
                image.next_request(0).unwrap(),
                Some(PullUpdatesRequest::default())
            );
            answer(&mut image, &header("r", 50), &(1..=40).collect::<Vec<_>>(), 0).unwrap();
        }
        std::fs::write(&place.notes, b"garbage without an end").unwrap();
        assert_eq!(
            place.image().next_request(0).unwrap(),
            Some(PullUpdatesRequest::default())
        );
    }

    #[test]
    fn a_size_that_cannot_be_costs_no_memory() {
        let place = Place::new();
        let mut image = place.image();
        image.next_request(0).unwrap();
        image.header(&header("r", u64::from(u32::MAX))).unwrap();
        image.page(u32::MAX - 1, &page(7, 0)).unwrap();
        let request = image.next_request(0).unwrap().unwrap();
        assert_eq!(ids(&request).len(), PAGES_AT_ONCE as usize);
        assert!(image.answered(&request).unwrap_err().retryable);
        assert!(image.answered(&PullUpdatesRequest::default()).is_err());
    }

    #[test]
    fn a_database_with_a_lock_page_needs_no_image_of_it() {
        let place = Place::new();
        let mut image = place.image();
        image.next_request(0).unwrap();
        image.header(&header("r", u64::from(LOCK_PAGE) + 1)).unwrap();
        let missing: Vec<u32> = image.missing(LOCK_PAGE + 1).collect();
        assert!(missing.len() == LOCK_PAGE as usize && !missing.contains(&LOCK_PAGE));
    }
}

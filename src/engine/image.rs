//! The main file of a new replica while it is being downloaded: pages at their place in `<db>-changes`.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use roaring::RoaringBitmap;

use super::metadata::BootstrapMark;
use crate::error::{Error, Result};
use crate::pages::{PAGE_SIZE, Page, check_first_page};

/// Receives the pages of a whole database in any order.
pub struct ImageWriter {
    file: File,
    path: PathBuf,
    seen: RoaringBitmap,
    checksum: u32,
    /// Page 1 as it came.
    first: Option<Box<Page>>,
}

impl ImageWriter {
    /// Starts an empty image at `path`, replacing what is there.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(path);
        let file = file.map_err(|e| Error::io(format!("create {}", path.display()), &e))?;
        Ok(ImageWriter {
            file,
            path: path.to_owned(),
            seen: RoaringBitmap::new(),
            checksum: 0,
            first: None,
        })
    }

    /// Writes page `page_no` (from 1); each page may come once.
    pub fn page(&mut self, page_no: u32, data: &Page) -> Result<()> {
        if page_no == 0 || !self.seen.insert(page_no) {
            return Err(Error::protocol(format!("the remote sent page {page_no} twice")));
        }
        let mut data = *data;
        if page_no == 1 {
            check_first_page(&data, None)?;
            self.first = Some(Box::new(data));
            // The main file is in WAL mode from its first byte on.
            data[18] = 2;
            data[19] = 2;
        }
        self.checksum ^= page_checksum(page_no, &data);
        let offset = u64::from(page_no - 1) * PAGE_SIZE as u64;
        let written = self.file.write_all_at(&data, offset);
        written.map_err(|e| Error::io(format!("write {}", self.path.display()), &e))
    }

    /// Number of pages that have come so far.
    pub fn received(&self) -> u64 {
        self.seen.len()
    }

    /// Checks that all of `pages` pages are there and makes the file durable.
    pub fn finish(self, pages: u32) -> Result<BootstrapMark> {
        if self.seen.len() != u64::from(pages) || self.seen.max().unwrap_or(0) > pages {
            return Err(Error::protocol(format!(
                "the download is incomplete: {} of {pages} pages arrived; try again",
                self.seen.len()
            ))
            .retry());
        }
        if let Some(first) = &self.first {
            check_first_page(first, Some(pages))?;
        }
        self.file
            .sync_all()
            .map_err(|e| Error::io(format!("sync {}", self.path.display()), &e))?;
        Ok(BootstrapMark {
            pages,
            checksum: self.checksum,
        })
    }
}

fn page_checksum(page_no: u32, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page_no.to_le_bytes()), data)
}

/// Checksum of a finished image; independent of the order in which its pages came.
pub fn checksum(path: &Path) -> Result<BootstrapMark> {
    let failed = |e: std::io::Error| Error::io(format!("read {}", path.display()), &e);
    let mut reader = std::io::BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
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

    #[test]
    fn pages_in_any_order_give_one_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("i");
        let mut marks = Vec::new();
        for order in [[1, 2, 3], [3, 1, 2]] {
            let mut image = ImageWriter::create(&path).unwrap();
            for p in order {
                image
                    .page(
                        p,
                        &if p == 1 {
                            first_page()
                        } else {
                            [p as u8; PAGE_SIZE]
                        },
                    )
                    .unwrap();
            }
            marks.push(image.finish(3).unwrap());
            assert_eq!(&checksum(&path).unwrap(), marks.last().unwrap());
        }
        assert_eq!(marks[0], marks[1]);
    }

    #[test]
    fn holes_repeats_and_other_page_sizes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("i");
        let mut image = ImageWriter::create(&path).unwrap();
        image.page(2, &[1; PAGE_SIZE]).unwrap();
        assert!(image.page(2, &[1; PAGE_SIZE]).is_err());
        assert!(image.finish(2).unwrap_err().retryable);
        let mut image = ImageWriter::create(&path).unwrap();
        image.page(3, &[1; PAGE_SIZE]).unwrap();
        image.page(1, &first_page()).unwrap();
        assert!(image.finish(2).is_err());
        let mut page = first_page();
        page[16] = 0x04;
        let e = ImageWriter::create(&path).unwrap().page(1, &page).unwrap_err();
        assert!(e.message.contains("1024"), "{e}");
    }
}

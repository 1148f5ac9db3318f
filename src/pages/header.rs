//! The fields of page 1 that sync reads or sets: <https://sqlite.org/fileformat2.html#the_database_header>.

use crate::error::{Error, Result};
use crate::pages::{PAGE_SIZE, Page};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const PAGE_SIZE_AT: usize = 16;
const VERSIONS_AT: usize = 18;
pub(super) const RESERVED_AT: usize = 20;
const CHANGE_COUNTER_AT: usize = 24;
const DB_PAGES_AT: usize = 28;
const SCHEMA_COOKIE_AT: usize = 40;
const VERSION_VALID_FOR_AT: usize = 92;

/// Version bytes of a database with a rollback journal.
pub(super) const ROLLBACK: u8 = 1;
/// Version bytes of a database in WAL mode.
pub(super) const WAL: u8 = 2;

fn field(page: &Page, at: usize) -> u32 {
    u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

fn set_field(page: &mut Page, at: usize, value: u32) {
    page[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Checks page 1 as a remote sent it, against the size of the database if that is known already.
pub fn check_first_page(page: &Page, db_pages: Option<u32>) -> Result<()> {
    if !page.starts_with(MAGIC) {
        return Err(Error::protocol(
            "page 1 of the remote is not the header of a SQLite database",
        ));
    }
    let size = u16::from_be_bytes([page[PAGE_SIZE_AT], page[PAGE_SIZE_AT + 1]]);
    if usize::from(size) != PAGE_SIZE {
        return Err(Error::protocol(format!(
            "the remote database has pages of {size} bytes; only {PAGE_SIZE} can be synced"
        )));
    }
    for version in &page[VERSIONS_AT..VERSIONS_AT + 2] {
        if ![ROLLBACK, WAL].contains(version) {
            return Err(Error::protocol(format!(
                "the remote database has file format version {version}; 1 and 2 can be synced"
            )));
        }
    }
    // A writer older than SQLite 3.7 leaves a size that does not count.
    let trusted = field(page, CHANGE_COUNTER_AT) == field(page, VERSION_VALID_FOR_AT);
    let recorded = field(page, DB_PAGES_AT);
    match db_pages {
        Some(db_pages) if trusted && recorded != 0 && recorded != db_pages => Err(Error::protocol(format!(
            "page 1 of the remote says {recorded} pages, its answer says {db_pages}"
        ))),
        _ => Ok(()),
    }
}

/// Bytes that page 1 says are reserved at the end of each page.
pub fn reserved_bytes(first: &Page) -> u8 {
    first[RESERVED_AT]
}

/// Sets both version bytes.
pub(super) fn set_version(page: &mut Page, version: u8) {
    page[VERSIONS_AT..VERSIONS_AT + 2].fill(version);
}

/// The schema cookie.
pub(super) fn schema_cookie(page: &Page) -> u32 {
    field(page, SCHEMA_COOKIE_AT)
}

/// Makes `page` fit to replace `current` as page 1 of a database in WAL mode of `db_pages` pages: every connection
/// will re-read the schema, and the size in the header counts.
pub(super) fn finish(page: &mut Page, current: &Page, db_pages: u32) {
    set_version(page, WAL);
    let cookie = schema_cookie(page).max(schema_cookie(current)).wrapping_add(1);
    set_field(page, SCHEMA_COOKIE_AT, cookie);
    set_field(page, DB_PAGES_AT, db_pages);
    let counter = field(page, CHANGE_COUNTER_AT);
    set_field(page, VERSION_VALID_FOR_AT, counter);
}

//! Answers `/pull-updates`: decides which pages of which snapshot a client gets, and streams them.

use std::io::Write;
use std::sync::PoisonError;

use roaring::RoaringBitmap;
use zstd::zstd_safe::CParameter;

use super::http::Refusal;
use super::store::{Revision, Store};
use crate::error::{Error, Result};
use crate::protocol::inflate::STREAM_WINDOW_LOG;
use crate::protocol::pull::{
    DIALECT_DIRECT, ENCODING_RAW, ENCODING_STREAM, ENCODING_ZSTD, PROTOCOL_PAGES, PullHeader,
    PullUpdatesRequest, RawEncoding, ZstdEncoding, encode_header, encode_page, raw_page_len,
};
use crate::protocol::{PAGE_SIZE, selector};

/// zstd level: fast, because pages are compressed for every client anew.
const ZSTD_LEVEL: i32 = 1;
/// zstd level of whole answers: 3 takes three times as long for 4% fewer bytes.
const STREAM_LEVEL: i32 = 1;
/// Bytes handed to the network at a time.
const CHUNK_LEN: usize = 64 << 10;

/// An answer that is ready to be sent.
pub struct Answer {
    header: PullHeader,
    /// Page numbers from 1.
    pages: RoaringBitmap,
    revision: Revision,
    encoding: i32,
}

/// Works out the answer to `request` as of now. Long polls are the caller's business.
pub fn answer(store: &Store, request: &PullUpdatesRequest) -> std::result::Result<Answer, Refusal> {
    check(request)?;
    let selected = match request.server_pages_selector.as_slice() {
        [] => None,
        bytes => Some(selector::decode(bytes).map_err(|e| Refusal::bad_request(e.message))?),
    };
    let since = match request.client_revision.as_str() {
        "" => None,
        name => Some(known(store, name)?),
    };
    let (revision, number, size) = match request.server_revision.as_str() {
        "" => newest(store)?,
        name => pinned(store, known(store, name)?)?,
    };
    let in_parts = selected.is_some() || request.max_pages > 0;
    let to_the_end = selected
        .as_ref()
        .is_none_or(|ids| size == 0 || ids.contains(size - 1));
    let mut pages = match since {
        // A client may also go back to a revision that is older than what it has.
        Some(since) => store.changed_since(since.min(number), size)?,
        None => (1..=size).collect(),
    };
    if let Some(selected) = selected {
        // Ids are zero-based, page numbers are not; ids past the end are skipped.
        let wanted: RoaringBitmap = selected
            .iter()
            .take_while(|id| *id < size)
            .map(|id| id + 1)
            .collect();
        pages &= wanted;
    }
    let remaining = limit(&mut pages, request.max_pages);
    if number != revision.number && !(store.changed_since(number, size)? & &pages).is_empty() {
        return Err(Refusal::conflict("revision no longer available"));
    }
    let ends = to_the_end && remaining == 0;
    match request.server_revision.is_empty() {
        // The first part of a download in parts: the others will pin this revision.
        true if in_parts && !ends => store.keep(&revision),
        // Who does not limit answers may come back for single pages.
        false if ends && request.max_pages > 0 => store.done_with(number),
        _ => {}
    }
    let name = revision_name(&revision, number, request);
    let mut answer = compose(name, size, pages, revision, request.encoding);
    answer.header.remaining = Some(remaining);
    Ok(answer)
}

/// Leaves the first `most` of `pages` (0: all); how many it takes away.
fn limit(pages: &mut RoaringBitmap, most: u32) -> u64 {
    let all = pages.len();
    if most > 0
        && let Some(first) = pages.select(most)
    {
        pages.remove_range(first..);
    }
    all - pages.len()
}

/// The revision's name: a pinned one is answered as it was asked for.
fn revision_name(revision: &Revision, number: i64, request: &PullUpdatesRequest) -> String {
    if number == revision.number {
        revision.name.clone()
    } else {
        request.server_revision.clone()
    }
}

fn check(request: &PullUpdatesRequest) -> std::result::Result<(), Refusal> {
    if !request.server_query_selector.is_empty() {
        return Err(Refusal::bad_request(
            "selecting pages by a query is not supported",
        ));
    }
    if !matches!(request.encoding, ENCODING_RAW | ENCODING_ZSTD | ENCODING_STREAM) {
        return Err(Refusal::bad_request(format!(
            "unknown page encoding {}",
            request.encoding
        )));
    }
    // 1 asks for a logical log; a database that speaks pages answers with pages, and says so in the header.
    if !matches!(request.stream_kind, 0 | 1) {
        return Err(Refusal::bad_request(format!(
            "unknown stream kind {}",
            request.stream_kind
        )));
    }
    Ok(())
}

fn known(store: &Store, name: &str) -> std::result::Result<i64, Refusal> {
    store.number(name)?.ok_or_else(|| {
        Refusal::conflict(
            "unknown revision: this server never had it, or lost it; the replica has to be created anew",
        )
    })
}

type Served = (Revision, i64, u32);

fn newest(store: &Store) -> Result<Served> {
    let revision = store.newest()?;
    Ok((revision.clone(), revision.number, revision.pages))
}

/// Revision `number`: from its own snapshot if there is one, otherwise from the newest, as far as it is the same.
fn pinned(store: &Store, number: i64) -> std::result::Result<Served, Refusal> {
    if let Some(kept) = store.kept(number) {
        return Ok((kept.clone(), number, kept.pages));
    }
    let revision = store.newest()?;
    if number == revision.number {
        return Ok((revision.clone(), number, revision.pages));
    }
    match store.size_at(number)? {
        // Pages past the end of today's database are gone.
        Some(size) if size <= revision.pages => Ok((revision, number, size)),
        _ => Err(Refusal::conflict("revision no longer available")),
    }
}

fn compose(name: String, size: u32, pages: RoaringBitmap, revision: Revision, encoding: i32) -> Answer {
    let level = |level| ZstdEncoding {
        level,
        pages_dict: Vec::new(),
    };
    let zstd = encoding == ENCODING_ZSTD;
    let header = PullHeader {
        server_revision: name,
        db_size: size.into(),
        raw_encoding: (!zstd).then_some(RawEncoding {}),
        zstd_encoding: zstd.then(|| level(ZSTD_LEVEL)),
        stream_zstd: (encoding == ENCODING_STREAM).then(|| level(STREAM_LEVEL)),
        protocol: PROTOCOL_PAGES,
        page_count: Some(pages.len()),
        dialects: DIALECT_DIRECT,
        ..Default::default()
    };
    Answer {
        header,
        pages,
        revision,
        encoding,
    }
}

impl Answer {
    /// Whether no pages follow the header.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Length of the body in bytes, if it can be known beforehand.
    pub fn content_length(&self) -> Option<u64> {
        let pages = || self.pages.iter().map(|no| raw_page_len(no - 1)).sum::<u64>();
        (self.encoding == ENCODING_RAW).then(|| encode_header(&self.header).len() as u64 + pages())
    }

    /// Says in the header which question it is the answer to.
    pub fn with_question(mut self, checksum: u32) -> Self {
        self.header.question = Some(checksum);
        self
    }

    /// The revision that it leads to.
    pub fn revision(&self) -> &str {
        &self.header.server_revision
    }

    /// Produces the body; `send` takes one piece after another and returns false when nobody reads any more.
    pub fn write(self, send: &mut dyn FnMut(Vec<u8>) -> bool) -> Result<()> {
        let header = encode_header(&self.header);
        if self.encoding != ENCODING_STREAM {
            let mut out = header;
            if self.each_page(&mut |message| {
                out.append(message);
                Ok(out.len() < CHUNK_LEN || send(std::mem::take(&mut out)))
            })? && !out.is_empty()
            {
                send(out);
            }
            return Ok(());
        }
        let fail = |e: std::io::Error| Error::internal(format!("zstd: {e}"));
        let mut zstd = zstd::stream::write::Encoder::new(header, STREAM_LEVEL).map_err(fail)?;
        zstd.set_parameter(CParameter::WindowLog(STREAM_WINDOW_LOG))
            .map_err(fail)?;
        let read = self.each_page(&mut |message| {
            zstd.write_all(message).map_err(fail)?;
            message.clear();
            let out = zstd.get_mut();
            Ok(out.len() < CHUNK_LEN || send(std::mem::take(out)))
        })?;
        if read {
            send(zstd.finish().map_err(fail)?);
        }
        Ok(())
    }

    /// Gives `on` the message of every page; it takes its bytes and says whether to go on. False if it did not.
    fn each_page(&self, on: &mut dyn FnMut(&mut Vec<u8>) -> Result<bool>) -> Result<bool> {
        let mut page = Box::new([0; PAGE_SIZE]);
        let mut message = Vec::new();
        for no in &self.pages {
            // Locked page by page, so that requests for the same snapshot take turns.
            self.revision
                .snapshot
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(no, &mut page)?;
            let payload = match self.encoding {
                ENCODING_ZSTD => zstd::bulk::compress(&page[..], ZSTD_LEVEL)
                    .map_err(|e| Error::internal(format!("zstd: {e}")))?,
                _ => page.to_vec(),
            };
            encode_page(no - 1, &page, payload, &mut message)?;
            if !on(&mut message)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

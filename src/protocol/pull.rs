//! `POST /pull-updates`: whole pages that changed between two revisions.

use prost::Message;
use roaring::RoaringBitmap;

use super::PAGE_SIZE;
use super::inflate::Inflater;
use crate::error::{Error, Result};

/// Longest header message accepted, in bytes.
pub const MAX_HEADER_LEN: usize = 64 << 10;
/// Longest page message accepted, in bytes: a page, its framing and some room for fields unknown to us.
pub const MAX_PAGE_MESSAGE_LEN: usize = PAGE_SIZE + 256;
/// Most pages a database can have (<https://www.sqlite.org/limits.html>).
pub const MAX_PAGE_COUNT: u64 = 0xffff_fffe;

/// `encoding`: pages are sent as they are.
pub const ENCODING_RAW: i32 = 0;
/// `encoding`: every page is a zstd frame.
pub const ENCODING_ZSTD: i32 = 1;
/// `stream_kind`: page messages follow the header.
pub const STREAM_PAGES: i32 = 0;
/// `apply_mode`: the pages go on top of what the client has.
pub const APPLY_INCREMENTAL: i32 = 0;
/// `apply_mode`: the pages are a complete new base.
pub const APPLY_REPLACE_BASE: i32 = 1;
/// `protocol`: the database speaks pages.
pub const PROTOCOL_PAGES: i32 = 1;
/// `protocol`: the database speaks the MVCC logical log, which this library does not.
pub const PROTOCOL_MVCC: i32 = 2;

/// `encoding` of the direct dialect: pages are raw, and everything behind the header is one zstd frame.
pub const ENCODING_STREAM: i32 = 2;
/// `dialects`: the server speaks the direct dialect.
pub const DIALECT_DIRECT: u32 = 1;

/// The request. All fields at their default, which is zero bytes on the wire, asks for the whole database.
#[derive(Clone, PartialEq, Message)]
pub struct PullUpdatesRequest {
    /// Wanted page encoding, [`ENCODING_RAW`] or [`ENCODING_ZSTD`].
    #[prost(int32, tag = "1")]
    pub encoding: i32,
    /// Serve pages as of exactly this revision; empty: the newest.
    #[prost(string, tag = "2")]
    pub server_revision: String,
    /// Revision the client has; empty: none.
    #[prost(string, tag = "3")]
    pub client_revision: String,
    /// How long the server may hold an otherwise empty answer.
    #[prost(uint32, tag = "4")]
    pub long_poll_timeout_ms: u32,
    /// Wanted page ids as in [`super::selector`]; empty: all.
    #[prost(bytes = "vec", tag = "5")]
    pub server_pages_selector: Vec<u8>,
    /// Reserved by the protocol, always empty.
    #[prost(bytes = "vec", tag = "6")]
    pub client_pages: Vec<u8>,
    /// SQL text whose pages are wanted.
    #[prost(string, tag = "7")]
    pub server_query_selector: String,
    /// Wanted dialect; [`STREAM_PAGES`].
    #[prost(int32, tag = "8")]
    pub stream_kind: i32,
    /// Our extension: most pages that the answer shall have; 0: no limit. [`PullHeader::remaining`] tells whether the server
    /// has heeded it.
    #[prost(uint32, tag = "100")]
    pub max_pages: u32,
}

/// Marker: page payloads are raw.
#[derive(Clone, PartialEq, Message)]
pub struct RawEncoding {}

/// Marker: page payloads are zstd frames.
#[derive(Clone, PartialEq, Message)]
pub struct ZstdEncoding {
    /// Compression level used.
    #[prost(int32, tag = "1")]
    pub level: i32,
    /// Pages that form a dictionary; not supported.
    #[prost(uint32, repeated, tag = "2")]
    pub pages_dict: Vec<u32>,
}

/// First message of an answer.
#[derive(Clone, PartialEq, Message)]
pub struct PullHeader {
    /// Revision the answer brings the client to.
    #[prost(string, tag = "1")]
    pub server_revision: String,
    /// Database size in pages at that revision.
    #[prost(uint64, tag = "2")]
    pub db_size: u64,
    /// Present if pages are raw.
    #[prost(message, optional, tag = "3")]
    pub raw_encoding: Option<RawEncoding>,
    /// Present if pages are compressed.
    #[prost(message, optional, tag = "4")]
    pub zstd_encoding: Option<ZstdEncoding>,
    /// What follows the header.
    #[prost(int32, tag = "5")]
    pub stream_kind: i32,
    /// [`APPLY_INCREMENTAL`] or [`APPLY_REPLACE_BASE`].
    #[prost(int32, tag = "6")]
    pub apply_mode: i32,
    /// Description of a logical log, undecoded.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub mvcc_log: Option<Vec<u8>>,
    /// Dialect of the database.
    #[prost(int32, tag = "8")]
    pub protocol: i32,
    /// Our extension: number of page messages that follow.
    #[prost(uint64, optional, tag = "100")]
    pub page_count: Option<u64>,
    /// Our extension: dialects that the server speaks beside the compatible one; [`DIALECT_DIRECT`].
    #[prost(uint32, tag = "101")]
    pub dialects: u32,
    /// Direct dialect: [`super::pull_query::checksum`] of the question, so that no answer is taken for that of another one.
    #[prost(fixed32, optional, tag = "102")]
    pub question: Option<u32>,
    /// Direct dialect: present if everything behind the header is one zstd frame.
    #[prost(message, optional, tag = "103")]
    pub stream_zstd: Option<ZstdEncoding>,
    /// Our extension: present if the pages come in ascending order; how many of those that were asked for lie behind the last
    /// one, left out because of [`PullUpdatesRequest::max_pages`].
    #[prost(uint64, optional, tag = "104")]
    pub remaining: Option<u64>,
}

/// One page of an answer.
#[derive(Clone, PartialEq, Message)]
pub struct PageMessage {
    /// Zero-based page id (SQLite's page number minus one).
    #[prost(uint64, tag = "1")]
    pub page_id: u64,
    /// The page, encoded as the header says.
    #[prost(bytes = "vec", tag = "2")]
    pub encoded_page: Vec<u8>,
    /// Our extension: CRC32C of the decoded page.
    #[prost(fixed32, optional, tag = "100")]
    pub crc32c: Option<u32>,
}

/// The request as a body; all defaults give zero bytes.
pub fn encode_request(request: &PullUpdatesRequest) -> Vec<u8> {
    request.encode_to_vec()
}

/// Parses a request body.
pub fn decode_request(body: &[u8]) -> Result<PullUpdatesRequest> {
    PullUpdatesRequest::decode(body).map_err(|e| Error::protocol(format!("malformed pull request: {e}")))
}

/// The header of an answer, length prefix included.
pub fn encode_header(header: &PullHeader) -> Vec<u8> {
    header.encode_length_delimited_to_vec()
}

/// Appends a page message, length prefix included. `payload` is `page` encoded as the header said.
pub fn encode_page(page_id: u32, page: &[u8; PAGE_SIZE], payload: Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
    let message = PageMessage {
        page_id: page_id.into(),
        encoded_page: payload,
        crc32c: Some(crc32c::crc32c(page)),
    };
    message
        .encode_length_delimited(out)
        .map_err(|e| Error::internal(format!("page message: {e}")))
}

/// Length of a raw page message with length prefix and checksum, in bytes.
pub fn raw_page_len(page_id: u32) -> u64 {
    let id_len = if page_id == 0 {
        0
    } else {
        1 + prost::encoding::encoded_len_varint(page_id.into())
    };
    let payload_len = 1 + prost::length_delimiter_len(PAGE_SIZE) + PAGE_SIZE;
    let crc_len = 2 + 4;
    let message_len = id_len + payload_len + crc_len;
    (prost::length_delimiter_len(message_len) + message_len) as u64
}

/// What a [`PullDecoder`] found.
#[derive(Debug, PartialEq)]
pub enum PullEvent<'a> {
    /// The header, checked; always first.
    Header(PullHeader),
    /// One page, decoded and checked.
    Page {
        /// SQLite's page number, counted from 1.
        page_no: u32,
        /// The page.
        data: &'a [u8; PAGE_SIZE],
    },
}

/// Receives the events of a [`PullDecoder`]; an error stops the decoder for good.
pub type OnEvent<'a> = dyn FnMut(PullEvent<'_>) -> Result<()> + 'a;

/// Decodes an answer from pieces of any size, in bounded memory.
///
/// Every length is checked before anything is allocated, every page id and size before the page is handed out.
/// After an error every further call repeats that error.
pub struct PullDecoder {
    accept_replace_base: bool,
    header: Option<PullHeader>,
    /// Bytes of a message that arrived incompletely.
    partial: Vec<u8>,
    state: State,
    seen: RoaringBitmap,
    page: Box<[u8; PAGE_SIZE]>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    /// Decompresses everything behind the header; away while it works.
    inflater: Option<Inflater>,
    failed: Option<Error>,
}

enum State {
    /// Reading a message's length: the bits so far and how many bytes they took.
    Length { value: u64, bytes: u32 },
    /// Reading a message of this many bytes.
    Message { len: usize },
}

const START: State = State::Length { value: 0, bytes: 0 };

impl Default for PullDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl PullDecoder {
    /// A decoder for one answer that refuses `replace_base`.
    pub fn new() -> Self {
        PullDecoder {
            accept_replace_base: false,
            header: None,
            partial: Vec::new(),
            state: START,
            seen: RoaringBitmap::new(),
            page: Box::new([0; PAGE_SIZE]),
            zstd: None,
            inflater: None,
            failed: None,
        }
    }

    /// Lets answers pass whose pages are a complete new base; see [`PullHeader::apply_mode`].
    pub fn accept_replace_base(mut self) -> Self {
        self.accept_replace_base = true;
        self
    }

    /// Takes the next bytes of the body and reports what they complete to `on`, in order.
    pub fn push(&mut self, bytes: &[u8], on: &mut OnEvent<'_>) -> Result<()> {
        self.check_alive()?;
        let result = self.push_inner(bytes, on);
        self.remember(result)
    }

    /// The body has ended. Fails if it ended too early, as far as that can be known.
    pub fn finish(&mut self) -> Result<()> {
        self.check_alive()?;
        let result = self.finish_inner();
        self.remember(result)
    }

    /// The header, once it has arrived.
    pub fn header(&self) -> Option<&PullHeader> {
        self.header.as_ref()
    }

    /// Number of pages handed out so far.
    pub fn pages(&self) -> u64 {
        self.seen.len()
    }

    fn check_alive(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn remember(&mut self, result: Result<()>) -> Result<()> {
        self.failed = result.as_ref().err().cloned();
        result
    }

    fn push_inner(&mut self, mut bytes: &[u8], on: &mut OnEvent<'_>) -> Result<()> {
        loop {
            if let Some(mut inflater) = self.inflater.take() {
                inflater.inflate(bytes, &mut |piece| self.push_inner(piece, on))?;
                self.inflater = Some(inflater);
                return Ok(());
            }
            match self.state {
                State::Length { value, bytes: count } => {
                    let Some((&byte, rest)) = bytes.split_first() else {
                        return Ok(());
                    };
                    bytes = rest;
                    self.state = self.length_byte(value, count, byte)?;
                }
                State::Message { len } => {
                    let missing = len.saturating_sub(self.partial.len());
                    let Some((head, rest)) = bytes.split_at_checked(missing) else {
                        self.partial.extend_from_slice(bytes);
                        return Ok(());
                    };
                    bytes = rest;
                    self.state = START;
                    if self.partial.is_empty() {
                        self.message(head, on)?;
                    } else {
                        let mut whole = std::mem::take(&mut self.partial);
                        whole.extend_from_slice(head);
                        self.message(&whole, on)?;
                        whole.clear();
                        self.partial = whole;
                    }
                }
            }
        }
    }

    fn length_byte(&self, value: u64, count: u32, byte: u8) -> Result<State> {
        let value = value | u64::from(byte & 0x7f) << (7 * count);
        if byte & 0x80 != 0 {
            return match count {
                0..8 => Ok(State::Length {
                    value,
                    bytes: count + 1,
                }),
                _ => Err(Error::protocol("a message length has more than 9 bytes")),
            };
        }
        let (what, limit) = match self.header {
            None => ("header", MAX_HEADER_LEN),
            Some(_) => ("page", MAX_PAGE_MESSAGE_LEN),
        };
        match usize::try_from(value) {
            Ok(len) if len <= limit => Ok(State::Message { len }),
            _ => Err(Error::protocol(format!(
                "a {what} message has {value} bytes, more than {limit}"
            ))),
        }
    }

    fn message(&mut self, bytes: &[u8], on: &mut OnEvent<'_>) -> Result<()> {
        if self.header.is_some() {
            return self.page(bytes, on);
        }
        let header = PullHeader::decode(bytes)
            .map_err(|e| Error::protocol(format!("malformed header in the answer to a pull: {e}")))?;
        check_header(&header, self.accept_replace_base)?;
        if header.zstd_encoding.is_some() {
            let decompressor = zstd::bulk::Decompressor::new()
                .map_err(|e| Error::internal(format!("zstd decompressor: {e}")))?;
            self.zstd = Some(decompressor);
        }
        if header.stream_zstd.is_some() {
            self.inflater = Some(Inflater::new()?);
        }
        self.header = Some(header.clone());
        on(PullEvent::Header(header))
    }

    fn page(&mut self, bytes: &[u8], on: &mut OnEvent<'_>) -> Result<()> {
        let message = PageMessage::decode(bytes)
            .map_err(|e| Error::protocol(format!("malformed page in the answer to a pull: {e}")))?;
        let header = self
            .header
            .as_ref()
            .ok_or_else(|| Error::internal("page before header"))?;
        let id = message.page_id;
        if id >= header.db_size {
            return Err(Error::protocol(format!(
                "page id {id} lies past the end of a database of {} pages",
                header.db_size
            )));
        }
        let page_no = u32::try_from(id + 1).map_err(|_| Error::protocol("page id out of range"))?;
        if self.seen.contains(page_no) {
            return Err(Error::protocol(format!("page id {id} was sent twice")));
        }
        if header.remaining.is_some() && self.seen.max().is_some_and(|last| last > page_no) {
            return Err(Error::protocol(format!("page id {id} is not in ascending order")));
        }
        if header.page_count.is_some_and(|count| self.seen.len() >= count) {
            return Err(Error::protocol("more pages than the header announced"));
        }
        match (&header.raw_encoding, &mut self.zstd) {
            (Some(_), None) => copy_page(&message.encoded_page, &mut self.page)?,
            (None, Some(zstd)) => unpack_page(zstd, &message.encoded_page, &mut self.page)?,
            _ => {
                return Err(Error::protocol(
                    "the header does not name exactly one page encoding",
                ));
            }
        }
        if message
            .crc32c
            .is_some_and(|crc| crc != crc32c::crc32c(&self.page[..]))
        {
            return Err(
                Error::protocol(format!("page id {id} was damaged on its way: wrong checksum")).retry(),
            );
        }
        self.seen.insert(page_no);
        on(PullEvent::Page {
            page_no,
            data: &self.page,
        })
    }

    fn finish_inner(&mut self) -> Result<()> {
        let cut =
            |what: &str| Err(Error::protocol(format!("the answer to a pull was cut short: {what}")).retry());
        if self
            .inflater
            .as_ref()
            .is_some_and(|inflater| !inflater.has_ended())
        {
            return cut("the end of the compressed stream is missing");
        }
        if !self.partial.is_empty() || !matches!(self.state, State::Length { bytes: 0, .. }) {
            return cut("it ends inside a message");
        }
        match &self.header {
            None => cut("it has no header"),
            Some(PullHeader {
                page_count: Some(count),
                ..
            }) if *count != self.seen.len() => cut(&format!("{} of {count} pages arrived", self.seen.len())),
            Some(_) => Ok(()),
        }
    }
}

fn check_header(header: &PullHeader, accept_replace_base: bool) -> Result<()> {
    if header.stream_kind == 1 || header.protocol == PROTOCOL_MVCC {
        return Err(Error::protocol(
            "the remote database is in MVCC mode; its logical stream is not supported, only pages are",
        ));
    }
    if header.stream_kind != STREAM_PAGES {
        return Err(Error::protocol(format!(
            "unknown stream kind {}",
            header.stream_kind
        )));
    }
    match header.apply_mode {
        APPLY_INCREMENTAL => {}
        APPLY_REPLACE_BASE if accept_replace_base => {}
        APPLY_REPLACE_BASE => {
            return Err(Error::protocol(
                "the remote sent a new base where changes were expected",
            ));
        }
        other => return Err(Error::protocol(format!("unknown apply mode {other}"))),
    }
    if header.server_revision.is_empty() {
        return Err(Error::protocol("the remote sent an empty revision"));
    }
    if header.db_size > MAX_PAGE_COUNT {
        return Err(Error::protocol(format!(
            "a database of {} pages is impossible",
            header.db_size
        )));
    }
    if header.page_count.is_some_and(|count| count > header.db_size) {
        return Err(Error::protocol(
            "the remote announced more pages than the database has",
        ));
    }
    if header.remaining.is_some_and(|remaining| {
        // Who left something out has sent something.
        remaining > header.db_size || (remaining > 0 && header.page_count == Some(0))
    }) {
        return Err(Error::protocol("the remote announced pages that it cannot have"));
    }
    if header
        .zstd_encoding
        .as_ref()
        .is_some_and(|zstd| !zstd.pages_dict.is_empty())
    {
        return Err(Error::protocol("zstd dictionaries are not supported"));
    }
    Ok(())
}

fn copy_page(payload: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<()> {
    let whole: &[u8; PAGE_SIZE] = payload.try_into().map_err(|_| wrong_size(payload.len()))?;
    *page = *whole;
    Ok(())
}

fn unpack_page(
    zstd: &mut zstd::bulk::Decompressor<'_>,
    payload: &[u8],
    page: &mut [u8; PAGE_SIZE],
) -> Result<()> {
    // The destination has a fixed size: a longer page is an error of the decompressor, not an allocation.
    let len = zstd.decompress_to_buffer(payload, &mut page[..]).map_err(|e| {
        Error::protocol(format!(
            "a compressed page cannot be decoded to {PAGE_SIZE} bytes: {e}"
        ))
    })?;
    if len == PAGE_SIZE {
        Ok(())
    } else {
        Err(wrong_size(len))
    }
}

fn wrong_size(len: usize) -> Error {
    Error::protocol(format!(
        "a page has {len} bytes; only databases with a page size of {PAGE_SIZE} can be synced"
    ))
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;

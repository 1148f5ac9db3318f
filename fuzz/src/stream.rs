//! The answer to a pull.

use prost::Message;
use turso_sync::error::Error;
use turso_sync::protocol::PAGE_SIZE;
use turso_sync::protocol::pull::{
    PageMessage, PullDecoder, PullEvent, PullHeader, RawEncoding, ZstdEncoding,
};

use super::input::Input;

/// What a decoder made of an answer.
#[derive(Debug, PartialEq)]
struct Outcome {
    headers: usize,
    packed: bool,
    pages: Vec<(u32, u32)>,
    end: Result<(), Error>,
}

/// Feeds a stream whole and in pieces; both must mean the same.
pub fn page_stream(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let size_of_pieces = usize::from(input.u8()) + 1;
    let built;
    let body = match flags & 1 {
        0 => input.rest(),
        _ => {
            built = stream(&mut input);
            &built
        }
    };
    let whole = decode(body, body.len().max(1), flags & 2 != 0);
    let pieces = decode(body, size_of_pieces, flags & 2 != 0);
    assert_eq!(whole.end.is_ok(), pieces.end.is_ok());
    // How much of a compressed stream is read before an error is seen depends on its pieces.
    if whole.end.is_ok() || !whole.packed {
        assert_eq!(whole, pieces);
    }
}

fn decode(body: &[u8], size_of_pieces: usize, accept_replace_base: bool) -> Outcome {
    let mut decoder = PullDecoder::new();
    if accept_replace_base {
        decoder = decoder.accept_replace_base();
    }
    let (mut headers, mut packed, mut pages) = (0, false, Vec::new());
    let mut end = Ok(());
    for piece in body.chunks(size_of_pieces) {
        end = decoder.push(piece, &mut |event| {
            match event {
                PullEvent::Header(header) => {
                    assert!(headers == 0 && pages.is_empty() && !header.server_revision.is_empty());
                    headers += 1;
                    packed = header.stream_zstd.is_some();
                }
                PullEvent::Page { page_no, data } => {
                    assert!(headers == 1 && page_no > 0);
                    pages.push((page_no, crc32c::crc32c(data)));
                }
            }
            Ok(())
        });
        if end.is_err() {
            break;
        }
    }
    let end = match end {
        Ok(()) => decoder.finish(),
        // An error stays.
        Err(e) => {
            assert_eq!(decoder.push(b"more", &mut |_| Ok(())), Err(e.clone()));
            Err(e)
        }
    };
    assert_eq!(decoder.pages(), pages.len() as u64);
    Outcome {
        headers,
        packed,
        pages,
        end,
    }
}

/// A stream whose framing is right, most of the time: a fuzzer would hardly find one.
fn stream(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut packed_from = None;
    while !input.is_empty() && out.len() < 1 << 20 {
        match input.u8() % 8 {
            0 => out.extend_from_slice(input.bytes()),
            1 => framed(input.bytes(), &mut out),
            2 => {
                let header = header(input);
                out.extend_from_slice(&header.encode_length_delimited_to_vec());
                if header.stream_zstd.is_some() {
                    packed_from.get_or_insert(out.len());
                }
            }
            _ => out.extend_from_slice(&page(input).encode_length_delimited_to_vec()),
        }
    }
    if let Some(at) = packed_from {
        let packed = zstd::bulk::compress(&out[at..], 1).unwrap_or_default();
        out.truncate(at);
        out.extend_from_slice(&packed);
    }
    out
}

fn framed(message: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_varint(message.len() as u64, out);
    out.extend_from_slice(message);
}

fn header(input: &mut Input<'_>) -> PullHeader {
    let kind = input.u8();
    PullHeader {
        server_revision: String::from_utf8_lossy(input.bytes()).into_owned(),
        db_size: input.number(),
        raw_encoding: (kind & 1 == 0).then_some(RawEncoding {}),
        zstd_encoding: (kind & 2 != 0).then(|| ZstdEncoding {
            level: input.u8().into(),
            pages_dict: vec![0; usize::from(input.one_in(8))],
        }),
        stream_kind: i32::from(input.one_in(16)),
        apply_mode: i32::from(input.one_in(8)),
        mvcc_log: input.one_in(16).then(Vec::new),
        protocol: i32::from(input.u8() % 3),
        page_count: input.one_in(2).then(|| input.number()),
        dialects: u32::from(kind >> 3 & 3),
        question: (kind & 0x20 != 0).then_some(7),
        stream_zstd: (kind & 0x40 != 0).then(ZstdEncoding::default),
        remaining: (kind & 0x80 != 0).then(|| input.number()),
    }
}

fn page(input: &mut Input<'_>) -> PageMessage {
    let mut page = input.bytes().to_vec();
    let kind = input.u8();
    if kind & 8 == 0 {
        page.resize(PAGE_SIZE, kind);
    }
    let crc = crc32c::crc32c(&page);
    PageMessage {
        page_id: input.number(),
        encoded_page: match kind & 3 {
            0 => page,
            1 => zstd::bulk::compress(&page, 1).unwrap_or_default(),
            // A bomb: very little that becomes very much.
            2 => zstd::bulk::compress(&vec![kind; 8 << 20], 1).unwrap_or_default(),
            _ => input.bytes().to_vec(),
        },
        crc32c: match kind & 0x70 {
            0 => Some(!crc),
            0x10..=0x40 => Some(crc),
            _ => None,
        },
    }
}

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Header(PullHeader),
    Page(u32, Vec<u8>),
}

fn record(event: PullEvent<'_>) -> Seen {
    match event {
        PullEvent::Header(header) => Seen::Header(header),
        PullEvent::Page { page_no, data } => Seen::Page(page_no, data.to_vec()),
    }
}

fn decode_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    let mut decoder = PullDecoder::new();
    for piece in pieces {
        decoder.push(piece, &mut |event| {
            seen.push(record(event));
            Ok(())
        })?;
    }
    decoder.finish()?;
    Ok(seen)
}

fn decode(bytes: &[u8]) -> Result<Vec<Seen>> {
    decode_pieces([bytes])
}

fn header(db_size: u64) -> PullHeader {
    PullHeader {
        server_revision: "r".to_owned(),
        db_size,
        raw_encoding: Some(RawEncoding {}),
        protocol: PROTOCOL_PAGES,
        ..Default::default()
    }
}

fn page(fill: u8) -> [u8; PAGE_SIZE] {
    [fill; PAGE_SIZE]
}

fn answer(header: &PullHeader, ids: &[u32]) -> Vec<u8> {
    let mut out = encode_header(header);
    for &id in ids {
        let page = page(id as u8);
        encode_page(id, &page, page.to_vec(), &mut out).unwrap();
    }
    out
}

fn refused(bytes: &[u8], text: &str) {
    let error = decode(bytes).unwrap_err();
    assert!(error.message.contains(text), "{error}");
    assert_eq!(error.category, crate::error::Category::Protocol);
}

fn fixture(name: &str) -> Option<Vec<u8>> {
    let path = format!("{}/../shared/wire-fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).ok()
}

#[test]
fn literal_request() {
    let request = PullUpdatesRequest {
        client_revision: "3".to_owned(),
        long_poll_timeout_ms: 1234,
        ..Default::default()
    };
    assert_eq!(encode_request(&request), [0x1a, 1, 0x33, 0x20, 0xd2, 9]);
    assert_eq!(decode_request(&[0x1a, 1, 0x33, 0x20, 0xd2, 9]).unwrap(), request);
    assert_eq!(decode_request(&[]).unwrap(), PullUpdatesRequest::default());
    assert!(encode_request(&PullUpdatesRequest::default()).is_empty());
    assert!(decode_request(&[0x1a, 9]).is_err());
}

#[test]
fn literal_two_page_answer() {
    let mut bytes = vec![9, 0x0a, 1, 0x33, 0x10, 2, 0x1a, 0, 0x40, 1];
    bytes.extend([0x83, 0x20, 0x12, 0x80, 0x20]);
    bytes.extend(page(7));
    bytes.extend([0x85, 0x20, 8, 1, 0x12, 0x80, 0x20]);
    bytes.extend(page(8));
    let mut expected = header(2);
    expected.server_revision = "3".to_owned();
    assert_eq!(
        decode(&bytes).unwrap(),
        [
            Seen::Header(expected),
            Seen::Page(1, page(7).to_vec()),
            Seen::Page(2, page(8).to_vec())
        ]
    );
}

#[test]
fn every_recorded_answer_decodes() {
    for (name, revision, pages) in [
        ("01_bootstrap_empty_remote", "0", vec![]),
        ("02_bootstrap_full", "3", vec![1, 2]),
        ("04_pull_incremental", "11", (1..=8).collect()),
        ("05_pull_empty", "11", vec![]),
        ("08_bootstrap_chunk_last", "14", vec![9]),
        ("09_pull_long_poll_field", "14", vec![]),
    ] {
        let Some(bytes) = fixture(&format!("{name}.resp.bin")) else {
            return;
        };
        let seen = decode(&bytes).unwrap();
        let Seen::Header(header) = &seen[0] else {
            panic!("{name}: no header first")
        };
        assert_eq!(header.server_revision, revision);
        assert_eq!(header.protocol, PROTOCOL_PAGES);
        let mut found: Vec<u32> = seen
            .iter()
            .filter_map(|s| {
                if let Seen::Page(no, _) = s {
                    Some(*no)
                } else {
                    None
                }
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, pages, "{name}");
    }
}

#[test]
fn every_recorded_request_decodes() {
    let read = |name: &str| decode_request(&fixture(&format!("{name}.req.bin"))?).ok();
    if fixture("02_bootstrap_full.req.bin").is_none() {
        return;
    }
    assert_eq!(
        read("01_bootstrap_empty_remote"),
        Some(PullUpdatesRequest::default())
    );
    assert_eq!(read("02_bootstrap_full"), Some(PullUpdatesRequest::default()));
    assert_eq!(read("04_pull_incremental").unwrap().client_revision, "3");
    assert_eq!(read("05_pull_empty").unwrap().client_revision, "11");
    assert_eq!(
        read("09_pull_long_poll_field").unwrap().long_poll_timeout_ms,
        2000
    );
    let chunk = read("08_bootstrap_chunk_last").unwrap();
    assert_eq!(chunk.server_revision, "14");
    let ids = crate::protocol::selector::decode(&chunk.server_pages_selector).unwrap();
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [8]);
}

#[test]
fn page_lengths_are_predicted() {
    for id in [0, 1, 127, 128, 20_000, 3_000_000, u32::MAX - 1] {
        let mut out = Vec::new();
        encode_page(id, &page(1), page(1).to_vec(), &mut out).unwrap();
        assert_eq!(out.len() as u64, raw_page_len(id), "{id}");
    }
}

#[test]
fn zstd_pages() {
    let mut head = header(1);
    head.raw_encoding = None;
    head.zstd_encoding = Some(ZstdEncoding::default());
    let with = |payload: Vec<u8>| {
        let mut out = encode_header(&head);
        encode_page(0, &page(5), payload, &mut out).unwrap();
        out
    };
    let good = with(zstd::bulk::compress(&page(5), 3).unwrap());
    assert_eq!(decode(&good).unwrap()[1], Seen::Page(1, page(5).to_vec()));
    refused(&with(zstd::bulk::compress(&[0; 2000], 3).unwrap()), "2000 bytes");
    refused(
        &with(zstd::bulk::compress(&[0; 1 << 20], 3).unwrap()),
        "compressed page",
    );
    refused(&with(b"not zstd".to_vec()), "compressed page");
    refused(&with(zstd::bulk::compress(&page(6), 3).unwrap()), "checksum");
    head.zstd_encoding = Some(ZstdEncoding {
        level: 1,
        pages_dict: vec![1],
    });
    refused(&encode_header(&head), "dictionaries");
}

/// An answer that is one zstd frame behind its header.
fn packed(ids: &[u32]) -> Vec<u8> {
    let head = PullHeader {
        page_count: Some(ids.len() as u64),
        stream_zstd: Some(ZstdEncoding::default()),
        ..header(300)
    };
    let raw = answer(&head, ids);
    let (head, rest) = raw.split_at(encode_header(&head).len());
    [head, &zstd::bulk::compress(rest, 3).unwrap()].concat()
}

#[test]
fn streams_that_are_compressed_as_a_whole() {
    let ids = [0, 299, 7, 128];
    let whole = decode(&packed(&ids)).unwrap();
    let pages = whole[1..].iter().zip(ids);
    assert_eq!(whole.len(), 5);
    for (seen, id) in pages {
        assert_eq!(*seen, Seen::Page(id + 1, page(id as u8).to_vec()));
    }
    assert_eq!(decode(&packed(&[])).unwrap().len(), 1);
    let bytes = packed(&ids);
    for len in 0..bytes.len() {
        let error = decode(&bytes[..len]).unwrap_err();
        assert!(
            error.message.contains("cut short") && error.retryable,
            "{len}: {error}"
        );
    }
    refused(&[&bytes[..], b"x"].concat(), "behind the end");
}

#[test]
fn hostile_headers() {
    let bad = |change: &dyn Fn(&mut PullHeader)| {
        let mut head = header(10);
        change(&mut head);
        encode_header(&head)
    };
    refused(&bad(&|h| h.server_revision.clear()), "empty revision");
    refused(&bad(&|h| h.db_size = 1 << 32), "impossible");
    refused(&bad(&|h| h.stream_kind = 1), "not supported");
    refused(&bad(&|h| h.protocol = PROTOCOL_MVCC), "not supported");
    refused(&bad(&|h| h.stream_kind = 9), "stream kind 9");
    refused(&bad(&|h| h.apply_mode = APPLY_REPLACE_BASE), "new base");
    refused(&bad(&|h| h.apply_mode = 9), "apply mode 9");
    refused(&bad(&|h| h.page_count = Some(11)), "more pages than");
    refused(
        &bad(&|h| h.server_revision = "x".repeat(MAX_HEADER_LEN)),
        "more than",
    );
    refused(&[0xff; 20], "9 bytes");
    refused(
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        "more than",
    );
    refused(&[2, 0xff, 0xff], "malformed header");
    let replaced = bad(&|h| h.apply_mode = APPLY_REPLACE_BASE);
    let mut decoder = PullDecoder::new().accept_replace_base();
    decoder.push(&replaced, &mut |_| Ok(())).unwrap();
    assert_eq!(decoder.header().unwrap().apply_mode, APPLY_REPLACE_BASE);
}

#[test]
fn hostile_pages() {
    refused(&answer(&header(2), &[0, 2]), "past the end");
    refused(&answer(&header(0), &[0]), "past the end");
    refused(&answer(&header(9), &[3, 3]), "twice");
    refused(
        &answer(
            &PullHeader {
                page_count: Some(1),
                ..header(9)
            },
            &[3, 4],
        ),
        "more pages",
    );
    refused(
        &answer(
            &PullHeader {
                raw_encoding: None,
                ..header(9)
            },
            &[3],
        ),
        "exactly one",
    );
    refused(
        &answer(
            &PullHeader {
                zstd_encoding: Some(ZstdEncoding::default()),
                ..header(9)
            },
            &[3],
        ),
        "exactly one",
    );
    let with = |payload: Vec<u8>| {
        let mut out = encode_header(&header(3));
        encode_page(0, &page(0), payload, &mut out).unwrap();
        out
    };
    refused(&with(vec![0; 1024]), "1024 bytes");
    refused(&with(vec![0; 8192]), "more than");
    refused(&with(vec![1; 4096]), "checksum");
}

#[test]
fn cut_answers() {
    let counted = PullHeader {
        page_count: Some(2),
        ..header(3)
    };
    let whole = answer(&counted, &[0, 2]);
    let between = [&[][..], &[0]].map(|pages| answer(&counted, pages).len());
    // Under Miri not all of them, which takes half an hour.
    let lens = (0..whole.len()).filter(|len| !cfg!(miri) || len % 200 == 0 || between.contains(len));
    let mut ends = 0;
    for len in lens {
        let error = decode(&whole[..len]).unwrap_err();
        assert!(
            error.message.contains("cut short") && error.retryable,
            "{len}: {error}"
        );
        ends += usize::from(error.message.contains("of 2 pages"));
    }
    assert_eq!(ends, 2, "cuts between messages are seen by their count only");
    let uncounted = answer(&header(3), &[0, 2]);
    assert!(decode(&uncounted[..uncounted.len() - 1]).is_err());
}

#[test]
fn an_error_is_final() {
    let mut decoder = PullDecoder::new();
    let stop = || Error::internal("stop");
    assert_eq!(
        decoder.push(&answer(&header(1), &[0]), &mut |_| Err(stop())),
        Err(stop())
    );
    assert_eq!(decoder.push(&[], &mut |_| Ok(())), Err(stop()));
    assert_eq!(decoder.finish(), Err(stop()));
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(cuts in proptest::collection::vec(0usize..13_000, 0..40)) {
        let bytes = answer(&PullHeader { page_count: Some(3), ..header(300) }, &[0, 299, 128]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]);
        prop_assert_eq!(decode_pieces(pieces).unwrap(), decode(&bytes).unwrap());
    }

    #[test]
    fn any_split_of_a_compressed_stream_gives_the_same_events(size in 1usize..400) {
        let bytes = packed(&[0, 299, 128]);
        prop_assert_eq!(decode_pieces(bytes.chunks(size)).unwrap(), decode(&bytes).unwrap());
    }

    #[test]
    fn garbage_is_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let mut after_header = encode_header(&header(1000));
        after_header.extend(&bytes);
        let _ = decode(&after_header);
        let _ = decode_request(&bytes);
    }

    #[test]
    fn damaged_answers_never_panic(at in 0usize..8300, byte in any::<u8>()) {
        let mut bytes = answer(&header(9), &[0, 5]);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode(&bytes);
    }
}

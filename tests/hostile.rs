//! A server that lies in every field: each lie costs a clear error and bounded memory, nothing changes on this side,
//! and the replica works with an honest server afterwards.
#![cfg(feature = "server")]

#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/scene.rs"]
mod scene;

use std::io::Write;

use prost::Message;
use scene::*;
use turso_sync::engine::ProtocolVersion;
use turso_sync::error::{Category, Code};
use turso_sync::protocol::pull::{PageMessage, PullHeader, RawEncoding, ZstdEncoding};
use turso_sync::protocol::{PAGE_SIZE, pull, push};

const KB: usize = 1 << 10;
const MB: usize = 1 << 20;

/// What no lie about a pull may cost: the buffers of a download (256 KiB), an overlay, SQL text, one decompressor.
const PULL_MEMORY: usize = MB;
/// What no lie about the push of a few rows may cost: the longest answer, and what becomes of it.
const PUSH_MEMORY: usize = 3 * MB;

fn header() -> PullHeader {
    PullHeader {
        server_revision: "a lie".into(),
        db_size: 3,
        raw_encoding: Some(RawEncoding {}),
        protocol: pull::PROTOCOL_PAGES,
        ..Default::default()
    }
}

fn packed() -> PullHeader {
    PullHeader {
        raw_encoding: None,
        zstd_encoding: Some(ZstdEncoding::default()),
        ..header()
    }
}

fn page(page_id: u64, encoded_page: Vec<u8>) -> PageMessage {
    PageMessage {
        page_id,
        encoded_page,
        crc32c: None,
    }
}

fn zeros(page_id: u64) -> PageMessage {
    page(page_id, vec![0; PAGE_SIZE])
}

/// A first page that says of itself what a database of `pages` pages says, changed by `change`.
fn first(pages: u32, change: impl FnOnce(&mut [u8])) -> PageMessage {
    let mut data = vec![0; PAGE_SIZE];
    data[..16].copy_from_slice(b"SQLite format 3\0");
    data[16..20].copy_from_slice(&[0x10, 0, 2, 2]);
    data[28..32].copy_from_slice(&pages.to_be_bytes());
    change(&mut data);
    page(0, data)
}

fn body(header: PullHeader, pages: impl IntoIterator<Item = PageMessage>) -> Vec<u8> {
    let mut out = header.encode_length_delimited_to_vec();
    for page in pages {
        out.extend_from_slice(&page.encode_length_delimited_to_vec());
    }
    out
}

/// Answers to a pull that are never right, whatever the replica has; with a part of the error.
fn lies_about_pages() -> Vec<(&'static str, Lie)> {
    let bomb = zstd::bulk::compress(&vec![0; 64 * MB], 19).unwrap();
    let mut declared = zstd::bulk::compress(&[0; PAGE_SIZE], 1).unwrap();
    // A frame header whose content size has eight bytes: https://datatracker.ietf.org/doc/html/rfc8878#section-3.1.1
    declared.splice(4..7, [0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let long = |n: usize| "r".repeat(n);
    let many = |ids: std::ops::Range<u64>| ids.map(zeros);
    vec![
        ("cut short", Lie::ok([])),
        ("cut short", Lie::ok([0x80])),
        ("cut short", Lie::ok([5, 1, 2])),
        ("9 bytes", Lie::ok([0xff; 64])),
        ("header message has", Lie::ok([0xff, 0xff, 0xff, 0xff, 0x7f])),
        (
            "header message has",
            Lie::endless([0x81, 0x80, 0x80, 0x80, 1], vec![7; 64 * KB], 2000),
        ),
        ("malformed header", Lie::ok([2, 0xff, 0xff])),
        (
            "empty revision",
            Lie::ok(body(
                PullHeader {
                    server_revision: "".into(),
                    ..header()
                },
                [],
            )),
        ),
        (
            "header message has",
            Lie::ok(body(
                PullHeader {
                    server_revision: long(100 * MB),
                    ..header()
                },
                [],
            )),
        ),
        (
            "cannot have",
            Lie::ok(body(
                PullHeader {
                    remaining: Some(u64::MAX),
                    ..header()
                },
                [],
            )),
        ),
        (
            "cannot have",
            Lie::ok(body(
                PullHeader {
                    page_count: Some(0),
                    remaining: Some(1),
                    ..header()
                },
                [],
            )),
        ),
        (
            "ascending",
            Lie::ok(body(
                PullHeader {
                    page_count: Some(2),
                    remaining: Some(0),
                    ..header()
                },
                [zeros(2), zeros(1)],
            )),
        ),
        (
            "impossible",
            Lie::ok(body(
                PullHeader {
                    db_size: u64::MAX,
                    ..header()
                },
                [],
            )),
        ),
        (
            "impossible",
            Lie::ok(body(
                PullHeader {
                    db_size: 0xffff_ffff,
                    ..header()
                },
                [],
            )),
        ),
        (
            "did not send page|incomplete",
            Lie::ok(body(
                PullHeader {
                    db_size: 0xffff_fffe,
                    ..header()
                },
                [first(3, |_| ())],
            )),
        ),
        (
            "did not send page|incomplete",
            Lie::ok(body(
                PullHeader {
                    db_size: 500,
                    ..header()
                },
                many(1..400),
            )),
        ),
        (
            "past the end",
            Lie::ok(body(
                PullHeader {
                    db_size: 0,
                    ..header()
                },
                [zeros(0)],
            )),
        ),
        (
            "announced more",
            Lie::ok(body(
                PullHeader {
                    page_count: Some(4),
                    ..header()
                },
                [],
            )),
        ),
        (
            "announced more",
            Lie::ok(body(
                PullHeader {
                    page_count: Some(u64::MAX),
                    ..header()
                },
                [],
            )),
        ),
        (
            "more pages than|not the header",
            Lie::ok(body(
                PullHeader {
                    page_count: Some(1),
                    ..header()
                },
                many(0..2),
            )),
        ),
        (
            "cut short",
            Lie::ok(body(
                PullHeader {
                    page_count: Some(3),
                    ..header()
                },
                many(1..3),
            )),
        ),
        (
            "MVCC",
            Lie::ok(body(
                PullHeader {
                    stream_kind: 1,
                    ..header()
                },
                [],
            )),
        ),
        (
            "stream kind",
            Lie::ok(body(
                PullHeader {
                    stream_kind: -9,
                    ..header()
                },
                [],
            )),
        ),
        (
            "MVCC",
            Lie::ok(body(
                PullHeader {
                    protocol: pull::PROTOCOL_MVCC,
                    ..header()
                },
                [],
            )),
        ),
        (
            "new base",
            Lie::ok(body(
                PullHeader {
                    apply_mode: 1,
                    ..header()
                },
                [],
            )),
        ),
        (
            "apply mode",
            Lie::ok(body(
                PullHeader {
                    apply_mode: 77,
                    ..header()
                },
                [],
            )),
        ),
        (
            "page encoding",
            Lie::ok(body(
                PullHeader {
                    raw_encoding: None,
                    ..header()
                },
                [zeros(0)],
            )),
        ),
        (
            "page encoding",
            Lie::ok(body(
                PullHeader {
                    raw_encoding: Some(RawEncoding {}),
                    ..packed()
                },
                [zeros(0)],
            )),
        ),
        (
            "dictionaries",
            Lie::ok(body(
                PullHeader {
                    zstd_encoding: Some(ZstdEncoding {
                        level: 0,
                        pages_dict: vec![1; 5000],
                    }),
                    ..packed()
                },
                [],
            )),
        ),
        ("past the end", Lie::ok(body(header(), [zeros(3)]))),
        ("past the end", Lie::ok(body(header(), [zeros(u64::MAX)]))),
        (
            "twice",
            Lie::ok(body(header(), [first(3, |_| ()), first(3, |_| ())])),
        ),
        ("has 0 bytes", Lie::ok(body(header(), [page(1, vec![])]))),
        (
            "has 4095 bytes",
            Lie::ok(body(header(), [page(1, vec![0; PAGE_SIZE - 1])])),
        ),
        (
            "has 4097 bytes",
            Lie::ok(body(header(), [page(1, vec![0; PAGE_SIZE + 1])])),
        ),
        (
            "page message has",
            Lie::ok(body(header(), [page(1, vec![0; 2 * PAGE_SIZE])])),
        ),
        (
            "page message has",
            Lie::ok(body(header(), [page(1, vec![0; 100 * MB])])),
        ),
        (
            "malformed page",
            Lie::ok([body(header(), []), vec![3, 0x12, 0xff, 1]].concat()),
        ),
        (
            "wrong checksum",
            Lie::ok(body(
                header(),
                [PageMessage {
                    crc32c: Some(7),
                    ..zeros(1)
                }],
            )),
        ),
        ("cannot be decoded", Lie::ok(body(packed(), [page(1, bomb)]))),
        ("cannot be decoded", Lie::ok(body(packed(), [page(1, declared)]))),
        (
            "cannot be decoded",
            Lie::ok(body(packed(), [page(1, b"not zstd".to_vec())])),
        ),
        ("cannot be decoded", Lie::ok(body(packed(), [zeros(1)]))),
        (
            "has 10 bytes",
            Lie::ok(body(
                packed(),
                [page(1, zstd::bulk::compress(&[0; 10], 1).unwrap())],
            )),
        ),
        (
            "has 0 bytes|cannot be decoded",
            Lie::ok(body(packed(), [page(1, vec![])])),
        ),
        (
            "twice",
            Lie::endless(
                body(header(), []),
                body(header(), [zeros(1)])[header().encoded_len() + 1..].to_vec(),
                9000,
            ),
        ),
        ("not the header", Lie::ok(body(header(), many(0..3)))),
        (
            "pages of 8192",
            Lie::ok(body(header(), [first(3, |p| p[16] = 0x20), zeros(1), zeros(2)])),
        ),
        (
            "pages of 1 ",
            Lie::ok(body(
                header(),
                [
                    first(3, |p| p[16..18].copy_from_slice(&[0, 1])),
                    zeros(1),
                    zeros(2),
                ],
            )),
        ),
        (
            "file format version 9",
            Lie::ok(body(header(), [first(3, |p| p[18] = 9), zeros(1), zeros(2)])),
        ),
        (
            "says 99 pages",
            Lie::ok(body(header(), [first(99, |_| ()), zeros(1), zeros(2)])),
        ),
    ]
}

/// Statuses that are not 200, with an endless body.
fn refusals() -> Vec<(&'static str, Lie)> {
    let page = || vec![b'<'; 64 * KB];
    [0u16, 100, 204, 301, 401, 404, 429, 500, 503, 999]
        .into_iter()
        .map(|status| ("status=", Lie::endless([], page(), 1600).with_status(status)))
        .collect()
}

#[test]
fn a_pull_survives_every_lie() {
    for (part, lie) in lies_about_pages().into_iter().chain(refusals()) {
        let scene = Scene::new();
        let before = scene.content();
        let told = lie.clone();
        let (result, memory) = scene.lied_to(|s| s.engine.pull_changes_from_remote(), &told);
        let error = result.err().unwrap_or_else(|| panic!("{part}: believed"));
        assert!(says(&error, part), "{part}: {error:?}");
        assert!(
            matches!(error.category, Category::Protocol | Category::Remote),
            "{part}: {error:?}"
        );
        assert!(memory < PULL_MEMORY, "{part}: {memory} bytes");
        assert!(
            error.message.len() < 8 * KB,
            "{part}: {} bytes of message",
            error.message.len()
        );
        assert_eq!(scene.content(), before, "{part}");
        scene.works();
    }
}

#[test]
fn a_bootstrap_survives_every_lie() {
    for (part, lie) in lies_about_pages().into_iter().chain(refusals()) {
        let scene = Scene::empty();
        let (result, memory) = scene.lied_to(|s| s.engine.create_db(), &lie);
        let error = result.err().unwrap_or_else(|| panic!("{part}: believed"));
        assert!(says(&error, part), "{part}: {error:?}");
        assert!(
            matches!(error.category, Category::Protocol | Category::Remote),
            "{part}: {error:?}"
        );
        assert!(memory < PULL_MEMORY, "{part}: {memory} bytes");
        assert!(!scene.path.exists(), "{part}");
        scene.honest(scene.engine.create_db()).unwrap();
        scene.works();
    }
}

/// A size that is a lie, of which the client asks for one page after the other.
#[test]
fn a_bootstrap_in_parts_ends_when_nothing_comes() {
    let lie = |pages: Vec<PageMessage>| {
        let header = PullHeader {
            db_size: 0xffff_fffe,
            ..header()
        };
        Lie::ok(body(header, pages))
    };
    for (part, lie) in [
        ("incomplete", lie(vec![])),
        ("twice", lie(vec![first(3, |_| ())])),
    ] {
        let scene = Scene::empty_in_parts(4096);
        let (result, memory) = scene.lied_to(|s| s.engine.create_db(), &lie);
        assert!(says(&result.unwrap_err(), part), "{part}");
        assert!(memory < PULL_MEMORY, "{part}: {memory} bytes");
        scene.honest(scene.engine.create_db()).unwrap();
        scene.works();
    }
}

#[test]
fn an_answer_that_is_cut_anywhere_changes_nothing() {
    let scene = Scene::new();
    let before = scene.content();
    let whole = scene.honest_answer();
    // Within the header, within each page, and between them.
    for cut in (0..40).chain((40..whole.len()).step_by(1021)) {
        let lie = Lie::ok(&whole[..cut]);
        let (result, _) = scene.lied_to(|s| s.engine.pull_changes_from_remote(), &lie);
        let error = result.err().unwrap_or_else(|| panic!("cut at {cut}: believed"));
        assert!(
            error.retryable && error.category == Category::Protocol,
            "{cut}: {error:?}"
        );
        assert_eq!(scene.content(), before, "{cut}");
    }
    scene.works();
}

/// Says that much is missing, and sends the same page again and again, whatever it is asked for.
#[test]
fn a_pull_in_parts_ends_when_the_same_comes_again() {
    for (revision, part) in [("a lie", "not asked for"), ("", "in the middle")] {
        let scene = Scene::new();
        let before = scene.content();
        let asked = std::cell::Cell::new(0);
        let answer = || {
            asked.set(asked.get() + 1);
            let name = match revision {
                "" => format!("revision {}", asked.get()),
                name => name.to_owned(),
            };
            let header = PullHeader {
                server_revision: name,
                db_size: 0xffff_fffe,
                page_count: Some(1),
                remaining: Some(0xffff_0000),
                ..header()
            };
            Lie::ok(body(header, [zeros(7)]))
        };
        let (result, memory) = scene.lied_to_each(scene.engine.pull_changes_from_remote(), answer);
        let error = result.unwrap_err();
        assert!(says(&error, part), "{error:?}");
        assert!(asked.get() < 20, "{}", asked.get());
        assert!(memory < PULL_MEMORY, "{memory} bytes");
        assert_eq!(scene.content(), before);
        scene.works();
    }
}

/// A whole database of `pages` pages that never ends: what is kept in memory is a few bytes per page.
#[test]
fn an_endless_download_costs_a_few_bytes_per_page() {
    const PAGES: u64 = 20_000;
    let head = body(
        PullHeader {
            db_size: 0xffff_fffe,
            ..packed()
        },
        [],
    );
    let packed_page = zstd::bulk::compress(&[0; PAGE_SIZE], 1).unwrap();
    // Ids far from each other and from the base: the least favourable for any set of them.
    let pieces = (0..PAGES)
        .map(move |i| page(1000 + i * 65_537, packed_page.clone()).encode_length_delimited_to_vec());
    let scene = Scene::new();
    let before = scene.content();
    let (result, memory) = scene.fed(scene.engine.pull_changes_from_remote(), head, pieces);
    assert!(says(&result.unwrap_err(), "did not send page"));
    assert!(memory < PULL_MEMORY + 150 * PAGES as usize, "{memory} bytes");
    assert_eq!(scene.content(), before);
    scene.works();
}

/// Pages that are a database by their first page only.
#[test]
fn pages_that_are_no_database_change_nothing() {
    let garbage = |seed: usize| -> Vec<u8> { (0..PAGE_SIZE).map(|i| (i * 31 + seed * 7) as u8).collect() };
    for with_schema in [false, true] {
        let pages = move |count: u32| {
            let mut first = first(count, |data| {
                let filler = garbage(1);
                data[if with_schema { 100.. } else { 112.. }]
                    .copy_from_slice(&filler[if with_schema { 100.. } else { 112.. }]);
            });
            first.encoded_page[20] = 0;
            let rest = (1..u64::from(count)).map(|id| page(id, garbage(id as usize)));
            body(
                PullHeader {
                    db_size: count.into(),
                    ..header()
                },
                std::iter::once(first).chain(rest),
            )
        };
        let scene = Scene::new();
        let before = scene.content();
        let (result, memory) = scene.lied_to(|s| s.engine.pull_changes_from_remote(), &Lie::ok(pages(9)));
        assert!(matches!(
            result.unwrap_err().code,
            Code::Corrupt | Code::NotADb | Code::Error
        ));
        assert!(memory < PULL_MEMORY, "{memory} bytes");
        assert_eq!(scene.content(), before);
        scene.works();

        let scene = Scene::empty();
        let (result, _) = scene.lied_to(|s| s.engine.create_db(), &Lie::ok(pages(9)));
        assert!(matches!(
            result.unwrap_err().code,
            Code::Corrupt | Code::NotADb | Code::Error
        ));
        scene.honest(scene.engine.create_db()).unwrap();
        scene.works();
    }
}

/// Acknowledgements, inside the remote's database, that cannot be.
#[test]
fn impossible_watermarks_are_refused_and_change_nothing() {
    for (row, part) in [
        ("7, 1", "generation 7"),
        ("0, -5", "acknowledged change -5"),
        ("0, 'many'", ""),
        ("NULL, NULL", ""),
    ] {
        let scene = Scene::new();
        let before = scene.content();
        scene.remote_sql(&[
            "CREATE TABLE IF NOT EXISTS turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)",
            &format!("INSERT OR REPLACE INTO turso_sync_last_change_id VALUES ('{}', {row})", scene.client_id()),
        ]);
        for operation in [true, false] {
            let error = match operation {
                true => scene.honest(scene.engine.pull_changes_from_remote()).map(drop),
                false => scene.honest(scene.engine.push_changes_to_remote()),
            }
            .unwrap_err();
            assert!(says(&error, part), "{row}: {error:?}");
        }
        assert_eq!(scene.content(), before, "{row}");
        scene.remote_sql(&["DELETE FROM turso_sync_last_change_id"]);
        scene.works();
    }
}

/// Tables of the remote that have the names of the replica's own.
#[test]
fn names_of_the_replica_can_be_anything_on_the_remote() {
    for sql in [
        "CREATE VIEW turso_cdc AS SELECT 1 AS change_id",
        "CREATE TABLE turso_sync_local (x)",
        "CREATE VIEW turso_sync_local AS SELECT 'epoch' AS name, 9 AS value",
        "CREATE INDEX turso_sync_conflicts ON t (b)",
        "CREATE VIEW turso_sync_last_change_id AS SELECT 1 AS client_id, 2 AS pull_gen, 3 AS change_id",
        "CREATE TABLE turso_sync_last_change_id (strange)",
        "CREATE TABLE turso_cdc_version (version)",
    ] {
        let scene = Scene::new();
        let before = scene.content();
        scene.remote_sql(&[sql]);
        if scene.honest(scene.engine.pull_changes_from_remote()).is_err() {
            assert_eq!(scene.content(), before, "{sql}");
        }
        let name = sql.split(' ').nth(2).unwrap();
        let kind = sql.split(' ').nth(1).unwrap();
        scene.remote_sql(&[&format!("DROP {kind} IF EXISTS {name}")]);
        scene.works();
    }
}

fn batch(results: &str, errors: &str) -> Lie {
    Lie::ok(format!(
        r#"{{"baton":null,"results":[{{"type":"ok","response":{{"type":"batch","result":{{"step_results":{results},"step_errors":{errors}}}}}}}]}}"#
    ))
}

/// Answers to the question for the watermark: one step, one row of three values.
fn lies_about_sql() -> Vec<(&'static str, Lie)> {
    let rows = |rows: &str| batch(&format!(r#"[{{"rows":{rows}}}]"#), "[null]");
    let row = |id: &str, generation: &str, change: &str| {
        format!(
            r#"[{{"type":"text","value":"{id}"}},{{"type":"integer","value":"{generation}"}},{{"type":"integer","value":"{change}"}}]"#
        )
    };
    let error = |message: &str| batch("[null]", &format!(r#"[{{"message":"{message}","code":"X"}}]"#));
    vec![
        ("malformed", Lie::ok([])),
        ("malformed", Lie::ok("null")),
        ("malformed", Lie::ok("[]")),
        ("malformed", Lie::ok("<html>")),
        ("malformed", Lie::ok([0xff, 0xfe])),
        ("malformed", Lie::ok(r#"{"results":[]}"#)),
        (
            "malformed",
            Lie::ok(r#"{"results":[{"type":"ok"},{"type":"ok"}]}"#),
        ),
        ("not a batch", Lie::ok(r#"{"results":[{"type":"ok"}]}"#)),
        (
            "not a batch",
            Lie::ok(r#"{"results":[{"type":"ok","response":{"type":"close"}}]}"#),
        ),
        (
            "not a batch",
            Lie::ok(r#"{"results":[{"type":"ok","response":{"type":"execute","result":{"rows":[]}}}]}"#),
        ),
        (
            "refused",
            Lie::ok(r#"{"results":[{"type":"error","error":{"message":"no"}}]}"#),
        ),
        ("malformed", batch("[]", "[]")),
        ("malformed", batch("[null,null]", "[null]")),
        ("malformed", batch("[null]", "[null,null]")),
        ("malformed", batch("{}", "{}")),
        (
            "malformed",
            batch(&format!("[{}null]", "null,".repeat(10_000)), "[null]"),
        ),
        (
            "malformed",
            batch(&format!("[{}{{}}]", "{},".repeat(20_000)), "[null]"),
        ),
        (
            "longer than",
            batch(&format!("[{}null]", "null,".repeat(40 * MB)), "[null]"),
        ),
        (
            "longer than",
            Lie::endless(r#"{"results":["#, b"{},".repeat(20 * KB), 1600),
        ),
        ("longer than", Lie::endless("", b"[".repeat(64 * KB), 1600)),
        ("malformed", Lie::ok("[".repeat(60 * KB))),
        (
            "malformed",
            Lie::ok(format!(r#"{{"results":{}"#, "[".repeat(60 * KB))),
        ),
        (
            "malformed",
            Lie::ok(format!(r#"{{"x":{}"#, r#"{"x":"#.repeat(12 * KB))),
        ),
        (
            "longer than",
            Lie::endless(r#"{"baton":""#, vec![b'a'; 64 * KB], 1600),
        ),
        ("longer than", error(&"x".repeat(100 * MB))),
        ("refused", error(&"x".repeat(60 * KB))),
        ("did not answer", batch("[null]", "[null]")),
        ("watermark is malformed", rows("[[]]")),
        (
            "watermark is malformed",
            rows(&format!("[{}[]]", "[],".repeat(20_000))),
        ),
        (
            "watermark is malformed",
            rows(r#"[[{"type":"null"},{"type":"null"},{"type":"null"}]]"#),
        ),
        ("malformed", rows(r#"[[{"type":"blob","base64":"?"}]]"#)),
        ("malformed", rows(r#"[[{"type":"integer","value":"1e3"}]]"#)),
        ("malformed", rows(r#"[[{"type":"float","value":1e999}]]"#)),
        ("malformed", rows(r#"[[{"type":"dragon"}]]"#)),
        (
            "several watermarks",
            rows(&format!("[{0},{0}]", row("CLIENT", "0", "0"))),
        ),
        // Perhaps those of a copy: a pull has to find out, and is lied to.
        ("", rows(&format!("[{}]", row("CLIENT", "0", "99")))),
        (
            "watermark of another",
            rows(&format!("[{}]", row("another", "0", "0"))),
        ),
        (
            "acknowledged change -1",
            rows(&format!("[{}]", row("CLIENT", "0", "-1"))),
        ),
        ("generation 3", rows(&format!("[{}]", row("CLIENT", "3", "0")))),
    ]
}

#[test]
fn a_push_survives_every_lie() {
    for (part, lie) in lies_about_sql().into_iter().chain(refusals()) {
        let scene = Scene::new();
        let before = scene.content();
        let lie = lie.naming(&scene.client_id());
        let (result, memory) = scene.lied_to(|s| s.engine.push_changes_to_remote(), &lie);
        let error = result.err().unwrap_or_else(|| panic!("{part}: believed"));
        assert!(says(&error, part), "{part}: {error:?}");
        let expected = [Category::Protocol, Category::Remote, Category::Identity];
        assert!(expected.contains(&error.category), "{part}: {error:?}");
        assert!(memory < PUSH_MEMORY, "{part}: {memory} bytes");
        assert!(
            error.message.len() < 8 * KB,
            "{part}: {} bytes of message",
            error.message.len()
        );
        assert_eq!(scene.content(), before, "{part}");
        scene.works();
    }
}

/// The remote answers the question honestly and lies about the changes.
#[test]
fn changes_stay_pending_whatever_the_remote_says_about_them() {
    for lie in lies_about_sql()
        .into_iter()
        .map(|(_, lie)| lie)
        .chain(refusals().into_iter().map(|(_, lie)| lie))
    {
        let scene = Scene::new();
        let before = scene.content();
        let (result, memory) = scene.lied_to_after(1, |s| s.engine.push_changes_to_remote(), &lie);
        let error = result.unwrap_err();
        assert!(
            matches!(error.category, Category::Protocol | Category::Remote),
            "{error:?}"
        );
        assert!(memory < PUSH_MEMORY, "{memory} bytes");
        assert_eq!(scene.content(), before);
        scene.works();
    }
}

/// What the direct dialect adds to the lies about pages: the stream behind the header.
#[test]
fn a_pull_in_the_direct_dialect_survives_every_lie() {
    let scene = Scene::speaking(ProtocolVersion::Direct);
    let honest = scene.honest_answer();
    let mut decoder = pull::PullDecoder::new();
    decoder.push(&honest, &mut |_| Ok(())).unwrap();
    let header = decoder.header().unwrap().clone();
    let question = header.question;
    let head = header.encode_length_delimited_to_vec();
    let stream = zstd::decode_all(&honest[head.len()..]).unwrap();
    let narrow = |content: &[u8]| {
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        zstd.window_log(19).unwrap();
        zstd.write_all(content).unwrap();
        zstd.finish().unwrap()
    };
    let packed = |content: &[u8]| [&head[..], &narrow(content)].concat();
    let bomb = narrow(&vec![0x80; 256 * MB]);
    let mut wide = zstd::stream::write::Encoder::new(head.clone(), 1).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(&vec![1; 64 * MB]).unwrap();
    let changed = |change: &dyn Fn(&mut PullHeader)| {
        let mut header = header.clone();
        change(&mut header);
        [
            &header.encode_length_delimited_to_vec()[..],
            &honest[head.len()..],
        ]
        .concat()
    };
    assert!(question.is_some());
    let mut lies = vec![
        ("end of the compressed stream is missing", Lie::ok(&head)),
        (
            "cannot be decompressed",
            Lie::ok([&head[..], b"garbage"].concat()),
        ),
        (
            "cannot be decompressed",
            Lie::endless(&head, vec![b'<'; 64 * KB], 1600),
        ),
        ("behind the end", Lie::ok([&honest[..], b"x"].concat())),
        (
            "twice|more pages",
            Lie::ok(packed(&[&stream[..], &stream[..]].concat())),
        ),
        // What is read behind the cut depends on the bytes there.
        (
            "",
            Lie::ok(packed(&[&stream[..stream.len() / 2], &stream[..]].concat())),
        ),
        ("cut short", Lie::ok(packed(&stream[..stream.len() - 1]))),
        ("9 bytes|page message has", Lie::ok([&head[..], &bomb].concat())),
        ("cannot be decompressed", Lie::ok(wide.finish().unwrap())),
        ("not to this question", Lie::ok(changed(&|h| h.question = None))),
        (
            "not to this question",
            Lie::ok(changed(&|h| h.question = question.map(|q| !q))),
        ),
    ];
    for cut in [
        head.len() + 1,
        honest.len() / 2,
        honest.len() - 5,
        honest.len() - 1,
    ] {
        lies.push(("cut short", Lie::ok(&honest[..cut])));
    }
    let pages = lies_about_pages().into_iter().map(|(_, lie)| ("", lie));
    for (part, lie) in lies.into_iter().chain(pages).chain(refusals()) {
        let before = scene.content();
        // What came before a cut would make it another question.
        scene.forget_download();
        let (result, memory) = scene.lied_to(|s| s.engine.pull_changes_from_remote(), &lie);
        let error = result.err().unwrap_or_else(|| panic!("{part}: believed"));
        assert!(says(&error, part), "{part}: {error:?}");
        assert!(
            matches!(error.category, Category::Protocol | Category::Remote),
            "{part}: {error:?}"
        );
        assert!(memory < PULL_MEMORY + MB, "{part}: {memory} bytes");
        assert_eq!(scene.content(), before, "{part}");
    }
    scene.works();
}

#[test]
fn changes_stay_pending_whatever_the_answer_to_a_direct_push_is() {
    let conflict = |step, message: String| push::PushAnswer {
        committed: 0,
        conflicts: vec![push::PushConflict {
            step,
            message,
            ..Default::default()
        }],
    };
    let committed = |committed| push::PushAnswer {
        committed,
        conflicts: Vec::new(),
    };
    let many = push::PushAnswer {
        committed: 0,
        conflicts: vec![push::PushConflict::default(); 9000],
    };
    let both = push::PushAnswer {
        committed: 5,
        ..conflict(3, String::new())
    };
    for (part, lie) in [
        ("0 of", Lie::ok([])),
        ("1 of", Lie::ok(committed(1).encode_to_vec())),
        ("of", Lie::ok(committed(u64::MAX).encode_to_vec())),
        ("of", Lie::ok(both.encode_to_vec())),
        ("of", Lie::ok(conflict(u64::MAX, String::new()).encode_to_vec())),
        ("of", Lie::ok(conflict(10_000, String::new()).encode_to_vec())),
        (
            "refused",
            Lie::ok(conflict(1, "x".repeat(60 * KB)).encode_to_vec()),
        ),
        ("cannot begin", Lie::ok(many.encode_to_vec())),
        (
            "longer than",
            Lie::ok(conflict(1, "x".repeat(100 * MB)).encode_to_vec()),
        ),
        ("longer than", Lie::endless([], vec![0x12; 64 * KB], 1600)),
        ("malformed", Lie::ok("<html>")),
        ("malformed", Lie::ok([0x12, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        ("malformed", Lie::ok([0x12, 3, 0x2a, 1, 0xff])),
    ]
    .into_iter()
    .chain(refusals())
    {
        let scene = Scene::speaking(ProtocolVersion::Direct);
        let before = scene.content();
        let (result, memory) = scene.lied_to_after(1, |s| s.engine.push_changes_to_remote(), &lie);
        let error = result.err().unwrap_or_else(|| panic!("{part}: believed"));
        assert!(says(&error, part), "{part}: {error:?}");
        assert!(
            matches!(error.category, Category::Protocol | Category::Remote),
            "{error:?}"
        );
        assert!(memory < PUSH_MEMORY, "{memory} bytes");
        assert!(error.message.len() < 8 * KB);
        assert_eq!(scene.content(), before);
        scene.works();
    }
}

/// The metadata are a file of the host's making.
#[test]
fn metadata_without_end_are_refused() {
    let scene = Scene::new();
    let info = scene.info();
    let good = std::fs::read(&info).unwrap();
    for (content, part) in [
        (vec![b' '; 3 * MB], "longer than"),
        (vec![b'['; 900 * KB], "damaged"),
        (
            [br#"{"version":""#.to_vec(), vec![b'x'; 2 * MB], b"\"}".to_vec()].concat(),
            "longer than",
        ),
        (br#"{"version":"v1","client_unique_id":7}"#.to_vec(), "damaged"),
    ] {
        std::fs::write(&info, &content).unwrap();
        let again = scene.again();
        let (result, memory) = memory::peak(|| again.honest(again.engine.create_db()));
        assert!(says(&result.unwrap_err(), part), "{part}");
        assert!(memory < 5 * MB, "{part}: {memory} bytes");
        std::fs::write(&info, &good).unwrap();
        let again = scene.again();
        again.honest(again.engine.create_db()).unwrap();
    }
    scene.works();
}

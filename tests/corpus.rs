//! The fuzz targets without a fuzzer: every committed seed, and mutations of the seeds that a number decides.
//!
//! `CORPUS_RUNS=100000 CORPUS_SEED=7` tells how many mutations per target, and which. `CORPUS_WRITE=1` writes the seeds
//! that are made here anew; the others are what the fuzzers found interesting (`make fuzz`).
#![cfg(feature = "server")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use prost::Message;
use targets::*;
use turso_sync::engine::DatabaseMetadata;
use turso_sync::protocol::pipeline::BatchBuilder;
use turso_sync::protocol::pull::{ENCODING_ZSTD, PullUpdatesRequest, encode_request};
use turso_sync::protocol::push::{PushBuilder, PushRequest};
use turso_sync::protocol::selector;
use turso_sync::record::{Value, encode};
use turso_sync::server::LocalServer;

/// Longest input that mutations make, in bytes.
const MAX_LEN: usize = 16 << 10;

fn seeds_of(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target)
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |given| given.parse().expect(name))
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One seed, changed in some places.
    fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(7) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next() as u8),
                2 => {
                    let end = (at + self.below(32)).min(bytes.len());
                    bytes.drain(at..end);
                }
                3 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(256)).min(other.len());
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
                4 => {
                    let edge = [0u8, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'['];
                    let edge = edge[self.below(edge.len())];
                    let end = (at + 1 + self.below(9)).min(bytes.len());
                    bytes[at.min(end)..end].fill(edge);
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        bytes.truncate(MAX_LEN);
        bytes
    }
}

/// Runs `target` on the seeds, on nothing, and on `runs` mutations; an input that fails is kept beside the test.
fn run(name: &str, target: fn(&[u8]), made: Vec<Vec<u8>>, runs: u64) {
    let folder = seeds_of(name);
    if std::env::var_os("CORPUS_WRITE").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (i, seed) in made.iter().enumerate() {
            fs::write(folder.join(format!("made-{i}")), seed).unwrap();
        }
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    for (i, seed) in made.iter().enumerate() {
        assert!(
            paths.contains(&folder.join(format!("made-{i}"))),
            "{name}: run with CORPUS_WRITE=1"
        );
        check(name, target, seed);
    }
    check(name, target, &[]);
    seeds.iter().for_each(|seed| check(name, target, seed));
    let mut chance = Chance(number("CORPUS_SEED", 1));
    let runs = number("CORPUS_RUNS", runs);
    for _ in 0..runs {
        check(name, target, &chance.mutated(&seeds));
    }
    println!("{name}: {} seeds, {runs} mutations", seeds.len());
}

fn check(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let path = std::env::temp_dir().join(format!("{name}-failed"));
        fs::write(&path, input).unwrap();
        eprintln!("{name} failed on {}", path.display());
        resume_unwind(panic);
    }
}

/// A server with a small database that has changed once.
fn exchanges() -> (LocalServer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("remote.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, 'one')")
        .unwrap();
    drop(conn);
    (LocalServer::open(&path).unwrap(), dir)
}

fn ask(server: &LocalServer, path: &str, body: &[u8]) -> Vec<u8> {
    server.answer(path, body).unwrap().1
}

/// The requests of a push: a question, changes, and one that the server refuses.
fn pipelines() -> Vec<Vec<u8>> {
    let mut question = BatchBuilder::plain();
    question
        .query(
            "SELECT a, b, 1.5, x'0001ff', NULL FROM t WHERE b = ?",
            &[Value::Text(b"one".to_vec())],
        )
        .unwrap();
    let mut changes = BatchBuilder::transaction();
    let row = [Value::Integer(7), Value::Blob(vec![1, 2, 255])];
    changes.step("INSERT INTO t VALUES (?, ?)", &row).unwrap();
    changes.step("UPDATE t SET b = ?", &[Value::Real(0.1)]).unwrap();
    let mut refused = BatchBuilder::transaction();
    refused.step("INSERT INTO nothing VALUES (1)", &[]).unwrap();
    vec![
        question.finish().0,
        changes.commit().unwrap().0,
        refused.commit().unwrap().0,
        br#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT :x","named_args":[{"name":"x","value":{"type":"null"}}]}},{"type":"close"}]}"#.to_vec(),
        br#"{"requests":[{"type":"batch","batch":{"steps":[{"condition":{"type":"and","conds":[{"type":"not","cond":{"type":"error","step":0}},{"type":"or","conds":[{"type":"ok","step":9},{"type":"is_autocommit"}]}]},"stmt":{"sql":"SELECT 1"}}]}}]}"#.to_vec(),
    ]
}

/// A push in the direct dialect, its steps as the target frames them, one that is compressed, and the query of a pull.
fn direct() -> Vec<Vec<u8>> {
    let steps = |long: usize| {
        let mut push = PushBuilder::default();
        push.step("SELECT 1", &[]);
        push.begin_transaction(7);
        for i in 20..23 {
            let row = [Value::Integer(i), Value::Text(vec![b'x'; long])];
            push.step("INSERT INTO t VALUES (?, ?)", &row);
        }
        push.finish().unwrap()
    };
    let small = steps(3);
    let raw = PushRequest::decode(&small[..]).unwrap().steps.unwrap();
    vec![
        [&[4], &raw[..]].concat(),
        small,
        steps(900),
        b"encoding=stream&pages=OjAAAAEAAAAAAAEAEAAAAAAAAgA".to_vec(),
    ]
}

fn pulls() -> Vec<Vec<u8>> {
    let selector = selector::encode_range(0..1).unwrap();
    let pull = |encoding, server_pages_selector| {
        encode_request(&PullUpdatesRequest {
            encoding,
            server_pages_selector,
            ..Default::default()
        })
    };
    vec![
        pull(0, vec![]),
        pull(ENCODING_ZSTD, vec![]),
        pull(ENCODING_ZSTD, selector),
    ]
}

#[test]
fn page_stream_takes_anything() {
    let (server, _dir) = exchanges();
    // Two bytes tell how the target feeds what follows.
    let fed = |request: &Vec<u8>| [&[0, 99], &ask(&server, "/pull-updates", request)[..]].concat();
    let mut seeds: Vec<Vec<u8>> = pulls().iter().skip(1).map(fed).collect();
    // The header and a packed page, a page that is a bomb.
    seeds.push(
        b"\x01\x10\x02\x00\x03rev\x05\x00\x00\x00\x00\x00\x03\x04page\x51\x00\x03\x02xx\x02\x01".to_vec(),
    );
    // One that is compressed as a whole.
    seeds.push([&[0, 99], &ask(&server, "/pull-updates?encoding=stream", &[])[..]].concat());
    run("page_stream", page_stream, seeds, 4000);
}

#[test]
fn pipeline_answer_takes_anything() {
    let (server, _dir) = exchanges();
    let pipelines = pipelines();
    let answers = pipelines
        .iter()
        .map(|request| ask(&server, "/v2/pipeline", request));
    let pushes = direct().split_off(1);
    let pushed = pushes[..2]
        .iter()
        .map(|request| ask(&server, "/push-changes", request));
    let seeds = answers.chain(pushed).collect();
    run("pipeline_answer", pipeline_answer, seeds, 8000);
}

#[test]
fn metadata_json_takes_anything() {
    let mut metadata = DatabaseMetadata::new("app-0".into());
    metadata.set_revision("revision");
    let official = br#"{"version":"v1","client_unique_id":"a","synced_revision":{"type":"v1","revision":"3"},"last_pushed_pull_gen_hint":1,"last_pushed_change_id_hint":2,"last_pull_unix_time":7,"last_push_unix_time":null,"saved_configuration":{"remote_url":"http://h"},"turso_sync":{"format":1,"bootstrap":{"pages":3,"checksum":4}}}"#;
    run(
        "metadata_json",
        metadata_json,
        vec![metadata.encode().unwrap(), official.to_vec()],
        8000,
    );
}

#[test]
fn record_takes_anything() {
    let values = [
        Value::Null,
        Value::Integer(-1),
        Value::Integer(1 << 40),
        Value::Real(1.5),
        Value::Text(b"text".to_vec()),
        Value::Blob(vec![0; 200]),
    ];
    run("record", record, vec![encode(&values), encode(&[])], 20_000);
}

#[test]
fn revert_file_takes_anything() {
    // Edits of a good file: entries, then the number of entries in both slots.
    let two_entries =
        b"\x01\x01\x09\x02\x07\x01\x00\x01\x01\x09\x01\x07\x03\x00\x00\x00\x02\x02\x00\x01\x02\x02".to_vec();
    let counters = b"\x01\x00\x01\x00\xf5\x00\x00\x00\x01\x05\x00\x01\x02\xfa\x00\x00\x00\x03\x01".to_vec();
    run("revert_file", revert_file, vec![two_entries, counters], 1000);
}

#[test]
fn changes_file_takes_anything() {
    let same_pages = b"\x00\x01\x00\x00\x02\x00\x00".to_vec();
    let a_longer_database =
        b"\x84\x04\x00\x01\x08\x00\x03abc\x01\x00\x01\x1c\x00\x04\x00\x00\x00\x04".to_vec();
    run(
        "changes_file",
        changes_file,
        vec![same_pages, a_longer_database],
        400,
    );
}

#[test]
fn server_requests_take_anything() {
    let seeds = [
        pipelines(),
        pulls().split_off(1),
        vec![selector::encode_range(0..9).unwrap()],
        direct(),
    ]
    .concat();
    run("server_requests", server_requests, seeds, 2000);
}

#[test]
fn direct_requests_take_anything() {
    let (server, _dir) = exchanges();
    let answer = ask(&server, "/push-changes", &direct()[1]);
    run(
        "direct_requests",
        direct_requests,
        [direct(), vec![answer]].concat(),
        4000,
    );
}

#[test]
fn change_log_takes_anything() {
    let rows = b"\x00\x00\x00\x00\x00\x02\x00\x01\x00\x38\x01\x05\x05\x01\x01\x00\x00\x00\x01\x01\x00\x01\x39\x01\x07\x05\x00".to_vec();
    let schema = b"\x00\x00\x01\x00\x09\x02\x00\x01\x50\x00\x01\x01\x05\x00\x50\x00\x01\x01\x05\x01\x00\x09\x01\x00\x01".to_vec();
    run("change_log", change_log, vec![rows, schema], 1000);
}

#[test]
fn c_abi_takes_any_calls() {
    // What the numbers mean: `World::call` in fuzz/src/c_abi.rs.
    let together: &[&[u8]] = &[
        // A replica is created and connected to.
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 7, 0, 7, 7, 0, 7],
        &[3, 0, 2, 7, 1, 7, 10, 1, 0],
        // It inserts a row and pushes it.
        &[15, 0, 3, 0, 17, 0, 1, 1, 5, 19, 0, 0],
        &[3, 0, 7, 7, 2, 7, 7, 2, 7],
        // Another one makes a table with a row.
        &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 1, 0, 7, 3, 7, 7, 3, 7],
        &[3, 1, 2, 7, 4, 7, 10, 4, 0],
        &[15, 1, 0, 0, 19, 1, 0],
        &[15, 1, 1, 0, 17, 2, 1, 1, 7, 19, 2, 0],
        &[3, 1, 7, 7, 5, 7, 7, 5, 7],
    ];
    let pull: &[&[u8]] = &[
        // The first one changes its rows, waits, applies, reads, and looks at its figures.
        &[15, 0, 4, 0, 17, 3, 2, 1, 3, 19, 3, 0],
        &[3, 0, 9, 7, 6, 7, 10, 6, 0],
        &[3, 0, 10, 0, 7, 7, 7],
        &[15, 0, 8, 0, 19, 4, 5, 21, 4, 19, 4, 9],
        &[3, 0, 5, 7, 8, 7, 10, 8, 0],
        &[3, 0, 6, 7, 9, 7],
    ];
    let conflict: &[&[u8]] = &[
        // The first one has made the same table with the same row: a conflict, which is listed and resolved.
        &[15, 0, 0, 0, 19, 3, 0],
        &[15, 0, 1, 0, 17, 4, 1, 1, 7, 19, 4, 0],
        &[3, 0, 9, 7, 6, 7, 10, 6, 0],
        &[3, 0, 10, 0, 7, 7, 7],
        &[3, 0, 11, 2, 3, 22, 0, 0, 7, 8, 7],
        &[3, 0, 7, 7, 9, 7],
    ];
    let seeds = vec![
        [together, pull].concat().concat(),
        plain(),
        [together, conflict].concat().concat(),
    ];
    run("c_abi", c_abi, seeds, 400);
}

/// A database without a remote.
fn plain() -> Vec<u8> {
    b"\x00\x01\x00\x00\x02\x00\x0f\x00\x00\x00\x13\x00\x00\x0f\x00\x01\x00\x11\x01\x01\x01\x05\x13\x01\x00\x0f\x00\x09\x00\x13\x02\x05\x15\x02".to_vec()
}

//! The direct dialect: how it is chosen, what caches may do with it, and what a server makes of damaged requests. That it
//! does what the compatible one does is in `direct_suites` and in the simulator.
#![cfg(feature = "server")]

mod support;

use std::collections::HashMap;
use std::path::Path;

use prost::Message;
use support::*;
use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts, ProtocolVersion};
use turso_sync::error::{Category, Error};
use turso_sync::io::{HttpRequest, Operation};
use turso_sync::protocol::pull::{PullDecoder, PullEvent, PullUpdatesRequest};
use turso_sync::protocol::push::{PushAnswer, PushBuilder, PushRequest, open};
use turso_sync::protocol::{pull_query, selector};
use turso_sync::record::Value;

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE bag (x);
    CREATE TABLE u (id INTEGER PRIMARY KEY, e TEXT UNIQUE);";

fn speaking(dialect: ProtocolVersion, path: &Path, url: &str) -> DatabaseSyncEngineOpts {
    DatabaseSyncEngineOpts {
        protocol_version_hint: dialect,
        ..options(path, url)
    }
}

/// Drives `op` and tells which requests it made, by method and path without query.
fn watched<T>(engine: &DatabaseSyncEngine, op: Operation<T>) -> (Result<T, Error>, Vec<String>) {
    let mut seen = Vec::new();
    let result = drive(engine, op, &mut |http, _| {
        seen.push(short(http));
        forward(http)
    });
    (result, seen)
}

fn short(http: &HttpRequest) -> String {
    let path = http.path.split('?').next().unwrap();
    format!("{} {path}", http.method)
}

const PULL: &str = "POST /pull-updates";
const QUESTION: &str = "POST /v2/pipeline";
const DIRECT_PULL: &str = "GET /pull-updates";
const DIRECT_PUSH: &str = "POST /push-changes";

// --- how it is chosen --------------------------------------------------------------------------------------------------

#[test]
fn the_dialect_is_spoken_with_those_who_announce_it_and_remembered() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let opts = speaking(ProtocolVersion::Auto, &path, &remote.url);
    let engine = DatabaseSyncEngine::new(opts.clone()).unwrap();
    // Nobody knows this remote yet.
    assert_eq!(watched(&engine, engine.create_db()).1, [PULL]);
    let conn = run(&engine, engine.connect_rw()).unwrap();
    conn.execute_batch("INSERT INTO t VALUES (1, 'one')").unwrap();
    let (pushed, seen) = watched(&engine, engine.push_changes_to_remote());
    pushed.unwrap();
    assert_eq!(seen, [QUESTION, DIRECT_PUSH]);
    assert_eq!(
        watched(&engine, engine.pull_changes_from_remote()).1,
        [DIRECT_PULL]
    );
    conn.execute_batch("INSERT INTO t VALUES (2, 'two')").unwrap();
    drop(conn);
    drop(engine);
    // Another process.
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    run(&engine, engine.create_db()).unwrap();
    assert_eq!(
        watched(&engine, engine.push_changes_to_remote()).1,
        [QUESTION, DIRECT_PUSH]
    );
    assert_eq!(remote.tables(), tables(&path));
}

#[test]
fn the_option_decides() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    for (dialect, expected) in [
        (ProtocolVersion::Compatible, [PULL, QUESTION, QUESTION, PULL]),
        (
            ProtocolVersion::Direct,
            [DIRECT_PULL, QUESTION, DIRECT_PUSH, DIRECT_PULL],
        ),
    ] {
        let path = dir.path().join(format!("{dialect:?}.db"));
        let engine = DatabaseSyncEngine::new(speaking(dialect, &path, &remote.url)).unwrap();
        let mut seen = watched(&engine, engine.create_db()).1;
        let conn = run(&engine, engine.connect_rw()).unwrap();
        conn.execute_batch(&format!("INSERT INTO u (e) VALUES ('{dialect:?}')"))
            .unwrap();
        let (synced, rest) = watched(&engine, engine.sync());
        synced.unwrap();
        seen.extend(rest);
        assert_eq!(seen, expected);
        assert_eq!(remote.tables(), tables(&path));
    }
}

/// A server that has never heard of it, as that of Turso answers.
fn old_server(http: &HttpRequest, status: u16) -> Result<(u16, Vec<u8>), String> {
    let (status, mut body) = match http.path.contains('?') || http.path == "/push-changes" {
        true => (status, b"Not Found".to_vec()),
        false => forward(http)?,
    };
    if status == 200 && http.path == "/pull-updates" {
        body = without_announcement(&body);
    }
    Ok((status, body))
}

fn without_announcement(body: &[u8]) -> Vec<u8> {
    let mut header = None;
    let mut decoder = PullDecoder::new();
    let mut rest = 0;
    for at in 0..body.len() {
        decoder
            .push(&body[at..=at], &mut |event| {
                if let PullEvent::Header(h) = event {
                    header = Some(h);
                }
                Ok(())
            })
            .unwrap();
        if header.is_some() {
            rest = at + 1;
            break;
        }
    }
    let mut header = header.unwrap();
    header.dialects = 0;
    [
        turso_sync::protocol::pull::encode_header(&header),
        body[rest..].to_vec(),
    ]
    .concat()
}

#[test]
fn a_server_that_does_not_know_it_is_spoken_to_as_before() {
    for (dialect, status) in [
        (ProtocolVersion::Auto, 404),
        (ProtocolVersion::Direct, 404),
        (ProtocolVersion::Direct, 405),
    ] {
        let remote = Remote::start(SCHEMA);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let engine = DatabaseSyncEngine::new(speaking(dialect, &path, &remote.url)).unwrap();
        let mut refused = 0;
        let mut network = |http: &HttpRequest, _: &dyn Fn() -> (u16, Vec<u8>)| {
            let answer = old_server(http, status);
            refused += u32::from(answer.as_ref().is_ok_and(|(s, _)| *s != 200));
            answer
        };
        drive(&engine, engine.create_db(), &mut network).unwrap();
        let conn = run(&engine, engine.connect_rw()).unwrap();
        conn.execute_batch("INSERT INTO bag VALUES ('once'); INSERT INTO t VALUES (1, 'one')")
            .unwrap();
        drive(&engine, engine.sync(), &mut network).unwrap();
        assert_eq!(remote.tables(), tables(&path));
        assert_eq!(refused > 0, dialect == ProtocolVersion::Direct, "{dialect:?}");
    }
}

#[test]
fn a_server_that_has_forgotten_it_is_noticed_without_an_error() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(speaking(ProtocolVersion::Auto, &path, &remote.url)).unwrap();
    run(&engine, engine.create_db()).unwrap();
    let conn = run(&engine, engine.connect_rw()).unwrap();
    conn.execute_batch("INSERT INTO bag VALUES ('once')").unwrap();
    let mut seen = Vec::new();
    drive(&engine, engine.push_changes_to_remote(), &mut |http, _| {
        seen.push(short(http));
        old_server(http, 404)
    })
    .unwrap();
    assert_eq!(seen, [QUESTION, DIRECT_PUSH, QUESTION, QUESTION]);
    // It is forgotten, until it is announced again.
    assert_eq!(watched(&engine, engine.pull_changes_from_remote()).1, [PULL]);
    assert_eq!(
        watched(&engine, engine.pull_changes_from_remote()).1,
        [DIRECT_PULL]
    );
    assert_eq!(remote.tables(), tables(&path));
}

/// The worst proxy: the request arrives, and its sender is told that nobody knows the path.
#[test]
fn a_push_that_arrives_in_both_dialects_counts_once() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(speaking(ProtocolVersion::Direct, &path, &remote.url)).unwrap();
    run(&engine, engine.create_db()).unwrap();
    let conn = run(&engine, engine.connect_rw()).unwrap();
    conn.execute_batch("INSERT INTO bag VALUES ('one'), ('two')")
        .unwrap();
    let mut requests = Vec::new();
    drive(&engine, engine.push_changes_to_remote(), &mut |http, _| {
        let answer = forward(http)?;
        if is_push(http) {
            requests.push(http.clone());
        }
        match http.path == "/push-changes" {
            true => Ok((404, b"Not Found".to_vec())),
            false => Ok(answer),
        }
    })
    .unwrap();
    run(&engine, engine.sync()).unwrap();
    let once = remote.tables();
    assert_eq!(once["bag"].len(), 2);
    // All of them once more, and late.
    for request in &requests {
        forward(request).unwrap();
    }
    assert_eq!(remote.tables(), once);
    assert_eq!(tables(&path), once);
}

#[test]
fn an_answer_that_is_lost_or_odd_neither_doubles_nor_drops() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(speaking(ProtocolVersion::Direct, &path, &remote.url)).unwrap();
    run(&engine, engine.create_db()).unwrap();
    let conn = run(&engine, engine.connect_rw()).unwrap();
    for (i, odd) in [
        None,
        Some(Vec::new()),
        Some(b"<html>".to_vec()),
        Some(
            PushAnswer {
                committed: 1,
                conflicts: vec![],
            }
            .encode_to_vec(),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        conn.execute_batch(&format!("INSERT INTO bag VALUES ({i})"))
            .unwrap();
        let e = drive(&engine, engine.push_changes_to_remote(), &mut |http, _| {
            let answer = forward(http)?;
            match (is_push(http), &odd) {
                (false, _) => Ok(answer),
                (true, Some(odd)) => Ok((200, odd.clone())),
                (true, None) => Err("connection reset".into()),
            }
        })
        .unwrap_err();
        assert!(
            matches!(e.category, Category::Network | Category::Protocol),
            "{e:?}"
        );
        run(&engine, engine.push_changes_to_remote()).unwrap();
        assert_eq!(remote.tables()["bag"].len(), i + 1);
    }
    run(&engine, engine.sync()).unwrap();
    assert_eq!(remote.tables(), tables(&path));
}

#[test]
fn many_changes_take_few_bytes_and_few_requests() {
    let mut sent = Vec::new();
    for dialect in [ProtocolVersion::Compatible, ProtocolVersion::Direct] {
        let remote = Remote::start(SCHEMA);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let replica = Replica::open_with(speaking(dialect, &path, &remote.url)).unwrap();
        replica.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO t SELECT i, 'row number ' || i FROM n; UPDATE t SET v = v || '!' WHERE id % 3 = 0",
        );
        let (mut bytes, mut requests) = (0, 0);
        drive(
            &replica.engine,
            replica.engine.push_changes_to_remote(),
            &mut |http, _| {
                (bytes, requests) = (bytes + http.body.len(), requests + 1);
                forward(http)
            },
        )
        .unwrap();
        assert_eq!(remote.tables(), replica.tables());
        sent.push((bytes, requests));
    }
    assert!(sent[0].0 > 10 * sent[1].0, "{sent:?}");
    assert!(sent[0].1 >= sent[1].1, "{sent:?}");
}

// --- what the server makes of a push -----------------------------------------------------------------------------------

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into()
}

fn push(url: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut answer = agent().post(format!("{url}/push-changes")).send(body).unwrap();
    let body = answer.body_mut().read_to_vec().unwrap();
    (answer.status().as_u16(), body)
}

fn builder(steps: &[(i64, &str, &[Value])]) -> PushBuilder {
    let mut push = PushBuilder::default();
    for (txn_id, sql, args) in steps {
        push.begin_transaction(*txn_id);
        push.step(sql, args);
    }
    push
}

fn text(s: &str) -> Value {
    Value::Text(s.into())
}

#[test]
fn a_push_is_committed_whole_or_refused_with_the_reason() {
    let remote = Remote::start(SCHEMA);
    let insert = "INSERT INTO u VALUES (?, ?)";
    let steps = |third: &'static str| {
        builder(&[
            (0, "SELECT 1", &[]),
            (7, insert, &[Value::Integer(1), text("a")]),
            (9, "CREATE TABLE made (x)", &[]),
            (9, insert, &[Value::Integer(2), text(third)]),
            (9, "INSERT INTO made VALUES (?)", &[Value::Blob(vec![0; 900])]),
            (0, "SELECT 2", &[]),
        ])
        .finish()
        .unwrap()
    };
    let before = remote.tables();
    let (status, answer) = push(&remote.url, &steps("a"));
    assert_eq!(status, 200);
    let answer = PushAnswer::parse(&answer).unwrap();
    let conflict = &answer.conflicts[0];
    assert_eq!((answer.committed, answer.conflicts.len()), (0, 1));
    assert_eq!(
        (conflict.txn_id, conflict.step, conflict.sqlite_code),
        (9, 4, 2067)
    );
    assert_eq!(conflict.constraint, "u.e");
    assert!(
        conflict.message.contains("UNIQUE constraint failed: u.e"),
        "{}",
        conflict.message
    );
    assert_eq!(remote.tables(), before);
    let (_, answer) = push(&remote.url, &steps("b"));
    assert_eq!(
        PushAnswer::parse(&answer).unwrap(),
        PushAnswer {
            committed: 6,
            conflicts: vec![]
        }
    );
    assert_eq!(remote.tables()["u"].len(), 2);
    assert_eq!(remote.tables()["made"].len(), 1);
}

#[test]
fn no_statement_of_a_push_ends_its_transaction() {
    let remote = Remote::start(SCHEMA);
    let before = remote.tables();
    // Those who may end their transactions leave such statements prepared.
    let prepared = br#"{"requests":[
        {"type":"batch","batch":{"steps":[
            {"stmt":{"sql":"BEGIN","want_rows":false}}, {"stmt":{"sql":"SAVEPOINT s","want_rows":false}},
            {"stmt":{"sql":"COMMIT","want_rows":false}}, {"stmt":{"sql":"BEGIN","want_rows":false}},
            {"stmt":{"sql":"END","want_rows":false}}, {"stmt":{"sql":"BEGIN","want_rows":false}},
            {"stmt":{"sql":"ROLLBACK","want_rows":false}}]}}]}"#;
    let pipeline = format!("{}/v2/pipeline", remote.url);
    let mut answer = agent().post(pipeline).send(&prepared[..]).unwrap();
    let answer = answer.body_mut().read_to_string().unwrap();
    assert!(
        answer.contains(r#""step_errors":[null,null,null,null,null,null,null]"#),
        "{answer}"
    );
    for sql in [
        "COMMIT",
        "END",
        "ROLLBACK",
        "BEGIN",
        "SAVEPOINT s",
        " /* x */ commit",
        "ATTACH ':memory:' AS m",
        "PRAGMA journal_mode = DELETE",
    ] {
        let steps = [
            (1, "INSERT INTO t VALUES (1, 1)", &[][..]),
            (1, sql, &[]),
            (1, "INSERT INTO t VALUES (2, 2)", &[]),
        ];
        let (status, answer) = push(&remote.url, &builder(&steps).finish().unwrap());
        let answer = PushAnswer::parse(&answer).unwrap();
        assert_eq!(
            (status, answer.committed, answer.conflicts[0].step),
            (200, 0, 2),
            "{sql}"
        );
        assert_eq!(remote.tables(), before, "{sql}");
    }
    // The connection serves everybody else as before.
    let body = br#"{"requests":[{"type":"execute","stmt":{"sql":"BEGIN"}}]}"#;
    let mut answer = agent()
        .post(format!("{}/v2/pipeline", remote.url))
        .send(&body[..])
        .unwrap();
    assert!(answer.body_mut().read_to_string().unwrap().contains("\"ok\""));
}

#[test]
fn damaged_pushes_are_refused_and_change_nothing() {
    let remote = Remote::start(SCHEMA);
    let before = remote.tables();
    let row: &[Value] = &[
        Value::Integer(1),
        text(&"long enough to be compressed ".repeat(40)),
    ];
    let good = builder(&[(1, "INSERT INTO t VALUES (?, ?)", row)])
        .finish()
        .unwrap();
    let whole = PushRequest::decode(&good[..]).unwrap();
    let steps: Vec<u8> = zstd::decode_all(&whole.steps_zstd.clone().unwrap()[..]).unwrap();
    let with = |change: &dyn Fn(&mut PushRequest)| {
        let mut request = whole.clone();
        change(&mut request);
        request.encode_to_vec()
    };
    let raw = |steps: &[u8], count: u64| {
        PushRequest {
            count,
            len: steps.len() as u64,
            crc32c: crc32c::crc32c(steps),
            steps: Some(steps.to_vec().into()),
            steps_zstd: None,
        }
        .encode_to_vec()
    };
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    let record_of_nulls = [&[2u8, 0xff, 0xff, 0xff, 0x7f][..], &[0; 1000]].concat();
    for (what, body) in [
        ("nothing", Vec::new()),
        ("garbage", b"\xff\xff\xff".to_vec()),
        ("no steps", with(&|r| r.steps_zstd = None)),
        ("both forms", with(&|r| r.steps = Some(steps.clone().into()))),
        ("checksum", with(&|r| r.crc32c ^= 1)),
        ("length", with(&|r| r.len += 1)),
        ("short", with(&|r| r.len -= 1)),
        ("endless", with(&|r| r.len = u64::MAX)),
        ("count", with(&|r| r.count = 2)),
        ("count 0", with(&|r| r.count = 0)),
        ("not zstd", with(&|r| r.steps_zstd = Some(steps.clone().into()))),
        ("bomb", with(&|r| r.steps_zstd = Some(bomb.clone().into()))),
        ("unknown number", raw(&[2, 1], 1)),
        ("a text without end", raw(&[0, 100, b'x'], 1)),
        ("text that is none", raw(&[0, 1, 0xff, 1], 1)),
        (
            "an endless record",
            raw(&[&[0, 8][..], b"SELECT 1", &record_of_nulls].concat(), 1),
        ),
        ("half a varint", raw(&[0x80], 1)),
        ("only a mark", raw(&[1, 7], 0)),
    ] {
        assert_eq!(push(&remote.url, &body).0, 400, "{what}");
        assert_eq!(remote.tables(), before, "{what}");
    }
    for cut in 0..good.len() {
        assert_eq!(push(&remote.url, &good[..cut]).0, 400, "{cut}");
    }
    // A step too few is seen before the commit, whatever ran before.
    let all = builder(&[
        (1, "INSERT INTO t VALUES (1, 1)", &[]),
        (1, "INSERT INTO t VALUES (2, 1)", &[]),
    ]);
    let mut request = PushRequest::decode(&all.finish().unwrap()[..]).unwrap();
    request.count = 3;
    assert_eq!(push(&remote.url, &request.encode_to_vec()).0, 400);
    assert_eq!(remote.tables(), before);
    assert_eq!(push(&remote.url, &good).0, 200);
    assert_eq!(remote.tables()["t"].len(), 1);
}

// --- caches ------------------------------------------------------------------------------------------------------------

struct Got {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

fn get(url: &str, path: &str, headers: &[(&str, &str)]) -> Got {
    let mut request = agent().get(format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = request.call().unwrap();
    let headers = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    Got {
        status: answer.status().as_u16(),
        headers,
        body: answer.body_mut().read_to_vec().unwrap(),
    }
}

fn ask(from: &str, to: &str) -> PullUpdatesRequest {
    PullUpdatesRequest {
        client_revision: from.into(),
        server_revision: to.into(),
        ..Default::default()
    }
}

fn revision(body: &[u8]) -> String {
    let mut decoder = PullDecoder::new();
    decoder.push(body, &mut |_| Ok(())).unwrap();
    decoder.finish().unwrap();
    decoder.header().unwrap().server_revision.clone()
}

#[test]
fn answers_say_how_long_they_hold() {
    let remote = Remote::start(SCHEMA);
    let path = |question: &PullUpdatesRequest| pull_query::encode(question);
    let newest = get(&remote.url, &path(&ask("", "")), &[]);
    let first = revision(&newest.body);
    assert_eq!(newest.headers["cache-control"], "public, no-cache, no-transform");
    assert_eq!(newest.headers["vary"], "authorization, x-turso-encryption-key");
    // Asked again, it still holds.
    let tag = newest.headers["etag"].clone();
    assert!(tag.starts_with("W/\"") && tag.contains(&first), "{tag}");
    let again = get(
        &remote.url,
        &path(&ask("", "")),
        &[("if-none-match", &format!("\"x\", {tag}"))],
    );
    assert_eq!(
        (again.status, again.body.len(), &again.headers["etag"]),
        (304, 0, &tag)
    );
    plain(&remote.path)
        .execute_batch("INSERT INTO t VALUES (1, 1)")
        .unwrap();
    // Now it does not.
    let changed = get(&remote.url, &path(&ask("", "")), &[("if-none-match", &tag)]);
    let second = revision(&changed.body);
    assert!(changed.status == 200 && second != first);
    // What lies between two revisions holds for ever.
    let between = get(&remote.url, &path(&ask(&first, &second)), &[]);
    assert_eq!(
        between.headers["cache-control"],
        "public, max-age=31536000, immutable, no-transform"
    );
    let known = get(
        &remote.url,
        &path(&ask(&first, &second)),
        &[("if-none-match", &between.headers["etag"])],
    );
    assert_eq!(known.status, 304);
    assert_eq!(between.headers["content-length"], between.body.len().to_string());
    // Other questions have other tags.
    let mut parts = ask(&first, &second);
    parts.server_pages_selector = selector::encode_range(0..1).unwrap();
    let mut tags = vec![tag, between.headers["etag"].clone()];
    for question in [
        &parts,
        &PullUpdatesRequest {
            encoding: 2,
            ..ask(&first, &second)
        },
        &ask("", &second),
    ] {
        tags.push(get(&remote.url, &path(question), &[]).headers["etag"].clone());
    }
    let different: std::collections::HashSet<&String> = tags.iter().collect();
    assert_eq!(different.len(), 5, "{tags:?}");
    // What somebody needs a token or a key for is not for everybody.
    for secret in ["authorization", "x-turso-encryption-key"] {
        let private = get(&remote.url, &path(&ask(&first, &second)), &[(secret, "Bearer x")]);
        assert!(
            private.headers["cache-control"].starts_with("private, "),
            "{secret}"
        );
    }
    // Nothing else is kept at all.
    let waiting = PullUpdatesRequest {
        long_poll_timeout_ms: 1,
        ..ask(&second, "")
    };
    assert_eq!(
        get(&remote.url, &path(&waiting), &[]).headers["cache-control"],
        "no-store"
    );
    for (path, status) in [
        (path(&ask("nobody:1", "")), 409),
        (path(&ask(&first, "nobody:1")), 409),
        ("/pull-updates?encoding=x".into(), 400),
        ("/pull-updates?pages=AAAA".into(), 400),
    ] {
        let refused = get(&remote.url, &path, &[]);
        assert_eq!(
            (refused.status, refused.headers["cache-control"].as_str()),
            (status, "no-store"),
            "{path}"
        );
    }
}

/// A shared cache that keeps whatever it may, and asks whenever it must.
#[derive(Default)]
struct Cache {
    kept: HashMap<String, (String, Vec<u8>)>,
    hits: u32,
    confirmed: u32,
}

impl Cache {
    fn answer(&mut self, http: &HttpRequest) -> Result<(u16, Vec<u8>), String> {
        if http.method != "GET" {
            return forward(http);
        }
        let url = http.url.clone().unwrap();
        let kept = self.kept.get(&http.path).cloned();
        if let Some((control, body)) = &kept
            && control.contains("immutable")
        {
            self.hits += 1;
            return Ok((200, body.clone()));
        }
        let tag = kept.as_ref().map_or("\"none\"", |(tag, _)| tag).to_owned();
        let got = get(&url, &http.path, &[("if-none-match", &tag)]);
        if got.status == 304 {
            self.confirmed += 1;
            return Ok((200, kept.unwrap().1));
        }
        let control = &got.headers["cache-control"];
        if got.status == 200 && control.starts_with("public") {
            let how = match control.contains("immutable") {
                true => control.clone(),
                false => got.headers["etag"].clone(),
            };
            self.kept.insert(http.path.clone(), (how, got.body.clone()));
        }
        Ok((got.status, got.body))
    }
}

#[test]
fn replicas_behind_a_cache_see_what_the_remote_has() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let mut cache = Cache::default();
    let engines: Vec<_> = (0..3)
        .map(|i| {
            let path = dir.path().join(format!("{i}.db"));
            let opts = DatabaseSyncEngineOpts {
                pull_bytes_threshold: 8192,
                ..speaking(ProtocolVersion::Direct, &path, &remote.url)
            };
            let engine = DatabaseSyncEngine::new(opts).unwrap();
            drive(&engine, engine.create_db(), &mut |http, _| cache.answer(http)).unwrap();
            (engine, path)
        })
        .collect();
    for round in 0..6 {
        plain(&remote.path)
            .execute_batch(&format!(
                "INSERT INTO t VALUES ({round}, 'round'); DELETE FROM bag; INSERT INTO bag VALUES ({round})"
            ))
            .unwrap();
        let conn = run(&engines[0].0, engines[0].0.connect_rw()).unwrap();
        conn.execute_batch(&format!("INSERT INTO u VALUES (NULL, 'own {round}')"))
            .unwrap();
        drop(conn);
        for (engine, path) in engines.iter().chain(&engines) {
            drive(engine, engine.sync(), &mut |http, _| cache.answer(http)).unwrap();
            drive(engine, engine.pull_changes_from_remote(), &mut |http, _| {
                cache.answer(http)
            })
            .unwrap();
            assert_eq!(tables(path), remote.tables(), "{round}");
        }
    }
    assert!(
        cache.confirmed > 0 && cache.hits > 0,
        "{} {}",
        cache.confirmed,
        cache.hits
    );
}

/// A cache that looks at the path only.
#[test]
fn a_cache_that_confuses_questions_is_noticed() {
    let remote = Remote::start(SCHEMA);
    let dir = tempfile::tempdir().unwrap();
    let opts = |name: &str| speaking(ProtocolVersion::Direct, &dir.path().join(name), &remote.url);
    let engine = DatabaseSyncEngine::new(opts("a.db")).unwrap();
    let mut kept = None;
    drive(&engine, engine.create_db(), &mut |http, _| {
        let answer = forward(http)?;
        kept = Some(answer.clone());
        Ok(answer)
    })
    .unwrap();
    plain(&remote.path)
        .execute_batch("INSERT INTO t VALUES (1, 1)")
        .unwrap();
    let before = tables(&dir.path().join("a.db"));
    let e = drive(&engine, engine.pull_changes_from_remote(), &mut |_, _| {
        Ok(kept.clone().unwrap())
    })
    .unwrap_err();
    assert!(e.retryable && e.message.contains("not to this question"), "{e}");
    assert_eq!(tables(&dir.path().join("a.db")), before);
    run(&engine, engine.pull_changes_from_remote()).unwrap();
    assert_eq!(tables(&dir.path().join("a.db")), remote.tables());
}

// --- the document ------------------------------------------------------------------------------------------------------

/// The bytes in docs/protocol.md are real.
#[test]
fn the_examples_of_the_document_are_what_is_sent() {
    let document = include_str!("../docs/protocol.md");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let squeezed: String = document.split_whitespace().collect();
    let mut example = PushBuilder::default();
    example.step("SELECT 1", &[]);
    example.begin_transaction(7);
    let insert = "INSERT INTO t VALUES (?, ?)";
    example.step(insert, &[Value::Integer(1), text("one")]);
    example.step(insert, &[Value::Integer(2), Value::Null]);
    let body = example.finish().unwrap();
    assert!(squeezed.contains(&hex(&body)), "push: {}", hex(&body));
    let push = open(body, 1000).unwrap();
    assert_eq!(push.steps().count(), 3);
    let remote = Remote::start("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)");
    let committed = self::push(&remote.url, &{
        let mut example = PushBuilder::default();
        example.step("SELECT 1", &[]);
        example.begin_transaction(7);
        example.step(insert, &[Value::Integer(1), text("one")]);
        example.step(insert, &[Value::Integer(2), Value::Null]);
        example.finish().unwrap()
    })
    .1;
    assert!(
        squeezed.contains(&format!("`{}`", hex(&committed))),
        "committed: {}",
        hex(&committed)
    );
    let mut refused = PushBuilder::default();
    refused.begin_transaction(9);
    refused.step(insert, &[Value::Integer(3), text("one")]);
    let refused = self::push(&remote.url, &refused.finish().unwrap()).1;
    assert!(squeezed.contains(&hex(&refused)), "refused: {}", hex(&refused));
    for path in document
        .lines()
        .filter(|line| line.starts_with("    GET /pull-updates?"))
    {
        let path = path.trim().trim_start_matches("GET ");
        let question = pull_query::decode(path.split_once('?').unwrap().1).unwrap();
        assert_eq!(pull_query::encode(&question), path);
    }
    assert!(document.matches("    GET /pull-updates?").count() >= 2);
}

//! Every option does what docs/options.md says: a test per option that fails when the option is ignored.
#![cfg(feature = "server")]

mod support;

use std::path::Path;

use support::*;
use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts, ProtocolVersion};
use turso_sync::error::{Category, Result};
use turso_sync::io::{HttpRequest, Operation};
use turso_sync::pages::reserve_bytes;
use turso_sync::protocol::{pull, pull_query, selector};

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);
                     INSERT INTO t VALUES (1, 'one'), (2, 'two');";

/// Some 80 pages.
const ROWS: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 75)
    INSERT INTO t SELECT i, randomblob(3900) FROM n";

struct Place {
    remote: Remote,
    dir: tempfile::TempDir,
}

impl Place {
    fn new(sql: &str) -> Place {
        Place::with(Remote::start(sql))
    }

    fn with(remote: Remote) -> Place {
        let dir = tempfile::tempdir().unwrap();
        Place { remote, dir }
    }

    fn opts(&self, name: &str) -> DatabaseSyncEngineOpts {
        options(&self.dir.path().join(name), &self.remote.url)
    }

    fn replica(&self, name: &str, change: impl FnOnce(&mut DatabaseSyncEngineOpts)) -> Replica {
        let mut opts = self.opts(name);
        change(&mut opts);
        Replica::open_with(opts).unwrap()
    }
}

/// Runs an operation; its result, and its HTTP requests with the lengths of the answers.
fn watched<T>(engine: &DatabaseSyncEngine, op: Operation<T>) -> (Result<T>, Vec<(HttpRequest, usize)>) {
    let mut seen = Vec::new();
    let result = drive(engine, op, &mut |http, _| {
        let (status, body) = forward(http)?;
        seen.push((http.clone(), body.len()));
        Ok((status, body))
    });
    (result, seen)
}

fn pulls(requests: &[(HttpRequest, usize)]) -> Vec<pull::PullUpdatesRequest> {
    let pulls = requests.iter().filter(|(http, _)| http.path == "/pull-updates");
    pulls
        .map(|(http, _)| pull::decode_request(&http.body).unwrap())
        .collect()
}

fn refused(opts: DatabaseSyncEngineOpts, text: &str) {
    let folder = Path::new(&opts.path).parent().unwrap().to_owned();
    let e = DatabaseSyncEngine::new(opts).map(drop).unwrap_err();
    assert_eq!(e.category, Category::Usage, "{e:?}");
    assert!(e.message.contains(text), "{text}: {e}");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

// ------------------------------------------------------------------------------------------------------------- remote

#[test]
fn remote_url_takes_four_schemes_and_is_saved() {
    let place = Place::new(TABLE);
    for (given, expected) in [
        ("http://h:1/", "http://h:1"),
        ("https://h", "https://h"),
        ("libsql://h", "https://h"),
        ("turso://h/a", "https://h/a"),
    ] {
        let mut opts = place.opts("schemes.db");
        opts.remote_url = Some(given.into());
        let engine = DatabaseSyncEngine::new(opts).unwrap();
        let mut asked = Vec::new();
        let refused = drive(&engine, engine.create_db(), &mut |http, _| {
            asked.push(http.url.clone());
            Err("no network".into())
        });
        assert!(refused.is_err());
        assert_eq!(asked, [Some(expected.to_owned())]);
    }
    let mut opts = place.opts("saved.db");
    drop(Replica::open_with(opts.clone()).unwrap());
    opts.remote_url = None;
    let again = Replica::open_with(opts).unwrap();
    again.sql("INSERT INTO t VALUES (3, 'three')");
    again.sync().unwrap();
    assert_eq!(place.remote.tables(), again.tables());
}

#[test]
fn remote_url_that_cannot_work_is_refused_at_creation() {
    let place = Place::new(TABLE);
    for (url, text) in [
        ("ftp://h", "scheme"),
        ("h:80", "scheme"),
        ("https://user:secret@h", "credentials"),
        ("https://h?token=secret", "query"),
    ] {
        let mut opts = place.opts("a.db");
        opts.remote_url = Some(url.into());
        refused(opts, text);
    }
}

#[test]
fn client_name_begins_the_name_on_the_remote() {
    let place = Place::new(TABLE);
    let replica = place.replica("a.db", |o| o.client_name = "kitchen".into());
    replica.sql("INSERT INTO t VALUES (3, 'three')");
    replica.push().unwrap();
    let sql = "SELECT group_concat(client_id) FROM turso_sync_last_change_id";
    let names: String = plain(&place.remote.path)
        .query_row(sql, [], |row| row.get(0))
        .unwrap();
    assert!(
        names.split(',').all(|name| name.starts_with("kitchen-")),
        "{names}"
    );
}

#[test]
fn long_poll_timeout_is_asked_for_once_there_is_a_revision() {
    let place = Place::new(TABLE);
    let mut opts = place.opts("a.db");
    opts.long_poll_timeout_ms = 17;
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    let (created, requests) = watched(&engine, engine.create_db());
    created.unwrap();
    assert_eq!(pulls(&requests)[0].long_poll_timeout_ms, 0);
    let (waited, requests) = watched(&engine, engine.wait_changes_from_remote());
    assert!(waited.unwrap().is_none());
    assert_eq!(pulls(&requests)[0].long_poll_timeout_ms, 17);
}

#[test]
fn bootstrap_if_empty_decides_whether_creation_needs_the_network() {
    let place = Place::new(TABLE);
    let mut opts = place.opts("offline.db");
    opts.bootstrap_if_empty = false;
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    let (created, requests) = watched(&engine, engine.create_db());
    created.unwrap();
    assert!(requests.is_empty());
    let conn = run(&engine, engine.connect_rw()).unwrap();
    conn.execute_batch("CREATE TABLE offline (x); INSERT INTO offline VALUES (7)")
        .unwrap();
    assert!(run(&engine, engine.pull_changes_from_remote()).unwrap());
    run(&engine, engine.sync()).unwrap();
    let local = tables(&place.dir.path().join("offline.db"));
    assert_eq!(local.len(), 2);
    assert_eq!(local, place.remote.tables());

    let engine = DatabaseSyncEngine::new(place.opts("online.db")).unwrap();
    let (created, requests) = watched(&engine, engine.create_db());
    created.unwrap();
    assert_eq!(requests.len(), 1);
    assert_eq!(tables(&place.dir.path().join("online.db")), place.remote.tables());
}

// --------------------------------------------------------------------------------------------- reserved bytes, ciphers

fn remote_reserving(count: u8) -> Remote {
    Remote::start_prepared(TABLE, |conn| reserve_bytes(conn, count).unwrap())
}

fn reserved(path: &Path) -> u8 {
    std::fs::read(path).unwrap()[20]
}

/// What an app does: work offline, then meet the remote, and go on.
fn work_offline_then_sync(place: &Place, replica: &Replica) {
    replica.sql("CREATE TABLE own (x, y); INSERT INTO own VALUES (1, zeroblob(9000)), (2, 'b')");
    replica.sql("CREATE INDEX own_y ON own (y)");
    assert!(replica.pull().unwrap());
    assert_eq!(replica.tables().len(), 2);
    replica.sql("INSERT INTO t VALUES (3, 'three')");
    replica.sync().unwrap();
    assert_eq!(replica.tables(), place.remote.tables());
    run(&replica.engine, replica.engine.checkpoint()).unwrap();
    replica.sql("UPDATE own SET y = randomblob(5000)");
    replica.sync().unwrap();
    assert_eq!(replica.tables(), place.remote.tables());
}

#[test]
fn reserved_bytes_of_an_offline_start_meet_a_remote_that_reserves_as_many() {
    for count in [28, 32, 48, 255] {
        let place = Place::with(remote_reserving(count));
        let replica = place.replica("a.db", |o| {
            o.bootstrap_if_empty = false;
            o.reserved_bytes = count;
        });
        assert_eq!(reserved(&replica.path), count);
        work_offline_then_sync(&place, &replica);
        assert_eq!(reserved(&replica.path), count);
        assert_eq!(reserved(&place.remote.path), count);
    }
}

#[test]
fn reserved_bytes_that_nobody_named_are_those_of_the_remote() {
    let place = Place::with(remote_reserving(28));
    let offline = place.replica("a.db", |o| o.bootstrap_if_empty = false);
    assert_eq!(reserved(&offline.path), 0);
    work_offline_then_sync(&place, &offline);
    let downloaded = place.replica("b.db", |_| ());
    assert_eq!(reserved(&downloaded.path), 28);
    assert_eq!(downloaded.tables(), place.remote.tables());
}

#[test]
fn reserved_bytes_of_another_number_are_a_clear_error_and_change_nothing() {
    let place = Place::with(remote_reserving(32));
    let offline = place.replica("a.db", |o| {
        o.bootstrap_if_empty = false;
        o.reserved_bytes = 28;
    });
    offline.sql("CREATE TABLE own (x); INSERT INTO own VALUES (1)");
    let before = offline.tables();
    let e = offline.pull().unwrap_err();
    assert_eq!(e.category, Category::Identity);
    assert!(e.message.contains("reserves 32 bytes"), "{e}");
    assert!(e.message.contains("configured for 28"), "{e}");
    assert_eq!(offline.tables(), before);
    assert_eq!(offline.pending(), 2);

    let mut opts = place.opts("b.db");
    opts.reserved_bytes = 28;
    let e = Replica::open_with(opts.clone()).map(drop).unwrap_err();
    assert_eq!(e.category, Category::Identity);
    assert!(!Path::new(&opts.path).exists());
    opts.reserved_bytes = 32;
    assert_eq!(Replica::open_with(opts).unwrap().tables(), place.remote.tables());
}

/// Answers like a remote without a page that refuses every row of `own`.
fn refuse_rows(http: &HttpRequest) -> (u16, Vec<u8>) {
    if http.path == "/pull-updates" {
        let header = pull::PullHeader {
            server_revision: "0".into(),
            raw_encoding: Some(pull::RawEncoding {}),
            ..Default::default()
        };
        return (200, pull::encode_header(&header));
    }
    let request: serde_json::Value = serde_json::from_slice(&http.body).unwrap();
    let steps = request["requests"][0]["batch"]["steps"].as_array().unwrap();
    let done =
        serde_json::json!({"cols": [], "rows": [], "affected_row_count": 0, "last_insert_rowid": null});
    let (mut results, mut errors) = (
        vec![done; steps.len()],
        vec![serde_json::Value::Null; steps.len()],
    );
    let is_row = |step: &serde_json::Value| step["stmt"]["sql"].as_str().unwrap().contains("INTO \"own\"");
    if let Some(at) = steps.iter().position(is_row) {
        results[at..].fill(serde_json::Value::Null);
        errors[at] =
            serde_json::json!({"message": "CHECK constraint failed: own", "code": "SQLITE_CONSTRAINT"});
    }
    let result = serde_json::json!({"step_results": results, "step_errors": errors});
    let answer = serde_json::json!({"baton": null, "results": [
        {"type": "ok", "response": {"type": "batch", "result": result}}]});
    (200, answer.to_string().into_bytes())
}

/// A conflict is resolved over a base that has no page yet.
#[test]
fn reserved_bytes_stay_when_the_state_is_made_anew_without_a_remote() {
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(&dir.path().join("a.db"), "http://remote");
    opts.bootstrap_if_empty = false;
    opts.reserved_bytes = 28;
    opts.conflict_policy = turso_sync::engine::ConflictPolicy::SetAside;
    let replica = Replica::open_with(opts).unwrap();
    replica.sql("CREATE TABLE own (x); INSERT INTO own VALUES (1)");
    let op = replica.engine.push_changes_to_remote();
    drive(&replica.engine, op, &mut |http, _| Ok(refuse_rows(http))).unwrap();
    assert_eq!(replica.engine.conflicts().unwrap().len(), 1);
    assert_eq!(replica.text("SELECT count(*) FROM own"), "0");
    run(&replica.engine, replica.engine.checkpoint()).unwrap();
    assert_eq!(reserved(&replica.path), 28);
    tables(&replica.path);
}

#[test]
fn remote_encryption_cipher_tells_the_reserved_bytes() {
    for (cipher, count) in [
        ("aes128gcm", 28),
        ("AES-256-GCM", 28),
        ("chacha20poly1305", 28),
        ("aegis128l", 32),
        ("aegis128x2", 32),
        ("aegis128x4", 32),
        ("aegis256", 48),
        ("aegis256x2", 48),
        ("aegis256x4", 48),
    ] {
        let place = Place::with(remote_reserving(count));
        let replica = place.replica("a.db", |o| {
            o.bootstrap_if_empty = false;
            o.remote_encryption_cipher = Some(cipher.into());
        });
        assert_eq!(reserved(&replica.path), count, "{cipher}");
        assert!(replica.pull().unwrap());
    }
    let place = Place::new(TABLE);
    let with = |cipher: &str, reserved_bytes| DatabaseSyncEngineOpts {
        remote_encryption_cipher: Some(cipher.into()),
        reserved_bytes,
        ..place.opts("a.db")
    };
    refused(with("rot13", 0), "rot13");
    refused(with("aegis256", 28), "48");
    assert!(DatabaseSyncEngine::new(with("aegis256", 48)).is_ok());
}

#[test]
fn remote_encryption_key_goes_with_every_request_and_nowhere_else() {
    const KEY: &str = "c2VjcmV0LWtleS00NzEx";
    let place = Place::new(ROWS);
    let mut opts = place.opts("a.db");
    opts.remote_encryption_key = Some(KEY.into());
    opts.pull_bytes_threshold = 40 * 4096;
    assert!(!format!("{opts:?}").contains(KEY));
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    let (created, mut requests) = watched(&engine, engine.create_db());
    created.unwrap();
    let conn = run(&engine, engine.connect_rw()).unwrap();
    conn.execute_batch("UPDATE t SET v = 'x' WHERE id = 5").unwrap();
    let (synced, more) = watched(&engine, engine.sync());
    synced.unwrap();
    requests.extend(more);
    assert!(requests.len() >= 5, "{}", requests.len());
    for (http, _) in &requests {
        let sent = http
            .headers
            .iter()
            .filter(|(name, _)| name == "x-turso-encryption-key");
        let sent: Vec<&str> = sent.map(|(_, value)| value.as_str()).collect();
        assert_eq!(sent, [KEY], "{}", http.path);
    }
    for file in std::fs::read_dir(place.dir.path()).unwrap() {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!content.windows(KEY.len()).any(|part| part == KEY.as_bytes()));
    }
    for bad in ["", "two words", "line\nbreak"] {
        let mut opts = options(&tempfile::tempdir().unwrap().path().join("b.db"), "http://h");
        opts.remote_encryption_key = Some(bad.into());
        let e = DatabaseSyncEngine::new(opts).map(drop).unwrap_err();
        assert!(e.message.contains("not base64") && (bad.is_empty() || !e.message.contains(bad)));
    }
}

// --------------------------------------------------------------------------------------------------- bounded requests

#[test]
fn push_operations_threshold_begins_a_request_after_as_many_and_splits_no_transaction() {
    let place = Place::new(TABLE);
    let replica = place.replica("a.db", |o| o.push_operations_threshold = 3);
    for i in 10..16 {
        replica.sql(&format!("INSERT INTO t VALUES ({i}, 'single')"));
    }
    let rows: Vec<String> = (20..30).map(|i| format!("({i}, 'together')")).collect();
    replica.sql(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
    let (pushed, requests) = watched(&replica.engine, replica.engine.push_changes_to_remote());
    pushed.unwrap();
    let inserts = |(http, _): &(HttpRequest, usize)| {
        let body = String::from_utf8_lossy(&http.body);
        body.matches("INSERT INTO \\\"t\\\"").count()
    };
    let counts: Vec<usize> = requests.iter().map(inserts).collect();
    // First it asks for the watermark.
    assert_eq!(counts, [0, 3, 3, 10]);
    assert_eq!(place.remote.tables(), replica.tables());
}

/// `PUSH_ROWS=200000` for a large one.
#[test]
fn push_operations_threshold_bounds_the_requests_of_a_large_push() {
    let rows: usize = std::env::var("PUSH_ROWS").map_or(20_000, |rows| rows.parse().unwrap());
    let place = Place::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)");
    let replica = place.replica("a.db", |o| o.push_operations_threshold = 1000);
    for first in (0..rows).step_by(300) {
        replica.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {})
             INSERT INTO t SELECT i, 'row ' || i FROM n",
            rows.min(first + 300)
        ));
    }
    let (mut requests, mut largest, mut all) = (0, 0, 0);
    let op = replica.engine.push_changes_to_remote();
    drive(&replica.engine, op, &mut |http, _| {
        let inserts = String::from_utf8_lossy(&http.body)
            .matches("INSERT INTO \\\"t\\\"")
            .count();
        // A request ends with the transaction that brings it to the threshold.
        assert!(inserts < 1300, "{inserts}");
        (requests, largest, all) = (requests + 1, largest.max(http.body.len()), all + http.body.len());
        forward(http)
    })
    .unwrap();
    println!("{rows} rows: {requests} requests, the largest of {largest} bytes, {all} bytes in all");
    assert!(requests > rows / 1300);
    assert_eq!(place.remote.tables(), replica.tables());
}

/// Each answer brings at most `pages` pages.
fn assert_bounded(requests: &[(HttpRequest, usize)], pages: u64) {
    assert!(requests.len() > 2, "{}", requests.len());
    for (request, (_, answer)) in pulls(requests).iter().zip(requests) {
        assert!(*answer < (pages as usize + 1) * 4140, "{answer}");
        let wanted = selector::decode(&request.server_pages_selector).unwrap();
        assert!((1..=pages).contains(&wanted.len()), "{}", wanted.len());
    }
}

#[test]
fn pull_bytes_threshold_bounds_the_answers_of_a_bootstrap() {
    let place = Place::new(ROWS);
    let mut opts = place.opts("a.db");
    // Rounded up to whole pages.
    opts.pull_bytes_threshold = 20 * 4096 - 1;
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    let (created, requests) = watched(&engine, engine.create_db());
    created.unwrap();
    assert_bounded(&requests, 20);
    let path = place.dir.path().join("a.db");
    assert_eq!(tables(&path), place.remote.tables());
}

/// What was asked, in either dialect, and the header of each answer.
fn questions(requests: &[(HttpRequest, Vec<u8>)]) -> Vec<(pull::PullUpdatesRequest, pull::PullHeader)> {
    let question = |http: &HttpRequest| match http.path.split_once('?') {
        Some((_, query)) => pull_query::decode(query).unwrap(),
        None => pull::decode_request(&http.body).unwrap(),
    };
    let header = |body: &[u8]| {
        let mut decoder = pull::PullDecoder::new();
        decoder.push(body, &mut |_| Ok(())).unwrap();
        decoder.header().unwrap().clone()
    };
    requests
        .iter()
        .filter(|(http, _)| http.path.starts_with("/pull-updates"))
        .map(|(http, body)| (question(http), header(body)))
        .collect()
}

#[test]
fn pull_bytes_threshold_bounds_the_answers_of_a_pull() {
    for dialect in [ProtocolVersion::Compatible, ProtocolVersion::Direct] {
        for (bytes, batch) in [(20 * 4096 - 1, 0), (1 << 20, 20), (0, 0)] {
            let place = Place::new(ROWS);
            let replica = place.replica("a.db", |o| {
                o.pull_bytes_threshold = bytes;
                o.wal_pull_batch_size = batch;
                o.protocol_version_hint = dialect;
            });
            // All pages of the table, and new ones.
            let remote = plain(&place.remote.path);
            remote
                .execute_batch(
                    "UPDATE t SET v = randomblob(3900);
                     INSERT INTO t SELECT id + 1000, randomblob(3900) FROM t",
                )
                .unwrap();
            drop(remote);
            let mut seen = Vec::new();
            let op = replica.engine.pull_changes_from_remote();
            let pulled = drive(&replica.engine, op, &mut |http, _| {
                let (status, body) = forward(http)?;
                seen.push((http.clone(), body.clone()));
                Ok((status, body))
            });
            assert!(pulled.unwrap());
            assert_eq!(replica.tables(), place.remote.tables());
            let questions = questions(&seen);
            let pages: u64 = questions.iter().map(|(_, head)| head.page_count.unwrap()).sum();
            assert!((150..170).contains(&pages), "no page twice: {pages}");
            if (bytes, batch) == (0, 0) {
                assert_eq!((questions.len(), questions[0].0.max_pages), (1, 0));
                continue;
            }
            assert_eq!(questions.len() as u64, pages.div_ceil(20));
            let mut left = pages;
            for ((request, head), (_, body)) in questions.iter().zip(&seen) {
                assert_eq!(request.max_pages, 20);
                assert!(body.len() < 21 * 4140, "{}", body.len());
                left -= head.page_count.unwrap();
                assert_eq!(head.remaining, Some(left));
                assert_eq!(head.server_revision, questions[0].1.server_revision);
                assert_eq!(request.client_revision, questions[0].0.client_revision);
            }
        }
    }
}

#[test]
fn wal_pull_batch_size_bounds_the_pages_per_request() {
    let place = Place::new(ROWS);
    for (batch, bytes, expected) in [(16, 0, 16), (16, 1 << 20, 16), (1000, 4096 * 16, 16)] {
        let mut opts = place.opts(&format!("{batch}-{bytes}.db"));
        opts.wal_pull_batch_size = batch;
        opts.pull_bytes_threshold = bytes;
        let engine = DatabaseSyncEngine::new(opts).unwrap();
        let (created, requests) = watched(&engine, engine.create_db());
        created.unwrap();
        assert_bounded(&requests, expected);
    }
}

// --------------------------------------------------------------------------------------------------------------- rest

#[test]
fn tables_ignore_keeps_tables_here() {
    let place = Place::new(TABLE);
    let replica = place.replica("a.db", |o| o.tables_ignore = vec!["Draft".into()]);
    replica.sql("CREATE TABLE draft (x); INSERT INTO draft VALUES (1); INSERT INTO t VALUES (3, 'c')");
    replica.sync().unwrap();
    assert_eq!(replica.text("SELECT count(*) FROM draft"), "1");
    let there = place.remote.tables();
    assert!(!there.contains_key("draft"));
    assert_eq!(there["t"].len(), 3);
}

#[test]
fn conflict_policy_decides_what_a_conflict_does() {
    use turso_sync::engine::ConflictPolicy::{Overwrite, SetAside, Stop};
    for (policy, rows) in [
        (Stop, None),
        (Overwrite, Some("mine")),
        (SetAside, Some("theirs")),
    ] {
        let place = Place::new("CREATE TABLE u (id TEXT PRIMARY KEY, name TEXT UNIQUE)");
        let mine = place.replica("a.db", |o| o.conflict_policy = policy);
        let theirs = place.replica("b.db", |_| ());
        mine.sql("INSERT INTO u VALUES ('mine', 'same')");
        theirs.sql("INSERT INTO u VALUES ('theirs', 'same')");
        theirs.push().unwrap();
        let synced = mine.sync();
        assert_eq!(synced.is_ok(), rows.is_some(), "{policy:?} {synced:?}");
        if let Some(rows) = rows {
            assert_eq!(mine.text("SELECT group_concat(id) FROM u"), rows);
        }
    }
}

#[test]
fn partial_sync_is_refused_at_creation() {
    let place = Place::new(TABLE);
    let with = |change: &dyn Fn(&mut DatabaseSyncEngineOpts)| {
        let mut opts = place.opts("a.db");
        change(&mut opts);
        opts
    };
    let text = "not supported yet";
    refused(with(&|o| o.partial_prefix_bytes = 1 << 20), text);
    refused(with(&|o| o.partial_query = Some("SELECT 1".into())), text);
}

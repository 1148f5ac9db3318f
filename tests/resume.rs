//! A download that is interrupted goes on where it stopped: the first one, and every pull.
#![cfg(feature = "server")]

mod support;

use support::*;
use turso_sync::engine::{DatabaseSyncEngine, ProtocolVersion};
use turso_sync::error::Code;
use turso_sync::io::{Operation, OperationStatus, SyncEngineIoRequest};
use turso_sync::protocol::pull::{self, PullEvent, PullHeader};

/// A remote of about `megabytes`, of random content that does not compress.
fn remote_of(megabytes: u64) -> Remote {
    let rows = megabytes * 256;
    Remote::start(&format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT i, randomblob(3900) FROM n"
    ))
}

/// Runs `op` until `limit` bytes of answers have arrived; then the connection breaks, or the process ends. The bytes that came,
/// and whether the operation was done by then.
fn run_until<T>(engine: &DatabaseSyncEngine, mut op: Operation<T>, limit: u64) -> (u64, bool) {
    let mut received = 0;
    loop {
        match op.resume() {
            Ok(OperationStatus::Done) => return (received, true),
            Ok(OperationStatus::Io) => {}
            Err(_) => return (received, false),
        }
        while let Some(item) = engine.io().take_item() {
            let SyncEngineIoRequest::Http(http) = item.request() else {
                serve(&item, &mut |_, _| unreachable!());
                continue;
            };
            let (status, body) = forward(http).unwrap();
            item.status(status);
            let room = usize::try_from(limit - received).unwrap().min(body.len());
            body[..room]
                .chunks(5000)
                .for_each(|piece| item.push_buffer(piece));
            received += room as u64;
            if room < body.len() {
                if limit.is_multiple_of(2) {
                    // As if the process had ended: nobody hears of it.
                    std::mem::forget(item);
                    return (received, false);
                }
                item.poison("the connection broke");
            } else {
                item.done();
            }
        }
    }
}

/// `RESUME_MB=500` for a large one.
#[test]
fn ten_interruptions_cost_less_than_a_tenth() {
    let megabytes = std::env::var("RESUME_MB").map_or(32, |mb| mb.parse().unwrap());
    let remote = remote_of(megabytes);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let total = megabytes << 20;
    let mut received = 0;
    let mut cuts = Vec::new();
    let mut seed = 0x9e3779b97f4a7c15u64;
    loop {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        // At random points; at the end without an interruption.
        let limit = if cuts.len() < 10 {
            (seed >> 33) % (total / 12)
        } else {
            u64::MAX
        };
        let mut opts = options(&path, &remote.url);
        opts.pull_bytes_threshold = if cuts.len() % 3 == 0 { 1 << 20 } else { 0 };
        let engine = DatabaseSyncEngine::new(opts).unwrap();
        let (bytes, done) = run_until(&engine, engine.create_db(), limit);
        received += bytes;
        if done {
            break;
        }
        assert!(!path.exists());
        cuts.push(bytes);
    }
    assert_eq!(cuts.len(), 10);
    let file = std::fs::metadata(&remote.path).unwrap().len();
    println!(
        "{} bytes for a database of {file}: {:.3} times; interrupted after {cuts:?}",
        received,
        received as f64 / file as f64
    );
    assert!(received < file + file / 10, "{received} of {file}");
    assert_eq!(tables(&path), remote.tables());
    assert!(!dir.path().join("a.db-download").exists());
}

#[test]
fn a_remote_that_goes_on_meanwhile_is_caught_up_with() {
    let remote = remote_of(4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let writer = Replica::open(&dir.path().join("w.db"), &remote.url);
    for round in 0..6 {
        let engine = DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
        let (_, done) = run_until(&engine, engine.create_db(), 500_001);
        assert!(!done);
        let sql = match round {
            // Changes in what has arrived and in what has not, growth, and in the end the file shrinks.
            0 => "UPDATE t SET v = randomblob(3900) WHERE id IN (5, 900)",
            1 => "INSERT INTO t SELECT id + 100000, v FROM t LIMIT 100",
            2 => "UPDATE t SET v = zeroblob(10) WHERE id % 7 = 0",
            3 => "CREATE TABLE u AS SELECT * FROM t LIMIT 50",
            4 => "DELETE FROM t WHERE id > 600",
            _ => "VACUUM",
        };
        if round == 5 {
            plain(&remote.path).execute_batch(sql).unwrap();
        } else {
            writer.sql(sql);
            writer.push().unwrap();
        }
    }
    let a = Replica::open(&path, &remote.url);
    assert_eq!(a.tables(), remote.tables());
    a.sql("INSERT INTO t VALUES (-1, 'a')");
    a.sync().unwrap();
    assert_eq!(a.tables(), remote.tables());
}

#[test]
fn another_remote_is_never_mixed_in() {
    let (first, second) = (remote_of(2), remote_of(2));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, &first.url)).unwrap();
    assert!(!run_until(&engine, engine.create_db(), 1_000_001).1);
    let a = Replica::open(&path, &second.url);
    assert_eq!(a.tables(), second.tables());
}

/// The same address may belong to another database the next time.
#[test]
fn a_remote_that_was_replaced_is_noticed() {
    let mut first = remote_of(2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, "http://remote")).unwrap();
    let through = |url: &str, limit: Option<usize>| {
        let url = url.to_owned();
        move |http: &turso_sync::io::HttpRequest, _: &dyn Fn() -> (u16, Vec<u8>)| {
            let mut http = http.clone();
            http.url = Some(url.clone());
            let (status, mut body) = forward(&http).unwrap();
            body.truncate(limit.unwrap_or(usize::MAX));
            Ok((status, body))
        }
    };
    let cut = drive(
        &engine,
        engine.create_db(),
        &mut through(&first.url, Some(900_000)),
    );
    assert!(cut.unwrap_err().retryable);
    assert!(dir.path().join("a.db-download").exists());
    first.stop();
    let second = remote_of(2);
    drive(&engine, engine.create_db(), &mut through(&second.url, None)).unwrap();
    assert_eq!(tables(&path), second.tables());
}

/// A remote that claims another size for the same revision: what it sent before is not to be trusted.
#[test]
fn a_remote_that_contradicts_itself_costs_one_download() {
    let remote = remote_of(2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, &remote.url)).unwrap();
    assert!(!run_until(&engine, engine.create_db(), 1_000_001).1);
    let notes = dir.path().join("a.db-download");
    let content = std::fs::read(&notes).unwrap();
    let end = content.iter().position(|byte| *byte == b'\n').unwrap();
    let mut target: serde_json::Value = serde_json::from_slice(&content[..end]).unwrap();
    target["pages"] = (target["pages"].as_u64().unwrap() - 1).into();
    let content = [target.to_string().as_bytes(), &content[end..]].concat();
    std::fs::write(&notes, content).unwrap();
    let a = Replica::open(&path, &remote.url);
    assert_eq!(a.tables(), remote.tables());
}

/// Everything had arrived but the end of the answer, and then the remote was replaced.
#[test]
fn a_complete_download_is_confirmed_before_it_is_used() {
    let first = remote_of(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let engine = DatabaseSyncEngine::new(options(&path, "http://remote")).unwrap();
    let through = |url: &str, more: &'static [u8]| {
        let url = url.to_owned();
        move |http: &turso_sync::io::HttpRequest, _: &dyn Fn() -> (u16, Vec<u8>)| {
            let mut http = http.clone();
            http.url = Some(url.clone());
            let (status, mut body) = forward(&http).unwrap();
            body.extend_from_slice(more);
            Ok((status, body))
        }
    };
    // The length of a message that does not come.
    drive(&engine, engine.create_db(), &mut through(&first.url, &[0x20])).unwrap_err();
    let second = remote_of(1);
    let mut requests = 0;
    let honest = through(&second.url, &[]);
    drive(&engine, engine.create_db(), &mut |http, perform| {
        requests += 1;
        honest(http, perform)
    })
    .unwrap();
    assert!(requests > 0);
    assert_eq!(tables(&path), second.tables());
}

// --------------------------------------------------------------------------------------------------------------- pulls

const DIALECTS: [ProtocolVersion; 2] = [ProtocolVersion::Compatible, ProtocolVersion::Direct];

/// Random points, the same in every run.
struct Points(u64);

impl Points {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// A replica of a small remote that has then got about `megabytes` of new content.
struct Behind {
    remote: Remote,
    dir: tempfile::TempDir,
}

impl Behind {
    fn by(megabytes: u64) -> Behind {
        let behind = Behind {
            remote: remote_of(1),
            dir: tempfile::tempdir().unwrap(),
        };
        let replica = Replica::open(&behind.path(), &behind.remote.url);
        replica.sql("INSERT INTO t VALUES (-1, 'mine')");
        drop(replica);
        let rows = megabytes * 256;
        behind.change(&format!(
            "UPDATE t SET v = randomblob(3900);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO t SELECT i + 1000000, randomblob(3900) FROM n"
        ));
        behind
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("a.db")
    }

    fn download(&self) -> std::path::PathBuf {
        self.dir.path().join("a.db-changes")
    }

    /// Somebody writes on the remote.
    fn change(&self, sql: &str) {
        plain(&self.remote.path).execute_batch(sql).unwrap();
    }

    fn engine(&self, dialect: ProtocolVersion, threshold: u64) -> DatabaseSyncEngine {
        let mut opts = options(&self.path(), &self.remote.url);
        opts.protocol_version_hint = dialect;
        opts.pull_bytes_threshold = threshold;
        let engine = DatabaseSyncEngine::new(opts).unwrap();
        run(&engine, engine.create_db()).unwrap();
        engine
    }

    /// A pull that breaks off after `limit` bytes; the bytes that came, and whether it was done by then.
    fn pull(&self, dialect: ProtocolVersion, threshold: u64, limit: u64) -> (u64, bool) {
        let engine = self.engine(dialect, threshold);
        run_until(&engine, engine.pull_changes_from_remote(), limit)
    }

    /// A push now leaves both sides equal.
    fn ends(&self, dialect: ProtocolVersion) {
        assert!(!self.download().exists());
        let engine = self.engine(dialect, 0);
        run(&engine, engine.sync()).unwrap();
        let here = tables(&self.path());
        assert_eq!(here, self.remote.tables());
        assert!(here["t"].iter().any(|row| row[0].contains("(-1)")));
    }
}

/// `RESUME_MB=100` for a large one.
#[test]
fn ten_interruptions_of_a_pull_cost_less_than_a_tenth() {
    let megabytes = std::env::var("RESUME_MB").map_or(24, |mb| mb.parse().unwrap());
    for dialect in DIALECTS {
        let behind = Behind::by(megabytes);
        let whole = (megabytes + 1) << 20;
        let (mut points, mut received, mut cuts) = (Points(megabytes), 0, Vec::new());
        loop {
            let limit = match cuts.len() {
                ..10 => points.below(whole / 12),
                _ => u64::MAX,
            };
            let threshold = if cuts.len() % 3 == 0 { 1 << 20 } else { 0 };
            let (bytes, done) = behind.pull(dialect, threshold, limit);
            received += bytes;
            if done {
                break;
            }
            cuts.push(bytes);
        }
        assert_eq!(cuts.len(), 10);
        println!(
            "{dialect:?}: {received} bytes for {whole}: {:.3} times; interrupted after {cuts:?}",
            received as f64 / whole as f64
        );
        assert!(received < whole + whole / 10, "{received} of {whole}");
        behind.ends(dialect);
    }
}

/// Does nothing as a test. As a child: pulls, and dies when so many bytes have come.
#[test]
fn child_that_dies_in_a_pull() {
    let Ok(path) = std::env::var("RESUME_PATH") else {
        return;
    };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let mut opts = options(path.as_ref(), &std::env::var("RESUME_URL").unwrap());
    opts.protocol_version_hint = DIALECTS[number("RESUME_DIALECT") as usize];
    opts.pull_bytes_threshold = number("RESUME_THRESHOLD");
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    run(&engine, engine.create_db()).unwrap();
    let limit = number("RESUME_LIMIT");
    let mut received = 0;
    let mut pull = engine.pull_changes_from_remote();
    while pull.resume().unwrap() == OperationStatus::Io {
        while let Some(item) = engine.io().take_item() {
            let SyncEngineIoRequest::Http(http) = item.request() else {
                serve(&item, &mut |_, _| unreachable!());
                continue;
            };
            let (status, body) = forward(http).unwrap();
            item.status(status);
            for piece in body.chunks(1000) {
                item.push_buffer(piece);
                received += piece.len() as u64;
                if received >= limit {
                    // Nothing is closed and no buffer written.
                    std::process::abort();
                }
            }
            item.done();
        }
    }
    println!("received {received}");
}

#[test]
fn a_pull_goes_on_after_the_death_of_its_process() {
    for (number, dialect) in DIALECTS.into_iter().enumerate() {
        let behind = Behind::by(12);
        let whole = 13 << 20;
        let (mut points, mut received, mut deaths) = (Points(7), 0, 0);
        loop {
            let limit = match deaths {
                ..10 => points.below(whole / 12),
                _ => u64::MAX,
            };
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_that_dies_in_a_pull", "--nocapture"])
                .env("RESUME_PATH", behind.path())
                .env("RESUME_URL", &behind.remote.url)
                .env("RESUME_DIALECT", number.to_string())
                .env("RESUME_THRESHOLD", (deaths % 2 * 500_000).to_string())
                .env("RESUME_LIMIT", limit.to_string())
                .output()
                .unwrap();
            if output.status.success() {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let last = text.split("received ").nth(1).unwrap();
                received += last.split_whitespace().next().unwrap().parse::<u64>().unwrap();
                break;
            }
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            received += limit + 1000;
            deaths += 1;
        }
        assert_eq!(deaths, 10);
        println!("{dialect:?}: {:.3} times", received as f64 / whole as f64);
        assert!(received < whole + whole / 10, "{received} of {whole}");
        behind.ends(dialect);
    }
}

/// What has arrived is brought up to date with what has changed since, and no more.
#[test]
fn a_pull_from_a_remote_that_goes_on_ends_at_its_newest_state() {
    for dialect in DIALECTS {
        let mut behind = Behind::by(4);
        let changes = [
            // In what has arrived, and in what has not; growth; and in the end the file shrinks.
            "UPDATE t SET v = randomblob(3900) WHERE id IN (5, 1000900)",
            "INSERT INTO t SELECT id + 5000000, v FROM t WHERE id > 0 LIMIT 100",
            "UPDATE t SET v = zeroblob(10) WHERE id % 7 = 0",
            "CREATE TABLE u AS SELECT * FROM t LIMIT 50",
            "DELETE FROM t WHERE id > 1000600",
            "VACUUM",
        ];
        for (round, sql) in changes.into_iter().enumerate() {
            let threshold = if round % 2 == 0 { 100_000 } else { 0 };
            let (_, done) = behind.pull(dialect, threshold, 600_001);
            assert!(!done, "{round}");
            behind.change(sql);
            if round == 3 {
                behind.remote.stop();
                behind.remote.resume();
            }
        }
        // One pull is enough.
        assert!(behind.pull(dialect, 0, u64::MAX).1);
        let before = tables(&behind.path());
        behind.ends(dialect);
        assert_eq!(before, tables(&behind.path()));
    }
}

/// The remote is written between any two parts, so that no two of them could be of one newest state.
#[test]
fn parts_of_a_pull_are_of_one_state_while_the_remote_is_written() {
    for dialect in DIALECTS {
        let behind = Behind::by(2);
        let engine = behind.engine(dialect, 100_000);
        let mut revisions = std::collections::BTreeSet::new();
        let mut n = 0;
        drive(&engine, engine.pull_changes_from_remote(), &mut |http, _| {
            let (status, body) = forward(http)?;
            let mut decoder = pull::PullDecoder::new();
            decoder.push(&body, &mut |_| Ok(())).unwrap();
            revisions.insert(decoder.header().unwrap().server_revision.clone());
            n += 1;
            behind.change(&format!(
                "UPDATE t SET v = randomblob(3900) WHERE id % 5 = {n} % 5; INSERT INTO t VALUES (9000000 + {n}, {n})"
            ));
            Ok((status, body))
        })
        .unwrap();
        assert!(n > 20 && revisions.len() == 1, "{n} {revisions:?}");
        assert_eq!(
            Replica::open(&behind.path(), &behind.remote.url)
                .text("SELECT count(*) FROM t WHERE id > 9000000"),
            "0"
        );
        drop(engine);
        behind.ends(dialect);
    }
}

/// The server has forgotten the state that the parts are of: after its restart nothing keeps it.
#[test]
fn a_server_that_restarts_between_the_parts_costs_little() {
    let mut behind = Behind::by(3);
    let mut opts = options(&behind.path(), "http://remote");
    opts.pull_bytes_threshold = 200_000;
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    run(&engine, engine.create_db()).unwrap();
    let (mut n, mut received) = (0, 0);
    drive(&engine, engine.pull_changes_from_remote(), &mut |http, _| {
        n += 1;
        if n % 6 == 0 && n < 20 {
            behind.remote.stop();
            // What has not arrived has changed as well.
            behind.change(&format!("UPDATE t SET v = {n} WHERE id IN (7, 1000700)"));
            behind.remote.resume();
        }
        let mut http = http.clone();
        http.url = Some(behind.remote.url.clone());
        let (status, body) = forward(&http)?;
        received += body.len();
        Ok((status, body))
    })
    .unwrap();
    assert!(received < (4 << 20) * 11 / 10, "{received}");
    assert!(n > 20, "{n}");
    behind.ends(ProtocolVersion::Compatible);
}

/// A remote that promises no order: what came before the interruption is worth nothing, and is never mixed in.
#[test]
fn a_pull_from_another_server_begins_again_and_is_right() {
    let behind = Behind::by(2);
    let engine = behind.engine(ProtocolVersion::Compatible, 100_000);
    let foreign = |body: &[u8]| {
        let mut decoder = pull::PullDecoder::new();
        let (mut header, mut pages) = (None, Vec::new());
        decoder
            .push(body, &mut |event| {
                match event {
                    PullEvent::Header(head) => header = Some(head),
                    PullEvent::Page { page_no, data } => pages.push((page_no, *data)),
                }
                Ok(())
            })
            .unwrap();
        let header = PullHeader {
            page_count: None,
            remaining: None,
            dialects: 0,
            ..header.unwrap()
        };
        let mut out = pull::encode_header(&header);
        for (page_no, data) in pages.iter().rev() {
            pull::encode_page(page_no - 1, data, data.to_vec(), &mut out).unwrap();
        }
        out
    };
    let mut cut = Some(700_000);
    let mut requests = 0;
    for round in 0..2 {
        let pulled = drive(&engine, engine.pull_changes_from_remote(), &mut |http, _| {
            requests += 1;
            // It does not know the limit.
            let mut request = pull::decode_request(&http.body).unwrap();
            request.max_pages = 0;
            let mut http = http.clone();
            http.body = pull::encode_request(&request);
            let (status, body) = forward(&http)?;
            let mut body = foreign(&body);
            body.truncate(cut.take().unwrap_or(usize::MAX));
            Ok((status, body))
        });
        assert_eq!(pulled.is_ok(), round == 1);
        assert!(!behind.download().exists());
    }
    assert_eq!(requests, 2);
    behind.ends(ProtocolVersion::Compatible);
}

/// The remote was put back from a backup in the middle: what came of a state that it has lost does not count.
#[test]
fn a_remote_that_was_restored_is_asked_for_everything() {
    let mut behind = Behind::by(0);
    let backup = behind.dir.path().join("backup");
    behind.remote.stop();
    let files = ["", "-wal", "-sync", "-sync-wal"];
    let served = behind.remote.path.clone();
    let path_of = |suffix: &str| std::path::PathBuf::from(format!("{}{suffix}", served.display()));
    let backup_of = |suffix: &str| std::path::PathBuf::from(format!("{}{suffix}", backup.display()));
    for suffix in files {
        let _ = std::fs::copy(path_of(suffix), backup_of(suffix));
    }
    let engine = {
        let mut opts = options(&behind.path(), "http://remote");
        opts.pull_bytes_threshold = 100_000;
        let engine = DatabaseSyncEngine::new(opts).unwrap();
        run(&engine, engine.create_db()).unwrap();
        engine
    };
    behind.remote.resume();
    behind.change("UPDATE t SET v = 'lost' WHERE id < 300");
    let url = behind.remote.url.clone();
    let mut asked = 0;
    let cut = drive(&engine, engine.pull_changes_from_remote(), &mut |http, _| {
        asked += 1;
        if asked == 4 {
            return Err("no network".into());
        }
        let mut http = http.clone();
        http.url = Some(url.clone());
        forward(&http)
    });
    assert!(cut.unwrap_err().retryable && behind.download().exists());
    behind.remote.stop();
    for suffix in files {
        let _ = std::fs::remove_file(path_of(suffix));
        let _ = std::fs::copy(backup_of(suffix), path_of(suffix));
    }
    behind.change("UPDATE t SET v = 'after the backup' WHERE id < 100");
    behind.remote.resume();
    let url = behind.remote.url.clone();
    let honest = &mut |http: &turso_sync::io::HttpRequest, _: &dyn Fn() -> (u16, Vec<u8>)| {
        let mut http = http.clone();
        http.url = Some(url.clone());
        forward(&http)
    };
    drive(&engine, engine.pull_changes_from_remote(), honest).unwrap();
    behind.ends(ProtocolVersion::Compatible);
}

#[test]
fn an_interrupted_wait_goes_on_and_what_was_dropped_is_not_downloaded_again() {
    for dialect in DIALECTS {
        let behind = Behind::by(2);
        let engine = behind.engine(dialect, 0);
        let (bytes, done) = run_until(&engine, engine.wait_changes_from_remote(), 1_000_000);
        assert!(!done && bytes == 1_000_000);
        let received = || engine.io().network_bytes().1;
        let before = received();
        let changes = run(&engine, engine.wait_changes_from_remote()).unwrap().unwrap();
        assert!(received() - before < (3 << 20) - 700_000);
        // Nobody applies it, but the next one does.
        drop(changes);
        behind.change("UPDATE t SET v = 'newer' WHERE id = 3");
        let before = received();
        let changes = run(&engine, engine.wait_changes_from_remote()).unwrap().unwrap();
        assert!(received() - before < 100_000, "{}", received() - before);
        run(&engine, engine.apply_changes_from_remote(changes)).unwrap();
        assert!(run(&engine, engine.wait_changes_from_remote()).unwrap().is_none());
        drop(engine);
        behind.ends(dialect);
    }
}

/// Two at a time: one of them has the file, the other one makes its own.
#[test]
fn two_downloads_at_once_do_not_meet() {
    let behind = Behind::by(2);
    let (one, other) = (
        behind.engine(ProtocolVersion::Compatible, 200_000),
        behind.engine(ProtocolVersion::Compatible, 0),
    );
    let mut waiting = one.wait_changes_from_remote();
    let mut served = 0;
    // One is in the middle of its download.
    while served < 4 {
        waiting.resume().unwrap();
        while let Some(item) = one.io().take_item() {
            serve(&item, &mut |http, _| forward(http));
            served += 1;
        }
    }
    assert!(behind.download().exists());
    assert!(run(&other, other.pull_changes_from_remote()).unwrap());
    let changes = run(&one, waiting).unwrap().unwrap();
    let e = run(&one, one.apply_changes_from_remote(changes)).unwrap_err();
    assert_eq!(e.code, Code::BusySnapshot);
    assert!(run(&one, one.wait_changes_from_remote()).unwrap().is_none());
    drop((one, other));
    behind.ends(ProtocolVersion::Compatible);
}

/// A file that is of no use any more does not stay.
#[test]
fn a_download_for_a_base_that_is_gone_is_removed() {
    let behind = Behind::by(2);
    let (_, done) = behind.pull(ProtocolVersion::Compatible, 0, 1_000_001);
    assert!(!done && behind.download().exists());
    let left = std::fs::read(behind.download()).unwrap();
    assert!(behind.pull(ProtocolVersion::Compatible, 0, u64::MAX).1);
    assert!(!behind.download().exists());
    // As if the process had died before it could remove it.
    std::fs::write(behind.download(), &left).unwrap();
    drop(behind.engine(ProtocolVersion::Compatible, 0));
    assert!(!behind.download().exists());
    // Or in an engine that stays open.
    let engine = behind.engine(ProtocolVersion::Compatible, 0);
    std::fs::write(behind.download(), &left).unwrap();
    behind.change("UPDATE t SET v = 'more' WHERE id = 4");
    assert!(run(&engine, engine.pull_changes_from_remote()).unwrap());
    drop(engine);
    behind.ends(ProtocolVersion::Compatible);
}

#[test]
fn progress_counts_over_all_parts_and_a_cancelled_pull_goes_on() {
    for dialect in DIALECTS {
        let behind = Behind::by(2);
        let engine = behind.engine(dialect, 100_000);
        let watch = |until: u64| {
            let mut pull = engine.pull_changes_from_remote();
            let (control, mut seen) = (pull.control().clone(), Vec::new());
            let ended = loop {
                match pull.resume() {
                    Ok(OperationStatus::Done) => break Ok(()),
                    Ok(OperationStatus::Io) => {}
                    Err(e) => break Err(e),
                }
                while let Some(item) = engine.io().take_item() {
                    serve(&item, &mut |http, _| forward(http));
                    seen.push(control.progress());
                    if control.progress().pages_done >= until {
                        control.cancel();
                    }
                }
            };
            (ended, seen)
        };
        let pages = |seen: &[turso_sync::io::Progress]| -> Vec<(u64, u64)> {
            seen.iter().map(|p| (p.pages_done, p.pages_expected)).collect()
        };
        let (ended, seen) = watch(300);
        assert_eq!(ended.unwrap_err().code, Code::Interrupt);
        let first = pages(&seen);
        let all = first[0].1;
        assert!(first.iter().all(|(_, expected)| *expected == all), "{first:?}");
        let (ended, seen) = watch(u64::MAX);
        ended.unwrap();
        let second = pages(&seen);
        let (done, expected) = *second.last().unwrap();
        assert_eq!(done, expected);
        assert_eq!(first.last().unwrap().0 + done, all);
        assert!(second.is_sorted());
        drop(engine);
        behind.ends(dialect);
    }
}

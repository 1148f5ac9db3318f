//! Pulls from the bundled server: deltas are complete whatever happens between them.
#![cfg(all(feature = "server", feature = "driver"))]

mod server_support;

use std::path::Path;
use std::sync::mpsc;

use server_support::*;
use turso_sync::protocol::pull::PullUpdatesRequest;
use turso_sync::protocol::selector;

#[test]
fn a_bootstrap_rebuilds_the_database() {
    for mode in ["delete", "wal", "truncate"] {
        let dir = tempfile::tempdir().unwrap();
        let path = database(&dir, mode);
        let server = serve(&path);
        let client = Client::new(server.url());
        let mut replica = Pages::default();
        assert!(replica.pull(&client) > 10);
        replica.assert_equals(&path);
        assert_eq!(replica.pages[&1][18..20], [2, 2]);
        assert_eq!(replica.pull(&client), 0);
    }
}

#[test]
fn deltas_hold_what_changed_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut replica = Pages::default();
    let all = replica.pull(&client);
    let mut late = replica.clone();
    client.write(&["UPDATE t SET b = 1 WHERE id = 250"]);
    assert!(
        (2..5).contains(&replica.pull(&client)),
        "page 1 and the changed ones"
    );
    replica.assert_equals(&path);
    client.write(&["DELETE FROM t WHERE id > 20"]);
    replica.pull(&client);
    client.write(&["CREATE TABLE u(x)", "INSERT INTO u VALUES (zeroblob(20000))"]);
    replica.pull(&client);
    replica.assert_equals(&path);
    assert!(late.pull(&client) < all + 20);
    late.assert_equals(&path);
    client.post(
        "/v2/pipeline",
        br#"{"requests":[{"type":"execute","stmt":{"sql":"VACUUM"}}]}"#,
    );
    let before = replica.size;
    replica.pull(&client);
    replica.assert_equals(&path);
    assert!(replica.size < before, "the database has shrunk");
    client.write(&["INSERT INTO u VALUES (zeroblob(300000))", "DELETE FROM u"]);
    replica.pull(&client);
    replica.assert_equals(&path);
}

#[test]
fn deltas_survive_clean_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "delete");
    let mut replica = Pages::default();
    for i in 1..4 {
        let server = serve(&path);
        let client = Client::new(server.url());
        let pulled = replica.pull(&client);
        assert_eq!(pulled < 10, i > 1, "{pulled} pages in round {i}");
        client.write(&[&format!("UPDATE t SET b = {i} WHERE id = {i}")]);
        server.shutdown();
    }
    let server = serve(&path);
    let mut client = Client::new(server.url());
    assert!((2..5).contains(&replica.pull(&client)));
    replica.assert_equals(&path);
    server.shutdown();
    let server = serve(&path);
    client = Client::new(server.url());
    assert_eq!(replica.pull(&client), 0);
}

#[test]
fn deltas_survive_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut replica = Pages::default();
    replica.pull(&client);
    // More than the server's threshold, so that its housekeeping checkpoints in between.
    for i in 0..6 {
        client.write(&[&format!(
            "INSERT INTO t VALUES ({i} + 1000, {i}, zeroblob(4000000))"
        )]);
        assert!((900..1200).contains(&replica.pull(&client)));
    }
    client.write(&["UPDATE t SET b = 7 WHERE id = 1"]);
    assert!(replica.pull(&client) < 10);
    replica.assert_equals(&path);
}

#[test]
fn other_writers_are_noticed_while_the_server_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let mut replica = Pages::default();
    let foreign: [fn(&Path); 4] = [
        |path| {
            plain(path)
                .execute_batch("UPDATE t SET b = 'x' WHERE id = 3")
                .unwrap()
        },
        |path| {
            plain(path)
                .execute_batch("PRAGMA journal_mode=DELETE; DELETE FROM t WHERE id = 4")
                .unwrap()
        },
        |path| {
            plain(path)
                .execute_batch("PRAGMA wal_checkpoint(TRUNCATE); VACUUM")
                .unwrap()
        },
        |path| drop(plain(path).query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))),
    ];
    for write in foreign {
        let server = serve(&path);
        let client = Client::new(server.url());
        replica.pull(&client);
        replica.assert_equals(&path);
        client.write(&["UPDATE t SET b = hex(randomblob(4)) WHERE id = 9"]);
        server.shutdown();
        write(&path);
    }
    let server = serve(&path);
    replica.pull(&Client::new(server.url()));
    replica.assert_equals(&path);
}

#[test]
fn other_writers_are_noticed_while_the_server_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut replica = Pages::default();
    replica.pull(&client);
    let other = plain(&path);
    for i in 0..8 {
        other.execute("UPDATE t SET b = ? WHERE id = 5", [i]).unwrap();
        if i % 3 == 0 {
            other
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
        }
        other.execute("UPDATE t SET b = ? WHERE id = 400", [i]).unwrap();
        client.write(&["UPDATE t SET b = hex(randomblob(4)) WHERE id = 200"]);
        assert!(replica.pull(&client) > 0);
        replica.assert_equals(&path);
    }
}

#[test]
fn revisions_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut replica = Pages::default();
    replica.pull(&client);
    for foreign in ["7", "other:1", &format!("{}0", replica.revision)] {
        let request = PullUpdatesRequest {
            client_revision: foreign.to_owned(),
            ..Default::default()
        };
        let answer = client.pull(&request);
        assert_eq!(answer.status, 409);
        assert!(answer.text().contains("unknown revision"));
    }
    server.shutdown();
    std::fs::remove_file(dir.path().join("served.db-sync")).unwrap();
    let server = serve(&path);
    let request = PullUpdatesRequest {
        client_revision: replica.revision,
        ..Default::default()
    };
    assert_eq!(Client::new(server.url()).pull(&request).status, 409);
}

#[test]
fn a_bootstrap_in_parts_is_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let part = |revision: &str, range| {
        let request = PullUpdatesRequest {
            server_revision: revision.to_owned(),
            server_pages_selector: selector::encode_range(range).unwrap(),
            ..Default::default()
        };
        client.pull(&request)
    };
    let (head, mut pages) = decode(&part("", 0..5).body);
    assert_eq!(pages.len(), 5);
    let mut whole = Pages::default();
    whole.pull(&client);
    client.write(&[
        "UPDATE t SET b = 1",
        "CREATE TABLE v(x)",
        "INSERT INTO v VALUES (zeroblob(50000))",
    ]);
    let end = u32::try_from(head.db_size).unwrap();
    let (header, rest) = decode(&part(&head.server_revision, 5..end + 100).body);
    assert_eq!(
        (header.db_size, &header.server_revision),
        (head.db_size, &head.server_revision)
    );
    pages.extend(rest);
    assert!(pages == whole.pages, "pages of one revision");
    let newest = {
        let mut newest = whole.clone();
        newest.pull(&client);
        newest.revision
    };
    let back = PullUpdatesRequest {
        server_revision: head.server_revision.clone(),
        client_revision: newest,
        ..Default::default()
    };
    let back = decode(&client.pull(&back).body).1;
    assert!(back.len() > 1 && back.iter().all(|(no, data)| whole.pages[no] == *data));
    let mut from_there = Pages {
        revision: head.server_revision,
        size: end,
        pages,
    };
    from_there.pull(&client);
    from_there.assert_equals(&path);
}

#[test]
fn a_pin_without_a_snapshot_is_exact_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut old = Pages::default();
    old.pull(&client);
    let pinned = |ids: std::ops::Range<u32>| {
        let request = PullUpdatesRequest {
            server_revision: old.revision.clone(),
            server_pages_selector: selector::encode_range(ids).unwrap(),
            ..Default::default()
        };
        client.pull(&request)
    };
    assert_eq!(decode(&pinned(0..5).body).1.len(), 5, "the newest revision");
    client.write(&["UPDATE t SET b = zeroblob(9000) WHERE id = 500"]);
    // The first request above kept a snapshot; enough others push it out.
    for i in 0..8 {
        client.write(&[&format!("UPDATE t SET b = {i} WHERE id = 500")]);
        let request = PullUpdatesRequest {
            server_pages_selector: selector::encode_range(0..1).unwrap(),
            ..Default::default()
        };
        assert_eq!(client.pull(&request).status, 200);
    }
    let (header, pages) = decode(&pinned(3..5).body);
    assert_eq!(header.server_revision, old.revision);
    assert_eq!(header.db_size, u64::from(old.size));
    assert!(pages.iter().all(|(no, data)| old.pages[no] == *data));
    let refused = pinned(0..5);
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("revision no longer available"));
}

/// Pulls in answers of at most `most` pages, with `between` after each; how many answers, and the pages.
fn pull_in_parts(
    replica: &Pages,
    client: &Client,
    most: u32,
    mut between: impl FnMut(),
) -> Result<(u32, Pages), Answer> {
    let mut then = replica.clone();
    let (mut answers, mut next, mut pinned) = (0, 0, String::new());
    loop {
        let selector = match pinned.is_empty() {
            true => Vec::new(),
            false => selector::encode_range(next..then.size).unwrap(),
        };
        let answer = client.pull(&PullUpdatesRequest {
            client_revision: replica.revision.clone(),
            server_revision: pinned.clone(),
            server_pages_selector: selector,
            max_pages: most,
            ..Default::default()
        });
        if answer.status != 200 {
            return Err(answer);
        }
        let (header, pages) = decode(&answer.body);
        answers += 1;
        assert!(pages.len() <= most as usize);
        assert!(pages.keys().all(|no| *no > next), "from the lowest on");
        assert!(pinned.is_empty() || pinned == header.server_revision);
        next = pages.keys().max().copied().unwrap_or(next);
        then.size = header.db_size as u32;
        then.pages.extend(pages);
        then.pages.retain(|no, _| *no <= then.size);
        pinned = header.server_revision;
        if header.remaining == Some(0) {
            then.revision = pinned;
            return Ok((answers, then));
        }
        between();
    }
}

#[test]
fn a_delta_in_parts_is_one_revision_whatever_is_written_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut start = Pages::default();
    start.pull(&client);
    client.write(&[
        "UPDATE t SET b = randomblob(100)",
        "INSERT INTO t SELECT id + 1000, NULL, a FROM t",
    ]);
    let mut whole = start.clone();
    let all = whole.pull(&client);
    let mut n = 0;
    let (answers, then) = pull_in_parts(&start, &client, 3, || {
        n += 1;
        client.write(&[
            &format!("UPDATE t SET b = {n} WHERE id % 3 = {}", n % 3),
            &format!("DELETE FROM t WHERE id = {n} + 1000"),
            "CREATE TABLE IF NOT EXISTS u(x)",
            "INSERT INTO u VALUES (zeroblob(40000))",
        ]);
    })
    .ok()
    .unwrap();
    assert!(answers as usize >= all / 3, "{answers} for {all}");
    assert!(then.revision == whole.revision && then.pages == whole.pages);
    let mut end = then;
    end.pull(&client);
    end.assert_equals(&path);
    // One page at a time, and all at once.
    for most in [1, u32::MAX] {
        let (answers, end) = pull_in_parts(&whole, &client, most, || ()).ok().unwrap();
        assert!((most == 1) == (answers > 1));
        end.assert_equals(&path);
    }
}

/// The snapshot of a download in parts is closed with its last part: otherwise the log could not start over for a minute.
#[test]
fn the_snapshot_of_a_delta_in_parts_goes_with_its_last_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut start = Pages::default();
    start.pull(&client);
    client.write(&["UPDATE t SET b = randomblob(100)"]);
    // Two at once have one snapshot; it stays until both have ended.
    let (mut inner, mut outer) = (0, 0);
    let (_, then) = pull_in_parts(&start, &client, 3, || {
        if outer == 0 {
            inner = pull_in_parts(&start, &client, 3, || ()).ok().unwrap().0;
            client.write(&["UPDATE t SET b = randomblob(100)"]);
        }
        outer += 1;
    })
    .ok()
    .unwrap();
    assert!(inner > 1 && outer > 1);
    // Nobody needs it any more: a page that has changed since is not served as of then.
    let gone = client.pull(&PullUpdatesRequest {
        server_revision: then.revision.clone(),
        server_pages_selector: selector::encode_range(0..3).unwrap(),
        ..Default::default()
    });
    assert_eq!(gone.status, 409);
    let mut end = then;
    end.pull(&client);
    end.assert_equals(&path);
}

#[test]
fn selectors_and_encodings() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut raw = Pages::default();
    raw.pull(&client);
    let answer = client.pull(&PullUpdatesRequest {
        encoding: 1,
        ..Default::default()
    });
    assert!(answer.body.len() < raw.size as usize * PAGE_SIZE);
    let (header, pages) = decode(&answer.body);
    assert!(header.zstd_encoding.is_some() && header.raw_encoding.is_none());
    assert!(pages == raw.pages);
    let select = |bytes: Vec<u8>| {
        client.pull(&PullUpdatesRequest {
            server_pages_selector: bytes,
            ..Default::default()
        })
    };
    let nothing = select(selector::encode_range(0..0).unwrap());
    assert!(decode(&nothing.body).1.is_empty());
    assert!(
        decode(&select(selector::encode_range(9000..9100).unwrap()).body)
            .1
            .is_empty()
    );
    let two = select(selector::encode(&[1, 3, u32::MAX].into()).unwrap());
    assert!(decode(&two.body).1.keys().eq(&[2, 4]));
    assert_eq!(select(vec![1, 2, 3]).status, 400);
    assert_eq!(
        client
            .pull(&PullUpdatesRequest {
                encoding: 9,
                ..Default::default()
            })
            .status,
        400
    );
    assert_eq!(
        client
            .pull(&PullUpdatesRequest {
                stream_kind: 1,
                ..Default::default()
            })
            .status,
        200
    );
    let query = PullUpdatesRequest {
        server_query_selector: "SELECT 1".to_owned(),
        ..Default::default()
    };
    let answer = client.pull(&query);
    assert_eq!(
        (answer.status, answer.text().contains("not supported")),
        (400, true)
    );
}

#[test]
fn a_long_poll_ends_with_the_next_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let server = serve(&path);
    let url = server.url();
    let mut replica = Pages::default();
    replica.pull(&Client::new(&*url));
    let request = PullUpdatesRequest {
        client_revision: replica.revision.clone(),
        long_poll_timeout_ms: 1,
        ..Default::default()
    };
    assert!(
        decode(&Client::new(&*url).pull(&request).body).1.is_empty(),
        "nothing new in time"
    );
    for foreign in [false, true] {
        let (sender, receiver) = mpsc::channel();
        let request = PullUpdatesRequest {
            client_revision: replica.revision.clone(),
            long_poll_timeout_ms: 3_600_000,
            ..Default::default()
        };
        let poller = Client::new(&*url);
        let thread = std::thread::spawn(move || sender.send(poller.pull(&request).body).unwrap());
        // Whether the poll is already waiting or not, it must see this.
        match foreign {
            false => Client::new(&*url).write(&["UPDATE t SET b = 5 WHERE id = 5"]),
            true => plain(&path)
                .execute_batch("UPDATE t SET b = 6 WHERE id = 5")
                .unwrap(),
        }
        assert!(replica.apply(&receiver.recv().unwrap()) > 1);
        replica.assert_equals(&path);
        thread.join().unwrap();
    }
    // A server that stops does not wait for polls.
    let request = PullUpdatesRequest {
        client_revision: replica.revision,
        long_poll_timeout_ms: 3_600_000,
        ..Default::default()
    };
    let poller = Client::new(url);
    let thread = std::thread::spawn(move || poller.agent_pull(&request));
    server.shutdown();
    thread.join().unwrap();
}

#[test]
fn an_empty_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.db");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut replica = Pages::default();
    replica.pull(&client);
    assert!(replica.size <= 1);
    client.write(&["CREATE TABLE t(x)"]);
    replica.pull(&client);
    replica.assert_equals(&path);
}

#[test]
fn a_backup_that_was_put_back_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let files = ["served.db", "served.db-wal", "served.db-sync"].map(|name| dir.path().join(name));
    let server = serve(&path);
    let mut before = Pages::default();
    before.pull(&Client::new(server.url()));
    server.shutdown();
    let backup: Vec<_> = files.iter().map(|file| std::fs::read(file).ok()).collect();
    let server = serve(&path);
    let client = Client::new(server.url());
    client.write(&["UPDATE t SET b = 'lost' WHERE id = 1"]);
    let mut after = before.clone();
    after.pull(&client);
    server.shutdown();
    for (file, bytes) in files.iter().zip(backup) {
        bytes.map_or_else(
            || drop(std::fs::remove_file(file)),
            |bytes| std::fs::write(file, bytes).unwrap(),
        );
    }
    let server = serve(&path);
    let client = Client::new(server.url());
    for i in 0..4 {
        client.write(&[&format!("UPDATE t SET b = {i} WHERE id = 400")]);
        before.pull(&client);
        before.assert_equals(&path);
        let request = PullUpdatesRequest {
            client_revision: after.revision.clone(),
            ..Default::default()
        };
        let answer = client.pull(&request);
        assert_eq!(
            (answer.status, answer.text().contains("unknown revision")),
            (409, true)
        );
    }
}

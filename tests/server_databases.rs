//! A folder of databases behind one address: names, creation, how many are open, and that they do not mix.
#![cfg(all(feature = "server", feature = "driver"))]

mod server_support;

use std::path::Path;
use std::time::Duration;

use server_support::*;
use turso_sync::protocol::pull::PullUpdatesRequest;
use turso_sync::record::Value;
use turso_sync::server::{Config, Limits, Server};

fn start(config: &Config) -> (Server, impl Fn(&str) -> Client + use<>) {
    let server = Server::start(config).unwrap();
    let url = server.url();
    (server, move |name: &str| Client::new(format!("{url}{name}")))
}

fn content(path: &Path) -> Vec<String> {
    let conn = plain(path);
    let mut query = conn.prepare("SELECT x FROM t ORDER BY x").unwrap();
    query
        .query_map([], |r| r.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn each_has_its_path_and_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = start(&serve_folder(dir.path(), true));
    for name in ["notes", "tasks-2"] {
        client(&format!("/{name}"))
            .write(&["CREATE TABLE t(x)", &format!("INSERT INTO t VALUES ('{name}')")]);
    }
    for name in ["notes", "tasks-2"] {
        // A base URL that ends with a slash makes two of them, and that must not matter.
        for path in [format!("/{name}"), format!("/{name}/")] {
            let client = client(&path);
            assert_eq!(client.query("SELECT x FROM t"), [[Value::Text(name.into())]]);
            let mut replica = Pages::default();
            replica.pull(&client);
            replica.assert_equals(&dir.path().join(format!("{name}.db")));
        }
    }
    assert_eq!(client("").get("/health"), 200);
    assert_eq!(client("").get("/"), 200);
    server.shutdown();
    assert_eq!(content(&dir.path().join("notes.db")), ["notes"]);
    assert_eq!(content(&dir.path().join("tasks-2.db")), ["tasks-2"]);
}

#[test]
fn the_host_names_it_where_a_client_has_no_path() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client) = start(&serve_folder(dir.path(), true));
    let body = pipeline(&["CREATE TABLE t(x)"]);
    let asked = |host: &str| client("").post_with("/v2/pipeline", &body, "host", host).status;
    assert_eq!(asked("notes.example.com:8080"), 200);
    assert!(dir.path().join("notes.db").exists());
    for host in ["127.0.0.1", "localhost:80", "no_t!.example.com", ".example.com"] {
        assert_eq!(asked(host), 404, "{host}");
    }
}

#[test]
fn names_reach_nothing_else() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    plain(&outside.path().join("secret.db"))
        .execute_batch("CREATE TABLE t(x)")
        .unwrap();
    std::fs::create_dir(folder.join("inner.db")).unwrap();
    let (_server, client) = start(&serve_folder(&folder, true));
    let before = std::fs::read_dir(&folder).unwrap().count();
    for name in [
        "/..",
        "/../secret",
        "/%2e%2e%2fsecret",
        "/..%2fsecret",
        "/.",
        "/a.b",
        "/A",
        "/-a",
        "/_a",
        "/a%00",
        "/a%2fb",
        "/v2",
        "/health",
        "/metrics",
        "/%61",
        "/a/b",
        "/~",
        &format!("/{}", "x".repeat(65)),
    ] {
        let answer = client(name).post("/v2/pipeline", &pipeline(&["SELECT 1"]));
        assert_eq!(answer.status, 404, "{name}: {}", answer.text());
    }
    assert_eq!(
        client("").post("/v2/pipeline", &pipeline(&["SELECT 1"])).status,
        404
    );
    // A folder with the name of a database is an error of the server's, and leaves nothing behind.
    assert_eq!(client("/inner").post("/pull-updates", b"").status, 500);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), before);
}

#[test]
fn they_are_made_only_where_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    plain(&dir.path().join("old.db"))
        .execute_batch("CREATE TABLE t(x)")
        .unwrap();
    let (_server, client) = start(&serve_folder(dir.path(), false));
    assert_eq!(client("/new").post("/pull-updates", b"").status, 404);
    assert!(!dir.path().join("new.db").exists());
    assert_eq!(client("/old").post("/pull-updates", b"").status, 200);
    let missing = Server::start(&serve_folder(&dir.path().join("missing"), true));
    assert!(missing.err().unwrap().message.contains("not a folder"));
    let both = Config {
        database: Some(dir.path().join("old.db")),
        ..serve_folder(dir.path(), false)
    };
    assert!(Server::start(&both).err().unwrap().message.contains("either"));
}

#[test]
fn few_are_open_at_a_time_and_idle_ones_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        limits: Limits {
            databases: 2,
            ..Default::default()
        },
        ..serve_folder(dir.path(), true)
    };
    let (_server, client) = start(&config);
    let mut replicas: Vec<Pages> = vec![Pages::default(); 6];
    // Twice: a database that was closed in between goes on where it was.
    for round in 0..2 {
        for (i, replica) in replicas.iter_mut().enumerate() {
            let client = client(&format!("/db{i}"));
            let sql = format!("INSERT INTO t VALUES ('{round}')");
            client.write(&["CREATE TABLE IF NOT EXISTS t(x)", &sql]);
            let pulled = replica.pull(&client);
            assert_eq!(pulled, 2, "a delta, not the whole history");
            // A side file that is open has its log beside it.
            let open = (0..6).filter(|n| dir.path().join(format!("db{n}.db-sync-wal")).exists());
            assert!(open.count() <= 2);
        }
    }
    for (i, replica) in replicas.iter().enumerate() {
        replica.assert_equals(&dir.path().join(format!("db{i}.db")));
    }
}

#[test]
fn one_that_is_in_use_keeps_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        limits: Limits {
            databases: 1,
            ..Default::default()
        },
        ..serve_folder(dir.path(), true)
    };
    let (_server, client) = start(&config);
    let used = client("/used");
    used.write(&["CREATE TABLE t(x)"]);
    let mut replica = Pages::default();
    replica.pull(&used);
    let waiting = PullUpdatesRequest {
        client_revision: replica.revision.clone(),
        long_poll_timeout_ms: 60_000,
        ..Default::default()
    };
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            loop {
                let answer = client("/used").pull(&waiting);
                // The place may just belong to a request for the other one.
                if answer.status != 503 {
                    return answer;
                }
            }
        });
        // The other one is refused as soon as the wait has begun.
        while client("/other").post("/pull-updates", b"").status != 503 {}
        used.write(&["INSERT INTO t VALUES ('wakes it')"]);
        assert_eq!(answer.join().unwrap().status, 200);
    });
    assert_eq!(client("/other").post("/pull-updates", b"").status, 200);
}

#[test]
fn idle_ones_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        limits: Limits {
            idle_time: Duration::ZERO,
            ..Default::default()
        },
        ..serve_folder(dir.path(), true)
    };
    let (_server, client) = start(&config);
    let path = dir.path().join("notes.db");
    client("/notes").write(&["CREATE TABLE t(x)", "INSERT INTO t VALUES ('kept')"]);
    // Another server can have it as soon as it is closed.
    let other = loop {
        match Server::start(&server_support::config(&path)) {
            Ok(other) => break other,
            Err(e) => assert!(e.message.contains("another server"), "{e}"),
        }
    };
    let refused = client("/notes").post("/pull-updates", b"");
    assert_eq!(refused.status, 503, "{}", refused.text());
    other.shutdown();
    assert_eq!(
        client("/notes").query("SELECT x FROM t"),
        [[Value::Text(b"kept".to_vec())]]
    );
}

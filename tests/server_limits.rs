//! Slow and greedy clients: what they get, and that nobody else notices.
#![cfg(all(feature = "server", feature = "driver"))]

mod server_support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use server_support::*;
use turso_sync::protocol::pull::PullUpdatesRequest;
use turso_sync::server::{Config, Limits, Server};

/// More than the operating system buffers for a connection.
const LARGE: usize = 32 << 20;

fn start(path: PathBuf, limits: Limits) -> (Server, Client) {
    let server = Server::start(&Config {
        limits,
        ..config(&path)
    })
    .unwrap();
    let client = Client::new(server.url());
    (server, client)
}

fn large_database(dir: &tempfile::TempDir) -> PathBuf {
    let path = database(dir, "wal");
    plain(&path)
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n LIMIT {})
             INSERT INTO t SELECT i, 'large ' || i, zeroblob(1 << 20) FROM n",
            LARGE >> 20
        ))
        .unwrap();
    path
}

fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).unwrap()
}

fn ask_for_everything(server: &Server) -> TcpStream {
    let mut stream = connect(server);
    stream
        .write_all(
            b"POST /pull-updates HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    stream
}

/// Body of the answer that is left in `stream`; with its announced length.
fn rest(mut stream: TcpStream) -> (Vec<u8>, usize) {
    let mut all = Vec::new();
    // A connection that the server has broken may end with an error.
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    (all.split_off(end), length)
}

#[test]
fn who_takes_nothing_holds_neither_a_thread_nor_a_snapshot_nor_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_database(&dir);
    let limits = Limits {
        // With a single one, nobody else could work while the slow client has it.
        workers: 1,
        ..Limits::default()
    };
    let (server, client) = start(path.clone(), limits);
    let slow = [ask_for_everything(&server), ask_for_everything(&server)];
    let mut replica = Pages::default();
    replica.pull(&client);
    while client.metric("turso_sync_spooled_bytes") < LARGE as f64 {}
    // A snapshot would keep the log from starting over, whatever is written.
    for round in 0..4 {
        client.write(&[&format!(
            "UPDATE t SET b = zeroblob({}) WHERE id >= 1000",
            (1 << 20) - round
        )]);
    }
    let log_len = || std::fs::metadata(dir.path().join("served.db-wal")).unwrap().len();
    while log_len() > 64 << 20 {
        // Not the same value again, which SQLite would not write.
        client.write(&["UPDATE t SET b = randomblob(9) WHERE id = 1"]);
    }
    for stream in slow {
        let (body, length) = rest(stream);
        assert_eq!(body.len(), length);
        let mut slow = Pages::default();
        slow.apply(&body);
        assert!(slow.file() == replica.file(), "the state when it asked");
    }
    assert_eq!(client.metric("turso_sync_spooled_bytes"), 0.0);
}

#[test]
fn who_takes_nothing_for_too_long_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        patience: Duration::from_millis(300),
        ..Limits::default()
    };
    let (server, client) = start(large_database(&dir), limits);
    let slow = ask_for_everything(&server);
    while client.metric("turso_sync_spooled_bytes") == 0.0
        && client.metric("turso_sync_connections_open") > 1.0
    {}
    while client.metric("turso_sync_connections_open") > 1.0 {}
    let (body, length) = rest(slow);
    assert!(body.len() < length, "{} of {length}", body.len());
}

#[test]
fn what_waits_for_slow_clients_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        spool: 1 << 20,
        ..Limits::default()
    };
    let (server, client) = start(large_database(&dir), limits);
    let slow = ask_for_everything(&server);
    // The file has no room for the rest: it is given up as soon as that is known.
    while client.metric("turso_sync_spooled_bytes") == 0.0 {}
    let (body, length) = rest(slow);
    assert!(body.len() < length, "{} of {length}", body.len());
    let mut replica = Pages::default();
    replica.pull(&client);
}

#[test]
fn who_sends_too_slowly_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        patience: Duration::from_millis(200),
        header_time: Duration::from_millis(200),
        ..Limits::default()
    };
    let (server, client) = start(database(&dir, "wal"), limits);
    let mut body = connect(&server);
    body.write_all(b"POST /v2/pipeline HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    let mut answer = String::new();
    body.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // A head that does not come, or not to its end: the connection is closed.
    for head in ["", "POST /v2/pipeline HTTP/1.1\r\nHost: x\r\nX-"] {
        let mut stream = connect(&server);
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    client.write(&["UPDATE t SET b = 1 WHERE id = 1"]);
}

#[test]
fn connections_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    for (connections, connections_per_address) in [(3, 100), (100, 3)] {
        let limits = Limits {
            connections,
            connections_per_address,
            ..Limits::default()
        };
        let (server, client) = start(path.clone(), limits);
        let ask = |stream: &mut TcpStream| {
            stream
                .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).unwrap();
            String::from_utf8_lossy(&start).into_owned()
        };
        let mut open: Vec<TcpStream> = (0..3).map(|_| connect(&server)).collect();
        for stream in &mut open {
            assert_eq!(ask(stream), "HTTP/1.1 200");
        }
        let mut refused = String::new();
        let _ = connect(&server).read_to_string(&mut refused);
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        assert!(refused.contains("Retry-After"));
        open.clear();
        // The places are free as soon as the server has seen that they are.
        while client.post("/v2/pipeline", &pipeline(&["SELECT 1"])).status != 200 {}
    }
}

#[test]
fn requests_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        body: 300 << 10,
        bodies: 200 << 10,
        long_poll: Duration::ZERO,
        ..Limits::default()
    };
    let path = database(&dir, "wal");
    let (server, client) = start(path.clone(), limits);
    let request = |len: usize| pipeline(&[&format!("SELECT '{}'", "x".repeat(len))]);
    assert_eq!(client.post("/v2/pipeline", &request(60 << 10)).status, 200);
    assert_eq!(client.post("/v2/pipeline", &request(150 << 10)).status, 200);
    assert_eq!(
        client.post("/v2/pipeline", &request(280 << 10)).status,
        503,
        "no memory for it"
    );
    assert_eq!(
        client.post("/v2/pipeline", &request(150 << 10)).status,
        200,
        "it was given back"
    );
    assert_eq!(client.metric("turso_sync_bodies_bytes"), 0.0);
    let mut replica = Pages::default();
    replica.pull(&client);
    let held = PullUpdatesRequest {
        client_revision: replica.revision.clone(),
        long_poll_timeout_ms: u32::MAX,
        ..Default::default()
    };
    assert_eq!(client.pull(&held).status, 200, "not for 49 days");
    server.shutdown();
    let limits = Limits {
        body: 300 << 10,
        ..Limits::default()
    };
    let (_server, client) = start(path, limits);
    assert_eq!(client.post("/v2/pipeline", &request(290 << 10)).status, 200);
    assert_eq!(client.post("/v2/pipeline", &request(310 << 10)).status, 413);
}

#[test]
fn statements_are_bounded_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        statement_time: Duration::from_millis(100),
        ..Limits::default()
    };
    let (_server, client) = start(database(&dir, "wal"), limits);
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let sql = [
        "BEGIN IMMEDIATE",
        "UPDATE t SET b = 'half'",
        endless,
        "UPDATE t SET b = 'after'",
        "COMMIT",
    ];
    let answer = client.post("/v2/pipeline", &pipeline(&sql));
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("interrupted"), "{}", answer.text());
    assert!(answer.text().contains("longer than"), "{}", answer.text());
    assert_eq!(
        client.query("SELECT 1 FROM t WHERE b IN ('half', 'after')").len(),
        0
    );
}

#[test]
fn results_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        rows: 1 << 20,
        ..Limits::default()
    };
    let (_server, client) = start(database(&dir, "wal"), limits);
    let columns: Vec<String> = (0..1000).map(|n| format!("c{n}")).collect();
    client.write(&[&format!("CREATE TABLE wide({})", columns.join(", "))]);
    let many = vec!["SELECT * FROM wide"; 100];
    for sql in [
        &["SELECT zeroblob(2000000)"][..],
        &["WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"],
        &many,
    ] {
        let answer = client.post("/v2/pipeline", &pipeline(sql));
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("larger than 1048576 bytes"));
    }
    assert_eq!(client.query("SELECT count(*) FROM t").len(), 1);
    // A long answer arrives whole, and says beforehand how long it is.
    let answer = client.post("/v2/pipeline", &pipeline(&["SELECT hex(zeroblob(300000))"]));
    assert_eq!(answer.length, Some(answer.body.len().to_string()));
    assert!(answer.text().contains(&"0".repeat(600_000)));
}

/// The options of the program, because SQLite's limit is that of the whole process.
#[test]
fn sqlite_may_use_only_so_much_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let large = "SELECT length(randomblob(50000000))";
    for (limit, fits) in [("32", false), ("256", true)] {
        let arguments = ["127.0.0.1:0", path.to_str().unwrap(), "--sqlite-memory", limit];
        let (_server, client) = spawn(&arguments);
        let answer = client.post("/v2/pipeline", &pipeline(&[large]));
        assert_eq!(answer.status, 200);
        let refused = answer.text().contains("out of memory");
        assert_eq!(refused, !fits, "{limit}: {}", answer.text());
        // Whoever asks for less does not notice.
        client.write(&["UPDATE t SET b = randomblob(1000000) WHERE id = 1"]);
        let mut replica = Pages::default();
        replica.pull(&client);
    }
}

#[test]
fn an_answer_may_take_only_so_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_database(&dir);
    // A client who takes a little now and then is within its patience for ever.
    let limits = [
        "--answer-timeout",
        "1",
        "--patience",
        "100000",
        "--log-level",
        "off",
    ];
    let arguments = [&["127.0.0.1:0", path.to_str().unwrap()][..], &limits].concat();
    let (_server, client) = spawn(&arguments);
    let mut slow = TcpStream::connect(client.url.strip_prefix("http://").unwrap()).unwrap();
    slow.write_all(
        b"POST /pull-updates HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )
    .unwrap();
    while client.metric("turso_sync_spooled_bytes") == 0.0 {}
    while client.metric("turso_sync_spooled_bytes") > 0.0 {}
    let (body, length) = rest(slow);
    assert!(body.len() < length, "{} of {length}", body.len());
    let mut replica = Pages::default();
    replica.pull(&client);
}

#[test]
fn nothing_beside_the_database_can_be_reached() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let (_server, client) = start(path.clone(), Limits::default());
    client.write(&["CREATE VIRTUAL TABLE f USING fts5(x)"]);
    let attach = format!("ATTACH '{}' AS other", dir.path().join("other.db").display());
    let into = format!("VACUUM INTO '{}'", dir.path().join("other.db").display());
    for sql in [
        &attach,
        &into,
        "SELECT load_extension('x')",
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = ''",
        "SELECT * FROM sqlite_dbpage",
        "UPDATE sqlite_dbpage SET data = zeroblob(4096)",
        "DELETE FROM f_data",
        "PRAGMA hard_heap_limit = 1",
        "PRAGMA mmap_size = 1",
        "PRAGMA temp_store_directory = '/'",
        "PRAGMA wal_checkpoint",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA locking_mode = EXCLUSIVE",
    ] {
        let answer = client.post("/v2/pipeline", &pipeline(&[sql]));
        assert!(
            answer.text().contains(r#""type":"error""#),
            "{sql}: {}",
            answer.text()
        );
    }
    assert!(!dir.path().join("other.db").exists());
}

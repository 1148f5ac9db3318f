//! The server does not grow: many cycles of everything that clients do, well and badly, then a look at files, memory
//! and descriptors. `SOAK_CYCLES=100000` runs longer.
#![cfg(all(feature = "server", feature = "driver", target_os = "linux"))]

mod server_support;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;

use server_support::*;
use turso_sync::protocol::pull::{PullUpdatesRequest, encode_request};

/// Memory may grow by this much after the first tenth of the cycles.
const GROWTH: u64 = 24 << 20;
/// Descriptors, likewise.
const DESCRIPTORS: usize = 64;
/// Longest logs: the checkpoint's threshold, and what is written until it comes.
const LONGEST_LOG: u64 = 40 << 20;
/// Rows that are kept; everything older is deleted, so that the database does not grow either.
const ROWS: u32 = 300;

fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.0.id()))
        .unwrap()
        .count()
}

fn len(path: &Path, suffix: &str) -> u64 {
    let path = format!("{}{suffix}", path.display());
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// What a client that behaves badly sends before it hangs up.
fn hang_up(address: &str, path: &str, body: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // The server may have hung up first.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}

#[test]
fn thousands_of_cycles_leave_nothing_behind() {
    let cycles: u32 = std::env::var("SOAK_CYCLES").map_or(3000, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (process, client) = spawn(&[
        "127.0.0.1:0",
        "--dir",
        dir.path().to_str().unwrap(),
        "--create",
        "--log-level",
        "warn",
    ]);
    let address = client.url.strip_prefix("http://").unwrap().to_owned();
    let path = dir.path().join("notes.db");
    let notes = Client::new(format!("{}/notes", client.url));
    notes.write(&["CREATE TABLE t(id INTEGER PRIMARY KEY, x)"]);
    let mut replica = Pages::default();
    replica.pull(&notes);
    let mut early = None;
    let mut longest_log = 0;
    for cycle in 0..cycles {
        let insert = format!("INSERT INTO t VALUES ({cycle}, hex(randomblob(400)))");
        let delete = format!("DELETE FROM t WHERE id <= {cycle} - {ROWS}");
        notes.write(&[&insert, &delete]);
        if cycle % 3 == 0 {
            replica.pull(&notes);
        }
        let held = encode_request(&PullUpdatesRequest {
            client_revision: replica.revision.clone(),
            long_poll_timeout_ms: 60_000,
            ..Default::default()
        });
        match cycle % 10 {
            // A pull that is held, and whoever asked for it goes away.
            1 | 4 => {
                replica.pull(&notes);
                hang_up(&address, "/notes/pull-updates", &held);
            }
            // An answer that nobody takes, half a request, garbage, a database that is not there.
            2 => hang_up(&address, "/notes/pull-updates", b""),
            5 => hang_up(&address, "/notes/v2/pipeline", b"{\"requests\":["),
            6 => assert_eq!(notes.post("/v2/pipeline", b"garbage").status, 400),
            7 => assert_eq!(client.post(&format!("/no.{cycle}/pull-updates"), b"").status, 404),
            // A session that leaves something behind, a transaction that is left open.
            8 => assert_eq!(
                notes
                    .post(
                        "/v2/pipeline",
                        &pipeline(&["CREATE TEMP TABLE x(y)", "BEGIN IMMEDIATE"])
                    )
                    .status,
                200
            ),
            // Another database, so that they take turns.
            9 => Client::new(format!("{}/db{}", client.url, cycle / 10 % 80))
                .write(&["CREATE TABLE IF NOT EXISTS t(x)"]),
            _ => {}
        }
        longest_log = longest_log.max(len(&path, "-wal")).max(len(&path, "-sync-wal"));
        if cycle == cycles / 3 {
            early = Some((resident(&process), descriptors(&process)));
        }
    }
    replica.pull(&notes);
    replica.assert_equals(&path);
    let (early_memory, early_descriptors) = early.unwrap();
    let (memory, open) = (resident(&process), descriptors(&process));
    let mib = |bytes: u64| bytes as f64 / 1048576.0;
    println!(
        "{cycles} cycles: memory {:.1} -> {:.1} MiB, descriptors {early_descriptors} -> {open}, longest log {:.1} MiB, \
         database {:.1} MiB, history {:.1} MiB",
        mib(early_memory),
        mib(memory),
        mib(longest_log),
        mib(len(&path, "")),
        mib(len(&path, "-sync")),
    );
    assert!(memory < early_memory + GROWTH);
    assert!(open < early_descriptors + DESCRIPTORS);
    assert!(longest_log < LONGEST_LOG);
    assert!(len(&path, "") < 4 << 20);
    assert!(len(&path, "-sync") < 1 << 20);
    // Whoever went away is gone.
    while client.metric("turso_sync_long_polls_waiting") > 0.0 {}
    while client.metric("turso_sync_connections_open") > 2.0 {}
    assert_eq!(client.metric("turso_sync_spooled_bytes"), 0.0);
}

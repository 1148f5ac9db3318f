//! Random histories: whatever writers, checkpoints and crashes do, every replica's deltas are complete.
#![cfg(all(feature = "server", feature = "driver"))]

mod server_support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;
use server_support::*;

#[derive(Debug, Clone)]
enum Event {
    /// A client of the server runs this statement.
    Push(Write),
    /// Another program does, with or without the server running.
    Foreign(Write),
    /// Another program checkpoints.
    ForeignCheckpoint(&'static str),
    /// This replica pulls.
    Pull(usize),
    /// The server is stopped, or killed, something happens in between, and it starts again.
    Restart {
        kill: bool,
        meanwhile: Option<Meanwhile>,
    },
}

#[derive(Debug, Clone)]
enum Write {
    Update(u32),
    Grow(u32),
    Shrink(u32),
    Vacuum,
    /// Allocates pages and frees them in the same transaction.
    GrowAndFree(u32),
}

#[derive(Debug, Clone)]
enum Meanwhile {
    Write(Write),
    /// The journal mode is switched, which does away with the log.
    Rollback(Write),
    /// Opening and closing alone moves the log into the file.
    Read,
}

impl Write {
    fn sql(&self) -> Vec<String> {
        match self {
            Write::Update(id) => vec![format!("UPDATE t SET b = hex(randomblob(4)) WHERE id = {id}")],
            Write::Grow(pages) => {
                vec![format!(
                    "INSERT INTO t(a, b) VALUES (hex(randomblob(8)), randomblob({pages} * 4096))"
                )]
            }
            Write::Shrink(keep) => vec![format!("DELETE FROM t WHERE id > {keep}")],
            Write::Vacuum => vec!["VACUUM".to_owned()],
            Write::GrowAndFree(pages) => vec![
                "CREATE TABLE scratch(x)".to_owned(),
                format!("INSERT INTO scratch VALUES (randomblob({pages} * 4096))"),
                "DROP TABLE scratch".to_owned(),
            ],
        }
    }

    fn push(&self, client: &Client) {
        let sql = self.sql();
        match self {
            Write::Vacuum => {
                let body = r#"{"requests":[{"type":"execute","stmt":{"sql":"VACUUM"}}]}"#;
                assert_eq!(client.post("/v2/pipeline", body.as_bytes()).status, 200);
            }
            _ => client.write(&sql.iter().map(String::as_str).collect::<Vec<_>>()),
        }
    }

    fn run(&self, path: &Path, before: &str) {
        let batch = match self {
            Write::Vacuum => "VACUUM".to_owned(),
            _ => format!("BEGIN IMMEDIATE; {}; COMMIT", self.sql().join(";")),
        };
        plain(path).execute_batch(&format!("{before}; {batch}")).unwrap();
    }
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (1u32..500).prop_map(Write::Update),
        2 => (1u32..60).prop_map(Write::Grow),
        1 => (1u32..500).prop_map(Write::Shrink),
        1 => Just(Write::Vacuum),
        2 => (1u32..60).prop_map(Write::GrowAndFree),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let meanwhile = prop_oneof![
        write().prop_map(Meanwhile::Write),
        write().prop_map(Meanwhile::Rollback),
        Just(Meanwhile::Read),
    ];
    let checkpoint = prop_oneof![Just("PASSIVE"), Just("RESTART"), Just("TRUNCATE")];
    prop_oneof![
        6 => write().prop_map(Event::Push),
        2 => write().prop_map(Event::Foreign),
        1 => checkpoint.prop_map(Event::ForeignCheckpoint),
        5 => (0usize..3).prop_map(Event::Pull),
        3 => (any::<bool>(), proptest::option::of(meanwhile))
            .prop_map(|(kill, meanwhile)| Event::Restart { kill, meanwhile }),
    ]
}

struct Process(Child);

impl Process {
    fn start(path: &Path) -> (Self, Client) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turso-sync-server"));
        let mut child = command
            .arg("127.0.0.1:0")
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        (Process(child), Client::new(url))
    }

    fn stop(&mut self, kill: bool) {
        match kill {
            true => self.0.kill().unwrap(),
            false => drop(
                Command::new("kill")
                    .arg(self.0.id().to_string())
                    .status()
                    .unwrap(),
            ),
        }
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check(events: Vec<Event>) {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let (mut process, mut client) = Process::start(&path);
    let mut replicas = vec![Pages::default(); 3];
    let all = events.into_iter().chain((0..3).map(Event::Pull));
    for event in all {
        match event {
            Event::Push(write) => write.push(&client),
            Event::Foreign(write) => write.run(&path, ""),
            Event::ForeignCheckpoint(mode) => {
                plain(&path)
                    .execute_batch(&format!("PRAGMA wal_checkpoint({mode})"))
                    .unwrap();
            }
            Event::Pull(replica) => {
                replicas[replica].pull(&client);
                replicas[replica].assert_equals(&path);
            }
            Event::Restart { kill, meanwhile } => {
                process.stop(kill);
                match meanwhile {
                    Some(Meanwhile::Write(write)) => write.run(&path, ""),
                    Some(Meanwhile::Rollback(write)) => write.run(&path, "PRAGMA journal_mode=DELETE"),
                    Some(Meanwhile::Read) => drop(plain(&path).execute_batch("SELECT count(*) FROM t")),
                    None => {}
                }
                (process, client) = Process::start(&path);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_delta_is_complete(events in proptest::collection::vec(event(), 1..40)) {
        check(events);
    }
}

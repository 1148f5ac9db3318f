//! A small client of the sync server, and a replica that is nothing but pages.
#![allow(dead_code)] // every test binary uses its own part

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rusqlite::Connection;
use turso_sync::protocol::pipeline::{BatchBuilder, BatchResult};
use turso_sync::protocol::pull::{PullDecoder, PullEvent, PullHeader, PullUpdatesRequest, encode_request};
use turso_sync::record::Value;
use turso_sync::server::{Config, Server};

pub const SERVER: &str = env!("CARGO_BIN_EXE_turso-sync-server");
pub const PAGE_SIZE: usize = 4096;

/// Starts a server for `database` on a free port.
pub fn serve(database: &Path) -> Server {
    Server::start(&config(database)).unwrap()
}

pub fn config(database: &Path) -> Config {
    Config {
        address: "127.0.0.1:0".to_owned(),
        database: Some(database.to_owned()),
        ..Default::default()
    }
}

/// A server for the databases in `folder`.
pub fn serve_folder(folder: &Path, create: bool) -> Config {
    Config {
        address: "127.0.0.1:0".to_owned(),
        folder: Some(folder.to_owned()),
        create,
        ..Default::default()
    }
}

/// The server as a process of its own.
pub struct Process(pub Child);

impl Process {
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the server with these arguments; returns when it listens.
pub fn spawn(arguments: &[&str]) -> (Process, Client) {
    let mut command = Command::new(SERVER);
    command.args(arguments);
    spawn_command(command)
}

pub fn spawn_command(mut command: Command) -> (Process, Client) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let url = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
    (Process(child), Client::new(url))
}

pub struct Client {
    pub url: String,
    agent: ureq::Agent,
}

pub struct Answer {
    pub status: u16,
    pub length: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn new(url: impl Into<String>) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        Client {
            url: url.into(),
            agent,
        }
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.post_with(path, body, "x-none", "")
    }

    pub fn post_with(&self, path: &str, body: &[u8], header: &str, value: &str) -> Answer {
        let request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header(header, value);
        let mut response = request.send(body).unwrap();
        let length = response
            .headers()
            .get("content-length")
            .map(|v| v.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(1 << 31)
            .read_to_vec()
            .unwrap();
        Answer { status, length, body }
    }

    /// A request that may get no answer.
    pub fn try_post(&self, path: &str, body: &[u8]) -> bool {
        self.agent.post(format!("{}{path}", self.url)).send(body).is_ok()
    }

    /// A figure on the page of metrics; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let mut answer = self.agent.get(format!("{}/metrics", self.url)).call().unwrap();
        let page = answer.body_mut().read_to_string().unwrap();
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    pub fn get(&self, path: &str) -> u16 {
        self.agent
            .get(format!("{}{path}", self.url))
            .call()
            .unwrap()
            .status()
            .as_u16()
    }

    /// Status of a POST with this token.
    pub fn status_with(&self, token: &str, path: &str, body: &[u8]) -> u16 {
        let value = format!("Bearer {token}");
        self.post_with(path, body, "authorization", &value).status
    }

    pub fn pull(&self, request: &PullUpdatesRequest) -> Answer {
        self.post("/pull-updates", &encode_request(request))
    }

    /// A pull that may find the server gone.
    pub fn agent_pull(&self, request: &PullUpdatesRequest) -> bool {
        let path = format!("{}/pull-updates", self.url);
        self.agent.post(path).send(&encode_request(request)[..]).is_ok()
    }

    /// Runs `steps` of a batch body and returns its result.
    pub fn batch(&self, (body, steps): (Vec<u8>, usize)) -> BatchResult {
        let answer = self.post("/v2/pipeline", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        BatchResult::parse(&answer.body, steps).unwrap()
    }

    /// Runs all of `sql` in one transaction, which must succeed.
    pub fn write(&self, sql: &[&str]) {
        let mut batch = BatchBuilder::transaction();
        for sql in sql {
            batch.step(sql, &[]).unwrap();
        }
        let result = self.batch(batch.commit().unwrap());
        assert_eq!(result.first_error(), None);
    }

    pub fn query(&self, sql: &str) -> Vec<Vec<Value>> {
        let mut batch = BatchBuilder::plain();
        batch.query(sql, &[]).unwrap();
        let result = self.batch(batch.finish());
        assert_eq!(result.first_error(), None);
        result.result(0).unwrap().rows.clone()
    }
}

/// A pipeline request that executes `sql`, statement by statement.
pub fn pipeline(sql: &[&str]) -> Vec<u8> {
    let quoted = |sql: &&str| format!("{:?}", sql);
    let steps: Vec<String> = sql
        .iter()
        .map(|sql| format!(r#"{{"type":"execute","stmt":{{"sql":{}}}}}"#, quoted(sql)))
        .collect();
    format!(r#"{{"requests":[{}]}}"#, steps.join(",")).into_bytes()
}

/// Decodes a whole answer.
pub fn decode(body: &[u8]) -> (PullHeader, BTreeMap<u32, Vec<u8>>) {
    let mut pages = BTreeMap::new();
    let mut decoder = PullDecoder::new();
    let mut header = None;
    decoder
        .push(body, &mut |event| {
            match event {
                PullEvent::Header(h) => header = Some(h),
                PullEvent::Page { page_no, data } => drop(pages.insert(page_no, data.to_vec())),
            }
            Ok(())
        })
        .unwrap();
    decoder.finish().unwrap();
    (header.unwrap(), pages)
}

/// What a replica knows of the remote: pages and the revision they are of.
#[derive(Default, Clone)]
pub struct Pages {
    pub revision: String,
    pub size: u32,
    pub pages: BTreeMap<u32, Vec<u8>>,
}

impl Pages {
    /// Pulls what is new; returns how many pages came.
    pub fn pull(&mut self, client: &Client) -> usize {
        let request = PullUpdatesRequest {
            client_revision: self.revision.clone(),
            ..Default::default()
        };
        let answer = client.pull(&request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.length, Some(answer.body.len().to_string()));
        self.apply(&answer.body)
    }

    pub fn apply(&mut self, body: &[u8]) -> usize {
        let (header, pages) = decode(body);
        assert_eq!(header.protocol, 1);
        let count = pages.len();
        assert!(
            count == 0 || pages.contains_key(&1),
            "page 1 belongs to every change"
        );
        self.revision = header.server_revision;
        self.size = u32::try_from(header.db_size).unwrap();
        self.pages.extend(pages);
        self.pages.retain(|no, _| *no <= header.db_size as u32);
        count
    }

    /// The database as a file's bytes.
    pub fn file(&self) -> Vec<u8> {
        assert!(
            (1..=self.size).eq(self.pages.keys().copied()),
            "pages are missing"
        );
        self.pages.values().flatten().copied().collect()
    }

    /// Checks every page against the database at `path`, and that the whole is a sound database.
    pub fn assert_equals(&self, path: &Path) {
        let conn = plain(path);
        let size: u32 = conn.query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap();
        assert_eq!(self.size, size);
        let mut query = conn
            .prepare("SELECT data FROM sqlite_dbpage WHERE pgno = ?")
            .unwrap();
        for no in 1..=size {
            let data: Vec<u8> = query.query_row([no], |r| r.get(0)).unwrap();
            assert!(self.pages.get(&no) == Some(&data), "page {no} differs");
        }
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.db");
        std::fs::write(&copy, self.file()).unwrap();
        let sound: String = plain(&copy)
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .unwrap();
        assert_eq!(sound, "ok");
    }
}

/// A connection of somebody else, with SQLite's defaults.
pub fn plain(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    conn
}

/// A database with some content, in the given journal mode.
pub fn database(dir: &tempfile::TempDir, journal_mode: &str) -> PathBuf {
    let path = dir.path().join("served.db");
    plain(&path)
        .execute_batch(&format!(
            "PRAGMA journal_mode={journal_mode};
             CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 500)
             INSERT INTO t SELECT i, 'row ' || i, randomblob(100) FROM n"
        ))
        .unwrap();
    path
}

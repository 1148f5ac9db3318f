//! A replica with pending changes, and a remote that has something new; what is said between them is up to the test.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use turso_sync::capture::Connection;
use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts, ProtocolVersion};
use turso_sync::error::{Error, Result};
use turso_sync::io::{HttpRequest, IoItem, Operation, OperationStatus, SyncEngineIoRequest, files};
use turso_sync::protocol::pipeline::{BatchBuilder, BatchResult};
use turso_sync::server::LocalServer;

use super::memory;

/// An answer: `head`, then `times` times `piece`.
#[derive(Clone)]
pub struct Lie {
    status: u16,
    head: Vec<u8>,
    piece: Vec<u8>,
    times: usize,
}

impl Lie {
    pub fn ok(body: impl AsRef<[u8]>) -> Lie {
        Lie::endless(body, Vec::new(), 0)
    }

    /// The lie with the name of a replica where it says `CLIENT`.
    pub fn naming(&self, client_id: &str) -> Lie {
        let head = match std::str::from_utf8(&self.head) {
            Ok(text) => text.replace("CLIENT", client_id).into_bytes(),
            Err(_) => self.head.clone(),
        };
        Lie {
            head,
            piece: self.piece.clone(),
            ..*self
        }
    }

    pub fn with_status(self, status: u16) -> Lie {
        Lie { status, ..self }
    }

    pub fn endless(head: impl AsRef<[u8]>, piece: Vec<u8>, times: usize) -> Lie {
        Lie {
            status: 200,
            head: head.as_ref().to_vec(),
            piece,
            times,
        }
    }

    fn tell(&self, item: &IoItem) {
        item.status(self.status);
        self.head
            .chunks(16 << 10)
            .for_each(|piece| item.push_buffer(piece));
        for _ in 0..self.times {
            item.push_buffer(&self.piece);
        }
        item.done();
    }
}

/// Whether an error says one of `parts`, which are separated by `|`.
pub fn says(error: &Error, parts: &str) -> bool {
    parts.split('|').any(|part| error.message.contains(part))
}

pub struct Scene {
    dir: std::rc::Rc<tempfile::TempDir>,
    server: std::rc::Rc<LocalServer>,
    pub engine: DatabaseSyncEngine,
    pub path: PathBuf,
    conn: Option<Connection>,
}

impl Scene {
    /// A remote, and a replica that does not exist yet.
    pub fn empty() -> Scene {
        let dir = std::rc::Rc::new(tempfile::tempdir().unwrap());
        let remote = dir.path().join("remote.db");
        let conn = rusqlite::Connection::open(&remote).unwrap();
        conn.execute_batch(
            "CREATE TABLE t (a INTEGER PRIMARY KEY, b);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
             INSERT INTO t SELECT i, hex(zeroblob(100)) FROM n;",
        )
        .unwrap();
        drop(conn);
        let server = std::rc::Rc::new(LocalServer::open(&remote).unwrap());
        let path = dir.path().join("replica.db");
        Scene {
            engine: engine(&path, 0, ProtocolVersion::Compatible),
            dir,
            server,
            path,
            conn: None,
        }
    }

    /// The same, downloaded in parts of `bytes` bytes.
    pub fn empty_in_parts(bytes: u64) -> Scene {
        let mut scene = Scene::empty();
        scene.engine = engine(&scene.path, bytes, ProtocolVersion::Compatible);
        scene
    }

    /// The replica exists, both have changes that the other does not know, and some pages are in the log.
    pub fn new() -> Scene {
        Scene::speaking(ProtocolVersion::Compatible)
    }

    /// The same in this dialect.
    pub fn speaking(dialect: ProtocolVersion) -> Scene {
        let mut scene = Scene::empty();
        scene.engine = engine(&scene.path, 0, dialect);
        scene.honest(scene.engine.create_db()).unwrap();
        let conn = scene.honest(scene.engine.connect_rw()).unwrap();
        conn.execute_batch("INSERT INTO t VALUES (1000, 'mine'); UPDATE t SET b = 'my own' WHERE a = 3")
            .unwrap();
        scene.conn = Some(conn);
        scene.remote_sql(&[
            "INSERT INTO t VALUES (2000, 'theirs')",
            "UPDATE t SET b = 'x' WHERE a BETWEEN 21 AND 60",
        ]);
        scene
    }

    /// The same replica, opened by another engine.
    pub fn again(&self) -> Scene {
        Scene {
            dir: self.dir.clone(),
            server: self.server.clone(),
            engine: engine(&self.path, 0, ProtocolVersion::Compatible),
            path: self.path.clone(),
            conn: None,
        }
    }

    pub fn info(&self) -> PathBuf {
        self.dir.path().join("replica.db-info")
    }

    /// Runs statements on the remote.
    pub fn remote_sql(&self, statements: &[&str]) {
        let mut batch = BatchBuilder::transaction();
        for sql in statements {
            batch.step(sql, &[]).unwrap();
        }
        let (body, steps) = batch.commit().unwrap();
        let (status, answer) = self.server.answer("/v2/pipeline", &body).unwrap();
        assert_eq!(status, 200);
        assert_eq!(BatchResult::parse(&answer, steps).unwrap().first_error(), None);
    }

    /// Drives `op`; `network` answers HTTP requests.
    fn drive<T>(&self, mut op: Operation<T>, network: &mut dyn FnMut(&HttpRequest, &IoItem)) -> Result<T> {
        while op.resume()? == OperationStatus::Io {
            while let Some(item) = self.engine.io().take_item() {
                match item.request() {
                    SyncEngineIoRequest::Http(http) => network(http, &item),
                    // A failure is the operation's business.
                    _ => drop(files::perform(&item)),
                }
            }
        }
        Ok(op.take_result().unwrap())
    }

    fn answer(&self, http: &HttpRequest, item: &IoItem) {
        let (status, body) = self.server.answer(&http.path, &http.body).unwrap();
        Lie::ok(body).with_status(status).tell(item);
    }

    /// Drives `op` with an honest remote.
    pub fn honest<T>(&self, op: Operation<T>) -> Result<T> {
        self.drive(op, &mut |http, item| self.answer(http, item))
    }

    /// Drives an operation whose every request is answered by `lie`; what it was, and the memory that it took.
    pub fn lied_to<T>(&self, op: impl FnOnce(&Scene) -> Operation<T>, lie: &Lie) -> (Result<T>, usize) {
        self.lied_to_after(0, op, lie)
    }

    /// The same after `honest` honest answers.
    pub fn lied_to_after<T>(
        &self,
        honest: usize,
        op: impl FnOnce(&Scene) -> Operation<T>,
        lie: &Lie,
    ) -> (Result<T>, usize) {
        let asked = Cell::new(0);
        let mut network = |http: &HttpRequest, item: &IoItem| {
            asked.set(asked.get() + 1);
            match asked.get() > honest {
                true => lie.tell(item),
                false => self.answer(http, item),
            }
        };
        memory::peak(|| self.drive(op(self), &mut network))
    }

    /// Drives an operation each of whose requests is answered by another lie.
    pub fn lied_to_each<T>(&self, op: Operation<T>, lie: impl Fn() -> Lie) -> (Result<T>, usize) {
        memory::peak(|| self.drive(op, &mut |_, item| lie().tell(item)))
    }

    /// What has arrived of a pull is gone.
    pub fn forget_download(&self) {
        let _ = std::fs::remove_file(self.dir.path().join("replica.db-changes"));
    }

    /// Drives an operation whose request is answered by pieces that are made as they are sent.
    pub fn fed<T>(
        &self,
        op: Operation<T>,
        head: Vec<u8>,
        pieces: impl Iterator<Item = Vec<u8>>,
    ) -> (Result<T>, usize) {
        let mut pieces = Some(pieces);
        let mut network = |_: &HttpRequest, item: &IoItem| {
            item.status(200);
            item.push_buffer(&head);
            for piece in pieces.take().into_iter().flatten() {
                item.push_buffer(&piece);
            }
            item.done();
        };
        memory::peak(|| self.drive(op, &mut network))
    }

    /// What the remote answers to the pull of this replica now.
    pub fn honest_answer(&self) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut network = |http: &HttpRequest, item: &IoItem| {
            whole = self.server.answer(&http.path, &http.body).unwrap().1;
            item.poison("only looking");
        };
        self.drive(self.engine.pull_changes_from_remote(), &mut network)
            .unwrap_err();
        whole
    }

    fn plain(&self) -> rusqlite::Connection {
        let conn = rusqlite::Connection::open(&self.path).unwrap();
        conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        conn
    }

    pub fn client_id(&self) -> String {
        let sql = "SELECT value FROM turso_sync_local WHERE name = 'client_id'";
        self.plain().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// All that the replica holds, its own tables included, except what is known to have been sent.
    pub fn content(&self) -> BTreeMap<String, String> {
        let conn = self.plain();
        let check: String = conn
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        let mut names = conn
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
            .unwrap();
        let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let dump = |name: &str| {
            let filter = match name {
                "turso_sync_local" => "WHERE name <> 'sent'",
                _ => "",
            };
            let mut rows = conn.prepare(&format!("SELECT * FROM {name} {filter}")).unwrap();
            let width = rows.column_count();
            let rows = rows.query_map([], |row| {
                (0..width)
                    .map(|i| Ok(format!("{:?}", row.get_ref(i)?)))
                    .collect::<rusqlite::Result<Vec<_>>>()
            });
            format!("{:?}", rows.unwrap().map(|row| row.unwrap()).collect::<Vec<_>>())
        };
        names
            .map(|name| name.unwrap())
            .map(|name| (name.clone(), dump(&name)))
            .collect()
    }

    /// With an honest remote, both end with all the changes of both.
    pub fn works(&self) {
        self.honest(self.engine.sync()).unwrap();
        let (status, answer) = self.server.answer("/v2/pipeline", br#"{"requests":[{"type":"execute","stmt":
            {"sql":"SELECT count(*) || ',' || coalesce(group_concat(CASE WHEN a > 900 THEN b END), '') FROM t"}}]}"#)
            .unwrap();
        assert_eq!(status, 200);
        let sql = "SELECT count(*) || ',' || coalesce(group_concat(CASE WHEN a > 900 THEN b END), '') FROM t";
        let here: String = self.plain().query_row(sql, [], |row| row.get(0)).unwrap();
        let there = String::from_utf8(answer).unwrap();
        assert!(there.contains(&format!("\"{here}\"")), "{here}: {there}");
        let expected = if self.conn.is_some() {
            "62,mine,theirs"
        } else {
            "60,"
        };
        assert_eq!(here, expected);
        self.content();
    }
}

fn engine(path: &std::path::Path, pull_bytes_threshold: u64, dialect: ProtocolVersion) -> DatabaseSyncEngine {
    DatabaseSyncEngine::new(DatabaseSyncEngineOpts {
        path: path.to_str().unwrap().to_owned(),
        remote_url: Some("http://localhost".into()),
        client_name: "hostile".into(),
        bootstrap_if_empty: true,
        pull_bytes_threshold,
        protocol_version_hint: dialect,
        ..Default::default()
    })
    .unwrap()
}

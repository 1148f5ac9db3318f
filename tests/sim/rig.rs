//! One replica, one server and their host, all of which work until the replica's or the server's machine dies at a
//! point that was chosen beforehand.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use turso_sync::capture::Connection;
use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts, ForeignPolicy, Resolution};
use turso_sync::error::{Error, Result};
use turso_sync::io::{HttpRequest, IoItem, Operation, OperationStatus, SyncEngineIoRequest, files};
use turso_sync::protocol::pipeline::{BatchBuilder, BatchResult};
use turso_sync::server::LocalServer;

use super::check::{self, Bases, Checked, Violation};
use super::copies::{Files, How};
use super::disk::{self, Disk, Fate, Survival};
use super::node::VirtualEnvironment;
use super::rng::Rng;
use super::support::{Tables, is_push, plain, tables};

/// Who dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    Replica,
    Server,
}

/// Where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// In its call number `.0` on its disk, from 1.
    Call(u64),
    /// Just before (even) or after (odd) its host performs a request; each request counts twice, from 0.
    Request(u64),
    /// When the operation has ended, and with it everything that it promised.
    End,
}

pub struct Rig {
    pub opts: DatabaseSyncEngineOpts,
    pub engine: Option<DatabaseSyncEngine>,
    pub conn: Option<Connection>,
    /// Another program on the replica's machine, inside a read transaction.
    pub reader: Option<rusqlite::Connection>,
    pub path: PathBuf,
    pub server_path: PathBuf,
    /// The answers to the next so many pushes get lost.
    pub lose_pushes: u32,
    /// Of the answers to the next so many pulls only the header arrives, without a count of pages.
    pub cut_pulls: u32,
    /// The answer to the pull request with this number, from now on, breaks off; 0: none does.
    pub break_pull_at: u32,
    /// A step that fails does not end its transaction on the server.
    keeps_transactions: bool,
    /// The base may be lost, by what the scenario does.
    pub base_may_be_lost: bool,
    /// Tags of the transactions that must be there for ever.
    pub promised: BTreeSet<String>,
    /// What the base must be when the machine has risen.
    promised_revision: Option<String>,
    /// Every push that has reached the network; late copies of them change nothing.
    pushes: Vec<(String, Vec<u8>)>,
    server: Option<LocalServer>,
    machines: [usize; 2],
    bases: Bases,
    /// Points before and behind requests that were passed since the count began, and where to die.
    passed: u64,
    deadly: Option<u64>,
    calls_before: u64,
    clock: Arc<AtomicI64>,
    names: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

/// What is left when everything is done: the tables of replica and remote.
pub type Final = (Tables, Tables);

const REPLICA: usize = 0;
const SERVER: usize = 1;

impl Rig {
    /// A server whose database `sql` has made, and a machine without a replica.
    pub fn new(sql: &str) -> Rig {
        let folder = super::temporary_folder();
        let mut disk = Disk::new(Duration::from_secs(1_000_000_000), Rng::new(0, u64::MAX));
        let machines = ["replica", "server"].map(|name| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            disk.add(&path)
        });
        disk::install(Some(disk));
        let path = folder.path().join("replica/app.db");
        let server_path = folder.path().join("server/remote.db");
        let conn = plain(&server_path);
        conn.execute_batch(&format!(
            "PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = WAL; BEGIN; {sql}; COMMIT"
        ))
        .unwrap();
        drop(conn);
        Rig {
            opts: DatabaseSyncEngineOpts {
                path: path.to_str().unwrap().to_owned(),
                remote_url: Some("http://remote".into()),
                client_name: "rig".into(),
                bootstrap_if_empty: true,
                ..Default::default()
            },
            engine: None,
            conn: None,
            reader: None,
            path,
            server: Some(LocalServer::open(&server_path).unwrap()),
            server_path,
            lose_pushes: 0,
            cut_pulls: 0,
            break_pull_at: 0,
            keeps_transactions: false,
            base_may_be_lost: false,
            promised: BTreeSet::new(),
            promised_revision: None,
            pushes: Vec::new(),
            machines,
            bases: Bases::new(),
            passed: 0,
            deadly: None,
            calls_before: 0,
            clock: Arc::default(),
            names: Arc::default(),
            _folder: folder,
        }
    }

    // --- what scenarios are made of -----------------------------------------------------------------------------

    pub fn create(&mut self) -> Result<()> {
        let environment = VirtualEnvironment {
            clock: self.clock.clone(),
            names: self.names.clone(),
        };
        let engine = DatabaseSyncEngine::with_environment(self.opts.clone(), Box::new(environment))?;
        self.engine = Some(engine);
        self.run(|engine| engine.create_db())?;
        let conn = self.run(|engine| engine.connect_rw())?;
        conn.execute_batch("PRAGMA synchronous = FULL")?;
        self.conn = Some(conn);
        Ok(())
    }

    pub fn push(&mut self) -> Result<()> {
        self.run(|engine| engine.push_changes_to_remote())
    }

    pub fn pull(&mut self) -> Result<bool> {
        self.run(|engine| engine.pull_changes_from_remote())
    }

    /// Takes the remote for the right one, whatever it has forgotten.
    pub fn accept(&mut self) -> Result<()> {
        self.run(|engine| engine.accept_remote(ForeignPolicy::Discard))
    }

    pub fn checkpoint(&mut self) -> Result<()> {
        self.run(|engine| engine.checkpoint())
    }

    /// Resolves the oldest conflict.
    pub fn resolve(&mut self, resolution: Resolution) -> Result<()> {
        let conflicts = self.engine()?.conflicts()?;
        let first = conflicts
            .first()
            .ok_or_else(|| Error::misuse("no conflict"))?
            .txn_id;
        self.run(|engine| engine.resolve_conflict(first, resolution))
    }

    /// Closes the connection and the replica.
    pub fn close(&mut self) {
        (self.conn, self.engine) = (None, None);
    }

    /// A durable local transaction that leaves `tag`, unless it is there already.
    pub fn transaction(&mut self, tag: &str, sql: &[&str]) -> Result<()> {
        if check::tags(&plain(&self.path)).is_ok_and(|tags| tags.contains(tag)) {
            return Ok(());
        }
        let own = [
            format!("INSERT INTO event VALUES ('{tag}')"),
            format!("INSERT INTO ledger VALUES ('{tag}a', '{tag}', 5)"),
            format!("INSERT INTO ledger VALUES ('{tag}b', '{tag}', -5)"),
        ];
        let (begin, end) = own.split_at(2);
        let (begin, end) = (begin.iter().map(String::as_str), end.iter().map(String::as_str));
        let statements = begin.chain(sql.iter().copied()).chain(end);
        let all: Vec<&str> = std::iter::once("BEGIN")
            .chain(statements)
            .chain(["COMMIT"])
            .collect();
        for sql in all {
            if let Err(e) = self.sql(sql) {
                let _ = self.sql("ROLLBACK");
                return Err(e);
            }
        }
        if !self.dead(Victim::Replica) {
            self.promised.insert(tag.to_owned());
        }
        Ok(())
    }

    /// One local statement.
    pub fn sql(&mut self, sql: &str) -> Result<()> {
        let conn = self.conn.as_ref().ok_or_else(|| Error::misuse("no connection"))?;
        conn.execute_batch(sql)
    }

    /// Another program runs `sql` on the replica's file, with a SQLite of its own; it closes the file, or dies.
    pub fn foreign(&mut self, sql: &str, dies: bool) {
        let conn = rusqlite::Connection::open(&self.path).unwrap();
        let no_checkpoint = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        conn.set_db_config(no_checkpoint, dies).unwrap();
        conn.execute_batch(sql).unwrap();
        self.base_may_be_lost = true;
    }

    pub fn settle_foreign(&mut self, policy: ForeignPolicy) -> Result<()> {
        self.run(|engine| engine.settle_foreign_changes(policy))
    }

    /// Puts back what the replica, which is closed, was when `files` were taken.
    pub fn put_back(&mut self, files: &Files, in_place: bool) {
        let how = How {
            in_place,
            metadata_too: true,
            times_too: true,
        };
        files.put(&self.path, how);
        self.base_may_be_lost = true;
    }

    /// A transaction of somebody else, on the remote.
    pub fn remote(&mut self, statements: &[&str]) {
        let mut batch = BatchBuilder::transaction();
        for sql in statements {
            batch.step(sql, &[]).unwrap();
        }
        let (body, steps) = batch.commit().unwrap();
        let (_, answer) = self
            .server
            .as_ref()
            .unwrap()
            .answer("/v2/pipeline", &body)
            .unwrap();
        let result = BatchResult::parse(&answer, steps).unwrap();
        assert_eq!(result.first_error(), None);
    }

    fn start_server(&mut self) -> Result<()> {
        self.server = None;
        self.server = Some(match self.keeps_transactions {
            true => LocalServer::keeping_transactions(&self.server_path)?,
            false => LocalServer::open(&self.server_path)?,
        });
        Ok(())
    }

    /// From now on the server keeps transactions open in which a step fails.
    pub fn keep_transactions(&mut self) {
        self.keeps_transactions = true;
        self.start_server().unwrap();
    }

    pub fn keep_house(&mut self) -> Result<()> {
        self.server.as_ref().map_or(Ok(()), LocalServer::keep_house)
    }

    fn engine(&self) -> Result<DatabaseSyncEngine> {
        self.engine.clone().ok_or_else(|| Error::misuse("no engine"))
    }

    // --- the host -----------------------------------------------------------------------------------------------

    fn run<T>(&mut self, start: impl FnOnce(&DatabaseSyncEngine) -> Operation<T>) -> Result<T> {
        let seconds = 1 + self.clock.fetch_add(1, Ordering::Relaxed) as u64;
        disk::with(|disk| disk.now = Duration::from_secs(1_000_000_000 + seconds));
        let engine = self.engine()?;
        let mut op = start(&engine);
        while op.resume()? == OperationStatus::Io {
            while let Some(item) = engine.io().take_item() {
                self.pass()?;
                match item.request() {
                    SyncEngineIoRequest::Http(http) => self.answer(&item, http),
                    _ => files::perform(&item)?,
                }
                self.pass()?;
            }
        }
        Ok(op.take_result().unwrap())
    }

    /// Passes a point at which the replica's machine may die.
    fn pass(&mut self) -> Result<()> {
        if self.deadly == Some(self.passed) {
            disk::with(|disk| disk.kill(self.machines[REPLICA]));
        }
        self.passed += 1;
        match self.dead(Victim::Replica) {
            true => Err(Error::internal("the machine is dead")),
            false => Ok(()),
        }
    }

    fn answer(&mut self, item: &IoItem, http: &HttpRequest) {
        let is_push = is_push(http);
        if is_push {
            self.pushes.push((http.path.clone(), http.body.clone()));
        }
        let answered = match &self.server {
            Some(server) => server.answer(&http.path, &http.body),
            None => Err(Error::internal("no server")),
        };
        let (status, mut body) = match answered {
            Ok(answer) if !self.dead(Victim::Server) => answer,
            _ => return item.poison("connection reset"),
        };
        if http.path.starts_with("/pull-updates") && status == 200 {
            let pages = check::pages(&plain(&self.server_path));
            check::remember(&mut self.bases, &body, pages).unwrap();
            if self.break_pull_at > 0 {
                self.break_pull_at -= 1;
                if self.break_pull_at == 0 {
                    item.status(status);
                    item.push_buffer(&body[..body.len() * 2 / 3]);
                    return item.poison("the connection broke");
                }
            }
            if self.cut_pulls > 0 {
                self.cut_pulls -= 1;
                body = super::net::uncounted_header(&body).unwrap();
            }
        }
        if is_push && self.lose_pushes > 0 {
            self.lose_pushes -= 1;
            return item.poison("connection reset");
        }
        item.status(status);
        body.chunks(5000).for_each(|piece| item.push_buffer(piece));
        item.done();
    }

    // --- death --------------------------------------------------------------------------------------------------

    fn machine(&self, victim: Victim) -> usize {
        match victim {
            Victim::Replica => self.machines[REPLICA],
            Victim::Server => self.machines[SERVER],
        }
    }

    pub fn dead(&self, victim: Victim) -> bool {
        disk::with(|disk| disk.is_dead(self.machine(victim))).unwrap()
    }

    fn calls(&self, victim: Victim) -> u64 {
        disk::with(|disk| disk.calls(self.machine(victim))).unwrap().0
    }

    /// From now on points are counted; at `point` the victim dies.
    pub fn arm(&mut self, victim: Victim, point: Option<Point>) {
        self.passed = 0;
        self.calls_before = self.calls(victim);
        match point {
            Some(Point::Call(call)) => {
                let fate = Some(Fate::Die(call));
                disk::with(|disk| disk.set_fate(self.machine(victim), fate)).unwrap();
            }
            Some(Point::Request(request)) => self.deadly = Some(request),
            Some(Point::End) | None => {}
        }
    }

    /// The points since the count began.
    pub fn points(&self, victim: Victim) -> Vec<Point> {
        let calls = (1..=self.calls(victim) - self.calls_before).map(Point::Call);
        let requests = match victim {
            Victim::Replica => self.passed,
            Victim::Server => 0,
        };
        calls
            .chain((0..requests).map(Point::Request))
            .chain([Point::End])
            .collect()
    }

    /// The victim dies after the end of an operation. The revision that the replica had then is promised.
    pub fn die_at_end(&mut self, victim: Victim) -> Checked {
        self.promised_revision = check::revision(&self.path)?;
        disk::with(|disk| disk.kill(self.machine(victim)));
        Ok(())
    }

    /// The dead machine starts again; a lost power leaves what `loss` says, `None` is the death of a process.
    pub fn rise(&mut self, victim: Victim, loss: Option<Survival>, rng: &mut Rng) -> Checked {
        let machine = self.machine(victim);
        match victim {
            Victim::Replica => {
                self.close();
                self.reader = None;
            }
            Victim::Server => self.server = None,
        }
        self.deadly = None;
        disk::with(|disk| match loss {
            Some(survival) => disk.lose_power(machine, survival, rng),
            None => disk.restart(machine),
        });
        if victim == Victim::Server {
            self.start_server()
                .map_err(|e| format!("the server does not start: {e}"))?;
            check::database(&plain(&self.server_path)).map_err(|e| format!("remote: {e}"))?;
        }
        self.check()?;
        match self.promised_revision.take() {
            Some(promised) if check::revision(&self.path)?.as_ref() != Some(&promised) => {
                Err(format!("revision {promised} is gone"))
            }
            _ => Ok(()),
        }
    }

    // --- checks -------------------------------------------------------------------------------------------------

    /// What must be true of the replica at any time.
    pub fn check(&mut self) -> Checked {
        let Some(conn) = check::replica(&self.path)? else {
            return match self.promised.is_empty() {
                true => Ok(()),
                false => Err("the replica is gone".into()),
            };
        };
        let has_schema = conn.prepare("SELECT 1 FROM event").is_ok();
        if has_schema || !self.promised.is_empty() {
            check::database(&conn)?;
            let tags = check::tags(&conn)?;
            if let Some(gone) = self.promised.difference(&tags).next() {
                return Err(format!("{gone} is gone"));
            }
        }
        check::invariants(&plain(&self.server_path)).map_err(|e| format!("remote: {e}"))?;
        match check::base(&self.path, &self.bases)? || self.base_may_be_lost {
            true => Ok(()),
            false => Err("the base is lost".into()),
        }
    }

    /// Copies of all pushes arrive late, when nothing stands in their way any more.
    fn late_copies(&mut self) -> Checked {
        let path = self.server_path.clone();
        let remote = || -> std::result::Result<_, Violation> {
            let conn = plain(&path);
            check::database(&conn)?;
            Ok((tables(&path), check::watermarks(&conn)?))
        };
        if !self.pushes.is_empty() {
            self.remote(&["DELETE FROM uniq WHERE txn = 's'"]);
        }
        let before = remote().map_err(|e| format!("remote: {e}"))?;
        for (path, push) in &self.pushes {
            let answered = self.server.as_ref().map(|server| server.answer(path, push));
            answered.transpose().map_err(|e| format!("a late copy: {e}"))?;
        }
        let after = remote().map_err(|e| format!("remote after late copies: {e}"))?;
        match before == after {
            true => Ok(()),
            false => Err(format!(
                "late copies of pushes changed the remote: watermarks {:?}, {:?}{}",
                before.1,
                after.1,
                super::scenarios::difference(&before.0, &after.0)
            )),
        }
    }

    /// Syncs until nothing is new, and closes everything.
    pub fn settle(&mut self) -> std::result::Result<Final, Violation> {
        let said = |what: &str, e: Error| format!("{what}: {:?} {e}", e.category);
        self.reader = None;
        if self.engine.is_none() {
            self.create().map_err(|e| said("open", e))?;
        }
        let mut rounds = 0;
        loop {
            let new = self.pull().map_err(|e| said("pull", e))?;
            self.push().map_err(|e| said("push", e))?;
            self.check()?;
            rounds += 1;
            match (new, rounds) {
                (false, 2..) => break,
                (_, 10..) => return Err("no end of syncing".into()),
                _ => {}
            }
        }
        // The next to open tidies up, if it is an hour later.
        self.close();
        self.clock.fetch_add(3600, Ordering::Relaxed);
        self.create().map_err(|e| said("open again", e))?;
        self.close();
        check::quiet(&self.path)?;
        self.check()?;
        self.late_copies()?;
        Ok((tables(&self.path), tables(&self.server_path)))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.close();
        (self.reader, self.server) = (None, None);
        disk::install(None);
    }
}

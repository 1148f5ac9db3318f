//! Tests of the whole module against a model: a remote database, a replica, and what the replica must contain.

mod facts;
mod faults;
mod files;
mod random;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::*;

pub(super) const NO_WAIT: Duration = Duration::ZERO;

/// A remote and a replica of it. The replica's user is `app`.
pub(super) struct World {
    pub folder: PathBuf,
    pub remote: Connection,
    pub app: Connection,
    pub store: PageStore,
    /// SQL that ran on the replica and is not in its base.
    pub pending: Vec<String>,
    /// How many of `pending` the remote has already.
    pub pushed: usize,
    /// The remote's pages at the synced revision.
    pub synced: Vec<Page>,
}

pub(super) fn open_app(folder: &Path) -> Connection {
    let conn = Connection::open(folder.join("main.db")).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    conn.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=OFF")
        .unwrap();
    conn
}

pub(super) fn open_store(folder: &Path) -> PageStore {
    PageStore::new(&folder.join("main.db"), &folder.join("main.db-wal-revert")).overlay_memory_pages(8)
}

/// All pages of a database as its connections see them.
pub(super) fn pages_of(conn: &Connection) -> Vec<Page> {
    let mut statement = conn
        .prepare("SELECT data FROM sqlite_dbpage ORDER BY pgno")
        .unwrap();
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    rows.map(|data| data.unwrap().try_into().unwrap()).collect()
}

/// Everything a user can see, without the table that is only local.
pub(super) fn dump(conn: &Connection) -> Vec<String> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema
               WHERE tbl_name <> 'turso_sync_local' ORDER BY name, type";
    let mut lines = Vec::new();
    let mut tables = Vec::new();
    let mut statement = conn.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (kind, name): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        lines.push(format!(
            "{kind} {name} {:?}",
            row.get::<_, Option<String>>(3).unwrap()
        ));
        if kind == "table" {
            tables.push(name);
        }
    }
    for table in tables {
        let mut statement = conn
            .prepare(&format!("SELECT rowid, * FROM \"{table}\" ORDER BY 1"))
            .unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let mut line = table.clone();
            for column in 0..columns {
                use rusqlite::types::ValueRef;
                line += &match row.get_ref(column).unwrap() {
                    ValueRef::Blob(blob) => format!(" {}:{:x}", blob.len(), crc32c::crc32c(blob)),
                    other => format!(" {other:?}"),
                };
            }
            lines.push(line);
        }
    }
    lines
}

/// Compares two dumps, and names only the first difference.
#[track_caller]
pub(super) fn same(left: &[String], right: &[String]) {
    if let Some(at) = (0..left.len().max(right.len())).find(|at| left.get(*at) != right.get(*at)) {
        let short = |line: Option<&String>| line.map(|line| line.chars().take(80).collect::<String>());
        panic!(
            "line {at}: {:?} is not {:?}",
            short(left.get(at)),
            short(right.get(at))
        );
    }
}

pub(super) fn integrity(conn: &Connection) -> String {
    conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap()
}

/// Writes `pages` as a download; those equal to `old` are left out.
pub(super) fn download(path: &Path, old: &[Page], pages: &[Page]) -> Changes {
    let mut writer = ChangesWriter::create(path).unwrap();
    for (at, page) in pages.iter().enumerate() {
        if old.get(at) != Some(page) {
            writer.page(at as u32 + 1, page).unwrap();
        }
    }
    writer.finish(pages.len() as u32).unwrap()
}

/// The epoch and base size that the main database records, if any.
pub(super) fn recorded(conn: &Connection) -> Option<BaseState> {
    let value = |name: &str| {
        conn.query_row(
            "SELECT value FROM turso_sync_local WHERE name = ?1",
            [name],
            |row| row.get(0),
        )
    };
    Some(BaseState {
        epoch: value("epoch").ok()?,
        base_pages: value("base_pages").ok()? as u32,
    })
}

/// What the engine does in `prepare`.
pub(super) fn prepare(context: &ApplyContext<'_>, pending: &[String]) -> Result<()> {
    context.scratch.execute_batch(
        "DROP TABLE IF EXISTS turso_sync_local;
         CREATE TABLE turso_sync_local (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    )?;
    let mut insert = context
        .scratch
        .prepare("INSERT INTO turso_sync_local VALUES (?1, ?2)")?;
    insert.execute(("epoch", context.new_epoch))?;
    insert.execute(("base_pages", context.base_pages))?;
    for sql in pending {
        context.scratch.execute_batch(sql)?;
    }
    Ok(())
}

impl World {
    /// A remote made by `sql` and a replica that has it.
    pub fn new(folder: &Path, sql: &str) -> World {
        let remote = Connection::open(folder.join("remote.db")).unwrap();
        remote
            .execute_batch("PRAGMA foreign_keys=OFF; PRAGMA synchronous=OFF")
            .unwrap();
        remote.execute_batch(sql).unwrap();
        let app = open_app(folder);
        app.execute_batch("PRAGMA journal_mode=WAL").unwrap();
        let store = open_store(folder);
        let mut world = World {
            folder: folder.to_owned(),
            remote,
            app,
            store,
            pending: Vec::new(),
            pushed: 0,
            synced: Vec::new(),
        };
        world.pull().unwrap();
        world
    }

    pub fn state(&self) -> BaseState {
        recorded(&self.app).unwrap()
    }

    /// Runs `sql` on the replica as a change that waits to be pushed.
    pub fn local(&mut self, sql: &str) {
        self.app.execute_batch(sql).unwrap();
        self.pending.push(sql.to_owned());
    }

    /// Brings the pending changes to the remote.
    pub fn push(&mut self) {
        for sql in &self.pending[self.pushed..] {
            self.remote.execute_batch(sql).unwrap();
        }
        self.pushed = self.pending.len();
    }

    pub fn pull(&mut self) -> Result<ApplyReport> {
        match recorded(&self.app) {
            Some(state) => self.apply(Base::Known(state)),
            None => self.apply(Base::Lost { epoch: 0 }),
        }
    }

    /// Fetches the whole base again.
    pub fn refetch(&mut self) -> Result<ApplyReport> {
        self.apply(Base::Lost {
            epoch: self.state().epoch,
        })
    }

    fn apply(&mut self, base: Base) -> Result<ApplyReport> {
        let epoch = recorded(&self.app).map_or(0, |state| state.epoch);
        let pages = pages_of(&self.remote);
        let old = if matches!(base, Base::Known(_)) {
            &self.synced[..]
        } else {
            &[]
        };
        let changes = download(&self.folder.join("main.db-changes"), old, &pages);
        let pending = &self.pending[self.pushed..];
        let result = self
            .store
            .apply(base, &changes, NO_WAIT, |context| prepare(context, pending));
        // An error after the commit (only a fault point gives one) does not undo it.
        if recorded(&self.app).map_or(0, |state| state.epoch) > epoch {
            self.synced = pages;
            self.pending.drain(..self.pushed);
            self.pushed = 0;
        }
        result
    }

    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        self.store.checkpoint(&self.state(), NO_WAIT)
    }

    /// Closes everything and opens it again.
    pub fn reopen(&mut self) {
        self.app = Connection::open_in_memory().unwrap();
        self.app = open_app(&self.folder);
        self.store = open_store(&self.folder);
    }

    /// What the replica must contain.
    pub fn model(&self) -> Vec<String> {
        let path = self.folder.join("model.db");
        let mut bytes = self.synced.concat();
        if bytes.len() > 20 {
            bytes[18..20].fill(1);
        }
        std::fs::write(&path, bytes).unwrap();
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA foreign_keys=OFF")
            .unwrap();
        for sql in &self.pending {
            conn.execute_batch(sql).unwrap();
        }
        dump(&conn)
    }

    /// Checks base and content, on the user's connection and on a new one.
    #[track_caller]
    pub fn check(&self) {
        let state = self.state();
        assert_eq!(self.store.recover(&state).unwrap(), BaseHealth::Intact);
        self.check_base();
        let fresh = open_app(&self.folder);
        for conn in [&self.app, &fresh] {
            assert_eq!(integrity(conn), "ok");
            same(&dump(conn), &self.model());
        }
    }

    #[track_caller]
    pub fn check_base(&self) {
        let state = self.state();
        assert_eq!(state.base_pages as usize, self.synced.len());
        self.store
            .with_base_view(&state, |base| {
                for (at, expected) in self.synced.iter().enumerate() {
                    let mut page = [0; PAGE_SIZE];
                    base.read(at as u32 + 1, &mut page)?;
                    assert!(page == *expected, "base page {} is wrong", at + 1);
                }
                Ok(())
            })
            .unwrap();
    }
}

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w BLOB); CREATE INDEX tv ON t (v);
    WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 600)
    INSERT INTO t SELECT x, 'v' || x, zeroblob(x % 90) FROM c;";

#[test]
fn pull_brings_remote_changes_below_local_ones() {
    let folder = folder();
    let mut world = World::new(folder.path(), TABLE);
    world.check();
    world.local(
        "UPDATE t SET v = 'local' WHERE id % 7 = 0; CREATE TABLE l (x); INSERT INTO l VALUES (1), (2)",
    );
    world.check();
    world
        .remote
        .execute_batch("DELETE FROM t WHERE id % 5 = 0; CREATE TABLE u AS SELECT * FROM t")
        .unwrap();
    let reader = open_app(folder.path());
    reader.execute_batch("BEGIN").unwrap();
    let before = dump(&reader);
    world.pull().unwrap();
    world.check();
    same(&dump(&reader), &before);
    reader.execute_batch("COMMIT").unwrap();
    same(&dump(&reader), &world.model());
    assert_eq!(integrity(&reader), "ok");
    world.checkpoint().unwrap();
    world.check();
    world.local("INSERT INTO t (v) VALUES ('after')");
    world.push();
    world.pull().unwrap();
    world.reopen();
    world.check();
}

#[test]
fn an_empty_remote_is_a_base_too() {
    let folder = folder();
    let mut world = World::new(folder.path(), "");
    assert!(world.synced.is_empty());
    world.local("CREATE TABLE l (x); INSERT INTO l VALUES (1)");
    world.pull().unwrap();
    world.checkpoint().unwrap();
    world.check();
    let tables = world.store.with_base(&world.state(), |conn| {
        Ok(conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })?)
    });
    assert_eq!(tables.unwrap(), 0);
    world.push();
    world.pull().unwrap();
    world.check();
}

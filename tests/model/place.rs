//! Where the databases of one run lie.

use std::path::PathBuf;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tempfile::TempDir;
use turso_sync::capture::log;

/// A directory, in memory if the system has one there.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Place {
        let dir = match std::env::var_os("TMPDIR") {
            None if PathBuf::from("/dev/shm").is_dir() => tempfile::tempdir_in("/dev/shm"),
            _ => tempfile::tempdir(),
        };
        let place = Place { dir: dir.unwrap() };
        let conn = place.connect("empty");
        conn.execute_batch("PRAGMA page_size = 1024; PRAGMA journal_mode = WAL")
            .unwrap();
        log::create_local_tables(&conn).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes `to` a copy of `from`, which nobody has open.
    pub fn copy(&self, from: &str, to: &str) {
        let to = self.path(to);
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{to}{suffix}"));
        }
        std::fs::copy(self.path(from), to).unwrap();
    }

    /// A connection of plain SQLite without foreign keys, as replay and remote have it.
    pub fn connect(&self, name: &str) -> Connection {
        let conn = Connection::open(self.path(name)).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)
            .unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF").unwrap();
        conn
    }
}

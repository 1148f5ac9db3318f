//! The files of a replica, copied and put back.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What belongs to a replica beside the main file, and decides something.
const SUFFIXES: [&str; 4] = ["", "-wal", "-wal-revert", "-info"];

/// The files of a replica at a moment when nobody wrote.
pub struct Backup(tempfile::TempDir);

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Copies content and time. That this process drops SQLite's POSIX locks thereby is no matter here: SQLite keeps account of
/// its connections in one process, and no other process has the file.
fn copy(from: &Path, to: &Path) {
    std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
    let time = std::fs::metadata(from).unwrap().modified().unwrap();
    let to = std::fs::File::options().write(true).open(to).unwrap();
    to.set_modified(time).unwrap();
}

impl Backup {
    pub fn of(path: &Path) -> Backup {
        let dir = tempfile::tempdir().unwrap();
        for suffix in SUFFIXES {
            if beside(path, suffix).exists() {
                copy(&beside(path, suffix), &beside(&dir.path().join("b"), suffix));
            }
        }
        Backup(dir)
    }

    /// Makes a copy of it at `path`.
    pub fn put(&self, path: &Path) {
        self.restore(path, false, true);
    }

    /// Puts it back: into the same files, or new ones; with the metadata as they were, or as they are. Nobody may have it open.
    pub fn restore(&self, path: &Path, in_place: bool, metadata_too: bool) {
        let _ = std::fs::remove_file(beside(path, "-shm"));
        for suffix in SUFFIXES {
            let (from, to) = (beside(&self.0.path().join("b"), suffix), beside(path, suffix));
            if suffix == "-info" && !metadata_too && to.exists() {
                continue;
            }
            if !in_place || !from.exists() {
                let _ = std::fs::remove_file(&to);
            }
            if from.exists() {
                copy(&from, &to);
            }
        }
    }
}

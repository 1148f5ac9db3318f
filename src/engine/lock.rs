//! One sync operation at a time per replica, across threads and processes.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// The lock file. The lock belongs to an open file, so that two engines of one process exclude each other as
/// well, and the system releases it when its holder dies.
#[derive(Debug)]
pub struct SyncLock {
    path: PathBuf,
}

/// Held while a sync operation runs.
#[derive(Debug)]
pub struct SyncGuard {
    file: File,
}

impl Drop for SyncGuard {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that another thread has just forked has it open, too, until it runs its
        // program. If this fails, closing has to do.
        let _ = self.file.unlock();
    }
}

impl SyncLock {
    /// A lock at `path`; nothing is created yet.
    pub fn new(path: PathBuf) -> Self {
        SyncLock { path }
    }

    /// Takes the lock, or says at once that somebody else has it (BUSY).
    pub fn acquire(&self) -> Result<SyncGuard> {
        let what = || format!("open {}", self.path.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.path);
        let file = file.map_err(|e| Error::io(what(), &e))?;
        match file.try_lock() {
            Ok(()) => Ok(SyncGuard { file }),
            Err(TryLockError::WouldBlock) => Err(Error::busy(
                "another sync operation of this replica is running; finish or drop it, then repeat this one",
            )),
            Err(TryLockError::Error(e)) => Err(Error::io(format!("lock {}", self.path.display()), &e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn excludes_and_releases() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-lock");
        let (a, b) = (SyncLock::new(path.clone()), SyncLock::new(path));
        let guard = a.acquire().unwrap();
        assert_eq!(b.acquire().unwrap_err().code, Code::Busy);
        assert_eq!(a.acquire().unwrap_err().code, Code::Busy);
        drop(guard);
        b.acquire().unwrap();
    }

    #[test]
    fn a_forked_child_does_not_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let lock = SyncLock::new(dir.path().join("x-lock"));
        let guard = lock.acquire().unwrap();
        // What a child has between fork and exec.
        let _inherited = guard.file.try_clone().unwrap();
        drop(guard);
        lock.acquire().unwrap();
    }
}

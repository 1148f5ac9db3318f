//! File requests performed as they must be; used by the built-in driver and by hosts that ask for it.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::queue::MAX_WHOLE_ANSWER;
use crate::io::{IoItem, SyncEngineIoRequest};

/// Performs a file request to its end: done, or poisoned and reported. HTTP requests are MISUSE and left alone.
pub fn perform(item: &IoItem) -> Result<()> {
    let result = match item.request() {
        SyncEngineIoRequest::Http(_) | SyncEngineIoRequest::Transform(_) => {
            return Err(Error::misuse("the request is not a file request"));
        }
        SyncEngineIoRequest::FullRead { path } => {
            read(Path::new(path)).map(|content| item.push_buffer(&content))
        }
        SyncEngineIoRequest::FullWrite { path, content } => write_atomic(Path::new(path), content),
    };
    match &result {
        Ok(()) => item.done(),
        Err(e) => item.fail(e.clone()),
    }
    result
}

/// The whole file; a missing file is empty. One longer than [`MAX_WHOLE_ANSWER`] is damaged.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let read = File::open(path).and_then(|file| {
        let mut content = Vec::new();
        file.take(MAX_WHOLE_ANSWER as u64 + 1).read_to_end(&mut content)?;
        Ok(content)
    });
    match read {
        Ok(content) if content.len() > MAX_WHOLE_ANSWER => Err(too_long(path)),
        Ok(content) => Ok(content),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(format_args!("read {}", path.display()), &e)),
    }
}

fn too_long(path: &Path) -> Error {
    Error::corrupt(format!(
        "{} is longer than {MAX_WHOLE_ANSWER} bytes",
        path.display()
    ))
}

/// Replaces the file so that a crash or power loss at any moment leaves the old or the new content, and that the new
/// content is durable on return. Creates the parent directory if needed; keeps the permissions of the old file.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    let directory = directory_of(path);
    fs::create_dir_all(directory)
        .map_err(|e| Error::io(format_args!("create directory {}", directory.display()), &e))?;
    let temporary = temporary_name(path);
    let replaced = write_new(&temporary, path, content).and_then(|()| fs::rename(&temporary, path));
    if let Err(e) = replaced {
        // The failure to report is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io(format_args!("replace {}", path.display()), &e));
    }
    sync_directory(directory)
        .map_err(|e| Error::io(format_args!("sync directory {}", directory.display()), &e))
}

/// Removes what writers of `path` that died left behind, as far as it is old enough to belong to nobody alive. Best
/// effort: leftovers are harmless.
pub fn remove_leftovers(path: &Path) {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return;
    };
    let prefix = format!("{name}.");
    for entry in fs::read_dir(directory_of(path)).into_iter().flatten().flatten() {
        let leftover = entry
            .file_name()
            .to_str()
            .is_some_and(|n| n.starts_with(&prefix) && n.ends_with(".tmp"));
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if leftover && age.is_some_and(|age| age > LEFTOVER_AGE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Renames a file within its directory, replacing `to`; the new name is durable on return.
pub fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    let renamed = fs::rename(from, to).and_then(|()| sync_directory(directory_of(to)));
    renamed.map_err(|e| Error::io(format_args!("rename {} to {}", from.display(), to.display()), &e))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name in the same directory that nobody else uses: two writers must not meet in one temporary file.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    PathBuf::from(name)
}

fn write_new(temporary: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    if let Ok(old) = fs::metadata(path) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(content)?;
    file.sync_all()
}

/// Makes the rename durable. Windows has no such call, and needs none: its rename is journaled.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(directory)?.sync_all()
}

/// No write of a small file takes longer than this.
const LEFTOVER_AGE: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::io::{SyncEngineIo, SyncEngineIoQueue};

    #[test]
    fn content_is_replaced_and_nothing_else_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("file");
        assert_eq!(read(&path).unwrap(), b"");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        write_atomic(&path, b"").unwrap();
        assert_eq!(read(&path).unwrap(), b"");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_go_when_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for name in ["file.a.tmp", "file.b.tmp", "other.a.tmp", "file.tmpx"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let old = std::time::SystemTime::now() - 2 * LEFTOVER_AGE;
        for name in ["file.a.tmp", "other.a.tmp"] {
            let file = OpenOptions::new()
                .write(true)
                .open(dir.path().join(name))
                .unwrap();
            file.set_modified(old).unwrap();
        }
        remove_leftovers(&path);
        assert!(!dir.path().join("file.a.tmp").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_of_the_old_file_are_kept() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomic(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn failures_poison_the_request_and_leave_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        let path = dir.path().join("taken").to_str().unwrap().to_owned();
        let queue = SyncEngineIoQueue::default();
        for _ in 0..2 {
            let _write = queue.full_write(&path, b"x".to_vec());
            let _read = queue.full_read(&path);
            for _ in 0..2 {
                let item = queue.take_item().unwrap();
                assert_eq!(perform(&item).unwrap_err().code, Code::IoErr);
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

//! ATTACH: other databases are welcome and not captured, the replica itself under a second name is not.

use crate::capture::sqlite::{Db, quoted};
use crate::error::{Category, Code, Error, Result};

/// ATTACH may have opened the replica itself under another name, where nothing is captured.
pub(super) fn refuse_own_file(db: Db) -> Result<()> {
    let mut list = db.prepare("PRAGMA database_list")?;
    let mut files = Vec::new();
    while list.step()? {
        files.push((list.text(1), list.text(2)));
    }
    drop(list);
    let own = files
        .iter()
        .find(|(name, _)| name == "main")
        .and_then(|(_, file)| identity(file));
    for (name, file) in files.iter().filter(|(name, _)| name != "main" && name != "temp") {
        if own.is_some() && identity(file) == own {
            db.execute(&format!("DETACH {}", quoted(name)))?;
            return Err(Error::new(
                Category::Usage,
                Code::Error,
                "a replica cannot be attached to itself, because changes through the second name would not \
                 be captured; use schema main",
            ));
        }
    }
    Ok(())
}

/// What is equal for two paths of one file.
fn identity(path: &str) -> Option<impl PartialEq + use<>> {
    let path = std::fs::canonicalize(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    Some(path)
}

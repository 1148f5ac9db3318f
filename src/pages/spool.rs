//! Temporary content of any size: memory first, then a file without a name beside the main file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes that stay in memory.
const MEMORY: usize = 256 << 10;

/// A temporary file of SQLite's: the journal of a scratch connection, a sorter, a temporary table.
pub(super) struct Spool {
    beside: PathBuf,
    memory: Vec<u8>,
    /// Holds everything once it exists.
    file: Option<File>,
    len: u64,
}

impl Spool {
    /// Empty. Its file, once it is needed, will be in the folder of `beside`.
    pub fn new(beside: &Path) -> Self {
        Spool {
            beside: beside.to_owned(),
            memory: Vec::new(),
            file: None,
            len: 0,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `bytes` from `offset`, with zeros behind the end; false if the end was passed.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Result<bool> {
        let there = usize::try_from(self.len.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let (found, missing) = bytes.split_at_mut(there);
        missing.fill(0);
        match &self.file {
            Some(file) => file
                .read_exact_at(found, offset)
                .map_err(|e| Error::io("read a temporary file", &e))?,
            None => {
                let start = offset as usize;
                if let Some(bytes) = self.memory.get(start..start + there) {
                    found.copy_from_slice(bytes);
                }
            }
        }
        Ok(missing.is_empty())
    }

    /// Writes `bytes` at `offset`; what is between the end and there becomes zeros.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = offset + bytes.len() as u64;
        if self.file.is_none() && end > MEMORY as u64 {
            let file = temporary_file(&self.beside)?;
            file.write_all_at(&self.memory, 0).map_err(write_error)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &self.file {
            Some(file) => file.write_all_at(bytes, offset).map_err(write_error)?,
            None => {
                let (start, end) = (offset as usize, end as usize);
                if self.memory.len() < end {
                    self.memory.resize(end, 0);
                }
                self.memory[start..end].copy_from_slice(bytes);
            }
        }
        self.len = self.len.max(end);
        Ok(())
    }

    /// Cuts the content to `len` bytes.
    pub fn truncate(&mut self, len: u64) -> Result<()> {
        if len < self.len {
            self.len = len;
            match &self.file {
                Some(file) => file.set_len(len).map_err(write_error)?,
                None => self.memory.truncate(len as usize),
            }
        }
        Ok(())
    }
}

fn write_error(e: std::io::Error) -> Error {
    Error::io("write a temporary file", &e)
}

/// Creates a file in the folder of `beside` that has no name and goes away with its descriptor.
pub(super) fn temporary_file(beside: &Path) -> Result<File> {
    let mut name = beside.as_os_str().to_owned();
    name.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let path = PathBuf::from(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let file = file.map_err(|e| Error::io(format_args!("create {}", path.display()), &e))?;
    std::fs::remove_file(&path).map_err(|e| Error::io(format_args!("unlink {}", path.display()), &e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_file(steps in prop::collection::vec((0..2 * MEMORY, 0..5000usize, 0..4u8), 1..20)) {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = Spool::new(&folder.path().join("db"));
            let mut model: Vec<u8> = Vec::new();
            for (i, (at, len, what)) in steps.into_iter().enumerate() {
                match what {
                    0 => {
                        spool.truncate(at as u64).unwrap();
                        model.truncate(at);
                    }
                    1 => {
                        let mut bytes = vec![7; len];
                        let whole = spool.read(&mut bytes, at as u64).unwrap();
                        prop_assert_eq!(whole, at + len <= model.len() || len == 0);
                        let there = model.get(at..).unwrap_or_default();
                        let expected = there.iter().copied().chain(std::iter::repeat(0)).take(len);
                        prop_assert!(expected.eq(bytes));
                    }
                    _ => {
                        spool.write(&vec![i as u8 + 1; len], at as u64).unwrap();
                        if model.len() < at + len {
                            model.resize(at + len, 0);
                        }
                        model[at..at + len].fill(i as u8 + 1);
                    }
                }
                prop_assert_eq!(spool.len(), model.len() as u64);
            }
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}

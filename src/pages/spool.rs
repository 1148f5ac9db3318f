//! Temporary content of any size: its end is in memory, what is before it in a file without a name beside the main file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes that stay in memory, so that small contents need no file and journals are not written in small pieces.
const MEMORY: usize = 256 << 10;

/// A temporary file of SQLite's: the journal of a scratch connection, a sorter, a temporary table.
pub(super) struct Spool {
    beside: PathBuf,
    /// Holds the first `flushed` bytes.
    file: Option<File>,
    flushed: u64,
    /// The bytes behind them.
    memory: Vec<u8>,
}

impl Spool {
    /// Empty. Its file, once it is needed, will be in the folder of `beside`.
    pub fn new(beside: &Path) -> Self {
        Spool {
            beside: beside.to_owned(),
            file: None,
            flushed: 0,
            memory: Vec::new(),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.flushed + self.memory.len() as u64
    }

    /// Fills `bytes` from `offset`, with zeros behind the end; false if the end was passed.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Result<bool> {
        let (in_file, behind) = bytes.split_at_mut(reach(self.flushed, offset, bytes.len()));
        if let (Some(file), false) = (&self.file, in_file.is_empty()) {
            file.read_exact_at(in_file, offset)
                .map_err(|e| Error::io("read a temporary file", &e))?;
        }
        let start = offset.saturating_sub(self.flushed);
        let (in_memory, missing) = behind.split_at_mut(reach(self.memory.len() as u64, start, behind.len()));
        let start = start as usize;
        if let Some(found) = self.memory.get(start..start + in_memory.len()) {
            in_memory.copy_from_slice(found);
        }
        missing.fill(0);
        Ok(missing.is_empty())
    }

    /// Writes `bytes` at `offset`; what is between the end and there becomes zeros.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = offset + bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(());
        }
        if offset < self.flushed && end <= self.flushed {
            return self.write_to_file(bytes, offset);
        }
        if offset < self.flushed || end > self.flushed + MEMORY as u64 {
            self.flush()?;
        }
        if offset < self.flushed || end > self.flushed + MEMORY as u64 {
            self.write_to_file(bytes, offset)?;
            self.flushed = self.flushed.max(end);
            return Ok(());
        }
        let (start, end) = ((offset - self.flushed) as usize, (end - self.flushed) as usize);
        if self.memory.len() < end {
            self.memory.resize(end, 0);
        }
        self.memory[start..end].copy_from_slice(bytes);
        Ok(())
    }

    /// Cuts the content to `len` bytes.
    pub fn truncate(&mut self, len: u64) -> Result<()> {
        let in_memory = usize::try_from(len.saturating_sub(self.flushed)).unwrap_or(usize::MAX);
        self.memory.truncate(in_memory);
        if len < self.flushed {
            if let Some(file) = &self.file {
                file.set_len(len).map_err(write_error)?;
            }
            self.flushed = len;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.memory.is_empty() {
            return Ok(());
        }
        let memory = std::mem::take(&mut self.memory);
        let written = self.write_to_file(&memory, self.flushed);
        self.memory = memory;
        written?;
        self.flushed = self.len();
        self.memory.clear();
        Ok(())
    }

    fn write_to_file(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(temporary_file(&self.beside)?),
        };
        file.write_all_at(bytes, offset).map_err(write_error)
    }
}

/// How many of `wanted` bytes from `offset` lie before `end`.
fn reach(end: u64, offset: u64, wanted: usize) -> usize {
    usize::try_from(end.saturating_sub(offset)).map_or(wanted, |there| there.min(wanted))
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
        fn it_is_a_file(steps in prop::collection::vec((0..2 * MEMORY, 1..5000usize, 0..4u8), 1..20)) {
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
                        prop_assert_eq!(whole, at + len <= model.len());
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

//! A disk that can die, lose what was not synced, fill up and fail.
//!
//! Files are real files below one folder, and everybody who writes them does so through the C library: SQLite's VFS as
//! well as `std::fs`. [`super::syscalls`] puts itself in between and reports every call here, so that nothing in the
//! library knows of the simulation. A call passes through, fails, or is where the machine dies: from then on nothing
//! that the dead machine's objects still do has an effect, until it is started again.
//!
//! What survives a power loss: file content as of the last sync of the file, and of what was written after that
//! nothing, everything, a beginning, or any part, torn at sectors; names as of the last sync of the folder, and of
//! what happened to names after that a beginning, as in a journaling file system. Death alone (kill -9) loses nothing
//! that was written. Shared memory (`-shm`) is not part of the disk.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::rng::Rng;

const SECTOR: usize = 512;

thread_local! {
    static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) };
}

/// Runs `f` on this thread's disk; `None` if there is none, or if it is at work itself.
pub fn with<R>(f: impl FnOnce(&mut Disk) -> R) -> Option<R> {
    DISK.try_with(|disk| disk.try_borrow_mut().ok()?.as_mut().map(f))
        .ok()
        .flatten()
}

/// Gives this thread a disk, or takes it away.
pub fn install(disk: Option<Disk>) {
    DISK.set(disk);
}

/// Runs `look`, a check of the files of `machine`: what it does is not on trial, so nothing strikes it.
pub fn looking<R>(machine: usize, look: impl FnOnce() -> R) -> R {
    let spared = with(|disk| {
        let machine = &mut disk.machines[machine];
        (machine.fate.take(), machine.calls)
    });
    let found = look();
    if let Some((fate, calls)) = spared {
        with(|disk| {
            let machine = &mut disk.machines[machine];
            (machine.fate, machine.calls) = (fate, calls);
        });
    }
    found
}

/// What a call wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Write(usize),
    Truncate,
    Sync,
    Create,
    Unlink,
    Rename,
}

/// What becomes of a call.
pub enum Verdict {
    Pass,
    /// Only so many bytes are written, then the machine is dead.
    Cut(usize),
    Fail(i32),
}

/// What will happen to a machine.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It dies in its call number `.0` from now.
    Die(u64),
    /// Calls number `from` to `from + calls` fail with `errno`. No space is only missing where space is needed.
    Fail { from: u64, calls: u64, errno: i32 },
}

/// How much of what was not synced a power loss leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    Nothing,
    Everything,
    /// Any part of it.
    Chance,
}

impl Survival {
    /// How many of `count` changes come true, in their order.
    fn prefix(self, count: usize, rng: &mut Rng) -> usize {
        match (self, rng.below(3)) {
            (Survival::Nothing, _) | (Survival::Chance, 0) => 0,
            (Survival::Everything, _) | (Survival::Chance, 1) => count,
            _ => rng.below(count + 1),
        }
    }
}

enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

/// A change of names, in one folder.
#[derive(Clone)]
enum Naming {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

#[derive(Default)]
struct File {
    machine: usize,
    durable: Vec<u8>,
    durable_mtime: Duration,
    unsynced: Vec<Change>,
}

/// A folder whose files live and die together.
pub struct Machine {
    folder: PathBuf,
    folder_inode: u64,
    durable: BTreeMap<String, u64>,
    unsynced: Vec<Naming>,
    calls: u64,
    fate: Option<Fate>,
    dead: bool,
    /// A loss of power keeps the times of files of which it keeps anything.
    keeps_times: bool,
    /// Calls that failed on purpose.
    failures: u64,
}

pub struct Disk {
    machines: Vec<Machine>,
    files: HashMap<u64, File>,
    /// Virtual time since 1970.
    pub now: Duration,
    /// For who asks the operating system for random bytes.
    pub chance: Rng,
}

impl Disk {
    pub fn new(now: Duration, chance: Rng) -> Disk {
        Disk {
            machines: Vec::new(),
            files: HashMap::new(),
            now,
            chance,
        }
    }

    /// Adds a machine on the empty folder.
    pub fn add(&mut self, folder: &Path) -> usize {
        self.machines.push(Machine {
            folder: folder.to_owned(),
            folder_inode: fs::metadata(folder).unwrap().ino(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
            calls: 0,
            fate: None,
            dead: false,
            keeps_times: false,
            failures: 0,
        });
        self.machines.len() - 1
    }

    pub fn set_fate(&mut self, machine: usize, fate: Option<Fate>) {
        let machine = &mut self.machines[machine];
        let calls = machine.calls;
        machine.fate = fate.map(|fate| match fate {
            Fate::Die(n) => Fate::Die(calls + n),
            Fate::Fail {
                from,
                calls: n,
                errno,
            } => Fate::Fail {
                from: calls + from,
                calls: n,
                errno,
            },
        });
    }

    pub fn kill(&mut self, machine: usize) {
        self.machines[machine].dead = true;
    }

    pub fn is_dead(&self, machine: usize) -> bool {
        self.machines[machine].dead
    }

    /// Calls so far, and how many of them failed on purpose.
    pub fn calls(&self, machine: usize) -> (u64, u64) {
        (self.machines[machine].calls, self.machines[machine].failures)
    }

    /// The machine of the folder of `path`, and the name within.
    pub fn locate(&self, path: &Path) -> Option<(usize, String)> {
        let machine = self
            .machines
            .iter()
            .position(|m| Some(m.folder.as_path()) == path.parent())?;
        let name = path.file_name().and_then(OsStr::to_str)?;
        (!name.ends_with("-shm")).then(|| (machine, name.to_owned()))
    }

    pub fn machine_of(&self, inode: u64) -> Option<usize> {
        self.files.get(&inode).map(|file| file.machine)
    }

    pub fn folder_of(&self, inode: u64) -> Option<usize> {
        self.machines.iter().position(|m| m.folder_inode == inode)
    }

    /// Decides about a call of `machine`.
    pub fn judge(&mut self, machine: usize, call: Call) -> Verdict {
        let m = &mut self.machines[machine];
        if m.dead {
            return Verdict::Fail(libc::EIO);
        }
        m.calls += 1;
        match m.fate {
            Some(Fate::Die(at)) if m.calls >= at => {
                (m.dead, m.fate) = (true, None);
                match call {
                    Call::Write(len) => Verdict::Cut(self.chance.below(len + 1)),
                    _ => Verdict::Fail(libc::EIO),
                }
            }
            Some(Fate::Fail { from, calls, errno }) if m.calls >= from => {
                if m.calls >= from + calls {
                    m.fate = None;
                    return Verdict::Pass;
                }
                let needs_space = matches!(call, Call::Write(_) | Call::Create);
                if errno == libc::ENOSPC && !needs_space {
                    return Verdict::Pass;
                }
                m.failures += 1;
                Verdict::Fail(errno)
            }
            _ => Verdict::Pass,
        }
    }

    pub fn wrote(&mut self, inode: u64, offset: u64, bytes: &[u8]) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.unsynced.push(Change::Write(offset, bytes.to_owned()));
        }
    }

    pub fn truncated(&mut self, inode: u64, len: u64) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.unsynced.push(Change::Truncate(len));
        }
    }

    /// The file was synced; its attributes, too, if `all`.
    pub fn synced(&mut self, inode: u64, mtime: Duration, all: bool) {
        if let Some(file) = self.files.get_mut(&inode) {
            let len = file.durable.len();
            for change in std::mem::take(&mut file.unsynced) {
                change.apply(&mut file.durable);
            }
            if all || file.durable.len() != len {
                file.durable_mtime = mtime;
            }
        }
    }

    pub fn synced_folder(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        for naming in std::mem::take(&mut machine.unsynced) {
            naming.apply(&mut machine.durable);
        }
    }

    pub fn created(&mut self, machine: usize, name: String, inode: u64) {
        let file = File {
            machine,
            durable_mtime: self.now,
            ..File::default()
        };
        self.files.insert(inode, file);
        self.machines[machine].unsynced.push(Naming::Link(name, inode));
    }

    pub fn unlinked(&mut self, machine: usize, name: String) {
        self.machines[machine].unsynced.push(Naming::Unlink(name));
    }

    pub fn renamed(&mut self, machine: usize, from: String, to: String) {
        self.machines[machine].unsynced.push(Naming::Rename(from, to));
    }

    /// Starts the machine again after its process died. Nobody may have files of it open.
    pub fn restart(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        (machine.dead, machine.fate, machine.keeps_times) = (false, None, false);
    }

    /// The death of the machine has met somebody who moved a log into its file without having saved what was there: the next
    /// loss of power does not forget that the file was written, see docs/guarantees.md.
    pub fn keep_times(&mut self, machine: usize) {
        self.machines[machine].keeps_times = true;
    }

    /// Takes the power away, lets come true what `survival` and `rng` decide about everything that was not synced, and
    /// starts the machine again. Nobody may have files of it open.
    pub fn lose_power(&mut self, number: usize, survival: Survival, rng: &mut Rng) {
        let keeps_times = self.machines[number].keeps_times;
        self.restart(number);
        let machine = &mut self.machines[number];
        let mut names = machine.durable.clone();
        let unsynced = std::mem::take(&mut machine.unsynced);
        let kept = survival.prefix(unsynced.len(), rng);
        unsynced
            .into_iter()
            .take(kept)
            .for_each(|naming| naming.apply(&mut names));
        // Files keep their inodes as far as they are still there.
        let mut there = HashMap::new();
        for (at, entry) in fs::read_dir(&machine.folder)
            .unwrap()
            .collect::<Vec<_>>()
            .into_iter()
            .enumerate()
        {
            let entry = entry.unwrap();
            let inode = entry.metadata().unwrap().ino();
            let aside = machine.folder.join(format!("sim-aside-{at}"));
            fs::rename(entry.path(), &aside).unwrap();
            there.insert(inode, aside);
        }
        let folder = machine.folder.clone();
        for (name, inode) in &mut names {
            let path = folder.join(name);
            let mut file = self.files.remove(inode).unwrap();
            let mtime = match there.remove(inode) {
                Some(aside) => {
                    let meta = fs::metadata(&aside).unwrap();
                    fs::rename(aside, &path).unwrap();
                    Duration::new(meta.mtime() as u64, meta.mtime_nsec() as u32)
                }
                None => file.durable_mtime,
            };
            let unsynced = std::mem::take(&mut file.unsynced);
            file.durable = survivors(file.durable, unsynced, survival, rng);
            file.durable_mtime = match survival {
                Survival::Nothing => file.durable_mtime,
                Survival::Everything => mtime,
                Survival::Chance if keeps_times => mtime,
                Survival::Chance => *rng.pick(&[file.durable_mtime, mtime]),
            };
            *inode = put(&path, &file.durable, file.durable_mtime);
            self.files.insert(*inode, file);
        }
        there
            .into_values()
            .for_each(|aside| fs::remove_file(aside).unwrap());
        self.machines[number].durable = names;
    }
}

/// Makes the file what it is to be; its inode.
fn put(path: &Path, content: &[u8], mtime: Duration) -> u64 {
    let mut options = fs::OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.write_all_at(content, 0).unwrap();
    file.set_modified(UNIX_EPOCH + mtime).unwrap();
    file.metadata().unwrap().ino()
}

/// What is in a file after a power loss.
fn survivors(mut content: Vec<u8>, unsynced: Vec<Change>, survival: Survival, rng: &mut Rng) -> Vec<u8> {
    let mode = match survival {
        Survival::Nothing => 0,
        Survival::Everything => 1,
        Survival::Chance => rng.below(4),
    };
    let cut = match mode {
        0 => 0,
        1 => unsynced.len(),
        _ => rng.below(unsynced.len() + 1),
    };
    for (at, change) in unsynced.into_iter().enumerate() {
        let (keep, tear) = match mode {
            3 => (rng.one_in(2), rng.one_in(4)),
            _ => (at < cut, at == cut && mode == 2),
        };
        match change {
            Change::Write(offset, bytes) if tear => {
                for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                    if rng.one_in(2) {
                        Change::Write(offset + (i * SECTOR) as u64, sector.to_vec()).apply(&mut content);
                    }
                }
            }
            change if keep => change.apply(&mut content),
            _ => {}
        }
    }
    content
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write(offset, bytes) => {
                let offset = *offset as usize;
                if content.len() < offset + bytes.len() {
                    content.resize(offset + bytes.len(), 0);
                }
                content[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Change::Truncate(len) => content.resize(*len as usize, 0),
        }
    }
}

impl Naming {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Naming::Link(name, inode) => {
                names.insert(name, inode);
            }
            Naming::Unlink(name) => {
                names.remove(&name);
            }
            Naming::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

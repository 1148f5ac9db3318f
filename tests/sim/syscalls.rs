//! The C library's calls that change files, sleep, or ask for chance.
//!
//! Symbols of the program come before those of shared libraries, so whatever in this process calls `write` (SQLite,
//! the standard library) calls the function here. It asks this thread's [`disk`](super::disk), and does the real
//! thing by a system call. Files that no disk knows are none of its business.

use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use libc::{mode_t, off_t, size_t, ssize_t, timespec};

use super::disk::{self, Call, Verdict};

fn set_errno(errno: c_int) {
    // SAFETY: the pointer is this thread's errno.
    unsafe { *libc::__errno_location() = errno };
}

fn stat(fd: c_int) -> Option<libc::stat> {
    // SAFETY: all zero is a valid `stat`, and the call fills it.
    unsafe {
        let mut stat = std::mem::zeroed();
        (libc::fstat(fd, &mut stat) == 0).then_some(stat)
    }
}

/// The verdict on a call on an open file; `None` if it is none of ours.
fn judge(fd: c_int, call: Call) -> Option<(u64, Verdict)> {
    let saved = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let judged = disk::with(|disk| {
        let inode = stat(fd)?.st_ino;
        let machine = disk.machine_of(inode)?;
        Some((inode, disk.judge(machine, call)))
    });
    set_errno(saved);
    judged.flatten()
}

/// Gives a file that was changed the virtual time.
fn touch(fd: c_int) {
    let Some(now) = disk::with(|disk| disk.now) else {
        return;
    };
    let time = timespec {
        tv_sec: now.as_secs() as i64,
        tv_nsec: now.subsec_nanos().into(),
    };
    // SAFETY: a null path means the file itself; the array lives during the call.
    unsafe {
        libc::syscall(
            libc::SYS_utimensat,
            fd,
            std::ptr::null::<c_char>(),
            [time, time].as_ptr(),
            0,
        )
    };
}

unsafe fn write_at(fd: c_int, buf: *const c_void, len: size_t, offset: Option<off_t>) -> ssize_t {
    let real = |len: size_t| {
        // SAFETY: the caller's arguments.
        let n = unsafe {
            match offset {
                Some(offset) => libc::syscall(libc::SYS_pwrite64, fd, buf, len, offset),
                None => libc::syscall(libc::SYS_write, fd, buf, len),
            }
        };
        n as ssize_t
    };
    let (inode, len) = match judge(fd, Call::Write(len)) {
        None => return real(len),
        Some((_, Verdict::Fail(errno))) => {
            set_errno(errno);
            return -1;
        }
        Some((inode, Verdict::Pass)) => (inode, len),
        Some((inode, Verdict::Cut(len))) => (inode, len),
    };
    // SAFETY: asks for the position.
    let at = offset.unwrap_or_else(|| unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) });
    let n = real(len);
    if n > 0 {
        // SAFETY: the caller's buffer has at least `len` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), n as usize) };
        disk::with(|disk| disk.wrote(inode, at as u64, bytes));
        touch(fd);
    }
    n
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    unsafe { write_at(fd, buf, len, None) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, buf: *const c_void, len: size_t, offset: off_t) -> ssize_t {
    unsafe { write_at(fd, buf, len, Some(offset)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, buf: *const c_void, len: size_t, offset: off_t) -> ssize_t {
    unsafe { write_at(fd, buf, len, Some(offset)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate(fd: c_int, len: off_t) -> c_int {
    let judged = judge(fd, Call::Truncate);
    if let Some((_, Verdict::Fail(errno))) = judged {
        set_errno(errno);
        return -1;
    }
    // SAFETY: the caller's arguments.
    let result = unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) } as c_int;
    if let (0, Some((inode, _))) = (result, judged) {
        disk::with(|disk| disk.truncated(inode, len as u64));
        touch(fd);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: c_int, len: off_t) -> c_int {
    unsafe { ftruncate(fd, len) }
}

/// Syncs nothing for real: the disk knows what is durable.
fn sync(fd: c_int, number: c_long, all: bool) -> c_int {
    let folder = disk::with(|disk| disk.folder_of(stat(fd)?.st_ino)).flatten();
    let verdict = match folder {
        Some(machine) => disk::with(|disk| (0, disk.judge(machine, Call::Sync))),
        None => judge(fd, Call::Sync),
    };
    match (verdict, folder) {
        // SAFETY: the caller's argument.
        (None, _) => return unsafe { libc::syscall(number, fd) } as c_int,
        (Some((_, Verdict::Fail(errno))), _) => {
            set_errno(errno);
            return -1;
        }
        (_, Some(machine)) => {
            disk::with(|disk| disk.synced_folder(machine));
        }
        (Some((inode, _)), None) => {
            let time = stat(fd).map(|s| Duration::new(s.st_mtime as u64, s.st_mtime_nsec as u32));
            disk::with(|disk| disk.synced(inode, time.unwrap_or_default(), all));
        }
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fsync, true)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fdatasync, false)
}

unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: the caller's path is a string.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// The verdict on a call that changes the name `path`.
fn judge_name(path: &Path, call: Call) -> Option<(usize, String, Verdict)> {
    disk::with(|disk| {
        let (machine, name) = disk.locate(path)?;
        Some((machine, name, disk.judge(machine, call)))
    })
    .flatten()
}

/// Not variadic, as C declares it: the calling conventions of Linux on x86-64 and ARM64 make no difference.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's path.
    let name = unsafe { path_of(path) };
    let exists = flags & libc::O_CREAT != 0 && name.symlink_metadata().is_ok();
    let judged = match flags & libc::O_CREAT != 0 && !exists {
        true => judge_name(name, Call::Create),
        false => None,
    };
    if let Some((_, _, Verdict::Fail(errno))) = judged {
        set_errno(errno);
        return -1;
    }
    if flags & libc::O_TRUNC != 0 && exists {
        // Emptied by its own call, so that it can fail and is recorded.
        let fd = unsafe { open64(path, flags & !libc::O_TRUNC, mode) };
        if fd >= 0 && unsafe { ftruncate(fd, 0) } != 0 {
            let errno = std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO);
            // SAFETY: nobody else knows this descriptor.
            unsafe { libc::close(fd) };
            set_errno(errno);
            return -1;
        }
        return fd;
    }
    // SAFETY: the caller's arguments.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode as c_uint) } as c_int;
    if fd < 0 {
        return fd;
    }
    if let (Some((machine, name, _)), Some(stat)) = (judged, stat(fd)) {
        disk::with(|disk| disk.created(machine, name, stat.st_ino));
        touch(fd);
    }
    fd
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open64(path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's path.
    let name = unsafe { path_of(path) };
    let judged = match name.symlink_metadata() {
        Ok(_) => judge_name(name, Call::Unlink),
        Err(_) => None,
    };
    if let Some((_, _, Verdict::Fail(errno))) = judged {
        set_errno(errno);
        return -1;
    }
    // SAFETY: the caller's argument.
    let result = unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) } as c_int;
    if let (0, Some((machine, name, _))) = (result, judged) {
        disk::with(|disk| disk.unlinked(machine, name));
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's path.
    let judged = judge_name(unsafe { path_of(from) }, Call::Rename);
    if let Some((_, _, Verdict::Fail(errno))) = judged {
        set_errno(errno);
        return -1;
    }
    // SAFETY: the caller's arguments.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) } as c_int;
    if let (0, Some((machine, name, _))) = (result, judged) {
        // SAFETY: the caller's path.
        let to = disk::with(|disk| disk.locate(unsafe { path_of(to) })).flatten();
        let (_, to) = to.expect("a file leaves its machine");
        disk::with(|disk| disk.renamed(machine, name, to));
    }
    result
}

/// Time is virtual: who sleeps wakes up at once.
#[unsafe(no_mangle)]
unsafe extern "C" fn nanosleep(time: *const timespec, rest: *mut timespec) -> c_int {
    match disk::with(|_| ()) {
        Some(()) => 0,
        // SAFETY: the caller's arguments.
        None => unsafe { libc::syscall(libc::SYS_nanosleep, time, rest) as c_int },
    }
}

#[unsafe(no_mangle)]
extern "C" fn usleep(micros: c_uint) -> c_int {
    let time = timespec {
        tv_sec: (micros / 1_000_000).into(),
        tv_nsec: (micros % 1_000_000 * 1000).into(),
    };
    // SAFETY: `time` lives during the call; nobody wants to know the rest.
    unsafe { nanosleep(&time, std::ptr::null_mut()) }
}

/// Every look at the clock takes a microsecond, so that no two things happen at once.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut timespec) -> c_int {
    let now = disk::with(|disk| {
        disk.now += Duration::from_micros(1);
        disk.now
    });
    match now {
        Some(now) => {
            // SAFETY: the caller's memory.
            unsafe {
                *time = timespec {
                    tv_sec: now.as_secs() as i64,
                    tv_nsec: now.subsec_nanos().into(),
                };
            }
            0
        }
        // SAFETY: the caller's arguments.
        None => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int },
    }
}

/// Hash maps and identifiers get the chance of the seed.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buf: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    let filled = disk::with(|disk| {
        // SAFETY: the caller's buffer has `len` bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), len) };
        bytes.iter_mut().for_each(|byte| *byte = disk.chance.next() as u8);
        len as ssize_t
    });
    // SAFETY: the caller's arguments.
    filled.unwrap_or_else(|| unsafe { libc::syscall(libc::SYS_getrandom, buf, len, flags) } as ssize_t)
}

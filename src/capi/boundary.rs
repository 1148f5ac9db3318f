//! What every exported function is built from: the panic boundary, handles, strings, slices and outputs.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::types::{turso_slice_ref_t, turso_status_code_t};
use crate::error::{Error, Result};

/// Handles and strings that were handed out and not yet taken back.
static LIVE_OBJECTS: AtomicUsize = AtomicUsize::new(0);

/// Number of handles and strings that the caller still has to release.
pub(super) fn live_objects() -> usize {
    LIVE_OBJECTS.load(Ordering::Relaxed)
}

/// Runs `body`; a panic becomes an error.
pub(super) fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(payload)))
}

fn panicked(payload: Box<dyn Any + Send>) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    // Dropping a foreign payload could panic again; there is nothing to lose but a few bytes.
    std::mem::forget(payload);
    Error::internal(format!("panic inside turso-sync, please report it: {text}"))
}

thread_local! {
    /// The last error of this thread.
    static LAST_ERROR: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Shows the last error of this thread to `show`; `None` if the thread is about to end.
pub(super) fn with_last_error<T>(show: impl FnOnce(Option<&Error>) -> T) -> Option<T> {
    let shown = LAST_ERROR.try_with(|last| last.try_borrow().ok().map(|last| show(last.as_ref())));
    shown.ok().flatten()
}

/// Makes `error` the last one of this thread.
pub(super) fn remember(error: Error) {
    // A thread that is about to end does not ask any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(Some(error)));
}

/// Runs `body` and reports its error through `error_opt_out`, which may be NULL.
///
/// # Safety
/// `error_opt_out` is NULL or points to a writable pointer.
pub(super) unsafe fn status(
    error_opt_out: *mut *const c_char,
    body: impl FnOnce() -> Result<turso_status_code_t>,
) -> turso_status_code_t {
    match catch(body) {
        Ok(code) => code,
        Err(e) => {
            if let Some(out) = NonNull::new(error_opt_out) {
                // SAFETY: not NULL, hence writable by the contract of this function.
                unsafe { out.write(string_out(&e.message)) };
            }
            let code = e.code.into();
            remember(e);
            code
        }
    }
}

/// Runs `body`; `None`, an error and a panic become `fallback`.
pub(super) fn value<T>(fallback: T, body: impl FnOnce() -> Result<Option<T>>) -> T {
    catch(body).ok().flatten().unwrap_or(fallback)
}

/// A C type that the caller holds by pointer and owns alone, until it gives it back to the one function that
/// releases it.
pub(super) trait Handle: Sized + Send {
    /// Hands the object to the caller.
    fn hand_out(self) -> *mut Self {
        LIVE_OBJECTS.fetch_add(1, Ordering::Relaxed);
        Box::into_raw(Box::new(self))
    }

    /// The object behind a pointer that the caller keeps.
    ///
    /// # Safety
    /// `handle` is NULL or came from [`Handle::hand_out`] of the same type, was not taken back, and is not taken
    /// back while the reference is in use.
    unsafe fn borrow<'a>(handle: *const Self) -> Result<&'a Self> {
        // SAFETY: NULL or valid by the contract of this function.
        unsafe { handle.as_ref() }.ok_or_else(|| Error::misuse("got null pointer"))
    }

    /// Takes the object back; `None` for NULL.
    ///
    /// # Safety
    /// As for [`Handle::borrow`]; the caller does not use the pointer again.
    unsafe fn take_back(handle: *const Self) -> Option<Box<Self>> {
        let handle = NonNull::new(handle.cast_mut())?;
        LIVE_OBJECTS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: came from Box::into_raw in `hand_out` and is given back once.
        Some(unsafe { Box::from_raw(handle.as_ptr()) })
    }

    /// Takes the object back and drops it; NULL is fine, and a panic in a destructor stays inside.
    ///
    /// # Safety
    /// As for [`Handle::take_back`].
    unsafe fn release(handle: *const Self) {
        // SAFETY: the same contract.
        let object = unsafe { Self::take_back(handle) };
        // The error has nowhere to go: a deinit returns nothing.
        let _ = catch(|| {
            drop(object);
            Ok(())
        });
    }
}

/// Locks what one thread at a time may use; another thread's use is the caller's mistake.
pub(super) fn exclusive<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
        Err(TryLockError::WouldBlock) => Err(Error::misuse("concurrent use forbidden")),
    }
}

/// Where a result goes; checked before the work and written after it.
pub(super) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// `out` is NULL or writable until [`Out::put`].
    pub(super) unsafe fn new(out: *mut T) -> Result<Self> {
        let message = "output pointer must be not null";
        NonNull::new(out).map(Out).ok_or_else(|| Error::misuse(message))
    }

    /// Writes the result.
    pub(super) fn put(self, value: T) {
        // SAFETY: not NULL and writable, by the contract of `new`.
        unsafe { self.0.write(value) }
    }
}

/// A required string.
///
/// # Safety
/// `s` is NULL or zero-terminated and unchanged while the result is in use.
pub(super) unsafe fn string_in<'a>(s: *const c_char) -> Result<&'a str> {
    // SAFETY: the same contract.
    unsafe { optional_string_in(s) }?
        .ok_or_else(|| Error::misuse("expected zero terminated c string, got null pointer"))
}

/// A string that may be missing.
///
/// # Safety
/// As for [`string_in`].
pub(super) unsafe fn optional_string_in<'a>(s: *const c_char) -> Result<Option<&'a str>> {
    if s.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, hence zero-terminated by the contract.
    let bytes = unsafe { CStr::from_ptr(s) };
    let text = bytes
        .to_str()
        .map_err(|_| Error::misuse("expected a UTF-8 string"))?;
    Ok(Some(text))
}

/// A copy of `s` that the caller frees with `turso_str_deinit`; NUL bytes are shown as U+FFFD.
pub(super) fn string_out(s: &str) -> *const c_char {
    let Ok(owned) = CString::new(s.replace('\0', "\u{fffd}")) else {
        return ptr::null();
    };
    LIVE_OBJECTS.fetch_add(1, Ordering::Relaxed);
    owned.into_raw()
}

/// Frees a string of [`string_out`]; NULL is fine.
///
/// # Safety
/// `s` is NULL or came from [`string_out`], and is freed once.
pub(super) unsafe fn string_free(s: *const c_char) {
    if s.is_null() {
        return;
    }
    LIVE_OBJECTS.fetch_sub(1, Ordering::Relaxed);
    // SAFETY: came from CString::into_raw in `string_out`.
    drop(unsafe { CString::from_raw(s.cast_mut()) });
}

/// Items given as pointer and number; (NULL, 0) is empty.
///
/// # Safety
/// `items` is NULL or points to `count` items that stay unchanged while the result is in use.
pub(super) unsafe fn array_in<'a, T>(items: *const T, count: usize) -> Result<&'a [T]> {
    if count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Error::misuse("length is out of range"));
    }
    match (items.is_null(), count) {
        (true, 0) => Ok(&[]),
        (true, _) => Err(Error::misuse("got null pointer with a length")),
        // SAFETY: not NULL and of that length, by the contract.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(items, count) }),
    }
}

/// Bytes given as pointer and length; (NULL, 0) is empty.
///
/// # Safety
/// `data` is NULL or points to `len` bytes that stay unchanged while the result is in use.
pub(super) unsafe fn bytes_in<'a>(data: *const c_void, len: usize) -> Result<&'a [u8]> {
    // SAFETY: the same contract.
    unsafe { array_in(data.cast(), len) }
}

/// Bytes behind a slice structure whose own pointer must not be NULL, even if it is empty.
///
/// # Safety
/// `slice` is NULL or readable; its bytes as for [`bytes_in`].
pub(super) unsafe fn slice_in<'a>(slice: *const turso_slice_ref_t) -> Result<&'a [u8]> {
    // SAFETY: NULL or readable by the contract.
    let slice = unsafe { slice.as_ref() }.ok_or_else(|| Error::misuse("got null pointer"))?;
    if slice.ptr.is_null() {
        return Err(Error::misuse("slice pointer must be not null"));
    }
    // SAFETY: the same contract.
    unsafe { bytes_in(slice.ptr, slice.len) }
}

/// Pointer to `bytes` that is a real address even if there are none: some runtimes reject the dangling pointers
/// that Rust uses for empty slices.
pub(super) fn address_of(bytes: &[u8]) -> *const c_char {
    if bytes.is_empty() {
        c"".as_ptr()
    } else {
        bytes.as_ptr().cast()
    }
}

/// A slice that borrows from the library.
pub(super) fn slice_out(bytes: &[u8]) -> turso_slice_ref_t {
    turso_slice_ref_t {
        ptr: address_of(bytes).cast(),
        len: bytes.len(),
    }
}

/// The slice that says "there is none".
pub(super) fn no_slice() -> turso_slice_ref_t {
    turso_slice_ref_t {
        ptr: ptr::null(),
        len: 0,
    }
}

/// A C structure that may grow: its first field is its size in the caller's version of the header, and new fields are
/// only ever appended.
///
/// # Safety
/// The type is `repr(C)`, and its first field is `size: usize`.
pub(super) unsafe trait Versioned: Copy {
    /// The name in C, for messages.
    const NAME: &str;
}

/// No version of a structure is larger; whoever says so has not set `size`.
const MAX_STRUCTURE_SIZE: usize = 4096;

/// The size of the caller's version of a structure.
///
/// # Safety
/// At least the field `size` is readable.
unsafe fn callers_size<T: Versioned>(structure: NonNull<T>) -> Result<usize> {
    // SAFETY: the first field, by the contract of the trait, and readable by that of this function.
    let size = unsafe { structure.cast::<usize>().read() };
    let problem = match size {
        0 => "is not set",
        // The compiler rounds every structure up to its alignment: other sizes would cut a field.
        _ if size % align_of::<T>() != 0 || size > MAX_STRUCTURE_SIZE => "is not that of the structure",
        _ => return Ok(size),
    };
    Err(Error::misuse(format!("{}: size {problem}", T::NAME)))
}

/// A copy of a structure; `None` for NULL. What the caller's version does not have is zero; what this one does not
/// have must be zero, because it cannot be heeded.
///
/// # Safety
/// `structure` is NULL or readable in the size that it tells. Any bytes are a valid `T`: it has no enumerations.
pub(super) unsafe fn versioned_in<T: Versioned>(structure: *const T) -> Result<Option<T>> {
    let Some(structure) = NonNull::new(structure.cast_mut()) else {
        return Ok(None);
    };
    // SAFETY: the same contract.
    let size = unsafe { callers_size(structure) }?;
    let known = size.min(size_of::<T>());
    let bytes = structure.as_ptr().cast::<u8>();
    // SAFETY: inside the structure by the contract.
    let unknown = unsafe { std::slice::from_raw_parts(bytes.add(known), size - known) };
    if unknown.iter().any(|byte| *byte != 0) {
        let text = format!("{}: a setting is set that this library does not know", T::NAME);
        return Err(Error::misuse(text));
    }
    let mut copy = MaybeUninit::<T>::zeroed();
    // SAFETY: neither side is shorter than `known`; the rest stays zero, and any bytes are valid by the contract.
    Ok(Some(unsafe {
        ptr::copy_nonoverlapping(bytes, copy.as_mut_ptr().cast(), known);
        copy.assume_init()
    }))
}

/// Where a structure goes whose size the caller has set; checked before the work and written after it.
pub(super) struct VersionedOut<T> {
    structure: NonNull<T>,
    size: usize,
}

impl<T: Versioned> VersionedOut<T> {
    /// # Safety
    /// `out` is NULL or, in the size that it tells, writable until [`VersionedOut::put`].
    pub(super) unsafe fn new(out: *mut T) -> Result<Self> {
        let structure = NonNull::new(out);
        let structure = structure.ok_or_else(|| Error::misuse("output pointer must be not null"))?;
        // SAFETY: the same contract.
        let size = unsafe { callers_size(structure) }?;
        Ok(VersionedOut { structure, size })
    }

    /// Writes as much as the caller's version has room for, and zero where it has more. `size` stays as it is.
    pub(super) fn put(self, value: T) {
        const FIRST_FIELD: usize = size_of::<usize>();
        let known = self.size.min(size_of::<T>());
        let from = (&raw const value).cast::<u8>();
        let to = self.structure.as_ptr().cast::<u8>();
        // SAFETY: `size` bytes are writable by the contract of `new`, and `known` is neither above it nor above the size
        // of `value`; it is at least one field, because `size` is a positive multiple of the alignment.
        unsafe {
            ptr::copy_nonoverlapping(from.add(FIRST_FIELD), to.add(FIRST_FIELD), known - FIRST_FIELD);
            to.add(known).write_bytes(0, self.size - known);
        }
    }
}

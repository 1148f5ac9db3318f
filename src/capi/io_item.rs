//! `turso_sync_io_item_t`: one request to the host.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use super::boundary::{Handle, Out, catch, no_slice, slice_in, slice_out, status, value};
use super::sync_types::{
    turso_sync_io_full_read_request_t, turso_sync_io_full_write_request_t, turso_sync_io_http_header_t,
    turso_sync_io_http_request_t, turso_sync_io_request_type_t,
};
use super::types::{turso_slice_ref_t, turso_status_code_t};
use crate::error::{Error, Result};
use crate::io::{HttpRequest, IoItem, SyncEngineIoRequest, files};

/// A request that the host performs. It may be served in any thread; its functions may be called from several threads,
/// one after the other. Releasing an item that was neither done nor poisoned fails its operation.
pub struct turso_sync_io_item_t {
    /// The driver keeps the items that it shows to callbacks.
    pub(super) item: Arc<IoItem>,
}

impl Handle for turso_sync_io_item_t {}

impl turso_sync_io_item_t {
    pub(super) fn new(item: IoItem) -> Self {
        let item = Arc::new(item);
        turso_sync_io_item_t { item }
    }

    fn http(&self) -> Result<&HttpRequest> {
        match self.item.request() {
            SyncEngineIoRequest::Http(http) => Ok(http),
            _ => Err(wrong_kind()),
        }
    }
}

pub(super) fn wrong_kind() -> Error {
    Error::misuse("the request is of another kind")
}

/// Runs `body` on the item behind `handle`; there is no way to report a message.
///
/// # Safety
/// `handle` follows the pointer rules of the header.
pub(super) unsafe fn with(
    handle: *const turso_sync_io_item_t,
    body: impl FnOnce(&turso_sync_io_item_t) -> Result<()>,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the same contract.
        body(unsafe { turso_sync_io_item_t::borrow(handle) }?)?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// What the item asks for; NONE for NULL. A host that meets a kind it does not know poisons the item.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_request_kind(
    item: *const turso_sync_io_item_t,
) -> turso_sync_io_request_type_t {
    value(turso_sync_io_request_type_t::TURSO_SYNC_IO_NONE, || {
        // SAFETY: the pointer rules of the header.
        let item = unsafe { turso_sync_io_item_t::borrow(item) }?;
        Ok(Some(match item.item.request() {
            SyncEngineIoRequest::Http(_) => turso_sync_io_request_type_t::TURSO_SYNC_IO_HTTP,
            SyncEngineIoRequest::FullRead { .. } => turso_sync_io_request_type_t::TURSO_SYNC_IO_FULL_READ,
            SyncEngineIoRequest::FullWrite { .. } => turso_sync_io_request_type_t::TURSO_SYNC_IO_FULL_WRITE,
            SyncEngineIoRequest::Transform(_) => turso_sync_io_request_type_t::TURSO_SYNC_IO_TRANSFORM,
        }))
    })
}

/// The HTTP request. Errors: MISUSE for NULL, and if the item is of another kind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_request_http(
    item: *const turso_sync_io_item_t,
    request: *mut turso_sync_io_http_request_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let (out, http) = (unsafe { Out::new(request) }?, item.http()?);
        out.put(turso_sync_io_http_request_t {
            url: http
                .url
                .as_ref()
                .map_or(no_slice(), |url| slice_out(url.as_bytes())),
            method: slice_out(http.method.as_bytes()),
            path: slice_out(http.path.as_bytes()),
            body: if http.body.is_empty() {
                no_slice()
            } else {
                slice_out(&http.body)
            },
            headers: i32::try_from(http.headers.len()).unwrap_or(i32::MAX),
        });
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// Header `index` (from 0) of the HTTP request. Errors: MISUSE for NULL, another kind, and an index out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_request_http_header(
    item: *const turso_sync_io_item_t,
    index: usize,
    header: *mut turso_sync_io_http_header_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let (out, http) = (unsafe { Out::new(header) }?, item.http()?);
        let found = http.headers.get(index);
        let (key, value) = found.ok_or_else(|| Error::misuse("header index is out of range"))?;
        out.put(turso_sync_io_http_header_t {
            key: slice_out(key.as_bytes()),
            value: slice_out(value.as_bytes()),
        });
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// The file to read. Errors: MISUSE for NULL, and if the item is of another kind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_request_full_read(
    item: *const turso_sync_io_item_t,
    request: *mut turso_sync_io_full_read_request_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let out = unsafe { Out::new(request) }?;
        let SyncEngineIoRequest::FullRead { path } = item.item.request() else {
            return Err(wrong_kind());
        };
        out.put(turso_sync_io_full_read_request_t {
            path: slice_out(path.as_bytes()),
        });
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// The file to replace. Errors: MISUSE for NULL, and if the item is of another kind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_request_full_write(
    item: *const turso_sync_io_item_t,
    request: *mut turso_sync_io_full_write_request_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let out = unsafe { Out::new(request) }?;
        let SyncEngineIoRequest::FullWrite { path, content } = item.item.request() else {
            return Err(wrong_kind());
        };
        out.put(turso_sync_io_full_write_request_t {
            path: slice_out(path.as_bytes()),
            content: slice_out(content),
        });
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// Fails the request, and with it the operation; `message` says why (bytes that are not UTF-8 are replaced). No further
/// call is needed. Errors: MISUSE for NULL and for a slice whose pointer is NULL; the request is not failed then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_poison(
    item: *const turso_sync_io_item_t,
    message: *const turso_slice_ref_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let text = String::from_utf8_lossy(unsafe { slice_in(message) }?);
        item.item.poison(&text);
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// Reports the HTTP status, before the first piece of the body. Errors: MISUSE outside of 0 to 999, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_status(
    item: *const turso_sync_io_item_t,
    http_status: i32,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| match u16::try_from(http_status) {
        Ok(http_status @ 0..=999) => {
            item.item.status(http_status);
            Ok(())
        }
        _ => Err(Error::misuse("HTTP status is out of range")),
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// Reports a header of the HTTP answer, before turso_sync_database_io_done. Optional; `retry-after` in seconds is the one that
/// the library uses: it becomes `retry_after_ms` of the error. Not part of the SDK kit of Turso.
///
/// Errors: MISUSE for NULL and for slices whose pointer is NULL. Bytes that are not UTF-8 are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_header(
    item: *const turso_sync_io_item_t,
    name: *const turso_slice_ref_t,
    header_value: *const turso_slice_ref_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let (name, header_value) = unsafe { (slice_in(name)?, slice_in(header_value)?) };
        if let (Ok(name), Ok(text)) = (std::str::from_utf8(name), std::str::from_utf8(header_value)) {
            item.item.header(name, text);
        }
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// False once the library does not wait for the answer any more, because the operation was cancelled or the answer is wrong
/// already: a host may then stop its transfer. Also false for NULL. Not part of the SDK kit of Turso.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_is_wanted(item: *const turso_sync_io_item_t) -> bool {
    value(false, || {
        // SAFETY: the pointer rules of the header.
        Ok(Some(
            unsafe { turso_sync_io_item_t::borrow(item) }?.item.is_wanted(),
        ))
    })
}

/// Feeds the next piece of the answer, which is used before the call returns. Pieces that arrive after the library has
/// stopped waiting are ignored. Errors: MISUSE for NULL and for a slice whose pointer is NULL, even with length 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_push_buffer(
    item: *const turso_sync_io_item_t,
    buffer: *const turso_slice_ref_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let bytes = unsafe { slice_in(buffer) }?;
        let push = || {
            item.item.push_buffer(bytes);
            Ok(())
        };
        // A piece that was lost on the way must not become a short answer.
        catch(push).inspect_err(|e| item.item.poison(&e.message))
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// The answer is complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_done(
    item: *const turso_sync_io_item_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        item.item.done();
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// Performs a FULL_READ or FULL_WRITE item completely, as the request type demands, including done or poison; the host
/// only has to release the item. Not part of the SDK kit of Turso.
///
/// Errors: MISUSE for NULL and for an item that is not about a file, which is left as it is; IOERR, READONLY or DATABASE_FULL if the file
/// system fails, in which case the item is poisoned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_perform_file(
    item: *const turso_sync_io_item_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        files::perform(&unsafe { turso_sync_io_item_t::borrow(item) }?.item)?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Releases the item; NULL is fine. An item that was neither done nor poisoned is poisoned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_item_deinit(item: *const turso_sync_io_item_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_sync_io_item_t::release(item) }
}

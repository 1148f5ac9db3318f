//! Layouts, compared with the contract of the SDK kit (LP64); the boundary; what needs no database.

use std::ffi::{CStr, CString};
use std::mem::offset_of;
use std::ptr;
use std::sync::Mutex;

use super::boundary::{Handle, catch, exclusive, status, string_free, string_out, value};
use super::io_item::*;
use super::operation::*;
use super::setup::turso_version;
use super::sync_database::Origin;
use super::sync_types::*;
use super::types::*;
use crate::engine::DatabaseSyncEngineStats;
use crate::error::{Code, Error};
use crate::io::{HttpRequest, Operation, SyncEngineIo, SyncEngineIoQueue};

/// Offsets of all fields, and the size.
macro_rules! layout {
    ($type:ty, $size:expr, $($field:ident $offset:expr),+) => {
        assert_eq!(size_of::<$type>(), $size, stringify!($type));
        $(assert_eq!(offset_of!($type, $field), $offset, stringify!($type.$field));)+
    };
}

#[cfg(target_pointer_width = "64")]
#[test]
fn structures_have_the_layout_of_the_contract() {
    layout!(turso_slice_ref_t, 16, ptr 0, len 8);
    layout!(turso_config_t, 16, logger 0, log_level 8);
    layout!(turso_log_t, 48, message 0, target 8, file 16, timestamp 24, line 32, level 40);
    layout!(turso_database_config_t, 64, async_io 0, path 8, experimental_features 16, vfs 24,
        encryption_cipher 32, encryption_hexkey 40, page_codec 48, open_flags 56);
    layout!(turso_sync_database_config_t, 104, path 0, remote_url 8, client_name 16, long_poll_timeout_ms 24,
        bootstrap_if_empty 28, reserved_bytes 32, partial_bootstrap_strategy_prefix 36,
        partial_bootstrap_strategy_query 40, partial_bootstrap_segment_size 48, partial_bootstrap_prefetch 56,
        remote_encryption_key 64, remote_encryption_cipher 72, push_operations_threshold 80,
        pull_bytes_threshold 88, logical_mvcc_pull 96);
    layout!(turso_sync_io_http_request_t, 72, url 0, method 16, path 32, body 48, headers 64);
    layout!(turso_sync_io_http_header_t, 32, key 0, value 16);
    layout!(turso_sync_io_full_read_request_t, 16, path 0);
    layout!(turso_sync_io_full_write_request_t, 32, path 0, content 16);
    layout!(turso_sync_stats_t, 72, cdc_operations 0, main_wal_size 8, revert_wal_size 16, last_pull_unix_time 24,
        last_push_unix_time 32, network_sent_bytes 40, network_received_bytes 48, revision 56);
    layout!(turso_sync_driver_config_t, 40, size 0, auth_token 8, base_url 16, timeout_ms 24, deadline_ms 32);
}

#[test]
fn every_code_keeps_its_number() {
    for code in [
        Code::Busy,
        Code::Interrupt,
        Code::BusySnapshot,
        Code::Error,
        Code::Misuse,
        Code::Constraint,
        Code::Readonly,
        Code::DatabaseFull,
        Code::NotADb,
        Code::Corrupt,
        Code::IoErr,
    ] {
        assert_eq!(turso_status_code_t::from(code) as u32, code as u32);
    }
}

struct Bomb;
impl Handle for Bomb {}
impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("boom in drop");
    }
}

#[test]
fn no_panic_leaves() {
    let mut message = ptr::null();
    // SAFETY: `message` is writable.
    let code = unsafe { status(&mut message, || panic!("boom {}", 1)) };
    assert_eq!(code, turso_status_code_t::TURSO_ERROR);
    // SAFETY: a message was written; freed once.
    unsafe {
        assert!(CStr::from_ptr(message).to_str().unwrap().ends_with("boom 1"));
        string_free(message);
    }
    assert_eq!(value(7, || panic!("boom")), 7);
    // SAFETY: a handle of this type, released once.
    unsafe { Bomb::release(Bomb.hand_out()) };
}

#[test]
fn a_panic_while_dropping_a_panic_stays_inside() {
    let result = catch::<()>(|| std::panic::panic_any(Bomb));
    assert_eq!(result.unwrap_err().code, Code::Error);
}

#[test]
fn messages_with_nul_bytes_arrive() {
    let text = string_out("a\0b");
    // SAFETY: just made; freed once.
    unsafe {
        assert_eq!(
            CStr::from_ptr(text),
            CString::new("a\u{fffd}b").unwrap().as_c_str()
        );
        string_free(text);
    }
    // SAFETY: NULL is allowed.
    let code = unsafe { status(ptr::null_mut(), || Err(Error::misuse("x"))) };
    assert_eq!(code, turso_status_code_t::TURSO_MISUSE);
}

#[test]
fn the_version_is_that_of_the_package() {
    // SAFETY: a static string.
    let version = unsafe { CStr::from_ptr(turso_version()) };
    assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn use_from_two_places_is_refused() {
    let mutex = Mutex::new(());
    let held = exclusive(&mutex).unwrap();
    assert_eq!(exclusive(&mutex).unwrap_err().code, Code::Misuse);
    drop(held);
    assert!(exclusive(&mutex).is_ok());
}

#[test]
fn stats_can_be_extracted_again_until_something_else_is_asked_for() {
    let stats = DatabaseSyncEngineStats {
        cdc_operations: 3,
        revision: "r7".into(),
        ..DatabaseSyncEngineStats::default()
    };
    let op = turso_sync_operation_t::new(Work::Stats(Operation::new(async { Ok(stats) }))).hand_out();
    let mut out = std::mem::MaybeUninit::<turso_sync_stats_t>::zeroed();
    // SAFETY: a live handle, outputs that are writable or NULL.
    unsafe {
        let extract = turso_sync_operation_result_extract_stats;
        assert_eq!(extract(op, out.as_mut_ptr()), turso_status_code_t::TURSO_MISUSE);
        assert_eq!(
            turso_sync_operation_resume(op, ptr::null_mut()),
            turso_status_code_t::TURSO_DONE
        );
        assert_eq!(extract(op, ptr::null_mut()), turso_status_code_t::TURSO_MISUSE);
        for _ in 0..2 {
            assert_eq!(extract(op, out.as_mut_ptr()), turso_status_code_t::TURSO_OK);
        }
        let mut changes = ptr::null();
        let wrong = turso_sync_operation_result_extract_changes(op, &mut changes);
        assert_eq!(wrong, turso_status_code_t::TURSO_MISUSE);
        assert_eq!(extract(op, out.as_mut_ptr()), turso_status_code_t::TURSO_MISUSE);
        let none = turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_NONE;
        assert_eq!(turso_sync_operation_result_kind(op), none);
        let stats = out.assume_init();
        let revision = std::slice::from_raw_parts(stats.revision.ptr.cast::<u8>(), stats.revision.len);
        assert_eq!((stats.cdc_operations, revision), (3, b"r7".as_slice()));
        turso_sync_operation_deinit(op);
    }
}

#[test]
fn no_changes_are_a_result_once() {
    let op = turso_sync_operation_t::new(Work::Changes(
        Operation::new(async { Ok(None) }),
        Origin::default(),
    ))
    .hand_out();
    // SAFETY: a live handle and writable outputs.
    unsafe {
        turso_sync_operation_resume(op, ptr::null_mut());
        let kind = turso_sync_operation_result_type_t::TURSO_ASYNC_RESULT_CHANGES;
        assert_eq!(turso_sync_operation_result_kind(op), kind);
        let mut changes = ptr::dangling();
        let extract = turso_sync_operation_result_extract_changes;
        assert_eq!(extract(op, &mut changes), turso_status_code_t::TURSO_OK);
        assert!(changes.is_null());
        assert_eq!(extract(op, &mut changes), turso_status_code_t::TURSO_MISUSE);
        turso_sync_operation_deinit(op);
    }
}

#[test]
fn a_failure_keeps_its_code_behind_the_prefix() {
    let failed = Operation::new(async {
        Err(Error::new(
            crate::error::Category::Conflict,
            Code::Constraint,
            "c",
        ))
    });
    let op = turso_sync_operation_t::new(Work::Void(failed)).hand_out();
    for _ in 0..2 {
        let mut message = ptr::null();
        // SAFETY: a live handle and a writable output; the message is freed once.
        unsafe {
            let code = turso_sync_operation_resume(op, &mut message);
            assert_eq!(code, turso_status_code_t::TURSO_CONSTRAINT);
            assert_eq!(CStr::from_ptr(message), c"sync engine operation failed: c");
            string_free(message);
        }
    }
    // SAFETY: released once.
    unsafe { turso_sync_operation_deinit(op) };
}

#[test]
fn a_panic_while_a_piece_is_used_fails_the_request() {
    let queue = SyncEngineIoQueue::default();
    let request = HttpRequest {
        url: None,
        method: "POST",
        path: "/".into(),
        headers: vec![],
        body: vec![],
    };
    let io = queue.clone();
    let sink = Box::new(|_: &[u8]| panic!("boom in sink"));
    let mut op = Operation::new(async move { io.http(request, Some(sink)).await });
    op.resume().unwrap();
    let item = turso_sync_io_item_t::new(queue.take_item().unwrap()).hand_out();
    let piece = turso_slice_ref_t {
        ptr: b"x".as_ptr().cast(),
        len: 1,
    };
    // SAFETY: a live handle, a readable slice; released once.
    unsafe {
        turso_sync_database_io_status(item, 200);
        assert_eq!(
            turso_sync_database_io_push_buffer(item, &piece),
            turso_status_code_t::TURSO_ERROR
        );
        turso_sync_database_io_done(item);
        turso_sync_database_io_item_deinit(item);
    }
    assert!(op.resume().unwrap_err().message.contains("boom in sink"));
}

//! Layouts, compared with the contract of the SDK kit (LP64); the boundary; what needs no database.

use std::ffi::{CStr, CString};
use std::mem::offset_of;
use std::ptr;

use super::boundary::{Handle, catch, status, string_free, string_out, value};
use super::setup::turso_version;
use super::sync_types::*;
use super::types::*;
use crate::error::{Code, Error};

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

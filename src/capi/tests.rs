//! Layouts, compared with the contract of the SDK kit (LP64); the boundary; what needs no database.

use std::ffi::{CStr, CString, c_char};
use std::mem::offset_of;
use std::ptr;
use std::sync::Mutex;

use super::boundary::{
    Handle, Versioned, VersionedOut, catch, exclusive, status, string_free, string_out, value, versioned_in,
};
use super::conflict_types::*;
use super::conflicts::*;
#[cfg(feature = "driver")]
use super::driver_config;
use super::io_item::*;
use super::keeper::*;
use super::operation::*;
use super::options;
use super::setup::turso_version;
use super::sync_database::Origin;
use super::sync_types::*;
use super::transform::*;
use super::types::*;
use crate::engine::ProtocolVersion;
use crate::engine::{
    Conflict, ConflictKind, ConflictOperation, ConflictPolicy, ConflictState, DatabaseSyncEngineOpts,
    DatabaseSyncEngineStats, Resolution,
};
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
    layout!(turso_sync_driver_config_t, 96, size 0, auth_token 8, base_url 16, timeout_ms 24, deadline_ms 32,
        auth_token_callback 40, auth_token_context 48, proxy 56, ca_file 64, attempts 72,
        transform_callback 80, transform_context 88);
    layout!(turso_sync_keep_options_t, 48, size 0, debounce_ms 8, interval_ms 16, longest_pause_ms 24, on_change 32,
        on_change_context 40);
    layout!(turso_sync_keeper_status_t, 48, size 0, state 8, code 12, pushes 16, pulls 24, failures 32, retry_in_ms 40);
    layout!(turso_sync_options_t, 56, size 0, conflict_policy 8, tables_ignore 16, tables_ignore_count 24,
        wal_pull_batch_size 32, use_transform 40,
        foreign_policy 44, protocol_version_hint 48, adopt_database 52);
    layout!(turso_sync_conflict_t, 120, size 0, id 8, change_id 16, state 24, kind 28, operation 32, sqlite_code 36,
        changes 40, unix_time 48, table 56, key 72, constraint 88, message 104);
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

// ----------------------------------------------------------------------------------------- structures that may grow

/// A structure in one of its versions.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Growing {
    size: usize,
    number: u32,
    pointer: *const c_char,
    count: usize,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for Growing {
    const NAME: &str = "Growing";
}

const KNOWN: usize = size_of::<Growing>();

/// The options as a caller passes them whose version of the structure has `words` words, the first of which is `size`.
fn read_words(words: &[usize]) -> crate::error::Result<Growing> {
    // SAFETY: the tests never tell a size that is larger than `words` unless it is refused.
    unsafe { versioned_in(words.as_ptr().cast::<Growing>()) }.map(Option::unwrap)
}

#[cfg(target_pointer_width = "64")]
#[test]
fn structures_of_other_versions_are_read() {
    // SAFETY: NULL is allowed.
    assert!(unsafe { versioned_in::<Growing>(ptr::null()) }.unwrap().is_none());
    let names = ptr::dangling::<usize>() as usize;
    for size in (8..=KNOWN).step_by(8) {
        let all = [size, 2, names, 5];
        let read = read_words(&all[..size / 8]).unwrap();
        let field = |i: usize| if i * 8 < size { all[i] } else { 0 };
        let found = (read.number as usize, read.pointer as usize, read.count);
        assert_eq!(found, (field(1), field(2), field(3)), "{size}");
    }
    assert_eq!(read_words(&[KNOWN + 16, 1, 0, 0, 0, 0]).unwrap().number, 1);
    for tail in [[1, 0], [0, 1 << 63]] {
        let e = read_words(&[KNOWN + 16, 1, 0, 0, tail[0], tail[1]]).unwrap_err();
        assert_eq!(e.code, Code::Misuse);
        assert!(e.message.contains("does not know"), "{}", e.message);
    }
}

#[test]
fn impossible_sizes_are_refused() {
    for size in [0, 1, KNOWN - 1, KNOWN + 1, 4096 + 8, usize::MAX, usize::MAX - 7] {
        let e = read_words(&[size, 0, 0, 0]).unwrap_err();
        assert_eq!(e.code, Code::Misuse, "{size}");
        assert!(e.message.starts_with("Growing: size is not"), "{}", e.message);
    }
}

#[cfg(target_pointer_width = "64")]
#[test]
fn structures_of_other_versions_are_written() {
    let value = Growing {
        size: 99,
        number: u32::MAX,
        pointer: ptr::without_provenance(7),
        count: 8,
    };
    for words in 1..=6 {
        let mut place = [usize::MAX; 6];
        place[0] = words * 8;
        // SAFETY: as large as it tells.
        unsafe { VersionedOut::new(place.as_mut_ptr().cast::<Growing>()) }
            .unwrap()
            .put(value);
        let mut expected = [words * 8, 0, 7, 8, 0, 0];
        expected[words..].fill(usize::MAX);
        // The upper half of the second word is padding.
        place[1] |= usize::MAX << 32;
        expected[1] = usize::MAX;
        assert_eq!(place, expected);
    }
}

// ------------------------------------------------------------------------------------------------ options, conflicts

/// Reads a replica's configuration with `options`.
fn read_options(options: &turso_sync_options_t) -> crate::error::Result<DatabaseSyncEngineOpts> {
    // SAFETY: zero is valid for numbers, flags and pointers.
    let mut config = unsafe { std::mem::zeroed::<turso_sync_database_config_t>() };
    config.path = c"path".as_ptr();
    config.client_name = c"name".as_ptr();
    // SAFETY: both are readable, with strings that are static.
    unsafe { options::read(&config, options) }
}

fn no_options() -> turso_sync_options_t {
    // SAFETY: zero is valid for numbers and pointers.
    let none = unsafe { std::mem::zeroed::<turso_sync_options_t>() };
    turso_sync_options_t {
        size: size_of::<turso_sync_options_t>(),
        ..none
    }
}

#[test]
fn every_field_of_the_configuration_arrives() {
    // SAFETY: zero is valid for numbers, flags and pointers.
    let mut config = unsafe { std::mem::zeroed::<turso_sync_database_config_t>() };
    config.path = c"path".as_ptr();
    config.client_name = c"name".as_ptr();
    // SAFETY: readable, with strings that are static.
    let read = |config: &_| unsafe { options::read(config, ptr::null()) }.unwrap();
    assert_eq!(read(&config).remote_url, None);
    config.remote_url = c"https://h".as_ptr();
    config.long_poll_timeout_ms = 3;
    config.bootstrap_if_empty = true;
    config.reserved_bytes = 32;
    config.partial_bootstrap_strategy_query = c"SELECT 1".as_ptr();
    config.remote_encryption_key = c"a2V5".as_ptr();
    config.remote_encryption_cipher = c"aegis128l".as_ptr();
    config.push_operations_threshold = 4;
    config.pull_bytes_threshold = 5;
    let found = read(&config);
    assert_eq!(
        (found.path.as_str(), found.client_name.as_str()),
        ("path", "name")
    );
    assert_eq!(found.remote_url.as_deref(), Some("https://h"));
    assert_eq!(found.long_poll_timeout_ms, 3);
    assert!(found.bootstrap_if_empty);
    assert_eq!(found.reserved_bytes, 32);
    assert_eq!(found.partial_query.as_deref(), Some("SELECT 1"));
    assert_eq!(found.remote_encryption_key.as_deref(), Some("a2V5"));
    assert_eq!(found.remote_encryption_cipher.as_deref(), Some("aegis128l"));
    assert_eq!(
        (found.push_operations_threshold, found.pull_bytes_threshold),
        (4, 5)
    );
    config.partial_bootstrap_strategy_prefix = 6;
    assert_eq!(read(&config).partial_prefix_bytes, 6);
}

#[test]
fn options_arrive() {
    let names = [c"one".as_ptr(), c"two, three".as_ptr()];
    let options = turso_sync_options_t {
        conflict_policy: 2,
        tables_ignore: names.as_ptr(),
        tables_ignore_count: names.len(),
        wal_pull_batch_size: 7,
        use_transform: 1,
        protocol_version_hint: 2,
        ..no_options()
    };
    let read = read_options(&options).unwrap();
    assert_eq!(read.protocol_version_hint, ProtocolVersion::Direct);
    assert_eq!(read.wal_pull_batch_size, 7);
    assert!(read.use_transform);
    assert_eq!(read.conflict_policy, ConflictPolicy::SetAside);
    assert_eq!(read.tables_ignore, ["one", "two, three"]);
    let read = read_options(&no_options()).unwrap();
    assert_eq!(read.conflict_policy, ConflictPolicy::Stop);
    assert!(read.tables_ignore.is_empty() && !read.use_transform);
    assert_eq!(read.protocol_version_hint, ProtocolVersion::Auto);
    for (number, version) in [(0, ProtocolVersion::Auto), (1, ProtocolVersion::Compatible)] {
        let options = turso_sync_options_t {
            protocol_version_hint: number,
            ..no_options()
        };
        assert_eq!(read_options(&options).unwrap().protocol_version_hint, version);
    }
}

#[test]
fn numbers_of_policies_and_resolutions() {
    let policy = turso_sync_conflict_policy_t::read;
    assert_eq!(policy(0), Ok(ConflictPolicy::Stop));
    assert_eq!(policy(1), Ok(ConflictPolicy::Overwrite));
    assert_eq!(policy(2), Ok(ConflictPolicy::SetAside));
    let resolution = turso_sync_conflict_resolution_t::read;
    assert_eq!(resolution(1), Ok(Resolution::Retry));
    assert_eq!(resolution(2), Ok(Resolution::Overwrite));
    assert_eq!(resolution(3), Ok(Resolution::SetAside));
    assert_eq!(resolution(4), Ok(Resolution::Drop));
    for number in [3, u32::MAX] {
        assert_eq!(policy(number).unwrap_err().code, Code::Misuse);
    }
    for number in [0, 5, u32::MAX] {
        assert_eq!(resolution(number).unwrap_err().code, Code::Misuse);
    }
}

fn conflict() -> Conflict {
    Conflict {
        txn_id: 41,
        change_id: 42,
        state: ConflictState::SetAside,
        kind: ConflictKind::Unique,
        table: "users".into(),
        operation: ConflictOperation::Update,
        key: "{\"id\":5}".into(),
        constraint: "users.email".into(),
        sqlite_code: Some(2067),
        message: "UNIQUE constraint failed: users.email".into(),
        changes: u64::MAX,
        unix_time: 1_700_000_000,
    }
}

fn text_of(slice: turso_slice_ref_t) -> &'static str {
    assert!(!slice.ptr.is_null());
    // SAFETY: the tests release the list after the last use.
    std::str::from_utf8(unsafe { std::slice::from_raw_parts(slice.ptr.cast(), slice.len) }).unwrap()
}

#[test]
fn a_list_tells_everything_about_its_conflicts() {
    let bare = Conflict {
        key: String::new(),
        sqlite_code: None,
        changes: 0,
        ..conflict()
    };
    let list = turso_sync_conflicts_t::new(vec![conflict(), bare]).hand_out();
    let mut place = std::mem::MaybeUninit::<turso_sync_conflict_t>::zeroed();
    let out = place.as_mut_ptr();
    // SAFETY: a live handle, released once; `out` is written by the first call.
    unsafe {
        assert_eq!(turso_sync_conflicts_count(list), 2);
        assert_eq!(
            turso_sync_conflicts_get(list, 0, out),
            turso_status_code_t::TURSO_MISUSE
        );
        (*out).size = size_of::<turso_sync_conflict_t>();
        assert_eq!(
            turso_sync_conflicts_get(list, 2, out),
            turso_status_code_t::TURSO_MISUSE
        );
        assert_eq!(
            turso_sync_conflicts_get(list, 0, out),
            turso_status_code_t::TURSO_OK
        );
        let first = *out;
        assert_eq!((first.id, first.change_id, first.sqlite_code), (41, 42, 2067));
        assert_eq!((first.changes, first.unix_time), (i64::MAX, 1_700_000_000));
        assert_eq!(
            first.state,
            turso_sync_conflict_state_t::TURSO_SYNC_CONFLICT_STATE_SET_ASIDE
        );
        assert_eq!(
            first.kind,
            turso_sync_conflict_kind_t::TURSO_SYNC_CONFLICT_KIND_UNIQUE
        );
        let update = turso_sync_conflict_operation_t::TURSO_SYNC_CONFLICT_OPERATION_UPDATE;
        assert_eq!(first.operation, update);
        assert_eq!(
            (text_of(first.table), text_of(first.key)),
            ("users", "{\"id\":5}")
        );
        let message = "UNIQUE constraint failed: users.email";
        assert_eq!(
            (text_of(first.constraint), text_of(first.message)),
            ("users.email", message)
        );
        assert_eq!(
            turso_sync_conflicts_get(list, 1, out),
            turso_status_code_t::TURSO_OK
        );
        assert_eq!(
            ((*out).sqlite_code, (*out).changes, text_of((*out).key)),
            (0, 0, "")
        );
        turso_sync_conflicts_deinit(list);
    }
}

/// Counts in the context, and skips what the item asks about.
#[cfg(feature = "driver")]
unsafe extern "C" fn skip_all(context: *mut std::ffi::c_void, item: *const turso_sync_io_item_t) {
    // SAFETY: the context is a counter, and the item is valid until this returns.
    unsafe {
        *context.cast::<usize>() += 1;
        for index in 0..turso_sync_database_io_transform_count(item) {
            turso_sync_database_io_transform_skip(item, index);
        }
    }
}

#[cfg(feature = "driver")]
#[test]
fn the_driver_shows_the_callback_an_item() {
    use crate::transform::{DatabaseChangeType, DatabaseRowMutation, DatabaseRowTransformResult};
    let mut calls = 0usize;
    // SAFETY: zero is valid for numbers and pointers.
    let mut config = unsafe { std::mem::zeroed::<turso_sync_driver_config_t>() };
    config.size = size_of::<turso_sync_driver_config_t>();
    // SAFETY: a structure of this version.
    assert!(
        unsafe { driver_config::read(&config, 0) }
            .unwrap()
            .transform
            .is_none()
    );
    config.transform_callback = Some(skip_all);
    config.transform_context = (&raw mut calls).cast();
    // SAFETY: as above.
    let read = unsafe { driver_config::read(&config, 0) }.unwrap();
    let queue = SyncEngineIoQueue::default();
    let mutation = DatabaseRowMutation {
        change_id: 1,
        txn_id: 1,
        change_time: 0,
        change_type: DatabaseChangeType::Delete,
        table_name: "t".into(),
        id: 1,
        columns: ["x".to_owned()].into(),
        key: [].into(),
        before: None,
        after: None,
        updates: None,
    };
    let pending = queue.transform(vec![mutation.clone(), mutation]);
    let item = std::sync::Arc::new(queue.take_item().unwrap());
    (read.transform.unwrap())(&item).unwrap();
    item.done();
    let mut op = Operation::new(async move { Ok(pending.await?.decisions) });
    op.resume().unwrap();
    assert_eq!(
        op.take_result().unwrap(),
        [DatabaseRowTransformResult::Skip, DatabaseRowTransformResult::Skip]
    );
    assert_eq!(calls, 1);
}

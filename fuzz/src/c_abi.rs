//! The C ABI: calls that the header allows, in any order, with handles that are live, have ended, or are NULL.
//!
//! What a correct caller may not do is left out: using a handle after its release, or wild pointers.

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;

use turso_sync::capi::binding::*;
use turso_sync::capi::changes::*;
use turso_sync::capi::conflict_types::*;
use turso_sync::capi::conflicts::*;
use turso_sync::capi::connection::*;
use turso_sync::capi::database::*;
use turso_sync::capi::io_item::*;
use turso_sync::capi::operation::*;
use turso_sync::capi::row::*;
use turso_sync::capi::setup::*;
use turso_sync::capi::statement::*;
use turso_sync::capi::sync_database::*;
use turso_sync::capi::sync_types::*;
use turso_sync::capi::types::turso_status_code_t::*;
use turso_sync::capi::types::*;
use turso_sync::server::LocalServer;

use super::input::Input;
use super::pages::{folder, image};

const SQL: [&CStr; 26] = [
    c"CREATE TABLE IF NOT EXISTS n (id INTEGER PRIMARY KEY, v UNIQUE)",
    c"INSERT INTO n (v) VALUES (?)",
    c"INSERT OR REPLACE INTO n VALUES (:id, @v)",
    c"INSERT INTO t (b, c) VALUES ($b, ?2)",
    c"UPDATE t SET b = b || 'x', c = ?1 WHERE a <= ?2",
    c"UPDATE n SET id = id + 1 WHERE id = (SELECT max(id) FROM n)",
    c"DELETE FROM t WHERE a = ?",
    c"DELETE FROM n",
    c"SELECT * FROM t",
    c"SELECT id, v, typeof(v), 1.5, x'00ff', NULL FROM n",
    c"SELECT ?1, ?2, ?3",
    c"SELECT * FROM turso_cdc",
    c"BEGIN",
    c"COMMIT",
    c"ROLLBACK",
    c"SAVEPOINT s",
    c"RELEASE s",
    c"ROLLBACK TO s",
    c"ALTER TABLE n ADD COLUMN w",
    c"DROP TABLE n",
    c"CREATE TRIGGER tr AFTER INSERT ON n BEGIN UPDATE t SET c = new.id WHERE a = 1; END",
    c"SELECT 1; SELECT 2",
    c" -- nothing\n",
    c"SELEKT",
    c"PRAGMA journal_mode = DELETE",
    c"PRAGMA user_version = 7",
];

/// Live handles by type.
struct World {
    server: LocalServer,
    folder: tempfile::TempDir,
    databases: Vec<*const turso_database_t>,
    replicas: Vec<*const turso_sync_database_t>,
    connections: Vec<*const turso_connection_t>,
    statements: Vec<*const turso_statement_t>,
    operations: Vec<*const turso_sync_operation_t>,
    items: Vec<*const turso_sync_io_item_t>,
    changes: Vec<*const turso_sync_changes_t>,
    conflicts: Vec<*const turso_sync_conflicts_t>,
}

/// A sequence of calls. Afterwards nothing is left over.
pub fn c_abi(data: &[u8]) {
    let folder = folder();
    let remote = folder.path().join("remote.db");
    std::fs::write(&remote, image()).expect("a remote database");
    let mut world = World {
        server: LocalServer::open(&remote).expect("a server"),
        folder,
        databases: Vec::new(),
        replicas: Vec::new(),
        connections: Vec::new(),
        statements: Vec::new(),
        operations: Vec::new(),
        items: Vec::new(),
        changes: Vec::new(),
        conflicts: Vec::new(),
    };
    let mut input = Input::new(data);
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        // SAFETY: every pointer is NULL, or a handle that was handed out and not yet released.
        unsafe { world.call(&mut input) };
    }
    // SAFETY: as above; each handle is released once.
    unsafe { world.release() };
    assert_eq!(turso_live_objects(), 0);
}

/// Runs a function that reports errors: a message if, and only if, it has failed.
fn reported(function: impl FnOnce(*mut *const c_char) -> turso_status_code_t) -> turso_status_code_t {
    let mut message: *const c_char = ptr::null();
    let status = function(&mut message);
    let good = matches!(status, TURSO_OK | TURSO_DONE | TURSO_ROW | TURSO_IO);
    assert_eq!(good, message.is_null(), "{status:?}");
    if !good {
        // SAFETY: a message of the library, released once.
        unsafe {
            let text = CStr::from_ptr(message).to_str().expect("UTF-8");
            assert!(!text.is_empty() && !text.contains("panic"), "{text}");
            turso_str_deinit(message);
        }
    }
    status
}

fn live<T>(handles: &[*const T], input: &mut Input<'_>) -> *const T {
    match (input.u8(), handles.len()) {
        (255, _) | (_, 0) => ptr::null(),
        (n, len) => handles[usize::from(n) % len],
    }
}

fn taken<T>(handles: &mut Vec<*const T>, input: &mut Input<'_>) -> *const T {
    match (input.u8(), handles.len()) {
        (255, _) | (_, 0) => ptr::null(),
        (n, len) => handles.swap_remove(usize::from(n) % len),
    }
}

fn keep<T>(handles: &mut Vec<*const T>, handle: *const T) {
    if !handle.is_null() {
        handles.push(handle);
    }
}

fn slice(bytes: &[u8]) -> turso_slice_ref_t {
    turso_slice_ref_t {
        ptr: bytes.as_ptr().cast(),
        len: bytes.len(),
    }
}

/// Reads all of a slice that the library handed out.
unsafe fn read(slice: turso_slice_ref_t) -> Vec<u8> {
    match slice.ptr.is_null() {
        true => Vec::new(),
        // SAFETY: the library says that these bytes are there.
        false => unsafe { std::slice::from_raw_parts(slice.ptr.cast::<u8>(), slice.len) }.to_vec(),
    }
}

unsafe fn free_string(text: *const c_char) {
    if !text.is_null() {
        // SAFETY: a string of the library, released once.
        unsafe {
            CStr::from_ptr(text).to_str().expect("UTF-8");
            turso_str_deinit(text);
        }
    }
}

// SAFETY of all blocks below: pointers are NULL, or live handles, or point to variables that live longer than the call.
impl World {
    unsafe fn call(&mut self, input: &mut Input<'_>) {
        unsafe {
            match input.u8() % 24 {
                0 => self.new_database(input),
                1 => self.new_replica(input),
                2 => {
                    let database = live(&self.databases, input);
                    reported(|e| turso_database_open(database, e));
                    let mut connection = ptr::null_mut();
                    reported(|e| turso_database_connect(database, &mut connection, e));
                    turso_connection_set_busy_timeout_ms(connection, 1);
                    keep(&mut self.connections, connection);
                }
                3..=6 => self.begin_operation(input),
                7..=9 => self.resume(input),
                10 => self.extract(input),
                11 => self.take_item(input),
                12..=14 => self.serve(input),
                15 | 16 => self.prepare(input),
                17 | 18 => self.bind(input),
                19 | 20 => self.step(input),
                21 => self.row(input),
                22 => self.connection(input),
                _ => self.release_one(input),
            }
        }
    }

    fn path(&self, name: &str) -> CString {
        let path = self.folder.path().join(name);
        CString::new(path.to_str().expect("UTF-8")).expect("no NUL")
    }

    unsafe fn new_database(&mut self, input: &mut Input<'_>) {
        let path = match input.u8() % 4 {
            0 => self.path("r.db"),
            1 => c":memory:".to_owned(),
            2 => CString::new(
                input
                    .bytes()
                    .split(|b| *b == 0 || *b == b'/')
                    .next()
                    .unwrap_or_default(),
            )
            .expect("no NUL"),
            _ => self.path("p.db"),
        };
        unsafe {
            let mut config: turso_database_config_t = std::mem::zeroed();
            config.path = path.as_ptr();
            config.open_flags = input.u8().into();
            if path.is_empty() || (!path.as_bytes().starts_with(b"/") && path.as_bytes() != b":memory:") {
                // No file outside of the folder.
                config.vfs = c"memory".as_ptr();
            }
            let config = if input.u8() == 255 {
                ptr::null()
            } else {
                &raw const config
            };
            let mut database = ptr::null();
            reported(|e| turso_database_new(config, &mut database, e));
            keep(&mut self.databases, database);
        }
    }

    unsafe fn new_replica(&mut self, input: &mut Input<'_>) {
        let path = self.path(["r.db", "r.db", "s.db"][usize::from(input.u8() % 3)]);
        let ignored = [c"t".as_ptr(), c"n".as_ptr()];
        unsafe {
            let mut local: turso_database_config_t = std::mem::zeroed();
            local.path = path.as_ptr();
            let mut config: turso_sync_database_config_t = std::mem::zeroed();
            config.path = path.as_ptr();
            config.client_name = c"fuzz".as_ptr();
            config.remote_url = c"http://localhost".as_ptr();
            config.bootstrap_if_empty = !input.one_in(4);
            config.pull_bytes_threshold = usize::from(input.one_in(4)) * 4096;
            config.push_operations_threshold = usize::from(input.u8() % 3);
            if input.one_in(32) {
                config.reserved_bytes = input.u32() as i32;
                config.long_poll_timeout_ms = input.u32() as i32;
            }
            let mut options: turso_sync_options_t = std::mem::zeroed();
            options.size = match input.u8() {
                255 => input.number() as usize % 40,
                _ => size_of::<turso_sync_options_t>(),
            };
            options.conflict_policy = u32::from(input.u8() % 4);
            options.tables_ignore = ignored.as_ptr();
            options.tables_ignore_count = usize::from(input.u8()) / 100;
            let options = if input.one_in(3) {
                ptr::null()
            } else {
                &raw const options
            };
            let mut replica = ptr::null();
            reported(|e| turso_sync_database_new_with_options(&local, &config, options, &mut replica, e));
            keep(&mut self.replicas, replica);
        }
    }

    unsafe fn begin_operation(&mut self, input: &mut Input<'_>) {
        let replica = live(&self.replicas, input);
        let mut operation = ptr::null();
        let out = &raw mut operation;
        let kind = input.u8() % 12;
        unsafe {
            reported(|e| match kind {
                0 | 1 => turso_sync_database_create(replica, out, e),
                2 | 3 => turso_sync_database_connect(replica, out, e),
                4 => turso_sync_database_open(replica, out, e),
                5 => turso_sync_database_stats(replica, out, e),
                6 => turso_sync_database_checkpoint(replica, out, e),
                7 | 8 => turso_sync_database_push_changes(replica, out, e),
                9 => turso_sync_database_wait_changes(replica, out, e),
                10 => {
                    let changes = taken(&mut self.changes, input);
                    turso_sync_database_apply_changes(replica, changes, out, e)
                }
                _ => {
                    let (id, resolution) = (i64::from(input.u8()), u32::from(input.u8() % 6));
                    turso_sync_database_resolve_conflict(replica, id, resolution, out, e)
                }
            });
            keep(&mut self.operations, operation);
            if kind == 11 {
                let mut conflicts = ptr::null();
                reported(|e| turso_sync_database_conflicts(replica, &mut conflicts, e));
                keep(&mut self.conflicts, conflicts);
            }
        }
    }

    /// Resumes an operation; unless a transaction is open, for which it would wait in vain.
    unsafe fn resume(&mut self, input: &mut Input<'_>) {
        unsafe {
            for connection in &self.connections {
                if !turso_connection_get_autocommit(*connection) {
                    return;
                }
            }
            let operation = live(&self.operations, input);
            let rounds = input.u8() % 8;
            for _ in 0..rounds {
                let status = reported(|e| turso_sync_operation_resume(operation, e));
                if status != TURSO_IO {
                    let again = reported(|e| turso_sync_operation_resume(operation, e));
                    assert_eq!(status, again, "an operation that has ended repeats its answer");
                    break;
                }
                self.take_item(&mut Input::new(&[0]));
                self.serve(&mut Input::new(&[0, 0]));
            }
        }
    }

    unsafe fn extract(&mut self, input: &mut Input<'_>) {
        let operation = live(&self.operations, input);
        unsafe {
            let kind = match input.u8() {
                255 => input.u8() % 4,
                _ => turso_sync_operation_result_kind(operation) as u8,
            };
            match kind {
                1 => {
                    let mut connection = ptr::null();
                    turso_sync_operation_result_extract_connection(operation, &mut connection);
                    turso_connection_set_busy_timeout_ms(connection, 1);
                    keep(&mut self.connections, connection);
                }
                2 => {
                    let mut changes = ptr::null();
                    turso_sync_operation_result_extract_changes(operation, &mut changes);
                    keep(&mut self.changes, changes);
                }
                _ => {
                    let mut stats: turso_sync_stats_t = std::mem::zeroed();
                    turso_sync_operation_result_extract_stats(operation, &mut stats);
                    read(stats.revision);
                }
            }
        }
    }

    unsafe fn take_item(&mut self, input: &mut Input<'_>) {
        let replicas = match input.u8() {
            0 => self.replicas.clone(),
            _ => vec![live(&self.replicas, input)],
        };
        for replica in replicas {
            let mut item = ptr::null();
            unsafe {
                reported(|e| turso_sync_database_io_take_item(replica, &mut item, e));
                reported(|e| turso_sync_database_io_step_callbacks(replica, e));
            }
            keep(&mut self.items, item);
        }
    }

    /// Serves an item well or badly.
    unsafe fn serve(&mut self, input: &mut Input<'_>) {
        let item = taken(&mut self.items, input);
        let manner = input.u8();
        unsafe {
            if turso_sync_database_io_request_kind(item) != turso_sync_io_request_type_t::TURSO_SYNC_IO_HTTP {
                self.serve_file(item, manner, input);
            } else {
                self.serve_http(item, manner, input);
            }
            match manner {
                254 => keep(&mut self.items, item),
                _ => turso_sync_database_io_item_deinit(item),
            }
        }
    }

    unsafe fn serve_file(&self, item: *const turso_sync_io_item_t, manner: u8, input: &mut Input<'_>) {
        unsafe {
            let mut path: turso_sync_io_full_read_request_t = std::mem::zeroed();
            if turso_sync_database_io_request_full_read(item, &mut path) == TURSO_OK {
                read(path.path);
            }
            let mut write: turso_sync_io_full_write_request_t = std::mem::zeroed();
            if turso_sync_database_io_request_full_write(item, &mut write) == TURSO_OK {
                read(write.path);
                read(write.content);
            }
            match manner % 8 {
                6 => {
                    turso_sync_database_io_push_buffer(item, &slice(input.bytes()));
                    turso_sync_database_io_done(item);
                }
                7 => drop(turso_sync_database_io_poison(item, &slice(input.bytes()))),
                _ => drop(reported(|e| turso_sync_database_io_perform_file(item, e))),
            }
        }
    }

    unsafe fn serve_http(&self, item: *const turso_sync_io_item_t, manner: u8, input: &mut Input<'_>) {
        unsafe {
            let mut http: turso_sync_io_http_request_t = std::mem::zeroed();
            assert_eq!(turso_sync_database_io_request_http(item, &mut http), TURSO_OK);
            for index in 0..http.headers as usize {
                let mut header: turso_sync_io_http_header_t = std::mem::zeroed();
                let found = turso_sync_database_io_request_http_header(item, index, &mut header);
                assert_eq!(found, TURSO_OK);
                read(header.key);
                read(header.value);
            }
            let path = String::from_utf8(read(http.path)).expect("UTF-8");
            let answer = self.server.answer(&path, &read(http.body));
            let (mut status, mut body) = answer.unwrap_or((500, Vec::new()));
            match manner % 16 {
                // The server lies.
                9 | 10 => {
                    for _ in 0..input.u8() % 8 {
                        let at = usize::from(input.u16()) % body.len().max(1);
                        for (place, byte) in body.iter_mut().skip(at).zip(input.bytes()) {
                            *place = *byte;
                        }
                    }
                }
                11 => body.truncate(usize::from(input.u16())),
                12 => status = input.u16() % 1200,
                13 => body = input.bytes().to_vec(),
                14 => drop(turso_sync_database_io_poison(item, &slice(input.bytes()))),
                // The item goes without an answer.
                15 => return,
                _ => {}
            }
            let pieces = usize::from(manner) * 8 + 1;
            turso_sync_database_io_status(item, status.into());
            for piece in body.chunks(pieces) {
                turso_sync_database_io_push_buffer(item, &slice(piece));
            }
            turso_sync_database_io_done(item);
        }
    }

    unsafe fn prepare(&mut self, input: &mut Input<'_>) {
        let connection = live(&self.connections, input);
        let arbitrary;
        let sql = match input.u8() {
            255 => {
                let text = input.bytes().split(|b| *b == 0).next().unwrap_or_default();
                arbitrary = CString::new(text).expect("no NUL");
                // An attached file would be anywhere.
                if text
                    .to_ascii_lowercase()
                    .windows(2)
                    .any(|w| w == b"at" || w == b"va")
                {
                    return;
                }
                &arbitrary
            }
            n => SQL[usize::from(n) % SQL.len()],
        };
        let mut statement = ptr::null_mut();
        unsafe {
            if input.one_in(4) {
                let mut tail = 0;
                reported(|e| {
                    turso_connection_prepare_first(connection, sql.as_ptr(), &mut statement, &mut tail, e)
                });
                assert!(tail <= sql.count_bytes());
            } else {
                reported(|e| turso_connection_prepare_single(connection, sql.as_ptr(), &mut statement, e));
            }
        }
        keep(&mut self.statements, statement);
    }

    unsafe fn bind(&mut self, input: &mut Input<'_>) {
        let statement = live(&self.statements, input);
        unsafe {
            let count = turso_statement_parameters_count(statement);
            let position = match input.u8() {
                255 => input.number() as usize,
                n => usize::from(n) % (count.max(0) as usize + 1),
            };
            free_string(turso_statement_parameter_name(statement, position as i64));
            turso_statement_named_position(statement, c":id".as_ptr());
            match input.u8() % 5 {
                0 => turso_statement_bind_positional_null(statement, position),
                1 => turso_statement_bind_positional_int(statement, position, i64::from(input.u8())),
                2 => turso_statement_bind_positional_double(statement, position, f64::from_bits(input.u64())),
                3 => {
                    let bytes = input.bytes();
                    turso_statement_bind_positional_blob(
                        statement,
                        position,
                        bytes.as_ptr().cast(),
                        bytes.len(),
                    )
                }
                _ => {
                    let bytes = input.bytes();
                    turso_statement_bind_positional_text(
                        statement,
                        position,
                        bytes.as_ptr().cast(),
                        bytes.len(),
                    )
                }
            };
        }
    }

    unsafe fn step(&mut self, input: &mut Input<'_>) {
        let statement = live(&self.statements, input);
        unsafe {
            match input.u8() % 12 {
                0..=4 => {
                    let mut changed = 0;
                    reported(|e| turso_statement_execute(statement, &mut changed, e));
                }
                5..=8 => drop(reported(|e| turso_statement_step(statement, e))),
                9 => drop(reported(|e| turso_statement_reset(statement, e))),
                10 => drop(reported(|e| turso_statement_finalize(statement, e))),
                _ => drop(reported(|e| turso_statement_run_io(statement, e))),
            }
            turso_statement_n_change(statement);
        }
    }

    unsafe fn row(&mut self, input: &mut Input<'_>) {
        let statement = live(&self.statements, input);
        unsafe {
            let columns = turso_statement_column_count(statement).max(0) as usize;
            for index in 0..columns + 1 {
                free_string(turso_statement_column_name(statement, index));
                free_string(turso_statement_column_decltype(statement, index));
                let kind = turso_statement_row_value_kind(statement, index);
                let len = turso_statement_row_value_bytes_count(statement, index);
                let bytes = turso_statement_row_value_bytes_ptr(statement, index);
                let has_bytes = matches!(
                    kind,
                    turso_type_t::TURSO_TYPE_TEXT | turso_type_t::TURSO_TYPE_BLOB
                );
                assert_eq!(has_bytes, !bytes.is_null());
                assert_eq!(has_bytes, len >= 0);
                read(turso_slice_ref_t {
                    ptr: bytes.cast(),
                    len: len.max(0) as usize,
                });
                turso_statement_row_value_int(statement, index);
                turso_statement_row_value_double(statement, index);
            }
        }
    }

    unsafe fn connection(&mut self, input: &mut Input<'_>) {
        let connection = live(&self.connections, input);
        unsafe {
            turso_connection_get_autocommit(connection);
            turso_connection_last_insert_rowid(connection);
            if input.one_in(4) {
                reported(|e| turso_connection_close(connection, e));
            }
            if let Some(conflicts) = self.conflicts.first() {
                for index in 0..turso_sync_conflicts_count(*conflicts) + 1 {
                    // Zeroed as in C: some of its enumerations have no zero in Rust.
                    let mut filled = MaybeUninit::<turso_sync_conflict_t>::zeroed();
                    let conflict = filled.as_mut_ptr();
                    (*conflict).size = size_of::<turso_sync_conflict_t>();
                    if turso_sync_conflicts_get(*conflicts, index, conflict) == TURSO_OK {
                        let conflict = filled.assume_init();
                        for text in [
                            conflict.table,
                            conflict.key,
                            conflict.constraint,
                            conflict.message,
                        ] {
                            String::from_utf8(read(text)).expect("UTF-8");
                        }
                    }
                }
            }
        }
    }

    unsafe fn release_one(&mut self, input: &mut Input<'_>) {
        unsafe {
            match input.u8() % 9 {
                0 => turso_database_deinit(taken(&mut self.databases, input)),
                1 => turso_sync_database_deinit(taken(&mut self.replicas, input)),
                2 => turso_connection_deinit(taken(&mut self.connections, input)),
                3 => turso_statement_deinit(taken(&mut self.statements, input)),
                4 => turso_sync_operation_deinit(taken(&mut self.operations, input)),
                5 => turso_sync_database_io_item_deinit(taken(&mut self.items, input)),
                6 => turso_sync_changes_deinit(taken(&mut self.changes, input)),
                7 => turso_sync_conflicts_deinit(taken(&mut self.conflicts, input)),
                _ => turso_str_deinit(ptr::null()),
            }
        }
    }

    unsafe fn release(mut self) {
        unsafe {
            self.replicas
                .drain(..)
                .for_each(|h| turso_sync_database_deinit(h));
            self.items
                .drain(..)
                .for_each(|h| turso_sync_database_io_item_deinit(h));
            self.connections
                .drain(..)
                .for_each(|h| turso_connection_deinit(h));
            self.statements.drain(..).for_each(|h| turso_statement_deinit(h));
            self.operations
                .drain(..)
                .for_each(|h| turso_sync_operation_deinit(h));
            self.changes.drain(..).for_each(|h| turso_sync_changes_deinit(h));
            self.conflicts
                .drain(..)
                .for_each(|h| turso_sync_conflicts_deinit(h));
            self.databases.drain(..).for_each(|h| turso_database_deinit(h));
        }
    }
}

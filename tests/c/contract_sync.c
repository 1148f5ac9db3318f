/*
 * Contract of turso_sync.h: arguments, order, results. Argument: an empty directory. No network.
 */
#define _POSIX_C_SOURCE 200809L
#include <sys/stat.h>
#include <unistd.h>

#include "replica.h"

/* What of turso_database_config_t means something for a replica. */
static void test_database_configuration(const char *path) {
    turso_database_config_t database;
    turso_sync_database_config_t sync = sync_config(path);
    const turso_sync_database_t *db = POISON;
#define DATABASE_WITH(member, value, status, text)                                                                     \
    do {                                                                                                               \
        database = database_config(path);                                                                              \
        database.member = (value);                                                                                     \
        FAILS(status, text, turso_sync_database_new(&database, &sync, &db, err()));                                    \
    } while (0)
    DATABASE_WITH(path, NULL, TURSO_MISUSE, "null pointer");
    DATABASE_WITH(path, ":memory:", TURSO_ERROR, "memory");
    DATABASE_WITH(vfs, "memory", TURSO_ERROR, "memory");
    DATABASE_WITH(vfs, "tape", TURSO_ERROR, "tape");
    DATABASE_WITH(experimental_features, "\xff", TURSO_MISUSE, "UTF-8");
    DATABASE_WITH(encryption_cipher, "aes256gcm", TURSO_ERROR, "encryption of the local database");
    DATABASE_WITH(encryption_hexkey, "00", TURSO_ERROR, "encryption of the local database");
    DATABASE_WITH(page_codec, (const turso_page_codec_v1_t *)path, TURSO_ERROR, "page codec");
    CHECK(db == POISON);
    database = database_config(path);
    database.async_io = 0;
    database.vfs = "syscall";
    database.experimental_features = "views,strict";
    if (OK(turso_sync_database_new(&database, &sync, &db, err()))) {
        turso_sync_database_deinit(db);
    }
}

static void test_configuration(const char *directory) {
    const char *path = in_directory(directory, "configuration.db");
    turso_database_config_t database = database_config(path);
    turso_sync_database_config_t sync = sync_config(path);
    const turso_sync_database_t *db = POISON;
#define REJECTED(status, text) FAILS(status, text, turso_sync_database_new(&database, &sync, &db, err()))
#define WITH(member, value, status, text)                                                                              \
    do {                                                                                                               \
        sync = sync_config(path);                                                                                      \
        sync.member = (value);                                                                                         \
        REJECTED(status, text);                                                                                        \
    } while (0)
    FAILS(TURSO_MISUSE, "config pointer must be not null", turso_sync_database_new(NULL, &sync, &db, err()));
    FAILS(TURSO_MISUSE, "config pointer must be not null", turso_sync_database_new(&database, NULL, &db, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_sync_database_new(&database, &sync, NULL, err()));
    WITH(path, NULL, TURSO_MISUSE, "expected zero terminated c string, got null pointer");
    WITH(client_name, NULL, TURSO_MISUSE, "expected zero terminated c string, got null pointer");
    WITH(path, "\xff", TURSO_MISUSE, "UTF-8");
    WITH(client_name, "\xff", TURSO_MISUSE, "UTF-8");
    WITH(remote_url, "\xff", TURSO_MISUSE, "UTF-8");
    WITH(remote_encryption_key, "\xff", TURSO_MISUSE, "UTF-8");
    WITH(remote_encryption_cipher, "\xff", TURSO_MISUSE, "UTF-8");
    WITH(partial_bootstrap_strategy_query, "\xff", TURSO_MISUSE, "UTF-8");
    WITH(long_poll_timeout_ms, -1, TURSO_MISUSE, "long_poll_timeout_ms");
    WITH(reserved_bytes, -1, TURSO_MISUSE, "reserved_bytes");
    WITH(reserved_bytes, 256, TURSO_MISUSE, "reserved_bytes");
    WITH(partial_bootstrap_strategy_prefix, INT32_MIN, TURSO_MISUSE, "partial_bootstrap_strategy_prefix");
    WITH(remote_encryption_cipher, "rot13", TURSO_ERROR, "rot13");
    WITH(logical_mvcc_pull, true, TURSO_ERROR, "logical_mvcc_pull");
    WITH(partial_bootstrap_strategy_prefix, 1, TURSO_MISUSE, "not supported yet");
    WITH(partial_bootstrap_strategy_query, "SELECT 1", TURSO_MISUSE, "not supported yet");
    WITH(remote_url, "ftp://remote.example", TURSO_MISUSE, "scheme");
    WITH(remote_encryption_key, "two words", TURSO_MISUSE, "not base64");
    WITH(path, "", TURSO_MISUSE, "path");
    WITH(client_name, "", TURSO_MISUSE, "client name");
    sync = sync_config(path);
    sync.remote_encryption_cipher = "aegis256";
    sync.reserved_bytes = 28;
    REJECTED(TURSO_MISUSE, "needs 48 reserved bytes");
    WITH(path, ":memory:", TURSO_ERROR, "memory");
    sync = sync_config(path);
    database.open_flags = TURSO_DATABASE_OPEN_READONLY;
    REJECTED(TURSO_ERROR, "READONLY");
    database.open_flags = 4;
    REJECTED(TURSO_MISUSE, "open_flags");
    test_database_configuration(path);
    CHECK(db == POISON);
    REFUSES(TURSO_MISUSE, turso_sync_database_new(NULL, NULL, NULL, NULL));

    static const char *const ciphers[] = {"aes256gcm", "AES-128-GCM", "chacha20poly1305", "aegis128l", "aegis256x4"};
    for (size_t i = 0; i < sizeof ciphers / sizeof *ciphers; i++) {
        database = database_config(path);
        sync = sync_config(path);
        sync.remote_encryption_cipher = ciphers[i];
        if (OK(turso_sync_database_new(&database, &sync, &db, err()))) {
            turso_sync_database_deinit(db);
        }
    }
}

/* Numbers without a limit of their own: negative ones become huge on their way into a size_t. */
static void test_extreme_numbers(const char *directory) {
    static const size_t extremes[] = {1, 4095, SIZE_MAX / 2, SIZE_MAX - 4095, SIZE_MAX};
    for (size_t i = 0; i < sizeof extremes / sizeof *extremes; i++) {
        char name[32];
        snprintf(name, sizeof name, "extreme%lu.db", (unsigned long)i);
        const char *path = in_directory(directory, name);
        turso_database_config_t database = database_config(path);
        turso_sync_database_config_t sync = sync_config(path);
        const turso_sync_database_t *db = NULL;
        sync.long_poll_timeout_ms = INT32_MAX;
        sync.push_operations_threshold = extremes[i];
        sync.pull_bytes_threshold = extremes[i];
        REQUIRE(OK(turso_sync_database_new(&database, &sync, &db, err())));
        const turso_sync_operation_t *op = begin(db, turso_sync_database_create);
        DONE(drive_empty(db, op));
        turso_sync_operation_deinit(op);
        turso_sync_database_deinit(db);
    }
}

/* turso_sync_database_io_perform_file: what it does, and how it fails. */
static void test_perform_file(const char *directory) {
    char info[4096];
    snprintf(info, sizeof info, "%s", in_directory(directory, "files.db-info"));
    const turso_sync_database_t *db = new_replica(in_directory(directory, "files.db"));

    REQUIRE(mkdir(info, 0777) == 0); /* a folder where a file belongs */
    const turso_sync_operation_t *op = begin(db, turso_sync_database_create);
    REQUIRE(turso_sync_operation_resume(op, NULL) == TURSO_IO);
    const turso_sync_io_item_t *item = take(db);
    REQUIRE(turso_sync_database_io_request_kind(item) == TURSO_SYNC_IO_FULL_READ);
    FAILS(TURSO_IOERR, "files.db-info", turso_sync_database_io_perform_file(item, err()));
    OK(turso_sync_database_io_done(item)); /* late: the item is answered already */
    turso_sync_database_io_item_deinit(item);
    FAILS(TURSO_IOERR, "files.db-info", turso_sync_operation_resume(op, err())); /* the operation knows why */
    turso_sync_operation_deinit(op);

    REQUIRE(rmdir(info) == 0); /* the cause is gone: a missing file is an empty one, and is written then */
    op = begin(db, turso_sync_database_create);
    DONE(drive_empty(db, op));
    turso_sync_operation_deinit(op);
    struct stat written;
    CHECK(stat(info, &written) == 0 && S_ISREG(written.st_mode) && written.st_size > 0);
    turso_sync_database_deinit(db);
}

static void test_null_handles(void) {
    static const begin_t begins[] = {turso_sync_database_open,         turso_sync_database_create,
                                     turso_sync_database_connect,      turso_sync_database_stats,
                                     turso_sync_database_checkpoint,   turso_sync_database_push_changes,
                                     turso_sync_database_wait_changes};
    const turso_sync_operation_t *op = POISON;
    const turso_sync_io_item_t *item = POISON;
    const turso_connection_t *connection = POISON;
    const turso_sync_changes_t *changes = POISON;
    turso_sync_stats_t stats;
    turso_sync_io_http_request_t http;
    turso_sync_io_http_header_t header;
    turso_sync_io_full_read_request_t read;
    turso_sync_io_full_write_request_t write;
    turso_slice_ref_t slice = slice_of("x", 1);
    const char *null = "got null pointer";
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) {
        FAILS(TURSO_MISUSE, null, begins[i](NULL, &op, err()));
        REFUSES(TURSO_MISUSE, begins[i](NULL, NULL, NULL));
    }
    FAILS(TURSO_MISUSE, null, turso_sync_database_apply_changes(NULL, NULL, &op, err()));
    FAILS(TURSO_MISUSE, null, turso_sync_operation_resume(NULL, err()));
    FAILS(TURSO_MISUSE, null, turso_sync_operation_run(NULL, NULL, NULL, err()));
    CHECK(turso_sync_operation_result_kind(NULL) == TURSO_ASYNC_RESULT_NONE);
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_connection(NULL, &connection));
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_changes(NULL, &changes));
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_stats(NULL, &stats));
    FAILS(TURSO_MISUSE, null, turso_sync_database_io_take_item(NULL, &item, err()));
    FAILS(TURSO_MISUSE, null, turso_sync_database_io_step_callbacks(NULL, err()));
    CHECK(turso_sync_database_io_request_kind(NULL) == TURSO_SYNC_IO_NONE);
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_http(NULL, &http));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_http_header(NULL, 0, &header));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_full_read(NULL, &read));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_full_write(NULL, &write));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_poison(NULL, &slice));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_status(NULL, 200));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_push_buffer(NULL, &slice));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_done(NULL));
    FAILS(TURSO_MISUSE, null, turso_sync_database_io_perform_file(NULL, err()));
    CHECK(op == POISON && item == POISON && connection == POISON && changes == POISON);
    turso_sync_database_deinit(NULL);
    turso_sync_operation_deinit(NULL);
    turso_sync_database_io_item_deinit(NULL);
    turso_sync_changes_deinit(NULL);
}

static void test_wrong_order(const char *directory) {
    static const begin_t early[] = {turso_sync_database_connect, turso_sync_database_stats,
                                    turso_sync_database_checkpoint, turso_sync_database_push_changes,
                                    turso_sync_database_wait_changes};
    const turso_sync_database_t *db = new_replica(in_directory(directory, "early.db"));
    const char *text = "sync engine operation failed: sync engine must be initialized";
    FAILS(TURSO_MISUSE, "output pointer", turso_sync_database_create(db, NULL, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_sync_database_io_take_item(db, NULL, err()));
    CHECK(take(db) == NULL);
    for (size_t i = 0; i < sizeof early / sizeof *early; i++) {
        const turso_sync_operation_t *op = begin(db, early[i]);
        CHECK(take(db) == NULL); /* nothing happens before the first resume */
        CHECK(turso_sync_operation_resume(op, NULL) >= TURSO_ERROR);
        const char *message = NULL;
        turso_status_code_t first = turso_sync_operation_resume(op, &message);
        CHECK(message != NULL && strstr(message, text) != NULL);
        turso_str_deinit(message);
        CHECK(turso_sync_operation_resume(op, NULL) == first);
        turso_sync_operation_deinit(op);
    }
    const turso_sync_operation_t *op = begin(db, turso_sync_database_open);
    turso_status_code_t status = drive_empty(db, op);
    FAILS(status, "metadata not found", status);
    CHECK(status >= TURSO_ERROR);
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(db);
}

static void check_accessors(const turso_sync_io_item_t *item, turso_sync_io_request_type_t kind) {
    turso_sync_io_http_request_t http;
    turso_sync_io_http_header_t header;
    turso_sync_io_full_read_request_t read;
    turso_sync_io_full_write_request_t write;
    memset(&http, 0x5a, sizeof http);
    CHECK((turso_sync_database_io_request_http(item, &http) == TURSO_OK) == (kind == TURSO_SYNC_IO_HTTP));
    CHECK((turso_sync_database_io_request_full_read(item, &read) == TURSO_OK) == (kind == TURSO_SYNC_IO_FULL_READ));
    CHECK((turso_sync_database_io_request_full_write(item, &write) == TURSO_OK) == (kind == TURSO_SYNC_IO_FULL_WRITE));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_http(item, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_full_read(item, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_full_write(item, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_http_header(item, 0, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_http_header(item, SIZE_MAX, &header));
    if (kind == TURSO_SYNC_IO_HTTP) {
        CHECK(http.method.len == 4 && memcmp(http.method.ptr, "POST", 4) == 0);
        CHECK(http.path.len > 0 && *(const char *)http.path.ptr == '/');
        CHECK(http.url.len == strlen("http://remote.example"));
        for (size_t i = 0; i < (size_t)http.headers; i++) {
            OK(turso_sync_database_io_request_http_header(item, i, &header));
            CHECK(header.key.len > 0);
        }
        REFUSES(TURSO_MISUSE, turso_sync_database_io_request_http_header(item, (size_t)http.headers, &header));
        FAILS(TURSO_MISUSE, "not a file request", turso_sync_database_io_perform_file(item, err()));
    } else {
        REFUSES(TURSO_MISUSE, turso_sync_database_io_request_http_header(item, 0, &header));
    }
}

static void check_answers(const turso_sync_io_item_t *item) {
    turso_slice_ref_t null = slice_of(NULL, 0), long_null = slice_of(NULL, 5), empty = slice_of("", 0);
    turso_slice_ref_t huge = slice_of("x", SIZE_MAX);
    REFUSES(TURSO_MISUSE, turso_sync_database_io_status(item, -1));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_status(item, 1000));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_status(item, 65536 + 200));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_push_buffer(item, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_push_buffer(item, &null));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_push_buffer(item, &long_null));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_push_buffer(item, &huge));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_poison(item, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_poison(item, &null));
    OK(turso_sync_database_io_push_buffer(item, &empty));
}

static void test_items(const char *directory) {
    const turso_sync_database_t *db = new_replica(in_directory(directory, "items.db"));
    const turso_sync_operation_t *op = begin(db, turso_sync_database_create);
    turso_slice_ref_t why = slice_of("cable \xff unplugged", 17);
    turso_status_code_t status;
    for (;;) {
        REQUIRE(turso_sync_operation_resume(op, NULL) == TURSO_IO);
        REQUIRE(turso_sync_operation_resume(op, NULL) == TURSO_IO); /* too early: no harm */
        const turso_sync_io_item_t *item = take(db);
        REQUIRE(item != NULL);
        turso_sync_io_request_type_t kind = turso_sync_database_io_request_kind(item);
        check_accessors(item, kind);
        check_answers(item);
        if (kind == TURSO_SYNC_IO_HTTP) {
            OK(turso_sync_database_io_poison(item, &why));
            OK(turso_sync_database_io_done(item)); /* late: ignored */
            OK(turso_sync_database_io_push_buffer(item, &why));
            turso_sync_database_io_item_deinit(item);
            break;
        }
        OK(turso_sync_database_io_perform_file(item, err()));
        turso_sync_database_io_item_deinit(item);
    }
    status = turso_sync_operation_resume(op, err());
    FAILS(status, "unplugged", status);
    CHECK(status >= TURSO_ERROR);
    status = turso_sync_operation_resume(op, err());
    FAILS(status, "sync engine operation failed: ", status);
    turso_sync_operation_deinit(op);

    op = begin(db, turso_sync_database_create); /* an item that is dropped fails its operation as well */
    const turso_sync_io_item_t *item = next_http(db, op);
    REQUIRE(item != NULL);
    turso_sync_database_io_item_deinit(item);
    status = turso_sync_operation_resume(op, err());
    FAILS(status, "dropped", status);
    turso_sync_operation_deinit(op);

    op = begin(db, turso_sync_database_create); /* and so does an answer that is no success */
    item = next_http(db, op);
    REQUIRE(item != NULL);
    OK(turso_sync_database_io_status(item, 503));
    OK(turso_sync_database_io_done(item));
    turso_sync_database_io_item_deinit(item);
    status = turso_sync_operation_resume(op, err());
    FAILS(status, "503", status);
    turso_sync_operation_deinit(op);

    op = begin(db, turso_sync_database_create); /* a cancelled operation takes its request along */
    item = next_http(db, op);
    turso_sync_operation_deinit(op);
    answer(item, empty_remote, sizeof empty_remote);
    turso_sync_database_io_item_deinit(item);

    op = begin(db, turso_sync_database_create);
    DONE(drive_empty(db, op));
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(db);
}

static void test_results(const char *directory) {
    const turso_sync_database_t *db = created_replica(in_directory(directory, "results.db"));
    const turso_connection_t *connection = POISON;
    const turso_sync_changes_t *changes = POISON;
    turso_sync_stats_t stats, again;
    const turso_sync_operation_t *op = begin(db, turso_sync_database_connect);
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_connection(op, &connection)); /* too early */
    REQUIRE(DONE(drive_empty(db, op)));
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_CONNECTION);
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_connection(op, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_stats(op, &stats)); /* wrong: the result is lost */
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_connection(op, &connection));
    CHECK(connection == POISON);
    turso_sync_operation_deinit(op);

    op = begin(db, turso_sync_database_connect);
    REQUIRE(DONE(drive_empty(db, op)));
    REQUIRE(OK(turso_sync_operation_result_extract_connection(op, &connection)));
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
    const turso_connection_t *second = POISON;
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_connection(op, &second));
    CHECK(second == POISON);
    DONE(turso_sync_operation_resume(op, err()));
    turso_sync_operation_deinit(op);
    run_sql(connection, "CREATE TABLE mine (x INTEGER PRIMARY KEY); INSERT INTO mine VALUES (1), (2)");

    op = begin(db, turso_sync_database_stats);
    REQUIRE(DONE(drive_empty(db, op)));
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_STATS);
    OK(turso_sync_operation_result_extract_stats(op, &stats));
    OK(turso_sync_operation_result_extract_stats(op, &again));
    CHECK(stats.cdc_operations > 0 && again.cdc_operations == stats.cdc_operations);
    CHECK(stats.network_received_bytes == (int64_t)sizeof empty_remote);
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_changes(op, &changes));
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_stats(op, &again));
    CHECK(stats.revision.len == 1 && memcmp(stats.revision.ptr, "0", 1) == 0); /* valid until the end */
    turso_sync_operation_deinit(op);

    op = begin(db, turso_sync_database_wait_changes); /* nothing new: OK with NULL */
    REQUIRE(DONE(drive_empty(db, op)));
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_CHANGES);
    OK(turso_sync_operation_result_extract_changes(op, &changes));
    CHECK(changes == NULL);
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_changes(op, &changes));
    turso_sync_operation_deinit(op);

    op = begin(db, turso_sync_database_checkpoint);
    DONE(drive_empty(db, op));
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
    turso_sync_operation_deinit(op);

    turso_sync_database_deinit(db); /* connections outlive their replica */
    CHECK(query_int(connection, "SELECT count(*) FROM mine") == 2);
    OK(turso_connection_close(connection, err()));
    turso_connection_deinit(connection);
}

static void test_one_at_a_time(const char *directory) {
    const turso_sync_database_t *db = created_replica(in_directory(directory, "two.db"));
    const turso_sync_operation_t *first = begin(db, turso_sync_database_wait_changes);
    const turso_sync_operation_t *second = begin(db, turso_sync_database_wait_changes);
    REQUIRE(turso_sync_operation_resume(first, NULL) == TURSO_IO);
    FAILS(TURSO_BUSY, "sync engine operation failed: ", turso_sync_operation_resume(second, err()));
    turso_sync_operation_deinit(first); /* cancelled in the middle */
    FAILS(TURSO_BUSY, "", turso_sync_operation_resume(second, err())); /* an answer is repeated */
    turso_sync_operation_deinit(second);
    first = begin(db, turso_sync_database_wait_changes);
    DONE(drive_empty(db, first));
    turso_sync_database_deinit(db); /* operations outlive their replica */
    DONE(turso_sync_operation_resume(first, err()));
    turso_sync_operation_deinit(first);
}

static void test_changes(const char *directory) {
    const turso_sync_database_t *db = created_replica(in_directory(directory, "changes.db"));
    const turso_connection_t *connection = connect_to(db);
    struct bytes stream = remote_database(in_directory(directory, "remote.db"));
    const turso_sync_operation_t *op = POISON;
    FAILS(TURSO_MISUSE, "got null pointer", turso_sync_database_apply_changes(db, NULL, &op, err()));
    turso_sync_changes_deinit(wait_for(db, stream));
    /* Failed calls take the changes, too: the count of live objects proves it. */
    FAILS(TURSO_MISUSE, "got null pointer",
          turso_sync_database_apply_changes(NULL, wait_for(db, stream), &op, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_sync_database_apply_changes(db, wait_for(db, stream), NULL, err()));
    CHECK(op == POISON);

    REQUIRE(OK(turso_sync_database_apply_changes(db, wait_for(db, stream), &op, err())));
    turso_sync_operation_deinit(op); /* never resumed */
    REQUIRE(OK(turso_sync_database_apply_changes(db, wait_for(db, stream), &op, err())));
    REQUIRE(DONE(drive_empty(db, op)));
    turso_sync_operation_deinit(op);
    CHECK(query_int(connection, "SELECT count(*) FROM remote WHERE x = 'from afar'") == 1);
    free(stream.data);
    turso_connection_deinit(connection);
    turso_sync_database_deinit(db);
}

static void test_driver(const char *directory) {
    const turso_sync_database_t *db = created_replica(in_directory(directory, "driver.db"));
    const turso_sync_operation_t *op = begin(db, turso_sync_database_wait_changes);
    turso_sync_driver_config_t config;
    turso_status_code_t status;
    memset(&config, 0, sizeof config);
    FAILS(TURSO_MISUSE, "got null pointer", turso_sync_operation_run(db, NULL, NULL, err()));
    FAILS(TURSO_MISUSE, "size", turso_sync_operation_run(db, op, &config, err()));
    config.size = sizeof config;
    config.auth_token = "two\r\nlines";
    FAILS(TURSO_MISUSE, "token", turso_sync_operation_run(db, op, &config, err()));
    config.auth_token = "\xff";
    FAILS(TURSO_MISUSE, "UTF-8", turso_sync_operation_run(db, op, &config, err()));
    config.auth_token = "secret";
    config.base_url = "http://127.0.0.1:1"; /* nobody listens there */
    status = turso_sync_operation_run(db, op, &config, err());
    FAILS(status, "sync engine operation failed: ", status);
    CHECK(status >= TURSO_ERROR);
    turso_sync_operation_deinit(op);

    op = begin(db, turso_sync_database_stats); /* needs no network */
    DONE(turso_sync_operation_run(db, op, NULL, err()));
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(db);
}

/* A replica's file must not be written without capture. */
static void test_plain_access(const char *directory) {
    const char *path = in_directory(directory, "replica.db");
    const turso_sync_database_t *db = created_replica(path);
    turso_database_config_t config = database_config(path);
    const turso_database_t *plain = NULL;
    REQUIRE(OK(turso_database_new(&config, &plain, err())));
    FAILS(TURSO_MISUSE, "replica", turso_database_open(plain, err()));
    turso_database_deinit(plain);
    config.open_flags = TURSO_DATABASE_OPEN_READONLY;
    REQUIRE(OK(turso_database_new(&config, &plain, err())));
    OK(turso_database_open(plain, err()));
    turso_database_deinit(plain);
    turso_sync_database_deinit(db);
}

static int log_lines;

static void count_lines(const turso_log_t *log) {
    CHECK(log->message != NULL && log->target != NULL && log->file != NULL && log->timestamp > 0);
    CHECK(strstr(log->message, "secret") == NULL);
    log_lines++;
}

int main(int argc, char **argv) {
    turso_config_t log;
    memset(&log, 0, sizeof log);
    log.logger = count_lines;
    log.log_level = "trace";
    OK(turso_setup(&log, err()));
    REQUIRE(argc == 2);
    test_configuration(argv[1]);
    test_extreme_numbers(argv[1]);
    test_perform_file(argv[1]);
    test_null_handles();
    test_wrong_order(argv[1]);
    test_items(argv[1]);
    test_results(argv[1]);
    test_one_at_a_time(argv[1]);
    test_changes(argv[1]);
    test_driver(argv[1]);
    test_plain_access(argv[1]);
    CHECK(log_lines > 0);
    return verdict("contract_sync");
}

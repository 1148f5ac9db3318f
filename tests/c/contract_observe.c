/*
 * Contract of progress, cancellation, errors and status: arguments, sizes, threads, lifetimes. Argument: an empty
 * directory. No network.
 */
#include "replica.h"

#include <pthread.h>

static turso_sync_progress_t progress_of(const turso_sync_operation_t *op) {
    turso_sync_progress_t progress;
    memset(&progress, 0x5a, sizeof progress);
    progress.size = sizeof progress;
    OK(turso_sync_operation_progress(op, &progress));
    return progress;
}

static turso_sync_error_t last_error(void) {
    turso_sync_error_t error;
    memset(&error, 0x5a, sizeof error);
    error.size = sizeof error;
    OK(turso_sync_last_error(&error));
    return error;
}

static bool contains(turso_slice_ref_t text, const char *part) {
    size_t len = strlen(part);
    for (size_t i = 0; i + len <= text.len; i++) {
        if (memcmp((const char *)text.ptr + i, part, len) == 0) {
            return true;
        }
    }
    return false;
}

static void test_null_and_sizes(const char *path) {
    turso_sync_progress_t progress;
    turso_sync_error_t error;
    turso_sync_status_t replica;
    const turso_sync_database_t *db = created_replica(path);
    const turso_sync_operation_t *op = begin(db, turso_sync_database_push_changes);
    memset(&progress, 0, sizeof progress);
    memset(&error, 0, sizeof error);
    memset(&replica, 0, sizeof replica);
    REFUSES(TURSO_MISUSE, turso_sync_operation_progress(NULL, &progress));
    REFUSES(TURSO_MISUSE, turso_sync_operation_progress(op, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_operation_progress(op, &progress)); /* no size */
    REFUSES(TURSO_MISUSE, turso_sync_operation_cancel(NULL));
    REFUSES(TURSO_MISUSE, turso_sync_operation_error(NULL, &error));
    REFUSES(TURSO_MISUSE, turso_sync_operation_error(op, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_operation_error(op, &error));
    REFUSES(TURSO_MISUSE, turso_sync_last_error(NULL));
    REFUSES(TURSO_MISUSE, turso_sync_last_error(&error));
    FAILS(TURSO_MISUSE, "got null pointer", turso_sync_database_status(NULL, &replica, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_sync_database_status(db, NULL, err()));
    FAILS(TURSO_MISUSE, "turso_sync_status_t: size", turso_sync_database_status(db, &replica, err()));
    CHECK(!turso_sync_database_io_is_wanted(NULL));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_header(NULL, NULL, NULL));

    /* An older program's structure ends earlier: the sanitizer watches. */
    turso_sync_progress_t *older = malloc(offsetof(turso_sync_progress_t, pages_done));
    REQUIRE(older != NULL);
    *(size_t *)older = offsetof(turso_sync_progress_t, pages_done);
    OK(turso_sync_operation_progress(op, older));
    free(older);
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(db);
}

static void test_last_error(const char *path) {
    turso_sync_error_t error = last_error();
    CHECK(error.code == TURSO_MISUSE && error.category == TURSO_SYNC_ERROR_USAGE);
    const turso_sync_database_t *db = created_replica(path);
    const turso_connection_t *connection = connect_to(db);
    run_sql(connection, "CREATE TABLE t (v UNIQUE); INSERT INTO t VALUES (1)");
    turso_statement_t *statement = NULL;
    REQUIRE(OK(turso_connection_prepare_single(connection, "INSERT INTO t VALUES (1)", &statement, err())));
    CHECK(last_error().code == TURSO_MISUSE); /* success leaves it alone */
    FAILS(TURSO_CONSTRAINT, "UNIQUE", turso_statement_execute(statement, NULL, err()));
    error = last_error();
    CHECK(error.code == TURSO_CONSTRAINT && error.category == TURSO_SYNC_ERROR_DATABASE);
    CHECK(error.sqlite_code == 2067 && error.http_status == 0 && error.retryable == 0 && error.retry_after_ms == 0);
    CHECK(contains(error.message, "UNIQUE constraint failed: t.v"));
    turso_statement_deinit(statement);
    turso_connection_deinit(connection);
    turso_sync_database_deinit(db);
}

static void *other_thread(void *unused) {
    (void)unused;
    turso_sync_error_t error = last_error();
    CHECK(error.code == TURSO_OK && error.category == TURSO_SYNC_ERROR_NONE && error.message.len == 0);
    REFUSES(TURSO_MISUSE, turso_sync_operation_cancel(NULL));
    CHECK(last_error().code == TURSO_MISUSE);
    return NULL;
}

static void test_errors_belong_to_threads(void) {
    pthread_t thread;
    CHECK(last_error().code == TURSO_CONSTRAINT);
    REQUIRE(pthread_create(&thread, NULL, other_thread, NULL) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    CHECK(last_error().code == TURSO_CONSTRAINT);
}

static void test_error_of_an_operation(const char *path) {
    turso_sync_error_t error;
    const turso_sync_database_t *db = created_replica(path);
    const turso_sync_operation_t *op = begin(db, turso_sync_database_push_changes);
    memset(&error, 0x5a, sizeof error);
    error.size = sizeof error;
    OK(turso_sync_operation_error(op, &error));
    CHECK(error.code == TURSO_OK && error.category == TURSO_SYNC_ERROR_NONE);

    const turso_sync_io_item_t *item = next_http(db, op);
    REQUIRE(item != NULL);
    turso_slice_ref_t name = slice_of("Retry-After", 11), seconds = slice_of("7", 1), none = slice_of(NULL, 0);
    CHECK(turso_sync_database_io_is_wanted(item));
    OK(turso_sync_database_io_status(item, 503));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_header(item, &none, &seconds));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_header(item, &name, NULL));
    OK(turso_sync_database_io_header(item, &name, &seconds));
    OK(turso_sync_database_io_done(item));
    CHECK(!turso_sync_database_io_is_wanted(item));
    turso_sync_database_io_item_deinit(item);
    FAILS(TURSO_ERROR, "status=503", turso_sync_operation_resume(op, err()));
    OK(turso_sync_operation_error(op, &error));
    CHECK(error.code == TURSO_ERROR && error.category == TURSO_SYNC_ERROR_REMOTE && error.http_status == 503);
    CHECK(error.retryable == 1 && error.retry_after_ms == 7000 && contains(error.message, "503"));
    turso_sync_database_deinit(db); /* the message lives as long as the operation */
    CHECK(contains(error.message, "503"));
    turso_sync_operation_deinit(op);
}

static void *cancel(void *op) {
    CHECK(progress_of(op).stage == TURSO_SYNC_STAGE_WAITING);
    OK(turso_sync_operation_cancel(op));
    return NULL;
}

static void test_cancel(const char *path) {
    const turso_sync_database_t *db = created_replica(path);
    const turso_sync_operation_t *op = begin(db, turso_sync_database_push_changes);
    CHECK(progress_of(op).stage == TURSO_SYNC_STAGE_NOT_STARTED);
    const turso_sync_io_item_t *item = next_http(db, op);
    REQUIRE(item != NULL);
    CHECK(progress_of(op).sent_bytes > 0);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, cancel, (void *)op) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    FAILS(TURSO_INTERRUPT, "cancelled", turso_sync_operation_resume(op, err()));
    CHECK(!turso_sync_database_io_is_wanted(item));
    answer(item, "late", 4);
    turso_sync_database_io_item_deinit(item);
    FAILS(TURSO_INTERRUPT, "cancelled", turso_sync_operation_resume(op, err()));
    CHECK(progress_of(op).stage == TURSO_SYNC_STAGE_ENDED);
    const turso_sync_operation_t *next = begin(db, turso_sync_database_stats); /* the replica is free */
    CHECK(DONE(drive_empty(db, next)));
    OK(turso_sync_operation_cancel(next)); /* too late to matter */
    DONE(turso_sync_operation_resume(next, err()));
    CHECK(turso_sync_operation_result_kind(next) == TURSO_ASYNC_RESULT_STATS);
    turso_sync_operation_deinit(next);
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(db);
}

static void test_status(const char *path) {
    turso_sync_status_t replica;
    memset(&replica, 0x5a, sizeof replica);
    replica.size = sizeof replica;
    const turso_sync_database_t *closed = new_replica(path);
    FAILS(TURSO_MISUSE, "must be initialized", turso_sync_database_status(closed, &replica, err()));
    turso_sync_database_deinit(closed);
    const turso_sync_database_t *db = created_replica(path);
    const turso_connection_t *connection = connect_to(db);
    OK(turso_sync_database_status(db, &replica, err()));
    CHECK(replica.pending_changes == 0 && replica.conflicts_blocked == 0 && replica.conflicts_set_aside == 0);
    CHECK(replica.last_pull_unix_time > 0 && replica.last_push_unix_time == 0);
    run_sql(connection, "CREATE TABLE t (v); INSERT INTO t VALUES (1), (2)");
    OK(turso_sync_database_status(db, &replica, err()));
    CHECK(replica.pending_changes == 3);
    CHECK(take(db) == NULL); /* it asks the host for nothing */
    turso_connection_deinit(connection);
    turso_sync_database_deinit(db);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    test_null_and_sizes(in_directory(argv[1], "sizes.db"));
    test_last_error(in_directory(argv[1], "last.db"));
    test_errors_belong_to_threads();
    test_error_of_an_operation(in_directory(argv[1], "operation.db"));
    test_cancel(in_directory(argv[1], "cancel.db"));
    test_status(in_directory(argv[1], "status.db"));
    return verdict("contract_observe");
}

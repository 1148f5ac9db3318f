/*
 * Replicas for the contract tests, and a host that serves canned answers: no network.
 */
#ifndef REPLICA_H
#define REPLICA_H

#include "harness.h"

/* Answer to /pull-updates of an empty remote: revision "0", no pages, page protocol. */
static const char empty_remote[] = {0x07, 0x0a, 0x01, 0x30, 0x1a, 0x00, 0x40, 0x01};
#define PAGE 4096

struct bytes {
    char *data;
    size_t len;
};

/* ------------------------------------------------------------------------------------------------------- the host */

static inline turso_slice_ref_t slice_of(const void *ptr, size_t len) {
    turso_slice_ref_t slice;
    slice.ptr = ptr;
    slice.len = len;
    return slice;
}

static inline void answer(const turso_sync_io_item_t *item, const char *body, size_t len) {
    turso_slice_ref_t head = slice_of(body, len / 2), tail = slice_of(body + len / 2, len - len / 2);
    OK(turso_sync_database_io_status(item, 200));
    OK(turso_sync_database_io_push_buffer(item, &head));
    OK(turso_sync_database_io_push_buffer(item, &tail));
    OK(turso_sync_database_io_done(item));
}

static inline const turso_sync_io_item_t *take(const turso_sync_database_t *db) {
    const turso_sync_io_item_t *item = POISON;
    REQUIRE(OK(turso_sync_database_io_take_item(db, &item, err())));
    REQUIRE(item != POISON);
    return item;
}

/* Serves files until an HTTP request comes; NULL if the operation ends before. */
static inline const turso_sync_io_item_t *next_http(const turso_sync_database_t *db, const turso_sync_operation_t *op) {
    for (;;) {
        turso_status_code_t status = turso_sync_operation_resume(op, NULL);
        if (status != TURSO_IO) {
            return NULL;
        }
        const turso_sync_io_item_t *item = take(db);
        REQUIRE(item != NULL);
        if (turso_sync_database_io_request_kind(item) == TURSO_SYNC_IO_HTTP) {
            return item;
        }
        OK(turso_sync_database_io_perform_file(item, err()));
        turso_sync_database_io_item_deinit(item);
        OK(turso_sync_database_io_step_callbacks(db, err()));
    }
}

/* Drives an operation to its end; every HTTP request gets `body`. */
static inline turso_status_code_t drive(const turso_sync_database_t *db, const turso_sync_operation_t *op,
                                        const char *body, size_t len) {
    const turso_sync_io_item_t *item;
    while ((item = next_http(db, op)) != NULL) {
        answer(item, body, len);
        turso_sync_database_io_item_deinit(item);
    }
    return turso_sync_operation_resume(op, err()); /* repeats its answer */
}

/* Drives an operation against the empty remote. */
static inline turso_status_code_t drive_empty(const turso_sync_database_t *db, const turso_sync_operation_t *op) {
    return drive(db, op, empty_remote, sizeof empty_remote);
}

/* --------------------------------------------------------------------------------------------------------- helpers */

typedef turso_status_code_t (*begin_t)(const turso_sync_database_t *, const turso_sync_operation_t **, const char **);

static inline const turso_sync_operation_t *begin(const turso_sync_database_t *db, begin_t function) {
    const turso_sync_operation_t *op = NULL;
    REQUIRE(OK(function(db, &op, err())));
    REQUIRE(op != NULL);
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
    return op;
}

static inline turso_database_config_t database_config(const char *path) {
    turso_database_config_t config;
    memset(&config, 0, sizeof config);
    config.path = path;
    config.async_io = 1;
    return config;
}

static inline turso_sync_database_config_t sync_config(const char *path) {
    turso_sync_database_config_t config;
    memset(&config, 0, sizeof config);
    config.path = path;
    config.remote_url = "http://remote.example";
    config.client_name = "contract";
    config.bootstrap_if_empty = true;
    return config;
}

static inline const turso_sync_database_t *new_replica(const char *path) {
    turso_database_config_t database = database_config(path);
    turso_sync_database_config_t sync = sync_config(path);
    const turso_sync_database_t *db = NULL;
    REQUIRE(OK(turso_sync_database_new(&database, &sync, &db, err())));
    return db;
}

static inline const turso_sync_database_t *created_replica(const char *path) {
    const turso_sync_database_t *db = new_replica(path);
    const turso_sync_operation_t *op = begin(db, turso_sync_database_create);
    REQUIRE(DONE(drive_empty(db, op)));
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
    turso_sync_operation_deinit(op);
    return db;
}

static inline const turso_connection_t *connect_to(const turso_sync_database_t *db) {
    const turso_connection_t *connection = NULL;
    const turso_sync_operation_t *op = begin(db, turso_sync_database_connect);
    REQUIRE(DONE(drive_empty(db, op)));
    REQUIRE(OK(turso_sync_operation_result_extract_connection(op, &connection)));
    turso_sync_operation_deinit(op);
    return connection;
}

/* A page stream of revision "1" that holds a database with table `remote` of one row. */
static inline struct bytes remote_database(const char *path) {
    static const char page_head[2][7] = {{(char)0x83, 0x20, 0x12, (char)0x80, 0x20},
                                         {(char)0x85, 0x20, 0x08, 0, 0x12, (char)0x80, 0x20}};
    turso_database_config_t config = database_config(path);
    const turso_database_t *database = NULL;
    turso_connection_t *connection = NULL;
    struct bytes stream;
    char page[PAGE];
    unsigned pages = 0;
    REQUIRE(OK(turso_database_new(&config, &database, err())));
    REQUIRE(OK(turso_database_open(database, err())));
    REQUIRE(OK(turso_database_connect(database, &connection, err())));
    run_sql(connection, "PRAGMA page_size = 4096; CREATE TABLE remote (x); INSERT INTO remote VALUES ('from afar')");
    turso_connection_deinit(connection);
    turso_database_deinit(database);

    FILE *file = fopen(path, "rb");
    REQUIRE(file != NULL);
    stream.data = malloc(16 * (PAGE + 7));
    REQUIRE(stream.data != NULL);
    stream.len = 10;
    while (pages < 16 && fread(page, 1, PAGE, file) == PAGE) {
        size_t head = pages == 0 ? 5 : 7;
        if (pages == 0) {
            page[18] = page[19] = 2; /* remotes use write-ahead logs */
        }
        memcpy(stream.data + stream.len, page_head[pages > 0], head);
        if (pages > 0) {
            stream.data[stream.len + 3] = (char)pages;
        }
        memcpy(stream.data + stream.len + head, page, PAGE);
        stream.len += head + PAGE;
        pages++;
    }
    fclose(file);
    const char header[] = {0x09, 0x0a, 0x01, 0x31, 0x10, (char)pages, 0x1a, 0x00, 0x40, 0x01};
    memcpy(stream.data, header, sizeof header);
    return stream;
}

static inline const turso_sync_changes_t *wait_for(const turso_sync_database_t *db, struct bytes stream) {
    const turso_sync_changes_t *changes = NULL;
    const turso_sync_operation_t *op = begin(db, turso_sync_database_wait_changes);
    REQUIRE(DONE(drive(db, op, stream.data, stream.len)));
    REQUIRE(OK(turso_sync_operation_result_extract_changes(op, &changes)));
    turso_sync_operation_deinit(op);
    REQUIRE(changes != NULL);
    return changes;
}

#endif

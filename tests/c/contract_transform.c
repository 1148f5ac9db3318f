/*
 * Contract of transform requests: what is asked, what can be answered, and what arrives in the push. Argument: an empty
 * directory. The remote is canned.
 */
#include "replica.h"

/* ------------------------------------------------------------------------------------------------------ the remote */

static const char no_watermark[] =
    "{\"baton\":null,\"results\":[{\"type\":\"ok\",\"response\":{\"type\":\"batch\",\"result\":"
    "{\"step_results\":[null],\"step_errors\":[{\"message\":\"no such table: w\",\"code\":\"E\"}]}}}]}";

/* Answers a batch: every step has succeeded. */
static void answer_batch(const turso_sync_io_item_t *item, const char *request) {
    static char text[64 << 10];
    size_t len = 0, steps = 0;
    for (const char *at = request; (at = strstr(at, "\"condition\"")) != NULL; at++) {
        steps++;
    }
    REQUIRE(steps > 0 && steps < 100);
#define ADD(...) len += (size_t)snprintf(text + len, sizeof text - len, __VA_ARGS__)
    ADD("{\"baton\":null,\"results\":[{\"type\":\"ok\",\"response\":{\"type\":\"batch\",\"result\":{\"step_results\":[");
    for (size_t i = 0; i < steps; i++) {
        ADD("%s{\"cols\":[],\"rows\":[],\"affected_row_count\":0,\"last_insert_rowid\":null}", i > 0 ? "," : "");
    }
    ADD("],\"step_errors\":[");
    for (size_t i = 0; i < steps; i++) {
        ADD("%snull", i > 0 ? "," : "");
    }
    ADD("]}}}]}");
    answer(item, text, len);
}

/* Drives a push until it ends or asks for a transformation; the item then. The bodies of requests go to `sent`. */
static const turso_sync_io_item_t *next_transform(const turso_sync_database_t *db, const turso_sync_operation_t *op,
                                                  char *sent, size_t size) {
    while (turso_sync_operation_resume(op, NULL) == TURSO_IO) {
        const turso_sync_io_item_t *item = take(db);
        turso_sync_io_http_request_t http;
        REQUIRE(item != NULL);
        switch (turso_sync_database_io_request_kind(item)) {
        case TURSO_SYNC_IO_TRANSFORM:
            return item;
        case TURSO_SYNC_IO_HTTP:
            OK(turso_sync_database_io_request_http(item, &http));
            REQUIRE(http.body.len < size);
            memcpy(sent, http.body.ptr, http.body.len);
            sent[http.body.len] = 0;
            if (strstr(sent, "BEGIN IMMEDIATE") == NULL) {
                answer(item, no_watermark, sizeof no_watermark - 1);
            } else {
                answer_batch(item, sent);
            }
            break;
        default:
            OK(turso_sync_database_io_perform_file(item, err()));
        }
        turso_sync_database_io_item_deinit(item);
    }
    return NULL;
}

/* --------------------------------------------------------------------------------------------------------- helpers */

static const turso_sync_database_t *replica(const char *path) {
    turso_database_config_t database = database_config(path);
    turso_sync_database_config_t sync = sync_config(path);
    turso_sync_options_t options;
    const turso_sync_database_t *db = NULL;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.use_transform = 2;
    FAILS(TURSO_MISUSE, "use_transform must be 0 or 1, not 2",
          turso_sync_database_new_with_options(&database, &sync, &options, &db, err()));
    options.use_transform = 1;
    REQUIRE(OK(turso_sync_database_new_with_options(&database, &sync, &options, &db, err())));
    const turso_sync_operation_t *op = begin(db, turso_sync_database_create);
    REQUIRE(DONE(drive_empty(db, op)));
    turso_sync_operation_deinit(op);
    return db;
}

static bool is(turso_slice_ref_t slice, const char *text) {
    return slice.len == strlen(text) && memcmp(slice.ptr, text, slice.len) == 0;
}

static turso_sync_mutation_t mutation_of(const turso_sync_io_item_t *item, size_t index) {
    turso_sync_mutation_t mutation;
    memset(&mutation, 0x5a, sizeof mutation);
    mutation.size = sizeof mutation;
    OK(turso_sync_database_io_transform_mutation(item, index, &mutation));
    return mutation;
}

static turso_sync_mutation_column_t column_of(const turso_sync_io_item_t *item, size_t index, size_t column_index) {
    turso_sync_mutation_column_t column;
    memset(&column, 0x5a, sizeof column);
    column.size = sizeof column;
    OK(turso_sync_database_io_transform_column(item, index, column_index, &column));
    return column;
}

static turso_sync_value_t text_value(const char *text) {
    turso_sync_value_t value;
    memset(&value, 0, sizeof value);
    value.value_type = TURSO_TYPE_TEXT;
    value.bytes = slice_of(text, strlen(text));
    return value;
}

static turso_status_code_t rewrite(const turso_sync_io_item_t *item, size_t index, const char *sql,
                                   const turso_sync_value_t *values, size_t count) {
    turso_slice_ref_t slice = slice_of(sql, strlen(sql));
    return turso_sync_database_io_transform_rewrite(item, index, &slice, values, count, err());
}

/* ----------------------------------------------------------------------------------------------------------- tests */

static void test_what_is_asked(const turso_sync_io_item_t *item) {
    CHECK(turso_sync_database_io_transform_count(item) == 4);
    turso_sync_mutation_t mutation = mutation_of(item, 0);
    CHECK(mutation.mutation_type == TURSO_SYNC_MUTATION_INSERT && mutation.rowid == 5);
    CHECK(is(mutation.table, "Notes") && mutation.columns == 3 && mutation.unix_time > 1700000000);
    CHECK(mutation.change_id > 0 && mutation.transaction_id > 0);
    turso_sync_mutation_column_t column = column_of(item, 0, 0);
    CHECK(is(column.name, "id") && column.is_key == 1 && column.before.value_type == TURSO_TYPE_UNKNOWN);
    CHECK(column.after.value_type == TURSO_TYPE_INTEGER && column.after.integer == 5);
    column = column_of(item, 0, 1);
    CHECK(is(column.name, "body") && column.is_key == 0);
    CHECK(column.after.value_type == TURSO_TYPE_TEXT && is(column.after.bytes, "first"));
    CHECK(column.update.value_type == TURSO_TYPE_UNKNOWN);

    mutation = mutation_of(item, 1);
    CHECK(mutation.mutation_type == TURSO_SYNC_MUTATION_UPDATE);
    column = column_of(item, 1, 2);
    CHECK(column.before.value_type == TURSO_TYPE_NULL && column.after.value_type == TURSO_TYPE_REAL);
    CHECK(column.update.value_type == TURSO_TYPE_REAL && column.update.real == 1.5);
    column = column_of(item, 1, 1);
    CHECK(column.update.value_type == TURSO_TYPE_UNKNOWN && is(column.before.bytes, "first"));

    mutation = mutation_of(item, 2);
    CHECK(mutation.mutation_type == TURSO_SYNC_MUTATION_DELETE);
    column = column_of(item, 2, 2);
    CHECK(column.before.value_type == TURSO_TYPE_REAL && column.after.value_type == TURSO_TYPE_UNKNOWN);

    /* Each change has its own layout: by now there is a column more. */
    CHECK(mutation_of(item, 3).columns == 4);
    CHECK(column_of(item, 3, 3).after.value_type == TURSO_TYPE_BLOB);
}

static void test_wrong_use(const turso_sync_io_item_t *item) {
    turso_sync_mutation_t mutation;
    turso_sync_mutation_column_t column;
    turso_sync_value_t values[2] = {text_value("a"), text_value("b")};
    turso_slice_ref_t slice;
    memset(&mutation, 0, sizeof mutation);
    memset(&column, 0, sizeof column);
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_mutation(item, 0, &mutation)); /* no size */
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_column(item, 0, 0, &column));
    mutation.size = sizeof mutation;
    column.size = sizeof column;
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_mutation(NULL, 0, &mutation));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_mutation(item, 0, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_mutation(item, 4, &mutation));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_column(item, 0, 3, &column));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_column(item, 0, SIZE_MAX, &column));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_column(item, 4, 0, &column));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_column(item, 0, 0, NULL));
    CHECK(mutation.table.ptr == NULL && column.name.ptr == NULL);
    /* An older program knows fewer fields. */
    mutation.size = offsetof(turso_sync_mutation_t, columns);
    mutation.columns = 99;
    OK(turso_sync_database_io_transform_mutation(item, 0, &mutation));
    CHECK(mutation.columns == 99 && mutation.rowid == 5);

    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_keep(item, 4));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_skip(item, SIZE_MAX));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_keep(NULL, 0));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_skip(NULL, 0));
    CHECK(turso_sync_database_io_transform_count(NULL) == 0);
    FAILS(TURSO_MISUSE, "null pointer", turso_sync_database_io_transform_rewrite(item, 0, NULL, NULL, 0, err()));
    slice = slice_of("\xff", 1);
    FAILS(TURSO_MISUSE, "UTF-8", turso_sync_database_io_transform_rewrite(item, 0, &slice, NULL, 0, err()));
    slice = slice_of("SELECT 1", 8);
    FAILS(TURSO_MISUSE, "null pointer", turso_sync_database_io_transform_rewrite(NULL, 0, &slice, NULL, 0, err()));
    FAILS(TURSO_MISUSE, "null pointer", turso_sync_database_io_transform_rewrite(item, 0, &slice, NULL, 1, err()));
    FAILS(TURSO_MISUSE, "out of range", turso_sync_database_io_transform_rewrite(item, 4, &slice, NULL, 0, err()));
    FAILS(TURSO_MISUSE, "must begin with", rewrite(item, 0, "COMMIT", NULL, 0));
    FAILS(TURSO_MISUSE, "one whole statement", rewrite(item, 0, "SELECT 1; COMMIT", NULL, 0));
    FAILS(TURSO_MISUSE, "1 parameters and 2 values", rewrite(item, 0, "SELECT ?", values, 2));
    values[0].value_type = 6;
    FAILS(TURSO_MISUSE, "unknown value_type: 6", rewrite(item, 0, "SELECT ?", values, 1));
    values[0] = text_value("\xff");
    FAILS(TURSO_MISUSE, "UTF-8", rewrite(item, 0, "SELECT ?", values, 1));

    /* It is no file, and no HTTP request. */
    turso_sync_io_http_request_t http;
    FAILS(TURSO_MISUSE, "not a file request", turso_sync_database_io_perform_file(item, err()));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_request_http(item, &http));
}

static void test_transform(const char *directory) {
    static char sent[256 << 10];
    const turso_sync_database_t *db = replica(in_directory(directory, "transform.db"));
    const turso_connection_t *connection = connect_to(db);
    run_sql(connection, "CREATE TABLE Notes (id INTEGER PRIMARY KEY, body TEXT, score)");
    run_sql(connection, "INSERT INTO notes (id, body) VALUES (5, 'first'); UPDATE notes SET score = 1.5");
    run_sql(connection, "DELETE FROM notes; ALTER TABLE notes ADD COLUMN more");
    run_sql(connection, "INSERT INTO notes VALUES (6, 'second', NULL, x'00')");

    /* One change was left out: nothing is sent. */
    const turso_sync_operation_t *op = begin(db, turso_sync_database_push_changes);
    const turso_sync_io_item_t *item = next_transform(db, op, sent, sizeof sent);
    REQUIRE(item != NULL);
    test_what_is_asked(item);
    test_wrong_use(item);
    OK(turso_sync_database_io_transform_keep(item, 0));
    OK(turso_sync_database_io_done(item));
    turso_sync_database_io_item_deinit(item);
    FAILS(TURSO_MISUSE, "not decided about mutation 1 of 4", turso_sync_operation_resume(op, err()));
    turso_sync_operation_deinit(op);
    CHECK(strstr(sent, "first") == NULL);

    /* The host gives up. */
    op = begin(db, turso_sync_database_push_changes);
    item = next_transform(db, op, sent, sizeof sent);
    REQUIRE(item != NULL);
    turso_slice_ref_t reason = slice_of("no key", 6);
    OK(turso_sync_database_io_poison(item, &reason));
    turso_sync_database_io_item_deinit(item);
    FAILS(TURSO_ERROR, "no key", turso_sync_operation_resume(op, err()));
    turso_sync_operation_deinit(op);

    /* Keep, rewrite, skip; the last word counts, and what the rewrite points to is copied. */
    op = begin(db, turso_sync_database_push_changes);
    item = next_transform(db, op, sent, sizeof sent);
    REQUIRE(item != NULL);
    char *secret = malloc(7);
    REQUIRE(secret != NULL);
    strcpy(secret, "sealed");
    turso_sync_value_t values[2] = {text_value(secret), text_value("")};
    values[1].value_type = TURSO_TYPE_BLOB;
    OK(turso_sync_database_io_transform_skip(item, 0));
    OK(rewrite(item, 0, "INSERT INTO sealed VALUES (?, ?)", values, 2));
    OK(turso_sync_database_io_transform_skip(item, 1));
    OK(turso_sync_database_io_transform_skip(item, 2));
    OK(turso_sync_database_io_transform_keep(item, 3));
    free(secret);
    OK(turso_sync_database_io_done(item));
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_keep(item, 0)); /* too late */
    turso_sync_database_io_item_deinit(item);
    REQUIRE(next_transform(db, op, sent, sizeof sent) == NULL);
    DONE(turso_sync_operation_resume(op, err()));
    turso_sync_operation_deinit(op);
    CHECK(strstr(sent, "INSERT INTO sealed VALUES (?, ?)") != NULL && strstr(sent, "\"sealed\"") != NULL);
    CHECK(strstr(sent, "second") != NULL && strstr(sent, "first") == NULL && strstr(sent, "1.5") == NULL);

    /* Other kinds of items ask about nothing. */
    op = begin(db, turso_sync_database_wait_changes);
    item = next_http(db, op);
    REQUIRE(item != NULL);
    CHECK(turso_sync_database_io_transform_count(item) == 0);
    REFUSES(TURSO_MISUSE, turso_sync_database_io_transform_keep(item, 0));
    turso_sync_database_io_item_deinit(item);
    turso_sync_operation_deinit(op);
    turso_connection_deinit(connection);
    turso_sync_database_deinit(db);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    test_transform(argv[1]);
    return verdict("contract_transform");
}

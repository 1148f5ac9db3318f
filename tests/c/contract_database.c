/*
 * Contract of turso.h: wrong arguments, wrong order, and what right ones do. Argument: an empty directory.
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <sched.h>

#include "harness.h"

static turso_database_config_t config_of(const char *path) {
    turso_database_config_t config;
    memset(&config, 0, sizeof config);
    config.path = path;
    return config;
}

static const turso_database_t *open_database(const char *path) {
    turso_database_config_t config = config_of(path);
    const turso_database_t *database = NULL;
    REQUIRE(OK(turso_database_new(&config, &database, err())));
    REQUIRE(OK(turso_database_open(database, err())));
    return database;
}

static turso_connection_t *open_connection(const char *path) {
    const turso_database_t *database = open_database(path);
    turso_connection_t *connection = NULL;
    REQUIRE(OK(turso_database_connect(database, &connection, err())));
    turso_database_deinit(database); /* connections outlive their database */
    return connection;
}

static void ignore_log(const turso_log_t *log) {
    (void)log;
}

static void test_setup(void) {
    turso_config_t config;
    memset(&config, 0, sizeof config);
    CHECK(strcmp(turso_version(), TURSO_VERSION) == 0);
    FAILS(TURSO_MISUSE, "config pointer must be not null", turso_setup(NULL, err()));
    OK(turso_setup(&config, err()));
    config.log_level = "loud";
    FAILS(TURSO_ERROR, "loud", turso_setup(&config, err()));
    REFUSES(TURSO_ERROR, turso_setup(&config, NULL));
    config.log_level = "\xff";
    FAILS(TURSO_MISUSE, "UTF-8", turso_setup(&config, err()));
    config.log_level = "trace";
    config.logger = ignore_log;
    OK(turso_setup(&config, err()));
    OK(turso_setup(&config, err()));
}

static void test_configuration(const char *directory) {
    const turso_database_t *database = POISON;
    turso_database_config_t config = config_of(in_directory(directory, "unused.db"));
    FAILS(TURSO_MISUSE, "config pointer must be not null", turso_database_new(NULL, &database, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_database_new(&config, NULL, err()));
    config.path = NULL;
    FAILS(TURSO_MISUSE, "expected zero terminated c string, got null pointer",
          turso_database_new(&config, &database, err()));
    config.path = "\xff\xfe";
    FAILS(TURSO_MISUSE, "UTF-8", turso_database_new(&config, &database, err()));
    config = config_of("x");
    config.open_flags = 2;
    FAILS(TURSO_MISUSE, "open_flags", turso_database_new(&config, &database, err()));
    config = config_of("x");
    config.encryption_cipher = "aes256gcm";
    FAILS(TURSO_ERROR, "not supported", turso_database_new(&config, &database, err()));
    config = config_of("x");
    config.encryption_hexkey = "00";
    FAILS(TURSO_ERROR, "not supported", turso_database_new(&config, &database, err()));
    config = config_of("x");
    config.page_codec = POISON;
    FAILS(TURSO_ERROR, "not supported", turso_database_new(&config, &database, err()));
    config = config_of("x");
    config.vfs = "floppy";
    FAILS(TURSO_ERROR, "floppy", turso_database_new(&config, &database, err()));
    config.vfs = NULL;
    config.experimental_features = "\xff";
    FAILS(TURSO_MISUSE, "UTF-8", turso_database_new(&config, &database, err()));
    CHECK(database == POISON);
    REFUSES(TURSO_MISUSE, turso_database_new(NULL, NULL, NULL));

    config.experimental_features = "views,triggers";
    config.vfs = "io_uring";
    config.async_io = 1;
    if (OK(turso_database_new(&config, &database, err()))) {
        turso_database_deinit(database);
    }
}

static void test_null_handles(void) {
    turso_connection_t *connection = POISON;
    turso_statement_t *statement = POISON;
    size_t tail = 77;
    uint64_t changed = 77;
    const char *null = "got null pointer";
    FAILS(TURSO_MISUSE, null, turso_database_open(NULL, err()));
    FAILS(TURSO_MISUSE, null, turso_database_connect(NULL, &connection, err()));
    FAILS(TURSO_MISUSE, null, turso_connection_prepare_single(NULL, "SELECT 1", &statement, err()));
    FAILS(TURSO_MISUSE, null, turso_connection_prepare_first(NULL, "SELECT 1", &statement, &tail, err()));
    FAILS(TURSO_MISUSE, null, turso_connection_close(NULL, err()));
    FAILS(TURSO_MISUSE, null, turso_statement_execute(NULL, &changed, err()));
    FAILS(TURSO_MISUSE, null, turso_statement_step(NULL, err()));
    FAILS(TURSO_MISUSE, null, turso_statement_run_io(NULL, err()));
    FAILS(TURSO_MISUSE, null, turso_statement_reset(NULL, err()));
    FAILS(TURSO_MISUSE, null, turso_statement_finalize(NULL, err()));
    CHECK(connection == POISON && statement == POISON && tail == 77 && changed == 77);
    turso_connection_set_busy_timeout_ms(NULL, 5);
    CHECK(!turso_connection_get_autocommit(NULL));
    CHECK(turso_connection_last_insert_rowid(NULL) == 0);
    CHECK(turso_statement_n_change(NULL) == 0);
    CHECK(turso_statement_column_count(NULL) == -1);
    CHECK(turso_statement_column_name(NULL, 0) == NULL);
    CHECK(turso_statement_column_decltype(NULL, 0) == NULL);
    CHECK(turso_statement_row_value_kind(NULL, 0) == TURSO_TYPE_UNKNOWN);
    CHECK(turso_statement_row_value_bytes_count(NULL, 0) == -1);
    CHECK(turso_statement_row_value_bytes_ptr(NULL, 0) == NULL);
    CHECK(turso_statement_row_value_int(NULL, 0) == 0);
    CHECK(turso_statement_row_value_double(NULL, 0) == 0.0);
    CHECK(turso_statement_named_position(NULL, ":a") == -1);
    CHECK(turso_statement_parameters_count(NULL) == -1);
    CHECK(turso_statement_parameter_name(NULL, 1) == NULL);
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_null(NULL, 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_int(NULL, 1, 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_double(NULL, 1, 1.0));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_blob(NULL, 1, "x", 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_text(NULL, 1, "x", 1));
    turso_str_deinit(NULL);
    turso_database_deinit(NULL);
    turso_connection_deinit(NULL);
    turso_statement_deinit(NULL);
}

static void test_opening(const char *directory) {
    turso_database_config_t config = config_of(in_directory(directory, "opening.db"));
    const turso_database_t *database = NULL;
    turso_connection_t *connection = POISON;
    REQUIRE(OK(turso_database_new(&config, &database, err())));
    FAILS(TURSO_MISUSE, "opened", turso_database_connect(database, &connection, err()));
    CHECK(connection == POISON);
    OK(turso_database_open(database, err()));
    OK(turso_database_open(database, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_database_connect(database, NULL, err()));
    REQUIRE(OK(turso_database_connect(database, &connection, err())));
    run_sql(connection, "CREATE TABLE t (x); INSERT INTO t VALUES (1)");
    turso_connection_deinit(connection);
    turso_database_deinit(database);

    config.open_flags = TURSO_DATABASE_OPEN_READONLY;
    REQUIRE(OK(turso_database_new(&config, &database, err())));
    REQUIRE(OK(turso_database_open(database, err())));
    REQUIRE(OK(turso_database_connect(database, &connection, err())));
    CHECK(query_int(connection, "SELECT x FROM t") == 1);
    turso_statement_t *statement = prepare(connection, "DELETE FROM t");
    FAILS(TURSO_READONLY, "", turso_statement_execute(statement, NULL, err()));
    turso_statement_deinit(statement);
    turso_connection_deinit(connection);
    turso_database_deinit(database);

    FILE *file = fopen(in_directory(directory, "not.db"), "wb");
    REQUIRE(file != NULL);
    for (int i = 0; i < 1000; i++) {
        fputs("this is not a database\n", file);
    }
    fclose(file);
    config = config_of(in_directory(directory, "not.db"));
    REQUIRE(OK(turso_database_new(&config, &database, err())));
    FAILS(TURSO_NOTADB, "not a database", turso_database_open(database, err()));
    turso_database_deinit(database);
}

static void test_memory(void) {
    const turso_database_t *database = open_database(":memory:");
    turso_connection_t *connection = NULL, *second = POISON;
    REQUIRE(OK(turso_database_connect(database, &connection, err())));
    FAILS(TURSO_ERROR, "not supported", turso_database_connect(database, &second, err()));
    CHECK(second == POISON);
    turso_database_deinit(database);
    run_sql(connection, "CREATE TABLE t (x); INSERT INTO t VALUES (3)");
    CHECK(query_int(connection, "SELECT x FROM t") == 3);
    turso_connection_deinit(connection);
}

static void test_prepare(const turso_connection_t *connection) {
    turso_statement_t *statement = POISON;
    size_t tail = 77;
    FAILS(TURSO_MISUSE, "got null pointer", turso_connection_prepare_single(connection, NULL, &statement, err()));
    FAILS(TURSO_MISUSE, "UTF-8", turso_connection_prepare_single(connection, "SELECT '\xff'", &statement, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_connection_prepare_single(connection, "SELECT 1", NULL, err()));
    FAILS(TURSO_MISUSE, "no statement", turso_connection_prepare_single(connection, " -- x", &statement, err()));
    FAILS(TURSO_MISUSE, "more than one",
          turso_connection_prepare_single(connection, "SELECT 1; SELECT 2", &statement, err()));
    FAILS(TURSO_ERROR, "syntax error", turso_connection_prepare_single(connection, "SELEC 1", &statement, err()));
    FAILS(TURSO_ERROR, "no such table",
          turso_connection_prepare_single(connection, "SELECT * FROM missing", &statement, err()));
    FAILS(TURSO_MISUSE, "got null pointer",
          turso_connection_prepare_first(connection, NULL, &statement, &tail, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_connection_prepare_first(connection, "SELECT 1", NULL, &tail, err()));
    FAILS(TURSO_ERROR, "syntax error", turso_connection_prepare_first(connection, "SELEC", &statement, &tail, err()));
    CHECK(statement == POISON && tail == 77);

    REQUIRE(OK(turso_connection_prepare_single(connection, "SELECT 1; -- only a comment", &statement, err())));
    turso_statement_deinit(statement);
    REQUIRE(OK(turso_connection_prepare_first(connection, "SELECT 1; SELECT 2", &statement, &tail, err())));
    CHECK(tail == 9);
    turso_statement_deinit(statement);
    REQUIRE(OK(turso_connection_prepare_first(connection, "SELECT 1", &statement, NULL, err())));
    turso_statement_deinit(statement);
    statement = POISON;
    tail = 77;
    OK(turso_connection_prepare_first(connection, " /* nothing */ ", &statement, &tail, err()));
    CHECK(statement == NULL && tail == 77);
    OK(turso_connection_prepare_first(connection, "", &statement, NULL, err()));
}

static void test_binding(const turso_connection_t *connection) {
    turso_statement_t *s = prepare(connection, "SELECT ?1, :b, @c, $d, ?5");
    CHECK(turso_statement_parameters_count(s) == 5);
    CHECK(turso_statement_named_position(s, ":b") == 2);
    CHECK(turso_statement_named_position(s, "@c") == 3);
    CHECK(turso_statement_named_position(s, "$d") == 4);
    CHECK(turso_statement_named_position(s, "b") == -1);
    CHECK(turso_statement_named_position(s, NULL) == -1);
    CHECK(turso_statement_named_position(s, "\xff") == -1);
    const char *name = turso_statement_parameter_name(s, 2);
    CHECK(name != NULL && strcmp(name, ":b") == 0);
    turso_str_deinit(name);
    CHECK(turso_statement_parameter_name(s, 0) == NULL);
    CHECK(turso_statement_parameter_name(s, 6) == NULL);
    CHECK(turso_statement_parameter_name(s, -1) == NULL);
    CHECK(turso_statement_parameter_name(s, INT64_MIN) == NULL);

    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_null(s, 0));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_int(s, 6, 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_double(s, SIZE_MAX, 1.0));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_text(s, 6, "x", 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_blob(s, 0, "x", 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_text(s, 1, NULL, 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_blob(s, 1, NULL, 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_text(s, 1, "\xff", 1));
    REFUSES(TURSO_MISUSE, turso_statement_bind_positional_blob(s, 1, "x", SIZE_MAX));

    char copied[] = "copied";
    OK(turso_statement_bind_positional_int(s, 1, INT64_MIN));
    OK(turso_statement_bind_positional_double(s, 2, -0.5));
    OK(turso_statement_bind_positional_text(s, 3, copied, 6));
    OK(turso_statement_bind_positional_blob(s, 4, NULL, 0));
    OK(turso_statement_bind_positional_text(s, 5, "a\0b", 3));
    memset(copied, 'x', sizeof copied - 1);
    REQUIRE(ROW(turso_statement_step(s, err())));
    CHECK(turso_statement_row_value_int(s, 0) == INT64_MIN);
    CHECK(turso_statement_row_value_double(s, 1) == -0.5);
    CHECK(turso_statement_row_value_bytes_count(s, 2) == 6);
    CHECK(memcmp(turso_statement_row_value_bytes_ptr(s, 2), "copied", 6) == 0);
    CHECK(turso_statement_row_value_kind(s, 3) == TURSO_TYPE_BLOB);
    CHECK(turso_statement_row_value_bytes_count(s, 3) == 0);
    CHECK(turso_statement_row_value_bytes_ptr(s, 3) != NULL);
    CHECK(turso_statement_row_value_bytes_count(s, 4) == 3);
    CHECK(memcmp(turso_statement_row_value_bytes_ptr(s, 4), "a\0b", 3) == 0);
    DONE(turso_statement_step(s, err()));
    OK(turso_statement_reset(s, err()));
    REQUIRE(ROW(turso_statement_step(s, err())));
    CHECK(turso_statement_row_value_kind(s, 0) == TURSO_TYPE_NULL); /* reset clears the parameters */
    turso_statement_deinit(s);
}

static void test_rows(const turso_connection_t *connection) {
    turso_statement_t *s = prepare(connection, "SELECT 7 AS seven, 1.5, 'text', x'0001', NULL");
    CHECK(turso_statement_column_count(s) == 5);
    CHECK(turso_statement_row_value_kind(s, 0) == TURSO_TYPE_UNKNOWN); /* no row yet */
    CHECK(turso_statement_row_value_int(s, 0) == 0);
    REQUIRE(ROW(turso_statement_step(s, err())));
    static const turso_type_t kinds[] = {TURSO_TYPE_INTEGER, TURSO_TYPE_REAL, TURSO_TYPE_TEXT, TURSO_TYPE_BLOB,
                                         TURSO_TYPE_NULL, TURSO_TYPE_UNKNOWN};
    for (size_t i = 0; i < 6; i++) {
        bool bytes = kinds[i] == TURSO_TYPE_TEXT || kinds[i] == TURSO_TYPE_BLOB;
        CHECK(turso_statement_row_value_kind(s, i) == kinds[i]);
        CHECK(turso_statement_row_value_int(s, i) == (kinds[i] == TURSO_TYPE_INTEGER ? 7 : 0));
        CHECK(turso_statement_row_value_double(s, i) == (kinds[i] == TURSO_TYPE_REAL ? 1.5 : 0.0));
        CHECK((turso_statement_row_value_bytes_count(s, i) == -1) == !bytes);
        CHECK((turso_statement_row_value_bytes_ptr(s, i) == NULL) == !bytes);
    }
    CHECK(turso_statement_row_value_kind(s, SIZE_MAX) == TURSO_TYPE_UNKNOWN);
    const char *name = turso_statement_column_name(s, 0);
    CHECK(name != NULL && strcmp(name, "seven") == 0);
    turso_str_deinit(name);
    CHECK(turso_statement_column_name(s, 5) == NULL);
    CHECK(turso_statement_column_name(s, SIZE_MAX) == NULL);
    CHECK(turso_statement_column_decltype(s, 0) == NULL);
    CHECK(turso_statement_column_decltype(s, SIZE_MAX) == NULL);
    DONE(turso_statement_step(s, err()));
    CHECK(turso_statement_row_value_kind(s, 0) == TURSO_TYPE_UNKNOWN);
    OK(turso_statement_run_io(s, err()));
    DONE(turso_statement_finalize(s, err()));
    CHECK(turso_statement_column_count(s) == 0);
    CHECK(turso_statement_column_name(s, 0) == NULL);
    CHECK(turso_statement_step(s, NULL) >= TURSO_ERROR); /* finalized */
    CHECK(turso_statement_execute(s, NULL, NULL) >= TURSO_ERROR);
    CHECK(turso_statement_bind_positional_null(s, 1) >= TURSO_ERROR);
    turso_statement_deinit(s);

    run_sql(connection, "CREATE TABLE types (a INTEGER, b VARCHAR(10))");
    s = prepare(connection, "SELECT b FROM types");
    name = turso_statement_column_decltype(s, 0);
    CHECK(name != NULL && strcmp(name, "VARCHAR(10)") == 0);
    turso_str_deinit(name);
    turso_statement_deinit(s);
}

static void test_changes(const turso_connection_t *connection) {
    uint64_t changed = 77;
    run_sql(connection, "CREATE TABLE c (id INTEGER PRIMARY KEY, x UNIQUE)");
    turso_statement_t *s = prepare(connection, "INSERT INTO c (x) VALUES (1), (2), (3)");
    DONE(turso_statement_execute(s, &changed, err()));
    CHECK(changed == 3 && turso_statement_n_change(s) == 3);
    CHECK(turso_connection_last_insert_rowid(connection) == 3);
    changed = 77;
    FAILS(TURSO_CONSTRAINT, "UNIQUE", turso_statement_execute(s, &changed, err()));
    CHECK(changed == 77);
    REFUSES(TURSO_CONSTRAINT, turso_statement_execute(s, NULL, NULL));
    turso_statement_deinit(s);
    CHECK(query_int(connection, "SELECT count(*) FROM c") == 3);

    CHECK(turso_connection_get_autocommit(connection));
    run_sql(connection, "BEGIN; DELETE FROM c");
    CHECK(!turso_connection_get_autocommit(connection));
    run_sql(connection, "ROLLBACK");
    CHECK(turso_connection_get_autocommit(connection));
    CHECK(query_int(connection, "SELECT count(*) FROM c") == 3);
    s = prepare(connection, "SELECT * FROM c");
    DONE(turso_statement_execute(s, &changed, err())); /* rows are discarded */
    CHECK(changed == 0);
    turso_statement_deinit(s);
}

static void test_locks(const char *path) {
    turso_connection_t *a = open_connection(path), *b = open_connection(path);
    turso_connection_set_busy_timeout_ms(b, -1);
    turso_connection_set_busy_timeout_ms(b, 0);
    run_sql(a, "CREATE TABLE IF NOT EXISTS locks (x); BEGIN IMMEDIATE");
    turso_statement_t *s = prepare(b, "INSERT INTO locks VALUES (1)");
    FAILS(TURSO_BUSY, "database is locked", turso_statement_execute(s, NULL, err()));
    run_sql(a, "COMMIT");
    OK(turso_statement_reset(s, err()));
    DONE(turso_statement_execute(s, NULL, err()));
    turso_statement_deinit(s);
    turso_connection_deinit(a);
    turso_connection_deinit(b);
}

static void *execute_in_thread(void *statement) {
    turso_status_code_t status;
    /* The other thread may be looking at the statement at this moment. */
    while ((status = turso_statement_execute(statement, NULL, NULL)) == TURSO_MISUSE) {
        sched_yield();
    }
    return status == TURSO_DONE ? statement : NULL;
}

/* A statement waits for a lock in another thread; using it meanwhile is refused. */
static void test_concurrent_use(const char *path) {
    turso_connection_t *a = open_connection(path), *b = open_connection(path);
    pthread_t thread;
    void *result = NULL;
    turso_connection_set_busy_timeout_ms(a, 600000); /* its COMMIT waits for b's look at the lock */
    turso_connection_set_busy_timeout_ms(b, 600000);
    run_sql(a, "CREATE TABLE IF NOT EXISTS locks (x); BEGIN IMMEDIATE");
    turso_statement_t *s = prepare(b, "INSERT INTO locks VALUES (1)");
    REQUIRE(pthread_create(&thread, NULL, execute_in_thread, s) == 0);
    while (turso_statement_column_count(s) != -1) {
        sched_yield(); /* or a scheduler that switches in lock step always finds the statement in use here */
    }
    FAILS(TURSO_MISUSE, "concurrent use forbidden", turso_statement_step(s, err()));
    run_sql(a, "COMMIT");
    REQUIRE(pthread_join(thread, &result) == 0);
    CHECK(result == s);
    turso_statement_deinit(s);
    turso_connection_deinit(a);
    turso_connection_deinit(b);
}

static void test_close(const char *path) {
    turso_connection_t *connection = open_connection(path);
    turso_statement_t *s = prepare(connection, "SELECT 1 UNION ALL SELECT 2"), *other = POISON;
    ROW(turso_statement_step(s, err()));
    OK(turso_connection_close(connection, err()));
    OK(turso_connection_close(connection, err()));
    FAILS(TURSO_ERROR, "Connection closed", turso_statement_step(s, err()));
    FAILS(TURSO_ERROR, "Connection closed", turso_connection_prepare_single(connection, "SELECT 1", &other, err()));
    FAILS(TURSO_ERROR, "Connection closed",
          turso_connection_prepare_first(connection, "SELECT 1", &other, NULL, err()));
    CHECK(other == POISON);
    CHECK(!turso_connection_get_autocommit(connection));
    CHECK(turso_statement_row_value_kind(s, 0) == TURSO_TYPE_UNKNOWN);
    turso_statement_deinit(s);
    turso_connection_deinit(connection);

    connection = open_connection(path); /* released before its statement */
    s = prepare(connection, "SELECT 5");
    turso_connection_deinit(connection);
    ROW(turso_statement_step(s, err()));
    CHECK(turso_statement_row_value_int(s, 0) == 5);
    turso_statement_deinit(s);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    test_setup();
    test_configuration(argv[1]);
    test_null_handles();
    test_opening(argv[1]);
    test_memory();
    char path[4096];
    snprintf(path, sizeof path, "%s", in_directory(argv[1], "plain.db"));
    turso_connection_t *connection = open_connection(path);
    test_prepare(connection);
    test_binding(connection);
    test_rows(connection);
    test_changes(connection);
    turso_connection_deinit(connection);
    test_locks(path);
    test_concurrent_use(path);
    test_close(path);
    return verdict("contract_database");
}

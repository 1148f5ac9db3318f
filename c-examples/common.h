/*
 * What the examples share: strict error handling, running SQL, opening a replica.
 */
#ifndef EXAMPLES_COMMON_H
#define EXAMPLES_COMMON_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <turso_sync.h>

/*
 * Ends the program if `status` is a failure. `error` is where the failed call put its message, or NULL. (It is a pointer
 * because C may evaluate the arguments in any order: the call that sets it is one of them.)
 */
static inline void must(turso_status_code_t status, const char **error, const char *what) {
    if (status == TURSO_OK || status == TURSO_DONE || status == TURSO_ROW) {
        return;
    }
    fprintf(stderr, "%s failed with status %u: %s\n", what, (unsigned)status,
            error != NULL && *error != NULL ? *error : "no message");
    if (error != NULL) {
        turso_str_deinit(*error);
    }
    exit(1);
}

/* Runs all statements of `sql`, one after the other. */
static inline void run_sql(const turso_connection_t *connection, const char *sql) {
    for (;;) {
        const char *error = NULL;
        turso_statement_t *statement = NULL;
        size_t used = 0;
        must(turso_connection_prepare_first(connection, sql, &statement, &used, &error), &error, sql);
        if (statement == NULL) {
            return; /* only white space and comments were left */
        }
        must(turso_statement_execute(statement, NULL, &error), &error, sql);
        turso_statement_deinit(statement);
        sql += used;
    }
}

/* The one statement of `sql`. Release it with turso_statement_deinit. */
static inline turso_statement_t *prepare(const turso_connection_t *connection, const char *sql) {
    const char *error = NULL;
    turso_statement_t *statement = NULL;
    must(turso_connection_prepare_single(connection, sql, &statement, &error), &error, sql);
    return statement;
}

/* True if the statement has produced another row. */
static inline bool next_row(const turso_statement_t *statement) {
    const char *error = NULL;
    turso_status_code_t status = turso_statement_step(statement, &error);
    must(status, &error, "step");
    return status == TURSO_ROW;
}

/* The integer that `sql` yields. */
static inline int64_t query_int(const turso_connection_t *connection, const char *sql) {
    turso_statement_t *statement = prepare(connection, sql);
    int64_t value = next_row(statement) ? turso_statement_row_value_int(statement, 0) : 0;
    turso_statement_deinit(statement);
    return value;
}

/* Prints the rows of `sql`, columns separated by " | ". */
static inline void print_rows(const turso_connection_t *connection, const char *sql) {
    turso_statement_t *statement = prepare(connection, sql);
    size_t columns = (size_t)turso_statement_column_count(statement);
    while (next_row(statement)) {
        for (size_t i = 0; i < columns; i++) {
            printf("%s", i == 0 ? "    " : " | ");
            switch (turso_statement_row_value_kind(statement, i)) {
            case TURSO_TYPE_INTEGER:
                printf("%lld", (long long)turso_statement_row_value_int(statement, i));
                break;
            case TURSO_TYPE_REAL:
                printf("%g", turso_statement_row_value_double(statement, i));
                break;
            case TURSO_TYPE_TEXT: /* not zero-terminated: the length counts */
                printf("%.*s", (int)turso_statement_row_value_bytes_count(statement, i),
                       turso_statement_row_value_bytes_ptr(statement, i));
                break;
            case TURSO_TYPE_BLOB:
                printf("(%lld bytes)", (long long)turso_statement_row_value_bytes_count(statement, i));
                break;
            default:
                printf("NULL");
            }
        }
        printf("\n");
    }
    turso_statement_deinit(statement);
}

/* A handle for the replica of `url` at `path`; nothing is opened yet. */
static inline const turso_sync_database_t *new_replica(const char *url, const char *path, const char *client_name) {
    const char *error = NULL;
    const turso_sync_database_t *replica = NULL;
    turso_database_config_t database;
    turso_sync_database_config_t sync;

    memset(&database, 0, sizeof database);
    database.path = path;
    memset(&sync, 0, sizeof sync);
    sync.path = path;
    sync.remote_url = url;
    sync.client_name = client_name;
    sync.bootstrap_if_empty = true; /* download what the remote has when the replica is new */
    must(turso_sync_database_new(&database, &sync, &replica, &error), &error, path);
    return replica;
}

/* Ends the program if some handle or string was not released. */
static inline void check_nothing_leaked(void) {
    if (turso_live_objects() != 0) {
        fprintf(stderr, "%lu objects were not released\n", (unsigned long)turso_live_objects());
        exit(1);
    }
}

#endif

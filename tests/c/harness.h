/*
 * Checks for the contract tests. Every output is poisoned before a call, so that a write on failure, or none on success,
 * is noticed.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <turso_sync.h>

static int failures;
static const char *const untouched = "untouched";
static const char *error_text = "untouched";

/* What outputs hold before a call. */
#define POISON ((void *)(uintptr_t)0x5a5a5a5a)

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

/* Ends the test at once: what follows would make no sense. */
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The place for a message, holding something that is no message. */
static inline const char **err(void) {
    error_text = untouched;
    return &error_text;
}

/* Compares a status; on failure the message must contain `text` (NULL: the function reports none). */
static inline bool expect(turso_status_code_t got, turso_status_code_t want, const char *text, const char *call,
                          const char *file, int line) {
    bool has_message = error_text != untouched;
    bool good = got == want && has_message == (text != NULL) && (text == NULL || strstr(error_text, text) != NULL);
    if (!good) {
        fprintf(stderr, "%s:%d: %s\n  status %u (expected %u), message %s (expected %s)\n", file, line, call,
                (unsigned)got, (unsigned)want, has_message ? error_text : "none", text ? text : "none");
        failures++;
    }
    if (has_message) {
        turso_str_deinit(error_text);
    }
    error_text = untouched;
    return good;
}

/* The call succeeds and leaves the message alone. */
#define OK(call) expect((call), TURSO_OK, NULL, #call, __FILE__, __LINE__)
#define DONE(call) expect((call), TURSO_DONE, NULL, #call, __FILE__, __LINE__)
#define ROW(call) expect((call), TURSO_ROW, NULL, #call, __FILE__, __LINE__)
/* The call fails with this status and a message that contains `text`. */
#define FAILS(status, text, call) expect((call), (status), (text), #call, __FILE__, __LINE__)
/* The call, which reports no message, fails with this status. */
#define REFUSES(status, call) expect((call), (status), NULL, #call, __FILE__, __LINE__)

/* Runs all statements of `sql`. */
static inline void run_sql(const turso_connection_t *connection, const char *sql) {
    for (;;) {
        turso_statement_t *statement = NULL;
        size_t used = 0;
        REQUIRE(OK(turso_connection_prepare_first(connection, sql, &statement, &used, err())));
        if (statement == NULL) {
            return;
        }
        REQUIRE(DONE(turso_statement_execute(statement, NULL, err())));
        turso_statement_deinit(statement);
        sql += used;
    }
}

static inline turso_statement_t *prepare(const turso_connection_t *connection, const char *sql) {
    turso_statement_t *statement = NULL;
    REQUIRE(OK(turso_connection_prepare_single(connection, sql, &statement, err())));
    REQUIRE(statement != NULL);
    return statement;
}

/* The integer that `sql` yields. */
static inline int64_t query_int(const turso_connection_t *connection, const char *sql) {
    turso_statement_t *statement = prepare(connection, sql);
    REQUIRE(ROW(turso_statement_step(statement, err())));
    int64_t value = turso_statement_row_value_int(statement, 0);
    turso_statement_deinit(statement);
    return value;
}

/* `directory`/`name`, in a static buffer of which there are four. */
static inline const char *in_directory(const char *directory, const char *name) {
    static char paths[4][4096];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

/* The end of every test: nothing failed and nothing leaked. */
static inline int verdict(const char *test) {
    if (turso_live_objects() != 0) {
        fprintf(stderr, "%s: %lu objects leaked\n", test, (unsigned long)turso_live_objects());
        failures++;
    }
    printf("%s: %s\n", test, failures == 0 ? "ok" : "FAILED");
    return failures == 0 ? 0 : 1;
}

#endif

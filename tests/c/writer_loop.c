/*
 * writer_loop URL PATH WORKER: writes, pushes and pulls for ever, to be killed at any moment.
 *
 * Every committed transaction is noted in PATH.acked (fsynced) after its COMMIT has returned. So after any crash every
 * noted id must be in the database, once, and be on the remote after the next push.
 */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <unistd.h>

#include "blocking.h"

struct worker {
    const turso_sync_database_t *replica;
    const turso_connection_t *connection;
    const char *name;
    int64_t next;
    int acked;
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int open_acked(const char *path) {
    char name[4096];
    if (snprintf(name, sizeof name, "%s.acked", path) >= (int)sizeof name) {
        fprintf(stderr, "path is too long\n");
        exit(1);
    }
    int file = open(name, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (file < 0) {
        die(name);
    }
    return file;
}

/* The number after the largest one that the database holds; the file may lag behind it. */
static int64_t next_number(const turso_connection_t *connection, const char *worker) {
    turso_statement_t *statement =
        prepare(connection, "SELECT coalesce(max(n) + 1, 0) FROM events WHERE worker = ?");
    must(turso_statement_bind_positional_text(statement, 1, worker, strlen(worker)), NULL, "bind");
    int64_t next = next_row(statement) ? turso_statement_row_value_int(statement, 0) : 0;
    turso_statement_deinit(statement);
    return next;
}

/* One transaction of `rows` rows; its ids are noted once it is durable. */
static void write_transaction(struct worker *w, int rows) {
    char notes[8 * 300];
    size_t used = 0;
    turso_statement_t *insert = prepare(w->connection, "INSERT INTO events (id, worker, n) VALUES (?1, ?2, ?3)");
    run_sql(w->connection, "BEGIN IMMEDIATE");
    for (int i = 0; i < rows; i++) {
        const char *error = NULL;
        char id[300];
        int len = snprintf(id, sizeof id, "%s-%lld", w->name, (long long)(w->next + i));
        must(turso_statement_bind_positional_text(insert, 1, id, (size_t)len), NULL, "bind id");
        must(turso_statement_bind_positional_text(insert, 2, w->name, strlen(w->name)), NULL, "bind worker");
        must(turso_statement_bind_positional_int(insert, 3, w->next + i), NULL, "bind n");
        must(turso_statement_execute(insert, NULL, &error), &error, "insert");
        must(turso_statement_reset(insert, &error), &error, "reset");
        used += (size_t)snprintf(notes + used, sizeof notes - used, "%s\n", id);
    }
    run_sql(w->connection, "COMMIT");
    turso_statement_deinit(insert);
    w->next += rows;
    if (write(w->acked, notes, used) != (ssize_t)used || fsync(w->acked) != 0) {
        die("acked");
    }
}

/* A sync may fail (the remote may be killed, too); that is reported and tried again later. */
static void report(turso_status_code_t status, const char *error, const char *what) {
    if (status != TURSO_OK && status != TURSO_DONE) {
        fprintf(stderr, "%s: status %u: %s\n", what, (unsigned)status, error ? error : "no message");
        turso_str_deinit(error);
    }
}

int main(int argc, char **argv) {
    if (argc != 4 || strlen(argv[3]) > 200) {
        fprintf(stderr, "usage: %s URL PATH WORKER\n", argv[0]);
        return 2;
    }
    struct worker w;
    w.name = argv[3];
    w.replica = new_replica(argv[1], argv[2], w.name);
    create(w.replica);
    w.connection = connect_to(w.replica);
    turso_connection_set_busy_timeout_ms(w.connection, 10000);
    run_sql(w.connection, "CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, worker, n)");
    w.next = next_number(w.connection, w.name);
    w.acked = open_acked(argv[2]);
    printf("ready %lld\n", (long long)w.next);
    fflush(stdout);

    for (unsigned round = 0;; round++) {
        const char *error = NULL;
        write_transaction(&w, 1 + (int)(round * 7 % 5));
        if (round % 3 == 2) {
            turso_status_code_t status = push(w.replica, &error);
            report(status, error, "push");
            error = NULL;
        }
        if (round % 5 == 4) {
            turso_status_code_t status = pull(w.replica, &error);
            report(status, error, "pull");
        }
    }
}

/*
 * conflicts: two devices give the same e-mail address to two users; the one who comes second decides what happens.
 *
 *     conflicts URL PATH_A PATH_B
 *
 * Prints what happens and ends with status 1 if it is not what this file says. May be repeated.
 */
#include "blocking.h"

static void expect(bool as_it_should_be, const char *what) {
    if (!as_it_should_be) {
        fprintf(stderr, "expected: %s\n", what);
        exit(1);
    }
}

/* Inserts a user whose name is that of the device. */
static void add_user(const turso_connection_t *connection, const char *email, const char *name) {
    const char *error = NULL;
    turso_statement_t *insert = prepare(connection, "INSERT INTO users (email, name) VALUES (?, ?)");
    must(turso_statement_bind_positional_text(insert, 1, email, strlen(email)), NULL, "bind");
    must(turso_statement_bind_positional_text(insert, 2, name, strlen(name)), NULL, "bind");
    must(turso_statement_execute(insert, NULL, &error), &error, "insert");
    turso_statement_deinit(insert);
}

/* An address that no earlier run has used, in `email`. */
static void make_email(const turso_connection_t *connection, char *email, size_t size) {
    turso_statement_t *statement = prepare(connection, "SELECT lower(hex(randomblob(4))) || '@example.org'");
    expect(next_row(statement), "a row");
    snprintf(email, size, "%.*s", (int)turso_statement_row_value_bytes_count(statement, 0),
             turso_statement_row_value_bytes_ptr(statement, 0));
    turso_statement_deinit(statement);
}

/* Slices are not zero-terminated: the length counts. */
static void print_slice(const char *label, turso_slice_ref_t slice) {
    printf("    %-11s %.*s\n", label, (int)slice.len, (const char *)slice.ptr);
}

/* Prints all conflicts of the replica. Returns the number of the first and its state; 0 if there is none. */
static int64_t list_conflicts(const turso_sync_database_t *replica, turso_sync_conflict_state_t *state) {
    const char *error = NULL;
    const turso_sync_conflicts_t *list = NULL;
    int64_t first = 0;
    must(turso_sync_database_conflicts(replica, &list, &error), &error, "conflicts");
    size_t count = turso_sync_conflicts_count(list);
    printf("  conflicts of bob: %lu\n", (unsigned long)count);
    for (size_t i = 0; i < count; i++) {
        turso_sync_conflict_t conflict;
        memset(&conflict, 0, sizeof conflict);
        conflict.size = sizeof conflict;
        must(turso_sync_conflicts_get(list, i, &conflict), NULL, "conflict");
        printf("    number      %lld, %s, %s\n", (long long)conflict.id,
               conflict.state == TURSO_SYNC_CONFLICT_STATE_SET_ASIDE ? "set aside" : "pending",
               conflict.kind == TURSO_SYNC_CONFLICT_KIND_UNIQUE ? "a unique value is taken" : "for another reason");
        print_slice("table", conflict.table);
        print_slice("key", conflict.key); /* content of the database: for the user's eyes, not for a log */
        print_slice("constraint", conflict.constraint);
        print_slice("message", conflict.message);
        if (i == 0) {
            first = conflict.id;
            *state = conflict.state;
        }
    }
    turso_sync_conflicts_deinit(list);
    return first;
}

static void resolve(const turso_sync_database_t *replica, int64_t conflict, turso_sync_conflict_resolution_t how) {
    const char *error = NULL;
    const turso_sync_operation_t *operation = NULL;
    must(turso_sync_database_resolve_conflict(replica, conflict, how, &operation, &error), &error, "resolve");
    must(drive(replica, operation, &error), &error, "resolve");
    turso_sync_operation_deinit(operation);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s URL PATH_A PATH_B\n", argv[0]);
        return 2;
    }
    const char *error = NULL;
    char email[64];
    turso_sync_conflict_state_t state = TURSO_SYNC_CONFLICT_STATE_OVERWRITE;
    const turso_sync_database_t *alice = new_replica(argv[1], argv[2], "alice");
    create(alice);
    const turso_connection_t *at_alice = connect_to(alice);
    must(pull(alice, &error), &error, "pull of alice");
    run_sql(at_alice, "CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY DEFAULT (hex(randomblob(8))),"
                      " email TEXT UNIQUE NOT NULL, name TEXT)");
    must(push(alice, &error), &error, "push of alice");
    const turso_sync_database_t *bob = new_replica(argv[1], argv[3], "bob");
    create(bob);
    const turso_connection_t *at_bob = connect_to(bob);
    must(pull(bob, &error), &error, "pull of bob");

    make_email(at_alice, email, sizeof email);
    add_user(at_alice, email, "alice");
    add_user(at_bob, email, "bob");
    printf("Both added a user with the address %s. Alice pushes first; bob is too late:\n", email);
    must(push(alice, &error), &error, "push of alice");
    turso_status_code_t status = push(bob, &error);
    if (status != TURSO_CONSTRAINT) {
        must(status, &error, "push of bob");
    }
    expect(status == TURSO_CONSTRAINT, "the push of bob ends with CONSTRAINT");
    printf("  %s\n", error);
    turso_str_deinit(error);
    error = NULL;

    /* Nothing is lost: bob still has his user, and everything of his is pending. */
    int64_t conflict = list_conflicts(bob, &state);
    expect(conflict != 0 && state == TURSO_SYNC_CONFLICT_STATE_BLOCKED, "a blocked conflict");

    printf("\nBob sets his transaction aside and syncs:\n");
    resolve(bob, conflict, TURSO_SYNC_CONFLICT_RESOLUTION_SET_ASIDE);
    must(push(bob, &error), &error, "push of bob");
    must(pull(bob, &error), &error, "pull of bob");
    print_rows(at_bob, "SELECT email, name FROM users ORDER BY email");
    expect(query_int(at_bob, "SELECT count(*) FROM users WHERE name = 'bob'") == 0, "bob's user is set aside");
    expect(list_conflicts(bob, &state) == conflict && state == TURSO_SYNC_CONFLICT_STATE_SET_ASIDE, "it is kept");

    printf("\nHe sees that alice was right and drops it:\n");
    resolve(bob, conflict, TURSO_SYNC_CONFLICT_RESOLUTION_DROP);
    expect(list_conflicts(bob, &state) == 0, "no conflict");

    turso_connection_deinit(at_alice);
    turso_connection_deinit(at_bob);
    turso_sync_database_deinit(alice);
    turso_sync_database_deinit(bob);
    check_nothing_leaked();
    return 0;
}

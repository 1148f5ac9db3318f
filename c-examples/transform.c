/*
 * transform: the app decides what of its changes reaches the remote, and as what. Two devices count at the same time, and
 * both counts are kept; empty messages are dropped.
 *
 *     transform URL PATH_A PATH_B
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

/* Slices are not zero-terminated: the length counts. */
static bool is(turso_slice_ref_t slice, const char *text) {
    return slice.len == strlen(text) && memcmp(slice.ptr, text, slice.len) == 0;
}

/* The column `name` of the change at `index`; its values live as long as the item. */
static turso_sync_mutation_column_t column_of(const turso_sync_io_item_t *item, size_t index, size_t columns,
                                              const char *name) {
    turso_sync_mutation_column_t column;
    for (size_t i = 0; i < columns; i++) {
        memset(&column, 0, sizeof column);
        column.size = sizeof column;
        must(turso_sync_database_io_transform_column(item, index, i, &column), NULL, "column");
        if (is(column.name, name)) {
            return column;
        }
    }
    fprintf(stderr, "no column %s\n", name);
    exit(1);
}

/*
 * A new value of a counter is sent as what was added to it: a value would overwrite what others have counted. With the next
 * pull the sum is what this device has, too.
 */
static void send_difference(const turso_sync_io_item_t *item, size_t index, const turso_sync_mutation_t *mutation) {
    static const char sql[] = "UPDATE counters SET value = value + ? WHERE name = ?";
    const char *error = NULL;
    turso_sync_mutation_column_t value = column_of(item, index, mutation->columns, "value");
    turso_slice_ref_t text;
    turso_sync_value_t values[2];
    memset(values, 0, sizeof values);
    values[0].value_type = TURSO_TYPE_INTEGER;
    values[0].integer = value.after.integer - value.before.integer;
    values[1] = column_of(item, index, mutation->columns, "name").before;
    text.ptr = sql;
    text.len = sizeof sql - 1;
    must(turso_sync_database_io_transform_rewrite(item, index, &text, values, 2, &error), &error, "rewrite");
}

/* Called by the driver: decides about every change of `item`. */
static void decide(void *context, const turso_sync_io_item_t *item) {
    size_t *asked = context;
    size_t count = turso_sync_database_io_transform_count(item);
    for (size_t i = 0; i < count; i++) {
        turso_sync_mutation_t mutation;
        memset(&mutation, 0, sizeof mutation);
        mutation.size = sizeof mutation;
        must(turso_sync_database_io_transform_mutation(item, i, &mutation), NULL, "mutation");
        if (is(mutation.table, "counters") && mutation.mutation_type == TURSO_SYNC_MUTATION_UPDATE) {
            send_difference(item, i, &mutation);
        } else if (is(mutation.table, "messages") && mutation.mutation_type == TURSO_SYNC_MUTATION_INSERT &&
                   is(column_of(item, i, mutation.columns, "text").after.bytes, "")) {
            /* With the next pull it is gone here, too. What is to stay here alone belongs into a local table. */
            must(turso_sync_database_io_transform_skip(item, i), NULL, "skip");
        } else {
            must(turso_sync_database_io_transform_keep(item, i), NULL, "keep");
        }
    }
    *asked += count;
}

/* A replica whose pushes ask `decide`, created if it is new. */
static const turso_sync_database_t *open_replica(const char *url, const char *path, const char *client_name) {
    const char *error = NULL;
    const turso_sync_database_t *replica = NULL;
    turso_database_config_t database;
    turso_sync_database_config_t sync;
    turso_sync_options_t options;

    memset(&database, 0, sizeof database);
    database.path = path;
    memset(&sync, 0, sizeof sync);
    sync.path = path;
    sync.remote_url = url;
    sync.client_name = client_name;
    sync.bootstrap_if_empty = true;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.use_transform = 1;
    must(turso_sync_database_new_with_options(&database, &sync, &options, &replica, &error), &error, path);
    create(replica);
    return replica;
}

/* Pushes; returns how many changes were asked about. */
static size_t push_transformed(const turso_sync_database_t *replica) {
    const char *error = NULL;
    const turso_sync_operation_t *operation = NULL;
    turso_sync_driver_config_t config;
    size_t asked = 0;
    memset(&config, 0, sizeof config);
    config.size = sizeof config;
    config.auth_token = getenv("TURSO_AUTH_TOKEN");
    config.transform_callback = decide;
    config.transform_context = &asked;
    must(turso_sync_database_push_changes(replica, &operation, &error), &error, "push");
    must(turso_sync_operation_run(replica, operation, &config, &error), &error, "push");
    turso_sync_operation_deinit(operation);
    return asked;
}

static int64_t counted(const turso_connection_t *connection) {
    return query_int(connection, "SELECT value FROM counters WHERE name = 'cups'");
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s URL PATH_A PATH_B\n", argv[0]);
        return 2;
    }
    const char *error = NULL;
    const turso_sync_database_t *alice = open_replica(argv[1], argv[2], "alice");
    const turso_connection_t *at_alice = connect_to(alice);
    must(pull(alice, &error), &error, "pull of alice");
    run_sql(at_alice, "CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);"
                      "CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY DEFAULT (hex(randomblob(8))),"
                      " text TEXT NOT NULL);"
                      "INSERT OR IGNORE INTO counters VALUES ('cups', 0)");
    push_transformed(alice);
    const turso_sync_database_t *bob = open_replica(argv[1], argv[3], "bob");
    const turso_connection_t *at_bob = connect_to(bob);
    must(pull(bob, &error), &error, "pull of bob");
    int64_t before = counted(at_bob);

    printf("Alice counts 2 cups and writes two messages, one of them empty; bob counts 3:\n");
    run_sql(at_alice, "UPDATE counters SET value = value + 2 WHERE name = 'cups';"
                      "INSERT INTO messages (text) VALUES ('buy milk'), ('')");
    run_sql(at_bob, "UPDATE counters SET value = value + 3 WHERE name = 'cups'");
    expect(push_transformed(alice) == 3, "three changes of alice are asked about");
    expect(push_transformed(bob) == 1, "one of bob");
    must(pull(alice, &error), &error, "pull of alice");
    must(pull(bob, &error), &error, "pull of bob");

    printf("  cups at alice %lld, at bob %lld (%lld before)\n", (long long)counted(at_alice),
           (long long)counted(at_bob), (long long)before);
    expect(counted(at_alice) == before + 5 && counted(at_bob) == before + 5, "both counts are kept");
    print_rows(at_bob, "SELECT DISTINCT 'message: ' || text FROM messages");
    expect(query_int(at_bob, "SELECT count(*) FROM messages WHERE text <> ''") > 0, "bob has the message");
    expect(query_int(at_bob, "SELECT count(*) FROM messages WHERE text = ''") == 0, "and no empty one");
    expect(query_int(at_alice, "SELECT count(*) FROM messages WHERE text = ''") == 0, "nor has alice any more");

    turso_connection_deinit(at_alice);
    turso_connection_deinit(at_bob);
    turso_sync_database_deinit(alice);
    turso_sync_database_deinit(bob);
    check_nothing_leaked();
    return 0;
}

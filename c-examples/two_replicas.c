/*
 * two_replicas: two devices write offline, then meet through the remote.
 *
 *     two_replicas URL PATH_A PATH_B
 *
 * Prints what happens and ends with status 1 if the replicas differ in the end. May be repeated.
 */
#include "blocking.h"

struct device {
    const char *name;
    const turso_sync_database_t *replica;
    const turso_connection_t *connection;
};

static struct device open_device(const char *name, const char *url, const char *path) {
    struct device device;
    device.name = name;
    device.replica = new_replica(url, path, name);
    create(device.replica);
    device.connection = connect_to(device.replica);
    printf("%s opened its replica %s\n", name, path);
    return device;
}

static void close_device(const struct device *device) {
    turso_connection_deinit(device->connection);
    turso_sync_database_deinit(device->replica);
}

/* Number of local changes that the remote does not have yet. */
static int64_t pending(const struct device *device) {
    const char *error = NULL;
    const turso_sync_operation_t *operation = NULL;
    turso_sync_stats_t stats;
    must(turso_sync_database_stats(device->replica, &operation, &error), &error, "stats");
    must(drive(device->replica, operation, &error), &error, "stats");
    must(turso_sync_operation_result_extract_stats(operation, &stats), NULL, "stats");
    turso_sync_operation_deinit(operation);
    return stats.cdc_operations;
}

static void do_push(const struct device *device) {
    const char *error = NULL;
    int64_t before = pending(device);
    must(push(device->replica, &error), &error, "push");
    printf("%s pushed: %lld changes were pending, now %lld\n", device->name, (long long)before,
           (long long)pending(device));
}

static void do_pull(const struct device *device) {
    const char *error = NULL;
    must(pull(device->replica, &error), &error, "pull");
    printf("%s pulled, keeping %lld pending changes of its own\n", device->name, (long long)pending(device));
}

/* A table name quoted for SQL; free it. */
static char *quoted(const char *name, size_t len) {
    char *text = malloc(2 * len + 3);
    char *end = text;
    if (text == NULL) {
        exit(1);
    }
    *end++ = '"';
    for (size_t i = 0; i < len; i++) {
        if (name[i] == '"') {
            *end++ = '"';
        }
        *end++ = name[i];
    }
    *end++ = '"';
    *end = '\0';
    return text;
}

/* All rows of `table` in a fixed order. */
static turso_statement_t *all_rows(const turso_connection_t *connection, const char *table) {
    size_t size = strlen(table) + 32;
    char *sql = malloc(size);
    if (sql == NULL) {
        exit(1);
    }
    snprintf(sql, size, "SELECT * FROM %s", table);
    turso_statement_t *probe = prepare(connection, sql);
    size_t columns = (size_t)turso_statement_column_count(probe);
    turso_statement_deinit(probe);

    size += columns * 12;
    char *ordered = malloc(size);
    if (ordered == NULL) {
        exit(1);
    }
    size_t used = (size_t)snprintf(ordered, size, "%s ORDER BY 1", sql);
    for (size_t i = 2; i <= columns; i++) {
        used += (size_t)snprintf(ordered + used, size - used, ", %lu", (unsigned long)i);
    }
    turso_statement_t *statement = prepare(connection, ordered);
    free(ordered);
    free(sql);
    return statement;
}

static bool same_value(const turso_statement_t *a, const turso_statement_t *b, size_t i) {
    turso_type_t kind = turso_statement_row_value_kind(a, i);
    if (kind != turso_statement_row_value_kind(b, i)) {
        return false;
    }
    if (kind == TURSO_TYPE_INTEGER) {
        return turso_statement_row_value_int(a, i) == turso_statement_row_value_int(b, i);
    }
    if (kind == TURSO_TYPE_REAL) {
        double x = turso_statement_row_value_double(a, i), y = turso_statement_row_value_double(b, i);
        return memcmp(&x, &y, sizeof x) == 0;
    }
    if (kind == TURSO_TYPE_TEXT || kind == TURSO_TYPE_BLOB) {
        int64_t len = turso_statement_row_value_bytes_count(a, i);
        return len == turso_statement_row_value_bytes_count(b, i) &&
               memcmp(turso_statement_row_value_bytes_ptr(a, i), turso_statement_row_value_bytes_ptr(b, i),
                      (size_t)len) == 0;
    }
    return true;
}

/* Compares one table row by row; returns the number of rows, or -1 if it differs. */
static long compare_table(const struct device *a, const struct device *b, const char *table) {
    turso_statement_t *rows_a = all_rows(a->connection, table);
    turso_statement_t *rows_b = all_rows(b->connection, table);
    int64_t columns = turso_statement_column_count(rows_a);
    bool same = columns == turso_statement_column_count(rows_b);
    long rows = 0;
    while (same) {
        bool more = next_row(rows_a);
        same = more == next_row(rows_b);
        if (!more) {
            break;
        }
        for (size_t i = 0; same && i < (size_t)columns; i++) {
            same = same_value(rows_a, rows_b, i);
        }
        rows++;
    }
    turso_statement_deinit(rows_a);
    turso_statement_deinit(rows_b);
    return same ? rows : -1;
}

/* The tables that travel; those of the library itself do not. */
#define TABLES                                                                                                         \
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND "               \
    "name NOT IN ('turso_cdc', 'turso_cdc_version', 'turso_sync_local', 'turso_sync_conflicts') ORDER BY name"

/* Compares the content of all tables. */
static bool compare(const struct device *a, const struct device *b) {
    bool same = true;
    turso_statement_t *tables = prepare(a->connection, TABLES);
    turso_statement_t *others = prepare(b->connection, TABLES);
    while (next_row(tables)) {
        if (!next_row(others) || !same_value(tables, others, 0)) {
            printf("the replicas have different tables\n");
            same = false;
            break;
        }
        char *table = quoted(turso_statement_row_value_bytes_ptr(tables, 0),
                             (size_t)turso_statement_row_value_bytes_count(tables, 0));
        long rows = compare_table(a, b, table);
        if (rows < 0) {
            printf("table %s differs\n", table);
            same = false;
        } else {
            printf("table %s: %ld rows, equal\n", table, rows);
        }
        free(table);
    }
    if (same && next_row(others)) {
        printf("the replicas have different tables\n");
        same = false;
    }
    turso_statement_deinit(tables);
    turso_statement_deinit(others);
    return same;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s URL PATH_A PATH_B\n", argv[0]);
        return 2;
    }
    struct device alice = open_device("alice", argv[1], argv[2]);
    run_sql(alice.connection, "CREATE TABLE IF NOT EXISTS shopping (item TEXT PRIMARY KEY, amount INTEGER, who TEXT);"
                              "INSERT OR IGNORE INTO shopping VALUES ('bread', 1, 'alice')");
    do_push(&alice);
    struct device bob = open_device("bob", argv[1], argv[3]);

    printf("\nBoth write without network:\n");
    run_sql(alice.connection, "BEGIN;"
                              "UPDATE shopping SET amount = amount + 1 WHERE item = 'bread';"
                              "INSERT INTO shopping VALUES ('milk ' || hex(randomblob(3)), 2, 'alice');"
                              "COMMIT");
    run_sql(bob.connection, "INSERT INTO shopping VALUES ('tea ' || hex(randomblob(3)), 1, 'bob');"
                            "UPDATE shopping SET who = 'bob' WHERE item = 'bread'");
    printf("  alice has\n");
    print_rows(alice.connection, "SELECT * FROM shopping ORDER BY item");
    printf("  bob has\n");
    print_rows(bob.connection, "SELECT * FROM shopping ORDER BY item");

    printf("\nThey sync:\n");
    do_push(&alice);
    do_pull(&bob); /* alice's rows arrive beneath bob's pending ones */
    do_push(&bob);
    do_pull(&alice);
    do_pull(&bob);
    printf("  now both have\n");
    print_rows(bob.connection, "SELECT * FROM shopping ORDER BY item");

    printf("\nCompared through the C API:\n");
    bool same = compare(&alice, &bob);
    printf("%s\n", same ? "The replicas are equal." : "THE REPLICAS DIFFER.");
    close_device(&alice);
    close_device(&bob);
    check_nothing_leaked();
    return same ? 0 : 1;
}

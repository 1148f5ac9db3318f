/*
 * Contract of conflicts and of turso_sync_options_t: arguments, sizes, numbers, lifetimes. Argument: an empty directory.
 * No network.
 */
#include "replica.h"

/* ----------------------------------------------------------------------------------------------------------- options */

static turso_sync_options_t options_of(size_t size) {
    turso_sync_options_t options;
    memset(&options, 0, sizeof options);
    options.size = size;
    return options;
}

static turso_status_code_t new_with(const char *path, const void *options, const turso_sync_database_t **db) {
    turso_database_config_t database = database_config(path);
    turso_sync_database_config_t sync = sync_config(path);
    return turso_sync_database_new_with_options(&database, &sync, options, db, err());
}

/* The options are accepted, and what they point to is copied. */
static void accepted(const char *path, const void *options) {
    const turso_sync_database_t *db = POISON;
    if (OK(new_with(path, options, &db))) {
        CHECK(db != POISON && db != NULL);
        turso_sync_database_deinit(db);
    }
}

static void test_sizes_of_options(const char *path) {
    struct {
        turso_sync_options_t known;
        size_t later[2];
    } future;
    static const size_t wrong[] = {0, 1, sizeof(turso_sync_options_t) - 1, sizeof(turso_sync_options_t) + 1, SIZE_MAX,
                                   SIZE_MAX - 7, 1 << 20};
    const turso_sync_database_t *db = POISON;
    turso_sync_options_t options = options_of(sizeof options);
    accepted(path, NULL);
    accepted(path, &options);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options = options_of(wrong[i]);
        FAILS(TURSO_MISUSE, "turso_sync_options_t: size", new_with(path, &options, &db));
    }

    /* An older program knows fewer fields. Its structure ends where its fields end: the sanitizer watches. */
    size_t *older = malloc(sizeof *older);
    REQUIRE(older != NULL);
    *older = sizeof *older;
    accepted(path, older);
    free(older);
    options = options_of(offsetof(turso_sync_options_t, tables_ignore));
    options.conflict_policy = TURSO_SYNC_CONFLICT_POLICY_SET_ASIDE;
    options.tables_ignore_count = 5; /* not there in that version */
    accepted(path, &options);

    /* A newer program knows more fields, which may not ask for anything. */
    memset(&future, 0, sizeof future);
    future.known.size = sizeof future;
    accepted(path, &future);
    future.later[1] = 1;
    FAILS(TURSO_MISUSE, "does not know", new_with(path, &future, &db));
    CHECK(db == POISON);
}

static void test_options(const char *path) {
    static const char *const names[] = {"local", "with, comma", "\xc3\xbc"};
    static const char *const with_null[] = {"local", NULL};
    static const char *const not_text[] = {"\xff\xfe"};
    const turso_sync_database_t *db = POISON;
    turso_sync_options_t options = options_of(sizeof options);
    for (uint32_t policy = TURSO_SYNC_CONFLICT_POLICY_STOP; policy <= TURSO_SYNC_CONFLICT_POLICY_SET_ASIDE; policy++) {
        options.conflict_policy = policy;
        accepted(path, &options);
    }
    options.conflict_policy = TURSO_SYNC_CONFLICT_POLICY_SET_ASIDE + 1;
    FAILS(TURSO_MISUSE, "unknown conflict_policy: 3", new_with(path, &options, &db));
    options.conflict_policy = UINT32_MAX;
    FAILS(TURSO_MISUSE, "unknown conflict_policy: 4294967295", new_with(path, &options, &db));

    options = options_of(sizeof options);
    for (uint32_t policy = TURSO_SYNC_FOREIGN_POLICY_STOP; policy <= TURSO_SYNC_FOREIGN_POLICY_DISCARD; policy++) {
        options.foreign_policy = policy;
        accepted(path, &options);
    }
    options.foreign_policy = TURSO_SYNC_FOREIGN_POLICY_DISCARD + 1;
    FAILS(TURSO_MISUSE, "unknown foreign_policy: 3", new_with(path, &options, &db));
    options = options_of(sizeof options);
    options.wal_pull_batch_size = UINT64_MAX;
    accepted(path, &options);
    options = options_of(sizeof options);
    for (uint32_t version = TURSO_SYNC_PROTOCOL_VERSION_AUTO; version <= TURSO_SYNC_PROTOCOL_VERSION_DIRECT; version++) {
        options.protocol_version_hint = version;
        accepted(path, &options);
    }
    options.protocol_version_hint = TURSO_SYNC_PROTOCOL_VERSION_DIRECT + 1;
    FAILS(TURSO_MISUSE, "unknown protocol_version_hint: 3", new_with(path, &options, &db));
    options = options_of(sizeof options);
    options.tables_ignore = names;
    accepted(path, &options); /* none of them */
    options.tables_ignore_count = sizeof names / sizeof *names;
    accepted(path, &options);
    options.tables_ignore = NULL;
    FAILS(TURSO_MISUSE, "tables_ignore: got null pointer", new_with(path, &options, &db));
    options.tables_ignore = names;
    options.tables_ignore_count = SIZE_MAX;
    FAILS(TURSO_MISUSE, "tables_ignore: length", new_with(path, &options, &db));
    options.tables_ignore = with_null;
    options.tables_ignore_count = 2;
    FAILS(TURSO_MISUSE, "tables_ignore: expected zero terminated c string", new_with(path, &options, &db));
    options.tables_ignore = not_text;
    options.tables_ignore_count = 1;
    FAILS(TURSO_MISUSE, "tables_ignore: expected a UTF-8 string", new_with(path, &options, &db));
    CHECK(db == POISON);
}

/* The other arguments are checked as turso_sync_database_new checks them. */
static void test_configuration(const char *path) {
    turso_database_config_t database = database_config(path);
    turso_sync_database_config_t sync = sync_config(path);
    turso_sync_options_t options = options_of(sizeof options);
    const turso_sync_database_t *db = POISON;
    FAILS(TURSO_MISUSE, "config pointer must be not null",
          turso_sync_database_new_with_options(NULL, &sync, &options, &db, err()));
    FAILS(TURSO_MISUSE, "config pointer must be not null",
          turso_sync_database_new_with_options(&database, NULL, &options, &db, err()));
    FAILS(TURSO_MISUSE, "output pointer",
          turso_sync_database_new_with_options(&database, &sync, &options, NULL, err()));
    sync.client_name = "\xff";
    FAILS(TURSO_MISUSE, "UTF-8", turso_sync_database_new_with_options(&database, &sync, &options, &db, err()));
    REFUSES(TURSO_MISUSE, turso_sync_database_new_with_options(NULL, NULL, NULL, NULL, NULL));
    CHECK(db == POISON);
}

/* --------------------------------------------------------------------------------------------------------- conflicts */

static void test_null_handles(void) {
    const turso_sync_conflicts_t *list = POISON;
    const turso_sync_operation_t *op = POISON;
    turso_sync_conflict_t conflict, before;
    memset(&conflict, 0x5a, sizeof conflict);
    conflict.size = sizeof conflict;
    before = conflict;
    FAILS(TURSO_MISUSE, "got null pointer", turso_sync_database_conflicts(NULL, &list, err()));
    REFUSES(TURSO_MISUSE, turso_sync_database_conflicts(NULL, NULL, NULL));
    CHECK(turso_sync_conflicts_count(NULL) == 0);
    REFUSES(TURSO_MISUSE, turso_sync_conflicts_get(NULL, 0, &conflict));
    REFUSES(TURSO_MISUSE, turso_sync_conflicts_get(NULL, 0, NULL));
    FAILS(TURSO_MISUSE, "got null pointer",
          turso_sync_database_resolve_conflict(NULL, 1, TURSO_SYNC_CONFLICT_RESOLUTION_DROP, &op, err()));
    REFUSES(TURSO_MISUSE, turso_sync_database_resolve_conflict(NULL, 1, 99, NULL, NULL));
    CHECK(list == POISON && op == POISON && memcmp(&conflict, &before, sizeof conflict) == 0);
    turso_sync_conflicts_deinit(NULL);
}

static void test_wrong_order(const char *path) {
    const turso_sync_database_t *db = new_replica(path);
    const turso_sync_conflicts_t *list = POISON;
    const turso_sync_operation_t *op = NULL;
    FAILS(TURSO_MISUSE, "sync engine must be initialized", turso_sync_database_conflicts(db, &list, err()));
    CHECK(list == POISON);
    REQUIRE(OK(turso_sync_database_resolve_conflict(db, 1, TURSO_SYNC_CONFLICT_RESOLUTION_RETRY, &op, err())));
    FAILS(TURSO_MISUSE, "sync engine must be initialized", turso_sync_operation_resume(op, err()));
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(db);
}

static const turso_sync_conflicts_t *list_of(const turso_sync_database_t *db) {
    const turso_sync_conflicts_t *list = NULL;
    REQUIRE(OK(turso_sync_database_conflicts(db, &list, err())));
    REQUIRE(list != NULL);
    return list;
}

static void test_list(const char *path) {
    const turso_sync_database_t *db = created_replica(path);
    const turso_sync_conflicts_t *list;
    turso_sync_conflict_t conflict;
    FAILS(TURSO_MISUSE, "output pointer", turso_sync_database_conflicts(db, NULL, err()));
    list = list_of(db);
    CHECK(take(db) == NULL); /* it asks the host for nothing */
    const turso_sync_conflicts_t *second = list_of(db);
    turso_sync_database_deinit(db); /* lists outlive their replica */
    memset(&conflict, 0, sizeof conflict);
    for (size_t i = 0; i < 2; i++) {
        conflict.size = i == 0 ? 0 : sizeof conflict;
        CHECK(turso_sync_conflicts_count(list) == 0);
        REFUSES(TURSO_MISUSE, turso_sync_conflicts_get(list, 0, &conflict));
        REFUSES(TURSO_MISUSE, turso_sync_conflicts_get(list, SIZE_MAX, &conflict));
        REFUSES(TURSO_MISUSE, turso_sync_conflicts_get(list, 0, NULL));
        CHECK(conflict.id == 0 && conflict.table.ptr == NULL);
    }
    turso_sync_conflicts_deinit(list);
    CHECK(turso_sync_conflicts_count(second) == 0);
    turso_sync_conflicts_deinit(second);
}

static void test_resolve(const char *path) {
    static const uint32_t unknown[] = {0, TURSO_SYNC_CONFLICT_RESOLUTION_DROP + 1, 256 + 1, UINT32_MAX};
    const turso_sync_database_t *db = created_replica(path);
    const turso_sync_operation_t *op = POISON;
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        FAILS(TURSO_MISUSE, "unknown resolution", turso_sync_database_resolve_conflict(db, 1, unknown[i], &op, err()));
    }
    FAILS(TURSO_MISUSE, "output pointer",
          turso_sync_database_resolve_conflict(db, 1, TURSO_SYNC_CONFLICT_RESOLUTION_DROP, NULL, err()));
    CHECK(op == POISON);

    static const int64_t numbers[] = {0, 1, -1, INT64_MAX, INT64_MIN}; /* no such conflict */
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        for (uint32_t how = TURSO_SYNC_CONFLICT_RESOLUTION_RETRY; how <= TURSO_SYNC_CONFLICT_RESOLUTION_DROP; how++) {
            REQUIRE(OK(turso_sync_database_resolve_conflict(db, numbers[i], how, &op, err())));
            CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
            turso_status_code_t status = drive_empty(db, op);
            FAILS(TURSO_ERROR, "sync engine operation failed: there is no conflict", status);
            CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
            turso_sync_operation_deinit(op);
        }
    }
    REQUIRE(OK(turso_sync_database_resolve_conflict(db, 1, TURSO_SYNC_CONFLICT_RESOLUTION_DROP, &op, err())));
    turso_sync_database_deinit(db);
    FAILS(TURSO_ERROR, "there is no conflict", turso_sync_operation_resume(op, err()));
    turso_sync_operation_deinit(op);
}

/* ------------------------------------------------------------------------------------------------ another program's changes */

static void test_foreign(const char *path) {
    const turso_sync_database_t *db = created_replica(path);
    const turso_sync_operation_t *op = POISON;
    const char *tables = POISON;
    FAILS(TURSO_MISUSE, "got null pointer", turso_sync_database_foreign_tables(NULL, &tables, err()));
    FAILS(TURSO_MISUSE, "output pointer", turso_sync_database_foreign_tables(db, NULL, err()));
    FAILS(TURSO_MISUSE, "got null pointer",
          turso_sync_database_settle_foreign_changes(NULL, TURSO_SYNC_FOREIGN_POLICY_ADOPT, &op, err()));
    FAILS(TURSO_MISUSE, "output pointer",
          turso_sync_database_settle_foreign_changes(db, TURSO_SYNC_FOREIGN_POLICY_ADOPT, NULL, err()));
    FAILS(TURSO_MISUSE, "unknown foreign_policy: 3",
          turso_sync_database_settle_foreign_changes(db, TURSO_SYNC_FOREIGN_POLICY_DISCARD + 1, &op, err()));
    CHECK(tables == POISON && op == POISON);
    for (uint32_t policy = TURSO_SYNC_FOREIGN_POLICY_STOP; policy <= TURSO_SYNC_FOREIGN_POLICY_DISCARD; policy++) {
        REQUIRE(OK(turso_sync_database_settle_foreign_changes(db, policy, &op, err())));
        CHECK(drive_empty(db, op) == TURSO_DONE);
        CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
        turso_sync_operation_deinit(op);
    }
    FAILS(TURSO_MISUSE, "got null pointer",
          turso_sync_database_accept_remote(NULL, TURSO_SYNC_FOREIGN_POLICY_ADOPT, &op, err()));
    FAILS(TURSO_MISUSE, "unknown foreign_policy: 3",
          turso_sync_database_accept_remote(db, TURSO_SYNC_FOREIGN_POLICY_DISCARD + 1, &op, err()));
    REQUIRE(OK(turso_sync_database_foreign_tables(db, &tables, err())));
    CHECK(strcmp(tables, "[]") == 0);
    turso_str_deinit(tables);
    turso_sync_database_deinit(db);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    test_sizes_of_options(in_directory(argv[1], "options.db"));
    test_options(in_directory(argv[1], "options.db"));
    test_configuration(in_directory(argv[1], "options.db"));
    test_null_handles();
    test_wrong_order(in_directory(argv[1], "order.db"));
    test_list(in_directory(argv[1], "list.db"));
    test_foreign(in_directory(argv[1], "foreign.db"));
    test_resolve(in_directory(argv[1], "resolve.db"));
    return verdict("contract_conflicts");
}

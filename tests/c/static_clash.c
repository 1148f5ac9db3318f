/* A program with symbols of "another SQLite" that links turso-sync statically: neither may take the other's place. */
#include <string.h>

#include "harness.h"

const char *sqlite3_libversion(void);
int sqlite3_step(void);

const char *sqlite3_libversion(void) {
    return "not SQLite";
}

int sqlite3_step(void) {
    abort();
}

int main(void) {
    turso_database_config_t config;
    const turso_database_t *database = NULL;
    turso_connection_t *connection = NULL;
    memset(&config, 0, sizeof config);
    config.path = ":memory:";
    REQUIRE(OK(turso_database_new(&config, &database, err())));
    REQUIRE(OK(turso_database_open(database, err())));
    REQUIRE(OK(turso_database_connect(database, &connection, err())));
    run_sql(connection, "CREATE TABLE t (x); INSERT INTO t VALUES (42)");
    CHECK(query_int(connection, "SELECT x FROM t") == 42);
    CHECK(query_int(connection, "SELECT sqlite_version() LIKE '3.%'") == 1);
    CHECK(strcmp(sqlite3_libversion(), "not SQLite") == 0);
    turso_connection_deinit(connection);
    turso_database_deinit(database);
    return verdict("static_clash");
}

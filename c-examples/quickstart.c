/*
 * quickstart: a replica in a few lines, with the built-in driver.
 *
 *     quickstart URL PATH          (token, if needed, in TURSO_AUTH_TOKEN)
 */
#include "blocking.h"

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s URL PATH\n", argv[0]);
        return 2;
    }
    const char *error = NULL;
    const turso_sync_database_t *replica = new_replica(argv[1], argv[2], "quickstart");
    create(replica);
    const turso_connection_t *connection = connect_to(replica);

    /* Plain SQL on a local file. It works without network, too. */
    run_sql(connection, "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT)");
    turso_statement_t *insert = prepare(connection, "INSERT INTO notes (text) VALUES (:text)");
    const char *text = "written locally";
    size_t position = (size_t)turso_statement_named_position(insert, ":text");
    must(turso_statement_bind_positional_text(insert, position, text, strlen(text)), NULL, "bind");
    must(turso_statement_execute(insert, NULL, &error), &error, "insert");
    turso_statement_deinit(insert);

    /* And now the remote: local changes up, remote changes down. */
    must(push(replica, &error), &error, "push");
    must(pull(replica, &error), &error, "pull");
    print_rows(connection, "SELECT id, text FROM notes ORDER BY id");

    turso_connection_deinit(connection);
    turso_sync_database_deinit(replica);
    check_nothing_leaked();
    return 0;
}

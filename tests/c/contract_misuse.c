/*
 * Wrong use of turso_sync.h that C cannot rule out: handles of another replica, the wrong order of releases, answers
 * that come twice or never, and several threads at once. Argument: an empty directory. No network but the loopback.
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replica.h"

#define THREADS 3

/* An answer that comes when nobody waits for it any more is accepted and ignored. */
static void check_ignored(const turso_sync_io_item_t *item) {
    turso_slice_ref_t late = slice_of("late", 4);
    OK(turso_sync_database_io_status(item, 500));
    OK(turso_sync_database_io_push_buffer(item, &late));
    OK(turso_sync_database_io_done(item));
    OK(turso_sync_database_io_poison(item, &late));
}

/* Serves any request; HTTP with `body`. Reports nothing, for use in threads. */
static void serve(const turso_sync_io_item_t *item, struct bytes body) {
    turso_slice_ref_t slice = slice_of(body.data, body.len);
    if (turso_sync_database_io_request_kind(item) != TURSO_SYNC_IO_HTTP) {
        REQUIRE(turso_sync_database_io_perform_file(item, NULL) == TURSO_OK);
        return;
    }
    REQUIRE(turso_sync_database_io_status(item, 200) == TURSO_OK);
    REQUIRE(turso_sync_database_io_push_buffer(item, &slice) == TURSO_OK);
    REQUIRE(turso_sync_database_io_done(item) == TURSO_OK);
}

static struct bytes empty_answer(void) {
    static char copy[sizeof empty_remote];
    struct bytes bytes = {copy, sizeof copy};
    memcpy(copy, empty_remote, sizeof copy);
    return bytes;
}

/* ------------------------------------------------------------------------------------------- handles and their order */

/* Pages of one replica would destroy another. */
static void test_foreign_changes(const char *directory) {
    const turso_sync_database_t *a = created_replica(in_directory(directory, "a.db"));
    const turso_sync_database_t *b = created_replica(in_directory(directory, "b.db"));
    struct bytes stream = remote_database(in_directory(directory, "foreign-remote.db"));
    const turso_connection_t *connection = connect_to(b);
    const turso_sync_operation_t *op = NULL;
    run_sql(connection, "CREATE TABLE mine (x)");
    FAILS(TURSO_MISUSE, "another database", turso_sync_database_apply_changes(b, wait_for(a, stream), &op, err()));
    CHECK(op == NULL);
    CHECK(query_int(connection, "SELECT count(*) FROM sqlite_schema WHERE name = 'remote'") == 0);
    CHECK(query_int(connection, "SELECT count(*) FROM mine") == 0);

    REQUIRE(OK(turso_sync_database_apply_changes(b, wait_for(b, stream), &op, err()))); /* both still work */
    DONE(drive_empty(b, op));
    turso_sync_operation_deinit(op);
    turso_sync_changes_deinit(wait_for(a, stream));
    CHECK(query_int(connection, "SELECT count(*) FROM remote") == 1);
    free(stream.data);
    turso_connection_deinit(connection);
    turso_sync_database_deinit(a);
    turso_sync_database_deinit(b);
}

/* The driver serves the queue of one replica; an operation of another waits for its own. */
static void test_foreign_operation(const char *directory) {
    const turso_sync_database_t *a = created_replica(in_directory(directory, "own.db"));
    const turso_sync_database_t *b = created_replica(in_directory(directory, "other.db"));
    const turso_sync_operation_t *op = begin(a, turso_sync_database_wait_changes);
    FAILS(TURSO_MISUSE, "taken from the queue elsewhere", turso_sync_operation_run(b, op, NULL, err()));
    CHECK(take(b) == NULL);
    DONE(drive_empty(a, op)); /* and it can go on */
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(a);
    turso_sync_database_deinit(b);
}

/* Everything may outlive the replica and the operation that it came from. */
static void test_releases_in_any_order(const char *directory) {
    const char *path = in_directory(directory, "order.db");
    const turso_sync_database_t *db = created_replica(path);
    struct bytes stream = remote_database(in_directory(directory, "order-remote.db"));
    const turso_connection_t *connection = connect_to(db);
    run_sql(connection, "CREATE TABLE mine (x); INSERT INTO mine VALUES (1)");
    turso_statement_t *statement = prepare(connection, "SELECT x FROM mine");
    ROW(turso_statement_step(statement, err()));
    const turso_sync_changes_t *changes = wait_for(db, stream);
    const turso_sync_operation_t *op = begin(db, turso_sync_database_push_changes);
    const turso_sync_operation_t *idle = begin(db, turso_sync_database_checkpoint);
    const turso_sync_io_item_t *item = next_http(db, op);
    REQUIRE(item != NULL);

    turso_sync_database_deinit(db);
    turso_connection_deinit(connection);
    CHECK(turso_sync_operation_resume(op, NULL) == TURSO_IO);
    turso_sync_operation_deinit(op);
    check_ignored(item);
    turso_sync_database_io_item_deinit(item);
    CHECK(turso_statement_row_value_int(statement, 0) == 1);
    DONE(turso_statement_step(statement, err()));
    turso_statement_deinit(statement);
    DONE(turso_sync_operation_resume(idle, err()));
    turso_sync_operation_deinit(idle);
    turso_sync_changes_deinit(changes);
    free(stream.data);

    db = new_replica(path); /* nothing holds the replica any more */
    op = begin(db, turso_sync_database_open);
    DONE(drive_empty(db, op));
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(db);
}

/* ---------------------------------------------------------------------------------------------- failures and answers */

static void test_failed_operation(const char *directory) {
    const turso_sync_database_t *db = created_replica(in_directory(directory, "failed.db"));
    struct bytes stream = remote_database(in_directory(directory, "failed-remote.db"));
    const turso_sync_changes_t *changes = POISON;
    const turso_sync_operation_t *op = begin(db, turso_sync_database_wait_changes);
    turso_sync_database_io_item_deinit(next_http(db, op));
    turso_status_code_t status = turso_sync_operation_resume(op, err());
    FAILS(status, "dropped", status);
    CHECK(turso_sync_operation_result_kind(op) == TURSO_ASYNC_RESULT_NONE);
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_changes(op, &changes));
    CHECK(turso_sync_operation_run(db, op, NULL, NULL) == status); /* an answer is repeated */
    CHECK(changes == POISON && take(db) == NULL);
    turso_sync_operation_deinit(op);

    /* Changes that are not applied yet forbid another wait; an apply that meets another operation uses them up. */
    changes = wait_for(db, stream);
    op = begin(db, turso_sync_database_wait_changes);
    FAILS(TURSO_BUSY, "have not been applied", turso_sync_operation_resume(op, err()));
    turso_sync_operation_deinit(op);
    const turso_connection_t *connection = connect_to(db);
    run_sql(connection, "CREATE TABLE mine (x)");
    const turso_sync_operation_t *push = begin(db, turso_sync_database_push_changes);
    const turso_sync_io_item_t *item = next_http(db, push);
    REQUIRE(item != NULL);
    REQUIRE(OK(turso_sync_database_apply_changes(db, changes, &op, err())));
    FAILS(TURSO_BUSY, "another sync operation", turso_sync_operation_resume(op, err()));
    turso_sync_operation_deinit(op);
    turso_sync_operation_deinit(push);
    turso_sync_database_io_item_deinit(item);
    REQUIRE(OK(turso_sync_database_apply_changes(db, wait_for(db, stream), &op, err())));
    DONE(drive_empty(db, op));
    turso_sync_operation_deinit(op);
    CHECK(query_int(connection, "SELECT count(*) FROM remote, (SELECT count(*) FROM mine)") == 1);
    free(stream.data);
    turso_connection_deinit(connection);
    turso_sync_database_deinit(db);
}

/* Only the first end of an answer counts. */
static void test_answers_after_the_end(const char *directory) {
    const turso_sync_database_t *db = new_replica(in_directory(directory, "twice.db"));
    const turso_sync_operation_t *op = begin(db, turso_sync_database_create);
    for (;;) {
        const turso_sync_io_item_t *item;
        turso_status_code_t status = turso_sync_operation_resume(op, NULL);
        if (status != TURSO_IO) {
            CHECK(status == TURSO_DONE);
            break;
        }
        REQUIRE((item = take(db)) != NULL);
        if (turso_sync_database_io_request_kind(item) == TURSO_SYNC_IO_HTTP) {
            answer(item, empty_remote, sizeof empty_remote);
        } else {
            OK(turso_sync_database_io_perform_file(item, err()));
            OK(turso_sync_database_io_perform_file(item, err()));
        }
        check_ignored(item);
        turso_sync_database_io_item_deinit(item);
    }
    turso_sync_operation_deinit(op);
    turso_sync_database_deinit(db);
}

/* Resumes once to the end; the request number `*left`, counted down, is dropped without an answer. */
static bool attempt(const turso_sync_database_t *db, const turso_sync_operation_t *op, struct bytes body, int *left) {
    turso_status_code_t status;
    while ((status = turso_sync_operation_resume(op, NULL)) == TURSO_IO) {
        const turso_sync_io_item_t *item = take(db);
        REQUIRE(item != NULL);
        if ((*left)-- != 0) {
            serve(item, body);
        }
        turso_sync_database_io_item_deinit(item);
    }
    return status == TURSO_DONE;
}

/* The operation, begun again until it succeeds. */
static const turso_sync_operation_t *persist(const turso_sync_database_t *db, begin_t function, struct bytes body,
                                             int *left) {
    for (;;) {
        const turso_sync_operation_t *op = begin(db, function);
        if (attempt(db, op, body, left)) {
            return op;
        }
        CHECK(*left < 0);
        turso_sync_operation_deinit(op);
    }
}

/* Downloads and applies, from the start after a failure. */
static void persist_pull(const turso_sync_database_t *db, struct bytes stream, int *left) {
    bool applied = false;
    while (!applied) {
        const turso_sync_changes_t *changes = NULL;
        const turso_sync_operation_t *op = persist(db, turso_sync_database_wait_changes, stream, left);
        REQUIRE(OK(turso_sync_operation_result_extract_changes(op, &changes)));
        turso_sync_operation_deinit(op);
        REQUIRE(OK(turso_sync_database_apply_changes(db, changes, &op, err())));
        applied = attempt(db, op, stream, left);
        turso_sync_operation_deinit(op);
    }
}

/* Whichever request is lost: the operation fails, and succeeds when it is repeated. */
static void test_every_request_lost(const char *directory) {
    struct bytes stream = remote_database(in_directory(directory, "lost-remote.db"));
    struct bytes empty = empty_answer();
    int lost = 0, left;
    do {
        char name[32];
        snprintf(name, sizeof name, "lost-%d.db", lost);
        const turso_sync_database_t *db = new_replica(in_directory(directory, name));
        left = lost++;
        turso_sync_operation_deinit(persist(db, turso_sync_database_create, empty, &left));
        turso_sync_operation_deinit(persist(db, turso_sync_database_connect, empty, &left));
        const turso_connection_t *connection = connect_to(db);
        run_sql(connection, "CREATE TABLE mine (x); INSERT INTO mine VALUES (1), (2)");
        persist_pull(db, stream, &left);
        CHECK(query_int(connection, "SELECT count(*) FROM mine") == 2);
        CHECK(query_int(connection, "SELECT count(*) FROM remote") == 1);
        turso_connection_deinit(connection);
        turso_sync_database_deinit(db);
    } while (left < 0);
    CHECK(lost > 4); /* metadata, bootstrap, metadata, pull, ... were all lost once */
    free(stream.data);
}

/* ----------------------------------------------------------------------------------------------------------- threads */

struct shared {
    const turso_sync_database_t *db;
    const turso_sync_operation_t *op;
    const turso_connection_t *connection;
    struct bytes body;
    int extracted;
    int inserted;
    bool ended;
    pthread_mutex_t lock;
};

static struct shared shared_by(const turso_sync_database_t *db, const turso_sync_operation_t *op, struct bytes body) {
    struct shared shared;
    memset(&shared, 0, sizeof shared);
    shared.db = db;
    shared.op = op;
    shared.body = body;
    REQUIRE(pthread_mutex_init(&shared.lock, NULL) == 0);
    return shared;
}

/* Resumes what others resume at the same time: MISUSE or the truth. */
static void *resume_in_thread(void *argument) {
    struct shared *shared = argument;
    turso_status_code_t status;
    const turso_connection_t *connection = NULL;
    do {
        const turso_sync_io_item_t *item = NULL;
        REQUIRE(turso_sync_database_io_take_item(shared->db, &item, NULL) == TURSO_OK);
        if (item != NULL) {
            serve(item, shared->body);
            turso_sync_database_io_item_deinit(item);
        }
        status = turso_sync_operation_resume(shared->op, NULL);
        turso_sync_operation_result_kind(shared->op);
    } while (status == TURSO_IO || status == TURSO_MISUSE);
    REQUIRE(status == TURSO_DONE);
    if (turso_sync_operation_result_extract_connection(shared->op, &connection) == TURSO_OK) {
        REQUIRE(pthread_mutex_lock(&shared->lock) == 0);
        shared->connection = connection;
        shared->extracted++;
        pthread_mutex_unlock(&shared->lock);
    }
    return NULL;
}

static void test_one_operation_in_threads(const char *directory) {
    for (int round = 0; round < 5; round++) {
        static const begin_t functions[] = {turso_sync_database_create, turso_sync_database_connect};
        char name[32];
        snprintf(name, sizeof name, "threads-%d.db", round);
        const turso_sync_database_t *db = new_replica(in_directory(directory, name));
        for (int i = 0; i < 2; i++) {
            pthread_t threads[THREADS];
            struct shared shared = shared_by(db, begin(db, functions[i]), empty_answer());
            for (int t = 0; t < THREADS; t++) {
                REQUIRE(pthread_create(&threads[t], NULL, resume_in_thread, &shared) == 0);
            }
            for (int t = 0; t < THREADS; t++) {
                REQUIRE(pthread_join(threads[t], NULL) == 0);
            }
            DONE(turso_sync_operation_resume(shared.op, err()));
            /* All may have met another thread; then the result is still there. */
            if (i == 1 && shared.extracted == 0) {
                OK(turso_sync_operation_result_extract_connection(shared.op, &shared.connection));
                shared.extracted = 1;
            }
            CHECK(shared.extracted == i);
            turso_connection_deinit(shared.connection);
            turso_sync_operation_deinit(shared.op);
            pthread_mutex_destroy(&shared.lock);
        }
        turso_sync_database_deinit(db);
    }
}

static int listen_on_loopback(char *url, size_t size) {
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    REQUIRE(listen(listener, 1) == 0 && getsockname(listener, (struct sockaddr *)&address, &len) == 0);
    snprintf(url, size, "http://127.0.0.1:%u", (unsigned)ntohs(address.sin_port));
    return listener;
}

struct run {
    const turso_sync_database_t *db;
    const turso_sync_operation_t *op;
    turso_sync_driver_config_t config;
    turso_status_code_t status;
};

static void *run_in_thread(void *argument) {
    struct run *run = argument;
    run->status = turso_sync_operation_run(run->db, run->op, &run->config, NULL);
    return NULL;
}

/* While the driver waits for the remote in one thread, another cannot touch its operation, but all the rest. */
static void test_use_during_run(const char *directory) {
    const turso_sync_database_t *db = created_replica(in_directory(directory, "run.db"));
    const turso_connection_t *connection = connect_to(db), *none = POISON;
    char url[64];
    int listener = listen_on_loopback(url, sizeof url);
    struct run run;
    pthread_t thread;
    memset(&run, 0, sizeof run);
    run.db = db;
    run.op = begin(db, turso_sync_database_wait_changes);
    run.config.size = sizeof run.config;
    run.config.base_url = url;
    REQUIRE(pthread_create(&thread, NULL, run_in_thread, &run) == 0);
    int remote = accept(listener, NULL, NULL); /* from now on the driver waits for an answer */
    REQUIRE(remote >= 0);
    FAILS(TURSO_MISUSE, "concurrent use forbidden", turso_sync_operation_resume(run.op, err()));
    FAILS(TURSO_MISUSE, "concurrent use forbidden", turso_sync_operation_run(db, run.op, NULL, err()));
    REFUSES(TURSO_MISUSE, turso_sync_operation_result_extract_connection(run.op, &none));
    CHECK(turso_sync_operation_result_kind(run.op) == TURSO_ASYNC_RESULT_NONE);
    CHECK(none == POISON && take(db) == NULL);
    run_sql(connection, "CREATE TABLE during (x); INSERT INTO during VALUES (1)");
    const turso_sync_operation_t *stats = begin(db, turso_sync_database_stats);
    DONE(drive_empty(db, stats));
    turso_sync_operation_deinit(stats);
    close(listener);
    close(remote);
    REQUIRE(pthread_join(thread, NULL) == 0);
    CHECK(run.status >= TURSO_ERROR && run.status != TURSO_MISUSE);
    CHECK(turso_sync_operation_resume(run.op, NULL) == run.status);
    turso_sync_operation_deinit(run.op);
    turso_connection_deinit(connection);
    turso_sync_database_deinit(db);
}

static void *insert_in_thread(void *argument) {
    struct shared *shared = argument;
    bool ended = false;
    while (!ended) {
        turso_statement_t *statement = NULL;
        REQUIRE(turso_connection_prepare_single(shared->connection, "INSERT INTO mine VALUES (randomblob(100))",
                                                &statement, NULL) == TURSO_OK);
        REQUIRE(turso_statement_execute(statement, NULL, NULL) == TURSO_DONE);
        turso_statement_deinit(statement);
        REQUIRE(pthread_mutex_lock(&shared->lock) == 0);
        shared->inserted++;
        ended = shared->ended || shared->inserted == 50; /* an end even if this thread never lets go of the lock */
        pthread_mutex_unlock(&shared->lock);
    }
    return NULL;
}

/* SQL goes on in its thread while changes are downloaded and applied in another. */
static void test_sql_during_sync(const char *directory) {
    const turso_sync_database_t *db = created_replica(in_directory(directory, "busy.db"));
    struct shared shared = shared_by(db, NULL, remote_database(in_directory(directory, "busy-remote.db")));
    pthread_t thread;
    int left = -1;
    shared.connection = connect_to(db);
    turso_connection_set_busy_timeout_ms(shared.connection, 600000);
    run_sql(shared.connection, "CREATE TABLE mine (x)");
    REQUIRE(pthread_create(&thread, NULL, insert_in_thread, &shared) == 0);
    for (int i = 0; i < 10; i++) {
        persist_pull(db, shared.body, &left);
    }
    REQUIRE(pthread_mutex_lock(&shared.lock) == 0);
    shared.ended = true;
    pthread_mutex_unlock(&shared.lock);
    REQUIRE(pthread_join(thread, NULL) == 0);
    CHECK(query_int(shared.connection, "SELECT count(*) FROM mine") == shared.inserted);
    CHECK(query_int(shared.connection, "SELECT count(*) FROM remote") == 1);
    turso_connection_deinit(shared.connection);
    turso_sync_database_deinit(db);
    free(shared.body.data);
    pthread_mutex_destroy(&shared.lock);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    test_foreign_changes(argv[1]);
    test_foreign_operation(argv[1]);
    test_releases_in_any_order(argv[1]);
    test_failed_operation(argv[1]);
    test_answers_after_the_end(argv[1]);
    test_every_request_lost(argv[1]);
    test_one_operation_in_threads(argv[1]);
    test_use_during_run(argv[1]);
    test_sql_during_sync(argv[1]);
    return verdict("contract_misuse");
}

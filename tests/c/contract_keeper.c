/*
 * Contract of keep in sync and of the driver's settings: arguments, threads, callbacks, lifetimes. Argument: an empty
 * directory. The network is a server of its own on loopback.
 */
#define _POSIX_C_SOURCE 200809L

#include "replica.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* ----------------------------------------------------------------------------------------------------- the remote */

/* Answers every pull with `stream`, and everything else with 404. */
struct remote {
    int listener;
    char url[64];
    struct bytes stream;
    pthread_t thread;
    pthread_mutex_t mutex;
    unsigned requests, with_token;
};

static void answer_one(struct remote *remote, int connection) {
    char head[4096], reply[160];
    size_t len = 0;
    const char *end = NULL;
    while (end == NULL && len < sizeof head - 1) {
        ssize_t n = recv(connection, head + len, sizeof head - 1 - len, 0);
        if (n <= 0) {
            return;
        }
        len += (size_t)n;
        head[len] = 0;
        end = strstr(head, "\r\n\r\n");
    }
    const char *length = strstr(head, "ontent-length: ");
    size_t rest = length == NULL ? 0 : (size_t)atol(length + 15);
    for (size_t got = len - (size_t)(end + 4 - head); got < rest;) {
        char body[4096];
        ssize_t n = recv(connection, body, sizeof body, 0);
        if (n <= 0) {
            return;
        }
        got += (size_t)n;
    }
    pthread_mutex_lock(&remote->mutex);
    remote->requests++;
    remote->with_token += strstr(head, "uthorization: Bearer token-1\r\n") != NULL;
    pthread_mutex_unlock(&remote->mutex);
    bool pull = strstr(head, "/pull-updates") != NULL;
    size_t size = pull ? remote->stream.len : 0;
    int n = snprintf(reply, sizeof reply, "HTTP/1.1 %s\r\nContent-Length: %lu\r\nConnection: close\r\n\r\n",
                     pull ? "200 OK" : "404 No", (unsigned long)size);
    if (send(connection, reply, (size_t)n, MSG_NOSIGNAL) == n && size > 0) {
        (void)!send(connection, remote->stream.data, size, MSG_NOSIGNAL);
    }
}

static void *serve(void *argument) {
    struct remote *remote = argument;
    int connection;
    while ((connection = accept(remote->listener, NULL, NULL)) >= 0) {
        answer_one(remote, connection);
        close(connection);
    }
    return NULL;
}

static void start(struct remote *remote, struct bytes stream) {
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    memset(remote, 0, sizeof *remote);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    remote->stream = stream;
    remote->listener = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(remote->listener >= 0 && bind(remote->listener, (struct sockaddr *)&address, sizeof address) == 0);
    REQUIRE(listen(remote->listener, 16) == 0);
    REQUIRE(getsockname(remote->listener, (struct sockaddr *)&address, &len) == 0);
    snprintf(remote->url, sizeof remote->url, "http://127.0.0.1:%u", (unsigned)ntohs(address.sin_port));
    REQUIRE(pthread_mutex_init(&remote->mutex, NULL) == 0);
    REQUIRE(pthread_create(&remote->thread, NULL, serve, remote) == 0);
}

static void stop(struct remote *remote) {
    shutdown(remote->listener, SHUT_RDWR);
    REQUIRE(pthread_join(remote->thread, NULL) == 0);
    close(remote->listener);
    pthread_mutex_destroy(&remote->mutex);
}

/* ------------------------------------------------------------------------------------------------------- callbacks */

struct counts {
    pthread_mutex_t mutex;
    unsigned tokens, changes;
    turso_status_code_t paused_inside;
    const turso_sync_keeper_t *keeper;
};

static const char *token(void *context) {
    struct counts *counts = context;
    pthread_mutex_lock(&counts->mutex);
    counts->tokens++;
    pthread_mutex_unlock(&counts->mutex);
    return "token-1";
}

static void changed(void *context) {
    struct counts *counts = context;
    pthread_mutex_lock(&counts->mutex);
    counts->changes++;
    if (counts->keeper != NULL) {
        counts->paused_inside = turso_sync_keeper_pause(counts->keeper, NULL);
    }
    pthread_mutex_unlock(&counts->mutex);
}

static unsigned read_count(struct counts *counts, const unsigned *count) {
    pthread_mutex_lock(&counts->mutex);
    unsigned value = *count;
    pthread_mutex_unlock(&counts->mutex);
    return value;
}

static void pass_time(void) {
    struct timespec pause = {0, 2000000};
    nanosleep(&pause, NULL);
}

static turso_sync_keeper_status_t status_of(const turso_sync_keeper_t *keeper) {
    turso_sync_keeper_status_t status;
    memset(&status, 0x5a, sizeof status);
    status.size = sizeof status;
    OK(turso_sync_keeper_status(keeper, &status));
    return status;
}

static turso_sync_driver_config_t driver_config(const char *url) {
    turso_sync_driver_config_t config;
    memset(&config, 0, sizeof config);
    config.size = sizeof config;
    config.base_url = url;
    config.attempts = 1;
    return config;
}

/* ----------------------------------------------------------------------------------------------------------- tests */

static void test_arguments(const char *directory) {
    turso_sync_driver_config_t config = driver_config("http://127.0.0.1:1");
    turso_sync_keep_options_t options;
    turso_sync_keeper_status_t status;
    turso_sync_error_t error;
    const turso_sync_keeper_t *keeper = POISON;
    memset(&options, 0, sizeof options);
    memset(&status, 0, sizeof status);
    memset(&error, 0, sizeof error);
    const turso_sync_database_t *closed = new_replica(in_directory(directory, "closed.db"));
    FAILS(TURSO_MISUSE, "initialized", turso_sync_database_keep_in_sync(closed, &config, NULL, &keeper, err()));
    turso_sync_database_deinit(closed);
    const turso_sync_database_t *db = created_replica(in_directory(directory, "arguments.db"));
    FAILS(TURSO_MISUSE, "null", turso_sync_database_keep_in_sync(NULL, &config, NULL, &keeper, err()));
    FAILS(TURSO_MISUSE, "null", turso_sync_database_keep_in_sync(db, &config, NULL, NULL, err()));
    FAILS(TURSO_MISUSE, "turso_sync_keep_options_t: size",
          turso_sync_database_keep_in_sync(db, &config, &options, &keeper, err()));
    config.size = 0;
    FAILS(TURSO_MISUSE, "turso_sync_driver_config_t: size",
          turso_sync_database_keep_in_sync(db, &config, NULL, &keeper, err()));
    config.size = sizeof config;
    config.auth_token = "fixed";
    config.auth_token_callback = token;
    FAILS(TURSO_MISUSE, "not both", turso_sync_database_keep_in_sync(db, &config, NULL, &keeper, err()));
    config.auth_token_callback = NULL;
    config.proxy = "gopher://nowhere";
    FAILS(TURSO_MISUSE, "proxy", turso_sync_database_keep_in_sync(db, &config, NULL, &keeper, err()));
    config.proxy = NULL;
    config.ca_file = "/does/not/exist.pem";
    FAILS(TURSO_IOERR, "exist.pem", turso_sync_database_keep_in_sync(db, &config, NULL, &keeper, err()));
    CHECK(keeper == POISON);
    FAILS(TURSO_MISUSE, "null", turso_sync_keeper_pause(NULL, err()));
    FAILS(TURSO_MISUSE, "null", turso_sync_keeper_sync_now(NULL, err()));
    REFUSES(TURSO_MISUSE, turso_sync_keeper_resume(NULL));
    REFUSES(TURSO_MISUSE, turso_sync_keeper_wake(NULL));
    REFUSES(TURSO_MISUSE, turso_sync_keeper_status(NULL, &status));
    REFUSES(TURSO_MISUSE, turso_sync_keeper_error(NULL, &error));
    turso_sync_keeper_deinit(NULL);

    /* A program of the time before the new fields. */
    config = driver_config("http://127.0.0.1:1");
    config.size = offsetof(turso_sync_driver_config_t, auth_token_callback);
    config.attempts = UINT32_MAX; /* not there */
    options.size = sizeof options;
    options.debounce_ms = options.interval_ms = options.longest_pause_ms = UINT64_MAX;
    REQUIRE(OK(turso_sync_database_keep_in_sync(db, &config, &options, &keeper, err())));
    REFUSES(TURSO_MISUSE, turso_sync_keeper_status(keeper, NULL));
    REFUSES(TURSO_MISUSE, turso_sync_keeper_status(keeper, &status)); /* no size */
    REFUSES(TURSO_MISUSE, turso_sync_keeper_error(keeper, &error));
    turso_sync_keeper_deinit(keeper);
    turso_sync_database_deinit(db);
}

static void test_changes_arrive(const char *directory) {
    struct remote remote;
    struct counts counts;
    const turso_sync_keeper_t *keeper = NULL;
    memset(&counts, 0, sizeof counts);
    REQUIRE(pthread_mutex_init(&counts.mutex, NULL) == 0);
    struct bytes stream = remote_database(in_directory(directory, "remote.db"));
    start(&remote, stream);
    const turso_sync_database_t *db = created_replica(in_directory(directory, "changes.db"));
    const turso_connection_t *connection = connect_to(db);
    turso_sync_driver_config_t config = driver_config(remote.url);
    config.auth_token_callback = token;
    config.auth_token_context = &counts;
    turso_sync_keep_options_t options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.interval_ms = 3600000;
    options.on_change = changed;
    options.on_change_context = &counts;
    REQUIRE(OK(turso_sync_database_keep_in_sync(db, &config, &options, &keeper, err())));
    turso_sync_database_deinit(db); /* the keeper goes on */
    while (read_count(&counts, &counts.changes) == 0) {
        pass_time();
    }
    CHECK(query_int(connection, "SELECT count(*) FROM remote") == 1);
    pthread_mutex_lock(&counts.mutex);
    counts.keeper = keeper;
    pthread_mutex_unlock(&counts.mutex);
    REQUIRE(OK(turso_sync_keeper_sync_now(keeper, err()))); /* the same pages once more */
    CHECK(read_count(&counts, &counts.changes) >= 2);
    CHECK(counts.paused_inside == TURSO_MISUSE);
    CHECK(status_of(keeper).pulls >= 2 && status_of(keeper).code == TURSO_OK);

    OK(turso_sync_keeper_pause(keeper, err()));
    CHECK(status_of(keeper).state == TURSO_SYNC_KEEPER_PAUSED);
    FAILS(TURSO_MISUSE, "paused", turso_sync_keeper_sync_now(keeper, err()));
    run_sql(connection, "INSERT INTO remote VALUES ('pending')");
    OK(turso_sync_keeper_wake(keeper));
    CHECK(status_of(keeper).state == TURSO_SYNC_KEEPER_PAUSED);
    OK(turso_sync_keeper_resume(keeper));
    while (status_of(keeper).failures == 0) { /* 404: this remote takes no pushes */
        pass_time();
    }
    turso_sync_error_t error;
    memset(&error, 0x5a, sizeof error);
    error.size = sizeof error;
    OK(turso_sync_keeper_error(keeper, &error));
    CHECK(error.code == TURSO_ERROR && error.category == TURSO_SYNC_ERROR_REMOTE && error.http_status == 404);
    CHECK(error.message.len > 0);
    CHECK(status_of(keeper).state == TURSO_SYNC_KEEPER_RETRYING);
    turso_sync_keeper_deinit(keeper);
    turso_connection_deinit(connection);
    stop(&remote);
    CHECK(counts.tokens >= remote.requests && remote.with_token == remote.requests && remote.requests >= 3);
    free(stream.data);
    pthread_mutex_destroy(&counts.mutex);
}

static unsigned entries(const char *path) {
    unsigned count = 0;
    DIR *directory = opendir(path);
    REQUIRE(directory != NULL);
    while (readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    return count;
}

static void test_nothing_leaks(const char *directory) {
    struct remote remote;
    struct bytes empty;
    empty.data = (char *)(uintptr_t)empty_remote;
    empty.len = sizeof empty_remote;
    start(&remote, empty);
    const turso_sync_database_t *db = created_replica(in_directory(directory, "cycles.db"));
    const turso_connection_t *connection = connect_to(db);
    unsigned threads = entries("/proc/self/task"), files = entries("/proc/self/fd");
    for (int i = 0; i < 200; i++) {
        const turso_sync_keeper_t *keeper = NULL;
        turso_sync_driver_config_t config = driver_config(i % 4 == 0 ? "http://127.0.0.1:1" : remote.url);
        REQUIRE(OK(turso_sync_database_keep_in_sync(db, &config, NULL, &keeper, err())));
        if (i % 3 == 0) {
            run_sql(connection, "CREATE TABLE IF NOT EXISTS t (v)");
            OK(turso_sync_keeper_wake(keeper));
        }
        if (i % 5 == 0) {
            OK(turso_sync_keeper_pause(keeper, err()));
            OK(turso_sync_keeper_resume(keeper));
        }
        turso_sync_keeper_deinit(keeper);
    }
    /* The threads of requests that were cut off end by themselves. SQLite keeps some files open that it will need again. */
    while (entries("/proc/self/task") > threads || entries("/proc/self/fd") > files + 16) {
        pass_time();
    }
    turso_connection_deinit(connection);
    turso_sync_database_deinit(db);
    stop(&remote);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    test_arguments(argv[1]);
    test_changes_arrive(argv[1]);
    test_nothing_leaks(argv[1]);
    return verdict("contract_keeper");
}

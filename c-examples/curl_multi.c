/*
 * curl_multi: several replicas sync at the same time in one thread, with libcurl's multi interface.
 *
 *     curl_multi URL PATH [PATH ...]
 *
 * Every replica has one operation in progress; its requests run beside those of the others. When a request ends, its
 * operation is resumed; when an operation ends, the next one of that replica begins.
 */
#include <curl/curl.h>

#include "common.h"

/* Longest silence of the server, in seconds. */
#define SILENCE_SECONDS 60L

enum stage { CREATE, CONNECT, PUSH, WAIT, APPLY, FINISHED };

struct replica {
    const char *path;
    const turso_sync_database_t *database;
    const turso_sync_operation_t *operation;
    const turso_connection_t *connection;
    const turso_sync_changes_t *changes;
    enum stage stage;
    int in_flight; /* requests that its operation waits for */
};

/* A request in flight. */
struct transfer {
    struct replica *replica;
    const turso_sync_io_item_t *item;
    CURL *easy;
    struct curl_slist *headers;
    char *url;
    bool has_status;
};

static void poison(const turso_sync_io_item_t *item, const char *message) {
    turso_slice_ref_t slice;
    slice.ptr = message;
    slice.len = strlen(message);
    must(turso_sync_database_io_poison(item, &slice), NULL, "poison");
}

/* libcurl hands over a piece of the body. The status has to be reported before the first one. */
static size_t on_body(char *bytes, size_t size, size_t count, void *context) {
    struct transfer *t = context;
    turso_slice_ref_t slice;
    if (!t->has_status) {
        long status = 0;
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        must(turso_sync_database_io_status(t->item, (int32_t)status), NULL, "status");
        t->has_status = true;
    }
    slice.ptr = bytes;
    slice.len = size * count;
    return turso_sync_database_io_push_buffer(t->item, &slice) == TURSO_OK ? slice.len : 0;
}

/* a, between and b in a new string; free it. */
static char *join(turso_slice_ref_t a, const char *between, turso_slice_ref_t b) {
    size_t len = strlen(between);
    char *text = malloc(a.len + len + b.len + 1);
    if (text == NULL) {
        exit(1);
    }
    if (a.len > 0) {
        memcpy(text, a.ptr, a.len);
    }
    memcpy(text + a.len, between, len);
    if (b.len > 0) {
        memcpy(text + a.len + len, b.ptr, b.len);
    }
    text[a.len + len + b.len] = '\0';
    return text;
}

static void add_header(struct transfer *t, char *line) {
    struct curl_slist *longer = curl_slist_append(t->headers, line);
    if (longer == NULL) {
        exit(1);
    }
    t->headers = longer;
    free(line);
}

static void add_headers(struct transfer *t, const turso_sync_io_http_request_t *request) {
    for (size_t i = 0; i < (size_t)request->headers; i++) {
        turso_sync_io_http_header_t header;
        must(turso_sync_database_io_request_http_header(t->item, i, &header), NULL, "header");
        add_header(t, join(header.key, ": ", header.value));
    }
    const char *token = getenv("TURSO_AUTH_TOKEN");
    if (token != NULL) {
        turso_slice_ref_t name = {"Authorization", 13}, value = {NULL, 0};
        value.ptr = token;
        value.len = strlen(token);
        add_header(t, join(name, ": Bearer ", value));
    }
}

/* Sets the options of a transfer; the slices of the request live as long as the item. */
static void set_options(struct transfer *t, const turso_sync_io_http_request_t *request) {
    bool post = request->method.len == 4 && memcmp(request->method.ptr, "POST", 4) == 0;
    curl_easy_setopt(t->easy, CURLOPT_URL, t->url);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    if (post) {
        curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, request->body.len == 0 ? "" : request->body.ptr);
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.len);
    }
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    /* Fewer than one byte per second for so long: the server is gone. */
    curl_easy_setopt(t->easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(t->easy, CURLOPT_LOW_SPEED_TIME, SILENCE_SECONDS);
}

static void start_transfer(CURLM *multi, struct replica *replica, const turso_sync_io_item_t *item) {
    turso_sync_io_http_request_t request;
    struct transfer *t = calloc(1, sizeof *t);
    if (t == NULL || (t->easy = curl_easy_init()) == NULL) {
        exit(1);
    }
    t->replica = replica;
    t->item = item;
    must(turso_sync_database_io_request_http(item, &request), NULL, "http");
    if (request.url.len > 0 && ((const char *)request.url.ptr)[request.url.len - 1] == '/') {
        request.url.len--;
    }
    t->url = join(request.url, "", request.path);
    add_headers(t, &request);
    set_options(t, &request);
    if (curl_multi_add_handle(multi, t->easy) != CURLM_OK) {
        exit(1);
    }
    replica->in_flight++;
}

/* libcurl has finished a transfer. It checks Content-Length and chunks itself: a short body is an error here. */
static void end_transfer(CURLM *multi, struct transfer *t, CURLcode result) {
    if (result != CURLE_OK) {
        poison(t->item, curl_easy_strerror(result));
    } else {
        if (!t->has_status) { /* an answer without a body */
            long status = 0;
            curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
            must(turso_sync_database_io_status(t->item, (int32_t)status), NULL, "status");
        }
        must(turso_sync_database_io_done(t->item), NULL, "done");
    }
    t->replica->in_flight--;
    turso_sync_database_io_item_deinit(t->item);
    curl_multi_remove_handle(multi, t->easy);
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    free(t->url);
    free(t);
}

/* Serves the files of a replica at once and starts its HTTP requests. */
static void serve_queue(CURLM *multi, struct replica *replica) {
    for (;;) {
        const char *error = NULL;
        const turso_sync_io_item_t *item = NULL;
        must(turso_sync_database_io_take_item(replica->database, &item, &error), &error, "take_item");
        if (item == NULL) {
            return;
        }
        if (turso_sync_database_io_request_kind(item) == TURSO_SYNC_IO_HTTP) {
            start_transfer(multi, replica, item);
            continue;
        }
        if (turso_sync_database_io_perform_file(item, &error) == TURSO_MISUSE) {
            poison(item, "unknown request");
        }
        turso_str_deinit(error); /* a failed file fails the operation, which reports it */
        turso_sync_database_io_item_deinit(item);
    }
}

/* Begins the operation of the replica's stage. */
static void begin(struct replica *r) {
    const char *error = NULL;
    turso_status_code_t status = TURSO_OK;
    switch (r->stage) {
    case CREATE:
        status = turso_sync_database_create(r->database, &r->operation, &error);
        break;
    case CONNECT:
        status = turso_sync_database_connect(r->database, &r->operation, &error);
        break;
    case PUSH:
        status = turso_sync_database_push_changes(r->database, &r->operation, &error);
        break;
    case WAIT:
        status = turso_sync_database_wait_changes(r->database, &r->operation, &error);
        break;
    case APPLY:
        status = turso_sync_database_apply_changes(r->database, r->changes, &r->operation, &error);
        r->changes = NULL; /* consumed in any case */
        break;
    case FINISHED:
        break;
    }
    must(status, &error, r->path);
}

/* Takes the result of an operation that has ended, and goes to the next stage. */
static void finish(struct replica *r) {
    if (r->stage == CONNECT) {
        must(turso_sync_operation_result_extract_connection(r->operation, &r->connection), NULL, r->path);
        run_sql(r->connection, "CREATE TABLE IF NOT EXISTS hits (id TEXT PRIMARY KEY, at TEXT);"
                               "INSERT INTO hits VALUES (hex(randomblob(8)), datetime())");
    } else if (r->stage == WAIT) {
        must(turso_sync_operation_result_extract_changes(r->operation, &r->changes), NULL, r->path);
    }
    turso_sync_operation_deinit(r->operation);
    r->operation = NULL;
    r->stage = r->stage == WAIT && r->changes == NULL ? FINISHED : (enum stage)(r->stage + 1);
}

/* Resumes a replica until it waits for the network or has finished. */
static void advance(CURLM *multi, struct replica *r) {
    while (r->in_flight == 0 && r->stage != FINISHED) {
        const char *error = NULL;
        if (r->operation == NULL) {
            begin(r);
        }
        turso_status_code_t status = turso_sync_operation_resume(r->operation, &error);
        if (status == TURSO_IO) {
            serve_queue(multi, r);
            must(turso_sync_database_io_step_callbacks(r->database, &error), &error, r->path);
        } else {
            must(status, &error, r->path);
            finish(r);
        }
    }
}

/* Lets libcurl work until something has ended. */
static void wait_for_network(CURLM *multi) {
    int running = 0, left = 0;
    CURLMsg *message;
    if (curl_multi_perform(multi, &running) != CURLM_OK ||
        (running > 0 && curl_multi_poll(multi, NULL, 0, 1000, NULL) != CURLM_OK)) {
        fprintf(stderr, "libcurl failed\n");
        exit(1);
    }
    while ((message = curl_multi_info_read(multi, &left)) != NULL) {
        if (message->msg == CURLMSG_DONE) {
            struct transfer *t = NULL;
            CURLcode result = message->data.result;
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&t);
            end_transfer(multi, t, result);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s URL PATH [PATH ...]\n", argv[0]);
        return 2;
    }
    size_t count = (size_t)argc - 2, finished = 0;
    struct replica *replicas = calloc(count, sizeof *replicas);
    if (replicas == NULL || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return 1;
    }
    CURLM *multi = curl_multi_init();
    for (size_t i = 0; i < count; i++) {
        replicas[i].path = argv[i + 2];
        replicas[i].database = new_replica(argv[1], argv[i + 2], "curl-multi");
    }
    while (finished < count) {
        finished = 0;
        for (size_t i = 0; i < count; i++) {
            advance(multi, &replicas[i]);
            finished += replicas[i].stage == FINISHED;
        }
        wait_for_network(multi);
    }
    for (size_t i = 0; i < count; i++) {
        printf("%s: %lld rows\n", replicas[i].path,
               (long long)query_int(replicas[i].connection, "SELECT count(*) FROM hits"));
        turso_connection_deinit(replicas[i].connection);
        turso_sync_database_deinit(replicas[i].database);
    }
    curl_multi_cleanup(multi);
    curl_global_cleanup();
    free(replicas);
    check_nothing_leaked();
    return 0;
}

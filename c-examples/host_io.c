/*
 * host_io: the program does all IO itself: HTTP/1.1 over plain POSIX sockets, and files with the full contract.
 *
 *     host_io http://HOST:PORT PATH
 *
 * A real program would use its platform's HTTP stack (with TLS); what has to be done is the same.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "common.h"

/* Longest silence of the server, in seconds. Without a limit a dead network would hang the program. */
#define SILENCE_SECONDS 60

/* ------------------------------------------------------------------------------------------- answering an item */

static void push_bytes(const turso_sync_io_item_t *item, const char *bytes, size_t len) {
    turso_slice_ref_t slice;
    slice.ptr = bytes;
    slice.len = len;
    must(turso_sync_database_io_push_buffer(item, &slice), NULL, "push_buffer");
}

/* Fails the item: the operation ends with this message, and can be begun again. */
static void poison(const turso_sync_io_item_t *item, const char *what, const char *why) {
    char text[512];
    turso_slice_ref_t slice;
    snprintf(text, sizeof text, "%s: %s", what, why);
    slice.ptr = text;
    slice.len = strlen(text);
    must(turso_sync_database_io_poison(item, &slice), NULL, "poison");
}

/* ---------------------------------------------------------------------------------------------------------- files */

/* A zero-terminated copy of a path; free it. */
static char *copy_path(turso_slice_ref_t path) {
    char *text = malloc(path.len + 1);
    if (text == NULL) {
        exit(1);
    }
    memcpy(text, path.ptr, path.len);
    text[path.len] = '\0';
    return text;
}

static void serve_read(const turso_sync_io_item_t *item) {
    turso_sync_io_full_read_request_t request;
    must(turso_sync_database_io_request_full_read(item, &request), NULL, "full_read");
    char *path = copy_path(request.path);
    FILE *file = fopen(path, "rb");
    if (file == NULL && errno == ENOENT) {
        must(turso_sync_database_io_done(item), NULL, "done"); /* a missing file is an empty one */
    } else if (file == NULL) {
        poison(item, path, strerror(errno)); /* any other reason is a failure, not an empty file */
    } else {
        char piece[8192];
        size_t len;
        while ((len = fread(piece, 1, sizeof piece, file)) > 0) {
            push_bytes(item, piece, len);
        }
        if (ferror(file)) {
            poison(item, path, "cannot be read");
        } else {
            must(turso_sync_database_io_done(item), NULL, "done");
        }
        fclose(file);
    }
    free(path);
}

static bool write_all(int file, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t written = write(file, bytes, len);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return false;
        }
        bytes += written;
        len -= (size_t)written;
    }
    return true;
}

/* Makes a rename in the directory of `path` durable. */
static bool sync_directory_of(const char *path) {
    char *directory = strdup(path);
    if (directory == NULL) {
        return false;
    }
    char *slash = strrchr(directory, '/');
    if (slash != NULL) {
        slash[slash == directory ? 1 : 0] = '\0';
    }
    int file = open(slash == NULL ? "." : directory, O_RDONLY);
    free(directory);
    if (file < 0) {
        return false;
    }
    bool synced = fsync(file) == 0;
    return close(file) == 0 && synced;
}

/*
 * Replaces a file so that a crash or power loss leaves the old or the new content, never a part:
 *   1. write a new file beside it, under a name that nobody else uses;
 *   2. fsync it: otherwise the rename can reach the disk before the content;
 *   3. rename it over the old one;
 *   4. fsync the directory: otherwise the rename itself can be lost.
 * turso_sync_database_io_perform_file does this, and reads, for hosts whose files are ordinary ones; a host that keeps them
 * elsewhere does it by itself, as here. The contract is in docs/guarantees.md.
 */
static bool replace_file(const char *path, const char *temporary, turso_slice_ref_t content) {
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (file < 0) {
        return false;
    }
    bool good = write_all(file, content.ptr, content.len) && fsync(file) == 0;
    good = close(file) == 0 && good;
    good = good && rename(temporary, path) == 0;
    if (!good) {
        int reason = errno;
        unlink(temporary);
        errno = reason;
        return false;
    }
    return sync_directory_of(path);
}

static void serve_write(const turso_sync_io_item_t *item) {
    static unsigned long counter;
    turso_sync_io_full_write_request_t request;
    must(turso_sync_database_io_request_full_write(item, &request), NULL, "full_write");
    char *path = copy_path(request.path);
    size_t size = strlen(path) + 64;
    char *temporary = malloc(size);
    if (temporary == NULL) {
        exit(1);
    }
    snprintf(temporary, size, "%s.%ld-%lu.tmp", path, (long)getpid(), counter++);
    if (replace_file(path, temporary, request.content)) {
        must(turso_sync_database_io_done(item), NULL, "done");
    } else {
        poison(item, path, strerror(errno));
    }
    free(temporary);
    free(path);
}

/* ----------------------------------------------------------------------------------------------------------- HTTP */

/* A connection with a buffer for what was received and not used yet. */
struct stream {
    int socket;
    size_t begin, end;
    char bytes[16384];
};

/* Receives more; false at the end or on failure. */
static bool fill(struct stream *s) {
    ssize_t len;
    if (s->begin > 0) {
        memmove(s->bytes, s->bytes + s->begin, s->end - s->begin);
        s->end -= s->begin;
        s->begin = 0;
    }
    if (s->end == sizeof s->bytes) {
        return false; /* a line longer than the buffer */
    }
    do {
        len = recv(s->socket, s->bytes + s->end, sizeof s->bytes - s->end, 0);
    } while (len < 0 && errno == EINTR);
    if (len <= 0) {
        return false;
    }
    s->end += (size_t)len;
    return true;
}

/* The next line without its end, zero-terminated, valid until the next call; NULL if the stream ends before. */
static char *read_line(struct stream *s) {
    for (;;) {
        char *line = s->bytes + s->begin;
        char *end = memchr(line, '\n', s->end - s->begin);
        if (end != NULL) {
            s->begin += (size_t)(end - line) + 1;
            *end = '\0';
            if (end > line && end[-1] == '\r') {
                end[-1] = '\0';
            }
            return line;
        }
        if (!fill(s)) {
            return NULL;
        }
    }
}

/* Passes `len` bytes of the body on; false if the stream ends before. */
static bool pass_on(struct stream *s, const turso_sync_io_item_t *item, unsigned long long len) {
    while (len > 0) {
        size_t available = s->end - s->begin;
        if (available == 0) {
            if (!fill(s)) {
                return false;
            }
            continue;
        }
        size_t now = available < len ? available : (size_t)len;
        push_bytes(item, s->bytes + s->begin, now);
        s->begin += now;
        len -= now;
    }
    return true;
}

/* "Transfer-Encoding: chunked": every chunk begins with its length; one of length 0 ends the body. */
static bool pass_on_chunks(struct stream *s, const turso_sync_io_item_t *item) {
    for (;;) {
        char *line = read_line(s), *end;
        if (line == NULL) {
            return false;
        }
        unsigned long long len = strtoull(line, &end, 16);
        if (end == line) {
            return false;
        }
        if (len == 0) {
            while ((line = read_line(s)) != NULL && *line != '\0') {
                /* trailers mean nothing here */
            }
            return line != NULL;
        }
        if (!pass_on(s, item, len) || (line = read_line(s)) == NULL || *line != '\0') {
            return false;
        }
    }
}

/* The value of header `name` if `line` is that header. */
static const char *header_value(const char *line, const char *name) {
    size_t len = strlen(name);
    if (strncasecmp(line, name, len) != 0 || line[len] != ':') {
        return NULL;
    }
    line += len + 1;
    return line + strspn(line, " \t");
}

/* Reads the answer into the item. NULL, or what is wrong with it. */
static const char *receive_answer(struct stream *s, const turso_sync_io_item_t *item) {
    unsigned long long length = 0;
    bool has_length = false, chunked = false;
    const char *value;
    char *line = read_line(s);
    if (line == NULL || strncmp(line, "HTTP/1.", 7) != 0 || strlen(line) < 12) {
        return "no HTTP answer";
    }
    must(turso_sync_database_io_status(item, atoi(line + 9)), NULL, "status");
    while ((line = read_line(s)) != NULL && *line != '\0') {
        if ((value = header_value(line, "Content-Length")) != NULL) {
            char *end;
            length = strtoull(value, &end, 10);
            has_length = end != value;
        } else if ((value = header_value(line, "Transfer-Encoding")) != NULL) {
            chunked = strcasecmp(value, "chunked") == 0;
        }
    }
    if (line == NULL) {
        return "the headers of the answer were cut short";
    }
    /* A body that ends with the connection cannot be told from one that was cut short: it is refused. */
    if (!chunked && !has_length) {
        return "the answer has no length";
    }
    if (!(chunked ? pass_on_chunks(s, item) : pass_on(s, item, length))) {
        return "the body of the answer was cut short";
    }
    return NULL;
}

static bool send_all(int s, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t sent = send(s, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent <= 0) {
            return false;
        }
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

/* One line of the request, from a name and a value that need not be zero-terminated. */
static bool send_header(int s, turso_slice_ref_t key, turso_slice_ref_t value) {
    return send_all(s, key.ptr, key.len) && send_all(s, ": ", 2) && send_all(s, value.ptr, value.len) &&
           send_all(s, "\r\n", 2);
}

static bool send_request(int s, const turso_sync_io_item_t *item, const turso_sync_io_http_request_t *request,
                         const char *host) {
    char text[512];
    bool good = send_all(s, request->method.ptr, request->method.len) && send_all(s, " ", 1) &&
                send_all(s, request->path.ptr, request->path.len);
    snprintf(text, sizeof text, " HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %lu\r\n", host,
             (unsigned long)request->body.len);
    good = good && send_all(s, text, strlen(text));
    for (size_t i = 0; good && i < (size_t)request->headers; i++) {
        turso_sync_io_http_header_t header;
        must(turso_sync_database_io_request_http_header(item, i, &header), NULL, "header");
        good = send_header(s, header.key, header.value);
    }
    const char *token = getenv("TURSO_AUTH_TOKEN"); /* read for every request: it may expire */
    if (good && token != NULL) {
        good = send_all(s, "Authorization: Bearer ", 22) && send_all(s, token, strlen(token)) && send_all(s, "\r\n", 2);
    }
    return good && send_all(s, "\r\n", 2) && send_all(s, request->body.ptr, request->body.len);
}

/* Connects to "host:port"; -1 if that fails. */
static int connect_socket(const char *authority) {
    char host[256];
    struct addrinfo hints, *addresses, *a;
    struct timeval silence;
    int s = -1;
    const char *colon = strrchr(authority, ':');
    size_t len = colon == NULL ? strlen(authority) : (size_t)(colon - authority);
    if (len >= sizeof host) {
        return -1;
    }
    memcpy(host, authority, len);
    host[len] = '\0';
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host, colon == NULL ? "80" : colon + 1, &hints, &addresses) != 0) {
        return -1;
    }
    memset(&silence, 0, sizeof silence);
    silence.tv_sec = SILENCE_SECONDS;
    for (a = addresses; a != NULL && s < 0; a = a->ai_next) {
        s = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        if (s >= 0 && (setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence) != 0 ||
                       setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence) != 0 ||
                       connect(s, a->ai_addr, a->ai_addrlen) != 0)) {
            close(s);
            s = -1;
        }
    }
    freeaddrinfo(addresses);
    return s;
}

static void serve_http(const turso_sync_io_item_t *item) {
    turso_sync_io_http_request_t request;
    char authority[256];
    must(turso_sync_database_io_request_http(item, &request), NULL, "http");
    /* The URL is "http://host:port"; a path behind it is beyond this example. */
    const char *url = request.url.ptr;
    if (url == NULL || request.url.len < 8 || request.url.len - 7 >= sizeof authority || memcmp(url, "http://", 7) != 0) {
        poison(item, "URL", "only http://HOST:PORT is understood here");
        return;
    }
    memcpy(authority, url + 7, request.url.len - 7);
    authority[request.url.len - 7] = '\0';
    authority[strcspn(authority, "/")] = '\0';

    struct stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        exit(1);
    }
    s->socket = connect_socket(authority);
    if (s->socket < 0) {
        poison(item, authority, "cannot connect");
    } else if (!send_request(s->socket, item, &request, authority)) {
        poison(item, authority, "the request could not be sent");
    } else {
        const char *wrong = receive_answer(s, item);
        if (wrong == NULL) {
            must(turso_sync_database_io_done(item), NULL, "done");
        } else {
            poison(item, authority, wrong);
        }
    }
    if (s->socket >= 0) {
        close(s->socket);
    }
    free(s);
}

/* ------------------------------------------------------------------------------------------------------- the loop */

static void serve(const turso_sync_io_item_t *item) {
    switch (turso_sync_database_io_request_kind(item)) {
    case TURSO_SYNC_IO_HTTP:
        serve_http(item);
        break;
    case TURSO_SYNC_IO_FULL_READ:
        serve_read(item);
        break;
    case TURSO_SYNC_IO_FULL_WRITE:
        serve_write(item);
        break;
    default: /* a request of a newer library: saying "done" would be a lie */
        poison(item, "host", "unknown request");
    }
}

/* Drives an operation to its end. */
static void drive(const turso_sync_database_t *replica, const turso_sync_operation_t *operation, const char *what) {
    const char *error = NULL;
    turso_status_code_t status;
    while ((status = turso_sync_operation_resume(operation, &error)) == TURSO_IO) {
        for (;;) {
            const turso_sync_io_item_t *item = NULL;
            must(turso_sync_database_io_take_item(replica, &item, &error), &error, "take_item");
            if (item == NULL) {
                break;
            }
            serve(item);
            turso_sync_database_io_item_deinit(item);
        }
        must(turso_sync_database_io_step_callbacks(replica, &error), &error, "step_callbacks");
    }
    must(status, &error, what);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s http://HOST:PORT PATH\n", argv[0]);
        return 2;
    }
    const char *error = NULL;
    const turso_sync_operation_t *operation = NULL;
    const turso_connection_t *connection = NULL;
    const turso_sync_changes_t *changes = NULL;
    const turso_sync_database_t *replica = new_replica(argv[1], argv[2], "host-io");

    must(turso_sync_database_create(replica, &operation, &error), &error, "create");
    drive(replica, operation, "create");
    turso_sync_operation_deinit(operation);

    must(turso_sync_database_connect(replica, &operation, &error), &error, "connect");
    drive(replica, operation, "connect");
    must(turso_sync_operation_result_extract_connection(operation, &connection), NULL, "connect");
    turso_sync_operation_deinit(operation);

    run_sql(connection, "CREATE TABLE IF NOT EXISTS visits (id INTEGER PRIMARY KEY, at TEXT);"
                        "INSERT INTO visits (at) VALUES (datetime())");

    must(turso_sync_database_push_changes(replica, &operation, &error), &error, "push");
    drive(replica, operation, "push");
    turso_sync_operation_deinit(operation);

    must(turso_sync_database_wait_changes(replica, &operation, &error), &error, "wait");
    drive(replica, operation, "wait");
    must(turso_sync_operation_result_extract_changes(operation, &changes), NULL, "wait");
    turso_sync_operation_deinit(operation);
    if (changes != NULL) {
        must(turso_sync_database_apply_changes(replica, changes, &operation, &error), &error, "apply");
        drive(replica, operation, "apply");
        turso_sync_operation_deinit(operation);
    }
    print_rows(connection, "SELECT id, at FROM visits ORDER BY id");

    turso_connection_deinit(connection);
    turso_sync_database_deinit(replica);
    check_nothing_leaked();
    return 0;
}

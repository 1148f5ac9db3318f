/*
 * turso.h - local SQL of turso-sync: an ordinary SQLite database behind the C interface of Turso's SDK kit.
 * turso_sync.h - the same databases as replicas that sync with Turso; includes this file.
 *
 * ---------------------------------------------------------------------------------------------------------------------
 * Manual
 * ---------------------------------------------------------------------------------------------------------------------
 *
 * Linking
 *   cc program.c $(pkg-config --cflags --libs turso_sync)          or: -lturso_sync
 *   Programs written for libturso_sdk_kit or libturso_sync_sdk_kit find the same functions in libturso_sync.
 *   The library contains a SQLite of its own and exports turso_* only. Do not open a database with another copy of
 *   SQLite in the same process while this library has it open: on POSIX systems closing one file drops the locks of
 *   the other. Other processes may open it at any time.
 *
 * Order of calls
 *   turso_database_new > turso_database_open > turso_database_connect > turso_connection_prepare_single >
 *   turso_statement_bind_positional_* > turso_statement_step until DONE > turso_statement_deinit >
 *   turso_connection_deinit > turso_database_deinit.
 *
 *     turso_database_config_t config = {0};
 *     const turso_database_t *database = NULL;
 *     const char *error = NULL;
 *     config.path = "app.db";
 *     if (turso_database_new(&config, &database, &error) != TURSO_OK) {
 *         fprintf(stderr, "%s\n", error);
 *         turso_str_deinit(error);
 *     }
 *
 * Status
 *   Functions that can fail return turso_status_code_t. Codes that are not listed in this file are to be treated as
 *   TURSO_ERROR; numbers are never reused. Functions without a status return the neutral value that is documented.
 *
 * Error messages
 *   `error_opt_out` may be NULL. On failure it receives a message, freed with turso_str_deinit; on success it is left
 *   alone. So set your variable to NULL before the call. Messages never contain tokens, keys or row contents.
 *
 * Outputs
 *   are written only on success. Their pointers must not be NULL, unless the function says so.
 *
 * Handles
 *   are opaque pointers, released by their `_deinit` function, once; `_deinit(NULL)` does nothing. Order does not
 *   matter: connections outlive databases, statements outlive connections. A NULL handle elsewhere is MISUSE
 *   (`got null pointer`) or gives the neutral value.
 *
 * Strings and bytes
 *   Strings given to the library are zero-terminated UTF-8 and copied; NULL (where not allowed) and other encodings are
 *   MISUSE. Strings returned as `const char *` are freed with turso_str_deinit, except those of turso_version and
 *   turso_statement_row_value_bytes_ptr. Slices never transfer ownership.
 *
 * Structures
 *   are filled with zeros before they are set: zero means "default" everywhere.
 *
 * Threads
 *   Functions may be called from any thread. A database may be used by several threads at once; a connection with its
 *   statements by one at a time. Concurrent use is detected: MISUSE (`concurrent use forbidden`). Releasing a handle
 *   while another thread uses it is not detected. The library starts no threads but those of the built-in driver, and after
 *   fork the child must not use handles of its parent.
 *
 * Faults of the library
 *   never unwind into the caller; they are reported as TURSO_ERROR.
 */

#ifndef TURSO_H
#define TURSO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Version of this header; turso_version() tells that of the library. */
#define TURSO_VERSION "0.1.0"
#define TURSO_VERSION_MAJOR 0
#define TURSO_VERSION_MINOR 1
#define TURSO_VERSION_PATCH 0
/** The number at the end of the library's SONAME: other numbers mean other layouts or rules. */
#define TURSO_ABI_VERSION 0

#ifndef TURSO_API
#if defined(_WIN32) && !defined(TURSO_STATIC)
#define TURSO_API __declspec(dllimport)
#else
#define TURSO_API
#endif
#endif

/**
 * Outcome of a call. Values below 127 are not errors, except BUSY, INTERRUPT and BUSY_SNAPSHOT.
 */
enum turso_status_code_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The call succeeded.
     */
    TURSO_OK = 0,
    /**
     * A statement or an operation has ended successfully.
     */
    TURSO_DONE = 1,
    /**
     * A row is available.
     */
    TURSO_ROW = 2,
    /**
     * The operation waits for IO requests: serve them, then resume.
     */
    TURSO_IO = 3,
    /**
     * Somebody else holds a lock; repeating the call later can succeed.
     */
    TURSO_BUSY = 4,
    /**
     * The call was interrupted or cancelled.
     */
    TURSO_INTERRUPT = 5,
    /**
     * The transaction read an old state and cannot write any more; roll it back and start again.
     */
    TURSO_BUSY_SNAPSHOT = 6,
    /**
     * Everything that has no code of its own.
     */
    TURSO_ERROR = 127,
    /**
     * The caller broke a rule of the API.
     */
    TURSO_MISUSE = 128,
    /**
     * A UNIQUE, NOT NULL, CHECK or FOREIGN KEY constraint failed.
     */
    TURSO_CONSTRAINT = 129,
    /**
     * The database cannot be written.
     */
    TURSO_READONLY = 130,
    /**
     * The disk is full.
     */
    TURSO_DATABASE_FULL = 131,
    /**
     * The file is not a database.
     */
    TURSO_NOTADB = 132,
    /**
     * The database or one of its side files is damaged.
     */
    TURSO_CORRUPT = 133,
    /**
     * The operating system reported an IO error.
     */
    TURSO_IOERR = 134,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_status_code_t turso_status_code_t;
#else
typedef uint32_t turso_status_code_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How much is logged; each level includes those before it.
 */
enum turso_tracing_level_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Something failed.
     */
    TURSO_TRACING_LEVEL_ERROR = 1,
    /**
     * Something is strange, but work goes on.
     */
    TURSO_TRACING_LEVEL_WARN = 2,
    /**
     * Few lines per sync operation.
     */
    TURSO_TRACING_LEVEL_INFO = 3,
    /**
     * Every request and answer, without contents.
     */
    TURSO_TRACING_LEVEL_DEBUG = 4,
    /**
     * Everything.
     */
    TURSO_TRACING_LEVEL_TRACE = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_tracing_level_t turso_tracing_level_t;
#else
typedef uint32_t turso_tracing_level_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Type of a value.
 */
enum turso_type_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * There is no value: no row, or no such column.
     */
    TURSO_TYPE_UNKNOWN = 0,
    /**
     * 64-bit signed integer.
     */
    TURSO_TYPE_INTEGER = 1,
    /**
     * IEEE double.
     */
    TURSO_TYPE_REAL = 2,
    /**
     * Text; UTF-8 unless somebody stored something else. Not zero-terminated, and may contain NUL bytes.
     */
    TURSO_TYPE_TEXT = 3,
    /**
     * Bytes.
     */
    TURSO_TYPE_BLOB = 4,
    /**
     * SQL NULL.
     */
    TURSO_TYPE_NULL = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_type_t turso_type_t;
#else
typedef uint32_t turso_type_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Bits of `turso_database_config_t.open_flags`. Other bits are MISUSE.
 */
enum turso_database_open_flags_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Read and write; create the file if it does not exist.
     */
    TURSO_DATABASE_OPEN_DEFAULT = 0,
    /**
     * Refuse all writes; the file must exist.
     */
    TURSO_DATABASE_OPEN_READONLY = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_database_open_flags_t turso_database_open_flags_t;
#else
typedef uint32_t turso_database_open_flags_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A connection to a database. Use it, and the statements made from it, from one thread at a time; which thread
 * does not matter. Concurrent use is MISUSE (`concurrent use forbidden`).
 */
typedef struct turso_connection_t turso_connection_t;

/**
 * A database: a file, or memory. It may be shared between threads. Connections outlive it.
 */
typedef struct turso_database_t turso_database_t;

/**
 * Reserved: encodes the pages of a database file. Not supported; the pointer to it must be NULL.
 */
typedef struct turso_page_codec_v1_t turso_page_codec_v1_t;

/**
 * A prepared statement. Use it from one thread at a time; concurrent use is MISUSE (`concurrent use forbidden`).
 * It keeps its connection open.
 */
typedef struct turso_statement_t turso_statement_t;

/**
 * One line of the log. All pointers are valid during the callback only.
 */
typedef struct {
    /**
     * The text.
     */
    const char *message;
    /**
     * The part of the library that speaks.
     */
    const char *target;
    /**
     * Source file; empty if unknown.
     */
    const char *file;
    /**
     * Unix time in seconds.
     */
    uint64_t timestamp;
    /**
     * Line in the source file; 0 if unknown.
     */
    size_t line;
    /**
     * How important it is.
     */
    turso_tracing_level_t level;
} turso_log_t;

/**
 * Receives log lines, in whatever thread produced them, possibly in several threads at once. It must return
 * normally (no exception, no longjmp) and must not call functions of this library.
 */
typedef void (*turso_logger_t)(const turso_log_t *log);

/**
 * Settings of the whole process; see `turso_setup`.
 */
typedef struct {
    /**
     * Receives the log; NULL for no log.
     */
    turso_logger_t logger;
    /**
     * `"error"`, `"warn"`, `"info"`, `"debug"`, `"trace"` or `"off"`. NULL takes the level from the environment
     * variable `TURSO_LOG`, and is quiet if there is none.
     */
    const char *log_level;
} turso_config_t;

/**
 * How to open a database. Fill it with zeros first; then set what you need.
 */
typedef struct {
    /**
     * Ignored: this library never needs the caller's help for local storage, so no statement returns TURSO_IO.
     */
    uint64_t async_io;
    /**
     * Path of the database file, or `":memory:"` for a database that lives as long as its handles. Required.
     */
    const char *path;
    /**
     * Comma-separated names of features; accepted and ignored, SQLite has them all or has no use for them. May be
     * NULL.
     */
    const char *experimental_features;
    /**
     * `"memory"` is the same as the path `":memory:"`; `"syscall"`, `"io_uring"` and `"experimental_win_iocp"` are
     * accepted and ignored; anything else is an error. May be NULL.
     */
    const char *vfs;
    /**
     * Must be NULL: encryption of the local file is not supported.
     */
    const char *encryption_cipher;
    /**
     * Must be NULL: encryption of the local file is not supported.
     */
    const char *encryption_hexkey;
    /**
     * Must be NULL: page codecs are not supported.
     */
    const turso_page_codec_v1_t *page_codec;
    /**
     * Bits of `turso_database_open_flags_t`.
     */
    uint32_t open_flags;
} turso_database_config_t;

/**
 * Bytes that somebody else owns: `len` bytes at `ptr`. Passing a slice never transfers ownership.
 */
typedef struct {
    /**
     * First byte. Not zero-terminated.
     */
    const void *ptr;
    /**
     * Number of bytes.
     */
    size_t len;
} turso_slice_ref_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the library, such as `"0.1.0"`. The string is static: do not free it.
 */
TURSO_API const char *turso_version(void);

/**
 * Installs a log callback for the whole process. Optional; without it the library is silent.
 *
 * Only the first call that names a logger has an effect; later ones succeed and change nothing. The callback must
 * stay callable until the process ends.
 *
 * Errors: MISUSE if `config` is NULL or the level is not UTF-8; ERROR if the level is unknown.
 * Threads: any.
 */
TURSO_API
turso_status_code_t turso_setup(const turso_config_t *config,
                                const char **error_opt_out);

/**
 * Frees a string that the library allocated: an error message, a column name, a parameter name. NULL is fine.
 */
TURSO_API void turso_str_deinit(const char *text);

/**
 * Number of handles and strings that were handed out and not yet released, in the whole process. Zero at the end
 * of a program that has no leak. Not part of the SDK kit of Turso.
 */
TURSO_API
size_t turso_live_objects(void);

/**
 * Creates a handle for a database. Does no IO; the configuration is copied.
 *
 * `*database` is released with turso_database_deinit.
 *
 * Errors: MISUSE for NULL pointers, text that is not UTF-8, and unknown open flags; ERROR for what is not
 * supported. Threads: any.
 */
TURSO_API
turso_status_code_t turso_database_new(const turso_database_config_t *config,
                                       const turso_database_t **database,
                                       const char **error_opt_out);

/**
 * Opens the database, creating the file if it does not exist. Opening an open database is fine.
 *
 * Errors: MISUSE for NULL, and for a replica's file (it needs turso_sync_database_new, unless opened READONLY);
 * NOTADB, IOERR, BUSY and others as SQLite reports them. Threads: any.
 */
TURSO_API
turso_status_code_t turso_database_open(const turso_database_t *database,
                                        const char **error_opt_out);

/**
 * Opens a connection; any number may exist, but only one for a database in memory. `*connection` is released with turso_connection_deinit and may outlive
 * the database handle.
 *
 * Errors: MISUSE for NULL and before turso_database_open. Threads: any.
 */
TURSO_API
turso_status_code_t turso_database_connect(const turso_database_t *database,
                                           turso_connection_t **connection,
                                           const char **error_opt_out);

/**
 * Releases the handle; NULL is fine. Connections stay usable.
 */
TURSO_API void turso_database_deinit(const turso_database_t *database);

/**
 * How long statements wait for a lock held by another connection or process, in milliseconds; 0 = not at all.
 * Negative values and a NULL connection are ignored.
 */
TURSO_API void turso_connection_set_busy_timeout_ms(const turso_connection_t *connection, int64_t timeout_ms);

/**
 * True outside of a transaction. False inside of one, after turso_connection_close, and for NULL.
 */
TURSO_API bool turso_connection_get_autocommit(const turso_connection_t *connection);

/**
 * Rowid of the last row inserted through this connection; 0 if there was none, and for NULL.
 */
TURSO_API int64_t turso_connection_last_insert_rowid(const turso_connection_t *connection);

/**
 * Prepares the one statement of `sql`. `*statement` is released with turso_statement_deinit.
 *
 * Errors: MISUSE if `sql` is NULL, is not UTF-8, or contains no statement or more than one; ERROR with SQLite's
 * message for wrong SQL; ERROR `Connection closed` after turso_connection_close.
 */
TURSO_API
turso_status_code_t turso_connection_prepare_single(const turso_connection_t *connection,
                                                    const char *sql,
                                                    turso_statement_t **statement,
                                                    const char **error_opt_out);

/**
 * Prepares the first statement of `sql`, for running a script statement by statement: go on at `sql + *tail_idx`.
 *
 * If no statement is left (only white space and comments), the result is OK with `*statement` NULL and `*tail_idx`
 * unchanged. Otherwise `*statement` is released with turso_statement_deinit and `*tail_idx` is the number of bytes
 * that were used. `tail_idx` may be NULL.
 *
 * Errors: as turso_connection_prepare_single.
 */
TURSO_API
turso_status_code_t turso_connection_prepare_first(const turso_connection_t *connection,
                                                   const char *sql,
                                                   turso_statement_t **statement,
                                                   size_t *tail_idx,
                                                   const char **error_opt_out);

/**
 * Closes the connection: ends its statements and rolls back an open transaction. Later use of the connection or of
 * its statements is ERROR `Connection closed`; their handles still have to be released. Closing twice is fine.
 */
TURSO_API
turso_status_code_t turso_connection_close(const turso_connection_t *connection,
                                           const char **error_opt_out);

/**
 * Releases the handle; NULL is fine. Statements made from it stay usable; the connection itself closes when the
 * last of them is released.
 */
TURSO_API
void turso_connection_deinit(const turso_connection_t *connection);

/**
 * Runs the statement to its end and discards its rows. Returns DONE.
 *
 * `rows_changed` may be NULL; otherwise it receives the number of rows that the statement inserted, updated or
 * deleted itself (not those of triggers), 0 for statements that change none.
 *
 * Errors: CONSTRAINT, BUSY, READONLY and others as SQLite reports them. After an error the statement can be reset
 * and run again. After DONE, executing again runs it again with the same parameters.
 */
TURSO_API
turso_status_code_t turso_statement_execute(const turso_statement_t *statement,
                                            uint64_t *rows_changed,
                                            const char **error_opt_out);

/**
 * Runs the statement to its next row (ROW) or to its end (DONE).
 *
 * Errors: as turso_statement_execute.
 */
TURSO_API
turso_status_code_t turso_statement_step(const turso_statement_t *statement,
                                         const char **error_opt_out);

/**
 * Does nothing and returns OK: statements of this library never wait for the caller's IO. It exists for programs
 * written for the SDK kit of Turso.
 */
TURSO_API
turso_status_code_t turso_statement_run_io(const turso_statement_t *statement,
                                           const char **error_opt_out);

/**
 * Takes the statement back to its start, so that it can run again, and clears its parameters (they become NULL).
 */
TURSO_API
turso_status_code_t turso_statement_reset(const turso_statement_t *statement,
                                          const char **error_opt_out);

/**
 * Ends the statement and returns DONE. What it has changed stays. Later use is an error; the handle still has to be
 * released.
 */
TURSO_API
turso_status_code_t turso_statement_finalize(const turso_statement_t *statement,
                                             const char **error_opt_out);

/**
 * Number of rows that the last run of the statement inserted, updated or deleted; 0 for NULL.
 */
TURSO_API int64_t turso_statement_n_change(const turso_statement_t *statement);

/**
 * Releases the handle, ending the statement if it still runs; NULL is fine.
 */
TURSO_API void turso_statement_deinit(const turso_statement_t *statement);

/**
 * Number of columns of the statement's rows; 0 for statements without rows and after turso_statement_finalize, -1 for
 * NULL.
 */
TURSO_API
int64_t turso_statement_column_count(const turso_statement_t *statement);

/**
 * Name of column `index` (from 0), to be freed with turso_str_deinit; NULL if there is no such column.
 */
TURSO_API const char *turso_statement_column_name(const turso_statement_t *statement, size_t index);

/**
 * Type of column `index` as written in CREATE TABLE, to be freed with turso_str_deinit; NULL if it has none, is not
 * a table's column, or does not exist.
 */
TURSO_API
const char *turso_statement_column_decltype(const turso_statement_t *statement,
                                            size_t index);

/**
 * Type of the value in column `index` of the current row; UNKNOWN if there is no row or no such column.
 */
TURSO_API turso_type_t turso_statement_row_value_kind(const turso_statement_t *statement, size_t index);

/**
 * Number of bytes of the text or blob in column `index`; -1 for another type.
 */
TURSO_API int64_t turso_statement_row_value_bytes_count(const turso_statement_t *statement, size_t index);

/**
 * First byte of the text or blob in column `index`, valid until the next call that steps, executes, resets,
 * finalizes or releases the statement; NULL for another type. Not zero-terminated. An empty value has a pointer that is
 * not NULL.
 */
TURSO_API
const char *turso_statement_row_value_bytes_ptr(const turso_statement_t *statement,
                                                size_t index);

/**
 * The integer in column `index`; 0 for another type.
 */
TURSO_API int64_t turso_statement_row_value_int(const turso_statement_t *statement, size_t index);

/**
 * The real number in column `index`; 0.0 for another type.
 */
TURSO_API double turso_statement_row_value_double(const turso_statement_t *statement, size_t index);

/**
 * Position (from 1) of the parameter `name`, which includes its prefix (`:`, `@`, `$` or `?`); -1 if there is no such
 * parameter.
 */
TURSO_API
int64_t turso_statement_named_position(const turso_statement_t *statement,
                                       const char *name);

/**
 * Number of parameters (the largest position); -1 for NULL.
 */
TURSO_API int64_t turso_statement_parameters_count(const turso_statement_t *statement);

/**
 * Name of the parameter at position `index` (from 1) with its prefix, to be freed with turso_str_deinit; NULL if it
 * has none or does not exist.
 */
TURSO_API
const char *turso_statement_parameter_name(const turso_statement_t *statement,
                                           int64_t index);

/**
 * Binds NULL to the parameter at `position` (from 1).
 *
 * Errors, as in all functions that bind: MISUSE for a NULL statement, a position out of range, and a statement that is
 * running (reset it first).
 */
TURSO_API
turso_status_code_t turso_statement_bind_positional_null(const turso_statement_t *statement,
                                                         size_t position);

/**
 * Binds an integer.
 */
TURSO_API
turso_status_code_t turso_statement_bind_positional_int(const turso_statement_t *statement,
                                                        size_t position,
                                                        int64_t value);

/**
 * Binds a real number. NaN becomes NULL, as always in SQLite.
 */
TURSO_API
turso_status_code_t turso_statement_bind_positional_double(const turso_statement_t *statement,
                                                           size_t position,
                                                           double value);

/**
 * Binds a copy of `len` bytes at `data` as a blob; (NULL, 0) is an empty blob.
 */
TURSO_API
turso_status_code_t turso_statement_bind_positional_blob(const turso_statement_t *statement,
                                                         size_t position,
                                                         const char *data,
                                                         size_t len);

/**
 * Binds a copy of `len` bytes of UTF-8 at `text`, which need no terminating zero; (NULL, 0) is an empty text. Text that
 * is not UTF-8 is MISUSE.
 */
TURSO_API
turso_status_code_t turso_statement_bind_positional_text(const turso_statement_t *statement,
                                                         size_t position,
                                                         const char *text,
                                                         size_t len);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TURSO_H */

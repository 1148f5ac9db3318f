/*
 * turso_sync.h - replicas: SQLite databases that sync with Turso. The conventions are those of turso.h.
 *
 * ---------------------------------------------------------------------------------------------------------------------
 * Manual
 * ---------------------------------------------------------------------------------------------------------------------
 *
 * A replica is a database file that is read and written locally at any time, also offline. Its changes are captured and
 * pushed to the remote; changes of others are pulled and put beneath the local ones that are still pending.
 *
 * The library does no network IO. An operation asks for HTTP requests and for whole files to be read or replaced;
 * the program performs them with whatever it likes. The calls:
 *
 *   turso_sync_database_new > turso_sync_database_create (an operation) > turso_sync_database_connect (an operation) >
 *   SQL through the functions of turso.h, and at any time:
 *     turso_sync_database_push_changes                                      sends local changes
 *     turso_sync_database_wait_changes, then turso_sync_database_apply_changes     fetches remote ones (a pull)
 *
 * Operations: the short way
 *   turso_sync_operation_run performs everything with a built-in HTTP client and blocks until the operation has ended, with
 *   time limits, repeated requests, a callback for tokens, a proxy and certificates as turso_sync_driver_config_t says.
 *
 * Keep in sync
 *   turso_sync_database_keep_in_sync does it all in the background: what is committed here is pushed at once, and what is new
 *   on the remote is applied as soon as it is there, if the replica has a long poll (`long_poll_timeout_ms`). Failures are
 *   repeated with growing pauses.
 *     turso_sync_keeper_pause       before a phone suspends the program: nothing is sent, no lock is held; then _resume
 *     turso_sync_keeper_wake        the network has come back or changed
 *     turso_sync_keeper_sync_now    push and pull now, and wait for the result
 *     turso_sync_keeper_status      how it goes
 *
 * Operations: the loop for hosts with their own network
 *
 *     while ((status = turso_sync_operation_resume(operation, &error)) == TURSO_IO) {
 *         while (turso_sync_database_io_take_item(database, &item, &error) == TURSO_OK && item != NULL) {
 *             serve(item);           // status, push_buffer..., done - or poison
 *             turso_sync_database_io_item_deinit(item);
 *         }
 *         turso_sync_database_io_step_callbacks(database, &error);
 *     }
 *     // DONE: extract the result. Anything else: an error.
 *     turso_sync_operation_deinit(operation);
 *
 *   What each request demands is written at turso_sync_io_request_type_t. File requests can be left to
 *   turso_sync_database_io_perform_file. The host adds the Authorization header.
 *
 * One at a time
 *   Push, apply, checkpoint and resolving a conflict exclude each other, across processes, from the first resume to the
 *   end or the release: resuming a second one meanwhile fails with BUSY at once; begin a new one later. Creating a new replica takes the same
 *   place. Connecting, statistics and opening what is there are always possible, and a wait runs beside everything, so that
 *   a long poll is in nobody's way; only one downloaded change set exists per handle until it is applied or released.
 *   Local SQL is never blocked by the network. Per request a push needs the write lock for a moment, and while changes
 *   are applied local writes wait up to the busy timeout of their connection: commit before syncing in the same thread.
 *
 * Conflicts
 *   A conflict is a local transaction that the remote's state does not admit: another row has its UNIQUE value, its table is
 *   gone, a trigger said no. turso_sync_options_t tells what push and apply do then:
 *     STOP        (the default) the operation ends with CONSTRAINT. Nothing changes, and everything stays pending.
 *     OVERWRITE   the last push wins, also over rows that have a UNIQUE value; they are removed as REPLACE removes them.
 *     SET_ASIDE   the transaction leaves the database whole and is kept in the local table turso_sync_conflicts, with its
 *                 dependents: later transactions that touch the same rows or refer to them. The sync goes on.
 *   turso_sync_database_conflicts lists what is blocked or set aside; turso_sync_database_resolve_conflict decides one:
 *     RETRY       a blocked transaction is tried by the next sync; one set aside is applied now, as a new transaction,
 *                 and if it does not fit (CONSTRAINT) it stays set aside.
 *     OVERWRITE   likewise, overwriting what is in its way.
 *     SET_ASIDE   the changes of a blocked transaction leave the database now, and are kept.
 *     DROP        they leave the database now, and are lost; a transaction set aside is deleted.
 *   A blocked transaction can also be repaired with plain SQL: what is pushed is the net effect. Keys of rows are in the
 *   list only, never in error messages or in the log.
 *
 * Other programs at the file
 *   Reading the file with any SQLite is fine. What another program writes is not captured. Push, pull and checkpoint notice it
 *   before they change anything, and end with ERROR of category FOREIGN; turso_sync_database_foreign_tables tells the tables.
 *   turso_sync_database_settle_foreign_changes makes these changes pending (ADOPT) or undoes them (DISCARD);
 *   `foreign_policy` in turso_sync_options_t decides up front.
 *
 * Copies, backups and other remotes
 *   A copied replica, and one that was restored from a backup, go on under a name of their own. A remote that cannot be the
 *   replica's own, because it is another one or was restored from a backup, is refused with ERROR of category IDENTITY, and
 *   nothing changes; turso_sync_database_accept_remote goes on with it. An ordinary SQLite database becomes a replica with
 *   `adopt_database` in turso_sync_options_t.
 *
 * Watching and stopping
 *   turso_sync_operation_progress tells how far an operation has come, and turso_sync_operation_cancel stops it, both from any
 *   thread. turso_sync_operation_error and turso_sync_last_error say what went wrong in a form a program can act on:
 *   whose fault, worth repeating or not, and when. turso_sync_database_status tells whether everything is uploaded and
 *   whether anything is in conflict.
 *
 * After a failure
 *   every operation can be begun again. Nothing is lost and nothing applied twice, whatever was cut short: the
 *   network, the process, or the power.
 *
 * Threads
 *   A replica, its queue, its items and its keeper may be used by several threads at once; an operation by one at a time, but
 *   for its progress and its cancellation. Requests of operations that the driver runs are not in the queue for others. A
 *   request of the driver has a thread of its own, and a keeper has two.
 */

#ifndef TURSO_SYNC_H
#define TURSO_SYNC_H

#include "turso.h"

/**
 * Where a conflict stands.
 */
enum turso_sync_conflict_state_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The transaction is pending, and the last sync stopped at it.
     */
    TURSO_SYNC_CONFLICT_STATE_BLOCKED = 1,
    /**
     * The transaction is pending; the next push overwrites what is in its way.
     */
    TURSO_SYNC_CONFLICT_STATE_OVERWRITE = 2,
    /**
     * The transaction is out of the database and lies in `turso_sync_conflicts`.
     */
    TURSO_SYNC_CONFLICT_STATE_SET_ASIDE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_conflict_state_t turso_sync_conflict_state_t;
#else
typedef uint32_t turso_sync_conflict_state_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What stands in the way of a change. Numbers that are not listed are to be treated as OTHER.
 */
enum turso_sync_conflict_kind_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Anything else that the remote refuses.
     */
    TURSO_SYNC_CONFLICT_KIND_OTHER = 0,
    /**
     * A UNIQUE or PRIMARY KEY constraint: another row has the value.
     */
    TURSO_SYNC_CONFLICT_KIND_UNIQUE = 1,
    /**
     * NOT NULL.
     */
    TURSO_SYNC_CONFLICT_KIND_NOT_NULL = 2,
    /**
     * CHECK.
     */
    TURSO_SYNC_CONFLICT_KIND_CHECK = 3,
    /**
     * FOREIGN KEY, on a remote that enforces them.
     */
    TURSO_SYNC_CONFLICT_KIND_FOREIGN_KEY = 4,
    /**
     * A trigger said no (`RAISE`).
     */
    TURSO_SYNC_CONFLICT_KIND_TRIGGER = 5,
    /**
     * A STRICT column does not take the type.
     */
    TURSO_SYNC_CONFLICT_KIND_DATATYPE = 6,
    /**
     * A table, column or other schema object is gone, or is there in another form.
     */
    TURSO_SYNC_CONFLICT_KIND_SCHEMA = 7,
    /**
     * The transaction builds on one that was set aside.
     */
    TURSO_SYNC_CONFLICT_KIND_DEPENDENCY = 8,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_conflict_kind_t turso_sync_conflict_kind_t;
#else
typedef uint32_t turso_sync_conflict_kind_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What the change that is in conflict does.
 */
enum turso_sync_conflict_operation_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Inserts a row.
     */
    TURSO_SYNC_CONFLICT_OPERATION_INSERT = 1,
    /**
     * Updates a row.
     */
    TURSO_SYNC_CONFLICT_OPERATION_UPDATE = 2,
    /**
     * Deletes a row.
     */
    TURSO_SYNC_CONFLICT_OPERATION_DELETE = 3,
    /**
     * Changes the schema.
     */
    TURSO_SYNC_CONFLICT_OPERATION_SCHEMA = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_conflict_operation_t turso_sync_conflict_operation_t;
#else
typedef uint32_t turso_sync_conflict_operation_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What an operation has produced.
 */
enum turso_sync_operation_result_type_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Nothing: the operation produces nothing, has not ended, has failed, or its result was taken already.
     */
    TURSO_ASYNC_RESULT_NONE = 0,
    /**
     * A connection.
     */
    TURSO_ASYNC_RESULT_CONNECTION = 1,
    /**
     * Downloaded changes, possibly none.
     */
    TURSO_ASYNC_RESULT_CHANGES = 2,
    /**
     * Figures about the replica.
     */
    TURSO_ASYNC_RESULT_STATS = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_operation_result_type_t turso_sync_operation_result_type_t;
#else
typedef uint32_t turso_sync_operation_result_type_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What an operation is doing. Numbers that are not listed are to be treated as WORKING.
 */
enum turso_sync_stage_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It was never resumed.
     */
    TURSO_SYNC_STAGE_NOT_STARTED = 0,
    /**
     * At work, or waiting for file requests.
     */
    TURSO_SYNC_STAGE_WORKING = 1,
    /**
     * Asking the remote; in a long poll, waiting for something new.
     */
    TURSO_SYNC_STAGE_WAITING = 2,
    /**
     * Pages arrive.
     */
    TURSO_SYNC_STAGE_DOWNLOADING = 3,
    /**
     * Downloaded pages go below the pending changes.
     */
    TURSO_SYNC_STAGE_APPLYING = 4,
    /**
     * Pending changes go to the remote.
     */
    TURSO_SYNC_STAGE_UPLOADING = 5,
    /**
     * It has ended, well or not.
     */
    TURSO_SYNC_STAGE_ENDED = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_stage_t turso_sync_stage_t;
#else
typedef uint32_t turso_sync_stage_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Where an error comes from. Numbers that are not listed are to be treated as INTERNAL.
 */
enum turso_sync_error_category_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * There was no error.
     */
    TURSO_SYNC_ERROR_NONE = 0,
    /**
     * Wrong arguments, wrong order of calls, or the host cancelled the operation.
     */
    TURSO_SYNC_ERROR_USAGE = 1,
    /**
     * SQLite refused a statement on the local database.
     */
    TURSO_SYNC_ERROR_DATABASE = 2,
    /**
     * Files of the replica could not be read or written.
     */
    TURSO_SYNC_ERROR_STORAGE = 3,
    /**
     * A request never got a complete answer.
     */
    TURSO_SYNC_ERROR_NETWORK = 4,
    /**
     * The remote answered with an error; see `http_status`.
     */
    TURSO_SYNC_ERROR_REMOTE = 5,
    /**
     * The remote answered with something that is not the protocol.
     */
    TURSO_SYNC_ERROR_PROTOCOL = 6,
    /**
     * Local and remote changes contradict each other; see turso_sync_database_conflicts.
     */
    TURSO_SYNC_ERROR_CONFLICT = 7,
    /**
     * This replica and this remote do not belong together.
     */
    TURSO_SYNC_ERROR_IDENTITY = 8,
    /**
     * A fault of this library; please report it.
     */
    TURSO_SYNC_ERROR_INTERNAL = 9,
    /**
     * Another program has changed the database without capture, and nobody has decided what becomes of that; see
     * turso_sync_database_foreign_tables and turso_sync_database_settle_foreign_changes.
     */
    TURSO_SYNC_ERROR_FOREIGN = 10,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_error_category_t turso_sync_error_category_t;
#else
typedef uint32_t turso_sync_error_category_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a keeper is doing. Numbers that are not listed are to be treated as RUNNING.
 */
enum turso_sync_keeper_state_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * In sync, or at work.
     */
    TURSO_SYNC_KEEPER_RUNNING = 1,
    /**
     * Paused.
     */
    TURSO_SYNC_KEEPER_PAUSED = 2,
    /**
     * The last push or pull has failed; it will be repeated.
     */
    TURSO_SYNC_KEEPER_RETRYING = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_keeper_state_t turso_sync_keeper_state_t;
#else
typedef uint32_t turso_sync_keeper_state_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What the host is asked to do.
 */
enum turso_sync_io_request_type_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Nothing (the item is NULL).
     */
    TURSO_SYNC_IO_NONE = 0,
    /**
     * Send an HTTP request: report the status, then the body in any number of pieces, then done. If the connection
     * breaks before the whole body has arrived (fewer bytes than Content-Length, no final chunk), poison the item:
     * the library cannot see that a body was cut short.
     */
    TURSO_SYNC_IO_HTTP = 1,
    /**
     * Read a whole file. A missing file is an empty one: push nothing, then done. Every other failure poisons the
     * item: an empty answer would mean that there is no such file.
     */
    TURSO_SYNC_IO_FULL_READ = 2,
    /**
     * Replace a whole file so that a crash or power loss at any moment leaves the old or the new content: create the
     * parent directory if needed; create a new file in the same directory, under a name that nobody else uses (two
     * processes may write at once), with the permissions of the old file if there is one; write the content; fsync
     * the file; rename it over the path; fsync the directory; only then done. If any step fails, remove the new file
     * and poison the item. turso_sync_database_io_perform_file does all of this.
     */
    TURSO_SYNC_IO_FULL_WRITE = 3,
    /**
     * Decide about row changes before they are pushed: see turso_sync_database_io_transform_count. Only replicas with the
     * option `use_transform` ask for this.
     */
    TURSO_SYNC_IO_TRANSFORM = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_io_request_type_t turso_sync_io_request_type_t;
#else
typedef uint32_t turso_sync_io_request_type_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What happened to a row.
 */
enum turso_sync_mutation_type_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It is new.
     */
    TURSO_SYNC_MUTATION_INSERT = 1,
    /**
     * Some of its columns were set.
     */
    TURSO_SYNC_MUTATION_UPDATE = 2,
    /**
     * It is gone.
     */
    TURSO_SYNC_MUTATION_DELETE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_mutation_type_t turso_sync_mutation_type_t;
#else
typedef uint32_t turso_sync_mutation_type_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What push and apply do about a transaction that the remote's state does not admit.
 */
enum turso_sync_conflict_policy_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The operation ends with CONSTRAINT and changes nothing; everything stays pending.
     */
    TURSO_SYNC_CONFLICT_POLICY_STOP = 0,
    /**
     * The last push wins: rows that stand in the way of a UNIQUE constraint are removed, as `REPLACE` removes them
     * (no delete triggers, no foreign-key actions). What even that cannot carry over stops the operation.
     */
    TURSO_SYNC_CONFLICT_POLICY_OVERWRITE = 1,
    /**
     * The transaction moves whole out of the database into the local table `turso_sync_conflicts`, together with those
     * that build on it, and the operation goes on.
     */
    TURSO_SYNC_CONFLICT_POLICY_SET_ASIDE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_conflict_policy_t turso_sync_conflict_policy_t;
#else
typedef uint32_t turso_sync_conflict_policy_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What to do about one conflict.
 */
enum turso_sync_conflict_resolution_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * A blocked transaction is tried again by the next sync. One that was set aside is applied at once as a new
     * transaction; if it does not fit, the operation ends with CONSTRAINT and it stays set aside.
     */
    TURSO_SYNC_CONFLICT_RESOLUTION_RETRY = 1,
    /**
     * Likewise, and rows in the way are overwritten as with TURSO_SYNC_CONFLICT_POLICY_OVERWRITE.
     */
    TURSO_SYNC_CONFLICT_RESOLUTION_OVERWRITE = 2,
    /**
     * The changes of a blocked transaction leave the database now and are kept in `turso_sync_conflicts`.
     */
    TURSO_SYNC_CONFLICT_RESOLUTION_SET_ASIDE = 3,
    /**
     * The changes of a blocked transaction leave the database now and are lost; one that was set aside is deleted.
     */
    TURSO_SYNC_CONFLICT_RESOLUTION_DROP = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_conflict_resolution_t turso_sync_conflict_resolution_t;
#else
typedef uint32_t turso_sync_conflict_resolution_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What becomes of changes that were not captured, because another program has written them into the file.
 */
enum turso_sync_foreign_policy_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The operation ends with ERROR of category FOREIGN and changes nothing. They stay in the tables.
     */
    TURSO_SYNC_FOREIGN_POLICY_STOP = 0,
    /**
     * They become pending changes, as one transaction, and are pushed like others.
     */
    TURSO_SYNC_FOREIGN_POLICY_ADOPT = 1,
    /**
     * They are undone.
     */
    TURSO_SYNC_FOREIGN_POLICY_DISCARD = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_foreign_policy_t turso_sync_foreign_policy_t;
#else
typedef uint32_t turso_sync_foreign_policy_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Which dialect of the protocol a replica speaks. Not part of the SDK kit of Turso.
 */
enum turso_sync_protocol_version_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The direct one with remotes that announce it, the compatible one with all others.
     */
    TURSO_SYNC_PROTOCOL_VERSION_AUTO = 0,
    /**
     * That of Turso Cloud, which every remote knows. All requests are POST.
     */
    TURSO_SYNC_PROTOCOL_VERSION_COMPATIBLE = 1,
    /**
     * The smaller and faster one of this library's server; the compatible one where a remote answers 404 or 405. A host
     * must be able to send GET requests, with a query in the path.
     */
    TURSO_SYNC_PROTOCOL_VERSION_DIRECT = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum turso_sync_protocol_version_t turso_sync_protocol_version_t;
#else
typedef uint32_t turso_sync_protocol_version_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Changes that were downloaded and not yet applied. They may be moved between threads.
 */
typedef struct turso_sync_changes_t turso_sync_changes_t;

/**
 * The conflicts of a replica at one moment. A list never changes and may be read by several threads at once; it may
 * outlive the replica's handle.
 */
typedef struct turso_sync_conflicts_t turso_sync_conflicts_t;

/**
 * A replica: a local database that syncs with a remote. It may be shared between threads; one sync operation at a time
 * runs on it, a second one is BUSY. Connections, operations, items and change sets may outlive the handle.
 */
typedef struct turso_sync_database_t turso_sync_database_t;

/**
 * A request that the host performs. It may be served in any thread; its functions may be called from several threads,
 * one after the other. Releasing an item that was neither done nor poisoned fails its operation.
 */
typedef struct turso_sync_io_item_t turso_sync_io_item_t;

/**
 * Keeps a replica in sync in the background. All functions may be called from any thread at any time.
 */
typedef struct turso_sync_keeper_t turso_sync_keeper_t;

/**
 * A sync operation. Use it from one thread at a time; concurrent use is MISUSE.
 */
typedef struct turso_sync_operation_t turso_sync_operation_t;

/**
 * How to open a replica. Fill it with zeros first; then set what you need. Negative numbers are MISUSE.
 */
typedef struct {
    /**
     * Path of the main file. Required. The files beside it are `-wal`, `-shm`, `-info`, `-changes`, `-download`,
     * `-wal-revert` and `-lock`, appended to this path.
     */
    const char *path;
    /**
     * URL of the remote (`http`, `https`, `libsql` or `turso`). NULL takes the one saved in the replica, or leaves it to
     * the host.
     */
    const char *remote_url;
    /**
     * First part of the client id under which the remote knows this replica, such as the program's name. Required.
     */
    const char *client_name;
    /**
     * Longest time that the remote may wait for changes before it answers a turso_sync_database_wait_changes, in
     * milliseconds; 0 = it answers at once.
     */
    int32_t long_poll_timeout_ms;
    /**
     * Download the remote when the replica is created; otherwise it starts empty and needs no network.
     */
    bool bootstrap_if_empty;
    /**
     * Bytes that the remote reserves at the end of each page, at most 255: a database that starts empty reserves as many,
     * and a remote that reserves another number is refused. 0 = whatever the remote has, and none before the first pull.
     */
    int32_t reserved_bytes;
    /**
     * Partial sync: not supported yet, must be 0.
     */
    int32_t partial_bootstrap_strategy_prefix;
    /**
     * Partial sync: not supported yet, must be NULL.
     */
    const char *partial_bootstrap_strategy_query;
    /**
     * Used by partial sync only.
     */
    size_t partial_bootstrap_segment_size;
    /**
     * Used by partial sync only.
     */
    bool partial_bootstrap_prefetch;
    /**
     * Key of a remote that is encrypted, in base64; it is sent with every request and stored nowhere. May be NULL.
     */
    const char *remote_encryption_key;
    /**
     * Name of the cipher of a remote that is encrypted, such as `"aes256gcm"` or `"aegis256"`. It tells how many bytes
     * its pages reserve: 28, 32 or 48; `reserved_bytes` must then be 0 or the same. An unknown name is an error. May be NULL.
     */
    const char *remote_encryption_cipher;
    /**
     * Row changes per push request; 0 = the library decides. A transaction is never split.
     */
    size_t push_operations_threshold;
    /**
     * Bytes of pages per request of a download or pull; 0 = the library decides.
     */
    size_t pull_bytes_threshold;
    /**
     * Not supported, must be false.
     */
    bool logical_mvcc_pull;
} turso_sync_database_config_t;

/**
 * More settings of a replica. Fill it with zeros, set `size`, then set what you need. New fields are only ever
 * appended; `size` tells the library which ones the caller knows. A field that the library does not know must be zero.
 * Not part of the SDK kit of Turso.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_options_t)`.
     */
    size_t size;
    /**
     * A value of `turso_sync_conflict_policy_t`; others are MISUSE.
     */
    uint32_t conflict_policy;
    /**
     * Names of tables that exist only in this replica: their changes are never captured and never pushed, and every
     * pull keeps them. Upper and lower case do not count. `tables_ignore_count` strings; NULL if there are none.
     */
    const char *const *tables_ignore;
    /**
     * Number of names.
     */
    size_t tables_ignore_count;
    /**
     * Pages (of 4096 bytes) per request of a download or pull; 0 = no limit. If `pull_bytes_threshold` is set as
     * well, the smaller of both counts.
     */
    uint64_t wal_pull_batch_size;
    /**
     * 1 = the host decides about every row change before it is pushed, with TURSO_SYNC_IO_TRANSFORM items or the callback
     * of the driver; 0 = all are pushed as they are. Other values are MISUSE. Schema changes are always pushed.
     */
    uint32_t use_transform;
    /**
     * What operations do about changes that another program has written into the file: a value of
     * `turso_sync_foreign_policy_t`; others are MISUSE.
     */
    uint32_t foreign_policy;
    /**
     * A value of `turso_sync_protocol_version_t`; others are MISUSE.
     */
    uint32_t protocol_version_hint;
    /**
     * 1 = an ordinary SQLite database at the path becomes the replica when it is created: nothing is downloaded, and all that
     * it holds is pending; the first push merges it with what the remote has. 0 = such a database is refused. Other values
     * are MISUSE.
     */
    uint32_t adopt_database;
} turso_sync_options_t;

/**
 * One conflict. Set `size` before the call. New fields are only ever appended; `size` tells the library which ones the
 * caller knows. The slices are UTF-8, not zero-terminated, and live as long as the list.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_conflict_t)`.
     */
    size_t size;
    /**
     * Number of the conflict, for turso_sync_database_resolve_conflict; that of the transaction (`change_txn_id` in
     * `turso_cdc`).
     */
    int64_t id;
    /**
     * The change that failed (`change_id` in `turso_cdc`).
     */
    int64_t change_id;
    /**
     * Where the conflict stands.
     */
    turso_sync_conflict_state_t state;
    /**
     * What stands in the way.
     */
    turso_sync_conflict_kind_t kind;
    /**
     * What the change does.
     */
    turso_sync_conflict_operation_t operation;
    /**
     * Extended result code of SQLite; 0 = unknown.
     */
    int32_t sqlite_code;
    /**
     * Number of row and schema changes of the transaction.
     */
    int64_t changes;
    /**
     * When it was noticed, in unix seconds.
     */
    int64_t unix_time;
    /**
     * Table of the change; for a schema change the table of the schema object.
     */
    turso_slice_ref_t table;
    /**
     * Key of the row as a JSON object, such as `{"id":5}`, or `{"rowid":5}` for a row without a key; empty for schema
     * changes. This is content of the database: do not log it.
     */
    turso_slice_ref_t key;
    /**
     * What the constraint is on, in SQLite's words, such as `users.email`; may be empty.
     */
    turso_slice_ref_t constraint;
    /**
     * The error as the operation reported it, without row contents.
     */
    turso_slice_ref_t message;
} turso_sync_conflict_t;

/**
 * Figures about a replica.
 */
typedef struct {
    /**
     * Captured local changes that the remote has not acknowledged; 0 = everything is uploaded.
     */
    int64_t cdc_operations;
    /**
     * Bytes of the write-ahead log.
     */
    int64_t main_wal_size;
    /**
     * Bytes of the revert file.
     */
    int64_t revert_wal_size;
    /**
     * Time of the last pull in unix seconds; 0 = never.
     */
    int64_t last_pull_unix_time;
    /**
     * Time of the last push in unix seconds; 0 = never.
     */
    int64_t last_push_unix_time;
    /**
     * Bytes of request bodies since the replica was opened.
     */
    int64_t network_sent_bytes;
    /**
     * Bytes of answer bodies since the replica was opened.
     */
    int64_t network_received_bytes;
    /**
     * The remote's revision that this replica has; empty if it never had one. Valid until the operation is released.
     */
    turso_slice_ref_t revision;
} turso_sync_stats_t;

/**
 * How far an operation has come. Set `size` before the call; new fields are only ever appended. All figures are of this
 * operation alone and only grow. An expected figure is 0 while nobody knows it, and may grow when somebody adds to the
 * work.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_progress_t)`.
     */
    size_t size;
    /**
     * What it is doing.
     */
    turso_sync_stage_t stage;
    /**
     * Bytes of request bodies.
     */
    uint64_t sent_bytes;
    /**
     * Bytes of answer bodies.
     */
    uint64_t received_bytes;
    /**
     * Pages (of 4096 bytes) downloaded.
     */
    uint64_t pages_done;
    /**
     * Pages to download, if the remote has told.
     */
    uint64_t pages_expected;
    /**
     * Pending changes that the remote has acknowledged.
     */
    uint64_t changes_done;
    /**
     * Pending changes when the push began.
     */
    uint64_t changes_expected;
} turso_sync_progress_t;

/**
 * Everything that is known about an error. Set `size` before the call; new fields are only ever appended.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_error_t)`.
     */
    size_t size;
    /**
     * The status code that the call returned; OK if there was no error.
     */
    turso_status_code_t code;
    /**
     * Where it comes from.
     */
    turso_sync_error_category_t category;
    /**
     * Extended result code of SQLite; 0 = none.
     */
    int32_t sqlite_code;
    /**
     * Status of the remote's answer; 0 = none.
     */
    int32_t http_status;
    /**
     * 1 if repeating the same call later can succeed without anybody changing anything, otherwise 0.
     */
    uint32_t retryable;
    /**
     * How long the remote asked to wait before that, in milliseconds; 0 = it did not say.
     */
    uint64_t retry_after_ms;
    /**
     * What happened and what to do, in UTF-8 and not zero-terminated. Never holds tokens, keys or row contents.
     */
    turso_slice_ref_t message;
} turso_sync_error_t;

/**
 * What a user wants to know about a replica. Set `size` before the call; new fields are only ever appended.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_status_t)`.
     */
    size_t size;
    /**
     * Captured local changes that the remote has not acknowledged; 0 = everything is uploaded.
     */
    int64_t pending_changes;
    /**
     * Local transactions that the last sync stopped at.
     */
    int64_t conflicts_blocked;
    /**
     * Local transactions that were set aside.
     */
    int64_t conflicts_set_aside;
    /**
     * Time of the last pull in unix seconds; 0 = never.
     */
    int64_t last_pull_unix_time;
    /**
     * Time of the last push in unix seconds; 0 = never.
     */
    int64_t last_push_unix_time;
} turso_sync_status_t;

/**
 * Settings of the built-in driver. Fill it with zeros, set `size`, then set what you need. New fields are only ever
 * appended; `size` tells the library which ones the caller knows.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_driver_config_t)`.
     */
    size_t size;
    /**
     * Sent as `Authorization: Bearer <token>`; NULL = none. Read anew on every call, so a token may expire.
     */
    const char *auth_token;
    /**
     * Base URL that replaces the replica's own; NULL = use the replica's.
     */
    const char *base_url;
    /**
     * Longest silence of the remote in milliseconds, in addition to the replica's `long_poll_timeout_ms`; 0 = 60 seconds.
     */
    uint64_t timeout_ms;
    /**
     * Longest time for the whole operation in milliseconds; 0 = no limit.
     */
    uint64_t deadline_ms;
    /**
     * Asked for the token before every HTTP request, in the thread that runs the operation (that of a keeper: several at
     * once); NULL = nobody. After a 401 it is asked once more, and the request is sent again if the answer differs. Returns
     * a zero-terminated string, or NULL for none. The library copies the string at once and does not free it: it must stay
     * as it is until the same thread calls again or the operation has ended. Set this or `auth_token`, not both.
     */
    const char *(*auth_token_callback)(void *context);
    /**
     * Passed to `auth_token_callback`. Must be usable until turso_sync_operation_run, or turso_sync_keeper_deinit, has
     * returned.
     */
    void *auth_token_context;
    /**
     * URL of a proxy, with user and password if it needs them: `http`, `https`, `socks4`, `socks4a`, `socks5` or
     * `socks5h` (the proxy resolves names). NULL = none; the variables of the environment are not looked at.
     */
    const char *proxy;
    /**
     * File with certificates in PEM that are trusted in place of the built-in ones (those of Mozilla). NULL = the built-in
     * ones.
     */
    const char *ca_file;
    /**
     * How often a request is sent that fails before anything of its answer has been used; 0 = 3, 1 = never again. The
     * pauses between grow and are random in part, and not shorter than the remote asks for (Retry-After in seconds). A pause
     * beyond the deadline (without one: a minute) is not begun; the operation fails then, and `retry_after_ms` of its error
     * tells when to come back.
     */
    uint32_t attempts;
    /**
     * Called with each TURSO_SYNC_IO_TRANSFORM item, in the thread that runs the operation (that of a keeper: one of its
     * threads, one at a time): it decides about every change of the item with turso_sync_database_io_transform_keep, `_skip`
     * or `_rewrite`, or poisons the item, and returns. The driver calls done and releases the item, which is not valid any
     * more then. NULL = a push of a replica with `use_transform` fails with MISUSE.
     */
    void (*transform_callback)(void *context, const turso_sync_io_item_t *item);
    /**
     * Passed to `transform_callback`. As `auth_token_context`.
     */
    void *transform_context;
} turso_sync_driver_config_t;

/**
 * How to keep in sync. Fill it with zeros, set `size`, then set what you need. New fields are only ever appended.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_keep_options_t)`.
     */
    size_t size;
    /**
     * Time between a commit and its push in milliseconds, so that what is committed together travels together; 0 = 50.
     */
    uint64_t debounce_ms;
    /**
     * Time between two questions in milliseconds while the remote has nothing new and the replica has no long poll
     * (`long_poll_timeout_ms`); 0 = 10 seconds. With a long poll, changes arrive at once.
     */
    uint64_t interval_ms;
    /**
     * Longest pause after failures in milliseconds; 0 = 60 seconds.
     */
    uint64_t longest_pause_ms;
    /**
     * Called in a thread of the keeper whenever something of the remote was applied; one's own pushed changes count. It
     * may use the replica, and of the keeper all functions but _pause, _sync_now (MISUSE) and _deinit. NULL = nobody.
     */
    void (*on_change)(void *context);
    /**
     * Passed to `on_change`. Must be usable in other threads until turso_sync_keeper_deinit has returned.
     */
    void *on_change_context;
} turso_sync_keep_options_t;

/**
 * How keeping in sync goes. Set `size` before the call; new fields are only ever appended.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_keeper_status_t)`.
     */
    size_t size;
    /**
     * What it is doing.
     */
    turso_sync_keeper_state_t state;
    /**
     * Status code of the last push, or else the last pull, if it failed; OK if both went well. CONSTRAINT is a conflict,
     * and category FOREIGN (see turso_sync_keeper_error) what another program has written: pushing goes on as soon as
     * something changes.
     */
    turso_status_code_t code;
    /**
     * Pushes that have sent something.
     */
    uint64_t pushes;
    /**
     * Times that something of the remote was applied.
     */
    uint64_t pulls;
    /**
     * Attempts that failed.
     */
    uint64_t failures;
    /**
     * Milliseconds until the next attempt; 0 if nothing has failed, or if it waits for a change.
     */
    uint64_t retry_in_ms;
} turso_sync_keeper_status_t;

/**
 * An HTTP request. All slices live as long as the item.
 */
typedef struct {
    /**
     * URL of the remote without the path, as `http` or `https`; NULL and 0 if only the host knows it.
     */
    turso_slice_ref_t url;
    /**
     * `GET` or `POST`.
     */
    turso_slice_ref_t method;
    /**
     * Path to append to the URL (whose final slash, if any, is dropped); starts with `/`.
     */
    turso_slice_ref_t path;
    /**
     * Body; NULL and 0 if there is none. A POST without a body is sent with `Content-Length: 0`.
     */
    turso_slice_ref_t body;
    /**
     * Number of headers; see turso_sync_database_io_request_http_header.
     */
    int32_t headers;
} turso_sync_io_http_request_t;

/**
 * One header of an HTTP request. Both slices live as long as the item.
 */
typedef struct {
    /**
     * Name, in lower case.
     */
    turso_slice_ref_t key;
    /**
     * Value. May be secret: do not log it.
     */
    turso_slice_ref_t value;
} turso_sync_io_http_header_t;

/**
 * A file to read.
 */
typedef struct {
    /**
     * Path in UTF-8; lives as long as the item.
     */
    turso_slice_ref_t path;
} turso_sync_io_full_read_request_t;

/**
 * A file to replace. Both slices live as long as the item.
 */
typedef struct {
    /**
     * Path in UTF-8.
     */
    turso_slice_ref_t path;
    /**
     * The new content.
     */
    turso_slice_ref_t content;
} turso_sync_io_full_write_request_t;

/**
 * A captured row change that is about to be pushed. It is content of the database: do not log it. Set `size` before the
 * call. New fields are only ever appended. The slice is UTF-8, not zero-terminated, and lives as long as the item.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_mutation_t)`.
     */
    size_t size;
    /**
     * Number of the change (`change_id` in `turso_cdc`).
     */
    int64_t change_id;
    /**
     * The local transaction it belongs to (`change_txn_id` in `turso_cdc`).
     */
    int64_t transaction_id;
    /**
     * When it was made, in unix seconds.
     */
    int64_t unix_time;
    /**
     * Rowid of the row, before the change if it changed; 0 where there is none.
     */
    int64_t rowid;
    /**
     * Table, as spelled in its declaration.
     */
    turso_slice_ref_t table;
    /**
     * Number of columns; see turso_sync_database_io_transform_column. Generated columns do not count.
     */
    size_t columns;
    /**
     * What happened.
     */
    turso_sync_mutation_type_t mutation_type;
} turso_sync_mutation_t;

/**
 * A value with its type.
 */
typedef struct {
    /**
     * A value of `turso_type_t`; `TURSO_TYPE_UNKNOWN` if there is no value.
     */
    uint32_t value_type;
    /**
     * Of an INTEGER.
     */
    int64_t integer;
    /**
     * Of a REAL.
     */
    double real;
    /**
     * Of a TEXT (UTF-8, not zero-terminated) or BLOB. From the library it lives as long as the item.
     */
    turso_slice_ref_t bytes;
} turso_sync_value_t;

/**
 * One column of a row change. Set `size` before the call. New fields are only ever appended.
 */
typedef struct {
    /**
     * `sizeof(turso_sync_mutation_column_t)`.
     */
    size_t size;
    /**
     * Name in UTF-8, not zero-terminated; lives as long as the item.
     */
    turso_slice_ref_t name;
    /**
     * Value in the old row; none for an insert.
     */
    turso_sync_value_t before;
    /**
     * Value in the new row; none for a delete.
     */
    turso_sync_value_t after;
    /**
     * What an update sets; none for a column that it leaves alone.
     */
    turso_sync_value_t update;
    /**
     * 1 if the column is part of the primary key, otherwise 0.
     */
    uint32_t is_key;
} turso_sync_mutation_column_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Creates a handle for a replica. Does no IO; both configurations are copied.
 *
 * Of `db_config` the features, encryption and flags are checked as in turso_database_new; READONLY and memory are not
 * possible. The path that counts is the one in `sync_config`; pass the same in both. `*database` is released with
 * turso_sync_database_deinit.
 *
 * Errors: MISUSE for NULL pointers (`config pointer must be not null`), text that is not UTF-8 and numbers out of range;
 * ERROR for what is not supported. Threads: any.
 */
TURSO_API
turso_status_code_t turso_sync_database_new(const turso_database_config_t *db_config,
                                            const turso_sync_database_config_t *sync_config,
                                            const turso_sync_database_t **database,
                                            const char **error_opt_out);

/**
 * Creates a handle for a replica, as turso_sync_database_new does, with more settings. Not part of the SDK kit of Turso.
 *
 * `options` may be NULL for the defaults; they are copied. Errors: in addition MISUSE if `options->size` is not set, or
 * if a setting is not known to this library.
 */
TURSO_API
turso_status_code_t turso_sync_database_new_with_options(const turso_database_config_t *db_config,
                                                         const turso_sync_database_config_t *sync_config,
                                                         const turso_sync_options_t *options,
                                                         const turso_sync_database_t **database,
                                                         const char **error_opt_out);

/**
 * Begins to open an existing replica; it fails with `metadata not found` if there is none. Result: none.
 *
 * Like all functions that begin an operation it does no work and no IO: see turso_sync_operation_resume. `*operation`
 * is released with turso_sync_operation_deinit. Errors of the call itself: MISUSE for NULL pointers.
 */
TURSO_API
turso_status_code_t turso_sync_database_open(const turso_sync_database_t *database,
                                             const turso_sync_operation_t **operation,
                                             const char **error_opt_out);

/**
 * Begins to open a replica, creating it if there is none: by download if `bootstrap_if_empty` is set, otherwise empty
 * and offline. Running it again on an open replica is fine. Result: none.
 */
TURSO_API
turso_status_code_t turso_sync_database_create(const turso_sync_database_t *database,
                                               const turso_sync_operation_t **operation,
                                               const char **error_opt_out);

/**
 * Begins to open a connection whose changes will be pushed. Result: a connection. Before the replica is open it fails
 * with `sync engine must be initialized`, as do the operations below.
 */
TURSO_API
turso_status_code_t turso_sync_database_connect(const turso_sync_database_t *database,
                                                const turso_sync_operation_t **operation,
                                                const char **error_opt_out);

/**
 * Begins to collect figures about the replica. Result: stats.
 */
TURSO_API
turso_status_code_t turso_sync_database_stats(const turso_sync_database_t *database,
                                              const turso_sync_operation_t **operation,
                                              const char **error_opt_out);

/**
 * Begins to move the write-ahead log into the main file. The library does this by itself when the log grows; use it
 * to choose the moment. Result: none.
 */
TURSO_API
turso_status_code_t turso_sync_database_checkpoint(const turso_sync_database_t *database,
                                                   const turso_sync_operation_t **operation,
                                                   const char **error_opt_out);

/**
 * Begins to send the pending local changes to the remote. Repeating it after a failure, also after a lost answer, never
 * applies a change twice and never loses one. Result: none.
 */
TURSO_API
turso_status_code_t turso_sync_database_push_changes(const turso_sync_database_t *database,
                                                     const turso_sync_operation_t **operation,
                                                     const char **error_opt_out);

/**
 * Begins to download what is new on the remote, without applying it. Local reads and writes go on meanwhile. Result:
 * changes, or NULL if nothing is new.
 */
TURSO_API
turso_status_code_t turso_sync_database_wait_changes(const turso_sync_database_t *database,
                                                     const turso_sync_operation_t **operation,
                                                     const char **error_opt_out);

/**
 * Begins to apply downloaded changes beneath the pending local ones. Readers see the old or the new state, never a
 * mixture. Result: none.
 *
 * Takes ownership of `changes` in every case, also if the call or the operation fails: do not use or release it
 * afterwards. Changes that another handle downloaded are MISUSE.
 */
TURSO_API
turso_status_code_t turso_sync_database_apply_changes(const turso_sync_database_t *database,
                                                      const turso_sync_changes_t *changes,
                                                      const turso_sync_operation_t **operation,
                                                      const char **error_opt_out);

/**
 * Takes the next request from the queue: `*item` is NULL if there is none, otherwise it is released with
 * turso_sync_database_io_item_deinit. Items may be served in any thread, in any order and at the same time.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_take_item(const turso_sync_database_t *database,
                                                     const turso_sync_io_item_t **item,
                                                     const char **error_opt_out);

/**
 * Call it after requests were served, and when the queue was empty. It has nothing to do for full replicas and returns
 * OK; partial replicas will need it.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_step_callbacks(const turso_sync_database_t *database,
                                                          const char **error_opt_out);

/**
 * Releases the handle; NULL is fine. Connections and operations stay usable; release them as well.
 */
TURSO_API void turso_sync_database_deinit(const turso_sync_database_t *database);

/**
 * Releases changes that will not be applied; the next wait goes on with what was downloaded. NULL is fine.
 */
TURSO_API void turso_sync_changes_deinit(const turso_sync_changes_t *changes);

/**
 * Lists the conflicts of a replica that is open: blocked transactions, and those that were set aside. Reads the local
 * database at once; it is no operation and asks for no IO. Not part of the SDK kit of Turso.
 *
 * `*conflicts` is released with turso_sync_conflicts_deinit. Errors: MISUSE for NULL pointers and before the replica is
 * open; BUSY and others of the local database.
 */
TURSO_API
turso_status_code_t turso_sync_database_conflicts(const turso_sync_database_t *database,
                                                  const turso_sync_conflicts_t **conflicts,
                                                  const char **error_opt_out);

/**
 * Number of conflicts in the list; 0 for NULL.
 */
TURSO_API size_t turso_sync_conflicts_count(const turso_sync_conflicts_t *conflicts);

/**
 * Fills `conflict` with the conflict at `index` (from 0). Set `conflict->size` before the call.
 *
 * Errors: MISUSE for NULL pointers, an index out of range and a wrong size; nothing is written then.
 */
TURSO_API
turso_status_code_t turso_sync_conflicts_get(const turso_sync_conflicts_t *conflicts,
                                             size_t index,
                                             turso_sync_conflict_t *conflict);

/**
 * Releases the list; NULL is fine. Slices of its conflicts are not valid any more.
 */
TURSO_API void turso_sync_conflicts_deinit(const turso_sync_conflicts_t *conflicts);

/**
 * Begins to resolve the conflict with the number `conflict`. Needs the network only if the
 * replica's base was lost (somebody else wrote its files). Result: none. Not part of the SDK kit
 * of Turso.
 *
 * `resolution` is a value of `turso_sync_conflict_resolution_t`; the call itself is MISUSE for others. The operation
 * fails with ERROR if there is no such conflict: list them again, a sync may have settled or renumbered it. It fails
 * with CONSTRAINT if a transaction that was set aside still does not fit: it stays set aside then.
 */
TURSO_API
turso_status_code_t turso_sync_database_resolve_conflict(const turso_sync_database_t *database,
                                                         int64_t conflict,
                                                         uint32_t resolution,
                                                         const turso_sync_operation_t **operation,
                                                         const char **error_opt_out);

/**
 * Lists the tables in which the last operation of this handle has found changes of another program that nobody has decided
 * about: a JSON array of their names, `[]` if there are none. Asks for no IO. Not part of the SDK kit of Turso.
 *
 * `*tables` is freed with turso_str_deinit. Errors: MISUSE for NULL pointers.
 */
TURSO_API
turso_status_code_t turso_sync_database_foreign_tables(const turso_sync_database_t *database,
                                                       const char **tables,
                                                       const char **error_opt_out);

/**
 * Begins to decide what becomes of changes that another program has written into the file. Needs the network only if the
 * replica's base was lost with them (the other program has checkpointed). Result: none. Not part of the SDK kit of Turso.
 *
 * `policy` is a value of `turso_sync_foreign_policy_t`; the call itself is MISUSE for others. With STOP the operation only
 * looks: it fails with ERROR of category FOREIGN if there are such changes. If the remote no longer has the revision of a
 * lost base, ADOPT takes all that differs from the newest one, but removes nothing that only the remote has.
 */
TURSO_API
turso_status_code_t turso_sync_database_settle_foreign_changes(const turso_sync_database_t *database,
                                                               uint32_t policy,
                                                               const turso_sync_operation_t **operation,
                                                               const char **error_opt_out);

/**
 * Begins to go on with a remote that is not the one that this replica knows: another one, or one that was restored from a
 * backup. All other operations refuse it with ERROR of category IDENTITY. Downloads it whole. Result: none. Not part of the
 * SDK kit of Turso.
 *
 * Pending changes stay pending. `policy`, a value of `turso_sync_foreign_policy_t`, says what becomes of everything else
 * that is here and not on the remote: with ADOPT it becomes pending, where rows that differ are overwritten by those
 * here and nothing is removed; with DISCARD it goes; with STOP the operation fails with ERROR of category FOREIGN, and
 * turso_sync_database_foreign_tables tells the tables. The call itself is MISUSE for other values.
 */
TURSO_API
turso_status_code_t turso_sync_database_accept_remote(const turso_sync_database_t *database,
                                                      uint32_t policy,
                                                      const turso_sync_operation_t **operation,
                                                      const char **error_opt_out);

/**
 * Works on the operation until it ends or needs IO.
 *
 * IO: serve the requests in the queue (turso_sync_database_io_take_item), then resume again. Resuming while a request is
 * under way returns IO again; a push makes its next request meanwhile. DONE: the operation has ended; extract its result.
 * Otherwise it has failed, with a message that begins with `sync engine operation failed: `, and the code of the cause:
 * CONSTRAINT for a conflict, BUSY if another operation runs on the replica, and so on. After its end an operation repeats
 * its answer.
 */
TURSO_API
turso_status_code_t turso_sync_operation_resume(const turso_sync_operation_t *operation,
                                                const char **error_opt_out);

/**
 * Type of the result that can be extracted now; NONE for NULL as well.
 */
TURSO_API
turso_sync_operation_result_type_t turso_sync_operation_result_kind(const turso_sync_operation_t *operation);

/**
 * Takes the connection out of an operation that has ended. Once: later calls are MISUSE. `*connection` is released with
 * turso_connection_deinit.
 *
 * Extracting a result with the function for another type is MISUSE, and the result is lost.
 */
TURSO_API
turso_status_code_t turso_sync_operation_result_extract_connection(const turso_sync_operation_t *operation,
                                                                   const turso_connection_t **connection);

/**
 * Takes the changes out of an operation that has ended; OK with `*changes` NULL if there were none. Once: later calls
 * are MISUSE. `*changes` is given to turso_sync_database_apply_changes or released with turso_sync_changes_deinit.
 */
TURSO_API
turso_status_code_t turso_sync_operation_result_extract_changes(const turso_sync_operation_t *operation,
                                                                const turso_sync_changes_t **changes);

/**
 * Copies the figures out of an operation that has ended; any number of times. `stats->revision` points into the
 * operation.
 */
TURSO_API
turso_status_code_t turso_sync_operation_result_extract_stats(const turso_sync_operation_t *operation,
                                                              turso_sync_stats_t *stats);

/**
 * Releases the operation with its result; NULL is fine. An operation that has not ended is cancelled: the database
 * stays valid, requests still being served are ignored, and the next operation can begin.
 */
TURSO_API
void turso_sync_operation_deinit(const turso_sync_operation_t *operation);

/**
 * Tells how far an operation has come. From any thread, also while another one runs the operation; it never waits. Not
 * part of the SDK kit of Turso.
 *
 * Errors: MISUSE for NULL pointers and a wrong size; nothing is written then.
 */
TURSO_API
turso_status_code_t turso_sync_operation_progress(const turso_sync_operation_t *operation,
                                                  turso_sync_progress_t *progress);

/**
 * Asks an operation to stop, from any thread, also while another one runs it. Not part of the SDK kit of Turso.
 *
 * The operation ends with INTERRUPT: at its next resume, in the middle of a download or of a replay, and
 * turso_sync_operation_run returns at once although a request may still be under way. The database is valid, and what
 * was finished stays: requests that the remote has answered, chunks that were downloaded. An operation that has ended is
 * left as it is. Errors: MISUSE for NULL.
 */
TURSO_API
turso_status_code_t turso_sync_operation_cancel(const turso_sync_operation_t *operation);

/**
 * Describes why an operation has failed; `error->code` is OK if it has not. The message lives as long as the operation.
 * Not part of the SDK kit of Turso.
 *
 * Errors: MISUSE for NULL pointers, a wrong size, and while another thread runs the operation.
 */
TURSO_API
turso_status_code_t turso_sync_operation_error(const turso_sync_operation_t *operation,
                                               turso_sync_error_t *error);

/**
 * Describes the last error of this thread, of any function of the library that returns a status; `error->code` is OK if there
 * was none. Successful calls leave it as it is, and so does a failure of this function. The message lives until the
 * next failure in this thread. Not part of the SDK kit of Turso.
 *
 * Errors: MISUSE for NULL and a wrong size.
 */
TURSO_API
turso_status_code_t turso_sync_last_error(turso_sync_error_t *error);

/**
 * Tells what a user wants to know about a replica that is open: is everything uploaded, is anything in conflict, when
 * was the last sync. Reads the local database at once; it is no operation and asks for no IO. Not part of the SDK kit of
 * Turso.
 *
 * Errors: MISUSE for NULL pointers, a wrong size, and before the replica is open; BUSY and others of the local database.
 */
TURSO_API
turso_status_code_t turso_sync_database_status(const turso_sync_database_t *database,
                                               turso_sync_status_t *replica_status,
                                               const char **error_opt_out);

/**
 * Runs an operation of `database` to its end, performing its HTTP and file requests itself; blocks the calling thread.
 * Several operations may be run at the same time, in a thread each. Not part of the SDK kit of Turso.
 *
 * `config` may be NULL for no token and the default times. Returns DONE; the result is extracted as always. Errors:
 * those of turso_sync_operation_resume, MISUSE for wrong settings, ERROR if the library was built without the driver.
 * Reaching a time limit fails the operation. A request is repeated, `config->attempts` times in all and with pauses, if
 * there was no connection, no answer, or one with status 408, 429, 500, 502, 503 or 504.
 */
TURSO_API
turso_status_code_t turso_sync_operation_run(const turso_sync_database_t *database,
                                             const turso_sync_operation_t *operation,
                                             const turso_sync_driver_config_t *config,
                                             const char **error_opt_out);

/**
 * Starts to keep an open replica in sync: it waits for changes of the remote and applies them, and pushes what is committed
 * on connections of this handle. What other processes commit is found when a wait ends. Not part of the SDK kit of Turso.
 *
 * The library starts two threads, and one per HTTP request. `config` and `options` may be NULL for the defaults; they are
 * copied, but for callbacks and their contexts. `config->deadline_ms` is for one push or pull. `*keeper` is released with
 * turso_sync_keeper_deinit. It keeps the replica open on its own: `database` may be released before.
 *
 * Failures are repeated, with growing pauses of up to a minute; after a conflict, and when another program has written
 * the file, pushing stops until something changes here or on the remote. While others have the replica in use it waits;
 * after some seconds that counts as a failure (BUSY), which is over as soon as they are done. Connections, other operations
 * and the functions for conflicts can be used as always; a push or pull of your own may be BUSY while the keeper is at it:
 * use turso_sync_keeper_sync_now.
 *
 * Errors: MISUSE for NULL pointers, wrong settings, and before the replica is open; ERROR if the library was built without
 * the driver.
 */
TURSO_API
turso_status_code_t turso_sync_database_keep_in_sync(const turso_sync_database_t *database,
                                                     const turso_sync_driver_config_t *config,
                                                     const turso_sync_keep_options_t *options,
                                                     const turso_sync_keeper_t **keeper,
                                                     const char **error_opt_out);

/**
 * Stops for a while, as a phone must before it suspends a program: cancels what is under way, and returns when nothing is
 * sent any more and no lock is held. It waits for an `on_change` that is running. Nothing is lost. Pausing twice is fine.
 * Not part of the SDK kit of Turso.
 *
 * Errors: MISUSE for NULL, and in `on_change`.
 */
TURSO_API
turso_status_code_t turso_sync_keeper_pause(const turso_sync_keeper_t *keeper,
                                            const char **error_opt_out);

/**
 * Goes on after a pause. Not part of the SDK kit of Turso. Errors: MISUSE for NULL.
 */
TURSO_API turso_status_code_t turso_sync_keeper_resume(const turso_sync_keeper_t *keeper);

/**
 * Says that the network has changed or come back: the remote is asked anew at once, whatever has failed before. Returns at
 * once; nothing happens while the keeper is paused. Not part of the SDK kit of Turso. Errors: MISUSE for NULL.
 */
TURSO_API
turso_status_code_t turso_sync_keeper_wake(const turso_sync_keeper_t *keeper);

/**
 * Pushes what is pending and fetches what is new; blocks until both are done, or until the first error. The keeper goes on
 * in either case. Not part of the SDK kit of Turso.
 *
 * Errors: those of a push or pull; BUSY if others have the replica in use for more than some seconds, such as a transaction
 * that this thread has begun, or an operation that was not finished; MISUSE for NULL, while paused, and in `on_change`.
 */
TURSO_API
turso_status_code_t turso_sync_keeper_sync_now(const turso_sync_keeper_t *keeper,
                                               const char **error_opt_out);

/**
 * Tells how keeping in sync goes; never waits. Not part of the SDK kit of Turso. Errors: MISUSE for NULL pointers and a
 * wrong size.
 */
TURSO_API
turso_status_code_t turso_sync_keeper_status(const turso_sync_keeper_t *keeper,
                                             turso_sync_keeper_status_t *keeper_status);

/**
 * Describes the error that turso_sync_keeper_status tells the code of; `error->code` is OK if there is none. It becomes the
 * last error of this thread (turso_sync_last_error): the message lives until the next failure in this thread. Not part of
 * the SDK kit of Turso. Errors: MISUSE for NULL pointers and a wrong size.
 */
TURSO_API
turso_status_code_t turso_sync_keeper_error(const turso_sync_keeper_t *keeper,
                                            turso_sync_error_t *error);

/**
 * Stops, and releases the keeper; NULL is fine. Returns when its threads have ended and no callback is called any more. What
 * was under way is cancelled, and nothing is lost. Not in `on_change`.
 */
TURSO_API
void turso_sync_keeper_deinit(const turso_sync_keeper_t *keeper);

/**
 * What the item asks for; NONE for NULL. A host that meets a kind it does not know poisons the item.
 */
TURSO_API turso_sync_io_request_type_t turso_sync_database_io_request_kind(const turso_sync_io_item_t *item);

/**
 * The HTTP request. Errors: MISUSE for NULL, and if the item is of another kind.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_request_http(const turso_sync_io_item_t *item,
                                                        turso_sync_io_http_request_t *request);

/**
 * Header `index` (from 0) of the HTTP request. Errors: MISUSE for NULL, another kind, and an index out of range.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_request_http_header(const turso_sync_io_item_t *item,
                                                               size_t index,
                                                               turso_sync_io_http_header_t *header);

/**
 * The file to read. Errors: MISUSE for NULL, and if the item is of another kind.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_request_full_read(const turso_sync_io_item_t *item,
                                                             turso_sync_io_full_read_request_t *request);

/**
 * The file to replace. Errors: MISUSE for NULL, and if the item is of another kind.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_request_full_write(const turso_sync_io_item_t *item,
                                                              turso_sync_io_full_write_request_t *request);

/**
 * Fails the request, and with it the operation; `message` says why (bytes that are not UTF-8 are replaced). No further
 * call is needed. Errors: MISUSE for NULL and for a slice whose pointer is NULL; the request is not failed then.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_poison(const turso_sync_io_item_t *item,
                                                  const turso_slice_ref_t *message);

/**
 * Reports the HTTP status, before the first piece of the body. Errors: MISUSE outside of 0 to 999, and for NULL.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_status(const turso_sync_io_item_t *item,
                                                  int32_t http_status);

/**
 * Reports a header of the HTTP answer, before turso_sync_database_io_done. Optional; `retry-after` in seconds is the one that
 * the library uses: it becomes `retry_after_ms` of the error. Not part of the SDK kit of Turso.
 *
 * Errors: MISUSE for NULL and for slices whose pointer is NULL. Bytes that are not UTF-8 are ignored.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_header(const turso_sync_io_item_t *item,
                                                  const turso_slice_ref_t *name,
                                                  const turso_slice_ref_t *header_value);

/**
 * False once the library does not wait for the answer any more, because the operation was cancelled or the answer is wrong
 * already: a host may then stop its transfer. Also false for NULL. Not part of the SDK kit of Turso.
 */
TURSO_API
bool turso_sync_database_io_is_wanted(const turso_sync_io_item_t *item);

/**
 * Feeds the next piece of the answer, which is used before the call returns. Pieces that arrive after the library has
 * stopped waiting are ignored. Errors: MISUSE for NULL and for a slice whose pointer is NULL, even with length 0.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_push_buffer(const turso_sync_io_item_t *item,
                                                       const turso_slice_ref_t *buffer);

/**
 * The answer is complete.
 */
TURSO_API turso_status_code_t turso_sync_database_io_done(const turso_sync_io_item_t *item);

/**
 * Performs a FULL_READ or FULL_WRITE item completely, as the request type demands, including done or poison; the host
 * only has to release the item. Not part of the SDK kit of Turso.
 *
 * Errors: MISUSE for NULL and for an item that is not about a file, which is left as it is; IOERR, READONLY or DATABASE_FULL if the file
 * system fails, in which case the item is poisoned.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_perform_file(const turso_sync_io_item_t *item,
                                                        const char **error_opt_out);

/**
 * Releases the item; NULL is fine. An item that was neither done nor poisoned is poisoned.
 */
TURSO_API void turso_sync_database_io_item_deinit(const turso_sync_io_item_t *item);

/**
 * Number of row changes that a TURSO_SYNC_IO_TRANSFORM item asks about; 0 for NULL and for an item of another kind. Not
 * part of the SDK kit of Turso.
 *
 * For each of them the host calls one of turso_sync_database_io_transform_keep, `_skip` and `_rewrite`, then
 * turso_sync_database_io_done; the operation fails with MISUSE if one was left out. The last word about a change counts.
 */
TURSO_API
size_t turso_sync_database_io_transform_count(const turso_sync_io_item_t *item);

/**
 * Fills `mutation` with the row change at `index` (from 0). Set `mutation->size` before the call. Not part of the SDK kit
 * of Turso.
 *
 * Errors: MISUSE for NULL, another kind of item, an index out of range and a wrong size; nothing is written then.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_transform_mutation(const turso_sync_io_item_t *item,
                                                              size_t index,
                                                              turso_sync_mutation_t *mutation);

/**
 * Fills `column` with column number `column_index` (from 0) of the row change at `index`. Set `column->size` before the
 * call. Not part of the SDK kit of Turso.
 *
 * Errors: MISUSE for NULL, another kind of item, an index out of range and a wrong size; nothing is written then.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_transform_column(const turso_sync_io_item_t *item,
                                                            size_t index,
                                                            size_t column_index,
                                                            turso_sync_mutation_column_t *column);

/**
 * The row change at `index` is sent as it is. Not part of the SDK kit of Turso.
 *
 * Errors, as in the functions below: MISUSE for NULL, another kind of item and an index out of range.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_transform_keep(const turso_sync_io_item_t *item,
                                                          size_t index);

/**
 * The row change at `index` is not sent. It counts as acknowledged with its transaction: with the next pull it is gone
 * here, too. Not part of the SDK kit of Turso.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_transform_skip(const turso_sync_io_item_t *item,
                                                          size_t index);

/**
 * In place of the row change at `index` a statement is sent; with the next pull its outcome is what is here. Not part of
 * the SDK kit of Turso.
 *
 * `sql` is one statement in UTF-8 that begins with INSERT, REPLACE, UPDATE, DELETE, SELECT or WITH; its parameters are
 * plain question marks, and `values` are their `count` values. Everything is copied. Errors: in addition MISUSE for NULL
 * pointers, for a statement that is not like that, for numbers that are not finite and text that is not UTF-8; nothing is
 * decided then.
 */
TURSO_API
turso_status_code_t turso_sync_database_io_transform_rewrite(const turso_sync_io_item_t *item,
                                                             size_t index,
                                                             const turso_slice_ref_t *sql,
                                                             const turso_sync_value_t *values,
                                                             size_t count,
                                                             const char **error_opt_out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TURSO_SYNC_H */

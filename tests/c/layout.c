/* Layouts and values that bindings mirror by hand. Compiles only if all of them hold (LP64). */
#include <turso_sync.h>

#ifdef __cplusplus
#define HOLDS(line, condition) static_assert(condition, #condition)
#else
#define HOLDS(line, condition) HOLDS_AT(line, condition)
#define HOLDS_AT(line, condition) typedef char holds_##line[(condition) ? 1 : -1]
#endif
#define SIZE(type, size) HOLDS(__LINE__, sizeof(type) == (size))
#define AT(type, member, offset) HOLDS(__LINE__, offsetof(type, member) == (offset))
#define VALUE(name, value) HOLDS(__LINE__, (name) == (value))

#if UINTPTR_MAX == 0xffffffffffffffff

SIZE(turso_slice_ref_t, 16);
AT(turso_slice_ref_t, ptr, 0);
AT(turso_slice_ref_t, len, 8);

SIZE(turso_config_t, 16);
AT(turso_config_t, logger, 0);
AT(turso_config_t, log_level, 8);

SIZE(turso_log_t, 48);
AT(turso_log_t, message, 0);
AT(turso_log_t, target, 8);
AT(turso_log_t, file, 16);
AT(turso_log_t, timestamp, 24);
AT(turso_log_t, line, 32);
AT(turso_log_t, level, 40);

SIZE(turso_database_config_t, 64);
AT(turso_database_config_t, async_io, 0);
AT(turso_database_config_t, path, 8);
AT(turso_database_config_t, experimental_features, 16);
AT(turso_database_config_t, vfs, 24);
AT(turso_database_config_t, encryption_cipher, 32);
AT(turso_database_config_t, encryption_hexkey, 40);
AT(turso_database_config_t, page_codec, 48);
AT(turso_database_config_t, open_flags, 56);

SIZE(turso_sync_database_config_t, 104);
AT(turso_sync_database_config_t, path, 0);
AT(turso_sync_database_config_t, remote_url, 8);
AT(turso_sync_database_config_t, client_name, 16);
AT(turso_sync_database_config_t, long_poll_timeout_ms, 24);
AT(turso_sync_database_config_t, bootstrap_if_empty, 28);
AT(turso_sync_database_config_t, reserved_bytes, 32);
AT(turso_sync_database_config_t, partial_bootstrap_strategy_prefix, 36);
AT(turso_sync_database_config_t, partial_bootstrap_strategy_query, 40);
AT(turso_sync_database_config_t, partial_bootstrap_segment_size, 48);
AT(turso_sync_database_config_t, partial_bootstrap_prefetch, 56);
AT(turso_sync_database_config_t, remote_encryption_key, 64);
AT(turso_sync_database_config_t, remote_encryption_cipher, 72);
AT(turso_sync_database_config_t, push_operations_threshold, 80);
AT(turso_sync_database_config_t, pull_bytes_threshold, 88);
AT(turso_sync_database_config_t, logical_mvcc_pull, 96);

SIZE(turso_sync_io_http_request_t, 72);
AT(turso_sync_io_http_request_t, url, 0);
AT(turso_sync_io_http_request_t, method, 16);
AT(turso_sync_io_http_request_t, path, 32);
AT(turso_sync_io_http_request_t, body, 48);
AT(turso_sync_io_http_request_t, headers, 64);

SIZE(turso_sync_io_http_header_t, 32);
AT(turso_sync_io_http_header_t, key, 0);
AT(turso_sync_io_http_header_t, value, 16);

SIZE(turso_sync_io_full_read_request_t, 16);
AT(turso_sync_io_full_read_request_t, path, 0);

SIZE(turso_sync_io_full_write_request_t, 32);
AT(turso_sync_io_full_write_request_t, path, 0);
AT(turso_sync_io_full_write_request_t, content, 16);

SIZE(turso_sync_stats_t, 72);
AT(turso_sync_stats_t, cdc_operations, 0);
AT(turso_sync_stats_t, main_wal_size, 8);
AT(turso_sync_stats_t, revert_wal_size, 16);
AT(turso_sync_stats_t, last_pull_unix_time, 24);
AT(turso_sync_stats_t, last_push_unix_time, 32);
AT(turso_sync_stats_t, network_sent_bytes, 40);
AT(turso_sync_stats_t, network_received_bytes, 48);
AT(turso_sync_stats_t, revision, 56);

SIZE(turso_sync_driver_config_t, 96);
AT(turso_sync_driver_config_t, auth_token, 8);
AT(turso_sync_driver_config_t, base_url, 16);
AT(turso_sync_driver_config_t, timeout_ms, 24);
AT(turso_sync_driver_config_t, deadline_ms, 32);
AT(turso_sync_driver_config_t, auth_token_callback, 40);
AT(turso_sync_driver_config_t, auth_token_context, 48);
AT(turso_sync_driver_config_t, proxy, 56);
AT(turso_sync_driver_config_t, ca_file, 64);
AT(turso_sync_driver_config_t, attempts, 72);
AT(turso_sync_driver_config_t, transform_callback, 80);
AT(turso_sync_driver_config_t, transform_context, 88);

SIZE(turso_sync_value_t, 40);
AT(turso_sync_value_t, value_type, 0);
AT(turso_sync_value_t, integer, 8);
AT(turso_sync_value_t, real, 16);
AT(turso_sync_value_t, bytes, 24);

SIZE(turso_sync_mutation_t, 72);
AT(turso_sync_mutation_t, change_id, 8);
AT(turso_sync_mutation_t, transaction_id, 16);
AT(turso_sync_mutation_t, unix_time, 24);
AT(turso_sync_mutation_t, rowid, 32);
AT(turso_sync_mutation_t, table, 40);
AT(turso_sync_mutation_t, columns, 56);
AT(turso_sync_mutation_t, mutation_type, 64);

SIZE(turso_sync_mutation_column_t, 152);
AT(turso_sync_mutation_column_t, name, 8);
AT(turso_sync_mutation_column_t, before, 24);
AT(turso_sync_mutation_column_t, after, 64);
AT(turso_sync_mutation_column_t, update, 104);
AT(turso_sync_mutation_column_t, is_key, 144);

SIZE(turso_sync_keep_options_t, 48);
AT(turso_sync_keep_options_t, debounce_ms, 8);
AT(turso_sync_keep_options_t, interval_ms, 16);
AT(turso_sync_keep_options_t, longest_pause_ms, 24);
AT(turso_sync_keep_options_t, on_change, 32);
AT(turso_sync_keep_options_t, on_change_context, 40);

SIZE(turso_sync_keeper_status_t, 48);
AT(turso_sync_keeper_status_t, state, 8);
AT(turso_sync_keeper_status_t, code, 12);
AT(turso_sync_keeper_status_t, pushes, 16);
AT(turso_sync_keeper_status_t, pulls, 24);
AT(turso_sync_keeper_status_t, failures, 32);
AT(turso_sync_keeper_status_t, retry_in_ms, 40);

SIZE(turso_sync_options_t, 56);
AT(turso_sync_options_t, size, 0);
AT(turso_sync_options_t, conflict_policy, 8);
AT(turso_sync_options_t, tables_ignore, 16);
AT(turso_sync_options_t, tables_ignore_count, 24);
AT(turso_sync_options_t, wal_pull_batch_size, 32);
AT(turso_sync_options_t, use_transform, 40);
AT(turso_sync_options_t, foreign_policy, 44);
AT(turso_sync_options_t, protocol_version_hint, 48);

SIZE(turso_sync_conflict_t, 120);
AT(turso_sync_conflict_t, size, 0);
AT(turso_sync_conflict_t, id, 8);
AT(turso_sync_conflict_t, change_id, 16);
AT(turso_sync_conflict_t, state, 24);
AT(turso_sync_conflict_t, kind, 28);
AT(turso_sync_conflict_t, operation, 32);
AT(turso_sync_conflict_t, sqlite_code, 36);
AT(turso_sync_conflict_t, changes, 40);
AT(turso_sync_conflict_t, unix_time, 48);
AT(turso_sync_conflict_t, table, 56);
AT(turso_sync_conflict_t, key, 72);
AT(turso_sync_conflict_t, constraint, 88);
AT(turso_sync_conflict_t, message, 104);
#endif

SIZE(turso_status_code_t, 4);
SIZE(turso_type_t, 4);
SIZE(turso_tracing_level_t, 4);
SIZE(turso_database_open_flags_t, 4);
SIZE(turso_sync_io_request_type_t, 4);
SIZE(turso_sync_operation_result_type_t, 4);
SIZE(turso_sync_conflict_policy_t, 4);
SIZE(turso_sync_foreign_policy_t, 4);
SIZE(turso_sync_conflict_resolution_t, 4);
SIZE(turso_sync_conflict_state_t, 4);
SIZE(turso_sync_conflict_kind_t, 4);
SIZE(turso_sync_conflict_operation_t, 4);
VALUE(TURSO_OK, 0);
VALUE(TURSO_DONE, 1);
VALUE(TURSO_ROW, 2);
VALUE(TURSO_IO, 3);
VALUE(TURSO_BUSY, 4);
VALUE(TURSO_INTERRUPT, 5);
VALUE(TURSO_BUSY_SNAPSHOT, 6);
VALUE(TURSO_ERROR, 127);
VALUE(TURSO_MISUSE, 128);
VALUE(TURSO_CONSTRAINT, 129);
VALUE(TURSO_READONLY, 130);
VALUE(TURSO_DATABASE_FULL, 131);
VALUE(TURSO_NOTADB, 132);
VALUE(TURSO_CORRUPT, 133);
VALUE(TURSO_IOERR, 134);
VALUE(TURSO_TYPE_UNKNOWN, 0);
VALUE(TURSO_TYPE_INTEGER, 1);
VALUE(TURSO_TYPE_REAL, 2);
VALUE(TURSO_TYPE_TEXT, 3);
VALUE(TURSO_TYPE_BLOB, 4);
VALUE(TURSO_TYPE_NULL, 5);
VALUE(TURSO_TRACING_LEVEL_ERROR, 1);
VALUE(TURSO_TRACING_LEVEL_WARN, 2);
VALUE(TURSO_TRACING_LEVEL_INFO, 3);
VALUE(TURSO_TRACING_LEVEL_DEBUG, 4);
VALUE(TURSO_TRACING_LEVEL_TRACE, 5);
VALUE(TURSO_DATABASE_OPEN_DEFAULT, 0);
VALUE(TURSO_DATABASE_OPEN_READONLY, 1);
VALUE(TURSO_SYNC_IO_NONE, 0);
VALUE(TURSO_SYNC_IO_HTTP, 1);
VALUE(TURSO_SYNC_IO_FULL_READ, 2);
VALUE(TURSO_SYNC_IO_FULL_WRITE, 3);
VALUE(TURSO_SYNC_IO_TRANSFORM, 4);
VALUE(TURSO_SYNC_MUTATION_INSERT, 1);
VALUE(TURSO_SYNC_MUTATION_UPDATE, 2);
VALUE(TURSO_SYNC_MUTATION_DELETE, 3);
VALUE(TURSO_ASYNC_RESULT_NONE, 0);
VALUE(TURSO_ASYNC_RESULT_CONNECTION, 1);
VALUE(TURSO_ASYNC_RESULT_CHANGES, 2);
VALUE(TURSO_ASYNC_RESULT_STATS, 3);
VALUE(TURSO_SYNC_KEEPER_RUNNING, 1);
VALUE(TURSO_SYNC_KEEPER_PAUSED, 2);
VALUE(TURSO_SYNC_KEEPER_RETRYING, 3);
VALUE(TURSO_SYNC_PROTOCOL_VERSION_AUTO, 0);
VALUE(TURSO_SYNC_PROTOCOL_VERSION_COMPATIBLE, 1);
VALUE(TURSO_SYNC_PROTOCOL_VERSION_DIRECT, 2);

VALUE(TURSO_SYNC_CONFLICT_POLICY_STOP, 0);
VALUE(TURSO_SYNC_CONFLICT_POLICY_OVERWRITE, 1);
VALUE(TURSO_SYNC_CONFLICT_POLICY_SET_ASIDE, 2);
VALUE(TURSO_SYNC_CONFLICT_RESOLUTION_RETRY, 1);
VALUE(TURSO_SYNC_CONFLICT_RESOLUTION_OVERWRITE, 2);
VALUE(TURSO_SYNC_CONFLICT_RESOLUTION_SET_ASIDE, 3);
VALUE(TURSO_SYNC_CONFLICT_RESOLUTION_DROP, 4);
VALUE(TURSO_SYNC_CONFLICT_STATE_BLOCKED, 1);
VALUE(TURSO_SYNC_CONFLICT_STATE_OVERWRITE, 2);
VALUE(TURSO_SYNC_CONFLICT_STATE_SET_ASIDE, 3);
VALUE(TURSO_SYNC_CONFLICT_KIND_OTHER, 0);
VALUE(TURSO_SYNC_CONFLICT_KIND_UNIQUE, 1);
VALUE(TURSO_SYNC_CONFLICT_KIND_NOT_NULL, 2);
VALUE(TURSO_SYNC_CONFLICT_KIND_CHECK, 3);
VALUE(TURSO_SYNC_CONFLICT_KIND_FOREIGN_KEY, 4);
VALUE(TURSO_SYNC_CONFLICT_KIND_TRIGGER, 5);
VALUE(TURSO_SYNC_CONFLICT_KIND_DATATYPE, 6);
VALUE(TURSO_SYNC_CONFLICT_KIND_SCHEMA, 7);
VALUE(TURSO_SYNC_CONFLICT_KIND_DEPENDENCY, 8);
VALUE(TURSO_SYNC_CONFLICT_OPERATION_INSERT, 1);
VALUE(TURSO_SYNC_CONFLICT_OPERATION_UPDATE, 2);
VALUE(TURSO_SYNC_CONFLICT_OPERATION_DELETE, 3);
VALUE(TURSO_SYNC_CONFLICT_OPERATION_SCHEMA, 4);

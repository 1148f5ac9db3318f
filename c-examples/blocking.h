/*
 * Sync operations as plain blocking calls, by the library's built-in driver.
 */
#ifndef EXAMPLES_BLOCKING_H
#define EXAMPLES_BLOCKING_H

#include "common.h"

/* Runs `operation` to its end. The token, if the remote wants one, comes from the environment. */
static inline turso_status_code_t drive(const turso_sync_database_t *replica, const turso_sync_operation_t *operation,
                                        const char **error) {
    turso_sync_driver_config_t config;
    memset(&config, 0, sizeof config);
    config.size = sizeof config;
    config.auth_token = getenv("TURSO_AUTH_TOKEN");
    return turso_sync_operation_run(replica, operation, &config, error);
}

/* Opens the replica, creating it if it is new. */
static inline void create(const turso_sync_database_t *replica) {
    const char *error = NULL;
    const turso_sync_operation_t *operation = NULL;
    must(turso_sync_database_create(replica, &operation, &error), &error, "create");
    must(drive(replica, operation, &error), &error, "create");
    turso_sync_operation_deinit(operation);
}

/* A connection whose changes are captured. Release it with turso_connection_deinit. */
static inline const turso_connection_t *connect_to(const turso_sync_database_t *replica) {
    const char *error = NULL;
    const turso_sync_operation_t *operation = NULL;
    const turso_connection_t *connection = NULL;
    must(turso_sync_database_connect(replica, &operation, &error), &error, "connect");
    must(drive(replica, operation, &error), &error, "connect");
    must(turso_sync_operation_result_extract_connection(operation, &connection), NULL, "connect");
    turso_sync_operation_deinit(operation);
    return connection;
}

/* Sends local changes. The caller judges the status: without network this is no reason to stop. */
static inline turso_status_code_t push(const turso_sync_database_t *replica, const char **error) {
    const turso_sync_operation_t *operation = NULL;
    turso_status_code_t status = turso_sync_database_push_changes(replica, &operation, error);
    if (status == TURSO_OK) {
        status = drive(replica, operation, error);
    }
    turso_sync_operation_deinit(operation);
    return status;
}

/* Fetches remote changes (wait) and puts them beneath the local ones (apply). */
static inline turso_status_code_t pull(const turso_sync_database_t *replica, const char **error) {
    const turso_sync_operation_t *operation = NULL;
    const turso_sync_changes_t *changes = NULL;
    turso_status_code_t status = turso_sync_database_wait_changes(replica, &operation, error);
    if (status == TURSO_OK) {
        status = drive(replica, operation, error);
    }
    if (status == TURSO_DONE) {
        status = turso_sync_operation_result_extract_changes(operation, &changes);
    }
    turso_sync_operation_deinit(operation);
    if (status != TURSO_OK || changes == NULL) {
        return status; /* failed, or nothing is new */
    }
    operation = NULL;
    status = turso_sync_database_apply_changes(replica, changes, &operation, error); /* takes `changes` */
    if (status == TURSO_OK) {
        status = drive(replica, operation, error);
    }
    turso_sync_operation_deinit(operation);
    return status;
}

#endif

//! Configuration of a replica: C structures become `DatabaseSyncEngineOpts`.

use std::ffi::c_char;

use super::boundary::{Versioned, array_in, optional_string_in, string_in, versioned_in};
use super::conflict_types::{by_number, turso_sync_conflict_policy_t};
use super::database::not_supported;
use super::foreign::turso_sync_foreign_policy_t;
use super::sync_types::{turso_sync_database_config_t, turso_sync_options_t, turso_sync_protocol_version_t};
use crate::engine::{DatabaseSyncEngineOpts, ProtocolVersion};
use crate::error::{Error, Result};

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_options_t {
    const NAME: &str = "turso_sync_options_t";
}

/// A number that must not be negative.
fn unsigned<T: TryFrom<i32>>(name: &str, value: i32) -> Result<T> {
    T::try_from(value).map_err(|_| Error::misuse(format!("{name} is out of range: {value}")))
}

/// The checked configuration of a replica; `options` may be NULL for the defaults.
///
/// # Safety
/// Both follow the pointer rules of the header.
pub(super) unsafe fn read(
    config: *const turso_sync_database_config_t,
    options: *const turso_sync_options_t,
) -> Result<DatabaseSyncEngineOpts> {
    // SAFETY: the same contract.
    let mut read = unsafe { read_config(config) }?;
    // SAFETY: the same contract; all fields are numbers and pointers.
    if let Some(options) = unsafe { versioned_in(options) }? {
        read.conflict_policy = turso_sync_conflict_policy_t::read(options.conflict_policy)?;
        read.foreign_policy = turso_sync_foreign_policy_t::read(options.foreign_policy)?;
        // SAFETY: the same contract.
        read.tables_ignore = unsafe { read_names(options.tables_ignore, options.tables_ignore_count) }
            .map_err(|e| e.context("tables_ignore"))?;
        read.wal_pull_batch_size = options.wal_pull_batch_size;
        read.use_transform = read_switch("use_transform", options.use_transform)?;
        read.adopt_database = read_switch("adopt_database", options.adopt_database)?;
        read.protocol_version_hint = read_version(options.protocol_version_hint)?;
    }
    Ok(read)
}

fn read_switch(name: &str, value: u32) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::misuse(format!("{name} must be 0 or 1, not {other}"))),
    }
}

fn read_version(number: u32) -> Result<ProtocolVersion> {
    use turso_sync_protocol_version_t as Version;
    let known = [
        (
            Version::TURSO_SYNC_PROTOCOL_VERSION_AUTO as u32,
            ProtocolVersion::Auto,
        ),
        (
            Version::TURSO_SYNC_PROTOCOL_VERSION_COMPATIBLE as u32,
            ProtocolVersion::Compatible,
        ),
        (
            Version::TURSO_SYNC_PROTOCOL_VERSION_DIRECT as u32,
            ProtocolVersion::Direct,
        ),
    ];
    by_number("protocol_version_hint", known, number)
}

/// # Safety
/// `names` is NULL or points to `count` strings that follow the pointer rules of the header.
unsafe fn read_names(names: *const *const c_char, count: usize) -> Result<Vec<String>> {
    // SAFETY: the same contract.
    let names = unsafe { array_in(names, count) }?;
    // SAFETY: the same contract, for the strings inside.
    let owned = |name: &*const c_char| unsafe { string_in(*name) }.map(str::to_owned);
    names.iter().map(owned).collect()
}

/// # Safety
/// `config` is NULL or follows the pointer rules of the header.
unsafe fn read_config(config: *const turso_sync_database_config_t) -> Result<DatabaseSyncEngineOpts> {
    // SAFETY: NULL or readable by the contract.
    let config = unsafe { config.as_ref() };
    let config = config.ok_or_else(|| Error::misuse("config pointer must be not null"))?;
    // SAFETY: the same contract, for the strings inside.
    let (path, client_name) = unsafe { (string_in(config.path)?, string_in(config.client_name)?) };
    let optional = |s| {
        // SAFETY: as above.
        unsafe { optional_string_in(s) }.map(|s| s.map(str::to_owned))
    };
    if config.logical_mvcc_pull {
        return Err(not_supported("logical_mvcc_pull"));
    }
    let partial_prefix = unsigned::<u32>(
        "partial_bootstrap_strategy_prefix",
        config.partial_bootstrap_strategy_prefix,
    )?;
    let query = optional(config.partial_bootstrap_strategy_query)?;
    Ok(DatabaseSyncEngineOpts {
        path: path.to_owned(),
        remote_url: optional(config.remote_url)?,
        client_name: client_name.to_owned(),
        long_poll_timeout_ms: unsigned("long_poll_timeout_ms", config.long_poll_timeout_ms)?,
        bootstrap_if_empty: config.bootstrap_if_empty,
        reserved_bytes: unsigned("reserved_bytes", config.reserved_bytes)?,
        partial_prefix_bytes: u64::from(partial_prefix),
        partial_query: query.filter(|_| partial_prefix == 0),
        remote_encryption_key: optional(config.remote_encryption_key)?,
        remote_encryption_cipher: optional(config.remote_encryption_cipher)?,
        push_operations_threshold: config.push_operations_threshold as u64,
        pull_bytes_threshold: config.pull_bytes_threshold as u64,
        ..DatabaseSyncEngineOpts::default()
    })
}

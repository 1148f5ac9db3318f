//! The built-in driver over the C ABI.

use std::ffi::c_char;

use super::boundary::{Handle, status};
use super::operation::turso_sync_operation_t;
use super::sync_database::turso_sync_database_t;
use super::sync_types::turso_sync_driver_config_t;
use super::types::turso_status_code_t;

/// Runs an operation of `database` to its end, performing its HTTP and file requests itself; blocks the calling thread.
/// Several operations may be run at the same time, in a thread each. Not part of the SDK kit of Turso.
///
/// `config` may be NULL for no token and the default times. Returns DONE; the result is extracted as always. Errors:
/// those of turso_sync_operation_resume, MISUSE for wrong settings, ERROR if the library was built without the driver.
/// Reaching a time limit fails the operation. A request is repeated, `config->attempts` times in all and with pauses, if
/// there was no connection, no answer, or one with status 408, 429, 500, 502, 503 or 504.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_operation_run(
    database: *const turso_sync_database_t,
    operation: *const turso_sync_operation_t,
    config: *const turso_sync_driver_config_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let database = unsafe { turso_sync_database_t::borrow(database) }?;
        // SAFETY: the pointer rules of the header.
        let operation = unsafe { turso_sync_operation_t::borrow(operation) }?;
        // SAFETY: the pointer rules of the header.
        unsafe { built_in::run(database, operation, config) }?;
        Ok(turso_status_code_t::TURSO_DONE)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

#[cfg(feature = "driver")]
mod built_in {
    use super::{turso_sync_database_t, turso_sync_driver_config_t, turso_sync_operation_t};
    use crate::capi::driver_config;
    use crate::driver;
    use crate::error::Result;

    /// # Safety
    /// `config` follows the pointer rules of the header.
    pub(super) unsafe fn run(
        database: &turso_sync_database_t,
        operation: &turso_sync_operation_t,
        config: *const turso_sync_driver_config_t,
    ) -> Result<()> {
        // SAFETY: the same contract.
        let config = unsafe { driver_config::read(config, database.long_poll_timeout_ms) }?;
        let control = operation.control();
        operation.exclusively(|work| driver::run(database.engine.io(), &config, control, || work.resume()))
    }
}

#[cfg(not(feature = "driver"))]
mod built_in {
    use super::{turso_sync_database_t, turso_sync_driver_config_t, turso_sync_operation_t};
    use crate::capi::database::not_supported;
    use crate::error::Result;

    pub(super) unsafe fn run(
        _: &turso_sync_database_t,
        _: &turso_sync_operation_t,
        _: *const turso_sync_driver_config_t,
    ) -> Result<()> {
        Err(not_supported(
            "the built-in driver (this library was built without it)",
        ))
    }
}

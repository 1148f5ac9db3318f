//! Settings of the built-in driver: the C structure becomes a `DriverConfig`.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::boundary::{optional_string_in, versioned_in};
use super::io_item::turso_sync_io_item_t;
use super::sync_types::turso_sync_driver_config_t;
use crate::driver::{Auth, DriverConfig, TransformCallback};
use crate::error::{Error, Result};
use crate::io::IoItem;

/// A function of the caller with its context.
#[derive(Clone, Copy)]
pub(super) struct Callback<F> {
    pub function: F,
    pub context: *mut c_void,
}

// SAFETY: the header says that the function is called in any thread, and that it and its context must be fit for that.
unsafe impl<F: Send> Send for Callback<F> {}
// SAFETY: as above.
unsafe impl<F: Sync> Sync for Callback<F> {}

type TokenFunction = unsafe extern "C" fn(context: *mut c_void) -> *const c_char;

impl Callback<TokenFunction> {
    fn token(&self) -> Result<Option<String>> {
        // SAFETY: the function and its context live as long as the driver uses them, by the contract of the header.
        let token = unsafe { (self.function)(self.context) };
        // SAFETY: NULL or zero-terminated, by the contract of the header; copied before anything else happens.
        let token = unsafe { optional_string_in(token) }.map_err(|e| e.context("auth_token_callback"))?;
        Ok(token.map(str::to_owned))
    }
}

type TransformFunction = unsafe extern "C" fn(context: *mut c_void, item: *const turso_sync_io_item_t);

impl Callback<TransformFunction> {
    fn transform(&self, item: &Arc<IoItem>) -> Result<()> {
        let item = turso_sync_io_item_t { item: item.clone() };
        // SAFETY: the function and its context live as long as the driver uses them, by the contract of the header; the
        // item lives until the function returns.
        unsafe { (self.function)(self.context, &item) };
        Ok(())
    }
}

/// The checked settings; `config` may be NULL for the defaults. `long_poll_timeout_ms` is that of the replica.
///
/// # Safety
/// `config` follows the pointer rules of the header.
pub(super) unsafe fn read(
    config: *const turso_sync_driver_config_t,
    long_poll_timeout_ms: u32,
) -> Result<DriverConfig> {
    let mut read = DriverConfig::default();
    let long_poll = Duration::from_millis(long_poll_timeout_ms.into());
    // SAFETY: the same contract; all fields are numbers and pointers.
    let Some(config) = (unsafe { versioned_in(config) })? else {
        read.timeout += long_poll;
        return Ok(read);
    };
    let string = |s: *const c_char| {
        // SAFETY: NULL or zero-terminated by the contract.
        unsafe { optional_string_in(s) }.map(|s| s.map(str::to_owned))
    };
    read.auth = match (config.auth_token_callback, string(config.auth_token)?) {
        (None, None) => Auth::None,
        (None, Some(token)) => Auth::Fixed(token),
        (Some(function), None) => {
            let callback = Callback {
                function,
                context: config.auth_token_context,
            };
            Auth::Callback(Arc::new(move || callback.token()))
        }
        (Some(_), Some(_)) => {
            return Err(Error::misuse("set auth_token or auth_token_callback, not both"));
        }
    };
    read.base_url = string(config.base_url)?;
    read.proxy = string(config.proxy)?;
    read.ca_file = string(config.ca_file)?;
    read.transform = config.transform_callback.map(|function| {
        let callback = Callback {
            function,
            context: config.transform_context,
        };
        Arc::new(move |item: &Arc<IoItem>| callback.transform(item)) as TransformCallback
    });
    if config.timeout_ms != 0 {
        read.timeout = Duration::from_millis(config.timeout_ms);
    }
    read.timeout = read.timeout.saturating_add(long_poll);
    read.deadline = (config.deadline_ms != 0).then(|| Duration::from_millis(config.deadline_ms));
    if config.attempts != 0 {
        read.attempts = config.attempts;
    }
    Ok(read)
}

//! Keep in sync over the C ABI.

use std::ffi::{c_char, c_void};
use std::ptr;

use super::boundary::{Handle, Out, Versioned, VersionedOut, remember, status, with_last_error};
use super::observe_types::turso_sync_error_t;
use super::sync_database::turso_sync_database_t;
use super::sync_types::turso_sync_driver_config_t;
use super::types::turso_status_code_t;

/// How to keep in sync. Fill it with zeros, set `size`, then set what you need. New fields are only ever appended.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_keep_options_t {
    /// `sizeof(turso_sync_keep_options_t)`.
    pub size: usize,
    /// Time between a commit and its push in milliseconds, so that what is committed together travels together; 0 = 50.
    pub debounce_ms: u64,
    /// Time between two questions in milliseconds while the remote has nothing new and the replica has no long poll
    /// (`long_poll_timeout_ms`); 0 = 10 seconds. With a long poll, changes arrive at once.
    pub interval_ms: u64,
    /// Longest pause after failures in milliseconds; 0 = 60 seconds.
    pub longest_pause_ms: u64,
    /// Called in a thread of the keeper whenever something of the remote was applied; one's own pushed changes count. It
    /// may use the replica, and of the keeper all functions but _pause, _sync_now (MISUSE) and _deinit. NULL = nobody.
    pub on_change: Option<unsafe extern "C" fn(context: *mut c_void)>,
    /// Passed to `on_change`. Must be usable in other threads until turso_sync_keeper_deinit has returned.
    pub on_change_context: *mut c_void,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_keep_options_t {
    const NAME: &str = "turso_sync_keep_options_t";
}

/// What a keeper is doing. Numbers that are not listed are to be treated as RUNNING.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum turso_sync_keeper_state_t {
    /// In sync, or at work.
    TURSO_SYNC_KEEPER_RUNNING = 1,
    /// Paused.
    TURSO_SYNC_KEEPER_PAUSED = 2,
    /// The last push or pull has failed; it will be repeated.
    TURSO_SYNC_KEEPER_RETRYING = 3,
}

/// How keeping in sync goes. Set `size` before the call; new fields are only ever appended.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct turso_sync_keeper_status_t {
    /// `sizeof(turso_sync_keeper_status_t)`.
    pub size: usize,
    /// What it is doing.
    pub state: turso_sync_keeper_state_t,
    /// Status code of the last push, or else the last pull, if it failed; OK if both went well. CONSTRAINT is a conflict,
    /// and category FOREIGN (see turso_sync_keeper_error) what another program has written: pushing goes on as soon as
    /// something changes.
    pub code: turso_status_code_t,
    /// Pushes that have sent something.
    pub pushes: u64,
    /// Times that something of the remote was applied.
    pub pulls: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Milliseconds until the next attempt; 0 if nothing has failed, or if it waits for a change.
    pub retry_in_ms: u64,
}

// SAFETY: repr(C), and begins with `size`.
unsafe impl Versioned for turso_sync_keeper_status_t {
    const NAME: &str = "turso_sync_keeper_status_t";
}

/// Keeps a replica in sync in the background. All functions may be called from any thread at any time.
pub struct turso_sync_keeper_t {
    keeper: built_in::Keeper,
}

impl Handle for turso_sync_keeper_t {}

/// Starts to keep an open replica in sync: it waits for changes of the remote and applies them, and pushes what is committed
/// on connections of this handle. What other processes commit is found when a wait ends. Not part of the SDK kit of Turso.
///
/// The library starts two threads, and one per HTTP request. `config` and `options` may be NULL for the defaults; they are
/// copied, but for callbacks and their contexts. `config->deadline_ms` is for one push or pull. `*keeper` is released with
/// turso_sync_keeper_deinit. It keeps the replica open on its own: `database` may be released before.
///
/// Failures are repeated, with growing pauses of up to a minute; after a conflict, and when another program has written
/// the file, pushing stops until something changes here or on the remote. While others have the replica in use it waits;
/// after some seconds that counts as a failure (BUSY), which is over as soon as they are done. Connections, other operations
/// and the functions for conflicts can be used as always; a push or pull of your own may be BUSY while the keeper is at it:
/// use turso_sync_keeper_sync_now.
///
/// Errors: MISUSE for NULL pointers, wrong settings, and before the replica is open; ERROR if the library was built without
/// the driver.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_keep_in_sync(
    database: *const turso_sync_database_t,
    config: *const turso_sync_driver_config_t,
    options: *const turso_sync_keep_options_t,
    keeper: *mut *const turso_sync_keeper_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let (database, out) = unsafe { (turso_sync_database_t::borrow(database)?, Out::new(keeper)?) };
        // SAFETY: the pointer rules of the header.
        let keeper = unsafe { built_in::start(database, config, options) }?;
        out.put(turso_sync_keeper_t { keeper }.hand_out());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Stops for a while, as a phone must before it suspends a program: cancels what is under way, and returns when nothing is
/// sent any more and no lock is held. It waits for an `on_change` that is running. Nothing is lost. Pausing twice is fine.
/// Not part of the SDK kit of Turso.
///
/// Errors: MISUSE for NULL, and in `on_change`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_keeper_pause(
    keeper: *const turso_sync_keeper_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_sync_keeper_t::borrow(keeper) }?.keeper.pause()?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Goes on after a pause. Not part of the SDK kit of Turso. Errors: MISUSE for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_keeper_resume(keeper: *const turso_sync_keeper_t) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_sync_keeper_t::borrow(keeper) }?.keeper.resume();
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Says that the network has changed or come back: the remote is asked anew at once, whatever has failed before. Returns at
/// once; nothing happens while the keeper is paused. Not part of the SDK kit of Turso. Errors: MISUSE for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_keeper_wake(keeper: *const turso_sync_keeper_t) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_sync_keeper_t::borrow(keeper) }?.keeper.wake();
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Pushes what is pending and fetches what is new; blocks until both are done, or until the first error. The keeper goes on
/// in either case. Not part of the SDK kit of Turso.
///
/// Errors: those of a push or pull; BUSY if others have the replica in use for more than some seconds, such as a transaction
/// that this thread has begun, or an operation that was not finished; MISUSE for NULL, while paused, and in `on_change`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_keeper_sync_now(
    keeper: *const turso_sync_keeper_t,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        unsafe { turso_sync_keeper_t::borrow(keeper) }?
            .keeper
            .sync_now()?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}

/// Tells how keeping in sync goes; never waits. Not part of the SDK kit of Turso. Errors: MISUSE for NULL pointers and a
/// wrong size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_keeper_status(
    keeper: *const turso_sync_keeper_t,
    keeper_status: *mut turso_sync_keeper_status_t,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let keeper = unsafe { turso_sync_keeper_t::borrow(keeper) }?;
        // SAFETY: the pointer rules of the header.
        let out = unsafe { VersionedOut::new(keeper_status) }?;
        out.put(keeper.keeper.status());
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Describes the error that turso_sync_keeper_status tells the code of; `error->code` is OK if there is none. It becomes the
/// last error of this thread (turso_sync_last_error): the message lives until the next failure in this thread. Not part of
/// the SDK kit of Turso. Errors: MISUSE for NULL pointers and a wrong size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_keeper_error(
    keeper: *const turso_sync_keeper_t,
    error: *mut turso_sync_error_t,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let keeper = unsafe { turso_sync_keeper_t::borrow(keeper) }?;
        // SAFETY: the pointer rules of the header.
        let out = unsafe { VersionedOut::new(error) }?;
        match keeper.keeper.error() {
            None => out.put(turso_sync_error_t::of(None)),
            Some(error) => {
                remember(error);
                with_last_error(|last| out.put(turso_sync_error_t::of(last)));
            }
        }
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: NULL is allowed.
    unsafe { status(ptr::null_mut(), body) }
}

/// Stops, and releases the keeper; NULL is fine. Returns when its threads have ended and no callback is called any more. What
/// was under way is cancelled, and nothing is lost. Not in `on_change`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_keeper_deinit(keeper: *const turso_sync_keeper_t) {
    // SAFETY: the pointer rules of the header.
    unsafe { turso_sync_keeper_t::release(keeper) }
}

#[cfg(feature = "driver")]
mod built_in {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::capi::boundary::versioned_in;
    use crate::capi::driver_config::{self, Callback};
    use crate::driver::{KeepInSync, KeepOptions, KeepState};
    use crate::error::{Error, Result};

    pub(super) struct Keeper(KeepInSync);

    type ChangeFunction = unsafe extern "C" fn(context: *mut c_void);

    impl Callback<ChangeFunction> {
        fn call(&self) {
            // SAFETY: the function and its context live until the keeper is released, by the contract of the header.
            unsafe { (self.function)(self.context) }
        }
    }

    /// # Safety
    /// `config` and `options` follow the pointer rules of the header.
    pub(super) unsafe fn start(
        database: &turso_sync_database_t,
        config: *const turso_sync_driver_config_t,
        options: *const turso_sync_keep_options_t,
    ) -> Result<Keeper> {
        // SAFETY: the same contract.
        let config = unsafe { driver_config::read(config, database.long_poll_timeout_ms) }?;
        let mut read = KeepOptions::default();
        // SAFETY: the same contract; all fields are numbers and pointers.
        if let Some(options) = unsafe { versioned_in(options) }? {
            let set = |place: &mut Duration, ms| {
                if ms != 0 {
                    *place = Duration::from_millis(ms);
                }
            };
            set(&mut read.debounce, options.debounce_ms);
            set(&mut read.interval, options.interval_ms);
            set(&mut read.longest_pause, options.longest_pause_ms);
            if let Some(function) = options.on_change {
                let context = options.on_change_context;
                let callback = Callback { function, context };
                read.on_change = Some(Arc::new(move || callback.call()));
            }
        }
        KeepInSync::start(&database.engine, &config, read).map(Keeper)
    }

    impl Keeper {
        pub(super) fn pause(&self) -> Result<()> {
            self.0.pause()
        }

        pub(super) fn resume(&self) {
            self.0.resume();
        }

        pub(super) fn wake(&self) {
            self.0.wake();
        }

        pub(super) fn sync_now(&self) -> Result<()> {
            self.0.sync_now()
        }

        pub(super) fn error(&self) -> Option<Error> {
            self.0.status().error
        }

        pub(super) fn status(&self) -> turso_sync_keeper_status_t {
            let status = self.0.status();
            let retry_in_ms = status.retry_in.map_or(0, |left| left.as_millis());
            turso_sync_keeper_status_t {
                size: size_of::<turso_sync_keeper_status_t>(),
                state: match status.state {
                    KeepState::Running => turso_sync_keeper_state_t::TURSO_SYNC_KEEPER_RUNNING,
                    KeepState::Paused => turso_sync_keeper_state_t::TURSO_SYNC_KEEPER_PAUSED,
                    KeepState::Retrying => turso_sync_keeper_state_t::TURSO_SYNC_KEEPER_RETRYING,
                },
                code: status
                    .error
                    .map_or(turso_status_code_t::TURSO_OK, |e| e.code.into()),
                pushes: status.pushes,
                pulls: status.pulls,
                failures: status.failures,
                retry_in_ms: u64::try_from(retry_in_ms).unwrap_or(u64::MAX),
            }
        }
    }
}

#[cfg(not(feature = "driver"))]
mod built_in {
    use super::*;
    use crate::capi::database::not_supported;
    use crate::error::{Error, Result};

    /// There is none.
    pub(super) enum Keeper {}

    pub(super) unsafe fn start(
        _: &turso_sync_database_t,
        _: *const turso_sync_driver_config_t,
        _: *const turso_sync_keep_options_t,
    ) -> Result<Keeper> {
        Err(not_supported(
            "keep in sync (this library was built without its driver)",
        ))
    }

    impl Keeper {
        pub(super) fn pause(&self) -> Result<()> {
            match *self {}
        }

        pub(super) fn resume(&self) {
            match *self {}
        }

        pub(super) fn wake(&self) {
            match *self {}
        }

        pub(super) fn sync_now(&self) -> Result<()> {
            match *self {}
        }

        pub(super) fn error(&self) -> Option<Error> {
            match *self {}
        }

        pub(super) fn status(&self) -> turso_sync_keeper_status_t {
            match *self {}
        }
    }
}

//! Named fault points: places where a test can let an operation fail or the process die.
//!
//! In builds without `cfg(test)` and without the feature `fault` they are nothing.

use crate::error::Result;

/// Every fault point. Those of the revert file are passed by all that write its slots.
pub const POINTS: [&str; 15] = [
    "apply:after-lock",
    "apply:after-prepare",
    "apply:mid-save",
    "apply:after-save",
    "apply:mid-inject",
    "apply:before-commit",
    "apply:after-commit",
    "revert:before-sync",
    "revert:before-rename",
    "revert:after-rename",
    "checkpoint:mid-save",
    "checkpoint:after-save",
    "checkpoint:after-copy",
    "checkpoint:after-stamp",
    "checkpoint:before-truncate",
];

/// What an armed point does.
#[cfg(any(test, feature = "fault"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Dies like a killed process: nothing is flushed, nothing is cleaned up.
    Abort,
    /// Lets the operation fail with an error.
    Fail,
}

#[cfg(any(test, feature = "fault"))]
thread_local! {
    static ARMED: std::cell::Cell<Option<(&'static str, Action)>> = const { std::cell::Cell::new(None) };
}

/// Arms `point` in this thread; `None` disarms.
#[cfg(any(test, feature = "fault"))]
pub fn arm(point: Option<(&'static str, Action)>) {
    ARMED.set(point);
}

/// Passes the fault point `name`.
#[cfg(any(test, feature = "fault"))]
pub(super) fn point(name: &str) -> Result<()> {
    debug_assert!(POINTS.contains(&name), "unlisted fault point {name}");
    match ARMED.get() {
        Some((armed, Action::Abort)) if armed == name => std::process::abort(),
        Some((armed, Action::Fail)) if armed == name => {
            Err(crate::error::Error::internal(format!("fault point {name}")))
        }
        _ => Ok(()),
    }
}

/// Passes the fault point `name`: nothing in this build.
#[cfg(not(any(test, feature = "fault")))]
#[inline(always)]
pub(super) fn point(_name: &str) -> Result<()> {
    Ok(())
}

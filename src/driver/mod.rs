//! A blocking driver for hosts that want one call instead of a poll loop: HTTP with `ureq`, files with the standard
//! library. [`run`] drives one operation, [`KeepInSync`] keeps a replica in sync in the background.

mod client;
mod keep;
mod keep_state;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::io::{Control, IoItem, OperationStatus, SyncEngineIoQueue, SyncEngineIoRequest};
use crate::transform::{DatabaseRowMutation, DatabaseRowTransformResult};
use client::Client;
pub use keep::{KeepInSync, KeepOptions};
pub use keep_state::{KeepState, KeepStatus};

/// Longest silence of the remote, unless configured.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// As good as for ever; more than the clocks of all systems can add.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often a request is sent, unless configured.
const DEFAULT_ATTEMPTS: u32 = 3;
/// The first pause between two attempts is at most this long, unless configured.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(500);

/// Asked for the token of one HTTP request, in the thread that runs the operation; `None` sends none. An error fails the
/// request.
pub type TokenCallback = Arc<dyn Fn() -> Result<Option<String>> + Send + Sync>;

/// Answers a transform request ([`IoItem::decide`](crate::io::IoItem::decide) for each mutation), in the thread that runs the operation. An error fails
/// the push.
pub type TransformCallback = Arc<dyn Fn(&Arc<IoItem>) -> Result<()> + Send + Sync>;

/// A callback that asks `decide` about one change after the other.
pub fn transform_with(
    decide: impl Fn(&DatabaseRowMutation) -> Result<DatabaseRowTransformResult> + Send + Sync + 'static,
) -> TransformCallback {
    Arc::new(move |item: &Arc<IoItem>| {
        let SyncEngineIoRequest::Transform(mutations) = item.request() else {
            return Err(Error::internal("not a transform request"));
        };
        let mut mutations = mutations.iter().enumerate();
        mutations.try_for_each(|(index, mutation)| item.decide(index, decide(mutation)?))
    })
}

/// What is sent as `Authorization: Bearer <token>`.
#[derive(Clone, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// This token.
    Fixed(String),
    /// Asked before every HTTP request, repeated ones too. After a 401 it is asked once more, and the request is sent
    /// again if the answer differs.
    Callback(TokenCallback),
}

/// How to reach the remote.
#[derive(Clone)]
pub struct DriverConfig {
    /// What the remote is shown.
    pub auth: Auth,
    /// Replaces the base URL of the replica.
    pub base_url: Option<String>,
    /// Longest silence of the remote: time between two pieces of its answer. Longer than the long poll.
    pub timeout: Duration,
    /// Longest time for the whole run.
    pub deadline: Option<Duration>,
    /// How often a request is sent that fails before anything of its answer has been used: no connection, a timeout, and
    /// the statuses 408, 429, 500, 502, 503 and 504. At least 1. Sending again is safe: each push request carries a
    /// guard by which the remote knows the second one.
    pub attempts: u32,
    /// Longest first pause between two attempts. It doubles with each, and a random part of it is waited, but never less
    /// than the remote asks for in `Retry-After`. A pause beyond the deadline (without one: a minute) is not begun; the
    /// run fails then.
    pub backoff: Duration,
    /// URL of a proxy: `http`, `https`, `socks4`, `socks4a`, `socks5` or `socks5h`. The environment is not looked at.
    pub proxy: Option<String>,
    /// PEM file with the certificates that are trusted in place of the built-in ones.
    pub ca_file: Option<String>,
    /// Decides about changes before they are pushed; needed if the replica has `use_transform`.
    pub transform: Option<TransformCallback>,
}

impl Default for DriverConfig {
    fn default() -> Self {
        DriverConfig {
            auth: Auth::None,
            base_url: None,
            timeout: DEFAULT_TIMEOUT,
            deadline: None,
            attempts: DEFAULT_ATTEMPTS,
            backoff: DEFAULT_BACKOFF,
            proxy: None,
            ca_file: None,
            transform: None,
        }
    }
}

/// Calls `resume` until the operation has ended, serving its requests in `queue` in between. `control` is that of the
/// operation: when it is cancelled, this returns at once and the connection is cut. Several operations of one queue may
/// be run at the same time, in a thread each; only those of the same operation are served.
pub fn run(
    queue: &SyncEngineIoQueue,
    config: &DriverConfig,
    control: &Control,
    resume: impl FnMut() -> Result<OperationStatus>,
) -> Result<()> {
    Arc::new(Client::new(config)?).run(queue, control, resume)
}

#[cfg(test)]
mod tests;

//! The bundled sync server: any ordinary SQLite file, or a folder of them, served to replicas.
//!
//! `store` owns a database and takes revisions of it, `history` remembers which page changed at which revision,
//! `wal` finds out from the write-ahead log, `pull` and `sql` answer the two kinds of requests, `direct` and `direct_push`
//! the same in the direct dialect. `databases` opens and closes them, `access` knows who may do what, `address` what a URL
//! means, `http` has the routes, and `net` the connections. All SQLite work runs on threads that may block. `limits` bounds
//! all of it.

mod access;
mod address;
mod databases;
mod direct;
mod direct_push;
mod history;
mod http;
mod limits;
mod local;
mod net;
mod pull;
mod sql;
mod store;
mod wal;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub use access::TokenSource;
use access::Tokens;
use databases::Databases;
use http::Shared;
pub use limits::Limits;
pub use local::LocalServer;

use crate::error::{Category, Code, Error, Result};

/// How often the server looks for idle snapshots, a long log and writers that are not its own.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// How long requests that were cut off may take to notice.
const CUT_LIMIT: Duration = Duration::from_secs(2);

/// What to serve, where, and to whom.
#[derive(Clone, Default)]
pub struct Config {
    /// Address such as `127.0.0.1:8080`; port 0 takes any free one.
    pub address: String,
    /// The database; a temporary one, deleted at the end, if this and `folder` are missing.
    pub database: Option<PathBuf>,
    /// Serves every `NAME.db` in this folder at `/NAME` instead.
    pub folder: Option<PathBuf>,
    /// Databases of the folder that do not exist are made when somebody who may write asks for them.
    pub create: bool,
    /// Tokens that clients must present; anybody may call if there are none.
    pub tokens: TokenSource,
    /// How much of everything a client can have.
    pub limits: Limits,
}

/// A running server; dropping it stops it.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    /// `None` only while stopping.
    runtime: Option<Runtime>,
}

impl Server {
    /// Opens the database, listens and serves on threads of its own. When it returns, requests are answered.
    pub fn start(config: &Config) -> Result<Self> {
        let network = |e: std::io::Error| {
            let text = format!("cannot listen on {}: {e}", config.address);
            Error::new(Category::Network, Code::IoErr, text)
        };
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(share(config, stopping.clone())?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| Error::io("start threads", &e))?;
        let listener = runtime
            .block_on(TcpListener::bind(&config.address))
            .map_err(network)?;
        let address = listener.local_addr().map_err(network)?;
        runtime.spawn(keep_house(shared.clone(), stopping.clone()));
        let serving = runtime.spawn(net::serve(listener, shared.clone(), stopping));
        Ok(Server {
            address,
            stop,
            serving: Some(serving),
            shared,
            runtime: Some(runtime),
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Blocks until the process is told to end (SIGINT, SIGTERM). Calls `ready` as soon as signals are caught:
    /// whoever learns from it that the server runs may send one at once. A second signal ends the process at once.
    /// SIGHUP reads the file of tokens again.
    pub fn wait_for_signal(&self, ready: impl FnOnce()) -> Result<()> {
        let runtime = self
            .runtime
            .as_ref()
            .ok_or_else(|| Error::misuse("the server has been stopped"))?;
        let reload = || match self.shared.tokens.reload() {
            Ok(count) => tracing::info!(count, "tokens have been read again"),
            Err(e) => tracing::error!(error = %e, "the old tokens go on to count"),
        };
        runtime
            .block_on(signals::wait(ready, reload))
            .map_err(|e| Error::io("wait for signals", &e))
    }

    /// Stops: no new connections, long polls are answered, running requests end, and if they take too long are rolled
    /// back; the logs are checkpointed, the files are closed.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        self.stop.send_replace(true);
        if let Some(mut serving) = self.serving.take() {
            runtime.block_on(async {
                let stop_time = self.shared.limits.stop_time;
                if tokio::time::timeout(stop_time, &mut serving).await.is_err() {
                    self.shared.cut.store(true, Ordering::Relaxed);
                    let _ = tokio::time::timeout(CUT_LIMIT, serving).await;
                }
            });
        }
        runtime.shutdown_timeout(CUT_LIMIT);
        self.shared.databases.close_all();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn share(config: &Config, stopping: watch::Receiver<bool>) -> Result<Shared> {
    let limits = &config.limits;
    let cut = Arc::new(AtomicBool::new(false));
    let tokens = Tokens::load(config.tokens.clone(), config.folder.is_some())?;
    let databases = match (&config.folder, &config.database) {
        (Some(_), Some(_)) => return Err(Error::misuse("serve either a database or a folder of them")),
        (Some(folder), None) => Databases::folder(folder, config.create, limits, cut.clone())?,
        (None, path) => Databases::one(path.as_deref(), limits, cut.clone())?,
    };
    Ok(Shared {
        databases: Arc::new(databases),
        tokens,
        limits: limits.clone(),
        stopping,
        cut,
        workers: Arc::new(Semaphore::new(limits.workers)),
    })
}

async fn keep_house(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let complain = |database: &str, e: &Error| {
            tracing::warn!(database, error = %e, "checkpoint failed; it will be tried again");
        };
        shared.databases.keep_house(complain).await;
    }
}

#[cfg(unix)]
mod signals {
    use tokio::signal::unix::{SignalKind, signal};

    /// Waits for SIGTERM or SIGINT; calls `reload` at every SIGHUP.
    pub async fn wait(ready: impl FnOnce(), reload: impl Fn()) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        ready();
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hang_up.recv() => reload(),
            }
        }
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: the default action has no handler that could do anything wrong, and these are signals.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    }
}

#[cfg(not(unix))]
mod signals {
    pub async fn wait(ready: impl FnOnce(), _reload: impl Fn()) -> std::io::Result<()> {
        ready();
        tokio::signal::ctrl_c().await
    }
}

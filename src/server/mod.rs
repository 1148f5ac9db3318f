//! The bundled sync server: any ordinary SQLite file, served to replicas.
//!
//! `store` owns the database and takes revisions of it, `history` remembers which page changed at which
//! revision, `wal` finds out from the write-ahead log, `pull` and `sql` answer the two kinds of requests, `http`
//! connects them to the network. All SQLite work runs on threads that may block.

mod history;
mod http;
mod local;
mod pull;
mod sql;
mod store;
mod wal;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Category, Code, Error, Result};
use http::Shared;
pub use local::LocalServer;
use store::Store;

/// How often the server looks for idle snapshots, a long log and writers that are not its own.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// How long running requests may take to end when the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What to serve, and where.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Address such as `127.0.0.1:8080`; port 0 takes any free one.
    pub address: String,
    /// The database; a temporary one, deleted at the end, if missing.
    pub database: Option<PathBuf>,
    /// Token that clients must present; anybody may call if missing.
    pub auth_token: Option<String>,
}

/// A running server; dropping it stops it.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
    shared: Option<Arc<Shared>>,
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
        let store = Store::open(config.database.as_deref())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| Error::io("start threads", &e))?;
        let listener = runtime
            .block_on(TcpListener::bind(&config.address))
            .map_err(network)?;
        let address = listener.local_addr().map_err(network)?;
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared::new(store, config.auth_token.clone(), stopping.clone()));
        runtime.spawn(keep_house(shared.clone(), stopping.clone()));
        let serving = runtime.spawn(serve(listener, shared.clone(), stopping));
        Ok(Server {
            address,
            stop,
            serving: Some(serving),
            shared: Some(shared),
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
    /// whoever learns from it that the server runs may send one at once.
    pub fn wait_for_signal(&self, ready: impl FnOnce()) -> Result<()> {
        let runtime = self
            .runtime
            .as_ref()
            .ok_or_else(|| Error::misuse("the server has been stopped"))?;
        runtime
            .block_on(signal(ready))
            .map_err(|e| Error::io("wait for signals", &e))
    }

    /// Stops: no new connections, running requests end, the log is checkpointed, the files are closed.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            let _ = runtime.block_on(async { tokio::time::timeout(DRAIN_LIMIT, serving).await });
        }
        runtime.shutdown_timeout(DRAIN_LIMIT);
        if let Some(shared) = self.shared.take() {
            shared.pool.clear();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let stopped = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    if let Err(e) = axum::serve(listener, http::router(shared))
        .with_graceful_shutdown(stopped)
        .await
    {
        tracing::error!(error = %e, "the server ended");
    }
}

async fn keep_house(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    let mut log = shared.store.log_stamp();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let store = shared.store.clone();
        let work = tokio::task::spawn_blocking(move || {
            store.drop_stale();
            if store.wants_checkpoint()
                && let Err(e) = store.checkpoint()
            {
                tracing::warn!(error = %e, "checkpoint failed; it will be tried again");
            }
            store.log_stamp()
        });
        if let Ok(now) = work.await
            && now != log
        {
            log = now;
            shared.committed();
        }
    }
}

#[cfg(unix)]
async fn signal(ready: impl FnOnce()) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    ready();
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn signal(ready: impl FnOnce()) -> std::io::Result<()> {
    ready();
    tokio::signal::ctrl_c().await
}

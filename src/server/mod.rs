//! The bundled sync server: any ordinary SQLite file, or a folder of them, served to replicas.
//!
//! `store` owns a database and takes revisions of it, `history` remembers which page changed at which revision,
//! `wal` finds out from the write-ahead log, `pull` and `sql` answer the two kinds of requests, `direct` and `direct_push`
//! the same in the direct dialect. `databases` opens and closes them, `access` knows who may do what, `address` what a URL
//! means, `http` has the routes, and `net` the connections. All SQLite work runs on threads that may block. `limits` bounds
//! all of it: `patience` with slow senders and takers, `outgoing` what waits for them. `observe` follows each request, for
//! the `log` and the `metrics`.

mod access;
mod address;
mod databases;
mod direct;
mod direct_push;
mod history;
mod http;
mod limits;
mod local;
mod log;
mod metrics;
mod net;
mod observe;
mod outgoing;
mod patience;
mod pull;
mod sql;
mod store;
mod wal;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use log::Log;
pub use log::{Level, LogOptions};
use metrics::Metrics;
use outgoing::Budget;

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
    /// What is logged on the standard error output; nothing by default.
    pub log: LogOptions,
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
        limit_memory(config.limits.sqlite_memory)?;
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
        announce(config, &shared, address);
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
        let log = &self.shared.log;
        let reload = || match self.shared.tokens.reload() {
            Ok(count) => log.line(
                Level::Info,
                "tokens have been read again",
                &[("count", count.into())],
            ),
            Err(e) => log.warn("tokens cannot be read; the old ones go on to count", &e),
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
        let log = &self.shared.log;
        log.line(Level::Info, "stopping", &[]);
        self.stop.send_replace(true);
        if let Some(mut serving) = self.serving.take() {
            runtime.block_on(async {
                let stop_time = self.shared.limits.stop_time;
                if tokio::time::timeout(stop_time, &mut serving).await.is_err() {
                    log.line(Level::Warn, "requests that still run are cut off", &[]);
                    self.shared.cut.store(true, Ordering::Relaxed);
                    let _ = tokio::time::timeout(CUT_LIMIT, serving).await;
                }
            });
        }
        runtime.shutdown_timeout(CUT_LIMIT);
        self.shared.databases.close_all();
        log.line(Level::Info, "stopped", &[]);
        log.finish(CUT_LIMIT);
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
        bodies: Budget::new(limits.bodies as u64),
        spool: Budget::new(limits.spool),
        log: Log::start(config.log),
        metrics: Metrics::default(),
        run: uuid::Uuid::new_v4().as_fields().0,
        request_no: AtomicU64::new(1),
    })
}

/// The first lines of the log.
fn announce(config: &Config, shared: &Shared, address: SocketAddr) {
    let what = match (&config.folder, &config.database) {
        (Some(path), _) | (None, Some(path)) => path.display().to_string(),
        (None, None) => "a temporary database".to_owned(),
    };
    let fields = [("address", address.to_string().into()), ("serves", what.into())];
    shared.log.line(Level::Info, "started", &fields);
    if shared.tokens.none() && !address.ip().is_loopback() {
        let text = "there are no tokens: whoever reaches the address may read and write";
        shared.log.line(Level::Warn, text, &[]);
    }
}

/// Limits what SQLite may use in the whole process.
fn limit_memory(bytes: u64) -> Result<()> {
    if bytes > 0 {
        let conn = rusqlite::Connection::open_in_memory()?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        conn.query_row(&format!("PRAGMA hard_heap_limit = {bytes}"), [], |_| Ok(()))?;
    }
    Ok(())
}

/// Lets the process open as many files as the system allows. A connection needs one, an open database some dozen.
pub fn allow_many_files() {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: both calls get a valid pointer to a limit, and change no memory but that.
        unsafe {
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
        }
    }
}

async fn keep_house(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let log = shared.clone();
        let complain = move |database: &str, e: &Error| {
            let fields = [("db", database.into()), ("error", e.to_string().into())];
            log.log.line(
                Level::Warn,
                "a checkpoint failed and will be tried again",
                &fields,
            );
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

//! Connections: accepted, counted, served, and ended when the server stops.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::http::{self, Shared};
use super::limits::Limits;
use super::log::Level;
use super::patience::Stream;

/// Bytes of a request's head, and buffered bytes of a body, per connection.
const BUFFER_LEN: usize = 64 << 10;
/// Pause after a failure to accept: most likely there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a connection too many is told.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Length: 21\r\n\r\ntoo many connections\n";

/// Accepts connections until the server stops; returns when the last one has ended.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let counts = Arc::new(Counts::default());
    let router = http::router(shared.clone());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                shared.log.warn("cannot accept a connection", &e);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Counted::new(&counts, peer, &shared.limits) {
            Some(counted) => {
                shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
                let open = shared.metrics.open.enter();
                let serving = connection(stream, router.clone(), shared.clone());
                connections.spawn(async move {
                    let _counted = (counted, open);
                    serving.await;
                });
            }
            None => {
                shared.metrics.refused.fetch_add(1, Ordering::Relaxed);
                // A fresh socket has room for it; whoever cannot be told even that is closed all the same.
                let _ = stream.try_write(TOO_MANY);
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, router: Router, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let metrics = &shared.metrics;
    let stream = Stream::new(
        stream,
        &shared.limits,
        metrics.received.clone(),
        metrics.sent.clone(),
    );
    let mut stopping = shared.stopping.clone();
    let stopped = async move { drop(stopping.wait_for(|stop| *stop).await) };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.header_time)
        .max_buf_size(BUFFER_LEN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = ended {
        let fields = [("error", e.to_string().into())];
        shared.log.line(Level::Debug, "a connection has ended", &fields);
    }
}

/// Open connections, in all and by address.
#[derive(Default)]
struct Counts(Mutex<HashMap<IpAddr, usize>>);

/// One open connection.
struct Counted {
    counts: Arc<Counts>,
    address: IpAddr,
}

impl Counted {
    /// `None` if there are too many.
    fn new(counts: &Arc<Counts>, peer: SocketAddr, limits: &Limits) -> Option<Self> {
        let address = peer.ip().to_canonical();
        let mut all = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = all.values().sum();
        let from_here = all.entry(address).or_default();
        if total >= limits.connections || *from_here >= limits.connections_per_address {
            if *from_here == 0 {
                all.remove(&address);
            }
            return None;
        }
        *from_here += 1;
        Some(Counted {
            counts: counts.clone(),
            address,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}

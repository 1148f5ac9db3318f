//! What is known about each request: a line in the log and figures, at its end, however it ends.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use hyper::body::{Body as _, Frame, SizeHint};

use super::http::Shared;
use super::log::Level;
use super::metrics::Inside;

/// Status in the log if the client went away before there was one.
const GONE: u16 = 499;
/// Paths that are counted under their own name.
const ROUTES: [&str; 7] = [
    "/",
    "/health",
    "/health/ready",
    "/metrics",
    "/pull-updates",
    "/push-changes",
    "/v2/pipeline",
];

/// One request. The line is written when the last holder lets go of it.
pub struct Trace {
    shared: Arc<Shared>,
    id: String,
    begin: Instant,
    database: String,
    method: Method,
    route: &'static str,
    status: OnceLock<u16>,
    received: AtomicU64,
    sent: AtomicU64,
    /// Length of the answer's body, if it is known beforehand.
    expected: OnceLock<u64>,
    /// The whole answer has been handed to the network.
    complete: OnceLock<()>,
    held_us: AtomicU64,
}

impl Trace {
    /// A request for `path` below `database` begins.
    pub fn begin(shared: &Arc<Shared>, method: &Method, database: &str, path: &str) -> Arc<Self> {
        let no = shared.request_no.fetch_add(1, Ordering::Relaxed);
        Arc::new(Trace {
            shared: shared.clone(),
            id: format!("{:08x}-{no:x}", shared.run),
            begin: Instant::now(),
            database: database.to_owned(),
            method: method.clone(),
            // Only known routes: another path may hold anything.
            route: ROUTES.into_iter().find(|route| *route == path).unwrap_or("other"),
            status: OnceLock::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            expected: OnceLock::new(),
            complete: OnceLock::new(),
            held_us: AtomicU64::new(0),
        })
    }

    /// The request is held from now on, until the result is dropped.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held {
            trace: self.clone(),
            begin: Instant::now(),
            _waiting: self.shared.metrics.waiting.enter(),
        }
    }

    /// Counts the bytes of the body as they come.
    pub fn incoming(self: &Arc<Self>, request: Request) -> Request {
        request.map(|body| {
            Body::new(Counted {
                body,
                trace: self.clone(),
                outgoing: false,
            })
        })
    }

    /// Counts the bytes of the answer as they go, and gives it the request's id.
    pub fn outgoing(self: &Arc<Self>, mut response: Response) -> Response {
        let _ = self.status.set(response.status().as_u16());
        if let Ok(id) = HeaderValue::try_from(self.id.as_str()) {
            response.headers_mut().insert("x-request-id", id);
        }
        if let Some(fault) = response.extensions().get::<Fault>() {
            let fields = [
                ("id", self.id.as_str().into()),
                ("error", fault.0.as_str().into()),
            ];
            self.shared.log.line(Level::Error, "a request failed", &fields);
        }
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse().ok());
        if let Some(length) = length.or(response.body().size_hint().exact()) {
            let _ = self.expected.set(length);
        }
        response.map(|body| {
            Body::new(Counted {
                body,
                trace: self.clone(),
                outgoing: true,
            })
        })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let (total, status) = (self.begin.elapsed(), *self.status.get().unwrap_or(&GONE));
        let held = Duration::from_micros(self.held_us.load(Ordering::Relaxed));
        self.shared
            .metrics
            .request(self.route, status, total.saturating_sub(held));
        if !self.shared.log.takes(Level::Info) {
            return;
        }
        let ms = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
        let mut fields = vec![
            ("id", self.id.as_str().into()),
            ("db", self.database.as_str().into()),
            ("method", self.method.as_str().into()),
            ("path", self.route.into()),
            ("status", status.into()),
            ("in", self.received.load(Ordering::Relaxed).into()),
            ("out", self.sent.load(Ordering::Relaxed).into()),
            ("ms", ms(total).into()),
        ];
        if !held.is_zero() {
            fields.push(("held_ms", ms(held).into()));
        }
        let sent = self.sent.load(Ordering::Relaxed);
        let whole = self.expected.get().is_some_and(|expected| sent >= *expected);
        if !whole && self.complete.get().is_none() {
            fields.push(("cut", true.into()));
        }
        self.shared.log.line(Level::Info, "request", &fields);
    }
}

/// A pull that waits.
pub struct Held {
    trace: Arc<Trace>,
    begin: Instant,
    _waiting: Inside,
}

impl Drop for Held {
    fn drop(&mut self) {
        let us = u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.trace.held_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// In an answer: what went wrong in the server.
#[derive(Clone)]
pub struct Fault(pub String);

/// A body whose bytes are counted.
struct Counted {
    body: Body,
    trace: Arc<Trace>,
    outgoing: bool,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let counter = match self.outgoing {
            true => &self.trace.sent,
            false => &self.trace.received,
        };
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        if self.outgoing && matches!(frame, Poll::Ready(None)) {
            let _ = self.trace.complete.set(());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! The queue of requests between the engine and the host.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::control::Control;
use crate::error::{Category, Code, Error, Result};
use crate::transform::{DatabaseRowMutation, DatabaseRowTransformResult};

/// Longest answer that is kept whole, in bytes: a file, or the body of a request without a [`BodySink`].
pub const MAX_WHOLE_ANSWER: usize = 1 << 20;
/// Longest part of an error answer's body that is kept for the message, in bytes.
const MAX_ERROR_BODY: usize = 4 << 10;

/// One HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Base URL known to the replica, scheme already `http` or `https`; `None` if the host alone knows it.
    pub url: Option<String>,
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Absolute path to append to the base URL, starting with `/`.
    pub path: String,
    /// Headers that the library needs; the host adds its own (such as `authorization`).
    pub headers: Vec<(String, String)>,
    /// Request body; may be empty.
    pub body: Vec<u8>,
}

/// What a host may be asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum SyncEngineIoRequest {
    /// Send an HTTP request: report the status, then the body in any number of pieces, then done. A body that
    /// was cut short must be failed, not finished.
    Http(HttpRequest),
    /// Read a whole file; a missing file is an empty answer.
    FullRead {
        /// Path of the file.
        path: String,
    },
    /// Replace a whole file atomically and durably: write a temporary file beside it under a unique name, fsync
    /// it, rename it over `path`, fsync the directory, then done.
    FullWrite {
        /// Path of the file.
        path: String,
        /// The new content.
        content: Vec<u8>,
    },
    /// Decide about each of these changes with [`IoItem::decide`], then done. Only with the option `use_transform`.
    Transform(Vec<DatabaseRowMutation>),
}

/// Receives the body of a successful answer piece by piece, in the host's thread, so that a body of any size
/// needs no memory. An error ends the request with that error.
pub type BodySink = Box<dyn FnMut(&[u8]) -> Result<()> + Send>;

/// A finished answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Response {
    /// HTTP status; 0 for file requests.
    pub status: u16,
    /// The body, unless a sink consumed it.
    pub body: Vec<u8>,
    /// How long the remote asked to wait before the next attempt, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// For a transform request: what was decided, in the order of the mutations.
    pub decisions: Vec<DatabaseRowTransformResult>,
}

/// What the engine needs from the outside world; the tests' simulator and the queue implement it.
pub trait SyncEngineIo: Send + Sync {
    /// Sends an HTTP request. With a sink, the body of a 200 answer goes there and not into the response.
    fn http(&self, request: HttpRequest, sink: Option<BodySink>) -> Pending;
    /// Reads a whole file; absent and empty are the same.
    fn full_read(&self, path: &str) -> Pending;
    /// Replaces a whole file atomically and durably.
    fn full_write(&self, path: &str, content: Vec<u8>) -> Pending;
    /// Has the host decide about changes.
    fn transform(&self, mutations: Vec<DatabaseRowMutation>) -> Pending;
}

struct State {
    response: Response,
    /// Of a transform request, by mutation; all there once it is done.
    decisions: Vec<Option<DatabaseRowTransformResult>>,
    sink: Option<BodySink>,
    outcome: Option<Result<()>>,
}

impl State {
    /// Moves the decisions into the response. Whoever forgets one may have wanted to keep it from the remote.
    fn take_decisions(&mut self) -> Result<()> {
        if let Some(index) = self.decisions.iter().position(Option::is_none) {
            return Err(Error::misuse(format!(
                "the host has not decided about mutation {index} of {}",
                self.decisions.len()
            )));
        }
        self.response.decisions = std::mem::take(&mut self.decisions)
            .into_iter()
            .flatten()
            .collect();
        Ok(())
    }
}

struct Completion {
    state: Mutex<State>,
    received: Arc<AtomicU64>,
}

impl Completion {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a sink must not take the whole replica down with it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, outcome: Result<()>) {
        let mut state = self.lock();
        if state.outcome.is_none() {
            state.outcome = Some(outcome);
            state.sink = None;
        }
    }
}

/// A request taken from the queue. Dropping it without an answer fails the request.
pub struct IoItem {
    request: SyncEngineIoRequest,
    completion: Arc<Completion>,
    /// The operation that waits for it, if it was made for one.
    owner: Option<Arc<Control>>,
}

impl IoItem {
    /// What to do.
    pub fn request(&self) -> &SyncEngineIoRequest {
        &self.request
    }

    /// Reports the HTTP status; before the first piece of the body.
    pub fn status(&self, status: u16) {
        let mut state = self.completion.lock();
        if state.outcome.is_none() {
            state.response.status = status;
        }
    }

    /// Reports a header of the answer; names in any case. Only `retry-after` in seconds means something to the library.
    pub fn header(&self, name: &str, value: &str) {
        if name.eq_ignore_ascii_case("retry-after")
            && let Ok(seconds) = value.trim().parse::<u32>()
        {
            self.completion.lock().response.retry_after_ms = Some(u64::from(seconds) * 1000);
        }
    }

    /// Feeds one piece of the answer; the bytes are consumed before this returns.
    pub fn push_buffer(&self, bytes: &[u8]) {
        let is_http = matches!(self.request, SyncEngineIoRequest::Http(_));
        if is_http {
            self.completion
                .received
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        let mut guard = self.completion.lock();
        let state = &mut *guard;
        if state.outcome.is_some() {
            return;
        }
        let failed_answer = is_http && state.response.status != 200;
        let result = match (&mut state.sink, failed_answer) {
            (Some(sink), false) => sink(bytes),
            (_, true) => {
                let room = MAX_ERROR_BODY.saturating_sub(state.response.body.len());
                state
                    .response
                    .body
                    .extend_from_slice(&bytes[..bytes.len().min(room)]);
                if bytes.len() > room {
                    // The rest of an explanation explains nothing, and may have no end.
                    state.outcome = Some(Ok(()));
                }
                Ok(())
            }
            (None, false) if state.response.body.len() + bytes.len() > MAX_WHOLE_ANSWER => Err(
                Error::protocol(format!("answer is longer than {MAX_WHOLE_ANSWER} bytes")),
            ),
            (None, false) => {
                state.response.body.extend_from_slice(bytes);
                Ok(())
            }
        };
        if let Err(e) = result {
            state.outcome = Some(Err(e));
            state.sink = None;
        }
    }

    /// Decides about the mutation at `index` of a transform request; a later word replaces an earlier one. A rewrite that
    /// could not be sent is refused, and nothing is decided then.
    pub fn decide(&self, index: usize, decision: DatabaseRowTransformResult) -> Result<()> {
        if !matches!(self.request, SyncEngineIoRequest::Transform(_)) {
            return Err(Error::misuse("the request is of another kind"));
        }
        if let DatabaseRowTransformResult::Rewrite(statement) = &decision {
            statement.check()?;
        }
        let mut state = self.completion.lock();
        let place = state.decisions.get_mut(index);
        *place.ok_or_else(|| Error::misuse("the index of the mutation is out of range"))? = Some(decision);
        Ok(())
    }

    /// False once nobody needs the rest of the answer: it was refused, or the operation is gone. A host that reads a
    /// body should look, because a body may have no end.
    pub fn is_wanted(&self) -> bool {
        self.completion.lock().outcome.is_none()
    }

    /// Fails the request with the host's explanation; the operation ends with a retryable network error.
    pub fn poison(&self, message: &str) {
        let category = match self.request {
            SyncEngineIoRequest::Http(_) => Category::Network,
            SyncEngineIoRequest::Transform(_) => Category::Usage,
            _ => Category::Storage,
        };
        let text = if message.is_empty() {
            "the host failed the request without saying why"
        } else {
            message
        };
        self.fail(Error::new(category, Code::Error, text).retry());
    }

    /// Fails the request with an error that says more than a message could; the operation ends with it.
    pub fn fail(&self, error: Error) {
        self.completion.finish(Err(error));
    }

    /// The answer is complete. A transform request fails if there is a mutation that nothing was decided about.
    pub fn done(&self) {
        let decided = self.completion.lock().take_decisions();
        self.completion.finish(decided);
    }
}

impl Drop for IoItem {
    fn drop(&mut self) {
        self.poison("the host dropped the request without an answer");
    }
}

/// The answer to come; a future. Dropping it abandons the request: its sink is closed and late data is ignored.
pub struct Pending(Arc<Completion>);

impl Future for Pending {
    type Output = Result<Response>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match state.outcome.clone() {
            None => Poll::Pending,
            Some(Ok(())) => Poll::Ready(Ok(std::mem::take(&mut state.response))),
            Some(Err(e)) => Poll::Ready(Err(e)),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.finish(Err(Error::cancelled()));
    }
}

/// Requests waiting for the host, first in, first out. Cheap to clone; all clones are the same queue.
#[derive(Clone, Default)]
pub struct SyncEngineIoQueue {
    items: Arc<Mutex<VecDeque<IoItem>>>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    /// To whom the requests belong that are put in here.
    owner: Option<Arc<Control>>,
}

impl SyncEngineIoQueue {
    /// The same queue; requests that are put in through it belong to the operation of `control`.
    pub fn of(&self, control: &Arc<Control>) -> Self {
        SyncEngineIoQueue {
            owner: Some(control.clone()),
            ..self.clone()
        }
    }

    /// The next request, or `None` if there is nothing to do. Requests whose operation is gone are skipped, and so are
    /// those that a driver serves.
    pub fn take_item(&self) -> Option<IoItem> {
        self.take(|owner| owner.is_none_or(|owner| !owner.is_driven()))
    }

    /// The next request of the operation of `control`; those that belong to nobody count as well.
    pub fn take_item_of(&self, control: &Control) -> Option<IoItem> {
        self.take(|owner| owner.is_none_or(|owner| std::ptr::eq(owner, control)))
    }

    fn take(&self, is_mine: impl Fn(Option<&Control>) -> bool) -> Option<IoItem> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.retain(IoItem::is_wanted);
        let at = items.iter().position(|item| is_mine(item.owner.as_deref()))?;
        items.remove(at)
    }

    /// Bytes of request and answer bodies so far: (sent, received).
    pub fn network_bytes(&self) -> (u64, u64) {
        (
            self.sent.load(Ordering::Relaxed),
            self.received.load(Ordering::Relaxed),
        )
    }

    fn submit(&self, request: SyncEngineIoRequest, sink: Option<BodySink>) -> Pending {
        if let SyncEngineIoRequest::Http(http) = &request {
            self.sent.fetch_add(http.body.len() as u64, Ordering::Relaxed);
        }
        let mutations = match &request {
            SyncEngineIoRequest::Transform(mutations) => mutations.len(),
            _ => 0,
        };
        let completion = Arc::new(Completion {
            state: Mutex::new(State {
                response: Response::default(),
                decisions: vec![None; mutations],
                sink,
                outcome: None,
            }),
            received: self.received.clone(),
        });
        let item = IoItem {
            request,
            completion: completion.clone(),
            owner: self.owner.clone(),
        };
        self.items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(item);
        Pending(completion)
    }
}

impl SyncEngineIo for SyncEngineIoQueue {
    fn http(&self, request: HttpRequest, sink: Option<BodySink>) -> Pending {
        self.submit(SyncEngineIoRequest::Http(request), sink)
    }

    fn full_read(&self, path: &str) -> Pending {
        self.submit(
            SyncEngineIoRequest::FullRead {
                path: path.to_owned(),
            },
            None,
        )
    }

    fn full_write(&self, path: &str, content: Vec<u8>) -> Pending {
        self.submit(
            SyncEngineIoRequest::FullWrite {
                path: path.to_owned(),
                content,
            },
            None,
        )
    }

    fn transform(&self, mutations: Vec<DatabaseRowMutation>) -> Pending {
        self.submit(SyncEngineIoRequest::Transform(mutations), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn poll(p: &mut Pending) -> Poll<Result<Response>> {
        Pin::new(p).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn get() -> HttpRequest {
        HttpRequest {
            url: None,
            method: "GET",
            path: "/".into(),
            headers: vec![],
            body: vec![1, 2, 3],
        }
    }

    #[test]
    fn an_answer_arrives_in_pieces() {
        let q = SyncEngineIoQueue::default();
        let mut p = q.http(get(), None);
        assert!(poll(&mut p).is_pending());
        let item = q.take_item().unwrap();
        assert!(q.take_item().is_none());
        item.status(200);
        item.push_buffer(b"ab");
        item.push_buffer(b"c");
        assert!(poll(&mut p).is_pending());
        item.done();
        item.push_buffer(b"late");
        item.status(500);
        assert_eq!(
            poll(&mut p),
            Poll::Ready(Ok(Response {
                status: 200,
                body: b"abc".to_vec(),
                ..Response::default()
            }))
        );
        assert_eq!(q.network_bytes(), (3, 7));
    }

    #[test]
    fn a_sink_sees_only_good_bodies_and_can_refuse() {
        let q = SyncEngineIoQueue::default();
        let mut p = q.http(get(), Some(Box::new(|_| Err(Error::protocol("no")))));
        let item = q.take_item().unwrap();
        item.status(500);
        item.push_buffer(b"oops");
        item.done();
        assert_eq!(
            poll(&mut p),
            Poll::Ready(Ok(Response {
                status: 500,
                body: b"oops".to_vec(),
                ..Response::default()
            }))
        );

        let mut p = q.http(get(), Some(Box::new(|_| Err(Error::protocol("no")))));
        let item = q.take_item().unwrap();
        item.status(200);
        item.push_buffer(b"x");
        item.done();
        assert!(matches!(poll(&mut p), Poll::Ready(Err(e)) if e.message == "no"));
    }

    #[test]
    fn operations_with_a_driver_keep_their_requests() {
        let q = SyncEngineIoQueue::default();
        let (driven, other) = (Arc::<Control>::default(), Arc::<Control>::default());
        let serving = driven.drive();
        let _first = q.of(&driven).full_read("first");
        let _second = q.of(&other).full_read("second");
        let _third = q.full_read("third");
        let path = |item: Option<IoItem>| match item?.request() {
            SyncEngineIoRequest::FullRead { path } => Some(path.clone()),
            _ => None,
        };
        assert_eq!(path(q.take_item()).as_deref(), Some("second"));
        assert_eq!(path(q.take_item_of(&other)).as_deref(), Some("third"));
        assert_eq!(path(q.take_item_of(&other)), None);
        assert_eq!(path(q.take_item()), None);
        drop(serving);
        assert_eq!(path(q.take_item()).as_deref(), Some("first"));
    }

    #[test]
    fn a_dropped_item_fails_and_a_dropped_operation_takes_its_requests_along() {
        let q = SyncEngineIoQueue::default();
        let mut p = q.full_read("x");
        drop(q.take_item());
        assert!(matches!(poll(&mut p), Poll::Ready(Err(e)) if e.retryable));
        drop(q.full_read("y"));
        assert!(q.take_item().is_none());
    }
}

//! The routes, and the passage between async requests and blocking SQLite work.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt;

use super::access::{Access, Denied, Tokens};
use super::address::{Target, locate};
use super::databases::{Database, Databases};
use super::direct;
use super::limits::Limits;
use super::log::Log;
use super::metrics::Metrics;
use super::observe::{Fault, Trace};
use super::outgoing::{self, Budget, Share};
use super::patience::Patience;
use super::pull::{self, Answer};
use crate::error::{Code, Error};
use crate::protocol::pipeline::PipelineRequest;
use crate::protocol::pull::{PullUpdatesRequest, decode_request};
use crate::protocol::selector::MAX_SELECTOR_LEN;

/// Longest pull request accepted, in bytes: a selector and some strings.
const MAX_PULL_BODY: usize = MAX_SELECTOR_LEN + (64 << 10);
/// Up to this many bytes a body does not count as long.
const SHORT_BODY: usize = 64 << 10;
/// How much of a body that is too long is read before the connection is closed, in bytes.
const MAX_SURPLUS: usize = 64 << 20;

/// What all requests share.
pub struct Shared {
    pub databases: Arc<Databases>,
    pub tokens: Tokens,
    pub limits: Limits,
    /// Becomes true when the server stops.
    pub stopping: watch::Receiver<bool>,
    /// Becomes true when what still runs must end.
    pub cut: Arc<AtomicBool>,
    /// Requests that do SQLite work at the same time.
    pub workers: Arc<Semaphore>,
    /// Bytes of long bodies in memory.
    pub bodies: Arc<Budget>,
    /// Bytes of answers in files.
    pub spool: Arc<Budget>,
    pub log: Log,
    pub metrics: Metrics,
    /// Random; the first part of the ids of requests.
    pub run: u32,
    /// The second part.
    pub request_no: AtomicU64,
}

/// A request that has been let in, and the database that it is about.
pub struct Call {
    pub shared: Arc<Shared>,
    pub database: Arc<Database>,
    /// At least [`Access::Read`].
    pub access: Access,
    /// What is remembered of it.
    pub trace: Arc<Trace>,
    /// The part of its body that counts as long.
    share: Mutex<Share>,
}

/// An answer other than 200.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    /// 400.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Refusal {
            status: StatusCode::BAD_REQUEST,
            text: text.into(),
        }
    }

    /// 409: what the client has and what the server has do not fit together.
    pub fn conflict(text: impl Into<String>) -> Self {
        Refusal {
            status: StatusCode::CONFLICT,
            text: text.into(),
        }
    }

    /// 403: the client is known, but may not do this.
    pub fn forbidden(text: impl Into<String>) -> Self {
        Refusal {
            status: StatusCode::FORBIDDEN,
            text: text.into(),
        }
    }

    /// 404.
    pub fn not_found(text: impl Into<String>) -> Self {
        Refusal {
            status: StatusCode::NOT_FOUND,
            text: text.into(),
        }
    }

    /// 408.
    fn too_slow() -> Self {
        Refusal {
            status: StatusCode::REQUEST_TIMEOUT,
            text: "the request comes too slowly".to_owned(),
        }
    }

    /// 503: it may work later.
    pub fn busy(text: impl Into<String>) -> Self {
        Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            text: text.into(),
        }
    }

    /// HTTP status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Body of the answer.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// 500.
    pub fn internal(text: impl std::fmt::Display) -> Self {
        let text = format!("Internal Server Error: {text}");
        Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            text,
        }
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        match e.code {
            Code::Busy => Refusal::busy(e.message),
            _ => Refusal::internal(e),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let fault = (self.status == StatusCode::INTERNAL_SERVER_ERROR).then(|| Fault(self.text.clone()));
        let mut response = (self.status, self.text).into_response();
        fault.map(|fault| response.extensions_mut().insert(fault));
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// The routes. Those of a database are the same for every database: [`enter`] has taken its name away.
pub fn router(shared: Arc<Shared>) -> Router {
    let of_a_database = Router::new()
        .route("/pull-updates", post(pull_updates).get(direct::pull_updates))
        .route("/push-changes", post(direct::push_changes))
        .route("/v2/pipeline", post(pipeline))
        .route_layer(from_fn_with_state(shared.clone(), admit));
    let routes = of_a_database
        .route("/", get(|| async { "turso-sync-server\n" }))
        .route("/health", get(|| async { "ok\n" }))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(any(not_found))
        .method_not_allowed_fallback(not_found)
        .layer(from_fn(cors))
        .with_state(shared.clone());
    // What comes before the choice of a route needs a router around the others.
    Router::new()
        .fallback_service(routes)
        .layer(from_fn_with_state(shared, enter))
}

async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "Not Found")
}

/// Answers preflights and lets web pages of any origin call.
async fn cors(request: Request, next: Next) -> Response {
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    let headers: [(HeaderName, &'static str); 4] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*, Authorization"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "*"),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether requests have a chance.
async fn ready(State(shared): State<Arc<Shared>>) -> Result<&'static str, Refusal> {
    if *shared.stopping.borrow() {
        return Err(Refusal::busy("the server stops"));
    }
    let databases = shared.databases.clone();
    let checked = spawn_blocking(move || databases.check());
    checked.await.map_err(Refusal::internal)??;
    Ok("ready\n")
}

async fn metrics(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refusal> {
    // Any token that is not for certain databases only will do.
    shared.tokens.access(request.headers(), None).map_err(denied)?;
    let page = spawn_blocking(move || {
        let databases: Vec<_> = shared.databases.open_ones().iter().map(|d| d.figures()).collect();
        shared
            .metrics
            .page(&databases, shared.spool.used(), shared.bodies.used())
    });
    let page = page.await.map_err(Refusal::internal)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response())
}

fn denied(why: Denied) -> Refusal {
    match why {
        Denied::TooLittle => Refusal::forbidden("the token is not for this"),
        Denied::Unknown => Refusal {
            status: StatusCode::UNAUTHORIZED,
            text: "Unauthorized".to_owned(),
        },
    }
}

/// Finds out which database is meant, leaves the path below it, and remembers what becomes of the request.
async fn enter(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|v| v.to_str().ok());
    let (target, uri) = locate(request.uri(), host, shared.databases.named());
    let trace = Trace::begin(&shared, request.method(), &target.0, uri.path());
    *request.uri_mut() = uri;
    request.extensions_mut().insert(target);
    request.extensions_mut().insert(trace.clone());
    let response = next.run(trace.incoming(request)).await;
    trace.outgoing(response)
}

/// Lets requests with the right token through to the database, which is opened for them.
async fn admit(
    State(shared): State<Arc<Shared>>,
    Extension(target): Extension<Target>,
    Extension(trace): Extension<Arc<Trace>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let access = shared.tokens.access(request.headers(), Some(&target.0));
    let access = access
        .and_then(|access| {
            Some(access)
                .filter(|a| *a >= Access::Read)
                .ok_or(Denied::TooLittle)
        })
        .map_err(denied)?;
    let may_create = access >= Access::Write;
    let database = shared.databases.get(&target.0, may_create).await?;
    let share = Mutex::new(Share::of(&shared.bodies));
    request.extensions_mut().insert(Arc::new(Call {
        trace,
        share,
        shared,
        database,
        access,
    }));
    Ok(next.run(request).await)
}

/// The whole body, unless it is longer than `limit`, comes too slowly, or there is no memory for it.
pub(super) async fn body_of(call: &Call, request: Request, limit: usize) -> Result<Vec<u8>, Refusal> {
    let limits = &call.shared.limits;
    let mut patience = Patience::new(limits);
    let mut pieces = request.into_body().into_data_stream();
    let (mut body, mut surplus, mut refused) = (Vec::new(), 0, None);
    loop {
        let next = timeout_at(patience.wait(), pieces.next()).await;
        let Some(piece) = next.map_err(|_| Refusal::too_slow())? else {
            break;
        };
        let piece =
            piece.map_err(|e| Refusal::bad_request(format!("the request body is incomplete: {e}")))?;
        patience.moved(piece.len());
        if refused.is_none() {
            match call.room_for(body.len(), piece.len(), limit) {
                Ok(()) => body.extend_from_slice(&piece),
                Err(e) => (body, refused) = (Vec::new(), Some(e)),
            }
            continue;
        }
        // A client that is still sending does not see the answer: take a while what it sends.
        surplus += piece.len();
        if surplus > MAX_SURPLUS {
            break;
        }
    }
    refused.map_or(Ok(body), Err)
}

impl Call {
    /// Counts `more` bytes of the body, of which there are `len` so far.
    fn room_for(&self, len: usize, more: usize, limit: usize) -> Result<(), Refusal> {
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = if len + more > limit {
            Refusal {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                text: format!("the request body is longer than {limit} bytes"),
            }
        } else if len + more > SHORT_BODY && !share.grow(more) {
            Refusal::busy("too many long requests at the same time; try again later")
        } else {
            return Ok(());
        };
        *share = Share::of(&self.shared.bodies);
        Err(refusal)
    }
}

/// Runs `work` on a thread where it may block, together with a bounded number of others.
pub(super) async fn blocking<T, F>(call: &Arc<Call>, work: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: FnOnce(&Call) -> Result<T, Refusal> + Send + 'static,
{
    let permit = call.shared.turn().await?;
    let call = call.clone();
    let work = move || {
        let _permit = permit;
        work(&call)
    };
    spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Refusal::internal(e)))
}

impl Shared {
    /// Waits until one more request may do SQLite work.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let turn = self.workers.clone().acquire_owned();
        match tokio::time::timeout(self.limits.queue_time, turn).await {
            Ok(permit) => permit.map_err(Refusal::internal),
            Err(_) => Err(Refusal::busy(
                "too many requests at the same time; try again later",
            )),
        }
    }
}

async fn pipeline(Extension(call): Extension<Arc<Call>>, request: Request) -> Result<Response, Refusal> {
    let body = body_of(&call, request, call.shared.limits.body).await?;
    let answer = blocking(&call, move |call| {
        let request = PipelineRequest::parse(&body).map_err(|e| Refusal::bad_request(e.message))?;
        drop(body);
        let database = &call.database;
        let sessions = match call.access {
            Access::Write => &database.pool,
            _ => &database.readers,
        };
        let (answer, wrote) = sessions.run(&database.store, request)?;
        if wrote {
            database.committed();
        }
        Ok(answer.to_bytes()?)
    });
    let answer = answer.await?;
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, answer.len())
        .body(outgoing::bytes(&call.shared, answer))
        .map_err(Refusal::internal)
}

async fn pull_updates(Extension(call): Extension<Arc<Call>>, request: Request) -> Result<Response, Refusal> {
    let body = body_of(&call, request, MAX_PULL_BODY).await?;
    let request = Arc::new(decode_request(&body).map_err(|e| Refusal::bad_request(e.message))?);
    let answer = answer_or_wait(&call, request).await?;
    let mut response = Response::builder().header(header::CONTENT_TYPE, "application/protobuf");
    if let Some(len) = answer.content_length() {
        response = response.header(header::CONTENT_LENGTH, len);
    }
    response
        .body(stream(&call, answer).await?)
        .map_err(Refusal::internal)
}

/// Works out the answer; holds it while it would be empty and the client is willing to wait.
pub(super) async fn answer_or_wait(
    call: &Arc<Call>,
    request: Arc<PullUpdatesRequest>,
) -> Result<Answer, Refusal> {
    let patience = match (request.client_revision.as_str(), request.server_revision.as_str()) {
        ("", _) => Duration::ZERO,
        (_, "") => {
            Duration::from_millis(request.long_poll_timeout_ms.into()).min(call.shared.limits.long_poll)
        }
        _ => Duration::ZERO,
    };
    let deadline = Instant::now() + patience;
    let mut commits = call.database.commits.subscribe();
    let mut stopping = call.shared.stopping.clone();
    loop {
        // Before looking, so that a commit during the look is not missed.
        commits.mark_unchanged();
        let request = request.clone();
        let answer = blocking(call, move |call| pull::answer(&call.database.store, &request)).await?;
        if !answer.is_empty() || Instant::now() >= deadline || *stopping.borrow() {
            return Ok(answer);
        }
        // The snapshot in it would keep the log from starting over.
        drop(answer);
        let _held = call.trace.hold();
        tokio::select! {
            _ = commits.changed() => {}
            _ = stopping.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// The body of `answer`, produced as fast as the client reads it.
pub(super) async fn stream(call: &Arc<Call>, answer: Answer) -> Result<Body, Refusal> {
    let permit = call.shared.turn().await?;
    // The database must outlive the snapshot: it owns the handle that keeps SQLite's locks alive.
    let database = call.database.clone();
    Ok(outgoing::body(&call.shared, Some(permit), move |send| {
        let _database = database;
        answer.write(&mut |piece| send(Bytes::from(piece)))
    }))
}

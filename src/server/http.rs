//! The routes, and the passage between async requests and blocking SQLite work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::access::{Access, Denied, Tokens};
use super::address::{Target, locate};
use super::databases::{Database, Databases};
use super::direct;
use super::limits::Limits;
use super::pull::{self, Answer};
use crate::error::{Code, Error};
use crate::protocol::pipeline::PipelineRequest;
use crate::protocol::pull::{PullUpdatesRequest, decode_request};
use crate::protocol::selector::MAX_SELECTOR_LEN;

/// Longest pull request accepted, in bytes: a selector and some strings.
const MAX_PULL_BODY: usize = MAX_SELECTOR_LEN + (64 << 10);
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
}

/// A request that has been let in, and the database that it is about.
pub struct Call {
    pub shared: Arc<Shared>,
    pub database: Arc<Database>,
    /// At least [`Access::Read`].
    pub access: Access,
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
        let mut response = (self.status, self.text).into_response();
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
        .fallback(any(not_found))
        .method_not_allowed_fallback(not_found)
        .layer(from_fn(cors));
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

/// Finds out which database is meant, and leaves the path below it.
async fn enter(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|v| v.to_str().ok());
    let (target, uri) = locate(request.uri(), host, shared.databases.named());
    *request.uri_mut() = uri;
    request.extensions_mut().insert(target);
    next.run(request).await
}

/// Lets requests with the right token through to the database, which is opened for them.
async fn admit(
    State(shared): State<Arc<Shared>>,
    Extension(target): Extension<Target>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let access = match shared.tokens.access(request.headers(), Some(&target.0)) {
        Ok(access) if access >= Access::Read => access,
        Ok(_) | Err(Denied::TooLittle) => {
            return Err(Refusal::forbidden("the token is not for this database"));
        }
        Err(Denied::Unknown) => {
            return Err(Refusal {
                status: StatusCode::UNAUTHORIZED,
                text: "Unauthorized".to_owned(),
            });
        }
    };
    let may_create = access >= Access::Write;
    let database = shared.databases.get(&target.0, may_create).await?;
    request.extensions_mut().insert(Arc::new(Call {
        shared,
        database,
        access,
    }));
    Ok(next.run(request).await)
}

/// The whole body, unless it is longer than `limit`.
pub(super) async fn body_of(request: Request, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut pieces = request.into_body().into_data_stream();
    let (mut body, mut surplus) = (Vec::new(), 0);
    while let Some(piece) = pieces.next().await {
        let piece =
            piece.map_err(|e| Refusal::bad_request(format!("the request body is incomplete: {e}")))?;
        if surplus == 0 && body.len() + piece.len() <= limit {
            body.extend_from_slice(&piece);
            continue;
        }
        // A client that is still sending does not see the answer: take a while what it sends.
        surplus += piece.len();
        if surplus > MAX_SURPLUS {
            break;
        }
    }
    match surplus {
        0 => Ok(body),
        _ => Err(Refusal {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            text: format!("the request body is longer than {limit} bytes"),
        }),
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
    let body = body_of(request, call.shared.limits.body).await?;
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
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.await?).into_response())
}

async fn pull_updates(Extension(call): Extension<Arc<Call>>, request: Request) -> Result<Response, Refusal> {
    let body = body_of(request, MAX_PULL_BODY).await?;
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
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    let runtime = tokio::runtime::Handle::current();
    let call = call.clone();
    spawn_blocking(move || {
        let _permit = permit;
        let limit = call.shared.limits.patience;
        let send = |piece| {
            !call.shared.cut.load(Ordering::Relaxed)
                && runtime.block_on(sender.send_timeout(piece, limit)).is_ok()
        };
        if let Err(e) = answer.write(&mut |piece| send(Ok(Bytes::from(piece)))) {
            // The client sees a broken connection, not a complete body.
            send(Err(std::io::Error::other(e)));
        }
    });
    Ok(Body::from_stream(ReceiverStream::new(receiver)))
}

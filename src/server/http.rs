//! Routes, status codes, authorization and the passage between async requests and blocking SQLite work.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::pull::{self, Answer};
use super::sql::Pool;
use super::store::Store;
use crate::error::{Code, Error};
use crate::protocol::pipeline::PipelineRequest;
use crate::protocol::pull::{PullUpdatesRequest, decode_request};
use crate::protocol::selector::MAX_SELECTOR_LEN;

/// Longest pipeline body accepted, in bytes: a transaction travels in one request.
const MAX_PIPELINE_BODY: usize = 512 << 20;
/// Longest pull request accepted, in bytes: a selector and some strings.
const MAX_PULL_BODY: usize = MAX_SELECTOR_LEN + (64 << 10);
/// How much of a body that is too long is read before the connection is closed, in bytes.
const MAX_SURPLUS: usize = 64 << 20;
/// Longest time a pull is held.
const MAX_LONG_POLL: Duration = Duration::from_secs(60);
/// Pulls and pipelines that do SQLite work at the same time.
const MAX_WORKERS: usize = 64;
/// Longest time a client may take to accept the next piece of a body.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// What all requests share.
pub struct Shared {
    pub store: Arc<Store>,
    pub pool: Pool,
    pub auth_token: Option<String>,
    /// Counts commits; long polls wait on it.
    pub commits: watch::Sender<u64>,
    /// Becomes true when the server stops.
    pub stopping: watch::Receiver<bool>,
    pub workers: Arc<Semaphore>,
}

impl Shared {
    pub fn new(store: Store, auth_token: Option<String>, stopping: watch::Receiver<bool>) -> Self {
        Shared {
            store: Arc::new(store),
            pool: Pool::default(),
            auth_token,
            commits: watch::Sender::new(0),
            stopping,
            workers: Arc::new(Semaphore::new(MAX_WORKERS)),
        }
    }

    /// Wakes the long polls.
    pub fn committed(&self) {
        self.commits.send_modify(|n| *n += 1);
    }
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

    /// HTTP status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Body of the answer.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn internal(text: impl std::fmt::Display) -> Self {
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
            Code::Busy => Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: e.message,
            },
            _ => Refusal::internal(e),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        tracing::debug!(status = self.status.as_u16(), text = %self.text, "request refused");
        (self.status, self.text).into_response()
    }
}

/// The routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/pull-updates", post(pull_updates))
        .route("/v2/pipeline", post(pipeline))
        .route_layer(from_fn_with_state(shared.clone(), authorized))
        .route("/", get(|| async { "turso-sync-server\n" }))
        .route("/health", get(|| async { "ok\n" }))
        .fallback(any(not_found))
        .method_not_allowed_fallback(not_found)
        .layer(axum::middleware::from_fn(cors))
        .with_state(shared)
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

async fn authorized(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let allowed = shared
        .auth_token
        .as_deref()
        .is_none_or(|token| presents(request.headers(), token));
    if allowed {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, "Unauthorized").into_response()
    }
}

fn presents(headers: &HeaderMap, token: &str) -> bool {
    let Some(given) = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) else {
        return false;
    };
    let Some((scheme, given)) = given.split_at_checked("Bearer ".len()) else {
        return false;
    };
    // The time this takes must not tell how much of a guess was right.
    let differences = given
        .iter()
        .zip(token.as_bytes())
        .fold(0, |d, (a, b)| d | (a ^ b));
    scheme.eq_ignore_ascii_case(b"Bearer ") && given.len() == token.len() && differences == 0
}

/// The whole body, unless it is longer than `limit`.
async fn body_of(request: Request, limit: usize) -> Result<Vec<u8>, Refusal> {
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

/// Runs `work` on a thread where it may block, together with at most [`MAX_WORKERS`] others.
async fn blocking<T, F>(shared: &Arc<Shared>, work: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: FnOnce(&Shared) -> Result<T, Refusal> + Send + 'static,
{
    let permit = shared
        .workers
        .clone()
        .acquire_owned()
        .await
        .map_err(Refusal::internal)?;
    let shared = shared.clone();
    let work = move || {
        let _permit = permit;
        work(&shared)
    };
    spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Refusal::internal(e)))
}

async fn pipeline(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refusal> {
    let body = body_of(request, MAX_PIPELINE_BODY).await?;
    let answer = blocking(&shared, move |shared| {
        let request = PipelineRequest::parse(&body).map_err(|e| Refusal::bad_request(e.message))?;
        drop(body);
        let (answer, wrote) = shared.pool.run(&shared.store, request)?;
        if wrote {
            shared.committed();
        }
        Ok(answer.to_bytes()?)
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.await?).into_response())
}

async fn pull_updates(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refusal> {
    let body = body_of(request, MAX_PULL_BODY).await?;
    let request = Arc::new(decode_request(&body).map_err(|e| Refusal::bad_request(e.message))?);
    let answer = answer_or_wait(&shared, request).await?;
    let mut response = Response::builder().header(header::CONTENT_TYPE, "application/protobuf");
    if let Some(len) = answer.content_length() {
        response = response.header(header::CONTENT_LENGTH, len);
    }
    response
        .body(stream(&shared, answer).await?)
        .map_err(Refusal::internal)
}

/// Works out the answer; holds it while it would be empty and the client is willing to wait.
async fn answer_or_wait(shared: &Arc<Shared>, request: Arc<PullUpdatesRequest>) -> Result<Answer, Refusal> {
    let patience = match (request.client_revision.as_str(), request.server_revision.as_str()) {
        ("", _) => Duration::ZERO,
        (_, "") => Duration::from_millis(request.long_poll_timeout_ms.into()).min(MAX_LONG_POLL),
        _ => Duration::ZERO,
    };
    let deadline = Instant::now() + patience;
    let mut commits = shared.commits.subscribe();
    let mut stopping = shared.stopping.clone();
    loop {
        // Before looking, so that a commit during the look is not missed.
        commits.mark_unchanged();
        let request = request.clone();
        let answer = blocking(shared, move |shared| pull::answer(&shared.store, &request)).await?;
        if !answer.is_empty() || patience.is_zero() || *stopping.borrow() {
            return Ok(answer);
        }
        tokio::select! {
            _ = commits.changed() => {}
            _ = stopping.changed() => return Ok(answer),
            () = tokio::time::sleep_until(deadline) => return Ok(answer),
        }
    }
}

/// The body of `answer`, produced as fast as the client reads it.
async fn stream(shared: &Arc<Shared>, answer: Answer) -> Result<Body, Refusal> {
    let permit = shared
        .workers
        .clone()
        .acquire_owned()
        .await
        .map_err(Refusal::internal)?;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    let runtime = tokio::runtime::Handle::current();
    // The store must outlive the snapshot: it owns the handle that keeps SQLite's locks alive.
    let store = shared.store.clone();
    spawn_blocking(move || {
        let (_permit, _store) = (permit, store);
        let send = |piece| runtime.block_on(sender.send_timeout(piece, STALL_LIMIT)).is_ok();
        if let Err(e) = answer.write(&mut |piece| send(Ok(Bytes::from(piece)))) {
            tracing::error!(error = %e, "a pull was cut short");
            // The client sees a broken connection, not a complete body.
            send(Err(std::io::Error::other(e)));
        }
    });
    Ok(Body::from_stream(ReceiverStream::new(receiver)))
}

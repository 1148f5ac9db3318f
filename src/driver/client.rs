//! Performs the requests of one operation.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ureq::http::{Request, Response, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use super::retry::{Backoff, chance, is_passing};
use super::{Auth, DriverConfig, LONGEST_TIMEOUT, TransformCallback};
use crate::error::{Category, Code, Error, Result};
use crate::io::{
    Control, HttpRequest, IoItem, OperationStatus, SyncEngineIoQueue, SyncEngineIoRequest, files,
};

/// Longest time to wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer that are passed on at once.
const PIECE: usize = 64 << 10;
/// Longest part of a refusal that is kept for the message, in bytes.
const MAX_REFUSAL: u64 = 4 << 10;
/// Longest pause that is waited for without a deadline.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Connections to a remote. It dies with the first operation that is cancelled.
pub(super) struct Client {
    agent: Agent,
    auth: Auth,
    base_url: Option<String>,
    deadline: Option<Duration>,
    attempts: u32,
    backoff: Backoff,
    transform: Option<TransformCallback>,
}

/// How an attempt ended.
enum Ended {
    /// The item has its answer, or its error.
    Served,
    /// Nothing of the answer has been passed on.
    Refused(Refusal),
    /// The operation was cancelled.
    Cancelled,
}

/// Where an attempt tells how it ended. Not a channel: that would leave the host's thread with memory of Rust's runtime.
#[derive(Default)]
struct Ending {
    ended: Mutex<Option<Ended>>,
    told: Condvar,
}

impl Ending {
    /// The first word counts.
    fn tell(&self, ended: Ended) {
        let mut place = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        place.get_or_insert(ended);
        self.told.notify_all();
    }

    fn wait(&self) -> Ended {
        let mut place = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(ended) = place.take() {
                return ended;
            }
            place = self.told.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One that is under way.
struct Attempt {
    ending: Arc<Ending>,
    thread: JoinHandle<()>,
}

impl Attempt {
    /// Waits for it to end.
    fn end(self) -> Ended {
        let ended = self.ending.wait();
        if !matches!(ended, Ended::Cancelled) {
            // It has nothing left to do but to end. Its panics are caught.
            self.thread.join().unwrap_or(());
        }
        ended
    }
}

/// Why an attempt failed.
enum Refusal {
    /// There was no answer.
    Broken(Error),
    /// The remote does not want the request now, or not with this token.
    Answer {
        status: u16,
        retry_after: Option<String>,
        body: Vec<u8>,
    },
}

impl Refusal {
    /// True if the same request may succeed later.
    fn is_passing(&self) -> bool {
        match self {
            Refusal::Broken(e) => e.retryable,
            Refusal::Answer { status, .. } => is_passing(*status),
        }
    }

    fn is_unauthorized(&self) -> bool {
        matches!(self, Refusal::Answer { status: 401, .. })
    }

    /// How long the remote asks to wait.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::Answer { retry_after, .. } => {
                let seconds = retry_after.as_ref()?.trim().parse::<u32>().ok()?;
                Some(Duration::from_secs(seconds.into()))
            }
            Refusal::Broken(_) => None,
        }
    }

    /// Passes it on: there will be no other attempt.
    fn report(self, item: &IoItem) {
        match self {
            Refusal::Broken(e) => item.fail(e),
            Refusal::Answer {
                status,
                retry_after,
                body,
            } => {
                item.status(status);
                if let Some(wait) = retry_after {
                    item.header("retry-after", &wait);
                }
                item.push_buffer(&body);
                item.done();
            }
        }
    }
}

impl Client {
    /// Checks the configuration; connects to nobody.
    pub fn new(config: &DriverConfig) -> Result<Self> {
        if let Auth::Fixed(token) = &config.auth {
            check_token(token)?;
        }
        let timeout = config.timeout.min(LONGEST_TIMEOUT);
        let mut settings = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect could lead a token astray; it is reported like every other status.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("turso-sync/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("")
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .timeout_per_read(Some(timeout))
            .timeout_per_write(Some(timeout))
            // Not that of the environment.
            .proxy(config.proxy.as_deref().map(read_proxy).transpose()?);
        if let Some(path) = &config.ca_file {
            let tls = TlsConfig::builder().root_certs(read_certificates(path)?);
            settings = settings.tls_config(tls.build());
        }
        Ok(Client {
            agent: settings.build().into(),
            auth: config.auth.clone(),
            base_url: config.base_url.clone(),
            deadline: config.deadline.map(|d| d.min(LONGEST_TIMEOUT)),
            attempts: config.attempts,
            backoff: Backoff {
                first: config.backoff,
                longest: LONGEST_PAUSE,
            },
            transform: config.transform.clone(),
        })
    }

    #[cfg(test)]
    pub fn root_certificates(&self) -> &RootCerts {
        self.agent.config().tls_config().root_certs()
    }

    /// See [`super::run`].
    pub fn run(
        self: &Arc<Self>,
        queue: &SyncEngineIoQueue,
        control: &Control,
        mut resume: impl FnMut() -> Result<OperationStatus>,
    ) -> Result<()> {
        let end = self.deadline.and_then(|d| Instant::now().checked_add(d));
        let _driven = control.drive();
        while resume()? == OperationStatus::Io {
            let mut served = false;
            while let Some(item) = queue.take_item_of(control) {
                match item.request() {
                    SyncEngineIoRequest::Http(_) => {
                        // A push makes its next request meanwhile. How this ends, it says again below.
                        let meanwhile = || resume().map_or((), drop);
                        self.serve(Arc::new(item), control, end, meanwhile)?;
                    }
                    SyncEngineIoRequest::Transform(_) => self.transform(&Arc::new(item)),
                    // A failure is in the item already.
                    _ => files::perform(&item).unwrap_or(()),
                }
                served = true;
            }
            // Waiting here could be for ever: nobody says when the other thread is done.
            if !served && resume()? == OperationStatus::Io {
                return Err(Error::misuse(
                    "the operation waits for a request that was taken from the queue elsewhere",
                ));
            }
        }
        Ok(())
    }

    /// Performs a request to its end, in as many attempts as it takes, or until the operation is cancelled; failures go
    /// into the item. `meanwhile` is called once, while the first attempt is under way.
    fn serve(
        self: &Arc<Self>,
        item: Arc<IoItem>,
        control: &Control,
        end: Option<Instant>,
        meanwhile: impl FnOnce(),
    ) -> Result<()> {
        let (mut attempt, mut new_token, mut meanwhile) = (1, None, Some(meanwhile));
        let mut may_ask_again = matches!(self.auth, Auth::Callback(_));
        loop {
            let token = match new_token.take().map_or_else(|| self.token(), Ok) {
                Ok(token) => token,
                Err(e) => {
                    item.fail(e);
                    return Ok(());
                }
            };
            let started = self.attempt(&item, token.clone(), control, end)?;
            if let Some(meanwhile) = meanwhile.take() {
                meanwhile();
            }
            let refusal = match started.end() {
                Ended::Refused(refusal) => refusal,
                Ended::Served | Ended::Cancelled => return Ok(()),
            };
            if refusal.is_unauthorized() && std::mem::take(&mut may_ask_again) {
                // The refusal says more than an error of the callback would.
                new_token = self.token().ok().filter(|new| *new != token);
                if new_token.is_some() {
                    continue;
                }
            }
            let pause = self.backoff.pause(attempt, refusal.retry_after(), chance());
            let longest = end.map_or(LONGEST_PAUSE, |end| end.saturating_duration_since(Instant::now()));
            if attempt >= self.attempts || !refusal.is_passing() || pause > longest {
                refusal.report(&item);
                return Ok(());
            }
            tracing::debug!(attempt, ?pause, "the request will be repeated");
            if !wait(control, pause) {
                return Ok(());
            }
            attempt += 1;
        }
    }

    /// Has the host decide about changes.
    fn transform(&self, item: &Arc<IoItem>) {
        let decided = match &self.transform {
            Some(decide) => catch_unwind(AssertUnwindSafe(|| decide(item)))
                .unwrap_or_else(|_| Err(Error::misuse("the transform callback panicked"))),
            None => Err(Error::misuse(
                "the replica was made with use_transform, but the driver has no transform callback",
            )),
        };
        match decided {
            Ok(()) => item.done(),
            Err(e) => item.fail(e),
        }
    }

    /// The token for one request.
    fn token(&self) -> Result<Option<String>> {
        let token = match &self.auth {
            Auth::None => None,
            Auth::Fixed(token) => Some(token.clone()),
            Auth::Callback(ask) => ask()?,
        };
        token.as_deref().map_or(Ok(()), check_token)?;
        Ok(token)
    }

    /// Begins to send the request once, in a thread of its own: nothing else would end the wait for a name or a connection.
    fn attempt(
        self: &Arc<Self>,
        item: &Arc<IoItem>,
        token: Option<String>,
        control: &Control,
        end: Option<Instant>,
    ) -> Result<Attempt> {
        let ending = Arc::<Ending>::default();
        let (tell, tell_cancelled, agent) = (ending.clone(), ending.clone(), self.agent.clone());
        control.on_cancel(move || {
            // Cuts the connections; ureq opens no more for this agent.
            agent.shutdown();
            tell_cancelled.tell(Ended::Cancelled);
        });
        let (client, item) = (self.clone(), item.clone());
        let work = move || {
            let result = catch_unwind(AssertUnwindSafe(|| client.exchange(&item, token, end)));
            let panicked = || Refusal::Broken(Error::internal("the driver panicked; please report it"));
            let refusal = result.unwrap_or_else(|_| Some(panicked()));
            drop(item);
            tell.tell(refusal.map_or(Ended::Served, Ended::Refused));
        };
        let thread = std::thread::Builder::new()
            .name("turso-sync-http".into())
            .spawn(work)
            .map_err(|e| Error::io("start a thread for the request", &e))?;
        Ok(Attempt { ending, thread })
    }

    /// Sends the request and passes the answer on, unless it is one after which another attempt makes sense.
    fn exchange(&self, item: &IoItem, token: Option<String>, end: Option<Instant>) -> Option<Refusal> {
        let SyncEngineIoRequest::Http(http) = item.request() else {
            return Some(Refusal::Broken(Error::internal("not an HTTP request")));
        };
        let (response, shown) = match self.send(http, token, end) {
            Ok(sent) => sent,
            Err(e) => return Some(Refusal::Broken(e)),
        };
        let status = response.status().as_u16();
        tracing::debug!("{shown}: status {status}");
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|wait| wait.to_str().ok()).map(str::to_owned);
        if status == 401 || is_passing(status) {
            let mut body = Vec::new();
            let reader = response.into_body().into_reader();
            // What has come of its text stays when the rest breaks off: the status says enough.
            let _ = reader.take(MAX_REFUSAL).read_to_end(&mut body);
            return Some(Refusal::Answer {
                status,
                retry_after,
                body,
            });
        }
        item.status(status);
        if let Some(wait) = retry_after {
            item.header("retry-after", &wait);
        }
        match pass_on(response, item) {
            Ok(()) => item.done(),
            // Whoever refuses a long request may close the connection without having read it, which cuts off the text. Only
            // that of a 409 matters.
            Err(_) if !matches!(status, 200 | 409) => item.done(),
            Err(message) => item.fail(failed(&shown, message).retry()),
        }
        None
    }

    pub(super) fn url(&self, http: &HttpRequest) -> Result<String> {
        let base = self.base_url.as_ref().or(http.url.as_ref());
        let base = base.ok_or_else(|| {
            Error::misuse("the replica has no remote URL, and none was given to the driver")
        })?;
        let base = match base.split_once("://") {
            Some(("libsql" | "turso", rest)) => format!("https://{rest}"),
            _ => base.clone(),
        };
        Ok(format!(
            "{}{}",
            base.strip_suffix('/').unwrap_or(&base),
            http.path
        ))
    }

    /// Sends the request; the answer's head, and what to call the request in messages.
    fn send(
        &self,
        http: &HttpRequest,
        token: Option<String>,
        end: Option<Instant>,
    ) -> Result<(Response<Body>, String)> {
        let url = self.url(http)?;
        let shown = format!("{} {}", http.method, without_secrets(&url));
        let mut request = Request::builder().method(http.method).uri(url);
        for (name, value) in &http.headers {
            request = request.header(name, value);
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(failed(&shown, "the deadline has passed").retry());
        }
        let invalid = |_| failed(&shown, "the request is not valid HTTP");
        let sent = if http.method == "GET" {
            let request = request.body(()).map_err(invalid)?;
            let request = self.agent.configure_request(request).timeout_global(left);
            self.agent.run(request.build())
        } else {
            let request = request.body(http.body.as_slice()).map_err(invalid)?;
            let request = self.agent.configure_request(request).timeout_global(left);
            self.agent.run(request.build())
        };
        match sent {
            Ok(response) => Ok((response, shown)),
            Err(e) => Err(explain(&shown, e)),
        }
    }
}

/// A request without an answer.
fn failed(shown: &str, message: impl std::fmt::Display) -> Error {
    Error::new(Category::Network, Code::Error, format!("{shown}: {message}"))
}

fn explain(shown: &str, e: ureq::Error) -> Error {
    use ureq::Error as E;
    // These quote what may hold a password.
    match &e {
        E::BadUri(_) => return failed(shown, "the URL is not valid"),
        E::InvalidProxyUrl => return failed(shown, "the URL of the proxy is not valid"),
        _ => {}
    }
    let for_good = match &e {
        E::Tls(_) | E::Rustls(_) | E::Pem(_) | E::Http(_) | E::RequireHttpsOnly(_) => true,
        // A certificate that is not trusted.
        E::Io(e) => e.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    };
    let failed = failed(shown, e);
    if for_good { failed } else { failed.retry() }
}

/// Refuses what the HTTP library would quote in its error.
fn check_token(token: &str) -> Result<()> {
    match token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(Error::misuse(
            "the token contains characters that no HTTP header may have",
        )),
    }
}

fn read_proxy(url: &str) -> Result<Proxy> {
    // The URL may hold a password.
    Proxy::new(url).map_err(|_| {
        Error::misuse("the URL of the proxy is not valid; it begins with http, https, socks4, socks4a, socks5 or socks5h")
    })
}

fn read_certificates(path: &str) -> Result<RootCerts> {
    let what = format!("read the certificates in {path}");
    let pem = std::fs::read(path).map_err(|e| Error::io(&what, &e))?;
    let items = ureq::tls::parse_pem(&pem).collect::<std::result::Result<Vec<_>, _>>();
    let items = items.map_err(|e| Error::misuse(format!("{what}: {e}")))?;
    let certificates: Vec<Certificate<'static>> = items
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(Error::misuse(format!("{what}: there is none, in PEM")));
    }
    Ok(certificates.into())
}

/// Waits; false as soon as the operation is cancelled.
fn wait(control: &Control, pause: Duration) -> bool {
    let (tell, cancelled) = mpsc::channel();
    control.on_cancel(move || tell.send(()).unwrap_or(()));
    cancelled.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout)
}

/// Passes the body on piece by piece. A body that is shorter than announced is a failure.
fn pass_on(response: Response<Body>, item: &IoItem) -> std::result::Result<(), String> {
    // With a content encoding the length is that of the encoded body, which the HTTP library checks alone.
    let announced = match response.headers().get(header::CONTENT_ENCODING) {
        None => response.body().content_length(),
        Some(_) => None,
    };
    let mut reader = response.into_body().into_reader();
    let mut piece = vec![0; PIECE];
    let mut received = 0u64;
    loop {
        let n = reader
            .read(&mut piece)
            .map_err(|e| format!("the answer broke off: {e}"))?;
        let Some(bytes) = piece.get(..n).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        item.push_buffer(bytes);
        received += n as u64;
        if !item.is_wanted() {
            return Ok(());
        }
    }
    match announced {
        Some(length) if length != received => {
            Err(format!("the answer broke off after {received} of {length} bytes"))
        }
        _ => Ok(()),
    }
}

/// The URL for messages: without user, password and query, which may hold tokens.
pub(super) fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let rest = rest.get(..end).unwrap_or_default();
    let host = rest.find('/').unwrap_or(rest.len());
    let start = rest
        .get(..host)
        .and_then(|authority| authority.rfind('@'))
        .map_or(0, |at| at + 1);
    format!("{scheme}://{}", rest.get(start..).unwrap_or_default())
}

//! A blocking driver for hosts that want one call instead of a poll loop: HTTP with `ureq`, files with the standard
//! library. It holds no lock while it waits, and keeps nothing from one call to the next.

use std::io::Read;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::io::{
    Control, HttpRequest, IoItem, OperationStatus, SyncEngineIoQueue, SyncEngineIoRequest, files,
};

/// Longest time to wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence of the remote, unless configured.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// As good as for ever; more than the clocks of all systems can add.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes of an answer that are passed on at once.
const PIECE: usize = 64 << 10;

/// How to reach the remote.
#[derive(Clone)]
pub struct DriverConfig {
    /// Sent as `Authorization: Bearer <token>`.
    pub auth_token: Option<String>,
    /// Replaces the base URL of the replica.
    pub base_url: Option<String>,
    /// Longest silence of the remote: time between two pieces of its answer. Longer than the long poll.
    pub timeout: Duration,
    /// Longest time for the whole run.
    pub deadline: Option<Duration>,
}

impl Default for DriverConfig {
    fn default() -> Self {
        DriverConfig {
            auth_token: None,
            base_url: None,
            timeout: DEFAULT_TIMEOUT,
            deadline: None,
        }
    }
}

/// Calls `resume` until the operation has ended, serving all requests of `queue` in between. `control` is that of the
/// operation: when it is cancelled, this returns at once, although a request may still be under way.
pub fn run(
    queue: &SyncEngineIoQueue,
    config: &DriverConfig,
    control: &Control,
    mut resume: impl FnMut() -> Result<OperationStatus>,
) -> Result<()> {
    let client = Arc::new(Client::new(config)?);
    while resume()? == OperationStatus::Io {
        let mut served = false;
        while let Some(item) = queue.take_item() {
            client.serve(item, control)?;
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

struct Client {
    agent: Agent,
    authorization: Option<String>,
    base_url: Option<String>,
    end: Option<Instant>,
}

impl Client {
    fn new(config: &DriverConfig) -> Result<Self> {
        // Checked here, so that no error of the HTTP library can quote the token.
        if let Some(token) = &config.auth_token
            && !token.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Error::misuse(
                "the token contains characters that no HTTP header may have",
            ));
        }
        let timeout = config.timeout.min(LONGEST_TIMEOUT);
        let settings = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect could lead a token astray; it is reported like every other status.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("turso-sync/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("")
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .timeout_per_read(Some(timeout))
            .timeout_per_write(Some(timeout))
            .build();
        Ok(Client {
            agent: settings.into(),
            authorization: config.auth_token.as_ref().map(|token| format!("Bearer {token}")),
            base_url: config.base_url.clone(),
            end: config
                .deadline
                .and_then(|d| Instant::now().checked_add(d.min(LONGEST_TIMEOUT))),
        })
    }

    /// Performs a request to its end, or until the operation is cancelled; failures go into the item.
    fn serve(self: &Arc<Self>, item: IoItem, control: &Control) -> Result<()> {
        if !matches!(item.request(), SyncEngineIoRequest::Http(_)) {
            // A failure is in the item already.
            files::perform(&item).unwrap_or(());
            return Ok(());
        }
        // A thread of its own, because nothing else ends a read that waits for a silent remote.
        let (done, ended) = mpsc::channel();
        let cancelled = done.clone();
        control.on_cancel(move || cancelled.send(()).unwrap_or(()));
        let client = self.clone();
        let work = move || {
            client.perform(&item);
            done.send(()).unwrap_or(());
        };
        std::thread::Builder::new()
            .name("turso-sync-http".into())
            .spawn(work)
            .map_err(|e| Error::io("start a thread for the request", &e))?;
        // An error says that the thread has died, and the item with it: the operation will tell.
        ended.recv().unwrap_or(());
        Ok(())
    }

    fn perform(&self, item: &IoItem) {
        let SyncEngineIoRequest::Http(http) = item.request() else {
            return;
        };
        match self.exchange(http, item) {
            Ok(()) => item.done(),
            Err(message) => item.poison(&message),
        }
    }

    fn exchange(&self, http: &HttpRequest, item: &IoItem) -> std::result::Result<(), String> {
        let url = self.url(http)?;
        let explain = |e: String| format!("{} {}: {e}", http.method, without_secrets(&url));
        let response = self.send(http, &url).map_err(explain)?;
        let status = response.status().as_u16();
        tracing::debug!("{} {}: status {status}", http.method, without_secrets(&url));
        item.status(status);
        if let Some(wait) = response.headers().get("retry-after")
            && let Ok(wait) = wait.to_str()
        {
            item.header("retry-after", wait);
        }
        pass_on(response, item).map_err(explain)
    }

    fn url(&self, http: &HttpRequest) -> std::result::Result<String, String> {
        let base = self.base_url.as_ref().or(http.url.as_ref());
        let base = base.ok_or("the replica has no remote URL, and none was given to the driver")?;
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

    fn send(&self, http: &HttpRequest, url: &str) -> std::result::Result<Response<Body>, String> {
        let mut request = Request::builder().method(http.method).uri(url);
        for (name, value) in &http.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let left = match self.end {
            None => None,
            Some(end) => Some(
                end.checked_duration_since(Instant::now())
                    .ok_or("the deadline has passed")?,
            ),
        };
        let sent = if http.method == "GET" {
            let request = request.body(()).map_err(|_| "the request is not valid HTTP")?;
            self.agent
                .run(self.agent.configure_request(request).timeout_global(left).build())
        } else {
            let request = request
                .body(http.body.as_slice())
                .map_err(|_| "the request is not valid HTTP")?;
            self.agent
                .run(self.agent.configure_request(request).timeout_global(left).build())
        };
        sent.map_err(|e| match e {
            ureq::Error::BadUri(_) => "the URL is not valid".to_owned(),
            other => other.to_string(),
        })
    }
}

/// Passes the body on piece by piece. A body that is shorter than announced is a failure.
fn pass_on(response: Response<Body>, item: &IoItem) -> std::result::Result<(), String> {
    // With a content encoding the length is that of the encoded body, which the HTTP library checks alone.
    let announced = match response.headers().get("content-encoding") {
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
fn without_secrets(url: &str) -> String {
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

#[cfg(test)]
mod tests;

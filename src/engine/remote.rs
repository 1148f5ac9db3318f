//! What both directions need from the remote: headers, and errors that say what they mean.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use super::Task;
use crate::error::{Category, Code, Error, Result};
use crate::io::{BodySink, HttpRequest, Response, Stage, SyncEngineIo};
use crate::pages::{Page, reserved_bytes};
use crate::protocol::pull::{self, PullDecoder, PullEvent, PullHeader, PullUpdatesRequest};
use crate::protocol::pull_query;

/// Text by which our server says that it does not know a revision.
const UNKNOWN_REVISION: &str = "unknown revision";

impl Task {
    /// A request to `path` of the remote.
    pub(super) fn request(&self, path: &str, content_type: &str, body: Vec<u8>) -> Result<HttpRequest> {
        let mut headers = vec![("content-type".to_owned(), content_type.to_owned())];
        if path == PULL_PATH {
            headers.push(("accept-encoding".to_owned(), content_type.to_owned()));
        }
        if let Some(key) = &self.opts.remote_encryption_key {
            headers.push(("x-turso-encryption-key".to_owned(), key.clone()));
        }
        Ok(HttpRequest {
            url: self.remote_url()?,
            method: "POST",
            path: path.to_owned(),
            headers,
            body,
        })
    }

    /// Puts a request into the queue; the future waits for its answer. `what` names it in errors.
    pub(super) fn exchange(
        &self,
        what: &str,
        request: HttpRequest,
        sink: Option<BodySink>,
    ) -> impl Future<Output = Result<Response>> {
        self.control.sent(request.body.len());
        let response = self.queue.http(request, sink);
        async move {
            let response = response.await.map_err(|e| e.context(what))?;
            self.control.received(response.body.len());
            tracing::debug!(status = response.status, "{what}: the remote has answered");
            Ok(response)
        }
    }

    /// Sends a pull request and feeds header and pages of the answer to `on_event` as it arrives, in the host's thread.
    /// Returns the answer's header once the answer is complete. `what` names the request in errors.
    pub(super) async fn fetch_pages(
        &self,
        what: &str,
        request: &PullUpdatesRequest,
        mut on_event: impl FnMut(PullEvent<'_>) -> Result<()> + Send + 'static,
    ) -> Result<PullHeader> {
        let mut url = self.speaks_direct().then(|| url_of(request)).flatten();
        let question = Shared::new(url.as_ref().map(|(_, checksum)| *checksum));
        let asked = question.clone();
        let mut on_event = move |event: PullEvent<'_>| {
            if let PullEvent::Header(header) = &event {
                asked.with(|asked| check_question(*asked, header))?;
            }
            on_event(event)
        };
        let decoder = Shared::new((PullDecoder::new(), None));
        let (feed, control) = (decoder.clone(), self.control.clone());
        let on_bytes = Arc::new(Mutex::new(move |bytes: &[u8]| {
            control.check()?;
            control.received(bytes.len());
            feed.with(|(decoder, header)| {
                decoder.push(bytes, &mut |event| match event {
                    PullEvent::Header(h) => {
                        control.enter(Stage::Downloading);
                        let left = h.remaining.unwrap_or(0);
                        control.expect_pages(h.page_count.unwrap_or(0).saturating_add(left));
                        *header = Some(h.clone());
                        on_event(PullEvent::Header(h))
                    }
                    PullEvent::Page { page_no, data } => {
                        control.page_done();
                        on_event(PullEvent::Page { page_no, data })
                    }
                })
            })
        }));
        loop {
            let on_bytes = on_bytes.clone();
            let sink: BodySink =
                Box::new(move |bytes| on_bytes.lock().unwrap_or_else(PoisonError::into_inner)(bytes));
            let http = match &url {
                Some((path, _)) => HttpRequest {
                    method: "GET",
                    ..self.request(path, "application/protobuf", Vec::new())?
                },
                None => self.request(PULL_PATH, "application/protobuf", pull::encode_request(request))?,
            };
            self.control.enter(Stage::Waiting);
            let response = self.exchange(what, http, Some(sink)).await?;
            if url.is_some() && self.refuses_direct(Some(response.status)) {
                url = None;
                question.with(|question| {
                    *question = None;
                    Ok(())
                })?;
                continue;
            }
            check_status(what, &response)?;
            break;
        }
        let (mut decoder, header) = decoder.take()?;
        decoder.finish().map_err(|e| e.context(what))?;
        let header: PullHeader =
            header.ok_or_else(|| Error::protocol(format!("{what}: the remote's answer has no header")))?;
        self.note_dialects(header.dialects);
        Ok(header)
    }
}

/// Path and checksum of `request` in the direct dialect; `None` if it would be too long for some proxy.
fn url_of(request: &PullUpdatesRequest) -> Option<(String, u32)> {
    let request = PullUpdatesRequest {
        encoding: pull::ENCODING_STREAM,
        ..request.clone()
    };
    let path = pull_query::encode(&request);
    (path.len() <= pull_query::MAX_PATH).then(|| (path, pull_query::checksum(&request)))
}

/// A cache that does not look at the whole URL gives somebody else's answer.
fn check_question(asked: Option<u32>, header: &PullHeader) -> Result<()> {
    match asked.is_none_or(|asked| header.question == Some(asked)) {
        true => Ok(()),
        false => Err(Error::protocol(
            "the answer is not to this question; a proxy or cache in between may have confused them",
        )
        .retry()),
    }
}

/// Refuses the first page of a remote that reserves another number of bytes per page than configured (0 = any).
pub(super) fn check_reserved(page_no: u32, data: &Page, configured: u8) -> Result<()> {
    let found = reserved_bytes(data);
    if page_no != 1 || configured == 0 || found == configured {
        return Ok(());
    }
    Err(Error::identity(format!(
        "the remote reserves {found} bytes at the end of each page, but this replica is configured for {configured}; set \
         reserved_bytes, or the cipher, to what the remote has"
    )))
}

/// A value that the sink of a request fills in the host's thread while the operation waits.
pub(super) struct Shared<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<T> Shared<T> {
    pub(super) fn new(value: T) -> Self {
        Shared(Arc::new(Mutex::new(Some(value))))
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(value) => f(value),
            None => Err(Error::internal("data arrived after the end of the answer")),
        }
    }

    pub(super) fn take(&self) -> Result<T> {
        let value = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or_else(|| Error::internal("the answer was used twice"))
    }
}

/// Path of pull requests.
pub(super) const PULL_PATH: &str = "/pull-updates";
/// Path of pushes in the direct dialect.
pub(super) const PUSH_PATH: &str = "/push-changes";
/// Path of SQL requests.
pub(super) const PIPELINE_PATH: &str = "/v2/pipeline";

/// Turns every answer but 200 into an error that a host can act on. `what` names the request.
pub(super) fn check_status(what: &str, response: &Response) -> Result<()> {
    let status = response.status;
    if status == 200 {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&response.body);
    let body = body.trim();
    let hint = match status {
        0 => "the host reported no HTTP status",
        401 | 403 => "check the token",
        404 => "check the URL of the remote",
        _ => "",
    };
    let mut message = format!("{what}: remote server returned an error: status={status}, body={body}");
    if !hint.is_empty() {
        message = format!("{message} ({hint})");
    }
    let mut error = Error::new(Category::Remote, Code::Error, message);
    error.http_status = Some(status);
    error.retry_after_ms = response.retry_after_ms;
    error.retryable = status == 0 || status == 408 || status == 429 || status >= 500;
    if status == 409 && body.contains(UNKNOWN_REVISION) {
        error.category = Category::Identity;
        error.message = format!(
            "{} - this remote does not know the revision that the replica was synced to: it is another database, or it \
             was restored from a backup; nothing was changed",
            error.message
        );
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_typed() {
        let answer = |status, body: &str| {
            check_status(
                "pull",
                &Response {
                    status,
                    body: body.into(),
                    retry_after_ms: Some(7000),
                    decisions: Vec::new(),
                },
            )
        };
        assert!(answer(200, "").is_ok());
        let e = answer(401, "no").unwrap_err();
        assert_eq!(
            (e.http_status, e.retryable, e.category),
            (Some(401), false, Category::Remote)
        );
        assert!(e.message.contains("token") && e.message.contains("status=401, body=no"));
        let overloaded = answer(503, "").unwrap_err();
        assert_eq!(
            (overloaded.retryable, overloaded.retry_after_ms),
            (true, Some(7000))
        );
        assert!(answer(429, "").unwrap_err().retryable);
        assert!(!answer(204, "").unwrap_err().retryable);
        assert_eq!(
            answer(409, "unknown revision x").unwrap_err().category,
            Category::Identity
        );
    }
}

//! The direct dialect over HTTP: pulls that caches can answer, pushes without JSON.

use std::sync::Arc;

use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use prost::Message;

use super::access::Access;
use super::http::{Call, Refusal, answer_or_wait, blocking, body_of, stream};
use super::outgoing;
use super::sql::Pool;
use super::store::Store;
use crate::protocol::pull::PullUpdatesRequest;
use crate::protocol::{pull_query, push};

const PROTOBUF: (header::HeaderName, &str) = (header::CONTENT_TYPE, "application/protobuf");
/// What lies between two revisions is the same for ever. `no-transform`: the body is checked as it is.
const FOR_EVER: &str = "max-age=31536000, immutable, no-transform";
/// Another answer may be due at any time; the server must be asked whether this one still holds.
const ASK_AGAIN: &str = "no-cache, no-transform";

/// What a query asks for.
pub fn question(query: &str) -> Result<PullUpdatesRequest, Refusal> {
    pull_query::decode(query).map_err(|e| Refusal::bad_request(e.message))
}

/// `GET /pull-updates`.
pub async fn pull_updates(Extension(call): Extension<Arc<Call>>, uri: Uri, headers: HeaderMap) -> Response {
    let pulled = pull(&call, uri.query().unwrap_or_default(), &headers).await;
    // What went wrong this time says nothing about the next.
    let mut response = pulled.unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn pull(call: &Arc<Call>, query: &str, headers: &HeaderMap) -> Result<Response, Refusal> {
    let question = Arc::new(question(query)?);
    let checksum = pull_query::checksum(&question);
    let answer = answer_or_wait(call, question.clone())
        .await?
        .with_question(checksum);
    let tag = tag(&question, answer.revision());
    let response = Response::builder()
        .header(header::CACHE_CONTROL, cache_control(&question, headers))
        .header(header::VARY, "authorization, x-turso-encryption-key")
        .header(header::ETAG, &tag);
    if matches(headers, &tag) {
        let response = response.status(StatusCode::NOT_MODIFIED);
        return response.body(Default::default()).map_err(Refusal::internal);
    }
    let mut response = response.header(PROTOBUF.0, PROTOBUF.1);
    if let Some(len) = answer.content_length() {
        response = response.header(header::CONTENT_LENGTH, len);
    }
    response
        .body(stream(call, answer).await?)
        .map_err(Refusal::internal)
}

/// Names what an answer contains. Weak: the same question can be answered with more pages than needed, so that two
/// answers mean the same without having the same bytes.
fn tag(question: &PullUpdatesRequest, revision: &str) -> String {
    let fixed = PullUpdatesRequest {
        server_revision: revision.to_owned(),
        ..question.clone()
    };
    // The checksum is for the selector and the encoding; the revisions are there as they are.
    let checksum = pull_query::checksum(&fixed);
    format!("W/\"{}>{revision}/{checksum:08x}\"", question.client_revision)
}

fn cache_control(question: &PullUpdatesRequest, headers: &HeaderMap) -> HeaderValue {
    let secret = [header::AUTHORIZATION.as_str(), "x-turso-encryption-key"];
    let scope = match secret.iter().any(|name| headers.contains_key(*name)) {
        // A cache that many share does not know who may see it.
        true => "private",
        false => "public",
    };
    let how = match question.server_revision.as_str() {
        "" if question.long_poll_timeout_ms > 0 => return HeaderValue::from_static("no-store"),
        "" => ASK_AGAIN,
        _ => FOR_EVER,
    };
    let text = format!("{scope}, {how}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("no-store"))
}

/// Whether the client has what `tag` names.
fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH);
    given.iter().filter_map(|v| v.to_str().ok()).any(|list| {
        let mut tags = list.split(',').map(str::trim);
        tags.any(|t| t == tag || t == &tag["W/".len()..])
    })
}

/// `POST /push-changes`.
pub async fn push_changes(
    Extension(call): Extension<Arc<Call>>,
    request: Request,
) -> Result<Response, Refusal> {
    if call.access < Access::Write {
        return Err(Refusal::forbidden("the token is for reading only"));
    }
    let limit = call.shared.limits.body;
    let body = body_of(&call, request, limit).await?;
    let answer = blocking(&call, move |call| {
        let database = &call.database;
        let (answer, wrote) = push(&database.pool, &database.store, body, limit)?;
        if wrote {
            database.committed();
        }
        Ok(answer)
    });
    let answer = answer.await?;
    Response::builder()
        .header(PROTOBUF.0, PROTOBUF.1)
        .header(header::CONTENT_LENGTH, answer.len())
        .body(outgoing::bytes(&call.shared, answer))
        .map_err(Refusal::internal)
}

/// The body of the answer to a push of at most `limit` bytes, and whether anything was written.
pub fn push(pool: &Pool, store: &Store, body: Vec<u8>, limit: usize) -> Result<(Vec<u8>, bool), Refusal> {
    let push = push::open(body, limit).map_err(|e| Refusal::bad_request(e.message))?;
    let answer = pool.push(store, &push)?;
    Ok((answer.encode_to_vec(), answer.committed > 0))
}

//! What clients send to the bundled server.

use std::cell::RefCell;

use prost::Message;
use turso_sync::protocol::pipeline::{PipelineRequest, PipelineResponse, StreamRequest};
use turso_sync::protocol::pull::{PullDecoder, decode_request};
use turso_sync::protocol::push::{self, PushAnswer};
use turso_sync::protocol::{pull_query, selector};
use turso_sync::server::LocalServer;

use super::pages::{folder, image};

/// SQL whose running time or size has no limit but the server's own, which a fuzzer need not wait for.
const ENDLESS: [&str; 8] = [
    "recursive",
    "blob",
    "printf",
    "format",
    "replace",
    "join",
    "hex",
    "like",
];

thread_local! {
    static SERVER: RefCell<Option<(LocalServer, tempfile::TempDir)>> = const { RefCell::new(None) };
}

fn with_server(work: impl FnOnce(&LocalServer)) {
    SERVER.with_borrow_mut(|server| {
        let (server, _) = server.get_or_insert_with(|| {
            let dir = folder();
            let path = dir.path().join("remote.db");
            std::fs::write(&path, image()).expect("a database");
            (LocalServer::open(&path).expect("a server"), dir)
        });
        work(server);
    });
}

/// The body of a pull, of a pipeline and of a push, the query of a pull, and a selector by itself.
pub fn server_requests(data: &[u8]) {
    let _ = selector::decode(data);
    if decode_request(data).is_ok() {
        with_server(|server| {
            let (status, body) = server.answer("/pull-updates", data).expect("an answer");
            if status == 200 {
                let mut decoder = PullDecoder::new();
                decoder.push(&body, &mut |_| Ok(())).expect("pages");
                decoder.finish().expect("all of them");
            }
        });
    }
    if let Ok(query) = std::str::from_utf8(data)
        && pull_query::decode(query).is_ok()
    {
        with_server(|server| {
            let path = format!("/pull-updates?{query}");
            let (status, body) = server.answer(&path, &[]).expect("an answer");
            if status == 200 {
                let mut decoder = PullDecoder::new();
                decoder.push(&body, &mut |_| Ok(())).expect("pages");
                decoder.finish().expect("all of them");
            }
        });
    }
    push(data);
    if let Ok(request) = PipelineRequest::parse(data)
        && request.requests.iter().all(ends)
    {
        with_server(|server| {
            let (status, body) = server.answer("/v2/pipeline", data).expect("an answer");
            assert!(status == 200 || status >= 500, "{status}");
            if status == 200 {
                let answer = PipelineResponse::parse(&body).expect("a pipeline answer");
                assert_eq!(answer.results.len(), request.requests.len());
            }
        });
    }
}

/// A push as it is, and as the steps of one: a fuzzer would hardly find their checksum.
fn push(data: &[u8]) {
    let framed = push::PushRequest {
        count: data.first().copied().unwrap_or(0).into(),
        len: data.len().saturating_sub(1) as u64,
        crc32c: crc32c::crc32c(data.get(1..).unwrap_or_default()),
        steps: Some(data.get(1..).unwrap_or_default().to_vec().into()),
        steps_zstd: None,
    };
    for body in [data.to_vec(), framed.encode_to_vec()] {
        let Ok(request) = push::open(body.clone(), 1 << 20) else {
            continue;
        };
        let steps = request.steps();
        if !steps.filter_map(Result::ok).all(|step| short(step.sql)) {
            continue;
        }
        with_server(|server| {
            let (status, body) = server.answer("/push-changes", &body).expect("an answer");
            assert!(status == 200 || status == 400 || status >= 500, "{status}");
            if status == 200 {
                let answer = PushAnswer::parse(&body).expect("an answer to a push");
                let whole = answer.committed == request.count && answer.conflicts.is_empty();
                assert!(whole || (answer.committed == 0 && answer.conflicts.len() == 1));
            }
        });
    }
}

fn short(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    sql.matches("from").count() < 2 && !ENDLESS.iter().any(|word| sql.contains(word))
}

fn ends(request: &StreamRequest) -> bool {
    let short = |sql: &Option<String>| short(sql.as_deref().unwrap_or_default());
    match request {
        StreamRequest::Execute(stmt) => short(&stmt.sql),
        StreamRequest::Batch(batch) => batch.steps.iter().all(|step| short(&step.stmt.sql)),
        StreamRequest::Close => true,
    }
}

//! The server without a network.

use std::path::Path;
use std::sync::Arc;

use super::http::Refusal;
use super::limits::Limits;
use super::sql::Pool;
use super::store::Store;
use super::{direct, pull};
use crate::error::Result;
use crate::protocol::pipeline::PipelineRequest;
use crate::protocol::pull::decode_request;
use crate::protocol::pull_query;

/// Answers requests in the caller's thread, one at a time, with the code that [`Server`](super::Server) runs; an
/// empty pull is answered at once. For tests that must decide themselves when what happens.
pub struct LocalServer {
    pool: Pool,
    store: Store,
}

impl LocalServer {
    /// Opens or creates the database at `database`.
    pub fn open(database: &Path) -> Result<Self> {
        let pool = Pool::writing(&Limits::default(), &Arc::default());
        Self::with_pool(database, pool)
    }

    /// The same for a server as others are: one connection for all requests, and a transaction stays open, whatever
    /// fails in it, until a statement ends it. What a client forgets to roll back, the next request commits.
    pub fn keeping_transactions(database: &Path) -> Result<Self> {
        let pool = Pool::writing(&Limits::default(), &Arc::default());
        Self::with_pool(database, pool.keeping_transactions())
    }

    fn with_pool(database: &Path, pool: Pool) -> Result<Self> {
        Ok(LocalServer {
            pool,
            store: Store::open(Some(database))?,
        })
    }

    /// Status and body of the answer to a POST request to `path`, or to a GET request if the path has a query. An error if
    /// the body broke off.
    pub fn answer(&self, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let answered = match (path, path.strip_prefix("/pull-updates?")) {
            (_, Some(query)) => self.pull_by_url(query),
            ("/pull-updates", _) => self.pull_updates(body),
            // Who leaves transactions to the client does not speak the dialect in which the server ends them.
            ("/push-changes", _) if !self.pool.keeps_transactions() => self.push_changes(body),
            ("/v2/pipeline", _) => self.pipeline(body),
            _ => return Ok((404, b"Not Found".to_vec())),
        };
        answered.unwrap_or_else(|refusal| Ok((refusal.status(), refusal.text().into())))
    }

    fn pull_updates(&self, body: &[u8]) -> std::result::Result<Result<(u16, Vec<u8>)>, Refusal> {
        let request = decode_request(body).map_err(|e| Refusal::bad_request(e.message))?;
        Ok(whole(pull::answer(&self.store, &request)?))
    }

    fn pull_by_url(&self, query: &str) -> std::result::Result<Result<(u16, Vec<u8>)>, Refusal> {
        let request = direct::question(query)?;
        let answer = pull::answer(&self.store, &request)?;
        Ok(whole(answer.with_question(pull_query::checksum(&request))))
    }

    fn push_changes(&self, body: &[u8]) -> std::result::Result<Result<(u16, Vec<u8>)>, Refusal> {
        let (answer, _) = direct::push(&self.pool, &self.store, body.to_vec(), Limits::default().body)?;
        Ok(Ok((200, answer)))
    }

    fn pipeline(&self, body: &[u8]) -> std::result::Result<Result<(u16, Vec<u8>)>, Refusal> {
        let request = PipelineRequest::parse(body).map_err(|e| Refusal::bad_request(e.message))?;
        let (answer, _) = self.pool.run(&self.store, request)?;
        Ok(Ok((200, answer.to_bytes()?)))
    }

    /// What the server does now and then: moves the log into the file.
    pub fn keep_house(&self) -> Result<()> {
        self.store.drop_stale();
        self.store.checkpoint()
    }
}

fn whole(answer: pull::Answer) -> Result<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    answer.write(&mut |piece| {
        out.extend_from_slice(&piece);
        true
    })?;
    Ok((200, out))
}

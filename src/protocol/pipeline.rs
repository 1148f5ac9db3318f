//! `POST /v2/pipeline`: SQL over HTTP, the subset of Hrana that sync uses.
//!
//! Unknown keys are ignored and missing ones have defaults, in both directions, as deployed clients and servers
//! require. Requests are written by [`BatchBuilder`] straight into the body, because a push can be tens of
//! megabytes; the types here are what a server reads and answers, and what a client reads of the answer.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::error::{Category, Code, Error, Result};
use crate::protocol::sqlite_code;
use crate::record::Value;

/// Longest part of a remote's error message that is kept, in bytes.
const MAX_ERROR_MESSAGE: usize = 4 << 10;

/// Code of an error in one step of a batch.
pub const BATCH_STEP_ERROR: &str = "BATCH_STEP_ERROR";

/// A request body.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PipelineRequest {
    /// Stream handle; sync never uses one.
    #[serde(default)]
    pub baton: Option<String>,
    /// What to do, in order.
    pub requests: Vec<StreamRequest>,
}

impl PipelineRequest {
    /// Parses a request body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        serde_json::from_slice(body).map_err(|e| Error::protocol(format!("malformed pipeline request: {e}")))
    }
}

/// One request of a pipeline.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawStreamRequest")]
pub enum StreamRequest {
    /// One statement.
    Execute(Stmt),
    /// Statements with conditions.
    Batch(Batch),
    /// End of the stream.
    Close,
}

/// `#[serde(tag)]` would buffer the whole batch in an intermediate tree; this does not.
#[derive(Deserialize)]
struct RawStreamRequest {
    #[serde(rename = "type")]
    kind: String,
    stmt: Option<Stmt>,
    batch: Option<Batch>,
}

impl TryFrom<RawStreamRequest> for StreamRequest {
    type Error = String;

    fn try_from(raw: RawStreamRequest) -> std::result::Result<Self, String> {
        match (raw.kind.as_str(), raw.stmt, raw.batch) {
            ("execute", Some(stmt), _) => Ok(StreamRequest::Execute(stmt)),
            ("batch", _, Some(batch)) => Ok(StreamRequest::Batch(batch)),
            ("close", _, _) => Ok(StreamRequest::Close),
            ("execute", ..) => Err("execute without stmt".to_owned()),
            ("batch", ..) => Err("batch without batch".to_owned()),
            (other, ..) => Err(format!("request type {other:?} is not supported")),
        }
    }
}

/// Steps that run in order, each if its condition holds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Batch {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One step of a batch.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Step {
    /// Runs always if missing.
    #[serde(default)]
    pub condition: Option<Condition>,
    /// What to run.
    pub stmt: Stmt,
}

/// When to run a step. Step numbers count from 0 within the batch.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawCondition")]
pub enum Condition {
    /// That step ran and succeeded.
    Ok(usize),
    /// That step ran and failed.
    Error(usize),
    /// Negation.
    Not(Box<Condition>),
    /// All of them.
    And(Vec<Condition>),
    /// At least one of them.
    Or(Vec<Condition>),
    /// No transaction is open.
    IsAutocommit,
}

#[derive(Deserialize)]
struct RawCondition {
    #[serde(rename = "type")]
    kind: String,
    step: Option<usize>,
    cond: Option<Box<Condition>>,
    conds: Option<Vec<Condition>>,
}

impl TryFrom<RawCondition> for Condition {
    type Error = String;

    fn try_from(raw: RawCondition) -> std::result::Result<Self, String> {
        match (raw.kind.as_str(), raw.step, raw.cond, raw.conds) {
            ("ok", Some(step), _, _) => Ok(Condition::Ok(step)),
            ("error", Some(step), _, _) => Ok(Condition::Error(step)),
            ("not", _, Some(cond), _) => Ok(Condition::Not(cond)),
            ("and", _, _, Some(conds)) => Ok(Condition::And(conds)),
            ("or", _, _, Some(conds)) => Ok(Condition::Or(conds)),
            ("is_autocommit", ..) => Ok(Condition::IsAutocommit),
            (other, ..) => Err(format!("malformed or unknown condition {other:?}")),
        }
    }
}

/// One SQL statement with its arguments.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Stmt {
    /// The text; a request without it is answered with an error of that request.
    #[serde(default)]
    pub sql: Option<String>,
    /// Positional arguments.
    #[serde(default)]
    pub args: Vec<Value>,
    /// Named arguments.
    #[serde(default)]
    pub named_args: Vec<NamedArg>,
    /// Whether rows are wanted; missing means yes.
    #[serde(default)]
    pub want_rows: Option<bool>,
}

/// One named argument; the name may come with or without its `:`, `@` or `$`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NamedArg {
    /// Parameter name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineResponse {
    /// The request's baton.
    #[serde(default)]
    pub baton: Option<String>,
    /// Where to send the next request; never used.
    #[serde(default)]
    pub base_url: Option<String>,
    /// One per request.
    pub results: Vec<StreamResult>,
}

impl PipelineResponse {
    /// Parses an answer body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        serde_json::from_slice(body)
            .map_err(|e| Error::protocol(format!("malformed answer to a pipeline request: {e}")))
    }

    /// The answer as a body.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("pipeline answer: {e}")))
    }
}

/// Result of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamResult {
    /// The request was carried out; steps of a batch may still have failed.
    Ok {
        /// Its answer.
        response: StreamResponse,
    },
    /// The request failed as a whole.
    Error {
        /// Why.
        error: StmtError,
    },
}

/// Answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamResponse {
    /// Answer to `execute`.
    Execute {
        /// What the statement gave.
        result: StmtResult,
    },
    /// Answer to `batch`.
    Batch {
        /// What the steps gave.
        result: BatchResult,
    },
    /// Answer to `close`.
    Close,
}

/// What the steps of a batch gave: for each step a result, an error, or (if it was skipped) neither.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchResult {
    /// Results by step.
    pub step_results: Vec<Option<StmtResult>>,
    /// Errors by step.
    pub step_errors: Vec<Option<StmtError>>,
    /// Never used, always sent.
    #[serde(default)]
    pub replication_index: Option<u64>,
}

/// An answer as far as it must be read to find the steps of its only batch.
#[derive(Deserialize)]
struct RawAnswer<'a> {
    #[serde(borrow)]
    results: [RawResult<'a>; 1],
}

#[derive(Deserialize)]
struct RawResult<'a> {
    #[serde(borrow)]
    response: Option<RawResponse<'a>>,
    error: Option<StmtError>,
}

#[derive(Deserialize)]
struct RawResponse<'a> {
    #[serde(borrow)]
    result: Option<RawSteps<'a>>,
}

#[derive(Deserialize)]
struct RawSteps<'a> {
    #[serde(borrow)]
    step_results: Option<&'a RawValue>,
    #[serde(borrow)]
    step_errors: Option<&'a RawValue>,
}

impl BatchResult {
    /// Reads the answer to a pipeline of exactly one batch of `steps` steps. Memory: that of as many results, however
    /// many elements the answer has.
    pub fn parse(body: &[u8], steps: usize) -> Result<Self> {
        let malformed = |e| Error::protocol(format!("malformed answer to a batch of {steps} steps: {e}"));
        let answer: RawAnswer<'_> = serde_json::from_slice(body).map_err(malformed)?;
        let [RawResult { response, error }] = answer.results;
        if let Some(error) = error {
            return Err(error.into());
        }
        let batch = response.and_then(|response| response.result);
        let parts = batch.and_then(|batch| Some((batch.step_results?, batch.step_errors?)));
        let (results, errors) =
            parts.ok_or_else(|| Error::protocol("the answer to a batch is not a batch"))?;
        Ok(BatchResult {
            step_results: elements(results, steps).map_err(malformed)?,
            step_errors: elements(errors, steps).map_err(malformed)?,
            replication_index: None,
        })
    }

    /// The first step that failed.
    pub fn first_error(&self) -> Option<(usize, &StmtError)> {
        self.step_errors
            .iter()
            .enumerate()
            .find_map(|(i, e)| Some((i, e.as_ref()?)))
    }

    /// The result of step `i`, if it ran and succeeded.
    pub fn result(&self, i: usize) -> Option<&StmtResult> {
        self.step_results.get(i)?.as_ref()
    }
}

/// The elements of a JSON array that has `count` of them; gives up at the first one that is too many.
fn elements<'de, T: Deserialize<'de>>(json: &'de RawValue, count: usize) -> serde_json::Result<Vec<T>> {
    struct Elements<T>(usize, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} elements", self.0)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> std::result::Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(element) = array.next_element()? {
                all.push(element);
                if all.len() > self.0 {
                    break;
                }
            }
            match all.len() == self.0 {
                true => Ok(all),
                false => Err(A::Error::invalid_length(all.len(), &self)),
            }
        }
    }
    serde_json::Deserializer::from_str(json.get()).deserialize_seq(Elements(count, PhantomData))
}

/// What a statement gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StmtResult {
    /// Columns; empty if rows were not wanted.
    pub cols: Vec<Col>,
    /// Rows; empty if not wanted.
    pub rows: Vec<Vec<Value>>,
    /// Rows inserted, updated or deleted by this statement.
    pub affected_row_count: u64,
    /// Last rowid inserted, as a decimal string.
    pub last_insert_rowid: Option<String>,
    /// Never used, always sent.
    pub replication_index: Option<u64>,
    /// Not measured, 0.
    pub rows_read: u64,
    /// Not measured, 0.
    pub rows_written: u64,
    /// Not measured, 0.
    pub query_duration_ms: f64,
}

/// A result column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Col {
    /// Name.
    #[serde(default)]
    pub name: Option<String>,
    /// Declared type, if it is a table's column.
    #[serde(default)]
    pub decltype: Option<String>,
}

/// Why a statement failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StmtError {
    /// SQLite's text.
    pub message: String,
    /// What kind of failure: our server sends SQLite's result code by name, the reference server words of its own.
    #[serde(default)]
    pub code: Option<String>,
}

impl From<StmtError> for Error {
    fn from(e: StmtError) -> Self {
        let end = e.message.floor_char_boundary(MAX_ERROR_MESSAGE);
        let message = format!("the remote refused a statement: {}", &e.message[..end]);
        let error = match e.code.as_deref().and_then(sqlite_code::code_of) {
            Some(code) => Error::sqlite(code, message),
            // The reference server has only words.
            None if e.message.contains("constraint failed") => {
                Error::new(Category::Remote, Code::Constraint, message)
            }
            None => Error::new(Category::Remote, Code::Error, message),
        };
        error.categorized(Category::Remote)
    }
}

/// Why `value` has no JSON form (an infinity, text that is not UTF-8), if it has none.
pub fn unsendable(value: &Value) -> Option<&'static str> {
    super::value::obstacle(value)
}

#[derive(Serialize)]
struct StmtOut<'a> {
    sql: &'a str,
    sql_id: Option<u32>,
    args: &'a [Value],
    named_args: [(); 0],
    want_rows: bool,
    replication_index: Option<u64>,
}

/// Condition of a step that [`BatchBuilder`] writes.
#[derive(Debug, Clone, Copy)]
enum Chain {
    Always,
    AfterPrevious,
    InTransaction,
}

/// Writes a request with one batch, step by step, into the body that will be sent.
///
/// Every step depends on the success of the one before, so that after a failure nothing more runs:
///
/// ```
/// use turso_sync::{protocol::pipeline::BatchBuilder, record::Value};
/// let mut batch = BatchBuilder::transaction();
/// batch.step("INSERT INTO t VALUES (?)", &[Value::Integer(1)])?;
/// let (body, steps) = batch.commit()?;
/// assert_eq!(steps, 4); // BEGIN IMMEDIATE, INSERT, COMMIT, ROLLBACK if still in a transaction
/// # Ok::<(), turso_sync::error::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    body: Vec<u8>,
    steps: usize,
}

const HEAD: &[u8] = br#"{"baton":null,"requests":[{"type":"batch","batch":{"steps":["#;
const TAIL: &[u8] = br#"],"replication_index":null}}]}"#;

impl BatchBuilder {
    /// A batch outside any transaction.
    pub fn plain() -> Self {
        BatchBuilder {
            body: HEAD.to_vec(),
            steps: 0,
        }
    }

    /// A batch that starts with `BEGIN IMMEDIATE`; end it with [`commit`](Self::commit).
    pub fn transaction() -> Self {
        let mut batch = Self::plain();
        // Literal SQL without arguments always serialises.
        let _ = batch.put(Chain::Always, "BEGIN IMMEDIATE", &[], false);
        batch
    }

    /// Adds a statement that runs if the one before succeeded; returns its step number. On failure (a value has
    /// no JSON form) the batch is as it was before.
    pub fn step(&mut self, sql: &str, args: &[Value]) -> Result<usize> {
        self.put(Chain::AfterPrevious, sql, args, false)
    }

    /// Like [`step`](Self::step), and asks for the rows.
    pub fn query(&mut self, sql: &str, args: &[Value]) -> Result<usize> {
        self.put(Chain::AfterPrevious, sql, args, true)
    }

    /// Number of steps so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Length of the body so far, in bytes.
    pub fn body_len(&self) -> usize {
        self.body.len() + TAIL.len()
    }

    /// Adds `COMMIT` if everything succeeded and `ROLLBACK` if a transaction is still open. Returns the body and
    /// the number of steps; the commit is the last but one.
    pub fn commit(mut self) -> Result<(Vec<u8>, usize)> {
        self.put(Chain::AfterPrevious, "COMMIT", &[], false)?;
        self.put(Chain::InTransaction, "ROLLBACK", &[], false)?;
        Ok(self.finish())
    }

    /// The body and the number of steps.
    pub fn finish(mut self) -> (Vec<u8>, usize) {
        self.body.extend_from_slice(TAIL);
        (self.body, self.steps)
    }

    fn put(&mut self, chain: Chain, sql: &str, args: &[Value], want_rows: bool) -> Result<usize> {
        let start = self.body.len();
        if self.steps > 0 {
            self.body.push(b',');
        }
        self.body.extend_from_slice(br#"{"condition":"#);
        match (chain, self.steps.checked_sub(1)) {
            (Chain::InTransaction, _) => {
                self.body
                    .extend_from_slice(br#"{"type":"not","cond":{"type":"is_autocommit"}}"#);
            }
            (Chain::AfterPrevious, Some(previous)) => {
                self.body
                    .extend_from_slice(format!(r#"{{"type":"ok","step":{previous}}}"#).as_bytes());
            }
            _ => self.body.extend_from_slice(b"null"),
        }
        self.body.extend_from_slice(br#","stmt":"#);
        let stmt = StmtOut {
            sql,
            sql_id: None,
            args,
            named_args: [],
            want_rows,
            replication_index: None,
        };
        if let Err(e) = serde_json::to_writer(&mut self.body, &stmt) {
            self.body.truncate(start);
            return Err(Error::new(
                Category::Database,
                Code::Error,
                format!("cannot send a change: {e}"),
            ));
        }
        self.body.push(b'}');
        self.steps += 1;
        Ok(self.steps - 1)
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;

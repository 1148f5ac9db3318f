//! `POST /push-changes`, the direct dialect of a push: one transaction, as compact as it gets.
//!
//! The request carries what a batch of `/v2/pipeline` would: the same statements with the same arguments in the same order,
//! made by the same generator. Its conditions are implied: `BEGIN IMMEDIATE`, every step if the one before succeeded,
//! `COMMIT`; at the first failure `ROLLBACK`, and nothing of the request is there.
//!
//! ```text
//! request   = PushRequest (protobuf)      steps as they are, or as one zstd frame
//! steps     = step*
//! step      = varint(0) varint(length) text record     a new statement text: it gets the next number, from 0 on, if
//!                                                      fewer than 4096 have one
//!           | varint(1) varint(id)                     the steps from here on belong to local transaction `id`; 0: to
//!                                                      none, they are guards and acknowledgements
//!           | varint(2 + number) record                the statement with that number
//! record    = arguments in SQLite's record format      varint: SQLite's, big-endian, at most 9 bytes
//! answer    = PushAnswer (protobuf)
//! ```
//!
//! Steps are counted from 1 in answers, without those that begin a transaction: 0 is the `BEGIN IMMEDIATE`, the number behind
//! the last step is the `COMMIT`.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;

use crate::error::{Error, Result};
use crate::protocol::pipeline::StmtError;
use crate::protocol::sqlite_code;
use crate::record::{RecordBuilder, Value, ValueRef, decode_first, each_value, get_varint, put_varint};

/// Statement texts that get a number in one request; others are sent each time.
pub const MAX_TEXTS: usize = 4096;
/// Texts whose numbers are looked for first.
const RECENT_TEXTS: usize = 4;
/// Longest answer to a push, in bytes: the server tells of the first conflict.
pub const MAX_PUSH_ANSWER: usize = 64 << 10;
/// Steps shorter than this are sent as they are, in bytes. Miri cannot call zstd.
const COMPRESS_FROM: usize = if cfg!(miri) { usize::MAX } else { 512 };
/// zstd level of a push: 3 saves 6% of the bytes of 200,000 inserted rows, and takes a multiple of the time.
const ZSTD_LEVEL: i32 = 1;
/// Longest distance that a compressed request may look back, as a power of two: what the receiver must keep.
const WINDOW_LOG: u32 = 21;
/// Longest header of a record, in bytes: no statement has more than 32766 parameters.
const MAX_RECORD_HEADER: u64 = 9 * 32767;
/// Longest error message in an answer, in bytes.
const MAX_MESSAGE: usize = 4 << 10;

/// A request. Exactly one of `steps` and `steps_zstd` is there.
#[derive(Clone, PartialEq, Message)]
pub struct PushRequest {
    /// Number of statements, so that a request that lost some is noticed.
    #[prost(uint64, tag = "1")]
    pub count: u64,
    /// Length of the steps in bytes, uncompressed.
    #[prost(uint64, tag = "2")]
    pub len: u64,
    /// CRC32C of the steps, uncompressed.
    #[prost(fixed32, tag = "3")]
    pub crc32c: u32,
    /// The steps.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub steps: Option<Bytes>,
    /// The steps as one zstd frame.
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub steps_zstd: Option<Bytes>,
}

/// An answer: the request was committed, or is in conflict and nothing of it is there.
#[derive(Clone, PartialEq, Message)]
pub struct PushAnswer {
    /// Number of statements that were committed: all of the request, or 0.
    #[prost(uint64, tag = "1")]
    pub committed: u64,
    /// Transactions that failed. The bundled server stops at the first one.
    #[prost(message, repeated, tag = "2")]
    pub conflicts: Vec<PushConflict>,
}

/// Why a transaction failed. Which table and key it is about, the sender knows by the step.
#[derive(Clone, PartialEq, Message)]
pub struct PushConflict {
    /// The local transaction; 0 if the step belongs to none.
    #[prost(int64, tag = "1")]
    pub txn_id: i64,
    /// The step that failed.
    #[prost(uint64, tag = "2")]
    pub step: u64,
    /// Extended result code of SQLite; 0 if SQLite has not said it.
    #[prost(int32, tag = "3")]
    pub sqlite_code: i32,
    /// What the constraint is on, in SQLite's words, such as `users.email`; may be empty.
    #[prost(string, tag = "4")]
    pub constraint: String,
    /// SQLite's text.
    #[prost(string, tag = "5")]
    pub message: String,
}

impl PushConflict {
    /// Describes the failure of `step` in `txn_id`.
    pub fn new(txn_id: i64, step: u64, error: &Error) -> Self {
        let message = &error.message[..error.message.floor_char_boundary(MAX_MESSAGE)];
        let constraint = message.split_once("constraint failed: ");
        PushConflict {
            txn_id,
            step,
            sqlite_code: error.sqlite_code.unwrap_or(0),
            constraint: constraint.map_or("", |(_, rest)| rest).to_owned(),
            message: message.to_owned(),
        }
    }

    /// The same as the compatible dialect says it, so that both are judged by the same rules.
    pub fn to_error(&self) -> StmtError {
        StmtError {
            message: self.message.clone(),
            code: sqlite_code::name_of(self.sqlite_code).map(str::to_owned),
        }
    }
}

impl PushAnswer {
    /// Parses an answer body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        PushAnswer::decode(body).map_err(|e| Error::protocol(format!("malformed answer to a push: {e}")))
    }
}

/// Writes the steps of a request.
///
/// ```
/// use turso_sync::{protocol::push::{PushBuilder, open}, record::Value};
/// let mut push = PushBuilder::default();
/// push.begin_transaction(7);
/// push.step("INSERT INTO t VALUES (?)", &[Value::Integer(1)]);
/// let push = open(push.finish()?, 1 << 20)?;
/// let step = push.steps().next().unwrap()?;
/// assert_eq!((step.txn_id, step.sql), (7, "INSERT INTO t VALUES (?)"));
/// # Ok::<(), turso_sync::error::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct PushBuilder {
    steps: Vec<u8>,
    count: u64,
    txn_id: i64,
    numbers: HashMap<Arc<str>, u64>,
    /// Texts that were used last, oldest first: few take turns, and comparing is faster than hashing.
    recent: VecDeque<(Arc<str>, u64)>,
    record: RecordBuilder,
}

impl PushBuilder {
    /// The steps from here on belong to the local transaction `txn_id`; 0 = to none.
    pub fn begin_transaction(&mut self, txn_id: i64) {
        if txn_id != self.txn_id {
            self.txn_id = txn_id;
            put_varint(&mut self.steps, 1);
            put_varint(&mut self.steps, txn_id as u64);
        }
    }

    /// Adds a statement.
    pub fn step(&mut self, sql: &str, args: &[Value]) {
        self.count += 1;
        match self.number_of(sql) {
            Some(number) => put_varint(&mut self.steps, number + 2),
            None => {
                put_varint(&mut self.steps, 0);
                put_varint(&mut self.steps, sql.len() as u64);
                self.steps.extend_from_slice(sql.as_bytes());
                if self.numbers.len() < MAX_TEXTS {
                    self.numbers.insert(sql.into(), self.numbers.len() as u64);
                }
            }
        }
        args.iter().for_each(|value| self.record.value(value));
        self.record.finish_into(&mut self.steps);
    }

    fn number_of(&mut self, sql: &str) -> Option<u64> {
        if let Some((_, number)) = self.recent.iter().find(|(text, _)| **text == *sql) {
            return Some(*number);
        }
        let (text, number) = self.numbers.get_key_value(sql)?;
        if self.recent.len() == RECENT_TEXTS {
            self.recent.pop_front();
        }
        self.recent.push_back((text.clone(), *number));
        Some(*number)
    }

    /// Number of statements so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of the steps so far, uncompressed.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// True if there are no steps.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The request's body.
    pub fn finish(self) -> Result<Vec<u8>> {
        let mut request = PushRequest {
            count: self.count,
            len: self.steps.len() as u64,
            crc32c: crc32c::crc32c(&self.steps),
            ..Default::default()
        };
        let packed = match self.steps.len() {
            COMPRESS_FROM.. => Some(pack(&self.steps)?).filter(|packed| packed.len() < self.steps.len()),
            _ => None,
        };
        match packed {
            Some(packed) => request.steps_zstd = Some(packed.into()),
            None => request.steps = Some(self.steps.into()),
        }
        Ok(request.encode_to_vec())
    }
}

fn pack(steps: &[u8]) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::internal(format!("zstd: {e}"));
    let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(fail)?;
    let window = zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG);
    zstd.set_parameter(window).map_err(fail)?;
    zstd.compress(steps).map_err(fail)
}

/// The steps of a request, checked to be whole; `body` is a [`PushRequest`]. `limit`: most bytes that they may have. No more
/// memory is taken than there are bytes, whatever the request says.
pub fn open(body: Vec<u8>, limit: usize) -> Result<Push> {
    let malformed = |what: &str| Error::protocol(format!("malformed push: {what}"));
    let request = PushRequest::decode(Bytes::from(body)).map_err(|e| malformed(&e.to_string()))?;
    let len = usize::try_from(request.len).ok().filter(|len| *len <= limit);
    let len = len.ok_or_else(|| malformed(&format!("its steps are longer than {limit} bytes")))?;
    let steps = match (request.steps, request.steps_zstd) {
        (Some(steps), None) => steps,
        (None, Some(packed)) => unpack(&packed, len)?,
        _ => return Err(malformed("it does not have its steps in exactly one form")),
    };
    if steps.len() != len || crc32c::crc32c(&steps) != request.crc32c {
        return Err(malformed("it was damaged on its way: wrong length or checksum").retry());
    }
    Ok(Push {
        count: request.count,
        steps,
    })
}

/// What a request carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// Number of statements that it must have.
    pub count: u64,
    steps: Bytes,
}

impl Push {
    /// The steps, from the first one on. Whoever runs them must compare their number with `count` before the commit.
    pub fn steps(&self) -> Steps<'_> {
        Steps {
            rest: &self.steps,
            texts: Vec::new(),
            txn_id: 0,
        }
    }
}

/// Decompresses at most `len` bytes and one.
fn unpack(packed: &[u8], len: usize) -> Result<Bytes> {
    let fail =
        |e: std::io::Error| Error::protocol(format!("malformed push: its steps cannot be decompressed: {e}"));
    let mut zstd = zstd::stream::read::Decoder::with_buffer(packed)
        .map_err(fail)?
        .single_frame();
    zstd.window_log_max(WINDOW_LOG).map_err(fail)?;
    let mut steps = Vec::new();
    zstd.take(len as u64 + 1).read_to_end(&mut steps).map_err(fail)?;
    Ok(steps.into())
}

/// One statement of a request.
#[derive(Debug, PartialEq)]
pub struct Step<'a> {
    /// The local transaction; 0 = none.
    pub txn_id: i64,
    /// The number of its text, if it has one.
    pub number: Option<usize>,
    /// Its text.
    pub sql: &'a str,
    /// Its arguments as a record.
    record: &'a [u8],
}

impl<'a> Step<'a> {
    /// Gives `on` the arguments, in order.
    pub fn each_arg(&self, mut on: impl FnMut(ValueRef<'a>) -> Result<()>) -> Result<()> {
        each_value(self.record, &mut on).map(drop)
    }

    /// Its arguments.
    pub fn args(&self) -> Vec<Value> {
        // It has been read once already.
        decode_first(self.record).map_or_else(|_| Vec::new(), |(args, _)| args)
    }
}

/// Reads the steps one after the other; ends after an error. Memory: the places of the texts that have numbers.
pub struct Steps<'a> {
    rest: &'a [u8],
    texts: Vec<&'a str>,
    txn_id: i64,
}

impl<'a> Steps<'a> {
    fn step(&mut self) -> Option<Step<'a>> {
        loop {
            let (number, sql) = match self.varint()? {
                0 => self.text()?,
                1 => {
                    self.txn_id = self.varint()? as i64;
                    continue;
                }
                number => {
                    let number = usize::try_from(number - 2).ok()?;
                    (Some(number), *self.texts.get(number)?)
                }
            };
            let (header, _) = get_varint(self.rest)?;
            if header > MAX_RECORD_HEADER {
                return None;
            }
            let len = each_value(self.rest, |_| Ok(())).ok()?;
            let (record, rest) = self.rest.split_at_checked(len)?;
            self.rest = rest;
            return Some(Step {
                txn_id: self.txn_id,
                number,
                sql,
                record,
            });
        }
    }

    fn text(&mut self) -> Option<(Option<usize>, &'a str)> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        let text = std::str::from_utf8(text).ok()?;
        let number = self.texts.len();
        if number == MAX_TEXTS {
            return Some((None, text));
        }
        self.texts.push(text);
        Some((Some(number), text))
    }

    fn varint(&mut self) -> Option<u64> {
        let (value, len) = get_varint(self.rest)?;
        self.rest = self.rest.get(len..)?;
        Some(value)
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Result<Step<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let step = self.step();
        if step.is_none() {
            self.rest = &[];
        }
        Some(step.ok_or_else(|| Error::protocol("malformed push: a step cannot be read")))
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;

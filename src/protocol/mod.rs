//! The sync protocol: bytes to messages and back. No IO, no SQLite, no clock.
//!
//! ```text
//! pull      = POST <base>/pull-updates      request-body: PullUpdatesRequest (protobuf, may be zero bytes long)
//! answer    = message(header) message(page)* end-of-body
//! message   = length bytes                  length: unsigned LEB128, at most 9 bytes; bytes: protobuf
//! header    = PullHeader                    revision, size in pages, encoding; ours adds page counts
//! page      = PageMessage                   zero-based id, 4096 bytes after decoding; ours adds a CRC32C
//!
//! pipeline  = POST <base>/v2/pipeline       request-body and answer: JSON
//! request   = { baton, requests: [ execute | batch ] }
//! batch     = { steps: [ { condition, stmt } ] }
//! condition = ok(step) | error(step) | not(condition) | and(condition*) | or(condition*) | is_autocommit
//! value     = null | integer(string) | float(number) | text(string) | blob(base64, unpadded)
//! ```
//!
//! The direct dialect carries the same in other clothes, see [`pull_query`] and [`push`]:
//!
//! ```text
//! pull      = GET <base>/pull-updates?query answer as above, may be compressed as a whole behind its header
//! push      = POST <base>/push-changes      request-body: PushRequest, answer: PushAnswer (protobuf)
//! ```
//!
//! There is no end marker in a pull answer: the end of the HTTP body is the end of the stream. Our own server
//! therefore sends the number of pages in a header field that other clients ignore.

pub(crate) mod inflate;
pub mod pipeline;
pub mod pull;
pub mod pull_query;
pub mod push;
pub mod selector;
pub mod sqlite_code;
pub mod url;
mod value;

/// The only page size of the protocol, in bytes.
pub const PAGE_SIZE: usize = 4096;

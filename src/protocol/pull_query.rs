//! `GET /pull-updates`, the direct dialect of a pull: the question is in the URL, so that HTTP caches can answer it.
//!
//! ```text
//! path      = "/pull-updates?encoding=" ("raw" | "pages" | "stream") parameter*
//! parameter = "&from=" text        revision that the client has
//!           | "&to=" text          revision that is wanted; absent: the newest
//!           | "&wait=" digits      how long the server may hold an otherwise empty answer, in milliseconds
//!           | "&pages=" base64url  page selector, without padding
//!           | "&max=" digits       most pages that the answer shall have
//! text      = unreserved characters as they are, all others as %XX
//! ```
//!
//! What lies between two revisions never changes: an answer to a question with `to` may be kept for ever. One to a question
//! without `to` may be used again only after the server was asked whether it still holds.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;

use super::pull::{ENCODING_RAW, ENCODING_STREAM, ENCODING_ZSTD, PullUpdatesRequest};
use super::selector::MAX_SELECTOR_LEN;
use crate::error::{Error, Result};

/// Longest path with query that a client sends, in bytes; longer questions are POSTed.
pub const MAX_PATH: usize = 4 << 10;

/// The endpoint.
const PATH: &str = "/pull-updates";

/// Path and query of `request`. Fields that have no place in a query must not be set.
pub fn encode(request: &PullUpdatesRequest) -> String {
    let mut path = format!("{PATH}?{}", question(request));
    for (name, value) in [("max", request.max_pages), ("wait", request.long_poll_timeout_ms)] {
        if value > 0 {
            path += &format!("&{name}={value}");
        }
    }
    path
}

/// Tells questions apart, whatever order and spelling the query had on its way. The waiting time does not count, nor does the
/// limit: an answer says itself how far it goes.
pub fn checksum(request: &PullUpdatesRequest) -> u32 {
    crc32c::crc32c(question(request).as_bytes())
}

fn question(request: &PullUpdatesRequest) -> String {
    let encoding = match request.encoding {
        ENCODING_ZSTD => "pages",
        ENCODING_STREAM => "stream",
        _ => "raw",
    };
    let mut query = format!("encoding={encoding}");
    for (name, value) in [
        ("from", &request.client_revision),
        ("to", &request.server_revision),
    ] {
        if !value.is_empty() {
            query += &format!("&{name}={}", escape(value));
        }
    }
    if !request.server_pages_selector.is_empty() {
        query += &format!("&pages={}", BASE64URL.encode(&request.server_pages_selector));
    }
    query
}

/// The request that a query (what follows the `?`) makes. Unknown parameters are ignored, a doubled one is an error.
pub fn decode(query: &str) -> Result<PullUpdatesRequest> {
    let bad = |what: &str| Error::protocol(format!("malformed pull request: {what}"));
    let mut request = PullUpdatesRequest::default();
    let mut seen = Vec::new();
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let known = ["encoding", "from", "to", "wait", "pages", "max"]
            .iter()
            .find(|k| **k == name);
        let Some(known) = known else { continue };
        if seen.contains(known) {
            return Err(bad(&format!("{known} occurs twice")));
        }
        seen.push(known);
        let text = || unescape(value).ok_or_else(|| bad(&format!("{known} is not valid")));
        match *known {
            "encoding" => {
                request.encoding = match value {
                    "raw" => ENCODING_RAW,
                    "pages" => ENCODING_ZSTD,
                    "stream" => ENCODING_STREAM,
                    _ => return Err(bad("unknown encoding")),
                }
            }
            "from" => request.client_revision = text()?,
            "to" => request.server_revision = text()?,
            "wait" => {
                request.long_poll_timeout_ms = value.parse().map_err(|_| bad("wait is not a number"))?;
            }
            "max" => request.max_pages = value.parse().map_err(|_| bad("max is not a number"))?,
            _ if value.len() > MAX_SELECTOR_LEN => return Err(bad("pages is too long")),
            _ => {
                request.server_pages_selector = BASE64URL
                    .decode(value)
                    .map_err(|_| bad("pages is not base64url"))?;
            }
        }
    }
    Ok(request)
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        out.push(match byte {
            b'%' => (digit(bytes.next())? << 4 | digit(bytes.next())?) as u8,
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::selector;
    use proptest::prelude::*;

    fn example() -> PullUpdatesRequest {
        PullUpdatesRequest {
            encoding: ENCODING_STREAM,
            client_revision: "5f:17".into(),
            server_revision: "5f:19".into(),
            long_poll_timeout_ms: 250,
            server_pages_selector: selector::encode_range(0..16).unwrap(),
            ..Default::default()
        }
    }

    #[test]
    fn questions_and_their_urls() {
        let path = encode(&example());
        assert_eq!(
            path,
            "/pull-updates?encoding=stream&from=5f%3A17&to=5f%3A19&pages=OzAAAAEAAA8AAQAAAA8A&wait=250"
        );
        assert_eq!(decode(path.split_once('?').unwrap().1).unwrap(), example());
        assert_eq!(
            encode(&PullUpdatesRequest::default()),
            "/pull-updates?encoding=raw"
        );
        assert_eq!(decode("").unwrap(), PullUpdatesRequest::default());
        assert_eq!(decode("x=1&&wait=7&y").unwrap().long_poll_timeout_ms, 7);
        let limited = PullUpdatesRequest {
            max_pages: 256,
            ..example()
        };
        assert_eq!(encode(&limited), path.replace("&wait", "&max=256&wait"));
        assert_eq!(
            decode(encode(&limited).split_once('?').unwrap().1).unwrap(),
            limited
        );
        assert_eq!(checksum(&limited), checksum(&example()));
    }

    #[test]
    fn the_checksum_is_of_the_question_and_of_nothing_else() {
        let reordered = decode("to=5f:19&pages=OzAAAAEAAA8AAQAAAA8A&from=%35f%3a17&encoding=stream").unwrap();
        assert_eq!(checksum(&reordered), checksum(&example()));
        for (change, what) in [
            ("encoding=raw&from=5f:17&to=5f:19", "encoding"),
            ("encoding=stream&from=5f:18&to=5f:19", "from"),
            ("encoding=stream&from=5f:17", "to"),
            ("encoding=stream&from=5f:17&to=5f:19", "pages"),
        ] {
            assert_ne!(checksum(&decode(change).unwrap()), checksum(&example()), "{what}");
        }
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            "encoding=gzip",
            "encoding=",
            "from=%",
            "from=%4",
            "from=%zz",
            "from=%ff",
            "wait=-1",
            "wait=99999999999",
            "max=-1",
            "max=1&max=1",
            "pages=*",
            "pages=AA==",
            "to=1&to=2",
        ] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_revision_survives(from in ".*", to in ".*", pages in proptest::collection::vec(any::<u8>(), 0..40)) {
            let request = PullUpdatesRequest {
                client_revision: from,
                server_revision: to,
                server_pages_selector: pages,
                ..Default::default()
            };
            let path = encode(&request);
            prop_assert!(path.is_ascii());
            prop_assert_eq!(decode(path.split_once('?').unwrap().1).unwrap(), request);
        }

        #[test]
        fn any_query_is_an_error_or_a_question(query in ".*") {
            let _ = decode(&query);
        }
    }
}

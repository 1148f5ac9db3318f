//! Who may do what: bearer tokens.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, HeaderValue, header};

use super::databases::valid_name;
use crate::error::{Error, Result};

/// A token in a file has at least this many characters.
const MIN_TOKEN_LEN: usize = 16;
/// Longest token file, in bytes.
const MAX_FILE_LEN: u64 = 1 << 20;

/// What a request may do; what is more includes what is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Look at `/metrics`.
    Metrics,
    /// Pull, and run SQL that only reads.
    Read,
    /// Everything.
    Write,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No token, or one that nobody gave out: 401.
    Unknown,
    /// A token that does not reach so far: 403.
    TooLittle,
}

/// No `Debug`: a token must not get into a log.
#[derive(Clone)]
struct Token {
    secret: String,
    access: Access,
    /// All databases if missing.
    databases: Option<Vec<String>>,
}

/// Where tokens come from. No `Debug`, as above.
#[derive(Clone, Default)]
pub struct TokenSource {
    /// A token for reading and writing every database.
    pub write: Option<String>,
    /// A token for reading every database.
    pub read: Option<String>,
    /// A file with further tokens, read again on request.
    pub file: Option<PathBuf>,
}

/// The tokens that count at the moment.
pub struct Tokens {
    source: TokenSource,
    current: RwLock<Arc<Vec<Token>>>,
}

impl Tokens {
    /// Reads the tokens. `named` says whether databases have names, so that a token can be for some of them.
    pub fn load(source: TokenSource, named: bool) -> Result<Self> {
        let current = RwLock::new(Arc::new(gather(&source)?));
        let tokens = Tokens { source, current };
        let for_some = tokens.current().iter().any(|t| t.databases.is_some());
        match for_some && !named {
            true => Err(Error::misuse(
                "a token is for certain databases, but only one is served, and it has no name",
            )),
            false => Ok(tokens),
        }
    }

    /// Reads the file again; if that fails, the old tokens go on to count.
    pub fn reload(&self) -> Result<usize> {
        let fresh = gather(&self.source)?;
        let count = fresh.len();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(count)
    }

    /// What the sender of a request with these headers may do with `database` (with the server, if missing).
    pub fn access(&self, headers: &HeaderMap, database: Option<&str>) -> std::result::Result<Access, Denied> {
        let tokens = self.current();
        if tokens.is_empty() {
            return Ok(Access::Write);
        }
        let given = bearer(headers).ok_or(Denied::Unknown)?;
        // All are compared: how long it takes must not tell which one it is.
        let found = tokens.iter().fold(None, |found, token| {
            if equal(given, token.secret.as_bytes()) {
                Some(token)
            } else {
                found
            }
        });
        let token = found.ok_or(Denied::Unknown)?;
        let reaches = match (&token.databases, database) {
            (None, _) => true,
            (Some(names), Some(database)) => names.iter().any(|name| name == database),
            (Some(_), None) => false,
        };
        match reaches {
            true => Ok(token.access),
            false => Err(Denied::TooLittle),
        }
    }

    /// Whether anybody may call.
    pub fn none(&self) -> bool {
        self.current().is_empty()
    }

    fn current(&self) -> Arc<Vec<Token>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn gather(source: &TokenSource) -> Result<Vec<Token>> {
    let everywhere = |secret: &Option<String>, access| {
        let databases = None;
        secret.clone().map(|secret| Token {
            secret,
            access,
            databases,
        })
    };
    let mut tokens: Vec<Token> = everywhere(&source.write, Access::Write)
        .into_iter()
        .chain(everywhere(&source.read, Access::Read))
        .collect();
    if tokens.iter().any(|token| token.secret.is_empty()) {
        return Err(Error::misuse("an empty token would let everybody in"));
    }
    if let Some(path) = &source.file {
        tokens.extend(read_file(path).map_err(|e| e.context(path.display()))?);
    }
    Ok(tokens)
}

fn read_file(path: &Path) -> Result<Vec<Token>> {
    let fail = |e: std::io::Error| Error::io("read the tokens", &e);
    if std::fs::metadata(path).map_err(fail)?.len() > MAX_FILE_LEN {
        return Err(Error::misuse("is too long for a file of tokens"));
    }
    let tokens = parse(&std::fs::read_to_string(path).map_err(fail)?)?;
    match tokens.is_empty() {
        // Without any token everybody may call, which nobody who names a file can want.
        true => Err(Error::misuse("has no token in it")),
        false => Ok(tokens),
    }
}

/// Lines `read-write TOKEN [NAME,…]`, likewise `read-only` and `metrics`; `#` begins a comment.
fn parse(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    for (no, line) in text.lines().enumerate() {
        let wrong = |what: &str| Err(Error::misuse(format!("line {}: {what}", no + 1)));
        let words: Vec<&str> = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let (access, secret, names) = match words[..] {
            [] => continue,
            [access, secret] => (access, secret, None),
            [access, secret, names] => (access, secret, Some(names)),
            _ => return wrong("write it as: read-only|read-write|metrics TOKEN [DATABASE,DATABASE...]"),
        };
        let access = match access {
            "read-write" => Access::Write,
            "read-only" => Access::Read,
            "metrics" => Access::Metrics,
            _ => return wrong("begin it with read-only, read-write or metrics"),
        };
        if secret.len() < MIN_TOKEN_LEN {
            return wrong("the token is too short to be a secret; use for example: openssl rand -hex 24");
        }
        let databases: Option<Vec<String>> = names.map(|names| names.split(',').map(str::to_owned).collect());
        if databases.iter().flatten().any(|name| !valid_name(name)) {
            return wrong("one of the names of databases is not valid");
        }
        tokens.push(Token {
            secret: secret.to_owned(),
            access,
            databases,
        });
    }
    Ok(tokens)
}

/// The token in the header.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes)?;
    let (scheme, token) = given.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |d, (a, b)| black_box(d | (a ^ b)));
    (a.len() == b.len()) & (differences == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn files() {
        let tokens = parse(
            "# a comment\n\nread-write aaaaaaaaaaaaaaaaaaaa\n  read-only\tbbbbbbbbbbbbbbbbbbbb a,b-2 # why\n\
             metrics cccccccccccccccccccc\n",
        )
        .unwrap();
        let tokens = Tokens {
            source: TokenSource::default(),
            current: RwLock::new(Arc::new(tokens)),
        };
        let access = |token: &str, database| tokens.access(&headers(&format!("Bearer {token}")), database);
        assert_eq!(access("aaaaaaaaaaaaaaaaaaaa", Some("x")), Ok(Access::Write));
        assert_eq!(access("aaaaaaaaaaaaaaaaaaaa", None), Ok(Access::Write));
        assert_eq!(access("bbbbbbbbbbbbbbbbbbbb", Some("b-2")), Ok(Access::Read));
        assert_eq!(access("bbbbbbbbbbbbbbbbbbbb", Some("b")), Err(Denied::TooLittle));
        assert_eq!(access("bbbbbbbbbbbbbbbbbbbb", None), Err(Denied::TooLittle));
        assert_eq!(access("cccccccccccccccccccc", None), Ok(Access::Metrics));
        assert_eq!(access("cccccccccccccccccccd", None), Err(Denied::Unknown));
        assert_eq!(access("", None), Err(Denied::Unknown));
        assert_eq!(tokens.access(&HeaderMap::new(), None), Err(Denied::Unknown));
        assert_eq!(
            tokens.access(&headers("Basic aaaaaaaaaaaaaaaaaaaa"), None),
            Err(Denied::Unknown)
        );
    }

    #[test]
    fn refused_files_do_not_show_their_tokens() {
        for text in [
            "read-write secret",
            "readwrite secretsecretsecretsecret",
            "read-only secretsecretsecretsecret a,../b",
            "read-only secretsecretsecretsecret a b",
            "secretsecretsecretsecret",
        ] {
            let error = parse(text).err().unwrap();
            assert!(error.message.contains("line 1"), "{}", error.message);
            assert!(!error.message.contains("secretsecret"), "{}", error.message);
        }
    }
}

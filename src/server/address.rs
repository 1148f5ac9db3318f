//! Which database a URL means, and what is asked of it.

use std::net::Ipv4Addr;

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

use super::databases::valid_name;

/// Name of the database that a request is about; empty if there is only one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub String);

/// Splits the name of the database from the URI. If databases are `named`, it is the first part of the path, or
/// without one the first label of the host: some clients cannot keep a path.
pub fn locate(uri: &Uri, host: Option<&str>, named: bool) -> (Target, Uri) {
    // Clients that append to a base URL that ends with a slash send two of them.
    let path = uri.path().trim_start_matches('/');
    let (name, path) = match path.split_once('/').filter(|_| named) {
        Some((name, rest)) if valid_name(name) => (name, rest.trim_start_matches('/')),
        _ if named => (
            host.map(first_label)
                .filter(|l| valid_name(l))
                .unwrap_or_default(),
            path,
        ),
        _ => ("", path),
    };
    let rest = match uri.query() {
        Some(query) => format!("/{path}?{query}"),
        None => format!("/{path}"),
    };
    // Parts of a URI make one again; if not, there is no such route.
    let rest = rest.parse().unwrap_or(PathAndQuery::from_static("/-"));
    (Target(name.to_owned()), Uri::from(rest))
}

/// `notes` of `notes.example.com:80`, nothing of an IP address or a name without a dot.
fn first_label(host: &str) -> &str {
    let name = host.split(':').next().unwrap_or_default();
    match name.split_once('.') {
        Some((label, _)) if name.parse::<Ipv4Addr>().is_err() => label,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        let located = |uri: &str, host, named| {
            let (target, rest) = locate(&uri.parse().unwrap(), host, named);
            (target.0, rest.to_string())
        };
        for (uri, host, name, rest) in [
            ("/notes/pull-updates", None, "notes", "/pull-updates"),
            ("/notes/v2/pipeline", None, "notes", "/v2/pipeline"),
            (
                "//notes//pull-updates?a=b/c",
                None,
                "notes",
                "/pull-updates?a=b/c",
            ),
            (
                "/pull-updates",
                Some("notes.example.com"),
                "notes",
                "/pull-updates",
            ),
            (
                "/v2/pipeline",
                Some("notes.localhost:80"),
                "notes",
                "/v2/pipeline",
            ),
            (
                "/notes/v2/pipeline",
                Some("other.example.com"),
                "notes",
                "/v2/pipeline",
            ),
            ("/v2/pipeline", Some("localhost:80"), "", "/v2/pipeline"),
            ("/v2/pipeline", Some("127.0.0.1:80"), "", "/v2/pipeline"),
            ("/v2/pipeline", Some("127.0.0.1"), "", "/v2/pipeline"),
            ("/v2/pipeline", Some("[::1]:80"), "", "/v2/pipeline"),
            ("/health", None, "", "/health"),
            ("/", None, "", "/"),
            ("/../pull-updates", None, "", "/../pull-updates"),
            ("/%2e%2e/pull-updates", None, "", "/%2e%2e/pull-updates"),
            ("/a.b/pull-updates", None, "", "/a.b/pull-updates"),
            ("/a/b/pull-updates", None, "a", "/b/pull-updates"),
        ] {
            assert_eq!(
                located(uri, host, true),
                (name.to_owned(), rest.to_owned()),
                "{uri}"
            );
        }
        let alone = located("/notes/pull-updates", Some("notes.example.com"), false);
        assert_eq!(alone, (String::new(), "/notes/pull-updates".to_owned()));
        assert_eq!(located("//pull-updates", None, false).1, "/pull-updates");
    }
}

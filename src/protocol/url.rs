//! Remote URLs.

use crate::error::{Error, Result};

/// Brings a remote URL into the form to which `/pull-updates` and `/v2/pipeline` can be appended: `libsql:` and
/// `turso:` become `https:`, one trailing slash is removed, the rest stays as it is.
///
/// Errors do not repeat the URL: it may contain a password.
pub fn normalize(url: &str) -> Result<String> {
    let url = url.trim();
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(Error::misuse(
            "the remote URL has no scheme; write it as https://host, http://host or libsql://host",
        ));
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => "http",
        "https" | "libsql" | "turso" => "https",
        other => {
            return Err(Error::misuse(format!(
                "the scheme {other:?} of the remote URL is not supported; use https, http, libsql or turso"
            )));
        }
    };
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::misuse(
            "the remote URL contains white space or a control character",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(Error::misuse(
            "the remote URL must end with the path: pass a token separately, not as a query parameter",
        ));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Error::misuse(
            "the remote URL contains credentials, and it is stored: pass a token separately",
        ));
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Err(Error::misuse("the remote URL has no host"));
    }
    Ok(format!("{scheme}://{}", rest.strip_suffix('/').unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn accepted_forms() {
        for (given, expected) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://db.turso.io/", "https://db.turso.io"),
            ("libsql://db.turso.io", "https://db.turso.io"),
            ("turso://db.turso.io/a/b/", "https://db.turso.io/a/b"),
            ("HTTPS://Db.turso.io//", "https://Db.turso.io/"),
            ("http://[::1]:80", "http://[::1]:80"),
        ] {
            assert_eq!(normalize(given).unwrap(), expected);
        }
    }

    #[test]
    fn refused_forms() {
        for given in [
            "",
            "db.turso.io",
            "ws://host",
            "file:///x",
            "http://",
            "http:///x",
            "http://:80",
            "https://u:p@",
        ] {
            assert!(normalize(given).is_err(), "{given}");
        }
        for given in ["https://h o", "https://h?authToken=x", "https://h\r\nx: y"] {
            assert!(normalize(given).is_err(), "{given}");
        }
    }

    #[test]
    fn errors_do_not_repeat_the_url() {
        let error = normalize("https://user:secret@").unwrap_err();
        assert!(!error.message.contains("secret"));
    }
}

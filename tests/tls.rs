//! TLS with an authority of one's own, and proxies, between the driver and the bundled server.
//!
//! `tests/tls` has an authority, the certificate of a server that it has signed (for `localhost` and 127.0.0.1) with its key,
//! and an authority that has signed nothing. They are good for nothing else, and valid until 2120.
#![cfg(feature = "server")]

mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::*;
use turso_sync::driver::{self, Auth, DriverConfig};
use turso_sync::engine::{DatabaseSyncEngine, ProtocolVersion};
use turso_sync::error::{Category, Error, Result};
use turso_sync::io::Operation;

fn file(name: &str) -> String {
    format!("{}/tests/tls/{name}.pem", env!("CARGO_MANIFEST_DIR"))
}

/// Somebody who accepts connections, and remembers what each has said first.
struct Listener {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    /// `serve` has each connection for itself; what it returns is remembered.
    fn start(serve: impl Fn(TcpStream) -> io::Result<String> + Send + Sync + 'static) -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (serve, all) = (Arc::new(serve), heads.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (serve, all) = (serve.clone(), all.clone());
                std::thread::spawn(move || {
                    let head = serve(stream.unwrap()).unwrap_or_else(|e| format!("failed: {e}"));
                    all.lock().unwrap().push(head);
                });
            }
        });
        Listener { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// The head of a request or answer.
fn head(stream: &mut impl Read) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// What a proxy with a certificate does in front of the server at `url`: one request per connection.
fn terminator(url: &str) -> Listener {
    let pem = |name: &str| CertificateDer::from_pem_file(file(name)).unwrap();
    let key = format!("{}/tests/tls/server.key", env!("CARGO_MANIFEST_DIR"));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![pem("server")], PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let (config, server) = (Arc::new(config), url.strip_prefix("http://").unwrap().to_owned());
    Listener::start(move |stream| {
        let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        let mut client = StreamOwned::new(connection, stream);
        let head = head(&mut client)?;
        let lower = head.to_ascii_lowercase();
        let length = lower
            .split("content-length: ")
            .nth(1)
            .map_or("0", |rest| rest.split("\r\n").next().unwrap());
        let mut body = vec![0; length.parse().unwrap()];
        client.read_exact(&mut body)?;
        let mut server = TcpStream::connect(&server)?;
        server.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes())?;
        server.write_all(&body)?;
        io::copy(&mut server, &mut client)?;
        client.conn.send_close_notify();
        client.flush()?;
        Ok(head)
    })
}

/// A proxy that makes tunnels, also to names that only it knows.
fn tunnels(to: SocketAddr) -> Listener {
    Listener::start(move |mut client| {
        let head = head(&mut client)?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let server = TcpStream::connect(to)?;
        let (mut from, mut into) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut into);
            let _ = into.shutdown(std::net::Shutdown::Write);
        });
        let mut server = server;
        io::copy(&mut server, &mut client)?;
        // Who has what he wanted may be gone.
        let _ = client.shutdown(std::net::Shutdown::Both);
        Ok(head)
    })
}

fn run<T>(engine: &DatabaseSyncEngine, config: &DriverConfig, mut op: Operation<T>) -> Result<T> {
    let control = op.control().clone();
    driver::run(engine.io(), config, &control, || op.resume())?;
    op.take_result().ok_or_else(|| Error::internal("no result"))
}

/// Once, with the certificates in this file.
fn trusting(authority: Option<&str>) -> DriverConfig {
    DriverConfig {
        auth: Auth::Fixed("token-of-tls".into()),
        ca_file: authority.map(file),
        ..DriverConfig::default()
    }
}

const ROWS: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'one')";

/// A replica that writes, pushes and pulls.
fn use_replica(config: &DriverConfig, url: &str, dialect: ProtocolVersion, remote: &Remote) {
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(&dir.path().join("a.db"), url);
    opts.protocol_version_hint = dialect;
    let engine = DatabaseSyncEngine::new(opts).unwrap();
    run(&engine, config, engine.create_db()).unwrap();
    let conn = run(&engine, config, engine.connect_rw()).unwrap();
    conn.execute_batch("INSERT INTO t (v) VALUES ('of ' || hex(randomblob(300000)))")
        .unwrap();
    run(&engine, config, engine.push_changes_to_remote()).unwrap();
    plain(&remote.path)
        .execute_batch("INSERT INTO t (v) VALUES ('of the remote')")
        .unwrap();
    assert!(run(&engine, config, engine.pull_changes_from_remote()).unwrap());
    assert_eq!(tables(&dir.path().join("a.db")), remote.tables());
}

#[test]
fn an_authority_of_ones_own_is_trusted_if_the_driver_is_told_so() {
    let remote = Remote::start(ROWS);
    let front = terminator(&remote.url);
    let config = trusting(Some("ca"));
    for dialect in [ProtocolVersion::Compatible, ProtocolVersion::Direct] {
        use_replica(&config, &format!("https://{}", front.address), dialect, &remote);
    }
    // The names of hosts are in the certificate, too, and the schemes of Turso mean TLS.
    let name = format!("libsql://localhost:{}", front.address.port());
    use_replica(&config, &name, ProtocolVersion::Auto, &remote);
    let heads = front.heads();
    assert!(heads.len() >= 9, "{heads:?}");
    assert!(
        heads.iter().all(|head| head.contains("Bearer token-of-tls")),
        "{heads:?}"
    );
}

#[test]
fn a_server_that_cannot_prove_who_it_is_learns_nothing() {
    let remote = Remote::start(ROWS);
    let front = terminator(&remote.url);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("https://{}", front.address);
    let engine = DatabaseSyncEngine::new(options(&dir.path().join("a.db"), &url)).unwrap();
    // Another authority, and those that everybody trusts.
    for (i, authority) in [Some("stranger"), None].into_iter().enumerate() {
        let e = run(&engine, &trusting(authority), engine.create_db()).unwrap_err();
        assert_eq!(e.category, Category::Network, "{e}");
        assert!(e.message.contains("certificate"), "{e}");
        // It would be the same the next time.
        assert!(!e.retryable, "{e}");
        while front.heads().len() <= i {}
        assert_eq!(front.heads().len(), i + 1, "one attempt");
    }
    assert!(front.heads().iter().all(|head| head.starts_with("failed")));
    // The right authority, but the certificate is for another name.
    let config = trusting(Some("ca"));
    let other = DriverConfig {
        proxy: Some(format!("http://{}", tunnels(front.address).address)),
        base_url: Some("https://db.example.com".into()),
        ..config.clone()
    };
    let e = run(&engine, &other, engine.create_db()).unwrap_err();
    assert!(e.message.contains("certificate") && !e.retryable, "{e}");
    run(&engine, &config, engine.create_db()).unwrap();
    assert_eq!(tables(&dir.path().join("a.db")), remote.tables());
}

#[test]
fn a_proxy_sees_nothing_but_the_name() {
    let remote = Remote::start(ROWS);
    let front = terminator(&remote.url);
    let proxy = tunnels(front.address);
    let config = DriverConfig {
        proxy: Some(format!("http://user:word@{}", proxy.address)),
        ..trusting(Some("ca"))
    };
    // Nobody but the proxy knows where that is.
    for dialect in [ProtocolVersion::Compatible, ProtocolVersion::Direct] {
        use_replica(&config, "https://localhost:1", dialect, &remote);
    }
    let (seen, behind) = (proxy.heads(), front.heads());
    assert!(behind.len() >= 6 && seen.len() >= 6, "{seen:?}");
    for head in &seen {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("connect localhost:1 "), "{head}");
        assert!(head.contains("proxy-authorization: basic "), "{head}");
        assert!(!head.contains("token-of-tls"), "{head}");
    }
    assert!(
        behind
            .iter()
            .all(|head| !head.to_ascii_lowercase().contains("proxy-"))
    );
}

//! The driver against a server that answers with bytes chosen by the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread::JoinHandle;

use super::client::without_secrets;
use super::*;
use crate::error::{Category, Code, Error};
use crate::io::{HttpRequest, Operation, SyncEngineIo};

/// A request is sent once.
fn once() -> DriverConfig {
    DriverConfig {
        attempts: 1,
        ..DriverConfig::default()
    }
}

/// A request is sent up to three times, with hardly a pause.
fn thrice() -> DriverConfig {
    DriverConfig {
        backoff: Duration::from_millis(1),
        ..DriverConfig::default()
    }
}

/// Answers one connection per element of `answers`; returns what was received.
fn serve(answers: Vec<&'static [u8]>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut received = Vec::new();
        for answer in answers {
            let mut stream = listener.accept().unwrap().0;
            received.push(answer_one(&mut stream, answer));
        }
        received
    });
    (url, thread)
}

/// Reads a request, in lower case, and answers it.
fn answer_one(stream: &mut TcpStream, answer: &[u8]) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).unwrap();
    }
    let head = head.to_ascii_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(answer).unwrap();
    head + &String::from_utf8_lossy(&body)
}

fn post(url: &str) -> HttpRequest {
    HttpRequest {
        url: Some(url.to_owned()),
        method: "POST",
        path: "/v2/pipeline".into(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: b"hello".to_vec(),
    }
}

fn run_one(request: HttpRequest, config: &DriverConfig) -> Result<crate::io::Response> {
    let queue = SyncEngineIoQueue::default();
    let io = queue.clone();
    let mut op = Operation::new(async move { io.http(request, None).await });
    let control = op.control().clone();
    run(&queue, config, &control, || op.resume())?;
    op.take_result().ok_or_else(|| Error::internal("no result"))
}

#[test]
fn a_request_arrives_whole_and_the_answer_comes_back() {
    let (url, server) = serve(vec![
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nworld",
    ]);
    let config = DriverConfig {
        auth: Auth::Fixed("secret".into()),
        ..DriverConfig::default()
    };
    let response = run_one(post(&url), &config).unwrap();
    assert_eq!(
        (response.status, response.body.as_slice()),
        (200, b"world".as_slice())
    );
    let received = server.join().unwrap().remove(0);
    assert!(
        received.starts_with("post /v2/pipeline http/1.1\r\n"),
        "{received}"
    );
    assert!(
        received.contains("authorization: bearer secret\r\n"),
        "{received}"
    );
    assert!(received.contains("user-agent: turso-sync/"), "{received}");
    assert!(!received.contains("accept-encoding"), "{received}");
    assert!(received.ends_with("\r\n\r\nhello"), "{received}");
}

#[test]
fn a_body_without_end_is_not_read_to_its_end() {
    for (status, refused) in [("200 OK", true), ("500 No", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let mut socket = listener.accept().unwrap().0;
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
            socket.write_all(head.as_bytes()).unwrap();
            // Ends when the driver hangs up.
            while socket.write_all(&[b'x'; 64 << 10]).is_ok() {}
        });
        let result = run_one(post(&url), &once());
        assert_eq!(result.is_err(), refused, "{result:?}");
        server.join().unwrap();
    }
}

#[test]
fn an_empty_post_says_so() {
    let (url, server) = serve(vec![
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ]);
    let request = HttpRequest {
        body: vec![],
        ..post(&url)
    };
    run_one(request, &DriverConfig::default()).unwrap();
    assert!(server.join().unwrap().remove(0).contains("content-length: 0\r\n"));
}

#[test]
fn other_statuses_are_answers_and_redirects_are_not_followed() {
    for (answer, status) in [
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops".as_slice(), 500),
        (b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops", 307),
    ] {
        let (url, server) = serve(vec![answer]);
        let response = run_one(post(&url), &once()).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (status, b"oops".as_slice()));
        server.join().unwrap();
    }
}

#[test]
fn an_answer_cut_short_is_a_failure() {
    for answer in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nworld".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nwor",
        b"HTTP/1.1 200",
    ] {
        let (url, server) = serve(vec![answer]);
        let e = run_one(post(&url), &once()).unwrap_err();
        assert_eq!(e.category, Category::Network, "{e}");
        assert!(e.retryable);
        server.join().unwrap();
    }
}

/// A server that refuses a long request closes the connection without reading it to its end, and the text of the refusal is
/// lost on the way.
#[test]
fn a_refusal_counts_even_if_its_text_breaks_off() {
    for (answer, status) in [
        (
            b"HTTP/1.1 401 No\r\nContent-Length: 50\r\n\r\nwhy".as_slice(),
            401,
        ),
        (b"HTTP/1.1 413 No\r\nContent-Length: 50\r\n\r\nwhy", 413),
        (
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwhy\r\n",
            503,
        ),
    ] {
        let (url, server) = serve(vec![answer]);
        let response = run_one(post(&url), &once()).unwrap();
        assert_eq!(
            (response.status, response.body.as_slice()),
            (status, b"why".as_slice())
        );
        server.join().unwrap();
    }
}

#[test]
fn a_silent_server_and_a_deadline_end_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let short = Duration::from_millis(20);
    let silent = DriverConfig {
        timeout: short,
        ..once()
    };
    assert!(run_one(post(&url), &silent).unwrap_err().retryable);
    let late = DriverConfig {
        deadline: Some(short),
        ..DriverConfig::default()
    };
    assert!(run_one(post(&url), &late).unwrap_err().retryable);
}

#[test]
fn messages_keep_secrets() {
    let config = DriverConfig {
        auth: Auth::Fixed("sec\nret".into()),
        ..DriverConfig::default()
    };
    let e = run_one(post("http://127.0.0.1:1"), &config).unwrap_err();
    assert_eq!(e.code, Code::Misuse);
    assert!(!e.message.contains("ret"));
    let url = "http://user:hidden@127.0.0.1:1/base?token=hidden#hidden";
    let e = run_one(post(url), &once()).unwrap_err();
    assert!(!e.message.contains("hidden"), "{e}");
    assert_eq!(without_secrets("http://u:p@h/x@y?q"), "http://h/x@y");
}

#[test]
fn urls_are_joined() {
    let client = |base: Option<&str>| {
        Client::new(&DriverConfig {
            base_url: base.map(str::to_owned),
            ..DriverConfig::default()
        })
        .unwrap()
    };
    let url = |base| client(None).url(&post(base)).unwrap();
    assert_eq!(url("http://h"), "http://h/v2/pipeline");
    assert_eq!(url("http://h/base/"), "http://h/base/v2/pipeline");
    assert_eq!(url("libsql://h"), "https://h/v2/pipeline");
    assert_eq!(
        client(Some("turso://g")).url(&post("http://h")).unwrap(),
        "https://g/v2/pipeline"
    );
    assert!(
        client(None)
            .url(&HttpRequest {
                url: None,
                ..post("")
            })
            .is_err()
    );
}

#[test]
fn a_request_served_elsewhere_is_not_waited_for() {
    let queue = SyncEngineIoQueue::default();
    let io = queue.clone();
    let mut op = Operation::new(async move { io.full_read("x").await });
    op.resume().unwrap();
    let item = queue.take_item();
    let e = run(&queue, &DriverConfig::default(), &Control::default(), || {
        op.resume()
    })
    .unwrap_err();
    assert_eq!(e.code, Code::Misuse);
    drop(item);
    assert!(
        run(&queue, &DriverConfig::default(), &Control::default(), || op
            .resume())
        .is_err()
    );
}

#[test]
fn an_operation_goes_on_while_its_request_is_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (goes_on, came_back) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        // Without that there is no answer in time.
        let came_back = came_back.recv_timeout(Duration::from_secs(60)).is_ok();
        answer_one(&mut stream, OK);
        came_back
    });
    let queue = SyncEngineIoQueue::default();
    let io = queue.clone();
    let mut op = Operation::new(async move { io.http(post(&url), None).await });
    let control = op.control().clone();
    let mut times = 0;
    run(&queue, &once(), &control, || {
        times += 1;
        if times == 2 {
            goes_on.send(()).unwrap();
        }
        op.resume()
    })
    .unwrap();
    assert!(server.join().unwrap());
    assert_eq!(op.take_result().unwrap().body, b"world");
}

// ------------------------------------------------------------------------------------------------- repeated requests

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nworld";
const BUSY: &[u8] =
    b"HTTP/1.1 503 No\r\nRetry-After: 0\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops";
const UNAUTHORIZED: &[u8] = b"HTTP/1.1 401 No\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwrong";
/// Asks to wait for eleven days.
const LATER: &[u8] =
    b"HTTP/1.1 429 No\r\nRetry-After: 1000000\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[test]
fn a_request_is_repeated_until_it_is_answered() {
    for first in [
        BUSY,
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 408 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 502 No\r\nContent-Length: 9\r\nConnection: close\r\n\r\nbroken",
    ] {
        let (url, server) = serve(vec![first, BUSY, OK]);
        let response = run_one(post(&url), &thrice()).unwrap();
        assert_eq!((response.status, response.retry_after_ms), (200, None));
        assert_eq!(response.body, b"world");
        let received = server.join().unwrap();
        assert!(received.iter().all(|request| request.ends_with("hello")));
        assert_eq!(received.len(), 3);
    }
}

#[test]
fn the_last_answer_counts() {
    for attempts in [1, 2, 4] {
        let (url, server) = serve(vec![BUSY; attempts]);
        let config = DriverConfig {
            attempts: attempts as u32,
            ..thrice()
        };
        // One more would find nobody, and end with a network error.
        let response = run_one(post(&url), &config).unwrap();
        assert_eq!((response.status, response.retry_after_ms), (503, Some(0)));
        assert_eq!(response.body, b"oops");
        server.join().unwrap();
    }
    let e = run_one(post("http://127.0.0.1:1"), &thrice()).unwrap_err();
    assert_eq!((e.category, e.retryable), (Category::Network, true));
}

#[test]
fn what_has_been_used_or_refused_for_good_is_not_repeated() {
    let (url, server) = serve(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nworld"]);
    let e = run_one(post(&url), &thrice()).unwrap_err();
    assert!(e.message.contains("broke off") && e.retryable, "{e}");
    server.join().unwrap();
    for status in ["400", "401", "404", "409", "501"] {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let (url, server) = serve(vec![answer.leak().as_bytes()]);
        let response = run_one(post(&url), &thrice()).unwrap();
        assert_eq!(response.status.to_string(), status);
        server.join().unwrap();
    }
}

#[test]
fn a_pause_beyond_the_limit_is_not_begun() {
    for deadline in [None, Some(Duration::from_secs(3600))] {
        let (url, server) = serve(vec![LATER]);
        let config = DriverConfig { deadline, ..thrice() };
        let response = run_one(post(&url), &config).unwrap();
        assert_eq!(
            (response.status, response.retry_after_ms),
            (429, Some(1_000_000_000))
        );
        server.join().unwrap();
    }
}

/// Of operations that use one client after the other, as those of a keeper do.
#[test]
fn a_cancellation_that_comes_too_late_leaves_later_operations_alone() {
    let (url, server) = serve(vec![OK, OK]);
    let client = Arc::new(Client::new(&once()).unwrap());
    let queue = SyncEngineIoQueue::default();
    for _ in 0..2 {
        let (io, request) = (queue.clone(), post(&url));
        let mut op = Operation::new(async move { io.http(request, None).await });
        let control = op.control().clone();
        client.run(&queue, &control, || op.resume()).unwrap();
        control.cancel();
    }
    server.join().unwrap();
}

/// The pause that the remote asks for is really made: it is long, and only the cancellation ends it.
#[test]
fn a_pause_is_made_and_a_cancellation_ends_it() {
    let (url, server) = serve(vec![LATER]);
    let queue = SyncEngineIoQueue::default();
    let io = queue.clone();
    let request = post(&url);
    let mut op = Operation::new(async move { io.http(request, None).await });
    let control = op.control().clone();
    let canceller = std::thread::spawn(move || {
        server.join().unwrap();
        control.cancel();
    });
    let config = DriverConfig {
        deadline: Some(Duration::from_secs(10_000_000)),
        ..thrice()
    };
    let control = op.control().clone();
    let e = run(&queue, &config, &control, || op.resume()).unwrap_err();
    assert_eq!(e.code, Code::Interrupt);
    canceller.join().unwrap();
}

#[test]
fn operations_of_one_queue_are_run_side_by_side() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let (url, server) = serve(vec![OK]);
    let queue = SyncEngineIoQueue::default();
    let operation = |url: &str| {
        let control = Arc::<Control>::default();
        let (io, request) = (queue.of(&control), post(url));
        Operation::controlled(control, async move { io.http(request, None).await })
    };
    let (mut long, mut short) = (operation(&silent_url), operation(&url));
    // Both requests are in the queue before anybody serves one.
    long.resume().unwrap();
    short.resume().unwrap();
    let control = short.control().clone();
    run(&queue, &thrice(), &control, || short.resume()).unwrap();
    assert_eq!(short.take_result().unwrap().body, b"world");
    server.join().unwrap();
    let control = long.control().clone();
    let waiting = {
        let (queue, control) = (queue.clone(), control.clone());
        std::thread::spawn(move || run(&queue, &thrice(), &control, || long.resume()))
    };
    let mut connection = silent.accept().unwrap().0;
    control.cancel();
    assert_eq!(waiting.join().unwrap().unwrap_err().code, Code::Interrupt);
    // The connection has been cut, too: this ends.
    connection.read_to_end(&mut Vec::new()).unwrap();
}

// ------------------------------------------------------------------------------------------------------------- tokens

/// A callback that gives out these tokens, the last one for ever; and how many it has given.
fn tokens(tokens: &[Option<&'static str>]) -> (DriverConfig, Arc<Mutex<usize>>) {
    let (tokens, calls) = (tokens.to_vec(), Arc::<Mutex<usize>>::default());
    let (counted, me) = (calls.clone(), std::thread::current().id());
    let ask = move || {
        assert_eq!(std::thread::current().id(), me);
        let mut calls = counted.lock().unwrap();
        let token = tokens[(*calls).min(tokens.len() - 1)];
        *calls += 1;
        Ok(token.map(str::to_owned))
    };
    let config = DriverConfig {
        auth: Auth::Callback(Arc::new(ask)),
        ..thrice()
    };
    (config, calls)
}

#[test]
fn the_callback_is_asked_for_every_request() {
    let (config, calls) = tokens(&[Some("one"), None, Some("three")]);
    let (url, server) = serve(vec![BUSY, BUSY, OK]);
    run_one(post(&url), &config).unwrap();
    let received = server.join().unwrap();
    assert!(received[0].contains("authorization: bearer one\r\n"));
    assert!(!received[1].contains("authorization"));
    assert!(received[2].contains("authorization: bearer three\r\n"));
    assert_eq!(*calls.lock().unwrap(), 3);
}

#[test]
fn a_refused_token_is_replaced_once() {
    // One attempt: it is not a repetition after a failure.
    let renewed = |given: &[Option<&'static str>], answers: Vec<&'static [u8]>| {
        let (config, calls) = tokens(given);
        let (url, server) = serve(answers);
        let config = DriverConfig {
            attempts: 1,
            ..config
        };
        let status = run_one(post(&url), &config).unwrap().status;
        let requests = server.join().unwrap().len();
        (status, requests, *calls.lock().unwrap())
    };
    assert_eq!(
        renewed(&[Some("old"), Some("new")], vec![UNAUTHORIZED, OK]),
        (200, 2, 2)
    );
    assert_eq!(renewed(&[Some("same")], vec![UNAUTHORIZED]), (401, 1, 2));
    let three = [Some("a"), Some("b"), Some("c")];
    assert_eq!(renewed(&three, vec![UNAUTHORIZED, UNAUTHORIZED]), (401, 2, 2));
    let fixed = DriverConfig {
        auth: Auth::Fixed("token".into()),
        ..thrice()
    };
    let (url, server) = serve(vec![UNAUTHORIZED]);
    let response = run_one(post(&url), &fixed).unwrap();
    assert_eq!(
        (response.status, response.body.as_slice()),
        (401, b"wrong".as_slice())
    );
    server.join().unwrap();
}

#[test]
fn an_error_of_the_callback_ends_the_operation() {
    let config = DriverConfig {
        auth: Auth::Callback(Arc::new(|| Err(Error::busy("no token today")))),
        ..thrice()
    };
    let e = run_one(post("http://127.0.0.1:1"), &config).unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::Busy, "no token today"));
    let (config, _) = tokens(&[Some("two\nlines")]);
    let e = run_one(post("http://127.0.0.1:1"), &config).unwrap_err();
    assert_eq!(e.code, Code::Misuse);
    assert!(!e.message.contains("lines"), "{e}");
}

// ------------------------------------------------------------------------------------------------ proxies, authorities

#[test]
fn requests_go_through_an_http_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = DriverConfig {
        proxy: Some(format!("http://{}", listener.local_addr().unwrap())),
        ..once()
    };
    let proxy = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let connect = answer_one(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n");
        (connect, answer_one(&mut stream, OK))
    });
    // Nobody listens there.
    let response = run_one(post("http://127.0.0.1:1"), &config).unwrap();
    assert_eq!(response.body, b"world");
    let (connect, request) = proxy.join().unwrap();
    assert!(
        connect.starts_with("connect 127.0.0.1:1 http/1.1\r\n"),
        "{connect}"
    );
    assert!(request.starts_with("post /v2/pipeline http/1.1\r\n"), "{request}");
}

#[test]
fn requests_go_through_a_socks_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = DriverConfig {
        proxy: Some(format!("socks5://{}", listener.local_addr().unwrap())),
        ..once()
    };
    let proxy = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        // RFC 1928: a greeting with methods, then a request for an IPv4 address.
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting).unwrap();
        stream.read_exact(&mut vec![0; greeting[1].into()]).unwrap();
        stream.write_all(&[5, 0]).unwrap();
        let mut request = [0; 10];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        answer_one(&mut stream, OK);
        request
    });
    let response = run_one(post("http://127.0.0.1:1"), &config).unwrap();
    assert_eq!(response.body, b"world");
    assert_eq!(proxy.join().unwrap(), [5, 1, 0, 1, 127, 0, 0, 1, 0, 1]);
}

#[test]
fn a_wrong_proxy_is_named_without_its_password() {
    let config = DriverConfig {
        proxy: Some("gopher://user:hidden@127.0.0.1".into()),
        ..once()
    };
    let e = run_one(post("http://127.0.0.1:1"), &config).unwrap_err();
    assert_eq!(e.code, Code::Misuse);
    assert!(
        e.message.contains("proxy") && !e.message.contains("hidden"),
        "{e}"
    );
}

/// A certificate that signs itself.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBhDCCASugAwIBAgIUe77cy5zbaj1Cq57/95uMc4OHsK4wCgYIKoZIzj0EAwIw\n\
FzEVMBMGA1UEAwwMdGVzdC5leGFtcGxlMCAXDTI2MTEyMjIzNDI1NloYDzIxMjYx\n\
MDI5MjM0MjU2WjAXMRUwEwYDVQQDDAx0ZXN0LmV4YW1wbGUwWTATBgcqhkjOPQIB\n\
BggqhkjOPQMBBwNCAARFQSviM5gVqGSeSgVJywNExuwhfyx8OUzdS/+i4JCnUmiC\n\
fZnq0Bqhq5RO+hsBL9aiabAYRv4ZykgijsmSexluo1MwUTAdBgNVHQ4EFgQUjFPN\n\
gk/27iqLH50bbisvvmF4PFkwHwYDVR0jBBgwFoAUjFPNgk/27iqLH50bbisvvmF4\n\
PFkwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBRJ2tKGacJGoIO\n\
PxZH+C8HWER6y0nRU7rVmcj2ILCMLgIgcyYLMveHyl09W4wcpcvpfadmr+oaYg5A\n\
QmDQ0K2Eeoc=\n\
-----END CERTIFICATE-----\n";

#[test]
fn certificates_replace_the_built_in_ones() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |content: &str| {
        std::fs::write(file.path(), content).unwrap();
        Client::new(&DriverConfig {
            ca_file: Some(file.path().to_str().unwrap().to_owned()),
            ..once()
        })
    };
    let client = with(&CERTIFICATE.repeat(2)).unwrap();
    let ureq::tls::RootCerts::Specific(certificates) = client.root_certificates() else {
        panic!("the built-in ones are used");
    };
    assert_eq!(certificates.len(), 2);
    let builtin = Client::new(&once()).unwrap();
    assert!(matches!(
        builtin.root_certificates(),
        ureq::tls::RootCerts::WebPki
    ));
    for wrong in ["", "no certificate", "-----BEGIN CERTIFICATE-----\n!\n"] {
        let Err(e) = with(wrong) else { panic!("{wrong}") };
        assert_eq!(e.code, Code::Misuse);
        assert!(e.message.contains(file.path().to_str().unwrap()), "{e}");
    }
    let missing = DriverConfig {
        ca_file: Some("/does/not/exist.pem".into()),
        ..once()
    };
    let e = run_one(post("http://127.0.0.1:1"), &missing).unwrap_err();
    assert_eq!(e.category, Category::Storage);
    assert!(e.message.contains("/does/not/exist.pem"), "{e}");
}

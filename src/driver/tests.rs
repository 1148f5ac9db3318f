//! The driver against a server that answers with bytes chosen by the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::error::{Category, Code};
use crate::io::{Operation, SyncEngineIo};

/// Answers one connection per element of `answers`; returns what was received.
fn serve(answers: Vec<&'static [u8]>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut received = Vec::new();
        for answer in answers {
            let mut reader = BufReader::new(listener.accept().unwrap().0);
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
            received.push(head + &String::from_utf8_lossy(&body));
        }
        received
    });
    (url, thread)
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
        auth_token: Some("secret".into()),
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
        let result = run_one(post(&url), &DriverConfig::default());
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
        let response = run_one(post(&url), &DriverConfig::default()).unwrap();
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
        let e = run_one(post(&url), &DriverConfig::default()).unwrap_err();
        assert_eq!(e.category, Category::Network, "{e}");
        assert!(e.retryable);
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
        ..DriverConfig::default()
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
        auth_token: Some("sec\nret".into()),
        ..DriverConfig::default()
    };
    let e = run_one(post("http://127.0.0.1:1"), &config).unwrap_err();
    assert_eq!(e.code, Code::Misuse);
    assert!(!e.message.contains("ret"));
    let url = "http://user:hidden@127.0.0.1:1/base?token=hidden#hidden";
    let e = run_one(post(url), &DriverConfig::default()).unwrap_err();
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

//! Every phase of a forwarded request has its time, a route can have its own, and each that runs out is told apart: to
//! the client, in the metrics, in the log.
//!
//! What is spent before a route is known (a TLS handshake with the client, a request's head, a client that does not
//! read) cannot be a route's: that is `[connections]`, tested in `pace`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::client::{PATIENCE, Stream};
use super::harness::{Gate, Setup};
use super::sockets::Memory;

/// What a route is given for one phase. The upstream's own times are all long.
const OWN: &str = "300ms";
/// Of a request that no time ends.
const LONG: Duration = Duration::from_secs(10);

/// A backend that reads a request's head, says `then`, and is silent from there on; it reads no more.
pub async fn silent_after(then: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _head = head(&mut socket).await;
                let _gone = socket.write_all(then.as_bytes()).await;
                tokio::time::sleep(Duration::from_mins(1)).await;
            });
        }
    });
    address
}

/// Reads up to the end of a head, and what came with it.
pub async fn head(from: &mut (impl AsyncRead + Unpin)) -> String {
    let mut said = Vec::new();
    while !said.windows(4).any(|end| end == b"\r\n\r\n") && from.read_buf(&mut said).await.is_ok_and(|read| read > 0) {}
    String::from_utf8_lossy(&said).into_owned()
}

/// A place that takes no connection and refuses none: its queue is full. To be kept, all of it.
async fn full() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("it listens");
    let address = listener.local_addr().expect("its address");
    let mut held = Vec::new();
    for _ in 0..16 {
        match tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            Ok(connected) => held.push(connected.expect("there is somebody")),
            Err(_) => break,
        }
    }
    assert!(held.len() < 16, "the queue is full");
    (address, listener, held)
}

/// A gateway with a log, whose `/open/…` leads to a backend called `slow`.
pub struct Scene {
    pub gate: Gate,
    pub log: Memory,
    _writer: tollgate::observe::log::LogWriter,
}

/// `/open/…` goes to `backend`, with `route` in its route.
pub async fn scene(backend: &str, route: &str) -> Scene {
    scene_within(backend, route, "").await
}

/// The same, with `connections` in its section.
pub async fn scene_within(backend: &str, route: &str, connections: &str) -> Scene {
    let log = Memory::default();
    let (logs, writer) = log.open();
    let routes = format!(
        "[[site.route]]\nmatch = \"* /open/{{*rest}}\"\npublic = true\nupstream = \"slow\"\n{route}\n\
         [site.upstream.slow]\nservers = [\"{backend}\"]\n"
    );
    let top = format!("[connections]\n{connections}");
    let gate = Setup::default().routes(&routes).top(&top).logs(logs).start().await.expect("SQLite");
    Scene { gate, log, _writer: writer }
}

impl Scene {
    /// What the log says of the one request, and how often `outcome` was counted for the upstream.
    pub async fn told(&self, outcome: &str) -> (serde_json::Value, Option<f64>) {
        let line = self.log.lines("/open/x", 1).await.remove(0);
        let series =
            format!("tollgate_upstream_requests_total{{outcome=\"{outcome}\",site=\"vantage\",upstream=\"slow\"}}");
        (line, self.gate.metric(&series).await)
    }
}

#[tokio::test]
async fn each_phase_before_an_answer_ends_by_its_routes_own_time_and_is_told_apart() {
    let silent = silent_after("").await;
    let (full, _listener, _held) = full().await;
    let plain = |address: SocketAddr| format!("http://{address}");
    for (key, backend, outcome, fault) in [
        ("connect_timeout", plain(full), "connect_timeout", "did not take the connection in time"),
        ("tls_timeout", format!("https://{silent}"), "tls_timeout", "did not finish the TLS handshake in time"),
        ("response_timeout", plain(silent), "response_timeout", "no answer in time"),
        ("timeout", plain(silent), "timeout", "the request took longer than it may"),
    ] {
        let scene = scene(&backend, &format!("{key} = \"{OWN}\"")).await;
        let answer = tokio::time::timeout(LONG, scene.gate.client.get("/open/x").send()).await.expect("in time");
        assert_eq!(answer.status, 504, "{key}: {}", answer.text());
        let (line, counted) = scene.told(outcome).await;
        assert_eq!(counted, Some(1.0), "{key}");
        assert_eq!((&line["problem"], &line["server"]), (&json!("gateway_timeout"), &json!(backend)), "{key}");
        assert!(line["fault"].as_str().is_some_and(|text| text.contains(fault)), "{key}: {line}");
    }
}

/// Writes a request's head and as much of a body as is taken; the answer's head.
async fn uploading(stream: Stream, pause: Option<Duration>) -> String {
    let (mut reads, mut writes) = tokio::io::split(stream);
    let client = tokio::spawn(async move {
        let head = "POST /open/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000\r\n\r\n";
        let mut sent = writes.write_all(head.as_bytes()).await;
        let piece = vec![b'x'; 64 * 1024];
        while sent.is_ok() {
            sent = writes.write_all(&piece).await;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
    });
    let said = tokio::time::timeout(PATIENCE, head(&mut reads)).await.expect("an answer in time");
    client.abort();
    said
}

#[tokio::test]
async fn a_body_that_the_backend_does_not_take_and_one_that_the_client_does_not_send_are_two_things() {
    let silent = silent_after("").await;
    // The backend takes nothing.
    let scene1 = scene(&format!("http://{silent}"), &format!("idle_timeout = \"{OWN}\"")).await;
    let answer = uploading(scene1.gate.client.stream(&[b"http/1.1"]).await, None).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    let (line, counted) = scene1.told("idle_timeout").await;
    assert_eq!(counted, Some(1.0));
    assert!(line["fault"].as_str().is_some_and(|text| text.contains("stopped taking the request body")), "{line}");
    assert!(line["received_bytes"].as_u64().is_some_and(|bytes| bytes > 64 * 1024), "what came is counted: {line}");
    // The client sends nothing.
    let scene2 = scene(&format!("http://{silent}"), &format!("body_timeout = \"{OWN}\"")).await;
    let answer = uploading(scene2.gate.client.stream(&[b"http/1.1"]).await, Some(LONG)).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let (line, counted) = scene2.told("cancelled").await;
    assert_eq!((counted, &line["problem"]), (Some(1.0), &serde_json::json!("request_timeout")));
    assert_eq!(line["received_bytes"], 64 * 1024, "{line}");
}

/// Uploads `each` bytes every 50 ms, `times` times; the answer's head and how long it took.
async fn dripping(stream: Stream, each: usize, times: usize) -> (String, Duration) {
    let (mut reads, mut writes) = tokio::io::split(stream);
    let began = super::wire::now();
    let client = tokio::spawn(async move {
        let length = each * times;
        let head = format!("POST /open/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        let mut sent = writes.write_all(head.as_bytes()).await;
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..times {
            tick.tick().await;
            if sent.is_ok() {
                sent = writes.write_all(&vec![b'x'; each]).await;
            }
        }
        tokio::time::sleep(LONG).await;
    });
    let said = tokio::time::timeout(PATIENCE, head(&mut reads)).await.expect("an answer in time");
    client.abort();
    (said, began.elapsed())
}

#[tokio::test]
async fn a_body_that_drips_is_told_apart_from_one_that_is_merely_slow() {
    let backend = Setup::default().start().await.expect("SQLite");
    let url = backend.backend.url();
    // 1000 bytes a second, of which a second's worth may be missing; twenty times a second.
    let route = "min_body_rate = \"1000B\"\nbody_timeout = \"1s\"";
    let slow = scene(&url, route).await;
    let (answer, took) = dripping(slow.gate.client.stream(&[b"http/1.1"]).await, 100, 60).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "twice the rate passes: {answer}");
    assert!(took > Duration::from_millis(2500), "{took:?}");
    let drips = scene(&url, route).await;
    let (answer, took) = dripping(drips.gate.client.stream(&[b"http/1.1"]).await, 5, 200).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "a tenth of it does not: {answer}");
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    let (line, counted) = drips.told("cancelled").await;
    assert_eq!((counted, &line["problem"]), (Some(1.0), &serde_json::json!("request_too_slow")), "{line}");
    let decided = "tollgate_decisions_total{outcome=\"request_too_slow\",site=\"vantage\"}";
    assert_eq!(drips.gate.metric(decided).await, Some(1.0));
    // A route that asks for none waits for it, byte by byte.
    let patient = scene(&url, "min_body_rate = \"0B\"\nbody_timeout = \"1s\"").await;
    let (answer, took) = dripping(patient.gate.client.stream(&[b"http/1.1"]).await, 1, 40).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && took > Duration::from_millis(1500), "{took:?} {answer}");
}

#[tokio::test]
async fn each_phase_within_an_answer_breaks_it_off_and_is_told_apart() {
    const BEGUN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun";
    let stalls = silent_after(BEGUN).await;
    for (key, reason) in [("idle_timeout", "backend_stalled"), ("timeout", "timeout")] {
        let scene = scene(&format!("http://{stalls}"), &format!("{key} = \"{OWN}\"")).await;
        let broken = tokio::time::timeout(LONG, scene.gate.client.get("/open/x").try_send()).await.expect("in time");
        assert!(broken.is_err(), "{key}: it must not look whole");
        let (line, counted) = scene.told("2xx").await;
        assert_eq!((counted, &line["status"]), (Some(1.0), &serde_json::json!(200)), "{key}");
        assert_eq!(line["cut"], reason, "{key}: {line}");
        let series = format!("tollgate_answers_cut_total{{reason=\"{reason}\",site=\"vantage\"}}");
        assert_eq!(scene.gate.metric(&series).await, Some(1.0), "{key}");
    }
}

#[tokio::test]
async fn a_slow_answer_within_its_times_passes_and_bodies_are_counted_both_ways() {
    let gate = Setup::default().answer("fine").start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let bytes = "tollgate_request_bytes_total{site=\"vantage\"}";
    let before = gate.metric(bytes).await.expect("the series");
    let sent = vec![b'x'; 300_000];
    let answer = gate.client.ask("POST", "/api/v1/posts").bearer(&token).body(sent.clone()).send().await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "fine"));
    let answer = gate.client.ask("POST", "/api/v1/posts").bearer(&token).body(sent).send_http2().await;
    assert_eq!(answer.status, 200);
    assert_eq!(gate.metric(bytes).await, Some(before + 600_000.0));
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    assert_eq!(gate.metric(bytes).await, Some(before + 600_000.0), "no body, no bytes");
}

#[tokio::test]
async fn the_time_at_the_backend_is_told_without_what_went_before() {
    // Redis takes the connection and says nothing: the first request waits for it, and goes on.
    let redis = silent_after("").await;
    let top = format!("[limits]\nredis_url = \"redis://{redis}\"\nredis_timeout = \"2s\"\non_failure = \"allow\"");
    let gate = Setup::default().answer("fine").top(&top).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let sums = async || {
        let upstream = "tollgate_upstream_request_duration_seconds_sum{site=\"vantage\",upstream=\"app\"}";
        let whole = "tollgate_request_duration_seconds_sum{site=\"vantage\"}";
        (gate.metric(upstream).await.expect("a series"), gate.metric(whole).await.expect("a series"))
    };
    let (upstream, whole) = sums().await;
    let mut waited = false;
    // One request in about a second asks Redis.
    for _ in 0..3 {
        let began = super::wire::now();
        assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
        waited |= began.elapsed() > Duration::from_millis(1900);
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let (upstream_after, whole_after) = sums().await;
    assert!(waited && whole_after - whole > 1.9, "{whole_after} after {whole}");
    assert!(upstream_after - upstream < 1.5, "{upstream_after} after {upstream}");
}

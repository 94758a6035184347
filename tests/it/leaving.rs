//! Clients that leave, or take nothing, before they have their answer: what they asked for was done or not, and stands in
//! the log and the metrics as everything else does.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::backend::Backend;
use super::client::{Client, PATIENCE};
use super::frames::{END_HEADERS, END_STREAM, HEADERS, Raw, SETTINGS, WINDOW_UPDATE, block};
use super::phases::{Scene, head, scene, scene_within, silent_after};
use super::process::{Home, Plan};
use super::wire::now;

const ASK: &[u8] = b"GET /open/x HTTP/1.1\r\nhost: localhost\r\n\r\n";
const DECIDED: &str = "tollgate_decisions_total{outcome=\"client_left\",site=\"vantage\"}";
const IN_FLIGHT: &str = "tollgate_requests_in_flight{site=\"vantage\"}";

fn cut(reason: &str) -> String {
    format!("tollgate_answers_cut_total{{reason=\"{reason}\",site=\"vantage\"}}")
}

fn timed_out(phase: &str) -> String {
    format!("tollgate_connections_timed_out_total{{phase=\"{phase}\"}}")
}

impl Scene {
    /// Waits until a metric has this value.
    async fn until(&self, line: &str, value: f64) {
        let begun = now();
        while self.gate.metric(line).await != Some(value) {
            assert!(begun.elapsed() < PATIENCE, "{line} is {:?}", self.gate.metric(line).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A client that speaks HTTP/2; aborted, it is gone.
async fn http2(client: &Client, window: u32) -> (http2::SendRequest<Empty<Bytes>>, JoinHandle<()>) {
    let stream = client.stream(&[b"h2"]).await;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) =
        builder.initial_stream_window_size(window).handshake(TokioIo::new(stream)).await.expect("HTTP/2");
    let driver = tokio::spawn(async move { drop(connection.await) });
    (sender, driver)
}

fn asked() -> Request<Empty<Bytes>> {
    Request::get("https://localhost/open/x").body(Empty::new()).expect("a request")
}

/// What the log says of the one request whose answer nobody waited for.
async fn unanswered(scene: &Scene) {
    let (line, counted) = scene.told("cancelled").await;
    assert_eq!(counted, Some(1.0), "{line}");
    let said = |name: &str| line[name].clone();
    assert_eq!((said("status"), said("cut")), (json!(499), json!("client_left")), "{line}");
    assert_eq!((said("upstream"), said("problem"), said("fault")), (json!("slow"), Value::Null, Value::Null), "{line}");
    assert!(said("server").as_str().is_some_and(|server| server.starts_with("http://127.0.0.1:")), "{line}");
    assert_eq!(scene.gate.metric(DECIDED).await, Some(1.0));
    assert_eq!(scene.gate.metric(&cut("client_left")).await, Some(1.0));
    assert_eq!(scene.gate.metric(IN_FLIGHT).await, Some(0.0));
    let counted = "tollgate_requests_total{method=\"GET\",site=\"vantage\",status=\"4xx\"}";
    assert_eq!(scene.gate.metric(counted).await, Some(1.0));
}

#[tokio::test]
async fn a_request_whose_client_leaves_before_its_answer_is_counted_and_logged() {
    let silent = format!("http://{}", silent_after("").await);
    let scene1 = scene(&silent, "").await;
    let mut stream = scene1.gate.client.stream(&[b"http/1.1"]).await;
    stream.write_all(ASK).await.expect("sent");
    scene1.until(IN_FLIGHT, 1.0).await;
    drop(stream);
    unanswered(&scene1).await;
    // A stream that is taken back, on a connection that stays.
    let scene2 = scene(&silent, "").await;
    let (mut sender, driver) = http2(&scene2.gate.client, 65_535).await;
    let waiting = tokio::spawn(sender.send_request(asked()));
    scene2.until(IN_FLIGHT, 1.0).await;
    waiting.abort();
    unanswered(&scene2).await;
    assert!(!driver.is_finished());
    // A whole connection.
    let scene3 = scene(&silent, "").await;
    let raw = reading_nothing(&scene3.gate.client).await;
    scene3.until(IN_FLIGHT, 1.0).await;
    drop(raw);
    unanswered(&scene3).await;
}

/// A client that asks over HTTP/2, has room for all there is, and does not look at it.
async fn reading_nothing(client: &Client) -> Raw {
    let mut raw = Raw::open(client).await;
    raw.send(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
    raw.send(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()).await;
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/open/x")];
    raw.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields)).await;
    raw
}

/// A backend that answers with `answer`, and goes on with `more` without end.
async fn endless(answer: &'static str, more: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                while !head(&mut socket).await.is_empty() {
                    let _gone = socket.write_all(answer.as_bytes()).await;
                    while !more.is_empty() && socket.write_all(more).await.is_ok() {}
                }
            });
        }
    });
    url
}

async fn cut_off(scene: &Scene, reason: &str) {
    let (line, counted) = scene.told("2xx").await;
    assert_eq!((counted, &line["status"], &line["cut"]), (Some(1.0), &json!(200), &json!(reason)), "{line}");
    assert_eq!(scene.gate.metric(&cut(reason)).await, Some(1.0));
}

#[tokio::test]
async fn a_client_that_leaves_an_answer_and_one_that_takes_nothing_of_it_are_told_apart() {
    const BEGUN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nbegun";
    let begins = endless(BEGUN, b"").await;
    let scene1 = scene(&begins, "").await;
    let mut stream = scene1.gate.client.stream(&[b"http/1.1"]).await;
    stream.write_all(ASK).await.expect("sent");
    let _head = head(&mut stream).await;
    drop(stream);
    cut_off(&scene1, "client_left").await;
    let scene2 = scene(&begins, "").await;
    let (mut sender, _driver) = http2(&scene2.gate.client, 65_535).await;
    drop(sender.send_request(asked()).await.expect("an answer"));
    cut_off(&scene2, "client_left").await;
    // They stay, and take nothing.
    let floods = endless(BEGUN, &[b'x'; 8192]).await;
    let scene3 = scene_within(&floods, "", "send_timeout = \"500ms\"").await;
    let mut stream = scene3.gate.client.stream(&[b"http/1.1"]).await;
    stream.write_all(ASK).await.expect("sent");
    cut_off(&scene3, "client_stalled").await;
    scene3.until(&timed_out("unread"), 1.0).await;
    drop(stream);
    // A stream whose window stays shut, on a connection that goes on.
    let scene4 = scene_within(&floods, "", "send_timeout = \"500ms\"").await;
    let (mut sender, _driver) = http2(&scene4.gate.client, 1024).await;
    let shut = sender.send_request(asked()).await.expect("an answer");
    cut_off(&scene4, "client_stalled").await;
    assert_eq!(scene4.gate.metric(&timed_out("unread")).await, Some(0.0), "the connection has moved");
    drop(shut);
    // A whole connection.
    let scene5 = scene_within(&floods, "", "send_timeout = \"500ms\"").await;
    let raw = reading_nothing(&scene5.gate.client).await;
    cut_off(&scene5, "client_stalled").await;
    scene5.until(&timed_out("unread"), 1.0).await;
    drop(raw);
}

#[tokio::test]
async fn an_answer_that_its_client_has_is_not_cut_whatever_its_framing() {
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        // The gateway's own: a refusal, which has a body that nobody is to see.
        ("HEAD", ""),
        ("GET", ""),
    ] {
        let (backend, route) =
            if answer.is_empty() { ("http://127.0.0.1:1".to_owned(), "") } else { (endless(answer, b"").await, "") };
        let scene = scene(&backend, route).await;
        for http2 in [false, true] {
            let ask = scene.gate.client.ask(method, "/open/x");
            if http2 {
                ask.send_http2().await
            } else {
                ask.send().await
            };
        }
        for line in scene.log.lines("/open/x", 2).await {
            assert_eq!(line["cut"], Value::Null, "{method} {answer}: {line}");
            assert_ne!(line["status"], 499, "{line}");
        }
        assert_eq!(scene.gate.metric(DECIDED).await, Some(0.0));
    }
}

#[tokio::test]
async fn each_phase_of_a_connection_that_takes_too_long_is_counted_by_itself() {
    let times = "header_timeout = \"300ms\"\nhandshake_timeout = \"300ms\"\nidle_timeout = \"1s\"";
    let scene = scene_within("http://127.0.0.1:1", "", times).await;
    let phases = ["silent", "head", "unread", "idle"];
    let counted = async || {
        let mut counts = Vec::new();
        for phase in phases {
            counts.push(scene.gate.metric(&timed_out(phase)).await.expect("a series"));
        }
        counts
    };
    // Whoever comes and goes by themselves has taken nobody's time.
    drop(scene.gate.client.stream(&[b"http/1.1"]).await);
    assert_eq!(scene.gate.client.get("/api/v1/none").send().await.status, 404);
    assert_eq!(counted().await, [0.0; 4]);
    for (alpn, said, phase) in [
        (&b"http/1.1"[..], &b""[..], "silent"),
        (b"http/1.1", b"GET /open/x HTTP/1.1\r\nhost: loc", "head"),
        (b"http/1.1", b"GET /api/v1/none HTTP/1.1\r\nhost: localhost\r\n\r\n", "idle"),
        (b"h2", b"", "silent"),
        (b"h2", b"PRI * HT", "head"),
        (b"h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "idle"),
    ] {
        let mut before = counted().await;
        let mut stream = scene.gate.client.stream(&[alpn]).await;
        stream.write_all(said).await.expect("sent");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{phase}: it is let go");
        let at = phases.iter().position(|own| *own == phase).expect("a phase");
        before[at] += 1.0;
        scene.until(&timed_out(phase), before[at]).await;
        assert_eq!(counted().await, before, "{phase} after {}", String::from_utf8_lossy(said));
    }
    // No handshake at all.
    let mut silent = TcpStream::connect(scene.gate.client.address).await.expect("a connection");
    let read = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 8])).await.expect("it is let go");
    assert!(matches!(read, Ok(0) | Err(_)));
    scene.until("tollgate_tls_handshakes_total{outcome=\"timed_out\",version=\"none\"}", 1.0).await;
}

#[tokio::test]
async fn the_log_tells_of_clients_that_began_and_did_not_go_on() {
    let backend = Backend::start().await;
    let top = "[connections]\nheader_timeout = \"300ms\"\nhandshake_timeout = \"300ms\"\nidle_timeout = \"1s\"";
    let mut served =
        Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top, site: "" }).start().await;
    let ended = async |client: &Client, said: &[u8]| {
        let mut stream = client.stream(&[b"http/1.1"]).await;
        stream.write_all(said).await.expect("sent");
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("it is let go");
    };
    ended(&served.http, b"").await;
    ended(&served.http, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    ended(&served.http, b"GET / HT").await;
    let told = served
        .process
        .until("an event", |out| out.lines().find(|line| line.contains("a client took too long")).map(str::to_owned));
    let told: Value = serde_json::from_str(&told.await).expect("JSON");
    assert_eq!(
        (&told["level"], &told["phase"], &told["client"]),
        (&json!("info"), &json!("head"), &json!("127.0.0.1"))
    );
    let mut silent = TcpStream::connect(served.https.address).await.expect("a connection");
    let _ = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 8])).await.expect("it is let go");
    served
        .process
        .until("an event", |out| out.contains("did not finish the TLS handshake in time").then_some(()))
        .await;
    let out = served.process.stop().await.good();
    assert_eq!(out.matches("a client took too long").count(), 1, "silence and rest are nothing to tell of: {out}");
}

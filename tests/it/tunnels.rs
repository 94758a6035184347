//! WebSockets that are open: what they carry, and that each ends in its protocol's manner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tollgate::model::time::{Clock, SystemClock, TestClock};
use tollgate::observe::log::LogWriter;

use super::harness::{Gate, Setup, postgres};
use super::loss::{UNLIMITED, customer};
use super::process::{Home, Plan};
use super::relay::{Line, Relay};
use super::sockets::{Memory, Socket, Sockets, closed, frames, handshake, open, text, within};
use super::wire::{Wire, now};

const PATH: &str = "/api/v1/live";

struct World {
    gate: Gate,
    backend: Sockets,
    token: String,
    log: Memory,
    _writer: LogWriter,
}

impl World {
    async fn start() -> Self {
        Self::with(Setup::default(), "", "").await
    }

    async fn with(setup: Setup, route: &str, upstream: &str) -> Self {
        let log = Memory::default();
        let (logs, writer) = log.open();
        let backend = Sockets::start(&[]).await;
        let routes = format!(
            "[[site.route]]\nmatch = \"* /api/v1/{{*rest}}\"\nupstream = \"app\"\n\
             [[site.route]]\nmatch = \"GET {PATH}\"\nupstream = \"live\"\n{route}\n\
             [site.upstream.live]\nservers = [\"http://{}\"]\n{upstream}\n",
            backend.address
        );
        let gate = setup.routes(&routes).logs(logs).start().await.expect("SQLite is always there");
        let token = gate.signed_in("ada@example.com").await;
        Self { gate, backend, token, log, _writer: writer }
    }

    async fn open(&self) -> Socket {
        let field = format!("Bearer {}", self.token);
        let socket = open(&self.gate.client, PATH, &[("authorization", &field)]).await.expect("it is let in");
        self.backend.opened().await;
        socket
    }

    /// The client is told 1008 and the backend 1001, within the second that a revocation may take.
    async fn ends(&self, socket: &mut Socket) {
        let began = now();
        assert_eq!(closed(socket).await, 1008);
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
        assert_eq!(self.backend.ended().await, Some(1001));
    }
}

#[tokio::test]
async fn what_a_tunnel_carried_is_told_at_its_end() {
    let world = World::start().await;
    let mut socket = world.open().await;
    assert_eq!(world.gate.metric("tollgate_tunnels{site=\"vantage\"}").await, Some(1.0));
    let long = "x".repeat(100_000);
    socket.send(Message::text(long.clone())).await.expect("sent");
    assert_eq!(text(&mut socket).await, long);
    assert!(!world.log.text().contains(PATH), "it is not over");
    let bytes = async || world.gate.metric("tollgate_response_bytes_total{site=\"vantage\"}").await.expect("a metric");
    let before = bytes().await;
    socket.close(None).await.expect("a close");
    while within(socket.next()).await.is_some() {}
    let line = &world.log.lines(PATH, 1).await[0];
    assert_eq!((&line["status"], &line["tunnel"], &line["upstream"]), (&json!(101), &json!("closed"), &json!("live")));
    assert_eq!(line["server"], format!("http://{}", world.backend.address));
    // Header and mask of a text of that length, and of a close with no more than a header.
    assert_eq!((&line["received_bytes"], &line["sent_bytes"]), (&json!(100_014 + 6), &json!(100_010 + 2)));
    let more = bytes().await - before;
    assert!((100_012.0..100_013.0).contains(&more), "{more}");
    assert_eq!(world.gate.metric("tollgate_tunnels{site=\"vantage\"}").await, Some(0.0));
}

#[tokio::test]
async fn a_session_that_ends_ends_its_websocket() {
    let world = World::start().await;
    let mut socket = world.open().await;
    assert_eq!(world.gate.operate("DELETE", "/users/ada@example.com/sessions", None).await.status, 200);
    world.ends(&mut socket).await;
    assert_eq!(world.log.lines(PATH, 1).await[0]["tunnel"], "revoked");
    assert_eq!(world.gate.metric("tollgate_streams_cut_total").await, Some(1.0));
}

#[tokio::test]
async fn a_plan_that_no_longer_allows_the_route_ends_its_websocket() {
    let world = World::with(Setup::default(), "plans = [\"growth\", \"pro\"]", "").await;
    let field = format!("Bearer {}", world.token);
    let refused = open(&world.gate.client, PATH, &[("authorization", &field)]).await.expect_err("not on free");
    assert_eq!(refused.status(), 403);
    world.gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "plan": "pro" }))).await;
    let mut socket = world.open().await;
    // Another plan that allows it changes nothing.
    world.gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "plan": "growth" }))).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    socket.send(Message::text("still here")).await.expect("sent");
    assert_eq!((world.backend.text().await, text(&mut socket).await), ("still here".into(), "still here".into()));
    world.gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "plan": "free" }))).await;
    world.ends(&mut socket).await;
}

#[tokio::test]
async fn a_token_that_expires_ends_its_websocket() {
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let world = World::with(Setup::default().clock(clock.clone()), "", "").await;
    let mut socket = world.open().await;
    clock.advance(Duration::from_mins(59));
    tokio::time::sleep(Duration::from_millis(700)).await;
    socket.send(Message::text("a minute left")).await.expect("sent");
    assert_eq!((world.backend.text().await, text(&mut socket).await), ("a minute left".into(), "a minute left".into()));
    clock.advance(Duration::from_mins(2));
    world.ends(&mut socket).await;
}

/// A session that ends while a frame is half sent; then, after `pause`, the rest and one more.
async fn cut_in_a_frame(pause: Duration) -> World {
    let world = World::start().await;
    let field = format!("authorization: Bearer {}\r\nsec-websocket-version", world.token);
    let head = String::from_utf8(handshake(PATH)).expect("ASCII").replace("sec-websocket-version", &field);
    let mut stream = world.gate.client.stream(&[b"http/1.1"]).await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.flush().await.expect("sent");
    world.backend.opened().await;
    let bytes = frames([Message::text("whole"), Message::text("half of it")]);
    let (now, later) = bytes.split_at(bytes.len() - 5);
    stream.write_all(now).await.expect("sent");
    stream.flush().await.expect("sent");
    assert_eq!(world.backend.text().await, "whole");
    assert_eq!(world.gate.operate("DELETE", "/users/ada@example.com/sessions", None).await.status, 200);
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    // The head of the answer, the echo of the whole frame, and the close.
    while !answer.ends_with(b"access has ended") {
        let read = within(stream.read(&mut chunk)).await.expect("bytes");
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&chunk[..read]);
    }
    tokio::time::sleep(pause).await;
    let rest = [later, &frames([Message::text("too late")])[..]].concat();
    // It may be cut off by now.
    let _ = stream.write_all(&rest).await;
    let _ = stream.flush().await;
    world
}

#[tokio::test]
async fn a_frame_under_way_may_end_and_nothing_passes_after_it() {
    let world = cut_in_a_frame(Duration::ZERO).await;
    assert_eq!((world.backend.text().await, world.backend.ended().await), ("half of it".into(), Some(1001)));
}

#[tokio::test]
async fn a_frame_that_does_not_end_is_cut_without_a_frame_of_ours_in_it() {
    let world = cut_in_a_frame(Duration::from_millis(900)).await;
    assert_eq!(world.backend.ended().await, None);
}

#[tokio::test]
async fn silence_ends_a_websocket_and_a_ping_is_no_silence() {
    let world = World::with(Setup::default(), "", "tunnel_idle_timeout = \"2s\"").await;
    let mut socket = world.open().await;
    let began = now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        socket.send(Message::Ping("".into())).await.expect("sent");
        assert!(within(socket.next()).await.is_some_and(|answer| answer.is_ok_and(|answer| answer.is_pong())));
        assert!(matches!(world.backend.next().await, super::sockets::Seen::Said(Message::Ping(_))));
    }
    assert!(began.elapsed() > Duration::from_secs(2));
    assert_eq!((closed(&mut socket).await, world.backend.ended().await), (1001, Some(1001)));
    assert_eq!(world.log.lines(PATH, 1).await[0]["tunnel"], "idle");
}

#[tokio::test]
async fn a_routes_own_time_for_silence_stands_in_place_of_its_upstreams() {
    let (short, long) = ("tunnel_idle_timeout = \"1s\"", "tunnel_idle_timeout = \"1h\"");
    let world = World::with(Setup::default(), short, long).await;
    let (mut busy, mut idle) = (world.open().await, world.open().await);
    let began = now();
    let ends = async { (closed(&mut idle).await, began.elapsed()) };
    let talks = async {
        for nth in 0..10 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            busy.send(Message::text(format!("{nth}"))).await.expect("sent");
            assert_eq!(text(&mut busy).await, format!("{nth}"));
        }
    };
    let ((status, after), ()) = tokio::join!(ends, talks);
    assert_eq!(status, 1001);
    assert!((Duration::from_secs(1)..Duration::from_millis(2500)).contains(&after), "{after:?}");
    assert_eq!(world.gate.metric("tollgate_tunnels{site=\"vantage\"}").await, Some(1.0), "the busy one stays");
    assert_eq!(closed(&mut busy).await, 1001, "until it is silent too");
    let lines = world.log.lines(PATH, 2).await;
    assert!(lines.iter().all(|line| line["tunnel"] == "idle"), "{lines:?}");
    let world = World::with(Setup::default(), long, short).await;
    let mut socket = world.open().await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    socket.send(Message::text("still here")).await.expect("sent");
    assert_eq!((world.backend.text().await, text(&mut socket).await), ("still here".into(), "still here".into()));
}

#[tokio::test]
async fn when_the_store_is_away_for_too_long_a_websocket_is_told_to_come_again() {
    let Some(url) = postgres().await else { return };
    let (relay, url) = Relay::to_postgres(&url).await;
    let backend = Sockets::start(&[]).await;
    let home = Home::new(&Plan {
        postgres: Some(&url),
        backend: &format!("http://{}", backend.address),
        store: "acquire_timeout = \"500ms\"\nmax_connections = 4",
        top: "[cache]\nmax_stale = \"2s\"",
        site: UNLIMITED,
    });
    let served = home.start().await;
    let (token, ..) = customer(&mut Wire::to(&served.http), "ada@example.com", &["read:posts"]).await;
    let field = format!("Bearer {token}");
    let mut socket = open(&served.http, PATH, &[("authorization", &field)]).await.expect("it is let in");
    backend.opened().await;
    relay.set(Line::Cut);
    let began = now();
    assert_eq!((closed(&mut socket).await, backend.ended().await), (1013, Some(1001)));
    assert!(began.elapsed() > Duration::from_secs(1), "what is remembered counts for a while");
}

#[tokio::test]
async fn at_the_drains_end_both_sides_get_a_close() {
    let setup = Setup::default().top("[connections]\ndrain_timeout = \"500ms\"\n");
    let mut world = World::with(setup, "", "").await;
    let mut socket = world.open().await;
    let (told, ()) = tokio::join!(closed(&mut socket), world.gate.drain());
    assert_eq!((told, world.backend.ended().await), (1001, Some(1001)));
    assert_eq!(world.log.lines(PATH, 1).await[0]["tunnel"], "drained");
}

#[tokio::test]
async fn a_handshake_that_is_under_way_when_the_drain_begins_is_told_nothing_of_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let slow = "[[site.route]]\nmatch = \"GET /api/v1/slow\"\nupstream = \"slow\"\n[site.upstream.slow]\nservers = ";
    let slow = format!("{slow}[\"http://{}\"]", listener.local_addr().expect("it has one"));
    let setup = Setup::default().top("[connections]\ndrain_timeout = \"2s\"\n");
    let mut world = World::with(setup, &slow, "").await;
    let (client, field) = (world.gate.client.clone(), format!("Bearer {}", world.token));
    let asked = tokio::spawn(async move { open(&client, "/api/v1/slow", &[("authorization", &field)]).await });
    let (mut backend, _) = within(listener.accept()).await.expect("a connection");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(within(backend.read_buf(&mut head)).await.expect("a head") > 0);
    }
    let head = String::from_utf8(head).expect("text");
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answered = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let agrees = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        );
        backend.write_all(agrees.as_bytes()).await.expect("sent");
        // `Connection: upgrade` alone: beside a `close` this client, as many, takes it for no WebSocket.
        let mut socket = within(asked).await.expect("no panic").expect("it is let in");
        assert_eq!(closed(&mut socket).await, 1001);
    };
    tokio::join!(answered, world.gate.drain());
}

#[tokio::test]
async fn a_close_of_the_sides_own_is_left_alone() {
    let world = World::start().await;
    let mut socket = world.open().await;
    let own = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 4001.into(), reason: "bye".into() };
    socket.close(Some(own)).await.expect("a close");
    assert_eq!(closed(&mut socket).await, 4001);
    assert_eq!(world.backend.ended().await, Some(4001));
}

/// A backend whose answers have this head and then go on for ever.
async fn endless(head: &'static str, piece: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes()).await;
                // Until the gateway hangs up.
                while socket.write_all(piece).await.is_ok() {}
            });
        }
    });
    address
}

/// Asks for `/api/v1/long` in HTTP/1.1 or HTTP/2; the body, while it comes.
async fn long(gate: &Gate, token: &str, http2: bool) -> hyper::body::Incoming {
    let request = http::Request::get("https://localhost/api/v1/long")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .expect("a request");
    let stream = TokioIo::new(gate.client.stream(&[if http2 { b"h2" } else { b"http/1.1" }]).await);
    let answer = if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("a connection");
        tokio::spawn(connection);
        within(sender.send_request(request)).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("a connection");
        tokio::spawn(connection);
        within(sender.send_request(request)).await
    };
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.into_body()
}

#[tokio::test]
async fn a_long_answer_that_is_cut_never_looks_complete() {
    const CHUNK: &[u8] = b"10\r\ndata: 0123456789\r\n";
    for (head, piece) in [
        ("content-type: text/event-stream\r\ntransfer-encoding: chunked", CHUNK),
        ("content-length: 99999999999", &[0x55; 4096]),
    ] {
        let backend = endless(head, piece).await;
        let routes = format!(
            "[[site.route]]\nmatch = \"* /api/v1/{{*rest}}\"\nupstream = \"app\"\n\
             [[site.route]]\nmatch = \"GET /api/v1/long\"\nupstream = \"long\"\n\
             [site.upstream.long]\nservers = [\"http://{backend}\"]\n"
        );
        let gate = Setup::default().routes(&routes).start().await.expect("SQLite is always there");
        let token = gate.signed_in("ada@example.com").await;
        for http2 in [false, true] {
            let token = if http2 { signed_in_again(&gate).await } else { token.clone() };
            let mut body = long(&gate, &token, http2).await;
            let mut read = 0;
            while read < 1_000_000 {
                let frame = within(body.frame()).await.expect("it goes on").expect("and is whole so far");
                read += frame.data_ref().map_or(0, bytes::Bytes::len);
            }
            assert_eq!(gate.operate("DELETE", "/users/ada@example.com/sessions", None).await.status, 200);
            let began = now();
            let end = loop {
                match within(body.frame()).await {
                    Some(Ok(_)) => assert!(began.elapsed() < Duration::from_secs(3), "it goes on: {head}"),
                    end => break end,
                }
            };
            assert!(matches!(end, Some(Err(_))), "http2 {http2}: {head}");
        }
    }
}

async fn signed_in_again(gate: &Gate) -> String {
    let body = json!({ "email": "ada@example.com", "password": "correct horse battery" });
    gate.client.post("/api/v1/auth/login", &body).send().await.string("/access_token")
}

#[tokio::test]
async fn a_backend_that_chooses_what_was_not_offered_is_not_believed() {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    for (chosen, offered, status) in [
        ("sec-websocket-protocol: chat", "sec-websocket-protocol: superchat, chat", "101"),
        ("sec-websocket-protocol: chat", "sec-websocket-protocol: superchat", "502"),
        ("sec-websocket-protocol: chat", "x-none: 1", "502"),
        ("sec-websocket-protocol: chat, superchat", "sec-websocket-protocol: superchat, chat", "502"),
        ("sec-websocket-extensions: permessage-deflate", "sec-websocket-extensions: permessage-deflate", "101"),
        ("sec-websocket-extensions: permessage-deflate", "x-none: 1", "502"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let backend = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("the gateway");
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{chosen}\r\n\r\n"
            );
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.read(&mut request).await;
        });
        let routes = format!(
            "[[site.route]]\nmatch = \"* /api/v1/{{*rest}}\"\nupstream = \"live\"\n\
             [site.upstream.live]\nservers = [\"http://{backend}\"]\n"
        );
        let gate = Setup::default().routes(&routes).start().await.expect("SQLite is always there");
        let token = gate.signed_in("ada@example.com").await;
        let mut stream = gate.client.stream(&[b"http/1.1"]).await;
        let head = format!(
            "GET {PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n{offered}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.flush().await.expect("sent");
        let mut answer = [0; 12];
        within(stream.read_exact(&mut answer)).await.expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{chosen} for {offered}");
    }
}

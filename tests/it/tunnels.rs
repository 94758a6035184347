//! WebSockets that are open: what they carry, and that each ends in its protocol's manner.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tollgate::model::time::{Clock, SystemClock, TestClock};
use tollgate::observe::log::LogWriter;

use super::harness::{Gate, Setup};
use super::sockets::{Memory, Socket, Sockets, closed, frames, handshake, open, text, within};
use super::wire::now;

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
        assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());
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
    let world = cut_in_a_frame(Duration::from_millis(600)).await;
    assert_eq!(world.backend.ended().await, None);
}

#[tokio::test]
async fn silence_ends_a_websocket_and_a_ping_is_no_silence() {
    let world = World::with(Setup::default(), "", "tunnel_idle_timeout = \"1s\"").await;
    let mut socket = world.open().await;
    let began = now();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        socket.send(Message::Ping("".into())).await.expect("sent");
        assert!(within(socket.next()).await.is_some_and(|answer| answer.is_ok_and(|answer| answer.is_pong())));
        assert!(matches!(world.backend.next().await, super::sockets::Seen::Said(Message::Ping(_))));
    }
    assert!(began.elapsed() > Duration::from_secs(2));
    assert_eq!((closed(&mut socket).await, world.backend.ended().await), (1001, Some(1001)));
    assert_eq!(world.log.lines(PATH, 1).await[0]["tunnel"], "idle");
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
async fn a_close_of_the_sides_own_is_left_alone() {
    let world = World::start().await;
    let mut socket = world.open().await;
    let own = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 4001.into(), reason: "bye".into() };
    socket.close(Some(own)).await.expect("a close");
    assert_eq!(closed(&mut socket).await, 4001);
    assert_eq!(world.backend.ended().await, Some(4001));
}

//! Agents that say who they are in the first message of their WebSocket (ChatOps).

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tollgate::observe::log::LogWriter;

use super::client::Client;
use super::collector::{Collector, hex, of_kind};
use super::harness::{ADMIN_TOKEN, Gate, Setup, trusting};
use super::process::{Process, tollgate};
use super::sockets::{Memory, Socket, Sockets, closed, frames, open, raw, speak, text, within};
use super::wire::now;

const PATH: &str = "/api/v1/agents/ws";
const WELCOME: &str = r#"{"type":"auth_success","server_id":"server-7","message":"Connected successfully"}"#;
const CONTRACT: &str = include_str!("../../config/contracts/chatops.toml");

/// A gateway in front of a backend for agents, and one key.
struct World {
    gate: Gate,
    backend: Sockets,
    token: String,
    key: String,
    id: String,
    log: Memory,
    _writer: LogWriter,
}

impl World {
    async fn start() -> Self {
        Self::with(Sockets::start(&[]).await, "", "").await
    }

    async fn with(backend: Sockets, top: &str, site: &str) -> Self {
        Self::made(backend, top, site, "chatops").await
    }

    /// One whose agents have a second for their first message.
    async fn hasty(folder: &tempfile::TempDir) -> Self {
        let file = folder.path().join("chatops.toml");
        std::fs::write(&file, CONTRACT.replace("patience = \"10s\"", "patience = \"1s\"")).expect("a contract");
        let file: &'static str = file.display().to_string().leak();
        Self::made(Sockets::start(&[]).await, "", "", file).await
    }

    async fn made(backend: Sockets, top: &str, site: &str, product: &'static str) -> Self {
        let log = Memory::default();
        let (logs, writer) = log.open();
        // More of the agents' route where a line of it is given, of the site otherwise.
        let (route, site) = if site.starts_with('[') { ("", site) } else { (site, "") };
        let routes = format!(
            "[[site.route]]\nmatch = \"* /{{*rest}}\"\nupstream = \"app\"\n\
             [[site.route]]\nmatch = \"GET {PATH}\"\nupstream = \"agents\"\n{route}\n\
             [site.upstream.agents]\nservers = [\"http://{}\"]\n",
            backend.address
        );
        let setup = Setup::default().product(product).routes(&routes).top(top).site(site).logs(logs);
        let gate = setup.start().await.expect("SQLite is always there");
        let made = gate.client.post("/api/v1/auth/register", &account()).send().await;
        assert_eq!(made.status, 201, "{}", made.text());
        let token = made.string("/access_token");
        let (key, id) = key(&gate, &token).await;
        Self { gate, backend, token, key, id, log, _writer: writer }
    }

    async fn agent(&self) -> Socket {
        open(&self.gate.client, PATH, &[]).await.expect("the handshake is agreed to")
    }

    fn auth(&self) -> Message {
        auth(&self.key)
    }

    /// An agent that was let in.
    async fn welcome(&self) -> Socket {
        let mut agent = self.agent().await;
        agent.send(self.auth()).await.expect("sent");
        assert_eq!(text(&mut agent).await, WELCOME);
        agent
    }

    /// What is answered to this as a first message, which is then closed with which status.
    async fn told(&self, first: Message) -> (String, u16) {
        let mut agent = self.agent().await;
        // A long one may not get through before it is refused.
        let _ = agent.send(first).await;
        refused(&mut agent).await
    }

    async fn operate(&self, method: &str, resource: &str, body: Option<serde_json::Value>) {
        let ask = self.gate.admin.ask(method, &format!("/v1/sites/chatops{resource}")).bearer(ADMIN_TOKEN);
        let answer = match body {
            Some(body) => ask.json(&body).send().await,
            None => ask.send().await,
        };
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    async fn outcomes(&self, name: &str) -> Option<f64> {
        self.gate.metric(&format!("tollgate_agent_authentications_total{{outcome=\"{name}\"}}")).await
    }
}

fn account() -> serde_json::Value {
    json!({
        "email": "ada@example.com", "username": "ada", "password": "correct horse battery",
        "password_confirm": "correct horse battery", "full_name": "Ada",
    })
}

async fn key(gate: &Gate, token: &str) -> (String, String) {
    let path = "/api/v1/servers/server-7/api-keys";
    let made = gate.client.post(path, &json!({ "name": "agent" })).bearer(token).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    (made.string("/key"), made.string("/id"))
}

fn auth(key: &str) -> Message {
    Message::text(json!({ "type": "auth", "api_key": key }).to_string())
}

/// The message of a refusal, and the status that closes it.
async fn refused(agent: &mut Socket) -> (String, u16) {
    let told: serde_json::Value = serde_json::from_str(&text(agent).await).expect("JSON");
    assert_eq!(told["type"], "auth_error");
    assert_eq!(told.as_object().expect("an object").len(), 2);
    (told["message"].as_str().expect("a message").to_owned(), closed(agent).await)
}

/// A piece of a text message.
fn piece(text: &str, first: bool, last: bool) -> Message {
    let data = if first { Data::Text } else { Data::Continue };
    Message::Frame(Frame::message(text.to_owned(), OpCode::Data(data), last))
}

#[tokio::test]
async fn an_agent_that_shows_its_key_talks_to_the_backend_as_itself() {
    let world = World::start().await;
    let headers = [("x-server-id", "server-1"), ("x-key-id", "key"), ("x-user-id", "root")];
    let mut agent = open(&world.gate.client, "/api/v1/agents/ws?since=7", &headers).await.expect("a handshake");
    agent.send(world.auth()).await.expect("sent");
    assert_eq!(text(&mut agent).await, WELCOME);
    let handshake = world.backend.opened().await;
    assert_eq!(handshake.path, "/api/v1/agents/ws?since=7");
    assert_eq!(handshake.one("x-server-id"), Some("server-7"));
    assert_eq!(handshake.one("x-key-id"), Some(world.id.as_str()));
    assert_eq!(handshake.one("x-auth-method"), Some("api_key"));
    assert_eq!(handshake.one("x-user-email"), Some("ada@example.com"));
    assert!(handshake.one("x-user-id").is_some_and(|id| id != "root") && handshake.one("x-request-id").is_some());
    assert!(!format!("{handshake:?}").contains(&world.key), "{handshake:?}");

    agent.send(Message::text("metrics")).await.expect("sent");
    assert_eq!((world.backend.text().await, text(&mut agent).await), ("metrics".into(), "metrics".into()));
    assert_eq!(world.gate.metric("tollgate_tunnels{site=\"chatops\"}").await, Some(1.0));
    assert_eq!(world.gate.metric("tollgate_agents_waiting").await, Some(0.0));
    agent.close(None).await.expect("a close");
    assert!(within(agent.next()).await.is_some_and(|closed| closed.is_ok_and(|closed| closed.is_close())));
    assert_eq!(world.backend.ended().await, None);
    drop(agent);

    let lines = world.log.lines(PATH, 1).await;
    let line = &lines[0];
    assert_eq!((&line["status"], &line["problem"], &line["tunnel"]), (&json!(101), &json!(null), &json!("closed")));
    assert_eq!((&line["auth"], &line["upstream"]), (&json!("api_key"), &json!("agents")));
    assert_eq!(line["key"], world.id.replace('-', "").as_str());
    assert!(line["received_bytes"].as_u64() > Some(10) && line["sent_bytes"].as_u64() > Some(8), "{line}");
    assert!(!world.log.text().contains(&world.key), "the key is in the log");
    assert_eq!(world.outcomes("accepted").await, Some(1.0));
    assert_eq!(world.gate.metric("tollgate_tunnels_total{end=\"closed\",site=\"chatops\"}").await, Some(1.0));
    assert_eq!(world.gate.metric("tollgate_tunnels{site=\"chatops\"}").await, Some(0.0));
}

#[tokio::test]
async fn what_is_no_first_message_is_told_so_and_never_reaches_the_backend() {
    let world = World::start().await;
    let wrong = |field: &str| format!("Invalid request: {field}");
    let unknown = tollgate::credential::api_key::mint("chatops_", &tollgate::model::entropy::SystemEntropy);
    let (most, last) = world.key.split_at(world.key.len() - 1);
    let mistyped = format!("{most}{}", if last == "x" { "y" } else { "x" });
    let spaced = format!(" {}", world.key);
    let told = |text: &str| text.to_owned();
    for (first, message) in [
        (
            Message::binary(json!({ "type": "auth", "api_key": world.key }).to_string()),
            wrong("the body must be a text message"),
        ),
        (Message::text("hello"), wrong("the body is not JSON: line 1, column 1")),
        (Message::text(""), wrong("the body is not JSON: line 1, column 0")),
        (Message::text(world.key.clone()), wrong("the body is not JSON: line 1, column 1")),
        (Message::text(r#"{"type":"ping"}"#), wrong("type must be `auth`")),
        (Message::text(json!({ "api_key": world.key }).to_string()), wrong("type must be `auth`")),
        (Message::text(r#"{"type":"auth"}"#), wrong("api_key is required")),
        (Message::text(r#"{"type":"auth","api_key":7}"#), wrong("api_key must be a string")),
        (auth(""), wrong("api_key must not be empty")),
        (auth(unknown.expose()), told("Invalid credential")),
        (auth(&mistyped), told("Invalid credential")),
        (auth(&spaced), told("Invalid credential")),
        (auth(&world.token), told("Invalid credential")),
        (auth(&"x".repeat(4069)), told("Payload too large")),
        (auth(&"x".repeat(10_000_000)), told("Payload too large")),
    ] {
        let short: String = first.to_string().chars().take(80).collect();
        assert_eq!(world.told(first).await, (message, 1008), "{short}");
    }
    assert_eq!(world.backend.accepted(), 0, "nothing reaches the backend");
    assert_eq!(world.outcomes("malformed").await, Some(11.0));
    assert_eq!(world.outcomes("refused").await, Some(4.0));
    let lines = world.log.lines(PATH, 15).await;
    assert!(lines.iter().all(|line| line["status"] == 101 && line["tunnel"].is_null() && line["key"].is_null()));
    assert_eq!(lines.iter().filter(|line| line["problem"] == "invalid_token").count(), 4);
    let log = world.log.text();
    assert!(!log.contains(&world.key) && !log.contains(unknown.expose()) && !log.contains(&mistyped));
    drop(world.welcome().await);
}

#[tokio::test]
async fn bytes_that_are_no_frames_of_a_client_are_refused() {
    let world = World::start().await;
    let good = frames([world.auth()]);
    // Unmasked; a reserved bit; a reserved opcode; longer than a u63 could say; not WebSocket at all.
    let unmasked = [&[0x81, 0x05], &b"hello"[..]].concat();
    let reserved = [&[good[0] | 0x40], &good[1..]].concat();
    let opcode = [&[0x83], &good[1..]].concat();
    let huge = [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4].to_vec();
    let http = b"GET /api/v1/admin HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec();
    for bytes in [unmasked, reserved, opcode, huge, http] {
        let (mut stream, head) = raw(&world.gate.client, PATH, &[]).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream.write_all(&bytes).await.expect("sent");
        stream.flush().await.expect("sent");
        let (message, status) = refused(&mut speak(stream).await).await;
        assert_eq!(status, 1008, "{message}");
    }
    assert_eq!((world.backend.accepted(), world.gate.backend.count()), (0, 0));
}

#[tokio::test]
async fn a_first_message_may_come_in_pieces_with_pings_between_them() {
    let world = World::start().await;
    let whole = json!({ "type": "auth", "api_key": world.key }).to_string();
    let (start, rest) = whole.split_at(20);
    let mut agent = world.agent().await;
    agent.send(Message::Ping("one".into())).await.expect("sent");
    assert_eq!(within(agent.next()).await.expect("an answer").expect("a frame"), Message::Pong("one".into()));
    agent.send(piece(start, true, false)).await.expect("sent");
    agent.send(Message::Ping("two".into())).await.expect("sent");
    assert_eq!(within(agent.next()).await.expect("an answer").expect("a frame"), Message::Pong("two".into()));
    assert_eq!(world.backend.accepted(), 0, "half a key is none");
    agent.send(piece("", false, false)).await.expect("sent");
    agent.send(piece(rest, false, true)).await.expect("sent");
    assert_eq!(text(&mut agent).await, WELCOME);
}

#[tokio::test]
async fn an_agent_that_takes_too_long_is_told_and_let_go() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let world = World::hasty(&folder).await;
    let began = now();
    // Never; a byte at a time; pieces without end.
    let mut silent = world.agent().await;
    let (dripping, _) = raw(&world.gate.client, PATH, &[]).await;
    let (reads, mut writes) = tokio::io::split(dripping);
    let bytes = frames([world.auth()]);
    let drip = tokio::spawn(async move {
        for byte in bytes {
            if writes.write_all(&[byte]).await.is_err() || writes.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    });
    let mut dripping = reads;
    let mut answer = Vec::new();
    let late = ("The request did not arrive in time".to_owned(), 1008);
    assert_eq!(refused(&mut silent).await, late);
    let _ = within(dripping.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains(r#"{"type":"auth_error","message":"The request did not arrive in time"}"#), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drip.abort();
    assert_eq!((world.backend.accepted(), world.outcomes("late").await), (0, Some(2.0)));
    assert!(world.log.lines(PATH, 2).await.iter().all(|line| line["problem"] == "request_timeout"));
    drop(world.welcome().await);
}

#[tokio::test]
async fn an_agent_that_leaves_before_its_first_message_costs_nothing_more() {
    let world = World::start().await;
    let mut polite = world.agent().await;
    polite.close(None).await.expect("a close");
    assert!(within(polite.next()).await.is_some_and(|closed| closed.is_ok_and(|closed| closed.is_close())));
    drop(polite);
    drop(world.agent().await);
    let (mut broken, _) = raw(&world.gate.client, PATH, &frames([world.auth()])[..20]).await;
    broken.shutdown().await.expect("half a key, and the end");
    let lines = world.log.lines(PATH, 3).await;
    assert!(lines.iter().all(|line| line["problem"].is_null() && line["upstream"].is_null()));
    assert_eq!((world.backend.accepted(), world.outcomes("left").await), (0, Some(3.0)));
    assert_eq!(world.gate.metric("tollgate_agents_waiting").await, Some(0.0));
}

#[tokio::test]
async fn what_comes_in_the_same_segment_as_the_first_message_is_not_lost() {
    let world = World::start().await;
    let behind = frames([Message::text("one"), Message::text("two"), Message::text("three")]);
    let (now, later) = behind.split_at(12);
    // Behind the message, behind the handshake, and in the middle of a frame.
    let (stream, head) = raw(&world.gate.client, PATH, &[&frames([world.auth()])[..], now].concat()).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut stream = stream;
    stream.write_all(later).await.expect("sent");
    stream.flush().await.expect("sent");
    let mut agent = speak(stream).await;
    assert_eq!(text(&mut agent).await, WELCOME);
    world.backend.opened().await;
    for said in ["one", "two", "three"] {
        assert_eq!((world.backend.text().await, text(&mut agent).await), (said.into(), said.into()));
    }
}

#[tokio::test]
async fn what_the_backend_says_at_once_comes_after_the_welcome() {
    let world = World::with(Sockets::start(&["early", "bird"]).await, "", "").await;
    let mut agent = world.welcome().await;
    assert_eq!((text(&mut agent).await, text(&mut agent).await), ("early".into(), "bird".into()));
}

#[tokio::test]
async fn no_subprotocol_is_agreed_on_and_none_is_offered_on() {
    let world = World::start().await;
    let head = String::from_utf8(super::sockets::handshake(PATH)).expect("ASCII").replace(
        "sec-websocket-version",
        "sec-websocket-protocol: chat, token.chatops_x\r\nsec-websocket-extensions: permessage-deflate\r\nsec-websocket-version",
    );
    let mut stream = world.gate.client.stream(&[b"http/1.1"]).await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&frames([world.auth()])).await.expect("sent");
    stream.flush().await.expect("sent");
    let handshake = world.backend.opened().await;
    assert_eq!((handshake.one("sec-websocket-protocol"), handshake.one("sec-websocket-extensions")), (None, None));
    let mut answer = vec![0; 4096];
    let read = within(stream.read(&mut answer)).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..read]).to_lowercase();
    assert!(
        answer.starts_with("http/1.1 101 ") && answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=")
    );
    assert!(
        !answer.contains("protocol: ") && !answer.contains("extensions") && !answer.contains("chatops_"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_agent_is_closed_within_a_second_of_its_keys_end() {
    let world = World::start().await;
    for end in ["key", "user", "org"] {
        let (key, id) = key(&world.gate, &world.token).await;
        let mut agent = world.agent().await;
        agent.send(auth(&key)).await.expect("sent");
        assert_eq!(text(&mut agent).await, WELCOME);
        world.backend.opened().await;
        let (path, off) = match end {
            "key" => {
                let path = format!("/api/v1/servers/server-7/api-keys/{id}");
                let answer = world.gate.client.ask("DELETE", &path).bearer(&world.token).send().await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                (None, json!(null))
            }
            "user" => (Some("/users/ada@example.com"), json!({ "disabled": true })),
            _ => (Some("/orgs/ada@example.com"), json!({ "disabled": true })),
        };
        if let Some(path) = path {
            world.operate("PATCH", path, Some(off)).await;
        }
        let began = now();
        assert_eq!(closed(&mut agent).await, 1008, "{end}");
        assert!(began.elapsed() < Duration::from_millis(1500), "{end}: {:?}", began.elapsed());
        assert_eq!(world.backend.ended().await, Some(1001), "{end}");
        assert_eq!(world.told(auth(&key)).await, ("Invalid credential".to_owned(), 1008), "{end}");
        if let Some(path) = path {
            world.operate("PATCH", path, Some(json!({ "disabled": false }))).await;
        }
    }
    assert_eq!(world.gate.metric("tollgate_tunnels_total{end=\"revoked\",site=\"chatops\"}").await, Some(3.0));
    let told = world.log.lines(PATH, 6).await;
    assert_eq!(told.iter().filter(|line| line["tunnel"] == "revoked").count(), 3);
}

#[tokio::test]
async fn agents_that_nobody_knows_are_few() {
    let top = "[connections]\nmax_waiting_agents = 3\nmax_waiting_agents_per_address = 2\n\
        [network]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let world = World::with(Sockets::start(&[]).await, top, "").await;
    let from = async |address: &str| open(&world.gate.client, PATH, &[("x-forwarded-for", address)]).await;
    let mut first = from("2001:db8::1").await.expect("room");
    let _second = from("2001:db8::2").await.expect("room");
    let third = from("2001:db8::3").await.expect_err("the subnet has its share");
    assert_eq!((third.status().as_u16(), third.body().as_str()), (429, r#"{"detail":"Rate limit exceeded"}"#));
    assert_eq!(third.headers()["retry-after"], "10");
    assert!(!third.headers().contains_key("x-ratelimit-limit"), "it is no window");
    let _other = from("2001:db8:0:1::1").await.expect("another subnet has room");
    let none = from("192.0.2.1").await.expect_err("all are taken");
    assert_eq!(none.status(), 503);
    assert_eq!(none.headers()["retry-after"], "1");
    // Whoever is known is not counted any more.
    first.send(world.auth()).await.expect("sent");
    assert_eq!(text(&mut first).await, WELCOME);
    let again = from("2001:db8::3").await.expect("room");
    drop(again);
    assert_eq!(world.outcomes("turned_away").await, Some(2.0));
    let lines = world.log.lines(PATH, 3).await;
    let refused: Vec<_> = lines.iter().filter_map(|line| line["problem"].as_str()).collect();
    assert_eq!(refused, ["rate_limit_exceeded", "service_unavailable"]);
    // What left has made room.
    within(async {
        while from("2001:db8::4").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_is_gone_or_will_not_is_told_in_words_that_fit() {
    let world = World::start().await;
    world.backend.stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let told = world.told(world.auth()).await;
    assert_eq!(told, ("The upstream server could not be reached".to_owned(), 1011));
    for (status, message, code) in [
        ("403 Forbidden", "Insufficient permissions", 1008),
        ("404 Not Found", "Not found", 1008),
        ("503 Service Unavailable", "Service temporarily unavailable", 1013),
        ("200 OK", "The upstream server could not be reached", 1011),
        ("101 Switching Protocols", "The upstream server could not be reached", 1011),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let playing = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("the gateway");
            let mut request = [0; 4096];
            let read = socket.read(&mut request).await.expect("a handshake");
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nx-secret: key-of-the-backend\r\n\r\n");
            socket.write_all(head.as_bytes()).await.expect("an answer");
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let backend = Sockets::at(address);
        let world = World::with(backend, "", "").await;
        assert_eq!(world.told(world.auth()).await, (message.to_owned(), code), "{status}");
        let seen = playing.await.expect("no panic");
        assert!(seen.contains("x-server-id: server-7\r\n") && !seen.contains(&world.key), "{seen}");
    }
}

#[tokio::test]
async fn wrong_keys_are_counted_as_any_other_failed_credential() {
    let world = World::with(Sockets::start(&[]).await, "", "[site.limits]\nfailed_credentials = [\"3/1m\"]\n").await;
    // Known from here on: a key that was never shown before has to wait while its address is over the bound.
    drop(world.welcome().await);
    for first in [auth("chatops_x"), auth("chatops_y"), Message::text("{}")] {
        assert_ne!(world.told(first).await.0, "Rate limit exceeded");
    }
    assert_eq!(world.told(auth("chatops_z")).await, ("Rate limit exceeded".to_owned(), 1008));
    let elsewhere = world.gate.client.get("/api/v1/servers").bearer("chatops_x").send().await;
    assert_eq!(elsewhere.status, 429, "one bound for all credentials of an address");
    assert_eq!((world.outcomes("limited").await, world.backend.accepted()), (Some(1.0), 1));
    drop(world.welcome().await);
}

#[tokio::test]
async fn an_agents_connection_is_charged_as_a_request() {
    let world = World::with(Sockets::start(&[]).await, "", "[site.limits]\nper_key = [\"2/1h\"]\n").await;
    let (_first, _second) = (world.welcome().await, world.welcome().await);
    assert_eq!(world.told(world.auth()).await, ("Rate limit exceeded".to_owned(), 1008));
    assert_eq!(world.backend.accepted(), 2);
    let lines = world.log.lines(PATH, 1).await;
    assert_eq!((&lines[0]["problem"], &lines[0]["tunnel"]), (&json!("rate_limit_exceeded"), &json!(null)));
    assert_eq!(lines[0]["key"], world.id.replace('-', "").as_str());
}

#[tokio::test]
async fn a_public_route_lets_no_agent_in_without_its_key() {
    let world = World::with(Sockets::start(&[]).await, "", "public = true").await;
    assert_eq!(world.told(auth("chatops_x")).await, ("Invalid credential".to_owned(), 1008));
    assert_eq!(world.backend.accepted(), 0);
    let _agent = world.welcome().await;
    assert_eq!(world.backend.opened().await.one("x-server-id"), Some("server-7"));
}

#[tokio::test]
async fn what_a_route_says_holds_for_agents_too() {
    let world = World::with(Sockets::start(&[]).await, "", "limits = [\"1/1h\"]\nstrip_prefix = \"/api\"").await;
    let _agent = world.welcome().await;
    assert_eq!(world.backend.opened().await.path, "/v1/agents/ws");
    assert_eq!(world.told(world.auth()).await, ("Rate limit exceeded".to_owned(), 1008));
}

#[tokio::test]
async fn only_a_websocket_without_a_credential_is_an_agents() {
    let world = World::start().await;
    let client = &world.gate.client;
    let plain = client.get(PATH).send().await;
    assert_eq!((plain.status.as_u16(), plain.text().as_str()), (401, r#"{"detail":"Authentication required"}"#));
    assert_eq!(client.get(PATH).send_http2().await.status, 401, "no WebSocket over HTTP/2");
    assert_eq!(client.post(PATH, &json!({})).send().await.status, 401);
    for path in ["/api/v1/agents/WS", "/api/v1/agents/ws/", "/api/v1/agents"] {
        assert_eq!(open(client, path, &[]).await.expect_err("no place of agents").status(), 401, "{path}");
    }
    let (_, head) = raw(client, "/api/v1/agents/ws/../ws", &[]).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    // A key is shown in the first message and nowhere else; a user comes as a user.
    let field = format!("Bearer {}", world.key);
    assert_eq!(open(client, PATH, &[("authorization", &field)]).await.expect_err("no key here").status(), 401);
    let field = format!("Bearer {}", world.token);
    let mut user = open(client, PATH, &[("authorization", &field)]).await.expect("a user may");
    let handshake = world.backend.opened().await;
    assert_eq!((handshake.one("x-auth-method"), handshake.one("x-server-id")), (Some("jwt"), None));
    user.send(Message::text("hello")).await.expect("sent");
    assert_eq!(text(&mut user).await, "hello");
    assert_eq!(world.backend.accepted(), 1);
}

#[tokio::test]
async fn the_ready_file_serves_agents_and_no_log_at_any_level_holds_a_key() {
    let backend = Sockets::start(&[]).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = tollgate(folder.path());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/chatops.toml");
    command.args(["serve", "--config", file]).env("CHATOPS_BACKEND", format!("http://{}", backend.address));
    command.env("TOLLGATE__LISTEN__HTTPS", "127.0.0.1:0").env("TOLLGATE__LISTEN__ADMIN", "127.0.0.1:0");
    command.env("TOLLGATE__LOG__LEVEL", "trace");
    let mut process = Process::start(command);
    let address = process.address("https").await;
    let tls = Some(trusting(&folder.path().join("certs/ca.pem")));
    let client = Client { address, host: "localhost".into(), tls };
    let made = client.post("/api/v1/auth/register", &account()).send().await;
    let token = made.string("/access_token");
    let path = "/api/v1/servers/server-7/api-keys";
    let key = client.post(path, &json!({ "name": "agent" })).bearer(&token).send().await.string("/key");

    let mut agent = open(&client, PATH, &[]).await.expect("a handshake");
    agent.send(auth(&key)).await.expect("sent");
    assert_eq!(text(&mut agent).await, WELCOME);
    agent.send(Message::text("metrics")).await.expect("sent");
    assert_eq!(text(&mut agent).await, "metrics");
    let mut other = open(&client, PATH, &[]).await.expect("a handshake");
    other.send(auth(&format!("{key}x"))).await.expect("sent");
    assert_eq!(refused(&mut other).await, ("Invalid credential".to_owned(), 1008));
    drop(agent);
    let told = process.stop().await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    assert!(told.out.contains("\"level\":\"debug\""), "it says more than it does by default");
    let secret = key.strip_prefix("chatops_").expect("the product's prefix");
    assert!(!told.out.contains(secret) && !told.err.contains(secret), "the key is in the log");
}

#[tokio::test]
async fn agents_are_told_when_the_gateway_stops() {
    let mut world = World::with(Sockets::start(&[]).await, "[connections]\ndrain_timeout = \"500ms\"\n", "").await;
    let mut known = world.welcome().await;
    let mut unknown = world.agent().await;
    world.backend.opened().await;
    let (told, refused, ()) = tokio::join!(closed(&mut known), refused(&mut unknown), world.gate.drain());
    assert_eq!((told, world.backend.ended().await), (1001, Some(1001)));
    assert_eq!(refused, ("Service temporarily unavailable".to_owned(), 1013));
}

#[tokio::test]
async fn an_agent_is_recorded_and_its_backend_is_asked_when_its_first_message_has_come() {
    let collector = Collector::start().await;
    let world = World::with(Sockets::start(&[]).await, &collector.tracing(""), "").await;
    let mut agent = world.agent().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    agent.send(world.auth()).await.expect("sent");
    assert_eq!(text(&mut agent).await, WELCOME);
    let told = world.backend.opened().await.one("traceparent").expect("exactly one").to_owned();
    agent.close(None).await.expect("a close");
    // Registering and making the key are one each.
    let spans = collector.spans(4).await;
    let asked = of_kind(&spans, 3);
    let own = spans.iter().find(|span| span.span_id == asked.parent_span_id).expect("the agent's own");
    assert_eq!(told, format!("00-{}-{}-03", hex(&own.trace_id), hex(&asked.span_id)));
    assert!(asked.start_time_unix_nano - own.start_time_unix_nano >= 290_000_000, "{spans:?}");
    assert!(asked.end_time_unix_nano <= own.end_time_unix_nano, "{spans:?}");
    let raw: Vec<u8> = collector.posts().iter().flat_map(|post| post.raw.to_vec()).collect();
    assert!(!String::from_utf8_lossy(&raw).contains(&world.key), "the key was exported");
}

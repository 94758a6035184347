//! WebSocket handshakes and what flows after them.

use super::*;
use crate::upstream::tunnel::Ended;

/// The key and the accept value of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub(super) fn handshake(extra: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\nx-user-id: root\r\n{extra}\r\n"
    )
}

/// A backend that agrees, says `first` together with its agreement, and then echoes.
async fn echo(first: &'static str) -> Peer {
    Peer::play(move |_, mut wire| async move {
        let head = wire.head().await;
        assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        assert!(head.contains("x-user-id: user_1\r\n") && !head.contains("root"), "{head}");
        wire.say(&format!("{SWITCH}{first}")).await;
        let (mut reads, mut writes) = wire.0.split();
        tokio::io::copy(&mut reads, &mut writes).await.ok();
    })
    .await
}

pub(super) async fn open(front: &Front) -> Wire {
    let mut client = front.connect().await;
    client.say(&handshake("")).await;
    let head = within(client.head()).await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    client
}

fn only_end(front: &Front) -> Option<Ended> {
    let ended = front.ended.lock().unwrap();
    assert!(ended.len() <= 1);
    ended.first().copied()
}

#[tokio::test]
async fn bytes_flow_both_ways_and_none_is_lost_at_the_switch() {
    let peer = echo("early").await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say(&format!("{}hasty", handshake(""))).await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 101 "));
    assert_eq!(within(client.exactly(10)).await, b"earlyhasty");
    let big = "x".repeat(300_000);
    let (mut reads, mut writes) = client.0.split();
    let mut back = vec![0; big.len()];
    let (wrote, read) =
        within(async { tokio::join!(writes.write_all(big.as_bytes()), reads.read_exact(&mut back)) }).await;
    wrote.unwrap();
    read.unwrap();
    assert_eq!((front.pools.gauges()[0].open, front.pools.gauges()[0].in_flight), (1, 1));
    drop(client);
    eventually(|| only_end(&front).is_some()).await;
    assert_eq!(only_end(&front), Some(Ended { why: TunnelEnd::Closed, to_backend: 300_005, to_client: 300_010 }));
    eventually(|| front.pools.gauges()[0].open == 0 && front.pools.gauges()[0].in_flight == 0).await;
}

#[tokio::test]
async fn nothing_passes_before_the_backend_agrees() {
    let peer = Peer::play(|_, mut wire| async move {
        wire.head().await;
        let mut byte = [0];
        let early = tokio::time::timeout(SHORT, wire.0.read(&mut byte)).await;
        assert!(early.is_err(), "a byte came before the 101");
        wire.say("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
        assert_eq!(wire.head().await, "", "and none after a refusal");
    })
    .await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say(&format!("{}GET /smuggled HTTP/1.1\r\n", handshake(""))).await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 403 "), "the refusal is forwarded as it is");
    assert_eq!(within(client.exactly(2)).await, b"no");
}

#[tokio::test]
async fn a_backend_that_switches_to_something_else_is_cut_off() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ] {
        let peer = Peer::once(answer).await;
        let front = Front::open(peer.settings(), PLENTY).await;
        let mut client = front.connect().await;
        client.say(&handshake("")).await;
        assert!(within(client.head()).await.starts_with("HTTP/1.1 502 "), "{answer}");
        eventually(|| front.pools.gauges()[0].open == 0).await;
    }
}

#[tokio::test]
async fn a_handshake_that_is_not_one_never_reaches_the_backend() {
    let peer = echo("").await;
    let front = Front::open(peer.settings(), PLENTY).await;
    for (whole, broken) in [
        ("sec-websocket-version: 13", "sec-websocket-version: 8"),
        ("sec-websocket-version: 13", "sec-websocket-version: 13\r\nsec-websocket-version: 13"),
        (KEY, "c2hvcnQ="),
        (KEY, "not base64 at all!"),
        ("x-user-id: root", "content-length: 5"),
        ("x-user-id: root", "transfer-encoding: chunked"),
    ] {
        let mut client = front.connect().await;
        client.say(&handshake("").replace(whole, broken)).await;
        assert!(within(client.head()).await.starts_with("HTTP/1.1 400 "), "{broken}");
    }
    assert_eq!(peer.accepted(), 0);
    drop(open(&front).await);
}

#[tokio::test]
async fn an_idle_tunnel_ends_and_a_busy_one_does_not() {
    let peer = echo("").await;
    let front = Front::open(peer.settings(), Allowed { idle: SHORT, ..PLENTY }).await;
    let mut client = open(&front).await;
    for _ in 0..6 {
        // A whole frame: a piece of a text, of no length.
        client.say("\u{1}\u{0}").await;
        assert_eq!(within(client.exactly(2)).await, [1, 0]);
        tokio::time::sleep(SHORT / 2).await;
    }
    assert_eq!(only_end(&front), None);
    within(client.closed()).await;
    eventually(|| only_end(&front).is_some()).await;
    assert_eq!(only_end(&front), Some(Ended { why: TunnelEnd::Idle, to_backend: 12, to_client: 12 }));
    eventually(|| front.pools.gauges()[0].open == 0).await;
}

#[tokio::test]
async fn a_tunnel_ends_when_it_is_told_to() {
    let peer = echo("").await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = open(&front).await;
    front.stop.cancel();
    within(client.closed()).await;
    eventually(|| front.pools.gauges()[0].open == 0).await;
    assert_eq!(only_end(&front).map(|ended| ended.why), Some(TunnelEnd::Drained));
}

#[tokio::test]
async fn when_the_backend_ends_the_client_is_told() {
    let peer = Peer::play(|_, mut wire| async move {
        wire.head().await;
        wire.say(&format!("{SWITCH}bye")).await;
    })
    .await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = open(&front).await;
    assert_eq!(within(client.rest()).await, (b"bye".to_vec(), true));
    drop(client);
    eventually(|| only_end(&front).is_some()).await;
    let ended = only_end(&front).unwrap();
    assert_eq!((ended.to_client, ended.to_backend), (3, 0));
}

#[tokio::test]
async fn a_tunnel_counts_among_the_connections() {
    let peer = echo("").await;
    let to = Settings { max_connections: 1, queue_timeout: SHORT, ..peer.settings() };
    let front = Front::open(to, PLENTY).await;
    let first = open(&front).await;
    let mut second = front.connect().await;
    second.say(&handshake("")).await;
    assert!(within(second.head()).await.starts_with("HTTP/1.1 503 "));
    drop(first);
    eventually(|| front.pools.gauges()[0].open == 0).await;
    drop(open(&front).await);
}

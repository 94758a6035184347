//! Behind another proxy: who is believed, and who is not.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::harness::{Gate, Setup};

const PROMPT: Duration = Duration::from_secs(5);
const OPEN: &str = "[[site.route]]\nmatch = \"GET /open\"\npublic = true\nupstream = \"app\"\n";
/// The tests' own address, and a network behind it.
const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";

async fn gate(network: &str) -> Gate {
    let top = format!("[network]\n{network}");
    Setup::default().routes(OPEN).top(&top).start().await.expect("SQLite")
}

/// What the backend is told of a request with these headers: address, scheme, host.
async fn told(gate: &Gate, headers: &[(&str, &str)]) -> [String; 3] {
    let mut ask = gate.client.get("/open");
    for (name, value) in headers {
        ask = ask.header(name, *value);
    }
    assert_eq!(ask.send().await.status, 200);
    let seen = gate.backend.last();
    assert!(seen.all("forwarded").is_empty());
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]
        .map(|name| seen.one(name).expect("exactly one").to_owned())
}

#[tokio::test]
async fn a_stranger_says_nothing_that_counts() {
    let gate = gate("trusted_proxies = [\"10.0.0.0/8\"]").await;
    let own = told(&gate, &[]).await;
    assert_eq!(own, ["127.0.0.1", "https", "localhost"]);
    let lies = [
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=198.51.100.1;proto=http;host=evil.example"),
    ];
    assert_eq!(told(&gate, &lies).await, own);
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_by_the_header_it_writes_and_not_by_the_other() {
    let both = [
        ("x-forwarded-for", "1.1.1.1, 198.51.100.1, 10.0.0.7"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example"),
        ("forwarded", "for=2.2.2.2, for=\"[2001:db8::1]:4711\";proto=HTTP;host=forwarded.example"),
    ];
    let by_list = gate(TRUSTED).await;
    assert_eq!(told(&by_list, &both).await, ["198.51.100.1", "http", "shop.example"]);
    assert_eq!(told(&by_list, &both[3..]).await, ["127.0.0.1", "https", "localhost"]);
    let by_rfc = gate(&format!("{TRUSTED}\nproxy_header = \"Forwarded\"")).await;
    assert_eq!(told(&by_rfc, &both).await, ["2001:db8::1", "http", "forwarded.example"]);
    assert_eq!(told(&by_rfc, &both[..3]).await, ["127.0.0.1", "https", "localhost"]);
    assert_eq!(told(&by_rfc, &[("forwarded", "for=_hidden;proto=https")]).await, ["127.0.0.1", "https", "localhost"]);
}

#[tokio::test]
async fn what_a_proxy_says_twice_or_wrongly_is_not_believed() {
    let gate = gate(TRUSTED).await;
    for (name, value) in [
        ("x-forwarded-proto", "https, http"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-host", "a.example, b.example"),
        ("x-forwarded-host", "user@evil.example/x"),
        ("x-forwarded-host", "user@evil.example"),
        ("x-forwarded-host", "a.example',b;c"),
        ("x-forwarded-for", "unknown"),
    ] {
        assert_eq!(told(&gate, &[(name, value)]).await, ["127.0.0.1", "https", "localhost"], "{name}: {value}");
    }
    let twice = [("x-forwarded-host", "a.example"), ("x-forwarded-host", "b.example")];
    assert_eq!(told(&gate, &twice).await[2], "localhost");
    // The site is found by what the request itself asks for.
    let client = gate.client.at_host("127.0.0.1");
    assert_eq!(client.get("/open").header("x-forwarded-host", "nobody.example").send().await.status, 200);
}

/// A gate whose listener expects PROXY headers from `trusted`.
async fn proxied(trusted: &str, more: &str) -> Gate {
    let top = format!("[network]\ntrusted_proxies = [\"{trusted}\"]\n{more}");
    let setup = Setup::default().routes(OPEN).top(&top).listen("proxy_protocol = \"127.0.0.1:0\"");
    setup.start().await.expect("SQLite")
}

/// Opens a connection that begins with `header` in `pieces`, and asks on it, with what only a proxy may say of its client;
/// the answer, empty where there is none.
async fn ask_behind(gate: &Gate, header: &[u8], pieces: usize) -> String {
    let asking = async {
        let mut socket = TcpStream::connect(gate.client.address).await.ok()?;
        for piece in header.chunks(header.len().div_ceil(pieces).max(1)) {
            socket.write_all(piece).await.ok()?;
            socket.flush().await.ok()?;
            tokio::time::sleep(Duration::from_millis(if pieces > 1 { 2 } else { 0 })).await;
        }
        let name = "localhost".try_into().expect("a name");
        let config = gate.client.tls.clone().expect("TLS");
        let mut stream = TlsConnector::from(config).connect(name, socket).await.ok()?;
        let asks = "GET /open HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 203.0.113.9\r\nconnection: close\r\n\r\n";
        stream.write_all(asks.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(PROMPT, asking).await.expect("an answer or a close in time").unwrap_or_default()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, rest].concat()
}

#[tokio::test]
async fn a_proxy_header_says_who_the_client_is() {
    let gate = proxied("127.0.0.1", "").await;
    let four = [198, 51, 100, 2, 127, 0, 0, 1, 0x12, 0x34, 1, 0xbb];
    let big = [&four[..], &[4, 8, 0], &[0; 2048]].concat();
    for (header, client) in [
        (b"PROXY TCP4 198.51.100.1 127.0.0.1 4711 443\r\n".to_vec(), "198.51.100.1"),
        (b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n".to_vec(), "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:198.51.100.9 ::1 4711 443\r\n".to_vec(), "198.51.100.9"),
        // Somebody whom it does not name: what that one says of others is not believed.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(1, 0, &[]), "127.0.0.1"),
        (v2(1, 0x31, &[0; 216]), "127.0.0.1"),
        (v2(1, 0x11, &four), "198.51.100.2"),
        (v2(1, 0x11, &big), "198.51.100.2"),
        // The proxy itself, which is.
        (v2(0, 0, &[]), "203.0.113.9"),
    ] {
        for pieces in [1, 7] {
            let answer = ask_behind(&gate, &header, pieces).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{header:?} in {pieces}: {answer}");
            assert_eq!(gate.backend.last().one("x-forwarded-for"), Some(client), "{header:?}");
        }
    }
}

#[tokio::test]
async fn without_a_good_proxy_header_nobody_gets_in() {
    let gate = proxied("127.0.0.1", "[connections]\nhandshake_timeout = \"500ms\"").await;
    let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 4000]].concat();
    for bad in [
        &b""[..],
        b"PROXY TCP4 198.51.100.1 127.0.0.1 4711 443",
        b"PROXY TCP4 nonsense\r\n",
        b"PROXY TCP4 198.51.100.1 127.0.0.1 4711 99999\r\n",
        b"GET /open HTTP/1.1\r\nhost: localhost\r\n\r\n",
        &long,
        &v2(1, 0x11, &[0; 4]),
        &v2(1, 0x12, &[0; 12]),
        &v2(1, 0x11, &vec![0; 60_000]),
    ] {
        assert_eq!(ask_behind(&gate, bad, 1).await, "", "{:?}", &bad[..bad.len().min(60)]);
    }
    assert_eq!(gate.backend.count(), 0);
    let counted = "tollgate_connections_turned_away_total{listener=\"https\",reason=\"proxy_header\"}";
    assert_eq!(gate.metric(counted).await, Some(9.0));
    assert!(ask_behind(&gate, b"PROXY UNKNOWN\r\n", 1).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_is_no_trusted_proxy_cannot_say_who_it_is() {
    let gate = proxied("10.0.0.0/8", "").await;
    assert_eq!(ask_behind(&gate, b"PROXY TCP4 10.0.0.1 127.0.0.1 4711 443\r\n", 1).await, "");
    assert_eq!(gate.backend.count(), 0);
    let counted = "tollgate_connections_turned_away_total{listener=\"https\",reason=\"no_proxy\"}";
    assert_eq!(gate.metric(counted).await, Some(1.0));
}

#[tokio::test]
async fn behind_a_proxy_connections_are_counted_by_client() {
    let gate = proxied("127.0.0.1", "[connections]\nmax_per_address = 1").await;
    let mut held = TcpStream::connect(gate.client.address).await.expect("accepted");
    held.write_all(b"PROXY TCP4 198.51.100.1 127.0.0.1 4711 443\r\n").await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(ask_behind(&gate, b"PROXY TCP4 198.51.100.1 127.0.0.1 4712 443\r\n", 1).await, "");
    let other = ask_behind(&gate, b"PROXY TCP4 198.51.100.2 127.0.0.1 4711 443\r\n", 1).await;
    assert!(other.starts_with("HTTP/1.1 200 "), "{other}");
    // Whoever is not named counts as one at the proxy's address, and the proxy itself not at all.
    let mut held = TcpStream::connect(gate.client.address).await.expect("accepted");
    held.write_all(b"PROXY UNKNOWN\r\n").await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(ask_behind(&gate, b"PROXY UNKNOWN\r\n", 1).await, "");
    let own = ask_behind(&gate, &v2(0, 0, &[]), 1).await;
    assert!(own.starts_with("HTTP/1.1 200 "), "{own}");
}

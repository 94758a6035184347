//! What HTTP/2 backends answer wrongly, frame by frame: never a whole answer, and never the next request's.

use super::*;
use crate::upstream::{Protocol, SendError};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// Flags: of DATA and HEADERS the first, of SETTINGS and PING what acknowledges; of a head its end.
const END: u8 = 1;
const ACK: u8 = 1;
const WHOLE: u8 = 4;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:status: 200` with a content-length of 5 (RFC 7541, the static table).
const OK_5: &[u8] = &[0x88, 0x0f, 0x0d, 0x01, b'5'];
const EARLY_HINTS: &[u8] = &[0x08, 0x03, b'1', b'0', b'3'];
const SWITCHING: &[u8] = &[0x08, 0x03, b'1', b'0', b'1'];

fn hello(stream: u32) -> Vec<u8> {
    [frame(HEADERS, WHOLE, stream, OK_5), frame(DATA, END, stream, b"hello")].concat()
}

/// What follows the answer's bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Silence,
    Close,
    Again,
}

/// An HTTP/2 server that answers the first request of all with `odd`, and every other one with `hello`.
async fn odd(odd: Vec<u8>, then: Then) -> Peer {
    Peer::play(move |nth, wire| {
        let odd = odd.clone();
        async move {
            let _gone = serve(wire, (nth == 0).then_some(odd), then).await;
        }
    })
    .await
}

async fn serve(Wire(mut wire): Wire, mut odd: Option<Vec<u8>>, then: Then) -> std::io::Result<()> {
    wire.read_exact(&mut [0; 24]).await?;
    wire.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        wire.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        wire.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (head[3], odd.take()) {
            (HEADERS, Some(odd)) => {
                wire.write_all(&odd).await?;
                match then {
                    Then::Silence => {}
                    Then::Close => return Ok(()),
                    Then::Again => loop {
                        wire.write_all(&odd).await?;
                    },
                }
            }
            (HEADERS, None) => wire.write_all(&hello(stream)).await?,
            (kind, kept) => {
                odd = kept;
                if matches!(kind, SETTINGS | PING) && head[4] & ACK == 0 {
                    let back: &[u8] = if kind == PING { &payload } else { &[] };
                    wire.write_all(&frame(kind, ACK, 0, back)).await?;
                }
            }
        }
    }
}

fn http2(peer: &Peer) -> Settings {
    Settings { protocol: Protocol::Http2, response_timeout: SHORT, ..peer.settings() }.prepare().unwrap()
}

#[tokio::test]
async fn a_head_that_is_none_is_a_bad_gateway_and_the_next_request_is_answered() {
    let bomb = || {
        let line = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x7d][..], &[b'y'; 16_128]].concat();
        let rest = (0..100).flat_map(|_| frame(CONTINUATION, 0, 1, &line));
        frame(HEADERS, END, 1, &[0x88]).into_iter().chain(rest).collect()
    };
    for (what, frames, then) in [
        ("data before a head", frame(DATA, END, 1, b"hello"), Then::Silence),
        ("no status", frame(HEADERS, WHOLE | END, 1, &[0x0f, 0x0d, 0x01, b'0']), Then::Silence),
        ("two statuses", frame(HEADERS, WHOLE | END, 1, &[0x88, 0x88]), Then::Silence),
        ("a request's head", frame(HEADERS, WHOLE | END, 1, &[0x82, 0x84, 0x86]), Then::Silence),
        ("a status after a field", frame(HEADERS, WHOLE | END, 1, &[0x0f, 0x0d, 0x01, b'0', 0x88]), Then::Silence),
        ("an upper-case name", frame(HEADERS, WHOLE | END, 1, &[0x88, 0x00, 0x01, b'X', 0x01, b'y']), Then::Silence),
        ("a name of nothing", frame(HEADERS, WHOLE | END, 1, &[0x88, 0x00, 0x00, 0x01, b'y']), Then::Silence),
        ("a broken table", frame(HEADERS, WHOLE | END, 1, &[0xff, 0xff, 0xff, 0xff, 0xff]), Then::Silence),
        ("a push", frame(PUSH_PROMISE, WHOLE, 1, &[0, 0, 0, 2, 0x82, 0x84, 0x86]), Then::Silence),
        ("a stream nobody opened", frame(HEADERS, WHOLE | END, 7, &[0x88]), Then::Silence),
        ("a switch", frame(HEADERS, WHOLE | END, 1, SWITCHING), Then::Silence),
        ("the end after an interim answer", frame(HEADERS, WHOLE | END, 1, EARLY_HINTS), Then::Silence),
        ("a head without end", bomb(), Then::Silence),
        ("a reset", frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]), Then::Silence),
        ("a goodbye that includes it", frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 1]), Then::Close),
        ("nothing", Vec::new(), Then::Close),
    ] {
        let peer = odd(frames, then).await;
        let (pools, to) = (Pools::new(None), http2(&peer));
        let error = within(pools.send(&to, post("/", "once"), None)).await.expect_err(what);
        assert!(!matches!(error, SendError::ResponseTimeout), "{what} is told from silence");
        assert_eq!(error.problem(), Problem::BadGateway, "{what}: {error:?}");
        assert_eq!(ask(&pools, &to, get("/")).await, "hello", "{what}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_was_announced_never_looks_complete() {
    let head = || frame(HEADERS, WHOLE, 1, OK_5);
    for (what, frames, then) in [
        ("too short", [head(), frame(DATA, END, 1, b"hell")].concat(), Then::Silence),
        ("too long", [head(), frame(DATA, END, 1, b"hello!")].concat(), Then::Silence),
        ("too short before trailers", [head(), frame(HEADERS, WHOLE | END, 1, &[])].concat(), Then::Silence),
        ("a second head", [head(), frame(HEADERS, WHOLE, 1, OK_5)].concat(), Then::Silence),
        ("a reset", [head(), frame(DATA, 0, 1, b"he"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat(), Then::Silence),
        (
            "a reset without error",
            [head(), frame(DATA, 0, 1, b"he"), frame(RST_STREAM, 0, 1, &[0; 4])].concat(),
            Then::Silence,
        ),
        ("the connection's end", [head(), frame(DATA, 0, 1, b"hello")].concat(), Then::Close),
        ("a goodbye", [head(), frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])].concat(), Then::Close),
        ("nonsense", [head(), b"HTTP/1.1 200 OK\r\n\r\n".to_vec()].concat(), Then::Silence),
    ] {
        let peer = odd(frames, then).await;
        let (pools, to) = (Pools::new(None), Settings { idle_timeout: Duration::from_secs(5), ..http2(&peer) });
        // That it is wrong may be known before its head is looked at.
        if let Ok(answer) = within(pools.send(&to, get("/"), None)).await {
            let broken = text(answer).await;
            assert!(matches!(broken, Err(BodyError::BackendLost(_) | BodyError::Truncated)), "{what}: {broken:?}");
        }
        assert_eq!(ask(&pools, &to, get("/")).await, "hello", "{what}");
    }
    let honest = odd([frame(HEADERS, WHOLE, 1, EARLY_HINTS), hello(1)].concat(), Then::Silence).await;
    assert_eq!(ask(&Pools::new(None), &http2(&honest), get("/")).await, "hello");
}

#[tokio::test]
async fn a_flood_of_frames_instead_of_an_answer_ends_when_the_answer_is_due() {
    for (what, flood) in [
        ("interim answers", frame(HEADERS, WHOLE, 1, EARLY_HINTS)),
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
    ] {
        let peer = odd(flood.repeat(100), Then::Again).await;
        let (pools, to) = (Pools::new(None), http2(&peer));
        let error = within(pools.send(&to, get("/"), None)).await.expect_err(what);
        assert!([Problem::GatewayTimeout, Problem::BadGateway].contains(&error.problem()), "{what}: {error:?}");
        assert_eq!(ask(&pools, &to, get("/")).await, "hello", "{what}: on another connection");
        eventually(|| pools.gauges()[0].open == 1).await;
    }
}

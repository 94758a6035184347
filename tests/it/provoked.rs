//! Streams that the gateway is made to reset (`MadeYouReset`, CVE-2025-8671): each is asked for, costs a backend its
//! request, and is then broken by a frame that the protocol forbids, so that it counts for nothing in the number of
//! streams that are open. Every way to provoke it ends with its connection, before many have reached a backend, while
//! honest clients are served.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::backend::Backend;
use super::client::Client;
use super::floods::waiting;
use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, PRIORITY, Raw, Told, WINDOW_UPDATE, block, frame};
use super::harness::Setup;
use super::process::{Home, Plan};
use super::wire::now;

/// Flag of HEADERS: what the stream depends on stands before the fields.
const DEPENDS: u8 = 0x20;
/// `PROTOCOL_ERROR`, `STREAM_CLOSED`, `FRAME_SIZE_ERROR`, `ENHANCE_YOUR_CALM` (RFC 9113 section 7).
const REASONS: [u32; 4] = [1, 5, 6, 11];
const CONNECTIONS: usize = 4;
/// A hundred streams a round.
const ROUNDS: u32 = 200;

/// A way to provoke it: a request, whole or with its body to come, and what breaks it.
struct Provocation {
    name: &'static str,
    whole: bool,
    breaks: fn(u32) -> Vec<u8>,
}

const PROVOCATIONS: &[Provocation] = &[
    Provocation {
        name: "a window that is opened by nothing",
        whole: true,
        breaks: |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]),
    },
    Provocation {
        name: "a window that is opened too far",
        whole: true,
        breaks: |stream| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255]),
    },
    Provocation {
        name: "fields behind the end",
        whole: true,
        breaks: |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[("x-a", "1")])),
    },
    Provocation { name: "a body behind the end", whole: true, breaks: |stream| frame(DATA, 0, stream, b"more") },
    Provocation {
        name: "a priority that is too short",
        whole: true,
        breaks: |stream| frame(PRIORITY, 0, stream, &[0; 4]),
    },
    Provocation {
        name: "a priority that is too long",
        whole: true,
        breaks: |stream| frame(PRIORITY, 0, stream, &[0; 6]),
    },
    Provocation {
        name: "trailers that depend on their own stream",
        whole: false,
        breaks: |stream| {
            let depends = [stream.to_be_bytes().to_vec(), vec![0], block(&[("x-a", "1")])].concat();
            frame(HEADERS, END_HEADERS | END_STREAM | DEPENDS, stream, &depends)
        },
    },
    Provocation {
        name: "a body that is longer than it may be",
        whole: false,
        breaks: |stream| [frame(DATA, 0, stream, b"ab"), frame(DATA, END_STREAM, stream, b"cd")].concat(),
    },
];

impl Provocation {
    /// Asks for a stream that waits at the backend.
    fn asks(&self, stream: u32) -> Vec<u8> {
        let mut fields =
            vec![(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/open/slow")];
        let flags = if self.whole { END_HEADERS | END_STREAM } else { END_HEADERS };
        if !self.whole {
            fields.push(("content-length", "3"));
        }
        frame(HEADERS, flags, stream, &block(&fields))
    }

    fn round(&self, round: u32) -> Vec<u8> {
        let streams = (0..100).map(|at| 2 * (round * 100 + at) + 1);
        streams.flat_map(|stream| [self.asks(stream), (self.breaks)(stream)].concat()).collect()
    }
}

/// How often the backend was asked by them.
async fn provoke(provocation: &'static Provocation, client: &Client, backend: &Backend) -> usize {
    let before = backend.count();
    let mut attackers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = client.clone();
        attackers.spawn(async move {
            let mut raw = Raw::open(&client).await;
            let (_, closed) = raw.pour(|round| provocation.round(round), ROUNDS, Duration::from_secs(8)).await;
            (closed, raw.told(u32::MAX).await)
        });
    }
    let (mut honest, mut ended) = (0, 0);
    let began = now();
    while ended < CONNECTIONS {
        let answer = client.get("/open/quick").send().await;
        assert_eq!(answer.status, 200, "{}: {}", provocation.name, answer.text());
        honest += 1;
        while let Some(attacker) = attackers.try_join_next() {
            let (closed, why) = attacker.expect("no panic");
            // The reason can be overtaken by the reset that follows it.
            let told = matches!(why, Told::Gone(reason) if REASONS.contains(&reason)) || why == Told::Closed;
            assert!(told, "{}: {why:?}, closed: {closed}", provocation.name);
            ended += 1;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{}: {ended} have ended", provocation.name);
    }
    backend.count() - before - honest
}

#[tokio::test]
async fn streams_that_the_gateway_is_made_to_reset_end_their_connection_before_a_backend_has_many() {
    let backend = Backend::start().await;
    let site = "[[site.route]]\nmatch = \"GET /open/{*rest}\"\npublic = true\n";
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: "", site });
    let served = home.start().await;
    for provocation in PROVOCATIONS {
        let asked = provoke(provocation, &served.https, &backend).await;
        // Of 80,000 that are asked for at once; mostly none.
        assert!(asked < CONNECTIONS * 300, "{}: the backend was asked {asked} times", provocation.name);
    }
    assert_eq!(served.https.get("/open/quick").send_http2().await.status, 200, "an honest HTTP/2 client");
    served.process.stop().await.good();
}

/// Has a backend work for one stream after the other, and breaks each once it is there; how many until the connection was
/// over, and why it was.
async fn wait_and_break(provocation: &Provocation, client: &Client, asked: &AtomicUsize) -> (u32, Told) {
    let mut raw = Raw::open(client).await;
    for at in 0..1000 {
        let (before, stream) = (asked.load(Ordering::Relaxed), 2 * at + 1);
        if !raw.bytes(&provocation.asks(stream)).await {
            return (at, raw.told(u32::MAX).await);
        }
        let began = now();
        while asked.load(Ordering::Relaxed) == before {
            if began.elapsed() > Duration::from_secs(3) {
                return (at, raw.told(u32::MAX).await);
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        if !raw.bytes(&(provocation.breaks)(stream)).await {
            return (at, raw.told(u32::MAX).await);
        }
    }
    (1000, Told::Silence)
}

#[tokio::test]
async fn streams_that_are_broken_once_a_backend_works_for_them_end_their_connection_too() {
    let (backend, asked) = waiting().await;
    let routes = format!(
        "[[site.route]]\nmatch = \"GET /open/{{*rest}}\"\npublic = true\nupstream = \"waits\"\n\
         [site.upstream.waits]\nservers = [\"{backend}\"]\n"
    );
    let gate = Setup::default().routes(&routes).start().await.expect("SQLite");
    for provocation in PROVOCATIONS {
        let before = asked.load(Ordering::Relaxed);
        let (lasted, why) = wait_and_break(provocation, &gate.client, &asked).await;
        let worked = asked.load(Ordering::Relaxed) - before;
        assert!((1..300).contains(&worked), "{}: the backend was asked {worked} times", provocation.name);
        // Where the library would go on the bound on streams that are taken back holds; its goodbye is one in order.
        let ended =
            matches!(why, Told::Gone(reason) if reason == 0 || REASONS.contains(&reason)) || why == Told::Closed;
        assert!(ended, "{}: {why:?} after {lasted}", provocation.name);
        assert_eq!(gate.client.get("/open/quick").send_http2().await.status, 200, "{}", provocation.name);
    }
}

//! Floods: a stranger who sends as much as they can. Each is bounded in time and ends with an honest client served; those
//! that could fill memory run against a process of its own, whose memory is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tollgate::credential::api_key;
use tollgate::model::entropy::SystemEntropy;

use super::backend::Backend;
use super::client::Client;
use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS, Told,
    WINDOW_UPDATE, block, frame,
};
use super::harness::{Gate, Setup};
use super::process::{Home, Plan};
use super::wire::now;

/// As many keys as asked for, all well formed, none of which was ever made.
fn forged(count: usize) -> Vec<String> {
    (0..count).map(|_| api_key::mint("vantage_", &SystemEntropy).expose().to_owned()).collect()
}

async fn looked_up(gate: &Gate) -> f64 {
    let line = "tollgate_store_operations_total{operation=\"key_by_hash\",outcome=\"ok\"}";
    gate.metric(line).await.unwrap_or(0.0)
}

#[tokio::test]
async fn forged_keys_from_an_address_over_its_bound_cost_no_look_up_and_leave_nothing_behind() {
    let gate = Setup::default().site("[site.limits]\nfailed_credentials = [\"5/1m\"]").start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let (known, _) = gate.api_key(&token, &["read:posts"]).await;
    let (unseen, _) = gate.api_key(&token, &["read:posts"]).await;
    let ask = async |key: String| gate.client.get("/api/v1/posts").api_key(&key).send().await.status.as_u16();
    assert_eq!(ask(known.clone()).await, 200);
    let before = looked_up(&gate).await;
    let subjects = gate.metric("tollgate_limit_subjects").await.expect("a gauge");
    let mut told = Vec::new();
    for key in forged(60) {
        told.push(ask(key).await);
    }
    assert_eq!((&told[..5], told[5..].iter().all(|status| *status == 429)), (&[401; 5][..], true), "{told:?}");
    assert!((looked_up(&gate).await - before - 5.0).abs() < 0.5, "the store is not asked beyond the bound");
    // One address is one subject, however many keys it makes up; and no key of theirs is remembered.
    let grown = gate.metric("tollgate_limit_subjects").await.expect("a gauge") - subjects;
    assert!((grown - 1.0).abs() < 0.5, "{grown}");
    assert!(gate.metric("tollgate_cache_entries{cache=\"keys\"}").await.expect("a gauge") < 1.5);
    // Honest neighbours at the same address: whoever has been here before goes on, and a new one waits.
    assert_eq!(ask(known).await, 200);
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    assert_eq!(ask(unseen).await, 429);
}

/// The code of a GOAWAY that says: too much (RFC 9113 section 7).
const ENHANCE_YOUR_CALM: u32 = 11;

const OPEN: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/open")];

/// A flood: what it is, the bytes of each round, and whether the gateway must end the connection.
struct Flood {
    name: &'static str,
    bytes: fn(u32) -> Vec<u8>,
    is_cut: bool,
}

/// A hundred streams of their own a round.
fn streams(round: u32, each: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..100).flat_map(|at| each(2 * (round * 100 + at) + 1)).collect()
}

const FLOODS: &[Flood] = &[
    Flood {
        name: "rapid reset (CVE-2023-44487)",
        bytes: |round| {
            streams(round, |stream| {
                let asked = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(OPEN));
                [asked, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
        },
        is_cut: true,
    },
    Flood {
        name: "resets of streams that were looked at already",
        bytes: |round| {
            let stream = 2 * (round / 2) + 1;
            match round % 2 {
                0 => frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(OPEN)),
                _ => frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            }
        },
        is_cut: false,
    },
    Flood {
        name: "a reset that the gateway is made to send (CVE-2025-8671)",
        bytes: |round| {
            streams(round, |stream| {
                let asked = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(OPEN));
                [asked, frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255])].concat()
            })
        },
        is_cut: true,
    },
    Flood {
        name: "CONTINUATION without end (CVE-2024-27316)",
        bytes: |round| {
            let more = frame(CONTINUATION, 0, 1, &block(&[("x-a", "0123456789abcdef")]));
            let first = if round == 0 { frame(HEADERS, END_STREAM, 1, &block(OPEN)) } else { Vec::new() };
            [first, more.repeat(100)].concat()
        },
        is_cut: true,
    },
    Flood {
        name: "CONTINUATION of nothing",
        bytes: |round| {
            let first = if round == 0 { frame(HEADERS, END_STREAM, 1, &block(OPEN)) } else { Vec::new() };
            [first, frame(CONTINUATION, 0, 1, &[]).repeat(1000)].concat()
        },
        is_cut: true,
    },
    Flood {
        name: "DATA of nothing",
        bytes: |round| {
            let first = if round == 0 { frame(HEADERS, END_HEADERS, 1, &block(OPEN)) } else { Vec::new() };
            [first, frame(DATA, 0, 1, &[]).repeat(1000)].concat()
        },
        is_cut: true,
    },
    Flood {
        name: "a header bomb",
        bytes: |round| {
            // One long field that the table remembers, and then its number (62) as often as a frame holds.
            let mut bomb = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
            bomb.extend_from_slice(&[b'a'; 4000]);
            bomb.extend_from_slice(&[0xbe; 12_000]);
            frame(HEADERS, END_HEADERS | END_STREAM, 2 * round + 1, &bomb)
        },
        is_cut: false,
    },
    Flood { name: "SETTINGS", bytes: |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(1000), is_cut: false },
    Flood { name: "PING", bytes: |_| frame(PING, 0, 0, &[7; 8]).repeat(1000), is_cut: false },
    Flood { name: "PRIORITY", bytes: |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(1000), is_cut: false },
    Flood { name: "WINDOW_UPDATE", bytes: |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(1000), is_cut: false },
    Flood { name: "frames of no known kind", bytes: |_| frame(0x42, 0, 1, &[7; 64]).repeat(1000), is_cut: false },
    Flood {
        name: "answers that there is no window for",
        bytes: |round| {
            let none = if round == 0 { frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]) } else { Vec::new() };
            let asked = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(OPEN));
            [none, streams(round, asked)].concat()
        },
        is_cut: false,
    },
];

/// Four connections do the same at once, while an honest client asks.
async fn endure(flood: &'static Flood, client: &Client) {
    let mut attackers = JoinSet::new();
    for _ in 0..4 {
        let client = client.clone();
        attackers.spawn(async move {
            let mut raw = Raw::open(&client).await;
            // What is not cut may be left unread; what is cut is cut however busy the machine is.
            let patience = if flood.is_cut { Duration::from_secs(8) } else { Duration::from_millis(300) };
            let (_, closed) = raw.pour(flood.bytes, 300, patience).await;
            // All of it may fit on the way before the first of it is looked at.
            let why = if closed || flood.is_cut { raw.told(u32::MAX).await } else { Told::Silence };
            (closed || matches!(why, Told::Gone(_) | Told::Closed), why)
        });
    }
    let mut cut = Vec::new();
    let began = now();
    loop {
        let answer = client.get("/open").send().await;
        assert_eq!(answer.status, 200, "{}: {}", flood.name, answer.text());
        while let Some(ended) = attackers.try_join_next() {
            let (closed, why) = ended.expect("no panic");
            // Where the reason still gets through (a reset can overtake it), it is ours and no mistake of the test's.
            let calm = matches!(why, Told::Gone(ENHANCE_YOUR_CALM) | Told::Closed | Told::Silence);
            assert!(calm, "{}: {why:?}", flood.name);
            cut.push(closed);
        }
        if cut.len() == 4 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{}: {cut:?}", flood.name);
    }
    assert!(!flood.is_cut || cut == [true; 4], "{}: it may go on: {cut:?}", flood.name);
}

#[tokio::test]
async fn floods_of_frames_are_cut_or_cost_nothing_and_honest_clients_are_served() {
    let backend = Backend::start().await;
    let site = "[[site.route]]\nmatch = \"GET /open\"\npublic = true\n";
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: "", site });
    let served = home.start().await;
    // Warm: allocators and caches are at their size.
    for _ in 0..50 {
        assert_eq!(served.https.get("/open").send().await.status, 200);
    }
    let before = served.resident();
    for flood in FLOODS {
        endure(flood, &served.https).await;
        let grown = served.resident().saturating_sub(before);
        assert!(grown < 96 * 1024, "{}: {grown} KiB more than before", flood.name);
    }
    let over2 = served.https.get("/open").send_http2().await;
    assert_eq!(over2.status, 200, "an honest HTTP/2 client");
    served.process.stop().await.good();
}

#[tokio::test]
async fn sign_ins_from_everywhere_at_once_are_computed_a_few_at_a_time_and_proxied_requests_go_on() {
    let top = "[network]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[passwords]\nworkers = 1\nqueue = 8\n";
    let gate = Setup::default().top(top).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let mut attackers = JoinSet::new();
    for at in 0..300_u32 {
        let client = gate.client.clone();
        attackers.spawn(async move {
            let body = json!({ "email": format!("a{at}@example.com"), "password": "a guess of some length" });
            let from = format!("198.51.{}.{}", at / 250, at % 250 + 1);
            client.post("/api/v1/auth/login", &body).header("x-forwarded-for", from).send().await.status.as_u16()
        });
    }
    let (mut asked, mut longest) = (0, Duration::ZERO);
    while !attackers.is_empty() {
        let began = now();
        let answer = gate.client.get("/api/v1/posts").bearer(&token).send().await;
        longest = longest.max(began.elapsed());
        assert!([200, 429].contains(&answer.status.as_u16()), "{}", answer.text());
        asked += 1;
        while let Some(told) = attackers.try_join_next() {
            let told = told.expect("no panic");
            assert!([401, 503].contains(&told), "{told}");
        }
    }
    assert!(asked > 0 && longest < Duration::from_secs(5), "{asked} asked, the longest took {longest:?}");
    assert!(gate.metric("tollgate_password_hashes_shed_total").await.is_some_and(|shed| shed > 100.0));
    // The honest one, once it is over.
    let body = json!({ "email": "ada@example.com", "password": "correct horse battery" });
    assert_eq!(gate.client.post("/api/v1/auth/login", &body).send().await.status, 200);
}

/// A backend that takes requests and never answers those for `/slow`; how many it was asked.
pub async fn waiting() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while let Ok(1..) = socket.read(&mut head).await {
                    if head.starts_with(b"GET /open/slow") {
                        count.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        let _gone = socket.write_all(answer).await;
                    }
                }
            });
        }
    });
    (url, asked)
}

/// Opens a stream for `path`; its number.
async fn open(raw: &mut Raw, stream: u32, path: &str) -> bool {
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    raw.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields)).await
}

/// Opens streams up to `count` and takes each back once the backend has it; how many until the connection was over.
async fn take_back(raw: &mut Raw, asked: &AtomicUsize, count: u32, first: u32) -> u32 {
    for at in 0..count {
        let before = asked.load(Ordering::Relaxed);
        let stream = first + 2 * at;
        if !open(raw, stream, "/open/slow").await {
            return at;
        }
        let began = now();
        while asked.load(Ordering::Relaxed) == before {
            if began.elapsed() > Duration::from_secs(2) {
                return at;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        if !raw.send(RST_STREAM, 0, stream, &[0, 0, 0, 8]).await {
            return at;
        }
    }
    count
}

#[tokio::test]
async fn streams_that_are_taken_back_from_a_backend_end_their_connection_unless_as_many_are_wanted() {
    let (backend, asked) = waiting().await;
    let routes = format!(
        "[[site.route]]\nmatch = \"GET /open/{{*rest}}\"\npublic = true\nupstream = \"waits\"\n\
         [site.upstream.waits]\nservers = [\"{backend}\"]\n"
    );
    let gate = Setup::default().routes(&routes).start().await.expect("SQLite");
    let mut raw = Raw::open(&gate.client).await;
    let lasted = take_back(&mut raw, &asked, 400, 1).await;
    assert!((201..230).contains(&lasted), "{lasted}");
    assert!(asked.load(Ordering::Relaxed) < 230, "the backend is spared the rest");
    // No error code: hyper has no other goodbye than one in order.
    assert!(matches!(raw.told(u32::MAX).await, Told::Gone(0) | Told::Closed));
    assert_eq!(gate.metric("tollgate_connections_reset_floods_total").await, Some(1.0));
    // A page that is left takes back all that it had asked for; and it takes back one for each that it wants, for long.
    let mut honest = Raw::open(&gate.client).await;
    assert_eq!(take_back(&mut honest, &asked, 120, 1).await, 120);
    for at in 0..120 {
        assert_eq!(take_back(&mut honest, &asked, 1, 241 + 4 * at).await, 1);
        let stream = 243 + 4 * at;
        assert!(open(&mut honest, stream, "/open/quick").await);
        assert_eq!(honest.told(stream).await, Told::Status(200), "{at}");
    }
    assert_eq!(gate.metric("tollgate_connections_reset_floods_total").await, Some(1.0));
    assert_eq!(gate.client.get("/open/quick").send_http2().await.status, 200);
}

//! What a gateway holds at most while a flood lasts, and not only after it: each flood runs against a process of its own,
//! whose peak is read from the kernel, beside an honest client that is served all the while.
//!
//! Bounds are what a healthy build keeps several times over; what leaks, or queues without end, breaks them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tollgate::credential::api_key;
use tollgate::model::entropy::{Entropy, SystemEntropy};

use super::backend::Backend;
use super::client::Client;
use super::frames::{END_HEADERS, END_STREAM, Frame, HEADERS, PING, Raw, SETTINGS, block, frame};
use super::process::{Home, Plan, Served};
use super::wire::now;

const MIB: u64 = 1024;
/// Everybody comes through a proxy, so that addresses are whatever it says.
const PROXY: &str = "[network]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
/// No plan's window stands between a flood and what it costs.
const UNLIMITED: &str = "[site.plan.free]\nlimits = []\n";

/// Who asks for something good again and again until it is told to stop; how often it was answered.
struct Honest {
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    task: JoinHandle<Duration>,
}

impl Honest {
    fn asks(client: &Client, token: &str) -> Self {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (Arc::clone(&over), Arc::clone(&served));
        let (client, token) = (client.clone(), token.to_owned());
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !until.load(Ordering::SeqCst) {
                let began = now();
                let answer = client.get("/api/v1/posts").bearer(&token).send().await;
                longest = longest.max(began.elapsed());
                assert_eq!(answer.status, 200, "{}", answer.text());
                count.fetch_add(1, Ordering::SeqCst);
            }
            longest
        });
        Self { over, served, task }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// At least `times` during the flood, each in time.
    async fn was_served(self, times: usize) {
        let during = self.served();
        self.over.store(true, Ordering::SeqCst);
        let longest = self.task.await.expect("every honest request was answered");
        assert!(during >= times, "{during} honest requests were answered");
        assert!(longest < Duration::from_secs(10), "the longest took {longest:?}");
    }
}

/// A gateway with somebody signed in, at its size: caches and allocators have had their first load.
async fn warm(home: &Home) -> (Served, String) {
    let served = home.start().await;
    let account = json!({ "email": "ann@example.com", "password": "correct horse battery", "name": "Ann" });
    assert_eq!(served.http.post("/api/v1/auth/register", &account).send().await.status, 201);
    let token = served.http.post("/api/v1/auth/login", &account).send().await.string("/access_token");
    for _ in 0..20 {
        assert_eq!(served.http.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    }
    (served, token)
}

/// An address of its own for each number.
fn address(at: usize) -> String {
    format!("198.51.{}.{}", at / 250, at % 250 + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_from_a_thousand_addresses_hashes_no_more_at_once_than_it_may_whoever_hangs_up() {
    const GUESSES: usize = 1000;
    const WORKERS: u32 = 2;
    let backend = Backend::start().await;
    let top = format!("{PROXY}[passwords]\nworkers = {WORKERS}\nqueue = 16\n");
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: &top, site: UNLIMITED });
    let (served, token) = warm(&home).await;
    let before = served.resident();
    served.forget_peak();
    let honest = Honest::asks(&served.http, &token);
    let mut flood = JoinSet::new();
    for at in 0..GUESSES {
        let client = served.http.clone();
        flood.spawn(async move {
            let body = json!({ "email": format!("a{at}@example.com"), "password": "a guess of some length" });
            let asked = client.post("/api/v1/auth/login", &body).header("x-forwarded-for", address(at)).send();
            // Every other one hangs up while it waits, or while it is being hashed for.
            match at % 2 {
                0 => Some(asked.await.status.as_u16()),
                _ => tokio::time::timeout(Duration::from_millis(20), asked).await.ok().map(|told| told.status.as_u16()),
            }
        });
    }
    let mut running = 0.0_f64;
    let (mut wrong, mut shed) = (0, 0);
    while !flood.is_empty() {
        running = running.max(served.metric("tollgate_password_hashes_running").await);
        while let Some(told) = flood.try_join_next() {
            match told.expect("no panic") {
                None => {}
                Some(401) => wrong += 1,
                Some(503) => shed += 1,
                Some(other) => panic!("{other}"),
            }
        }
    }
    let peak = served.peak();
    assert!(running < f64::from(WORKERS) + 0.5, "{running} at once");
    assert!(shed > GUESSES / 4 && wrong > 0, "{shed} shed, {wrong} hashed");
    // A hash takes 19 MiB: five hundred that went on without their clients would take 9 GiB, and ten of them 190 MiB.
    let room = u64::from(WORKERS) * 19 * MIB + 96 * MIB;
    assert!(peak < before + room, "from {before} to {peak} KiB at the most");
    honest.was_served(5).await;
    let account = json!({ "email": "ann@example.com", "password": "correct horse battery" });
    assert_eq!(served.http.post("/api/v1/auth/login", &account).send().await.status, 200);
}

/// As long as a token may be, rightly formed, of the right key, and signed by nobody.
fn forged_token() -> String {
    let mut random = [0_u8; 48];
    SystemEntropy.fill(&mut random);
    let unlike = URL_SAFE_NO_PAD.encode(random);
    let head = json!({ "alg": "HS256", "typ": "JWT", "kid": "one" });
    let claims =
        json!({ "iss": "test", "aud": "vantage", "sub": unlike, "exp": 4_000_000_000_u64, "pad": "x".repeat(2000) });
    let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", encode(&head), encode(&claims), URL_SAFE_NO_PAD.encode(&random[..32]))
}

/// Asks `count` times on one connection, each time by another credential that was never given out.
async fn forge(client: Client, count: usize) {
    let mut socket = TcpStream::connect(client.address).await.expect("the gateway accepts");
    let mut answers = vec![0; 16 * 1024];
    for at in 0..count {
        let credential = match at % 2 {
            0 => format!("Bearer {}", forged_token()),
            _ => format!("ApiKey {}", api_key::mint("vantage_", &SystemEntropy).expose()),
        };
        let ask = format!(
            "GET /api/v1/posts HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: {}\r\nauthorization: {credential}\r\n\r\n",
            address(at)
        );
        socket.write_all(ask.as_bytes()).await.expect("sent");
        let read = socket.read(&mut answers).await.expect("the connection holds");
        assert!(answers[..read].starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&answers[..read]));
    }
}

async fn forge_everywhere(served: &Served, each: usize) {
    let mut flood = JoinSet::new();
    for _ in 0..8 {
        flood.spawn(forge(served.http.clone(), each));
    }
    tokio::time::timeout(Duration::from_mins(1), flood.join_all()).await.expect("each is refused in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_credentials_leave_nothing_behind_however_many_they_are() {
    let backend = Backend::start().await;
    // Every one of them is looked at: nothing but what that costs is in the way.
    let site = format!("{UNLIMITED}[site.limits]\nfailed_credentials = []\n");
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: PROXY, site: &site });
    let (served, token) = warm(&home).await;
    forge_everywhere(&served, 100).await;
    let before = served.resident();
    served.forget_peak();
    let honest = Honest::asks(&served.http, &token);
    // Of the tokens alone 11 MiB go by.
    forge_everywhere(&served, 1000).await;
    let grown = served.peak().saturating_sub(before);
    honest.was_served(20).await;
    assert!(grown < 8 * MIB, "{grown} KiB more than before");
}

/// A backend that answers `/api/v1/long` with as much as is taken and other reads with nothing, and takes no body.
async fn long() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = vec![0; 16 * 1024];
                while let Ok(read @ 1..) = socket.read(&mut asked).await {
                    if asked.starts_with(b"GET /api/v1/long") {
                        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                        while socket.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
                        return;
                    }
                    if asked[..read].starts_with(b"POST") {
                        return std::future::pending().await;
                    }
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            });
        }
    });
    url
}

/// A client that keeps a connection busy for as long as it can and gets nowhere.
struct Slow {
    name: &'static str,
    /// How many of them. Where the kernel holds megabytes for each, fewer.
    many: u64,
    /// What each says at once, with a good token where it takes one.
    first: fn(&str) -> Vec<u8>,
    /// What it says again and again after that; nothing: it only waits, and reads nothing.
    drip: &'static [u8],
    /// What each may cost at the most, in KiB.
    each: u64,
}

fn posted(path: &str, token: &str, length: usize, said: usize) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{{"
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + said, b' ');
    bytes
}

const SLOW: &[Slow] = &[
    Slow {
        name: "heads that never end",
        many: 300,
        first: |_| [b"GET /api/v1/posts HTTP/1.1\r\nhost: localhost\r\nx-a: ".to_vec(), vec![b'a'; 12_000]].concat(),
        drip: b"a",
        each: 96,
    },
    Slow {
        name: "bodies of ours that never end",
        many: 300,
        first: |_| posted("/api/v1/auth/login", "", 60_000, 50_000),
        drip: b" ",
        each: 192,
    },
    Slow {
        name: "bodies of backends' that never end",
        many: 60,
        first: |token| posted("/api/v1/posts", token, 100_000_000, 2_000_000),
        drip: b"                ",
        each: 768,
    },
    Slow {
        name: "answers that nobody reads",
        many: 60,
        first: |token| {
            format!("GET /api/v1/long HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n")
                .into_bytes()
        },
        drip: b"",
        each: 256,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_slow_on_purpose_hold_what_one_connection_may_and_others_are_served() {
    let backend = long().await;
    let home = Home::new(&Plan { postgres: None, backend: &backend, store: "", top: PROXY, site: UNLIMITED });
    let (served, token) = warm(&home).await;
    for slow in SLOW {
        let before = served.resident();
        served.forget_peak();
        let honest = Honest::asks(&served.http, &token);
        let mut flood = JoinSet::new();
        for _ in 0..slow.many {
            let (address, first) = (served.http.address, (slow.first)(&token));
            flood.spawn(async move {
                let mut socket = TcpStream::connect(address).await.expect("the gateway accepts");
                let said = socket.write_all(&first);
                // Whoever is not listened to any more has said what it may.
                let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
                for _ in 0..20 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if !slow.drip.is_empty() {
                        let _ = tokio::time::timeout(Duration::from_millis(10), socket.write_all(slow.drip)).await;
                    }
                }
                socket
            });
        }
        let held = flood.join_all().await;
        let grown = served.peak().saturating_sub(before);
        honest.was_served(20).await;
        assert!(grown < slow.many * slow.each, "{}: {grown} KiB more than before", slow.name);
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_wait_for_a_window_hold_little_more_than_themselves() {
    const CONNECTIONS: usize = 40;
    const STREAMS: u32 = 128;
    let backend = Backend::start().await;
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: PROXY, site: UNLIMITED });
    let (served, token) = warm(&home).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut raw = Raw::open(&served.https).await;
        // SETTINGS_INITIAL_WINDOW_SIZE of nothing: heads pass, bodies do not.
        assert!(raw.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await);
        held.push(raw);
    }
    // All of them are taken in before what they hold is looked at.
    for raw in &mut held {
        assert!(raw.send(PING, 0, 0, &[7; 8]).await);
        while raw.next().await.expect("the connection holds").kind != PING {}
    }
    let before = served.resident();
    served.forget_peak();
    let honest = Honest::asks(&served.http, &token);
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/api/v1/posts")];
    let ask = |at: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &block(&fields));
    let all: Vec<u8> = (0..STREAMS).flat_map(ask).collect();
    for raw in &mut held {
        assert!(raw.bytes(&all).await);
    }
    for raw in &mut held {
        for at in 0..STREAMS {
            let told = within_reason(raw).await;
            assert_eq!(told.kind, HEADERS, "{at}: {told:?}");
        }
    }
    let each = served.peak().saturating_sub(before) * 1024 / (CONNECTIONS as u64 * u64::from(STREAMS));
    // While all of them wait.
    let began = now();
    while honest.served() < 5 && began.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    honest.was_served(5).await;
    drop(held);
    // With the state of a request that is answered it was 16 KiB.
    assert!(each < 8 * 1024, "{each} bytes a stream");
}

/// The next frame that is about a stream.
async fn within_reason(raw: &mut Raw) -> Frame {
    let next = async {
        loop {
            let frame = raw.next().await.expect("the connection holds");
            if frame.stream > 0 {
                return frame;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next).await.expect("an answer in time")
}

//! A bounded soak with faults: under load, backends die, freeze, lie about their length and come back, while the
//! configuration is read again every second, keys are revoked (also those of streams under way) and roles change, over and
//! over, by HTTP/1.1 and HTTP/2.
//!
//! What must hold all the time: nobody is let in who should not be, nobody is taken for somebody else, no 5xx but
//! while a fault explains it, no wrong no, and memory stays where it is. `TOLLGATE_SOAK_SECONDS=600` goes on for longer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::client::{Answer, Client};
use super::harness::{ADMIN_TOKEN, environment};
use super::process::{Home, Plan, Served};

const USUAL: Duration = Duration::from_secs(12);
const RELOAD_EVERY: Duration = Duration::from_secs(1);
/// How long a stream may go on once its key is revoked: a second by promise, the rest is a busy machine's.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// Each fault, and the quiet after it: the backend is back, and everything settles.
const FAULT: Duration = Duration::from_millis(700);
const QUIET: Duration = Duration::from_millis(900);
/// How long after a fault's end its consequences may still be seen: `response_timeout`, and a connection's end.
const SETTLES: Duration = Duration::from_millis(500);
const CALLERS: usize = 6;
/// What memory may grow by once it is warm, in KiB: caches fill, and a debug build's allocator is not thrifty.
const GROWTH: u64 = 48 * 1024;

const SITE: &str = r#"
[site.plan.free]
limits = []
[site.limits]
native_per_address = []
failed_credentials = []
[[site.route]]
match = "* /admin/{*rest}"
roles = ["admin"]
"#;
const MORE: &str = "[[site.route]]\nmatch = \"GET /more\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_and_faults_nobody_is_wrongly_let_in_and_nothing_fails_unexplained() {
    let backends = [Flaky::start().await, Flaky::start().await];
    let servers = format!("http://{}\", \"http://{}", backends[0].address, backends[1].address);
    let site = format!("{SITE}{MORE}");
    let home = Home::new(&Plan { postgres: None, backend: &servers, store: "", top: "", site: &site });
    let path = home.folder.path().join("gateway.toml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    let timeouts =
        "connect_timeout = \"250ms\"\nresponse_timeout = \"300ms\"\n[[site.route]]\nmatch = \"* /api/v1/{*rest}\"";
    let text = text.replacen("[[site.route]]\nmatch = \"* /api/v1/{*rest}\"", timeouts, 1);
    std::fs::write(&path, &text).expect("the configuration");
    let served = home.start().await;
    let soak = Arc::new(Soak::new(&served));

    let mut tasks = JoinSet::new();
    for at in 0..CALLERS {
        tasks.spawn(call(Arc::clone(&soak), at));
    }
    tasks.spawn(revoke(Arc::clone(&soak)));
    tasks.spawn(turn_roles(Arc::clone(&soak)));
    tasks.spawn(forge(Arc::clone(&soak)));
    tasks.spawn(end_streams(Arc::clone(&soak)));

    let whole =
        environment("TOLLGATE_SOAK_SECONDS").and_then(|text| text.parse().ok()).map_or(USUAL, Duration::from_secs);
    let begun = Instant::now();
    let faults = async {
        let mut round = 0;
        while begun.elapsed() < whole {
            soak.fault(&backends[round % 2], [Mode::Dead, Mode::Frozen, Mode::Cut][round % 3]).await;
            round += 1;
        }
        round
    };
    let reloads = async {
        let mut round = 0;
        while begun.elapsed() < whole {
            let next = Instant::now() + RELOAD_EVERY;
            reload(&soak, &served, &path, &text, round).await;
            round += 1;
            tokio::time::sleep_until(next).await;
        }
        round
    };
    let memory = async {
        let mut seen = Vec::new();
        while begun.elapsed() < whole {
            tokio::time::sleep(Duration::from_millis(250)).await;
            seen.push(served.resident());
        }
        seen
    };
    let (faults, reloads, memory) = tokio::join!(faults, reloads, memory);
    soak.over.store(true, Ordering::SeqCst);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no claim was broken");
    }
    let (before, after) =
        (median(&memory[memory.len() / 3..memory.len() / 2]), median(&memory[memory.len() * 5 / 6..]));
    let counts = soak.counts();
    eprintln!("soak: {faults} faults, {reloads} reloads, {counts:?}, resident {before} -> {after} KiB");
    assert!(after < before + GROWTH, "memory grew from {before} to {after} KiB");
    assert!(counts.good > 200 && counts.refused > 50, "there was load: {counts:?}");
    assert!(counts.failed < counts.good, "most was served: {counts:?}");
    assert!(counts.revoked > 3 && counts.streams > 1, "things ended under way: {counts:?}");
    assert_eq!(served.process.stop().await.code, Some(0));
}

/// What all the tasks share.
struct Soak {
    data: Client,
    admin: Client,
    over: AtomicBool,
    /// When faults began, and when the last consequences of each have passed.
    faults: Mutex<Vec<(Instant, Option<Instant>)>>,
    good: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    revoked: AtomicU64,
    streams: AtomicU64,
}

#[derive(Debug)]
struct Counts {
    good: u64,
    refused: u64,
    failed: u64,
    /// Keys that were revoked.
    revoked: u64,
    /// Streams that ended with their key.
    streams: u64,
}

impl Soak {
    fn new(served: &Served) -> Self {
        Self {
            data: served.https.clone(),
            admin: served.admin.clone(),
            over: AtomicBool::new(false),
            faults: Mutex::default(),
            good: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            streams: AtomicU64::new(0),
        }
    }

    fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Counts {
            good: read(&self.good),
            refused: read(&self.refused),
            failed: read(&self.failed),
            revoked: read(&self.revoked),
            streams: read(&self.streams),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn fault(&self, backend: &Flaky, mode: Mode) {
        self.faults.lock().expect("no panic under the lock").push((Instant::now(), None));
        backend.set(mode).await;
        tokio::time::sleep(FAULT).await;
        backend.set(Mode::Well).await;
        if let Some(last) = self.faults.lock().expect("no panic under the lock").last_mut() {
            last.1 = Some(Instant::now() + SETTLES);
        }
        tokio::time::sleep(QUIET).await;
    }

    /// Whether a fault overlaps with what lasted from `from` until now.
    fn explains(&self, from: Instant) -> bool {
        let faults = self.faults.lock().expect("no panic under the lock");
        faults.iter().any(|(_, end)| end.is_none_or(|end| end >= from))
    }

    /// One request that must be let in: answered well, or failed while a fault explains it.
    async fn let_in(&self, method: &str, path: &str, credential: &str, http2: bool) -> Option<Answer> {
        let from = Instant::now();
        let ask = self.data.ask(method, path).header("authorization", credential);
        let answer = if http2 { ask.try_send_http2().await } else { ask.try_send().await };
        match answer {
            Ok(answer) if answer.status == 200 => {
                self.good.fetch_add(1, Ordering::SeqCst);
                Some(answer)
            }
            Ok(answer) => {
                let failed = [502, 503, 504].contains(&answer.status.as_u16());
                assert!(failed && self.explains(from), "{method} {path}: {} {}", answer.status, answer.text());
                self.failed.fetch_add(1, Ordering::SeqCst);
                None
            }
            // An answer that broke off: never a short one that looks whole.
            Err(error) => {
                assert!(error.contains("body") && self.explains(from), "{method} {path}: {error}");
                self.failed.fetch_add(1, Ordering::SeqCst);
                None
            }
        }
    }

    /// One request that must be refused with `status`, whatever the backends do.
    async fn refused(&self, path: &str, credential: &str, status: u16) {
        let answer = self.data.get(path).header("authorization", credential).send().await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        self.refused.fetch_add(1, Ordering::SeqCst);
    }

    /// Registers and signs in: the user's id, and the credential.
    async fn account(&self, name: &str) -> (String, String) {
        let body = json!({ "email": format!("{name}@example.com"), "password": "correct horse battery", "name": name });
        let made = self.data.post("/api/v1/auth/register", &body).send().await;
        assert_eq!(made.status, 201, "{}", made.text());
        let signed_in = self.data.post("/api/v1/auth/login", &body).send().await;
        (made.string("/id"), format!("Bearer {}", signed_in.string("/access_token")))
    }

    async fn operate(&self, resource: &str, body: serde_json::Value) {
        let answer = self.admin.ask("PATCH", &format!("/v1/sites/vantage{resource}")).bearer(ADMIN_TOKEN).json(&body);
        let answer = answer.send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// An honest client: always let in, always taken for itself.
async fn call(soak: Arc<Soak>, at: usize) {
    let (id, token) = soak.account(&format!("caller-{at}")).await;
    let mut count = 0_u64;
    while !soak.is_over() {
        count += 1;
        let path = format!("/api/v1/posts/{count}");
        let Some(answer) = soak.let_in("GET", &path, &token, at.is_multiple_of(2)).await else { continue };
        assert_eq!(answer.string("/user"), id, "nobody is taken for somebody else");
        assert_eq!(answer.string("/path"), path, "nobody gets another's answer");
        assert_eq!(answer.json()["credentials"], 0, "the token stays here");
    }
}

/// A key counts until its revocation is acknowledged, and not once after.
async fn revoke(soak: Arc<Soak>) {
    let (_, token) = soak.account("revoker").await;
    while !soak.is_over() {
        let made = soak.data.post("/api/v1/api-keys", &json!({ "name": "soak", "permissions": ["read:posts"] }));
        let made = made.header("authorization", token.clone()).send().await;
        assert_eq!(made.status, 201, "{}", made.text());
        let (key, id) = (format!("ApiKey {}", made.string("/key")), made.string("/id"));
        soak.let_in("GET", "/api/v1/posts/1", &key, false).await;
        let ended = soak.data.ask("DELETE", &format!("/api/v1/api-keys/{id}"));
        assert_eq!(ended.header("authorization", token.clone()).send().await.status, 200);
        soak.revoked.fetch_add(1, Ordering::SeqCst);
        for _ in 0..3 {
            soak.refused("/api/v1/posts/1", &key, 401).await;
        }
    }
}

/// A stream goes on until its key ends, and ends with it; a fault may end it before.
async fn end_streams(soak: Arc<Soak>) {
    let (_, token) = soak.account("streamer").await;
    while !soak.is_over() {
        let made = soak.data.post("/api/v1/api-keys", &json!({ "name": "stream", "permissions": ["read:posts"] }));
        let made = made.header("authorization", token.clone()).send().await;
        let (key, id) = (format!("ApiKey {}", made.string("/key")), made.string("/id"));
        let from = Instant::now();
        let Some(mut stream) = soak.data.get("/api/v1/posts/stream").header("authorization", &key).try_open().await
        else {
            assert!(soak.explains(from), "a stream was not let in");
            continue;
        };
        let on =
            tokio::time::timeout(Duration::from_millis(500), async { while let Some(Ok(_)) = stream.frame().await {} });
        if on.await.is_ok() {
            assert!(soak.explains(from), "a stream ended that nobody had ended");
            continue;
        }
        let ended = soak.data.ask("DELETE", &format!("/api/v1/api-keys/{id}"));
        assert_eq!(ended.header("authorization", token.clone()).send().await.status, 200);
        let rest = async { while let Some(Ok(_)) = stream.frame().await {} };
        tokio::time::timeout(ENDS_WITHIN, rest).await.expect("a stream ends with the key that let it in");
        soak.streams.fetch_add(1, Ordering::SeqCst);
    }
}

/// A role counts from the next request on, in both directions.
async fn turn_roles(soak: Arc<Soak>) {
    let (id, token) = soak.account("turncoat").await;
    while !soak.is_over() {
        soak.operate(&format!("/users/{id}"), json!({ "role": "member" })).await;
        for _ in 0..3 {
            soak.refused("/admin/panel", &token, 403).await;
        }
        soak.operate(&format!("/users/{id}"), json!({ "role": "admin" })).await;
        soak.let_in("GET", "/admin/panel", &token, true).await;
    }
}

/// What nobody issued is nothing.
async fn forge(soak: Arc<Soak>) {
    let (_, token) = soak.account("forger").await;
    let mut altered = token.clone().into_bytes();
    let last = altered.len() - 5;
    altered[last] = if altered[last] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).expect("ASCII");
    while !soak.is_over() {
        soak.refused("/api/v1/posts/1", &altered, 401).await;
        soak.refused("/api/v1/posts/1", "ApiKey vantage_DSa87rOU6tvHVtV8yCVWBZzvJ1Em2VOJR16fI8x", 401).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A route comes and goes with the file; every fourth file is broken and changes nothing.
async fn reload(soak: &Soak, served: &Served, path: &Path, text: &str, round: usize) {
    let (with, broken) = (round.is_multiple_of(2), round % 4 == 3);
    let own = match (with, broken) {
        (_, true) => format!("{text}\n[[site.route]]\nmatch = nonsense\n"),
        (true, false) => text.to_owned(),
        (false, false) => text.replace(MORE, ""),
    };
    std::fs::write(path, own).expect("the configuration");
    let wanted = f64::from(u8::from(!broken));
    let before = served.metric("tollgate_config_reloads_total{outcome=\"ok\"}").await;
    served.process.signal("HUP").await;
    let heard = async {
        loop {
            let last = served.metric("tollgate_config_last_reload_successful").await;
            let count = served.metric("tollgate_config_reloads_total{outcome=\"ok\"}").await;
            if (last - wanted).abs() < 0.5 && (broken || count > before) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("the reload is told of");
    // Without a credential: a route that is there asks for one, one that is not is a 404. The broken file left what
    // the round before it had.
    let there = soak.data.get("/more").send().await.status;
    assert_eq!(there, if with || broken { 401 } else { 404 }, "round {round}");
}

fn median(all: &[u64]) -> u64 {
    let mut all = all.to_vec();
    all.sort_unstable();
    all[all.len() / 2]
}

/// How a backend behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Well,
    /// Its port is closed and its connections are gone.
    Dead,
    /// It takes requests and does not answer.
    Frozen,
    /// It announces more than it sends.
    Cut,
}

/// A backend that can be made to fail and comes back at the same address.
struct Flaky {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    serving: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Flaky {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (mode, watched) = watch::channel(Mode::Well);
        let serving = tokio::sync::Mutex::new(Some(tokio::spawn(serve(listener, watched))));
        Self { address, mode, serving }
    }

    async fn set(&self, mode: Mode) {
        let mut serving = self.serving.lock().await;
        self.mode.send_replace(mode);
        if mode == Mode::Dead {
            if let Some(task) = serving.take() {
                task.abort();
                let _ = task.await;
            }
        } else if serving.is_none() {
            let listener = TcpListener::bind(self.address).await.expect("the port is still ours");
            *serving = Some(tokio::spawn(serve(listener, self.mode.subscribe())));
        }
    }
}

async fn serve(listener: TcpListener, mode: watch::Receiver<Mode>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let mode = mode.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, mode.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    mut mode: watch::Receiver<Mode>,
) -> Result<Response<BoxBody<Bytes, std::io::Error>>, Infallible> {
    let headers = request.headers();
    let user = headers.get("x-user-id").map(|value| value.to_str().unwrap_or_default().to_owned());
    let credentials = headers.get_all("authorization").iter().count();
    let text = json!({ "user": user, "path": request.uri().path(), "credentials": credentials }).to_string();
    // It thaws with the fault's end; whoever still waits then is answered.
    let _ = mode.wait_for(|mode| *mode != Mode::Frozen).await;
    let cut = *mode.borrow() == Mode::Cut;
    let length = text.len();
    if !cut && request.uri().path().ends_with("/stream") {
        let pieces = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok(Frame::data(Bytes::from_static(b": on\n\n"))), ()))
        });
        let body = StreamBody::new(pieces).boxed();
        return Ok(Response::builder().header("content-type", "text/event-stream").body(body).expect("a response"));
    }
    let body = if cut {
        let pieces = [Ok(Frame::data(Bytes::from(text).slice(..length / 2))), Err(std::io::Error::other("cut"))];
        StreamBody::new(stream::iter(pieces)).boxed()
    } else {
        Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
    };
    Ok(Response::builder().header("content-length", length).body(body).expect("a response"))
}

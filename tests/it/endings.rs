//! What is open when what let it in comes to an end: whatever ends it, whatever its protocol, each in its own manner, and
//! nothing beside it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tollgate::model::time::{Clock, SystemClock, TestClock};

use super::client::Client;
use super::harness::{Gate, Setup};
use super::sockets::{Memory, Sockets, closed, open, within};
use super::upstreams::{self, Grpc};
use super::wire::now;

/// A second by promise; the rest is a busy machine's.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// What can be open.
const KINDS: [Kind; 9] = [
    Kind::Answer { path: "/open/events", http2: false },
    Kind::Answer { path: "/open/events", http2: true },
    Kind::Answer { path: "/open/download", http2: false },
    Kind::Answer { path: "/open/download", http2: true },
    Kind::Call("/shop.Cart/Sum"),
    Kind::Call("/shop.Cart/Count"),
    Kind::Socket,
    Kind::Upload { http2: false },
    Kind::Upload { http2: true },
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Server-sent events, or a download that says how long it is.
    Answer { path: &'static str, http2: bool },
    /// A call of gRPC: one whose answer has begun, or one whose server waits for its client's last word.
    Call(&'static str),
    /// A WebSocket.
    Socket,
    /// An upload to a backend that says nothing before its end.
    Upload { http2: bool },
}

/// A backend that never comes to an end.
async fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let read = socket.read(&mut request).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&request[..read]).into_owned();
                if asked.contains("/open/upload") {
                    while let Ok(1..) = socket.read(&mut request).await {}
                    return;
                }
                let kind = if asked.contains("/open/grpc") { "application/grpc" } else { "text/event-stream" };
                let (length, piece): (_, &[u8]) = if asked.contains("/open/download") {
                    ("content-length: 99999999999", &[0x55; 4096])
                } else {
                    ("transfer-encoding: chunked", b"9\r\ndata: 1\n\n\r\n")
                };
                let head = format!("content-type: {kind}\r\n{length}");
                let _gone = socket.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes()).await;
                // Until the gateway hangs up.
                while socket.write_all(piece).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    url
}

struct World {
    gate: Gate,
    clock: Arc<TestClock>,
    calls: Grpc,
    sockets: Sockets,
}

impl World {
    /// `more`: what every route asks.
    async fn start(more: &str, setup: Setup) -> Self {
        let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
        let (calls, sockets, url) = (Grpc::start().await, Sockets::start(&[]).await, endless().await);
        let site = format!(
            "[site.upstream.calls]\nservers = [\"http://{}\"]\nprotocol = \"http2\"\n\
             [site.upstream.live]\nservers = [\"http://{}\"]\n[site.upstream.endless]\nservers = [\"{url}\"]\n",
            calls.address, sockets.address
        );
        let routes: String =
            [("* /open/{*rest}", "endless"), ("POST /shop.Cart/{*rest}", "calls"), ("GET /live", "live")]
                .map(|(matched, to)| format!("[[site.route]]\nmatch = \"{matched}\"\nupstream = \"{to}\"\n{more}\n"))
                .concat();
        let gate = setup.clock(clock.clone()).site(&site).routes(&routes).start().await.expect("SQLite");
        Self { gate, clock, calls, sockets }
    }

    /// Opens one, and waits until it is; how it ends.
    async fn open(self: &Arc<Self>, kind: Kind, credential: &str) -> JoinHandle<String> {
        let client = &self.gate.client;
        match kind {
            Kind::Answer { path, http2 } => {
                let mut body = answer(client, ask("GET", path, credential), http2).await;
                assert!(within(body.frame()).await.expect("it goes on").is_ok());
                tokio::spawn(async move {
                    loop {
                        match body.frame().await {
                            Some(Ok(_)) => {}
                            Some(Err(_)) => return "broken off".to_owned(),
                            None => return "whole".to_owned(),
                        }
                    }
                })
            }
            Kind::Call(path) => {
                let heads = || self.calls.heads.lock().expect("no panic under the lock").len();
                let (before, world, credential) = (heads(), Arc::clone(self), credential.to_owned());
                let call = tokio::spawn(async move { world.call(path, &credential).await });
                let taken = async {
                    while heads() == before {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                within(taken).await;
                call
            }
            Kind::Upload { http2 } => {
                let pieces = futures_util::stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0x55; 4096]))), ()))
                });
                let request = ask("POST", "/open/upload", credential).body(StreamBody::new(Box::pin(pieces)));
                let sent = send(client, request.expect("a request"), http2).await;
                tokio::spawn(async move { format!("answer {}", sent.await.expect("an answer").status().as_u16()) })
            }
            Kind::Socket => {
                let mut socket = open(client, "/live", &[("authorization", credential)]).await.expect("it is let in");
                self.sockets.opened().await;
                tokio::spawn(async move { format!("close {}", closed(&mut socket).await) })
            }
        }
    }

    /// Makes a call that goes on as far as its client is concerned; how it ends.
    async fn call(&self, path: &str, credential: &str) -> String {
        let mut call = upstreams::open(&self.gate, path, None, &[("authorization", credential)]).await;
        let status =
            |fields: &HeaderMap| fields.get("grpc-status").map(|it| format!("status {}", it.to_str().expect("text")));
        if let Some(status) = status(call.answer.headers()) {
            return status;
        }
        loop {
            match call.answer.body_mut().frame().await {
                Some(Ok(frame)) if frame.is_data() => {}
                Some(Ok(frame)) => return frame.trailers_ref().and_then(status).expect("a status"),
                other => return format!("{other:?}"),
            }
        }
    }
}

fn ask(method: &str, path: &str, credential: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .header("host", "localhost")
        .header("authorization", credential)
}

/// The body of what does not end, while it comes.
async fn answer(client: &Client, request: http::request::Builder, http2: bool) -> Incoming {
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let answer = within(send(client, request, http2).await).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.into_body()
}

/// Sends on a connection of its own; the answer is still to come.
async fn send<B>(
    client: &Client,
    request: Request<B>,
    http2: bool,
) -> Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TokioIo::new(client.stream(&[if http2 { b"h2" } else { b"http/1.1" }]).await);
    if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("a connection");
        tokio::spawn(connection);
        Box::pin(async move { sender.send_request(request).await })
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("a connection");
        tokio::spawn(connection);
        Box::pin(async move { sender.send_request(request).await })
    }
}

/// What lets somebody in ends.
#[derive(Clone, Copy, Debug)]
enum Why {
    Session,
    Key,
    User,
    Organization,
    Expiry,
    Plan,
}

#[tokio::test]
async fn whatever_lets_them_in_ends_all_that_is_open_in_its_protocols_manner_and_nothing_else() {
    for why in [Why::Session, Why::Key, Why::User, Why::Organization, Why::Expiry, Why::Plan] {
        let more = if matches!(why, Why::Plan) { "plans = [\"pro\"]" } else { "" };
        let log = Memory::default();
        let (logs, _writer) = log.open();
        let world = Arc::new(World::start(more, Setup::default().logs(logs)).await);
        let (ada, bob) = (world.gate.signed_in("ada@example.com").await, world.gate.signed_in("bob@example.com").await);
        for org in ["ada", "bob"] {
            let plan = json!({ "plan": "pro" });
            world.gate.operate("PATCH", &format!("/orgs/{org}@example.com"), Some(plan)).await;
        }
        let (key, id) = world.gate.api_key(&ada, &["read:posts"]).await;
        let mine = if matches!(why, Why::Key) { format!("ApiKey {key}") } else { format!("Bearer {ada}") };
        // A key does not expire with a token.
        let others = format!("ApiKey {}", world.gate.api_key(&bob, &["read:posts"]).await.0);
        let (mut ending, mut lasting) = (Vec::new(), Vec::new());
        for kind in KINDS {
            ending.push((kind, world.open(kind, &mine).await));
            lasting.push((kind, world.open(kind, &others).await));
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(ending.iter().all(|(_, task)| !task.is_finished()), "{why:?}: nothing has ended yet");
        let operate = |method, path: &str, body| {
            let path = path.to_owned();
            let gate = &world.gate;
            async move { assert_eq!(gate.operate(method, &path, body).await.status, 200, "{path}") }
        };
        match why {
            Why::Session => operate("DELETE", "/users/ada@example.com/sessions", None).await,
            Why::Key => operate("DELETE", &format!("/orgs/ada@example.com/keys/{id}"), None).await,
            Why::User => operate("PATCH", "/users/ada@example.com", Some(json!({ "disabled": true }))).await,
            Why::Organization => operate("PATCH", "/orgs/ada@example.com", Some(json!({ "disabled": true }))).await,
            Why::Expiry => world.clock.advance(Duration::from_mins(61)),
            Why::Plan => operate("PATCH", "/orgs/ada@example.com", Some(json!({ "plan": "free" }))).await,
        }
        let began = now();
        for (kind, task) in ending {
            let ended = within(task).await.expect("no panic");
            let manner = match kind {
                Kind::Answer { .. } => "broken off",
                Kind::Call(_) if matches!(why, Why::Plan) => "status 7",
                Kind::Call(_) => "status 16",
                Kind::Socket => "close 1008",
                Kind::Upload { .. } if matches!(why, Why::Plan) => "answer 403",
                Kind::Upload { .. } => "answer 401",
            };
            assert_eq!(ended, manner, "{why:?} {kind:?}");
        }
        assert!(began.elapsed() < ENDS_WITHIN, "{why:?}: {:?}", began.elapsed());
        for path in ["/open/events", "/open/download"] {
            let cut = log.lines(path, 2).await;
            assert!(cut.iter().all(|line| line["cut"] == "revoked"), "{why:?}: {cut:?}");
        }
        for (kind, task) in &lasting {
            assert!(!task.is_finished(), "{why:?} {kind:?}: somebody else's");
        }
    }
}

#[tokio::test]
async fn what_calls_itself_a_call_and_is_none_never_looks_whole() {
    let world = World::start("", Setup::default()).await;
    world.gate.signed_in("ada@example.com").await;
    // Over HTTP/1.1 there are no calls, and over HTTP/2 what is answered otherwise is none.
    for (path, http2) in
        [("/open/events", true), ("/open/download", true), ("/open/grpc", false), ("/open/events", false)]
    {
        let body = json!({ "email": "ada@example.com", "password": "correct horse battery" });
        let signed_in = world.gate.client.post("/api/v1/auth/login", &body).send().await;
        let field = format!("Bearer {}", signed_in.string("/access_token"));
        let request = ask("POST", path, &field).header("content-type", "application/grpc");
        let mut body = answer(&world.gate.client, request, http2).await;
        assert!(within(body.frame()).await.expect("it goes on").is_ok());
        assert_eq!(world.gate.operate("DELETE", "/users/ada@example.com/sessions", None).await.status, 200);
        let end = within(async {
            loop {
                match body.frame().await {
                    Some(Ok(frame)) if frame.is_data() => {}
                    end => return end,
                }
            }
        });
        let end = end.await;
        assert!(matches!(end, Some(Err(_))), "{path} {http2}: {end:?}");
    }
}

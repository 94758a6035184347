//! The gateway's side towards its backends: protocols, TLS, sockets, times, faults.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::client::PATIENCE;
use super::harness::{Gate, Setup};
use super::sockets::Memory;

/// A gRPC server of three methods: `/shop.Cart/Sum` answers each number with the sum so far, as it comes;
/// `/shop.Cart/Refuse` answers with trailers alone, and `/shop.Cart/Count` says nothing, not even a head, until its client is
/// done. It tells what it heard of a call that ended early.
pub struct Grpc {
    pub address: SocketAddr,
    pub heads: Arc<Mutex<Vec<HeaderMap>>>,
    /// Calls that their client gave up.
    pub given_up: tokio::sync::mpsc::UnboundedReceiver<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One message as it goes over the wire: not compressed, its length, itself.
fn message(number: u32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(4);
    out.put_u32(number);
    out.freeze()
}

fn number(frame: &[u8]) -> u32 {
    assert_eq!(&frame[..5], [0, 0, 0, 0, 4], "one whole message");
    u32::from_be_bytes(frame[5..9].try_into().expect("four bytes"))
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers
}

impl Grpc {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let heads: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
        let (tell, given_up) = tokio::sync::mpsc::unbounded_channel();
        let seen = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, tell) = (Arc::clone(&seen), tell.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let tell = tell.clone();
                    seen.lock().expect("no panic under the lock").push(request.headers().clone());
                    async move {
                        let waits = request.uri().path().ends_with("/Count");
                        let mut answer = call(request, tell);
                        if waits {
                            while answer
                                .body_mut()
                                .frame()
                                .await
                                .is_some_and(|frame| frame.is_ok_and(|it| it.is_data()))
                            {}
                            *answer.body_mut() = http_body_util::Empty::new().boxed();
                            answer.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
                        }
                        Ok::<_, Infallible>(answer)
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, heads, given_up, task }
    }

    async fn gate(&self, more: &str) -> Gate {
        let site =
            format!("[site.upstream.cart]\nservers = [\"http://{}\"]\nprotocol = \"http2\"\n{more}\n", self.address);
        let routes = "[[site.route]]\nmatch = \"POST /shop.Cart/{*rest}\"\nupstream = \"cart\"\n\
                      [[site.route]]\nmatch = \"POST /shop.Vault/{*rest}\"\nupstream = \"cart\"\nroles = [\"admin\"]\n\
                      [[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\n";
        Setup::default().site(&site).routes(routes).start().await.expect("SQLite is always there")
    }
}

type Answer = BoxBody<Bytes, Infallible>;

fn call(request: Request<Incoming>, tell: tokio::sync::mpsc::UnboundedSender<()>) -> Response<Answer> {
    let refused = request.uri().path().ends_with("/Refuse");
    let builder = Response::builder().header("content-type", "application/grpc");
    if refused {
        let nothing = http_body_util::Empty::new().boxed();
        return builder.header("grpc-status", "9").header("grpc-message", "no").body(nothing).expect("a response");
    }
    let (frames, out) = tokio::sync::mpsc::unbounded_channel::<Result<Frame<Bytes>, Infallible>>();
    let mut body = request.into_body();
    tokio::spawn(async move {
        let mut sum = 0;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if data.is_empty() {
                        continue; // the end of the stream, in a frame of its own
                    }
                    sum += number(&data);
                    let _gone = frames.send(Ok(Frame::data(message(sum))));
                }
                Some(Err(_)) => {
                    let _gone = tell.send(());
                    return;
                }
                None => break,
            }
        }
        let _gone = frames.send(Ok(Frame::trailers(status("0"))));
    });
    let stream = futures_util::stream::unfold(out, |mut out| async { Some((out.recv().await?, out)) });
    builder.body(BodyExt::boxed(StreamBody::new(stream))).expect("a response")
}

/// A call that the client feeds.
pub struct Call {
    pub feed: tokio::sync::mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>,
    pub answer: Response<Incoming>,
}

pub async fn open(gate: &Gate, path: &str, token: Option<&str>, more: &[(&str, &str)]) -> Call {
    let stream = gate.client.stream(&[b"h2"]).await;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    let (feed, frames) = tokio::sync::mpsc::unbounded_channel::<Result<Frame<Bytes>, std::io::Error>>();
    feed.send(Ok(Frame::data(message(1)))).expect("the call takes it");
    let stream = futures_util::stream::unfold(frames, |mut frames| async { Some((frames.recv().await?, frames)) });
    let mut request = Request::post(format!("https://localhost{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(BodyExt::boxed(StreamBody::new(stream))).expect("a request");
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time");
    Call { feed, answer: answer.expect("an answer") }
}

async fn next(answer: &mut Response<Incoming>) -> Frame<Bytes> {
    tokio::time::timeout(PATIENCE, answer.body_mut().frame()).await.expect("in time").expect("a frame").expect("whole")
}

#[tokio::test]
async fn a_grpc_call_streams_both_ways_and_ends_with_the_backends_trailers() {
    let server = Grpc::start().await;
    let gate = server.gate("").await;
    let token = gate.signed_in("a@example.com").await;
    let mut call = open(&gate, "/shop.Cart/Sum", Some(&token), &[("x-user-id", "evil")]).await;
    assert_eq!(call.answer.status(), 200);
    for (sent, sum) in [(2, 1), (3, 3), (0, 6)] {
        // Each answer is here before the next message leaves: nothing waits for the end.
        assert_eq!(number(next(&mut call.answer).await.data_ref().expect("a message")), sum);
        if sent > 0 {
            call.feed.send(Ok(Frame::data(message(sent)))).expect("the call takes it");
        }
    }
    drop(call.feed);
    let last = next(&mut call.answer).await;
    assert_eq!(last.trailers_ref().expect("trailers")["grpc-status"], "0");
    let head = server.heads.lock().expect("no panic").pop().expect("a call");
    assert_eq!((&head["te"], head.get("connection")), (&HeaderValue::from_static("trailers"), None));
    assert!(head["x-user-id"].to_str().expect("text").starts_with("user_"));
    assert!(!head.contains_key("authorization"));
    // What the backend refuses by itself passes as it is.
    let refused = open(&gate, "/shop.Cart/Refuse", Some(&token), &[]).await.answer;
    assert_eq!((refused.status().as_u16(), &refused.headers()["grpc-status"]), (200, &HeaderValue::from_static("9")));
}

#[tokio::test]
async fn a_refused_grpc_call_is_told_so_in_its_own_words() {
    let server = Grpc::start().await;
    let gate = server.gate("").await;
    let token = gate.signed_in("a@example.com").await;
    let told = |call: &Call| {
        let headers = call.answer.headers();
        assert_eq!(
            (call.answer.status().as_u16(), &headers["content-type"]),
            (200, &HeaderValue::from_static("application/grpc"))
        );
        let text = |name| headers.get(name).map_or("", |value: &HeaderValue| value.to_str().expect("text")).to_owned();
        (text("grpc-status"), text("grpc-message"))
    };
    let (code, message) = told(&open(&gate, "/shop.Cart/Sum", None, &[]).await);
    assert_eq!(code, "16");
    assert!(!message.is_empty());
    assert_eq!(told(&open(&gate, "/shop.Cart/Sum", Some("eyJh.x.y"), &[]).await).0, "16");
    assert_eq!(told(&open(&gate, "/shop.Nowhere/Sum", Some(&token), &[]).await).0, "12");
    let calls = server.heads.lock().expect("no panic").len();
    let user = gate.operate("GET", "/users/a@example.com", None).await;
    let role = serde_json::json!({ "role": "member" });
    gate.operate("PATCH", &format!("/users/{}", user.string("/id")), Some(role)).await;
    assert_eq!(told(&open(&gate, "/shop.Vault/Open", Some(&token), &[]).await).0, "7");
    assert_eq!(server.heads.lock().expect("no panic").len(), calls, "none of them reached the backend");
    // A request that is no call gets the product's JSON as ever.
    for kind in ["application/grpc-web", "application/grpc"] {
        // Over HTTP/1.1 there are no calls, whatever a request says of itself.
        let plain = gate.client.ask("POST", "/shop.Cart/Sum").header("content-type", kind).send().await;
        assert_eq!((plain.status.as_u16(), plain.header("content-type")), (401, Some("application/json")), "{kind}");
    }
}

#[tokio::test]
async fn a_call_that_its_client_gives_up_or_that_lasts_too_long_ends_at_the_backend_too() {
    let mut server = Grpc::start().await;
    let gate = server.gate("").await;
    let token = gate.signed_in("a@example.com").await;
    let mut call = open(&gate, "/shop.Cart/Sum", Some(&token), &[]).await;
    assert_eq!(number(next(&mut call.answer).await.data_ref().expect("a message")), 1);
    // As a client library says that it gave the call up: by resetting its stream.
    call.feed.send(Err(std::io::Error::other("given up"))).expect("the call takes it");
    tokio::time::timeout(PATIENCE, server.given_up.recv()).await.expect("the backend hears of it").expect("it runs");

    let mut call = open(&gate, "/shop.Cart/Sum", Some(&token), &[("grpc-timeout", "300m")]).await;
    assert_eq!(number(next(&mut call.answer).await.data_ref().expect("a message")), 1);
    let broken = tokio::time::timeout(PATIENCE, call.answer.body_mut().frame()).await.expect("in time");
    assert!(broken.is_some_and(|frame| frame.is_err()), "the deadline ends the stream, and not as if it were whole");
    tokio::time::timeout(PATIENCE, server.given_up.recv()).await.expect("the backend hears of it").expect("it runs");
}

#[tokio::test]
async fn what_its_client_does_to_a_request_is_no_fault_of_ours_in_the_log() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = hangs.local_addr().expect("its address");
    let site = format!("[site.upstream.slow]\nservers = [\"http://{address}\"]\nprotocol = \"http2\"\n");
    let routes = "[[site.route]]\nmatch = \"POST /slow.Cart/{*rest}\"\nupstream = \"slow\"\ntimeout = \"300ms\"\n\
                  [[site.route]]\nmatch = \"POST /api/v1/{*rest}\"\nupstream = \"app\"\n";
    let log = Memory::default();
    let (logs, _writer) = log.open();
    let gate = Setup::default().site(&site).routes(routes).logs(logs).start().await.expect("SQLite is always there");
    let token = gate.signed_in("a@example.com").await;
    for (path, more, faulty) in [
        ("/slow.Cart/Hurried", &[("grpc-timeout", "30m")][..], false),
        ("/slow.Cart/Patient", &[("grpc-timeout", "30S")], true),
        ("/slow.Cart/Late", &[], true),
    ] {
        let call = open(&gate, path, Some(&token), more).await;
        assert_eq!(call.answer.headers()["grpc-status"], "4", "{path}");
        let lines = log.lines(path, 1).await;
        assert_eq!(lines[0]["fault"].is_string(), faulty, "{lines:?}");
    }
    let mut stream = gate.client.stream(&[b"http/1.1"]).await;
    let head = format!("POST /api/v1/posts HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n");
    let broken = format!("{head}transfer-encoding: chunked\r\n\r\nZZ\r\n");
    stream.write_all(broken.as_bytes()).await.expect("sent");
    let lines = log.lines("/api/v1/posts", 1).await;
    assert_eq!((lines[0]["status"].as_u64(), lines[0]["fault"].as_str()), (Some(400), None), "{lines:?}");
}

#[tokio::test]
async fn a_backend_that_is_gone_is_unavailable_to_a_call_and_one_that_hangs_is_late() {
    let server = Grpc::start().await;
    let gate = server.gate("").await;
    let token = gate.signed_in("a@example.com").await;
    drop(server);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let call = open(&gate, "/shop.Cart/Sum", Some(&token), &[]).await;
    assert_eq!(call.answer.headers()["grpc-status"], "14");
    let hangs = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = hangs.local_addr().expect("its address");
    let site = format!("[site.upstream.slow]\nservers = [\"http://{address}\"]\nprotocol = \"http2\"\n");
    let routes = "[[site.route]]\nmatch = \"POST /slow.Cart/{*rest}\"\nupstream = \"slow\"\ntimeout = \"300ms\"\n";
    let gate = Setup::default().site(&site).routes(routes).start().await.expect("SQLite is always there");
    let token = gate.signed_in("a@example.com").await;
    let call = open(&gate, "/slow.Cart/Sum", Some(&token), &[]).await;
    assert_eq!(call.answer.headers()["grpc-status"], "4");
}

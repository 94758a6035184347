//! The pools against real sockets: honest servers, and peers that do everything wrong.

mod answers;
mod answers2;
mod auto;
mod checks;
mod failover;
mod http2;
mod pool;
mod tls;
mod tunnels;
mod uploads;
mod weather;
mod wire;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::body::{Body, BodyError};
use super::hygiene::{Came, Reserved, forward};
use super::{Address, Pools, Server, Settings, framing, tunnel};
use crate::model::problem::Problem;
use crate::observe::metrics::labels::TunnelEnd;
use crate::rules::path::canonical;

const SHORT: Duration = Duration::from_millis(250);

/// No test waits longer for anything.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within the time a test has")
}

/// A connection that a script drives.
struct Wire(TcpStream);

impl Wire {
    /// Reads to the end of a head and not a byte further; what there was of it when the peer closed.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && self.0.read(&mut byte).await.is_ok_and(|read| read == 1) {
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// Everything up to the end, and whether that was a clean one.
    async fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let clean = self.0.read_to_end(&mut bytes).await.is_ok();
        (bytes, clean)
    }

    /// The peer may be gone: that is for the test to find out.
    async fn say(&mut self, text: &str) {
        let _gone = self.0.write_all(text.as_bytes()).await;
    }

    /// Waits until the other side has closed or reset.
    async fn closed(&mut self) {
        let mut scratch = [0; 4096];
        while self.0.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
    }

    /// Resets instead of closing.
    fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A backend that a script plays, once a connection.
struct Peer {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Peer {
    /// `script` gets the connection and its number, from 0.
    async fn play<F, S>(script: F) -> Self
    where
        F: Fn(usize, Wire) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(script(count.fetch_add(1, Ordering::SeqCst), Wire(stream)));
            }
        });
        Self { address, accepted, task }
    }

    /// Answers every request on every connection with the same text.
    async fn always(answer: &'static str) -> Self {
        Self::play(move |_, mut wire| async move {
            while !wire.head().await.is_empty() {
                wire.say(answer).await;
            }
        })
        .await
    }

    /// Answers the first request of each connection with `answer`, then closes.
    async fn once(answer: &'static str) -> Self {
        Self::play(move |_, mut wire| async move {
            wire.head().await;
            wire.say(answer).await;
        })
        .await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn settings(&self) -> Settings {
        settings(&[self.address])
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that takes no connection and refuses none, as behind a firewall that drops what comes.
pub(super) struct Silent {
    pub(super) address: SocketAddr,
    _socket: socket2::Socket,
    /// What fills its queue of connections that nobody accepts.
    _queued: Vec<TcpStream>,
}

impl Silent {
    pub(super) async fn listen(address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        Self { address, _socket: socket, _queued: queued }
    }
}

fn settings(servers: &[SocketAddr]) -> Settings {
    let url = |address: &SocketAddr| Address::Url(format!("http://{address}").parse().unwrap());
    Settings {
        connect_timeout: Duration::from_secs(5),
        response_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        tunnel_idle_timeout: Duration::from_secs(5),
        max_idle: 16,
        max_connections: 64,
        ..Settings::new("app", servers.iter().map(|address| Server::new(url(address))).collect())
    }
}

fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).header("host", "app").body(Body::Empty).unwrap()
}

fn post(path: &str, body: &'static str) -> Request<Body> {
    Request::builder().method("POST").uri(path).header("host", "app").body(Body::from(body)).unwrap()
}

async fn text(response: Response<Body>) -> Result<String, BodyError> {
    let bytes = within(response.into_body().collect()).await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// Sends and reads the whole answer.
async fn ask(pools: &Pools, to: &Settings, request: Request<Body>) -> String {
    let response = within(pools.send(to, request, None)).await.unwrap();
    text(response).await.unwrap()
}

/// Until `condition` holds.
async fn eventually(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A small edge: a real hyper server that does to each request what the gateway does, in its order.
struct Front {
    address: SocketAddr,
    pools: Arc<Pools>,
    /// Cancelled: every tunnel ends.
    stop: CancellationToken,
    ended: Arc<Mutex<Vec<tunnel::Ended>>>,
    task: JoinHandle<()>,
}

/// What the front lets through.
#[derive(Clone, Copy)]
struct Allowed {
    bytes: u64,
    idle: Duration,
}

const PLENTY: Allowed = Allowed { bytes: 1 << 30, idle: Duration::from_secs(5) };

impl Front {
    async fn open(to: Settings, allowed: Allowed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (pools, stop) = (Arc::new(Pools::new(None)), CancellationToken::new());
        let ended = Arc::new(Mutex::new(Vec::new()));
        let shared = (Arc::clone(&pools), Arc::new(to), stop.clone(), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let service = service_fn(move |request| {
                    let (pools, to, stop, ended) = shared.clone();
                    async move {
                        let answer = pass(&pools, &to, (stop, ended), allowed, request).await;
                        Ok::<_, Infallible>(answer.unwrap_or_else(|problem| {
                            let body = Body::from(problem.kind().name());
                            Response::builder().status(problem.kind().default_status()).body(body).unwrap()
                        }))
                    }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection.with_upgrades());
            }
        });
        Self { address, pools, stop, ended, task }
    }

    async fn connect(&self) -> Wire {
        Wire(TcpStream::connect(self.address).await.unwrap())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    pools: &Pools,
    to: &Settings,
    (stop, ended): (CancellationToken, Arc<Mutex<Vec<tunnel::Ended>>>),
    allowed: Allowed,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let user = HeaderName::from_static("x-user-id");
    let client = hyper::upgrade::on(&mut request);
    let (mut parts, incoming) = request.into_parts();
    framing::check(&parts)?;
    Reserved::new([&user]).strip(&mut parts.headers);
    let path = canonical(parts.uri.path())?.into_owned();
    let target = parts.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    parts.uri = target.parse().unwrap();
    let websocket = tunnel::wanted(&parts)?;
    let host = parts.headers.get("host").cloned().unwrap_or(HeaderValue::from_static("none"));
    let (from, scheme) = (HeaderValue::from_static("203.0.113.9"), HeaderValue::from_static("http"));
    let came = Came { from, scheme, host, asked: None };
    forward(&mut parts.headers, &came);
    parts.headers.insert(user, HeaderValue::from_static("user_1"));
    let reserved = Arc::new(Reserved::new([&HeaderName::from_static("x-user-id")]));
    let mut body = Body::client(incoming, allowed.bytes, allowed.idle)?;
    body.admit_trailers(&reserved);
    let request = Request::from_parts(parts, body);
    if !websocket {
        return pools.send(to, request, None).await.map_err(|error| error.problem());
    }
    match pools.open_tunnel(to, request, None, &mut None).await.map_err(|error| error.problem())? {
        tunnel::Opened::Answer(response) => Ok(response),
        tunnel::Opened::Tunnel(response, backend) => {
            tokio::spawn(async move {
                let stop = async {
                    stop.cancelled().await;
                    TunnelEnd::Drained
                };
                let how = tunnel::run(client, backend, allowed.idle, stop).await;
                ended.lock().unwrap().push(how);
            });
            Ok(response)
        }
    }
}

/// A real server that answers with what it was sent.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async {
                Ok::<_, Infallible>(Response::new(request.into_body()))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

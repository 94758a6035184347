//! WebSocket tunnels: a handshake that is checked on both sides, then bytes (RFC 6455 section 4).
//!
//! The edge asks [`wanted`], takes hyper's upgrade of the client's request, lets [`Pools::open_tunnel`]
//! make the backend agree, answers the client with what that gives, and spawns [`run`]. Not a byte of the
//! client's passes before the backend's 101: until then what follows the request is, to hyper, the next
//! request (CVE-2025-64763). No other protocol is ever switched to: `h2c` is just a header that is dropped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version, request};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::endpoint::Slot;
use super::error::SendError;
use super::hygiene::{self, upgrades_to};
use super::lease::Load;
use super::progress::Mark;
use super::{Answered, Pools, Settings, into_answer};
use crate::model::problem::Problem;

/// How long one side may go on when the other has ended.
const FAREWELL: Duration = Duration::from_secs(10);
/// Bytes held per direction.
const BUFFER: usize = 8 * 1024;

/// Whether a client's request is a WebSocket handshake. One that is and is not well-formed is refused;
/// an `Upgrade` to anything else is no handshake, and [`hygiene::forward`] drops it.
pub fn wanted(request: &request::Parts) -> Result<bool, Problem> {
    let headers = &request.headers;
    if request.method != Method::GET || request.version != Version::HTTP_11 || !upgrades_to(headers, b"websocket") {
        return Ok(false);
    }
    let refuse = |why| Err(Problem::MalformedRequest(why));
    if headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return refuse("a WebSocket handshake has no body");
    }
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return refuse("the WebSocket version served is 13");
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY).and_then(|key| STANDARD.decode(key).ok());
    if key.is_none_or(|key| key.len() != 16) {
        return refuse("Sec-WebSocket-Key is 16 bytes in base64");
    }
    Ok(true)
}

/// What a backend made of a handshake.
#[derive(Debug)]
pub enum Opened {
    /// It agreed: answer the client with the response (a 101), then [`run`].
    Tunnel(Response<Body>, Backend),
    /// It answered otherwise: forward that.
    Answer(Response<Body>),
}

/// The backend's end of a tunnel; counts as one of its connections while it exists.
pub struct Backend {
    upgrade: OnUpgrade,
    _load: Load,
    _slot: Arc<Slot>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

impl Pools {
    /// Asks a server of `to` for a WebSocket. `request` is the client's, as for [`Pools::send`]; its
    /// `Upgrade` and `Connection` are written here.
    pub async fn open_tunnel(
        &self,
        to: &Settings,
        mut request: Request<Body>,
        response_timeout: Option<Duration>,
    ) -> Result<Opened, SendError> {
        *request.body_mut() = Body::Empty;
        dress(request.headers_mut());
        let accept = request.headers().get(SEC_WEBSOCKET_KEY).map(accept);
        let Answered { mut response, lease, upload } = self.answered(to, request, response_timeout).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return into_answer(to, response, lease, upload).map(Opened::Answer);
        }
        if !upgrades_to(response.headers(), b"websocket")
            || only(response.headers(), &SEC_WEBSOCKET_ACCEPT) != accept.as_ref()
        {
            return Err(SendError::Unacceptable("it switches to something else than this WebSocket"));
        }
        let upgrade = hyper::upgrade::on(&mut response);
        let (mut parts, _empty) = response.into_parts();
        hygiene::clean_response(&mut parts).map_err(SendError::Unacceptable)?;
        dress(&mut parts.headers);
        let (load, slot) = lease.into_tunnel();
        let backend = Backend { upgrade, _load: load, _slot: slot };
        Ok(Opened::Tunnel(Response::from_parts(parts, Body::Empty), backend))
    }
}

fn dress(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The value of a header that must stand once.
fn only<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// RFC 6455 section 4.2.2: SHA-1 as a proof of having read the key, not as protection.
fn accept(key: &HeaderValue) -> HeaderValue {
    let text = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let encoded = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
    HeaderValue::try_from(encoded).expect("base64 is a header value")
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Both sides were done, or one was and the other had its time to say so.
    Closed,
    /// Nothing moved for too long.
    Idle,
    /// We were told to.
    Stopped,
    /// A connection broke, or the upgrade did not come about.
    Broken,
}

/// What went through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub why: Why,
    /// Bytes from the client to the backend.
    pub to_backend: u64,
    /// Bytes from the backend to the client.
    pub to_client: u64,
}

/// Carries bytes both ways until both sides are done, nothing moves for `idle`, or `stop` is cancelled:
/// then both connections are closed.
pub async fn run(client: OnUpgrade, backend: Backend, idle: Duration, stop: &CancellationToken) -> Ended {
    let broken = Ended { why: Why::Broken, to_backend: 0, to_client: 0 };
    tokio::select! {
        upgraded = client => match upgraded {
            Ok(client) => carry(TokioIo::new(client), backend, idle, stop).await,
            Err(_) => broken,
        },
        () = stop.cancelled() => Ended { why: Why::Stopped, ..broken },
        () = tokio::time::sleep(idle) => broken,
    }
}

/// As [`run`], with a client whose stream is already at hand (its first message was read, say).
pub async fn carry<T>(client: T, backend: Backend, idle: Duration, stop: &CancellationToken) -> Ended
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Backend { upgrade, _load, _slot } = backend;
    let (up, down, mark) = (AtomicU64::new(0), AtomicU64::new(0), Mark::new());
    let both = async {
        let server = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
        let (client_reads, client_writes) = tokio::io::split(client);
        let (server_reads, server_writes) = tokio::io::split(server);
        let up = std::pin::pin!(pipe(client_reads, server_writes, &up, &mark));
        let down = std::pin::pin!(pipe(server_reads, client_writes, &down, &mark));
        ended_by(up, down).await
    };
    let why = tokio::select! {
        ended = both => if ended.is_ok() { Why::Closed } else { Why::Broken },
        () = stop.cancelled() => Why::Stopped,
        () = silence(&mark, idle) => Why::Idle,
    };
    Ended { why, to_backend: up.load(Ordering::Relaxed), to_client: down.load(Ordering::Relaxed) }
}

async fn ended_by(
    mut up: impl Future<Output = io::Result<()>> + Unpin,
    mut down: impl Future<Output = io::Result<()>> + Unpin,
) -> io::Result<()> {
    let rest = tokio::select! {
        ended = &mut up => { ended?; tokio::time::timeout(FAREWELL, down).await }
        ended = &mut down => { ended?; tokio::time::timeout(FAREWELL, up).await }
    };
    rest.unwrap_or(Ok(()))
}

async fn pipe(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
    mark: &Mark,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        mark.touch();
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        mark.touch();
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}

async fn silence(mark: &Mark, idle: Duration) {
    loop {
        let due = mark.last() + idle;
        tokio::time::sleep_until(due).await;
        if mark.last() + idle <= due {
            return;
        }
    }
}

//! WebSocket tunnels: a handshake that is checked on both sides, then bytes (RFC 6455 section 4).
//!
//! The edge asks [`wanted`], takes hyper's upgrade of the client's request, lets [`Pools::open_tunnel`]
//! make the backend agree, answers the client with what that gives, and spawns [`run`]. Not a byte of the
//! client's passes before the backend's 101: until then what follows the request is, to hyper, the next
//! request (CVE-2025-64763). No other protocol is ever switched to: `h2c` is just a header that is dropped.
//!
//! Where a client's first message decides what it may reach, the order is another one: [`agree`] answers the
//! client, the edge reads the message, [`Pools::open_tunnel`] asks the backend, and [`carry`] takes both on.
//!
//! A tunnel that we end is told so on both sides by a close frame where one can stand: between two frames.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version, request};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::attempt::Answered;
use super::body::Body;
use super::endpoint::Slot;
use super::error::SendError;
use super::frames::{self, Frames};
use super::hygiene::{self, tokens, upgrades_to};
use super::lease::Load;
use super::progress::Mark;
use super::{Overrides, Pools, Settings, into_answer};
use crate::model::problem::Problem;
use crate::observe::metrics::labels::TunnelEnd;

/// How long one side may go on when the other has ended.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long a switch may take to come about once it was answered.
const SWITCHING: Duration = Duration::from_secs(10);
/// How long a frame that is under way may take to its end when we end the tunnel: with the half second in which a
/// revocation is noticed (`edge::standing`) less than the second in which it counts.
const PARTING: Duration = Duration::from_millis(400);
/// How long a side may take to answer our close, while what it sends is thrown away.
const GOODBYE: Duration = Duration::from_secs(1);
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

/// The answer to a client's handshake (see [`wanted`]) that no backend was asked about: no subprotocol and no
/// extension is agreed on, since none could be taken back should the backend not have it.
pub fn agree(request: &HeaderMap) -> Response<Body> {
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    dress(answer.headers_mut());
    if let Some(key) = request.get(SEC_WEBSOCKET_KEY) {
        answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept(key));
    }
    answer
}

/// Takes out of a handshake what the client was told is not agreed on, so that the backend does not agree to it.
pub fn offer_nothing(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
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
    /// Asks a server of `to` for a WebSocket. `request` is the client's, as for [`Pools::send_noting`], and `server` too; its
    /// `Upgrade` and `Connection` are written here.
    pub async fn open_tunnel(
        &self,
        to: &Settings,
        mut request: Request<Body>,
        overrides: Option<&Overrides>,
        server: &mut Option<Arc<str>>,
    ) -> Result<Opened, SendError> {
        if !to.takes_websockets() {
            return Err(SendError::NoTunnel);
        }
        *request.body_mut() = Body::Empty;
        dress(request.headers_mut());
        let accept = request.headers().get(SEC_WEBSOCKET_KEY).map(accept);
        let offered = Offered::of(request.headers());
        let own = overrides.copied().unwrap_or_default();
        let answered = self.answered(to, &mut Some(request), &own, true, server).await?;
        if answered.response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return into_answer(answered).map(Opened::Answer);
        }
        let Answered { mut response, lease, .. } = answered;
        if !upgrades_to(response.headers(), b"websocket")
            || only(response.headers(), &SEC_WEBSOCKET_ACCEPT) != accept.as_ref()
        {
            return Err(SendError::Unacceptable("it switches to something else than this WebSocket"));
        }
        if !offered.covers(response.headers()) {
            return Err(SendError::Unacceptable("it chose a subprotocol or an extension that was not offered"));
        }
        let upgrade = hyper::upgrade::on(&mut response);
        let (mut parts, _empty) = response.into_parts();
        hygiene::clean_response(&mut parts).map_err(SendError::Unacceptable)?;
        dress(&mut parts.headers);
        let (load, slot) = lease.into_tunnel().ok_or(SendError::NoTunnel)?;
        let backend = Backend { upgrade, _load: load, _slot: slot };
        Ok(Opened::Tunnel(Response::from_parts(parts, Body::Empty), backend))
    }
}

/// What a client offered to speak inside the WebSocket.
struct Offered {
    subprotocols: Vec<Vec<u8>>,
    extensions: bool,
}

impl Offered {
    fn of(headers: &HeaderMap) -> Self {
        let subprotocols = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).map(<[u8]>::to_vec).collect();
        Self { subprotocols, extensions: headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) }
    }

    /// Whether the backend chose from it (RFC 6455 section 4.1, the last steps). Which extensions were offered is for
    /// the client to compare: here it matters that it knows of them at all.
    fn covers(&self, answer: &HeaderMap) -> bool {
        let mut chosen = tokens(answer, &SEC_WEBSOCKET_PROTOCOL);
        let subprotocol = match (chosen.next(), chosen.next()) {
            (None, _) => true,
            (Some(one), None) => self.subprotocols.iter().any(|offered| offered == one),
            _ => false,
        };
        subprotocol && (self.extensions || !answer.contains_key(SEC_WEBSOCKET_EXTENSIONS))
    }
}

/// Says that a handshake, or the agreement to one, switches to a WebSocket.
pub fn dress(headers: &mut HeaderMap) {
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

/// What went through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub why: TunnelEnd,
    /// Bytes from the client to the backend.
    pub to_backend: u64,
    /// Bytes from the backend to the client.
    pub to_client: u64,
}

impl Ended {
    /// Ended before anything went through.
    pub const fn unused(why: TunnelEnd) -> Self {
        Self { why, to_backend: 0, to_client: 0 }
    }
}

/// Carries bytes both ways until both sides are done, nothing moves for `idle` (a ping is something), or `stop` says
/// why not to go on. Then both connections are closed, after a close frame where it was not the sides' own wish.
pub async fn run(client: OnUpgrade, backend: Backend, idle: Duration, stop: impl Future<Output = TunnelEnd>) -> Ended {
    let mut stop = pin!(stop);
    let upgraded = tokio::select! {
        upgraded = timeout(SWITCHING, client) => upgraded,
        why = &mut stop => return Ended::unused(why),
    };
    match upgraded {
        Ok(Ok(client)) => carry(TokioIo::new(client), backend, idle, stop).await,
        _ => Ended::unused(TunnelEnd::Broken),
    }
}

/// As [`run`], with a client whose stream is already at hand (its first message was read, say). The stream begins
/// between two frames.
pub async fn carry<T>(client: T, backend: Backend, idle: Duration, stop: impl Future<Output = TunnelEnd>) -> Ended
where
    T: AsyncRead + AsyncWrite + Send,
{
    let Backend { upgrade, _load, _slot } = backend;
    let Ok(Ok(server)) = timeout(SWITCHING, upgrade).await else { return Ended::unused(TunnelEnd::Broken) };
    let (client_reads, client_writes) = tokio::io::split(client);
    let (server_reads, server_writes) = tokio::io::split(TokioIo::new(server));
    let mark = Mark::new();
    let mut up = Flow::new(client_reads, server_writes);
    let mut down = Flow::new(server_reads, client_writes);
    let mut why = tokio::select! {
        ended = ended_by(up.run(&mark), down.run(&mark)) => {
            if ended.is_ok() { TunnelEnd::Closed } else { TunnelEnd::Broken }
        }
        why = stop => why,
        () = silence(&mark, idle) => TunnelEnd::Idle,
    };
    if up.frames.is_closing() && down.frames.is_closing() {
        // They have agreed on the end; how their connections then go down says nothing any more.
        why = TunnelEnd::Closed;
    }
    if let Some([to_client, to_backend]) = told(why) {
        let to_client = frames::close(Role::Server, to_client.0, to_client.1);
        let to_backend = frames::close(Role::Client, to_backend.0, to_backend.1);
        let _ = timeout(PARTING, async { tokio::join!(down.close(&to_client), up.close(&to_backend)) }).await;
        // The connection is closed only once its other end has answered, or had its time: to close it over unread
        // bytes resets it, and a reset may overtake the close frame.
        tokio::join!(
            part(&mut up.from, &mut down.to, &mut up.frames),
            part(&mut down.from, &mut up.to, &mut down.frames)
        );
    }
    Ended { why, to_backend: up.passed, to_client: down.passed }
}

/// What the client and the backend are told, where it is we who end it (RFC 6455 section 7.4.1).
const fn told(why: TunnelEnd) -> Option<[(u16, &'static str); 2]> {
    const POLICY: u16 = 1008;
    const GOING_AWAY: u16 = 1001;
    const AGAIN: u16 = 1013;
    match why {
        TunnelEnd::Closed | TunnelEnd::Broken => None,
        TunnelEnd::Idle => Some([(GOING_AWAY, "idle for too long"); 2]),
        TunnelEnd::Revoked => Some([(POLICY, "access has ended"), (GOING_AWAY, "the client's access has ended")]),
        TunnelEnd::Undecided => Some([(AGAIN, "try again later"), (GOING_AWAY, "the client's access is not known")]),
        TunnelEnd::Drained => Some([(GOING_AWAY, "the gateway is stopping"); 2]),
    }
}

async fn ended_by(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let (mut up, mut down) = (pin!(up), pin!(down));
    let rest = tokio::select! {
        ended = &mut up => { ended?; timeout(FAREWELL, down).await }
        ended = &mut down => { ended?; timeout(FAREWELL, up).await }
    };
    rest.unwrap_or(Ok(()))
}

/// One direction. Whatever future of it is dropped, what was read and not yet written is still here, and so is where
/// in a frame the writing stands.
struct Flow<R, W> {
    from: ReadHalf<R>,
    to: WriteHalf<W>,
    buffer: Box<[u8]>,
    /// What is to be written of the buffer.
    due: std::ops::Range<usize>,
    /// Of what was written.
    frames: Frames,
    passed: u64,
}

impl<R: AsyncRead, W: AsyncWrite> Flow<R, W> {
    fn new(from: ReadHalf<R>, to: WriteHalf<W>) -> Self {
        Self { from, to, buffer: vec![0; BUFFER].into(), due: 0..0, frames: Frames::default(), passed: 0 }
    }

    /// Carries to the end of what comes.
    async fn run(&mut self, mark: &Mark) -> io::Result<()> {
        loop {
            while !self.due.is_empty() {
                self.write(self.due.end).await?;
                mark.touch();
            }
            self.to.flush().await?;
            let read = self.read().await?;
            mark.touch();
            if read == 0 {
                return self.to.shutdown().await;
            }
        }
    }

    /// Carries to the end of the frame that is under way, and then a close frame, unless one has passed already.
    async fn close(&mut self, close: &[u8]) -> io::Result<()> {
        while !self.frames.is_between() {
            if self.frames.is_lost() || (self.due.is_empty() && self.read().await? == 0) {
                return Ok(());
            }
            let mut ahead = self.frames;
            let whole = ahead.next(&self.buffer[self.due.clone()]);
            self.write(self.due.start + whole).await?;
        }
        let passed = self.frames.is_closing();
        // What is left will not be written: it only may hold the answer to the close.
        self.frames.pass(&self.buffer[std::mem::take(&mut self.due)]);
        if !passed {
            self.to.write_all(close).await?;
        }
        self.to.flush().await
    }

    async fn read(&mut self) -> io::Result<usize> {
        let read = self.from.read(&mut self.buffer).await?;
        self.due = 0..read;
        Ok(read)
    }

    /// Writes some of what is due, up to `end`.
    async fn write(&mut self, end: usize) -> io::Result<()> {
        let piece = &self.buffer[self.due.start..end];
        let written = self.to.write(piece).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.frames.pass(&piece[..written]);
        self.due.start += written;
        self.passed += written as u64;
        Ok(())
    }
}

/// Throws away what one end still sends until it closes in its turn, then ends its connection.
async fn part(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), frames: &mut Frames) {
    let _ = timeout(GOODBYE, answered(from, frames)).await;
    let _ = timeout(PARTING, to.shutdown()).await;
}

/// Reads, and throws away, until a close frame has come, or the end.
pub async fn answered(from: &mut (impl AsyncRead + Unpin), frames: &mut Frames) {
    let mut scratch = [0; 1024];
    while !(frames.is_closing() && frames.is_between()) {
        match from.read(&mut scratch).await {
            Ok(read @ 1..) => frames.pass(&scratch[..read]),
            _ => return,
        }
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

//! One client connection: HTTP/1.1 or HTTP/2 over whatever `accept` hands over.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::certificate::Vouched;
use super::exchange;
use super::observe::Observed;
use super::pace::{Pace, Tended};
use super::streams::{Answering, Streams};
use super::workers::Seat;
use crate::gateway::Gateway;
use crate::limit::addresses::AddressPlace;
use crate::observe::metrics::labels::{Slow, TlsVersion};
use crate::observe::metrics::{Held, Metrics};
use crate::upstream::leftover::Arriving;

/// What is known of a connection.
#[derive(Debug)]
pub struct Connection {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// What the handshake settled; `None` on the plain listener.
    pub tls: Option<Handshake>,
    /// What vouches for the client, where the site that it asked for wants that.
    pub vouched: Option<Box<Vouched>>,
    /// Its place among all connections, and the gauge that counts it; a tunnel keeps both until it ends.
    pub held: Place,
    /// The other end's address alone, which is the client's where no proxy stands between.
    client: IpAddr,
    /// The same as text, written once for all requests.
    client_text: HeaderValue,
    /// Its client took nothing of what waits for it, for too long.
    stalled: AtomicBool,
    /// It is good for nothing any more.
    useless: AtomicBool,
    left: Notify,
}

impl Connection {
    /// From `peer`, with what its handshake settled.
    pub fn new(peer: SocketAddr, tls: Option<Handshake>, vouched: Option<Box<Vouched>>, held: Place) -> Self {
        let client = peer.ip().to_canonical();
        let text = HeaderValue::from_str(&client.to_string()).expect("an address is digits, points and colons");
        let (stalled, useless) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { peer, tls, vouched, held, client, client_text: text, stalled, useless, left: Notify::new() }
    }

    /// Ends it, in its protocol's manner, behind the answer to the request that found it good for nothing.
    pub fn let_go(&self) {
        self.useless.store(true, Ordering::Relaxed);
        self.left.notify_one();
    }

    /// Resolves when it is to end; for the one task that serves it.
    async fn is_let_go(&self) {
        self.left.notified().await;
    }

    /// It has ended so.
    fn ended(&self, ended: &Result<(), hyper::Error>) {
        let timed_out = |error: &(dyn Error + 'static)| match error.downcast_ref::<h2::Error>() {
            Some(error) => error.get_io().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut),
            None => error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut),
        };
        // What is read too late has been noted where it was read.
        let stalled = ended.as_ref().err().and_then(Error::source).is_some_and(timed_out);
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Whether it ends because its client took nothing for too long.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.tls.is_some_and(|tls| tls.http2)
    }

    /// The other end's address.
    pub const fn client(&self) -> IpAddr {
        self.client
    }

    /// The same as text.
    pub fn client_text(&self) -> HeaderValue {
        self.client_text.clone()
    }
}

/// A connection's place, given back when the last that depends on it is gone.
#[derive(Debug, Default)]
pub struct Place {
    /// One of the places that there are; `None`: it takes none, since it is only imagined ([`super::explain`]).
    pub permit: Option<OwnedSemaphorePermit>,
    /// One of those that its client's address may have.
    pub address: AddressPlace,
    /// Counts it as open.
    pub gauge: Held,
    /// Counts it at its worker.
    pub seat: Option<Seat>,
    /// A proxy brings it and does not say from whom: what its requests say of where they come from is its client's word.
    pub unnamed: bool,
}

/// What a TLS handshake settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// TLS 1.3 or 1.2.
    pub version: TlsVersion,
    /// Whether ALPN chose HTTP/2.
    pub http2: bool,
    /// The configuration in force when it began.
    pub generation: u64,
}

impl Connection {
    /// The fingerprint of the certificate that the client has shown.
    pub fn fingerprint(&self) -> Option<&str> {
        self.vouched.as_ref()?.shown.as_ref()?.fingerprint.to_str().ok()
    }
}

/// What an HTTP/2 client says first, in bytes (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// HTTP/2: streams that a client has reset before we looked at them; one more ends its connection (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// HTTP/2: streams that a client has made us reset by breaking the protocol, over its connection's life; one more ends
/// it (CVE-2025-8671). Far above what an honest client's mistakes come to.
const PROVOKED_RESETS: usize = 256;
/// HTTP/2: streams that a client may have taken back within a second of opening them, beyond those that it lets be answered
/// (CVE-2023-44487, by a client that waits until each is on its way to a backend). A page that is left, or a deadline that
/// ends everything under way, takes back what was open: `max_streams`, where that is more.
const TAKEN_BACK: usize = 200;
/// HTTP/2: bytes of an answer that are taken from the backend before the client has room for them, a stream.
const SEND_BUFFER: usize = 64 * 1024;

/// Tells all connections to finish what they have begun, when the gateway drains.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    token: CancellationToken,
    /// Said just before: what each request and each wake of a connection looks at, in place of a lock that all share.
    said: Arc<AtomicBool>,
}

impl Drain {
    /// Tells them, once for all.
    pub fn begin(&self) {
        self.said.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.said.load(Ordering::Acquire)
    }

    /// Resolves when it begins. To be awaited by one task: it wakes whoever polled it first.
    pub async fn begun(&self) {
        let mut told = std::pin::pin!(self.token.cancelled());
        let mut registered = false;
        poll_fn(|cx| {
            if registered && !self.has_begun() {
                return Poll::Pending;
            }
            registered = true;
            told.as_mut().poll(cx)
        })
        .await;
    }
}

/// Serves a connection until it ends, or until `drain` asks it to finish what it has begun.
pub async fn serve<S>(gateway: Arc<Gateway>, stream: S, connection: Arc<Connection>, drain: Drain)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let bounds = gateway.bounds.clone();
    let http2 = connection.is_http2();
    let taken_back = TAKEN_BACK.max(usize::try_from(bounds.max_streams).unwrap_or(TAKEN_BACK));
    let pace = Pace::begin(http2, taken_back);
    let stream = Tended::new(stream, Arc::clone(&pace), bounds.header_timeout, bounds.idle_timeout);
    let (asked, leaving, of, client) =
        (Arc::clone(&pace), drain.clone(), Arc::clone(&gateway), Arc::clone(&connection));
    let answer = move |request| {
        let (gateway, connection) = (Arc::clone(&of), Arc::clone(&connection));
        let (mut head, body, leftover) = Arriving::of(request, asked.lingering());
        let (asked, leaving) = (asked.ask(leftover), leaving.clone());
        // Boxed: by value hyper would move each request's whole state into place, and go on to hold the room for it: a
        // connection of HTTP/1.1 that rests, and a stream of HTTP/2 whose answer waits for its client's window.
        Box::pin(async move {
            if asked.is_too_much() {
                // It is told goodbye already; until it takes notice nothing of it goes any further.
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            let mut answer = exchange::handle(&gateway, &connection, &mut head, body).await;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                asked.becomes_tunnel();
            } else if !http2 && (leaving.has_begun() || connection.useless.load(Ordering::Relaxed)) {
                // RFC 9112 section 9.6; HTTP/2 has GOAWAY for it.
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer.map(|body| Answering::new(body, asked)))
        })
    };
    // The error of a connection is the client's doing (a reset, a bad preface, a timeout) and hyper has
    // already answered what could be answered; what it cost is in the metrics. It is looked at before what was under way
    // is dropped, which tells by it how that ended.
    if http2 {
        // Boxed: it is several times what HTTP/1.1 is, and a connection of that would hold the room for it.
        Box::pin(serve_http2(&gateway, stream, service_fn(answer), (&client, &pace), &drain)).await;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // `Tended` bounds heads and rests, each by its own time.
            .header_read_timeout(None)
            // One flat write measured cheaper than gathering head and body.
            .writev(false)
            .max_buf_size(bounds.max_header_size.max(8192))
            .max_headers(bounds.max_headers);
        serve_http1(&builder, stream, service_fn(answer), (&client, &pace, bounds.idle_timeout), &drain).await;
    }
    tell_slowness(&gateway.metrics, &client, pace.slow());
}

/// Tells of a connection that was ended because its client was slow, if it was. That browsers open connections for which
/// they then have no use, and that clients keep some for later, happens all the time.
fn tell_slowness(metrics: &Metrics, client: &Connection, phase: Option<Slow>) {
    let Some(phase) = phase.or(client.is_stalled().then_some(Slow::Unread)) else { return };
    metrics.connections.timed_out(phase);
    let (peer, phase_name) = (client.client(), phase.name());
    match phase {
        Slow::Head | Slow::Unread => tracing::info!(client = %peer, phase = phase_name, "a client took too long"),
        Slow::Silent | Slow::Idle => tracing::debug!(client = %peer, phase = phase_name, "a client took too long"),
    }
}

/// Serves HTTP/2.
async fn serve_http2<S, F>(
    gateway: &Gateway,
    stream: Tended<S>,
    service: F,
    (client, pace): (&Connection, &Pace),
    drain: &Drain,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: HttpService<Incoming, ResBody = Answering<Observed>, Error = io::Error, Future: Send + 'static>,
{
    let bounds = &gateway.bounds;
    let mut builder = hyper::server::conn::http2::Builder::new(Streams { patience: bounds.send_timeout });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.max_streams)
        .max_header_list_size(u32::try_from(bounds.max_header_size).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(PROVOKED_RESETS)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Some(bounds.idle_timeout))
        .keep_alive_timeout(bounds.header_timeout);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => client.ended(&ended),
        () = never_begun(pace, bounds.header_timeout) => pace.has_no_head(),
        () = goodbye(client, pace, bounds.idle_timeout) => {
            serving.as_mut().graceful_shutdown();
            // A client that takes no notice of GOAWAY is let go all the same.
            tokio::select! {
                ended = serving.as_mut() => client.ended(&ended),
                () = pace.unused(bounds.header_timeout) => {}
            }
        }
        () = pace.flooded() => {
            gateway.metrics.connections.taken_back.inc();
            // GOAWAY; hyper knows no code for it but that of a goodbye in order. What is under way may still end.
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => client.ended(&ended),
                () = tokio::time::sleep(LAST_CHANCE) => {}
            }
        }
        () = drain.begun() => {
            let begun = || pace.read() >= PREFACE;
            if !begun() {
                tokio::select! {
                    _ = serving.as_mut() => return,
                    () = pace.anything() => {}
                    () = tokio::time::sleep(LAST_CHANCE) => {}
                }
            }
            if begun() {
                serving.as_mut().graceful_shutdown();
                client.ended(&serving.as_mut().await);
            }
        }
    }
}

/// Resolves when an HTTP/2 connection is to end: it has had no stream for as long as it may, or is good for nothing.
async fn goodbye(client: &Connection, pace: &Pace, idle: Duration) {
    tokio::select! {
        () = pace.rested(idle) => {}
        () = client.is_let_go() => {}
    }
}

/// Serves HTTP/1.1. A connection that rests gives back hyper's state and buffers, which are most of what it holds, and
/// takes new ones when its client speaks again.
async fn serve_http1<S, F>(
    builder: &hyper::server::conn::http1::Builder,
    mut stream: Tended<S>,
    mut service: F,
    (client, pace, idle): (&Connection, &Pace, Duration),
    drain: &Drain,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: HttpService<Incoming, ResBody = Answering<Observed>, Error = io::Error>,
{
    loop {
        // Boxed: a connection that rests would hold the room for it.
        let mut serving = Box::new(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        tokio::select! {
            biased;
            ended = &mut *serving => return client.ended(&ended),
            () = pace.settled(idle) => {}
            () = drain.begun() => {
                // hyper closes a connection that rests at once, and whoever is just about to ask would be reset.
                tokio::select! {
                    _ = &mut *serving => return,
                    () = pace.anything() => {}
                    () = tokio::time::sleep(LAST_CHANCE) => {}
                }
                // Until the head of an answer is out, that the connection ends is ours to say: hyper would say so beside the
                // word of a WebSocket that opens, and clients take that word alone.
                let waits = poll_fn(|cx| match Pin::new(&mut *serving).poll(cx) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended)),
                    Poll::Pending if pace.is_asked() => Poll::Pending,
                    Poll::Pending => Poll::Ready(None),
                });
                if let Some(ended) = waits.await {
                    return client.ended(&ended);
                }
                Pin::new(&mut *serving).graceful_shutdown();
                return client.ended(&(&mut *serving).await);
            }
        }
        let Some(parts) = serving.into_parts() else { return };
        service = parts.service;
        stream = parts.io.into_inner();
        stream.unread(parts.read_buf);
        tokio::select! {
            going_on = stream.rest() => if !going_on { return },
            () = last_chance(drain) => return stream.close().await,
        }
    }
}

/// How long a client that asks for nothing is kept when the gateway drains. Most of those who keep a connection for
/// more requests are on their way with the next one, which is then answered, with `Connection: close`.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// Resolves when a client that has asked for nothing has had its time.
pub async fn last_chance(drain: &Drain) {
    drain.begun().await;
    tokio::time::sleep(LAST_CHANCE).await;
}

/// Ends when a client has chosen HTTP/2 and not begun to speak it within `patience`. hyper waits for the preface
/// without end: a place and a descriptor for whoever says nothing, and a drain that lasts as long as it may.
async fn never_begun(pace: &Pace, patience: Duration) {
    tokio::time::sleep(patience).await;
    if pace.read() >= PREFACE {
        std::future::pending::<()>().await;
    }
}

//! One client connection: HTTP/1.1 or HTTP/2 over whatever `accept` hands over.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::exchange;
use crate::gateway::Gateway;
use crate::observe::metrics::Held;
use crate::observe::metrics::labels::TlsVersion;

/// What is known of a connection.
#[derive(Debug)]
pub struct Connection {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// What the handshake settled; `None` on the plain listener.
    pub tls: Option<Handshake>,
    /// Its place among all connections, and the gauge that counts it; a tunnel keeps both until it ends.
    pub held: Place,
}

/// A connection's place, given back when the last that depends on it is gone.
#[derive(Debug)]
pub struct Place {
    /// One of the places that there are.
    pub permit: OwnedSemaphorePermit,
    /// Counts it as open.
    pub gauge: Held,
}

/// What a TLS handshake settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// TLS 1.3 or 1.2.
    pub version: TlsVersion,
    /// Whether ALPN chose HTTP/2.
    pub http2: bool,
}

/// What an HTTP/2 client says first, in bytes (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Serves a connection until it ends, or until `drain` asks it to finish what it has begun.
pub async fn serve<S>(gateway: Arc<Gateway>, stream: S, connection: Arc<Connection>, drain: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let bounds = gateway.bounds.clone();
    let http2 = connection.tls.is_some_and(|tls| tls.http2);
    let asked = Arc::new(Asked::default());
    let counted = Arc::clone(&asked);
    let leaving = drain.clone();
    let service = service_fn(move |request| {
        let (gateway, connection) = (Arc::clone(&gateway), Arc::clone(&connection));
        let (asking, leaving) = (Asking::begin(&counted), leaving.clone());
        async move {
            let mut answer = exchange::handle(&gateway, &connection, request).await;
            drop(asking);
            // RFC 9112 section 9.6; HTTP/2 has GOAWAY for it.
            if !http2 && leaving.is_cancelled() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    // The error of a connection is the client's doing (a reset, a bad preface, a timeout) and hyper has
    // already answered what could be answered; what it cost is in the metrics.
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(bounds.max_streams)
            .max_header_list_size(u32::try_from(bounds.max_header_size).unwrap_or(u32::MAX))
            .keep_alive_interval(Some(bounds.idle_timeout))
            .keep_alive_timeout(bounds.header_timeout);
        let read = Arc::new(AtomicUsize::new(0));
        let stream = Counted { stream, read: Arc::clone(&read) };
        let serving = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => {}
            () = never_begun(&read, bounds.header_timeout) => {}
            () = drain.cancelled() => {
                let begun = || read.load(Ordering::Relaxed) >= PREFACE;
                if !begun() {
                    tokio::select! {
                        _ = serving.as_mut() => return,
                        () = asked.anything() => {}
                        () = tokio::time::sleep(LAST_CHANCE) => {}
                    }
                }
                if begun() {
                    serving.as_mut().graceful_shutdown();
                    let _ = serving.await;
                }
            }
        }
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.header_timeout)
            .max_buf_size(bounds.max_header_size.max(8192))
            .max_headers(bounds.max_headers);
        let serving = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => {}
            () = drain.cancelled() => {
                // hyper closes a connection that rests at once, and whoever is just about to ask would be reset.
                tokio::select! {
                    _ = serving.as_mut() => return,
                    () = asked.anything() => {}
                    () = tokio::time::sleep(LAST_CHANCE) => {}
                }
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
    }
}

/// How long a client that asks for nothing is kept when the gateway drains. Most of those who keep a connection for
/// more requests are on their way with the next one, which is then answered, with `Connection: close`.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// Resolves when a client that has asked for nothing has had its time.
pub async fn last_chance(drain: &CancellationToken) {
    drain.cancelled().await;
    tokio::time::sleep(LAST_CHANCE).await;
}

/// Whether a connection's client waits for the head of an answer.
#[derive(Default)]
struct Asked {
    open: AtomicUsize,
    came: Notify,
}

impl Asked {
    /// Resolves at once while a request is being served, else when one comes.
    async fn anything(&self) {
        // Told first and looked at after, so that none slips through between the two.
        let came = self.came.notified();
        if self.open.load(Ordering::Relaxed) == 0 {
            came.await;
        }
    }
}

/// A request that waits for the head of its answer.
struct Asking(Arc<Asked>);

impl Asking {
    fn begin(asked: &Arc<Asked>) -> Self {
        asked.open.fetch_add(1, Ordering::Relaxed);
        asked.came.notify_waiters();
        Self(Arc::clone(asked))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends when a client has chosen HTTP/2 and not begun to speak it within `patience`. hyper waits for the preface
/// without end: a place and a descriptor for whoever says nothing, and a drain that lasts as long as it may.
async fn never_begun(read: &AtomicUsize, patience: Duration) {
    tokio::time::sleep(patience).await;
    if read.load(Ordering::Relaxed) >= PREFACE {
        std::future::pending::<()>().await;
    }
}

/// A stream that tells how many bytes were read from it.
struct Counted<S> {
    stream: S,
    read: Arc<AtomicUsize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.read.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

//! What a backend may say before its answer: interim answers (1xx), as many as fit into a bound.
//!
//! hyper reads them in a loop for as long as there are any, so that a backend which sends nothing else holds the thread
//! that serves others too; a timer of ours cannot ring meanwhile. It tells of each only at the price of four allocations a
//! request. So bytes are counted here, under hyper, from a request's first byte to its answer's head.
//!
//! HTTP/1.1 only. Over HTTP/2 bytes under hyper are those of all streams, h2 counts no interim answers, and hyper throws away
//! those that it is given without a word (its `on_informational` is for HTTP/1.1): to count them by stream would take a
//! parser of frames of our own. h2 lets others run in between and keeps none once it was looked at; the answer's time bounds
//! them, and ends the connection's stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes at most up to the end of an answer's head, with what of its body is read along with it. A head has 64 KiB; the
/// rest are some thousand interim answers, of which an honest backend sends one or two.
pub(super) const MOST: usize = 512 * 1024;
/// No answer is waited for.
const UNBOUNDED: usize = usize::MAX;

/// Shared by a connection's stream and whoever waits for an answer on it.
#[derive(Debug)]
pub(super) struct Ahead(AtomicUsize);

/// More came than may come before an answer.
#[derive(Debug, thiserror::Error)]
#[error("interim answers without end, and no answer")]
pub(super) struct Endless;

impl Ahead {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(UNBOUNDED)))
    }

    /// An answer is waited for.
    pub(super) fn begins(&self) {
        self.0.store(MOST, Ordering::Relaxed);
    }

    /// Its head is here.
    pub(super) fn is_over(&self) {
        self.0.store(UNBOUNDED, Ordering::Relaxed);
    }

    /// Whether `count` bytes more may come.
    fn takes(&self, count: usize) -> bool {
        let less = |left| if left == UNBOUNDED { Some(left) } else { usize::checked_sub(left, count) };
        // In one step: that the head is here may be noted from another thread meanwhile.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// A connection to a backend, as hyper reads it.
pub(super) struct Heard<S> {
    stream: S,
    ahead: Arc<Ahead>,
}

impl<S> Heard<S> {
    pub(super) const fn new(stream: S, ahead: Arc<Ahead>) -> Self {
        Self { stream, ahead }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let fits = self.ahead.takes(buffer.filled().len() - before);
        Poll::Ready(if fits { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, Endless)) })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
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

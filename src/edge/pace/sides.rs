//! The two sides of a client's socket that is looked after: [`Tended`], above TLS, knows when something should have been
//! read; [`Taken`], below it, when something should have been taken.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{Pace, SETTLES};
use crate::observe::metrics::labels::Slow;
use crate::upstream::progress::Stall;

/// A client's side of a connection, above TLS: what is read, and when it should have been.
pub struct Tended<S> {
    stream: S,
    pace: Arc<Pace>,
    /// The requests there had been when this phase began.
    seen: usize,
    /// Whether a byte of the next head is here; a new connection owes its first one as if it were.
    head_begun: bool,
    head: Stall,
    idle: Duration,
    /// Until when it may rest; `Some`: it does.
    rest: Option<Pin<Box<Sleep>>>,
    /// Read already, to be read again.
    unread: Bytes,
    owes: bool,
}

/// What came first after a rest: so little that who rests holds next to nothing for it.
const FIRST_BYTES: usize = 64;

impl<S> Tended<S> {
    /// `header`: how long a head may take that has begun; `idle`: how long HTTP/1.1 may rest between two requests.
    pub fn new(stream: S, pace: Arc<Pace>, header: Duration, idle: Duration) -> Self {
        Self {
            stream,
            pace,
            seen: 0,
            head_begun: true,
            head: Stall::new(header),
            idle,
            rest: None,
            unread: Bytes::new(),
            owes: false,
        }
    }

    /// Gives back what was read of a request that is not whole: a head that has begun, whose time runs from now at the
    /// latest.
    pub fn unread(&mut self, bytes: Bytes) {
        if !bytes.is_empty() && self.is_its_turn() {
            self.begins_head();
        }
        self.unread = if self.unread.is_empty() { bytes } else { [bytes, self.unread.split_off(0)].concat().into() };
    }

    /// Whether the next byte is the client's to send: between two requests of HTTP/1.1.
    fn is_its_turn(&mut self) -> bool {
        let pace = &self.pace;
        let takes_turns = !pace.http2 && !pace.tunnel.load(Ordering::Relaxed);
        if !takes_turns || pace.open.load(Ordering::Relaxed) > 0 || !pace.lingering.is_empty() {
            return false;
        }
        let begun = pace.begun.load(Ordering::Relaxed);
        if self.seen != begun {
            self.seen = begun;
            self.head_begun = false;
        }
        true
    }

    /// A byte of the next head is here.
    fn begins_head(&mut self) {
        self.pace.partial.store(true, Ordering::Relaxed);
        if !self.head_begun {
            self.head_begun = true;
            self.head.moved();
        }
    }

    fn note_owed<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.owes != written.is_pending() {
            self.owes = written.is_pending();
            self.pace.owes.store(self.owes, Ordering::Relaxed);
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tended<S> {
    /// Waits for the client's next word, with no more room than that takes. `false`: it will not come. What has to come
    /// in its time is bounded by it: the rest of a head, and the next request.
    pub async fn rest(&mut self) -> bool {
        if !self.unread.is_empty() {
            return true;
        }
        let due = Instant::now() + self.idle.saturating_sub(SETTLES);
        self.rest = Some(Box::pin(tokio::time::sleep_until(due)));
        let mut first = [0; FIRST_BYTES];
        let mut first = ReadBuf::new(&mut first);
        let read = poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, &mut first)).await;
        self.rest = None;
        match read {
            Ok(()) if first.filled().is_empty() => {
                self.close().await;
                false
            }
            Ok(()) => {
                self.unread = Bytes::copy_from_slice(first.filled());
                true
            }
            Err(_) => false,
        }
    }

    /// Says goodbye, as far as that takes no waiting for a client that does not listen.
    pub async fn close(&mut self) {
        let _gone = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tended<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if Pin::new(&mut self.stream).poll_read(cx, buffer)?.is_ready() {
            let count = buffer.filled().len() - before;
            self.pace.read.fetch_add(count, Ordering::Relaxed);
            if count > 0 && self.is_its_turn() {
                self.begins_head();
            }
            return Poll::Ready(Ok(()));
        }
        if !self.is_its_turn() {
            return Poll::Pending;
        }
        if self.head_begun {
            ready!(self.head.poll(cx));
            self.pace.has_no_head();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        // As if the client had closed.
        let rested = self.rest.as_mut().is_some_and(|rest| rest.as_mut().poll(cx).is_ready());
        if !rested {
            return Poll::Pending;
        }
        self.pace.is_slow(Slow::Idle);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tended<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_owed(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_owed(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note_owed(closed)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_owed(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A socket, below TLS, whose client has to take what is sent: no byte taken for too long ends it. Above TLS a flush
/// says only when all of it is out, and a slow reader would look like none.
pub struct Taken<S> {
    socket: S,
    stall: Stall,
}

impl<S> Taken<S> {
    /// `patience`: how long the client may take nothing of what waits for it.
    pub const fn new(socket: S, patience: Duration) -> Self {
        Self { socket, stall: Stall::new(patience) }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall.moved();
            return polled;
        }
        self.stall.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

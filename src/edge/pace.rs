//! How long a client may take, in every phase of its connection.
//!
//! hyper knows one timer for HTTP/1.1, and it runs from the end of one answer to the last byte of the next head; for
//! HTTP/2 it knows none. Here a connection that rests, a head that has begun and bytes that are not taken each have a
//! bound of their own, and in [`super::streams`] a stream whose window stays shut. Nothing is armed while bytes move.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_util::task::TaskTracker;

use crate::observe::metrics::labels::Slow;
use crate::upstream::leftover::Leftover;
use crate::upstream::progress::Stall;

/// What a connection's stream, its requests and the task that serves it tell each other.
#[derive(Debug)]
pub struct Pace {
    /// Requests that wait for the head of their answer.
    asking: AtomicUsize,
    came: Notify,
    /// Requests that are not over: from the whole head to the answer's last byte.
    open: AtomicUsize,
    /// Requests there have been.
    begun: AtomicUsize,
    /// Bytes that were read.
    read: AtomicUsize,
    /// Whether it has become a tunnel, which has bounds of its own.
    tunnel: AtomicBool,
    /// Whether something is still to be written that its client has no room for.
    owes: AtomicBool,
    /// Whether a head has begun that is not whole: to be read once, and not anew after each rest.
    partial: AtomicBool,
    since: Instant,
    /// When the last request was over, in milliseconds from `since`.
    rested: AtomicU64,
    /// Those who read on what is left of bodies whose answers are out.
    lingering: TaskTracker,
    /// HTTP/2: streams that were taken back as soon as they were opened, less those that were answered.
    taken_back: AtomicUsize,
    /// How many of them are too many.
    most_taken_back: usize,
    flooded: Notify,
    http2: bool,
    /// What it was ended for; see [`Pace::slow`].
    slow: AtomicU8,
}

/// How old a stream may be that its client takes back to count as one that it never wanted an answer to.
const RAPID: Duration = Duration::from_secs(1);
/// How long nothing must be under way for a connection to give back its buffers.
const SETTLES: Duration = Duration::from_millis(500);

impl Pace {
    /// Of a connection that begins now. `most_taken_back`: how many more streams its client may take back at once than
    /// it lets be answered.
    pub fn begin(http2: bool, most_taken_back: usize) -> Arc<Self> {
        Arc::new(Self {
            asking: AtomicUsize::new(0),
            came: Notify::new(),
            open: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            tunnel: AtomicBool::new(false),
            owes: AtomicBool::new(false),
            partial: AtomicBool::new(false),
            since: Instant::now(),
            rested: AtomicU64::new(0),
            lingering: TaskTracker::new(),
            taken_back: AtomicUsize::new(0),
            most_taken_back,
            flooded: Notify::new(),
            http2,
            slow: AtomicU8::new(u8::MAX),
        })
    }

    /// Those who read on what is left of bodies whose answers are out.
    pub fn lingering(&self) -> &TaskTracker {
        &self.lingering
    }

    /// A request has come, head and all; `leftover`: what there will be of its body.
    pub fn ask(self: &Arc<Self>, leftover: Option<Arc<Leftover>>) -> Asked {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.partial.store(false, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.asking.fetch_add(1, Ordering::Relaxed);
        self.came.notify_waiters();
        Asked {
            pace: Arc::clone(self),
            leftover,
            waits: true,
            end: End::TakenBack,
            begun: self.http2.then(Instant::now),
        }
    }

    /// Whether its client takes back more streams than it may.
    pub fn is_flooded(&self) -> bool {
        self.taken_back.load(Ordering::Relaxed) > self.most_taken_back
    }

    /// Resolves when it does.
    pub async fn flooded(&self) {
        while !self.is_flooded() {
            self.flooded.notified().await;
        }
    }

    /// A stream of HTTP/2 is over that was opened at `begun`. What is answered makes up for what is taken back, so that
    /// a client may cancel as much as it likes of what it asks for, as long as it wants half of it; each stream taken
    /// back cost the backend a request, and mostly a connection.
    fn over(&self, begun: Instant, end: End) {
        match end {
            End::Whole => {
                let less = |taken: usize| taken.checked_sub(1);
                let _ = self.taken_back.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            End::TakenBack if begun.elapsed() < RAPID => {
                if self.taken_back.fetch_add(1, Ordering::Relaxed) >= self.most_taken_back {
                    self.flooded.notify_one();
                }
            }
            End::TakenBack | End::Broken => {}
        }
    }

    /// What its client took too long for, if it did.
    pub fn slow(&self) -> Option<Slow> {
        Slow::ALL.get(usize::from(self.slow.load(Ordering::Relaxed))).copied()
    }

    fn is_slow(&self, phase: Slow) {
        self.slow.store(phase as u8, Ordering::Relaxed);
    }

    /// The next head has not come, or not come to its end.
    pub fn has_no_head(&self) {
        self.is_slow(if self.read() == 0 { Slow::Silent } else { Slow::Head });
    }

    /// Bytes read from it so far.
    pub fn read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    /// Resolves at once while a request waits for its answer, else when one comes.
    pub async fn anything(&self) {
        // Told first and looked at after, so that none slips through between the two.
        let came = self.came.notified();
        if self.asking.load(Ordering::Relaxed) == 0 {
            came.await;
        }
    }

    /// When it will have rested for `patience`, unless it is busy by then: to be looked at again. `None`: it has.
    fn rests_until(&self, patience: Duration) -> Option<Instant> {
        let now = Instant::now();
        let busy = self.open.load(Ordering::Relaxed) > 0 || !self.lingering.is_empty();
        let rested = self.since + Duration::from_millis(self.rested.load(Ordering::Relaxed));
        let due = if busy { now } else { rested } + patience;
        (due > now).then_some(due)
    }

    /// Resolves when HTTP/1.1 has had nothing under way for a moment, in either direction: what serves it knows nothing
    /// then that could not be made anew. Looks up once in that time, whatever comes and goes.
    pub async fn settled(&self, idle: Duration) {
        let moment = SETTLES.min(idle);
        let mut due = Some(Instant::now() + moment);
        while let Some(look) = due {
            tokio::time::sleep_until(look).await;
            let busy = [&self.tunnel, &self.owes, &self.partial].iter().any(|it| it.load(Ordering::Relaxed));
            due = if busy { Some(look + moment) } else { self.rests_until(moment) };
        }
    }

    /// Resolves when an HTTP/2 connection has had no stream for `patience`.
    pub async fn rested(&self, patience: Duration) {
        loop {
            let Some(due) = self.rests_until(patience) else { return self.is_slow(Slow::Idle) };
            tokio::time::sleep_until(due).await;
        }
    }

    /// Resolves when nothing is under way, looking every `patience`.
    pub async fn unused(&self, patience: Duration) {
        loop {
            tokio::time::sleep(patience).await;
            if self.open.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

/// A request that is not over.
#[derive(Debug)]
pub struct Asked {
    pace: Arc<Pace>,
    leftover: Option<Arc<Leftover>>,
    waits: bool,
    end: End,
    /// When it came; HTTP/2 only.
    begun: Option<Instant>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its answer was given to its end.
    Whole,
    /// We or the backend broke its answer off.
    Broken,
    /// Nobody waited for the end of its answer.
    TakenBack,
}

impl Asked {
    /// Whether its connection has asked for too much that it did not want.
    pub fn is_too_much(&self) -> bool {
        self.pace.is_flooded()
    }

    /// From here on its connection is a tunnel, which has bounds of its own.
    pub fn becomes_tunnel(&self) {
        self.pace.tunnel.store(true, Ordering::Relaxed);
    }

    /// Whether it came in a stream of HTTP/2.
    pub fn is_stream(&self) -> bool {
        self.pace.http2
    }

    /// It ends so; until it is told how, its client has taken it back.
    pub const fn ends(&mut self, end: End) {
        self.end = end;
    }

    /// The head of its answer is there.
    pub fn answered(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.pace.asking.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.answered();
        if let Some(leftover) = &self.leftover {
            leftover.answered(self.end == End::Whole);
        }
        if let Some(begun) = self.begun {
            self.pace.over(begun, self.end);
        }
        let rested = u64::try_from(self.pace.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.pace.rested.store(rested, Ordering::Relaxed);
        self.pace.open.fetch_sub(1, Ordering::Relaxed);
    }
}

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

    /// Gives back what was read of a request that is not whole.
    pub fn unread(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.pace.partial.store(true, Ordering::Relaxed);
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
                self.pace.partial.store(true, Ordering::Relaxed);
                if !self.head_begun {
                    self.head_begun = true;
                    self.head.moved();
                }
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

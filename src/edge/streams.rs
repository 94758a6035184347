//! What an answer waits for until it is out: HTTP/2 streams whose window stays shut, and requests that are over with the
//! last byte of their answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;

use super::pace::{Asked, End};
use crate::upstream::progress::Stall;

tokio::task_local! {
    /// The stream whose task this is.
    static STREAM: Arc<Owed>;
}

/// Who keeps an HTTP/2 stream waiting.
#[derive(Debug, Default)]
struct Owed {
    /// An answer is there, and the client's window has to take it.
    by_client: AtomicBool,
    /// Counts what moved.
    moves: AtomicUsize,
    /// The client has had its time.
    stalled: AtomicBool,
}

/// Whether this is the task of a stream that ends because its client took nothing of it.
pub fn is_stalled() -> bool {
    STREAM.try_with(|owed| owed.stalled.load(Ordering::Relaxed)).unwrap_or(false)
}

impl Owed {
    fn moved(&self, by_client: bool) {
        self.by_client.store(by_client, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs HTTP/2 streams, each in a task, and resets one whose client takes nothing of its answer for too long: a window
/// that is never opened must not hold a backend's connection. hyper polls an answer's body only when there is room for
/// it, so the body itself cannot watch.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// How long a client may take nothing.
    pub patience: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let owed = Arc::new(Owed::default());
        let mut stall = Stall::new(self.patience);
        let told = Arc::clone(&owed);
        // Boxed: moved into the task it would be in there twice, and stay as long as its answer waits.
        let mut stream = Box::pin(stream);
        tokio::spawn(STREAM.scope(told, async move {
            let mut seen = 0;
            std::future::poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let moves = owed.moves.load(Ordering::Relaxed);
                if std::mem::replace(&mut seen, moves) != moves {
                    stall.moved();
                }
                if !owed.by_client.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                let stalled = stall.poll(cx);
                owed.stalled.store(stalled.is_ready(), Ordering::Relaxed);
                stalled
            })
            .await;
        }));
    }
}

/// An answer's body that keeps its request open until it is gone.
pub struct Answering<B> {
    body: B,
    stream: Option<Arc<Owed>>,
    asked: Asked,
}

impl<B: Body> Answering<B> {
    /// The answer to `asked`, whose head is ready. Called in the stream's task, where there is one.
    pub fn new(body: B, mut asked: Asked) -> Self {
        asked.answered();
        let stream = if asked.is_stream() { STREAM.try_with(Arc::clone).ok() } else { None };
        if let Some(owed) = &stream {
            owed.moved(!body.is_end_stream());
        }
        if body.is_end_stream() {
            asked.ends(End::Whole);
        }
        Self { body, stream, asked }
    }
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(owed) = &self.stream {
            owed.moved(polled.is_ready());
        }
        match &polled {
            Poll::Ready(None) => self.asked.ends(End::Whole),
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() || self.body.is_end_stream() => {
                self.asked.ends(End::Whole);
            }
            Poll::Ready(Some(Err(_))) => self.asked.ends(End::Broken),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

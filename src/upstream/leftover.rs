//! A request's body as it comes, and what becomes of the rest when nobody wants it any more.
//!
//! A refusal, or a backend's early answer, may be out while its client still sends. Were the rest dropped there,
//! HTTP/2 would reset the stream on the heels of the answer (RFC 9113 section 8.1 allows it, and curl then shows the
//! reset in place of the answer), and HTTP/1.1 would close a socket with unread bytes in it, whereupon TCP takes the
//! answer back. So it is read on and thrown away, within bounds, once the answer is out: a client that looks at what
//! it gets stops by itself, and one that sends all before it looks gets its answer too.
//!
//! `edge::connection` makes an [`Arriving`] of every request; `edge::pace` tells its [`Leftover`] when the answer is out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The most that is read for nothing, in bytes: what an upload within the default `max_body` mostly is.
const MOST: u64 = 64 * 1024 * 1024;
/// How long it is read on, whatever comes.
const WHOLE: Duration = Duration::from_secs(10);
/// How long without a byte.
const PAUSE: Duration = Duration::from_secs(2);

/// A request's body as it comes.
#[derive(Debug)]
pub struct Arriving {
    /// Taken only when this is dropped.
    incoming: Option<Incoming>,
    leftover: Option<Arc<Leftover>>,
    /// The client waits for leave to send it (RFC 9110 section 10.1.1), and has none.
    waits: bool,
    /// Says that it is not over, to whoever must not take its bytes for the next request. A backend may have answered
    /// long before.
    coming: Option<TaskTrackerToken>,
}

/// What is left of a body, between whoever reads it and whoever answers its request.
#[derive(Debug)]
pub struct Leftover {
    state: Mutex<State>,
    /// Whoever reads on.
    readers: TaskTracker,
}

#[derive(Debug)]
enum State {
    /// It is read, or was to its end.
    Read,
    /// Nobody wants it; the answer is not out yet.
    Left(Incoming),
    /// The answer is out.
    Answered,
    /// The answer broke off: the rest goes with it.
    Broken,
}

impl Arriving {
    /// The request's head and body; where it has one, it counts among `readers` until it is over, and what will be left of
    /// it is read by a task among them.
    pub fn of(request: Request<Incoming>, readers: &TaskTracker) -> (Parts, Self, Option<Arc<Leftover>>) {
        let (head, incoming) = request.into_parts();
        let leftover = (!incoming.is_end_stream())
            .then(|| Arc::new(Leftover { state: Mutex::new(State::Read), readers: readers.clone() }));
        let waits = leftover.is_some() && expects(&head.headers);
        let coming = leftover.is_some().then(|| readers.token());
        let body = Self { incoming: Some(incoming), leftover: leftover.clone(), waits, coming };
        (head, body, leftover)
    }

    fn incoming(&self) -> &Incoming {
        self.incoming.as_ref().expect("it is taken only when this is dropped")
    }
}

fn expects(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl From<Incoming> for Arriving {
    /// A body whose rest is dropped.
    fn from(incoming: Incoming) -> Self {
        Self { incoming: Some(incoming), leftover: None, waits: false, coming: None }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits = false;
        let incoming = self.incoming.as_mut().expect("it is taken only when this is dropped");
        let polled = Pin::new(incoming).poll_frame(cx);
        let over = matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.incoming().is_end_stream();
        if over {
            self.coming = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming().size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Whoever waits for leave sends nothing; what came in its place would be the next request.
        if let (Some(incoming), Some(leftover), false) = (self.incoming.take(), &self.leftover, self.waits)
            && !incoming.is_end_stream()
        {
            leftover.leave(incoming);
        }
    }
}

impl Leftover {
    /// The answer is out (`whole`), or broke off.
    pub fn answered(&self, whole: bool) {
        let next = if whole { State::Answered } else { State::Broken };
        if let (State::Left(incoming), true) = (self.replace(next), whole) {
            self.read_on(incoming);
        }
    }

    fn leave(&self, incoming: Incoming) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Read => *state = State::Left(incoming),
            State::Answered => self.read_on(incoming),
            State::Left(_) | State::Broken => {}
        }
    }

    fn replace(&self, next: State) -> State {
        std::mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), next)
    }

    /// The task ends with its connection at the latest.
    fn read_on(&self, incoming: Incoming) {
        if let Ok(runtime) = Handle::try_current() {
            self.readers.spawn_on(read_on(incoming), &runtime);
        }
    }
}

async fn read_on(mut incoming: Incoming) {
    let mut left = MOST;
    let read = async {
        while let Ok(Some(Ok(frame))) = timeout(PAUSE, incoming.frame()).await {
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            if left == 0 {
                return;
            }
        }
    };
    let _ = timeout(WHOLE, read).await;
}

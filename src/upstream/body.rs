//! The one body type: of requests to backends and of answers to clients, streamed, never collected.
//!
//! A frame is read only when the other side takes it, so a slow reader slows the writer and memory stays
//! constant. An end that was not the real end is always an error, never a clean end: hyper then breaks
//! the connection off, which is the only way HTTP/1.1 has to say so.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::hygiene::{self, Reserved};
use super::lease::Lease;
use super::leftover::Arriving;
use super::progress::{Credit, Phase, Stall, Upload};
use crate::model::problem::Problem;
use crate::observe::metrics::labels::Cut;

/// A body on its way through. What streams is boxed: request and answer are moved many times before they are sent, and most
/// have little behind their heads.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes of our own.
    Full(Bytes),
    /// What a client sends.
    Client(Box<ClientBody>),
    /// What a backend answers; holds its connection until the end was read.
    Upstream(Box<UpstreamBody>),
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client sent more than the route takes.
    #[error("the request body is longer than allowed")]
    TooLarge,
    /// The client stopped sending.
    #[error("the client sent nothing for too long")]
    ClientStalled,
    /// The client sent less than it must.
    #[error("the client sent too slowly")]
    ClientSlow,
    /// The client's connection or stream broke.
    #[error("the client's body broke off")]
    ClientLost(#[source] hyper::Error),
    /// The backend stopped sending.
    #[error("the backend sent nothing for too long")]
    BackendStalled,
    /// The backend's answer broke off or was no longer HTTP.
    #[error("the backend's answer broke off")]
    BackendLost(#[source] hyper::Error),
    /// The answer was given up, and the rest of the request with it.
    #[error("nobody waits for the answer any more")]
    Abandoned,
    /// Whoever asked may no longer have the rest.
    #[error("what let the request in was revoked")]
    Revoked,
    /// The gateway stops.
    #[error("the gateway stops")]
    Drained,
    /// The request as a whole took longer than it may.
    #[error("the request took longer than it may")]
    Overdue,
    /// The backend's answer ended before the length it announced.
    #[error("the backend's answer is shorter than announced")]
    Truncated,
}

impl BodyError {
    /// What a client is told whose request's body failed so.
    pub(super) const fn problem(&self) -> Problem {
        match self {
            Self::TooLarge => Problem::PayloadTooLarge,
            Self::ClientStalled => Problem::RequestTimeout,
            Self::ClientSlow => Problem::RequestTooSlow,
            _ => Problem::MalformedRequest("the body ended too early"),
        }
    }

    /// Why an answer was broken off that ended so.
    pub const fn cut(&self) -> Cut {
        match self {
            Self::BackendStalled => Cut::BackendStalled,
            Self::BackendLost(_) | Self::Truncated => Cut::BackendLost,
            Self::Overdue => Cut::Overdue,
            Self::Revoked => Cut::Revoked,
            Self::Drained => Cut::Drained,
            Self::TooLarge | Self::ClientStalled | Self::ClientSlow | Self::ClientLost(_) | Self::Abandoned => {
                Cut::RequestBody
            }
        }
    }
}

impl Body {
    /// The body of a client's request: at most `max` bytes, with a byte at least every `idle`. Trailers are
    /// left out (RFC 9110 section 6.5.1 allows it), unless [`Body::admit_trailers`] says otherwise.
    pub fn client(incoming: impl Into<Arriving>, max: u64, idle: Duration) -> Result<Self, Problem> {
        let incoming = incoming.into();
        Self::fits(incoming.size_hint().lower(), max)?;
        if incoming.is_end_stream() {
            return Ok(Self::Empty);
        }
        let (stall, credit) = (Stall::new(idle), Credit::new(idle));
        Ok(Self::Client(Box::new(ClientBody {
            incoming,
            left: max,
            stall,
            credit,
            upload: None,
            trailers: None,
            received: None,
        })))
    }

    /// Lets the client's trailers through, without what only the gateway may say (`reserved`), what frames or routes a
    /// message, and credentials: no backend should learn from a trailer who is asking.
    /// Only HTTP/2 carries them on: towards HTTP/1.1 hyper writes those that a `Trailer` field announces, and
    /// [`hygiene::forward`] has removed that.
    pub fn admit_trailers(&mut self, reserved: &Arc<Reserved>) {
        if let Self::Client(body) = self {
            body.trailers = Some(Arc::clone(reserved));
        }
    }

    /// Adds the bytes that the client sends to `received` as they come, also those beyond what it may send.
    pub fn count_into(&mut self, received: &Arc<AtomicU64>) {
        if let Self::Client(body) = self {
            body.received = Some(Arc::clone(received));
        }
    }

    /// Asks the client for `rate` bytes a second, 0 for none, of the time for which it is waited for. It may be behind by
    /// as much as it may be silent.
    pub fn at_least(&mut self, rate: u64) {
        if let Self::Client(body) = self {
            body.credit.ask(rate);
        }
    }

    /// Whether a body that is announced with `length` bytes may come at all.
    pub fn fits(length: u64, max: u64) -> Result<(), Problem> {
        if length > max { Err(Problem::PayloadTooLarge) } else { Ok(()) }
    }

    /// From here on the body reports how far it has come; `None` when there is nothing to stream.
    pub(super) fn watch(&mut self) -> Option<Arc<Upload>> {
        let Self::Client(body) = self else { return None };
        Some(Arc::clone(body.upload.get_or_insert_with(Upload::begin)))
    }

    /// What follows an answer's head; `due`: when it must have ended.
    pub(super) fn upstream(
        incoming: Incoming,
        lease: Lease,
        due: Option<Instant>,
        upload: Option<Arc<Upload>>,
    ) -> Self {
        if incoming.is_end_stream() {
            lease.finish();
            return Self::Empty;
        }
        let stall = Stall::new(lease.settle);
        let overdue = due.map(|due| Box::pin(tokio::time::sleep_until(due)));
        Self::Upstream(Box::new(UpstreamBody { incoming, lease: Some(lease), stall, overdue, upload }))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Body::Empty",
            Self::Full(_) => "Body::Full",
            Self::Client(_) => "Body::Client",
            Self::Upstream(_) => "Body::Upstream",
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        match body {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *body = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Client(client) => client.poll(cx),
            Self::Upstream(upstream) => upstream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Client(client) => client.incoming.is_end_stream(),
            Self::Upstream(upstream) => upstream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Client(client) => client.incoming.size_hint(),
            Self::Upstream(upstream) => upstream.incoming.size_hint(),
        }
    }
}

/// What a client sends.
pub struct ClientBody {
    incoming: Arriving,
    left: u64,
    stall: Stall,
    credit: Credit,
    upload: Option<Arc<Upload>>,
    /// Whether trailers pass, and what is taken out of them.
    trailers: Option<Arc<Reserved>>,
    /// Where its bytes are counted.
    received: Option<Arc<AtomicU64>>,
}

impl ClientBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return self.fail(BodyError::ClientLost(error)),
            Poll::Ready(None) => {
                self.note(Phase::Done);
                return Poll::Ready(None);
            }
            Poll::Pending => {
                self.note(Phase::Waiting);
                if self.upload.as_ref().is_some_and(|upload| upload.is_abandoned(cx)) {
                    return self.fail(BodyError::Abandoned);
                }
                self.stall.limit_to(self.credit.wait(Instant::now));
                return match self.stall.poll(cx) {
                    Poll::Ready(()) if self.credit.is_short() => self.fail(BodyError::ClientSlow),
                    Poll::Ready(()) => self.fail(BodyError::ClientStalled),
                    Poll::Pending => Poll::Pending,
                };
            }
        };
        self.stall.moved();
        self.credit.earn(frame.data_ref().map_or(0, |data| data.len() as u64), Instant::now);
        // A trailer section is the end of the body and the only frame beside data.
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(last) => {
                self.note(Phase::Done);
                let (Some(reserved), Ok(mut trailers)) = (&self.trailers, last.into_trailers()) else {
                    return Poll::Ready(None);
                };
                hygiene::clean_request_trailers(&mut trailers, reserved);
                return Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))));
            }
        };
        if let Some(received) = &self.received {
            received.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        match self.left.checked_sub(data.len() as u64) {
            Some(left) => self.left = left,
            None => return self.fail(BodyError::TooLarge),
        }
        self.note(if self.incoming.is_end_stream() { Phase::Done } else { Phase::Sending });
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn note(&self, phase: Phase) {
        if let Some(upload) = &self.upload {
            upload.note(phase);
        }
    }

    /// Tells whoever waits for the answer too: over HTTP/2 the error of a body is not that of its request.
    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(upload) = &self.upload {
            upload.fail(error.problem());
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        self.note(Phase::Done);
    }
}

/// What a backend answers.
pub struct UpstreamBody {
    incoming: Incoming,
    /// Given back when the end was read; dropped before that, it closes the backend's connection.
    lease: Option<Lease>,
    stall: Stall,
    /// When the request as a whole has taken too long.
    overdue: Option<Pin<Box<Sleep>>>,
    /// The request's body, which may still be on its way: a byte of either counts.
    upload: Option<Arc<Upload>>,
}

impl UpstreamBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.overdue.as_mut().is_some_and(|overdue| overdue.as_mut().poll(cx).is_ready()) {
            return self.fail(BodyError::Overdue);
        }
        let mut frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return self.fail(BodyError::BackendLost(error)),
            // hyper reports a short body itself; this holds even if it should once not.
            Poll::Ready(None) if self.incoming.size_hint().lower() > 0 => return self.fail(BodyError::Truncated),
            Poll::Ready(None) => {
                self.finish();
                return Poll::Ready(None);
            }
            Poll::Pending => return self.wait(cx),
        };
        self.stall.moved();
        if let Some(trailers) = frame.trailers_mut() {
            hygiene::clean_trailers(trailers);
            self.finish();
        } else if self.incoming.is_end_stream() {
            self.finish();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while self.stall.poll(cx).is_ready() {
            if !self.upload.as_ref().is_some_and(|upload| upload.is_moving(self.stall.limit())) {
                return self.fail(BodyError::BackendStalled);
            }
            self.stall.moved();
        }
        Poll::Pending
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.lease = None;
        if let Some(upload) = &self.upload {
            upload.abandon();
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // An answer that was not read to its end; one that was may come before its request has ended.
        if let (Some(_), Some(upload)) = (&self.lease, &self.upload) {
            upload.abandon();
        }
    }
}

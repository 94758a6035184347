//! One request and the head of its answer, on one connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::Either;
use http::header::{CONNECTION, HeaderName};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::body::Body;
use super::error::SendError;
use super::hygiene::tokens;
use super::lease::Link;
use super::progress::{Alarm, Patience, Upload, Verdict};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// An exchange that came to nothing. Boxed where it is returned: beside it every answer would take its room.
pub(super) struct Lost {
    pub(super) error: SendError,
    /// The request, where not a byte of it was written.
    pub(super) unsent: Option<Request<Body>>,
    /// For how long it was the backend's turn, where the time for it all was over.
    pub(super) had: Duration,
}

/// Sends what is to be sent, at once; resolves to the answer, or to why there is none.
pub(super) fn send(
    link: &mut Link,
    request: Option<Request<Body>>,
) -> Result<impl Future<Output = Sent> + use<>, SendError> {
    let request = request.ok_or(SendError::Unsendable("it was sent before"))?;
    Ok(match link {
        Link::Alone(live) => {
            live.ahead.begins();
            Either::Left(live.sender.try_send_request(request))
        }
        Link::Joint(stream) => Either::Right(stream.sender.try_send_request(request)),
    })
}

/// What hyper says of a request.
type Sent = Result<Response<Incoming>, TrySendError<Request<Body>>>;

/// Waits for the head of the answer. On an error, or when dropped, the caller drops the connection too.
pub(super) async fn head(
    mut answer: Pin<&mut impl Future<Output = Sent>>,
    alarm: &mut Alarm,
    upload: Option<&Arc<Upload>>,
    patience: Patience,
) -> Result<Response<Incoming>, Box<Lost>> {
    let first = if upload.is_some() { patience.response.min(patience.idle) } else { patience.response };
    let began = Instant::now();
    let overdue = |due: Instant| patience.due.map_or(due, |whole| whole.min(due));
    let mut due = overdue(began + first);
    let error = loop {
        let told = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => alarm.poll(due, cx).map(|()| None),
        });
        if let Some(answer) = told.await {
            return answer.map_err(|mut error| {
                let unsent = error.take_message();
                let error = match (error.into_error(), upload.and_then(|upload| upload.failure())) {
                    (source, Some(problem)) => SendError::RequestBody { problem: problem.clone(), source },
                    (source, None) => source.into(),
                };
                Box::new(Lost { error, unsent, had: Duration::ZERO })
            });
        }
        let now = Instant::now();
        if patience.due.is_some_and(|whole| whole <= now) {
            break SendError::Overdue;
        }
        match upload.map_or(Verdict::Unanswered, |upload| upload.verdict(patience, now)) {
            Verdict::Until(when) => due = overdue(when),
            Verdict::Stalled => break SendError::IdleTimeout,
            Verdict::Unanswered => break SendError::ResponseTimeout,
        }
    };
    let since = upload.map_or(Some(began), |upload| upload.backends());
    let had = since.map_or(Duration::ZERO, |since| Instant::now().saturating_duration_since(since.max(began)));
    Err(Box::new(Lost { error, unsent: None, had }))
}

/// Whether a method changes nothing by being repeated (RFC 9110 section 9.2.2).
pub(super) fn is_repeatable(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// A second copy of a request, where it has no body that would be used up.
pub(super) fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    if !matches!(request.body(), Body::Empty) {
        return None;
    }
    let mut copy = Request::new(Body::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

/// How long the connection may stay idle after this answer; `None`: it may not be used again.
pub(super) fn lifetime(answer: &Response<Incoming>, most: Duration) -> Option<Duration> {
    // On a connection that has answered in HTTP/1.0, hyper would leave out the body of any request whose
    // length is not known.
    let closes = tokens(answer.headers(), &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"close"));
    if answer.version() != Version::HTTP_11 || closes {
        return None;
    }
    let mut hints = tokens(answer.headers(), &KEEP_ALIVE).filter_map(|hint| {
        let (name, value) = str::from_utf8(hint).ok()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse::<u64>().ok())?
    });
    // A second early, so that we let go before the backend does.
    hints.next().map_or(Some(most), |secs| secs.checked_sub(1).map(|secs| most.min(Duration::from_secs(secs))))
}

//! The end of a request: counted and logged when its answer's last byte is out, not when its head is, or when its client
//! has left.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::{Frame, SizeHint};

use super::connection::Connection;
use super::exchange::Exchange;
use super::grpc;
use super::standing::Standing;
use super::{streams, trace, tunnel};
use crate::gateway::Gateway;
use crate::model::principal;
use crate::model::problem::ProblemKind;
use crate::model::refusal::Fault;
use crate::observe::access::AccessLine;
use crate::observe::metrics::labels::{Cut, TunnelEnd, UpstreamOutcome};
use crate::observe::metrics::{Decision, Finished};
use crate::upstream::body::{Body, BodyError};
use crate::upstream::tunnel::Ended;

/// Bytes from which an answer is a long one.
const LONG: u64 = 256 * 1024;
/// What stands for the status where nobody waited for one; never sent. nginx writes the same.
const LEFT: u16 = 499;

/// What a refused client was told, and why.
#[derive(Debug)]
pub struct Told {
    /// The problem.
    pub kind: ProblemKind,
    /// What went wrong on our side.
    pub fault: Option<Fault>,
}

/// An answer's body that tells when it is over, however it ends.
pub struct Observed {
    body: Body,
    /// Closed when this is dropped; `None` where a WebSocket has taken it on.
    record: Option<Box<Record>>,
    /// Resolves when the client can no longer have the rest; made when a forwarded answer turns out to last.
    lost: Option<Pin<Box<dyn Future<Output = Lost> + Send>>>,
}

/// Why the rest of an answer is not for its client any more, and what a call of gRPC is told of it.
struct Lost(BodyError, ProblemKind);

/// A request until it is over: counted and logged when this is dropped.
pub struct Record {
    /// The request.
    pub exchange: Exchange,
    /// What a refused client was told.
    pub told: Option<Told>,
    /// `None`: it has no answer yet.
    status: Option<u16>,
    /// Whether all of its answer was handed over.
    whole: bool,
    sent: u64,
    /// How long its WebSocket took to open: what counts as its duration, since a WebSocket may last for days.
    opening: Option<Duration>,
    end: Option<TunnelEnd>,
    /// Why its answer was broken off.
    cut: Option<Cut>,
    /// Whether its answer is that of a call of gRPC, whose trailers say how it ended.
    call: bool,
}

/// Wraps the answer so that its end is seen. One that opens a WebSocket is not the end: the record goes with it.
pub fn observe(mut record: Box<Record>, answer: Response<Body>, told: Option<Told>) -> Response<Observed> {
    let (status, tunnel) = (answer.status(), record.exchange.tunnel.take());
    record.status = Some(status.as_u16());
    record.told = told;
    // hyper does not look at a body that the client is not to see.
    let unseen = record.exchange.method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    record.whole = unseen || http_body::Body::is_end_stream(answer.body());
    record.call = record.exchange.grpc && grpc::is_call(answer.headers());
    let Some(tunnel) = tunnel else {
        return answer.map(|body| Observed { body, record: Some(record), lost: None });
    };
    record.opening = Some(record.exchange.took());
    record.exchange.held = record.exchange.site.as_ref().map(|live| live.metrics.tunnel_opened());
    tunnel::spawn(tunnel, record);
    answer.map(|body| Observed { body, record: None, lost: None })
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, record: Some(record), lost } = &mut *self else {
            return Pin::new(&mut self.body).poll_frame(context);
        };
        // Also while the backend keeps talking: a stream that never pauses must end as well.
        if let Some(lost) = lost
            && let Poll::Ready(why) = lost.as_mut().poll(context)
        {
            return record.cut_off(why);
        }
        let polled = Pin::new(&mut *body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                record.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                record.whole = frame.is_trailers() || body.is_end_stream();
            }
            Poll::Ready(Some(Err(error))) => record.cut = Some(error.cut()),
            Poll::Ready(None) => record.whole = true,
            Poll::Pending => {}
        }
        // One that keeps its client waiting, and one that never does but is long.
        let lasts = polled.is_pending() || record.sent >= LONG;
        if lasts && lost.is_none() && record.exchange.upstream.is_some() {
            let mut future: Pin<Box<dyn Future<Output = Lost> + Send>> = Box::pin(record.lost());
            // Polled once now, so that its timer wakes this task.
            if let Poll::Ready(why) = future.as_mut().poll(context) {
                return record.cut_off(why);
            }
            *lost = Some(future);
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

impl Record {
    /// Of a request that has come.
    pub fn begin(gateway: &Arc<Gateway>, connection: &Arc<Connection>, method: Method) -> Box<Self> {
        Box::new(Self {
            exchange: Exchange::begin(gateway, connection, method),
            told: None,
            status: None,
            whole: false,
            sent: 0,
            opening: None,
            end: None,
            cut: None,
            call: false,
        })
    }

    /// Why its client has not got all of its answer, where nothing else says so.
    fn missed(&self) -> Option<Cut> {
        if self.whole || self.opening.is_some() {
            return None;
        }
        Some(match () {
            () if self.exchange.gateway.hang_up.is_cancelled() => Cut::Drained,
            () if streams::is_stalled() || self.exchange.connection.is_stalled() => Cut::ClientStalled,
            () => Cut::ClientLeft,
        })
    }

    /// Resolves when the client may no longer have the rest of its answer, and when the gateway has stopped waiting for
    /// it to end.
    fn lost(&self) -> impl Future<Output = Lost> + Send + use<> {
        let stop = self.exchange.gateway.hang_up.clone();
        let exchange = &self.exchange;
        let hangs_on_something = exchange.principal.is_some() || exchange.connection.vouched.is_some();
        let standing = hangs_on_something.then(|| Standing::of(exchange));
        async move {
            let revoked = async {
                match standing {
                    Some(standing) => standing.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                refusal = revoked => Lost(BodyError::Revoked, refusal.problem.kind()),
                () = stop.cancelled() => Lost(BodyError::Drained, ProblemKind::Unavailable),
            }
        }
    }

    /// Breaks the answer off, in its protocol's manner: no last chunk, a stream that is reset, and a call of gRPC is told
    /// what the same call would be told now, or that it may be tried elsewhere.
    fn cut_off(&mut self, Lost(why, kind): Lost) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.cut.replace(why.cut()).is_some() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(if self.call { Ok(Frame::trailers(grpc::end(kind))) } else { Err(why) }))
    }

    /// What went through its WebSocket.
    pub fn ended(&mut self, ended: Ended) {
        self.exchange.received.fetch_add(ended.to_backend, Ordering::Relaxed);
        self.sent += ended.to_client;
        self.end = Some(ended.why);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let cut = self.cut.or_else(|| self.missed());
        let Self { exchange, told, status, sent, opening, end, .. } = self;
        let told = told.as_ref();
        let took = exchange.took();
        let decision = match told {
            _ if status.is_none() => Decision::Left,
            Some(told) => Decision::Refused(told.kind),
            None if exchange.upstream.is_some() => Decision::Forwarded,
            None => Decision::Native,
        };
        if status.is_none() {
            trace::answered(exchange, UpstreamOutcome::Cancelled, None);
        }
        let received = exchange.received.load(Ordering::Relaxed);
        let metrics = exchange.site.as_ref().map_or(&exchange.gateway.no_site, |live| &live.metrics);
        let (took_to_answer, sent) = (opening.unwrap_or(took), *sent);
        let (method, status) = (&exchange.method, status.unwrap_or(LEFT));
        metrics.finished(&Finished { method, status, decision, took: took_to_answer, received, sent });
        if let Some(end) = *end {
            metrics.tunnel_ended(end);
        }
        if let Some(cut) = cut {
            metrics.cut(cut);
        }
        let fault = told.and_then(|told| told.fault.as_ref());
        if let Some(fault) = fault {
            tracing::error!(
                request_id = exchange.request_id(),
                error = fault as &dyn std::error::Error,
                "a request failed on our side"
            );
        }
        if exchange.gateway.logs.wants_access() {
            log(exchange, status, told, (took, *end, cut), (received, sent));
        }
        trace::end(exchange, &trace::Ending { status, told, took, tunnel: *end, cut });
    }
}

fn log(
    exchange: &Exchange,
    status: u16,
    told: Option<&Told>,
    (took, tunnel, cut): (Duration, Option<TunnelEnd>, Option<Cut>),
    (received, sent): (u64, u64),
) {
    let principal = exchange.principal.as_deref();
    let (session, key) = match principal.map(|principal| &principal.method) {
        Some(principal::Method::Token { session, .. }) => (Some(*session), None),
        Some(principal::Method::Key(key)) => (None, Some(key.id)),
        None => (None, None),
    };
    let tls = exchange.connection.tls;
    exchange.gateway.logs.access(&AccessLine {
        time: exchange.now.wall,
        request_id: exchange.request_id(),
        trace: exchange.trace.as_ref().map(|trace| trace.context.trace),
        site: exchange.site.as_ref().map(|live| live.site.name.as_str()),
        client: exchange.client,
        method: exchange.method.as_str(),
        path: &exchange.path,
        route: exchange.route.as_deref(),
        status,
        problem: told.map(|told| told.kind),
        shadow: &exchange.shadow,
        user: principal.map(|principal| principal.account.user.id),
        org: principal.map(|principal| principal.account.org.id),
        key,
        session,
        auth: principal.map(|principal| principal.method.name()),
        took,
        received,
        sent,
        upstream: exchange.upstream.as_deref(),
        server: exchange.server.as_deref(),
        tunnel,
        cut,
        tls: tls.map(|tls| tls.version),
        alpn: tls.map(|tls| if tls.http2 { "h2" } else { "http/1.1" }),
        certificate: exchange.connection.fingerprint(),
        fault: told.and_then(|told| told.fault.as_ref()),
    });
}

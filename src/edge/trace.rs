//! Which trace a request belongs to, what the backend is told of it (W3C Trace Context), and what is recorded of it.
//!
//! Only where `[tracing]` is configured; else `traceparent` and `tracestate` are headers like others. Whoever is not
//! trusted begins a trace here, whatever they sent: else a stranger could have everything recorded that they ask, or write
//! themselves into somebody else's trace. What is sent on is ours in any case: one `traceparent`, and a `tracestate`
//! only with a trace that was continued.
//!
//! A recorded request is handed to [`crate::observe::spans`] when it is over. Of one that is not, nothing is kept but its
//! place in the trace.

use std::borrow::Cow;
use std::time::Duration;

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};

use super::exchange::Exchange;
use super::observe::Told;
use crate::model::time::Steady;
use crate::observe::metrics::labels::{Cut, TunnelEnd, UpstreamOutcome};
use crate::observe::spans::{self, Asked, Traced};
use crate::rules::trace::{self, Context, SpanId, Trust};
use crate::upstream::Address;
use crate::upstream::body::Body;
use crate::upstream::trail::Trail;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request's place in its trace.
#[derive(Debug)]
pub struct Trace {
    /// The trace, and the operation in it that the backend's work is a part of.
    pub context: Context,
    /// The operation elsewhere that this one is a part of; `None`: the trace begins here.
    pub parent: Option<SpanId>,
    /// What is noted of it; `None`: it is not recorded.
    recording: Option<Box<Recording>>,
}

/// What is noted of a recorded request before it is over.
#[derive(Debug)]
struct Recording {
    span: SpanId,
    host: Option<String>,
    version: Version,
    asking: Option<Asking>,
    /// When a backend was asked, and what it came to.
    asked: Option<(Steady, Asked)>,
}

/// A backend that is being asked.
#[derive(Debug)]
struct Asking {
    trail: Trail,
    since: Steady,
}

/// How a request came to its end.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// The answer's status.
    pub status: u16,
    /// What a refused client was told.
    pub told: Option<&'a Told>,
    /// Until the answer's last byte, or its WebSocket's.
    pub took: Duration,
    /// How its WebSocket ended.
    pub tunnel: Option<TunnelEnd>,
    /// Why its answer was broken off.
    pub cut: Option<Cut>,
}

/// Finds the request's place, once it is known who sent it.
pub fn begin(exchange: &mut Exchange, head: &Parts) {
    let Some(tracing) = &exchange.live.snapshot.tracing else { return };
    let believed = match tracing.trust {
        Trust::Always => true,
        Trust::TrustedProxies => {
            !exchange.connection.held.unnamed && exchange.live.is_trusted(exchange.connection.peer.ip())
        }
        Trust::Never => false,
    };
    let (ids, records) = (&exchange.gateway.trace_ids, exchange.gateway.spans.is_some());
    let lines = || head.headers.get_all(&TRACEPARENT).iter().map(HeaderValue::as_bytes);
    let continued = believed.then(lines).and_then(trace::parent);
    let context = match continued {
        Some(context) if records => Context { span: ids.span(), ..context },
        // Nothing is recorded here: the span that asks stays the parent of what follows.
        Some(context) => context,
        None => {
            let trace = ids.trace();
            Context { trace, span: ids.span(), sampled: tracing.ratio.takes(trace), random: true }
        }
    };
    let recording = (records && context.sampled && !exchange.imagined).then(|| {
        Box::new(Recording { span: ids.span(), host: host(head), version: head.version, asking: None, asked: None })
    });
    exchange.trace = Some(Trace { context, parent: continued.map(|context| context.span), recording });
}

/// The host that is asked for, without a port.
fn host(head: &Parts) -> Option<String> {
    let header = || Authority::try_from(head.headers.get(HOST)?.as_bytes()).ok();
    head.uri.authority().cloned().or_else(header).map(|authority| authority.host().to_owned())
}

/// Tells the backend, in place of whatever the client said.
pub fn tell(exchange: &Exchange, headers: &mut HeaderMap) {
    let Some(trace) = &exchange.trace else { return };
    let lines = headers.get_all(&TRACESTATE).iter().map(HeaderValue::as_bytes);
    match trace.parent.and_then(|_| trace::state(lines)) {
        Some(Cow::Borrowed(_)) => {}
        Some(Cow::Owned(state)) => {
            let state = HeaderValue::from_bytes(&state).expect("visible characters and blanks");
            headers.insert(&TRACESTATE, state);
        }
        None => {
            headers.remove(&TRACESTATE);
        }
    }
    let own = HeaderValue::from_bytes(&trace.context.header()).expect("hexadecimal digits and hyphens");
    headers.insert(&TRACEPARENT, own);
}

/// Notes that a backend is asked now.
pub fn ask(exchange: &mut Exchange, request: &mut Request<Body>) {
    if !is_recorded(exchange) {
        return;
    }
    let since = exchange.gateway.clock.now().steady;
    if let Some(recording) = exchange.trace.as_mut().and_then(|trace| trace.recording.as_mut()) {
        let trail = Trail::default();
        request.extensions_mut().insert(trail.clone());
        recording.asking = Some(Asking { trail, since });
    }
}

/// Notes what the backend has answered, or that it has not.
pub fn answered(exchange: &mut Exchange, outcome: UpstreamOutcome, status: Option<StatusCode>) {
    if !is_recorded(exchange) {
        return;
    }
    let now = exchange.gateway.clock.now().steady;
    let (Some(trace), Some(upstream)) = (&mut exchange.trace, &exchange.upstream) else { return };
    let Some(recording) = &mut trace.recording else { return };
    let Some(Asking { trail, since }) = recording.asking.take() else { return };
    let went = trail.went();
    let asked = Asked {
        span: trace.context.span,
        // Known at the end: an agent's request begins anew with its first message.
        after: Duration::ZERO,
        took: now.since(since),
        upstream: upstream.clone(),
        server: went.server.map(|server| shown(&server)),
        resends: went.tries.saturating_sub(1),
        outcome,
        status: status.map(|status| status.as_u16()),
    };
    recording.asked = Some((since, asked));
}

fn is_recorded(exchange: &Exchange) -> bool {
    exchange.trace.as_ref().is_some_and(|trace| trace.recording.is_some())
}

/// A server as its host and port, or the path of its socket.
fn shown(server: &Address) -> (String, Option<u16>) {
    match server {
        Address::Unix(path) => (path.display().to_string(), None),
        Address::Url(uri) => {
            let port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
            (uri.host().unwrap_or_default().to_owned(), Some(uri.port_u16().unwrap_or(port)))
        }
    }
}

/// Hands in what was recorded, if anything was.
pub fn end(exchange: &mut Exchange, ending: &Ending<'_>) {
    let Some(trace) = &mut exchange.trace else { return };
    let (Some(recording), Some(queue)) = (trace.recording.take(), &exchange.gateway.spans) else { return };
    let Recording { span, host, version, asked, .. } = *recording;
    let site = exchange.site.as_ref();
    let Ending { status, told, took, tunnel, cut } = *ending;
    queue.push(Traced {
        trace: trace.context.trace,
        span,
        parent: trace.parent,
        random: trace.context.random,
        began: exchange.now.wall,
        took,
        request_id: exchange.request_id().to_owned(),
        method: spans::method(&exchange.method),
        scheme: exchange.way.scheme,
        version,
        // A host that no site has is whatever somebody wrote.
        host: host.filter(|_| site.is_some()),
        path: spans::path(&exchange.path),
        client: exchange.client,
        site: site.map(|live| live.site.name.clone()),
        route: exchange.route.clone(),
        auth: exchange.principal.as_ref().map(|principal| principal.method.name()),
        status,
        problem: told.map(|told| told.kind),
        faulty: told.is_some_and(|told| told.fault.is_some()),
        cut,
        tunnel,
        backend: asked.map(|(since, asked)| Asked { after: since.since(exchange.now.steady), ..asked }),
    });
}

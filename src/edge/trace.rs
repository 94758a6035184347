//! Which trace a request belongs to, and what the backend is told of it (W3C Trace Context).
//!
//! Only where `[tracing]` is configured; else `traceparent` and `tracestate` are headers like others. Whoever is not
//! trusted begins a trace here, whatever they sent: else a stranger could have everything recorded that they ask, or write
//! themselves into somebody else's trace. What is sent on is ours in any case: one `traceparent`, and a `tracestate`
//! only with a trace that was continued.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::exchange::Exchange;
use crate::rules::trace::{self, Context, SpanId, Trust};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request's place in its trace.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// The trace, and the operation in it that the backend's work is a part of.
    pub context: Context,
    /// The operation elsewhere that this one is a part of; `None`: the trace begins here.
    pub parent: Option<SpanId>,
}

/// Finds the request's place, once it is known who sent it.
pub fn begin(exchange: &mut Exchange, headers: &HeaderMap) {
    let Some(tracing) = &exchange.live.snapshot.tracing else { return };
    let believed = match tracing.trust {
        Trust::Always => true,
        Trust::TrustedProxies => exchange.live.is_trusted(exchange.connection.peer.ip()),
        Trust::Never => false,
    };
    let lines = || headers.get_all(&TRACEPARENT).iter().map(HeaderValue::as_bytes);
    let begun = || {
        let (ids, ratio) = (&exchange.gateway.trace_ids, tracing.ratio);
        let trace = ids.trace();
        Context { trace, span: ids.span(), sampled: ratio.takes(trace), random: true }
    };
    let continued = believed.then(lines).and_then(trace::parent);
    // Nothing is recorded here: the span that asks stays the parent of what follows.
    let parent = continued.map(|context| context.span);
    exchange.trace = Some(Trace { context: continued.unwrap_or_else(begun), parent });
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

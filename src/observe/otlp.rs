//! Spans as OTLP writes them (OpenTelemetry Protocol 1, protobuf over HTTP), and what a collector answers.
//!
//! The messages are the crate's; here is which fact becomes which attribute, by the semantic conventions for HTTP, and
//! under `tollgate.` what they have no name for. The sending is `app`'s.

use std::time::Duration;

use http::Version;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};
use prost::Message;

use super::metrics::labels::{Cut, TunnelEnd};
use super::spans::{Asked, Traced};
use crate::model::problem::ProblemKind;
use crate::model::time::Timestamp;
use crate::rules::trace::SpanId;

/// A share of an answer that says how many spans were refused is never longer, in bytes.
pub const LONGEST_ANSWER: usize = 64 * 1024;

/// What is true of every span: the service's name and the like.
pub type Attributes = Vec<(String, String)>;

/// A batch as the body of a request to `/v1/traces`. Takes about a microsecond a span: not on a worker.
pub fn encode(resource: &Attributes, batch: &[Traced]) -> Vec<u8> {
    let spans =
        batch.iter().flat_map(|traced| [Some(server(traced)), traced.backend.as_ref().map(|it| client(traced, it))]);
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let attributes = resource.iter().map(|(name, value)| attribute(name, text(value.clone()))).collect();
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: spans.flatten().collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    request.encode_to_vec()
}

/// How many spans a collector has refused that took the others; 0 where it does not say so.
pub fn rejected(answer: &[u8]) -> usize {
    let told = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
    told.and_then(|told| usize::try_from(told.rejected_spans).ok()).unwrap_or(0)
}

/// The request as its client sees it.
fn server(traced: &Traced) -> Span {
    let pattern = traced.route.as_deref().map(|route| route.split_once(' ').map_or(route, |(_, path)| path));
    let method = traced.method;
    let name = pattern.map_or_else(|| method.to_owned(), |pattern| format!("{method} {pattern}"));
    let mut attributes = vec![
        attribute("http.request.method", text(method)),
        attribute("http.response.status_code", number(traced.status)),
        attribute("url.scheme", text(traced.scheme)),
        attribute("network.protocol.version", text(version(traced.version))),
        attribute("client.address", text(traced.client.to_string())),
        attribute("tollgate.request_id", text(&*traced.request_id)),
    ];
    let broken = traced.cut.filter(|cut| !matches!(cut, Cut::Revoked | Cut::RequestBody));
    let ours = traced.problem.filter(|problem| problem.default_status() >= 500);
    let failed = traced.status >= 500 || traced.faulty || broken.is_some() || ours.is_some();
    let error = match (broken, traced.problem) {
        _ if !failed => None,
        (Some(cut), _) => Some(cut.name().to_owned()),
        (None, Some(problem)) => Some(problem.name().to_owned()),
        (None, None) => Some(traced.status.to_string()),
    };
    let path = Some(&*traced.path).filter(|path| !path.is_empty());
    for (name, value) in [
        ("url.path", path),
        ("server.address", traced.host.as_deref()),
        ("http.route", traced.route.as_deref()),
        ("tollgate.site", traced.site.as_deref()),
        ("tollgate.auth", traced.auth),
        ("tollgate.problem", traced.problem.map(ProblemKind::name)),
        ("tollgate.cut", traced.cut.map(Cut::name)),
        ("tollgate.tunnel", traced.tunnel.map(TunnelEnd::name)),
        ("error.type", error.as_deref()),
    ] {
        attributes.extend(value.map(|value| attribute(name, text(value))));
    }
    let mut span = span(traced, traced.span, traced.parent, (Duration::ZERO, traced.took));
    // Whether the parent is elsewhere: it always is, where there is one.
    span.flags |= SpanFlags::ContextHasIsRemoteMask as u32;
    if traced.parent.is_some() {
        span.flags |= SpanFlags::ContextIsRemoteMask as u32;
    }
    Span { name, kind: SpanKind::Server.into(), attributes, status: status(failed), ..span }
}

/// The request as its backend sees it. It ends with the head of the answer: how long a client takes to read the rest is in
/// the other.
fn client(traced: &Traced, asked: &Asked) -> Span {
    let method = traced.method;
    let mut attributes =
        vec![attribute("http.request.method", text(method)), attribute("tollgate.upstream", text(&*asked.upstream))];
    // A refusal that the backend means for the client is none of its failures.
    let failed = asked.status.is_none_or(|status| status >= 500);
    attributes.extend(asked.status.map(|status| attribute("http.response.status_code", number(status))));
    if let Some((address, port)) = &asked.server {
        attributes.push(attribute("server.address", text(&**address)));
        attributes.extend(port.map(|port| attribute("server.port", number(port))));
    }
    if asked.resends > 0 {
        attributes.push(attribute("http.request.resend_count", number(asked.resends)));
    }
    if failed {
        let error = asked.status.map_or_else(|| asked.outcome.name().to_owned(), |status| status.to_string());
        attributes.push(attribute("error.type", text(error)));
    }
    let mut span = span(traced, asked.span, Some(traced.span), (asked.after, asked.after + asked.took));
    span.flags |= SpanFlags::ContextHasIsRemoteMask as u32;
    Span { name: method.to_owned(), kind: SpanKind::Client.into(), attributes, status: status(failed), ..span }
}

fn span(traced: &Traced, id: SpanId, parent: Option<SpanId>, (from, to): (Duration, Duration)) -> Span {
    Span {
        trace_id: traced.trace.bytes().to_vec(),
        span_id: id.bytes().to_vec(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.bytes().to_vec()),
        flags: 1 | u32::from(traced.random) << 1,
        start_time_unix_nano: nanos(traced.began, from),
        end_time_unix_nano: nanos(traced.began, to),
        ..Span::default()
    }
}

/// The wall clock is read to the millisecond; within a request what the steady clock says is added.
fn nanos(at: Timestamp, after: Duration) -> u64 {
    let at = u64::try_from(at.millis()).unwrap_or(0).saturating_mul(1_000_000);
    at.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX))
}

fn status(failed: bool) -> Option<Status> {
    failed.then(|| Status { code: StatusCode::Error.into(), ..Status::default() })
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(value: impl Into<String>) -> Value {
    Value::StringValue(value.into())
}

fn number(value: impl Into<i64>) -> Value {
    Value::IntValue(value.into())
}

//! The only place that turns a [`Problem`] into an answer, and that adds what every answer carries.

use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use super::cors;
use super::exchange::Exchange;
use super::observe::Told;
use super::{grpc, throttle};
use crate::contract::{AgentRules, Contract, encode};
use crate::model::problem::{Problem, ProblemKind};
use crate::model::refusal::Refusal;
use crate::upstream::body::Body;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Renders a refusal in the product's words; what was refused goes on to the log.
pub async fn refuse(exchange: &mut Exchange, refusal: Refusal) -> (Response<Body>, Option<Told>) {
    let Refusal { problem, fault } = refusal;
    if exchange.rates.is_none()
        && let Some(principal) = exchange.principal.clone()
    {
        exchange.rates = throttle::look(exchange, &principal).await;
    }
    if let (None, Problem::RateLimited { retry_after }, Some(live)) = (exchange.rates, &problem, &exchange.site) {
        // Windows that are nobody's plan: failed sign-ins, failed credentials.
        let limits = &live.site.limits;
        let native =
            exchange.principal.is_none() && exchange.route.as_deref().is_some_and(|route| !route.contains(' '));
        let windows = match native {
            true => &limits.failed_sign_in[..],
            false if exchange.presented => &limits.failed_credentials,
            // No window at all: too many connections at once.
            false => &[],
        };
        exchange.rates = windows.first().map(|window| throttle::Rates::spent(*window, *retry_after));
    }
    let mut answer = if exchange.grpc {
        let message = exchange.site.as_ref().map(|live| encode::message(&live.site.contract, &problem));
        grpc::refusal(problem.kind(), message.as_deref().unwrap_or(problem.kind().default_message()))
    } else {
        in_json(exchange, &problem)
    };
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match &problem {
        Problem::RateLimited { retry_after } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(*retry_after)));
        }
        Problem::MethodNotAllowed(methods) => {
            if let Ok(methods) = HeaderValue::from_str(methods) {
                headers.insert(ALLOW, methods);
            }
        }
        Problem::Unavailable => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    if answer.status() == StatusCode::UNAUTHORIZED {
        let challenge = challenge(exchange, problem.kind());
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    (answer, Some(Told { kind: problem.kind(), fault }))
}

/// Renders the refusal of an agent whose WebSocket was taken already: what it is told in the product's words, and the
/// status that closes the connection (RFC 6455 section 7.4.1 and its registry). The product's own status says that
/// it is for the agent to do something else; 1013, that it may try again; 1011, that we or the backend failed.
pub fn refuse_agent(contract: &Contract, rules: &AgentRules, refusal: Refusal) -> (Vec<u8>, u16, Told) {
    let Refusal { problem, fault } = refusal;
    let status = match problem.kind() {
        ProblemKind::Unavailable | ProblemKind::GatewayTimeout => 1013,
        ProblemKind::BadGateway | ProblemKind::Internal => 1011,
        _ => rules.close_code,
    };
    (rules.refused(contract, &problem), status, Told { kind: problem.kind(), fault })
}

/// The product's own refusal.
fn in_json(exchange: &Exchange, problem: &Problem) -> Response<Body> {
    let rendered = match &exchange.site {
        Some(live) => encode::problem(&live.site.contract, problem),
        None => encode::plain_problem(problem),
    };
    let mut answer = Response::new(Body::from(rendered.body));
    *answer.status_mut() = StatusCode::from_u16(rendered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Adds what every answer carries, a refusal's as well as a backend's.
pub fn complete(exchange: &Exchange, answer: &mut Response<Body>) {
    if let Some(rates) = exchange.rates {
        rates.write(exchange.now, exchange.took(), answer.headers_mut());
    }
    answer.headers_mut().insert(&REQUEST_ID, exchange.request_id.clone());
    if exchange.method == Method::HEAD
        && let Body::Full(bytes) = answer.body()
    {
        // hyper leaves it out over HTTP/1.1 only; over HTTP/2 a body there is an error to clients (curl: 92).
        let length = HeaderValue::from(bytes.len());
        answer.headers_mut().insert(CONTENT_LENGTH, length);
        *answer.body_mut() = Body::Empty;
    }
    cors::complete(exchange, answer.headers_mut());
}

/// RFC 6750 section 3: the scheme always, an error code only where a credential was presented.
fn challenge(exchange: &Exchange, kind: ProblemKind) -> HeaderValue {
    let realm = exchange.site.as_ref().map_or("tollgate", |live| live.site.name.as_str());
    let text = match kind {
        ProblemKind::TokenExpired => {
            format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"The access token expired\"")
        }
        ProblemKind::InvalidToken if exchange.presented => format!("Bearer realm=\"{realm}\", error=\"invalid_token\""),
        _ => format!("Bearer realm=\"{realm}\""),
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Bearer"))
}

/// Rounded up, at least 1: a client that waits this long is not too early (RFC 9110 section 10.2.3).
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

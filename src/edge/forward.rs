//! To the backend and back, streaming both ways.
//!
//! The only caller of `upstream`, and only with a [`ForwardPermit`]. The order matters: what the client's
//! `Connection` header names is deleted first, identity is added after, so that no client can have it deleted.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;

use super::authorize::ForwardPermit;
use super::exchange::Exchange;
use super::standing::Standing;
use super::trace;
use super::tunnel::{self, Tunnel};
use super::{certificate, grpc};
use crate::config::snapshot::Route;
use crate::gateway::{LiveSite, LiveUpstream};
use crate::model::access::Permission;
use crate::model::principal::{Granted, Method, Principal};
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::observe::metrics::labels::UpstreamOutcome;
use crate::rules::split::SplitBy;
use crate::upstream::body::Body;
use crate::upstream::hygiene::{self, Came};
use crate::upstream::leftover::Arriving;
use crate::upstream::tunnel::{Opened, wanted};
use crate::upstream::{Overrides, Protocol, SendError};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header fields that the gateway adds to a request at most, but for those of the configuration.
const OWN: usize = 20;

/// Bytes of body that are under way so shortly that what let them in is not asked about again.
const SOON: u64 = 64 * 1024;

static FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Sends the permitted request on. Its head is lent, so that no future on the way holds room for a copy; its header fields
/// are taken.
pub async fn forward(
    exchange: &mut Exchange,
    permit: &ForwardPermit,
    head: &mut Parts,
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    let live = Arc::clone(exchange.site());
    // `Upgrade` to anything but a WebSocket is a header that is dropped.
    if let Some(client) = head.extensions.remove::<OnUpgrade>()
        && wanted(head)?
    {
        return Box::pin(shake_hands(exchange, permit, head, client)).await;
    }
    let route = &live.site.routes[permit.route()];
    let upstream = chosen(exchange, &live, permit);
    let body = taken(exchange, route, upstream, body)?;
    exchange.upstream = Some(Arc::clone(&upstream.name));
    let asserted = if route.assertion { Box::pin(asserted(exchange, permit, upstream)).await? } else { None };
    let (mut request, overrides) = ready(exchange, permit, asserted, head, body)?;
    let (asked, before) = (upstream.metrics.asked(), exchange.took());
    let standing = standing(exchange, request.as_ref()).map(Box::new);
    let answered = {
        let (pools, server) = (&exchange.gateway.pools, &mut exchange.server);
        let sending = pin!(pools.send_noting(&upstream.settings, &mut request, &overrides, server));
        match standing {
            Some(standing) => Box::pin(while_it_stands(standing, sending)).await,
            None => sending.await.map_err(Unanswered::Failed),
        }
    };
    let outcome = match &answered {
        Ok(answer) => UpstreamOutcome::answered(answer.status().as_u16()),
        Err(Unanswered::Failed(error)) => outcome(error),
        Err(Unanswered::Revoked(_)) => UpstreamOutcome::Cancelled,
    };
    asked.finished(outcome, exchange.took().saturating_sub(before));
    trace::answered(exchange, outcome, answered.as_ref().ok().map(Response::status));
    let mut answer = answered.map_err(|unanswered| match unanswered {
        // Its client's own wish: no fault of ours, and nothing to fill a log with.
        Unanswered::Failed(SendError::Overdue) if is_hurried(&overrides, upstream.settings.timeout) => {
            Refusal::from(SendError::Overdue.problem())
        }
        unanswered => unanswered.into(),
    })?;
    route.response_headers.apply(answer.headers_mut());
    Ok(answer)
}

/// Opens the WebSocket that `head` asks for, between `client` and a backend.
async fn shake_hands(
    exchange: &mut Exchange,
    permit: &ForwardPermit,
    head: &mut Parts,
    client: OnUpgrade,
) -> Result<Response<Body>, Refusal> {
    let standing = Standing::of(exchange);
    Ok(match open(exchange, permit, head).await? {
        (Opened::Answer(answer), _) => answer,
        (Opened::Tunnel(answer, backend), idle) => {
            let open = tunnel::Open { client, backend, standing, idle };
            exchange.tunnel = Some(Tunnel::Open(Box::new(open)));
            answer
        }
    })
}

/// The client's body, as the route takes it.
fn taken(exchange: &Exchange, route: &Route, upstream: &LiveUpstream, body: Arriving) -> Result<Body, Problem> {
    let (bounds, own) = (&exchange.gateway.bounds, &route.overrides);
    let mut body = Body::client(body, route.max_body, own.body.unwrap_or(bounds.body_timeout))?;
    body.admit_trailers(&exchange.site().reserved);
    body.count_into(&exchange.received);
    // A call of gRPC may rest between two messages. Over HTTP/2 that holds no connection of the backend's.
    if !exchange.grpc || upstream.settings.protocol == Protocol::Http1 {
        body.at_least(own.body_rate.unwrap_or(bounds.min_body_rate));
    }
    Ok(body)
}

/// The request as it is sent, in a place for sending to take it from, and the times that hold for it.
fn ready(
    exchange: &mut Exchange,
    permit: &ForwardPermit,
    asserted: Option<HeaderValue>,
    head: &mut Parts,
    body: Body,
) -> Result<(Option<Request<Body>>, Overrides), Refusal> {
    let mut request = request(exchange, permit, asserted, head, body)?;
    let mut overrides = exchange.site().site.routes[permit.route()].overrides;
    if exchange.grpc {
        // Nobody waits for the answer any longer than that.
        overrides.deadline = grpc::deadline(request.headers());
    }
    trace::ask(exchange, &mut request);
    Ok((Some(request), overrides))
}

/// What tells that the request may go on no more, where it may take its time and hangs on something that can end.
fn standing(exchange: &Exchange, request: Option<&Request<Body>>) -> Option<Standing> {
    let lasts = exchange.grpc || request.is_some_and(|request| is_long(request.body()));
    let hangs = exchange.principal.is_some() || exchange.connection.vouched.is_some();
    (lasts && hangs).then(|| Standing::of(exchange))
}

/// Whether the client waits for less long than we would.
fn is_hurried(overrides: &Overrides, usual: Option<Duration>) -> bool {
    overrides.deadline.is_some_and(|own| overrides.whole.or(usual).is_none_or(|whole| own < whole))
}

/// Whether a body may take its time: longer than what mostly comes with its head, or without end.
fn is_long(body: &Body) -> bool {
    body.size_hint().exact().is_none_or(|length| length > SOON)
}

/// Why there is no answer of the backend's.
enum Unanswered {
    Failed(SendError),
    /// What let the request in does no more.
    Revoked(Refusal),
}

impl From<Unanswered> for Refusal {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Failed(error) => error.into(),
            Unanswered::Revoked(refusal) => refusal,
        }
    }
}

/// A call of gRPC and an upload are streams before they are answered too: a server that is fed may have nothing to say until
/// its client is done, and such a request must end with what let it in like one whose answer has begun.
async fn while_it_stands(
    standing: Box<Standing>,
    sending: impl Future<Output = Result<Response<Body>, SendError>>,
) -> Result<Response<Body>, Unanswered> {
    tokio::select! {
        answered = sending => answered.map_err(Unanswered::Failed),
        refusal = standing.lost() => Err(Unanswered::Revoked(refusal)),
    }
}

/// Which of the route's upstreams: whoever the route says stays on one side of the split.
pub fn chosen<'a>(exchange: &Exchange, live: &'a LiveSite, permit: &ForwardPermit) -> &'a LiveUpstream {
    let route = &live.site.routes[permit.route()];
    let at = route.split.only().unwrap_or_else(|| by_split(exchange, route, permit));
    &live.upstreams[at]
}

fn by_split(exchange: &Exchange, route: &Route, permit: &ForwardPermit) -> usize {
    match (route.split.by, permit.caller()) {
        (SplitBy::Request, _) => route.split.choose(&route.name, exchange.request_id.as_bytes()),
        (SplitBy::Organization, Some(caller)) => {
            route.split.choose(&route.name, caller.account.org.id.uuid().as_bytes())
        }
        (SplitBy::User, Some(caller)) => route.split.choose(&route.name, caller.account.user.id.uuid().as_bytes()),
        (_, None) => match exchange.client {
            IpAddr::V4(address) => route.split.choose(&route.name, &address.octets()),
            IpAddr::V6(address) => route.split.choose(&route.name, &address.octets()),
        },
    }
}

/// Asks the backend for the WebSocket that `head` asks for; with how long nothing may come through it.
pub async fn open(
    exchange: &mut Exchange,
    permit: &ForwardPermit,
    head: &mut Parts,
) -> Result<(Opened, Duration), Refusal> {
    let live = Arc::clone(exchange.site());
    let route = &live.site.routes[permit.route()];
    let upstream = chosen(exchange, &live, permit);
    exchange.upstream = Some(Arc::clone(&upstream.name));
    let asserted = if route.assertion { asserted(exchange, permit, upstream).await? } else { None };
    let mut request = request(exchange, permit, asserted, head, Body::Empty)?;
    trace::ask(exchange, &mut request);
    let (asked, before) = (upstream.metrics.asked(), exchange.took());
    let (pools, server) = (&exchange.gateway.pools, &mut exchange.server);
    let mut opened = pools.open_tunnel(&upstream.settings, request, Some(&route.overrides), server).await;
    let (outcome, status) = match &mut opened {
        Ok(Opened::Answer(answer) | Opened::Tunnel(answer, _)) => {
            route.response_headers.apply(answer.headers_mut());
            (UpstreamOutcome::answered(answer.status().as_u16()), Some(answer.status()))
        }
        Err(error) => (outcome(error), None),
    };
    asked.finished(outcome, exchange.took().saturating_sub(before));
    trace::answered(exchange, outcome, status);
    Ok((opened?, route.overrides.tunnel_idle.unwrap_or(upstream.settings.tunnel_idle_timeout)))
}

/// The request as the backend gets it; `asserted`: what [`asserted`] has made. Takes the head's fields and target.
pub fn request(
    exchange: &Exchange,
    permit: &ForwardPermit,
    asserted: Option<HeaderValue>,
    head: &mut Parts,
    body: Body,
) -> Result<Request<Body>, Refusal> {
    let live = Arc::clone(exchange.site());
    let route = &live.site.routes[permit.route()];
    // Taken too: it would keep the buffer that the head was read into for as long as the answer takes.
    let uri = std::mem::take(&mut head.uri);
    let target = target(&route.rewrite.path(&exchange.path), &uri)?;
    dress(exchange, &live, route, permit, (&mut head.headers, &uri))?;
    if let Some(asserted) = asserted {
        head.headers.insert(live.site.identity.assertion.clone(), asserted);
    }
    let mut request = Request::new(body);
    std::mem::swap(request.method_mut(), &mut head.method);
    *request.uri_mut() = target;
    *request.headers_mut() = std::mem::take(&mut head.headers);
    Ok(request)
}

/// Makes a client's header fields those that a backend gets.
fn dress(
    exchange: &Exchange,
    live: &LiveSite,
    route: &Route,
    permit: &ForwardPermit,
    (headers, uri): (&mut HeaderMap, &Uri),
) -> Result<(), Refusal> {
    // What is added here, at once.
    headers.reserve(OWN);
    let host = uri.authority().map_or_else(
        || headers.get(HOST).cloned().ok_or(Problem::MalformedRequest("no Host")),
        |authority| {
            HeaderValue::from_str(authority.as_str()).map_err(|_| Problem::MalformedRequest("the host is not text"))
        },
    )?;
    let scheme = HeaderValue::from_static(exchange.way.scheme);
    let came = Came { from: client(exchange)?, scheme, host, asked: exchange.way.host.clone() };
    hygiene::forward(headers, &came);
    if !route.forward_credential {
        headers.remove(AUTHORIZATION);
    }
    trace::tell(exchange, headers);
    route.request_headers.apply(headers);
    if !route.rewrite.strip.is_empty() {
        headers.insert(&FORWARDED_PREFIX, text(&route.rewrite.strip)?);
    }
    headers.insert(&REQUEST_ID, exchange.request_id.clone());
    certificate::tell(headers, &live.site.identity, &exchange.connection);
    if let Some(principal) = permit.caller() {
        live.faces.of(principal, || identity(live, principal))?.show(headers);
    }
    Ok(())
}

/// Who asks, in a token of our own for the backends of `upstream`; `None`: nobody that is known.
pub async fn asserted(
    exchange: &Exchange,
    permit: &ForwardPermit,
    upstream: &LiveUpstream,
) -> Result<Option<HeaderValue>, Refusal> {
    let Some(principal) = permit.caller() else { return Ok(None) };
    let live = exchange.site();
    let (contract, audience, now) = (&live.site.contract, &upstream.name, exchange.now.wall);
    let made = exchange.gateway.assertions.of(&live.credentials, contract, principal, audience, now).await;
    text(&made.map_err(Refusal::internal)?).map(Some)
}

fn outcome(error: &SendError) -> UpstreamOutcome {
    match error {
        SendError::Connect { .. } => UpstreamOutcome::Connect,
        SendError::ConnectTimeout { .. } => UpstreamOutcome::ConnectTimeout,
        SendError::Tls { .. } => UpstreamOutcome::Tls,
        SendError::TlsTimeout { .. } => UpstreamOutcome::TlsTimeout,
        SendError::ResponseTimeout => UpstreamOutcome::ResponseTimeout,
        SendError::IdleTimeout => UpstreamOutcome::IdleTimeout,
        SendError::Overdue => UpstreamOutcome::Overdue,
        SendError::Busy { .. } => UpstreamOutcome::Exhausted,
        SendError::Unhealthy { .. } => UpstreamOutcome::Unhealthy,
        SendError::Closed(_) => UpstreamOutcome::Closed,
        SendError::Refused(_) | SendError::Reset(_) => UpstreamOutcome::Reset,
        SendError::Nonsense(_) | SendError::Unacceptable(_) | SendError::NoTunnel => UpstreamOutcome::Protocol,
        SendError::RequestBody { .. } | SendError::Unsendable(_) => UpstreamOutcome::Cancelled,
    }
}

/// Who is asking, under the site's header names.
fn identity(live: &LiveSite, principal: &Principal) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let mut fields = Vec::with_capacity(9);
    let mut say = |name: &HeaderName, value: HeaderValue| fields.push((name.clone(), value));
    let (names, ids) = (&live.site.identity, &live.site.contract.ids);
    let account = &principal.account;
    say(&names.user_id, text(&ids.user.render(account.user.id.uuid()))?);
    say(&names.user_email, text(&account.user.email)?);
    say(&names.org_id, text(&ids.org.render(account.org.id.uuid()))?);
    say(&names.user_role, text(&account.user.role)?);
    say(&names.plan, text(&account.org.plan)?);
    let Granted { role, key } = &principal.permissions;
    let own = key.as_ref().unwrap_or(role).iter().map(Permission::as_str);
    let list: Vec<&str> = own.filter(|permission| role.cover(permission)).collect();
    say(&names.permissions, text(&list.join(","))?);
    if let Some(server) = principal.method.server_id() {
        say(&names.server_id, text(server)?);
    }
    match &principal.method {
        Method::Token { session, .. } => {
            say(&names.auth_method, HeaderValue::from_static("jwt"));
            say(&names.session_id, text(&ids.session.render(session.uuid()))?);
        }
        Method::Key(key) => {
            say(&names.auth_method, HeaderValue::from_static("api_key"));
            say(&names.key_id, text(&ids.key.render(key.id.uuid()))?);
        }
    }
    Ok(fields)
}

/// The path that was decided on, with the client's query.
fn target(path: &str, asked: &Uri) -> Result<Uri, Refusal> {
    if let Some(same) = asked.path_and_query().filter(|asked| asked.path() == path) {
        return Ok(Uri::from(same.clone()));
    }
    let whole = match asked.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let target = PathAndQuery::try_from(whole).map_err(|_| Problem::AmbiguousPath)?;
    Ok(Uri::from(target))
}

/// The client's address, as a header says it.
fn client(exchange: &Exchange) -> Result<HeaderValue, Refusal> {
    let connection = &exchange.connection;
    if exchange.client == connection.client() {
        Ok(connection.client_text())
    } else {
        text(&exchange.client.to_string())
    }
}

/// A header value; text that cannot be one (an address outside ASCII is sent as UTF-8) is our fault, not a client's.
fn text(value: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_bytes(value.as_bytes()).map_err(Refusal::internal)
}

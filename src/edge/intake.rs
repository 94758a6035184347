//! The first look: is this one request, for one site, by one path?
//!
//! What cannot be decided on safely ends here. After this stage the head holds no header that only the gateway
//! may set, and `exchange.path` is the one path that everything decides on and that the backend receives.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{FORWARDED, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::exchange::{Exchange, Way};
use super::{certificate, cors, trace};
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::rules::network::ProxyHeader;
use crate::rules::path::AmbiguousPath;
use crate::rules::{forwarded, network, path};
use crate::upstream::framing;
use crate::upstream::hygiene::{self, OddNames};

/// Takes the request in.
pub fn take(exchange: &mut Exchange, head: &mut Parts) -> Result<(), Refusal> {
    come(exchange, &head.headers);
    trace::begin(exchange, head);
    framing::check(head)?;
    let site = exchange.live.site(host(head)?).ok_or(Problem::MisdirectedRequest)?;
    exchange.held = (!exchange.imagined).then(|| site.metrics.started());
    exchange.site = Some(Arc::clone(site));
    cors::note(exchange, &head.headers);
    let (connection, now) = (&exchange.connection, exchange.now.wall);
    certificate::suits(connection, exchange.site(), now)
        .inspect_err(|_| certificate::let_go(connection, &exchange.live, now))?;
    let spelt = match path::canonical(head.uri.path()) {
        // For the routes that take it; the others refuse it when they are found.
        Err(AmbiguousPath::Separator) if exchange.site().site.routes.iter().any(|route| route.encoded_slash) => {
            path::with_encoded_slashes(head.uri.path())
        }
        spelt => spelt.map(Cow::into_owned),
    };
    exchange.path = spelt.map_err(Problem::from)?;
    let live = exchange.site();
    // Both in any case: what is refused here must not be read by whoever renders the refusal either.
    if live.reserved.strip(&mut head.headers) && live.site.odd_names == OddNames::Refuse {
        return Err(Problem::MalformedRequest("header names are letters, digits and hyphens").into());
    }
    Ok(())
}

/// The host the client means: `framing::check` saw to it that there is one answer (RFC 9112 section 3.2).
pub fn host(head: &Parts) -> Result<&str, Problem> {
    let header = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    authority.or(header).ok_or(Problem::MalformedRequest("the Host header is not text"))
}

/// Finds who asks, and how: what the peer says of it where the peer is a trusted proxy, else the connection's own.
fn come(exchange: &mut Exchange, headers: &HeaderMap) {
    let (snapshot, connection) = (&exchange.live.snapshot, &exchange.connection);
    let (peer, trusted) = (connection.peer.ip(), &snapshot.trusted_proxies);
    let own = if connection.tls.is_some() { "https" } else { "http" };
    if connection.held.unnamed || !network::trusts(trusted, peer) {
        exchange.way = Way { scheme: own, host: None };
        return;
    }
    let (scheme, host) = match snapshot.proxy_header {
        ProxyHeader::XForwardedFor => {
            let hops = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
            exchange.client = network::client_address(peer, hops, trusted);
            (hygiene::only(headers, "x-forwarded-proto"), hygiene::only(headers, "x-forwarded-host"))
        }
        ProxyHeader::Forwarded => {
            let said = forwarded::said(peer, headers.get_all(FORWARDED).iter().map(HeaderValue::as_bytes), trusted);
            exchange.client = said.client;
            (said.proto, said.host)
        }
    };
    let scheme = match scheme {
        Some(said) if said.eq_ignore_ascii_case(b"https") => "https",
        Some(said) if said.eq_ignore_ascii_case(b"http") => "http",
        _ => own,
    };
    let host = host.filter(|host| framing::is_host(host));
    exchange.way = Way { scheme, host: host.and_then(|host| HeaderValue::from_bytes(host).ok()) };
}

//! The first look: is this one request, for one site, by one path?
//!
//! What cannot be decided on safely ends here. After this stage the head holds no header that only the gateway
//! may set, and `exchange.path` is the one path that everything decides on and that the backend receives.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::HOST;
use http::request::Parts;

use super::exchange::Exchange;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::rules::{network, path};
use crate::upstream::framing;
use crate::upstream::hygiene::OddNames;

/// Takes the request in.
pub fn take(exchange: &mut Exchange, head: &mut Parts) -> Result<(), Refusal> {
    exchange.client = client_address(exchange, &head.headers);
    framing::check(head)?;
    let site = exchange.live.site(host(head)?).ok_or(Problem::MisdirectedRequest)?;
    exchange.site = Some(Arc::clone(site));
    exchange.path = path::canonical(head.uri.path()).map_err(Problem::from)?.into_owned();
    let live = exchange.site();
    // Both in any case: what is refused here must not be read by whoever renders the refusal either.
    if live.reserved.strip(&mut head.headers) && live.site.odd_names == OddNames::Refuse {
        return Err(Problem::MalformedRequest("header names are letters, digits and hyphens").into());
    }
    Ok(())
}

/// The host the client means: `framing::check` saw to it that there is one answer (RFC 9112 section 3.2).
fn host(head: &Parts) -> Result<&str, Problem> {
    let header = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    authority.or(header).ok_or(Problem::MalformedRequest("the Host header is not text"))
}

fn client_address(exchange: &Exchange, headers: &HeaderMap) -> IpAddr {
    let forwarded = headers.get_all("x-forwarded-for").iter().map(http::HeaderValue::as_bytes);
    network::client_address(exchange.connection.peer.ip(), forwarded, &exchange.live.snapshot.trusted_proxies)
}

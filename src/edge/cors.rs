//! Cross-origin requests, where a site allows any: preflights are answered here and never need a credential (browsers
//! send none with them), and every answer says what the page may see of it, refusals too: a page that cannot read a 401
//! cannot tell it from a broken network.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::exchange::Exchange;
use crate::upstream::body::Body;
use crate::upstream::hygiene;

/// Notes what the page that asks is to be told.
pub fn note(exchange: &mut Exchange, headers: &HeaderMap) {
    let Some(cors) = &exchange.site().site.cors else { return };
    let mut origins = headers.get_all(ORIGIN).iter();
    // More than one is none: no browser sends that.
    exchange.origin = match (origins.next(), origins.next()) {
        (Some(origin), None) => cors.allows(origin),
        _ => None,
    };
}

/// The answer to a preflight, for whatever path: what may be asked at all is no secret, and what is there stays one.
pub fn preflight(exchange: &mut Exchange, head: &Parts) -> Option<Response<Body>> {
    let live = std::sync::Arc::clone(exchange.site());
    let cors = live.site.cors.as_ref()?;
    let asks = |name: &HeaderName| head.headers.contains_key(name);
    if exchange.method != Method::OPTIONS || !asks(&ORIGIN) || !asks(&ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    exchange.route = Some("preflight".into());
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.append(VARY, HeaderValue::from(ACCESS_CONTROL_REQUEST_METHOD));
    headers.append(VARY, HeaderValue::from(ACCESS_CONTROL_REQUEST_HEADERS));
    if exchange.origin.is_some() {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone());
        headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
    }
    Some(answer)
}

/// Says in an answer what the page may see of it. A backend's own words on that give way: two of them are none to a
/// browser.
pub fn complete(exchange: &Exchange, headers: &mut HeaderMap) {
    let Some(cors) = exchange.site.as_ref().and_then(|live| live.site.cors.as_ref()) else { return };
    if exchange.upstream.is_some() {
        hygiene::remove(headers, |name| name.as_str().starts_with("access-control-"));
    }
    let varies = |token: &[u8]| token == b"*" || token.eq_ignore_ascii_case(b"origin");
    if !cors.is_for_everyone() && !hygiene::tokens(headers, &VARY).any(varies) {
        headers.append(VARY, HeaderValue::from(ORIGIN));
    }
    let Some(origin) = &exchange.origin else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(exposed) = &cors.exposed {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
    }
}

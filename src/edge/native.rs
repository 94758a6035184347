//! Into a native operation and back: the body read within bounds, decoded by the contract, performed, encoded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::authorize::{NativePermit, Permit};
use super::exchange::Exchange;
use super::{authenticate, authorize, route};
use crate::contract::{decode, encode};
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::native::{Call, Origin, perform};
use crate::upstream::body::Body;
use crate::upstream::leftover::Arriving;

/// Performs the permitted operation.
pub async fn serve(
    exchange: &mut Exchange,
    permit: NativePermit,
    head: &http::request::Parts,
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    let live = &Arc::clone(exchange.site());
    let served = &live.site.contract.operations[permit.target().served];
    let body = read(body, live.site.max_body, exchange.gateway.bounds.body_timeout).await?;
    exchange.received.store(body.len() as u64, Ordering::Relaxed);
    let permit = still(exchange, permit, head).await?;
    let content_type = match head.headers.get(CONTENT_TYPE) {
        Some(value) => Some(value.to_str().map_err(|_| Problem::UnsupportedMediaType)?),
        None => None,
    };
    let parameters = permit.target().parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let input = decode::decode(served, content_type, &body, parameters)?;
    let call = Call {
        gateway: &exchange.gateway,
        live,
        served,
        input: &input,
        caller: permit.caller().map(AsRef::as_ref),
        origin: Origin { client: exchange.client, request_id: exchange.request_id() },
        now: exchange.now,
    };
    let values = perform(&call).await?;
    let mut answer = Response::new(match &served.body {
        Some(_) => Body::from(encode::answer(served, &values)),
        None => Body::Empty,
    });
    *answer.status_mut() = StatusCode::from_u16(served.status).expect("compiling the contract checked the status");
    if served.body.is_some() {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    // Tokens, keys and personal data: never kept by a cache on the way (RFC 9111 section 5.2.2.5).
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// Asks again, now that the body is here: it may have taken its sender half a minute, and whoever was thrown out
/// meanwhile must not act on a decision from before.
async fn still(
    exchange: &mut Exchange,
    permit: NativePermit,
    head: &http::request::Parts,
) -> Result<NativePermit, Refusal> {
    if permit.caller().is_none() {
        return Ok(permit);
    }
    exchange.now = exchange.gateway.clock.now();
    let target = route::find(exchange)?;
    authenticate::authenticate(exchange, &head.headers, &target).await?;
    match authorize::authorize(exchange, target)? {
        Permit::Native(permit) => Ok(permit),
        Permit::Forward(_) | Permit::KeySet => Err(Problem::NotFound.into()),
    }
}

/// The site's public keys. They change with the configuration; caches may keep them for some minutes, which is how
/// long a new key should be published before it signs.
pub fn key_set(exchange: &Exchange) -> Response<Body> {
    let mut answer = Response::new(Body::from(exchange.site().key_set.clone()));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    answer
}

async fn read(body: Arriving, most: u64, patience: Duration) -> Result<Bytes, Refusal> {
    let whole =
        tokio::time::timeout(patience, Limited::new(body, usize::try_from(most).unwrap_or(usize::MAX)).collect());
    match whole.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::PayloadTooLarge.into()),
        Ok(Err(_)) => Err(Problem::MalformedRequest("the body broke off").into()),
        Err(_) => Err(Problem::RequestTimeout.into()),
    }
}

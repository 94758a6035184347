//! The admin listener: `/metrics`, `/healthz`, `/readyz`, and the operator's acts under `/v1` with a token: the log's
//! level, how backends stand, what would become of a request ([`super::explain`]), and everything about accounts
//! ([`crate::native::operator`]).
//!
//! It is a listener of its own, never a path on the data port, and it never speaks for a product.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::explain;
use crate::gateway::Gateway;
use crate::model::secret::Secret;
use crate::native::operator::{self, Desk, Reply};
use crate::observe::audit::{self, Act, Actor, Event};
use crate::observe::metrics::labels::Listener;
use crate::upstream::{Stands, Verdict};

/// The longest body of an act, in bytes.
const BODY: usize = 64 * 1024;
/// Told to whoever asks for anything else.
const THERE_IS: &str = "there is /metrics, /healthz, /readyz, /v1/sites, /v1/upstreams, /v1/explain and /v1/log\n";
/// How long a request's head or body may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may go on when the listener ends: here, or because another process has it now.
const FAREWELL: Duration = Duration::from_secs(1);

type Answer = Response<Full<Bytes>>;

/// Serves the admin listener until `stop`, which comes after the data port has drained: an operator wants to
/// see the end.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let held = gateway.metrics.connections.opened(Listener::Admin);
        let (gateway, stop) = (Arc::clone(&gateway), stop.clone());
        connections.spawn(async move {
            let asked = Arc::new(AtomicBool::new(false));
            let noted = Arc::clone(&asked);
            let service = service_fn(move |request| {
                noted.store(true, Ordering::Relaxed);
                let gateway = Arc::clone(&gateway);
                async move { Ok::<_, Infallible>(answer(&gateway, peer.ip(), request).await) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(socket), service);
            tokio::pin!(serving);
            tokio::select! {
                _ = serving.as_mut() => {}
                () = stop.cancelled() => {
                    // Whoever has just come is answered, and what is being answered is.
                    let mut ended = false;
                    if !asked.load(Ordering::Relaxed) {
                        ended = tokio::time::timeout(FAREWELL, serving.as_mut()).await.is_ok();
                    }
                    if !ended {
                        serving.as_mut().graceful_shutdown();
                        let _ = tokio::time::timeout(FAREWELL, serving).await;
                    }
                }
            }
            drop(held);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(gateway: &Arc<Gateway>, peer: IpAddr, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        // Asked anew at each request: a token that a reload has taken away ends at once.
        path if path.starts_with("/v1/") || path == "/v1" => match refuse(gateway.operator_token().as_deref(), &head) {
            Some(refused) => refused,
            None => act(gateway, peer, &head, body).await,
        },
        _ if head.method != Method::GET && head.method != Method::HEAD => {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            answer
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match gateway.readiness().await {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}\n")),
        },
        "/metrics" => {
            gateway.refresh_gauges();
            let mut answer = text(StatusCode::OK, &gateway.metrics.text());
            let exposition = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, exposition);
            answer
        }
        _ => text(StatusCode::NOT_FOUND, THERE_IS),
    }
}

/// What whoever may not act is told; `None`: they may.
fn refuse(token: Option<&Secret>, head: &http::request::Parts) -> Option<Answer> {
    let Some(token) = token else {
        let why = "no token is configured for the operator's API: set token or token_file under [admin]";
        return Some(json_answer(403, &json!({ "error": why })));
    };
    let presented = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let presented = presented.and_then(|value| value.strip_prefix("Bearer ")).map(|text| Secret::new(text.to_owned()));
    if presented.is_some_and(|presented| presented == *token) {
        return None;
    }
    let mut refused =
        json_answer(401, &json!({ "error": "the operator's API needs `Authorization: Bearer <admin token>`" }));
    refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tollgate admin\""));
    Some(refused)
}

async fn act(gateway: &Arc<Gateway>, peer: IpAddr, head: &http::request::Parts, body: Incoming) -> Answer {
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, BODY).collect()).await;
    let Ok(Ok(body)) = whole else {
        return json_answer(
            400,
            &json!({ "error": format!("the body did not arrive within {PATIENCE:?} and {BODY} bytes") }),
        );
    };
    let body = body.to_bytes();
    let now = gateway.clock.now();
    let audit = |site: Option<&str>, act: Act<'_>| {
        let actor = Actor::Operator(audit::Door::AdminApi);
        gateway.logs.audit(&Event { time: now.wall, actor, act, site, client: Some(peer), request_id: None });
    };
    if head.uri.path() == "/v1/log" {
        return log(gateway, head, &body, |act| audit(None, act));
    }
    if head.uri.path() == "/v1/upstreams" {
        return upstreams(gateway, &head.method);
    }
    if head.uri.path() == "/v1/explain" {
        let Reply { status, body } = explain::explain(gateway, &head.method, &body).await;
        return json_answer(status, &body);
    }
    let live = gateway.live();
    let sites: Vec<_> = live.sites.iter().map(|live| Arc::clone(&live.site)).collect();
    let desk = Desk {
        store: &gateway.store,
        sites: &sites,
        forget: &|change| gateway.forget(change),
        audit: &|site, act| audit(Some(site), act),
        now,
    };
    let query = head.uri.query().unwrap_or("");
    let reply = operator::handle(&desk, &head.method, head.uri.path(), query, &body).await;
    json_answer(reply.status, &reply.body)
}

/// Which events are logged: read, or set until the configured level changes or the process ends.
fn log(gateway: &Gateway, head: &http::request::Parts, body: &[u8], audit: impl FnOnce(Act<'_>)) -> Answer {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        level: Option<String>,
    }
    match head.method {
        Method::GET | Method::HEAD => {}
        Method::PUT => {
            let wanted = serde_json::from_slice(body)
                .map_err(|error| format!("write {{\"level\": \"debug\"}}, or null for the configured one: {error}"));
            let set = wanted.and_then(|Wanted { level }| {
                gateway.logs.set_level(level.as_deref()).map_err(|error| error.to_string())?;
                Ok(level)
            });
            match set {
                Ok(level) => audit(Act::LogLevelSet { level: level.as_deref() }),
                Err(error) => return json_answer(400, &json!({ "error": error })),
            }
        }
        _ => return json_answer(405, &json!({ "error": "/v1/log takes GET and PUT" })),
    }
    let level = gateway.logs.level();
    let (configured, set) = level.map_or((None, None), |level| (Some(level.configured), level.set));
    json_answer(200, &json!({ "level": set.as_ref().or(configured.as_ref()), "configured": configured }))
}

/// How every server of every upstream stands.
fn upstreams(gateway: &Gateway, method: &Method) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return json_answer(405, &json!({ "error": "/v1/upstreams takes GET" }));
    }
    let server = |stands: Stands| {
        let pool = stands.pool.unwrap_or_default();
        json!({
            "server": stands.server,
            "weight": stands.weight,
            "health": stands.verdict.map(Verdict::name),
            "ejected": pool.ejected,
            "connections": pool.open,
            "idle": pool.idle,
            "in_flight": pool.in_flight,
            "waiting": pool.waiting,
        })
    };
    let live = gateway.live();
    let upstreams: Vec<_> = live
        .sites
        .iter()
        .flat_map(|site| site.upstreams.iter().map(move |upstream| (&site.site.name, upstream)))
        .map(|(site, upstream)| {
            let servers: Vec<_> = gateway.pools.stands(&upstream.settings).into_iter().map(server).collect();
            json!({ "site": site, "upstream": &*upstream.name, "servers": servers })
        })
        .collect();
    json_answer(200, &json!({ "upstreams": upstreams }))
}

fn json_answer(status: u16, body: &serde_json::Value) -> Answer {
    let mut answer = text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &body.to_string());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_owned())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

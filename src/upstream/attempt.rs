//! One request, from the choice of a server to the head of its answer.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::balance::{Ejection, lighter};
use super::body::Body;
use super::connect::{Made, Steps, connect};
use super::endpoint::{Endpoint, Limits, Turn, Want};
use super::error::SendError;
use super::exchange::{Lost, head, is_repeatable, lifetime, send, spare};
use super::lease::{Lease, Link, Load};
use super::progress::{Alarm, Patience, Upload};
use super::settings::{Overrides, Settings};
use super::trail::Trail;
use super::{Pools, framing};

/// Servers tried for one request while nothing of it was sent, within the upstream's [`Retries`](super::Retries).
const SERVERS_TRIED: usize = 3;

/// An answer whose head has come.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    /// When the answer must have ended.
    pub(super) due: Option<Instant>,
    pub(super) upload: Option<Arc<Upload>>,
}

impl Pools {
    /// Takes the request, which stays in one place until it is sent: it is large, and each future on the way would hold
    /// room for it. `alone`: on a connection that nobody shares, in HTTP/1.1.
    pub(super) async fn answered(
        &self,
        to: &Settings,
        request: &mut Option<Request<Body>>,
        overrides: Option<&Overrides>,
        alone: bool,
    ) -> Result<Answered, SendError> {
        let own = overrides.copied().unwrap_or_default();
        let Some(whole) = own.whole.or(to.timeout) else { return self.attempt(to, request, own, alone).await };
        let due = Instant::now() + whole;
        match tokio::time::timeout_at(due, self.attempt(to, request, own, alone)).await {
            Ok(answered) => answered.map(|answered| Answered { due: Some(due), ..answered }),
            Err(_) => Err(SendError::Overdue),
        }
    }

    async fn attempt(
        &self,
        to: &Settings,
        slot: &mut Option<Request<Body>>,
        own: Overrides,
        alone: bool,
    ) -> Result<Answered, SendError> {
        let unsent = slot.as_mut().ok_or(SendError::Unsendable("it was sent before"))?;
        let upload = unsent.body_mut().watch();
        let trail = unsent.extensions_mut().remove::<Trail>();
        let idle = own.idle.unwrap_or(to.idle_timeout);
        let patience = Patience { response: own.response.unwrap_or(to.response_timeout), idle };
        let steps = Steps { tcp: own.connect.unwrap_or(to.connect_timeout), tls: own.tls.unwrap_or(to.tls_timeout) };
        let limits = Limits { max_connections: to.max_connections, max_queue: to.max_queue, wait: to.queue_timeout };
        to.budget.request();
        let mut tried: SmallVec<[usize; 4]> = SmallVec::new();
        let mut want = Want { fresh: false, alone };
        let mut failed = None;
        loop {
            // Where nobody is left to be asked, what the last one said is the answer.
            let (at, endpoint) = match self.choose(to, &tried) {
                Ok(chosen) => chosen,
                Err(none) => return Err(failed.unwrap_or(none)),
            };
            let load = Load::new(endpoint);
            if let Some(trail) = &trail {
                trail.tries(&load.0.origin.address);
            }
            let (mut link, reused) = match self.link(&load.0, limits, want, steps, &to.ejection).await {
                Ok(linked) => linked,
                Err(error) => {
                    tried.push(at);
                    let others = tried.len() < to.servers.len().min(SERVERS_TRIED);
                    if error.is_connect() && others && to.budget.spend(to.retries) {
                        failed = Some(error);
                        continue;
                    }
                    return Err(error);
                }
            };
            let Some(mut request) = slot.take() else { return Err(SendError::Unsendable("it was sent before")) };
            match &link {
                Link::Alone(_) => framing::reframe(&mut request),
                Link::Joint(_) => framing::reframe_http2(&mut request, load.0.origin.scheme())
                    .ok_or(SendError::Unsendable("its Host is no authority"))?,
            }
            if reused && !want.fresh {
                *slot = spare(&request);
            }
            let answer = pin!(send(&mut link, request));
            let mut own = Alarm::default();
            let alarm = match &mut link {
                Link::Alone(live) => &mut live.alarm,
                Link::Joint(_) => &mut own,
            };
            match head(answer, alarm, upload.as_ref(), patience).await {
                Ok(response) => {
                    link.answered();
                    match response.status() {
                        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                            load.0.health.erred(&to.ejection);
                        }
                        _ => load.0.health.served(),
                    }
                    let lifetime = lifetime(&response, self.keep_idle);
                    let lease = Lease { link, load, lifetime, max_idle: to.max_idle, settle: idle };
                    return Ok(Answered { response, lease, due: None, upload });
                }
                Err(Lost { error, unsent }) => {
                    if let Link::Joint(stream) = &link
                        && !matches!(error, SendError::Reset(_) | SendError::RequestBody { .. })
                    {
                        // Whether it is dead or only slow, nobody else should find out on it.
                        stream.joint.retire();
                    }
                    if error.is_servers() && !(reused && error.is_closed()) {
                        load.0.health.erred(&to.ejection);
                    }
                    // The backend let go of an idle connection just as we took it: not its last word.
                    let harmless = |request: &Request<Body>| error.is_refused() || is_repeatable(request.method());
                    *slot = unsent.or_else(|| slot.take().filter(harmless));
                    let again = slot.is_some() && (error.is_closed() || error.is_refused());
                    if !(again && reused && !want.fresh && to.budget.spend(to.retries)) {
                        return Err(error);
                    }
                    want.fresh = true;
                    failed = Some(error);
                }
            }
        }
    }

    /// A connection to a server that has room for a request, and whether it was there before.
    async fn link(
        &self,
        endpoint: &Arc<Endpoint>,
        limits: Limits,
        want: Want,
        steps: Steps,
        ejection: &Ejection,
    ) -> Result<(Link, bool), SendError> {
        let (slot, opening) = match endpoint.checkout(limits, want).await? {
            Turn::Reuse(live) => return Ok((Link::Alone(live), true)),
            Turn::Join(stream) => return Ok((Link::Joint(stream), true)),
            Turn::Connect(slot, opening) => (slot, opening),
        };
        // Boxed: handshakes are large and rare, and every request's future would hold room for one.
        match Box::pin(connect(endpoint, slot, want.alone, steps)).await {
            Ok(made) => {
                endpoint.health.reached();
                Ok(match made {
                    Made::Alone(live) => {
                        if !want.alone {
                            endpoint.chose_http1(limits.max_connections);
                        }
                        (Link::Alone(live), false)
                    }
                    Made::Joint(joint) => (Link::Joint(endpoint.welcome(joint)), false),
                })
            }
            Err(error) => {
                endpoint.health.failed(ejection);
                if let Some(opening) = opening {
                    opening.failed();
                }
                Err(error)
            }
        }
    }

    /// A server that was not tried yet and that does not fail its health checks: of those, one that requests do not fail
    /// on before one that they do.
    fn choose(&self, to: &Settings, tried: &[usize]) -> Result<(usize, Arc<Endpoint>), SendError> {
        if let [only] = to.servers.as_slice()
            && !only.watched.is_down()
        {
            return Ok((0, self.endpoint(to, only)?));
        }
        let mut candidates: SmallVec<[(usize, Arc<Endpoint>); 8]> = SmallVec::new();
        for (at, server) in to.servers.iter().enumerate() {
            if !tried.contains(&at) && !server.watched.is_down() {
                candidates.push((at, self.endpoint(to, server)?));
            }
        }
        let left = candidates.iter().filter(|(_, endpoint)| !endpoint.health.is_ejected()).count();
        if left > 0 && left * 100 >= candidates.len() * to.ejection.panic as usize {
            candidates.retain(|(_, endpoint)| !endpoint.health.is_ejected());
        }
        let chosen = lighter(
            &self.dice,
            &candidates,
            |(at, endpoint)| {
                let server = &to.servers[*at];
                let weight = endpoint.health.weight(server.weight, &to.ejection);
                weight.min(server.watched.weight(server.weight, &to.ejection))
            },
            |(_, endpoint)| endpoint.in_flight.load(Ordering::Relaxed),
        );
        chosen.map(|chosen| candidates.swap_remove(chosen)).ok_or_else(|| match to.servers.as_slice() {
            [] => {
                SendError::Connect { server: to.name.clone(), source: io::Error::other("the upstream has no servers") }
            }
            _ => SendError::Unhealthy { upstream: to.name.clone() },
        })
    }
}

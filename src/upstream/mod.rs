//! The backends: connections, balancing, timeouts, header hygiene.
//!
//! The edge readies a request ([`framing::check`], [`hygiene`]) and hands it to [`Pools::send`], which
//! chooses a server (`balance`), takes an idle connection or makes one (`endpoint`, `connect`), waits for
//! the answer's head (`exchange`) and returns it with a [`body::Body`] that holds the
//! connection until it was read to its end. Servers that fail their health checks (`check`, `watch`) are not chosen. [`tunnel`] does the same for a WebSocket. Everything is owned
//! by a [`Pools`], so that each worker may have its own.
//!
//! What it is not: it knows no routes, sites or identities, and renders nothing for clients.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rustls::ClientConfig;
use smallvec::SmallVec;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

mod ahead;
mod balance;
pub mod body;
mod budget;
pub mod changes;
mod check;
mod connect;
mod endpoint;
mod error;
mod exchange;
pub mod faces;
pub mod frames;
pub mod framing;
pub mod hygiene;
mod joint;
mod lease;
pub mod leftover;
pub mod progress;
mod settings;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod trail;
pub mod tunnel;
mod watch;

pub use balance::Ejection;
pub use budget::{Budget, Retries};
pub use check::{Ask, Check};
pub use endpoint::Gauges;
pub use error::SendError;
pub use settings::{Address, Overrides, Protocol, Server, Settings};
pub use watch::Verdict;

use balance::{Dice, lighter};
use body::Body;
use connect::{Made, Origin, Steps, connect};
use endpoint::{Endpoint, Limits, Turn, Want};
use exchange::{Lost, head, is_repeatable, lifetime, send, spare};
use lease::{Lease, Link, Load};
use progress::{Alarm, Patience, Upload};
use trail::Trail;
use watch::Watches;

use crate::observe::metrics::Metrics;

/// How long a connection stays idle at most: below what servers commonly allow.
const KEEP_IDLE: Duration = Duration::from_secs(30);
/// Servers tried for one request while nothing of it was sent, within the upstream's [`Retries`].
const SERVERS_TRIED: usize = 3;

/// The connections to all servers, kept by server: a reload that still names a server keeps its pool.
pub struct Pools {
    endpoints: DashMap<Arc<str>, Arc<Endpoint>>,
    tls: Option<Arc<ClientConfig>>,
    tasks: TaskTracker,
    dice: Dice,
    keep_idle: Duration,
    watches: Watches,
}

/// How one server of an upstream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    /// The server: `http://host:port`.
    pub server: String,
    /// Its share beside the others'.
    pub weight: u32,
    /// What its health checks say; `None`: it has none.
    pub verdict: Option<Verdict>,
    /// What its pool looks like; `None`: it was given no request yet.
    pub pool: Option<Gauges>,
}

/// An answer whose head has come.
struct Answered {
    response: Response<Incoming>,
    lease: Lease,
    /// When the answer must have ended.
    due: Option<Instant>,
    upload: Option<Arc<Upload>>,
}

impl Pools {
    /// No connections yet. `tls` is needed only for https servers: see [`tls::client_config`].
    pub fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        let (endpoints, tasks, dice, watches) =
            (DashMap::new(), TaskTracker::new(), Dice::default(), Watches::default());
        Self { endpoints, tls, tasks, dice, keep_idle: KEEP_IDLE, watches }
    }

    /// With connections kept idle for `time` instead of 30 seconds.
    #[must_use]
    pub fn keep_idle(mut self, time: Duration) -> Self {
        self.keep_idle = time;
        self
    }

    /// Sends a request to a server of `to` and waits for the head of its answer; the body follows as it is
    /// read. `overrides` stands in for the upstream's own times where a route has some. The request's
    /// framing and version are made right here; its headers are the caller's (see [`hygiene::forward`]).
    pub async fn send(
        &self,
        to: &Settings,
        request: Request<Body>,
        overrides: Option<&Overrides>,
    ) -> Result<Response<Body>, SendError> {
        let answered = self.answered(to, &mut Some(request), overrides, false).await?;
        if answered.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(SendError::Unacceptable("it switches protocols unasked"));
        }
        into_answer(answered)
    }

    /// Takes the request, which stays in one place until it is sent: it is large, and each future on the way would hold
    /// room for it. `alone`: on a connection that nobody shares, in HTTP/1.1.
    async fn answered(
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

    fn endpoint(&self, to: &Settings, server: &Server) -> Result<Arc<Endpoint>, SendError> {
        if let Some(known) = self.endpoints.get(&server.key) {
            return Ok(Arc::clone(&known));
        }
        let origin = Origin::new(&server.address, to.protocol, to.trust.as_ref(), self.tls.as_ref())?;
        let endpoint = self.endpoints.entry(Arc::clone(&server.key));
        let new = || Endpoint::new(origin, to.max_streams, self.keep_idle, self.tasks.clone());
        Ok(Arc::clone(&endpoint.or_insert_with(new)))
    }

    /// Forgets servers that no configuration names any more; what is under way on them ends by itself.
    pub fn retain(&self, named: &[&Settings]) {
        self.endpoints.retain(|key, endpoint| {
            let kept = named.iter().any(|settings| settings.servers.iter().any(|server| server.key == *key));
            if !kept {
                endpoint.close();
            }
            kept
        });
    }

    /// From here on the servers of these upstreams, each with its site's name, are checked as their settings say, and no
    /// others. What is known of a server that was checked before stays.
    pub fn watch(&self, upstreams: &[(&str, &Settings)], metrics: &Metrics) {
        self.watches.watch(upstreams, self.tls.as_ref(), metrics);
    }

    /// Ends all health checks and waits until they have ended; what they found stays.
    pub async fn stop_watching(&self) {
        self.watches.close().await;
    }

    /// How the servers of `to` stand.
    pub fn stands(&self, to: &Settings) -> Vec<Stands> {
        let stands = |server: &Server| Stands {
            server: server.to_string(),
            weight: server.weight,
            verdict: server.watched.verdict(),
            pool: self.endpoints.get(&server.key).map(|endpoint| endpoint.gauges()),
        };
        to.servers.iter().map(stands).collect()
    }

    /// What each server's pool looks like.
    pub fn gauges(&self) -> Vec<Gauges> {
        self.endpoints.iter().map(|endpoint| endpoint.gauges()).collect()
    }

    /// Lets every idle connection go and waits until the ones in use have ended. Bound it by a timeout.
    pub async fn close(&self) {
        self.watches.close().await;
        self.endpoints.iter().for_each(|endpoint| endpoint.close());
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn into_answer(answered: Answered) -> Result<Response<Body>, SendError> {
    let Answered { response, lease, due, upload } = answered;
    let (mut parts, incoming) = response.into_parts();
    hygiene::clean_response(&mut parts).map_err(SendError::Unacceptable)?;
    Ok(Response::from_parts(parts, Body::upstream(incoming, lease, due, upload)))
}

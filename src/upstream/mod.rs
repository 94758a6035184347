//! The backends: connections, balancing, timeouts, header hygiene.
//!
//! The edge readies a request ([`framing::check`], [`hygiene`]) and hands it to [`Pools::send`], which
//! chooses a server (`balance`), takes an idle connection or makes one (`endpoint`, `connect`), waits for
//! the answer's head (`exchange`) and returns it with a [`body::Body`] that holds the
//! connection until it was read to its end. [`tunnel`] does the same for a WebSocket. Everything is owned
//! by a [`Pools`], so that each worker may have its own.
//!
//! What it is not: it knows no routes, sites or identities, and renders nothing for clients.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use rustls::ClientConfig;
use smallvec::SmallVec;
use tokio_util::task::TaskTracker;

mod balance;
pub mod body;
pub mod changes;
mod connect;
mod endpoint;
mod error;
mod exchange;
pub mod frames;
pub mod framing;
pub mod hygiene;
mod lease;
pub mod progress;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod tunnel;

pub use endpoint::Gauges;
pub use error::SendError;

use balance::{Dice, lighter};
use body::Body;
use connect::{Origin, connect};
use endpoint::{Endpoint, Limits, Turn};
use exchange::{Lost, exchange, lifetime, spare};
use lease::{Lease, Load};
use progress::{Patience, Upload};

/// How long a connection stays idle at most: below what servers commonly allow.
const KEEP_IDLE: Duration = Duration::from_secs(30);
/// Servers tried for one request while nothing of it was sent.
const SERVERS_TRIED: usize = 3;

/// One upstream, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name in routes, metrics and logs.
    pub name: String,
    /// Its servers: `http://host:port` or `https://host:port`.
    pub servers: Vec<Uri>,
    /// Time to connect; also the time to wait for a connection where all are in use.
    pub connect_timeout: Duration,
    /// Time from the request's end to the first byte of the answer's head.
    pub response_timeout: Duration,
    /// Time without a byte of body, either way.
    pub idle_timeout: Duration,
    /// Time without a byte, either way, after which a WebSocket is closed.
    pub tunnel_idle_timeout: Duration,
    /// Idle connections kept per server.
    pub max_idle: usize,
    /// Connections at most per server.
    pub max_connections: usize,
}

/// The connections to all servers, kept by server: a reload that still names a server keeps its pool.
pub struct Pools {
    endpoints: DashMap<Uri, Arc<Endpoint>>,
    tls: Option<Arc<ClientConfig>>,
    tasks: TaskTracker,
    dice: Dice,
    keep_idle: Duration,
}

/// An answer whose head has come.
struct Answered {
    response: Response<Incoming>,
    lease: Lease,
    upload: Option<Arc<Upload>>,
}

impl Pools {
    /// No connections yet. `tls` is needed only for https servers: see [`tls::client_config`].
    pub fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        let (endpoints, tasks, dice) = (DashMap::new(), TaskTracker::new(), Dice::default());
        Self { endpoints, tls, tasks, dice, keep_idle: KEEP_IDLE }
    }

    /// With connections kept idle for `time` instead of 30 seconds.
    #[must_use]
    pub fn keep_idle(mut self, time: Duration) -> Self {
        self.keep_idle = time;
        self
    }

    /// Sends a request to a server of `to` and waits for the head of its answer; the body follows as it is
    /// read. `response_timeout` stands in for the upstream's own where a route has one. The request's
    /// framing and version are made right here; its headers are the caller's (see [`hygiene::forward`]).
    pub async fn send(
        &self,
        to: &Settings,
        request: Request<Body>,
        response_timeout: Option<Duration>,
    ) -> Result<Response<Body>, SendError> {
        let Answered { response, lease, upload } = self.answered(to, request, response_timeout).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(SendError::Unacceptable("it switches protocols unasked"));
        }
        into_answer(to, response, lease, upload)
    }

    async fn answered(
        &self,
        to: &Settings,
        mut request: Request<Body>,
        response_timeout: Option<Duration>,
    ) -> Result<Answered, SendError> {
        framing::reframe(&mut request);
        let upload = request.body_mut().watch();
        let response = response_timeout.unwrap_or(to.response_timeout);
        let patience = Patience { response, idle: to.idle_timeout };
        let limits = Limits { max_connections: to.max_connections, wait: to.connect_timeout };
        let mut tried: SmallVec<[usize; 4]> = SmallVec::new();
        let mut fresh = false;
        loop {
            let (at, endpoint) = self.choose(to, &tried)?;
            let load = Load::new(endpoint);
            let (mut live, reused) = match load.0.checkout(limits, fresh).await? {
                Turn::Reuse(live) => (live, true),
                Turn::Connect(slot) => match connect(&load.0, slot, to.connect_timeout).await {
                    Ok(live) => {
                        load.0.health.reached();
                        (live, false)
                    }
                    Err(error) => {
                        load.0.health.failed();
                        tried.push(at);
                        if error.is_connect() && tried.len() < to.servers.len().min(SERVERS_TRIED) {
                            continue;
                        }
                        return Err(error);
                    }
                },
            };
            let second = if reused && !fresh { spare(&request) } else { None };
            match exchange(&mut live, request, upload.as_ref(), patience).await {
                Ok(response) => {
                    let lifetime = lifetime(&response, self.keep_idle);
                    let lease = Lease { live, load, lifetime, max_idle: to.max_idle, settle: to.idle_timeout };
                    return Ok(Answered { response, lease, upload });
                }
                // The backend let go of an idle connection just as we took it: not its last word.
                Err(Lost { error, unsent }) if reused && !fresh => {
                    let second = if error.is_closed() { unsent.or(second) } else { None };
                    let Some(second) = second else { return Err(error) };
                    request = second;
                    fresh = true;
                }
                Err(Lost { error, .. }) => return Err(error),
            }
        }
    }

    /// A server that was not tried yet, one that can be reached before one that could not.
    fn choose(&self, to: &Settings, tried: &[usize]) -> Result<(usize, Arc<Endpoint>), SendError> {
        if let [only] = to.servers.as_slice() {
            return Ok((0, self.endpoint(only)?));
        }
        let mut candidates: SmallVec<[(usize, Arc<Endpoint>); 8]> = SmallVec::new();
        for (at, server) in to.servers.iter().enumerate().filter(|(at, _)| !tried.contains(at)) {
            candidates.push((at, self.endpoint(server)?));
        }
        if candidates.iter().any(|(_, endpoint)| !endpoint.health.is_ejected()) {
            candidates.retain(|(_, endpoint)| !endpoint.health.is_ejected());
        }
        let chosen = lighter(&self.dice, &candidates, |(_, endpoint)| endpoint.in_flight.load(Ordering::Relaxed));
        chosen.map(|chosen| candidates.swap_remove(chosen)).ok_or_else(|| SendError::Connect {
            server: to.name.clone(),
            source: io::Error::other("the upstream has no servers"),
        })
    }

    fn endpoint(&self, server: &Uri) -> Result<Arc<Endpoint>, SendError> {
        if let Some(known) = self.endpoints.get(server) {
            return Ok(Arc::clone(&known));
        }
        let origin = Origin::new(server, self.tls.as_ref())?;
        let endpoint = self.endpoints.entry(server.clone());
        Ok(Arc::clone(&endpoint.or_insert_with(|| Endpoint::new(origin, self.tasks.clone()))))
    }

    /// Forgets servers that no configuration names any more; what is under way on them ends by itself.
    pub fn retain(&self, named: &[&Settings]) {
        self.endpoints.retain(|server, endpoint| {
            let kept = named.iter().any(|settings| settings.servers.contains(server));
            if !kept {
                endpoint.close();
            }
            kept
        });
    }

    /// What each server's pool looks like.
    pub fn gauges(&self) -> Vec<Gauges> {
        self.endpoints.iter().map(|endpoint| endpoint.gauges()).collect()
    }

    /// Lets every idle connection go and waits until the ones in use have ended. Bound it by a timeout.
    pub async fn close(&self) {
        self.endpoints.iter().for_each(|endpoint| endpoint.close());
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn into_answer(
    to: &Settings,
    response: Response<Incoming>,
    lease: Lease,
    upload: Option<Arc<Upload>>,
) -> Result<Response<Body>, SendError> {
    let (mut parts, incoming) = response.into_parts();
    hygiene::clean_response(&mut parts).map_err(SendError::Unacceptable)?;
    Ok(Response::from_parts(parts, Body::upstream(incoming, lease, to.idle_timeout, upload)))
}

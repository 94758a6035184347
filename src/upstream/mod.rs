//! The backends: connections, balancing, timeouts, header hygiene.
//!
//! The edge readies a request ([`framing::check`], [`hygiene`]) and hands it to [`Pools::send_noting`], which chooses a server
//! (`attempt`, `balance`), takes an idle connection or makes one (`endpoint`, `connect`), waits for the answer's head
//! (`exchange`) and returns it with a [`body::Body`] that holds the connection until it was read to its end. Servers that
//! fail their health checks (`check`, `watch`) are not chosen. [`tunnel`] does the same for a WebSocket. Everything is
//! owned by a [`Pools`], so that each worker may have its own.
//!
//! What it is not: it knows no routes, sites or identities, and renders nothing for clients.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use http::{Request, Response, StatusCode};
use rustls::ClientConfig;
use tokio_util::task::TaskTracker;

mod ahead;
mod attempt;
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
mod reach;
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

use attempt::Answered;
use balance::Dice;
use body::Body;
use connect::Origin;
use endpoint::Endpoint;
use watch::Watches;

use crate::observe::metrics::Metrics;

/// How long a connection stays idle at most: below what servers commonly allow.
const KEEP_IDLE: Duration = Duration::from_secs(30);

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
        let own = overrides.copied().unwrap_or_default();
        self.send_noting(to, &mut Some(request), &own, &mut None).await
    }

    /// The same, of a request that stays where it is until it is sent: it is large, and each future on the way would hold
    /// room for it. `server` says which server has it, as `http://host:port`, from when one is chosen: also where this
    /// comes to nothing, or is dropped.
    pub async fn send_noting(
        &self,
        to: &Settings,
        request: &mut Option<Request<Body>>,
        overrides: &Overrides,
        server: &mut Option<Arc<str>>,
    ) -> Result<Response<Body>, SendError> {
        let answered = self.answered(to, request, overrides, false, server).await?;
        if answered.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(SendError::Unacceptable("it switches protocols unasked"));
        }
        into_answer(answered)
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

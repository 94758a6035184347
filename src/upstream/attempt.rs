//! One request, from the choice of a server to the head of its answer.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::select_ok;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::balance::{Ejection, Health, lighter};
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

/// Servers tried for one request, within the upstream's [`Retries`](super::Retries).
const SERVERS_TRIED: usize = 3;

/// An answer whose head has come.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    /// When the answer must have ended.
    pub(super) due: Option<Instant>,
    pub(super) upload: Option<Arc<Upload>>,
}

/// What a request has been through.
struct Ways {
    /// Servers that could not be reached, or that have lost it.
    tried: SmallVec<[usize; 4]>,
    /// Servers that have no connection for it just now: it waits for one only where all are so.
    full: SmallVec<[usize; 2]>,
    want: Want,
    /// It was sent once more already, and the server may have seen both.
    again: bool,
    /// What the last one said.
    failed: Option<SendError>,
}

/// When a request must be over as a whole.
#[derive(Clone, Copy)]
struct Whole {
    due: Instant,
    /// How long a server must have had it to be blamed; `None`: it is the client who will not wait any longer.
    blames: Option<Duration>,
}

impl Whole {
    fn of(to: &Settings, own: &Overrides) -> Option<Self> {
        let limit = own.whole.or(to.timeout);
        let length = limit.into_iter().chain(own.deadline).min()?;
        let blames = limit.filter(|limit| *limit == length).map(|limit| limit / 4 * 3);
        Some(Self { due: Instant::now() + length, blames })
    }

    /// Whether a server is to blame that has had the request for so long when the time was over.
    fn blames(self, had: Duration) -> bool {
        self.blames.is_some_and(|least| had >= least)
    }
}

impl Pools {
    /// Takes the request when it is sent. `alone`: on a connection that nobody shares, in HTTP/1.1. `server`: as in
    /// [`Pools::send_noting`].
    pub(super) async fn answered(
        &self,
        to: &Settings,
        request: &mut Option<Request<Body>>,
        own: &Overrides,
        alone: bool,
        server: &mut Option<Arc<str>>,
    ) -> Result<Answered, SendError> {
        let whole = Whole::of(to, own);
        let attempt = pin!(self.attempt(to, request, own, whole, alone, server));
        let Some(Whole { due, .. }) = whole else { return attempt.await };
        match tokio::time::timeout_at(due, attempt).await {
            Ok(answered) => answered.map(|answered| Answered { due: Some(due), ..answered }),
            Err(_) => Err(SendError::Overdue),
        }
    }

    async fn attempt(
        &self,
        to: &Settings,
        slot: &mut Option<Request<Body>>,
        own: &Overrides,
        whole: Option<Whole>,
        alone: bool,
        server: &mut Option<Arc<str>>,
    ) -> Result<Answered, SendError> {
        let unsent = slot.as_mut().ok_or(SendError::Unsendable("it was sent before"))?;
        let upload = unsent.body_mut().watch();
        let trail = unsent.extensions_mut().remove::<Trail>();
        let idle = own.idle.unwrap_or(to.idle_timeout);
        let response = own.response.unwrap_or(to.response_timeout);
        let patience = Patience { response, idle, due: whole.map(|whole| whole.due) };
        let steps = Steps { tcp: own.connect.unwrap_or(to.connect_timeout), tls: own.tls.unwrap_or(to.tls_timeout) };
        let limits = Limits { max_connections: to.max_connections, max_queue: to.max_queue, wait: to.queue_timeout };
        to.budget.request();
        let mut ways = Ways::new(to, alone);
        loop {
            // Where nobody is left to be asked, what the last one said is the answer.
            let none = |none, ways: &mut Ways| ways.failed.take().unwrap_or(none);
            let (at, load, turn) = match self.choose(to, &ways).map_err(|error| none(error, &mut ways))? {
                Choice::Server(at, endpoint) => {
                    let load = Load::new(endpoint);
                    match load.0.checkout(limits, ways.want).await {
                        Err(SendError::Busy { .. }) if !ways.want.waits => {
                            ways.full.push(at);
                            continue;
                        }
                        turn => (at, load, turn),
                    }
                }
                Choice::Any(all) => {
                    let first = Box::pin(first(all, limits, ways.want)).await;
                    let (at, load, turn) = first.map_err(|error| none(error, &mut ways))?;
                    (at, load, Ok(turn))
                }
            };
            *server = Some(Arc::clone(&load.0.origin.text));
            if let Some(trail) = &trail {
                trail.tries(&load.0.origin.address);
            }
            let linked = match turn {
                Ok(turn) => self.link(to, &load.0, turn, ways.want, steps, whole).await,
                Err(error) => Err(error),
            };
            let (mut link, reused) = match linked {
                Ok(linked) => linked,
                Err(error) if error.is_connect() => {
                    ways.goes_on(to, at, error)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let request = slot.as_mut().ok_or(SendError::Unsendable("it was sent before"))?;
            match &link {
                Link::Alone(_) => framing::reframe(request),
                Link::Joint(_) => framing::reframe_http2(request, load.0.origin.scheme())
                    .ok_or(SendError::Unsendable("its Host is no authority"))?,
            }
            let stale = reused && !ways.want.fresh;
            let copy = if !ways.again && (stale || ways.others(to, 1)) { spare(request) } else { None };
            // Straight from its place to hyper: between the two it would be held here for as long as its answer takes.
            let answer = pin!(send(&mut link, std::mem::replace(slot, copy))?);
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
                Err(lost) => {
                    let Lost { error, unsent, had } = *lost;
                    let late = whole.is_some_and(|whole| whole.blames(had));
                    blame(&link, reused, &error, late, &load.0.health, &to.ejection);
                    if !error.is_closed() && !error.is_refused() {
                        return Err(error);
                    }
                    let harmless = |request: &Request<Body>| error.is_refused() || is_repeatable(request.method());
                    let seen = unsent.is_none();
                    *slot = unsent.or_else(|| slot.take().filter(harmless));
                    if slot.is_none() {
                        return Err(error);
                    }
                    // The backend let go of an idle connection just as we took it: not its last word.
                    if stale { ways.anew(to, error) } else { ways.goes_on(to, at, error) }?;
                    ways.again |= seen;
                }
            }
        }
    }

    /// The connection that a turn is for, and whether it was there before.
    async fn link(
        &self,
        to: &Settings,
        endpoint: &Arc<Endpoint>,
        turn: Turn,
        want: Want,
        steps: Steps,
        whole: Option<Whole>,
    ) -> Result<(Link, bool), SendError> {
        let (slot, opening) = match turn {
            Turn::Reuse(live) => return Ok((Link::Alone(live), true)),
            Turn::Join(stream) => return Ok((Link::Joint(stream), true)),
            // Held to the end: its place is given on only after those who wait for this very connection have been told.
            Turn::Connect(slot, opening) => (Arc::new(slot), opening),
        };
        let began = Instant::now();
        // Boxed: handshakes are large and rare, and every request's future would hold room for one.
        let making = Box::pin(async {
            let made = connect(endpoint, Arc::clone(&slot), want.alone, steps);
            let Some(whole) = whole else { return made.await };
            tokio::time::timeout_at(whole.due, made).await.unwrap_or(Err(SendError::Overdue))
        });
        match making.await {
            Ok(made) => {
                endpoint.health.reached();
                Ok(match made {
                    Made::Alone(live) => {
                        if !want.alone {
                            endpoint.chose_http1(to.max_connections);
                        }
                        (Link::Alone(live), false)
                    }
                    Made::Joint(joint) => (Link::Joint(endpoint.welcome(joint)), false),
                })
            }
            Err(error) => {
                let failed = error.is_connect();
                if failed || whole.is_some_and(|whole| whole.blames(began.elapsed())) {
                    endpoint.health.failed(&to.ejection);
                }
                // Where it is only this request that will not wait any longer, others do.
                if let Some(opening) = opening.filter(|_| failed) {
                    opening.failed();
                }
                Err(error)
            }
        }
    }

    /// A server that was not tried yet and that does not fail its health checks: of those, one that requests do not fail
    /// on before one that they do.
    fn choose(&self, to: &Settings, ways: &Ways) -> Result<Choice, SendError> {
        if let [only] = to.servers.as_slice()
            && !only.watched.is_down()
        {
            return Ok(Choice::Server(0, self.endpoint(to, only)?));
        }
        let mut candidates: SmallVec<[(usize, Arc<Endpoint>); 8]> = SmallVec::new();
        for (at, server) in to.servers.iter().enumerate() {
            if !ways.tried.contains(&at) && !server.watched.is_down() {
                candidates.push((at, self.endpoint(to, server)?));
            }
        }
        let left = candidates.iter().filter(|(_, endpoint)| !endpoint.health.is_ejected()).count();
        if left > 0 && left * 100 >= candidates.len() * to.ejection.panic as usize {
            candidates.retain(|(_, endpoint)| !endpoint.health.is_ejected());
        }
        if candidates.is_empty() {
            return Err(match to.servers.as_slice() {
                [] => {
                    let source = io::Error::other("the upstream has no servers");
                    SendError::Connect { server: to.name.clone(), source }
                }
                _ => SendError::Unhealthy { upstream: to.name.clone() },
            });
        }
        if candidates.iter().all(|(at, _)| ways.full.contains(at)) {
            return Ok(Choice::Any(candidates.into_vec()));
        }
        candidates.retain(|(at, _)| !ways.full.contains(at));
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
        let (at, endpoint) = candidates.swap_remove(chosen.unwrap_or(0));
        Ok(Choice::Server(at, endpoint))
    }
}

/// Where a request goes next.
enum Choice {
    /// To this server.
    Server(usize, Arc<Endpoint>),
    /// To the first of these that has a connection for it: none has one now.
    Any(Vec<(usize, Arc<Endpoint>)>),
}

/// Says what an exchange that was lost says of its connection and its server. `late`: the server had the time that there
/// was.
fn blame(link: &Link, reused: bool, error: &SendError, late: bool, health: &Health, rules: &Ejection) {
    if let Link::Joint(stream) = link
        && !matches!(error, SendError::Reset(_) | SendError::RequestBody { .. } | SendError::Overdue)
    {
        // Whether it is dead or only slow, nobody else should find out on it. A whole time that ran out says less: a route may
        // have a short one, and the connection carries others' streams as well as before.
        stream.joint.retire();
    }
    let servers = error.is_servers() && !(reused && error.is_closed());
    if servers || matches!(error, SendError::Overdue) && late {
        health.erred(rules);
    }
}

/// Waits in the queues of all of them: each then holds those who wait for any.
async fn first(all: Vec<(usize, Arc<Endpoint>)>, limits: Limits, want: Want) -> Result<(usize, Load, Turn), SendError> {
    let (want, max_queue) = (Want { waits: true, ..want }, limits.max_queue.saturating_mul(all.len()));
    let limits = Limits { max_queue, ..limits };
    let turn = |(at, endpoint): (usize, Arc<Endpoint>)| {
        Box::pin(async move {
            let turn = endpoint.checkout(limits, want).await?;
            Ok((at, Load::new(endpoint), turn))
        })
    };
    // Those that wait elsewhere are dropped, and with them what they might be given at this very moment.
    select_ok(all.into_iter().map(turn)).await.map(|(first, _others)| first)
}

impl Ways {
    fn new(to: &Settings, alone: bool) -> Self {
        let want = Want { fresh: false, alone, waits: to.servers.len() < 2 };
        Self { tried: SmallVec::new(), full: SmallVec::new(), want, again: false, failed: None }
    }

    /// Whether some server is left when `more` have been tried than have.
    fn others(&self, to: &Settings, more: usize) -> bool {
        self.tried.len() + more < to.servers.len().min(SERVERS_TRIED)
    }

    /// The server at `at` has failed: to another one, if there is one, and as long as there are second attempts.
    fn goes_on(&mut self, to: &Settings, at: usize, error: SendError) -> Result<(), SendError> {
        self.tried.push(at);
        self.full.clear();
        if !self.others(to, 0) || !to.budget.spend(to.retries) {
            return Err(error);
        }
        self.failed = Some(error);
        Ok(())
    }

    /// An old connection has failed, not its server: on a new one.
    fn anew(&mut self, to: &Settings, error: SendError) -> Result<(), SendError> {
        if !to.budget.spend(to.retries) {
            return Err(error);
        }
        self.want.fresh = true;
        self.failed = Some(error);
        Ok(())
    }
}

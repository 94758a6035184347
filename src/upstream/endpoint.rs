//! One server: its idle connections, how many are open, and who waits for one.
//!
//! A connection is in exactly one place: in use (a [`Lease`](super::lease::Lease)), idle here, or gone.
//! The lock is held for a few pointer moves, never over an `.await`, and nothing is dropped under it
//! whose drop takes it again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::balance::Health;
use super::body::Body;
use super::connect::Origin;
use super::error::SendError;

/// Requests that may wait for each connection allowed; more are refused at once.
const WAITING_PER_CONNECTION: usize = 4;

/// One server.
pub(super) struct Endpoint {
    pub(super) origin: Origin,
    pub(super) health: Health,
    /// Runs the connections, and is awaited when the pools close.
    pub(super) tasks: TaskTracker,
    pub(super) in_flight: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Oldest first; taken from the end, so that the warmest is used and the rest can expire.
    idle: Vec<Idle>,
    /// Connections that exist or are being made.
    open: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    reaper: Option<AbortHandle>,
    closed: bool,
}

struct Idle {
    live: Live,
    until: Instant,
}

/// A connection that hyper runs. Dropped, it is cut at once, whatever was under way.
pub(super) struct Live {
    pub(super) sender: SendRequest<Body>,
    task: Option<AbortHandle>,
    /// Counted until the last of its holders is gone: the task, this, a tunnel.
    pub(super) slot: Arc<Slot>,
}

impl Live {
    pub(super) const fn new(sender: SendRequest<Body>, task: AbortHandle, slot: Arc<Slot>) -> Self {
        Self { sender, task: Some(task), slot }
    }

    /// Lets an idle connection end by itself, with TLS's goodbye where there is TLS.
    pub(super) fn retire(mut self) {
        self.task = None;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// The right to one connection.
pub(super) struct Slot(Weak<Endpoint>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0.upgrade() {
            endpoint.freed();
        }
    }
}

/// What a request got to proceed with.
pub(super) enum Turn {
    /// An idle connection.
    Reuse(Live),
    /// The right to make one.
    Connect(Slot),
}

/// How many connections, and how long to wait for one.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_connections: usize,
    pub(super) wait: Duration,
}

/// What a server's pool looks like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// The server: `http://host:port`.
    pub server: String,
    /// Connections, idle or not.
    pub open: usize,
    /// Connections without a request.
    pub idle: usize,
    /// Requests whose answer has not ended.
    pub in_flight: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// Whether the server is left out because it could not be reached.
    pub ejected: bool,
}

impl Endpoint {
    pub(super) fn new(origin: Origin, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { origin, health: Health::new(), tasks, in_flight: AtomicUsize::new(0), state: Mutex::default() })
    }

    /// An idle connection, or the right to make one: now, or when one is freed in time. `fresh`: not an
    /// idle one, since one of them has just turned out dead.
    pub(super) async fn checkout(self: &Arc<Self>, limits: Limits, fresh: bool) -> Result<Turn, SendError> {
        let (turn, dead) = self.try_checkout(limits.max_connections, fresh);
        drop(dead);
        let busy = || SendError::Busy { server: self.origin.to_string() };
        match turn {
            Place::Turn(turn) => Ok(turn),
            Place::Full => Err(busy()),
            Place::Queued(turn) => match tokio::time::timeout(limits.wait, turn).await {
                Ok(Ok(turn)) => Ok(turn),
                _ => Err(busy()),
            },
        }
    }

    /// Beside the place, the connections that were found dead: dropped by the caller, outside the lock.
    fn try_checkout(self: &Arc<Self>, max: usize, fresh: bool) -> (Place, Vec<Live>) {
        let mut dead = Vec::new();
        let mut state = self.lock();
        while let Some(Idle { live, until }) = state.idle.pop() {
            if !fresh && live.sender.is_ready() && until > Instant::now() {
                return (Place::Turn(Turn::Reuse(live)), dead);
            }
            dead.push(live);
            if fresh {
                break;
            }
        }
        if state.open < max {
            state.open += 1;
            return (Place::Turn(Turn::Connect(Slot(Arc::downgrade(self)))), dead);
        }
        let room = max.saturating_mul(WAITING_PER_CONNECTION);
        if state.waiting.len() >= room {
            state.waiting.retain(|waiter| !waiter.is_closed());
        }
        if state.closed || state.waiting.len() >= room {
            return (Place::Full, dead);
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push_back(sender);
        (Place::Queued(receiver), dead)
    }

    /// Takes a ready connection back: for whoever waits, or to stay idle for `lifetime`.
    pub(super) fn give_back(self: &Arc<Self>, mut live: Live, lifetime: Duration, max_idle: usize) {
        loop {
            let mut state = self.lock();
            let Some(waiter) = state.waiting.pop_front() else {
                if let Some(live) = self.keep(&mut state, live, lifetime, max_idle) {
                    drop(state);
                    live.retire();
                }
                return;
            };
            drop(state);
            match waiter.send(Turn::Reuse(live)) {
                Err(Turn::Reuse(back)) => live = back,
                _ => return,
            }
        }
    }

    fn keep(self: &Arc<Self>, state: &mut State, live: Live, lifetime: Duration, max_idle: usize) -> Option<Live> {
        // Outside of a runtime (a body dropped at the very end) nothing could ever expire it.
        let runtime = tokio::runtime::Handle::try_current().ok();
        let (Some(runtime), false, true) = (runtime, state.closed, state.idle.len() < max_idle) else {
            return Some(live);
        };
        state.idle.push(Idle { live, until: Instant::now() + lifetime });
        if state.reaper.as_ref().is_none_or(AbortHandle::is_finished) {
            let task = self.tasks.spawn_on(reap(Arc::downgrade(self)), &runtime);
            state.reaper = Some(task.abort_handle());
        }
        None
    }

    /// A connection is gone: its place goes to the first that waits.
    fn freed(self: &Arc<Self>) {
        let mut state = self.lock();
        while let Some(waiter) = state.waiting.pop_front() {
            if !waiter.is_closed() {
                drop(state);
                // Should the waiter leave at this very moment, dropping the slot comes back here.
                drop(waiter.send(Turn::Connect(Slot(Arc::downgrade(self)))));
                return;
            }
        }
        state.open -= 1;
    }

    /// Drops what is idle and refuses to keep anything from here on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        let reaper = state.reaper.take();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if let Some(reaper) = reaper {
            reaper.abort();
        }
        for idle in idle {
            idle.live.retire();
        }
    }

    pub(super) fn gauges(&self) -> Gauges {
        let state = self.lock();
        Gauges {
            server: self.origin.to_string(),
            open: state.open,
            idle: state.idle.iter().filter(|idle| !idle.live.sender.is_closed()).count(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            waiting: state.waiting.iter().filter(|waiter| !waiter.is_closed()).count(),
            ejected: self.health.is_ejected(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole at each point where it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Place {
    Turn(Turn),
    Queued(oneshot::Receiver<Turn>),
    Full,
}

/// Lives as long as something is idle: one timer a server, none a request.
async fn reap(endpoint: Weak<Endpoint>) {
    while let Some(next) = endpoint.upgrade().and_then(|endpoint| reap_once(&endpoint)) {
        tokio::time::sleep_until(next).await;
    }
}

fn reap_once(endpoint: &Endpoint) -> Option<Instant> {
    let now = Instant::now();
    let mut state = endpoint.lock();
    let expired: Vec<Idle> =
        state.idle.extract_if(.., |idle| idle.until <= now || idle.live.sender.is_closed()).collect();
    let next = state.idle.iter().map(|idle| idle.until).min();
    if next.is_none() {
        state.reaper = None;
    }
    drop(state);
    for idle in expired {
        idle.live.retire();
    }
    next
}

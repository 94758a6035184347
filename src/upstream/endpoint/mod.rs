//! One server: how many connections are open, which of them rest (`idle`), and who waits for one (`queue`).
//!
//! An HTTP/1.1 connection is in exactly one place: in use (a [`Lease`](super::lease::Lease)), idle here, or gone.
//! One of HTTP/2 is listed here with its requests for as long as it takes new ones.
//! The lock is held for a few pointer moves, never over an `.await`, and nothing is dropped under it
//! whose drop takes it again.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::balance::Health;
use super::connect::Origin;
use super::error::SendError;
use super::joint::{Joint, Stream};

mod idle;
mod queue;

pub(super) use idle::Live;
pub(super) use queue::{Slot, Turn};

use idle::Idle;
use queue::Waiter;

/// One server.
pub(super) struct Endpoint {
    pub(super) origin: Origin,
    pub(super) health: Health,
    /// Runs the connections, and is awaited when the pools close.
    pub(super) tasks: TaskTracker,
    pub(super) in_flight: AtomicUsize,
    /// Requests at once on a connection that carries many.
    pub(super) max_streams: usize,
    /// How long a connection stays that carries nothing.
    keep_idle: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Oldest first; taken from the end, so that the warmest is used and the rest can expire.
    idle: Vec<Idle>,
    joints: Vec<Carrying>,
    /// Connections that exist or are being made.
    open: usize,
    /// Those being made that will carry many requests, as far as is known.
    opening: usize,
    /// Where the server chooses, it last chose HTTP/1.1.
    chose_http1: bool,
    waiting: VecDeque<Waiter>,
    reaper: Option<AbortHandle>,
    closed: bool,
}

/// A connection with its requests.
struct Carrying {
    joint: Arc<Joint>,
    streams: usize,
    /// When it goes, if it carries nothing.
    until: Instant,
}

/// How many connections, and how long to wait for one.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_connections: usize,
    pub(super) max_queue: usize,
    pub(super) wait: Duration,
}

/// What a request needs of its connection.
#[derive(Clone, Copy)]
pub(super) struct Want {
    /// Not an idle one: one of them has just turned out dead.
    pub(super) fresh: bool,
    /// For itself: it will carry another protocol.
    pub(super) alone: bool,
    /// It waits for one where all are in use.
    pub(super) waits: bool,
}

/// What a server's pool looks like from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    pub(super) fn new(origin: Origin, max_streams: usize, keep_idle: Duration, tasks: TaskTracker) -> Arc<Self> {
        let (health, in_flight) = (Health::new(), AtomicUsize::new(0));
        Arc::new(Self { origin, health, tasks, in_flight, max_streams, keep_idle, state: Mutex::default() })
    }

    /// A connection that has room, or the right to make one: now, or when one is freed in time.
    pub(super) async fn checkout(self: &Arc<Self>, limits: Limits, want: Want) -> Result<Turn, SendError> {
        let mut dead = Dead::default();
        let place = self.try_checkout(limits, want, &mut dead);
        drop(dead);
        let server = || self.origin.address.to_string();
        match place {
            Place::Turn(turn) => Ok(turn),
            Place::Full => Err(SendError::Busy { server: server() }),
            Place::Queued(turn) => match tokio::time::timeout(limits.wait, turn).await {
                Ok(Ok(turn)) => Ok(turn),
                Ok(Err(_)) => Err(SendError::Connect {
                    server: server(),
                    source: io::Error::other("the connection that was waited for could not be made"),
                }),
                Err(_) => Err(SendError::Busy { server: server() }),
            },
        }
    }

    fn try_checkout(self: &Arc<Self>, limits: Limits, want: Want, dead: &mut Dead) -> Place {
        let mut state = self.lock();
        let joins = !want.alone && self.origin.may_join();
        if joins {
            dead.joints.extend(state.joints.extract_if(.., |it| !it.joint.is_open()));
            if let Some(stream) = self.join(&mut state) {
                return Place::Turn(Turn::Join(stream));
            }
        }
        let here = thread::current().id();
        let full = state.open >= limits.max_connections;
        while let Some(Idle { live, until }) = state.take_idle(here, full || want.fresh) {
            if !want.fresh && live.sender.is_ready() && until > Instant::now() {
                return Place::Turn(Turn::Reuse(live));
            }
            dead.lives.push(*live);
            if want.fresh {
                break;
            }
        }
        let joins = joins && !state.chose_http1;
        let comes = joins && state.waiting.len() < state.opening.saturating_mul(self.max_streams);
        if !comes && state.open < limits.max_connections {
            state.open += 1;
            return Place::Turn(self.connecting(&mut state, joins));
        }
        if !comes && !want.waits {
            return Place::Full;
        }
        if state.waiting.len() >= limits.max_queue {
            state.waiting.retain(|waiter| !waiter.turn.is_closed());
        }
        if state.closed || state.waiting.len() >= limits.max_queue {
            return Place::Full;
        }
        let (turn, receiver) = oneshot::channel();
        state.waiting.push_back(Waiter { turn, alone: want.alone });
        Place::Queued(receiver)
    }

    /// A place on the connection that has most room.
    fn join(self: &Arc<Self>, state: &mut State) -> Option<Stream> {
        let open = state.joints.iter_mut().filter(|it| it.joint.is_open());
        let least = open.min_by_key(|it| it.streams).filter(|it| it.streams < it.joint.room(self.max_streams))?;
        least.streams += 1;
        Some(Stream::new(Arc::clone(&least.joint), self))
    }

    /// Takes in a connection that was made for one request and carries more.
    pub(super) fn welcome(self: &Arc<Self>, joint: Arc<Joint>) -> Stream {
        let mut state = self.lock();
        state.chose_http1 = false;
        let stream = Stream::new(Arc::clone(&joint), self);
        state.joints.push(Carrying { joint, streams: 1, until: Instant::now() });
        stream
    }

    /// A request on a shared connection has ended: its place goes to the first that waits.
    pub(super) fn left(self: &Arc<Self>, joint: &Arc<Joint>) {
        let mut state = self.lock();
        let Some(at) = state.joints.iter().position(|it| Arc::ptr_eq(&it.joint, joint)) else { return };
        let closed = state.closed;
        let carrying = &mut state.joints[at];
        carrying.streams -= 1;
        let idle = carrying.streams == 0;
        if !carrying.joint.is_open() || closed {
            let gone = if idle { Some(state.joints.swap_remove(at)) } else { None };
            drop(state);
            drop(gone);
            return;
        }
        if idle {
            carrying.until = Instant::now() + self.keep_idle;
        }
        let waits = !state.waiting.is_empty();
        if idle && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.watch_idle(&mut state, &runtime);
        }
        drop(state);
        if waits {
            self.serve_waiting();
        }
    }

    /// Drops what is idle and refuses to keep anything from here on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        let reaper = state.reaper.take();
        let idle = std::mem::take(&mut state.idle);
        let joints = std::mem::take(&mut state.joints);
        drop(state);
        drop((waiting, joints));
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
            server: self.origin.address.to_string(),
            open: state.open,
            idle: state.idle.iter().filter(|idle| !idle.live.sender.is_closed()).count()
                + state.joints.iter().filter(|it| it.streams == 0 && it.joint.is_open()).count(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            waiting: state.waiting.iter().filter(|waiter| !waiter.turn.is_closed()).count(),
            ejected: self.health.is_ejected(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole at each point where it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections that were found dead: dropped outside of the lock.
#[derive(Default)]
struct Dead {
    lives: Vec<Live>,
    joints: Vec<Carrying>,
}

enum Place {
    Turn(Turn),
    Queued(oneshot::Receiver<Turn>),
    Full,
}

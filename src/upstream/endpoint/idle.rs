//! Connections that rest: kept warm for the next request, given to whoever waits first, let go when their time is over.

use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Carrying, Endpoint, Slot, State, Turn};
use crate::upstream::ahead::Ahead;
use crate::upstream::body::Body;
use crate::upstream::progress::Alarm;

/// A connection that hyper runs. Dropped, it is cut at once, whatever was under way. Always boxed: it is handed on with each
/// request, and back.
pub(in crate::upstream) struct Live {
    pub(in crate::upstream) sender: SendRequest<Body>,
    /// What the backend may say before its answer.
    pub(in crate::upstream) ahead: Arc<Ahead>,
    task: Option<AbortHandle>,
    /// Counted until the last of its holders is gone: the task, this, a tunnel.
    pub(in crate::upstream) slot: Arc<Slot>,
    /// The thread that made it, which is the one that runs it where each has a runtime of its own: from any other, every
    /// request on it would wake a thread that sleeps.
    thread: ThreadId,
    /// For how long each request waits for its answer.
    pub(in crate::upstream) alarm: Alarm,
}

impl Live {
    pub(in crate::upstream) fn new(
        sender: SendRequest<Body>,
        task: AbortHandle,
        slot: Arc<Slot>,
        ahead: Arc<Ahead>,
    ) -> Self {
        Self { sender, ahead, task: Some(task), slot, thread: thread::current().id(), alarm: Alarm::default() }
    }

    /// Lets an idle connection end by itself, with TLS's goodbye where there is TLS.
    pub(in crate::upstream) fn retire(mut self) {
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

pub(super) struct Idle {
    pub(super) live: Box<Live>,
    pub(super) until: Instant,
}

impl State {
    /// The warmest idle connection of this thread; of another's only where there is no room for one of our own.
    pub(super) fn take_idle(&mut self, here: ThreadId, others: bool) -> Option<Idle> {
        match self.idle.iter().rposition(|idle| idle.live.thread == here) {
            Some(at) => Some(self.idle.remove(at)),
            None if others => self.idle.pop(),
            None => None,
        }
    }
}

impl Endpoint {
    /// Takes a ready connection back: for whoever waits, or to stay idle for `lifetime`.
    pub(in crate::upstream) fn give_back(self: &Arc<Self>, mut live: Box<Live>, lifetime: Duration, max_idle: usize) {
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
            match waiter.turn.send(Turn::Reuse(live)) {
                Err(Turn::Reuse(back)) => live = back,
                _ => return,
            }
        }
    }

    fn keep(
        self: &Arc<Self>,
        state: &mut State,
        live: Box<Live>,
        lifetime: Duration,
        max_idle: usize,
    ) -> Option<Box<Live>> {
        // Outside of a runtime (a body dropped at the very end) nothing could ever expire it.
        let runtime = tokio::runtime::Handle::try_current().ok();
        let (Some(runtime), false, true) = (runtime, state.closed, state.idle.len() < max_idle) else {
            return Some(live);
        };
        state.idle.push(Idle { live, until: Instant::now() + lifetime });
        self.watch_idle(state, &runtime);
        None
    }

    pub(super) fn watch_idle(self: &Arc<Self>, state: &mut State, runtime: &tokio::runtime::Handle) {
        if state.reaper.as_ref().is_none_or(AbortHandle::is_finished) {
            let task = self.tasks.spawn_on(reap(Arc::downgrade(self)), runtime);
            state.reaper = Some(task.abort_handle());
        }
    }
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
    let past = |it: &mut Carrying| it.streams == 0 && (it.until <= now || !it.joint.is_open());
    let gone: Vec<Carrying> = state.joints.extract_if(.., past).collect();
    let alone = state.idle.iter().map(|idle| idle.until);
    let next = alone.chain(state.joints.iter().filter(|it| it.streams == 0).map(|it| it.until)).min();
    if next.is_none() {
        state.reaper = None;
    }
    drop(state);
    drop(gone);
    for idle in expired {
        idle.live.retire();
    }
    next
}

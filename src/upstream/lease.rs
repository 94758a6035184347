//! A connection in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::endpoint::{Endpoint, Live, Slot};
use super::joint::Stream;

/// One request that a server has to deal with: what the balance looks at.
pub(super) struct Load(pub(super) Arc<Endpoint>);

impl Load {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one request is sent on.
pub(super) enum Link {
    /// A connection of its own, for now. Dropped, it is cut.
    Alone(Box<Live>),
    /// One stream of a connection. Dropped, its place is free; hyper resets it if it had not ended.
    Joint(Stream),
}

impl Link {
    /// The answer's head is here.
    pub(super) fn answered(&self) {
        match self {
            Self::Alone(live) => live.ahead.is_over(),
            Self::Joint(stream) => stream.joint.answered(),
        }
    }
}

/// A connection in use by one request. Dropped before [`Lease::finish`], it is cut, or its stream is: nobody
/// may find the rest of this answer on it.
pub(super) struct Lease {
    pub(super) link: Link,
    pub(super) load: Load,
    /// How long it may stay idle afterwards; `None`: not to be used again.
    pub(super) lifetime: Option<Duration>,
    pub(super) max_idle: usize,
    /// How long the request's body may still take when the answer has ended.
    pub(super) settle: Duration,
}

impl Lease {
    /// The answer was read to its end: the connection goes back as soon as hyper is done with it too.
    pub(super) fn finish(self) {
        let Self { link, load, lifetime, max_idle, settle } = self;
        let (Link::Alone(mut live), Some(lifetime)) = (link, lifetime) else { return };
        if live.sender.is_ready() {
            return load.0.give_back(live, lifetime, max_idle);
        }
        // On another thread the connection may be a moment behind; or the request is still being sent
        // although it was answered (RFC 9112 section 9.3 lets a server do that).
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let endpoint = Arc::clone(&load.0);
        load.0.tasks.spawn_on(
            async move {
                if let Ok(Ok(())) = tokio::time::timeout(settle, live.sender.ready()).await {
                    endpoint.give_back(live, lifetime, max_idle);
                }
            },
            &runtime,
        );
    }

    /// The connection now carries another protocol: it is hyper's no longer, but still counts.
    /// `None` where it is one that others share, which cannot.
    pub(super) fn into_tunnel(self) -> Option<(Load, Arc<Slot>)> {
        let Link::Alone(live) = self.link else { return None };
        let slot = Arc::clone(&live.slot);
        live.retire();
        Some((self.load, slot))
    }
}

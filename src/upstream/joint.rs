//! An HTTP/2 connection: many requests share it.
//!
//! A request on it is a [`Stream`]; that one stream ends badly is its own affair. The connection takes no new ones
//! once it was retired or hyper has let go of it (GOAWAY, a lost peer); those on it go on to their end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use hyper::client::conn::http2::SendRequest;
use tokio::sync::Notify;

use super::body::Body;
use super::endpoint::{Endpoint, Slot};

/// One connection.
pub(super) struct Joint {
    sender: SendRequest<Body>,
    /// What the server allows at once, as last heard.
    allowed: Arc<AtomicUsize>,
    retired: AtomicBool,
    /// Asked once an answer has come: by then the server has said what it allows.
    heard: Arc<Notify>,
    asked: AtomicBool,
    /// Counted until the last stream has ended.
    _slot: Arc<Slot>,
}

impl Joint {
    pub(super) fn new(
        sender: SendRequest<Body>,
        allowed: Arc<AtomicUsize>,
        heard: Arc<Notify>,
        slot: Arc<Slot>,
    ) -> Self {
        let (retired, asked) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { sender, allowed, retired, heard, asked, _slot: slot }
    }

    /// An answer has come.
    pub(super) fn answered(&self) {
        if !self.asked.load(Ordering::Relaxed) && !self.asked.swap(true, Ordering::Relaxed) {
            self.heard.notify_one();
        }
    }

    /// Whether another request may begin on it.
    pub(super) fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && !self.sender.is_closed()
    }

    /// How many requests it carries at once. A server that allows none for now is given one, which waits.
    pub(super) fn room(&self, most: usize) -> usize {
        self.allowed.load(Ordering::Relaxed).clamp(1, most.max(1))
    }

    /// No request begins on it any more.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

/// The place of one request on a connection; given back when dropped.
pub(super) struct Stream {
    pub(super) joint: Arc<Joint>,
    pub(super) sender: SendRequest<Body>,
    endpoint: Weak<Endpoint>,
}

impl Stream {
    /// A place that the endpoint has counted.
    pub(super) fn new(joint: Arc<Joint>, endpoint: &Arc<Endpoint>) -> Self {
        let sender = joint.sender.clone();
        Self { joint, sender, endpoint: Arc::downgrade(endpoint) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(endpoint) = self.endpoint.upgrade() {
            endpoint.left(&self.joint);
        }
    }
}

//! Who waits for a connection, and who is served by one that is made, freed or joined.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::{Endpoint, Live, State};
use crate::upstream::joint::Stream;

/// What a request got to proceed with.
pub(in crate::upstream) enum Turn {
    /// An idle connection.
    Reuse(Box<Live>),
    /// A place on a connection that carries others too.
    Join(Stream),
    /// The right to make one.
    Connect(Slot, Option<Opening>),
}

/// The right to one connection.
pub(in crate::upstream) struct Slot(Weak<Endpoint>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0.upgrade() {
            endpoint.freed();
        }
    }
}

/// A connection that is being made and that others may be waiting for.
pub(in crate::upstream) struct Opening {
    endpoint: Weak<Endpoint>,
    failed: bool,
}

impl Opening {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self { endpoint: Arc::downgrade(endpoint), failed: false }
    }

    /// It could not be made: whoever waits for it is told, instead of each trying in turn.
    pub(in crate::upstream) fn failed(mut self) {
        self.failed = true;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(endpoint) = self.endpoint.upgrade() {
            endpoint.opened(self.failed);
        }
    }
}

pub(super) struct Waiter {
    pub(super) turn: oneshot::Sender<Turn>,
    /// It cannot share a connection.
    pub(super) alone: bool,
}

impl Endpoint {
    /// The right to make a connection, which is counted already.
    pub(super) fn connecting(self: &Arc<Self>, state: &mut State, joins: bool) -> Turn {
        let opening = joins.then(|| {
            state.opening += 1;
            Opening::new(self)
        });
        Turn::Connect(Slot(Arc::downgrade(self)), opening)
    }

    /// Where the server chooses, it chose HTTP/1.1: nobody need wait for somebody else's connection, and those who do
    /// already are let make their own, as many as there may be.
    pub(in crate::upstream) fn chose_http1(self: &Arc<Self>, max_connections: usize) {
        if !self.origin.may_join() {
            return;
        }
        self.lock().chose_http1 = true;
        loop {
            let mut state = self.lock();
            state.waiting.retain(|waiter| !waiter.turn.is_closed());
            if state.closed || state.open >= max_connections {
                return;
            }
            let Some(waiter) = state.waiting.pop_front() else { return };
            state.open += 1;
            let turn = self.connecting(&mut state, false);
            drop(state);
            // Should the waiter leave at this very moment, its place comes back by being dropped.
            drop(waiter.turn.send(turn));
        }
    }

    /// A connection that others could be waiting for was made, or not.
    fn opened(self: &Arc<Self>, failed: bool) {
        let mut state = self.lock();
        state.opening -= 1;
        if failed && state.opening == 0 && state.joints.is_empty() {
            let told = std::mem::take(&mut state.waiting);
            let (told, stay): (VecDeque<_>, _) = told.into_iter().partition(|waiter| !waiter.alone);
            state.waiting = stay;
            drop(state);
            drop(told);
            return;
        }
        drop(state);
        self.serve_waiting();
    }

    /// Gives places to those who wait, in their order, as long as there are any.
    pub(super) fn serve_waiting(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            state.waiting.retain(|waiter| !waiter.turn.is_closed());
            let Some(at) = state.waiting.iter().position(|waiter| !waiter.alone) else { return };
            let Some(stream) = self.join(&mut state) else { break };
            let Some(waiter) = state.waiting.remove(at) else { return };
            drop(state);
            // Should the waiter leave at this very moment, the place comes back by being dropped.
            drop(waiter.turn.send(Turn::Join(stream)));
        }
    }

    /// A connection is gone: its place goes to the first that waits.
    fn freed(self: &Arc<Self>) {
        let mut state = self.lock();
        while let Some(waiter) = state.waiting.pop_front() {
            if !waiter.turn.is_closed() {
                let joins = !waiter.alone && self.origin.may_join() && !state.chose_http1;
                let turn = self.connecting(&mut state, joins);
                drop(state);
                // Should the waiter leave at this very moment, dropping the slot comes back here.
                drop(waiter.turn.send(turn));
                return;
            }
        }
        state.open -= 1;
    }
}

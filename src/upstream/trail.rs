//! Where a request went, for whoever wants to know: put into its extensions before it is sent.

use std::sync::{Arc, Mutex, PoisonError};

use super::settings::Address;

/// Shared by whoever asks and the pools.
#[derive(Clone, Debug, Default)]
pub struct Trail(Arc<Mutex<Went>>);

/// What a [`Trail`] shows.
#[derive(Clone, Debug, Default)]
pub struct Went {
    /// How often a server was chosen for it: more than once where one could not be reached or let go of it.
    pub tries: u32,
    /// The last that was chosen.
    pub server: Option<Address>,
}

impl Trail {
    /// A server is tried.
    pub(super) fn tries(&self, server: &Address) {
        let mut went = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        went.tries += 1;
        went.server = Some(server.clone());
    }

    /// Where it has come so far.
    pub fn went(&self) -> Went {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

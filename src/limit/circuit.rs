//! When not to ask a backend that does not answer.
//!
//! Closed: everyone asks. After a failure it is open: nobody asks and nobody waits, but for one caller in each pause,
//! who tries; its success closes the circuit for all. So a dead backend costs one timeout a pause, not one a request,
//! and when it is back a single caller finds out, not a crowd.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::time::Steady;

/// The circuit of one backend.
#[derive(Debug)]
pub(super) struct Circuit {
    /// Steady milliseconds at which the next caller may try; 0: closed.
    retry_at: AtomicU64,
    pause: u64,
}

/// Whether to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Ask.
    Ask,
    /// Do not.
    Open,
}

impl Circuit {
    /// A closed circuit; once open, one caller in each `pause` tries.
    pub fn new(pause: Duration) -> Self {
        Self { retry_at: AtomicU64::new(0), pause: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Whether the caller may ask at `now`. Whoever is let through an open circuit has moved the next try one pause on
    /// first: if it never comes back (its client went away), the next one tries a pause later.
    pub fn enter(&self, now: Steady) -> Pass {
        let at = self.retry_at.load(Ordering::Acquire);
        if at == 0 {
            return Pass::Ask;
        }
        let next = self.next(now);
        if now.millis() >= at && self.retry_at.compare_exchange(at, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return Pass::Ask;
        }
        Pass::Open
    }

    /// The backend answered; whether that closed the circuit.
    pub fn close(&self) -> bool {
        // The load keeps a healthy backend's callers from writing to one cache line.
        self.is_open() && self.retry_at.swap(0, Ordering::AcqRel) != 0
    }

    /// The backend did not answer a caller that asked at `now`; whether that opened the circuit.
    pub fn trip(&self, now: Steady) -> bool {
        self.retry_at.fetch_max(self.next(now), Ordering::AcqRel) == 0
    }

    /// Whether the backend is given up for now.
    pub fn is_open(&self) -> bool {
        self.retry_at.load(Ordering::Acquire) != 0
    }

    fn next(&self, now: Steady) -> u64 {
        now.millis().saturating_add(self.pause).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Steady {
        Steady::from_millis(millis)
    }

    #[test]
    fn one_caller_a_pause_tries_a_dead_backend() {
        let circuit = Circuit::new(Duration::from_secs(1));
        assert_eq!((circuit.enter(at(0)), circuit.enter(at(0))), (Pass::Ask, Pass::Ask));
        assert!(circuit.trip(at(0)) && !circuit.trip(at(0)));
        assert_eq!(circuit.enter(at(999)), Pass::Open);
        let tries = (1000..5000).filter(|now| circuit.enter(at(*now)) == Pass::Ask).collect::<Vec<_>>();
        assert_eq!(tries, [1000, 2000, 3000, 4000], "also when a try is never reported back");
    }

    #[test]
    fn a_success_lets_everyone_through_and_only_the_first_says_so() {
        let circuit = Circuit::new(Duration::from_secs(1));
        circuit.trip(at(0));
        assert_eq!(circuit.enter(at(1000)), Pass::Ask);
        assert_eq!(circuit.enter(at(1000)), Pass::Open, "no stampede: the others wait for the first one's answer");
        assert!(circuit.close() && !circuit.close());
        assert_eq!((circuit.enter(at(1001)), circuit.enter(at(1001))), (Pass::Ask, Pass::Ask));
    }
}

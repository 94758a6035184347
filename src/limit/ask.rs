//! One admission, flattened: every window of every charge with what is asked of it.
//!
//! Both backends fill in what each window has used and when it gives something back; the verdict is made here, once.

use std::time::Duration;

use smallvec::SmallVec;

use super::{Charge, States, Verdict, WindowState};
use crate::model::window::Window;
use crate::rules::sliding_window::{self, Reading, Tick};

/// One window of one charge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// Which charge it belongs to.
    pub charge: usize,
    /// The window.
    pub window: Window,
    /// Its length in milliseconds.
    pub length: u64,
    /// What the whole admission takes from this subject's tally of this length: the charge's cost, or the sum where
    /// several charges name the same subject.
    pub demand: u64,
    /// Whether this is the first ask of its subject and length: the one through which `demand` is spent.
    pub first: bool,
    /// The moment it is decided at, where the backend is memory.
    pub tick: Tick,
    /// What the backend found.
    pub reading: Reading,
}

/// The asks of one admission; four fit without allocating.
pub(super) type Asks = SmallVec<[Ask; 4]>;

/// Charges that are admitted together, and what they ask.
pub(super) struct Group<'a> {
    /// The charges.
    pub charges: &'a [Charge<'a>],
    /// Every window of theirs.
    pub asks: &'a mut Asks,
}

/// Every window of every charge.
pub(super) fn flatten(charges: &[Charge<'_>]) -> Asks {
    let mut asks = Asks::new();
    for (at, charge) in charges.iter().enumerate() {
        for window in charge.asked() {
            let length = millis(window.length);
            let takes = |other: &&Charge<'_>| {
                other.subject == charge.subject && other.asked().any(|own| own.length == window.length)
            };
            let demand = if charges.len() == 1 {
                u64::from(charge.cost)
            } else {
                charges.iter().filter(takes).map(|other| u64::from(other.cost)).sum()
            };
            let first = !asks
                .iter()
                .any(|ask| ask.length == length && (ask.charge == at || charges[ask.charge].subject == charge.subject));
            let tick = Tick::at(length, 0);
            asks.push(Ask { charge: at, window: *window, length, demand, first, tick, reading: Reading::empty(tick) });
        }
    }
    asks
}

impl Ask {
    /// Whether the window has room.
    pub fn fits(&self) -> bool {
        sliding_window::fits(self.reading.used, self.demand, self.window.limit)
    }

    /// The units that must come back before the window has room; `None` when it never will: what is asked is more than
    /// it ever holds.
    pub fn lacks(&self) -> Option<u64> {
        let limit = u64::from(self.window.limit);
        (self.demand <= limit).then(|| (self.reading.used + self.demand).saturating_sub(limit))
    }

    /// What is spent from the tally when all is admitted. It fitted, and a limit is a `u32`.
    pub fn units(&self) -> u32 {
        u32::try_from(self.demand).unwrap_or(u32::MAX)
    }

    fn state(&self, admitted: bool) -> WindowState {
        let spent = self.reading.used + if admitted { self.demand } else { 0 };
        WindowState {
            charge: self.charge,
            window: self.window,
            remaining: u32::try_from(u64::from(self.window.limit).saturating_sub(spent)).unwrap_or(0),
            reset_after: Duration::from_millis(self.reading.returns_in.max(1)),
        }
    }
}

/// Everything fitted and was spent.
pub(super) fn admitted(asks: &Asks) -> Verdict {
    Verdict::Admitted(states(asks, true))
}

/// Something did not fit and nothing was spent; the same admission fits after `wait` milliseconds.
pub(super) fn refused(asks: &Asks, wait: u64) -> Verdict {
    Verdict::Refused(states(asks, false), Duration::from_millis(wait.max(1)))
}

fn states(asks: &Asks, admitted: bool) -> States {
    States(asks.iter().map(|ask| ask.state(admitted)).collect())
}

/// As `Duration::as_millis`, which computes in 128 bits.
fn millis(length: Duration) -> u64 {
    length.as_secs().saturating_mul(1000).saturating_add(u64::from(length.subsec_millis()))
}

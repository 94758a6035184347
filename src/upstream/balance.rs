//! Which server of an upstream, and which ones to leave alone for a while.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Failures to connect in a row before a server is left out.
const FAILURES: u32 = 3;
/// How long at first; doubled with every further failure.
const FIRST_REST: Duration = Duration::from_secs(1);
/// How long at most.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Whether a server can be reached, as seen by those who tried.
pub(super) struct Health {
    born: Instant,
    failures: AtomicU32,
    /// In milliseconds since it was born; 0: never left out.
    ejected_until: AtomicU64,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), failures: AtomicU32::new(0), ejected_until: AtomicU64::new(0) }
    }

    /// A connection was made.
    pub(super) fn reached(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// A connection could not be made.
    pub(super) fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if let Some(doublings) = failures.checked_sub(FAILURES) {
            let rest = FIRST_REST.saturating_mul(1 << doublings.min(16)).min(LONGEST_REST);
            self.ejected_until.store(self.millis() + millis(rest), Ordering::Relaxed);
        }
    }

    pub(super) fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && until > self.millis()
    }

    fn millis(&self) -> u64 {
        millis(self.born.elapsed())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A cheap sequence (`SplitMix64`) for choices that need no secrecy.
#[derive(Default)]
pub(super) struct Dice(AtomicU64);

impl Dice {
    /// A number below `sides`, which is not 0.
    pub(super) fn roll(&self, sides: usize) -> usize {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap_or(0)
    }
}

/// Of `candidates`, two drawn by weight and of them the one with less to do for its weight: nearly as good as looking at
/// all, without every worker running to the same one.
pub(super) fn lighter<T>(
    dice: &Dice,
    candidates: &[T],
    weight: impl Fn(&T) -> u32,
    load: impl Fn(&T) -> usize,
) -> Option<usize> {
    if candidates.len() < 2 {
        return candidates.len().checked_sub(1);
    }
    let first = draw(dice, candidates, &weight, None);
    let second = draw(dice, candidates, &weight, Some(first));
    // Where both are as busy the draw stands, and with it the weights.
    let burden = |at: usize, other: usize| load(&candidates[at]) as u64 * u64::from(weight(&candidates[other]));
    Some(if burden(second, first) < burden(first, second) { second } else { first })
}

/// One at random by weight, but not `except`.
fn draw<T>(dice: &Dice, candidates: &[T], weight: impl Fn(&T) -> u32, except: Option<usize>) -> usize {
    let shares = || candidates.iter().enumerate().filter(|(at, _)| Some(*at) != except);
    let total: usize = shares().map(|(_, it)| weight(it) as usize).sum();
    let mut left = dice.roll(total.max(1));
    for (at, candidate) in shares() {
        match left.checked_sub(weight(candidate) as usize) {
            Some(rest) => left = rest,
            None => return at,
        }
    }
    usize::from(except == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busier_of_two_is_never_chosen_and_nobody_is_forgotten() {
        let dice = Dice::default();
        let mut chosen = [0_u32; 4];
        for _ in 0..4_000 {
            chosen[lighter(&dice, &[0, 0, 0, 9], |_| 1, |load| *load).unwrap()] += 1;
        }
        assert_eq!(chosen[3], 0, "there is always somebody with less to do");
        assert!(chosen[..3].iter().all(|count| *count > 900), "{chosen:?}");
        assert_eq!(lighter(&dice, &[9], |_| 1, |load| *load), Some(0));
        assert_eq!(lighter::<usize>(&dice, &[], |_| 1, |load| *load), None);
    }

    #[test]
    fn weights_share_out_what_comes_and_what_is_under_way() {
        let dice = Dice::default();
        let mut chosen = [0_u32; 3];
        let servers = [(1, 0), (3, 0), (6, 0)];
        for _ in 0..10_000 {
            chosen[lighter(&dice, &servers, |it| it.0, |it| it.1).unwrap()] += 1;
        }
        for (share, wanted) in chosen.iter().zip([1_000_i64, 3_000, 6_000]) {
            assert!((i64::from(*share) - wanted).abs() < 300, "{chosen:?}");
        }
        // Three times the weight may carry three times as much.
        assert_eq!(lighter(&dice, &[(1, 3), (3, 8)], |it| it.0, |it| it.1), Some(1));
        assert_eq!(lighter(&dice, &[(1, 2), (3, 8)], |it| it.0, |it| it.1), Some(0));
    }

    #[test]
    fn a_server_rests_after_failures_in_a_row_and_longer_each_time() {
        let health = Health::new();
        health.failed();
        health.failed();
        assert!(!health.is_ejected());
        health.reached();
        health.failed();
        health.failed();
        assert!(!health.is_ejected(), "a success between them starts the count anew");
        health.failed();
        assert!(health.is_ejected());
        let first = health.ejected_until.load(Ordering::Relaxed) - health.millis();
        health.failed();
        let second = health.ejected_until.load(Ordering::Relaxed) - health.millis();
        assert!(first <= 1_000 && second > 1_500, "{first} {second}");
        (0..100).for_each(|_| health.failed());
        assert!(health.ejected_until.load(Ordering::Relaxed) - health.millis() <= 30_000);
        health.reached();
        assert!(!health.is_ejected());
    }
}

//! Which server of an upstream, and which ones to leave alone for a while.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When a server is left out, and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Connections in a row that could not be made; 0: they do not count.
    pub connects: u32,
    /// Requests in a row that were lost, came too late or were answered 502, 503 or 504; 0: they do not count.
    pub failures: u32,
    /// How long at first; doubled with every further failure.
    pub first: Duration,
    /// How long at most.
    pub longest: Duration,
    /// How long a server that comes back gets less than its share, more and more of it.
    pub slow_start: Duration,
    /// Where less than this part of an upstream's servers is left, in percent, all of them are asked again: failures that
    /// they all have are not theirs, and the last ones should not get everything.
    pub panic: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            connects: 3,
            failures: 5,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            slow_start: Duration::from_secs(10),
            panic: 25,
        }
    }
}

/// Whether a server can be reached and answers, as seen by those who tried.
pub(super) struct Health {
    born: Instant,
    connects: AtomicU32,
    failures: AtomicU32,
    /// In milliseconds since it was born; 0: never left out.
    ejected_until: AtomicU64,
}

impl Health {
    pub(super) fn new() -> Self {
        let (connects, failures) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { born: Instant::now(), connects, failures, ejected_until: AtomicU64::new(0) }
    }

    /// A connection was made.
    pub(super) fn reached(&self) {
        zero(&self.connects);
    }

    /// A connection could not be made.
    pub(super) fn failed(&self, rules: &Ejection) {
        self.count(&self.connects, rules.connects, rules);
    }

    /// A request was answered, by the server's own word.
    pub(super) fn served(&self) {
        zero(&self.failures);
    }

    /// A request was lost on it, or answered as one that was lost behind it.
    pub(super) fn erred(&self, rules: &Ejection) {
        self.count(&self.failures, rules.failures, rules);
    }

    fn count(&self, failures: &AtomicU32, most: u32, rules: &Ejection) {
        // What was under way when it was left out is no further failure: a hundred requests that a restart cuts off would
        // keep it out for the longest time at once.
        if self.is_ejected() {
            return;
        }
        let count = failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if let Some(doublings) = count.checked_sub(most).filter(|_| most > 0) {
            let rest = rules.first.saturating_mul(1 << doublings.min(16)).min(rules.longest);
            self.ejected_until.fetch_max(self.millis() + millis(rest), Ordering::Relaxed);
        }
    }

    pub(super) fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && until > self.millis()
    }

    /// Its weight for now: a tenth of its own when it has just come back, and all of it after the slow start.
    pub(super) fn weight(&self, own: u32, rules: &Ejection) -> u32 {
        match self.ejected_until.load(Ordering::Relaxed) {
            0 => own.saturating_mul(FULL),
            back => returning(self.millis().saturating_sub(back), own, rules),
        }
    }

    fn millis(&self) -> u64 {
        millis(self.born.elapsed())
    }
}

/// What a weight is counted in.
const FULL: u32 = 100;

/// The weight of a server that came back `since` milliseconds ago.
pub(super) fn returning(since: u64, own: u32, rules: &Ejection) -> u32 {
    let slow = millis(rules.slow_start);
    let part = if since >= slow { u64::from(FULL) } else { (since * u64::from(FULL) / slow).max(u64::from(FULL / 10)) };
    own.saturating_mul(u32::try_from(part).unwrap_or(FULL))
}

fn zero(count: &AtomicU32) {
    if count.load(Ordering::Relaxed) > 0 {
        count.store(0, Ordering::Relaxed);
    }
}

pub(super) fn millis(time: Duration) -> u64 {
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
        let (health, rules) = (Health::new(), Ejection::default());
        let fail = |times: u32| (0..times).for_each(|_| health.failed(&rules));
        let rest = || health.ejected_until.load(Ordering::Relaxed).saturating_sub(health.millis());
        fail(2);
        assert!(!health.is_ejected());
        health.reached();
        fail(2);
        assert!(!health.is_ejected(), "a success between them starts the count anew");
        fail(1);
        assert!(health.is_ejected() && rest() <= 1_000);
        fail(100);
        assert!(rest() <= 1_000, "what fails meanwhile was under way before");
        let back = || health.ejected_until.store(health.millis(), Ordering::Relaxed);
        back();
        fail(100);
        assert!(rest() > 1_500 && rest() <= 2_000);
        (0..10).for_each(|_| {
            back();
            fail(1);
        });
        assert!(rest() > 29_000 && rest() <= 30_000);
        // Answers are counted by themselves, and not at all where nobody wants it.
        let (health, off) = (Health::new(), Ejection { failures: 0, ..rules });
        (0..100).for_each(|_| health.erred(&off));
        (0..4).for_each(|_| health.erred(&rules));
        assert!(health.is_ejected(), "they were counted all the same");
        let health = Health::new();
        (0..4).for_each(|_| health.erred(&rules));
        health.served();
        (0..4).for_each(|_| health.erred(&rules));
        assert!(!health.is_ejected());
        health.erred(&rules);
        assert!(health.is_ejected());
    }

    #[test]
    fn a_server_that_comes_back_gets_its_share_little_by_little() {
        let rules = Ejection::default();
        let shares = [0, 1_000, 5_000, 9_999, 10_000, u64::MAX].map(|since| returning(since, 3, &rules));
        assert_eq!(shares, [30, 30, 150, 297, 300, 300]);
        assert_eq!(returning(0, 3, &Ejection { slow_start: Duration::ZERO, ..rules }), 300);
        assert_eq!(Health::new().weight(3, &rules), 300, "one that was never away has all of it");
    }
}

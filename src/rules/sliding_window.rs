//! The strict sliding window: at most L units in any trailing window of length W, in bounded memory.
//!
//! What it is: one [`Tally`], the units spent from one window of one subject, and the arithmetic of when they come
//! back. What it is not: it locks nothing, reads no clock and knows neither limits' owners nor where they are kept.
//! `limit::memory` keeps tallies; `limit/redis.lua` is this arithmetic again, line by line, for a fleet.
//!
//! # The arithmetic, and why it is strict
//!
//! Time is whole milliseconds `t`. A window of length W is cut into sub-buckets of width w = ⌊W/60⌋ (at least 1).
//! A unit spent at `t` goes into bucket b = ⌊t/w⌋, so that b·w ≤ t ≤ (b+1)·w − 1. At `now`, bucket b *counts* while
//!
//! > now < (b+1)·w + W
//!
//! and c units are admitted at `now` only if the units that count, plus c, are at most L. The caller's `now` never
//! decreases from one call on a tally to the next (see `limit::memory` for how that is kept).
//!
//! 1. **Never more than L.** Let t ≤ now ≤ t + W. Then now ≤ (b+1)·w − 1 + W, so the bucket counts: whatever was spent
//!    in the *closed* interval [now − W, now] is counted at `now`. Take any interval [x, x+W] and the last admission
//!    in it, made at y ≤ x+W. All others in the interval were made before it, at x or later, thus in [y − W, y]: they
//!    were counted, and the sum with the last is at most L. ∎  The interval is closed and readings are truncated to
//!    milliseconds: a unit that no longer counts was spent at t ≤ now − W − 1, so that the two real instants, each
//!    less than 1 ms after its reading, are more than W apart. Truncation costs no strictness either.
//! 2. **Back at most W/60 late.** The bucket stops counting at (b+1)·w + W ≤ t + W + w, and w ≤ W/60. ∎  (For windows
//!    under 60 ms, which configuration refuses, the lateness is 1 ms.)
//! 3. **Bounded.** The buckets that count start after now − W − w and not after now: at most ⌈W/w⌉ + 1 of them, which is
//!    61 where W is a multiple of 60 ms, and at most 65 for any W from 1 s. Only buckets that hold units are kept: a
//!    subject with one request costs one slot of 8 bytes.
//! 4. **A refusal consumes nothing**: [`Tally::read`] and [`Tally::wait`] only drop what has stopped counting.
//!
//! With `hold` = W + w − (now mod w), the time for which a unit spent now would count, bucket b has
//! hold − (⌊now/w⌋ − b)·w left: the same inequality in the form that the code uses.

use std::collections::VecDeque;

/// How many sub-buckets a window is cut into: capacity comes back at most 1/60 of the window late.
const PARTS: u64 = 60;

/// The units spent from one window of one subject.
#[derive(Debug)]
pub struct Tally {
    length: u64,
    /// The sum over `slots`.
    used: u64,
    /// The buckets that hold units, oldest first. The deque keeps its capacity: once a subject has spread over
    /// its window, nothing here allocates again.
    slots: VecDeque<Slot>,
}

/// The units of one sub-bucket.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The low half of the bucket's number: see [`Tick::left`].
    bucket: u32,
    units: u32,
}

/// What a tally says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The units that count.
    pub used: u64,
    /// Milliseconds until the oldest of them come back, more than zero; where none count, until one spent now would.
    pub returns_in: u64,
}

impl Reading {
    /// What a tally says that nothing was spent from.
    pub const fn empty(tick: Tick) -> Self {
        Self { used: 0, returns_in: tick.hold }
    }
}

/// Whether `cost` more units fit into a window of `limit` of which `used` are spent. Nothing always does, also where
/// more is spent than the limit: it was lowered since.
pub const fn fits(used: u64, cost: u64, limit: u32) -> bool {
    cost == 0 || used.saturating_add(cost) <= limit as u64
}

/// A moment, seen from the sub-buckets of windows of one length: made once for an admission, since it takes a division.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    bucket: u32,
    width: u64,
    hold: u64,
}

impl Tick {
    /// The moment `now` for windows of `length`, both in milliseconds.
    pub const fn at(length: u64, now: u64) -> Self {
        let parts = length / PARTS;
        let width = if parts == 0 { 1 } else { parts };
        Self { bucket: low_half(now / width), width, hold: length.saturating_add(width - now % width) }
    }

    /// Milliseconds for which `slot` still counts; zero when it no longer does.
    ///
    /// Bucket numbers are compared by their low 32 bits, as TCP compares sequence numbers (RFC 9293 section 3.4): right
    /// while they are less than 2^31 apart, which is over a year of the shortest window, and slots that old were
    /// long swept. A slot that seems to lie ahead counts in full: the doubt goes against admission.
    fn left(self, slot: Slot) -> u64 {
        let age = self.bucket.wrapping_sub(slot.bucket);
        let age = if age > u32::MAX / 2 { 0 } else { age };
        self.hold.saturating_sub(u64::from(age).saturating_mul(self.width))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted: compared modulo 2^32")]
const fn low_half(bucket: u64) -> u32 {
    bucket as u32
}

impl Tally {
    /// An empty tally of a window of `length` milliseconds. Allocates nothing.
    pub const fn new(length: u64) -> Self {
        Self { length, used: 0, slots: VecDeque::new() }
    }

    /// The window's length in milliseconds: what tells a subject's tallies apart. The limit is no part of a
    /// tally, so that an organization which changes its plan keeps what it has spent.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Drops what no longer counts at `tick`, and says what does.
    pub fn read(&mut self, tick: Tick) -> Reading {
        while let Some(oldest) = self.slots.front() {
            let left = tick.left(*oldest);
            if left > 0 {
                return Reading { used: self.used, returns_in: left };
            }
            self.used -= u64::from(oldest.units);
            self.slots.pop_front();
        }
        Reading::empty(tick)
    }

    /// Spends `units` at `tick`; whether they fit was asked before, under the same lock.
    pub fn spend(&mut self, tick: Tick, units: u32) {
        if units == 0 {
            return;
        }
        match self.slots.back_mut() {
            Some(newest) if newest.bucket == tick.bucket => {
                let sum = newest.units.saturating_add(units);
                self.used += u64::from(sum - newest.units);
                newest.units = sum;
            }
            _ => {
                self.used += u64::from(units);
                self.slots.push_back(Slot { bucket: tick.bucket, units });
            }
        }
    }

    /// Milliseconds from `tick` until at least `units` of those that count have come back, if nothing more is spent.
    /// More than zero for a tally that was just read. When fewer count, until all of them have.
    pub fn wait(&self, tick: Tick, units: u64) -> u64 {
        let mut freed = 0;
        let mut wait = 0;
        for slot in &self.slots {
            if freed >= units {
                break;
            }
            freed += u64::from(slot.units);
            wait = tick.left(*slot);
        }
        wait
    }

    /// Whether nothing counts any more at `now`: forgetting the tally then changes no decision.
    pub fn is_idle(&self, now: u64) -> bool {
        self.slots.back().is_none_or(|newest| Tick::at(self.length, now).left(*newest) == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admit(tally: &mut Tally, now: u64, cost: u32, limit: u32) -> bool {
        let fits = fits(read(tally, now).used, u64::from(cost), limit);
        if fits {
            spend(tally, now, cost);
        }
        fits
    }

    fn read(tally: &mut Tally, now: u64) -> Reading {
        tally.read(Tick::at(tally.length, now))
    }

    fn spend(tally: &mut Tally, now: u64, units: u32) {
        tally.spend(Tick::at(tally.length, now), units);
    }

    fn wait(tally: &Tally, now: u64, units: u64) -> u64 {
        tally.wait(Tick::at(tally.length, now), units)
    }

    #[test]
    fn twice_the_limit_never_passes_around_an_edge() {
        // The burst that a fixed window lets through: L at its end, L at the start of the next.
        let mut tally = Tally::new(60_000);
        for _ in 0..10 {
            assert!(admit(&mut tally, 59_999, 1, 10));
        }
        for now in [59_999, 60_000, 60_001, 119_998, 119_999] {
            assert!(!admit(&mut tally, now, 1, 10), "{now}");
        }
        assert!(admit(&mut tally, 120_000, 10, 10), "59.999 fell into the bucket [59, 60), which counts until 120");
    }

    #[test]
    fn a_unit_counts_for_the_closed_window_and_at_most_a_sixtieth_longer() {
        for (length, spent) in [(60_000, 0), (60_000, 999), (60_000, 123_456), (1000, 15), (1000, 16), (3_600_000, 7)] {
            let mut tally = Tally::new(length);
            spend(&mut tally, spent, 1);
            assert_eq!(read(&mut tally, spent + length).used, 1, "{length} {spent}");
            assert_eq!(read(&mut tally, spent + length + length / 60).used, 0, "{length} {spent}");
        }
    }

    #[test]
    fn the_wait_is_exact_to_the_millisecond() {
        let mut tally = Tally::new(60_000);
        for now in [100, 2_500, 30_000] {
            spend(&mut tally, now, 2);
        }
        let now = 40_000;
        assert_eq!(read(&mut tally, now), Reading { used: 6, returns_in: 61_000 - now });
        for (units, back) in [(1, 61_000), (2, 61_000), (3, 63_000), (5, 91_000), (9, 91_000)] {
            assert_eq!(wait(&tally, now, units), back - now);
        }
        assert_eq!(read(&mut tally, 60_999).used, 6);
        assert_eq!(read(&mut tally, 61_000).used, 4);
    }

    #[test]
    fn bucket_numbers_wrap_without_losing_a_unit() {
        let wrap = 16 * (1_u64 << 32);
        let mut tally = Tally::new(1000);
        spend(&mut tally, wrap - 1, 3);
        spend(&mut tally, wrap, 4);
        assert_eq!(read(&mut tally, wrap + 500).used, 7);
        assert_eq!(read(&mut tally, wrap + 1000).used, 4, "the bucket that ends at the wrap counts until wrap + W");
        assert!(!tally.is_idle(wrap + 1015) && tally.is_idle(wrap + 1016));
    }

    #[test]
    fn a_clock_that_steps_back_frees_nothing() {
        let mut tally = Tally::new(60_000);
        spend(&mut tally, 500_000, 5);
        assert_eq!(read(&mut tally, 100_000).used, 5);
        assert_eq!(read(&mut tally, 500_001).used, 5);
    }

    #[test]
    fn a_warm_tally_does_not_allocate() {
        let mut tally = Tally::new(1000);
        let run = |tally: &mut Tally, from: u64| {
            for now in from..from + 5000 {
                admit(tally, now, 1, u32::MAX);
            }
            tally.slots.capacity()
        };
        let warm = run(&mut tally, 0);
        assert_eq!(run(&mut tally, 5000), warm);
        assert!(tally.slots.len() <= 65);
    }

    proptest! {
        /// Both bounds at once, against a log of every unit: what a closed window of W holds never exceeds L, and a
        /// refusal means that the last W + W/60 held too much.
        #[test]
        fn it_agrees_with_a_naive_log(
            length in prop_oneof![Just(1000_u64), Just(60_000), 1000_u64..5000, Just(86_400_000)],
            limit in 1_u32..20,
            steps in proptest::collection::vec((0_u64..=130, 0_u32..8), 1..300),
        ) {
            let mut tally = Tally::new(length);
            let mut log: Vec<(u64, u64)> = Vec::new();
            let mut now = 77;
            for (sixtieths, cost) in steps {
                now += length * sixtieths * sixtieths / 7200;
                let spent = |log: &[(u64, u64)], window: u64| -> u64 {
                    log.iter().filter(|(at, _)| at + window >= now).map(|(_, units)| units).sum()
                };
                let idle = tally.is_idle(now);
                let reading = read(&mut tally, now);
                prop_assert!(reading.returns_in > 0);
                prop_assert_eq!(idle, reading.used == 0);
                if admit(&mut tally, now, cost, limit) {
                    log.push((now, u64::from(cost)));
                    prop_assert!(spent(&log, length) <= u64::from(limit), "more than L in [now - W, now]");
                } else {
                    let late = length + length / 60 - 1;
                    prop_assert!(spent(&log, late) + u64::from(cost) > u64::from(limit), "capacity came back late");
                    prop_assert_eq!(read(&mut tally, now), reading, "a refusal consumed something");
                    if cost <= limit {
                        let wait = wait(&tally, now, reading.used + u64::from(cost) - u64::from(limit));
                        prop_assert!(wait > 0);
                        let mut early = Tally { length, used: tally.used, slots: tally.slots.clone() };
                        prop_assert!(!admit(&mut early, now + wait - 1, cost, limit), "the wait is too long");
                        prop_assert!(admit(&mut early, now + wait, cost, limit), "the wait is too short");
                    }
                }
                prop_assert!(tally.slots.len() <= 65);
            }
        }
    }
}

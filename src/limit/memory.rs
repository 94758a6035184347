//! Windows in this process.
//!
//! Subjects are spread over shards, each under its own lock. One admission locks all shards that it touches in
//! ascending order (so that two admissions never wait for each other), asks every window, and only when all have room
//! spends from all: several charges are admitted together or not at all, and nobody sees half of one. Nothing awaits,
//! and a warm subject allocates nothing.
//!
//! **Time.** `sliding_window` is strict when the times that a tally sees never decrease. Callers read their clock once
//! a request and then do other things, so that their readings arrive out of order. Each shard therefore keeps the
//! latest time it has decided at, and an admission is made at the latest of its own reading and those of its
//! shards. That time is kept by the shard, not by the subject, so that it outlives a subject that was forgotten: a late
//! reading cannot find an entry dropped at a later time than its own and start afresh. A late reading counts as made
//! just now, when in truth it was: the clamp errs by no more than the request's own delay, and only towards refusal.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::ask::{self, Asks, Group};
use super::subject::Subject;
use super::table::{Room, Shard};
use super::{Charge, Verdict};
use crate::model::time::Steady;
use crate::rules::sliding_window::Tick;

/// The windows of one process.
#[derive(Debug)]
pub(super) struct Memory {
    shards: Box<[Padded]>,
    /// Seeded per process: a client that chooses its addresses cannot aim at one shard or one chain.
    hasher: RandomState,
    room: Room,
    /// The shard to sweep next.
    next: AtomicUsize,
}

/// A shard on cache lines of its own: two cores in neighbouring shards do not slow each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(Mutex<Shard>);

impl Padded {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        // A panic while the lock was held is a bug of ours; the counts are still better than none.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a charge's subject lives.
struct Seat {
    shard: usize,
    hash: u64,
    /// The shard's place among the locked ones.
    held: usize,
    slot: Option<u32>,
    /// Whether the subject had a slot before this admission.
    known: bool,
}

/// The locked shards of one admission, ascending.
type Held<'a> = SmallVec<[MutexGuard<'a, Shard>; 4]>;

impl Memory {
    /// Room for `max_subjects`.
    pub fn new(max_subjects: usize) -> Self {
        // At least 256 subjects a shard, so that shards fill evenly, and at most 4,096 or so: growing or sweeping one,
        // under its lock, then takes a few hundred microseconds.
        let shards = (max_subjects / 256).clamp(1, 256).max(max_subjects / 4096).next_power_of_two().min(1 << 16);
        Self {
            shards: (0..shards).map(|_| Padded::default()).collect(),
            hasher: RandomState::new(),
            room: Room { subjects: AtomicUsize::new(0), max: max_subjects },
            next: AtomicUsize::new(0),
        }
    }

    /// Admits all of `charges` or none.
    pub fn admit(&self, charges: &[Charge<'_>], asks: &mut Asks, now: Steady) -> Verdict {
        let wait = if let [charge] = charges {
            let mut seat = [self.seat(&charge.subject)];
            let mut held = [self.shards[seat[0].shard].lock()];
            self.decide(charges, asks, &mut seat, &mut held, now)
        } else {
            let mut seats: SmallVec<[Seat; 4]> = charges.iter().map(|charge| self.seat(&charge.subject)).collect();
            let mut held = self.lock(&mut seats);
            self.decide(charges, asks, &mut seats, &mut held, now)
        };
        // The answer is written after the locks are gone.
        match wait {
            None => ask::admitted(asks),
            Some(wait) => ask::refused(asks, wait),
        }
    }

    /// Admits the first group, and where it is admitted likewise the second; `None`: it was not asked.
    pub fn admit_with(&self, [first, second]: &mut [Group<'_>; 2], now: Steady) -> (Verdict, Option<Verdict>) {
        match self.admit(first.charges, first.asks, now) {
            refused @ Verdict::Refused(..) => (refused, None),
            admitted @ Verdict::Admitted(_) => (admitted, Some(self.admit(second.charges, second.asks, now))),
        }
    }

    /// Asks, and spends if everything fits; else how many milliseconds until it does.
    fn decide(
        &self,
        charges: &[Charge<'_>],
        asks: &mut Asks,
        seats: &mut [Seat],
        held: &mut [MutexGuard<'_, Shard>],
        now: Steady,
    ) -> Option<u64> {
        let now = held.iter().fold(now.millis(), |latest, shard| latest.max(shard.latest));
        for shard in &mut *held {
            shard.latest = now;
        }
        for (seat, charge) in seats.iter_mut().zip(charges) {
            seat.slot = held[seat.held].find(&charge.subject, seat.hash, now, &self.hasher);
            seat.known = seat.slot.is_some();
        }
        let mut fits = true;
        for ask in &mut *asks {
            let seat = &seats[ask.charge];
            ask.tick = Tick::at(ask.length, now);
            ask.reading = held[seat.held].read(seat.slot, ask.length, ask.tick);
            fits &= ask.fits();
        }
        if !fits {
            let waits = asks.iter().filter(|ask| !ask.fits()).map(|ask| {
                let seat = &seats[ask.charge];
                ask.lacks().map_or(ask.length, |units| held[seat.held].wait(seat.slot, ask.length, ask.tick, units))
            });
            return waits.max();
        }
        // Subjects that were known are charged first: they then count, so that making room for the others cannot drop
        // them.
        for known in [true, false] {
            for ask in asks.iter().filter(|ask| ask.first && ask.demand > 0) {
                let seat = &mut seats[ask.charge];
                if seat.known != known {
                    continue;
                }
                let shard = &mut held[seat.held];
                let subject = &charges[ask.charge].subject;
                let slot = match seat.slot {
                    Some(slot) => slot,
                    None => shard.place(subject, seat.hash, now, &self.room, &self.hasher),
                };
                seat.slot = Some(slot);
                shard.spend(slot, ask.length, now, ask.tick, ask.units());
            }
        }
        None
    }

    /// Forgets the subjects with everything that counts of them.
    pub fn clear(&self, subjects: &[Subject]) {
        for subject in subjects {
            let seat = self.seat(subject);
            self.shards[seat.shard].lock().clear(subject, seat.hash, &self.room);
        }
    }

    /// Forgets the idle subjects of one shard, the next one at each call; how many there were.
    pub fn sweep(&self, now: Steady) -> usize {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let mut shard = self.shards[next].lock();
        shard.latest = shard.latest.max(now.millis());
        let now = shard.latest;
        shard.sweep(now, &self.room, &self.hasher)
    }

    /// How many subjects have an entry.
    pub fn subjects(&self) -> usize {
        self.room.subjects.load(Ordering::Relaxed)
    }

    fn seat(&self, subject: &Subject) -> Seat {
        let hash = self.hasher.hash_one(subject);
        // Bits that the shard's own table uses least: it takes its place from the low ones and its tag from the top 7.
        let shard = usize::try_from(hash >> 40 & 0xffff).unwrap_or(0) & (self.shards.len() - 1);
        Seat { shard, hash, held: 0, slot: None, known: false }
    }

    fn lock(&self, seats: &mut [Seat]) -> Held<'_> {
        let mut order: SmallVec<[usize; 4]> = seats.iter().map(|seat| seat.shard).collect();
        order.sort_unstable();
        order.dedup();
        for seat in seats {
            seat.held = order.binary_search(&seat.shard).unwrap_or(0);
        }
        order.iter().map(|shard| self.shards[*shard].lock()).collect()
    }
}

//! One shard of the memory backend: the subjects that live in it, and which of them may be forgotten.
//!
//! **Only idle subjects are forgotten**: those of which nothing counts any more: forgetting them changes no decision.
//! When the table is full of subjects that count, both usual ways out are wrong. Refusing newcomers lets whoever sends
//! requests from a million addresses (one IPv6 /40 has more /64s than that) lock everyone else out. Dropping the
//! least-loaded lets the same sender wash the counters of a password search out of memory. So a newcomer is counted
//! together with the other newcomers of its realm, kind and scope in this shard: in a *crowd*. It may be refused early,
//! since it shares its windows; it is never admitted beyond them.
//!
//! Why that is strict: whatever counts of a subject is always in exactly one place. It joins a crowd only when it has
//! no entry (then nothing of it counted when the entry was dropped, or ever), and it is given an entry only
//! when its crowd is idle (then nothing of it counts there). What the one place holds is at least the subject's own.
//!
//! Subjects that anyone can make without a credential (addresses, typed names) may take three quarters of
//! the table; the last quarter is for those that a credential stands for.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::subject::Subject;
use crate::rules::sliding_window::{Reading, Tally, Tick};

/// Slots looked at on each arrival, so that the table shrinks to what is active by itself.
const TIDY: usize = 4;
/// Slots looked at for an idle one when the table is full: bounded, since the shard is locked meanwhile.
const SEARCH: usize = 64;

/// The subjects of one shard. Slots keep their number while they are taken.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// The latest time that this shard has decided at: see `limit::memory`.
    pub latest: u64,
    /// Slot numbers, by the subject's hash.
    index: HashTable<u32>,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Where the search for idle slots goes on.
    hand: usize,
    crowds: usize,
}

/// One subject and its windows' tallies, one per length.
#[derive(Debug)]
struct Entry {
    subject: Subject,
    tallies: SmallVec<[Tally; 1]>,
}

/// How many subjects there are in all shards, and may be. Admissions under way at the same moment may exceed `max` by
/// one subject each: the bound is for memory, not a count.
#[derive(Debug)]
pub(super) struct Room {
    pub subjects: AtomicUsize,
    pub max: usize,
}

impl Room {
    fn has_place_for(&self, subject: &Subject) -> bool {
        let most = if subject.kind().is_free_to_make() { self.max - self.max / 4 } else { self.max };
        self.subjects.load(Ordering::Relaxed) < most
    }
}

impl Shard {
    /// The slot that counts for `subject`: its own, or its crowd's while that counts.
    pub fn find(&self, subject: &Subject, hash: u64, now: u64, hasher: &impl BuildHasher) -> Option<u32> {
        let own = self.slot_of(subject, hash);
        if own.is_some() || self.crowds == 0 {
            return own;
        }
        let crowd = subject.crowd();
        self.slot_of(&crowd, hasher.hash_one(crowd)).filter(|slot| !self.entry(*slot).is_idle(now))
    }

    /// What the tally of `length` in `slot` says; an unknown subject has used nothing.
    pub fn read(&mut self, slot: Option<u32>, length: u64, tick: Tick) -> Reading {
        let tally =
            slot.and_then(|slot| self.entry_mut(slot).tallies.iter_mut().find(|tally| tally.length() == length));
        tally.map_or_else(|| Reading::empty(tick), |tally| tally.read(tick))
    }

    /// How long until `units` come back to the tally of `length` in `slot`.
    pub fn wait(&self, slot: Option<u32>, length: u64, tick: Tick, units: u64) -> u64 {
        let tally = slot.and_then(|slot| self.entry(slot).tallies.iter().find(|tally| tally.length() == length));
        tally.map_or(0, |tally| tally.wait(tick, units))
    }

    /// Spends `units` from the tally of `length` in `slot`.
    pub fn spend(&mut self, slot: u32, length: u64, now: u64, tick: Tick, units: u32) {
        let tallies = &mut self.entry_mut(slot).tallies;
        if let Some(tally) = tallies.iter_mut().find(|tally| tally.length() == length) {
            return tally.spend(tick, units);
        }
        // A length that the subject did not have: its plan changed, or it is new. Lengths it no longer has go.
        tallies.retain(|tally| !tally.is_idle(now));
        let mut tally = Tally::new(length);
        tally.spend(tick, units);
        tallies.push(tally);
    }

    /// A slot for `subject`, which had none when it was looked for: its own where there is room, else its crowd's.
    pub fn place(&mut self, subject: &Subject, hash: u64, now: u64, room: &Room, hasher: &impl BuildHasher) -> u32 {
        if let Some(slot) = self.find(subject, hash, now, hasher) {
            return slot; // another charge of the same admission has just made it
        }
        self.tidy(TIDY, now, room, hasher);
        if room.has_place_for(subject) || self.tidy(SEARCH, now, room, hasher) {
            return self.insert(*subject, hash, room, hasher);
        }
        let crowd = subject.crowd();
        let hash = hasher.hash_one(crowd);
        self.slot_of(&crowd, hash).unwrap_or_else(|| self.insert(crowd, hash, room, hasher))
    }

    /// Forgets `subject` with everything that counts of it.
    pub fn clear(&mut self, subject: &Subject, hash: u64, room: &Room) {
        if let Some(slot) = self.slot_of(subject, hash) {
            self.remove(slot, hash, room);
        }
    }

    /// Forgets every idle subject; how many there were.
    pub fn sweep(&mut self, now: u64, room: &Room, hasher: &impl BuildHasher) -> usize {
        let before = self.index.len();
        for slot in 0..self.slots.len() {
            self.remove_idle(slot, now, room, hasher);
        }
        if self.index.is_empty() {
            // Nobody is left: give the memory of a past crowd back.
            *self = Self { latest: self.latest, ..Self::default() };
        }
        before - self.index.len()
    }

    /// Moves the hand over `count` slots, forgetting the idle; whether there was one.
    fn tidy(&mut self, count: usize, now: u64, room: &Room, hasher: &impl BuildHasher) -> bool {
        let mut found = false;
        for _ in 0..count.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            found |= self.remove_idle(self.hand, now, room, hasher);
        }
        found
    }

    fn remove_idle(&mut self, slot: usize, now: u64, room: &Room, hasher: &impl BuildHasher) -> bool {
        let Some(Some(entry)) = self.slots.get(slot) else { return false };
        if !entry.is_idle(now) {
            return false;
        }
        let hash = hasher.hash_one(entry.subject);
        self.remove(number(slot), hash, room);
        true
    }

    fn insert(&mut self, subject: Subject, hash: u64, room: &Room, hasher: &impl BuildHasher) -> u32 {
        let entry = Some(Entry { subject, tallies: SmallVec::new() });
        let slot = self.free.pop().unwrap_or_else(|| number(self.slots.len()));
        match self.slots.get_mut(slot as usize) {
            Some(vacant) => *vacant = entry,
            None => self.slots.push(entry),
        }
        let slots = &self.slots;
        let rehash = |slot: &u32| hasher.hash_one(taken(slots, *slot).subject);
        self.index.insert_unique(hash, slot, rehash);
        if subject.is_crowd() {
            self.crowds += 1;
        } else {
            room.subjects.fetch_add(1, Ordering::Relaxed);
        }
        slot
    }

    fn remove(&mut self, slot: u32, hash: u64, room: &Room) {
        if let Ok(found) = self.index.find_entry(hash, |own| *own == slot) {
            found.remove();
        }
        let Some(entry) = self.slots[slot as usize].take() else { return };
        self.free.push(slot);
        if entry.subject.is_crowd() {
            self.crowds -= 1;
        } else {
            room.subjects.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn slot_of(&self, subject: &Subject, hash: u64) -> Option<u32> {
        self.index.find(hash, |slot| self.entry(*slot).subject == *subject).copied()
    }

    fn entry(&self, slot: u32) -> &Entry {
        taken(&self.slots, slot)
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        self.slots[slot as usize].as_mut().expect("a slot in the index is taken")
    }
}

impl Entry {
    fn is_idle(&self, now: u64) -> bool {
        self.tallies.iter().all(|tally| tally.is_idle(now))
    }
}

fn taken(slots: &[Option<Entry>], slot: u32) -> &Entry {
    slots[slot as usize].as_ref().expect("a slot in the index is taken")
}

fn number(slot: usize) -> u32 {
    u32::try_from(slot).expect("a shard holds a share of `max_subjects`, far below 2^32")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use uuid::Uuid;

    use super::super::memory::Memory;
    use super::super::{Charge, Verdict, ask};
    use super::*;
    use crate::model::id::OrgId;
    use crate::model::time::Steady;
    use crate::model::window::Window;

    const MINUTE: Window = Window { limit: 3, length: Duration::from_mins(1), shadow: false };

    fn org(number: u128) -> Subject {
        Subject::org("realm", OrgId::from(Uuid::from_u128(number)))
    }

    fn address(number: u32) -> Subject {
        Subject::address("realm", "native", IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn admit(memory: &Memory, subject: Subject, now: u64) -> bool {
        let charges = [Charge { subject, windows: &[MINUTE], cost: 1 }];
        matches!(memory.admit(&charges, &mut ask::flatten(&charges), Steady::from_millis(now)), Verdict::Admitted(_))
    }

    #[test]
    fn a_flood_of_newcomers_never_costs_anybody_a_count() {
        let memory = Memory::new(100);
        for _ in 0..3 {
            assert!(admit(&memory, org(1), 0));
        }
        for number in 2..5000 {
            admit(&memory, org(number), 1);
            assert!(!admit(&memory, org(1), 2), "{number}: its count was dropped");
        }
        assert_eq!(memory.subjects(), 100);
    }

    #[test]
    fn newcomers_to_a_full_table_share_a_window_and_never_pass_their_own() {
        let memory = Memory::new(100);
        for number in 0..100 {
            assert!(admit(&memory, org(number), 0));
        }
        let passed: Vec<u128> = (1000..1100).filter(|number| admit(&memory, org(*number), 1000)).collect();
        assert_eq!(passed, [1000, 1001, 1002], "together they have the one window");
        // Room comes at 61 s, when the first hundred are idle. The crowd counts until 62 s: until then its members have
        // no entry of their own, or they would get their limit twice in one minute.
        assert!(!admit(&memory, org(1000), 61_500) && !admit(&memory, org(1050), 61_500));
        assert!(admit(&memory, org(1000), 62_000) && admit(&memory, org(1050), 62_000));
        for _ in 0..2 {
            assert!(admit(&memory, org(1000), 62_000) && admit(&memory, org(1050), 62_000), "each has its own again");
        }
        assert!(!admit(&memory, org(1000), 62_000));
    }

    #[test]
    fn addresses_that_cost_nothing_leave_room_for_organizations() {
        let memory = Memory::new(100);
        for number in 1..5000 {
            admit(&memory, address(number), 0);
        }
        assert_eq!(memory.subjects(), 75);
        for number in 0..25 {
            for _ in 0..3 {
                assert!(admit(&memory, org(number), 0));
            }
        }
        assert_eq!(memory.subjects(), 100);
    }

    #[test]
    fn the_idle_make_room_by_themselves_and_a_sweep_forgets_the_rest() {
        let memory = Memory::new(100);
        for number in 0..100 {
            assert!(admit(&memory, org(number), 0));
        }
        for number in 1000..1100 {
            assert!(admit(&memory, org(number), 61_000));
        }
        assert_eq!(memory.subjects(), 100);
        assert_eq!(memory.sweep(Steady::from_millis(121_999)), 0);
        assert_eq!(memory.sweep(Steady::from_millis(122_000)), 100);
        assert_eq!(memory.subjects(), 0);
    }

    #[test]
    fn a_refused_newcomer_and_one_that_only_looks_take_no_room() {
        let memory = Memory::new(100);
        for (subject, cost) in [(org(1), 4), (org(2), 0)] {
            let charges = [Charge { subject, windows: &[MINUTE], cost }];
            let _ = memory.admit(&charges, &mut ask::flatten(&charges), Steady::from_millis(0));
        }
        assert_eq!(memory.subjects(), 0);
    }

    #[test]
    fn a_late_reading_does_not_find_a_forgotten_subject_fresh() {
        let memory = Memory::new(100);
        for _ in 0..3 {
            assert!(admit(&memory, org(1), 59_999));
        }
        // Forgotten at 120 s, when nothing of it counts; then three requests that read their clock at 60 s arrive.
        assert_eq!(memory.sweep(Steady::from_millis(120_000)), 1);
        for _ in 0..3 {
            assert!(admit(&memory, org(1), 60_000));
        }
        // They count from 120 s on, not from 60: else three more would pass at 121 s.
        assert!(
            !admit(&memory, org(1), 121_000) && !admit(&memory, org(1), 180_999) && admit(&memory, org(1), 181_000)
        );
    }

    #[test]
    fn lengths_that_a_subject_no_longer_has_are_dropped() {
        let (room, hasher) = (Room { subjects: AtomicUsize::new(0), max: 10 }, std::hash::RandomState::new());
        let mut shard = Shard::default();
        let hash = hasher.hash_one(org(1));
        let slot = shard.place(&org(1), hash, 0, &room, &hasher);
        for (at, length) in [1000, 2000, 3000].into_iter().enumerate() {
            let now = at as u64 * 10_000;
            shard.spend(slot, length, now, Tick::at(length, now), 1);
        }
        assert_eq!(shard.entry(slot).tallies.len(), 1);
    }

    #[test]
    fn many_threads_and_a_full_table_lose_no_count() {
        let memory = Memory::new(512);
        let admitted: Vec<AtomicUsize> = (0..2000).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..8_usize {
                let (memory, admitted) = (&memory, &admitted);
                scope.spawn(move || {
                    for turn in 0..10_000 {
                        let number = (turn * 7 + thread * 13) % 2000;
                        if admit(memory, org(number as u128), 0) {
                            admitted[number].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(admitted.iter().all(|count| count.load(Ordering::Relaxed) <= 3));
        assert!(memory.subjects() <= 512 + 8);
    }
}

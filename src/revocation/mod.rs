//! What stopped counting: the local set that every request reads.
//!
//! Whoever caches a fact remembers the [`Mark`] of every id that the fact depends on, read *before* the
//! fact was loaded. The fact counts for as long as those marks hold. The gateway bumps [`Epochs`] right
//! after its own commits; the store's feed bumps them for what other processes did. There is no
//! expiry time in between: a cached fact is exactly as fresh as the feed.
//!
//! Not here: the facts (`credential::facts`), and the feed's task (`app`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use crate::model::change::{Change, Changed};
use crate::model::time::Steady;

/// Ids share slots; a shared slot costs a reload too many, never one too few. 32 KiB: stays in L1/L2.
const SLOTS: usize = 4096;

/// Counters of changes: one for everything, and one for each slot of ids.
#[derive(Debug)]
pub struct Epochs {
    global: AtomicU64,
    slots: Box<[AtomicU64]>,
    heard: AtomicU64,
}

/// The state of one id's slot at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    slot: u16,
    value: u64,
}

impl Epochs {
    /// No change seen, feed never heard.
    pub fn new() -> Self {
        Self {
            global: AtomicU64::new(0),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            heard: AtomicU64::new(0),
        }
    }

    /// Ends every cached fact that depends on what changed. Call it after the commit.
    pub fn bump(&self, change: &Change) {
        // `global` first. Whoever sees the new slot value then also sees the new global value, so a load
        // that began before this change cannot be kept under the slot value that follows it.
        self.global.fetch_add(1, Ordering::SeqCst);
        self.slots[slot_of(&change.realm, change.changed)].fetch_add(1, Ordering::SeqCst);
    }

    /// Ends every cached fact: the feed cannot tell what changed (it was purged, or the store put back).
    pub fn forget_everything(&self) {
        self.global.fetch_add(1, Ordering::SeqCst);
        for slot in &self.slots {
            slot.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How many changes were seen. Read it before a load whose id is not known yet: if it still is the
    /// same after the marks were read, nothing that was loaded changed in between.
    pub fn global(&self) -> u64 {
        self.global.load(Ordering::SeqCst)
    }

    /// The state of an id's slot now.
    pub fn mark(&self, realm: &str, id: Changed) -> Mark {
        let slot = slot_of(realm, id);
        // SLOTS fits: see `slot_of`.
        Mark { slot: u16::try_from(slot).unwrap_or(u16::MAX), value: self.slots[slot].load(Ordering::SeqCst) }
    }

    /// Whether nothing in the mark's slot has changed since it was read.
    pub fn holds(&self, mark: Mark) -> bool {
        self.slots.get(usize::from(mark.slot)).is_some_and(|slot| slot.load(Ordering::SeqCst) == mark.value)
    }

    /// The feed was read up to its end at `now`.
    pub fn heard(&self, now: Steady) {
        self.heard.fetch_max(now.millis(), Ordering::SeqCst);
    }

    /// When the feed was last read up to its end.
    pub fn last_heard(&self) -> Steady {
        Steady::from_millis(self.heard.load(Ordering::SeqCst))
    }

    /// How long the feed has not been read.
    pub fn silent_for(&self, now: Steady) -> Duration {
        now.since(self.last_heard())
    }
}

impl Default for Epochs {
    fn default() -> Self {
        Self::new()
    }
}

/// FNV-1a over the realm, the kind and the id; the low bits of a version 7 UUID are random already.
fn slot_of(realm: &str, id: Changed) -> usize {
    let (kind, id): (u8, Uuid) = match id {
        Changed::User(id) => (1, id.uuid()),
        Changed::Org(id) => (2, id.uuid()),
        Changed::Key(id) => (3, id.uuid()),
        Changed::Session(id) => (4, id.uuid()),
    };
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    let hash = realm.as_bytes().iter().chain([&kind]).fold(0xCBF2_9CE4_8422_2325, step);
    let (high, low) = id.as_u64_pair();
    let mixed = (hash ^ high ^ low.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // The top twelve bits: below SLOTS.
    usize::try_from(mixed >> 52).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::model::entropy::TestEntropy;
    use crate::model::id::{OrgId, UserId};
    use crate::model::time::Timestamp;

    fn user(seed: u64) -> UserId {
        UserId::new(Timestamp::from_secs(1_700_000_000), &TestEntropy::new(seed))
    }

    #[test]
    fn a_change_ends_the_marks_of_its_id_and_leaves_others_alone() {
        let epochs = Epochs::new();
        let (mine, other) = (Changed::User(user(1)), Changed::User(user(2)));
        let (before, beside) = (epochs.mark("r", mine), epochs.mark("r", other));
        assert!(epochs.holds(before));
        epochs.bump(&Change { realm: Arc::from("r"), changed: mine });
        assert!(!epochs.holds(before) && epochs.holds(beside) && epochs.holds(epochs.mark("r", mine)));
        assert_eq!(epochs.global(), 1);
        epochs.forget_everything();
        assert!(!epochs.holds(beside));
    }

    #[test]
    fn realms_and_kinds_do_not_share_an_ids_slot() {
        let epochs = Epochs::new();
        let id = user(1);
        let here = epochs.mark("r", Changed::User(id));
        epochs.bump(&Change { realm: Arc::from("s"), changed: Changed::User(id) });
        epochs.bump(&Change { realm: Arc::from("r"), changed: Changed::Org(OrgId::from(id.uuid())) });
        assert!(epochs.holds(here));
    }

    #[test]
    fn ids_born_in_one_millisecond_spread_over_the_slots() {
        let slots: HashSet<usize> = (0..4096).map(|seed| slot_of("r", Changed::User(user(seed)))).collect();
        // Random throws hit 1 - 1/e of the slots: 2,589.
        assert!(slots.len() > 2400, "{}", slots.len());
        assert!(slots.iter().all(|slot| *slot < SLOTS));
    }

    #[test]
    fn silence_is_counted_from_the_last_complete_reading() {
        let epochs = Epochs::new();
        epochs.heard(Steady::from_millis(5000));
        epochs.heard(Steady::from_millis(4000));
        assert_eq!(epochs.silent_for(Steady::from_millis(6500)), Duration::from_millis(1500));
        assert_eq!(epochs.silent_for(Steady::from_millis(1)), Duration::ZERO);
    }
}

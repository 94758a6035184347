//! What every backend promises, claimed once and shown on each: memory, and Redis where `TOLLGATE_TEST_REDIS_URL`
//! names one.

mod faults;
mod property;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;

use tokio::runtime::Runtime;
use uuid::Uuid;

use super::*;
use crate::model::id::OrgId;
use crate::model::time::Steady;

/// A backend under test, with a realm nobody else uses.
struct Rig {
    name: &'static str,
    realm: String,
    kept: Kept,
    /// How far the property tests have taken its clock: a backend's time never goes back, from case to case either.
    clock: AtomicU64,
}

enum Kept {
    Memory(Memory),
    Redis(Box<Redis>, Runtime),
}

/// Where the test's clock stands at first.
const START: u64 = 1_700_000_000_123;

fn rigs() -> Vec<Rig> {
    let mut all = vec![
        rig("memory, one shard", Kept::Memory(Memory::new(100))),
        rig("memory, many shards", Kept::Memory(Memory::new(100_000))),
    ];
    if let Some(url) = redis_url() {
        let redis = Redis::new(&url, Duration::from_secs(10)).unwrap();
        all.push(rig("redis", Kept::Redis(Box::new(redis), Runtime::new().unwrap())));
    }
    all
}

fn rig(name: &'static str, kept: Kept) -> Rig {
    Rig { name, realm: realm(), kept, clock: AtomicU64::new(START) }
}

/// A realm that no other test uses, so that they can share one Redis in any order.
fn realm() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[expect(clippy::disallowed_methods, reason = "the tests' own switch")]
fn redis_url() -> Option<Secret> {
    let url = std::env::var("TOLLGATE_TEST_REDIS_URL").ok();
    if url.is_none() {
        eprintln!("skipped: Redis (TOLLGATE_TEST_REDIS_URL is not set)");
    }
    url.map(Secret::new)
}

fn windows(texts: &[&str]) -> Vec<Window> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl Rig {
    fn subject(&self, number: u128) -> Subject {
        Subject::org(&self.realm, OrgId::from(Uuid::from_u128(number)))
    }

    fn admit(&self, charges: &[Charge<'_>], now: u64) -> Verdict {
        let mut asks = ask::flatten(charges);
        let now = Steady::from_millis(now);
        match &self.kept {
            Kept::Memory(memory) => memory.admit(charges, &mut asks, now),
            Kept::Redis(redis, runtime) => {
                runtime.handle().block_on(redis.admit(charges, &mut asks, now, Some(now.millis()))).unwrap()
            }
        }
    }

    fn admit_with(&self, charges: &[Charge<'_>], tried: &[Charge<'_>], now: u64) -> (Verdict, Option<Verdict>) {
        let [mut asks, mut of_tried] = [charges, tried].map(ask::flatten);
        let mut groups = [Group { charges, asks: &mut asks }, Group { charges: tried, asks: &mut of_tried }];
        let now = Steady::from_millis(now);
        match &self.kept {
            Kept::Memory(memory) => memory.admit_with(&mut groups, now),
            Kept::Redis(redis, runtime) => {
                let admitting = redis.admit_with(&mut groups, now, Some(now.millis()));
                runtime.handle().block_on(admitting).unwrap()
            }
        }
    }

    fn one(&self, number: u128, windows: &[Window], cost: u32, now: u64) -> Verdict {
        self.admit(&[Charge { subject: self.subject(number), windows, cost }], now)
    }

    fn clear(&self, subject: Subject) {
        match &self.kept {
            Kept::Memory(memory) => memory.clear(&[subject]),
            Kept::Redis(redis, runtime) => runtime.block_on(redis.clear(&[subject])),
        }
    }

    /// The units left in each window, with nothing spent.
    fn left(&self, number: u128, windows: &[Window], now: u64) -> Vec<u32> {
        let (Verdict::Admitted(states) | Verdict::Refused(states, _)) = self.one(number, windows, 0, now);
        states.iter().map(|state| state.remaining).collect()
    }
}

fn passes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Admitted(_))
}

/// Runs `act` on 64 threads at once; how many times it was true.
fn race(act: impl Fn(usize) -> bool + Sync) -> usize {
    let barrier = Barrier::new(64);
    thread::scope(|scope| {
        let run = |at| {
            barrier.wait();
            act(at)
        };
        let all: Vec<_> = (0..64).map(|at| scope.spawn(move || run(at))).collect();
        all.into_iter().filter_map(|thread| thread.join().ok()).filter(|admitted| *admitted).count()
    })
}

#[test]
fn sixty_four_threads_racing_for_the_last_slot_get_one() {
    let windows = windows(&["10/1m", "1000/1h"]);
    for rig in rigs() {
        assert!(passes(&rig.one(1, &windows, 9, START)), "{}", rig.name);
        assert_eq!(race(|_| passes(&rig.one(1, &windows, 1, START))), 1, "{}", rig.name);
        assert_eq!(rig.left(1, &windows, START), [0, 990], "{}: the refused have spent nothing", rig.name);
    }
}

#[test]
fn what_costs_nothing_fits_even_where_a_lowered_limit_is_overspent() {
    let (before, now) = (windows(&["10/1m", "100/1h"]), windows(&["3/1m", "100/1h"]));
    for rig in rigs() {
        assert!(passes(&rig.one(1, &before, 8, START)), "{}", rig.name);
        let look = rig.one(1, &now, 0, START);
        assert!(passes(&look), "{}: {look:?}", rig.name);
        assert_eq!(rig.left(1, &now, START), [0, 92], "{}", rig.name);
        assert!(!passes(&rig.one(1, &now, 1, START)), "{}: one unit does not", rig.name);
        // Beside somebody who has nothing left it still spends nothing and is spent from nobody.
        let free = Charge { subject: rig.subject(1), windows: &now, cost: 0 };
        let other = Charge { subject: rig.subject(2), windows: &now, cost: 3 };
        assert!(passes(&rig.admit(&[free, other], START)), "{}", rig.name);
        assert!(!passes(&rig.admit(&[free, other], START)), "{}", rig.name);
    }
}

#[test]
fn charges_named_in_any_order_are_spent_together_and_never_wait_for_each_other() {
    let (seven, ten) = (windows(&["7/1m"]), windows(&["10/1m"]));
    for rig in rigs() {
        let one = Charge { subject: rig.subject(1), windows: &seven, cost: 1 };
        let two = Charge { subject: rig.subject(2), windows: &ten, cost: 1 };
        let admitted = race(|at| passes(&rig.admit(&if at % 2 == 0 { [one, two] } else { [two, one] }, START)));
        assert_eq!(admitted, 7, "{}", rig.name);
        assert_eq!((rig.left(1, &seven, START), rig.left(2, &ten, START)), (vec![0], vec![3]), "{}", rig.name);
    }
}

#[test]
fn a_full_day_spends_nothing_of_the_minute_nor_of_anybody_else() {
    let (plan, address) = (windows(&["10/1m", "3/1d"]), windows(&["60/1m"]));
    for rig in rigs() {
        let both = |cost| {
            [
                Charge { subject: rig.subject(1), windows: &address, cost: 1 },
                Charge { subject: rig.subject(2), windows: &plan, cost },
            ]
        };
        assert!(passes(&rig.admit(&both(3), START)), "{}", rig.name);
        let refused = rig.admit(&both(1), START + 5);
        let Verdict::Refused(states, _) = &refused else { panic!("{}: {refused:?}", rig.name) };
        assert_eq!(states.iter().map(|state| state.remaining).collect::<Vec<_>>(), [59, 7, 0], "{}", rig.name);
        assert_eq!(states.tightest().map(|state| (state.charge, state.window)), Some((1, plan[1])), "{}", rig.name);
        assert_eq!(states.tightest_of(0).map(|state| state.window), Some(address[0]), "{}", rig.name);
        assert_eq!((rig.left(1, &address, START + 5), rig.left(2, &plan, START + 5)), (vec![59], vec![7, 0]));
    }
}

#[test]
fn the_answer_says_to_the_millisecond_when_the_same_request_passes() {
    let windows = windows(&["5/1m", "8/1h"]);
    for (rig, cost) in [1, 3, 5].into_iter().flat_map(|cost| rigs().into_iter().map(move |rig| (rig, cost))) {
        for (after, cost) in [(0, 2), (7000, 3), (200_000, 3)] {
            assert!(passes(&rig.one(1, &windows, cost, START + after)), "{} {after}", rig.name);
        }
        let now = START + 201_000;
        let Verdict::Refused(states, wait) = rig.one(1, &windows, cost, now) else { panic!("{}", rig.name) };
        assert_eq!(states.iter().map(|state| state.remaining).collect::<Vec<_>>(), [2, 0], "{}", rig.name);
        let wait = u64::try_from(wait.as_millis()).unwrap();
        assert!(wait > 3_300_000 && wait <= 3_660_000, "{}: {wait}", rig.name);
        let early = rig.one(1, &windows, cost, now + wait - 1);
        assert!(matches!(early, Verdict::Refused(_, rest) if rest == Duration::from_millis(1)), "{}", rig.name);
        assert!(passes(&rig.one(1, &windows, cost, now + wait)), "{}", rig.name);
    }
}

#[test]
fn a_cost_above_the_limit_never_passes_and_a_cost_of_nothing_only_looks() {
    let windows = windows(&["5/1m"]);
    for rig in rigs() {
        let Verdict::Refused(_, wait) = rig.one(1, &windows, 6, START) else { panic!("{}", rig.name) };
        assert_eq!(wait, Duration::from_mins(1), "{}", rig.name);
        assert!(passes(&rig.one(1, &windows, 0, START)), "{}", rig.name);
        assert!(passes(&rig.one(1, &windows, 5, START)), "{}", rig.name);
        assert!(passes(&rig.one(1, &windows, 0, START)), "{}", rig.name);
        assert!(!passes(&rig.one(1, &windows, 1, START)), "{}", rig.name);
    }
}

#[test]
fn two_charges_to_one_subject_are_added_up() {
    let (wide, narrow) = (windows(&["9/1m"]), windows(&["5/1m", "100/1h"]));
    for rig in rigs() {
        let twice = |cost| {
            let subject = rig.subject(1);
            [Charge { subject, windows: &wide, cost: 3 }, Charge { subject, windows: &narrow, cost }]
        };
        assert!(!passes(&rig.admit(&twice(3), START)), "{}: 6 in a window of 5", rig.name);
        assert!(passes(&rig.admit(&twice(2), START)), "{}", rig.name);
        assert_eq!(rig.left(1, &wide, START), [4], "{}", rig.name);
        assert_eq!(rig.left(1, &narrow, START), [0, 98], "{}: an hour that only one of them has", rig.name);
    }
}

#[test]
fn a_changed_limit_keeps_what_was_spent() {
    let (free, pro) = (windows(&["5/1h"]), windows(&["100/1h"]));
    for rig in rigs() {
        assert!(passes(&rig.one(1, &free, 5, START)), "{}", rig.name);
        assert_eq!(rig.left(1, &pro, START), [95], "{}", rig.name);
        assert!(passes(&rig.one(1, &pro, 60, START)), "{}", rig.name);
        assert_eq!(rig.left(1, &free, START), [0], "{}", rig.name);
        assert!(!passes(&rig.one(1, &free, 1, START)), "{}", rig.name);
    }
}

#[test]
fn clearing_forgets_one_subject_and_no_other() {
    let windows = windows(&["5/15m"]);
    for rig in rigs() {
        for number in [1, 2] {
            assert!(passes(&rig.one(number, &windows, 5, START)), "{}", rig.name);
        }
        rig.clear(rig.subject(1));
        assert_eq!((rig.left(1, &windows, START), rig.left(2, &windows, START)), (vec![5], vec![0]), "{}", rig.name);
    }
}

#[test]
fn one_realm_spends_nothing_of_another() {
    let windows = windows(&["1/1m"]);
    for rig in rigs() {
        let id = OrgId::from(Uuid::from_u128(1));
        for realm in [realm(), realm()] {
            let charge = Charge { subject: Subject::org(&realm, id), windows: &windows, cost: 1 };
            assert!(passes(&rig.admit(&[charge], START)), "{}", rig.name);
        }
    }
}

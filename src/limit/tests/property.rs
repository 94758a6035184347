//! The two bounds of the sliding window, over random admissions on every backend, against a naive log of all that was
//! admitted.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// A few windows of very different lengths, so that a random walk fills and empties each of them.
const WINDOWS: [&[&str]; 4] = [&["7/1s"], &["5/10s", "12/1m"], &["3/1m"], &["4/7s", "9/30s", "20/1h"]];

/// One admission: how far the clock goes, and (subject, cost) of each charge.
#[derive(Clone, Debug)]
struct Step {
    advance: i64,
    charges: Vec<(usize, u32)>,
}

fn steps(advance: impl Strategy<Value = i64> + Clone) -> impl Strategy<Value = Vec<Step>> {
    let charges = proptest::collection::vec((0..WINDOWS.len(), 0_u32..5), 1..4);
    proptest::collection::vec((advance, charges).prop_map(|(advance, charges)| Step { advance, charges }), 1..80)
}

/// Mostly small moves within the windows, sometimes past all of them.
fn forward() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![3 => Just(0), 6 => 0_i64..40, 6 => 0_i64..1500, 4 => 0_i64..20_000, 1 => 0_i64..8_000_000]
}

/// What was admitted, per subject: when, and how much.
#[derive(Default)]
struct Log(HashMap<usize, Vec<(u64, u64)>>);

impl Log {
    /// What `subject` spent in the closed interval `[now - length, now]`.
    fn spent(&self, subject: usize, length: u64, now: u64) -> u64 {
        let all = self.0.get(&subject).map_or(&[][..], Vec::as_slice);
        all.iter().filter(|(at, _)| at + length >= now).map(|(_, units)| units).sum()
    }

    fn add(&mut self, step: &Step, now: u64) {
        for (subject, cost) in &step.charges {
            self.0.entry(*subject).or_default().push((now, u64::from(*cost)));
        }
    }
}

fn millis(window: &Window) -> u64 {
    u64::try_from(window.length.as_millis()).unwrap()
}

/// Plays `steps`; `time` says at which moment an admission with the given reading counts as made.
fn play(rig: &Rig, steps: &[Step], mut time: impl FnMut(u64) -> u64) -> Result<(), TestCaseError> {
    let sets: Vec<Vec<Window>> = WINDOWS.iter().map(|set| windows(set)).collect();
    let realm = realm();
    let mut log = Log::default();
    let mut clock = rig.clock.load(Ordering::Relaxed);
    for step in steps {
        clock = clock.saturating_add_signed(step.advance);
        let subject = |number: usize| Subject::org(&realm, OrgId::from(Uuid::from_u128(number as u128)));
        let charges: Vec<Charge<'_>> = step
            .charges
            .iter()
            .map(|(number, cost)| Charge { subject: subject(*number), windows: &sets[*number], cost: *cost })
            .collect();
        rig.clock.store(clock, Ordering::Relaxed);
        let verdict = rig.admit(&charges, clock);
        let now = time(clock);
        let (Verdict::Admitted(states) | Verdict::Refused(states, _)) = &verdict;
        let asked: Vec<(usize, &Window)> =
            step.charges.iter().flat_map(|(number, _)| sets[*number].iter().map(|window| (*number, window))).collect();
        prop_assert_eq!(states.len(), asked.len());
        prop_assert!(states.iter().all(|state| state.reset_after > Duration::ZERO));
        if passes(&verdict) {
            log.add(step, now);
            for ((number, window), state) in asked.iter().zip(states.iter()) {
                let spent = log.spent(*number, millis(window), now);
                prop_assert!(spent <= u64::from(window.limit), "{}: {spent} in {window}", rig.name);
                prop_assert!(u64::from(state.remaining) + spent <= u64::from(window.limit));
            }
        } else {
            let demand = |number: usize| -> u64 {
                step.charges.iter().filter(|(other, _)| *other == number).map(|(_, cost)| u64::from(*cost)).sum()
            };
            let full = asked.iter().any(|(number, window)| {
                let late = millis(window) + millis(window) / 60 - 1;
                log.spent(*number, late, now) + demand(*number) > u64::from(window.limit)
            });
            prop_assert!(full, "{}: refused although every window had room for W/60", rig.name);
        }
    }
    Ok(())
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() }
}

/// Runs `claim` on random steps; the runner is made by hand so that a backend is started once, not once a case.
fn check(
    count: u32,
    advance: impl Strategy<Value = i64> + Clone,
    claim: impl Fn(&[Step]) -> Result<(), TestCaseError>,
) {
    let mut runner = proptest::test_runner::TestRunner::new(cases(count));
    if let Err(error) = runner.run(&steps(advance), |steps| claim(&steps)) {
        panic!("{error}");
    }
}

#[test]
fn no_trailing_window_holds_more_than_its_limit_and_capacity_is_at_most_a_sixtieth_late() {
    for rig in rigs() {
        let count = if matches!(rig.kept, Kept::Redis(..)) { 48 } else { 400 };
        check(count, forward(), |steps| play(&rig, steps, |now| now));
    }
}

/// Requests read their clock and then wait for other things: readings arrive out of order. Each counts as made at the
/// latest reading so far, and by that time both bounds hold.
#[test]
fn readings_out_of_order_break_neither_bound() {
    let disorder = prop_oneof![3 => forward(), 2 => -5000_i64..0, 1 => -200_000_i64..0];
    check(400, disorder, |steps| {
        let rig = rig("memory, one shard", Kept::Memory(Memory::new(100)));
        let mut latest = 0;
        play(&rig, steps, |now| {
            latest = latest.max(now);
            latest
        })
    });
}

/// Sets of windows that hold and windows that are tried, also of one length.
const MIXED: [&[&str]; 3] =
    [&["5/10s", "3/10s shadow", "12/1m shadow"], &["3/1m shadow"], &["4/7s", "6/7s shadow", "9/30s"]];

fn charges<'a>(step: &Step, realm: &str, sets: &'a [Vec<Window>]) -> Vec<Charge<'a>> {
    let of = |(number, cost): &(usize, u32)| {
        let set = number % sets.len();
        let subject = Subject::org(realm, OrgId::from(Uuid::from_u128(set as u128)));
        Charge { subject, windows: &sets[set], cost: *cost }
    };
    step.charges.iter().map(of).collect()
}

/// Three walks side by side: both kinds of windows in one set, those that hold alone, and those that are tried as if
/// they held, asked whenever the others admit. The first does what the other two do.
#[test]
fn a_window_in_shadow_counts_as_if_it_held_and_is_not_there_for_those_that_hold() {
    let mixed: Vec<Vec<Window>> = MIXED.iter().map(|set| windows(set)).collect();
    let of = |shadow: bool| -> Vec<Vec<Window>> {
        let mut sets = mixed.clone();
        for set in &mut sets {
            set.retain(|window| window.shadow == shadow);
            *set = set.iter().map(|window| window.held()).collect();
        }
        sets
    };
    let (held, tried) = (of(false), of(true));
    for rig in rigs() {
        let count = if matches!(rig.kept, Kept::Redis(..)) { 32 } else { 200 };
        check(count, forward(), |steps| {
            let realms = [realm(), realm(), realm()];
            let mut clock = rig.clock.load(Ordering::Relaxed);
            for step in steps {
                clock = clock.saturating_add_signed(step.advance);
                rig.clock.store(clock, Ordering::Relaxed);
                let whole = charges(step, &realms[0], &mixed);
                let shadows: Vec<Charge<'_>> = whole.iter().map(|charge| charge.in_shadow()).collect();
                let (admitted, shadow) = rig.admit_with(&whole, &shadows, clock);
                prop_assert_eq!(&admitted, &rig.admit(&charges(step, &realms[1], &held), clock), "{}", rig.name);
                prop_assert_eq!(shadow.is_some(), passes(&admitted), "{}", rig.name);
                let Some(shadow) = shadow else { continue };
                let alone = rig.admit(&charges(step, &realms[2], &tried), clock);
                prop_assert_eq!(passes(&shadow), passes(&alone), "{}", rig.name);
                let read = |verdict: &Verdict| -> Vec<(usize, u32, Duration)> {
                    let (Verdict::Admitted(states) | Verdict::Refused(states, _)) = verdict;
                    states.iter().map(|state| (state.charge, state.remaining, state.reset_after)).collect()
                };
                prop_assert_eq!(read(&shadow), read(&alone), "{}", rig.name);
            }
            Ok(())
        });
    }
}

/// Redis has only a calendar. What counts is real time: it goes on while the calendar is set back, and in no real
/// window of W is more than L admitted; a window after the last step all capacity is back.
#[test]
fn a_calendar_set_back_frees_nothing_and_keeps_nothing_for_longer_than_a_window() {
    let Some(url) = redis_url() else { return };
    let redis = Redis::new(&url, Duration::from_secs(10)).unwrap();
    let rig = rig("redis", Kept::Redis(Box::new(redis), Runtime::new().unwrap()));
    let set = windows(&["3/1m"]);
    let walk = proptest::collection::vec((0_u64..30_000, prop_oneof![3 => Just(0_u64), 1 => 0_u64..90_000_000]), 1..60);
    let mut runner = proptest::test_runner::TestRunner::new(cases(32));
    let outcome = runner.run(&walk, |walk| {
        let charge = Charge { subject: Subject::org(&realm(), Uuid::from_u128(1).into()), windows: &set, cost: 1 };
        let (mut real, mut back) = (START, 0);
        let mut log: Vec<u64> = Vec::new();
        for (advance, step) in walk {
            real += advance;
            back += step;
            if passes(&rig.admit(&[charge], real - back)) {
                log.push(real);
                let spent = log.iter().filter(|at| *at + 60_000 >= real).count();
                prop_assert!(spent <= 3, "{spent} within a minute of real time");
            }
        }
        let _ = rig.admit(&[charge], real - back); // the step is seen at the next admission
        let whole = Charge { cost: 3, ..charge };
        prop_assert!(passes(&rig.admit(&[whole], real - back + 61_000)));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

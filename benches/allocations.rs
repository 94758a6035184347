//! How often a decision asks the allocator for memory, and for how much: counted, not timed.
//!
//! A program of its own beside `hot_path`, because counting would cost what is timed there.
//!
//! `cargo bench --bench allocations`

mod world;

use std::alloc::System;
use std::hint::black_box;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tollgate::edge::authorize::authorize;
use tollgate::edge::{authenticate, intake, route, throttle};

use world::{World, at_once, head};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Enough that what happens once (a table that grows) does not show.
const TURNS: usize = 1000;

fn main() {
    let world = World::new();
    println!("{:<28}{:>12}{:>10}", "one decision", "allocations", "bytes");
    for (name, credential) in [("HS256, remembered", &world.token), ("API key, remembered", &world.key)] {
        let mut head = head(credential);
        let decide = || {
            black_box(at_once(world.decision(&mut head)).expect("it may pass"));
        };
        tell(name, count(decide));
        stages(&world, credential);
    }
}

/// The same, stage by stage.
fn stages(world: &World, credential: &str) {
    let mut head = head(credential);
    let mut sums = [(0, 0); 6];
    for _ in 0..TURNS {
        let mut at = 0;
        let mut note = |region: &Region<'_, System>| {
            let change = region.change();
            sums[at].0 += change.allocations + change.reallocations;
            sums[at].1 += change.bytes_allocated;
            at += 1;
        };
        let region = Region::new(ALLOCATOR);
        let mut exchange = world.begin();
        note(&region);
        let region = Region::new(ALLOCATOR);
        intake::take(&mut exchange, &mut head).expect("a sound request");
        note(&region);
        let region = Region::new(ALLOCATOR);
        let target = route::find(&mut exchange).expect("a route");
        note(&region);
        let region = Region::new(ALLOCATOR);
        at_once(authenticate::authenticate(&mut exchange, &head.headers, &target)).expect("a good credential");
        note(&region);
        let region = Region::new(ALLOCATOR);
        let permit = authorize(&exchange, target).expect("it may");
        note(&region);
        let region = Region::new(ALLOCATOR);
        at_once(throttle::admit(&mut exchange, &permit)).expect("it has room");
        note(&region);
    }
    for (name, (calls, bytes)) in ["begin", "intake", "route", "authenticate", "authorize", "throttle"].iter().zip(sums)
    {
        tell(&format!("  {name}"), (calls, bytes));
    }
}

/// Allocations and their bytes over all turns.
fn count(mut work: impl FnMut()) -> (usize, usize) {
    let region = Region::new(ALLOCATOR);
    (0..TURNS).for_each(|_| work());
    let change = region.change();
    (change.allocations + change.reallocations, change.bytes_allocated)
}

#[expect(clippy::cast_precision_loss, reason = "small numbers for a person to read")]
fn tell(name: &str, (calls, bytes): (usize, usize)) {
    println!("{name:<28}{:>12.1}{:>10.0}", calls as f64 / TURNS as f64, bytes as f64 / TURNS as f64);
}

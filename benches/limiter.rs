//! The limiter in memory against the obvious one: a lock over a map of logs of every request.
//!
//! Both are run side by side, four threads at once, from 1 to 100,000 subjects with two windows each; after criterion's
//! own figures the ratios are printed, and what each keeps in memory. Time is virtual: windows pass during the run.
//!
//! `cargo bench --bench limiter`

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use tollgate::limit::{Backend, Charge, Limiter, Settings, Subject, Verdict};
use tollgate::model::id::OrgId;
use tollgate::model::time::{Now, Steady, Timestamp};
use tollgate::model::window::Window;
use uuid::Uuid;

const THREADS: u64 = 4;
/// Admissions of one thread in one virtual millisecond.
const PER_MILLI: u64 = 10;
const SUBJECTS: [u64; 4] = [1, 100, 10_000, 100_000];

/// What is compared.
trait Admits: Sync {
    const NAME: &'static str;
    fn new() -> Self;
    fn admit(&self, subject: Subject, windows: &[Window], now: u64) -> bool;
}

struct Naive(Mutex<HashMap<Subject, Vec<VecDeque<u64>>>>);

impl Admits for Naive {
    const NAME: &'static str = "naive";

    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn admit(&self, subject: Subject, windows: &[Window], now: u64) -> bool {
        let mut map = self.0.lock().expect("no bench thread panics");
        let logs = map.entry(subject).or_insert_with(|| vec![VecDeque::new(); windows.len()]);
        let mut fits = true;
        for (log, window) in logs.iter_mut().zip(windows) {
            let length = u64::try_from(window.length.as_millis()).unwrap_or(u64::MAX);
            while log.front().is_some_and(|at| at + length < now) {
                log.pop_front();
            }
            fits &= log.len() < window.limit as usize;
        }
        if fits {
            for log in logs {
                log.push_back(now);
            }
        }
        fits
    }
}

impl Admits for Limiter {
    const NAME: &'static str = "tollgate";

    fn new() -> Self {
        let settings = Settings { backend: Backend::Memory, max_subjects: 1_000_000 };
        Self::new(&settings).expect("memory needs nothing")
    }

    fn admit(&self, subject: Subject, windows: &[Window], now: u64) -> bool {
        let now = Now { wall: Timestamp::from_secs(0), steady: Steady::from_millis(now) };
        let charges = [Charge { subject, windows, cost: 1 }];
        // In memory nothing waits: the first poll has the answer.
        match pin!(self.admit(&charges, now)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(verdict)) => matches!(verdict, Verdict::Admitted(_)),
            other => panic!("{other:?}"),
        }
    }
}

fn subject(number: u64) -> Subject {
    Subject::org("bench", OrgId::from(Uuid::from_u128(u128::from(number))))
}

fn windows(limit: u32) -> Vec<Window> {
    [1, 60].map(|secs| Window { limit, length: Duration::from_secs(secs), shadow: false }).to_vec()
}

#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
fn instant() -> Instant {
    Instant::now()
}

/// The time that `each` admissions on every thread take, from the first one's start to the last one's end.
fn contend<A: Admits>(limiter: &A, subjects: &[Subject], windows: &[Window], clock: &AtomicU64, each: u64) -> Duration {
    let (start, barrier) = (clock.load(Ordering::Relaxed), Barrier::new(4));
    let spans: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let run = |thread: u64| {
            barrier.wait();
            let began = instant();
            for turn in 0..each {
                let mixed = (turn * THREADS + thread).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                let at = usize::try_from(mixed).unwrap_or(0) % subjects.len();
                black_box(limiter.admit(subjects[at], windows, start + turn / PER_MILLI));
            }
            (began, instant())
        };
        let all: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        all.into_iter().map(|thread| thread.join().expect("no bench thread panics")).collect()
    });
    clock.store(start + each / PER_MILLI + 1, Ordering::Relaxed);
    let began = spans.iter().map(|span| span.0).min().expect("there are four");
    spans.iter().map(|span| span.1).max().expect("there are four") - began
}

/// Nanoseconds an admission, one figure a sample, by what was run.
type Figures = BTreeMap<(&'static str, u64, &'static str), Vec<f64>>;

#[expect(clippy::cast_precision_loss, reason = "nanoseconds for a person to read")]
fn bench<A: Admits>(criterion: &mut Criterion, figures: &mut Figures, case: &'static str, limit: u32, count: u64) {
    let subjects: Vec<Subject> = (0..count).map(subject).collect();
    let windows = windows(limit);
    let (limiter, clock) = (A::new(), AtomicU64::new(1));
    contend(&limiter, &subjects, &windows, &clock, 2 * count);
    let samples = figures.entry((case, count, A::NAME)).or_default();
    let mut group = criterion.benchmark_group(case);
    group.bench_function(BenchmarkId::new(A::NAME, count), |bencher| {
        bencher.iter_custom(|admissions| {
            let each = admissions.div_ceil(THREADS);
            let took = contend(&limiter, &subjects, &windows, &clock, each);
            if each >= 1000 {
                samples.push(took.as_secs_f64() * 1e9 / (each * THREADS) as f64);
            }
            took
        });
    });
    group.finish();
}

/// What the process keeps more, in bytes a subject, after `requests` of each of 20,000 subjects, over one minute.
fn footprint<A: Admits>(requests: u64) -> u64 {
    const COUNT: u64 = 20_000;
    let before = resident();
    let limiter = A::new();
    let windows = windows(u32::MAX);
    for turn in 0..requests {
        for number in 0..COUNT {
            limiter.admit(subject(number), &windows[1..], 1 + turn * 60_000 / requests);
        }
    }
    let after = resident();
    black_box(&limiter);
    after.saturating_sub(before) / COUNT
}

/// [`footprint`] in a process of its own: what another measurement has freed would hide what this one takes.
fn footprint_apart(name: &str, requests: u64) -> String {
    let own = std::env::current_exe().expect("a bench is a file");
    let output = std::process::Command::new(own).args(["footprint", name, &requests.to_string()]).output();
    String::from_utf8_lossy(&output.expect("a bench can run itself").stdout).trim().to_owned()
}

/// Resident bytes of this process (Linux; elsewhere 0).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn median(samples: &mut [f64]) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, what, name, requests] = &arguments[..]
        && what == "footprint"
    {
        let requests = requests.parse().expect("written by `footprint_apart`");
        let bytes = if name == Naive::NAME { footprint::<Naive>(requests) } else { footprint::<Limiter>(requests) };
        println!("{bytes}");
        return;
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut figures = Figures::new();
    for (case, limit) in [("admitted", u32::MAX), ("mostly refused", 5)] {
        for count in SUBJECTS {
            bench::<Naive>(&mut criterion, &mut figures, case, limit, count);
            bench::<Limiter>(&mut criterion, &mut figures, case, limit, count);
        }
    }
    criterion.final_summary();
    if figures.values().all(Vec::is_empty) {
        return; // `cargo test` runs every case once, to see that it runs
    }

    println!("\n{:<16}{:>10}{:>14}{:>14}{:>10}", "4 threads", "subjects", "naive ns", "tollgate ns", "ratio");
    for case in ["admitted", "mostly refused"] {
        for count in SUBJECTS {
            let mut of = |name| figures.get_mut(&(case, count, name)).and_then(|samples| median(samples));
            if let (Some(naive), Some(ours)) = (of(Naive::NAME), of(Limiter::NAME)) {
                println!("{case:<16}{count:>10}{naive:>14.0}{ours:>14.0}{:>10.2}", ours / naive);
            }
        }
    }
    println!("\n{:<16}{:>10}{:>14}{:>14}", "one window", "requests", "naive bytes", "tollgate bytes");
    for requests in [1, 60, 1000] {
        let [naive, ours] = [Naive::NAME, <Limiter as Admits>::NAME].map(|name| footprint_apart(name, requests));
        println!("{:<16}{requests:>10}{naive:>14}{ours:>14}", "a subject keeps");
    }
}

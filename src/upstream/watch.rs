//! Asking servers over and over whether they are well: one task a server, once a process, never on a request's path.
//!
//! What a task finds stands in the server's [`Standing`], which requests read. A server counts as well until its first
//! check has ended, which decides at once; from then on `fall` failures in a row take it out and `rise` successes let it
//! back in, with the slow return of one that was ejected. At a reload a server that is asked as before is asked on, and
//! one that is asked otherwise begins with what was known of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::balance::{Dice, Ejection, millis, returning};
use super::check::{Check, Unwell, probe};
use super::connect::Origin;
use super::settings::{Server, Settings};
use crate::observe::metrics::labels::CheckResult;
use crate::observe::metrics::{CheckMetrics, Metrics};

/// How a server stands by its checks.
#[derive(Debug)]
pub(super) struct Standing {
    born: Instant,
    verdict: AtomicU8,
    /// When it came back, in milliseconds since it was born; 0: it was never away.
    back: AtomicU64,
}

/// What the checks say of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// No check has ended yet: it is given requests.
    Unknown,
    /// It is well.
    Up,
    /// It is not, and gets no requests.
    Down,
}

impl Verdict {
    /// The name for operators.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Standing {
    fn new() -> Self {
        Self { born: Instant::now(), verdict: AtomicU8::new(Verdict::Unknown as u8), back: AtomicU64::new(0) }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.verdict.load(Ordering::Relaxed) {
            verdict if verdict == Verdict::Up as u8 => Verdict::Up,
            verdict if verdict == Verdict::Down as u8 => Verdict::Down,
            _ => Verdict::Unknown,
        }
    }

    fn set(&self, verdict: Verdict) {
        if verdict == Verdict::Up && self.verdict() == Verdict::Down {
            self.back.store(millis(self.born.elapsed()).max(1), Ordering::Relaxed);
        }
        self.verdict.store(verdict as u8, Ordering::Relaxed);
    }

    /// Its weight for now: little when it has just come back.
    fn weight(&self, own: u32, rules: &Ejection) -> u32 {
        match self.back.load(Ordering::Relaxed) {
            0 => u32::MAX,
            back => returning(millis(self.born.elapsed()).saturating_sub(back), own, rules),
        }
    }
}

/// Where a server's [`Standing`] is found: filled when its checks begin, empty while there are none.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched(Arc<OnceLock<Arc<Standing>>>);

impl PartialEq for Watched {
    /// What is known of a server is no setting of it.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Watched {}

impl Watched {
    /// What its checks say; `None`: it has none.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.0.get().map(|standing| standing.verdict())
    }

    pub(super) fn is_down(&self) -> bool {
        self.verdict() == Some(Verdict::Down)
    }

    /// At most this weight for now.
    pub(super) fn weight(&self, own: u32, rules: &Ejection) -> u32 {
        self.0.get().map_or(u32::MAX, |standing| standing.weight(own, rules))
    }
}

/// Everything that is watched.
#[derive(Default)]
pub(super) struct Watches {
    running: Mutex<HashMap<Name, Watch>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    dice: Arc<Dice>,
}

/// A server as the operator knows it: site, upstream, address. Each upstream asks its own servers, in its own way.
type Name = (String, String, String);

struct Watch {
    check: Check,
    /// How the server is spoken to.
    key: Arc<str>,
    standing: Arc<Standing>,
    metrics: CheckMetrics,
    stop: CancellationToken,
}

impl Watches {
    /// Has the servers of `upstreams` (each with its site's name) checked as they say, and no others.
    pub(super) fn watch(&self, upstreams: &[(&str, &Settings)], usual: Option<&Arc<ClientConfig>>, metrics: &Metrics) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named = HashMap::new();
        for (site, settings) in upstreams {
            let Some(check) = &settings.health else { continue };
            for server in &settings.servers {
                let name = ((*site).to_owned(), settings.name.clone(), server.to_string());
                named.insert(name, (*settings, server, check));
            }
        }
        running.retain(|name, watch| {
            let kept = named.contains_key(name);
            if !kept {
                watch.stop.cancel();
                watch.metrics.forget();
            }
            kept
        });
        for (name, (settings, server, check)) in named {
            let entry = running.entry(name);
            let standing = match &entry {
                Entry::Occupied(known) => Arc::clone(&known.get().standing),
                Entry::Vacant(_) => Arc::new(Standing::new()),
            };
            // Every copy of these settings looks here, and nobody filled it before.
            let _first = server.watched.0.set(Arc::clone(&standing));
            match entry {
                Entry::Occupied(known) if known.get().check == *check && known.get().key == server.key => {}
                Entry::Occupied(mut known) => {
                    known.get().stop.cancel();
                    let metrics = known.get().metrics.clone();
                    let name = known.key().clone();
                    known.insert(self.begin(&name, (settings, server, check), standing, metrics, usual));
                }
                Entry::Vacant(free) => {
                    let name = free.key().clone();
                    let metrics = metrics.checks(&name.0, &name.1, &name.2);
                    free.insert(self.begin(&name, (settings, server, check), standing, metrics, usual));
                }
            }
        }
    }

    fn begin(
        &self,
        name: &Name,
        (settings, server, check): (&Settings, &Server, &Check),
        standing: Arc<Standing>,
        metrics: CheckMetrics,
        usual: Option<&Arc<ClientConfig>>,
    ) -> Watch {
        let stop = self.stop.child_token();
        let watcher = Watcher {
            name: name.clone(),
            check: check.clone(),
            standing: Arc::clone(&standing),
            metrics: metrics.clone(),
            tasks: self.tasks.clone(),
            dice: Arc::clone(&self.dice),
            failed: 0,
            passed: 0,
        };
        match Origin::new(&server.address, settings.protocol, settings.trust.as_ref(), usual) {
            Ok(origin) => {
                let stop = stop.clone();
                self.tasks.spawn(async move {
                    // In the middle of a check, too: what it found would be nobody's any more.
                    Box::pin(stop.run_until_cancelled(watcher.run(origin))).await;
                });
            }
            // Requests fail in the same way, and say so.
            Err(error) => {
                tracing::warn!(server = name.2, error = &error as &dyn std::error::Error, "cannot be checked");
            }
        }
        Watch { check: check.clone(), key: Arc::clone(&server.key), standing, metrics, stop }
    }

    /// Ends all checks and waits until they have.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Asks one server.
struct Watcher {
    name: Name,
    check: Check,
    standing: Arc<Standing>,
    metrics: CheckMetrics,
    tasks: TaskTracker,
    dice: Arc<Dice>,
    /// In a row.
    failed: u32,
    passed: u32,
}

impl Watcher {
    async fn run(mut self, origin: Origin) {
        loop {
            let outcome = probe(&origin, &self.check, &self.tasks).await;
            self.note(outcome);
            tokio::time::sleep(spread(self.check.interval, &self.dice)).await;
        }
    }

    fn note(&mut self, outcome: Result<(), Unwell>) {
        self.metrics.ended(outcome.as_ref().err().map_or(CheckResult::Passed, Unwell::result));
        (self.passed, self.failed) = match outcome {
            Ok(()) => (self.passed.saturating_add(1), 0),
            Err(_) => (0, self.failed.saturating_add(1)),
        };
        let verdict = self.standing.verdict();
        let next = match &outcome {
            Ok(()) if verdict == Verdict::Unknown || self.passed >= self.check.rise => Verdict::Up,
            Err(_) if verdict == Verdict::Unknown || self.failed >= self.check.fall => Verdict::Down,
            _ => verdict,
        };
        if next == verdict {
            return;
        }
        self.standing.set(next);
        self.metrics.healthy(next != Verdict::Down);
        let (site, upstream, server) = &self.name;
        match outcome {
            Ok(()) if verdict == Verdict::Down => {
                tracing::info!(site, upstream, server, "passes its health checks again");
            }
            Ok(()) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(site, upstream, server, error, "fails its health checks: it gets no requests");
            }
        }
    }
}

/// A pause of about `interval`, up to a tenth shorter or longer: so that many who began together do not ask together.
fn spread(interval: Duration, dice: &Dice) -> Duration {
    let percent = 90 + u32::try_from(dice.roll(21)).unwrap_or(10);
    interval.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Down, Up};
    use super::*;
    use crate::model::time::Timestamp;

    #[test]
    fn pauses_are_spread_around_the_interval() {
        let dice = Dice::default();
        let pauses: Vec<Duration> = (0..1000).map(|_| spread(Duration::from_secs(10), &dice)).collect();
        assert!(pauses.iter().all(|pause| (9_000..=11_000).contains(&pause.as_millis())));
        assert!(
            pauses.iter().any(|pause| pause.as_millis() < 9_500) && pauses.iter().any(|it| it.as_millis() > 10_500)
        );
    }

    #[test]
    fn the_first_check_decides_and_from_then_on_rise_and_fall_do() {
        let metrics = Metrics::new(Timestamp::from_secs(0));
        let watcher = || Watcher {
            name: (String::new(), String::new(), String::new()),
            check: Check::default(),
            standing: Arc::new(Standing::new()),
            metrics: metrics.checks("site", "app", "http://a"),
            tasks: TaskTracker::new(),
            dice: Arc::default(),
            failed: 0,
            passed: 0,
        };
        let late = || Err(Unwell::Late(Duration::ZERO));
        let rules = Ejection::default();
        let mut it = watcher();
        assert_eq!(it.standing.verdict(), Verdict::Unknown);
        let mut verdicts = |outcomes: &[bool]| -> Vec<Verdict> {
            let each = outcomes.iter().map(|passes| {
                it.note(if *passes { Ok(()) } else { late() });
                it.standing.verdict()
            });
            each.collect()
        };
        assert_eq!(verdicts(&[true]), [Up]);
        assert_eq!(verdicts(&[false, false, true, false, false, false]), [Up, Up, Up, Up, Up, Down]);
        assert_eq!(verdicts(&[true, false, true, true]), [Down, Down, Down, Up]);
        assert!(it.standing.weight(5, &rules) < 100, "it gets its share back little by little");
        let mut it = watcher();
        it.note(late());
        assert_eq!(it.standing.verdict(), Down);
        it.note(Ok(()));
        it.note(Ok(()));
        assert_eq!(it.standing.verdict(), Up);
        let text = metrics.text();
        let named = "site=\"site\",upstream=\"app\"";
        assert!(
            text.contains(&format!("tollgate_upstream_server_healthy{{server=\"http://a\",{named}}} 1\n")),
            "{text}"
        );
        assert!(text.contains(&format!(
            "tollgate_upstream_checks_total{{result=\"timeout\",server=\"http://a\",{named}}} 7\n"
        )));
        watcher().metrics.forget();
        assert!(!metrics.text().contains("tollgate_upstream_server_healthy{"));
    }
}

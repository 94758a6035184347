//! How many second attempts an upstream gets: a part of its recent requests, and a few a second beside.
//!
//! Without a bound every request to an upstream that fails would be sent twice, or to three servers, just when it can
//! bear that least. Whether a request may be tried again at all is not decided here (see `exchange`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::balance::millis;
use crate::observe::metrics::RetryMetrics;
use crate::observe::metrics::labels::RetryResult;

/// How many second attempts there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// For so many of a hundred requests of the last ten seconds or so.
    pub percent: u32,
    /// And so many a second beside: where there are few requests, one that fails should still be tried again.
    pub per_second: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { percent: 20, per_second: 10 }
    }
}

/// How long a request counts towards attempts that others need.
const RECENT: Duration = Duration::from_secs(10);
/// What an attempt costs of the requests' part: a request brings in its percents, in thousandths.
const OF_REQUESTS: u64 = 100_000;
/// What it costs of the other: a millisecond brings in as many as there are attempts a second.
const OF_TIME: u64 = 1000;

/// What is left of an upstream's second attempts.
#[derive(Debug, Default)]
pub struct Budget {
    /// Since it began. All that a request which goes well touches.
    requests: AtomicU64,
    ledger: Mutex<Option<Ledger>>,
    metrics: Option<RetryMetrics>,
}

#[derive(Debug)]
struct Ledger {
    /// When it was last looked at, and how many requests there had been.
    at: Instant,
    requests: u64,
    of_requests: u64,
    of_time: u64,
}

impl PartialEq for Budget {
    /// What is left is no setting.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Budget {}

impl Budget {
    /// All of it, and counted in `metrics`.
    pub fn counting(metrics: RetryMetrics) -> Self {
        Self { metrics: Some(metrics), ..Self::default() }
    }

    /// A request begins.
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there is a second attempt left; if so, it is spent.
    pub(super) fn spend(&self, rules: Retries) -> bool {
        let spent = self.spend_at(rules, Instant::now());
        if let Some(metrics) = &self.metrics {
            metrics.asked(if spent { RetryResult::Spent } else { RetryResult::Refused });
        }
        spent
    }

    fn spend_at(&self, rules: Retries, now: Instant) -> bool {
        let (percent, per_second) = (u64::from(rules.percent), u64::from(rules.per_second));
        let total = self.requests.load(Ordering::Relaxed);
        // Held for a few additions, and only where something has failed.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let all = per_second * OF_TIME;
        let ledger = ledger.get_or_insert(Ledger { at: now, requests: 0, of_requests: 0, of_time: all });
        let (passed, recent) = (millis(now.saturating_duration_since(ledger.at)), millis(RECENT));
        let mut fresh = total.saturating_sub(ledger.requests).saturating_mul(percent * 1000);
        if passed > recent {
            // Of those since then, what the last ten seconds had, had they come evenly.
            fresh = fresh.saturating_mul(recent) / passed;
        }
        let kept = ledger.of_requests.saturating_mul(recent.saturating_sub(passed)) / recent;
        ledger.of_requests = kept.saturating_add(fresh);
        ledger.of_time = ledger.of_time.saturating_add(passed.saturating_mul(per_second)).min(all);
        (ledger.at, ledger.requests) = (now, total);
        if let Some(left) = ledger.of_requests.checked_sub(OF_REQUESTS) {
            ledger.of_requests = left;
            return true;
        }
        let left = ledger.of_time.checked_sub(OF_TIME);
        ledger.of_time = left.unwrap_or(ledger.of_time);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many requests that each want a second attempt, `pause` apart; how many got one.
    fn failing(budget: &Budget, rules: Retries, count: u32, from: Instant, pause: Duration) -> u32 {
        let spent = (0..count).map(|nth| {
            budget.request();
            u32::from(budget.spend_at(rules, from + pause * nth))
        });
        spent.sum()
    }

    #[test]
    fn an_upstream_that_always_fails_gets_its_percents_and_its_few_a_second() {
        let (start, rules) = (Instant::now(), Retries::default());
        let spent = failing(&Budget::default(), rules, 1000, start, Duration::ZERO);
        assert_eq!(spent, 210, "in no time: a fifth, and what a second has");
        let spent = failing(&Budget::default(), rules, 1000, start, Duration::from_millis(10));
        assert!((295..=310).contains(&spent), "in ten seconds: a fifth, and ten a second: {spent}");
        let few = Retries { per_second: 0, ..rules };
        assert!((195..=200).contains(&failing(&Budget::default(), few, 1000, start, Duration::from_millis(1))));
        let none = Retries { percent: 0, per_second: 0 };
        assert_eq!(failing(&Budget::default(), none, 1000, start, Duration::from_millis(10)), 0);
    }

    #[test]
    fn what_was_not_needed_is_not_kept_for_long() {
        let (start, rules) = (Instant::now(), Retries { percent: 20, per_second: 0 });
        let after = |pause: Duration| {
            let budget = Budget::default();
            assert!(!budget.spend_at(rules, start), "there was no request");
            (0..1000).for_each(|_| budget.request());
            let asked = (0..1000).filter(|_| budget.spend_at(rules, start + pause));
            asked.count()
        };
        assert_eq!(after(Duration::from_secs(1)), 200);
        assert_eq!(after(Duration::from_secs(10)), 200);
        assert_eq!(after(Duration::from_secs(100)), 20, "they came at ten a second");
        let budget = Budget::default();
        (0..1000).for_each(|_| budget.request());
        assert!(budget.spend_at(rules, start));
        assert!(budget.spend_at(rules, start + Duration::from_secs(9)), "less and less of it");
        assert!(!budget.spend_at(rules, start + Duration::from_secs(30)));
    }

    #[test]
    fn one_failure_among_few_requests_is_always_tried_again() {
        let (start, rules) = (Instant::now(), Retries::default());
        assert_eq!(failing(&Budget::default(), rules, 50, start, Duration::from_mins(1)), 50);
    }
}

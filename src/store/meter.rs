//! Counts what the store is asked, how it answered and how long that took.
//!
//! Called by the three macros of `pool.rs`, so that no method can be forgotten, and by [`super::Store::open`]. What is
//! counted is a transaction: a purge in batches counts each. A call that its caller gave up has no outcome and is
//! not counted.

use std::sync::Arc;

use crate::model::time::{Clock, Steady};
use crate::observe::metrics::Metrics;
use crate::observe::metrics::labels::{StoreOperation, StoreOutcome};

use super::StoreError;

/// Where it is counted, and the clock that times it.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
}

/// A use that is under way.
pub(super) struct Running<'a> {
    meter: &'a Meter,
    operation: StoreOperation,
    since: Steady,
}

impl Meter {
    /// Starts the watch, before a connection is waited for.
    pub fn start(&self, operation: StoreOperation) -> Running<'_> {
        Running { meter: self, operation, since: self.clock.now().steady }
    }
}

impl Running<'_> {
    /// Counts the use; its result passes through.
    pub fn ended<T>(self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let took = self.meter.clock.now().steady.since(self.since);
        self.meter.metrics.store.done(self.operation, outcome(&result), took);
        result
    }
}

fn outcome<T>(result: &Result<T, StoreError>) -> StoreOutcome {
    match result {
        Ok(_) => StoreOutcome::Ok,
        Err(StoreError::Unavailable { .. }) => StoreOutcome::Unavailable,
        Err(_) => StoreOutcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{Bench, REALM, T0, account, on_both};
    use super::*;
    use crate::model::time::TestClock;

    on_both!(
        every_method_counts_itself_once_under_its_own_name,
        what_cannot_be_reached_counts_as_unavailable_and_takes_the_store_down,
    );

    /// The count of an operation with an outcome, as a scrape would show it; 0 where there is no such line yet.
    fn count(metrics: &Metrics, operation: &str, outcome: &str) -> u64 {
        let line = format!(r#"tollgate_store_operations_total{{operation="{operation}",outcome="{outcome}"}} "#);
        let text = metrics.text();
        text.lines().find_map(|at| at.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    async fn every_method_counts_itself_once_under_its_own_name(bench: Arc<Bench>) {
        let (store, metrics) = (&bench.store, &bench.metrics);
        assert_eq!(count(metrics, "migrate", "ok"), 1, "opening");
        let ann = bench.registered("ann").await;
        assert_eq!(count(metrics, "register", "ok"), 1, "a transaction that announces nothing");
        // One that is refused for what it found, and one that finds nothing, were answered all the same.
        store.register(REALM, &account("ann")).await.unwrap();
        store.account("other", ann.user.id).await.unwrap();
        assert_eq!(count(metrics, "register", "ok"), 2);
        assert_eq!(count(metrics, "account", "ok"), 1, "a look-up");
        store.set_plan(REALM, ann.org.id, "pro", T0).await.unwrap();
        assert_eq!(count(metrics, "set_plan", "ok"), 1, "a transaction that announces");
        store.ping().await.unwrap();
        assert_eq!(count(metrics, "ping", "ok"), 1);
        assert_eq!(count(metrics, "changes", "ok"), 0, "asking whether it answers is not reading the feed");
        assert_eq!(metrics.store.up.get(), 1);
    }

    async fn what_cannot_be_reached_counts_as_unavailable_and_takes_the_store_down(bench: Arc<Bench>) {
        bench.store.close().await;
        assert!(bench.store.register(REALM, &account("ann")).await.is_err());
        assert_eq!(count(&bench.metrics, "register", "unavailable"), 1);
        assert_eq!(count(&bench.metrics, "register", "ok"), 0);
        assert_eq!(bench.metrics.store.up.get(), 0);
    }

    #[test]
    fn the_clock_that_was_handed_over_times_it() {
        let clock = Arc::new(TestClock::at(T0));
        let meter = Meter { metrics: Arc::new(Metrics::new(T0)), clock: clock.clone() };
        let running = meter.start(StoreOperation::Key);
        clock.advance(Duration::from_millis(1500));
        running.ended(Err::<(), _>(StoreError::corrupt("a row"))).unwrap_err();
        assert_eq!(count(&meter.metrics, "key", "failed"), 1);
        let sum = r#"tollgate_store_operation_duration_seconds_sum{operation="key"} 1.5"#;
        assert!(meter.metrics.text().contains(sum), "{}", meter.metrics.text());
    }
}

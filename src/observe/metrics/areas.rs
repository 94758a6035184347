//! What is counted of each machine: one struct an area, its children looked up once.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::labels::{
    AgentOutcome, Cache, ChangeSource, Clients, Handshake, LimitKind, Listener, MailOutcome, Slow, StoreOperation,
    StoreOutcome, TlsVersion, TurnedAway,
};
use super::{Held, Make, grid, seconds_of};
use crate::model::time::Timestamp;

/// Client connections, by listener.
#[derive(Debug)]
pub struct Connections {
    open: Vec<IntGauge>,
    total: Vec<IntCounter>,
    turned_away: Vec<Vec<IntCounter>>,
    slow: Vec<IntCounter>,
    waited: Vec<IntCounter>,
    /// Connections ended because their clients took back too many of the streams that they had opened.
    pub taken_back: IntCounter,
    /// Times the listeners stayed here because the process that was to take them over failed.
    pub handover_failures: IntCounter,
}

impl Connections {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let open = make.gauges("connections", "Client connections open.", &["listener"]);
        let total = make.counters("connections_total", "Client connections accepted.", &["listener"]);
        let turned_away = make.counters(
            "connections_turned_away_total",
            "Client connections closed before anything was asked on them.",
            &["listener", "reason"],
        );
        let slow = make.counters(
            "connections_timed_out_total",
            "Client connections ended because nothing came, or went, for too long; TLS handshakes aside.",
            &["phase"],
        );
        let waited = make.counters(
            "connections_waited_total",
            "Client connections that had to wait until another ended: there were as many as there may be.",
            &["listener"],
        );
        let each = |listener: &Listener| [listener.name()];
        Self {
            waited: Listener::ALL.iter().map(|at| waited.with_label_values(&each(at))).collect(),
            open: Listener::ALL.iter().map(|at| open.with_label_values(&each(at))).collect(),
            total: Listener::ALL.iter().map(|at| total.with_label_values(&each(at))).collect(),
            turned_away: grid(Listener::ALL, TurnedAway::ALL, |listener, reason| {
                turned_away.with_label_values(&[listener.name(), reason.name()])
            }),
            slow: Slow::ALL.iter().map(|phase| slow.with_label_values(&[phase.name()])).collect(),
            taken_back: make.counter(
                "connections_reset_floods_total",
                "HTTP/2 connections ended because their clients opened streams only to reset them.",
            ),
            handover_failures: make.counter(
                "handover_failures_total",
                "Times the listeners stayed here because the process that was to take them over failed.",
            ),
        }
    }

    /// Counts a connection, and counts it open while the answer is held.
    pub fn opened(&self, listener: Listener) -> Held {
        self.total[listener as usize].inc();
        Held::new(&self.open[listener as usize])
    }

    /// Counts a connection that has to wait until another ends.
    pub fn waited(&self, listener: Listener) {
        self.waited[listener as usize].inc();
    }

    /// Counts a connection that was ended for being slow.
    pub fn timed_out(&self, phase: Slow) {
        self.slow[phase as usize].inc();
    }

    /// Counts a connection that was closed at once.
    pub fn turned_away(&self, listener: Listener, reason: TurnedAway) {
        self.turned_away[listener as usize][reason as usize].inc();
    }
}

/// TLS handshakes and certificates.
#[derive(Debug)]
pub struct TlsMetrics {
    handshakes: Vec<Vec<IntCounter>>,
    expiry: GaugeVec,
    of_clients: GaugeVec,
}

impl TlsMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let handshakes = make.counters("tls_handshakes_total", "TLS handshakes ended.", &["version", "outcome"]);
        Self {
            handshakes: grid(TlsVersion::ALL, Handshake::ALL, |version, outcome| {
                handshakes.with_label_values(&[version.name(), outcome.name()])
            }),
            expiry: make.real_gauges(
                "certificate_expiry_timestamp_seconds",
                "When a served certificate stops being valid, in Unix seconds.",
                &["name"],
            ),
            of_clients: make.real_gauges(
                "client_certificates_expiry_timestamp_seconds",
                "When an authority of a site's clients stops being valid, or its revocation list is out of date, in Unix \
                 seconds.",
                &["site", "kind", "name"],
            ),
        }
    }

    /// Counts a handshake.
    pub fn handshake(&self, version: TlsVersion, outcome: Handshake) {
        self.handshakes[version as usize][outcome as usize].inc();
    }

    /// States when each served certificate ends; those not named are forgotten.
    pub fn certificates<'a>(&self, expiries: impl IntoIterator<Item = (&'a str, Timestamp)>) {
        self.expiry.reset();
        for (name, ends) in expiries {
            self.expiry.with_label_values(&[name]).set(seconds_of(ends));
        }
    }

    /// States when each of what vouches for a site's clients ends: the site, what it is, whose, and when. Of several of
    /// one name the first to end counts; those not named are forgotten.
    pub fn of_clients<'a>(&self, expiries: impl IntoIterator<Item = (&'a str, Clients, &'a str, Timestamp)>) {
        let mut first = BTreeMap::new();
        for (site, kind, name, ends) in expiries {
            let known = first.entry((site, kind.name(), name)).or_insert(ends);
            *known = ends.min(*known);
        }
        self.of_clients.reset();
        for ((site, kind, name), ends) in first {
            self.of_clients.with_label_values(&[site, kind, name]).set(seconds_of(ends));
        }
    }
}

/// The limiter.
#[derive(Debug)]
pub struct LimitMetrics {
    admitted: Vec<IntCounter>,
    refused: Vec<IntCounter>,
    /// Subjects whose windows are kept in this process.
    pub subjects: IntGauge,
    /// Times the shared limiter could not be asked.
    pub backend_failures: IntCounter,
    /// Whether the shared limiter is asked at all: 0 while its circuit is open.
    pub backend_up: IntGauge,
}

impl LimitMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let decisions = make.counters("limit_decisions_total", "Charges decided, by subject.", &["subject", "outcome"]);
        let each = |outcome: &str| -> Vec<IntCounter> {
            LimitKind::ALL.iter().map(|kind| decisions.with_label_values(&[kind.name(), outcome])).collect()
        };
        let up = make.gauge("limit_backend_up", "1 while the limiter's backend is asked, 0 while it is given up.");
        up.set(1);
        Self {
            admitted: each("admitted"),
            refused: each("refused"),
            subjects: make.gauge("limit_subjects", "Subjects whose windows are kept in this process."),
            backend_failures: make.counter("limit_backend_failures_total", "Times the backend could not be asked."),
            backend_up: up,
        }
    }

    /// Counts a charge that fitted.
    pub fn admitted(&self, kind: LimitKind) {
        self.admitted[kind as usize].inc();
    }

    /// Counts the charge whose window was full.
    pub fn refused(&self, kind: LimitKind) {
        self.refused[kind as usize].inc();
    }
}

/// The caches.
#[derive(Debug)]
pub struct CacheMetrics {
    hits: Vec<IntCounter>,
    misses: Vec<IntCounter>,
    entries: Vec<IntGauge>,
}

impl CacheMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let hits = make.counters("cache_hits_total", "Look-ups answered from memory.", &["cache"]);
        let misses = make.counters("cache_misses_total", "Look-ups that cost the work.", &["cache"]);
        let entries = make.gauges("cache_entries", "Entries held.", &["cache"]);
        Self {
            hits: Cache::ALL.iter().map(|cache| hits.with_label_values(&[cache.name()])).collect(),
            misses: Cache::ALL.iter().map(|cache| misses.with_label_values(&[cache.name()])).collect(),
            entries: Cache::ALL.iter().map(|cache| entries.with_label_values(&[cache.name()])).collect(),
        }
    }

    /// Counts a look-up that was answered from memory.
    pub fn hit(&self, cache: Cache) {
        self.hits[cache as usize].inc();
    }

    /// The same, for several.
    pub fn hits<const N: usize>(&self, caches: [Cache; N]) {
        for cache in caches {
            self.hit(cache);
        }
    }

    /// Counts a look-up that was not.
    pub fn miss(&self, cache: Cache) {
        self.misses[cache as usize].inc();
    }

    /// States how many entries `cache` holds.
    pub fn entries(&self, cache: Cache, entries: usize) {
        self.entries[cache as usize].set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}

/// The store. Its series appear with the first use: an operation takes tens of microseconds at least, so
/// looking its counter up by name costs nothing that shows.
#[derive(Debug)]
pub struct StoreMetrics {
    operations: IntCounterVec,
    durations: HistogramVec,
    /// Whether the last operation reached the store.
    pub up: IntGauge,
}

impl StoreMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let buckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        Self {
            operations: make.counters("store_operations_total", "What the store was asked.", &["operation", "outcome"]),
            durations: make.histograms(
                "store_operation_duration_seconds",
                "How long the store took, waiting for a connection or lock included.",
                &["operation"],
                &buckets,
            ),
            up: make.gauge("store_up", "1 while the store answers."),
        }
    }

    /// Counts an operation that took `took`, and notes whether the store is up.
    pub fn done(&self, operation: StoreOperation, outcome: StoreOutcome, took: Duration) {
        self.operations.with_label_values(&[operation.name(), outcome.name()]).inc();
        self.durations.with_label_values(&[operation.name()]).observe(took.as_secs_f64());
        self.up.set(i64::from(outcome != StoreOutcome::Unavailable));
    }
}

/// The password pool.
#[derive(Debug)]
pub struct PasswordMetrics {
    /// Hashes being computed.
    pub running: IntGauge,
    /// Sign-ins waiting for a worker.
    pub waiting: IntGauge,
    /// Sign-ins turned away because too many waited.
    pub shed: IntCounter,
    /// How long a hash took, in seconds, waiting excluded.
    pub durations: Histogram,
}

impl PasswordMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
        Self {
            running: make.gauge("password_hashes_running", "Password hashes being computed."),
            waiting: make.gauge("password_hashes_waiting", "Password hashes waiting for a worker."),
            shed: make.counter("password_hashes_shed_total", "Turned away because too many waited."),
            durations: make.histogram("password_hash_duration_seconds", "How long a password hash took.", &buckets),
        }
    }
}

/// Agents: WebSockets whose first message says who they are.
#[derive(Debug)]
pub struct AgentMetrics {
    outcomes: Vec<IntCounter>,
    /// Connections whose first message has not come or is not checked yet.
    pub waiting: IntGauge,
}

impl AgentMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let outcomes = make.counters(
            "agent_authentications_total",
            "What agents' connections came to, up to the answer to their first message.",
            &["outcome"],
        );
        Self {
            outcomes: AgentOutcome::ALL.iter().map(|at| outcomes.with_label_values(&[at.name()])).collect(),
            waiting: make.gauge("agents_waiting", "Agents' connections without a verified first message."),
        }
    }

    /// Counts an agent's connection.
    pub fn came_to(&self, outcome: AgentOutcome) {
        self.outcomes[outcome as usize].inc();
    }
}

/// Mails on their way out.
#[derive(Debug)]
pub struct MailMetrics {
    outcomes: Vec<IntCounter>,
    waiting: IntGauge,
}

impl MailMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let outcomes = make.counters("mails_total", "What came of trying to send mails.", &["outcome"]);
        Self {
            outcomes: MailOutcome::ALL.iter().map(|at| outcomes.with_label_values(&[at.name()])).collect(),
            waiting: make.gauge("mails_waiting", "Mails in the store's queue, those under way included."),
        }
    }

    /// Counts what came of a try.
    pub fn came_to(&self, outcome: MailOutcome) {
        self.outcomes[outcome as usize].inc();
    }

    /// States how many wait.
    pub fn waiting(&self, mails: u64) {
        self.waiting.set(i64::try_from(mails).unwrap_or(i64::MAX));
    }
}

/// Changes of facts, here and from elsewhere.
#[derive(Debug)]
pub struct RevocationMetrics {
    changes: Vec<IntCounter>,
    lag: Gauge,
    /// Times the feed could not be read.
    pub feed_failures: IntCounter,
    /// Streams closed because what opened them was revoked.
    pub streams_cut: IntCounter,
}

impl RevocationMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let changes = make.counters("changes_total", "Changes of facts that caches had to forget.", &["source"]);
        Self {
            changes: ChangeSource::ALL.iter().map(|at| changes.with_label_values(&[at.name()])).collect(),
            lag: make.real_gauge("change_feed_lag_seconds", "Time since the feed of changes was last read."),
            feed_failures: make.counter("change_feed_failures_total", "Times the feed could not be read."),
            streams_cut: make.counter("streams_cut_total", "Open streams closed by a revocation."),
        }
    }

    /// Counts changes that were applied.
    pub fn changed(&self, source: ChangeSource, count: u64) {
        self.changes[source as usize].inc_by(count);
    }

    /// States how long the feed has not been read.
    pub fn lag(&self, silent_for: Duration) {
        self.lag.set(silent_for.as_secs_f64());
    }
}

/// The configuration.
#[derive(Debug)]
pub struct ConfigMetrics {
    last_success: IntGauge,
    last_success_time: Gauge,
    reloads: IntCounterVec,
    generation: IntGauge,
    restart_pending: IntGauge,
}

impl ConfigMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        Self {
            last_success: make
                .gauge("config_last_reload_successful", "1 when the newest configuration is the one in use."),
            last_success_time: make.real_gauge(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in use was loaded, in Unix seconds.",
            ),
            reloads: make.counters("config_reloads_total", "Configurations read, the first included.", &["outcome"]),
            generation: make.gauge("config_generation", "Which configuration since the start is in use."),
            restart_pending: make.gauge(
                "config_restart_pending",
                "1 when the configuration in use differs from the running process in what only a restart applies.",
            ),
        }
    }

    /// Notes a configuration that was taken into use.
    pub fn loaded(&self, generation: u64, at: Timestamp) {
        self.last_success.set(1);
        self.last_success_time.set(seconds_of(at));
        self.reloads.with_label_values(&["ok"]).inc();
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// States whether something waits for a restart.
    pub fn restart_pending(&self, pending: bool) {
        self.restart_pending.set(pending.into());
    }

    /// Notes a configuration that was refused; the one before stays in use.
    pub fn refused(&self) {
        self.last_success.set(0);
        self.reloads.with_label_values(&["refused"]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(Timestamp::from_secs(1_700_000_000))
    }

    #[test]
    fn a_connection_is_open_until_its_guard_is_dropped() {
        let metrics = metrics();
        let guard = metrics.connections.opened(Listener::Https);
        assert!(metrics.text().contains("tollgate_connections{listener=\"https\"} 1\n"));
        drop(guard);
        let text = metrics.text();
        assert!(text.contains("tollgate_connections{listener=\"https\"} 0\n"));
        assert!(text.contains("tollgate_connections_total{listener=\"https\"} 1\n"));
        assert!(text.contains("tollgate_connections_total{listener=\"http\"} 0\n"));
    }

    #[test]
    fn a_refused_configuration_keeps_the_generation_of_the_one_in_use() {
        let metrics = metrics();
        metrics.config.loaded(3, Timestamp::from_secs(1_700_000_001));
        metrics.config.refused();
        let text = metrics.text();
        assert!(text.contains("tollgate_config_last_reload_successful 0\n"));
        assert!(text.contains("tollgate_config_generation 3\n"));
        assert!(text.contains("tollgate_config_last_reload_success_timestamp_seconds 1700000001\n"));
    }

    #[test]
    fn a_certificate_that_is_no_longer_served_is_forgotten() {
        let metrics = metrics();
        metrics.tls.certificates([("old.example.com", Timestamp::from_secs(1))]);
        metrics.tls.certificates([("new.example.com", Timestamp::from_secs(2))]);
        assert!(!metrics.text().contains("old.example.com"));
        assert!(metrics.text().contains("new.example.com"));
    }

    #[test]
    fn the_store_is_down_only_while_it_cannot_be_reached() {
        let metrics = metrics();
        let up = |outcome| {
            metrics.store.done(StoreOperation::Ping, outcome, Duration::ZERO);
            metrics.store.up.get()
        };
        assert_eq!([up(StoreOutcome::Ok), up(StoreOutcome::Unavailable), up(StoreOutcome::Failed)], [1, 0, 1]);
    }
}

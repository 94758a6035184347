//! Every metric of the gateway, in one struct.
//!
//! The registry is owned, never global, so that two gateways in one process (or test) do not mix. Labels
//! come from [`labels`] and from configured names. What a request touches is resolved once: the areas'
//! counters here, [`SiteMetrics`] and [`UpstreamMetrics`] when a snapshot is loaded; counting is then an
//! atomic addition. Machines hold an `Arc<Metrics>`; the admin listener serves [`Metrics::text`].
//!
//! To add a metric: a field in its area with its line in `new`, and one call where the thing happens.

mod areas;
pub mod labels;
mod site;
mod traces;
mod upstream;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::model::time::Timestamp;
use labels::LogStream;

pub use areas::{
    AgentMetrics, CacheMetrics, ConfigMetrics, Connections, LimitMetrics, MailMetrics, PasswordMetrics,
    RevocationMetrics, StoreMetrics, TlsMetrics,
};
pub use site::{Decision, Finished, SiteMetrics};
pub use traces::TraceMetrics;
pub use upstream::{CheckMetrics, EndpointState, RetryMetrics, UpstreamMetrics};

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sites: site::Families,
    upstreams: upstream::Families,
    /// Client connections.
    pub connections: Connections,
    /// TLS handshakes and certificates.
    pub tls: TlsMetrics,
    /// The limiter.
    pub limits: LimitMetrics,
    /// The caches.
    pub caches: CacheMetrics,
    /// The store.
    pub store: StoreMetrics,
    /// The password pool.
    pub passwords: PasswordMetrics,
    /// Agents, by what their first message came to.
    pub agents: AgentMetrics,
    /// Mails on their way out.
    pub mails: MailMetrics,
    /// Changes of facts, here and from elsewhere.
    pub revocations: RevocationMetrics,
    /// The configuration.
    pub config: ConfigMetrics,
    /// Spans on their way to the collector.
    pub traces: TraceMetrics,
    log_lines_dropped: IntCounterVec,
}

impl Metrics {
    /// All metrics at zero; `started` is when the process did.
    pub fn new(started: Timestamp) -> Self {
        let registry = Registry::new();
        let make = Make(&registry);
        make.gauges("build_info", "What is running; always 1.", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        // The one name without our prefix: what every Prometheus client library calls it.
        let start = Gauge::new("process_start_time_seconds", "When the process started, in Unix seconds.");
        let start = start.expect("the name is valid");
        start.set(seconds_of(started));
        registry.register(Box::new(start)).expect("no two metrics share a name");
        Self {
            sites: site::Families::new(&make),
            upstreams: upstream::Families::new(&make),
            connections: Connections::new(&make),
            tls: TlsMetrics::new(&make),
            limits: LimitMetrics::new(&make),
            caches: CacheMetrics::new(&make),
            store: StoreMetrics::new(&make),
            passwords: PasswordMetrics::new(&make),
            agents: AgentMetrics::new(&make),
            mails: MailMetrics::new(&make),
            revocations: RevocationMetrics::new(&make),
            config: ConfigMetrics::new(&make),
            traces: TraceMetrics::new(&make),
            log_lines_dropped: make.counters(
                "log_lines_dropped_total",
                "Log lines lost because the log could not be written fast enough, or at all.",
                &["log"],
            ),
            registry,
        }
    }

    /// All metrics in Prometheus' text format (`text/plain; version=0.0.4`).
    pub fn text(&self) -> String {
        // Encoding fails only for a family without series, and gather leaves those out.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// The count of lines lost by `log`.
    pub fn lines_dropped(&self, log: LogStream) -> IntCounter {
        self.log_lines_dropped.with_label_values(&[log.name()])
    }
}

/// Registers metrics under the gateway's prefix.
struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(options(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(options(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(options(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(options(name, help)))
    }

    fn real_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(options(name, help), labels))
    }

    fn real_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(options(name, help)))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let options = HistogramOpts::from(options(name, help)).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::from(options(name, help)).buckets(buckets.to_vec())))
    }

    fn register<M: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<M>) -> M {
        let metric = made.expect("names and labels are valid: they are constants, and a test makes them all");
        self.0.register(Box::new(metric.clone())).expect("no two metrics share a name");
        metric
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("tollgate")
}

/// Holds a gauge one up until dropped: also when the task that holds it is cancelled.
#[derive(Debug, Default)]
pub struct Held(Option<IntGauge>);

impl Held {
    /// Raises `gauge` by one.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(Some(gauge.clone()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.iter().for_each(IntGauge::dec);
    }
}

/// A family's children by two closed sets of labels: `[first][second]`.
fn grid<A: Copy, B: Copy>(first: &[A], second: &[B], child: impl Fn(A, B) -> IntCounter) -> Vec<Vec<IntCounter>> {
    first.iter().map(|a| second.iter().map(|b| child(*a, *b)).collect()).collect()
}

fn seconds_of(at: Timestamp) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 need 41 of the 52 bits")]
    let millis = at.millis() as f64;
    millis / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::labels::{StoreOperation, StoreOutcome};
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(Timestamp::from_millis(1_700_000_000_500))
    }

    #[test]
    fn every_line_is_a_comment_or_a_series_under_our_prefix() {
        let metrics = metrics();
        metrics.store.done(StoreOperation::Account, StoreOutcome::Ok, Duration::from_millis(2));
        metrics.config.loaded(1, Timestamp::from_secs(1_700_000_001));
        metrics.tls.certificates([("localhost", Timestamp::from_secs(1_800_000_000))]);
        let text = metrics.text();
        for line in text.lines() {
            let named = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
            assert!(named.starts_with("tollgate_") || named.starts_with("process_start_time_seconds"), "{line}");
        }
        assert!(text.contains("tollgate_build_info{version=\"0.1.0\"} 1\n"));
        assert!(text.contains("process_start_time_seconds 1700000000.5\n"));
        assert!(text.contains("tollgate_certificate_expiry_timestamp_seconds{name=\"localhost\"} 1800000000\n"));
        assert!(text.contains("tollgate_store_operations_total{operation=\"account\",outcome=\"ok\"} 1\n"));
        assert!(text.contains("tollgate_store_up 1\n"));
    }
}

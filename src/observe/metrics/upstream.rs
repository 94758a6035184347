//! What is counted of the backends: requests by upstream, connections by endpoint.
//!
//! Two of them, because they live differently: an upstream belongs to a site of the snapshot, while an
//! endpoint's pool is shared by every upstream that names it and outlives reloads.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::labels::{CheckResult, RetryResult, UpstreamOutcome};
use super::{Held, Make, Metrics};

/// The families that upstreams and endpoints have children of.
#[derive(Debug)]
pub(super) struct Families {
    requests: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGaugeVec,
    endpoints: IntGaugeVec,
    up: IntGaugeVec,
    /// The servers that the last two have series of.
    shown: Mutex<Vec<String>>,
    retries: IntCounterVec,
    healthy: IntGaugeVec,
    checks: IntCounterVec,
}

impl Families {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let upstream = ["site", "upstream"];
        let buckets =
            [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Self {
            requests: make.counters(
                "upstream_requests_total",
                "Requests to backends ended.",
                &["site", "upstream", "outcome"],
            ),
            durations: make.histograms(
                "upstream_request_duration_seconds",
                "From taking a connection to the head of the backend's answer, or to the failure.",
                &upstream,
                &buckets,
            ),
            in_flight: make.gauges("upstream_requests_in_flight", "Requests waiting for a backend.", &upstream),
            endpoints: make.gauges(
                "upstream_endpoint",
                "Connections (open, idle) and requests (in_flight, waiting) of a server; one that waits for any of several, at each.",
                &["endpoint", "state"],
            ),
            up: make.gauges(
                "upstream_endpoint_up",
                "0 while a server is left out for what becomes of requests.",
                &["endpoint"],
            ),
            shown: Mutex::default(),
            retries: make.counters(
                "upstream_retries_total",
                "Second attempts of requests: made (spent), or not because the budget was spent (refused).",
                &["site", "upstream", "result"],
            ),
            healthy: make.gauges(
                "upstream_server_healthy",
                "0 while a server is left out because it fails its health checks.",
                &["site", "upstream", "server"],
            ),
            checks: make.counters(
                "upstream_checks_total",
                "Health checks ended.",
                &["site", "upstream", "server", "result"],
            ),
        }
    }
}

/// One upstream's counters, looked up once when a snapshot is loaded. The same names give the same counters.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    requests: Vec<IntCounter>,
    durations: Histogram,
    in_flight: IntGauge,
}

impl UpstreamMetrics {
    /// The counters of `upstream` of `site`, both as the configuration names them.
    pub fn new(metrics: &Metrics, site: &str, upstream: &str) -> Self {
        let families = &metrics.upstreams;
        Self {
            requests: UpstreamOutcome::ALL
                .iter()
                .map(|outcome| families.requests.with_label_values(&[site, upstream, outcome.name()]))
                .collect(),
            durations: families.durations.with_label_values(&[site, upstream]),
            in_flight: families.in_flight.with_label_values(&[site, upstream]),
        }
    }

    /// Counts a request as in flight while what is returned is held.
    pub fn asked(&self) -> Asked<'_> {
        Asked { upstream: self, over: false, _held: Held::new(&self.in_flight) }
    }
}

/// A request that waits for a backend. Dropped as such, it counts as cancelled: its client has left.
#[derive(Debug)]
pub struct Asked<'a> {
    upstream: &'a UpstreamMetrics,
    over: bool,
    _held: Held,
}

impl Asked<'_> {
    /// It ended as `outcome` after `took`.
    pub fn finished(mut self, outcome: UpstreamOutcome, took: Duration) {
        self.over = true;
        self.upstream.requests[outcome as usize].inc();
        self.upstream.durations.observe(took.as_secs_f64());
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.upstream.requests[UpstreamOutcome::Cancelled as usize].inc();
        }
    }
}

/// The counters of one upstream's second attempts.
#[derive(Clone, Debug)]
pub struct RetryMetrics(Vec<IntCounter>);

impl RetryMetrics {
    /// Counts a second attempt that was wanted.
    pub fn asked(&self, result: RetryResult) {
        self.0[result as usize].inc();
    }
}

/// The counters of one server's health checks.
#[derive(Clone, Debug)]
pub struct CheckMetrics {
    healthy: IntGauge,
    results: Vec<IntCounter>,
    /// To take the series away with the server.
    families: (IntGaugeVec, IntCounterVec),
    names: [String; 3],
}

impl CheckMetrics {
    /// Counts a check.
    pub fn ended(&self, result: CheckResult) {
        self.results[result as usize].inc();
    }

    /// States whether the server is given requests.
    pub fn healthy(&self, healthy: bool) {
        self.healthy.set(healthy.into());
    }

    /// The server is no longer checked: it is not shown any more.
    pub fn forget(&self) {
        let [site, upstream, server] = self.names.each_ref().map(String::as_str);
        // What is not there is forgotten already.
        let _gone = self.families.0.remove_label_values(&[site, upstream, server]);
        for result in CheckResult::ALL {
            let _gone = self.families.1.remove_label_values(&[site, upstream, server, result.name()]);
        }
    }
}

/// How one server's pool stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Connections, idle or not.
    pub open: usize,
    /// Connections without a request.
    pub idle: usize,
    /// Requests whose answer has not ended.
    pub in_flight: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// Whether the server is given requests.
    pub up: bool,
}

impl Metrics {
    /// The counters of the second attempts of `upstream` of `site`, as the configuration names them.
    pub fn retries(&self, site: &str, upstream: &str) -> RetryMetrics {
        let child = |result: &RetryResult| self.upstreams.retries.with_label_values(&[site, upstream, result.name()]);
        RetryMetrics(RetryResult::ALL.iter().map(child).collect())
    }

    /// The counters of the checks of `server` of `upstream` of `site`, as the configuration names them; it is healthy so
    /// far.
    pub fn checks(&self, site: &str, upstream: &str, server: &str) -> CheckMetrics {
        let families = &self.upstreams;
        let healthy = families.healthy.with_label_values(&[site, upstream, server]);
        healthy.set(1);
        let results = CheckResult::ALL
            .iter()
            .map(|result| families.checks.with_label_values(&[site, upstream, server, result.name()]))
            .collect();
        let families = (families.healthy.clone(), families.checks.clone());
        CheckMetrics { healthy, results, families, names: [site, upstream, server].map(str::to_owned) }
    }

    /// States how the pools of all servers stand, each with its server (`http://host:port`): read when metrics are asked
    /// for. A server that is spoken to in several ways has several pools and one series: the sum, and up where all are.
    /// One that is not among them any more is not shown any more.
    pub fn endpoints(&self, pools: impl IntoIterator<Item = (String, EndpointState)>) {
        let families = &self.upstreams;
        let mut servers: BTreeMap<String, EndpointState> = BTreeMap::new();
        for (server, pool) in pools {
            let state = servers.entry(shown(&server)).or_insert(NONE);
            state.open += pool.open;
            state.idle += pool.idle;
            state.in_flight += pool.in_flight;
            state.waiting += pool.waiting;
            state.up &= pool.up;
        }
        // Two who ask at once state one after the other.
        let mut before = families.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in before.iter().filter(|server| !servers.contains_key(*server)) {
            // What is not there is forgotten already.
            let _gone = families.up.remove_label_values(&[gone.as_str()]);
            for (name, _) in numbers(&NONE) {
                let _gone = families.endpoints.remove_label_values(&[gone.as_str(), name]);
            }
        }
        for (server, state) in &servers {
            for (name, number) in numbers(state) {
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                families.endpoints.with_label_values(&[server.as_str(), name]).set(number);
            }
            families.up.with_label_values(&[server.as_str()]).set(i64::from(state.up));
        }
        *before = servers.into_keys().collect();
    }
}

/// A server of which there is no pool.
const NONE: EndpointState = EndpointState { open: 0, idle: 0, in_flight: 0, waiting: 0, up: true };

/// The states that a server's pools are shown by.
const fn numbers(state: &EndpointState) -> [(&'static str, usize); 4] {
    [("open", state.open), ("idle", state.idle), ("in_flight", state.in_flight), ("waiting", state.waiting)]
}

fn shown(endpoint: &str) -> String {
    let (scheme, authority) = endpoint.split_once("://").map_or(("", endpoint), |(scheme, rest)| (scheme, rest));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if scheme.is_empty() { authority.to_owned() } else { format!("{scheme}://{authority}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    #[test]
    fn requests_are_counted_by_upstream_and_outcome() {
        let metrics = Metrics::new(Timestamp::from_secs(0));
        let upstream = UpstreamMetrics::new(&metrics, "vantage", "app");
        let waits = upstream.asked();
        upstream.asked().finished(UpstreamOutcome::answered(404), Duration::from_millis(7));
        upstream.asked().finished(UpstreamOutcome::ResponseTimeout, Duration::from_secs(30));
        let text = metrics.text();
        let series = |outcome: &str, count: u8| {
            format!(
                "tollgate_upstream_requests_total{{outcome=\"{outcome}\",site=\"vantage\",upstream=\"app\"}} {count}\n"
            )
        };
        assert!(text.contains(&series("4xx", 1)) && text.contains(&series("response_timeout", 1)));
        assert!(text.contains(&series("5xx", 0)));
        assert!(text.contains("tollgate_upstream_requests_in_flight{site=\"vantage\",upstream=\"app\"} 1\n"));
        assert!(text.contains(&series("cancelled", 0)));
        drop(waits);
        let text = metrics.text();
        assert!(text.contains(&series("cancelled", 1)));
        assert!(text.contains("tollgate_upstream_requests_in_flight{site=\"vantage\",upstream=\"app\"} 0\n"));
        assert!(
            text.contains("tollgate_upstream_request_duration_seconds_count{site=\"vantage\",upstream=\"app\"} 2\n")
        );
    }

    #[test]
    fn an_endpoint_shows_its_connections_and_never_its_password() {
        let metrics = Metrics::new(Timestamp::from_secs(0));
        let state = EndpointState { open: 2, idle: 1, in_flight: 1, waiting: 0, up: false };
        metrics.endpoints([("http://me:hunter2@10.0.0.1:9000".to_owned(), state)]);
        let text = metrics.text();
        assert!(text.contains("tollgate_upstream_endpoint{endpoint=\"http://10.0.0.1:9000\",state=\"open\"} 2\n"));
        assert!(text.contains("tollgate_upstream_endpoint{endpoint=\"http://10.0.0.1:9000\",state=\"idle\"} 1\n"));
        assert!(text.contains("tollgate_upstream_endpoint_up{endpoint=\"http://10.0.0.1:9000\"} 0\n"));
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn the_pools_of_one_address_are_added_up_and_a_server_that_is_gone_is_not_shown() {
        let metrics = Metrics::new(Timestamp::from_secs(0));
        let pool = |open, up| EndpointState { open, idle: 1, in_flight: 1, waiting: 0, up };
        let shown = |pools: &[(&str, EndpointState)]| {
            metrics.endpoints(pools.iter().map(|(server, state)| ((*server).to_owned(), *state)));
            let text = metrics.text();
            let mine = text.lines().filter_map(|line| line.strip_prefix("tollgate_upstream_endpoint"));
            let mine = mine.filter(|line| line.contains("state=\"open\"") || line.starts_with("_up"));
            mine.map(str::to_owned).collect::<Vec<_>>()
        };
        let (one, two) = ("http://10.0.0.1:9000", "http://10.0.0.2:9000");
        let open = |server: &str, number: u8| format!("{{endpoint=\"{server}\",state=\"open\"}} {number}");
        let up = |server: &str, number: u8| format!("_up{{endpoint=\"{server}\"}} {number}");
        let all = shown(&[(one, pool(2, true)), (two, pool(7, true)), (one, pool(3, false))]);
        assert_eq!(all, [open(one, 5), open(two, 7), up(one, 0), up(two, 1)]);
        let all = shown(&[(one, pool(2, true))]);
        assert_eq!(all, [open(one, 2), up(one, 1)]);
        assert!(shown(&[]).is_empty());
        assert_eq!(shown(&[(two, pool(1, true))]), [open(two, 1), up(two, 1)], "it came back");
    }
}

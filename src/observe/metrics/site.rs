//! What is counted of a site's requests: two additions, one observation and two byte counts each.

use std::time::Duration;

use http::Method;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::labels::{Cut, MethodClass, StatusClass, TunnelEnd};
use super::{Held, Make, Metrics, grid};
use crate::model::problem::ProblemKind;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It was passed on to a backend.
    Forwarded,
    /// It was served here.
    Native,
    /// Its client left before it had an answer.
    Left,
    /// It was refused.
    Refused(ProblemKind),
}

impl Decision {
    /// Every decision, in the order of their numbers.
    fn all() -> impl Iterator<Item = Self> {
        [Self::Forwarded, Self::Native, Self::Left]
            .into_iter()
            .chain(ProblemKind::ALL.iter().copied().map(Self::Refused))
    }

    const fn number(self) -> usize {
        match self {
            Self::Forwarded => 0,
            Self::Native => 1,
            Self::Left => 2,
            Self::Refused(kind) => 3 + kind as usize,
        }
    }

    /// The name in metrics: `forwarded`, `native`, `client_left`, or the problem's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Native => "native",
            Self::Left => "client_left",
            Self::Refused(kind) => kind.name(),
        }
    }
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its answer's status.
    pub status: u16,
    /// What became of it.
    pub decision: Decision,
    /// How long it took, the answer's body included.
    pub took: Duration,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
}

/// The families that every site has children of.
#[derive(Debug)]
pub(super) struct Families {
    requests: IntCounterVec,
    decisions: IntCounterVec,
    shadow: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGaugeVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    tunnels: IntGaugeVec,
    tunnels_ended: IntCounterVec,
    cuts: IntCounterVec,
}

impl Families {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let buckets =
            [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Self {
            requests: make.counters(
                "requests_total",
                "Requests ended; those whose client left before an answer as 4xx.",
                &["site", "method", "status"],
            ),
            decisions: make.counters("decisions_total", "What became of requests.", &["site", "outcome"]),
            shadow: make.counters(
                "shadow_refusals_total",
                "Requests that went on, and that a rule or window in shadow would have refused.",
                &["site", "rule", "problem"],
            ),
            durations: make.histograms(
                "request_duration_seconds",
                "From a request's head to its answer's last byte.",
                &["site"],
                &buckets,
            ),
            in_flight: make.gauges("requests_in_flight", "Requests being served.", &["site"]),
            received: make.counters("request_bytes_total", "Bytes of request bodies.", &["site"]),
            sent: make.counters("response_bytes_total", "Bytes of answer bodies.", &["site"]),
            tunnels: make.gauges("tunnels", "WebSockets open.", &["site"]),
            tunnels_ended: make.counters("tunnels_total", "WebSockets ended.", &["site", "end"]),
            cuts: make.counters("answers_cut_total", "Answers that did not come to their end.", &["site", "reason"]),
        }
    }
}

/// One site's counters, looked up once when a snapshot is loaded. The same name gives the same counters,
/// so that a reload goes on counting.
#[derive(Clone, Debug)]
pub struct SiteMetrics {
    requests: Vec<Vec<IntCounter>>,
    decisions: Vec<IntCounter>,
    /// By rule and problem, looked up when one would have refused: few sites try anything, and not for long.
    shadow: IntCounterVec,
    name: Box<str>,
    durations: Histogram,
    in_flight: IntGauge,
    received: IntCounter,
    sent: IntCounter,
    tunnels: IntGauge,
    tunnels_ended: Vec<IntCounter>,
    cuts: Vec<IntCounter>,
}

impl SiteMetrics {
    /// The name of the site that requests for an unknown host are counted under; no configured site has it.
    pub const NO_SITE: &str = "";

    /// The counters of the site called `site` in the configuration.
    pub fn new(metrics: &Metrics, site: &str) -> Self {
        let families = &metrics.sites;
        Self {
            requests: grid(MethodClass::ALL, StatusClass::ALL, |method, status| {
                families.requests.with_label_values(&[site, method.name(), status.name()])
            }),
            decisions: Decision::all()
                .map(|decision| families.decisions.with_label_values(&[site, decision.name()]))
                .collect(),
            shadow: families.shadow.clone(),
            name: site.into(),
            durations: families.durations.with_label_values(&[site]),
            in_flight: families.in_flight.with_label_values(&[site]),
            received: families.received.with_label_values(&[site]),
            sent: families.sent.with_label_values(&[site]),
            tunnels: families.tunnels.with_label_values(&[site]),
            tunnels_ended: TunnelEnd::ALL
                .iter()
                .map(|end| families.tunnels_ended.with_label_values(&[site, end.name()]))
                .collect(),
            cuts: Cut::ALL.iter().map(|cut| families.cuts.with_label_values(&[site, cut.name()])).collect(),
        }
    }

    /// Counts a request as in flight while the answer is held.
    pub fn started(&self) -> Held {
        Held::new(&self.in_flight)
    }

    /// Counts a WebSocket as open while the answer is held.
    pub fn tunnel_opened(&self) -> Held {
        Held::new(&self.tunnels)
    }

    /// Counts a WebSocket that ended.
    pub fn tunnel_ended(&self, end: TunnelEnd) {
        self.tunnels_ended[end as usize].inc();
    }

    /// Counts an answer that did not come to its end.
    pub fn cut(&self, reason: Cut) {
        self.cuts[reason as usize].inc();
    }

    /// Counts a request that went on, and that the rule called `rule` in the configuration would have refused.
    pub fn shadow_refused(&self, rule: &str, problem: ProblemKind) {
        self.shadow.with_label_values(&[&*self.name, rule, problem.name()]).inc();
    }

    /// Counts a request that is over.
    pub fn finished(&self, request: &Finished<'_>) {
        self.requests[MethodClass::of(request.method) as usize][StatusClass::of(request.status) as usize].inc();
        self.decisions[request.decision.number()].inc();
        self.durations.observe(request.took.as_secs_f64());
        self.received.inc_by(request.received);
        self.sent.inc_by(request.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    fn finished(decision: Decision, status: u16) -> Finished<'static> {
        Finished { method: &Method::GET, status, decision, took: Duration::from_millis(3), received: 10, sent: 20 }
    }

    #[test]
    fn a_decision_is_counted_under_its_own_name() {
        let metrics = Metrics::new(Timestamp::from_secs(0));
        let site = SiteMetrics::new(&metrics, "vantage");
        for (at, decision) in Decision::all().enumerate() {
            assert_eq!(decision.number(), at);
            site.finished(&finished(decision, 200));
            let line = format!("tollgate_decisions_total{{outcome=\"{}\",site=\"vantage\"}} 1\n", decision.name());
            assert!(metrics.text().contains(&line), "{line}");
        }
    }

    #[test]
    fn a_reload_goes_on_counting_and_sites_do_not_mix() {
        let metrics = Metrics::new(Timestamp::from_secs(0));
        SiteMetrics::new(&metrics, "one").finished(&finished(Decision::Forwarded, 204));
        SiteMetrics::new(&metrics, "two").finished(&finished(Decision::Native, 500));
        SiteMetrics::new(&metrics, "one").finished(&finished(Decision::Forwarded, 204));
        let text = metrics.text();
        assert!(text.contains("tollgate_requests_total{method=\"GET\",site=\"one\",status=\"2xx\"} 2\n"));
        assert!(text.contains("tollgate_requests_total{method=\"GET\",site=\"two\",status=\"5xx\"} 1\n"));
        assert!(text.contains("tollgate_request_duration_seconds_count{site=\"one\"} 2\n"));
        assert!(text.contains("tollgate_request_duration_seconds_bucket{site=\"one\",le=\"0.0025\"} 0\n"));
        assert!(text.contains("tollgate_request_duration_seconds_bucket{site=\"one\",le=\"0.005\"} 2\n"));
        assert!(text.contains("tollgate_request_bytes_total{site=\"one\"} 20\n"));
        assert!(text.contains("tollgate_response_bytes_total{site=\"one\"} 40\n"));
    }

    #[test]
    fn a_cancelled_request_leaves_nothing_in_flight() {
        let metrics = Metrics::new(Timestamp::from_secs(0));
        let site = SiteMetrics::new(&metrics, "one");
        let held = site.started();
        assert!(metrics.text().contains("tollgate_requests_in_flight{site=\"one\"} 1\n"));
        drop(held);
        assert!(metrics.text().contains("tollgate_requests_in_flight{site=\"one\"} 0\n"));
    }
}

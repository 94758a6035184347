//! What is counted of spans on their way to the collector.

use prometheus::{IntCounter, IntCounterVec};

use super::Make;
use super::labels::SpanLoss;

/// Spans, by what became of them.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    /// Spans that the collector has taken.
    pub exported: IntCounter,
    /// Times the collector could not be asked, or did not take what it was sent.
    pub failures: IntCounter,
    dropped: Vec<IntCounter>,
}

impl TraceMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let dropped: IntCounterVec =
            make.counters("trace_spans_dropped_total", "Spans that nobody will see, by the reason.", &["reason"]);
        Self {
            exported: make.counter("trace_spans_exported_total", "Spans that the collector has taken."),
            failures: make.counter(
                "trace_export_failures_total",
                "Times the collector could not be asked, or did not take what it was sent.",
            ),
            dropped: SpanLoss::ALL.iter().map(|loss| dropped.with_label_values(&[loss.name()])).collect(),
        }
    }

    /// Counts spans that are lost.
    pub fn dropped(&self, loss: SpanLoss, spans: usize) {
        self.dropped[loss as usize].inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    }
}

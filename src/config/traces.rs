//! Traces: whose are continued, and how many are recorded.

use toml::Spanned;

use super::raw::RawTracing;
use super::snapshot::Tracing;
use crate::contract::source::Report;
use crate::rules::trace::Ratio;

/// The share of traces that is recorded where nothing is said.
const SHARE: f64 = 0.01;

/// What a reload replaces; `None`: the gateway takes no part in traces.
pub(super) fn policy(raw: Option<&Spanned<RawTracing>>, report: &mut Report<'_>) -> Option<Tracing> {
    let raw = raw?.get_ref();
    let share = raw.sample_ratio.as_ref().map_or(SHARE, |share| share.get_ref().0);
    let ratio = Ratio::new(share);
    if let (None, Some(place)) = (ratio, &raw.sample_ratio) {
        report.tell(&place.span(), format!("{share} is no share of all traces"), "choose from 0 (none) to 1 (all)");
    }
    Some(Tracing { trust: raw.trust.unwrap_or_default(), ratio: ratio? })
}

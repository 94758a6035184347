//! What a gateway that takes part in traces remembers: where its ids come from.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::entropy::Entropy;
use crate::rules::trace::{SpanId, TraceId};

/// Makes ids of traces and spans: a count, mixed with what this process drew at its start. No system call and no lock a
/// request. They are unique, and as good as random (traces are sampled by them); they are no secret.
#[derive(Debug)]
pub struct Ids {
    seeds: [u64; 3],
    count: AtomicU64,
}

impl Ids {
    /// A sequence of its own.
    pub fn new(entropy: &dyn Entropy) -> Self {
        let seeds = [(); 3].map(|()| {
            let mut seed = [0; 8];
            entropy.fill(&mut seed);
            u64::from_le_bytes(seed)
        });
        Self { seeds, count: AtomicU64::new(0) }
    }

    /// A trace that nobody has begun yet.
    pub fn trace(&self) -> TraceId {
        loop {
            let count = self.next();
            let (high, low) = (mixed(self.seeds[0], count), mixed(self.seeds[1], count));
            if let Some(id) = TraceId::new(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()) {
                return id;
            }
        }
    }

    /// A span of no other operation. One count in 2^64 gives none, and the next one does.
    pub fn span(&self) -> SpanId {
        loop {
            if let Some(id) = SpanId::new(mixed(self.seeds[2], self.next()).to_be_bytes()) {
                return id;
            }
        }
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }
}

/// `SplitMix64`: another count never gives the same.
fn mixed(seed: u64, count: u64) -> u64 {
    let mut z = seed.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::entropy::TestEntropy;

    #[test]
    fn ids_are_unique_and_those_of_another_process_are_others() {
        let (one, other) = (Ids::new(&TestEntropy::new(1)), Ids::new(&TestEntropy::new(2)));
        let traces: HashSet<TraceId> = (0..5_000).flat_map(|_| [one.trace(), other.trace()]).collect();
        let spans: HashSet<SpanId> = (0..5_000).flat_map(|_| [one.span(), other.span()]).collect();
        assert_eq!((traces.len(), spans.len()), (10_000, 10_000));
    }
}

//! Randomness as an argument, so that a test can replay it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where random bytes come from.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `into` with unpredictable bytes.
    fn fill(&self, into: &mut [u8]);
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one real source of randomness")]
    fn fill(&self, into: &mut [u8]) {
        // getrandom(2) fails only before the kernel's pool is ready or on a broken sandbox; going on
        // with predictable keys would be worse than stopping.
        getrandom::fill(into).expect("the operating system provides randomness");
    }
}

/// A predictable sequence (SplitMix64), for tests only: same seed, same bytes.
#[derive(Debug)]
pub struct TestEntropy {
    state: AtomicU64,
}

impl TestEntropy {
    /// A sequence that `seed` determines.
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }
}

impl Entropy for TestEntropy {
    fn fill(&self, into: &mut [u8]) {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        for chunk in into.chunks_mut(8) {
            let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

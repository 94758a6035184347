//! The limiter: strict sliding windows over subjects, in memory or in Redis.

use std::time::Duration;

use crate::model::secret::Secret;

/// How limits are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where windows live.
    pub backend: Backend,
    /// The most subjects kept in memory; idle ones go first, active ones never lose their count.
    pub max_subjects: usize,
}

/// Where windows live.
#[derive(Clone, Debug)]
pub enum Backend {
    /// In this process.
    Memory,
    /// In Redis, shared by a fleet.
    Redis {
        /// `redis://` or `rediss://`, with credentials.
        url: Secret,
        /// How long one admission may take.
        timeout: Duration,
        /// What to do when Redis cannot be asked.
        on_failure: OnFailure,
    },
}

/// What to do when the shared limiter cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Count in this process until it is back.
    Local,
    /// Admit everything.
    Allow,
    /// Refuse everything (503).
    Deny,
}

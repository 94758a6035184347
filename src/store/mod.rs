//! Durable facts, on SQLite or PostgreSQL.

use std::time::Duration;

use crate::model::secret::Secret;

/// Which database, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sqlite://path` or `postgres://…`.
    pub url: Secret,
    /// Connections at most (readers for SQLite; there is always one writer).
    pub max_connections: u32,
    /// How long to wait for a connection or a lock before the request is answered 503.
    pub acquire_timeout: Duration,
}

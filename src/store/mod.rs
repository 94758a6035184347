//! Durable facts, on SQLite or PostgreSQL.
//!
//! One [`Store`], whose methods are atomic facts in domain words: each is one transaction, committed before it
//! answers, and says what happened. It decides nothing (whether a key is live, a role high enough) and caches
//! nothing; callers above do. Every row belongs to a realm: what one realm keeps cannot be reached from another.
//!
//! SQL is written once for both databases; `pool.rs` has the three ways to run it and what bounds them. Whatever
//! other processes may have cached is announced in the change feed ([`changes`]) by the same transaction.
//!
//! Called by `credential`, `native`, the operator's interfaces, the task that follows the feed and the one that
//! sends mails.
//! To add a fact: a step in `migrate.rs`, its columns in `rows.rs`, its methods in a file of its own.

pub mod accounts;
pub mod api_keys;
pub mod changes;
pub mod codes;
mod connect;
pub mod error;
pub mod mails;
mod meter;
mod migrate;
pub mod operator;
pub mod passwords;
pub mod peppers;
mod pool;
pub mod refresh;
mod rows;
pub mod sessions;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::model::secret::Secret;
use crate::model::time::Clock;
use crate::observe::metrics::Metrics;
use crate::observe::metrics::labels::StoreOperation;

pub use self::accounts::{Credentials, NewAccount, Registered};
pub use self::api_keys::{Created, Revoked, Rotated};
pub use self::changes::Purged;
pub use self::codes::{NewCode, Requested};
pub use self::error::StoreError;
pub use self::mails::QueuedMail;
pub use self::operator::UserFilter;
pub use self::passwords::{PasswordVersion, Spared};
pub use self::peppers::{Peppered, ShownPepper};
pub use self::refresh::{RefreshExchange, Refreshed};
pub use self::sessions::{NewRefresh, Started, Terms};

use self::meter::Meter;
use self::pool::{Pool, reading};

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

/// The database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: Pool,
    patience: Duration,
    meter: Meter,
}

/// A part of a list. Lists run from the newest id to the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<Id> {
    /// Only what comes after this id in the list; `None`: from its start.
    pub after: Option<Id>,
    /// At most so many; between 1 and [`Page::MOST`].
    pub limit: u32,
}

impl<Id> Page<Id> {
    /// The most that one page holds.
    pub const MOST: u32 = 1000;

    /// The first `limit`.
    pub const fn first(limit: u32) -> Self {
        Self { after: None, limit }
    }

    fn rows(&self) -> i64 {
        i64::from(self.limit.clamp(1, Self::MOST))
    }
}

/// Sorts after every id, which are hexadecimal digits: where a list of the newest starts.
const AFTER_ALL_IDS: &str = "~";

/// Whether the URL can be one of a store. Opens nothing.
pub fn check(settings: &Settings) -> Result<(), StoreError> {
    connect::check(settings.url.expose())
}

impl Store {
    /// Opens the database: makes an SQLite file and its folder where there is none, runs the missing migrations.
    /// Every use is counted in `metrics` and timed by `clock`.
    pub async fn open(settings: &Settings, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let meter = Meter { metrics, clock };
        let running = meter.start(StoreOperation::Migrate);
        let pool = running.ended(Box::pin(connect::open(settings)).await)?;
        Ok(Self { pool, patience: pool::patience(settings), meter })
    }

    /// `sqlite` or `postgres`, for logs and metrics.
    pub const fn backend(&self) -> &'static str {
        match self.pool {
            Pool::Sqlite { .. } => "sqlite",
            Pool::Postgres(_) => "postgres",
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        reading!(self, Ping, |conn| {
            sqlx::query(changes::HEAD).execute(conn).await?;
            Ok(())
        })
    }

    /// Ends every connection, once their work is done; SQLite empties its log into the file.
    pub async fn close(&self) {
        let closing = async {
            match &self.pool {
                Pool::Sqlite { read, write } => {
                    read.close().await;
                    write.close().await;
                }
                Pool::Postgres(pool) => pool.close().await,
            }
        };
        // A connection that hangs is cut by the process's end.
        let _ = tokio::time::timeout(self.patience, closing).await;
    }
}

//! Connections to either database, and the three ways to use one: [`reading`], [`writing`], [`changing`].
//!
//! Each is a macro because sqlx's two connection types share no usable trait: the body is written once and
//! compiled for both. Every use is bounded in time, and a connection that saw an error is closed, never used
//! again: SQLite rolls back by itself when the disk is full, after which sqlx's count of open transactions is
//! wrong for good; a PostgreSQL peer that fell silent would otherwise keep its place in the pool until TCP gives up.

use std::future::Future;
use std::time::Duration;

use sqlx::Database;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;

use super::Settings;
use super::error::StoreError;

/// The connections.
#[derive(Clone, Debug)]
pub(super) enum Pool {
    /// Many readers, one writer: SQLite has one writer anyway, and queueing for it in our own order is kinder
    /// than polling for its lock.
    Sqlite {
        /// `PRAGMA query_only`.
        read: SqlitePool,
        /// One connection.
        write: SqlitePool,
    },
    /// One pool for everything.
    Postgres(PgPool),
}

/// How a [`writing`] body ends.
pub(super) enum Step<T> {
    /// Commit, then answer.
    Keep(T),
    /// Roll back, then answer.
    Undo(T),
}

/// Runs a body on a connection for reading. Its value is a `Result<_, StoreError>`.
macro_rules! reading {
    ($store:expr, $operation:ident, |$conn:ident| $body:expr) => {{
        let running = $store.meter.start(StoreOperation::$operation);
        let outcome = async {
            match &$store.pool {
                Pool::Sqlite { read, .. } => reading!(@on read, $store, $conn, $body),
                Pool::Postgres(pool) => reading!(@on pool, $store, $conn, $body),
            }
        };
        running.ended(outcome.await)
    }};
    (@on $pool:expr, $store:expr, $conn:ident, $body:expr) => {{
        let mut lease = pool::Lease::to_read($pool.acquire().await?, $store.patience);
        let outcome = pool::bounded($store.patience, async {
            let $conn = lease.connection();
            $body
        })
        .await;
        lease.ended(outcome)
    }};
}

/// Runs a body in a transaction that nothing cached depends on. Its value is a [`Step`].
macro_rules! writing {
    ($store:expr, $operation:ident, |$tx:ident| $body:expr) => {{
        let running = $store.meter.start(StoreOperation::$operation);
        let outcome = async {
            match &$store.pool {
                Pool::Sqlite { write, .. } => writing!(@on write, "BEGIN IMMEDIATE", $store, $tx, $body),
                Pool::Postgres(pool) => writing!(@on pool, "BEGIN", $store, $tx, $body),
            }
        };
        running.ended(outcome.await)
    }};
    (@on $pool:expr, $begin:literal, $store:expr, $tx:ident, $body:expr) => {{
        let mut lease = pool::Lease::to_write($pool.acquire().await?, $store.patience);
        let outcome = pool::bounded($store.patience, async {
            let mut transaction = sqlx::Connection::begin_with(lease.connection(), $begin).await?;
            let $tx = &mut *transaction;
            match $body {
                Step::Keep(value) => {
                    transaction.commit().await?;
                    Ok(value)
                }
                Step::Undo(value) => {
                    transaction.rollback().await?;
                    Ok(value)
                }
            }
        })
        .await;
        lease.ended(outcome)
    }};
}

/// Runs a body in a transaction that may change what other processes have cached. Its value is `(answer,
/// Vec<Changed>)`: the changes go into the feed in the same transaction. What it wrote is kept in either case.
///
/// On PostgreSQL the feed's row is locked first, as SQLite locks the file: such writes follow one another, so
/// that no two of them can wait for each other's rows in opposite order.
macro_rules! changing {
    ($store:expr, $operation:ident, $realm:expr, $now:expr, |$tx:ident| $body:expr) => {{
        let running = $store.meter.start(StoreOperation::$operation);
        let outcome = async {
            match &$store.pool {
                Pool::Sqlite { write, .. } => {
                    changing!(@on Sqlite, write, "BEGIN IMMEDIATE", $store, $realm, $now, $tx, $body)
                }
                Pool::Postgres(pool) => changing!(
                    @on Postgres, pool, "BEGIN; SELECT head FROM feed WHERE id = 1 FOR UPDATE",
                    $store, $realm, $now, $tx, $body
                ),
            }
        };
        running.ended(outcome.await)
    }};
    (@on $db:ident, $pool:expr, $begin:literal, $store:expr, $realm:expr, $now:expr, $tx:ident, $body:expr) => {{
        let mut lease = pool::Lease::to_write($pool.acquire().await?, $store.patience);
        let outcome = pool::bounded($store.patience, async {
            let mut transaction = sqlx::Connection::begin_with(lease.connection(), $begin).await?;
            let $tx = &mut *transaction;
            let (value, changed): (_, Vec<Changed>) = $body;
            if !changed.is_empty() {
                changes::append!($db, &mut *transaction, $realm, &changed, $now);
            }
            transaction.commit().await?;
            Ok(value)
        })
        .await;
        lease.ended(outcome)
    }};
}

pub(super) use {changing, reading, writing};

/// A connection lent to one use. It goes back to the pool unless something went wrong; then it is closed.
pub(super) struct Lease<DB: Database> {
    connection: PoolConnection<DB>,
    patience: Duration,
    reusable: bool,
}

impl<DB: Database> Lease<DB> {
    /// For reading: a future that is dropped midway (a client hung up) leaves a statement to be read to its end,
    /// which sqlx does.
    pub const fn to_read(connection: PoolConnection<DB>, patience: Duration) -> Self {
        Self { connection, patience, reusable: true }
    }

    /// For a transaction: dropped midway, the connection is closed. sqlx rolls back what it knows to be open, but a
    /// `BEGIN` that was given up while it waited is not yet counted: it would go back open, with the feed's lock.
    pub const fn to_write(connection: PoolConnection<DB>, patience: Duration) -> Self {
        Self { connection, patience, reusable: false }
    }

    pub fn connection(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }

    pub fn ended<T>(mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        self.reusable = outcome.is_ok();
        outcome
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if self.reusable {
            // What sqlx does at drop, but not without end: it asks the server whether all is well, and a server
            // that fell silent just now would keep the place in the pool until TCP gives up.
            tokio::spawn(tokio::time::timeout(self.patience, self.connection.return_to_pool()));
        } else {
            self.connection.close_on_drop();
        }
    }
}

/// `work`, given up after `patience`. What it had not committed by then is rolled back.
pub(super) async fn bounded<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
        Err(StoreError::unavailable(format!("the database did not answer within {} ms", patience.as_millis())))
    })
}

/// How long work on a connection may take once there is one: a wait for a lock, and then as much again.
pub(super) fn patience(settings: &Settings) -> Duration {
    settings.acquire_timeout.saturating_mul(2)
}

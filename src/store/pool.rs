//! Connections to either database, and the three ways to use one: [`reading`], [`writing`], [`changing`].
//!
//! Each is a macro because sqlx's two connection types share no usable trait: the body is written once and
//! compiled for both. Every use is bounded in time, and a connection that saw an error is closed, never used
//! again: SQLite rolls back by itself when the disk is full, after which sqlx's count of open transactions is
//! wrong for good; a PostgreSQL peer that fell silent would otherwise keep its place in the pool until TCP gives up.

use std::future::Future;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use super::error::{StoreError, is_busy};
use super::{Settings, migrate};

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
    ($store:expr, |$conn:ident| $body:expr) => {
        match &$store.pool {
            Pool::Sqlite { read, .. } => reading!(@on read, $store, $conn, $body),
            Pool::Postgres(pool) => reading!(@on pool, $store, $conn, $body),
        }
    };
    (@on $pool:expr, $store:expr, $conn:ident, $body:expr) => {{
        let mut lease = $pool.acquire().await?;
        let outcome = pool::bounded($store.patience, async {
            let $conn = &mut *lease;
            $body
        })
        .await;
        if outcome.is_err() {
            lease.close_on_drop();
        }
        outcome
    }};
}

/// Runs a body in a transaction that nothing cached depends on. Its value is a [`Step`].
macro_rules! writing {
    ($store:expr, |$tx:ident| $body:expr) => {
        match &$store.pool {
            Pool::Sqlite { write, .. } => writing!(@on write, "BEGIN IMMEDIATE", $store, $tx, $body),
            Pool::Postgres(pool) => writing!(@on pool, "BEGIN", $store, $tx, $body),
        }
    };
    (@on $pool:expr, $begin:literal, $store:expr, $tx:ident, $body:expr) => {{
        let mut lease = $pool.acquire().await?;
        let outcome = pool::bounded($store.patience, async {
            let mut transaction = sqlx::Connection::begin_with(&mut *lease, $begin).await?;
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
        if outcome.is_err() {
            lease.close_on_drop();
        }
        outcome
    }};
}

/// Runs a body in a transaction that changes what other processes may have cached. Its value is `(answer,
/// Vec<Changed>)`: the changes go into the feed in the same transaction; with none of them everything is rolled back.
///
/// On PostgreSQL the feed's row is locked first, as SQLite locks the file: such writes follow one another, so
/// that no two of them can wait for each other's rows in opposite order.
macro_rules! changing {
    ($store:expr, $realm:expr, $now:expr, |$tx:ident| $body:expr) => {
        match &$store.pool {
            Pool::Sqlite { write, .. } => {
                changing!(@on Sqlite, write, "BEGIN IMMEDIATE", $store, $realm, $now, $tx, $body)
            }
            Pool::Postgres(pool) => changing!(
                @on Postgres, pool, "BEGIN; SELECT head FROM feed WHERE id = 1 FOR UPDATE", $store, $realm, $now, $tx, $body
            ),
        }
    };
    (@on $db:ident, $pool:expr, $begin:literal, $store:expr, $realm:expr, $now:expr, $tx:ident, $body:expr) => {{
        let mut lease = $pool.acquire().await?;
        let outcome = pool::bounded($store.patience, async {
            let mut transaction = sqlx::Connection::begin_with(&mut *lease, $begin).await?;
            let $tx = &mut *transaction;
            let (value, changed): (_, Vec<Changed>) = $body;
            if changed.is_empty() {
                transaction.rollback().await?;
            } else {
                changes::append!($db, &mut *transaction, $realm, &changed, $now);
                transaction.commit().await?;
            }
            Ok(value)
        })
        .await;
        if outcome.is_err() {
            lease.close_on_drop();
        }
        outcome
    }};
}

pub(super) use {changing, reading, writing};

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

/// How long opening and migrating may take: an index over a large table is built once in a while.
const OPENING: Duration = Duration::from_mins(5);

/// A PostgreSQL connection that rested for less than this is used without asking whether it still lives.
const FRESH: Duration = Duration::from_secs(1);

/// Connects, makes what is missing, migrates.
pub(super) async fn open(settings: &Settings) -> Result<Pool, StoreError> {
    let url = settings.url.expose();
    if url.starts_with("sqlite:") {
        bounded(OPENING, open_sqlite(settings, url)).await
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        bounded(OPENING, open_postgres(settings, url)).await
    } else {
        Err(StoreError::Url { what: "it starts with neither sqlite:// nor postgres://".into() })
    }
}

async fn open_sqlite(settings: &Settings, url: &str) -> Result<Pool, StoreError> {
    let options = SqliteConnectOptions::from_str(url)?;
    let file = options.get_filename().to_owned();
    if url.contains(":memory:") || url.contains("mode=memory") || file.as_os_str().is_empty() {
        return Err(StoreError::Url { what: "a file is needed, such as sqlite://data/tollgate.db".into() });
    }
    make_file(&file).await.map_err(|error| {
        StoreError::unavailable(std::io::Error::new(error.kind(), format!("{}: {error}", file.display())))
    })?;
    let options = options
        .read_only(false)
        .foreign_keys(true)
        // An acknowledged commit is on the disk: in WAL mode only FULL syncs the log at each commit.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(settings.acquire_timeout)
        // After a burst the log shrinks again.
        .pragma("journal_size_limit", "67108864");
    prepare_sqlite(options.clone().busy_timeout(OPENING)).await?;

    // SQLite connections neither go stale nor need renewing.
    let pool = |size: u32| {
        SqlitePoolOptions::new()
            .max_connections(size)
            .acquire_timeout(settings.acquire_timeout)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
    };
    let write = pool(1).connect_with(options.clone()).await?;
    let read = pool(settings.max_connections.max(1)).connect_with(options.pragma("query_only", "1")).await?;
    Ok(Pool::Sqlite { read, write })
}

/// The file, readable by us alone (it holds password hashes); SQLite gives its log the same mode.
async fn make_file(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tokio::fs::create_dir_all(folder).await?;
    let made = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).await;
    match made {
        // A file whose name is not on the disk yet would be lost with the power, commits and all.
        Ok(_) => tokio::fs::File::open(folder).await?.sync_all().await,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Switches to the write-ahead log (once in a file's life) and migrates.
async fn prepare_sqlite(options: SqliteConnectOptions) -> Result<(), StoreError> {
    let mut connection = loop {
        match options.clone().journal_mode(SqliteJournalMode::Wal).connect().await {
            Ok(connection) => break connection,
            // Another process is switching at this moment. SQLite's own busy timeout does not cover the switch;
            // `open` bounds the loop.
            Err(error) if is_busy(&error) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error.into()),
        }
    };
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await?;
    if mode != "wal" {
        return Err(StoreError::unavailable(format!(
            "SQLite keeps its journal in mode {mode} on this file system: a local one is needed"
        )));
    }
    migrate::run!(Sqlite, &mut connection, "BEGIN IMMEDIATE", "")?;
    connection.close().await?;
    Ok(())
}

async fn open_postgres(settings: &Settings, url: &str) -> Result<Pool, StoreError> {
    let options = PgConnectOptions::from_str(url)?;
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("tollgate"),
    };
    let mut connection = bounded(patience(settings), async { Ok(options.connect().await?) }).await?;
    migrate::run!(Postgres, &mut connection, "BEGIN", "SELECT pg_advisory_xact_lock(8391720451127603)")?;
    connection.close().await?;

    let wait = settings.acquire_timeout;
    let waits = [wait, patience(settings), patience(settings)].map(|limit| format!("{}ms", limit.as_millis()));
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections.max(1))
        .acquire_timeout(wait)
        .test_before_acquire(false)
        .before_acquire(move |connection, rest| {
            Box::pin(async move {
                if rest.idle_for < FRESH {
                    return Ok(true);
                }
                // A peer that vanished without a word must not eat the whole wait: a new connection needs the rest.
                tokio::time::timeout(wait / 4, connection.ping()).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            let [lock, statement, idle] = waits.clone();
            Box::pin(async move {
                sqlx::query(SESSION).bind(lock).bind(statement).bind(idle).execute(connection).await?;
                Ok(())
            })
        })
        .connect_with(options)
        .await?;
    Ok(Pool::Postgres(pool))
}

/// The server's own bounds: a statement that we gave up on ends there too, and a node that died in the middle of
/// a write does not hold the feed's lock until TCP notices. A server whose default is to acknowledge before the
/// log is on the disk is overruled; a stronger default is kept.
const SESSION: &str = "SELECT \
    set_config('lock_timeout', $1, false), \
    set_config('statement_timeout', $2, false), \
    set_config('idle_in_transaction_session_timeout', $3, false), \
    set_config('default_transaction_isolation', 'read committed', false), \
    CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END";

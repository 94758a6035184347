//! Connecting: what a URL means, what a new SQLite file needs, what every connection is told.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use super::error::{StoreError, is_busy};
use super::pool::{Pool, bounded, patience};
use super::{Settings, migrate};

/// How long opening and migrating may take: an index over a large table is built once in a while.
const OPENING: Duration = Duration::from_mins(5);

/// Said of a database that would let nobody sign in.
const READ_ONLY: &str = "the database can be read but not written";

/// A PostgreSQL connection that rested for less than this is used without asking whether it still lives.
const FRESH: Duration = Duration::from_secs(1);

/// Whether `url` can be one of a store, without opening it.
pub(super) fn check(url: &str) -> Result<(), StoreError> {
    if url.starts_with("sqlite:") {
        sqlite(url).map(drop)
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let bad = |error: sqlx::Error| StoreError::Url { what: error.to_string() };
        PgConnectOptions::from_str(url).map(drop).map_err(bad)
    } else {
        Err(StoreError::Url { what: "it starts with neither sqlite:// nor postgres://".into() })
    }
}

/// Connects, makes what is missing, migrates.
pub(super) async fn open(settings: &Settings) -> Result<Pool, StoreError> {
    let url = settings.url.expose();
    check(url)?;
    if url.starts_with("sqlite:") {
        bounded(OPENING, open_sqlite(settings, url)).await
    } else {
        bounded(OPENING, open_postgres(settings, url)).await
    }
}

fn sqlite(url: &str) -> Result<SqliteConnectOptions, StoreError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|error| StoreError::Url { what: error.to_string() })?;
    if url.contains(":memory:") || url.contains("mode=memory") || options.get_filename().as_os_str().is_empty() {
        return Err(StoreError::Url { what: "a file is needed, such as sqlite://data/tollgate.db".into() });
    }
    Ok(options)
}

async fn open_sqlite(settings: &Settings, url: &str) -> Result<Pool, StoreError> {
    let options = sqlite(url)?;
    let file = options.get_filename().to_owned();
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
    // One that is there already but not ours to write opens all the same, and fails at the first write.
    let written = sqlx::query("PRAGMA user_version = 0").execute(&mut connection).await;
    written.map_err(|error| StoreError::unavailable(format!("{READ_ONLY}: {error}")))?;
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
    let read_only: String = sqlx::query_scalar("SHOW transaction_read_only").fetch_one(&mut connection).await?;
    if read_only == "on" {
        return Err(StoreError::unavailable(format!("{READ_ONLY}: it is a standby, or set to be read only")));
    }
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

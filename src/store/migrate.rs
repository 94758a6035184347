//! The schema's versions, built into the binary.
//!
//! Why not sqlx's migrator: on SQLite it takes no lock, so that two processes starting on one new file run the
//! same step twice; on PostgreSQL it waits for its lock without end. Here all missing steps are one transaction
//! under a lock of its own, so that a database is at one version or at the next, whoever dies meanwhile.
//!
//! To add a step: `NNNN_what.sql` beside the others, and its line below. A step that was released is never edited.

/// One step.
pub(super) struct Migration {
    /// Its number, counted from 1 without a gap.
    pub version: i64,
    /// What it brings.
    pub name: &'static str,
    /// Statements that both databases understand.
    pub sql: &'static str,
}

/// Every step, in order.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "accounts", sql: include_str!("migrations/0001_accounts.sql") },
    Migration {
        version: 2,
        name: "refresh, codes, mails",
        sql: include_str!("migrations/0002_refresh_codes_mails.sql"),
    },
    Migration { version: 3, name: "uncounted mails", sql: include_str!("migrations/0003_uncounted_mails.sql") },
    Migration { version: 4, name: "peppers", sql: include_str!("migrations/0004_peppers.sql") },
];

/// The newest version that this binary knows.
pub(super) const NEWEST: i64 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// The version a database is at. Fails where no step ever ran: there is no such table then.
pub(super) const VERSION: &str = "SELECT COALESCE(MAX(version), 0) FROM schema_versions";

/// Where the versions are noted.
pub(super) const NOTES: &str =
    "CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)";

/// Brings a database to [`NEWEST`], or says that it is beyond it. Starts with a look that takes no lock: that is
/// all a start on an up-to-date database costs, and all that an account without the right to make tables may do.
macro_rules! run {
    ($db:ident, $connection:expr, $begin:literal, $lock:literal) => {{
        let connection = $connection;
        let seen: Option<i64> = sqlx::query_scalar(migrate::VERSION).fetch_one(&mut *connection).await.ok();
        match seen {
            Some(found) if found > migrate::NEWEST => Err(StoreError::Newer { found, known: migrate::NEWEST }),
            Some(found) if found == migrate::NEWEST => Ok(()),
            _ => {
                let mut transaction = Connection::begin_with(&mut *connection, $begin).await?;
                sqlx::raw_sql(concat!($lock, ";")).execute(&mut *transaction).await?;
                sqlx::raw_sql(migrate::NOTES).execute(&mut *transaction).await?;
                let found: i64 = sqlx::query_scalar(migrate::VERSION).fetch_one(&mut *transaction).await?;
                for step in migrate::MIGRATIONS.iter().filter(|step| step.version > found) {
                    let sql = migrate::text_for(stringify!($db), step.sql);
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *transaction).await?;
                    sqlx::query("INSERT INTO schema_versions (version, name) VALUES ($1, $2)")
                        .bind(step.version)
                        .bind(step.name)
                        .execute(&mut *transaction)
                        .await?;
                }
                transaction.commit().await?;
                // Someone newer may have passed while we waited for the lock.
                if found > migrate::NEWEST { Err(StoreError::Newer { found, known: migrate::NEWEST }) } else { Ok(()) }
            }
        }
    }};
}

pub(super) use run;

/// A step's text for one database: PostgreSQL's text columns compare bytes, as SQLite's do by default, and its
/// bytes go by another name.
pub(super) fn text_for(database: &str, sql: &str) -> String {
    match database {
        "Postgres" => sql.replace(" TEXT", " TEXT COLLATE \"C\"").replace(" BLOB", " BYTEA"),
        _ => sql.to_owned(),
    }
}

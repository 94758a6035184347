//! What can go wrong between us and the database, sorted by what a caller does about it.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use crate::model::problem::{FieldError, Problem};
use crate::model::refusal::Refusal;

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not now: unreachable, full, locked, too slow. Nothing was acknowledged; the same call may work later.
    #[error("the store cannot be used now: {source}")]
    Unavailable {
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row holds what no version of this program wrote, or the file itself is damaged.
    #[error("the store is damaged: {what}")]
    Corrupt {
        /// Where, and what stands there.
        what: String,
    },
    /// The statement was refused: a mistake of ours.
    #[error("the store refused a statement: {0}")]
    Refused(#[source] sqlx::Error),
    /// A text that not every database can keep: it holds a NUL (PostgreSQL has none in text).
    #[error("{what} holds a NUL character, which cannot be stored")]
    Unstorable {
        /// Which text: `name`, `description` …
        what: &'static str,
    },
    /// Changes after `since` have been purged, or `since` was never reached (the database was put back from a
    /// backup): whoever follows the feed must forget everything cached and go on from the head.
    #[error("the change feed cannot be followed from {since}: its head is {head}")]
    FeedBroken {
        /// The number that was asked for.
        since: i64,
        /// The newest number.
        head: i64,
    },
    /// A newer Tollgate has been here; this one would not understand its rows.
    #[error(
        "the database has schema version {found}, this program knows up to {known}: run the newer tollgate, or restore a backup made before the upgrade"
    )]
    Newer {
        /// The database's version.
        found: i64,
        /// The newest version in this binary.
        known: i64,
    },
    /// The configured URL cannot be used. The URL is not shown: it may hold a password.
    #[error("store url: {what}")]
    Url {
        /// What is wrong with it, and what would do.
        what: String,
    },
}

impl StoreError {
    pub(super) fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { source: source.into() }
    }

    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}

/// `text`, if every database can keep it.
pub(super) fn storable<'a>(what: &'static str, text: &'a str) -> Result<&'a str, StoreError> {
    if text.contains('\0') { Err(StoreError::Unstorable { what }) } else { Ok(text) }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match error {
            E::Database(ref source) => match sort(&**source) {
                Sort::NotNow => Self::unavailable(error),
                Sort::Damaged => Self::corrupt(error.to_string()),
                Sort::Ours => Self::Refused(error),
            },
            E::Io(_)
            | E::Tls(_)
            | E::Protocol(_)
            | E::PoolTimedOut
            | E::PoolClosed
            | E::WorkerCrashed
            | E::BeginFailed
            | E::InvalidSavePointStatement => Self::unavailable(error),
            E::ColumnDecode { .. } | E::Decode(_) => Self::corrupt(error.to_string()),
            E::Configuration(source) => Self::Url { what: source.to_string() },
            _ => Self::Refused(error),
        }
    }
}

enum Sort {
    NotNow,
    Damaged,
    Ours,
}

fn sort(error: &dyn DatabaseError) -> Sort {
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return sort_postgres(error.code());
    }
    match error.try_downcast_ref::<SqliteError>().and_then(|error| error.code()?.parse::<i32>().ok()) {
        Some(code) => sort_sqlite(code),
        None => Sort::Ours,
    }
}

/// Whether SQLite said BUSY, in any of its forms.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<SqliteError>());
    error.and_then(|error| error.code()?.parse::<i32>().ok()).is_some_and(|code| code & 0xff == 5)
}

/// By primary result code, the low byte (<https://sqlite.org/rescode.html>).
fn sort_sqlite(code: i32) -> Sort {
    match code & 0xff {
        // PERM, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL (a lock that could not be had)
        3 | 5..=10 | 13..=15 => Sort::NotNow,
        // CORRUPT, NOTADB
        11 | 26 => Sort::Damaged,
        _ => Sort::Ours,
    }
}

/// By SQLSTATE (PostgreSQL manual, appendix A).
fn sort_postgres(code: &str) -> Sort {
    match code {
        // A standby after a failover; a lock not had in time; the database or our account (re)moved under us.
        "25006" | "55P03" | "3D000" => Sort::NotNow,
        "XX001" | "XX002" => Sort::Damaged,
        _ => match code.get(..2) {
            // connection, authorization, rollback (deadlock, serialization), resources, operator, system
            Some("08" | "28" | "40" | "53" | "57" | "58") => Sort::NotNow,
            // idle_in_transaction_session_timeout and its kin
            Some("25") if code == "25P03" || code == "25P04" => Sort::NotNow,
            _ => Sort::Ours,
        },
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } | StoreError::FeedBroken { .. } => Self::unavailable(error),
            StoreError::Unstorable { what } => {
                Problem::InvalidRequest(vec![FieldError::new(what, "must not hold a NUL character")]).into()
            }
            StoreError::Corrupt { .. } | StoreError::Refused(_) | StoreError::Newer { .. } | StoreError::Url { .. } => {
                Self::internal(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_503_and_what_will_not_is_500() {
        let full: Refusal = StoreError::unavailable("disk full").into();
        assert_eq!(full.problem, Problem::Unavailable);
        assert!(full.fault.is_some());
        let damaged: Refusal = StoreError::corrupt("a row").into();
        assert_eq!(damaged.problem, Problem::Internal);
        let nul: Refusal = storable("name", "a\0b").map(drop).unwrap_err().into();
        assert!(matches!(nul.problem, Problem::InvalidRequest(_)));
        assert!(storable("name", "Zoë").is_ok());
    }

    #[test]
    fn codes_are_sorted_by_what_a_caller_can_do() {
        for code in [5, 13, 10, 522, 778, 14, 8, 1032] {
            assert!(matches!(sort_sqlite(code), Sort::NotNow), "{code}");
        }
        assert!(matches!(sort_sqlite(11), Sort::Damaged) && matches!(sort_sqlite(26), Sort::Damaged));
        assert!(matches!(sort_sqlite(2067), Sort::Ours) && matches!(sort_sqlite(1), Sort::Ours));
        for code in ["53100", "57P01", "57014", "08006", "55P03", "40P01", "25006", "28P01", "25P03"] {
            assert!(matches!(sort_postgres(code), Sort::NotNow), "{code}");
        }
        for code in ["42P01", "23505", "25001", ""] {
            assert!(matches!(sort_postgres(code), Sort::Ours), "{code}");
        }
        assert!(matches!(sort_postgres("XX001"), Sort::Damaged));
    }
}

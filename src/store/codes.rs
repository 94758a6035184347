//! Codes that are mailed: kept by hash, one of a kind for a user, used once.
//!
//! A code and the mail that carries it are kept together or not at all; the mail then waits in the queue
//! ([`super::mails`]). What a reset code does stands in [`super::passwords`].

use std::time::Duration;

use crate::model::change::Changed;
use crate::model::code::{CodeHash, CodeKind};
use crate::model::id::UserId;
use crate::model::mail::SealedMail;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

use super::pool::{changing, reading};
use super::rows::hash_to_text;
use super::{Pool, Store, StoreError, changes, pool};

/// A code to be kept, with the mail that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCode {
    /// What it is for.
    pub kind: CodeKind,
    /// Its hash.
    pub hash: CodeHash,
    /// When it stops working by itself.
    pub ends_at: Timestamp,
    /// The mail.
    pub mail: SealedMail,
}

/// What became of a request for a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// The code is kept, in place of any earlier one of its kind, and its mail waits to be sent.
    Done,
    /// The user was sent as many mails within the last hour as one may be.
    TooMany,
    /// There is no such user.
    Unknown,
}

/// The time within which mails to a user are counted.
const HOUR: Duration = Duration::from_hours(1);

pub(super) const ADD: &str = "INSERT INTO codes (realm, user_id, kind, hash, ends_at) VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (realm, user_id, kind) DO UPDATE SET hash = excluded.hash, ends_at = excluded.ends_at";

/// Inserts a code and its mail in a transaction that is open.
macro_rules! insert {
    ($tx:expr, $realm:expr, $user:expr, $code:expr, $now:expr) => {{
        let code: &crate::store::codes::NewCode = $code;
        sqlx::query(crate::store::codes::ADD)
            .bind($realm)
            .bind($user.to_text())
            .bind(crate::store::codes::kind_to_text(code.kind))
            .bind(crate::store::rows::hash_to_text(&code.hash.0))
            .bind(code.ends_at.millis())
            .execute(&mut *$tx)
            .await?;
        sqlx::query(crate::store::mails::ADD)
            .bind($realm)
            .bind(code.mail.id.to_text())
            .bind($user.to_text())
            .bind($now.millis())
            .bind(&code.mail.sealed)
            .bind(1_i64)
            .execute(&mut *$tx)
            .await?;
    }};
}

/// Takes a code out, in a transaction that is open: whose it was, if it was one of its kind and still good.
macro_rules! use_up {
    ($tx:expr, $realm:expr, $kind:expr, $code:expr, $now:expr) => {{
        let user: Option<String> = sqlx::query_scalar(crate::store::codes::USE_UP)
            .bind($realm)
            .bind(crate::store::codes::kind_to_text($kind))
            .bind(hash_to_text(&$code.0))
            .bind($now.millis())
            .fetch_optional(&mut *$tx)
            .await?;
        user.map(|id| UserId::from_text(&id).ok_or_else(|| StoreError::corrupt("column user_id in codes")))
            .transpose()?
    }};
}

pub(super) use {insert, use_up};

pub(super) const BY_HASH: &str =
    "SELECT user_id FROM codes WHERE realm = $1 AND kind = $2 AND hash = $3 AND ends_at > $4";

pub(super) const USE_UP: &str =
    "DELETE FROM codes WHERE realm = $1 AND kind = $2 AND hash = $3 AND ends_at > $4 RETURNING user_id";

impl Store {
    /// Keeps a code and its mail, unless the user was sent `per_hour` mails within the last hour already, whatever
    /// they were for.
    pub async fn request_code(
        &self,
        realm: &str,
        user: UserId,
        new: &NewCode,
        per_hour: u32,
        now: Timestamp,
    ) -> Result<Requested, StoreError> {
        const KNOWN: &str = "SELECT COUNT(*) FROM users WHERE realm = $1 AND id = $2";
        // Two requests must not both see the last free place. Were the user's row their lock, it would be taken before
        // the code's, and by who uses the code up after it; the feed's lock is taken first by all.
        changing!(self, RequestCode, realm, now, |tx| {
            let known: i64 = sqlx::query_scalar(KNOWN).bind(realm).bind(user.to_text()).fetch_one(&mut *tx).await?;
            let sent: i64 = sqlx::query_scalar(super::mails::OF_LAST_HOUR)
                .bind(realm)
                .bind(user.to_text())
                .bind(now.minus(HOUR).millis())
                .bind(i64::from(per_hour))
                .fetch_one(&mut *tx)
                .await?;
            if known == 0 {
                (Requested::Unknown, vec![])
            } else if sent >= i64::from(per_hour) {
                (Requested::TooMany, vec![])
            } else {
                insert!(tx, realm, user, new, now);
                (Requested::Done, vec![])
            }
        })
    }

    /// Whose code this is, if it is still good. It stays good: for refusing what is not before the work that comes
    /// with using it.
    pub async fn code(
        &self,
        realm: &str,
        kind: CodeKind,
        code: &CodeHash,
        now: Timestamp,
    ) -> Result<Option<UserId>, StoreError> {
        let found: Option<String> = reading!(self, Code, |conn| {
            Ok(sqlx::query_scalar(BY_HASH)
                .bind(realm)
                .bind(kind_to_text(kind))
                .bind(hash_to_text(&code.0))
                .bind(now.millis())
                .fetch_optional(conn)
                .await?)
        })?;
        found.map(|id| UserId::from_text(&id).ok_or_else(|| StoreError::corrupt("column user_id in codes"))).transpose()
    }

    /// Notes that the address of whose verification code this is was proven, and uses the code up: whose. `None`:
    /// there is no such code, or it has ended.
    pub async fn verify_email(
        &self,
        realm: &str,
        code: &CodeHash,
        now: Timestamp,
    ) -> Result<Option<UserId>, StoreError> {
        const PROVEN: &str = "UPDATE users SET email_verified = 1, updated_at = $3 WHERE realm = $1 AND id = $2";
        changing!(self, VerifyEmail, realm, now, |tx| {
            if let Some(user) = use_up!(tx, realm, CodeKind::Verify, code, now) {
                sqlx::query(PROVEN).bind(realm).bind(user.to_text()).bind(now.millis()).execute(&mut *tx).await?;
                (Some(user), vec![Changed::User(user)])
            } else {
                (None, vec![])
            }
        })
    }
}

pub(super) const fn kind_to_text(kind: CodeKind) -> &'static str {
    match kind {
        CodeKind::Verify => "verify",
        CodeKind::Reset => "reset",
    }
}

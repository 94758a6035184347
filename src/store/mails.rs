//! The queue of mails: each is taken by one worker at a time, and taken again where that worker was not heard of.
//!
//! Taking a mail puts it off for the lease. A worker that dies meanwhile loses its turn and not the mail; one that is
//! slower than its lease is not believed when it says that it failed. Mails are put in with the codes that they carry
//! ([`super::codes`]). Times are the workers' own: their clocks must agree by less than a lease.

use std::time::Duration;

use crate::model::id::{MailId, UserId};
use crate::model::mail::SealedMail;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

use super::error::StoreError;
use super::pool::{Step, reading, writing};
use super::rows::Stored;
use super::{Pool, Store, pool};

/// A mail that a worker has taken.
#[derive(Clone, PartialEq, Eq)]
pub struct QueuedMail {
    /// The realm it was sealed for.
    pub realm: String,
    /// Its id; the same at every attempt.
    pub id: MailId,
    /// The ciphertext.
    pub sealed: Vec<u8>,
    /// How often it was taken, this time included.
    pub attempts: u32,
}

/// `$6`: 1 where it counts for the hour.
pub(super) const ADD: &str = "INSERT INTO mails (realm, id, user_id, queued_at, sealed, next_at, attempts, counted) \
    VALUES ($1, $2, $3, $4, $5, $4, 0, $6)";

/// Counts no further than it must.
pub(super) const OF_LAST_HOUR: &str = "SELECT COUNT(*) FROM (\
    SELECT 1 FROM mails WHERE realm = $1 AND user_id = $2 AND queued_at > $3 AND counted = 1 LIMIT $4) live";

pub(super) const DUE: &str =
    "SELECT realm, id FROM mails WHERE sealed IS NOT NULL AND next_at <= $1 ORDER BY next_at LIMIT 1";

pub(super) const CLAIM: &str = "UPDATE mails SET next_at = $4, attempts = attempts + 1 \
    WHERE realm = $1 AND id = $2 AND sealed IS NOT NULL AND next_at <= $3 RETURNING realm, id, sealed, attempts";

pub(super) const WAITING: &str = "SELECT COUNT(*) FROM mails WHERE sealed IS NOT NULL";

/// What a server said may be long; its beginning tells.
const ERROR_LENGTH: usize = 500;

impl Store {
    /// Puts in a mail that carries no code: news for a user, which nobody asked for and no bound counts.
    pub async fn queue_mail(
        &self,
        realm: &str,
        user: UserId,
        mail: &SealedMail,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        writing!(self, SettleMail, |tx| {
            let add = sqlx::query(ADD).bind(realm).bind(mail.id.to_text()).bind(user.to_text()).bind(now.millis());
            add.bind(&mail.sealed).bind(0_i64).execute(tx).await?;
            Step::Keep(())
        })
    }

    /// Takes the mail that has been due for longest, for as long as `lease`: nobody else gets it before that is over.
    /// Who takes it tells [`Self::mail_sent`] or [`Self::mail_failed`] in time.
    pub async fn claim_mail(&self, now: Timestamp, lease: Duration) -> Result<Option<QueuedMail>, StoreError> {
        // Nearly every question ends here, and takes no lock.
        let due: Option<(String, String)> =
            reading!(self, ClaimMail, |conn| Ok(sqlx::query_as(DUE).bind(now.millis()).fetch_optional(conn).await?))?;
        if due.is_none() {
            return Ok(None);
        }
        let taken: Option<Stored<QueuedMail>> = writing!(self, ClaimMail, |tx| {
            loop {
                let due: Option<(String, String)> =
                    sqlx::query_as(DUE).bind(now.millis()).fetch_optional(&mut *tx).await?;
                let Some((realm, id)) = due else { break Step::Undo(None) };
                let claim = sqlx::query_as(CLAIM).bind(realm).bind(id).bind(now.millis());
                let claimed = claim.bind(now.plus(lease).millis()).fetch_optional(&mut *tx).await?;
                // Nothing: PostgreSQL waited for another worker, which took it. There may be more.
                if let Some(mail) = claimed {
                    break Step::Keep(Some(mail));
                }
            }
        })?;
        Ok(taken.map(|stored| stored.0))
    }

    /// Notes that a mail was sent, and forgets what was in it. True whoever has taken it meanwhile.
    pub async fn mail_sent(&self, mail: &QueuedMail, now: Timestamp) -> Result<(), StoreError> {
        const DONE: &str = "UPDATE mails SET sealed = NULL, error = NULL, done_at = $3 \
            WHERE realm = $1 AND id = $2 AND sealed IS NOT NULL";
        writing!(self, SettleMail, |tx| {
            let done = sqlx::query(DONE).bind(&mail.realm).bind(mail.id.to_text()).bind(now.millis());
            done.execute(tx).await?;
            Step::Keep(())
        })
    }

    /// Notes that a mail could not be sent, and why: it is due again at `next_at`, or with `None` given up, and what
    /// was in it forgotten. False, and nothing is done: the lease ran out and another worker has taken it, or it is
    /// settled.
    pub async fn mail_failed(
        &self,
        mail: &QueuedMail,
        next_at: Option<Timestamp>,
        error: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        const PUT_OFF: &str = "UPDATE mails SET next_at = $4, error = $5 \
            WHERE realm = $1 AND id = $2 AND attempts = $3 AND sealed IS NOT NULL";
        const GIVE_UP: &str = "UPDATE mails SET sealed = NULL, done_at = $4, error = $5 \
            WHERE realm = $1 AND id = $2 AND attempts = $3 AND sealed IS NOT NULL";
        let (sql, at) = next_at.map_or((GIVE_UP, now), |next_at| (PUT_OFF, next_at));
        let error: String = error.chars().filter(|c| *c != '\0').take(ERROR_LENGTH).collect();
        writing!(self, SettleMail, |tx| {
            let settled = sqlx::query(sql)
                .bind(&mail.realm)
                .bind(mail.id.to_text())
                .bind(i64::from(mail.attempts))
                .bind(at.millis())
                .bind(&error)
                .execute(tx)
                .await?;
            if settled.rows_affected() == 1 { Step::Keep(true) } else { Step::Undo(false) }
        })
    }

    /// How many mails wait to be sent, those under way included.
    pub async fn mail_waiting(&self) -> Result<u64, StoreError> {
        let waiting: i64 = reading!(self, MailWaiting, |conn| Ok(sqlx::query_scalar(WAITING).fetch_one(conn).await?))?;
        Ok(u64::try_from(waiting).unwrap_or(0))
    }
}

impl std::fmt::Debug for QueuedMail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { realm, id, attempts, .. } = self;
        f.debug_struct("QueuedMail")
            .field("realm", realm)
            .field("id", id)
            .field("attempts", attempts)
            .finish_non_exhaustive()
    }
}

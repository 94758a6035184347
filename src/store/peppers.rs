//! Which pepper a realm's secrets are hashed under: remembered by a fingerprint, because with another one none of them is
//! ever found again.
//!
//! A database from before this was remembered takes the first pepper that it is shown, unless that was made just now and
//! there is something that cannot be under it.

use crate::model::change::Changed;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

use super::pool::{changing, reading};
use super::rows::hash_to_text;
use super::{Pool, Store, StoreError, changes, pool};

/// A pepper that a realm is to go on with.
#[derive(Clone, Copy, Debug)]
pub struct ShownPepper<'a> {
    /// The realm.
    pub realm: &'a str,
    /// What tells it from another.
    pub fingerprint: &'a [u8; 32],
    /// Whether it was made just now: nothing can be under it.
    pub is_new: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peppered {
    /// It is remembered.
    Noted,
    /// Something that still counts is hashed under another; what, for people.
    Other {
        /// The first of what there is.
        lost: String,
    },
}

const REMEMBERED: &str = "SELECT fingerprint FROM peppers WHERE realm = $1";

const NOTE: &str = "INSERT INTO peppers (realm, fingerprint, noted_at) VALUES ($1, $2, $3) \
    ON CONFLICT (realm) DO UPDATE SET fingerprint = excluded.fingerprint, noted_at = excluded.noted_at";

/// What is worth nothing without the pepper it was made under, and would count otherwise.
const LOST: &str = "SELECT CASE \
    WHEN EXISTS (SELECT 1 FROM api_keys WHERE realm = $1 AND revoked_at IS NULL \
        AND (expires_at IS NULL OR expires_at > $2)) THEN 'API keys' \
    WHEN EXISTS (SELECT 1 FROM sessions WHERE realm = $1 AND revoked_at IS NULL AND ends_at > $2 \
        AND refresh_hash IS NOT NULL AND refresh_ends_at > $2) THEN 'refresh tokens' \
    WHEN EXISTS (SELECT 1 FROM codes WHERE realm = $1 AND ends_at > $2) THEN 'tokens in mails' \
    WHEN EXISTS (SELECT 1 FROM mails WHERE realm = $1 AND sealed IS NOT NULL) THEN 'mails that wait' \
    END";

impl Store {
    /// Remembers the pepper that a realm goes on with, unless that would lose something.
    pub async fn note_pepper(&self, shown: ShownPepper<'_>, now: Timestamp) -> Result<Peppered, StoreError> {
        let fingerprint = hash_to_text(shown.fingerprint);
        // Nearly every start ends here, and takes no lock.
        let remembered: Option<String> = reading!(self, NotePepper, |conn| {
            Ok(sqlx::query_scalar(REMEMBERED).bind(shown.realm).fetch_optional(conn).await?)
        })?;
        if remembered.as_ref() == Some(&fingerprint) {
            return Ok(Peppered::Noted);
        }
        // Two nodes that start at once do not both find nothing.
        changing!(self, NotePepper, shown.realm, now, |tx| {
            let remembered: Option<String> =
                sqlx::query_scalar(REMEMBERED).bind(shown.realm).fetch_optional(&mut *tx).await?;
            let is_another = match remembered.as_deref() {
                None => shown.is_new,
                Some(remembered) => !remembered.is_empty() && remembered != fingerprint,
            };
            let lost: Option<String> = if is_another {
                sqlx::query_scalar(LOST).bind(shown.realm).bind(now.millis()).fetch_one(&mut *tx).await?
            } else {
                None
            };
            if let Some(lost) = lost {
                (Peppered::Other { lost }, vec![])
            } else {
                let note = sqlx::query(NOTE).bind(shown.realm).bind(&fingerprint).bind(now.millis());
                note.execute(&mut *tx).await?;
                (Peppered::Noted, vec![])
            }
        })
    }

    /// Gives up whatever is under a realm's pepper: the next one that is shown counts.
    pub async fn forget_pepper(&self, realm: &str, now: Timestamp) -> Result<(), StoreError> {
        changing!(self, NotePepper, realm, now, |tx| {
            sqlx::query(NOTE).bind(realm).bind("").bind(now.millis()).execute(&mut *tx).await?;
            ((), vec![])
        })
    }
}

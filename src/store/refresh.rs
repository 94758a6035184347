//! Refresh tokens: one that counts for a session, its parent for a moment longer, and nothing before that.
//!
//! A session is the family of every refresh token it ever had. Tokens are known by hash alone. Whoever calls has
//! checked that the token was issued for that session (its tag), so that one which is neither the current one nor its
//! parent is an older one: somebody uses a copy, and the family ends.

use std::time::Duration;

use crate::model::change::Changed;
use crate::model::id::SessionId;
use crate::model::refresh::RefreshHash;
use crate::model::session::Session;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

use super::pool::{Step, changing, reading, writing};
use super::rows::{Stored, hash_to_text, session_columns};
use super::sessions::{NewRefresh, idle_since};
use super::{Pool, Store, StoreError, changes, pool};

/// A refresh token that was presented, and what takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshExchange {
    /// What was presented.
    pub presented: RefreshHash,
    /// What takes its place; derived from it, so that whoever presents it again is answered with the same.
    pub successor: NewRefresh,
    /// How long after the exchange presenting it again still gives the successor: less than this, not as long as this.
    pub grace: Duration,
    /// How long a session lives without being used; `None`: until its end.
    pub idle: Option<Duration>,
}

/// What became of a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The successor counts now.
    Rotated(Session),
    /// It had been exchanged a moment ago, for the same successor, which still counts (parallel tabs, an answer that
    /// was lost).
    Replayed(Session),
    /// It had been exchanged before that: the session, and with it the family, was ended by this call.
    Reused {
        /// The session as it is now.
        session: Session,
    },
    /// The session is over, unused for too long, or its refresh token has ended (or there never was one).
    Unknown,
}

pub(super) const ROTATE: &str = concat!(
    "UPDATE sessions SET refresh_parent = $3, refresh_hash = $4, refresh_ends_at = $5, refresh_rotated_at = $6, \
      last_active_at = CASE WHEN last_active_at > $6 THEN last_active_at ELSE $6 END \
      WHERE realm = $1 AND id = $2 AND refresh_hash = $3 AND refresh_ends_at > $6 \
      AND revoked_at IS NULL AND ends_at > $6 AND last_active_at > $7 RETURNING ",
    session_columns!()
);

/// The session if it can still be refreshed, by another token than the one presented, and when that took its place.
pub(super) const AFTER_EXCHANGE: &str = concat!(
    "SELECT ",
    session_columns!(),
    ", CASE WHEN refresh_parent = $3 AND refresh_hash = $4 THEN refresh_rotated_at END AS rotated_at FROM sessions \
      WHERE realm = $1 AND id = $2 AND refresh_hash <> $3 AND refresh_ends_at > $5 \
      AND revoked_at IS NULL AND ends_at > $5 AND last_active_at > $6"
);

const END_FAMILY: &str = concat!(
    "UPDATE sessions SET revoked_at = $3 WHERE realm = $1 AND id = $2 AND revoked_at IS NULL AND ends_at > $3 RETURNING ",
    session_columns!()
);

pub(super) const CHECK: &str = concat!(
    "UPDATE sessions SET last_active_at = CASE WHEN last_active_at > $4 THEN last_active_at ELSE $4 END \
      WHERE realm = $1 AND id = $2 AND refresh_hash = $3 AND refresh_ends_at > $4 \
      AND revoked_at IS NULL AND ends_at > $4 AND last_active_at > $5 RETURNING ",
    session_columns!()
);

/// A session, and when the token that was presented was exchanged for the current one.
pub(super) struct Exchanged {
    pub session: Session,
    pub rotated_at: Option<Timestamp>,
}

impl Store {
    /// Exchanges a refresh token for its successor. Of many at once for the same token one exchanges it and all get
    /// the same successor.
    ///
    /// Each step is one transaction, and the one that answers decides. No step undoes what one before it saw: once a
    /// token has been exchanged it never counts again.
    pub async fn rotate_refresh(
        &self,
        realm: &str,
        session: SessionId,
        exchange: &RefreshExchange,
        now: Timestamp,
    ) -> Result<Refreshed, StoreError> {
        let RefreshExchange { presented, successor, grace, idle } = exchange;
        let (id, presented, next) = (session.to_text(), hash_to_text(&presented.0), hash_to_text(&successor.hash.0));
        let idle = idle_since(*idle, now);

        // Nothing cached depends on which token counts: no change, and no lock but the row's.
        let rotated: Option<Stored<Session>> = writing!(self, RotateRefresh, |tx| {
            let rotated = sqlx::query_as(ROTATE)
                .bind(realm)
                .bind(&id)
                .bind(&presented)
                .bind(&next)
                .bind(successor.ends_at.millis())
                .bind(now.millis())
                .bind(idle)
                .fetch_optional(tx)
                .await?;
            if rotated.is_some() { Step::Keep(rotated) } else { Step::Undo(None) }
        })?;
        if let Some(Stored(session)) = rotated {
            return Ok(Refreshed::Rotated(session));
        }

        let found: Option<Stored<Exchanged>> = reading!(self, RotateRefresh, |conn| {
            Ok(sqlx::query_as(AFTER_EXCHANGE)
                .bind(realm)
                .bind(&id)
                .bind(&presented)
                .bind(&next)
                .bind(now.millis())
                .bind(idle)
                .fetch_optional(conn)
                .await?)
        })?;
        match found {
            None => return Ok(Refreshed::Unknown),
            // A clock that stepped back makes no time pass.
            Some(Stored(Exchanged { session, rotated_at: Some(at) })) if at.until(now) < *grace => {
                return Ok(Refreshed::Replayed(session));
            }
            Some(_) => {}
        }

        changing!(self, RotateRefresh, realm, now, |tx| {
            let ended: Option<Stored<Session>> =
                sqlx::query_as(END_FAMILY).bind(realm).bind(&id).bind(now.millis()).fetch_optional(tx).await?;
            match ended {
                Some(Stored(ended)) => (Refreshed::Reused { session: ended }, vec![Changed::Session(session)]),
                // Somebody else was quicker.
                None => (Refreshed::Unknown, vec![]),
            }
        })
    }

    /// Uses a refresh token that stays: its session, noted as used now. `None`: it is not the session's token, that
    /// has ended, or the session is over or went unused for `idle`.
    pub async fn check_refresh(
        &self,
        realm: &str,
        session: SessionId,
        presented: &RefreshHash,
        idle: Option<Duration>,
        now: Timestamp,
    ) -> Result<Option<Session>, StoreError> {
        let checked: Option<Stored<Session>> = writing!(self, CheckRefresh, |tx| {
            let checked = sqlx::query_as(CHECK)
                .bind(realm)
                .bind(session.to_text())
                .bind(hash_to_text(&presented.0))
                .bind(now.millis())
                .bind(idle_since(idle, now))
                .fetch_optional(tx)
                .await?;
            if checked.is_some() { Step::Keep(checked) } else { Step::Undo(None) }
        })?;
        Ok(checked.map(|stored| stored.0))
    }
}

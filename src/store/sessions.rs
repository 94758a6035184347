//! Sessions: started at sign-in, touched at refresh, ended once.

use crate::model::change::Changed;
use crate::model::id::{SessionId, UserId};
use crate::model::session::Session;
use crate::model::time::Timestamp;

use super::pool::{Step, changing, reading, writing};
use super::rows::{Stored, session_columns};
use super::{Page, Pool, Store, StoreError, changes, pool};

pub(super) const ADD: &str = "INSERT INTO sessions (realm, id, user_id, org_id, created_at, last_active_at, ends_at, \
    revoked_at, address, device) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// Inserts a session in a transaction that is open.
macro_rules! insert {
    ($tx:expr, $realm:expr, $session:expr) => {{
        let session: &crate::model::session::Session = $session;
        let device = (!session.device.is_null()).then(|| session.device.to_string());
        sqlx::query(crate::store::sessions::ADD)
            .bind($realm)
            .bind(session.id.to_text())
            .bind(session.user_id.to_text())
            .bind(session.org_id.to_text())
            .bind(session.created_at.millis())
            .bind(session.last_active_at.millis())
            .bind(session.ends_at.millis())
            .bind(session.revoked_at.map(Timestamp::millis))
            .bind(session.address.map(|address| address.to_string()))
            .bind(device)
            .execute(&mut *$tx)
            .await?;
    }};
}

pub(super) use insert;

pub(super) const BY_ID: &str = concat!("SELECT ", session_columns!(), " FROM sessions WHERE realm = $1 AND id = $2");

pub(super) const OF_USER: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM sessions WHERE realm = $1 AND user_id = $2 AND revoked_at IS NULL AND ends_at > $3 \
      ORDER BY id DESC LIMIT $4"
);

impl Store {
    /// Keeps a new session.
    pub async fn start_session(&self, realm: &str, session: &Session) -> Result<(), StoreError> {
        writing!(self, |tx| {
            insert!(tx, realm, session);
            Step::Keep(())
        })
    }

    /// A session, live or ended; `None` once it was purged, too.
    pub async fn session(&self, realm: &str, session: SessionId) -> Result<Option<Session>, StoreError> {
        let found: Option<Stored<Session>> = reading!(self, |conn| {
            Ok(sqlx::query_as(BY_ID).bind(realm).bind(session.to_text()).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// Notes that a session was refreshed. False: it is not live. Nothing cached depends on it: no change.
    pub async fn refresh_session(&self, realm: &str, session: SessionId, now: Timestamp) -> Result<bool, StoreError> {
        // A clock that stepped back does not take activity away.
        const TOUCH: &str = "UPDATE sessions \
            SET last_active_at = CASE WHEN last_active_at > $3 THEN last_active_at ELSE $3 END \
            WHERE realm = $1 AND id = $2 AND revoked_at IS NULL AND ends_at > $3";
        writing!(self, |tx| {
            let touched =
                sqlx::query(TOUCH).bind(realm).bind(session.to_text()).bind(now.millis()).execute(tx).await?;
            if touched.rows_affected() == 1 { Step::Keep(true) } else { Step::Undo(false) }
        })
    }

    /// Ends a session. True if this call did; false if it had ended, expired or never was.
    pub async fn end_session(&self, realm: &str, session: SessionId, now: Timestamp) -> Result<bool, StoreError> {
        const END: &str = "UPDATE sessions SET revoked_at = $3 \
            WHERE realm = $1 AND id = $2 AND revoked_at IS NULL AND ends_at > $3";
        changing!(self, realm, now, |tx| {
            let ended = sqlx::query(END).bind(realm).bind(session.to_text()).bind(now.millis()).execute(tx).await?;
            let ended = ended.rows_affected() == 1;
            (ended, if ended { vec![Changed::Session(session)] } else { vec![] })
        })
    }

    /// Ends every live session of a user but `except`; answers which, newest first.
    pub async fn end_sessions(
        &self,
        realm: &str,
        user: UserId,
        except: Option<SessionId>,
        now: Timestamp,
    ) -> Result<Vec<SessionId>, StoreError> {
        const END: &str = "UPDATE sessions SET revoked_at = $4 \
            WHERE realm = $1 AND user_id = $2 AND id <> $3 AND revoked_at IS NULL AND ends_at > $4 RETURNING id";
        let except = except.map(SessionId::to_text).unwrap_or_default();
        changing!(self, realm, now, |tx| {
            let ids: Vec<String> = sqlx::query_scalar(END)
                .bind(realm)
                .bind(user.to_text())
                .bind(&except)
                .bind(now.millis())
                .fetch_all(tx)
                .await?;
            let mut ended = ids
                .iter()
                .map(|id| SessionId::from_text(id).ok_or_else(|| StoreError::corrupt("an id in sessions")))
                .collect::<Result<Vec<_>, _>>()?;
            ended.sort_unstable_by(|a, b| b.cmp(a));
            let changed = ended.iter().copied().map(Changed::Session).collect();
            (ended, changed)
        })
    }

    /// A user's live sessions, newest first; at most [`Page::MOST`].
    pub async fn sessions(&self, realm: &str, user: UserId, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        let rows: Vec<Stored<Session>> = reading!(self, |conn| {
            Ok(sqlx::query_as(OF_USER)
                .bind(realm)
                .bind(user.to_text())
                .bind(now.millis())
                .bind(i64::from(Page::<SessionId>::MOST))
                .fetch_all(conn)
                .await?)
        })?;
        Ok(rows.into_iter().map(|stored| stored.0).collect())
    }
}

//! Sessions: started at sign-in, kept awake by use, ended once.

use std::sync::Arc;
use std::time::Duration;

use crate::model::change::Changed;
use crate::model::id::{SessionId, UserId};
use crate::model::refresh::RefreshHash;
use crate::model::session::Session;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

use super::passwords::PasswordVersion;
use super::pool::{Step, changing, reading, writing};
use super::rows::{Stored, session_columns};
use super::{Page, Pool, Store, StoreError, changes, pool};

/// A refresh token to be kept with its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRefresh {
    /// Its hash.
    pub hash: RefreshHash,
    /// When it stops working by itself; its session's end may come first.
    pub ends_at: Timestamp,
}

/// On what terms a session starts. By default: on none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The password that was proven: the session starts only while it is the account's.
    pub password: Option<PasswordVersion>,
    /// The refresh token handed out with it.
    pub refresh: Option<NewRefresh>,
    /// How many sessions the user may have, this one included (it always starts): the oldest end.
    pub most: Option<u32>,
    /// Sessions that went unused for so long do not count for `most`: they end, whatever their number.
    pub idle: Option<Duration>,
}

/// What became of a sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// The session is kept; these ended to make room for it, newest first.
    Done(Vec<SessionId>),
    /// The password that was proven is the account's no more: nothing is kept.
    PasswordChanged,
}

pub(super) const ADD: &str = "INSERT INTO sessions (realm, id, user_id, org_id, created_at, last_active_at, ends_at, \
    revoked_at, address, device, refresh_hash, refresh_ends_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

/// Inserts a session, with its refresh token if it has one, in a transaction that is open.
macro_rules! insert {
    ($tx:expr, $realm:expr, $session:expr, $refresh:expr) => {{
        let session: &crate::model::session::Session = $session;
        let refresh: Option<&crate::store::sessions::NewRefresh> = $refresh;
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
            .bind(refresh.map(|refresh| crate::store::rows::hash_to_text(&refresh.hash.0)))
            .bind(refresh.map(|refresh| refresh.ends_at.millis()))
            .execute(&mut *$tx)
            .await?;
    }};
}

/// Ends every live session of a user but one, in a transaction that is open: their ids, newest first.
macro_rules! end_all {
    ($tx:expr, $realm:expr, $user:expr, $except:expr, $now:expr) => {{
        let except: Option<SessionId> = $except;
        let ids: Vec<String> = sqlx::query_scalar(crate::store::sessions::END_ALL)
            .bind($realm)
            .bind($user.to_text())
            .bind(except.map(SessionId::to_text).unwrap_or_default())
            .bind($now.millis())
            .fetch_all(&mut *$tx)
            .await?;
        crate::store::sessions::newest_first(&ids)?
    }};
}

pub(super) use {end_all, insert};

pub(super) const BY_ID: &str = concat!("SELECT ", session_columns!(), " FROM sessions WHERE realm = $1 AND id = $2");

pub(super) const OF_USER: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM sessions WHERE realm = $1 AND user_id = $2 AND revoked_at IS NULL AND ends_at > $3 \
      ORDER BY id DESC LIMIT $4"
);

pub(super) const END_ALL: &str = "UPDATE sessions SET revoked_at = $4 \
    WHERE realm = $1 AND user_id = $2 AND id <> $3 AND revoked_at IS NULL AND ends_at > $4 RETURNING id";

/// Ends a user's sessions but the newest `$5` of those that were used after `$4`.
pub(super) const MAKE_ROOM: &str = "UPDATE sessions SET revoked_at = $3 \
    WHERE realm = $1 AND user_id = $2 AND revoked_at IS NULL AND ends_at > $3 \
    AND id NOT IN (SELECT id FROM sessions WHERE realm = $1 AND user_id = $2 \
    AND revoked_at IS NULL AND ends_at > $3 AND last_active_at > $4 ORDER BY id DESC LIMIT $5) RETURNING id";

/// Sessions whose use one transaction notes: it holds the feed's lock, and revocations wait for that.
pub(super) const TOUCHED_AT_ONCE: usize = 50;

/// The last moment of use at which a session counts as idle at `now`; before all time where none does.
pub(super) fn idle_since(idle: Option<Duration>, now: Timestamp) -> i64 {
    idle.map_or(i64::MIN, |idle| now.minus(idle).millis())
}

pub(super) fn newest_first(ids: &[String]) -> Result<Vec<SessionId>, StoreError> {
    let ids = ids.iter().map(|id| SessionId::from_text(id).ok_or_else(|| StoreError::corrupt("an id in sessions")));
    let mut ids = ids.collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ids)
}

/// Whether the password that was proven is still the account's; if so, it stays so until the transaction's end.
macro_rules! proven {
    ($tx:expr, $realm:expr, $user:expr, $version:expr) => {
        match $version {
            None => true,
            Some(version) => {
                let user = sqlx::query(crate::store::passwords::HOLD)
                    .bind($realm)
                    .bind($user.to_text())
                    .bind(version.number())
                    .execute(&mut *$tx)
                    .await?;
                user.rows_affected() == 1
            }
        }
    };
}

impl Store {
    /// Keeps a new session, on `terms`.
    pub async fn start_session(&self, realm: &str, session: &Session, terms: &Terms) -> Result<Started, StoreError> {
        let (user, now) = (session.user_id, session.created_at);
        let Some(most) = terms.most else {
            // Nobody can have cached what is new, and nothing else changes.
            return writing!(self, StartSession, |tx| {
                if proven!(tx, realm, user, terms.password) {
                    insert!(tx, realm, session, terms.refresh.as_ref());
                    Step::Keep(Started::Done(vec![]))
                } else {
                    Step::Undo(Started::PasswordChanged)
                }
            });
        };
        changing!(self, StartSession, realm, now, |tx| {
            if proven!(tx, realm, user, terms.password) {
                let ids: Vec<String> = sqlx::query_scalar(MAKE_ROOM)
                    .bind(realm)
                    .bind(user.to_text())
                    .bind(now.millis())
                    .bind(idle_since(terms.idle, now))
                    .bind(i64::from(most.saturating_sub(1)))
                    .fetch_all(&mut *tx)
                    .await?;
                insert!(tx, realm, session, terms.refresh.as_ref());
                let ended = newest_first(&ids)?;
                let changed = ended.iter().copied().map(Changed::Session).collect();
                (Started::Done(ended), changed)
            } else {
                (Started::PasswordChanged, vec![])
            }
        })
    }

    /// A session, live or ended; `None` once it was purged, too.
    pub async fn session(&self, realm: &str, session: SessionId) -> Result<Option<Session>, StoreError> {
        let found: Option<Stored<Session>> = reading!(self, Session, |conn| {
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
        writing!(self, RefreshSession, |tx| {
            let touched = sqlx::query(TOUCH).bind(realm).bind(session.to_text()).bind(now.millis()).execute(tx).await?;
            if touched.rows_affected() == 1 { Step::Keep(true) } else { Step::Undo(false) }
        })
    }

    /// Notes when sessions were last used. A time earlier than the one kept, and a session that has ended, are passed
    /// over. Nothing cached depends on it: no change.
    pub async fn touch_sessions(&self, used: &[(Arc<str>, SessionId, Timestamp)]) -> Result<(), StoreError> {
        const TOUCH: &str = "UPDATE sessions SET last_active_at = $3 \
            WHERE realm = $1 AND id = $2 AND last_active_at < $3 AND revoked_at IS NULL AND ends_at > $3";
        for part in used.chunks(TOUCHED_AT_ONCE) {
            let (realm, _, now) = &part[0];
            // What ends several sessions of a user takes their rows in an order of its own: the feed's lock keeps
            // the two from waiting for each other.
            changing!(self, TouchSessions, &**realm, now, |tx| {
                for (realm, session, at) in part {
                    let touch = sqlx::query(TOUCH).bind(&**realm).bind(session.to_text()).bind(at.millis());
                    touch.execute(&mut *tx).await?;
                }
                ((), vec![])
            })?;
        }
        Ok(())
    }

    /// Ends a session. True if this call did; false if it had ended, expired or never was.
    pub async fn end_session(&self, realm: &str, session: SessionId, now: Timestamp) -> Result<bool, StoreError> {
        const END: &str = "UPDATE sessions SET revoked_at = $3 \
            WHERE realm = $1 AND id = $2 AND revoked_at IS NULL AND ends_at > $3";
        changing!(self, EndSession, realm, now, |tx| {
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
        changing!(self, EndSessions, realm, now, |tx| {
            let ended = end_all!(tx, realm, user, except, now);
            let changed = ended.iter().copied().map(Changed::Session).collect();
            (ended, changed)
        })
    }

    /// A user's live sessions, newest first; at most [`Page::MOST`].
    pub async fn sessions(&self, realm: &str, user: UserId, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        let rows: Vec<Stored<Session>> = reading!(self, Sessions, |conn| {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::tests::{Bench, REALM, T0, on_both, session};
    use super::*;

    on_both!(
        a_session_ends_once_and_stays_ended,
        an_expired_session_is_neither_refreshed_nor_ended,
        ending_a_users_sessions_spares_the_excepted_one_and_other_users,
        a_session_that_was_ended_is_not_refreshed_afterwards,
        activity_is_not_taken_away_by_a_clock_that_stepped_back,
        more_sessions_than_fit_one_statement_end_together,
    );

    fn at(secs: u64) -> Timestamp {
        T0.plus(Duration::from_secs(secs))
    }

    async fn a_session_ends_once_and_stays_ended(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let one = session(&ann, T0);
        bench.store.start_session(REALM, &one, &Terms::default()).await.unwrap();
        assert!(!bench.store.end_session("other", one.id, at(1)).await.unwrap());
        assert!(bench.store.session(REALM, one.id).await.unwrap().unwrap().is_live(at(1)));

        assert!(bench.store.end_session(REALM, one.id, at(2)).await.unwrap());
        assert!(!bench.store.end_session(REALM, one.id, at(3)).await.unwrap());
        let ended = bench.store.session(REALM, one.id).await.unwrap().unwrap();
        assert_eq!(ended.revoked_at, Some(at(2)));
        assert!(!bench.store.refresh_session(REALM, one.id, at(3)).await.unwrap());
        assert!(bench.store.sessions(REALM, ann.user.id, at(3)).await.unwrap().is_empty());
    }

    async fn an_expired_session_is_neither_refreshed_nor_ended(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let one = session(&ann, T0);
        bench.store.start_session(REALM, &one, &Terms::default()).await.unwrap();
        let before = one.ends_at.minus(Duration::from_millis(1));
        assert!(bench.store.refresh_session(REALM, one.id, before).await.unwrap());
        assert_eq!(bench.store.sessions(REALM, ann.user.id, before).await.unwrap().len(), 1);
        assert!(!bench.store.refresh_session(REALM, one.id, one.ends_at).await.unwrap());
        assert!(!bench.store.end_session(REALM, one.id, one.ends_at).await.unwrap());
        assert!(bench.store.sessions(REALM, ann.user.id, one.ends_at).await.unwrap().is_empty());
    }

    async fn ending_a_users_sessions_spares_the_excepted_one_and_other_users(bench: Arc<Bench>) {
        let (ann, bob) = (bench.registered("ann").await, bench.registered("bob").await);
        let mine: Vec<_> = (0..4).map(|n| session(&ann, at(n))).collect();
        let theirs = session(&bob, T0);
        for one in mine.iter().chain([&theirs]) {
            bench.store.start_session(REALM, one, &Terms::default()).await.unwrap();
        }
        bench.store.end_session(REALM, mine[0].id, at(9)).await.unwrap();

        let ended = bench.store.end_sessions(REALM, ann.user.id, Some(mine[2].id), at(10)).await.unwrap();
        assert_eq!(ended, [mine[3].id, mine[1].id], "those that were live, newest first");
        let left = bench.store.sessions(REALM, ann.user.id, at(10)).await.unwrap();
        assert_eq!(left, [mine[2].clone()]);
        assert_eq!(bench.store.sessions(REALM, bob.user.id, at(10)).await.unwrap(), [theirs]);
        let all = bench.store.end_sessions(REALM, ann.user.id, None, at(11)).await.unwrap();
        assert_eq!(all, [mine[2].id]);
    }

    async fn a_session_that_was_ended_is_not_refreshed_afterwards(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        for _ in 0..10 {
            let one = session(&ann, T0);
            bench.store.start_session(REALM, &one, &Terms::default()).await.unwrap();
            let (store, id) = (bench.store.clone(), one.id);
            let refreshing = tokio::spawn(async move {
                while store.refresh_session(REALM, id, at(1)).await.unwrap() {}
                store.session(REALM, id).await.unwrap().unwrap().revoked_at
            });
            assert!(bench.store.end_session(REALM, one.id, at(2)).await.unwrap());
            assert!(!bench.store.refresh_session(REALM, one.id, at(1)).await.unwrap());
            assert_eq!(refreshing.await.unwrap(), Some(at(2)), "a refusal means that it has ended");
        }
    }

    async fn activity_is_not_taken_away_by_a_clock_that_stepped_back(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let one = session(&ann, T0);
        bench.store.start_session(REALM, &one, &Terms::default()).await.unwrap();
        for (now, kept) in [(at(9), at(9)), (at(4), at(9)), (at(11), at(11))] {
            assert!(bench.store.refresh_session(REALM, one.id, now).await.unwrap());
            assert_eq!(bench.store.session(REALM, one.id).await.unwrap().unwrap().last_active_at, kept);
        }
    }

    async fn more_sessions_than_fit_one_statement_end_together(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let count = changes::AT_ONCE + 1;
        for _ in 0..count {
            bench.store.start_session(REALM, &session(&ann, T0), &Terms::default()).await.unwrap();
        }
        assert_eq!(bench.store.end_sessions(REALM, ann.user.id, None, at(1)).await.unwrap().len(), count);
        let all = bench.store.changes_since(0, u32::MAX).await.unwrap();
        assert_eq!(all.len(), count);
    }
}

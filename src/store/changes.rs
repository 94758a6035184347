//! The change feed: what other processes must forget, in the order of commits.
//!
//! Numbers start at 1 and none is skipped, so that a follower can tell when it lost some. The feed says that a
//! fact changed, never what it is now: the follower drops what it had cached and asks again.

use std::sync::Arc;

use crate::model::change::{Change, Changed};
use crate::model::id::{KeyId, OrgId, SessionId, UserId};
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

use super::pool::{Step, reading, writing};
use super::{Pool, Store, StoreError, pool};

/// Changes in one statement: each takes five parameters, and SQLite has 32,766.
pub(super) const AT_ONCE: usize = 1000;

/// Rows that one transaction of a purge removes: others get their turn in between.
const BATCH: i64 = 1000;

/// Batches of one purge: a backlog is worked off over several calls.
const BATCHES: usize = 100;

pub(super) const RAISE: &str = "UPDATE feed SET head = head + $1 WHERE id = 1 RETURNING head";

pub(super) const HEAD: &str = "SELECT head FROM feed WHERE id = 1";

/// A range on both sides: numbers have no gaps, and a planner that does not know them still takes the index.
pub(super) const RANGE: &str = "SELECT seq, realm, kind, id FROM changes WHERE seq > $1 AND seq <= $2 ORDER BY seq";

pub(super) const OLDEST: &str = "SELECT seq, at FROM changes ORDER BY seq LIMIT $1";

pub(super) const EXPIRED: &str = "DELETE FROM sessions WHERE (realm, id) IN \
    (SELECT realm, id FROM sessions WHERE ends_at < $1 ORDER BY ends_at LIMIT $2)";

pub(super) const REVOKED: &str = "DELETE FROM sessions WHERE (realm, id) IN \
    (SELECT realm, id FROM sessions WHERE revoked_at IS NOT NULL AND revoked_at < $1 ORDER BY revoked_at LIMIT $2)";

/// Appends changes in a transaction that is open and holds the feed's lock.
macro_rules! append {
    ($db:ident, $tx:expr, $realm:expr, $changed:expr, $now:expr) => {{
        let (tx, changed): (_, &[Changed]) = ($tx, $changed);
        let count = i64::try_from(changed.len()).expect("a list in memory is shorter than that");
        let head: i64 = sqlx::query_scalar(changes::RAISE).bind(count).fetch_one(&mut *tx).await?;
        let numbered: Vec<(i64, &Changed)> = (head - count + 1..).zip(changed).collect();
        for part in numbered.chunks(changes::AT_ONCE) {
            let mut insert = sqlx::QueryBuilder::<sqlx::$db>::new("INSERT INTO changes (seq, realm, kind, id, at) ");
            insert.push_values(part, |mut row, (seq, changed)| {
                let (kind, id) = changes::to_columns(**changed);
                row.push_bind(*seq).push_bind($realm).push_bind(kind).push_bind(id).push_bind($now.millis());
            });
            // One change is what nearly all writes have: that statement is worth keeping prepared.
            insert.build().persistent(part.len() == 1).execute(&mut *tx).await?;
        }
    }};
}

pub(super) use append;

pub(super) const CODES: &str = "DELETE FROM codes WHERE (realm, user_id, kind) IN \
    (SELECT realm, user_id, kind FROM codes WHERE ends_at < $1 ORDER BY ends_at LIMIT $2)";

pub(super) const MAILS: &str = "DELETE FROM mails WHERE (realm, id) IN \
    (SELECT realm, id FROM mails WHERE done_at IS NOT NULL AND done_at < $1 ORDER BY done_at LIMIT $2)";

/// What a purge removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Purged {
    /// Changes that every follower has long seen.
    pub changes: u64,
    /// Sessions that ended long ago.
    pub sessions: u64,
    /// Codes that ended long ago without being used.
    pub codes: u64,
    /// Mails that were sent, or given up, long ago.
    pub mails: u64,
}

impl Store {
    /// The newest change's number; 0 before the first.
    pub async fn change_head(&self) -> Result<i64, StoreError> {
        reading!(self, Changes, |conn| Ok(sqlx::query_scalar(HEAD).fetch_one(conn).await?))
    }

    /// The changes after number `seq`, at most `limit`, in the order of their commits and without a gap: the
    /// first is `seq + 1`. [`StoreError::FeedBroken`] when they are no longer (or never were) there.
    pub async fn changes_since(&self, seq: i64, limit: u32) -> Result<Vec<(i64, Change)>, StoreError> {
        let last = seq.saturating_add(i64::from(limit.max(1)));
        let (head, rows): (i64, Vec<(i64, String, String, String)>) = reading!(self, Changes, |conn| {
            let head = sqlx::query_scalar(HEAD).fetch_one(&mut *conn).await?;
            // Nearly every question ends here: nothing new.
            let rows = if head == seq {
                Vec::new()
            } else {
                sqlx::query_as(RANGE).bind(seq).bind(last).fetch_all(&mut *conn).await?
            };
            Ok((head, rows))
        })?;
        // The head only grows: what it counted is still to be seen, unless it was purged.
        if head != seq && rows.first().is_none_or(|row| row.0 != seq + 1) {
            return Err(StoreError::FeedBroken { since: seq, head });
        }
        rows.into_iter()
            .map(|(seq, realm, kind, id)| {
                let changed = from_columns(&kind, &id)
                    .ok_or_else(|| StoreError::corrupt(format!("change {seq} is of no known kind")))?;
                Ok((seq, Change { realm: Arc::from(realm), changed }))
            })
            .collect()
    }

    /// Removes changes made, sessions and codes ended, and mails settled before `before`. Works in short
    /// transactions, and may leave a rest to the next call.
    pub async fn purge(&self, before: Timestamp) -> Result<Purged, StoreError> {
        let mut purged = Purged::default();
        for _ in 0..BATCHES {
            let batch = Purged {
                changes: self.purge_changes(before).await?,
                sessions: self.purge_rows(&[EXPIRED, REVOKED], before).await?,
                codes: self.purge_rows(&[CODES], before).await?,
                mails: self.purge_rows(&[MAILS], before).await?,
            };
            purged.changes += batch.changes;
            purged.sessions += batch.sessions;
            purged.codes += batch.codes;
            purged.mails += batch.mails;
            if batch == Purged::default() {
                break;
            }
        }
        Ok(purged)
    }

    /// Only from the feed's start up to the first change that stays, whatever times clocks gave: the rest has no gap.
    async fn purge_changes(&self, before: Timestamp) -> Result<u64, StoreError> {
        writing!(self, Purge, |tx| {
            let oldest: Vec<(i64, i64)> = sqlx::query_as(OLDEST).bind(BATCH).fetch_all(&mut *tx).await?;
            match oldest.iter().take_while(|(_, at)| *at < before.millis()).last() {
                None => Step::Undo(0),
                Some((last, _)) => {
                    let gone = sqlx::query("DELETE FROM changes WHERE seq <= $1").bind(*last).execute(&mut *tx).await?;
                    Step::Keep(gone.rows_affected())
                }
            }
        })
    }

    async fn purge_rows(&self, statements: &[&'static str], before: Timestamp) -> Result<u64, StoreError> {
        writing!(self, Purge, |tx| {
            let mut gone = 0;
            for sql in statements {
                gone += sqlx::query(*sql).bind(before.millis()).bind(BATCH).execute(&mut *tx).await?.rows_affected();
            }
            Step::Keep(gone)
        })
    }
}

pub(super) fn to_columns(changed: Changed) -> (&'static str, String) {
    match changed {
        Changed::User(id) => ("user", id.to_text()),
        Changed::Org(id) => ("org", id.to_text()),
        Changed::Key(id) => ("key", id.to_text()),
        Changed::Session(id) => ("session", id.to_text()),
    }
}

fn from_columns(kind: &str, id: &str) -> Option<Changed> {
    match kind {
        "user" => UserId::from_text(id).map(Changed::User),
        "org" => OrgId::from_text(id).map(Changed::Org),
        "key" => KeyId::from_text(id).map(Changed::Key),
        "session" => SessionId::from_text(id).map(Changed::Session),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::super::tests::{Bench, REALM, T0, account, key, on_both, session};
    use super::super::{Revoked, Rotated, Terms};
    use super::*;
    use crate::model::secret::Secret;

    on_both!(
        what_may_be_cached_is_announced_and_nothing_else,
        a_follower_sees_every_change_of_eight_writers_once_in_commit_order,
        a_follower_that_lost_changes_is_told,
        a_purge_removes_what_is_over_and_nothing_live,
    );

    async fn what_may_be_cached_is_announced_and_nothing_else(bench: Arc<Bench>) {
        let store = &bench.store;
        let mut ann = account("ann");
        ann.session = Some(session(&ann, T0));
        store.register(REALM, &ann).await.unwrap();
        let one = session(&ann, T0);
        store.start_session(REALM, &one, &Terms::default()).await.unwrap();
        store.refresh_session(REALM, one.id, T0).await.unwrap();
        let ((old, hash), (next, next_hash)) = (key(&ann, T0), key(&ann, T0));
        store.create_key(REALM, &old, &hash, 9).await.unwrap();
        assert_eq!(store.change_head().await.unwrap(), 0, "nobody can have cached what is new");

        let (user, org) = (ann.user.id, ann.org.id);
        let later = T0.plus(Duration::from_secs(1));
        assert!(store.set_role(REALM, user, "viewer", later).await.unwrap());
        assert!(store.set_plan(REALM, org, "pro", later).await.unwrap());
        assert!(store.set_limits(REALM, org, Some(&["5/1m".parse().unwrap()]), later).await.unwrap());
        assert!(store.set_user_disabled(REALM, user, true, later).await.unwrap());
        assert!(store.set_org_disabled(REALM, org, true, later).await.unwrap());
        let account = store.account(REALM, user).await.unwrap().unwrap();
        assert_eq!((account.user.role.as_str(), account.user.disabled), ("viewer", true));
        assert_eq!((account.org.plan.as_str(), account.org.disabled), ("pro", true));
        assert_eq!(account.org.limits, Some(vec!["5/1m".parse().unwrap()]));
        assert_eq!(store.organization(REALM, org).await.unwrap(), Some(account.org));
        assert!(store.set_limits(REALM, org, None, later).await.unwrap());
        assert_eq!(store.organization(REALM, org).await.unwrap().unwrap().limits, None);
        assert!(
            store.set_password_hash(REALM, user, &ann.password_hash, &Secret::new("$x".into()), later).await.unwrap()
        );
        let rotated = store.rotate_key(REALM, org, old.id, &next, &next_hash, later, T0).await.unwrap();
        assert_eq!(rotated, Rotated::Done);
        assert!(matches!(store.revoke_key(REALM, org, next.id, later).await.unwrap(), Revoked::Done(_)));
        assert!(store.end_session(REALM, one.id, later).await.unwrap());
        assert_eq!(store.end_sessions(REALM, user, None, later).await.unwrap(), [ann.session.as_ref().unwrap().id]);

        // None of these finds anything to change.
        assert!(!store.set_role("other", user, "admin", later).await.unwrap());
        assert!(!store.set_plan("other", org, "pro", later).await.unwrap());
        assert!(!store.set_limits("other", org, None, later).await.unwrap());
        assert!(!store.set_user_disabled("other", user, false, later).await.unwrap());
        assert!(!store.set_org_disabled("other", org, false, later).await.unwrap());

        let all = store.changes_since(0, 100).await.unwrap();
        let changed: Vec<Changed> = all.iter().map(|(_, change)| change.changed).collect();
        assert_eq!(
            changed,
            [
                Changed::User(user),
                Changed::Org(org),
                Changed::Org(org),
                Changed::User(user),
                Changed::Org(org),
                Changed::Org(org),
                Changed::User(user),
                Changed::Key(old.id),
                Changed::Key(next.id),
                Changed::Session(one.id),
                Changed::Session(ann.session.as_ref().unwrap().id),
            ]
        );
        assert!(all.iter().all(|(_, change)| &*change.realm == REALM));
        assert_eq!(store.changes_since(3, 2).await.unwrap(), all[3..5]);
    }

    async fn a_follower_sees_every_change_of_eight_writers_once_in_commit_order(bench: Arc<Bench>) {
        const EACH: usize = 25;
        let ann = bench.registered("ann").await;
        let elsewhere = bench.elsewhere().await;
        let mut writers = Vec::new();
        for writer in 0..8 {
            let store = if writer % 2 == 0 { bench.store.clone() } else { elsewhere.clone() };
            let sessions: Vec<_> = (0..EACH).map(|_| session(&ann, T0)).collect();
            for one in &sessions {
                store.start_session(REALM, one, &Terms::default()).await.unwrap();
            }
            writers.push(tokio::spawn(async move {
                for one in &sessions {
                    assert!(store.end_session(REALM, one.id, T0).await.unwrap());
                }
                sessions.into_iter().map(|one| one.id).collect::<Vec<_>>()
            }));
        }

        let (mut seq, mut order) = (0, Vec::new());
        while order.len() < 8 * EACH {
            for (next, change) in bench.store.changes_since(seq, 7).await.unwrap() {
                assert_eq!(next, seq + 1, "no gap, no repetition");
                seq = next;
                let Changed::Session(id) = change.changed else { panic!("{change:?}") };
                // Whoever acts on a change must find it done: asked now, the store no longer says "live".
                let now = bench.store.session(REALM, id).await.unwrap().unwrap();
                assert!(now.revoked_at.is_some(), "a change is seen only after its commit");
                order.push(id);
            }
        }
        for writer in writers {
            let mine = writer.await.unwrap();
            let seen: Vec<_> = order.iter().filter(|id| mine.contains(id)).copied().collect();
            assert_eq!(seen, mine, "one writer's commits keep their order");
        }
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), 8 * EACH);
        assert_eq!(bench.store.changes_since(seq, 7).await.unwrap(), []);
        assert_eq!(bench.store.change_head().await.unwrap(), seq);
        elsewhere.close().await;
    }

    async fn a_follower_that_lost_changes_is_told(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        for n in 0..5 {
            bench.store.set_plan(REALM, ann.org.id, "pro", T0.plus(Duration::from_secs(n))).await.unwrap();
        }
        bench.store.purge(T0.plus(Duration::from_secs(2))).await.unwrap();
        assert_eq!(bench.store.changes_since(2, 9).await.unwrap().len(), 3);
        for lost in [0, 1] {
            let told = bench.store.changes_since(lost, 9).await;
            assert!(matches!(told, Err(StoreError::FeedBroken { since, head: 5 }) if since == lost));
        }
        // A number from the future: the database was put back from a backup.
        assert!(matches!(bench.store.changes_since(6, 9).await, Err(StoreError::FeedBroken { .. })));
        bench.store.purge(T0.plus(Duration::from_secs(99))).await.unwrap();
        assert_eq!(bench.store.changes_since(5, 9).await.unwrap(), []);
        assert!(matches!(bench.store.changes_since(4, 9).await, Err(StoreError::FeedBroken { .. })));
    }

    async fn a_purge_removes_what_is_over_and_nothing_live(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let at = |secs| T0.plus(Duration::from_secs(secs));
        let (live, mut expired, revoked) = (session(&ann, T0), session(&ann, T0), session(&ann, T0));
        expired.ends_at = at(5);
        for one in [&live, &expired, &revoked] {
            bench.store.start_session(REALM, one, &Terms::default()).await.unwrap();
        }
        bench.store.end_session(REALM, revoked.id, at(6)).await.unwrap();
        // A change that a clock running ahead dated before others: the rest of the feed must have no gap.
        bench.store.set_plan(REALM, ann.org.id, "pro", at(50)).await.unwrap();
        bench.store.set_plan(REALM, ann.org.id, "free", at(7)).await.unwrap();

        assert_eq!(bench.store.purge(at(5)).await.unwrap(), Purged::default());
        assert_eq!(bench.store.purge(at(20)).await.unwrap(), Purged { changes: 1, sessions: 2, ..Purged::default() });
        assert!(bench.store.session(REALM, live.id).await.unwrap().is_some());
        assert!(bench.store.session(REALM, expired.id).await.unwrap().is_none());
        assert!(bench.store.session(REALM, revoked.id).await.unwrap().is_none());
        assert_eq!(bench.store.changes_since(1, 9).await.unwrap().len(), 2);
    }
}

//! API keys: kept by hash, rotated with overlap, revoked for good.

use std::sync::Arc;

use crate::model::api_key::{ApiKey, KeyHash};
use crate::model::change::Changed;
use crate::model::id::{KeyId, OrgId};
use crate::model::time::Timestamp;

use super::error::storable;
use super::pool::{Step, changing, reading, writing};
use super::rows::{Stored, hash_to_text, key_columns, permissions_to_text};
use super::{AFTER_ALL_IDS, Page, Pool, Store, StoreError, changes, pool};

/// What became of a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is kept.
    Done,
    /// The organization has as many live keys as it may.
    TooMany,
}

/// What became of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The successor is kept, the old key's end is set.
    Done,
    /// The organization has no such key.
    Unknown,
    /// The key has ended or was replaced before.
    NotLive,
}

/// What became of a revocation.
#[expect(clippy::large_enum_variant, reason = "returned once and taken apart at once: a box would cost more")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The key is revoked, by this call or an earlier one; the record as it is now.
    Done(ApiKey),
    /// The organization has no such key.
    Unknown,
}

const ADD: &str = "INSERT INTO api_keys (realm, id, org_id, user_id, hash, name, description, permissions, \
    attributes, created_at, expires_at, revoked_at, last_used_at, replaced_by) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

macro_rules! insert {
    ($tx:expr, $realm:expr, $key:expr, $hash:expr) => {
        sqlx::query(ADD)
            .bind($realm)
            .bind($key.id.to_text())
            .bind($key.org_id.to_text())
            .bind($key.user_id.to_text())
            .bind(hash_to_text($hash))
            .bind(&$key.name)
            .bind(&$key.description)
            .bind(permissions_to_text(&$key.permissions))
            .bind(serde_json::json!($key.attributes).to_string())
            .bind($key.created_at.millis())
            .bind($key.expires_at.map(Timestamp::millis))
            .bind($key.revoked_at.map(Timestamp::millis))
            .bind($key.last_used_at.map(Timestamp::millis))
            .bind($key.replaced_by.map(KeyId::to_text))
            .execute(&mut *$tx)
            .await?
    };
}

pub(super) const BY_HASH: &str = concat!("SELECT ", key_columns!(), " FROM api_keys WHERE realm = $1 AND hash = $2");

pub(super) const BY_ID: &str =
    concat!("SELECT ", key_columns!(), " FROM api_keys WHERE realm = $1 AND id = $2 AND org_id = $3");

pub(super) const OF_ORG: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys WHERE realm = $1 AND org_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4"
);

/// Counts no further than it must, and never meets the keys that were revoked: an organization that rotates every
/// day gathers many. Unrevoked ones and those with a scheduled end are two ranges of one index.
pub(super) const LIVE_UP_TO: &str = "SELECT COUNT(*) FROM (\
    SELECT 1 FROM api_keys WHERE realm = $1 AND org_id = $2 AND revoked_at IS NULL \
    AND (expires_at IS NULL OR expires_at > $3) \
    UNION ALL SELECT 1 FROM api_keys WHERE realm = $1 AND org_id = $2 AND revoked_at > $3 \
    AND (expires_at IS NULL OR expires_at > $3) LIMIT $4) live";

impl Store {
    /// Keeps a new key, unless its organization has `cap` live ones already.
    pub async fn create_key(&self, realm: &str, key: &ApiKey, hash: &KeyHash, cap: u32) -> Result<Created, StoreError> {
        // The organization's row is the lock that keeps two creations from both seeing the last free place.
        const LOCK: &str = "UPDATE orgs SET updated_at = updated_at WHERE realm = $1 AND id = $2";
        check(key)?;
        writing!(self, |tx| {
            sqlx::query(LOCK).bind(realm).bind(key.org_id.to_text()).execute(&mut *tx).await?;
            let live: i64 = sqlx::query_scalar(LIVE_UP_TO)
                .bind(realm)
                .bind(key.org_id.to_text())
                .bind(key.created_at.millis())
                .bind(i64::from(cap))
                .fetch_one(&mut *tx)
                .await?;
            if live >= i64::from(cap) {
                Step::Undo(Created::TooMany)
            } else {
                insert!(tx, realm, key, hash);
                Step::Keep(Created::Done)
            }
        })
    }

    /// The key whose text has this hash, live or not.
    pub async fn key_by_hash(&self, realm: &str, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        let found: Option<Stored<ApiKey>> = reading!(self, |conn| {
            Ok(sqlx::query_as(BY_HASH).bind(realm).bind(hash_to_text(hash)).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// One key of an organization, live or not.
    pub async fn key(&self, realm: &str, org: OrgId, key: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let found: Option<Stored<ApiKey>> = reading!(self, |conn| {
            Ok(sqlx::query_as(BY_ID).bind(realm).bind(key.to_text()).bind(org.to_text()).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// An organization's keys, live or not, newest first.
    pub async fn keys(&self, realm: &str, org: OrgId, page: Page<KeyId>) -> Result<Vec<ApiKey>, StoreError> {
        let after = page.after.map_or(AFTER_ALL_IDS.to_owned(), KeyId::to_text);
        let rows: Vec<Stored<ApiKey>> = reading!(self, |conn| {
            Ok(sqlx::query_as(OF_ORG)
                .bind(realm)
                .bind(org.to_text())
                .bind(&after)
                .bind(page.rows())
                .fetch_all(conn)
                .await?)
        })?;
        Ok(rows.into_iter().map(|stored| stored.0).collect())
    }

    /// Replaces a live key that was not replaced before: keeps `successor`, and ends the old one at
    /// `old_ends_at` or when it would have ended anyway, whichever is first.
    #[expect(
        clippy::too_many_arguments,
        reason = "two keys and two times: a struct would name them once more, no clearer"
    )]
    pub async fn rotate_key(
        &self,
        realm: &str,
        org: OrgId,
        old: KeyId,
        successor: &ApiKey,
        hash: &KeyHash,
        old_ends_at: Timestamp,
        now: Timestamp,
    ) -> Result<Rotated, StoreError> {
        const REPLACE: &str = "UPDATE api_keys SET replaced_by = $4, \
            revoked_at = CASE WHEN revoked_at < $5 THEN revoked_at ELSE $5 END \
            WHERE realm = $1 AND id = $2 AND org_id = $3 AND replaced_by IS NULL \
            AND (revoked_at IS NULL OR revoked_at > $6) AND (expires_at IS NULL OR expires_at > $6)";
        check(successor)?;
        changing!(self, realm, now, |tx| {
            let replaced = sqlx::query(REPLACE)
                .bind(realm)
                .bind(old.to_text())
                .bind(org.to_text())
                .bind(successor.id.to_text())
                .bind(old_ends_at.millis())
                .bind(now.millis())
                .execute(&mut *tx)
                .await?;
            if replaced.rows_affected() == 1 {
                insert!(tx, realm, successor, hash);
                (Rotated::Done, vec![Changed::Key(old)])
            } else {
                let known: Option<Stored<ApiKey>> = sqlx::query_as(BY_ID)
                    .bind(realm)
                    .bind(old.to_text())
                    .bind(org.to_text())
                    .fetch_optional(&mut *tx)
                    .await?;
                (known.map_or(Rotated::Unknown, |_| Rotated::NotLive), vec![])
            }
        })
    }

    /// Revokes a key as of `now`. An earlier revocation keeps its time; a later, scheduled one (the end of a
    /// rotation's overlap) is brought forward.
    pub async fn revoke_key(&self, realm: &str, org: OrgId, key: KeyId, now: Timestamp) -> Result<Revoked, StoreError> {
        const REVOKE: &str = concat!(
            "UPDATE api_keys SET revoked_at = $4 WHERE realm = $1 AND id = $2 AND org_id = $3 \
              AND (revoked_at IS NULL OR revoked_at > $4) RETURNING ",
            key_columns!()
        );
        changing!(self, realm, now, |tx| {
            let revoked: Option<Stored<ApiKey>> = sqlx::query_as(REVOKE)
                .bind(realm)
                .bind(key.to_text())
                .bind(org.to_text())
                .bind(now.millis())
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(Stored(record)) = revoked {
                (Revoked::Done(record), vec![Changed::Key(key)])
            } else {
                let before: Option<Stored<ApiKey>> = sqlx::query_as(BY_ID)
                    .bind(realm)
                    .bind(key.to_text())
                    .bind(org.to_text())
                    .fetch_optional(&mut *tx)
                    .await?;
                (before.map_or(Revoked::Unknown, |Stored(record)| Revoked::Done(record)), vec![])
            }
        })
    }

    /// Notes when keys were last used. A time earlier than the one kept, and a key that is gone, are passed over.
    /// Nothing cached depends on it: no change.
    pub async fn touch_keys(&self, used: &[(Arc<str>, KeyId, Timestamp)]) -> Result<(), StoreError> {
        const TOUCH: &str = "UPDATE api_keys SET last_used_at = $3 \
            WHERE realm = $1 AND id = $2 AND (last_used_at IS NULL OR last_used_at < $3)";
        // In one order, so that two nodes which note the same keys do not wait for each other's rows; in parts,
        // so that SQLite's writer is free in between.
        let mut used: Vec<_> = used.iter().collect();
        used.sort_unstable();
        for part in used.chunks(200) {
            writing!(self, |tx| {
                for (realm, key, at) in part {
                    sqlx::query(TOUCH).bind(&**realm).bind(key.to_text()).bind(at.millis()).execute(&mut *tx).await?;
                }
                Step::Keep(())
            })?;
        }
        Ok(())
    }
}

fn check(key: &ApiKey) -> Result<(), StoreError> {
    storable("name", &key.name)?;
    storable("description", key.description.as_deref().unwrap_or_default())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{Bench, REALM, T0, key, on_both};
    use super::*;

    on_both!(
        a_key_is_found_by_its_hash_in_its_realm_alone_and_by_id_in_its_organization_alone,
        the_cap_holds_against_twenty_at_once_and_counts_live_keys_only,
        a_rotated_key_ends_with_the_overlap_or_by_itself_whichever_is_first,
        of_ten_rotations_at_once_exactly_one_makes_a_successor,
        a_key_cannot_be_rotated_once_its_revocation_was_acknowledged,
        a_revocation_keeps_its_first_time_and_overtakes_a_scheduled_end,
        last_use_moves_forward_only_and_announces_nothing,
        pages_show_every_key_once,
    );

    fn at(secs: u64) -> Timestamp {
        T0.plus(Duration::from_secs(secs))
    }

    async fn a_key_is_found_by_its_hash_in_its_realm_alone_and_by_id_in_its_organization_alone(bench: Arc<Bench>) {
        let (ann, bob) = (bench.registered("ann").await, bench.registered("bob").await);
        let (mut one, hash) = key(&ann, T0);
        one.description = Some("for the ☃ job".into());
        one.expires_at = Some(at(99));
        assert_eq!(bench.store.create_key(REALM, &one, &hash, 1).await.unwrap(), Created::Done);
        assert_eq!(bench.store.key_by_hash(REALM, &hash).await.unwrap(), Some(one.clone()));
        assert_eq!(bench.store.key_by_hash("other", &hash).await.unwrap(), None);
        assert_eq!(bench.store.key_by_hash(REALM, &KeyHash([7; 32])).await.unwrap(), None);
        assert_eq!(bench.store.key(REALM, ann.org.id, one.id).await.unwrap(), Some(one.clone()));
        assert_eq!(bench.store.key(REALM, bob.org.id, one.id).await.unwrap(), None);
        assert_eq!(bench.store.revoke_key(REALM, bob.org.id, one.id, at(1)).await.unwrap(), Revoked::Unknown);
        assert_eq!(bench.store.keys(REALM, bob.org.id, Page::first(9)).await.unwrap(), []);
        one.name = "a\0".into();
        let refused = bench.store.create_key(REALM, &one, &KeyHash([8; 32]), 9).await;
        assert!(matches!(refused, Err(StoreError::Unstorable { what: "name" })));
    }

    async fn the_cap_holds_against_twenty_at_once_and_counts_live_keys_only(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        // Two that are over, and one in the overlap of a rotation, which still opens doors.
        for (expires_at, revoked_at) in [(Some(T0), None), (None, Some(T0)), (None, Some(at(1)))] {
            let (mut one, hash) = key(&ann, T0);
            (one.expires_at, one.revoked_at) = (expires_at, revoked_at);
            assert_eq!(bench.store.create_key(REALM, &one, &hash, 5).await.unwrap(), Created::Done);
        }
        let all: Vec<_> = (0..20)
            .map(|_| {
                let (store, (one, hash)) = (bench.store.clone(), key(&ann, T0));
                tokio::spawn(async move { (store.create_key(REALM, &one, &hash, 5).await.unwrap(), one.id) })
            })
            .collect();
        let mut made = Vec::new();
        for one in all {
            if let (Created::Done, id) = one.await.unwrap() {
                made.push(id);
            }
        }
        assert_eq!(made.len(), 4);
        bench.store.revoke_key(REALM, ann.org.id, made[0], at(1)).await.unwrap();
        for _ in 0..2 {
            let (next, hash) = key(&ann, at(2));
            assert_eq!(bench.store.create_key(REALM, &next, &hash, 5).await.unwrap(), Created::Done);
        }
        let (last, hash) = key(&ann, at(2));
        assert_eq!(bench.store.create_key(REALM, &last, &hash, 5).await.unwrap(), Created::TooMany);
    }

    async fn a_rotated_key_ends_with_the_overlap_or_by_itself_whichever_is_first(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let org = ann.org.id;
        for (own_end, kept) in [(None, at(60)), (Some(at(30)), at(30))] {
            let (mut old, hash) = key(&ann, T0);
            old.revoked_at = own_end;
            bench.store.create_key(REALM, &old, &hash, 9).await.unwrap();
            let (next, next_hash) = key(&ann, at(1));
            let rotate = |key, hash| bench.store.rotate_key(REALM, org, old.id, key, hash, at(60), at(1));
            assert_eq!(rotate(&next, &next_hash).await.unwrap(), Rotated::Done);
            let now = bench.store.key(REALM, org, old.id).await.unwrap().unwrap();
            assert_eq!((now.revoked_at, now.replaced_by), (Some(kept), Some(next.id)));
            assert!(now.is_live(at(29)) && !now.is_live(kept));
            assert_eq!(bench.store.key_by_hash(REALM, &next_hash).await.unwrap(), Some(next.clone()));

            let (again, again_hash) = key(&ann, at(2));
            assert_eq!(rotate(&again, &again_hash).await.unwrap(), Rotated::NotLive, "replaced already");
            assert_eq!(bench.store.key_by_hash(REALM, &again_hash).await.unwrap(), None);
        }
        let (mut expired, hash) = key(&ann, T0);
        expired.expires_at = Some(at(5));
        bench.store.create_key(REALM, &expired, &hash, 99).await.unwrap();
        let (next, next_hash) = key(&ann, at(5));
        let rotate = |org, old| bench.store.rotate_key(REALM, org, old, &next, &next_hash, at(60), at(5));
        assert_eq!(rotate(org, expired.id).await.unwrap(), Rotated::NotLive);
        assert_eq!(rotate(org, next.id).await.unwrap(), Rotated::Unknown);
        let bob = bench.registered("bob").await;
        assert_eq!(rotate(bob.org.id, expired.id).await.unwrap(), Rotated::Unknown);
    }

    async fn of_ten_rotations_at_once_exactly_one_makes_a_successor(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let (old, hash) = key(&ann, T0);
        bench.store.create_key(REALM, &old, &hash, 9).await.unwrap();
        let all: Vec<_> = (0..10)
            .map(|_| {
                let (store, (next, hash)) = (bench.store.clone(), key(&ann, at(1)));
                let (org, old) = (ann.org.id, old.id);
                tokio::spawn(
                    async move { store.rotate_key(REALM, org, old, &next, &hash, at(60), at(1)).await.unwrap() },
                )
            })
            .collect();
        let mut done = 0;
        for one in all {
            match one.await.unwrap() {
                Rotated::Done => done += 1,
                other => assert_eq!(other, Rotated::NotLive),
            }
        }
        assert_eq!(done, 1);
        assert_eq!(bench.store.keys(REALM, ann.org.id, Page::first(99)).await.unwrap().len(), 2);
    }

    async fn a_key_cannot_be_rotated_once_its_revocation_was_acknowledged(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let org = ann.org.id;
        for _ in 0..20 {
            let (old, hash) = key(&ann, T0);
            bench.store.create_key(REALM, &old, &hash, 1000).await.unwrap();
            let (store, (next, next_hash), id) = (bench.store.clone(), key(&ann, at(1)), old.id);
            let rotating = tokio::spawn(async move {
                store.rotate_key(REALM, org, id, &next, &next_hash, at(60), at(1)).await.unwrap()
            });
            let Revoked::Done(record) = bench.store.revoke_key(REALM, org, id, at(1)).await.unwrap() else {
                panic!("the key is there")
            };
            assert_eq!(record.revoked_at, Some(at(1)), "not when the overlap would have ended");
            let rotated = rotating.await.unwrap();
            let now = bench.store.key(REALM, org, id).await.unwrap().unwrap();
            assert_eq!(now.revoked_at, Some(at(1)), "whichever came first");
            // Either the rotation came first, and the record shows it, or it was refused and made nothing.
            assert_eq!(rotated == Rotated::Done, now.replaced_by.is_some());
            assert_eq!(record.replaced_by, now.replaced_by);
        }
    }

    async fn a_revocation_keeps_its_first_time_and_overtakes_a_scheduled_end(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let (mut one, hash) = key(&ann, T0);
        one.revoked_at = Some(at(60));
        bench.store.create_key(REALM, &one, &hash, 9).await.unwrap();
        for (now, kept) in [(at(70), at(60)), (at(20), at(20)), (at(30), at(20))] {
            let revoked = bench.store.revoke_key(REALM, ann.org.id, one.id, now).await.unwrap();
            one.revoked_at = Some(kept);
            assert_eq!(revoked, Revoked::Done(one.clone()));
        }
        let all = bench.store.changes_since(0, 9).await.unwrap();
        assert_eq!(all.len(), 1, "only what changed is announced");
        assert_eq!(all[0].1.changed, Changed::Key(one.id));
    }

    async fn last_use_moves_forward_only_and_announces_nothing(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let mut made = Vec::new();
        for _ in 0..450 {
            let (one, hash) = key(&ann, T0);
            bench.store.create_key(REALM, &one, &hash, 1000).await.unwrap();
            made.push(one.id);
        }
        let realm: Arc<str> = REALM.into();
        let used = |secs| made.iter().map(|id| (realm.clone(), *id, at(secs))).collect::<Vec<_>>();
        for (secs, kept) in [(60, 60), (30, 60), (90, 90)] {
            bench.store.touch_keys(&used(secs)).await.unwrap();
            let now = bench.store.keys(REALM, ann.org.id, Page::first(1000)).await.unwrap();
            assert!(now.len() == 450 && now.iter().all(|key| key.last_used_at == Some(at(kept))));
        }
        let gone = (realm.clone(), KeyId::from(ann.user.id.uuid()), T0);
        let elsewhere = ("other".into(), made[0], at(500));
        bench.store.touch_keys(&[gone, elsewhere]).await.unwrap();
        let first = bench.store.key(REALM, ann.org.id, made[0]).await.unwrap().unwrap();
        assert_eq!(first.last_used_at, Some(at(90)));
        assert_eq!(bench.store.change_head().await.unwrap(), 0);
    }

    async fn pages_show_every_key_once(bench: Arc<Bench>) {
        let ann = bench.registered("ann").await;
        let mut made = Vec::new();
        for n in 0..7 {
            let (one, hash) = key(&ann, at(n));
            bench.store.create_key(REALM, &one, &hash, 9).await.unwrap();
            made.insert(0, one.id);
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = bench.store.keys(REALM, ann.org.id, Page { after, limit: 3 }).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            seen.extend(page.iter().map(|key| key.id));
        }
        assert_eq!(seen, made, "newest first");
    }
}

//! API keys: kept by hash, rotated with overlap, revoked for good.

use std::sync::Arc;

use crate::model::api_key::{ApiKey, KeyHash};
use crate::model::change::Changed;
use crate::model::id::{KeyId, OrgId};
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

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
            .bind(hash_to_text(&$hash.0))
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

/// A page of those that are live at `$4`. The dead ones of a page's stretch are passed over, never counted.
pub(super) const LIVE_OF_ORG: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys WHERE realm = $1 AND org_id = $2 AND id < $3 AND (revoked_at IS NULL OR revoked_at > $4) \
      AND (expires_at IS NULL OR expires_at > $4) ORDER BY id DESC LIMIT $5"
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
        writing!(self, CreateKey, |tx| {
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
        let found: Option<Stored<ApiKey>> = reading!(self, KeyByHash, |conn| {
            Ok(sqlx::query_as(BY_HASH).bind(realm).bind(hash_to_text(&hash.0)).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// One key of an organization, live or not.
    pub async fn key(&self, realm: &str, org: OrgId, key: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let found: Option<Stored<ApiKey>> = reading!(self, Key, |conn| {
            Ok(sqlx::query_as(BY_ID).bind(realm).bind(key.to_text()).bind(org.to_text()).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// An organization's keys, live or not, newest first.
    pub async fn keys(&self, realm: &str, org: OrgId, page: Page<KeyId>) -> Result<Vec<ApiKey>, StoreError> {
        let after = page.after.map_or(AFTER_ALL_IDS.to_owned(), KeyId::to_text);
        let rows: Vec<Stored<ApiKey>> = reading!(self, Keys, |conn| {
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

    /// An organization's keys that are live at `now`, newest first.
    pub async fn live_keys(
        &self,
        realm: &str,
        org: OrgId,
        page: Page<KeyId>,
        now: Timestamp,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let after = page.after.map_or(AFTER_ALL_IDS.to_owned(), KeyId::to_text);
        let rows: Vec<Stored<ApiKey>> = reading!(self, Keys, |conn| {
            Ok(sqlx::query_as(LIVE_OF_ORG)
                .bind(realm)
                .bind(org.to_text())
                .bind(&after)
                .bind(now.millis())
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
        changing!(self, RotateKey, realm, now, |tx| {
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
        changing!(self, RevokeKey, realm, now, |tx| {
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
            writing!(self, TouchKeys, |tx| {
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

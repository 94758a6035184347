//! When API keys were last used: written once a minute a key, however often it is used.
//!
//! A request notes at most one atomic swap; [`LastUsed::flush`] writes what gathered in one batch. The
//! gateway calls it every minute and once more when it stops, which is what bounds the writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use dashmap::DashMap;

use crate::model::api_key::ApiKey;
use crate::model::id::KeyId;
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError};

const MINUTE: i64 = 60_000;

/// A remembered key with the time of the last use that was noted.
#[derive(Debug)]
pub struct KeyFact {
    /// The record.
    pub key: Arc<ApiKey>,
    noted: AtomicI64,
}

/// Uses that have not been written yet.
#[derive(Debug, Default)]
pub struct LastUsed {
    pending: DashMap<(Arc<str>, KeyId), Timestamp>,
}

impl KeyFact {
    /// A key as the store had it.
    pub fn new(key: ApiKey) -> Self {
        let noted = AtomicI64::new(key.last_used_at.map_or(i64::MIN, Timestamp::millis));
        Self { key: Arc::new(key), noted }
    }
}

impl LastUsed {
    /// Notes that the key was used, unless that was noted within this minute.
    pub fn note(&self, realm: &Arc<str>, fact: &KeyFact, now: Timestamp) {
        let before = fact.noted.load(Ordering::Relaxed);
        if now.millis() < before.saturating_add(MINUTE) {
            return;
        }
        // Of those who come at once, one wins and notes.
        if fact.noted.compare_exchange(before, now.millis(), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.pend(Arc::clone(realm), fact.key.id, now);
        }
    }

    /// Writes what gathered. What could not be written waits for the next time.
    pub async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let keys: Vec<(Arc<str>, KeyId)> = self.pending.iter().map(|entry| entry.key().clone()).collect();
        let batch: Vec<(Arc<str>, KeyId, Timestamp)> = keys
            .into_iter()
            .filter_map(|key| self.pending.remove(&key))
            .map(|((realm, id), at)| (realm, id, at))
            .collect();
        if batch.is_empty() {
            return Ok(());
        }
        let written = store.touch_keys(&batch).await;
        if written.is_err() {
            for (realm, id, at) in batch {
                self.pend(realm, id, at);
            }
        }
        written
    }

    fn pend(&self, realm: Arc<str>, id: KeyId, at: Timestamp) {
        let mut entry = self.pending.entry((realm, id)).or_insert(at);
        *entry = at.max(*entry);
    }
}

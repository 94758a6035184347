//! When API keys and sessions were last used: written once a minute each, however often they are used.
//!
//! A request notes at most one atomic swap; [`LastUsed::flush`] writes what gathered in one batch. The
//! gateway calls it every minute and once more when it stops, which is what bounds the writes.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use dashmap::DashMap;

use crate::model::api_key::ApiKey;
use crate::model::id::{KeyId, SessionId};
use crate::model::session::Session;
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError};

const MINUTE: i64 = 60_000;

/// A remembered record with the time of the last use that was noted.
#[derive(Debug)]
pub struct Used<T> {
    /// The record.
    pub record: Arc<T>,
    noted: AtomicI64,
}

impl Used<ApiKey> {
    /// A key as the store had it.
    pub fn key(key: ApiKey) -> Self {
        let noted = AtomicI64::new(key.last_used_at.map_or(i64::MIN, Timestamp::millis));
        Self { record: Arc::new(key), noted }
    }
}

impl Used<Session> {
    /// A session as the store had it.
    pub fn session(session: Session) -> Self {
        let noted = AtomicI64::new(session.last_active_at.millis());
        Self { record: Arc::new(session), noted }
    }
}

impl<T> Used<T> {
    /// Whether a use at `now` is the first of its minute: of those who come at once, one is told so.
    fn is_news(&self, now: Timestamp) -> bool {
        let before = self.noted.load(Ordering::Relaxed);
        now.millis() >= before.saturating_add(MINUTE)
            && self.noted.compare_exchange(before, now.millis(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Uses that have not been written yet.
#[derive(Debug, Default)]
pub struct LastUsed {
    keys: Pending<KeyId>,
    sessions: Pending<SessionId>,
}

impl LastUsed {
    /// Notes that the key was used, unless that was noted within this minute.
    pub fn note_key(&self, realm: &Arc<str>, key: &Used<ApiKey>, now: Timestamp) {
        if key.is_news(now) {
            self.keys.pend(Arc::clone(realm), key.record.id, now);
        }
    }

    /// Notes that the session was used, unless that was noted within this minute.
    pub fn note_session(&self, realm: &Arc<str>, session: &Used<Session>, now: Timestamp) {
        if session.is_news(now) {
            self.sessions.pend(Arc::clone(realm), session.record.id, now);
        }
    }

    /// Writes what gathered. What could not be written waits for the next time.
    pub async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let keys = self.keys.take();
        let keys_written = if keys.is_empty() { Ok(()) } else { store.touch_keys(&keys).await };
        if keys_written.is_err() {
            self.keys.put_back(keys);
        }
        let sessions = self.sessions.take();
        let sessions_written = if sessions.is_empty() { Ok(()) } else { store.touch_sessions(&sessions).await };
        if sessions_written.is_err() {
            self.sessions.put_back(sessions);
        }
        keys_written.and(sessions_written)
    }
}

#[derive(Debug)]
struct Pending<Id: Eq + Hash>(DashMap<(Arc<str>, Id), Timestamp>);

impl<Id: Copy + Eq + Hash> Pending<Id> {
    fn pend(&self, realm: Arc<str>, id: Id, at: Timestamp) {
        let mut entry = self.0.entry((realm, id)).or_insert(at);
        *entry = at.max(*entry);
    }

    fn take(&self) -> Vec<(Arc<str>, Id, Timestamp)> {
        let ids: Vec<(Arc<str>, Id)> = self.0.iter().map(|entry| entry.key().clone()).collect();
        ids.into_iter().filter_map(|id| self.0.remove(&id)).map(|((realm, id), at)| (realm, id, at)).collect()
    }

    fn put_back(&self, batch: Vec<(Arc<str>, Id, Timestamp)>) {
        for (realm, id, at) in batch {
            self.pend(realm, id, at);
        }
    }
}

impl<Id: Eq + Hash> Default for Pending<Id> {
    fn default() -> Self {
        Self(DashMap::new())
    }
}

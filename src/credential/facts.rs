//! Facts of the store that every request needs, remembered for exactly as long as they are true.
//!
//! An entry holds the [`Mark`]s of the ids that it depends on, read before it was loaded, and counts while
//! they hold. There is no expiry, but there is a longest silence: when neither the store nor its feed has
//! been heard for `max_stale`, nothing is taken for true any more.
//!
//! A miss is loaded once: whoever comes first gets the [`Lead`], everybody else waits for what they
//! find, also when it is nothing or a failure. So a stampede on one cold key costs one look-up, and a dead
//! store one timeout, not a queue of them. Used by [`super::authenticate`].

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::{Cache, DefaultLifecycle, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, Equivalent, UnitWeighter};

use crate::model::refusal::Refusal;
use crate::model::time::Steady;
use crate::revocation::{Epochs, Mark};
use crate::store::StoreError;

/// Remembered facts of one kind, by realm and id.
pub struct Facts<K, T> {
    entries: Cache<Key<K>, Entry<T>>,
    max_stale: Duration,
    loads: AtomicU64,
}

type Key<K> = (Arc<str>, K);
type Guard<'a, K, T> =
    PlaceholderGuard<'a, Key<K>, Entry<T>, UnitWeighter, DefaultHashBuilder, DefaultLifecycle<Key<K>, Entry<T>>>;

/// A [`Key`] for looking: every request would otherwise count one more owner of the realm's name and
/// one less, in memory that all workers share. Hashes as the owned tuple does.
#[derive(Hash)]
struct Borrowed<'a, K>(&'a str, K);

impl<K: Eq> Equivalent<Key<K>> for Borrowed<'_, K> {
    fn equivalent(&self, key: &Key<K>) -> bool {
        self.1 == key.1 && *self.0 == *key.0
    }
}

/// A fact as the store had it, with the marks of what it depends on, read before the load.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The fact.
    pub fact: T,
    /// `None`: something changed meanwhile: good for this once, not to be kept.
    pub marks: Option<[Mark; 2]>,
}

/// The store did not answer; shared by all who waited.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unfetched(Arc<StoreError>);

/// Whose turn it is.
pub enum Turn<'a, K, T> {
    /// It is known, or somebody else has just looked.
    Known(Result<Option<Arc<T>>, Unfetched>),
    /// Ours to look up.
    Lead(Lead<'a, K, T>),
}

/// The duty to look one fact up, and tell those who wait.
pub struct Lead<'a, K, T> {
    facts: &'a Facts<K, T>,
    key: Key<K>,
    guard: Option<Guard<'a, K, T>>,
    now: Steady,
}

struct Entry<T> {
    found: Found<T>,
    marks: Option<[Mark; 2]>,
    loaded_at: Steady,
}

enum Found<T> {
    Fact(Arc<T>),
    Nothing,
    Failure(Unfetched),
}

impl<K: Copy + Eq + Hash, T> Facts<K, T> {
    /// Room for `capacity` facts, that count through `max_stale` of silence.
    pub fn new(capacity: usize, max_stale: Duration) -> Self {
        Self { entries: Cache::new(capacity), max_stale, loads: AtomicU64::new(0) }
    }

    /// The fact, if it is remembered and still true.
    pub fn known(&self, realm: &str, id: K, epochs: &Epochs, now: Steady) -> Option<Arc<T>> {
        let entry = self.entries.get(&Borrowed(realm, id))?;
        let counts = self.counts(&entry, epochs, now);
        match entry.found {
            Found::Fact(fact) if counts => Some(fact),
            _ => None,
        }
    }

    /// The fact, or the duty to look it up. Waits while somebody else is looking.
    pub async fn join(&self, realm: &Arc<str>, id: K, epochs: &Epochs, now: Steady) -> Turn<'_, K, T> {
        let key = (Arc::clone(realm), id);
        // What others load can go stale while we wait for it; after a few rounds we look ourselves.
        for _ in 0..3 {
            self.entries.remove_if(&key, |entry| !self.counts(entry, epochs, now));
            match self.entries.get_value_or_guard_async(&key).await {
                Err(guard) => return Turn::Lead(Lead { facts: self, key, guard: Some(guard), now }),
                Ok(entry) => match &entry.found {
                    Found::Fact(fact) if self.counts(&entry, epochs, now) => {
                        return Turn::Known(Ok(Some(Arc::clone(fact))));
                    }
                    Found::Fact(_) => {}
                    Found::Nothing => return Turn::Known(Ok(None)),
                    Found::Failure(why) => return Turn::Known(Err(why.clone())),
                },
            }
        }
        Turn::Lead(Lead { facts: self, key, guard: None, now })
    }

    /// How many look-ups were made.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// How many facts are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn counts(&self, entry: &Entry<T>, epochs: &Epochs, now: Steady) -> bool {
        let confirmed = entry.loaded_at.max(epochs.last_heard());
        matches!(entry.found, Found::Fact(_))
            && entry.marks.is_some_and(|marks| marks.into_iter().all(|mark| epochs.holds(mark)))
            && now.since(confirmed) <= self.max_stale
    }
}

impl<K: Copy + Eq + Hash, T> Lead<'_, K, T> {
    /// Tells what was found, and keeps it if it is a fact.
    pub fn tell(self, result: Result<Option<Loaded<T>>, StoreError>) -> Result<Option<Arc<T>>, Unfetched> {
        let Self { facts, key, guard, now } = self;
        facts.loads.fetch_add(1, Ordering::Relaxed);
        let (found, marks) = match result {
            Ok(Some(Loaded { fact, marks })) => (Found::Fact(Arc::new(fact)), marks),
            Ok(None) => (Found::Nothing, None),
            Err(error) => (Found::Failure(Unfetched(Arc::new(error))), None),
        };
        let entry = Entry { found, marks, loaded_at: now };
        if let Some(guard) = guard {
            // An error here only says that the place was taken away meanwhile.
            let _ = guard.insert(entry.clone());
            if marks.is_none() {
                // It was for those who waited. Nothing that is not a fact stays.
                facts.entries.remove_if(&key, |entry| entry.marks.is_none());
            }
        }
        match entry.found {
            Found::Fact(fact) => Ok(Some(fact)),
            Found::Nothing => Ok(None),
            Found::Failure(why) => Err(why),
        }
    }
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        let found = match &self.found {
            Found::Fact(fact) => Found::Fact(Arc::clone(fact)),
            Found::Nothing => Found::Nothing,
            Found::Failure(why) => Found::Failure(why.clone()),
        };
        Self { found, marks: self.marks, loaded_at: self.loaded_at }
    }
}

impl<K, T> fmt::Debug for Facts<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").field("max_stale", &self.max_stale).finish_non_exhaustive()
    }
}

impl From<Unfetched> for Refusal {
    fn from(error: Unfetched) -> Self {
        match &*error.0 {
            StoreError::Unavailable { .. } => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}

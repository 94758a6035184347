//! Hashing and checking passwords, on a bounded pool off the workers.
//!
//! A hash takes tens of milliseconds and 19 MiB on purpose. So at most `password_workers` are computed at
//! once, at most `password_queue` wait, and whoever comes then is shed: proxied traffic stays unhurt and
//! memory flat. A job keeps its place until it has *ended*: a client that disconnects does not make room
//! for another one while its hash is still being computed. Called by the native sign-in operations.

mod threads;

use std::str::FromStr;
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use bcrypt::HashParts;
use tokio::sync::Semaphore;

use crate::contract::PasswordRules;
use crate::model::entropy::Entropy;
use crate::model::problem::{FieldError, Problem};
use crate::model::refusal::{Fault, Refusal};
use crate::model::secret::Secret;
use crate::observe::metrics::Metrics;
use crate::rules::password::{self, Demands, MAX_BYTES, Missed};

use super::CacheSettings;
use threads::Threads;

/// OWASP's first choice for Argon2id: 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What a stored hash may cost to check. Beyond it, a row is an attack on us, not a password.
const MOST_MEMORY_KIB: u32 = 256 * 1024;
const MOST_PASSES: u32 = 10;
const MOST_LANES: u32 = 8;
const MOST_BCRYPT_COST: u32 = 14;

/// Computes password hashes, a few at a time.
#[derive(Debug)]
pub struct PasswordPool {
    workers: Arc<Semaphore>,
    /// Workers and queue: whoever gets no place here is shed.
    places: Arc<Semaphore>,
    capacity: (usize, usize),
    threads: Threads,
    /// What unknown accounts are checked against.
    decoy: Secret,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is the account's.
    Match {
        /// The stored hash is weaker than what we make now: hash again and replace it.
        rehash: bool,
    },
    /// It is not, or there is no account.
    Mismatch,
}

/// Why no hash was computed.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Everybody is busy and the queue is full.
    #[error("the password pool is full")]
    Shed,
    /// More than 1,024 bytes.
    #[error("the password is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// The stored hash is none that we check: what is wrong with it.
    #[error("a stored password hash cannot be used: {0}")]
    BadHash(String),
    /// The computation itself failed.
    #[error("a password hash could not be computed: {0}")]
    Failed(String),
}

impl From<PasswordError> for Refusal {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Shed => Self::unavailable(error),
            PasswordError::TooLong => {
                Problem::InvalidRequest(vec![FieldError::new("password", Missed::TooLong.to_string())]).into()
            }
            // For the client like any other failed sign-in; for us a fault.
            PasswordError::BadHash(_) => Self { problem: Problem::InvalidCredentials, fault: Some(Fault::new(error)) },
            PasswordError::Failed(_) => Self::internal(error),
        }
    }
}

impl PasswordPool {
    /// Computes one hash (the decoy): some tens of milliseconds.
    pub fn new(
        settings: &CacheSettings,
        entropy: Arc<dyn Entropy>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, PasswordError> {
        let workers = settings.password_workers.max(1);
        let places = workers.saturating_add(settings.password_queue).min(Semaphore::MAX_PERMITS);
        let mut password = [0; 32];
        entropy.fill(&mut password);
        let decoy = make(&password, salt(&*entropy))?;
        Ok(Self {
            workers: Arc::new(Semaphore::new(workers)),
            places: Arc::new(Semaphore::new(places)),
            capacity: (workers, places),
            threads: Threads::start(workers).map_err(|error| PasswordError::Failed(error.to_string()))?,
            decoy,
            entropy,
            metrics,
        })
    }

    /// A hash to store, in PHC form.
    pub async fn hash(&self, password: Secret) -> Result<Secret, PasswordError> {
        if password.expose().len() > MAX_BYTES {
            return Err(PasswordError::TooLong);
        }
        let salt = salt(&*self.entropy);
        self.run(move || make(password.expose().as_bytes(), salt)).await?
    }

    /// Whether `password` is the one that `stored` was made of. `None` (no such account) takes as long as a
    /// wrong password does and says the same.
    pub async fn verify(&self, password: Secret, stored: Option<Secret>) -> Result<Verdict, PasswordError> {
        if password.expose().len() > MAX_BYTES {
            // Depends on nothing but the request: tells nobody whether the account exists.
            return Ok(Verdict::Mismatch);
        }
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        let decoy = self.decoy.clone();
        let checked = self
            .run(move || {
                let verdict = check(password.expose().as_bytes(), stored.expose());
                if matches!(verdict, Err(PasswordError::BadHash(_))) {
                    // An account with a broken hash must not stand out by its speed.
                    let _ = check(password.expose().as_bytes(), decoy.expose());
                }
                verdict
            })
            .await??;
        // The decoy's password is unknown to everybody; that must not be what this rests on.
        Ok(if known { checked } else { Verdict::Mismatch })
    }

    /// How many hashes are being computed.
    pub fn busy(&self) -> usize {
        self.capacity.0.saturating_sub(self.workers.available_permits())
    }

    /// How many wait for one.
    pub fn waiting(&self) -> usize {
        self.capacity.1.saturating_sub(self.places.available_permits()).saturating_sub(self.busy())
    }

    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.passwords.shed.inc();
            return Err(PasswordError::Shed);
        };
        let worker = Arc::clone(&self.workers).acquire_owned().await;
        let worker = worker.map_err(|error| PasswordError::Failed(error.to_string()))?;
        let durations = self.metrics.passwords.durations.clone();
        let alone = self.busy() == 1 && self.waiting() == 0;
        let work = self.threads.spawn(alone, move || {
            // Moved in: given back when the work ends, whether or not anybody still waits for it.
            let _held = (place, worker);
            let _timed = durations.start_timer();
            job()
        });
        work.await.map_err(|error| PasswordError::Failed(error.to_string()))
    }
}

/// What `password` misses of the product's rules; empty: acceptable.
pub fn missed(rules: &PasswordRules, password: &str) -> Vec<Missed> {
    let PasswordRules { min_length, upper, lower, digit, special } = *rules;
    password::missed(&Demands { min_length, upper, lower, digit, special }, password)
}

fn salt(entropy: &dyn Entropy) -> [u8; 16] {
    let mut salt = [0; 16];
    entropy.fill(&mut salt);
    salt
}

fn argon2id(params: Params) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn make(password: &[u8], salt: [u8; 16]) -> Result<Secret, PasswordError> {
    let failed = |error: &dyn std::fmt::Display| PasswordError::Failed(error.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| failed(&error))?;
    let hash: PasswordHash =
        argon2id(params).hash_password_with_salt(password, &salt).map_err(|error| failed(&error))?;
    Ok(hash.to_string().into())
}

fn check(password: &[u8], stored: &str) -> Result<Verdict, PasswordError> {
    if stored.starts_with("$2") { check_bcrypt(password, stored) } else { check_argon2(password, stored) }
}

fn check_argon2(password: &[u8], stored: &str) -> Result<Verdict, PasswordError> {
    let bad = |why: &str| PasswordError::BadHash(why.to_owned());
    let hash = PasswordHash::new(stored).map_err(|_| bad("not in PHC form"))?;
    if hash.algorithm.as_str() != "argon2id" || hash.version != Some(Version::V0x13.into()) {
        return Err(bad("not argon2id version 19"));
    }
    if hash.params.iter().any(|(name, _)| !["m", "t", "p"].contains(&name.as_str())) {
        return Err(bad("unknown parameters"));
    }
    let params = Params::try_from(&hash).map_err(|_| bad("unreadable parameters"))?;
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    if memory > MOST_MEMORY_KIB || passes > MOST_PASSES || lanes > MOST_LANES {
        return Err(bad("it costs more than any honest hash"));
    }
    if hash.salt.is_none() || hash.hash.as_ref().is_none_or(|output| output.len() < 16) {
        return Err(bad("no salt, or too short an output"));
    }
    match argon2id(params).verify_password(password, &hash) {
        Ok(()) => Ok(Verdict::Match { rehash: (memory, passes, lanes) != (MEMORY_KIB, PASSES, LANES) }),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(Verdict::Mismatch),
        Err(error) => Err(PasswordError::Failed(error.to_string())),
    }
}

/// Imported hashes. bcrypt looks at 72 bytes, as it did where the hash was made; the new hash covers all.
fn check_bcrypt(password: &[u8], stored: &str) -> Result<Verdict, PasswordError> {
    let bad = |why: &str| PasswordError::BadHash(why.to_owned());
    let parts = HashParts::from_str(stored).map_err(|_| bad("not a bcrypt hash"))?;
    if parts.get_cost() > MOST_BCRYPT_COST {
        return Err(bad("it costs more than any honest hash"));
    }
    match bcrypt::verify(password, stored) {
        Ok(true) => Ok(Verdict::Match { rehash: true }),
        Ok(false) => Ok(Verdict::Mismatch),
        Err(error) => Err(bad(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use crate::model::time::Timestamp;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::credential::fixture;
    use crate::model::entropy::TestEntropy;

    fn pool(workers: usize, queue: usize) -> PasswordPool {
        let settings = CacheSettings { password_workers: workers, password_queue: queue, ..fixture::cache_settings() };
        let metrics = Arc::new(Metrics::new(Timestamp::from_secs(0)));
        PasswordPool::new(&settings, Arc::new(TestEntropy::new(3)), metrics).unwrap()
    }

    fn secret(text: &str) -> Secret {
        text.to_owned().into()
    }

    #[tokio::test]
    async fn the_right_password_matches_and_no_other_does() {
        let pool = pool(1, 8);
        let hash = pool.hash(secret("correct horse")).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_ne!(hash.expose(), pool.hash(secret("correct horse")).await.unwrap().expose());
        let verify =
            async |text: &str, stored: Option<&Secret>| pool.verify(secret(text), stored.cloned()).await.unwrap();
        assert_eq!(verify("correct horse", Some(&hash)).await, Verdict::Match { rehash: false });
        for wrong in ["Correct horse", "correct horse ", "", "correct hors"] {
            assert_eq!(verify(wrong, Some(&hash)).await, Verdict::Mismatch);
        }
        assert_eq!(verify("correct horse", None).await, Verdict::Mismatch);
    }

    #[tokio::test]
    async fn work_that_panics_fails_alone() {
        let pool = pool(1, 0);
        assert!(matches!(pool.run(|| panic!("as planned")).await, Err(PasswordError::Failed(_))));
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
        assert_eq!((pool.busy(), pool.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn an_unknown_account_takes_the_same_work_as_a_wrong_password() {
        let pool = pool(1, 8);
        let decoy = PasswordHash::new(pool.decoy.expose()).unwrap();
        let real = pool.hash(secret("x")).await.unwrap();
        let real = PasswordHash::new(real.expose()).unwrap();
        assert_eq!(Params::try_from(&decoy).unwrap(), Params::try_from(&real).unwrap());
        assert_eq!(decoy.hash.unwrap().len(), real.hash.unwrap().len());
    }

    #[tokio::test]
    async fn a_weaker_or_imported_hash_matches_and_asks_for_a_new_one() {
        let pool = pool(1, 8);
        let weak = argon2id(Params::new(8 * 1024, 1, 1, None).unwrap());
        let weak: PasswordHash = weak.hash_password_with_salt(b"pw", &[7; 16]).unwrap();
        let bcrypt = bcrypt::hash("pw", 4).unwrap();
        for stored in [weak.to_string(), bcrypt] {
            let right = pool.verify(secret("pw"), Some(secret(&stored))).await.unwrap();
            assert_eq!(right, Verdict::Match { rehash: true }, "{stored}");
            assert_eq!(pool.verify(secret("pW"), Some(secret(&stored))).await.unwrap(), Verdict::Mismatch);
        }
    }

    #[tokio::test]
    async fn hostile_or_broken_stored_hashes_are_refused_before_any_work() {
        let pool = pool(1, 8);
        let tail = "$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
        for head in [
            "$argon2id$v=19$m=4194304,t=2,p=1",
            "$argon2id$v=19$m=19456,t=4294967295,p=1",
            "$argon2id$v=19$m=19456,t=2,p=64",
            "$argon2i$v=19$m=19456,t=2,p=1",
            "$argon2d$v=19$m=19456,t=2,p=1",
            "$argon2id$v=16$m=19456,t=2,p=1",
            "$argon2id$v=19$m=19456,t=2,p=1,keyid=MDEy",
            "$pbkdf2-sha256$i=1",
        ] {
            let verdict = pool.verify(secret("pw"), Some(secret(&format!("{head}{tail}")))).await;
            assert!(matches!(verdict, Err(PasswordError::BadHash(_))), "{head} gave {verdict:?}");
        }
        for stored in [
            "",
            "pw",
            "$2b$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$2b$",
            "{SHA}pw",
            "$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg",
        ] {
            let verdict = pool.verify(secret("pw"), Some(secret(stored))).await;
            assert!(matches!(verdict, Err(PasswordError::BadHash(_))), "{stored} gave {verdict:?}");
        }
    }

    #[tokio::test]
    async fn an_endless_password_is_refused_before_any_work() {
        let pool = pool(1, 0);
        pool.workers.close();
        let long = "x".repeat(1 << 20);
        assert!(matches!(pool.hash(secret(&long)).await, Err(PasswordError::TooLong)));
        assert_eq!(pool.verify(secret(&long), None).await.unwrap(), Verdict::Mismatch);
        // 1,024 bytes do reach the pool.
        assert!(matches!(pool.hash(secret(&"x".repeat(1024))).await, Err(PasswordError::Failed(_))));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn abandoned_work_keeps_its_place_until_it_ends() {
        let pool = Arc::new(pool(1, 1));
        let (finish, ended) = mpsc::channel::<()>();
        let job = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(move || ended.recv()).await.map(drop) }
        });
        until(|| pool.busy() == 1).await;
        job.abort();
        assert!(job.await.unwrap_err().is_cancelled());
        assert_eq!((pool.busy(), pool.waiting()), (1, 0), "the client left, the work goes on");

        let next = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(|| 7).await }
        });
        until(|| pool.waiting() == 1).await;
        assert!(matches!(pool.run(|| 8).await, Err(PasswordError::Shed)), "one works, one waits, the third is shed");
        assert!(!next.is_finished());

        finish.send(()).unwrap();
        assert_eq!(next.await.unwrap().unwrap(), 7);
        until(|| pool.busy() == 0).await;
        assert_eq!(pool.run(|| 9).await.unwrap(), 9);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flood_is_computed_a_few_at_a_time_and_the_rest_is_shed() {
        let pool = Arc::new(pool(2, 4));
        let peak = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (finish, ended) = mpsc::channel::<()>();
        let ended = Arc::new(std::sync::Mutex::new(ended));
        let jobs: Vec<_> = (0..1000)
            .map(|_| {
                let (pool, peak, ended) = (Arc::clone(&pool), Arc::clone(&peak), Arc::clone(&ended));
                tokio::spawn(async move {
                    let watched = Arc::clone(&pool);
                    pool.run(move || {
                        peak.fetch_max(watched.busy(), std::sync::atomic::Ordering::SeqCst);
                        ended.lock().unwrap().recv().ok();
                    })
                    .await
                })
            })
            .collect();
        until(|| jobs.iter().filter(|job| job.is_finished()).count() == 994).await;
        drop(finish);
        let mut done = 0;
        for job in jobs {
            match job.await.unwrap() {
                Ok(()) => done += 1,
                Err(error) => assert!(matches!(error, PasswordError::Shed)),
            }
        }
        assert_eq!((done, peak.load(std::sync::atomic::Ordering::SeqCst)), (6, 2));
    }

    async fn until(condition: impl Fn() -> bool) {
        for _ in 0..30_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("what was waited for did not happen");
    }
}

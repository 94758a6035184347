//! The limiter: strict sliding windows over subjects, in memory or in Redis.
//!
//! An admission charges one or several subjects (the organization, the key, the address), each with all of its
//! windows; all have room and are spent from together, or nothing is. The arithmetic and its proof stand in
//! [`crate::rules::sliding_window`]; where the counts live is `memory` (and its `table`) or `redis` (and its
//! script); `ask` turns what they found into a [`Verdict`]. Which windows a request has is its caller's to say.
//!
//! [`addresses`] is the other kind of limit: places that are taken and given back.
//!
//! `edge::throttle` and the sign-in routes call [`Limiter::admit`]; `app` calls [`Limiter::sweep`] on a timer.
//!
//! To add a backend: a file beside `redis`, a variant of [`Backend`], an arm in [`Limiter::admit`], and its row in the
//! `tests` that every backend passes.

pub mod addresses;
mod ask;
mod circuit;
mod memory;
mod redis;
mod subject;
mod table;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::time::Duration;

use smallvec::SmallVec;

use crate::model::refusal::Refusal;
use crate::model::secret::Secret;
use crate::model::time::Now;
use crate::model::window::Window;

use ask::Group;
use memory::Memory;
use redis::Redis;

pub use redis::RedisFailure;
pub use subject::{Subject, SubjectKind};

/// How limits are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where windows live.
    pub backend: Backend,
    /// The most subjects kept in memory; idle ones go first, active ones never lose their count.
    pub max_subjects: usize,
}

/// Where windows live.
#[derive(Clone, Debug)]
pub enum Backend {
    /// In this process.
    Memory,
    /// In Redis, shared by a fleet.
    Redis {
        /// `redis://` or `rediss://`, with credentials.
        url: Secret,
        /// How long one admission may take.
        timeout: Duration,
        /// What to do when Redis cannot be asked.
        on_failure: OnFailure,
    },
}

/// What to do when the shared limiter cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Count in this process until it is back.
    Local,
    /// Admit everything.
    Allow,
    /// Refuse everything (503).
    Deny,
}

/// What one subject is asked to pay in one admission.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// Who pays.
    pub subject: Subject,
    /// From which windows; none: nothing is asked. Windows are told apart by their length alone, so that a subject
    /// whose limit changes keeps what it has spent; a length that is new to it starts at nothing. Those that are only
    /// tried are asked of the subject [in shadow](Subject::in_shadow), and no others are.
    pub windows: &'a [Window],
    /// How many units; 0 only looks, and is never a reason to refuse.
    pub cost: u32,
}

impl Charge<'_> {
    /// The same for the windows that are only tried. They are spent from together or not at all, as if they held, and
    /// apart from all others: what they would have refused spends nothing of them.
    #[must_use]
    pub fn in_shadow(self) -> Self {
        Self { subject: self.subject.in_shadow(), ..self }
    }

    /// Whether it asks any window.
    pub fn asks(&self) -> bool {
        self.asked().next().is_some()
    }

    /// The windows that are asked.
    fn asked(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(|window| window.shadow == self.subject.is_shadow())
    }
}

/// What came of an admission.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Every window had room and was spent from.
    Admitted(States),
    /// Some window had no room, nothing was spent; how long until the same admission fits (more than zero). Where it
    /// never will, since a cost is above a limit, the window's length.
    Refused(States, Duration),
}

/// How one window stands after an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowState {
    /// The place of its charge among those of the admission.
    pub charge: usize,
    /// The window.
    pub window: Window,
    /// The units left.
    pub remaining: u32,
    /// How long until it gives units back, more than zero; where none are spent, until one spent now would come back.
    pub reset_after: Duration,
}

/// The windows of an admission, in the order of its charges. Empty where nothing was counted (no windows, or
/// [`OnFailure::Allow`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States(SmallVec<[WindowState; 4]>);

impl States {
    /// The window that runs out first: the fewest units left; of several the shortest.
    pub fn tightest(&self) -> Option<&WindowState> {
        self.iter().min_by_key(|state| (state.remaining, state.window.length))
    }

    /// The one of charge `charge` that runs out first.
    pub fn tightest_of(&self, charge: usize) -> Option<&WindowState> {
        let own = self.iter().filter(|state| state.charge == charge);
        own.min_by_key(|state| (state.remaining, state.window.length))
    }
}

impl Deref for States {
    type Target = [WindowState];

    fn deref(&self) -> &[WindowState] {
        &self.0
    }
}

/// Why there is no limiter, or no verdict.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The URL is not one of a Redis.
    #[error("the limiter's URL is not a Redis URL: {0}")]
    BadUrl(#[source] ::redis::RedisError),
    /// Redis cannot be asked and the configuration says to refuse.
    #[error("the limiter cannot decide")]
    Unavailable(#[source] RedisFailure),
}

impl From<LimitError> for Refusal {
    fn from(error: LimitError) -> Self {
        Self::unavailable(error)
    }
}

/// The limiter.
#[derive(Debug)]
pub struct Limiter {
    /// Decides alone, or while Redis is down.
    memory: Memory,
    redis: Option<(Redis, OnFailure)>,
}

impl Limiter {
    /// A limiter that has counted nothing. Redis is not connected to: [`Self::reach`].
    pub fn new(settings: &Settings) -> Result<Self, LimitError> {
        let redis = match &settings.backend {
            Backend::Memory => None,
            Backend::Redis { url, timeout, on_failure } => {
                Some((Redis::new(url, *timeout).map_err(LimitError::BadUrl)?, *on_failure))
            }
        };
        Ok(Self { memory: Memory::new(settings.max_subjects), redis })
    }

    /// Connects to the Redis, if there is one, so that the first requests need not wait for it. Whether it can be reached
    /// decides nothing that `on_failure` does not decide later; it takes half a second at most, or as long as an
    /// admission may.
    pub async fn reach(&self, now: Now) {
        if let Some((redis, _)) = &self.redis {
            redis.reach(now.steady).await;
        }
    }

    /// [`Self::admit`] where nobody needs to be waited for: in memory, or where no window is asked. `None`: Redis decides.
    pub fn admit_at_once(&self, charges: &[Charge<'_>], now: Now) -> Option<Verdict> {
        let mut asks = ask::flatten(charges);
        if asks.is_empty() {
            return Some(Verdict::Admitted(States::default()));
        }
        self.redis.is_none().then(|| self.memory.admit(charges, &mut asks, now.steady))
    }

    /// Admits all of `charges` or none.
    pub async fn admit(&self, charges: &[Charge<'_>], now: Now) -> Result<Verdict, LimitError> {
        let mut asks = ask::flatten(charges);
        if asks.is_empty() {
            return Ok(Verdict::Admitted(States::default()));
        }
        let Some((redis, on_failure)) = &self.redis else {
            return Ok(self.memory.admit(charges, &mut asks, now.steady));
        };
        // The local counts begin empty when Redis is lost, and Redis does not learn of them: around the moment of its
        // loss and of its return, each node may admit up to one limit more.
        let asked = Box::pin(redis.admit(charges, &mut asks, now.steady, None)).await;
        match (asked, on_failure) {
            (Ok(verdict), _) => Ok(verdict),
            (Err(_), OnFailure::Local) => Ok(self.memory.admit(charges, &mut asks, now.steady)),
            (Err(_), OnFailure::Allow) => Ok(Verdict::Admitted(States::default())),
            (Err(failure), OnFailure::Deny) => Err(LimitError::Unavailable(failure)),
        }
    }

    /// Admits all of `charges` or none, and where they are admitted, likewise `tried`, none of which holds: in Redis by the
    /// same call. What became of those; `None`: they were not asked.
    pub async fn admit_with(
        &self,
        charges: &[Charge<'_>],
        tried: &[Charge<'_>],
        now: Now,
    ) -> Result<(Verdict, Option<Verdict>), LimitError> {
        let [mut asks, mut of_tried] = [charges, tried].map(ask::flatten);
        if asks.is_empty() && of_tried.is_empty() {
            let admitted = Verdict::Admitted(States::default());
            return Ok((admitted.clone(), Some(admitted)));
        }
        let mut groups = [Group { charges, asks: &mut asks }, Group { charges: tried, asks: &mut of_tried }];
        let Some((redis, on_failure)) = &self.redis else { return Ok(self.memory.admit_with(&mut groups, now.steady)) };
        match (redis.admit_with(&mut groups, now.steady, None).await, on_failure) {
            (Ok(verdicts), _) => Ok(verdicts),
            (Err(_), OnFailure::Local) => Ok(self.memory.admit_with(&mut groups, now.steady)),
            (Err(_), OnFailure::Allow) => Ok((Verdict::Admitted(States::default()), None)),
            (Err(failure), OnFailure::Deny) => Err(LimitError::Unavailable(failure)),
        }
    }

    /// What [`Self::admit`] would say of charges to different subjects, spending nothing. The states are from before;
    /// the wait is until the first unit comes back, which for a cost above 1 may be too early.
    pub async fn foresee(&self, charges: &[Charge<'_>], now: Now) -> Result<Verdict, LimitError> {
        let looks: SmallVec<[Charge<'_>; 4]> = charges.iter().map(|charge| Charge { cost: 0, ..*charge }).collect();
        // A look alone is never refused.
        let (Verdict::Admitted(states) | Verdict::Refused(states, _)) = self.admit(&looks, now).await?;
        let full = states.iter().filter(|state| state.remaining < charges[state.charge].cost);
        Ok(match full.map(|state| state.reset_after).max() {
            Some(wait) => Verdict::Refused(states, wait),
            None => Verdict::Admitted(states),
        })
    }

    /// Forgets the subjects with everything that counts of them: a sign-in that succeeds clears its failures.
    pub async fn clear(&self, subjects: &[Subject]) {
        self.memory.clear(subjects);
        if let Some((redis, _)) = &self.redis {
            redis.clear(subjects).await;
        }
    }

    /// Forgets the idle subjects of one shard in memory, the next one at each call; how many there were. A shard is a
    /// few thousand subjects at most: a call holds its thread for some hundred microseconds, and ten a second go round
    /// a million subjects in half a minute. Redis forgets by itself.
    pub fn sweep(&self, now: Now) -> usize {
        self.memory.sweep(now.steady)
    }

    /// How many subjects are kept in memory.
    pub fn subjects(&self) -> usize {
        self.memory.subjects()
    }

    /// Whether Redis is given up for now and `on_failure` decides.
    pub fn is_degraded(&self) -> bool {
        self.redis.as_ref().is_some_and(|(redis, _)| redis.is_down())
    }

    /// Admissions that asked Redis and got no answer, since the start.
    pub fn failures(&self) -> u64 {
        self.redis.as_ref().map_or(0, |(redis, _)| redis.failures())
    }
}

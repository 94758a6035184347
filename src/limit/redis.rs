//! Windows in Redis, shared by a fleet.
//!
//! One admission is one call of one script (`redis.lua`), so that it is atomic over all windows of all charges, with
//! the arithmetic of `sliding_window` and the server's own clock: the nodes' clocks do not matter. What to do when
//! Redis does not answer is decided by `limit`; that no request waits for a Redis known to be dead is decided here,
//! by a [`Circuit`].
//!
//! Redis has only a calendar clock. Set back, it does no harm (the script shifts it); set forward, it brings capacity
//! back early by the step, and nothing in a Redis could tell. A call whose answer is lost may have been counted: a
//! retry then counts twice, which errs towards refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io};

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script, ScriptInvocation};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout, timeout_at};

use super::ask::{self, Asks, Group};
use super::circuit::{Circuit, Pass};
use super::subject::Subject;
use super::{Charge, Verdict};
use crate::model::secret::Secret;
use crate::model::time::Steady;

/// Between two tries of a Redis that failed, beside the time a try takes.
const PAUSE: Duration = Duration::from_secs(1);
/// The least time a connection may take to be made, TLS and all, however short an admission has to be.
const CONNECT: Duration = Duration::from_millis(500);
/// Commands that may be on their way to the connection at once; the default of 50 makes callers queue outside.
const PIPELINE: usize = 1024;

/// A Redis that holds windows.
pub(super) struct Redis {
    client: Client,
    script: Script,
    /// The one connection, which all callers share; none before the first call and after a failure.
    connection: Arc<ArcSwapOption<MultiplexedConnection>>,
    /// Held by whoever makes a new connection, so that a lost one is made again once, not once a request.
    connecting: Arc<Mutex<()>>,
    timeout: Duration,
    circuit: Circuit,
    failures: AtomicU64,
}

/// Why Redis gave no verdict.
#[derive(Debug, thiserror::Error)]
pub enum RedisFailure {
    /// It failed less than a second ago and was not asked.
    #[error("the limiter's Redis failed a moment ago and was not asked again yet")]
    Open,
    /// It did not answer in time.
    #[error("the limiter's Redis did not answer within {0:?}")]
    Timeout(Duration),
    /// It could not be reached or answered with an error.
    #[error("the limiter's Redis failed: {0}")]
    Failed(#[from] RedisError),
    /// It answered something that the script never does.
    #[error("the limiter's Redis answered nonsense")]
    Nonsense,
}

impl RedisFailure {
    /// The connection was gone: Redis itself may be well, and a new connection is worth a try.
    fn is_lost_connection(&self) -> bool {
        matches!(self, Self::Failed(error) if error.is_io_error() && !error.is_timeout())
    }
}

impl Redis {
    /// Reads the URL; connects when told to ([`Self::reach`]), or at the first admission.
    pub fn new(url: &Secret, timeout: Duration) -> Result<Self, RedisError> {
        Ok(Self {
            client: Client::open(url.expose())?,
            script: Script::new(include_str!("redis.lua")),
            connection: Arc::default(),
            connecting: Arc::default(),
            timeout,
            circuit: Circuit::new(timeout + PAUSE),
            failures: AtomicU64::new(0),
        })
    }

    /// Admits all of `charges` or none. `clock` replaces the server's clock in tests.
    pub async fn admit(
        &self,
        charges: &[Charge<'_>],
        asks: &mut Asks,
        now: Steady,
        clock: Option<u64>,
    ) -> Result<Verdict, RedisFailure> {
        let mut groups = [Group { charges, asks }, Group { charges: &[], asks: &mut Asks::new() }];
        Ok(self.admit_with(&mut groups, now, clock).await?.0)
    }

    /// The same of two groups in one call: the second likewise where the first is admitted, else not at all.
    pub async fn admit_with(
        &self,
        groups: &mut [Group<'_>; 2],
        now: Steady,
        clock: Option<u64>,
    ) -> Result<(Verdict, Option<Verdict>), RedisFailure> {
        if self.circuit.enter(now) == Pass::Open {
            return Err(RedisFailure::Open);
        }
        let answer = self.ask(&self.invocation(groups, clock)).await;
        match answer.and_then(|answer| verdicts(groups, &answer)) {
            Ok(verdicts) => {
                if self.circuit.close() {
                    tracing::info!("the limiter's Redis is back");
                }
                Ok(verdicts)
            }
            Err(failure) => Err(self.failed(failure, now)),
        }
    }

    /// Connects, so that no request has to wait for that; where it cannot be reached in time it is given up for a moment.
    pub async fn reach(&self, now: Steady) {
        if let Err(failure) = self.connect(Instant::now() + self.patience()).await {
            self.failed(failure, now);
        }
    }

    /// Counts the failure, and gives Redis up for a moment.
    fn failed(&self, failure: RedisFailure, now: Steady) -> RedisFailure {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if self.circuit.trip(now) {
            tracing::warn!(error = %failure, "the limiter's Redis failed; the fallback decides");
        }
        failure
    }

    /// Forgets the subjects. While Redis is given up, nothing is done: what counts runs out by itself.
    pub async fn clear(&self, subjects: &[Subject]) {
        let Some(connection) = self.connection.load_full().filter(|_| !self.circuit.is_open()) else { return };
        let mut command = redis::cmd("DEL");
        for subject in subjects {
            command.arg(subject.redis_key());
        }
        let mut own = MultiplexedConnection::clone(&connection);
        let done = timeout(self.timeout, command.query_async::<()>(&mut own)).await;
        if !matches!(done, Ok(Ok(()))) {
            tracing::warn!("the limiter's Redis did not forget a count; it runs out by itself");
        }
    }

    /// Whether Redis is given up for now.
    pub fn is_down(&self) -> bool {
        self.circuit.is_open()
    }

    /// Admissions that asked Redis and got no verdict.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Asks once; on a connection found lost, a second time on a new one. After any failure the connection is dropped:
    /// one that no longer carries (a failed-over address, a demoted primary) must not be what the next try uses.
    async fn ask(&self, invocation: &ScriptInvocation<'_>) -> Result<Vec<u64>, RedisFailure> {
        let due = Instant::now() + self.timeout;
        if let Some(connection) = self.connection.load_full() {
            match self.run(&connection, invocation, due).await {
                Err(failure) => {
                    self.forget(&connection);
                    if !failure.is_lost_connection() {
                        return Err(failure);
                    }
                }
                answer => return answer,
            }
        }
        let connection = self.connect(due).await?;
        let answer = self.run(&connection, invocation, due).await;
        if answer.is_err() {
            self.forget(&connection);
        }
        answer
    }

    async fn run(
        &self,
        connection: &MultiplexedConnection,
        invocation: &ScriptInvocation<'_>,
        due: Instant,
    ) -> Result<Vec<u64>, RedisFailure> {
        let mut own = connection.clone();
        let answer = timeout_at(due, invocation.invoke_async(&mut own)).await;
        Ok(answer.map_err(|_| RedisFailure::Timeout(self.timeout))??)
    }

    /// A connection, while an admission may wait for it. Its making goes on beyond that: with TLS and a login it may take
    /// longer, and whoever asks next finds it made.
    async fn connect(&self, due: Instant) -> Result<Arc<MultiplexedConnection>, RedisFailure> {
        let made = async {
            let turn = Arc::clone(&self.connecting).lock_owned().await;
            if let Some(connection) = self.connection.load_full() {
                return Ok(connection);
            }
            let making = tokio::spawn(make(self.client.clone(), self.patience(), Arc::clone(&self.connection), turn));
            making.await.map_err(|ended| RedisError::from(io::Error::other(ended)))?
        };
        timeout_at(due, made).await.map_err(|_| RedisFailure::Timeout(self.timeout))?
    }

    /// How long the making of a connection may take.
    fn patience(&self) -> Duration {
        self.timeout.max(CONNECT)
    }

    /// Drops `failed`, unless somebody has already put a new connection in its place.
    fn forget(&self, failed: &Arc<MultiplexedConnection>) {
        self.connection.compare_and_swap(failed, None);
    }

    fn invocation(&self, groups: &[Group<'_>; 2], clock: Option<u64>) -> ScriptInvocation<'_> {
        let mut invocation = self.script.prepare_invoke();
        for charge in groups.iter().flat_map(|group| group.charges) {
            invocation.key(charge.subject.redis_key());
        }
        match clock {
            Some(clock) => invocation.arg(clock),
            None => invocation.arg(""),
        };
        let [first, second] = groups;
        invocation.arg(first.asks.len());
        let of_second = second.asks.iter().map(|ask| (first.charges.len(), ask));
        for (before, ask) in first.asks.iter().map(|ask| (0, ask)).chain(of_second) {
            invocation
                .arg(before + ask.charge + 1)
                .arg(ask.length)
                .arg(ask.window.limit)
                .arg(ask.demand)
                .arg(u8::from(ask.first));
        }
        invocation
    }
}

/// Makes the connection that all share, whether or not somebody still waits for it. `_turn`: nobody else makes one
/// meanwhile.
async fn make(
    client: Client,
    patience: Duration,
    shared: Arc<ArcSwapOption<MultiplexedConnection>>,
    _turn: OwnedMutexGuard<()>,
) -> Result<Arc<MultiplexedConnection>, RedisFailure> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience))
        .set_pipeline_buffer_size(PIPELINE);
    let made = timeout(patience, client.get_multiplexed_async_connection_with_config(&config)).await;
    let connection = Arc::new(made.map_err(|_| RedisFailure::Timeout(patience))??);
    shared.store(Some(Arc::clone(&connection)));
    Ok(connection)
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the client: its `Debug` is another crate's promise, and its URL holds the password.
        f.debug_struct("Redis").field("timeout", &self.timeout).field("circuit", &self.circuit).finish_non_exhaustive()
    }
}

/// Reads the script's answer: how long each group has to wait, then `used, returns_in` for each ask.
fn verdicts(groups: &mut [Group<'_>; 2], answer: &[u64]) -> Result<(Verdict, Option<Verdict>), RedisFailure> {
    let [first, second, readings @ ..] = answer else { return Err(RedisFailure::Nonsense) };
    if readings.len() != 2 * groups.iter().map(|group| group.asks.len()).sum::<usize>() {
        return Err(RedisFailure::Nonsense);
    }
    let asks = groups.iter_mut().flat_map(|group| &mut *group.asks);
    for (ask, reading) in asks.zip(readings.chunks_exact(2)) {
        ask.reading.used = reading[0];
        ask.reading.returns_in = reading[1];
    }
    let verdict = |group: &Group<'_>, wait| match wait {
        0 => ask::admitted(group.asks),
        wait => ask::refused(group.asks, wait),
    };
    Ok((verdict(&groups[0], *first), (*first == 0).then(|| verdict(&groups[1], *second))))
}

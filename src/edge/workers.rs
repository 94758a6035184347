//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection stays on its thread for life, with the requests on it and, for the most part, with the backends'
//! connections that they use: a wake then never crosses a thread, which measured a tenth of a request's CPU against one
//! runtime whose threads steal from each other. What decides (windows, revocations, caches, counts of connections) is
//! shared by all of them. Each accepts from every listener, and hands on what another has fewer of.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long blocking work (a signature, a file) that nobody waits for any more may hold up the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How many connections more than another a worker keeps: handing one on costs more than a small difference.
const UNEVEN: usize = 2;

/// The threads; they end when this is dropped, with whatever is still on them.
#[derive(Debug)]
pub struct Workers {
    all: Arc<[Worker]>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// One of them, among the others.
#[derive(Clone, Debug)]
pub struct Here {
    all: Arc<[Worker]>,
    at: usize,
}

/// A connection that a worker counts until this is dropped.
#[derive(Debug)]
pub struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `count` threads. Errors: the system has none left, or no descriptors.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let all = (0..count.get()).map(|at| Worker::start(at, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self { all, _stop: guard })
    }

    /// Each of them, with the runtime to spawn on.
    pub fn each(&self) -> impl Iterator<Item = (Here, &Handle)> {
        self.all.iter().enumerate().map(|(at, worker)| (Here { all: Arc::clone(&self.all), at }, &worker.runtime))
    }
}

impl Here {
    /// Where a new connection goes: to whoever has fewest; `None`: it stays here.
    pub fn seat(&self) -> (Seat, Option<&Handle>) {
        let held = |worker: &Worker| worker.connections.load(Ordering::Relaxed);
        let own = &self.all[self.at];
        let chosen = self.all.iter().min_by_key(|worker| held(worker)).filter(|least| held(least) + UNEVEN < held(own));
        let worker = chosen.unwrap_or(own);
        worker.connections.fetch_add(1, Ordering::Relaxed);
        (Seat(Arc::clone(&worker.connections)), chosen.map(|worker| &worker.runtime))
    }
}

impl Worker {
    fn start(at: usize, stop: CancellationToken) -> io::Result<Self> {
        // Sockets are looked at after so many tasks at the latest: what comes in a crowd's midst waits for few of it. Half
        // of tokio's own number; lower ones cost a busy worker more looks than requests.
        let runtime = Builder::new_current_thread().enable_all().event_interval(31).build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name(format!("worker-{at}")).spawn(move || {
            runtime.block_on(stop.cancelled());
            runtime.shutdown_timeout(FAREWELL);
        })?;
        Ok(Self { runtime: handle, connections: Arc::default() })
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn a_connection_stays_where_it_came_in_until_another_thread_has_clearly_fewer() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let here: Vec<Here> = workers.each().map(|(here, _)| here).collect();
        // All come in at the first.
        let seats: Vec<(Seat, bool)> =
            (0..20).map(|_| here[0].seat()).map(|(seat, other)| (seat, other.is_some())).collect();
        assert_eq!(seats.iter().filter(|(_, other)| *other).count(), 9);
        let held = || workers.all.iter().map(|it| it.connections.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(held(), [11, 9]);
        let (kept, other) = here[1].seat();
        assert!(other.is_none());
        drop((seats, kept));
        assert_eq!(held(), [0, 0]);
    }

    #[tokio::test]
    async fn what_is_still_on_them_ends_with_them() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let forever = TaskTracker::new();
        for (here, runtime) in workers.each() {
            // It knows its workers, and does not keep them.
            forever.spawn_on(
                async move {
                    std::future::pending::<()>().await;
                    drop(here);
                },
                runtime,
            );
        }
        forever.close();
        drop(workers);
        tokio::time::timeout(Duration::from_secs(10), forever.wait()).await.expect("what is left is cut off");
    }
}

//! The threads that hash, and do nothing else: how they stand back must not make a look-up of a name or a file wait.
//!
//! A storm of sign-ins may take what is left over, and a request that is only forwarded does not wait behind 20 ms of
//! hashing. Whoever comes alone has niceness, and so a share also where every core is always busy; a crowd has what nobody
//! else wants, as long as that is anything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a hash may take that is computed with what is left over: some twenty times what it takes alone.
const SLOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Threads {
    calm: Lane,
    crowd: Lane,
    /// The last hash took far too long: nothing is left over, and whoever comes gets a share again.
    slow: Arc<AtomicBool>,
}

impl Threads {
    /// At most `count` of each kind, each started when it is needed.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        Ok(Self {
            calm: Lane::start(count, last_in_line)?,
            crowd: Lane::start(count, out_of_line)?,
            slow: Arc::default(),
        })
    }

    /// Does `job`; `alone`: nobody else hashes or waits to.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        alone: bool,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let slow = Arc::clone(&self.slow);
        let lane = if alone || slow.load(Ordering::Relaxed) { &self.calm } else { &self.crowd };
        lane.handle.spawn_blocking(move || {
            let begun = Instant::now();
            let done = job();
            slow.store(begun.elapsed() > SLOW, Ordering::Relaxed);
            done
        })
    }
}

/// Threads that stand back in one manner: those for blocking work of a runtime that does nothing else.
#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// `None` only while this is dropped.
    runtime: Option<Runtime>,
}

impl Lane {
    fn start(count: usize, stand_back: fn()) -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        builder.thread_name("tollgate-hash").max_blocking_threads(count).on_thread_start(stand_back);
        let runtime = builder.build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // What is being hashed is nobody's any more; to wait for it would hold up whoever lets go last.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lets everything else that wants a core go first, by the calling thread's niceness. Where it cannot be set, hashing goes
/// on as it is.
fn last_in_line() {
    stand_back(NormalThreadSchedulePolicy::Other);
}

/// Takes a core only where nobody else wants one. Niceness alone leaves it to the hash until the next tick of the kernel's
/// clock, 4 ms on most, and in a storm of sign-ins somebody is always hashing; with `SCHED_IDLE` (sched(7)) whoever wakes has
/// it at once.
#[cfg(target_os = "linux")]
fn out_of_line() {
    stand_back(NormalThreadSchedulePolicy::Idle);
}

/// Elsewhere there is no such policy.
#[cfg(not(target_os = "linux"))]
fn out_of_line() {
    last_in_line();
}

fn stand_back(policy: NormalThreadSchedulePolicy) {
    let policy = ThreadSchedulePolicy::Normal(policy);
    let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// Niceness and scheduling policy of the thread that asks (`proc_pid_stat(5)`); 0 is everybody's policy, 5 `SCHED_IDLE`.
    fn place_in_line() -> (i32, i32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, behind_name) = stat.rsplit_once(')').unwrap();
        let field = |number: usize| behind_name.split_whitespace().nth(number - 3).unwrap().parse().unwrap();
        (field(19), field(41))
    }

    #[tokio::test]
    async fn hashing_gives_way_in_a_crowd_at_once_and_nothing_else_does() {
        let threads = Threads::start(2).unwrap();
        for _ in 0..3 {
            assert_eq!(threads.spawn(true, place_in_line).await.unwrap(), (19, 0));
            assert_eq!(threads.spawn(false, place_in_line).await.unwrap().1, 5);
        }
        assert_eq!(tokio::task::spawn_blocking(place_in_line).await.unwrap(), place_in_line(), "who does not hash");
        assert_eq!(place_in_line().1, 0);
    }

    #[tokio::test]
    async fn a_crowd_that_gets_nothing_done_is_given_its_share_again() {
        let threads = Threads::start(1).unwrap();
        let long = threads.spawn(false, || std::thread::sleep(SLOW + Duration::from_millis(100)));
        long.await.unwrap();
        assert_eq!(threads.spawn(false, place_in_line).await.unwrap(), (19, 0), "until one is fast");
        assert_eq!(threads.spawn(false, place_in_line).await.unwrap().1, 5);
    }
}

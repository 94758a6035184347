//! How long a client may take, in every phase of its connection.
//!
//! hyper knows one timer for HTTP/1.1, and it runs from the end of one answer to the last byte of the next head; for
//! HTTP/2 it knows none. Here a connection that rests, a head that has begun and bytes that are not taken each have a
//! bound of their own, and in [`super::streams`] a stream whose window stays shut. Nothing is armed while bytes move.

mod sides;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::observe::metrics::labels::Slow;
use crate::upstream::leftover::Leftover;

pub use sides::{Taken, Tended};

/// What a connection's stream, its requests and the task that serves it tell each other.
#[derive(Debug)]
pub struct Pace {
    /// Requests that wait for the head of their answer.
    asking: AtomicUsize,
    came: Notify,
    /// Requests that are not over: from the whole head to the answer's last byte.
    open: AtomicUsize,
    /// Requests there have been.
    begun: AtomicUsize,
    /// Bytes that were read.
    read: AtomicUsize,
    /// Whether it has become a tunnel, which has bounds of its own.
    tunnel: AtomicBool,
    /// Whether something is still to be written that its client has no room for.
    owes: AtomicBool,
    /// Whether a head has begun that is not whole: to be read once, and not anew after each rest.
    partial: AtomicBool,
    since: Instant,
    /// When the last request was over, in milliseconds from `since`.
    rested: AtomicU64,
    /// The bodies of requests that are not over, whether a backend reads them or, once their answers are out, nobody but
    /// us: what comes next belongs to them and is no head.
    lingering: TaskTracker,
    /// HTTP/2: streams that were taken back as soon as they were opened, less those that were answered.
    taken_back: AtomicUsize,
    /// How many of them are too many.
    most_taken_back: usize,
    flooded: Notify,
    http2: bool,
    /// What it was ended for; see [`Pace::slow`].
    slow: AtomicU8,
}

/// How old a stream may be that its client takes back to count as one that it never wanted an answer to.
const RAPID: Duration = Duration::from_secs(1);
/// How long nothing must be under way for a connection to give back its buffers.
const SETTLES: Duration = Duration::from_millis(500);

impl Pace {
    /// Of a connection that begins now. `most_taken_back`: how many more streams its client may take back at once than
    /// it lets be answered.
    pub fn begin(http2: bool, most_taken_back: usize) -> Arc<Self> {
        Arc::new(Self {
            asking: AtomicUsize::new(0),
            came: Notify::new(),
            open: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            tunnel: AtomicBool::new(false),
            owes: AtomicBool::new(false),
            partial: AtomicBool::new(false),
            since: Instant::now(),
            rested: AtomicU64::new(0),
            lingering: TaskTracker::new(),
            taken_back: AtomicUsize::new(0),
            most_taken_back,
            flooded: Notify::new(),
            http2,
            slow: AtomicU8::new(u8::MAX),
        })
    }

    /// Where the bodies of its requests are counted until they are over.
    pub fn lingering(&self) -> &TaskTracker {
        &self.lingering
    }

    /// A request has come, head and all; `leftover`: what there will be of its body.
    pub fn ask(self: &Arc<Self>, leftover: Option<Arc<Leftover>>) -> Asked {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.partial.store(false, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.asking.fetch_add(1, Ordering::Relaxed);
        self.came.notify_waiters();
        Asked {
            pace: Arc::clone(self),
            leftover,
            waits: true,
            end: End::TakenBack,
            begun: self.http2.then(Instant::now),
        }
    }

    /// Whether its client takes back more streams than it may.
    pub fn is_flooded(&self) -> bool {
        self.taken_back.load(Ordering::Relaxed) > self.most_taken_back
    }

    /// Resolves when it does.
    pub async fn flooded(&self) {
        while !self.is_flooded() {
            self.flooded.notified().await;
        }
    }

    /// A stream of HTTP/2 is over that was opened at `begun`. What is answered makes up for what is taken back, so that
    /// a client may cancel as much as it likes of what it asks for, as long as it wants half of it; each stream taken
    /// back cost the backend a request, and mostly a connection.
    fn over(&self, begun: Instant, end: End) {
        match end {
            End::Whole => {
                let less = |taken: usize| taken.checked_sub(1);
                let _ = self.taken_back.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            End::TakenBack if begun.elapsed() < RAPID => {
                if self.taken_back.fetch_add(1, Ordering::Relaxed) >= self.most_taken_back {
                    self.flooded.notify_one();
                }
            }
            End::TakenBack | End::Broken => {}
        }
    }

    /// What its client took too long for, if it did.
    pub fn slow(&self) -> Option<Slow> {
        Slow::ALL.get(usize::from(self.slow.load(Ordering::Relaxed))).copied()
    }

    fn is_slow(&self, phase: Slow) {
        self.slow.store(phase as u8, Ordering::Relaxed);
    }

    /// The next head has not come, or not come to its end.
    pub fn has_no_head(&self) {
        self.is_slow(if self.read() == 0 { Slow::Silent } else { Slow::Head });
    }

    /// Bytes read from it so far.
    pub fn read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    /// Whether a request waits for the head of its answer.
    pub fn is_asked(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    /// Resolves at once while a request waits for its answer, else when one comes.
    pub async fn anything(&self) {
        // Told first and looked at after, so that none slips through between the two.
        let came = self.came.notified();
        if self.asking.load(Ordering::Relaxed) == 0 {
            came.await;
        }
    }

    /// When it will have rested for `patience`, unless it is busy by then: to be looked at again. `None`: it has.
    fn rests_until(&self, patience: Duration) -> Option<Instant> {
        let now = Instant::now();
        let busy = self.open.load(Ordering::Relaxed) > 0 || !self.lingering.is_empty();
        let rested = self.since + Duration::from_millis(self.rested.load(Ordering::Relaxed));
        let due = if busy { now } else { rested } + patience;
        (due > now).then_some(due)
    }

    /// Resolves when HTTP/1.1 has had nothing under way for a moment, in either direction: what serves it knows nothing
    /// then that could not be made anew. Looks up once in that time, whatever comes and goes.
    pub async fn settled(&self, idle: Duration) {
        let moment = SETTLES.min(idle);
        let mut due = Some(Instant::now() + moment);
        while let Some(look) = due {
            tokio::time::sleep_until(look).await;
            let busy = [&self.tunnel, &self.owes, &self.partial].iter().any(|it| it.load(Ordering::Relaxed));
            due = if busy { Some(look + moment) } else { self.rests_until(moment) };
        }
    }

    /// Resolves when an HTTP/2 connection has had no stream for `patience`.
    pub async fn rested(&self, patience: Duration) {
        loop {
            let Some(due) = self.rests_until(patience) else { return self.is_slow(Slow::Idle) };
            tokio::time::sleep_until(due).await;
        }
    }

    /// Resolves when nothing is under way, looking every `patience`.
    pub async fn unused(&self, patience: Duration) {
        loop {
            tokio::time::sleep(patience).await;
            if self.open.load(Ordering::Relaxed) == 0 && self.lingering.is_empty() {
                return;
            }
        }
    }
}

/// A request that is not over.
#[derive(Debug)]
pub struct Asked {
    pace: Arc<Pace>,
    leftover: Option<Arc<Leftover>>,
    waits: bool,
    end: End,
    /// When it came; HTTP/2 only.
    begun: Option<Instant>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its answer was given to its end.
    Whole,
    /// We or the backend broke its answer off.
    Broken,
    /// Nobody waited for the end of its answer.
    TakenBack,
}

impl Asked {
    /// Whether its connection has asked for too much that it did not want.
    pub fn is_too_much(&self) -> bool {
        self.pace.is_flooded()
    }

    /// From here on its connection is a tunnel, which has bounds of its own.
    pub fn becomes_tunnel(&self) {
        self.pace.tunnel.store(true, Ordering::Relaxed);
    }

    /// Whether it came in a stream of HTTP/2.
    pub fn is_stream(&self) -> bool {
        self.pace.http2
    }

    /// It ends so; until it is told how, its client has taken it back.
    pub const fn ends(&mut self, end: End) {
        self.end = end;
    }

    /// The head of its answer is there.
    pub fn answered(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.pace.asking.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.answered();
        if let Some(leftover) = &self.leftover {
            leftover.answered(self.end == End::Whole);
        }
        if let Some(begun) = self.begun {
            self.pace.over(begun, self.end);
        }
        let rested = u64::try_from(self.pace.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.pace.rested.store(rested, Ordering::Relaxed);
        self.pace.open.fetch_sub(1, Ordering::Relaxed);
    }
}

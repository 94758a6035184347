//! Timers that cost nothing while bytes move.
//!
//! A [`Stall`] exists per body and is armed only when a read has to wait; an `Upload` is shared by a
//! request's body and whoever waits for the answer, so that the wait can tell a backend that does not
//! take the body from a client that does not send it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::{Instant, Sleep};

use crate::model::problem::Problem;

/// Time without a byte.
pub struct Stall {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Stall {
    /// That nothing moves for `limit` is too long.
    pub const fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, armed: false }
    }

    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    /// From the next time that nothing is there to read.
    pub(super) const fn limit_to(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// A byte moved.
    pub const fn moved(&mut self) {
        self.armed = false;
    }

    /// Nothing to read: ready once that has lasted too long.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        if let Some(sleep) = self.sleep.as_mut().filter(|_| !self.armed) {
            sleep.as_mut().reset(Instant::now() + limit);
        }
        self.armed = true;
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }
}

/// A timer that many waits use, one after the other, and that costs next to nothing to set: where an earlier wait set it
/// to a time that comes too early for this one, it is put off only when it goes off.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once it is `due`.
    pub(super) fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// How much longer may be waited for one who has to send at a least rate. Waiting spends it and bytes earn it back, up
/// to where it began: what came fast is no excuse for dripping afterwards, and the time in which nobody asks for a byte
/// costs nothing.
#[derive(Debug)]
pub(super) struct Credit {
    most: Duration,
    left: Duration,
    /// Bytes a second; 0: nothing is asked.
    rate: u64,
    /// Since when it is waited for.
    since: Option<Instant>,
}

impl Credit {
    /// Asks for no rate yet; `most`: how long may be waited without a byte.
    pub(super) const fn new(most: Duration) -> Self {
        Self { most, left: most, rate: 0, since: None }
    }

    /// Asks for `rate` bytes a second.
    pub(super) const fn ask(&mut self, rate: u64) {
        self.rate = rate;
    }

    /// Nothing is there; how long may be waited in all, from when nothing was there first.
    pub(super) fn wait(&mut self, now: impl FnOnce() -> Instant) -> Duration {
        if self.rate > 0 {
            self.since.get_or_insert_with(now);
        }
        self.left
    }

    /// `bytes` have come.
    pub(super) fn earn(&mut self, bytes: u64, now: impl FnOnce() -> Instant) {
        if self.rate == 0 {
            return;
        }
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now().saturating_duration_since(since));
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.left = self.left.saturating_add(earned).min(self.most);
    }

    /// Whether the wait was cut short by what was missing before.
    pub(super) fn is_short(&self) -> bool {
        self.left < self.most
    }
}

/// How long each part of an exchange may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the request's last byte to the answer's head.
    pub(super) response: Duration,
    /// Without a byte of body, either way.
    pub(super) idle: Duration,
    /// When all of it must be over.
    pub(super) due: Option<Instant>,
}

/// When something last moved, for whoever watches it from elsewhere.
pub(super) struct Mark {
    began: Instant,
    /// In milliseconds since it began.
    moved: AtomicU64,
}

impl Mark {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), moved: AtomicU64::new(0) }
    }

    pub(super) fn touch(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(since, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }
}

/// How far a streamed request body has come.
pub(super) struct Upload {
    mark: Mark,
    phase: AtomicU8,
    failed: OnceLock<Problem>,
    /// Nobody waits for the answer any more.
    abandoned: AtomicBool,
    body: AtomicWaker,
}

/// What an upload waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// The backend has what the client sent so far still to take.
    Sending,
    /// The client has more to send; the body's own [`Stall`] watches it.
    Waiting,
    /// Everything was handed to the backend's connection.
    Done,
}

/// What to do when the alarm of an exchange goes off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Wait until then.
    Until(Instant),
    /// The backend does not take the body.
    Stalled,
    /// The backend has the whole request and does not answer.
    Unanswered,
}

impl Upload {
    pub(super) fn begin() -> Arc<Self> {
        Arc::new(Self {
            mark: Mark::new(),
            phase: AtomicU8::new(Phase::Sending as u8),
            failed: OnceLock::new(),
            abandoned: AtomicBool::new(false),
            body: AtomicWaker::new(),
        })
    }

    pub(super) fn note(&self, phase: Phase) {
        if phase != Phase::Waiting {
            self.mark.touch();
        }
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// It ended as the client's fault; the first word counts.
    pub(super) fn fail(&self, problem: Problem) {
        let _first = self.failed.set(problem);
    }

    /// The answer was given up before its end: over HTTP/2 the rest of the request must not go on by itself.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.body.wake();
    }

    /// Whether it was; if not, `cx` is woken when it is.
    pub(super) fn is_abandoned(&self, cx: &Context<'_>) -> bool {
        self.body.register(cx.waker());
        self.abandoned.load(Ordering::Acquire)
    }

    /// What the client is to be told, where it is to blame.
    pub(super) fn failure(&self) -> Option<&Problem> {
        self.failed.get()
    }

    /// Since when it is the backend's turn: to take more of it, or to answer it. `None`: it is the client's.
    pub(super) fn backends(&self) -> Option<Instant> {
        (self.phase.load(Ordering::Acquire) != Phase::Waiting as u8).then(|| self.mark.last())
    }

    /// Whether it is under way and moved within the last `limit`.
    pub(super) fn is_moving(&self, limit: Duration) -> bool {
        self.phase.load(Ordering::Acquire) != Phase::Done as u8 && self.mark.last() + limit > Instant::now()
    }

    pub(super) fn verdict(&self, patience: Patience, now: Instant) -> Verdict {
        let phase = self.phase.load(Ordering::Acquire);
        let (due, overdue) = if phase == Phase::Done as u8 {
            (self.mark.last() + patience.response, Verdict::Unanswered)
        } else if phase == Phase::Waiting as u8 {
            return Verdict::Until(now + patience.idle.min(patience.response));
        } else {
            (self.mark.last() + patience.idle, Verdict::Stalled)
        };
        // The body may be done a moment from now: its own deadline can be nearer than this one.
        if due > now { Verdict::Until(due.min(now + patience.response)) } else { overdue }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { response: Duration::from_secs(10), idle: Duration::from_mins(1), due: None };

    #[test]
    fn each_phase_is_somebody_elses_fault() {
        let upload = Upload::begin();
        let at = |secs| upload.mark.began + Duration::from_secs(secs);
        assert_eq!(upload.verdict(PATIENCE, at(5)), Verdict::Until(at(15)));
        assert_eq!(upload.verdict(PATIENCE, at(55)), Verdict::Until(at(60)));
        assert_eq!(upload.verdict(PATIENCE, at(61)), Verdict::Stalled);
        upload.note(Phase::Waiting);
        assert_eq!(upload.verdict(PATIENCE, at(61)), Verdict::Until(at(71)));
        upload.note(Phase::Done);
        assert!(matches!(upload.verdict(PATIENCE, at(9)), Verdict::Until(_)));
        assert_eq!(upload.verdict(PATIENCE, at(11)), Verdict::Unanswered);
    }

    #[tokio::test]
    async fn an_alarm_goes_off_when_the_last_who_set_it_meant_it_to() {
        let mut alarm = Alarm::default();
        let millis = Duration::from_millis;
        let begun = Instant::now();
        // Set, and left before it went off, as by an answer that comes in time.
        let left = std::future::poll_fn(|cx| Poll::Ready(alarm.poll(begun + millis(30), cx)));
        assert!(left.await.is_pending());
        for due in [begun + millis(150), begun + millis(300), begun + millis(100)] {
            std::future::poll_fn(|cx| alarm.poll(due, cx)).await;
            assert!(Instant::now() >= due, "not before its time");
        }
        // One that was set to a later time than is meant now.
        let late = Instant::now() + Duration::from_mins(1);
        let left = std::future::poll_fn(|cx| Poll::Ready(alarm.poll(late, cx)));
        assert!(left.await.is_pending());
        let due = Instant::now() + millis(50);
        tokio::time::timeout(Duration::from_secs(20), std::future::poll_fn(|cx| alarm.poll(due, cx))).await.unwrap();
        assert!(Instant::now() >= due);
    }

    #[test]
    fn a_rate_is_asked_of_the_time_that_is_waited_and_a_burst_saves_nothing() {
        let seconds = Duration::from_secs;
        let begin = || {
            let mut credit = Credit::new(seconds(10));
            credit.ask(100);
            (credit, Instant::now())
        };
        // Bytes a second, and for how many seconds that goes well: until the next would come after all patience is gone.
        for (each, lasts) in [(1, 10), (50, 18), (99, 900), (100, 2000), (200, 2000)] {
            let (mut credit, mut now) = begin();
            let mut lived = 0;
            while lived < 2000 && credit.wait(|| now) > seconds(1) {
                now += seconds(1);
                credit.earn(each, || now);
                lived += 1;
            }
            assert_eq!(lived, lasts, "{each}");
        }
        let (mut credit, mut now) = begin();
        credit.earn(1 << 40, || now);
        assert_eq!((credit.wait(|| now), credit.is_short()), (seconds(10), false));
        now += seconds(4);
        credit.earn(100, || now);
        // Nobody asks for an hour.
        now += seconds(3600);
        assert_eq!((credit.wait(|| now), credit.is_short()), (seconds(7), true));
        let mut none = Credit::new(seconds(10));
        none.wait(|| now);
        none.earn(1, || now + seconds(9));
        assert_eq!((none.wait(|| now), none.is_short()), (seconds(10), false));
    }
}

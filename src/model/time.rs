//! Time as a value: read once a request, passed down, never fetched inside a decision.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time: milliseconds since the Unix epoch, UTC. What tokens, stores and clients see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the Unix epoch (a JWT's `NumericDate`, RFC 7519 section 2).
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment plus `by`, saturating.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis_of(by)))
    }

    /// This moment minus `by`, saturating.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis_of(by)))
    }

    /// How long until `later`; zero when it is not later.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC with milliseconds: `2024-01-15T10:00:00.000Z`.
    pub fn to_rfc3339(self) -> String {
        // jiff covers years -9999..9999; outside of them the nearest bound is shown.
        let stamp = jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        format!("{stamp:.3}")
    }

    /// Reads an RFC 3339 time with an offset; `None` for anything else.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|stamp| Self(stamp.as_millisecond()))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Steady time since this process's clock was made, to the microsecond. Never steps back; what limits and durations use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Steady(u64);

impl Steady {
    /// From milliseconds since the clock's origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// Whole milliseconds since the clock's origin.
    pub const fn millis(self) -> u64 {
        self.0 / 1000
    }

    /// How long since `earlier`; zero when it is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// One reading of both clocks. A request reads it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// What the calendar says: for expiry and for everything that leaves the process.
    pub wall: Timestamp,
    /// What the stopwatch says: for windows and durations.
    pub steady: Steady,
}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Reads both clocks.
    fn now(&self) -> Now;

    /// Reads the steady one alone.
    fn steady(&self) -> Steady {
        self.now().steady
    }
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose steady time starts now.
    #[expect(clippy::disallowed_methods, reason = "one of the two real clocks")]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "one of the two real clocks")]
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { wall: Timestamp(millis_of(wall)), steady: self.steady() }
    }

    fn steady(&self) -> Steady {
        Steady(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct TestClock {
    wall: AtomicI64,
    steady: AtomicU64,
}

impl TestClock {
    /// A clock that shows `wall` and an arbitrary, non-zero steady time.
    pub fn at(wall: Timestamp) -> Self {
        Self { wall: AtomicI64::new(wall.0), steady: AtomicU64::new(10_000_000_000) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.wall.fetch_add(millis_of(by), Ordering::SeqCst);
        self.steady.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Sets the calendar alone, as an administrator or NTP would: it may step back.
    pub fn step_wall(&self, to: Timestamp) {
        self.wall.store(to.0, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        Now { wall: Timestamp(self.wall.load(Ordering::SeqCst)), steady: Steady(self.steady.load(Ordering::SeqCst)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_has_milliseconds_and_z() {
        let stamp = Timestamp::from_millis(1_705_312_800_000);
        assert_eq!(stamp.to_rfc3339(), "2024-01-15T10:00:00.000Z");
        assert_eq!(Timestamp::from_rfc3339("2024-01-15T11:00:00+01:00"), Some(stamp));
        assert_eq!(Timestamp::from_rfc3339("2024-01-15T10:00:00"), None);
    }

    #[test]
    fn seconds_round_down_before_the_epoch_too() {
        assert_eq!(Timestamp::from_millis(-1).secs(), -1);
        assert_eq!(Timestamp::from_millis(1999).secs(), 1);
    }
}

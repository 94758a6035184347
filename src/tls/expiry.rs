//! Until when the certificates and lists hold that TLS stands on, and when to say that they are about to end.

use std::time::Duration;

use crate::model::time::Timestamp;

/// The last part of a life in which it is said, at most: what is renewed by hand needs some days.
const SOON: Duration = Duration::from_hours(14 * 24);
/// Of a short life the last quarter: lists of revoked certificates live for days or hours, and are made anew by themselves.
const PART: u32 = 4;

/// When something ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expiry {
    /// Whose it is: the first name in a certificate, the subject of an authority, the issuer of a list.
    pub name: String,
    /// When it began to be valid.
    pub begins: Timestamp,
    /// When it stops.
    pub ends: Timestamp,
}

/// How much is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Enough.
    Enough,
    /// So little that it should have been renewed by now.
    Little,
    /// Nothing.
    Nothing,
}

impl Expiry {
    /// How much is left of it.
    pub fn left(&self, now: Timestamp) -> Left {
        if self.ends <= now {
            return Left::Nothing;
        }
        let soon = SOON.min(self.begins.until(self.ends) / PART);
        if now.until(self.ends) <= soon { Left::Little } else { Left::Enough }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_ends_two_weeks_before_its_end_and_a_day_six_hours() {
        let hour = |hours: u64| Timestamp::from_secs(0).plus(Duration::from_hours(hours));
        let of = |hours| Expiry { name: String::new(), begins: hour(0), ends: hour(hours) };
        for (hours, at, left) in [
            (365 * 24, 350 * 24, Left::Enough),
            (365 * 24, 351 * 24, Left::Little),
            (24, 17, Left::Enough),
            (24, 18, Left::Little),
            (24, 23, Left::Little),
            (24, 24, Left::Nothing),
            (24, 1000, Left::Nothing),
            (0, 0, Left::Nothing),
        ] {
            assert_eq!(of(hours).left(hour(at)), left, "{hours} at {at}");
        }
    }
}

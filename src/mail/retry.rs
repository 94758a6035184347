//! When a mail that was not delivered is tried again.

use std::time::Duration;

use crate::model::time::Timestamp;

/// The pause after each failure, in seconds; the last one repeats.
const PAUSES: [u64; 9] = [5, 15, 30, 60, 120, 300, 600, 900, 1800];

/// When to try again after `failures` failures (this one counted), the last of them at `now`. `None`: not before
/// `ends_at`, when the mail is worth nothing any more ([`super::Message::ends_at`]); give it up. Quick at first, since
/// somebody sits there and waits; later slow, since a server that was down for an hour may be down for another.
pub fn next_attempt(failures: u32, now: Timestamp, ends_at: Timestamp) -> Option<Timestamp> {
    let last = PAUSES.len() - 1;
    let at = usize::try_from(failures.saturating_sub(1)).unwrap_or(last).min(last);
    let next = now.plus(Duration::from_secs(PAUSES[at]));
    (next < ends_at).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_an_hour_and_end_with_the_mail() {
        let start = Timestamp::from_secs(1_000_000);
        let ends_at = start.plus(Duration::from_hours(24));
        let (mut now, mut failures, mut pauses) = (start, 0, Vec::new());
        loop {
            failures += 1;
            let Some(next) = next_attempt(failures, now, ends_at) else { break };
            pauses.push(now.until(next).as_secs());
            now = next;
        }
        assert!(pauses.is_sorted() && pauses[..3] == [5, 15, 30] && pauses.last() == Some(&1800));
        assert!(now < ends_at && now.plus(Duration::from_mins(30)) >= ends_at);
        assert!((50..70).contains(&failures), "{failures}");
    }

    #[test]
    fn a_mail_is_not_tried_when_it_is_worth_nothing() {
        let now = Timestamp::from_secs(1_000_000);
        assert_eq!(next_attempt(1, now, now.plus(Duration::from_secs(5))), None);
        assert!(next_attempt(1, now, now.plus(Duration::from_millis(5001))).is_some());
        assert_eq!(next_attempt(1, now, now), None);
        for odd in [0, u32::MAX] {
            assert!(next_attempt(odd, now, Timestamp::from_millis(i64::MAX)).is_some());
        }
        assert_eq!(next_attempt(u32::MAX, Timestamp::from_millis(i64::MAX), Timestamp::from_millis(i64::MAX)), None);
    }
}

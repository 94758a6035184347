//! A window as people write it: `100/1h`, and `100/1h shadow` where it is only tried.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// At most `limit` units in any trailing `length`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Window {
    /// How many units fit; at least 1.
    pub limit: u32,
    /// How long the window is; 1 second to 366 days.
    pub length: Duration,
    /// It is only tried: counted as if it held, and it refuses nothing.
    pub shadow: bool,
}

/// What stands after a window that is only tried.
const SHADOW: &str = " shadow";

/// Why a text is not a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a window is `<limit>/<length>`, such as `100/1h` or `10/30s`: a whole number from 1, then 1 second to 366 days in s, m, h or d"
)]
pub struct BadWindow;

/// Why a window cannot stand beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// One is as long.
    #[error("two windows of one length: only the smaller would count")]
    SameLength,
    /// There are [`Window::MOST`].
    #[error("more than eight windows")]
    TooMany,
}

impl FromStr for Window {
    type Err = BadWindow;

    fn from_str(text: &str) -> Result<Self, BadWindow> {
        let (text, shadow) = text.strip_suffix(SHADOW).map_or((text, false), |text| (text, true));
        let (limit, length) = text.split_once('/').ok_or(BadWindow)?;
        let limit = digits(limit).ok_or(BadWindow)?;
        let limit = u32::try_from(limit).map_err(|_| BadWindow)?;
        let length = parse_duration(length).ok_or(BadWindow)?;
        let lengths = Duration::from_secs(1)..=Duration::from_hours(366 * 24);
        if limit == 0 || !lengths.contains(&length) {
            return Err(BadWindow);
        }
        Ok(Self { limit, length, shadow })
    }
}

impl Window {
    /// The most that stand beside each other.
    pub const MOST: usize = 8;

    /// Why `self` cannot stand beside `others`.
    pub fn beside(&self, others: &[Self]) -> Result<(), Crowded> {
        if others.iter().any(|other| other.length == self.length && other.shadow == self.shadow) {
            return Err(Crowded::SameLength);
        }
        if others.len() == Self::MOST { Err(Crowded::TooMany) } else { Ok(()) }
    }

    /// The same, as a window that holds.
    #[must_use]
    pub const fn held(self) -> Self {
        Self { shadow: false, ..self }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.limit, format_duration(self.length))?;
        f.write_str(if self.shadow { SHADOW } else { "" })
    }
}

/// Reads `250ms`, `30s`, `15m`, `1h`, `7d` (a whole number and one unit); `None` for anything else.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, millis) = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        .into_iter()
        .find_map(|(unit, millis)| Some((digits(text.strip_suffix(unit)?)?, millis)))?;
    number.checked_mul(millis).map(Duration::from_millis)
}

/// The shortest spelling that [`parse_duration`] reads back.
pub fn format_duration(length: Duration) -> String {
    let millis = length.as_millis();
    let (unit, name) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
        .into_iter()
        .find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit))
        .unwrap_or((1, "ms"));
    format!("{}{name}", millis / unit)
}

fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_reads_back_as_it_was_written() {
        for text in ["100/1h", "10/1m", "1/1s", "1000/1d", "5/90s", "4294967295/366d", "7/1m shadow"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
        assert_eq!("60/60s".parse::<Window>(), "60/1m".parse::<Window>());
    }

    #[test]
    fn what_is_not_a_window_is_refused() {
        for bad in [
            "",
            "100",
            "0/1h",
            "-1/1h",
            "+1/1h",
            "1/0s",
            "1/1",
            "1/h",
            "1/1 h",
            "1/367d",
            "4294967296/1h",
            "1/500ms",
            "1e3/1h",
            "1/1h Shadow",
            "1/1h  shadow",
            "1/1h shadow ",
            "1/1h shadow shadow",
            " shadow",
            "1/1hshadow",
        ] {
            assert_eq!(bad.parse::<Window>(), Err(BadWindow), "{bad:?}");
        }
    }
}

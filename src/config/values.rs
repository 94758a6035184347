//! Reading single values: durations, sizes, counts, addresses, secrets. What is wrong is told, and a
//! stand-in goes on, so that one bad value does not hide the next.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;

use super::disk::{DENIED, GONE};
use super::given::Given;
use super::raw::{Number, Text, Texts, each};
use crate::contract::compile::windows;
use crate::contract::source::Report;
use crate::model::secret::Secret;
use crate::model::window::{Window, format_duration, parse_duration};
use crate::rules::secret::{self, Weakness};

/// Seconds, for tables of defaults.
pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A duration within `range`; `default` when the key is not there.
pub(super) fn duration(
    text: &Text,
    default: Duration,
    range: RangeInclusive<Duration>,
    report: &mut Report<'_>,
) -> Duration {
    let Some(text) = text else { return default };
    let remedy = "write a whole number and a unit: `250ms`, `30s`, `15m`, `1h` or `7d`";
    match parse_duration(text.get_ref()) {
        Some(length) if range.contains(&length) => length,
        Some(_) => {
            let shown = |length: &Duration| if length.is_zero() { "0s".into() } else { format_duration(*length) };
            let (least, most) = (shown(range.start()), shown(range.end()));
            let message = format!("`{}` is out of range", text.get_ref());
            report.tell(&text.span(), message, format!("choose from `{least}` to `{most}`"));
            default
        }
        None => {
            report.tell(&text.span(), format!("`{}` is not a duration", text.get_ref()), remedy);
            default
        }
    }
}

/// A count within `range`; `default` when the key is not there.
pub(super) fn count<T: TryFrom<u64> + Copy>(
    number: &Number,
    default: T,
    range: RangeInclusive<u64>,
    report: &mut Report<'_>,
) -> T {
    let Some(number) = number else { return default };
    let value = number.get_ref().0;
    match T::try_from(value) {
        Ok(fits) if range.contains(&value) => fits,
        _ => {
            let remedy = format!("choose from {} to {}", range.start(), range.end());
            report.tell(&number.span(), format!("{value} is out of range"), remedy);
            default
        }
    }
}

/// Bytes: `64KiB`, `10MiB`, `unlimited`; `default` when the key is not there.
pub(super) fn size(text: &Text, default: u64, report: &mut Report<'_>) -> u64 {
    let Some(text) = text else { return default };
    parse_size(text.get_ref()).unwrap_or_else(|| {
        let remedy = "write a whole number and a unit: `512B`, `64KiB`, `10MiB`, `1GiB`, or `unlimited`";
        report.tell(&text.span(), format!("`{}` is not a size", text.get_ref()), remedy);
        default
    })
}

/// Bytes a second up to 1 MiB, 0 for none; `default` when the key is not there.
pub(super) fn rate(text: &Text, default: u64, report: &mut Report<'_>) -> u64 {
    let rate = size(text, default, report);
    if let Some(text) = text.as_ref().filter(|_| rate > 1 << 20) {
        report.tell(&text.span(), format!("`{}` is out of range", text.get_ref()), "choose from `0B` to `1MiB`");
    }
    rate
}

fn parse_size(text: &str) -> Option<u64> {
    if text == "unlimited" {
        return Some(u64::MAX);
    }
    let (digits, unit) = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)]
        .into_iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
    let digits = Some(digits).filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits?.parse::<u64>().ok()?.checked_mul(unit)
}

/// Windows; `default` when the key is not there, none for an empty list.
pub(super) fn limits(texts: &Texts, default: &[Window], report: &mut Report<'_>) -> Vec<Window> {
    if texts.is_none() { default.to_vec() } else { windows(&each(texts), report) }
}

/// An address to listen on.
pub(super) fn address(text: &Spanned<String>, report: &mut Report<'_>) -> Option<SocketAddr> {
    let parsed = text.get_ref().parse();
    if parsed.is_err() {
        let message = format!("`{}` is not an address to listen on", text.get_ref());
        let remedy = "write an IP address and a port: `0.0.0.0:8443`, `127.0.0.1:9090` or `[::]:8443`";
        report.tell(&text.span(), message, remedy);
    }
    parsed.ok()
}

/// A secret as a file writes it: `<name>`, or `<name>_file` with or without `generate`.
pub(super) struct RawSecret<'r> {
    /// The key's name: `secret`, `pepper`, `token`, `url`.
    pub name: &'static str,
    /// Its value in place.
    pub inline: &'r Option<Spanned<Secret>>,
    /// The file that holds it.
    pub file: &'r Text,
    /// Whether the file may be made.
    pub generate: Option<&'r Spanned<bool>>,
    /// The fewest bytes, where it is judged as a symmetric secret.
    pub least: Option<usize>,
    /// Keys of its algorithm are not made here.
    pub by_hand: bool,
}

/// It was told what is wrong; nothing more can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told;

impl RawSecret<'_> {
    /// The secret, judged; `None` when neither key is there.
    pub(super) fn read(&self, given: &Given, report: &mut Report<'_>) -> Result<Option<(Secret, Range<usize>)>, Told> {
        let name = self.name;
        if let (Some(_), Some(file)) = (self.inline, self.file) {
            report.tell(&file.span(), format!("both `{name}` and `{name}_file` are given"), "keep one of them");
            return Err(Told);
        }
        if let (Some(generate), None) = (self.generate.filter(|generate| *generate.get_ref()), self.file) {
            let remedy = format!("say where it is kept: {name}_file = \"data/secrets/{name}\"");
            report.tell(&generate.span(), format!("`generate` makes a file, and there is no `{name}_file`"), remedy);
            return Err(Told);
        }
        let (secret, span) = match (self.inline, self.file) {
            (Some(inline), _) => (inline.get_ref().clone(), inline.span()),
            (None, Some(file)) => (self.in_file(file, given, report)?, file.span()),
            (None, None) => return Ok(None),
        };
        let judged = match self.least {
            Some(least) => secret::judge(secret.expose(), least),
            None if secret.expose().is_empty() => Err(Weakness::Empty),
            None => Ok(()),
        };
        if let Err(weakness) = judged {
            report.tell(&span, format!("the secret is too weak: {weakness}"), self.remedy());
            return Err(Told);
        }
        Ok(Some((secret, span)))
    }

    /// How to come by one.
    pub(super) fn remedy(&self) -> String {
        if self.by_hand {
            let file = self.file.as_ref().map_or("….pem", |file| file.get_ref());
            return format!("make one: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out {file}`");
        }
        let name = self.name;
        // What somebody else has made is not for us to make.
        let token = name == "token" && self.least.is_none();
        if name.ends_with("url") || name == "password" || token {
            return format!("write {name} = \"…\" or {name}_file = \"…\"");
        }
        format!(
            "make one with `tollgate secrets new`, or let it be made: {name}_file = \"data/secrets/…\", generate = true"
        )
    }

    fn in_file(&self, file: &Spanned<String>, given: &Given, report: &mut Report<'_>) -> Result<Secret, Told> {
        let path = file.get_ref();
        match given.secrets.get(path) {
            Some(Ok(secret)) => Ok(secret.clone()),
            Some(Err(reason)) => {
                let remedy = if reason == GONE {
                    "put it back: with another in its place every credential under it would end".to_owned()
                } else if reason == DENIED {
                    "let the gateway's user read it: another in its place would end every credential under it"
                        .to_owned()
                } else {
                    self.remedy()
                };
                report.tell(&file.span(), format!("cannot read `{path}`: {reason}"), remedy);
                Err(Told)
            }
            None => {
                report.tell(&file.span(), format!("`{path}` was not read"), "report this as a bug");
                Err(Told)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_and_fit() {
        for (text, bytes) in [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 1 << 30)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "64", "64KB", "64 KiB", "-1B", "KiB", "1.5MiB", "99999999999999GiB", "+1B"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}

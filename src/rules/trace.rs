//! A request's place in a trace: what `traceparent` and `tracestate` say (W3C Trace Context, Levels 1 and 2), and which
//! traces are recorded.
//!
//! Whom to believe is not decided here: `edge::trace` does, and calls this once a request where tracing is on.

use std::borrow::Cow;
use std::fmt;

use smallvec::SmallVec;

/// A trace, over all that take part in it; never all zero (section 3.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// One operation in a trace; never all zero (section 3.2.2.4, there `parent-id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// What one `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The operation that asks.
    pub span: SpanId,
    /// Whoever asks records it.
    pub sampled: bool,
    /// The trace's last seven bytes are random, so that shares of traces can be drawn by them (Level 2).
    pub random: bool,
}

/// Whose `traceparent` is continued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Everybody's: clients choose the trace, and whether it is recorded.
    Always,
    /// That of the networks whose word on the client's address counts too.
    #[default]
    TrustedProxies,
    /// Nobody's: every request begins a trace.
    Never,
}

/// The share of traces that is recorded, of those that begin here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Of 2^56 values of a trace's random bytes so many are left out.
    left_out: u64,
}

/// The length of a `traceparent`, in bytes.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;
/// The longest `tracestate` that everybody forwards, in bytes, and the most members (section 3.3.1.5 and 3.3.1.1).
const STATE: usize = 512;
const MEMBERS: usize = 32;
/// Members longer than this are left out first where all would be too long.
const LONG: usize = 128;
/// The longest key and value of a member, in bytes.
const WORD: usize = 256;

impl TraceId {
    /// `None` for the one that means nothing.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Its bytes, in the order they are written.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl SpanId {
    /// `None` for the one that means nothing.
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// Its bytes, in the order they are written.
    pub const fn bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// What the `traceparent` of a request says, given all its lines. Several of them are none: nobody can tell which of them
/// others would believe.
pub fn parent<'v>(mut lines: impl Iterator<Item = &'v [u8]>) -> Option<Context> {
    let only = lines.next()?;
    if lines.next().is_some() { None } else { Context::parse(only) }
}

impl Context {
    /// Reads a `traceparent` (section 3.2). Of a version that is not known here the known part counts.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = blank(value).split_at_checked(LENGTH)?;
        let [version] = digits(&known[..2])?;
        let longer = version != 0 && more.first() == Some(&b'-');
        if version == 0xff || !(more.is_empty() || longer) {
            return None;
        }
        if [2, 35, 52].iter().any(|at| known[*at] != b'-') {
            return None;
        }
        let [flags] = digits(&known[53..])?;
        Some(Self {
            trace: TraceId::new(digits(&known[3..35])?)?,
            span: SpanId::new(digits(&known[36..52])?)?,
            sampled: flags & SAMPLED != 0,
            // What a later version means by the other bits is not known.
            random: version == 0 && flags & RANDOM != 0,
        })
    }

    /// The `traceparent` that says this.
    pub fn header(&self) -> [u8; LENGTH] {
        let flags = if self.sampled { SAMPLED } else { 0 } | if self.random { RANDOM } else { 0 };
        let mut header = [b'-'; LENGTH];
        write(&[0], &mut header[..2]);
        write(&self.trace.0, &mut header[3..35]);
        write(&self.span.0, &mut header[36..52]);
        write(&[flags], &mut header[53..]);
        header
    }
}

impl Ratio {
    /// `share` of all, from 0 to 1.
    pub fn new(share: f64) -> Option<Self> {
        /// 2^56.
        const ALL: f64 = 72_057_594_037_927_936.0;
        if !(0.0..=1.0).contains(&share) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 2^56")]
        let left_out = ((1.0 - share) * ALL) as u64;
        Some(Self { left_out })
    }

    /// Whether the trace is one of the share: by its own bytes, so that whoever draws the same share agrees.
    pub fn takes(self, trace: TraceId) -> bool {
        let low = u128::from_be_bytes(trace.0) & ((1 << 56) - 1);
        low >= u128::from(self.left_out)
    }
}

/// The `tracestate` that goes on with a continued trace, given all its lines: `Borrowed` where the only line may stay as it
/// is. `None`: there is none, or what there is breaks the rules (section 3.3.1) and is worth nothing.
pub fn state<'v>(lines: impl Iterator<Item = &'v [u8]>) -> Option<Cow<'v, [u8]>> {
    let mut members: SmallVec<[&[u8]; 8]> = SmallVec::new();
    let (mut count, mut last) = (0, None);
    for line in lines {
        for member in line.split(|byte| *byte == b',').map(blank).filter(|member| !member.is_empty()) {
            if members.len() == MEMBERS || !is_member(member) {
                return None;
            }
            members.push(member);
        }
        (count, last) = (count + 1, Some(line));
    }
    if members.is_empty() {
        return None;
    }
    if let (1, Some(line)) = (count, last.filter(|line| line.len() <= STATE)) {
        return Some(Cow::Borrowed(line));
    }
    let length = |members: &[&[u8]]| members.iter().map(|member| member.len() + 1).sum::<usize>() - 1;
    while length(&members) > STATE {
        let at = members.iter().rposition(|member| member.len() > LONG).unwrap_or(members.len() - 1);
        members.remove(at);
        if members.is_empty() {
            return None;
        }
    }
    Some(Cow::Owned(members.join(&b','.to_owned())))
}

/// `key=value` (section 3.3.1.3; a key may begin with a digit since Level 2).
fn is_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = (&member[..at], &member[at + 1..]);
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let in_key = |byte: &u8| plain(byte) || b"_-*/@".contains(byte);
    let in_value = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    key.first().is_some_and(plain)
        && key.len() <= WORD
        && key.iter().all(in_key)
        && (1..=WORD).contains(&value.len())
        && value.iter().all(in_value)
}

/// Without the blanks at either end that a field's value may have (RFC 9110 section 5.6.3).
fn blank(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Lower-case hexadecimal digits; upper case is malformed (section 3.2.2).
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(bytes)
}

fn write(bytes: &[u8], into: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in into.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn read(value: &str) -> Option<String> {
        let context = Context::parse(value.as_bytes())?;
        Some(String::from_utf8(context.header().to_vec()).unwrap())
    }

    #[test]
    fn a_traceparent_is_read_and_written() {
        for flags in ["00", "01", "02", "03"] {
            let value = format!("00-{TRACE}-{SPAN}-{flags}");
            assert_eq!(read(&value).as_ref(), Some(&value));
        }
        let context = Context::parse(format!("00-{TRACE}-{SPAN}-01").as_bytes()).unwrap();
        assert_eq!((context.trace.to_string(), context.span.to_string()), (TRACE.to_owned(), SPAN.to_owned()));
        assert!(context.sampled && !context.random);
        // Bits that nobody has given a meaning yet are not passed on.
        assert_eq!(read(&format!("00-{TRACE}-{SPAN}-fd")), Some(format!("00-{TRACE}-{SPAN}-01")));
        assert_eq!(read(&format!(" \t00-{TRACE}-{SPAN}-01\t ")), Some(format!("00-{TRACE}-{SPAN}-01")));
    }

    #[test]
    fn of_a_later_version_the_known_part_counts() {
        let known = format!("00-{TRACE}-{SPAN}-01");
        for later in [
            format!("01-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-03"),
            format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
            format!("fe-{TRACE}-{SPAN}-01-"),
        ] {
            assert_eq!(read(&later).as_ref(), Some(&known), "{later}");
        }
        for wrong in [format!("cc-{TRACE}-{SPAN}-01.what"), format!("01-{TRACE}-{SPAN}-011")] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_malformed_is_nothing() {
        let (zero, no_one) = ("0".repeat(32), "0".repeat(16));
        for wrong in [
            String::new(),
            "garbage".into(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("FF-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("000-{TRACE}-{SPAN}-01"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!(".0-{TRACE}-{SPAN}-01"),
            format!("00-{zero}-{SPAN}-01"),
            format!("00-{TRACE}-{no_one}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &SPAN[1..]),
            format!("00-{TRACE}-{SPAN}0-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-011"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-extra"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00 -{TRACE}-{SPAN}-01"),
            format!("00-{TRACE} -{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01\r"),
            format!("00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(read(&wrong), None, "{wrong:?}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert!(parent([good.as_bytes()].into_iter()).is_some());
        assert_eq!(parent([good.as_bytes(), good.as_bytes()].into_iter()), None, "twice the same is malformed too");
        assert_eq!(parent(std::iter::empty()), None);
    }

    fn went(lines: &[&str]) -> Option<String> {
        state(lines.iter().map(|line| line.as_bytes())).map(|state| String::from_utf8(state.into_owned()).unwrap())
    }

    #[test]
    fn a_state_goes_on_as_it_is() {
        for line in
            ["a=1", "foo=1,bar=2", " foo=1 ,\tbar=2 ", "congo=t61rcWkgMzE", "t@v=a b!~", "0a/*_-@=1", "a=1,,b=2,"]
        {
            assert_eq!(went(&[line]).as_deref(), Some(line));
        }
        assert_eq!(went(&["foo=1, bar=2", "", "baz=3"]).as_deref(), Some("foo=1,bar=2,baz=3"));
        let many: Vec<String> = (0..32).map(|at| format!("k{at}=v")).collect();
        assert_eq!(went(&[&many.join(",")]), Some(many.join(",")));
    }

    #[test]
    fn a_state_that_breaks_the_rules_is_worth_nothing() {
        let many: Vec<String> = (0..33).map(|at| format!("k{at}=v")).collect();
        let (word, long) = ("x".repeat(256), "x".repeat(257));
        for wrong in [
            "",
            " , ",
            "foo",
            "=1",
            "foo=",
            "Foo=1",
            "f oo=1",
            "foo =1",
            "_a=1",
            "a=b=c",
            "a=\u{e9}",
            "a=\t1",
            "foo=1,b;r=2",
            &many.join(","),
            &format!("{long}=1"),
            &format!("a={long}"),
        ] {
            assert_eq!(went(&[wrong]), None, "{wrong:?}");
        }
        assert_eq!(went(&["foo=1", "bar"]), None, "one bad line spoils all");
        assert!(went(&[&format!("{word}=1")]).is_some() && went(&[&format!("a={word}")]).is_some());
    }

    #[test]
    fn of_a_state_that_is_too_long_whole_members_are_left_out() {
        let long = format!("long={}", "v".repeat(200));
        let short: Vec<String> = (0..30).map(|at| format!("k{at:02}=0123456789")).collect();
        let line = format!("{},{long},{}", short[0], short[1..].join(","));
        assert_eq!(went(&[&line]), Some(short.join(",")), "the long one goes first");
        let each: Vec<String> = (0..10).map(|at| format!("k{at}={}", "v".repeat(100))).collect();
        assert_eq!(went(&[&each.join(",")]), Some(each[..4].join(",")), "then from the end");
    }

    #[test]
    fn a_ratio_takes_its_share_and_a_larger_one_takes_those_too() {
        let trace =
            |at: u64| TraceId::new((u128::from(at.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1 << 120).to_be_bytes());
        let traces: Vec<TraceId> = (0..20_000).filter_map(trace).collect();
        let taken = |share: f64| -> Vec<bool> {
            let ratio = Ratio::new(share).unwrap();
            traces.iter().map(|trace| ratio.takes(*trace)).collect()
        };
        let count = |share: f64| taken(share).iter().filter(|taken| **taken).count();
        assert_eq!((count(0.0), count(1.0)), (0, 20_000));
        assert!((1_800..2_200).contains(&count(0.1)), "{}", count(0.1));
        assert!(taken(0.1).iter().zip(taken(0.3)).all(|(few, more)| !few || more));
        for none in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::new(none), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_context_or_none_and_what_is_written_is_read(
            bytes in any::<Vec<u8>>(), trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), flags in 0_u8..4,
        ) {
            let _ = Context::parse(&bytes);
            let _ = state([bytes.as_slice()].into_iter());
            if let (Some(trace), Some(span)) = (TraceId::new(trace), SpanId::new(span)) {
                let context = Context { trace, span, sampled: flags & 1 != 0, random: flags & 2 != 0 };
                prop_assert_eq!(Context::parse(&context.header()), Some(context));
            }
        }
    }
}

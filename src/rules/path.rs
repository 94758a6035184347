//! One spelling for every path.
//!
//! A backend decodes a path before it decides what it means, so a gateway that decides on another
//! spelling can be talked past (CVE-2019-9901, CVE-2021-29492, CVE-2026-33494 and their like). Here a
//! path is brought to its one canonical spelling, or refused where backends are known to disagree on
//! what it means. The router decides on exactly the text that is forwarded. Called once a request by
//! `edge::route`; queries and fragments are not paths and have no business here.
//!
//! Two paths have the same canonical spelling exactly when they decode to the same bytes.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use crate::model::problem::Problem;

/// Why backends would not agree on what a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousPath {
    /// It does not start with a slash.
    #[error("the path does not start with `/`")]
    NotAbsolute,
    /// `//`: merged by some, kept by others.
    #[error("the path holds an empty segment")]
    EmptySegment,
    /// `.` or `..`, in whatever spelling.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// `\`, `%5c` or `%2f`: a separator to some.
    #[error("the path holds a backslash or an encoded slash")]
    Separator,
    /// `;` or `%3b`: servlet containers cut the rest of the segment off before they route.
    #[error("the path holds a `;`")]
    Parameter,
    /// A control character, raw or encoded (NUL ends a path for some).
    #[error("the path holds a control character")]
    Control,
    /// A byte that no path may hold raw (RFC 3986 section 3.3): space, `?`, `#`, beyond ASCII.
    #[error("the path holds a character that must be percent-encoded")]
    Raw,
    /// `%` without two hexadecimal digits.
    #[error("the path holds a `%` without two hexadecimal digits")]
    Escape,
    /// Decodes to text that holds an escape again: `%252e`.
    #[error("the path is encoded twice")]
    EncodedTwice,
    /// Not UTF-8 once decoded; overlong forms of `.` and `/` among it.
    #[error("the path is not UTF-8")]
    NotUtf8,
}

impl From<AmbiguousPath> for Problem {
    fn from(_: AmbiguousPath) -> Self {
        Self::AmbiguousPath
    }
}

/// The canonical spelling of `path`: every byte that may stand raw does, every other one is `%XX` in
/// upper case. Allocates only when the spelling changes or the path is longer than 256 bytes and
/// holds escapes.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    if !path.starts_with('/') {
        return Err(AmbiguousPath::NotAbsolute);
    }
    if path.bytes().all(|byte| byte == b'/' || stands_raw(byte)) {
        check_segments(path)?;
        return Ok(Cow::Borrowed(path));
    }
    let (decoded, respelt) = decode(path.as_bytes())?;
    let text = str::from_utf8(&decoded).map_err(|_| AmbiguousPath::NotUtf8)?;
    // Also the C1 controls, which only show once decoded: U+0085 is a line break to some.
    if text.chars().any(char::is_control) {
        return Err(AmbiguousPath::Control);
    }
    if text.as_bytes().windows(3).any(|three| three[0] == b'%' && hex(&three[1..]).is_some()) {
        return Err(AmbiguousPath::EncodedTwice);
    }
    check_segments(text)?;
    Ok(if respelt { Cow::Owned(encode(&decoded)) } else { Cow::Borrowed(path) })
}

/// The same for a route whose backend keeps `%2F` within a segment: it stays there, spelt `%2F`. Refused is whatever would
/// be with slashes in their places, so that a backend which does not keep them finds nothing ambiguous either; what
/// speaks of that reading ([`reading`]) must be asked as well.
pub fn with_encoded_slashes(path: &str) -> Result<String, AmbiguousPath> {
    if !path.starts_with('/') {
        return Err(AmbiguousPath::NotAbsolute);
    }
    let mut read = String::with_capacity(path.len());
    // For each slash, whether it came encoded. The canonical spelling has the same ones in the same order.
    let mut slashes: SmallVec<[bool; 16]> = SmallVec::new();
    let mut rest = path;
    while let Some(at) = rest.find(['/', '%']) {
        let (before, from) = rest.split_at(at);
        read.push_str(before);
        let encoded = from.get(..3).is_some_and(|three| three.eq_ignore_ascii_case("%2f"));
        if encoded || from.starts_with('/') {
            slashes.push(encoded);
            read.push('/');
        } else {
            read.push('%');
        }
        rest = &from[if encoded { 3 } else { 1 }..];
    }
    read.push_str(rest);
    let mut slashes = slashes.into_iter();
    let mut spelt = String::with_capacity(path.len());
    for character in canonical(&read)?.chars() {
        match character {
            '/' if slashes.next() == Some(true) => spelt.push_str("%2F"),
            _ => spelt.push(character),
        }
    }
    Ok(spelt)
}

/// What a canonical path means to a backend that takes `%2F` for a slash; `None`: the same.
pub fn reading(path: &str) -> Option<String> {
    // Most paths hold no escape at all, which is much sooner seen.
    (path.contains('%') && path.contains("%2F")).then(|| path.replace("%2F", "/"))
}

/// A segment of a canonical path as it is to whoever takes no notice of case, in any script: to be compared with another
/// such. Besides the letters that have the same other case, some that only look like it: `\u{212a}` (Kelvin) is a `k` to
/// many, `\u{17f}` an `s`, `\u{130}` and `\u{131}` an `i`.
pub fn folded(segment: &str) -> Cow<'_, str> {
    if segment.contains('%') {
        let decoded = percent_decode_str(segment).decode_utf8_lossy();
        let fold = |letter: char| if letter == '\u{130}' { 'i' } else { letter };
        return Cow::Owned(
            decoded.chars().map(fold).flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect(),
        );
    }
    if segment.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(segment.to_ascii_lowercase())
    } else {
        Cow::Borrowed(segment)
    }
}

/// RFC 3986's `pchar` without `%`, and without `;`, which is refused in either spelling.
const fn stands_raw(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

/// The decoded bytes, and whether the spelling was not the canonical one. In the result `/` is always a separator.
fn decode(path: &[u8]) -> Result<(SmallVec<[u8; 256]>, bool), AmbiguousPath> {
    let mut decoded = SmallVec::new();
    let mut respelt = false;
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let byte = match first {
            b'%' => {
                let byte = rest.get(..2).and_then(hex).ok_or(AmbiguousPath::Escape)?;
                respelt |= stands_raw(byte) || rest[..2].iter().any(u8::is_ascii_lowercase);
                rest = &rest[2..];
                if byte == b'/' {
                    return Err(AmbiguousPath::Separator);
                }
                byte
            }
            b' ' | b'?' | b'#' | 0x80.. => return Err(AmbiguousPath::Raw),
            // `[`, `|`, `{` and their like are not allowed raw, but browsers send them: encoded from here on.
            byte => {
                respelt |= *byte != b'/' && !stands_raw(*byte);
                *byte
            }
        };
        match byte {
            b'\\' => return Err(AmbiguousPath::Separator),
            b';' => return Err(AmbiguousPath::Parameter),
            0..0x20 | 0x7f => return Err(AmbiguousPath::Control),
            byte => decoded.push(byte),
        }
    }
    Ok((decoded, respelt))
}

fn hex(two: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(two[0])? << 4 | digit(two[1])?)
}

/// A trailing slash is a path of its own; an empty segment anywhere else is ambiguous.
fn check_segments(path: &str) -> Result<(), AmbiguousPath> {
    // What is refused below begins with one of two pairs of bytes, and most paths hold neither.
    let begins = |two: &[u8]| two[0] == b'/' && matches!(two[1], b'/' | b'.');
    if !path.as_bytes().windows(2).fold(false, |odd, two| odd | begins(two)) {
        return Ok(());
    }
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_some() => return Err(AmbiguousPath::EmptySegment),
            "." | ".." => return Err(AmbiguousPath::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

fn encode(decoded: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut path = String::with_capacity(decoded.len() + 16);
    for byte in decoded {
        if *byte == b'/' || stands_raw(*byte) {
            path.push(char::from(*byte));
        } else {
            path.push('%');
            path.push(char::from(DIGITS[usize::from(byte >> 4)]));
            path.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(path: &str) -> AmbiguousPath {
        canonical(path).expect_err(path)
    }

    #[test]
    fn an_honest_path_passes_as_it_is_and_without_a_copy() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/api/v1/posts/42",
            "/.well-known/jwks.json",
            "/a..b/c.",
            "/.../x",
            "/v1/items:batch/a@b.c,d=e!$&'()*+~",
            "/caf%C3%A9/100%25/%20",
            "/Mixed/Case",
        ] {
            assert!(matches!(canonical(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn every_spelling_of_a_path_becomes_one() {
        for (spelling, path) in [
            ("/%61dmin", "/admin"),
            ("/adm%69n%2Ejson", "/admin.json"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/items%3Abatch", "/items:batch"),
            ("/a%2bb%40c", "/a+b@c"),
            ("/a[0]|{x}", "/a%5B0%5D%7C%7Bx%7D"),
            ("/%7euser", "/~user"),
            ("/a%2E%2E", "/a.."),
        ] {
            assert_eq!(canonical(spelling).unwrap(), path, "{spelling}");
        }
    }

    #[test]
    fn what_backends_read_differently_is_refused() {
        for (paths, why) in [
            (&["", "a", "*", "http://h/", "%2Fa"][..], AmbiguousPath::NotAbsolute),
            (&["//", "//a", "/a//b", "/a//", "/%61//b"], AmbiguousPath::EmptySegment),
            (
                &["/.", "/..", "/a/./b", "/public/../admin", "/a/..", "/%2e%2e/a", "/a/.%2E/b", "/%2E/", "/a/%2e"],
                AmbiguousPath::DotSegment,
            ),
            (&["/a%2fb", "/a%2Fb", "/a\\b", "/a%5cb", "/..%5C..", "/..%2f"], AmbiguousPath::Separator),
            (&["/a;x=1", "/..;/admin", "/a%3bx", "/a;"], AmbiguousPath::Parameter),
            (&["/a%00", "/a%0a", "/%1F", "/a\tb", "/a\u{7f}", "/%7f", "/%C2%85"], AmbiguousPath::Control),
            (&["/a b", "/caf\u{e9}", "/a?x", "/a#frag"], AmbiguousPath::Raw),
            (&["/%", "/%4", "/%zz", "/a%+1", "/%4/", "/a%2"], AmbiguousPath::Escape),
            (&["/%252e%252e", "/%25%32%66", "/%2525", "/%255c", "/a%25AB"], AmbiguousPath::EncodedTwice),
            (&["/%c0%ae", "/%c0%af", "/%ff", "/%e0%80%af", "/%ED%A0%80", "/%C3"], AmbiguousPath::NotUtf8),
        ] {
            for path in paths {
                assert_eq!(refused(path), why, "{path:?}");
            }
        }
    }

    #[test]
    fn an_encoded_slash_stays_where_it_may_and_hides_nothing() {
        for (path, spelt) in [
            ("/files/a%2fb", "/files/a%2Fb"),
            ("/files/a%2Fb/c", "/files/a%2Fb/c"),
            ("/files/%61%2f%c3%a9", "/files/a%2F%C3%A9"),
            ("/files/a%2F", "/files/a%2F"),
            ("/files/a", "/files/a"),
        ] {
            assert_eq!(with_encoded_slashes(path).as_deref(), Ok(spelt), "{path}");
        }
        for (path, why) in [
            ("%2Fa", AmbiguousPath::NotAbsolute),
            ("/a%2F..%2Fb", AmbiguousPath::DotSegment),
            ("/a/..%2Fb", AmbiguousPath::DotSegment),
            ("/a%2F%2e%2e/b", AmbiguousPath::DotSegment),
            ("/a%2f%2Fb", AmbiguousPath::EmptySegment),
            ("/%2Fa", AmbiguousPath::EmptySegment),
            ("/a/%2f", AmbiguousPath::EmptySegment),
            ("/a%252Fb", AmbiguousPath::EncodedTwice),
            ("/a%5Cb", AmbiguousPath::Separator),
            ("/a%2Fb;c", AmbiguousPath::Parameter),
            ("/a%2Fb%00", AmbiguousPath::Control),
            ("/a%2%2fF", AmbiguousPath::Escape),
            ("/a%c0%af%2Fb", AmbiguousPath::NotUtf8),
        ] {
            assert_eq!(with_encoded_slashes(path), Err(why), "{path}");
        }
        assert_eq!((reading("/a%2Fb/c").as_deref(), reading("/a/b")), (Some("/a/b/c"), None));
    }

    #[test]
    fn a_letter_has_no_case_in_any_script_and_no_other_letter_is_it() {
        for (one, other) in [
            ("rerun", "ReRUN"),
            ("caf%C3%A9", "CAF%C3%89"),
            ("keys", "%E2%84%AAey%C5%BF"),
            ("files", "f%C4%B0le%C5%BF"),
            ("files", "F%C4%B1LES"),
            ("%CE%A3%CF%83", "%CF%82%CE%A3"),
            ("%D0%B6", "%D0%96"),
            ("a%20b", "A%20B"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        for (one, other) in
            [("caf%C3%A9", "cafe"), ("a%25b", "a%20b"), ("a", "%D0%B0"), ("a%2Fb", "a"), ("%7Ba%7D", "a")]
        {
            assert_ne!(folded(one), folded(other), "{one} {other}");
        }
        assert!(matches!(folded("plain-1"), Cow::Borrowed("plain-1")));
    }

    /// Paths that are nearly right: the characters that matter, in every spelling, in any order.
    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just("%".to_owned()),
            "[ -~]",
            any::<u8>().prop_map(|byte| format!("%{byte:02x}")),
            any::<u8>().prop_map(|byte| format!("%{byte:02X}")),
            any::<char>().prop_map(|c| percent_encoding::utf8_percent_encode(
                c.encode_utf8(&mut [0; 4]),
                percent_encoding::NON_ALPHANUMERIC
            )
            .to_string()),
            prop::sample::select(vec![".", "..", "%2e", "%2E", "%25", "2f", "%c0%af", "a", "A", "\\", ";", "\u{e9}"])
                .prop_map(str::to_owned),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    /// The same bytes, each spelt raw or encoded, in either case, as the dice fall.
    fn respell(path: &str, dice: &[u8]) -> String {
        let decoded: Vec<u8> = percent_decode_str(path).collect();
        decoded
            .iter()
            .zip(dice.iter().cycle())
            .map(|(byte, die)| match die % 3 {
                _ if *byte == b'/' => "/".to_owned(),
                0 if byte.is_ascii_graphic() && !b"%?#".contains(byte) => char::from(*byte).to_string(),
                1 => format!("%{byte:02x}"),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_text_is_spelt_or_refused_and_never_panics(path in any::<String>()) {
            let _ = canonical(&path);
        }

        #[test]
        fn the_canonical_spelling_is_its_own(path in tricky()) {
            if let Ok(once) = canonical(&path) {
                prop_assert!(matches!(canonical(&once), Ok(Cow::Borrowed(twice)) if twice == once));
            }
        }

        #[test]
        fn what_passes_means_the_same_to_every_decoder(path in tricky()) {
            if let Ok(spelt) = canonical(&path) {
                let decoded: Vec<u8> = percent_decode_str(&spelt).collect();
                prop_assert_eq!(&decoded, &percent_decode_str(&path).collect::<Vec<u8>>());
                let text = String::from_utf8(decoded).expect("UTF-8");
                // Decoding again, merging slashes, resolving dots or cutting parameters changes nothing.
                prop_assert_eq!(percent_decode_str(&text).collect::<Vec<u8>>(), text.as_bytes());
                prop_assert!(!text.contains("//") && !text.contains(['\\', ';', '\0']));
                prop_assert!(text.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert_eq!(spelt.matches('/').count(), text.matches('/').count());
            }
        }

        #[test]
        fn a_path_with_encoded_slashes_is_spelt_one_way_and_its_reading_is_canonical(path in tricky()) {
            if let Ok(spelt) = with_encoded_slashes(&path) {
                prop_assert!(percent_decode_str(&spelt).eq(percent_decode_str(&path)));
                let again = with_encoded_slashes(&spelt);
                prop_assert_eq!(again.as_deref(), Ok(&*spelt));
                let read = reading(&spelt).unwrap_or_else(|| spelt.clone());
                prop_assert!(matches!(canonical(&read), Ok(Cow::Borrowed(same)) if same == read));
            }
        }

        #[test]
        fn no_two_spellings_of_the_same_bytes_part_ways(path in tricky(), dice in prop::collection::vec(any::<u8>(), 1..40)) {
            if let Ok(spelt) = canonical(&path) {
                let other = respell(&spelt, &dice);
                let again = canonical(&other);
                prop_assert_eq!(again.as_deref(), Ok(&*spelt), "{}", other);
            }
        }
    }
}

//! What a log line may hold: nothing that moves a terminal, nothing that opens a door.
//!
//! A client chooses paths and header values, and errors quote what was sent. So every line is escaped
//! before it is written, paths lose their query, and whatever looks like a credential is starred out. The
//! last is a second net, not the rule: credentials are not handed to the log in the first place.

use std::borrow::Cow;
use std::fmt::Write;

/// Appends `line` with its control and invisible characters as `\uXXXX`. In JSON the text stays the same
/// JSON text: `serde_json` has escaped what stands below U+0020, this adds DEL, C1 (an 8-bit terminal's
/// escape sequences), and the characters that hide or reorder others.
pub(super) fn append_json(line: &[u8], into: &mut Vec<u8>) {
    append(line, into, |c, escaped| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    });
}

/// Appends `line` with its control and invisible characters as `\n` or `\u{9b}`, for a person.
pub(super) fn append_text(line: &[u8], into: &mut Vec<u8>) {
    append(line, into, |c, escaped| escaped.extend(c.escape_default()));
}

fn append(line: &[u8], into: &mut Vec<u8>, escape: impl Fn(char, &mut String)) {
    // Without a way out in between, so that the compiler takes many bytes at once.
    let odd = line.iter().fold(false, |odd, byte| odd | !matches!(byte, b' '..=b'~'));
    if !odd {
        into.extend_from_slice(line);
        return;
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    // What is written is text; should it not be, nobody's terminal is to learn of it.
    for c in String::from_utf8_lossy(line).chars() {
        if is_hidden(c) { escape(c, &mut escaped) } else { escaped.push(c) }
    }
    into.extend_from_slice(escaped.as_bytes());
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// At most `most` bytes of `text`, whole characters, with `…` where something was cut.
pub(super) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(most)]))
}

/// A path as the log shows it: no query, no fragment, at most 2 KiB, no token.
pub(super) fn path(path: &str) -> Cow<'_, str> {
    // One look at many bytes at once for most paths, which hold none of what is cut off or starred out below.
    let clean = path.bytes().fold(true, |clean, byte| clean & !matches!(byte, b'?' | b'#' | b'J'));
    if clean {
        return cut(path, 2048);
    }
    let bare = path.find(['?', '#']).map_or(path, |at| &path[..at]);
    let short = cut(bare, 2048);
    if short.contains("eyJ") { Cow::Owned(scrub(&short)) } else { short }
}

/// `text` with what looks like a credential starred out: tokens, what follows an authentication scheme,
/// the name and password of a URL, private keys.
pub(super) fn scrub(text: &str) -> String {
    const ENDS: &[char] = &[' ', '\t', '\r', '\n', '"', '\'', '`', ',', '(', ')', '<', '>', '[', ']', '{', '}', '='];
    let text = &text[..begin_of_private(text)];
    let mut out = String::with_capacity(text.len());
    let (mut after_scheme, mut after_name) = (false, false);
    for piece in text.split_inclusive(ENDS) {
        let word = piece.trim_end_matches(ENDS);
        // An English word after the scheme's name is lower-case throughout; eight random characters hardly ever are.
        let odd = word.len() >= 8 && word.bytes().any(|byte| !byte.is_ascii_lowercase());
        if (after_scheme && odd) || (after_name && !word.is_empty()) {
            out.push_str("***");
        } else {
            out.push_str(&without_token(&without_userinfo(word)));
        }
        out.push_str(&piece[word.len()..]);
        let is_one_of = |names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
        after_scheme = is_one_of(&["bearer", "basic", "apikey", "authorization:"]) || (after_scheme && word.is_empty());
        after_name = piece.ends_with('=') && is_one_of(&["password", "secret", "token", "api_key", "pepper"]);
    }
    out
}

/// Where a PEM block begins that is not known to be public; the text's length where none does.
fn begin_of_private(text: &str) -> usize {
    const BEGIN: &str = "-----BEGIN ";
    const PUBLIC: [&str; 3] = ["CERTIFICATE-----", "X509 CRL-----", "PUBLIC KEY-----"];
    let private = |(at, _): &(usize, &str)| !PUBLIC.iter().any(|label| text[at + BEGIN.len()..].starts_with(label));
    text.match_indices(BEGIN).find(private).map_or(text.len(), |(at, _)| at)
}

fn without_userinfo(word: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = word.split_once("://") else { return Cow::Borrowed(word) };
    let authority = rest.find(['/', '?', '#']).map_or(rest, |at| &rest[..at]);
    match authority.rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}://***{}", &rest[at..])),
        None => Cow::Borrowed(word),
    }
}

/// Stars out what begins as every JWT does: `eyJ` is `{"` in base64url.
fn without_token(word: &str) -> Cow<'_, str> {
    let Some(at) = word.find("eyJ") else { return Cow::Borrowed(word) };
    let rest = &word[at..];
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
    if end < 16 {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("{}***{}", &word[..at], without_token(&rest[end..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_terminal_or_hides_text_is_escaped_and_letters_are_not() {
        let json = |line: &str| {
            let mut out = Vec::new();
            append_json(line.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(json("a\u{7f}b\u{9b}31mc\u{202e}d\u{2028}"), "a\\u007fb\\u009b31mc\\u202ed\\u2028");
        assert_eq!(json("\u{e0041}"), "\\udb40\\udc41");
        assert_eq!(json("J\u{fc}rgen \u{65e5}\u{672c}"), "J\u{fc}rgen \u{65e5}\u{672c}");
        let read: String = serde_json::from_str(&json("\"a\u{9b}\u{e0041}b\"")).unwrap();
        assert_eq!(read, "a\u{9b}\u{e0041}b");
        let mut text = Vec::new();
        append_text("a\x1b[31m\nb\u{9b}".as_bytes(), &mut text);
        assert_eq!(text, b"a\\u{1b}[31m\\nb\\u{9b}");
    }

    #[test]
    fn a_path_loses_its_query_and_what_is_too_long() {
        assert_eq!(path("/a/b?token=secret"), "/a/b");
        assert_eq!(path("/a/b#frag?x"), "/a/b");
        assert_eq!(path("/a/b"), "/a/b");
        let long = format!("/{}", "\u{e9}".repeat(2000));
        let shown = path(&long);
        assert!(shown.len() <= 2048 + 3 && shown.ends_with('…') && long.starts_with(shown.trim_end_matches('…')));
        assert_eq!(path(&"x".repeat(2048)), "x".repeat(2048));
    }

    #[test]
    fn what_looks_like_a_credential_is_starred_out() {
        let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        for (said, shown) in [
            (format!("bad token {token}, sorry"), "bad token ***, sorry".to_owned()),
            (format!("/verify/{token}/now"), "/verify/***/now".to_owned()),
            ("postgres://me:hunter2@db:5432/app refused".to_owned(), "postgres://***@db:5432/app refused".to_owned()),
            ("postgres://me:p@ss@db/app".to_owned(), "postgres://***@db/app".to_owned()),
            ("Authorization: Bearer vantage_abcdef0123".to_owned(), "Authorization: Bearer ***".to_owned()),
            ("header \"apikey sk_live_1234567\"".to_owned(), "header \"apikey ***\"".to_owned()),
            ("password=hunter2 user=me".to_owned(), "password=*** user=me".to_owned()),
            ("Basic dXNlcjpwYXNz=".to_owned(), "Basic ***=".to_owned()),
            ("read -----BEGIN PRIVATE KEY-----\nMIIE".to_owned(), "read ".to_owned()),
            (
                "it holds no `-----BEGIN CERTIFICATE-----`: -----BEGIN EC PR".to_owned(),
                "it holds no `-----BEGIN CERTIFICATE-----`: ".to_owned(),
            ),
        ] {
            assert_eq!(scrub(&said), shown);
        }
    }

    #[test]
    fn plain_words_stay() {
        for said in [
            "connection refused (os error 111)",
            "Basic authentication is not enabled",
            "the bearer of this note",
            "the password = is missing",
            "http://127.0.0.1:9000/a@b answered 500",
            "mail to a@example.com, id eyJx",
            "",
        ] {
            assert_eq!(scrub(said), said);
        }
    }
}

//! A form from a client, read strictly: `username=jo&password=a%2Bb`.
//!
//! The URL Standard's parser bends what is not a form into one: a `%` that starts no escape stays a `%`, bytes that are no
//! UTF-8 become `U+FFFD`, a name that stands twice is given twice. A password that is bent is another password, so here all of
//! that is refused. Called by [`super::decode`] alone.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use serde_json::{Map, Value};

use super::json::shortened;
use crate::model::problem::FieldError;

/// No operation reads more than a handful.
const MAX_FIELDS: usize = 256;

/// Whether `content_type` is a form's, whatever its case and parameters (RFC 9110 section 8.3.1).
pub(super) fn is_form(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The fields of a form, each a text.
pub(super) fn parse(body: &[u8]) -> Result<Map<String, Value>, FieldError> {
    let mut fields = Map::new();
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        if fields.len() == MAX_FIELDS {
            return Err(FieldError::new("", "has too many fields"));
        }
        let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let name = text(&pair[..equals]).map_err(|message| FieldError::new("", message))?;
        let value = text(pair.get(equals + 1..).unwrap_or_default())
            .map_err(|message| FieldError::new(shortened(&name), message))?;
        if fields.contains_key(&name) {
            return Err(FieldError::new(shortened(&name), "stands more than once"));
        }
        fields.insert(name, Value::String(value));
    }
    Ok(fields)
}

fn text(raw: &[u8]) -> Result<String, &'static str> {
    let escapes = raw.iter().enumerate().filter(|(_, byte)| **byte == b'%').map(|(at, _)| raw.get(at + 1..at + 3));
    if !escapes.into_iter().all(|digits| digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))) {
        return Err("holds a `%` without two hexadecimal digits: a percent sign itself is written %25");
    }
    let spaced: Vec<u8> = raw.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let decoded: Cow<'_, [u8]> = percent_decode(&spaced).into();
    String::from_utf8(decoded.into_owned()).map_err(|_| "is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Vec<(String, String)> {
        let fields = parse(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error:?}"));
        fields.into_iter().map(|(name, value)| (name, value.as_str().unwrap().to_owned())).collect()
    }

    fn one(body: &[u8], field: &str, message: &str) {
        assert_eq!(parse(body), Err(FieldError::new(field, message)), "{}", String::from_utf8_lossy(body));
    }

    #[test]
    fn a_plus_is_a_space_and_everything_else_is_escaped() {
        for (body, value) in [
            ("p=a+b", "a b"),
            ("p=a%2Bb", "a+b"),
            ("p=a%2bb", "a+b"),
            ("p=100%25", "100%"),
            ("p=%2525", "%25"),
            ("p=a%26b%3Dc", "a&b=c"),
            ("p=a=b", "a=b"),
            ("p=%C3%A9%E2%82%AC", "é€"),
            ("p=é", "é"),
            ("p=%F0%9F%94%91;x", "🔑;x"),
            ("p=", ""),
            ("p", ""),
            ("&&p=x&", "x"),
            ("%70=x", "x"),
        ] {
            assert_eq!(read(body), [("p".to_owned(), value.to_owned())], "{body}");
        }
        assert_eq!(read("a=1&b=2"), [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        assert_eq!(read(""), []);
    }

    #[test]
    fn what_is_not_quite_a_form_is_refused_and_never_bent_into_one() {
        let percent = "holds a `%` without two hexadecimal digits: a percent sign itself is written %25";
        for body in ["p=100%", "p=%", "p=%4", "p=%zz", "p=%+1", "p=a%2", "p=%%25"] {
            one(body.as_bytes(), "p", percent);
        }
        one(b"%=x", "", percent);
        one(b"p=%ff", "p", "is not UTF-8");
        one(b"p=\xff", "p", "is not UTF-8");
        one(b"p=%ED%A0%80", "p", "is not UTF-8");
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_in_every_spelling() {
        for body in ["p=a&p=b", "p=a&%70=b", "p=a&q=1&p=a", "p&p"] {
            one(body.as_bytes(), "p", "stands more than once");
        }
        let long = "k".repeat(10_000);
        one(format!("{long}=1&{long}=2").as_bytes(), &long[..64], "stands more than once");
    }

    #[test]
    fn the_number_of_fields_is_bounded() {
        let many = |count: usize| (0..count).map(|at| format!("f{at}=x")).collect::<Vec<_>>().join("&");
        assert_eq!(read(&many(256)).len(), 256);
        one(many(257).as_bytes(), "", "has too many fields");
    }

    #[test]
    fn a_form_is_known_by_its_type_alone() {
        for good in ["application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded ; charset=utf-8"] {
            assert!(is_form(good), "{good}");
        }
        for bad in ["multipart/form-data", "application/x-www-form-urlencodedx", "text/plain", ""] {
            assert!(!is_form(bad), "{bad}");
        }
    }
}

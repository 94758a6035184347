//! What a client presents: the `Authorization` field, read and classified.
//!
//! A credential's shape and the contract's schemes tell what it is, never a trial of each verifier. An
//! API key under the token's scheme is refused without being looked up, and the other way round. Nothing
//! is verified here. Called by `edge::authenticate`.

use http::HeaderValue;

use crate::contract::{Carried, Contract};
use crate::model::problem::Problem;

/// The longest field value that is looked at at all.
pub const MAX_BYTES: usize = 8 * 1024;

/// One credential, borrowed from the request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Presented<'a> {
    /// What it claims to be.
    pub kind: Carried,
    /// Its text.
    pub text: &'a str,
}

/// Why a field cannot be a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The field stands more than once: which would count?
    #[error("more than one Authorization field")]
    Repeated,
    /// Longer than [`MAX_BYTES`].
    #[error("an Authorization field of more than {MAX_BYTES} bytes")]
    TooLong,
    /// Not `scheme credential` in visible ASCII.
    #[error("a malformed Authorization field")]
    Malformed,
    /// A scheme that the product does not have.
    #[error("an unknown authentication scheme")]
    UnknownScheme,
    /// A credential of a shape that its scheme does not carry.
    #[error("a credential that its scheme does not carry")]
    WrongPlace,
}

impl From<Unreadable> for Problem {
    fn from(_: Unreadable) -> Self {
        Self::InvalidToken
    }
}

impl<'a> Presented<'a> {
    /// Reads all `Authorization` fields of a request; `None`: there is none.
    pub fn read(
        fields: impl IntoIterator<Item = &'a HeaderValue>,
        contract: &Contract,
    ) -> Result<Option<Self>, Unreadable> {
        let mut fields = fields.into_iter();
        let Some(field) = fields.next() else { return Ok(None) };
        if fields.next().is_some() {
            return Err(Unreadable::Repeated);
        }
        if field.len() > MAX_BYTES {
            return Err(Unreadable::TooLong);
        }
        // ASCII, and so visible: a field holds no control character but the tab. Cheaper than `HeaderValue::to_str`,
        // which leaves at the first odd byte and so takes one byte at a time.
        let value = str::from_utf8(field.as_bytes()).ok().filter(|value| value.is_ascii());
        let value = value.ok_or(Unreadable::Malformed)?;
        let (scheme, rest) = value.split_once(' ').ok_or(Unreadable::Malformed)?;
        Self::of(scheme, rest.trim_start_matches(' '), contract).map(Some)
    }

    /// Classifies a credential that came under `scheme`.
    pub fn of(scheme: &str, text: &'a str, contract: &Contract) -> Result<Self, Unreadable> {
        let known = contract.schemes.iter().find(|known| known.name.eq_ignore_ascii_case(scheme));
        let carries = &known.ok_or(Unreadable::UnknownScheme)?.carries;
        if text.is_empty() || !is_one_word(text) {
            return Err(Unreadable::Malformed);
        }
        let kind = match &contract.keys {
            Some(rules) if text.starts_with(&rules.prefix) => Carried::ApiKey,
            _ if dots(text) == 2 => Carried::Token,
            _ => return Err(Unreadable::WrongPlace),
        };
        if carries.contains(&kind) { Ok(Self { kind, text }) } else { Err(Unreadable::WrongPlace) }
    }
}

/// Whether `text` is visible ASCII without a comma. Without a way out in between, so that the compiler takes many bytes
/// at once: a token has hundreds.
fn is_one_word(text: &str) -> bool {
    text.bytes().fold(true, |one, byte| one & matches!(byte, b'!'..=b'+' | b'-'..=b'~'))
}

/// How many dots stand in `text`, counted in bytes for the same reason.
fn dots(text: &str) -> usize {
    let count = |chunk: &[u8]| chunk.iter().fold(0_u8, |count, byte| count + u8::from(*byte == b'.'));
    text.as_bytes().chunks(usize::from(u8::MAX)).map(|chunk| usize::from(count(chunk))).sum()
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Presented({:?}, ***)", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::credential::fixture;

    fn read(value: &str) -> Result<Carried, Unreadable> {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        Presented::read([&value], &fixture::contract()).map(|presented| presented.unwrap().kind)
    }

    #[test]
    fn a_credential_is_what_its_scheme_and_shape_say() {
        for token in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            assert_eq!(read(token), Ok(Carried::Token), "{token}");
        }
        for key in ["ApiKey acme_x", "apikey acme_x", "APIKEY acme_a.b.c"] {
            assert_eq!(read(key), Ok(Carried::ApiKey), "{key}");
        }
        assert_eq!(Presented::read([], &fixture::contract()), Ok(None));
    }

    #[test]
    fn a_credential_in_the_wrong_place_is_refused_without_a_look_up() {
        for wrong in [
            "Bearer acme_x",
            "Bearer acme_a.b.c",
            "ApiKey a.b.c",
            "ApiKey other_x",
            "Bearer opaque",
            "Bearer a.b",
            "Bearer a.b.c.d.e",
            // Two more than a byte counts to.
            &format!("Bearer {}", ".".repeat(258)),
        ] {
            assert_eq!(read(wrong), Err(Unreadable::WrongPlace), "{wrong}");
        }
        assert_eq!(read("Basic dXNlcjpwYXNz"), Err(Unreadable::UnknownScheme));
        // A product without keys has no key prefix either.
        let contract = Contract { keys: None, ..fixture::contract() };
        assert_eq!(Presented::of("ApiKey", "acme_x", &contract), Err(Unreadable::WrongPlace));
    }

    #[test]
    fn what_is_not_one_scheme_and_one_credential_is_refused() {
        for bad in [
            "Bearer",
            "Bearer ",
            "",
            "a.b.c",
            "Bearer a.b.c junk",
            "Bearer a.b.c, Bearer d.e.f",
            "Bearer\ta.b.c",
            "Bearer a.b.\u{e9}",
            " Bearer a.b.c",
            "Bearer a.b.c,x=y",
        ] {
            let verdict = read(bad);
            assert!(
                matches!(verdict, Err(Unreadable::Malformed | Unreadable::UnknownScheme)),
                "{bad:?} gave {verdict:?}"
            );
        }
        let value = HeaderValue::from_static("Bearer a.b.c");
        assert_eq!(Presented::read([&value, &value], &fixture::contract()), Err(Unreadable::Repeated));
    }

    #[test]
    fn an_oversized_field_is_refused_before_it_is_read() {
        let fits = format!("Bearer a.{}.c", "x".repeat(MAX_BYTES - "Bearer a..c".len()));
        assert_eq!(read(&fits), Ok(Carried::Token));
        assert_eq!(read(&format!("{fits}x")), Err(Unreadable::TooLong));
    }

    proptest! {
        /// Tokens that are nearly right, of every length around those at which the counting goes on.
        #[test]
        fn long_credentials_are_read_byte_by_byte(
            mut token in prop::collection::vec(prop_oneof![200 => Just(b'x'), 1 => Just(b'.')], 1..600),
            odd in prop::option::of((any::<prop::sample::Index>(), b' '..=b'~')),
        ) {
            if let Some((at, byte)) = odd {
                *at.get_mut(&mut token) = byte;
            }
            let token = String::from_utf8(token).unwrap();
            let verdict = match token.matches('.').count() {
                _ if token.contains([' ', ',']) => Err(Unreadable::Malformed),
                2 => Ok(Carried::Token),
                _ => Err(Unreadable::WrongPlace),
            };
            let presented = Presented::of("Bearer", &token, &fixture::contract());
            prop_assert_eq!(presented.map(|presented| presented.kind), verdict);
        }
    }

    #[test]
    fn a_credential_is_never_shown() {
        let shown = format!("{:?}", Presented { kind: Carried::Token, text: "a.b.c" });
        assert!(!shown.contains("a.b"), "{shown}");
    }
}

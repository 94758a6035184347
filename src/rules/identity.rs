//! E-mail addresses and user names: which are acceptable, and which are the same.
//!
//! Pure. Two spellings that a person would call the same (case, width, composition) have one
//! normal form, and the store keeps that form unique. What cannot be seen (controls, zero-width and
//! direction marks) is refused, because it would make two accounts look alike.

use unicode_normalization::UnicodeNormalization;

/// The longest address, in bytes of its normal form (RFC 5321 section 4.5.3.1.3 less the brackets).
const MAX_EMAIL: usize = 254;
/// The longest local part (RFC 5321 section 4.5.3.1.1).
const MAX_LOCAL: usize = 64;
/// The longest user name; a product may use addresses as user names.
const MAX_USERNAME: usize = 254;
/// The longest display name, in characters.
const MAX_NAME: usize = 200;

/// Why a text cannot name an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Longer than is ever needed.
    #[error("is too long")]
    TooLong,
    /// Not `local@domain`.
    #[error("must be a valid e-mail address")]
    NotAnAddress,
    /// Holds what cannot be seen, or a space.
    #[error("holds a character that is not allowed")]
    BadCharacter,
    /// A user name that looks like somebody's address.
    #[error("must not be an e-mail address other than the account's own")]
    OthersAddress,
}

/// A name that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// As typed, without surrounding space: what is shown.
    pub shown: String,
    /// The normal form: what is compared and kept unique.
    pub norm: String,
}

/// Reads an e-mail address.
pub fn email(text: &str) -> Result<Name, BadIdentity> {
    let name = name(text, MAX_EMAIL)?;
    let (local, domain) = name.norm.split_once('@').ok_or(BadIdentity::NotAnAddress)?;
    let dotted = |text: &str| !text.split('.').any(str::is_empty);
    // A quoted local part and an address literal are legal and never honest in a sign-up form.
    let local_fits = local.len() <= MAX_LOCAL && dotted(local) && !local.contains(|c| "\"(),:;<>[]\\".contains(c));
    let domain_fits = dotted(domain)
        && domain.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '.')
        && !domain.split('.').any(|label| label.starts_with('-') || label.ends_with('-') || label.len() > 63);
    if local_fits && domain_fits { Ok(name) } else { Err(BadIdentity::NotAnAddress) }
}

/// Reads a user name for the account whose normal address is `email_norm`.
///
/// A name with an `@` must be that very address: otherwise one could register as somebody else's
/// address and be found when they sign in by it.
pub fn username(text: &str, email_norm: &str) -> Result<Name, BadIdentity> {
    let name = name(text, MAX_USERNAME)?;
    if name.norm.contains('@') && name.norm != email_norm {
        return Err(BadIdentity::OthersAddress);
    }
    Ok(name)
}

/// The normal form of whatever was typed at sign-in; `None` when no account can have that name.
pub fn identifier(text: &str) -> Option<String> {
    name(text, MAX_EMAIL.max(MAX_USERNAME)).ok().map(|name| name.norm)
}

/// Reads a display name: any visible text, spaces within.
pub fn display_name(text: &str) -> Result<String, BadIdentity> {
    let text = text.trim();
    if text.is_empty() {
        return Err(BadIdentity::Empty);
    }
    if text.chars().count() > MAX_NAME {
        return Err(BadIdentity::TooLong);
    }
    if text.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Err(BadIdentity::BadCharacter);
    }
    Ok(text.into())
}

fn name(text: &str, longest: usize) -> Result<Name, BadIdentity> {
    let shown = text.trim();
    if shown.is_empty() {
        return Err(BadIdentity::Empty);
    }
    // Before normalizing: NFKC can make a text 18 times as long, so its input is bounded too.
    if shown.len() > 4 * longest {
        return Err(BadIdentity::TooLong);
    }
    let norm = normalize(shown);
    if norm.len() > longest {
        return Err(BadIdentity::TooLong);
    }
    let hidden = |c: char| c.is_control() || c.is_whitespace() || is_invisible(c);
    if shown.chars().any(hidden) || norm.chars().any(hidden) {
        return Err(BadIdentity::BadCharacter);
    }
    Ok(Name { shown: shown.into(), norm })
}

/// NFKC, lower case, until nothing changes: lowering can undo a composition and the other way round.
fn normalize(text: &str) -> String {
    let mut norm: String = text.to_owned();
    for _ in 0..4 {
        let next: String = norm.nfkc().flat_map(char::to_lowercase).map(one_sigma).nfkc().collect();
        if next == norm {
            break;
        }
        norm = next;
    }
    norm
}

/// The one letter that has two lower-case forms.
const fn one_sigma(c: char) -> char {
    if c == 'ς' { 'σ' } else { c }
}

/// Format characters that show nothing: soft hyphen, zero-width, direction marks, fillers, tags.
const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_address_are_one_account() {
        let plain = email("jose@example.com").unwrap().norm;
        for same in ["Jose@Example.COM", "  jose@example.com\n", "ｊｏｓｅ@example.com", "JOSE@EXAMPLE.COM"] {
            assert_eq!(email(same).unwrap().norm, plain, "{same}");
        }
        assert_eq!(email("jos\u{e9}@a.b").unwrap().norm, email("JOSE\u{301}@A.B").unwrap().norm);
        assert_eq!(identifier("ΟΔΥΣΣΕΥΣ"), identifier("οδυσσευς"));
        assert_ne!(email("jose@example.com").unwrap().norm, email("josé@example.com").unwrap().norm);
        assert_eq!(email(" Jose@Example.com ").unwrap().shown, "Jose@Example.com");
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for bad in [
            "jose",
            "@example.com",
            "jose@",
            "a@b@c",
            "jose@-x.com",
            "jose@x..com",
            ".jose@x.com",
            "jose.@x.com",
            "jose@x.com.",
            "\"jose\"@x.com",
            "jose@[127.0.0.1]",
            "jose@exa_mple.com",
            "a,b@x.com",
            "<jose>@x.com",
        ] {
            assert_eq!(email(bad), Err(BadIdentity::NotAnAddress), "{bad}");
        }
        assert_eq!(email(&format!("{}@x.com", "a".repeat(65))), Err(BadIdentity::NotAnAddress));
        email(&format!("{}@x.com", "a".repeat(64))).unwrap();
        assert_eq!(email(&format!("a@{}.com", "b.".repeat(200))), Err(BadIdentity::TooLong));
        assert_eq!(email("  "), Err(BadIdentity::Empty));
    }

    #[test]
    fn what_cannot_be_seen_cannot_make_a_second_account() {
        for bad in [
            "jo se@x.com",
            "jo\u{200b}se@x.com",
            "jo\u{ad}se@x.com",
            "jo\0se@x.com",
            "\u{202e}jose@x.com",
            "j\r\nX: y@x.com",
        ] {
            assert_eq!(email(bad), Err(BadIdentity::BadCharacter), "{bad:?}");
            assert_eq!(identifier(bad), None);
        }
        display_name("John Doe").unwrap();
        assert_eq!(display_name("John\nDoe"), Err(BadIdentity::BadCharacter));
        assert_eq!(display_name(&"x".repeat(201)), Err(BadIdentity::TooLong));
    }

    #[test]
    fn nobody_can_take_another_address_for_a_user_name() {
        username("alice", "a@x.com").unwrap();
        username("A@X.com", "a@x.com").unwrap();
        assert_eq!(username("victim@x.com", "a@x.com"), Err(BadIdentity::OthersAddress));
        assert_eq!(username("victim\u{ff20}x.com", "a@x.com"), Err(BadIdentity::OthersAddress));
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own_normal_form(text in "\\PC{1,40}") {
            let once = normalize(&text);
            prop_assert_eq!(normalize(&once), once);
        }
    }
}

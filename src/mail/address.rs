//! Where a mail goes: an address that can stand in a command and in a header, and nothing else can.
//!
//! What may be an address at all is [`rules::identity`](crate::rules::identity)'s to say: no control, no
//! space, no bracket, so nothing that could end a line or a command (RFC 5321 section 4.1.2). The local part
//! stays as it was typed: only its own server knows whether case counts. The domain becomes ASCII (RFC 5891),
//! so that only a local part beyond ASCII needs a server that speaks SMTPUTF8 (RFC 6531).

use std::fmt;

use crate::rules::identity::{self, BadIdentity};

/// RFC 5321 section 4.5.3.1.3, less the brackets.
const LONGEST: usize = 254;

/// An address that a mail can be sent to.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(lettre::Address);

/// Why no mail can go there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// It is no address that an account could have.
    #[error(transparent)]
    Identity(#[from] BadIdentity),
    /// Its domain has no form that the mail system knows.
    #[error("has a domain that no mail can be sent to")]
    Domain,
}

impl Address {
    /// Reads an address. For an account's mail this must be the stored address, never what somebody typed to
    /// ask for the mail: two spellings of one account can be two mailboxes, and the second another person's.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        let name = identity::email(text)?;
        // `shown` may spell the sign itself in another width; then its normal form is all there is to go by.
        let spelt = if name.shown.matches('@').count() == 1 { &name.shown } else { &name.norm };
        let (local, domain) = spelt.split_once('@').ok_or(BadIdentity::NotAnAddress)?;
        let domain = idna::domain_to_ascii_strict(domain).map_err(|_| BadAddress::Domain)?;
        let address = lettre::Address::new(local, domain).map_err(|_| BadIdentity::NotAnAddress)?;
        // In ASCII a domain is longer: what is sent must itself be an address that this function takes.
        let sent: &str = address.as_ref();
        if sent.len() > LONGEST { Err(BadAddress::Domain) } else { Ok(Self(address)) }
    }

    /// Whether only a server with SMTPUTF8 can take it.
    pub fn needs_utf8(&self) -> bool {
        !self.as_str().is_ascii()
    }

    /// The address as it is sent.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }

    /// What follows the `@`, in ASCII.
    pub fn domain(&self) -> &str {
        self.0.domain()
    }

    pub(super) const fn inner(&self) -> &lettre::Address {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Address {
    /// A person's address does not belong into a log by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address(***@{})", self.domain())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent_to(text: &str) -> String {
        Address::parse(text).unwrap().to_string()
    }

    #[test]
    fn the_local_part_stays_as_typed_and_the_domain_becomes_ascii() {
        assert_eq!(sent_to(" Jose.Perez+x@Example.COM "), "Jose.Perez+x@example.com");
        assert_eq!(sent_to("jose@b\u{fc}cher.example"), "jose@xn--bcher-kva.example");
        assert_eq!(sent_to("jose\u{ff20}example.com"), "jose@example.com");
        assert_eq!(sent_to("a@localhost"), "a@localhost");
        assert!(!Address::parse("jose@b\u{fc}cher.example").unwrap().needs_utf8());
        let unicode = Address::parse("jos\u{e9}@b\u{fc}cher.example").unwrap();
        assert_eq!((unicode.as_str(), unicode.needs_utf8()), ("jos\u{e9}@xn--bcher-kva.example", true));
    }

    #[test]
    fn what_could_end_a_line_or_a_command_is_no_address() {
        for bad in [
            "a@x.com\r\nRCPT TO:<b@y.com>",
            "a\r\n@x.com",
            "a\n@x.com",
            "a\r@x.com",
            "a@x\r\n.com",
            "a@x.com> SIZE=1",
            "a>@x.com",
            "<a@x.com>",
            "a b@x.com",
            "\"a\\\r\n\"@x.com",
            "a\0@x.com",
            "a\u{85}@x.com",
            "a\u{2028}@x.com",
            "a@x.com,b@y.com",
            "a@b@x.com",
            "@x.com",
            "a@",
            "",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        // Fits as it is typed, and not in ASCII.
        let label: String = (0..20).filter_map(|n| char::from_u32(0x4e00 + n * 397)).collect();
        assert_eq!(Address::parse(&format!("a@{label}.com")), Err(BadAddress::Domain));
        let label: String = (0..6).filter_map(|n| char::from_u32(0x4e00 + n * 397)).collect();
        let domain = format!("{}com", format!("{label}.").repeat(9));
        assert_eq!(Address::parse(&format!("{}@{domain}", "a".repeat(60))), Err(BadAddress::Domain));
        assert!(Address::parse(&format!("a@{domain}")).is_ok());
        assert!(Address::parse("a@xn--zzzzzz.com").is_err());
    }

    #[test]
    fn it_is_not_logged_whole() {
        assert_eq!(format!("{:?}", Address::parse("jose@example.com").unwrap()), "Address(***@example.com)");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_one_word(local in "[\\x00-\\x7f\u{80}-\u{2fff}]{1,12}", domain in "[a-z0-9.\u{e0}-\u{17f}-]{1,12}") {
            if let Ok(address) = Address::parse(&format!("{local}@{domain}")) {
                let text = address.to_string();
                prop_assert!(!text.chars().any(|c| c.is_control() || c.is_whitespace() || "<>,;\"()[]\\".contains(c)), "{text:?}");
                prop_assert!(address.domain().is_ascii() && text.matches('@').count() == 1);
                prop_assert_eq!(Address::parse(&text), Ok(address));
            }
        }
    }
}

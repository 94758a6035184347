//! How one site's mails look to those who get them: who they are from, and where their links lead.
//!
//! Everything here is the operator's, and is checked when the configuration is loaded.

use lettre::message::Mailbox;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Kind;
use super::address::Address;

/// The place of the token in a link.
const TOKEN: &str = "{token}";
/// RFC 3986 section 2.3: what stays as it is wherever a link puts the token.
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const LONGEST_PRODUCT: usize = 100;

/// A brand as configured.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What the mails call the product.
    pub product: String,
    /// Who they are from: `no-reply@example.com` or `Example <no-reply@example.com>`.
    pub from: String,
    /// Who answers are for, where it is not the sender.
    pub reply_to: Option<String>,
    /// The page that verifies an address: `https://app.example.com/verify?token={token}`. Without one the mail shows
    /// the bare token.
    pub verify_link: Option<String>,
    /// The page that sets a new password: `https://app.example.com/reset?token={token}`.
    pub reset_link: Option<String>,
}

/// A brand that mails can be made with.
#[derive(Clone, Debug)]
pub struct Brand {
    pub(super) product: String,
    pub(super) from: Sender,
    pub(super) reply_to: Option<Sender>,
    verify_link: Option<Link>,
    reset_link: Option<Link>,
}

/// A setting that cannot be used: which, and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}: {remedy}")]
pub struct BadBrand {
    /// The setting: `product`, `from`, `reply_to`, `verify_link`, `reset_link`.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to write.
    pub remedy: &'static str,
}

impl Brand {
    /// Checks the settings; every complaint about them at once.
    pub fn new(settings: &Settings) -> Result<Self, Vec<BadBrand>> {
        let mut bad = Vec::new();
        let product = settings.product.trim();
        if product.is_empty() || product.chars().count() > LONGEST_PRODUCT || product.chars().any(char::is_control) {
            let problem = "the product's name does not fit into a line".to_owned();
            bad.push(BadBrand { key: "product", problem, remedy: "write 1 to 100 visible characters" });
        }
        let from = keep(&mut bad, Sender::read("from", &settings.from));
        let reply_to = settings.reply_to.as_ref().and_then(|text| keep(&mut bad, Sender::read("reply_to", text)));
        let mut link = |key, text: &Option<String>| keep(&mut bad, Link::read(key, text.as_ref()?));
        let verify_link = link("verify_link", &settings.verify_link);
        let reset_link = link("reset_link", &settings.reset_link);
        match from {
            Some(from) if bad.is_empty() => {
                Ok(Self { product: product.to_owned(), from, reply_to, verify_link, reset_link })
            }
            _ => Err(bad),
        }
    }

    /// The link that a mail of this kind shows, with the token in it.
    pub(super) fn link(&self, kind: Kind, token: &str) -> Option<String> {
        let link = match kind {
            Kind::Verify => self.verify_link.as_ref(),
            Kind::Reset => self.reset_link.as_ref(),
            Kind::PasswordChanged => None,
        };
        link.map(|link| link.with(token))
    }
}

fn keep<T>(bad: &mut Vec<BadBrand>, read: Result<T, BadBrand>) -> Option<T> {
    read.map_err(|complaint| bad.push(complaint)).ok()
}

/// Who a mail is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    pub name: Option<String>,
    pub address: Address,
}

impl Sender {
    fn read(key: &'static str, text: &str) -> Result<Self, BadBrand> {
        let bad = |problem, remedy| BadBrand { key, problem: format!("`{}` {problem}", text.escape_debug()), remedy };
        let remedy = "write `no-reply@example.com` or `Example <no-reply@example.com>`";
        let sender = Self::parse(text).ok_or_else(|| bad("is not an address", remedy))?;
        // Otherwise no mail at all would go through a server without SMTPUTF8, whoever it is for.
        if sender.address.needs_utf8() {
            return Err(bad("cannot be sent from everywhere", "write what stands before the @ in ASCII"));
        }
        Ok(sender)
    }

    /// Reads `address` or `Name <address>`; the name may hold anything that can be seen, less `<` and `>`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (name, address) = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
            Some((name, address)) => (name.trim().trim_matches('"').trim(), address),
            None => ("", text),
        };
        if name.chars().any(|c| c.is_control() || matches!(c, '<' | '>')) {
            return None;
        }
        let sender = Self { name: (!name.is_empty()).then(|| name.to_owned()), address: Address::parse(address).ok()? };
        // lettre reads its own header back when it builds a message: a name that it cannot read is refused here.
        sender.mailbox().to_string().parse::<Mailbox>().ok().map(|_| sender)
    }

    pub fn mailbox(&self) -> Mailbox {
        Mailbox::new(self.name.clone(), self.address.inner().clone())
    }

    /// As [`Self::parse`] reads it.
    pub fn to_text(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} <{}>", self.address),
            None => self.address.to_string(),
        }
    }
}

/// A link with one place for the token.
#[derive(Clone, Debug)]
struct Link {
    before: String,
    after: String,
}

impl Link {
    fn read(key: &'static str, text: &str) -> Result<Self, BadBrand> {
        let bad = |problem: &str, remedy| {
            Err(BadBrand { key, problem: format!("`{}` {problem}", text.escape_debug()), remedy })
        };
        let Some((before, after)) = text.split_once(TOKEN).filter(|(_, after)| !after.contains(TOKEN)) else {
            return bad("does not have `{token}` once", "write https://app.example.com/reset?token={token}");
        };
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`|".contains(&byte)) {
            return bad("holds a character that a link cannot hold", "percent-encode it; punycode for a host");
        }
        let secure = before.strip_prefix("https://");
        let Some((host, _)) = secure.or_else(|| before.strip_prefix("http://")).and_then(|rest| rest.split_once('/'))
        else {
            return bad("does not lead to a page", "begin with https:// and a host, and put {token} behind a `/`");
        };
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        if name.is_empty() || host.contains(['@', '?', '#', '{']) {
            return bad("has no plain host", "write https://app.example.com/reset?token={token}");
        }
        // The token opens the account: it must not cross a network in the clear.
        if secure.is_none() && !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
            return bad("is not https", "use https:// (http:// only for localhost)");
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }

    fn with(&self, token: &str) -> String {
        format!("{}{}{}", self.before, utf8_percent_encode(token, &UNRESERVED), self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { product: "Vantage".into(), from: "no-reply@example.com".into(), ..Settings::default() }
    }

    fn complaints(settings: &Settings) -> Vec<&'static str> {
        Brand::new(settings).map_or_else(|bad| bad.iter().map(|bad| bad.key).collect(), |_| Vec::new())
    }

    #[test]
    fn a_sender_may_have_a_name_and_the_name_may_have_anything_that_is_seen() {
        for (text, name, address) in [
            ("no-reply@example.com", None, "no-reply@example.com"),
            (" Vantage <no-reply@example.com> ", Some("Vantage"), "no-reply@example.com"),
            ("\"Vantage, Inc.\" <a@x.com>", Some("Vantage, Inc."), "a@x.com"),
            ("Vantage (support) <a@x.com>", Some("Vantage (support)"), "a@x.com"),
            ("B\u{fc}cher \u{1f4da} <a@b\u{fc}cher.example>", Some("B\u{fc}cher \u{1f4da}"), "a@xn--bcher-kva.example"),
        ] {
            let sender = Sender::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((sender.name.as_deref(), sender.address.as_str()), (name, address));
            assert_eq!(Sender::parse(&sender.to_text()), Some(sender));
        }
    }

    #[test]
    fn nothing_in_a_sender_or_a_product_can_begin_a_header_of_its_own() {
        for bad in [
            "",
            "Vantage",
            "Vantage\r\nBcc: b@y.com <a@x.com>",
            "Van\ntage <a@x.com>",
            "Vantage <a@x.com\r\nBcc: b@y.com>",
            "Van\0tage <a@x.com>",
            "A <a@x.com>, B <b@y.com>",
            "jos\u{e9}@x.com",
        ] {
            assert_eq!(complaints(&Settings { from: bad.into(), ..settings() }), ["from"], "{bad:?}");
            assert_eq!(complaints(&Settings { reply_to: Some(bad.into()), ..settings() }), ["reply_to"], "{bad:?}");
        }
        for bad in ["", " ", "A\r\nBcc: b@y.com", "A\u{9}B", &"x".repeat(101)] {
            assert_eq!(complaints(&Settings { product: bad.into(), ..settings() }), ["product"], "{bad:?}");
        }
    }

    #[test]
    fn a_link_holds_the_token_once_behind_an_https_host() {
        for good in [
            "https://app.example.com/reset?token={token}",
            "https://app.example.com:8443/reset/{token}/now",
            "https://app.example.com/#/reset/{token}",
            "http://localhost:3000/reset?token={token}",
            "http://127.0.0.1/{token}",
            "http://[::1]:3000/{token}",
        ] {
            assert_eq!(complaints(&Settings { reset_link: Some(good.into()), ..settings() }), [""; 0], "{good}");
        }
        for bad in [
            "",
            "https://app.example.com/reset",
            "https://app.example.com/{token}/{token}",
            "https://{token}.example.com/",
            "https://app.example.com{token}",
            "https:///{token}",
            "https://app@example.com/{token}",
            "http://app.example.com/{token}",
            "http://localhost.example.com/{token}",
            "javascript:alert('{token}')",
            "/reset?token={token}",
            "https://app.example.com/a b?token={token}",
            "https://app.example.com/\r\n{token}",
            "https://app.example.com/\">{token}",
        ] {
            assert_eq!(complaints(&Settings { verify_link: Some(bad.into()), ..settings() }), ["verify_link"], "{bad}");
        }
    }

    #[test]
    fn a_token_cannot_leave_its_place_in_a_link() {
        let verify_link = Some("https://a.example/v?token={token}&x=1".into());
        let brand = Brand::new(&Settings { verify_link, ..settings() }).unwrap();
        assert_eq!(brand.link(Kind::Verify, "aZ0-_.~").unwrap(), "https://a.example/v?token=aZ0-_.~&x=1");
        assert_eq!(brand.link(Kind::Verify, "a&b#c/\"\r").unwrap(), "https://a.example/v?token=a%26b%23c%2F%22%0D&x=1");
        assert_eq!((brand.link(Kind::Reset, "a"), brand.link(Kind::PasswordChanged, "a")), (None, None));
    }

    #[test]
    fn every_complaint_is_told_at_once() {
        let all = Settings { reply_to: Some("x".into()), reset_link: Some("x".into()), ..Settings::default() };
        assert_eq!(complaints(&all), ["product", "from", "reply_to", "reset_link"]);
    }
}

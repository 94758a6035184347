//! Making a mail: facts and templates in, a [`Message`] out.

use std::time::Duration;

use super::brand::Brand;
use super::templates::Facts;
use super::{Address, BadAddress, Kind, Mailer, Message};
use crate::model::entropy::Entropy;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

/// How long news are worth sending.
const NEWS: Duration = Duration::from_hours(72);

/// What a mail is to say.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Prove that the address is yours.
    Verify {
        /// The code to come back with.
        token: &'a Secret,
        /// How long it works.
        ttl: Duration,
    },
    /// Choose a new password.
    Reset {
        /// The code to come back with.
        token: &'a Secret,
        /// How long it works.
        ttl: Duration,
    },
    /// Your password was changed.
    PasswordChanged,
}

/// Why there is no mail.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// Mail cannot go there.
    #[error("the address {0}")]
    Address(#[from] BadAddress),
    /// A template failed although it was tried when it was loaded.
    #[error("a mail template failed: {0}")]
    Template(#[from] minijinja::Error),
}

impl Mailer {
    /// Makes a mail to `to`: the account's stored address, never what somebody typed to ask for the mail.
    pub fn compose(
        &self,
        brand: &Brand,
        to: &str,
        content: Content<'_>,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Message, ComposeError> {
        let to = Address::parse(to)?;
        let (kind, token, ttl) = match content {
            Content::Verify { token, ttl } => (Kind::Verify, token.expose(), ttl),
            Content::Reset { token, ttl } => (Kind::Reset, token.expose(), ttl),
            Content::PasswordChanged => (Kind::PasswordChanged, "", NEWS),
        };
        let link = brand.link(kind, token);
        let facts = Facts {
            product: &brand.product,
            address: to.as_str(),
            link: link.as_deref(),
            token,
            valid_for: &in_words(ttl),
            valid_minutes: ttl.as_secs() / 60,
            at: &to_the_minute(now),
        };
        let words = self.templates.render(kind, &facts)?;
        let mut id = [0_u8; 16];
        entropy.fill(&mut id);
        Ok(Message {
            id: format!("{:032x}", u128::from_be_bytes(id)),
            kind,
            from: brand.from.clone(),
            reply_to: brand.reply_to.clone(),
            to,
            subject: words.subject,
            text: words.text.into(),
            html: words.html.map(Secret::new),
            made_at: now,
            ends_at: now.plus(ttl),
        })
    }
}

/// `24 hours`, `7 days`, `90 minutes`: the largest unit that says it exactly, to the minute.
fn in_words(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60);
    let (count, unit) = match minutes {
        _ if minutes > 1440 && minutes.is_multiple_of(1440) => (minutes / 1440, "day"),
        _ if minutes > 0 && minutes.is_multiple_of(60) => (minutes / 60, "hour"),
        _ => (minutes, "minute"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `2026-11-20 09:40 UTC`
fn to_the_minute(at: Timestamp) -> String {
    let text = at.to_rfc3339();
    format!("{} UTC", text.get(..16).unwrap_or(&text).replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_a_person_would() {
        for (minutes, said) in [
            (0, "0 minutes"),
            (1, "1 minute"),
            (15, "15 minutes"),
            (60, "1 hour"),
            (90, "90 minutes"),
            (24 * 60, "24 hours"),
            (48 * 60, "2 days"),
            (25 * 60, "25 hours"),
            (7 * 24 * 60, "7 days"),
        ] {
            assert_eq!(in_words(Duration::from_mins(minutes)), said);
        }
        assert_eq!(in_words(Duration::from_secs(61)), "2 minutes");
        assert_eq!(to_the_minute(Timestamp::from_millis(1_705_312_859_999)), "2024-01-15 10:00 UTC");
    }
}

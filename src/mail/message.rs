//! One mail: what it says and to whom; and its bytes (RFC 5322), made anew for each attempt.

use std::fmt;
use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, MultiPart, SinglePart};
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::brand::Sender;
use super::{DeliveryError, Stage};
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

/// The longest line, without its end (RFC 5322 section 2.1.1).
const LONGEST_LINE: usize = 998;
/// Before the year 10000, where the Date header ends.
const LAST_DATE: i64 = 253_402_300_799_000;

/// What a mail is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Proves that an address is its account's.
    Verify,
    /// Lets whoever reads the address choose a new password.
    Reset,
    /// Tells that the password was changed.
    PasswordChanged,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Verify, Self::Reset, Self::PasswordChanged];

    /// Its name in template files, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Reset => "reset",
            Self::PasswordChanged => "password_changed",
        }
    }

    pub(super) const fn has_token(self) -> bool {
        matches!(self, Self::Verify | Self::Reset)
    }
}

/// A composed mail. It holds a token that opens an account: it is shown to nobody, and kept only sealed.
#[derive(Clone)]
pub struct Message {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) from: Sender,
    pub(super) reply_to: Option<Sender>,
    pub(super) to: Address,
    pub(super) subject: String,
    pub(super) text: Secret,
    pub(super) html: Option<Secret>,
    pub(super) made_at: Timestamp,
    pub(super) ends_at: Timestamp,
}

/// A mail as the wire sees it.
pub(super) struct Letter {
    pub id: String,
    pub made_at: Timestamp,
    pub from: lettre::Address,
    pub to: lettre::Address,
    pub bytes: Vec<u8>,
}

impl Message {
    /// The same at every attempt, and in the mail's Message-ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it is for.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it goes.
    pub const fn to(&self) -> &Address {
        &self.to
    }

    /// When it is worth nothing any more: its token has ended, or its news is old.
    pub const fn ends_at(&self) -> Timestamp {
        self.ends_at
    }

    /// The bytes to send.
    pub(super) fn letter(&self) -> Result<Letter, DeliveryError> {
        let bytes = self.format().map_err(|error| DeliveryError::permanent(Stage::Message, error.to_string()))?;
        let (from, to) = (self.from.address.inner().clone(), self.to.inner().clone());
        Ok(Letter { id: self.id.clone(), made_at: self.made_at, from, to, bytes })
    }

    fn format(&self) -> Result<Vec<u8>, lettre::error::Error> {
        let (from, to) = (self.from.address.inner().clone(), self.to.inner().clone());
        let date = u64::try_from(self.made_at.millis().min(LAST_DATE)).unwrap_or(0);
        let mut builder = lettre::Message::builder()
            .envelope(lettre::address::Envelope::new(Some(from), vec![to.clone()])?)
            .from(self.from.mailbox())
            .to(to.into())
            .subject(self.subject.as_str())
            .date(SystemTime::UNIX_EPOCH + Duration::from_millis(date))
            .message_id(Some(format!("<{}@{}>", self.id, self.from.address.domain())))
            // RFC 3834: nobody's absence notice answers this.
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into()));
        if let Some(reply_to) = &self.reply_to {
            builder = builder.reply_to(reply_to.mailbox());
        }
        let text = part(ContentType::TEXT_PLAIN, self.text.expose());
        let message = match &self.html {
            None => builder.singlepart(text)?,
            Some(html) => {
                let both = MultiPart::alternative().boundary(format!("=_{}", self.id));
                builder.multipart(both.singlepart(text).singlepart(part(ContentType::TEXT_HTML, html.expose())))?
            }
        };
        Ok(message.formatted())
    }
}

fn part(content_type: ContentType, text: &str) -> SinglePart {
    // A bare CR or LF is an end of line to some servers and none to others: between them hides a second mail
    // ("SMTP smuggling"). Here every end of line becomes the one that all agree on.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let plain = text.bytes().all(|byte| matches!(byte, b'\n' | b'\t' | b' '..=b'~'));
    let body = if plain && text.split('\n').all(|line| line.len() <= LONGEST_LINE) {
        // As it is: a link that is not broken over lines can be read in the outbox, and copied from any reader.
        let text = text.replace('\n', "\r\n").into_bytes();
        Body::dangerous_pre_encoded(text, ContentTransferEncoding::SevenBit)
    } else {
        Body::new(text)
    };
    SinglePart::builder().header(content_type).body(body)
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

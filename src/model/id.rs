//! Identifiers: 128 random-enough bits inside, a contract's spelling outside.
//!
//! Inside the gateway an id is a [`Uuid`] (version 7, RFC 9562 section 5.7: sortable by birth). A
//! contract chooses how clients see it: `user_0190…` where its document shows a prefix, a hyphenated
//! UUID where it shows that. [`IdStyle`] is that choice.

use std::fmt;

use uuid::Uuid;

use super::entropy::Entropy;
use super::time::Timestamp;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, born at `now`.
            pub fn new(now: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(new_uuid(now, entropy))
            }

            /// The id as the store keeps it: 32 lower-case hexadecimal digits.
            pub fn to_text(self) -> String {
                self.0.simple().to_string()
            }

            /// Reads what [`Self::to_text`] wrote (any UUID spelling is understood); `None` for anything else.
            pub fn from_text(text: &str) -> Option<Self> {
                Uuid::try_parse(text).ok().map(Self)
            }

            /// The bare UUID, for hashing and for rendering by an [`IdStyle`].
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.simple())
            }
        }
    };
}

id!(
    /// A person (or robot) that can sign in, within one realm.
    UserId
);
id!(
    /// An organization: the subject of plans and limits.
    OrgId
);
id!(
    /// An API key (the record, never the secret).
    KeyId
);
id!(
    /// One sign-in, from its password to its end; every token of it carries this id.
    SessionId
);
id!(
    /// A mail on its way.
    MailId
);

fn new_uuid(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0_u8; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(now.millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// How a contract spells an id to its clients.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum IdStyle {
    /// `123e4567-e89b-12d3-a456-426614174000`
    #[default]
    Uuid,
    /// A prefix, then 32 hexadecimal digits: `user_123e4567e89b…`
    Prefixed(String),
}

impl IdStyle {
    /// The spelling that clients and backends see.
    pub fn render(&self, id: Uuid) -> String {
        match self {
            Self::Uuid => id.hyphenated().to_string(),
            Self::Prefixed(prefix) => format!("{prefix}{}", id.simple()),
        }
    }

    /// Reads exactly what [`Self::render`] writes: other spellings of the same id are not the id.
    pub fn parse(&self, text: &str) -> Option<Uuid> {
        let bare = match self {
            Self::Uuid => text,
            Self::Prefixed(prefix) => text.strip_prefix(prefix.as_str())?,
        };
        let id = Uuid::try_parse(bare).ok()?;
        (self.render(id) == text).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entropy::TestEntropy;

    #[test]
    fn a_styled_id_reads_back_and_no_other_spelling_does() {
        let id = UserId::new(Timestamp::from_millis(1_700_000_000_000), &TestEntropy::new(1));
        let style = IdStyle::Prefixed("user_".into());
        let text = style.render(id.uuid());
        assert!(text.starts_with("user_") && text.len() == 5 + 32);
        assert_eq!(style.parse(&text), Some(id.uuid()));
        assert_eq!(style.parse(&text.to_uppercase()), None);
        assert_eq!(style.parse(&IdStyle::Uuid.render(id.uuid())), None);
        assert_eq!(style.parse(&format!("user_{}", id.uuid().hyphenated())), None);
        assert_eq!(IdStyle::Uuid.parse(&id.uuid().hyphenated().to_string()), Some(id.uuid()));
        assert_eq!(UserId::from_text(&id.to_text()), Some(id));
    }
}

//! What a field is called in a body: one name, or several that it may have.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use toml::Spanned;

/// `"email"` or `["username", "email"]`.
#[derive(Debug)]
pub enum RawNames {
    /// The only name.
    One(String),
    /// The names, the first to be told of in complaints.
    Several(Vec<Spanned<String>>),
}

impl RawNames {
    /// Every name with its place.
    pub fn each(raw: &Spanned<Self>) -> Vec<Spanned<String>> {
        match raw.get_ref() {
            Self::One(name) => vec![Spanned::new(raw.span(), name.clone())],
            Self::Several(names) => names.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for RawNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = RawNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<RawNames, E> {
                Ok(RawNames::One(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawNames, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(RawNames::Several(names))
            }
        }

        deserializer.deserialize_any(Names)
    }
}

//! A body as written: whatever TOML and JSON both have.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// A template as written: any TOML value that JSON has too, in the order of the file.
#[derive(Debug)]
pub enum RawTemplate {
    /// A string, perhaps with slots.
    Text(String),
    /// A number or a boolean.
    Plain(serde_json::Value),
    /// An array.
    Array(Vec<Spanned<RawTemplate>>),
    /// A table.
    Table(Vec<(Spanned<String>, Spanned<RawTemplate>)>),
}

impl<'de> Deserialize<'de> for RawTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = RawTemplate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number, a boolean, a list or a table")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawTemplate, E> {
                Ok(RawTemplate::Text(text.to_owned()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<RawTemplate, E> {
                Ok(RawTemplate::Plain(value.into()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<RawTemplate, E> {
                Ok(RawTemplate::Plain(value.into()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<RawTemplate, E> {
                Ok(RawTemplate::Plain(value.into()))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<RawTemplate, E> {
                match serde_json::Number::from_f64(value) {
                    Some(number) => Ok(RawTemplate::Plain(number.into())),
                    None => Err(E::custom("JSON has no infinite number and no NaN\nwrite a finite number")),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawTemplate, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(RawTemplate::Array(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTemplate, A::Error> {
                let mut fields = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>().map_err(|_| not_json())? {
                    fields.push((key, map.next_value()?));
                }
                Ok(RawTemplate::Table(fields))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// A TOML date is the one map whose key has no place.
fn not_json<E: Error>() -> E {
    E::custom("JSON has no dates\nput the date in quotes")
}

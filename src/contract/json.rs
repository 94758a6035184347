//! JSON from a client, read strictly: each key once, no nesting without end.
//!
//! RFC 8259 section 4 leaves open what a key that stands twice means, so two parsers may read two different
//! requests; and a body that is all brackets costs a stack. Called by [`super::decode`] alone.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::model::problem::FieldError;

/// Deeper bodies are refused; no operation reads deeper than three.
const MAX_DEPTH: usize = 32;
/// So much of a client's own key is told back.
const MAX_NAMED: usize = 64;

/// One JSON value and nothing after it.
pub(super) fn parse(body: &[u8]) -> Result<Value, FieldError> {
    let wrong = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = Strict { depth: 0, wrong: &wrong }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    parsed.map_err(|error| {
        wrong.take().unwrap_or_else(|| {
            let place = format!("is not JSON: line {}, column {}", error.line(), error.column());
            FieldError::new("", place)
        })
    })
}

/// A [`Value`] whose objects have each key once, nested no deeper than [`MAX_DEPTH`].
#[derive(Clone, Copy)]
struct Strict<'w> {
    depth: usize,
    /// What was wrong beyond JSON's own grammar, under its path.
    wrong: &'w RefCell<Option<FieldError>>,
}

impl Strict<'_> {
    fn refuse<E: serde::de::Error>(self, field: &str, message: &str) -> E {
        *self.wrong.borrow_mut() = Some(FieldError::new(shortened(field), message));
        E::custom(message)
    }

    /// For one level further down.
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.refuse("", "is nested too deeply"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    /// Puts `key` before the path of what was wrong inside of it.
    fn under(self, key: &str) {
        if let Some(error) = self.wrong.borrow_mut().as_mut() {
            let dot = if error.field.is_empty() { "" } else { "." };
            error.field = format!("{}{dot}{}", shortened(key), error.field);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(below)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if object.contains_key(&*key) {
                return Err(self.refuse(&key, "stands more than once"));
            }
            let value = map.next_value_seed(below).inspect_err(|_| self.under(&key))?;
            object.insert(key.into_owned(), value);
        }
        Ok(Value::Object(object))
    }
}

/// A client's own key as it is told back to it.
pub(super) fn shortened(key: &str) -> &str {
    key.char_indices().nth(MAX_NAMED).map_or(key, |(at, _)| &key[..at])
}

//! What an operator asks, read: a query string, a JSON object. A name that means nothing is refused, since a
//! misspelt change would otherwise look done.

use serde_json::{Map, Value};

use super::Refused;
use crate::model::window::{BadWindow, Window};
use crate::store::Page;

/// A query string whose names are all known.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, Refused> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Refused::Invalid(format!("no parameter `{name}`; there is {}", known.join(", ")))),
            None => Ok(Self(pairs)),
        }
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub fn page<Id: From<uuid::Uuid>>(&self) -> Result<Page<Id>, Refused> {
        let limit = match self.value("limit").map(str::parse::<u32>) {
            None => 100,
            Some(Ok(limit @ 1..=1000)) => limit,
            Some(_) => return Err(Refused::Invalid("`limit` is a whole number from 1 to 1000".to_owned())),
        };
        let after = match self.value("after").map(uuid::Uuid::try_parse) {
            None => None,
            Some(Ok(after)) => Some(Id::from(after)),
            Some(Err(_)) => return Err(Refused::Invalid("`after` is what `next` of the last page said".to_owned())),
        };
        Ok(Page { after, limit })
    }
}

/// A JSON object whose names are all known.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub fn parse(body: &[u8], known: &[&str]) -> Result<Self, Refused> {
        let fields: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| Refused::Invalid(format!("the body is not a JSON object: {error}")))?;
        match fields.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Refused::Invalid(format!("no field `{name}`; there is {}", known.join(", ")))),
            None if fields.is_empty() => {
                Err(Refused::Invalid(format!("nothing to change; there is {}", known.join(", "))))
            }
            None => Ok(Self(fields)),
        }
    }

    pub fn text(&self, name: &str) -> Result<Option<&str>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refused::Invalid(format!("`{name}` is a string"))),
        }
    }

    pub fn boolean(&self, name: &str) -> Result<Option<bool>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Bool(yes)) => Ok(Some(*yes)),
            Some(_) => Err(Refused::Invalid(format!("`{name}` is true or false"))),
        }
    }

    /// The windows to set, where there is something to set.
    pub fn windows(&self, name: &str) -> Result<Option<Limits>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(Limits::OfThePlan)),
            Some(Value::Array(texts)) => {
                let mut windows: Vec<Window> = Vec::new();
                for text in texts {
                    let text =
                        text.as_str().ok_or_else(|| Refused::Invalid(format!("`{name}` is an array of strings")))?;
                    let bad = |error: String| Refused::Invalid(format!("`{name}`: `{text}`: {error}"));
                    let window: Window = text.parse().map_err(|error: BadWindow| bad(error.to_string()))?;
                    // As in a configuration.
                    window.beside(&windows).map_err(|error| bad(error.to_string()))?;
                    windows.push(window);
                }
                Ok(Some(Limits::Own(windows)))
            }
            Some(_) => Err(Refused::Invalid(format!("`{name}` is null or an array such as [\"100/1h\"]"))),
        }
    }
}

/// An organization's limits, as asked for.
pub(super) enum Limits {
    /// Back to those of its plan.
    OfThePlan,
    /// Its own; none: unlimited.
    Own(Vec<Window>),
}

impl Limits {
    /// As the store takes them.
    pub fn windows(&self) -> Option<&[Window]> {
        match self {
            Self::OfThePlan => None,
            Self::Own(windows) => Some(windows),
        }
    }
}

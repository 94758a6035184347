//! Reading a body into an operation's fields.
//!
//! What a client sends is judged here once, strictly: a type that is not the field's, a key that stands
//! twice (two parsers would read two different requests: RFC 8259 section 4), nesting without end. All that is wrong is
//! told together, each thing by the name that the client gave it. Unknown fields are ignored. Called by `native/` alone.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::form::{self, is_form};
use super::json::{parse, shortened};
use super::slot::{Field, Kind};
use super::{Bodies, Read, Served};
use crate::model::problem::{FieldError, Problem};
use crate::model::time::Timestamp;

/// Longer bodies are refused unread; a site's own, smaller limit acts before this.
pub const MAX_BODY: usize = 1024 * 1024;
/// Array elements and object entries in one field.
const MAX_ENTRIES: usize = 256;
/// The bytes of an object of anything, as compact JSON.
const MAX_OBJECT: usize = 4096;

/// What a client sent, field by field.
pub struct Input {
    fields: Vec<Given>,
}

struct Given {
    field: Field,
    /// The client's name for it.
    key: String,
    /// `None`: not sent, or null.
    value: Option<Typed>,
}

enum Typed {
    Text(String),
    Texts(Vec<String>),
    Strings(BTreeMap<String, String>),
    Object(Value),
    Seconds(Duration),
    Time(Timestamp),
}

impl fmt::Debug for Input {
    /// The fields' names only: among the values are passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.fields.iter().map(|given| given.field.name())).finish()
    }
}

/// Reads the input of `served` from a body and the parameters of the path.
pub fn decode<'p>(
    served: &Served,
    content_type: Option<&str>,
    body: &[u8],
    path_params: impl Iterator<Item = (&'p str, &'p str)>,
) -> Result<Input, Problem> {
    // An operation that reads no body does not care what a client puts there.
    let sent = if served.reads.is_empty() { Map::new() } else { object(served.bodies, content_type, body)? };
    let mut errors = Vec::new();
    let mut fields = Vec::new();
    for read in &served.reads {
        let (key, value) = named(read, &sent);
        let value = value.map_or(Ok(None), |value| typed(read.field, value));
        match &value {
            Err((within, message)) => errors.push(FieldError::new(format!("{key}{within}"), *message)),
            Ok(None) if read.required => errors.push(FieldError::new(key, "is required")),
            Ok(Some(Typed::Text(text))) if read.required && text.is_empty() => {
                errors.push(FieldError::new(key, "must not be empty"));
            }
            Ok(_) => {}
        }
        fields.push(Given { field: read.field, key: key.to_owned(), value: value.unwrap_or_default() });
    }
    for (name, value) in path_params {
        if let Some(field) = Field::from_name(name) {
            fields.push(Given { field, key: name.to_owned(), value: Some(Typed::Text(value.to_owned())) });
        }
    }
    if errors.is_empty() { Ok(Input { fields }) } else { Err(Problem::InvalidRequest(errors)) }
}

impl Input {
    /// A text that was sent; `None` when it is missing or null.
    pub fn text(&self, field: Field) -> Result<Option<&str>, FieldError> {
        self.value(field, |typed| if let Typed::Text(text) = typed { Some(text.as_str()) } else { None })
    }

    /// A text that must be sent, and not be empty.
    pub fn required_text(&self, field: Field) -> Result<&str, FieldError> {
        match self.text(field)? {
            None => Err(self.error(field, "is required")),
            Some("") => Err(self.error(field, "must not be empty")),
            Some(text) => Ok(text),
        }
    }

    /// An array of texts.
    pub fn texts(&self, field: Field) -> Result<Option<&[String]>, FieldError> {
        self.value(field, |typed| if let Typed::Texts(texts) = typed { Some(texts.as_slice()) } else { None })
    }

    /// An object of texts.
    pub fn object(&self, field: Field) -> Result<Option<&BTreeMap<String, String>>, FieldError> {
        self.value(field, |typed| if let Typed::Strings(strings) = typed { Some(strings) } else { None })
    }

    /// An object of anything.
    pub fn json(&self, field: Field) -> Result<Option<&Value>, FieldError> {
        self.value(field, |typed| if let Typed::Object(object) = typed { Some(object) } else { None })
    }

    /// A number of whole seconds.
    pub fn seconds(&self, field: Field) -> Result<Option<Duration>, FieldError> {
        self.value(field, |typed| if let Typed::Seconds(seconds) = typed { Some(*seconds) } else { None })
    }

    /// A time.
    pub fn timestamp(&self, field: Field) -> Result<Option<Timestamp>, FieldError> {
        self.value(field, |typed| if let Typed::Time(time) = typed { Some(*time) } else { None })
    }

    /// A complaint about `field` under the name that the client knows it by.
    pub fn error(&self, field: Field, message: impl Into<String>) -> FieldError {
        FieldError::new(self.key(field), message)
    }

    /// The client's name for `field`.
    pub fn key(&self, field: Field) -> &str {
        self.given(field).map_or(field.name(), |given| given.key.as_str())
    }

    fn given(&self, field: Field) -> Option<&Given> {
        self.fields.iter().find(|given| given.field == field)
    }

    fn value<'i, T>(&'i self, field: Field, pick: impl Fn(&'i Typed) -> Option<T>) -> Result<Option<T>, FieldError> {
        let Some(typed) = self.given(field).and_then(|given| given.value.as_ref()) else { return Ok(None) };
        // `decode` gave every field its own type: only asking for another one ends here.
        pick(typed).map(Some).ok_or_else(|| self.error(field, "is of another type"))
    }
}

/// The name under which a field was sent, and what it holds: of several names the first that was.
fn named<'r>(read: &'r Read, sent: &'r Map<String, Value>) -> (&'r str, Option<&'r Value>) {
    let mut names = [&read.key].into_iter().chain(&read.or);
    let found = names.find_map(|name| Some((name, sent.get(name).filter(|value| !value.is_null())?)));
    found.map_or((&read.key, None), |(name, value)| (name, Some(value)))
}

/// The body as an object; an empty body is an empty object.
fn object(bodies: Bodies, content_type: Option<&str>, body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.len() > MAX_BODY {
        return Err(Problem::PayloadTooLarge);
    }
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    if bodies == Bodies::JsonOrForm && content_type.is_some_and(is_form) {
        return form::parse(body).map_err(|error| Problem::InvalidRequest(vec![error]));
    }
    if !content_type.is_none_or(is_json) {
        return Err(Problem::UnsupportedMediaType);
    }
    match parse(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::InvalidRequest(vec![FieldError::new("", "must be a JSON object")])),
        Err(error) => Err(Problem::InvalidRequest(vec![error])),
    }
}

/// `application/json` or `application/…+json`, whatever its case and parameters (RFC 9110 section 8.3.1).
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.strip_prefix("application/").is_some_and(|subtype| {
        subtype == "json" || subtype.strip_suffix("+json").is_some_and(|name| !name.is_empty() && !name.contains('/'))
    })
}

/// Where inside a field something is wrong (`[2]`, `.server_id`), and what.
type Wrong = (String, &'static str);

/// `value` as the type that `field` has; `None` for null.
fn typed(field: Field, value: &Value) -> Result<Option<Typed>, Wrong> {
    let whole = |message| (String::new(), message);
    let typed = match (field.kind(), value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Text, Value::String(text)) => Typed::Text(clean(text).map_err(whole)?),
        (Kind::Text, _) => return Err(whole("must be a string")),
        (Kind::Texts, Value::Array(items)) if items.len() <= MAX_ENTRIES => {
            let each = items.iter().enumerate();
            Typed::Texts(
                each.map(|(at, item)| string(item).map_err(|message| (format!("[{at}]"), message)))
                    .collect::<Result<_, _>>()?,
            )
        }
        (Kind::Texts, Value::Array(_)) => return Err(whole("has too many elements")),
        (Kind::Texts, _) => return Err(whole("must be an array of strings")),
        (Kind::Strings, Value::Object(entries)) if entries.len() <= MAX_ENTRIES => {
            let entry = |(key, value): (&String, &Value)| {
                let within = |message| (format!(".{}", shortened(key)), message);
                Ok((clean(key).map_err(within)?, string(value).map_err(within)?))
            };
            Typed::Strings(entries.iter().map(entry).collect::<Result<_, _>>()?)
        }
        (Kind::Strings, Value::Object(_)) => return Err(whole("has too many entries")),
        (Kind::Strings, _) => return Err(whole("must be an object whose values are strings")),
        (Kind::Object, value) if value.is_object() => Typed::Object(bounded(value).map_err(whole)?),
        (Kind::Object, _) => return Err(whole("must be an object")),
        (Kind::Seconds, value) => match value.as_u64() {
            Some(seconds) => Typed::Seconds(Duration::from_secs(seconds)),
            None => return Err(whole("must be a whole number of seconds")),
        },
        (Kind::Time, value) => match value.as_str().and_then(Timestamp::from_rfc3339) {
            Some(time) => Typed::Time(time),
            None => return Err(whole("must be a time such as 2025-01-15T10:00:00Z")),
        },
    };
    Ok(Some(typed))
}

/// What a client says of itself is kept and shown as it is: it must be short.
fn bounded(value: &Value) -> Result<Value, &'static str> {
    match value.to_string().len() {
        length if length > MAX_OBJECT => Err("is longer than 4096 bytes"),
        _ if holds_nul(value) => Err("must not contain the character U+0000"),
        _ => Ok(value.clone()),
    }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn string(value: &Value) -> Result<String, &'static str> {
    value.as_str().ok_or("must be a string").and_then(clean)
}

/// `PostgreSQL` keeps no NUL in a text, and C programs behind us end one there.
fn clean(text: &str) -> Result<String, &'static str> {
    if text.contains('\0') { Err("must not contain the character U+0000") } else { Ok(text.to_owned()) }
}

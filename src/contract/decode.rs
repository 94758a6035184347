//! Reading a body into an operation's fields.
//!
//! What a client sends is judged here once, strictly: a type that is not the field's, a key that stands
//! twice (two parsers would read two different requests: RFC 8259 section 4), nesting without end. All that is wrong is
//! told together, each thing by the name that the client gave it. Unknown fields are ignored. Called by `native/` alone.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Served;
use super::json::{parse, shortened};
use super::slot::{Field, Kind};
use crate::model::problem::{FieldError, Problem};
use crate::model::time::Timestamp;

/// Longer bodies are refused unread; a site's own, smaller limit acts before this.
pub const MAX_BODY: usize = 1024 * 1024;
/// Array elements and object entries in one field.
const MAX_ENTRIES: usize = 256;

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
    let sent = if served.reads.is_empty() { Map::new() } else { object(content_type, body)? };
    let mut errors = Vec::new();
    let mut fields = Vec::new();
    for read in &served.reads {
        let value = sent.get(&read.key).map_or(Ok(None), |value| typed(read.field, value));
        let required = read.required;
        match &value {
            Err((within, message)) => errors.push(FieldError::new(format!("{}{within}", read.key), *message)),
            Ok(None) if required => errors.push(FieldError::new(&read.key, "is required")),
            Ok(Some(Typed::Text(text))) if required && text.is_empty() => {
                errors.push(FieldError::new(&read.key, "must not be empty"));
            }
            Ok(_) => {}
        }
        fields.push(Given { field: read.field, key: read.key.clone(), value: value.unwrap_or_default() });
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

/// The body as an object; an empty body is an empty object.
fn object(content_type: Option<&str>, body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.len() > MAX_BODY {
        return Err(Problem::PayloadTooLarge);
    }
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
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
        (Kind::Object, value) if value.is_object() => Typed::Object(value.clone()),
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

fn string(value: &Value) -> Result<String, &'static str> {
    value.as_str().ok_or("must be a string").and_then(clean)
}

/// `PostgreSQL` keeps no NUL in a text, and C programs behind us end one there.
fn clean(text: &str) -> Result<String, &'static str> {
    if text.contains('\0') { Err("must not contain the character U+0000") } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::compile::{builtin, load};
    use crate::contract::operation::Operation;
    use crate::contract::source::Source;

    fn read(operation: Operation, content_type: Option<&str>, body: &str) -> Result<Input, Problem> {
        let contract = load(&Source::new("vantage", builtin("vantage").unwrap())).unwrap();
        let served = contract.operations.iter().find(|served| served.operation == operation).unwrap();
        decode(
            served,
            content_type,
            body.as_bytes(),
            [("key_id", "key_1")].into_iter().take(usize::from(served.on.path.contains("key_id"))),
        )
    }

    fn wrong(operation: Operation, body: &str) -> Vec<(String, String)> {
        match read(operation, Some("application/json"), body) {
            Err(Problem::InvalidRequest(errors)) => errors.into_iter().map(|each| (each.field, each.message)).collect(),
            other => panic!("{body}: {other:?}"),
        }
    }

    fn one(operation: Operation, body: &str, field: &str, message: &str) {
        assert_eq!(wrong(operation, body), [(field.to_owned(), message.to_owned())], "{body}");
    }

    #[test]
    fn the_documented_bodies_are_read() {
        let body =
            r#"{"email": "user@example.com", "password": "secure_password", "name": "John Doe", "role": "owner"}"#;
        let input = read(Operation::Register, Some("application/json"), body).unwrap();
        assert_eq!(input.required_text(Field::Email), Ok("user@example.com"));
        assert_eq!(input.text(Field::Name), Ok(Some("John Doe")));
        assert_eq!(input.text(Field::Username), Ok(None));

        let body = r#"{"name": "My API Key", "description": null, "permissions": ["read:posts", "write:posts"],
            "expires_at": "2025-01-15T11:00:00+01:00", "attributes": {"server_id": "s"}}"#;
        let input = read(Operation::KeyCreate, Some("application/json; charset=utf-8"), body).unwrap();
        assert_eq!(input.text(Field::KeyDescription), Ok(None));
        assert_eq!(input.texts(Field::KeyPermissions).unwrap().unwrap(), ["read:posts", "write:posts"]);
        assert_eq!(input.timestamp(Field::KeyExpiresAt), Ok(Some(Timestamp::from_millis(1_736_935_200_000))));
        assert_eq!(input.object(Field::KeyAttributes).unwrap().unwrap()["server_id"], "s");
        assert_eq!(input.error(Field::KeyName, "is taken"), FieldError::new("name", "is taken"));
    }

    #[test]
    fn a_body_that_an_operation_does_not_need_may_be_absent_or_anything() {
        let input = read(Operation::KeyRotate, None, "").unwrap();
        assert_eq!((input.seconds(Field::OverlapSeconds), input.required_text(Field::KeyId)), (Ok(None), Ok("key_1")));
        let input = read(Operation::KeyRotate, Some("application/json"), r#"{"overlap_seconds": 0}"#).unwrap();
        assert_eq!(input.seconds(Field::OverlapSeconds), Ok(Some(Duration::ZERO)));
        read(Operation::RefreshBearer, Some("text/plain"), "\u{0}{{{").unwrap();
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_by_the_clients_names() {
        let told = wrong(Operation::Register, r#"{"email": 1, "name": ["x"]}"#);
        let told: Vec<String> = told.iter().map(|(field, message)| format!("{field} {message}")).collect();
        assert_eq!(told, ["email must be a string", "password is required", "name must be a string"]);
        let told = wrong(Operation::Login, "");
        assert_eq!(told.iter().map(|each| each.0.as_str()).collect::<Vec<_>>(), ["email", "password"]);
    }

    #[test]
    fn a_value_of_another_type_is_never_bent_into_the_right_one() {
        let key = |rest: &str| format!(r#"{{"name": "k", {rest}}}"#);
        for (rest, field, message) in [
            (r#""permissions": "read:posts""#, "permissions", "must be an array of strings"),
            (r#""permissions": ["a", 1]"#, "permissions[1]", "must be a string"),
            (r#""attributes": []"#, "attributes", "must be an object whose values are strings"),
            (r#""attributes": {"a": {}}"#, "attributes.a", "must be a string"),
            (r#""expires_at": 1736935200"#, "expires_at", "must be a time such as 2025-01-15T10:00:00Z"),
            (r#""expires_at": "2025-01-15""#, "expires_at", "must be a time such as 2025-01-15T10:00:00Z"),
            (r#""description": true"#, "description", "must be a string"),
            (r#""description": "\u0000""#, "description", "must not contain the character U+0000"),
        ] {
            one(Operation::KeyCreate, &key(rest), field, message);
        }
        for bad in ["-1", "1.5", "60.0", "\"60\"", "1e3", "99999999999999999999", "true", "[]"] {
            let body = format!(r#"{{"overlap_seconds": {bad}}}"#);
            one(Operation::KeyRotate, &body, "overlap_seconds", "must be a whole number of seconds");
        }
        one(Operation::Login, r#"{"email": "", "password": "x"}"#, "email", "must not be empty");
        one(Operation::Login, r#"{"email": null, "password": "x"}"#, "email", "is required");
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_wherever_it_stands() {
        one(Operation::Login, r#"{"email":"a","password":"b","email":"c"}"#, "email", "stands more than once");
        // The same key to a parser, in two spellings.
        one(Operation::Login, r#"{"email":"a","password":"b","\u0065mail":"c"}"#, "email", "stands more than once");
        one(Operation::Login, r#"{"email":"a","x":[{"y":{"z":1,"z":2}}]}"#, "x.y.z", "stands more than once");
        let long = "k".repeat(10_000);
        one(Operation::Login, &format!(r#"{{"{long}":1,"{long}":2}}"#), &long[..64], "stands more than once");
    }

    #[test]
    fn nesting_is_bounded() {
        let nest =
            |depth: usize| format!(r#"{{"email":"a","password":"b","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        read(Operation::Login, None, &nest(31)).unwrap();
        one(Operation::Login, &nest(32), "x", "is nested too deeply");
        one(Operation::Login, &nest(100_000), "x", "is nested too deeply");
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        for bad in ["[]", "1", "\"email\"", "null"] {
            one(Operation::Login, bad, "", "must be a JSON object");
        }
        for bad in
            ["{", "{}{}", "{\"email\":}", "{'email':1}", "{\"a\":1,}", "nul", "{\"a\":\"\\ud800\"}", "{\"a\":NaN}"]
        {
            let told = wrong(Operation::Login, bad);
            assert!(
                told.len() == 1 && told[0].0.is_empty() && told[0].1.starts_with("is not JSON: line 1"),
                "{bad}: {told:?}"
            );
        }
        let contract = load(&Source::new("vantage", builtin("vantage").unwrap())).unwrap();
        let login = &contract.operations[1];
        let told = decode(login, None, b"{\"email\":\"\xff\"}", std::iter::empty()).unwrap_err();
        assert_eq!(told.kind().name(), "invalid_request");
    }

    #[test]
    fn only_json_is_read() {
        let body = r#"{"email":"a","password":"b"}"#;
        for good in
            [None, Some("application/json"), Some("Application/JSON ; charset=UTF-8"), Some("application/x.y+json")]
        {
            read(Operation::Login, good, body).unwrap();
        }
        for bad in
            ["application/x-www-form-urlencoded", "text/json", "application/jsonx", "application/+json", "", "json"]
        {
            let told = read(Operation::Login, Some(bad), body).unwrap_err();
            assert_eq!(told, Problem::UnsupportedMediaType, "{bad}");
        }
        let long = " ".repeat(MAX_BODY + 1);
        assert_eq!(read(Operation::Login, None, &long).unwrap_err(), Problem::PayloadTooLarge);
    }

    #[test]
    fn debug_shows_no_value() {
        let input = read(Operation::Login, None, r#"{"email":"a@b","password":"hunter2"}"#).unwrap();
        assert_eq!(format!("{input:?}"), r#"{"identifier", "password"}"#);
    }
}

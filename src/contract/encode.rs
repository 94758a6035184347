//! Writing answers and problems: slots into the contract's templates, compact JSON in the file's order.

use std::fmt;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::slot::Slot;
use super::template::{Segment, Template};
use super::{Contract, ProblemShape, Served};
use crate::model::problem::{FieldError, Problem};

/// What an operation gives: a value for each slot, and the elements of `$items` where it gives a list.
#[derive(Clone, Default)]
pub struct Values {
    slots: Vec<(Slot, Value)>,
    items: Vec<Values>,
}

impl Values {
    /// Nothing yet; a slot that is never set renders null.
    pub fn new() -> Self {
        Self::default()
    }

    /// With `slot` being `value`, whatever it was before.
    #[must_use]
    pub fn set(mut self, slot: Slot, value: impl Into<Value>) -> Self {
        let value = value.into();
        match self.slots.iter_mut().find(|(own, _)| *own == slot) {
            Some((_, old)) => *old = value,
            None => self.slots.push((slot, value)),
        }
        self
    }

    /// With all that `others` sets.
    #[must_use]
    pub fn with(self, others: Self) -> Self {
        others.slots.into_iter().fold(self, |values, (slot, value)| values.set(slot, value))
    }

    /// With one more element of `$items`.
    #[must_use]
    pub fn item(mut self, item: Values) -> Self {
        self.items.push(item);
        self
    }

    fn value(&self, slot: Slot) -> &Value {
        self.slots.iter().find_map(|(own, value)| (*own == slot).then_some(value)).unwrap_or(&Value::Null)
    }
}

impl fmt::Debug for Values {
    /// The slots' names only: among the values are tokens and keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.slots.iter().map(|(slot, _)| slot.name());
        write!(f, "Values({:?}, {} items)", names.collect::<Vec<_>>(), self.items.len())
    }
}

/// A refusal as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The status.
    pub status: u16,
    /// The body, JSON.
    pub body: Bytes,
}

/// The body of a success; empty where the contract gives none.
pub fn answer(served: &Served, values: &Values) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    if let Some(body) = &served.body {
        write(body, values, served.item.as_ref(), &mut out);
    }
    out
}

/// The status and body of a refusal.
pub fn problem(contract: &Contract, problem: &Problem) -> Rendered {
    let kind = problem.kind();
    let Some(shape) = contract.problems.get(&kind) else {
        // Compiling a contract gives every kind a shape.
        return Rendered { status: kind.default_status(), body: Bytes::from_static(b"{}") };
    };
    if let Some(body) = &shape.rendered {
        return Rendered { status: shape.status, body: body.clone() };
    }
    Rendered { status: shape.status, body: filled(&shape.body, &said(contract, problem)).into() }
}

/// What a refusal says to a person, in the words of `contract`.
pub fn message(contract: &Contract, problem: &Problem) -> String {
    match said(contract, problem).value(Slot::Message) {
        Value::String(message) => message.clone(),
        _ => problem.kind().default_message().to_owned(),
    }
}

/// What a refusal says in the words of `contract`: its code, its message, and what the problem itself knows.
pub(super) fn said(contract: &Contract, problem: &Problem) -> Values {
    let values = match problem {
        Problem::PlanRequired(plans) => Values::new().set(Slot::Plans, contract.plan_titles(*plans)),
        Problem::InvalidRequest(errors) => {
            Values::new().set(Slot::Reasons, reasons(errors)).set(Slot::Details, details(errors))
        }
        Problem::MalformedRequest(what) => Values::new().set(Slot::Reasons, *what),
        _ => Values::new(),
    };
    match contract.problems.get(&problem.kind()) {
        Some(shape) => worded(shape, values),
        None => values,
    }
}

/// A refusal where there is no product to speak for: no site has the request's host.
pub fn plain_problem(problem: &Problem) -> Rendered {
    let kind = problem.kind();
    let message = match problem {
        Problem::MalformedRequest(what) => format!("Malformed request: {what}"),
        _ => kind.default_message().to_owned(),
    };
    let body = serde_json::json!({ "error": kind.name(), "message": message }).to_string();
    Rendered { status: kind.default_status(), body: body.into() }
}

/// The body of a shape that says the same each time.
pub(super) fn constant(shape: &ProblemShape) -> Vec<u8> {
    filled(&shape.body, &worded(shape, Values::new()))
}

fn worded(shape: &ProblemShape, mut values: Values) -> Values {
    if values.value(Slot::Details).is_null() {
        values = values.set(Slot::Details, Value::Object(Map::new()));
    }
    let message = text(&shape.message, &values);
    values.set(Slot::Code, shape.code.as_str()).set(Slot::Message, message)
}

/// A template with its values, where there is no list.
pub(super) fn filled(template: &Template, values: &Values) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write(template, values, None, &mut out);
    out
}

/// `email is required; password must be at least 8 characters`
fn reasons(errors: &[FieldError]) -> String {
    let lines: Vec<String> = errors
        .iter()
        .map(|error| match error.field.as_str() {
            "" => format!("the body {}", error.message),
            field => format!("{field} {}", error.message),
        })
        .collect();
    lines.join("; ")
}

/// `{"email": ["is required"]}`; what concerns no field stands under `body`.
fn details(errors: &[FieldError]) -> Value {
    let mut fields = Map::new();
    for error in errors {
        let field = if error.field.is_empty() { "body" } else { &error.field };
        let list = fields.entry(field).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(messages) = list {
            messages.push(error.message.as_str().into());
        }
    }
    Value::Object(fields)
}

fn write(template: &Template, values: &Values, item: Option<&Template>, out: &mut Vec<u8>) {
    match template {
        Template::Literal(value) => json(value, out),
        Template::Slot(Slot::Items) => list(&values.items, out, |values, out| match item {
            Some(item) => write(item, values, None, out),
            None => json(&Value::Null, out),
        }),
        Template::Slot(slot) => json(values.value(*slot), out),
        Template::Text(_) => json(&text(template, values), out),
        Template::Array(items) => list(items, out, |each, out| write(each, values, item, out)),
        Template::Object(fields) => {
            out.push(b'{');
            for (at, (key, field)) in fields.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                json(key, out);
                out.push(b':');
                write(field, values, item, out);
            }
            out.push(b'}');
        }
    }
}

fn list<T>(items: &[T], out: &mut Vec<u8>, each: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(b']');
}

/// A template as text: slots without quotes, null as nothing.
fn text(template: &Template, values: &Values) -> String {
    let plain = |slot: Slot| match values.value(slot) {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    match template {
        Template::Literal(Value::String(text)) => text.clone(),
        Template::Slot(slot) => plain(*slot),
        Template::Text(segments) => segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(text) => text.clone(),
                Segment::Slot(slot) => plain(*slot),
            })
            .collect(),
        Template::Literal(other) => other.to_string(),
        Template::Array(_) | Template::Object(_) => String::new(),
    }
}

/// `value` as JSON. U+2028 and U+2029, which end a line in JavaScript before ES2019, are escaped: a client may
/// well put an answer into a script.
fn json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let written = serde_json::to_string(value).expect("strings, numbers and maps with string keys are JSON");
    let mut rest = written.as_str();
    while let Some(at) = rest.find(['\u{2028}', '\u{2029}']) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let end = at + '\u{2028}'.len_utf8();
        out.extend_from_slice(if rest[at..].starts_with('\u{2028}') { b"\\u2028" } else { b"\\u2029" });
        rest = &rest[end..];
    }
    out.extend_from_slice(rest.as_bytes());
}

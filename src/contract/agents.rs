//! Agents: the message that they must send first, and what they are told.
//!
//! The connection, its patience and its frames are the gateway's affair; here are only the texts: what a
//! first message means, and how the answers to it look. `edge` asks [`AgentRules::key`] of a whole message,
//! never of a part.

use std::time::Duration;

use toml::Spanned;

use super::encode::{self, Values};
use super::json::parse;
use super::lifetimes::duration;
use super::operation::{KEY, USER, joined};
use super::pattern::{MethodSet, Pattern, is_below};
use super::raw::RawAgents;
use super::slot::Slot;
use super::source::Report;
use super::template::{Given, Template};
use super::wire::pattern;
use super::{AgentRules, Contract};
use crate::model::problem::{FieldError, Problem};
use crate::model::secret::Secret;

impl AgentRules {
    /// Whether agents connect at this path, which is in its canonical form.
    pub fn is_at(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        let fits = |own: &str| match segments.next() {
            Some(segment) if own.starts_with('{') => !segment.is_empty(),
            segment => segment == Some(own),
        };
        self.on.path.split('/').all(fits) && segments.next().is_none()
    }

    /// The API key in the first message.
    pub fn key(&self, message: &[u8]) -> Result<Secret, Problem> {
        if message.len() > self.max_message {
            return Err(Problem::PayloadTooLarge);
        }
        let wrong = |field: &str, message: String| Problem::InvalidRequest(vec![FieldError::new(field, message)]);
        let value = parse(message).map_err(|error| Problem::InvalidRequest(vec![error]))?;
        let Some(fields) = value.as_object() else { return Err(wrong("", "must be a JSON object".into())) };
        if fields.get(&self.type_field).and_then(|value| value.as_str()) != Some(&self.type_value) {
            return Err(wrong(&self.type_field, format!("must be `{}`", self.type_value)));
        }
        match fields.get(&self.key_field).map(|value| value.as_str()) {
            None => Err(wrong(&self.key_field, "is required".into())),
            Some(None) => Err(wrong(&self.key_field, "must be a string".into())),
            Some(Some("")) => Err(wrong(&self.key_field, "must not be empty".into())),
            Some(Some(key)) => Ok(Secret::new(key.to_owned())),
        }
    }

    /// What an agent is told whose key passes.
    pub fn accepted(&self, values: &Values) -> Vec<u8> {
        encode::filled(&self.accepted, values)
    }

    /// What an agent is told before the connection is closed.
    pub fn refused(&self, contract: &Contract, problem: &Problem) -> Vec<u8> {
        encode::filled(&self.refused, &encode::said(contract, problem))
    }
}

/// What an accepted key gives: itself, its maker and their organization.
const ACCEPTED: &[Slot] = &joined::<21>(KEY, USER);

pub(super) fn compile(
    raw: &Spanned<RawAgents>,
    keys: bool,
    prefixes: &[String],
    report: &mut Report<'_>,
) -> Option<AgentRules> {
    let place = raw.span();
    let raw = raw.get_ref();
    if !keys {
        report.tell(
            &place,
            "agents show an API key, and the product has none",
            "add a [keys] table with the keys' prefix",
        );
    }
    let on = pattern(&raw.on, report);
    if let Some(on) = &on {
        judge(&raw.on, on, prefixes, report);
    }
    for name in [&raw.first.type_field, &raw.first.key_field] {
        if name.get_ref().is_empty() {
            report.tell(&name.span(), "a field of a message has a name", "write the name that the agent sends");
        }
    }
    if raw.first.type_field.get_ref() == raw.first.key_field.get_ref() {
        report.tell(&raw.first.key_field.span(), "one field cannot hold both", "give the key a field of its own");
    }
    let patience = duration(raw.patience.as_ref(), Duration::from_secs(10), report);
    if let Some(raw) = &raw.patience
        && (patience.is_zero() || patience > Duration::from_mins(5))
    {
        report.tell(&raw.span(), "an agent has between 1ms and 5m for its first message", "10s is usual");
    }
    let max_message = raw.max_message.as_ref().map_or(4096, |raw| *raw.get_ref());
    if let Some(raw) = &raw.max_message
        && !(64..=65_536).contains(&max_message)
    {
        report.tell(&raw.span(), "a first message has at most 64 to 65536 bytes", "4096 is usual");
    }
    let close_code = raw.close_code.as_ref().map_or(1008, |raw| *raw.get_ref());
    if let Some(raw) = &raw.close_code
        && !(close_code == 1008 || (3000..=4999).contains(&close_code))
    {
        // RFC 6455 section 7.4: 1008 is a breach of policy; from 3000 on a status is an application's own.
        report.tell(&raw.span(), "not a status that closes a refused connection", "1008, or 3000 to 4999");
    }
    let accepted = Given { by: "the answer to an accepted key", slots: ACCEPTED };
    let refused = Given { by: "the answer to a refused key", slots: &[Slot::Code, Slot::Message] };
    Some(AgentRules {
        accepted: Template::compile(&raw.accepted, accepted, report),
        refused: Template::compile(&raw.refused, refused, report),
        on: on?,
        type_field: raw.first.type_field.get_ref().clone(),
        type_value: raw.first.type_value.get_ref().clone(),
        key_field: raw.first.key_field.get_ref().clone(),
        patience,
        max_message,
        close_code,
    })
}

/// A WebSocket is opened by GET (RFC 6455 section 4.1), and its frames go on to a backend.
fn judge(raw: &Spanned<String>, on: &Pattern, prefixes: &[String], report: &mut Report<'_>) {
    if Some(on.methods) != MethodSet::parse("GET") {
        report.tell(&raw.span(), "a WebSocket is opened by GET", format!("write `GET {}`", on.path));
    }
    if on.path.contains("{*") {
        report.tell(&raw.span(), "agents connect at one path, not at `{*rest}`", "name each segment");
    }
    if prefixes.iter().any(|prefix| is_below(prefix, &on.path)) {
        let message = "nothing below a native prefix is forwarded, so no agent would reach a backend";
        report.tell(&raw.span(), message, "give the agents a path elsewhere");
    }
}

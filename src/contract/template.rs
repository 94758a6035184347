//! An answer's body: literal JSON with slots in it.
//!
//! In a contract file `"$slot"` is the slot's own JSON type, `"text $slot text"` and `"text${slot}text"` are
//! always text, and `$$` is a dollar. There is nothing else: no conditions, no defaults, no loops.

use std::ops::Range;

use serde_json::Value;
use toml::Spanned;

use super::raw::RawTemplate;
use super::slot::Slot;
use super::source::{Report, suggest};

/// A JSON value some of whose strings are, or contain, slots. Objects keep the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Template {
    /// A number, boolean, null, or a string without slots.
    Literal(Value),
    /// A string that is exactly one slot: the slot's own JSON type.
    Slot(Slot),
    /// A string with slots in it: always a string.
    Text(Vec<Segment>),
    /// An array.
    Array(Vec<Template>),
    /// An object.
    Object(Vec<(String, Template)>),
}

/// A piece of a [`Template::Text`].
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// Literal text.
    Literal(String),
    /// A slot, as text.
    Slot(Slot),
}

/// The slots that may stand in a template, and who gives them.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// As messages name it: "`login`", "a problem's message".
    pub by: &'a str,
    /// The slots.
    pub slots: &'a [Slot],
}

impl Template {
    /// Whether `slot` stands anywhere in it.
    pub fn holds(&self, slot: Slot) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Slot(own) => *own == slot,
            Self::Text(segments) => {
                segments.iter().any(|segment| matches!(segment, Segment::Slot(own) if *own == slot))
            }
            Self::Array(items) => items.iter().any(|item| item.holds(slot)),
            Self::Object(fields) => fields.iter().any(|(_, field)| field.holds(slot)),
        }
    }

    /// Compiles what the file holds; whatever cannot be filled is told to `report`.
    pub fn compile(raw: &Spanned<RawTemplate>, given: Given<'_>, report: &mut Report<'_>) -> Self {
        match raw.get_ref() {
            RawTemplate::Plain(value) => Self::Literal(value.clone()),
            RawTemplate::Text(text) => Self::text(text, &raw.span(), given, report),
            RawTemplate::Array(items) => {
                Self::Array(items.iter().map(|item| Self::compile(item, given, report)).collect())
            }
            RawTemplate::Table(fields) => Self::Object(
                fields
                    .iter()
                    .map(|(key, field)| (key.get_ref().clone(), Self::compile(field, given, report)))
                    .collect(),
            ),
        }
    }

    /// Compiles one string that stands at `span`.
    pub fn text(text: &str, span: &Range<usize>, given: Given<'_>, report: &mut Report<'_>) -> Self {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            literal.push_str(&rest[..dollar]);
            let at = text.len() - rest.len() + dollar;
            let (name, length) = match next(&rest[dollar + 1..]) {
                Next::Dollar => {
                    literal.push('$');
                    rest = &rest[dollar + 2..];
                    continue;
                }
                Next::Slot(name, length) => (name, length),
                Next::Nothing => {
                    let remedy = "write `$slot` or `${slot}`, and `$$` for a dollar";
                    report.tell_within(span, text, at, "a `$` without a slot's name", remedy);
                    rest = &rest[dollar + 1..];
                    continue;
                }
            };
            rest = &rest[dollar + 1 + length..];
            let Some(slot) = Slot::from_name(name).filter(|slot| given.slots.contains(slot)) else {
                let known = if Slot::from_name(name).is_some() { "does not give" } else { "has no slot" };
                let remedy = suggest(name, given.slots.iter().map(|slot| slot.name()));
                report.tell_within(span, text, at, format!("{} {known} `${name}`", given.by), remedy);
                continue;
            };
            if !literal.is_empty() {
                segments.push(Segment::Literal(std::mem::take(&mut literal)));
            }
            segments.push(Segment::Slot(slot));
            let alone = segments.len() == 1 && rest.is_empty();
            if !alone && !slot.is_text() {
                let message = format!("`${name}` is a list or an object and cannot stand inside a text");
                report.tell_within(span, text, at, message, format!("write it alone: \"${name}\""));
            }
        }
        literal.push_str(rest);
        match segments.as_slice() {
            [] => Self::Literal(literal.into()),
            [Segment::Slot(slot)] if literal.is_empty() => Self::Slot(*slot),
            _ => {
                if !literal.is_empty() {
                    segments.push(Segment::Literal(literal));
                }
                Self::Text(segments)
            }
        }
    }
}

/// What follows a dollar.
enum Next<'t> {
    Dollar,
    /// A name and how many bytes it takes, braces included.
    Slot(&'t str, usize),
    Nothing,
}

fn next(after: &str) -> Next<'_> {
    if after.starts_with('$') {
        return Next::Dollar;
    }
    if let Some(inner) = after.strip_prefix('{') {
        return match inner.split_once('}') {
            Some((name, _)) if !name.is_empty() => Next::Slot(name, name.len() + 2),
            _ => Next::Nothing,
        };
    }
    let end = after
        .find(|each: char| !(each.is_ascii_lowercase() || each.is_ascii_digit() || each == '_' || each == '.'))
        .unwrap_or(after.len());
    // A full stop after a slot ends the sentence, not the name.
    let name = after[..end].trim_end_matches('.');
    if name.starts_with(|each: char| each.is_ascii_lowercase()) { Next::Slot(name, name.len()) } else { Next::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::source::Source;

    const GIVEN: Given<'_> = Given { by: "`me`", slots: &[Slot::UserName, Slot::Plan, Slot::KeyPermissions] };

    fn compile(text: &str) -> (Template, Vec<String>) {
        let file = format!("a = '{text}'");
        let source = Source::new("t.toml", file.as_str());
        let mut report = Report::new(&source);
        let template = Template::text(text, &(4..4 + text.len() + 2), GIVEN, &mut report);
        (template, report.errors.iter().map(ToString::to_string).collect())
    }

    fn good(text: &str) -> Template {
        let (template, errors) = compile(text);
        assert_eq!(errors, [""; 0], "{text}");
        template
    }

    #[test]
    fn a_slot_alone_keeps_its_type_and_within_a_text_becomes_text() {
        assert_eq!(good("$key.permissions"), Template::Slot(Slot::KeyPermissions));
        assert_eq!(good("${plan}"), Template::Slot(Slot::Plan));
        assert_eq!(
            good("Dear $user.name."),
            Template::Text(vec![
                Segment::Literal("Dear ".into()),
                Segment::Slot(Slot::UserName),
                Segment::Literal(".".into())
            ])
        );
        assert_eq!(
            good("${plan}s$plan"),
            Template::Text(vec![Segment::Slot(Slot::Plan), Segment::Literal("s".into()), Segment::Slot(Slot::Plan)])
        );
    }

    #[test]
    fn two_dollars_are_one_and_never_a_slot() {
        assert_eq!(good("$$plan costs $$5"), Template::Literal("$plan costs $5".into()));
        assert_eq!(good("$$$plan"), Template::Text(vec![Segment::Literal("$".into()), Segment::Slot(Slot::Plan)]));
    }

    #[test]
    fn what_cannot_be_filled_is_told_with_its_column() {
        for (text, error) in [
            ("$plam", "t.toml:1:6: a: `me` has no slot `$plam`\n    help: did you mean `plan`?"),
            (
                "é $access_token",
                "t.toml:1:8: a: `me` does not give `$access_token`\n    help: one of: user.name, plan, key.permissions",
            ),
            (
                "5 $",
                "t.toml:1:8: a: a `$` without a slot's name\n    help: write `$slot` or `${slot}`, and `$$` for a dollar",
            ),
            (
                "${plan",
                "t.toml:1:6: a: a `$` without a slot's name\n    help: write `$slot` or `${slot}`, and `$$` for a dollar",
            ),
            (
                "x $key.permissions",
                "t.toml:1:8: a: `$key.permissions` is a list or an object and cannot stand inside a text\n    help: write it alone: \"$key.permissions\"",
            ),
        ] {
            assert_eq!(compile(text).1, [error], "{text}");
        }
    }
}

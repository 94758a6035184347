//! An answer's body: literal JSON with slots in it.

use super::slot::Slot;

/// A JSON value some of whose strings are, or contain, slots. Objects keep the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Template {
    /// A number, boolean, null, or a string without slots.
    Literal(serde_json::Value),
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
}

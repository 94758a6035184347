//! `[problem]` as written: its keys are the kinds of problem there are, and `body`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use toml::Spanned;

use super::RawTemplate;
use crate::model::problem::ProblemKind;

/// `[problem]`: the body that all kinds share, and a row for each kind that differs from its default.
#[derive(Debug, Default)]
pub struct RawProblems {
    /// The shared body.
    pub body: Option<Spanned<RawTemplate>>,
    /// The rows.
    pub rows: Vec<(Spanned<ProblemKind>, RawProblem)>,
}

/// How one kind of problem is told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawProblem {
    /// Its status.
    pub status: Option<Spanned<u16>>,
    /// Its code.
    pub code: Option<Spanned<String>>,
    /// Its message.
    pub message: Option<Spanned<String>>,
    /// A body of its own.
    pub body: Option<Spanned<RawTemplate>>,
}

impl<'de> Deserialize<'de> for RawProblems {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const KNOWN: [&str; ProblemKind::ALL.len() + 1] = {
            let mut names = ["body"; ProblemKind::ALL.len() + 1];
            let mut at = 0;
            while at < ProblemKind::ALL.len() {
                names[at + 1] = ProblemKind::ALL[at].name();
                at += 1;
            }
            names
        };
        struct Rows;

        impl<'de> Visitor<'de> for Rows {
            type Value = RawProblems;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawProblems, A::Error> {
                let mut problems = RawProblems::default();
                while let Some(key) = map.next_key::<Spanned<ProblemName>>()? {
                    match key.get_ref().0 {
                        None => problems.body = Some(map.next_value()?),
                        Some(kind) => problems.rows.push((Spanned::new(key.span(), kind), map.next_value()?)),
                    }
                }
                Ok(problems)
            }
        }

        /// `body`, or a kind.
        struct ProblemName(Option<ProblemKind>);

        impl<'de> Deserialize<'de> for ProblemName {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                if name == "body" {
                    return Ok(Self(None));
                }
                match ProblemKind::ALL.iter().find(|kind| kind.name() == name) {
                    Some(kind) => Ok(Self(Some(*kind))),
                    None => Err(Error::unknown_field(&name, &KNOWN)),
                }
            }
        }

        deserializer.deserialize_map(Rows)
    }
}

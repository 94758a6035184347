//! The file as written: serde, nothing resolved.
//!
//! These types stop at [`super::compile`]. Everything that it may complain of is [`Spanned`]; names
//! and values stay text until then, so that one bad value does not hide the next.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::Carried;
use super::operation::Operation;
use crate::model::problem::ProblemKind;

/// A contract file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawContract {
    /// The product's name.
    pub name: Spanned<String>,
    /// Whoever registers gets this role; the first by default.
    pub register_role: Option<Spanned<String>>,
    /// Paths at and below which nothing is forwarded.
    #[serde(default)]
    pub native_prefixes: Vec<Spanned<String>>,
    /// `[ids]`
    #[serde(default)]
    pub ids: RawIds,
    /// `[tokens]`
    #[serde(default)]
    pub tokens: RawTokens,
    /// `[keys]`
    pub keys: Option<RawKeys>,
    /// `[schemes]`: name = what it carries.
    #[serde(default)]
    pub schemes: Named<Vec<Spanned<Carried>>>,
    /// `[password]`
    #[serde(default)]
    pub password: RawPassword,
    /// `[role.NAME]`, highest first.
    #[serde(default)]
    pub role: Named<RawRole>,
    /// `[plan.NAME]`, cheapest first.
    #[serde(default)]
    pub plan: Named<RawPlan>,
    /// `[[operation]]`
    #[serde(default)]
    pub operation: Vec<RawOperation>,
    /// `[[guard]]`
    #[serde(default)]
    pub guard: Vec<RawGuard>,
    /// `[problem]`
    #[serde(default)]
    pub problem: RawProblems,
}

/// How ids are spelt: `uuid`, or a prefix such as `user_`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIds {
    /// Users.
    pub user: Option<Spanned<String>>,
    /// Organizations.
    pub org: Option<Spanned<String>>,
    /// API keys.
    pub key: Option<Spanned<String>>,
    /// Sessions.
    pub session: Option<Spanned<String>>,
}

/// How tokens are made.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTokens {
    /// How long an access token lives: `1h` by default.
    pub access_ttl: Option<Spanned<String>>,
    /// How long a session lives: `30d` by default.
    pub session_lifetime: Option<Spanned<String>>,
}

/// How API keys are made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKeys {
    /// What every key starts with.
    pub prefix: Spanned<String>,
    /// How long a key lives unless asked otherwise; without it, until revoked.
    pub expires_after: Option<Spanned<String>>,
    /// What a key may be given.
    #[serde(default)]
    pub permissions: Vec<Spanned<String>>,
    /// How long a rotated key goes on working: `24h` by default.
    pub rotation_overlap: Option<Spanned<String>>,
}

/// What a new password must have.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "four rules that are asked or not, each by itself")]
pub struct RawPassword {
    /// The fewest characters: 8 by default.
    pub min_length: Option<Spanned<usize>>,
    /// Needs an upper-case letter.
    #[serde(default)]
    pub upper: bool,
    /// Needs a lower-case letter.
    #[serde(default)]
    pub lower: bool,
    /// Needs a digit.
    #[serde(default)]
    pub digit: bool,
    /// Needs a character that is neither.
    #[serde(default)]
    pub special: bool,
}

/// A role.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRole {
    /// What it grants.
    pub permissions: Vec<Spanned<String>>,
    /// It may only GET and HEAD.
    #[serde(default)]
    pub read_only: bool,
    /// It acts on what others of its organization made.
    #[serde(default)]
    pub manages_org: bool,
}

/// A plan.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPlan {
    /// Its name in messages; the name with an upper-case first letter by default.
    pub title: Option<Spanned<String>>,
    /// Its windows; none: unlimited.
    #[serde(default)]
    pub limits: Vec<Spanned<String>>,
    /// A client may choose it; the first plan always may be chosen.
    #[serde(default)]
    pub self_service: bool,
}

/// A native operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOperation {
    /// Which.
    #[serde(rename = "do")]
    pub operation: Spanned<Operation>,
    /// Where: `POST /v1/auth/login`.
    pub on: Spanned<String>,
    /// field = its name in the body.
    #[serde(default)]
    pub reads: Named<Spanned<String>>,
    /// The roles that pass, and all above them.
    pub roles: Option<Spanned<Vec<Spanned<String>>>>,
    /// The plans that pass.
    pub plans: Option<Spanned<Vec<Spanned<String>>>>,
    /// The permissions asked.
    #[serde(default)]
    pub permissions: Vec<Spanned<String>>,
    /// The answer of success.
    #[serde(default)]
    pub answer: RawAnswer,
}

/// An answer of success.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAnswer {
    /// Its status: 200 by default, 204 without a body.
    pub status: Option<Spanned<u16>>,
    /// Its body.
    pub body: Option<Spanned<RawTemplate>>,
    /// One element of `$items`.
    pub item: Option<Spanned<RawTemplate>>,
}

/// What is asked of forwarded requests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGuard {
    /// Which requests.
    #[serde(rename = "match")]
    pub on: Spanned<String>,
    /// The roles that pass, and all above them.
    pub roles: Option<Spanned<Vec<Spanned<String>>>>,
    /// The plans that pass.
    pub plans: Option<Spanned<Vec<Spanned<String>>>>,
    /// The permissions asked; `{parameters}` of the path may stand in them.
    #[serde(default)]
    pub permissions: Vec<Spanned<String>>,
}

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

/// A table of names that the file chooses, in the order of the file.
#[derive(Debug)]
pub struct Named<T>(pub Vec<(Spanned<String>, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries: Vec<(Spanned<String>, T)> = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                // Rank follows the file, and TOML's tables promise no order.
                entries.sort_by_key(|(key, _)| key.span().start);
                Ok(Named(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
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

//! The file as written: serde, nothing resolved.
//!
//! These types stop at [`super::compile`]. Everything that it may complain of is [`Spanned`]; names
//! and values stay text until then, so that one bad value does not hide the next.

mod named;
mod names;
mod problems;
mod template;

use serde::Deserialize;
use toml::Spanned;

use super::operation::Operation;
use super::{Carried, Rotation};

pub use named::Named;
pub use names::RawNames;
pub use problems::{RawProblem, RawProblems};
pub use template::RawTemplate;

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
    /// `[sessions]`
    #[serde(default)]
    pub sessions: RawSessions,
    /// `[mail]`
    pub mail: Option<Spanned<RawMail>>,
    /// `[agents]`
    pub agents: Option<Spanned<RawAgents>>,
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
    /// `[tokens.refresh]`
    pub refresh: Option<Spanned<RawRefresh>>,
}

/// How refresh tokens are made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRefresh {
    /// How long one lives.
    pub ttl: Spanned<String>,
    /// What using one does to it: `rotate` by default.
    pub rotation: Option<Rotation>,
    /// How long a replaced one still gives its successor: `10s` by default.
    pub grace: Option<Spanned<String>>,
    /// Changing the password ends that of the session that goes on, too: `false` by default.
    pub ends_with_password: Option<Spanned<bool>>,
}

/// How long and how many sessions may be.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSessions {
    /// How many of one user.
    pub max: Option<Spanned<u32>>,
    /// How long without being used.
    pub idle: Option<Spanned<String>>,
}

/// Mails with tokens in them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMail {
    /// How long a verification token can be used: `24h` by default.
    pub verify_ttl: Option<Spanned<String>>,
    /// How long a reset token can be used: `1h` by default.
    pub reset_ttl: Option<Spanned<String>>,
    /// Whoever registers is sent a verification token.
    pub verify_on_register: Option<Spanned<bool>>,
}

/// Agents that show their key in a first message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAgents {
    /// Where: `GET /v1/agents/ws`.
    pub on: Spanned<String>,
    /// What the first message looks like.
    pub first: RawFirst,
    /// How long it may take: `10s` by default.
    pub patience: Option<Spanned<String>>,
    /// How many bytes it may have: 4096 by default.
    pub max_message: Option<Spanned<usize>>,
    /// The answer to a key that passes.
    pub accepted: Spanned<RawTemplate>,
    /// The answer to anything else.
    pub refused: Spanned<RawTemplate>,
    /// The status that closes the connection after it: 1008 by default.
    pub close_code: Option<Spanned<u16>>,
}

/// An agent's first message: `{ type_field = "type", type = "auth", key_field = "api_key" }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFirst {
    /// The field that says what a message is.
    pub type_field: Spanned<String>,
    /// What it says.
    #[serde(rename = "type")]
    pub type_value: Spanned<String>,
    /// The field that holds the key.
    pub key_field: Spanned<String>,
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
    /// The plans on which keys count.
    pub plans: Option<Spanned<Vec<Spanned<String>>>>,
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
    /// It can be sent as a form too.
    pub form: Option<Spanned<bool>>,
    /// An API key may call it, as the user who made it.
    pub by_key: Option<Spanned<bool>>,
    /// field = its name in the body, or several that it may have.
    #[serde(default)]
    pub reads: Named<Spanned<RawNames>>,
    /// The fields that must be sent, beside those that the operation needs.
    #[serde(default)]
    pub required: Vec<Spanned<String>>,
    /// The roles that pass, and all above them.
    pub roles: Option<Spanned<Vec<Spanned<String>>>>,
    /// The plans that pass.
    pub plans: Option<Spanned<Vec<Spanned<String>>>>,
    /// The permissions asked.
    #[serde(default)]
    pub permissions: Vec<Spanned<String>>,
    /// Never: what makes keys and ends sessions is not tried. Read so that it can be said.
    pub shadow: Option<Spanned<bool>>,
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
    /// What it would refuse is counted and logged, and passes.
    #[serde(default)]
    pub shadow: bool,
}

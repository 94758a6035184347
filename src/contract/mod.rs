//! A product's wire, as data.
//!
//! A contract file names the product's operations, paths, field names, statuses, error bodies, roles,
//! plans, guards and limits. It is read by [`raw`] and turned into a [`Contract`] by [`compile`](mod@compile), [`wire`],
//! [`require`], [`agents`], `lifetimes` and `problems` (every error at once, each with its line and column). From then on
//! only typed values are used: [`decode`] reads a body, JSON or a form, into [`slot::Field`]s, [`encode`] writes
//! [`slot::Slot`]s into the answer's template. What products *do* differently is a named enum here, never an
//! expression in a file.
//!
//! To add a product: a file in `config/contracts/` (or anywhere: a site names its path), no Rust.

pub mod agents;
pub mod compile;
pub mod decode;
pub mod encode;
mod form;
mod json;
mod lifetimes;
pub mod operation;
pub mod pattern;
mod problems;
pub mod raw;
mod repair;
pub mod require;
pub mod slot;
pub mod source;
pub mod template;
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::model::access::{Bits, Permission, Permissions, PlanId, RoleId};
use crate::model::id::IdStyle;
use crate::model::problem::ProblemKind;
use crate::model::window::Window;

use operation::Operation;
use pattern::{Pattern, PermissionPattern};
use slot::{Field, Slot};
use template::Template;

/// One product's wire, ready to use.
#[derive(Debug)]
pub struct Contract {
    /// Its name, in configuration and metrics.
    pub name: String,
    /// How ids are spelt.
    pub ids: IdStyles,
    /// How access tokens are made.
    pub tokens: TokenRules,
    /// How long and how many sessions may be.
    pub sessions: SessionRules,
    /// Mails with tokens in them, where the product sends any.
    pub mail: Option<MailRules>,
    /// Agents that show their key in the first message of a WebSocket, where the product has any.
    pub agents: Option<AgentRules>,
    /// API keys, where the product has them.
    pub keys: Option<KeyRules>,
    /// Which credentials an `Authorization` scheme may carry.
    pub schemes: Vec<Scheme>,
    /// What a password must have.
    pub password: PasswordRules,
    /// The roles, highest first: a role passes wherever one after it in the list does.
    pub roles: Vec<Role>,
    /// The role of whoever registers.
    pub register_role: RoleId,
    /// The plans, cheapest first; the first is where a new organization starts.
    pub plans: Vec<Plan>,
    /// The operations served natively.
    pub operations: Vec<Served>,
    /// Paths at and below which nothing is ever forwarded, whatever the case or the method. A `{name}` in one is
    /// any one segment.
    pub native_prefixes: Vec<String>,
    /// What the product asks of requests that are forwarded.
    pub guards: Vec<Guard>,
    /// How each problem is told.
    pub problems: BTreeMap<ProblemKind, ProblemShape>,
}

/// How each kind of id is spelt.
#[derive(Debug, Default)]
pub struct IdStyles {
    /// Users.
    pub user: IdStyle,
    /// Organizations.
    pub org: IdStyle,
    /// API keys.
    pub key: IdStyle,
    /// Sessions.
    pub session: IdStyle,
}

/// How tokens are made and renewed.
#[derive(Debug)]
pub struct TokenRules {
    /// How long an access token lives.
    pub access_ttl: Duration,
    /// How long a session lives, however often it is refreshed.
    pub session_lifetime: Duration,
    /// Refresh tokens, where the product has them.
    pub refresh: Option<RefreshRules>,
}

/// How refresh tokens are made and renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshRules {
    /// How long a refresh token lives, from the moment it is made; never past its session's end.
    pub ttl: Duration,
    /// What using one does to it.
    pub rotation: Rotation,
    /// How long after a rotation the token that was replaced still gives the same successor; zero without rotation.
    pub grace: Duration,
    /// Whether changing the password ends that of the session that goes on, too.
    pub ends_with_password: bool,
}

/// What using a refresh token does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// Nothing: it is used again until it ends.
    None,
    /// A new one takes its place; using the old one after the grace ends the session.
    Rotate,
}

/// How long and how many sessions may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRules {
    /// How many of one user may live at once: the oldest goes; `None`: any number.
    pub max: Option<u32>,
    /// How long a session lives without being used; `None`: up to its absolute end.
    pub idle: Option<Duration>,
}

/// Mails with tokens in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailRules {
    /// How long a verification token can be used.
    pub verify_ttl: Duration,
    /// How long a reset token can be used.
    pub reset_ttl: Duration,
    /// Whoever registers is sent a verification token.
    pub verify_on_register: bool,
}

/// Agents: a WebSocket that is opened without a credential, and whose first message holds an API key.
#[derive(Debug)]
pub struct AgentRules {
    /// Where they connect: GET on one path.
    pub on: Pattern,
    /// The field that says what a message is: `type`.
    pub type_field: String,
    /// What it says of the first message: `auth`.
    pub type_value: String,
    /// The field of the first message that holds the key.
    pub key_field: String,
    /// How long an agent may take for its first message.
    pub patience: Duration,
    /// The longest first message, in bytes.
    pub max_message: usize,
    /// The answer to a key that passes; given the slots of the key, its maker and their organization.
    pub accepted: Template,
    /// The answer to anything else; given `$code` and `$message` of the problem.
    pub refused: Template,
    /// The status that closes the connection after it (RFC 6455 section 7.4).
    pub close_code: u16,
}

/// How API keys are made.
#[derive(Debug)]
pub struct KeyRules {
    /// What every key's text starts with.
    pub prefix: String,
    /// How long a key lives unless its maker asks for less; `None`: until revoked.
    pub expires_after: Option<Duration>,
    /// The permissions a key may be given, as families; empty: the product's keys have none.
    pub permissions: Vec<Permission>,
    /// What is asked wherever a key is shown, beside what its request asks: the plans on which keys count.
    pub requires: Requirement,
    /// How long a rotated key keeps working beside its successor unless the client asks otherwise.
    pub rotation_overlap: Duration,
}

/// An `Authorization` scheme of the product.
#[derive(Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Its name, compared without regard to case (RFC 9110 section 11.1).
    pub name: String,
    /// What may follow it.
    pub carries: Vec<Carried>,
}

/// What a scheme may carry. The credential's shape tells which it is, never a trial of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carried {
    /// An access token of ours: three dot-separated parts.
    Token,
    /// An API key: starts with the product's prefix.
    ApiKey,
}

/// What a new password must have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four rules that are asked or not, each by itself")]
pub struct PasswordRules {
    /// The fewest characters; the most is always 1,024 bytes.
    pub min_length: usize,
    /// Needs an upper-case letter.
    pub upper: bool,
    /// Needs a lower-case letter.
    pub lower: bool,
    /// Needs a digit.
    pub digit: bool,
    /// Needs a character that is neither letter nor digit.
    pub special: bool,
}

/// A role.
#[derive(Debug)]
pub struct Role {
    /// Its name in stores, tokens and headers.
    pub name: String,
    /// What it grants.
    pub permissions: Permissions,
    /// The role may only GET and HEAD what is forwarded.
    pub read_only: bool,
    /// The role acts on the API keys that others of its organization made.
    pub manages_org: bool,
}

/// A plan.
#[derive(Debug)]
pub struct Plan {
    /// Its name in stores and headers.
    pub name: String,
    /// Its name in messages: `Pro`.
    pub title: String,
    /// The organization's windows on this plan; none: unlimited.
    pub limits: Vec<Window>,
    /// Clients may choose it when they register.
    pub self_service: bool,
}

/// An operation at its place on the wire.
#[derive(Debug)]
pub struct Served {
    /// What is done.
    pub operation: Operation,
    /// Where: one method (never `*`) and a path; its parameters are fields.
    pub on: Pattern,
    /// What it can be sent.
    pub bodies: Bodies,
    /// Where each field of the input stands in the body.
    pub reads: Vec<Read>,
    /// Who may: beyond what the operation itself demands.
    pub requires: Requirement,
    /// An API key may call it, as the user who made it; otherwise only who signed in.
    pub by_key: bool,
    /// The status of success.
    pub status: u16,
    /// The body of success; `None`: no body.
    pub body: Option<Template>,
    /// How one element of `$items` looks, where the answer is a list.
    pub item: Option<Template>,
}

impl Served {
    /// Whether a refresh token in the body is proof enough: a client whose access token has run out can still sign out.
    pub fn takes_refresh_token(&self) -> bool {
        self.operation == Operation::Logout
            && self.requires == Requirement::default()
            && self.reads.iter().any(|read| read.field == Field::RefreshToken)
    }
}

/// The content types that an operation reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bodies {
    /// JSON.
    #[default]
    Json,
    /// JSON, or a form as browsers send it: `application/x-www-form-urlencoded`.
    JsonOrForm,
}

/// One field of an operation's input.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// The field.
    pub field: Field,
    /// Its name in the body.
    pub key: String,
    /// Names that it may have instead; the first that is sent counts.
    pub or: Vec<String>,
    /// It must be sent: the operation needs it, or the product does.
    pub required: bool,
}

/// What is asked of a caller. All that is stated must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirement {
    /// The roles that pass, with those above them already included; `None`: any.
    pub roles: Option<Bits>,
    /// The plans that pass; `None`: any.
    pub plans: Option<Bits>,
    /// The permissions needed.
    pub permissions: Vec<PermissionPattern>,
}

/// What the product asks of requests that match.
#[derive(Debug)]
pub struct Guard {
    /// Which requests.
    pub on: Pattern,
    /// What is asked.
    pub requires: Requirement,
    /// It is only tried: what it would refuse is counted and logged, and passes.
    pub shadow: bool,
}

/// How a problem is told.
#[derive(Debug)]
pub struct ProblemShape {
    /// The status.
    pub status: u16,
    /// `$code`.
    pub code: String,
    /// `$message`.
    pub message: Template,
    /// The body.
    pub body: Template,
    /// The body as sent, where it is the same for every problem of the kind: rendered once, at load.
    pub rendered: Option<Bytes>,
}

impl Contract {
    /// The role named `name`.
    pub fn role(&self, name: &str) -> Option<RoleId> {
        position(self.roles.iter().map(|role| role.name.as_str()), name).map(RoleId)
    }

    /// The plan named `name`.
    pub fn plan(&self, name: &str) -> Option<PlanId> {
        position(self.plans.iter().map(|plan| plan.name.as_str()), name).map(PlanId)
    }

    /// The titles of the plans in `set`, in order: `Pro or Enterprise`.
    pub fn plan_titles(&self, set: Bits) -> String {
        let titles: Vec<&str> =
            set.iter().filter_map(|at| Some(self.plans.get(usize::from(at))?.title.as_str())).collect();
        titles.join(" or ")
    }

    /// Whether an answer of `served` holds `slot`.
    pub fn answers(&self, served: &Served, slot: Slot) -> bool {
        [&served.body, &served.item].into_iter().flatten().any(|template| template.holds(slot))
    }
}

fn position<'a>(mut names: impl Iterator<Item = &'a str>, wanted: &str) -> Option<u8> {
    names.position(|name| name == wanted).and_then(|at| u8::try_from(at).ok())
}

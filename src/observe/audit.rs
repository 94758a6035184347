//! The audit trail: who did what to accounts, keys and the configuration.
//!
//! Ids, never names, addresses or secrets of people: what was typed at a failed sign-in may be a password.
//!
//! To add an act: a variant with its row in `Act::facts`, and one call where it is done.

use std::fmt::{self, Display};
use std::net::IpAddr;

use serde_json::{Map, Value};

use super::mask;
use crate::model::id::{KeyId, OrgId, SessionId, UserId};
use crate::model::time::Timestamp;
use crate::model::window::Window;

/// One entry of the trail.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// When it was done.
    pub time: Timestamp,
    /// Who did it.
    pub actor: Actor,
    /// What was done.
    pub act: Act<'a>,
    /// The site, by its configured name, or the realm where an operator acts; `None`: the gateway as a whole.
    pub site: Option<&'a str>,
    /// Where the request came from; `None` on the gateway's own machine.
    pub client: Option<IpAddr>,
    /// The request it was done by.
    pub request_id: Option<&'a str>,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Somebody who has not proven who they are.
    Anonymous,
    /// A signed-in user, about themselves or their organization.
    User(UserId),
    /// The operator.
    Operator(Door),
    /// The gateway by itself.
    Gateway,
}

/// How the operator came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The command line on the gateway's machine.
    CommandLine,
    /// The admin listener, with its token.
    AdminApi,
}

/// Why a sign-in failed: for us, never for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInFailure {
    /// No such account.
    UnknownAccount,
    /// Not the account's password.
    WrongPassword,
    /// The user or their organization is disabled.
    Disabled,
    /// Too many failures before.
    Limited,
}

/// What was done.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields say whom and what by their types")]
pub enum Act<'a> {
    /// An account was made, in an organization of its own.
    Registered { user: UserId, org: OrgId },
    /// A password was proven and a session started.
    SignedIn { user: UserId, org: OrgId, session: SessionId },
    /// A sign-in failed; the account, where there is one.
    SignInFailed { user: Option<UserId>, reason: SignInFailure },
    /// A password was changed by its owner.
    PasswordChanged { user: UserId },
    /// A password was set anew by a mailed token.
    PasswordReset { user: UserId },
    /// An address was proven.
    EmailVerified { user: UserId },
    /// A mail with a token was asked for.
    MailAsked { user: UserId, kind: &'a str },
    /// A refresh token was used again after its time: the session was ended.
    RefreshReused { user: UserId, session: SessionId },
    /// A session was ended by its user or by the operator.
    SessionEnded { user: UserId, session: SessionId },
    /// Several sessions of a user were.
    SessionsEnded { user: UserId, count: usize },
    /// An API key was made.
    KeyCreated { org: OrgId, key: KeyId },
    /// An API key was replaced.
    KeyRotated { org: OrgId, key: KeyId, successor: KeyId },
    /// An API key was revoked.
    KeyRevoked { org: OrgId, key: KeyId },
    /// A user's role was set.
    RoleSet { user: UserId, role: &'a str },
    /// An organization's plan was set.
    PlanSet { org: OrgId, plan: &'a str },
    /// An organization was given limits of its own; `None`: the plan's again.
    LimitsSet { org: OrgId, limits: Option<&'a [Window]> },
    /// A user was disabled or enabled.
    UserDisabled { user: UserId, disabled: bool },
    /// An organization was disabled or enabled.
    OrgDisabled { org: OrgId, disabled: bool },
    /// A configuration was taken into use.
    ConfigurationLoaded { generation: u64 },
    /// A configuration was refused.
    ConfigurationRefused { errors: usize },
    /// Another process took the listeners over.
    HandedOver { to: u32 },
    /// Another process was to, and failed.
    HandoverFailed,
    /// The log's level was set; `None`: as configured again.
    LogLevelSet { level: Option<&'a str> },
}

impl Act<'_> {
    /// Its name and its facts, in the order in which they are written.
    fn facts(&self) -> (&'static str, Vec<(&'static str, Value)>) {
        let user = |id: &UserId| ("user", id.to_text().into());
        let org = |id: &OrgId| ("org", id.to_text().into());
        let key = |id: &KeyId| ("key", id.to_text().into());
        let session = |id: &SessionId| ("session", id.to_text().into());
        match self {
            Self::Registered { user: id, org: of } => ("registered", vec![user(id), org(of)]),
            Self::SignedIn { user: id, org: of, session: by } => ("signed_in", vec![user(id), org(of), session(by)]),
            Self::SignInFailed { user: id, reason } => {
                let id = id.map_or(Value::Null, |id| id.to_text().into());
                ("sign_in_failed", vec![("user", id), ("reason", reason.name().into())])
            }
            Self::PasswordChanged { user: id } => ("password_changed", vec![user(id)]),
            Self::PasswordReset { user: id } => ("password_reset", vec![user(id)]),
            Self::EmailVerified { user: id } => ("email_verified", vec![user(id)]),
            Self::MailAsked { user: id, kind } => ("mail_asked", vec![user(id), ("mail", (*kind).into())]),
            Self::RefreshReused { user: id, session: ended } => ("refresh_reused", vec![user(id), session(ended)]),
            Self::SessionEnded { user: id, session: ended } => ("session_ended", vec![user(id), session(ended)]),
            Self::SessionsEnded { user: id, count } => ("sessions_ended", vec![user(id), ("count", (*count).into())]),
            Self::KeyCreated { org: of, key: id } => ("key_created", vec![org(of), key(id)]),
            Self::KeyRotated { org: of, key: id, successor } => {
                ("key_rotated", vec![org(of), key(id), ("successor", successor.to_text().into())])
            }
            Self::KeyRevoked { org: of, key: id } => ("key_revoked", vec![org(of), key(id)]),
            Self::RoleSet { user: id, role } => ("role_set", vec![user(id), ("role", (*role).into())]),
            Self::PlanSet { org: id, plan } => ("plan_set", vec![org(id), ("plan", (*plan).into())]),
            Self::LimitsSet { org: id, limits } => {
                let limits = limits.map(|limits| limits.iter().map(Window::to_string).collect::<Vec<_>>());
                ("limits_set", vec![org(id), ("limits", limits.into())])
            }
            Self::UserDisabled { user: id, disabled } => {
                (if *disabled { "user_disabled" } else { "user_enabled" }, vec![user(id)])
            }
            Self::OrgDisabled { org: id, disabled } => {
                (if *disabled { "org_disabled" } else { "org_enabled" }, vec![org(id)])
            }
            Self::ConfigurationLoaded { generation } => {
                ("configuration_loaded", vec![("generation", (*generation).into())])
            }
            Self::ConfigurationRefused { errors } => ("configuration_refused", vec![("errors", (*errors).into())]),
            Self::HandedOver { to } => ("handed_over", vec![("process", (*to).into())]),
            Self::HandoverFailed => ("handover_failed", Vec::new()),
            Self::LogLevelSet { level } => ("log_level_set", vec![("level", (*level).into())]),
        }
    }
}

impl SignInFailure {
    const fn name(self) -> &'static str {
        match self {
            Self::UnknownAccount => "unknown_account",
            Self::WrongPassword => "wrong_password",
            Self::Disabled => "disabled",
            Self::Limited => "limited",
        }
    }
}

impl Actor {
    const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User(_) => "user",
            Self::Operator(Door::CommandLine) => "operator:command_line",
            Self::Operator(Door::AdminApi) => "operator:admin_api",
            Self::Gateway => "gateway",
        }
    }
}

impl Event<'_> {
    /// The entry as one JSON object.
    pub(super) fn json(&self) -> Value {
        let (name, facts) = self.act.facts();
        let mut line = Map::new();
        line.insert("time".into(), self.time.to_rfc3339().into());
        line.insert("kind".into(), "audit".into());
        line.insert("event".into(), name.into());
        line.insert("actor".into(), self.actor.name().into());
        if let Actor::User(id) = self.actor {
            line.insert("actor_id".into(), id.to_text().into());
        }
        line.insert("site".into(), self.site.into());
        line.insert("client".into(), self.client.map(|client| client.to_string()).into());
        line.insert("request_id".into(), self.request_id.map(|id| mask::cut(id, 128).into_owned()).into());
        line.extend(facts.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Value::Object(line)
    }
}

impl Display for Event<'_> {
    /// For a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, facts) = self.act.facts();
        write!(f, "{} AUDIT {name} by={}", self.time.to_rfc3339(), self.actor.name())?;
        if let Actor::User(id) = self.actor {
            write!(f, ":{}", id.to_text())?;
        }
        for (name, value) in facts {
            write!(f, " {name}={value}")?;
        }
        if let Some(site) = self.site {
            write!(f, " site={site:?}")?;
        }
        if let Some(client) = self.client {
            write!(f, " client={client}")?;
        }
        match self.request_id {
            Some(id) => write!(f, " id={}", mask::cut(id, 128)),
            None => Ok(()),
        }
    }
}

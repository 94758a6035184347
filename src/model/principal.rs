//! Who is asking: the outcome of authentication.

use std::sync::Arc;

use super::access::{Permissions, PlanId, RoleId};
use super::account::Account;
use super::api_key::{ApiKey, SERVER_ID};
use super::id::SessionId;
use super::time::Timestamp;

/// The credential that was verified.
#[derive(Clone, Debug)]
pub enum Method {
    /// An access token of ours.
    Token {
        /// The sign-in it belongs to.
        session: SessionId,
        /// When the token expires.
        expires_at: Timestamp,
    },
    /// An API key.
    Key(Arc<ApiKey>),
}

impl Method {
    /// The server that it is bound to.
    pub fn server_id(&self) -> Option<&str> {
        match self {
            Self::Token { .. } => None,
            Self::Key(key) => key.attributes.get(SERVER_ID).map(String::as_str),
        }
    }

    /// The word for it in identity headers, logs and assertions.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Token { .. } => "jwt",
            Self::Key(_) => "api_key",
        }
    }
}

/// A verified caller and the facts that decisions about them need.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The user and organization, as cached at this request.
    pub account: Arc<Account>,
    /// The role in the site's contract; `None` when the contract no longer knows the stored name: such a role opens nothing.
    pub role: Option<RoleId>,
    /// The plan in the site's contract (the contract's first when the stored name is unknown).
    pub plan: PlanId,
    /// What they may do: the role's permissions, and for a key only those it was given as well.
    pub permissions: Granted,
    /// How they proved it.
    pub method: Method,
}

/// Permissions in force: of the role, narrowed by a key's own.
#[derive(Clone, Debug)]
pub struct Granted {
    /// What the role grants.
    pub role: Permissions,
    /// What the key was given; `None` for a signed-in user.
    pub key: Option<Permissions>,
}

impl Granted {
    /// Whether `wanted` is granted by the role and, for a key, by the key too.
    pub fn cover(&self, wanted: &str) -> bool {
        self.role.cover(wanted) && self.key.as_ref().is_none_or(|key| key.cover(wanted))
    }
}

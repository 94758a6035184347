//! API keys: the record; the secret itself is shown once and kept as a keyed hash.

use std::collections::BTreeMap;
use std::fmt;

use super::access::Permissions;
use super::id::{KeyId, OrgId, UserId};
use super::time::Timestamp;

/// HMAC-SHA-256 of a key's text under the server's pepper: what the store looks keys up by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(***)")
    }
}

/// The attribute that binds a key to a server.
pub const SERVER_ID: &str = "server_id";

/// One API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// The organization whose limits it spends.
    pub org_id: OrgId,
    /// The user who made it: it never grants more than they have.
    pub user_id: UserId,
    /// What its maker calls it.
    pub name: String,
    /// What its maker says it is for.
    pub description: Option<String>,
    /// What it may do.
    pub permissions: Permissions,
    /// What it is bound to (`server_id` …): handed to the backend.
    pub attributes: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// The key that took its place in a rotation.
    pub replaced_by: Option<KeyId>,
}

impl ApiKey {
    /// Whether the key opens anything at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none_or(|at| now < at) && self.expires_at.is_none_or(|at| now < at)
    }
}

//! What changed in the store, so that every node forgets what it had cached of it.

use std::sync::Arc;

use super::id::{KeyId, OrgId, SessionId, UserId};

/// The fact that changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Changed {
    /// A user: role, flags, password, profile.
    User(UserId),
    /// An organization: plan, limits, flags, name.
    Org(OrgId),
    /// An API key: revoked, rotated, re-dated.
    Key(KeyId),
    /// A session: ended.
    Session(SessionId),
}

/// A change in one realm of accounts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The realm it happened in.
    pub realm: Arc<str>,
    /// What changed.
    pub changed: Changed,
}

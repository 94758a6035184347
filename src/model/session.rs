//! Sessions: one sign-in and everything issued from it.

use std::net::IpAddr;
use std::time::Duration;

use super::id::{OrgId, SessionId, UserId};
use super::time::Timestamp;

/// One sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id; every token of the session carries it.
    pub id: SessionId,
    /// Who signed in.
    pub user_id: UserId,
    /// Their organization.
    pub org_id: OrgId,
    /// When they signed in.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_active_at: Timestamp,
    /// When it ends, however often it is refreshed.
    pub ends_at: Timestamp,
    /// When it was ended early (logout, password change, operator).
    pub revoked_at: Option<Timestamp>,
    /// Where they signed in from.
    pub address: Option<IpAddr>,
    /// What the client said of its device, as JSON; `null` where it said nothing.
    pub device: serde_json::Value,
}

impl Session {
    /// Whether tokens of the session count at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now < self.ends_at
    }

    /// Whether it has gone unused for `idle` at `now`, as far as this record knows.
    pub fn is_idle(&self, idle: Duration, now: Timestamp) -> bool {
        self.last_active_at.plus(idle) <= now
    }
}

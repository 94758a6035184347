//! Users and the organizations they belong to.

use super::id::{OrgId, UserId};
use super::time::Timestamp;
use super::window::Window;

/// An organization. Role and plan are kept by name: the contract that gives them meaning can be reloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Its id.
    pub id: OrgId,
    /// Its display name.
    pub name: String,
    /// The plan's name in the contract.
    pub plan: String,
    /// The organization's own windows; they replace the plan's.
    pub limits: Option<Vec<Window>>,
    /// A disabled organization's users and keys are refused.
    pub disabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A user, as the store keeps them; the password's hash stays in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// The organization they belong to.
    pub org_id: OrgId,
    /// The address as they typed it.
    pub email: String,
    /// The sign-in name as they typed it, where the product has one.
    pub username: Option<String>,
    /// The display name.
    pub name: Option<String>,
    /// The role's name in the contract.
    pub role: String,
    /// Whether the address was proven.
    pub email_verified: bool,
    /// A disabled user can neither sign in nor pass.
    pub disabled: bool,
    /// When they registered.
    pub created_at: Timestamp,
    /// When the record last changed.
    pub updated_at: Timestamp,
}

/// A user with their organization: what every decision about a credential needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub user: User,
    /// Their organization.
    pub org: Organization,
}

//! What an operator is shown: resources as JSON.

use serde_json::{Value, json};

use super::Counter;
use crate::config::snapshot::Site;
use crate::model::access::Permission;
use crate::model::account::{Account, Organization, User};
use crate::model::api_key::ApiKey;
use crate::model::session::Session;
use crate::model::time::Timestamp;
use crate::model::window::Window;

/// A user with what decides about them.
pub fn account(at: &Counter<'_>, account: &Account) -> Value {
    let User { email, username, name, role, email_verified, disabled, created_at, updated_at, id, org_id } =
        &account.user;
    let ids = &at.site.contract.ids;
    json!({
        "id": ids.user.render(id.uuid()), "email": email, "username": username, "name": name, "role": role,
        "email_verified": email_verified, "disabled": disabled, "org_id": ids.org.render(org_id.uuid()),
        "plan": account.org.plan, "created_at": created_at.to_rfc3339(), "updated_at": updated_at.to_rfc3339(),
    })
}

/// An organization.
pub fn org(at: &Counter<'_>, org: &Organization) -> Value {
    json!({
        "id": at.site.contract.ids.org.render(org.id.uuid()), "name": org.name, "plan": org.plan,
        "limits": org.limits.as_ref().map(|limits| limits.iter().map(Window::to_string).collect::<Vec<_>>()),
        "disabled": org.disabled, "created_at": org.created_at.to_rfc3339(), "updated_at": org.updated_at.to_rfc3339(),
    })
}

/// An API key; its secret is nowhere.
pub fn key(at: &Counter<'_>, key: &ApiKey) -> Value {
    let ids = &at.site.contract.ids;
    let permissions: Vec<&str> = key.permissions.iter().map(Permission::as_str).collect();
    json!({
        "id": ids.key.render(key.id.uuid()), "name": key.name, "description": key.description,
        "user_id": ids.user.render(key.user_id.uuid()), "permissions": permissions, "attributes": key.attributes,
        "created_at": key.created_at.to_rfc3339(), "expires_at": key.expires_at.map(Timestamp::to_rfc3339),
        "revoked_at": key.revoked_at.map(Timestamp::to_rfc3339),
        "last_used_at": key.last_used_at.map(Timestamp::to_rfc3339),
        "replaced_by": key.replaced_by.map(|id| ids.key.render(id.uuid())),
        "live": key.is_live(at.desk.now.wall),
    })
}

/// A session.
pub fn session(at: &Counter<'_>, session: &Session) -> Value {
    json!({
        "id": at.site.contract.ids.session.render(session.id.uuid()), "address": session.address,
        "device": session.device, "created_at": session.created_at.to_rfc3339(),
        "last_active_at": session.last_active_at.to_rfc3339(), "ends_at": session.ends_at.to_rfc3339(),
    })
}

/// A site with the names that can be given.
pub fn site(site: &Site) -> Value {
    let names = |names: Vec<&str>| Value::from(names);
    json!({
        "name": site.name, "hosts": site.hosts,
        "roles": names(site.contract.roles.iter().map(|role| role.name.as_str()).collect()),
        "plans": names(site.contract.plans.iter().map(|plan| plan.name.as_str()).collect()),
    })
}

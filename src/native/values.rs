//! Facts as slot values: the one place that knows which fact fills which slot.

use serde_json::Value;

use crate::contract::Contract;
use crate::contract::encode::Values;
use crate::contract::slot::Slot;
use crate::credential::jwt::IssuedToken;
use crate::model::account::Account;
use crate::model::api_key::{ApiKey, SERVER_ID};
use crate::model::session::Session;
use crate::model::time::Timestamp;

/// Fills the slots of a user and their organization.
pub fn account(contract: &Contract, account: &Account) -> Values {
    let (user, org) = (&account.user, &account.org);
    Values::new()
        .set(Slot::UserId, contract.ids.user.render(user.id.uuid()))
        .set(Slot::UserEmail, user.email.as_str())
        .set(Slot::UserUsername, user.username.clone())
        .set(Slot::UserName, user.name.clone())
        .set(Slot::UserRole, user.role.as_str())
        .set(Slot::UserEmailVerified, user.email_verified)
        .set(Slot::UserCreatedAt, user.created_at.to_rfc3339())
        .set(Slot::UserUpdatedAt, user.updated_at.to_rfc3339())
        .set(Slot::OrgId, contract.ids.org.render(org.id.uuid()))
        .set(Slot::OrgName, org.name.as_str())
        .set(Slot::Plan, org.plan.as_str())
}

/// Adds an access token and the session it belongs to.
pub fn signed_in(contract: &Contract, values: Values, token: &IssuedToken, session: &Session) -> Values {
    values
        .set(Slot::AccessToken, token.text.expose())
        .set(Slot::ExpiresIn, token.expires_in.as_secs())
        .set(Slot::SessionId, contract.ids.session.render(session.id.uuid()))
}

/// Fills the slots of a session.
pub fn session(contract: &Contract, session: &Session) -> Values {
    let device = if session.device.is_null() { Value::Object(serde_json::Map::new()) } else { session.device.clone() };
    Values::new()
        .set(Slot::SessionId, contract.ids.session.render(session.id.uuid()))
        .set(Slot::SessionDevice, device)
        .set(Slot::SessionAddress, session.address.map(|address| address.to_string()))
        .set(Slot::SessionLastActiveAt, session.last_active_at.to_rfc3339())
        .set(Slot::SessionCreatedAt, session.created_at.to_rfc3339())
}

/// Fills the slots of an API key; never its secret.
pub fn api_key(contract: &Contract, key: &ApiKey) -> Values {
    let permissions: Vec<Value> = key.permissions.iter().map(|permission| permission.as_str().into()).collect();
    let attributes: serde_json::Map<String, Value> =
        key.attributes.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    Values::new()
        .set(Slot::KeyId, contract.ids.key.render(key.id.uuid()))
        .set(Slot::KeyName, key.name.as_str())
        .set(Slot::KeyDescription, key.description.clone())
        .set(Slot::KeyPermissions, permissions)
        .set(Slot::KeyCreatedAt, key.created_at.to_rfc3339())
        .set(Slot::KeyExpiresAt, key.expires_at.map(Timestamp::to_rfc3339))
        .set(Slot::KeyLastUsedAt, key.last_used_at.map(Timestamp::to_rfc3339))
        .set(Slot::KeyRevokedAt, key.revoked_at.map(Timestamp::to_rfc3339))
        .set(Slot::KeyServerId, key.attributes.get(SERVER_ID).map(String::as_str))
        .set(Slot::KeyAttributes, attributes)
}

//! A short-lived, signed statement of who is calling, for backends that want proof.
//!
//! A JWT for one backend (`aud`), of its own `token_use`, verifiable by the site's published keys. It
//! is no access token and is refused as one. Signing costs more than a request may, so an assertion is
//! used again for half of its life, for as long as nothing that it states has changed. Called by
//! `edge::forward` for routes with `assertion = true`.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use serde::Serialize;
use uuid::Uuid;

use crate::contract::Contract;
use crate::model::access::{Permission, PlanId};
use crate::model::account::Account;
use crate::model::principal::{Granted, Method, Principal};
use crate::model::time::Timestamp;

use super::SiteCredentials;
use super::keys::{self, SignError, Stamp};

/// How long an assertion counts.
const LIFETIME: Duration = Duration::from_mins(1);
/// How long it is handed out.
const REUSE: Duration = Duration::from_secs(30);

/// `token_use` of an assertion.
pub const ASSERTION: &str = "assertion";

/// Assertions that still do.
#[derive(Debug)]
pub struct Assertions {
    entries: Cache<Key, Entry>,
}

/// Site, audience, credential.
type Key = ([u8; 32], Arc<str>, Uuid);

#[derive(Clone)]
struct Entry {
    text: Arc<str>,
    from: Timestamp,
    signer: Stamp,
    /// All that the text states. Held, so that the same address is the same fact.
    account: Arc<Account>,
    granted: Granted,
    plan: PlanId,
}

#[derive(Serialize)]
struct Statement<'a> {
    iss: &'a str,
    sub: String,
    aud: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
    token_use: &'static str,
    email: &'a str,
    org: String,
    role: &'a str,
    plan: &'a str,
    permissions: &'a [&'a str],
    auth_method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id: Option<&'a str>,
}

impl Assertions {
    /// Room for `capacity` assertions.
    pub fn new(capacity: usize) -> Self {
        Self { entries: Cache::new(capacity) }
    }

    /// The assertion of `principal` for the backend named `audience`.
    pub async fn of(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        principal: &Principal,
        audience: &Arc<str>,
        now: Timestamp,
    ) -> Result<Arc<str>, SignError> {
        let credential = match &principal.method {
            Method::Token { session, .. } => session.uuid(),
            Method::Key(key) => key.id.uuid(),
        };
        let key = (*site.trust(), Arc::clone(audience), credential);
        let signer = site.keys.asserter().ok_or_else(SignError::no_asserter)?;
        if let Some(entry) = self.entries.get(&key)
            && entry.signer == signer.stamp()
            && Arc::ptr_eq(&entry.account, &principal.account)
            && entry.plan == principal.plan
            && entry.granted.role == principal.permissions.role
            && entry.granted.key == principal.permissions.key
            // Either way: the calendar can be set back.
            && entry.from <= now
            && now < entry.from.plus(REUSE)
        {
            return Ok(entry.text);
        }
        let account = &principal.account;
        let permissions = effective(&principal.permissions);
        let (session_id, key_id, auth_method) = match &principal.method {
            Method::Token { session, .. } => (Some(contract.ids.session.render(session.uuid())), None, "token"),
            Method::Key(key) => (None, Some(contract.ids.key.render(key.id.uuid())), "api_key"),
        };
        let server_id = principal.method.server_id();
        let statement = Statement {
            iss: &site.settings.issuer,
            sub: contract.ids.user.render(account.user.id.uuid()),
            aud: audience,
            iat: now.secs(),
            nbf: now.secs(),
            exp: now.plus(LIFETIME).secs(),
            token_use: ASSERTION,
            email: &account.user.email,
            org: contract.ids.org.render(account.org.id.uuid()),
            role: &account.user.role,
            plan: contract.plans.get(usize::from(principal.plan.0)).map_or(&account.org.plan, |plan| &plan.name),
            permissions: &permissions,
            auth_method,
            session_id,
            key_id,
            server_id,
        };
        let text: Arc<str> = keys::sign(signer, &statement).await?.into();
        let entry = Entry {
            text: Arc::clone(&text),
            from: now,
            signer: signer.stamp(),
            account: Arc::clone(account),
            granted: principal.permissions.clone(),
            plan: principal.plan,
        };
        self.entries.insert(key, entry);
        Ok(text)
    }
}

/// What the caller may do: for a key, of what it was given, that which its maker's role still covers.
fn effective(granted: &Granted) -> Vec<&str> {
    match &granted.key {
        None => granted.role.iter().map(Permission::as_str).collect(),
        Some(key) => key.iter().map(Permission::as_str).filter(|name| granted.role.cover(name)).collect(),
    }
}

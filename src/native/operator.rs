//! What an operator may do to accounts, as resources and verbs.
//!
//! One set of acts, two doors: the admin listener serves it over HTTP, and the command line calls the same
//! function on the store itself when no gateway is running. Every change is committed before it is answered, is
//! written to the change feed for the other nodes, and counts here from the next request on.
//!
//! | path below `/v1/sites/{site}` | methods |
//! |---|---|
//! | `/users?search=&org=&after=&limit=`, `/orgs?after=&limit=` | GET |
//! | `/users/{user}` | GET, PATCH `{role, disabled}` |
//! | `/users/{user}/sessions[/{session}]` | GET, DELETE |
//! | `/orgs/{org}` | GET, PATCH `{plan, limits, disabled}` |
//! | `/orgs/{org}/keys[/{key}]` | GET, DELETE |
//!
//! A user or organization is named by its id as clients see it, or by a user's e-mail address or sign-in name.

use std::sync::Arc;

use http::Method;
use serde_json::{Map, Value, json};

use crate::config::snapshot::Site;
use crate::model::account::{Account, Organization, User};
use crate::model::api_key::ApiKey;
use crate::model::change::{Change, Changed};
use crate::model::id::{KeyId, OrgId, SessionId, UserId};
use crate::model::session::Session;
use crate::model::time::{Now, Timestamp};
use crate::model::window::Window;
use crate::observe::audit::Act;
use crate::rules::identity;
use crate::store::{Page, Revoked, Store, StoreError, UserFilter};

/// What operator acts work on.
pub struct Desk<'a> {
    /// The accounts.
    pub store: &'a Store,
    /// The sites, which give roles, plans and ids their spelling.
    pub sites: &'a [Arc<Site>],
    /// Told of every committed change, so that what is cached of it is forgotten at once.
    pub forget: &'a (dyn Fn(&Change) + Sync),
    /// Told of every act.
    pub audit: &'a (dyn Fn(&str, Act<'_>) + Sync),
    /// When the act is asked for.
    pub now: Now,
}

/// What an act is answered with.
#[derive(Debug, PartialEq)]
pub struct Reply {
    /// An HTTP status.
    pub status: u16,
    /// The resource as it is now, or `{"error": …}`.
    pub body: Value,
}

/// Why an act was not done.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{method} is not done to this resource; {allowed} is")]
    Method { method: Method, allowed: &'static str },
    #[error("the store cannot be reached: {0}")]
    Store(#[from] StoreError),
}

/// Does what `method` and `path` ask, with `query` (`name=value&…`) and `body` (JSON, or empty).
pub async fn handle(desk: &Desk<'_>, method: &Method, path: &str, query: &str, body: &[u8]) -> Reply {
    match act(desk, method, path, query, body).await {
        Ok(body) => Reply { status: 200, body },
        Err(refused) => {
            let status = match refused {
                Refused::NotFound(_) => 404,
                Refused::Invalid(_) => 400,
                Refused::Method { .. } => 405,
                Refused::Store(_) => 503,
            };
            Reply { status, body: json!({ "error": refused.to_string() }) }
        }
    }
}

async fn act(desk: &Desk<'_>, method: &Method, path: &str, query: &str, body: &[u8]) -> Result<Value, Refused> {
    let parts: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .map(|part| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned())
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let ["v1", "sites", rest @ ..] = &parts[..] else { return Err(no_resource(path)) };
    let [name, rest @ ..] = rest else {
        only(method, &[Method::GET], "GET")?;
        return Ok(json!({ "sites": desk.sites.iter().map(|site| site_json(site)).collect::<Vec<_>>() }));
    };
    let site = desk.sites.iter().find(|site| site.name == *name).ok_or_else(|| {
        let names: Vec<&str> = desk.sites.iter().map(|site| site.name.as_str()).collect();
        Refused::NotFound(format!("no site `{name}`; there is {}", names.join(", ")))
    })?;
    let counter = Counter { desk, site };
    match (rest, method) {
        (["users"], &Method::GET) => counter.users(query).await,
        (["users", user], &Method::GET) => Ok(counter.account_json(&counter.account(user).await?)),
        (["users", user], &Method::PATCH) => counter.change_user(user, body).await,
        (["users", user, "sessions"], &Method::GET) => counter.sessions(user).await,
        (["users", user, "sessions"], &Method::DELETE) => counter.end_sessions(user).await,
        (["users", user, "sessions", session], &Method::DELETE) => counter.end_session(user, session).await,
        (["orgs"], &Method::GET) => counter.orgs(query).await,
        (["orgs", org], &Method::GET) => Ok(counter.org_json(&counter.org(org).await?)),
        (["orgs", org], &Method::PATCH) => counter.change_org(org, body).await,
        (["orgs", org, "keys"], &Method::GET) => counter.keys(org, query).await,
        (["orgs", org, "keys", key], &Method::DELETE) => counter.revoke_key(org, key).await,
        (["users"] | ["orgs"] | ["orgs", _, "keys"], _) => Err(wrong_method(method, "GET")),
        (["users", _] | ["orgs", _], _) => Err(wrong_method(method, "GET or PATCH")),
        (["users", _, "sessions"], _) => Err(wrong_method(method, "GET or DELETE")),
        (["users", _, "sessions", _] | ["orgs", _, "keys", _], _) => Err(wrong_method(method, "DELETE")),
        _ => Err(no_resource(path)),
    }
}

/// The acts on one site.
struct Counter<'a> {
    desk: &'a Desk<'a>,
    site: &'a Site,
}

impl Counter<'_> {
    async fn users(&self, query: &str) -> Result<Value, Refused> {
        let query = Query::parse(query, &["search", "org", "after", "limit"])?;
        let filter = match (query.value("org"), query.value("search")) {
            (Some(_), Some(_)) => return Err(Refused::Invalid("give `search` or `org`, not both".to_owned())),
            (Some(org), None) => UserFilter::Org(self.org(org).await?.id),
            (None, Some(start)) => UserFilter::Name(identity::identifier(start).unwrap_or_default()),
            (None, None) => UserFilter::All,
        };
        let found = self.desk.store.users(&self.site.realm, &filter, query.page()?).await?;
        let next = found.last().map(|account| account.user.id.to_text());
        let users: Vec<Value> = found.iter().map(|account| self.account_json(account)).collect();
        Ok(json!({ "users": users, "next": next }))
    }

    async fn orgs(&self, query: &str) -> Result<Value, Refused> {
        let query = Query::parse(query, &["after", "limit"])?;
        let found = self.desk.store.orgs(&self.site.realm, query.page()?).await?;
        let next = found.last().map(|org| org.id.to_text());
        let orgs: Vec<Value> = found.iter().map(|org| self.org_json(org)).collect();
        Ok(json!({ "orgs": orgs, "next": next }))
    }

    async fn change_user(&self, named: &str, body: &[u8]) -> Result<Value, Refused> {
        let (store, realm, wall) = (self.desk.store, &*self.site.realm, self.desk.now.wall);
        let wanted = Fields::parse(body, &["role", "disabled"])?;
        let role = wanted.text("role")?;
        if let Some(role) = role {
            self.known("role", role, self.site.contract.roles.iter().map(|role| role.name.as_str()))?;
        }
        let disabled = wanted.boolean("disabled")?;
        let user = self.account(named).await?.user.id;
        if let Some(role) = role {
            store.set_role(realm, user, role, wall).await?;
            self.done(Changed::User(user), Act::RoleSet { user, role });
        }
        if let Some(disabled) = disabled {
            store.set_user_disabled(realm, user, disabled, wall).await?;
            self.done(Changed::User(user), Act::UserDisabled { user, disabled });
        }
        Ok(self.account_json(&self.account_by_id(user).await?))
    }

    async fn change_org(&self, named: &str, body: &[u8]) -> Result<Value, Refused> {
        let (store, realm, wall) = (self.desk.store, &*self.site.realm, self.desk.now.wall);
        let wanted = Fields::parse(body, &["plan", "limits", "disabled"])?;
        let plan = wanted.text("plan")?;
        if let Some(plan) = plan {
            self.known("plan", plan, self.site.contract.plans.iter().map(|plan| plan.name.as_str()))?;
        }
        let limits = wanted.windows("limits")?;
        let disabled = wanted.boolean("disabled")?;
        let org = self.org(named).await?.id;
        if let Some(plan) = plan {
            store.set_plan(realm, org, plan, wall).await?;
            self.done(Changed::Org(org), Act::PlanSet { org, plan });
        }
        if let Some(limits) = &limits {
            store.set_limits(realm, org, limits.as_deref(), wall).await?;
            self.done(Changed::Org(org), Act::LimitsSet { org, limits: limits.as_deref() });
        }
        if let Some(disabled) = disabled {
            store.set_org_disabled(realm, org, disabled, wall).await?;
            self.done(Changed::Org(org), Act::OrgDisabled { org, disabled });
        }
        Ok(self.org_json(&self.org_by_id(org).await?))
    }

    async fn sessions(&self, named: &str) -> Result<Value, Refused> {
        let user = self.account(named).await?.user.id;
        let sessions = self.desk.store.sessions(&self.site.realm, user, self.desk.now.wall).await?;
        let sessions: Vec<Value> = sessions.iter().map(|session| self.session_json(session)).collect();
        Ok(json!({ "sessions": sessions }))
    }

    async fn end_sessions(&self, named: &str) -> Result<Value, Refused> {
        let user = self.account(named).await?.user.id;
        let ended = self.desk.store.end_sessions(&self.site.realm, user, None, self.desk.now.wall).await?;
        for session in &ended {
            self.done(Changed::Session(*session), Act::SessionEnded { user, session: *session });
        }
        Ok(json!({ "ended": ended.len() }))
    }

    async fn end_session(&self, named: &str, session: &str) -> Result<Value, Refused> {
        let user = self.account(named).await?.user.id;
        let missing = || Refused::NotFound(format!("{named} has no session `{session}`"));
        let id = read_id(self.site.contract.ids.session.parse(session), session).map(SessionId::from);
        let id = id.ok_or_else(missing)?;
        let known = self.desk.store.session(&self.site.realm, id).await?;
        if known.is_none_or(|known| known.user_id != user) {
            return Err(missing());
        }
        let ended = self.desk.store.end_session(&self.site.realm, id, self.desk.now.wall).await?;
        self.done(Changed::Session(id), Act::SessionEnded { user, session: id });
        Ok(json!({ "ended": usize::from(ended) }))
    }

    async fn keys(&self, named: &str, query: &str) -> Result<Value, Refused> {
        let query = Query::parse(query, &["after", "limit"])?;
        let org = self.org(named).await?.id;
        let keys = self.desk.store.keys(&self.site.realm, org, query.page()?).await?;
        let next = keys.last().map(|key| key.id.to_text());
        let keys: Vec<Value> = keys.iter().map(|key| self.key_json(key)).collect();
        Ok(json!({ "keys": keys, "next": next }))
    }

    async fn revoke_key(&self, named: &str, key: &str) -> Result<Value, Refused> {
        let org = self.org(named).await?.id;
        let missing = || Refused::NotFound(format!("{named} has no API key `{key}`"));
        let id = read_id(self.site.contract.ids.key.parse(key), key).map(KeyId::from).ok_or_else(missing)?;
        match self.desk.store.revoke_key(&self.site.realm, org, id, self.desk.now.wall).await? {
            Revoked::Done(key) => {
                self.done(Changed::Key(id), Act::KeyRevoked { org, key: id });
                Ok(self.key_json(&key))
            }
            Revoked::Unknown => Err(missing()),
        }
    }

    /// Tells the gateway and the audit trail of a committed change.
    fn done(&self, changed: Changed, act: Act<'_>) {
        (self.desk.forget)(&Change { realm: Arc::clone(&self.site.realm), changed });
        (self.desk.audit)(&self.site.name, act);
    }

    async fn account(&self, named: &str) -> Result<Account, Refused> {
        let missing = || Refused::NotFound(format!("no user `{named}` at site {}", self.site.name));
        let store = self.desk.store;
        if let Some(id) = read_id(self.site.contract.ids.user.parse(named), named) {
            return store.account(&self.site.realm, UserId::from(id)).await?.ok_or_else(missing);
        }
        let norm = identity::identifier(named).ok_or_else(missing)?;
        let found = store.credentials(&self.site.realm, &norm).await?;
        found.map(|found| found.account).ok_or_else(missing)
    }

    async fn account_by_id(&self, id: UserId) -> Result<Account, Refused> {
        let found = self.desk.store.account(&self.site.realm, id).await?;
        found.ok_or_else(|| Refused::NotFound("the user is gone".to_owned()))
    }

    async fn org(&self, named: &str) -> Result<Organization, Refused> {
        match read_id(self.site.contract.ids.org.parse(named), named) {
            Some(id) => self.org_by_id(OrgId::from(id)).await,
            None => Ok(self.account(named).await?.org),
        }
    }

    async fn org_by_id(&self, id: OrgId) -> Result<Organization, Refused> {
        let found = self.desk.store.organization(&self.site.realm, id).await?;
        found.ok_or_else(|| Refused::NotFound(format!("no organization `{}`", id.to_text())))
    }

    fn known<'a>(
        &self,
        what: &str,
        name: &str,
        mut names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), Refused> {
        let all = names.clone();
        if names.any(|known| known == name) {
            return Ok(());
        }
        let all: Vec<&str> = all.collect();
        Err(Refused::Invalid(format!("no {what} `{name}` at site {}; there is {}", self.site.name, all.join(", "))))
    }

    fn account_json(&self, account: &Account) -> Value {
        let User { email, username, name, role, email_verified, disabled, created_at, updated_at, id, org_id } =
            &account.user;
        let ids = &self.site.contract.ids;
        json!({
            "id": ids.user.render(id.uuid()), "email": email, "username": username, "name": name, "role": role,
            "email_verified": email_verified, "disabled": disabled, "org_id": ids.org.render(org_id.uuid()),
            "plan": account.org.plan, "created_at": created_at.to_rfc3339(), "updated_at": updated_at.to_rfc3339(),
        })
    }

    fn org_json(&self, org: &Organization) -> Value {
        json!({
            "id": self.site.contract.ids.org.render(org.id.uuid()), "name": org.name, "plan": org.plan,
            "limits": org.limits.as_ref().map(|limits| limits.iter().map(Window::to_string).collect::<Vec<_>>()),
            "disabled": org.disabled, "created_at": org.created_at.to_rfc3339(), "updated_at": org.updated_at.to_rfc3339(),
        })
    }

    fn key_json(&self, key: &ApiKey) -> Value {
        let ids = &self.site.contract.ids;
        let permissions: Vec<&str> = key.permissions.iter().map(|permission| permission.as_str()).collect();
        json!({
            "id": ids.key.render(key.id.uuid()), "name": key.name, "description": key.description,
            "user_id": ids.user.render(key.user_id.uuid()), "permissions": permissions, "attributes": key.attributes,
            "created_at": key.created_at.to_rfc3339(), "expires_at": key.expires_at.map(Timestamp::to_rfc3339),
            "revoked_at": key.revoked_at.map(Timestamp::to_rfc3339),
            "last_used_at": key.last_used_at.map(Timestamp::to_rfc3339),
            "replaced_by": key.replaced_by.map(|id| ids.key.render(id.uuid())),
            "live": key.is_live(self.desk.now.wall),
        })
    }

    fn session_json(&self, session: &Session) -> Value {
        json!({
            "id": self.site.contract.ids.session.render(session.id.uuid()), "address": session.address,
            "device": session.device, "created_at": session.created_at.to_rfc3339(),
            "last_active_at": session.last_active_at.to_rfc3339(), "ends_at": session.ends_at.to_rfc3339(),
        })
    }
}

fn site_json(site: &Site) -> Value {
    let names = |names: Vec<&str>| Value::from(names);
    json!({
        "name": site.name, "hosts": site.hosts,
        "roles": names(site.contract.roles.iter().map(|role| role.name.as_str()).collect()),
        "plans": names(site.contract.plans.iter().map(|plan| plan.name.as_str()).collect()),
    })
}

/// An id in the site's style, or as the store and `next` spell it.
fn read_id(styled: Option<uuid::Uuid>, text: &str) -> Option<uuid::Uuid> {
    styled.or_else(|| uuid::Uuid::try_parse(text).ok())
}

fn no_resource(path: &str) -> Refused {
    Refused::NotFound(format!("no resource {path}; see /v1/sites"))
}

fn wrong_method(method: &Method, allowed: &'static str) -> Refused {
    Refused::Method { method: method.clone(), allowed }
}

fn only(method: &Method, allowed: &[Method], names: &'static str) -> Result<(), Refused> {
    if allowed.contains(method) { Ok(()) } else { Err(wrong_method(method, names)) }
}

/// A query string whose names are all known.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str, known: &[&str]) -> Result<Self, Refused> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Refused::Invalid(format!("no parameter `{name}`; there is {}", known.join(", ")))),
            None => Ok(Self(pairs)),
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    fn page<Id: From<uuid::Uuid>>(&self) -> Result<Page<Id>, Refused> {
        let limit = match self.value("limit").map(str::parse::<u32>) {
            None => 100,
            Some(Ok(limit @ 1..=1000)) => limit,
            Some(_) => return Err(Refused::Invalid("`limit` is a whole number from 1 to 1000".to_owned())),
        };
        let after = match self.value("after").map(uuid::Uuid::try_parse) {
            None => None,
            Some(Ok(after)) => Some(Id::from(after)),
            Some(Err(_)) => return Err(Refused::Invalid("`after` is what `next` of the last page said".to_owned())),
        };
        Ok(Page { after, limit })
    }
}

/// A JSON object whose names are all known.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(body: &[u8], known: &[&str]) -> Result<Self, Refused> {
        let fields: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| Refused::Invalid(format!("the body is not a JSON object: {error}")))?;
        match fields.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Refused::Invalid(format!("no field `{name}`; there is {}", known.join(", ")))),
            None if fields.is_empty() => {
                Err(Refused::Invalid(format!("nothing to change; there is {}", known.join(", "))))
            }
            None => Ok(Self(fields)),
        }
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refused::Invalid(format!("`{name}` is a string"))),
        }
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Bool(yes)) => Ok(Some(*yes)),
            Some(_) => Err(Refused::Invalid(format!("`{name}` is true or false"))),
        }
    }

    /// Absent: leave as it is; null: back to the plan's; an array: the organization's own (empty: unlimited).
    fn windows(&self, name: &str) -> Result<Option<Option<Vec<Window>>>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::Array(texts)) => {
                let windows = texts.iter().map(|text| {
                    let text =
                        text.as_str().ok_or_else(|| Refused::Invalid(format!("`{name}` is an array of strings")))?;
                    text.parse().map_err(|error| Refused::Invalid(format!("`{name}`: `{text}`: {error}")))
                });
                windows.collect::<Result<Vec<Window>, Refused>>().map(|windows| Some(Some(windows)))
            }
            Some(_) => Err(Refused::Invalid(format!("`{name}` is null or an array such as [\"100/1h\"]"))),
        }
    }
}

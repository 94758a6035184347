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

mod asked;
mod shown;

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use asked::{Fields, Query};

use crate::config::snapshot::Site;
use crate::model::account::{Account, Organization};
use crate::model::change::{Change, Changed};
use crate::model::id::{KeyId, OrgId, SessionId, UserId};
use crate::model::time::Now;
use crate::observe::audit::Act;
use crate::rules::identity;
use crate::store::{Revoked, Store, StoreError, UserFilter};

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
        return Ok(json!({ "sites": desk.sites.iter().map(|site| shown::site(site)).collect::<Vec<_>>() }));
    };
    let site = desk.sites.iter().find(|site| site.name == *name).ok_or_else(|| {
        let names: Vec<&str> = desk.sites.iter().map(|site| site.name.as_str()).collect();
        Refused::NotFound(format!("no site `{name}`; there is {}", names.join(", ")))
    })?;
    let counter = Counter { desk, site };
    match (rest, method) {
        (["users"], &Method::GET) => counter.users(query).await,
        (["users", user], &Method::GET) => Ok(shown::account(&counter, &counter.account(user).await?)),
        (["users", user], &Method::PATCH) => counter.change_user(user, body).await,
        (["users", user, "sessions"], &Method::GET) => counter.sessions(user).await,
        (["users", user, "sessions"], &Method::DELETE) => counter.end_sessions(user).await,
        (["users", user, "sessions", session], &Method::DELETE) => counter.end_session(user, session).await,
        (["orgs"], &Method::GET) => counter.orgs(query).await,
        (["orgs", org], &Method::GET) => Ok(shown::org(&counter, &counter.org(org).await?)),
        (["orgs", org], &Method::PATCH) => counter.change_org(org, body).await,
        (["orgs", org, "keys"], &Method::GET) => counter.keys(org, query).await,
        (["orgs", org, "keys", key], &Method::DELETE) => counter.revoke_key(org, key).await,
        (["users" | "orgs"] | ["orgs", _, "keys"], _) => Err(wrong_method(method, "GET")),
        (["users" | "orgs", _], _) => Err(wrong_method(method, "GET or PATCH")),
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
        let users: Vec<Value> = found.iter().map(|account| shown::account(self, account)).collect();
        Ok(json!({ "users": users, "next": next }))
    }

    async fn orgs(&self, query: &str) -> Result<Value, Refused> {
        let query = Query::parse(query, &["after", "limit"])?;
        let found = self.desk.store.orgs(&self.site.realm, query.page()?).await?;
        let next = found.last().map(|org| org.id.to_text());
        let orgs: Vec<Value> = found.iter().map(|org| shown::org(self, org)).collect();
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
        Ok(shown::account(self, &self.account_by_id(user).await?))
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
            store.set_limits(realm, org, limits.windows(), wall).await?;
            self.done(Changed::Org(org), Act::LimitsSet { org, limits: limits.windows() });
        }
        if let Some(disabled) = disabled {
            store.set_org_disabled(realm, org, disabled, wall).await?;
            self.done(Changed::Org(org), Act::OrgDisabled { org, disabled });
        }
        Ok(shown::org(self, &self.org_by_id(org).await?))
    }

    async fn sessions(&self, named: &str) -> Result<Value, Refused> {
        let user = self.account(named).await?.user.id;
        let sessions = self.desk.store.sessions(&self.site.realm, user, self.desk.now.wall).await?;
        let sessions: Vec<Value> = sessions.iter().map(|session| shown::session(self, session)).collect();
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
        let keys: Vec<Value> = keys.iter().map(|key| shown::key(self, key)).collect();
        Ok(json!({ "keys": keys, "next": next }))
    }

    async fn revoke_key(&self, named: &str, key: &str) -> Result<Value, Refused> {
        let org = self.org(named).await?.id;
        let missing = || Refused::NotFound(format!("{named} has no API key `{key}`"));
        let id = read_id(self.site.contract.ids.key.parse(key), key).map(KeyId::from).ok_or_else(missing)?;
        match self.desk.store.revoke_key(&self.site.realm, org, id, self.desk.now.wall).await? {
            Revoked::Done(key) => {
                self.done(Changed::Key(id), Act::KeyRevoked { org, key: id });
                Ok(shown::key(self, &key))
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

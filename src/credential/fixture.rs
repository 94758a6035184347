//! What the tests of this module start from: a small contract, a site, a store with one account.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tempfile::TempDir;

use super::presented::Presented;
use super::{Authenticator, CacheSettings, KeySettings, Settings, SiteCredentials, api_key};
use crate::contract::{
    Carried, Contract, IdStyles, KeyRules, PasswordRules, Plan, Requirement, Role, Scheme, SessionRules, TokenRules,
};
use crate::model::access::{Permission, Permissions, RoleId};
use crate::model::account::{Account, Organization, User};
use crate::model::api_key::ApiKey;
use crate::model::entropy::TestEntropy;
use crate::model::id::{IdStyle, KeyId, OrgId, SessionId, UserId};
use crate::model::principal::Principal;
use crate::model::problem::Problem;
use crate::model::secret::Secret;
use crate::model::session::Session;
use crate::model::time::{Clock, Now, SystemClock, TestClock, Timestamp};
use crate::observe::metrics::Metrics;
use crate::revocation::Epochs;
use crate::store::{self, Created, NewAccount, Registered, Store};

pub const START: i64 = 1_700_000_000;
pub const HMAC_SECRET: &str = "pLq8vT2xZr5nWm9cKd4hYb7sJf3gXe6uAa1";

pub fn cache_settings() -> CacheSettings {
    CacheSettings {
        tokens: 1000,
        facts: 1000,
        max_stale: Duration::from_mins(5),
        password_workers: 2,
        password_queue: 8,
    }
}

pub fn key(kid: &str, algorithm: &str, material: &str, signs: bool) -> KeySettings {
    KeySettings { kid: kid.into(), algorithm: algorithm.into(), material: material.to_owned().into(), signs }
}

pub fn settings(keys: Vec<KeySettings>) -> Settings {
    Settings {
        site: 0,
        realm: Arc::from("acme"),
        issuer: "https://acme.test".into(),
        audience: "acme-api".into(),
        leeway: Duration::from_secs(5),
        keys,
        pepper: "9sK2mQ7xT4vB8nL3pR6wZ1cF5hJ0dGyA".to_owned().into(),
    }
}

pub fn site(keys: Vec<KeySettings>) -> SiteCredentials {
    SiteCredentials::new(Arc::new(settings(keys))).unwrap()
}

pub fn hmac_site() -> SiteCredentials {
    site(vec![key("k1", "HS256", HMAC_SECRET, true)])
}

pub fn permissions(names: &[&str]) -> Permissions {
    Permissions::new(names.iter().map(|name| Permission::parse(name).unwrap()).collect())
}

pub fn contract() -> Contract {
    let prefixed = |prefix: &str| IdStyle::Prefixed(prefix.into());
    let role = |name: &str, grants: &[&str]| Role {
        name: name.into(),
        permissions: permissions(grants),
        read_only: false,
        manages_org: false,
    };
    let plan = |name: &str| Plan { name: name.into(), title: name.into(), limits: vec![], self_service: false };
    Contract {
        name: "acme".into(),
        ids: IdStyles { user: prefixed("user_"), org: prefixed("org_"), key: prefixed("key_"), session: IdStyle::Uuid },
        tokens: TokenRules {
            access_ttl: Duration::from_hours(1),
            session_lifetime: Duration::from_hours(720),
            refresh: None,
        },
        sessions: SessionRules::default(),
        mail: None,
        agents: None,
        keys: Some(KeyRules {
            prefix: "acme_".into(),
            expires_after: None,
            permissions: vec![],
            requires: Requirement::default(),
            rotation_overlap: Duration::ZERO,
        }),
        schemes: vec![
            Scheme { name: "Bearer".into(), carries: vec![Carried::Token] },
            Scheme { name: "ApiKey".into(), carries: vec![Carried::ApiKey] },
        ],
        password: PasswordRules { min_length: 1, upper: false, lower: false, digit: false, special: false },
        roles: vec![role("admin", &["*"]), role("viewer", &["read:*"])],
        register_role: RoleId(0),
        plans: vec![plan("free"), plan("pro")],
        operations: vec![],
        native_prefixes: vec![],
        guards: vec![],
        problems: BTreeMap::new(),
    }
}

pub fn account(entropy: &TestEntropy, now: Timestamp) -> Account {
    let org_id = OrgId::new(now, entropy);
    Account {
        user: User {
            id: UserId::new(now, entropy),
            org_id,
            email: "jo@acme.test".into(),
            username: None,
            name: None,
            role: "admin".into(),
            email_verified: false,
            disabled: false,
            created_at: now,
            updated_at: now,
        },
        org: Organization {
            id: org_id,
            name: "Acme".into(),
            plan: "free".into(),
            limits: None,
            disabled: false,
            created_at: now,
            updated_at: now,
        },
    }
}

pub fn session(entropy: &TestEntropy, account: &Account, now: Timestamp) -> Session {
    Session {
        id: SessionId::new(now, entropy),
        user_id: account.user.id,
        org_id: account.org.id,
        created_at: now,
        last_active_at: now,
        ends_at: now.plus(Duration::from_hours(720)),
        revoked_at: None,
        address: None,
        device: serde_json::Value::Null,
    }
}

/// One node with its store and one signed-in account.
pub struct World {
    pub clock: TestClock,
    pub entropy: Arc<TestEntropy>,
    pub store: Store,
    pub epochs: Arc<Epochs>,
    pub auth: Arc<Authenticator>,
    pub contract: Contract,
    pub site: SiteCredentials,
    pub account: Account,
    pub session: Session,
    seen: i64,
    _folder: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("t.db").display());
        let settings = store::Settings { url: url.into(), max_connections: 4, acquire_timeout: Duration::from_secs(5) };
        let clock = TestClock::at(Timestamp::from_secs(START));
        let metrics = Arc::new(Metrics::new(clock.now().wall));
        let store = Store::open(&settings, Arc::clone(&metrics), Arc::new(SystemClock::new())).await.unwrap();
        let entropy = Arc::new(TestEntropy::new(42));
        let account = account(&entropy, clock.now().wall);
        let session = session(&entropy, &account, clock.now().wall);
        let new = NewAccount {
            user: account.user.clone(),
            org: account.org.clone(),
            email_norm: account.user.email.clone(),
            username_norm: None,
            password_hash: "$argon2id$".to_owned().into(),
            session: Some(session.clone()),
            refresh: None,
            verification: None,
        };
        assert_eq!(store.register("acme", &new).await.unwrap(), Registered::Done);
        let epochs = Arc::new(Epochs::new());
        let (shared, random) = (Arc::clone(&epochs), Arc::clone(&entropy));
        let auth = Arc::new(Authenticator::new(&cache_settings(), store.clone(), shared, random, metrics));
        let (contract, site) = (contract(), hmac_site());
        Self { clock, entropy, store, epochs, auth, contract, site, account, session, seen: 0, _folder: folder }
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    pub async fn token(&self) -> String {
        self.token_at(&self.site).await
    }

    pub async fn token_at(&self, site: &SiteCredentials) -> String {
        let issued = self.auth.issue_token(site, &self.contract, &self.account, &self.session, self.now().wall).await;
        issued.unwrap().text.expose().to_owned()
    }

    pub async fn make_key(&self, grants: &[&str], expires_at: Option<Timestamp>) -> (ApiKey, Secret) {
        let text = api_key::mint("acme_", &*self.entropy);
        let key = self.new_key(grants, expires_at);
        let made = self.store.create_key("acme", &key, &self.site.key_hash(text.expose()), 100).await.unwrap();
        assert_eq!(made, Created::Done);
        (key, text)
    }

    pub fn new_key(&self, grants: &[&str], expires_at: Option<Timestamp>) -> ApiKey {
        ApiKey {
            id: KeyId::new(self.now().wall, &*self.entropy),
            org_id: self.account.org.id,
            user_id: self.account.user.id,
            name: "k".into(),
            description: None,
            permissions: permissions(grants),
            attributes: BTreeMap::new(),
            created_at: self.now().wall,
            expires_at,
            revoked_at: None,
            last_used_at: None,
            replaced_by: None,
        }
    }

    /// What a request with this `Authorization` value comes to.
    pub async fn ask(&self, authorization: &str) -> Result<Principal, Problem> {
        self.ask_at(&self.site, authorization).await
    }

    /// Whether a request with this `Authorization` value waits for nothing.
    pub fn is_at_once(&self, authorization: &str) -> bool {
        let value = HeaderValue::from_str(authorization).unwrap();
        let presented = Presented::read([&value], &self.contract).unwrap().unwrap();
        let digest = self.site.digest(&presented);
        self.auth.at_once(&self.site, &self.contract, &presented, &digest, self.now()).is_some()
    }

    pub async fn ask_at(&self, site: &SiteCredentials, authorization: &str) -> Result<Principal, Problem> {
        let value = HeaderValue::from_str(authorization).unwrap();
        let presented = Presented::read([&value], &self.contract).map_err(Problem::from)?.unwrap();
        let (digest, now) = (site.digest(&presented), self.now());
        // As the edge does.
        if let Some(principal) = self.auth.at_once(site, &self.contract, &presented, &digest, now) {
            return Ok(principal);
        }
        let asked = (&presented, digest);
        let outcome = self.auth.authenticate(site, &self.contract, asked, now, std::future::ready(Ok(()))).await;
        outcome.map_err(|refusal| refusal.problem)
    }

    /// Reads the feed, as the node's task does five times a second.
    pub async fn follow(&mut self) {
        for (seq, change) in self.store.changes_since(self.seen, 1000).await.unwrap() {
            self.epochs.bump(&change);
            self.seen = seq;
        }
        self.epochs.heard(self.now().steady);
    }
}

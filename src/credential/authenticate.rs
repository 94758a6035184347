//! Who is calling: from a presented credential to a `Principal`.
//!
//! For a credential that was seen before, this costs one SHA-256 and three cache reads, and waits for
//! nothing. The store is asked only for facts that are not remembered or no longer true; when it cannot
//! answer, the request is refused as unavailable, never let through. Called by `edge::authenticate` for
//! every request, and by the native sign-in operations to issue tokens.

mod known;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::contract::{Carried, Contract};
use crate::model::access::PlanId;
use crate::model::account::Account;
use crate::model::api_key::{ApiKey, KeyHash};
use crate::model::change::Changed;
use crate::model::entropy::Entropy;
use crate::model::id::{OrgId, SessionId, UserId};
use crate::model::principal::{Granted, Method, Principal};
use crate::model::refusal::Refusal;
use crate::model::session::Session;
use crate::model::time::{Now, Steady, Timestamp};
use crate::observe::metrics::Metrics;
use crate::observe::metrics::labels::Cache;
use crate::revocation::Epochs;
use crate::store::{Store, StoreError};

use super::cache::TokenCache;
use super::facts::{Facts, Loaded, Turn, Unfetched};
use super::jwt::{self, IssuedToken, TokenError, VerifiedToken};
use super::keys::SignError;
use super::last_used::{LastUsed, Used};
use super::presented::Presented;
use super::rejected::Rejected;
use super::site::CredentialDigest;
use super::{CacheSettings, SiteCredentials, api_key};

/// Verifies credentials and remembers what it may. One for the whole process; it outlives every reload.
#[derive(Debug)]
pub struct Authenticator {
    store: Store,
    epochs: Arc<Epochs>,
    entropy: Arc<dyn Entropy>,
    tokens: TokenCache,
    accounts: Facts<UserId, Account>,
    sessions: Facts<SessionId, Used<Session>>,
    keys: Facts<KeyHash, Used<ApiKey>>,
    last_used: LastUsed,
    metrics: Arc<Metrics>,
    verifications: AtomicU64,
}

/// What a verified credential was, for noting that it was used.
enum LastUse {
    Session(Arc<Used<Session>>),
    Key(Arc<Used<ApiKey>>),
}

/// What the caches did since the start, for metrics. Hits are requests less these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Signatures and key hashes computed.
    pub verifications: u64,
    /// Accounts looked up.
    pub account_loads: u64,
    /// Sessions looked up.
    pub session_loads: u64,
    /// API keys looked up.
    pub key_loads: u64,
    /// Verified credentials remembered now.
    pub tokens: usize,
    /// Accounts remembered now.
    pub accounts: usize,
    /// Sessions remembered now.
    pub sessions: usize,
    /// API keys remembered now.
    pub keys: usize,
}

impl Authenticator {
    /// Nothing remembered.
    pub fn new(
        settings: &CacheSettings,
        store: Store,
        epochs: Arc<Epochs>,
        entropy: Arc<dyn Entropy>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (facts, stale) = (settings.facts, settings.max_stale);
        Self {
            store,
            epochs,
            entropy,
            tokens: TokenCache::new(settings.tokens),
            accounts: Facts::new(facts, stale),
            sessions: Facts::new(facts, stale),
            keys: Facts::new(facts, stale),
            last_used: LastUsed::default(),
            metrics,
            verifications: AtomicU64::new(0),
        }
    }

    /// Who presents what has this digest, with the facts that decide what they may do. `stranger` is asked, and only then,
    /// before the store is bothered about an API key that nobody has shown before: anyone can make up keys of the right
    /// form.
    pub async fn authenticate(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        (presented, digest): (&Presented<'_>, CredentialDigest),
        now: Now,
        stranger: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<Principal, Refusal> {
        let verified = self.verify(site, contract, (presented, digest), now, stranger).await?;
        Ok(self.note_use(site, verified, now.wall))
    }

    fn note_use(&self, site: &SiteCredentials, (principal, used): (Principal, LastUse), now: Timestamp) -> Principal {
        match used {
            LastUse::Session(session) => self.last_used.note_session(site.realm(), &session, now),
            LastUse::Key(key) => self.last_used.note_key(site.realm(), &key, now),
        }
        principal
    }

    /// The same for a request that is only imagined, with the reason: the credential does not count as used.
    pub async fn recognize(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        presented: &Presented<'_>,
        now: Now,
        stranger: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<Principal, Rejected> {
        let presented = (presented, site.digest(presented));
        Ok(self.verify(site, contract, presented, now, stranger).await?.0)
    }

    async fn verify(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        (presented, digest): (&Presented<'_>, CredentialDigest),
        now: Now,
        stranger: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<(Principal, LastUse), Rejected> {
        match presented.kind {
            Carried::Token => self.by_token(site, contract, presented.text, digest, now).await,
            Carried::ApiKey => self.by_key(site, contract, presented.text, digest, now, stranger).await,
        }
    }

    /// A token for a session that has just been started or refreshed.
    pub async fn issue_token(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        account: &Account,
        session: &Session,
        now: Timestamp,
    ) -> Result<IssuedToken, SignError> {
        let mut jti = [0; 16];
        self.entropy.fill(&mut jti);
        jwt::issue(site, &contract.ids, account, session, contract.tokens.access_ttl, jti, now).await
    }

    /// A user with their organization, remembered or looked up. `org` is where they are believed to be.
    pub async fn account(
        &self,
        realm: &Arc<str>,
        user: UserId,
        org: OrgId,
        now: Steady,
    ) -> Result<Option<Arc<Account>>, Unfetched> {
        if let Some(known) = self.accounts.known(realm, user, &self.epochs, now) {
            self.metrics.caches.hit(Cache::Accounts);
            return Ok(Some(known));
        }
        self.metrics.caches.miss(Cache::Accounts);
        // Boxed, as every look-up here: they are rare, and each request would carry the room for them.
        let fetched = async {
            match self.accounts.join(realm, user, &self.epochs, now).await {
                Turn::Known(known) => known,
                Turn::Lead(lead) => lead.tell(self.load_account(realm, user, org).await),
            }
        };
        Box::pin(fetched).await
    }

    /// A session, remembered or looked up.
    pub async fn session(
        &self,
        realm: &Arc<str>,
        id: SessionId,
        now: Steady,
    ) -> Result<Option<Arc<Used<Session>>>, Unfetched> {
        if let Some(known) = self.sessions.known(realm, id, &self.epochs, now) {
            self.metrics.caches.hit(Cache::Sessions);
            return Ok(Some(known));
        }
        self.metrics.caches.miss(Cache::Sessions);
        let fetched = async {
            match self.sessions.join(realm, id, &self.epochs, now).await {
                Turn::Known(known) => known,
                Turn::Lead(lead) => lead.tell(self.load_session(realm, id).await),
            }
        };
        Box::pin(fetched).await
    }

    /// Writes when keys and sessions were last used. To be called every minute, and once more at the end.
    pub async fn flush_last_used(&self) -> Result<(), StoreError> {
        self.last_used.flush(&self.store).await
    }

    /// What the caches did and hold.
    pub fn counts(&self) -> Counts {
        Counts {
            verifications: self.verifications.load(Ordering::Relaxed),
            account_loads: self.accounts.loads(),
            session_loads: self.sessions.loads(),
            key_loads: self.keys.loads(),
            tokens: self.tokens.len(),
            accounts: self.accounts.len(),
            sessions: self.sessions.len(),
            keys: self.keys.len(),
        }
    }

    async fn by_token(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        text: &str,
        digest: CredentialDigest,
        now: Now,
    ) -> Result<(Principal, LastUse), Rejected> {
        let token = self.verified(site, contract, text, digest, now.wall)?;
        let realm = site.realm();
        let session = self.session(realm, token.session, now.steady).await?.ok_or(Rejected::NoSession)?;
        carries(&session.record, &token, now.wall)?;
        let account = self.account(realm, token.user, token.org, now.steady).await?;
        let principal = principal(contract, account, token.org, by(&token))?;
        Ok((principal, LastUse::Session(session)))
    }

    /// The token's claims. A remembered token is spared the signature, never the clock or the key set.
    fn verified(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        text: &str,
        digest: CredentialDigest,
        now: Timestamp,
    ) -> Result<VerifiedToken, TokenError> {
        if let Some(token) = self.tokens.token(&digest, &site.keys) {
            self.metrics.caches.hit(Cache::Tokens);
            token.lifetime.check(site.settings.leeway, now)?;
            return Ok(token);
        }
        self.metrics.caches.miss(Cache::Tokens);
        self.verifications.fetch_add(1, Ordering::Relaxed);
        let token = jwt::verify(site, &contract.ids, text, now)?;
        self.tokens.keep_token(digest, token);
        Ok(token)
    }

    async fn by_key(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        text: &str,
        digest: CredentialDigest,
        now: Now,
        stranger: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<(Principal, LastUse), Rejected> {
        let realm = site.realm();
        let remembered = self.tokens.key(&digest);
        let hash = if let Some(hash) = remembered {
            hash
        } else {
            // What cannot be a key costs no hash and no look-up.
            if !contract.keys.as_ref().is_some_and(|rules| api_key::is_shaped(&rules.prefix, text)) {
                return Err(Rejected::Misshapen);
            }
            stranger.await?;
            self.verifications.fetch_add(1, Ordering::Relaxed);
            site.key_hash(text)
        };
        let Some(fact) = self.key(realm, hash, now.steady).await? else {
            return Err(Rejected::NoKey);
        };
        if remembered.is_none() {
            self.tokens.keep_key(digest, hash);
        }
        let key = &fact.record;
        // At every request: a rotated key ends at its deadline, not when a cache thinks of it.
        Rejected::key(key, now.wall)?;
        let account = self.account(realm, key.user_id, key.org_id, now.steady).await?;
        let principal = principal(contract, account, key.org_id, Method::Key(Arc::clone(key)))?;
        Ok((principal, LastUse::Key(fact)))
    }

    async fn key(&self, realm: &Arc<str>, hash: KeyHash, now: Steady) -> Result<Option<Arc<Used<ApiKey>>>, Unfetched> {
        if let Some(known) = self.keys.known(realm, hash, &self.epochs, now) {
            self.metrics.caches.hit(Cache::Keys);
            return Ok(Some(known));
        }
        self.metrics.caches.miss(Cache::Keys);
        let fetched = async {
            match self.keys.join(realm, hash, &self.epochs, now).await {
                Turn::Known(known) => known,
                Turn::Lead(lead) => lead.tell(self.load_key(realm, hash).await),
            }
        };
        Box::pin(fetched).await
    }

    async fn load_account(
        &self,
        realm: &Arc<str>,
        user: UserId,
        org: OrgId,
    ) -> Result<Option<Loaded<Account>>, StoreError> {
        let marks = [self.epochs.mark(realm, Changed::User(user)), self.epochs.mark(realm, Changed::Org(org))];
        let account = self.store.account(realm, user).await?;
        Ok(account.map(|fact| {
            // Marked under another organization, its changes would go unheard.
            let marks = (fact.org.id == org).then_some(marks);
            Loaded { fact, marks }
        }))
    }

    async fn load_session(&self, realm: &Arc<str>, id: SessionId) -> Result<Option<Loaded<Used<Session>>>, StoreError> {
        let mark = self.epochs.mark(realm, Changed::Session(id));
        let session = self.store.session(realm, id).await?;
        Ok(session.map(|session| Loaded { fact: Used::session(session), marks: Some([mark, mark]) }))
    }

    /// A key is looked up by something other than its id, so its mark can only be read afterwards. If
    /// anything changed in between, it is looked up again under the mark that is known by then.
    async fn load_key(&self, realm: &Arc<str>, hash: KeyHash) -> Result<Option<Loaded<Used<ApiKey>>>, StoreError> {
        let before = self.epochs.global();
        let Some(key) = self.store.key_by_hash(realm, &hash).await? else { return Ok(None) };
        let mark = self.epochs.mark(realm, Changed::Key(key.id));
        let key = if self.epochs.global() == before { Some(key) } else { self.store.key_by_hash(realm, &hash).await? };
        Ok(key.map(|key| Loaded { fact: Used::key(key), marks: Some([mark, mark]) }))
    }
}

/// Whether a session is live and the token's own.
fn carries(session: &Session, token: &VerifiedToken, now: Timestamp) -> Result<(), Rejected> {
    Rejected::session(session, now)?;
    if session.user_id == token.user { Ok(()) } else { Err(Rejected::OthersSession) }
}

/// How whoever shows `token` has proven who they are.
fn by(token: &VerifiedToken) -> Method {
    Method::Token { session: token.session, expires_at: token.lifetime.expires_at }
}

/// The caller, if the account is there, enabled, and of the organization that the credential speaks for.
fn principal(
    contract: &Contract,
    account: Option<Arc<Account>>,
    org: OrgId,
    method: Method,
) -> Result<Principal, Rejected> {
    let account = account.ok_or(Rejected::NoUser)?;
    if account.user.disabled {
        return Err(Rejected::UserDisabled);
    }
    if account.org.disabled {
        return Err(Rejected::OrgDisabled);
    }
    if account.user.org_id != org || account.org.id != org {
        return Err(Rejected::OtherOrg);
    }
    let role = contract.role(&account.user.role);
    let granted = role.and_then(|role| contract.roles.get(usize::from(role.0)));
    let permissions = Granted {
        role: granted.map(|role| role.permissions.clone()).unwrap_or_default(),
        key: match &method {
            Method::Key(key) => Some(key.permissions.clone()),
            Method::Token { .. } => None,
        },
    };
    let plan = contract.plan(&account.org.plan).unwrap_or(PlanId(0));
    Ok(Principal { account, role, plan, permissions, method })
}

//! What almost every request comes to: a credential that was seen before, whose facts are all remembered, and against which
//! nothing stands. It waits for nothing, and so needs no future.
//!
//! The same questions as in [`Authenticator::authenticate`], of the same rules. Whatever is missing or wrong is found out
//! there, and told there.

use std::sync::Arc;

use super::{Authenticator, LastUse, by, carries, principal};
use crate::contract::{Carried, Contract};
use crate::credential::presented::Presented;
use crate::credential::rejected::Rejected;
use crate::credential::{CredentialDigest, SiteCredentials};
use crate::model::principal::{Method, Principal};
use crate::model::time::Now;
use crate::observe::metrics::labels::Cache;

impl Authenticator {
    /// Who presents this, where nothing needs to be asked of the store and nothing stands against them: what almost every
    /// request comes to, without a wait. `None`: [`Self::authenticate`] finds out.
    pub fn at_once(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        presented: &Presented<'_>,
        digest: &CredentialDigest,
        now: Now,
    ) -> Option<Principal> {
        let known = match presented.kind {
            Carried::Token => self.known_token(site, contract, digest, now),
            Carried::ApiKey => self.known_key(site, contract, digest, now),
        };
        known.map(|known| self.note_use(site, known, now.wall))
    }

    /// [`Self::by_token`] where everything is remembered, and everything in order.
    fn known_token(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        digest: &CredentialDigest,
        now: Now,
    ) -> Option<(Principal, LastUse)> {
        let realm = site.realm();
        let token = self.tokens.token(digest, &site.keys)?;
        token.lifetime.check(site.settings.leeway, now.wall).ok()?;
        let session = self.sessions.known(realm, token.session, &self.epochs, now.steady)?;
        carries(&session.record, &token, now.wall).ok()?;
        let account = self.accounts.known(realm, token.user, &self.epochs, now.steady)?;
        let principal = principal(contract, Some(account), token.org, by(&token)).ok()?;
        self.metrics.caches.hits([Cache::Tokens, Cache::Sessions, Cache::Accounts]);
        Some((principal, LastUse::Session(session)))
    }

    /// [`Self::by_key`] where everything is remembered, and everything in order.
    fn known_key(
        &self,
        site: &SiteCredentials,
        contract: &Contract,
        digest: &CredentialDigest,
        now: Now,
    ) -> Option<(Principal, LastUse)> {
        let realm = site.realm();
        let hash = self.tokens.key(digest)?;
        let fact = self.keys.known(realm, hash, &self.epochs, now.steady)?;
        let key = &fact.record;
        Rejected::key(key, now.wall).ok()?;
        let account = self.accounts.known(realm, key.user_id, &self.epochs, now.steady)?;
        let principal = principal(contract, Some(account), key.org_id, Method::Key(Arc::clone(key))).ok()?;
        self.metrics.caches.hits([Cache::Keys, Cache::Accounts]);
        Some((principal, LastUse::Key(fact)))
    }
}

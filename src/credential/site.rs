//! One site's credentials, prepared when its configuration is loaded.

use std::sync::Arc;

use aws_lc_rs::{digest, hmac};
use smallvec::SmallVec;

use crate::contract::Carried;
use crate::model::api_key::KeyHash;
use crate::rules::secret;

use super::Settings;
use super::api_key;
use super::codes::Codes;
use super::keys::{KeyError, KeySet};
use super::presented::Presented;
use super::refresh::RefreshTokens;

/// What verifying a site's credentials needs. Built anew at each reload, with what is remembered kept.
#[derive(Debug)]
pub struct SiteCredentials {
    /// As configured.
    pub settings: Arc<Settings>,
    /// The token keys.
    pub keys: KeySet,
    /// Its refresh tokens.
    pub refresh: RefreshTokens,
    /// Its tokens in mails.
    pub codes: Codes,
    pepper: hmac::Key,
    trust: [u8; 32],
}

/// The key of everything that is remembered of one credential at one site.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialDigest([u8; 32]);

impl SiteCredentials {
    /// Prepares and tries out every key; weak ones are refused.
    pub fn new(settings: Arc<Settings>) -> Result<Self, KeyError> {
        let keys = KeySet::new(&settings.keys)?;
        let pepper = settings.pepper.expose();
        secret::judge(pepper, secret::LEAST_BYTES).map_err(|weakness| KeyError::WeakPepper(weakness.to_string()))?;
        let refresh = RefreshTokens::new(&settings.pepper, &settings.realm);
        let codes = Codes::new(&settings.pepper, &settings.realm);
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, pepper.as_bytes());
        let trust = trust(&settings, &pepper);
        Ok(Self { settings, keys, refresh, codes, pepper, trust })
    }

    /// The digest under which a verified credential is remembered. It covers the site, all that the site
    /// trusts by (realm, issuer, audience, pepper), the kind of credential and its whole text, each at a
    /// fixed place: no two of them can run into each other.
    pub fn digest(&self, presented: &Presented<'_>) -> CredentialDigest {
        let kind = match presented.kind {
            Carried::Token => 1,
            Carried::ApiKey => 2,
        };
        // On the stack for all but the longest tokens; one call, because a running digest allocates.
        let mut text = SmallVec::<[u8; 1024]>::new();
        text.extend_from_slice(&self.trust);
        text.push(kind);
        text.extend_from_slice(presented.text.as_bytes());
        CredentialDigest(sha256(&text))
    }

    /// What the store looks the key with this text up by.
    pub fn key_hash(&self, text: &str) -> KeyHash {
        api_key::hash(&self.pepper, text)
    }

    /// The realm of accounts.
    pub fn realm(&self) -> &Arc<str> {
        &self.settings.realm
    }

    /// Tells this site, as configured now, from every other.
    pub(super) const fn trust(&self) -> &[u8; 32] {
        &self.trust
    }
}

fn trust(settings: &Settings, pepper: &hmac::Key) -> [u8; 32] {
    let mut text = settings.site.to_be_bytes().to_vec();
    for part in [&settings.realm, settings.issuer.as_str(), settings.audience.as_str()] {
        text.extend_from_slice(&part.len().to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    text.extend_from_slice(hmac::sign(pepper, b"trust").as_ref());
    sha256(&text)
}

fn sha256(text: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, text);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

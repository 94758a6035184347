//! Credentials that were verified before: what a repeated signature check or key hash would tell again.
//!
//! A hit skips the cryptography and nothing else. Whether the token is in its time, its key still in the
//! set, its session live and its account enabled is asked at every request by [`super::authenticate`].
//! Only what was verified gets in, so a flood of forgeries cannot push honest entries out.

use quick_cache::sync::Cache;

use crate::model::api_key::KeyHash;

use super::jwt::VerifiedToken;
use super::keys::KeySet;
use super::site::CredentialDigest;

/// Verified credentials by digest.
#[derive(Debug)]
pub struct TokenCache {
    entries: Cache<CredentialDigest, Known>,
}

#[derive(Clone, Copy)]
enum Known {
    Token(VerifiedToken),
    Key(KeyHash),
}

impl TokenCache {
    /// For at most `capacity` credentials; the least used go first.
    pub fn new(capacity: usize) -> Self {
        Self { entries: Cache::new(capacity) }
    }

    /// The token with this digest, if it was verified by a key that is still in the set.
    pub fn token(&self, digest: &CredentialDigest, keys: &KeySet) -> Option<VerifiedToken> {
        match self.entries.get(digest)? {
            Known::Token(token) if keys.holds(token.key) => Some(token),
            _ => None,
        }
    }

    /// The hash of the API key with this digest.
    pub fn key(&self, digest: &CredentialDigest) -> Option<KeyHash> {
        match self.entries.get(digest)? {
            Known::Key(hash) => Some(hash),
            Known::Token(_) => None,
        }
    }

    /// Remembers a verified token.
    pub fn keep_token(&self, digest: CredentialDigest, token: VerifiedToken) {
        self.entries.insert(digest, Known::Token(token));
    }

    /// Remembers the hash of a key that exists.
    pub fn keep_key(&self, digest: CredentialDigest, hash: KeyHash) {
        self.entries.insert(digest, Known::Key(hash));
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

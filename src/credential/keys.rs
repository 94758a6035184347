//! The keys that sign and verify a site's tokens.
//!
//! A key is bound to one algorithm when it is configured; what a token's header says is compared with
//! it and chooses nothing (RFC 8725 section 3.1). Weak keys are refused, and every key is tried out when
//! it is loaded: a key or a cryptographic provider that does not work is an error at start, never a
//! panic or a refusal at the first token. Used by [`super::jwt`], [`super::assertion`] and
//! `jwks`.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::{self, aws_lc};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use serde::Serialize;

use crate::model::refusal::Refusal;

use super::KeySettings;
use super::material::{self, Halves};

/// A site's token keys: several verify, one signs.
#[derive(Debug)]
pub struct KeySet {
    keys: Box<[Arc<Key>]>,
    signer: Arc<Key>,
    asserter: Option<Arc<Key>>,
    generation: u64,
}

/// One key, ready to use.
pub struct Key {
    kid: String,
    algorithm: Algorithm,
    algorithm_name: String,
    /// The encoded header of every token that it signs.
    header: String,
    signs: Option<EncodingKey>,
    verifies: DecodingKey,
    stamp: Stamp,
}

/// Tells a key from every other by its name, algorithm and material. A remembered token carries the
/// stamp of the key that verified it: once the key has left the set, the token no longer counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u128);

/// Why a key set cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("no key signs tokens: give one key `signs = true`")]
    NoSigner,
    /// There are several.
    #[error("keys `{0}` and `{1}` both sign: give one of them `signs = false`")]
    SeveralSigners(String, String),
    /// Two keys of one name.
    #[error("two keys are named `{0}`: each needs its own `kid`")]
    SameName(String),
    /// One key cannot be used.
    #[error("key `{kid}`: {fault}")]
    Key {
        /// Which.
        kid: String,
        /// Why.
        fault: KeyFault,
    },
    /// What API keys are hashed under is too weak.
    #[error("the API keys' pepper is too weak: {0}; `tollgate secrets new hmac` makes one")]
    WeakPepper(String),
}

/// Why one key cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// A name that is empty, long, or holds odd characters.
    #[error("a `kid` is 1 to 64 of the characters a-z A-Z 0-9 . _ -")]
    BadName,
    /// Not one that we use.
    #[error("`{0}` is not one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, ES256, ES384, EdDSA")]
    Algorithm(String),
    /// Too weak to protect anything.
    #[error("the key is too weak: {0}; `tollgate secrets new` makes a good one")]
    Weak(String),
    /// Not a key of the algorithm.
    #[error("the key cannot be read as one of its algorithm: {0}")]
    NotAKey(String),
    /// A public key cannot sign.
    #[error("a public key cannot sign: give the private key, or `signs = false`")]
    PublicSigns,
    /// What it signs, it does not verify.
    #[error("the key failed its self-test")]
    SelfTest,
}

impl KeySet {
    /// Prepares and tries out every key.
    pub fn new(settings: &[KeySettings]) -> Result<Self, KeyError> {
        // The provider would be picked at first use, with a panic if the build had none. An earlier
        // install is as good: the self-test below is what decides.
        let _ = aws_lc::DEFAULT_PROVIDER.install_default();
        let mut keys: Vec<Arc<Key>> = Vec::with_capacity(settings.len());
        let mut signer: Option<Arc<Key>> = None;
        for each in settings {
            let key = Key::new(each).map_err(|fault| KeyError::Key { kid: each.kid.clone(), fault })?;
            let key = Arc::new(key);
            if keys.iter().any(|other| other.kid == key.kid) {
                return Err(KeyError::SameName(key.kid.clone()));
            }
            if each.signs {
                if let Some(first) = signer {
                    return Err(KeyError::SeveralSigners(first.kid.clone(), key.kid.clone()));
                }
                signer = Some(Arc::clone(&key));
            }
            keys.push(key);
        }
        let generation = generation(&keys);
        let signer = signer.ok_or(KeyError::NoSigner)?;
        let asserter = [&signer].into_iter().chain(&keys).find(|key| key.can_assert()).cloned();
        Ok(Self { keys: keys.into(), signer, asserter, generation })
    }

    /// Changes whenever a key comes, goes or changes.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The key that signs new tokens.
    pub fn signer(&self) -> &Arc<Key> {
        &self.signer
    }

    /// The key that signs assertions for backends, who know the public keys only: the signer where it has a public
    /// half, else the first other key that has one and whose private half is here.
    pub fn asserter(&self) -> Option<&Arc<Key>> {
        self.asserter.as_ref()
    }

    /// Whether the stamped key is still in the set.
    pub fn holds(&self, stamp: Stamp) -> bool {
        self.keys.iter().any(|key| key.stamp == stamp)
    }

    /// The key named in a token's header; a token that names none is for the only key there is.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match (kid, &*self.keys) {
            (Some(kid), keys) => keys.iter().find(|key| key.kid == kid).map(|key| &**key),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().map(|key| &**key)
    }
}

impl Key {
    fn new(settings: &KeySettings) -> Result<Self, KeyFault> {
        let kid = settings.kid.clone();
        let odd = |byte: u8| !byte.is_ascii_alphanumeric() && !b"._-".contains(&byte);
        if kid.is_empty() || kid.len() > 64 || kid.bytes().any(odd) {
            return Err(KeyFault::BadName);
        }
        let algorithm =
            algorithm(&settings.algorithm).ok_or_else(|| KeyFault::Algorithm(settings.algorithm.clone()))?;
        let text = settings.material.expose();
        let Halves { signs, verifies } = material::read(algorithm, text)?;
        if settings.signs && signs.is_none() {
            return Err(KeyFault::PublicSigns);
        }
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{}","typ":"JWT","kid":"{kid}"}}"#, settings.algorithm));
        let stamp = Stamp::of(&kid, &settings.algorithm, text);
        let key = Self { kid, algorithm, algorithm_name: settings.algorithm.clone(), header, signs, verifies, stamp };
        key.try_out()?;
        Ok(key)
    }

    fn can_assert(&self) -> bool {
        self.signs.is_some() && !matches!(self.algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
    }

    /// Its name.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The one algorithm it is used with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What a header must say of it.
    pub(super) fn algorithm_name(&self) -> &str {
        &self.algorithm_name
    }

    /// Identifies it.
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub(super) const fn verifying(&self) -> &DecodingKey {
        &self.verifies
    }

    /// Whether signing takes so long (RSA: 0.7 ms) that it belongs off the workers.
    pub(super) fn is_slow(&self) -> bool {
        self.algorithm.family() == AlgorithmFamily::Rsa
    }

    /// Signs `payload`: a compact JWS (RFC 7515 section 3.1).
    pub(super) fn sign(&self, payload: &[u8]) -> Result<String, SignError> {
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(payload));
        let key = self.signs.as_ref().ok_or_else(|| SignError("the key only verifies".into()))?;
        let signature = crypto::sign(token.as_bytes(), key, self.algorithm).map_err(|e| SignError(e.to_string()))?;
        token.push('.');
        token.push_str(&signature);
        Ok(token)
    }

    /// Whether `signature` (base64url, one spelling only) is this key's over `message`.
    pub(super) fn verify(&self, message: &str, signature: &str) -> bool {
        crypto::verify(signature, message.as_bytes(), &self.verifies, self.algorithm).unwrap_or(false)
    }

    fn try_out(&self) -> Result<(), KeyFault> {
        // What the key signs must pass; the same signature over less, or a made-up one, must not.
        let mut holds = true;
        if self.signs.is_some() {
            let token = self.sign(b"self-test").map_err(|_| KeyFault::SelfTest)?;
            let (message, signature) = token.rsplit_once('.').ok_or(KeyFault::SelfTest)?;
            holds = self.verify(message, signature) && !self.verify(&message[1..], signature);
        }
        let wrong = URL_SAFE_NO_PAD.encode([1_u8; 64]);
        if holds && !self.verify("self-test", &wrong) { Ok(()) } else { Err(KeyFault::SelfTest) }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Stamp {
    /// The material is the HMAC key, so that a stamp tells nothing of a secret.
    fn of(kid: &str, algorithm: &str, material: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, material.as_bytes());
        let tag = hmac::sign(&key, format!("token key\0{algorithm}\0{kid}").as_bytes());
        Self(first_16(tag.as_ref()))
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stamp(…)")
    }
}

/// Serializes `claims` and signs them, off the workers where that takes long.
pub(super) async fn sign(key: &Arc<Key>, claims: &impl Serialize) -> Result<String, SignError> {
    let payload = serde_json::to_vec(claims).map_err(|error| SignError(error.to_string()))?;
    if key.is_slow() {
        let key = Arc::clone(key);
        let signing = tokio::task::spawn_blocking(move || key.sign(&payload));
        signing.await.map_err(|error| SignError(error.to_string()))?
    } else {
        key.sign(&payload)
    }
}

/// A token could not be signed: a fault of ours.
#[derive(Debug, thiserror::Error)]
#[error("a token could not be signed: {0}")]
pub struct SignError(String);

impl SignError {
    /// No key of the site can sign an assertion; loading a configuration that asks for one refuses that.
    pub(super) fn no_asserter() -> Self {
        Self("no key of the site has a public half and its private half".to_owned())
    }
}

impl From<SignError> for Refusal {
    fn from(error: SignError) -> Self {
        Self::internal(error)
    }
}

fn algorithm(name: &str) -> Option<Algorithm> {
    // PS384 and PS512 exist in the library; we offer what we test.
    match name {
        "HS256" => Some(Algorithm::HS256),
        "HS384" => Some(Algorithm::HS384),
        "HS512" => Some(Algorithm::HS512),
        "RS256" => Some(Algorithm::RS256),
        "RS384" => Some(Algorithm::RS384),
        "RS512" => Some(Algorithm::RS512),
        "PS256" => Some(Algorithm::PS256),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

fn generation(keys: &[Arc<Key>]) -> u64 {
    let stamps: Vec<u8> = keys.iter().flat_map(|key| key.stamp.0.to_be_bytes()).collect();
    let digest = digest::digest(&digest::SHA256, &stamps);
    u64::try_from(first_16(digest.as_ref()) >> 64).unwrap_or(0)
}

fn first_16(digest: &[u8]) -> u128 {
    digest.first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

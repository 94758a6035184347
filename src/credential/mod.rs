//! From what a client presents to who they are.
//!
//! [`presented`] reads and classifies the request's credential, [`jwt`] and [`api_key`] know the two kinds,
//! [`keys`] the keys behind them, and [`authenticate::Authenticator`] joins them with the facts of the
//! store into a `Principal`. What was verified once is remembered ([`cache`]); what it depends on is
//! looked at anew at every request ([`facts`]). [`password`] hashes and checks passwords off the workers;
//! [`assertion`] tells backends who is calling; [`generate`] makes new keys.
//!
//! Not here: what a caller may do (`rules::authorize`), and how a refusal is told (`edge::respond`).
//!
//! To add a kind of credential: a variant of `contract::Carried` with its shape in [`presented`], a file
//! beside [`jwt`] and [`api_key`], and an arm in [`authenticate`].

pub mod api_key;
pub mod assertion;
pub mod authenticate;
pub mod cache;
pub mod codes;
pub mod facts;
#[cfg(test)]
mod fixture;
pub mod generate;
mod jwks;
pub mod jwt;
pub mod keys;
pub mod last_used;
pub mod material;
pub mod password;
pub mod presented;
pub mod refresh;
pub mod rejected;
pub mod site;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;

use crate::model::secret::Secret;

pub use authenticate::Authenticator;
pub use site::{CredentialDigest, SiteCredentials};

/// A site's credentials, as configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The site's place in the snapshot: part of every cache key, so that sites never share an entry.
    pub site: u32,
    /// The realm of accounts.
    pub realm: Arc<str>,
    /// `iss` of our tokens, required exactly.
    pub issuer: String,
    /// `aud` of our tokens, required.
    pub audience: String,
    /// Clock skew tolerated on `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// The signing and verifying keys; exactly one signs.
    pub keys: Vec<KeySettings>,
    /// Under which API keys are hashed: at least 32 bytes.
    pub pepper: Secret,
}

impl Settings {
    /// What tells this pepper from another without giving it away: it is a key of at least 32 bytes, and this its MAC over
    /// what nothing else is made of.
    pub fn pepper_fingerprint(&self) -> [u8; 32] {
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, self.pepper.expose().as_bytes());
        let tag = hmac::sign(&pepper, format!("fingerprint of a pepper\0{}", self.realm).as_bytes());
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// One token key.
#[derive(Clone, Debug)]
pub struct KeySettings {
    /// Its name in token headers.
    pub kid: String,
    /// The one algorithm it is used with: `HS256`, `RS256`, … (RFC 7518, RFC 8037).
    pub algorithm: String,
    /// The HMAC secret's bytes as text, or a PEM private (or, to verify only, public) key.
    pub material: Secret,
    /// Whether new tokens are signed with it.
    pub signs: bool,
}

/// Sizes of the caches and of the password pool.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Verified tokens remembered.
    pub tokens: usize,
    /// Accounts, sessions and API keys remembered, each.
    pub facts: usize,
    /// How long cached facts go on counting while the store cannot be reached.
    pub max_stale: Duration,
    /// Password hashes computed at once.
    pub password_workers: usize,
    /// Sign-ins that may wait for one; more are shed with 503.
    pub password_queue: usize,
}

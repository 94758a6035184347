//! Access tokens: made at sign-in, verified at the door, by RFC 8725.
//!
//! Verifying is: one compact form, one header shape, the key that the header names with the algorithm
//! that *we* bound to it, the signature, then `rules::claims`. Everything cheap comes before the
//! signature; nothing in the payload is looked at before it. Signatures are the `jsonwebtoken` crate's;
//! header and claims are read here because the rules are stricter than a general library's.
//! Called by [`super::authenticate`].

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};

use crate::contract::IdStyles;
use crate::model::account::Account;
use crate::model::id::{OrgId, SessionId, UserId};
use crate::model::problem::Problem;
use crate::model::secret::Secret;
use crate::model::session::Session;
use crate::model::time::Timestamp;
use crate::rules::claims::{self, ClaimsError, Expected, Lifetime};

use super::SiteCredentials;
use super::keys::{self, SignError, Stamp};

/// `token_use` of an access token.
pub const ACCESS: &str = "access";

/// A token on its way to the client.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// The token.
    pub text: Secret,
    /// When it expires, to the second.
    pub expires_at: Timestamp,
    /// From its `iat` to its `exp`: whole seconds.
    pub expires_in: Duration,
}

/// What an access token says (RFC 7519 section 4.1, RFC 9068 for the rest).
#[derive(Serialize)]
struct AccessClaims<'a> {
    iss: &'a str,
    sub: String,
    aud: &'a str,
    org: String,
    sid: String,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    token_use: &'static str,
}

/// A token of ours that is in its time. Small and `Copy`: it is what the token cache remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Whom it is about.
    pub user: UserId,
    /// Their organization when it was issued.
    pub org: OrgId,
    /// The session it belongs to.
    pub session: SessionId,
    /// When it counts.
    pub lifetime: Lifetime,
    /// The key that verified it.
    pub key: Stamp,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url parts with a header of our shape.
    #[error("the token is malformed")]
    Malformed,
    /// Names a key that is not (or no longer) in the set, or none where there are several.
    #[error("the token names no key of ours")]
    UnknownKey,
    /// Names another algorithm than its key's.
    #[error("the token's algorithm is not its key's")]
    WrongAlgorithm,
    /// The signature is not the key's.
    #[error("the token's signature does not verify")]
    BadSignature,
    /// Rightly signed, and not for this place or time.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// Rightly signed, about ids that are not of the product's spelling.
    #[error("the token's ids cannot be read")]
    BadIds,
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Claims(ClaimsError::Expired) => Self::TokenExpired,
            _ => Self::InvalidToken,
        }
    }
}

/// Signs a token for `session` that lives for `ttl` or until the session ends.
pub async fn issue(
    site: &SiteCredentials,
    ids: &IdStyles,
    account: &Account,
    session: &Session,
    ttl: Duration,
    jti: [u8; 16],
    now: Timestamp,
) -> Result<IssuedToken, SignError> {
    let issued_at = Timestamp::from_secs(now.secs());
    let expires_at = Timestamp::from_secs(issued_at.plus(ttl).min(session.ends_at).secs());
    let claims = AccessClaims {
        iss: &site.settings.issuer,
        sub: ids.user.render(account.user.id.uuid()),
        aud: &site.settings.audience,
        org: ids.org.render(account.org.id.uuid()),
        sid: ids.session.render(session.id.uuid()),
        jti: URL_SAFE_NO_PAD.encode(jti),
        iat: issued_at.secs(),
        nbf: issued_at.secs(),
        exp: expires_at.secs(),
        token_use: ACCESS,
    };
    let text = keys::sign(site.keys.signer(), &claims).await?.into();
    Ok(IssuedToken { text, expires_at, expires_in: issued_at.until(expires_at) })
}

/// Verifies an access token of the site.
pub fn verify(
    site: &SiteCredentials,
    ids: &IdStyles,
    token: &str,
    now: Timestamp,
) -> Result<VerifiedToken, TokenError> {
    let settings = &site.settings;
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
    if payload.contains('.') {
        return Err(TokenError::Malformed);
    }
    let header = decode(header)?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
    if header.typ != "JWT" {
        return Err(TokenError::Malformed);
    }
    let key = site.keys.find(header.kid.as_deref()).ok_or(TokenError::UnknownKey)?;
    if header.alg != key.algorithm_name() {
        return Err(TokenError::WrongAlgorithm);
    }
    let payload = decode(payload)?;
    if !key.verify(message, signature) {
        return Err(TokenError::BadSignature);
    }
    let expected =
        Expected { issuer: &settings.issuer, audience: &settings.audience, token_use: ACCESS, leeway: settings.leeway };
    let claims = claims::check(&payload, &expected, now)?;
    Ok(VerifiedToken {
        user: ids.user.parse(&claims.subject).ok_or(TokenError::BadIds)?.into(),
        org: ids.org.parse(&claims.org).ok_or(TokenError::BadIds)?.into(),
        session: ids.session.parse(&claims.session).ok_or(TokenError::BadIds)?.into(),
        lifetime: claims.lifetime,
        key: key.stamp(),
    })
}

/// The only header there is. `crit` (RFC 7515 section 4.1.11), `jwk`, `jku`, `x5u`, `x5c` (RFC 8725
/// section 3.10), `zip`, `enc` and anything else that would change how a token is read is refused, as is a
/// member that stands twice.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    #[serde(default, deserialize_with = "present")]
    kid: Option<String>,
}

/// A `kid` that is there must be a string: `null` is not "absent".
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// Strict base64url: no padding, no stray bits, so that a token has one spelling.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

//! Why a credential lets nobody in: for the operator who asks ([`super::Authenticator::recognize`]). A client learns of it
//! what [`Problem`] says, which is the same for most.

use crate::model::api_key::ApiKey;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::model::session::Session;
use crate::model::time::Timestamp;

use super::facts::Unfetched;
use super::jwt::TokenError;

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The token itself.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Its session is unknown.
    #[error("the token's session is not there (any more)")]
    NoSession,
    /// Its session was ended early.
    #[error("the token's session was ended at {}", .0.to_rfc3339())]
    SessionRevoked(Timestamp),
    /// Its session has lasted as long as one may.
    #[error("the token's session ended at {}", .0.to_rfc3339())]
    SessionOver(Timestamp),
    /// Its session is another user's.
    #[error("the token's session is another user's")]
    OthersSession,
    /// It cannot be a key: the prefix, the length or the checksum is wrong.
    #[error("this is no API key of this product: mistyped, or cut short")]
    Misshapen,
    /// Nobody has such a key.
    #[error("no such API key is known here: deleted, of another site or store, or hashed under another pepper")]
    NoKey,
    /// It was revoked.
    #[error("the API key was revoked at {}", .0.to_rfc3339())]
    KeyRevoked(Timestamp),
    /// It has expired.
    #[error("the API key expired at {}", .0.to_rfc3339())]
    KeyOver(Timestamp),
    /// Its user is unknown.
    #[error("the credential's user is not there (any more)")]
    NoUser,
    /// Its user is disabled.
    #[error("the user is disabled")]
    UserDisabled,
    /// Their organization is.
    #[error("the organization is disabled")]
    OrgDisabled,
    /// Its user is in another organization now.
    #[error("the user is not in the credential's organization (any more)")]
    OtherOrg,
    /// It was not looked at: somebody guesses, or the store does not answer.
    #[error("it was not looked at: {}", .0.problem.kind().name())]
    Unread(Refusal),
}

impl Rejected {
    /// Why a session does not count at `now`, if it does not.
    pub(super) fn session(session: &Session, now: Timestamp) -> Result<(), Self> {
        match session.revoked_at {
            _ if session.is_live(now) => Ok(()),
            Some(at) => Err(Self::SessionRevoked(at)),
            None => Err(Self::SessionOver(session.ends_at)),
        }
    }

    /// Why a key does not count at `now`, if it does not.
    pub(super) fn key(key: &ApiKey, now: Timestamp) -> Result<(), Self> {
        match (key.revoked_at.filter(|at| *at <= now), key.expires_at) {
            _ if key.is_live(now) => Ok(()),
            (None, Some(at)) => Err(Self::KeyOver(at)),
            (revoked, _) => Err(Self::KeyRevoked(revoked.unwrap_or(now))),
        }
    }
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Self {
        Self::Unread(refusal)
    }
}

impl From<Unfetched> for Rejected {
    fn from(unfetched: Unfetched) -> Self {
        Self::Unread(unfetched.into())
    }
}

impl From<Rejected> for Refusal {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Token(error) => Problem::from(error).into(),
            Rejected::Unread(refusal) => refusal,
            _ => Problem::InvalidToken.into(),
        }
    }
}

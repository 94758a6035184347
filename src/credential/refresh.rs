//! Refresh tokens: opaque texts that can be told apart from inventions without asking the store.
//!
//! ```text
//! rt_ base64url( session id: 16 bytes | secret: 32 bytes | tag: 16 bytes )
//! tag       = HMAC-SHA-256(key, "tag" | session id | secret), cut to 16 bytes
//! successor = the same with secret = HMAC-SHA-256(key, "next" | session id | secret of the parent)
//! ```
//!
//! The tag keeps a stranger who knows a session's id from ending it with a made-up token: only a text that was
//! once ours counts as reuse. The successor follows from its parent, so that two tabs that refresh at once get the
//! same one while nothing readable is kept: the store has only the SHA-256 of the newest text and of its parent.
//! Called by `native::refresh` and by sign-in.

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::entropy::Entropy;
use crate::model::id::SessionId;
use crate::model::refresh::RefreshHash;
use crate::model::secret::Secret;

const PREFIX: &str = "rt_";
const ID: usize = 16;
const SECRET: usize = 32;
const TAG: usize = 16;

/// Makes and reads one site's refresh tokens.
#[derive(Debug)]
pub struct RefreshTokens {
    key: hmac::Key,
}

/// A refresh token that was ours once; whether it still counts is for the store to say.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    session: SessionId,
    secret: [u8; SECRET],
}

impl RefreshTokens {
    /// Under a key derived from the site's pepper, for this use and this realm alone.
    pub fn new(pepper: &Secret, realm: &str) -> Self {
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, pepper.expose().as_bytes());
        let derived = hmac::sign(&pepper, format!("refresh tokens of {realm}").as_bytes());
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    /// The first token of a session.
    pub fn first(session: SessionId, entropy: &dyn Entropy) -> RefreshToken {
        let mut secret = [0; SECRET];
        entropy.fill(&mut secret);
        RefreshToken { session, secret }
    }

    /// The one token that may follow `parent`.
    pub fn successor(&self, parent: &RefreshToken) -> RefreshToken {
        let mut secret = [0; SECRET];
        secret.copy_from_slice(self.mac(b"next", parent).as_ref());
        RefreshToken { session: parent.session, secret }
    }

    /// The text that the client keeps.
    pub fn text(&self, token: &RefreshToken) -> Secret {
        let tag = self.mac(b"tag", token);
        let bytes = [token.session.uuid().as_bytes(), &token.secret[..], &tag.as_ref()[..TAG]].concat();
        Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Reads a text; `None`: it was never ours, here.
    pub fn read(&self, text: &str) -> Option<RefreshToken> {
        let encoded = text.strip_prefix(PREFIX)?;
        // Before decoding: an attacker chooses the length.
        if encoded.len() != ((ID + SECRET + TAG) * 4).div_ceil(3) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).ok()?;
        let (id, rest) = bytes.split_at_checked(ID)?;
        let (secret, tag) = rest.split_at_checked(SECRET)?;
        let session = SessionId::from(uuid::Uuid::from_slice(id).ok()?);
        let token = RefreshToken { session, secret: secret.try_into().ok()? };
        let expected = self.mac(b"tag", &token);
        constant_time::verify_slices_are_equal(&expected.as_ref()[..TAG], tag).ok()?;
        Some(token)
    }

    fn mac(&self, use_: &[u8], token: &RefreshToken) -> hmac::Tag {
        let message = [use_, b"|", token.session.uuid().as_bytes(), &token.secret].concat();
        hmac::sign(&self.key, &message)
    }
}

impl RefreshToken {
    /// The session it belongs to.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// What the store keeps of it.
    pub fn hash(&self) -> RefreshHash {
        let bytes = [&self.session.uuid().as_bytes()[..], &self.secret].concat();
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &bytes).as_ref());
        RefreshHash(hash)
    }
}

impl std::fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RefreshToken({:?}, ***)", self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entropy::TestEntropy;
    use crate::model::time::Timestamp;

    fn tokens(realm: &str) -> RefreshTokens {
        RefreshTokens::new(&Secret::new("a pepper that is long enough for tests".to_owned()), realm)
    }

    fn session(seed: u64) -> SessionId {
        SessionId::new(Timestamp::from_secs(1_700_000_000), &TestEntropy::new(seed))
    }

    #[test]
    fn a_token_reads_back_and_nothing_near_it_does() {
        let tokens = tokens("acme");
        let token = RefreshTokens::first(session(1), &TestEntropy::new(2));
        let text = tokens.text(&token);
        assert_eq!(tokens.read(text.expose()), Some(token.clone()));
        for at in 0..text.expose().len() {
            let mut bytes = text.expose().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let twisted = String::from_utf8(bytes).unwrap();
            assert_ne!(tokens.read(&twisted), Some(token.clone()), "{at}");
            assert_eq!(tokens.read(&twisted), None, "{at}");
        }
        for other in ["", "rt_", &text.expose()[..text.expose().len() - 1], &format!("{}A", text.expose())] {
            assert_eq!(tokens.read(other), None, "{other}");
        }
    }

    #[test]
    fn a_token_of_another_realm_or_pepper_is_nothing() {
        let token = RefreshTokens::first(session(1), &TestEntropy::new(2));
        let text = tokens("acme").text(&token);
        assert_eq!(tokens("other").read(text.expose()), None);
        let other = RefreshTokens::new(&Secret::new("another pepper that is long enough too".to_owned()), "acme");
        assert_eq!(other.read(text.expose()), None);
    }

    #[test]
    fn a_parent_has_one_successor_and_hashes_tell_them_apart() {
        let tokens = tokens("acme");
        let first = RefreshTokens::first(session(1), &TestEntropy::new(2));
        let second = tokens.successor(&first);
        assert_eq!(tokens.successor(&first), second);
        let third = tokens.successor(&second);
        assert!(first != second && second != third && first != third);
        assert!(first.hash() != second.hash() && second.hash() != third.hash());
        assert_eq!(second.session(), first.session());
        let other = RefreshTokens::first(session(3), &TestEntropy::new(2));
        assert_ne!(tokens.successor(&other).hash(), second.hash());
    }
}

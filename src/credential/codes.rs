//! The tokens in mails: single-use, kept as a hash, of one kind and one realm.
//!
//! `base64url( secret: 32 bytes | tag: 16 bytes )`, the tag an HMAC-SHA-256 over kind and secret: a made-up token
//! costs no look-up and no password hash, and one of another kind or site is nothing here.

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::code::{CodeHash, CodeKind};
use crate::model::entropy::Entropy;
use crate::model::secret::Secret;

const SECRET: usize = 32;
const TAG: usize = 16;

/// Makes and reads one site's mail tokens.
#[derive(Debug)]
pub struct Codes {
    key: hmac::Key,
}

impl Codes {
    /// Under a key derived from the site's pepper, for this use and this realm alone.
    pub fn new(pepper: &Secret, realm: &str) -> Self {
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, pepper.expose().as_bytes());
        let derived = hmac::sign(&pepper, format!("mail tokens of {realm}").as_bytes());
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    /// A new token, and what the store keeps of it.
    pub fn make(&self, kind: CodeKind, entropy: &dyn Entropy) -> (Secret, CodeHash) {
        let mut secret = [0; SECRET];
        entropy.fill(&mut secret);
        let tag = self.tag(kind, &secret);
        let bytes = [&secret[..], &tag.as_ref()[..TAG]].concat();
        (Secret::new(URL_SAFE_NO_PAD.encode(bytes)), hash(&secret))
    }

    /// Reads a token; `None`: it was never ours, of this kind, here.
    pub fn read(&self, kind: CodeKind, text: &str) -> Option<CodeHash> {
        // Before decoding: an attacker chooses the length.
        if text.len() != ((SECRET + TAG) * 4).div_ceil(3) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (secret, tag) = bytes.split_at_checked(SECRET)?;
        let expected = self.tag(kind, secret);
        constant_time::verify_slices_are_equal(&expected.as_ref()[..TAG], tag).ok()?;
        Some(hash(secret))
    }

    fn tag(&self, kind: CodeKind, secret: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, &[name(kind), b"|", secret].concat())
    }
}

fn name(kind: CodeKind) -> &'static [u8] {
    match kind {
        CodeKind::Verify => b"verify",
        CodeKind::Reset => b"reset",
    }
}

fn hash(secret: &[u8]) -> CodeHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
    CodeHash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entropy::TestEntropy;

    #[test]
    fn a_code_is_of_one_kind_and_one_realm() {
        let pepper = Secret::new("a pepper that is long enough for tests".to_owned());
        let (here, there) = (Codes::new(&pepper, "acme"), Codes::new(&pepper, "other"));
        let (text, hash) = here.make(CodeKind::Reset, &TestEntropy::new(1));
        assert_eq!(here.read(CodeKind::Reset, text.expose()), Some(hash));
        assert_eq!(here.read(CodeKind::Verify, text.expose()), None);
        assert_eq!(there.read(CodeKind::Reset, text.expose()), None);
        for bad in ["", &text.expose()[1..], &format!("{}A", text.expose()), &"A".repeat(text.expose().len())] {
            assert_eq!(here.read(CodeKind::Reset, bad), None, "{bad}");
        }
    }
}

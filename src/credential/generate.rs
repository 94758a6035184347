//! New keys and secrets: `tollgate secrets new`, `generate = true`, and the demo.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::model::entropy::Entropy;
use crate::model::secret::Secret;

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A shared secret for HS256, HS384 or HS512, or a pepper.
    Hmac,
    /// For RS256, RS384, RS512 and PS256.
    Rsa2048,
    /// For ES256.
    Es256,
    /// For `EdDSA`.
    Ed25519,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: &[Self] = &[Self::Hmac, Self::Rsa2048, Self::Es256, Self::Ed25519];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Rsa2048 => "rsa",
            Self::Es256 => "es256",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The algorithm that a key of this kind is first configured with.
    pub const fn algorithm(self) -> &'static str {
        match self {
            Self::Hmac => "HS256",
            Self::Rsa2048 => "RS256",
            Self::Es256 => "ES256",
            Self::Ed25519 => "EdDSA",
        }
    }
}

/// A key could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the key could not be generated")]
pub struct GenerateError;

impl From<Unspecified> for GenerateError {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

/// A new secret: 64 random bytes as 86 characters, or a private key as PEM (PKCS#8, RFC 5958).
/// Takes up to a second for RSA: not for a worker.
pub fn generate(kind: KeyKind, entropy: &dyn Entropy) -> Result<Secret, GenerateError> {
    Ok(match kind {
        KeyKind::Hmac => {
            let mut bytes = Zeroizing::new([0_u8; 64]);
            entropy.fill(&mut *bytes);
            URL_SAFE_NO_PAD.encode(*bytes).into()
        }
        // aws-lc draws its own randomness, from the same kernel.
        KeyKind::Rsa2048 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
            let der: Pkcs8V1Der<'_> = pair.as_der()?;
            pem(PRIVATE, der.as_ref())
        }
        KeyKind::Es256 => {
            pem(PRIVATE, EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?.to_pkcs8v1()?.as_ref())
        }
        KeyKind::Ed25519 => pem(PRIVATE, Ed25519KeyPair::generate()?.to_pkcs8v1()?.as_ref()),
    })
}

const PRIVATE: &str = "PRIVATE KEY";

/// RFC 7468: base64 in lines of 64.
pub(super) fn pem(label: &str, der: &[u8]) -> Secret {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = next;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::KeySettings;
    use crate::credential::keys::KeySet;
    use crate::model::entropy::SystemEntropy;

    #[test]
    fn whatever_is_made_is_accepted_as_a_signing_key_at_once() {
        for kind in KeyKind::ALL {
            let material = generate(*kind, &SystemEntropy).unwrap();
            let other = generate(*kind, &SystemEntropy).unwrap();
            assert!(material != other, "{kind:?} made the same twice");
            let settings = KeySettings { kid: "new".into(), algorithm: kind.algorithm().into(), material, signs: true };
            KeySet::new(&[settings]).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        }
        let secret = generate(KeyKind::Hmac, &SystemEntropy).unwrap();
        for algorithm in ["HS256", "HS384", "HS512"] {
            let material = secret.clone();
            let settings = KeySettings { kid: "new".into(), algorithm: algorithm.into(), material, signs: true };
            KeySet::new(&[settings]).unwrap();
        }
    }
}

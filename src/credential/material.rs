//! A token key's configured text, made into keys that sign and verify.
//!
//! PEM sections are told apart by `rustls-pki-types`, keys are parsed and weighed by aws-lc; nothing
//! here reads ASN.1. A private key gives its public half, so that what signs also verifies and is
//! published. Called by [`super::keys`] alone, once per key at load.

use aws_lc_rs::rsa::PublicKey as RsaPublicKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING,
    ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, ParsedPublicKey, RsaKeyPair,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::rules::secret;

use super::keys::KeyFault;

/// Both halves of a key; a public key alone has no signing half.
#[derive(Debug)]
pub(super) struct Halves {
    pub signs: Option<EncodingKey>,
    pub verifies: DecodingKey,
}

const SHORT_RSA: &str = "an RSA key needs 2,048 bits";

/// Makes the keys of `algorithm` out of `text`.
pub(super) fn read(algorithm: Algorithm, text: &str) -> Result<Halves, KeyFault> {
    // The library would take the first bit string of whatever it finds.
    if text.contains("-----BEGIN CERTIFICATE") {
        return Err(KeyFault::NotAKey("a certificate is not a key: give its `PUBLIC KEY`".into()));
    }
    match algorithm.family() {
        AlgorithmFamily::Hmac => shared(algorithm, text),
        AlgorithmFamily::Rsa => rsa(text),
        AlgorithmFamily::Ec if algorithm == Algorithm::ES384 => {
            elliptic(text, &ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED)
        }
        AlgorithmFamily::Ec => elliptic(text, &ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P256_SHA256_FIXED),
        AlgorithmFamily::Ed => edwards(text),
    }
}

fn shared(algorithm: Algorithm, text: &str) -> Result<Halves, KeyFault> {
    // Whoever gives a public key as an HMAC secret has told the world how to sign.
    if text.contains("-----BEGIN") {
        return Err(KeyFault::NotAKey("a PEM key cannot be an HMAC secret".into()));
    }
    // As long as the digest: RFC 7518 section 3.2.
    let least = match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    };
    secret::judge(text, least).map_err(|weakness| KeyFault::Weak(weakness.to_string()))?;
    let bytes = text.as_bytes();
    Ok(Halves { signs: Some(EncodingKey::from_secret(bytes)), verifies: DecodingKey::from_secret(bytes) })
}

fn rsa(text: &str) -> Result<Halves, KeyFault> {
    let pem = text.as_bytes();
    let pair = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(PrivateKeyDer::Pkcs8(der)) => Some(RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())),
        Ok(PrivateKeyDer::Pkcs1(der)) => Some(RsaKeyPair::from_der(der.secret_pkcs1_der())),
        _ => None,
    };
    if let Some(pair) = pair {
        let pair = pair.map_err(rejected)?;
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        return Ok(Halves {
            signs: Some(EncodingKey::from_rsa_pem(pem).map_err(unreadable)?),
            verifies: DecodingKey::from_rsa_raw_components(&public.n, &public.e),
        });
    }
    let key = DecodingKey::from_rsa_pem(pem).map_err(unreadable)?;
    let parsed = RsaPublicKey::from_der(key.try_get_as_bytes().map_err(unreadable)?).map_err(rejected)?;
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(&parsed);
    // aws-lc weighs private keys when it reads them, public ones only when it verifies.
    let unused = public.n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    match public.n.len() * 8 - unused {
        0..2048 => return Err(KeyFault::Weak(SHORT_RSA.into())),
        2048..=8192 => {}
        _ => return Err(KeyFault::NotAKey("an RSA key has at most 8,192 bits".into())),
    }
    Ok(Halves { signs: None, verifies: DecodingKey::from_rsa_raw_components(&public.n, &public.e) })
}

fn elliptic(
    text: &str,
    signing: &'static EcdsaSigningAlgorithm,
    verifying: &'static dyn VerificationAlgorithm,
) -> Result<Halves, KeyFault> {
    let pem = text.as_bytes();
    let pair = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(PrivateKeyDer::Pkcs8(der)) => Some(EcdsaKeyPair::from_private_key_der(signing, der.secret_pkcs8_der())),
        Ok(PrivateKeyDer::Sec1(der)) => Some(EcdsaKeyPair::from_private_key_der(signing, der.secret_sec1_der())),
        _ => None,
    };
    if let Some(pair) = pair {
        let pair = pair.map_err(rejected)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyFault::NotAKey("the key cannot be used".into()))?;
        return Ok(Halves {
            signs: Some(EncodingKey::from_ec_der(pkcs8.as_ref())),
            verifies: DecodingKey::from_ec_der(pair.public_key().as_ref()),
        });
    }
    let key = DecodingKey::from_ec_pem(pem).map_err(unreadable)?;
    on_curve(&key, verifying)?;
    Ok(Halves { signs: None, verifies: key })
}

fn edwards(text: &str) -> Result<Halves, KeyFault> {
    let pem = text.as_bytes();
    if let Ok(PrivateKeyDer::Pkcs8(der)) = PrivateKeyDer::from_pem_slice(pem) {
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(rejected)?;
        return Ok(Halves {
            signs: Some(EncodingKey::from_ed_der(der.secret_pkcs8_der())),
            verifies: DecodingKey::from_ed_der(pair.public_key().as_ref()),
        });
    }
    let key = DecodingKey::from_ed_pem(pem).map_err(unreadable)?;
    on_curve(&key, &ED25519)?;
    Ok(Halves { signs: None, verifies: key })
}

/// A public key that is not a point of the curve would only fail at the first token.
fn on_curve(key: &DecodingKey, algorithm: &'static dyn VerificationAlgorithm) -> Result<(), KeyFault> {
    let bytes = key.try_get_as_bytes().map_err(unreadable)?;
    ParsedPublicKey::new(algorithm, bytes).map(drop).map_err(rejected)
}

#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn unreadable(error: jsonwebtoken::errors::Error) -> KeyFault {
    KeyFault::NotAKey(error.to_string())
}

fn rejected(error: aws_lc_rs::error::KeyRejected) -> KeyFault {
    match error.description_() {
        "TooSmall" => KeyFault::Weak(SHORT_RSA.into()),
        other => KeyFault::NotAKey(other.into()),
    }
}

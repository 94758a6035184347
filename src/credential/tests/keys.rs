//! Which keys are accepted, and what is published of them.

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::credential::SiteCredentials;
use crate::credential::fixture::{HMAC_SECRET, World, key, settings, site};
use crate::credential::generate::{KeyKind, generate, pem};
use crate::credential::keys::{KeyError, KeyFault, KeySet};
use crate::model::entropy::SystemEntropy;
use crate::model::secret::Secret;

/// 1,024 bits: `openssl genrsa 1024 | openssl rsa -pubout`. The private half is nowhere.
const SHORT_RSA: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDAOMn/C73LBLx7ABHLEJi2i/fy
PbVcuudrAq1EKZQy5qAloaBVNamB6YQEJXFgQHvz8jcSbILDm8SXK60ivuTHAfCB
c1KyxyBGRDXW2e4Ksq0ftYpvoJpATYFpbMMaJIhIbTI7OtNrL8VoCAeDncu8Utqz
JIykvnka/EUTMp4TMQIDAQAB
-----END PUBLIC KEY-----
";

pub fn made(kind: KeyKind) -> String {
    generate(kind, &SystemEntropy).unwrap().expose().to_owned()
}

fn p384() -> String {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()).expose().to_owned()
}

/// The public half of a PKCS#8 PEM, as PEM.
pub fn public_of(private: &str, kind: KeyKind) -> String {
    let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(private.as_bytes()).unwrap() else { panic!() };
    let der = der.secret_pkcs8_der();
    let spki: PublicKeyX509Der<'_> = match kind {
        KeyKind::Rsa2048 => RsaKeyPair::from_pkcs8(der).unwrap().public_key().as_der().unwrap(),
        KeyKind::Es256 => {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).unwrap();
            pair.public_key().as_der().unwrap()
        }
        KeyKind::Ed25519 => Ed25519KeyPair::from_pkcs8(der).unwrap().public_key().as_der().unwrap(),
        KeyKind::Hmac => panic!("no public half"),
    };
    pem("PUBLIC KEY", spki.as_ref()).expose().to_owned()
}

fn fault(algorithm: &str, material: &str) -> KeyFault {
    match KeySet::new(&[key("k", algorithm, material, true)]) {
        Err(KeyError::Key { kid, fault }) if kid == "k" => fault,
        other => panic!("{algorithm}: {other:?}"),
    }
}

#[tokio::test]
async fn every_algorithm_signs_and_verifies() {
    let world = World::new().await;
    let (rsa, p256, p384, ed, long) =
        (made(KeyKind::Rsa2048), made(KeyKind::Es256), p384(), made(KeyKind::Ed25519), made(KeyKind::Hmac));
    for (algorithm, material) in [
        ("HS256", &long),
        ("HS384", &long),
        ("HS512", &long),
        ("RS256", &rsa),
        ("RS384", &rsa),
        ("RS512", &rsa),
        ("PS256", &rsa),
        ("ES256", &p256),
        ("ES384", &p384),
        ("EdDSA", &ed),
    ] {
        let site = site(vec![key("k", algorithm, material, true)]);
        let token = world.token_at(&site).await;
        world.ask_at(&site, &format!("Bearer {token}")).await.unwrap_or_else(|e| panic!("{algorithm}: {e:?}"));
        let stranger = if algorithm.starts_with("HS") { made(KeyKind::Hmac) } else { return_other(algorithm) };
        let other = self::site(vec![key("k", algorithm, &stranger, true)]);
        assert!(world.ask_at(&other, &format!("Bearer {token}")).await.is_err(), "{algorithm} under another key");
    }
}

fn return_other(algorithm: &str) -> String {
    match algorithm {
        "ES256" => made(KeyKind::Es256),
        "ES384" => p384(),
        "EdDSA" => made(KeyKind::Ed25519),
        _ => made(KeyKind::Rsa2048),
    }
}

#[test]
fn the_shapes_in_which_openssl_writes_keys_are_read() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let sec1: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
    let sec1 = pem("EC PRIVATE KEY", sec1.as_ref());
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    KeySet::new(&[key("k", "ES256", sec1.expose(), true)]).unwrap();
    KeySet::new(&[key("k", "ES256", &format!("{parameters}{}", sec1.expose()), true)]).unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let version_2 = pem("PRIVATE KEY", ed.to_pkcs8().unwrap().as_ref());
    KeySet::new(&[key("k", "EdDSA", version_2.expose(), true)]).unwrap();
}

#[tokio::test]
async fn a_public_key_alone_verifies_and_cannot_sign() {
    let world = World::new().await;
    for (kind, algorithm) in [(KeyKind::Rsa2048, "RS256"), (KeyKind::Es256, "ES256"), (KeyKind::Ed25519, "EdDSA")] {
        let private = made(kind);
        let public = public_of(&private, kind);
        assert_eq!(fault(algorithm, &public), KeyFault::PublicSigns);
        let issuer = site(vec![key("old", algorithm, &private, true)]);
        let token = world.token_at(&issuer).await;
        let verifier = site(vec![key("old", algorithm, &public, false), key("new", "HS256", HMAC_SECRET, true)]);
        world.ask_at(&verifier, &format!("Bearer {token}")).await.unwrap_or_else(|e| panic!("{algorithm}: {e:?}"));
    }
}

#[test]
fn weak_keys_are_refused_and_the_nearest_strong_ones_are_not() {
    let random = made(KeyKind::Hmac);
    for (algorithm, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        KeySet::new(&[key("k", algorithm, &random[..least], true)]).unwrap();
        assert!(matches!(fault(algorithm, &random[..least - 1]), KeyFault::Weak(_)), "{algorithm}");
    }
    for weak in [
        "your-secret-key-here-your-secret-key-here",
        "your-development-secret-key-0123456789",
        "Please-CHANGE-ME-before-production-1234",
        &"x".repeat(64),
        &"ab".repeat(32),
        &"secret12".repeat(5),
        "00000000000000000000000000000001",
    ] {
        assert!(matches!(fault("HS256", weak), KeyFault::Weak(_)), "{weak}");
    }
    let short = KeySet::new(&[key("k", "RS256", SHORT_RSA, false)]).unwrap_err();
    assert!(matches!(&short, KeyError::Key { fault: KeyFault::Weak(why), .. } if why.contains("2,048")), "{short}");
    let pepper = |text: &str| {
        let mut settings = settings(vec![key("k", "HS256", HMAC_SECRET, true)]);
        settings.pepper = Secret::new(text.into());
        SiteCredentials::new(settings.into())
    };
    assert!(matches!(pepper(&random[..31]), Err(KeyError::WeakPepper(_))));
    assert!(matches!(pepper(""), Err(KeyError::WeakPepper(_))));
    pepper(&random[..32]).unwrap();
}

#[test]
fn a_key_of_another_kind_than_its_algorithm_is_refused() {
    let (rsa, p256, p384, ed) = (made(KeyKind::Rsa2048), made(KeyKind::Es256), p384(), made(KeyKind::Ed25519));
    let rsa_public = public_of(&rsa, KeyKind::Rsa2048);
    for (algorithm, material) in [
        ("RS256", &p256),
        ("RS256", &ed),
        ("PS256", &p256),
        ("ES256", &rsa),
        ("ES256", &p384),
        ("ES256", &ed),
        ("ES384", &p256),
        ("EdDSA", &p256),
        ("EdDSA", &rsa),
        // RS→HS confusion begins with a configuration like this.
        ("HS256", &rsa_public),
        ("HS256", &rsa),
        ("RS256", &HMAC_SECRET.to_owned()),
        ("ES256", &String::new()),
        ("ES256", &public_of(&p256, KeyKind::Es256).replace("PUBLIC KEY", "CERTIFICATE")),
        ("RS256", &"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned()),
    ] {
        assert!(matches!(fault(algorithm, material), KeyFault::NotAKey(_)), "{algorithm}: {material}");
    }
}

#[test]
fn names_algorithms_and_the_one_signer_are_checked() {
    let good = || key("k", "HS256", HMAC_SECRET, true);
    assert_eq!(KeySet::new(&[]).unwrap_err(), KeyError::NoSigner);
    assert_eq!(KeySet::new(&[key("k", "HS256", HMAC_SECRET, false)]).unwrap_err(), KeyError::NoSigner);
    let two = KeySet::new(&[good(), key("l", "HS256", HMAC_SECRET, true)]).unwrap_err();
    assert_eq!(two, KeyError::SeveralSigners("k".into(), "l".into()));
    let same = KeySet::new(&[good(), key("k", "HS256", &made(KeyKind::Hmac), false)]).unwrap_err();
    assert_eq!(same, KeyError::SameName("k".into()));
    for name in ["", "a b", "a\"b", "../x", "é", &"x".repeat(65)] {
        let error = KeySet::new(&[key(name, "HS256", HMAC_SECRET, true)]).unwrap_err();
        assert!(matches!(error, KeyError::Key { fault: KeyFault::BadName, .. }), "{name}");
    }
    for algorithm in ["none", "None", "", "hs256", "HS255", "PS512", "ES512", "RSA-OAEP", "A256GCM", "dir"] {
        assert_eq!(fault(algorithm, HMAC_SECRET), KeyFault::Algorithm(algorithm.into()));
    }
}

#[tokio::test]
async fn the_published_set_verifies_our_tokens_and_holds_no_secret() {
    let world = World::new().await;
    let (rsa, p256, p384, ed) = (made(KeyKind::Rsa2048), made(KeyKind::Es256), p384(), made(KeyKind::Ed25519));
    let named = [("RS256", &rsa), ("ES256", &p256), ("ES384", &p384), ("EdDSA", &ed)];
    for (signing, _) in named {
        let mut keys = vec![key("hidden", "HS256", HMAC_SECRET, false)];
        keys.extend(named.map(|(algorithm, text)| key(algorithm, algorithm, text, algorithm == signing)));
        let site = site(keys);
        let published = site.keys.jwks();
        assert_eq!(published["keys"].as_array().unwrap().len(), 4);
        let text = published.to_string();
        assert!(!text.contains("hidden") && !text.contains("oct"), "{text}");
        for private in ["\"d\"", "\"p\"", "\"q\"", "\"dp\"", "\"k\""] {
            assert!(!text.contains(private), "{private} in {text}");
        }
        // What a client's library does with it.
        let set: JwkSet = serde_json::from_value(published).unwrap();
        let jwk = set.find(signing).unwrap();
        let mut validation = Validation::new(signing.parse().unwrap());
        validation.set_audience(&["acme-api"]);
        validation.validate_exp = false;
        let token = world.token_at(&site).await;
        let read = jsonwebtoken::decode::<serde_json::Value>(&token, &DecodingKey::from_jwk(jwk).unwrap(), &validation);
        assert_eq!(read.unwrap().claims["token_use"], "access", "{signing}");
    }
    let shared = site(vec![key("k", "HS256", HMAC_SECRET, true)]);
    assert_eq!(shared.keys.jwks(), serde_json::json!({ "keys": [] }));
}

#[test]
fn nothing_secret_is_shown() {
    let site = site(vec![key("k", "HS256", HMAC_SECRET, true)]);
    let shown = format!("{site:?} {:?} {}", site.keys, fault("HS256", "short-secret-text"));
    assert!(!shown.contains(&HMAC_SECRET[..8]) && !shown.contains("short-secret"), "{shown}");
}

#[test]
fn the_generation_changes_with_the_keys_and_not_without() {
    let generation = |keys: &[_]| KeySet::new(keys).unwrap().generation();
    let one = generation(&[key("k", "HS256", HMAC_SECRET, true)]);
    assert_eq!(one, generation(&[key("k", "HS256", HMAC_SECRET, true)]));
    assert_ne!(one, generation(&[key("l", "HS256", HMAC_SECRET, true)]));
    assert_ne!(one, generation(&[key("k", "HS256", &made(KeyKind::Hmac), true)]));
}

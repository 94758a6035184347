//! Tokens that must not pass, each beside the nearest one that must (RFC 8725).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::keys::{made, public_of};
use crate::credential::SiteCredentials;
use crate::credential::fixture::{HMAC_SECRET, START, World, hmac_site, key, settings, site};
use crate::credential::generate::KeyKind;
use crate::credential::jwt;
use crate::model::problem::Problem;

/// A token of any header and payload, rightly signed by `key`.
fn forge(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn hmac_forge(header: &Value, payload: &Value) -> String {
    forge(
        &header.to_string(),
        &payload.to_string(),
        &EncodingKey::from_secret(HMAC_SECRET.as_bytes()),
        Algorithm::HS256,
    )
}

fn header() -> Value {
    json!({"alg": "HS256", "typ": "JWT", "kid": "k1"})
}

fn payload(world: &World) -> Value {
    json!({
        "iss": "https://acme.test",
        "sub": world.contract.ids.user.render(world.account.user.id.uuid()),
        "aud": "acme-api",
        "org": world.contract.ids.org.render(world.account.org.id.uuid()),
        "sid": world.contract.ids.session.render(world.session.id.uuid()),
        "iat": START, "nbf": START, "exp": START + 3600, "token_use": "access",
    })
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name);
    object
}

async fn passes(world: &World, token: &str) {
    world.ask(&format!("Bearer {token}")).await.unwrap_or_else(|problem| panic!("{token}: {problem:?}"));
}

async fn refused(world: &World, token: &str, why: &str) {
    let outcome = world.ask(&format!("Bearer {token}")).await.map(drop);
    assert_eq!(outcome, Err(Problem::InvalidToken), "{why}: {token}");
}

#[tokio::test]
async fn the_forge_makes_tokens_that_pass() {
    let world = World::new().await;
    passes(&world, &hmac_forge(&header(), &payload(&world))).await;
    // And ours look as the documents show them.
    assert!(world.token().await.starts_with("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCI"));
}

#[tokio::test]
async fn no_algorithm_and_any_other_than_the_keys_own_is_refused() {
    let world = World::new().await;
    let body = URL_SAFE_NO_PAD.encode(payload(&world).to_string());
    let good = hmac_forge(&header(), &payload(&world));
    let signature = good.rsplit('.').next().unwrap();
    for alg in ["none", "None", "NONE", "nOnE", "", "HS384", "HS512", "RS256", "ES256", "hs256", "HS256 ", "dir"] {
        let head = URL_SAFE_NO_PAD.encode(with(header(), "alg", json!(alg)).to_string());
        for signature in ["", signature, "AA"] {
            refused(&world, &format!("{head}.{body}.{signature}"), alg).await;
        }
        refused(&world, &hmac_forge(&with(header(), "alg", json!(alg)), &payload(&world)), alg).await;
    }
    for alg in [json!(null), json!(["HS256"]), json!(0), json!({"HS256": 1})] {
        refused(&world, &hmac_forge(&with(header(), "alg", alg), &payload(&world)), "alg's type").await;
    }
    refused(&world, &hmac_forge(&without(header(), "alg"), &payload(&world)), "no alg").await;
    // Rightly signed by the key's secret, with an algorithm that is not the key's.
    let secret = made(KeyKind::Hmac);
    let site = site(vec![key("k1", "HS256", &secret, true)]);
    let strong = EncodingKey::from_secret(secret.as_bytes());
    let head = with(header(), "alg", json!("HS512")).to_string();
    let token = forge(&head, &payload(&world).to_string(), &strong, Algorithm::HS512);
    assert!(world.ask_at(&site, &format!("Bearer {token}")).await.is_err());
    let token = forge(&header().to_string(), &payload(&world).to_string(), &strong, Algorithm::HS256);
    world.ask_at(&site, &format!("Bearer {token}")).await.unwrap();
}

#[tokio::test]
async fn a_public_key_is_never_an_hmac_secret() {
    let world = World::new().await;
    for (kind, algorithm) in [(KeyKind::Rsa2048, "RS256"), (KeyKind::Es256, "ES256"), (KeyKind::Ed25519, "EdDSA")] {
        let private = made(kind);
        let public = public_of(&private, kind);
        let site = site(vec![key("k1", algorithm, &private, true)]);
        let jwk = site.keys.jwks()["keys"][0].to_string();
        for secret in [public.as_bytes(), public.trim().as_bytes(), jwk.as_bytes()] {
            let token = forge(
                &header().to_string(),
                &payload(&world).to_string(),
                &EncodingKey::from_secret(secret),
                Algorithm::HS256,
            );
            assert_eq!(
                jwt::verify(&site, &world.contract.ids, &token, world.now().wall),
                Err(jwt::TokenError::WrongAlgorithm)
            );
        }
        let token = world.token_at(&site).await;
        world.ask_at(&site, &format!("Bearer {token}")).await.unwrap();
    }
}

#[tokio::test]
async fn header_members_that_change_how_a_token_is_read_are_refused() {
    let world = World::new().await;
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("jwk", json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(HMAC_SECRET)})),
        ("jku", json!("https://evil.test/jwks.json")),
        ("x5u", json!("https://evil.test/x.pem")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!("AAAA")),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
        ("cty", json!("JWT")),
        ("nonce", json!("x")),
        ("unknown", json!(null)),
    ] {
        refused(&world, &hmac_forge(&with(header(), name, value), &payload(&world)), name).await;
    }
    for typ in [json!("at+jwt"), json!("JWE"), json!("jwt"), json!(""), json!(null), json!(["JWT"])] {
        refused(&world, &hmac_forge(&with(header(), "typ", typ), &payload(&world)), "typ").await;
    }
    refused(&world, &hmac_forge(&without(header(), "typ"), &payload(&world)), "no typ").await;
    let secret = EncodingKey::from_secret(HMAC_SECRET.as_bytes());
    for text in [
        r#"{"alg":"none","alg":"HS256","typ":"JWT","kid":"k1"}"#,
        r#"{"alg":"HS256","typ":"JWT","kid":"k1","kid":"k1"}"#,
        r#"["HS256"]"#,
        "",
        "null",
    ] {
        let token = forge(text, &payload(&world).to_string(), &secret, Algorithm::HS256);
        refused(&world, &token, text).await;
    }
    // Another order, and space between, are the same header.
    let token = forge(
        r#"{ "kid": "k1", "typ": "JWT", "alg": "HS256" }"#,
        &payload(&world).to_string(),
        &secret,
        Algorithm::HS256,
    );
    passes(&world, &token).await;
}

#[tokio::test]
async fn a_key_is_found_by_its_exact_name_only() {
    let world = World::new().await;
    let nameless = hmac_forge(&without(header(), "kid"), &payload(&world));
    passes(&world, &nameless).await;
    for kid in ["", "K1", "k1 ", "k2", "../k1", "k1\0", "' OR '1'='1", "0"] {
        refused(&world, &hmac_forge(&with(header(), "kid", json!(kid)), &payload(&world)), kid).await;
    }
    for kid in [json!(null), json!(0), json!(["k1"]), json!({})] {
        refused(&world, &hmac_forge(&with(header(), "kid", kid), &payload(&world)), "kid's type").await;
    }
    let two = site(vec![key("k1", "HS256", HMAC_SECRET, true), key("k2", "HS256", &made(KeyKind::Hmac), false)]);
    let verify = |token: &str| jwt::verify(&two, &world.contract.ids, token, world.now().wall);
    verify(&hmac_forge(&header(), &payload(&world))).unwrap();
    assert_eq!(verify(&nameless), Err(jwt::TokenError::UnknownKey), "which of the two?");
    let other = hmac_forge(&with(header(), "kid", json!("k2")), &payload(&world));
    assert_eq!(verify(&other), Err(jwt::TokenError::BadSignature), "signed by k1, says k2");
}

#[tokio::test]
async fn a_token_altered_anywhere_is_refused() {
    let world = World::new().await;
    let token = world.token().await;
    passes(&world, &token).await;
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = match bytes[at] {
            b'A' => b'B',
            _ => b'A',
        };
        refused(&world, std::str::from_utf8(&bytes).unwrap(), "altered").await;
    }
    for at in [1, 10, token.len() / 2, token.len() - 1] {
        refused(&world, &token[..at], "cut off").await;
    }
    for tail in ["A", "=", "==", ".", ".AA", "%3D"] {
        refused(&world, &format!("{token}{tail}"), "grown").await;
    }
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    for shuffled in [
        format!("{head}.{body}"),
        format!("{head}.{body}."),
        format!(".{body}.{signature}"),
        format!("{head}..{signature}"),
        format!("{body}.{head}.{signature}"),
        "..".into(),
    ] {
        refused(&world, &shuffled, "shuffled").await;
    }
    // The last character of 43 has two bits to spare: other spellings of the same signature.
    let last = signature.as_bytes()[42];
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for spelling in alphabet.bytes().filter(|byte| *byte != last) {
        refused(&world, &format!("{}{}", &token[..token.len() - 1], char::from(spelling)), "respelled").await;
    }
    assert_eq!(world.auth.counts().tokens, 1, "nothing but the good one is remembered");
}

#[tokio::test]
async fn a_token_for_another_issuer_audience_kind_or_time_is_refused() {
    let world = World::new().await;
    for (name, value) in [
        ("iss", json!("https://evil.test")),
        ("iss", json!("https://acme.test/")),
        ("iss", json!(["https://acme.test"])),
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("aud", json!(null)),
        ("token_use", json!("refresh")),
        ("token_use", json!("assertion")),
        ("exp", json!((START + 3600).to_string())),
        ("exp", json!(1e300)),
        ("exp", json!(-1)),
        ("exp", json!(null)),
        ("exp", json!(1_700_000_000.5)),
        ("nbf", json!("0")),
        ("nbf", json!(null)),
        ("nbf", json!(START + 60)),
        ("iat", json!(START + 60)),
        ("iat", json!(1.5)),
        ("sub", json!("user_1")),
        ("sub", json!(world.account.user.id.to_text())),
        ("sid", json!("x")),
        ("org", json!(format!("user_{}", world.account.org.id.to_text()))),
    ] {
        refused(&world, &hmac_forge(&header(), &with(payload(&world), name, value)), name).await;
    }
    for name in ["iss", "sub", "aud", "org", "sid", "iat", "exp", "token_use"] {
        refused(&world, &hmac_forge(&header(), &without(payload(&world), name)), name).await;
    }
    passes(&world, &hmac_forge(&header(), &with(payload(&world), "aud", json!(["other", "acme-api"])))).await;
    passes(&world, &hmac_forge(&header(), &without(payload(&world), "nbf"))).await;
}

#[tokio::test]
async fn expired_is_said_of_our_own_tokens_only() {
    let world = World::new().await;
    let outcome = async |token: String| world.ask(&format!("Bearer {token}")).await.map(drop);
    let old = with(payload(&world), "exp", json!(START - 5));
    assert_eq!(outcome(hmac_forge(&header(), &old)).await, Err(Problem::TokenExpired));
    let almost = with(payload(&world), "exp", json!(START - 4));
    assert_eq!(outcome(hmac_forge(&header(), &almost)).await, Ok(()), "within the leeway");
    let stranger = EncodingKey::from_secret(&[7; 32]);
    let forged = forge(&header().to_string(), &old.to_string(), &stranger, Algorithm::HS256);
    assert_eq!(outcome(forged).await, Err(Problem::InvalidToken));
    let elsewhere = with(old, "aud", json!("other"));
    assert_eq!(outcome(hmac_forge(&header(), &elsewhere)).await, Err(Problem::InvalidToken));
}

#[tokio::test]
async fn a_token_counts_at_the_site_that_issued_it_and_nowhere_else() {
    let world = World::new().await;
    let token = format!("Bearer {}", world.token().await);
    world.ask(&token).await.unwrap();
    let keys = || vec![key("k1", "HS256", HMAC_SECRET, true)];
    let elsewhere = |change: fn(&mut crate::credential::Settings)| {
        let mut settings = settings(keys());
        change(&mut settings);
        SiteCredentials::new(settings.into()).unwrap()
    };
    for (what, site) in [
        ("realm", elsewhere(|settings| settings.realm = "other".into())),
        ("issuer", elsewhere(|settings| settings.issuer = "https://other.test".into())),
        ("audience", elsewhere(|settings| settings.audience = "other".into())),
    ] {
        assert_eq!(world.ask_at(&site, &token).await.map(drop), Err(Problem::InvalidToken), "another {what}");
    }
    // The same site at another place of a reloaded file is the same site.
    world.ask_at(&elsewhere(|settings| settings.site = 7), &token).await.unwrap();
    world.ask_at(&hmac_site(), &token).await.unwrap();
}

//! Forged, twisted, late and misplaced tokens, each beside the nearest honest one.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tollgate::model::time::{Clock, SystemClock, TestClock};

use super::harness::{Gate, Setup, TOKEN_SECRET};

/// The claims of a token, as the gateway made them.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

fn header(token: &str) -> Value {
    let header = token.split('.').next().expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).expect("base64url")).expect("JSON")
}

/// Signs with the gateway's own secret: only what is said is wrong, never the signature.
fn signed(header: &Header, claims: &Value) -> String {
    encode(header, claims, &EncodingKey::from_secret(TOKEN_SECRET.as_bytes())).expect("a token")
}

/// A token with any header at all, rightly signed with HMAC-SHA-256.
fn raw(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, TOKEN_SECRET.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn own_header() -> Header {
    Header { kid: Some("one".into()), ..Header::new(Algorithm::HS256) }
}

async fn refused(gate: &Gate, what: &str, token: &str) {
    let answer = gate.client.get("/api/v1/posts").bearer(token).send().await;
    assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{what}");
}

async fn passes(gate: &Gate, what: &str, token: &str) {
    let answer = gate.client.get("/api/v1/posts").bearer(token).send().await;
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
}

/// Enough room that no test of refusals meets the bound on failed credentials.
fn patient() -> Setup {
    Setup::default().site("[site.limits]\nfailed_credentials = [\"1000000/1m\"]")
}

#[tokio::test]
async fn a_token_is_what_the_page_shows_and_can_be_made_again_with_the_secret() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    assert_eq!(header(&token)["alg"], "HS256");
    assert_eq!(header(&token)["typ"], "JWT");
    let claims = claims(&token);
    assert_eq!(claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat"), 3600);
    passes(&gate, "the same claims signed again", &signed(&own_header(), &claims)).await;
}

#[tokio::test]
async fn tokens_with_another_algorithm_or_header_are_refused() {
    let gate = patient().start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let good = claims(&token);
    let head = json!({ "alg": "HS256", "typ": "JWT", "kid": "one" });
    passes(&gate, "the honest header", &raw(&head, &good)).await;

    let with = |name: &str, value: Value| {
        let mut changed = head.clone();
        changed[name] = value;
        changed
    };
    for (what, header) in [
        ("alg none", with("alg", json!("none"))),
        ("alg NONE", with("alg", json!("None"))),
        ("alg HS512", with("alg", json!("HS512"))),
        ("alg RS256", with("alg", json!("RS256"))),
        ("alg null", with("alg", Value::Null)),
        ("alg empty", with("alg", json!(""))),
        ("unknown kid", with("kid", json!("two"))),
        ("kid with a path", with("kid", json!("../../dev/null"))),
        ("kid with SQL", with("kid", json!("one' OR '1'='1"))),
        ("kid of a wrong type", with("kid", json!(1))),
        ("crit", with("crit", json!(["exp"]))),
        ("empty crit", with("crit", json!([]))),
        ("jwk", with("jwk", json!({ "kty": "oct", "k": "AAAA" }))),
        ("jku", with("jku", json!("https://127.0.0.1/keys"))),
        ("x5u", with("x5u", json!("https://127.0.0.1/cert"))),
        ("x5c", with("x5c", json!(["AAAA"]))),
        ("typ of another kind", with("typ", json!("dpop+jwt"))),
    ] {
        refused(&gate, what, &raw(&header, &good)).await;
    }
    let parts: Vec<&str> = token.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    for (what, token) in [
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("alg none without signature", format!("{none}.{}.", parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{token}.x")),
        ("padding", format!("{token}=")),
        ("junk behind it", format!("{token}x")),
        ("a truncated signature", token[..token.len() - 1].to_owned()),
        (
            "another's signature",
            signed(&own_header(), &json!({ "sub": "x" }))
                .rsplit('.')
                .next()
                .map_or(String::new(), |tag| format!("{}.{}.{tag}", parts[0], parts[1])),
        ),
        ("oversized", format!("{}.{}.{}", parts[0], "A".repeat(20_000), parts[2])),
    ] {
        refused(&gate, what, &token).await;
    }
    passes(&gate, "the token itself, at the end", &token).await;
}

#[tokio::test]
async fn claims_of_the_wrong_type_range_or_audience_are_refused() {
    let gate = patient().start().await.expect("SQLite");
    let good = claims(&gate.signed_in("ada@example.com").await);
    let now = good["iat"].as_i64().expect("iat");
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        signed(&own_header(), &changed)
    };
    let without = |name: &str| {
        let mut changed = good.clone();
        changed.as_object_mut().expect("an object").remove(name);
        signed(&own_header(), &changed)
    };
    for time in ["exp", "nbf", "iat"] {
        for bad in
            [json!("9999999999"), json!(-1), json!(1.5), json!(1e300), json!(null), json!([]), json!({}), json!(true)]
        {
            refused(&gate, &format!("{time} = {bad}"), &with(time, bad)).await;
        }
    }
    for (what, token) in [
        ("no exp", without("exp")),
        ("no sub", without("sub")),
        ("no iss", without("iss")),
        ("no aud", without("aud")),
        ("exp in the past", with("exp", json!(now - 3600))),
        ("exp = u64::MAX", with("exp", json!(u64::MAX))),
        ("nbf in the future", with("nbf", json!(now + 3600))),
        ("iat in the future", with("iat", json!(now + 3600))),
        ("another issuer", with("iss", json!("https://evil.example"))),
        ("issuer of a wrong type", with("iss", json!(["test"]))),
        ("another audience", with("aud", json!("other"))),
        ("empty audience", with("aud", json!(""))),
        ("somebody who is nobody", with("sub", json!("user_00000000000000000000000000000000"))),
        ("a subject of a wrong type", with("sub", json!(1))),
    ] {
        refused(&gate, what, &token).await;
    }
    passes(&gate, "the honest claims", &signed(&own_header(), &good)).await;
}

#[tokio::test]
async fn an_expired_token_says_so_and_a_cached_one_expires_too() {
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let gate = Setup::default().clock(clock.clone()).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    passes(&gate, "fresh", &token).await;
    clock.advance(Duration::from_secs(3500));
    passes(&gate, "just before it expires", &token).await;
    clock.advance(Duration::from_secs(200));
    let answer = gate.client.get("/api/v1/posts").bearer(&token).send().await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.text(), r#"{"detail":"Token has expired","error":"token_expired"}"#);
    let refresh = gate.client.ask("POST", "/api/v1/auth/refresh").bearer(&token).send().await;
    assert_eq!(refresh.status, 401, "a refresh needs a token that is still good");
}

#[tokio::test]
async fn a_session_ends_at_its_absolute_lifetime_however_often_it_is_refreshed() {
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let gate = Setup::default()
        .clock(clock.clone())
        .site("[site.plan.free]\nlimits = [\"1000000/1h\"]")
        .start()
        .await
        .expect("SQLite");
    let mut token = gate.signed_in("ada@example.com").await;
    let mut hours = 0.0_f64;
    loop {
        clock.advance(Duration::from_mins(50));
        hours += 3000.0 / 3600.0;
        let answer = gate.client.ask("POST", "/api/v1/auth/refresh").bearer(&token).send().await;
        if answer.status != 200 {
            assert_eq!(answer.status, 401, "{}", answer.text());
            break;
        }
        token = answer.string("/access_token");
        assert!(hours < 31.0 * 24.0, "the session goes on for ever");
    }
    assert!(hours > 29.9 * 24.0, "the session ended after {hours} hours");
}

#[tokio::test]
async fn a_revoked_session_a_changed_role_and_a_disabled_account_count_from_the_next_request() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    passes(&gate, "before", &token).await;

    gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "viewer" }))).await;
    passes(&gate, "a viewer reads", &token).await;
    assert_eq!(gate.backend.last().one("x-user-role"), Some("viewer"));
    let write = gate.client.post("/api/v1/posts", &json!({})).bearer(&token).send().await;
    assert_eq!(write.status, 403, "a viewer does not write");

    gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "disabled": true }))).await;
    refused(&gate, "a disabled user", &token).await;
    gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "disabled": false }))).await;
    passes(&gate, "enabled again", &token).await;

    let ended = gate.operate("DELETE", "/users/ada@example.com/sessions", None).await;
    assert_eq!(ended.json(), json!({ "ended": 1 }));
    refused(&gate, "a revoked session", &token).await;
}

#[tokio::test]
async fn a_token_of_another_site_is_nothing_here() {
    let other = Gate::start().await;
    let theirs = other.signed_in("ada@example.com").await;
    let gate = Gate::start().await;
    let ours = gate.signed_in("ada@example.com").await;
    // Same secret, same issuer: but a session and a user that this realm never had.
    refused(&gate, "their token", &theirs).await;
    passes(&gate, "our token", &ours).await;
}

#[tokio::test]
async fn guessing_credentials_is_slowed_down_for_the_address_and_honest_tokens_still_pass() {
    let gate = Setup::default().site("[site.limits]\nfailed_credentials = [\"5/1m\"]").start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    for at in 0..5 {
        refused(&gate, "a guess", &format!("aaaa.bbbb.{at}")).await;
    }
    let slowed = gate.client.get("/api/v1/posts").bearer("aaaa.bbbb.6").send().await;
    assert_eq!(slowed.status, 429, "{}", slowed.text());
    assert!(slowed.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|wait| wait >= 1)));
    passes(&gate, "an honest token from the same address", &token).await;
}

//! What backends are told, and for how long.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::keys::made;
use crate::credential::assertion::Assertions;
use crate::credential::fixture::{START, World, key, site};
use crate::credential::generate::KeyKind;
use crate::credential::{SiteCredentials, api_key};
use crate::model::problem::Problem;

async fn assertion(world: &World, cache: &Assertions, site: &SiteCredentials, value: &str, audience: &str) -> Arc<str> {
    let principal = world.ask_at(site, value).await.unwrap();
    cache.of(site, &world.contract, &principal, &Arc::from(audience), world.now().wall).await.unwrap()
}

/// As a backend would read it, from the published keys alone.
fn read(site: &SiteCredentials, text: &str, audience: &str) -> Value {
    let set: JwkSet = serde_json::from_value(site.keys.jwks()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[audience]);
    validation.set_issuer(&["https://acme.test"]);
    validation.validate_exp = false;
    let key = DecodingKey::from_jwk(set.find("e1").unwrap()).unwrap();
    jsonwebtoken::decode::<Value>(text, &key, &validation).unwrap().claims
}

#[tokio::test]
async fn an_assertion_says_who_calls_and_is_no_access_token() {
    let world = World::new().await;
    let site = site(vec![key("e1", "ES256", &made(KeyKind::Es256), true)]);
    let cache = Assertions::new(10);
    let token = format!("Bearer {}", world.token_at(&site).await);
    let text = assertion(&world, &cache, &site, &token, "app").await;
    let claims = read(&site, &text, "app");
    assert_eq!(claims["sub"], world.contract.ids.user.render(world.account.user.id.uuid()));
    assert_eq!(
        (&claims["exp"], &claims["role"], &claims["plan"]),
        (&json!(START + 60), &json!("admin"), &json!("free"))
    );
    assert_eq!((&claims["permissions"], &claims["auth_method"]), (&json!(["*"]), &json!("token")));
    assert_eq!(world.ask_at(&site, &format!("Bearer {text}")).await.map(drop), Err(Problem::InvalidToken));

    let (record, api_key) = world.make_key(&["read:posts"], None).await;
    let text = assertion(&world, &cache, &site, &format!("ApiKey {}", api_key.expose()), "app").await;
    let claims = read(&site, &text, "app");
    assert_eq!(claims["key_id"], world.contract.ids.key.render(record.id.uuid()));
    assert_eq!(claims["permissions"], json!(["read:posts"]));
    assert!(claims.get("session_id").is_none() && claims.get("server_id").is_none());

    let (mut bound, secret) = (world.new_key(&[], None), api_key::mint("acme_", &*world.entropy));
    bound.attributes.insert("server_id".to_owned(), "server-7".to_owned());
    world.store.create_key("acme", &bound, &world.site.key_hash(secret.expose()), 100).await.unwrap();
    let text = assertion(&world, &cache, &site, &format!("ApiKey {}", secret.expose()), "app").await;
    assert_eq!(read(&site, &text, "app")["server_id"], "server-7");
}

#[tokio::test]
async fn an_assertion_is_used_again_for_half_its_life_by_the_same_caller_for_the_same_backend() {
    let mut world = World::new().await;
    let site = site(vec![key("e1", "ES256", &made(KeyKind::Es256), true)]);
    let cache = Assertions::new(10);
    let token = format!("Bearer {}", world.token_at(&site).await);
    let first = assertion(&world, &cache, &site, &token, "app").await;
    world.clock.advance(Duration::from_millis(29_999));
    assert!(Arc::ptr_eq(&first, &assertion(&world, &cache, &site, &token, "app").await));
    assert!(!Arc::ptr_eq(&first, &assertion(&world, &cache, &site, &token, "other").await));
    world.clock.advance(Duration::from_millis(1));
    let second = assertion(&world, &cache, &site, &token, "app").await;
    assert!(!Arc::ptr_eq(&first, &second));
    world.store.set_plan("acme", world.account.org.id, "pro", world.now().wall).await.unwrap();
    world.follow().await;
    let paid = assertion(&world, &cache, &site, &token, "app").await;
    assert_eq!(read(&site, &paid, "app")["plan"], "pro");
    // Whatever it states changed: a new one from the next request on.
    world.store.set_role("acme", world.account.user.id, "viewer", world.now().wall).await.unwrap();
    world.follow().await;
    let third = assertion(&world, &cache, &site, &token, "app").await;
    let claims = read(&site, &third, "app");
    assert_eq!((&claims["role"], &claims["permissions"]), (&json!("viewer"), &json!(["read:*"])));
}

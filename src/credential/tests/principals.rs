//! Whom a credential makes its bearer, and what API keys open.

use std::time::Duration;

use crate::credential::fixture::{HMAC_SECRET, START, World, key, settings};
use crate::credential::{SiteCredentials, api_key};
use crate::model::access::{PlanId, RoleId};
use crate::model::principal::Method;
use crate::model::problem::Problem;
use crate::model::time::Timestamp;
use crate::store::Rotated;

#[tokio::test]
async fn a_token_makes_its_bearer_the_user_with_their_role_and_plan() {
    let world = World::new().await;
    let principal = world.ask(&format!("Bearer {}", world.token().await)).await.unwrap();
    assert_eq!(*principal.account, world.account);
    assert_eq!((principal.role, principal.plan), (Some(RoleId(0)), PlanId(0)));
    assert!(principal.permissions.cover("write:posts"));
    let Method::Token { session, expires_at } = principal.method else { panic!() };
    assert_eq!((session, expires_at), (world.session.id, Timestamp::from_secs(START + 3600)));
}

#[tokio::test]
async fn a_token_lives_for_its_ttl_and_never_longer_than_its_session() {
    let mut world = World::new().await;
    let issue = async |world: &World| {
        let (contract, now) = (&world.contract, world.now().wall);
        world.auth.issue_token(&world.site, contract, &world.account, &world.session, now).await.unwrap()
    };
    let token = issue(&world).await;
    assert_eq!(token.expires_in, Duration::from_hours(1));
    assert_ne!(token.text.expose(), issue(&world).await.text.expose(), "every token has its own jti");
    world.session.ends_at = Timestamp::from_millis((START + 100) * 1000 + 999);
    let token = issue(&world).await;
    assert_eq!((token.expires_in, token.expires_at), (Duration::from_secs(100), Timestamp::from_secs(START + 100)));
}

#[tokio::test]
async fn a_key_opens_what_both_it_and_its_makers_role_grant() {
    let mut world = World::new().await;
    let (key, text) = world.make_key(&["read:posts", "write:*"], None).await;
    let value = format!("ApiKey {}", text.expose());
    let principal = world.ask(&value).await.unwrap();
    assert!(matches!(&principal.method, Method::Key(own) if **own == key));
    let grants = |p: &crate::model::principal::Principal| {
        ["read:posts", "write:posts", "read:users"].map(|name| p.permissions.cover(name))
    };
    assert_eq!(grants(&principal), [true, true, false]);
    world.store.set_role("acme", world.account.user.id, "viewer", world.now().wall).await.unwrap();
    world.follow().await;
    assert_eq!(grants(&world.ask(&value).await.unwrap()), [true, false, false]);
}

#[tokio::test]
async fn keys_that_were_never_made_cost_no_look_up_when_misspelt_and_leave_nothing_behind() {
    let world = World::new().await;
    let (_, text) = world.make_key(&["read:*"], None).await;
    let good = text.expose().to_owned();
    for wrong in [format!("{good}x"), good[..good.len() - 1].into(), good.to_uppercase(), format!("{good}{good}")] {
        assert_eq!(world.ask(&format!("ApiKey {wrong}")).await.map(drop), Err(Problem::InvalidToken), "{wrong}");
    }
    assert_eq!(world.auth.counts().key_loads, 0);
    for _ in 0..100 {
        let fake = api_key::mint("acme_", &*world.entropy);
        let outcome = world.ask(&format!("ApiKey {}", fake.expose())).await.map(drop);
        assert_eq!(outcome, Err(Problem::InvalidToken));
    }
    let counts = world.auth.counts();
    assert_eq!((counts.key_loads, counts.tokens, counts.keys), (100, 0, 0));
    world.ask(&format!("ApiKey {good}")).await.unwrap();
    // Where a token belongs, a key is not even looked up.
    assert_eq!(world.ask(&format!("Bearer {good}")).await.map(drop), Err(Problem::InvalidToken));
    assert_eq!(world.ask(&format!("ApiKey {}", world.token().await)).await.map(drop), Err(Problem::InvalidToken));
    assert_eq!(world.auth.counts().key_loads, 101);
}

#[tokio::test]
async fn a_key_ends_at_its_expiry_to_the_millisecond_though_it_is_remembered() {
    let world = World::new().await;
    let (_, text) = world.make_key(&["read:*"], Some(Timestamp::from_secs(START + 10))).await;
    let value = format!("ApiKey {}", text.expose());
    world.ask(&value).await.unwrap();
    world.clock.advance(Duration::from_millis(9999));
    world.ask(&value).await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.ask(&value).await.map(drop), Err(Problem::InvalidToken));
    assert_eq!(world.auth.counts().key_loads, 1, "decided from what is remembered");
}

#[tokio::test]
async fn a_rotated_key_works_beside_its_successor_until_its_deadline() {
    let mut world = World::new().await;
    let (old, old_text) = world.make_key(&["read:*"], None).await;
    let old_value = format!("ApiKey {}", old_text.expose());
    world.ask(&old_value).await.unwrap();
    let successor = world.new_key(&["read:*"], None);
    let new_text = api_key::mint("acme_", &*world.entropy);
    let (org, now) = (world.account.org.id, world.now().wall);
    let hash = world.site.key_hash(new_text.expose());
    let deadline = now.plus(Duration::from_mins(1));
    let rotated = world.store.rotate_key("acme", org, old.id, &successor, &hash, deadline, now).await.unwrap();
    assert_eq!(rotated, Rotated::Done);
    world.follow().await;
    let new_value = format!("ApiKey {}", new_text.expose());
    world.clock.advance(Duration::from_millis(59_999));
    world.ask(&old_value).await.unwrap();
    world.ask(&new_value).await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.ask(&old_value).await.map(drop), Err(Problem::InvalidToken));
    world.ask(&new_value).await.unwrap();
    // Revoked: no overlap at all.
    world.store.revoke_key("acme", org, successor.id, world.now().wall).await.unwrap();
    world.follow().await;
    assert_eq!(world.ask(&new_value).await.map(drop), Err(Problem::InvalidToken));
}

#[tokio::test]
async fn a_key_ends_with_the_pepper_that_it_was_hashed_under_though_it_is_remembered() {
    let world = World::new().await;
    let (_, text) = world.make_key(&["read:*"], None).await;
    let value = format!("ApiKey {}", text.expose());
    world.ask(&value).await.unwrap();
    let mut settings = settings(vec![key("k1", "HS256", HMAC_SECRET, true)]);
    settings.pepper = "c7Wq3XhT9zRj5LmK8vNd2FpY6sBg4EuA".to_owned().into();
    let replaced = SiteCredentials::new(settings.into()).unwrap();
    assert_eq!(world.ask_at(&replaced, &value).await.map(drop), Err(Problem::InvalidToken));
    world.ask(&value).await.unwrap();
}

#[tokio::test]
async fn a_hot_keys_last_use_is_written_at_most_once_a_minute() {
    let world = World::new().await;
    let (key, text) = world.make_key(&["read:*"], None).await;
    let value = format!("ApiKey {}", text.expose());
    let written = async || {
        world.auth.flush_last_used().await.unwrap();
        world.store.key("acme", world.account.org.id, key.id).await.unwrap().unwrap().last_used_at
    };
    assert_eq!(written().await, None);
    let first = world.now().wall;
    for _ in 0..100 {
        world.ask(&value).await.unwrap();
        world.clock.advance(Duration::from_millis(500));
    }
    assert_eq!(written().await, Some(first), "the first of the minute was noted");
    world.clock.advance(Duration::from_secs(9));
    world.ask(&value).await.unwrap();
    assert_eq!(written().await, Some(first), "59 seconds later: nothing to write");
    world.clock.advance(Duration::from_secs(1));
    world.ask(&value).await.unwrap();
    assert_eq!(written().await, Some(world.now().wall), "a minute later: once more");
    // A refused use is no use.
    let noted = world.now().wall;
    world.clock.advance(Duration::from_mins(2));
    world.store.revoke_key("acme", world.account.org.id, key.id, world.now().wall).await.unwrap();
    world.epochs.forget_everything();
    world.ask(&value).await.unwrap_err();
    assert_eq!(written().await, Some(noted));
}

#[tokio::test]
async fn a_busy_sessions_activity_is_written_at_most_once_a_minute() {
    let world = World::new().await;
    let value = format!("Bearer {}", world.token().await);
    let written = async || {
        world.auth.flush_last_used().await.unwrap();
        world.store.session("acme", world.session.id).await.unwrap().unwrap().last_active_at
    };
    let begun = written().await;
    for _ in 0..59 {
        world.clock.advance(Duration::from_secs(1));
        world.ask(&value).await.unwrap();
    }
    assert_eq!(written().await, begun, "within the minute of the sign-in there is nothing to write");
    world.clock.advance(Duration::from_secs(2));
    world.ask(&value).await.unwrap();
    let noted = world.now().wall;
    assert_eq!(written().await, noted);
    // A refused use is no use, and nothing is forgotten for having been written.
    world.clock.advance(Duration::from_mins(2));
    world.store.end_session("acme", world.session.id, world.now().wall).await.unwrap();
    world.epochs.forget_everything();
    world.ask(&value).await.unwrap_err();
    assert_eq!(written().await, noted);
}

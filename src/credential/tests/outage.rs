//! The store is gone: what is known goes on for a while, what is not is refused, and nothing is let through.

use std::time::Duration;

use crate::credential::fixture::World;
use crate::model::change::{Change, Changed};
use crate::model::problem::Problem;

#[tokio::test]
async fn remembered_callers_go_on_and_unknown_ones_are_told_to_come_back() {
    let mut world = World::new().await;
    let (_, known) = world.make_key(&["*"], None).await;
    let (_, unknown) = world.make_key(&["*"], None).await;
    let (token, key) = (format!("Bearer {}", world.token().await), format!("ApiKey {}", known.expose()));
    for credential in [&token, &key] {
        assert!(!world.is_at_once(credential), "never shown before");
        world.ask(credential).await.unwrap();
        assert!(world.is_at_once(credential), "nothing is left to be asked");
    }
    world.follow().await;
    world.store.close().await;
    world.clock.advance(Duration::from_secs(200));
    world.ask(&token).await.unwrap();
    world.ask(&format!("ApiKey {}", known.expose())).await.unwrap();
    let outcome = world.ask(&format!("ApiKey {}", unknown.expose())).await.map(drop);
    assert_eq!(outcome, Err(Problem::Unavailable));
    // What is wrong is still said to be wrong, and not that we cannot tell.
    assert_eq!(world.ask("Bearer a.b.c").await.map(drop), Err(Problem::InvalidToken));
    assert_eq!(world.ask("ApiKey acme_junk").await.map(drop), Err(Problem::InvalidToken));
}

#[tokio::test]
async fn what_is_remembered_counts_for_so_long_after_the_feed_was_last_heard() {
    let mut world = World::new().await;
    let token = format!("Bearer {}", world.token().await);
    world.ask(&token).await.unwrap();
    world.clock.advance(Duration::from_secs(100));
    world.follow().await;
    world.store.close().await;
    world.clock.advance(Duration::from_mins(5));
    world.ask(&token).await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.ask(&token).await.map(drop), Err(Problem::Unavailable));
}

#[tokio::test]
async fn a_silent_feed_costs_reloads_and_no_refusals_while_the_store_answers() {
    let world = World::new().await;
    let token = format!("Bearer {}", world.token().await);
    world.ask(&token).await.unwrap();
    world.clock.advance(Duration::from_secs(301));
    world.ask(&token).await.unwrap();
    world.ask(&token).await.unwrap();
    assert_eq!(world.auth.counts().session_loads, 2, "confirmed once, good for another while");
}

#[tokio::test]
async fn what_is_known_to_have_changed_is_not_guessed_at() {
    let world = World::new().await;
    let token = format!("Bearer {}", world.token().await);
    world.ask(&token).await.unwrap();
    world.store.close().await;
    world.ask(&token).await.unwrap();
    let changed = Changed::Session(world.session.id);
    world.epochs.bump(&Change { realm: "acme".into(), changed });
    assert_eq!(world.ask(&token).await.map(drop), Err(Problem::Unavailable));
}

#[tokio::test]
async fn last_uses_that_could_not_be_written_wait_for_the_next_time() {
    let world = World::new().await;
    let (_, text) = world.make_key(&["*"], None).await;
    world.ask(&format!("ApiKey {}", text.expose())).await.unwrap();
    world.store.close().await;
    for _ in 0..2 {
        world.auth.flush_last_used().await.unwrap_err();
    }
}

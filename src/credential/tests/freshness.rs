//! What is remembered ends when it is no longer true, and not before.

use std::sync::Arc;
use std::time::Duration;

use crate::credential::SiteCredentials;
use crate::credential::facts::{Facts, Loaded, Turn};
use crate::credential::fixture::{HMAC_SECRET, World, key, settings, site};
use crate::credential::generate::KeyKind;
use crate::model::access::{PlanId, RoleId};
use crate::model::change::{Change, Changed};
use crate::model::id::UserId;
use crate::model::problem::Problem;
use crate::model::time::{Steady, Timestamp};
use crate::revocation::Epochs;

use super::keys::made;

#[tokio::test]
async fn a_second_request_verifies_and_looks_up_nothing() {
    let world = World::new().await;
    let (token, (_, api_key)) = (format!("Bearer {}", world.token().await), world.make_key(&["*"], None).await);
    let api_key = format!("ApiKey {}", api_key.expose());
    world.ask(&token).await.unwrap();
    world.ask(&api_key).await.unwrap();
    let counts = world.auth.counts();
    assert_eq!((counts.verifications, counts.session_loads, counts.key_loads, counts.account_loads), (2, 1, 1, 1));
    for _ in 0..10 {
        world.ask(&token).await.unwrap();
        world.ask(&api_key).await.unwrap();
    }
    assert_eq!(world.auth.counts(), counts);
}

#[tokio::test]
async fn a_remembered_token_still_expires() {
    let world = World::new().await;
    let token = format!("Bearer {}", world.token().await);
    world.ask(&token).await.unwrap();
    world.clock.advance(Duration::from_millis(3_604_999));
    world.epochs.heard(world.now().steady);
    world.ask(&token).await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.ask(&token).await.map(drop), Err(Problem::TokenExpired));
    // A calendar set back before the token was issued does not make it good either.
    world.clock.step_wall(Timestamp::from_secs(1_600_000_000));
    assert_eq!(world.ask(&token).await.map(drop), Err(Problem::InvalidToken));
    assert_eq!(world.auth.counts().verifications, 1, "all of it without a second signature check");
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_key_and_not_with_a_reload() {
    let world = World::new().await;
    let (first, second) = (key("k1", "HS256", HMAC_SECRET, true), key("k2", "HS256", &made(KeyKind::Hmac), true));
    let verifies = |mut key: crate::credential::KeySettings| {
        key.signs = false;
        key
    };
    let token = format!("Bearer {}", world.token().await);
    world.ask(&token).await.unwrap();
    // Rotation: a new key signs, the old one still verifies. Not a single request fails or is verified again.
    let rotated = site(vec![verifies(first.clone()), second.clone()]);
    world.ask_at(&rotated, &token).await.unwrap();
    assert_eq!(world.auth.counts().verifications, 1);
    let newer = format!("Bearer {}", world.token_at(&rotated).await);
    world.ask_at(&rotated, &newer).await.unwrap();
    // The old key is removed: its tokens stop at once.
    let removed = site(vec![second]);
    assert_eq!(world.ask_at(&removed, &token).await.map(drop), Err(Problem::InvalidToken));
    world.ask_at(&removed, &newer).await.unwrap();
    // Another key under the removed one's name does not bring them back.
    let imposter = site(vec![key("k1", "HS256", &made(KeyKind::Hmac), true)]);
    assert_eq!(world.ask_at(&imposter, &token).await.map(drop), Err(Problem::InvalidToken));
}

#[tokio::test]
async fn what_the_store_acknowledged_counts_from_the_next_request_on() {
    let mut world = World::new().await;
    let token = format!("Bearer {}", world.token().await);
    let (user, org) = (world.account.user.id, world.account.org.id);
    assert_eq!(world.ask(&token).await.unwrap().role, Some(RoleId(0)));

    world.store.set_role("acme", user, "viewer", world.now().wall).await.unwrap();
    world.follow().await;
    let principal = world.ask(&token).await.unwrap();
    assert_eq!(principal.role, Some(RoleId(1)));
    assert!(principal.permissions.cover("read:posts") && !principal.permissions.cover("write:posts"));

    world.store.set_role("acme", user, "gone", world.now().wall).await.unwrap();
    world.follow().await;
    let principal = world.ask(&token).await.unwrap();
    assert!(principal.role.is_none() && !principal.permissions.cover("read:posts"), "an unknown role opens nothing");

    world.store.set_plan("acme", org, "pro", world.now().wall).await.unwrap();
    world.follow().await;
    assert_eq!(world.ask(&token).await.unwrap().plan, PlanId(1));

    world.store.set_user_disabled("acme", user, true, world.now().wall).await.unwrap();
    world.follow().await;
    assert_eq!(world.ask(&token).await.map(drop), Err(Problem::InvalidToken));
    world.store.set_user_disabled("acme", user, false, world.now().wall).await.unwrap();
    world.store.set_org_disabled("acme", org, true, world.now().wall).await.unwrap();
    world.follow().await;
    assert_eq!(world.ask(&token).await.map(drop), Err(Problem::InvalidToken));
    world.store.set_org_disabled("acme", org, false, world.now().wall).await.unwrap();
    world.follow().await;
    world.ask(&token).await.unwrap();

    assert!(world.store.end_session("acme", world.session.id, world.now().wall).await.unwrap());
    world.ask(&token).await.unwrap();
    world.follow().await;
    assert_eq!(world.ask(&token).await.map(drop), Err(Problem::InvalidToken), "as soon as the feed was read");
    assert_eq!(world.auth.counts().verifications, 1);
}

#[tokio::test]
async fn a_session_ends_with_its_lifetime_though_its_token_does_not() {
    let world = World::new().await;
    let token = format!("Bearer {}", world.token().await);
    world.ask(&token).await.unwrap();
    let site = {
        let mut settings = settings(vec![key("k1", "HS256", HMAC_SECRET, true)]);
        settings.leeway = Duration::from_hours(960);
        SiteCredentials::new(settings.into()).unwrap()
    };
    world.clock.advance(Duration::from_secs(30 * 86_400 - 1));
    world.ask_at(&site, &token).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.ask_at(&site, &token).await.map(drop), Err(Problem::InvalidToken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stampede_on_a_cold_key_costs_one_look_up() {
    let world = Arc::new(World::new().await);
    let (_, text) = world.make_key(&["*"], None).await;
    let values = [format!("Bearer {}", world.token().await), format!("ApiKey {}", text.expose())];
    let tasks: Vec<_> = (0..1000)
        .map(|at| {
            let (world, value) = (Arc::clone(&world), values[at % 2].clone());
            tokio::spawn(async move { world.ask(&value).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let counts = world.auth.counts();
    assert_eq!((counts.session_loads, counts.key_loads, counts.account_loads), (1, 1, 1));
}

type Users = Facts<UserId, u32>;

struct Bench {
    facts: Arc<Users>,
    epochs: Arc<Epochs>,
    realm: Arc<str>,
    user: UserId,
}

const NOW: Steady = Steady::from_millis(1000);

impl Bench {
    fn new() -> Self {
        let user = UserId::from(uuid::Uuid::from_u128(7));
        let facts = Arc::new(Facts::new(10, Duration::from_mins(1)));
        Self { facts, epochs: Arc::default(), realm: "r".into(), user }
    }

    fn loaded(&self, fact: u32) -> Loaded<u32> {
        let mark = self.epochs.mark(&self.realm, Changed::User(self.user));
        Loaded { fact, marks: Some([mark, mark]) }
    }

    async fn join(&self) -> Turn<'_, UserId, u32> {
        self.facts.join(&self.realm, self.user, &self.epochs, NOW).await
    }

    fn known(&self) -> Option<u32> {
        self.facts.known(&self.realm, self.user, &self.epochs, NOW).map(|fact| *fact)
    }

    fn change(&self) {
        self.epochs.bump(&Change { realm: Arc::clone(&self.realm), changed: Changed::User(self.user) });
    }

    fn wait(&self) -> tokio::task::JoinHandle<Result<Option<u32>, String>> {
        let (facts, epochs, realm, user) =
            (Arc::clone(&self.facts), Arc::clone(&self.epochs), Arc::clone(&self.realm), self.user);
        tokio::spawn(async move {
            match facts.join(&realm, user, &epochs, NOW).await {
                Turn::Known(known) => known.map(|fact| fact.map(|fact| *fact)).map_err(|error| error.to_string()),
                Turn::Lead(lead) => lead.tell(Ok(None)).map(|_| Some(0)).map_err(|error| error.to_string()),
            }
        })
    }
}

/// The test's thread runs 61 tasks between two turns of the test itself.
async fn all_waiting() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_fact_loaded_before_a_change_is_not_kept_after_it() {
    let bench = Bench::new();
    let Turn::Lead(lead) = bench.join().await else { panic!() };
    let before = bench.loaded(1);
    bench.change();
    lead.tell(Ok(Some(before))).unwrap();
    assert_eq!(bench.known(), None, "load old, revoke, insert stale");
    let Turn::Lead(lead) = bench.join().await else { panic!() };
    lead.tell(Ok(Some(bench.loaded(2)))).unwrap();
    assert_eq!(bench.known(), Some(2));
    bench.change();
    assert_eq!(bench.known(), None);
}

#[tokio::test]
async fn everybody_who_waited_learns_of_nothing_and_of_a_failure_and_neither_stays() {
    for failure in [false, true] {
        let bench = Bench::new();
        let Turn::Lead(lead) = bench.join().await else { panic!() };
        let waiting: Vec<_> = (0..1000).map(|_| bench.wait()).collect();
        all_waiting().await;
        let result = if failure { Err(crate::store::StoreError::Corrupt { what: "x".into() }) } else { Ok(None) };
        let _ = lead.tell(result);
        for task in waiting {
            match task.await.unwrap() {
                Ok(found) => assert!(!failure && found.is_none()),
                Err(error) => assert!(failure && error.contains("damaged"), "{error}"),
            }
        }
        assert_eq!((bench.facts.loads(), bench.facts.len()), (1, 0));
    }
}

#[tokio::test]
async fn a_lead_that_is_given_up_goes_to_the_next_in_line() {
    let bench = Bench::new();
    let Turn::Lead(lead) = bench.join().await else { panic!() };
    let waiting: Vec<_> = (0..3).map(|_| bench.wait()).collect();
    all_waiting().await;
    drop(lead);
    let mut leaders = 0;
    for task in waiting {
        leaders += usize::from(task.await.unwrap().unwrap() == Some(0));
    }
    assert_eq!((leaders, bench.facts.loads()), (1, 1));
}

#[tokio::test]
async fn facts_of_different_realms_do_not_mix() {
    let bench = Bench::new();
    let Turn::Lead(lead) = bench.join().await else { panic!() };
    lead.tell(Ok(Some(bench.loaded(1)))).unwrap();
    assert_eq!(bench.known(), Some(1));
    assert!(bench.facts.known("s", bench.user, &bench.epochs, NOW).is_none());
}

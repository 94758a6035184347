//! The database gone, silent, or back again: who waits, for how long, and what is told.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::backend::Backend;
use super::harness::postgres;
use super::process::{Home, Plan, Served};
use super::relay::{Line, Relay};
use super::wire::{As, Reply, Wire, now};

pub const POSTS: &str = "/api/v1/posts";
const PASSWORD: &str = "correct horse battery";
pub const UNLIMITED: &str = "[site.limits]\nnative_per_address = []\nfailed_credentials = []\nfailed_sign_ins = []\n\
                         [site.plan.free]\nlimits = [\"1000000/1h\"]\n";
/// As configured below.
const ACQUIRE: Duration = Duration::from_secs(1);
const MAX_STALE: Duration = Duration::from_secs(6);
/// For a connection, for the work on it, and for as much again while it waits for a lock; then some for this machine.
const BOUND: Duration = Duration::from_millis(3 * 1000 + 700);
/// A request that asks nobody.
const AT_ONCE: Duration = Duration::from_millis(400);

fn account(email: &str) -> serde_json::Value {
    json!({ "email": email, "password": PASSWORD, "name": "Test" })
}

/// Signs `email` up and in, and makes a key; the token, the key and the key's id.
pub async fn customer(wire: &mut Wire, email: &str, permissions: &[&str]) -> (String, String, String) {
    let made = wire.post("/api/v1/auth/register", As::Nobody, &account(email)).await.expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    let signed_in = wire.post("/api/v1/auth/login", As::Nobody, &account(email)).await.expect("an answer");
    let token = signed_in.string("/access_token").expect("a token");
    let wanted = json!({ "name": "test", "permissions": permissions });
    let made = wire.post("/api/v1/api-keys", As::Token(&token), &wanted).await.expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    (token, made.string("/key").expect("a key"), made.string("/id").expect("an id"))
}

pub async fn status(wire: &mut Wire, by: As<'_>) -> u16 {
    wire.get(POSTS, by).await.expect("an answer").status
}

fn assert_unavailable(answer: &Reply, what: &str) {
    assert_eq!(answer.status, 503, "{what}: {}", answer.text());
    assert!(answer.text().contains(r#""error":"service_unavailable""#), "{what}: {}", answer.text());
    assert_eq!(answer.headers["retry-after"], "1", "{what}");
    assert!(answer.took <= BOUND, "{what} waited {:?}", answer.took);
}

/// A gateway whose database is behind a wire, with one customer whose facts are cached and one whose are not.
struct Scene {
    served: Served,
    relay: Relay,
    known: (String, String),
    unknown: (String, String),
    _home: Home,
    _backend: Backend,
}

impl Scene {
    async fn set() -> Option<Self> {
        let (relay, url) = Relay::to_postgres(&postgres().await?).await;
        let backend = Backend::start().await;
        let home = Home::new(&Plan {
            postgres: Some(&url),
            backend: &backend.url(),
            store: "acquire_timeout = \"1s\"\nmax_connections = 4",
            top: "[cache]\nmax_stale = \"6s\"",
            site: UNLIMITED,
        });
        let served = home.start().await;
        let mut wire = Wire::to(&served.http);
        let (token, key, _) = customer(&mut wire, "known@example.com", &["read:posts"]).await;
        let (_, unknown_key, _) = customer(&mut wire, "unknown@example.com", &["read:posts"]).await;
        // A session that no request has asked for yet, beside the one that made the key.
        let again = wire.post("/api/v1/auth/login", As::Nobody, &account("unknown@example.com")).await;
        let unknown_token = again.expect("an answer").string("/access_token").expect("a token");
        for by in [As::Token(&token), As::Key(&key)] {
            assert_eq!(status(&mut wire, by).await, 200);
        }
        let (known, unknown) = ((token, key), (unknown_token, unknown_key));
        Some(Self { served, relay, known, unknown, _home: home, _backend: backend })
    }

    /// What needs nothing of the database passes at once; the longest took this long.
    async fn assert_known_pass(&self) -> Duration {
        let mut wire = Wire::to(&self.served.http);
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            for by in [As::Token(&self.known.0), As::Key(&self.known.1)] {
                let answer = wire.get(POSTS, by).await.expect("an answer");
                assert_eq!(answer.status, 200, "{by:?}: {}", answer.text());
                assert!(answer.took <= AT_ONCE, "{by:?} waited {:?}", answer.took);
                longest = longest.max(answer.took);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        longest
    }

    /// Everything else is refused, all of it at once and several of each; the longest took this long.
    async fn assert_others_are_refused(&self) -> Duration {
        let mut asking = JoinSet::new();
        for number in 0..5 {
            for what in ["token", "key", "register", "sign-in", "create"] {
                let mut wire = Wire::to(&self.served.http);
                let (token, key) = self.unknown.clone();
                let own = self.known.0.clone();
                asking.spawn(async move {
                    let wanted = json!({ "name": "test", "permissions": ["read:posts"] });
                    let answer = match what {
                        "token" => wire.get(POSTS, As::Token(&token)).await,
                        "key" => wire.get(POSTS, As::Key(&key)).await,
                        "register" => {
                            let new = account(&format!("new{number}@example.com"));
                            wire.post("/api/v1/auth/register", As::Nobody, &new).await
                        }
                        "sign-in" => wire.post("/api/v1/auth/login", As::Nobody, &account("known@example.com")).await,
                        _ => wire.post("/api/v1/api-keys", As::Token(&own), &wanted).await,
                    };
                    (what, answer.unwrap_or_else(|error| panic!("{what}: {error}")))
                });
            }
        }
        let mut longest = Duration::ZERO;
        while let Some(answered) = asking.join_next().await {
            let (what, answer) = answered.expect("no panic");
            assert_unavailable(&answer, what);
            longest = longest.max(answer.took);
        }
        longest
    }

    /// Waits until a request that needs the database passes again; how long that took.
    async fn heal(&self) -> Duration {
        self.relay.set(Line::Whole);
        let started = now();
        let mut wire = Wire::to(&self.served.http);
        while status(&mut wire, As::Token(&self.unknown.0)).await != 200 {
            assert!(started.elapsed() < 2 * BOUND, "it does not heal");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let healed = started.elapsed();
        let signed_in = wire.post("/api/v1/auth/login", As::Nobody, &account("known@example.com")).await;
        let signed_in = signed_in.expect("an answer");
        assert_eq!(signed_in.status, 200, "{}", signed_in.text());
        assert_eq!(status(&mut wire, As::Key(&self.unknown.1)).await, 200);
        healed
    }

    async fn is_ready(&self) -> bool {
        self.served.admin.get("/readyz").send().await.status == 200
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_database_costs_only_those_who_need_it_and_only_so_long() {
    let Some(scene) = Scene::set().await else { return };
    assert!(scene.is_ready().await);
    scene.relay.set(Line::Frozen);
    let (known, others) = tokio::join!(scene.assert_known_pass(), scene.assert_others_are_refused());
    assert!(!scene.is_ready().await);
    println!("silent: cached answers within {known:?}, refusals within {others:?} (acquire_timeout {ACQUIRE:?})");
    let (known, others) = tokio::join!(scene.assert_known_pass(), scene.assert_others_are_refused());
    println!("silent: once more: cached answers within {known:?}, refusals within {others:?}");
    println!("silent: healed after {:?}", scene.heal().await);
    scene.assert_known_pass().await;
    assert!(scene.is_ready().await);

    scene.relay.set(Line::Frozen);
    let told = now();
    scene.served.process.stop().await.good();
    println!("silent: stopped after {:?}", told.elapsed());
    assert!(told.elapsed() < 3 * BOUND, "it stops all the same, not after {:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_down_refuses_at_once_and_stale_facts_stop_counting() {
    let Some(scene) = Scene::set().await else { return };
    scene.relay.set(Line::Cut);
    let cut = now();
    let (known, others) = tokio::join!(scene.assert_known_pass(), scene.assert_others_are_refused());
    println!("down: cached answers within {known:?}, refusals within {others:?} (acquire_timeout {ACQUIRE:?})");
    // The feed may have been heard for the last time just before, so facts count for `max_stale` and not much longer.
    let mut wire = Wire::to(&scene.served.http);
    for (what, by) in [("a session", As::Token(&scene.known.0)), ("a key", As::Key(&scene.known.1))] {
        let stale = loop {
            let answer = wire.get(POSTS, by).await.expect("an answer");
            if answer.status != 200 {
                break answer;
            }
            assert!(cut.elapsed() < MAX_STALE + Duration::from_secs(1), "{what} counts after {:?}", cut.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let after = cut.elapsed();
        assert!(after + Duration::from_secs(1) > MAX_STALE, "{what} counts no more after {after:?}");
        assert_unavailable(&stale, "a fact that nobody has confirmed for so long");
        println!("down: {what} counts no more after {after:?} (max_stale {MAX_STALE:?})");
    }
    println!("down: healed after {:?}", scene.heal().await);
    scene.assert_known_pass().await;
    scene.served.process.stop().await.good();
}

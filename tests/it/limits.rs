//! Limits as a client meets them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tollgate::model::time::{Clock, SystemClock, TestClock};

use super::client::Answer;
use super::harness::{Gate, Setup};

fn rate(answer: &Answer) -> (u32, u32, i64) {
    let number = |name: &str| answer.header(name).unwrap_or_else(|| panic!("no {name}")).parse::<i64>().expect(name);
    let small = |name: &str| u32::try_from(number(name)).expect(name);
    (small("x-ratelimit-limit"), small("x-ratelimit-remaining"), number("x-ratelimit-reset"))
}

fn two_windows() -> Setup {
    Setup::default().site("[site.plan.free]\nlimits = [\"3/1m\", \"5/1h\"]")
}

#[tokio::test]
async fn headers_count_down_and_the_429_says_when_to_come_back() {
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let gate = two_windows().clock(clock.clone()).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let ask = || gate.client.get("/api/v1/posts").bearer(&token).send();
    for left in [2, 1, 0] {
        let answer = ask().await;
        assert_eq!(answer.status, 200);
        let (limit, remaining, reset) = rate(&answer);
        assert_eq!((limit, remaining), (3, left), "the window that runs out first");
        assert!(reset > clock.now().wall.secs(), "never in the past");
    }
    let refused = ask().await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.text(), r#"{"detail":"Rate limit exceeded","error":"rate_limit_exceeded"}"#);
    let wait: u64 = refused.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=61).contains(&wait), "{wait}");
    for _ in 0..20 {
        assert_eq!(ask().await.status, 429, "a refused request consumes nothing");
    }
    clock.advance(Duration::from_secs(wait));
    assert_eq!(ask().await.status, 200, "waiting as told is enough");
    let answer = ask().await;
    assert_eq!((rate(&answer).0, rate(&answer).1), (5, 0), "now the hour runs out first");
    let wait: u64 = ask().await.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!(wait > 3400, "{wait}");
    assert_eq!(gate.backend.count(), 5);
}

#[tokio::test]
async fn an_organization_shares_its_window_whatever_the_credential() {
    let gate = two_windows().start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let (key, _) = gate.api_key(&token, &["read:posts"]).await;
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 200);
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 429);
    let other = gate.signed_in("bob@example.com").await;
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&other).send().await.status, 200, "another organization");
}

#[tokio::test]
async fn an_authenticated_answer_has_the_headers_also_when_it_is_a_refusal() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let (key, _) = gate.api_key(&token, &["read:posts"]).await;
    let forbidden = gate.client.get("/api/v1/users").api_key(&key).send().await;
    assert_eq!(forbidden.status, 403);
    let (limit, remaining, _) = rate(&forbidden);
    assert_eq!((limit, remaining), (100, 99), "making the key was counted, being refused was not");
    let native = gate.client.get("/api/v1/api-keys").bearer(&token).send().await;
    assert_eq!(rate(&native).1, 98);
    assert_eq!(gate.client.get("/api/v1/users").send().await.header("x-ratelimit-limit"), None);
}

#[tokio::test]
async fn the_operator_changes_plan_and_limits_and_they_count_at_once() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let ask = || gate.client.get("/api/v1/posts").bearer(&token).send();
    assert_eq!(rate(&ask().await).0, 100);
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "plan": "pro" }))).await;
    let answer = ask().await;
    assert_eq!((rate(&answer).0, rate(&answer).1), (10_000, 9_998), "what was used stays used");
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "limits": ["4/1h"] }))).await;
    assert_eq!(rate(&ask().await).1, 1);
    assert_eq!(ask().await.status, 200);
    assert_eq!(ask().await.status, 429);
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "limits": null }))).await;
    assert_eq!(ask().await.status, 200);
}

#[tokio::test]
async fn whoever_has_spent_more_than_a_lowered_limit_can_still_throw_a_thief_out() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let (key, id) = gate.api_key(&token, &["read:posts"]).await;
    for _ in 0..5 {
        assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 200);
    }
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "limits": ["2/1h"] }))).await;
    let spent = gate.client.get("/api/v1/posts").bearer(&token).send().await;
    assert_eq!((spent.status.as_u16(), rate(&spent).0, rate(&spent).1), (429, 2, 0));
    let renewed = gate.client.ask("POST", "/api/v1/auth/refresh").bearer(&token).send().await;
    assert_eq!((renewed.status.as_u16(), rate(&renewed).1), (200, 0), "{}", renewed.text());
    let revoked = gate.client.ask("DELETE", &format!("/api/v1/api-keys/{id}")).bearer(&token).send().await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 401);
    assert_eq!(gate.client.get("/api/v1/api-keys").bearer(&token).send().await.status, 429, "looking is no defence");
}

#[tokio::test]
async fn every_spelling_of_a_routes_path_spends_what_the_route_counts() {
    let routes = "[[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\n\
                  [[site.route]]\nmatch = \"GET /api/v1/report\"\nupstream = \"app\"\nlimits = [\"4/1h\"]\ncost = 2\n";
    let gate = Setup::default().routes(routes).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let ask = async |path: &str| gate.client.get(path).bearer(&token).send().await.status.as_u16();
    assert_eq!(ask("/api/v1/Report").await, 200);
    assert_eq!(ask("/api/v1/report").await, 200);
    for path in ["/api/v1/report", "/api/v1/report/", "/api/v1/Report", "/api/v1/REPORT/"] {
        assert_eq!(ask(path).await, 429, "{path}");
    }
    assert_eq!(ask("/api/v1/reports").await, 200, "another path is not concerned");
    assert_eq!(gate.backend.count(), 3);
}

#[tokio::test]
async fn sixty_four_requests_race_for_the_last_slot_and_one_wins() {
    let gate = Arc::new(Setup::default().site("[site.plan.free]\nlimits = [\"1/1h\"]").start().await.expect("SQLite"));
    let token = gate.signed_in("ada@example.com").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (gate, token) = (Arc::clone(&gate), token.clone());
        tasks.spawn(async move { gate.client.get("/api/v1/posts").bearer(&token).send().await.status.as_u16() });
    }
    let statuses = tasks.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert_eq!(gate.backend.count(), 1);
}

#[tokio::test]
async fn ten_failed_sign_ins_close_the_account_for_a_while_under_every_spelling() {
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let gate = Setup::default()
        .clock(clock.clone())
        .site("[site.limits]\nnative_per_address = [\"100000/1m\"]")
        .start()
        .await
        .expect("SQLite");
    gate.signed_in("ada@example.com").await;
    let login = |email: &str, password: &str| {
        let body = json!({ "email": email, "password": password });
        let client = gate.client.clone();
        async move { client.post("/api/v1/auth/login", &body).send().await }
    };
    for at in 0..10 {
        let email = if at % 2 == 0 { "ada@example.com" } else { "ADA@Example.com" };
        assert_eq!(login(email, "a guess").await.status, 401);
    }
    let closed = login("ada@example.com", "correct horse battery").await;
    assert_eq!(closed.status, 429, "{}", closed.text());
    assert!(closed.header("retry-after").is_some());
    for _ in 0..10 {
        assert_eq!(login("nobody@example.com", "a guess").await.status, 401);
    }
    assert_eq!(login("nobody@example.com", "a guess").await.status, 429, "an account that is none behaves alike");
    assert_eq!(login("bob@example.com", "a guess").await.status, 401, "another account is not concerned");
    clock.advance(Duration::from_secs(15 * 60 + 16));
    assert_eq!(login("ada@example.com", "correct horse battery").await.status, 200);
    for _ in 0..9 {
        assert_eq!(login("ada@example.com", "a guess").await.status, 401, "a success cleared the count");
    }
    assert_eq!(login("ada@example.com", "correct horse battery").await.status, 200);
}

#[tokio::test]
async fn a_forged_forwarded_for_neither_escapes_nor_locks_out_another() {
    let limits = "[site.limits]\nnative_per_address = [\"3/1m\"]";
    let gate = Setup::default().site(limits).start().await.expect("SQLite");
    let login = |from: &str| {
        gate.client
            .post("/api/v1/auth/login", &json!({ "email": "x@example.com", "password": "a guess" }))
            .header("X-Forwarded-For", from)
            .send()
    };
    for from in ["203.0.113.1", "203.0.113.2", "203.0.113.3"] {
        assert_eq!(login(from).await.status, 401);
    }
    assert_eq!(login("203.0.113.4").await.status, 429, "no trusted proxy: the peer is what counts");

    let trusting = Setup::default()
        .site(limits)
        .top("[network]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]")
        .start()
        .await
        .expect("SQLite");
    let login = |from: &str| {
        trusting
            .client
            .post("/api/v1/auth/login", &json!({ "email": "y@example.com", "password": "a guess" }))
            .header("X-Forwarded-For", from)
            .send()
    };
    for forged in ["198.51.100.1, 203.0.113.9", "198.51.100.2, 203.0.113.9", "evil, 203.0.113.9, 10.0.0.3"] {
        assert_eq!(login(forged).await.status, 401);
    }
    assert_eq!(login("198.51.100.3, 203.0.113.9").await.status, 429, "counted from the right");
    assert_eq!(login("203.0.113.10").await.status, 401, "another client behind the same proxy");
    assert_eq!(login("198.51.100.1").await.status, 401, "the one it pretended to be is not locked out");
}

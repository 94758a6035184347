//! Several gateways on one database: what is changed at one counts at the others.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, Executor};

use super::backend::Backend;
use super::harness::{ADMIN_TOKEN, postgres};
use super::loss::{POSTS, UNLIMITED, customer, status};
use super::process::{Home, Plan, Served};
use super::relay::{Line, Relay};
use super::wire::{As, Reply, Wire, now};

/// How long after the acknowledgement at one gateway the other still answered as before.
const EVERYWHERE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_at_one_gateway_counts_at_the_other_within_a_second() {
    let Some(url) = postgres().await else { return };
    let backend = Backend::start().await;
    let backend = backend.url();
    let plan = Plan { postgres: Some(&url), backend: &backend, store: "", top: "", site: UNLIMITED };
    let (here, there) = (Home::new(&plan), Home::new(&plan));
    let (here, there) = tokio::join!(here.start(), there.start());
    let mut near = Wire::to(&here.http);
    let mut far = Wire::to(&there.http);

    let user = "ada@example.com";
    let (token, key, id) = customer(&mut near, user, &["read:posts"]).await;
    let (_, second, _) = customer(&mut near, "bob@example.com", &["read:posts"]).await;
    let by_token = As::Token(&token);

    assert_eq!((status(&mut near, As::Key(&key)).await, status(&mut far, As::Key(&key)).await), (200, 200));
    let path = format!("/api/v1/api-keys/{id}");
    let revoked = near.ask("DELETE", &path, by_token, None).await.expect("an answer");
    assert_eq!(revoked.status / 100, 2, "{}", revoked.text());
    assert_eq!(status(&mut near, As::Key(&key)).await, 401, "here from the next request on");
    until("a revoked key", &mut far, "GET", As::Key(&key), |answer| answer.status == 401).await;

    assert_eq!((status(&mut near, by_token).await, status(&mut far, by_token).await), (200, 200));
    operate(&here, "PATCH", &format!("/orgs/{user}"), json!({ "plan": "pro" })).await;
    let is_pro = |answer: &Reply| answer.headers["x-ratelimit-limit"] == "10000";
    assert!(is_pro(&near.get(POSTS, by_token).await.expect("an answer")));
    until("a plan", &mut far, "GET", by_token, is_pro).await;

    operate(&here, "PATCH", &format!("/users/{user}"), json!({ "role": "viewer" })).await;
    assert_eq!(near.post(POSTS, by_token, &json!({})).await.expect("an answer").status, 403);
    until("a role", &mut far, "POST", by_token, |answer| answer.status == 403).await;

    assert_eq!(status(&mut far, by_token).await, 200);
    operate(&here, "PATCH", &format!("/users/{user}"), json!({ "disabled": true })).await;
    assert_eq!(status(&mut near, by_token).await, 401);
    until("a disabled user", &mut far, "GET", by_token, |answer| answer.status == 401).await;
    operate(&here, "PATCH", &format!("/users/{user}"), json!({ "disabled": false })).await;
    assert_eq!(status(&mut near, by_token).await, 200);
    until("an enabled user", &mut far, "GET", by_token, |answer| answer.status == 200).await;

    operate(&here, "DELETE", &format!("/users/{user}/sessions"), Value::Null).await;
    assert_eq!(status(&mut near, by_token).await, 401);
    until("an ended session", &mut far, "GET", by_token, |answer| answer.status == 401).await;

    assert_eq!((status(&mut near, As::Key(&second)).await, status(&mut far, As::Key(&second)).await), (200, 200));
    operate(&here, "PATCH", "/orgs/bob@example.com", json!({ "disabled": true })).await;
    assert_eq!(status(&mut near, As::Key(&second)).await, 401);
    until("a disabled organization", &mut far, "GET", As::Key(&second), |answer| answer.status == 401).await;

    for served in [here, there] {
        served.process.stop().await.good();
    }
}

/// One act of the operator at `served`.
async fn operate(served: &Served, method: &str, resource: &str, body: Value) {
    let ask = served.admin.ask(method, &format!("/v1/sites/vantage{resource}")).bearer(ADMIN_TOKEN);
    let answer = ask.json(&body).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_could_not_hear_counts_within_a_second_of_hearing_again() {
    let Some(url) = postgres().await else { return };
    let (relay, behind) = Relay::to_postgres(&url).await;
    let backend = Backend::start().await;
    let backend = backend.url();
    let plan = |url, store| Plan { postgres: Some(url), backend: &backend, store, top: "", site: UNLIMITED };
    let (here, there) = (Home::new(&plan(&url, "")), Home::new(&plan(&behind, "acquire_timeout = \"1s\"")));
    let (here, there) = tokio::join!(here.start(), there.start());
    let mut near = Wire::to(&here.http);
    let mut far = Wire::to(&there.http);
    for (line, user) in [(Line::Frozen, "ada@example.com"), (Line::Cut, "bob@example.com")] {
        let (token, key, id) = customer(&mut near, user, &["read:posts"]).await;
        let (by_token, by_key) = (As::Token(&token), As::Key(&key));
        assert_eq!((status(&mut far, by_token).await, status(&mut far, by_key).await), (200, 200));
        relay.set(line);
        operate(&here, "DELETE", &format!("/orgs/{user}/keys/{id}"), Value::Null).await;
        operate(&here, "PATCH", &format!("/users/{user}"), json!({ "disabled": true })).await;
        assert_eq!((status(&mut near, by_token).await, status(&mut near, by_key).await), (401, 401));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        // Cut off, it goes on with what it knew: that is what `max_stale` bounds.
        assert_eq!((status(&mut far, by_token).await, status(&mut far, by_key).await), (200, 200));
        relay.set(Line::Whole);
        until(&format!("{line:?}: a disabled user"), &mut far, "GET", by_token, |answer| answer.status == 401).await;
        until(&format!("{line:?}: a revoked key"), &mut far, "GET", by_key, |answer| answer.status == 401).await;
    }
    for served in [here, there] {
        served.process.stop().await.good();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_lost_changes_ends_everything_that_is_cached() {
    let backend = Backend::start().await;
    let plan = Plan { postgres: None, backend: &backend.url(), store: "", top: "", site: UNLIMITED };
    let home = Home::new(&plan);
    let served = home.start().await;
    let mut wire = Wire::to(&served.http);
    let (token, _, _) = customer(&mut wire, "ada@example.com", &["read:posts"]).await;
    let by = As::Token(&token);
    let file = format!("sqlite://{}", home.folder.path().join("data/tollgate.db").display());
    let mut store = sqlx::SqliteConnection::connect(&file).await.expect("the gateway's own store");
    // A database that was put back from a backup, forwards and backwards: what the feed tells does not follow on
    // what was heard, and what is true is not what is cached.
    for (role, sql, status) in
        [("viewer", "UPDATE feed SET head = head + 100", 403), ("admin", "UPDATE feed SET head = head - 50", 200)]
    {
        assert_ne!(wire.post(POSTS, by, &json!({})).await.expect("an answer").status, status);
        let restore = format!("BEGIN; UPDATE users SET role = '{role}'; DELETE FROM changes; {sql}; COMMIT");
        store.execute(sqlx::AssertSqlSafe(restore)).await.expect("it is restored");
        until(sql, &mut wire, "POST", by, |answer| answer.status == status).await;
    }
    // And the feed is followed again.
    store.close().await.expect("a clean goodbye");
    let mut operator = super::process::tollgate(home.folder.path());
    operator.args(["users", "disable", "ada@example.com", "--config", "gateway.toml"]);
    super::process::run(operator).await.good();
    until("the change after", &mut wire, "GET", by, |answer| answer.status == 401).await;
    served.process.stop().await.good();
}

/// Asks `far` without a pause until `counts`; fails when that takes longer than a second.
async fn until(what: &str, far: &mut Wire, method: &str, by: As<'_>, counts: impl Fn(&Reply) -> bool) {
    let acknowledged = now();
    loop {
        let asked = acknowledged.elapsed();
        let answer = far.ask(method, POSTS, by, None).await.expect("an answer");
        if counts(&answer) {
            println!("{what} counts at the other gateway after {:?}", acknowledged.elapsed());
            return;
        }
        // When it was asked, not when it was answered: what arrived before the second was over may pass.
        assert!(
            asked < EVERYWHERE,
            "{what}: {asked:?} after the acknowledgement the answer is still {}",
            answer.status
        );
    }
}

//! Rules and windows in shadow: decided, counted, logged, and not enforced. Each beside the same without `shadow`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::model::time::{Clock, SystemClock, TestClock};
use tollgate::observe::log::LogWriter;

use super::backend::Backend;
use super::client::Answer;
use super::harness::{ADMIN_TOKEN, Gate, Setup};
use super::process::{Home, Plan};
use super::sockets::Memory;

const REPORTS: &str = "/api/v1/reports";
/// One of the contract's guards.
const READS: &str = "match = \"GET,HEAD /api/v1/{resource}/{*rest}\"\n";

/// A gateway with its access log, and a member of a free organization.
struct World {
    gate: Gate,
    token: String,
    log: Memory,
    _writer: LogWriter,
}

impl World {
    async fn with(setup: Setup) -> Self {
        let log = Memory::default();
        let (logs, writer) = log.open();
        let gate = setup.logs(logs).start().await.expect("SQLite");
        let token = gate.signed_in("ada@example.com").await;
        Self { gate, token, log, _writer: writer }
    }

    async fn get(&self, path: &str) -> Answer {
        self.gate.client.get(path).bearer(&self.token).send().await
    }

    /// What the line of a request says of its shadow.
    async fn shadow(&self, path: &str, count: usize) -> Vec<Value> {
        let lines = self.log.lines(path, count).await;
        lines.into_iter().map(|line| line["shadow"].clone()).collect()
    }

    async fn counted(&self, rule: &str, problem: &str) -> usize {
        let line = format!("tollgate_shadow_refusals_total{{problem=\"{problem}\",rule=\"{rule}\",site=\"vantage\"}} ");
        self.gate.metric(&line).await.map_or(0, |count| count.to_string().parse().expect("a whole number"))
    }
}

/// What a client can see of an answer, but for what differs from one to the next.
fn seen(answer: &Answer) -> Vec<(String, String)> {
    let told = answer.headers.iter().filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
    let mut told: Vec<_> = told.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect();
    told.push((answer.status.to_string(), answer.text()));
    told.sort();
    told
}

#[tokio::test]
async fn a_route_in_shadow_lets_pass_what_it_would_refuse_and_says_so_to_the_operator_alone() {
    let route = |shadow: &str| {
        let route =
            format!("[[site.route]]\nmatch = \"GET {REPORTS}\"\nplans = [\"pro\"]\nupstream = \"app\"\n{shadow}");
        Setup::default().site(&route)
    };
    let held = World::with(route("")).await;
    assert_eq!(held.get(REPORTS).await.status, 403);
    assert_eq!(held.shadow(REPORTS, 1).await, [Value::Null]);
    let clock = || Arc::new(TestClock::at(SystemClock::new().now().wall));
    let world = World::with(route("shadow = true").clock(clock())).await;
    let plain = World::with(Setup::default().clock(clock())).await;
    let (passed, beside) = (world.get(REPORTS).await, plain.get(REPORTS).await);
    assert_eq!(passed.status, 200, "{}", passed.text());
    let reset = |mut told: Vec<(String, String)>| {
        told.retain(|(name, _)| name != "x-ratelimit-reset");
        told
    };
    assert_eq!(reset(seen(&passed)), reset(seen(&beside)), "no trace of it in the answer");
    let rule = format!("route GET {REPORTS}");
    let told = json!([{ "rule": rule, "window": null, "problem": "plan_required" }]);
    assert_eq!(world.shadow(REPORTS, 1).await, [told]);
    assert_eq!(world.counted(&rule, "plan_required").await, 1);
    // Whom it would let pass is not counted, and nobody passes whom nobody knows.
    assert_eq!(world.gate.client.get(REPORTS).send().await.status, 401);
    let forged = format!("{}x", &world.token[..world.token.len() - 3]);
    assert_eq!(world.gate.client.get(REPORTS).bearer(&forged).send().await.status, 401);
    world.gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "plan": "pro" }))).await;
    assert_eq!(world.get(REPORTS).await.status, 200);
    assert_eq!(world.counted(&rule, "plan_required").await, 1);
    // Neither does a role write that may not write at all.
    world.gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "viewer" }))).await;
    let write =
        "[[site.route]]\nmatch = \"POST /api/v1/reports\"\nroles = [\"admin\"]\nupstream = \"app\"\nshadow = true";
    let world = World::with(Setup::default().site(write)).await;
    let post = || world.gate.client.ask("POST", REPORTS).bearer(&world.token).send();
    world.gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "member" }))).await;
    assert_eq!(post().await.status, 200);
    world.gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "viewer" }))).await;
    assert_eq!(post().await.status, 403, "what a read-only role may is no rule of the route");
}

#[tokio::test]
async fn a_guard_in_shadow_takes_nobodys_place_and_one_that_asks_nothing_tries_the_contracts() {
    let guarded = |guard: &str| Setup::default().site(&format!("[[site.guard]]\n{guard}\n"));
    for (guard, read, told) in [
        // Without shadow it replaces the contract's.
        (format!("{READS}roles = [\"member\"]"), 200, None),
        // In shadow the contract's goes on to hold.
        (format!("{READS}roles = [\"member\"]\nshadow = true"), 403, None),
        // And here it is the contract's that is tried; the wider one for writing does not take its place.
        (format!("{READS}shadow = true"), 200, Some("insufficient_permissions")),
        // A stricter one beside it, for those that it lets pass.
        (format!("{READS}plans = [\"pro\"]\nshadow = true"), 403, None),
    ] {
        let world = World::with(guarded(&guard)).await;
        let (key, _) = world.gate.api_key(&world.token, &["read:posts", "write:posts", "write:users"]).await;
        let ask = |path: &'static str| world.gate.client.get(path).api_key(&key).send();
        assert_eq!(ask("/api/v1/users").await.status, read, "{guard}");
        assert_eq!(ask("/api/v1/posts").await.status, 200, "{guard}");
        if told.is_some() {
            let (reader, _) = world.gate.api_key(&world.token, &["read:posts"]).await;
            assert_eq!(world.gate.client.get("/api/v1/comments").api_key(&reader).send().await.status, 200, "{guard}");
            let write = world.gate.client.ask("POST", "/api/v1/articles").api_key(&reader).send().await;
            assert_eq!(write.status, 403, "what is not in shadow holds");
        }
        let told = told.map(|problem| {
            json!([{ "rule": "guard GET,HEAD /api/v1/{resource}/{*rest}", "window": null, "problem": problem }])
        });
        assert_eq!(world.shadow("/api/v1/users", 1).await, [told.unwrap_or_default()], "{guard}");
        let posts = world.shadow("/api/v1/posts", 1).await;
        assert_eq!(posts[0].is_null(), !guard.contains("plans"), "{guard}: {posts:?}");
        // In any spelling, as guards are.
        if guard.contains("plans") {
            assert_eq!(ask("/API/v1/Posts/").await.status, 404);
            assert_eq!(ask("/api/v1/posts/").await.status, 200);
            assert_ne!(world.shadow("/api/v1/posts/", 1).await, [Value::Null]);
        }
        assert_eq!(world.gate.client.get("/api/v1/posts").send().await.status, 401, "{guard}");
    }
}

#[tokio::test]
async fn a_window_in_shadow_is_counted_as_if_it_held_and_no_header_speaks_of_it() {
    let limits = |limits: &str| Setup::default().site(&format!("[site.plan.free]\nlimits = [{limits}]"));
    let mut refused = Vec::new();
    for (text, shadow) in [("\"100/1h\", \"2/1m\"", false), ("\"100/1h\", \"2/1m shadow\"", true)] {
        let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
        let world = World::with(limits(text).clock(clock.clone())).await;
        let mut due = Vec::new();
        for at in 0..12_u32 {
            let answer = world.get(REPORTS).await;
            if shadow {
                assert_eq!(answer.status, 200);
                let left = (99 - at).to_string();
                assert_eq!(answer.header("x-ratelimit-limit"), Some("100"));
                assert_eq!(answer.header("x-ratelimit-remaining"), Some(&*left), "the hour is charged for every one");
                assert_eq!(answer.header("retry-after"), None);
            }
            due.push(answer.status == 429);
            clock.advance(Duration::from_secs(13));
        }
        if shadow {
            let lines = world.shadow(REPORTS, 12).await;
            let told = json!([{ "rule": "limit organization", "window": "2/1m", "problem": "rate_limit_exceeded" }]);
            assert!(lines.iter().all(|line| line.is_null() || *line == told), "{lines:?}");
            due = lines.iter().map(|line| !line.is_null()).collect();
            let count = due.iter().filter(|due| **due).count();
            assert_eq!(world.counted("limit organization", "rate_limit_exceeded").await, count);
            let decided = async |outcome: &str| {
                let line = format!("tollgate_limit_decisions_total{{outcome=\"{outcome}\",subject=\"organization\"}} ");
                world.gate.metric(&line).await
            };
            assert_eq!((decided("admitted").await, decided("refused").await), (Some(12.0), Some(0.0)));
        }
        refused.push(due);
    }
    assert_eq!(refused[0], refused[1], "the very requests that would have been refused");
    assert!(refused[0].iter().filter(|refused| **refused).count() > 3);
}

#[tokio::test]
async fn every_kind_of_window_can_be_tried_and_a_set_of_them_alone_has_no_headers() {
    let site = "[site.limits]\nper_key = [\"1/1m shadow\"]\nper_address = [\"2/1m shadow\"]\nnative_per_address = [\"1/1m shadow\"]\n\
                [site.plan.free]\nlimits = [\"1/1m shadow\"]\n\
                [[site.route]]\nmatch = \"GET /api/v1/reports\"\nupstream = \"app\"\nlimits = [\"1/1m shadow\"]\n";
    let world = World::with(Setup::default().site(site)).await;
    // Registered and signed in: one more than the address would have been allowed.
    assert_eq!(world.counted("limit address", "rate_limit_exceeded").await, 1);
    let (key, _) = world.gate.api_key(&world.token, &["read:*"]).await;
    for _ in 0..2 {
        let answer = world.gate.client.get(REPORTS).api_key(&key).send().await;
        assert_eq!(answer.status, 200);
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("x-ratelimit")), "{:?}", answer.headers);
    }
    let lines = world.shadow(REPORTS, 2).await;
    // Making the key has spent the organization's one: both are refused by it, and spend nothing of the others.
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[0][0]["rule"], "limit organization", "{lines:?}");
    world.gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "limits": ["100/1m"] }))).await;
    for _ in 0..3 {
        let answer = world.gate.client.get(REPORTS).api_key(&key).send().await;
        assert_eq!(answer.header("x-ratelimit-limit"), Some("100"), "its own hold");
    }
    let lines = world.shadow(REPORTS, 5).await;
    let rules = |line: &Value| -> Vec<String> {
        let all = line.as_array().map_or(&[][..], Vec::as_slice);
        all.iter().map(|told| told["rule"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert!(lines[2].is_null(), "{lines:?}");
    assert_eq!(rules(&lines[3]), ["limit key", "limit route GET /api/v1/reports"]);
    assert_eq!(rules(&lines[4]), rules(&lines[3]), "the address had one left, and it was not spent");
    // The operator's own for one organization, too.
    world.gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "limits": ["1/1h shadow"] }))).await;
    assert_eq!(world.get("/api/v1/posts").await.status, 200);
    assert_eq!(world.get("/api/v1/posts").await.status, 200);
    assert_eq!(world.shadow("/api/v1/posts", 2).await.iter().filter(|line| line.is_null()).count(), 1);
}

#[tokio::test]
async fn what_a_rule_in_shadow_would_have_refused_spends_no_window_in_shadow() {
    let site = format!(
        "[site.plan.free]\nlimits = [\"1/1h shadow\", \"50/1h\"]\n\
         [[site.guard]]\nmatch = \"GET {REPORTS}\"\nroles = [\"admin\"]\nshadow = true\n"
    );
    let world = World::with(Setup::default().site(&site)).await;
    world.gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "member" }))).await;
    for _ in 0..3 {
        assert_eq!(world.get(REPORTS).await.status, 200);
    }
    assert!(world.shadow(REPORTS, 3).await.iter().all(|line| line[0]["problem"] == "insufficient_permissions"));
    let answer = world.get("/api/v1/posts").await;
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("46"), "what holds is charged for all four");
    assert_eq!(world.shadow("/api/v1/posts", 1).await, [Value::Null], "the one is still there");
}

#[tokio::test]
async fn explain_shows_what_is_tried_and_spends_nothing_of_it() {
    let site = format!(
        "[site.plan.free]\nlimits = [\"100/1h\", \"1/1m shadow\"]\n\
         [[site.guard]]\nmatch = \"GET {REPORTS}\"\nplans = [\"pro\"]\nshadow = true\n"
    );
    let world = World::with(Setup::default().site(&site)).await;
    let explained = async |path: &str| {
        let headers = json!([["host", "localhost"], ["authorization", format!("Bearer {}", world.token)]]);
        let asked = json!({ "method": "GET", "target": path, "headers": headers, "client": "127.0.0.1" });
        let answer = world.gate.admin.post("/v1/explain", &asked).bearer(ADMIN_TOKEN).send().await;
        answer.json()
    };
    for _ in 0..2 {
        let told = explained(REPORTS).await;
        assert_eq!((&told["passes"], &told["decision"]), (&json!(true), &json!("forward")), "{told:#}");
        let rule = format!("guard GET,HEAD {REPORTS}");
        let by = json!([{ "rule": rule, "lacks": "plan", "asks": ["pro"], "has": "free", "problem": "plan_required" }]);
        assert_eq!(told["shadow"], by, "{told:#}");
        let rules = told["rules"].as_array().expect("rules");
        assert_eq!(rules.iter().filter(|rule| rule["shadow"] == true).count(), 1, "{told:#}");
        let tried = told["windows"].as_array().expect("windows").iter().find(|window| window["shadow"] == true);
        assert_eq!(tried.map(|window| (&window["window"], &window["remaining"])), Some((&json!("1/1m"), &json!(1))));
    }
    assert_eq!(world.get("/api/v1/posts").await.status, 200);
    let told = explained("/api/v1/posts").await;
    let by = json!([{ "rule": "limit organization", "window": "1/1m", "problem": "rate_limit_exceeded" }]);
    assert_eq!((&told["shadow"], &told["passes"]), (&by, &json!(true)), "{told:#}");
    let rule = format!("guard GET,HEAD {REPORTS}");
    assert_eq!(world.counted(&rule, "plan_required").await, 0, "an imagined request is not counted");
}

#[tokio::test]
async fn a_reload_turns_a_trial_into_a_rule_and_back() {
    let backend = Backend::start().await;
    let site = format!("[[site.guard]]\nmatch = \"GET {REPORTS}\"\nplans = [\"pro\"]\nshadow = true\n");
    let top = "[reload]\nevery = \"100ms\"";
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top, site: &site });
    let served = home.start().await;
    let account = json!({ "email": "ada@example.com", "password": "correct horse battery", "name": "Ada" });
    served.http.post("/api/v1/auth/register", &account).send().await;
    let token = served.http.post("/api/v1/auth/login", &account).send().await.string("/access_token");
    let file = home.folder.path().join("gateway.toml");
    for (status, before, after) in
        [(200, "shadow = true", "shadow = false"), (403, "shadow = false", "shadow = true"), (200, "shadow = true", "")]
    {
        let mut seen = 0;
        for _ in 0..400 {
            seen = served.http.get(REPORTS).bearer(&token).send().await.status.as_u16();
            if seen == status {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        assert_eq!(seen, status, "before {before} becomes {after}");
        let text = std::fs::read_to_string(&file).expect("the file");
        let draft = home.folder.path().join("draft");
        std::fs::write(&draft, text.replacen(before, after, 1)).expect("a draft");
        std::fs::rename(draft, &file).expect("a new file in its place");
    }
    served.process.stop().await.good();
}

#[tokio::test]
async fn a_trial_that_cannot_be_counted_refuses_nobody() {
    // Nobody is there, and what cannot be counted is to be refused.
    let top = "[limits]\nredis_url = \"redis://127.0.0.1:1/\"\non_failure = \"deny\"\n";
    let site = |limit: &str| {
        format!(
            "[site.plan.free]\nlimits = [\"{limit}\"]\n[site.limits]\nnative_per_address = []\nfailed_sign_ins = []\n"
        )
    };
    let world = World::with(Setup::default().top(top).site(&site("5/1h shadow"))).await;
    assert_eq!(world.get(REPORTS).await.status, 200);
    assert_eq!(world.shadow(REPORTS, 1).await, [Value::Null]);
    let held = World::with(Setup::default().top(top).site(&site("5/1h"))).await;
    assert_eq!(held.get(REPORTS).await.status, 503);
}

//! From outside nobody learns who has an account, reads another's things, or raises themselves.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, Executor};

use super::client::{Answer, Client};
use super::harness::{Gate, Setup};
use super::wire::now;

const PASSWORD: &str = "Secure_passw0rd";

/// What a client can compare: everything but what differs from request to request by nature.
fn seen(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let own = ["date", "x-request-id"];
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !own.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned()))
        .collect();
    headers.sort();
    (answer.status.as_u16(), headers, answer.text())
}

async fn hashes(gate: &Gate) -> f64 {
    gate.metric("tollgate_password_hash_duration_seconds_count").await.expect("the histogram")
}

#[tokio::test]
async fn a_sign_in_that_fails_looks_and_costs_the_same_whoever_it_names() {
    for (product, register, login, body) in [
        (
            "vantage",
            "/api/v1/auth/register",
            "/api/v1/auth/login",
            json!({ "email": "ann@example.com", "name": "Ann" }),
        ),
        (
            "rag-modulo",
            "/api/auth/register",
            "/api/auth/login",
            json!({ "username": "ann", "email": "ann@example.com" }),
        ),
        (
            "stackaudit",
            "/v1/auth/signup",
            "/v1/auth/login",
            json!({ "email": "ann@example.com", "name": "A", "organizationName": "A" }),
        ),
        (
            "chatops",
            "/api/v1/auth/register",
            "/api/v1/auth/login",
            json!({ "username": "ann", "email": "ann@example.com", "full_name": "Ann" }),
        ),
        (
            "langgraph",
            "/v1/auth/register",
            "/v1/auth/login",
            json!({ "email": "ann@example.com", "name": "Ann", "organization": "Ann" }),
        ),
    ] {
        let setup = if product == "vantage" { Setup::default() } else { Setup::default().product(product) };
        let gate = setup.start().await.expect("SQLite is always there");
        let mut account = body.clone();
        account["password"] = json!(PASSWORD);
        account["password_confirm"] = json!(PASSWORD);
        let made = gate.client.post(register, &account).send().await;
        assert_eq!(made.status, 201, "{product}: {}", made.text());
        let name = if body.get("username").is_some() { "username" } else { "email" };
        let known = body[name].as_str().expect("a name").to_owned();
        let attempt = async |who: &str, password: &str| {
            let before = hashes(&gate).await;
            let answer = gate.client.post(login, &json!({ name: who, "password": password })).send().await;
            (seen(&answer), hashes(&gate).await - before)
        };
        let wrong = attempt(&known, "wrong-passw0rd").await;
        assert_eq!(wrong.0.0, 401, "{product}");
        for stranger in ["nobody@example.com", "nobody", "ann@example.org", "", "a b", "\u{202e}ann"] {
            let unknown = attempt(stranger, "wrong-passw0rd").await;
            // Nothing at all is a body that is not right, and tells nothing.
            if !stranger.is_empty() {
                assert_eq!(unknown, wrong, "{product}: {stranger:?}");
            }
        }
        // One password hash each, whoever it was: that is where the time goes.
        assert!((wrong.1 - 1.0).abs() < 0.01, "{product}: {}", wrong.1);
    }
}

#[tokio::test]
async fn a_lockout_looks_the_same_for_nobody_as_for_somebody_and_ends_with_the_window() {
    let gate = Setup::default().site("[site.limits]\nfailed_sign_ins = [\"2/15m\"]\n").start().await.expect("SQLite");
    gate.signed_in("ann@example.com").await;
    let attempt = async |who: &str| {
        let body = json!({ "email": who, "password": "wrong-passw0rd" });
        gate.client.post("/api/v1/auth/login", &body).send().await
    };
    for (known, unknown) in [("ann@example.com", "nobody@example.com"), ("ANN@example.com", "NOBODY@example.com")] {
        assert_eq!(seen(&attempt(known).await), seen(&attempt(unknown).await));
    }
    let (known, unknown) = (attempt("ann@example.com").await, attempt("nobody@example.com").await);
    assert_eq!((known.status.as_u16(), unknown.status.as_u16()), (429, 429));
    assert_eq!(known.body, unknown.body);
    assert!(known.header("retry-after").is_some() && unknown.header("retry-after").is_some());
    // The right password does not open what guessing has closed, and a guess more does not lengthen it.
    let right = json!({ "email": "ann@example.com", "password": "correct horse battery" });
    assert_eq!(gate.client.post("/api/v1/auth/login", &right).send().await.status, 429);
}

#[tokio::test]
async fn asking_for_a_mail_tells_nothing() {
    let gate = Setup::default().product("langgraph").start().await.expect("SQLite is always there");
    let account = json!({ "email": "ann@example.com", "password": PASSWORD, "name": "Ann", "organization": "Ann" });
    assert_eq!(gate.client.post("/v1/auth/register", &account).send().await.status, 201);
    for path in ["/v1/auth/password/reset-request", "/v1/auth/email/resend-verification"] {
        // As often as may be, and once more.
        for _ in 0..6 {
            let ask = async |email: &str| seen(&gate.client.post(path, &json!({ "email": email })).send().await);
            let (known, unknown) = (ask("ann@example.com").await, ask("nobody@example.com").await);
            assert_eq!((known.0, &known.2), (unknown.0, &unknown.2), "{path}");
            let names = |headers: &[(String, String)]| headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&known.1), names(&unknown.1), "{path}");
        }
    }
}

#[tokio::test]
async fn asking_for_a_mail_takes_as_long_for_nobody_as_for_somebody() {
    const PEOPLE: usize = 12;
    let gate = Setup::default().product("langgraph").start().await.expect("SQLite is always there");
    for at in 0..PEOPLE {
        let account =
            json!({ "email": format!("p{at}@example.com"), "password": PASSWORD, "name": "P", "organization": "P" });
        assert_eq!(gate.client.post("/v1/auth/register", &account).send().await.status, 201);
    }
    for path in ["/v1/auth/password/reset-request", "/v1/auth/email/resend-verification"] {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for at in 0..PEOPLE {
            for (host, took) in [("example.com", &mut known), ("example.org", &mut unknown)] {
                let body = json!({ "email": format!("p{at}@{host}") });
                let began = now();
                assert_eq!(gate.client.post(path, &body).send().await.status, 200);
                took.push(began.elapsed());
            }
        }
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[PEOPLE / 2]
        };
        let (known, unknown) = (median(&mut known), median(&mut unknown));
        assert!(known.abs_diff(unknown) < Duration::from_millis(60), "{path}: {known:?}, {unknown:?}");
        assert!(known.min(unknown) >= Duration::from_millis(150), "{path}: {known:?}, {unknown:?}");
    }
}

#[tokio::test]
async fn an_answer_to_who_asks_for_a_mail_does_not_wait_for_it() {
    let gate = Setup::default().product("langgraph").start().await.expect("SQLite is always there");
    let account = json!({ "email": "ann@example.com", "password": PASSWORD, "name": "Ann", "organization": "Ann" });
    assert_eq!(gate.client.post("/v1/auth/register", &account).send().await.status, 201);
    let outbox = gate.directory.path().join("outbox");
    let mails = || std::fs::read_dir(&outbox).map_or(0, Iterator::count);
    let until = async |wanted| {
        let began = now();
        while mails() != wanted {
            assert!(began.elapsed() < Duration::from_secs(20), "{} mails, not {wanted}", mails());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(1).await;
    // Nobody can write for a while: whoever is there would wait for that, and nobody else.
    let url = format!("sqlite://{}/store/tollgate.db", gate.directory.path().display());
    let mut store = sqlx::SqliteConnection::connect(&url).await.expect("the store");
    store.execute("BEGIN IMMEDIATE").await.expect("nobody else writes");
    let ask = async |path: &str, email: &str| {
        let began = now();
        let answer = gate.client.post(path, &json!({ "email": email })).send().await;
        assert_eq!(answer.status, 200, "{path} {email}: {}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(2), "{path} {email}: {:?}", began.elapsed());
    };
    let (reset, resend) = ("/v1/auth/password/reset-request", "/v1/auth/email/resend-verification");
    let (ann, nobody) = ("ann@example.com", "nobody@example.com");
    tokio::join!(ask(reset, ann), ask(reset, nobody), ask(resend, ann), ask(resend, nobody));
    assert_eq!(mails(), 1, "they wait");
    store.execute("ROLLBACK").await.expect("it was open");
    store.close().await.expect("a clean goodbye");
    until(3).await;
}

struct Person {
    client: Client,
    token: String,
}

impl Person {
    async fn of(gate: &Gate, email: &str) -> Self {
        let account = json!({ "email": email, "password": PASSWORD, "name": "P", "organization": "P" });
        assert_eq!(gate.client.post("/v1/auth/register", &account).send().await.status, 201);
        let signed_in = gate.client.post("/v1/auth/login", &account).send().await;
        Self { client: gate.client.clone(), token: signed_in.string("/access_token") }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let ask = self.client.ask(method, path).bearer(&self.token);
        if body.is_null() { ask.send().await } else { ask.json(&body).send().await }
    }
}

#[tokio::test]
async fn anothers_sessions_and_keys_are_not_there() {
    let gate = Setup::default().product("langgraph").start().await.expect("SQLite is always there");
    let (ann, eve) = (Person::of(&gate, "ann@example.com").await, Person::of(&gate, "eve@example.com").await);
    let session = ann.ask("GET", "/v1/auth/sessions", Value::Null).await.string("/sessions/0/id");
    let key = ann.ask("POST", "/v1/auth/api-keys", json!({ "name": "ci" })).await;
    let (key_id, key) = (key.string("/id"), key.string("/key"));
    for path in [format!("/v1/auth/sessions/{session}"), format!("/v1/auth/api-keys/{key_id}")] {
        let others = eve.ask("DELETE", &path, Value::Null).await;
        let nobodys = eve.ask("DELETE", &format!("{}0", &path[..path.len() - 1]), Value::Null).await;
        assert_eq!((others.status.as_u16(), &others.body), (404, &nobodys.body), "{path}");
    }
    let listed = eve.ask("GET", "/v1/auth/api-keys", Value::Null).await;
    assert_eq!(listed.json()["api_keys"], json!([]));
    assert_eq!(eve.ask("DELETE", "/v1/auth/sessions", Value::Null).await.status, 200);
    assert_eq!(ann.ask("GET", "/v1/auth/profile", Value::Null).await.status, 200);
    assert_eq!(gate.client.get("/v1/auth/profile").bearer(&key).send().await.status, 200);
    assert_eq!(ann.ask("DELETE", &format!("/v1/auth/sessions/{session}"), Value::Null).await.status, 200);
    assert_eq!(ann.ask("GET", "/v1/auth/profile", Value::Null).await.status, 401);
}

#[tokio::test]
async fn no_body_raises_its_sender() {
    let privileges = json!({
        "id": "user_0", "user_id": "user_0", "role": "owner", "roles": ["owner"], "plan": "enterprise", "org_id": "org_0",
        "organization_id": "org_0", "organizationId": "org_0", "email_verified": true, "emailVerified": true, "verified": true,
        "disabled": false, "limits": [], "is_admin": true, "permissions": ["*"], "created_at": "2020-01-01T00:00:00.000Z",
    });
    let with = |own: Value| {
        let mut body = privileges.clone();
        body.as_object_mut().expect("an object").extend(own.as_object().expect("an object").clone());
        body
    };
    let gate = Setup::default().product("langgraph").start().await.expect("SQLite is always there");
    let account =
        with(json!({ "email": "eve@example.com", "password": PASSWORD, "name": "Eve", "organization": "Eve" }));
    let made = gate.client.post("/v1/auth/register", &account).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    let token = gate.client.post("/v1/auth/login", &account).send().await.string("/access_token");
    let update = gate.client.ask("PUT", "/v1/auth/profile").json(&with(json!({ "name": "Eve II" }))).bearer(&token);
    assert_eq!(update.send().await.status, 200);
    let profile = gate.client.get("/v1/auth/profile").bearer(&token).send().await.json();
    assert_ne!(profile["id"], "user_0");
    assert_eq!(
        (&profile["name"], &profile["subscription_plan"], &profile["email_verified"]),
        (&json!("Eve II"), &json!("free"), &json!(false))
    );
    assert_ne!(profile["created_at"], "2020-01-01T00:00:00.000Z");

    let gate = Setup::default().product("stackaudit").start().await.expect("SQLite is always there");
    let account =
        with(json!({ "email": "eve@example.com", "password": PASSWORD, "name": "Eve", "organizationName": "Eve" }));
    let user = gate.client.post("/v1/auth/signup", &account).send().await.json()["user"].clone();
    assert_eq!((&user["role"], &user["plan"]), (&json!("admin"), &json!("free")));
    assert!(user["id"] != "user_0" && user["organizationId"] != "org_0");
}

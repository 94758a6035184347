//! The rim: hosts, paths, methods, protocols, backends that fail, stores that are gone.

use std::time::Duration;

use serde_json::json;

use super::harness::{Gate, Setup};

#[tokio::test]
async fn http1_and_http2_are_served_alike() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let over1 = gate.client.get("/api/v1/posts").bearer(&token).send().await;
    let over2 = gate.client.get("/api/v1/posts").bearer(&token).send_http2().await;
    assert_eq!((over1.status, over2.status), (http::StatusCode::OK, http::StatusCode::OK));
    assert_eq!(gate.backend.last().one("x-user-email"), Some("ada@example.com"));
    let refused = gate.client.get("/api/v1/posts").send_http2().await;
    assert_eq!(refused.text(), r#"{"detail":"Not authenticated","error":"not_authenticated"}"#);
}

#[tokio::test]
async fn an_unknown_host_is_served_nothing() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let elsewhere = gate.client.get("/api/v1/posts").bearer(&token).header("host", "evil.example").send().await;
    assert!([400, 421].contains(&elsewhere.status.as_u16()), "two Host headers: {}", elsewhere.status);
    let other = gate.client.at_host("127.0.0.1").get("/api/v1/posts").bearer(&token).send().await;
    assert_eq!(other.status, 200, "a host of the same site");
}

#[tokio::test]
async fn ambiguous_paths_are_refused_and_nothing_reaches_the_backend() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    for path in [
        "/api/v1/posts/../users",
        "/api/v1/posts/%2e%2e/users",
        "/api/v1/%2E%2E/users",
        "/api/v1/posts%2fall",
        "/api/v1//posts",
        "/api/v1/./posts",
        "/api/v1/posts%5call",
        "/api/v1/posts%00",
        "/api/v1/posts;x=1",
        "/api/v1/posts%252e",
        "/api/v1/posts%",
        "/api/v1/posts%c0%ae",
        "/api/v1/po\\sts",
        "/api/v1/posts%0a",
    ] {
        let answer = gate.client.get(path).bearer(&token).send().await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
    assert_eq!(gate.backend.count(), 0);
    let answer = gate.client.get("/api/v1/%70osts/a%20b").bearer(&token).send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(gate.backend.last().path, "/api/v1/posts/a%20b", "the canonical spelling is what is forwarded");
}

#[tokio::test]
async fn nothing_below_a_native_prefix_is_forwarded() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    for (method, path, statuses) in [
        ("GET", "/api/v1/auth/login", &[405][..]),
        ("PUT", "/api/v1/api-keys", &[405]),
        ("GET", "/api/v1/auth/unknown", &[404]),
        ("GET", "/API/V1/Auth/login", &[404]),
        ("POST", "/api/v1/auth/login/", &[404]),
        ("GET", "/api/v1/api-keys/x/y/z", &[404]),
        ("POST", "/api/v1/API-KEYS", &[404]),
    ] {
        let answer = gate.client.ask(method, path).bearer(&token).send().await;
        assert!(statuses.contains(&answer.status.as_u16()), "{method} {path}: {} {}", answer.status, answer.text());
        assert!(answer.json().get("error").is_some(), "in the product's words");
    }
    assert_eq!(gate.backend.count(), 0);
}

#[tokio::test]
async fn what_is_not_json_or_too_long_is_told_so() {
    let gate = Gate::start().await;
    let ask = |body: &str| {
        gate.client.ask("POST", "/api/v1/auth/login").header("content-type", "application/json").body(body.to_owned())
    };
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        r#"{"email":1,"password":"x"}"#,
        r#"{"email":"a@b.c"}"#,
        r#"{"email":"a","email":"b","password":"c"}"#,
    ] {
        let answer = ask(bad).send().await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
        assert_eq!(answer.string("/error"), "invalid_request");
    }
    let deep = format!("{{\"email\":{}1{}}}", "[".repeat(2000), "]".repeat(2000));
    assert_eq!(ask(&deep).send().await.status, 400);
    assert_eq!(ask(&format!("{{\"email\":\"{}\"}}", "x".repeat(200_000))).send().await.status, 413);
    let form =
        gate.client.ask("POST", "/api/v1/auth/login").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(form.body("email=a&password=b").send().await.status, 415);
    let long = json!({ "email": "a@example.com", "password": "x".repeat(1025) });
    assert_eq!(gate.client.post("/api/v1/auth/login", &long).send().await.status, 400);
}

#[tokio::test]
async fn bodies_are_streamed_both_ways_whole() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let answer = gate.client.ask("POST", "/api/v1/posts").bearer(&token).body(body.clone()).send().await;
    assert_eq!(answer.status, 200);
    assert!(gate.backend.last().body == body, "the backend got another body");
}

#[tokio::test]
async fn a_backend_that_is_gone_is_a_502_in_the_products_words() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    gate.backend.stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answer = gate.client.get("/api/v1/posts").bearer(&token).send().await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.json().get("detail").is_some() && answer.header("x-ratelimit-limit").is_some());
}

#[tokio::test]
async fn plans_and_roles_guard_routes() {
    let routes = r#"
[[site.route]]
match = "GET /api/v1/reports/{*rest}"
plans = ["growth", "pro"]
upstream = "app"
[[site.route]]
match = "* /api/v1/team/{*rest}"
roles = ["admin"]
upstream = "app"
[[site.route]]
match = "* /api/v1/{*rest}"
upstream = "app"
"#;
    let gate = Setup::default().routes(routes).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let get = |path: &'static str| gate.client.get(path).bearer(&token).send();
    assert_eq!(get("/api/v1/reports/1").await.status, 403);
    assert!(get("/api/v1/reports/1").await.text().contains("Growth or Pro"));
    assert_eq!(get("/api/v1/team/1").await.status, 200);
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "plan": "growth" }))).await;
    assert_eq!(get("/api/v1/reports/1").await.status, 200);
    gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "member" }))).await;
    assert_eq!(get("/api/v1/team/1").await.status, 403);
    assert_eq!(get("/api/v1/posts").await.status, 200);
}

#[tokio::test]
async fn a_drained_gateway_has_answered_everything_it_took() {
    let mut gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    gate.drain().await;
    let gone = tokio::net::TcpStream::connect(gate.client.address).await;
    assert!(gone.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_head_request_is_told_the_length_of_what_a_get_would_get_and_no_byte_of_it() {
    let gate = Gate::start().await;
    // A refusal and an answer of the gateway's own, and a backend's.
    for path in ["/api/v1/posts", "/nowhere", "/.well-known/jwks.json"] {
        let whole = gate.client.get(path).send().await;
        for head in [gate.client.ask("HEAD", path).send().await, gate.client.ask("HEAD", path).send_http2().await] {
            assert_eq!((head.status, head.body.len()), (whole.status, 0), "{path}");
            assert_eq!(head.header("content-length"), Some(&*whole.body.len().to_string()), "{path}");
            assert_eq!(head.header("content-type"), whole.header("content-type"), "{path}");
        }
    }
}

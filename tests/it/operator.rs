//! The operator's doors: the admin listener and the command line.

use serde_json::json;

use super::harness::{ADMIN_TOKEN, Gate};

#[tokio::test]
async fn the_admin_api_wants_its_token_and_tells_what_there_is() {
    let gate = Gate::start().await;
    gate.signed_in("ada@example.com").await;
    for ask in [
        gate.admin.get("/v1/sites"),
        gate.admin.get("/v1/sites").bearer("wrong"),
        gate.admin.get("/v1/sites").header("authorization", "Basic eDp5"),
    ] {
        assert_eq!(ask.send().await.status, 401);
    }
    let users = gate.operate("GET", "/users?search=ada", None).await;
    assert_eq!(users.status, 200, "{}", users.text());
    assert_eq!(users.string("/users/0/email"), "ada@example.com");
    let id = users.string("/users/0/id");
    assert_eq!(gate.operate("GET", &format!("/users/{id}"), None).await.json(), users.json()["users"][0]);
    for (method, path, body, status) in [
        ("GET", "/users/nobody@example.com", None, 404),
        ("PATCH", "/users/ada@example.com", Some(json!({ "role": "emperor" })), 400),
        ("PATCH", "/users/ada@example.com", Some(json!({ "rolle": "viewer" })), 400),
        ("PATCH", "/users/ada@example.com", Some(json!({})), 400),
        ("PATCH", "/orgs/ada@example.com", Some(json!({ "plan": "platinum" })), 400),
        ("PATCH", "/orgs/ada@example.com", Some(json!({ "limits": ["lots"] })), 400),
        ("DELETE", "/users/ada@example.com", None, 405),
        ("GET", "/nothing", None, 404),
        ("GET", "/users?limit=0", None, 400),
    ] {
        let answer = gate.operate(method, path, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.text());
        assert!(!answer.string("/error").is_empty());
    }
}

#[tokio::test]
async fn a_disabled_organization_passes_neither_by_token_nor_by_key() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let (key, id) = gate.api_key(&token, &["read:posts"]).await;
    let by_key = || gate.client.get("/api/v1/posts").api_key(&key).send();
    let by_token = || gate.client.get("/api/v1/posts").bearer(&token).send();
    assert_eq!((by_key().await.status.as_u16(), by_token().await.status.as_u16()), (200, 200));
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "disabled": true }))).await;
    assert_eq!((by_key().await.status.as_u16(), by_token().await.status.as_u16()), (401, 401));
    let body = json!({ "email": "ada@example.com", "password": "correct horse battery" });
    assert_eq!(gate.client.post("/api/v1/auth/login", &body).send().await.status, 401);
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "disabled": false }))).await;
    assert_eq!((by_key().await.status.as_u16(), by_token().await.status.as_u16()), (200, 200));
    let revoked = gate.operate("DELETE", &format!("/orgs/ada@example.com/keys/{id}"), None).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    assert_eq!(by_key().await.status, 401);
}

#[tokio::test]
async fn health_readiness_and_metrics_are_on_the_admin_listener_alone() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    gate.client.get("/api/v1/posts").bearer(&token).send().await;
    gate.client.get("/api/v1/posts").send().await;
    assert_eq!(gate.admin.get("/healthz").send().await.status, 200);
    assert_eq!(gate.admin.get("/readyz").send().await.status, 200);
    let metrics = gate.admin.get("/metrics").send().await.text();
    for line in [
        "tollgate_requests_total{method=\"GET\",site=\"vantage\",status=\"2xx\"} 1",
        "tollgate_decisions_total{outcome=\"not_authenticated\",site=\"vantage\"} 1",
        "tollgate_decisions_total{outcome=\"forwarded\",site=\"vantage\"} 1",
        "tollgate_build_info{version=",
        "tollgate_config_last_reload_successful 1",
    ] {
        assert!(metrics.contains(line), "no {line} in:\n{metrics}");
    }
    for path in ["/metrics", "/healthz", "/readyz", "/v1/sites"] {
        assert_eq!(gate.client.get(path).send().await.status, 404, "{path} is not on the data port");
        let by_probe = gate.client.get("/api/v1/posts").header("user-agent", "kube-probe/1.30").send().await;
        assert_eq!(by_probe.status, 401);
    }
}

#[tokio::test]
async fn whoever_asks_the_admin_listener_for_something_else_is_told_what_there_is() {
    let gate = Gate::start().await;
    let lost = gate.admin.get("/").send().await;
    assert_eq!(lost.status, 404);
    let there: Vec<String> =
        lost.text().split([' ', ',', '\n']).filter(|word| word.starts_with('/')).map(str::to_owned).collect();
    assert!(there.iter().any(|path| path == "/v1/explain") && there.len() > 6, "{there:?}");
    for path in there {
        assert_ne!(gate.admin.get(&path).bearer(ADMIN_TOKEN).send().await.status, 404, "{path}");
    }
}

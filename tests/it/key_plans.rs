//! Keys that are a feature of a plan: made on it, and counting only while the organization is on it.

use serde_json::json;

use super::backend::Backend;
use super::harness::{ADMIN_TOKEN, Setup};

#[tokio::test]
async fn a_key_counts_only_on_a_plan_that_has_keys() {
    let backend = Backend::start().await;
    let second = STACKAUDIT.replace("BACKEND", &backend.url());
    let gate = Setup::default().top(&second).start().await.expect("SQLite is always there");
    let client = gate.client.at_host("api.stackaudit.test");
    let body = json!({ "email": "ada@example.com", "password": "correct horse battery", "name": "Ada" });
    let made = client.post("/v1/auth/signup", &body).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    let (token, org) = (made.string("/token"), made.string("/user/organizationId"));
    let on = async |plan: &str| {
        let path = format!("/v1/sites/stackaudit/orgs/{org}");
        let answer = gate.admin.ask("PATCH", &path).bearer(ADMIN_TOKEN).json(&json!({ "plan": plan })).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let wanted = client.post("/v1/organizations/api-keys", &json!({ "name": "Production API" }));
    let refused = wanted.bearer(&token).send().await;
    let told = r#"{"error":{"code":"FORBIDDEN","message":"This feature requires Enterprise plan"}}"#;
    assert_eq!((refused.status.as_u16(), refused.text().as_str()), (403, told));
    on("enterprise").await;
    let wanted = client.post("/v1/organizations/api-keys", &json!({ "name": "Production API" }));
    let made = wanted.bearer(&token).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    let (key, id) = (made.string("/apiKey/key"), made.string("/apiKey/id"));
    assert!(key.starts_with("sk_live_"));
    assert_eq!(client.get("/v1/audits").bearer(&key).send().await.status, 200);
    assert_eq!(client.get("/v1/audits").api_key(&key).send().await.status, 200);
    // A key of one product is nothing to another.
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&key).send().await.status, 401);
    on("pro").await;
    let refused = client.get("/v1/audits").bearer(&key).send().await;
    assert_eq!((refused.status.as_u16(), refused.text().as_str()), (403, told));
    assert_eq!(client.get("/v1/audits").bearer(&token).send().await.status, 200);
    on("enterprise").await;
    assert_eq!(client.get("/v1/audits").bearer(&key).send().await.status, 200);
    // One that leaked is revoked on any plan, and does not come back with the plan.
    on("free").await;
    assert_eq!(client.get("/v1/organizations/api-keys").bearer(&token).send().await.status, 403);
    let path = format!("/v1/organizations/api-keys/{id}");
    assert_eq!(client.ask("DELETE", &path).bearer(&key).send().await.status, 403, "not by the key itself");
    let revoked = client.ask("DELETE", &path).bearer(&token).send().await;
    assert_eq!((revoked.status.as_u16(), revoked.text().as_str()), (200, r#"{"message":"API key revoked"}"#));
    on("enterprise").await;
    assert_eq!(client.get("/v1/audits").bearer(&key).send().await.status, 401);
}

/// A second product beside the first.
const STACKAUDIT: &str = r#"
[[site]]
contract = "stackaudit"
hosts = ["api.stackaudit.test"]
[site.tokens]
keys = [{ kid = "s", algorithm = "HS256", secret = "c3RhY2thdWRpdC10b2tlbnMtZm9yLXRlc3RzLW9ubHk3" }]
[site.api_keys]
pepper = "c3RhY2thdWRpdC1wZXBwZXItZm9yLXRlc3RzLW9ubHk5"
[site.upstream.app]
servers = ["BACKEND"]
[[site.route]]
match = "* /v1/{*rest}"
"#;

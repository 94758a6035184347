//! A sixth product is a file: the one that `docs/contracts.md` shows, letter for letter.

use serde_json::json;

use super::harness::{ADMIN_TOKEN, Setup};

const PAGE: &str = include_str!("../../docs/contracts.md");

/// The page's first block of TOML.
fn contract() -> &'static str {
    let (_, rest) = PAGE.split_once("```toml\n").expect("the page shows a contract");
    rest.split_once("```").expect("the block ends").0
}

#[tokio::test]
async fn a_product_is_added_by_a_file_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("orchard.toml");
    std::fs::write(&file, contract()).expect("the contract");
    let name: &'static str = file.display().to_string().leak();
    let routes = "[[site.route]]\nmatch = \"* /{*rest}\"\n";
    let gate = Setup::default().product(name).routes(routes).start().await.expect("SQLite is always there");
    let client = &gate.client;

    let account =
        json!({ "mail": "ann@example.com", "secret": "4pples-and-pears", "calledBy": "Ann", "orchard": "Ann's" });
    let weak = json!({ "mail": "ann@example.com", "secret": "apples-and-pears" });
    let refused = client.post("/id/growers", &weak).send().await;
    assert_eq!(
        (refused.status.as_u16(), refused.string("/oops/kind")),
        (400, "invalid_request".into()),
        "{}",
        refused.text()
    );
    let made = client.post("/id/growers", &account).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(made.string("/grower/id").starts_with("g-") && made.string("/orchard").starts_with("orchard-"));

    let wrong = client.post("/id/sessions", &json!({ "mail": "ann@example.com", "secret": "wrong" })).send().await;
    assert_eq!(wrong.status, 401);
    assert_eq!(wrong.text(), r#"{"oops":{"kind":"who_are_you","text":"No grower with this address and secret"}}"#);
    let session = client.post("/id/sessions", &account).send().await;
    assert_eq!((session.json()["seconds"].clone(), session.string("/plan")), (json!(1200), "seed".into()));
    let renewed = client.post("/id/sessions/renew", &json!({ "renew": session.string("/renew") })).send().await;
    assert_eq!(renewed.status, 200, "{}", renewed.text());
    let access = renewed.string("/access");

    let trees = client.get("/trees/7").bearer(&access).send().await;
    assert_eq!((trees.status.as_u16(), trees.header("x-ratelimit-limit")), (200, Some("20")));
    assert_eq!(gate.backend.last().one("x-user-email"), Some("ann@example.com"));
    let forecast = client.get("/forecast/frost").bearer(&access).send().await;
    assert_eq!(forecast.status, 402);
    assert_eq!(forecast.text(), r#"{"oops":{"kind":"grow_first","text":"Only for Tree orchards"}}"#);
    let operate = async |resource: &str, body: serde_json::Value| {
        let ask = gate.admin.ask("PATCH", &format!("/v1/sites/orchard{resource}")).bearer(ADMIN_TOKEN);
        assert_eq!(ask.json(&body).send().await.status, 200, "{resource}");
    };
    operate("/orgs/ann@example.com", json!({ "plan": "tree" })).await;
    assert_eq!(client.get("/forecast/frost").bearer(&access).send().await.status, 200);

    let key = client.post("/id/keys", &json!({ "label": "robot", "may": ["pick:trees"] })).bearer(&access).send().await;
    assert_eq!(key.status, 201, "{}", key.text());
    let (id, key) = (key.string("/id"), key.string("/key"));
    assert!(key.starts_with("orch_") && id.starts_with("k-"));
    let by_key = |method| client.ask(method, "/trees/7").header("authorization", format!("orchard-key {key}"));
    assert_eq!(by_key("GET").send().await.status, 200);
    assert_eq!(client.get("/trees/7").bearer(&key).send().await.status, 401, "Bearer carries no keys here");
    operate("/users/ann@example.com", json!({ "role": "picker" })).await;
    assert_eq!(by_key("GET").send().await.status, 200);
    assert_eq!(by_key("POST").send().await.status, 403);
    assert_eq!(client.ask("DELETE", &format!("/id/keys/{id}")).bearer(&access).send().await.status, 204);
    assert_eq!(by_key("GET").send().await.status, 401);

    assert_eq!(client.ask("DELETE", "/id/sessions").bearer(&access).send().await.status, 204);
    assert_eq!(
        client.get("/id/me").bearer(&access).send().await.text(),
        r#"{"oops":{"kind":"invalid_token","text":"Invalid credential"}}"#
    );
    let nowhere = client.get("/id/nowhere").send().await;
    assert_eq!((nowhere.status.as_u16(), nowhere.string("/oops/kind")), (404, "not_found".into()));
}

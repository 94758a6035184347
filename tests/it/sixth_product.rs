//! A sixth product is a file: the one that `docs/contracts.md` shows, letter for letter.

use serde_json::json;

use super::backend::Backend;
use super::client::Client;
use super::harness::{ADMIN_TOKEN, Setup, trusting};
use super::process::{Process, run, tollgate};

const PAGE: &str = include_str!("../../docs/contracts.md");

/// The page's first block of TOML.
fn contract() -> &'static str {
    blocks("toml")[0]
}

/// The page's blocks of a language, in its order.
fn blocks(language: &str) -> Vec<&'static str> {
    let starts = PAGE.split("```").collect::<Vec<_>>();
    // What stands at an odd place is within a pair of fences.
    let within = starts.into_iter().skip(1).step_by(2);
    within.filter_map(|block| block.strip_prefix(&format!("{language}\n"))).collect()
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

/// The page as its reader follows it: two files and its commands, the ports and the backend aside.
#[tokio::test]
async fn the_page_works_when_it_is_followed_to_the_letter() {
    let backend = Backend::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("orchard.toml"), contract()).expect("the contract");
    let configuration = blocks("toml")[1]
        .replace("127.0.0.1:8443", "127.0.0.1:0")
        .replace("127.0.0.1:9090", "127.0.0.1:0")
        .replace("http://127.0.0.1:3000", &backend.url());
    std::fs::write(folder.path().join("gateway.toml"), &configuration).expect("the configuration");
    let words = |line: &'static str| line.strip_prefix("tollgate ").expect("a command").split(' ');
    let mut lines = blocks("sh").into_iter().flat_map(str::lines).filter(|line| line.starts_with("tollgate "));
    let (check, serve, plan) = (lines.next(), lines.next(), lines.next());
    let command = |line: Option<&'static str>| {
        let mut command = tollgate(folder.path());
        command.args(words(line.expect("the page shows it")));
        command
    };
    run(command(check)).await.good();
    let mut served = Process::start(command(serve));
    let address = served.address("https").await;
    let client = Client { address, host: "localhost".into(), tls: Some(trusting(&folder.path().join("certs/ca.pem"))) };
    let curls = blocks("sh").into_iter().find(|block| block.starts_with("curl ")).expect("the page shows requests");
    let mut bodies = curls.lines().filter_map(|line| line.trim().strip_prefix("-d '")?.strip_suffix('\''));
    let body = |text: Option<&str>| serde_json::from_str::<serde_json::Value>(text.expect("a body")).expect("JSON");
    assert_eq!(client.post("/id/growers", &body(bodies.next())).send().await.status, 201);
    let session = client.post("/id/sessions", &body(bodies.next())).send().await;
    assert_eq!(session.status, 200, "{}", session.text());
    let access = session.string("/access");
    assert_eq!(client.get("/forecast/frost").bearer(&access).send().await.status, 402);
    let admin = served.address("admin").await.to_string();
    let asked = configuration.replace("admin = \"127.0.0.1:0\"", &format!("admin = \"{admin}\""));
    std::fs::write(folder.path().join("gateway.toml"), asked).expect("the configuration");
    run(command(plan)).await.good();
    assert_eq!(client.get("/forecast/frost").bearer(&access).send().await.status, 200);
    assert_eq!(served.stop().await.code, Some(0));
}

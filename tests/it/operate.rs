//! The operator at the command line: against a gateway that runs, and on the store itself where none does.

use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

use super::backend::Backend;
use super::client::Client;
use super::harness::ADMIN_TOKEN;
use super::process::{Home, Plan, Process, Told, run, tollgate};
use super::wire::now;

const POSTS: &str = "/api/v1/posts";
/// Nothing here is about the limits that come with the product.
const UNLIMITED: &str = "[site.limits]\nfailed_credentials = []\n[site.plan.free]\nlimits = [\"100000/1h\"]\n";
const ADA: &str = "ada@example.com";

fn home(backend: &Backend) -> Home {
    Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: "", site: UNLIMITED })
}

/// The operator's commands, in the gateway's folder.
struct Desk<'a> {
    folder: &'a Path,
    /// The admin listener, where there is one; a port is not known before it is bound.
    admin: Option<&'a Client>,
}

impl Desk<'_> {
    async fn told(&self, line: &str) -> Told {
        let mut command = tollgate(self.folder);
        command.args(line.split(' ')).args(["--config", "gateway.toml"]);
        if let Some(admin) = self.admin {
            command.env("TOLLGATE__LISTEN__ADMIN", admin.address.to_string());
        }
        run(command).await
    }

    /// An act that succeeds; what it prints with `--json`.
    async fn act(&self, line: &str) -> Value {
        let said = self.told(&format!("{line} --json")).await;
        let direct = said.err.contains("working on the store itself");
        assert_eq!(direct, self.admin.is_none(), "{line}: {}", said.err);
        serde_json::from_str(&said.good()).expect("JSON and nothing else")
    }
}

/// Signs up and in and makes a key: the token, the key, the key's id.
async fn customer(client: &Client, email: &str) -> (String, String, String) {
    let account = json!({ "email": email, "password": "correct horse battery", "name": "Test" });
    let made = client.post("/api/v1/auth/register", &account).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    let token = client.post("/api/v1/auth/login", &account).send().await.string("/access_token");
    let wanted = json!({ "name": "test", "permissions": ["read:posts"] });
    let key = client.post("/api/v1/api-keys", &wanted).bearer(&token).send().await;
    (token, key.string("/key"), key.string("/id"))
}

/// Statuses of a read by token, a write by token and a read by key, one after the other.
async fn seen(client: &Client, token: &str, key: &str) -> [u16; 3] {
    let read = client.get(POSTS).bearer(token).send().await.status.as_u16();
    let write = client.post(POSTS, &json!({})).bearer(token).send().await.status.as_u16();
    [read, write, client.get(POSTS).api_key(key).send().await.status.as_u16()]
}

#[tokio::test]
async fn what_the_operator_changes_counts_from_the_next_request_on() {
    let backend = Backend::start().await;
    let home = home(&backend);
    let served = home.start().await;
    let client = &served.http;
    let (token, key, id) = customer(client, ADA).await;
    assert_eq!(seen(client, &token, &key).await, [200, 200, 200]);
    let desk = Desk { folder: home.folder.path(), admin: Some(&served.admin) };

    assert_eq!(desk.act(&format!("users set-role {ADA} viewer")).await["role"], "viewer");
    assert_eq!(seen(client, &token, &key).await, [200, 403, 200]);
    assert_eq!(desk.act(&format!("users set-role {ADA} member")).await["role"], "member");
    assert_eq!(seen(client, &token, &key).await, [200, 200, 200]);

    assert_eq!(desk.act(&format!("orgs set-plan {ADA} pro")).await["plan"], "pro");
    assert_eq!(client.get(POSTS).bearer(&token).send().await.header("x-ratelimit-limit"), Some("10000"));
    let own = desk.act(&format!("orgs set-limits {ADA} 500/1m 7000/1d")).await;
    assert_eq!(own["limits"], json!(["500/1m", "7000/1d"]));
    assert_eq!(client.get(POSTS).bearer(&token).send().await.header("x-ratelimit-limit"), Some("500"));
    assert_eq!(desk.act(&format!("orgs set-limits {ADA}")).await["limits"], Value::Null);
    assert_eq!(client.get(POSTS).bearer(&token).send().await.header("x-ratelimit-limit"), Some("10000"));

    for (what, disabled) in [("users", "/disabled"), ("orgs", "/disabled")] {
        let now = desk.act(&format!("{what} disable {ADA}")).await;
        assert_eq!(now.pointer(disabled), Some(&json!(true)), "{now}");
        assert_eq!(seen(client, &token, &key).await, [401, 401, 401], "{what}");
        desk.act(&format!("{what} enable {ADA}")).await;
        assert_eq!(seen(client, &token, &key).await, [200, 200, 200], "{what}");
    }

    let keys = desk.act(&format!("keys list {ADA}")).await;
    assert_eq!(keys["keys"][0]["id"], json!(id));
    assert!(!keys.to_string().contains(&key), "a key is shown once");
    desk.act(&format!("keys revoke {ADA} {id}")).await;
    assert_eq!(seen(client, &token, &key).await, [200, 200, 401]);
    let sessions = desk.act(&format!("sessions list {ADA}")).await;
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1), "{sessions}");
    assert_eq!(desk.act(&format!("sessions revoke {ADA}")).await, json!({ "ended": 1 }));
    assert_eq!(seen(client, &token, &key).await, [401, 401, 401]);
    assert_eq!(desk.act(&format!("sessions list {ADA}")).await["sessions"], json!([]));

    let out = served.process.stop().await.good();
    let audited = |act: &str| out.lines().any(|line| line.contains("\"kind\":\"audit\"") && line.contains(act));
    for act in ["role_set", "plan_set", "limits_set", "user_disabled", "org_disabled", "key_revoked", "session_ended"] {
        assert!(audited(act), "no {act} in {out}");
    }
}

#[tokio::test]
async fn a_gateway_without_an_admin_listener_learns_of_them_within_a_second() {
    let backend = Backend::start().await;
    let home = home(&backend);
    let text = std::fs::read_to_string(home.folder.path().join("gateway.toml")).expect("the configuration");
    let without = text.replace("admin = \"127.0.0.1:0\"\n", "");
    assert_ne!(without, text);
    std::fs::write(home.folder.path().join("gateway.toml"), without).expect("a configuration");
    let mut process = Process::start(home.serve());
    let client = Client { address: process.address("http").await, host: "localhost".into(), tls: None };
    let (token, key, id) = customer(&client, ADA).await;
    assert_eq!(seen(&client, &token, &key).await, [200, 200, 200]);
    let desk = Desk { folder: home.folder.path(), admin: None };
    for (line, then) in [
        (format!("users set-role {ADA} viewer"), [200, 403, 200]),
        (format!("keys revoke {ADA} {id}"), [200, 403, 401]),
        (format!("users disable {ADA}"), [401, 401, 401]),
        (format!("users enable {ADA}"), [200, 403, 401]),
        (format!("sessions revoke {ADA}"), [401, 401, 401]),
    ] {
        desk.act(&line).await;
        let done = now();
        while seen(&client, &token, &key).await != then {
            assert!(done.elapsed() < Duration::from_secs(1), "{line}: not after {:?}", done.elapsed());
        }
    }
    process.stop().await.good();
}

#[tokio::test]
async fn without_a_gateway_the_store_itself_is_worked_on() {
    let backend = Backend::start().await;
    let home = home(&backend);
    let desk = Desk { folder: home.folder.path(), admin: None };
    assert_eq!(desk.act("users list").await["users"], json!([]), "a store that is new");
    let served = home.start().await;
    let (token, key, _) = customer(&served.http, ADA).await;
    customer(&served.http, "bob@example.com").await;
    served.process.stop().await.good();

    let said = desk.told(&format!("users disable {ADA}")).await;
    assert!(
        said.err.contains("user_disabled") && said.err.contains("command_line"),
        "an act is on record: {}",
        said.err
    );
    assert!(said.good().contains("\"disabled\": true"));
    assert_eq!(desk.act("orgs set-plan bob@example.com growth").await["plan"], "growth");

    let served = home.start().await;
    assert_eq!(seen(&served.http, &token, &key).await, [401, 401, 401]);
    let bob = served.admin.get("/v1/sites/vantage/orgs/bob@example.com").bearer(ADMIN_TOKEN).send().await;
    assert_eq!(bob.string("/plan"), "growth");
    served.process.stop().await.good();
}

#[tokio::test]
async fn lists_are_tables_for_people_and_json_for_programs() {
    let backend = Backend::start().await;
    let home = home(&backend);
    let served = home.start().await;
    for email in [ADA, "bob@example.com", "cyd@example.com"] {
        customer(&served.http, email).await;
    }
    let desk = Desk { folder: home.folder.path(), admin: Some(&served.admin) };
    let rows = |table: &str| table.lines().filter(|line| line.contains("@example.com")).count();

    let all = desk.told("users list").await.good();
    assert!(rows(&all) == 3 && all.contains("email") && !all.contains('{'), "{all}");
    assert!(!all.contains("--after"), "nothing follows: {all}");
    let some = desk.told("users list --limit 2").await.good();
    let after = some.lines().last().and_then(|line| line.strip_prefix("there may be more: --after "));
    let after = after.unwrap_or_else(|| panic!("what follows is told: {some}"));
    assert_eq!(rows(&some), 2, "{some}");
    let rest = desk.told(&format!("users list --limit 2 --after {after}")).await.good();
    assert!(rows(&rest) == 1 && rest.contains(ADA), "newest first: {rest}");
    assert_eq!(rows(&desk.told("users list --search ad").await.good()), 1);
    assert_eq!(rows(&desk.told(&format!("users list --org {ADA}")).await.good()), 1);
    assert_eq!(desk.told("users list --search nobody").await.good(), "none\n");
    assert_eq!(desk.act("users list --search nobody").await, json!({ "users": [], "next": null }));

    // One resource is itself, also where it holds a list.
    let org = desk.told(&format!("orgs set-limits {ADA} 5/1m")).await.good();
    assert!(org.contains("\"5/1m\"") && org.contains("\"plan\": \"free\""), "{org}");
    let org = desk.told(&format!("orgs show {ADA}")).await.good();
    assert!(org.contains("\"5/1m\""), "{org}");
    let keys = desk.told(&format!("keys list {ADA}")).await.good();
    assert!(keys.contains("read:posts"), "{keys}");
    served.process.stop().await.good();
}

#[tokio::test]
async fn what_cannot_be_done_says_why_and_fails() {
    let backend = Backend::start().await;
    let home = home(&backend);
    let served = home.start().await;
    customer(&served.http, ADA).await;
    let running = Desk { folder: home.folder.path(), admin: Some(&served.admin) };
    let refused = [
        ("users show nobody@example.com", "no user `nobody@example.com` at site vantage"),
        ("users set-role ada@example.com emperor", "no role `emperor` at site vantage; there is admin, member, viewer"),
        ("orgs set-plan ada@example.com platinum", "no plan `platinum` at site vantage; there is free, growth, pro"),
        ("orgs set-limits ada@example.com lots", "`limits`: `lots`: "),
        ("orgs set-limits ada@example.com 10/1m 20/60s", "`limits`: `20/60s`: two windows of one length: "),
        ("orgs show org_00000000000000000000000000000000", "no organization `"),
        ("keys revoke ada@example.com key_nonsense", "ada@example.com has no API key `key_nonsense`"),
        ("sessions revoke ada@example.com nonsense", "ada@example.com has no session `nonsense`"),
        ("users list --limit 0", "`limit` is a whole number from 1 to 1000"),
        ("users list --after nonsense", "`after` is what `next` of the last page said"),
        ("users list --site nonsense", "no site `nonsense`; there is vantage"),
    ];
    for (line, why) in refused {
        let said = running.told(line).await;
        assert_eq!(said.out, "", "{line}");
        let err = said.bad(1);
        assert!(err.starts_with(&format!("tollgate: {why}")) && err.lines().count() == 1, "{line}: {err}");
    }

    // Another token than the gateway's, and something at the address that is no gateway.
    let mut command = tollgate(home.folder.path());
    command.args(["users", "list", "--config", "gateway.toml"]);
    command.env("TOLLGATE__LISTEN__ADMIN", served.admin.address.to_string());
    command.env("TOLLGATE__ADMIN__TOKEN", "bm90LXRoZS10b2tlbi1vZi10aGlzLWdhdGV3YXktYXQtYWxs");
    let err = run(command).await.bad(1);
    assert!(err.contains("has another operator's token: this command took [admin] token"), "{err}");
    let text = std::fs::read_to_string(home.folder.path().join("gateway.toml")).expect("the configuration");
    let other = text.replace(&format!("token = \"{ADMIN_TOKEN}\""), "token_file = \"other-token\"");
    assert_ne!(other, text);
    std::fs::write(home.folder.path().join("other.toml"), other).expect("a configuration");
    std::fs::write(home.folder.path().join("other-token"), "bm90LXRoZS10b2tlbi1vZi10aGlzLWdhdGV3YXktYXQtYWxs\n")
        .expect("a token");
    for asked in [&["users", "list"][..], &["explain", "GET", "https://localhost/"]] {
        let mut command = tollgate(home.folder.path());
        command.args(asked).args(["--config", "other.toml"]);
        command.env("TOLLGATE__LISTEN__ADMIN", served.admin.address.to_string());
        let err = run(command).await.bad(1);
        assert!(err.contains("this command took the one in `other-token` ([admin] token_file)"), "{err}");
    }
    let elsewhere = Client { address: served.https.address, host: String::new(), tls: None };
    let err = Desk { admin: Some(&elsewhere), ..running }.told("users list").await.bad(1);
    assert!(err.contains("is not a Tollgate"), "{err}");

    served.process.stop().await.good();
    let alone = Desk { folder: home.folder.path(), admin: None };
    for (line, why) in refused {
        let said = alone.told(line).await;
        assert_eq!(said.out, "", "{line}");
        let err = said.bad(1);
        assert!(err.contains(&format!("\ntollgate: {why}")), "{line}: {err}");
    }
}

//! What the operator is told of a request, beside what really becomes of it.

use std::sync::Arc;

use serde_json::{Value, json};
use tollgate::model::time::{Clock, SystemClock, TestClock};

use super::backend::Backend;
use super::harness::{ADMIN_TOKEN, Gate, Setup};
use super::process::{Home, Plan, run, tollgate};

const POSTS: &str = "/api/v1/posts";

/// What is told of a request by this credential.
async fn explained(gate: &Gate, method: &str, target: &str, authorization: Option<&str>) -> Value {
    let mut headers = vec![json!(["host", "localhost"])];
    headers.extend(authorization.map(|value| json!(["authorization", value])));
    asked(gate, &json!({ "method": method, "target": target, "headers": headers, "client": "127.0.0.1" })).await
}

async fn asked(gate: &Gate, body: &Value) -> Value {
    let answer = gate.admin.post("/v1/explain", body).bearer(ADMIN_TOKEN).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn what_it_says_of_a_request_is_what_becomes_of_it() {
    let site = "[[site.route]]\nmatch = \"GET /api/v1/reports\"\nplans = [\"pro\"]\nupstream = \"app\"\n\
                [[site.route]]\nmatch = \"GET /api/v1/staff\"\nroles = [\"admin\"]\nupstream = \"app\"\n\
                [[site.route]]\nmatch = \"GET /api/v1/open\"\npublic = true\nupstream = \"app\"\n";
    let gate = Setup::default().site(site).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "member" }))).await;
    let (key, _) = gate.api_key(&token, &["read:posts"]).await;
    let (bearer, by_key) = (format!("Bearer {token}"), format!("ApiKey {key}"));
    let forged = format!("Bearer {}x", &token[..token.len() - 3]);
    let mut seen = Vec::new();
    for (method, target, by) in [
        ("GET", POSTS, Some(&bearer)),
        ("GET", POSTS, Some(&by_key)),
        ("POST", POSTS, Some(&by_key)),
        ("GET", POSTS, None),
        ("GET", POSTS, Some(&forged)),
        ("GET", "/api/v1/reports", Some(&bearer)),
        ("GET", "/api/v1/staff", Some(&bearer)),
        ("GET", "/api/v1/open", None),
        ("GET", "/api/v1/api-keys", Some(&bearer)),
        ("GET", "/api/v1/api-keys", Some(&by_key)),
        ("DELETE", "/api/v1/auth/login", None),
        ("GET", "/elsewhere", Some(&bearer)),
        ("GET", "/api/v1/%2e%2e/x", Some(&bearer)),
        ("get", POSTS, Some(&bearer)),
        ("GET", "/.well-known/jwks.json", None),
    ] {
        let told = explained(&gate, method, target, by.map(String::as_str)).await;
        let ask = gate.client.ask(method, target);
        let real = match by {
            Some(by) => ask.header("authorization", by.as_str()).send().await,
            None => ask.send().await,
        };
        let line = format!("{method} {target}: {told:#} but {} {}", real.status, real.text());
        assert_eq!(told["passes"], json!(real.status.is_success()), "{line}");
        if !real.status.is_success() {
            assert_eq!(told["answer"]["status"], real.status.as_u16(), "{line}");
            assert_eq!(told["answer"]["body"], real.json(), "{line}");
        }
        let whole = told.to_string();
        assert!(!whole.contains(&token[10..40]) && !whole.contains(&key[6..]), "no secret: {whole}");
        seen.push(told["problem"].as_str().or(told["decision"].as_str()).expect("one of them").to_owned());
    }
    assert_eq!(
        seen,
        [
            "forward",
            "forward",
            "insufficient_permissions",
            "not_authenticated",
            "invalid_token",
            "plan_required",
            "insufficient_permissions",
            "forward",
            "native",
            "insufficient_permissions",
            "method_not_allowed",
            "not_found",
            "ambiguous_path",
            "malformed_request",
            "key_set"
        ]
    );
}

#[tokio::test]
async fn the_rule_that_decided_is_named_with_what_it_asks() {
    let site = "[[site.route]]\nmatch = \"GET /api/v1/reports\"\nplans = [\"growth\", \"pro\"]\nupstream = \"app\"\n\
                [[site.route]]\nmatch = \"GET /api/v1/staff\"\nroles = [\"admin\"]\nupstream = \"app\"\n";
    let gate = Setup::default().site(site).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "member" }))).await;
    let (key, _) = gate.api_key(&token, &["read:posts"]).await;
    let bearer = format!("Bearer {token}");
    let told = explained(&gate, "GET", "/api/v1/reports?page=2", Some(&bearer)).await;
    let rule =
        json!({ "rule": "route GET /api/v1/reports", "lacks": "plan", "asks": ["growth", "pro"], "has": "free" });
    assert_eq!(told["decided_by"], rule, "{told:#}");
    assert_eq!(told["path"], "/api/v1/reports");
    assert_eq!((&told["site"], &told["who"]["email"]), (&json!("vantage"), &json!("ada@example.com")));
    let told = explained(&gate, "GET", "/api/v1/staff", Some(&bearer)).await;
    let rule = json!({ "rule": "route GET /api/v1/staff", "lacks": "role", "asks": ["admin"], "has": "member" });
    assert_eq!(told["decided_by"], rule, "{told:#}");
    let told = explained(&gate, "POST", POSTS, Some(&format!("ApiKey {key}"))).await;
    assert_eq!(told["decided_by"]["lacks"], "permission", "{told:#}");
    assert_eq!(told["decided_by"]["asks"], "write:posts", "{told:#}");
    assert_eq!(told["credential"], "api_key");
}

#[tokio::test]
async fn the_backend_sees_what_it_said_and_secrets_are_starred_out() {
    let routes = "[[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\nassertion = true\n\
                  forward_credential = true\nrequest_headers = { set = { x-backend-word = \"opensesame\" } }\n";
    let signer = "{ kid = \"ed\", algorithm = \"EdDSA\", secret_file = \"DIR/ed.pem\", generate = true }";
    let folder = tempfile::tempdir().expect("a folder");
    let signer = signer.replace("DIR", &folder.path().display().to_string());
    let gate = Setup::default().routes(routes).signer(&signer).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let headers = json!([
        ["host", "localhost"],
        ["authorization", bearer],
        ["cookie", "sid=0123456789abcdef"],
        ["x-user-id", "root"],
        ["x-color", "blue"],
        ["x-echo", "0123456789abcdef"],
        ["connection", "x-color"]
    ]);
    let told = asked(&gate, &json!({ "method": "GET", "target": POSTS, "headers": headers })).await;
    assert_eq!(told["passes"], true, "{told:#}");
    let mut real = gate.client.get(POSTS).bearer(&token);
    for (name, value) in [
        ("cookie", "sid=0123456789abcdef"),
        ("x-user-id", "root"),
        ("x-color", "blue"),
        ("x-echo", "0123456789abcdef"),
        ("connection", "x-color"),
    ] {
        real = real.header(name, value);
    }
    assert_eq!(real.send().await.status, 200);
    let seen = gate.backend.last();
    let mut names = Vec::new();
    for line in told["headers"].as_array().expect("headers") {
        let (name, value) = (line[0].as_str().expect("a name"), line[1].as_str().expect("a value"));
        names.push(name.to_owned());
        let real = seen.one(name).unwrap_or_else(|| panic!("the backend did not see {name}"));
        match name {
            "authorization" | "cookie" | "x-identity-assertion" | "x-backend-word" | "x-echo" => {
                assert!(value.contains("***") && value != real, "{name}: {value}");
            }
            // Each has its own.
            "x-request-id" => {}
            _ => assert_eq!(value, real, "{name}"),
        }
    }
    assert!(names.iter().any(|name| name == "x-user-id") && !names.iter().any(|name| name == "x-color"), "{names:?}");
    let whole = told.to_string();
    for secret in [&token[..], "0123456789abcdef", "opensesame", seen.one("x-identity-assertion").expect("one")] {
        assert!(!whole.contains(secret), "{secret} in {whole}");
    }
}

#[tokio::test]
async fn nothing_is_spent_by_asking_however_often() {
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let site = "[site.plan.free]\nlimits = [\"3/1m\"]\n[site.limits]\nfailed_credentials = [\"2/1m\"]\n\
                per_address = [\"50/1m\"]\n";
    let gate = Setup::default().site(site).clock(clock.clone()).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let (key, id) = gate.api_key(&token, &["read:posts"]).await;
    clock.advance(std::time::Duration::from_mins(2));
    let (bearer, by_key) = (format!("Bearer {token}"), format!("ApiKey {key}"));
    let last_used = || async {
        let keys = gate.operate("GET", "/orgs/ada@example.com/keys", None).await.json();
        let own = keys["keys"].as_array().expect("keys").iter().find(|own| own["id"] == json!(id)).cloned();
        own.expect("the key")["last_used_at"].clone()
    };
    for _ in 0..10 {
        let told = explained(&gate, "GET", POSTS, Some(&by_key)).await;
        assert_eq!(told["passes"], true, "{told:#}");
        let window = told["windows"].as_array().expect("windows").iter().find(|own| own["of"] == "organization");
        let window = window.unwrap_or_else(|| panic!("no window of the organization: {told:#}"));
        assert_eq!((&window["limit"], &window["remaining"]), (&json!(3), &json!(3)), "{told:#}");
        let forged = explained(&gate, "GET", POSTS, Some("Bearer a.b.c")).await;
        assert_eq!(forged["problem"], "invalid_token", "{forged:#}");
        let failures = &forged["windows"][0];
        assert_eq!((&failures["of"], &failures["remaining"]), (&json!("failed_credentials"), &json!(2)), "{forged:#}");
    }
    gate.gateway().authenticator.flush_last_used().await.expect("the store");
    assert_eq!(last_used().await, Value::Null, "asking is no use of a key");

    // The nearest real ones count: three pass, and what is told follows.
    for left in [2, 1, 0] {
        let real = gate.client.get(POSTS).header("authorization", by_key.as_str()).send().await;
        assert_eq!((real.status.as_u16(), real.header("x-ratelimit-remaining")), (200, Some(&*left.to_string())));
    }
    let told = explained(&gate, "GET", POSTS, Some(&bearer)).await;
    assert_eq!((&told["problem"], &told["answer"]["status"]), (&json!("rate_limit_exceeded"), &json!(429)), "{told:#}");
    assert_eq!(gate.client.get(POSTS).bearer(&token).send().await.status, 429);
    gate.gateway().authenticator.flush_last_used().await.expect("the store");
    assert_ne!(last_used().await, Value::Null, "a request is");
    for status in [401, 401, 429] {
        assert_eq!(gate.client.get(POSTS).bearer("a.b.c").send().await.status, status);
    }
    let told = explained(&gate, "GET", POSTS, Some("Bearer a.b.c")).await;
    assert_eq!(told["problem"], "rate_limit_exceeded", "{told:#}");
}

#[tokio::test]
async fn only_the_operator_asks_and_only_for_what_is_a_request() {
    let gate = Gate::start().await;
    let good = json!({ "method": "GET", "target": POSTS, "headers": [["host", "localhost"]] });
    assert_eq!(gate.admin.post("/v1/explain", &good).send().await.status, 401);
    assert_eq!(gate.client.post("/v1/explain", &good).bearer(ADMIN_TOKEN).send().await.status, 404);
    assert_eq!(gate.admin.get("/v1/explain").bearer(ADMIN_TOKEN).send().await.status, 405);
    for (field, value) in [
        ("method", json!("G T")),
        ("target", json!("no target")),
        ("headers", json!([["bad name", "x"]])),
        ("headers", json!([["x", "a\nb"]])),
        ("client", json!("nowhere")),
        ("clients", json!("203.0.113.7")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let answer = gate.admin.post("/v1/explain", &bad).bearer(ADMIN_TOKEN).send().await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(!answer.string("/error").is_empty());
    }
    let told = asked(&gate, &json!({ "method": "GET", "target": POSTS, "headers": [["host", "elsewhere"]] })).await;
    assert_eq!((&told["problem"], &told["site"]), (&json!("misdirected_request"), &Value::Null), "{told:#}");
}

#[tokio::test]
async fn at_the_command_line_the_exit_status_tells_a_yes_from_a_no() {
    let backend = Backend::start().await;
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: "", site: "" });
    let served = home.start().await;
    let account = json!({ "email": "ada@example.com", "password": "correct horse battery", "name": "Test" });
    assert_eq!(served.http.post("/api/v1/auth/register", &account).send().await.status, 201);
    let token = served.http.post("/api/v1/auth/login", &account).send().await.string("/access_token");
    let command = |arguments: &[&str]| {
        let mut command = tollgate(home.folder.path());
        command.arg("explain").args(arguments).args(["--config", "gateway.toml"]);
        command.env("TOLLGATE__LISTEN__ADMIN", served.admin.address.to_string());
        command
    };
    let (url, bearer) = ("https://localhost/api/v1/posts", format!("Authorization: Bearer {token}"));
    let yes = run(command(&["GET", url, "-H", &bearer, "--client", "203.0.113.7"])).await.good();
    for part in ["forward", "203.0.113.7", "ada@example.com", "route * /api/v1/{*rest}", "x-user-id: "] {
        assert!(yes.contains(part), "no {part} in:\n{yes}");
    }
    assert!(!yes.contains(&token), "{yes}");
    let no = run(command(&["GET", url, "--json"])).await;
    assert_eq!((no.code, no.err.as_str()), (Some(3), ""), "{no:?}");
    let told: Value = serde_json::from_str(&no.out).expect("JSON and nothing else");
    assert_eq!((&told["passes"], &told["problem"]), (&json!(false), &json!("not_authenticated")));

    let raw = home.folder.path().join("request");
    std::fs::write(&raw, format!("GET /api/v1/posts HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n")).expect("a file");
    let mut piped = command(&["--json"]);
    piped.stdin(std::fs::File::open(&raw).expect("the file"));
    assert!(run(piped).await.good().contains("\"decision\": \"forward\""));

    // What `curl -v` has shown of a request, over HTTP/2.
    std::fs::write(
        &raw,
        format!("* ALPN: h2\n> GET /api/v1/posts HTTP/2\r\n> Host: localhost\r\n> {bearer}\r\n> \r\n< HTTP/2 200\r\n"),
    )
    .expect("a file");
    let mut piped = command(&["--json"]);
    piped.stdin(std::fs::File::open(&raw).expect("the file"));
    assert!(run(piped).await.good().contains("\"decision\": \"forward\""));
    let by_http2 = run(command(&["GET", url, "-H", "Connection: close", "--http2"])).await;
    assert_eq!(
        (by_http2.code, by_http2.out.contains("a request with the field `connection` is none")),
        (Some(3), true),
        "{by_http2:?}"
    );
    // A token that stands somewhere else.
    let told = run(command(&[
        "GET",
        &format!("https://localhost/nowhere/{token}"),
        "-H",
        &format!("Referer: https://a.example/?token={token}"),
    ]))
    .await;
    assert!(told.code == Some(3) && !told.out.contains(&token) && told.out.contains("/nowhere/***"), "{told:?}");

    run(command(&["GET"])).await.bad(2);
    // What is no request is a bad argument, whoever notices.
    for arguments in [
        &["GET", "ftp://localhost/"][..],
        &["GET", "http://[/"],
        &["GET", url, "-H", "no colon"],
        &["GET", url, "-H", "@nowhere"],
        &["GET", "http://localhost/", "--http2"],
    ] {
        assert!(run(command(arguments)).await.bad(2).starts_with("tollgate: "), "{arguments:?}");
    }
    let mut empty = command(&[]);
    empty.stdin(std::process::Stdio::null());
    assert!(run(empty).await.bad(2).contains("name a method and a URL"));
    assert!(backend.count() == 0, "no backend was asked");
    served.process.stop().await.good();
    let err = run(command(&["GET", url])).await.bad(1);
    assert!(err.contains("no gateway answers at the admin address"), "{err}");
}

#[tokio::test]
async fn a_credential_that_lets_nobody_in_is_told_with_the_reason() {
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let gate = Setup::default().clock(clock.clone()).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let (key, id) = gate.api_key(&token, &["read:posts"]).await;
    let (gone, gone_id) = gate.api_key(&token, &["read:posts"]).await;
    let why = async |by: &str| -> String {
        let told = explained(&gate, "GET", POSTS, Some(by)).await;
        let real = gate.client.get(POSTS).header("authorization", by).send().await;
        assert_eq!(told["answer"]["status"], real.status.as_u16(), "{by}: {told:#}");
        assert_eq!(told["answer"]["body"], real.json(), "{by}: the client learns no more than before");
        assert_eq!(told["decided_by"]["rule"], "the credential", "{by}: {told:#}");
        told["decided_by"]["why"].as_str().expect("a reason").to_owned()
    };
    let bearer = format!("Bearer {token}");
    let (signed, signature) = token.rsplit_once('.').expect("a token");
    let turned: String = signature.chars().rev().collect();
    for (by, reason) in [
        (format!("Bearer {signed}.{turned}"), "signature does not verify"),
        ("Bearer e30.e30.e30".to_owned(), "the token is malformed"),
        (format!("ApiKey {}x", &key[..key.len() - 1]), "mistyped, or cut short"),
        (format!("Bearer {key}"), "a credential that its scheme does not carry"),
        (format!("Digest {key}"), "an unknown authentication scheme"),
    ] {
        assert!(why(&by).await.contains(reason), "{by}: {}", why(&by).await);
    }
    gate.operate("DELETE", &format!("/orgs/ada@example.com/keys/{gone_id}"), None).await;
    assert!(why(&format!("ApiKey {gone}")).await.contains("was revoked at 20"));
    gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "disabled": true }))).await;
    assert_eq!(why(&bearer).await, "the user is disabled");
    assert_eq!(why(&format!("ApiKey {key}")).await, "the user is disabled");
    gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "disabled": false }))).await;
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "disabled": true }))).await;
    assert_eq!(why(&format!("ApiKey {key}")).await, "the organization is disabled");
    gate.operate("PATCH", "/orgs/ada@example.com", Some(json!({ "disabled": false }))).await;
    assert_eq!(explained(&gate, "GET", POSTS, Some(&format!("ApiKey {key}"))).await["passes"], true, "{id}");
    gate.operate("DELETE", "/users/ada@example.com/sessions", None).await;
    assert!(why(&bearer).await.contains("session was ended at 20"), "{}", why(&bearer).await);
    clock.advance(std::time::Duration::from_hours(3));
    assert_eq!(why(&bearer).await, "the token has expired");
    let nobody = explained(&gate, "GET", POSTS, None).await;
    assert_eq!(nobody["decided_by"], json!({ "rule": "the credential", "why": "there is none, and one is needed" }));
}

#[tokio::test]
async fn every_refusal_names_what_decided() {
    let site = "[site.limits]\nper_key = [\"1/1m\"]\nfailed_credentials = [\"1/1m\"]\n[site.plan.free]\nlimits = [\"50/1h\"]\n\
                [[site.route]]\nmatch = \"POST /api/v1/reports\"\nupstream = \"app\"\nmax_body = \"1KiB\"\n\
                [[site.route]]\nmatch = \"GET /elsewhere\"\nupstream = \"app\"\n";
    let gate = Setup::default().site(site).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let (key, _) = gate.api_key(&token, &["read:posts"]).await;
    let bearer = format!("Bearer {token}");
    let by_key = format!("ApiKey {key}");
    let decided = async |method: &str, target: &str, headers: &[(&str, &str)]| -> (String, String) {
        let mut all = vec![json!(["host", "localhost"])];
        all.extend(headers.iter().map(|(name, value)| json!([name, value])));
        let told = asked(&gate, &json!({ "method": method, "target": target, "headers": all })).await;
        assert_eq!(told["passes"], false, "{told:#}");
        let of = |what: &str| told["decided_by"][what].as_str().unwrap_or_default().to_owned();
        (of("rule"), of("why"))
    };
    let auth = ("authorization", &*bearer);
    for (method, target, headers, rule, why) in [
        ("GET", "/a//b", vec![], "the path", "the path holds an empty segment"),
        ("GET", "/a/%2e%2e/b", vec![], "the path", "the path holds a dot segment"),
        ("GET", POSTS, vec![("x_y", "1")], "the request's form", "header names are letters, digits and hyphens"),
        ("GET", POSTS, vec![("host", "localhost")], "the request's form", "more than one Host"),
        ("GET", "/nowhere", vec![auth], "routes", "no route and no operation takes the path"),
        ("DELETE", "/elsewhere", vec![auth], "routes", "the path is served for GET, HEAD"),
        ("GET", "/api/v1/auth/nothing", vec![auth], "native_prefixes", "is never forwarded"),
        (
            "POST",
            "/api/v1/reports",
            vec![auth, ("content-length", "2000")],
            "max_body",
            "a body of 2000 bytes is announced, 1024 are taken",
        ),
    ] {
        let (by, because) = decided(method, target, &headers).await;
        assert!(by == rule && because.contains(why), "{method} {target}: {by}: {because}");
    }
    let elsewhere =
        asked(&gate, &json!({ "method": "GET", "target": POSTS, "headers": [["host", "a.example"]] })).await;
    assert_eq!(elsewhere["decided_by"]["why"], "no site has `a.example` among its hosts", "{elsewhere:#}");
    assert_eq!(gate.client.get(POSTS).api_key(&key).send().await.status, 200);
    assert_eq!(gate.client.get(POSTS).api_key(&key).send().await.status, 429);
    assert_eq!(decided("GET", POSTS, &[("authorization", &by_key)]).await, ("limits".into(), "limit key 1/1m".into()));
    assert_eq!(gate.client.get(POSTS).bearer("a.b.c").send().await.status, 401);
    let (by, _) = decided("GET", POSTS, &[("authorization", "Bearer a.b.c")]).await;
    assert_eq!(by, "limit failed_credentials");
}

#[tokio::test]
async fn a_websocket_is_told_as_one_with_what_the_backend_sees_of_it() {
    let site = "[[site.route]]\nmatch = \"GET /live\"\npublic = true\nupstream = \"app\"\n\
                [[site.route]]\nmatch = \"GET /modern\"\npublic = true\nupstream = \"modern\"\n\
                [site.upstream.modern]\nservers = [\"http://127.0.0.1:9\"]\nprotocol = \"http2\"\n";
    let gate = Setup::default().site(site).start().await.expect("SQLite");
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let all = [
        ("host", "localhost"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        key,
    ];
    let told = async |headers: &[(&str, &str)], http: &str| {
        let target = if http == "2" { "https://localhost/live" } else { "/live" };
        asked(&gate, &json!({ "method": "GET", "target": target, "headers": headers, "http": http })).await
    };
    let opens = told(&all, "1.1").await;
    assert_eq!((&opens["decision"], &opens["websocket"]), (&json!("forward"), &json!(true)), "{opens:#}");
    let sees = |told: &Value, name: &str| -> Option<String> {
        let lines = told["headers"].as_array().expect("headers");
        let found = lines.iter().find(|line| line[0] == name);
        found.map(|line| line[1].as_str().expect("a value").to_owned())
    };
    assert_eq!(sees(&opens, "upgrade").as_deref(), Some("websocket"));
    assert_eq!((sees(&opens, "connection").as_deref(), sees(&opens, key.0).as_deref()), (Some("upgrade"), Some(key.1)));
    let plain = told(&all[..1], "1.1").await;
    assert_eq!((&plain["websocket"], sees(&plain, "upgrade")), (&Value::Null, None), "{plain:#}");
    let broken = told(&all[..4], "1.1").await;
    assert_eq!(broken["decided_by"]["why"], "Sec-WebSocket-Key is 16 bytes in base64", "{broken:#}");
    // What is spoken in HTTP/2 takes none, whoever answers there; it takes everything else.
    let modern = async |headers: &[(&str, &str)]| {
        asked(&gate, &json!({ "method": "GET", "target": "/modern", "headers": headers })).await
    };
    let refused = modern(&all).await;
    let real = super::sockets::open(&gate.client, "/modern", &[]).await.expect_err("it cannot be");
    assert_eq!((&refused["passes"], &refused["answer"]["status"]), (&json!(false), &json!(real.status().as_u16())));
    let body: Value = serde_json::from_str(real.body()).expect("JSON");
    assert_eq!(refused["answer"]["body"], body);
    assert_eq!((real.status().as_u16(), &refused["problem"]), (502, &json!("bad_gateway")));
    assert_eq!(refused["decided_by"]["rule"], "[site.upstream.modern] protocol", "{refused:#}");
    assert_eq!(modern(&all[..1]).await["passes"], true);
    // Over HTTP/1.0 and HTTP/2 nobody switches.
    let old = told(&all, "1.0").await;
    assert_eq!((&old["passes"], &old["websocket"]), (&json!(true), &Value::Null), "{old:#}");
    let reset = told(&all[1..], "2").await;
    assert_eq!((&reset["passes"], &reset["decision"]), (&json!(false), &json!("reset")), "{reset:#}");
}

#[tokio::test]
async fn a_request_by_http2_is_told_as_it_is_served() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let imagined = async |headers: Value| {
        let whole =
            json!({ "method": "GET", "target": format!("https://localhost{POSTS}"), "headers": headers, "http": "2" });
        asked(&gate, &whole).await
    };
    let told = imagined(json!([["authorization", bearer], ["te", "trailers"]])).await;
    assert_eq!((&told["passes"], &told["who"]["email"]), (&json!(true), &json!("ada@example.com")), "{told:#}");
    assert_eq!(gate.client.get(POSTS).bearer(&token).send_http2().await.status, 200);
    let seen = gate.backend.last();
    for line in told["headers"].as_array().expect("headers") {
        let (name, value) = (line[0].as_str().expect("a name"), line[1].as_str().expect("a value"));
        if !["x-request-id", "te", "connection"].contains(&name) {
            assert_eq!(seen.one(name), Some(value), "{name}");
        }
    }
    // A name of its own beside another's, and what is no field of HTTP/2.
    let told = imagined(json!([["host", "other.example"], ["authorization", bearer]])).await;
    assert_eq!(told["decided_by"]["why"], "Host and the request target disagree", "{told:#}");
    for (name, value) in
        [("connection", "close"), ("transfer-encoding", "chunked"), ("te", "gzip"), ("keep-alive", "1")]
    {
        let told = imagined(json!([[name, value], ["authorization", bearer]])).await;
        assert_eq!((&told["decision"], &told["passes"]), (&json!("reset"), &json!(false)), "{told:#}");
        assert!(told["decided_by"]["why"].as_str().is_some_and(|why| why.contains(name)), "{told:#}");
    }
    let bad =
        json!({ "method": "GET", "target": POSTS, "headers": [["host", "localhost"]], "http": "2", "tls": false });
    assert_eq!(gate.admin.post("/v1/explain", &bad).bearer(ADMIN_TOKEN).send().await.status, 400);
    let bad = json!({ "method": "GET", "target": POSTS, "headers": [["host", "localhost"]], "http": "3" });
    assert_eq!(gate.admin.post("/v1/explain", &bad).bearer(ADMIN_TOKEN).send().await.status, 400);
}

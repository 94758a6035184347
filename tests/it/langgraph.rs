//! What langgraph's page promises beyond one request and its answer: mails, keys as Bearer, sessions.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::model::time::{Clock, SystemClock, TestClock};

use super::client::Client;
use super::harness::{Database, Gate, Setup, trusting};
use super::process::{Process, tollgate};
use super::smtp::{self, At, Identity, Server, Twist};

const PASSWORD: &str = "Secure_passw0rd";
const LINKS: &str = "verify_link = \"https://app.example.com/verify?token={token}\"\nreset_link = \"https://app.example.com/reset?token={token}\"\n";

fn account(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "name": "Ann", "organization": "Ann Corp", "subscription_plan": "free" })
}

async fn registered(client: &Client, email: &str) {
    let made = client.post("/v1/auth/register", &account(email)).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
}

async fn signed_in(client: &Client, email: &str, password: &str) -> Value {
    let body = json!({ "email": email, "password": password, "device_info": { "device_id": "d1", "platform": "web", "browser": "b" } });
    let answer = client.post("/v1/auth/login", &body).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Waits until the server has taken `count` mails, and a little longer for one too many.
async fn mails(server: &Server, count: usize) -> Vec<smtp::Taken> {
    for _ in 0..600 {
        if server.mails().len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let taken = server.mails();
    assert_eq!(taken.len(), count, "{taken:?}");
    taken
}

fn transport(port: u16, authority: &std::path::Path) -> String {
    let authority = authority.display();
    format!(
        "transport = \"smtp\"\nhost = \"localhost\"\nport = {port}\ntls = \"starttls\"\nusername = \"tollgate\"\npassword = \"letter-box\"\nauthorities = \"{authority}\"\ntimeout = \"5s\"\n"
    )
}

async fn mails_are_read_back(database: Database) {
    let identity = Identity::of("localhost");
    let server = Server::start(smtp::plan(&identity)).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = folder.path().join("mail-ca.pem");
    std::fs::write(&authority, &identity.authority).expect("the authority's file");
    let setup = Setup::default().database(database).product("langgraph").mail(&transport(server.port, &authority));
    let Some(gate) = setup.site(LINKS).start().await else { return };
    let client = &gate.client;
    registered(client, "ann@example.com").await;
    let verify = mails(&server, 1).await.remove(0);
    assert!(verify.encrypted && verify.signed_in && verify.to.contains("ann@example.com"), "{verify:?}");
    let verify = smtp::token(&verify);
    let session = signed_in(client, "ann@example.com", PASSWORD).await;
    let access = text(&session, "access_token");
    let verified = async || client.get("/v1/auth/profile").bearer(access).send().await.json()["email_verified"].clone();
    assert_eq!(verified().await, json!(false));

    // A token of one kind is none of another.
    let reset_by = async |token: &str, password: &str| {
        let body = json!({ "token": token, "new_password": password });
        client.post("/v1/auth/password/reset", &body).send().await.status.as_u16()
    };
    let verify_by = async |token: &str| {
        client.post("/v1/auth/email/verify", &json!({ "token": token })).send().await.status.as_u16()
    };
    assert_eq!(reset_by(&verify, "Another_passw0rd").await, 400);
    assert_eq!(verify_by(access).await, 400);
    assert_eq!(verify_by(&verify).await, 200);
    assert_eq!(verified().await, json!(true));
    assert_eq!(verify_by(&verify).await, 400, "it is used up");

    let ask = json!({ "email": "ann@example.com" });
    assert_eq!(client.post("/v1/auth/email/resend-verification", &ask).send().await.status, 200);
    assert_eq!(client.post("/v1/auth/password/reset-request", &ask).send().await.status, 200);
    assert_eq!(
        client.post("/v1/auth/password/reset-request", &json!({ "email": "nobody@example.com" })).send().await.status,
        200
    );
    // A verified address needs no second verification, and nobody gets no mail.
    let first = smtp::token(&mails(&server, 2).await[1]);
    assert_eq!(client.post("/v1/auth/password/reset-request", &ask).send().await.status, 200);
    let second = smtp::token(&mails(&server, 3).await[2]);
    assert_eq!(verify_by(&second).await, 400);
    assert_eq!(reset_by(&first, "Another_passw0rd").await, 400, "a newer one took its place");
    assert_eq!(reset_by(&second, "short").await, 400, "and it is not used up by a bad password");
    assert_eq!(reset_by(&second, "Another_passw0rd").await, 200);
    assert_eq!(reset_by(&second, "Yet_an0ther_one").await, 400);
    // A reset ends every session; the new password is the one that counts.
    assert_eq!(client.get("/v1/auth/profile").bearer(access).send().await.status, 401);
    let refresh = json!({ "refresh_token": text(&session, "refresh_token") });
    assert_eq!(client.post("/v1/auth/refresh", &refresh).send().await.status, 401);
    let old = client.post("/v1/auth/login", &account("ann@example.com")).send().await;
    assert_eq!(old.status, 401);
    signed_in(client, "ann@example.com", "Another_passw0rd").await;
}

#[tokio::test]
async fn mails_verify_and_reset_through_a_real_conversation_on_sqlite() {
    mails_are_read_back(Database::Sqlite).await;
}

#[tokio::test]
async fn mails_verify_and_reset_through_a_real_conversation_on_postgresql() {
    mails_are_read_back(Database::Postgres).await;
}

#[tokio::test]
async fn a_mail_outlives_a_server_that_is_down_and_a_gateway_that_is_killed() {
    let identity = Identity::of("localhost");
    // A port that nobody listens on, and later the server does.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    drop(listener);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    std::fs::write(path.join("mail-ca.pem"), &identity.authority).expect("the authority's file");
    let mail = transport(port, &path.join("mail-ca.pem"));
    let file = format!(
        "[listen]\nhttps = \"127.0.0.1:0\"\n[tls]\ndevelopment = true\n[store]\nurl = \"sqlite://data/t.db\"\n[log]\naccess = false\n[mail]\n{mail}\
         [[site]]\ncontract = \"langgraph\"\nhosts = [\"localhost\"]\n[site.tokens]\nkeys = [{{ kid = \"1\", algorithm = \"RS256\", secret_file = \"data/rs256.pem\", generate = true }}]\n\
         [site.mail]\nproduct = \"LangGraph\"\nfrom = \"no-reply@example.com\"\n{LINKS}\
         [site.upstream.app]\nservers = [\"http://127.0.0.1:9\"]\n[[site.route]]\nmatch = \"* /api/{{*rest}}\"\n"
    );
    std::fs::write(path.join("gateway.toml"), file).expect("the configuration");
    let start = || {
        let mut command = tollgate(path);
        command.args(["serve", "--config", "gateway.toml"]);
        Process::start(command)
    };
    let mut first = start();
    let address = first.address("https").await;
    let tls = Some(trusting(&path.join("certs/ca.pem")));
    let client = Client { address, host: "localhost".into(), tls };
    registered(&client, "ann@example.com").await;
    first.until("a failed attempt", |out| out.contains("a mail waits for its next try").then_some(())).await;
    first.strike();
    first.ended().await;

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is still free");
    let server = Server::on(listener, smtp::plan(&identity));
    let mut second = start();
    let client = Client { address: second.address("https").await, ..client };
    let token = smtp::token(&mails(&server, 1).await[0]);
    let verified = client.post("/v1/auth/email/verify", &json!({ "token": token })).send().await;
    assert_eq!(verified.status, 200, "{}", verified.text());
    assert_eq!(second.stop().await.code, Some(0));
    assert_eq!(server.mails().len(), 1, "and it is sent once");
}

#[tokio::test]
async fn what_comes_of_mails_and_how_many_wait_is_counted() {
    let identity = Identity::of("localhost");
    let twists = vec![
        (At::Rcpt, Twist::Say("451 4.3.0 not now"), 1),
        (At::Rcpt, Twist::Say("550 5.1.1 nobody of that name"), 1),
    ];
    let server = Server::start(smtp::Plan { twists, ..smtp::plan(&identity) }).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = folder.path().join("mail-ca.pem");
    std::fs::write(&authority, &identity.authority).expect("the authority's file");
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let setup = Setup::default().product("langgraph").mail(&transport(server.port, &authority)).site(LINKS);
    let gate = setup.clock(Arc::clone(&clock) as Arc<dyn Clock>).start().await.expect("SQLite is always there");
    // Sent, failed, given up, waiting.
    let counted = async || {
        let mut values = [-1.0; 4];
        let lines = ["total{outcome=\"sent\"}", "total{outcome=\"failed\"}", "total{outcome=\"given_up\"}", "waiting"];
        for (value, line) in values.iter_mut().zip(lines) {
            *value = gate.metric(&format!("tollgate_mails_{line} ")).await.expect("it is there from the start");
        }
        values
    };
    let comes_to = async |wanted: [f64; 4]| {
        for _ in 0..600 {
            if counted().await.iter().zip(wanted).all(|(is, wanted)| (is - wanted).abs() < 0.5) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?} in place of {wanted:?}", counted().await);
    };
    comes_to([0.0; 4]).await;
    registered(&gate.client, "ann@example.com").await;
    comes_to([0.0, 1.0, 0.0, 1.0]).await;
    clock.advance(Duration::from_secs(6));
    comes_to([0.0, 1.0, 1.0, 0.0]).await;
    let ask = json!({ "email": "ann@example.com" });
    assert_eq!(gate.client.post("/v1/auth/email/resend-verification", &ask).send().await.status, 200);
    comes_to([1.0, 1.0, 1.0, 0.0]).await;
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test]
async fn an_address_that_cannot_be_mailed_is_refused_at_the_door_and_tells_nothing_later() {
    let gate = Setup::default().product("langgraph").start().await.expect("SQLite is always there");
    let refused = gate.client.post("/v1/auth/register", &account("a@xn--zzzzzz.com")).send().await;
    assert_eq!((refused.status.as_u16(), refused.json()["error"]["code"].clone()), (400, json!("invalid_request")));
    assert!(refused.json()["error"]["details"]["email"].is_array(), "{}", refused.text());
    registered(&gate.client, "ann@example.com").await;
    // An account from before that was looked at.
    let url = format!("sqlite://{}/store/tollgate.db", gate.directory.path().display());
    let mut store = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.expect("the store");
    let changed = sqlx::query("UPDATE users SET email = 'a@xn--zzzzzz.com'").execute(&mut store).await;
    assert_eq!(changed.expect("an account").rows_affected(), 1);
    for path in ["/v1/auth/password/reset-request", "/v1/auth/email/resend-verification"] {
        let known = gate.client.post(path, &json!({ "email": "ann@example.com" })).send().await;
        let unknown = gate.client.post(path, &json!({ "email": "nobody@example.com" })).send().await;
        assert_eq!((known.status.as_u16(), &known.body), (200, &unknown.body), "{path}");
    }
}

async fn key(gate: &Gate, access: &str) -> (String, String) {
    let made = gate.client.post("/v1/auth/api-keys", &json!({ "name": "ci" })).bearer(access).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    (made.string("/key"), made.string("/id"))
}

#[tokio::test]
async fn a_key_as_bearer_reads_whose_it_is_and_changes_nothing() {
    let gate = Setup::default().product("langgraph").start().await.expect("SQLite is always there");
    let client = &gate.client;
    registered(client, "ann@example.com").await;
    let session = signed_in(client, "ann@example.com", PASSWORD).await;
    let access = text(&session, "access_token");
    let (key, id) = key(&gate, access).await;

    let profile = client.get("/v1/auth/profile").bearer(&key).send().await;
    assert_eq!(profile.status, 200, "{}", profile.text());
    assert_eq!(profile.json(), client.get("/v1/auth/profile").bearer(access).send().await.json());
    assert!(profile.header("x-ratelimit-limit").is_some());
    let passwords = json!({ "current_password": PASSWORD, "new_password": "Another_passw0rd" });
    for (method, path, body) in [
        ("PUT", "/v1/auth/profile", json!({ "name": "Eve" })),
        ("POST", "/v1/auth/password/change", passwords),
        ("GET", "/v1/auth/sessions", Value::Null),
        ("DELETE", "/v1/auth/sessions", Value::Null),
        ("POST", "/v1/auth/api-keys", json!({ "name": "more" })),
        ("GET", "/v1/auth/api-keys", Value::Null),
        ("DELETE", &format!("/v1/auth/api-keys/{id}"), Value::Null),
        ("POST", "/v1/auth/logout", json!({})),
    ] {
        let answer = client.ask(method, path).json(&body).bearer(&key).send().await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
    }
    // Opaque tokens of others, and other shapes, are nobody's.
    for stranger in ["ya29.a0AfH6SMBx", "gho_16C7e42F292c6912E7710c838347Ae178B4a", "a.b.c"] {
        assert_eq!(client.get("/v1/auth/profile").bearer(stranger).send().await.status, 401, "{stranger}");
    }
    let ended = client.ask("DELETE", &format!("/v1/auth/api-keys/{id}")).bearer(access).send().await;
    assert_eq!(ended.status, 200, "{}", ended.text());
    assert_eq!(client.get("/v1/auth/profile").bearer(&key).send().await.status, 401);
}

#[tokio::test]
async fn sessions_show_their_activity_and_an_idle_one_ends() {
    let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
    let setup = Setup::default().product("langgraph").clock(Arc::clone(&clock) as Arc<dyn Clock>);
    let gate = setup.start().await.expect("SQLite is always there");
    let client = &gate.client;
    registered(client, "ann@example.com").await;
    let first = signed_in(client, "ann@example.com", PASSWORD).await;
    clock.advance(Duration::from_mins(5));
    let second = signed_in(client, "ann@example.com", PASSWORD).await;
    clock.advance(Duration::from_mins(5));
    // The first is used and written down; the second asks.
    assert_eq!(client.get("/v1/auth/profile").bearer(text(&first, "access_token")).send().await.status, 200);
    gate.gateway().authenticator.flush_last_used().await.expect("the store");
    let listed = client.get("/v1/auth/sessions").bearer(text(&second, "access_token")).send().await.json();
    let sessions = listed["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 2, "{listed}");
    for session in sessions {
        assert_eq!(session["last_active"], clock.now().wall.to_rfc3339(), "{listed}");
        assert_eq!((&session["ip_address"], &session["device_info"]["platform"]), (&json!("127.0.0.1"), &json!("web")));
    }
    // A week of use by the first alone: the second has gone idle, and its refresh token with it.
    let mut refresh = text(&first, "refresh_token").to_owned();
    for _ in 0..8 {
        clock.advance(Duration::from_hours(22));
        let renewed = client.post("/v1/auth/refresh", &json!({ "refresh_token": refresh })).send().await;
        assert_eq!(renewed.status, 200, "{}", renewed.text());
        refresh = renewed.string("/refresh_token");
    }
    let idle = json!({ "refresh_token": text(&second, "refresh_token") });
    assert_eq!(client.post("/v1/auth/refresh", &idle).send().await.status, 401);
}

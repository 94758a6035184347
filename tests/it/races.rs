//! Two requests at once, at the wire: one winner, no 5xx, nothing minted twice. Each on SQLite, on PostgreSQL, and
//! through two gateways that share one PostgreSQL.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate::model::time::{Clock, SystemClock, TestClock};

use super::client::{Answer, Client};
use super::harness::{Database, Gate, Setup, environment, postgres};

const PASSWORD: &str = "Secure_passw0rd";

/// One gateway, or two on one database, and the folder of the key that both sign with.
struct Gates(Vec<Gate>, #[expect(dead_code, reason = "kept until the gateways end")] Option<tempfile::TempDir>);

#[derive(Clone, Copy)]
enum On {
    Sqlite,
    Postgres,
    Fleet,
}

impl Gates {
    async fn start(on: On, product: &'static str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = folder.path().join("rs256.pem");
        let setup = || {
            let signer = match product {
                "langgraph" => format!(
                    "{{ kid = \"one\", algorithm = \"RS256\", secret_file = \"{}\", generate = true }}",
                    key.display()
                ),
                _ => String::new(),
            };
            let setup = if product == "vantage" { Setup::default() } else { Setup::default().product(product) };
            setup.signer(&signer).site("[site.limits]\nnative_per_address = []\nfailed_credentials = []\n")
        };
        let gates = match on {
            On::Sqlite => vec![setup().start().await?],
            On::Postgres => vec![setup().database(Database::Postgres).start().await?],
            On::Fleet => {
                let (url, redis) = (postgres().await?, environment("TOLLGATE_TEST_REDIS_URL")?);
                let top = format!("[limits]\nredis_url = \"{redis}\"\n");
                let one = setup().url(&url).top(&top).start().await?;
                vec![one, setup().url(&url).top(&top).start().await?]
            }
        };
        Some(Self(gates, Some(folder)))
    }

    fn client(&self, at: usize) -> Client {
        self.0[at % self.0.len()].client.clone()
    }

    /// `count` requests at once, in turns at each gateway.
    async fn at_once(
        &self,
        count: usize,
        ask: impl Fn(usize) -> (&'static str, String, Option<String>, Value),
    ) -> Vec<Answer> {
        let mut asked = JoinSet::new();
        for at in 0..count {
            let (client, (method, path, bearer, body)) = (self.client(at), ask(at));
            asked.spawn(async move {
                let mut request = client.ask(method, &path);
                if !body.is_null() {
                    request = request.json(&body);
                }
                if let Some(bearer) = bearer {
                    request = request.header("authorization", bearer);
                }
                request.send().await
            });
        }
        let answers = asked.join_all().await;
        for answer in &answers {
            assert!(answer.status.as_u16() < 500, "{} {}", answer.status, answer.text());
        }
        answers
    }

    async fn langgraph_account(&self, email: &str) -> Value {
        let account = json!({ "email": email, "password": PASSWORD, "name": "Ann", "organization": "Ann Corp" });
        let made = self.client(0).post("/v1/auth/register", &account).send().await;
        assert_eq!(made.status, 201, "{}", made.text());
        self.langgraph_session(email).await
    }

    async fn langgraph_session(&self, email: &str) -> Value {
        let signed_in =
            self.client(0).post("/v1/auth/login", &json!({ "email": email, "password": PASSWORD })).send().await;
        assert_eq!(signed_in.status, 200, "{}", signed_in.text());
        signed_in.json()
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

async fn twenty_tabs_refresh_one_token(on: On) {
    let Some(gates) = Gates::start(on, "langgraph").await else { return };
    let session = gates.langgraph_account("ann@example.com").await;
    let refresh = text(&session, "refresh_token");
    let ask = |_| ("POST", "/v1/auth/refresh".into(), None, json!({ "refresh_token": refresh }));
    let answers = gates.at_once(20, ask).await;
    assert_eq!(count(&answers, 200), 20, "{:?}", answers.iter().map(Answer::text).collect::<Vec<_>>());
    let successors: HashSet<String> = answers.iter().map(|answer| answer.string("/refresh_token")).collect();
    assert_eq!(successors.len(), 1, "all tabs hold the same successor");
    // Every tab's access token is good, everywhere, and there is still one session.
    for (at, answer) in answers.iter().enumerate() {
        let listed = gates.client(at + 1).get("/v1/auth/sessions").bearer(&answer.string("/access_token")).send().await;
        assert_eq!(listed.json()["sessions"].as_array().map(Vec::len), Some(1), "{}", listed.text());
    }
    let successor = successors.into_iter().next().expect("there is one");
    let again = gates.client(1).post("/v1/auth/refresh", &json!({ "refresh_token": successor })).send().await;
    assert_eq!(again.status, 200);
}

async fn logout_against_refresh(on: On) {
    let Some(gates) = Gates::start(on, "langgraph").await else { return };
    gates.langgraph_account("ann@example.com").await;
    // Elsewhere it may take a second, which each round waits for.
    for _ in 0..if gates.0.len() > 1 { 2 } else { 8 } {
        let session = gates.langgraph_session("ann@example.com").await;
        let (access, refresh) = (text(&session, "access_token"), text(&session, "refresh_token"));
        let answers = gates
            .at_once(6, |at| match at {
                2 => (
                    "POST",
                    "/v1/auth/logout".into(),
                    Some(format!("Bearer {access}")),
                    json!({ "refresh_token": refresh }),
                ),
                _ => ("POST", "/v1/auth/refresh".into(), None, json!({ "refresh_token": refresh })),
            })
            .await;
        assert!(answers.iter().all(|answer| [200, 401].contains(&answer.status.as_u16())));
        // Whatever was handed out in between is over, at once where it was ended and within a second elsewhere.
        if gates.0.len() > 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        for answer in answers.iter().filter(|answer| answer.status == 200 && answer.json()["access_token"].is_string())
        {
            for at in 0..gates.0.len() {
                let token = answer.string("/access_token");
                assert_eq!(gates.client(at).get("/v1/auth/profile").bearer(&token).send().await.status, 401);
                let body = json!({ "refresh_token": answer.string("/refresh_token") });
                assert_eq!(gates.client(at).post("/v1/auth/refresh", &body).send().await.status, 401);
            }
        }
    }
}

async fn reset_against_reset(on: On) {
    let Some(gates) = Gates::start(on, "langgraph").await else { return };
    gates.langgraph_account("ann@example.com").await;
    let asked =
        gates.client(0).post("/v1/auth/password/reset-request", &json!({ "email": "ann@example.com" })).send().await;
    assert_eq!(asked.status, 200);
    let token = reset_token(&gates).await;
    let password = |at: usize| format!("Secure_passw0rd_{at}");
    let ask =
        |at| ("POST", "/v1/auth/password/reset".into(), None, json!({ "token": token, "new_password": password(at) }));
    let answers = gates.at_once(8, ask).await;
    assert_eq!((count(&answers, 200), count(&answers, 400)), (1, 7));
    let sign_in =
        |at| ("POST", "/v1/auth/login".into(), None, json!({ "email": "ann@example.com", "password": password(at) }));
    let answers = gates.at_once(8, sign_in).await;
    assert_eq!((count(&answers, 200), count(&answers, 401)), (1, 7), "one of the passwords is the password");
}

async fn reset_token(gates: &Gates) -> String {
    for _ in 0..100 {
        for gate in &gates.0 {
            let files =
                std::fs::read_dir(gate.directory.path().join("outbox")).into_iter().flatten().filter_map(Result::ok);
            for text in files.filter_map(|file| std::fs::read_to_string(file.path()).ok()) {
                let text = text.replace("=\r\n", "").replace("=3D", "=");
                let is_token = |line: &&str| {
                    line.len() > 30 && line.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
                };
                if let (true, Some(token)) =
                    (text.contains("Subject: Reset"), text.lines().map(str::trim).find(is_token))
                {
                    return token.to_owned();
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no reset mail");
}

async fn registrations_of_one_address_in_many_spellings(on: On) {
    let Some(gates) = Gates::start(on, "vantage").await else { return };
    for round in 0..3 {
        let spellings = [
            format!("ann{round}@example.com"),
            format!("ANN{round}@EXAMPLE.com"),
            format!("Ann{round}@Example.COM"),
            format!("\u{ff41}nn{round}@example.com"),
            format!("\u{ff21}\u{ff2e}\u{ff2e}{round}@example.com"),
            format!(" ann{round}@example.com "),
        ];
        let body = |at: usize| json!({ "email": spellings[at % spellings.len()], "password": PASSWORD, "name": "Ann" });
        let answers = gates.at_once(12, |at| ("POST", "/api/v1/auth/register".into(), None, body(at))).await;
        assert_eq!((count(&answers, 201), count(&answers, 409)), (1, 11), "round {round}");
        // Whatever spelling won, every spelling signs in to the one account.
        let answers = gates.at_once(6, |at| ("POST", "/api/v1/auth/login".into(), None, body(at))).await;
        let users: HashSet<String> = answers.iter().map(|answer| answer.string("/user/id")).collect();
        assert_eq!(users.len(), 1, "round {round}");
    }
}

async fn the_last_slot_of_a_window(on: On) {
    let Some(gates) = Gates::start(on, "vantage").await else { return };
    for round in 0..3 {
        let email = format!("ann{round}@example.com");
        let token = gates.0[0].signed_in(&email).await;
        gates.0[0].operate("PATCH", &format!("/orgs/{email}"), Some(json!({ "limits": ["7/1h"] }))).await;
        // What another gateway knows of it is a second old at most.
        if gates.0.len() > 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let bearer = format!("Bearer {token}");
        let answers = gates.at_once(30, |_| ("GET", "/api/v1/posts".into(), Some(bearer.clone()), Value::Null)).await;
        assert_eq!((count(&answers, 200), count(&answers, 429)), (7, 23), "round {round}");
        let mut left: Vec<u32> = answers
            .iter()
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.header("x-ratelimit-remaining").and_then(|text| text.parse().ok()).expect("a number"))
            .collect();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 2, 3, 4, 5, 6], "each admission was told its own place");
    }
}

async fn revocation_against_use(on: On) {
    let Some(gates) = Gates::start(on, "vantage").await else { return };
    let token = gates.0[0].signed_in("ann@example.com").await;
    gates.0[0].operate("PATCH", "/orgs/ann@example.com", Some(json!({ "limits": [] }))).await;
    for _ in 0..4 {
        let (key, id) = gates.0[0].api_key(&token, &["read:posts"]).await;
        let answers = gates
            .at_once(16, |at| match at {
                8 | 9 => ("DELETE", format!("/api/v1/api-keys/{id}"), Some(format!("Bearer {token}")), Value::Null),
                _ => ("GET", "/api/v1/posts".into(), Some(format!("ApiKey {key}")), Value::Null),
            })
            .await;
        assert!(answers.iter().all(|answer| [200, 401].contains(&answer.status.as_u16())));
        assert!(count(&answers, 200) >= 2, "both revocations were told that it is revoked");
        if gates.0.len() > 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let ask = |_| ("GET", "/api/v1/posts".into(), Some(format!("ApiKey {key}")), Value::Null);
        assert_eq!(count(&gates.at_once(4, ask).await, 401), 4);
    }
}

macro_rules! races {
    ($($race:ident: $sqlite:ident $postgres:ident $fleet:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $sqlite() {
            $race(On::Sqlite).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $postgres() {
            $race(On::Postgres).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $fleet() {
            $race(On::Fleet).await;
        }
    )*};
}

races! {
    twenty_tabs_refresh_one_token: twenty_tabs_share_a_successor_on_sqlite twenty_tabs_share_a_successor_on_postgresql twenty_tabs_share_a_successor_in_a_fleet,
    logout_against_refresh: a_logout_ends_what_a_refresh_beside_it_made_on_sqlite a_logout_ends_what_a_refresh_beside_it_made_on_postgresql a_logout_ends_what_a_refresh_beside_it_made_in_a_fleet,
    reset_against_reset: one_of_eight_resets_wins_on_sqlite one_of_eight_resets_wins_on_postgresql one_of_eight_resets_wins_in_a_fleet,
    registrations_of_one_address_in_many_spellings: one_of_many_spellings_registers_on_sqlite one_of_many_spellings_registers_on_postgresql one_of_many_spellings_registers_in_a_fleet,
    the_last_slot_of_a_window: the_last_slot_goes_to_one_on_sqlite the_last_slot_goes_to_one_on_postgresql the_last_slot_goes_to_one_in_a_fleet,
    revocation_against_use: a_revoked_key_is_used_no_more_on_sqlite a_revoked_key_is_used_no_more_on_postgresql a_revoked_key_is_used_no_more_in_a_fleet,
}

#[tokio::test]
async fn a_replay_within_the_grace_is_a_tab_and_from_its_end_on_a_thief() {
    for (wait, tab) in [(Duration::from_millis(9_999), true), (Duration::from_secs(10), false)] {
        let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
        let setup = Setup::default().product("langgraph").clock(Arc::clone(&clock) as Arc<dyn Clock>);
        let gates = Gates(vec![setup.start().await.expect("SQLite is always there")], None);
        let session = gates.langgraph_account("ann@example.com").await;
        let refresh = async |token: &str| {
            gates.client(0).post("/v1/auth/refresh", &json!({ "refresh_token": token })).send().await
        };
        let parent = text(&session, "refresh_token");
        let first = refresh(&parent).await;
        let successor = first.string("/refresh_token");
        clock.advance(wait);
        let replay = refresh(&parent).await;
        let access = first.string("/access_token");
        let profile = gates.client(0).get("/v1/auth/profile").bearer(&access).send().await.status.as_u16();
        if tab {
            assert_eq!(
                (replay.status.as_u16(), replay.string("/refresh_token"), profile),
                (200, successor.clone(), 200)
            );
            // The grandparent is nobody's tab, however soon.
            let grandchild = refresh(&successor).await.string("/refresh_token");
            assert_eq!(refresh(&parent).await.status, 401);
            assert_eq!(refresh(&grandchild).await.status, 401, "and it ends the family");
        } else {
            assert_eq!((replay.status.as_u16(), profile), (401, 401), "the whole session ends with it");
            assert_eq!(refresh(&successor).await.status, 401);
        }
    }
}

//! The products' pages, played against the gateway.

use serde_json::json;

use super::harness::{ADMIN_TOKEN, Database, Gate, Setup, environment};
use super::{samples, transcript};

const VANTAGE: &str = include_str!("../contracts/vantage/page.transcript");

#[tokio::test]
async fn the_vantage_page_is_served_byte_for_byte_on_sqlite() {
    let gate = Setup::default().database(Database::Sqlite).start().await.expect("SQLite is always there");
    transcript::play(&gate.client, VANTAGE).await;
}

#[tokio::test]
async fn the_vantage_page_is_served_byte_for_byte_on_postgresql() {
    let Some(gate) = Setup::default().database(Database::Postgres).start().await else { return };
    transcript::play(&gate.client, VANTAGE).await;
}

#[tokio::test]
async fn the_vantage_samples_run_unchanged_on_sqlite() {
    let gate = Setup::default().database(Database::Sqlite).start().await.expect("SQLite is always there");
    run_samples(gate, "vantage").await;
}

#[tokio::test]
async fn the_vantage_samples_run_unchanged_on_postgresql() {
    let Some(gate) = Setup::default().database(Database::Postgres).start().await else { return };
    run_samples(gate, "vantage").await;
}

/// The page's own curl, JavaScript and Python: the reader is an owner of a key-bearing plan, as the page has it.
async fn stackaudit_samples(database: Database) {
    let setup = Setup::default().product("stackaudit").database(database).answer(r#"{"audits":[]}"#);
    let Some(gate) = setup.start().await else { return };
    let account =
        json!({ "email": "reader@example.com", "password": "oldpassword123", "name": "R", "organizationName": "R" });
    let token = gate.client.post("/v1/auth/signup", &account).send().await.string("/token");
    let org = gate.admin.ask("PATCH", "/v1/sites/stackaudit/orgs/reader@example.com").bearer(ADMIN_TOKEN);
    assert_eq!(org.json(&json!({ "plan": "enterprise" })).send().await.status, 200);
    let fill = vec![("YOUR_TOKEN", token.clone()), ("eyJhbGciOiJIUzI1NiIs...", token.clone())];
    play_samples(&gate, "stackaudit", fill).await;
    let ended = gate.client.get("/v1/auth/me").bearer(&token).send().await;
    assert_eq!(ended.status, 401, "the last sample logs out");
}

async fn rag_modulo_samples(database: Database) {
    let Some(gate) = Setup::default().product("rag-modulo").database(database).start().await else { return };
    let account = json!({ "username": "user@example.com", "password": "secure_password", "email": "user@example.com" });
    assert_eq!(gate.client.post("/api/auth/register", &account).send().await.status, 201);
    let token = gate.client.post("/api/auth/login", &account).send().await.string("/access_token");
    play_samples(&gate, "rag-modulo", vec![("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...", token)]).await;
    let seen = gate.backend.last();
    assert_eq!((seen.path.as_str(), seen.one("x-user-email")), ("/api/search", Some("user@example.com")));
}

#[tokio::test]
async fn the_stackaudit_samples_run_unchanged_on_sqlite() {
    stackaudit_samples(Database::Sqlite).await;
}

#[tokio::test]
async fn the_stackaudit_samples_run_unchanged_on_postgresql() {
    stackaudit_samples(Database::Postgres).await;
}

#[tokio::test]
async fn the_rag_modulo_samples_run_unchanged_on_sqlite() {
    rag_modulo_samples(Database::Sqlite).await;
}

#[tokio::test]
async fn the_rag_modulo_samples_run_unchanged_on_postgresql() {
    rag_modulo_samples(Database::Postgres).await;
}

/// What the page's SDK does, by a stand-in for it: the key is somebody's, and each language makes the same account.
async fn langgraph_samples(database: Database) {
    for language in ["langgraph/python", "langgraph/javascript"] {
        let Some(gate) = Setup::default().product("langgraph").database(database).start().await else { return };
        let owner = json!({ "email": "owner@example.com", "password": "Secure_passw0rd", "name": "O" });
        assert_eq!(gate.client.post("/v1/auth/register", &owner).send().await.status, 201);
        let access = gate.client.post("/v1/auth/login", &owner).send().await.string("/access_token");
        let made = gate.client.post("/v1/auth/api-keys", &json!({ "name": "sdk" })).bearer(&access).send().await;
        let fill = vec![("your-api-key", made.string("/key")), ("secure_password", "Secure_passw0rd".to_owned())];
        play_samples(&gate, language, fill).await;
        let again = json!({ "email": "user@example.com", "password": "Secure_passw0rd", "name": "J" });
        if environment("TOLLGATE_TEST_REQUIRE_BACKENDS").is_some() {
            let taken = gate.client.post("/v1/auth/register", &again).send().await;
            assert_eq!(taken.status, 400, "{language} has registered: {}", taken.text());
        }
    }
}

#[tokio::test]
async fn the_langgraph_samples_run_on_a_stand_in_for_its_sdk_on_sqlite() {
    langgraph_samples(Database::Sqlite).await;
}

#[tokio::test]
async fn the_langgraph_samples_run_on_a_stand_in_for_its_sdk_on_postgresql() {
    langgraph_samples(Database::Postgres).await;
}

/// Plays the samples against the gateway, what the page tells its reader to fill in filled in.
async fn play_samples(gate: &Gate, product: &'static str, fill: Vec<(&'static str, String)>) {
    let origin = format!("https://localhost:{}", gate.client.address.port());
    let authority = gate.directory.path().join("certs/ca.pem");
    let played = move || {
        let fill: Vec<(&str, &str)> = fill.iter().map(|(name, value)| (*name, value.as_str())).collect();
        samples::run_samples(product, &origin, &authority, &fill)
    };
    let played = tokio::task::spawn_blocking(played).await.expect("no panic");
    played.unwrap_or_else(|told| panic!("{told}"));
}

/// The page's own Python, JavaScript and curl, by the account that they name.
async fn run_samples(gate: Gate, product: &'static str) {
    let account = json!({ "email": "user@example.com", "password": "secure_password", "name": "User" });
    let made = gate.client.post("/api/v1/auth/register", &account).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    let token = gate.client.post("/api/v1/auth/login", &account).send().await.string("/access_token");
    play_samples(&gate, product, vec![("<your_token>", token)]).await;
    // What reached the backend came from the account, by each language that this machine has.
    let seen = gate.backend.last();
    assert_eq!((seen.path.as_str(), seen.one("x-user-email")), ("/api/v1/posts", Some("user@example.com")));
    assert!(seen.all("authorization").is_empty());
    if environment("TOLLGATE_TEST_REQUIRE_BACKENDS").is_some() {
        assert_eq!(gate.backend.count(), 3, "Python, JavaScript and curl");
    }
}

/// Plays a product's page on one database.
async fn page(product: &'static str, transcript: &str, database: Database) {
    let Some(gate) = Setup::default().product(product).database(database).start().await else { return };
    transcript::play(&gate.client, transcript).await;
}

macro_rules! pages {
    ($($product:literal $sqlite:ident $postgres:ident,)*) => {$(
        #[tokio::test]
        async fn $sqlite() {
            page($product, include_str!(concat!("../contracts/", $product, "/page.transcript")), Database::Sqlite).await;
        }

        #[tokio::test]
        async fn $postgres() {
            page($product, include_str!(concat!("../contracts/", $product, "/page.transcript")), Database::Postgres).await;
        }
    )*};
}

pages! {
    "stackaudit" the_stackaudit_page_is_served_on_sqlite the_stackaudit_page_is_served_on_postgresql,
    "rag-modulo" the_rag_modulo_page_is_served_on_sqlite the_rag_modulo_page_is_served_on_postgresql,
    "chatops" the_chatops_page_is_served_on_sqlite the_chatops_page_is_served_on_postgresql,
    "langgraph" the_langgraph_page_is_served_on_sqlite the_langgraph_page_is_served_on_postgresql,
}

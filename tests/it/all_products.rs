//! All five products from the ready file, in one process: nothing of one is anything to another.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::backend::Backend;
use super::client::{Answer, Client};
use super::harness::{postgres, trusting};
use super::process::{Process, tollgate};

const PASSWORD: &str = "Secure_passw0rd";
const EMAIL: &str = "ann@example.com";
/// Enough for the whole matrix.
const NO_LIMIT: &str = "100000/1m";

/// What a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Access,
    Refresh,
    Key,
    Verify,
    Reset,
}

#[derive(Debug)]
struct Credential {
    product: usize,
    kind: Kind,
    text: String,
}

/// What is different about the products.
struct Product {
    name: &'static str,
    register: &'static str,
    login: &'static str,
    token: &'static str,
    /// Forwarded, for whoever is signed in.
    resource: &'static str,
    refresh: Option<&'static str>,
    keys: Option<&'static str>,
    /// The schemes that carry a key.
    key_schemes: &'static [&'static str],
}

const PRODUCTS: [Product; 5] = [
    Product {
        name: "vantage",
        register: "/api/v1/auth/register",
        login: "/api/v1/auth/login",
        token: "/access_token",
        resource: "/api/v1/posts",
        refresh: None,
        keys: Some("/api/v1/api-keys"),
        key_schemes: &["ApiKey"],
    },
    Product {
        name: "rag-modulo",
        register: "/api/auth/register",
        login: "/api/auth/login",
        token: "/access_token",
        resource: "/api/search",
        refresh: None,
        keys: None,
        key_schemes: &[],
    },
    Product {
        name: "stackaudit",
        register: "/v1/auth/signup",
        login: "/v1/auth/login",
        token: "/token",
        resource: "/v1/audits",
        refresh: None,
        keys: Some("/v1/organizations/api-keys"),
        key_schemes: &["Bearer", "ApiKey"],
    },
    Product {
        name: "chatops",
        register: "/api/v1/auth/register",
        login: "/api/v1/auth/login",
        token: "/access_token",
        resource: "/api/v1/servers",
        refresh: Some("/api/v1/auth/refresh"),
        keys: Some("/api/v1/servers/s1/api-keys"),
        key_schemes: &[],
    },
    Product {
        name: "langgraph",
        register: "/v1/auth/register",
        login: "/v1/auth/login",
        token: "/access_token",
        resource: "/v1/threads",
        refresh: Some("/v1/auth/refresh"),
        keys: Some("/v1/auth/api-keys"),
        key_schemes: &["Bearer"],
    },
];
const LANGGRAPH: usize = 4;

struct World {
    clients: Vec<Client>,
    backend: Backend,
    _process: Process,
    folder: tempfile::TempDir,
}

async fn world(store: Option<String>) -> World {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let backend = Backend::start().await;
    let mut command = tollgate(folder.path());
    command.args(["serve", "--config", concat!(env!("CARGO_MANIFEST_DIR"), "/config/all-products.toml")]);
    for (name, value) in [
        ("TOLLGATE__LISTEN__HTTPS", "127.0.0.1:0"),
        ("TOLLGATE__LISTEN__ADMIN", "127.0.0.1:0"),
        ("JWT_SECRET_KEY", "kX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD0sA"),
        ("JWT_SECRET", "0sAkX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD"),
    ] {
        command.env(name, value);
    }
    if let Some(url) = store {
        command.env("TOLLGATE__STORE__URL", url);
    }
    for (at, product) in PRODUCTS.iter().enumerate() {
        command.env(format!("{}_BACKEND", product.name.replace('-', "_").to_uppercase()), backend.url());
        for limit in ["FAILED_CREDENTIALS", "NATIVE_PER_ADDRESS"] {
            command.env(format!("TOLLGATE__SITE__{at}__LIMITS__{limit}"), NO_LIMIT);
        }
    }
    let mut process = Process::start(command);
    let address = process.address("https").await;
    let admin = Client { address: process.address("admin").await, host: "admin".into(), tls: None };
    let tls = trusting(&folder.path().join("certs/ca.pem"));
    let client = |name: &str| Client { address, host: format!("{name}.localhost"), tls: Some(tls.clone()) };
    let world = World {
        clients: PRODUCTS.iter().map(|product| client(product.name)).collect(),
        backend,
        _process: process,
        folder,
    };
    for at in 0..PRODUCTS.len() {
        world.register(at).await;
    }
    let token = std::fs::read_to_string(world.folder.path().join("data/secrets/admin")).expect("the operator's token");
    let paid = admin.ask("PATCH", &format!("/v1/sites/stackaudit/orgs/{EMAIL}")).bearer(token.trim());
    assert_eq!(paid.json(&json!({ "plan": "enterprise" })).send().await.status, 200);
    world
}

impl World {
    async fn register(&self, at: usize) {
        let body = json!({
            "email": EMAIL, "username": "ann", "password": PASSWORD, "password_confirm": PASSWORD, "name": "Ann",
            "full_name": "Ann", "organization": "Ann Corp", "organizationName": "Ann Corp",
        });
        let made = self.clients[at].post(PRODUCTS[at].register, &body).send().await;
        assert_eq!(made.status, 201, "{}: {}", PRODUCTS[at].name, made.text());
    }

    async fn sign_in(&self, at: usize) -> Answer {
        let name = if PRODUCTS[at].name == "chatops" { "username" } else { "email" };
        let answer =
            self.clients[at].post(PRODUCTS[at].login, &json!({ name: EMAIL, "password": PASSWORD })).send().await;
        assert_eq!(answer.status, 200, "{}: {}", PRODUCTS[at].name, answer.text());
        answer
    }

    /// Fresh credentials of every kind of every product.
    async fn credentials(&self) -> Vec<Credential> {
        let mut all = Vec::new();
        for (at, product) in PRODUCTS.iter().enumerate() {
            let mut add = |kind, text| all.push(Credential { product: at, kind, text });
            let answer = self.sign_in(at).await;
            let token = answer.string(product.token);
            if product.refresh.is_some() {
                add(Kind::Refresh, answer.string("/refresh_token"));
            }
            if let Some(keys) = product.keys {
                let made = self.clients[at].post(keys, &json!({ "name": "ci", "permissions": ["read:posts"] }));
                let made = made.bearer(&token).send().await;
                assert_eq!(made.status.as_u16() / 100, 2, "{}: {}", product.name, made.text());
                add(
                    Kind::Key,
                    made.json()
                        .pointer("/apiKey/key")
                        .or(made.json().pointer("/key"))
                        .and_then(Value::as_str)
                        .expect("a key")
                        .to_owned(),
                );
            }
            add(Kind::Access, token);
        }
        let langgraph = &self.clients[LANGGRAPH];
        let asked = langgraph.post("/v1/auth/password/reset-request", &json!({ "email": EMAIL })).send().await;
        assert_eq!(asked.status, 200);
        for kind in [Kind::Verify, Kind::Reset] {
            all.push(Credential {
                product: LANGGRAPH,
                kind,
                text: mailed(&self.folder.path().join("data/outbox"), kind).await,
            });
        }
        all
    }
}

/// The token in the newest mail of a kind: a line of its own, as no site page is configured.
async fn mailed(outbox: &Path, kind: Kind) -> String {
    let subject = if kind == Kind::Verify { "confirm" } else { "password" };
    for _ in 0..100 {
        let files = std::fs::read_dir(outbox).into_iter().flatten().filter_map(Result::ok);
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        for text in texts.map(|text| text.replace("=\r\n", "").replace("=3D", "=")) {
            let about = text.lines().any(|line| line.starts_with("Subject:") && line.to_lowercase().contains(subject));
            let token = text
                .lines()
                .map(str::trim)
                .find(|line| line.len() > 30 && line.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)));
            if let (true, Some(token)) = (about, token) {
                return token.to_owned();
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let names: Vec<_> = std::fs::read_dir(outbox)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|f| std::fs::read_to_string(f.path()))
        .collect();
    panic!("no mail of {kind:?}: {names:?}");
}

/// Every credential at every place: it passes where it belongs, and is nothing anywhere else.
async fn matrix(world: &World) {
    let credentials = world.credentials().await;
    let mut refused = 0;
    for (at, product) in PRODUCTS.iter().enumerate() {
        let client = &world.clients[at];
        for credential in &credentials {
            let Credential { product: of, kind, text } = credential;
            let own = *of == at;
            for scheme in ["Bearer", "ApiKey"] {
                let good = own
                    && match kind {
                        Kind::Access => scheme == "Bearer",
                        Kind::Key => product.key_schemes.contains(&scheme),
                        _ => false,
                    };
                let before = world.backend.count();
                let answer =
                    client.get(product.resource).header("authorization", format!("{scheme} {text}")).send().await;
                let what =
                    format!("{kind:?} of {} as {scheme} at {}: {}", PRODUCTS[*of].name, product.name, answer.text());
                assert_eq!(answer.status, if good { 200 } else { 401 }, "{what}");
                assert_eq!(world.backend.count() - before, usize::from(good), "{what}");
                refused += usize::from(!good);
            }
            if let Some(path) = product.refresh
                && !(own && *kind == Kind::Refresh)
            {
                let answer = client.post(path, &json!({ "refresh_token": text })).send().await;
                assert_eq!(answer.status, 401, "{kind:?} of {} refreshes {}", PRODUCTS[*of].name, product.name);
                refused += 1;
            }
        }
    }
    let langgraph = &world.clients[LANGGRAPH];
    for Credential { product, kind, text } in &credentials {
        if (*product, *kind) != (LANGGRAPH, Kind::Verify) {
            let answer = langgraph.post("/v1/auth/email/verify", &json!({ "token": text })).send().await;
            assert_eq!(answer.status, 400, "{kind:?} of {} verifies", PRODUCTS[*product].name);
        }
        if (*product, *kind) != (LANGGRAPH, Kind::Reset) {
            let body = json!({ "token": text, "new_password": "Another_passw0rd" });
            let answer = langgraph.post("/v1/auth/password/reset", &body).send().await;
            assert_eq!(answer.status, 400, "{kind:?} of {} resets", PRODUCTS[*product].name);
        }
        if (*product, *kind) != (LANGGRAPH, Kind::Refresh) {
            let answer = langgraph.post("/v1/auth/logout", &json!({ "refresh_token": text })).send().await;
            assert_eq!(answer.status, 401, "{kind:?} of {} signs out", PRODUCTS[*product].name);
        }
        refused += 3;
    }
    assert!(refused > 150, "{refused}");
    // And each is still good where it belongs.
    for Credential { product, kind, text } in &credentials {
        let client = &world.clients[*product];
        let post = async |path: &str, body: Value| client.post(path, &body).send().await.status.as_u16();
        let status = match kind {
            Kind::Refresh => {
                post(PRODUCTS[*product].refresh.expect("it has one"), json!({ "refresh_token": text })).await
            }
            Kind::Verify => post("/v1/auth/email/verify", json!({ "token": text })).await,
            Kind::Reset => post("/v1/auth/password/reset", json!({ "token": text, "new_password": PASSWORD })).await,
            Kind::Access | Kind::Key => continue,
        };
        assert_eq!(status, 200, "{kind:?} of {}", PRODUCTS[*product].name);
    }
}

/// One product's limits, failures and ends are its own.
async fn limits_are_not_shared(world: &World) {
    // stackaudit's second account is on the free plan: ten a minute.
    let body = json!({ "email": "bob@example.com", "password": PASSWORD, "name": "Bob", "organizationName": "Bob" });
    let stackaudit = &world.clients[2];
    let token = stackaudit.post("/v1/auth/signup", &body).send().await.string("/token");
    let mut statuses = Vec::new();
    for _ in 0..11 {
        statuses.push(stackaudit.get("/v1/audits").bearer(&token).send().await.status.as_u16());
    }
    assert_eq!((statuses[..10].iter().all(|status| *status == 200), statuses[10]), (true, 429), "{statuses:?}");
    for (at, product) in PRODUCTS.iter().enumerate().filter(|(at, _)| *at != 2) {
        let token = world.sign_in(at).await.string(product.token);
        assert_eq!(world.clients[at].get(product.resource).bearer(&token).send().await.status, 200, "{}", product.name);
    }
    // Ten failed sign-ins lock an account out here, and nowhere else.
    for at in 0..11 {
        let answer =
            world.clients[0].post(PRODUCTS[0].login, &json!({ "email": EMAIL, "password": "wrong" })).send().await;
        assert_eq!(answer.status, if at < 10 { 401 } else { 429 });
    }
    for at in 1..PRODUCTS.len() {
        world.sign_in(at).await;
    }
}

#[tokio::test]
async fn no_credential_of_one_product_is_anything_to_another_on_sqlite() {
    let world = world(None).await;
    matrix(&world).await;
    limits_are_not_shared(&world).await;
}

#[tokio::test]
async fn no_credential_of_one_product_is_anything_to_another_on_postgresql() {
    let Some(url) = postgres().await else { return };
    matrix(&world(Some(url)).await).await;
}

//! A whole gateway for one test: real TLS on port 0, a real store, a real backend, nothing shared.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tollgate::app::{self, Parts, Running};
use tollgate::config;
use tollgate::model::entropy::SystemEntropy;
use tollgate::model::time::{Clock, SystemClock};
use tollgate::observe::log::Logs;
use tollgate::observe::metrics::Metrics;

use super::backend::Backend;
use super::client::{Answer, Client};

/// Signs the tokens of every test gateway: tests forge with it too.
pub const TOKEN_SECRET: &str = "c3ViamVjdC10by10ZXN0cy1vbmx5LTAxMjM0NTY3ODk";
pub const ADMIN_TOKEN: &str = "b3BlcmF0b3ItdG9rZW4tZm9yLXRlc3RzLW9ubHktOTg3";
const PEPPER: &str = "cGVwcGVyLWZvci10ZXN0cy1vbmx5LWFiY2RlZmdoaWo";

/// Where a test's accounts live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

/// How to set a gateway up.
pub struct Setup {
    database: Database,
    clock: Arc<dyn Clock>,
    first: String,
    site: String,
    top: String,
    listen: String,
    routes: String,
    keys: String,
    product: &'static str,
    mail: Option<String>,
    answer: Option<&'static str>,
    logs: Logs,
    url: Option<String>,
    signer: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            database: Database::Sqlite,
            clock: Arc::new(SystemClock::new()),
            first: String::new(),
            site: String::new(),
            top: String::new(),
            listen: String::new(),
            routes: "[[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\n".to_owned(),
            keys: String::new(),
            product: "vantage",
            mail: None,
            answer: None,
            logs: Logs::off(),
            url: None,
            signer: String::new(),
        }
    }
}

/// A running gateway with its backend.
pub struct Gate {
    pub client: Client,
    /// The same without TLS.
    pub plain: Client,
    pub admin: Client,
    pub backend: Backend,
    pub directory: TempDir,
    running: Option<Running>,
}

impl Setup {
    pub fn database(mut self, database: Database) -> Self {
        self.database = database;
        self
    }

    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// More keys of the site itself.
    pub fn first(mut self, toml: &str) -> Self {
        self.first.push_str(toml);
        self
    }

    /// More lines for the site's own tables, such as `[site.limits]`.
    pub fn site(mut self, toml: &str) -> Self {
        self.site.push_str(toml);
        self.site.push('\n');
        self
    }

    /// More top-level tables.
    pub fn top(mut self, toml: &str) -> Self {
        self.top.push_str(toml);
        self.top.push('\n');
        self
    }

    /// More lines for `[listen]`.
    pub fn listen(mut self, toml: &str) -> Self {
        self.listen.push_str(toml);
        self
    }

    /// Other routes than `* /api/v1/{*rest}`.
    pub fn routes(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.routes);
        self
    }

    /// Token keys beside the one that signs.
    pub fn more_keys(mut self, toml: &str) -> Self {
        self.keys = format!(", {toml}");
        self
    }

    /// Another product than vantage, forwarding everything that is not its own.
    pub fn product(mut self, product: &'static str) -> Self {
        self.product = product;
        "[[site.route]]\nmatch = \"* /{*rest}\"\nupstream = \"app\"\n".clone_into(&mut self.routes);
        if product == "langgraph" {
            self.site.push_str("[site.mail]\nproduct = \"LangGraph\"\nfrom = \"no-reply@example.com\"\n");
        }
        self
    }

    /// A database that is there already, to be shared.
    pub fn url(mut self, url: &str) -> Self {
        self.url = Some(url.to_owned());
        self
    }

    /// Another signing key than the usual one; an empty text changes nothing.
    pub fn signer(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.signer);
        self
    }

    /// What the backend answers, in place of the path.
    pub fn answer(mut self, text: &'static str) -> Self {
        self.answer = Some(text);
        self
    }

    /// How mails leave, in place of an outbox folder.
    pub fn mail(mut self, toml: &str) -> Self {
        self.mail = Some(toml.to_owned());
        self
    }

    /// A log, where none is kept otherwise.
    pub fn logs(mut self, logs: Logs) -> Self {
        self.logs = logs;
        self
    }

    /// Starts it; `None` (and a line that says so) where the database is not there.
    pub async fn start(self) -> Option<Gate> {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let url = match (&self.url, self.database) {
            (Some(url), _) => url.clone(),
            (None, Database::Sqlite) => format!("sqlite://{}/store/tollgate.db", directory.path().display()),
            (None, Database::Postgres) => postgres().await?,
        };
        let backend = Backend::answering(self.answer).await;
        let text = self.toml(directory.path(), &url, &backend);
        let env = std::collections::BTreeMap::new();
        let inputs =
            config::Inputs { env: &env, flags: &[], entropy: &SystemEntropy, write: true, generation: 1, kept: None };
        let loaded = config::load_text("test.toml", &text, &inputs)
            .unwrap_or_else(|errors| panic!("{}", errors.iter().map(ToString::to_string).collect::<String>()));
        let metrics = Arc::new(Metrics::new(self.clock.now().wall));
        let parts = Parts { clock: self.clock, entropy: Arc::new(SystemEntropy), metrics, logs: self.logs };
        let running = app::start(loaded, parts).await.expect("the gateway starts");
        let tls = trusting(&directory.path().join("certs/ca.pem"));
        let client =
            Client { address: running.https.expect("an https listener"), host: "localhost".into(), tls: Some(tls) };
        let plain = Client { address: running.http.expect("a plain listener"), host: "localhost".into(), tls: None };
        let admin = Client { address: running.admin.expect("an admin listener"), host: "admin".into(), tls: None };
        Some(Gate { client, plain, admin, backend, directory, running: Some(running) })
    }

    fn toml(&self, directory: &Path, url: &str, backend: &Backend) -> String {
        let Self { first, site, top, listen, routes, keys, product, mail, .. } = self;
        let signer = match *product {
            _ if !self.signer.is_empty() => self.signer.clone(),
            "langgraph" => format!(
                r#"{{ kid = "one", algorithm = "RS256", secret_file = "{}/rs256.pem", generate = true }}"#,
                directory.display()
            ),
            _ => format!(r#"{{ kid = "one", algorithm = "HS256", secret = "{TOKEN_SECRET}" }}"#),
        };
        let mail = match (mail, *product) {
            (Some(mail), _) => format!("[mail]\n{mail}\n"),
            (None, "langgraph") => {
                format!("[mail]\ntransport = \"outbox\"\noutbox = \"{}/outbox\"\n", directory.display())
            }
            (None, _) => String::new(),
        };
        let (directory, backend) = (directory.display(), backend.url());
        format!(
            r#"
[listen]
https = "127.0.0.1:0"
http = "127.0.0.1:0"
admin = "127.0.0.1:0"
{listen}
[admin]
token = "{ADMIN_TOKEN}"
[tls]
development = true
directory = "{directory}/certs"
[store]
url = "{url}"
[log]
level = "error"
access = false
{mail}
{top}
[[site]]
contract = "{product}"
hosts = ["localhost", "127.0.0.1"]
{first}
[site.tokens]
issuer = "test"
audience = "test"
keys = [{signer}{keys}]
[site.api_keys]
pepper = "{PEPPER}"
[site.upstream.app]
servers = ["{backend}"]
{site}
{routes}
"#
        )
    }
}

impl Gate {
    /// On SQLite with everything as it comes.
    pub async fn start() -> Self {
        Setup::default().start().await.expect("SQLite is always there")
    }

    /// Registers and signs in; the token.
    pub async fn signed_in(&self, email: &str) -> String {
        let body = serde_json::json!({ "email": email, "password": "correct horse battery", "name": "Test" });
        let made = self.client.post("/api/v1/auth/register", &body).send().await;
        assert_eq!(made.status, 201, "{}", made.text());
        let answer = self.client.post("/api/v1/auth/login", &body).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.string("/access_token")
    }

    /// Makes an API key with these permissions; its text and its id.
    pub async fn api_key(&self, token: &str, permissions: &[&str]) -> (String, String) {
        let body = serde_json::json!({ "name": "test", "permissions": permissions });
        let made = self.client.post("/api/v1/api-keys", &body).bearer(token).send().await;
        assert_eq!(made.status, 201, "{}", made.text());
        (made.string("/key"), made.string("/id"))
    }

    /// One act of the operator.
    pub async fn operate(&self, method: &str, resource: &str, body: Option<serde_json::Value>) -> Answer {
        let ask = self.admin.ask(method, &format!("/v1/sites/vantage{resource}")).bearer(ADMIN_TOKEN);
        match body {
            Some(body) => ask.json(&body).send().await,
            None => ask.send().await,
        }
    }

    /// A metric's value, by the start of its line.
    pub async fn metric(&self, line: &str) -> Option<f64> {
        let text = self.admin.get("/metrics").send().await.text();
        text.lines().find_map(|own| own.strip_prefix(line)?.trim().parse().ok())
    }

    /// The gateway itself, for what has no wire.
    pub fn gateway(&self) -> &tollgate::gateway::Gateway {
        &self.running.as_ref().expect("it runs").gateway
    }

    /// Stops it as SIGTERM would.
    pub async fn drain(&mut self) {
        if let Some(running) = self.running.take() {
            tokio::time::timeout(Duration::from_secs(20), running.drain()).await.expect("draining ends");
        }
    }
}

/// A client configuration that trusts one authority and nothing else.
pub fn trusting(authority: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority).expect("the authority's file") {
        roots.add(certificate.expect("a certificate")).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A PostgreSQL database of this test's own; `None` where there is no server.
pub async fn postgres() -> Option<String> {
    use sqlx::{Connection, Executor};
    let Some(server) = environment("TOLLGATE_TEST_POSTGRES_URL") else {
        assert!(environment("TOLLGATE_TEST_REQUIRE_BACKENDS").is_none(), "TOLLGATE_TEST_POSTGRES_URL is not set");
        eprintln!("skipped: TOLLGATE_TEST_POSTGRES_URL is not set");
        return None;
    };
    let mut name = [0_u8; 8];
    tollgate::model::entropy::Entropy::fill(&SystemEntropy, &mut name);
    let name = format!("it_{:016x}", u64::from_be_bytes(name));
    let mut connection = sqlx::PgConnection::connect(&server).await.expect("the test server answers");
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("a database of our own");
    connection.close().await.expect("a clean goodbye");
    let (base, query) =
        server.split_once('?').map_or((server.as_str(), String::new()), |(base, query)| (base, format!("?{query}")));
    let (server, _) = base.rsplit_once('/').expect("a URL with a database");
    Some(format!("{server}/{name}{query}"))
}

/// One variable of the environment.
#[expect(clippy::disallowed_methods, reason = "the test's own switches")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The binary under test.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tollgate"))
}

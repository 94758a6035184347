//! One gateway in this process with nothing listening, on SQLite in a temporary folder: what the benches of the
//! hot path decide requests with. Everything that a request asks for is remembered once it was asked for.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tollgate::config::{self, Loaded};
use tollgate::credential::api_key;
use tollgate::edge::authorize::{Permit, authorize};
use tollgate::edge::connection::{Connection, Place};
use tollgate::edge::exchange::Exchange;
use tollgate::edge::{authenticate, intake, route, throttle};
use tollgate::gateway::{Gateway, Live, Machines};
use tollgate::limit::addresses::AddressPlace;
use tollgate::model::access::{Permission, Permissions};
use tollgate::model::account::{Account, Organization, User};
use tollgate::model::api_key::ApiKey;
use tollgate::model::entropy::SystemEntropy;
use tollgate::model::id::{KeyId, OrgId, SessionId, UserId};
use tollgate::model::refusal::Refusal;
use tollgate::model::session::Session;
use tollgate::model::time::{Clock, SystemClock, Timestamp};
use tollgate::model::window::Window;
use tollgate::observe::log::Logs;
use tollgate::observe::metrics::Metrics;
use tollgate::observe::metrics::labels::Listener;
use tollgate::store::{Created, NewAccount, Registered, Store};

/// What requests ask for.
const HOST: &str = "api.example.com";
const PATH: &str = "/api/v1/posts/8f14e45f";

/// A gateway with one account that is signed in and has an API key.
pub struct World {
    pub gateway: Arc<Gateway>,
    /// `Bearer …`, HS256.
    pub token: String,
    /// `ApiKey …`, which may read posts.
    pub key: String,
    connection: Arc<Connection>,
    /// Has the store's tasks; what is decided by the benches needs none.
    pub runtime: tokio::runtime::Runtime,
    _folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let loaded = load(&folder);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let now = clock.now();
        let metrics = Arc::new(Metrics::new(now.wall));
        let store = runtime
            .block_on(Store::open(&loaded.boot.store, Arc::clone(&metrics), Arc::clone(&clock)))
            .expect("SQLite opens");
        let live = Live::new(loaded.snapshot, &metrics, None).expect("the configuration is good");
        let machines = Machines { clock, entropy: Arc::new(SystemEntropy), store, metrics, logs: Logs::off() };
        let gateway = Arc::new(Gateway::new(&loaded.boot, live, machines).expect("a gateway"));
        let live = Arc::clone(&gateway.live().sites[0]);
        let (realm, contract) = (&*live.site.realm, &*live.site.contract);

        let account = account(now.wall);
        let session = session(&account, now.wall);
        let text = api_key::mint(&contract.keys.as_ref().expect("it has keys").prefix, &SystemEntropy);
        let (key, hash) = (api_key(&account, now.wall), live.credentials.key_hash(text.expose()));
        let new = NewAccount {
            user: account.user.clone(),
            org: account.org.clone(),
            email_norm: account.user.email.clone(),
            username_norm: None,
            password_hash: "never asked for".to_owned().into(),
            session: Some(session.clone()),
            refresh: None,
            verification: None,
        };
        let token = runtime.block_on(async {
            assert_eq!(gateway.store.register(realm, &new).await.expect("SQLite"), Registered::Done);
            assert_eq!(gateway.store.create_key(realm, &key, &hash, 10).await.expect("SQLite"), Created::Done);
            gateway.authenticator.issue_token(&live.credentials, contract, &account, &session, now.wall).await
        });
        let token = format!("Bearer {}", token.expect("a token").text.expose());
        let key = format!("ApiKey {}", text.expose());
        let peer = "192.0.2.7:40000".parse().expect("an address");
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("there is one");
        let place = Place {
            permit: Some(permit),
            address: AddressPlace::default(),
            gauge: gateway.metrics.connections.opened(Listener::Http),
            seat: None,
            unnamed: false,
        };
        let connection = Arc::new(Connection::new(peer, None, None, place));
        let world = Self { gateway, token, key, connection, runtime, _folder: folder };
        for credential in [&world.token, &world.key] {
            let mut head = head(credential);
            world.runtime.block_on(world.decision(&mut head)).expect("the first decision loads what the next ones use");
        }
        world
    }

    pub fn begin(&self) -> Exchange {
        Exchange::begin(&self.gateway, &self.connection, Method::GET)
    }

    /// The whole decision, from a head to the permit that lets it pass.
    pub async fn decision(&self, head: &mut Parts) -> Result<Permit, Refusal> {
        let mut exchange = self.begin();
        intake::take(&mut exchange, head)?;
        let target = route::find(&mut exchange)?;
        authenticate::authenticate(&mut exchange, &head.headers, &target).await?;
        let permit = authorize(&exchange, target)?;
        throttle::admit(&mut exchange, &permit).await?;
        Ok(permit)
    }
}

/// What needs not wait, since everything is remembered: its answer at the first poll.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the hot path waited"),
    }
}

/// A request's head, as a client of an API sends it.
pub fn head(credential: &str) -> Parts {
    let request = Request::get(PATH)
        .header("host", HOST)
        .header("authorization", credential)
        .header("accept", "application/json")
        .header("user-agent", "bench/1")
        .header("accept-encoding", "gzip");
    request.body(()).expect("a request").into_parts().0
}

fn load(folder: &TempDir) -> Loaded {
    let (place, route) = (folder.path().display(), "* /api/v1/{*rest}");
    let text = format!(
        r#"
[listen]
http = "127.0.0.1:0"
[store]
url = "sqlite://{place}/bench.db"
[cache]
max_stale = "1d"
[[site]]
contract = "vantage"
hosts = ["{HOST}"]
[site.tokens]
access_ttl = "1d"
keys = [{{ kid = "1", algorithm = "HS256", secret_file = "{place}/tokens", generate = true }}]
[site.api_keys]
pepper_file = "{place}/pepper"
generate = true
[site.upstream.app]
servers = ["http://127.0.0.1:9"]
[[site.route]]
match = "{route}"
"#
    );
    let env = BTreeMap::new();
    let inputs =
        config::Inputs { env: &env, flags: &[], entropy: &SystemEntropy, write: true, generation: 1, kept: None };
    config::load_text("bench.toml", &text, &inputs).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// Two windows that a bench does not fill.
fn windows() -> Vec<Window> {
    [60, 86_400].map(|secs| Window { limit: u32::MAX, length: Duration::from_secs(secs), shadow: false }).to_vec()
}

fn account(now: Timestamp) -> Account {
    let org_id = OrgId::new(now, &SystemEntropy);
    let user = User {
        id: UserId::new(now, &SystemEntropy),
        org_id,
        email: "ada@example.com".to_owned(),
        username: None,
        name: Some("Ada Lovelace".to_owned()),
        role: "admin".to_owned(),
        email_verified: false,
        disabled: false,
        created_at: now,
        updated_at: now,
    };
    let org = Organization {
        id: org_id,
        name: "Example".to_owned(),
        plan: "free".to_owned(),
        limits: Some(windows()),
        disabled: false,
        created_at: now,
        updated_at: now,
    };
    Account { user, org }
}

fn session(account: &Account, now: Timestamp) -> Session {
    Session {
        id: SessionId::new(now, &SystemEntropy),
        user_id: account.user.id,
        org_id: account.org.id,
        created_at: now,
        last_active_at: now,
        ends_at: now.plus(Duration::from_hours(720)),
        revoked_at: None,
        address: None,
        device: serde_json::Value::Null,
    }
}

fn api_key(account: &Account, now: Timestamp) -> ApiKey {
    ApiKey {
        id: KeyId::new(now, &SystemEntropy),
        org_id: account.org.id,
        user_id: account.user.id,
        name: "bench".to_owned(),
        description: None,
        permissions: Permissions::new(vec![Permission::parse("read:posts").expect("a permission")]),
        attributes: BTreeMap::new(),
        created_at: now,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    }
}

//! One bench for every claim about the store: the same claim runs on SQLite and on PostgreSQL.
//!
//! PostgreSQL is asked for by `TOLLGATE_TEST_POSTGRES_URL`; each claim has a schema of its own there, removed
//! when it is over. Without the variable those claims say that they were skipped.

mod api_keys;
mod codes;
mod crash;
mod faults;
mod mails;
mod opening;
mod passwords;
mod peppers;
mod plans;
mod refresh;
mod sessions;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;

use crate::model::access::{Permission, Permissions};
use crate::model::account::{Organization, User};
use crate::model::api_key::{ApiKey, KeyHash};
use crate::model::code::{CodeHash, CodeKind};
use crate::model::entropy::{Entropy, SystemEntropy};
use crate::model::id::{KeyId, MailId, OrgId, SessionId, UserId};
use crate::model::mail::SealedMail;
use crate::model::secret::Secret;
use crate::model::session::Session;
use crate::model::time::{SystemClock, Timestamp};
use crate::observe::metrics::Metrics;

use super::{NewAccount, NewCode, Registered, Settings, Store, StoreError};

/// When claims play.
pub(super) const T0: Timestamp = Timestamp::from_secs(1_800_000_000);
/// The realm they play in.
pub(super) const REALM: &str = "shop";

const HOUR: Duration = Duration::from_hours(1);

/// Names the tests of claims `async fn claim(bench: Arc<Bench>)`, one for each database.
macro_rules! on_both {
    ($($claim:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $claim() {
                $crate::store::tests::on_sqlite(super::$claim).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $claim() {
                $crate::store::tests::on_postgres(super::$claim).await;
            })*
        }
    };
}

pub(super) use on_both;

/// An open, empty store.
pub(super) struct Bench {
    pub store: Store,
    pub settings: Settings,
    pub metrics: Arc<Metrics>,
}

pub(super) async fn on_sqlite<F: Future<Output = ()> + Send + 'static>(claim: impl FnOnce(Arc<Bench>) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/made/when/missing.db", folder.path().display());
    let bench = Bench::open(url).await;
    claim(bench.clone()).await;
    bench.store.close().await;
}

pub(super) async fn on_postgres<F: Future<Output = ()> + Send + 'static>(claim: impl FnOnce(Arc<Bench>) -> F) {
    let Some(schema) = Schema::make().await else { return };
    let bench = Bench::open(schema.url.clone()).await;
    let claim = Box::pin(claim(bench.clone()));
    schema
        .removed_after(async move {
            claim.await;
            bench.store.close().await;
        })
        .await;
}

/// For claims about PostgreSQL alone.
pub(super) async fn in_schema<F: Future<Output = ()> + Send + 'static>(claim: impl FnOnce(Arc<Schema>) -> F) {
    let Some(schema) = Schema::make().await else { return };
    let claim = Box::pin(claim(schema.clone()));
    schema.removed_after(claim).await;
}

/// A schema of our own in the PostgreSQL database of the tests.
pub(super) struct Schema {
    base: String,
    name: String,
    /// Opens it.
    pub url: String,
}

impl Schema {
    async fn make() -> Option<Arc<Self>> {
        #[expect(clippy::disallowed_methods, reason = "tests are configured by the environment")]
        let Ok(base) = std::env::var("TOLLGATE_TEST_POSTGRES_URL") else {
            println!("skipped: TOLLGATE_TEST_POSTGRES_URL is not set");
            return None;
        };
        let name = format!("tollgate_test_{}", new_user_id().to_text());
        let url = format!("{base}{}options[search_path]={name}", if base.contains('?') { '&' } else { '?' });
        let schema = Self { base, name, url };
        schema.execute(format!("CREATE SCHEMA {}", schema.name)).await;
        Some(Arc::new(schema))
    }

    /// Runs a claim as a task, so that the schema is removed even when the claim fails.
    async fn removed_after(&self, claim: impl Future<Output = ()> + Send + 'static) {
        let outcome = tokio::spawn(claim).await;
        self.execute(format!("DROP SCHEMA {} CASCADE", self.name)).await;
        if let Err(failure) = outcome {
            std::panic::resume_unwind(failure.into_panic());
        }
    }

    async fn execute(&self, sql: String) {
        let mut connection = sqlx::PgConnection::connect(&self.base).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}

/// A store whose counts nobody reads.
pub(super) async fn open(settings: &Settings) -> Result<Store, StoreError> {
    Store::open(settings, Arc::new(Metrics::new(T0)), Arc::new(SystemClock::new())).await
}

impl Bench {
    async fn open(url: String) -> Arc<Self> {
        let settings = Settings { url: url.into(), max_connections: 8, acquire_timeout: Duration::from_secs(10) };
        let metrics = Arc::new(Metrics::new(T0));
        let store = Store::open(&settings, metrics.clone(), Arc::new(SystemClock::new())).await.unwrap();
        Arc::new(Self { store, settings, metrics })
    }

    /// The same database as another process would have it.
    pub async fn elsewhere(&self) -> Store {
        open(&self.settings).await.unwrap()
    }

    /// The same database, with less patience.
    pub async fn impatient(&self) -> Store {
        let settings = Settings { acquire_timeout: Duration::from_millis(300), ..self.settings.clone() };
        open(&settings).await.unwrap()
    }

    /// Registers `name@example.com`.
    pub async fn registered(&self, name: &str) -> NewAccount {
        let new = account(name);
        assert_eq!(self.store.register(REALM, &new).await.unwrap(), Registered::Done);
        new
    }
}

pub(super) fn new_user_id() -> UserId {
    UserId::new(T0, &SystemEntropy)
}

/// A new account `name@example.com`, in an organization of its own, without a sign-in name or session.
pub(super) fn account(name: &str) -> NewAccount {
    let org = Organization {
        id: OrgId::new(T0, &SystemEntropy),
        name: format!("{name} & Co"),
        plan: "free".into(),
        limits: None,
        disabled: false,
        created_at: T0,
        updated_at: T0,
    };
    let user = User {
        id: new_user_id(),
        org_id: org.id,
        email: format!("{name}@Example.com"),
        username: None,
        name: Some(name.to_owned()),
        role: "admin".into(),
        email_verified: false,
        disabled: false,
        created_at: T0,
        updated_at: T0,
    };
    NewAccount {
        user,
        org,
        email_norm: format!("{name}@example.com"),
        username_norm: None,
        password_hash: Secret::new("$argon2id$1".into()),
        session: None,
        refresh: None,
        verification: None,
    }
}

/// The same account with a sign-in name.
pub(super) fn named(mut new: NewAccount, username: &str) -> NewAccount {
    new.user.username = Some(username.to_owned());
    new.username_norm = Some(username.to_lowercase());
    new
}

/// A session of that account, started at `at`, for an hour.
pub(super) fn session(of: &NewAccount, at: Timestamp) -> Session {
    Session {
        id: SessionId::new(at, &SystemEntropy),
        user_id: of.user.id,
        org_id: of.org.id,
        created_at: at,
        last_active_at: at,
        ends_at: at.plus(HOUR),
        revoked_at: None,
        address: None,
        device: serde_json::Value::Null,
    }
}

/// A key of that account, made at `at`, with its hash.
pub(super) fn key(of: &NewAccount, at: Timestamp) -> (ApiKey, KeyHash) {
    let key = ApiKey {
        id: KeyId::new(at, &SystemEntropy),
        org_id: of.org.id,
        user_id: of.user.id,
        name: "deploy".into(),
        description: None,
        permissions: Permissions::new(vec![Permission::parse("read:posts").unwrap()]),
        attributes: [("server_id".to_owned(), "a b\0c".to_owned())].into(),
        created_at: at,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    };
    (key, KeyHash(random()))
}

/// Bytes that no other call gave.
pub(super) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    SystemEntropy.fill(&mut bytes);
    bytes
}

/// A code that lives for an hour from `at`, with its mail.
pub(super) fn code(kind: CodeKind, at: Timestamp) -> NewCode {
    let mail = SealedMail { id: MailId::new(at, &SystemEntropy), sealed: random().to_vec() };
    NewCode { kind, hash: CodeHash(random()), ends_at: at.plus(HOUR), mail }
}

/// Runs `count` tasks at once, in turns on two stores as two nodes would have them: what they answered.
pub(super) async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    bench: &Bench,
    count: usize,
    task: impl Fn(Store, usize) -> F,
) -> Vec<T> {
    let elsewhere = bench.elsewhere().await;
    let stores = [&bench.store, &elsewhere];
    let tasks: Vec<_> = (0..count).map(|n| tokio::spawn(task(stores[n % 2].clone(), n))).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    elsewhere.close().await;
    answers
}

//! Opening: once or eight times at once, twice in a row, too late, and with a URL that cannot be used.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;

use super::super::{Pool, Requested, Settings, Started, Store, StoreError, Terms, migrate};
use super::{Bench, REALM, Schema, T0, account, code, on_both};
use crate::model::code::CodeKind;
use crate::model::id::SessionId;

on_both!(
    what_was_kept_is_there_after_opening_again,
    what_the_first_program_kept_is_there_after_an_upgrade,
    a_database_of_a_newer_program_is_refused,
    what_can_be_read_but_not_written_is_not_opened,
);

fn settings(url: String) -> Settings {
    Settings { url: url.into(), max_connections: 2, acquire_timeout: Duration::from_secs(5) }
}

async fn what_was_kept_is_there_after_opening_again(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    bench.store.close().await;
    let again = bench.elsewhere().await;
    assert!(again.credentials(REALM, &ann.email_norm).await.unwrap().is_some());
    again.close().await;
}

async fn what_the_first_program_kept_is_there_after_an_upgrade(bench: Arc<Bench>) {
    const BACK: &str = "DROP TABLE peppers; DROP TABLE mails; DROP TABLE codes; DROP TABLE api_keys; DROP TABLE sessions; \
        DROP TABLE sign_in_names; DROP TABLE users; DROP TABLE orgs; DROP TABLE feed; DROP TABLE changes; \
        DELETE FROM schema_versions WHERE version > 1";
    const KEPT: &str = "INSERT INTO orgs VALUES ('shop', '0a', 'ann & Co', 'pro', NULL, 0, 1, 1); \
        INSERT INTO users VALUES ('shop', '0b', '0a', 'ann@example.com', NULL, 'ann', 'admin', 0, '$argon2id$1', 0, 1, 1); \
        INSERT INTO sign_in_names VALUES ('shop', 'ann@example.com', '0b'); \
        INSERT INTO sessions VALUES ('shop', '0c', '0b', '0a', 1, 1, 9999999999999, NULL, NULL, NULL)";
    bench.store.close().await;
    let url = bench.settings.url.expose();
    let whole = |n: u8| format!("{n:032x}");
    let kept = ["0a", "0b", "0c"]
        .iter()
        .zip([10, 11, 12])
        .fold(KEPT.to_owned(), |sql, (short, id)| sql.replace(&format!("'{short}'"), &format!("'{}'", whole(id))));
    let first = migrate::MIGRATIONS[0].sql;
    if bench.store.backend() == "sqlite" {
        let mut other = sqlx::SqliteConnection::connect(url).await.unwrap();
        let sql = [BACK, &migrate::text_for("Sqlite", first), &kept].join(";");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut other).await.unwrap();
        other.close().await.unwrap();
    } else {
        let mut other = sqlx::PgConnection::connect(url).await.unwrap();
        let sql = [BACK, &migrate::text_for("Postgres", first), &kept].join(";");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut other).await.unwrap();
        other.close().await.unwrap();
    }

    let store = bench.elsewhere().await;
    let ann = store.credentials(REALM, "ann@example.com").await.unwrap().unwrap();
    let old = SessionId::from_text(&whole(12)).unwrap();
    assert_eq!(store.sessions(REALM, ann.account.user.id, T0).await.unwrap()[0].id, old);
    // And what is new works on it.
    let mut next = store.session(REALM, old).await.unwrap().unwrap();
    next.id = SessionId::from_text(&whole(13)).unwrap();
    let terms = Terms { password: Some(ann.password_version), most: Some(1), ..Terms::default() };
    assert_eq!(store.start_session(REALM, &next, &terms).await.unwrap(), Started::Done(vec![old]));
    let new = code(CodeKind::Verify, T0);
    assert_eq!(store.request_code(REALM, ann.account.user.id, &new, 5, T0).await.unwrap(), Requested::Done);
    store.close().await;
}

async fn a_database_of_a_newer_program_is_refused(bench: Arc<Bench>) {
    const NOTE: &str = "INSERT INTO schema_versions (version, name) VALUES (999, 'from the future')";
    let url = bench.settings.url.expose();
    if bench.store.backend() == "sqlite" {
        let mut other = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query(NOTE).execute(&mut other).await.unwrap();
    } else {
        let mut other = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query(NOTE).execute(&mut other).await.unwrap();
    }
    let Err(refused) = super::open(&bench.settings).await else { panic!("opened") };
    assert!(matches!(refused, StoreError::Newer { found: 999, known: migrate::NEWEST }));
    assert!(refused.to_string().starts_with("the database has schema version 999, this program knows up to"));
}

async fn open_eight_at_once(url: &str) {
    let all: Vec<_> = (0..8)
        .map(|n| {
            let settings = settings(url.to_owned());
            tokio::spawn(async move {
                let store = super::open(&settings).await?;
                store.register(REALM, &account(&format!("u{n}"))).await?;
                Ok::<Store, StoreError>(store)
            })
        })
        .collect();
    for one in all {
        one.await.unwrap().unwrap().close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_processes_may_open_a_new_sqlite_file_at_once() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        open_eight_at_once(&format!("sqlite://{}/new/tollgate.db", folder.path().display())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_nodes_may_open_a_new_postgres_schema_at_once() {
    super::in_schema(async |schema: Arc<Schema>| open_eight_at_once(&schema.url).await).await;
}

#[tokio::test]
async fn sqlite_files_are_ours_alone_and_commits_are_synced() {
    super::on_sqlite(async |bench: Arc<Bench>| {
        bench.registered("ann").await;
        let file = bench.settings.url.expose().trim_start_matches("sqlite://").to_owned();
        for suffix in ["", "-wal", "-shm"] {
            let mode = std::fs::metadata(format!("{file}{suffix}")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{suffix}");
        }
        let Pool::Sqlite { read, write } = &bench.store.pool else { unreachable!() };
        let text = async |pool: &sqlx::SqlitePool, pragma: &'static str| {
            sqlx::query_scalar::<_, String>(pragma).fetch_one(pool).await.unwrap()
        };
        let number = async |pool: &sqlx::SqlitePool, pragma: &'static str| {
            sqlx::query_scalar::<_, i64>(pragma).fetch_one(pool).await.unwrap()
        };
        assert_eq!(text(write, "PRAGMA journal_mode").await, "wal");
        assert_eq!(number(write, "PRAGMA synchronous").await, 2, "FULL");
        assert_eq!(number(write, "PRAGMA foreign_keys").await, 1);
        assert_eq!(number(write, "PRAGMA busy_timeout").await, 10_000);
        assert_eq!(number(read, "PRAGMA query_only").await, 1);
    })
    .await;
}

#[tokio::test]
async fn postgres_sessions_wait_for_the_log_and_for_nothing_else_without_end() {
    super::in_schema(async |schema: Arc<Schema>| {
        // As on a server whose default is to acknowledge early.
        let store = super::open(&settings(format!("{}&options[synchronous_commit]=off", schema.url))).await.unwrap();
        let Pool::Postgres(pool) = &store.pool else { unreachable!() };
        for (setting, expected) in [
            ("synchronous_commit", "on"),
            ("lock_timeout", "5s"),
            ("statement_timeout", "10s"),
            ("idle_in_transaction_session_timeout", "10s"),
            ("default_transaction_isolation", "read committed"),
        ] {
            let value: String =
                sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(pool).await.unwrap();
            assert_eq!(value, expected, "{setting}");
        }
        store.close().await;
        // A stronger default is kept.
        let store =
            super::open(&settings(format!("{}&options[synchronous_commit]=remote_apply", schema.url))).await.unwrap();
        let Pool::Postgres(pool) = &store.pool else { unreachable!() };
        let value: String =
            sqlx::query_scalar("SELECT current_setting('synchronous_commit')").fetch_one(pool).await.unwrap();
        assert_eq!(value, "remote_apply");
        store.close().await;
    })
    .await;
}

async fn what_can_be_read_but_not_written_is_not_opened(bench: Arc<Bench>) {
    // Root may write whatever a file's mode says: here PostgreSQL alone.
    if bench.store.backend() == "sqlite" {
        return;
    }
    let url = bench.settings.url.expose();
    let and = if url.contains('?') { '&' } else { '?' };
    let Err(error) = super::open(&settings(format!("{url}{and}options[default_transaction_read_only]=on"))).await
    else {
        panic!("opened")
    };
    assert!(matches!(error, StoreError::Unavailable { .. }) && error.to_string().contains("not written"), "{error}");
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_told_without_being_shown() {
    for url in [
        "mysql://root:hunter2@localhost/db",
        "sqlite::memory:",
        "sqlite://",
        "sqlite://?mode=memory",
        "postgres://someone:hunter2@localhost:port/db",
        "hunter2",
        "",
    ] {
        let Err(error) = super::open(&settings(url.to_owned())).await else { panic!("{url} was opened") };
        assert!(matches!(error, StoreError::Url { .. }), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    let Err(error) = super::open(&settings("sqlite:///proc/no/such/place.db".into())).await else { panic!("opened") };
    assert!(matches!(error, StoreError::Unavailable { .. }) && error.to_string().contains("/proc/no/such"), "{error}");
}

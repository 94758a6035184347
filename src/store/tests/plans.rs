//! Lookups use an index: with a million rows as with ten.

use std::sync::Arc;

use sqlx::Connection;

use super::super::{accounts, api_keys, changes, operator, sessions};
use super::{Bench, on_both};

on_both!(no_lookup_reads_a_whole_table);

const LOOKUPS: &[(&str, &str)] = &[
    ("account by name", accounts::BY_NAME),
    ("account by id", accounts::BY_ID),
    ("session by id", sessions::BY_ID),
    ("sessions of a user", sessions::OF_USER),
    ("ending a user's sessions", sessions::END_ALL),
    ("key by hash", api_keys::BY_HASH),
    ("key by id", api_keys::BY_ID),
    ("keys of an organization", api_keys::OF_ORG),
    ("live keys of an organization", api_keys::LIVE_UP_TO),
    ("users", operator::USERS),
    ("users of an organization", operator::USERS_OF_ORG),
    ("users by name", operator::USERS_NAMED),
    ("organizations", operator::ORGS),
    ("organization by id", operator::ORG),
    ("changes to purge", changes::OLDEST),
    ("expired sessions to purge", changes::EXPIRED),
    ("revoked sessions to purge", changes::REVOKED),
];

/// Lists whose order must come from the index as well, so that a page does not sort everything before it.
const PAGES: &[&str] = &["keys of an organization", "users", "users of an organization", "organizations"];

async fn no_lookup_reads_a_whole_table(bench: Arc<Bench>) {
    let url = bench.settings.url.expose();
    if bench.store.backend() == "sqlite" {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        for (what, sql) in LOOKUPS {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&mut connection).await.unwrap();
            let steps: Vec<&str> = steps.iter().map(|step| step.3.as_str()).collect();
            let scans = |step: &&str| step.starts_with("SCAN") && !step.contains("INDEX") && **step != *"SCAN live";
            assert!(!steps.iter().any(scans), "{what}: {steps:#?}");
            if PAGES.contains(what) {
                assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{what}: {steps:#?}");
            }
        }
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        // Empty tables are cheapest to read whole: told not to, the planner shows whether it could do otherwise.
        sqlx::raw_sql("SET enable_seqscan = off; SET enable_bitmapscan = off").execute(&mut connection).await.unwrap();
        for (what, sql) in LOOKUPS {
            let sql = (1..=9).fold((*sql).to_owned(), |sql, n| sql.replace(&format!("${n}"), "'1'"));
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {sql}"));
            let steps: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut connection).await.unwrap();
            assert!(!steps.iter().any(|step| step.contains("Seq Scan")), "{what}: {steps:#?}");
            assert!(steps.iter().any(|step| step.contains("Index")), "{what}: {steps:#?}");
        }
    }
}

//! Lookups use an index: with a million rows as with ten.

use std::sync::Arc;

use sqlx::Connection;

use super::super::{accounts, api_keys, changes, codes, mails, operator, passwords, refresh, sessions};
use super::{Bench, on_both};

on_both!(no_lookup_reads_a_whole_table);

/// Each lookup, and the columns that one index must narrow it down by.
const LOOKUPS: &[(&str, &str, &[&str])] = &[
    ("account by name", accounts::BY_NAME, &["realm", "name"]),
    ("account by id", accounts::BY_ID, &["realm", "id"]),
    ("session by id", sessions::BY_ID, &["realm", "id"]),
    ("sessions of a user", sessions::OF_USER, &["realm", "user_id"]),
    ("ending a user's sessions", sessions::END_ALL, &["realm", "user_id"]),
    ("making room for a session", sessions::MAKE_ROOM, &["realm", "user_id"]),
    ("holding a user's password", passwords::HOLD, &["realm", "id"]),
    ("rotating a refresh token", refresh::ROTATE, &["realm", "id"]),
    ("a refresh token's family", refresh::AFTER_EXCHANGE, &["realm", "id"]),
    ("using a refresh token", refresh::CHECK, &["realm", "id"]),
    ("code by hash", codes::BY_HASH, &["realm", "hash"]),
    ("using up a code", codes::USE_UP, &["realm", "hash"]),
    ("a user's mails of the last hour", mails::OF_LAST_HOUR, &["realm", "user_id", "queued_at"]),
    ("mail that is due", mails::DUE, &["next_at"]),
    ("taking a mail", mails::CLAIM, &["realm", "id"]),
    ("mails that wait", mails::WAITING, &[]),
    ("key by hash", api_keys::BY_HASH, &["realm", "hash"]),
    ("key by id", api_keys::BY_ID, &["realm", "id"]),
    ("keys of an organization", api_keys::OF_ORG, &["realm", "org_id", "id"]),
    ("a page of live keys", api_keys::LIVE_OF_ORG, &["realm", "org_id", "id"]),
    ("count of live keys of an organization", api_keys::LIVE_UP_TO, &["realm", "org_id", "revoked_at"]),
    ("users", operator::USERS, &["realm", "id"]),
    ("users of an organization", operator::USERS_OF_ORG, &["realm", "org_id", "id"]),
    ("users by name", operator::USERS_NAMED, &["realm", "name"]),
    ("organizations", operator::ORGS, &["realm", "id"]),
    ("organization by id", operator::ORG, &["realm", "id"]),
    ("changes to follow", changes::RANGE, &["seq"]),
    ("changes to purge", changes::OLDEST, &[]),
    ("expired sessions to purge", changes::EXPIRED, &["ends_at"]),
    ("revoked sessions to purge", changes::REVOKED, &["revoked_at"]),
    ("codes to purge", changes::CODES, &["ends_at"]),
    ("mails to purge", changes::MAILS, &["done_at"]),
];

/// Lists whose order must come from the index as well, so that a page does not sort everything before it.
const PAGES: &[&str] =
    &["keys of an organization", "users", "users of an organization", "organizations", "mail that is due"];

/// PostgreSQL plans by what the tables hold: enough rows of one realm that reading them all is a bad plan.
const ROWS: &str = "
    INSERT INTO orgs SELECT '1', md5('o' || n), 'org', 'free', NULL, 0, n, n FROM generate_series(1, 2000) n;
    INSERT INTO users SELECT '1', md5('u' || n), md5('o' || (n % 2000 + 1)), 'mail', NULL, NULL, 'admin', 0, 'hash', 0, n, n
        FROM generate_series(1, 8000) n;
    INSERT INTO sign_in_names SELECT '1', 'u' || n || '@example.com', md5('u' || n) FROM generate_series(1, 8000) n;
    INSERT INTO sessions SELECT '1', md5('s' || n), md5('u' || (n % 8000 + 1)), 'org', n, n, n,
        CASE WHEN n % 2 = 0 THEN n END, NULL, NULL FROM generate_series(1, 20000) n;
    INSERT INTO api_keys SELECT '1', md5('k' || n), md5('o' || (n % 2000 + 1)), md5('u' || (n % 8000 + 1)), md5('h' || n),
        'key', NULL, '', '{}', n, NULL, NULL, NULL, NULL FROM generate_series(1, 20000) n;
    INSERT INTO changes SELECT n, '1', 'key', 'id', n FROM generate_series(1, 20000) n;
    INSERT INTO codes SELECT '1', md5('u' || n), 'reset', md5('c' || n), n FROM generate_series(1, 8000) n;
    INSERT INTO mails SELECT '1', md5('m' || n), md5('u' || (n % 8000 + 1)), n, CASE WHEN n % 20 = 0 THEN '\\x00'::bytea END, -n,
        1, NULL, CASE WHEN n % 20 > 0 THEN n END FROM generate_series(1, 20000) n;
    ANALYZE orgs, users, sign_in_names, sessions, api_keys, changes, codes, mails";

async fn no_lookup_reads_a_whole_table(bench: Arc<Bench>) {
    let url = bench.settings.url.expose();
    if bench.store.backend() == "sqlite" {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        for (what, sql, columns) in LOOKUPS {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&mut connection).await.unwrap();
            let steps: Vec<&str> = steps.iter().map(|step| step.3.as_str()).collect();
            let scans = |step: &&str| step.starts_with("SCAN") && !step.contains("INDEX") && **step != *"SCAN live";
            assert!(!steps.iter().any(scans), "{what}: {steps:#?}");
            // `SEARCH … USING INDEX … (realm=? AND hash=?)`
            let narrows = |step: &&str| columns.iter().all(|column| bounds(step, column));
            assert!(steps.iter().any(narrows), "{what}: {steps:#?}");
            if PAGES.contains(what) {
                assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{what}: {steps:#?}");
            }
        }
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(ROWS).execute(&mut connection).await.unwrap();
        // A plan by bitmap is as good, but spells its conditions in two places.
        sqlx::raw_sql("SET enable_bitmapscan = off").execute(&mut connection).await.unwrap();
        for (what, sql, columns) in LOOKUPS {
            let sql = (1..=9).fold((*sql).to_owned(), |sql, n| sql.replace(&format!("${n}"), "'1'"));
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {sql}"));
            let steps: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut connection).await.unwrap();
            assert!(!steps.iter().any(|step| step.contains("Seq Scan")), "{what}: {steps:#?}");
            // `Index Cond: ((realm = '1'::text) AND (hash = '1'::text))`
            let narrows = |step: &String| {
                columns.is_empty()
                    || step.contains("Index Cond")
                        && columns.iter().all(|column| bounds(&step.replace(' ', ""), column))
            };
            assert!(steps.iter().any(narrows), "{what}: {steps:#?}");
        }
    }
}

fn bounds(step: &str, column: &str) -> bool {
    step.split_once('(').is_some_and(|(_, conditions)| {
        let named = |(at, _): (usize, &str)| {
            let before = conditions[..at].chars().next_back();
            let after = conditions[at + column.len()..].chars().next();
            before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_') && matches!(after, Some('=' | '<' | '>'))
        };
        conditions.match_indices(column).any(named)
    })
}

//! The change feed: what other processes must forget, in the order of commits.
//!
//! Numbers start at 1 and none is skipped, so that a follower can tell when it lost some. The feed says that a
//! fact changed, never what it is now: the follower drops what it had cached and asks again.

use std::sync::Arc;

use crate::model::change::{Change, Changed};
use crate::model::id::{KeyId, OrgId, SessionId, UserId};
use crate::model::time::Timestamp;

use super::pool::{Step, reading, writing};
use super::{Pool, Store, StoreError, pool};

/// Changes in one statement: each takes five parameters, and SQLite has 32,766.
pub(super) const AT_ONCE: usize = 1000;

/// Rows that one transaction of a purge removes: others get their turn in between.
const BATCH: i64 = 1000;

/// Batches of one purge: a backlog is worked off over several calls.
const BATCHES: usize = 100;

pub(super) const RAISE: &str = "UPDATE feed SET head = head + $1 WHERE id = 1 RETURNING head";

/// Appends changes in a transaction that is open and holds the feed's lock.
macro_rules! append {
    ($db:ident, $tx:expr, $realm:expr, $changed:expr, $now:expr) => {{
        let (tx, changed): (_, &[Changed]) = ($tx, $changed);
        let count = i64::try_from(changed.len()).expect("a list in memory is shorter than that");
        let head: i64 = sqlx::query_scalar(changes::RAISE).bind(count).fetch_one(&mut *tx).await?;
        let numbered: Vec<(i64, &Changed)> = (head - count + 1..).zip(changed).collect();
        for part in numbered.chunks(changes::AT_ONCE) {
            let mut insert =
                sqlx::QueryBuilder::<sqlx::$db>::new("INSERT INTO changes (seq, realm, kind, id, at) ");
            insert.push_values(part, |mut row, (seq, changed)| {
                let (kind, id) = changes::to_columns(**changed);
                row.push_bind(*seq).push_bind($realm).push_bind(kind).push_bind(id).push_bind($now.millis());
            });
            // One change is what nearly all writes have: that statement is worth keeping prepared.
            insert.build().persistent(part.len() == 1).execute(&mut *tx).await?;
        }
    }};
}

pub(super) use append;

/// What a purge removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Purged {
    /// Changes that every follower has long seen.
    pub changes: u64,
    /// Sessions that ended long ago.
    pub sessions: u64,
}

impl Store {
    /// The newest change's number; 0 before the first.
    pub async fn change_head(&self) -> Result<i64, StoreError> {
        reading!(self, |conn| {
            Ok(sqlx::query_scalar("SELECT head FROM feed WHERE id = 1").fetch_one(conn).await?)
        })
    }

    /// The changes after number `seq`, at most `limit`, in the order of their commits and without a gap: the
    /// first is `seq + 1`. [`StoreError::FeedBroken`] when they are no longer (or never were) there.
    pub async fn changes_since(&self, seq: i64, limit: u32) -> Result<Vec<(i64, Change)>, StoreError> {
        // One statement, so that the head and the rows are of one moment.
        const SINCE: &str = "SELECT f.head, c.seq, c.realm, c.kind, c.id FROM feed f \
            LEFT JOIN changes c ON c.seq > $1 WHERE f.id = 1 ORDER BY c.seq LIMIT $2";
        type Row = (i64, Option<i64>, Option<String>, Option<String>, Option<String>);
        let rows: Vec<Row> = reading!(self, |conn| {
            Ok(sqlx::query_as(SINCE).bind(seq).bind(i64::from(limit.max(1))).fetch_all(conn).await?)
        })?;
        let head = rows.first().map(|row| row.0).ok_or_else(|| StoreError::corrupt("the feed has no head"))?;
        let changes = rows
            .into_iter()
            .filter_map(|(_, seq, realm, kind, id)| Some((seq?, realm?, kind?, id?)))
            .map(|(seq, realm, kind, id)| {
                let changed = from_columns(&kind, &id)
                    .ok_or_else(|| StoreError::corrupt(format!("change {seq} is of no known kind")))?;
                Ok((seq, Change { realm: Arc::from(realm), changed }))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let expected = if head == seq { None } else { Some(seq + 1) };
        if changes.first().map(|(first, _)| *first) == expected {
            Ok(changes)
        } else {
            Err(StoreError::FeedBroken { since: seq, head })
        }
    }

    /// Removes changes made, and sessions ended, before `before`. Works in short transactions, and may leave a
    /// rest to the next call.
    pub async fn purge(&self, before: Timestamp) -> Result<Purged, StoreError> {
        let mut purged = Purged::default();
        for _ in 0..BATCHES {
            let changes = self.purge_changes(before).await?;
            let sessions = self.purge_sessions(before).await?;
            purged.changes += changes;
            purged.sessions += sessions;
            if changes + sessions == 0 {
                break;
            }
        }
        Ok(purged)
    }

    /// Only from the feed's start up to the first change that stays, whatever times clocks gave: the rest has no gap.
    async fn purge_changes(&self, before: Timestamp) -> Result<u64, StoreError> {
        const OLDEST: &str = "SELECT seq, at FROM changes ORDER BY seq LIMIT $1";
        writing!(self, |tx| {
            let oldest: Vec<(i64, i64)> = sqlx::query_as(OLDEST).bind(BATCH).fetch_all(&mut *tx).await?;
            match oldest.iter().take_while(|(_, at)| *at < before.millis()).last() {
                None => Step::Undo(0),
                Some((last, _)) => {
                    let gone = sqlx::query("DELETE FROM changes WHERE seq <= $1").bind(*last).execute(&mut *tx).await?;
                    Step::Keep(gone.rows_affected())
                }
            }
        })
    }

    async fn purge_sessions(&self, before: Timestamp) -> Result<u64, StoreError> {
        const EXPIRED: &str = "DELETE FROM sessions WHERE (realm, id) IN \
            (SELECT realm, id FROM sessions WHERE ends_at < $1 ORDER BY ends_at LIMIT $2)";
        const REVOKED: &str = "DELETE FROM sessions WHERE (realm, id) IN \
            (SELECT realm, id FROM sessions WHERE revoked_at IS NOT NULL AND revoked_at < $1 ORDER BY revoked_at LIMIT $2)";
        writing!(self, |tx| {
            let mut gone = 0;
            for sql in [EXPIRED, REVOKED] {
                gone += sqlx::query(sql).bind(before.millis()).bind(BATCH).execute(&mut *tx).await?.rows_affected();
            }
            Step::Keep(gone)
        })
    }
}

pub(super) fn to_columns(changed: Changed) -> (&'static str, String) {
    match changed {
        Changed::User(id) => ("user", id.to_text()),
        Changed::Org(id) => ("org", id.to_text()),
        Changed::Key(id) => ("key", id.to_text()),
        Changed::Session(id) => ("session", id.to_text()),
    }
}

fn from_columns(kind: &str, id: &str) -> Option<Changed> {
    match kind {
        "user" => UserId::from_text(id).map(Changed::User),
        "org" => OrgId::from_text(id).map(Changed::Org),
        "key" => KeyId::from_text(id).map(Changed::Key),
        "session" => SessionId::from_text(id).map(Changed::Session),
        _ => None,
    }
}

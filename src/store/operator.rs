//! What the operator reads and sets: lists, roles, plans, limits, flags.
//!
//! Names of roles and plans are kept as given: whether a contract knows them is for the caller to ask first.

use crate::model::account::{Account, Organization};
use crate::model::change::Changed;
use crate::model::id::{OrgId, UserId};
use crate::model::time::Timestamp;
use crate::model::window::Window;
use crate::observe::metrics::labels::StoreOperation;

use super::error::storable;
use super::pool::{changing, reading};
use super::rows::{Stored, org_columns, user_columns, windows_to_text};
use super::{AFTER_ALL_IDS, Page, Pool, Store, StoreError, changes, pool};

/// Which users a list holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum UserFilter {
    /// All of the realm.
    #[default]
    All,
    /// Those of one organization.
    Org(OrgId),
    /// Those whose address or sign-in name, normalised, starts so.
    Name(String),
}

macro_rules! users_where {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            user_columns!(),
            ", ",
            org_columns!(),
            " FROM users u JOIN orgs o ON o.realm = u.realm AND o.id = u.org_id WHERE u.realm = $1 AND u.id < $2",
            $condition,
            " ORDER BY u.id DESC LIMIT $3"
        )
    };
}

pub(super) const USERS: &str = users_where!("");
pub(super) const USERS_OF_ORG: &str = users_where!(" AND u.org_id = $4");
pub(super) const USERS_NAMED: &str = users_where!(
    " AND u.id IN (SELECT n.user_id FROM sign_in_names n WHERE n.realm = $1 AND n.name >= $4 AND n.name < $5)"
);

pub(super) const ORGS: &str =
    concat!("SELECT ", org_columns!(), " FROM orgs o WHERE o.realm = $1 AND o.id < $2 ORDER BY o.id DESC LIMIT $3");

pub(super) const ORG: &str = concat!("SELECT ", org_columns!(), " FROM orgs o WHERE o.realm = $1 AND o.id = $2");

impl Store {
    /// Users with their organizations, newest first.
    pub async fn users(
        &self,
        realm: &str,
        filter: &UserFilter,
        page: Page<UserId>,
    ) -> Result<Vec<Account>, StoreError> {
        let (sql, from, to) = match filter {
            UserFilter::All => (USERS, None, None),
            UserFilter::Org(org) => (USERS_OF_ORG, Some(org.to_text()), None),
            UserFilter::Name(prefix) if storable("prefix", prefix).is_err() => return Ok(Vec::new()),
            // The last code point there is: no name that starts with the prefix sorts behind it.
            UserFilter::Name(prefix) => (USERS_NAMED, Some(prefix.clone()), Some(format!("{prefix}\u{10ffff}"))),
        };
        let after = page.after.map_or(AFTER_ALL_IDS.to_owned(), UserId::to_text);
        let rows: Vec<Stored<Account>> = reading!(self, Users, |conn| {
            let mut query = sqlx::query_as(sql).bind(realm).bind(&after).bind(page.rows());
            for bound in [&from, &to].into_iter().flatten() {
                query = query.bind(bound);
            }
            Ok(query.fetch_all(conn).await?)
        })?;
        Ok(rows.into_iter().map(|stored| stored.0).collect())
    }

    /// Organizations, newest first.
    pub async fn orgs(&self, realm: &str, page: Page<OrgId>) -> Result<Vec<Organization>, StoreError> {
        let after = page.after.map_or(AFTER_ALL_IDS.to_owned(), OrgId::to_text);
        let rows: Vec<Stored<Organization>> = reading!(self, Organizations, |conn| {
            Ok(sqlx::query_as(ORGS).bind(realm).bind(&after).bind(page.rows()).fetch_all(conn).await?)
        })?;
        Ok(rows.into_iter().map(|stored| stored.0).collect())
    }

    /// One organization.
    pub async fn organization(&self, realm: &str, org: OrgId) -> Result<Option<Organization>, StoreError> {
        let found: Option<Stored<Organization>> = reading!(self, Organization, |conn| {
            Ok(sqlx::query_as(ORG).bind(realm).bind(org.to_text()).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// Gives a user a role. False: there is no such user.
    pub async fn set_role(&self, realm: &str, user: UserId, role: &str, now: Timestamp) -> Result<bool, StoreError> {
        const SET: &str = "UPDATE users SET role = $3, updated_at = $4 WHERE realm = $1 AND id = $2";
        storable("role", role)?;
        changing!(self, SetRole, realm, now, |tx| {
            let set = sqlx::query(SET).bind(realm).bind(user.to_text()).bind(role).bind(now.millis());
            found(set.execute(tx).await?.rows_affected(), Changed::User(user))
        })
    }

    /// Puts an organization on a plan. False: there is no such organization.
    pub async fn set_plan(&self, realm: &str, org: OrgId, plan: &str, now: Timestamp) -> Result<bool, StoreError> {
        const SET: &str = "UPDATE orgs SET plan = $3, updated_at = $4 WHERE realm = $1 AND id = $2";
        storable("plan", plan)?;
        changing!(self, SetPlan, realm, now, |tx| {
            let set = sqlx::query(SET).bind(realm).bind(org.to_text()).bind(plan).bind(now.millis());
            found(set.execute(tx).await?.rows_affected(), Changed::Org(org))
        })
    }

    /// Gives an organization windows of its own; `None`: its plan's count again; an empty list: no limit. False:
    /// there is no such organization.
    pub async fn set_limits(
        &self,
        realm: &str,
        org: OrgId,
        limits: Option<&[Window]>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        const SET: &str = "UPDATE orgs SET limits = $3, updated_at = $4 WHERE realm = $1 AND id = $2";
        let limits = limits.map(windows_to_text);
        changing!(self, SetLimits, realm, now, |tx| {
            let set = sqlx::query(SET).bind(realm).bind(org.to_text()).bind(&limits).bind(now.millis());
            found(set.execute(tx).await?.rows_affected(), Changed::Org(org))
        })
    }

    /// Shuts a user out, or lets them in again. False: there is no such user.
    pub async fn set_user_disabled(
        &self,
        realm: &str,
        user: UserId,
        disabled: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        const SET: &str = "UPDATE users SET disabled = $3, updated_at = $4 WHERE realm = $1 AND id = $2";
        changing!(self, SetDisabled, realm, now, |tx| {
            let set = sqlx::query(SET).bind(realm).bind(user.to_text()).bind(i64::from(disabled)).bind(now.millis());
            found(set.execute(tx).await?.rows_affected(), Changed::User(user))
        })
    }

    /// Shuts an organization's users and keys out, or lets them in again. False: there is no such organization.
    pub async fn set_org_disabled(
        &self,
        realm: &str,
        org: OrgId,
        disabled: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        const SET: &str = "UPDATE orgs SET disabled = $3, updated_at = $4 WHERE realm = $1 AND id = $2";
        changing!(self, SetDisabled, realm, now, |tx| {
            let set = sqlx::query(SET).bind(realm).bind(org.to_text()).bind(i64::from(disabled)).bind(now.millis());
            found(set.execute(tx).await?.rows_affected(), Changed::Org(org))
        })
    }
}

fn found(rows: u64, changed: Changed) -> (bool, Vec<Changed>) {
    if rows == 1 { (true, vec![changed]) } else { (false, vec![]) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{Bench, REALM, account, named, on_both};
    use super::*;

    on_both!(
        a_prefix_finds_addresses_and_sign_in_names_and_nothing_beside_them,
        pages_of_users_and_organizations_show_each_once,
    );

    async fn a_prefix_finds_addresses_and_sign_in_names_and_nothing_beside_them(bench: Arc<Bench>) {
        for (name, username) in [("ann", "zed"), ("anna", "annabel"), ("bob", "ann_x"), ("änn", "y%"), ("ao", "an")] {
            bench.store.register(REALM, &named(account(name), username)).await.unwrap();
        }
        let found = async |realm: &str, prefix: &str| {
            let filter = UserFilter::Name(prefix.to_owned());
            let users = bench.store.users(realm, &filter, Page::first(9)).await.unwrap();
            let mut names: Vec<String> = users.into_iter().filter_map(|account| account.user.name).collect();
            names.sort();
            names
        };
        assert_eq!(found(REALM, "ann").await, ["ann", "anna", "bob"], "anna once, though both her names fit");
        assert_eq!(found(REALM, "ann@").await, ["ann"]);
        assert_eq!(found(REALM, "ä").await, ["änn"]);
        assert_eq!(found(REALM, "an_").await, [""; 0], "no character stands for others");
        assert_eq!(found(REALM, "%").await, [""; 0]);
        assert_eq!(found(REALM, "").await.len(), 5);
        assert_eq!(found("other", "ann").await, [""; 0]);
    }

    async fn pages_of_users_and_organizations_show_each_once(bench: Arc<Bench>) {
        let mut made = Vec::new();
        for n in 0..7 {
            made.push(bench.registered(&format!("u{n}")).await);
        }
        made.sort_by_key(|new| std::cmp::Reverse(new.user.id));
        let (mut users, mut after) = (Vec::new(), None);
        while let Some(last) = {
            let page = bench.store.users(REALM, &UserFilter::All, Page { after, limit: 3 }).await.unwrap();
            users.extend(page.iter().map(|account| account.user.id));
            page.last().map(|account| account.user.id)
        } {
            after = Some(last);
        }
        assert_eq!(users, made.iter().map(|new| new.user.id).collect::<Vec<_>>());

        made.sort_by_key(|new| std::cmp::Reverse(new.org.id));
        let first = bench.store.orgs(REALM, Page::first(4)).await.unwrap();
        let rest = bench.store.orgs(REALM, Page { after: Some(first[3].id), limit: 0 }).await.unwrap();
        assert_eq!(rest, [made[4].org.clone()], "a limit of 0 counts as 1");
        assert_eq!(first, made[..4].iter().map(|new| new.org.clone()).collect::<Vec<_>>());
        let of_org = bench.store.users(REALM, &UserFilter::Org(made[2].org.id), Page::first(9)).await.unwrap();
        assert_eq!(of_org.iter().map(|account| account.user.id).collect::<Vec<_>>(), [made[2].user.id]);
    }
}

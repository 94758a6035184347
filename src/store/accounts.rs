//! Accounts: an organization, its user, and the names the user signs in with.

use crate::model::account::{Account, Organization, User};
use crate::model::change::Changed;
use crate::model::id::{OrgId, UserId};
use crate::model::secret::Secret;
use crate::model::session::Session;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

use super::codes::NewCode;
use super::error::storable;
use super::passwords::PasswordVersion;
use super::pool::{Step, changing, reading, writing};
use super::rows::{Stored, org_columns, user_columns, windows_to_text};
use super::sessions::NewRefresh;
use super::{Pool, Store, StoreError, changes, codes, pool, sessions};

/// What [`Store::register`] keeps, all of it or nothing.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// The user, of the organization below.
    pub user: User,
    /// Their organization, made with them.
    pub org: Organization,
    /// The address by which they sign in, normalised.
    pub email_norm: String,
    /// The sign-in name, normalised, where the product has one.
    pub username_norm: Option<String>,
    /// The password's hash, in PHC form.
    pub password_hash: Secret,
    /// A session started at once, where registering signs in.
    pub session: Option<Session>,
    /// That session's refresh token.
    pub refresh: Option<NewRefresh>,
    /// The code by which the address is proven, and the mail that carries it.
    pub verification: Option<NewCode>,
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The account is kept.
    Done,
    /// Somebody signs in with that address already.
    EmailTaken,
    /// Somebody signs in with that name already.
    UsernameTaken,
}

/// An account and what proves it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Whose.
    pub account: Account,
    /// The password's hash, in PHC form.
    pub password_hash: Secret,
    /// Which password that is, whatever its hash: for the session that it starts.
    pub password_version: PasswordVersion,
}

pub(super) const BY_NAME: &str = concat!(
    "SELECT u.password_hash AS password_hash, u.password_version AS password_version, ",
    user_columns!(),
    ", ",
    org_columns!(),
    " FROM sign_in_names n \
      JOIN users u ON u.realm = n.realm AND u.id = n.user_id \
      JOIN orgs o ON o.realm = u.realm AND o.id = u.org_id \
      WHERE n.realm = $1 AND n.name = $2"
);

pub(super) const BY_ID: &str = concat!(
    "SELECT ",
    user_columns!(),
    ", ",
    org_columns!(),
    " FROM users u JOIN orgs o ON o.realm = u.realm AND o.id = u.org_id WHERE u.realm = $1 AND u.id = $2"
);

const ADD_ORG: &str = "INSERT INTO orgs (realm, id, name, plan, limits, disabled, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

const ADD_USER: &str = "INSERT INTO users (realm, id, org_id, email, username, name, role, email_verified, \
    password_hash, disabled, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

const ADD_NAME: &str =
    "INSERT INTO sign_in_names (realm, name, user_id) VALUES ($1, $2, $3) ON CONFLICT (realm, name) DO NOTHING";

const NAME_TAKEN: &str = "SELECT COUNT(*) FROM sign_in_names WHERE realm = $1 AND name = $2 AND user_id <> $3";

impl Store {
    /// Keeps a new account with its organization and, if it has them, its first session and the code that proves its
    /// address. Of several registrations
    /// for one name at the same moment exactly one is kept.
    pub async fn register(&self, realm: &str, new: &NewAccount) -> Result<Registered, StoreError> {
        let NewAccount { user, org, .. } = new;
        let user_id = user.id.to_text();
        // Names are claimed in one order by everybody, so that two registrations which want each other's names
        // do not wait for each other.
        let mut names: Vec<&str> = [Some(&new.email_norm), new.username_norm.as_ref()]
            .into_iter()
            .flatten()
            .map(|name| storable("sign-in name", name))
            .collect::<Result<_, _>>()?;
        names.sort_unstable();
        names.dedup();
        for (what, text) in [
            ("email", Some(&user.email)),
            ("username", user.username.as_ref()),
            ("name", user.name.as_ref()),
            ("organization name", Some(&org.name)),
        ] {
            storable(what, text.map_or("", String::as_str))?;
        }

        writing!(self, Register, |tx| {
            sqlx::query(ADD_ORG)
                .bind(realm)
                .bind(org.id.to_text())
                .bind(&org.name)
                .bind(&org.plan)
                .bind(org.limits.as_deref().map(windows_to_text))
                .bind(i64::from(org.disabled))
                .bind(org.created_at.millis())
                .bind(org.updated_at.millis())
                .execute(&mut *tx)
                .await?;
            sqlx::query(ADD_USER)
                .bind(realm)
                .bind(&user_id)
                .bind(user.org_id.to_text())
                .bind(&user.email)
                .bind(&user.username)
                .bind(&user.name)
                .bind(&user.role)
                .bind(i64::from(user.email_verified))
                .bind(new.password_hash.expose())
                .bind(i64::from(user.disabled))
                .bind(user.created_at.millis())
                .bind(user.updated_at.millis())
                .execute(&mut *tx)
                .await?;
            let mut free = true;
            for name in &names {
                let claim = sqlx::query(ADD_NAME).bind(realm).bind(*name).bind(&user_id).execute(&mut *tx).await?;
                free &= claim.rows_affected() == 1;
                if !free {
                    break;
                }
            }
            if free {
                if let Some(session) = &new.session {
                    sessions::insert!(tx, realm, session, new.refresh.as_ref());
                }
                if let Some(code) = &new.verification {
                    codes::insert!(tx, realm, user.id, code, user.created_at);
                }
                Step::Keep(Registered::Done)
            } else {
                let others: i64 = sqlx::query_scalar(NAME_TAKEN)
                    .bind(realm)
                    .bind(&new.email_norm)
                    .bind(&user_id)
                    .fetch_one(&mut *tx)
                    .await?;
                Step::Undo(if others > 0 { Registered::EmailTaken } else { Registered::UsernameTaken })
            }
        })
    }

    /// The account that signs in with this address or name, given normalised.
    pub async fn credentials(&self, realm: &str, identifier_norm: &str) -> Result<Option<Credentials>, StoreError> {
        if storable("identifier", identifier_norm).is_err() {
            return Ok(None);
        }
        let found: Option<Stored<Credentials>> = reading!(self, Credentials, |conn| {
            Ok(sqlx::query_as(BY_NAME).bind(realm).bind(identifier_norm).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// A user with their organization.
    pub async fn account(&self, realm: &str, user: UserId) -> Result<Option<Account>, StoreError> {
        let found: Option<Stored<Account>> = reading!(self, Account, |conn| {
            Ok(sqlx::query_as(BY_ID).bind(realm).bind(user.to_text()).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// Sets the names of a user and of their organization; `None` leaves one as it is. False: there is no such user.
    pub async fn update_profile(
        &self,
        realm: &str,
        user: UserId,
        name: Option<&str>,
        org_name: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        const SET: &str = "UPDATE users SET name = COALESCE($3, name), updated_at = $4 \
            WHERE realm = $1 AND id = $2 RETURNING org_id";
        const SET_ORG: &str = "UPDATE orgs SET name = $3, updated_at = $4 WHERE realm = $1 AND id = $2";
        storable("name", name.unwrap_or_default())?;
        storable("organization name", org_name.unwrap_or_default())?;
        changing!(self, UpdateProfile, realm, now, |tx| {
            let set = sqlx::query_scalar(SET).bind(realm).bind(user.to_text()).bind(name).bind(now.millis());
            let org: Option<String> = set.fetch_optional(&mut *tx).await?;
            match (org, org_name) {
                (None, _) => (false, vec![]),
                (Some(_), None) => (true, vec![Changed::User(user)]),
                (Some(org), Some(org_name)) => {
                    let id = OrgId::from_text(&org).ok_or_else(|| StoreError::corrupt("column org_id in users"))?;
                    let set = sqlx::query(SET_ORG).bind(realm).bind(org).bind(org_name).bind(now.millis());
                    set.execute(&mut *tx).await?;
                    (true, vec![Changed::User(user), Changed::Org(id)])
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{Bench, REALM, T0, account, named, on_both, session};
    use super::super::{Page, UserFilter};
    use super::*;

    on_both!(
        an_account_reads_back_as_it_was_kept_and_only_in_its_realm,
        of_twenty_registrations_for_one_address_exactly_one_is_kept,
        a_refused_registration_leaves_nothing_behind,
        nobody_signs_in_with_what_is_anothers_name,
        registrations_that_want_each_others_names_do_not_deadlock,
        a_nul_is_refused_when_kept_and_finds_nobody_when_looked_up,
    );

    async fn an_account_reads_back_as_it_was_kept_and_only_in_its_realm(bench: Arc<Bench>) {
        let mut new = named(account("zoë"), "Zoë");
        new.org.limits = Some(vec!["10/1m".parse().unwrap(), "100/1d".parse().unwrap()]);
        new.user.email_verified = true;
        let mut first = session(&new, T0);
        first.address = Some("2001:db8::1".parse().unwrap());
        first.device = serde_json::json!({ "os": "plan\u{0}9", "n": 1.5 });
        new.session = Some(first.clone());
        assert_eq!(bench.store.register(REALM, &new).await.unwrap(), Registered::Done);

        let whole = Account { user: new.user.clone(), org: new.org.clone() };
        for name in ["zoë@example.com", "zoë"] {
            let found = bench.store.credentials(REALM, name).await.unwrap().unwrap();
            assert_eq!((&found.account, &found.password_hash), (&whole, &new.password_hash));
            assert!(bench.store.credentials("other", name).await.unwrap().is_none());
        }
        assert!(bench.store.credentials(REALM, "Zoë").await.unwrap().is_none(), "names are looked up normalised");
        assert_eq!(bench.store.account(REALM, new.user.id).await.unwrap(), Some(whole));
        assert_eq!(bench.store.account("other", new.user.id).await.unwrap(), None);
        assert_eq!(bench.store.session(REALM, first.id).await.unwrap(), Some(first));
        assert_eq!(bench.store.register("other", &new).await.unwrap(), Registered::Done, "realms share nothing");
    }

    async fn of_twenty_registrations_for_one_address_exactly_one_is_kept(bench: Arc<Bench>) {
        let elsewhere = bench.elsewhere().await;
        let all: Vec<_> = (0..20)
            .map(|n| {
                let store = if n % 2 == 0 { bench.store.clone() } else { elsewhere.clone() };
                tokio::spawn(async move { store.register(REALM, &account("ann")).await })
            })
            .collect();
        let mut outcomes = Vec::new();
        for one in all {
            outcomes.push(one.await.unwrap().unwrap());
        }
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Registered::Done).count(), 1);
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Registered::EmailTaken).count(), 19);
        assert_eq!(bench.store.users(REALM, &UserFilter::All, Page::first(100)).await.unwrap().len(), 1);
        assert_eq!(bench.store.orgs(REALM, Page::first(100)).await.unwrap().len(), 1);
        elsewhere.close().await;
    }

    async fn a_refused_registration_leaves_nothing_behind(bench: Arc<Bench>) {
        bench.store.register(REALM, &named(account("ann"), "ann")).await.unwrap();
        let mut same_name = named(account("bob"), "ANN");
        same_name.session = Some(session(&same_name, T0));
        assert_eq!(bench.store.register(REALM, &same_name).await.unwrap(), Registered::UsernameTaken);
        let both = named(account("ann"), "ann");
        assert_eq!(bench.store.register(REALM, &both).await.unwrap(), Registered::EmailTaken);

        assert_eq!(bench.store.orgs(REALM, Page::first(100)).await.unwrap().len(), 1);
        assert_eq!(bench.store.account(REALM, same_name.user.id).await.unwrap(), None);
        assert_eq!(bench.store.session(REALM, same_name.session.unwrap().id).await.unwrap(), None);
        assert!(bench.store.credentials(REALM, "bob@example.com").await.unwrap().is_none(), "the address stays free");
        let again = named(account("bob"), "bob");
        assert_eq!(bench.store.register(REALM, &again).await.unwrap(), Registered::Done);
    }

    async fn nobody_signs_in_with_what_is_anothers_name(bench: Arc<Bench>) {
        bench.registered("ann").await;
        // Somebody's address as one's sign-in name, and somebody's sign-in name as one's address.
        let squatter = named(account("eve"), "ann@example.com");
        assert_eq!(bench.store.register(REALM, &squatter).await.unwrap(), Registered::UsernameTaken);
        bench.store.register(REALM, &named(account("bob"), "carl@example.com")).await.unwrap();
        assert_eq!(bench.store.register(REALM, &account("carl")).await.unwrap(), Registered::EmailTaken);
        // One's own address as one's sign-in name harms nobody.
        let own = named(account("dan"), "dan@example.com");
        assert_eq!(bench.store.register(REALM, &own).await.unwrap(), Registered::Done);
    }

    async fn registrations_that_want_each_others_names_do_not_deadlock(bench: Arc<Bench>) {
        for round in 0..20 {
            let (a, b) = (format!("a{round}@example.com"), format!("b{round}@example.com"));
            let crossed = |name: String, other: String| {
                let store = bench.store.clone();
                tokio::spawn(async move { store.register(REALM, &named(account(&name), &other)).await })
            };
            let one = crossed(format!("a{round}"), b);
            let two = crossed(format!("b{round}"), a);
            let outcomes = [one.await.unwrap().unwrap(), two.await.unwrap().unwrap()];
            assert_eq!(outcomes.iter().filter(|outcome| **outcome == Registered::Done).count(), 1, "{outcomes:?}");
        }
    }

    async fn a_nul_is_refused_when_kept_and_finds_nobody_when_looked_up(bench: Arc<Bench>) {
        let spoiled: [fn(&mut NewAccount); 4] = [
            |new| new.user.name = Some("a\0".into()),
            |new| new.user.email = "a\0@b.example".into(),
            |new| new.org.name = "\0".into(),
            |new| new.email_norm = "a\0@b.example".into(),
        ];
        for spoil in spoiled {
            let mut new = account("ann");
            spoil(&mut new);
            assert!(matches!(bench.store.register(REALM, &new).await, Err(StoreError::Unstorable { .. })));
        }
        assert!(bench.store.credentials(REALM, "a\0").await.unwrap().is_none());
        let all = UserFilter::Name("a\0".into());
        assert!(bench.store.users(REALM, &all, Page::first(1)).await.unwrap().is_empty());
    }
}

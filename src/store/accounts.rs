//! Accounts: an organization, its user, and the names the user signs in with.

use crate::model::account::{Account, Organization, User};
use crate::model::change::Changed;
use crate::model::id::UserId;
use crate::model::secret::Secret;
use crate::model::session::Session;
use crate::model::time::Timestamp;

use super::error::storable;
use super::pool::{Step, changing, reading, writing};
use super::rows::{Stored, org_columns, user_columns, windows_to_text};
use super::{Pool, Store, StoreError, changes, pool, sessions};

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
}

pub(super) const BY_NAME: &str = concat!(
    "SELECT u.password_hash AS password_hash, ",
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
    /// Keeps a new account with its organization and, if it has one, its first session. Of several registrations
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

        writing!(self, |tx| {
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
                    sessions::insert!(tx, realm, session);
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
        let found: Option<Stored<Credentials>> = reading!(self, |conn| {
            Ok(sqlx::query_as(BY_NAME).bind(realm).bind(identifier_norm).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// A user with their organization.
    pub async fn account(&self, realm: &str, user: UserId) -> Result<Option<Account>, StoreError> {
        let found: Option<Stored<Account>> = reading!(self, |conn| {
            Ok(sqlx::query_as(BY_ID).bind(realm).bind(user.to_text()).fetch_optional(conn).await?)
        })?;
        Ok(found.map(|stored| stored.0))
    }

    /// Replaces a password's hash if it is still `expected`. False: it was changed meanwhile (or nobody is there).
    pub async fn set_password_hash(
        &self,
        realm: &str,
        user: UserId,
        expected: &Secret,
        new: &Secret,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        const SET: &str = "UPDATE users SET password_hash = $4, updated_at = $5 \
            WHERE realm = $1 AND id = $2 AND password_hash = $3";
        changing!(self, realm, now, |tx| {
            let set = sqlx::query(SET)
                .bind(realm)
                .bind(user.to_text())
                .bind(expected.expose())
                .bind(new.expose())
                .bind(now.millis())
                .execute(tx)
                .await?;
            let set = set.rows_affected() == 1;
            (set, if set { vec![Changed::User(user)] } else { vec![] })
        })
    }
}

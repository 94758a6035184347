//! Between rows and facts: how each fact is spelt in columns, and how it is read back.
//!
//! One implementation serves both databases. A row that cannot be read is damage, told with its column.

use std::collections::BTreeMap;
use std::fmt::Display;

use sqlx::{ColumnIndex, Database, Decode, FromRow, Row, Type};

use crate::model::access::{Permission, Permissions};
use crate::model::account::{Account, Organization, User};
use crate::model::api_key::ApiKey;
use crate::model::id::{KeyId, MailId, OrgId, SessionId, UserId};
use crate::model::secret::Secret;
use crate::model::session::Session;
use crate::model::time::Timestamp;
use crate::model::window::Window;

use super::accounts::Credentials;
use super::mails::QueuedMail;
use super::passwords::PasswordVersion;
use super::refresh::Exchanged;

/// The columns of an organization, under the names that [`Stored<Organization>`] reads.
macro_rules! org_columns {
    () => {
        "o.id AS org_id, o.name AS org_name, o.plan AS org_plan, o.limits AS org_limits, \
         o.disabled AS org_disabled, o.created_at AS org_created_at, o.updated_at AS org_updated_at"
    };
}

/// The columns of a user without those of the organization.
macro_rules! user_columns {
    () => {
        "u.id AS user_id, u.org_id AS user_org_id, u.email AS user_email, u.username AS user_username, \
         u.name AS user_name, u.role AS user_role, u.email_verified AS user_email_verified, \
         u.disabled AS user_disabled, u.created_at AS user_created_at, u.updated_at AS user_updated_at"
    };
}

/// The columns of a session.
macro_rules! session_columns {
    () => {
        "id, user_id, org_id, created_at, last_active_at, ends_at, revoked_at, address, device"
    };
}

/// The columns of an API key; its hash is never read back.
macro_rules! key_columns {
    () => {
        "id, org_id, user_id, name, description, permissions, attributes, created_at, expires_at, revoked_at, \
         last_used_at, replaced_by"
    };
}

pub(super) use {key_columns, org_columns, session_columns, user_columns};

/// A fact as it came out of a row.
pub(super) struct Stored<T>(pub T);

impl<'r, R: Columns<'r>> FromRow<'r, R> for Stored<Organization> {
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self(Organization {
            id: row.read("org_id", OrgId::from_text)?,
            name: row.text("org_name")?,
            plan: row.text("org_plan")?,
            limits: row.read_some("org_limits", windows_from_text)?,
            disabled: row.flag("org_disabled")?,
            created_at: row.time("org_created_at")?,
            updated_at: row.time("org_updated_at")?,
        }))
    }
}

impl<'r, R: Columns<'r>> FromRow<'r, R> for Stored<Account> {
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let user = User {
            id: row.read("user_id", UserId::from_text)?,
            org_id: row.read("user_org_id", OrgId::from_text)?,
            email: row.text("user_email")?,
            username: row.some_text("user_username")?,
            name: row.some_text("user_name")?,
            role: row.text("user_role")?,
            email_verified: row.flag("user_email_verified")?,
            disabled: row.flag("user_disabled")?,
            created_at: row.time("user_created_at")?,
            updated_at: row.time("user_updated_at")?,
        };
        Ok(Self(Account { user, org: Stored::from_row(row)?.0 }))
    }
}

impl<'r, R: Columns<'r>> FromRow<'r, R> for Stored<Credentials> {
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self(Credentials {
            account: Stored::from_row(row)?.0,
            password_hash: Secret::new(row.text("password_hash")?),
            password_version: PasswordVersion::numbered(row.number("password_version")?),
        }))
    }
}

impl<'r, R: Columns<'r>> FromRow<'r, R> for Stored<Session> {
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self(Session {
            id: row.read("id", SessionId::from_text)?,
            user_id: row.read("user_id", UserId::from_text)?,
            org_id: row.read("org_id", OrgId::from_text)?,
            created_at: row.time("created_at")?,
            last_active_at: row.time("last_active_at")?,
            ends_at: row.time("ends_at")?,
            revoked_at: row.some_time("revoked_at")?,
            address: row.read_some("address", |text| text.parse().ok())?,
            device: row.read_some("device", |text| serde_json::from_str(text).ok())?.unwrap_or_default(),
        }))
    }
}

impl<'r, R: Columns<'r>> FromRow<'r, R> for Stored<Exchanged> {
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let rotated_at = row.some_time("rotated_at")?;
        Ok(Self(Exchanged { session: Stored::from_row(row)?.0, rotated_at }))
    }
}

impl<'r, R: Columns<'r>> FromRow<'r, R> for Stored<QueuedMail> {
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self(QueuedMail {
            realm: row.text("realm")?,
            id: row.read("id", MailId::from_text)?,
            sealed: row.bytes("sealed")?,
            attempts: u32::try_from(row.number("attempts")?).map_err(|_| unreadable("attempts"))?,
        }))
    }
}

impl<'r, R: Columns<'r>> FromRow<'r, R> for Stored<ApiKey> {
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self(ApiKey {
            id: row.read("id", KeyId::from_text)?,
            org_id: row.read("org_id", OrgId::from_text)?,
            user_id: row.read("user_id", UserId::from_text)?,
            name: row.text("name")?,
            description: row.some_text("description")?,
            permissions: row.read("permissions", permissions_from_text)?,
            attributes: row.read("attributes", |text| serde_json::from_str::<BTreeMap<_, _>>(text).ok())?,
            created_at: row.time("created_at")?,
            expires_at: row.some_time("expires_at")?,
            revoked_at: row.some_time("revoked_at")?,
            last_used_at: row.some_time("last_used_at")?,
            replaced_by: row.read_some("replaced_by", KeyId::from_text)?,
        }))
    }
}

/// What we read columns as; the bounds of both databases' rows in one place.
pub(super) trait Columns<'r>: Row {
    fn text(&'r self, column: &'static str) -> sqlx::Result<String>;
    fn some_text(&'r self, column: &'static str) -> sqlx::Result<Option<String>>;
    fn bytes(&'r self, column: &'static str) -> sqlx::Result<Vec<u8>>;
    fn number(&'r self, column: &'static str) -> sqlx::Result<i64>;
    fn some_number(&'r self, column: &'static str) -> sqlx::Result<Option<i64>>;

    fn read<T>(&'r self, column: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> sqlx::Result<T> {
        parse(&self.text(column)?).ok_or_else(|| unreadable(column))
    }

    fn read_some<T>(&'r self, column: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> sqlx::Result<Option<T>> {
        self.some_text(column)?.map(|text| parse(&text).ok_or_else(|| unreadable(column))).transpose()
    }

    fn flag(&'r self, column: &'static str) -> sqlx::Result<bool> {
        Ok(self.number(column)? != 0)
    }

    fn time(&'r self, column: &'static str) -> sqlx::Result<Timestamp> {
        self.number(column).map(Timestamp::from_millis)
    }

    fn some_time(&'r self, column: &'static str) -> sqlx::Result<Option<Timestamp>> {
        Ok(self.some_number(column)?.map(Timestamp::from_millis))
    }
}

impl<'r, DB: Database, R: Row<Database = DB>> Columns<'r> for R
where
    &'static str: ColumnIndex<R>,
    String: Decode<'r, DB> + Type<DB>,
    Vec<u8>: Decode<'r, DB> + Type<DB>,
    i64: Decode<'r, DB> + Type<DB>,
{
    fn text(&'r self, column: &'static str) -> sqlx::Result<String> {
        self.try_get(column)
    }

    fn some_text(&'r self, column: &'static str) -> sqlx::Result<Option<String>> {
        self.try_get(column)
    }

    fn bytes(&'r self, column: &'static str) -> sqlx::Result<Vec<u8>> {
        self.try_get(column)
    }

    fn number(&'r self, column: &'static str) -> sqlx::Result<i64> {
        self.try_get(column)
    }

    fn some_number(&'r self, column: &'static str) -> sqlx::Result<Option<i64>> {
        self.try_get(column)
    }
}

/// The value itself is not told: the text goes to a log.
fn unreadable(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds no value of its kind").into())
}

/// Windows as they are kept: `10/1m,100/1d`.
pub(super) fn windows_to_text(windows: &[Window]) -> String {
    joined(windows, ",")
}

fn windows_from_text(text: &str) -> Option<Vec<Window>> {
    text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

/// Permissions as they are kept: `read:posts write:*` (no permission holds a space).
pub(super) fn permissions_to_text(permissions: &Permissions) -> String {
    let names: Vec<&str> = permissions.iter().map(Permission::as_str).collect();
    names.join(" ")
}

fn permissions_from_text(text: &str) -> Option<Permissions> {
    let list: Option<Vec<Permission>> =
        text.split(' ').filter(|part| !part.is_empty()).map(|part| Permission::parse(part).ok()).collect();
    list.map(Permissions::new)
}

/// A hash as it is kept: 64 hexadecimal digits.
pub(super) fn hash_to_text(hash: &[u8; 32]) -> String {
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
        text
    })
}

fn joined(items: &[impl Display], separator: &str) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_permissions_read_back_and_damage_is_seen() {
        let windows: Vec<Window> = ["10/1m", "100/1d"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(windows_from_text(&windows_to_text(&windows)), Some(windows));
        assert_eq!(windows_from_text(&windows_to_text(&[])), Some(vec![]));
        assert_eq!(windows_from_text("10/1m,many"), None);
        let some = Permissions::new(["read:*", "write:posts"].iter().map(|p| Permission::parse(p).unwrap()).collect());
        assert_eq!(permissions_from_text(&permissions_to_text(&some)), Some(some));
        assert_eq!(permissions_from_text(""), Some(Permissions::default()));
        assert_eq!(permissions_from_text("read:* wr!te"), None);
        let mut hash = [0; 32];
        hash[0] = 0xa5;
        hash[31] = 0x0f;
        let text = hash_to_text(&hash);
        assert!(text.len() == 64 && text.starts_with("a500") && text.ends_with("000f"));
    }
}

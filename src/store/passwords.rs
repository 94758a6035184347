//! Passwords: their hash renewed at sign-in, changed by who knows the old one, reset by who reads the account's mail.
//!
//! A change ends sessions, and it counts: a sign-in that proved the old password a moment before, and would start its
//! session a moment after, finds another [`PasswordVersion`] and starts none.

use crate::model::change::Changed;
use crate::model::code::{CodeHash, CodeKind};
use crate::model::id::{SessionId, UserId};
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::StoreOperation;

use super::codes::kind_to_text;
use super::pool::changing;
use super::rows::hash_to_text;
use super::sessions::end_all;
use super::{Pool, Store, StoreError, changes, codes, pool};

/// Which of an account's passwords: raised by each change, not by a new hash of the same password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordVersion(i64);

impl PasswordVersion {
    pub(super) const fn numbered(number: i64) -> Self {
        Self(number)
    }

    pub(super) const fn number(self) -> i64 {
        self.0
    }
}

/// What a change of password leaves of the user's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// Nothing.
    Nothing,
    /// One session.
    Session(SessionId),
    /// One session, without its refresh token: it ends with the access tokens that it has.
    AccessOf(SessionId),
}

/// A session goes on with the access tokens that it has.
const END_REFRESH: &str = "UPDATE sessions \
    SET refresh_hash = NULL, refresh_ends_at = NULL, refresh_parent = NULL, refresh_rotated_at = NULL \
    WHERE realm = $1 AND id = $2";

/// Finds the user's row if the password is of this version, and keeps it so until the transaction's end.
pub(super) const HOLD: &str = "UPDATE users SET password_version = password_version \
    WHERE realm = $1 AND id = $2 AND password_version = $3";

/// A code that was mailed before is void: whoever changes a password may do so because the mail is read by others.
const VOID_RESETS: &str = "DELETE FROM codes WHERE realm = $1 AND user_id = $2 AND kind = $3";

impl Store {
    /// Keeps the same password under another hash, if the hash is still `expected`. False: it was changed meanwhile
    /// (or nobody is there).
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
        changing!(self, SetPasswordHash, realm, now, |tx| {
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

    /// Changes the password of who knows the old one, given by its hash, and ends every live session but what is
    /// `spared`: which, newest first. `None`, and nothing is done: the hash is not `expected` any more; whoever wants to go on
    /// verifies the old password anew.
    pub async fn change_password(
        &self,
        realm: &str,
        user: UserId,
        expected: &Secret,
        new: &Secret,
        spared: Spared,
        now: Timestamp,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        const CHANGE: &str = "UPDATE users \
            SET password_hash = $4, password_version = password_version + 1, updated_at = $5 \
            WHERE realm = $1 AND id = $2 AND password_hash = $3";
        changing!(self, ChangePassword, realm, now, |tx| {
            let changed = sqlx::query(CHANGE)
                .bind(realm)
                .bind(user.to_text())
                .bind(expected.expose())
                .bind(new.expose())
                .bind(now.millis())
                .execute(&mut *tx)
                .await?;
            if changed.rows_affected() == 1 {
                let void = sqlx::query(VOID_RESETS).bind(realm).bind(user.to_text());
                void.bind(kind_to_text(CodeKind::Reset)).execute(&mut *tx).await?;
                let keep = match spared {
                    Spared::Nothing => None,
                    Spared::Session(session) => Some(session),
                    Spared::AccessOf(session) => {
                        let end = sqlx::query(END_REFRESH).bind(realm).bind(session.to_text());
                        end.execute(&mut *tx).await?;
                        Some(session)
                    }
                };
                let ended = end_all!(tx, realm, user, keep, now);
                let changed = changes_of(user, &ended);
                (Some(ended), changed)
            } else {
                (None, vec![])
            }
        })
    }

    /// Sets a new password for whose reset code this is, uses the code up, and ends every live session: whose, and
    /// which, newest first. `None`, and nothing is done: there is no such code, or it has ended.
    pub async fn reset_password(
        &self,
        realm: &str,
        code: &CodeHash,
        new: &Secret,
        now: Timestamp,
    ) -> Result<Option<(UserId, Vec<SessionId>)>, StoreError> {
        const RESET: &str = "UPDATE users \
            SET password_hash = $3, password_version = password_version + 1, updated_at = $4 \
            WHERE realm = $1 AND id = $2";
        changing!(self, ResetPassword, realm, now, |tx| {
            if let Some(user) = codes::use_up!(tx, realm, CodeKind::Reset, code, now) {
                let reset = sqlx::query(RESET).bind(realm).bind(user.to_text()).bind(new.expose()).bind(now.millis());
                reset.execute(&mut *tx).await?;
                let ended = end_all!(tx, realm, user, None, now);
                let changed = changes_of(user, &ended);
                (Some((user, ended)), changed)
            } else {
                (None, vec![])
            }
        })
    }
}

fn changes_of(user: UserId, ended: &[SessionId]) -> Vec<Changed> {
    std::iter::once(Changed::User(user)).chain(ended.iter().copied().map(Changed::Session)).collect()
}

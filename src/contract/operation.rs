//! What the gateway can do natively, and what each operation takes and gives.
//!
//! To add one: a variant here with its row in [`Operation::signature`], and a file in `native/`.

use super::slot::{Field, Field as F, Slot};
use Caller::{Public, User};

/// A native operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Make an account in a new organization.
    Register,
    /// Prove a password, start a session.
    Login,
    /// Renew an access token by presenting it while it is still good.
    RefreshBearer,
    /// Get an access token for a refresh token.
    RefreshToken,
    /// End the presented token's session.
    Logout,
    /// Say who the caller is: also the reading of a profile.
    Me,
    /// Change the caller's own names.
    ProfileUpdate,
    /// Replace the caller's password, who proves the old one.
    PasswordChange,
    /// Ask for a mail with a reset token.
    PasswordResetRequest,
    /// Set a new password by a reset token.
    PasswordReset,
    /// Prove an address by a verification token.
    EmailVerify,
    /// Ask for another mail with a verification token.
    EmailResend,
    /// List the caller's live sessions.
    SessionList,
    /// End one of the caller's sessions.
    SessionRevoke,
    /// End all of the caller's sessions but the one that asks.
    SessionRevokeOthers,
    /// Make an API key.
    KeyCreate,
    /// List the organization's API keys.
    KeyList,
    /// Read one API key.
    KeyRead,
    /// Replace an API key by a new one, both working for an overlap.
    KeyRotate,
    /// Revoke an API key.
    KeyRevoke,
}

/// What an operation takes and gives.
#[derive(Debug)]
pub struct Signature {
    /// The name in contracts, logs and metrics.
    pub name: &'static str,
    /// Who may call it.
    pub caller: Caller,
    /// The fields a contract must read, from the body or the path.
    pub required: &'static [Field],
    /// The fields a contract may read.
    pub optional: &'static [Field],
    /// The slots its answer may hold (of one element, where it gives a list).
    pub gives: &'static [Slot],
    /// Whether it gives a list: `$items`.
    pub list: bool,
}

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anyone.
    Public,
    /// A signed-in user: an access token, never an API key.
    User,
}

/// A user and their organization.
pub(super) const USER: &[Slot] = &[
    Slot::UserId,
    Slot::UserEmail,
    Slot::UserUsername,
    Slot::UserName,
    Slot::UserRole,
    Slot::UserEmailVerified,
    Slot::UserCreatedAt,
    Slot::UserUpdatedAt,
    Slot::OrgId,
    Slot::OrgName,
    Slot::Plan,
];
const RENEWED: &[Slot] = &joined::<14>(USER, &[Slot::AccessToken, Slot::ExpiresIn, Slot::SessionId]);
const SIGNED_IN: &[Slot] = &joined::<15>(RENEWED, &[Slot::RefreshToken]);
const SESSION: &[Slot] =
    &[Slot::SessionId, Slot::SessionDevice, Slot::SessionAddress, Slot::SessionLastActiveAt, Slot::SessionCreatedAt];
/// An API key, without its secret.
pub(super) const KEY: &[Slot] = &[
    Slot::KeyId,
    Slot::KeyName,
    Slot::KeyDescription,
    Slot::KeyPermissions,
    Slot::KeyCreatedAt,
    Slot::KeyExpiresAt,
    Slot::KeyLastUsedAt,
    Slot::KeyRevokedAt,
    Slot::KeyAttributes,
    Slot::KeyServerId,
];
const NEW_KEY: &[Slot] = &joined::<11>(KEY, &[Slot::KeySecret]);

/// Both lists in one; `N` is how many there are in both together.
pub(super) const fn joined<const N: usize>(one: &[Slot], other: &[Slot]) -> [Slot; N] {
    assert!(one.len() + other.len() == N);
    let mut all = [Slot::Items; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < one.len() { one[at] } else { other[at - one.len()] };
        at += 1;
    }
    all
}

const fn row(
    name: &'static str,
    caller: Caller,
    required: &'static [Field],
    optional: &'static [Field],
    gives: &'static [Slot],
) -> Signature {
    Signature { name, caller, required, optional, gives, list: false }
}

const fn list(name: &'static str, optional: &'static [Field], element: &'static [Slot]) -> Signature {
    Signature { name, caller: User, required: &[], optional, gives: element, list: true }
}

impl Operation {
    /// Whether it ends something of the caller's or renews their own credential: such calls are counted by no plan.
    pub const fn is_defence(self) -> bool {
        matches!(
            self,
            Self::RefreshBearer
                | Self::Logout
                | Self::KeyRevoke
                | Self::SessionRevoke
                | Self::SessionRevokeOthers
                | Self::PasswordChange
        )
    }

    /// Every operation.
    pub const ALL: &[Self] = &[
        Self::Register,
        Self::Login,
        Self::RefreshBearer,
        Self::RefreshToken,
        Self::Logout,
        Self::Me,
        Self::ProfileUpdate,
        Self::PasswordChange,
        Self::PasswordResetRequest,
        Self::PasswordReset,
        Self::EmailVerify,
        Self::EmailResend,
        Self::SessionList,
        Self::SessionRevoke,
        Self::SessionRevokeOthers,
        Self::KeyCreate,
        Self::KeyList,
        Self::KeyRead,
        Self::KeyRotate,
        Self::KeyRevoke,
    ];

    /// What it takes and gives.
    pub const fn signature(self) -> &'static Signature {
        match self {
            Self::Register => {
                const OPTIONAL: &[F] = &[F::PasswordConfirm, F::Username, F::Name, F::OrgName, F::Plan];
                const { &row("register", Public, &[F::Email, F::Password], OPTIONAL, SIGNED_IN) }
            }
            Self::Login => const { &row("login", Public, &[F::Identifier, F::Password], &[F::Device], SIGNED_IN) },
            Self::RefreshBearer => const { &row("refresh_bearer", User, &[], &[], RENEWED) },
            Self::RefreshToken => const { &row("refresh_token", Public, &[F::RefreshToken], &[], SIGNED_IN) },
            Self::Logout => const { &row("logout", User, &[], &[F::RefreshToken], &[]) },
            Self::Me => const { &row("me", User, &[], &[], USER) },
            Self::ProfileUpdate => const { &row("profile_update", User, &[], &[F::Name, F::OrgName], USER) },
            Self::PasswordChange => {
                const REQUIRED: &[F] = &[F::CurrentPassword, F::NewPassword];
                const { &row("password_change", User, REQUIRED, &[F::PasswordConfirm], &[]) }
            }
            Self::PasswordResetRequest => const { &row("password_reset_request", Public, &[F::Email], &[], &[]) },
            Self::PasswordReset => {
                const REQUIRED: &[F] = &[F::Token, F::NewPassword];
                const { &row("password_reset", Public, REQUIRED, &[F::PasswordConfirm], &[]) }
            }
            Self::EmailVerify => const { &row("email_verify", Public, &[F::Token], &[], &[]) },
            Self::EmailResend => const { &row("email_resend", Public, &[F::Email], &[], &[]) },
            Self::SessionList => const { &list("session_list", &[], SESSION) },
            Self::SessionRevoke => const { &row("session_revoke", User, &[F::SessionId], &[], &[]) },
            Self::SessionRevokeOthers => const { &row("session_revoke_others", User, &[], &[], &[]) },
            Self::KeyCreate => {
                const OPTIONAL: &[F] =
                    &[F::KeyDescription, F::KeyPermissions, F::KeyExpiresAt, F::KeyAttributes, F::ServerId];
                const { &row("key_create", User, &[F::KeyName], OPTIONAL, NEW_KEY) }
            }
            Self::KeyList => const { &list("key_list", &[F::ServerId], KEY) },
            Self::KeyRead => const { &row("key_read", User, &[F::KeyId], &[F::ServerId], KEY) },
            Self::KeyRotate => {
                const { &row("key_rotate", User, &[F::KeyId], &[F::OverlapSeconds, F::ServerId], NEW_KEY) }
            }
            Self::KeyRevoke => const { &row("key_revoke", User, &[F::KeyId], &[F::ServerId], KEY) },
        }
    }
}

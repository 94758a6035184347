//! What the gateway can do natively, and what each operation takes and gives.
//!
//! To add one: a variant here with its row in [`Operation::signature`], and a file in `native/`.

use super::slot::{Field, Slot};

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
    /// End the presented token's session.
    Logout,
    /// Say who the caller is.
    Me,
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

const USER: &[Slot] = &[
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

const SIGNED_IN: &[Slot] = &[
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
    Slot::AccessToken,
    Slot::ExpiresIn,
    Slot::SessionId,
];

const KEY: &[Slot] = &[
    Slot::KeyId,
    Slot::KeyName,
    Slot::KeyDescription,
    Slot::KeyPermissions,
    Slot::KeyCreatedAt,
    Slot::KeyExpiresAt,
    Slot::KeyLastUsedAt,
    Slot::KeyRevokedAt,
    Slot::KeyAttributes,
];

const NEW_KEY: &[Slot] = &[
    Slot::KeyId,
    Slot::KeyName,
    Slot::KeyDescription,
    Slot::KeyPermissions,
    Slot::KeyCreatedAt,
    Slot::KeyExpiresAt,
    Slot::KeyLastUsedAt,
    Slot::KeyRevokedAt,
    Slot::KeyAttributes,
    Slot::KeySecret,
];

impl Operation {
    /// Every operation.
    pub const ALL: &[Self] = &[
        Self::Register,
        Self::Login,
        Self::RefreshBearer,
        Self::Logout,
        Self::Me,
        Self::KeyCreate,
        Self::KeyList,
        Self::KeyRead,
        Self::KeyRotate,
        Self::KeyRevoke,
    ];

    /// What it takes and gives.
    pub const fn signature(self) -> &'static Signature {
        match self {
            Self::Register => &Signature {
                name: "register",
                caller: Caller::Public,
                required: &[Field::Email, Field::Password],
                optional: &[Field::Username, Field::Name, Field::OrgName],
                gives: SIGNED_IN,
                list: false,
            },
            Self::Login => &Signature {
                name: "login",
                caller: Caller::Public,
                required: &[Field::Identifier, Field::Password],
                optional: &[],
                gives: SIGNED_IN,
                list: false,
            },
            Self::RefreshBearer => &Signature {
                name: "refresh_bearer",
                caller: Caller::User,
                required: &[],
                optional: &[],
                gives: SIGNED_IN,
                list: false,
            },
            Self::Logout => &Signature {
                name: "logout",
                caller: Caller::User,
                required: &[],
                optional: &[],
                gives: &[],
                list: false,
            },
            Self::Me => {
                &Signature { name: "me", caller: Caller::User, required: &[], optional: &[], gives: USER, list: false }
            }
            Self::KeyCreate => &Signature {
                name: "key_create",
                caller: Caller::User,
                required: &[Field::KeyName],
                optional: &[Field::KeyDescription, Field::KeyPermissions, Field::KeyExpiresAt, Field::KeyAttributes],
                gives: NEW_KEY,
                list: false,
            },
            Self::KeyList => &Signature {
                name: "key_list",
                caller: Caller::User,
                required: &[],
                optional: &[],
                gives: KEY,
                list: true,
            },
            Self::KeyRead => &Signature {
                name: "key_read",
                caller: Caller::User,
                required: &[Field::KeyId],
                optional: &[],
                gives: KEY,
                list: false,
            },
            Self::KeyRotate => &Signature {
                name: "key_rotate",
                caller: Caller::User,
                required: &[Field::KeyId],
                optional: &[Field::OverlapSeconds],
                gives: NEW_KEY,
                list: false,
            },
            Self::KeyRevoke => &Signature {
                name: "key_revoke",
                caller: Caller::User,
                required: &[Field::KeyId],
                optional: &[],
                gives: KEY,
                list: false,
            },
        }
    }
}

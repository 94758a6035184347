//! The names a contract may use: fields that are read, slots that are filled.
//!
//! Both are closed sets: a name that is not here, or one that the operation does not take or give, is a
//! load error with its line and column.

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $($(#[$each])* $variant,)* }

        impl $type {
            /// Every name.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The spelling in contract files.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The variant spelt `name`.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

names! {
    /// A field of an operation's input: `reads = { <field> = "<name in the body>" }`, or a path parameter `{<field>}`.
    Field {
        /// The account's address.
        Email = "email",
        /// The account's sign-in name.
        Username = "username",
        /// What a client signs in with: an address or a sign-in name.
        Identifier = "identifier",
        /// The password.
        Password = "password",
        /// The password once more, against a slip of the hand.
        PasswordConfirm = "password_confirm",
        /// The password that the caller has now.
        CurrentPassword = "current_password",
        /// The password that takes its place.
        NewPassword = "new_password",
        /// The display name.
        Name = "name",
        /// The new organization's display name.
        OrgName = "org_name",
        /// The plan that the new organization asks for.
        Plan = "plan",
        /// A refresh token.
        RefreshToken = "refresh_token",
        /// The token out of a mail.
        Token = "token",
        /// What the client says of its device: any object.
        Device = "device",
        /// Which session.
        SessionId = "session_id",
        /// What a key is called.
        KeyName = "key_name",
        /// What a key is for.
        KeyDescription = "key_description",
        /// What a key may do: an array of permissions.
        KeyPermissions = "key_permissions",
        /// When a key ends: RFC 3339.
        KeyExpiresAt = "key_expires_at",
        /// What a key is bound to: an object of strings.
        KeyAttributes = "key_attributes",
        /// Which key.
        KeyId = "key_id",
        /// Which of the backend's servers a key is bound to.
        ServerId = "server_id",
        /// How long the rotated key goes on working, in whole seconds; 0 ends it at once.
        OverlapSeconds = "overlap_seconds",
    }
}

names! {
    /// A value in an answer: `$<slot>` in a template.
    Slot {
        /// The user's id, in the contract's style.
        UserId = "user.id",
        /// The user's address.
        UserEmail = "user.email",
        /// The user's sign-in name, or null.
        UserUsername = "user.username",
        /// The user's display name, or null.
        UserName = "user.name",
        /// The user's role.
        UserRole = "user.role",
        /// Whether the address is verified: a boolean.
        UserEmailVerified = "user.email_verified",
        /// When the user registered.
        UserCreatedAt = "user.created_at",
        /// When the user last changed.
        UserUpdatedAt = "user.updated_at",
        /// The organization's id.
        OrgId = "org.id",
        /// The organization's name.
        OrgName = "org.name",
        /// The organization's plan.
        Plan = "plan",
        /// The access token.
        AccessToken = "access_token",
        /// Seconds until the access token expires: a number.
        ExpiresIn = "expires_in",
        /// The refresh token; given when it is made.
        RefreshToken = "refresh_token",
        /// A session's id.
        SessionId = "session.id",
        /// What the client said of its device: an object.
        SessionDevice = "session.device",
        /// Where the session was started from.
        SessionAddress = "session.address",
        /// When the session was last used.
        SessionLastActiveAt = "session.last_active_at",
        /// When the session was started.
        SessionCreatedAt = "session.created_at",
        /// A key's id.
        KeyId = "key.id",
        /// A key's name.
        KeyName = "key.name",
        /// A key's description, or null.
        KeyDescription = "key.description",
        /// A key's permissions: an array of strings.
        KeyPermissions = "key.permissions",
        /// The key itself; given once, when it is made.
        KeySecret = "key.secret",
        /// When a key was made.
        KeyCreatedAt = "key.created_at",
        /// When a key expires, or null.
        KeyExpiresAt = "key.expires_at",
        /// When a key was last used, or null.
        KeyLastUsedAt = "key.last_used_at",
        /// When a key was or will be revoked, or null.
        KeyRevokedAt = "key.revoked_at",
        /// A key's attributes: an object of strings.
        KeyAttributes = "key.attributes",
        /// The server that a key is bound to, or null.
        KeyServerId = "key.server_id",
        /// The list an operation gives: each element rendered by `answer.item`.
        Items = "items",
        /// A problem's code.
        Code = "code",
        /// A problem's message.
        Message = "message",
        /// The plans that would pass: `Pro or Enterprise`. In problems only.
        Plans = "plans",
        /// What is wrong with a request, in one line. In problems only.
        Reasons = "reasons",
        /// What is wrong with a request, by field: an object of arrays of strings. In problems only.
        Details = "details",
    }
}

/// The JSON type of a [`Field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// An array of strings.
    Texts,
    /// An object whose values are strings.
    Strings,
    /// An object of anything.
    Object,
    /// A number of whole seconds.
    Seconds,
    /// A string that holds an RFC 3339 time.
    Time,
}

impl Field {
    /// What a client must send for it.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Email
            | Self::Username
            | Self::Identifier
            | Self::Password
            | Self::PasswordConfirm
            | Self::CurrentPassword
            | Self::NewPassword
            | Self::Name
            | Self::OrgName
            | Self::Plan
            | Self::RefreshToken
            | Self::Token
            | Self::SessionId
            | Self::KeyName
            | Self::KeyDescription
            | Self::KeyId
            | Self::ServerId => Kind::Text,
            Self::Device => Kind::Object,
            Self::KeyPermissions => Kind::Texts,
            Self::KeyAttributes => Kind::Strings,
            Self::KeyExpiresAt => Kind::Time,
            Self::OverlapSeconds => Kind::Seconds,
        }
    }

    /// Whether it opens something: what does is never read from a path, which is logged.
    pub const fn is_secret(self) -> bool {
        matches!(
            self,
            Self::Password
                | Self::PasswordConfirm
                | Self::CurrentPassword
                | Self::NewPassword
                | Self::RefreshToken
                | Self::Token
        )
    }
}

impl Slot {
    /// Whether it can stand inside a text: lists and objects cannot.
    pub const fn is_text(self) -> bool {
        !matches!(self, Self::KeyPermissions | Self::KeyAttributes | Self::SessionDevice | Self::Items | Self::Details)
    }
}

//! What can be wrong with mail: in its settings, and on its way.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there can be no mailer: each names the setting or the file, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// A file or folder cannot be read.
    #[error("{}: cannot be read ({source}): check the path, and that the gateway's user may read it", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A template does not compile, or uses what there is not.
    #[error("{}: {source}: a template can show product, address, link, token, valid_for, valid_minutes, at", file.display())]
    Template {
        /// The file.
        file: PathBuf,
        /// What is wrong, with its line.
        source: minijinja::Error,
    },
    /// A template renders nothing.
    #[error("{}: says nothing: write the text, or remove the file for the built-in one", file.display())]
    EmptyTemplate {
        /// The file.
        file: PathBuf,
    },
    /// A mail that exists for its token would go out without it.
    #[error("{}: shows neither link nor token: write {{{{ link or token }}}} where it belongs", file.display())]
    TemplateWithoutToken {
        /// The file.
        file: PathBuf,
    },
    /// A file in the templates' folder replaces nothing.
    #[error("{}: replaces no template: name it verify, reset or password_changed, with .subject, .txt or .html", file.display())]
    UnknownTemplate {
        /// The file.
        file: PathBuf,
    },
    /// The server's name is not a name.
    #[error(
        "the mail server `{host}` has no name that can be looked up: write a host name or an address, without a port"
    )]
    BadHost {
        /// As configured.
        host: String,
    },
    /// The name in EHLO is not a name.
    #[error("`{hello}` cannot be said in EHLO: write this machine's host name")]
    BadHello {
        /// As configured.
        hello: String,
    },
    /// A user name without a password, or the other way round, or one that cannot be sent.
    #[error("the mail server's username and password must both be given, without control characters, or neither")]
    HalfACredential,
    /// The password would cross a network in the clear.
    #[error(
        "the password for the mail server {host} would be sent in the clear: set tls to \"implicit\" or \"starttls\""
    )]
    PasswordInTheClear {
        /// The server.
        host: String,
    },
    /// The authorities' file holds none.
    #[error("{}: holds no certificate authority: it must hold `-----BEGIN CERTIFICATE-----`", file.display())]
    BadAuthorities {
        /// The file.
        file: PathBuf,
    },
    /// The system's store of authorities is missing or empty.
    #[error(
        "no certificate authority could be read from the system ({said}): install ca-certificates, or name a file of authorities"
    )]
    NoAuthorities {
        /// What the system said.
        said: String,
    },
    /// The TLS library refused.
    #[error("TLS to the mail server cannot be set up: {said}")]
    Tls {
        /// What it said.
        said: String,
    },
}

/// Why a mail was not delivered. Its text may be stored and logged: it holds no token and not the recipient's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// This very mail will never be taken: trying again is useless.
    #[error("never to be delivered ({stage}): {said}")]
    Permanent {
        /// How far it came.
        stage: Stage,
        /// What happened.
        said: String,
    },
    /// Not now: the server is down, busy, or does not want us. The mail itself may be fine.
    #[error("not delivered ({stage}): {said}")]
    Temporary {
        /// How far it came.
        stage: Stage,
        /// What happened.
        said: String,
    },
}

impl DeliveryError {
    /// Whether trying again is useless.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Permanent { .. })
    }

    /// How far it came.
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Permanent { stage, .. } | Self::Temporary { stage, .. } => *stage,
        }
    }

    pub(super) fn permanent(stage: Stage, said: impl Into<String>) -> Self {
        Self::Permanent { stage, said: said.into() }
    }

    pub(super) fn temporary(stage: Stage, said: impl Into<String>) -> Self {
        Self::Temporary { stage, said: said.into() }
    }
}

/// How far a delivery came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Waiting for a turn.
    Turn,
    /// Making the mail's bytes.
    Message,
    /// Name, TCP, TLS, greeting.
    Connect,
    /// AUTH.
    SignIn,
    /// MAIL: what the server thinks of us.
    Sender,
    /// RCPT: what it thinks of the address.
    Recipient,
    /// DATA and what follows. Without an answer, the mail may have been taken or not.
    Content,
    /// Writing the file.
    Outbox,
}

impl Stage {
    /// Its name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Message => "message",
            Self::Connect => "connect",
            Self::SignIn => "sign_in",
            Self::Sender => "sender",
            Self::Recipient => "recipient",
            Self::Content => "content",
            Self::Outbox => "outbox",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! `tollgate secrets new`: keys that are long and random enough, because nobody types those.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Subcommand, ValueEnum};

use super::say;
use crate::config::disk;
use crate::credential::generate::{self, KeyKind};
use crate::model::entropy::SystemEntropy;
use crate::model::secret::Secret;

/// `tollgate secrets …`
#[derive(Debug, Subcommand)]
pub enum Secrets {
    /// Make a key or secret, and print it or write it to a file that only you can read.
    New {
        /// What it is for.
        #[arg(long, short, default_value = "hmac")]
        kind: Kind,
        /// Write it here (mode 0600; an existing file is kept and is an error) instead of printing it.
        #[arg(long, short, value_name = "FILE")]
        write: Option<PathBuf>,
    },
}

/// What a secret is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Kind {
    /// A shared secret: HMAC tokens (HS256, HS384, HS512), API-key peppers, admin tokens.
    Hmac,
    /// A 2048-bit key for RSA tokens (RS256, RS384, RS512, PS256).
    Rsa,
    /// A P-256 key for ES256 tokens.
    Es256,
    /// An Ed25519 key for `EdDSA` tokens.
    Ed25519,
}

impl From<Kind> for KeyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Hmac => Self::Hmac,
            Kind::Rsa => Self::Rsa2048,
            Kind::Es256 => Self::Es256,
            Kind::Ed25519 => Self::Ed25519,
        }
    }
}

/// Makes the secret.
pub fn run(command: &Secrets) -> anyhow::Result<ExitCode> {
    let Secrets::New { kind, write } = command;
    let secret = generate::generate((*kind).into(), &SystemEntropy)?;
    let text = secret.expose().trim_end();
    match write {
        None => say!("{text}"),
        Some(path) => {
            let shown = path.display();
            let made = disk::write_new(path, &Secret::new(text.to_owned()));
            let made = made.with_context(|| format!("{shown} could not be written"))?;
            ensure!(
                made,
                "{shown} exists already, and what it holds may be in use: name another file, or remove it first"
            );
            say!("wrote {shown} ({})", KeyKind::from(*kind).name());
        }
    }
    Ok(ExitCode::SUCCESS)
}

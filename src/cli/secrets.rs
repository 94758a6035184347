//! `tollgate secrets`: keys that are long and random enough, because nobody types those; and what becomes of a store whose
//! pepper is lost.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::{Subcommand, ValueEnum};

use super::{ConfigFile, say};
use crate::config::disk;
use crate::credential::generate::{self, KeyKind};
use crate::model::entropy::SystemEntropy;
use crate::model::secret::Secret;
use crate::model::time::{Clock, SystemClock};
use crate::observe::metrics::Metrics;
use crate::store::Store;

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
    /// Give up what a site has under a pepper that is lost for good (API keys, refresh tokens, tokens in mails): the
    /// gateway then starts with another.
    ForgetPepper {
        #[command(flatten)]
        file: ConfigFile,
        /// Which site, where the configuration has several.
        #[arg(long)]
        site: Option<String>,
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

/// Makes the secret, or forgets one.
pub fn run(command: &Secrets) -> anyhow::Result<ExitCode> {
    match command {
        Secrets::New { kind, write } => make(*kind, write.as_deref()),
        Secrets::ForgetPepper { file, site } => forget(&file.config, site.as_deref()),
    }
}

fn make(kind: Kind, write: Option<&Path>) -> anyhow::Result<ExitCode> {
    let secret = generate::generate(kind.into(), &SystemEntropy)?;
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
            say!("wrote {shown} ({})", KeyKind::from(kind).name());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn forget(config: &Path, site: Option<&str>) -> anyhow::Result<ExitCode> {
    let loaded = match super::Reading::to_look().load(config) {
        Ok(loaded) => loaded,
        Err(errors) => return Ok(super::check::complain(config, &errors)),
    };
    let sites = &loaded.snapshot.sites;
    let all = || sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>().join(", ");
    let site = match (site, &sites[..]) {
        (None, [only]) => only,
        (None, _) => bail!("the configuration has several sites; name one with --site: {}", all()),
        (Some(name), sites) => {
            let named = sites.iter().find(|site| site.name == name);
            named.with_context(|| format!("there is no site `{name}`; there are: {}", all()))?
        }
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let now = clock.now().wall;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(&loaded.boot.store, Arc::new(Metrics::new(now)), clock).await?;
        let forgotten = store.forget_pepper(&site.realm, now).await;
        store.close().await;
        forgotten
    })?;
    say!("site `{}` starts with the pepper that it finds next; what was under the old one counts no more", site.name);
    Ok(ExitCode::SUCCESS)
}

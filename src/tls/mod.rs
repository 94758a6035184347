//! Certificates: which one answers for which name, and the development authority.
//!
//! [`server_config`] turns [`Settings`] into what the https listener needs. The [`Certificates`] in it can
//! be reloaded while connections are open: handshakes that begin afterwards see the new ones. What is
//! wrong with a file is a [`TlsError`] at load, and a refused reload keeps what is served. What a site asks of its
//! clients' certificates is a [`clients::Policy`].

pub mod clients;
pub mod development;
mod disk;
mod error;
mod expiry;
mod load;
mod resolver;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};

use crate::model::time::Timestamp;

pub use error::TlsError;
pub use expiry::{Expiry, Left};

/// The certificates of the https listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// PEM files; the first answers for names no other covers (and for clients without SNI).
    Files(Vec<CertificateFiles>),
    /// A local authority and a leaf for `names`, made under `directory` at first start.
    Development {
        /// Where they are kept: `certs`.
        directory: PathBuf,
        /// Every host that the configuration names.
        names: Vec<String>,
    },
}

/// One certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM, PKCS#8, PKCS#1 or SEC 1.
    pub key: PathBuf,
}

/// The certificates being served.
#[derive(Debug)]
pub struct Certificates {
    provider: Arc<CryptoProvider>,
    current: ArcSwap<resolver::Set>,
}

/// What terminates TLS.
#[derive(Clone, Debug)]
pub struct Server {
    /// For clients of whom no certificate is asked.
    pub config: Arc<ServerConfig>,
    /// What is served.
    pub certificates: Arc<Certificates>,
}

/// Certificates that were read and are good, not served yet.
#[derive(Debug)]
pub struct Prepared(resolver::Set);

impl Certificates {
    /// Reads certificates (for development: renews them if that is due), the same as before or others. Those from
    /// before are served on.
    pub fn prepare(&self, settings: &Settings, now: Timestamp) -> Result<Prepared, TlsError> {
        read(settings, &self.provider, now).map(Prepared)
    }

    /// Serves these from the next handshake on.
    pub fn serve(&self, prepared: Prepared) {
        self.current.store(Arc::new(prepared.0));
    }

    /// When each certificate ends, for metrics and for whoever renews them.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.current.load().expiries().to_vec()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().choose(hello.server_name(), hello.signature_schemes())
    }
}

impl Server {
    /// With the certificates of `settings`.
    pub fn new(settings: &Settings, now: Timestamp) -> Result<Self, TlsError> {
        let (config, certificates) = server_config(settings, now)?;
        Ok(Self { config: Arc::new(config), certificates })
    }

    /// What a connection under `policy` is made with: for that one alone.
    pub fn under(&self, policy: &clients::Policy) -> Arc<ServerConfig> {
        Arc::new(policy.server_config(Arc::clone(&self.certificates) as _))
    }
}

/// What the https listener needs: TLS 1.3 and 1.2, `h2` and `http/1.1`, session tickets, no early data
/// (it can be replayed, RFC 8446 section 8), and the certificates to choose from.
///
/// The cryptography is passed explicitly: nothing depends on a process-wide default.
pub fn server_config(settings: &Settings, now: Timestamp) -> Result<(ServerConfig, Arc<Certificates>), TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let current = ArcSwap::from_pointee(read(settings, &provider, now)?);
    let certificates = Arc::new(Certificates { provider: provider.clone(), current });
    let library = |source| TlsError::Library { source };
    let mut config = builder(provider).map_err(library)?.with_no_client_auth().with_cert_resolver(certificates.clone());
    config.alpn_protocols = protocols();
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(library)?;
    Ok((config, certificates))
}

fn builder(provider: Arc<CryptoProvider>) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12])
}

fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

fn read(settings: &Settings, provider: &Arc<CryptoProvider>, now: Timestamp) -> Result<resolver::Set, TlsError> {
    let loaded = match settings {
        Settings::Files(files) => {
            files.iter().map(|files| load::pair(files, provider, now)).collect::<Result<Vec<_>, _>>()?
        }
        Settings::Development { directory, names } => {
            vec![load::pair(&development::ensure(directory, names, provider, now)?, provider, now)?]
        }
    };
    resolver::Set::new(&loaded).ok_or(TlsError::NoneConfigured)
}

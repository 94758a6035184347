//! TLS towards backends: which authorities are believed, and what is shown to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, SupportedProtocolVersion, WantsVerifier};

/// Why there can be no TLS to backends.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The system's store of authorities is missing or empty.
    #[error("no certificate authority could be read from the system: {0}")]
    NoAuthorities(String),
    /// A file cannot be read as what it should hold.
    #[error("`{}` {what}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// rustls refuses the settings.
    #[error(transparent)]
    Settings(#[from] rustls::Error),
}

/// What TLS to the servers of one upstream is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Authorities in place of the system's, PEM.
    pub authorities: Option<PathBuf>,
    /// The certificate (PEM, the leaf first) and key that are shown.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name asked for and checked, in place of the server's own.
    pub name: Option<ServerName<'static>>,
    /// TLS 1.2 is refused.
    pub only_v13: bool,
}

/// [`Files`], read.
#[derive(Debug)]
pub struct Trust {
    /// Without ALPN, which depends on the connection.
    pub(super) config: ClientConfig,
    pub(super) name: Option<ServerName<'static>>,
    fingerprint: String,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Trust {}

impl Trust {
    /// Reads the files; each must be there and hold what it should.
    pub fn read(files: &Files) -> Result<Self, TlsError> {
        let mut digest = Context::new(&SHA256);
        let mut take = |file: &Path| {
            let bytes = std::fs::read(file).map_err(|error| wrong(file, format!("cannot be read: {error}")))?;
            digest.update(&(bytes.len() as u64).to_be_bytes());
            digest.update(&bytes);
            Ok::<_, TlsError>(bytes)
        };
        let roots = match &files.authorities {
            None => system()?,
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(&take(file)?) {
                    let certificate = certificate.map_err(|error| wrong(file, format!("is not PEM: {error}")))?;
                    roots.add(certificate).map_err(|error| wrong(file, format!("holds no authority: {error}")))?;
                }
                if roots.is_empty() {
                    return Err(wrong(file, "holds no certificate".to_owned()));
                }
                roots
            }
        };
        let versions: &[&SupportedProtocolVersion] =
            if files.only_v13 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
        let builder = builder(versions)?.with_root_certificates(roots);
        let config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(&take(certificate)?).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| wrong(certificate, format!("is not PEM: {error}")))?;
                if chain.is_empty() {
                    return Err(wrong(certificate, "holds no certificate".to_owned()));
                }
                let secret = PrivateKeyDer::from_pem_slice(&take(key)?)
                    .map_err(|error| wrong(key, format!("holds no private key: {error}")))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| wrong(key, format!("does not fit `{}`: {error}", certificate.display())))?
            }
        };
        digest.update(format!("{:?} {}", files.name, files.only_v13).as_bytes());
        let fingerprint = STANDARD.encode(digest.finish());
        Ok(Self { config, name: files.name.clone(), fingerprint })
    }

    /// Tells these settings, with what the files hold, from others.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

fn wrong(file: &Path, what: String) -> TlsError {
    TlsError::File { file: file.to_owned(), what }
}

/// Verifies backends against the system's authorities. Read once, shared by all pools.
pub fn client_config() -> Result<Arc<ClientConfig>, TlsError> {
    with_roots(system()?)
}

fn system() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Single certificates that cannot be read are common in system stores and harm nobody else's.
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoAuthorities(errors.join("; ")));
    }
    Ok(roots)
}

/// Verifies backends against `roots`.
pub fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(Arc::new(builder(rustls::DEFAULT_VERSIONS)?.with_root_certificates(roots).with_no_client_auth()))
}

fn builder(
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)
}

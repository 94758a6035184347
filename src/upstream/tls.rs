//! TLS towards backends: which authorities are believed.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Why there can be no TLS to backends.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The system's store of authorities is missing or empty.
    #[error("no certificate authority could be read from the system: {0}")]
    NoAuthorities(String),
    /// rustls refuses the settings.
    #[error(transparent)]
    Settings(#[from] rustls::Error),
}

/// Verifies backends against the system's authorities. Read once, shared by all pools.
pub fn client_config() -> Result<Arc<ClientConfig>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Single certificates that cannot be read are common in system stores and harm nobody else's.
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoAuthorities(errors.join("; ")));
    }
    with_roots(roots)
}

/// Verifies backends against `roots`.
pub fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

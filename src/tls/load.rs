//! PEM files to a certificate that can be served, or the reason why not.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::{CertificateFiles, TlsError};
use crate::model::time::Timestamp;

/// A certificate with its key, checked.
#[derive(Debug)]
pub(super) struct Loaded {
    /// What rustls serves.
    pub(super) key: Arc<CertifiedKey>,
    /// The names and addresses it stands for, lower-case; never empty.
    pub(super) names: Vec<String>,
    /// When it begins to be valid.
    pub(super) begins: Timestamp,
    /// When it stops.
    pub(super) ends: Timestamp,
}

/// Reads a pair and refuses what clients would refuse: a foreign key, another time, no name.
pub(super) fn pair(files: &CertificateFiles, provider: &CryptoProvider, now: Timestamp) -> Result<Loaded, TlsError> {
    let chain = chain(&files.certificate)?;
    let leaf = facts(&files.certificate, chain.first().map_or(&[], AsRef::as_ref))?;
    if now < leaf.begins {
        return Err(TlsError::NotYetValid { file: files.certificate.clone(), from: leaf.begins });
    }
    if leaf.ends <= now {
        return Err(TlsError::Expired { file: files.certificate.clone(), at: leaf.ends });
    }
    if leaf.names.is_empty() {
        return Err(TlsError::NoNames { file: files.certificate.clone() });
    }
    let key = CertifiedKey::from_der(chain, private_key(&files.key)?, provider).map_err(|source| match source {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { certificate: files.certificate.clone(), key: files.key.clone() }
        }
        source => TlsError::UnusableKey { file: files.key.clone(), source },
    })?;
    Ok(Loaded { key: Arc::new(key), names: leaf.names, begins: leaf.begins, ends: leaf.ends })
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&bytes(file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Broken { file: file.to_owned(), reason: format!("is not PEM ({error})") })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { file: file.to_owned() });
    }
    Ok(chain)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    match PrivateKeyDer::from_pem_slice(&bytes(file)?) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(TlsError::NoKey { file: file.to_owned() }),
        // The parser's message names a section or a character's place, never the key's text.
        Err(error) => Err(TlsError::Broken { file: file.to_owned(), reason: format!("is not PEM ({error})") }),
    }
}

fn bytes(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

/// What a certificate says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// When it begins to be valid.
    pub(super) begins: Timestamp,
    /// When it stops.
    pub(super) ends: Timestamp,
    /// The names and addresses it stands for, lower-case.
    pub(super) names: Vec<String>,
    /// The organization in its subject.
    pub(super) organization: Option<String>,
}

/// Reads a certificate from its DER; `file` is where it came from, for the error.
pub(super) fn facts(file: &Path, der: &[u8]) -> Result<Facts, TlsError> {
    let broken = || TlsError::Broken { file: file.to_owned(), reason: "is not an X.509 certificate".to_owned() };
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| broken())?;
    let validity = certificate.validity();
    Ok(Facts {
        begins: Timestamp::from_secs(validity.not_before.timestamp()),
        ends: Timestamp::from_secs(validity.not_after.timestamp()),
        names: names(&certificate),
        organization: certificate
            .subject()
            .iter_organization()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned),
    })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    // An extension that stands twice or does not parse gives no name, and a certificate without one is refused.
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        })
        .collect()
}

/// The address of four or sixteen bytes, as text.
pub(super) fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).to_string())
}

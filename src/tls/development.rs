//! Certificates for a developer's machine: a local authority, and a leaf for every configured host.
//!
//! `ca.pem` is what clients are told to trust (`curl --cacert certs/ca.pem`), so its power is kept small:
//! it may sign servers only, makes no further authorities, and is constrained to the configured names,
//! `localhost` and the loopback addresses (RFC 5280 section 4.2.1.10). Should its key leak, it vouches for
//! nothing else. The price: a host that it does not cover makes a new authority. Not for production.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};

use super::{CertificateFiles, TlsError, disk, load};
use crate::model::time::Timestamp;

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 3650);
const LEAF_LIFE: Duration = Duration::from_hours(24 * 90);
const RENEW_BEFORE: Duration = Duration::from_hours(24 * 30);
/// In every certificate made here; a file without it is somebody else's, and is never overwritten.
const ORGANIZATION: &str = "Tollgate development";
const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The authority's certificate under `directory`: what clients are told to trust.
pub fn authority(directory: &Path) -> PathBuf {
    directory.join("ca.pem")
}

/// Makes what is missing, renews what is due, and names the leaf's files.
pub(super) fn ensure(
    directory: &Path,
    names: &[String],
    provider: &Arc<CryptoProvider>,
    now: Timestamp,
) -> Result<CertificateFiles, TlsError> {
    let names = wanted(names)?;
    let _turn = disk::lock(directory)?;
    let ca = Files { certificate: authority(directory), key: directory.join("ca-key.pem") };
    let leaf = Files { certificate: directory.join("development.pem"), key: directory.join("development-key.pem") };

    let kept = ca.read(now, LEAF_LIFE + RENEW_BEFORE)?;
    if let (Some(ca), Some(leaf)) = (&kept, leaf.read(now, RENEW_BEFORE)?)
        && leaf.names == names
        && vouches(provider, &ca.der, &leaf.der, now)
    {
        return Ok(CertificateFiles { certificate: leaf.files.certificate, key: leaf.files.key });
    }
    let made = match &kept {
        Some(kept) => issue(&kept.der, kept.key()?, &names, now)
            .ok()
            // An authority that is not allowed one of the names cannot be used for this configuration.
            .filter(|made| vouches(provider, &kept.der, &made.der, now)),
        None => None,
    };
    let made = if let Some(made) = made {
        made
    } else {
        let authority = found(&names, now)?;
        ca.write(&authority)?;
        tracing::info!(file = %ca.certificate.display(), "development authority made: clients must trust it anew");
        let key = KeyPair::from_pem(&authority.key).map_err(make)?;
        issue(&authority.der, key, &names, now)?
    };
    leaf.write(&made)?;
    tracing::info!(file = %leaf.certificate.display(), names = ?names, "development certificate made");
    Ok(CertificateFiles { certificate: leaf.certificate, key: leaf.key })
}

/// The names of the leaf: sorted, lower-case, each once.
fn wanted(names: &[String]) -> Result<BTreeSet<String>, TlsError> {
    let mut wanted = BTreeSet::from(ALWAYS.map(str::to_owned));
    for name in names.iter().filter(|name| *name != "*") {
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        let bare = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
        if let Ok(address) = bare.parse::<IpAddr>() {
            wanted.insert(address.to_string());
        } else if DnsName::try_from(bare.strip_prefix("*.").unwrap_or(&bare)).is_ok() {
            wanted.insert(bare);
        } else {
            return Err(TlsError::BadName { name: name.clone() });
        }
    }
    Ok(wanted)
}

/// Whether a client that trusts `ca` will accept `leaf` until it is due again: signature, time, and the
/// authority's constraints on every name. Asked of the verifier clients use, not answered by looking at fields.
fn vouches(provider: &Arc<CryptoProvider>, ca: &[u8], leaf: &[u8], now: Timestamp) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    if roots.add(CertificateDer::from(ca)).is_err() {
        return false;
    }
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build() else {
        return false;
    };
    let Ok(localhost) = ServerName::try_from("localhost") else { return false };
    [now, now.plus(RENEW_BEFORE)].into_iter().all(|at| {
        let at = UnixTime::since_unix_epoch(since_epoch(at));
        verifier.verify_server_cert(&CertificateDer::from(leaf), &[], &localhost, &[], at).is_ok()
    })
}

/// A new certificate with its key.
struct Made {
    der: Vec<u8>,
    pem: String,
    key: String,
}

/// Makes an authority that may vouch for `names` only.
fn found(names: &BTreeSet<String>, now: Timestamp) -> Result<Made, TlsError> {
    let mut params = params(now, AUTHORITY_LIFE, &format!("Tollgate development CA {}", &now.to_rfc3339()[..10]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let permitted = names.iter().map(|name| match name.parse::<IpAddr>() {
        Ok(address) => {
            let all = if address.is_ipv4() { 32 } else { 128 };
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, all))
        }
        Err(_) => GeneralSubtree::DnsName(name.strip_prefix("*.").unwrap_or(name).to_owned()),
    });
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees: permitted.collect(), excluded_subtrees: Vec::new() });
    let key = KeyPair::generate().map_err(make)?;
    let certificate = params.self_signed(&key).map_err(make)?;
    Ok(Made { der: certificate.der().to_vec(), pem: certificate.pem(), key: key.serialize_pem() })
}

/// Makes a leaf for `names`, signed by the authority.
fn issue(ca: &[u8], ca_key: KeyPair, names: &BTreeSet<String>, now: Timestamp) -> Result<Made, TlsError> {
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(ca), ca_key).map_err(make)?;
    let mut params = params(now, LEAF_LIFE, "Tollgate development server");
    params.subject_alt_names =
        CertificateParams::new(names.iter().cloned().collect::<Vec<_>>()).map_err(make)?.subject_alt_names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(make)?;
    let certificate = params.signed_by(&key, &issuer).map_err(make)?;
    Ok(Made { der: certificate.der().to_vec(), pem: certificate.pem(), key: key.serialize_pem() })
}

fn params(now: Timestamp, life: Duration, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    // A day back, for a client whose clock is behind.
    params.not_before = (SystemTime::UNIX_EPOCH + since_epoch(now.minus(DAY))).into();
    params.not_after = (SystemTime::UNIX_EPOCH + since_epoch(now.plus(life))).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// A certificate's place and its key's.
#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// A pair of ours that was found in place.
struct Found {
    files: Files,
    der: Vec<u8>,
    names: BTreeSet<String>,
}

impl Files {
    /// What is in place, if it is ours and will be good for `at_least`; `None` when it is to be made (again).
    fn read(&self, now: Timestamp, at_least: Duration) -> Result<Option<Found>, TlsError> {
        let pem = match fs::read(&self.certificate) {
            Ok(pem) => pem,
            // A key is written after its certificate: one that stands alone is not from an interrupted start.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.key.exists() => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TlsError::Foreign { file: self.key.clone() });
            }
            Err(source) => return Err(TlsError::Read { file: self.certificate.clone(), source }),
        };
        let foreign = || TlsError::Foreign { file: self.certificate.clone() };
        let der = CertificateDer::from_pem_slice(&pem).map_err(|_| foreign())?;
        let facts = load::facts(&self.certificate, &der).map_err(|_| foreign())?;
        if facts.organization.as_deref() != Some(ORGANIZATION) {
            return Err(foreign());
        }
        let der = der.to_vec();
        let found = Found { files: self.clone(), der, names: facts.names.into_iter().collect() };
        if facts.ends < now.plus(at_least) || now < facts.begins || found.key().is_err() {
            return Ok(None);
        }
        disk::make_private(&self.key)?;
        Ok(Some(found))
    }

    fn write(&self, made: &Made) -> Result<(), TlsError> {
        disk::write(&self.certificate, made.pem.as_bytes(), 0o644)?;
        disk::write(&self.key, made.key.as_bytes(), 0o600)
    }
}

impl Found {
    /// The certificate's key, if it is there and fits.
    fn key(&self) -> Result<KeyPair, TlsError> {
        let file = &self.files.key;
        let pem = fs::read_to_string(file).map_err(|source| TlsError::Read { file: file.clone(), source })?;
        let key = KeyPair::from_pem(&pem).map_err(make)?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&self.der)
            .map_err(|_| TlsError::Foreign { file: self.files.certificate.clone() })?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(TlsError::Mismatch { certificate: self.files.certificate.clone(), key: file.clone() });
        }
        Ok(key)
    }
}

fn since_epoch(at: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(at.millis()).unwrap_or(0))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
fn make(error: rcgen::Error) -> TlsError {
    TlsError::Make { reason: error.to_string() }
}

//! Certificates of clients: what a site asks of whoever connects.
//!
//! A [`Policy`] is one site's: the authorities that vouch for its clients, the certificates that they took back, and
//! whether a client may come without one. Everything about a chain is for webpki to judge; here stands only that an
//! authority outside its own time vouches for nobody, which webpki leaves to its caller.
//!
//! Nothing is carried from one connection to the next: a policy gives no session tickets and keeps no sessions, so that
//! every connection shows its certificate anew, to the policy in force. Which policy a connection gets is for
//! `edge::handshake`, and whether it still suits a request for `edge::certificate`. What was shown is a [`Shown`].

mod shown;

use std::sync::{Arc, Mutex, PoisonError};

use ::aws_lc_rs::digest::{Context, SHA256};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WantsServerCert, WebPkiClientVerifier,
};
use rustls::{
    CertificateError, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::Expiry;
use crate::model::time::Timestamp;

pub use shown::{Shown, Unreadable};

/// What one site asks of its clients.
#[derive(Debug)]
pub struct Policy {
    /// Whether a client must have a certificate. One that has a bad one is refused in any case.
    pub required: bool,
    /// When each authority ends: from then on it vouches for nobody.
    pub authorities: Vec<Expiry>,
    /// When each list is to have been made anew: from then on nobody gets in whose certificate is of its issuer.
    pub lists: Vec<Expiry>,
    digest: [u8; 32],
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
}

/// Authorities, as a file holds them.
pub type Authorities = Vec<CertificateDer<'static>>;
/// Lists of revoked certificates, as a file holds them.
pub type Lists = Vec<CertificateRevocationListDer<'static>>;

/// Why a policy cannot be made of its files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A file is not PEM.
    #[error("is not PEM ({0})")]
    NotPem(String),
    /// A file holds no certificate.
    #[error("holds no certificate")]
    NoCertificate,
    /// One of its certificates cannot be read.
    #[error("holds a certificate that cannot be read")]
    BadCertificate,
    /// One of its certificates is somebody's own; the subject.
    #[error("holds a certificate that is no authority's: `{0}`")]
    NoAuthority(String),
    /// A file holds no list.
    #[error("holds no list of revoked certificates")]
    NoList,
    /// One of its lists cannot be read.
    #[error("holds a list that cannot be read ({0})")]
    BadList(String),
    /// Lists are given, and an authority has none; its subject.
    #[error("there is no list of the authority `{0}`")]
    NoListOf(String),
    /// The TLS library refused the policy.
    #[error("cannot be used ({0})")]
    Library(String),
}

impl PolicyError {
    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NotPem(_) | Self::NoCertificate | Self::BadCertificate => {
                "it must hold the `-----BEGIN CERTIFICATE-----` of whoever issues the clients' certificates"
            }
            Self::NoAuthority(_) => {
                "name the certificates of those who issue (basicConstraints CA:TRUE), not of a client or server"
            }
            Self::NoList | Self::BadList(_) => {
                "it must hold the authority's whole list (a CRL of version 2) in PEM, `-----BEGIN X509 CRL-----`"
            }
            Self::NoListOf(_) => {
                "nobody whom it has issued a certificate could be let in: add its list, or take it out of authorities"
            }
            Self::Library(_) => "have the file made again by whoever issues the clients' certificates",
        }
    }
}

/// Reads a file of authorities.
pub fn authorities(pem: &[u8]) -> Result<Authorities, PolicyError> {
    let authorities: Result<Authorities, _> = CertificateDer::pem_slice_iter(pem).collect();
    let authorities = authorities.map_err(|error| PolicyError::NotPem(error.to_string()))?;
    if authorities.is_empty() {
        return Err(PolicyError::NoCertificate);
    }
    authorities.iter().try_for_each(|authority| Authority::read(authority).map(drop))?;
    Ok(authorities)
}

/// Reads a file of certificates that `authorities` revoked.
pub fn revocation_lists(pem: &[u8], authorities: &Authorities) -> Result<Lists, PolicyError> {
    let lists: Result<Lists, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let lists = lists.map_err(|error| PolicyError::NotPem(error.to_string()))?;
    if lists.is_empty() {
        return Err(PolicyError::NoList);
    }
    lists.iter().try_for_each(|list| issuer(list).map(drop))?;
    let authorities = authorities.iter().map(Authority::read).collect::<Result<Vec<_>, _>>()?;
    // Here, where it is known which file it is.
    made(&authorities, &vec![true; authorities.len()], &lists, &Arc::new(aws_lc_rs::default_provider()))?;
    Ok(lists)
}

/// Whose list it is, in DER.
fn issuer(list: &CertificateRevocationListDer<'static>) -> Result<Vec<u8>, PolicyError> {
    Ok(parsed(list)?.issuer().as_raw().to_vec())
}

/// Until when it holds.
fn expiry(list: &CertificateRevocationListDer<'static>) -> Result<Expiry, PolicyError> {
    let list = parsed(list)?;
    // webpki has refused a list that does not say when the next one comes.
    let next = list.next_update().ok_or_else(|| PolicyError::BadList("it names no next update".to_owned()))?;
    Ok(Expiry {
        name: shown::distinguished_name(list.issuer()),
        begins: Timestamp::from_secs(list.last_update().timestamp()),
        ends: Timestamp::from_secs(next.timestamp()),
    })
}

fn parsed<'a>(list: &'a CertificateRevocationListDer<'static>) -> Result<CertificateRevocationList<'a>, PolicyError> {
    let read = x509_parser::parse_x509_crl(list);
    read.map(|(_, list)| list).map_err(|error| PolicyError::BadList(format!("not a CRL: {error}")))
}

impl Policy {
    /// The policy of these `authorities`, at least one. With `lists` every certificate of a chain must be in none of
    /// them, and a list that is past its next update vouches for nothing.
    pub fn new(authorities: &[CertificateDer<'static>], lists: &Lists, required: bool) -> Result<Self, PolicyError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut digest = Context::new(&SHA256);
        let mut note = |bytes: &[u8]| {
            digest.update(&(bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        note(&[u8::from(required)]);
        for authority in authorities {
            note(authority);
        }
        note(b"lists");
        for list in lists {
            note(list);
        }
        let digest = digest.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");

        let verifier = Verifier::new(authorities, lists, required, &provider)?;
        let expires = |authority: &Authority| Expiry {
            name: authority.subject.clone(),
            begins: Timestamp::from_secs(authority.begins),
            ends: Timestamp::from_secs(authority.ends),
        };
        let of_authorities = verifier.authorities.iter().map(expires).collect();
        let of_lists = lists.iter().map(expiry).collect::<Result<_, _>>()?;
        let builder = super::builder(provider).map_err(|error| PolicyError::Library(error.to_string()))?;
        let builder = builder.with_client_cert_verifier(Arc::new(verifier));
        Ok(Self { required, authorities: of_authorities, lists: of_lists, digest, builder })
    }

    /// Whether this asks exactly what `other` asks.
    pub fn is(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// What a connection under this policy is made with.
    pub fn server_config(&self, certificates: Arc<dyn ResolvesServerCert>) -> ServerConfig {
        let mut config = self.builder.clone().with_cert_resolver(certificates);
        config.alpn_protocols = super::protocols();
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config
    }
}

/// Somebody who vouches for clients.
#[derive(Debug)]
struct Authority {
    der: CertificateDer<'static>,
    /// For people.
    subject: String,
    /// The same, in DER.
    name: Vec<u8>,
    /// Its own time, in Unix seconds.
    begins: i64,
    ends: i64,
}

impl Authority {
    fn read(der: &CertificateDer<'static>) -> Result<Self, PolicyError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|_| PolicyError::BadCertificate)?;
        let subject = shown::distinguished_name(parsed.subject());
        // Before version 3 there was no way to say it.
        if parsed.version() == X509Version::V3 && !parsed.is_ca() {
            return Err(PolicyError::NoAuthority(subject));
        }
        RootCertStore::empty().add(der.clone()).map_err(|_| PolicyError::BadCertificate)?;
        let validity = parsed.validity();
        Ok(Self {
            der: der.clone(),
            subject,
            name: parsed.subject().as_raw().to_vec(),
            begins: validity.not_before.timestamp(),
            ends: validity.not_after.timestamp(),
        })
    }

    fn is_in_force(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.begins <= now && now <= self.ends
    }
}

/// Has webpki judge by the authorities that are in force.
#[derive(Debug)]
struct Verifier {
    authorities: Vec<Authority>,
    lists: Lists,
    hints: Vec<DistinguishedName>,
    required: bool,
    provider: Arc<CryptoProvider>,
    /// Made again when one of them comes into force or ends: hardly ever. The lock is held for no handshake's work.
    current: Mutex<InForce>,
}

/// Those in force, by their places, and who judges by them; `None`: nobody is.
#[derive(Clone, Debug)]
struct InForce {
    which: Vec<bool>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Verifier {
    fn new(
        authorities: &[CertificateDer<'static>],
        lists: &Lists,
        required: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, PolicyError> {
        let authorities = authorities.iter().map(Authority::read).collect::<Result<Vec<_>, _>>()?;
        if !lists.is_empty() {
            let issuers = lists.iter().map(issuer).collect::<Result<Vec<_>, _>>()?;
            if let Some(silent) = authorities.iter().find(|authority| !issuers.contains(&authority.name)) {
                return Err(PolicyError::NoListOf(silent.subject.clone()));
            }
        }
        let which = vec![true; authorities.len()];
        let all = made(&authorities, &which, lists, provider)?;
        let hints = all.as_ref().map_or_else(Vec::new, |all| all.root_hint_subjects().to_vec());
        let current = Mutex::new(InForce { which, verifier: all });
        Ok(Self { authorities, lists: lists.clone(), hints, required, provider: Arc::clone(provider), current })
    }

    fn in_force(&self, now: UnixTime) -> Option<Arc<dyn ClientCertVerifier>> {
        let which: Vec<bool> = self.authorities.iter().map(|authority| authority.is_in_force(now)).collect();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.which != which {
            // What made all of them makes some of them; were it ever not to, nobody is let in.
            let verifier = made(&self.authorities, &which, &self.lists, &self.provider).unwrap_or_default();
            *current = InForce { which, verifier };
        }
        current.verifier.clone()
    }
}

fn made(
    authorities: &[Authority],
    which: &[bool],
    lists: &Lists,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, PolicyError> {
    let mut roots = RootCertStore::empty();
    for (authority, _) in authorities.iter().zip(which).filter(|(_, in_force)| **in_force) {
        roots.add(authority.der.clone()).map_err(|_| PolicyError::BadCertificate)?;
    }
    if roots.is_empty() {
        return Ok(None);
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(lists.iter().cloned())
        .enforce_revocation_expiration()
        .build()
        .map(Some)
        .map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(error) => PolicyError::BadList(format!("{error:?}")),
            error => PolicyError::Library(error.to_string()),
        })
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.in_force(now) {
            Some(verifier) => verifier.verify_client_cert(end_entity, intermediates, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;

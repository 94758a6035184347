//! What can be wrong with certificates: each error names the file and says what to do.

use std::io;
use std::path::PathBuf;

use crate::model::time::Timestamp;

/// Why the https listener cannot have its certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate is configured.
    #[error(
        "no certificate is configured: name a certificate and its key under [tls], or leave [tls] out for development certificates"
    )]
    NoneConfigured,
    /// A file cannot be read.
    #[error("{}: cannot be read ({source}): check the path, and that the gateway's user may read the file", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written ({source}): make its folder writable for the gateway's user, or configure certificate files of your own", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no certificate.
    #[error("{}: holds no certificate: it must hold `-----BEGIN CERTIFICATE-----`, the server's own first, then its issuers'", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// A file holds no private key.
    #[error("{}: holds no private key: it must hold an unencrypted `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY` in PEM (`openssl pkey -in … -out …` removes a passphrase)", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// A file is broken.
    #[error("{}: {reason}: make the file again, in PEM", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is of a kind or size that cannot be used.
    #[error("{}: the key cannot be used ({source}): use ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits", file.display())]
    UnusableKey {
        /// The key's file.
        file: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The key is not the certificate's.
    #[error("{}: is not the key of {}: name the pair that was issued together, and keep the server's own certificate first in its file", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate's time is over.
    #[error("{}: expired at {}: renew it", file.display(), at.to_rfc3339())]
    Expired {
        /// The certificate's file.
        file: PathBuf,
        /// When it ended.
        at: Timestamp,
    },
    /// The certificate's time has not come.
    #[error("{}: is not valid before {}: check this machine's clock, or wait", file.display(), from.to_rfc3339())]
    NotYetValid {
        /// The certificate's file.
        file: PathBuf,
        /// When it begins.
        from: Timestamp,
    },
    /// The certificate names no host.
    #[error("{}: names no host: clients look only at subjectAltName (RFC 9525), so have it issued with one", file.display())]
    NoNames {
        /// The certificate's file.
        file: PathBuf,
    },
    /// A host's name cannot stand in a certificate.
    #[error(
        "`{name}` cannot stand in a certificate: write a host name (punycode for other scripts), `*.` and a host name, or an address"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// A file in the development folder was not made by us.
    #[error("{}: was not made by the gateway, so it is left alone: move it away, or configure it as a certificate file under [tls]", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// A development certificate could not be made.
    #[error("a development certificate could not be made ({reason}): configure certificate files under [tls]")]
    Make {
        /// What is wrong.
        reason: String,
    },
    /// The TLS library refused the configuration.
    #[error("TLS cannot be set up: {source}")]
    Library {
        /// What rustls said.
        source: rustls::Error,
    },
}

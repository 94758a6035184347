//! Certificates: which one answers for which name, and the development authority.

use std::path::PathBuf;

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

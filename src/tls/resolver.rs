//! Which certificate answers for the name a client asks for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

use super::expiry::Expiry;
use super::load::Loaded;

/// The certificates of one configuration.
#[derive(Debug)]
pub(super) struct Set {
    exact: HashMap<String, Candidates>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Candidates>,
    /// What a client gets that asks for no name, or for one that no certificate has.
    default: Candidates,
    expiries: Vec<Expiry>,
}

/// Certificates for the same name, in the configuration's order: an ECDSA one beside an RSA one for old clients.
type Candidates = Vec<Arc<CertifiedKey>>;

impl Set {
    /// `None` when there is no certificate at all.
    pub(super) fn new(loaded: &[Loaded]) -> Option<Self> {
        let first = loaded.first()?;
        let mut set = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            default: vec![first.key.clone()],
            expiries: Vec::new(),
        };
        for Loaded { key, names, begins, ends } in loaded {
            if names.iter().any(|name| first.names.contains(name)) && !Arc::ptr_eq(key, &first.key) {
                set.default.push(key.clone());
            }
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut set.wildcard, parent),
                    None => (&mut set.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(key.clone());
            }
            if let Some(name) = names.first() {
                set.expiries.push(Expiry { name: name.clone(), begins: *begins, ends: *ends });
            }
        }
        Some(set)
    }

    /// The certificate for `name`: its own, else its wildcard's, else the default; of several, the first
    /// whose key can sign as the client wants.
    pub(super) fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let candidates = name.and_then(|name| self.named(&normal(name))).unwrap_or(&self.default);
        let fitting = candidates.iter().find(|candidate| candidate.key.choose_scheme(schemes).is_some());
        fitting.or(candidates.first()).cloned()
    }

    fn named(&self, name: &str) -> Option<&Candidates> {
        self.exact.get(name).or_else(|| {
            // A wildcard stands for exactly one label (RFC 9525 section 6.3).
            let (label, parent) = name.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(parent) }
        })
    }

    pub(super) fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }
}

/// Lower-case, without the dot of a fully qualified name: `API.Example.com.` is `api.example.com`.
fn normal(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

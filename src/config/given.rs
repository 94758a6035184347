//! What compiling needs beside the files' text: read or drawn before, so that compiling is pure.

use std::collections::BTreeMap;

use crate::contract::source::Source;
use crate::model::secret::Secret;

/// What `load` brings.
#[derive(Debug)]
pub(super) struct Given {
    /// Secret files by the path as written: what they hold, or why they could not be read.
    pub secrets: BTreeMap<String, Result<Secret, String>>,
    /// Contract files by the path as written.
    pub contracts: BTreeMap<String, Result<Source, String>>,
    /// Files of certificates and keys that cannot be opened, and why.
    pub unreadable: BTreeMap<String, String>,
    /// Files of clients' authorities and of what those revoked, by the path as written.
    pub client_files: BTreeMap<String, Result<Vec<u8>, String>>,
    /// A random text: what stands where a product needs no pepper.
    pub spare: Secret,
    /// How many threads the machine runs at once.
    pub cores: usize,
    /// The snapshot's generation.
    pub generation: u64,
}

//! Codes: what a mail carries to prove that whoever shows it reads the account's mail. Used once, and then gone.

use std::fmt;

/// A digest of a code's text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodeHash(pub [u8; 32]);

impl fmt::Debug for CodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeHash(***)")
    }
}

/// What a code is for; it opens nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeKind {
    /// To prove the address.
    Verify,
    /// To set a new password.
    Reset,
}

//! Mails on their way: sealed, so that whoever reads the database reads neither codes nor addresses.

use std::fmt;

use super::id::MailId;

/// A mail as it waits.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedMail {
    /// Its id; the same at every attempt to send it.
    pub id: MailId,
    /// The ciphertext.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for SealedMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedMail").field("id", &self.id).finish_non_exhaustive()
    }
}

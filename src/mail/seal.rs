//! Mails at rest: whoever reads the queue's table reads neither tokens nor addresses.
//!
//! AES-256-GCM (NIST SP 800-38D) under a key that is derived from a secret which is not in the database. A sealed
//! mail is `version 1 B | key id 4 B | nonce 12 B | ciphertext | tag 16 B`; what stands before the nonce is
//! authenticated too. Nonces are random: one key is good for 2^32 mails. The key id lets a worker that serves several
//! sites, or a site whose secret has changed, find the key.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::address::Address;
use super::brand::Sender;
use super::{Kind, Message};
use crate::model::entropy::Entropy;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

const VERSION: u8 = 1;
const HEAD: usize = 5;
const BODY: usize = HEAD + NONCE_LEN;

/// What a realm's mails are sealed under.
pub struct SealKey {
    key: LessSafeKey,
    /// Version and key id.
    head: [u8; HEAD],
}

/// Why a sealed mail cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed under another secret, or by a newer version of this program.
    #[error("the mail is sealed under a key that is not configured (any more)")]
    UnknownKey,
    /// It was cut off or changed.
    #[error("the sealed mail is damaged")]
    Damaged,
}

/// What is sealed, in its own short words.
#[derive(Serialize)]
struct Written<'a> {
    id: &'a str,
    kind: Kind,
    from: String,
    reply_to: Option<String>,
    to: &'a str,
    subject: &'a str,
    text: &'a str,
    html: Option<&'a str>,
    made_at: i64,
    ends_at: i64,
}

#[derive(Deserialize)]
struct Read {
    id: String,
    kind: Kind,
    from: String,
    reply_to: Option<String>,
    to: String,
    subject: String,
    text: Secret,
    html: Option<Secret>,
    made_at: i64,
    ends_at: i64,
}

impl SealKey {
    /// The key of `realm`, derived from its `pepper`.
    pub fn derive(pepper: &Secret, realm: &str) -> Self {
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, pepper.expose().as_bytes());
        let derive = |what: &str| hmac::sign(&pepper, format!("mail queue {what}\0{realm}").as_bytes());
        let mut head = [VERSION; HEAD];
        head[1..].copy_from_slice(&derive("id").as_ref()[..HEAD - 1]);
        let key = UnboundKey::new(&AES_256_GCM, derive("key").as_ref()).expect("SHA-256 gives 32 bytes");
        Self { key: LessSafeKey::new(key), head }
    }

    /// Seals a mail for the queue.
    pub fn seal(&self, message: &Message, entropy: &dyn Entropy) -> Vec<u8> {
        let written = Written {
            id: &message.id,
            kind: message.kind,
            from: message.from.to_text(),
            reply_to: message.reply_to.as_ref().map(Sender::to_text),
            to: message.to.as_str(),
            subject: &message.subject,
            text: message.text.expose(),
            html: message.html.as_ref().map(Secret::expose),
            made_at: message.made_at.millis(),
            ends_at: message.ends_at.millis(),
        };
        let mut nonce = [0_u8; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut text = serde_json::to_vec(&written).expect("strings and numbers are JSON");
        let nonce_value = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce_value, Aad::from(self.head), &mut text);
        let tag = tag.expect("a mail is shorter than 64 GiB");
        [&self.head[..], &nonce, &text, tag.as_ref()].concat()
    }

    /// Whether the mail was sealed under this key.
    pub fn fits(&self, sealed: &[u8]) -> bool {
        sealed.starts_with(&self.head)
    }

    /// Opens a mail.
    pub fn open(&self, sealed: &[u8]) -> Result<Message, OpenError> {
        if !self.fits(sealed) {
            return Err(OpenError::UnknownKey);
        }
        let nonce = sealed.get(HEAD..BODY).and_then(|nonce| Nonce::try_assume_unique_for_key(nonce).ok());
        let nonce = nonce.ok_or(OpenError::Damaged)?;
        let mut text = sealed[BODY..].to_vec();
        let read = match self.key.open_in_place(nonce, Aad::from(self.head), &mut text) {
            Ok(plain) => serde_json::from_slice::<Read>(plain).ok(),
            Err(_) => None,
        };
        text.zeroize();
        read.and_then(Read::message).ok_or(OpenError::Damaged)
    }
}

/// Opens a mail with whichever of `keys` it was sealed under.
pub fn open<'a>(keys: impl IntoIterator<Item = &'a SealKey>, sealed: &[u8]) -> Result<Message, OpenError> {
    keys.into_iter().find(|key| key.fits(sealed)).ok_or(OpenError::UnknownKey)?.open(sealed)
}

impl Read {
    fn message(self) -> Option<Message> {
        Some(Message {
            id: self.id,
            kind: self.kind,
            from: Sender::parse(&self.from)?,
            reply_to: match self.reply_to {
                Some(text) => Some(Sender::parse(&text)?),
                None => None,
            },
            to: Address::parse(&self.to).ok()?,
            subject: self.subject,
            text: self.text,
            html: self.html,
            made_at: Timestamp::from_millis(self.made_at),
            ends_at: Timestamp::from_millis(self.ends_at),
        })
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(***)")
    }
}

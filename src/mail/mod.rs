//! Mail: what it says, how it waits, and how it leaves.
//!
//! A native operation asks [`Mailer::compose`] for a [`Message`], seals it ([`SealKey`]) and puts it into the store's
//! queue in the same transaction as the code that it carries. A worker takes sealed mails out of the queue, opens
//! them, and hands each to [`Mailer::deliver`]; on a failure [`retry::next_attempt`] says when to try again.
//! [`Transport`] is where mails go: an SMTP server, a folder (development), or nowhere.
//!
//! What it is not: it knows no accounts and no codes, and keeps no queue. Whoever does must hold a claim for at least
//! [`Mailer::lease`], so that no second worker sends what a first one is still sending.
//!
//! To add a mail: a variant of [`Kind`] and of [`Content`], three files in `templates/`, their rows in `templates.rs`.

mod address;
pub mod brand;
mod compose;
mod error;
mod message;
mod outbox;
pub mod retry;
mod seal;
mod smtp;
mod templates;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::model::secret::Secret;

pub use address::{Address, BadAddress};
pub use brand::Brand;
pub use compose::{ComposeError, Content};
pub use error::{DeliveryError, MailError, Stage};
pub use message::{Kind, Message};
pub use seal::{OpenError, SealKey, open};

use outbox::Outbox;
use smtp::Smtp;
use templates::Templates;

/// Mails of which it is remembered that the server took them.
const REMEMBERED: usize = 4096;

/// How mails leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to.
    pub transport: Transport,
    /// A folder whose files replace the built-in templates.
    pub templates: Option<PathBuf>,
    /// Mails under way at once, and so connections; more wait. At least one.
    pub at_once: usize,
}

/// Where mails go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// To an SMTP server that sends them on.
    Smtp(SmtpSettings),
    /// Into files in a folder: for development.
    Outbox(PathBuf),
    /// Nowhere. Operations that need mail should not be offered.
    Off,
}

/// The SMTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpSettings {
    /// Its name or address. With TLS it must prove this name.
    pub host: String,
    /// Its port; see [`Tls::port`].
    pub port: u16,
    /// How the connection is protected.
    pub tls: Tls,
    /// Who signs in, and with what; both or neither. Never sent in the clear, except to this machine itself.
    pub username: Option<String>,
    /// See `username`.
    pub password: Option<Secret>,
    /// A PEM file of the authorities that are believed in place of the system's.
    pub authorities: Option<PathBuf>,
    /// The name in EHLO; without one an address literal, which submission servers accept.
    pub hello: Option<String>,
    /// How long the server may take for one step; for its answer to a whole mail ten times that.
    pub timeout: Duration,
}

/// How the connection to an SMTP server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// From the first byte (RFC 8314): the best choice.
    Implicit,
    /// After STARTTLS (RFC 3207). A server, or somebody in between, that does not offer it gets no mail.
    StartTls,
    /// Not at all: mails, and the tokens in them, can be read on the way. For a server on this machine.
    None,
}

impl Tls {
    /// The usual port.
    pub const fn port(self) -> u16 {
        match self {
            Self::Implicit => 465,
            Self::StartTls => 587,
            Self::None => 25,
        }
    }
}

/// Makes mails and brings them on their way.
#[derive(Debug)]
pub struct Mailer {
    templates: Templates,
    carrier: Carrier,
    turns: Semaphore,
    at_once: usize,
    /// What was taken for good: a queue that could not be told so asks again, and nothing is sent twice.
    taken: Mutex<VecDeque<String>>,
    lease: Duration,
}

#[derive(Debug)]
enum Carrier {
    Smtp(Box<Smtp>),
    Outbox(Outbox),
    Off,
}

impl Mailer {
    /// Reads templates and authorities. Connects to nothing: a server that is down now may be up when a mail is due.
    pub fn new(settings: &Settings) -> Result<Self, MailError> {
        let templates = Templates::load(settings.templates.as_deref())?;
        let (carrier, lease) = match &settings.transport {
            Transport::Smtp(smtp) => {
                let smtp = Smtp::new(smtp)?;
                let lease = smtp.patience();
                (Carrier::Smtp(Box::new(smtp)), lease)
            }
            Transport::Outbox(folder) => (Carrier::Outbox(Outbox::new(folder.clone())), Duration::from_secs(30)),
            Transport::Off => (Carrier::Off, Duration::from_secs(1)),
        };
        let at_once = settings.at_once.clamp(1, Semaphore::MAX_PERMITS);
        let turns = Semaphore::new(at_once);
        Ok(Self { templates, carrier, turns, at_once, taken: Mutex::default(), lease })
    }

    /// Whether mails go anywhere at all.
    pub const fn is_on(&self) -> bool {
        !matches!(self.carrier, Carrier::Off)
    }

    /// How many mails it takes at once: more would only wait for their turn.
    pub const fn at_once(&self) -> usize {
        self.at_once
    }

    /// How long a claim on a queued mail must hold: longer than [`Self::deliver`] can take.
    pub fn lease(&self) -> Duration {
        self.lease + Duration::from_secs(30)
    }

    /// Sends a mail: `Ok` when the server has taken responsibility for it (RFC 5321 section 4.2.5) or the whole file
    /// is on disk. Waits for a turn first; turn and delivery end within [`Self::lease`].
    pub async fn deliver(&self, message: &Message) -> Result<(), DeliveryError> {
        if self.was_taken(message.id()) {
            return Ok(());
        }
        let delivery = async {
            let Ok(_turn) = self.turns.acquire().await else {
                return Err(DeliveryError::temporary(Stage::Turn, "the mailer is closed"));
            };
            match &self.carrier {
                Carrier::Smtp(smtp) => smtp.send(&message.letter()?).await?,
                Carrier::Outbox(outbox) => outbox.put(&message.letter()?).await?,
                Carrier::Off => return Err(DeliveryError::temporary(Stage::Turn, "mail is switched off")),
            }
            // Before the next await: what was taken is known even if nobody waits for this any more.
            self.remember(message.id());
            Ok(())
        };
        tokio::time::timeout(self.lease, delivery)
            .await
            .unwrap_or_else(|_| Err(DeliveryError::temporary(Stage::Turn, "it took too long")))
    }

    /// Says goodbye on idle connections. Call it when the queue is empty, and at the end.
    pub async fn hang_up(&self) {
        if let Carrier::Smtp(smtp) = &self.carrier {
            smtp.hang_up().await;
        }
    }

    fn was_taken(&self, id: &str) -> bool {
        self.lock().iter().any(|taken| taken == id)
    }

    fn remember(&self, id: &str) {
        let mut taken = self.lock();
        if taken.len() >= REMEMBERED {
            taken.pop_front();
        }
        taken.push_back(id.to_owned());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

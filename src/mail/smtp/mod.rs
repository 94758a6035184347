//! The SMTP client: connections of our own around lettre's conversation.
//!
//! lettre's own transport bounds nothing but the TCP connect, and gives a connection back to its pool when the one
//! who used it stopped waiting: the late answer to one mail would then be read as the answer to the next. Here
//! each step has its time ([`mod@line`]), and a connection is kept only after a whole mail was answered with a 2yz.
//! Nothing is awaited between that answer and the caller's knowing of it.

mod line;
mod lockstep;

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, TlsParameters, TlsParametersBuilder};
use lettre::transport::smtp::extension::ClientId;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use tokio::time::Instant;

use super::message::Letter;
use super::{DeliveryError, MailError, SmtpSettings, Stage, Tls};
use line::Line;

/// How long an unused connection is believed to be there still.
const KEEP_IDLE: Duration = Duration::from_secs(20);
/// Mails over one connection; servers set limits of their own.
const MAILS_PER_LINE: u32 = 50;
/// How many times one step's time the server has for its answer to a whole mail: giving up early sends it twice
/// (RFC 5321 section 4.5.3.2.6 asks for ten minutes; with the usual 30 seconds this is half of that).
const ANSWER_STEPS: u32 = 10;
/// One send at most: NOOP and MAIL on a kept connection; TCP and TLS, greeting and EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA
/// on a new one; the mail; QUIT; and one for the turn.
const STEPS: u32 = 2 + 7 + ANSWER_STEPS + 2;

/// The server and the connections to it.
pub(super) struct Smtp {
    host: String,
    port: u16,
    tls: Tls,
    parameters: Option<TlsParameters>,
    credentials: Option<Credentials>,
    hello: ClientId,
    timeout: Duration,
    idle: Mutex<Vec<Idle>>,
}

/// A connection that waits for the next mail.
#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
    mails: u32,
}

/// A delivery that failed.
struct Failure {
    error: DeliveryError,
    /// The connection is gone, or the server asked us to go (421): nothing was said about this mail.
    lost: bool,
}

impl Smtp {
    pub fn new(settings: &SmtpSettings) -> Result<Self, MailError> {
        let host = settings.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if ServerName::try_from(host.as_str()).is_err() {
            return Err(MailError::BadHost { host: settings.host.clone() });
        }
        let hello = match &settings.hello {
            None => ClientId::default(),
            Some(name) if DnsName::try_from(name.as_str()).is_ok() => ClientId::Domain(name.clone()),
            Some(name) => return Err(MailError::BadHello { hello: name.clone() }),
        };
        let credentials = match (&settings.username, &settings.password) {
            (None, None) => None,
            (Some(username), Some(password)) if sendable(username) && sendable(password.expose()) => {
                Some(Credentials::new(username.clone(), password.expose().to_owned()))
            }
            _ => return Err(MailError::HalfACredential),
        };
        if credentials.is_some() && settings.tls == Tls::None && !is_this_machine(&host) {
            return Err(MailError::PasswordInTheClear { host });
        }
        let parameters = match settings.tls {
            Tls::None => None,
            Tls::Implicit | Tls::StartTls => Some(parameters(&host, settings.authorities.as_deref())?),
        };
        Ok(Self {
            host,
            port: settings.port,
            tls: settings.tls,
            parameters,
            credentials,
            hello,
            timeout: settings.timeout.max(Duration::from_millis(1)),
            idle: Mutex::default(),
        })
    }

    /// How long [`Self::send`] may take at most.
    pub fn patience(&self) -> Duration {
        self.timeout.saturating_mul(STEPS)
    }

    /// Sends one mail, over a connection that waits, or a new one.
    pub async fn send(&self, letter: &Letter) -> Result<(), DeliveryError> {
        if let Some((mut line, mails)) = self.reuse().await {
            match self.transact(&mut line, letter).await {
                // The server let go of the connection just as we took it up again: not its last word. Later than this the
                // mail may be on its way; then it is the queue that tries again, with its pause.
                Err(Failure { lost: true, error }) if error.stage() == Stage::Sender => {}
                done => return self.settle(line, mails + 1, done).await,
            }
        }
        let mut line = self.dial().await.map_err(|failure| failure.error)?;
        let done = self.transact(&mut line, letter).await;
        self.settle(line, 1, done).await
    }

    /// Keeps the connection of a mail that was taken, and ends any other. Awaits nothing where the mail was taken.
    async fn settle(&self, line: Line, mails: u32, done: Result<(), Failure>) -> Result<(), DeliveryError> {
        let Err(failure) = done else {
            self.lock().push(Idle { line, since: Instant::now(), mails });
            return Ok(());
        };
        if !failure.lost {
            self.quit(line).await;
        }
        Err(failure.error)
    }

    /// Ends every connection that waits.
    pub async fn hang_up(&self) {
        let idle = std::mem::take(&mut *self.lock());
        for Idle { line, .. } in idle {
            self.quit(line).await;
        }
    }

    /// A connection that waits and still answers.
    async fn reuse(&self) -> Option<(Line, u32)> {
        loop {
            let Idle { mut line, since, mails } = self.lock().pop()?;
            if since.elapsed() < KEEP_IDLE && mails < MAILS_PER_LINE && self.is_there(&mut line).await {
                return Some((line, mails));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// Whether a name or password can be sent: AUTH PLAIN separates them by NUL (RFC 4616).
fn sendable(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Verifies the server by its name, against the authorities of a file or else the system's.
fn parameters(host: &str, authorities: Option<&Path>) -> Result<TlsParameters, MailError> {
    let mut builder = TlsParametersBuilder::new(host.to_owned()).certificate_store(CertificateStore::None);
    for certificate in match authorities {
        Some(file) => read_authorities(file)?,
        None => system_authorities()?,
    } {
        builder = builder.add_root_certificate(Certificate::from_der(certificate.to_vec()).map_err(tls)?);
    }
    builder.build().map_err(tls)
}

fn read_authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, MailError> {
    let pem = std::fs::read(file).map_err(|source| MailError::Read { file: file.to_owned(), source })?;
    let bad = || MailError::BadAuthorities { file: file.to_owned() };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| bad())?;
    if found.is_empty() || found.iter().any(|one| RootCertStore::empty().add(one.clone()).is_err()) {
        return Err(bad());
    }
    Ok(found)
}

fn system_authorities() -> Result<Vec<CertificateDer<'static>>, MailError> {
    let found = rustls_native_certs::load_native_certs();
    let mut certificates = found.certs;
    // Single certificates that cannot be read are common in system stores and harm nobody else's.
    certificates.retain(|one| RootCertStore::empty().add(one.clone()).is_ok());
    if certificates.is_empty() {
        let said: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(MailError::NoAuthorities { said: said.join("; ") });
    }
    Ok(certificates)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
fn tls(error: lettre::transport::smtp::Error) -> MailError {
    MailError::Tls { said: error.to_string() }
}

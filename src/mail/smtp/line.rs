//! One connection: made, spoken over, ended; each step within its time, and each answer judged.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::{Category, Code, Response, Severity};
use tokio::net::TcpStream;

use super::lockstep::Lockstep;
use super::{ANSWER_STEPS, Failure, Smtp};
use crate::mail::message::Letter;
use crate::mail::{DeliveryError, Stage, Tls};

/// A goodbye is a courtesy: it holds nobody up.
const QUIT: Duration = Duration::from_secs(1);
/// What is kept of a server's words.
const LONGEST_SAID: usize = 200;

/// An open connection to the server, signed in.
pub(super) struct Line(AsyncSmtpConnection);

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

impl Smtp {
    /// Connects, protects, signs in.
    pub(super) async fn dial(&self) -> Result<Line, Failure> {
        let mut connection = match &self.parameters {
            Some(parameters) if self.tls == Tls::Implicit => {
                let (server, parameters) = ((self.host.as_str(), self.port), Some(parameters.clone()));
                let connecting =
                    AsyncSmtpConnection::connect_tokio1(server, Some(self.timeout), &self.hello, parameters, None);
                self.step(Stage::Connect, self.timeout.saturating_mul(2), connecting).await?
            }
            _ => self.dial_in_the_clear().await?,
        };
        if let Some(credentials) = &self.credentials {
            let signing_in = connection.auth(DEFAULT_MECHANISMS, credentials);
            self.step(Stage::SignIn, self.timeout, signing_in).await?;
        }
        Ok(Line(connection))
    }

    async fn dial_in_the_clear(&self) -> Result<AsyncSmtpConnection, Failure> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(lost(Stage::Connect, error.to_string())),
            Err(_) => return Err(lost(Stage::Connect, "no connection in time")),
        };
        let greeting = AsyncSmtpConnection::connect_with_transport(Box::new(Lockstep::new(stream)), &self.hello);
        let mut connection = self.step(Stage::Connect, self.timeout, greeting).await?;
        if let Some(parameters) = &self.parameters {
            let protecting = connection.starttls(parameters.clone(), &self.hello);
            self.step(Stage::Connect, self.timeout, protecting).await?;
            // lettre says so by an error; a mail in the clear is worth asking twice.
            if !connection.is_encrypted() {
                return Err(lost(Stage::Connect, "the connection is not encrypted"));
            }
        }
        Ok(connection)
    }

    /// Hands one mail over.
    pub(super) async fn transact(&self, line: &mut Line, letter: &Letter) -> Result<(), Failure> {
        let connection = &mut line.0;
        let mut options = Vec::new();
        let about: &str = letter.to.as_ref();
        if !about.is_ascii() {
            let knows = |extension| connection.server_info().supports_feature(extension);
            if !(knows(Extension::SmtpUtfEight) && knows(Extension::EightBitMime)) {
                let said = "the address is not ASCII, and the server does not speak SMTPUTF8 (RFC 6531)";
                let error = DeliveryError::permanent(Stage::Recipient, said);
                return Err(Failure { error, lost: false });
            }
            options.push(MailParameter::SmtpUtfEight);
            options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let sender = connection.command(Mail::new(Some(letter.from.clone()), options));
        let answer = self.asked(Stage::Sender, about, sender).await?;
        expect(Stage::Sender, &answer, Severity::PositiveCompletion)?;
        let recipient = connection.command(Rcpt::new(letter.to.clone(), Vec::new()));
        let answer = self.asked(Stage::Recipient, about, recipient).await?;
        expect(Stage::Recipient, &answer, Severity::PositiveCompletion)?;
        let answer = self.asked(Stage::Content, about, connection.command(Data)).await?;
        expect(Stage::Content, &answer, Severity::PositiveIntermediate)?;
        let content = connection.message(&letter.bytes);
        let time = self.timeout.saturating_mul(ANSWER_STEPS);
        let answer = bounded(time, content).await.map_err(|trouble| judge(Stage::Content, about, trouble))?;
        expect(Stage::Content, &answer, Severity::PositiveCompletion)
    }

    /// Whether the other end is still there, and still answers one for one.
    pub(super) async fn is_there(&self, line: &mut Line) -> bool {
        tokio::time::timeout(self.timeout, line.0.test_connected()).await.unwrap_or(false)
    }

    pub(super) async fn quit(&self, mut line: Line) {
        let _gone = tokio::time::timeout(self.timeout.min(QUIT), line.0.quit()).await;
    }

    async fn asked(
        &self,
        stage: Stage,
        about: &str,
        step: impl Future<Output = Result<Response, Error>>,
    ) -> Result<Response, Failure> {
        bounded(self.timeout, step).await.map_err(|trouble| judge(stage, about, trouble))
    }

    async fn step<T>(
        &self,
        stage: Stage,
        time: Duration,
        step: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        bounded(time, step).await.map_err(|trouble| judge(stage, "", trouble))
    }
}

/// Why a step failed; `None`: its time was over.
type Trouble = Option<Error>;

async fn bounded<T>(time: Duration, step: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(time, step).await {
        Ok(done) => done.map_err(Some),
        Err(_) => Err(None),
    }
}

fn expect(stage: Stage, answer: &Response, severity: Severity) -> Result<(), Failure> {
    let code = answer.code();
    if code.severity == severity { Ok(()) } else { Err(lost(stage, format!("the server answered {code} out of turn"))) }
}

/// What a failed step means for the mail.
///
/// Only what the server says of this address or this text (55z, RFC 5321 section 4.2.2, at RCPT or later) is final.
/// Every other refusal, of our password, our sender address, our connection, is the operator's to mend: the mails wait
/// for it.
fn judge(stage: Stage, recipient: &str, trouble: Trouble) -> Failure {
    let Some(error) = trouble else { return lost(stage, "no answer in time") };
    let Some(code) = error.status() else {
        let said = match stage {
            // Nothing that came with the content is repeated: it could be the content.
            Stage::Content => "the connection was lost before the server answered".to_owned(),
            _ => visible(&root(&error).to_string(), recipient),
        };
        return lost(stage, said);
    };
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    let said = match stage {
        // A filter quotes the link that it dislikes, and a careless server what was sent to sign in.
        Stage::Content | Stage::SignIn => enhanced(&text).unwrap_or_default().to_owned(),
        _ => visible(&text, recipient),
    };
    let said = format!("{code} {said}").trim_end().to_owned();
    let about_the_mail = matches!(stage, Stage::Recipient | Stage::Content);
    let is_final = code.severity == Severity::PermanentNegativeCompletion && code.category == Category::MailSystem;
    if about_the_mail && is_final {
        return Failure { error: DeliveryError::permanent(stage, said), lost: false };
    }
    Failure { error: DeliveryError::temporary(stage, said), lost: is_goodbye(code) }
}

/// What lies under lettre's "connection error: network error: …".
fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    error.source().map_or(error, root)
}

/// 421: the server closes the connection, whatever was asked (RFC 5321 section 3.8).
fn is_goodbye(code: Code) -> bool {
    u16::from(code) == 421
}

fn lost(stage: Stage, said: impl Into<String>) -> Failure {
    Failure { error: DeliveryError::temporary(stage, said), lost: true }
}

/// An enhanced status code (RFC 3463) at the start of a server's words: `5.7.1`.
fn enhanced(text: &str) -> Option<&str> {
    let word = text.split_whitespace().next()?;
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    (word.split('.').count() == 3 && word.split('.').all(is_number)).then_some(word)
}

/// A server's words as they may be stored and logged: one short line, without the recipient's address.
fn visible(text: &str, recipient: &str) -> String {
    let text = if recipient.is_empty() { text.to_owned() } else { without(text, recipient) };
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_SAID).collect();
    line.trim().to_owned()
}

/// `text` with every spelling of `word`'s ASCII letters replaced.
fn without(text: &str, word: &str) -> String {
    let (low, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let (mut shown, mut from) = (String::new(), 0);
    for (at, _) in low.match_indices(&word) {
        shown.push_str(&text[from..at]);
        shown.push_str("***");
        from = at + word.len();
    }
    shown + &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_kept_without_the_address_and_in_one_short_line() {
        assert_eq!(
            visible("5.1.1 <Jose@Example.com>: unknown\r\nhere\x1b[31m", "jose@example.com"),
            "5.1.1 <***>: unknown  here [31m"
        );
        assert_eq!(visible("J\u{e9} jos\u{e9}@x.com!", "jos\u{e9}@x.com"), "J\u{e9} ***!");
        assert_eq!(visible(&"\u{e9}".repeat(300), "a@x.com").chars().count(), LONGEST_SAID);
    }

    #[test]
    fn an_enhanced_status_is_told_from_other_words() {
        assert_eq!(enhanced("5.7.1 spam: https://x/?token=t"), Some("5.7.1"));
        for other in ["", "spam", "5.7", "5.7.1.2", "5.7.1x no", "5.7.1234", "a.b.c", "5..1"] {
            assert_eq!(enhanced(other), None, "{other}");
        }
    }
}

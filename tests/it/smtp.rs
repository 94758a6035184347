//! The SMTP server that the mailer's own tests use, for whole gateways.
#![expect(dead_code, clippy::unwrap_used, reason = "a server for tests alone; what only the mailer's tests twist")]

use tollgate::mail::Tls;

#[path = "../../src/mail/tests/server.rs"]
mod server;

pub use server::{At, Identity, Plan, Server, Taken, Twist};

/// STARTTLS for `localhost`, and a sign-in.
pub fn plan(identity: &std::sync::Arc<Identity>) -> Plan {
    let (tls, certificate) = (Tls::StartTls, Some(std::sync::Arc::clone(identity)));
    Plan { tls, certificate, login: Some(("tollgate", "letter-box")), ..Plan::default() }
}

/// What comes after `token=` in a mail, with the transfer encoding undone.
pub fn token(mail: &Taken) -> String {
    let text = mail.text.replace("=\r\n", "").replace("=3D", "=");
    let (_, rest) = text.split_once("token=").unwrap_or_else(|| panic!("no link in {text}"));
    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.~".contains(*c)).collect()
}

//! Mails over real sockets and into real folders.

mod composing;
mod conversation;
mod faults;
mod outbox;
mod protection;
mod sealing;
mod server;
mod settings;

use std::time::{Duration, Instant};

use super::{Brand, Content, DeliveryError, Mailer, Message, Settings, SmtpSettings, Tls, Transport, brand};
use crate::model::entropy::SystemEntropy;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use server::{At, Identity, Plan, Server, Twist};

/// One step's time where a test waits for it to pass; long enough for a busy machine to take any other step in it.
const SHORT: Duration = Duration::from_millis(500);
/// 2026-11-20T09:40:00Z
const NOW: Timestamp = Timestamp::from_secs(1_795_167_600);
const TOKEN: &str = "uZ3v-Token_0123456789abcdefghijklmnopqrstuvwxyz";

fn brand() -> Brand {
    Brand::new(&brand::Settings {
        product: "Vantage".into(),
        from: "Vantage <no-reply@vantage.example>".into(),
        reset_link: Some("https://app.vantage.example/reset?token={token}".into()),
        ..brand::Settings::default()
    })
    .unwrap()
}

fn reset(mailer: &Mailer, to: &str) -> Message {
    let token = Secret::new(TOKEN.into());
    let content = Content::Reset { token: &token, ttl: Duration::from_hours(1) };
    mailer.compose(&brand(), to, content, NOW, &SystemEntropy).unwrap()
}

fn smtp(server: &Server) -> SmtpSettings {
    SmtpSettings {
        host: "127.0.0.1".into(),
        port: server.port,
        tls: Tls::None,
        username: None,
        password: None,
        authorities: None,
        hello: None,
        timeout: Duration::from_secs(10),
    }
}

fn mailer(smtp: SmtpSettings) -> Mailer {
    Mailer::new(&Settings { transport: Transport::Smtp(smtp), templates: None, at_once: 4 }).unwrap()
}

fn quick(server: &Server) -> Mailer {
    mailer(SmtpSettings { timeout: SHORT, ..smtp(server) })
}

/// One mail to `to`, and how it went.
async fn send(mailer: &Mailer, to: &str) -> Result<(), DeliveryError> {
    let message = reset(mailer, to);
    tokio::time::timeout(Duration::from_secs(30), mailer.deliver(&message)).await.expect("a bounded time")
}

#[expect(clippy::disallowed_methods, reason = "a test's stopwatch")]
fn stopwatch() -> Instant {
    Instant::now()
}

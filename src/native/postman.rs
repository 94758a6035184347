//! Brings queued mails on their way: taken out of the store, opened, handed to the mailer, settled.
//!
//! A mail that could not be sent goes back with a later date; one that never can be, or whose time is over, is given
//! up and said so. Whoever dies in between loses the claim after the lease, not the mail.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::mail::{self, retry};
use crate::store::QueuedMail;

/// How often the queue is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Mails under way at once.
const AT_ONCE: usize = 4;

/// Sends what is due until `stop`; what is under way then is finished.
pub async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let mut under_way = JoinSet::new();
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while under_way.try_join_next().is_some() {}
        while under_way.len() < AT_ONCE {
            let now = gateway.clock.now();
            match gateway.store.claim_mail(now.wall, gateway.mailer.lease()).await {
                Ok(Some(queued)) => {
                    under_way.spawn(send(Arc::clone(&gateway), queued));
                }
                Ok(None) => {
                    failing = false;
                    break;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "the queue of mails cannot be read; what is in it waits");
                    }
                    break;
                }
            }
        }
    }
    while under_way.join_next().await.is_some() {}
    gateway.mailer.hang_up().await;
}

async fn send(gateway: Arc<Gateway>, queued: QueuedMail) {
    let live = gateway.live();
    let keys = live.sites.iter().filter(|site| *site.site.realm == *queued.realm).map(|site| &site.seal);
    let (failed, next_at) = match mail::open(keys, &queued.sealed) {
        Err(error) => (error.to_string(), None),
        Ok(message) => match gateway.mailer.deliver(&message).await {
            Ok(()) => {
                if let Err(error) = gateway.store.mail_sent(&queued, gateway.clock.now().wall).await {
                    tracing::warn!(mail = message.id(), %error, "a mail was sent and could not be settled");
                }
                return;
            }
            Err(error) => {
                let again = !error.is_permanent();
                let now = gateway.clock.now().wall;
                let next = again.then(|| retry::next_attempt(queued.attempts, now, message.ends_at())).flatten();
                (error.to_string(), next)
            }
        },
    };
    let id = queued.id.to_text();
    match next_at {
        Some(at) => {
            tracing::warn!(mail = %id, error = %failed, next = %at.to_rfc3339(), "a mail waits for its next try")
        }
        None => tracing::error!(mail = %id, error = %failed, "a mail could not be sent and is given up"),
    }
    if let Err(error) = gateway.store.mail_failed(&queued, next_at, &failed, gateway.clock.now().wall).await {
        tracing::warn!(mail = id, %error, "a failed mail could not be settled");
    }
}

//! Brings queued mails on their way: taken out of the store, opened, handed to the mailer, settled.
//!
//! A mail that could not be sent goes back with a later date; one that never can be, or whose time is over, is given
//! up and said so. Whoever dies in between loses the claim after the lease, not the mail. One that is sealed under a key
//! which is not configured waits: another gateway may have it, or this one again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::mail::{self, OpenError, retry};
use crate::observe::metrics::labels::MailOutcome;
use crate::store::QueuedMail;

/// How often the queue is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many looks there are to a count of what waits.
const COUNT_EACH: u32 = 5;
/// How long a mail waits whose key is not here.
const WITHOUT_KEY: Duration = Duration::from_mins(10);
/// How long a stop waits for mails under way: one that is cut off stays in the queue, and is sent after its lease.
const GOODBYE: Duration = Duration::from_secs(5);

/// Sends what is due until `stop`; what is under way then is finished, within five seconds.
pub async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let mut under_way = JoinSet::new();
    let mut failing = false;
    let mut looks = 0_u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while under_way.try_join_next().is_some() {}
        // A store that does not answer is told below, once.
        if looks.is_multiple_of(COUNT_EACH)
            && let Ok(waiting) = gateway.store.mail_waiting().await
        {
            gateway.metrics.mails.waiting(waiting);
        }
        looks = looks.wrapping_add(1);
        while under_way.len() < gateway.mailer.at_once() {
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
    let farewell = async {
        while under_way.join_next().await.is_some() {}
        gateway.mailer.hang_up().await;
    };
    if tokio::time::timeout(GOODBYE, farewell).await.is_err() {
        tracing::warn!(mails = under_way.len(), "mails were under way at the end; they stay in the queue");
    }
}

async fn send(gateway: Arc<Gateway>, queued: QueuedMail) {
    let live = gateway.live();
    let keys = live.sites.iter().filter(|site| *site.site.realm == *queued.realm).map(|site| &site.seal);
    let (failed, next_at) = match mail::open(keys, &queued.sealed) {
        Err(error @ OpenError::UnknownKey) => (error.to_string(), Some(gateway.clock.now().wall.plus(WITHOUT_KEY))),
        Err(error @ OpenError::Damaged) => (error.to_string(), None),
        Ok(message) if gateway.clock.now().wall >= message.ends_at() => {
            ("its time was over before it could be sent".to_owned(), None)
        }
        Ok(message) => match gateway.mailer.deliver(&message).await {
            Ok(()) => {
                gateway.metrics.mails.came_to(MailOutcome::Sent);
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
    if let Some(at) = next_at {
        tracing::warn!(mail = %id, error = %failed, next = %at.to_rfc3339(), "a mail waits for its next try");
    } else {
        tracing::error!(mail = %id, error = %failed, "a mail could not be sent and is given up");
    }
    match gateway.store.mail_failed(&queued, next_at, &failed, gateway.clock.now().wall).await {
        Ok(true) if next_at.is_none() => gateway.metrics.mails.came_to(MailOutcome::GivenUp),
        Ok(true) => gateway.metrics.mails.came_to(MailOutcome::Failed),
        // Another has taken it, and tells what comes of it.
        Ok(false) => {}
        Err(error) => {
            // It is taken again after the lease.
            gateway.metrics.mails.came_to(MailOutcome::Failed);
            tracing::warn!(mail = id, %error, "a failed mail could not be settled");
        }
    }
}

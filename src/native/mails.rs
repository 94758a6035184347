//! Mails that operations ask for: sealed into the queue, in the same transaction as the code they carry.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Call;
use crate::contract::slot::Field;
use crate::gateway::{Gateway, LiveSite};
use crate::limit::{Charge, Subject, Verdict};
use crate::mail::{ComposeError, Content, Message};
use crate::model::account::Account;
use crate::model::code::CodeKind;
use crate::model::id::MailId;
use crate::model::mail::SealedMail;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::model::time::Timestamp;
use crate::model::window::Window;
use crate::observe::audit::{Act, Actor, Event};
use crate::rules::identity;
use crate::store::{NewCode, Requested, StoreError};

/// Mails an hour to one address, whatever asks for them.
const MAILS_AN_HOUR: u32 = 5;
const MAILS: &[Window] = &[Window { limit: MAILS_AN_HOUR, length: Duration::from_hours(1), shadow: false }];

/// Somebody's wish for a token by mail, counted and not looked into yet.
pub struct Wish {
    gateway: Arc<Gateway>,
    live: Arc<LiveSite>,
    kind: CodeKind,
    /// What was typed, normalised.
    name: String,
    now: Timestamp,
    client: IpAddr,
    request_id: String,
}

/// Takes the wish for a token of `kind` to the address in the body. Nothing is looked up yet: what is refused here is
/// refused whoever has an account.
pub async fn wish(call: &Call<'_>, kind: CodeKind) -> Result<Wish, Refusal> {
    let typed = call.input.required_text(Field::Email).map_err(|error| Problem::InvalidRequest(vec![error]))?;
    let name = identity::email(typed)
        .map_err(|bad| Problem::InvalidRequest(vec![call.input.error(Field::Email, bad.to_string())]))?;
    // Counted by what was typed: the 429 tells nothing either.
    let subject = Subject::name(call.realm(), "mail", &name.norm);
    match call.gateway.limiter.admit(&[Charge { subject, windows: MAILS, cost: 1 }], call.now).await {
        Ok(Verdict::Admitted(_)) => {}
        Ok(Verdict::Refused(_, retry_after)) => return Err(Problem::RateLimited { retry_after }.into()),
        Err(error) => return Err(Refusal::unavailable(error)),
    }
    Ok(Wish {
        gateway: Arc::clone(call.gateway),
        live: Arc::clone(call.live),
        kind,
        name: name.norm,
        now: call.now.wall,
        client: call.origin.client,
        request_id: call.origin.request_id.to_owned(),
    })
}

impl Wish {
    /// Has it fulfilled behind the answer: how long that takes, and whether it can be done at all, depends on the account,
    /// and its sender is to see neither.
    pub fn grant(self) -> Result<(), Refusal> {
        let gateway = Arc::clone(&self.gateway);
        let place = Arc::clone(&gateway.errands.places).try_acquire_owned();
        let place = place.map_err(|_| Refusal::unavailable("too many mails are asked for at once"))?;
        gateway.errands.tasks.spawn(async move {
            if let Err(error) = self.fulfil().await {
                tracing::error!(request_id = self.request_id, %error, "a mail that was asked for could not be kept");
            }
            drop(place);
        });
        Ok(())
    }

    /// Mails the token, if the address has an account that can use one.
    async fn fulfil(&self) -> Result<(), StoreError> {
        let (store, realm) = (&self.gateway.store, &self.live.site.realm);
        let found = store.credentials(realm, &self.name).await?;
        let Some(account) = found.map(|found| found.account) else { return Ok(()) };
        let is_proven = self.kind == CodeKind::Verify && account.user.email_verified;
        if account.user.disabled || account.org.disabled || is_proven {
            return Ok(());
        }
        let user = account.user.id;
        let code = match compose(&self.gateway, &self.live, self.kind, &account.user.email, self.now) {
            Ok(Some(code)) => code,
            Ok(None) => return Ok(()),
            // An account from before this was looked at.
            Err(error) => {
                let user = user.to_text();
                tracing::error!(request_id = self.request_id, user, %error, "a mail could not be made");
                return Ok(());
            }
        };
        match store.request_code(realm, user, &code, MAILS_AN_HOUR, self.now).await? {
            Requested::Done => self.gateway.logs.audit(&Event {
                time: self.now,
                actor: Actor::Anonymous,
                act: Act::MailAsked { user, kind: kind_name(self.kind) },
                site: Some(&self.live.site.name),
                client: Some(self.client),
                request_id: Some(&self.request_id),
            }),
            // The limit by name catches this first, except where several names lead to one account.
            Requested::TooMany | Requested::Unknown => {}
        }
        Ok(())
    }
}

/// A new code with the mail that brings it; `None` where the product sends no mails.
pub fn compose(
    gateway: &Gateway,
    live: &LiveSite,
    kind: CodeKind,
    to: &str,
    now: Timestamp,
) -> Result<Option<NewCode>, ComposeError> {
    let (Some(rules), Some(brand)) = (&live.site.contract.mail, &live.site.mail) else { return Ok(None) };
    let entropy = &*gateway.entropy;
    let (token, hash) = live.credentials.codes.make(kind, entropy);
    let (content, ttl) = match kind {
        CodeKind::Verify => (Content::Verify { token: &token, ttl: rules.verify_ttl }, rules.verify_ttl),
        CodeKind::Reset => (Content::Reset { token: &token, ttl: rules.reset_ttl }, rules.reset_ttl),
    };
    let message = gateway.mailer.compose(brand, to, content, now, entropy)?;
    Ok(Some(NewCode { kind, hash, ends_at: now.plus(ttl), mail: sealed(gateway, live, &message, now) }))
}

/// Tells the account's owner that the password is another. The change is done; a mail that cannot be made is no
/// reason to say otherwise.
pub async fn password_changed(call: &Call<'_>, account: &Account) {
    let Some(brand) = call.live.site.mail.as_ref().filter(|_| call.live.site.contract.mail.is_some()) else { return };
    let (gateway, entropy) = (call.gateway, &*call.gateway.entropy);
    let made = gateway.mailer.compose(brand, &account.user.email, Content::PasswordChanged, call.now.wall, entropy);
    let queued = match made {
        Ok(message) => {
            let (user, mail) = (account.user.id, sealed(gateway, call.live, &message, call.now.wall));
            gateway.store.queue_mail(call.realm(), user, &mail, call.now.wall).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = queued {
        tracing::warn!(request_id = call.origin.request_id, error, "a notice could not be queued");
    }
}

fn sealed(gateway: &Gateway, live: &LiveSite, message: &Message, now: Timestamp) -> SealedMail {
    let entropy = &*gateway.entropy;
    SealedMail { id: MailId::new(now, entropy), sealed: live.seal.seal(message, entropy) }
}

const fn kind_name(kind: CodeKind) -> &'static str {
    match kind {
        CodeKind::Verify => "verify",
        CodeKind::Reset => "reset",
    }
}

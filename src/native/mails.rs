//! Mails that operations ask for: sealed into the queue, in the same transaction as the code they carry.

use std::time::Duration;

use super::Call;
use crate::contract::slot::Field;
use crate::limit::{Charge, Subject, Verdict};
use crate::mail::{ComposeError, Content, Message};
use crate::model::account::Account;
use crate::model::code::CodeKind;
use crate::model::id::MailId;
use crate::model::mail::SealedMail;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::model::window::Window;
use crate::observe::audit::{Act, Actor};
use crate::rules::identity;
use crate::store::{NewCode, Requested};

/// Mails an hour to one address, whatever asks for them.
const MAILS_AN_HOUR: u32 = 5;
const MAILS: &[Window] = &[Window { limit: MAILS_AN_HOUR, length: Duration::from_hours(1), shadow: false }];

/// Mails a token of `kind` to the address in the body, if it has an account that can use one.
pub async fn send_code(call: &Call<'_>, kind: CodeKind) -> Result<(), Refusal> {
    let typed = call.input.required_text(Field::Email).map_err(|error| Problem::InvalidRequest(vec![error]))?;
    let name = identity::email(typed)
        .map_err(|bad| Problem::InvalidRequest(vec![call.input.error(Field::Email, bad.to_string())]))?;
    // Counted by what was typed, before anything is looked up: the 429 tells nothing either.
    let subject = Subject::name(call.realm(), "mail", &name.norm);
    match call.gateway.limiter.admit(&[Charge { subject, windows: MAILS, cost: 1 }], call.now).await {
        Ok(Verdict::Admitted(_)) => {}
        Ok(Verdict::Refused(_, retry_after)) => return Err(Problem::RateLimited { retry_after }.into()),
        Err(error) => return Err(Refusal::unavailable(error)),
    }
    let found = call.gateway.store.credentials(call.realm(), &name.norm).await?;
    let Some(account) = found.map(|found| found.account) else { return Ok(()) };
    if account.user.disabled || account.org.disabled || (kind == CodeKind::Verify && account.user.email_verified) {
        return Ok(());
    }
    let user = account.user.id;
    let code = match compose(call, kind, &account.user.email) {
        Ok(Some(code)) => code,
        Ok(None) => return Ok(()),
        // An account from before this was looked at. Whoever asks is told what everybody is told.
        Err(error) => {
            let user = user.to_text();
            tracing::error!(request_id = call.origin.request_id, user, %error, "a mail could not be made");
            return Ok(());
        }
    };
    match call.gateway.store.request_code(call.realm(), user, &code, MAILS_AN_HOUR, call.now.wall).await? {
        Requested::Done => call.audit(Actor::Anonymous, Act::MailAsked { user, kind: kind_name(kind) }),
        // The limit by name catches this first, except where several names lead to one account.
        Requested::TooMany | Requested::Unknown => {}
    }
    Ok(())
}

/// A new code with the mail that brings it; `None` where the product sends no mails.
pub fn compose(call: &Call<'_>, kind: CodeKind, to: &str) -> Result<Option<NewCode>, ComposeError> {
    let (Some(rules), Some(brand)) = (&call.live.site.contract.mail, &call.live.site.mail) else { return Ok(None) };
    let (gateway, entropy) = (call.gateway, &*call.gateway.entropy);
    let (token, hash) = call.live.credentials.codes.make(kind, entropy);
    let (content, ttl) = match kind {
        CodeKind::Verify => (Content::Verify { token: &token, ttl: rules.verify_ttl }, rules.verify_ttl),
        CodeKind::Reset => (Content::Reset { token: &token, ttl: rules.reset_ttl }, rules.reset_ttl),
    };
    let message = gateway.mailer.compose(brand, to, content, call.now.wall, entropy)?;
    Ok(Some(NewCode { kind, hash, ends_at: call.now.wall.plus(ttl), mail: sealed(call, &message) }))
}

/// Tells the account's owner that the password is another. The change is done; a mail that cannot be made is no
/// reason to say otherwise.
pub async fn password_changed(call: &Call<'_>, account: &Account) {
    let Some(brand) = call.live.site.mail.as_ref().filter(|_| call.live.site.contract.mail.is_some()) else { return };
    let (gateway, entropy) = (call.gateway, &*call.gateway.entropy);
    let made = gateway.mailer.compose(brand, &account.user.email, Content::PasswordChanged, call.now.wall, entropy);
    let queued = match made {
        Ok(message) => {
            let (user, mail) = (account.user.id, sealed(call, &message));
            gateway.store.queue_mail(call.realm(), user, &mail, call.now.wall).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = queued {
        tracing::warn!(request_id = call.origin.request_id, error, "a notice could not be queued");
    }
}

fn sealed(call: &Call<'_>, message: &Message) -> SealedMail {
    let entropy = &*call.gateway.entropy;
    SealedMail { id: MailId::new(call.now.wall, entropy), sealed: call.live.seal.seal(message, entropy) }
}

const fn kind_name(kind: CodeKind) -> &'static str {
    match kind {
        CodeKind::Verify => "verify",
        CodeKind::Reset => "reset",
    }
}

//! Mails that operations ask for: sealed into the queue, in the same transaction as the code they carry.

use std::time::Duration;

use super::Call;
use crate::contract::slot::Field;
use crate::limit::{Charge, Subject, Verdict};
use crate::mail::Content;
use crate::model::account::Account;
use crate::model::code::{CodeHash, CodeKind, NewCode};
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::model::window::Window;
use crate::observe::audit::{Act, Actor};
use crate::rules::identity;

/// Mails an hour to one address, whatever asks for them.
const MAILS: &[Window] = &[Window { limit: 5, length: Duration::from_hours(1) }];

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
    let Some(code) = compose(call, kind, &account.user.email)? else { return Ok(()) };
    call.gateway.store.request_code(call.realm(), account.user.id, &code, call.now.wall).await?;
    call.audit(Actor::Anonymous, Act::MailAsked { user: account.user.id, kind: kind.name() });
    Ok(())
}

/// A new code with the mail that brings it; `None` where the product sends no mails.
pub fn compose(call: &Call<'_>, kind: CodeKind, to: &str) -> Result<Option<NewCode>, Refusal> {
    let (Some(rules), Some(brand)) = (&call.live.site.contract.mail, &call.live.site.mail) else { return Ok(None) };
    let (gateway, entropy) = (call.gateway, &*call.gateway.entropy);
    let (token, hash): (_, CodeHash) = call.live.credentials.codes.make(kind, entropy);
    let (content, ttl) = match kind {
        CodeKind::Verify => (Content::Verify { token: &token, ttl: rules.verify_ttl }, rules.verify_ttl),
        CodeKind::Reset => (Content::Reset { token: &token, ttl: rules.reset_ttl }, rules.reset_ttl),
    };
    let message = gateway.mailer.compose(brand, to, content, call.now.wall, entropy).map_err(Refusal::internal)?;
    let mail = call.live.seal.seal(&message, entropy);
    Ok(Some(NewCode { kind, hash, ends_at: call.now.wall.plus(ttl), mail }))
}

/// Tells the account's owner that the password is another. The change is done; a mail that cannot be made is no
/// reason to say otherwise.
pub async fn password_changed(call: &Call<'_>, account: &Account) {
    let Some(brand) = call.live.site.mail.as_ref().filter(|_| call.live.site.contract.mail.is_some()) else { return };
    let (gateway, entropy) = (call.gateway, &*call.gateway.entropy);
    let made = gateway.mailer.compose(brand, &account.user.email, Content::PasswordChanged, call.now.wall, entropy);
    let queued = match made {
        Ok(message) => {
            let sealed = call.live.seal.seal(&message, entropy);
            gateway.store.queue_mail(call.realm(), &sealed, call.now.wall).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = queued {
        tracing::warn!(request_id = call.origin.request_id, error, "a notice could not be queued");
    }
}

//! A password changed by its owner, or set anew by whoever reads the account's mail.
//!
//! A change proves the old password and ends every other session; a reset proves the mailbox and ends them all.
//! Whether an address has an account shows neither in the answer nor in its time.

use std::time::Duration;

use super::{Call, keep, login, mails, values};
use crate::contract::encode::Values;
use crate::contract::slot::Field;
use crate::credential::password::{self, Verdict};
use crate::limit::Subject;
use crate::model::change::Changed;
use crate::model::code::CodeKind;
use crate::model::principal::Method;
use crate::model::problem::{FieldError, Problem};
use crate::model::refusal::Refusal;
use crate::model::secret::Secret;
use crate::observe::audit::{Act, Actor, SignInFailure};
use crate::rules::identity;
use crate::store::Spared;

/// What every answer to "send me a mail" takes: what there is to do for an account that is there begins at once, and shows
/// in nothing else that its sender could measure meanwhile.
const UNIFORM: Duration = Duration::from_millis(150);

/// Replaces the caller's password.
pub async fn change(call: &Call<'_>) -> Result<Values, Refusal> {
    let caller = call.caller()?;
    let Method::Token { session, .. } = caller.method else { return Err(Problem::InvalidToken.into()) };
    let mut wrong = Vec::new();
    let current = keep(&mut wrong, call.input.required_text(Field::CurrentPassword));
    let new = new_password(call, &mut wrong);
    let (Some(current), Some(new)) = (current, new) else { return Err(Problem::InvalidRequest(wrong).into()) };
    let user = &caller.account.user;
    // A stolen token must not become a way to guess the password behind it.
    let subject = Subject::user(call.realm(), user.id);
    let turn = call.gateway.sign_in_turn(&subject).await;
    let turn = turn.ok_or_else(|| Refusal::unavailable("too many sign-ins wait for their turn"))?;
    login::count(call, subject, Some(user.id), 0).await?;
    let norm = identity::identifier(&user.email).unwrap_or_default();
    let found = call.gateway.store.credentials(call.realm(), &norm).await?.ok_or(Problem::InvalidToken)?;
    let stored = found.password_hash.clone();
    let verdict = call.gateway.passwords.verify(Secret::new(current.to_owned()), Some(stored)).await?;
    if !matches!(verdict, Verdict::Match { .. }) {
        return Err(login::failed(call, subject, Some(user.id), SignInFailure::WrongPassword).await);
    }
    drop(turn);
    call.gateway.limiter.clear(&[subject]).await;
    let hash = call.gateway.passwords.hash(new).await?;
    let store = &call.gateway.store;
    let refresh = call.live.site.contract.tokens.refresh.as_ref();
    let access_only = refresh.is_some_and(|refresh| refresh.ends_with_password);
    let spared = if access_only { Spared::AccessOf(session) } else { Spared::Session(session) };
    let changed = store.change_password(call.realm(), user.id, &found.password_hash, &hash, spared, call.now.wall);
    // Somebody else changed it in between: what was proven is no longer the password.
    let ended = changed.await?.ok_or(Problem::InvalidCredentials)?;
    call.forget_sessions(&ended);
    call.forget(Changed::User(user.id));
    call.audit(Actor::User(user.id), Act::PasswordChanged { user: user.id });
    mails::password_changed(call, &caller.account).await;
    Ok(values::account(&call.live.site.contract, &caller.account))
}

/// Sends a reset token to the address, if it has an account. The answer is the same if not.
pub async fn request_reset(call: &Call<'_>) -> Result<Values, Refusal> {
    uniformly(call, CodeKind::Reset).await
}

/// Sends another verification token to the address, if it has an account that needs one.
pub async fn resend_verification(call: &Call<'_>) -> Result<Values, Refusal> {
    uniformly(call, CodeKind::Verify).await
}

/// Sets a new password by a reset token; every session ends.
pub async fn reset(call: &Call<'_>) -> Result<Values, Refusal> {
    let mut wrong = Vec::new();
    let token = keep(&mut wrong, call.input.required_text(Field::Token));
    let new = new_password(call, &mut wrong);
    let (Some(token), Some(new)) = (token, new) else { return Err(Problem::InvalidRequest(wrong).into()) };
    // Only a token that was ours costs a password hash.
    let code = call.live.credentials.codes.read(CodeKind::Reset, token).ok_or_else(|| bad_token(call))?;
    let hash = call.gateway.passwords.hash(new).await?;
    let done = call.gateway.store.reset_password(call.realm(), &code, &hash, call.now.wall).await?;
    let (user, ended) = done.ok_or_else(|| bad_token(call))?;
    call.forget_sessions(&ended);
    call.forget(Changed::User(user));
    call.gateway.limiter.clear(&[Subject::user(call.realm(), user)]).await;
    call.audit(Actor::User(user), Act::PasswordReset { user });
    Ok(Values::new())
}

/// Proves an address by a verification token.
pub async fn verify_email(call: &Call<'_>) -> Result<Values, Refusal> {
    let token = call.input.required_text(Field::Token).map_err(|error| Problem::InvalidRequest(vec![error]))?;
    let code = call.live.credentials.codes.read(CodeKind::Verify, token).ok_or_else(|| bad_token(call))?;
    let verified = call.gateway.store.verify_email(call.realm(), &code, call.now.wall).await?;
    let user = verified.ok_or_else(|| bad_token(call))?;
    call.forget(Changed::User(user));
    call.audit(Actor::User(user), Act::EmailVerified { user });
    Ok(Values::new())
}

fn bad_token(call: &Call<'_>) -> Problem {
    Problem::InvalidRequest(vec![call.input.error(Field::Token, "is invalid, used or expired")])
}

/// The new password, if it meets the product's rules.
fn new_password(call: &Call<'_>, wrong: &mut Vec<FieldError>) -> Option<Secret> {
    let text = keep(wrong, call.input.required_text(Field::NewPassword))?;
    let missed = password::missed(&call.live.site.contract.password, text);
    wrong.extend(missed.iter().map(|missed| call.input.error(Field::NewPassword, missed.to_string())));
    missed.is_empty().then(|| Secret::new(text.to_owned()))
}

/// Answers after the same time, whatever there is to do, and without waiting for it.
async fn uniformly(call: &Call<'_>, kind: CodeKind) -> Result<Values, Refusal> {
    let granted = async { mails::wish(call, kind).await?.grant() };
    let (granted, ()) = tokio::join!(granted, tokio::time::sleep(UNIFORM));
    granted.map(|()| Values::new()).inspect_err(|_| {
        tracing::debug!(request_id = call.origin.request_id, "a mail could not be asked for");
    })
}

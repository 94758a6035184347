//! Prove a password, start a session.
//!
//! An unknown account, a disabled one and a wrong password are one answer in one time: a password is hashed in
//! every case. Failures are counted for the account under every name it has; one password is checked at a time for
//! an account, so that parallel guesses cannot slip through and parallel sign-ins are not taken for guesses; a
//! success clears the count.

use super::{Call, register, values};
use crate::contract::encode::Values;
use crate::contract::slot::Field;
use crate::credential::password;
use crate::limit::{Charge, Subject, Verdict};
use crate::model::id::UserId;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::model::secret::Secret;
use crate::observe::audit::{Act, Actor, SignInFailure};
use crate::rules::identity;
use crate::rules::password::{MAX_BYTES, Missed};
use crate::store::{Credentials, Started, Terms};

/// Signs in.
pub async fn login(call: &Call<'_>) -> Result<Values, Refusal> {
    let (identifier, password) = read(call)?;
    // What no account can be called is looked up all the same: the answer must not come sooner.
    let name = identity::identifier(identifier).unwrap_or_default();
    let found = call.gateway.account_to_sign_in(call.realm(), &name).await?;
    let subject = attempts(call, found.as_ref(), &name);
    let turn = call.gateway.sign_in_turn(&subject).await;
    let turn = turn.ok_or_else(|| Refusal::unavailable("too many sign-ins wait for their turn"))?;
    count(call, subject, found.as_ref().map(|found| found.account.user.id), 0).await?;
    let stored = found.as_ref().map(|found| found.password_hash.clone());
    let verified = call.gateway.passwords.verify(password.clone(), stored).await?;
    let Some(found) = found else { return Err(failed(call, subject, None, SignInFailure::UnknownAccount).await) };
    let user = Some(found.account.user.id);
    let password::Verdict::Match { rehash } = verified else {
        return Err(failed(call, subject, user, SignInFailure::WrongPassword).await);
    };
    if found.account.user.disabled || found.account.org.disabled {
        return Err(failed(call, subject, user, SignInFailure::Disabled).await);
    }
    drop(turn);
    if rehash {
        renew_hash(call, &found, password).await;
    }
    let version = found.password_version;
    let account = found.account;
    let mut session = register::new_session(call, &account);
    if let Ok(Some(device)) = call.input.json(Field::Device) {
        session.device = device.clone();
    }
    let refresh = call.first_refresh(session.id);
    let sessions = &call.live.site.contract.sessions;
    let terms = Terms {
        password: Some(version),
        refresh: refresh.as_ref().and_then(|refresh| call.new_refresh(refresh)),
        most: sessions.max,
        idle: sessions.idle,
    };
    match call.gateway.store.start_session(call.realm(), &session, &terms).await? {
        Started::Done(ended) => call.forget_sessions(&ended),
        // Changed between the proof and now: what was proven is no longer the password.
        Started::PasswordChanged => return Err(failed(call, subject, user, SignInFailure::WrongPassword).await),
    }
    call.gateway.limiter.clear(&[subject]).await;
    let (user, org) = (account.user.id, account.org.id);
    call.audit(Actor::User(user), Act::SignedIn { user, org, session: session.id });
    let contract = &call.live.site.contract;
    let token = call.issue(&account, &session).await?;
    let values = values::account(contract, &account);
    Ok(call.with_refresh(values::signed_in(contract, values, &token, &session), refresh.as_ref()))
}

fn read<'a>(call: &'a Call<'_>) -> Result<(&'a str, Secret), Problem> {
    let identifier = call.input.required_text(Field::Identifier);
    let password = call.input.required_text(Field::Password);
    match (identifier, password) {
        // A longer text is nobody's password, and hashing it is what an attacker would want.
        (Ok(_), Ok(password)) if password.len() > MAX_BYTES => {
            let error = call.input.error(Field::Password, Missed::TooLong.to_string());
            Err(Problem::InvalidRequest(vec![error]))
        }
        (Ok(identifier), Ok(password)) => Ok((identifier, Secret::new(password.to_owned()))),
        (identifier, password) => {
            Err(Problem::InvalidRequest([identifier.err(), password.err()].into_iter().flatten().collect()))
        }
    }
}

/// Whose attempts are counted: the account's where there is one (so that address and user name share one
/// count), the name's where there is none (so that the answers stay alike).
fn attempts(call: &Call<'_>, found: Option<&Credentials>, name: &str) -> Subject {
    match found {
        Some(found) => Subject::user(call.realm(), found.account.user.id),
        None => Subject::name(call.realm(), "sign-in", name),
    }
}

/// Counts `cost` failures, or with 0 only looks whether there is room for one.
pub async fn count(call: &Call<'_>, subject: Subject, user: Option<UserId>, cost: u32) -> Result<(), Refusal> {
    let windows = &call.live.site.limits.failed_sign_in;
    if windows.is_empty() {
        return Ok(());
    }
    let verdict = call.gateway.limiter.admit(&[Charge { subject, windows, cost }], call.now).await;
    let full = match verdict.map_err(Refusal::unavailable)? {
        Verdict::Admitted(states) => {
            states.iter().filter(|state| state.remaining == 0).map(|state| state.reset_after).max()
        }
        Verdict::Refused(_, retry_after) => Some(retry_after),
    };
    match full {
        // The last failure fills the window; it is the next attempt that is refused.
        Some(retry_after) if cost == 0 => {
            call.audit(Actor::Anonymous, Act::SignInFailed { user, reason: SignInFailure::Limited });
            Err(Problem::RateLimited { retry_after }.into())
        }
        _ => Ok(()),
    }
}

/// Counts the failure. One answer for the client, whatever the trail says.
pub async fn failed(call: &Call<'_>, subject: Subject, user: Option<UserId>, reason: SignInFailure) -> Refusal {
    call.audit(Actor::Anonymous, Act::SignInFailed { user, reason });
    match count(call, subject, user, 1).await {
        Ok(()) => Problem::InvalidCredentials.into(),
        Err(refusal) => refusal,
    }
}

/// Stores the password under today's parameters. Failing to is no reason to refuse the sign-in: the old hash
/// still verifies, and the next sign-in tries again.
async fn renew_hash(call: &Call<'_>, found: &Credentials, password: Secret) {
    let Ok(new) = call.gateway.passwords.hash(password).await else { return };
    let user = found.account.user.id;
    let renewed =
        call.gateway.store.set_password_hash(call.realm(), user, &found.password_hash, &new, call.now.wall).await;
    if let Err(error) = renewed {
        tracing::warn!(request_id = call.origin.request_id, %error, "a password hash could not be renewed");
    }
}

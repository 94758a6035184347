//! Who is it? The credential is taken from `Authorization`, verified, and turned into a principal.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::exchange::Exchange;
use super::route::Target;
use crate::contract::Carried;
use crate::contract::operation::Caller;
use crate::credential::CredentialDigest;
use crate::credential::presented::Presented;
use crate::gateway::LiveSite;
use crate::limit::{Charge, LimitError, States, Subject, Verdict};
use crate::model::principal::Principal;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::model::secret::Secret;

/// A credential that let a request in.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// The value of its `Authorization` field.
    Field(HeaderValue),
    /// The key in an agent's first message.
    Key(Secret),
}

/// Fills `exchange.principal`, unless the target is for anyone, or can be proven in the body and nothing else is shown.
///
/// Failures are counted for the client's address: past the site's bound the answer to one is 429 until the window
/// moves on, and keys that were never shown before are not looked up, so that guessing gets slower and not only louder,
/// and costs the store nothing.
pub async fn authenticate(exchange: &mut Exchange, headers: &HeaderMap, target: &Target) -> Result<(), Refusal> {
    let live = Arc::clone(exchange.site());
    let fields = headers.get_all(AUTHORIZATION);
    // Two of them are refused also where none is asked: a backend that gets both may read another than the next one.
    if is_public(&live, target) && fields.iter().nth(1).is_none() {
        return Ok(());
    }
    let presented = match Presented::read(&fields, &live.site.contract) {
        Ok(None) if takes_refresh_token(&live, target) => return Ok(()),
        Ok(presented) => presented.ok_or(Problem::NotAuthenticated)?,
        Err(unreadable) => {
            exchange.presented = true;
            return Err(Box::pin(failed(exchange, unreadable.into())).await);
        }
    };
    verify(exchange, &presented).await?;
    exchange.credential = headers.get(AUTHORIZATION).cloned().map(Accepted::Field);
    Ok(())
}

/// Fills `exchange.principal` by the key of an agent's first message, whatever the target; counted as any other.
pub async fn by_key(exchange: &mut Exchange, key: &Secret) -> Result<(), Refusal> {
    verify(exchange, &Presented { kind: Carried::ApiKey, text: key.expose() }).await?;
    exchange.credential = Some(Accepted::Key(key.clone()));
    Ok(())
}

/// Fills `exchange.principal` by what let a request in before: asking again is no attempt, and counts as none.
pub async fn again(exchange: &mut Exchange, accepted: &Accepted, target: &Target) -> Result<(), Refusal> {
    let live = Arc::clone(exchange.site());
    let presented = match accepted {
        Accepted::Field(_) if is_public(&live, target) => return Ok(()),
        Accepted::Field(field) => Presented::read([field], &live.site.contract).map_err(Problem::from)?,
        Accepted::Key(key) => Some(Presented { kind: Carried::ApiKey, text: key.expose() }),
    };
    let presented = presented.ok_or(Problem::NotAuthenticated)?;
    let digest = live.credentials.digest(&presented);
    let verified = verified(exchange, (&presented, digest), std::future::ready(Ok(()))).await?;
    exchange.principal = Some(Arc::new(verified));
    Ok(())
}

async fn verify(exchange: &mut Exchange, presented: &Presented<'_>) -> Result<(), Refusal> {
    exchange.presented = true;
    let live = exchange.site();
    let digest = live.credentials.digest(presented);
    if !exchange.imagined {
        let (authenticator, contract) = (&exchange.gateway.authenticator, &live.site.contract);
        let known = authenticator.at_once(&live.credentials, contract, presented, &digest, exchange.now);
        if let Some(principal) = known {
            exchange.principal = Some(Arc::new(principal));
            return Ok(());
        }
    }
    // Boxed: rare, and every request would carry the room for it.
    Box::pin(find_out(exchange, presented, digest)).await
}

async fn find_out(exchange: &mut Exchange, presented: &Presented<'_>, digest: CredentialDigest) -> Result<(), Refusal> {
    match verified(exchange, (presented, digest), may_guess(exchange)).await {
        Ok(principal) => {
            exchange.principal = Some(Arc::new(principal));
            Ok(())
        }
        Err(Refusal { problem, fault: None }) => Err(failed(exchange, problem).await),
        Err(fault) => Err(fault),
    }
}

async fn verified(
    exchange: &Exchange,
    (presented, digest): (&Presented<'_>, CredentialDigest),
    stranger: impl Future<Output = Result<(), Refusal>>,
) -> Result<Principal, Refusal> {
    let live = exchange.site();
    let authenticator = &exchange.gateway.authenticator;
    let (keys, contract, now) = (&live.credentials, &live.site.contract, exchange.now);
    if exchange.imagined {
        // Boxed: no request that is real should carry the room for this.
        return Ok(Box::pin(authenticator.recognize(keys, contract, presented, now, stranger)).await?);
    }
    authenticator.authenticate(keys, contract, (presented, digest), now, stranger).await
}

/// Why the credential of a request that is only imagined lets nobody in; `None` where it does, or there is none.
pub async fn why(exchange: &Exchange, headers: &HeaderMap) -> Option<String> {
    let live = exchange.site();
    let presented = match Presented::read(headers.get_all(AUTHORIZATION), &live.site.contract) {
        Ok(presented) => presented?,
        Err(unreadable) => return Some(unreadable.to_string()),
    };
    let (authenticator, now) = (&exchange.gateway.authenticator, exchange.now);
    let known = authenticator.recognize(&live.credentials, &live.site.contract, &presented, now, may_guess(exchange));
    Some(known.await.err()?.to_string())
}

/// Whether the target is for anyone.
pub fn is_public(live: &LiveSite, target: &Target) -> bool {
    match target {
        Target::Native(target) => {
            live.site.contract.operations[target.served].operation.signature().caller == Caller::Public
        }
        Target::Forward(target) => target.is_public(live),
        Target::KeySet => true,
    }
}

/// Whether the target is an operation that a refresh token in its body is proof enough for.
pub fn takes_refresh_token(live: &LiveSite, target: &Target) -> bool {
    matches!(target, Target::Native(target) if live.site.contract.operations[target.served].takes_refresh_token())
}

/// Whether the client's address has failures left.
async fn may_guess(exchange: &Exchange) -> Result<(), Refusal> {
    let states = failures(exchange).await?;
    let spent = states.iter().filter(|state| state.remaining == 0).map(|state| state.reset_after).max();
    match spent {
        Some(wait) => Err(Problem::RateLimited { retry_after: wait.max(Duration::from_secs(1)) }.into()),
        None => Ok(()),
    }
}

/// What the windows of failures hold for the client's address.
pub async fn failures(exchange: &Exchange) -> Result<States, LimitError> {
    let site = &exchange.site().site;
    let windows = &site.limits.failed_credentials;
    let subject = Subject::address(&site.realm, "failed", exchange.client);
    let look = exchange.gateway.limiter.admit(&[Charge { subject, windows, cost: 0 }], exchange.now).await?;
    let (Verdict::Admitted(states) | Verdict::Refused(states, _)) = look;
    Ok(states)
}

/// Counts an attempt that failed; what the client is told.
pub async fn failed(exchange: &Exchange, problem: Problem) -> Refusal {
    // An expired token is a client that is late, not one that guesses; and one that is told to wait has been counted.
    if matches!(problem, Problem::TokenExpired | Problem::RateLimited { .. }) {
        return problem.into();
    }
    let site = &exchange.site().site;
    let windows = &site.limits.failed_credentials;
    if windows.is_empty() {
        return problem.into();
    }
    let subject = Subject::address(&site.realm, "failed", exchange.client);
    match exchange.charge(&[Charge { subject, windows, cost: 1 }]).await {
        Ok(Verdict::Refused(_, retry_after)) => {
            Problem::RateLimited { retry_after: retry_after.max(Duration::from_secs(1)) }.into()
        }
        // The limiter being away must not turn a refusal into anything milder.
        Ok(Verdict::Admitted(_)) | Err(_) => problem.into(),
    }
}

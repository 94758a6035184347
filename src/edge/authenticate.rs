//! Who is it? The credential is taken from `Authorization`, verified, and turned into a principal.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::exchange::Exchange;
use super::route::Target;
use crate::contract::operation::Caller;
use crate::credential::presented::Presented;
use crate::limit::{Charge, Subject, Verdict};
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;

/// Fills `exchange.principal`, unless the target is for anyone.
///
/// Failures are counted for the client's address: past the site's bound the answer is 429 until the window
/// moves on, whatever is presented, so that guessing tokens or keys gets slower and not only louder.
pub async fn authenticate(exchange: &mut Exchange, headers: &HeaderMap, target: &Target) -> Result<(), Refusal> {
    let live = Arc::clone(exchange.site());
    let public = match target {
        Target::Native(target) => {
            live.site.contract.operations[target.served].operation.signature().caller == Caller::Public
        }
        Target::Forward(target) => target.is_public(&live),
        Target::KeySet => true,
    };
    if public {
        return Ok(());
    }
    let fields = headers.get_all(AUTHORIZATION);
    let presented = match Presented::read(&fields, &live.site.contract) {
        Ok(presented) => presented.ok_or(Problem::NotAuthenticated)?,
        Err(unreadable) => {
            exchange.presented = true;
            return Err(failed(exchange, unreadable.into()).await);
        }
    };
    exchange.presented = true;
    let verified = exchange
        .gateway
        .authenticator
        .authenticate(&live.credentials, &live.site.contract, &presented, exchange.now)
        .await;
    match verified {
        Ok(principal) => {
            exchange.credential = headers.get(AUTHORIZATION).cloned();
            exchange.principal = Some(Arc::new(principal));
            Ok(())
        }
        Err(Refusal { problem, fault: None }) => Err(failed(exchange, problem).await),
        Err(fault) => Err(fault),
    }
}

async fn failed(exchange: &Exchange, problem: Problem) -> Refusal {
    // An expired token is a client that is late, not one that guesses.
    if problem == Problem::TokenExpired {
        return problem.into();
    }
    let site = &exchange.site().site;
    let windows = &site.limits.failed_credentials;
    if windows.is_empty() {
        return problem.into();
    }
    let subject = Subject::address(&site.realm, "failed", exchange.client);
    match exchange.gateway.limiter.admit(&[Charge { subject, windows, cost: 1 }], exchange.now).await {
        Ok(Verdict::Refused(_, retry_after)) => {
            Problem::RateLimited { retry_after: retry_after.max(Duration::from_secs(1)) }.into()
        }
        // The limiter being away must not turn a refusal into anything milder.
        Ok(Verdict::Admitted(_)) | Err(_) => problem.into(),
    }
}

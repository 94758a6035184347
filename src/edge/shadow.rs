//! What would have become of a request if everything held that is only tried (`shadow`).
//!
//! Routes, guards and windows in shadow are decided on as if they held, for requests that everything else lets pass.
//! What they would have refused is counted and stands in the access log; the client is told nothing of it, and no
//! header speaks of a window in shadow. Never in shadow: whether a credential is asked for and verified, what is asked
//! of native operations and of every API key, and that nothing passes without a route.
//!
//! Called by [`super::throttle`] for requests on which something is tried. `super::authorize` has judged the rules by then.

use super::authorize::Permit;
use super::exchange::Exchange;
use super::throttle::{self, label};
use crate::gateway::LiveSite;
use crate::limit::{Charge, Verdict};
use crate::model::problem::{Problem, ProblemKind};
use crate::model::refusal::Refusal;
use crate::observe::access::Shadow;
use crate::observe::metrics::labels::LimitKind;

/// Whether anything is tried on this request.
pub fn concerns(permit: &Permit, tried: &[Charge<'_>]) -> bool {
    !tried.is_empty() || matches!(permit, Permit::Forward(permit) if !permit.tried().is_empty())
}

/// Admits the request by the windows that hold, spends from those that are tried, and notes what would have refused it.
pub async fn admit(
    exchange: &mut Exchange,
    live: &LiveSite,
    permit: &Permit,
    charges: &[Charge<'_>],
    tried: &[Charge<'_>],
) -> Result<(), Refusal> {
    let mut all: Vec<Shadow> = Vec::new();
    if let Permit::Forward(permit) = permit {
        all.extend(permit.tried().iter().map(|(rule, lack)| Shadow {
            rule: rule.name(live),
            window: None,
            problem: Problem::from(*lack).kind(),
        }));
    }
    // What a rule would have refused would never have come to the windows, and spends nothing of them.
    let tried = if all.is_empty() { tried } else { &[] };
    let came = match exchange.charge_with(charges, tried).await {
        Ok((verdict, came)) => {
            throttle::settle(exchange, permit, charges, verdict)?;
            came
        }
        // Nobody is refused because a trial cannot be counted.
        Err(_) if charges.is_empty() => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(Verdict::Refused(states, _)) = came {
        let full = states.iter().filter(|state| state.remaining < tried[state.charge].cost);
        all.extend(full.map(|state| Shadow {
            rule: owner(exchange, label(tried[state.charge].subject.kind())),
            window: Some(state.window),
            problem: ProblemKind::RateLimited,
        }));
    }
    if !exchange.imagined {
        for shadow in &all {
            live.metrics.shadow_refused(&shadow.rule, shadow.problem);
        }
    }
    exchange.shadow = all;
    Ok(())
}

/// Whose window it is, as it is configured.
pub fn owner(exchange: &Exchange, kind: LimitKind) -> String {
    let name = kind.name();
    match exchange.route.as_deref().filter(|_| kind == LimitKind::Route) {
        Some(route) => format!("limit {name} {route}"),
        None => format!("limit {name}"),
    }
}

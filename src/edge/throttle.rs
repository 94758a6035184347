//! How much is left: every window of the request admitted together, or none.
//!
//! An authenticated request spends its organization's windows (the organization's own, or its plan's), its
//! key's, its route's and, where configured, its address's. A native route that anyone may call spends the
//! windows of the client's address. What is found stands in the answer's `X-RateLimit-*`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::authorize::Permit;
use super::exchange::Exchange;
use super::shadow;
use crate::gateway::LiveSite;
use crate::limit::{Charge, LimitError, States, Subject, SubjectKind, Verdict, WindowState};
use crate::model::principal::{Method, Principal};
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::model::time::Now;
use crate::model::window::Window;
use crate::observe::metrics::labels::LimitKind;

/// What `X-RateLimit-*` says: the window that will run out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    limit: u32,
    remaining: u32,
    reset: Duration,
}

static LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

impl Rates {
    fn of(states: &States) -> Option<Self> {
        let tightest = states.tightest()?;
        Some(Self { limit: tightest.window.limit, remaining: tightest.remaining, reset: tightest.reset_after })
    }

    /// A window that is full, and gives way after `reset`.
    pub fn spent(window: Window, reset: Duration) -> Self {
        Self { limit: window.limit, remaining: 0, reset }
    }

    /// Writes the three headers, of a request that came at `came` and is answered after it `took` so long. `Reset` is in
    /// Unix seconds, rounded up: never past, and waiting for it is enough.
    pub fn write(self, came: Now, took: Duration, headers: &mut HeaderMap) {
        let least = came.wall.plus(took).secs() + 1;
        let reset = came.wall.plus(self.reset).plus(Duration::from_millis(999)).secs().max(least);
        headers.insert(&LIMIT, number(self.limit));
        headers.insert(&REMAINING, number(self.remaining));
        headers.insert(&RESET, number(reset));
    }
}

/// A number as a header says it. `HeaderValue::from` does the same with two allocations instead of one.
fn number(number: impl itoa::Integer) -> HeaderValue {
    HeaderValue::from_str(itoa::Buffer::new().format(number)).expect("digits may stand in a header")
}

/// Admits the request, or refuses it and spends nothing.
pub async fn admit(exchange: &mut Exchange, permit: &Permit) -> Result<(), Refusal> {
    let live = Arc::clone(exchange.site());
    let (charges, tried) = charges(&live, exchange.client, permit);
    if shadow::concerns(permit, &tried) {
        // Boxed: no request of a site that tries nothing should carry the room for this.
        return Box::pin(shadow::admit(exchange, &live, permit, &charges, &tried)).await;
    }
    if charges.is_empty() {
        return Ok(());
    }
    let limiter = &exchange.gateway.limiter;
    let at_once = if exchange.imagined { None } else { limiter.admit_at_once(&charges, exchange.now) };
    let verdict = match at_once {
        Some(verdict) => verdict,
        None => Box::pin(exchange.charge(&charges)).await.map_err(Refusal::unavailable)?,
    };
    settle(exchange, permit, &charges, verdict)
}

/// Takes over what came of the windows that hold.
pub fn settle(
    exchange: &mut Exchange,
    permit: &Permit,
    charges: &[Charge<'_>],
    verdict: Verdict,
) -> Result<(), Refusal> {
    let limits = (!exchange.imagined).then_some(&exchange.gateway.metrics.limits);
    let kinds = charges.iter().map(|charge| label(charge.subject.kind()));
    match verdict {
        Verdict::Admitted(states) => {
            if let Some(limits) = limits {
                kinds.for_each(|kind| limits.admitted(kind));
            }
            // Only an authenticated caller has a plan to be told about.
            exchange.rates = if caller(permit).is_some() { Rates::of(&states) } else { None };
            Ok(())
        }
        Verdict::Refused(states, retry_after) => {
            if let Some(limits) = limits {
                kinds.for_each(|kind| limits.refused(kind));
            }
            exchange.rates = Rates::of(&states);
            Err(Problem::RateLimited { retry_after }.into())
        }
    }
}

/// Every window that [`admit`] asks, as it stands: whose it is and what the request costs of it.
pub async fn windows(exchange: &Exchange, permit: &Permit) -> Result<Vec<(LimitKind, u32, WindowState)>, LimitError> {
    let live = exchange.site();
    let (charges, tried) = charges(live, exchange.client, permit);
    let mut all = Vec::new();
    for charges in [&*charges, &*tried] {
        let (Verdict::Admitted(states) | Verdict::Refused(states, _)) =
            exchange.gateway.limiter.foresee(charges, exchange.now).await?;
        let of =
            |state: &WindowState| (label(charges[state.charge].subject.kind()), charges[state.charge].cost, *state);
        all.extend(states.iter().map(of));
    }
    Ok(all)
}

fn caller(permit: &Permit) -> Option<&Principal> {
    match permit {
        Permit::Native(permit) => permit.caller().map(AsRef::as_ref),
        Permit::Forward(permit) => permit.caller().map(AsRef::as_ref),
        Permit::KeySet => None,
    }
}

/// What a request pays, of which windows: of those that hold, and of those that are only tried.
fn charges<'a>(live: &'a LiveSite, client: IpAddr, permit: &'a Permit) -> (SmallVec<[Charge<'a>; 4]>, Vec<Charge<'a>>) {
    let mut charges: SmallVec<[Charge<'_>; 4]> = SmallVec::new();
    let (route, twins) = match permit {
        Permit::Native(_) => (None, &[][..]),
        Permit::Forward(permit) => (Some(permit.route()), permit.twins()),
        Permit::KeySet => return (charges, Vec::new()),
    };
    // Another spelling of a route's path leads to the same resource at many backends: it pays what the route's own does,
    // from the same windows.
    let routes = || route.iter().chain(twins).map(|route| &live.site.routes[*route]);
    let caller = caller(permit);
    let cost = match permit {
        // Whoever has to throw a thief out is not told to come back in an hour.
        Permit::Native(permit)
            if caller.is_some() && live.site.contract.operations[permit.target().served].operation.is_defence() =>
        {
            0
        }
        _ => routes().map(|route| route.cost).max().unwrap_or(1),
    };
    match caller {
        Some(principal) => charge_caller(live, principal, cost, &mut charges),
        None if route.is_none() => {
            charges.push(by_address(live, "native", client, &live.site.limits.address_native, cost));
        }
        None => {}
    }
    if route.is_some() {
        charges.push(by_address(live, "all", client, &live.site.limits.per_address, cost));
    }
    if let Some(principal) = caller {
        for route in routes() {
            let subject = Subject::route(&live.site.realm, &route.name, principal.account.org.id);
            // Two readings of one path may name the same route.
            if charges.iter().all(|charge| charge.subject != subject) {
                charges.push(Charge { subject, windows: &route.windows, cost });
            }
        }
    }
    let tried = charges.iter().map(|charge| charge.in_shadow()).filter(Charge::asks).collect();
    charges.retain(|charge| charge.asks());
    (charges, tried)
}

/// What the caller's windows hold, without spending: for answers that were refused before they were charged.
pub async fn look(exchange: &Exchange, principal: &Principal) -> Option<Rates> {
    let live = exchange.site();
    let mut charges: SmallVec<[Charge<'_>; 4]> = SmallVec::new();
    charge_caller(live, principal, 0, &mut charges);
    charges.retain(|charge| charge.asks());
    match exchange.gateway.limiter.admit(&charges, exchange.now).await {
        Ok(Verdict::Admitted(states) | Verdict::Refused(states, _)) => Rates::of(&states),
        Err(_) => None,
    }
}

fn charge_caller<'a>(live: &'a LiveSite, principal: &'a Principal, cost: u32, charges: &mut SmallVec<[Charge<'a>; 4]>) {
    let (site, org) = (&live.site, &principal.account.org);
    let windows: &[Window] = match &org.limits {
        Some(own) => own,
        None => site.contract.plans.get(usize::from(principal.plan.0)).map_or(&[], |plan| &plan.limits),
    };
    charges.push(Charge { subject: Subject::org(&site.realm, org.id), windows, cost });
    if let Method::Key(key) = &principal.method {
        charges.push(Charge { subject: Subject::key(&site.realm, key.id), windows: &site.limits.per_key, cost });
    }
}

/// The name of a window's owner in logs and metrics.
pub fn label(kind: SubjectKind) -> LimitKind {
    match kind {
        SubjectKind::Org => LimitKind::Organization,
        SubjectKind::User => LimitKind::User,
        SubjectKind::Key => LimitKind::Key,
        SubjectKind::Address => LimitKind::Address,
        SubjectKind::Name => LimitKind::Name,
        SubjectKind::Route => LimitKind::Route,
    }
}

fn by_address<'a>(live: &LiveSite, scope: &str, client: IpAddr, windows: &'a [Window], cost: u32) -> Charge<'a> {
    Charge { subject: Subject::address(&live.site.realm, scope, client), windows, cost }
}

//! May they? The only place that makes a [`Permit`], and a permit is the only way on.

use std::sync::Arc;

use smallvec::SmallVec;

use super::exchange::Exchange;
use super::route::{ForwardTarget, NativeTarget, Target};
use crate::contract::Requirement;
use crate::contract::operation::Caller;
use crate::gateway::LiveSite;
use crate::model::principal::{Method, Principal};
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::rules;

/// Proof that a request may go on. Its fields are private to this file: forgetting the check does not compile.
#[derive(Debug)]
pub enum Permit {
    /// To a native operation.
    Native(NativePermit),
    /// To a backend.
    Forward(ForwardPermit),
    /// To the public keys, which are for everyone.
    KeySet,
}

/// Leave to perform one native operation.
#[derive(Debug)]
pub struct NativePermit {
    target: NativeTarget,
    caller: Option<Arc<Principal>>,
}

/// Leave to send one request to a backend.
#[derive(Debug)]
pub struct ForwardPermit {
    route: usize,
    caller: Option<Arc<Principal>>,
}

impl NativePermit {
    /// What may be performed.
    pub fn target(&self) -> &NativeTarget {
        &self.target
    }

    /// By whom; `None`: anyone may.
    pub fn caller(&self) -> Option<&Arc<Principal>> {
        self.caller.as_ref()
    }
}

impl ForwardPermit {
    /// The route that lets it pass.
    pub fn route(&self) -> usize {
        self.route
    }

    /// By whom; `None`: the route is public.
    pub fn caller(&self) -> Option<&Arc<Principal>> {
        self.caller.as_ref()
    }
}

/// Judges the request against everything that is asked for its target.
pub fn authorize(exchange: &Exchange, target: Target) -> Result<Permit, Refusal> {
    let live = exchange.site();
    let caller = exchange.principal.clone();
    match target {
        Target::Native(target) => native(live, target, caller),
        Target::Forward(target) => forward(exchange, live, &target, caller),
        Target::KeySet => Ok(Permit::KeySet),
    }
}

fn native(live: &LiveSite, target: NativeTarget, caller: Option<Arc<Principal>>) -> Result<Permit, Refusal> {
    let served = &live.site.contract.operations[target.served];
    if served.operation.signature().caller == Caller::User {
        let principal = caller.as_deref().ok_or(Problem::NotAuthenticated)?;
        // A key must not make, rotate or revoke keys, nor turn itself into a session.
        if !served.by_key && !matches!(principal.method, Method::Token { .. }) {
            return Err(Problem::InsufficientPermissions.into());
        }
        let mut requires: SmallVec<[&Requirement; 2]> = SmallVec::new();
        requires.push(&served.requires);
        requires.extend(of_keys(live, principal));
        judge(live, principal, &requires, &target.permissions, false)?;
    }
    Ok(Permit::Native(NativePermit { target, caller }))
}

fn forward(
    exchange: &Exchange,
    live: &LiveSite,
    target: &ForwardTarget,
    caller: Option<Arc<Principal>>,
) -> Result<Permit, Refusal> {
    if !target.is_public(live) {
        let principal = caller.as_deref().ok_or(Problem::NotAuthenticated)?;
        let writes = !matches!(exchange.method, http::Method::GET | http::Method::HEAD);
        let routes = std::iter::once(target.route).chain(target.twins.iter().copied());
        let mut requires: SmallVec<[&Requirement; 4]> = routes.map(|at| &live.site.routes[at].requires).collect();
        requires.extend(target.guards.iter().map(|guard| &live.site.guards[*guard].requires));
        requires.extend(of_keys(live, principal));
        judge(live, principal, &requires, &target.permissions, writes)?;
    }
    Ok(Permit::Forward(ForwardPermit { route: target.route, caller }))
}

/// What the product asks wherever a key is shown: a key that was made on another plan does not outlive it.
fn of_keys<'l>(live: &'l LiveSite, principal: &Principal) -> Option<&'l Requirement> {
    match principal.method {
        Method::Token { .. } => None,
        Method::Key(_) => live.site.contract.keys.as_ref().map(|keys| &keys.requires),
    }
}

fn judge(
    live: &LiveSite,
    principal: &Principal,
    requires: &[&Requirement],
    permissions: &[String],
    writes: bool,
) -> Result<(), Refusal> {
    let contract = &live.site.contract;
    let role = principal.role.and_then(|role| contract.roles.get(usize::from(role.0)));
    let caller = rules::authorize::Caller {
        role: principal.role,
        plan: principal.plan,
        granted: &principal.permissions,
        read_only: role.is_some_and(|role| role.read_only),
    };
    let demand = |requirement: &Requirement, plans| rules::authorize::Demand {
        roles: requirement.roles,
        plans,
        permissions,
        writes,
    };
    // Who they are against every rule first: a plan is offered only to somebody whom it would help.
    for requirement in requires {
        rules::authorize::authorize(caller, demand(requirement, None))?;
    }
    for requirement in requires {
        rules::authorize::authorize(caller, demand(requirement, requirement.plans))?;
    }
    Ok(())
}

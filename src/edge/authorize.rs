//! May they? The only place that makes a [`Permit`], and a permit is the only way on.

use std::sync::Arc;

use smallvec::SmallVec;

use super::authenticate::{is_public, takes_refresh_token};
use super::exchange::Exchange;
use super::route::{NativeTarget, Target};
use crate::contract::Requirement;
use crate::gateway::LiveSite;
use crate::model::principal::{Method, Principal};
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::rules;
use crate::rules::authorize::{Demand, Lack};

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
    twins: SmallVec<[usize; 2]>,
    caller: Option<Arc<Principal>>,
    tried: Vec<(Rule, Lack)>,
}

impl NativePermit {
    /// What may be performed.
    pub fn target(&self) -> &NativeTarget {
        &self.target
    }

    /// By whom; `None`: anyone may, or what is in the body has to show it.
    pub fn caller(&self) -> Option<&Arc<Principal>> {
        self.caller.as_ref()
    }
}

impl ForwardPermit {
    /// The route that lets it pass.
    pub fn route(&self) -> usize {
        self.route
    }

    /// Other routes that the path may mean to a backend: what they count must be paid as well.
    pub fn twins(&self) -> &[usize] {
        &self.twins
    }

    /// By whom; `None`: the route is public.
    pub fn caller(&self) -> Option<&Arc<Principal>> {
        self.caller.as_ref()
    }

    /// The rules that are only tried and would have refused it.
    pub fn tried(&self) -> &[(Rule, Lack)] {
        &self.tried
    }
}

/// Which rule a requirement is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The site's route at this place.
    Route(usize),
    /// The site's guard at this place, its own or its contract's.
    Guard(usize),
    /// The contract's operation at this place.
    Operation(usize),
    /// What the product asks wherever a key is shown.
    Keys,
}

impl Rule {
    /// Its name, as configured: for log, metrics and operator.
    pub fn name(self, live: &LiveSite) -> String {
        match self {
            Self::Route(at) => format!("route {}", live.site.routes[at].name),
            Self::Guard(at) => format!("guard {}", live.site.guards[at].on),
            Self::Operation(at) => {
                format!("operation {}", live.site.contract.operations[at].operation.signature().name)
            }
            Self::Keys => "api_keys".to_owned(),
        }
    }

    /// Whether it is only tried. What is asked of native operations and of every key always holds.
    fn is_shadow(self, live: &LiveSite) -> bool {
        match self {
            Self::Route(at) => live.site.routes[at].shadow,
            Self::Guard(at) => live.site.guards[at].shadow,
            Self::Operation(_) | Self::Keys => false,
        }
    }
}

/// Why a request may not go on: for the operator; a client learns of it what its [`Problem`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nobody is known to be asking.
    Nobody,
    /// By an API key, and the operation is for those who have signed in.
    ByKey,
    /// A rule asks for what the caller has not.
    Lacks(Rule, Lack),
}

impl From<Denied> for Refusal {
    #[cold]
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Nobody => Problem::NotAuthenticated.into(),
            Denied::ByKey => Problem::InsufficientPermissions.into(),
            Denied::Lacks(_, lack) => Problem::from(lack).into(),
        }
    }
}

/// What a rule asks of a request.
pub struct Asked<'a> {
    /// The rule.
    pub rule: Rule,
    /// What it asks.
    pub requires: &'a Requirement,
    /// The permissions among it, filled from the path.
    pub permissions: &'a [String],
    /// It is only tried.
    pub shadow: bool,
}

/// Everything that is asked of a caller who is known; public targets ask nothing.
pub fn asked<'a>(live: &'a LiveSite, target: &'a Target, caller: Option<&Principal>) -> SmallVec<[Asked<'a>; 4]> {
    let mut all: SmallVec<[Asked<'_>; 4]> = SmallVec::new();
    let mut filled: &[String] = match target {
        Target::Native(target) => &target.permissions,
        Target::Forward(target) => &target.permissions,
        Target::KeySet => &[],
    };
    // `route` has filled them in this order.
    let mut ask = |rule, requires: &'a Requirement| {
        let (permissions, others) = filled.split_at(requires.permissions.len().min(filled.len()));
        filled = others;
        all.push(Asked { rule, requires, permissions, shadow: rule.is_shadow(live) });
    };
    match target {
        Target::Native(target) => {
            ask(Rule::Operation(target.served), &live.site.contract.operations[target.served].requires);
        }
        Target::Forward(target) => {
            for route in std::iter::once(target.route).chain(target.twins.iter().copied()) {
                ask(Rule::Route(route), &live.site.routes[route].requires);
            }
            for guard in &target.guards {
                ask(Rule::Guard(*guard), &live.site.guards[*guard].requires);
            }
        }
        Target::KeySet => {}
    }
    // A key that was made on another plan does not outlive it.
    if caller.is_some_and(|caller| matches!(caller.method, Method::Key(_)))
        && let Some(keys) = &live.site.contract.keys
    {
        ask(Rule::Keys, &keys.requires);
    }
    // `route` and this agree on how many there are. Were they ever not to, what is left over is asked all the same.
    if let (false, Some(last)) = (filled.is_empty(), all.last()) {
        let left = Asked { rule: last.rule, requires: last.requires, permissions: filled, shadow: false };
        all.push(left);
    }
    all
}

/// Judges the request against everything that is asked for its target.
pub fn authorize(exchange: &Exchange, target: Target) -> Result<Permit, Denied> {
    let live = exchange.site();
    let caller = exchange.principal.clone();
    let mut tried = Vec::new();
    let in_body = takes_refresh_token(live, &target);
    let anyone = is_public(live, &target) || (in_body && caller.is_none());
    if !anyone {
        let principal = caller.as_deref().ok_or(Denied::Nobody)?;
        let writes = match &target {
            Target::Forward(_) => !matches!(exchange.method, http::Method::GET | http::Method::HEAD),
            Target::Native(native) => {
                // A key must not make, rotate or revoke keys, nor turn itself into a session. Where a refresh token is
                // the proof, it stands in the body, and a key beside it does no harm.
                if !live.site.contract.operations[native.served].by_key
                    && !in_body
                    && !matches!(principal.method, Method::Token { .. })
                {
                    return Err(Denied::ByKey);
                }
                false
            }
            Target::KeySet => false,
        };
        tried = judge(live, principal, &asked(live, &target, Some(principal)), writes)?;
    }
    Ok(match target {
        Target::Native(target) => Permit::Native(NativePermit { target, caller }),
        Target::Forward(target) => {
            Permit::Forward(ForwardPermit { route: target.route, twins: target.twins, caller, tried })
        }
        Target::KeySet => Permit::KeySet,
    })
}

/// What the rules that are only tried say of a request that may go on; why it may not, where it may not.
fn judge(live: &LiveSite, principal: &Principal, all: &[Asked<'_>], writes: bool) -> Result<Vec<(Rule, Lack)>, Denied> {
    let contract = &live.site.contract;
    let role = principal.role.and_then(|role| contract.roles.get(usize::from(role.0)));
    let caller = rules::authorize::Caller {
        role: principal.role,
        plan: principal.plan,
        granted: &principal.permissions,
        read_only: role.is_some_and(|role| role.read_only),
    };
    let lacks = |asked: &Asked<'_>, plans| {
        let demand = Demand { roles: asked.requires.roles, plans, permissions: asked.permissions, writes };
        rules::authorize::authorize(caller, demand)
    };
    // Of what is only tried there remains what holds for everyone: a known role, and one that may write.
    let everyone = Demand { roles: None, plans: None, permissions: &[], writes };
    let judge = |asked: &Asked<'_>, plans| {
        let judged = if asked.shadow { rules::authorize::authorize(caller, everyone) } else { lacks(asked, plans) };
        judged.map_err(|lack| Denied::Lacks(asked.rule, lack))
    };
    // Who they are against every rule first: a plan is offered only to somebody whom it would help.
    all.iter().try_for_each(|asked| judge(asked, None))?;
    all.iter().try_for_each(|asked| judge(asked, asked.requires.plans))?;
    let tried = all.iter().filter(|asked| asked.shadow);
    Ok(tried.filter_map(|asked| Some((asked.rule, lacks(asked, asked.requires.plans).err()?))).collect())
}

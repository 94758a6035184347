//! Which rule takes the request: a native operation, a configured route, or none.
//!
//! Native comes first and its prefixes are never forwarded, whatever the case, the slashes or the method: a
//! backend must not be reachable under a path that a client believes to be the gateway's.

use std::sync::Arc;

use http::Method;
use smallvec::SmallVec;

use super::exchange::Exchange;
use crate::config::router::Find;
use crate::config::snapshot::KEY_SET;
use crate::contract::pattern::PermissionPattern;
use crate::gateway::LiveSite;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::rules::path;

/// What takes the request, and what is asked for it.
#[derive(Debug)]
pub enum Target {
    /// One of the contract's operations.
    Native(NativeTarget),
    /// A route to a backend.
    Forward(ForwardTarget),
    /// The site's public keys (RFC 7517 section 5), for whoever verifies its tokens or assertions.
    KeySet,
}

/// A native operation with the path's parameters.
#[derive(Debug)]
pub struct NativeTarget {
    /// Its place in the contract.
    pub served: usize,
    /// The values of its path parameters.
    pub parameters: Vec<(String, String)>,
    /// The permissions its requirement asks, filled.
    pub permissions: SmallVec<[String; 2]>,
}

/// A route, and the product's guard over it.
#[derive(Debug)]
pub struct ForwardTarget {
    /// Its place in the site's routes.
    pub route: usize,
    /// Other routes that this path spells in another case, with another last slash or with encoded ones, which a
    /// backend may take for the same: what they ask must hold as well.
    pub twins: SmallVec<[usize; 2]>,
    /// The places of the guards over it, the site's own and the contract's.
    pub guards: SmallVec<[usize; 2]>,
    /// The permissions that all of them ask, filled.
    pub permissions: SmallVec<[String; 2]>,
}

impl ForwardTarget {
    /// Whether it passes without a credential: where every route that the path may mean is public, and no guard
    /// speaks of the path more closely than the route that opens it.
    pub fn is_public(&self, live: &LiveSite) -> bool {
        let route = &live.site.routes[self.route];
        let twins = self.twins.iter().all(|twin| live.site.routes[*twin].public);
        let open = |guard: &usize| route.on.is_closer_than(&live.site.guards[*guard].on);
        route.public && twins && self.guards.iter().all(open)
    }
}

/// Finds what takes the request.
pub fn find(exchange: &mut Exchange) -> Result<Target, Refusal> {
    let live = Arc::clone(exchange.site());
    let reading = path::reading(&exchange.path);
    if reading.as_deref().is_some_and(|reading| is_ours(exchange, &live, reading)) {
        return Err(Problem::AmbiguousPath.into());
    }
    if exchange.path == KEY_SET {
        exchange.route = Some(Arc::from("key_set"));
        return match exchange.method {
            Method::GET | Method::HEAD => Ok(Target::KeySet),
            _ => Err(Problem::MethodNotAllowed("GET, HEAD".to_owned()).into()),
        };
    }
    if let Some(native) = native(exchange, &live)? {
        let operation = live.site.contract.operations[native.served].operation;
        exchange.route = Some(Arc::from(operation.signature().name));
        return Ok(Target::Native(native));
    }
    let forward = forward(exchange, &live, reading.as_deref())?;
    exchange.route = Some(Arc::clone(&live.site.routes[forward.route].name));
    Ok(Target::Forward(forward))
}

fn native(exchange: &Exchange, live: &LiveSite) -> Result<Option<NativeTarget>, Refusal> {
    let site = &live.site;
    match site.native.find(&exchange.method, &exchange.path) {
        Find::Hit { index, params } => {
            let requires = &site.contract.operations[index].requires;
            let mut permissions = SmallVec::new();
            fill(&mut permissions, &requires.permissions, |name| params.find(name));
            let parameters = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            Ok(Some(NativeTarget { served: index, parameters, permissions }))
        }
        Find::WrongMethod(allowed) => Err(Problem::MethodNotAllowed(allowed.to_string()).into()),
        Find::Miss if site.is_native(&exchange.path) => Err(Problem::NotFound.into()),
        Find::Miss => Ok(None),
    }
}

/// Whether a path that only a backend would read so belongs to the gateway.
fn is_ours(exchange: &Exchange, live: &LiveSite, reading: &str) -> bool {
    let native = !matches!(live.site.native.find_any_spelling(&exchange.method, reading), Find::Miss);
    native || live.site.is_native(reading)
}

/// `reading`: what the path is to a backend that decodes `%2F`. A route has to say that its own does not, and even so
/// every other route and guard that speaks of that reading is asked.
fn forward(exchange: &Exchange, live: &LiveSite, reading: Option<&str>) -> Result<ForwardTarget, Refusal> {
    let site = &live.site;
    let mut permissions = SmallVec::new();
    let route = match site.route_paths.find(&exchange.method, &exchange.path) {
        Find::Hit { index, params } => {
            fill(&mut permissions, &site.routes[index].requires.permissions, |name| params.find(name));
            index
        }
        Find::WrongMethod(allowed) => return Err(Problem::MethodNotAllowed(allowed.to_string()).into()),
        Find::Miss => return Err(Problem::NotFound.into()),
    };
    if reading.is_some() && !site.routes[route].encoded_slash {
        return Err(Problem::AmbiguousPath.into());
    }
    let mut twins = SmallVec::new();
    let spelt = site.route_paths.has_spellings(&exchange.path).then_some(exchange.path.as_str());
    for path in spelt.into_iter().chain(reading) {
        match site.route_paths.find_any_spelling(&exchange.method, path) {
            Find::Hit { index, params } if index != route => {
                fill(&mut permissions, &site.routes[index].requires.permissions, |name| params.find(name));
                twins.push(index);
            }
            // There by another method only: the backend would serve what is not.
            Find::WrongMethod(_) if reading == Some(path) => return Err(Problem::AmbiguousPath.into()),
            _ => {}
        }
    }
    let mut guards = SmallVec::new();
    for paths in &site.guard_paths {
        for path in [Some(exchange.path.as_str()), reading].into_iter().flatten() {
            // A guard speaks of what it names; a path or method that none names is the route's own affair.
            if let Find::Hit { index, params } = paths.find_any_spelling(&exchange.method, path) {
                fill(&mut permissions, &site.guards[index].requires.permissions, |name| params.find(name));
                guards.push(index);
            }
        }
    }
    Ok(ForwardTarget { route, twins, guards, permissions })
}

fn fill<'a>(into: &mut SmallVec<[String; 2]>, patterns: &[PermissionPattern], value: impl Fn(&str) -> Option<&'a str>) {
    into.extend(patterns.iter().map(|pattern| pattern.fill(&value)));
}

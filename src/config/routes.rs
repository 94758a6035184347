//! What a site forwards, and what it asks of requests beside its contract.

use std::collections::BTreeMap;

use toml::Spanned;

use super::raw::{RawChanges, RawGuard, RawRoute, Text, Texts, list};
use super::reshape::{self, Way};
use super::router::{Router, is_under};
use super::snapshot::{IdentityNames, KEY_SET, Route};
use super::upstreams;
use super::values::{count, limits, size};
use crate::contract::Guard;
use crate::contract::pattern::Pattern;
use crate::contract::require::{Asked, requirement};
use crate::contract::source::{Report, locate};
use crate::contract::{Contract, Requirement};
use crate::model::window::Window;
use crate::rules::split::Split;
use crate::upstream;

/// What the rest of the site tells of a route's surroundings.
pub(super) struct Around<'s> {
    /// `None`: it could not be read, and names in it cannot be judged.
    pub contract: Option<&'s Contract>,
    pub upstreams: &'s BTreeMap<String, upstream::Settings>,
    /// The names that tell backends who calls: no route may change them.
    pub identity: &'s IdentityNames,
    /// Some key can sign assertions: it has a public half, and its private half is here.
    pub asymmetric: bool,
}

/// The routes and the router to them; `None` when the router cannot be built, which was then told.
pub(super) fn routes(
    raw: &[Spanned<RawRoute>],
    around: &Around<'_>,
    report: &mut Report<'_>,
) -> Option<(Router, Vec<Route>)> {
    let mut routes = Vec::new();
    let mut rules = Vec::new();
    let mut places = Vec::new();
    for raw in raw {
        let Some((pattern, route)) = route(raw, around, report) else { continue };
        rules.push((pattern, routes.len()));
        places.push(&raw.get_ref().on);
        routes.push(route);
    }
    Some((router(&rules, &places, report)?, routes))
}

/// The site's guards and the contract's, each with paths of their own: what the product asks goes on counting
/// where a site asks for more. A site's guard replaces the contract's on exactly the same methods and path. What is only
/// tried has paths of its own again, so that it takes nobody's place; where it asks nothing, it speaks of the contract's.
pub(super) fn guards(
    raw: &[Spanned<RawGuard>],
    around: &Around<'_>,
    report: &mut Report<'_>,
) -> Option<(Vec<Router>, Vec<Guard>)> {
    let of_contract = around.contract.map_or(&[][..], |contract| &contract.guards);
    let mut guards: Vec<Guard> = Vec::new();
    // Those that hold, and those that are tried.
    let (mut own, mut places) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut silent: Vec<Pattern> = Vec::new();
    for raw in raw {
        let RawGuard { on, roles, plans, permissions, shadow } = raw.get_ref();
        let Some((pattern, requires)) = asked(on, raw, (roles, plans, permissions), around, report) else { continue };
        let shadow = shadow.as_ref().filter(|shadow| *shadow.get_ref());
        if let Some(shadow) = shadow.filter(|_| roles.is_none() && plans.is_none() && permissions.is_none()) {
            if around.contract.is_some() && of_contract.iter().all(|guard| guard.on != pattern) {
                let message = "nothing is asked here, and the contract has no guard on exactly these methods and path";
                let remedy = "say what is tried (roles, plans, permissions), or write `match` as the contract does";
                report.tell(&shadow.span(), message, remedy);
            }
            silent.push(pattern);
            continue;
        }
        if roles.is_none() && plans.is_none() && permissions.is_none() {
            asks_nothing(raw, &pattern, around, report);
            continue;
        }
        let layer = usize::from(shadow.is_some());
        own[layer].push((pattern.clone(), guards.len()));
        places[layer].push(on);
        guards.push(Guard { on: pattern, requires, shadow: shadow.is_some() });
    }
    let mut below = [Vec::new(), Vec::new()];
    for guard in of_contract.iter().filter(|guard| own[0].iter().all(|(pattern, _)| *pattern != guard.on)) {
        // One that the site puts in shadow stays where it stands: a wider one does not begin to hold in its stead.
        below[usize::from(guard.shadow)].push((guard.on.clone(), guards.len()));
        let shadow = guard.shadow || silent.contains(&guard.on);
        guards.push(Guard { on: guard.on.clone(), requires: guard.requires.clone(), shadow });
    }
    let [held, tried] = [0, 1].map(|layer| router(&own[layer], &places[layer], report));
    let (held, tried) = (held?, tried?);
    let mut layers = vec![held, Router::build(&below[0]).ok()?];
    if !own[1].is_empty() {
        layers.push(tried);
    }
    if !below[1].is_empty() {
        layers.push(Router::build(&below[1]).ok()?);
    }
    Some((layers, guards))
}

/// Tells of a guard that would only take another's place. Whoever means that writes an empty list.
fn asks_nothing(raw: &Spanned<RawGuard>, pattern: &Pattern, around: &Around<'_>, report: &mut Report<'_>) {
    let instead = around.contract.filter(|contract| contract.guards.iter().any(|guard| guard.on == *pattern));
    let message = if instead.is_some() {
        "the guard asks nothing, and would take the place of the contract's on the same methods and path"
    } else {
        "the guard asks nothing"
    };
    let remedy = "say what it asks (roles, plans, permissions), or write permissions = [] for whoever is signed in";
    report.tell(&raw.span(), message, remedy);
}

/// Tells of public routes that a guard in shadow would close. Held or not, the guard would do what a trial must not: ask
/// for a credential where none was asked, or let strangers in where one was.
pub(super) fn open_to_strangers(routes: &[Spanned<RawRoute>], guards: &[Guard], report: &mut Report<'_>) {
    for raw in routes.iter().map(Spanned::get_ref) {
        let Some(public) = raw.public.as_ref().filter(|public| *public.get_ref()) else { continue };
        let Some(Ok(pattern)) = raw.on.as_ref().map(|on| Pattern::parse(on.get_ref())) else { continue };
        let closes = |guard: &&Guard| guard.shadow && guard.on.meets(&pattern) && !pattern.is_closer_than(&guard.on);
        if let Some(guard) = guards.iter().find(closes) {
            let message = format!(
                "the guard `{}` in shadow lies over this public route and would ask for a credential",
                guard.on
            );
            let remedy = "leave out public here, or the guard there: authentication is never in shadow";
            report.tell(&public.span(), message, remedy);
        }
    }
}

/// The pattern of a rule and what it asks.
fn asked<T>(
    on: &Text,
    around_rule: &Spanned<T>,
    (roles, plans, permissions): (&Texts, &Texts, &Texts),
    around: &Around<'_>,
    report: &mut Report<'_>,
) -> Option<(Pattern, Requirement)> {
    let Some(text) = on else {
        let remedy = "add match = \"GET /v1/items/{id}\" or match = \"* /v1/{*rest}\"";
        report.tell(&around_rule.span(), "`match` is missing", remedy);
        return None;
    };
    let pattern = match Pattern::parse(text.get_ref()) {
        Ok(pattern) => pattern,
        Err(error) => {
            report.tell(&text.span(), error.to_string(), "write `GET /v1/items/{id}` or `* /v1/{*rest}`");
            return None;
        }
    };
    let (roles, plans, permissions) = (list(roles), list(plans), list(permissions));
    let asked = Asked {
        roles: roles.as_ref(),
        plans: plans.as_ref(),
        permissions: permissions.as_ref().map_or(&[], |permissions| permissions.get_ref()),
    };
    let requires = around.contract.map_or_else(Requirement::default, |contract| {
        requirement(asked, &pattern, &contract.roles, &contract.plans, report)
    });
    Some((pattern, requires))
}

fn route(raw: &Spanned<RawRoute>, around: &Around<'_>, report: &mut Report<'_>) -> Option<(Pattern, Route)> {
    let it = raw.get_ref();
    let known: Vec<&str> = around.upstreams.keys().map(String::as_str).collect();
    let split = reshape::split(raw, &known, report);
    let forward_credential = it.forward_credential.unwrap_or(false);
    let mut changes = |raw: &Option<RawChanges>, way| {
        reshape::changes(raw.as_ref(), way, forward_credential, around.identity, report)
    };
    let (request_headers, response_headers) =
        (changes(&it.request_headers, Way::Request), changes(&it.response_headers, Way::Response));
    let cost = count(&it.cost, 1, 1..=u64::from(u32::MAX), report);
    let max_body = size(&it.max_body, 100 << 20, report);
    let windows = limits(&it.limits, &[], report);
    never_fits(it, cost, &windows, report);
    let overrides = upstreams::overrides(it, report);
    let assertion = it.assertion.as_ref().is_some_and(|assertion| *assertion.get_ref());
    if let Some(assertion) = it.assertion.as_ref().filter(|on| *on.get_ref() && !around.asymmetric) {
        let message = "backends check assertions against the published keys, and every key that could sign here is a shared secret";
        report.tell(
            &assertion.span(),
            message,
            "add a key that has a public half: { kid = \"proof\", algorithm = \"EdDSA\", secret_file = \"data/secrets/proof\", generate = true, signs = false }",
        );
    }
    let (pattern, requires) = asked(&it.on, raw, (&it.roles, &it.plans, &it.permissions), around, report)?;
    let public = public(it, report);
    let shadow = shadow(it, report);
    not_native(it.on.as_ref()?, &pattern, around, report);
    let rewrite = reshape::rewrite(it, &pattern, report);
    let route = Route {
        name: it.on.as_ref()?.get_ref().as_str().into(),
        on: pattern.clone(),
        requires,
        shadow,
        public,
        encoded_slash: it.encoded_slash.unwrap_or(false),
        split: split.unwrap_or_else(|| Split::to(0)),
        rewrite,
        request_headers,
        response_headers,
        windows,
        cost,
        forward_credential,
        assertion,
        max_body,
        overrides,
    };
    Some((pattern, route))
}

/// A cost above a window is one that no request could ever pay.
fn never_fits(raw: &RawRoute, cost: u32, windows: &[Window], report: &mut Report<'_>) {
    let (Some(text), Some(narrow)) =
        (&raw.cost, windows.iter().filter(|window| !window.shadow).min_by_key(|window| window.limit))
    else {
        return;
    };
    if cost > narrow.limit {
        let message =
            format!("a request costs {cost}, and the window `{narrow}` never holds more than {}", narrow.limit);
        report.tell(&text.span(), message, "lower the cost, or widen the window: no request would ever pass");
    }
}

/// Whether what it asks is only tried.
fn shadow(raw: &RawRoute, report: &mut Report<'_>) -> bool {
    let Some(shadow) = raw.shadow.as_ref().filter(|shadow| *shadow.get_ref()) else { return false };
    if raw.roles.is_none() && raw.plans.is_none() && raw.permissions.is_none() {
        let remedy = "say what is tried (roles, plans, permissions); a window is tried as \"100/1d shadow\"";
        report.tell(&shadow.span(), "nothing is asked here that could be tried", remedy);
    }
    true
}

/// Whether it passes without a credential; then nothing can be asked of a caller.
fn public(raw: &RawRoute, report: &mut Report<'_>) -> bool {
    let Some(public) = raw.public.as_ref().filter(|public| *public.get_ref()) else { return false };
    let asks = [
        ("roles", raw.roles.is_some()),
        ("plans", raw.plans.is_some()),
        ("permissions", raw.permissions.is_some()),
        ("limits", raw.limits.is_some()),
        ("assertion", raw.assertion.as_ref().is_some_and(|on| *on.get_ref())),
    ];
    for (name, _) in asks.iter().filter(|(_, asked)| *asked) {
        let remedy = match *name {
            "limits" => "use per_address in [site.limits], or leave out public".to_owned(),
            name => format!("leave out public or {name}"),
        };
        report.tell(&public.span(), format!("a public route has no known caller, so `{name}` means nothing"), remedy);
    }
    true
}

/// What is served natively is never forwarded, so a route there would never be reached.
fn not_native(on: &Spanned<String>, pattern: &Pattern, around: &Around<'_>, report: &mut Report<'_>) {
    let prefixes = around.contract.into_iter().flat_map(|contract| &contract.native_prefixes).map(String::as_str);
    if let Some(prefix) = prefixes.chain([KEY_SET]).find(|prefix| is_under([*prefix], &pattern.path)) {
        let message = format!("everything at and below `{prefix}` is served by the gateway itself");
        report.tell(&on.span(), message, "remove the route: it would never be reached");
    }
}

/// The router of `rules`; two that answer for the same are told, with the place of the other.
fn router(rules: &[(Pattern, usize)], places: &[&Text], report: &mut Report<'_>) -> Option<Router> {
    Router::build(rules)
        .map_err(|conflicts| {
            for conflict in conflicts {
                let (Some(first), Some(second)) = (places[conflict.first], places[conflict.second]) else { continue };
                let line = match locate(report.source, &first.span()) {
                    (0, _) => String::new(),
                    (line, _) => format!(" in line {line}"),
                };
                let message = format!("`{}`{line} answers for the same method and path", first.get_ref());
                report.tell(&second.span(), message, "keep one of them, or give them different methods");
            }
        })
        .ok()
}

//! What decided against a request: for each stage that may, in words that say what to look at.

use std::fmt::Display;

use http::Uri;
use serde_json::{Value, json};

use super::super::authorize::{Denied, Rule};
use super::super::exchange::Exchange;
use super::super::shadow;
use crate::gateway::LiveSite;
use crate::limit::WindowState;
use crate::model::principal::Principal;
use crate::model::problem::Problem;
use crate::observe::metrics::labels::LimitKind;
use crate::rules::authorize::Lack;
use crate::rules::path;

fn because(rule: &str, why: impl Display) -> Value {
    json!({ "rule": rule, "why": why.to_string() })
}

/// The request's form, its host, or its path.
pub(super) fn by_form(exchange: &Exchange, uri: &Uri, host: &str, problem: &Problem) -> Value {
    match problem {
        Problem::MalformedRequest(why) => because("the request's form", why),
        Problem::AmbiguousPath => match path::canonical(uri.path()) {
            Err(ambiguous) => because("the path", ambiguous),
            Ok(_) => because("the path", "it cannot be read in one way"),
        },
        _ if exchange.site.is_some() => {
            because("[site.client_certificates]", "this connection was not asked what the site asks")
        }
        _ => because("the host", format!("no site has `{host}` among its hosts")),
    }
}

/// The search for what takes it.
pub(super) fn by_routes(exchange: &Exchange, problem: &Problem) -> Value {
    let site = &exchange.site().site;
    match problem {
        Problem::MethodNotAllowed(allowed) => because("routes", format!("the path is served for {allowed}")),
        Problem::AmbiguousPath => {
            because("native_prefixes", "a backend could read the path as one that only the gateway serves")
        }
        _ if site.is_native(&exchange.path) => {
            because("native_prefixes", "the path is below one of them, is no operation, and is never forwarded")
        }
        _ => because("routes", "no route and no operation takes the path"),
    }
}

/// The credential; `why` where there is one.
pub(super) fn by_credential(problem: &Problem, why: Option<String>) -> Value {
    match (problem, why) {
        (Problem::RateLimited { .. }, _) => {
            because("limit failed_credentials", "too many credentials from this address did not verify")
        }
        (_, Some(why)) => because("the credential", why),
        (_, None) => because("the credential", "there is none, and one is needed"),
    }
}

/// The windows that have no room.
pub(super) fn by_windows(exchange: &Exchange, windows: &[(LimitKind, u32, WindowState)]) -> Value {
    let full = windows.iter().filter(|(_, cost, state)| !state.window.shadow && state.remaining < *cost);
    let names = full.map(|(kind, _, state)| format!("{} {}", shadow::owner(exchange, *kind), state.window.held()));
    because("limits", names.collect::<Vec<_>>().join(", "))
}

/// The bound on bodies.
pub(super) fn by_length(length: u64, most: u64) -> Value {
    because("max_body", format!("a body of {length} bytes is announced, {most} are taken"))
}

/// What is spoken to the upstream, where it takes no WebSocket.
pub(super) fn by_protocol(upstream: &str) -> Value {
    because(&format!("[site.upstream.{upstream}] protocol"), "WebSockets need HTTP/1.1, and this upstream is \"http2\"")
}

/// The rule that said no, and what it misses.
pub(super) fn by_rule(live: &LiveSite, denied: Denied, caller: Option<&Principal>, rules: &[(Rule, Value)]) -> Value {
    let Denied::Lacks(at, lack) = denied else {
        return match denied {
            Denied::ByKey => json!({ "rule": "an API key may not call this operation" }),
            _ => json!({ "rule": "a credential is needed" }),
        };
    };
    let asks =
        |what: &str| rules.iter().find(|(rule, _)| *rule == at).map_or(Value::Null, |(_, own)| own[what].clone());
    let role = caller.map(|caller| caller.account.user.role.as_str());
    let (lacks, asks, has) = match lack {
        Lack::KnownRole => ("known_role", Value::Null, role),
        Lack::Role => ("role", asks("roles"), role),
        Lack::Writing => ("writing", Value::Null, role),
        Lack::Plan(_) => ("plan", asks("plans"), caller.map(|caller| caller.account.org.plan.as_str())),
        Lack::Permission(which) => ("permission", asks("permissions")[which].clone(), None),
    };
    json!({ "rule": at.name(live), "lacks": lacks, "asks": asks, "has": has })
}

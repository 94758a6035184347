//! What would become of a request, and why: for the operator, and never for a client.
//!
//! A request is imagined and walks through the stages that every other walks through, [`super::exchange`]'s own, up
//! to the backend or the operation, which are not asked. It is marked as imagined, so that it spends no window, counts
//! as no failure and as no use of its credential. What is told holds no secret: credentials, cookies and what a route
//! writes into headers are starred out.
//!
//! Called by the admin listener (`POST /v1/explain`); `tollgate explain` is its face.

mod decided;
mod imagined;
mod secrets;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use super::authorize::{Asked, Denied, Permit, Rule, asked};
use super::certificate::Vouched;
use super::connection::{Connection, Handshake, Place};
use super::exchange::Exchange;
use super::route::Target;
use super::{agent, authenticate, authorize, cors, forward, grpc, intake, respond, route, throttle};
use crate::contract::Carried;
use crate::credential::presented::Presented;
use crate::gateway::{Gateway, LiveSite};
use crate::limit::WindowState;
use crate::model::access::{Bits, Permission};
use crate::model::principal::{Method as Proof, Principal};
use crate::model::refusal::Refusal;
use crate::native::operator::Reply;
use crate::observe::metrics::labels::TlsVersion;
use crate::upstream::SendError;
use crate::upstream::body::Body;
use crate::upstream::tunnel;
use decided::{by_credential, by_form, by_length, by_protocol, by_routes, by_rule, by_windows};
use imagined::{Imagined, of_a_connection};
use secrets::{STARS, is_secret, secrets, star_out};

/// What was learned on the way, as JSON.
#[derive(Default)]
struct Story(Map<String, Value>);

impl Story {
    fn tell(&mut self, what: &str, value: impl Into<Value>) {
        self.0.insert(what.to_owned(), value.into());
    }
}

/// Answers `POST /v1/explain`.
pub async fn explain(gateway: &Arc<Gateway>, method: &Method, body: &[u8]) -> Reply {
    if method != Method::POST {
        return Reply { status: 405, body: json!({ "error": "/v1/explain takes POST" }) };
    }
    let imagined = serde_json::from_slice::<Imagined>(body).map_err(|error| error.to_string());
    let head = imagined.and_then(|imagined| Ok((imagined.head()?, imagined)));
    let (head, imagined) = match head {
        Ok(ready) => ready,
        Err(error) => return Reply { status: 400, body: json!({ "error": error }) },
    };
    let live = gateway.live();
    let prefixes = live.sites.iter().filter_map(|live| Some(live.site.contract.keys.as_ref()?.prefix.as_str()));
    let secrets = secrets(&head.headers, &head.uri, prefixes);
    let mut told = Value::Object(story(gateway, head, &imagined).await.0);
    star_out(&mut told, &secrets);
    Reply { status: 200, body: told }
}

async fn story(gateway: &Arc<Gateway>, head: Parts, imagined: &Imagined) -> Story {
    let peer = (imagined.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0).into();
    let live = gateway.live();
    let handshake = |http2| Handshake { version: TlsVersion::V13, http2, generation: live.snapshot.generation };
    let tls = imagined.tls.then(|| handshake(imagined.is_http2()));
    let policy = intake::host(&head).ok().and_then(|host| live.site(host)?.site.client_certificates.as_ref());
    let vouched = policy.filter(|_| imagined.tls).map(Vouched::imagined).map(Box::new);
    let connection = Arc::new(Connection::new(peer, tls, vouched, Place::default()));
    let mut exchange = Exchange::begin(gateway, &connection, head.method.clone());
    exchange.imagined = true;
    exchange.grpc = connection.is_http2() && grpc::is_call(&head.headers);
    let mut story = Story::default();
    // In this order they are read.
    for what in ["passes", "decision", "problem", "decided_by", "shadow"] {
        story.tell(what, Value::Null);
    }
    if let Some(field) = of_a_connection(&head.headers).filter(|_| imagined.is_http2()) {
        story.tell("passes", false);
        story.tell("decision", "reset");
        story.tell(
            "decided_by",
            json!({ "rule": "HTTP/2", "why": format!("a request with the field `{field}` is none") }),
        );
        return story;
    }
    let outcome = walk(&mut exchange, head, &mut story).await;
    story.tell("request_id", exchange.request_id());
    story.tell("passes", outcome.is_ok());
    match outcome {
        Ok(decision) => story.tell("decision", decision),
        Err(refusal) => refused(&mut exchange, refusal, &mut story).await,
    }
    story
}

/// [`super::exchange::handle`] up to where a backend or an operation would be asked.
async fn walk(exchange: &mut Exchange, mut head: Parts, story: &mut Story) -> Result<&'static str, Refusal> {
    let taken = intake::take(exchange, &mut head);
    story.tell("client", exchange.client.to_string());
    story.tell("site", exchange.site.as_ref().map(|live| live.site.name.clone()));
    if let Some(policy) = exchange.site.as_ref().and_then(|live| live.site.client_certificates.as_ref()) {
        story.tell("client_certificate", if policy.required { "required" } else { "verified where shown" });
    }
    story.tell("path", (!exchange.path.is_empty()).then(|| exchange.path.clone()));
    taken.inspect_err(|refusal| {
        let host = intake::host(&head).unwrap_or_default();
        story.tell("decided_by", by_form(exchange, &head.uri, host, &refusal.problem));
    })?;
    if cors::preflight(exchange, &head).is_some() {
        return Ok("preflight");
    }
    let live = Arc::clone(exchange.site());
    let target = route::find(exchange).inspect_err(|refusal| {
        story.tell("decided_by", by_routes(exchange, &refusal.problem));
    })?;
    let public = authenticate::is_public(&live, &target);
    story.tell("target", described(&live, exchange, &target, public));
    story.tell("credential", presented(&live, &head.headers));
    if agent::is_one(exchange, &target, &head)? {
        // Whoever it is says so in the first message; until then it is only asked for.
        return Ok("first_message");
    }
    let mut windows = Vec::new();
    if !public {
        let failures = authenticate::failures(exchange).await?;
        windows.extend(failures.iter().map(|state| window("failed_credentials", 0, state)));
        story.tell("windows", windows.clone());
    }
    let known = authenticate::authenticate(exchange, &head.headers, &target).await;
    let principal = exchange.principal.clone();
    story.tell("who", principal.as_deref().map(|principal| who(&live, principal)));
    let all = if public { SmallVec::new() } else { asked(&live, &target, principal.as_deref()) };
    let rules: Vec<(Rule, Value)> = all.iter().map(|asked| (asked.rule, rule(&live, asked))).collect();
    drop(all);
    story.tell("rules", rules.iter().map(|(_, told)| told.clone()).collect::<Value>());
    if let Err(Refusal { problem, fault: None }) = &known {
        let why = authenticate::why(exchange, &head.headers).await;
        story.tell("decided_by", by_credential(problem, why));
    }
    known?;
    let permit = authorize::authorize(exchange, target).inspect_err(|denied| {
        story.tell("decided_by", by_rule(&live, *denied, principal.as_deref(), &rules));
    })?;
    let asked = throttle::windows(exchange, &permit).await?;
    windows.extend(asked.iter().map(|(kind, cost, state)| window(kind.name(), *cost, state)));
    story.tell("windows", windows);
    throttle::admit(exchange, &permit).await.inspect_err(|_| {
        story.tell("decided_by", by_windows(exchange, &asked));
    })?;
    story.tell("shadow", in_shadow(&live, exchange, &permit, principal.as_deref(), &rules));
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
    match permit {
        Permit::Native(_) => {
            fits(length, live.site.max_body, story)?;
            Ok("native")
        }
        Permit::KeySet => Ok("key_set"),
        Permit::Forward(permit) => {
            let route = &live.site.routes[permit.route()];
            head.extensions.remove::<OnUpgrade>();
            let upgrades = tunnel::wanted(&head).inspect_err(|problem| {
                story.tell("decided_by", by_form(exchange, &head.uri, "", problem));
            })?;
            if !upgrades {
                fits(length, route.max_body, story)?;
            }
            let upstream = forward::chosen(exchange, &live, &permit);
            let asserted = if route.assertion { forward::asserted(exchange, &permit, upstream).await? } else { None };
            let mut request = forward::request(exchange, &permit, asserted, &mut head, Body::Empty)?;
            if upgrades {
                tunnel::dress(request.headers_mut());
            }
            story.tell("websocket", upgrades.then_some(true));
            let servers: Vec<String> = upstream.settings.servers.iter().map(ToString::to_string).collect();
            story
                .tell("upstream", json!({ "name": &*upstream.name, "servers": servers, "path": request.uri().path() }));
            if upgrades && !upstream.settings.takes_websockets() {
                story.tell("decided_by", by_protocol(&upstream.name));
                return Err(SendError::NoTunnel.problem().into());
            }
            let written: Vec<&HeaderName> =
                route.request_headers.set.iter().chain(&route.request_headers.add).map(|(name, _)| name).collect();
            story.tell("headers", shown(&live, request.headers(), &written));
            Ok("forward")
        }
    }
}

fn fits(length: u64, most: u64, story: &mut Story) -> Result<(), Refusal> {
    Body::fits(length, most).inspect_err(|_| story.tell("decided_by", by_length(length, most)))?;
    Ok(())
}

async fn refused(exchange: &mut Exchange, refusal: Refusal, story: &mut Story) {
    let (mut answer, told) = respond::refuse(exchange, refusal).await;
    respond::complete(exchange, &mut answer);
    story.tell("decision", "refuse");
    if let Some(told) = told {
        story.tell("problem", told.kind.name());
        if let Some(fault) = told.fault {
            tracing::warn!(
                request_id = exchange.request_id(),
                error = &fault as &dyn std::error::Error,
                "explaining a request failed on our side"
            );
        }
    }
    let (head, body) = answer.into_parts();
    let headers: Vec<Value> = head.headers.iter().map(|(name, value)| json!([name.as_str(), text(value)])).collect();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
    story.tell("answer", json!({ "status": head.status.as_u16(), "headers": headers, "body": body }));
}

fn described(live: &LiveSite, exchange: &Exchange, target: &Target, public: bool) -> Value {
    let kind = match target {
        Target::Native(_) => "operation",
        Target::Forward(_) => "route",
        Target::KeySet => "key_set",
    };
    let mut guards: Vec<String> = Vec::new();
    if let Target::Forward(target) = target {
        guards.extend(target.guards.iter().map(|guard| live.site.guards[*guard].on.to_string()));
    }
    json!({ "kind": kind, "name": exchange.route.as_deref(), "public": public, "guards": guards })
}

fn presented(live: &LiveSite, headers: &HeaderMap) -> Value {
    match Presented::read(headers.get_all(AUTHORIZATION), &live.site.contract) {
        Ok(None) => Value::Null,
        Ok(Some(presented)) => match presented.kind {
            Carried::Token => "token".into(),
            Carried::ApiKey => "api_key".into(),
        },
        Err(unreadable) => format!("unreadable: {unreadable}").into(),
    }
}

fn window(of: &str, cost: u32, state: &WindowState) -> Value {
    let reset = u64::try_from(state.reset_after.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
    json!({
        "of": of, "window": state.window.held().to_string(), "limit": state.window.limit, "remaining": state.remaining,
        "reset_seconds": reset, "cost": cost, "shadow": state.window.shadow.then_some(true),
    })
}

fn who(live: &LiveSite, principal: &Principal) -> Value {
    let (contract, account) = (&live.site.contract, &principal.account);
    let ids = &contract.ids;
    let mut who = json!({
        "user": ids.user.render(account.user.id.uuid()), "email": account.user.email, "role": account.user.role,
        "org": ids.org.render(account.org.id.uuid()), "plan": account.org.plan,
    });
    let permissions = principal.permissions.key.as_ref().unwrap_or(&principal.permissions.role);
    who["permissions"] = permissions.iter().map(Permission::as_str).collect();
    match &principal.method {
        Proof::Token { session, .. } => who["session"] = ids.session.render(session.uuid()).into(),
        Proof::Key(key) => who["key"] = ids.key.render(key.id.uuid()).into(),
    }
    who
}

fn rule(live: &LiveSite, asked: &Asked<'_>) -> Value {
    let contract = &live.site.contract;
    let roles = asked.requires.roles.map(|roles| names(roles, |at| Some(contract.roles.get(at)?.name.as_str())));
    let plans = asked.requires.plans.map(|plans| names(plans, |at| Some(contract.plans.get(at)?.name.as_str())));
    json!({ "rule": asked.rule.name(live), "roles": roles, "permissions": asked.permissions, "plans": plans, "shadow": asked.shadow.then_some(true) })
}

/// What is only tried and would have refused it.
fn in_shadow(
    live: &LiveSite,
    exchange: &Exchange,
    permit: &Permit,
    caller: Option<&Principal>,
    rules: &[(Rule, Value)],
) -> Value {
    let lacks = match permit {
        Permit::Forward(permit) => permit.tried(),
        Permit::Native(_) | Permit::KeySet => &[],
    };
    let told = exchange.shadow.iter().enumerate().map(|(at, shadow)| {
        let mut told = match lacks.get(at) {
            Some((rule, lack)) => by_rule(live, Denied::Lacks(*rule, *lack), caller, rules),
            None => json!({ "rule": shadow.rule, "window": shadow.window.map(|window| window.held().to_string()) }),
        };
        told["problem"] = shadow.problem.name().into();
        told
    });
    Some(told.collect::<Vec<_>>()).filter(|told| !told.is_empty()).into()
}

fn names<'a>(set: Bits, of: impl Fn(usize) -> Option<&'a str>) -> Vec<&'a str> {
    set.iter().filter_map(|at| of(usize::from(at))).collect()
}

/// The headers as the backend would see them; what is secret, or could be, as stars.
fn shown(live: &LiveSite, headers: &HeaderMap, written: &[&HeaderName]) -> Value {
    let identity = live.site.identity.all();
    let tell = |(name, value): (&HeaderName, &HeaderValue)| {
        let ours = *name != live.site.identity.assertion && identity.iter().any(|(_, own)| *own == name);
        let secret = !ours && (written.contains(&name) || is_secret(name) || *name == live.site.identity.assertion);
        json!([name.as_str(), if secret { STARS.to_owned() } else { text(value) }])
    };
    headers.iter().map(tell).collect()
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

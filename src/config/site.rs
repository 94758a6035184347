//! One site: its names, its contract with this site's plans and lifetimes, its limits and backends.
//! Its secrets are read in [`super::keys`], its headers in [`super::identity`], what it forwards in [`super::routes`].

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::given::Given;
use super::raw::{Named, RawPlan, RawSite, RawSiteLimits, RawTokens, each};
use super::router::Router;
use super::snapshot::{Site, SiteLimits};
use super::values::{duration, limits, secs, size};
use super::{clients, cors, identity, keys, mail, routes, upstreams};
use crate::contract::Contract;
use crate::contract::compile::{BUILTIN, builtin, load};
use crate::contract::source::{Located, Report, Source, suggest};
use crate::credential;
use crate::model::window::{Window, format_duration};
use crate::rules::secret::hmac_bytes;

/// What makes a site itself: no two have the same name, realm or host.
#[derive(Debug)]
pub(super) struct Names {
    pub name: String,
    pub realm: String,
    pub hosts: Vec<Spanned<String>>,
}

/// Reads the site's names; `hosts` are in lower case.
pub(super) fn names(raw: &Spanned<RawSite>, report: &mut Report<'_>) -> Names {
    let around = raw.span();
    let raw = raw.get_ref();
    let contract = raw.contract.as_ref().map_or("site", |contract| stem(contract.get_ref()));
    let name = raw.name.as_ref().map_or(contract, |name| name.get_ref()).to_owned();
    let realm = raw.realm.as_ref().map_or(&*name, |realm| realm.get_ref()).to_owned();
    for (key, text) in [("name", &raw.name), ("realm", &raw.realm)] {
        let plain = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            (1..=64).contains(&text.len()) && text.bytes().all(fits)
        };
        if let Some(text) = text.as_ref().filter(|text| !plain(text.get_ref())) {
            let message = format!("a site's {key} is 1 to 64 of the characters a-z A-Z 0-9 _ -");
            report.tell(&text.span(), message, "choose such a name");
        }
    }
    let mut hosts = Vec::new();
    for text in each(&raw.hosts) {
        match host(text.get_ref()) {
            Ok(host) => hosts.push(Spanned::new(text.span(), host)),
            Err(remedy) => report.tell(&text.span(), format!("`{}` is not a host name", text.get_ref()), remedy),
        }
    }
    if each(&raw.hosts).is_empty() {
        let remedy = "add hosts = [\"api.example.com\"], or hosts = [\"*\"] for every name that no other site has";
        report.tell(&around, "the site has no hosts: no request would reach it", remedy);
    }
    Names { name, realm, hosts }
}

/// A host in lower case: a name, `*.name`, `*`, an IPv4 address or an IPv6 address in brackets.
fn host(text: &str) -> Result<String, &'static str> {
    let text = text.to_ascii_lowercase();
    if text == "*" {
        return Ok(text);
    }
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let parsed: Result<std::net::Ipv6Addr, _> = address.parse();
        return parsed.map(|address| format!("[{address}]")).map_err(|_| "write an IPv6 address in brackets: `[::1]`");
    }
    if text.contains("://") || text.contains('/') {
        return Err("write the name alone, without `https://` and without a path");
    }
    if text.contains(':') {
        return Err("leave the port out: a site answers on every port that is listened on");
    }
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err("write `api.example.com`, `*.example.com`, `localhost`, an address, or `*` alone");
    }
    Ok(text)
}

/// The file's name without folders and ending, where a contract is given as a path.
fn stem(contract: &str) -> &str {
    let file = contract.rsplit(['/', '\\']).next().unwrap_or(contract);
    file.strip_suffix(".toml").unwrap_or(file)
}

/// Whether a contract is named by its file.
pub(super) fn is_path(contract: &str) -> bool {
    contract.contains('/') || contract.strip_suffix(".toml").is_some()
}

/// The whole site; `None` when something is wrong, which was then told. `leaves`: mails have a way out.
pub(super) fn compile(
    index: usize,
    names: &Names,
    raw: &Spanned<RawSite>,
    given: &Given,
    leaves: bool,
    report: &mut Report<'_>,
    of_contracts: &mut Vec<Located>,
) -> Option<Site> {
    let around = raw.span();
    let raw = raw.get_ref();
    let before = report.errors.len();
    let mut contract = contract(raw, &around, given, report, of_contracts);
    if let Some(contract) = &mut contract {
        adjust(contract, &raw.plan, raw.tokens.as_ref().map(Spanned::get_ref), report);
    }
    let keys = keys::keys(raw.tokens.as_ref(), &around, given, report);
    let pepper = keys::pepper(raw.api_keys.as_ref(), contract.as_ref(), &names.realm, &around, given, report);
    let mail = mail::brand(raw, &names.name, contract.as_ref(), leaves, report);
    let upstreams = upstreams::upstreams(&raw.upstream, given, report);
    let limits = site_limits(raw.limits.as_ref().map(Spanned::get_ref), report);
    let cors = raw.cors.as_ref().and_then(|raw| cors::compile(raw, report));
    let client_certificates = raw.client_certificates.as_ref().and_then(|raw| clients::compile(raw, given, report));
    let identity = identity::names(&raw.identity_headers, report);
    let max_body = size(&raw.max_body, 64 << 10, report);
    let private = |key: &crate::credential::KeySettings| key.material.expose().contains("PRIVATE KEY");
    let asymmetric = keys.iter().any(|key| hmac_bytes(&key.algorithm).is_none() && private(key));
    let surroundings =
        routes::Around { contract: contract.as_ref(), upstreams: &upstreams, identity: &identity, asymmetric };
    let forwarded = routes::routes(&raw.route, &surroundings, report);
    let guarded = routes::guards(&raw.guard, &surroundings, report);
    routes::open_to_strangers(&raw.route, guarded.as_ref().map_or(&[], |(_, guards)| guards), report);
    let empty = RawTokens::default();
    let tokens = raw.tokens.as_ref().map_or(&empty, Spanned::get_ref);
    let leeway = duration(&tokens.leeway, secs(30), secs(0)..=secs(300), report);
    let text = |text: &Option<Spanned<String>>, key: &str, report: &mut Report<'_>| {
        if let Some(text) = text.as_ref().filter(|text| text.get_ref().is_empty()) {
            report.tell(&text.span(), format!("the {key} is empty"), "leave the key out for the realm's name");
        }
        text.as_ref().map_or(&names.realm, |text| text.get_ref()).clone()
    };
    let (issuer, audience) = (text(&tokens.issuer, "issuer", report), text(&tokens.audience, "audience", report));
    if report.errors.len() > before {
        return None;
    }
    let (contract, forwarded, guarded) = (contract?, forwarded?, guarded?);
    let (pepper, pepper_from) = pepper?;
    let realm: Arc<str> = names.realm.as_str().into();
    let operations: Vec<_> =
        contract.operations.iter().enumerate().map(|(at, served)| (served.on.clone(), at)).collect();
    Some(Site {
        index,
        name: names.name.clone(),
        realm: realm.clone(),
        hosts: names.hosts.iter().map(|host| host.get_ref().clone()).collect(),
        native: Router::build(&operations).ok()?,
        contract: Arc::new(contract),
        credential: Arc::new(credential::Settings {
            site: u32::try_from(index).ok()?,
            realm,
            issuer,
            audience,
            leeway,
            keys,
            pepper,
        }),
        pepper_from,
        guard_paths: guarded.0,
        guards: guarded.1,
        route_paths: forwarded.0,
        routes: forwarded.1,
        upstreams: upstreams.into_values().map(Arc::new).collect(),
        limits,
        cors,
        client_certificates,
        identity,
        odd_names: raw.underscore_headers.unwrap_or_default(),
        max_body,
        mail,
    })
}

/// The product's wire: built in, or a file. Its own errors are told in its own file.
fn contract(
    raw: &RawSite,
    around: &Range<usize>,
    given: &Given,
    report: &mut Report<'_>,
    of_contracts: &mut Vec<Located>,
) -> Option<Contract> {
    let Some(name) = &raw.contract else {
        let remedy = format!("add contract = \"…\": one of {}, or a file's path", BUILTIN.join(", "));
        report.tell(around, "the site has no contract", remedy);
        return None;
    };
    let text = name.get_ref();
    let source = if is_path(text) {
        match given.contracts.get(text)? {
            Ok(source) => source.clone(),
            Err(reason) => {
                let remedy = "name a contract file, from the directory where the gateway is started";
                report.tell(&name.span(), format!("cannot read `{text}`: {reason}"), remedy);
                return None;
            }
        }
    } else if let Some(built_in) = builtin(text) {
        Source::new(format!("{text} (built in)"), built_in)
    } else {
        let remedy = format!("{} (a file's path holds a `/` or ends in .toml)", suggest(text, BUILTIN.iter().copied()));
        report.tell(&name.span(), format!("there is no contract `{text}`"), remedy);
        return None;
    };
    load(&source)
        .map_err(|errors| {
            // Two sites on one broken contract: its errors are told once.
            of_contracts.extend(errors.into_iter().filter(|error| !of_contracts.contains(error)).collect::<Vec<_>>());
        })
        .ok()
}

/// The contract's plans and lifetimes, where the site has its own.
fn adjust(contract: &mut Contract, plans: &Named<RawPlan>, tokens: Option<&RawTokens>, report: &mut Report<'_>) {
    for (name, raw) in plans {
        let text = name.get_ref();
        let Some(plan) = contract.plans.iter_mut().find(|plan| plan.name == *text) else {
            let known: Vec<&str> = contract.plans.iter().map(|plan| plan.name.as_str()).collect();
            report.tell(&name.span(), format!("the contract has no plan `{text}`"), suggest(text, known));
            continue;
        };
        plan.limits = limits(&raw.get_ref().limits, &plan.limits, report);
    }
    let Some(raw) = tokens else { return };
    let rules = &mut contract.tokens;
    rules.access_ttl = duration(&raw.access_ttl, rules.access_ttl, secs(1)..=secs(30 * 86_400), report);
    rules.session_lifetime =
        duration(&raw.session_lifetime, rules.session_lifetime, secs(1)..=secs(366 * 86_400), report);
    let shown = raw.access_ttl.as_ref().or(raw.session_lifetime.as_ref());
    if let Some(shown) = shown.filter(|_| rules.access_ttl > rules.session_lifetime) {
        let (access, session) = (format_duration(rules.access_ttl), format_duration(rules.session_lifetime));
        let message = format!("an access token would live for {access}, longer than its session ({session})");
        report.tell(&shown.span(), message, "lower access_ttl or raise session_lifetime");
    }
}

fn site_limits(raw: Option<&RawSiteLimits>, report: &mut Report<'_>) -> SiteLimits {
    let silent = RawSiteLimits::default();
    let raw = raw.unwrap_or(&silent);
    for texts in [&raw.failed_sign_ins, &raw.failed_credentials] {
        for text in each(texts).iter().filter(|text| text.get_ref().parse().is_ok_and(|window: Window| window.shadow)) {
            let message = "how often a credential may be wrong is part of authentication, which is never in shadow";
            report.tell(&text.span(), message, "leave ` shadow` out");
        }
    }
    let window = |limit: u32, minutes: u64| Window { limit, length: secs(minutes * 60), shadow: false };
    SiteLimits {
        address_native: limits(&raw.native_per_address, &[window(60, 1)], report),
        failed_sign_in: limits(&raw.failed_sign_ins, &[window(10, 15)], report),
        failed_credentials: limits(&raw.failed_credentials, &[window(60, 1)], report),
        per_key: limits(&raw.per_key, &[], report),
        per_address: limits(&raw.per_address, &[], report),
    }
}

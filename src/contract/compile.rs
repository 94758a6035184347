//! From the file as written to a contract that can be used.
//!
//! Pure: text in, [`Contract`] or every error out. Here stand the parts that speak of nothing but
//! themselves (ids, keys, schemes, roles, plans); how long things live stands in `lifetimes`, what is served stands in [`super::wire`], what is asked in [`super::require`], what a
//! refusal looks like in `problems`. Called by `config` for each site, and by `tollgate contract show`.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use super::lifetimes::{self, duration};
use super::raw::{Named, RawContract, RawIds, RawKeys, RawPassword, RawPlan, RawRole};
use super::source::{self, Located, Report, Source, suggest};
use super::{
    Carried, Contract, IdStyles, KeyRules, PasswordRules, Plan, Role, Scheme, agents, problems, require, wire,
};
use crate::model::access::{Permission, Permissions, RoleId};
use crate::model::id::IdStyle;
use crate::model::window::{Crowded, Window, parse_duration};

/// The contracts built into the binary.
pub const BUILTIN: &[&str] = &["vantage", "rag-modulo", "stackaudit", "chatops", "langgraph"];

/// The text of a built-in contract.
pub fn builtin(name: &str) -> Option<&'static str> {
    match name {
        "vantage" => Some(include_str!("../../config/contracts/vantage.toml")),
        "rag-modulo" => Some(include_str!("../../config/contracts/rag-modulo.toml")),
        "stackaudit" => Some(include_str!("../../config/contracts/stackaudit.toml")),
        "chatops" => Some(include_str!("../../config/contracts/chatops.toml")),
        "langgraph" => Some(include_str!("../../config/contracts/langgraph.toml")),
        _ => None,
    }
}

/// A name that no built-in contract has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no built-in contract `{name}`: {remedy}")]
pub struct UnknownContract {
    /// The name asked for.
    pub name: String,
    /// What is there.
    pub remedy: String,
}

/// The text of a built-in contract, for a person to read or to start their own from.
pub fn show(name: &str) -> Result<&'static str, UnknownContract> {
    builtin(name)
        .ok_or_else(|| UnknownContract { name: name.to_owned(), remedy: suggest(name, BUILTIN.iter().copied()) })
}

/// Whether a file is meant to be a contract and no configuration, by what stands at its top; it may be wrong as such.
pub fn is_contract(text: &str) -> bool {
    let (root, _) = DeTable::parse_recoverable(text);
    let has = |names: &[&str]| root.get_ref().keys().any(|key| names.contains(&key.get_ref().as_ref()));
    has(&["operation", "role", "schemes", "native_prefixes"]) && !has(&["site", "listen", "include"])
}

/// Reads and compiles a contract file.
pub fn load(source: &Source) -> Result<Contract, Vec<Located>> {
    let (raw, mut errors) = source::read::<RawContract>(source, |_, _| {});
    let compiled = raw.map(|raw| compile(source, &raw));
    match compiled {
        Some(Ok(contract)) if errors.is_empty() => return Ok(contract),
        Some(Err(more)) => errors.extend(more),
        _ => {}
    }
    errors.sort_by_key(|error| (error.line, error.column));
    Err(errors)
}

/// Compiles what was read from `source`.
pub fn compile(source: &Source, raw: &RawContract) -> Result<Contract, Vec<Located>> {
    let mut report = Report::new(source);
    let report_to = &mut report;
    name(&raw.name, "a contract's name", report_to);
    let roles = roles(&raw.role, report_to);
    let plans = plans(&raw.plan, report_to);
    let keys = raw.keys.as_ref().map(|keys| key_rules(keys, &plans, report_to));
    let schemes = schemes(&raw.schemes, keys.is_some(), report_to);
    let tokens = lifetimes::tokens(&raw.tokens, report_to);
    let mail = raw.mail.as_ref().map(|raw| lifetimes::mail(raw.get_ref(), report_to));
    let native_prefixes = wire::native_prefixes(&raw.native_prefixes, report_to);
    let operations = wire::operations(
        &raw.operation,
        wire::Around {
            roles: &roles,
            plans: &plans,
            prefixes: &native_prefixes,
            schemes: &schemes,
            keys: keys.is_some(),
            refresh: tokens.refresh.as_ref().map(|refresh| refresh.rotation),
            mail: mail.is_some(),
        },
        report_to,
    );
    lifetimes::used(raw, report_to);
    let contract = Contract {
        name: raw.name.get_ref().clone(),
        ids: id_styles(&raw.ids, report_to),
        sessions: lifetimes::sessions(&raw.sessions, report_to),
        agents: raw.agents.as_ref().and_then(|raw| agents::compile(raw, keys.is_some(), &native_prefixes, report_to)),
        password: password_rules(&raw.password, report_to),
        register_role: register_role(raw.register_role.as_ref(), &roles, report_to),
        guards: require::guards(&raw.guard, &roles, &plans, &native_prefixes, report_to),
        problems: problems::compile(&raw.problem, report_to),
        tokens,
        mail,
        keys,
        schemes,
        roles,
        plans,
        operations,
        native_prefixes,
    };
    if report.errors.is_empty() { Ok(contract) } else { Err(report.errors) }
}

/// Names go into headers, tokens, metrics and the store: the plainest characters only.
fn name(name: &Spanned<String>, what: &str, report: &mut Report<'_>) {
    let text = name.get_ref();
    let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !fits || text.is_empty() || text.len() > 64 {
        let message = format!("{what} is 1 to 64 of the characters a-z A-Z 0-9 _ -");
        report.tell(&name.span(), message, "choose such a name");
    }
}

fn id_styles(raw: &RawIds, report: &mut Report<'_>) -> IdStyles {
    let mut style = |raw: &Option<Spanned<String>>| {
        let Some(raw) = raw else { return IdStyle::Uuid };
        if raw.get_ref() == "uuid" {
            return IdStyle::Uuid;
        }
        prefix(raw, "an id's prefix", "write `uuid`, or a prefix such as `user_`", report);
        IdStyle::Prefixed(raw.get_ref().clone())
    };
    IdStyles { user: style(&raw.user), org: style(&raw.org), key: style(&raw.key), session: style(&raw.session) }
}

/// A prefix ends where no id and no key can go on, so that one prefix is never the start of another's text.
fn prefix(raw: &Spanned<String>, what: &str, remedy: &str, report: &mut Report<'_>) {
    let text = raw.get_ref();
    let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(['_', '-'])
        && text.len() <= 32;
    if !fits {
        let message = format!("{what} is at most 32 of the characters a-z A-Z 0-9 _ -, and ends with `_` or `-`");
        report.tell(&raw.span(), message, remedy);
    }
}

fn key_rules(raw: &RawKeys, plans: &[Plan], report: &mut Report<'_>) -> KeyRules {
    prefix(&raw.prefix, "a key's prefix", "write a prefix such as `vantage_`", report);
    let expires_after = raw.expires_after.as_ref().map(|raw| duration(Some(raw), Duration::ZERO, report));
    if let (Some(raw), Some(Duration::ZERO)) = (&raw.expires_after, expires_after)
        && parse_duration(raw.get_ref()).is_some()
    {
        report.tell(
            &raw.span(),
            "a key would be dead when it is made",
            "write a length such as `365d`, or leave it out",
        );
    }
    KeyRules {
        prefix: raw.prefix.get_ref().clone(),
        expires_after,
        permissions: permissions(&raw.permissions, report),
        requires: require::of_plans(raw.plans.as_ref(), plans, report),
        rotation_overlap: duration(raw.rotation_overlap.as_ref(), Duration::from_hours(24), report),
    }
}

fn permissions(raw: &[Spanned<String>], report: &mut Report<'_>) -> Vec<Permission> {
    raw.iter()
        .filter_map(|raw| match Permission::parse(raw.get_ref()) {
            Ok(permission) => Some(permission),
            Err(error) => {
                report.tell(&raw.span(), error.to_string(), "write a permission such as `read:posts`, `read:*` or `*`");
                None
            }
        })
        .collect()
}

fn schemes(raw: &Named<Vec<Spanned<Carried>>>, keys: bool, report: &mut Report<'_>) -> Vec<Scheme> {
    if raw.0.is_empty() {
        return vec![Scheme { name: "Bearer".into(), carries: vec![Carried::Token] }];
    }
    let mut schemes: Vec<Scheme> = Vec::new();
    for (name, carried) in &raw.0 {
        let span = name.span();
        let name = name.get_ref();
        // RFC 9110 section 5.6.2: a scheme is a token.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() > 32 || !name.bytes().all(is_token) {
            report.tell(&span, "not the name of an Authorization scheme", "write a name such as `Bearer`");
        }
        if schemes.iter().any(|other| other.name.eq_ignore_ascii_case(name)) {
            report.tell(&span, format!("`{name}` stands twice: schemes ignore case"), "leave one of them out");
        }
        if carried.is_empty() {
            report.tell(&span, format!("`{name}` carries nothing"), "write [\"token\"], [\"api_key\"] or both");
        }
        for carried in carried {
            if *carried.get_ref() == Carried::ApiKey && !keys {
                report.tell(
                    &carried.span(),
                    "the product has no API keys",
                    "add a [keys] table, or leave `api_key` out",
                );
            }
        }
        schemes.push(Scheme { name: name.clone(), carries: carried.iter().map(|each| *each.get_ref()).collect() });
    }
    schemes
}

fn password_rules(raw: &RawPassword, report: &mut Report<'_>) -> PasswordRules {
    let min_length = raw.min_length.as_ref().map_or(8, |raw| *raw.get_ref());
    if let Some(raw) = &raw.min_length
        && !(1..=128).contains(&min_length)
    {
        report.tell(&raw.span(), "a password's least length is 1 to 128 characters", "8 is usual");
    }
    PasswordRules { min_length, upper: raw.upper, lower: raw.lower, digit: raw.digit, special: raw.special }
}

fn roles(raw: &Named<RawRole>, report: &mut Report<'_>) -> Vec<Role> {
    if raw.0.is_empty() {
        return vec![Role {
            name: "member".into(),
            permissions: Permissions::all(),
            read_only: false,
            manages_org: true,
        }];
    }
    too_many(&raw.0, "roles", report);
    raw.0
        .iter()
        .map(|(key, role)| {
            name(key, "a role's name", report);
            let permissions = Permissions::new(permissions(&role.permissions, report));
            Role { name: key.get_ref().clone(), permissions, read_only: role.read_only, manages_org: role.manages_org }
        })
        .collect()
}

/// A set of roles or plans is one word of 64 bits.
fn too_many<T>(entries: &[(Spanned<String>, T)], what: &str, report: &mut Report<'_>) {
    if let Some((key, _)) = entries.get(64) {
        report.tell(&key.span(), format!("more than 64 {what}"), format!("keep to 64 {what}"));
    }
}

fn register_role(raw: Option<&Spanned<String>>, roles: &[Role], report: &mut Report<'_>) -> RoleId {
    let Some(raw) = raw else { return RoleId(0) };
    let names = || roles.iter().map(|role| role.name.as_str());
    if let Some(at) = super::position(names(), raw.get_ref()) {
        return RoleId(at);
    }
    report.tell(&raw.span(), format!("there is no role `{}`", raw.get_ref()), suggest(raw.get_ref(), names()));
    RoleId(0)
}

fn plans(raw: &Named<RawPlan>, report: &mut Report<'_>) -> Vec<Plan> {
    if raw.0.is_empty() {
        return vec![Plan { name: "free".into(), title: "Free".into(), limits: Vec::new(), self_service: true }];
    }
    too_many(&raw.0, "plans", report);
    raw.0
        .iter()
        .enumerate()
        .map(|(at, (key, plan))| {
            name(key, "a plan's name", report);
            let title = plan.title.as_ref().map_or_else(|| capitalized(key.get_ref()), |title| title.get_ref().clone());
            let limits = windows(&plan.limits, report);
            // Whoever names the plan that they get anyway asks for nothing.
            Plan { name: key.get_ref().clone(), title, limits, self_service: plan.self_service || at == 0 }
        })
        .collect()
}

/// Windows as a file writes them: at most eight, each of its own length.
pub fn windows(raw: &[Spanned<String>], report: &mut Report<'_>) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for raw in raw {
        let window: Window = match raw.get_ref().parse() {
            Ok(window) => window,
            Err(error) => {
                report.tell(&raw.span(), format!("{error}"), "write a window such as `100/1h`");
                continue;
            }
        };
        if let Err(crowded) = window.beside(&windows) {
            let remedy = match crowded {
                Crowded::SameLength => "leave one of them out",
                Crowded::TooMany => "keep to eight",
            };
            report.tell(&raw.span(), crowded.to_string(), remedy);
        }
        windows.push(window);
    }
    windows
}

fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

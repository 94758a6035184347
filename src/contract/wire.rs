//! What a contract serves: operations at their places. Called by [`super::compile`](mod@super::compile).

use toml::Spanned;

use super::operation::{Caller, Operation, Signature};
use super::pattern::{Pattern, is_below};
use super::raw::{RawAnswer, RawNames, RawOperation};
use super::require::{Asked, requirement};
use super::slot::{Field, Kind, Slot};
use super::source::{Report, suggest};
use super::template::{Given, Template};
use super::{Bodies, Carried, Plan, Read, Role, Rotation, Scheme, Served};

/// What the rest of the contract tells of the operations' surroundings.
#[derive(Clone, Copy)]
pub(super) struct Around<'c> {
    pub roles: &'c [Role],
    pub plans: &'c [Plan],
    pub prefixes: &'c [String],
    pub schemes: &'c [Scheme],
    pub keys: bool,
    /// What using a refresh token does to it, where there are any.
    pub refresh: Option<Rotation>,
    pub mail: bool,
}

/// Paths that are ours alone: `/v1/auth`, `/v1/servers/{server_id}/api-keys`. The last segment is literal: all of
/// what a parameter may be is rather all that stands above it.
pub(super) fn native_prefixes(raw: &[Spanned<String>], report: &mut Report<'_>) -> Vec<String> {
    let mut prefixes: Vec<String> = Vec::new();
    for raw in raw {
        let text = raw.get_ref();
        if Pattern::parse(&format!("* {text}")).is_err() || text.ends_with(['/', '}']) {
            let message =
                format!("`{text}` is not a path prefix: literal segments or `{{name}}`, the last one literal");
            report.tell(&raw.span(), message, "write a path such as `/api/v1/auth`");
        } else if prefixes.iter().any(|other| is_below(other, text) && is_below(text, other)) {
            report.tell(&raw.span(), format!("`{text}` stands twice"), "leave one of them out");
        }
        prefixes.push(text.clone());
    }
    prefixes
}

pub(super) fn operations(raw: &[RawOperation], around: Around<'_>, report: &mut Report<'_>) -> Vec<Served> {
    let mut served: Vec<Served> = Vec::new();
    for raw in raw {
        let Some(next) = operation(raw, around, report) else { continue };
        if served.iter().any(|other| other.operation == next.operation) {
            let message = format!("`{}` stands twice", next.operation.signature().name);
            report.tell(&raw.operation.span(), message, "serve it in one place");
        }
        if let Some(other) = served.iter().find(|other| collide(&other.on, &next.on)) {
            let message = format!("`{}` already stands on this method and path", other.operation.signature().name);
            report.tell(&raw.on.span(), message, "give each operation its own method or path");
        }
        served.push(next);
    }
    served
}

fn operation(raw: &RawOperation, around: Around<'_>, report: &mut Report<'_>) -> Option<Served> {
    let operation = *raw.operation.get_ref();
    let signature = operation.signature();
    surroundings(raw, operation, around, report);
    let on = place(&raw.on, around.prefixes, report)?;
    let reads = reads(raw, signature, &on, report);
    let bodies = bodies(raw, signature, &reads, report);
    let asked = Asked { roles: raw.roles.as_ref(), plans: raw.plans.as_ref(), permissions: &raw.permissions };
    if signature.caller == Caller::Public
        && let Some(span) = asked.first()
    {
        let message =
            format!("`{}` is for anyone: nobody is known yet whose role or plan could be asked", signature.name);
        report.tell(&span, message, "leave roles, plans and permissions out here");
    }
    if let Some(shadow) = raw.shadow.as_ref().filter(|shadow| *shadow.get_ref()) {
        let message = "what a native operation asks is never in shadow: it makes keys, ends sessions and tells secrets";
        report.tell(&shadow.span(), message, "leave shadow out; guards, routes and windows can be tried");
    }
    let requires = requirement(asked, &on, around.roles, around.plans, report);
    let by_key = by_key(raw, operation, around.keys, report);
    let (body, item) = answer(raw, operation, around.refresh, report);
    let status = status(&raw.answer, body.is_some(), report);
    Some(Served { operation, on, bodies, reads, requires, by_key, status, body, item })
}

/// Whether an API key may call it. Only what tells a caller of themselves: a key must not make keys, nor turn itself
/// into a session or another password.
fn by_key(raw: &RawOperation, operation: Operation, keys: bool, report: &mut Report<'_>) -> bool {
    let Some(by_key) = raw.by_key.as_ref().filter(|by_key| *by_key.get_ref()) else { return false };
    if operation != Operation::Me {
        let message =
            format!("`{}` is for signed-in users: a key that was stolen must not do it", operation.signature().name);
        report.tell(&by_key.span(), message, "leave it out; `me` is what a key may call");
    } else if !keys {
        report.tell(&by_key.span(), "the product has no API keys", "add a [keys] table, or leave it out");
    }
    true
}

/// What the operation needs of the contract.
fn surroundings(raw: &RawOperation, operation: Operation, around: Around<'_>, report: &mut Report<'_>) {
    use Operation::{EmailResend, EmailVerify, PasswordReset, PasswordResetRequest, RefreshToken};
    let signature = operation.signature();
    let mut needs = |what: &str, remedy: &str| {
        report.tell(&raw.operation.span(), format!("`{}` needs to know how {what}", signature.name), remedy);
    };
    if signature.name.starts_with("key_") && !around.keys {
        needs("keys are made", "add a [keys] table with the keys' prefix");
    }
    if operation == RefreshToken && around.refresh.is_none() {
        needs("refresh tokens are made", "add [tokens.refresh] with ttl = \"7d\"");
    }
    if matches!(operation, EmailVerify | EmailResend | PasswordReset | PasswordResetRequest) && !around.mail {
        needs("long the token in a mail lives", "add a [mail] table; it may be empty");
    }
    let carried = around.schemes.iter().any(|scheme| scheme.carries.contains(&Carried::Token));
    if signature.caller == Caller::User && !carried {
        let message = format!("`{}` is for signed-in users, and no scheme carries a token", signature.name);
        report.tell(&raw.operation.span(), message, "add `Bearer = [\"token\"]` to [schemes]");
    }
    let field = raw.reads.0.iter().find(|(name, _)| name.get_ref() == Field::RefreshToken.name());
    if let (None, Some((name, _)), true) = (around.refresh, field, operation != RefreshToken) {
        report.tell(&name.span(), "the product has no refresh tokens", "add [tokens.refresh], or leave the field out");
    }
}

/// One method and a path below a native prefix.
fn place(raw: &Spanned<String>, prefixes: &[String], report: &mut Report<'_>) -> Option<Pattern> {
    const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    let on = pattern(raw, report)?;
    let method = raw.get_ref().split(' ').next().unwrap_or_default();
    if !METHODS.contains(&method) {
        let message = format!("`{method}`: an operation stands on one method");
        report.tell(&raw.span(), message, format!("one of: {}", METHODS.join(", ")));
    }
    if on.path.contains("{*") {
        report.tell(&raw.span(), "an operation's path has no `{*rest}`", "name each segment: `{key_id}`");
    }
    if !prefixes.iter().any(|prefix| is_below(prefix, &on.path)) {
        let remedy = match prefixes {
            [] => "add native_prefixes = [\"/api/v1/auth\"] or the like at the top".to_owned(),
            all => format!("add its prefix to native_prefixes; there are: {}", all.join(", ")),
        };
        report.tell(&raw.span(), "the path is below no native prefix, so it could also be forwarded", remedy);
    }
    Some(on)
}

pub(super) fn pattern(raw: &Spanned<String>, report: &mut Report<'_>) -> Option<Pattern> {
    Pattern::parse(raw.get_ref())
        .map_err(|error| report.tell(&raw.span(), error.to_string(), "write it as `GET /v1/items/{id}`"))
        .ok()
}

/// Whether two patterns take the same request with the same right: neither is the more specific one.
pub(super) fn collide(one: &Pattern, other: &Pattern) -> bool {
    let shape = |on: &Pattern| -> Vec<String> {
        let rename = |segment: &str| match segment {
            _ if segment.starts_with("{*") => "{*}".to_owned(),
            _ if segment.starts_with('{') => "{}".to_owned(),
            literal => literal.to_owned(),
        };
        on.path.split('/').map(rename).collect()
    };
    one.methods.is_all() == other.methods.is_all() && one.methods.meets(other.methods) && shape(one) == shape(other)
}

/// Where each field stands; every required one must, in the body or the path.
fn reads(raw: &RawOperation, signature: &Signature, on: &Pattern, report: &mut Report<'_>) -> Vec<Read> {
    let takes = || signature.required.iter().chain(signature.optional).copied();
    let mut reads: Vec<Read> = Vec::new();
    for (name, key) in &raw.reads.0 {
        let Some(field) = Field::from_name(name.get_ref()).filter(|field| takes().any(|taken| taken == *field)) else {
            let known = if Field::from_name(name.get_ref()).is_some() { "does not take" } else { "knows no field" };
            let message = format!("`{}` {known} `{}`", signature.name, name.get_ref());
            report.tell(&name.span(), message, suggest(name.get_ref(), takes().map(Field::name)));
            continue;
        };
        if on.parameters().any(|parameter| parameter == field.name()) {
            report.tell(&name.span(), format!("`{}` is read from the path", field.name()), "leave it out of `reads`");
        }
        let mut keys = RawNames::each(key);
        if keys.is_empty() {
            report.tell(&key.span(), "a field of a body has a name", "write the name that the client sends");
            continue;
        }
        for key in keys.iter().filter(|key| key.get_ref().is_empty()) {
            report.tell(&key.span(), "a field of a body has a name", "write the name that the client sends");
        }
        let required = signature.required.contains(&field);
        let key = keys.remove(0).into_inner();
        reads.push(Read { field, key, or: keys.into_iter().map(Spanned::into_inner).collect(), required });
    }
    if raw.on.get_ref().starts_with("GET ")
        && let Some((name, _)) = raw.reads.0.first()
    {
        report.tell(&name.span(), "a GET has no body to read from", "read it from the path: `{field}`");
    }
    for parameter in on.parameters() {
        let field = Field::from_name(parameter).filter(|field| takes().any(|taken| taken == *field));
        if !field.is_some_and(fits_path) {
            let fits = takes().filter(|field| fits_path(*field)).map(Field::name);
            let message = format!("`{}` takes no `{{{parameter}}}` from the path", signature.name);
            report.tell(&raw.on.span(), message, suggest(parameter, fits));
        }
    }
    for name in &raw.required {
        if let Some(read) = reads.iter_mut().find(|read| read.field.name() == name.get_ref()) {
            read.required = true;
            continue;
        }
        let message = format!("`{}` reads no `{}` from its body", signature.name, name.get_ref());
        let read = raw.reads.0.iter().map(|(name, _)| name.get_ref().as_str());
        report.tell(&name.span(), message, suggest(name.get_ref(), read));
    }
    let has = |field: Field| {
        reads.iter().any(|read| read.field == field) || on.parameters().any(|parameter| parameter == field.name())
    };
    for missing in signature.required.iter().filter(|field| !has(**field)) {
        let message = format!("`{}` needs `{}`", signature.name, missing.name());
        let path =
            if fits_path(*missing) { format!(", or `{{{}}}` to the path", missing.name()) } else { String::new() };
        let remedy = format!("add `{} = \"<its name in the body>\"` to `reads`{path}", missing.name());
        report.tell(&raw.operation.span(), message, remedy);
    }
    reads
}

/// A form has names and texts, and nothing else.
fn bodies(raw: &RawOperation, signature: &Signature, reads: &[Read], report: &mut Report<'_>) -> Bodies {
    let Some(form) = raw.form.as_ref().filter(|form| *form.get_ref()) else { return Bodies::Json };
    if reads.is_empty() {
        report.tell(&form.span(), format!("`{}` reads no body", signature.name), "leave `form` out");
    }
    if let Some(read) = reads.iter().find(|read| read.field.kind() != Kind::Text) {
        let message = format!("a form holds texts, and `{}` is none", read.field.name());
        report.tell(&form.span(), message, "leave `form` out, or do not read the field");
    }
    Bodies::JsonOrForm
}

/// A segment of a path is text, and is logged: nothing secret stands there.
fn fits_path(field: Field) -> bool {
    field.kind() == Kind::Text && !field.is_secret()
}

/// The body and, for a list, one element of it.
fn answer(
    raw: &RawOperation,
    operation: Operation,
    refresh: Option<Rotation>,
    report: &mut Report<'_>,
) -> (Option<Template>, Option<Template>) {
    let signature = operation.signature();
    let by = format!("`{}`", signature.name);
    let element = Given { by: &by, slots: signature.gives };
    let whole = if signature.list { Given { by: &by, slots: &[Slot::Items] } } else { element };
    let body = raw.answer.body.as_ref().map(|raw| Template::compile(raw, whole, report));
    let item = raw.answer.item.as_ref().map(|raw| Template::compile(raw, element, report));
    let place = raw.answer.body.as_ref().map_or(raw.operation.span(), Spanned::span);
    match (&item, signature.list) {
        (Some(_), false) => {
            let place = raw.answer.item.as_ref().map_or(place.clone(), Spanned::span);
            report.tell(&place, format!("{by} gives no list"), "leave `item` out");
        }
        (None, true) => {
            report.tell(
                &place,
                format!("{by} gives a list, and `answer.item` is missing"),
                "add `item = { … }` to its answer",
            );
        }
        _ => {}
    }
    for slot in needed(operation, refresh) {
        if !body.as_ref().is_some_and(|body| body.holds(*slot)) {
            let message = format!("the answer of {by} holds no `${}`", slot.name());
            report.tell(&place, message, format!("add \"${}\" where the client looks for it", slot.name()));
        }
    }
    if body.as_ref().is_some_and(|body| body.holds(Slot::RefreshToken)) {
        if refresh.is_none() {
            let remedy = "add [tokens.refresh] with ttl = \"7d\", or leave `$refresh_token` out";
            report.tell(&place, "the product has no refresh tokens", remedy);
        } else if operation == Operation::RefreshToken && refresh == Some(Rotation::None) {
            let remedy = "leave `$refresh_token` out, or write rotation = \"rotate\" in [tokens.refresh]";
            report.tell(&place, "nothing rotates, so there is no new refresh token", remedy);
        }
    }
    (body, item)
}

/// What an answer must hold to be of use: it is told nowhere else.
const fn needed(operation: Operation, refresh: Option<Rotation>) -> &'static [Slot] {
    match (operation, refresh) {
        (Operation::Login, Some(_)) | (Operation::RefreshToken, Some(Rotation::Rotate)) => {
            &[Slot::AccessToken, Slot::RefreshToken]
        }
        (Operation::Login | Operation::RefreshBearer | Operation::RefreshToken, _) => &[Slot::AccessToken],
        (Operation::KeyCreate | Operation::KeyRotate, _) => &[Slot::KeySecret],
        (Operation::KeyList | Operation::SessionList, _) => &[Slot::Items],
        _ => &[],
    }
}

fn status(raw: &RawAnswer, has_body: bool, report: &mut Report<'_>) -> u16 {
    let Some(status) = &raw.status else { return if has_body { 200 } else { 204 } };
    let span = status.span();
    let status = *status.get_ref();
    if !(200..=299).contains(&status) {
        report.tell(&span, format!("{status} is not a status of success"), "200 to 299");
    } else if has_body && matches!(status, 204 | 205) {
        // RFC 9110 sections 15.3.5 and 15.3.6.
        report.tell(&span, format!("a {status} has no body"), "leave the body out, or answer 200");
    }
    status
}

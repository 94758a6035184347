//! What a route makes of a request on its way: which upstream, which path, which headers.

use std::collections::BTreeMap;

use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use toml::Spanned;

use super::raw::{RawChanges, RawRoute, Text, each};
use super::snapshot::IdentityNames;
use crate::contract::pattern::Pattern;
use crate::contract::source::{Report, suggest};
use crate::rules::path::canonical;
use crate::rules::rewrite::Rewrite;
use crate::rules::split::{Split, SplitBy};
use crate::upstream::changes::Changes;
use crate::upstream::hygiene::frames;

const NO_UPSTREAM: &str = "add [site.upstream.app] with servers = [\"http://127.0.0.1:9000\"]";

/// Where requests go: the upstream that is named, the split, or the only one there is.
pub(super) fn split(raw: &Spanned<RawRoute>, known: &[&str], report: &mut Report<'_>) -> Option<Split> {
    let it = raw.get_ref();
    if let (Some(upstreams), Some(one)) = (&it.upstreams, &it.upstream) {
        let remedy = "keep `upstream` for one, or `upstreams` for several with their weights";
        report.tell(&upstreams.span(), format!("the route leads to `{}` already", one.get_ref()), remedy);
        return None;
    }
    if let (None, Some(by)) = (&it.upstreams, &it.stick_to) {
        report.tell(&by.span(), "nothing is split here", "add upstreams = { app = 90, next = 10 }, or remove it");
    }
    let Some(shares) = &it.upstreams else { return single(&it.upstream, raw, known, report).map(Split::to) };
    let by = stick_to(&it.stick_to, report);
    let mut places = Vec::new();
    for (name, weight) in shares.get_ref() {
        let at = place(name, known, report);
        let weight = weight.get_ref().0;
        if weight > 1_000_000 {
            report.tell(&name.span(), format!("a weight of {weight} is out of range"), "choose from 0 to 1000000");
        }
        places.extend(at.map(|at| (at, u32::try_from(weight).unwrap_or(0))));
    }
    if places.len() < shares.get_ref().len() {
        return None;
    }
    let split = Split::weighted(places, by);
    if split.is_none() {
        report.tell(&shares.span(), "no request would go anywhere", "give one upstream a weight above 0");
    }
    split
}

fn stick_to(text: &Text, report: &mut Report<'_>) -> SplitBy {
    let Some(text) = text else { return SplitBy::default() };
    match text.get_ref().as_str() {
        "organization" => SplitBy::Organization,
        "user" => SplitBy::User,
        "request" => SplitBy::Request,
        other => {
            let remedy = suggest(other, ["organization", "user", "request"]);
            report.tell(&text.span(), format!("`{other}` is nothing that stays on one side of a split"), remedy);
            SplitBy::default()
        }
    }
}

/// The named upstream; where none is named, the only one.
fn single(name: &Text, raw: &Spanned<RawRoute>, known: &[&str], report: &mut Report<'_>) -> Option<usize> {
    match (name, known) {
        (Some(name), _) => place(name, known, report),
        (None, [_]) => Some(0),
        (None, []) => {
            report.tell(&raw.span(), "the route leads nowhere: the site has no upstream", NO_UPSTREAM);
            None
        }
        (None, all) => {
            let remedy = format!("add upstream = \"…\": one of {}", all.join(", "));
            report.tell(&raw.span(), "the site has several upstreams, and the route names none", remedy);
            None
        }
    }
}

fn place(name: &Spanned<String>, known: &[&str], report: &mut Report<'_>) -> Option<usize> {
    let at = known.iter().position(|known| known == name.get_ref());
    if at.is_none() {
        let remedy = if known.is_empty() { NO_UPSTREAM.into() } else { suggest(name.get_ref(), known.iter().copied()) };
        report.tell(&name.span(), format!("the site has no upstream `{}`", name.get_ref()), remedy);
    }
    at
}

/// What becomes of the path.
pub(super) fn rewrite(raw: &RawRoute, on: &Pattern, report: &mut Report<'_>) -> Rewrite {
    let strip = prefix(&raw.strip_prefix, report);
    if let (Some(text), false) = (&raw.strip_prefix, strip.is_empty()) {
        let rest = on.path.strip_prefix(&*strip);
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let message = format!("not every path of this route begins with `{strip}`");
            report.tell(&text.span(), message, format!("begin `match` with it: `* {strip}/{{*rest}}`"));
        }
    }
    Rewrite { strip, add: prefix(&raw.add_prefix, report) }
}

fn prefix(text: &Text, report: &mut Report<'_>) -> String {
    let Some(text) = text else { return String::new() };
    let prefix = text.get_ref();
    let sound = canonical(prefix).is_ok_and(|canonical| canonical == prefix.as_str());
    if !sound || prefix.ends_with('/') || prefix.contains(['{', '}']) {
        let message = format!("`{prefix}` cannot be the beginning of a path");
        report.tell(&text.span(), message, "write plain segments with a slash before each: `/v2` or `/shop/api`");
        return String::new();
    }
    prefix.clone()
}

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the backend.
    Request,
    /// To the client.
    Response,
}

/// Changes to the headers of one direction.
pub(super) fn changes(
    raw: Option<&RawChanges>,
    way: Way,
    forwards_credential: bool,
    identity: &IdentityNames,
    report: &mut Report<'_>,
) -> Changes {
    let Some(raw) = raw else { return Changes::default() };
    let remove = each(&raw.remove).into_iter().filter_map(|name| {
        let header = header(&name, way, identity, report)?;
        if header == HOST {
            report.tell(&name.span(), "every request has a Host", "set it to another one, or leave it");
            return None;
        }
        Some(header)
    });
    let remove: Vec<HeaderName> = remove.collect();
    let set = values(&raw.set, way, identity, report);
    if let Some((name, _)) =
        raw.set.iter().find(|(name, _)| AUTHORIZATION.as_str().eq_ignore_ascii_case(name.get_ref()))
        && forwards_credential
        && way == Way::Request
    {
        let message = "the backend would get this in place of the client's credential";
        report.tell(&name.span(), message, "leave out forward_credential, or this header");
    }
    for name in raw.add.keys() {
        if [HOST, AUTHORIZATION].iter().any(|one| one.as_str().eq_ignore_ascii_case(name.get_ref()))
            && way == Way::Request
        {
            report.tell(&name.span(), format!("a request has one `{}`", name.get_ref()), "put it under `set`");
        }
    }
    Changes { remove, set, add: values(&raw.add, way, identity, report) }
}

fn values(
    raw: &BTreeMap<Spanned<String>, Spanned<String>>,
    way: Way,
    identity: &IdentityNames,
    report: &mut Report<'_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut values = Vec::new();
    for (name, text) in raw {
        let Some(header) = header(name, way, identity, report) else { continue };
        if way == Way::Request && matches!(header.as_str(), "traceparent" | "tracestate") {
            let message = format!("`{header}` differs from request to request");
            let remedy = "leave it out ([tracing] sets it); `remove` keeps traces from this backend";
            report.tell(&name.span(), message, remedy);
        }
        let authority =
            header != HOST || text.get_ref().parse::<Authority>().is_ok_and(|host| !host.as_str().contains('@'));
        match HeaderValue::from_str(text.get_ref()) {
            Ok(mut value) if authority => {
                // It may be what the backend knows the gateway by; no log is to show it.
                value.set_sensitive(header == AUTHORIZATION);
                values.push((header, value));
            }
            // The value may be a secret: it is not shown.
            _ => report.tell(&text.span(), "this cannot be the header's value", "write one line of visible ASCII"),
        }
    }
    values
}

/// A header that a route may change: none that frames a message or concerns one hop, none that only the gateway sets.
fn header(name: &Spanned<String>, way: Way, identity: &IdentityNames, report: &mut Report<'_>) -> Option<HeaderName> {
    let Ok(header) = HeaderName::try_from(name.get_ref().as_str()) else {
        let message = format!("`{}` is not a header name", name.get_ref());
        report.tell(&name.span(), message, "write letters, digits and `-`: `X-Api-Version`");
        return None;
    };
    let text = header.as_str();
    let folded = text.replace('_', "-");
    let own = match way {
        Way::Request => {
            identity.all().iter().any(|(_, own)| own.as_str() == folded)
                || folded.starts_with("x-forwarded-")
                || folded == "forwarded"
        }
        Way::Response => folded.starts_with("x-ratelimit-") || folded == "retry-after",
    };
    if frames(text) || own || folded == "x-request-id" {
        let message = format!("`{}` is the gateway's own affair", name.get_ref());
        report.tell(
            &name.span(),
            message,
            "leave it out: a route cannot change what frames a message or tells who asks",
        );
        return None;
    }
    Some(header)
}

//! How an upstream's servers are asked whether they are well.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::header::HeaderValue;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};
use toml::Spanned;

use super::raw::{RawHealth, Text, each};
use super::values::{count, duration, secs};
use crate::contract::source::{Report, suggest};
use crate::upstream::{Ask, Check, Server};

/// What a healthy server answers, where nothing else is said: what other proxies take for well, too.
const USUAL: RangeInclusive<u16> = 200..=399;

pub(super) fn check(around: &Spanned<RawHealth>, servers: &[Server], report: &mut Report<'_>) -> Check {
    let raw = around.get_ref();
    let usual = Check::default();
    let port = raw.port.as_ref().map(|_| count(&raw.port, 80_u16, 1..=65_535, report));
    if let Some(port) = &raw.port
        && servers.iter().any(|server| server.to_string().starts_with("unix:"))
    {
        report.tell(&port.span(), "a server of this upstream is a socket, which has no ports", "remove `port`");
    }
    Check {
        ask: ask(raw, report),
        port,
        interval: duration(&raw.interval, usual.interval, Duration::from_millis(100)..=secs(3600), report),
        timeout: duration(&raw.timeout, usual.timeout, Duration::from_millis(10)..=secs(300), report),
        rise: count(&raw.rise, usual.rise, 1..=100, report),
        fall: count(&raw.fall, usual.fall, 1..=100, report),
    }
}

fn ask(raw: &RawHealth, report: &mut Report<'_>) -> Ask {
    let Some(path) = &raw.path else {
        let places = [("method", &raw.method), ("host", &raw.host)].map(|(name, text)| (name, text.as_ref()));
        let places = places.into_iter().filter_map(|(name, text)| Some((name, text?.span())));
        let statuses = raw.statuses.as_ref().map(|statuses| ("statuses", statuses.span()));
        for (name, place) in places.chain(statuses) {
            let message = format!("`{name}` without a `path`: then nothing is asked but whether a connection is taken");
            report.tell(&place, message, "add path = \"/healthz\"");
        }
        return Ask::Connect;
    };
    Ask::Http {
        method: method(&raw.method, report),
        path: target(path, report),
        host: raw.host.as_ref().and_then(|text| host(text, report)),
        statuses: statuses(raw, report),
    }
}

fn method(text: &Text, report: &mut Report<'_>) -> Method {
    match text.as_ref().map(|text| (text.get_ref().as_str(), text.span())) {
        None | Some(("GET", _)) => Method::GET,
        Some(("HEAD", _)) => Method::HEAD,
        Some((other, place)) => {
            let message = format!("a health check is no `{other}`");
            report.tell(&place, message, suggest(other, ["GET", "HEAD"]));
            Method::GET
        }
    }
}

fn target(text: &Spanned<String>, report: &mut Report<'_>) -> PathAndQuery {
    let target = text.get_ref();
    let sound = target.starts_with('/') && !target.contains('#');
    target.parse().ok().filter(|_| sound).unwrap_or_else(|| {
        report.tell(&text.span(), format!("`{target}` is not a path"), "write `/healthz`, with or without a query");
        PathAndQuery::from_static("/")
    })
}

fn host(text: &Spanned<String>, report: &mut Report<'_>) -> Option<HeaderValue> {
    let name = text.get_ref();
    let sound = name.parse::<Authority>().is_ok_and(|authority| !authority.as_str().contains('@'));
    let host = HeaderValue::from_str(name).ok().filter(|_| sound);
    if host.is_none() {
        report.tell(&text.span(), format!("`{name}` is no host"), "write a name, and a port where one is needed");
    }
    host
}

fn statuses(raw: &RawHealth, report: &mut Report<'_>) -> Vec<RangeInclusive<u16>> {
    if raw.statuses.is_none() {
        return vec![USUAL];
    }
    let told = each(&raw.statuses);
    if let (true, Some(around)) = (told.is_empty(), &raw.statuses) {
        report.tell(&around.span(), "no status would be well", "name some, such as \"200\" or \"200-399\"");
    }
    told.iter().filter_map(|text| range(text, report)).collect()
}

/// `204`, or `200-399`.
fn range(text: &Spanned<String>, report: &mut Report<'_>) -> Option<RangeInclusive<u16>> {
    let shown = text.get_ref();
    let (first, last) = shown.split_once('-').unwrap_or((shown, shown));
    let status = |text: &str| {
        // A first answer (1xx) is none.
        StatusCode::from_bytes(text.as_bytes()).ok().map(|status| status.as_u16()).filter(|it| (200..600).contains(it))
    };
    let range = status(first).zip(status(last)).filter(|(first, last)| first <= last);
    if range.is_none() {
        let message = format!("`{shown}` is neither a status nor a range of them");
        report.tell(&text.span(), message, "write \"204\" or \"200-399\", from 200 to 599");
    }
    range.map(|(first, last)| first..=last)
}

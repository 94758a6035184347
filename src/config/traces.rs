//! Traces: whose are continued, how many are recorded, and where the recorded ones go.

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Uri};
use toml::Spanned;

use super::given::Given;
use super::raw::RawTracing;
use super::snapshot::Tracing;
use super::upstreams::{files, has_sound_port};
use super::values::{RawSecret, count, duration, secs};
use crate::contract::source::Report;
use crate::rules::trace::Ratio;
use crate::upstream::hygiene::frames;
use crate::upstream::{Address, Server, Settings};

/// The share of traces that is recorded where nothing is said.
const SHARE: f64 = 0.01;
/// Where collectors take spans, below their address (OTLP 1, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";
const WRITE: &str = "write `http://host:4318` or `https://host:4318`";

/// Where recorded requests are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The collector.
    pub server: Settings,
    /// It is spoken to by TLS.
    pub secured: bool,
    /// What it is asked for.
    pub host: HeaderValue,
    /// Where it takes spans.
    pub path: PathAndQuery,
    /// What it is shown besides; may be secret.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What is true of every span.
    pub resource: Vec<(String, String)>,
    /// How many requests may wait.
    pub queue: usize,
    /// How long one waits for a batch to fill.
    pub every: Duration,
}

/// What a reload replaces; `None`: the gateway takes no part in traces.
pub(super) fn policy(raw: Option<&Spanned<RawTracing>>, report: &mut Report<'_>) -> Option<Tracing> {
    let raw = raw?.get_ref();
    let share = raw.sample_ratio.as_ref().map_or(SHARE, |share| share.get_ref().0);
    let ratio = Ratio::new(share);
    if let (None, Some(place)) = (ratio, &raw.sample_ratio) {
        report.tell(&place.span(), format!("{share} is no share of all traces"), "choose from 0 (none) to 1 (all)");
    }
    Some(Tracing { trust: raw.trust.unwrap_or_default(), ratio: ratio? })
}

/// What the process is started with; `None`: nothing is sent anywhere.
pub(super) fn collector(raw: &RawTracing, given: &Given, report: &mut Report<'_>) -> Option<Collector> {
    let headers = headers(raw, given, report);
    let resource = resource(raw, report);
    let queue = count(&raw.max_queue, 2048, 1..=1_000_000, report);
    let every = duration(&raw.batch_delay, secs(1), Duration::from_millis(10)..=secs(60), report);
    let timeout = duration(&raw.timeout, secs(10), Duration::from_millis(100)..=secs(60), report);
    let Some(text) = &raw.endpoint else {
        let first = raw.headers.keys().next().map(Spanned::span);
        let token = raw.token.as_ref().map(Spanned::span).or(raw.token_file.as_ref().map(Spanned::span));
        if let Some(place) = first.or(token).or(raw.tls.as_ref().map(Spanned::span)) {
            report.tell(&place, "there is no `endpoint` to show this to", "add endpoint = \"http://127.0.0.1:4318\"");
        }
        return None;
    };
    let mut wrong = |message: &str, remedy: &str| {
        report.tell(&text.span(), message, remedy);
        None
    };
    let shown = text.get_ref();
    let Some(uri) = shown.parse::<Uri>().ok().filter(|uri| uri.authority().is_some()) else {
        // Not shown: whatever it is, it may hold a token.
        return wrong("this is not a collector's URL", WRITE);
    };
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return wrong("a collector's URL begins with `http://` or `https://`", WRITE);
    };
    if authority.as_str().contains('@') || uri.query().is_some() {
        // Not shown: it holds a password, or a token.
        let remedy = "leave out what stands before the `@` or behind the `?`: headers = { authorization = \"…\" }";
        return wrong("a collector's URL holds no credentials", remedy);
    }
    if !has_sound_port(&uri) {
        return wrong(
            "the collector's URL has no port that there is",
            "write one from 1 to 65535, or leave out the `:`",
        );
    }
    let secured = scheme == "https";
    if let Some(tls) = raw.tls.as_ref().filter(|_| !secured) {
        report.tell(&tls.span(), "the endpoint is not https://", "write an https:// endpoint, or remove `tls`");
    }
    let base = Uri::builder().scheme(scheme).authority(authority.clone()).path_and_query("/").build().ok()?;
    let host = HeaderValue::from_str(authority.as_str()).ok()?;
    let path = uri.path_and_query().filter(|path| path.as_str() != "/").cloned();
    let server = Settings {
        tls: raw.tls.as_ref().filter(|_| secured).map(|tls| files(tls, true, given, report)),
        timeout: Some(timeout),
        ..Settings::new("traces", vec![Server::new(Address::Url(base))])
    };
    let path = path.unwrap_or(PathAndQuery::from_static(PATH));
    Some(Collector { server, secured, host, path, headers, resource, queue, every })
}

/// What the collector is shown: all of it is treated as secret.
fn headers(raw: &RawTracing, given: &Given, report: &mut Report<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for (name, secret) in &raw.headers {
        let header = HeaderName::try_from(name.get_ref().as_str()).ok();
        let Some(header) =
            header.filter(|name| !frames(name.as_str()) && ![HOST, CONTENT_TYPE, CONTENT_LENGTH].contains(name))
        else {
            let message = format!("`{}` cannot be set here", name.get_ref());
            report.tell(&name.span(), message, "write the name of a header that frames nothing: `x-api-key`");
            continue;
        };
        match HeaderValue::from_str(secret.get_ref().expose()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.push((header, value));
            }
            // Not shown.
            Err(_) => {
                report.tell(&secret.span(), "this cannot be the header's value", "write one line of visible ASCII");
            }
        }
    }
    let token = RawSecret {
        name: "token",
        inline: &raw.token,
        file: &raw.token_file,
        generate: None,
        least: None,
        by_hand: false,
    };
    if let Ok(Some((token, place))) = token.read(given, report) {
        if headers.iter().any(|(name, _)| name == AUTHORIZATION) {
            report.tell(&place, "`headers` has an `authorization` already", "keep one of them");
        }
        match HeaderValue::from_str(&format!("Bearer {}", token.expose())) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.push((AUTHORIZATION, value));
            }
            Err(_) => report.tell(&place, "this cannot stand in a header", "write one line of visible ASCII"),
        }
    }
    headers
}

/// The service's name and what else is said of it.
fn resource(raw: &RawTracing, report: &mut Report<'_>) -> Vec<(String, String)> {
    let service = raw.service.as_ref().map_or("tollgate", |service| service.get_ref());
    let mut resource = vec![
        ("service.name".to_owned(), service.to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    for (name, value) in &raw.resource {
        if name.get_ref() == "service.instance.id" || resource.iter().any(|(own, _)| own == name.get_ref()) {
            let remedy = "leave it out; the service's name is `service`";
            report.tell(&name.span(), format!("`{}` is said already", name.get_ref()), remedy);
        }
        resource.push((name.get_ref().clone(), value.get_ref().clone()));
    }
    resource
}

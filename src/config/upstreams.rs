//! A site's backends: their servers, what is spoken to them, and how long anything may take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::ServerName;
use toml::Spanned;

use super::checks;
use super::given::Given;
use super::raw::{Named, RawEjection, RawRetries, RawRoute, RawServer, RawUpstream, RawUpstreamTls, Text};
use super::values::{count, duration, rate, secs};
use crate::contract::source::{Report, suggest};
use crate::upstream::tls::Files;
use crate::upstream::{Address, Ejection, Overrides, Protocol, Retries, Server, Settings};

/// The longest that anything but a whole request may take.
const LONGEST: Duration = Duration::from_hours(24);
/// The shortest that it may be given: with no time at all, every request would be late.
const SHORTEST: Duration = Duration::from_millis(10);
const WRITE: &str = "write `http://host:port`, `https://host:port` or `unix:/path/of/socket`";

/// The backends by name; their order is the names'.
pub(super) fn upstreams(
    raw: &Named<RawUpstream>,
    given: &Given,
    report: &mut Report<'_>,
) -> BTreeMap<String, Settings> {
    raw.iter().map(|(name, raw)| (name.get_ref().clone(), upstream(name.get_ref(), raw, given, report))).collect()
}

fn upstream(name: &str, around: &Spanned<RawUpstream>, given: &Given, report: &mut Report<'_>) -> Settings {
    let raw = around.get_ref();
    let listed = raw.servers.as_ref().map_or_else(Vec::new, |servers| servers.get_ref().each(&servers.span()));
    if listed.is_empty() {
        let message = format!("the upstream `{name}` has no servers");
        report.tell(&around.span(), message, "add servers = [\"http://127.0.0.1:9000\"]");
    }
    let servers: Vec<Server> = listed.iter().filter_map(|raw| server(raw, report)).collect();
    let secured = servers.iter().any(|server| server.to_string().starts_with("https:"));
    let tls = raw.tls.as_ref().map(|tls| files(tls, secured || servers.is_empty(), given, report));
    let usual = Settings::new(name, servers);
    Settings {
        protocol: protocol(&raw.protocol, report),
        tls,
        connect_timeout: duration(&raw.connect_timeout, usual.connect_timeout, SHORTEST..=secs(300), report),
        tls_timeout: duration(&raw.tls_timeout, usual.tls_timeout, SHORTEST..=secs(300), report),
        response_timeout: duration(&raw.response_timeout, usual.response_timeout, SHORTEST..=LONGEST, report),
        idle_timeout: duration(&raw.idle_timeout, usual.idle_timeout, SHORTEST..=LONGEST, report),
        tunnel_idle_timeout: duration(&raw.tunnel_idle_timeout, usual.tunnel_idle_timeout, secs(1)..=LONGEST, report),
        timeout: time(&raw.timeout, report),
        queue_timeout: duration(&raw.queue_timeout, usual.queue_timeout, secs(0)..=secs(300), report),
        max_queue: count(&raw.max_queue, usual.max_queue, 0..=1_000_000, report),
        ejection: ejection(&raw.ejection, report),
        retries: retries(&raw.retries, report),
        health: raw.health.as_ref().map(|health| checks::check(health, &usual.servers, report)),
        max_idle: count(&raw.max_idle, usual.max_idle, 0..=100_000, report),
        max_connections: count(&raw.max_connections, usual.max_connections, 1..=1_000_000, report),
        max_streams: count(&raw.max_streams, usual.max_streams, 1..=4096, report),
        ..usual
    }
}

fn ejection(raw: &RawEjection, report: &mut Report<'_>) -> Ejection {
    let usual = Ejection::default();
    let hour = secs(3600);
    let first = duration(&raw.first, usual.first, secs(0)..=hour, report);
    Ejection {
        connects: count(&raw.connects, usual.connects, 0..=1000, report),
        failures: count(&raw.failures, usual.failures, 0..=1000, report),
        first,
        longest: duration(&raw.longest, usual.longest.max(first), first..=hour, report),
        slow_start: duration(&raw.slow_start, usual.slow_start, secs(0)..=hour, report),
        panic: count(&raw.panic, usual.panic, 0..=100, report),
    }
}

fn retries(raw: &RawRetries, report: &mut Report<'_>) -> Retries {
    let usual = Retries::default();
    Retries {
        percent: count(&raw.percent, usual.percent, 0..=100, report),
        per_second: count(&raw.per_second, usual.per_second, 0..=10_000, report),
    }
}

/// What a route says in place of its upstream's times.
pub(super) fn overrides(raw: &RawRoute, report: &mut Report<'_>) -> Overrides {
    Overrides {
        connect: time(&raw.connect_timeout, report),
        tls: time(&raw.tls_timeout, report),
        response: time(&raw.response_timeout, report),
        idle: time(&raw.idle_timeout, report),
        tunnel_idle: raw
            .tunnel_idle_timeout
            .is_some()
            .then(|| duration(&raw.tunnel_idle_timeout, secs(300), secs(1)..=LONGEST, report)),
        whole: time(&raw.timeout, report),
        deadline: None,
        body: time(&raw.body_timeout, report),
        body_rate: raw.min_body_rate.is_some().then(|| rate(&raw.min_body_rate, 0, report)),
    }
}

/// A time that need not be said.
fn time(text: &Text, report: &mut Report<'_>) -> Option<Duration> {
    text.is_some().then(|| duration(text, secs(60), SHORTEST..=LONGEST, report))
}

fn protocol(text: &Text, report: &mut Report<'_>) -> Protocol {
    let Some(text) = text else { return Protocol::Http1 };
    match text.get_ref().as_str() {
        "http1" => Protocol::Http1,
        "http2" => Protocol::Http2,
        "auto" => Protocol::Auto,
        other => {
            let remedy = suggest(other, ["http1", "http2", "auto"]);
            report.tell(&text.span(), format!("there is no protocol `{other}`"), remedy);
            Protocol::Http1
        }
    }
}

/// `http://host:port` or a socket, nothing more: the path is the request's.
fn server(raw: &Spanned<RawServer>, report: &mut Report<'_>) -> Option<Server> {
    let RawServer { url, weight } = raw.get_ref();
    let weight = count(weight, 1_u32, 1..=1000, report);
    let Some(text) = url else {
        report.tell(&raw.span(), "a server needs its `url`", "write { url = \"http://10.0.0.1:9000\", weight = 2 }");
        return None;
    };
    // A text that stands alone has the place of what is around it.
    let place = if text.span().is_empty() { raw.span() } else { text.span() };
    Some(Server::weighing(address(text.get_ref(), &place, report)?, weight))
}

fn address(shown: &str, place: &std::ops::Range<usize>, report: &mut Report<'_>) -> Option<Address> {
    let mut wrong = |message: String, remedy: &str| {
        report.tell(place, message, remedy);
        None
    };
    if let Some(path) = shown.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return wrong(format!("`{shown}` is not the whole path of a socket"), "write `unix:/run/app.sock`");
        }
        return Some(Address::Unix(PathBuf::from(path)));
    }
    let Some(uri) = shown.parse::<Uri>().ok().filter(|uri| uri.authority().is_some()) else {
        return wrong(format!("`{shown}` is not a server's URL"), WRITE);
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return wrong(format!("`{shown}` is neither http nor https"), WRITE);
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        // Not shown: it holds a password.
        return wrong("a server's URL holds no credentials".into(), "leave out what stands before the `@`");
    }
    if !has_sound_port(&uri) {
        return wrong(
            format!("`{shown}` has no port that there is"),
            "write one from 1 to 65535, or leave out the `:`",
        );
    }
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        let remedy = "leave the path out: the backend gets exactly the path that was routed";
        return wrong(format!("`{shown}` has a path"), remedy);
    }
    Some(Address::Url(uri))
}

/// Whether it has a port from 1 to 65535, or leaves it to its scheme. A number above is none to [`Uri`], in silence.
pub(super) fn has_sound_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let after_address = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    match uri.port_u16() {
        Some(port) => port > 0,
        None => !after_address.contains(':'),
    }
}

/// What TLS is made with; `secured`: some server is behind TLS.
pub(super) fn files(around: &Spanned<RawUpstreamTls>, secured: bool, given: &Given, report: &mut Report<'_>) -> Files {
    let raw = around.get_ref();
    if !secured {
        report.tell(
            &around.span(),
            "no server of this upstream is https://",
            "write https:// servers, or remove `tls`",
        );
    }
    let mut file = |text: &Text| {
        let text = text.as_ref()?;
        if let Some(reason) = given.unreadable.get(text.get_ref()) {
            let message = format!("cannot read `{}`: {reason}", text.get_ref());
            report.tell(&text.span(), message, "name a PEM file, from the directory where the gateway is started");
        }
        Some(PathBuf::from(text.get_ref()))
    };
    let (authorities, certificate, key) = (file(&raw.authorities), file(&raw.certificate), file(&raw.key));
    if certificate.is_some() != key.is_some() {
        let remedy = "give both: certificate = \"….pem\" and key = \"….pem\"";
        report.tell(&around.span(), "a certificate needs its key, and a key its certificate", remedy);
    }
    let name = raw.server_name.as_ref().and_then(|text| {
        let name = ServerName::try_from(text.get_ref().clone());
        if name.is_err() {
            let message = format!("`{}` is not a name that TLS knows", text.get_ref());
            report.tell(&text.span(), message, "write a host name or an address, without a port");
        }
        name.ok()
    });
    let only_v13 = match raw.min_version.as_ref().map(|text| (text.get_ref().as_str(), text.span())) {
        None | Some(("1.2", _)) => false,
        Some(("1.3", _)) => true,
        Some((other, place)) => {
            report.tell(&place, format!("there is no TLS version `{other}` here"), "choose \"1.2\" or \"1.3\"");
            false
        }
    };
    Files { authorities, identity: certificate.zip(key), name, only_v13 }
}

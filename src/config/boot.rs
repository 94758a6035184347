//! What the process is started with: listeners, store, limiter, caches, logs. A change needs a restart, but for what
//! [`Boot::differences`] leaves out: certificates, the operator's token, the log's level and access lines.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use toml::Spanned;

use super::given::Given;
use super::raw::{
    RawAdmin, RawCache, RawConnections, RawLimits, RawListen, RawLog, RawPasswords, RawReload, RawStore, RawTls, Text,
    Texts, each,
};
use super::traces::Collector;
use super::values::{RawSecret, Told, address, count, duration, rate, secs, size};
use crate::contract::source::Report;
use crate::model::secret::Secret;
use crate::observe::metrics::labels::Listener;
use crate::observe::{LogFormat, LogSettings, log};
use crate::rules::secret::LEAST_BYTES;
use crate::{credential, limit, mail, store, tls};

/// Settings of the process.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Where TLS is terminated.
    pub https: Vec<SocketAddr>,
    /// Where plain HTTP is spoken, if asked for.
    pub http: Vec<SocketAddr>,
    /// Those of them where every connection begins with a PROXY header.
    pub proxied: Vec<SocketAddr>,
    /// Where the operator is served.
    pub admin: Option<AdminSettings>,
    /// The certificates; there whenever `https` is.
    pub tls: Option<tls::Settings>,
    /// The database.
    pub store: store::Settings,
    /// Where windows are counted.
    pub limit: limit::Settings,
    /// Caches and the password pool.
    pub cache: credential::CacheSettings,
    /// Logs.
    pub log: LogSettings,
    /// How mails leave.
    pub mail: mail::Settings,
    /// Where recorded requests are sent.
    pub collector: Option<Collector>,
    /// Bounds of connections and heads.
    pub connections: Connections,
    /// How it stops.
    pub drain: Drain,
    /// How often the files are looked at for changes; `None`: only a signal reads them again.
    pub watch_every: Option<Duration>,
}

/// How the process stops after the signal to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long it goes on accepting while `/readyz` says no already: what a load balancer takes to notice.
    pub delay: Duration,
    /// How long requests may finish after that.
    pub timeout: Duration,
}

/// The operator's listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Its address.
    pub addr: SocketAddr,
    /// What the operator API asks for; without one only metrics and health are served.
    pub token: Option<Secret>,
    /// The file that it was read from, to be named where it does not fit.
    pub token_file: Option<String>,
}

/// Bounds of what clients may hold open and send ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Threads that serve them.
    pub workers: NonZeroUsize,
    /// Open connections at most, of all listeners.
    pub max: usize,
    /// Open connections at most from one address (IPv6: from one /64), trusted proxies aside; 0: as many as there are.
    pub max_per_address: usize,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Time from the first byte of a head to its last; a new connection has as long for its first head.
    pub header_timeout: Duration,
    /// Time without a byte of a request's body.
    pub body_timeout: Duration,
    /// What a forwarded body must bring of the time for which it is waited for, in bytes a second; 0: nothing.
    pub min_body_rate: u64,
    /// Time in which a client takes no byte of what waits for it.
    pub send_timeout: Duration,
    /// Time a connection without a request is kept.
    pub idle_timeout: Duration,
    /// The longest head, in bytes.
    pub max_header_size: usize,
    /// The most header fields.
    pub max_headers: usize,
    /// HTTP/2 streams open at once on a connection.
    pub max_streams: u32,
    /// Agents' connections at most whose first message is still to come or to be checked.
    pub max_waiting_agents: usize,
    /// The same from one client address.
    pub max_waiting_agents_per_address: usize,
}

impl Boot {
    /// Whether a listener bound to `bound` is for proxies that speak the PROXY protocol only. A `fixed` one stands in
    /// place of the configured addresses: it is where all of those are.
    pub fn proxies_only(&self, scheme: Listener, fixed: bool, bound: SocketAddr) -> bool {
        let configured = if scheme == Listener::Https { &self.https } else { &self.http };
        if fixed {
            return !configured.is_empty() && configured.iter().all(|at| self.proxied.contains(at));
        }
        // Port 0 left the choice to the system, and it has chosen.
        let is_there = |at: &&SocketAddr| at.ip() == bound.ip() && [0, bound.port()].contains(&at.port());
        configured.iter().filter(is_there).any(|at| self.proxied.contains(at))
    }

    /// What differs in `next` and cannot be applied by a reload, by section.
    pub fn differences(&self, next: &Self) -> Vec<&'static str> {
        let admin = |it: &Self| it.admin.as_ref().map(|admin| admin.addr);
        let listen = |it: &Self| (it.https.clone(), it.http.clone(), it.proxied.clone(), admin(it));
        let log = |it: &LogSettings| (it.format, it.audit_file.clone());
        let database = |it: &store::Settings| (it.url.clone(), it.max_connections, it.acquire_timeout);
        let redis = |it: &limit::Settings| match &it.backend {
            limit::Backend::Memory => (None, it.max_subjects),
            limit::Backend::Redis { url, timeout, on_failure } => {
                (Some((url.clone(), *timeout, *on_failure)), it.max_subjects)
            }
        };
        let cache = |it: &credential::CacheSettings| {
            (it.tokens, it.facts, it.max_stale, it.password_workers, it.password_queue)
        };
        [
            ("[listen]", listen(self) != listen(next)),
            ("[store]", database(&self.store) != database(&next.store)),
            ("[limits]", redis(&self.limit) != redis(&next.limit)),
            ("[cache] or [passwords]", cache(&self.cache) != cache(&next.cache)),
            ("[log] format or audit_file", log(&self.log) != log(&next.log)),
            ("[mail]", self.mail != next.mail),
            ("[tracing] endpoint and what is sent there", self.collector != next.collector),
            ("[connections]", (&self.connections, self.drain) != (&next.connections, next.drain)),
            ("[reload]", self.watch_every != next.watch_every),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// Where clients come in; two listeners never share an address.
pub(super) fn listeners(raw: &RawListen, report: &mut Report<'_>) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let mut taken: Vec<SocketAddr> = raw.admin.iter().filter_map(|text| text.get_ref().parse().ok()).collect();
    let mut listen = |texts: &Texts| {
        let mut addresses = Vec::new();
        for text in each(texts) {
            let Some(addr) = address(&text, report) else { continue };
            // Port 0 asks the system for a free one, so it is never the same twice.
            if addr.port() != 0 && taken.contains(&addr) {
                let message = format!("`{addr}` is taken by another listener of this file");
                report.tell(&text.span(), message, "give each listener a port of its own");
            }
            taken.push(addr);
            addresses.push(addr);
        }
        addresses
    };
    (listen(&raw.https), listen(&raw.http))
}

/// Which of the listeners are for proxies that speak the PROXY protocol; `trusted`: whether any proxy is trusted.
pub(super) fn proxied(
    raw: &RawListen,
    (https, http): (&[SocketAddr], &[SocketAddr]),
    trusted: bool,
    report: &mut Report<'_>,
) -> Vec<SocketAddr> {
    let mut proxied = Vec::new();
    for text in each(&raw.proxy_protocol) {
        let Some(addr) = address(&text, report) else { continue };
        if !https.contains(&addr) && !http.contains(&addr) {
            let remedy = "write the address as it stands in https or http";
            report.tell(&text.span(), format!("no client listener is at `{addr}`"), remedy);
        } else if !trusted {
            let message = format!("only trusted proxies may come in at `{addr}`, and there is none");
            report.tell(&text.span(), message, "add [network] with trusted_proxies = [\"10.0.0.0/8\"]");
        }
        proxied.push(addr);
    }
    proxied
}

/// What the operator API asks for.
pub(super) fn token(raw: &RawAdmin, given: &Given, report: &mut Report<'_>) -> Result<Option<Secret>, Told> {
    let secret = RawSecret {
        name: "token",
        inline: &raw.token,
        file: &raw.token_file,
        generate: raw.generate.as_ref(),
        least: Some(LEAST_BYTES),
        by_hand: false,
    };
    let Some((token, span)) = secret.read(given, report)? else { return Ok(None) };
    if HeaderValue::from_str(token.expose()).is_err() {
        // Nobody could ever show it.
        let message = "the token cannot stand in a header: it has a second line, or is not ASCII text";
        report.tell(&span, message, "keep one line in it, as `tollgate secrets new` prints it");
        return Err(Told);
    }
    Ok(Some(token))
}

/// The operator's listener: beyond this machine only with a token.
pub(super) fn admin(
    listen: &Text,
    token: Result<Option<Secret>, Told>,
    raw: &RawAdmin,
    report: &mut Report<'_>,
) -> Option<AdminSettings> {
    let text = listen.as_ref()?;
    let addr = address(text, report)?;
    if token == Ok(None) && !addr.ip().to_canonical().is_loopback() {
        let message = format!("`{addr}` lets the whole network in: the operator's listener has no token there");
        let remedy = "listen on 127.0.0.1, or add [admin] with token_file = \"data/secrets/admin\", generate = true";
        report.tell(&text.span(), message, remedy);
    }
    let token_file = raw.token_file.as_ref().map(|file| file.get_ref().clone());
    Some(AdminSettings { addr, token: token.ok().flatten(), token_file })
}

/// The certificates of https.
pub(super) fn tls(
    raw: &Spanned<RawTls>,
    hosts: &[String],
    given: &Given,
    report: &mut Report<'_>,
) -> Option<tls::Settings> {
    let around = raw.span();
    let raw = raw.get_ref();
    let development = raw.development.as_ref().filter(|development| *development.get_ref());
    match (development, raw.certificate.as_slice()) {
        (Some(_), []) => {
            let mut names: Vec<String> = hosts
                .iter()
                .filter(|host| *host != "*")
                .map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned())
                .collect();
            names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
            names.sort();
            names.dedup();
            let directory = raw.directory.as_ref().map_or("certs", |directory| directory.get_ref());
            Some(tls::Settings::Development { directory: PathBuf::from(directory), names })
        }
        (Some(development), _) => {
            report.tell(&development.span(), "development certificates beside real ones", "keep one of them");
            None
        }
        (None, []) => {
            let remedy = "add [[tls.certificate]] with certificate = \"….pem\" and key = \"….pem\", or development = true to try it";
            report.tell(&around, "there is no certificate", remedy);
            None
        }
        (None, list) => Some(tls::Settings::Files(
            list.iter()
                .filter_map(|raw| {
                    let certificate = pem(&raw.get_ref().certificate, "certificate", &raw.span(), given, report);
                    let key = pem(&raw.get_ref().key, "key", &raw.span(), given, report);
                    Some(tls::CertificateFiles { certificate: certificate?, key: key? })
                })
                .collect(),
        )),
    }
}

fn pem(
    text: &Text,
    name: &str,
    around: &std::ops::Range<usize>,
    given: &Given,
    report: &mut Report<'_>,
) -> Option<PathBuf> {
    let Some(text) = text else {
        report.tell(around, format!("`{name}` is missing"), format!("add {name} = \"….pem\""));
        return None;
    };
    if let Some(reason) = given.unreadable.get(text.get_ref()) {
        let message = format!("cannot read `{}`: {reason}", text.get_ref());
        report.tell(&text.span(), message, "name a PEM file that this user can read");
    }
    Some(PathBuf::from(text.get_ref()))
}

/// The database; a file in `data/` where nothing is said.
pub(super) fn store(raw: &RawStore, given: &Given, report: &mut Report<'_>) -> store::Settings {
    let secret =
        RawSecret { name: "url", inline: &raw.url, file: &raw.url_file, generate: None, least: None, by_hand: false };
    let mut url = Secret::new("sqlite://data/tollgate.db".into());
    if let Ok(Some((found, span))) = secret.read(given, report) {
        let known = ["sqlite://", "postgres://", "postgresql://"];
        if !known.iter().any(|scheme| found.expose().starts_with(scheme)) {
            // Not shown: it may hold a password.
            let remedy = "write `sqlite://data/tollgate.db` or `postgres://user:password@host/database`";
            report.tell(&span, "this is not a database URL", remedy);
        }
        url = found;
    }
    store::Settings {
        url,
        max_connections: count(&raw.max_connections, 10, 1..=1000, report),
        acquire_timeout: duration(&raw.acquire_timeout, secs(5), Duration::from_millis(10)..=secs(60), report),
    }
}

/// Where windows are counted: in this process, or in Redis when its URL is given.
pub(super) fn limit(raw: &RawLimits, given: &Given, report: &mut Report<'_>) -> limit::Settings {
    let secret = RawSecret {
        name: "redis_url",
        inline: &raw.redis_url,
        file: &raw.redis_url_file,
        generate: None,
        least: None,
        by_hand: false,
    };
    let timeout = duration(&raw.redis_timeout, Duration::from_millis(100), Duration::from_millis(1)..=secs(10), report);
    let backend = match secret.read(given, report) {
        Ok(Some((url, span))) => {
            if !["redis://", "rediss://"].iter().any(|scheme| url.expose().starts_with(scheme)) {
                let remedy = "write `redis://host:6379` or `rediss://user:password@host:6379`";
                report.tell(&span, "this is not a Redis URL", remedy);
            }
            let on_failure = raw.on_failure.unwrap_or(limit::OnFailure::Local);
            limit::Backend::Redis { url, timeout, on_failure }
        }
        _ => limit::Backend::Memory,
    };
    limit::Settings { backend, max_subjects: count(&raw.max_subjects, 200_000, 1000..=100_000_000, report) }
}

/// Caches, beside the pool of [`passwords`].
pub(super) fn cache(raw: &RawCache, pool: (usize, usize), report: &mut Report<'_>) -> credential::CacheSettings {
    credential::CacheSettings {
        tokens: count(&raw.tokens, 100_000, 100..=100_000_000, report),
        facts: count(&raw.facts, 50_000, 100..=100_000_000, report),
        max_stale: duration(&raw.max_stale, secs(600), secs(0)..=secs(86_400), report),
        password_workers: pool.0,
        password_queue: pool.1,
    }
}

/// Workers and queue of the pool that hashes passwords: half of the machine, so that traffic keeps the other.
pub(super) fn passwords(raw: &RawPasswords, given: &Given, report: &mut Report<'_>) -> (usize, usize) {
    let workers = count(&raw.workers, (given.cores / 2).max(1), 1..=1024, report);
    (workers, count(&raw.queue, 64, 0..=100_000, report))
}

/// Logs.
pub(super) fn log(raw: &RawLog, report: &mut Report<'_>) -> LogSettings {
    if let Some(level) = raw.level.as_ref().filter(|level| log::check_level(level.get_ref()).is_err()) {
        let remedy = "write `error`, `warn`, `info`, `debug` or `trace`, or such as `info,tollgate::edge=debug`";
        report.tell(&level.span(), format!("`{}` is no level and no filter", level.get_ref()), remedy);
    }
    LogSettings {
        level: raw.level.as_ref().map_or("info", |level| level.get_ref()).to_owned(),
        format: raw.format.unwrap_or(LogFormat::Json),
        access: raw.access.unwrap_or(true),
        audit_file: raw.audit_file.as_ref().map(|file| PathBuf::from(file.get_ref())),
    }
}

/// How often files are looked at for changes.
pub(super) fn reload(raw: &RawReload, report: &mut Report<'_>) -> Option<Duration> {
    let every = duration(&raw.every, secs(2), Duration::from_millis(100)..=secs(3600), report);
    raw.watch.unwrap_or(true).then_some(every)
}

/// Threads for connections at most.
const MOST_WORKERS: u64 = 256;

/// Bounds of connections, and how long they may finish.
pub(super) fn connections(raw: &RawConnections, given: &Given, report: &mut Report<'_>) -> (Connections, Drain) {
    let short = Duration::from_millis(100)..=secs(300);
    let header_size = size(&raw.max_header_size, 64 << 10, report);
    let max_header_size = usize::try_from(header_size).ok().filter(|size| (8 << 10..=1 << 20).contains(size));
    if let (None, Some(text)) = (max_header_size, &raw.max_header_size) {
        report.tell(&text.span(), format!("`{}` is out of range", text.get_ref()), "choose from `8KiB` to `1MiB`");
    }
    let workers = count(&raw.workers, given.cores.clamp(1, 256), 1..=MOST_WORKERS, report);
    let connections = Connections {
        workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
        max: count(&raw.max, 20_000, 1..=10_000_000, report),
        max_per_address: count(&raw.max_per_address, 2000, 0..=10_000_000, report),
        handshake_timeout: duration(&raw.handshake_timeout, secs(10), short.clone(), report),
        header_timeout: duration(&raw.header_timeout, secs(10), short.clone(), report),
        body_timeout: duration(&raw.body_timeout, secs(30), short.clone(), report),
        min_body_rate: rate(&raw.min_body_rate, 500, report),
        send_timeout: duration(&raw.send_timeout, secs(60), short, report),
        idle_timeout: duration(&raw.idle_timeout, secs(75), secs(1)..=secs(3600), report),
        max_header_size: max_header_size.unwrap_or(64 << 10),
        max_headers: count(&raw.max_headers, 100, 16..=1000, report),
        max_streams: count(&raw.max_streams, 128, 1..=10_000, report),
        max_waiting_agents: count(&raw.max_waiting_agents, 1000, 1..=1_000_000, report),
        max_waiting_agents_per_address: count(&raw.max_waiting_agents_per_address, 20, 1..=1_000_000, report),
    };
    let drain = Drain {
        delay: duration(&raw.drain_delay, secs(0), secs(0)..=secs(600), report),
        timeout: duration(&raw.drain_timeout, secs(30), secs(0)..=secs(3600), report),
    };
    (connections, drain)
}

//! Files as written to what the gateway runs on, or everything that is wrong with them.
//!
//! Pure: everything was read before. Sections of the process may stand in any one file, sites in all of
//! them; what must differ between sites (names, realms, hosts) is judged across files.

use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;

use super::boot::{self, Boot};
use super::given::Given;
use super::mail;
use super::raw::{
    RawAdmin, RawCache, RawClientCertificates, RawConnections, RawFile, RawLimits, RawListen, RawLog, RawPasswords,
    RawReload, RawStore, RawTls, Texts, each,
};
use super::site::{self, Names};
use super::snapshot::{Hosts, Site, Snapshot, Tracing};
use super::traces;
use crate::contract::source::{Located, Report, Source, locate};
use crate::mail::{Settings, Transport};
use crate::model::secret::Secret;
use crate::rules::network::ProxyHeader;

/// One file, read.
#[derive(Debug)]
pub(super) struct Page {
    pub source: Source,
    pub raw: RawFile,
}

/// What the files say, and what is worth a word though nothing is wrong.
#[derive(Debug)]
pub(super) struct Compiled {
    pub boot: Boot,
    pub snapshot: Snapshot,
    pub warnings: Vec<Located>,
}

/// Compiles all files; the first is the one that was named at the start.
pub(super) fn compile(pages: &[Page], given: &Given) -> Result<Compiled, Vec<Located>> {
    let mut reports: Vec<Report<'_>> = pages.iter().map(|page| Report::new(&page.source)).collect();
    let mut of_contracts = Vec::new();
    let (at, raw) = section(pages, "mail", |raw| raw.mail.as_ref(), &mut reports);
    let mail = mail::process(raw, given, &mut reports[at]);
    let (sites, hosts) = sites(pages, given, &mail, &mut reports, &mut of_contracts);
    let names: Vec<String> =
        sites.iter().flat_map(|(names, _)| &names.hosts).map(|host| host.get_ref().clone()).collect();
    let Process { boot, trusted_proxies, proxy_header, tracing } = process(pages, &names, given, mail, &mut reports);
    let mut errors: Vec<Located> = reports
        .into_iter()
        .flat_map(|mut report| {
            report.errors.sort_by_key(|error| (error.line, error.column));
            report.errors
        })
        .collect();
    errors.extend(of_contracts);
    if !errors.is_empty() {
        return Err(errors);
    }
    let sites: Vec<_> = sites.into_iter().filter_map(|(_, site)| Some(Arc::new(site?))).collect();
    let warnings = warnings(pages, &boot, &sites);
    Ok(Compiled {
        boot,
        snapshot: Snapshot { generation: given.generation, sites, hosts, trusted_proxies, proxy_header, tracing },
        warnings,
    })
}

type Sites = Vec<(Names, Option<Site>)>;

/// The sites of all files, with what must differ between them.
fn sites(
    pages: &[Page],
    given: &Given,
    mail: &Settings,
    reports: &mut [Report<'_>],
    of_contracts: &mut Vec<Located>,
) -> (Sites, Hosts) {
    let leaves = !matches!(mail.transport, Transport::Off);
    let mut sites: Sites = Vec::new();
    let mut hosts = Hosts::default();
    // Where each site's names stand, for whoever takes them a second time.
    let mut places: Vec<String> = Vec::new();
    for (page, report) in pages.iter().zip(reports.iter_mut()) {
        for raw in &page.raw.site {
            let names = site::names(raw, report);
            let place = |span: &std::ops::Range<usize>| match locate(&page.source, span) {
                (0, _) => page.source.name.clone(),
                (line, _) => format!("{}:{line}", page.source.name),
            };
            let around = raw.span();
            let name_at = raw.get_ref().name.as_ref().map_or_else(|| around.clone(), Spanned::span);
            let realm_at = raw.get_ref().realm.as_ref().map_or_else(|| name_at.clone(), Spanned::span);
            if let Some(at) = sites.iter().position(|(other, _)| other.name == names.name) {
                let message = format!("the site of {} is called `{}` too", places[at], names.name);
                report.tell(&name_at, message, "give each site a name of its own: name = \"…\"");
            } else if let Some(at) = sites.iter().position(|(other, _)| other.realm == names.realm) {
                let message = format!("the site of {} has the accounts of realm `{}`", places[at], names.realm);
                report.tell(&realm_at, message, "sites never share accounts: give each a realm of its own");
            }
            let index = sites.len();
            for host in &names.hosts {
                if let Some(other) = hosts.insert(host.get_ref(), index) {
                    let whose =
                        if other == index { "this site".into() } else { format!("the site of {}", places[other]) };
                    let message = format!("the host `{}` belongs to {whose} already", host.get_ref());
                    report.tell(&host.span(), message, "name each host once");
                }
            }
            let site = site::compile(index, &names, raw, given, leaves, report, of_contracts);
            places.push(place(&around));
            if let Some((what, other)) = site.as_ref().and_then(|site| shared(site, &sites)) {
                let whose = if other == index { "this site".into() } else { format!("the site of {}", places[other]) };
                let message = format!("its {what} is a secret of {whose} already");
                report.tell(
                    &around,
                    message,
                    "a secret serves one purpose of one site: make another with `tollgate secrets new`",
                );
            }
            sites.push((names, site));
        }
    }
    if sites.is_empty()
        && let Some(report) = reports.first_mut()
    {
        let remedy = "add [[site]] with contract, hosts, [site.tokens], [site.upstream.…] and [[site.route]]";
        report.errors.push(report.source.error_at(&(0..0), "site", "there is no site", remedy));
    }
    (sites, hosts)
}

/// The first secret of `site` that it shares with one of `others` or uses twice itself: whoever holds it
/// for one purpose could speak for the other.
fn shared(site: &Site, others: &Sites) -> Option<(String, usize)> {
    let secrets = |site: &Site| -> Vec<(String, Secret)> {
        let credential = &site.credential;
        let keys = credential.keys.iter().map(|key| (format!("token key `{}`", key.kid), key.material.clone()));
        let pepper = Some(("pepper".to_owned(), credential.pepper.clone()));
        keys.chain(pepper.filter(|(_, pepper)| !pepper.expose().is_empty())).collect()
    };
    let own = secrets(site);
    let before = others.iter().filter_map(|(_, other)| other.as_ref());
    let mut taken: Vec<(Secret, usize)> =
        before.flat_map(|other| secrets(other).into_iter().map(|(_, secret)| (secret, other.index))).collect();
    for (what, secret) in own {
        if let Some((_, whose)) = taken.iter().find(|(other, _)| *other == secret) {
            return Some((what, *whose));
        }
        taken.push((secret, site.index));
    }
    None
}

/// What the process's sections say.
struct Process {
    boot: Boot,
    trusted_proxies: Vec<IpNet>,
    proxy_header: ProxyHeader,
    tracing: Option<Tracing>,
}

/// The process's sections, each from the one file that has it.
fn process(pages: &[Page], hosts: &[String], given: &Given, mail: Settings, reports: &mut [Report<'_>]) -> Process {
    let (of_listen, listen) = section(pages, "listen", |raw| raw.listen.as_ref(), reports);
    let empty = RawListen::default();
    let raw = listen.map_or(&empty, Spanned::get_ref);
    let (https, http) = boot::listeners(raw, &mut reports[of_listen]);
    if each(&raw.https).is_empty() && each(&raw.http).is_empty() {
        let remedy = "add [listen] with https = \"0.0.0.0:8443\"";
        let span = listen.map_or(0..0, Spanned::span);
        let report = &mut reports[of_listen];
        report.errors.push(report.source.error_at(&span, "listen", "there is no listener for clients", remedy));
    }
    let (of_admin, admin) = section(pages, "admin", |raw| raw.admin.as_ref(), reports);
    let no_admin = RawAdmin::default();
    let of_operator = admin.map_or(&no_admin, Spanned::get_ref);
    let token = boot::token(of_operator, given, &mut reports[of_admin]);
    let admin = boot::admin(&raw.admin, token, of_operator, &mut reports[of_listen]);

    let (of_tls, tls) = section(pages, "tls", |raw| raw.tls.as_ref(), reports);
    let tls = match (tls, &raw.https) {
        (Some(tls), _) => boot::tls(tls, hosts, given, &mut reports[of_tls]),
        // To be tried at once; `warnings` says what it is worth.
        (None, Some(https)) => {
            let development = RawTls { development: Some(Spanned::new(https.span(), true)), ..RawTls::default() };
            boot::tls(&Spanned::new(https.span(), development), hosts, given, &mut reports[of_listen])
        }
        (None, None) => None,
    };

    let (at, raw) = section(pages, "store", |raw| raw.store.as_ref(), reports);
    let store = boot::store(raw.map_or(&RawStore::default(), Spanned::get_ref), given, &mut reports[at]);
    let (at, raw) = section(pages, "limits", |raw| raw.limits.as_ref(), reports);
    let limit = boot::limit(raw.map_or(&RawLimits::default(), Spanned::get_ref), given, &mut reports[at]);
    let (at, raw) = section(pages, "passwords", |raw| raw.passwords.as_ref(), reports);
    let pool = boot::passwords(raw.map_or(&RawPasswords::default(), Spanned::get_ref), given, &mut reports[at]);
    let (at, raw) = section(pages, "cache", |raw| raw.cache.as_ref(), reports);
    let cache = boot::cache(raw.map_or(&RawCache::default(), Spanned::get_ref), pool, &mut reports[at]);
    let (at, raw) = section(pages, "log", |raw| raw.log.as_ref(), reports);
    let log = boot::log(raw.map_or(&RawLog::default(), Spanned::get_ref), &mut reports[at]);
    let (at, raw) = section(pages, "connections", |raw| raw.connections.as_ref(), reports);
    let (connections, drain) =
        boot::connections(raw.map_or(&RawConnections::default(), Spanned::get_ref), given, &mut reports[at]);
    let (at, raw) = section(pages, "reload", |raw| raw.reload.as_ref(), reports);
    let watch_every = boot::reload(raw.map_or(&RawReload::default(), Spanned::get_ref), &mut reports[at]);
    let (at, raw) = section(pages, "tracing", |raw| raw.tracing.as_ref(), reports);
    let tracing = traces::policy(raw, &mut reports[at]);
    let collector = raw.and_then(|raw| traces::collector(raw.get_ref(), given, &mut reports[at]));
    let (at, raw) = section(pages, "network", |raw| raw.network.as_ref(), reports);
    let trusted = raw.map_or_else(Vec::new, |raw| networks(&raw.get_ref().trusted_proxies, &mut reports[at]));
    let some = raw.is_some_and(|raw| !each(&raw.get_ref().trusted_proxies).is_empty());
    let proxied =
        boot::proxied(listen.map_or(&empty, Spanned::get_ref), (&https, &http), some, &mut reports[of_listen]);
    let header = raw.and_then(|raw| raw.get_ref().proxy_header).unwrap_or_default();
    let boot = Boot {
        https,
        http,
        proxied,
        admin,
        tls,
        store,
        limit,
        cache,
        log,
        mail,
        collector,
        connections,
        drain,
        watch_every,
    };
    Process { boot, trusted_proxies: trusted, proxy_header: header, tracing }
}

/// The one file that has the section, and the section; the first file where none has it.
fn section<'p, T>(
    pages: &'p [Page],
    name: &str,
    pick: impl Fn(&'p RawFile) -> Option<&'p Spanned<T>>,
    reports: &mut [Report<'_>],
) -> (usize, Option<&'p Spanned<T>>) {
    let mut found: Option<(usize, &Spanned<T>)> = None;
    for (at, page) in pages.iter().enumerate() {
        let Some(raw) = pick(&page.raw) else { continue };
        if let Some((first, _)) = found {
            let message = format!("[{name}] stands in {} too", pages[first].source.name);
            reports[at].tell(&raw.span(), message, "keep one of them: sections of the process do not add up");
        } else {
            found = Some((at, raw));
        }
    }
    found.map_or((0, None), |(at, raw)| (at, Some(raw)))
}

/// Networks in CIDR notation; a bare address is a network of one.
fn networks(texts: &Texts, report: &mut Report<'_>) -> Vec<IpNet> {
    let read = |text: &Spanned<String>| {
        let text = text.get_ref();
        text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
    };
    let mut networks = Vec::new();
    for text in each(texts) {
        let shown = text.get_ref();
        match read(&text) {
            Some(network) if network.trunc() != network => {
                let remedy = format!("write `{}`, or the address alone", network.trunc());
                report.tell(&text.span(), format!("`{shown}` has bits beyond its prefix"), remedy);
            }
            Some(network) if network.prefix_len() == 0 => {
                let remedy = "name the networks of your own proxies: whoever is trusted chooses the client's address";
                report.tell(&text.span(), format!("`{shown}` trusts everyone's X-Forwarded-For"), remedy);
            }
            Some(network) => networks.push(network),
            None => {
                let remedy = "write CIDR notation: `10.0.0.0/8`, `192.168.1.7` or `fd00::/8`";
                report.tell(&text.span(), format!("`{shown}` is not a network"), remedy);
            }
        }
    }
    networks
}

/// Settings that work and may not be meant.
fn warnings(pages: &[Page], boot: &Boot, sites: &[Arc<Site>]) -> Vec<Located> {
    let mut warnings = Vec::new();
    let https = |page: &Page| Some(page.raw.listen.as_ref()?.get_ref().https.as_ref()?.span());
    if pages.iter().all(|page| page.raw.tls.is_none())
        && let Some((page, span)) = pages.iter().find_map(|page| Some((page, https(page)?)))
    {
        let message = "no certificate is configured: clients have to trust the development authority, certs/ca.pem";
        let remedy =
            "add [[tls.certificate]] with certificate and key, or [tls] with development = true if that is meant";
        warnings.push(page.source.error(&span, message, remedy));
    }
    let mut sites = sites.iter();
    for page in pages {
        let source = &page.source;
        let listen = page.raw.listen.as_ref().map(Spanned::get_ref);
        if let Some(http) = listen.and_then(|listen| listen.http.as_ref())
            && boot.http.iter().any(|addr| !addr.ip().to_canonical().is_loopback())
        {
            let message = "passwords, tokens and keys cross this listener in the clear";
            let remedy = "use https, or listen on 127.0.0.1 behind whatever terminates TLS";
            warnings.push(source.error(&http.span(), message, remedy));
        }
        if let Some(tls) = page.raw.tls.as_ref().filter(|_| boot.https.is_empty()) {
            let message = "certificates are configured, and nothing listens for https";
            warnings.push(source.error(&tls.span(), message, "add https = \"0.0.0.0:8443\" to [listen]"));
        }
        if let Some(raw) = &page.raw.mail {
            warnings.extend(mail::warnings(raw.get_ref(), &boot.mail, source));
        }
        for site in page.raw.site.iter().map(Spanned::get_ref) {
            let silent = sites.next().is_some_and(|site| site.contract.mail.is_none());
            if let Some(mail) = site.mail.as_ref().filter(|_| silent) {
                let message = "the contract sends no mails: this is not used";
                warnings.push(source.error(&mail.span(), message, "remove [site.mail]"));
            }
            let asked = site.client_certificates.as_ref();
            if let Some(asked) = asked.filter(|_| boot.https.is_empty()) {
                let message = "nobody can show a certificate: nothing listens for https";
                warnings.push(source.error(&asked.span(), message, "add https = \"0.0.0.0:8443\" to [listen]"));
            }
            let requires = |asked: &RawClientCertificates| asked.required.as_ref().is_none_or(|it| *it.get_ref());
            if let (Some(cors), true) = (&site.cors, asked.is_some_and(|asked| requires(asked.get_ref()))) {
                let message = "browsers show no certificate with a preflight: none gets as far as being answered";
                let remedy = "set client_certificates.required = false and ask for the certificate's headers at the \
                              backend, or serve the pages from this origin";
                warnings.push(source.error(&cors.span(), message, remedy));
            }
            let several = site.upstream.len() > 1;
            let named = |name: &str| {
                site.route.iter().map(Spanned::get_ref).any(|route| {
                    let split = route
                        .upstreams
                        .as_ref()
                        .is_some_and(|split| split.get_ref().keys().any(|it| it.get_ref() == name));
                    split || route.upstream.as_ref().is_some_and(|it| it.get_ref() == name)
                })
            };
            for (name, _) in site.upstream.iter().filter(|(name, _)| several && !named(name.get_ref())) {
                let message = format!("no route leads to the upstream `{}`", name.get_ref());
                warnings.push(source.error(
                    &name.span(),
                    message,
                    "add upstream = \"…\" to a [[site.route]], or remove it",
                ));
            }
        }
    }
    warnings
}

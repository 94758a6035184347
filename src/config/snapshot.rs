//! What the gateway knows: sites, routes, guards. Immutable, built whole by `compile`, swapped at a reload.
//!
//! It holds no memory (counters, caches, connections): those belong to the gateway and outlive it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, Method};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::cors::Cors;
use super::router::{Find, Router, is_under};
use crate::contract::pattern::Pattern;
use crate::contract::{Contract, Guard, Requirement};
use crate::mail::Brand;
use crate::model::window::Window;
use crate::rules::network::ProxyHeader;
use crate::rules::rewrite::Rewrite;
use crate::rules::split::Split;
use crate::rules::trace::{Ratio, Trust};
use crate::tls::clients::Policy;
use crate::upstream::changes::Changes;
use crate::upstream::hygiene::OddNames;
use crate::{credential, upstream};

/// Everything that a reload replaces.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts reloads; part of what a cached verdict depends on.
    pub generation: u64,
    /// The sites, by index.
    pub sites: Vec<Arc<Site>>,
    /// Which site answers for which host.
    pub hosts: Hosts,
    /// Peers that are believed when they say who their client is.
    pub trusted_proxies: Vec<IpNet>,
    /// By which header they do.
    pub proxy_header: ProxyHeader,
    /// How it takes part in traces; `None`: not at all.
    pub tracing: Option<Tracing>,
}

/// How the gateway takes part in traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// Whose traces are continued.
    pub trust: Trust,
    /// How many are recorded of those that begin here.
    pub ratio: Ratio,
}

/// Hosts to sites.
#[derive(Debug, Default)]
pub struct Hosts {
    exact: HashMap<Box<str>, usize>,
    /// `*.example.com` as `example.com`: one label in front, as in a certificate.
    wildcard: HashMap<Box<str>, usize>,
    default: Option<usize>,
}

/// One product at its hosts, with accounts, keys and backends of its own.
#[derive(Debug)]
pub struct Site {
    /// Its place in the snapshot.
    pub index: usize,
    /// Its name in metrics and logs.
    pub name: String,
    /// The realm of its accounts.
    pub realm: Arc<str>,
    /// Its hosts as configured, in lower case.
    pub hosts: Vec<String>,
    /// The product's wire, with this site's plans and lifetimes.
    pub contract: Arc<Contract>,
    /// Its token keys and pepper.
    pub credential: Arc<credential::Settings>,
    /// Where the pepper is from.
    pub pepper_from: PepperFrom,
    /// Paths of the contract's operations: indices into `contract.operations`.
    pub native: Router,
    /// Indices into `guards`; ask each by [`Router::find_any_spelling`]: the site's, the contract's, then those of both
    /// that are only tried.
    pub guard_paths: Vec<Router>,
    /// What guards ask.
    pub guards: Vec<Guard>,
    /// Indices into `routes`.
    pub route_paths: Router,
    /// What is forwarded.
    pub routes: Vec<Route>,
    /// Its backends.
    pub upstreams: Vec<Arc<upstream::Settings>>,
    /// Its limits beside those of the plans.
    pub limits: SiteLimits,
    /// Which other origins' pages may ask; `None`: browsers are told nothing.
    pub cors: Option<Cors>,
    /// What is asked of its clients' certificates; `None`: nothing.
    pub client_certificates: Option<Arc<Policy>>,
    /// The headers that tell backends who calls.
    pub identity: IdentityNames,
    /// What becomes of headers whose names a backend could take for others.
    pub odd_names: OddNames,
    /// The longest body that a native operation reads, in bytes.
    pub max_body: u64,
    /// How its mails look; there whenever its contract sends any.
    pub mail: Option<Brand>,
}

/// Where a site's pepper is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PepperFrom {
    /// Drawn at each start, for a product that keeps nothing under it.
    Nowhere,
    /// The configuration itself, or the environment.
    Configuration,
    /// A file.
    File(PathBuf),
}

/// Requests that are forwarded.
#[expect(clippy::struct_excessive_bools, reason = "switches of one route, each told apart by its name in the file")]
#[derive(Debug)]
pub struct Route {
    /// The pattern as written: its name in metrics and logs.
    pub name: Arc<str>,
    /// Which requests.
    pub on: Pattern,
    /// What is asked of the caller, beside the guards.
    pub requires: Requirement,
    /// What is asked is only tried: what it would refuse is counted and logged, and passes.
    pub shadow: bool,
    /// Passes without a credential.
    pub public: bool,
    /// Indices into the site's upstreams, by weight.
    pub split: Split,
    /// What the backend's path is made of.
    pub rewrite: Rewrite,
    /// What is changed in the request's headers, beside what the gateway always does.
    pub request_headers: Changes,
    /// What is changed in the headers of the backend's answer.
    pub response_headers: Changes,
    /// Windows of each organization on this route, beside the plan's.
    pub windows: Vec<Window>,
    /// How many units a request costs, of every window.
    pub cost: u32,
    /// Its backend keeps `%2F` within a segment: such paths pass, as they are.
    pub encoded_slash: bool,
    /// The backend sees the client's credential.
    pub forward_credential: bool,
    /// The backend gets a signed assertion of who calls.
    pub assertion: bool,
    /// The longest request body, in bytes.
    pub max_body: u64,
    /// Times in place of the upstream's.
    pub overrides: upstream::Overrides,
}

/// Limits of a site that do not depend on a plan. An empty list: no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteLimits {
    /// Native operations (sign-in, register …), by client address.
    pub address_native: Vec<Window>,
    /// Failed sign-ins, by account.
    pub failed_sign_in: Vec<Window>,
    /// Requests, by API key.
    pub per_key: Vec<Window>,
    /// Requests of any kind, by client address.
    pub per_address: Vec<Window>,
    /// Credentials that did not verify, by client address.
    pub failed_credentials: Vec<Window>,
}

/// Names of the identity headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityNames {
    /// The user's id.
    pub user_id: HeaderName,
    /// The user's address.
    pub user_email: HeaderName,
    /// The organization's id.
    pub org_id: HeaderName,
    /// The user's role.
    pub user_role: HeaderName,
    /// The organization's plan.
    pub plan: HeaderName,
    /// The permissions in force.
    pub permissions: HeaderName,
    /// How the caller proved who they are.
    pub auth_method: HeaderName,
    /// The API key's id.
    pub key_id: HeaderName,
    /// The session's id.
    pub session_id: HeaderName,
    /// The server that the API key is bound to.
    pub server_id: HeaderName,
    /// The signed assertion.
    pub assertion: HeaderName,
    /// The subject of the client's certificate.
    pub certificate_subject: HeaderName,
    /// Its fingerprint.
    pub certificate_fingerprint: HeaderName,
    /// Its alternative names.
    pub certificate_names: HeaderName,
}

impl Snapshot {
    /// The site for a `Host` or `:authority` value: a port, the case and a last dot do not matter.
    pub fn site(&self, host: &str) -> Option<&Arc<Site>> {
        self.sites.get(self.hosts.find(host)?)
    }
}

impl Hosts {
    /// Gives `host` (`name`, `*.name` or `*`, in lower case) to `site`; the site that has it already, if one has.
    pub fn insert(&mut self, host: &str, site: usize) -> Option<usize> {
        if host == "*" {
            let before = self.default;
            self.default = before.or(Some(site));
            return before;
        }
        let (map, name) = match host.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcard, parent),
            None => (&mut self.exact, host),
        };
        let before = map.get(name).copied();
        map.entry(name.into()).or_insert(site);
        before
    }

    /// The site's index for a `Host` value.
    pub fn find(&self, host: &str) -> Option<usize> {
        let name = without_port(host)?;
        let name = name.strip_suffix('.').unwrap_or(name);
        // A name has at most 253 bytes (RFC 1035 section 3.1), so longer is nobody's.
        if name.is_empty() || name.len() > 256 {
            return None;
        }
        // Lower-cased where it has to be, and on the stack.
        let mut lower: SmallVec<[u8; 256]> = SmallVec::new();
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower.extend_from_slice(name.as_bytes());
            lower.make_ascii_lowercase();
            std::str::from_utf8(&lower).ok()?
        } else {
            name
        };
        let parent = || self.wildcard.get(name.split_once('.').filter(|(label, _)| !label.is_empty())?.1);
        self.exact.get(name).or_else(parent).copied().or(self.default)
    }
}

/// Where the public keys are, on every site.
pub const KEY_SET: &str = "/.well-known/jwks.json";

/// The host without its port; `None` where the value is no host and port.
fn without_port(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(end);
    let is_port = port.is_empty() || port.strip_prefix(':')?.bytes().all(|byte| byte.is_ascii_digit());
    is_port.then_some(name)
}

impl Site {
    /// Whether `path` belongs to native operations or is where the public keys are: nothing at or below it is ever
    /// forwarded.
    pub fn is_native(&self, path: &str) -> bool {
        is_under(self.contract.native_prefixes.iter().map(String::as_str).chain([KEY_SET]), path)
    }

    /// The route that this path is another spelling of (case, last slash), when that is not the route it
    /// was found on. A backend may take both for the same: what the other route asks must hold as well.
    pub fn other_spelling(&self, method: &Method, path: &str, found: usize) -> Option<&Route> {
        if !self.route_paths.has_spellings(path) {
            return None;
        }
        match self.route_paths.find_any_spelling(method, path) {
            Find::Hit { index, .. } if index != found => self.routes.get(index),
            _ => None,
        }
    }
}

impl IdentityNames {
    /// Every name, beside its key in configuration.
    pub fn all(&self) -> [(&'static str, &HeaderName); 14] {
        [
            ("user_id", &self.user_id),
            ("user_email", &self.user_email),
            ("org_id", &self.org_id),
            ("user_role", &self.user_role),
            ("plan", &self.plan),
            ("permissions", &self.permissions),
            ("auth_method", &self.auth_method),
            ("key_id", &self.key_id),
            ("session_id", &self.session_id),
            ("server_id", &self.server_id),
            ("assertion", &self.assertion),
            ("certificate_subject", &self.certificate_subject),
            ("certificate_fingerprint", &self.certificate_fingerprint),
            ("certificate_names", &self.certificate_names),
        ]
    }
}

impl Default for IdentityNames {
    fn default() -> Self {
        Self {
            user_id: HeaderName::from_static("x-user-id"),
            user_email: HeaderName::from_static("x-user-email"),
            org_id: HeaderName::from_static("x-org-id"),
            user_role: HeaderName::from_static("x-user-role"),
            plan: HeaderName::from_static("x-plan"),
            permissions: HeaderName::from_static("x-permissions"),
            auth_method: HeaderName::from_static("x-auth-method"),
            key_id: HeaderName::from_static("x-key-id"),
            session_id: HeaderName::from_static("x-session-id"),
            server_id: HeaderName::from_static("x-server-id"),
            assertion: HeaderName::from_static("x-identity-assertion"),
            certificate_subject: HeaderName::from_static("x-client-cert-subject"),
            certificate_fingerprint: HeaderName::from_static("x-client-cert-fingerprint"),
            certificate_names: HeaderName::from_static("x-client-cert-names"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_whatever_its_case_port_or_last_dot() {
        let mut hosts = Hosts::default();
        assert_eq!(hosts.insert("api.example.com", 0), None);
        assert_eq!(hosts.insert("[::1]", 1), None);
        for host in
            ["api.example.com", "API.Example.COM", "api.example.com:8443", "api.example.com.", "Api.example.com.:1"]
        {
            assert_eq!(hosts.find(host), Some(0), "{host}");
        }
        assert_eq!(hosts.find("[::1]:8443"), Some(1));
        for host in [
            "",
            ":80",
            ".",
            "api.example.com:80x",
            "api.example.com:1:2",
            "xapi.example.com",
            "[::1",
            "[::1]x",
            "example.com",
        ] {
            assert_eq!(hosts.find(host), None, "{host}");
        }
        assert_eq!(hosts.insert("api.example.com", 5), Some(0));
    }

    #[test]
    fn case_does_not_matter_with_one_host_or_with_hundreds() {
        for count in [1, 100, 101, 1000] {
            let mut hosts = Hosts::default();
            (0..count).for_each(|at| assert_eq!(hosts.insert(&format!("h{at}.example.com"), at), None));
            for at in 0..count {
                assert_eq!(hosts.find(&format!("H{at}.EXAMPLE.com")), Some(at));
            }
        }
    }

    #[test]
    fn a_wildcard_takes_one_label_and_the_exact_name_goes_first() {
        let mut hosts = Hosts::default();
        hosts.insert("*.example.com", 0);
        hosts.insert("api.example.com", 1);
        assert_eq!(hosts.find("www.EXAMPLE.com"), Some(0));
        assert_eq!(hosts.find("api.example.com"), Some(1));
        for host in ["example.com", "a.b.example.com", ".example.com", "wwwexample.com"] {
            assert_eq!(hosts.find(host), None, "{host}");
        }
    }

    #[test]
    fn the_default_answers_for_names_nobody_has_and_not_for_what_is_no_name() {
        let mut hosts = Hosts::default();
        hosts.insert("*", 2);
        hosts.insert("api.example.com", 1);
        assert_eq!(hosts.find("10.0.0.1:8443"), Some(2));
        assert_eq!(hosts.find("api.example.com"), Some(1));
        assert_eq!(hosts.find("api.example.com:80:80"), None);
        assert_eq!(hosts.find(&"x".repeat(300)), None);
        assert_eq!(hosts.insert("*", 0), Some(2));
    }
}

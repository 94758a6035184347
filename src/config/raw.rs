//! The gateway's file as written: serde, nothing resolved, nothing required.
//!
//! What must be there and what it must say is for `compile` to judge, which can say all of it at once
//! and in the words of the field. These types stop there: no other layer sees them. What each key means
//! is told once, in `config/gateway.toml`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use crate::limit::OnFailure;
use crate::mail::Tls;
use crate::model::secret::Secret;
use crate::observe::LogFormat;
use crate::rules::network::ProxyHeader;
use crate::rules::trace::Trust;
use crate::upstream::hygiene::OddNames;

/// Text with its place.
pub(super) type Text = Option<Spanned<String>>;
/// A number with its place.
pub(super) type Number = Option<Spanned<Count>>;
/// Texts with their places.
pub(super) type Texts = Option<Spanned<Many>>;
/// Tables by name.
pub(super) type Named<T> = BTreeMap<Spanned<String>, Spanned<T>>;

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFile {
    pub include: Texts,
    pub listen: Option<Spanned<RawListen>>,
    pub admin: Option<Spanned<RawAdmin>>,
    pub tls: Option<Spanned<RawTls>>,
    pub store: Option<Spanned<RawStore>>,
    pub limits: Option<Spanned<RawLimits>>,
    pub cache: Option<Spanned<RawCache>>,
    pub passwords: Option<Spanned<RawPasswords>>,
    pub connections: Option<Spanned<RawConnections>>,
    pub network: Option<Spanned<RawNetwork>>,
    pub log: Option<Spanned<RawLog>>,
    pub reload: Option<Spanned<RawReload>>,
    pub tracing: Option<Spanned<RawTracing>>,
    pub mail: Option<Spanned<RawMail>>,
    pub site: Vec<Spanned<RawSite>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    pub https: Texts,
    pub http: Texts,
    pub proxy_protocol: Texts,
    pub admin: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAdmin {
    pub token: Option<Spanned<Secret>>,
    pub token_file: Text,
    pub generate: Option<Spanned<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    pub development: Option<Spanned<bool>>,
    pub directory: Text,
    pub certificate: Vec<Spanned<RawCertificate>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCertificate {
    pub certificate: Text,
    pub key: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStore {
    pub url: Option<Spanned<Secret>>,
    pub url_file: Text,
    pub max_connections: Number,
    pub acquire_timeout: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub redis_url: Option<Spanned<Secret>>,
    pub redis_url_file: Text,
    pub redis_timeout: Text,
    pub on_failure: Option<OnFailure>,
    pub max_subjects: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCache {
    pub tokens: Number,
    pub facts: Number,
    pub max_stale: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPasswords {
    pub workers: Number,
    pub queue: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConnections {
    pub workers: Number,
    pub max: Number,
    pub max_per_address: Number,
    pub handshake_timeout: Text,
    pub header_timeout: Text,
    pub body_timeout: Text,
    pub min_body_rate: Text,
    pub send_timeout: Text,
    pub idle_timeout: Text,
    pub drain_delay: Text,
    pub drain_timeout: Text,
    pub max_header_size: Text,
    pub max_headers: Number,
    pub max_streams: Number,
    pub max_waiting_agents: Number,
    pub max_waiting_agents_per_address: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNetwork {
    pub trusted_proxies: Texts,
    pub proxy_header: Option<ProxyHeader>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub level: Text,
    pub format: Option<LogFormat>,
    pub access: Option<bool>,
    pub audit_file: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawReload {
    pub watch: Option<bool>,
    pub every: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTracing {
    pub trust: Option<Trust>,
    pub sample_ratio: Option<Spanned<Share>>,
    pub endpoint: Text,
    pub headers: BTreeMap<Spanned<String>, Spanned<Secret>>,
    pub token: Option<Spanned<Secret>>,
    pub token_file: Text,
    pub tls: Option<Spanned<RawUpstreamTls>>,
    pub service: Text,
    pub resource: BTreeMap<Spanned<String>, Spanned<String>>,
    pub max_queue: Number,
    pub batch_delay: Text,
    pub timeout: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMail {
    pub transport: Option<Spanned<RawTransport>>,
    pub host: Text,
    pub port: Number,
    pub tls: Option<Spanned<Tls>>,
    pub username: Text,
    pub password: Option<Spanned<Secret>>,
    pub password_file: Text,
    pub authorities: Text,
    pub hello: Text,
    pub timeout: Text,
    pub outbox: Text,
    pub templates: Text,
    pub at_once: Number,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawTransport {
    Smtp,
    Outbox,
    Off,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSite {
    pub name: Text,
    pub realm: Text,
    pub contract: Text,
    pub hosts: Texts,
    pub max_body: Text,
    pub underscore_headers: Option<OddNames>,
    pub tokens: Option<Spanned<RawTokens>>,
    pub api_keys: Option<Spanned<RawApiKeys>>,
    pub mail: Option<Spanned<RawSiteMail>>,
    pub limits: Option<Spanned<RawSiteLimits>>,
    pub cors: Option<Spanned<RawCors>>,
    pub client_certificates: Option<Spanned<RawClientCertificates>>,
    pub plan: Named<RawPlan>,
    pub identity_headers: BTreeMap<Spanned<String>, Spanned<String>>,
    pub upstream: Named<RawUpstream>,
    pub route: Vec<Spanned<RawRoute>>,
    pub guard: Vec<Spanned<RawGuard>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTokens {
    pub issuer: Text,
    pub audience: Text,
    pub leeway: Text,
    pub access_ttl: Text,
    pub session_lifetime: Text,
    pub keys: Vec<Spanned<RawKey>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKey {
    pub kid: Text,
    pub algorithm: Text,
    pub secret: Option<Spanned<Secret>>,
    pub secret_file: Text,
    pub generate: Option<Spanned<bool>>,
    pub signs: Option<Spanned<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApiKeys {
    pub pepper: Option<Spanned<Secret>>,
    pub pepper_file: Text,
    pub generate: Option<Spanned<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSiteMail {
    pub product: Text,
    pub from: Text,
    pub reply_to: Text,
    pub verify_link: Text,
    pub reset_link: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSiteLimits {
    pub native_per_address: Texts,
    pub failed_sign_ins: Texts,
    pub failed_credentials: Texts,
    pub per_key: Texts,
    pub per_address: Texts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCors {
    pub origins: Texts,
    pub methods: Texts,
    pub headers: Texts,
    pub exposed: Texts,
    pub credentials: Option<Spanned<bool>>,
    pub max_age: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawClientCertificates {
    pub authorities: Texts,
    pub revocation_lists: Texts,
    pub required: Option<Spanned<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPlan {
    pub limits: Texts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUpstream {
    pub servers: Option<Spanned<Servers>>,
    pub protocol: Text,
    pub tls: Option<Spanned<RawUpstreamTls>>,
    pub connect_timeout: Text,
    pub tls_timeout: Text,
    pub response_timeout: Text,
    pub idle_timeout: Text,
    pub tunnel_idle_timeout: Text,
    pub timeout: Text,
    pub queue_timeout: Text,
    pub max_queue: Number,
    pub max_idle: Number,
    pub max_connections: Number,
    pub max_streams: Number,
    pub ejection: RawEjection,
    pub retries: RawRetries,
    pub health: Option<Spanned<RawHealth>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRetries {
    pub percent: Number,
    pub per_second: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHealth {
    pub path: Text,
    pub method: Text,
    pub host: Text,
    pub statuses: Texts,
    pub port: Number,
    pub interval: Text,
    pub timeout: Text,
    pub rise: Number,
    pub fall: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEjection {
    pub connects: Number,
    pub failures: Number,
    pub first: Text,
    pub longest: Text,
    pub slow_start: Text,
    pub panic: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUpstreamTls {
    pub authorities: Text,
    pub certificate: Text,
    pub key: Text,
    pub server_name: Text,
    pub min_version: Text,
}

/// A server: a table, or its URL alone.
#[derive(Clone, Debug, Default)]
pub(super) struct RawServer {
    pub url: Text,
    pub weight: Number,
}

impl<'de> Deserialize<'de> for RawServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Table {
            url: Text,
            weight: Number,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RawServer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL or a table with `url` and `weight`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawServer, E> {
                Ok(RawServer { url: Some(Spanned::new(ALONE, text.to_owned())), weight: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawServer, A::Error> {
                let Table { url, weight } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawServer { url, weight })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A list of servers, or one alone.
#[derive(Debug, Default)]
pub(super) struct Servers(Vec<Spanned<RawServer>>);

impl Servers {
    /// The servers, each with its place; `around` is that of the list.
    pub(super) fn each(&self, around: &std::ops::Range<usize>) -> Vec<Spanned<RawServer>> {
        let place = |server: &Spanned<RawServer>| if server.span() == ALONE { around.clone() } else { server.span() };
        self.0.iter().map(|server| Spanned::new(place(server), server.get_ref().clone())).collect()
    }
}

impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Servers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL or a list of servers")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Servers, E> {
                let url = Some(Spanned::new(ALONE, text.to_owned()));
                Ok(Servers(vec![Spanned::new(ALONE, RawServer { url, weight: None })]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Servers, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Servers)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRoute {
    #[serde(rename = "match")]
    pub on: Text,
    pub upstream: Text,
    pub public: Option<Spanned<bool>>,
    pub roles: Texts,
    pub plans: Texts,
    pub permissions: Texts,
    pub shadow: Option<Spanned<bool>>,
    pub limits: Texts,
    pub cost: Number,
    pub forward_credential: Option<bool>,
    pub assertion: Option<Spanned<bool>>,
    pub encoded_slash: Option<bool>,
    pub max_body: Text,
    pub connect_timeout: Text,
    pub tls_timeout: Text,
    pub body_timeout: Text,
    pub min_body_rate: Text,
    pub response_timeout: Text,
    pub idle_timeout: Text,
    pub tunnel_idle_timeout: Text,
    pub timeout: Text,
    pub upstreams: Option<Spanned<Named<Count>>>,
    pub stick_to: Text,
    pub strip_prefix: Text,
    pub add_prefix: Text,
    pub request_headers: Option<RawChanges>,
    pub response_headers: Option<RawChanges>,
}

/// Changes to the headers of one direction.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawChanges {
    pub set: BTreeMap<Spanned<String>, Spanned<String>>,
    pub add: BTreeMap<Spanned<String>, Spanned<String>>,
    pub remove: Texts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGuard {
    #[serde(rename = "match")]
    pub on: Text,
    pub roles: Texts,
    pub plans: Texts,
    pub permissions: Texts,
    pub shadow: Option<Spanned<bool>>,
}

/// A list of texts, or one text alone (`https = "0.0.0.0:443"`, also what an environment variable gives).
#[derive(Debug, Default)]
pub(super) struct Many(pub Vec<Spanned<String>>);

impl<'de> Deserialize<'de> for Many {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Many;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Many, E> {
                // The place is that of the whole value, which stands around this.
                Ok(Many(vec![Spanned::new(ALONE, text.to_owned())]))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Many, E> {
                Err(E::custom("expected a string or a list of strings, found a number\nwrite it in quotes"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Many, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Many)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A whole number, also one written as text: what `"${VAR}"` and environment variables give.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Count, E> {
                u64::try_from(number)
                    .map(Count)
                    .map_err(|_| E::custom("expected a whole number, found a negative one\nwrite 0 or more"))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Count, E> {
                Ok(Count(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Count, E> {
                // The text is not repeated: it may be a misplaced secret.
                let digits = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
                digits
                    .map(Count)
                    .ok_or_else(|| E::custom("expected a whole number, found other text\nwrite digits, such as 20"))
            }
        }
        deserializer.deserialize_any(Digits)
    }
}

/// A share of a whole, also one written as text: what `"${VAR}"` and environment variables give.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share(pub f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fraction;
        impl Visitor<'_> for Fraction {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Share, E> {
                Ok(Share(number))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Share, E> {
                // Whatever does not fit is far out of range as well.
                Ok(Share(i32::try_from(number).map_or(f64::INFINITY, f64::from)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Share, E> {
                let number = text.parse().map(Share);
                number.map_err(|_| E::custom("expected a number from 0 to 1, found other text\nwrite such as 0.05"))
            }
        }
        deserializer.deserialize_any(Fraction)
    }
}

/// The place of a text that stands alone where a list could: that of the value around it.
const ALONE: std::ops::Range<usize> = 0..0;

/// The texts, each with its own place; none when the key is not there.
pub(super) fn each(texts: &Texts) -> Vec<Spanned<String>> {
    let Some(around) = texts else { return Vec::new() };
    let place = |text: &Spanned<String>| if text.span() == ALONE { around.span() } else { text.span() };
    around.get_ref().0.iter().map(|text| Spanned::new(place(text), text.get_ref().clone())).collect()
}

/// The texts as one value with a place; `None` when the key is not there.
pub(super) fn list(texts: &Texts) -> Option<Spanned<Vec<Spanned<String>>>> {
    Some(Spanned::new(texts.as_ref()?.span(), each(texts)))
}

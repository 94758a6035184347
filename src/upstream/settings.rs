//! An upstream as configured: facts, no connections.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use super::balance::Ejection;
use super::budget::{Budget, Retries};
use super::check::Check;
use super::tls::{Files, TlsError, Trust};
use super::watch::Watched;

/// One upstream, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name in routes, metrics and logs.
    pub name: String,
    /// Its servers.
    pub servers: Vec<Server>,
    /// What is spoken to them.
    pub protocol: Protocol,
    /// What TLS to them is made with, where that is not the system's authorities and nothing else.
    pub tls: Option<Files>,
    /// `tls` as read by [`Settings::prepare`].
    pub trust: Option<Arc<Trust>>,
    /// Time to connect: name and TCP.
    pub connect_timeout: Duration,
    /// Time for the TLS handshake.
    pub tls_timeout: Duration,
    /// Time from the request's end to the first byte of the answer's head.
    pub response_timeout: Duration,
    /// Time without a byte of body, either way.
    pub idle_timeout: Duration,
    /// Time without a byte, either way, after which a WebSocket is closed.
    pub tunnel_idle_timeout: Duration,
    /// Time from taking the request up to the last byte of its answer; `None`: without end.
    pub timeout: Option<Duration>,
    /// Time to wait for a connection where all are in use.
    pub queue_timeout: Duration,
    /// Requests that may wait per server; more are refused at once.
    pub max_queue: usize,
    /// When a server is left out for what becomes of requests.
    pub ejection: Ejection,
    /// How many second attempts there are.
    pub retries: Retries,
    /// What is left of them; every copy of these settings spends from it.
    pub budget: Arc<Budget>,
    /// How servers are asked whether they are well; `None`: they are not.
    pub health: Option<Check>,
    /// Idle connections kept per server.
    pub max_idle: usize,
    /// Connections at most per server.
    pub max_connections: usize,
    /// Requests at once on an HTTP/2 connection; the server may allow fewer.
    pub max_streams: usize,
}

/// What is spoken to the servers of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by ALPN over TLS, from the first byte (RFC 9113 section 3.3) without.
    Http2,
    /// What the server chooses by ALPN; HTTP/1.1 without TLS.
    Auto,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// Its share beside the others', at least 1.
    pub weight: u32,
    /// What tells its pool from others: the address, and how it is spoken to.
    pub(super) key: Arc<str>,
    /// What its checks say.
    pub(super) watched: Watched,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `http://host:port` or `https://host:port`.
    Url(Uri),
    /// A socket of this machine, spoken to without TLS.
    Unix(PathBuf),
}

impl Settings {
    /// With everything but the servers as it comes.
    pub fn new(name: impl Into<String>, servers: Vec<Server>) -> Self {
        Self {
            name: name.into(),
            servers,
            protocol: Protocol::Http1,
            tls: None,
            trust: None,
            connect_timeout: Duration::from_secs(5),
            tls_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(1),
            tunnel_idle_timeout: Duration::from_mins(5),
            timeout: None,
            queue_timeout: Duration::from_secs(5),
            max_queue: 4096,
            ejection: Ejection::default(),
            retries: Retries::default(),
            budget: Arc::default(),
            health: None,
            max_idle: 1024,
            max_connections: 1024,
            max_streams: 100,
        }
    }

    /// Whether a WebSocket may go to it: they need HTTP/1.1.
    pub fn takes_websockets(&self) -> bool {
        self.protocol != Protocol::Http2
    }

    /// With what is left of these second attempts: an upstream's survive its reloads.
    #[must_use]
    pub fn spending(mut self, budget: Arc<Budget>) -> Self {
        self.budget = budget;
        self
    }

    /// Reads what TLS needs, anew at each load: a server keeps its pool while nothing of it has changed.
    pub fn prepare(mut self) -> Result<Self, TlsError> {
        self.trust = self.tls.as_ref().map(Trust::read).transpose()?.map(Arc::new);
        for server in &mut self.servers {
            let trust = self.trust.as_ref().filter(|_| server.address.is_tls());
            let spoken = match self.protocol {
                Protocol::Http1 => String::new(),
                protocol => format!(" {protocol:?} {}", self.max_streams),
            };
            let trusted = trust.map_or_else(String::new, |trust| format!(" {}", trust.fingerprint()));
            server.watched = Watched::default();
            server.key = format!("{}{spoken}{trusted}", server.address).into();
        }
        Ok(self)
    }
}

impl Server {
    /// The server at `address`, with the usual share.
    pub fn new(address: Address) -> Self {
        Self::weighing(address, 1)
    }

    /// The server at `address`, with its share.
    pub fn weighing(address: Address, weight: u32) -> Self {
        let watched = Watched::default();
        Self { key: address.to_string().into(), address, weight: weight.max(1), watched }
    }
}

impl Address {
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Url(uri) if uri.scheme_str() == Some("https"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(uri) => {
                let (scheme, authority) = (uri.scheme_str(), uri.authority());
                write!(f, "{}://{}", scheme.unwrap_or_default(), authority.map_or("", |authority| authority.as_str()))
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// What a route says in place of its upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// In place of [`Settings::connect_timeout`].
    pub connect: Option<Duration>,
    /// In place of [`Settings::tls_timeout`].
    pub tls: Option<Duration>,
    /// In place of [`Settings::response_timeout`].
    pub response: Option<Duration>,
    /// In place of [`Settings::idle_timeout`].
    pub idle: Option<Duration>,
    /// In place of [`Settings::tunnel_idle_timeout`].
    pub tunnel_idle: Option<Duration>,
    /// In place of [`Settings::timeout`].
    pub whole: Option<Duration>,
    /// How long the client waits, by its own word: no route's, and no server's fault.
    pub deadline: Option<Duration>,
    /// In place of the time that the gateway gives a client between two bytes of its body.
    pub body: Option<Duration>,
    /// In place of the rate that the gateway asks of a client's body, in bytes a second; 0: none.
    pub body_rate: Option<u64>,
}

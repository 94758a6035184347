//! The backends: connections, balancing, timeouts, header hygiene.

use std::time::Duration;

use http::Uri;

/// One upstream, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name in routes, metrics and logs.
    pub name: String,
    /// Its servers: `http://host:port` (TLS to backends comes as `https://`).
    pub servers: Vec<Uri>,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time from the request's end to the first byte of the answer's head.
    pub response_timeout: Duration,
    /// Time without a byte of body, either way.
    pub idle_timeout: Duration,
    /// Idle connections kept per server.
    pub max_idle: usize,
    /// Connections at most per server.
    pub max_connections: usize,
}

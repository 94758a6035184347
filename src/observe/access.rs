//! One line a request.
//!
//! The names are fixed and every one stands in every JSON line (`null` where there is nothing to say), so
//! that a line can be read without guessing. There is no field for a header, a body or a query: what must
//! not be logged has no place to stand.

use std::error::Error;
use std::fmt::{self, Display, Write};
use std::net::IpAddr;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use uuid::Uuid;

use super::mask;
use super::metrics::labels::{Cut, TlsVersion, TunnelEnd};
use super::object::Object;
use crate::model::id::{KeyId, OrgId, SessionId, UserId};
use crate::model::problem::ProblemKind;
use crate::model::refusal::Fault;
use crate::model::time::Timestamp;
use crate::model::window::Window;
use crate::rules::trace::TraceId;

/// A rule or window that is only tried, and would have refused a request that went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Its configured name: `guard GET /v1/items/{id}`, `limit organization`.
    pub rule: String,
    /// The window.
    pub window: Option<Window>,
    /// What the client would have been told.
    pub problem: ProblemKind,
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    /// When its head had arrived.
    pub time: Timestamp,
    /// Its id: what `X-Request-Id` says to the client and the backend.
    pub request_id: &'a str,
    /// The trace it belongs to; `None`: the gateway takes no part in traces.
    pub trace: Option<TraceId>,
    /// The site, by its configured name; `None` for a host that is not served.
    pub site: Option<&'a str>,
    /// The client, as the trusted proxies tell it.
    pub client: IpAddr,
    /// Its method.
    pub method: &'a str,
    /// Its path; a query is cut off here too.
    pub path: &'a str,
    /// The route or native operation that took it, by its configured text.
    pub route: Option<&'a str>,
    /// The answer's status.
    pub status: u16,
    /// Why it was refused.
    pub problem: Option<ProblemKind>,
    /// What is only tried and would have refused it.
    pub shadow: &'a [Shadow],
    /// Who asked.
    pub user: Option<UserId>,
    /// Their organization.
    pub org: Option<OrgId>,
    /// The API key they used.
    pub key: Option<KeyId>,
    /// The session they used.
    pub session: Option<SessionId>,
    /// How they proved who they are, in the words of the identity header.
    pub auth: Option<&'a str>,
    /// Until the answer's last byte, or its WebSocket's.
    pub took: Duration,
    /// Bytes of the request's body, or of what came through its WebSocket.
    pub received: u64,
    /// Bytes of the answer's body, or of what went out through its WebSocket.
    pub sent: u64,
    /// The upstream it was passed on to, by its configured name.
    pub upstream: Option<&'a str>,
    /// The server of it that answered, or that was asked last: `http://host:port`.
    pub server: Option<&'a str>,
    /// How the WebSocket ended that it opened.
    pub tunnel: Option<TunnelEnd>,
    /// Why its answer was broken off after the head.
    pub cut: Option<Cut>,
    /// The connection's TLS version; `None` without TLS.
    pub tls: Option<TlsVersion>,
    /// The protocol TLS agreed on.
    pub alpn: Option<&'a str>,
    /// SHA-256 of the certificate that the client has shown, in hexadecimal.
    pub certificate: Option<&'a str>,
    /// What went wrong on our side.
    pub fault: Option<&'a Fault>,
}

impl Serialize for Shadow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shadow = serializer.serialize_struct("shadow", 3)?;
        shadow.serialize_field("rule", &self.rule)?;
        shadow.serialize_field("window", &self.window.map(|window| Shown(window.held())))?;
        shadow.serialize_field("problem", self.problem.name())?;
        shadow.end()
    }
}

impl Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.problem.name(), self.rule)?;
        self.window.map_or(Ok(()), |window| write!(f, " {}", window.held()))
    }
}

impl AccessLine<'_> {
    /// Appends the line as JSON.
    pub(super) fn json(&self, into: &mut Vec<u8>) {
        let mut line = Object(into);
        line.time(r#"{"time":"#, self.time);
        line.text(r#","kind":"#, Some("access"));
        line.text(r#","request_id":"#, Some(&mask::cut(self.request_id, 128)));
        line.id(r#","trace_id":"#, self.trace.map(|trace| Uuid::from_bytes(*trace.bytes())));
        line.text(r#","site":"#, self.site);
        line.address(r#","client":"#, self.client);
        line.text(r#","method":"#, Some(&mask::cut(self.method, 32)));
        line.text(r#","path":"#, Some(&mask::path(self.path)));
        line.text(r#","route":"#, self.route);
        line.value(r#","status":"#, &self.status);
        line.text(r#","problem":"#, self.problem.map(ProblemKind::name));
        line.value(r#","shadow":"#, &Some(self.shadow).filter(|shadow| !shadow.is_empty()));
        line.id(r#","user":"#, self.user.map(UserId::uuid));
        line.id(r#","org":"#, self.org.map(OrgId::uuid));
        line.id(r#","key":"#, self.key.map(KeyId::uuid));
        line.id(r#","session":"#, self.session.map(SessionId::uuid));
        line.text(r#","auth":"#, self.auth);
        line.value(r#","duration_ms":"#, &millis(self.took));
        line.value(r#","received_bytes":"#, &self.received);
        line.value(r#","sent_bytes":"#, &self.sent);
        line.text(r#","upstream":"#, self.upstream);
        line.text(r#","server":"#, self.server);
        line.text(r#","tunnel":"#, self.tunnel.map(TunnelEnd::name));
        line.text(r#","cut":"#, self.cut.map(Cut::name));
        line.text(r#","tls":"#, self.tls.map(TlsVersion::name));
        line.text(r#","alpn":"#, self.alpn.map(|alpn| mask::cut(alpn, 32)).as_deref());
        line.text(r#","certificate":"#, self.certificate);
        line.text(r#","fault":"#, self.fault.map(|fault| told(fault)).as_deref());
        into.push(b'}');
    }
}

impl Display for AccessLine<'_> {
    /// For a person: what was asked and what became of it first, then what there is to say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.time.to_rfc3339())?;
        write!(f, "{} {} {}", self.status, mask::cut(self.method, 32), mask::path(self.path))?;
        write!(f, " {}ms client={}", millis(self.took), self.client)?;
        let ids = [
            ("user", self.user.map(UserId::uuid)),
            ("org", self.org.map(OrgId::uuid)),
            ("key", self.key.map(KeyId::uuid)),
            ("session", self.session.map(SessionId::uuid)),
        ];
        let names = [
            ("site", self.site),
            ("route", self.route),
            ("upstream", self.upstream),
            ("server", self.server),
            ("problem", self.problem.map(ProblemKind::name)),
            ("tunnel", self.tunnel.map(TunnelEnd::name)),
            ("cut", self.cut.map(Cut::name)),
            ("certificate", self.certificate),
        ];
        for (name, text) in names.iter().filter_map(|(name, text)| Some((name, (*text)?))) {
            write!(f, " {name}={text:?}")?;
        }
        for shadow in self.shadow {
            write!(f, " shadow={:?}", shadow.to_string())?;
        }
        for (name, id) in ids.iter().filter_map(|(name, id)| Some((name, (*id)?))) {
            write!(f, " {name}={}", id.simple())?;
        }
        if let Some(fault) = self.fault {
            write!(f, " fault={:?}", told(fault))?;
        }
        if let Some(trace) = self.trace {
            write!(f, " trace={trace}")?;
        }
        write!(f, " id={}", mask::cut(self.request_id, 128))
    }
}

/// A value that serializes as it displays.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Milliseconds to the microsecond.
fn millis(took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 years of microseconds")]
    let micros = took.as_micros() as f64;
    micros / 1000.0
}

/// An error with its causes, on one line, with what looks like a credential starred out.
pub fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    mask::cut(&mask::scrub(&text), 1024).into_owned()
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;

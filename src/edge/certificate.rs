//! Whether the connection was made as the site of a request asks.
//!
//! A handshake knows a name, and a request names its site once more, which may be another: by mistake, by a client that
//! reuses connections for whatever their server certificate covers (RFC 9113 section 9.1.1), or on purpose. So the site
//! must ask exactly what this connection was asked; where it does not, the answer is 421 (RFC 9110 section 15.5.20),
//! upon which clients connect anew. That also ends what a reload changed and what is past its time: a connection lives
//! longer than the decision it began with, and each request is asked anew.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::connection::Connection;
use crate::config::snapshot::IdentityNames;
use crate::gateway::{Live, LiveSite};
use crate::model::problem::Problem;
use crate::model::time::Timestamp;
use crate::tls::clients::{Policy, Shown};

/// What vouches for a client, on a connection that was made under a policy.
#[derive(Debug)]
pub struct Vouched {
    /// What was asked.
    pub policy: Arc<Policy>,
    /// What was shown, and verified; `None`: nothing, and nothing had to be.
    pub shown: Option<Shown>,
}

impl Vouched {
    /// Stands for a client that has whatever `policy` requires, where a request is only imagined.
    pub fn imagined(policy: &Arc<Policy>) -> Self {
        let shown = policy.required.then(Shown::imagined);
        Self { policy: Arc::clone(policy), shown }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.is_over(now))
    }
}

/// Whether a request for `site` may pass on this connection.
pub fn suits(connection: &Connection, site: &LiveSite, now: Timestamp) -> Result<(), Problem> {
    match (&site.site.client_certificates, &connection.vouched) {
        (None, None) => Ok(()),
        // Without TLS nobody can show one.
        (Some(asked), None) if !asked.required && connection.tls.is_none() => Ok(()),
        (Some(asked), Some(vouched))
            if asked.is(&vouched.policy) && !vouched.is_over(now) && (!asked.required || vouched.shown.is_some()) =>
        {
            Ok(())
        }
        _ => Err(Problem::MisdirectedRequest),
    }
}

/// Lets go of a connection whose request does not suit and that may be good for nothing any more: its certificate is past
/// its time, or it was made before a reload, which may have changed what is asked of it. Clients that keep to a connection
/// whatever its answers are come back on another, and are asked anew. One that is as good as a new one would be stays:
/// only the request was not for it.
pub fn let_go(connection: &Connection, live: &Live, now: Timestamp) {
    let is_over = connection.vouched.as_ref().is_some_and(|vouched| vouched.is_over(now));
    let before_a_reload = connection.tls.is_some_and(|tls| tls.generation != live.snapshot.generation);
    if is_over || before_a_reload {
        connection.let_go();
    }
}

/// Adds what was shown, under the site's names.
pub fn tell(headers: &mut HeaderMap, names: &IdentityNames, connection: &Connection) {
    let Some(shown) = connection.vouched.as_ref().and_then(|vouched| vouched.shown.as_ref()) else { return };
    headers.insert(names.certificate_fingerprint.clone(), shown.fingerprint.clone());
    let mut tell = |name: &http::HeaderName, value: &Option<HeaderValue>| {
        value.as_ref().map(|value| headers.insert(name.clone(), value.clone()))
    };
    tell(&names.certificate_subject, &shown.subject);
    tell(&names.certificate_names, &shown.names);
}

//! Whether the connection was made as the site of a request asks.
//!
//! A handshake knows a name, and a request names its site once more, which may be another: by mistake, by a client that
//! reuses connections for whatever their server certificate covers (RFC 9113 section 9.1.1), or on purpose. So the site
//! must ask exactly what this connection was asked; where it does not, the answer is 421 (RFC 9110 section 15.5.20),
//! upon which clients connect anew. That also ends what a reload changed and what is past its time: a connection lives
//! longer than the decision it began with, and each request is asked anew.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::connection::{Connection, Drain};
use crate::config::snapshot::IdentityNames;
use crate::gateway::{Live, LiveSite};
use crate::model::problem::Problem;
use crate::model::time::Timestamp;
use crate::tls::clients::{Policy, Shown};

/// What vouches for a client, on a connection that was made under a policy.
#[derive(Debug)]
pub struct Vouched {
    /// The site that it asked for, by its name.
    pub site: String,
    /// What was asked.
    pub policy: Arc<Policy>,
    /// What was shown, and verified; `None`: nothing, and nothing had to be.
    pub shown: Option<Shown>,
    /// Ends the connection, in its protocol's manner, once it is good for nothing any more.
    pub leave: Drain,
}

impl Vouched {
    /// Stands for a client that has whatever `policy` requires, where a request is only imagined.
    pub fn imagined(policy: &Arc<Policy>) -> Self {
        let shown = policy.required.then(Shown::imagined);
        Self { site: String::new(), policy: Arc::clone(policy), shown, leave: Drain::default() }
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

/// Lets go of a connection that is good for nothing any more: its certificate is past its time, or a reload changed what
/// the site that it was made for asks. Clients that take no notice of a 421 come back on another.
pub fn let_go(connection: &Connection, live: &Live, now: Timestamp) {
    let Some(vouched) = &connection.vouched else { return };
    let site = live.sites.iter().find(|live| live.site.name == vouched.site);
    let asked = site.and_then(|live| live.site.client_certificates.as_ref());
    if vouched.is_over(now) || !asked.is_some_and(|asked| asked.is(&vouched.policy)) {
        vouched.leave.begin();
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

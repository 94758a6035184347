//! When what TLS stands on ends: shown in the metrics, and said in the log while there is time to renew it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::gateway::Gateway;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::Clients;
use crate::tls::{Certificates, Expiry, Left};

/// How often the same is said again.
const AGAIN: Duration = Duration::from_hours(24);

/// Looks at everything that ends.
#[derive(Debug)]
pub(super) struct Expiries {
    gateway: Arc<Gateway>,
    served: Option<Arc<Certificates>>,
    told: Mutex<Told>,
}

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ending {
    kind: &'static str,
    /// Whose clients it vouches for; `None`: it is our own.
    site: Option<String>,
    expiry: Expiry,
}

impl Expiries {
    pub(super) fn new(gateway: &Arc<Gateway>, served: Option<Arc<Certificates>>) -> Self {
        Self { gateway: Arc::clone(gateway), served, told: Mutex::default() }
    }

    /// Shows them, and says of those that end soon, or have ended, what has not been said lately.
    pub(super) fn look(&self) {
        let (live, metrics) = (self.gateway.live(), &self.gateway.metrics.tls);
        let served = self.served.as_ref().map(|served| served.expiries()).unwrap_or_default();
        let ours = |expiry: &Expiry| Ending { kind: "certificate", site: None, expiry: expiry.clone() };
        let mut endings: Vec<Ending> = served.iter().map(ours).collect();
        let mut of_clients = Vec::new();
        for live in &live.sites {
            let Some(policy) = &live.site.client_certificates else { continue };
            for (kind, expiries) in
                [(Clients::Authority, &policy.authorities), (Clients::RevocationList, &policy.lists)]
            {
                for expiry in expiries {
                    let site = live.site.name.as_str();
                    of_clients.push((site, kind, expiry.name.as_str(), expiry.ends));
                    endings.push(Ending { kind: kind.name(), site: Some(site.to_owned()), expiry: expiry.clone() });
                }
            }
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Only where they have changed: whoever reads the metrics meanwhile would miss some.
        if told.shown.as_ref() != Some(&endings) {
            metrics.certificates(served.iter().map(|expiry| (expiry.name.as_str(), expiry.ends)));
            metrics.of_clients(of_clients);
            told.shown = Some(endings.clone());
        }
        for (ending, left) in told.due(&endings, self.gateway.clock.now().wall) {
            // The log's lines have a `kind` of their own.
            let Ending { kind: what, site, expiry } = ending;
            let (name, ends) = (expiry.name, expiry.ends.to_rfc3339());
            if left == Left::Nothing {
                tracing::error!(what, site, name, ends, "what TLS stands on has ended: renew the file");
            } else {
                tracing::warn!(what, site, name, ends, "what TLS stands on ends soon: renew the file");
            }
        }
    }
}

/// What was told of them.
#[derive(Debug, Default)]
struct Told {
    /// What the metrics show.
    shown: Option<Vec<Ending>>,
    /// What was said of each, and when.
    said: HashMap<Ending, (Left, Timestamp)>,
}

impl Told {
    /// What is to be said now.
    fn due(&mut self, endings: &[Ending], now: Timestamp) -> Vec<(Ending, Left)> {
        self.said.retain(|ending, _| endings.contains(ending));
        let mut due = Vec::new();
        for ending in endings {
            let left = ending.expiry.left(now);
            let lately = |(said, at): &(Left, Timestamp)| *said == left && at.until(now) < AGAIN;
            if left != Left::Enough && !self.said.get(ending).is_some_and(lately) {
                self.said.insert(ending.clone(), (left, now));
                due.push((ending.clone(), left));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_day_once_more_at_the_end_and_no_more_of_what_was_renewed() {
        let hour = |hours: u64| Timestamp::from_secs(0).plus(Duration::from_hours(hours));
        let of = |ends| {
            let expiry = Expiry { name: "CN=one".to_owned(), begins: hour(0), ends: hour(ends) };
            Ending { kind: "authority", site: Some("a".to_owned()), expiry }
        };
        let mut told = Told::default();
        let mut said = |endings: &[Ending], at| -> Vec<Left> {
            told.due(endings, hour(at)).into_iter().map(|(_, left)| left).collect()
        };
        let year = [of(365 * 24)];
        assert_eq!(said(&year, 300 * 24), []);
        let soon = 351 * 24;
        assert_eq!(said(&year, soon), [Left::Little]);
        assert_eq!(said(&year, soon + 23), []);
        assert_eq!(said(&year, soon + 24), [Left::Little]);
        assert_eq!(said(&year, 365 * 24), [Left::Nothing]);
        assert_eq!(said(&year, 365 * 24 + 1), []);
        assert_eq!(said(&[of(730 * 24)], 365 * 24 + 2), []);
        assert_eq!(said(&year, 365 * 24 + 3), [Left::Nothing], "the old one is back");
    }
}

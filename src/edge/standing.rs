//! Whether what is open may go on.
//!
//! Revocation must end what it concerns, also what is already open: tunnels, event streams, long downloads.
//! Rather than keep a register of who depends on what, whatever is open asks again: twice a second the whole decision
//! (certificate, route, credential, role, plan) is taken anew for the request that opened it, from cached facts, and it ends when
//! the answer is no. A logout, a revoked key, a changed role or plan, an expired token and a removed route all end
//! it within the second.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::authenticate::Accepted;
use super::connection::Connection;
use super::exchange::Exchange;
use super::{authenticate, authorize, certificate, route};
use crate::gateway::Gateway;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;

/// How often it is asked: half of what a revocation may take to count.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What opened a stream: enough to decide on it again.
pub struct Standing {
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    site: String,
    client: IpAddr,
    method: Method,
    path: String,
    credential: Option<Accepted>,
}

impl Standing {
    /// Of the request that `exchange` serves, once it was let in.
    pub fn of(exchange: &Exchange) -> Self {
        Self {
            gateway: Arc::clone(&exchange.gateway),
            connection: Arc::clone(&exchange.connection),
            site: exchange.site().site.name.clone(),
            client: exchange.client,
            method: exchange.method.clone(),
            path: exchange.path.clone(),
            credential: exchange.credential.clone(),
        }
    }

    /// Whether the same request would be let in now.
    async fn holds(&self) -> Result<(), Refusal> {
        let live = self.gateway.live();
        let Some(site) = live.sites.iter().find(|live| live.site.name == self.site).cloned() else {
            return Err(Problem::NotFound.into());
        };
        certificate::suits(&self.connection, &site, self.gateway.clock.now().wall)?;
        let mut again = Exchange::begin(&self.gateway, &self.connection, self.method.clone());
        again.site = Some(site);
        again.client = self.client;
        again.path.clone_from(&self.path);
        let target = route::find(&mut again)?;
        // Without a credential it was public. If it is no more, nobody is there to meet what is asked.
        if let Some(credential) = &self.credential {
            authenticate::again(&mut again, credential, &target).await?;
        }
        authorize::authorize(&again, target)?;
        Ok(())
    }

    /// Waits until it no longer holds, or cannot be told to; counts that, and says what the same request would be told now.
    pub async fn lost(self) -> Refusal {
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            let Err(refusal) = self.holds().await else { continue };
            self.gateway.metrics.revocations.streams_cut.inc();
            return refusal;
        }
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("site", &self.site).field("path", &self.path).finish_non_exhaustive()
    }
}

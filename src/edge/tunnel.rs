//! An open WebSocket: carried both ways for as long as it would be let in anew.
//!
//! Revocation must end what it concerns, also what is already open. Rather than keep a register of who depends on
//! what, an open tunnel asks again: twice a second the whole decision (route, credential, role, plan) is taken
//! anew for the request that opened it, from cached facts, and the tunnel ends when the answer is no. A logout, a
//! revoked key, a changed role or plan, an expired token and a removed route all end it within the second.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::exchange::Exchange;
use super::{authenticate, authorize, route};
use crate::gateway::Gateway;
use crate::upstream::tunnel::{self, Backend};

/// How often an open tunnel asks whether it may go on: half of what a revocation may take to count.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What opened a tunnel: enough to decide on it again.
pub struct Standing {
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    site: String,
    client: IpAddr,
    method: Method,
    path: String,
    credential: HeaderMap,
}

impl Standing {
    /// Of the request that `exchange` serves, with its headers as they came.
    pub fn of(exchange: &Exchange, headers: &HeaderMap) -> Self {
        let mut credential = HeaderMap::with_capacity(1);
        for value in headers.get_all(AUTHORIZATION) {
            credential.append(AUTHORIZATION, value.clone());
        }
        Self {
            gateway: Arc::clone(&exchange.gateway),
            connection: Arc::clone(&exchange.connection),
            site: exchange.site().site.name.clone(),
            client: exchange.client,
            method: exchange.method.clone(),
            path: exchange.path.clone(),
            credential,
        }
    }

    /// Whether the same request would be let in now.
    async fn holds(&self) -> bool {
        let live = self.gateway.live();
        let Some(site) = live.sites.iter().find(|live| live.site.name == self.site).cloned() else { return false };
        let mut again = Exchange::begin(&self.gateway, &self.connection, self.method.clone());
        again.site = Some(site);
        again.client = self.client;
        again.path.clone_from(&self.path);
        let Ok(target) = route::find(&mut again) else { return false };
        authenticate::authenticate(&mut again, &self.credential, &target).await.is_ok()
            && authorize::authorize(&again, target).is_ok()
    }

    /// Waits until it no longer holds.
    async fn lost(&self) {
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            if !self.holds().await {
                return;
            }
        }
    }
}

/// Carries the tunnel in a task of its own, which the gateway waits for when it drains.
pub fn spawn(standing: Standing, client: OnUpgrade, backend: Backend, idle: Duration) {
    let gateway = Arc::clone(&standing.gateway);
    let stop = gateway.hang_up.child_token();
    gateway.tunnels.clone().spawn(async move {
        let carried = tunnel::run(client, backend, idle, &stop);
        let watched = watch(&standing, &stop);
        tokio::pin!(carried);
        tokio::select! {
            _ = &mut carried => {}
            // The tunnel itself closes both ends once it is told to stop.
            () = watched => drop(carried.await),
        }
    });
}

async fn watch(standing: &Standing, stop: &CancellationToken) {
    standing.lost().await;
    standing.gateway.metrics.revocations.streams_cut.inc();
    stop.cancel();
}

//! An open WebSocket: carried both ways for as long as it would be let in anew ([`super::standing`]).

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;

use super::standing::Standing;
use crate::gateway::Gateway;
use crate::upstream::tunnel::{self, Backend};

/// Carries the tunnel in a task of its own, which the gateway waits for when it drains.
pub fn spawn(gateway: &Arc<Gateway>, standing: Standing, client: OnUpgrade, backend: Backend, idle: Duration) {
    let stop = gateway.hang_up.child_token();
    gateway.tunnels.spawn(async move {
        let carried = tunnel::run(client, backend, idle, &stop);
        tokio::pin!(carried);
        tokio::select! {
            _ = &mut carried => {}
            () = standing.lost() => {
                // The tunnel itself closes both ends once it is told to stop.
                stop.cancel();
                carried.await;
            }
        }
    });
}

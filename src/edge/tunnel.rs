//! An open WebSocket: carried both ways for as long as it would be let in anew ([`super::standing`]).

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;

use super::agent::Agent;
use super::observe::Record;
use super::standing::Standing;
use crate::gateway::Gateway;
use crate::model::problem::Problem;
use crate::observe::metrics::labels::TunnelEnd;
use crate::upstream::tunnel::{self, Backend};

/// What an answer opens, once its head is out.
#[derive(Debug)]
pub enum Tunnel {
    /// A WebSocket that the backend has agreed to.
    Open(Box<Open>),
    /// One whose first message says who it is.
    Agent(Box<Agent>),
}

/// A WebSocket with both of its ends.
#[derive(Debug)]
pub struct Open {
    /// The client's end.
    pub client: OnUpgrade,
    /// The other.
    pub backend: Backend,
    /// What let it in.
    pub standing: Standing,
    /// How long nothing may come.
    pub idle: Duration,
}

/// Carries the tunnel in a task of its own, which the gateway waits for when it drains.
pub fn spawn(tunnel: Tunnel, mut record: Box<Record>) {
    let gateway = Arc::clone(&record.exchange.gateway);
    let tunnels = gateway.tunnels.clone();
    tunnels.spawn(async move {
        match tunnel {
            Tunnel::Open(open) => {
                let Open { client, backend, standing, idle } = *open;
                // Apart from the task: it is the larger part of it, and lasts.
                record.ended(Box::pin(tunnel::run(client, backend, idle, stopped(&gateway, standing))).await);
            }
            Tunnel::Agent(agent) => Box::pin(agent.serve(&mut record)).await,
        }
    });
}

/// Waits for a reason to end a tunnel that both sides would go on with.
pub async fn stopped(gateway: &Gateway, standing: Standing) -> TunnelEnd {
    tokio::select! {
        refusal = standing.lost() => match refusal.problem {
            Problem::Unavailable => TunnelEnd::Undecided,
            _ => TunnelEnd::Revoked,
        },
        () = gateway.hang_up.cancelled() => TunnelEnd::Drained,
    }
}

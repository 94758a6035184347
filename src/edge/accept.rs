//! The listeners: sockets in, connections out, within a bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::connection::{self, Connection, Drain, Handshake, Place};
use super::handshake::{self, Ends};
use super::pace::Taken;
use super::proxied::{self, Behalf};
use super::workers::Here;
use crate::gateway::Gateway;
use crate::limit::addresses::{AddressPlace, Addresses};
use crate::observe::metrics::labels::{self, Listener, TlsVersion, TurnedAway};
use crate::tls::Server;

/// A listener of the data port.
#[derive(Clone)]
pub struct Door {
    /// Terminates TLS; `None` on the plain listener.
    pub tls: Option<Server>,
    /// Whether every connection begins with a PROXY header, and only trusted proxies come.
    pub proxied: bool,
    /// Connections at once, over all listeners.
    pub places: Arc<Semaphore>,
    /// Connections at once from each address, over all listeners.
    pub addresses: Arc<Addresses>,
    /// Begins when the gateway drains.
    pub drain: Drain,
    /// Owns every connection's task until it ends.
    pub connections: TaskTracker,
}

/// How long to wait when the process is out of descriptors: accepting at once would only spin.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Accepts until the gateway drains, and then those who wait in the kernel's queue: their handshake is done, and
/// closing the listener would reset them. At the bound each of these waits with one client that it has accepted, and the
/// others in that queue: a place that was taken before anybody came would be lost to the other listeners.
///
/// Runs on each worker, of the same socket: at a handover it is one queue that stays.
pub async fn accept(gateway: Arc<Gateway>, listener: TcpListener, door: Door, here: Here) {
    let mut waits = None;
    loop {
        let accepted = tokio::select! {
            () = door.drain.begun() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let Some(place) = place(&gateway, &door).await else {
                    waits = Some((socket, peer));
                    break;
                };
                enter(&gateway, &door, &here, socket, peer, place);
                // One a turn: whoever is here already is looked at before the next comes in. Of five hundred who come at
                // once, the rest wait in the kernel's queue, and not before everybody else in this thread's.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
    // Who was accepted already is nobody else's to serve any more. Places come free as the others leave.
    if let Some((socket, peer)) = waits {
        tokio::select! {
            () = gateway.hang_up.cancelled() => return,
            place = Arc::clone(&door.places).acquire_owned() => {
                let Ok(place) = place else { return };
                enter(&gateway, &door, &here, socket, peer, place);
            }
        }
    }
    while let Ok(place) = Arc::clone(&door.places).try_acquire_owned()
        && let Some(Ok((socket, peer))) = listener.accept().now_or_never()
    {
        enter(&gateway, &door, &here, socket, peer, place);
    }
}

/// A place for one more: at once, or when somebody leaves. `None`: the gateway drains.
async fn place(gateway: &Gateway, door: &Door) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = Arc::clone(&door.places).try_acquire_owned() {
        return Some(place);
    }
    gateway.metrics.connections.waited(door.listener());
    tokio::select! {
        () = door.drain.begun() => None,
        place = Arc::clone(&door.places).acquire_owned() => place.ok(),
    }
}

impl Door {
    const fn listener(&self) -> Listener {
        if self.tls.is_some() { Listener::Https } else { Listener::Http }
    }
}

/// Serves a client, or closes at once on one that has all the connections that it may have: whatever it would be
/// told costs more than it does.
fn enter(
    gateway: &Arc<Gateway>,
    door: &Door,
    here: &Here,
    socket: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let turn_away = |reason| gateway.metrics.connections.turned_away(door.listener(), reason);
    if door.proxied && !gateway.live().is_trusted(peer.ip()) {
        return turn_away(TurnedAway::NoProxy);
    }
    let Some(address) = address_place(gateway, door, peer) else { return turn_away(TurnedAway::PerAddress) };
    let gauge = gateway.metrics.connections.opened(door.listener());
    let (seat, other) = here.seat();
    let held = Place { permit: Some(permit), address, gauge, seat: Some(seat), unnamed: false };
    let (gateway, door) = (Arc::clone(gateway), door.clone());
    let connections = door.connections.clone();
    let Some(other) = other else {
        connections.spawn(serve(gateway, socket, peer, door, held));
        return;
    };
    // It leaves this runtime for the other's.
    let moved = socket.into_std();
    let moving = async move {
        match moved.and_then(TcpStream::from_std) {
            Ok(socket) => serve(gateway, socket, peer, door, held).await,
            Err(error) => tracing::warn!(%error, "a connection could not be handed to another worker"),
        }
    };
    connections.spawn_on(moving, other);
}

/// One of the places that a client's address may have; a trusted proxy brings many clients, and has what it needs.
fn address_place(gateway: &Gateway, door: &Door, client: SocketAddr) -> Option<AddressPlace> {
    let exempt = gateway.live().is_trusted(client.ip());
    if exempt { Some(AddressPlace::default()) } else { door.addresses.take(client.ip()) }
}

/// Reads who a proxy brings; `None`: whoever it is, not here.
async fn introduced(gateway: &Gateway, socket: &mut TcpStream, door: &Door, held: &mut Place) -> Option<SocketAddr> {
    let header = tokio::time::timeout(gateway.bounds.handshake_timeout, proxied::client(socket));
    let header = tokio::select! {
        header = header => header,
        () = connection::last_chance(&door.drain) => return None,
    };
    let turn_away = |reason| gateway.metrics.connections.turned_away(door.listener(), reason);
    let Ok(Ok(client)) = header else {
        turn_away(TurnedAway::ProxyHeader);
        return None;
    };
    let peer = socket.peer_addr().ok()?;
    let (address, place) = match client {
        Behalf::Own => return Some(peer),
        Behalf::Of(client) => (client, address_place(gateway, door, client)),
        Behalf::Somebody => (peer, door.addresses.take(peer.ip())),
    };
    if place.is_none() {
        turn_away(TurnedAway::PerAddress);
    }
    held.address = place?;
    held.unnamed = client == Behalf::Somebody;
    Some(address)
}

async fn serve(gateway: Arc<Gateway>, mut socket: TcpStream, mut peer: SocketAddr, door: Door, mut held: Place) {
    // Answers are written whole; waiting for more to fill a segment only adds latency.
    let _ = socket.set_nodelay(true);
    if door.proxied {
        match introduced(&gateway, &mut socket, &door, &mut held).await {
            Some(client) => peer = client,
            None => return,
        }
    }
    let local = socket.local_addr().ok();
    let socket = Taken::new(socket, gateway.bounds.send_timeout);
    match door.tls.clone() {
        None => {
            let connection = Arc::new(Connection::new(peer, None, None, held));
            connection::serve(gateway, socket, connection, door.drain).await;
        }
        Some(server) => {
            let ends = Ends { client: peer.ip(), local: local.map(|local| local.ip()) };
            // Boxed: TLS and HTTP/2 are twice what the rest is, and a plain connection would hold the room for them.
            Box::pin(secured(gateway, socket, &server, (peer, ends), door, held)).await;
        }
    }
}

async fn secured(
    gateway: Arc<Gateway>,
    socket: Taken<TcpStream>,
    server: &Server,
    (peer, ends): (SocketAddr, Ends),
    door: Door,
    held: Place,
) {
    // Looked at before what is asked is: a reload between the two makes it older than it is, and never younger.
    let generation = gateway.live().snapshot.generation;
    let handshake = handshake::shake(&gateway, server, socket, ends);
    let handshake = tokio::time::timeout(gateway.bounds.handshake_timeout, handshake);
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        // It has asked for nothing yet, and may never: the end waits for it a moment, and no longer.
        () = connection::last_chance(&door.drain) => return,
    };
    let (stream, vouched) = match handshake {
        Ok(Ok(made)) => made,
        Ok(Err(outcome)) => return gateway.metrics.tls.handshake(TlsVersion::Undecided, outcome),
        Err(_) => {
            tracing::info!(client = %peer.ip().to_canonical(), "a client did not finish the TLS handshake in time");
            return gateway.metrics.tls.handshake(TlsVersion::Undecided, labels::Handshake::TimedOut);
        }
    };
    let (_, session) = stream.get_ref();
    let version = TlsVersion::of(session.protocol_version());
    let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let http2 = session.alpn_protocol() == Some(b"h2");
    let outcome = if resumed { labels::Handshake::Resumed } else { labels::Handshake::Full };
    gateway.metrics.tls.handshake(version, outcome);
    let settled = Handshake { version, http2, generation };
    let connection = Arc::new(Connection::new(peer, Some(settled), vouched, held));
    connection::serve(gateway, stream, connection, door.drain).await;
}

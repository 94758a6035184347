//! The composition root: open, listen, tend, drain.

mod expiry;
pub mod handover;
pub mod listeners;
mod manager;
mod peppers;
mod reload;
mod tend;
mod traces;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Boot, Loaded};
use crate::contract::source::Located;
use crate::edge::accept::{self, Door};
use crate::edge::admin;
use crate::edge::connection::Drain;
use crate::edge::workers::Workers;
use crate::gateway::{Gateway, Live, Machines};
use crate::limit::addresses::Addresses;
use crate::model::entropy::Entropy;
use crate::model::time::Clock;
use crate::native::postman;
use crate::observe::log::Logs;
use crate::observe::metrics::Metrics;
use crate::observe::metrics::labels::{ChangeSource, Listener};
use crate::store::{Store, StoreError};
use crate::tls;

use expiry::Expiries;
use listeners::{Inherited, Listening, Wanted};
use peppers::Fresh;
use reload::{Reloader, tell_made};
use traces::Exporter;

pub use reload::Before;
pub use tend::{Asked, Ended};

/// How often other nodes' changes are asked for: a fifth of what a revocation may take to be everywhere.
const FEED_EVERY: Duration = Duration::from_millis(200);
/// Changes read at once.
const FEED_BATCH: u32 = 1000;
/// How often a part of the idle windows is forgotten: the whole table within half a minute.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// How often uses of keys are written down.
const TEND_EVERY: Duration = Duration::from_mins(1);
/// How often what is past is deleted, and what counts as past.
const PURGE_EVERY: Duration = Duration::from_mins(10);
const PURGE_AFTER: Duration = Duration::from_hours(7 * 24);
/// How long tunnels have to end once they are told to.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long chores under way (a mail at a server that is slow) may hold up the end.
const CHORES: Duration = Duration::from_secs(10);

/// What the machine gives, as values.
#[derive(Clone)]
pub struct Parts {
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub entropy: Arc<dyn Entropy>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told; whoever opened it finishes it.
    pub logs: Logs,
}

/// A gateway that serves.
pub struct Running {
    /// The first https listener's address, as bound.
    pub https: Option<SocketAddr>,
    /// The first plain listener's address, as bound.
    pub http: Option<SocketAddr>,
    /// The admin listener's address, as bound.
    pub admin: Option<SocketAddr>,
    /// The gateway itself.
    pub gateway: Arc<Gateway>,
    reloader: Arc<Reloader>,
    /// The listening sockets once more, to be handed over.
    sockets: Vec<Listening>,
    drain: Drain,
    stop: CancellationToken,
    /// Serve the connections; with this they end.
    workers: Workers,
    /// Ends the operator's listener: with the rest, or once another process serves there.
    stop_admin: CancellationToken,
    connections: TaskTracker,
    tenders: TaskTracker,
}

/// The runtime of everything but clients' connections, which have [`Workers`].
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Opens the store, binds the listeners and starts serving.
pub async fn start(loaded: Loaded, parts: Parts) -> anyhow::Result<Running> {
    start_on(Inherited::default(), loaded, parts).await
}

/// The same, on listeners that were there before where they are the ones wanted.
pub async fn start_on(inherited: Inherited, loaded: Loaded, parts: Parts) -> anyhow::Result<Running> {
    let Loaded { boot, snapshot, kept, made, .. } = loaded;
    tell_made(&made);
    let fresh = Fresh::new(snapshot.sites.iter().map(|site| &**site), &made);
    let now = parts.clock.now();
    let metrics = Arc::clone(&parts.metrics);
    let tls = boot.tls.as_ref().map(|settings| tls::Server::new(settings, now.wall)).transpose()?;
    // Opening holds the migrations' state: large, and once.
    let store = Box::pin(Store::open(&boot.store, Arc::clone(&metrics), Arc::clone(&parts.clock)))
        .await
        .context("the store could not be opened ([store] url)")?;
    peppers::remember(&store, snapshot.sites.iter().map(|site| &**site), &made, now.wall).await?;
    fresh.keep();
    let generation = snapshot.generation;
    let live = Live::new(snapshot, &metrics, None)?;
    let machines = Machines {
        clock: Arc::clone(&parts.clock),
        entropy: parts.entropy,
        store,
        metrics: Arc::clone(&metrics),
        logs: parts.logs,
    };
    let gateway = Arc::new(Gateway::new(&boot, live, machines)?);
    metrics.config.loaded(generation, now.wall);

    let workers =
        Workers::start(gateway.bounds.workers).context("the workers could not be started ([connections] workers)")?;
    gateway.limiter.reach(now).await;
    let head = gateway.store.change_head().await.context("the change feed could not be read")?;
    let stop = CancellationToken::new();
    let certificates = tls.as_ref().map(|server| Arc::clone(&server.certificates));
    let expiries = Arc::new(Expiries::new(&gateway, certificates.clone()));
    expiries.look();
    let running = Running {
        https: None,
        http: None,
        admin: None,
        reloader: Arc::new(Reloader {
            gateway: Arc::clone(&gateway),
            boot,
            certificates,
            expiries,
            kept: Mutex::new(kept),
        }),
        gateway,
        sockets: Vec::new(),
        drain: Drain::default(),
        stop_admin: stop.child_token(),
        stop,
        workers,
        connections: TaskTracker::new(),
        tenders: TaskTracker::new(),
    };
    listen(running, tls.as_ref(), inherited, head)
}

fn listen(
    mut running: Running,
    server: Option<&tls::Server>,
    inherited: Inherited,
    head: i64,
) -> anyhow::Result<Running> {
    let gateway = Arc::clone(&running.gateway);
    let boot: Boot = running.reloader.boot.clone();
    if let (Some(spans), Some(collector)) = (&gateway.spans, &boot.collector) {
        let exporter = Exporter::new(&gateway, spans, collector).context("[tracing]")?;
        running.tenders.spawn(exporter.run(running.stop.clone()));
    }
    let places = Arc::new(Semaphore::new(boot.connections.max));
    let addresses = Addresses::new(boot.connections.max_per_address);
    let admin = boot.admin.as_ref().map(|admin| admin.addr);
    let wanted = Wanted { https: &boot.https, http: &boot.http, admin: admin.as_slice() };
    for Listening { scheme, fixed, socket } in inherited.listen(wanted)? {
        let bound = socket.local_addr()?;
        running.sockets.push(Listening { scheme, fixed, socket: socket.try_clone()? });
        tracing::info!(address = %bound, scheme = scheme.name(), "listening");
        let gateway = Arc::clone(&gateway);
        if scheme == Listener::Admin {
            running.admin.get_or_insert(bound);
            let listener = TcpListener::from_std(socket)?;
            running.tenders.spawn(admin::serve(gateway, listener, running.stop_admin.clone()));
            continue;
        }
        let tls = scheme == Listener::Https;
        let door = Door {
            proxied: boot.proxies_only(scheme, fixed, bound),
            tls: if tls { server.cloned() } else { None },
            places: Arc::clone(&places),
            addresses: Arc::clone(&addresses),
            drain: running.drain.clone(),
            connections: running.connections.clone(),
        };
        anyhow::ensure!(!tls || door.tls.is_some(), "[listen] https needs certificates under [tls]");
        for (here, runtime) in running.workers.each() {
            let (gateway, door) = (Arc::clone(&gateway), door.clone());
            let _entered = runtime.enter();
            let listener = TcpListener::from_std(socket.try_clone()?)?;
            running.connections.spawn(accept::accept(gateway, listener, door, here));
        }
        let first = if tls { &mut running.https } else { &mut running.http };
        first.get_or_insert(bound);
    }
    gateway.watch(&gateway.live());
    running.tenders.spawn(follow_feed(Arc::clone(&gateway), head, running.stop.clone()));
    running.tenders.spawn(tend(Arc::clone(&gateway), Arc::clone(&running.reloader.expiries), running.stop.clone()));
    running.tenders.spawn(postman::run(Arc::clone(&gateway), running.stop.clone()));
    running.tenders.spawn(sweep(Arc::clone(&gateway), running.stop.clone()));
    running.tenders.spawn(manager::watchdog(running.stop.clone()));
    Ok(running)
}

/// Learns what other processes changed. While the store does not answer, cached facts grow stale and `max_stale`
/// decides how long they still count.
async fn follow_feed(gateway: Arc<Gateway>, mut seen: i64, stop: CancellationToken) {
    let mut failing = false;
    let mut more = false;
    loop {
        // After a full batch there is more to hear, and a second to have heard it all in.
        let pause = if std::mem::take(&mut more) { Duration::ZERO } else { FEED_EVERY };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        // The time before the question: what is committed later is in the next answer.
        let asked = gateway.clock.now();
        match gateway.store.changes_since(seen, FEED_BATCH).await {
            Ok(changes) => {
                let whole = changes.len() < FEED_BATCH as usize;
                for (seq, change) in changes {
                    gateway.epochs.bump(&change);
                    gateway.metrics.revocations.changed(ChangeSource::Feed, 1);
                    seen = seq;
                }
                more = !whole;
                if whole {
                    gateway.epochs.heard(asked.steady);
                }
                gateway.metrics.store.up.set(1);
                if std::mem::take(&mut failing) {
                    tracing::info!("the change feed is heard again");
                }
            }
            Err(StoreError::FeedBroken { since, head }) => {
                // Changes were missed (a database restored from a backup, a node cut off for days): nothing that is
                // cached can be believed, and the feed goes on from where it is.
                tracing::warn!(since, head, "the change feed has a gap: everything cached is forgotten");
                gateway.epochs.forget_everything();
                seen = head;
            }
            Err(error) => {
                gateway.metrics.store.up.set(0);
                gateway.metrics.revocations.feed_failures.inc();
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "the change feed cannot be read: cached facts count until [cache] max_stale");
                }
            }
        }
    }
}

/// Forgets idle windows, a little at a time.
async fn sweep(gateway: Arc<Gateway>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        gateway.limiter.sweep(gateway.clock.now());
    }
}

/// Small chores: uses of keys, what is past, what is about to be.
async fn tend(gateway: Arc<Gateway>, expiries: Arc<Expiries>, stop: CancellationToken) {
    let mut purged = gateway.clock.now().steady;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TEND_EVERY) => {}
        }
        expiries.look();
        let now = gateway.clock.now();
        if let Err(error) = gateway.authenticator.flush_last_used().await {
            tracing::warn!(%error, "uses of API keys could not be written down; they are kept for the next try");
        }
        if now.steady.since(purged) >= PURGE_EVERY {
            purged = now.steady;
            if let Err(error) = gateway.store.purge(now.wall.minus(PURGE_AFTER)).await {
                tracing::warn!(%error, "what is past could not be deleted");
            }
        }
    }
}

impl Running {
    /// Puts a configuration in force that was read again, or keeps the one there is and says why.
    pub fn take(&self, read: Result<Loaded, Vec<Located>>) {
        self.reloader.take(read);
    }

    /// Says no to readiness, goes on for the drain delay, stops accepting, lets requests under way finish (up to the
    /// drain timeout), writes down what is only in memory, and closes the store.
    pub async fn drain(self) {
        self.gateway.start_draining();
        let delay = self.reloader.boot.drain.delay;
        self.drain_after(delay).await;
    }

    async fn drain_after(mut self, delay: Duration) {
        let drain = self.reloader.boot.drain;
        tracing::info!("draining");
        tokio::time::sleep(delay).await;
        // Before accepting ends: a socket that is open somewhere goes on taking connections in, for nobody.
        self.sockets.clear();
        self.drain.begin();
        self.connections.close();
        self.gateway.tunnels.close();
        let finished = async {
            self.connections.wait().await;
            self.gateway.tunnels.wait().await;
        };
        if tokio::time::timeout(drain.timeout, finished).await.is_err() {
            let (connections, tunnels) = (self.connections.len(), self.gateway.tunnels.len());
            tracing::warn!(connections, tunnels, "still open at the drain timeout");
        }
        // What is still open is told to end, and given a moment to.
        self.gateway.hang_up.cancel();
        let ended = async {
            self.gateway.tunnels.wait().await;
            self.connections.wait().await;
        };
        let _ = tokio::time::timeout(FAREWELL, ended).await;
        self.gateway.errands.tasks.close();
        let _late = tokio::time::timeout(FAREWELL, self.gateway.errands.tasks.wait()).await;
        self.stop.cancel();
        let _late = tokio::time::timeout(FAREWELL, self.gateway.pools.stop_watching()).await;
        self.tenders.close();
        if tokio::time::timeout(CHORES, self.tenders.wait()).await.is_err() {
            // A mail that is not settled is tried again by whoever opens the store next.
            tracing::warn!("chores under way did not end in time and are left behind");
        }
        if let Err(error) = self.gateway.authenticator.flush_last_used().await {
            tracing::warn!(%error, "the last uses of API keys could not be written down");
        }
        self.gateway.store.close().await;
    }
}
